package handler_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	w.backend.down.Store(true)

	for _, target := range []string{w.link("ada"), callback, b.cancel(callback), "/slack/result?flow=" + flowIDOf(t, callback)} {
		p := b.get(target)
		p.wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
		if len(p.header.Values("Set-Cookie")) != 0 {
			t.Error("a cookie was set")
		}
	}
	b.get("/readyz").want(t, http.StatusServiceUnavailable, `"status":"unavailable"`)
	b.get("/healthz").want(t, http.StatusOK, `"status":"ok"`)
	w.wantNothingOut()

	w.backend.down.Store(false)
	eventually(t, "it is ready again", func() bool { return b.get("/readyz").status == http.StatusOK })
	b.land(callback).want(t, http.StatusOK, isConnected) // nothing was spent
	w.wantWebhook("ada", 0)
}

// A Redis that hangs or is gone costs a person less than two seconds.
func TestRedisDownAnswersWithinTwoSeconds(t *testing.T) {
	server := redistest.Start(t)
	w := newWorld(t, onRedis(server))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	for _, name := range []string{"hangs", "gone"} {
		map[string]func(){"hangs": server.Pause, "gone": server.Stop}[name]()
		for _, target := range []string{w.link("ada"), callback, "/slack/result?flow=" + flowIDOf(t, callback)} {
			p := b.get(target)
			p.want(t, http.StatusServiceUnavailable)
			if p.took > 2*time.Second+busyMachine {
				t.Errorf("%s: %s took %v, want at most 2 s", name, target, p.took)
			}
		}
		eventually(t, "it is not ready", func() bool {
			p := b.get("/readyz")
			if p.took > 2*time.Second+busyMachine {
				t.Errorf("%s: /readyz took %v, want at most 2 s", name, p.took)
			}
			return p.status == http.StatusServiceUnavailable
		})
	}
	w.wantNothingOut()
	server.Restart()
	eventually(t, "it recovers by itself", func() bool { return b.get("/readyz").status == http.StatusOK })
	b.land(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, isConnected)
}

// The store loses the answer to a consumption, or answers too late: the person is asked
// to reload, and the same callback connects, or waits for the worker to do so. The code
// goes out once.
func TestConsumptionThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(ctx context.Context, consume func() (state.Row, error)) (state.Row, error){
		"not done": func(context.Context, func() (state.Row, error)) (state.Row, error) { return state.Row{}, errDown },
		"done, the answer is lost": func(_ context.Context, consume func() (state.Row, error)) (state.Row, error) {
			consume()
			return state.Row{}, errDown
		},
		"done, and then it hangs": func(_ context.Context, consume func() (state.Row, error)) (state.Row, error) {
			consume()
			time.Sleep(1800 * time.Millisecond) // the time limit of a Redis that hangs
			return state.Row{}, context.DeadlineExceeded
		},
		"it hangs, and does it long after": func(_ context.Context, consume func() (state.Row, error)) (state.Row, error) {
			time.AfterFunc(2500*time.Millisecond, func() { consume() })
			time.Sleep(1800 * time.Millisecond)
			return state.Row{}, context.DeadlineExceeded
		},
	} {
		for _, unanswered := range []int64{1, 3} {
			t.Run(fmt.Sprintf("%s, %d times", name, unanswered), func(t *testing.T) {
				var calls atomic.Int64
				w := newWorld(t, func(w *world, _ *handler.Config) {
					w.backend.atConsume = func(ctx context.Context, consume func() (state.Row, error)) (state.Row, error) {
						if calls.Add(1) <= unanswered {
							return c(ctx, consume)
						}
						return consume()
					}
				})
				b := w.browser()
				callback := b.approve(b.begin(w.link("ada")))
				p := b.get(callback)
				p.wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
				if p.took > 2*time.Second+busyMachine {
					t.Errorf("the answer took %v, want about 2 s", p.took)
				}
				for p.status == http.StatusServiceUnavailable { // the person reloads
					p = b.get(callback)
				}
				if p.status != http.StatusSeeOther {
					t.Fatalf("got %d, want 303: %s", p.status, p.body)
				}
				w.pass(31 * time.Second) // until the lease ends of the callback that got no answer
				w.work()
				eventually(t, "the page says so", func() bool { return strings.Contains(b.get(p.location).body, isConnected) })
				w.wantWebhook("ada", 0)
				if got := len(w.calls("Slack")); got != 1 {
					t.Errorf("got %d exchanges, want 1", got)
				}
				if got := w.novu.Saves(); got != 1 {
					t.Errorf("got %d saves, want 1", got)
				}
			})
		}
	}
}

// Once the flow is consumed, whoever does not reload is connected all the same.
func TestConsumptionThatIsNotAnsweredGoesOnWithoutABrowser(t *testing.T) {
	w := newWorld(t, func(w *world, _ *handler.Config) {
		w.backend.atConsume = func(_ context.Context, consume func() (state.Row, error)) (state.Row, error) {
			consume()
			return state.Row{}, errDown
		}
	})
	b := w.browser()
	b.get(b.approve(b.begin(w.link("ada")))).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	w.pass(31 * time.Second)
	w.work()
	eventually(t, "the webhook is saved", func() bool { return w.novu.Saves() == 1 })
	w.wantWebhook("ada", 0)
}

// A real Redis that stands still during a consumption and comes back.
func TestRedisHangsDuringConsume(t *testing.T) {
	server := redistest.Start(t)
	w := newWorld(t, onRedis(server))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	server.Pause()
	p := b.get(callback)
	server.Resume()
	p.wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	if p.took > 2*time.Second+busyMachine {
		t.Errorf("the answer took %v, want at most 2 s", p.took)
	}
	for p.status == http.StatusServiceUnavailable {
		p = b.get(callback)
	}
	eventually(t, "the page says so", func() bool { return strings.Contains(b.get(p.location).body, isConnected) })
	w.wantWebhook("ada", 0)
	if got := len(w.calls("Slack")); got != 1 {
		t.Errorf("got %d exchanges, want 1", got)
	}
}

