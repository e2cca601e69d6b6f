package handler_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
)

// What proxies write into X-Forwarded-For: with ports, brackets and empty elements it
// still gives the person's address.
func TestForwardedForAsProxiesWriteIt(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		c.TrustedProxies = []*net.IPNet{cidr(t, "127.0.0.0/8"), cidr(t, "10.0.0.0/8"), cidr(t, "2001:db8:ffff::/48")}
	})
	n := 0
	for forwarded, want := range map[string]string{
		"203.0.113.7":                          "203.0.113.7",
		"203.0.113.7:5678":                     "203.0.113.7", // Azure Application Gateway
		"2001:db8::1":                          "2001:db8::1",
		"[2001:db8::1]":                        "2001:db8::1",
		"[2001:db8::1]:1234":                   "2001:db8::1",
		"203.0.113.7:5678, 10.0.0.9:443":       "203.0.113.7",
		"[2001:db8::1]:1234,10.0.0.9":          "2001:db8::1",
		"203.0.113.7, [2001:db8:ffff::9]:80":   "203.0.113.7",
		"198.51.100.1:1, 203.0.113.7:5678":     "203.0.113.7", // what the client itself wrote is not believed
		"10.0.0.1, 203.0.113.7:5678, 10.0.0.9": "203.0.113.7",
		"203.0.113.7:5678,":                    "203.0.113.7",
		", 203.0.113.7":                        "203.0.113.7",
		"unknown, 203.0.113.7:5678":            "203.0.113.7",
		"203.0.113.7, unknown":                 "127.0.0.1",
		"203.0.113.7:5678:9":                   "127.0.0.1",
		"":                                     "127.0.0.1",
	} {
		n++
		id := fmt.Sprintf("forwarded-%d", n)
		w.browser().get("/slack/install", "X-Forwarded-For", forwarded, "X-Request-ID", id)
		if line := w.logLine(id); !strings.Contains(line, `"client":"`+want+`"`) {
			t.Errorf("X-Forwarded-For %q: got %s, want client %s", forwarded, line, want)
		}
	}
}

// logLine returns the line of the log with a request ID.
func (w *world) logLine(id string) string {
	for line := range strings.Lines(w.logs.String()) {
		if strings.Contains(line, `"request_id":"`+id+`"`) {
			return line
		}
	}
	return ""
}

// onPublicOrigin makes a world whose REDIRECT_URL is the address of a proxy in front.
// The service sees another Host than browsers do, if change rewrites it.
func onPublicOrigin(t *testing.T, change func(*httputil.ProxyRequest), more func(*handler.Config)) *world {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(_ *world, c *handler.Config) {
		c.RedirectURL.Host = listener.Addr().String()
		more(c)
	})
	target := &url.URL{Scheme: "http", Host: w.server.Listener.Addr().String()}
	front := &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		change(r)
	}}}
	go front.Serve(listener)
	t.Cleanup(func() { front.Close() })
	return w
}

// A link that is opened on another host name is led to the right one before the cookie is
// set, once, and ends connected.
func TestLinkOnAnotherHost(t *testing.T) {
	t.Parallel()
	for _, page := range []bool{false, true} {
		t.Run(fmt.Sprintf("install page %t", page), func(t *testing.T) {
			w := newWorld(t, func(_ *world, c *handler.Config) { c.InstallPage = page })
			_, port, _ := net.SplitHostPort(w.server.Listener.Addr().String())
			for name, link := range map[string]string{
				"signed": w.link("ada"), "Novu-style": w.novuStyle("ada"), "escaped": w.origin + "/v1/subscribers/a%2Fd%20a/credentials/slack/oauth?hmacHash=" + w.hmac("a/d a"),
			} {
				b := w.browser()
				p := b.get(strings.Replace(link, "127.0.0.1:"+port, "localhost:"+port, 1))
				if want := link + "&moved=1"; p.status != http.StatusFound || p.location != want || p.header.Get("Set-Cookie") != "" {
					t.Fatalf("%s: got %d to %s with cookie %q, want 302 to %s and no cookie", name, p.status, p.location, p.header.Get("Set-Cookie"), want)
				}
				// The address bar has this one now: it is as good as the first.
				if page {
					b.get(p.location).want(t, http.StatusOK, "Add to Slack")
					begun := b.do(b.request(http.MethodPost, p.location, "Sec-Fetch-Site", "same-origin"))
					b.land(b.approve(begun.location)).want(t, http.StatusOK, isConnected)
				} else {
					b.land(b.approve(b.begin(p.location))).want(t, http.StatusOK, isConnected)
				}
			}
			// A form keeps its method on the way.
			if page {
				p := w.browser().do(w.browser().request(http.MethodPost, strings.Replace(w.link("ada"), "127.0.0.1", "localhost", 1)))
				if p.status != http.StatusTemporaryRedirect || !strings.HasPrefix(p.location, w.origin+"/slack/install?token=") {
					t.Errorf("POST: got %d to %s, want 307 to the public origin", p.status, p.location)
				}
			}
		})
	}
}

