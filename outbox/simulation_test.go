package outbox_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

var (
	schedules = flag.Int("schedules", 300, "schedules of TestSimulation")
	firstSeed = flag.Uint64("seed", 1, "the first seed of TestSimulation; with -schedules=1 it replays one schedule")
)

// TestSimulation runs several instances, the embedded store's real transitions, Slack,
// Novu and the app's EVENTS_URL in virtual time, through random schedules: crashes,
// pauses, lost, late and repeated calls of the store, resets and slow work at Novu, a
// receiver that is down, refuses, hangs, answers late or takes an event after its sender
// gave up, clocks that step back, outages, and several flows of one subscriber that
// connect in every form, and disconnect. A destination is a subscriber's channel in one
// integration. In each schedule:
//
//   - Everything ends. Nothing is lost that was recorded: of each destination, the newest
//     flow that was recorded is what Novu has in the end, its webhook or none.
//   - Novu never has two updates of a subscriber at once.
//   - A code that Slack may have spent is not sent again within its sender's lease. While
//     Slack asks to wait, no flow begins to be exchanged, unless the store's clock steps back.
//   - Whatever a person was told, connected or disconnected, Novu had by then.
//   - A flow that the store has once as Saved is never replaced, and its event is received.
//     A flow that was replaced needs no event, and whatever else ended gets none.
//   - Every sending of a flow's event has the same webhook-id and body, which are no other
//     flow's, and a signature that the Standard Webhooks library accepts.
//   - Two senders never have requests for one destination open at the same time, and none
//     sends an event that is finished, or an older one than was sent; unless the store's
//     clock steps back during a lease, when an instance that starts takes the event for one
//     that waits.
//   - For a destination, the receiver gets each event for the first time in the order of
//     the flows' numbers. By these alone, as it ignores a webhook-id that it has had:
//     what it is told is, at that time, what Novu has or had, in the same order; and in the
//     end it knows exactly what Novu has.
//
// All that is random comes from the seed, which a failure prints:
//
//	go test ./outbox -run TestSimulation -schedules=1 -seed=N
func TestSimulation(t *testing.T) {
	var mu sync.Mutex
	next, last := *firstSeed, *firstSeed+uint64(*schedules)
	var runners sync.WaitGroup
	defer runners.Wait()
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			dir := simulationDir(t)
			for !t.Failed() {
				mu.Lock()
				seed := next
				next++
				mu.Unlock()
				if seed >= last {
					return
				}
				synctest.Test(t, func(t *testing.T) {
					for _, problem := range simulate(t, filepath.Join(dir, fmt.Sprint(seed)), seed) {
						t.Errorf("seed %d: %s", seed, problem)
					}
				})
				os.Remove(filepath.Join(dir, fmt.Sprint(seed)))
			}
		})
	}
}

// simulationDir is in memory where there is such a place: disks are slow to sync.
func simulationDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "simulation-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// simulation is one schedule.
type simulation struct {
	start     time.Time
	faultsEnd time.Duration // after start: then everything works
	backend   *state.Bolt
	slack     simulatedSlack
	novu      simulatedNovu
	receiver  simulatedReceiver
	flows     []*simulatedFlow

	mu       sync.Mutex
	problems []string
	clock    time.Duration // how far the store's clock is off
	stepped  time.Duration // after the start: when it last stepped back
	outages  []span        // of the store
	closed   time.Duration // after the start: until when Slack asks to wait
	refusals map[string]bool
	trace    []string
}

// span is a time after the start.
type span struct{ from, to time.Duration }

func (s span) has(d time.Duration) bool { return s.from <= d && d < s.to }

// simulatedFlow is one connection that a person makes, or one click to disconnect.
type simulatedFlow struct {
	flow        state.Flow
	code        string // of a click to disconnect, only a name
	subscriber  string
	destination string // subscriber/integration, as Novu has it in the end
	disconnects bool

	begun    bool   // the person came through to it, or may have
	before   int    // entries of the destination's history then
	number   int64  // by the store
	recorded bool   // its webhook, or the wish to disconnect, was in the store
	saved    bool   // the store had it as Saved
	finished bool   // the store had it as Finished
	told     string // the last outcome that a person read
}

// webhook is what Novu has for the destination after the flow: nothing after one that
// disconnects.
func (f *simulatedFlow) webhook() string {
	if f.disconnects {
		return ""
	}
	return webhookOf(f.code)
}

// outcome is what the flow ends as, if it is not replaced.
func (f *simulatedFlow) outcome() string {
	if f.disconnects {
		return state.Disconnected
	}
	return state.Connected
}

func (s *simulation) elapsed() time.Duration { return time.Since(s.start) }

func (s *simulation) faulty() bool { return s.elapsed() < s.faultsEnd }

func (s *simulation) report(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// log keeps what happened, for the output of a schedule that fails.
func (s *simulation) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf("%12v  ", s.elapsed())+fmt.Sprintf(format, args...))
}

// randomSource is a *rand.Rand for several goroutines of one actor.
type randomSource struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newRandom(seed, actor uint64) *randomSource {
	return &randomSource{r: rand.New(rand.NewPCG(seed, actor))}
}

func (r *randomSource) below(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.IntN(n)
}

func (r *randomSource) float() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Float64()
}

// between returns a time with nanoseconds, so that hardly anything happens at once.
func (r *randomSource) between(from, to time.Duration) time.Duration {
	return from + time.Duration(r.float()*float64(to-from))
}

