package handler_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

func init() { redis.SetLogger(quiet{}) }

// quiet keeps go-redis from telling of the failures that tests make.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// isConnected is what the page of a connection says once Novu has it, and no other page.
const isConnected = "<h1>Slack is connected</h1>"

// What pages say of where messages arrive.
const (
	inAlerts = `<p class="place"><bdi translate="no">#alerts</bdi> at <bdi translate="no">Acme</bdi></p>`
	inOps    = `<p class="place"><bdi translate="no">#ops</bdi> at `
)

// TestMain lets many tests run at a time: most of them wait. The command line's
// -parallel counts, where it is there.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "20")
	os.Exit(m.Run())
}

const (
	// busyMachine is what a promise about time is allowed more where tests run at once. It is
	// less than the 30 s after which clients of Redis, and of Slack, would give up by themselves.
	busyMachine = 20 * time.Second

	// slow is the shortest of the service's own limits that a flow can run into, the one for
	// Novu's integrations. A busy machine may make it run into one, though nothing is wrong;
	// where a request took less, that is not the reason.
	slow = 1500 * time.Millisecond

	// patience is how long a test waits for something that happens by itself.
	patience = 2 * time.Minute
)

const linkSecret = "canary-link-secret-0123456789abcdef"

// world is a running service between a fake Slack and a fake Novu, all on real
// sockets, with its store in a real file. The outbox's worker runs only after work.
type world struct {
	t        *testing.T
	origin   string
	server   *httptest.Server
	slack    *slacktest.Server
	novu     *novutest.Server
	recorder *upstreamtest.Recorder
	links    *link.Verifier
	backend  *faultyBackend
	clock    atomic.Int64 // nanoseconds that the clock of the data file is ahead
	logs     *logBuffer
	pages    *logBuffer  // every byte that browsers were sent
	wasSlow  atomic.Bool // a request took longer than slow; what that led to may be cached

	// What changes may replace.
	slackURL, novuURL *url.URL
	saveEndpoints     bool
	deployment        func(origin string) state.Deployment
	open              func(state.Deployment) state.Backend // where flows are kept
	wrap              func(state.Backend) state.Backend    // around the faulty backend

	config     handler.Config
	novuClient *novuclient.Client
	store      *state.Store
	outbox     *outbox.Outbox
	routes     http.Handler
}

// newWorld starts a service. Its links live on https when secure is in changes.
func newWorld(t *testing.T, changes ...func(*world, *handler.Config)) *world {
	t.Helper()
	t.Parallel()
	return startWorld(t, changes...)
}

// startWorld is newWorld for a test that has more than one.
func startWorld(t *testing.T, changes ...func(*world, *handler.Config)) *world {
	t.Helper()
	w := &world{t: t, recorder: &upstreamtest.Recorder{}, backend: &faultyBackend{}, logs: &logBuffer{}, pages: &logBuffer{}}
	w.slack, w.novu = slacktest.New(w.recorder), novutest.New(w.recorder)
	w.slackURL, w.novuURL = serve(t, w.slack), serve(t, w.novu)
	w.deployment = func(origin string) state.Deployment { return state.NewDeployment(origin, w.slack.ClientID, "") }
	w.open = w.openFile
	w.wrap = func(b state.Backend) state.Backend { return b }

	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) { w.routes.ServeHTTP(to, r) }))
	config := handler.Config{
		RedirectURL: &url.URL{Scheme: "http", Host: w.server.Listener.Addr().String(), Path: "/slack/callback"},
		StateTTL:    15 * time.Minute,
		Brand:       handler.Brand{Name: "Example Inc."},
		Log:         zerolog.New(w.logs).Level(zerolog.TraceLevel),
		Metrics:     metrics.New(),
	}
	w.links = &link.Verifier{
		Secrets: []secret.String{secret.New(linkSecret), secret.New("canary-old-link-secret")},
		APIKeys: []secret.String{secret.New(w.novu.APIKey)}, Now: time.Now,
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
	w.novuClient = novuclient.New(novuclient.Config{APIKey: secret.New(w.novu.APIKey), URL: w.novuURL, CreateSubscriber: true, SaveEndpoints: w.saveEndpoints})
	if config.Novu == nil {
		config.Novu = w.novuClient
	}

	deployment := w.deployment(w.origin)
	w.backend.Backend = w.open(deployment)
	var err error
	w.store, err = state.New(state.Config{
		Backend: w.wrap(w.backend), Deployment: deployment, Secrets: []secret.String{secret.New("canary-store-secret")}, Links: w.links, ResultTTL: config.StateTTL,
		Failed: func(error) { config.Metrics.StoreErrors.Inc() },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.outbox = outbox.New(outbox.Config{Store: w.store, Slack: config.Slack, Novu: w.novuClient, Log: config.Log, Metrics: config.Metrics})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.outbox.Close(ctx)
	})
	config.Store, config.Outbox = w.store, w.outbox
	w.config = config
	w.routes = handler.New(config)

	w.server.Config.ErrorLog = nil
	if config.RedirectURL.Scheme == "https" {
		w.server.StartTLS()
	} else {
		w.server.Start()
	}
	t.Cleanup(w.server.Close)
	return w
}

