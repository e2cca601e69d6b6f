package handler_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// disconnectLink returns a link to disconnect a subscriber.
func (w *world) disconnectLink(subscriber string, changes ...func(*link.Request)) string {
	return w.link(subscriber, append(changes, func(r *link.Request) { r.Action = link.Disconnect })...)
}

func (w *world) wantMessages(subscriber string, want int) {
	w.t.Helper()
	if got := w.novu.Messages(subscriber); len(got) != want {
		w.t.Errorf("a message for %s goes to %v, want %d channels", subscriber, got, want)
	}
}

// post sends the form of the page at target.
func (b *browser) post(target string, headers ...string) page {
	return b.do(b.request(http.MethodPost, target, headers...))
}

func TestDisconnect(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.connect("ada").want(t, http.StatusOK, isConnected)
	target := w.disconnectLink("ada")
	for range 2 { // the page asks, and changes nothing
		b.get(target).want(t, http.StatusOK, "Disconnect Slack from", `method="post"`, "stays installed in your Slack workspace", "choose Manage")
		w.wantMessages("ada", 1)
	}
	for range 2 { // a second click says the same
		p := b.post(target)
		if p.status != http.StatusSeeOther || !strings.HasPrefix(p.location, "/slack/result?flow=") {
			t.Fatalf("got %d to %s", p.status, p.location)
		}
		b.get(p.location).want(t, http.StatusOK, "Slack is disconnected", "stays installed in your Slack workspace")
		b.get(p.location).want(t, http.StatusOK, "Slack is disconnected")
		w.wantMessages("ada", 0)
	}
	b.connect("ada").want(t, http.StatusOK, isConnected)
	w.wantMessages("ada", 1)
	w.wantWaiting(0)

	to := b.post(w.disconnectLink("ada", returnTo("https://app.example.com/x?y"))).location
	if !strings.HasPrefix(to, "https://app.example.com/x?y&slack=disconnected") {
		t.Errorf("got %s", to)
	}
}

// A backend sends the form without a browser.
func TestDisconnectByAProgram(t *testing.T) {
	w := newWorld(t)
	w.browser().connect("ada")
	send := func(target string, status int) map[string]string {
		t.Helper()
		p := w.browser().post(target, "Accept", "application/json")
		var got map[string]string
		if err := json.Unmarshal([]byte(p.body), &got); err != nil || p.status != status {
			t.Fatalf("got %d %s, want %d", p.status, p.body, status)
		}
		return got
	}
	got := send(w.disconnectLink("ada"), http.StatusOK)
	if _, signed := got["slack_result"]; got["outcome"] != "disconnected" || got["flow"] == "" || signed {
		t.Errorf("got %v", got)
	}
	got = send(w.disconnectLink("ada", returnTo("https://app.example.com/")), http.StatusOK)
	if claims := w.claimsOf(got["slack_result"]); claims["outcome"] != "disconnected" || claims["jti"] != got["flow"] {
		t.Errorf("got %v, signed %v", got, claims)
	}
	w.wantMessages("ada", 0)
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	if got := send(w.disconnectLink("ada"), http.StatusAccepted); got["outcome"] != "pending" {
		t.Errorf("got %v", got)
	}
	if got := send(strings.Replace(w.link("ada"), "/install?", "/disconnect?", 1), http.StatusForbidden); got["error"] != "link_invalid" {
		t.Errorf("an install link: got %v", got)
	}
	if got := send("/slack/disconnect?token=x", http.StatusForbidden); got["error"] != "link_invalid" {
		t.Errorf("got %v", got)
	}
}

// What Novu does not hear at once, it hears later; the person reads that.
func TestDisconnectWhileNovuIsDown(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.connect("ada")
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	p := b.post(w.disconnectLink("ada"))
	b.get(p.location).want(t, http.StatusOK, "Slack will be disconnected from")
	w.wantMessages("ada", 1)
	w.novu.BreakAll(nil)
	w.pass(time.Minute)
	w.work()
	eventually(t, "it goes through", func() bool { return w.waiting() == 0 })
	w.wantMessages("ada", 0)
	b.get(p.location).want(t, http.StatusOK, "Slack is disconnected")
}

