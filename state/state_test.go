package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/state/redistest"
)

// backend is a Store under test, with what its test needs to see and to move.
type backend struct {
	Store
	wait func(time.Duration) // time passes for the store
	dump func() string       // everything the store holds, keys and values
	size func() int          // flows kept, expired ones that linger included
}

func backends(t *testing.T, test func(*testing.T, backend)) {
	t.Run("bolt", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "test.db")
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		db.MaxBatchDelay = time.Millisecond
		s, err := NewBolt(db)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		now := time.Now()
		s.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		test(t, backend{
			Store: s,
			wait:  func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) },
			dump: func() string {
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				return string(raw)
			},
			size: func() (n int) {
				db.View(func(tx *bolt.Tx) error {
					n = tx.Bucket(flowBucket).Stats().KeyN
					return nil
				})
				return n
			},
		})
	})
	t.Run("miniredis", func(t *testing.T) {
		m := miniredis.RunT(t)
		now := time.Now()
		m.SetTime(now)
		client := redis.NewClient(&redis.Options{Addr: m.Addr()})
		t.Cleanup(func() { client.Close() })
		test(t, backend{
			Store: NewRedis(client),
			wait:  func(d time.Duration) { now = now.Add(d); m.SetTime(now); m.FastForward(d) },
			dump:  m.Dump,
			size:  func() int { return len(m.Keys()) },
		})
	})
	onServer := func(t *testing.T, client redis.UniversalClient) {
		ctx := context.Background()
		test(t, backend{
			Store: NewRedis(client),
			// Real time cannot be moved; what the server remembers of it can.
			wait: func(d time.Duration) {
				for _, key := range client.Keys(ctx, "*").Val() {
					left := client.PTTL(ctx, key).Val() - d
					value := client.Get(ctx, key).Val()
					if Phase(value[0]) == Working {
						since, _ := strconv.ParseInt(value[1:1+timeLength], 10, 64)
						value = fmt.Sprintf("w%d%s", since-d.Milliseconds(), value[1+timeLength:])
					}
					if left <= 0 {
						client.Del(ctx, key)
					} else {
						must(t, client.Set(ctx, key, value, left).Err())
					}
				}
			},
			dump: func() string {
				var all strings.Builder
				for _, key := range client.Keys(ctx, "*").Val() {
					fmt.Fprintln(&all, key, client.Get(ctx, key).Val())
				}
				return all.String()
			},
			size: func() int { return len(client.Keys(ctx, "*").Val()) },
		})
	}
	t.Run("redis-server", func(t *testing.T) { onServer(t, redistest.Start(t).Client()) })
	t.Run("redis cluster", func(t *testing.T) { onServer(t, redistest.Cluster(t)) })
}

func newKey(t *testing.T) (key Key, state, browser string) {
	t.Helper()
	state, browser = NewHalf(), NewHalf()
	id, ok := FlowID(state)
	if !ok {
		t.Fatal("NewHalf does not have the format of a state")
	}
	if key, ok = NewKey(id, browser); !ok {
		t.Fatal("FlowID or NewHalf does not have its own format")
	}
	return key, state, browser
}

var (
	flow   = Flow{Subscriber: "user+1@example.com/ä #?", Integration: "slack-eu", Environment: "env1", ReturnURL: "https://app.example.com/s?x=1#y", TeamID: "T01", LinkExpires: 1800000000}
	result = Result{Code: "connected", Team: "Acme", Channel: "#alerts", ConfigurationURL: "https://acme.slack.com/services/B01"}
)

