package handler

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

func fuzzLinks() *Links {
	return &Links{
		Origin: "https://slack.example.com", Secrets: []secret.String{secret.New("link-secret")}, APIKeys: []secret.String{secret.New("api-key")}, Contexts: true,
		ReturnURLs: []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}}, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
}

// Whatever stands in a link, nothing passes without a right signature, and what
// passes keeps every promise about a flow.
func FuzzLink(f *testing.F) {
	links := fuzzLinks()
	good, err := links.Sign(state.Flow{Subscriber: "ada", ReturnURL: "https://app.example.com/x", TeamID: "T1", Context: `{"a":1}`}, time.Unix(1_800_003_600, 0))
	if err != nil {
		f.Fatal(err)
	}
	_, query, _ := strings.Cut(good, "?")
	signature := query[strings.LastIndexByte(query, '.')+1:]
	for _, seed := range []string{
		query, query + "&display=popup", query + "x", query + "&token=x", "subscriberId=ada&hmacHash=00", "subscriberId=ada&hmacHash=%zz", "token=a.b.c", "token=eyJhbGciOiJub25lIn0.e30.",
		"subscriberId=ada&hmacHash=1f2e&returnUrl=https://app.example.com/settings",
	} {
		f.Add(seed, "")
		f.Add(seed, "bob")
	}
	f.Fuzz(func(t *testing.T, query, path string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: InstallPath, RawQuery: query}}
		flow, err := links.verify(r, path)
		if err != nil {
			if strings.Contains(err.Error(), "link-secret") || strings.Contains(err.Error(), "api-key") {
				t.Errorf("the error tells a secret: %v", err)
			}
			return
		}
		values, _ := url.ParseQuery(query)
		if !strings.Contains(values.Get("token"), signature) && !values.Has("hmacHash") {
			t.Errorf("%q passes without a signature: %+v", query, flow)
		}
		if CheckSubscriberID(flow.Subscriber) != nil {
			t.Errorf("%q is a subscriber", flow.Subscriber)
		}
		if flow.ReturnURL != "" {
			if _, err := ParseReturnURL(flow.ReturnURL); err != nil {
				t.Errorf("%q is a return URL", flow.ReturnURL)
			}
		}
	})
}

// A callback's query is refused, or is exactly one state of our form with one code
// or one error, and the answer is a page in any case.
func FuzzCallback(f *testing.F) {
	st := state.NewState(time.Unix(1_800_000_000, 0))
	for _, seed := range []string{"code=1.2.3&state=" + st, "error=access_denied&state=" + st, "code=x", "error=access_denied", "code=x&error=y&state=" + st, "code=x&state=" + st + "&state=" + st, "code=%00&state=" + st, "code=%zz", "state=" + st, ";", "code=x&state=../" + st} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		a, err := parseCallback(query)
		if err == nil {
			if _, ok := state.FlowID(a.state); !ok || (a.code == "") == (a.error == "") || len(a.code) > maxCode || strings.ContainsAny(a.code+a.error, "\x00\r\n ") {
				t.Errorf("%q passes as %+v", query, a)
			}
		}
		if strings.ContainsAny(query, " \x00\x7f\r\n\t") {
			return // no server reads such a request line
		}
		w := httptest.NewRecorder()
		fuzzRoutes.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/slack/callback", RawQuery: query}, Header: http.Header{}, RemoteAddr: "192.0.2.1:1"})
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%q: got %d", query, w.Code)
		}
	})
}

var fuzzRoutes = New(Config{RedirectURL: &url.URL{Scheme: "https", Host: "slack.example.com", Path: "/slack/callback"}, Links: fuzzLinks(), StateTTL: 15 * time.Minute})

// What is taken for a return URL is one that Go's parser reads back as the same
// place, with the outcome added in its query alone.
func FuzzReturnURL(f *testing.F) {
	for _, seed := range []string{
		"https://app.example.com/settings?a=b#c", "http://localhost:3000", "https://[2001:db8::1]:8443/x", "https://app.example.com/%2e%2e/x", "https://app.example.com\\@evil.example", "https://a@b/", "https://1.2.3.4/", "https://1.2.3/",
		"https://app.example.com/?slack=connected&team=x", "https://app.example.com/?", "https://app.example.com/#?", "javascript:alert(1)", "//evil.example", "https://app.example.com/;x=1/..;/y",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseReturnURL(raw)
		if err != nil {
			return
		}
		if u.Scheme != "https" && !(u.Scheme == "http" && Loopback(u.Hostname())) || u.User != nil || u.Host == "" || strings.ContainsAny(raw, "\\ \t\r\n\x00") {
			t.Errorf("%q is taken for a return URL", raw)
		}
		to := addQuery(raw, "slack", "error", "reason", "a&b=c#d")
		back, err := url.Parse(to)
		if err != nil || back.Scheme != u.Scheme || back.Host != u.Host || back.EscapedPath() != u.EscapedPath() || back.EscapedFragment() != u.EscapedFragment() {
			t.Errorf("%q becomes %q: %v", raw, to, err)
			return
		}
		if query, err := url.ParseQuery(back.RawQuery); err == nil && (query.Get("slack") != "error" || query.Get("reason") == "" || len(query["slack"]) != 1) {
			t.Errorf("%q becomes %q", raw, to)
		}
	})
}
