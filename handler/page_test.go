package handler_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream/upstreamtest"
)

func TestPagesSpeakTheBrowsersLanguage(t *testing.T) {
	w := newWorld(t)
	for header, want := range map[string]string{
		"":                                 "en",
		"de":                               "de",
		"de-AT, de;q=0.9, en;q=0.5":        "de",
		"nl, de;q=0.5, en;q=0.1":           "de",
		"en-GB,en;q=0.9,de;q=0.8":          "en",
		"de;q=0, en":                       "en",
		"es-MX,es;q=0.9,en;q=0.8":          "es",
		"fr-CA":                            "fr",
		"it-CH":                            "it",
		"pt":                               "pt-BR",
		"pt-PT, en;q=0.5":                  "pt-BR",
		"ja-JP":                            "ja",
		"ko-KR,ko;q=0.9":                   "ko",
		"zh":                               "zh-Hans",
		"zh-CN,zh;q=0.9,en;q=0.8":          "zh-Hans",
		"zh-SG":                            "zh-Hans",
		"zh-TW,zh;q=0.9,en-US;q=0.8":       "zh-Hant",
		"zh-HK":                            "zh-Hant",
		"zh-MO":                            "zh-Hant",
		"zh-Hant-HK":                       "zh-Hant",
		"nl":                               "en",
		"*":                                "en",
		"de;q=x":                           "en",
		"\x80, <script>, ;;;q=1":           "en",
		strings.Repeat("de-x-aaaaaaa,", 5): "de",
		strings.Repeat("a-", 8000):         "en",
	} {
		file, err := os.ReadFile("pages/" + want + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var texts struct {
			Pages map[string]struct{ Title string }
		}
		if err := json.Unmarshal(file, &texts); err != nil {
			t.Fatal(err)
		}
		p := w.browser().get("/slack/install", "Accept-Language", header)
		p.want(t, http.StatusForbidden, `<html lang="`+want+`">`, texts.Pages["link_invalid"].Title)
		if got := p.header.Get("Content-Language"); got != want {
			t.Errorf("Accept-Language %.40q: got Content-Language %q, want %q", header, got, want)
		}
	}
	b := w.browser()
	to := b.get(b.approve(b.begin(w.link("ada")))).location
	b.get(to, "Accept-Language", "de").want(t, http.StatusOK, "Slack ist verbunden", `>#alerts</bdi> bei <bdi translate="no">Acme</bdi>`, "In Slack verwalten", "Falscher Channel? Neu verbinden")
}

func TestChannelOrWorkspaceMayBeUnknown(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(map[string]any){
		`<p class="place"><bdi translate="no">#alerts</bdi></p>`:              func(a map[string]any) { a["team"] = nil },
		`<bdi>The channel you picked</bdi> at <bdi translate="no">Acme</bdi>`: func(a map[string]any) { a["incoming_webhook"].(map[string]any)["channel"] = "" },
		`<bdi translate="no">{team}</bdi> at <bdi translate="no">{app}</bdi>`: func(a map[string]any) {
			a["incoming_webhook"].(map[string]any)["channel"], a["team"].(map[string]any)["name"] = "{team}", "{app}"
		},
		`<bdi translate="no">#a b</bdi> at <bdi translate="no">evilgnp</bdi>`: func(a map[string]any) {
			a["incoming_webhook"].(map[string]any)["channel"], a["team"].(map[string]any)["name"] = "#a\x00 \u0085b", "evil\u202egnp\u2066"
		},
		`<bdi translate="no">&lt;b&gt;{team}</bdi> at <bdi translate="no">&amp;</bdi>`: func(a map[string]any) {
			a["incoming_webhook"].(map[string]any)["channel"], a["team"].(map[string]any)["name"] = "<b>{team}", "&"
		},
		// A direct message, by all the names that Slack gives one.
		`<bdi>Direct message</bdi> at <bdi translate="no">Acme</bdi>`: func(a map[string]any) {
			a["incoming_webhook"].(map[string]any)["channel"] = "Directmessage"
		},
		`<p class="place"><bdi>Direct message</bdi></p>`: func(a map[string]any) {
			to := a["incoming_webhook"].(map[string]any)
			to["channel"], to["channel_id"], a["team"] = "", "D01", nil
		},
		`<bdi translate="no">@ada</bdi> at <bdi translate="no">Acme</bdi>`: func(a map[string]any) {
			to := a["incoming_webhook"].(map[string]any)
			to["channel"], to["channel_id"] = "@ada", "D01"
		},
	} {
		t.Run(want, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Change(change)
			w.browser().connect("ada").want(t, http.StatusOK, want)
		})
	}
}

