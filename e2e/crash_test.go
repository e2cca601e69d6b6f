package e2e_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

var crashFlows = flag.Int("crash.flows", 80, "flows of each run of TestCrash; 10000 is the long run")

// TestCrash kills the program without warning at random moments of many flows, which
// connect or disconnect, and starts it again, while the app's EVENTS_URL fails now and
// then. In the end each subscriber has exactly the newest webhook that Slack gave for it,
// or none where it was disconnected since: none lost, misdirected or doubled.
//
// The app gets the event of every flow whose person was told of its success, with one
// webhook-id and body each time, and signed. The first times that it gets each, it is told
// what Novu has or had by then, in the order of the flows; and in the end of what Novu has.
//
// One moment is beyond help: a kill after Slack answered and before the record was
// written. Such a loss is counted; the kill must have cut off the callback, and its
// person must not have been told of success.
func TestCrash(t *testing.T) {
	t.Parallel()
	t.Run("redis and two instances", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		crash(t, 2, "REDIS_URL="+server.URL())
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		crash(t, 1)
	})
}

// crashedFlow is one flow of TestCrash.
type crashedFlow struct {
	id          string // as the event names it
	code        string // of Slack; none of a flow that disconnects
	disconnects bool
	cutOff      bool // a request with the code got no answer: the instance was killed
	told        bool // the person read that Slack is connected, or disconnected
}

