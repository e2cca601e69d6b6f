package handler_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream/upstreamtest"
)

// forge signs a link of any kind. Claims begin as a good link's.
func (w *world) forge(method jwt.SigningMethod, key any, claims jwt.MapClaims, header ...string) string {
	w.t.Helper()
	all := jwt.MapClaims{"sub": "ada", "aud": w.origin, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(method, all)
	for i := 0; i+1 < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.origin + handler.InstallPath + "?token=" + text
}

func TestInstallLinkAttacks(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) { w.links.Environment = "env1" })
	key := []byte(linkSecret)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := w.forge(jwt.SigningMethodHS256, key, nil)
	token := strings.TrimPrefix(good, w.origin+"/slack/install?token=")
	parts := strings.Split(token, ".")
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	signature[0] ^= 1
	other, _ := json.Marshal(map[string]any{"sub": "bob", "aud": w.origin, "exp": time.Now().Add(time.Hour).Unix()})
	install := w.origin + "/slack/install?"

	attacks := map[string]struct {
		link   string
		status int
		code   string
	}{
		"guessed subscriber":           {install + "subscriberId=ada", 403, "link_invalid"},
		"guessed, empty hash":          {install + "subscriberId=ada&hmacHash=", 403, "link_invalid"},
		"another subscriber's hash":    {install + "subscriberId=ada&hmacHash=" + w.hmac("bob"), 403, "link_invalid"},
		"shortened hash":               {install + "subscriberId=ada&hmacHash=" + w.hmac("ada")[:62], 403, "link_invalid"},
		"hash that is not hex":         {install + "subscriberId=ada&hmacHash=" + strings.Repeat("z", 64), 403, "link_invalid"},
		"nothing":                      {install, 403, "link_invalid"},
		"malformed query":              {install + "token=%zz", 403, "link_invalid"},
		"two tokens":                   {good + "&token=" + token, 403, "link_invalid"},
		"token and subscriber":         {good + "&subscriberId=bob&hmacHash=" + w.hmac("bob"), 403, "link_invalid"},
		"two hashes":                   {w.novuStyle("ada") + "&hmacHash=" + w.hmac("bob"), 403, "link_invalid"},
		"two integrations":             {w.novuStyle("ada", "integrationIdentifier", "a") + "&integrationIdentifier=b", 403, "link_invalid"},
		"two environments":             {w.novuStyle("ada", "environmentId", "env1") + "&environmentId=env2", 403, "link_invalid"},
		"two return URLs":              {w.novuStyle("ada") + "&returnUrl=&returnUrl=x", 403, "link_invalid"},
		"signature's spare bits":       {install + "token=" + spareBits(token), 403, "link_invalid"},
		"long token, rightly signed":   {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"x": strings.Repeat("A", 5000)}), 403, "link_invalid"},
		"expired, not yet valid":       {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"exp": 1, "nbf": time.Now().Add(time.Hour).Unix()}), 403, "link_invalid"},
		"two subscribers":              {w.novuStyle("ada") + "&subscriberId=bob", 403, "link_invalid"},
		"altered signature":            {install + "token=" + parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature), 403, "link_invalid"},
		"no signature":                 {install + "token=" + parts[0] + "." + parts[1] + ".", 403, "link_invalid"},
		"another subscriber's payload": {install + "token=" + parts[0] + "." + base64.RawURLEncoding.EncodeToString(other) + "." + parts[2], 403, "link_invalid"},
		"another secret":               {w.forge(jwt.SigningMethodHS256, []byte("guess"), nil), 403, "link_invalid"},
		"empty secret":                 {w.forge(jwt.SigningMethodHS256, []byte(""), nil), 403, "link_invalid"},
		"alg none":                     {w.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), 403, "link_invalid"},
		"HS512":                        {w.forge(jwt.SigningMethodHS512, key, nil), 403, "link_invalid"},
		"RS256":                        {w.forge(jwt.SigningMethodRS256, rsaKey, nil), 403, "link_invalid"},
		"RS256 claimed, HMAC made":     {relabel(good, "HS256", "RS256"), 403, "link_invalid"},
		"critical header":              {w.forge(jwt.SigningMethodHS256, key, nil, "crit", "b64"), 403, "link_invalid"},
		"wrong audience":               {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"aud": "https://evil.example"}), 403, "link_invalid"},
		"no audience":                  {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"aud": nil}), 403, "link_invalid"},
		"audience with a path":         {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"aud": w.origin + "/x"}), 403, "link_invalid"},
		"no expiry":                    {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"exp": nil}), 403, "link_invalid"},
		"expiry is text":               {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"exp": "never"}), 403, "link_invalid"},
		"not yet valid":                {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"nbf": time.Now().Add(time.Hour).Unix()}), 403, "link_invalid"},
		"subscriber is a number":       {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"sub": 1}), 403, "link_invalid"},
		"another environment":          {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"environmentId": "env2"}), 403, "link_invalid"},
		"another environment, Novu":    {w.novuStyle("ada", "environmentId", "env2"), 403, "link_invalid"},
		"control byte in integration":  {w.novuStyle("ada", "integrationIdentifier", "a\x00b"), 403, "link_invalid"},
		"long integration":             {w.novuStyle("ada", "integrationIdentifier", strings.Repeat("x", 256)), 403, "link_invalid"},
		"10 kB token":                  {install + "token=" + strings.Repeat("A", 10_000), 403, "link_invalid"},
		"merely expired":               {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"exp": time.Now().Add(-2 * time.Minute).Unix()}), 410, "link_expired"},
		"expired, wrong audience":      {w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"exp": 1, "aud": "x"}), 403, "link_invalid"},
		"expired, wrong secret":        {w.forge(jwt.SigningMethodHS256, []byte("guess"), jwt.MapClaims{"exp": 1}), 403, "link_invalid"},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			p := w.browser().get(attack.link)
			p.wantCode(t, attack.status, attack.code)
			if len(p.header.Values("Set-Cookie")) != 0 {
				t.Error("a cookie was set")
			}
		})
	}
	if got := w.backend.touched(); got != 0 {
		t.Errorf("got %d store calls, want none", got)
	}
	w.wantNothingOut()

	w.browser().begin(good) // the bad ones failed for what is bad about them
	w.browser().begin(w.forge(jwt.SigningMethodHS256, []byte("canary-old-link-secret"), nil))
	w.browser().begin(w.forge(jwt.SigningMethodHS256, key, jwt.MapClaims{"aud": []string{"x", w.origin}, "environmentId": "env1"}))
}