func TestResultThatCannotBeKeptIsShownAtOnce(t *testing.T) {
	w := newWorld(t)
	w.backend.downAtFinish.Store(true)
	b := w.browser()
	b.get(b.approve(b.begin(w.link("ada")))).want(t, http.StatusOK, isConnected, "#alerts")
	w.wantWebhook("ada", 0)
	to := b.get(b.approve(b.begin(w.link("bob", returnTo("https://app.example.com/"))))).location
	if !strings.HasPrefix(to, "https://app.example.com/?slack=connected") {
		t.Errorf("got %q, want the return URL with the outcome", to)
	}

	// The flows are still recorded: the worker saves the same webhooks again and finishes.
	w.backend.downAtFinish.Store(false)
	w.pass(time.Minute)
	w.work()
	eventually(t, "both are finished", func() bool { return w.waiting() == 0 })
	w.wantWebhook("ada", 0)
	w.wantWebhook("bob", 1)
}

// A failure that the store cannot keep is not told yet: the worker tries again, and the
// page that waits, or the return URL, says how that ended.
func TestFailureThatCannotBeKeptIsToldLater(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(slackError("accesslimited"), slackError("accesslimited"), slackError("accesslimited"), slackError("accesslimited"))
	w.backend.downAtFinish.Store(true)
	b := w.browser()
	const back = "https://app.example.com/"
	var results []string
	for _, link := range []string{w.link("ada"), w.link("bob", returnTo(back))} {
		callback := b.approve(b.begin(link))
		p := b.get(callback)
		p.want(t, http.StatusAccepted, "One moment")
		_, reload, _ := strings.Cut(p.header.Get("Refresh"), "url=")
		results = append(results, reload)
	}
	w.backend.downAtFinish.Store(false)
	w.pass(time.Minute)
	w.work()
	eventually(t, "both are finished", func() bool { return w.waiting() == 0 })
	p := b.get(results[0])
	p.wantCode(t, http.StatusForbidden, "slack_admin")
	if got, want := b.get(results[1]).location, back+"?slack=error&reason=slack_admin"; got != want {
		t.Errorf("got %q, want %s", got, want)
	}
	w.wantNoNovuWrites()
	b.land(b.approve(b.begin(startAgain(t, p)))).want(t, http.StatusOK, isConnected)
	w.wantWebhook("ada", 0)
}

// Two instances on one Redis: a flow begun on one ends on the other.
func TestTwoInstancesShareFlows(t *testing.T) {
	one := newWorld(t, onRedis(redistest.Start(t)))
	b := one.browser()
	callback := b.approve(b.begin(one.link("ada")))

	two := serve(t, handler.New(one.config))
	moved := strings.Replace(callback, one.origin, two.String(), 1)
	p := b.get(moved)
	if p.status != http.StatusSeeOther {
		t.Fatalf("the other instance: got %d, want 303: %s", p.status, p.body)
	}
	b.get(p.location).want(t, http.StatusOK, isConnected)
	b.get(two.String()+p.location).want(t, http.StatusOK, isConnected)
	one.wantWebhook("ada", 0)
}

// Two deployments on one Redis, with one REDIS_PREFIX and one STORE_SECRET: what was
// begun at one is not found at the other, and what waits for one does not go to the
// other's Novu.
func TestTwoDeploymentsShareNothing(t *testing.T) {
	t.Parallel()
	named := func(origin, client, environment string) func(string) state.Deployment {
		return func(string) state.Deployment { return state.NewDeployment(origin, client, environment) }
	}
	const origin = "https://slack.example.com"
	for name, names := range map[string][2]func(origin string) state.Deployment{
		"another origin":      {named("https://dev.example.com", "1.2", "env"), named(origin, "1.2", "env")},
		"another client":      {named(origin, "1.2", "env"), named(origin, "3.4", "env")},
		"another environment": {named(origin, "1.2", "dev"), named(origin, "1.2", "prod")},
		"as they are made":    {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			start := func(i int) *world {
				return startWorld(t, onRedis(server), func(w *world, _ *handler.Config) {
					if names[i] != nil {
						w.deployment = names[i]
					}
				})
			}
			dev, prod := start(0), start(1)
			b := dev.browser()
			authorize := b.begin(dev.link("ada"))
			callback := b.approve(authorize)
			atProd := func(target string) string { return strings.Replace(target, dev.origin, prod.origin, 1) }
			if len(b.cookies()) != 1 {
				t.Fatal("the browser has no cookie to show to prod")
			}

			b.get(atProd(callback)).wantCode(t, http.StatusGone, "state_not_found")
			b.get(atProd(b.cancel(authorize))).wantCode(t, http.StatusGone, "state_not_found")
			b.get(prod.origin+"/slack/result?flow="+flowIDOf(t, callback)).wantCode(t, http.StatusGone, "state_not_found")
			b.get(prod.origin+"/slack/install?again="+flowIDOf(t, callback)).wantCode(t, http.StatusGone, "state_not_found")
			dev.wantNothingOut()

			// Dev's Novu is down: what waits there is dev's own.
			dev.novu.BreakAll(upstreamtest.HTML(503))
			b.land(callback).want(t, http.StatusOK, "Almost done")
			dev.wantWaiting(1)
			prod.wantWaiting(0)
			ctx := context.Background()
			if more, err := prod.store.Wake(ctx, state.Deliveries); more || err != nil {
				t.Errorf("Wake: got %t, %v", more, err)
			}
			if sent, waiting, err := prod.outbox.Drain(ctx); sent != 0 || waiting != 0 || err != nil {
				t.Errorf("prod's outbox sent %d and keeps %d of dev's, %v", sent, waiting, err)
			}
			if _, err := dev.store.Others(ctx); err != nil { // as at its start
				t.Fatal(err)
			}
			if others, err := prod.store.Others(ctx); err != nil || len(others) != 1 {
				t.Errorf("prod is told of %v, %v, want dev's one flow", others, err)
			}
			prod.wantNothingOut()

			dev.novu.BreakAll(nil)
			dev.work()
			eventually(t, "dev's own worker saves it", func() bool { return dev.waiting() == 0 })
			dev.wantWebhook("ada", 0)
			prod.wantNothingOut()
		})
	}
}

