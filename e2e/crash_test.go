package e2e_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

var crashFlows = flag.Int("crash.flows", 200, "flows of each run of TestCrash; 10000 is the long run")

// TestCrash kills the program without warning at random moments of many flows, and
// starts it again. In the end each subscriber has exactly the newest webhook that
// Slack gave for it: none lost, misdirected or doubled.
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
	code   string // of Slack
	cutOff bool   // a request with the code got no answer: the instance was killed
	told   bool   // the person read that Slack is connected
}

func crash(t *testing.T, instances int, settings ...string) {
	w := newWorld(t, append(settings, "METRICS_ADDR=127.0.0.1:0")...)
	w.novu.Work = 4 * time.Millisecond
	w.slack.BreakAll(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		time.Sleep(rand.N(8 * time.Millisecond))
		next.ServeHTTP(to, r)
		time.Sleep(rand.N(2 * time.Millisecond))
	})
	f := &fleet{t: t, world: w, programs: make([]*program, instances)}
	for i := range instances {
		f.restart(i)
	}
	t.Cleanup(f.end)

	stop := make(chan struct{})
	var killer, people sync.WaitGroup
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
				f.restart(rand.IntN(instances))
			}
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
				subscriber := fmt.Sprintf("user %d/%d ä", i, n/2) // each connects twice, one flow after the other
				flow, err := f.flow(subscriber)
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
	owner := map[string]string{} // of a webhook
	webhooks, lost := 0, 0
	for subscriber, list := range flows {
		channels, _ := w.novu.Channels(subscriber)
		arrived := false
		for n, flow := range slices.Backward(list) {
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
	}
	for _, subscriber := range w.novu.Subscribers() {
		channels, _ := w.novu.Channels(subscriber)
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
	t.Logf("%d flows, %d webhooks given, %d kills, %d of them between Slack's answer and the record", *crashFlows, webhooks, f.kills, lost)
	if f.kills < *crashFlows/50 || webhooks < *crashFlows/2 {
		t.Errorf("got %d kills and %d webhooks: the test tests too little", f.kills, webhooks)
	}
}

// fleet is a number of instances that are killed and started again.
type fleet struct {
	*world
	t        *testing.T
	mu       sync.Mutex
	programs []*program
	kills    int
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

// get asks some instance, as a load balancer would, and again while none answers, as
// a person would, up to so many times. cutOff says that an instance was asked and did
// not answer.
func (f *fleet) get(p *person, tries int, target string) (a answer, cutOff bool, err error) {
	err = errors.New("no instance is up")
	for deadline := time.Now().Add(patience); tries > 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		to := f.programs[rand.IntN(len(f.programs))]
		f.mu.Unlock()
		if to == nil {
			continue
		}
		tries--
		if a, err = p.get(to, target); err == nil {
			return a, cutOff, nil
		}
		cutOff = true
	}
	return a, cutOff, err
}

// flow is a person who connects, and reloads when the connection breaks.
func (f *fleet) flow(subscriber string) (flow crashedFlow, err error) {
	const often = 10_000
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
	if a, flow.cutOff, err = f.get(p, 3, callback); err != nil {
		a.location = p.resultPage() // the page that the person may have open
	}
	if a, _, err = f.get(p, often, a.location); err != nil {
		return flow, fmt.Errorf("result: %w", err)
	}
	flow.told = strings.Contains(a.body, "Messages will arrive in #alerts")
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
	wantText(t, p.finish(program, callback), "Messages will arrive in #general")
	w.wantSaved(t, "ada", 1)
}