// spareBits changes the bits of a token's last character that mean nothing: a
// lenient decoder takes it for the same signature.
func spareBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last^1:last^1+1]
}

// relabel changes the algorithm that a token claims and leaves the rest.
func relabel(link, from, to string) string {
	base, token, _ := strings.Cut(link, "token=")
	header, rest, _ := strings.Cut(token, ".")
	text, _ := base64.RawURLEncoding.DecodeString(header)
	return base + "token=" + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), from, to, 1))) + "." + rest
}

func TestLinksWithoutAnySecretNeverVerify(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.Secrets, w.links.APIKeys = []secret.String{{}}, []secret.String{{}}
	})
	w.novu.APIKey = ""
	w.browser().get(w.novuStyle("ada")).wantCode(t, http.StatusForbidden, "link_invalid")
	w.browser().get(w.forge(jwt.SigningMethodHS256, []byte(""), nil)).wantCode(t, http.StatusForbidden, "link_invalid")
}

func TestClockSkewOfAMinuteStillVerifies(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(w *world, _ *handler.Config) { w.links.Now = func() time.Time { return now } })
	w.browser().begin(w.forge(jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"exp": now.Add(-50 * time.Second).Unix()}))
	w.browser().begin(w.forge(jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"iat": now.Add(50 * time.Second).Unix(), "nbf": now.Add(50 * time.Second).Unix()}))
}

func TestLinksAreReusable(t *testing.T) {
	w := newWorld(t)
	link := w.link("ada")
	for range 3 {
		b := w.browser()
		b.land(b.approve(b.begin(link))).want(t, http.StatusOK, isConnected)
	}
}

// Delimiter games: no two different requests share a signature. The only text
// that a Novu-style hash covers is the whole subscriber ID.
func TestNoTwoRequestsShareASignature(t *testing.T) {
	w := newWorld(t)
	for _, pair := range [][2]string{{"a", "a&environmentId=b"}, {"a:b", "a"}, {"a", "a "}, {"A", "a"}, {"a%20b", "a b"}, {"a+b", "a b"}} {
		q := url.Values{"subscriberId": {pair[0]}, "hmacHash": {w.hmac(pair[1])}}
		w.browser().get("/slack/install?"+q.Encode()).wantCode(t, http.StatusForbidden, "link_invalid")
	}
	if w.hmac("ab") == w.hmac("a")+w.hmac("b") {
		t.Error("the hash is not one of the whole")
	}
}

func TestLoginCSRF(t *testing.T) {
	w := newWorld(t)
	attacker, victim := w.browser(), w.browser()
	callback := attacker.approve(attacker.begin(w.link("attacker")))

	victim.get(callback).wantCode(t, http.StatusForbidden, "other_browser")
	// Also when the victim's browser has a flow of its own.
	own := victim.begin(w.link("victim"))
	victim.get(callback).wantCode(t, http.StatusForbidden, "other_browser")
	// Also when the attacker's state comes under the victim's cookie's value.
	id, _ := state.FlowID(secret.New(stateOf(t, callback)))
	name := strings.TrimSuffix(victim.cookies()[0].Name, flowIDOf(t, own)) + id
	victim.get(callback, "Cookie", name+"="+victim.cookies()[0].Value).wantCode(t, http.StatusGone, "state_not_found")
	w.wantNothingOut()

	// Neither flow is burned.
	attacker.land(callback).want(t, http.StatusOK, isConnected)
	victim.land(victim.approve(own)).want(t, http.StatusOK, isConnected)
	w.wantWebhook("attacker", 0)
	w.wantWebhook("victim", 1)
}

func flowIDOf(t *testing.T, target string) string {
	t.Helper()
	id, ok := state.FlowID(secret.New(stateOf(t, target)))
	if !ok {
		t.Fatalf("%q has no state of ours", target)
	}
	return id
}

func TestOthersCannotSeeTheResult(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	result := b.get(callback).location
	p := w.browser().get(result)
	p.wantCode(t, http.StatusForbidden, "other_browser")
	if strings.Contains(p.body, "#alerts") {
		t.Error("another browser sees the channel")
	}
}

func TestOddCookiesAreRefusedOrIgnored(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, func(w *world, c *handler.Config) { c.RedirectURL.Scheme = scheme })
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			good := b.cookies()[0]
			for name, header := range map[string]string{
				"none":            "",
				"empty":           good.Name + "=",
				"junk":            good.Name + "=" + strings.Repeat("!", 32),
				"short":           good.Name + "=" + good.Value[1:],
				"10 kB":           good.Name + "=" + strings.Repeat("A", 10_000),
				"two of one name": good.Name + "=" + good.Value + "; " + good.Name + "=" + state.NewOwner(),
				"tossed first":    good.Name + "=" + state.NewOwner() + "; " + good.Name + "=" + good.Value,
				"other name":      strings.ToUpper(good.Name) + "=" + good.Value,
				"no pair at all":  "=;;=; ,,;" + good.Name,
				"wrong value":     good.Name + "=" + state.NewOwner(),
			} {
				for _, target := range []string{callback, "/slack/result?flow=" + flowIDOf(t, callback)} {
					stranger := w.browser()
					req := stranger.request(http.MethodGet, target)
					if header != "" {
						req.Header["Cookie"] = []string{header}
					}
					if p := stranger.do(req); p.status != http.StatusForbidden && p.status != http.StatusGone && p.status != http.StatusBadRequest {
						t.Errorf("%s: got %d, want a calm 4xx", name, p.status)
					}
				}
			}
			if scheme == "http" { // Go's client does not send control bytes
				conn, err := net.Dial("tcp", strings.TrimPrefix(w.origin, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				u, _ := url.Parse(callback)
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: %s=\x01\x02%s\r\n\r\n", u.RequestURI(), good.Name, good.Value)
				answer, _ := io.ReadAll(conn)
				if !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
					t.Errorf("control bytes: got %.40q, want a calm 4xx", answer)
				}
			}
			w.wantNothingOut()
			// Quoted is how some proxies rewrite it; the same value twice is no toss.
			stranger := w.browser()
			req := stranger.request(http.MethodGet, callback)
			req.Header["Cookie"] = []string{`x=y; ` + good.Name + `="` + good.Value + `"; ` + good.Name + "=" + good.Value}
			if p := stranger.do(req); p.status != http.StatusSeeOther {
				t.Errorf("quoted: got %d, want 303: %s", p.status, p.body)
			}
			w.wantWebhook("ada", 0)
		})
	}
}

