package handler_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

func init() { redis.SetLogger(quiet{}) }

// quiet keeps go-redis from telling of the failures that tests make.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

const linkSecret = "canary-link-secret-0123456789abcdef"

// world is a running service between a fake Slack and a fake Novu, all on real
// sockets, with its store in a real file.
type world struct {
	t      *testing.T
	origin string
	server *httptest.Server
	slack  *slacktest.Server
	novu   *novutest.Server
	wires  *wire.Log
	links  *handler.Links
	store  *countingStore
	logs   *logBuffer
	pages  *logBuffer // every byte that browsers were sent

	slackURL, novuURL *url.URL
	config            handler.Config
	entries           outbox.Store
	outbox            *outbox.Outbox
	routes            atomic.Value
}

// newWorld starts a service. Its links live on https when secure is in changes.
func newWorld(t *testing.T, changes ...func(*world, *handler.Config)) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, wires: &wire.Log{}, logs: &logBuffer{}, pages: &logBuffer{}}
	w.slack, w.novu = slacktest.New(w.wires), novutest.New(w.wires)
	w.slackURL, w.novuURL = serve(t, w.slack), serve(t, w.novu)

	db, err := bolt.Open(filepath.Join(t.TempDir(), "test.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.MaxBatchDelay = time.Millisecond
	states, err := state.NewBolt(db)
	if err != nil {
		t.Fatal(err)
	}
	w.store = &countingStore{Store: states}
	entries, err := outbox.NewBolt(db, states)
	if err != nil {
		t.Fatal(err)
	}
	w.entries = &countingEntries{Store: entries, fail: w.store}

	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		w.routes.Load().(http.Handler).ServeHTTP(to, r)
	}))
	config := handler.Config{
		RedirectURL: &url.URL{Scheme: "http", Host: w.server.Listener.Addr().String(), Path: "/slack/callback"},
		States:      w.store,
		StateTTL:    15 * time.Minute,
		Brand:       handler.Brand{Name: "Example Inc."},
		Log:         zerolog.New(w.logs).Level(zerolog.TraceLevel),
	}
	w.links = &handler.Links{
		Secrets: []secret.String{secret.New(linkSecret), secret.New("canary-old-link-secret")},
		APIKeys: []secret.String{secret.New(w.novu.APIKey)}, Integration: "slack-main", Now: time.Now,
	}
	config.Links = w.links
	for _, change := range changes {
		change(w, &config)
	}
	w.origin = config.RedirectURL.Scheme + "://" + config.RedirectURL.Host
	w.links.Origin = w.origin
	w.slack.RedirectURL = config.RedirectURL.String()
	config.Slack = slackoauth.New(slackoauth.Config{
		ClientID: w.slack.ClientID, ClientSecret: secret.New(w.slack.ClientSecret), RedirectURL: w.slack.RedirectURL, URL: w.slackURL,
	})
	w.config = config
	w.useEntries(w.entries)
	w.server.Config.ErrorLog = nil
	if config.RedirectURL.Scheme == "https" {
		w.server.StartTLS()
	} else {
		w.server.Start()
	}
	t.Cleanup(w.server.Close)
	return w
}

