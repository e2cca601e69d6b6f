package handler_test

import (
	"context"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	w.store.down.Store(true)

	for _, target := range []string{w.link("ada"), callback, "/slack/result?flow=" + flowIDOf(t, callback)} {
		p := b.get(target)
		p.wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
		if len(p.header.Values("Set-Cookie")) != 0 {
			t.Error("a cookie was set")
		}
	}
	b.get("/readyz").want(t, http.StatusServiceUnavailable, `"status":"unavailable"`)
	b.get("/healthz").want(t, http.StatusOK, `"status":"ok"`)
	w.wantNothingOut()

	w.store.down.Store(false)
	b.get("/readyz").want(t, http.StatusOK, `"status":"ok"`)
	b.land(callback).want(t, http.StatusOK, "Slack is connected") // the state was not spent
	w.wantWebhook("ada", 0)
}

// A Redis that hangs or is gone costs a person less than two seconds.
func TestRedisDownAnswersWithinTwoSeconds(t *testing.T) {
	server := redistest.Start(t)
	w := newWorld(t, onRedis(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true, DialTimeout: time.Second, ReadTimeout: time.Second}))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	for _, name := range []string{"hangs", "gone"} {
		map[string]func(){"hangs": server.Pause, "gone": server.Stop}[name]()
		for _, target := range []string{w.link("ada"), callback, "/readyz"} {
			p := b.get(target)
			p.want(t, http.StatusServiceUnavailable)
			if p.took > 2*time.Second {
				t.Errorf("%s: %s took %v, want at most 2 s", name, target, p.took)
			}
		}
	}
	w.wantNothingOut()
	server.Restart()
	eventually(t, "it recovers by itself", func() bool { return b.get("/readyz").status == http.StatusOK })
	b.land(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, "Slack is connected")
}

func TestResultThatCannotBeKeptIsShownAtOnce(t *testing.T) {
	w := newWorld(t)
	w.store.downAtFinish.Store(true)
	b := w.browser()
	b.get(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, "Slack is connected", "#alerts")
	w.wantWebhook("ada", 0)
	to := b.get(b.approve(b.begin(w.link("bob", func(f *state.Flow) { f.ReturnURL = "https://app.example.com/" })))).location
	if !strings.HasPrefix(to, "https://app.example.com/?slack=connected") {
		t.Errorf("got %q, want the return URL with the outcome", to)
	}
}

// Two instances on one Redis: a flow begun on one ends on the other.
func TestTwoInstancesShareFlows(t *testing.T) {
	addr := redistest.Start(t).Addr
	one := newWorld(t, onRedis(&redis.Options{Addr: addr}))
	b := one.browser()
	link := one.link("ada")
	callback := b.approve(b.begin(link))

	two := serve(t, handler.New(one.config))
	moved := strings.Replace(callback, one.origin, two.String(), 1)
	p := b.get(moved)
	if p.status != http.StatusSeeOther {
		t.Fatalf("the other instance: got %d, want 303: %s", p.status, p.body)
	}
	b.get(p.location).want(t, http.StatusOK, "Slack is connected")
	b.get(two.String()+p.location).want(t, http.StatusOK, "Slack is connected")
	one.wantWebhook("ada", 0)
}

// A whole undisturbed flow costs Redis four round trips: issue, consume, record
// and lease, erase and finish.
func TestFlowCostsFourRoundTrips(t *testing.T) {
	trips := &roundTrips{}
	client := redistest.Start(t).Client()
	client.AddHook(trips)
	w := newWorld(t, func(w *world, c *handler.Config) {
		flows := state.NewRedis(client)
		c.States, w.entries = flows, outbox.NewRedis(client, flows)
		w.links.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	})
	connect := func() {
		b := w.browser()
		if p := b.get(b.approve(b.begin(w.link("ada")))); !strings.Contains(p.location, "slack=connected") {
			t.Errorf("got %q, want connected", p.location)
		}
	}
	connect() // Redis learns the scripts
	trips.Store(0)
	for range 3 {
		connect()
	}
	if got := trips.Load(); got != 3*4 {
		t.Errorf("got %d round trips for 3 flows, want 12", got)
	}
}

type roundTrips struct{ atomic.Int64 }