func TestCookieAttributes(t *testing.T) {
	t.Parallel()
	for scheme, want := range map[string]string{
		"https": `^__Host-slack_flow_[\w-]{24}=[\w-]{32}; Path=/; Max-Age=900; HttpOnly; Secure; SameSite=Lax$`,
		"http":  `^slack_flow_[\w-]{24}=[\w-]{32}; Path=/; Max-Age=900; HttpOnly; SameSite=Lax$`,
	} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, func(w *world, c *handler.Config) { c.RedirectURL.Scheme = scheme })
			got := w.browser().get(w.link("ada")).header.Values("Set-Cookie")
			if len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
				t.Errorf("got %q, want %s", got, want)
			}
		})
	}
}

// The result outlives the time that was allowed at Slack, and so does its cookie.
func TestCookieIsRenewedWithTheResult(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	held := b.cookies()[0]
	got := b.get(callback).header.Values("Set-Cookie")
	if len(got) != 1 || !strings.HasPrefix(got[0], held.Name+"="+held.Value+"; Path=/; Max-Age=900;") {
		t.Errorf("got %q, want the same cookie for another 15 minutes", got)
	}
}

// A person's own mistakes and a stranger's requests do not alarm the operator.
func TestStrangersCannotAlarmTheOperator(t *testing.T) {
	w := newWorld(t)
	for _, query := range []string{"error=bad_client_secret", "error=x", "error=access_denied", "code=x", "state=x&error=bad_client_secret", "code=x&state=" + state.NewOwner()} {
		w.browser().get("/slack/callback?" + query)
	}
	w.browser().get("/slack/install?token=x")
	if strings.Contains(w.logs.String(), `"level":"error"`) {
		t.Errorf("the log has an error: %s", w.logs)
	}
}

// Who holds a link has a state of their own, and can write any error beside it: no
// error line, and no critical alert. What Slack's authorize page is
// known to say of the app does alarm.
func TestLinkHoldersCannotAlarmTheOperator(t *testing.T) {
	counts := metrics.New()
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Metrics = counts })
	write := func(code string, status int, want string) {
		t.Helper()
		b := w.browser()
		callback := b.cancel(b.begin(w.link("ada")))
		b.land(strings.Replace(callback, "error=access_denied", "error="+code, 1)).wantCode(t, status, want)
	}
	write("bad_client_secret", http.StatusBadGateway, "slack_setup")
	write("bad_webhook", http.StatusBadGateway, "slack_unknown")
	write("no_webhook", http.StatusBadGateway, "slack_unknown")
	write("unavailable", http.StatusBadGateway, "slack_unknown")
	write("canary", http.StatusBadGateway, "slack_unknown")
	write("accesslimited", http.StatusForbidden, "slack_admin")
	write("org_install", http.StatusBadGateway, "slack_unknown")
	if strings.Contains(w.logs.String(), `"level":"error"`) {
		t.Errorf("the log has an error: %s", w.logs)
	}
	for _, code := range []string{"slack_setup", "slack_unknown", "bad_webhook", "no_webhook"} {
		wantCount(t, counts, `problems_total{code="`+code+`"} 0`)
	}

	write("invalid_team_for_non_distributed_app", http.StatusForbidden, "not_distributed")
	wantCount(t, counts, `problems_total{code="not_distributed"} 1`)
	write("invalid_scope", http.StatusBadGateway, "slack_setup")
	wantCount(t, counts, `problems_total{code="slack_setup"} 1`)
	if !strings.Contains(w.logs.String(), `"level":"error"`) {
		t.Errorf("an app that is not distributed alarms nobody: %s", w.logs)
	}
}

// The integration of a Novu-style link is in nobody's hash: that it is missing in
// Novu alarms nobody. A signed link's, and the operator's, does.
func TestMissingIntegrationAlarms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		link  func(w *world) string
		alarm string
	}{
		"the holder's":   {func(w *world) string { return w.novuStyle("ada", "integrationIdentifier", "gone") }, "0"},
		"the app's":      {func(w *world) string { return w.link("ada", func(r *link.Request) { r.Integration = "gone" }) }, "1"},
		"the operator's": {func(w *world) string { return w.novuStyle("ada") }, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			counts := metrics.New()
			w := newWorld(t, func(_ *world, c *handler.Config) { c.Metrics, c.Novu = counts, withoutIntegration{} })
			w.browser().get(c.link(w)).wantCode(t, http.StatusServiceUnavailable, "novu_no_integration")
			wantCount(t, counts, `problems_total{code="novu_no_integration"} `+c.alarm)
			if got := strings.Contains(w.logs.String(), `"level":"error"`); got != (c.alarm == "1") {
				t.Errorf("the log: %s", w.logs)
			}
		})
	}
}

// Novu does not answer at install, and does not have the integration at the save: one that
// the holder of a Novu-style link made up ends the flow, and nobody is alarmed.
func TestMissingIntegrationAtTheSave(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		link func(w *world) string
		ends bool
	}{
		"the holder's":   {func(w *world) string { return w.novuStyle("ada", "integrationIdentifier", "gone") }, true},
		"the app's":      {func(w *world) string { return w.link("ada", func(r *link.Request) { r.Integration = "gone" }) }, false},
		"the operator's": {func(w *world) string { return w.novuStyle("ada", "integrationIdentifier", "operators") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			counts := metrics.New()
			w := newWorld(t, func(w *world, c *handler.Config) {
				c.Metrics, c.Novu, w.links.Integration = counts, silentAtInstall{}, "operators"
			})
			b := w.browser()
			p := b.land(b.approve(b.begin(c.link(w))))
			if c.ends {
				p.wantCode(t, http.StatusServiceUnavailable, "novu_no_integration")
				p.want(t, p.status, "https://t01acme.slack.com/services/B00000001") // where the person removes it
				w.wantWaiting(0)
			} else {
				p.want(t, http.StatusOK, "Almost done")
				w.wantWaiting(1)
			}
			w.wantNoWebhook("ada")
			wantCount(t, counts, `problems_total{code="novu_no_integration"} 0`)
			if got := strings.Contains(w.logs.String(), `"level":"error"`); got == c.ends {
				t.Errorf("an error in the log is %t, want %t: %s", got, !c.ends, w.logs)
			}
		})
	}
}

type silentAtInstall struct{}

func (silentAtInstall) ResolveIntegration(context.Context, string, bool) (string, error) {
	return "", &novuclient.Error{Reason: novuclient.Unavailable}
}

