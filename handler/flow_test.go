package handler_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

func TestFlowConnects(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, func(w *world, c *handler.Config) { c.RedirectURL.Scheme = scheme })
			b := w.browser()
			p := b.connect("ada")
			p.want(t, http.StatusOK, "Slack is connected", "#alerts", "Acme", "https://t01acme.slack.com/services/B00000001")
			w.wantWebhook("ada", 0)

			slack, novu := w.calls("Slack"), w.calls("Novu")
			if len(slack) != 1 || slack[0].Method+" "+slack[0].Target != "POST /api/oauth.v2.access" {
				t.Errorf("Slack got %+v, want the exchange alone", slack)
			}
			var lines []string
			for _, e := range novu {
				lines = append(lines, e.Method+" "+e.Target)
			}
			if got, want := strings.Join(lines, ", "), "PUT /v1/subscribers/ada/credentials, POST /v1/subscribers, PUT /v1/subscribers/ada/credentials"; got != want {
				t.Errorf("Novu got %s, want %s", got, want)
			}
		})
	}
}

// The flow's result is kept in the round trip that empties the outbox.
func TestFlowCostsTwoStateCalls(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	})
	b := w.browser()
	b.get(b.approve(b.begin(w.link("ada"))))
	if got := w.store.touched(); got != 2 {
		t.Errorf("got %d store calls, want issue and consume", got)
	}
}

func TestReloadAndBackShowTheSameResultAndCallNobody(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	callback := b.approve(authorize)
	first := b.get(callback)
	shown := b.get(first.location)
	calls := len(w.wires.All())

	for range 3 {
		again := b.get(callback) // Back to the callback, or its reload
		if again.status != http.StatusSeeOther || again.location != first.location {
			t.Errorf("callback again: got %d to %q, want 303 to %q", again.status, again.location, first.location)
		}
		b.get(first.location).want(t, shown.status, "Slack is connected", "#alerts")
	}
	// Back to Slack's page and Allow again: Slack makes another code for the old state.
	b.land(b.approve(authorize)).want(t, http.StatusOK, "Slack is connected")
	if got := len(w.wires.All()); got != calls {
		t.Errorf("got %d more calls, want none", got-calls)
	}
	w.wantWebhook("ada", 0)
}

func TestResultURLIsClean(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	u, _ := url.Parse(callback)
	to := b.get(callback).location
	for _, name := range []string{"code", "state"} {
		if strings.Contains(to, u.Query().Get(name)) {
			t.Errorf("the result URL %q shows the %s", to, name)
		}
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	p := b.land(b.cancel(b.begin(w.link("ada"))))
	p.wantCode(t, http.StatusForbidden, "access_denied")
	w.wantNothingOut()

	// Start again leads to a flow that works, for the same subscriber.
	b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, "Slack is connected")
	w.wantWebhook("ada", 0)
}

// startAgain finds the link that a problem's page offers.
func startAgain(t *testing.T, p page) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.body, `class="button" href="`)
	link, label, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 || !strings.HasPrefix(label, ">Start again<") {
		t.Fatalf("the page has no Start again: %s", p.body)
	}
	return strings.ReplaceAll(link, "&amp;", "&")
}

func TestSecondConnectionReplacesTheFirst(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.connect("ada")
	b.connect("ada").want(t, http.StatusOK, "Slack is connected")
	w.wantWebhook("ada", 1)
}

func TestReturnURL(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}}
	})
	signed := func(u string) string {
		return w.link("ada", func(f *state.Flow) { f.ReturnURL = u })
	}
	for _, c := range []struct{ name, link, connected, denied string }{
		{"the first of RETURN_URLS by default", w.link("ada"),
			"https://app.example.com/settings?slack=connected&channel=%23alerts&team=Acme", "https://app.example.com/settings?slack=error&reason=access_denied"},
		{"a signed one as signed", signed("https://elsewhere.example.org/x"),
			"https://elsewhere.example.org/x?slack=connected&channel=%23alerts&team=Acme", "https://elsewhere.example.org/x?slack=error&reason=access_denied"},
		{"query and fragment stay", signed("https://app.example.com/a?b=c%20d&e#/f?g"),
			"https://app.example.com/a?b=c%20d&e&slack=connected&channel=%23alerts&team=Acme#/f?g", "https://app.example.com/a?b=c%20d&e&slack=error&reason=access_denied#/f?g"},
		{"the app's own parameters stay", signed("https://app.example.com/s?team=42&channel=web&reason=x&id=1#"),
			"https://app.example.com/s?team=42&channel=web&reason=x&id=1&slack=connected&channel=%23alerts&team=Acme#", "https://app.example.com/s?team=42&channel=web&reason=x&id=1&slack=error&reason=access_denied#"},
		{"an earlier outcome in disguise goes", signed("https://app.example.com/a?sl%61ck=connected&b=c"),
			"https://app.example.com/a?b=c&slack=connected&channel=%23alerts&team=Acme", "https://app.example.com/a?b=c&slack=error&reason=access_denied"},
		{"an earlier outcome goes", signed("https://app.example.com/a?slack=connected&channel=%23old&b=c&team=Old&reason=x"),
			"https://app.example.com/a?b=c&slack=connected&channel=%23alerts&team=Acme", "https://app.example.com/a?b=c&slack=error&reason=access_denied"},
		{"a Novu-style link's, inside the list", w.novuStyle("ada", "returnUrl", "https://app.example.com/settings/slack?tab=2"),
			"https://app.example.com/settings/slack?tab=2&slack=connected&channel=%23alerts&team=Acme", "https://app.example.com/settings/slack?tab=2&slack=error&reason=access_denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := w.browser()
			if got := b.get(b.approve(b.begin(c.link))); got.status != http.StatusSeeOther || got.location != c.connected {
				t.Errorf("connected: got %d to %s, want 303 to %s", got.status, got.location, c.connected)
			}
			if got := b.get(b.cancel(b.begin(c.link))); got.location != c.denied {
				t.Errorf("cancelled: got %s, want %s", got.location, c.denied)
			}
		})
	}
}

