package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// receiver is the app's EVENTS_URL. It keeps the flows whose events it took.
type receiver struct {
	mu     sync.Mutex
	answer func(f *state.Flow) error // nil takes everything
	asked  int
	took   []string // "result subscriber number"
	ids    []string
}

func (r *receiver) send(ctx context.Context, f *state.Flow) error {
	r.mu.Lock()
	answer := r.answer
	r.asked++
	r.mu.Unlock()
	if answer != nil {
		if err := answer(f); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, fmt.Sprintf("%s %s %d", f.Result.Code, f.Request.Subscriber, f.Number))
	r.ids = append(r.ids, f.ID)
	return nil
}

func (r *receiver) set(answer func(f *state.Flow) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// count returns how often the app was asked, and how many events it took.
func (r *receiver) count() (asked, took int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, len(r.took)
}

// flows returns the IDs of the flows whose events the app took.
func (r *receiver) flows() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

func (r *receiver) wantTook(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.took, want) {
		t.Errorf("the app was told %q, want %q", r.took, want)
	}
}

func withEvents(r *receiver) func(*state.Config, *Config) {
	return func(_ *state.Config, c *Config) { c.SendEvent = r.send }
}

func disconnection(subscriber string) link.Request {
	r := request(subscriber)
	r.Action = link.Disconnect
	return r
}

// disconnect is a whole flow to disconnect, as far as its request gets.
func (b *box) disconnect(subscriber string) state.Flow {
	b.t.Helper()
	key := b.issue(disconnection(subscriber))
	f, err := b.Store.Look(context.Background(), key)
	must(b.t, err)
	f, failure, err := b.Disconnect(context.Background(), f, time.Hour)
	if failure != nil || err != nil {
		b.t.Fatalf("disconnect: got %+v, %v", failure, err)
	}
	return f
}

func (b *box) eventsLeft() int {
	b.t.Helper()
	n, err := b.Store.Count(context.Background(), state.Events)
	must(b.t, err)
	return n
}

// One event for each connection, after Novu has it, and one round trip more.
func TestEvent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{}
		b := newBox(t, withEvents(r))
		r.set(func(*state.Flow) error {
			if len(b.novu.saved()) != 1 {
				t.Error("the app is told before Novu has it")
			}
			time.Sleep(9 * time.Second)
			return nil
		})
		begin := time.Now()
		f := b.connect(request("ada"))
		if took := time.Since(begin); took > time.Second || outcome(f) != "connected" {
			t.Errorf("the person waits %v and reads %s", took, outcome(f))
		}
		time.Sleep(10 * time.Second)
		r.wantTook(t, "connected ada 1")
		if got := b.faults.log(); !slices.Equal(got, []string{"issue", "consume", "record", "save", "finish"}) {
			t.Errorf("got the calls %v", got)
		}
		if n := b.eventsLeft(); n != 0 {
			t.Errorf("%d events are left", n)
		}
		b.wantOutcome(f.Key, "connected")
	})
}

// While EVENTS_URL is being set, instances that do not have it yet leave events to those that
// do. Those of an earlier setting end at the start of an instance without it.
func TestEventsBesideAnInstanceWithoutThem(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{}
		b := newBox(t, withEvents(r))
		without := b.another()
		defer without.run()()
		r.set(func(*state.Flow) error { return EventError{Status: 500} })
		b.connect(request("ada"))
		b.Close(t.Context())
		time.Sleep(time.Minute) // it is due
		r.set(nil)
		stop := b.run()
		time.Sleep(time.Minute)
		stop()
		r.wantTook(t, "connected ada 1")

		r.set(func(*state.Flow) error { return EventError{Status: 500} })
		b.connect(request("bob"))
		b.Close(t.Context())
		time.Sleep(time.Minute)
		stop = b.another().run()
		time.Sleep(time.Minute)
		stop()
		if n := b.eventsLeft(); n != 0 {
			t.Errorf("%d events of the earlier setting are left", n)
		}
	})
}

// A receiver that is down holds up nobody else, and learns of each connection of a
// destination in order when it is back.
func TestEventsOfAReceiverThatIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{}
		b := newBox(t, withEvents(r))
		stop := b.run()
		defer stop()
		r.set(func(f *state.Flow) error {
			if f.Request.Subscriber == "ada" {
				return EventError{Status: 500}
			}
			return nil
		})
		for range 3 {
			b.connect(request("ada"))
		}
		b.connect(request("bob"))
		time.Sleep(time.Second)
		r.wantTook(t, "connected bob 4")
		b.wantSaved("canary-code-1", "canary-code-2", "canary-code-3", "canary-code-4")
		_, _, events, err := b.Waiting(t.Context())
		if events.N != 3 || b.left() != 0 || err != nil {
			t.Errorf("got %v, %v, want 3 events that wait", events, err)
		}
		time.Sleep(3 * time.Hour)
		if asked, _ := r.count(); asked > 12 { // 5 s, 30 s, 2 m, 10 m, 30 m, hourly: the first one of ada's alone
			t.Errorf("the receiver was asked %d times in 3 hours", asked)
		}
		r.set(nil)
		time.Sleep(2 * time.Hour)
		r.wantTook(t, "connected bob 4", "connected ada 1", "connected ada 2", "connected ada 3")
		if n := b.eventsLeft(); n != 0 {
			t.Errorf("%d events are left", n)
		}
	})
}