func crash(t *testing.T, instances int, settings ...string) {
	app := &crashReceiver{t: t, webhook: must(standardwebhooks.NewWebhook(eventsSecret)), codes: map[string]string{}, bodies: map[string]string{}, events: map[string][]string{}, seen: map[string]int{}}
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	w := newWorld(t, append(settings, "METRICS_ADDR=127.0.0.1:0", "EVENTS_URL="+server.URL+"/events", "EVENTS_SECRET="+eventsSecret)...)
	app.world = w
	w.novu.Work = 4 * time.Millisecond
	w.slack.BreakAll(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		time.Sleep(rand.N(8 * time.Millisecond))
		next.ServeHTTP(to, r)
		time.Sleep(rand.N(2 * time.Millisecond))
	})
	f := &fleet{t: t, world: w, app: app, programs: make([]*program, instances)}
	for i := range instances {
		f.restart(i)
	}
	t.Cleanup(f.end)

	stop := make(chan struct{})
	var killer, people sync.WaitGroup
	killer.Go(func() {
		for {
			// In the midst of a request, after some that were answered: on a machine of any speed.
			for wanted := f.answered.Load() + 1 + rand.Int64N(8); f.answered.Load() < wanted; {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
			time.Sleep(rand.N(1 + 2*time.Duration(f.took.Load())))
			f.restart(rand.IntN(instances))
		}
	})
	var mu sync.Mutex
	flows := map[string][]crashedFlow{} // by subscriber, oldest first
	var next atomic.Int64
	const crowd = 6
	for i := range crowd {
		people.Go(func() {
			for n := 0; int(next.Add(1)) <= *crashFlows && !t.Failed(); n++ {
				time.Sleep(rand.N(100 * time.Millisecond))
				subscriber := fmt.Sprintf("user %d/%d ä", i, n/3) // each has three flows, one after the other
				next := f.flow
				if n%3 > 0 && rand.IntN(100) < 38 {
					next = f.disconnect
				}
				flow, err := next(subscriber)
				if err != nil {
					t.Errorf("%s: %v", subscriber, err)
					return
				}
				mu.Lock()
				flows[subscriber] = append(flows[subscriber], flow)
				mu.Unlock()
			}
		})
	}
	people.Wait()
	close(stop)
	killer.Wait()
	if t.Failed() {
		return
	}

	// Leases of the dead end after 30 s at most; the worker looks every 5 s.
	waitFor(t, "all that was recorded is delivered", func() bool { return gauge(t, f.programs[0], "slack_redirect_outbox_entries") == 0 })
	app.recover()
	for i := range instances {
		f.restart(i) // a new one makes due what was put off for long
	}
	waitFor(t, "the app has every event", func() bool { return gauge(t, f.programs[0], "slack_redirect_events_waiting") == 0 })
	owner := map[string]string{} // of a webhook
	webhooks, disconnects, lost := 0, 0, 0
	for subscriber, list := range flows {
		channels := w.liveChannels(subscriber)
		arrived := false
		for n, flow := range slices.Backward(list) {
			if flow.disconnects {
				if disconnects++; !arrived && len(channels) > 0 {
					t.Errorf("%s: flow %d of %d disconnected, Novu has %v", subscriber, n+1, len(list), channels)
				}
				arrived = true
				continue
			}
			webhook, _ := w.slack.Given(flow.code)
			if webhook == "" {
				continue // killed before Slack was asked
			}
			webhooks++
			owner[webhook] = subscriber
			switch {
			case arrived: // what a newer one has replaced need not be there
			case len(channels) == 1 && channels[0].WebhookURL == webhook:
				arrived = true
			case flow.cutOff && !flow.told:
				lost++
			default:
				t.Errorf("%s: flow %d of %d is lost (cut off: %t, told of success: %t), Novu has %v", subscriber, n+1, len(list), flow.cutOff, flow.told, channels)
				arrived = true // once is enough
			}
		}
		app.check(subscriber, list, channels)
	}
	for _, subscriber := range w.novu.Subscribers() {
		channels := w.liveChannels(subscriber)
		if len(channels) > 1 {
			t.Errorf("%s: doubled: %v", subscriber, channels)
		}
		for _, c := range channels {
			if owner[c.WebhookURL] != subscriber {
				t.Errorf("%s has the webhook of %s", subscriber, owner[c.WebhookURL])
			}
		}
	}
	if n := w.novu.Overlaps(); n != 0 {
		t.Errorf("got %d overlapping updates, want none", n)
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	t.Logf("%d flows, %d webhooks given, %d disconnections, %d kills, %d of them between Slack's answer and the record; %d events, sent %d times, %d of which the app refused",
		*crashFlows, webhooks, disconnects, f.kills, lost, len(app.bodies), app.sent, app.refused)
	if f.kills < *crashFlows/50 || webhooks < *crashFlows/2 || disconnects < *crashFlows/8 || app.refused < *crashFlows/80 {
		t.Errorf("got %d kills, %d webhooks, %d disconnections and %d refused events: the test tests too little", f.kills, webhooks, disconnects, app.refused)
	}
}

// liveChannels returns the subscriber's channels that have a webhook.
func (w *world) liveChannels(subscriber string) []novutest.Channel {
	channels, _ := w.novu.Channels(subscriber)
	return slices.DeleteFunc(channels, func(c novutest.Channel) bool { return c.WebhookURL == "" })
}

// crashReceiver is the app's EVENTS_URL. It fails now and then until it recovers.
type crashReceiver struct {
	t       *testing.T
	webhook *standardwebhooks.Webhook
	world   *world

	mu            sync.Mutex
	recovered     bool
	sent, refused int
	codes         map[string]string   // Slack's, by ID of the flow that connects with it
	bodies        map[string]string   // by webhook-id
	events        map[string][]string // IDs of a subscriber's flows, in the order of first receipt
	seen          map[string]int      // how far in Novu's history of a subscriber the last event was
}

func (r *crashReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed
	}
	if err := r.webhook.Verify(body, req.Header); err != nil {
		r.t.Errorf("an event does not verify: %v", err)
	}
	fault := rand.IntN(100)
	r.mu.Lock()
	r.sent++
	if r.recovered {
		fault = 99
	}
	if fault < 14 {
		r.refused++
	}
	if fault >= 8 { // else it is refused before it is taken
		r.take(req.Header.Get("webhook-id"), body)
	}
	r.mu.Unlock()
	switch {
	case fault < 14:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case fault < 30:
		time.Sleep(rand.N(100 * time.Millisecond))
	}
	w.WriteHeader(http.StatusNoContent)
}

