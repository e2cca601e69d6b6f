package outbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
)

// backend is a Store under test.
type backend struct {
	Store
	flows state.Store
	wait  func(time.Duration) // time passes for the store
	clear func()
}

func backends(t *testing.T, test func(*testing.T, backend)) {
	t.Run("bolt", func(t *testing.T) {
		s, flows := newBolt(t)
		var mu sync.Mutex
		now := time.Now()
		s.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		test(t, backend{
			Store: s, flows: flows,
			wait: func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) },
			clear: func() {
				s.leases = map[string]lease{}
				must(t, s.db.Update(func(tx *bolt.Tx) error {
					for _, name := range [][]byte{entryBucket, dueBucket} {
						if err := tx.DeleteBucket(name); err != nil {
							return err
						}
						if _, err := tx.CreateBucket(name); err != nil {
							return err
						}
					}
					return nil
				}))
			},
		})
	})
	t.Run("miniredis", func(t *testing.T) {
		m := miniredis.RunT(t)
		now := time.Now()
		m.SetTime(now)
		client := redis.NewClient(&redis.Options{Addr: m.Addr()})
		t.Cleanup(func() { client.Close() })
		flows := state.NewRedis(client)
		test(t, backend{
			Store: NewRedis(client, flows), flows: flows,
			wait:  func(d time.Duration) { now = now.Add(d); m.SetTime(now); m.FastForward(d) },
			clear: m.FlushAll,
		})
	})
	onServer := func(t *testing.T, client redis.UniversalClient) {
		flows, ctx := state.NewRedis(client), context.Background()
		test(t, backend{
			Store: NewRedis(client, flows), flows: flows,
			// Real time cannot be moved; what the server remembers of it can.
			wait: func(d time.Duration) {
				for _, z := range client.ZRangeWithScores(ctx, keys[0], 0, -1).Val() {
					client.ZAdd(ctx, keys[0], redis.Z{Score: z.Score - float64(d.Milliseconds()), Member: z.Member})
				}
				for subscriber, lease := range client.HGetAll(ctx, keys[2]).Val() {
					until, owner, _ := strings.Cut(lease, " ")
					ms, _ := strconv.ParseInt(until, 10, 64)
					client.HSet(ctx, keys[2], subscriber, fmt.Sprintf("%d %s", ms-d.Milliseconds(), owner))
				}
			},
			clear: func() { must(t, client.FlushAll(ctx).Err()) },
		})
	}
	t.Run("redis-server", func(t *testing.T) { onServer(t, redistest.Start(t).Client()) })
	t.Run("redis cluster", func(t *testing.T) { onServer(t, redistest.Cluster(t)) })
}

func newBolt(t testing.TB) (*Bolt, *state.Bolt) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "test.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.MaxBatchDelay = time.Millisecond
	flows, err := state.NewBolt(db)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewBolt(db, flows)
	if err != nil {
		t.Fatal(err)
	}
	return s, flows
}

var (
	ada  = Destination{"env1", "slack-main", "user+1@example.com/ä #?", ""}
	ada2 = Destination{"env1", "slack-eu", "user+1@example.com/ä #?", "0123456789abcdef"} // the same subscriber
	bob  = Destination{"", "", "bob", ""}
)

func newEntry(d Destination) Entry {
	id := state.NewHalf()
	return Entry{Destination: d, ID: id, owner: id, Recorded: time.UnixMilli(1_800_000_000_000), sealed: []byte("sealed\x00" + id)}
}