type withoutIntegration struct{}

func (withoutIntegration) ResolveIntegration(context.Context, string, bool) (string, error) {
	return "", &novuclient.Error{Reason: novuclient.NoIntegration}
}

// wantCount looks for a line of the metrics.
func wantCount(t *testing.T, counts *metrics.Metrics, line string) {
	t.Helper()
	eventually(t, "the metrics say "+line, func() bool { // what the worker counts comes after what it stores
		answer := httptest.NewRecorder()
		counts.Handler("test", nobodyWaits{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return strings.Contains(answer.Body.String(), "slack_redirect_"+line+"\n")
	})
}

type nobodyWaits struct{}

func (nobodyWaits) Waiting(context.Context) (turns, deliveries, events metrics.Waiting, err error) {
	return
}

// Who hangs up has not broken the store.
func TestHangingUpIsNoFault(t *testing.T) {
	counts := metrics.New()
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Metrics = counts })
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	b := w.browser()
	b.connect("ada")
	for _, target := range []string{w.link("ada"), "/slack/result?flow=" + strings.TrimPrefix(b.cookies()[0].Name, "slack_flow_"), "/readyz"} {
		answer := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(gone, http.MethodGet, target, nil)
		for _, cookie := range b.cookies() {
			req.AddCookie(cookie)
		}
		w.routes.ServeHTTP(answer, req)
		if answer.Code >= 400 {
			t.Errorf("got %d: %s", answer.Code, answer.Body)
		}
	}
	wantCount(t, counts, "store_errors_total 0")
	if strings.Contains(w.logs.String(), `"level":"error"`) {
		t.Errorf("the store is said to have failed: %s", w.logs)
	}
}

// What the alert about the store watches counts whoever meets it, once.
func TestStoreErrorsAreCounted(t *testing.T) {
	counts := metrics.New()
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Metrics = counts })
	b := w.browser()
	link := w.link("ada")
	callback := b.approve(b.begin(link))
	w.backend.down.Store(true)
	for n, target := range []string{link, "/slack/result?flow=" + flowIDOf(t, callback), b.cancel(callback), callback} {
		b.get(target).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
		wantCount(t, counts, fmt.Sprintf("store_errors_total %d", n+1))
	}
}

func TestWrongMethodsAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		for _, target := range []string{"/", "/slack/install", "/slack/callback", "/slack/result"} {
			w.browser().do(w.browser().request(method, target)).wantCode(t, http.StatusMethodNotAllowed, "method_not_allowed")
		}
	}
	w.browser().get("/nothing").wantCode(t, http.StatusNotFound, "not_found")
}

func TestOnlyTheInstallPageTakesAForm(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.InstallPage = true })
	for _, target := range []string{"/", "/slack/callback", "/slack/result", "/slack/assets/style.css"} {
		w.browser().do(w.browser().request(http.MethodPost, target)).wantCode(t, http.StatusMethodNotAllowed, "method_not_allowed")
	}
}

func TestCookieFlood(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	var authorize []string
	for range 8 {
		authorize = append(authorize, b.begin(w.link("ada")))
		if got := len(b.cookies()); got > 5 {
			t.Fatalf("got %d flow cookies, want at most 5", got)
		}
	}
	b.get(b.approve(authorize[2])).wantCode(t, http.StatusForbidden, "other_browser")
	for _, a := range authorize[3:] { // the five newest
		b.land(b.approve(a)).want(t, http.StatusOK, isConnected)
	}
}

