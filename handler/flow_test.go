package handler_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream/upstreamtest"
)

func TestFlowConnects(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, func(w *world, c *handler.Config) { c.RedirectURL.Scheme = scheme })
			b := w.browser()
			p := b.connect("ada")
			p.want(t, http.StatusOK, isConnected, "#alerts", "Acme", "https://t01acme.slack.com/services/B00000001")
			w.wantWebhook("ada", 0)

			slack, novu := w.calls("Slack"), w.calls("Novu") // it knows the integration for a minute
			if len(slack) != 1 || slack[0].Method+" "+slack[0].Target != "POST /api/oauth.v2.access" {
				t.Errorf("Slack got %+v, want the exchange alone", slack)
			}
			var lines []string
			for _, e := range novu[:min(5, len(novu))] { // later it is asked for other channels
				lines = append(lines, e.Method+" "+e.Target)
			}
			if got, want := strings.Join(lines, ", "), "GET /v1/integrations/active, GET /v1/environments/me, PUT /v1/subscribers/ada/credentials, POST /v1/subscribers, PUT /v1/subscribers/ada/credentials"; got != want {
				t.Fatalf("Novu got %s, want %s", got, want)
			}
			if last := novu[4].Body; !strings.Contains(last, `"integrationIdentifier":"slack-main"`) {
				t.Errorf("the update does not name the integration that was resolved: %s", last)
			}
		})
	}
}

// Issue, Consume, Record and Finish, and nothing else.
func TestFlowCostsFourStoreCalls(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	})
	b := w.browser()
	b.get(b.approve(b.begin(w.link("ada"))))
	if got := w.backend.touched(); got != 4 {
		t.Errorf("got %d store calls, want issue, consume, record and finish", got)
	}
}

func TestReloadAndBackShowTheSameResultAndCallNobody(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	callback := b.approve(authorize)
	first := b.get(callback)
	shown := b.get(first.location)
	exchanges, writes := len(w.calls("Slack")), len(w.novuWrites())

	for range 3 {
		again := b.get(callback) // Back to the callback, or its reload
		if again.status != http.StatusSeeOther || again.location != first.location {
			t.Errorf("callback again: got %d to %q, want 303 to %q", again.status, again.location, first.location)
		}
		b.get(first.location).want(t, shown.status, isConnected, "#alerts")
	}
	// Back to Slack's page, another choice and Allow: Slack makes another code for the old
	// state. It is not used, and the person reads that.
	again := b.land(b.approve(authorize))
	again.want(t, http.StatusConflict, "Slack was connected already", inAlerts, "was not used")
	if p := b.get(callback); p.location != first.location {
		t.Errorf("the first callback again: got %q, want %q", p.location, first.location)
	}
	if len(w.calls("Slack")) != exchanges || len(w.novuWrites()) != writes {
		t.Errorf("got %d exchanges and %d updates, want %d and %d", len(w.calls("Slack")), len(w.novuWrites()), exchanges, writes)
	}
	w.wantWebhook("ada", 0)
	b.land(b.approve(b.begin(startAgain(t, again)))).want(t, http.StatusOK, isConnected) // one click
	w.wantWebhook("ada", 1)
}

// The same where the app has a return URL, or Novu is still to get the first choice.
func TestSecondChoiceIsNotIgnoredInSilence(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada", returnTo("https://app.example.com/")))
	first := b.get(b.approve(authorize))
	if !strings.HasPrefix(first.location, "https://app.example.com/?slack=connected") {
		t.Fatalf("got %s", first.location)
	}
	b.land(b.approve(authorize)).want(t, http.StatusConflict, "Slack was connected already", `href="https://app.example.com/?slack=connected`)
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	authorize = b.begin(w.link("bob"))
	b.land(b.approve(authorize)).want(t, http.StatusOK, "Almost done")
	b.land(b.approve(authorize)).want(t, http.StatusConflict, "Slack was connected already")

	// The first choice waits for Slack: the page says so once it is connected.
	w.novu.BreakAll(nil)
	w.slack.Break(upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "1"))
	authorize = b.begin(w.link("eve"))
	b.land(b.approve(authorize)).want(t, http.StatusAccepted, "One moment")
	waiting := b.land(b.approve(authorize))
	waiting.want(t, http.StatusAccepted, "One moment")
	w.work()
	_, reload, _ := strings.Cut(waiting.header.Get("Refresh"), "url=")
	eventually(t, "the page says that the second choice was not used", func() bool {
		return strings.Contains(b.get(reload).body, "Slack was connected already")
	})
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
	b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, isConnected)
	w.wantWebhook("ada", 0)
}