func (n *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (n *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { n.Add(1); return next(ctx, cmd) }
}
func (n *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { n.Add(1); return next(ctx, cmds) }
}

// A Redis that is full and must not evict: the person who comes is refused
// clearly, the one who is at Slack is served, and it recovers by itself.
func TestRedisFull(t *testing.T) {
	server := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorld(t, onRedis(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true}))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	client, ctx := server.Client(), context.Background()
	fill := func(limit string) {
		if err := client.ConfigSet(ctx, "maxmemory", limit).Err(); err != nil {
			t.Fatal(err)
		}
	}
	fill("1")
	b.get(w.link("bob")).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get(callback).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get("/readyz").want(t, http.StatusServiceUnavailable)
	b.get("/healthz").want(t, http.StatusOK)
	w.wantNothingOut()

	fill("0")
	b.get("/readyz").want(t, http.StatusOK)
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		fill("1") // between exchange and record
		next.ServeHTTP(to, r)
	})
	b.get(callback).want(t, http.StatusOK, "Slack is connected", "#alerts") // Novu is tried directly, the result shown at once
	w.wantWebhook("ada", 0)
	fill("0")
	b.land(b.approve(b.begin(w.link("bob")))).want(t, http.StatusOK, "Slack is connected")
}

// Slack's troubles, each with the page that the person gets and how often the
// code went out.
func TestSlackFaults(t *testing.T) {
	ok := wire.Fault(nil)
	for name, c := range map[string]struct {
		faults    []wire.Fault
		status    int
		code      string // "" is connected
		exchanges int
	}{
		"503 once, HTML":                {[]wire.Fault{wire.HTML(503)}, 200, "", 2},
		"503 for long":                  {[]wire.Fault{wire.HTML(503), wire.HTML(502), wire.HTML(500)}, 502, "slack_unavailable", 3},
		"service_unavailable once":      {[]wire.Fault{slackError("service_unavailable")}, 200, "", 2},
		"request_timeout for long":      {[]wire.Fault{slackError("request_timeout"), slackError("request_timeout"), slackError("request_timeout")}, 502, "slack_unavailable", 3},
		"internal_error once":           {[]wire.Fault{slackError("internal_error")}, 200, "", 2},
		"internal_error twice":          {[]wire.Fault{slackError("internal_error"), slackError("fatal_error"), ok}, 502, "slack_unavailable", 2},
		"reset before the work":         {[]wire.Fault{wire.Reset}, 200, "", 2},
		"answer lost, code spent":       {[]wire.Fault{wire.LoseAnswer}, 410, "code_expired", 2},
		"truncated, code spent":         {[]wire.Fault{wire.Truncate}, 410, "code_expired", 2},
		"429":                           {[]wire.Fault{wire.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "60")}, 503, "slack_busy", 1},
		"429 without JSON":              {[]wire.Fault{wire.Answer(429, "slow down")}, 503, "slack_busy", 1},
		"HTML with 200":                 {[]wire.Fault{wire.HTML(200), wire.HTML(200)}, 502, "slack_unavailable", 2},
		"10 MB":                         {[]wire.Fault{wire.JSON(200, `{"ok":true,"x":"`+strings.Repeat("x", 10<<20)+`"}`), wire.JSON(200, `{"ok":true,"x":"`+strings.Repeat("x", 10<<20)+`"}`)}, 502, "slack_unavailable", 2},
		"ok without anything":           {[]wire.Fault{wire.JSON(200, `{"ok":true}`)}, 502, "no_webhook", 1},
		"not ok without a reason":       {[]wire.Fault{wire.JSON(200, `{"ok":false}`), wire.JSON(200, `{}`)}, 502, "slack_unavailable", 2},
		"null":                          {[]wire.Fault{wire.JSON(200, `null`), wire.JSON(200, `[]`)}, 502, "slack_unavailable", 2},
		"307 elsewhere":                 {[]wire.Fault{wire.Answer(307, "", "Location", "/api/oauth.v2.access")}, 502, "slack_unavailable", 1},
		"invalid_code":                  {[]wire.Fault{slackError("invalid_code")}, 410, "code_expired", 1},
		"user_email_unverified":         {[]wire.Fault{slackError("user_email_unverified")}, 403, "slack_account", 1},
		"accesslimited":                 {[]wire.Fault{slackError("accesslimited")}, 403, "slack_admin", 1},
		"team_added_to_org":             {[]wire.Fault{slackError("team_added_to_org")}, 503, "slack_later", 1},
		"bad_client_secret":             {[]wire.Fault{slackError("bad_client_secret")}, 502, "slack_setup", 1},
		"a code nobody knows":           {[]wire.Fault{slackError("brand_new_error")}, 502, "slack_unknown", 1},
		"a code that is no code at all": {[]wire.Fault{slackError("<b>Bad</b>")}, 502, "slack_unknown", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Break(c.faults...)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			first := b.get(callback)
			if first.took > 10*time.Second {
				t.Errorf("the callback took %v; none of these needs 10 s", first.took)
			}
			p := b.get(first.location)
			if c.code == "" {
				p.want(t, http.StatusOK, "Slack is connected")
				w.wantWebhook("ada", len(w.slack.Webhooks())-1)
			} else {
				p.wantCode(t, c.status, c.code)
				w.wantNoWebhook("ada")
				if len(w.calls("Novu")) != 0 {
					t.Error("Novu was called")
				}
			}
			if got := len(w.calls("Slack")); got != c.exchanges {
				t.Errorf("got %d exchanges, want %d", got, c.exchanges)
			}
			if strings.Contains(name, "code spent") != strings.Contains(w.logs.String(), "Slack had spent the code") {
				t.Errorf("the log tells a lost answer wrongly: %s", w.logs)
			}
		})
	}
}