// openFile keeps flows in a file of the test's own.
func (w *world) openFile(deployment state.Deployment) state.Backend {
	file, err := state.OpenBolt(filepath.Join(w.t.TempDir(), "test.db"), deployment)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { file.Close() })
	file.Now = func() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) }
	return file
}

// pass lets time pass for the data file: what is due within d is due.
func (w *world) pass(d time.Duration) { w.clock.Add(int64(d)) }

// onRedis keeps flows in a Redis, with a client as the service has it.
func onRedis(server *redistest.Server, hooks ...redis.Hook) func(*world, *handler.Config) {
	return func(w *world, _ *handler.Config) {
		// The store's own limit of a call must hold, not the client's timeouts.
		client, err := state.NewRedisClient(secret.New(server.URL() + "?read_timeout=30s&dial_timeout=30s"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { client.Close() })
		for _, hook := range hooks {
			client.AddHook(hook)
		}
		w.open = func(d state.Deployment) state.Backend { return state.NewRedis(client, "nsr", d) }
	}
}

// eachStore runs a test on the data file and on a real Redis.
func eachStore(t *testing.T, test func(t *testing.T, change func(*world, *handler.Config))) {
	t.Run("bolt", func(t *testing.T) { test(t, func(*world, *handler.Config) {}) })
	t.Run("redis", func(t *testing.T) { test(t, onRedis(redistest.Start(t))) })
}

// work runs the outbox's worker until the test ends.
func (w *world) work() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.outbox.Run(ctx)
	}()
	w.t.Cleanup(func() { stop(); <-ended })
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