func TestOddCallbackQueries(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	issued := w.backend.touched()
	u, _ := url.Parse(callback)
	good, code := u.Query().Get("state"), u.Query().Get("code")

	long := strings.Repeat("A", 10_000)
	values := []string{"", "%20", long, long[:1025], "%00", "a%0d%0ab", "..%2f..%2fetc%2fpasswd", "%ff%fe", "%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "é", "%", "{{7*7}}", "%E2%80%AE"}
	var queries []string
	for _, v := range values {
		queries = append(queries, "code="+code+"&state="+v)
		if v != "{{7*7}}" && v != "..%2f..%2fetc%2fpasswd" && v != "%22%3E%3Cscript%3Ealert(1)%3C/script%3E" { // visible ASCII is a code that Slack may judge
			queries = append(queries, "code="+v+"&state="+good, "error="+v+"&state="+good)
		}
	}
	queries = append(queries, "", "state="+good, "code="+code+"&code="+code+"&state="+good, "code="+code+"&state="+good+"&state="+good,
		"error=access_denied&code="+code+"&state="+good, "error=a&error=b&state="+good, "code="+code+"&state="+good+"A", "code="+code+"&state="+good[1:],
		"code="+code+"&state="+good+"%00", "code="+code+";state="+good, "code="+code+"&state="+strings.ToLower(good)+"."+good, strings.Repeat("x=y&", 3000)+"code="+code+"&state="+good,
		"code="+code+"&flow="+flowIDOf(t, callback), "code="+code+"&state=x&again="+flowIDOf(t, callback)) // only the state tells the flow
	for _, query := range queries {
		p := b.get("/slack/callback?" + query)
		if p.status != http.StatusBadRequest {
			t.Errorf("%.80s: got %d, want 400", query, p.status)
		}
		for _, text := range []string{"script>alert", "7*7", "49", "passwd", code, good, "AAAAAAAA"} {
			if strings.Contains(p.body, text) {
				t.Errorf("%.80s: the page echoes %q", query, text)
			}
		}
	}
	if got := w.backend.touched() - issued; got != 0 {
		t.Errorf("got %d store calls, want none", got)
	}
	w.wantNothingOut()
	b.land(callback).want(t, http.StatusOK, isConnected) // and nothing was burned
}

// An error that Slack sends back, known or not, never reaches the page.
func TestErrorsFromTheAuthorizePage(t *testing.T) {
	w := newWorld(t)
	for sent, want := range map[string]struct {
		status int
		code   string
	}{
		"access_denied":                        {403, "access_denied"},
		"invalid_scope":                        {502, "slack_setup"},
		"invalid_team_for_non_distributed_app": {403, "not_distributed"},
		"<script>alert(1)</script>":            {502, "slack_unknown"},
	} {
		b := w.browser()
		q := url.Values{"error": {sent}, "state": {stateOf(t, b.begin(w.link("ada")))}}
		p := b.land(w.slack.RedirectURL + "?" + q.Encode())
		p.wantCode(t, want.status, want.code)
		if strings.Contains(p.body, "alert(1)") {
			t.Errorf("the page echoes %s", sent)
		}
		if sent != "access_denied" { // without a state, that alone says what happened
			want.status, want.code = http.StatusBadRequest, "state_missing"
		}
		w.browser().get("/slack/callback?"+url.Values{"error": {sent}}.Encode()).wantCode(t, want.status, want.code)
	}
	if strings.Contains(w.logs.String(), "alert(1)") {
		t.Error("the log echoes the query")
	}
	w.wantNothingOut()
}

// A code of the authorize page that no list has is in the log, cleaned and bounded, and
// not on the page.
func TestUnknownCodesAreInTheLog(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	for sent, logged := range map[string]string{
		"unapproved_scope":                    "slack: unapproved_scope",
		"no_bot_scopes_requested":             "slack: no_bot_scopes_requested",
		"Some-New.Code_2":                     "slack: SomeNewCode_2",
		`"><script>alert(1)</script>`:         "slack: scriptalert1script",
		"x\\u0000{}\"":                        "slack: xu0000",
		strings.Repeat("a", 1000):             "slack: " + strings.Repeat("a", 64),
		"/../":                                "slack: unreadable_error",
		slackoauth.CodeNoWebhook:              "slack: no_webhook",
		"unapproved_scope,incoming-webhook:x": "slack: unapproved_scopeincomingwebhookx",
	} {
		before := len(w.logs.String())
		p := b.land(w.slack.RedirectURL + "?" + url.Values{"error": {sent}, "state": {stateOf(t, authorize)}}.Encode())
		p.wantCode(t, http.StatusBadGateway, "slack_unknown")
		if strings.Contains(p.body, sent) || strings.Contains(p.body, strings.TrimPrefix(logged, "slack: ")) {
			t.Errorf("%.40s: the page shows the code: %s", sent, p.body)
		}
		line := w.logs.String()[before:]
		if !strings.Contains(line, `"code":"slack_unknown","error":"`+logged+`"`) || !strings.Contains(line, `"subscriber":"ada"`) {
			t.Errorf("%.40s: got %s, want the error %s", sent, line, logged)
		}
	}
	w.wantNothingOut()
	b.land(b.approve(authorize)).want(t, http.StatusOK, isConnected) // and nothing was spent
}

// Slack sends access_denied for Cancel and for a person who may not install: the page fits
// both, and the log tells them apart.
func TestAccessDeniedHasTwoCauses(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	authorize := b.begin(w.link("ada"))
	for _, c := range []struct{ description, logged string }{
		{"&error_description=The+user+cancelled%22%3Cb%3E", "with an error_description: the person cancelled"},
		{"", "without an error_description: the workspace may not let the person install apps"},
		{"&error_description=", "without an error_description: the workspace may not let the person install apps"},
	} {
		for _, p := range []page{b.land(b.cancel(authorize) + c.description), b.get("/slack/callback?error=access_denied" + c.description), b.get("/slack/callback?error=access_denied&code=&state=" + c.description)} {
			p.wantCode(t, http.StatusForbidden, "access_denied")
			p.want(t, http.StatusForbidden, "You cancelled, or your workspace doesn’t let you install apps without an admin’s approval.")
		}
		if got := strings.Count(w.logs.String(), `"error":"slack: access_denied, `+c.logged); got < 3 {
			t.Errorf("error_description %q: the log says %d times %q, want 3: %s", c.description, got, c.logged, w.logs)
		}
		if c.description != "" && strings.Contains(w.logs.String(), "user cancelled") {
			t.Errorf("the log shows the query's text: %s", w.logs)
		}
	}
	w.wantNothingOut()
	b.land(b.approve(authorize)).want(t, http.StatusOK, isConnected)
}

// Installs that begin inside Slack have no state, or an empty one.
func TestInstallBegunInsideSlack(t *testing.T) {
	w := newWorld(t)
	for _, query := range []string{"code=123.456", "code=123.456&state=", "state=&code=123.456&error=", "error=invalid_scope&state="} {
		w.browser().get("/slack/callback?"+query).wantCode(t, http.StatusBadRequest, "state_missing")
	}
	w.wantNothingOut()
}

// An empty parameter is an absent one, also beside one that is not.
func TestEmptyParametersAreAbsentOnes(t *testing.T) {
	w := newWorld(t)
	for _, empty := range []string{"&error=", "&error=&error_description=", "&code=", "&state=", "&error=&error=&code="} {
		b := w.browser()
		authorize := b.begin(w.link("ada"))
		b.land(b.cancel(authorize)+empty+"&code=").wantCode(t, http.StatusForbidden, "access_denied")
		b.land(b.approve(authorize)+empty).want(t, http.StatusOK, isConnected)
	}
	b := w.browser()
	b.get("/slack/callback?code=&error=&state="+stateOf(t, b.begin(w.link("ada")))).wantCode(t, http.StatusBadRequest, "request_invalid")
}

// Success without a webhook has a remedy that fits its cause.
func TestSuccessWithoutAWebhook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change                      map[string]any
		status                      int
		code, page, remedy, without string
	}{
		"org-wide install": {map[string]any{"is_enterprise_install": true, "team": nil, "enterprise": map[string]any{"id": "E01", "name": "Acme"}}, 403, "org_install",
			"pick one workspace", "to one workspace", "the bot scope"},
		"missing scope":       {map[string]any{"scope": "chat:write"}, 502, "no_webhook", "on our side", "the bot scope incoming-webhook", "workspace"},
		"a word for the bool": {map[string]any{"is_enterprise_install": "false"}, 502, "no_webhook", "on our side", "the bot scope incoming-webhook", "workspace"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Change(func(answer map[string]any) {
				delete(answer, "incoming_webhook")
				maps.Copy(answer, c.change)
			})
			b := w.browser()
			p := b.land(b.approve(b.begin(w.link("ada"))))
			p.wantCode(t, c.status, c.code)
			p.want(t, c.status, c.page)
			_, rest, _ := strings.Cut(w.logs.String(), `"code":"`+c.code+`"`)
			_, rest, _ = strings.Cut(rest, `"remedy":"`)
			if remedy, _, _ := strings.Cut(rest, `"`); !strings.Contains(remedy, c.remedy) || strings.Contains(remedy, c.without) {
				t.Errorf("got remedy %q, want one that says %q", remedy, c.remedy)
			}
			if name == "org-wide install" { // a choice of the person's: Start again helps, and nobody is alarmed
				w.slack.Change(nil)
				b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, isConnected)
			}
			if got := strings.Contains(w.logs.String(), `"level":"error"`); got != (c.code == "no_webhook") {
				t.Errorf("an error in the log is %t: %s", got, w.logs)
			}
			w.wantWaiting(0)
		})
	}
}

