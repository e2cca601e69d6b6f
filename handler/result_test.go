package handler_test

import (
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream/upstreamtest"
)

var signedResult = regexp.MustCompile(`&(?:amp;)?slack_result=([A-Za-z0-9._-]+)`)

// takeResults removes each slack_result from the text of an answer, and appends it to
// results. Each must be signed, and say the same as the parameters before it.
func (b *browser) takeResults(text string, results []string) (rest string, all []string) {
	b.t.Helper()
	for _, at := range signedResult.FindAllStringSubmatchIndex(text, -1) {
		token := text[at[2]:at[3]]
		claims := b.claimsOf(token)
		told := text[:at[0]]
		told, _ = url.QueryUnescape(html.UnescapeString(told[strings.LastIndex(told, "slack="):]))
		want := fmt.Sprintf("slack=%v", claims["outcome"])
		if claims["outcome"] == "error" {
			want += fmt.Sprintf("&reason=%v", claims["reason"])
		} else {
			text := func(name string) string { s, _ := claims[name].(string); return s }
			if claims["outcome"] != "disconnected" {
				want += "&channel=" + text("channel") + "&team=" + text("team")
			}
		}
		if told != want {
			b.t.Errorf("the return URL says %q, its slack_result %q", told, want)
		}
		results = append(results, token)
	}
	return signedResult.ReplaceAllString(text, ""), results
}

// claimsOf returns the claims of a result, verified with the first secret as an app does.
func (w *world) claimsOf(token string) jwt.MapClaims {
	w.t.Helper()
	claims := jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte(w.links.Secrets[0].Reveal()), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(w.origin), jwt.WithExpirationRequired(), jwt.WithTimeFunc(w.links.Now), jwt.WithLeeway(time.Second))
	if err != nil || parsed.Header["typ"] != "slack-result+jwt" {
		w.t.Fatalf("slack_result %q: %v", token, err)
	}
	return claims
}

// wantResult checks the whole of the one result in an answer. exp and iat are checked
// and left out of want.
func (b *browser) wantResult(p page, want jwt.MapClaims) {
	b.t.Helper()
	if len(p.results) == 0 {
		b.t.Errorf("got no slack_result in %d to %q, want %v", p.status, p.location, want)
	}
	for _, token := range p.results {
		got := b.claimsOf(token)
		iat, _ := got["iat"].(float64)
		exp, _ := got["exp"].(float64)
		if age := b.links.Now().Sub(time.Unix(int64(iat), 0)); exp-iat != 600 || age < 0 || age > patience {
			b.t.Errorf("got iat %v, %v ago, and exp %v, want now and 10 minutes later", iat, age, exp)
		}
		delete(got, "iat")
		delete(got, "exp")
		want := maps.Clone(want)
		want["iss"] = b.origin
		if gotText, wantText := inJSON(got), inJSON(want); gotText != wantText {
			b.t.Errorf("got the result %s, want %s", gotText, wantText)
		}
	}
}

func inJSON(claims jwt.MapClaims) string {
	text, _ := json.Marshal(claims)
	return string(text)
}

// Each outcome reaches the return URL in signed form, wherever the browser is sent there
// from: by redirect, by a page's button, and to a popup's opener.
func TestSignedResult(t *testing.T) {
	const back, app = "https://App.example.com:443/settings?a=b", "https://app.example.com"
	full := func(r *link.Request) { r.ReturnURL, r.Integration = back, "slack-main" }
	connected := jwt.MapClaims{"sub": "ada", "aud": app, "outcome": "connected", "channel": "#alerts", "channelId": "C01", "team": "Acme", "teamId": "T01ACME", "integrationIdentifier": "slack-main"}
	failed := func(reason string) jwt.MapClaims {
		return jwt.MapClaims{"sub": "ada", "aud": app, "outcome": "error", "reason": reason, "integrationIdentifier": "slack-main"}
	}
	pending := maps.Clone(connected)
	pending["outcome"] = "pending"
	answered := func(b *browser, callback string) page { return b.get(callback) }
	for name, c := range map[string]struct {
		breakIt func(*world)
		at      func(b *browser, authorize string) (callback string)
		look    func(b *browser, callback string) page
		popup   bool
		want    jwt.MapClaims
	}{
		"connected": {nil, (*browser).approve, answered, false, connected},
		"pending": {func(w *world) {
			w.novu.BreakAll(upstreamtest.JSON(401, `{"statusCode":401,"message":"API Key not found"}`))
		},
			(*browser).approve, answered, false, pending},
		"cancelled":               {nil, (*browser).cancel, answered, false, failed("access_denied")},
		"failed":                  {func(w *world) { w.slack.Break(slackError("bad_client_secret")) }, (*browser).approve, answered, false, failed("slack_setup")},
		"the page in a popup":     {nil, (*browser).approve, (*browser).land, true, connected},
		"a refusal in a popup":    {nil, (*browser).cancel, (*browser).land, true, failed("access_denied")},
		"a failure in a popup":    {func(w *world) { w.slack.Break(slackError("accesslimited")) }, (*browser).approve, (*browser).land, true, failed("slack_admin")},
		"a second callback of it": {nil, (*browser).approve, func(b *browser, callback string) page { b.get(callback); return b.get(callback) }, false, connected},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.breakIt != nil {
				c.breakIt(w)
			}
			b, to := w.browser(), w.link("ada", full)
			if c.popup {
				to += "&display=popup"
			}
			callback := c.at(b, b.begin(to))
			want := maps.Clone(c.want)
			want["jti"] = flowIDOf(t, callback)
			p := c.look(b, callback)
			b.wantResult(p, want)
			if n := len(p.results); n != 1 && !c.popup || c.popup && n != 2 { // the message, and the way back
				t.Errorf("got %d results", n)
			}
			if strings.Contains(w.logs.String(), p.results[0]) {
				t.Error("the log has the result")
			}
		})
	}
}