// The receiver hangs, for more people than may be told at once: Novu gets everything.
func TestEventsOfAReceiverThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var open, most atomic.Int32
		r := &receiver{answer: func(*state.Flow) error {
			most.Store(max(most.Load(), open.Add(1)))
			time.Sleep(eventTimeout)
			open.Add(-1)
			return errors.New("hangs")
		}}
		b := newBox(t, withEvents(r))
		defer b.run()()
		begin := time.Now()
		for i := range 2 * maxSending {
			b.connect(request(fmt.Sprint(i)))
		}
		if took := time.Since(begin); took > time.Second || b.left() != 0 || len(b.novu.saved()) != 2*maxSending {
			t.Errorf("it took %v, %d are left", took, b.left())
		}
		synctest.Wait()
		r.set(nil)
		time.Sleep(3 * time.Hour)
		if _, took := r.count(); took != 2*maxSending {
			t.Errorf("the app was told of %d, want all", took)
		}
		if most.Load() < maxSending || most.Load() > maxSending+workers {
			t.Errorf("got %d requests at once, want at most %d and the worker's %d", most.Load(), maxSending, workers)
		}
	})
}

// The instance dies somewhere between Novu's answer and the receiver's: another one tells
// the app, with the same ID.
func TestEventAfterACrash(t *testing.T) {
	for _, at := range []string{"save", "event", "finish"} {
		t.Run(at, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := &receiver{}
				b := newBox(t, withEvents(r))
				gone := errors.New("gone")
				dead := func(call string) error {
					if call == at || call != "issue" && call != "consume" && call != "record" && at != "finish" && call != "save" {
						return gone
					}
					return nil
				}
				if at == "event" {
					r.set(func(*state.Flow) error { time.Sleep(time.Hour); return gone })
				}
				b.faults.set(dead, nil)
				f := b.connectAnyway(request("ada"))
				synctest.Wait()
				next := b.another(withEvents(r))
				r.set(nil)
				stop := next.run()
				time.Sleep(3 * time.Minute)
				stop()
				want := []string{"connected ada 1"}
				if at == "finish" {
					want = append(want, want[0]) // it was told, and nobody knows
				}
				r.wantTook(t, want...)
				if slices.ContainsFunc(r.flows(), func(id string) bool { return id != f.ID }) {
					t.Errorf("got the IDs %v, want %s", r.flows(), f.ID)
				}
				if next.eventsLeft() != 0 || next.left() != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// connectAnyway is connect with a store that may fail.
func (b *box) connectAnyway(r link.Request) state.Flow {
	f := b.consume(b.issue(r))
	_, _ = b.Advance(context.Background(), &f)
	return f
}

// Without EVENTS_URL, what an earlier setting left behind ends.
func TestEventsThatNobodyWantsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{answer: func(*state.Flow) error { return errors.New("down") }}
		b := newBox(t, withEvents(r))
		b.connect(request("ada"))
		synctest.Wait()
		next := b.another()
		sent, waiting, err := next.Drain(t.Context())
		must(t, err)
		must(t, next.WakeAll(t.Context()))
		time.Sleep(10 * time.Second)
		sent2, _, err := next.Drain(t.Context())
		if sent+sent2 != 1 || waiting != 0 || err != nil || next.eventsLeft() != 0 {
			t.Errorf("got %d and %d sent, %d waiting, %v, %d left", sent, sent2, waiting, err, next.eventsLeft())
		}
	})
}

// A flow to disconnect is ordered with those that connect, and told like them.
func TestDisconnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{}
		b := newBox(t, withEvents(r))
		b.connect(request("ada"))
		f := b.disconnect("ada")
		if outcome(f) != "disconnected" {
			t.Errorf("got %s", outcome(f))
		}
		b.disconnect("ada") // again
		b.connect(request("ada"))
		synctest.Wait()
		b.wantSaved("canary-code-1", "", "", "canary-code-2")
		r.wantTook(t, "connected ada 1", "disconnected ada 2", "disconnected ada 3", "connected ada 4")
	})
}