// link returns a signed link for subscriber, good for an hour by the clock of the world.
func (w *world) link(subscriber string, changes ...func(*link.Request)) string {
	w.t.Helper()
	request := link.Request{Subscriber: subscriber}
	for _, change := range changes {
		change(&request)
	}
	signed, err := w.links.Sign(request, w.links.Now().Add(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	if request.Popup {
		signed += "&display=popup"
	}
	return signed
}

// returnTo makes a link lead back to u.
func returnTo(u string) func(*link.Request) {
	return func(r *link.Request) { r.ReturnURL = u }
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

// calls returns the requests that Slack or Novu received.
func (w *world) calls(to string) (all []upstreamtest.Request) {
	for _, e := range w.recorder.All() {
		if e.To == to {
			all = append(all, e)
		}
	}
	return all
}

// wantNothingOut checks that neither Slack nor Novu was called, but for the look-up that
// comes before a flow is issued for a good link.
func (w *world) wantNothingOut() {
	w.t.Helper()
	all := w.recorder.All()
	if w.backend.issues.Load() > 0 {
		all = slices.DeleteFunc(all, func(e upstreamtest.Request) bool { return e.To == "Novu" && e.Method == http.MethodGet })
	}
	if len(all) != 0 {
		w.t.Errorf("got %d requests to Slack or Novu, the first %s %s, want none", len(all), all[0].Method, all[0].Target)
	}
}

// novuWrites returns what Novu was asked to change.
func (w *world) novuWrites() []upstreamtest.Request {
	return slices.DeleteFunc(w.calls("Novu"), func(e upstreamtest.Request) bool { return e.Method == http.MethodGet })
}

func (w *world) wantNoNovuWrites() {
	w.t.Helper()
	if all := w.novuWrites(); len(all) != 0 {
		w.t.Errorf("Novu got %s %s, want no change", all[0].Method, all[0].Target)
	}
}

// waiting returns how many flows are not finished.
func (w *world) waiting() int {
	w.t.Helper()
	sum := 0
	for _, q := range []state.Queue{state.Turns, state.Deliveries} {
		n, err := w.store.Count(context.Background(), q)
		if err != nil {
			w.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

func (w *world) wantWaiting(want int) {
	w.t.Helper()
	if got := w.waiting(); got != want {
		w.t.Errorf("got %d flows that wait, want %d", got, want)
	}
}

// wantWebhook checks that a subscriber has exactly one Slack channel, with the
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
		Timeout:       patience,
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
	results  []string // each slack_result in location and body, which are left without them

	settle func() page // of a flow for which the machine was slow: the page once the worker has saved
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
	p := page{status: res.StatusCode, header: res.Header, location: res.Header.Get("Location"), body: string(body), took: time.Since(start)}
	if p.took > slow {
		b.wasSlow.Store(true)
	}
	p.location, p.results = b.takeResults(p.location, p.results)
	p.body, p.results = b.takeResults(p.body, p.results)
	return p
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
	p := b.getServed(link)
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
	p := b.getServed(callback)
	if p.status != http.StatusSeeOther {
		b.t.Fatalf("callback: got %d, want 303: %s", p.status, p.body)
	}
	result := b.get(p.location)
	if b.wasSlow.Load() {
		result.settle = func() page { return b.settle(p.location) }
	}
	return result
}

// getServed is get, and asks again while the store's answer came too late, as people do who
// read that the service is not available.
func (b *browser) getServed(target string) (p page) {
	b.t.Helper()
	for range 20 {
		if p = b.get(target); p.status != http.StatusServiceUnavailable || p.took < slow {
			break
		}
	}
	return p
}

// getOutcome opens a callback that leads to a return URL. If the request had no time to save,
// it does so again once the worker has.
func (b *browser) getOutcome(callback string) (p page) {
	b.t.Helper()
	p = b.get(callback)
	if b.wasSlow.Load() && strings.Contains(p.location, "slack=pending") {
		b.saveLater(func() bool {
			p = b.get(callback)
			return !strings.Contains(p.location, "slack=pending")
		})
	}
	return p
}

// saveLater lets the worker save what a request had no time for, until done returns true.
func (w *world) saveLater(done func() bool) {
	w.t.Helper()
	w.waitForNovu()
	w.pass(35 * time.Second) // until then nothing is sent for a subscriber whom Novu may be at work on
	eventually(w.t, "the worker connects what the request had no time for", func() bool {
		w.outbox.Drain(context.Background())
		return done()
	})
}

// settle lets the worker save what the request had no time for, and returns the result page
// then.
func (b *browser) settle(location string) (p page) {
	b.t.Helper()
	b.saveLater(func() bool {
		p = b.get(location)
		return strings.Contains(p.body, isConnected)
	})
	return p
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
	if p.settle != nil && slices.Contains(texts, isConnected) && !strings.Contains(p.body, isConnected) {
		p = p.settle()
	}
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
	p.want(t, status, ` data-code="`+code+`"`)
}

// key returns the key of a flow that this browser began.
func (b *browser) key(callback string) state.Key {
	b.t.Helper()
	id := flowIDOf(b.t, callback)
	for _, c := range b.cookies() {
		if strings.HasSuffix(c.Name, id) {
			key, _ := state.NewKey(id, secret.New(c.Value))
			return key
		}
	}
	b.t.Fatalf("the browser has no cookie of flow %s", id)
	return ""
}

// look returns a flow as the store has it.
func (w *world) look(key state.Key) state.Flow {
	w.t.Helper()
	flow, err := w.store.Look(context.Background(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	return flow
}

// faultyBackend counts calls and fails on demand. Its functions are set before it is
// called.
type faultyBackend struct {
	state.Backend
	issues, consumes, looks, records, finishes, postpones, readies atomic.Int64

	down         atomic.Bool  // for everything
	recordsFail  atomic.Int64 // so many of the next moves to Recorded
	downAtFinish atomic.Bool  // for moves to Finished

	atConsume func(ctx context.Context, consume func() (state.Row, error)) (state.Row, error)
	afterMove func(m state.Move) error // an error is in place of the answer
}

var errDown = errors.New("dial tcp 127.0.0.1:1: connect: connection refused")

// touched returns how many calls were about a flow.
func (b *faultyBackend) touched() int64 {
	return b.issues.Load() + b.consumes.Load() + b.looks.Load() + b.records.Load() + b.finishes.Load() + b.postpones.Load()
}

// fail counts a call in n, and returns an error if the backend is down.
func (b *faultyBackend) fail(n *atomic.Int64) error {
	if n != nil {
		n.Add(1)
	}
	if b.down.Load() {
		return errDown
	}
	return nil
}

func (b *faultyBackend) Issue(ctx context.Context, key state.Key, request []byte, ttl time.Duration) error {
	if err := b.fail(&b.issues); err != nil {
		return err
	}
	return b.Backend.Issue(ctx, key, request, ttl)
}

func (b *faultyBackend) Consume(ctx context.Context, key state.Key, owner string, content []byte, lease, patience time.Duration) (state.Row, error) {
	if err := b.fail(&b.consumes); err != nil {
		return state.Row{}, err
	}
	consume := func() (state.Row, error) { return b.Backend.Consume(ctx, key, owner, content, lease, patience) }
	if b.atConsume != nil {
		return b.atConsume(ctx, consume)
	}
	return consume()
}

func (b *faultyBackend) Look(ctx context.Context, key state.Key) (state.Row, error) {
	if err := b.fail(&b.looks); err != nil {
		return state.Row{}, err
	}
	return b.Backend.Look(ctx, key)
}

func (b *faultyBackend) Move(ctx context.Context, key state.Key, m state.Move) (state.Step, error) {
	n, failing := &b.postpones, false
	switch {
	case m.To == state.Finished:
		n, failing = &b.finishes, b.downAtFinish.Load()
	case m.To == state.Recorded && m.Lease > 0:
		n, failing = &b.records, b.recordsFail.Add(-1) >= 0
	}
	if err := b.fail(n); err != nil || failing {
		return state.Lost, errDown
	}
	step, err := b.Backend.Move(ctx, key, m)
	if b.afterMove != nil {
		if lost := b.afterMove(m); lost != nil {
			return state.Lost, lost
		}
	}
	return step, err
}

func (b *faultyBackend) Claim(ctx context.Context, from state.Queue, owner string, lease time.Duration) (state.Key, state.Row, time.Duration, error) {
	if err := b.fail(nil); err != nil {
		return "", state.Row{}, 0, err
	}
	return b.Backend.Claim(ctx, from, owner, lease)
}

func (b *faultyBackend) Wake(ctx context.Context, in state.Queue) (bool, error) {
	if err := b.fail(nil); err != nil {
		return false, err
	}
	return b.Backend.Wake(ctx, in)
}

func (b *faultyBackend) Ready(ctx context.Context) error {
	if err := b.fail(&b.readies); err != nil {
		return err
	}
	return b.Backend.Ready(ctx)
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
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, patience)
}