// TestStore is the conformance table: the same promises for every backend.
func TestStore(t *testing.T) {
	ctx := context.Background()
	cases := []struct {
		name string
		test func(*testing.T, backend)
	}{
		{"a flow goes from issued to working to finished", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			want(t, b.Look, key, Record{Flow: flow, Phase: Issued})
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			want(t, b.Consume, key, Record{Flow: flow, Phase: Working})
			want(t, b.Look, key, Record{Flow: flow, Phase: Working})
			must(t, b.Finish(ctx, Ending{key, flow, result, time.Hour}))
			want(t, b.Look, key, Record{Flow: flow, Phase: Finished, Result: result})
			want(t, b.Consume, key, Record{Flow: flow, Phase: Finished, Result: result})
		}},
		{"an unknown key is not found", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			wantNotFound(t, b, key)
		}},
		{"one half is worth nothing, and does not burn the flow", func(t *testing.T, b backend) {
			key, state, browser := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			id, _ := FlowID(state)
			for _, halves := range [][2]string{{id, NewHalf()}, {id, state}, {id[1:] + "A", browser}} {
				if other, ok := NewKey(halves[0], halves[1]); ok {
					wantNotFound(t, b, other)
				}
			}
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
		}},
		{"an existing key is not issued again", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			if err := b.Issue(ctx, key, Flow{Subscriber: "other"}, time.Hour); err == nil {
				t.Error("second Issue: got nil, want an error")
			}
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
		}},
		{"of parallel callers exactly one wins", func(t *testing.T, b backend) {
			for range 5 {
				key, _, _ := newKey(t)
				must(t, b.Issue(ctx, key, flow, time.Hour))
				phases := make(chan Phase, 40)
				var wg sync.WaitGroup
				for range cap(phases) {
					wg.Go(func() {
						rec, err := b.Consume(ctx, key)
						if err != nil {
							t.Error(err)
						}
						phases <- rec.Phase
					})
				}
				wg.Wait()
				close(phases)
				count := map[Phase]int{}
				for p := range phases {
					count[p]++
				}
				if count[Issued] != 1 || count[Working] != 39 {
					t.Fatalf("got %v, want 1 issued and 39 working", count)
				}
			}
		}},
		{"flows expire in every phase", func(t *testing.T, b backend) {
			ttl := time.Minute
			issued, _, _ := newKey(t)
			working, _, _ := newKey(t)
			done, _, _ := newKey(t)
			for _, key := range []Key{issued, working, done} {
				must(t, b.Issue(ctx, key, flow, ttl))
			}
			want(t, b.Consume, working, Record{Flow: flow, Phase: Issued})
			must(t, b.Finish(ctx, Ending{done, flow, result, ttl}))
			b.wait(ttl + 20*time.Millisecond)
			for _, key := range []Key{issued, working, done} {
				wantNotFound(t, b, key)
			}
		}},
		{"consuming does not prolong a flow, finishing does", func(t *testing.T, b backend) {
			ttl := time.Minute
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, ttl))
			b.wait(ttl * 2 / 3)
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			b.wait(ttl * 2 / 3)
			wantNotFound(t, b, key)
			must(t, b.Finish(ctx, Ending{key, flow, result, time.Hour}))
			b.wait(ttl)
			want(t, b.Look, key, Record{Flow: flow, Phase: Finished, Result: result})
		}},
		{"who says that it will be delivered does not undo that it was", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			pending := Result{Code: Pending}
			must(t, b.Finish(ctx, Ending{key, flow, pending, time.Hour}))
			want(t, b.Look, key, Record{Flow: flow, Phase: Finished, Result: pending})
			must(t, b.Finish(ctx, Ending{key, flow, result, time.Hour}))
			must(t, b.Finish(ctx, Ending{key, flow, pending, time.Hour}))
			want(t, b.Look, key, Record{Flow: flow, Phase: Finished, Result: result})
			late, _, _ := newKey(t)
			must(t, b.Finish(ctx, Ending{late, flow, pending, time.Minute}))
			b.wait(time.Minute)
			if _, err := b.Look(ctx, late); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v, want it to end as others do", err)
			}
		}},
		{"a finished flow outlives the time it was issued for", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Minute))
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			must(t, b.Finish(ctx, Ending{key, flow, result, time.Hour}))
			b.wait(2 * time.Minute)
			other, _, _ := newKey(t)
			must(t, b.Issue(ctx, other, flow, time.Minute)) // which sweeps
			want(t, b.Look, key, Record{Flow: flow, Phase: Finished, Result: result})
		}},
		{"a working flow tells its age", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			d := 40 * time.Second
			b.wait(d)
			for _, ask := range []func(context.Context, Key) (Record, error){b.Look, b.Consume} {
				rec, err := ask(ctx, key)
				must(t, err)
				if rec.Phase != Working || rec.Age < d-5*time.Millisecond || rec.Age > d+10*time.Second {
					t.Errorf("got phase %c, age %v, want w and about %v", rec.Phase, rec.Age, d)
				}
			}
		}},
		{"the store holds neither half", func(t *testing.T, b backend) {
			key, state, browser := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
			all := b.dump()
			if !strings.Contains(all, string(key)) {
				t.Fatal("the dump does not show the key: the test sees nothing")
			}
			for _, half := range []string{state, browser} {
				if strings.Contains(all, half) {
					t.Errorf("the store holds a half")
				}
			}
		}},
		{"expired flows do not pile up", func(t *testing.T, b backend) {
			ttl := time.Minute
			for range 30 {
				key, _, _ := newKey(t)
				must(t, b.Issue(ctx, key, flow, ttl))
			}
			b.wait(ttl + 20*time.Millisecond)
			for range 5 {
				key, _, _ := newKey(t)
				must(t, b.Issue(ctx, key, flow, time.Hour))
			}
			if got := b.size(); got != 5 {
				t.Errorf("got %d flows, want the 5 live ones", got)
			}
		}},
		{"a cancelled context changes nothing", func(t *testing.T, b backend) {
			key, _, _ := newKey(t)
			must(t, b.Issue(ctx, key, flow, time.Hour))
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := b.Consume(gone, key); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Consume: got %v, want the context's error", err)
			}
			want(t, b.Consume, key, Record{Flow: flow, Phase: Issued})
		}},
		{"it answers a ping", func(t *testing.T, b backend) { must(t, b.Ping(ctx)) }},
	}
	backends(t, func(t *testing.T, b backend) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { c.test(t, b.cleared(t)) })
		}
	})
}