func TestInstallPage(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.InstallPage = true })
	for name, link := range map[string]string{"signed": w.link("ada"), "Novu-style": w.novuStyle("ada"), "shareable": w.origin + "/v1/subscribers/ada/credentials/slack/oauth?hmacHash=" + w.hmac("ada")} {
		t.Run(name, func(t *testing.T) {
			before, b := w.backend.touched(), w.browser()
			p := b.get(link)
			p.want(t, http.StatusOK, "Connect Slack to Example Inc.", `<form method="post"><button class="button slack"><img src="/slack/assets/slack.svg" alt="">Add to Slack</button></form>`)
			wantPolicy(t, p, ownPolicy+"; form-action 'self' https: http:")
			for _, query := range []string{"&again=", "&again=x", "&%61gain=1", "&again=" + strings.Repeat("x", 23)} {
				if p := b.get(link + query); p.status == http.StatusFound {
					t.Errorf("%s takes a person past the page", query)
				}
			}
			b.get(link, "Sec-Fetch-Site", "same-origin").want(t, http.StatusOK, "Connect Slack to")
			for _, site := range []string{"cross-site", "same-site"} {
				b.do(b.request(http.MethodPost, link, "Sec-Fetch-Site", site)).want(t, http.StatusOK, "Connect Slack to")
			}
			if p := b.do(b.request(http.MethodHead, link)); p.status != http.StatusOK || p.body != "" {
				t.Errorf("HEAD: got %d, %q", p.status, p.body)
			}
			if len(b.cookies()) != 0 || w.backend.touched() != before {
				t.Error("looking at the page began a flow")
			}
			for _, site := range []string{"", "same-origin"} {
				post := b.request(http.MethodPost, link)
				if site != "" {
					post.Header.Set("Sec-Fetch-Site", site)
				}
				begun := b.do(post)
				if begun.status != http.StatusSeeOther {
					t.Fatalf("POST: got %d, want 303", begun.status)
				}
				b.land(b.approve(begun.location)).want(t, http.StatusOK, isConnected)
			}
			// Who has pressed a button of ours is not asked again.
			cancelled := b.land(b.cancel(b.do(b.request(http.MethodPost, link)).location))
			b.land(b.approve(b.begin(startAgain(t, cancelled)))).want(t, http.StatusOK, isConnected)
		})
	}
	b := w.browser()
	b.get("/slack/install?token=x").wantCode(t, http.StatusForbidden, "link_invalid")
	b.do(b.request(http.MethodPost, "/slack/install?token=x")).wantCode(t, http.StatusForbidden, "link_invalid")
	b.do(b.request(http.MethodPost, w.link("ada"), "Sec-Purpose", "prefetch")).want(t, http.StatusServiceUnavailable)
}

// The policies of all pages, whole: what a mutation of one word would open.
const ownPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"

func wantPolicy(t *testing.T, p page, want string) {
	t.Helper()
	if got := p.header.Get("Content-Security-Policy"); got != want {
		t.Errorf("got policy %q, want %q", got, want)
	}
}

// A form is held to its page's policy through all redirects: to Slack, from there
// to a workspace or who signs people in, and right back to the return URL.
func TestPolicies(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		c.InstallPage = true
		w.slackURL, _ = url.Parse("https://slack.com")
	})
	b := w.browser()
	wantPolicy(t, b.get(w.link("ada")), ownPolicy+"; form-action 'self' https: http:") // the service itself is on http
	wantPolicy(t, b.get("/"), ownPolicy+"; form-action 'none'")
	wantPolicy(t, b.get("/healthz"), ownPolicy+"; form-action 'none'")
	wantPolicy(t, b.get("/slack/install?token=x&display=popup"), ownPolicy+"; form-action 'none'; script-src 'self'")
	wantPolicy(t, b.do(b.request(http.MethodPost, w.link("ada"))), ownPolicy+"; form-action 'none'")
}