// TestStore is the conformance table: the same promises for every backend.
func TestStore(t *testing.T) {
	ctx := context.Background()
	const life = 30 * time.Second
	cases := []struct {
		name string
		test func(*testing.T, backend)
	}{
		{"an empty outbox has nothing", func(t *testing.T, b backend) {
			wantNothing(t, b, -1)
			if dropped, err := b.Drop(ctx, ada, time.Now()); dropped || err != nil {
				t.Errorf("Drop: got %t, %v, want nothing", dropped, err)
			}
			must(t, b.Release(ctx, newEntry(ada), Then{Done: true}, nil))
			wantList(t, b)
		}},
		{"a recorded entry is leased, and erased when done", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			wantList(t, b, e)
			wantNothing(t, b, life)
			must(t, b.Release(ctx, e, Then{Done: true}, nil))
			wantList(t, b)
			wantNothing(t, b, -1)
			wantRecord(t, b, newEntry(ada), true) // and the lease has ended
		}},
		{"an entry that failed comes back when it is due, as it was left", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			e.Attempts, e.LastError = 3, "novu: save credentials: unavailable (HTTP 503)"
			must(t, b.Release(ctx, e, Then{Retry: time.Minute}, nil))
			wantNothing(t, b, time.Minute)
			b.wait(time.Minute + time.Millisecond)
			wantClaim(t, b, e)
			wantNothing(t, b, life)
		}},
		{"a sender that dies loses its lease", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			b.wait(life + time.Millisecond)
			wantClaim(t, b, e)
			b.wait(life + time.Millisecond)
			wantClaim(t, b, e)
		}},
		{"a newer connection replaces an older one", func(t *testing.T, b backend) {
			older, newer := newEntry(ada), newEntry(ada)
			wantRecord(t, b, older, true)
			must(t, b.Release(ctx, older, Then{Retry: time.Hour}, nil))
			wantRecord(t, b, newer, true)
			wantList(t, b, newer)
		}},
		{"one sender a destination: a newer one waits, survives the older one's end, and is due at once", func(t *testing.T, b backend) {
			older, newer := newEntry(ada), newEntry(ada)
			wantRecord(t, b, older, true)
			wantRecord(t, b, newer, false)
			wantList(t, b, newer)
			wantNothing(t, b, life)
			must(t, b.Release(ctx, older, Then{Done: true}, nil))
			wantList(t, b, newer)
			wantClaim(t, b, newer)
		}},
		{"an older one's failure does not bring it back", func(t *testing.T, b backend) {
			older, newer := newEntry(ada), newEntry(ada)
			wantRecord(t, b, older, true)
			wantRecord(t, b, newer, false)
			must(t, b.Release(ctx, older, Then{Retry: time.Hour}, nil))
			wantList(t, b, newer)
			wantClaim(t, b, newer)
		}},
		{"one sender a subscriber, whatever the integration", func(t *testing.T, b backend) {
			one, two := newEntry(ada), newEntry(ada2)
			wantRecord(t, b, one, true)
			wantRecord(t, b, two, false)
			wantNothing(t, b, life)
			must(t, b.Release(ctx, one, Then{Done: true}, nil))
			b.wait(life + time.Millisecond) // it was looked at, and put off for as long as the lease could last
			wantClaim(t, b, two)
		}},
		{"a subscriber that is busy holds up nobody else", func(t *testing.T, b backend) {
			wantRecord(t, b, newEntry(ada), true)
			for i := range 30 { // more than one look takes in
				wantRecord(t, b, newEntry(Destination{"", fmt.Sprint(i), ada.Subscriber, ""}), false)
			}
			other := newEntry(bob)
			wantRecord(t, b, other, true)
			must(t, b.Release(ctx, other, Then{}, nil))
			var e *Entry
			for range 3 {
				if e == nil {
					e, _, _ = b.Claim(ctx, life)
				}
			}
			if e == nil || e.ID != other.ID {
				t.Errorf("got %v, want bob's", e)
			}
		}},
		{"the longest due entry comes first", func(t *testing.T, b backend) {
			first, second := newEntry(ada), newEntry(bob)
			wantRecord(t, b, second, true)
			must(t, b.Release(ctx, second, Then{Retry: 2 * time.Second}, nil))
			wantRecord(t, b, first, true)
			must(t, b.Release(ctx, first, Then{Retry: time.Second}, nil))
			b.wait(3 * time.Second)
			wantClaim(t, b, first)
			wantClaim(t, b, second)
		}},
		{"an attempt that may still go on holds its subscriber", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			must(t, b.Release(ctx, e, Then{Retry: time.Second, Hold: time.Minute}, nil))
			b.wait(2 * time.Second)
			wantNothing(t, b, 58*time.Second)
			wantRecord(t, b, newEntry(ada2), false)
			b.wait(time.Minute)
			if got, _, err := b.Claim(ctx, life); got == nil || err != nil {
				t.Errorf("got %v, %v, want one of the two", got, err)
			}
		}},
		{"a lease that was lost is not ended by its old owner", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			b.wait(life + time.Millisecond)
			claimed, _, err := b.Claim(ctx, life)
			must(t, err)
			must(t, b.Release(ctx, e, Then{Retry: time.Millisecond}, nil)) // late
			must(t, b.Release(ctx, e, Then{Retry: time.Millisecond, Hold: time.Hour}, nil))
			b.wait(10 * time.Millisecond)
			wantNothing(t, b, life-10*time.Millisecond)
			must(t, b.Release(ctx, *claimed, Then{Done: true}, nil))
			wantList(t, b)
		}},
		{"waking makes everything due but what may be being sent", func(t *testing.T, b backend) {
			for i := range 600 {
				e := newEntry(Destination{"", "", fmt.Sprintf("s%04d", i), ""})
				wantRecord(t, b, e, true)
				must(t, b.Release(ctx, e, Then{Retry: time.Hour}, nil))
			}
			wantRecord(t, b, newEntry(ada), true)
			wantNothing(t, b, life)
			for more := true; more; {
				var err error
				more, err = b.Wake(ctx)
				must(t, err)
			}
			seen := map[string]bool{}
			for {
				e, _, err := b.Claim(ctx, life)
				must(t, err)
				if e == nil {
					break
				}
				seen[e.Destination.Subscriber] = true
			}
			if len(seen) != 600 {
				t.Errorf("got %d due, want 600", len(seen))
			}
		}},
		{"of parallel claims each entry goes to one", func(t *testing.T, b backend) {
			for i := range 20 {
				e := newEntry(Destination{"", "", fmt.Sprint(i), ""})
				wantRecord(t, b, e, true)
				must(t, b.Release(ctx, e, Then{}, nil))
			}
			b.wait(time.Millisecond)
			var mu sync.Mutex
			claimed := map[string]int{}
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					e, _, err := b.Claim(ctx, life)
					if err != nil {
						t.Error(err)
					}
					if e != nil {
						mu.Lock()
						claimed[e.ID]++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			for id, n := range claimed {
				if n != 1 {
					t.Errorf("entry %s went to %d", id, n)
				}
			}
			if len(claimed) != 20 {
				t.Errorf("got %d entries, want 20", len(claimed))
			}
		}},
		{"of parallel records one is leased, and the last one stays", func(t *testing.T, b backend) {
			var mu sync.Mutex
			leased := 0
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					ok, err := b.Record(ctx, newEntry(ada), life)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					if ok {
						leased++
					}
				})
			}
			wg.Wait()
			if leased != 1 {
				t.Errorf("got %d leases, want 1", leased)
			}
			n := 0
			must(t, b.List(ctx, func(Entry) error { n++; return nil }))
			if n != 1 {
				t.Errorf("got %d entries, want 1", n)
			}
		}},
		{"a release finishes the flow", func(t *testing.T, b backend) {
			id, _ := state.FlowID(state.NewHalf())
			key, _ := state.NewKey(id, state.NewHalf())
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			ending := state.Ending{Key: key, Flow: state.Flow{Subscriber: "ada"}, Result: state.Result{Code: state.Pending, Channel: "#alerts"}, TTL: time.Hour}
			must(t, b.Release(ctx, e, Then{Retry: time.Hour}, &ending))
			ending.Result.Code = state.Connected
			must(t, b.Release(ctx, e, Then{Done: true}, &ending))
			record, err := b.flows.Look(ctx, key)
			must(t, err)
			if record.Phase != state.Finished || record.Result != ending.Result || record.Flow != ending.Flow {
				t.Errorf("got %+v, want finished with %+v", record, ending.Result)
			}
		}},
		{"a dropped entry is gone", func(t *testing.T, b backend) {
			e := newEntry(ada)
			wantRecord(t, b, e, true)
			if dropped, err := b.Drop(ctx, ada, e.Recorded.Add(-time.Millisecond)); dropped || err != nil {
				t.Errorf("Drop of what was recorded before it: got %t, %v, want false", dropped, err)
			}
			wantList(t, b, e)
			if dropped, err := b.Drop(ctx, ada, e.Recorded); !dropped || err != nil {
				t.Errorf("Drop: got %t, %v, want true", dropped, err)
			}
			must(t, b.Release(ctx, e, Then{Retry: time.Second}, nil)) // its sender does not bring it back
			wantList(t, b)
			wantNothing(t, b, -1)
		}},
		{"listing stops at the first error", func(t *testing.T, b backend) {
			wantRecord(t, b, newEntry(ada), true)
			stop := errors.New("stop")
			if err := b.List(ctx, func(Entry) error { return stop }); !errors.Is(err, stop) {
				t.Errorf("got %v, want the error", err)
			}
		}},
		{"a cancelled context is an error", func(t *testing.T, b backend) {
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := b.Record(gone, newEntry(ada), life); err == nil {
				t.Error("Record: got nil, want an error")
			}
			if _, _, err := b.Claim(gone, life); err == nil {
				t.Error("Claim: got nil, want an error")
			}
		}},
	}
	backends(t, func(t *testing.T, b backend) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { b.clear(); c.test(t, b) })
		}
	})
}