func (r *randomSource) chance(percent int) bool { return r.below(100) < percent }

var simulationMetrics = metrics.New()

var (
	simulationLinks = &link.Verifier{Origin: "https://slack.example.com", Secrets: []secret.String{secret.New("a-secret-of-the-simulation-of-32-bytes")}}

	eventsURL = &url.URL{Scheme: "https", Host: "app.example.com", Path: "/events"}
	eventsKey = secret.New("a-secret-of-the-simulated-events")
)

// simulate runs one schedule and returns what went wrong.
func simulate(t *testing.T, path string, seed uint64) []string {
	random := newRandom(seed, 0)
	backend, err := state.OpenBolt(path, "simulation")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	s := &simulation{start: time.Now(), refusals: map[string]bool{}, faultsEnd: random.between(20*time.Second, 4*time.Minute), backend: backend}
	backend.Now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Now().Add(s.clock)
	}
	s.slack = simulatedSlack{simulation: s, spent: map[string]bool{}, sent: map[string]time.Duration{}}
	s.novu = simulatedNovu{simulation: s, busy: map[string]int{}, channels: map[string][]simulatedChannel{}, history: map[string][]string{}}
	s.receiver = simulatedReceiver{
		simulation: s, open: map[string]time.Duration{}, sent: map[string]int64{}, events: map[string]simulatedEvent{}, flowOf: map[string]string{}, last: map[string]int64{}, seen: map[string]int{}, idea: map[string]string{},
	}
	outages := func(most, longest time.Duration) (spans []span) {
		for range random.below(int(most)) {
			from := random.between(0, s.faultsEnd)
			spans = append(spans, span{from, from + random.between(0, longest)})
		}
		return spans
	}
	s.outages, s.novu.outages, s.novu.refusals, s.receiver.outages = outages(3, 12*time.Second), outages(3, 40*time.Second), outages(3, 20*time.Second), outages(3, time.Minute)

	setUp := newStore(t, backend)
	people := make([][]*simulatedFlow, 1+random.below(6))
	for i := range people {
		subscriber := []string{"ada", "ada", "ada", "bob"}[random.below(4)]
		integration := []string{"", "main", "main", "eu"}[random.below(4)] // "" is main: Novu says so later
		clicks := 1
		if disconnects := random.chance(35); disconnects {
			clicks = 4 // each is a flow of its own
		}
		for range clicks {
			f := s.newFlow(subscriber, integration, clicks > 1)
			if people[i] = append(people[i], f); !f.disconnects {
				f.begun = true
				if err := setUp.Issue(t.Context(), f.flow, time.Hour); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	instances := make([]*simulatedInstances, 1+random.below(3))
	for i := range instances {
		instances[i] = newInstances(s, seed, uint64(i))
	}
	go func() { // the store's clock steps back, as after a fail-over
		steps := newRandom(seed, 1)
		for range steps.below(3) {
			time.Sleep(steps.between(0, s.faultsEnd/2))
			step := steps.between(time.Second, 5*time.Minute)
			s.log("the store's clock steps back by %v", step)
			s.mu.Lock()
			s.clock -= step
			s.stepped = s.elapsed()
			s.mu.Unlock()
		}
	}()

	var arriving sync.WaitGroup
	for i, flows := range people {
		random := newRandom(seed, uint64(1000+i))
		if flows[0].disconnects {
			arriving.Go(func() { s.disconnect(flows, instances, random) })
		} else {
			arriving.Go(func() { s.connect(flows[0], instances, random) })
		}
	}
	for i, instance := range instances {
		go instance.run(i)
	}
	arriving.Wait()

	// Everything ends: at the latest at the slowest pace, with its jitter, twice.
	for ended := false; !ended; time.Sleep(20 * time.Second) {
		left, failed := 0, error(nil)
		for _, queue := range state.Queues {
			n, err := setUp.Count(t.Context(), queue)
			left, failed = left+n, cmp.Or(failed, err)
		}
		ended = failed == nil && left == 0 && !s.faulty() && s.novu.idle()
		if !ended && s.elapsed() > 4*time.Hour {
			s.report("%d flows have not ended after %v (%v)", left, s.elapsed(), failed)
			break
		}
	}
	for _, i := range instances {
		i.stop()
	}
	time.Sleep(time.Minute) // what a dead instance had begun
	synctest.Wait()
	s.check(t, setUp)
	if len(s.problems) > 0 {
		t.Logf("seed %d:\n%s", seed, strings.Join(s.trace, "\n"))
	}
	return s.problems
}

// newFlow adds a flow. Its ID and key are the same in each replay.
func (s *simulation) newFlow(subscriber, integration string, disconnects bool) *simulatedFlow {
	n := len(s.flows)
	f := &simulatedFlow{code: fmt.Sprintf("code-%d", n), subscriber: subscriber, disconnects: disconnects, destination: subscriber + "/" + cmp.Or(integration, "main")}
	f.flow.ID, _ = state.FlowID(secret.New(fmt.Sprintf("%032d", n)))
	f.flow.Key, _ = state.NewKey(f.flow.ID, secret.New(fmt.Sprintf("%032d", n)))
	f.flow.Link.Subscriber = subscriber
	f.flow.Request.Integration = integration
	if disconnects {
		f.code = fmt.Sprintf("click-%d", n)
		signed, err := simulationLinks.Sign(link.Request{Subscriber: subscriber, Integration: integration, Action: link.Disconnect}, time.Now().Add(time.Hour))
		if err != nil {
			panic(err)
		}
		_, token, _ := strings.Cut(signed, "token=")
		f.flow.Link = link.Link{Token: token}
	}
	s.flows = append(s.flows, f)
	return f
}

func newStore(t testing.TB, backend state.Backend) *state.Store {
	store, err := state.New(state.Config{
		Backend: backend, Deployment: "simulation", Secrets: []secret.String{secret.New("simulated")}, Links: simulationLinks, ResultTTL: 24 * time.Hour,
	})
	if err != nil {
		panic(err)
	}
	return store
}

// check looks at how everything has ended.
func (s *simulation) check(t *testing.T, store *state.Store) {
	newest := map[string]*simulatedFlow{}
	for _, f := range s.flows {
		stands, err := store.Look(t.Context(), f.flow.Key)
		switch {
		case !f.begun:
			continue
		case errors.Is(err, state.ErrNotFound) && f.disconnects && !f.recorded:
			continue // nobody came through to it
		case errors.Is(err, state.ErrNotFound):
			stands.Phase, stands.Result.Code = state.Finished, state.Replaced // these end sooner
		case err != nil:
			s.report("%s: %v", f.code, err)
			continue
		case stands.Phase == state.Issued:
			continue // nobody came through to it
		}
		if stands.Phase != state.Finished {
			s.report("%s is in phase %c", f.code, stands.Phase)
		}
		done, replaced := stands.Result.Code == f.outcome(), stands.Result.Code == state.Replaced
		if (f.disconnects || f.saved || f.told == "pending") && !done && !replaced || f.saved && replaced {
			s.report("%s (disconnects: %t, saved: %t, told %q) ended as %s", f.code, f.disconnects, f.saved, f.told, stands.Result.Code)
		}
		// Whoever was told connected may have connected another channel since; and
		// interrupted says that nobody knows.
		overtaken := f.told == f.outcome() && replaced
		open := f.told == "" || f.told == "pending" || f.told == "working" || f.told == outbox.CodeInterrupted
		if !open && f.told != stands.Result.Code && !overtaken {
			s.report("%s: the person was told %s, and it ended as %s", f.code, f.told, stands.Result.Code)
		}
		if _, received := s.receiver.events[f.flow.ID]; received != done {
			s.report("%s ended as %s, and its event was received: %t", f.code, stands.Result.Code, received)
		}
		f.flow.Result = stands.Result
		if f.recorded && (newest[f.destination] == nil || newest[f.destination].number < f.number) {
			newest[f.destination] = f
		}
	}
	for destination, f := range newest {
		if f.flow.Result.Code != f.outcome() {
			s.report("%s was recorded and is the newest, and ended as %s", f.code, f.flow.Result.Code)
		}
		var has []string
		for _, c := range s.novu.channels[f.subscriber] {
			if f.subscriber+"/"+c.integration == destination && c.webhook != "" {
				has = append(has, c.webhook)
			}
		}
		if strings.Join(has, " ") != f.webhook() {
			s.report("%s: Novu has %q, want %q of %s, number %d", destination, has, f.webhook(), f.code, f.number)
		}
		if s.receiver.idea[destination] != f.webhook() {
			s.report("%s: the app was told last of %q, want %q of %s, number %d", destination, s.receiver.idea[destination], f.webhook(), f.code, f.number)
		}
	}
}

func webhookOf(code string) string { return "https://hooks.slack.com/services/" + code }

// connect is a person who comes back from Slack, and reloads when that fails.
func (s *simulation) connect(f *simulatedFlow, instances []*simulatedInstances, random *randomSource) {
	time.Sleep(random.between(0, min(s.faultsEnd, 90*time.Second)))
	for range 8 {
		told := instances[random.below(len(instances))].callback(f)
		s.log("the person of %s reads %q", f.code, told)
		if told != "" {
			f.told = told
		}
		if told != "" && (told != "working" || random.chance(50)) {
			return
		}
		time.Sleep(random.between(time.Second, 40*time.Second))
	}
}

// disconnect is a person, or a program, that disconnects. Each click is a flow of its own;
// after one that was not answered, or out of impatience, there is another.
func (s *simulation) disconnect(flows []*simulatedFlow, instances []*simulatedInstances, random *randomSource) {
	time.Sleep(random.between(0, min(s.faultsEnd, 90*time.Second)))
	for _, f := range flows {
		told := instances[random.below(len(instances))].disconnect(f)
		s.log("whoever disconnects by %s reads %q", f.code, told)
		f.told = told
		if told != "" && !random.chance(25) {
			return
		}
		time.Sleep(random.between(0, 20*time.Second))
	}
}

// simulatedInstances is an instance and those that come after it when it crashes.
type simulatedInstances struct {
	*simulation
	random   *randomSource   // of its lives, and of the worker's look-outs
	forFlows []*randomSource // one for each flow, whoever works on it: goroutines that run at once draw nothing from each other
	over     chan struct{}   // closed by stop

	mu      sync.Mutex
	present *simulatedInstance
}

// simulatedInstance is one life of an instance.
type simulatedInstance struct {
	name    string
	outbox  *outbox.Outbox
	ctx     context.Context
	cancel  context.CancelFunc
	crashes time.Duration // after the start; 0 is never
	pauses  []span
	done    chan struct{}
}

func newInstances(s *simulation, seed, n uint64) *simulatedInstances {
	i := &simulatedInstances{simulation: s, random: newRandom(seed, 100*(n+1)), over: make(chan struct{})}
	for f := range s.flows {
		i.forFlows = append(i.forFlows, newRandom(seed, 100*(n+1)+uint64(f)+1))
	}
	return i
}

// randomFor returns the randomness of the flow with a key, a code, a webhook or an ID.
func (i *simulatedInstances) randomFor(name string) *randomSource {
	for n, f := range i.flows {
		if name == string(f.flow.Key) || name == f.code || name == webhookOf(f.code) || name == f.flow.ID {
			return i.forFlows[n]
		}
	}
	return i.random
}

// randomForDisconnect returns the randomness of what disconnects a destination, of which
// there is one at a time.
func (i *simulatedInstances) randomForDisconnect(destination string) *randomSource {
	n := slices.IndexFunc(i.flows, func(f *simulatedFlow) bool { return f.disconnects && f.destination == destination })
	return i.forFlows[n]
}

func (i *simulatedInstances) run(n int) {
	for life := 0; ; life++ {
		present := &simulatedInstance{name: fmt.Sprintf("instance %d.%d", n, life), done: make(chan struct{})}
		present.ctx, present.cancel = context.WithCancel(context.Background())
		if i.faulty() && i.random.chance(40) {
			present.crashes = i.elapsed() + i.random.between(0, 80*time.Second)
		}
		for range i.random.below(3) {
			from := i.elapsed() + i.random.between(0, 80*time.Second)
			if i.faulty() {
				present.pauses = append(present.pauses, span{from, from + i.random.between(0, 70*time.Second)})
			}
		}
		present.outbox = outbox.New(outbox.Config{
			Store: newStore(nil, &faultyBackend{i.backend, i, present}), Slack: instanceSlack{i, present}, Novu: instanceNovu{i, present},
			Log: zerolog.Nop(), Metrics: simulationMetrics, Random: func() float64 { return float64(n) / 3 },
			SendEvent: (&outbox.Events{URL: eventsURL, Keys: []secret.String{eventsKey}, HTTPClient: &http.Client{Transport: instanceReceiver{i, present}}}).Send,
		})
		i.mu.Lock()
		i.present = present
		i.mu.Unlock()
		go func() {
			defer close(present.done)
			present.outbox.Run(present.ctx)
		}()
		crash := make(<-chan time.Time)
		if present.crashes > 0 {
			crash = time.After(present.crashes - i.elapsed())
		}
		select {
		case <-i.over:
			return
		case <-crash:
		}
		i.log("%s crashes", present.name)
		present.cancel() // every call of its finds that it is dead
		select {
		case <-i.over:
			return
		case <-time.After(i.random.between(10*time.Millisecond, 20*time.Second)):
		}
	}
}

// stop ends the present life, which nothing is due in.
func (i *simulatedInstances) stop() {
	close(i.over)
	i.mu.Lock()
	present := i.present
	i.mu.Unlock()
	present.cancel()
	<-present.done
	present.outbox.Close(context.Background())
}

// callback is one request of a person's browser. It returns what the person reads:
// nothing when the connection was cut, or the store was down.
func (i *simulatedInstances) callback(f *simulatedFlow) (told string) {
	return i.request(f, func(present *simulatedInstance) (flow state.Flow, answered bool) {
		flow, won, err := present.outbox.Consume(present.ctx, f.flow.Key, secret.New(f.code))
		if err == nil && won {
			_, err = present.outbox.Advance(present.ctx, &flow)
		}
		return flow, err == nil || errors.Is(err, state.ErrLost)
	})
}

// disconnect is one click. It returns what the person reads, as callback does.
func (i *simulatedInstances) disconnect(f *simulatedFlow) (told string) {
	f.begun, f.before = true, len(i.novu.historyOf(f.destination))
	return i.request(f, func(present *simulatedInstance) (flow state.Flow, answered bool) {
		flow, _, err := present.outbox.Disconnect(present.ctx, f.flow, time.Hour)
		return flow, err == nil || errors.Is(err, state.ErrLost)
	})
}

// request is one request, which work does if somebody listens.
func (i *simulatedInstances) request(f *simulatedFlow, work func(*simulatedInstance) (flow state.Flow, answered bool)) (told string) {
	i.mu.Lock()
	present := i.present
	i.mu.Unlock()
	over := make(chan struct{})
	go func() {
		defer close(over) // also when the instance dies
		if present == nil || present.ctx.Err() != nil {
			return // nobody listens
		}
		flow, answered := work(present)
		i.boundary(present, i.randomFor(f.code))
		switch {
		case flow.Phase == state.Recorded:
			told = "pending"
		case flow.Phase == state.Working && answered:
			told = "working"
		case flow.Ended():
			told = flow.Result.Code
		}
		if told == f.outcome() {
			i.novu.mustHaveHad(f)
		}
	}()
	<-over
	return told
}

// boundary is where a process can die or stand still.
func (i *simulatedInstances) boundary(present *simulatedInstance, random *randomSource) {
	if present.crashes > 0 && i.elapsed() >= present.crashes {
		runtime.Goexit()
	}
	for _, pause := range present.pauses {
		if pause.has(i.elapsed()) {
			i.log("%s stands still until %v", present.name, pause.to)
			time.Sleep(pause.to - i.elapsed() + random.between(0, time.Millisecond))
			i.boundary(present, random)
		}
	}
}

var errNoAnswer = errors.New("i/o timeout")

// faultyBackend is the store as an instance reaches it.
type faultyBackend struct {
	state.Backend
	*simulatedInstances
	present *simulatedInstance
}

// callStore makes a call of the store: in time, late, twice, without an answer or with one
// that is long in hand, or not at all.
func callStore[T any](b *faultyBackend, name, key string, call func() (T, error)) (answer T, err error) {
	random := b.randomFor(key)
	b.boundary(b.present, random)
	fault := 99
	if b.faulty() {
		fault = random.below(100)
	}
	down := b.down(b.outages)
	switch {
	case down || fault < 2:
		time.Sleep(random.between(0, 1800*time.Millisecond))
		return answer, errNoAnswer
	case fault < 4: // the answer is lost
		call()
		b.log("%s: %s: the answer is lost", b.present.name, name)
		time.Sleep(1800 * time.Millisecond)
		err = errNoAnswer
	case fault < 6: // the call comes late
		late := random.between(0, 9*time.Second)
		b.log("%s: %s comes %v late", b.present.name, name, late)
		go func() {
			time.Sleep(late)
			call()
		}()
		time.Sleep(1800 * time.Millisecond)
		err = errNoAnswer
	case fault < 9: // the client repeats the call, and the first one comes late
		late := random.between(0, 3*time.Second)
		go func() {
			time.Sleep(late)
			call()
		}()
		answer, err = call()
	case fault < 11: // the process stands still before it goes on with the answer
		answer, err = call()
		still := random.between(0, time.Minute)
		b.log("%s: %s: it goes on after %v", b.present.name, name, still)
		time.Sleep(still)
	default:
		time.Sleep(random.between(0, 2*time.Millisecond))
		answer, err = call()
		time.Sleep(random.between(0, 2*time.Millisecond))
	}
	b.boundary(b.present, random)
	return answer, err
}

func (b *faultyBackend) Issue(_ context.Context, key state.Key, request []byte, ttl time.Duration) error {
	_, err := callStore(b, "issue", string(key), func() (any, error) { return nil, b.Backend.Issue(context.Background(), key, request, ttl) })
	return err
}

func (b *faultyBackend) Consume(_ context.Context, key state.Key, owner string, content []byte, lease, patience time.Duration) (state.Row, error) {
	return callStore(b, "consume", string(key), func() (state.Row, error) {
		_, closed := b.gate()
		row, err := b.Backend.Consume(context.Background(), key, owner, content, lease, patience)
		first := false
		b.note(key, func(f *simulatedFlow) { first, f.number = f.number == 0, max(f.number, row.Number) })
		if err == nil && first && row.Owner == owner && row.Turn.Place == 0 && patience > 0 {
			b.wantOpen(closed, key, "consume")
		}
		return row, err
	})
}

// progress returns what note says of a flow that is under way.
func (s *simulation) progress(f *simulatedFlow) (number int64, finished bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.number, f.finished
}

// gate returns when the store's clock last stepped back, and until when Slack asks to wait.
func (s *simulation) gate() (stepped, closed time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stepped, s.closed
}

// wantOpen reports a flow that may be exchanged although the gate was closed before.
func (s *simulation) wantOpen(closed time.Duration, key state.Key, by string) {
	if stepped, _ := s.gate(); stepped == 0 && s.elapsed() < closed-10*time.Millisecond {
		s.report("%s may be exchanged, by %s, %v before Slack allows it", key[:4], by, closed-s.elapsed())
	}
}

// note changes what is known of the flow with a key.
func (b *faultyBackend) note(key state.Key, change func(*simulatedFlow)) {
	b.simulation.mu.Lock()
	defer b.simulation.mu.Unlock()
	for _, f := range b.flows {
		if f.flow.Key == key {
			change(f)
		}
	}
}

func (b *faultyBackend) Look(_ context.Context, key state.Key) (state.Row, error) {
	return callStore(b, "look", string(key), func() (state.Row, error) { return b.Backend.Look(context.Background(), key) })
}

func (b *faultyBackend) Move(_ context.Context, key state.Key, m state.Move) (state.Step, error) {
	return callStore(b, fmt.Sprintf("move to %c", m.To), string(key), func() (state.Step, error) {
		step, err := b.Backend.Move(context.Background(), key, m)
		b.log("%s moves %s to %c, lease %v, due %v, hold %v: step %d, %v", b.present.name, key[:4], m.To, m.Lease, m.Due, m.Hold, step, err)
		if err == nil && (step == state.Moved || step == state.Waiting) {
			b.note(key, func(f *simulatedFlow) {
				f.recorded = f.recorded || m.To == state.Recorded
				f.saved = f.saved || m.To == state.Saved
				f.finished = f.finished || m.To == state.Finished
			})
			b.simulation.mu.Lock()
			if refusal := fmt.Sprint(key, m.Owner, m.Attempts); m.Close > 0 && !b.refusals[refusal] { // or it is a repeat
				b.refusals[refusal], b.closed = true, max(b.closed, b.elapsed()+min(m.Close, time.Minute))
			}
			b.simulation.mu.Unlock()
		}
		return step, err
	})
}

func (b *faultyBackend) Claim(_ context.Context, from state.Queue, owner string, lease time.Duration) (state.Key, state.Row, time.Duration, error) {
	type answer struct {
		key  state.Key
		row  state.Row
		next time.Duration
	}
	a, err := callStore(b, "claim", "", func() (a answer, err error) {
		_, closed := b.gate()
		a.key, a.row, a.next, err = b.Backend.Claim(context.Background(), from, owner, lease)
		if a.key != "" && from == state.Turns && a.row.Age < state.CodeLife {
			b.wantOpen(closed, a.key, "claim")
		}
		return a, err
	})
	if a.key != "" {
		b.log("%s claims %s in phase %c", b.present.name, a.key[:4], a.row.Phase)
	}
	return a.key, a.row, a.next, err
}

func (b *faultyBackend) Wake(_ context.Context, in state.Queue) (bool, error) {
	return callStore(b, "wake", "", func() (bool, error) { return b.Backend.Wake(context.Background(), in) })
}

// simulatedSlack spends each code once.
type simulatedSlack struct {
	*simulation
	mu    sync.Mutex
	spent map[string]bool
	sent  map[string]time.Duration // when an exchange began that may have spent the code
}

type instanceSlack struct {
	*simulatedInstances
	present *simulatedInstance
}

func (s instanceSlack) Exchange(ctx context.Context, code secret.String) (*slackoauth.Installation, error) {
	random := s.randomFor(code.Reveal())
	s.boundary(s.present, random)
	fault := 99
	if s.faulty() {
		fault = random.below(100)
	}
	began := s.elapsed()
	if ctx.Err() != nil || fault < 3 {
		return nil, &slackoauth.Error{Code: slackoauth.CodeUnavailable, Progress: upstream.NotSent}
	}
	time.Sleep(random.between(0, time.Second))
	if fault < 10 {
		return nil, &slackoauth.Error{Code: slackoauth.CodeRateLimited, Status: http.StatusTooManyRequests, RetryAfter: random.between(time.Second, 20*time.Second)}
	}
	s.slack.mu.Lock()
	spent := s.slack.spent[code.Reveal()]
	s.slack.spent[code.Reveal()] = true
	last, sent := s.slack.sent[code.Reveal()]
	s.slack.sent[code.Reveal()] = began
	s.slack.mu.Unlock()
	if stepped, _ := s.gate(); sent && began-last < 15*time.Second && (stepped == 0 || stepped < last-30*time.Second) { // what a lease is beyond an exchange
		s.report("%s is sent %v after %v, when it was sent before", code.Reveal(), began-last, last)
	}
	time.Sleep(random.between(0, time.Second))
	if fault < 14 { // the answer is lost
		<-ctx.Done()
		s.boundary(s.present, random)
		return nil, &slackoauth.Error{Code: slackoauth.CodeUnavailable, Progress: upstream.MaybeAtWork}
	}
	if fault < 24 { // the answer takes its time, or the process does not read it
		time.Sleep(random.between(0, 12*time.Second))
	}
	s.boundary(s.present, random)
	if spent {
		return nil, &slackoauth.Error{Code: "code_already_used"}
	}
	return &slackoauth.Installation{TeamID: "T01", Channel: "#" + code.Reveal(), WebhookURL: secret.New(webhookOf(code.Reveal()))}, nil
}

// simulatedNovu reads a subscriber before it writes to it, as the real one.
type simulatedNovu struct {
	*simulation
	outages, refusals []span

	mu       sync.Mutex
	busy     map[string]int // updates under way, by subscriber
	channels map[string][]simulatedChannel
	history  map[string][]string // by destination: every webhook that it had, "" where it had none
}

type simulatedChannel struct{ integration, webhook string }

func (n *simulatedNovu) idle() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.busy) == 0
}

