package e2e_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"novu-slack-redirect/novuclient/novutest"
)

// Every Novu that is in use, and both places that it keeps webhooks in. A firewall in
// front of it refuses Go's own User-Agent, as some do.
func TestEveryNovu(t *testing.T) {
	t.Parallel()
	for _, g := range novutest.Generations {
		for _, saveAs := range []string{"credentials", "endpoint"} {
			t.Run(g.String()+" "+saveAs, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, "NOVU_SAVE_AS="+saveAs)
				w.novu.SetGeneration(g)
				w.novu.BreakAll(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
					if !strings.HasPrefix(r.UserAgent(), "novu-slack-redirect/") {
						to.WriteHeader(http.StatusForbidden)
						fmt.Fprint(to, "<html>firewall")
						return
					}
					next.ServeHTTP(to, r)
				})
				program, person := start(t, w.env...), w.person(t)
				check := func(exit int, want string, args ...string) {
					t.Helper()
					got, stdout, _ := runCommand(t, w.env, append([]string{"check"}, args...)...)
					if got != exit || !strings.Contains(stdout, want) {
						t.Errorf("check %q: got exit code %d, want %d and %q: %s", args, got, exit, want, stdout)
					}
				}
				if saveAs == "endpoint" && g < novutest.V3_15Flag {
					if a, err := person.unlessSlow(program, w.linkTo("ada"), isRefused); err != nil || a.status != http.StatusServiceUnavailable {
						t.Errorf("at install: got %+v, %v, want 503 and nobody sent to Slack", a, err)
					}
					waitFor(t, "the log has the cause and the remedy", func() bool {
						return strings.Contains(program.text(), "no_channel_endpoints") && strings.Contains(program.text(), "update it, or set NOVU_SAVE_AS=credentials")
					})
					check(exitFailed, "this Novu has no channel endpoints: update it, or set NOVU_SAVE_AS=credentials")
					return
				}
				messages := func(subscriber string, nth ...int) {
					t.Helper()
					var want []string
					for _, n := range nth {
						want = append(want, w.slack.Webhooks()[n])
					}
					if got := w.novu.Messages(subscriber); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
						t.Errorf("%s: a message goes to %v, want %v", subscriber, got, want)
					}
				}
				check(exitFailed, "correct the ID; if it is right, the service creates the subscriber when it connects", "--subscriber", "user+1@example.com/ä")
				for n := range 2 { // unknown to Novu, then known
					person.wantConnect(program, w.linkTo("user+1@example.com/ä"), textConnected)
					messages("user+1@example.com/ä", n)
				}
				check(exitOK, "ok    subscriber", "--subscriber", "user+1@example.com/ä")

				// A customer who has used Novu's own Shareable URL.
				w.novu.ShareableURL("eve", "slack-main", w.slack.Webhooks()[0])
				person.wantConnect(program, w.linkTo("eve"), textConnected)
				stored := "credentials"
				if g == novutest.V3_15Flag || g >= novutest.V3_17 {
					stored = "endpoint"
				}
				const doubled = "Novu sends this subscriber's messages to other channels"
				if stored == saveAs {
					messages("eve", 2)
					check(exitOK, "ok    subscriber", "--subscriber", "eve")
				} else {
					messages("eve", 0, 2)
					waitFor(t, "the log warns", func() bool { return strings.Contains(program.text(), doubled) })
					check(exitOK, "every message arrives in both: remove ", "--subscriber", "eve")
				}
				program.stop()
				if got := strings.Count(program.text(), doubled); got != 0 && stored == saveAs {
					t.Errorf("got %d warnings for a subscriber with one channel: %s", got, program.text())
				}
			})
		}
	}
}

// A proxy on the way out that wants a password is named, and nothing else is blamed.
func TestProxyThatRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		to.Header().Set("Proxy-Authenticate", "Basic")
		to.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(proxy.Close)
	env := append(w.env, "HTTPS_PROXY="+proxy.URL, "HTTP_PROXY="+proxy.URL)
	for url, want := range map[string]string{
		"https://novu.example.com": "the proxy of HTTPS_PROXY refused the connection (HTTP 407): it wants a user and a password",
		"http://novu.example.com":  "not_novu (HTTP 407): a proxy wants a user and a password",
	} {
		exit, stdout, _ := runCommand(t, append(env, "NOVU_API_URL="+url), "check")
		if exit != exitFailed || !strings.Contains(stdout, want) || strings.Contains(stdout, "bad_api_key") {
			t.Errorf("%s: got exit code %d, want %q: %s", url, exit, want, stdout)
		}
	}
}
