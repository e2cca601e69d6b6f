package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

var crashFlows = flag.Int("crash-flows", 200, "flows of each crash test; 10000 is the long run")

// TestCrash kills the real program without warning at random moments of many
// flows, and starts it again. In the end each subscriber has exactly the newest
// webhook that Slack gave for it: none lost, misdirected or doubled.
//
// One moment is beyond help: a kill after Slack answered and before the record
// was written. Such a loss is counted, must lie within a kill, and its person
// must not have been told of success.
func TestCrash(t *testing.T) {
	t.Parallel()
	t.Run("redis and two instances", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		crash(t, 2, "REDIS_URL="+server.URL())
	})
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		crash(t, 1, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	})
}

// given is one flow in which Slack made a webhook.
type given struct {
	webhook string
	at      time.Time
	told    bool // the person read that Slack is connected
}

func crash(t *testing.T, instances int, store string) {
	w := newWorld(t, store)
	w.novu.Work = 4 * time.Millisecond
	w.slack.BreakAll(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		time.Sleep(rand.N(8 * time.Millisecond))
		next.ServeHTTP(to, r)
		time.Sleep(rand.N(2 * time.Millisecond))
	})
	f := &fleet{world: w, programs: make([]*program, instances)}
	for i := range instances {
		f.restart(t, i)
	}

	stop := make(chan struct{})
	var killer, people sync.WaitGroup
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
				f.restart(t, rand.IntN(instances))
			}
		}
	})
	var mu sync.Mutex
	flows := map[string][]given{} // by subscriber, oldest first
	var next atomic.Int64
	const crowd = 6
	for i := range crowd {
		people.Go(func() {
			for n := 0; int(next.Add(1)) <= *crashFlows && !t.Failed(); n++ {
				time.Sleep(rand.N(100 * time.Millisecond))
				subscriber := fmt.Sprintf("user %d/%d ä", i, n/2) // each connects twice, one flow after the other
				if g := f.flow(t, subscriber); g.webhook != "" {
					mu.Lock()
					flows[subscriber] = append(flows[subscriber], g)
					mu.Unlock()
				}
			}
		})
	}
	people.Wait()
	close(stop)
	killer.Wait()

	// Leases of the dead end after 30 s at most; the worker looks every 5 s.
	owner := map[string]string{}
	total, windows := 0, 0
	deadline := time.Now().Add(45 * time.Second)
	for subscriber, list := range flows {
		for _, g := range list {
			owner[g.webhook] = subscriber
		}
		total += len(list)
		for last := len(list) - 1; last >= 0; {
			channels, _ := w.novu.Channels(subscriber)
			if len(channels) == 1 && channels[0].WebhookURL == list[last].webhook {
				break
			}
			if time.Now().Before(deadline) {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			g := list[last]
			if g.told || !f.killedAround(g.at) {
				t.Errorf("%s: lost %d of %d (told of success: %t), got %v", subscriber, last+1, len(list), g.told, channels)
				break
			}
			windows++
			last--
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
	kills := len(f.kills)
	t.Logf("%d flows, %d webhooks given, %d kills; lost, misdirected, doubled: see above; %d killed between Slack's answer and the record", *crashFlows, total, kills, windows)
	if kills < *crashFlows/50 || total < *crashFlows/2 {
		t.Errorf("got %d kills and %d webhooks: the test tests too little", kills, total)
	}
}

// fleet is a number of instances that are killed and started again.
type fleet struct {
	*world
	mu       sync.Mutex
	programs []*program
	kills    []killing
}

// killing is from before the signal is sent until the process is gone, which takes
// its time on a busy machine.
type killing struct{ begun, over time.Time }

// restart kills instance i, if it runs, and starts it again.
func (f *fleet) restart(t *testing.T, i int) {
	f.mu.Lock()
	old := f.programs[i]
	f.programs[i] = nil
	f.mu.Unlock()
	if old != nil {
		k := killing{begun: time.Now()}
		old.kill()
		k.over = time.Now()
		f.mu.Lock()
		f.kills = append(f.kills, k)
		f.mu.Unlock()
	}
	p, err := launch(f.env...)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(p.kill)
	f.mu.Lock()
	f.programs[i] = p
	f.mu.Unlock()
}

// killedAround reports whether an instance died within a moment of at: it had not
// got as far as the record, or the fake Slack not as far as the answer.
func (f *fleet) killedAround(at time.Time) bool {
	const moment = 200 * time.Millisecond
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.kills, func(k killing) bool { return at.After(k.begun.Add(-moment)) && at.Before(k.over.Add(moment)) })
}

// get asks some instance, as a load balancer would, and again while none
// answers, as a person would, up to so many times.
func (f *fleet) get(p *person, tries int, target string) (location, body string, err error) {
	err = errors.New("no instance is up")
	for deadline := time.Now().Add(30 * time.Second); tries > 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		to := f.programs[rand.IntN(len(f.programs))]
		f.mu.Unlock()
		if to == nil {
			continue
		}
		tries--
		if _, location, body, err = p.get(to, target); err == nil {
			break
		}
	}
	return location, body, err
}

