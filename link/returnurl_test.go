package link_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"novu-slack-redirect/link"
)

// returnURLTricks must not be followed with https://app.example.com/settings and
// http://localhost:3000 allowed.
var returnURLTricks = []string{
	"http://app.example.com/settings", "//app.example.com/settings", "/settings", "settings", "app.example.com/settings",
	"javascript:alert(1)", "JavaScript://app.example.com/settings%0aalert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://app.example.com/settings",
	"https:app.example.com/settings", "https:/app.example.com/settings", "https:///app.example.com/settings", "https:\\\\app.example.com\\settings",
	"https://app.example.com.evil.example/settings", "https://app.example.comevil.example/settings", "https://evil.example/https://app.example.com/settings",
	"https://app.example.com@evil.example/settings", "https://app.example.com:pw@evil.example/settings", "https://user@app.example.com/settings", "https://@app.example.com/settings",
	"https://evil.example\\@app.example.com/settings", "https://evil.example%5c@app.example.com/settings", "https://evil.example#@app.example.com/settings", "https://evil.example?@app.example.com/settings",
	"https://evil.example%2eapp.example.com/settings", "https://evil.example%00.app.example.com/settings", "https://app.example.com%2f@evil.example/settings",
	"https://app.example.com:8443/settings", "https://app.example.com:/settings", "https://app.example.com:0443/settings", "https://app.example.com:443x/settings", "https://app.example.com:99999/settings",
	"https://app.example.com/settingsevil", "https://app.example.com/", "https://app.example.com", "https://app.example.com/Settings",
	"https://app.example.com/settings/../admin", "https://app.example.com/settings/..", "https://app.example.com/settings/%2e%2e/admin", "https://app.example.com/settings/%252e%252e/admin", "https://app.example.com/settings/%25252e%25252e/admin",
	"https://app.example.com/settings/./x", "https://app.example.com/settings/%25zz/%252e%252e/admin", "https://app.example.com/settings/..;/admin", "https://app.example.com/settings/..%3b/admin", "https://app.example.com/settings/%2e%2e;x=1/admin", "https://app.example.com/settings/..%2fadmin", "https://app.example.com/settings/..%5cadmin", "https://app.example.com/settings%2f..%2fadmin",
	"https://app.example.com//settings", "https://app.example.com/settings//evil.example", "https://app.example.com/settings/%5c%5cevil.example", "https://app.example.com/settings/%2f%2fevil.example",
	"https://app.example.com/settings\nx", "https://app.example.com/settings\r\nLocation: https://evil.example", "https://app.example.com/settings%0d%0aLocation:x", "https://app.example.com/settings\tx", "https://app.example.com/settings\x00", "https://app.example.com/settings%00", "https://app.example.com/settings x", " https://app.example.com/settings", "\x01https://app.example.com/settings",
	"https://аpp.example.com/settings", "https://app.exampIe.com/settings", "https://app。example.com/settings", "https://app.example。com/settings", "https://app.example.com\u2025/settings", "https://app.example.com/settings/\u202e", "https://ａpp.example.com/settings",
	"https://app.example.com./settings", "https://.app.example.com/settings", "https://app..example.com/settings", "https://[app.example.com]/settings", "https://[::1%25eth0]/settings",
	"https://%E2%84%AA.example.com/settings", "https://[1.2.3.4]/settings", "https://::1/settings", "https://::1:443/settings", "https://app.example.com:443:443/settings",
	"http://localhost:3001/x", "http://localhost/x", "http://localhost.evil.example:3000/x", "http://127.0.0.1.evil.example:3000/", "http://2130706433:3000/", "http://0x7f.1:3000/", "http://[::ffff:127.0.0.1]:3000/", "http://0:3000/", "https://localhost:3000/x",
	"ftp://app.example.com/settings", "wss://app.example.com/settings", "HTTPS:app.example.com/settings",
	"https://app.example.com/settings" + strings.Repeat("/x", 1100),
}