// A whole undisturbed flow costs Redis four round trips: issue, consume, record
// and lease, finish and release.
func TestFlowCostsFourRoundTrips(t *testing.T) {
	trips := &roundTrips{}
	w := newWorld(t, onRedis(redistest.Start(t), trips), func(w *world, c *handler.Config) {
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

// What a click costs a Redis until the person is back, or for STATE_TTL.
func TestPendingFlowIsSmall(t *testing.T) {
	server := redistest.Start(t)
	w := newWorld(t, onRedis(server))
	client, ctx := server.Client(), context.Background()
	long := "https://app.example.com/"
	long += strings.Repeat("x", 2000-len(long))
	for name, c := range map[string]struct {
		link  string
		below int64
	}{
		"ordinary":                {w.link("user_2bQm8K4LrXUG9FyTQ", returnTo("https://app.example.com/settings/notifications")), 800},
		"a return URL of 2,000 B": {w.link("user_2bQm8K4LrXUG9FyTQ", returnTo(long)), 4096},
	} {
		if err := client.FlushDB(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		b := w.browser()
		authorize := b.begin(c.link)
		keys, err := client.Keys(ctx, "nsr:*:flow:"+string(b.key(authorize))).Result()
		if err != nil || len(keys) != 1 {
			t.Fatalf("got keys %v, %v, want the flow's", keys, err)
		}
		got, err := client.MemoryUsage(ctx, keys[0]).Result()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", name, got)
		if got >= c.below {
			t.Errorf("%s: a pending flow takes %d bytes, want fewer than %d", name, got, c.below)
		}
	}
}

// A Redis that is full and must not evict: the person who comes is refused
// clearly, the one who is at Slack is served, and it recovers by itself.
func TestRedisFull(t *testing.T) {
	server := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorld(t, onRedis(server))
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	client, ctx := server.Client(), context.Background()
	fill := func(limit string) {
		if err := client.ConfigSet(ctx, "maxmemory", limit).Err(); err != nil {
			t.Error(err)
		}
	}
	fill("1")
	b.get(w.link("bob")).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get(callback).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get("/readyz").want(t, http.StatusServiceUnavailable)
	b.get("/healthz").want(t, http.StatusOK)
	w.wantNothingOut()

	fill("0")
	eventually(t, "it is ready again", func() bool { return b.get("/readyz").status == http.StatusOK })
	b.land(callback).want(t, http.StatusOK, isConnected)

	// Full between exchange and record, for a while.
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		fill("1")
		records := w.backend.records.Load()
		next.ServeHTTP(to, r)
		go func() {
			eventually(t, "the record is tried again", func() bool { return w.backend.records.Load() > records+1 })
			fill("0")
		}()
	})
	b.land(b.approve(b.begin(w.link("bob")))).want(t, http.StatusOK, isConnected)
	w.wantWebhook("ada", 0)
	w.wantWebhook("bob", 1)
}

// Slack's troubles, each with the page that the person gets and how often the
// code went out.
func TestSlackFaults(t *testing.T) {
	t.Parallel()
	ok := upstreamtest.Fault(nil)
	for name, c := range map[string]struct {
		faults    []upstreamtest.Fault
		status    int
		code      string // "" is connected
		exchanges int
	}{
		"503 once, HTML":                 {[]upstreamtest.Fault{upstreamtest.HTML(503)}, 200, "", 2},
		"503 for long":                   {[]upstreamtest.Fault{upstreamtest.HTML(503), upstreamtest.HTML(502), upstreamtest.HTML(500)}, 502, "slack_unavailable", 3},
		"service_unavailable once":       {[]upstreamtest.Fault{slackError("service_unavailable")}, 200, "", 2},
		"request_timeout for long":       {[]upstreamtest.Fault{slackError("request_timeout"), slackError("request_timeout"), slackError("request_timeout")}, 502, "slack_unavailable", 3},
		"internal_error once":            {[]upstreamtest.Fault{slackError("internal_error")}, 200, "", 2},
		"internal_error twice":           {[]upstreamtest.Fault{slackError("internal_error"), slackError("fatal_error"), ok}, 502, "slack_unavailable", 2},
		"reset before the work":          {[]upstreamtest.Fault{upstreamtest.Reset}, 200, "", 2},
		"answer lost, code spent":        {[]upstreamtest.Fault{upstreamtest.LoseAnswer}, 503, "interrupted", 2},
		"truncated, code spent":          {[]upstreamtest.Fault{upstreamtest.Truncate}, 503, "interrupted", 2},
		"429 for longer than codes live": {[]upstreamtest.Fault{upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "600")}, 503, "slack_busy", 1},
		"HTML with 200":                  {[]upstreamtest.Fault{upstreamtest.HTML(200), upstreamtest.HTML(200)}, 502, "slack_unavailable", 2},
		"10 MB":                          {[]upstreamtest.Fault{upstreamtest.JSON(200, `{"ok":true,"x":"`+strings.Repeat("x", 10<<20)+`"}`), upstreamtest.JSON(200, `{"ok":true,"x":"`+strings.Repeat("x", 10<<20)+`"}`)}, 502, "slack_unavailable", 2},
		"ok without anything":            {[]upstreamtest.Fault{upstreamtest.JSON(200, `{"ok":true}`)}, 502, "no_webhook", 1},
		"not ok without a reason":        {[]upstreamtest.Fault{upstreamtest.JSON(200, `{"ok":false}`), upstreamtest.JSON(200, `{}`)}, 502, "slack_unavailable", 2},
		"null":                           {[]upstreamtest.Fault{upstreamtest.JSON(200, `null`), upstreamtest.JSON(200, `[]`)}, 502, "slack_unavailable", 2},
		"307 elsewhere":                  {[]upstreamtest.Fault{upstreamtest.Answer(307, "", "Location", "/api/oauth.v2.access")}, 502, "slack_unavailable", 1},
		"invalid_code":                   {[]upstreamtest.Fault{slackError("invalid_code")}, 410, "code_expired", 1},
		"user_email_unverified":          {[]upstreamtest.Fault{slackError("user_email_unverified")}, 403, "slack_account", 1},
		"accesslimited":                  {[]upstreamtest.Fault{slackError("accesslimited")}, 403, "slack_admin", 1},
		"team_added_to_org":              {[]upstreamtest.Fault{slackError("team_added_to_org")}, 503, "slack_later", 1},
		"bad_client_secret":              {[]upstreamtest.Fault{slackError("bad_client_secret")}, 502, "slack_setup", 1},
		"a code nobody knows":            {[]upstreamtest.Fault{slackError("brand_new_error")}, 502, "slack_unknown", 1},
		"a code that is no code at all":  {[]upstreamtest.Fault{slackError("<b>Bad</b>")}, 502, "slack_unknown", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Break(c.faults...)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			first := b.get(callback)
			if first.took > 10*time.Second+busyMachine {
				t.Errorf("the callback took %v; none of these needs 10 s", first.took)
			}
			p := b.get(first.location)
			if w.wasSlow.Load() {
				p.settle = func() page { return b.settle(first.location) }
			}
			if c.code == "" {
				p.want(t, http.StatusOK, isConnected)
				w.wantWebhook("ada", len(w.slack.Webhooks())-1)
			} else {
				p.wantCode(t, c.status, c.code)
				w.wantNoWebhook("ada")
				w.wantNoNovuWrites()
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

// Slack's limit spends no code: the person waits on a page that turns into success, or
// leads to the return URL, when the worker has exchanged the code.
func TestSlackAsksToWait(t *testing.T) {
	t.Parallel()
	const back = "https://app.example.com/settings"
	for name, c := range map[string]struct {
		fault     upstreamtest.Fault
		returnURL string
	}{
		"with Retry-After":  {upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "1"), ""},
		"without JSON":      {upstreamtest.Answer(429, "slow down"), ""},
		"as HTTP 200":       {slackError("ratelimited"), ""},
		"with a return URL": {upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "1"), back},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Break(c.fault)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada", returnTo(c.returnURL))))
			p := b.get(callback)
			if want := "/slack/result?flow=" + flowIDOf(t, callback); p.status != http.StatusSeeOther || p.location != want {
				t.Fatalf("got %d to %q, want 303 to %s", p.status, p.location, want)
			}
			if p.took > 10*time.Second+busyMachine {
				t.Errorf("the callback took %v", p.took)
			}
			waiting := b.get(p.location)
			waiting.want(t, http.StatusAccepted, "One moment")
			refresh := waiting.header.Get("Refresh")
			if want := "2; url=" + p.location + "&n=2"; refresh != want {
				t.Errorf("got Refresh %q, want %q", refresh, want)
			}
			if got := w.look(b.key(callback)); got.Phase != state.Working || got.Code.Reveal() != queryOf(t, callback, "code") {
				t.Errorf("the flow is in phase %c and holds a code of %d bytes, want working with the code", got.Phase, len(got.Code.Reveal()))
			}
			w.wantNoNovuWrites()
			w.wantWaiting(1)

			w.work()
			eventually(t, "the worker connects it", func() bool { return w.waiting() == 0 })
			w.wantWebhook("ada", 0)
			if got := len(w.calls("Slack")); got != 2 {
				t.Errorf("got %d exchanges, want 2", got)
			}
			_, reload, _ := strings.Cut(refresh, "url=")
			last := b.get(reload)
			if c.returnURL == "" {
				last.want(t, http.StatusOK, isConnected, "#alerts")
			} else if want := back + "?slack=connected&channel=%23alerts&team=Acme"; last.status != http.StatusSeeOther || last.location != want {
				t.Errorf("the waiting page: got %d to %q, want 303 to %s", last.status, last.location, want)
			}
		})
	}
}

// Slack asks to wait for longer than half a minute: the page has the place in the queue, and
// looks every 10 s.
func TestPlaceInTheQueue(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "400"))
	for place := range 3 {
		b := w.browser()
		to := b.get(b.approve(b.begin(w.link(fmt.Sprint("person-", place), returnTo("https://app.example.com/"))))).location
		for n, refresh := range map[string]string{"": "2", "&n=7": "8"} {
			p := b.get(to + n)
			p.want(t, http.StatusAccepted, "One moment", "turns", fmt.Sprintf("Your place in the queue: %d<", place+1))
			if got, want := p.header.Get("Refresh"), "10; url="+to+"&n="+refresh; got != want {
				t.Errorf("got Refresh %q, want %q", got, want)
			}
		}
	}
	if got := len(w.calls("Slack")); got != 1 {
		t.Errorf("got %d exchanges, want 1: nobody asks while Slack asks to wait", got)
	}
	w.wantWaiting(3)
}