func TestBrand(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) {
		c.Brand = handler.Brand{Name: "A & B", LogoURL: "https://cdn.example.com/logo.svg?a=1&b=2", SupportURL: "mailto:help@example.com"}
	})
	for _, p := range []page{w.browser().get("/"), w.browser().get("/slack/install"), w.browser().connect("ada")} {
		p.want(t, p.status, "A &amp; B", `<img class="mark" src="https://cdn.example.com/logo.svg?a=1&amp;b=2" alt="`, `<a href="mailto:help@example.com`, ">Get help</a>")
		wantPolicy(t, p, strings.Replace(ownPolicy, "img-src 'self'", "img-src 'self' https://cdn.example.com", 1)+"; form-action 'none'")
		if csp := p.header.Get("Content-Security-Policy"); !strings.Contains(csp, "img-src 'self' https://cdn.example.com;") {
			t.Errorf("got policy %q", csp)
		}
	}
}

func TestPopupPages(t *testing.T) {
	w := newWorld(t)
	inPopup := func(back string) string {
		return w.link("ada", returnTo(back)) + "&display=popup"
	}
	const back = "https://App.example.com:8443/settings?a=b#c"
	for name, c := range map[string]struct {
		link, want string
		land       func(b *browser, authorize string) string
		more       []string
	}{
		"connected": {inPopup(back), `data-origin="https://App.example.com:8443" data-outcome="slack=connected&amp;channel=%23alerts&amp;team=Acme">`, (*browser).approve,
			[]string{`href="https://App.example.com:8443/settings?a=b&amp;slack=connected&amp;channel=%23alerts&amp;team=Acme&amp;slack_popup=1#c"`}},
		"cancelled": {inPopup(back), `data-origin="https://App.example.com:8443" data-outcome="slack=error&amp;reason=access_denied">`, (*browser).cancel,
			[]string{`href="https://App.example.com:8443/settings?a=b&amp;slack=error&amp;reason=access_denied&amp;slack_popup=1#c"`, "Start again"}},
		"failed": {inPopup(back), `data-origin="https://App.example.com:8443" data-outcome="slack=error&amp;reason=slack_admin" data-stay="yes">`, func(b *browser, authorize string) string {
			return b.slack.RedirectURL + "?error=accesslimited&state=" + stateOf(b.t, authorize)
		}, []string{"Start again"}},
		"no return URL": {inPopup(""), `data-origin="" data-outcome="slack=connected&amp;channel=%23alerts&amp;team=Acme">`, (*browser).approve, nil},
		"Novu-style":    {w.novuStyle("ada", "display", "popup"), `data-origin="" data-outcome="slack=connected&amp;channel=%23alerts&amp;team=Acme">`, (*browser).approve, nil},
		"not a popup":   {w.link("ada") + "&display=page", "<body>", (*browser).approve, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.browser()
			p := b.land(c.land(b, b.begin(c.link)))
			p.want(t, p.status, append(c.more, c.want)...)
			isPopup := name != "not a popup"
			if strings.Contains(p.body, `<script src="/slack/assets/popup.js" defer></script>`) != isPopup || strings.Contains(p.header.Get("Content-Security-Policy"), "; script-src 'self'") != isPopup {
				t.Errorf("got policy %q and %s", p.header.Get("Content-Security-Policy"), p.body)
			}
			if name == "cancelled" { // Start again is a popup still
				b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, `data-outcome="slack=connected&amp;channel=%23alerts&amp;team=Acme"`)
			}
		})
	}
	w.browser().get("/slack/install?token=x&display=popup").want(t, http.StatusForbidden, `data-origin="" data-outcome="slack=error&amp;reason=link_invalid" data-stay="yes"`)
	w.browser().get(inPopup(back)+"&display=popup").wantCode(t, http.StatusForbidden, "link_invalid")
	if p := w.browser().get("/slack/assets/popup.js"); p.status != http.StatusOK || !strings.HasPrefix(p.header.Get("Content-Type"), "text/javascript") {
		t.Errorf("the script: got %d %s", p.status, p.header.Get("Content-Type"))
	}
}

