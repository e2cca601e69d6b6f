package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

const webhook = "https://hooks.slack.com/services/T01/B01/canary"

// fakeNovu answers as answer says and notes every attempt. Its time is the
// bubble's: hours pass at once.
type fakeNovu struct {
	mu       sync.Mutex
	answer   func(n int) error // to the nth attempt, from 1
	takes    func(n int) time.Duration
	begun    time.Time
	attempts []attempt
	busy     map[string]int
	inFlight int
	most     int // attempts in flight at a time
	overlaps int // of one subscriber
}

type attempt struct {
	at         time.Duration // since begun
	subscriber string
	webhook    string
	err        error
}

func (f *fakeNovu) Save(ctx context.Context, conn novuclient.Connection) error {
	f.mu.Lock()
	n := len(f.attempts) + 1
	var err error
	if f.answer != nil {
		err = f.answer(n)
	}
	f.attempts = append(f.attempts, attempt{time.Since(f.begun), conn.SubscriberID, conn.WebhookURL.Reveal(), err})
	var takes time.Duration
	if f.takes != nil {
		takes = f.takes(n)
	}
	if f.busy[conn.SubscriberID]++; f.busy[conn.SubscriberID] > 1 {
		f.overlaps++
	}
	f.inFlight++
	f.most = max(f.most, f.inFlight)
	f.mu.Unlock()
	end := func() {
		time.Sleep(takes) // Novu works on, whether or not anyone waits
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy[conn.SubscriberID]--
		f.inFlight--
	}
	if takes == 0 {
		end()
		return err
	}
	done := make(chan struct{})
	go func() { end(); close(done) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return &novuclient.Error{Op: "save credentials", Reason: novuclient.Unavailable, Err: ctx.Err()}
	}
}

func (f *fakeNovu) set(answer func(n int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeNovu) log() []attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attempts)
}

func status(code int, reason novuclient.Reason, wait time.Duration) func(int) error {
	return func(int) error {
		return &novuclient.Error{Op: "save credentials", Status: code, Reason: reason, RetryAfter: wait}
	}
}

var down = status(503, novuclient.Unavailable, 0)

// box is an Outbox on the embedded store with a fake Novu.
type box struct {
	*Outbox
	t    *testing.T
	novu *fakeNovu
	logs *bytes.Buffer
	path string
}

func newBox(t *testing.T, change ...func(*Config)) *box {
	t.Helper()
	s, _ := newBolt(t)
	b := &box{t: t, novu: &fakeNovu{begun: time.Now(), busy: map[string]int{}}, logs: &bytes.Buffer{}, path: s.db.Path()}
	config := Config{Store: s, Novu: b.novu, Secrets: []secret.String{secret.New("store-secret")}, Log: zerolog.New(zerolog.SyncWriter(b.logs))}
	for _, c := range change {
		c(&config)
	}
	var err error
	b.Outbox, err = New(config)
	must(t, err)
	return b
}

func (b *box) deliver(subscriber string) state.Result {
	b.t.Helper()
	result, _, err := b.Deliver(context.Background(), conn(subscriber), ending(subscriber))
	must(b.t, err)
	return result
}

func conn(subscriber string) novuclient.Connection {
	return novuclient.Connection{SubscriberID: subscriber, WebhookURL: secret.New(webhook)}
}

func ending(subscriber string) state.Ending {
	return state.Ending{Key: state.Key("key of " + subscriber), TTL: time.Hour, Result: state.Result{Code: state.Connected, Channel: "#alerts"}}
}

// run starts the worker until the returned function is called.
func (b *box) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { b.Run(ctx); close(ended) }()
	return func() { cancel(); <-ended }
}

func (b *box) left() (n int) {
	b.t.Helper()
	must(b.t, b.store.List(context.Background(), func(Entry) error { n++; return nil }))
	return n
}

func TestDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		result, finished, err := b.Deliver(context.Background(), conn("ada"), ending("ada"))
		if result != ending("ada").Result || !finished || err != nil {
			t.Errorf("got %+v, %t, %v, want connected", result, finished, err)
		}
		if got := b.novu.log(); len(got) != 1 || got[0].subscriber != "ada" || got[0].webhook != webhook || b.left() != 0 {
			t.Errorf("got %+v and %d left, want one attempt and none", got, b.left())
		}
	})
}