// A lost answer makes the client repeat the script: the repeat must still win.
func TestConsumeRepeatedByTheClientStillWins(t *testing.T) {
	backends(t, func(t *testing.T, b backend) {
		s, ok := b.Store.(*Redis)
		if !ok {
			t.Skip("an embedded store has no wire")
		}
		ctx := context.Background()
		key, _, _ := newKey(t)
		must(t, s.Issue(ctx, key, flow, time.Hour))
		mark := NewHalf()
		for range 2 {
			rec, err := s.run(ctx, key, mark)
			must(t, err)
			if rec.Phase != Issued {
				t.Errorf("got phase %c, want i", rec.Phase)
			}
		}
		want(t, b.Consume, key, Record{Flow: flow, Phase: Working})
	})
}

// Each operation is one round trip, once Redis knows the script.
func TestRedisRoundTrips(t *testing.T) {
	client := redistest.Start(t).Client()
	hook := &counter{}
	client.AddHook(hook)
	s, ctx := NewRedis(client), context.Background()
	key, _, _ := newKey(t)
	s.Look(ctx, key) // loads the script
	for name, op := range map[string]func() error{
		"issue":   func() error { return s.Issue(ctx, key, flow, time.Hour) },
		"consume": func() error { _, err := s.Consume(ctx, key); return ignoreNotFound(err) },
		"look":    func() error { _, err := s.Look(ctx, key); return ignoreNotFound(err) },
		"finish":  func() error { return s.Finish(ctx, Ending{"other", flow, result, time.Hour}) },
	} {
		hook.n = 0
		must(t, op())
		if hook.n != 1 {
			t.Errorf("%s: got %d round trips, want 1", name, hook.n)
		}
	}
}

// Whatever a client of the store is asked ends in time when Redis hangs, however
// often the client would repeat it.
func TestRedisAnswersAreBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, and nobody answers
	must(t, err)
	defer l.Close()
	client := redis.NewClient(&redis.Options{Addr: l.Addr().String(), ContextTimeoutEnabled: true, MaxRetries: 10})
	defer client.Close()
	s, pipe := NewRedis(client), client.Pipeline()
	pipe.Get(t.Context(), "x")
	for op, ask := range map[string]func() error{
		"ping":     func() error { return s.Ping(t.Context()) },
		"pipeline": func() error { _, err := pipe.Exec(t.Context()); return err },
	} {
		start := time.Now()
		if err := ask(); err == nil || time.Since(start) > 3*time.Second {
			t.Errorf("%s: got %v after %v, want an error within 2 s", op, err, time.Since(start))
		}
	}
}