func TestPendingInAPopup(t *testing.T) {
	w := newWorld(t)
	w.novu.BreakAll(upstreamtest.JSON(401, `{"statusCode":401,"message":"API Key not found"}`))
	b := w.browser()
	p := b.land(b.approve(b.begin(w.link("ada", returnTo("https://app.example.com/")) + "&display=popup")))
	p.want(t, http.StatusOK, "Almost done", `data-outcome="slack=pending&amp;channel=%23alerts&amp;team=Acme">`)
}

// What a person without the flow's cookie reads says why, as far as can be known.
func TestWithoutTheCookie(t *testing.T) {
	w := newWorld(t)
	late := "/slack/callback?code=x&state=" + state.NewState(time.Now().Add(-16*time.Minute)).Reveal()
	fresh := "/slack/callback?code=x&state=" + state.NewState(time.Now().Add(-14*time.Minute)).Reveal()
	w.browser().get(fresh).wantCode(t, http.StatusForbidden, "other_browser")
	w.browser().get(fresh).want(t, http.StatusForbidden, "sent no cookies", "allow them for this site")
	p := w.browser().get(fresh, "Cookie", "theme=dark")
	p.wantCode(t, http.StatusForbidden, "other_browser")
	if strings.Contains(p.body, "sent no cookies") {
		t.Errorf("a browser with cookies is told that it has none: %s", p.body)
	}
	for _, cookie := range []string{"", "theme=dark"} {
		w.browser().get(late, "Cookie", cookie).wantCode(t, http.StatusGone, "state_not_found")
	}
	for name, made := range map[string]time.Time{"made up": time.Unix(0, 0), "in the future": time.Now().Add(time.Hour)} {
		p := w.browser().get("/slack/callback?code=x&state=" + state.NewState(made).Reveal())
		if p.status != http.StatusForbidden {
			t.Errorf("a state %s: got %d, want 403", name, p.status)
		}
	}
	w.browser().get("/slack/result?flow="+strings.Repeat("x", 24)).want(t, http.StatusForbidden, "sent no cookies")
	if got := w.backend.touched(); got != 0 {
		t.Errorf("got %d store calls, want none", got)
	}
	w.wantNothingOut()
}

func TestBackBeforeSlackIsDone(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada", returnTo("https://app.example.com/?a=b")))
	id, _ := state.FlowID(secret.New(stateOf(t, authorize)))
	p := b.get("/slack/result?flow=" + id)
	p.wantCode(t, http.StatusConflict, "unfinished")
	p.want(t, http.StatusConflict, `href="https://app.example.com/?a=b"`, "Start again; it takes a few seconds.") // there is no outcome yet
	b.begin(startAgain(t, p))
	popup := b.begin(w.link("ada", returnTo("https://app.example.com/")) + "&display=popup")
	id, _ = state.FlowID(secret.New(stateOf(t, popup)))
	b.get("/slack/result?flow="+id).want(t, http.StatusConflict, `data-outcome="" data-stay="yes"`)
	if got := b.getOutcome(b.approve(authorize)); !strings.Contains(got.location, "slack=connected") { // and the first one still works
		t.Errorf("got %q", got.location)
	}
}

// Start again is offered only where it can help, and the words follow.
func TestStartAgainOnlyWhereItHelps(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Now = func() time.Time { return now } })
	w.slack.Break(slackError("bad_client_secret"))
	b := w.browser()
	p := b.land(b.approve(b.begin(w.link("ada"))))
	p.wantCode(t, http.StatusBadGateway, "slack_setup")
	if strings.Contains(p.body, "tart again") {
		t.Errorf("the page offers to start again: %s", p.body)
	}
	authorize := b.begin(w.link("ada"))
	now = now.Add(2 * time.Hour) // the link expires while the person is at Slack
	p = b.land(b.cancel(authorize))
	p.want(t, http.StatusForbidden, "You cancelled", "Go back to Example Inc. and connect Slack from there again.")
	if strings.Contains(p.body, "Start again") {
		t.Errorf("the page offers an expired link again: %s", p.body)
	}
}