// A proxy that rewrites Host does not make a link go round in circles, and one that says
// so in X-Forwarded-Host costs no detour.
func TestProxyThatRewritesHost(t *testing.T) {
	t.Parallel()
	internal := func(r *httputil.ProxyRequest) { r.Out.Host = "backend.internal:8080" }
	for name, c := range map[string]struct {
		change    func(*httputil.ProxyRequest)
		redirects int
	}{
		"without a word":        {internal, 1},
		"with X-Forwarded-Host": {func(r *httputil.ProxyRequest) { internal(r); r.SetXForwarded() }, 0},
		"with a list of hosts": {func(r *httputil.ProxyRequest) {
			internal(r)
			r.Out.Header.Set("X-Forwarded-Host", r.In.Host+", cdn.internal")
		}, 0},
		"with another host, wrongly": {func(r *httputil.ProxyRequest) {
			r.Out.Host = r.In.Host
			r.Out.Header.Set("X-Forwarded-Host", "cdn.internal")
		}, 1},
		"not at all":                  {func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host }, 0},
		"to one in upper case":        {func(r *httputil.ProxyRequest) { r.Out.Header.Set("X-Forwarded-Host", strings.ToUpper(r.In.Host)) }, 0},
		"to one with too many colons": {func(r *httputil.ProxyRequest) { r.Out.Host = "a:b:c" }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := onPublicOrigin(t, c.change, func(c *handler.Config) {})
			b := w.browser()
			target, redirects := w.link("ada"), 0
			for ; redirects < 5; redirects++ {
				p := b.get(target)
				if target = p.location; !strings.HasPrefix(p.location, w.origin) {
					break
				}
			}
			if redirects != c.redirects {
				t.Errorf("got %d redirects before Slack, want %d; the last to %s", redirects, c.redirects, target)
			}
			p := b.land(b.cancel(target))
			again := startAgain(t, p) // its flow begins behind the same proxy
			p = b.get(again)
			if strings.HasPrefix(p.location, w.origin) {
				p = b.get(p.location)
			}
			b.land(b.approve(p.location)).want(t, http.StatusOK, isConnected)
		})
	}
}

// What proxies do to a path leads nowhere else than the path itself.
func TestPathsAsProxiesChangeThem(t *testing.T) {
	t.Parallel()
	for _, callback := range []string{"/slack/callback", "/slack/callback/", "/a~b/c.d"} {
		t.Run(callback, func(t *testing.T) {
			w := newWorld(t, func(_ *world, c *handler.Config) { c.RedirectURL.Path = callback })
			query := func(target string) string { _, q, _ := strings.Cut(target, "?"); return "?" + q }
			shareable := "?hmacHash=" + w.hmac("a/d%a")
			for _, install := range []string{
				"/slack/install", "/slack/install/", "//slack/install", "/slack//install", "///slack///install//", "/slack/%69nstall", "/%73lack/install", "/slack/./install", "/x/../slack/install",
				"/v1/subscribers/a%2Fd%25a/credentials/slack/oauth", "/v1/subscribers/a%2fd%25a/credentials/slack/oauth/", "//v1/subscribers/%61%2Fd%25%61/credentials//slack/oauth",
			} {
				subscriber, target := "ada", install+query(w.link("ada"))
				if strings.Contains(install, "/v1/") {
					subscriber, target = "a/d%a", install+shareable
				}
				b := w.browser()
				p := b.get(w.origin + target)
				if !strings.HasPrefix(p.location, w.slackURL.String()) {
					t.Errorf("%s: got %d to %q, want the way to Slack: %s", install, p.status, p.location, p.body)
					continue
				}
				b.land(b.approve(p.location)).want(t, http.StatusOK, isConnected)
				w.wantWebhook(subscriber, len(w.slack.Webhooks())-1)
			}
			plain := strings.TrimRight(callback, "/")
			for _, changed := range []string{plain + "/", "/" + plain, strings.Replace(plain, "c", "%63", 1), strings.ReplaceAll(plain, "/", "//"), plain} {
				b := w.browser()
				b.land(w.origin+changed+query(b.approve(b.begin(w.link("ada"))))).want(t, http.StatusOK, isConnected)
			}
			b := w.browser()
			to := b.get(b.approve(b.begin(w.link("ada")))).location
			b.get(w.origin+strings.Replace(to, "/slack/result", "//slack/result/", 1)).want(t, http.StatusOK, isConnected)
			b.get("//slack/assets/style.css").want(t, http.StatusOK)
		})
	}
}

