package link_test

import (
	"net/url"
	"strings"
	"testing"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
)

// Whatever an install URL says, nothing passes without a right signature, and what
// passes keeps every promise about a request.
func FuzzLink(f *testing.F) {
	v := newVerifier()
	v.Contexts = true
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}}
	query := sign(f, v, link.Request{Subscriber: "ada", ReturnURL: "https://app.example.com/x", TeamID: "T1", Context: novuclient.Context{JSON: `{"tenant":"acme"}`}})
	signature := query[strings.LastIndexByte(query, '.')+1:]
	for _, seed := range []string{
		query, query + "&display=popup", query + "x", query + "&token=x", "subscriberId=ada&hmacHash=00", "subscriberId=ada&hmacHash=%zz", "token=a.b.c", "token=eyJhbGciOiJub25lIn0.e30.",
		"subscriberId=ada&hmacHash=1f2e&returnUrl=https://app.example.com/settings", novuStyle("ada", "returnUrl", "https://app.example.com/settings/x"), "hmacHash=" + hash(apiKey, "bob"),
	} {
		f.Add(seed, "")
		f.Add(seed, "bob")
	}
	f.Fuzz(func(t *testing.T, query, path string) {
		l, err := link.Read(query, path)
		var r link.Request
		if err == nil {
			r, err = v.Verify(l)
		}
		kept, keptErr := v.DecodeVerified(l)
		if err != nil {
			if strings.Contains(err.Error(), "canary") || keptErr != nil && strings.Contains(keptErr.Error(), "canary") {
				t.Errorf("an error tells a secret: %v, %v", err, keptErr)
			}
			return
		}
		if !strings.Contains(l.Token, signature) && l.Hash == "" {
			t.Errorf("%q passes without a signature: %+v", query, r)
		}
		if keptErr != nil || kept != r {
			t.Errorf("%q is kept as %+v, %v, want %+v", query, kept, keptErr, r)
		}
		if link.CheckSubscriberID(r.Subscriber) != nil {
			t.Errorf("%q is a subscriber", r.Subscriber)
		}
		if _, err := link.ParseReturnURL(r.ReturnURL); err != nil {
			t.Errorf("%q is a return URL", r.ReturnURL)
		}
	})
}

// What is taken for a return URL is one that Go's parser reads back as the same
// place, with the outcome added in its query alone.
func FuzzReturnURL(f *testing.F) {
	for _, seed := range []string{
		"https://app.example.com/settings?a=b#c", "http://localhost:3000", "https://[2001:db8::1]:8443/x", "https://app.example.com/%2e%2e/x", "https://app.example.com\\@evil.example", "https://a@b/", "https://1.2.3.4/", "https://1.2.3/",
		"https://app.example.com/?slack=connected&team=x", "https://app.example.com/?", "https://app.example.com/#?", "javascript:alert(1)", "//evil.example", "https://app.example.com/;x=1/..;/y", "https://app.example.com?team",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := link.ParseReturnURL(raw)
		if err != nil {
			return
		}
		if u.Scheme != "https" && !(u.Scheme == "http" && link.IsLoopback(u.Hostname())) || u.User != nil || u.Host == "" || strings.ContainsAny(raw, "\\ \t\r\n\x00") {
			t.Errorf("%q is taken for a return URL", raw)
		}
		to := link.AddQuery(raw, "slack", "error", "reason", "a&b=c#d")
		back, err := url.Parse(to)
		if err != nil || back.Scheme != u.Scheme || back.Host != u.Host || back.EscapedPath() != u.EscapedPath() || back.EscapedFragment() != u.EscapedFragment() {
			t.Errorf("%q becomes %q: %v", raw, to, err)
			return
		}
		if query, err := url.ParseQuery(back.RawQuery); err == nil && (query.Get("slack") != "error" || query.Get("reason") == "" || len(query["slack"]) != 1) {
			t.Errorf("%q becomes %q", raw, to)
		}
		if again := link.AddQuery(to, "slack", "error", "reason", "a&b=c#d"); again != to {
			t.Errorf("%q becomes %q, and then %q", raw, to, again)
		}
	})
}