func TestAttacksOnDisconnect(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Now = func() time.Time { return now } })
	b := w.browser()
	b.connect("ada")
	good := w.disconnectLink("ada", returnTo("https://app.example.com/"))
	before := len(w.novuWrites())
	for name, headers := range map[string][]string{
		"a foreign site's form":                   {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"a neighbour's form":                      {"Sec-Fetch-Site", "same-site", "Origin", "https://x.example.com"},
		"a foreign form without Sec-Fetch-Site":   {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"a sandboxed form without Sec-Fetch-Site": {"Sec-Fetch-Site", "", "Origin", "null"},
	} {
		if p := b.post(good, headers...); p.status != http.StatusOK || !strings.Contains(p.body, "Disconnect Slack from") {
			t.Errorf("%s: got %d, want the page that asks", name, p.status)
		}
	}
	if p := b.do(b.request(http.MethodHead, good)); p.status != http.StatusOK {
		t.Errorf("HEAD: got %d", p.status)
	}
	b.get(w.disconnectLink("ada")+"x").wantCode(t, http.StatusForbidden, "link_invalid")
	b.post(strings.Replace(w.link("ada"), "/install?", "/disconnect?", 1)).wantCode(t, http.StatusForbidden, "link_invalid")
	b.post(strings.Replace(w.novuStyle("ada"), "/install?", "/disconnect?", 1)).wantCode(t, http.StatusForbidden, "link_invalid")
	b.get(w.disconnectLinkAtInstall("ada")).wantCode(t, http.StatusForbidden, "link_invalid")
	now = now.Add(2 * time.Hour)
	b.post(good).wantCode(t, http.StatusGone, "link_expired")
	b.get(good).want(t, http.StatusGone, `href="https://app.example.com/?slack=error`)
	if got := len(w.novuWrites()); got != before {
		t.Errorf("Novu got %d updates, want none", got-before)
	}
	w.wantMessages("ada", 1)
}

// disconnectLinkAtInstall is a link to disconnect, opened as one to connect.
func (w *world) disconnectLinkAtInstall(subscriber string) string {
	return strings.Replace(w.disconnectLink(subscriber), "/disconnect?", "/install?", 1)
}

// A link that names no integration must not clear another one than was connected; one that
// names an integration works although that is not active any more.
func TestDisconnectAndIntegrations(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.land(b.approve(b.begin(w.link("ada", func(r *link.Request) { r.Integration = "slack-main" })))).want(t, http.StatusOK, isConnected)
	two := startWorld(t)
	two.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: true}, novutest.Integration{Identifier: "slack-new", Provider: "slack", Active: true})
	p := two.browser().post(two.disconnectLink("ada"), "Accept", "application/json")
	if p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "novu_no_integration") {
		t.Errorf("several are active, and none is named: got %d %s", p.status, p.body)
	}
	w.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: false})
	p = b.post(w.disconnectLink("ada", func(r *link.Request) { r.Integration = "slack-main" }), "Accept", "application/json")
	if p.status != http.StatusOK || !strings.Contains(p.body, "disconnected") {
		t.Errorf("it is not active any more: got %d %s", p.status, p.body)
	}
	w.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: true})
	w.wantMessages("ada", 0)
}

// What Novu refuses only after the click is told as the outcome of a flow: on the result
// page, to the return URL, and to a program.
func TestDisconnectThatNovuRefusesLate(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Novu = silentAtInstall{} })
	w.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: true}, novutest.Integration{Identifier: "slack-new", Provider: "slack", Active: true})
	b := w.browser()
	p := b.post(w.disconnectLink("ada"))
	b.get(p.location).wantCode(t, http.StatusServiceUnavailable, "novu_no_integration")
	if to := b.post(w.disconnectLink("ada", returnTo("https://app.example.com/x"))).location; to != "https://app.example.com/x?slack=error&reason=novu_no_integration" {
		t.Errorf("got %s", to)
	}
	p = b.post(w.disconnectLink("ada"), "Accept", "application/json")
	if p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, `"error":"novu_no_integration"`) {
		t.Errorf("a program: got %d %s", p.status, p.body)
	}
	wantCount(t, w.config.Metrics, `flows_finished_total{code="novu_no_integration"} 3`)
	w.wantWaiting(0)
}

// Without a store nothing begins, and the person and a program are told.
func TestDisconnectWithoutAStore(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.connect("ada")
	w.backend.down.Store(true)
	b.post(w.disconnectLink("ada")).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	p := b.post(w.disconnectLink("ada"), "Accept", "application/json")
	if p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, `"error":"store_unavailable"`) {
		t.Errorf("a program: got %d %s", p.status, p.body)
	}
	w.wantMessages("ada", 1)
}