// Novu down for days: three quick tries, then the pace of the worker.
func TestRetryPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		stop := b.run()
		if got := b.deliver("ada").Code; got != state.Pending {
			t.Errorf("got %s, want pending", got)
		}
		if took := time.Since(b.novu.begun); took > 6*time.Second {
			t.Errorf("the person waited %v, want about 5 s at most", took)
		}
		time.Sleep(4 * time.Hour)
		b.novu.set(nil)
		time.Sleep(2 * time.Hour)
		stop()

		want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour, time.Hour}
		last := time.Duration(0)
		for i, a := range b.novu.log() {
			pause := a.at - last
			last = a.at
			w := want[min(i, len(want)-1)]
			if pause < w || pause > w+w/5+idle {
				t.Errorf("attempt %d came %v after the one before, want %v and up to a fifth more", i+1, pause, w)
			}
		}
		if n := len(b.novu.log()); n < 10 || b.left() != 0 || b.novu.log()[n-1].err != nil {
			t.Errorf("got %d attempts and %d left, want about 11 and none", n, b.left())
		}
	})
}

// Only a 429 is for everyone; any answer's Retry-After is for its own entry.
func TestRetryAfterOfOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		stop := b.run()
		b.novu.set(status(503, novuclient.Unavailable, 10*time.Minute))
		b.deliver("ada")
		b.novu.set(nil)
		before := len(b.novu.log())
		if got := b.deliver("bob").Code; got != state.Connected {
			t.Errorf("got %s for another subscriber, want connected", got)
		}
		time.Sleep(9 * time.Minute)
		if got := len(b.novu.log()) - before; got != 1 {
			t.Errorf("got %d attempts within Novu's pause, want bob's alone", got)
		}
		time.Sleep(4 * time.Minute)
		stop()
		if b.left() != 0 {
			t.Error("it was not sent afterwards")
		}
	})
}

// Something between us and Novu stopped waiting: Novu may still be at work.
func TestGatewayTimeoutIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(status(504, novuclient.Unavailable, 0))
		b.deliver("ada")
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts at once, want 1", got)
		}
		b.novu.set(nil)
		defer b.run()()
		time.Sleep(29 * time.Second)
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts within 30 s, want 1", got)
		}
		time.Sleep(20 * time.Second)
		if b.left() != 0 {
			t.Error("it was not sent afterwards")
		}
	})
}

// A restart forgets the embedded store's leases, and still does not overlap an
// attempt that Novu may be working on.
func TestRestartDoesNotOverlapASlowAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.takes = func(n int) time.Duration {
			if n == 1 {
				return 25 * time.Second
			}
			return 0
		}
		b.deliver("ada")
		b.store.(*Bolt).leases = map[string]lease{}
		defer b.run()()
		time.Sleep(2 * time.Minute)
		if b.novu.overlaps != 0 || b.left() != 0 {
			t.Errorf("got %d overlaps and %d left, want none", b.novu.overlaps, b.left())
		}
	})
}

// The store takes no record for a while: the connection that was saved directly
// is not overtaken by an older one that was recorded before.
func TestDirectSaveIsNotOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &brokenStore{}
		b := newBox(t, func(c *Config) { broken.Store = c.Store; c.Store = broken })
		b.novu.set(down)
		b.deliver("ada")
		b.novu.set(nil)
		broken.record = errors.New("OOM")
		newest := conn("ada")
		newest.WebhookURL = secret.New(webhook + "-newest")
		time.Sleep(time.Second)
		_, _, err := b.Deliver(context.Background(), newest, ending("ada"))
		must(t, err)
		defer b.run()()
		time.Sleep(2 * time.Hour)
		if got := b.novu.log(); got[len(got)-1].webhook != webhook+"-newest" || b.left() != 0 {
			t.Errorf("got %+v last and %d left", got[len(got)-1], b.left())
		}
	})
}

// Two at once for one subscriber: the second is pending, and not told of success
// before Novu has it.
func TestSecondOfTwoIsPendingUntilSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		defer b.run()()
		b.novu.takes = func(int) time.Duration { return time.Second }
		first := make(chan state.Result)
		go func() { first <- b.deliver("ada") }()
		time.Sleep(100 * time.Millisecond)
		second, finished, err := b.Deliver(context.Background(), conn("ada"), ending("ada"))
		if second.Code != state.Pending || finished || err != nil {
			t.Errorf("got %+v, %t, %v, want pending, not finished", second, finished, err)
		}
		if got := (<-first).Code; got != state.Connected {
			t.Errorf("got %s for the first, want connected", got)
		}
		time.Sleep(10 * time.Second)
		if b.left() != 0 || b.novu.overlaps != 0 || len(b.novu.log()) != 2 {
			t.Errorf("got %d left, %d overlaps, %d attempts, want 0, 0 and 2", b.left(), b.novu.overlaps, len(b.novu.log()))
		}
	})
}

func TestRetryAfterSlowsEveryoneDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		stop := b.run()
		b.novu.set(status(429, novuclient.Unavailable, 100*time.Second))
		begin := time.Now()
		b.deliver("ada")
		b.deliver("bob") // goes straight to the worker
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the person waited %v for a Novu that asks to wait 100 s", took)
		}
		b.novu.set(nil)
		time.Sleep(99 * time.Second)
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts within Novu's pause, want the one that met it", got)
		}
		time.Sleep(time.Minute)
		stop()
		if got := len(b.novu.log()); got != 3 || b.left() != 0 {
			t.Errorf("got %d attempts and %d left, want 3 and none", got, b.left())
		}
	})
}

// Novu refuses for good, then the operator mends the cause: it goes through by
// itself, and until then asks for no more than an attempt an hour.
func TestRefusedForGoodThenMended(t *testing.T) {
	for _, reason := range []novuclient.Reason{novuclient.BadKey, novuclient.NoIntegration, novuclient.BadURL, novuclient.Refused, novuclient.UnknownSubscriber} {
		synctest.Test(t, func(t *testing.T) {
			b := newBox(t)
			stop := b.run()
			b.novu.set(status(400, reason, 0))
			if got := b.deliver("ada").Code; got != state.Pending {
				t.Errorf("got %s, want pending", got)
			}
			time.Sleep(3*time.Hour + 50*time.Minute)
			if got := len(b.novu.log()); got < 3 || got > 4 {
				t.Errorf("%s: got %d attempts in 3:50 hours, want about one an hour", reason, got)
			}
			if !strings.Contains(b.logs.String(), `"level":"error"`) || !strings.Contains(b.logs.String(), `"remedy":"`+reason.Remedy()) {
				t.Errorf("%s: the log has no error with its remedy: %s", reason, b.logs)
			}
			b.novu.set(nil)
			time.Sleep(75 * time.Minute)
			stop()
			if b.left() != 0 {
				t.Errorf("%s: it did not go through", reason)
			}
		})
	}
}

func TestAllAreDueAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(status(401, novuclient.BadKey, 0))
		for i := range 30 {
			b.deliver(fmt.Sprint(i))
		}
		b.novu.set(nil)
		stop := b.run()
		time.Sleep(time.Second)
		stop()
		if b.left() != 0 {
			t.Errorf("got %d left a second after the start, want none", b.left())
		}
	})
}

// The store may be down for a while when the program starts.
func TestAllAreDueAtStartWhenTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(status(401, novuclient.BadKey, 0)) // the hourly pace
		b.deliver("ada")
		b.novu.set(nil)
		time.Sleep(time.Minute)
		b.store = &wakesLate{Store: b.store, fails: 3}
		defer b.run()()
		time.Sleep(time.Minute)
		if b.left() != 0 {
			t.Error("the entry keeps its pace, want it sent once the store is back")
		}
	})
}

type wakesLate struct {
	Store
	fails int
}

func (s *wakesLate) Wake(ctx context.Context) (bool, error) {
	if s.fails--; s.fails >= 0 {
		return false, errors.New("the store is down")
	}
	return s.Store.Wake(ctx)
}

// Thousands are due and Novu takes 20 a second: everything arrives, a few at a
// time, and most attempts are not wasted.
func TestThousandsDueRespectTheRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		const n = 1000
		for i := range n {
			c := conn(fmt.Sprint(i))
			e, _, err := b.record(context.Background(), c, ending(c.SubscriberID))
			must(t, err)
			must(t, b.store.Release(context.Background(), e, Then{}, nil))
		}
		second, in := time.Duration(-1), 0
		b.novu.takes = func(int) time.Duration { return 10 * time.Millisecond }
		b.novu.set(func(int) error {
			if now := time.Since(b.novu.begun).Truncate(time.Second); now != second {
				second, in = now, 0
			}
			if in++; in > 20 {
				return status(429, novuclient.Unavailable, time.Second)(0)
			}
			return nil
		})
		stop := b.run()
		time.Sleep(10 * time.Minute)
		stop()
		if b.left() != 0 {
			t.Errorf("got %d left, want none", b.left())
		}
		if got := len(b.novu.log()); got > n*3/2 {
			t.Errorf("got %d attempts for %d entries", got, n)
		}
		if b.novu.most > workers {
			t.Errorf("got %d attempts at a time, want at most %d", b.novu.most, workers)
		}
	})
}