// A refusal spends nothing: whoever goes back and allows is connected.
func TestBackAndAllowAfterCancelConnects(t *testing.T) {
	t.Parallel()
	const back = "https://app.example.com/settings"
	for name, c := range map[string]struct {
		returnURL string
		popup     bool
		refused   string // where the person is led after Cancel, without the flow's ID
		connected string // the same after Allow
	}{
		"result page": {"", false, "/slack/result?flow=ID&refused=access_denied", "/slack/result?flow=ID"},
		"return URL":  {back, false, back + "?slack=error&reason=access_denied", back + "?slack=connected&channel=%23alerts&team=Acme"},
		"popup":       {back, true, "/slack/result?flow=ID&refused=access_denied", "/slack/result?flow=ID"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser()
			authorize := b.begin(w.link("ada", func(r *link.Request) { r.ReturnURL, r.Popup = c.returnURL, c.popup }))
			withoutID := strings.NewReplacer(flowIDOf(t, authorize), "ID")
			for range 2 { // also twice
				p := b.get(b.cancel(authorize))
				if got := withoutID.Replace(p.location); p.status != http.StatusSeeOther || got != c.refused {
					t.Errorf("Cancel: got %d to %s, want 303 to %s", p.status, got, c.refused)
				}
			}
			w.wantNothingOut()
			if got := w.look(b.key(authorize)).Phase; got != state.Issued {
				t.Errorf("a refusal left the flow in phase %c, want issued", got)
			}

			p := b.getOutcome(b.approve(authorize))
			if got := withoutID.Replace(p.location); p.status != http.StatusSeeOther || got != c.connected {
				t.Errorf("Allow: got %d to %s, want 303 to %s", p.status, got, c.connected)
			}
			w.wantWebhook("ada", 0)
			if got := len(w.calls("Slack")); got != 1 {
				t.Errorf("got %d exchanges, want 1", got)
			}

			// From now on a refusal of the same state leads to what is connected.
			p = b.get(b.cancel(authorize))
			if got := withoutID.Replace(p.location); got != c.connected {
				t.Errorf("Cancel after Allow: got %s, want %s", got, c.connected)
			}
			w.wantWebhook("ada", 0)
		})
	}
}

func TestRefusalPageCanBeReloaded(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	to := b.get(b.cancel(authorize)).location
	for range 3 {
		p := b.get(to)
		p.wantCode(t, http.StatusForbidden, "access_denied")
		startAgain(t, p)
		if p.header.Get("Refresh") != "" {
			t.Error("the page reloads by itself")
		}
	}
	w.browser().get(to).wantCode(t, http.StatusForbidden, "other_browser")
	wantCount(t, w.config.Metrics, `problems_total{code="access_denied"} 1`) // a reload is no other refusal
	w.wantNothingOut()
	b.land(b.approve(authorize)).want(t, http.StatusOK, isConnected)
	b.get(to).want(t, http.StatusOK, isConnected, "#alerts") // what stands in the URL does not count any more
	w.wantWebhook("ada", 0)
}

// What stands in the result page's URL chooses between the pages of refusals, and
// nothing else.
func TestOddRefusalsShowNothingOdd(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	for _, odd := range []string{
		"", "x", "connected", "pending", "replaced", "interrupted", "workspace_mismatch", "store_unavailable", "internal_error", "link_invalid", "unfinished", "front", "install", "no_cookies",
		"ACCESS_DENIED", "access_denied%20", "access_denied%00", "%3Cscript%3Ealert(1)%3C/script%3E", "%ff", strings.Repeat("a", 5000), "evil&refused=access_denied",
	} {
		p := b.get("/slack/result?flow=" + flowIDOf(t, authorize) + "&refused=" + odd)
		p.wantCode(t, http.StatusConflict, "unfinished")
		for _, echoed := range []string{"alert(1)", "aaaaaaaa", "evil", "interrupted"} {
			if strings.Contains(p.body, echoed) {
				t.Errorf("%.40s: the page holds %q", odd, echoed)
			}
		}
	}
	// A page of a refusal that was not is shown to the person who wrote it, and counts
	// for nobody.
	b.get("/slack/result?flow="+flowIDOf(t, authorize)+"&refused=bad_webhook").wantCode(t, http.StatusBadGateway, "bad_webhook")
	wantCount(t, w.config.Metrics, `problems_total{code="bad_webhook"} 0`)
	if strings.Contains(w.logs.String(), `"level":"error"`) {
		t.Errorf("the log has an error: %s", w.logs)
	}
	w.wantNothingOut()
	b.land(b.approve(authorize)).want(t, http.StatusOK, isConnected)
}

// startAgain finds the link that a problem's page offers.
func startAgain(t *testing.T, p page) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.body, `class="button" href="`)
	to, label, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 || !strings.HasPrefix(label, ">Start again<") {
		t.Fatalf("the page has no Start again: %s", p.body)
	}
	return strings.ReplaceAll(to, "&amp;", "&")
}