// historyOf returns every webhook that a destination had so far: none at first.
func (n *simulatedNovu) historyOf(destination string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string{""}, n.history[destination]...)
}

// mustHaveHad checks that Novu had what a person is told of: the webhook, or none after
// the person asked for that.
func (n *simulatedNovu) mustHaveHad(f *simulatedFlow) {
	number, _ := n.progress(f)
	if history := n.historyOf(f.destination); !slices.Contains(history[max(0, f.before-1):], f.webhook()) {
		n.report("the person of %s, number %d, is told %s, and Novu had %q since", f.code, number, f.outcome(), history[max(0, f.before-1):])
	}
}

// has returns whether the subscriber has channels, one of the integration among them,
// and only such.
func (n *simulatedNovu) has(subscriber, integration string) (some, one, only bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	of := func(c simulatedChannel) bool { return c.integration == integration }
	list := n.channels[subscriber]
	return len(list) > 0, slices.ContainsFunc(list, of), !slices.ContainsFunc(list, func(c simulatedChannel) bool { return !of(c) })
}

// update is what Novu does with a PUT: it reads, works, and writes. With a DELETE it
// removes all of the subscriber's channels.
func (n *simulatedNovu) update(conn novuclient.Connection, remove bool, work time.Duration) {
	n.mu.Lock()
	if n.busy[conn.SubscriberID] > 0 {
		n.report("two updates of %s at once, the second with %q", conn.SubscriberID, conn.WebhookURL.Reveal())
	}
	n.busy[conn.SubscriberID]++
	of := func(c simulatedChannel) bool { return c.integration == conn.Integration }
	at := slices.IndexFunc(n.channels[conn.SubscriberID], of)
	n.mu.Unlock()
	time.Sleep(work)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[conn.SubscriberID]--; n.busy[conn.SubscriberID] == 0 {
		delete(n.busy, conn.SubscriberID)
	}
	channel := simulatedChannel{conn.Integration, conn.WebhookURL.Reveal()}
	switch list := n.channels[conn.SubscriberID]; {
	case remove:
		for _, c := range list {
			n.history[conn.SubscriberID+"/"+c.integration] = append(n.history[conn.SubscriberID+"/"+c.integration], "")
		}
		delete(n.channels, conn.SubscriberID)
	case at < 0:
		n.channels[conn.SubscriberID] = append(list, channel)
	case at < len(list): // else it was removed meanwhile
		list[at] = channel
	}
	if !remove {
		n.history[conn.SubscriberID+"/"+conn.Integration] = append(n.history[conn.SubscriberID+"/"+conn.Integration], channel.webhook)
	}
	n.log("Novu has %v of %s", n.channels[conn.SubscriberID], conn.SubscriberID)
}