// A problem that comes before there is a flow leads back with a result without jti.
func TestSignedResultBeforeThereIsAFlow(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, _ *handler.Config) { w.links.Now = func() time.Time { return now } })
	b := w.browser()
	p := b.get(w.link("ada", func(r *link.Request) { r.ReturnURL, r.Integration = "https://app.example.com/", "unknown" }))
	p.wantCode(t, http.StatusServiceUnavailable, "novu_no_integration")
	b.wantResult(p, jwt.MapClaims{"sub": "ada", "aud": "https://app.example.com", "outcome": "error", "reason": "novu_no_integration", "integrationIdentifier": "unknown"})

	expired := w.link("ada", returnTo("https://app.example.com/"))
	now = now.Add(2 * time.Hour)
	p = b.get(expired)
	p.wantCode(t, http.StatusGone, "link_expired")
	b.wantResult(p, jwt.MapClaims{"sub": "ada", "aud": "https://app.example.com", "outcome": "error", "reason": "link_expired"})
	p = b.get(expired + "&display=popup")
	b.wantResult(p, jwt.MapClaims{"sub": "ada", "aud": "https://app.example.com", "outcome": "error", "reason": "link_expired"})

}

// Without a secret for links there is no result, and without a return URL nobody to tell.
// What is not an outcome is not signed, and neither is what was not verified.
func TestNoSignedResult(t *testing.T) {
	without := newWorld(t, func(w *world, _ *handler.Config) {
		w.links.Secrets = nil
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	})
	b := without.browser()
	p := b.get(b.approve(b.begin(without.novuStyle("ada"))))
	if p.location != "https://app.example.com?slack=connected&channel=%23alerts&team=Acme" || len(p.results) != 0 {
		t.Errorf("without a secret: got %q and results %q", p.location, p.results)
	}

	w := startWorld(t)
	b = w.browser()
	authorize := b.begin(w.link("ada", returnTo("https://app.example.com/")) + "&display=popup")
	for name, p := range map[string]page{
		"no return URL":            b.connect("bob"),
		"no return URL in a popup": b.land(b.cancel(b.begin(w.link("ada") + "&display=popup"))),
		"unfinished":               b.get("/slack/result?flow=" + flowIDOf(t, authorize)),
		"a forged link":            b.get("/slack/install?token=x"),
		"a bad return URL":         b.get(w.link("ada", returnTo("http://evil.example/"))),
	} {
		if len(p.results) != 0 {
			t.Errorf("%s: got results %q, want none", name, p.results)
		}
	}
}

// A result opens nothing: the service refuses it as a link, also where the app is on the
// service's own origin and so the audience is right.
func TestResultIsNoLink(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	p := b.get(b.cancel(b.begin(w.link("ada", returnTo(w.origin+"/settings")))))
	if len(p.results) != 1 || w.claimsOf(p.results[0])["aud"] != w.origin {
		t.Fatalf("got results %q, want one for the public origin", p.results)
	}
	stranger := w.browser()
	stranger.get("/slack/install?token="+p.results[0]).wantCode(t, http.StatusForbidden, "link_invalid")
	if len(stranger.cookies()) != 0 || !strings.Contains(w.logs.String(), "the header parameter typ is not JWT") {
		t.Errorf("the result was not refused for its typ: %s", w.logs)
	}
}