func wantRecord(t *testing.T, b backend, e Entry, want bool) {
	t.Helper()
	if got, err := b.Record(context.Background(), e, 30*time.Second); got != want || err != nil {
		t.Errorf("Record: got %t, %v, want %t", got, err, want)
	}
}

func wantClaim(t *testing.T, b backend, want Entry) {
	t.Helper()
	got, _, err := b.Claim(context.Background(), 30*time.Second)
	must(t, err)
	if got == nil || !same(*got, want) || got.owner == "" {
		t.Errorf("Claim: got %+v, want %+v", got, want)
	}
}

// wantNothing checks that nothing is due, and when the next is: about next,
// negative for never.
func wantNothing(t *testing.T, b backend, next time.Duration) {
	t.Helper()
	e, got, err := b.Claim(context.Background(), 30*time.Second)
	must(t, err)
	if e != nil {
		t.Errorf("Claim: got %+v, want nothing", e)
	}
	if (got < 0) != (next < 0) || got > next+time.Second || got < next-5*time.Second {
		t.Errorf("Claim: got next in %v, want %v", got, next)
	}
}

func wantList(t *testing.T, b backend, want ...Entry) {
	t.Helper()
	var got []Entry
	must(t, b.List(context.Background(), func(e Entry) error { got = append(got, e); return nil }))
	if len(got) != len(want) {
		t.Errorf("List: got %+v, want %d entries", got, len(want))
		return
	}
	for i := range want {
		if !same(got[i], want[i]) {
			t.Errorf("List: got %+v, want %+v", got[i], want[i])
		}
	}
}