// The same where it ends badly: the waiting page says why, or leads back with the reason.
func TestWaitingForSlackInVain(t *testing.T) {
	t.Parallel()
	for name, returnURL := range map[string]string{"result page": "", "return URL": "https://app.example.com/"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.slack.Break(upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "1"), slackError("accesslimited"))
			b := w.browser()
			p := b.get(b.approve(b.begin(w.link("ada", returnTo(returnURL)))))
			w.work()
			eventually(t, "the worker ends it", func() bool { return w.waiting() == 0 })
			last := b.get(p.location + "&n=3")
			if returnURL == "" {
				last.wantCode(t, http.StatusForbidden, "slack_admin")
				b.land(b.approve(b.begin(startAgain(t, last)))).want(t, http.StatusOK, isConnected)
			} else if want := returnURL + "?slack=error&reason=slack_admin"; last.location != want {
				t.Errorf("got %q, want %s", last.location, want)
			}
			wantCount(t, w.config.Metrics, `flows_finished_total{code="slack_admin"} 1`)
		})
	}
}

func slackError(code string) upstreamtest.Fault {
	return upstreamtest.JSON(200, `{"ok":false,"error":"`+code+`"}`)
}

func TestSlackHangs(t *testing.T) {
	w := newWorld(t)
	w.slack.BreakAll(upstreamtest.Hang)
	b := w.browser()
	p := b.get(b.approve(b.begin(w.link("ada"))))
	if p.took > 15*time.Second+busyMachine {
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
	t.Parallel()
	for name, c := range map[string]struct {
		fault upstreamtest.Fault
		code  string // "" is connected
		puts  int    // that Novu got within the request
	}{
		"503 once":             {upstreamtest.HTML(503), "", 2},
		"429 once":             {upstreamtest.JSON(429, `{"statusCode":429,"message":"Too many requests"}`, "Retry-After", "1"), "", 2},
		"half an answer":       {upstreamtest.Truncate, "", 2},
		"HTML with 200":        {upstreamtest.HTML(200), "", 2},
		"409 once":             {upstreamtest.JSON(409, `{"statusCode":409,"message":"conflict"}`), "", 2},
		"bad key":              {upstreamtest.JSON(401, `{"statusCode":401,"message":"API Key not found"}`), "pending", 1},
		"no integration":       {upstreamtest.JSON(400, `{"statusCode":400,"message":"Subscribers environment (6a) do not have active slack integration."}`), "pending", 1},
		"message is a list":    {upstreamtest.JSON(422, `{"statusCode":422,"message":["a","b"]}`), "pending", 1},
		"message is an object": {upstreamtest.JSON(400, `{"statusCode":400,"message":{"a":"b"}}`), "pending", 1},
		"wrong base URL":       {upstreamtest.JSON(404, `{"statusCode":404,"message":"Cannot PUT /v1/x"}`), "pending", 1},
		// Something in front of Novu answers: the next attempt may reach Novu.
		"redirect to a login": {upstreamtest.Answer(302, "", "Location", "https://login.example/"), "", 2},
		"a firewall's 403":    {upstreamtest.HTML(403), "", 2},
		"a gateway's 401":     {upstreamtest.JSON(401, `{"error":"unauthorized"}`), "", 2},
		"a proxy's 404":       {upstreamtest.HTML(404), "", 2},
		"a proxy's 407":       {upstreamtest.HTML(407), "", 2},
		// Novu may be at work on these: nothing more is sent for 30 s.
		"reset":       {upstreamtest.Reset, "pending", 1},
		"answer lost": {upstreamtest.LoseAnswer, "pending", 1},
		"502 once":    {upstreamtest.HTML(502), "pending", 1},
		"504 once":    {upstreamtest.HTML(504), "pending", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *world
			var b *browser
			var callback string
			var p page
			for range 5 { // the machine may be too slow for all that is done within the request
				w = startWorld(t)
				w.novu.AddSubscriber("ada")
				b = w.browser()
				callback = b.approve(b.begin(w.link("ada")))
				w.novu.Break(c.fault)
				if p = b.land(callback); p.settle == nil {
					break
				}
			}
			if got := len(w.novuWrites()); got != c.puts {
				t.Errorf("got %d updates, want %d", got, c.puts)
			}
			if c.code == "" {
				p.want(t, http.StatusOK, isConnected)
				w.wantWebhook("ada", 0)
				w.wantWaiting(0)
				return
			}
			p.want(t, http.StatusOK, inAlerts, "Slack is connected; we are finishing the set-up in Example Inc.")
			w.wantWaiting(1)
			b.land(callback).want(t, http.StatusOK, "we are finishing the set-up") // a reload says the same
			to := b.getOutcome(b.approve(b.begin(w.link("bob", returnTo("https://app.example.com/"))))).location
			if want := "https://app.example.com/?slack=connected&channel=%23alerts&team=Acme"; to != want { // Novu is well again
				t.Errorf("got %s, want %s", to, want)
			}

			w.pass(2 * time.Hour) // above every pause
			w.work()
			eventually(t, "it goes through by itself", func() bool { return w.waiting() == 0 })
			b.land(callback).want(t, http.StatusOK, isConnected, inAlerts)
			w.wantWebhook("ada", 0)
		})
	}
}