func slackError(code string) wire.Fault { return wire.JSON(200, `{"ok":false,"error":"`+code+`"}`) }

func TestSlackHangs(t *testing.T) {
	w := newWorld(t)
	w.slack.BreakAll(wire.Hang)
	b := w.browser()
	p := b.get(b.approve(b.begin(w.link("ada"))))
	if p.took > 15*time.Second {
		t.Errorf("got an answer after %v, want at most 15 s", p.took)
	}
	b.get(p.location).wantCode(t, http.StatusBadGateway, "slack_unavailable")
	if got := len(w.calls("Slack")); got > 2 {
		t.Errorf("the code went out %d times, want at most 2", got)
	}
}

func TestSlackRefusesConnections(t *testing.T) {
	w := newWorld(t, func(w *world, c *handler.Config) { w.slackURL = &url.URL{Scheme: "http", Host: "127.0.0.1:1"} })
	b := w.browser()
	b.land(b.approve(b.begin(w.link("ada")))).wantCode(t, http.StatusBadGateway, "slack_unavailable")
}

// The operator finds the cause and the remedy in the log; the person does not.
func TestOperatorMistakesAreForTheLog(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(slackError("bad_redirect_uri"))
	b := w.browser()
	p := b.land(b.approve(b.begin(w.link("ada"))))
	p.want(t, http.StatusBadGateway, "on our side")
	if strings.Contains(p.body, "bad_redirect_uri") {
		t.Error("the page shows Slack's code")
	}
	for _, text := range []string{`"level":"error"`, "slack: bad_redirect_uri", "enter REDIRECT_URL, byte for byte", `"code":"slack_setup"`, `"flow":"` + flowIDFromLog(w)} {
		if !strings.Contains(w.logs.String(), text) {
			t.Errorf("the log does not say %q: %s", text, w.logs)
		}
	}
}

func flowIDFromLog(w *world) string {
	_, rest, _ := strings.Cut(w.logs.String(), `"flow":"`)
	return rest[:min(24, len(rest))]
}