type counter struct{ n int }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.n++; return next(ctx, cmd) }
}
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.n++; return next(ctx, cmds) }
}

func TestFormats(t *testing.T) {
	good := NewHalf()
	for _, bad := range []string{"", good[1:], good + "A", good[1:] + "+", good[1:] + "\n", good + "\n", good[1:] + "é", strings.Repeat("A", 10_000), "../" + good[3:]} {
		if _, ok := FlowID(bad); ok {
			t.Errorf("FlowID(%.40q): got ok, want refused", bad)
		}
		if ValidFlowID(bad) {
			t.Errorf("ValidFlowID(%.40q): got true, want false", bad)
		}
	}
	a, _ := FlowID(good)
	b, _ := FlowID(NewHalf())
	if a == b || strings.Contains(good, a) {
		t.Errorf("flow IDs %q and %q: want different ones that do not show the state", a, b)
	}
}

// cleared is b for one case of the table, emptied when the backend is shared.
func (b backend) cleared(t *testing.T) backend {
	t.Helper()
	switch s := b.Store.(type) {
	case *Redis:
		must(t, s.client.FlushAll(context.Background()).Err())
	case *Bolt:
		must(t, s.db.Update(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{flowBucket} {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return b
}

func want(t *testing.T, ask func(context.Context, Key) (Record, error), key Key, want Record) {
	t.Helper()
	got, err := ask(context.Background(), key)
	must(t, err)
	got.Age = 0
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func wantNotFound(t *testing.T, b backend, key Key) {
	t.Helper()
	if rec, err := b.Look(context.Background(), key); !errors.Is(err, ErrNotFound) {
		t.Errorf("Look: got %+v, %v, want ErrNotFound", rec, err)
	}
	if rec, err := b.Consume(context.Background(), key); !errors.Is(err, ErrNotFound) {
		t.Errorf("Consume: got %+v, %v, want ErrNotFound", rec, err)
	}
}

func ignoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStateSaysWhenItWasMade(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	a, b := NewState(at), NewState(at)
	if !Made(a).Equal(at) || !Made(b).Equal(at) {
		t.Errorf("got %v and %v, want %v", Made(a), Made(b), at)
	}
	if a[8:] == b[8:] { // 4 bytes of time are less than 6 of its 32 characters
		t.Errorf("two states are alike: %s, %s", a, b)
	}
	if _, ok := FlowID(a); !ok {
		t.Errorf("%s has not the form of a state", a)
	}
	for _, junk := range []string{"", "AAA", "!"} {
		if got := Made(junk); !got.IsZero() {
			t.Errorf("Made(%q): got %v, want the zero time", junk, got)
		}
	}
}

// The look for expired flows goes on where the last one ended: live ones are not in
// its way.
func TestBoltSweepGoesRound(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "test.db"), 0o600, &bolt.Options{NoSync: true})
	must(t, err)
	defer db.Close()
	db.MaxBatchSize = 0 // nobody else writes
	s, err := NewBolt(db)
	must(t, err)
	now := time.Now()
	s.now = func() time.Time { return now }
	issue := func(n int, ttl time.Duration) {
		for range n {
			key, _, _ := newKey(t)
			must(t, s.Issue(t.Context(), key, Flow{Subscriber: "ada"}, ttl))
		}
	}
	issue(200, time.Hour)
	issue(200, time.Minute)
	now = now.Add(2 * time.Minute)
	issue(100, time.Hour) // which look at 800
	must(t, db.View(func(tx *bolt.Tx) error {
		if n := tx.Bucket(flowBucket).Stats().KeyN; n != 300 {
			t.Errorf("%d flows are kept, want the 300 that live", n)
		}
		return nil
	}))
}