// Novu is down: the person hears "connected, saving", the page turns into
// success by itself when Novu is back, and Novu gets it once.
func TestPendingTurnsIntoSuccess(t *testing.T) {
	w := newWorld(t)
	w.work()
	w.novu.BreakAll(upstreamtest.HTML(503))

	b := w.browser()
	result := b.get(b.approve(b.begin(w.link("ada")))).location
	p := b.get(result)
	p.want(t, http.StatusOK, inAlerts, "Slack is connected; we are finishing the set-up in Example Inc.", "https://t01acme.slack.com/services/")
	if got := p.header.Get("Refresh"); !strings.HasPrefix(got, "2; url=/slack/result?flow=") {
		t.Errorf("the page does not reload by itself: Refresh %q", got)
	}
	to := b.get(b.approve(b.begin(w.link("bob", returnTo("https://app.example.com/"))))).location
	if want := "https://app.example.com/?slack=pending&channel=%23alerts&team=Acme"; to != want {
		t.Errorf("got %s, want %s", to, want)
	}
	w.wantWaiting(2)

	w.novu.BreakAll(nil)
	eventually(t, "both are finished", func() bool { return w.waiting() == 0 })
	b.get(result).want(t, http.StatusOK, isConnected, inAlerts)
	w.wantWebhook("ada", 0)
	w.wantWebhook("bob", 1)
	if got := w.novu.Saves(); got != 2 {
		t.Errorf("got %d saves, want one for each", got)
	}
}