// flow is a person who connects, and reloads when the connection breaks.
func (f *fleet) flow(t *testing.T, subscriber string) (g given) {
	p := f.person(t)
	link, err := f.links.Sign(state.Flow{Subscriber: subscriber}, time.Now().Add(time.Hour))
	if err != nil {
		t.Error(err)
		return g
	}
	authorize, body, err := f.get(p, 1000, link)
	if err != nil {
		t.Error(err)
		return g
	}
	callback, err := f.slack.Approve(authorize, "T01ACME", "#alerts")
	if err != nil {
		t.Errorf("%v: %s", err, body)
		return g
	}
	u, _ := url.Parse(callback)
	location, _, err := f.get(p, 3, callback)
	if err != nil { // then the result page is what the person may have open
		id, _ := state.FlowID(u.Query().Get("state"))
		location = "/slack/result?flow=" + id
	}
	if _, body, err = f.get(p, 1000, location); err != nil {
		t.Error(err)
	}
	g.webhook, g.at = f.slack.Given(u.Query().Get("code"))
	g.told = strings.Contains(body, "Messages will arrive in #alerts")
	return g
}

// A kill in the one moment that is beyond help: Slack answered, and the record is
// not written. The person's reload never says success, and leads to a Start
// again that works.
func TestKilledBetweenSlacksAnswerAndTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	program := start(t, w.env...)
	p := w.person(t)
	callback := p.begin(program, "ada")
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		program.cmd.Process.Kill()
		wire.LoseAnswer(to, r, next)
	})
	if status, _, _, err := p.get(program, callback); err == nil {
		t.Fatalf("got %d from a dead process", status)
	}
	program.wait()

	program = start(t, w.env...)
	_, location, _, err := p.get(program, callback)
	if err != nil {
		t.Fatal(err)
	}
	body := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline) && !strings.Contains(body, "<code>interrupted</code>"); time.Sleep(200 * time.Millisecond) {
		if _, _, body, err = p.get(program, location); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body, "Slack is connected") {
			t.Fatalf("a false success: %s", body)
		}
	}
	_, again, ok := strings.Cut(body, `class="button" href="`)
	again, _, _ = strings.Cut(again, `"`)
	if !ok {
		t.Fatalf("the page has no Start again: %s", body)
	}
	_, authorize, _, err := p.get(program, again)
	if err != nil {
		t.Fatal(err)
	}
	if callback, err = w.slack.Approve(authorize, "T01ACME", "#general"); err != nil {
		t.Fatal(err)
	}
	if body := p.land(program, callback); !strings.Contains(body, "Messages will arrive in #general") {
		t.Errorf("got %s", body)
	}
	w.wantSaved(t, "ada", 1)
}