// A flow's own page asks for exactly one flow, and reloads by itself ever more
// slowly while it is not final.
func TestResultPage(t *testing.T) {
	w := newWorld(t)
	w.novu.BreakAll(upstreamtest.JSON(401, `{"statusCode":401,"message":"API Key not found"}`))
	b := w.browser()
	to := b.get(b.approve(b.begin(w.link("ada")))).location
	id := strings.TrimPrefix(to, "/slack/result?flow=")
	for n, want := range map[string]string{
		"": "2; url=" + to + "&n=2", "&n=1": "2; url=" + to + "&n=2", "&n=2": "4; url=" + to + "&n=3", "&n=8": "10; url=" + to + "&n=9",
		"&n=90": "10; url=" + to + "&n=91", "&n=91": "", "&n=-5": "2; url=" + to + "&n=2", "&n=x": "2; url=" + to + "&n=2", "&n=99999999999999999999": "",
	} {
		p := b.get(to + n)
		p.want(t, http.StatusOK, `<main class="working"`)
		if got := p.header.Get("Refresh"); got != want {
			t.Errorf("%s: got Refresh %q, want %q", n, got, want)
		}
	}
	for _, target := range []string{to + "&flow=" + id, "/slack/result", "/slack/result?flow=", "/slack/result?flow=x", "/slack/result?flow=" + id + "x", to + "&%zz"} {
		b.get(target).wantCode(t, http.StatusBadRequest, "request_invalid")
	}
}

func TestInstallStampsTheState(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	made := state.MadeAt(secret.New(stateOf(t, w.browser().begin(w.link("ada")))))
	if made.Before(begin.Add(-time.Second)) || made.After(time.Now()) {
		t.Errorf("the state says that it was made at %v, want after %v", made, begin)
	}
}

// The link may expire while its flow is looked at: there is a way back, and a
// minute of grace.
func TestStartAgainAfterTheLinkExpired(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Now = func() time.Time { return now } })
	b := w.browser()
	again := startAgain(t, b.land(b.cancel(b.begin(w.link("ada", returnTo("https://app.example.com/"))+"&display=popup"))))
	now = now.Add(time.Hour + 30*time.Second)
	b.begin(again)
	now = now.Add(time.Minute)
	b.get(again).want(t, http.StatusGone, ` data-code="link_expired"`, `id="back" class="button" href="https://app.example.com/?slack=error&amp;reason=link_expired&amp;slack_popup=1"`, `id="close"`)
}