// Novu takes longer than we wait and goes on working: no second attempt while it
// may, not for a newer connection either.
func TestSlowNovuNeverSeesTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		stop := b.run()
		b.novu.takes = func(n int) time.Duration {
			if n <= 4 {
				return 25 * time.Second
			}
			return 0
		}
		for range 3 {
			if got := b.deliver("ada").Code; got != state.Pending {
				t.Errorf("got %s, want pending", got)
			}
		}
		time.Sleep(time.Hour)
		stop()
		if b.novu.overlaps != 0 || b.left() != 0 {
			t.Errorf("got %d overlaps and %d left, want none", b.novu.overlaps, b.left())
		}
	})
}

// SIGTERM in flight: the attempt under way finishes, and is not made again.
func TestStoppingLetsTheAttemptFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.deliver("ada")
		b.novu.set(nil)
		b.novu.takes = func(int) time.Duration { return 3 * time.Second }
		stop := b.run()
		time.Sleep(7 * time.Second) // the attempt began 5 to 6 s after the one before
		stop()
		if got := b.novu.log(); b.left() != 0 || got[len(got)-1].err != nil {
			t.Errorf("got %d left, want none", b.left())
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		for i := range 10 {
			b.deliver(fmt.Sprint(i))
		}
		if sent, failed, err := b.Drain(context.Background()); sent != 0 || err != nil {
			t.Errorf("got %d sent, %d failed, %v", sent, failed, err)
		}
		time.Sleep(time.Minute)
		b.novu.set(func(n int) error {
			if n%2 == 0 {
				return down(n)
			}
			return nil
		})
		sent, failed, err := b.Drain(context.Background())
		if sent+failed != 10 || sent == 0 || failed == 0 || err != nil || b.left() != failed {
			t.Errorf("got %d sent, %d failed, %v and %d left", sent, failed, err, b.left())
		}
	})
}

// A drain neither waits for a Novu that asks for an hour, nor says it is done
// when it was interrupted.
func TestDrainThatCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		for i := range 10 {
			b.deliver(fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := b.Drain(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: got %v, want its error", err)
		}
		b.novu.set(status(429, novuclient.Unavailable, time.Hour))
		begin := time.Now()
		_, failed, err := b.Drain(context.Background())
		if took := time.Since(begin); took > time.Minute || failed == 0 || err != nil {
			t.Errorf("rate limited: got %d failed, %v after %v", failed, err, took)
		}
	})
}

// The newest of several connections is the one that Novu ends with, also when
// the older ones failed before it came.
func TestNewestConnectionWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.deliver("ada")
		newest := conn("ada")
		newest.WebhookURL = secret.New(webhook + "-newest")
		_, _, err := b.Deliver(context.Background(), newest, ending("ada"))
		must(t, err)
		b.novu.set(nil)
		stop := b.run()
		time.Sleep(time.Minute)
		stop()
		got := b.novu.log()
		if got[len(got)-1].webhook != webhook+"-newest" || b.left() != 0 {
			t.Errorf("got %+v last and %d left", got[len(got)-1], b.left())
		}
		saved := 0
		for _, a := range got {
			if a.err == nil {
				saved++
			}
		}
		if saved != 1 {
			t.Errorf("got %d saves, want the newest alone", saved)
		}
	})
}

func TestEntriesOfAnotherEnvironmentAreNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, func(c *Config) { c.Environment = "env1" })
		b.novu.set(down)
		b.deliver("ada")
		before := len(b.novu.log())
		b.novu.set(nil)
		b.environment = "env2"
		stop := b.run()
		time.Sleep(time.Hour)
		if got := len(b.novu.log()); got != before || b.left() != 1 {
			t.Errorf("got %d attempts with another environment's key and %d left, want none and 1", got-before, b.left())
		}
		if sent, failed, err := b.Drain(context.Background()); sent != 0 || failed != 0 || err != nil {
			t.Errorf("drain: got %d, %d, %v, want it left alone", sent, failed, err)
		}
		stop()
		b.environment = "env1"
		defer b.run()()
		time.Sleep(time.Minute)
		if b.left() != 0 {
			t.Error("its own environment did not send it")
		}
	})
}

