package e2e_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// world is what stands around a program: a fake Slack, a fake Novu, and an app that
// signs links.
type world struct {
	slack      *slacktest.Server
	novu       *novutest.Server
	recorder   *upstreamtest.Recorder
	linkSecret string
	wasSlow    *atomic.Bool // a request took longer than slow; what that led to may be cached
	env        []string     // settings for a program in this world
}

const linkSecret = "a-secret-of-the-tests-of-32-bytes-and-more"

// publicOrigin is only a name: nothing listens there. A person goes to the program
// that a test names, as a load balancer would send them.
const publicOrigin = "http://127.0.0.1:9"

// newWorld makes a world, with settings beside those that every program needs. The
// store is a file unless they name a Redis.
func newWorld(t testing.TB, settings ...string) *world {
	t.Helper()
	w := &world{recorder: &upstreamtest.Recorder{}, linkSecret: linkSecret, wasSlow: &atomic.Bool{}}
	w.slack, w.novu = slacktest.New(w.recorder), novutest.New(w.recorder)
	w.slack.RedirectURL = publicOrigin + "/slack/callback"
	slack, novu := httptest.NewServer(w.slack), httptest.NewServer(w.novu)
	t.Cleanup(slack.Close)
	t.Cleanup(novu.Close)
	w.env = append([]string{
		"REDIRECT_URL=" + w.slack.RedirectURL, "SLACK_CLIENT_ID=" + w.slack.ClientID, "SLACK_CLIENT_SECRET=" + w.slack.ClientSecret, "SLACK_URL=" + slack.URL,
		"NOVU_API_KEY=" + w.novu.APIKey, "NOVU_API_URL=" + novu.URL, "LINK_SECRET=" + linkSecret, "APP_NAME=Example Inc.", "PORT=0", "RATE_LIMIT=0",
	}, settings...)
	if !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, "REDIS_URL=") }) {
		w.env = append(w.env, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	}
	return w
}

// setting returns the value of a setting of this world.
func (w *world) setting(name string) (value string) {
	for _, pair := range w.env {
		if text, ok := strings.CutPrefix(pair, name+"="); ok {
			value = text
		}
	}
	return value
}

// claims are those of a signed link, as docs/integrating.md lists them.
type claims map[string]any

// link signs a link as a customer's app does: any JWT library, one call. It works for
// an hour unless the claims say otherwise.
func (w *world) link(c claims) string {
	all := jwt.MapClaims{"aud": publicOrigin, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, c)
	return publicOrigin + "/slack/install?token=" + must(jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(w.linkSecret)))
}

// linkTo is a link for a subscriber and nothing else.
func (w *world) linkTo(subscriber string) string { return w.link(claims{"sub": subscriber}) }

// novuStyleLink is a link with the hash of Novu's guide, made with a Novu API key.
func novuStyleLink(key, subscriber string) string {
	return "/slack/install?subscriberId=" + url.QueryEscape(subscriber) + "&hmacHash=" + subscriberHash(key, subscriber)
}

func subscriberHash(key, subscriber string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(subscriber))
	return hex.EncodeToString(mac.Sum(nil))
}

// wantSaved fails unless the subscriber has exactly one channel, with the nth webhook
// that Slack gave.
func (w *world) wantSaved(t *testing.T, subscriber string, nth int) {
	t.Helper()
	channels, _ := w.novu.Channels(subscriber)
	if hooks := w.slack.Webhooks(); len(channels) != 1 || len(hooks) <= nth || channels[0].WebhookURL != hooks[nth] {
		t.Errorf("%s: got channels %v, want webhook %d of %v", subscriber, channels, nth, hooks)
	}
}

// person is a browser with its cookies.
type person struct {
	t testing.TB
	*world
	client http.Client
}