// Whatever waits for Novu, the newest choice is what Novu ends with.
func TestDisconnectComesAfterWhatWaits(t *testing.T) {
	for name, test := range map[string]struct {
		steps func(b *box)
		want  []string
	}{
		"connect, disconnect": {func(b *box) { b.connect(request("ada")); b.disconnect("ada") }, []string{""}},
		"disconnect, connect": {func(b *box) { b.disconnect("ada"); b.connect(request("ada")) }, []string{"canary-code-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				b.novu.set(down)
				test.steps(b)
				b.novu.set(nil)
				stop := b.run()
				time.Sleep(2 * time.Hour)
				stop()
				b.wantSaved(test.want...)
				b.wantNoneLeft()
			})
		})
	}
}

// A link to disconnect that names no integration is opened while Novu is down, and Novu
// turns out to have several. The flow ends as it would have at the click, rather than
// being tried for ever; if the operator has named one since, that one is disconnected.
func TestDisconnectOfOneOfSeveralIntegrations(t *testing.T) {
	for name, c := range map[string]struct{ named, want string }{
		"none is named":                {"", CodeNoIntegration},
		"the operator named one since": {"operators", "disconnected"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				b.novu.setReady(func(string) error { return down(1) })
				r := disconnection("ada")
				r.Integration = ""
				f, err := b.Store.Look(t.Context(), b.issue(r))
				must(t, err)
				f, failure, err := b.Disconnect(t.Context(), f, time.Hour)
				must(t, err)
				if failure != nil || outcome(f) != "recorded" {
					t.Fatalf("while Novu is down: got %s and %+v, want recorded", outcome(f), failure)
				}
				b.novu.setReady(func(integration string) error {
					if integration == "" {
						return &novuclient.Error{Op: "look up integrations", Reason: novuclient.ManyIntegrations}
					}
					return nil
				})
				stop := b.another(func(config *state.Config, _ *Config) {
					changed := *config.Links
					changed.Integration = c.named
					config.Links = &changed
				}).run()
				time.Sleep(2 * time.Hour)
				stop()
				b.wantOutcome(f.Key, c.want)
				b.wantNoneLeft()
				if told := strings.Contains(b.logs.String(), novuclient.ManyIntegrations.Remedy()); told != (c.named == "") {
					t.Errorf("the log tells the operator to name one: %t, want %t: %s", told, c.named == "", b.logs)
				}
				if c.named == "" {
					b.wantSaved()
				} else if got := b.novu.log(); len(got) != 1 || got[0].Integration != c.named {
					t.Errorf("Novu was asked to disconnect %+v, want %s once", got, c.named)
				}
			})
		})
	}
}

// The instance dies after it has consumed a flow to disconnect: the worker goes on,
// without Slack.
func TestDisconnectAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		key := b.issue(disconnection("ada"))
		_, won, err := b.Consume(t.Context(), key, secret.String{})
		if !won || err != nil {
			t.Fatalf("got %t, %v", won, err)
		}
		stop := b.run()
		time.Sleep(2 * time.Minute)
		stop()
		b.wantOutcome(key, "disconnected")
		b.wantSaved("")
	})
}

// The event on the wire: signed by each secret, verified by the specification's own
// library, without the webhook.
func TestEventOnTheWire(t *testing.T) {
	keys := []secret.String{secret.New("first-secret-of-32-bytes-and-some"), secret.New("second-secret-of-32-bytes-or-more")}
	var header http.Header
	var body []byte
	status := 204
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, strings.Repeat("canary", 1000))
	}))
	defer app.Close()
	u, err := url.Parse(app.URL + "/hook?x=1")
	must(t, err)
	events := &Events{URL: u, Keys: keys, Environment: "env1"}
	f := &state.Flow{
		ID: "flow-1", Row: state.Row{Consumed: time.Unix(1_800_000_000, 0)}, Webhook: secret.New("canary-webhook"),
		Request: link.Request{Subscriber: "ada", Integration: "slack-eu", Context: novuclient.Context{JSON: `{"tenant":"acme"}`}},
		Result:  state.Result{Code: state.Connected, Team: "Acme", TeamID: "T1", Channel: "#alerts", ChannelID: "C1", ConfigurationURL: "https://acme.slack.com/services/B1"},
	}
	must(t, events.Send(t.Context(), f))
	for _, key := range keys {
		webhook, err := standardwebhooks.NewWebhookRaw([]byte(key.Reveal()))
		must(t, err)
		if err := webhook.Verify(body, header); err != nil {
			t.Errorf("it does not verify: %v", err)
		}
	}
	const want = `{"type":"slack.connected","timestamp":"2027-01-15T08:00:00Z","data":{"subscriberId":"ada","integrationIdentifier":"slack-eu","environmentId":"env1",` +
		`"context":{"tenant":"acme"},"channel":"#alerts","channelId":"C1","team":"Acme","teamId":"T1","configurationUrl":"https://acme.slack.com/services/B1","flow":"flow-1"}}`
	if string(body) != want || header.Get("webhook-id") != "evt_flow-1" || !strings.HasPrefix(header.Get("User-Agent"), "novu-slack-redirect/") {
		t.Errorf("got %s with %v, want %s", body, header, want)
	}
	first := string(body)
	must(t, events.Send(t.Context(), f))
	if string(body) != first {
		t.Errorf("sent again, it is %s", body)
	}
	must(t, events.Ping(t.Context()))
	var ping struct{ Type string }
	if err := json.Unmarshal(body, &ping); err != nil || ping.Type != "ping" {
		t.Errorf("got %s, %v", body, err)
	}
	for _, status = range []int{301, 307, 400, 401, 404, 410, 429, 500, 503} {
		err := events.Send(t.Context(), f)
		var refused EventError
		if !errors.As(err, &refused) || refused.Status != status || refused.RetryAfter != 7*time.Second || strings.Contains(err.Error(), "canary") {
			t.Errorf("HTTP %d: got %v", status, err)
		}
	}
	app.Close()
	if err := events.Send(t.Context(), f); err == nil {
		t.Error("nobody answers: got no error")
	}
}