func TestShareableURLPath(t *testing.T) {
	w := newWorld(t)
	const id = "user+1@example.com/ä #?"
	for name, link := range map[string]string{
		"as Novu shows it":   "/v1/subscribers/" + url.PathEscape(id) + "/credentials/slack/oauth?hmacHash=" + w.hmac(id) + "&environmentId=env1&integrationIdentifier=slack-main",
		"every byte escaped": "/v1/subscribers/user%2B1%40example%2Ecom%2F%C3%A4%20%23%3F/credentials/slack/oauth?hmacHash=" + strings.ToUpper(w.hmac(id)),
	} {
		t.Run(name, func(t *testing.T) {
			b := w.browser()
			b.land(b.approve(b.begin(w.origin+link))).want(t, http.StatusOK, "Slack is connected")
		})
	}
	w.wantWebhook(id, 1)
	if p := w.browser().get("/v1/subscribers/other/credentials/slack/oauth?hmacHash=" + w.hmac(id)); p.status != http.StatusForbidden {
		t.Errorf("another subscriber's hash: got %d, want 403", p.status)
	}
	if p := w.browser().get("/v1/subscribers/" + url.PathEscape(id) + "/credentials/slack/oauth?subscriberId=x&hmacHash=" + w.hmac(id)); p.status != http.StatusForbidden {
		t.Errorf("two subscribers: got %d, want 403", p.status)
	}
}

// Subscriber IDs meant to leave the path: the exact escaped path, or refused.
func TestSubscriberIDsArriveIntact(t *testing.T) {
	w := newWorld(t)
	for id, path := range map[string]string{
		"user+1@example.com/ä #?": "user%2B1%40example.com%2F%C3%A4%20%23%3F",
		"a/b":                     "a%2Fb",
		"a?x":                     "a%3Fx",
		"a#b":                     "a%23b",
		"a%b":                     "a%25b",
		"%2e%2e":                  "%252e%252e",
		"../x":                    "..%2Fx",
		"...":                     "...",
		"a\\b":                    "a%5Cb",
		"日本":                      "%E6%97%A5%E6%9C%AC",
		strings.Repeat("x", 255):  strings.Repeat("x", 255),
	} {
		for _, link := range []string{w.link(id), w.novuStyle(id)} {
			b := w.browser()
			b.land(b.approve(b.begin(link))).want(t, http.StatusOK, "Slack is connected")
		}
		w.wantWebhook(id, len(w.slack.Webhooks())-1)
		novu := w.calls("Novu")
		if got, want := novu[len(novu)-1].Target, "/v1/subscribers/"+path+"/credentials"; got != want {
			t.Errorf("subscriber %q: got %s, want %s", id, got, want)
		}
	}
	before := w.store.touched()
	for _, id := range []string{"", ".", "..", "a\x00b", "a\nb", "\x7f", "a\u0085b", "a\xffb", strings.Repeat("x", 256)} {
		w.browser().get(w.novuStyle(id)).wantCode(t, http.StatusForbidden, "link_invalid")
		if utf8.ValidString(id) { // JSON cannot carry the other
			forged := w.forge(jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"sub": id})
			w.browser().get(forged).wantCode(t, http.StatusForbidden, "link_invalid")
		}
	}
	if got := w.store.touched(); got != before {
		t.Errorf("refused IDs made %d store calls, want none", got-before)
	}
}