// The store fails between the exchange and the record and comes back: the record is
// tried again, and the person notices nothing.
func TestStoreComesBackBeforeTheRecord(t *testing.T) {
	w := newWorld(t, func(w *world, _ *handler.Config) {
		w.backend.afterMove = func(m state.Move) error {
			if m.To == state.Recorded {
				w.wantNoNovuWrites()
			}
			return nil
		}
	})
	w.backend.recordsFail.Store(3)
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	b.land(callback).want(t, http.StatusOK, isConnected)
	w.wantWebhook("ada", 0)
	w.wantWaiting(0)
	if exchanges, records := len(w.calls("Slack")), w.backend.records.Load(); exchanges != 1 || records != 4 {
		t.Errorf("got %d exchanges and %d attempts to record, want 1 and 4", exchanges, records)
	}
}

// The store does what it was asked, and its answer is lost: the same comes of it as if it
// had not been.
func TestAnswerOfAMoveIsLost(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]state.Phase{"record": state.Recorded, "finish": state.Finished} {
		t.Run(name, func(t *testing.T) {
			var lost atomic.Bool
			w := newWorld(t, func(w *world, _ *handler.Config) {
				w.backend.afterMove = func(m state.Move) error {
					if m.To == to && lost.CompareAndSwap(false, true) {
						return errDown
					}
					return nil
				}
			})
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada")))
			p := b.get(callback)
			if p.location != "" {
				p = b.get(p.location)
			}
			p.want(t, http.StatusOK, isConnected, inAlerts)
			b.land(callback).want(t, http.StatusOK, isConnected, inAlerts)
			if exchanges, saves := len(w.calls("Slack")), w.novu.Saves(); !lost.Load() || exchanges != 1 || saves != 1 {
				t.Errorf("got %d exchanges and %d saves, want one of each", exchanges, saves)
			}
			w.wantWebhook("ada", 0)
			w.wantWaiting(0)
		})
	}
}

// The store stays down: Novu gets nothing that is not recorded, and the person is told
// to start again.
func TestStoreStaysDownAtTheRecord(t *testing.T) {
	t.Parallel()
	for name, returnURL := range map[string]string{"result page": "", "return URL": "https://app.example.com/"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.backend.recordsFail.Store(math.MaxInt64)
			b := w.browser()
			callback := b.approve(b.begin(w.link("ada", returnTo(returnURL))))
			p := b.get(callback)
			if p.took > 10*time.Second+busyMachine {
				t.Errorf("the callback took %v, want about 5 s", p.took)
			}
			if returnURL == "" {
				p.wantCode(t, http.StatusServiceUnavailable, "interrupted")
			} else if want := returnURL + "?slack=error&reason=interrupted"; p.location != want {
				t.Errorf("got %q, want %s", p.location, want)
			}
			if got := w.backend.records.Load(); got < 3 {
				t.Errorf("the record was tried %d times, want for 5 s", got)
			}
			if logs := w.logs.String(); !strings.Contains(logs, `"code":"interrupted"`) || !strings.Contains(logs, `"level":"error"`) || !strings.Contains(logs, "the store failed to record a webhook") {
				t.Errorf("the log does not say what happened: %s", logs)
			}

			// What the store has is a flow in the middle of its work, with a code that is
			// spent: the worker finds that out, and the page says the same from then on.
			w.backend.recordsFail.Store(0)
			w.pass(time.Minute)
			w.work()
			eventually(t, "the worker ends it", func() bool { return w.waiting() == 0 })
			last := b.get("/slack/result?flow=" + flowIDOf(t, callback))
			last.wantCode(t, http.StatusServiceUnavailable, "interrupted")
			w.wantNoNovuWrites()

			again := b.get(b.approve(b.begin(startAgain(t, last))))
			if again.status != http.StatusSeeOther {
				t.Errorf("Start again: got %d, want 303: %s", again.status, again.body)
			}
			w.wantWebhook("ada", 1)
		})
	}
}

// wantNewest checks that Novu has, for a subscriber, the webhook that a callback's code
// was spent on and no other.
func (w *world) wantNewest(subscriber, callback string) {
	w.t.Helper()
	var got []string
	if w.saveEndpoints {
		for _, e := range w.novu.Endpoints() {
			if e.Subscriber == subscriber {
				got = append(got, e.URL)
			}
		}
	} else {
		channels, _ := w.novu.Channels(subscriber)
		for _, c := range channels {
			got = append(got, c.WebhookURL)
		}
	}
	if want, _ := w.slack.Given(queryOf(w.t, callback, "code")); want == "" || !slices.Equal(got, []string{want}) {
		w.t.Errorf("subscriber %q: Novu has %v, want %q alone of %v", subscriber, got, want, w.slack.Webhooks())
	}
}

// A connection that waits never ends on top of a newer one of the same person, whatever
// link each came with.
func TestOlderConnectionNeverEndsOnTopOfANewerOne(t *testing.T) {
	t.Parallel()
	forms := map[string]func(w *world) string{
		"named":               func(w *world) string { return w.link("ada", func(r *link.Request) { r.Integration = "slack-main" }) },
		"not named":           func(w *world) string { return w.link("ada") },
		"with an environment": func(w *world) string { return w.link("ada", func(r *link.Request) { r.Environment = "env-demo" }) },
		"Novu-style, named": func(w *world) string {
			return w.novuStyle("ada", "integrationIdentifier", "slack-main", "environmentId", "env-demo")
		},
		"Novu-style, not named": func(w *world) string { return w.novuStyle("ada") },
	}
	pairs := [][2]string{
		{"not named", "named"}, {"Novu-style, not named", "named"}, {"with an environment", "named"}, {"Novu-style, not named", "Novu-style, named"},
		{"named", "not named"}, {"named", "Novu-style, not named"}, {"named", "with an environment"}, {"Novu-style, named", "Novu-style, not named"},
		{"not named", "not named"}, {"named", "Novu-style, named"},
	}
	for _, pair := range pairs {
		for _, endpoints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, then %s, endpoints %t", pair[0], pair[1], endpoints), func(t *testing.T) {
				w := newWorld(t, func(w *world, _ *handler.Config) { w.saveEndpoints = endpoints })
				older, newer := w.browser(), w.browser()
				// Novu is down when both links are opened, so that it cannot say which
				// integration is meant where the link does not.
				w.novu.BreakAll(upstreamtest.HTML(503))
				first := older.approve(older.begin(forms[pair[0]](w)))
				second, err := w.slack.Approve(newer.begin(forms[pair[1]](w)), "T02GLOBEX", "#ops")
				if err != nil {
					t.Fatal(err)
				}
				older.land(first).want(t, http.StatusOK, "Almost done")

				// It is well again, and the newer connection goes through at once. The older
				// one still waits.
				w.novu.BreakAll(nil)
				w.waitForNovu()
				newer.land(second).want(t, http.StatusOK, isConnected, inOps)
				w.wantNewest("ada", second)

				w.pass(time.Minute)
				w.work()
				eventually(t, "the older one ends", func() bool { return w.waiting() == 0 })
				w.wantNewest("ada", second)
				if got := w.novu.Saves(); got != 1 {
					t.Errorf("Novu got %d updates, want the newer one's alone", got)
				}
				p := older.land(first)
				p.wantCode(t, http.StatusConflict, "replaced")
				newer.land(second).want(t, http.StatusOK, isConnected, inOps)

				// Whoever wants the older channel after all gets it.
				third := older.approve(older.begin(startAgain(t, p)))
				older.land(third).want(t, http.StatusOK, isConnected)
				w.wantNewest("ada", third)
			})
		}
	}
}