func TestOpenRedirectTricksAreRefused(t *testing.T) {
	v := newVerifier()
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}, {Scheme: "http", Host: "localhost:3000"}}
	for _, trick := range returnURLTricks {
		if r, err := verify(t, v, novuStyle("ada", "returnUrl", trick)); !errors.Is(err, link.ErrReturnURL) || strings.Contains(err.Error(), "evil") {
			t.Errorf("%q: got %+v, %v, want ErrReturnURL that does not quote it", trick, r, err)
		}
	}
	for _, good := range []string{
		"https://app.example.com/settings", "https://app.example.com:443/settings/", "https://APP.example.com/settings/a/b?c=%2e%2e#d",
		"http://localhost:3000", "http://localhost:3000/x", "http://LOCALHOST:3000/",
	} {
		if r, err := verify(t, v, novuStyle("ada", "returnUrl", good)); err != nil || r.ReturnURL != good {
			t.Errorf("%q: got %q, %v", good, r.ReturnURL, err)
		}
	}
	v.ReturnURLs = nil
	if _, err := verify(t, v, novuStyle("ada", "returnUrl", "https://app.example.com/settings")); !errors.Is(err, link.ErrReturnURL) {
		t.Errorf("without a list: got %v, want ErrReturnURL", err)
	}
	// A signature is trusted as to where, not as to what a URL is.
	for _, trick := range []string{
		"https://%E2%84%AA.example.com/", "https://app..example.com/", "https://.app.example.com/", "https://./", "https:///", "https://[1.2.3.4]/", "https://[app.example.com]/", "https://::1/", "https://::1:443/", "https://a:1:443/", "https://[::1%25eth0]/", "https:app.example.com/", "https://@app.example.com/",
		"https://app.example.com:0443/", "https://app.example.com:0/", "https://app.example.com:/", "https://app.example.com:65536/", "https://app.example.com./", "https://1.2.3.256/", "https://a.0x1/", "https://a.0X/", "https://1.2.3/", "https://256/", "https://0x7f.0.0.1/",
		"http://app.example.com/", "javascript:alert(1)", "//evil.example", "https://a@evil.example/", "https://evil.example\\x", "https://evil.example/\x00",
	} {
		if r, err := verify(t, v, sign(t, v, link.Request{Subscriber: "ada", ReturnURL: trick})); !errors.Is(err, link.ErrReturnURL) {
			t.Errorf("%q: got %+v, %v, want ErrReturnURL", trick, r, err)
		}
	}
	for _, good := range []string{"https://elsewhere.example.org/x", "https://1.2.3.4/", "https://[2001:db8::1]:8443/x", "https://a.0xg/", "https://xn--bcher-kva.example/", "http://127.8.9.1/", "http://[::1]:1/",
		"https://a_b.example/", "https://-a.example/", "https://app.example.com//x//", "https://app.example.com/50%25", "https://app.example.com/%252e%252e/x", "https://app.example.com/r/https%3A%2F%2Fb.example%2Fc", "https://app.example.com/r/https://b.example/c",
		"https://app.example.com/%ff", "https://app.example.com/a/../b", "https://app.example.com/?next=https://b.example"} {
		if r, err := verify(t, v, sign(t, v, link.Request{Subscriber: "ada", ReturnURL: good})); err != nil || r.ReturnURL != good {
			t.Errorf("%q: got %q, %v", good, r.ReturnURL, err)
		}
	}
}

func TestOrigin(t *testing.T) {
	for raw, want := range map[string]string{
		"https://App.Example.com/x?y#z": "https://app.example.com", "https://a:443/": "https://a", "http://a:80": "http://a", "http://a:443/": "http://a:443", "https://a:8443": "https://a:8443",
		"http://[::1]:3000/x": "http://[::1]:3000", "https://[2001:DB8::1]/": "https://[2001:db8::1]",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := link.Origin(u); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

func TestAddQuery(t *testing.T) {
	const connected = "slack=connected&channel=%23alerts"
	for raw, want := range map[string]string{
		"https://app.example.com/?team=eu&slack=connected&channel=x&team=Acme": "https://app.example.com/?team=eu&slack=connected&channel=%23alerts", // the first one is the app's
		"https://app.example.com":                 "https://app.example.com?" + connected,
		"https://app.example.com/?":               "https://app.example.com/?" + connected,
		"https://app.example.com/a?b=c%20d&e#/f?": "https://app.example.com/a?b=c%20d&e&" + connected + "#/f?",
		"https://app.example.com/a#":              "https://app.example.com/a?" + connected + "#",

		// The app's own parameters stay, an earlier outcome goes.
		"https://app.example.com/?team=42&channel=web&reason=x&id=1":                                                "https://app.example.com/?team=42&channel=web&reason=x&id=1&" + connected,
		"https://app.example.com/?slack=connected&channel=%23old&b=c&team=Old&slack_result=e.y.J&slack_popup=1&%zz": "https://app.example.com/?b=c&%zz&" + connected,
		"https://app.example.com/?sl%61ck=error&reason=x&b=c":                                                       "https://app.example.com/?b=c&" + connected,
	} {
		if got := link.AddQuery(raw, "slack", "connected", "channel", "#alerts"); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}