// Every page leads back to where its link says, or else to APP_URL, which learns nothing.
func TestEveryPageHasAWayOut(t *testing.T) {
	const app, own = "https://app.example.com/settings", "https://own.example.com/slack"
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) {
		c.Brand.AppURL = app
		w.links.Now = func() time.Time { return now }
	})
	asking := startWorld(t, func(_ *world, c *handler.Config) { c.Brand.AppURL, c.InstallPage = app, true })
	w.slack.BreakAll(upstreamtest.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "600"))
	working := w.browser().connect("ada")
	w.slack.BreakAll(nil)
	b := w.browser()
	cancelled := b.land(b.cancel(b.begin(w.link("bob"))))
	connected := b.land(b.approve(b.begin(w.link("ada"))))
	expired, expiredDisconnect := w.link("ada"), w.disconnectLink("ada")
	ownExpired, ownExpiredDisconnect := w.link("ada", returnTo(own)), w.disconnectLink("ada", returnTo(own))
	wrong, ownWrong := strings.Replace(w.disconnectLink("ada"), "disconnect", "install", 1), strings.Replace(w.disconnectLink("ada", returnTo(own)), "disconnect", "install", 1)
	asked, wrongPage, ownWrongPage := b.get(w.disconnectLink("ada", returnTo(own))), b.get(wrong), b.get(ownWrong)
	now = now.Add(2 * time.Hour)
	for name, c := range map[string]struct {
		page page
		want string
	}{
		"front":                           {b.get("/"), app},
		"install":                         {asking.browser().get(asking.link("ada")), app},
		"install, with a return URL":      {asking.browser().get(asking.link("ada", returnTo(own))), own},
		"working":                         {working, app},
		"cancelled":                       {cancelled, app},
		"connected":                       {connected, app},
		"disconnect":                      {asked, own},
		"no such page":                    {b.get("/nothing"), app},
		"a link that does not work":       {b.get("/slack/install?token=x"), app},
		"the same in a popup":             {b.get("/slack/install?token=x&display=popup"), app},
		"a link for another page":         {wrongPage, app},
		"the same, with a return URL":     {ownWrongPage, own + "?slack=error&amp;reason=link_invalid"},
		"expired":                         {b.get(expired), app},
		"expired, with a return URL":      {b.get(ownExpired), own + "?slack=error&amp;reason=link_expired"},
		"expired, in a popup":             {b.get(ownExpired + "&display=popup"), own + "?slack=error&amp;reason=link_expired&amp;slack_popup=1"},
		"expired disconnect":              {b.get(expiredDisconnect), app},
		"expired disconnect, return URL":  {b.get(ownExpiredDisconnect), own + "?slack=error&amp;reason=link_expired"},
		"expired, in a popup, no address": {b.get(expired + "&display=popup"), app},
	} {
		if !regexp.MustCompile(`<a id="back"[^>]* href="` + regexp.QuoteMeta(c.want) + `">Back to Example Inc.</a>`).MatchString(c.page.body) {
			t.Errorf("%s: no way to %s: %s", name, c.want, c.page.body)
		}
	}
	b.get(ownExpired+"&display=popup").want(t, http.StatusGone, `data-origin="https://own.example.com" data-outcome="slack=error&amp;reason=link_expired" data-stay="yes"`)
}

// The reference of a page finds what happened in the log: also after a reload, and in
// another request of the flow.
func TestReference(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Brand.SupportURL = "mailto:help@example.com" })
	reference := func(p page) string {
		t.Helper()
		m := regexp.MustCompile(`<div class="help"><p>Reference <code>([^<]+)</code> · <code>` + `([a-z_]+)</code></p><p><a href="mailto:help@example.com\?body=([^&"]+)&amp;subject=([^"]+)">Get help</a></p></div></main>`).FindStringSubmatch(p.body)
		if len(m) != 5 || strings.Count(p.body, "Reference <code>") != 1 {
			t.Fatalf("the card has no reference, or no way to get help: %s", p.body)
		}
		for _, text := range m[3:] {
			if text, err := url.PathUnescape(text); err != nil || strings.Contains(text, "+") || !strings.Contains(text, m[1]) {
				t.Errorf("the mail does not say the reference: %q", text)
			}
		}
		return m[1]
	}
	cause := func(id, code string) (found bool) {
		for line := range strings.Lines(w.logs.String()) {
			found = found || strings.Contains(line, `"code":"`+code+`"`) && strings.Contains(line, `"`+id+`"`)
		}
		return found
	}

	w.slack.Break(slackError("bad_client_secret"))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	id := flowIDOf(t, callback)
	result := b.get(callback).location
	for range 2 {
		if got := reference(b.get(result)); got != id || !cause(id, "slack_setup") {
			t.Errorf("got reference %s, want the flow's, %s, which the log has with its cause: %s", got, id, w.logs)
		}
	}
	if got := reference(w.browser().get(callback)); got != id {
		t.Errorf("in another browser: got reference %s, want the flow's, %s", got, id)
	}

	p := w.browser().get("/slack/install?token=x")
	if got := reference(p); got != p.header.Get("X-Request-Id") || !cause(got, "link_invalid") {
		t.Errorf("without a flow: got reference %s, want the request's, %s", got, p.header.Get("X-Request-Id"))
	}

	// Who cancels has no need of one, nor who is connected.
	b = w.browser()
	for _, p := range []page{b.land(b.cancel(b.begin(w.link("ada")))), b.connect("ada"), b.get("/")} {
		p.want(t, p.status, `<footer><p><a href="mailto:help@example.com">Get help</a></p></footer>`)
		if strings.Contains(p.body, "Reference") {
			t.Errorf("got a reference: %s", p.body)
		}
	}
}

