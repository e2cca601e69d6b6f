package outbox_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

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

// TestSimulation runs several instances, the embedded store's real transitions, Slack
// and Novu in virtual time, through random schedules: crashes, pauses, lost, late and
// repeated calls of the store, resets and slow work at Novu, clocks that step back,
// outages, and several connections of one subscriber in every form. After each
// schedule nothing is lost whose webhook was recorded, Novu never had two updates of a
// subscriber at once, Novu has the newest connection that was recorded, nobody was told
// anything untrue, and everything has ended.
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
	flows     []*simulatedFlow

	mu       sync.Mutex
	problems []string
	clock    time.Duration // how far the store's clock is off
	outages  []span        // of the store
	trace    []string
}

// span is a time after the start.
type span struct{ from, to time.Duration }

func (s span) has(d time.Duration) bool { return s.from <= d && d < s.to }

// simulatedFlow is one connection that a person makes.
type simulatedFlow struct {
	flow        state.Flow
	code        string
	destination string // as Novu has it in the end

	recorded bool   // its webhook was in the store
	told     string // the last outcome that a person read
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

var simulationLinks = &link.Verifier{Origin: "https://slack.example.com"}

// simulate runs one schedule and returns what went wrong.
func simulate(t *testing.T, path string, seed uint64) []string {
	random := newRandom(seed, 0)
	backend, err := state.OpenBolt(path, "simulation")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	s := &simulation{start: time.Now(), faultsEnd: random.between(20*time.Second, 4*time.Minute), backend: backend}
	backend.Now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Now().Add(s.clock)
	}
	s.slack = simulatedSlack{simulation: s, spent: map[string]bool{}}
	s.flows = make([]*simulatedFlow, 0, 1+random.below(5))
	s.novu = simulatedNovu{simulation: s, busy: map[string]int{}, channels: map[string][]simulatedChannel{}}
	for range random.below(3) {
		from := random.between(0, s.faultsEnd)
		s.outages = append(s.outages, span{from, from + random.between(0, 12*time.Second)})
	}
	for range random.below(3) {
		from := random.between(0, s.faultsEnd)
		s.novu.outages = append(s.novu.outages, span{from, from + random.between(0, 40*time.Second)})
		from = random.between(0, s.faultsEnd)
		s.novu.refusals = append(s.novu.refusals, span{from, from + random.between(0, 20*time.Second)})
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
			s.mu.Unlock()
		}
	}()

	var people sync.WaitGroup
	setUp := newStore(t, backend)
	for i := range cap(s.flows) {
		f := &simulatedFlow{code: fmt.Sprintf("code-%d", i)}
		f.flow.ID, _ = state.FlowID(secret.New(fmt.Sprintf("%032d", i))) // the same in each replay
		f.flow.Key, _ = state.NewKey(f.flow.ID, secret.New(fmt.Sprintf("%032d", i)))
		f.flow.Link.Subscriber = []string{"ada", "ada", "ada", "bob"}[random.below(4)]
		integration := []string{"", "main", "main", "eu"}[random.below(4)] // "" is main: Novu says so later
		f.flow.Request.Integration = integration
		f.destination = f.flow.Link.Subscriber + "/" + strings.Replace(integration+"main", "mainmain", "main", 1)
		if integration == "eu" {
			f.destination = f.flow.Link.Subscriber + "/eu"
		}
		if err := setUp.Issue(t.Context(), f.flow, time.Hour); err != nil {
			t.Fatal(err)
		}
		s.flows = append(s.flows, f)
		people.Go(func() { s.connect(f, instances, newRandom(seed, uint64(1000+i))) })
	}
	for i, instance := range instances {
		go instance.run(i)
	}
	people.Wait()

	// Everything ends: at the latest at the slowest pace, with its jitter, twice.
	for ended := false; !ended; time.Sleep(20 * time.Second) {
		n, err := setUp.Count(t.Context(), state.Deliveries)
		ended = err == nil && n == 0 && !s.faulty() && s.novu.idle()
		if !ended && s.elapsed() > 4*time.Hour {
			s.report("%d flows have not ended after %v (%v)", n, s.elapsed(), err)
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
		// Whoever was told connected may have connected another channel since; and
		// interrupted says that nobody knows.
		overtaken := f.told == state.Connected && stands.Result.Code == state.Replaced
		open := f.told == "" || f.told == "pending" || f.told == "working" || f.told == outbox.CodeInterrupted
		if !open && f.told != stands.Result.Code && !overtaken {
			s.report("%s: the person was told %s, and it ended as %s", f.code, f.told, stands.Result.Code)
		}
		if f.told == "pending" && stands.Result.Code != state.Connected && stands.Result.Code != state.Replaced {
			s.report("%s: the person was told pending, and it ended as %s", f.code, stands.Result.Code)
		}
		f.flow.Number, f.flow.Result = stands.Number, stands.Result
		if f.recorded && (newest[f.destination] == nil || newest[f.destination].flow.Number < f.flow.Number) && !errors.Is(err, state.ErrNotFound) {
			newest[f.destination] = f
		}
	}
	for destination, f := range newest {
		if f.flow.Result.Code != state.Connected {
			s.report("%s was recorded and is the newest, and ended as %s", f.code, f.flow.Result.Code)
		}
		var has []string
		for _, c := range s.novu.channels[f.flow.Link.Subscriber] {
			if f.flow.Link.Subscriber+"/"+c.integration == destination {
				has = append(has, c.webhook)
			}
		}
		if len(has) != 1 || has[0] != webhookOf(f.code) {
			s.report("%s: Novu has %v, want the webhook of %s, number %d", destination, has, f.code, f.flow.Number)
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
	for f := range cap(s.flows) {
		i.forFlows = append(i.forFlows, newRandom(seed, 100*(n+1)+uint64(f)+1))
	}
	return i
}

// randomFor returns the randomness of the flow with a key, a code or a webhook.
func (i *simulatedInstances) randomFor(name string) *randomSource {
	for n, f := range i.flows {
		if name == string(f.flow.Key) || name == f.code || name == webhookOf(f.code) {
			return i.forFlows[n]
		}
	}
	return i.random
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
	i.mu.Lock()
	present := i.present
	i.mu.Unlock()
	answered := make(chan struct{})
	go func() {
		defer close(answered) // also when the instance dies
		if present == nil || present.ctx.Err() != nil {
			return // nobody listens
		}
		flow, won, err := present.outbox.Consume(present.ctx, f.flow.Key, secret.New(f.code))
		if err == nil && won {
			_, err = present.outbox.Advance(present.ctx, &flow)
		}
		i.boundary(present, i.randomFor(f.code))
		switch {
		case flow.Phase == state.Recorded:
			told = "pending"
		case flow.Phase == state.Working && (err == nil || errors.Is(err, state.ErrLost)):
			told = "working"
		case flow.Phase == state.Finished:
			told = flow.Result.Code
		}
		if told == state.Connected && won {
			i.novu.mustHave(f, flow.Number)
		}
	}()
	<-answered
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

// callStore makes a call of the store: in time, late, twice, without an answer, or not
// at all.
func callStore[T any](b *faultyBackend, name, key string, call func() (T, error)) (answer T, err error) {
	random := b.randomFor(key)
	b.boundary(b.present, random)
	fault := 99
	if b.faulty() {
		fault = random.below(100)
	}
	var down bool
	for _, outage := range b.outages {
		down = down || outage.has(b.elapsed())
	}
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
	default:
		time.Sleep(random.between(0, 2*time.Millisecond))
		answer, err = call()
		time.Sleep(random.between(0, 2*time.Millisecond))
	}
	b.boundary(b.present, random)
	return answer, err
}

func (b *faultyBackend) Consume(_ context.Context, key state.Key, owner string, content []byte, lease, patience time.Duration) (state.Row, error) {
	return callStore(b, "consume", string(key), func() (state.Row, error) {
		return b.Backend.Consume(context.Background(), key, owner, content, lease, patience)
	})
}

func (b *faultyBackend) Look(_ context.Context, key state.Key) (state.Row, error) {
	return callStore(b, "look", string(key), func() (state.Row, error) { return b.Backend.Look(context.Background(), key) })
}

func (b *faultyBackend) Move(_ context.Context, key state.Key, m state.Move) (state.Step, error) {
	return callStore(b, fmt.Sprintf("move to %c", m.To), string(key), func() (state.Step, error) {
		step, err := b.Backend.Move(context.Background(), key, m)
		b.log("%s moves %s to %c, lease %v, due %v, hold %v: step %d, %v", b.present.name, key[:4], m.To, m.Lease, m.Due, m.Hold, step, err)
		if err == nil && m.To == state.Recorded && (step == state.Moved || step == state.Waiting) {
			b.simulation.mu.Lock()
			for _, f := range b.flows {
				if f.flow.Key == key {
					f.recorded = true
				}
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
		a.key, a.row, a.next, err = b.Backend.Claim(context.Background(), from, owner, lease)
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
	s.slack.mu.Unlock()
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
	return &slackoauth.Installation{TeamID: "T01", Channel: "#alerts", WebhookURL: secret.New(webhookOf(code.Reveal()))}, nil
}

// simulatedNovu reads a subscriber before it writes to it, as the real one.
type simulatedNovu struct {
	*simulation
	outages, refusals []span

	mu       sync.Mutex
	busy     map[string]int // updates under way, by subscriber
	channels map[string][]simulatedChannel
}

type simulatedChannel struct{ integration, webhook string }

func (n *simulatedNovu) idle() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.busy) == 0
}

// mustHave checks that Novu has the connection that a person is told of, or a newer one.
func (n *simulatedNovu) mustHave(f *simulatedFlow, number int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.channels[f.flow.Link.Subscriber] {
		if f.flow.Link.Subscriber+"/"+c.integration == f.destination {
			return // which one is checked at the end
		}
	}
	n.report("the person of %s, number %d, is told connected, and Novu has nothing", f.code, number)
}

// update is what Novu does with a PUT: it reads, works, and writes.
func (n *simulatedNovu) update(conn novuclient.Connection, work time.Duration) {
	n.mu.Lock()
	if n.busy[conn.SubscriberID] > 0 {
		n.report("two updates of %s at once, the second with %s", conn.SubscriberID, conn.WebhookURL.Reveal())
	}
	n.busy[conn.SubscriberID]++
	at := -1
	for i, c := range n.channels[conn.SubscriberID] {
		if c.integration == conn.Integration && at < 0 {
			at = i
		}
	}
	n.mu.Unlock()
	time.Sleep(work)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[conn.SubscriberID]--; n.busy[conn.SubscriberID] == 0 {
		delete(n.busy, conn.SubscriberID)
	}
	channel := simulatedChannel{conn.Integration, conn.WebhookURL.Reveal()}
	if at >= 0 {
		n.channels[conn.SubscriberID][at] = channel
	} else {
		n.channels[conn.SubscriberID] = append(n.channels[conn.SubscriberID], channel)
	}
	n.log("Novu has %s of %s", channel.webhook, conn.SubscriberID)
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
	if integration == "" {
		return "main", nil
	}
	return integration, nil
}

func (n instanceNovu) down(outages []span) (down bool) {
	for _, outage := range outages {
		down = down || outage.has(n.elapsed())
	}
	return down
}

func (n instanceNovu) Disconnect(context.Context, novuclient.Connection) (int, error) { return 0, nil }

func (n instanceNovu) Elsewhere(context.Context, novuclient.Connection) (int, error) { return 0, nil }

func (n instanceNovu) Save(ctx context.Context, conn novuclient.Connection) (int, error) {
	return 0, n.save(ctx, conn)
}

func (n instanceNovu) save(ctx context.Context, conn novuclient.Connection) error {
	random := n.randomFor(conn.WebhookURL.Reveal())
	n.boundary(n.present, random)
	fault := 99
	if n.faulty() {
		fault = random.below(100)
	}
	refused := &novuclient.Error{Reason: novuclient.Unavailable, Progress: upstream.NotSent}
	if ctx.Err() != nil || fault < 5 || n.down(n.novu.outages) {
		return refused
	}
	n.log("%s sends %s of %s", n.present.name, conn.WebhookURL.Reveal(), conn.SubscriberID)
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
		go n.novu.update(conn, random.between(0, 25*time.Second))
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
		n.novu.update(conn, work)
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