func TestSecondConnectionReplacesTheFirst(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.connect("ada")
	b.connect("ada").want(t, http.StatusOK, isConnected)
	w.wantWebhook("ada", 1)
}

func TestReturnURL(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}}
	})
	signed := func(u string) string {
		return w.link("ada", returnTo(u))
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
			if got := b.getOutcome(b.approve(b.begin(c.link))); got.status != http.StatusSeeOther || got.location != c.connected {
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
			b.land(b.approve(b.begin(w.origin+link))).want(t, http.StatusOK, isConnected)
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
			b.land(b.approve(b.begin(link))).want(t, http.StatusOK, isConnected)
		}
		w.wantWebhook(id, len(w.slack.Webhooks())-1)
		novu := w.novuWrites()
		if got, want := novu[len(novu)-1].Target, "/v1/subscribers/"+path+"/credentials"; got != want {
			t.Errorf("subscriber %q: got %s, want %s", id, got, want)
		}
	}
	before := w.backend.touched()
	for _, id := range []string{"", ".", "..", "a\x00b", "a\nb", "\x7f", "a\u0085b", "a\xffb", strings.Repeat("x", 256), " ada", "ada\t", "ada\u00a0", "\ufeffada"} {
		w.browser().get(w.novuStyle(id)).wantCode(t, http.StatusForbidden, "link_invalid")
		if utf8.ValidString(id) { // JSON cannot carry the other
			forged := w.forge(jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"sub": id})
			w.browser().get(forged).wantCode(t, http.StatusForbidden, "link_invalid")
		}
	}
	if got := w.backend.touched(); got != before {
		t.Errorf("refused IDs made %d store calls, want none", got-before)
	}
}

func TestTwoTabs(t *testing.T) {
	t.Parallel()
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
				b.land(callbacks[i]).want(t, http.StatusOK, isConnected, channels[i])
				w.wantWebhook(subscribers[i], nth)
			}
		})
	}
}

// holdAnswer is a fault that does the work and holds its answer back until release is
// called, which is at the test's end at the latest.
func (w *world) holdAnswer() (fault upstreamtest.Fault, release func()) {
	held := make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	w.t.Cleanup(release)
	return upstreamtest.Edit(func(*httptest.ResponseRecorder) { <-held }), release
}

func TestBrowserHangsUpDuringTheExchange(t *testing.T) {
	w := newWorld(t)
	fault, release := w.holdAnswer()
	w.slack.Break(fault)
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
	release()
	eventually(t, "the webhook is saved", func() bool { return w.novu.Saves() == 1 })
	w.wantWebhook("ada", 0)
	eventually(t, "a reload shows it", func() bool { return b.land(callback).status == http.StatusOK })
}

func TestManyIdenticalCallbacksAtOnce(t *testing.T) {
	w := newWorld(t)
	const many = 30
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		eventually(t, "all are there", func() bool { return w.backend.consumes.Load() >= many })
		next.ServeHTTP(to, r)
	})
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			p := b.get(callback)
			if p.status != http.StatusSeeOther {
				t.Errorf("got %d, want 303: %s", p.status, p.body)
				return
			}
			eventually(t, "the page says so", func() bool { return strings.Contains(b.get(p.location).body, isConnected) })
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
	fault, release := w.holdAnswer()
	w.slack.Break(fault)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	done := make(chan page)
	go func() { done <- b.get(callback) }()
	eventually(t, "the exchange begins", func() bool { return len(w.calls("Slack")) == 1 })
	p := b.get(callback)
	if p.took > 4*time.Second+busyMachine {
		t.Errorf("the duplicate waited %v, want about 3 s", p.took)
	}
	working := b.get(p.location)
	working.want(t, http.StatusAccepted, "One moment")
	if working.header.Get("Refresh") == "" {
		t.Error("the page does not reload by itself")
	}
	release()
	b.get((<-done).location).want(t, http.StatusOK, isConnected)
	b.get(p.location).want(t, http.StatusOK, isConnected)
}

func TestStartAgainIsForTheSameBrowserWhileTheLinkIsGood(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Now = func() time.Time { return now } })
	b := w.browser()
	again := startAgain(t, b.land(b.cancel(b.begin(w.link("ada", func(r *link.Request) { r.Integration = "slack-main" })))))
	w.browser().get(again).wantCode(t, http.StatusForbidden, "other_browser")
	b.get(again+"x").wantCode(t, http.StatusForbidden, "link_invalid")
	b.land(b.approve(b.begin(again))).want(t, http.StatusOK, isConnected)
	if puts := w.novuWrites(); !strings.Contains(puts[len(puts)-1].Body, `"integrationIdentifier":"slack-main"`) {
		t.Errorf("the second flow asked for something else: %s", puts[len(puts)-1].Body)
	}
	now = now.Add(2 * time.Hour)
	b.get(again).wantCode(t, http.StatusGone, "link_expired")
}