func same(a, b Entry) bool {
	return a.Destination == b.Destination && a.ID == b.ID && a.Recorded.Equal(b.Recorded) && a.Attempts == b.Attempts && a.LastError == b.LastError && string(a.sealed) == string(b.sealed)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDestinationsSurviveTheirText(t *testing.T) {
	for _, d := range []Destination{ada, ada2, bob, {"a/b", "%", "../x", ""}, {"", "", "ada", "1f"}, {"", "", "日本", ""}, {"", "", "//", "/"}} {
		got, err := ParseDestination(d.String())
		if err != nil || got != d {
			t.Errorf("%q: got %+v, %v, want %+v", d, got, err, d)
		}
	}
	for _, bad := range []string{"", "a", "a/b", "a/b/", "a/b/c/d/e", "a/b/c/", "a/b//d", "//%zz"} {
		if _, err := ParseDestination(bad); err == nil {
			t.Errorf("%q: got nil, want an error", bad)
		}
	}
}

// The clock of the embedded store steps, and claims come within a millisecond of
// a lease's end: no claim goes round in circles.
func TestBoltClaimsEndWhateverTheClockDoes(t *testing.T) {
	s, _ := newBolt(t)
	base := time.Now().Truncate(time.Millisecond)
	s.now = func() time.Time { return base.Add(900 * time.Microsecond) }
	ctx := context.Background()
	_, err := s.Record(ctx, newEntry(ada), time.Second)
	must(t, err)
	_, err = s.Record(ctx, newEntry(ada2), time.Second)
	must(t, err)
	for _, step := range []time.Duration{time.Second, time.Second + 500*time.Microsecond, time.Hour, -time.Hour} {
		s.now = func() time.Time { return base.Add(step) }
		done := make(chan error, 1)
		go func() { _, _, err := s.Claim(ctx, time.Second); done <- err }()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("a claim %v later does not end", step)
		}
	}
}