func TestNovuFaults(t *testing.T) {
	for name, c := range map[string]struct {
		faults []wire.Fault
		code   string // "" is connected
	}{
		"503 once":                  {[]wire.Fault{wire.HTML(503)}, ""},
		"429 once":                  {[]wire.Fault{wire.JSON(429, `{"message":"Too many requests"}`, "Retry-After", "1")}, ""},
		"reset once":                {[]wire.Fault{wire.Reset}, ""},
		"half an answer":            {[]wire.Fault{wire.Truncate}, ""},
		"answer lost":               {[]wire.Fault{wire.LoseAnswer}, ""},
		"HTML with 200":             {[]wire.Fault{wire.HTML(200)}, ""},
		"409 once":                  {[]wire.Fault{wire.JSON(409, `{"message":"conflict"}`)}, ""},
		"bad key":                   {[]wire.Fault{wire.JSON(401, `{"message":"API Key not found"}`)}, "pending"},
		"no integration":            {[]wire.Fault{wire.JSON(400, `{"message":"Subscriber ada do not have active slack integration."}`)}, "pending"},
		"message is a list":         {[]wire.Fault{wire.JSON(422, `{"message":["a","b"]}`)}, "pending"},
		"message is an object":      {[]wire.Fault{wire.JSON(400, `{"message":{"a":"b"}}`)}, "pending"},
		"wrong base URL":            {[]wire.Fault{wire.JSON(404, `{"message":"Cannot PUT /v1/x"}`)}, "pending"},
		"redirect to the dashboard": {[]wire.Fault{wire.Answer(302, "", "Location", "https://dashboard.example/")}, "pending"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.novu.AddSubscriber("ada")
			w.novu.Break(c.faults...)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			p := b.land(callback)
			if c.code == "" {
				p.want(t, http.StatusOK, "Slack is connected")
				w.wantWebhook("ada", 0)
				w.wantOutbox(0)
				return
			}
			p.want(t, http.StatusOK, "Slack is connected to #alerts at Acme; we are finishing the set-up.")
			w.wantOutbox(1)
			b.land(callback).want(t, http.StatusOK, "we are finishing the set-up") // a reload says the same
			to := b.get(b.approve(b.begin(w.link("bob", func(f *state.Flow) { f.ReturnURL = "https://app.example.com/" })))).location
			if want := "https://app.example.com/?slack=connected&channel=%23alerts&team=Acme"; to != want { // Novu is well again
				t.Errorf("got %s, want %s", to, want)
			}
		})
	}
}

// waiting returns how many connections Novu does not have yet.
func (w *world) waiting() (n int) {
	w.t.Helper()
	if err := w.entries.List(context.Background(), func(outbox.Entry) error { n++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) wantOutbox(want int) {
	w.t.Helper()
	if got := w.waiting(); got != want {
		w.t.Errorf("got %d entries in the outbox, want %d", got, want)
	}
}

// Novu is down: the person hears "connected, saving", the page turns into
// success by itself when Novu is back, and Novu gets it once.
func TestPendingTurnsIntoSuccess(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.outbox.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	w.novu.BreakAll(wire.HTML(503))

	b := w.browser()
	result := b.get(b.approve(b.begin(w.link("ada")))).location
	p := b.get(result)
	p.want(t, http.StatusOK, "Slack is connected to #alerts at Acme; we are finishing the set-up.", "https://t01acme.slack.com/services/")
	if got := p.header.Get("Refresh"); !strings.HasPrefix(got, "2; url=/slack/result?flow=") {
		t.Errorf("the page does not reload by itself: Refresh %q", got)
	}
	to := b.get(b.approve(b.begin(w.link("bob", func(f *state.Flow) { f.ReturnURL = "https://app.example.com/" })))).location
	if want := "https://app.example.com/?slack=pending&channel=%23alerts&team=Acme"; to != want {
		t.Errorf("got %s, want %s", to, want)
	}
	w.wantOutbox(2)

	w.novu.BreakAll(nil)
	eventually(t, "both are saved", func() bool { return w.novu.Saves() == 2 })
	eventually(t, "the page says so", func() bool { return strings.Contains(b.get(result).body, "Messages will arrive in #alerts at Acme.") })
	w.wantWebhook("ada", 0)
	w.wantWebhook("bob", 1)
	eventually(t, "the outbox is empty", func() bool { return w.waiting() == 0 }) // erased after it is saved
}

// The store fails between the exchange and the record: Novu is tried directly.
func TestStoreDownBetweenExchangeAndRecord(t *testing.T) {
	w := newWorld(t)
	w.entries.(*countingEntries).down.Store(true)
	b := w.browser()
	b.land(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, "Slack is connected")
	w.wantWebhook("ada", 0)
	w.novu.BreakAll(wire.HTML(503))
	p := b.land(b.approve(b.begin(w.link("bob"))))
	p.wantCode(t, http.StatusBadGateway, "novu_unavailable")
	w.novu.BreakAll(wire.JSON(401, `{"message":"no"}`))
	b.land(b.approve(b.begin(startAgain(t, p)))).wantCode(t, http.StatusBadGateway, "novu_refused")
	w.novu.BreakAll(nil)
	b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, "Slack is connected")
	w.wantWebhook("bob", 3)
}

// One person in many tabs: one update at a time, one channel, the newest.
func TestTwentyParallelFlowsOfOneSubscriber(t *testing.T) {
	for name, change := range map[string]func(*world, *handler.Config){
		"bolt":         func(*world, *handler.Config) {},
		"redis-server": func(w *world, c *handler.Config) { onRedis(&redis.Options{Addr: redistest.Start(w.t).Addr})(w, c) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			w.novu.Work = 20 * time.Millisecond
			recorded := &recordOrder{Store: w.entries}
			w.useEntries(recorded)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					b := w.browser()
					// One is sent at once; the others are told that it will be done.
					b.land(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, "Slack is connected")
				})
			}
			wg.Wait()
			ctx, stop := context.WithCancel(context.Background())
			go w.outbox.Run(ctx)
			defer stop()
			eventually(t, "the outbox is empty", func() bool { return w.waiting() == 0 })
			channels, _ := w.novu.Channels("ada")
			if len(channels) != 1 || w.novu.Overlaps() != 0 {
				t.Errorf("got channels %v and %d overlaps, want one channel and none", channels, w.novu.Overlaps())
			}
			recorded.mu.Lock()
			defer recorded.mu.Unlock()
			if last := recorded.ids[len(recorded.ids)-1]; recorded.released[len(recorded.released)-1] != last {
				t.Errorf("the last one sent is not the last one recorded")
			}
		})
	}
}