// take keeps an event, and checks it the first time.
func (r *crashReceiver) take(id string, body []byte) {
	if before, known := r.bodies[id]; known {
		if before != string(body) {
			r.t.Errorf("the event %s was %s, and is now %s", id, before, body)
		}
		return
	}
	r.bodies[id] = string(body)
	var event struct {
		Type string
		Data struct{ SubscriberID, Channel, Flow string }
	}
	if err := json.Unmarshal(body, &event); err != nil || id != "evt_"+event.Data.Flow {
		r.t.Errorf("got the event %s with %s, %v", id, body, err)
	}
	subscriber, webhook := event.Data.SubscriberID, ""
	if event.Type == "slack.connected" {
		webhook, _ = r.world.slack.Given(r.codes[event.Data.Flow])
	}
	r.events[subscriber] = append(r.events[subscriber], event.Data.Flow)
	history := append([]string{""}, r.world.novu.History(subscriber)...) // it has nothing at first
	at := slices.Index(history[r.seen[subscriber]:], webhook)
	if at < 0 || (event.Type == "slack.connected") != (webhook != "" && event.Data.Channel != "") {
		r.t.Errorf("%s: the app is told %s with the webhook %q, and Novu had %q, of which the app knew %d", subscriber, event.Type, webhook, history, r.seen[subscriber])
	}
	r.seen[subscriber] += max(at, 0)
}

// expect says that a flow connects with a code.
func (r *crashReceiver) expect(id, code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.codes[id] = code
}

// recover ends the faults.
func (r *crashReceiver) recover() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recovered = true
}

// check compares a subscriber's events with its flows and with what Novu has.
func (r *crashReceiver) check(subscriber string, flows []crashedFlow, channels []novutest.Channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, last, idea := r.events[subscriber], -1, ""
	for n, flow := range flows {
		at := slices.Index(events, flow.id)
		if at < 0 && flow.told {
			r.t.Errorf("%s: the event of flow %d of %d, %s, is lost", subscriber, n+1, len(flows), flow.id)
		}
		if at >= 0 && at <= last {
			r.t.Errorf("%s: the event of flow %d of %d came before that of an older one: %q", subscriber, n+1, len(flows), events)
		}
		last = max(last, at)
	}
	if len(events) > 0 {
		idea, _ = r.world.slack.Given(r.codes[events[len(events)-1]]) // none of one that disconnects
	}
	has := ""
	for _, c := range channels {
		has += c.WebhookURL
	}
	if has != idea {
		r.t.Errorf("%s: the app was told last of %q, and Novu has %q", subscriber, idea, has)
	}
}

// fleet is a number of instances that are killed and started again.
type fleet struct {
	*world
	app      *crashReceiver
	t        *testing.T
	mu       sync.Mutex
	programs []*program
	kills    int

	answered atomic.Int64 // requests
	took     atomic.Int64 // nanoseconds of the latest one
}

// restart kills instance i, if it runs, and starts it again.
func (f *fleet) restart(i int) {
	f.mu.Lock()
	old := f.programs[i]
	f.programs[i] = nil
	f.mu.Unlock()
	if old != nil {
		old.kill()
		f.kills++
	}
	p, err := launch(f.t, exec.Command(binary), f.env...)
	if err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	f.programs[i] = p
	f.mu.Unlock()
}

func (f *fleet) end() {
	for _, p := range f.programs {
		if p != nil {
			p.end()
		}
	}
}

// ask asks some instance, as a load balancer would, and again while none answers, as
// a person would, up to so many times. cutOff says that an instance was asked and did
// not answer.
func (f *fleet) ask(tries int, request func(to *program) (answer, error)) (a answer, cutOff bool, err error) {
	err = errors.New("no instance is up")
	for deadline := time.Now().Add(patience); tries > 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		to := f.programs[rand.IntN(len(f.programs))]
		f.mu.Unlock()
		if to == nil {
			continue
		}
		tries--
		begin := time.Now()
		if a, err = request(to); err == nil {
			f.took.Store(int64(time.Since(begin)))
			f.answered.Add(1)
			return a, cutOff, nil
		}
		cutOff = true
	}
	return a, cutOff, err
}

// get is ask for a GET.
func (f *fleet) get(p *person, tries int, target string) (a answer, cutOff bool, err error) {
	return f.ask(tries, func(to *program) (answer, error) { return p.get(to, target) })
}

const often = 10_000