func TestUnknownAndExpiredState(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	st := state.NewOwner()
	id, _ := state.FlowID(secret.New(st))
	before := w.backend.touched()
	b.get("/slack/callback?code=x&state="+st, "Cookie", "slack_flow_"+id+"="+state.NewOwner()).wantCode(t, http.StatusGone, "state_not_found")
	if got := w.backend.touched() - before; got != 1 {
		t.Errorf("a junk callback cost %d look-ups, want 1", got)
	}
	w.wantNothingOut()
}

func TestWorkspaceMismatch(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	pinned := func(r *link.Request) { r.TeamID = "T02GLOBEX" }
	authorize := b.begin(w.link("ada", pinned))
	if !strings.Contains(authorize, "&team=T02GLOBEX") {
		t.Errorf("the workspace is not preselected: %s", authorize)
	}
	p := b.land(b.approve(authorize))
	p.wantCode(t, http.StatusForbidden, "workspace_mismatch")
	w.wantNoNovuWrites()
	again, err := w.slack.Approve(b.begin(startAgain(t, p)), "T02GLOBEX", "#ops")
	if err != nil {
		t.Fatal(err)
	}
	b.land(again).want(t, http.StatusOK, isConnected, "#ops")

	// An organisation-wide install has no workspace: it is not the pinned one.
	w.slack.Change(func(a map[string]any) { a["team"] = nil })
	b.land(b.approve(b.begin(w.link("bob", pinned)))).wantCode(t, http.StatusForbidden, "workspace_mismatch")
	w.wantNoWebhook("bob")
}

func TestScannersAndPrefetchChangeNothing(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	before := w.backend.touched()
	shareable := "/v1/subscribers/ada/credentials/slack/oauth?hmacHash=" + w.hmac("ada")
	for _, target := range []string{w.link("ada"), w.novuStyle("ada"), shareable, callback} {
		for name, req := range map[string]*http.Request{
			"HEAD":                  b.request(http.MethodHead, target),
			"Sec-Purpose prefetch":  b.request(http.MethodGet, target, "Sec-Purpose", "prefetch;prerender"),
			"Purpose prefetch":      b.request(http.MethodGet, target, "Purpose", "prefetch"),
			"X-Moz prefetch":        b.request(http.MethodGet, target, "X-Moz", "prefetch"),
			"Sec-Purpose prerender": b.request(http.MethodGet, target, "Sec-Purpose", "prerender"),
			"X-Purpose preview":     b.request(http.MethodGet, target, "X-Purpose", "preview"),
			"Purpose preview":       b.request(http.MethodGet, target, "Purpose", "preview"),
		} {
			p := b.do(req)
			if p.location != "" || len(p.header.Values("Set-Cookie")) != 0 || p.body != "" {
				t.Errorf("%s: got %d to %q with cookies %v", name, p.status, p.location, p.header.Values("Set-Cookie"))
			}
		}
	}
	if got := w.backend.touched(); got != before {
		t.Errorf("got %d store calls, want none", got-before)
	}
	w.wantNothingOut()
	b.land(callback).want(t, http.StatusOK, isConnected)
}

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
	"http://localhost:3001/x", "http://localhost/x", "http://localhost.evil.example:3000/x", "http://127.0.0.1.evil.example:3000/", "http://2130706433:3000/", "http://0x7f.1:3000/", "http://[::ffff:127.0.0.1]:3000/", "http://0:3000/", "https://localhost:3000/x",
	"ftp://app.example.com/settings", "wss://app.example.com/settings", "HTTPS:app.example.com/settings",
	"https://app.example.com/settings" + strings.Repeat("/x", 1100),
}

func TestOpenRedirectTricksAreRefusedAtInstall(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}, {Scheme: "http", Host: "localhost:3000"}}
	})
	b := w.browser()
	for _, trick := range returnURLTricks {
		p := b.get(w.novuStyle("ada", "returnUrl", trick))
		p.wantCode(t, http.StatusForbidden, "return_url_not_allowed")
		if strings.Contains(p.body, "evil") {
			t.Errorf("%q: the page echoes it", trick)
		}
	}
	if got := w.backend.touched(); got != 0 {
		t.Errorf("got %d store calls, want none", got)
	}
	w.wantNothingOut()
	for _, good := range []string{"https://app.example.com/settings", "https://app.example.com:443/settings/", "https://APP.example.com/settings/a/b?c=%2e%2e#d", "http://localhost:3000", "http://localhost:3000/x"} {
		b.begin(w.novuStyle("ada", "returnUrl", good))
	}
	// A signature is trusted as to where, not as to what a URL is.
	for _, trick := range []string{
		"https://app.example.com:0443/", "https://1.2.3.256/", "https://a.0x1/", "https://1.2.3/", "https://256/", "https://0x7f.0.0.1/",
		"http://app.example.com/", "javascript:alert(1)", "//evil.example", "https://a@evil.example/", "https://evil.example\\x", "https://evil.example/\x00",
	} {
		b.get(w.link("ada", returnTo(trick))).wantCode(t, http.StatusForbidden, "return_url_not_allowed")
	}
}

func TestPoisonedWebhookURLs(t *testing.T) {
	w := newWorld(t)
	for n, poison := range []any{
		"http://hooks.slack.com/services/T/B/X", "https://evil.example/services/T/B/X", "https://hooks.slack.com.evil.example/services/x", "https://hooks-slack.com/services/x",
		"https://hooks.slack.com@evil.example/services/x", "https://user:pw@hooks.slack.com/services/x", "https://hooks.slack.com:8443/services/x", "https://hooks.slack.com:443/services/x",
		"https://127.0.0.1/services/x", "https://169.254.169.254/latest/meta-data", "https://[::1]/services/x", "https://hooks.slack.com/services/x?y=z", "https://hooks.slack.com/services/x?",
		"https://hooks.slack.com/services/x#y", "https://hooks.slack.com/services/x#", "https://HOOKS.slack.com/services/x", "https://hooks.slack.com./services/x", "https://hooks.slack-gov.com/services/x",
		"https://hooks.slack.com\\@evil.example/", "https://hooks.slack.com/services/\nx", "https://hooks.slack.com", "https://hooks.slack.com/", "//hooks.slack.com/services/x", "hooks.slack.com/services/x", "https://hooks.sⅼack.com/services/x",
		"https://hooks.slack.com/" + strings.Repeat("x", 2000), "javascript:alert(1)",
	} {
		w.slack.Change(func(a map[string]any) { a["incoming_webhook"].(map[string]any)["url"] = poison })
		b := w.browser()
		b.land(b.approve(b.begin(w.link(fmt.Sprint("user-", n))))).wantCode(t, http.StatusBadGateway, "bad_webhook")
	}
	for _, change := range []func(map[string]any){
		func(a map[string]any) { a["incoming_webhook"] = nil },
		func(a map[string]any) { delete(a, "incoming_webhook") },
		func(a map[string]any) { a["incoming_webhook"].(map[string]any)["url"] = "" },
	} {
		w.slack.Change(change)
		b := w.browser()
		b.land(b.approve(b.begin(w.link("ada")))).wantCode(t, http.StatusBadGateway, "no_webhook")
	}
	w.wantNoNovuWrites()
}