func (w *world) person(t testing.TB) *person {
	jar, _ := cookiejar.New(nil)
	return &person{t, w, http.Client{Jar: jar, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// answer is what a program answered.
type answer struct {
	status   int
	location string
	body     string
}

// get asks a program for the path and query of target. It may be called from any
// goroutine.
func (p *person) get(from *program, target string) (answer, error) {
	return p.request(from, http.MethodGet, target, "")
}

// request sends a request to a program, as a browser or another program does that accepts
// a type of answer.
func (p *person) request(to *program, method, target, accept string) (answer, error) {
	u, err := url.Parse(target)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequest(method, to.origin+u.RequestURI(), nil)
	if err != nil {
		return answer{}, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if public, err := url.Parse(p.setting("REDIRECT_URL")); err == nil {
		req.Host = public.Host // as a load balancer passes it on
	}
	begin := time.Now()
	res, err := p.client.Do(req)
	if time.Since(begin) > slow {
		p.wasSlow.Store(true)
	}
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header.Get("Location"), string(text)}, err
}

// status is the status that a program answers target with; 0 is no answer.
func (p *person) status(from *program, target string) int {
	a, err := p.unlessSlow(from, target, func(answer) bool { return true })
	if err != nil {
		return 0
	}
	return a.status
}

// slow is the shortest of the program's own limits that a flow can run into: it is for Novu's
// integrations, at install. A busy machine may make the program run into one, though nothing
// is wrong; where a request took less, that is not the reason.
const slow = 1500 * time.Millisecond

// unlessSlow is get, and asks again if the machine was too slow and the answer is not one that
// done accepts.
func (p *person) unlessSlow(from *program, target string, done func(answer) bool) (a answer, err error) {
	for range 20 {
		begin := time.Now()
		if a, err = p.get(from, target); err == nil && done(a) || time.Since(begin) < slow {
			break
		}
	}
	return a, err
}

// getServed asks again while the store's answer came too late, as people do who read that the
// service is not available.
func (p *person) getServed(from *program, target string) (answer, error) {
	return p.unlessSlow(from, target, func(a answer) bool { return a.status != http.StatusServiceUnavailable })
}

// approve opens a link and allows at Slack; it returns the callback's URL.
func (p *person) approve(at *program, link string) (callback string) {
	p.t.Helper()
	a, err := p.getServed(at, link)
	if err != nil || a.status != http.StatusFound {
		p.t.Fatalf("install: got %d, %v: %s", a.status, err, readable(a.body))
	}
	if callback, err = p.slack.Approve(a.location, "T01ACME", "#alerts"); err != nil {
		p.t.Fatal(err)
	}
	return callback
}

// finish opens a callback and the result that it leads to, and returns that page.
func (p *person) finish(at *program, callback string) (page string) {
	p.t.Helper()
	page, _ = p.follow(at, callback)
	return page
}

// follow is finish, and returns where the page is, too.
func (p *person) follow(at *program, callback string) (page, location string) {
	p.t.Helper()
	a, err := p.getServed(at, callback)
	if err != nil || a.status != http.StatusSeeOther {
		p.t.Fatalf("callback: got %d, %v: %s", a.status, err, readable(a.body))
	}
	location = a.location
	if a, err = p.getServed(at, location); err != nil {
		p.t.Fatalf("result: %v", err)
	}
	return a.body, location
}

// wantFinish opens a callback and the result that it leads to, and fails unless that page
// says want. Where the program had no time left to save, the page is reloaded until it does.
func (p *person) wantFinish(at *program, callback, want string) {
	p.t.Helper()
	page, location := p.follow(at, callback)
	if !strings.Contains(page, want) && p.wasSlow.Load() {
		page = p.waitPage(at, location, want)
	}
	wantText(p.t, page, want)
}

// waitFinish opens a callback until it leads on, and reloads the result until it says want.
func (p *person) waitFinish(at *program, callback, want string) {
	p.t.Helper()
	var location string
	waitFor(p.t, "the callback leads on", func() bool {
		a, err := p.get(at, callback)
		location = a.location
		return err == nil && a.status == http.StatusSeeOther
	})
	p.waitPage(at, location, want)
}

// wantConnect is a whole flow that ends with a page that says want, see wantFinish.
func (p *person) wantConnect(at *program, link, want string) {
	p.t.Helper()
	p.wantFinish(at, p.approve(at, link), want)
}

// connect is a whole flow; it returns the page at its end.
func (p *person) connect(at *program, link string) (page string) {
	p.t.Helper()
	return p.finish(at, p.approve(at, link))
}

// What the pages say at the end of a flow.
const (
	textConnected = "<h1>Slack is connected</h1>"
	textPending   = "we are finishing the set-up"
)

func wantText(t testing.TB, page, want string) {
	t.Helper()
	if !strings.Contains(page, want) {
		t.Errorf("the page does not say %q: %s", want, readable(page))
	}
}

var (
	unread = regexp.MustCompile(`(?s)<head>.*?</head>|<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// readable is the text of a page, for messages of failed tests.
func readable(page string) string {
	text := spaces.ReplaceAllString(unread.ReplaceAllString(page, " "), " ")
	return html.UnescapeString(text[:min(len(text), 500)])
}