// useEntries makes the routes anew, with an outbox on entries.
func (w *world) useEntries(entries outbox.Store) {
	w.t.Helper()
	var err error
	w.outbox, err = outbox.New(outbox.Config{
		Store: entries, Secrets: []secret.String{secret.New("canary-store-secret")}, Log: w.config.Log,
		Novu: novuclient.New(novuclient.Config{APIKey: secret.New(w.novu.APIKey), URL: w.novuURL, CreateSubscriber: true}),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.config.Outbox = w.outbox
	routes := handler.New(w.config)
	w.routes.Store(routes)
}

// onRedis keeps flows and outbox in a Redis.
func onRedis(options *redis.Options) func(*world, *handler.Config) {
	return func(w *world, c *handler.Config) {
		client := redis.NewClient(options)
		w.t.Cleanup(func() { client.Close() })
		flows := state.NewRedis(client)
		c.States, w.entries = flows, outbox.NewRedis(client, flows)
	}
}

func secure(_ *world, c *handler.Config) { c.RedirectURL.Scheme = "https" }

func serve(t *testing.T, h http.Handler) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// link returns a signed link for subscriber, good for an hour.
func (w *world) link(subscriber string, changes ...func(*state.Flow)) string {
	w.t.Helper()
	flow := state.Flow{Subscriber: subscriber}
	for _, change := range changes {
		change(&flow)
	}
	link, err := w.links.Sign(flow, time.Now().Add(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	return link
}

func (w *world) hmac(subscriber string) string {
	mac := hmac.New(sha256.New, []byte(w.novu.APIKey))
	mac.Write([]byte(subscriber))
	return hex.EncodeToString(mac.Sum(nil))
}

// novuStyle returns a link as Novu's guide makes it, with more parameters.
func (w *world) novuStyle(subscriber string, more ...string) string {
	q := url.Values{"subscriberId": {subscriber}, "hmacHash": {w.hmac(subscriber)}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return w.origin + "/slack/install?" + q.Encode()
}

// calls returns the requests that reached one side of the wire.
func (w *world) calls(to string) (all []wire.Exchange) {
	for _, e := range w.wires.All() {
		if e.To == to {
			all = append(all, e)
		}
	}
	return all
}

func (w *world) wantNothingOut() {
	w.t.Helper()
	if all := w.wires.All(); len(all) != 0 {
		w.t.Errorf("got %d requests to Slack or Novu, the first %s %s, want none", len(all), all[0].Method, all[0].Target)
	}
}

// wantWebhooks checks that a subscriber has exactly one Slack channel, with the
// webhook that Slack made as its nth.
func (w *world) wantWebhook(subscriber string, nth int) {
	w.t.Helper()
	channels, _ := w.novu.Channels(subscriber)
	webhooks := w.slack.Webhooks()
	if len(channels) != 1 || len(webhooks) <= nth || channels[0].WebhookURL != webhooks[nth] {
		w.t.Errorf("subscriber %q: got channels %v, want the one webhook %d of %v", subscriber, channels, nth, webhooks)
	}
}

func (w *world) wantNoWebhook(subscriber string) {
	w.t.Helper()
	if channels, _ := w.novu.Channels(subscriber); len(channels) != 0 {
		w.t.Errorf("subscriber %q: got channels %v, want none", subscriber, channels)
	}
}

// browser is a person's browser: it keeps cookies and shows each redirect.
type browser struct {
	*world
	client *http.Client
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &browser{w, &http.Client{
		Jar:           jar,
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// page is what a browser got.
type page struct {
	status   int
	header   http.Header
	location string
	body     string
	took     time.Duration
}

func (b *browser) do(req *http.Request) page {
	b.t.Helper()
	start := time.Now()
	res, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.pages.Write(body)
	return page{res.StatusCode, res.Header, res.Header.Get("Location"), string(body), time.Since(start)}
}

func (b *browser) get(target string, headers ...string) page {
	b.t.Helper()
	return b.do(b.request(http.MethodGet, target, headers...))
}

func (b *browser) request(method, target string, headers ...string) *http.Request {
	b.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.origin + target
	}
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return req
}

// begin clicks a link and returns Slack's authorize URL.
func (b *browser) begin(link string) (authorizeURL string) {
	b.t.Helper()
	p := b.get(link)
	if p.status != http.StatusFound || !strings.HasPrefix(p.location, b.slackURL.String()+"/oauth/v2/authorize?") {
		b.t.Fatalf("install: got %d to %q, want 302 to Slack: %s", p.status, p.location, p.body)
	}
	return p.location
}

// approve picks #alerts at Acme and returns the callback URL.
func (b *browser) approve(authorizeURL string) (callback string) {
	b.t.Helper()
	callback, err := b.slack.Approve(authorizeURL, "T01ACME", "#alerts")
	if err != nil {
		b.t.Fatal(err)
	}
	return callback
}

// cancel declines and returns the callback URL.
func (b *browser) cancel(authorizeURL string) (callback string) {
	b.t.Helper()
	return b.slack.RedirectURL + "?" + url.Values{"error": {"access_denied"}, "state": {stateOf(b.t, authorizeURL)}}.Encode()
}

func stateOf(t *testing.T, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil || u.Query().Get("state") == "" {
		t.Fatalf("%q has no state", target)
	}
	return u.Query().Get("state")
}

// land opens a callback and follows it to the result page.
func (b *browser) land(callback string) page {
	b.t.Helper()
	p := b.get(callback)
	if p.status != http.StatusSeeOther {
		b.t.Fatalf("callback: got %d, want 303: %s", p.status, p.body)
	}
	return b.get(p.location)
}

// connect is the whole of a happy flow.
func (b *browser) connect(subscriber string) page {
	b.t.Helper()
	return b.land(b.approve(b.begin(b.link(subscriber))))
}

// cookies are the flow cookies the browser holds for the service.
func (b *browser) cookies() (found []*http.Cookie) {
	u, _ := url.Parse(b.origin)
	for _, c := range b.client.Jar.Cookies(u) {
		if strings.Contains(c.Name, "slack_flow_") {
			found = append(found, c)
		}
	}
	return found
}

func (p page) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if p.status != status {
		t.Errorf("got status %d, want %d: %s", p.status, status, p.body)
	}
	for _, text := range texts {
		if !strings.Contains(p.body, text) {
			t.Errorf("the page does not say %q: %s", text, p.body)
		}
	}
}

// wantCode checks that a page shows a problem's code.
func (p page) wantCode(t *testing.T, status int, code string) {
	t.Helper()
	p.want(t, status, "<code>"+code+"</code>")
}

// countingStore counts calls and fails on demand.
type countingStore struct {
	state.Store
	issues, consumes, looks, finishes atomic.Int64
	down                              atomic.Bool
	downAtFinish                      atomic.Bool
}

var errDown = errors.New("dial tcp 127.0.0.1:1: connect: connection refused")

func (s *countingStore) Issue(ctx context.Context, key state.Key, flow state.Flow, ttl time.Duration) error {
	s.issues.Add(1)
	if s.down.Load() {
		return errDown
	}
	return s.Store.Issue(ctx, key, flow, ttl)
}

func (s *countingStore) Consume(ctx context.Context, key state.Key) (state.Record, error) {
	s.consumes.Add(1)
	if s.down.Load() {
		return state.Record{}, errDown
	}
	return s.Store.Consume(ctx, key)
}

func (s *countingStore) Look(ctx context.Context, key state.Key) (state.Record, error) {
	s.looks.Add(1)
	if s.down.Load() {
		return state.Record{}, errDown
	}
	return s.Store.Look(ctx, key)
}

func (s *countingStore) Finish(ctx context.Context, ending state.Ending) error {
	s.finishes.Add(1)
	if s.down.Load() || s.downAtFinish.Load() {
		return errDown
	}
	return s.Store.Finish(ctx, ending)
}

func (s *countingStore) Ping(ctx context.Context) error {
	if s.down.Load() {
		return errDown
	}
	return s.Store.Ping(ctx)
}

func (s *countingStore) touched() int64 {
	return s.issues.Load() + s.consumes.Load() + s.looks.Load() + s.finishes.Load()
}

// countingEntries fails as its countingStore does.
type countingEntries struct {
	outbox.Store
	fail *countingStore
	down atomic.Bool // for recording alone
}

func (s *countingEntries) Record(ctx context.Context, e outbox.Entry, lease time.Duration) (bool, error) {
	if s.fail.down.Load() || s.down.Load() {
		return false, errDown
	}
	return s.Store.Record(ctx, e, lease)
}

func (s *countingEntries) Release(ctx context.Context, e outbox.Entry, then outbox.Then, ending *state.Ending) error {
	if s.fail.down.Load() {
		return errDown
	}
	if s.fail.downAtFinish.Load() && ending != nil {
		if err := s.Store.Release(ctx, e, then, nil); err != nil {
			return err
		}
		return errDown
	}
	return s.Store.Release(ctx, e, then, ending)
}

// logBuffer is a bytes.Buffer for several writers.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func cidr(t *testing.T, text string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually waits for what other goroutines do.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("%s: not within 20 s", what)
}