func TestTwoTabs(t *testing.T) {
	for name, order := range map[string][2]int{"first tab first": {0, 1}, "second tab first": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser()
			subscribers, channels := []string{"ada", "bob"}, []string{"#alerts", "#ops"}
			first, second := b.begin(w.link("ada")), b.begin(w.link("bob"))
			callbacks := []string{b.approve(first), ""}
			var err error
			if callbacks[1], err = w.slack.Approve(second, "T02GLOBEX", "#ops"); err != nil {
				t.Fatal(err)
			}
			for nth, i := range order {
				b.land(callbacks[i]).want(t, http.StatusOK, "Slack is connected", channels[i])
				w.wantWebhook(subscribers[i], nth)
			}
		})
	}
}

func TestBrowserHangsUpDuringTheExchange(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(wire.Slow(300 * time.Millisecond))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	ctx, cancel := context.WithCancel(context.Background())
	req := b.request(http.MethodGet, callback).WithContext(ctx)
	go func() {
		eventually(t, "the exchange begins", func() bool { return len(w.calls("Slack")) == 1 })
		cancel()
	}()
	if res, err := b.client.Do(req); err == nil {
		res.Body.Close()
		t.Fatal("the browser was answered before it hung up")
	}
	eventually(t, "the webhook is saved", func() bool { return w.novu.Saves() == 1 })
	w.wantWebhook("ada", 0)
	eventually(t, "a reload shows it", func() bool { return b.land(callback).status == http.StatusOK })
}

func TestManyIdenticalCallbacksAtOnce(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(wire.Slow(200 * time.Millisecond))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			p := b.get(callback)
			if p.status != http.StatusSeeOther {
				t.Errorf("got %d, want 303: %s", p.status, p.body)
				return
			}
			b.get(p.location).want(t, http.StatusOK, "Slack is connected")
		})
	}
	wg.Wait()
	if got := len(w.calls("Slack")); got != 1 {
		t.Errorf("got %d exchanges, want 1", got)
	}
	if got := w.novu.Saves(); got != 1 {
		t.Errorf("got %d saves, want 1", got)
	}
}

func TestDuplicateSeesStillWorking(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(wire.Slow(4500 * time.Millisecond))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	done := make(chan page)
	go func() { done <- b.get(callback) }()
	eventually(t, "the exchange begins", func() bool { return len(w.calls("Slack")) == 1 })
	p := b.get(callback)
	if p.took > 4*time.Second {
		t.Errorf("the duplicate waited %v, want about 3 s", p.took)
	}
	working := b.get(p.location)
	working.want(t, http.StatusAccepted, "One moment")
	if working.header.Get("Refresh") == "" {
		t.Error("the page does not reload by itself")
	}
	b.get((<-done).location).want(t, http.StatusOK, "Slack is connected")
	b.get(p.location).want(t, http.StatusOK, "Slack is connected")
}

func TestStartAgainIsForTheSameBrowserWhileTheLinkIsGood(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Now = func() time.Time { return now } })
	b := w.browser()
	again := startAgain(t, b.land(b.cancel(b.begin(w.link("ada", func(f *state.Flow) { f.Integration = "slack-main" })))))
	w.browser().get(again).wantCode(t, http.StatusForbidden, "other_browser")
	b.get(again+"x").wantCode(t, http.StatusForbidden, "link_invalid")
	b.land(b.approve(b.begin(again))).want(t, http.StatusOK, "Slack is connected")
	if puts := w.calls("Novu"); !strings.Contains(puts[len(puts)-1].Body, `"integrationIdentifier":"slack-main"`) {
		t.Errorf("the second flow asked for something else: %s", puts[len(puts)-1].Body)
	}
	now = now.Add(2 * time.Hour)
	b.get(again).wantCode(t, http.StatusGone, "link_expired")
}

// An instance that died in the middle leaves a working flow behind.
func TestInterruptedFlowOffersAWorkingStartAgain(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) { c.States = agedStore{w.store} })
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	id, _ := state.FlowID(stateOf(t, callback))
	key, _ := state.NewKey(id, b.cookies()[0].Value)
	if _, err := w.store.Consume(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	p := b.land(callback)
	p.wantCode(t, http.StatusServiceUnavailable, "interrupted")
	b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, "Slack is connected")
}

// agedStore makes every working flow look a minute old.
type agedStore struct{ *countingStore }

func (s agedStore) Consume(ctx context.Context, key state.Key) (state.Record, error) {
	r, err := s.countingStore.Consume(ctx, key)
	r.Age += time.Minute
	return r, err
}

func (s agedStore) Look(ctx context.Context, key state.Key) (state.Record, error) {
	r, err := s.countingStore.Look(ctx, key)
	r.Age += time.Minute
	return r, err
}