// The moment in which a kill loses a webhook: from Slack's answer to the record.
// It is measured from the fake's side, so it includes the answer's way.
func TestWindowBetweenAnswerAndRecordIsSmall(t *testing.T) {
	for name, change := range map[string]func(*world, *handler.Config){
		"bolt":         func(*world, *handler.Config) {},
		"redis-server": func(w *world, c *handler.Config) { onRedis(&redis.Options{Addr: redistest.Start(w.t).Addr})(w, c) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			var windows []time.Duration
			code := ""
			w.useEntries(recordHook{w.entries, func() {
				_, answered := w.slack.Given(code)
				windows = append(windows, time.Since(answered))
			}})
			for range 40 {
				b := w.browser()
				callback := b.approve(b.begin(w.link("ada")))
				u, _ := url.Parse(callback)
				code = u.Query().Get("code")
				b.land(callback).want(t, http.StatusOK, "Slack is connected")
			}
			slices.Sort(windows)
			t.Logf("median %v, largest %v of %d", windows[len(windows)/2], windows[len(windows)-1], len(windows))
			if len(windows) != 40 || windows[20] > 100*time.Millisecond {
				t.Errorf("got %v, want a median of a few milliseconds", windows)
			}
		})
	}
}

// recordHook calls after when an entry has been recorded.
type recordHook struct {
	outbox.Store
	after func()
}

func (s recordHook) Record(ctx context.Context, e outbox.Entry, lease time.Duration) (bool, error) {
	leased, err := s.Store.Record(ctx, e, lease)
	s.after()
	return leased, err
}

// recordOrder notes the order in which entries are recorded and delivered.
type recordOrder struct {
	outbox.Store
	mu            sync.Mutex
	ids, released []string
}

func (s *recordOrder) Record(ctx context.Context, e outbox.Entry, lease time.Duration) (bool, error) {
	s.mu.Lock() // one at a time, so that the order is the store's
	defer s.mu.Unlock()
	s.ids = append(s.ids, e.ID)
	return s.Store.Record(ctx, e, lease)
}

func (s *recordOrder) Release(ctx context.Context, e outbox.Entry, then outbox.Then, ending *state.Ending) error {
	if then.Done {
		s.mu.Lock()
		s.released = append(s.released, e.ID)
		s.mu.Unlock()
	}
	return s.Store.Release(ctx, e, then, ending)
}

// A full or broken disk under the embedded store is a refusal, not a crash.
func TestEmbeddedStoreThatCannotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	states, err := state.NewBolt(db)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world, c *handler.Config) { c.States = states })
	b := w.browser()
	b.begin(w.link("ada"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b.get(w.link("ada")).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get("/readyz").want(t, http.StatusServiceUnavailable)
}