// The app and Slack stand side by side where they are connected, or asked about. Nobody
// reads the app's name beside a logo that has it.
func TestAppStandsBesideSlack(t *testing.T) {
	const logo = "https://cdn.example.com/logo.svg"
	for name, mark := range map[string]string{"": `<span class="mark initial" aria-hidden="true">É</span>`, logo: `<img class="mark" src="` + logo + `" alt="" referrerpolicy="no-referrer">`} {
		w := startWorld(t, func(_ *world, c *handler.Config) {
			c.InstallPage, c.Brand = true, handler.Brand{Name: "éclair", LogoURL: name}
		})
		b := w.browser()
		install := b.get(w.link("ada"))
		connected := b.land(b.approve(b.do(b.request(http.MethodPost, w.link("ada"))).location))
		asked := b.get(w.disconnectLink("ada"))
		disconnected := b.get(b.post(w.disconnectLink("ada")).location)
		for _, p := range []page{install, connected, asked, disconnected} {
			p.want(t, http.StatusOK, `<div class="pair">`+mark, `<img class="mark" src="/slack/assets/slack.svg" alt=""></div><h1>`)
			if strings.Contains(p.body, "<header>") {
				t.Errorf("the name stands above as well: %s", p.body)
			}
		}
		install.want(t, http.StatusOK, "<title>Connect Slack to éclair</title>")
		header := b.get("/nothing")
		if want := map[bool]string{true: "<p>éclair</p></header>", false: `<header><img class="mark" src="` + logo + `" alt="éclair" referrerpolicy="no-referrer"></header>`}[name == ""]; !strings.Contains(header.body, want) {
			t.Errorf("the header is not %s: %s", want, header.body)
		}
	}
}

// A context that Novu would refuse is refused before the consent, in endpoint mode only.
func TestContextOfALink(t *testing.T) {
	t.Parallel()
	for _, contexts := range []bool{true, false} {
		t.Run(fmt.Sprint(contexts), func(t *testing.T) {
			w := newWorld(t, func(w *world, c *handler.Config) { w.links.Contexts = contexts })
			sign := func(claim string) string {
				return w.link("ada", func(r *link.Request) { r.Context.JSON = claim })
			}
			want := map[bool]string{true: `{"a":{"id":"1","data":{"n":9007199254740993}},"b":"2"}`}[contexts]
			if got := w.begun(sign(`{"b":"2", "a":{"id":"1","data":{"n":9007199254740993}}}`)).Request.Context.JSON; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			for _, claim := range []string{`"x"`, `[1]`, `1`, `{}`, `{"tenant":"a b"}`, `{"tenant":1}`} {
				if p := w.browser().get(sign(claim)); (p.status == http.StatusForbidden) != contexts {
					t.Errorf("endpoint mode %t, %s: got %d", contexts, claim, p.status)
				}
			}
		})
	}
}

// begun opens a link and returns what was kept of it.
func (w *world) begun(link string) state.Flow {
	w.t.Helper()
	b := w.browser()
	return w.look(b.key(b.begin(link)))
}

// An app can route /slack/ alone to the service: no page needs anything outside of it.
func TestPagesNeedOnlyWhatIsBelowSlack(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.InstallPage = true })
	b := w.browser()
	own := regexp.MustCompile(`(?:href|src|action)="(/[^"]*)"`)
	cancelled := b.land(b.cancel(b.do(b.request(http.MethodPost, w.link("ada")+"&display=popup")).location))
	for name, p := range map[string]page{
		"front": b.get("/"), "install": b.get(w.link("ada")), "problem": b.get("/slack/install?token=x"), "in a popup": cancelled, "not found": b.get("/nothing"),
	} {
		found := own.FindAllStringSubmatch(p.body, -1)
		if len(found) < 2 {
			t.Errorf("%s: got %v, want the style and the icon at least", name, found)
		}
		for _, reference := range found {
			if !strings.HasPrefix(reference[1], "/slack/") {
				t.Errorf("%s: the page needs %s, which is not below /slack/", name, reference[1])
			}
			if strings.Contains(reference[1], "/assets/") {
				b.get(reference[1]).want(t, http.StatusOK)
			}
		}
	}
}