// Both wait until Novu is well again, and the worker has both at a time. Which of them it
// takes first is open; how it ends is not.
func TestTwoConnectionsThatWaitEndInOrder(t *testing.T) {
	t.Parallel()
	for name, links := range map[string][2]func(*link.Request){
		"not named, then named": {func(*link.Request) {}, func(r *link.Request) { r.Integration = "slack-main" }},
		"named, then not named": {func(r *link.Request) { r.Integration = "slack-main" }, func(*link.Request) {}},
	} {
		for _, endpoints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, endpoints %t", name, endpoints), func(t *testing.T) {
				w := newWorld(t, func(w *world, _ *handler.Config) { w.saveEndpoints = endpoints })
				w.novu.Work = 20 * time.Millisecond
				w.novu.BreakAll(upstreamtest.HTML(503))
				b := w.browser()
				var callbacks []string
				for _, change := range links {
					callback := b.approve(b.begin(w.link("ada", change)))
					b.land(callback).want(t, http.StatusOK, "Almost done")
					callbacks = append(callbacks, callback)
				}
				w.wantWaiting(2)
				w.novu.BreakAll(nil)
				w.waitForNovu()
				w.pass(time.Minute)
				w.work()
				eventually(t, "both end", func() bool { return w.waiting() == 0 })
				w.wantNewest("ada", callbacks[1])
				if w.novu.Overlaps() != 0 {
					t.Error("two updates of one subscriber overlapped")
				}
				b.land(callbacks[1]).want(t, http.StatusOK, isConnected, inAlerts)
				if code := w.look(b.key(callbacks[0])).Result.Code; code != state.Replaced && code != state.Connected {
					t.Errorf("the older one ended as %q", code)
				}
			})
		}
	}
}

// A newer connection comes while an older one is being saved: it waits for its turn, and
// Novu ends with it.
func TestNewerConnectionWaitsForTheOneBeingSaved(t *testing.T) {
	t.Parallel()
	for _, endpoints := range []bool{false, true} {
		t.Run(fmt.Sprintf("endpoints %t", endpoints), func(t *testing.T) {
			w := newWorld(t, func(w *world, _ *handler.Config) { w.saveEndpoints = endpoints })
			w.work()
			b := w.browser()
			older, newer := b.approve(b.begin(w.link("ada"))), b.approve(b.begin(w.link("ada")))
			saving, goOn := make(chan bool), make(chan bool)
			w.novu.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
				close(saving)
				<-goOn
				next.ServeHTTP(to, r)
			})
			landed := make(chan page)
			go func() { landed <- b.land(older) }()
			<-saving
			b.land(newer).want(t, http.StatusOK, "Almost done")
			if got := len(w.novuWrites()); got > 1 { // for an endpoint, it looks first
				t.Errorf("Novu got %d updates at a time, want 1", got)
			}
			close(goOn)
			p := <-landed
			p.wantCode(t, http.StatusConflict, "replaced")
			eventually(t, "the newer one is saved", func() bool { return w.waiting() == 0 })
			w.wantNewest("ada", newer)
			if w.novu.Overlaps() != 0 {
				t.Error("the updates overlapped")
			}
		})
	}
}

// What stands before Novu cuts the connection, and Novu goes on with the update: nothing
// is sent for that subscriber while it may, and so the newer connection comes after it.
func TestNewerConnectionWaitsForOneThatMayBeAtWork(t *testing.T) {
	w := newWorld(t)
	w.novu.AddSubscriber("ada")
	b := w.browser()
	older, newer := b.approve(b.begin(w.link("ada"))), b.approve(b.begin(w.link("ada")))
	goOn := make(chan bool)
	w.novu.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		go func() {
			<-goOn
			next.ServeHTTP(httptest.NewRecorder(), r)
		}()
		upstreamtest.Reset(to, r, next)
	})
	b.land(older).want(t, http.StatusOK, "Almost done")
	b.land(newer).want(t, http.StatusOK, "Almost done")
	if sent, _, err := w.outbox.Drain(context.Background()); sent != 0 || err != nil { // also when asked to
		t.Errorf("Drain: sent %d, %v, want nothing", sent, err)
	}
	if got := len(w.novuWrites()); got != 1 {
		t.Errorf("Novu got %d updates, want the one that may be at work", got)
	}
	b.land(older).wantCode(t, http.StatusConflict, "replaced")

	close(goOn)
	eventually(t, "Novu has done its work", func() bool { return w.novu.Saves() == 1 })
	w.pass(time.Minute)
	w.work()
	eventually(t, "the newer one is saved", func() bool { return w.waiting() == 0 })
	w.wantNewest("ada", newer)
	if w.novu.Overlaps() != 0 {
		t.Error("the updates overlapped")
	}
}