func TestXSS(t *testing.T) {
	const evil = `"><script>alert(1)</script>&amp;'`
	w := newWorld(t, func(w *world, c *handler.Config) { c.Brand.Name = evil })
	w.slack.Change(func(a map[string]any) {
		a["team"].(map[string]any)["name"] = evil
		hook := a["incoming_webhook"].(map[string]any)
		hook["channel"], hook["configuration_url"] = evil, "javascript:alert(1)"
	})
	b := w.browser()
	p := b.land(b.approve(b.begin(w.link(evil))))
	p.want(t, http.StatusOK, html.EscapeString(`"><script>`)[:5])
	for _, text := range []string{"<script", "javascript:", "&amp;amp;amp;"} {
		if strings.Contains(p.body, text) {
			t.Errorf("the page holds %q: %s", text, p.body)
		}
	}
	if got := strings.Count(p.body, "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;&#39;"); got != 4 { // title, header, channel, team: escaped once each
		t.Errorf("got %d escaped texts, want 4: %s", got, p.body)
	}

	// In the return URL the same text stays inside its parameter.
	back := b.get(b.approve(b.begin(w.link("ada", returnTo("https://app.example.com/?q='x'#f")))))
	u, err := url.Parse(back.location)
	if err != nil || u.Query().Get("channel") != evil || u.Query().Get("team") != evil || u.Fragment != "f" || u.Host != "app.example.com" {
		t.Errorf("got return URL %q", back.location)
	}
}

func TestHeadersOnEveryAnswer(t *testing.T) {
	w := newWorld(t, secure)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	for _, p := range []page{
		b.get("/"), b.get("/healthz"), b.get("/nothing"), b.get("/slack/install"), b.get(w.link("ada")), w.browser().get(callback), b.get(callback), b.land(callback),
		b.do(b.request(http.MethodPost, "/")), b.do(b.request(http.MethodHead, w.link("ada"))),
	} {
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Strict-Transport-Security": "max-age=31536000",
		} {
			if got := p.header.Get(name); got != want {
				t.Errorf("%d: got %s %q, want %q", p.status, name, got, want)
			}
		}
		wantPolicy(t, p, ownPolicy+"; form-action 'none'")
		if strings.Contains(p.body, "style=") || strings.Contains(p.body, "<style") || strings.Contains(p.body, "<script") {
			t.Errorf("the page has something inline: %s", p.body)
		}
	}
	if b.get("/slack/assets/style.css").header.Get("Cache-Control") == "no-store" {
		t.Error("the style cannot be kept")
	}
}

func TestHostAndForwardedHeadersAreNotBelieved(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	req := b.request(http.MethodGet, w.link("ada"), "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https", "Forwarded", "host=evil.example", "X-Forwarded-For", "203.0.113.7")
	req.Host = "evil.example"
	p := w.browser().do(req)
	if p.status != http.StatusFound || !strings.HasPrefix(p.location, w.origin+"/slack/install?token=") {
		t.Fatalf("got %d to %s, want 302 to the public origin", p.status, p.location)
	}
	req = b.request(http.MethodGet, p.location, "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https", "Forwarded", "host=evil.example", "X-Forwarded-For", "203.0.113.7")
	req.Host = "evil.example"
	p = w.browser().do(req) // it goes on regardless, and leads to no other place
	u, _ := url.Parse(p.location)
	if got := u.Query().Get("redirect_uri"); got != w.slack.RedirectURL {
		t.Errorf("got redirect_uri %q, want %q", got, w.slack.RedirectURL)
	}
	cookie := b.cookies()
	if len(cookie) == 0 { // Go's client keeps it under the Host header's name
		set, err := http.ParseSetCookie(p.header.Get("Set-Cookie"))
		if err != nil {
			t.Fatal(err)
		}
		cookie = []*http.Cookie{set}
	}
	held := cookie[0].Name + "=" + cookie[0].Value
	req = b.request(http.MethodGet, b.cancel(p.location), "Cookie", held)
	req.Host = "evil.example"
	p = b.do(req)
	if !strings.HasPrefix(p.location, "/slack/result?flow=") {
		t.Errorf("got %q, want a path of our own", p.location)
	}
	if p = b.get(p.location, "X-Forwarded-Host", "evil.example", "Cookie", held); strings.Contains(p.body, "evil.example") {
		t.Error("the page names a forged host")
	}
	startAgain(t, p)
	if strings.Contains(w.logs.String(), "203.0.113.7") {
		t.Error("an address from an untrusted X-Forwarded-For was logged as the client's")
	}
}