type instanceNovu struct {
	*simulatedInstances
	present *simulatedInstance
}

func (n instanceNovu) ResolveIntegration(_ context.Context, integration string, _ bool) (string, error) {
	n.boundary(n.present, n.random)
	if n.down(n.novu.outages) {
		return "", &novuclient.Error{Reason: novuclient.Unavailable, Progress: upstream.NotSent}
	}
	return cmp.Or(integration, "main"), nil
}

func (s *simulation) down(outages []span) bool {
	return slices.ContainsFunc(outages, func(outage span) bool { return outage.has(s.elapsed()) })
}

// Elsewhere is asked for a warning only.
func (n instanceNovu) Elsewhere(context.Context, novuclient.Connection) (int, error) { return 0, nil }

func (n instanceNovu) Save(ctx context.Context, conn novuclient.Connection) (int, error) {
	return 0, n.send(ctx, n.randomFor(conn.WebhookURL.Reveal()), conn, false)
}

// Disconnect does what the client does: it empties the integration's channel, and removes
// all of them where there is no other integration's.
func (n instanceNovu) Disconnect(ctx context.Context, conn novuclient.Connection) (int, error) {
	random := n.randomForDisconnect(conn.SubscriberID + "/" + conn.Integration)
	if some, one, _ := n.novu.has(conn.SubscriberID, conn.Integration); some && !one {
		return 0, nil
	}
	conn.WebhookURL = secret.New("")
	if err := n.send(ctx, random, conn, false); err != nil {
		return 0, err
	}
	if _, _, only := n.novu.has(conn.SubscriberID, conn.Integration); !only {
		return 0, nil
	}
	return 0, n.send(ctx, random, conn, true)
}