// waitForNovu waits until the client has forgotten that Novu did not answer.
func (w *world) waitForNovu() {
	w.t.Helper()
	eventually(w.t, "Novu is asked again", func() bool {
		_, err := w.novuClient.ResolveIntegration(context.Background(), "", false)
		return err == nil
	})
}

// One person in many tabs: one update at a time, one channel, the newest.
func TestTwentyParallelFlowsOfOneSubscriber(t *testing.T) {
	eachStore(t, func(t *testing.T, change func(*world, *handler.Config)) {
		w := newWorld(t, change)
		w.novu.Work = 20 * time.Millisecond
		var mu sync.Mutex
		callbacks := map[state.Key]string{}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				b := w.browser()
				callback := b.approve(b.begin(w.link("ada")))
				mu.Lock()
				callbacks[b.key(callback)] = callback
				mu.Unlock()
				// One is sent at once; the others are told that it will be done, or has been
				// overtaken.
				if p := b.land(callback); p.status == http.StatusConflict {
					p.wantCode(t, http.StatusConflict, "replaced")
				} else {
					p.want(t, http.StatusOK, "Slack is connected")
				}
			})
		}
		group.Wait()
		w.work()
		eventually(t, "nothing waits", func() bool { return w.waiting() == 0 })
		if got := w.novu.Overlaps(); got != 0 {
			t.Errorf("got %d overlapping updates, want none", got)
		}
		var newest state.Flow
		for key := range callbacks {
			flow := w.look(key)
			if flow.Result.Code != state.Connected && flow.Result.Code != state.Replaced {
				t.Errorf("a flow ended as %q", flow.Result.Code)
			}
			if flow.Number > newest.Number {
				newest = flow
			}
		}
		if newest.Result.Code != state.Connected {
			t.Errorf("the newest flow ended as %q, want connected", newest.Result.Code)
		}
		w.wantNewest("ada", callbacks[newest.Key])
	})
}

// The moment in which a kill loses a webhook, from Slack's answer to the record, is as
// small as can be: nothing else is asked in it, neither the store nor Novu. The log has how
// long it is, measured from the fake's side, so that it includes the answer's way.
func TestWindowBetweenAnswerAndRecordIsSmall(t *testing.T) {
	eachStore(t, func(t *testing.T, change func(*world, *handler.Config)) {
		var windows []time.Duration
		var code string
		var calls, requests int64 // at Slack's answer
		w := newWorld(t, change, func(w *world, _ *handler.Config) {
			w.backend.afterMove = func(m state.Move) error {
				if m.To == state.Recorded {
					_, answered := w.slack.Given(code)
					windows = append(windows, time.Since(answered))
					if stored, sent := w.backend.touched()-calls, int64(len(w.recorder.All()))-requests; stored != 1 || sent != 0 {
						t.Errorf("between Slack's answer and the record the store was asked %d times and %d requests were sent, want the record alone", stored, sent)
					}
				}
				return nil
			}
		})
		w.slack.BreakAll(upstreamtest.Edit(func(*httptest.ResponseRecorder) {
			calls, requests = w.backend.touched(), int64(len(w.recorder.All()))
		}))
		for n := range 40 {
			b := w.browser()
			callback := b.approve(b.begin(w.link(fmt.Sprint("user-", n))))
			code = queryOf(t, callback, "code")
			b.land(callback).want(t, http.StatusOK, isConnected)
		}
		slices.Sort(windows)
		if len(windows) != 40 {
			t.Fatalf("got %d records, want 40", len(windows))
		}
		t.Logf("median %v, largest %v of %d", windows[20], windows[39], len(windows))
	})
}

// A full or broken disk under the embedded store is a refusal, not a crash.
func TestEmbeddedStoreThatCannotWrite(t *testing.T) {
	var file *state.Bolt
	w := newWorld(t, func(w *world, _ *handler.Config) {
		w.open = func(d state.Deployment) state.Backend {
			var err error
			if file, err = state.OpenBolt(filepath.Join(t.TempDir(), "test.db"), d); err != nil {
				t.Fatal(err)
			}
			return file
		}
	})
	b := w.browser()
	callback := b.approve(b.begin(w.link("ada")))
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	b.get(w.link("ada")).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get(callback).wantCode(t, http.StatusServiceUnavailable, "store_unavailable")
	b.get("/readyz").want(t, http.StatusServiceUnavailable)
	w.wantNothingOut()
}

// The page of one who waits for Slack is found for as long as codes live, however short
// STATE_TTL is.
func TestWaitingOutlivesTheStateTTL(t *testing.T) {
	w := newWorld(t, func(_ *world, c *handler.Config) { c.StateTTL = time.Minute })
	w.slack.Break(upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "400"))
	for _, subscriber := range []string{"ada", "bob"} { // whom Slack refuses, and who is behind
		b := w.browser()
		p := b.get(b.approve(b.begin(w.link(subscriber))))
		cookies := (&http.Response{Header: p.header}).Cookies()
		if len(cookies) != 1 || cookies[0].MaxAge < int((state.CodeLife+time.Minute).Seconds()) {
			t.Errorf("%s: got %v, want a cookie for as long as a code lives and its result is kept", subscriber, p.header["Set-Cookie"])
		}
	}
	w.wantWaiting(2)
}

// One holder of a link cannot fill the queue with codes that Slack never made, for whoever
// comes then would read that Slack is busy.
func TestPlacesOfOneSubscriberAreBounded(t *testing.T) {
	w := newWorld(t)
	w.slack.Break(upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "400"))
	w.browser().connect("ada").want(t, http.StatusAccepted, "One moment")
	begun := time.Now()
	for range 50 {
		b := w.browser()
		b.get("/slack/callback?code=junk&state=" + stateOf(t, b.approve(b.begin(w.link("bob")))))
	}
	if got, most := w.waiting(), 1+20+int(time.Since(begun)/(6*time.Second))+1; got < 21 || got > most {
		t.Errorf("%d flows wait, want 21 to %d", got, most)
	}
}