// Long return URLs and names still make a Location header that browsers, and the servers
// behind the return URL, take. Most servers limit a request line to 8 KB.
func TestLongReturnURL(t *testing.T) {
	w := newWorld(t)
	back := "https://app.example.com/settings?x=" + strings.Repeat("y", 1965)
	subscriber, integration := strings.Repeat("s", 255), strings.Repeat("i", 255)
	w.novu.SetIntegrations(novutest.Integration{Identifier: integration, Provider: "slack", Active: true})
	w.slack.Change(func(a map[string]any) {
		a["incoming_webhook"].(map[string]any)["channel"] = "#" + strings.Repeat("c", 79)
		a["team"].(map[string]any)["name"] = strings.Repeat("t", 255)
	})
	b := w.browser()
	p := b.get(b.approve(b.begin(w.link(subscriber, func(r *link.Request) { r.ReturnURL, r.Integration = back, integration }))))
	if !strings.HasPrefix(p.location, back+"&slack=connected&channel=%23cc") || len(p.results) != 1 {
		t.Fatalf("got %d to %q, %d results", p.status, p.location, len(p.results))
	}
	if n := len(p.header.Get("Location")); n > 6<<10 {
		t.Errorf("the Location header has %d bytes, want 6 KB at most", n)
	}
	if claims := w.claimsOf(p.results[0]); claims["sub"] != subscriber || claims["integrationIdentifier"] != integration {
		t.Errorf("got %v", claims)
	}
}

// The signed name of the account is on each page of a flow, as text and nothing more.
func TestAccountName(t *testing.T) {
	const name = "\u202e<b>\"Acme\" & Söhne\u2069\u202c\u200f\u202e"
	const shown = `<p class="account">Account: <bdi>&lt;b&gt;&#34;Acme&#34; &amp; Söhne</bdi></p>`
	now := time.Now()
	w := newWorld(t, func(w *world, c *handler.Config) {
		c.InstallPage = true
		w.links.Now = func() time.Time { return now }
	})
	ofAcme := func(changes ...func(*link.Request)) string {
		return w.link("ada", append(changes, func(r *link.Request) { r.AccountName = name })...)
	}
	b := w.browser()
	begin := func(to string) string { return b.do(b.request(http.MethodPost, to)).location }
	b.get(ofAcme()).want(t, http.StatusOK, "Connect Slack to", shown)
	b.get(ofAcme(), "Accept-Language", "de").want(t, http.StatusOK, strings.Replace(shown, "Account:", "Konto:", 1))
	b.land(b.approve(begin(ofAcme()))).want(t, http.StatusOK, isConnected, shown)
	b.land(b.cancel(begin(ofAcme()))).want(t, http.StatusForbidden, "You cancelled", shown)
	unfinished := flowIDOf(t, begin(ofAcme()))
	b.get("/slack/result?flow="+unfinished).want(t, http.StatusConflict, shown)
	b.get(ofAcme(func(r *link.Request) { r.Integration = "unknown" })).want(t, http.StatusServiceUnavailable, shown)
	if p := b.land(b.approve(begin(w.link("bob")))); strings.Contains(p.body, "account") {
		t.Errorf("a link without the claim: %s", p.body)
	}
	if to := b.get(b.approve(begin(ofAcme(returnTo("https://app.example.com/"))))).location; strings.Contains(to, "Acme+%26") || strings.Contains(to, "hne") {
		t.Errorf("the return URL has the account's name: %s", to)
	}

	w.slack.Break(upstreamtest.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "60"))
	b.land(b.approve(begin(ofAcme()))).want(t, http.StatusAccepted, "One moment", shown)

	expired := ofAcme()
	now = now.Add(2 * time.Hour)
	b.get(expired).want(t, http.StatusGone, shown)
}

func TestAccountNameWhilePending(t *testing.T) {
	w := newWorld(t)
	w.novu.BreakAll(upstreamtest.JSON(401, `{"statusCode":401,"message":"API Key not found"}`))
	b := w.browser()
	p := b.land(b.approve(b.begin(w.link("ada", func(r *link.Request) { r.AccountName = "Acme Ltd" }))))
	p.want(t, http.StatusOK, "Almost done", `<p class="account">Account: <bdi>Acme Ltd</bdi></p>`)
}

// Rotated secrets: the first signs results, the older ones still open links.
func TestResultIsSignedByTheFirstSecret(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	old := *w.links
	old.Secrets = []secret.String{secret.New("canary-old-link-secret")}
	signed, err := old.Sign(link.Request{Subscriber: "ada", ReturnURL: "https://app.example.com/"}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	p := b.get(b.cancel(b.begin(signed)))
	b.wantResult(p, jwt.MapClaims{"sub": "ada", "aud": "https://app.example.com", "outcome": "error", "reason": "access_denied", "integrationIdentifier": "slack-main", "jti": w.claimsOf(p.results[0])["jti"]})
}