// flow is a person who connects, and reloads when the connection breaks.
func (f *fleet) flow(subscriber string) (flow crashedFlow, err error) {
	p := f.person(f.t)
	a, _, err := f.get(p, often, f.linkTo(subscriber))
	if err != nil {
		return flow, fmt.Errorf("install: %w", err)
	}
	callback, err := f.slack.Approve(a.location, "T01ACME", "#alerts")
	if err != nil {
		return flow, fmt.Errorf("%w: %s", err, readable(a.body))
	}
	flow.code = must(url.Parse(callback)).Query().Get("code")
	_, flow.id, _ = strings.Cut(p.resultPage(), "=")
	f.app.expect(flow.id, flow.code)
	if a, flow.cutOff, err = f.get(p, 3, callback); err != nil {
		a.location = p.resultPage() // the page that the person may have open
	}
	if a, _, err = f.get(p, often, a.location); err != nil {
		return flow, fmt.Errorf("result: %w", err)
	}
	flow.told = strings.Contains(a.body, textConnected) && strings.Contains(a.body, ">#alerts<")
	return flow, nil
}

// disconnect is a person, or a program, that disconnects, and does so again when the
// connection breaks: each time it is another flow, of which the last one is returned.
func (f *fleet) disconnect(subscriber string) (flow crashedFlow, err error) {
	flow.disconnects = true
	p, accept := f.person(f.t), []string{"text/html", "application/json"}[rand.IntN(2)]
	target := strings.Replace(f.link(claims{"sub": subscriber, "action": "disconnect"}), "/install?", "/disconnect?", 1)
	a, _, err := f.ask(often, func(to *program) (answer, error) { return p.request(to, http.MethodPost, target, accept) })
	if err != nil {
		return flow, fmt.Errorf("disconnect: %w", err)
	}
	if accept == "application/json" {
		var got struct{ Outcome, Flow string }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK && a.status != http.StatusAccepted {
			return flow, fmt.Errorf("disconnect: got %d %s", a.status, a.body)
		}
		flow.id, flow.told = got.Flow, got.Outcome == "disconnected"
		return flow, nil
	}
	var ok bool
	if _, flow.id, ok = strings.Cut(a.location, "/slack/result?flow="); !ok || a.status != http.StatusSeeOther {
		return flow, fmt.Errorf("disconnect: got %d to %s: %s", a.status, a.location, readable(a.body))
	}
	if a, _, err = f.get(p, often, a.location); err != nil {
		return flow, fmt.Errorf("result: %w", err)
	}
	flow.told = strings.Contains(a.body, "Slack is disconnected")
	return flow, nil
}

// resultPage is the result page of a browser's only flow, whose cookie ends in its ID.
func (p *person) resultPage() string {
	for _, cookie := range p.client.Jar.Cookies(must(url.Parse(publicOrigin))) {
		if _, id, ok := strings.Cut(cookie.Name, "flow_"); ok {
			return "/slack/result?flow=" + id
		}
	}
	return "/slack/result"
}

// A kill in the one moment that is beyond help: Slack answered, and the record is not
// written. The person's reload never says success, and leads to a Start again that
// works.
func TestKilledBetweenSlacksAnswerAndTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program := start(t, w.env...)
	p := w.person(t)
	callback := p.approve(program, w.linkTo("ada"))
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		program.cmd.Process.Kill()
		upstreamtest.LoseAnswer(to, r, next)
	})
	if a, err := p.get(program, callback); err == nil {
		t.Fatalf("got %d from a dead process", a.status)
	}
	program.wait()

	program = start(t, w.env...)
	a, err := p.get(program, callback)
	if err != nil {
		t.Fatal(err)
	}
	result := a.location
	waitFor(t, "the page says that it was interrupted", func() bool {
		if a, err = p.get(program, result); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(a.body, textConnected) {
			t.Fatalf("a false success: %s", readable(a.body))
		}
		return strings.Contains(a.body, "<code>interrupted</code>")
	})
	_, again, ok := strings.Cut(a.body, `class="button" href="`)
	again, _, _ = strings.Cut(again, `"`)
	if !ok {
		t.Fatalf("the page has no Start again: %s", readable(a.body))
	}
	if a, err = p.get(program, again); err != nil {
		t.Fatal(err)
	}
	if callback, err = w.slack.Approve(a.location, "T01ACME", "#general"); err != nil {
		t.Fatal(err)
	}
	p.wantFinish(program, callback, ">#general<")
	w.wantSaved(t, "ada", 1)
}