// An entry that cannot be read is told of, kept, and in nobody's way.
func TestMalformedEntryHoldsUpNoOther(t *testing.T) {
	s, _ := newBolt(t)
	ctx := context.Background()
	must(t, s.db.Update(func(tx *bolt.Tx) error { return put(tx, "//bad", "short", time.UnixMilli(1)) }))
	good := newEntry(bob)
	_, err := s.Record(ctx, good, time.Second)
	must(t, err)
	must(t, s.Release(ctx, good, Then{}, nil))
	if _, _, err := s.Claim(ctx, time.Second); err == nil {
		t.Error("the malformed entry is not told of")
	}
	wantClaim(t, backend{Store: s}, good)
	if dropped, err := s.Drop(ctx, Destination{"", "", "bad", ""}, time.Now()); !dropped || err != nil {
		t.Errorf("Drop: got %t, %v, want it gone", dropped, err)
	}
}

// A full Redis still lets go.
func TestFullRedisStillLetsGo(t *testing.T) {
	client := redistest.Start(t).Client()
	ctx := context.Background()
	s := NewRedis(client, state.NewRedis(client))
	e := newEntry(ada)
	_, err := s.Record(ctx, e, time.Minute)
	must(t, err)
	must(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	if err := s.Release(ctx, e, Then{Done: true}, &state.Ending{Key: "key", TTL: time.Minute}); err == nil {
		t.Error("the flow is not finished, and nobody is told")
	}
	wantList(t, backend{Store: s}) // what was delivered is erased all the same
	must(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
	_, err = s.Record(ctx, e, time.Minute)
	must(t, err)
	must(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	if dropped, err := s.Drop(ctx, ada, e.Recorded); !dropped || err != nil {
		t.Errorf("got %t, %v, want it gone", dropped, err)
	}
}

// A sender that died leaves its lease behind, with the subscriber's ID: dropping the
// entry takes it along.
func TestDropTakesADeadLeaseAlong(t *testing.T) {
	client, ctx := redistest.Start(t).Client(), context.Background()
	s := NewRedis(client, state.NewRedis(client))
	leases := func() int64 { return client.HLen(ctx, keys[2]).Val() }
	for _, life := range []time.Duration{time.Millisecond, time.Hour} {
		if leased, err := s.Record(ctx, newEntry(ada), life); err != nil || !leased {
			t.Fatal(leased, err)
		}
		time.Sleep(5 * time.Millisecond) // the first life is over
		if dropped, err := s.Drop(ctx, ada, time.Now().Add(time.Hour*1e5)); err != nil || !dropped {
			t.Fatal(dropped, err)
		}
		if want := map[bool]int64{true: 1}[life == time.Hour]; leases() != want {
			t.Errorf("a lease of %v: got %d leases left, want %d", life, leases(), want)
		}
	}
}

// A Redis that lets nobody in any more, as after a change of the password, has
// released nothing. go-redis gives that error to the pipeline and to none of its
// commands.
func TestReleaseFailsWhenRedisRefusesTheConnection(t *testing.T) {
	m := miniredis.RunT(t)
	client, ctx := redis.NewClient(&redis.Options{Addr: m.Addr(), Password: "old"}), context.Background()
	t.Cleanup(func() { client.Close() })
	flows := state.NewRedis(client)
	m.RequireAuth("new")
	for name, ending := range map[string]*state.Ending{"alone": nil, "with the flow": {Key: "key", TTL: time.Minute}} {
		if err := NewRedis(client, flows).Release(ctx, newEntry(ada), Then{Done: true}, ending); err == nil {
			t.Errorf("%s: got no error, and nothing was released", name)
		}
	}
}

// Redis restarted without its scripts still takes a release.
func TestReleaseAfterRedisForgotItsScripts(t *testing.T) {
	client := redistest.Start(t).Client()
	flows, ctx := state.NewRedis(client), context.Background()
	s := NewRedis(client, flows)
	e := newEntry(ada)
	_, err := s.Record(ctx, e, time.Minute)
	must(t, err)
	must(t, client.ScriptFlush(ctx).Err())
	ending := state.Ending{Key: "key", TTL: time.Minute, Result: state.Result{Code: state.Connected}}
	must(t, s.Release(ctx, e, Then{Done: true}, &ending))
	if record, err := flows.Look(ctx, "key"); err != nil || record.Phase != state.Finished {
		t.Errorf("got %+v, %v, want finished", record, err)
	}
	wantList(t, backend{Store: s})
}