// A path without its prefix, or with another one, is no path of ours: the person and the
// operator read what it is, and nothing begins.
func TestPathsWithoutTheirPrefix(t *testing.T) {
	w := newWorld(t)
	_, query, _ := strings.Cut(w.link("ada"), "?")
	for n, path := range []string{"/install", "/app/slack/install", "/slack%2Finstall", "/slack/install/install/", "/callback", "/app/slack/callback", "/credentials/slack/oauth"} {
		id := fmt.Sprintf("prefix-%02d", n)
		p := w.browser().get(path+"?"+query, "X-Request-ID", id)
		p.wantCode(t, http.StatusNotFound, "not_found")
		p.want(t, http.StatusNotFound, "This address isn’t quite right", "send Example Inc. the reference below")
		if line := w.logLine(id); !strings.Contains(line, `"remedy":"if the path ends as one of this service's`) || strings.Contains(line, `"level":"error"`) {
			t.Errorf("%s: the log says %s, want the remedy and no alarm", path, line)
		}
	}
	for _, path := range []string{"/nothing", "/slack", "/slack/installs", "/wp-login.php"} {
		p := w.browser().get(path)
		p.want(t, http.StatusNotFound, "There is nothing here")
	}
	if got := w.backend.touched(); got != 0 {
		t.Errorf("got %d store calls, want none", got)
	}
}

// A signed return URL is used byte for byte, with the outcome added: in the redirect, and
// in the page's link.
func TestSignedReturnURLsArriveIntact(t *testing.T) {
	w := newWorld(t)
	for _, back := range []string{
		"https://app.example.com//a//b/", "https://app.example.com/a%25b/%2525", "https://app.example.com/go/https%3A%2F%2Fother.example%2Fx", "https://app.example.com/go/https://other.example/x",
		"https://my_app.example.com/x_y", "https://app.example.com/a/../b/./c;d=e", "https://app.example.com/%2e%2e/x%2Fy%5C", "https://app.example.com/a?u=https%3A%2F%2Fx%2F%3Fa%3Db%26c&_=%25#/r//%25_",
	} {
		base, fragment, hasFragment := strings.Cut(back, "#")
		separator := map[bool]string{false: "?", true: "&"}[strings.Contains(base, "?")]
		with := func(outcome string) string {
			if hasFragment {
				return base + separator + outcome + "#" + fragment
			}
			return base + separator + outcome
		}
		b := w.browser()
		authorize := b.begin(w.link("ada", returnTo(back)))
		if got, want := b.get(b.cancel(authorize)).location, with("slack=error&reason=access_denied"); got != want {
			t.Errorf("cancelled: got Location %s, want %s", got, want)
		}
		if got, want := b.getOutcome(b.approve(authorize)).location, with("slack=connected&channel=%23alerts&team=Acme"); got != want {
			t.Errorf("connected: got Location %s, want %s", got, want)
		}
		p := b.land(b.approve(b.begin(w.link("ada", func(r *link.Request) { r.ReturnURL, r.Popup = back, true }))))
		if want := strings.ReplaceAll(with("slack=connected&channel=%23alerts&team=Acme&slack_popup=1"), "&", "&amp;"); !strings.Contains(p.body, `href="`+want+`"`) {
			t.Errorf("the page does not lead back to %s: %s", want, p.body)
		}
	}
}