// send sends a PUT or a DELETE.
func (n instanceNovu) send(ctx context.Context, random *randomSource, conn novuclient.Connection, remove bool) error {
	n.boundary(n.present, random)
	fault := 99
	if n.faulty() {
		fault = random.below(100)
	}
	refused := &novuclient.Error{Reason: novuclient.Unavailable, Progress: upstream.NotSent}
	if ctx.Err() != nil || fault < 5 || n.down(n.novu.outages) {
		return refused
	}
	n.log("%s sends %q of %s/%s, remove: %t", n.present.name, conn.WebhookURL.Reveal(), conn.SubscriberID, conn.Integration, remove)
	time.Sleep(random.between(0, 10*time.Millisecond))
	answered := func(status int, reason novuclient.Reason) error {
		return &novuclient.Error{Reason: reason, Status: status, Progress: upstream.Answered, RetryAfter: random.between(0, 3*time.Second)}
	}
	switch {
	case n.down(n.novu.refusals):
		return answered(http.StatusBadRequest, novuclient.NoIntegration)
	case fault < 12:
		return answered(http.StatusServiceUnavailable, novuclient.Unavailable)
	case fault < 15:
		return answered(http.StatusTooManyRequests, novuclient.Unavailable)
	case fault < 30: // the connection is reset, or a 502 comes, while Novu is at work
		go n.novu.update(conn, remove, random.between(0, 25*time.Second))
		time.Sleep(random.between(0, 200*time.Millisecond))
		n.boundary(n.present, random)
		return &novuclient.Error{Reason: novuclient.Unavailable, Progress: upstream.MaybeAtWork}
	}
	work := random.between(0, 100*time.Millisecond)
	if fault < 40 {
		work = random.between(0, 20*time.Second)
	}
	over := make(chan struct{})
	go func() { // goes on whatever becomes of who asked
		n.novu.update(conn, remove, work)
		close(over)
	}()
	select {
	case <-over:
	case <-ctx.Done():
		n.boundary(n.present, random)
		return &novuclient.Error{Reason: novuclient.Unavailable, Progress: upstream.MaybeAtWork, Err: context.DeadlineExceeded}
	}
	n.boundary(n.present, random)
	return nil
}