// Rotation: what an old secret sealed opens while it is listed, and is kept
// when it is not.
func TestStoreSecretRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.deliver("ada")
		attempts := len(b.novu.log())
		b.novu.set(nil)
		use := func(texts ...string) {
			var list []secret.String
			for _, text := range texts {
				list = append(list, secret.New(text))
			}
			var err error
			b.seals, err = newSeals(list)
			must(t, err)
		}
		use("new-secret")
		stop := b.run()
		time.Sleep(time.Minute)
		stop()
		if n := strings.Count(b.logs.String(), "sealed with a secret"); n < 2 {
			t.Errorf("it was tried %d times in a minute, want a second time soon: another instance may have the secret", n)
		}
		stop = b.run()
		time.Sleep(3 * time.Hour)
		stop()
		if len(b.novu.log()) != attempts || b.left() != 1 || !strings.Contains(b.logs.String(), "sealed with a secret that STORE_SECRET does not have") || !strings.Contains(b.logs.String(), `"level":"error"`) {
			t.Errorf("got %d attempts and %d left, want none and 1: %s", len(b.novu.log())-attempts, b.left(), b.logs)
		}
		use("new-secret", "store-secret")
		defer b.run()()
		time.Sleep(time.Minute)
		if b.left() != 0 {
			t.Error("the old secret did not open it")
		}
	})
}

func TestSealsAreBoundToTheirDestination(t *testing.T) {
	s, err := newSeals([]secret.String{secret.New("x")})
	must(t, err)
	sealed := s.seal([]byte("text"), ada)
	if text, err := s.open(sealed, ada); err != nil || string(text) != "text" {
		t.Errorf("got %q, %v, want the text", text, err)
	}
	for _, d := range []Destination{ada2, bob, {}} {
		if _, err := s.open(sealed, d); err == nil {
			t.Errorf("an entry moved to %s opens", d)
		}
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := s.open(sealed, ada); err == nil {
		t.Error("an altered entry opens")
	}
	for _, none := range [][]secret.String{nil, {{}}, {secret.New("x"), {}}} {
		if _, err := newSeals(none); err == nil {
			t.Error("an empty secret was taken")
		}
	}
}

func TestTheStoreHoldsNoWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.deliver("ada")
		raw, err := os.ReadFile(b.path)
		must(t, err)
		if !bytes.Contains(raw, []byte("//ada")) {
			t.Fatal("the file does not show the destination: the test sees nothing")
		}
		for _, text := range []string{"canary", "hooks.slack.com"} {
			if bytes.Contains(raw, []byte(text)) {
				t.Errorf("the file holds %q", text)
			}
		}
		if strings.Contains(b.logs.String(), "canary") {
			t.Error("the log holds the webhook")
		}
	})
}

// brokenStore fails where it is told to.
type brokenStore struct {
	Store
	record, release error
}

func (s *brokenStore) Record(ctx context.Context, e Entry, lease time.Duration) (bool, error) {
	if s.record != nil {
		return false, s.record
	}
	return s.Store.Record(ctx, e, lease)
}

func (s *brokenStore) Release(ctx context.Context, e Entry, then Then, ending *state.Ending) error {
	if s.release != nil {
		return s.release
	}
	return s.Store.Release(ctx, e, then, ending)
}

func TestStoreFailsAfterTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &brokenStore{}
		b := newBox(t, func(c *Config) { broken.Store = c.Store; c.Store = broken })

		broken.record = errors.New("OOM command not allowed when used memory > 'maxmemory'.")
		result, finished, err := b.Deliver(context.Background(), conn("ada"), ending("ada"))
		if result.Code != state.Connected || finished || err != nil || len(b.novu.log()) != 1 {
			t.Errorf("Novu well: got %+v, %t, %v, want saved directly and not finished", result, finished, err)
		}
		b.novu.set(down)
		_, finished, err = b.Deliver(context.Background(), conn("ada"), ending("ada"))
		var failure *novuclient.Error
		if !errors.As(err, &failure) || finished {
			t.Errorf("Novu down: got %t, %v, want Novu's error", finished, err)
		}
		b.novu.set(nil)

		broken.record, broken.release = nil, errors.New("gone")
		result, finished, err = b.Deliver(context.Background(), conn("ada"), ending("ada"))
		if result.Code != state.Connected || finished || err != nil || b.left() != 1 {
			t.Errorf("not erased: got %+v, %t, %v and %d left, want connected, not finished, 1", result, finished, err, b.left())
		}
		broken.release = nil
		saves := len(b.novu.log())
		defer b.run()()
		time.Sleep(2 * time.Minute)
		if b.left() != 0 || len(b.novu.log()) != saves+1 {
			t.Errorf("got %d left and %d more attempts, want it sent once more and erased", b.left(), len(b.novu.log())-saves)
		}
	})
}