// The integration that was resolved after the install is in every attempt, and stays.
func TestEventNamesTheResolvedIntegration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{}
		b := newBox(t, withEvents(r))
		var mu sync.Mutex
		var got []string
		r.set(func(f *state.Flow) error {
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, f.Request.Integration); len(got) == 1 {
				return EventError{Status: 500}
			}
			return nil
		})
		defer b.run()()
		unnamed := request("ada")
		unnamed.Integration = ""
		f := b.connect(unnamed)
		time.Sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(got, []string{defaultIntegration, defaultIntegration}) {
			t.Errorf("got the integrations %q", got)
		}
		if kept, err := b.Store.Look(t.Context(), f.Key); err != nil || kept.Request.Integration != defaultIntegration {
			t.Errorf("the finished flow has %q, %v", kept.Request.Integration, err)
		}
	})
}

// slowClaim is a store whose answer that nothing is due travels slowly.
type slowClaim struct{ state.Backend }

func (s slowClaim) Claim(ctx context.Context, from state.Queue, owner string, lease time.Duration) (key state.Key, r state.Row, next time.Duration, err error) {
	if key, r, next, err = s.Backend.Claim(ctx, from, owner, lease); key == "" {
		time.Sleep(200 * time.Millisecond)
	}
	return key, r, next, err
}

// What an attempt makes due while the answer that nothing is due travels, is drained too.
func TestDrainLeavesNothingThatBecameDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{answer: func(*state.Flow) error { return EventError{Status: 500} }}
		b := newBox(t, withEvents(r), func(c *state.Config, _ *Config) { c.Backend = slowClaim{c.Backend} })
		b.connect(request("ada"))
		time.Sleep(time.Second)
		b.connect(request("ada"))
		time.Sleep(time.Hour)
		r.set(func(*state.Flow) error { time.Sleep(100 * time.Millisecond); return nil })
		must(t, b.WakeAll(t.Context()))
		begin := time.Now()
		if sent, waiting, err := b.Drain(t.Context()); sent != 2 || waiting != 0 || err != nil || b.eventsLeft() != 0 {
			t.Errorf("got %d sent, %d waiting, %v, %d left", sent, waiting, err, b.eventsLeft())
		}
		if took := time.Since(begin); took >= pollInterval {
			t.Errorf("it took %v: the second event waited for the next look", took)
		}
	})
}

// A drain ends when the events of what it saved have been sent, and counts those that were
// refused.
func TestDrainSendsEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &receiver{answer: func(*state.Flow) error { time.Sleep(eventTimeout - time.Second); return nil }}
		b := newBox(t, withEvents(r))
		b.record(request("ada"))
		if sent, waiting, err := b.Drain(t.Context()); sent != 1 || waiting != 0 || err != nil {
			t.Errorf("got %d sent, %d waiting, %v, want one sent", sent, waiting, err)
		}
		r.wantTook(t, "connected ada 1")

		r.set(func(*state.Flow) error { return EventError{Status: 500} })
		b.connect(request("ada"))
		time.Sleep(time.Minute)
		if sent, waiting, err := b.Drain(t.Context()); sent != 0 || waiting != 1 || err != nil {
			t.Errorf("refused: got %d sent, %d waiting, %v, want one that waits", sent, waiting, err)
		}
	})
}