// simulatedReceiver is the app at EVENTS_URL.
type simulatedReceiver struct {
	*simulation
	outages []span

	mu     sync.Mutex
	open   map[string]time.Duration  // by destination, as are the others: since when a sender waits for the app
	sent   map[string]int64          // the highest number that a sender began with
	events map[string]simulatedEvent // that were taken, by flow ID
	flowOf map[string]string         // by webhook-id
	last   map[string]int64          // the number of the last event
	seen   map[string]int            // how far into Novu's history the app's idea is
	idea   map[string]string         // which webhook the app thinks that Novu has
}

// simulatedEvent is an event as it is each time.
type simulatedEvent struct{ id, body string }

// take is what the app does with a request: it verifies the event and, the first time,
// believes it.
func (r *simulatedReceiver) take(f *simulatedFlow, header http.Header, body []byte) {
	webhook, err := standardwebhooks.NewWebhookRaw([]byte(eventsKey.Reveal()))
	if err == nil {
		err = webhook.Verify(body, header)
	}
	if err != nil {
		r.report("the event of %s: %v", f.code, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := simulatedEvent{header.Get("webhook-id"), string(body)}
	if of, known := r.flowOf[e.id]; known && of != f.flow.ID {
		r.report("the webhook-id of %s is another flow's", f.code)
	}
	r.flowOf[e.id] = f.flow.ID
	if before, known := r.events[f.flow.ID]; known {
		if before != e {
			r.report("the event of %s was %v, and is now %v", f.code, before, e)
		}
		return
	}
	r.events[f.flow.ID] = e

	var event struct {
		Type string
		Data struct{ SubscriberID, IntegrationIdentifier, Channel, Flow string }
	}
	if err := json.Unmarshal(body, &event); err != nil || event.Type != "slack."+f.outcome() || event.Data.SubscriberID+"/"+event.Data.IntegrationIdentifier != f.destination {
		r.report("the event of %s is %s (%v)", f.code, body, err)
	}
	number, _ := r.progress(f)
	destination, told := f.destination, ""
	if event.Data.Channel != "" {
		told = webhookOf(strings.TrimPrefix(event.Data.Channel, "#"))
	}
	r.log("the app is told %s of %s, number %d: %q", event.Type, destination, number, told)
	if number <= r.last[destination] {
		r.report("the app is told of %s, number %d, after number %d", f.code, number, r.last[destination])
	}
	r.last[destination] = number
	history := r.novu.historyOf(destination)
	at := slices.Index(history[r.seen[destination]:], told)
	if at < 0 {
		r.report("the app is told of %s, number %d: Novu had %q, and not %q since", f.code, number, history, told)
		return
	}
	r.seen[destination] += at
	r.idea[destination] = told
}

// instanceReceiver is the receiver as an instance reaches it.
type instanceReceiver struct {
	*simulatedInstances
	present *simulatedInstance
}

// RoundTrip sends an event, for outbox.Events.
func (r instanceReceiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var event struct{ Data struct{ Flow string } }
	_ = json.Unmarshal(body, &event) // an event of no flow is found below
	n := slices.IndexFunc(r.flows, func(f *simulatedFlow) bool { return f.flow.ID == event.Data.Flow })
	if n < 0 {
		r.report("an event of no flow: %s", body)
		return nil, errNoAnswer
	}
	f, random, ctx := r.flows[n], r.forFlows[n], req.Context()
	r.boundary(r.present, random)
	fault := 99
	if r.faulty() {
		fault = random.below(100)
	}
	if ctx.Err() != nil || fault < 5 || r.down(r.receiver.outages) {
		return nil, errNoAnswer
	}
	r.log("%s sends the event of %s", r.present.name, f.code)
	r.receiver.begin(f)
	status, err := r.deliver(ctx, f, random, fault, req.Header, body)
	r.receiver.end(f)
	r.boundary(r.present, random)
	if err != nil {
		return nil, err
	}
	answer := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
	if status == http.StatusTooManyRequests {
		answer.Header.Set("Retry-After", fmt.Sprint(random.below(20)))
	}
	return answer, nil
}

// begin and end are when a sender begins and ends to wait for the app.
func (r *simulatedReceiver) begin(f *simulatedFlow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	number, finished := r.progress(f)
	r.simulation.mu.Lock()
	stepped := r.stepped
	r.simulation.mu.Unlock()
	since, open := r.open[f.destination]
	if !open {
		since = r.elapsed()
	}
	if stepped == 0 || stepped < since-30*time.Second { // an event's lease is no longer
		if open {
			r.report("two senders tell the app of %s at once, the second of %s", f.destination, f.code)
		}
		if finished || number < r.sent[f.destination] {
			r.report("the event of %s, number %d (finished: %t), is sent after that of number %d", f.code, number, finished, r.sent[f.destination])
		}
	}
	r.sent[f.destination] = max(r.sent[f.destination], number)
	r.open[f.destination] = r.elapsed()
}

func (r *simulatedReceiver) end(f *simulatedFlow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, f.destination)
}

// deliver is a request from its first byte until its sender has an answer or gives up.
func (r instanceReceiver) deliver(ctx context.Context, f *simulatedFlow, random *randomSource, fault int, header http.Header, body []byte) (status int, err error) {
	taken := make(chan struct{})
	take := func(after time.Duration) {
		time.Sleep(after)
		r.receiver.take(f, header, body)
		close(taken)
	}
	time.Sleep(random.between(0, 10*time.Millisecond))
	switch {
	case fault < 25:
		time.Sleep(random.between(0, 2*time.Second))
		return []int{301, 307, 400, 401, 404, 410, 429, 500, 503}[random.below(9)], nil
	case fault < 32: // it hangs, and takes nothing
		<-ctx.Done()
		return 0, ctx.Err()
	case fault < 38: // it is reset, and the event is taken before or after that
		go take(random.between(0, 25*time.Second))
		time.Sleep(random.between(0, 2*time.Second))
		return 0, errNoAnswer
	case fault < 44: // the answer is lost
		take(0)
		<-ctx.Done()
		return 0, ctx.Err()
	case fault < 60: // it takes its time, often more than the sender has
		go take(random.between(0, 40*time.Second))
	case fault < 70: // it answers late
		take(0)
		taken = make(chan struct{})
		go func() {
			time.Sleep(random.between(0, 15*time.Second))
			close(taken)
		}()
	default:
		take(random.between(0, 100*time.Millisecond))
	}
	select {
	case <-taken:
		return []int{200, 201, 202, 204}[random.below(4)], nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