// A leak search: after a happy flow and each kind of trouble, no secret is in
// any log, page or header but where it has to be.
func TestNoSecretLeaks(t *testing.T) {
	w := newWorld(t)
	var secrets []string
	note := func(b *browser, callback string) {
		u, _ := url.Parse(callback)
		secrets = append(secrets, u.Query().Get("code"), u.Query().Get("state"))
		for _, c := range b.cookies() {
			secrets = append(secrets, c.Value)
		}
	}
	for _, trouble := range []func(){
		func() {},
		func() { w.slack.Break(upstreamtest.HTML(503), upstreamtest.Truncate, upstreamtest.Reset) },
		func() { w.slack.Break(upstreamtest.JSON(200, `{"ok":false,"error":"bad_client_secret"}`)) },
		func() { w.slack.Break(upstreamtest.JSON(200, `{"ok":false,"error":"xoxb-canary/../<b>"}`)) },
		func() { w.novu.Break(upstreamtest.JSON(401, `{"statusCode":401,"message":"nope"}`)) },
		func() { w.novu.Break(upstreamtest.Truncate) },
		func() {
			w.novu.Break(upstreamtest.JSON(400, `{"statusCode":400,"message":"https://hooks.slack.com/services/canary-echo"}`))
		},
		func() { w.backend.downAtFinish.Store(true) },
	} {
		trouble()
		b := w.browser()
		link := w.link("ada")
		secrets = append(secrets, strings.TrimPrefix(link, w.origin+"/slack/install?token="))
		callback := b.approve(b.begin(link))
		note(b, callback)
		p := b.get(callback)
		if p.location != "" {
			b.get(p.location)
		}
		b.get(callback)
		w.browser().get(callback)
		w.browser().get(callback + "%zz")
		w.backend.downAtFinish.Store(false)
	}
	w.browser().get(w.novuStyle("ada") + "x")
	w.browser().get(w.novuStyle("ada"))
	secrets = append(secrets, w.hmac("ada"), w.slack.ClientSecret, w.novu.APIKey, linkSecret, "canary", "xoxb-", "hooks.slack.com/services")
	for _, url := range w.slack.Webhooks() {
		secrets = append(secrets, url[strings.LastIndex(url, "/")+1:])
	}
	logs, pages := w.logs.String(), w.pages.String()
	if !strings.Contains(logs, `"route":"/slack/callback"`) || !strings.Contains(pages, isConnected) || len(secrets) < 30 {
		t.Fatal("the search has nothing to search")
	}
	for _, s := range slices.Compact(secrets) {
		for _, form := range []string{s, url.QueryEscape(s), base64.StdEncoding.EncodeToString([]byte(s)), fmt.Sprintf("%x", s)} {
			if strings.Contains(logs, form) {
				t.Errorf("a log holds %q", form)
			}
			if strings.Contains(pages, form) {
				t.Errorf("a page holds %q", form)
			}
		}
	}
}

// A form on another site starts nothing, whatever the browser says of it. One of ours does,
// also behind a proxy that rewrites Host and in browsers that know no Sec-Fetch-Site.
func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.InstallPage = true })
	for name, target := range map[string]string{
		"signed": w.link("ada"), "Novu-style": w.novuStyle("ada"), "shareable": w.origin + "/v1/subscribers/ada/credentials/slack/oauth?hmacHash=" + w.hmac("ada"),
	} {
		for _, c := range []struct {
			headers string
			ours    bool
		}{
			{"Origin: https://evil.example", false},
			{"Origin: null", false},
			{"Origin: " + w.origin + ".evil.example", false},
			{"Origin: " + w.origin + "0", false},
			{"Sec-Fetch-Site: cross-site", false},
			{"Sec-Fetch-Site: same-site", false},
			{"Sec-Fetch-Site: cross-site, Origin: https://evil.example", false},
			{"Sec-Fetch-Site: x", false},
			{"Host: evil.example, X-Forwarded-Host: " + strings.TrimPrefix(w.origin, "http://") + ", Origin: null", false},
			{"Origin: " + w.origin, true},
			{"Host: backend.internal, X-Forwarded-Host: " + strings.TrimPrefix(w.origin, "http://") + ", Origin: " + w.origin, true},
			{"Sec-Fetch-Site: same-origin, Origin: null", true},
			{"Sec-Fetch-Site: same-origin, Origin: " + w.origin, true},
			{"", true}, // no browser of the last years
		} {
			b, before := w.browser(), w.backend.touched()
			req := b.request(http.MethodPost, target)
			for header := range strings.SplitSeq(c.headers, ", ") {
				if name, value, ok := strings.Cut(header, ": "); name == "Host" {
					req.Host = value
				} else if ok {
					req.Header.Set(name, value)
				}
			}
			p := b.do(req)
			if c.ours {
				if p.status != http.StatusSeeOther || !strings.HasPrefix(p.location, w.slackURL.String()) {
					t.Errorf("%s with %s: got %d to %q, want 303 to Slack", name, c.headers, p.status, p.location)
				}
				continue
			}
			p.want(t, http.StatusOK, "Connect Slack to")
			if w.backend.touched() != before || p.header.Get("Set-Cookie") != "" {
				t.Errorf("%s with %s: a flow began", name, c.headers)
			}
		}
	}
}

// One holder of a link sends junk codes until the limit of their subscriber: then their
// state is not spent and Slack not asked, others are served, and they are again later.
func TestJunkCodesOfOneSubscriberAreBounded(t *testing.T) {
	counts := metrics.New()
	w := newWorld(t, func(_ *world, c *handler.Config) { c.Metrics = counts })
	begun := time.Now()
	var refused page
	var b *browser
	var callback string
	for range 60 {
		b = w.browser()
		callback = b.approve(b.begin(w.link("bob")))
		if refused = b.get("/slack/callback?code=junk&state=" + stateOf(t, callback)); refused.status != http.StatusSeeOther {
			break
		}
	}
	refused.wantCode(t, http.StatusTooManyRequests, "too_many_tries")
	exchanges := len(w.calls("Slack"))
	if most := 20 + int(time.Since(begun)/(6*time.Second)) + 1; exchanges < 20 || exchanges > most {
		t.Errorf("60 junk codes made %d exchanges in %v, want 20 to %d", exchanges, time.Since(begun), most)
	}
	if refused.header.Get("Retry-After") == "" {
		t.Error("the answer has no Retry-After")
	}
	if got := w.look(b.key(callback)).Phase; got != state.Issued {
		t.Errorf("the flow is in phase %c, want issued: its state must not be spent", got)
	}
	for _, subscriber := range []string{"ada", "eve"} { // links of other people, on the same instance
		w.browser().connect(subscriber).want(t, http.StatusOK, isConnected)
	}
	if strings.Contains(w.logs.String(), `"level":"error"`) || !strings.Contains(w.logs.String(), `"code":"too_many_tries","remedy":"somebody sends`) {
		t.Errorf("the log has an error, or not the remedy: %s", w.logs)
	}
	wantCount(t, counts, `problems_total{code="rate_limited"} 0`)

	// Codes that Slack made count for less: a person may try more of them.
	for range 40 {
		w.browser().connect("dan").want(t, http.StatusOK, isConnected)
	}

	// The person reloads the page: with the code that Slack made, they are connected.
	var p page
	eventually(t, "the limit ends", func() bool { p = b.get(callback); return p.status == http.StatusSeeOther })
	b.get(p.location).want(t, http.StatusOK, isConnected)
}