// Start again is as good as the link that the flow was begun with: it outlives no
// rotation of the secret that signed it.
func TestStartAgainDoesNotOutliveARotation(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(w *world) (link string, rotate func()){
		"signed": func(w *world) (string, func()) {
			return w.link("ada"), func() { w.links.Secrets = []secret.String{secret.New("canary-new-link-secret-0123456789")} }
		},
		"Novu-style": func(w *world) (string, func()) {
			return w.novuStyle("ada"), func() { w.links.APIKeys = []secret.String{secret.New("canary-new-api-key")} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			link, rotate := begin(w)
			b := w.browser()
			refused := b.get(b.cancel(b.begin(link))).location
			connected := b.get(b.approve(b.begin(link))).location
			again := []string{startAgain(t, b.get(refused)), connectAgain(t, b.get(connected))}
			atSlack := b.begin(link)

			rotate()
			issued, cookies, out := w.backend.issues.Load(), len(b.cookies()), len(w.recorder.All())
			for _, to := range again {
				p := b.get(to)
				p.wantCode(t, http.StatusForbidden, "link_invalid")
				if len(p.header.Values("Set-Cookie")) != 0 {
					t.Error("a cookie was set")
				}
			}
			for _, page := range []page{b.get(refused), b.get(connected)} {
				if strings.Contains(page.body, "again=") || strings.Contains(page.body, "Start again") {
					t.Errorf("the page offers a link that is no longer good: %s", page.body)
				}
			}
			b.get(refused).want(t, http.StatusForbidden, "Go back to Example Inc. and connect Slack from there again.")
			if w.backend.issues.Load() != issued || len(b.cookies()) != cookies || len(w.recorder.All()) != out {
				t.Error("a flow was begun, a cookie set, or someone called")
			}

			// Whoever is at Slack already comes back from there connected.
			b.land(b.approve(atSlack)).want(t, http.StatusOK, isConnected)
		})
	}
}

// Whoever had the secret that was rotated away may have signed the return URL, too.
func TestStartAgainAfterARotationLeadsToNoReturnURL(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.cancel(b.begin(w.link("ada", func(r *link.Request) { r.ReturnURL = "https://evil.example/" })))
	w.links.Secrets = []secret.String{secret.New("canary-new-link-secret-0123456789")}
	p := b.get("/slack/install?again=" + flowIDOf(t, callback))
	p.wantCode(t, http.StatusForbidden, "link_invalid")
	if strings.Contains(p.body, "evil.example") {
		t.Errorf("the page leads to the return URL of a link that is no longer good: %s", p.body)
	}
}

// connectAgain finds the link that the page of a connection offers.
func connectAgain(t *testing.T, p page) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.body, `<a id="change" href="/slack/install?`)
	query, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		t.Fatalf("the page does not offer to connect again: %s", p.body)
	}
	return "/slack/install?" + query
}

// An instance that died in the middle leaves a flow behind that is being worked on. Once
// its lease has ended the worker takes it over.
func TestFlowOfAnInstanceThatDied(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spent  bool // Slack has answered the instance that died
		status int
		text   string
	}{
		"before it asked Slack":   {false, http.StatusOK, isConnected},
		"after Slack answered it": {true, http.StatusServiceUnavailable, "<code>interrupted</code>"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			code := secret.New(queryOf(t, callback, "code"))
			if _, won, err := w.store.Consume(context.Background(), b.key(callback), state.NewOwner(), code, 30*time.Second, 0); !won || err != nil {
				t.Fatalf("got %t, %v", won, err)
			}
			if c.spent {
				if _, err := w.config.Slack.Exchange(context.Background(), code); err != nil {
					t.Fatal(err)
				}
			}
			p := b.get(callback)
			if p.took > 5*time.Second+busyMachine {
				t.Errorf("the callback took %v, want about 3 s", p.took)
			}
			b.get(p.location).want(t, http.StatusAccepted, "One moment")

			w.pass(time.Minute)
			w.work()
			eventually(t, "the worker takes it over", func() bool { return w.waiting() == 0 })
			last := b.get(p.location)
			last.want(t, c.status, c.text)
			if c.spent {
				w.wantNoWebhook("ada")
				b.land(b.approve(b.begin(startAgain(t, last)))).want(t, http.StatusOK, isConnected)
			}
			w.wantWebhook("ada", len(w.slack.Webhooks())-1)
		})
	}
}

// queryOf returns a parameter of a URL.
func queryOf(t *testing.T, target, name string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil || u.Query().Get(name) == "" {
		t.Fatalf("%q has no %s", target, name)
	}
	return u.Query().Get(name)
}
