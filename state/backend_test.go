package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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

// testBackend is a Backend under test, with what its test needs to see and to move.
type testBackend struct {
	Backend
	other Backend                      // of another deployment, in the same place
	wait  func(time.Duration)          // time passes for the backend, or steps back
	write func(key Key, record string) // puts a record there and makes it due, whatever it is
	index func(key Key)                // makes a key due that has no record
	dump  func() string                // everything that is kept, keys and values
}

const (
	testDeployment  = Deployment("AAAABBBBCCCC")
	otherDeployment = Deployment("DDDDEEEEFFFF")
)

// eachBackend runs test on every backend, empty. Those on a server share it.
func eachBackend(t *testing.T, test func(*testing.T, testBackend)) {
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		test(t, newTestBolt(t))
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newTestMiniredis(t))
	})
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		test(t, newTestRedis(redistest.Start(t).Client()))
	})
	t.Run("redis cluster", func(t *testing.T) {
		t.Parallel()
		test(t, newTestRedis(redistest.Cluster(t)))
	})
}

func newTestBolt(t *testing.T) testBackend {
	path := filepath.Join(t.TempDir(), "test.db")
	s, err := OpenBolt(path, testDeployment)
	must(t, err)
	t.Cleanup(func() {
		wantPlaces(t, s)
		s.Close()
	})
	s.db.NoSync = true
	must(t, s.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte(otherDeployment))
		return err
	}))
	var mu sync.Mutex
	now := time.Now()
	s.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	return testBackend{
		Backend: s,
		other:   &Bolt{Now: s.Now, db: s.db, tag: otherDeployment, swept: map[string]string{}},
		wait:    func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) },
		write: func(key Key, record string) {
			inBolt(t, s, func(t *boltTx) {
				t.set(flowName(key), []byte(record), 0)
				t.add(Deliveries, t.now, key)
			})
		},
		index: func(key Key) {
			inBolt(t, s, func(t *boltTx) { t.add(Deliveries, t.now, key) })
		},
		dump: func() string {
			raw, err := os.ReadFile(path)
			must(t, err)
			return string(raw)
		},
	}
}

// wantPlaces checks that each member of a sorted set has its score, and each score its
// member.
func wantPlaces(t *testing.T, s *Bolt) {
	t.Helper()
	inBolt(t, s, func(tx *boltTx) {
		members, scores := 0, 0
		must(t, tx.ForEach(func(name, _ []byte) error {
			kind, rest, _ := strings.Cut(string(name), ":")
			switch {
			case kind == "flow" && strings.Contains(rest, "/"):
				scores++
			case kind != "flow" && strings.Contains(string(name), "/"):
				members++
			}
			return nil
		}))
		for _, q := range Queues {
			for score, key := range tx.from(q, 0) {
				if got, found := tx.score(q, key); got != score || !found {
					t.Errorf("%s: %s has the score %d, want %d", q, key, got, score)
				}
			}
		}
		if members != scores {
			t.Errorf("the sorted sets have %d members and %d scores", members, scores)
		}
	})
}

// inBolt runs fn in a transaction.
func inBolt(t *testing.T, s *Bolt, fn func(*boltTx)) {
	t.Helper()
	_, err := update(context.Background(), s, func(tx *boltTx) (any, error) { fn(tx); return nil, nil })
	must(t, err)
}

func newTestMiniredis(t *testing.T) testBackend {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { client.Close() })
	b := newTestRedis(client)
	b.wait = func(d time.Duration) {
		now = now.Add(d)
		m.SetTime(now)
		if d > 0 {
			m.FastForward(d)
		}
	}
	return b
}

func newTestRedis(client redis.UniversalClient) testBackend {
	ctx := context.Background()
	s := NewRedis(client, "nsr", testDeployment)
	other := NewRedis(client, "nsr", otherDeployment)
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	return testBackend{
		Backend: s, other: other,
		// Real time cannot be moved; everything that the server remembers of it can.
		wait: func(d time.Duration) {
			for _, key := range client.Keys(ctx, "*").Val() {
				switch name := strings.TrimPrefix(key, s.keys); {
				case name == string(Deliveries), name == string(Events):
					for _, z := range client.ZRangeWithScores(ctx, key, 0, -1).Val() {
						check(client.ZAdd(ctx, key, redis.Z{Member: z.Member, Score: z.Score - float64(d.Milliseconds())}).Err())
					}
				case name == "gate":
					var g gate
					fmt.Sscanf(client.Get(ctx, key).Val(), gateEncoding, &g.opens, &g.next, &g.passed, &g.allowed, &g.before, &g.window)
					g.opens, g.next = g.opens-d.Milliseconds(), max(0, g.next-d.Milliseconds())
					check(client.Set(ctx, key, g.encode(), redis.KeepTTL).Err())
				case strings.HasPrefix(name, "lease:"):
					ends, rest, _ := strings.Cut(client.Get(ctx, key).Val(), " ")
					ms, err := strconv.ParseInt(ends, 10, 64)
					check(err)
					check(client.Set(ctx, key, fmt.Sprint(ms-d.Milliseconds(), " ", rest), redis.KeepTTL).Err())
				case strings.HasPrefix(name, "flow:"):
					if row, err := decode("", []byte(client.Get(ctx, key).Val())); err == nil && !row.Consumed.IsZero() {
						row.Consumed = row.Consumed.Add(-d)
						check(client.Set(ctx, key, row.encode(), redis.KeepTTL).Err())
					}
				}
				if left := client.PTTL(ctx, key).Val(); left >= 0 {
					check(client.PExpire(ctx, key, left-d).Err())
				}
			}
		},
		write: func(key Key, record string) {
			check(client.Set(ctx, s.flowKey(key), record, 0).Err())
			check(client.ZAdd(ctx, s.queueKey(Deliveries), redis.Z{Member: string(key), Score: float64(time.Now().Add(-time.Minute).UnixMilli())}).Err())
		},
		index: func(key Key) {
			check(client.ZAdd(ctx, s.queueKey(Deliveries), redis.Z{Member: string(key), Score: float64(time.Now().Add(-time.Minute).UnixMilli())}).Err())
		},
		dump: func() string {
			var all strings.Builder
			for _, key := range slices.Sorted(slices.Values(client.Keys(ctx, "*").Val())) {
				fmt.Fprintln(&all, key, client.Get(ctx, key).Val(), client.ZRangeWithScores(ctx, key, 0, -1).Val())
			}
			return all.String()
		},
	}
}

// The helpers that follow make one step each, and stop the test if it fails.

func (b testBackend) issue(t *testing.T) Key {
	t.Helper()
	key := newKey(t)
	must(t, b.Issue(t.Context(), key, []byte("request\x00\n"), time.Hour))
	return key
}

// consume issues and consumes a row.
func (b testBackend) consume(t *testing.T) (key Key, owner string) {
	t.Helper()
	key, owner = b.issue(t), NewOwner()
	row, err := b.Consume(t.Context(), key, owner, []byte("code\xff"), 30*time.Second, 0)
	must(t, err)
	if row.Owner != owner {
		t.Fatalf("got %+v, want it to be the caller's", row)
	}
	return key, owner
}

func recorded(owner, subscriber, destination string) Move {
	return Move{
		Owner: owner, To: Recorded, Content: []byte("webhook"),
		Subscriber: hash("", subscriber), Destination: hash("", subscriber+destination), Lease: 30 * time.Second,
	}
}

func finished(m Move) Move {
	m.To, m.Lease, m.Keep, m.Content = Finished, 0, time.Hour, []byte("result")
	return m
}

// saved makes a row's event due after a pause.
func saved(m Move, due time.Duration) Move {
	m.To, m.Lease, m.Keep, m.Due, m.Content = Saved, 0, 0, due, []byte("result")
	return m
}

func postponed(m Move, due, hold time.Duration) Move {
	m.Lease, m.Due, m.Hold, m.Attempts = 0, due, hold, m.Attempts+1
	return m
}

func (b testBackend) move(t *testing.T, key Key, m Move, want Step) {
	t.Helper()
	step, err := b.Move(t.Context(), key, m)
	must(t, err)
	if step != want {
		t.Fatalf("move to %c: got step %d, want %d", m.To, step, want)
	}
}

// record consumes and records a row.
func (b testBackend) record(t *testing.T, subscriber, destination string, want Step) (Key, Move) {
	t.Helper()
	key, owner := b.consume(t)
	m := recorded(owner, subscriber, destination)
	b.move(t, key, m, want)
	return key, m
}

func (b testBackend) wantPhase(t *testing.T, key Key, want Phase) {
	t.Helper()
	if row, err := b.Look(t.Context(), key); err != nil || row.Phase != want {
		t.Errorf("got phase %c, %v, want %c", row.Phase, err, want)
	}
}

func (b testBackend) wantGone(t *testing.T, key Key) {
	t.Helper()
	if row, err := b.Look(t.Context(), key); !errors.Is(err, ErrNotFound) {
		t.Errorf("Look: got %+v, %v, want ErrNotFound", row, err)
	}
	if row, err := b.Consume(t.Context(), key, NewOwner(), nil, time.Second, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("Consume: got %+v, %v, want ErrNotFound", row, err)
	}
}

// claim claims a row and checks which one it is; no key is that none is due.
func (b testBackend) claim(t *testing.T, want Key) (row Row, owner string, next time.Duration) {
	t.Helper()
	owner = NewOwner()
	key, row, next, err := b.Claim(t.Context(), Deliveries, owner, 30*time.Second)
	must(t, err)
	if key != want {
		t.Fatalf("claim: got key %q (next in %v), want %q", key, next, want)
	}
	return row, owner, next
}

// claimEvent is claim for events.
func (b testBackend) claimEvent(t *testing.T, want Key) (row Row, owner string) {
	t.Helper()
	owner = NewOwner()
	key, row, next, err := b.Claim(t.Context(), Events, owner, 30*time.Second)
	must(t, err)
	if key != want {
		t.Fatalf("claim: got the event of %q (next in %v), want %q", key, next, want)
	}
	return row, owner
}

func (b testBackend) wantNext(t *testing.T, want time.Duration) {
	t.Helper()
	_, _, next := b.claim(t, "")
	if d := next - want; d.Abs() > 5*time.Second && next != want {
		t.Errorf("the next one is due in %v, want %v", next, want)
	}
}

func newKey(t *testing.T) Key {
	t.Helper()
	id, ok := FlowID(NewState(time.Now()))
	key, ok2 := NewKey(id, NewBrowserHalf())
	if !ok || !ok2 {
		t.Fatal("NewHalf and FlowID do not have their own formats")
	}
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackend is the conformance table: the same promises for every backend.
func TestBackend(t *testing.T) {
	ctx := context.Background()
	cases := []struct {
		name string
		test func(*testing.T, testBackend)
	}{
		{"a row goes from phase to phase", func(t *testing.T, b testBackend) {
			key := b.issue(t)
			row, err := b.Look(ctx, key)
			must(t, err)
			if got, want := fmt.Sprintf("%+v", row), fmt.Sprintf("%+v", Row{Phase: Issued, Request: []byte("request\x00\n"), Content: []byte{}}); got != want {
				t.Errorf("issued: got %s, want %s", got, want)
			}
			owner := NewOwner()
			row, err = b.Consume(ctx, key, owner, []byte("code\xff"), 30*time.Second, 0)
			must(t, err)
			if row.Phase != Working || row.Number < 1 || row.Consumed.IsZero() || row.Owner != owner || string(row.Request) != "request\x00\n" || string(row.Content) != "code\xff" {
				t.Errorf("consumed: got %+v", row)
			}
			m := recorded(owner, "ada", "")
			m.Attempts = 2
			b.move(t, key, m, Moved)
			row, err = b.Look(ctx, key)
			must(t, err)
			if row.Phase != Recorded || string(row.Content) != "webhook" || row.Attempts != 2 || row.Subscriber != m.Subscriber || row.Destination != m.Destination || string(row.Request) != "request\x00\n" {
				t.Errorf("recorded: got %+v", row)
			}
			b.move(t, key, finished(m), Moved)
			row, err = b.Look(ctx, key)
			must(t, err)
			if row.Phase != Finished || string(row.Content) != "result" || string(row.Request) != "request\x00\n" {
				t.Errorf("finished: got %+v", row)
			}
			if n, err := b.Count(ctx, Deliveries); n != 0 || err != nil {
				t.Errorf("got %d, %v that wait, want none", n, err)
			}
		}},
		{"an unknown key is not found, and cannot be moved", func(t *testing.T, b testBackend) {
			key := newKey(t)
			b.wantGone(t, key)
			b.move(t, key, recorded(NewOwner(), "ada", ""), Lost)
			must(t, b.Drop(ctx, key))
		}},
		{"an existing row is not issued again", func(t *testing.T, b testBackend) {
			key := b.issue(t)
			must(t, b.Issue(ctx, key, []byte("another"), time.Hour))
			if row, _ := b.Look(ctx, key); string(row.Request) != "request\x00\n" {
				t.Errorf("got %q", row.Request)
			}
			_, err := b.Consume(ctx, key, NewOwner(), nil, time.Second, 0)
			must(t, err)
			must(t, b.Issue(ctx, key, []byte("another"), time.Hour))
			b.wantPhase(t, key, Working)
		}},
		{"of parallel callers exactly one wins", func(t *testing.T, b testBackend) {
			for range 5 {
				key := b.issue(t)
				won := make(chan bool, 40)
				var wg sync.WaitGroup
				for range cap(won) {
					wg.Go(func() {
						owner := NewOwner()
						row, err := b.Consume(ctx, key, owner, nil, time.Minute, 0)
						if err != nil {
							t.Error(err)
						}
						won <- row.Owner == owner
					})
				}
				wg.Wait()
				close(won)
				n := 0
				for w := range won {
					if w {
						n++
					}
				}
				if n != 1 {
					t.Fatalf("%d won, want one", n)
				}
			}
		}},
		{"numbers follow the order of consumption", func(t *testing.T, b testBackend) {
			last := int64(0)
			for range 5 {
				key, _ := b.consume(t)
				row, err := b.Look(ctx, key)
				must(t, err)
				if row.Number <= last {
					t.Errorf("got number %d after %d", row.Number, last)
				}
				last = row.Number
			}
		}},
		{"rows expire, but not with a webhook", func(t *testing.T, b testBackend) {
			issued := b.issue(t)
			working, _ := b.consume(t)
			waiting, _ := b.record(t, "ada", "", Moved)
			done, m := b.record(t, "bob", "", Moved)
			b.move(t, done, finished(m), Moved)
			b.wait(time.Hour + time.Minute)
			for _, key := range []Key{issued, working, done} {
				b.wantGone(t, key)
			}
			b.wait(72 * time.Hour)
			b.wantPhase(t, waiting, Recorded)
		}},
		{"consuming gives a row time", func(t *testing.T, b testBackend) {
			key := newKey(t)
			must(t, b.Issue(ctx, key, nil, time.Minute))
			b.wait(50 * time.Second)
			_, err := b.Consume(ctx, key, NewOwner(), nil, 30*time.Second, 0)
			must(t, err)
			b.wait(50 * time.Second)
			b.wantPhase(t, key, Working)
		}},

		// Order.
		{"a newer row replaces an older one that waits, in the same step", func(t *testing.T, b testBackend) {
			older, m := b.record(t, "ada", "", Moved)
			b.move(t, older, postponed(m, time.Minute, 0), Moved)
			newer, m2 := b.record(t, "ada", "", Moved)
			b.wantPhase(t, older, replaced)
			if row, err := b.Look(ctx, older); err != nil || len(row.Content) != 0 || string(row.Request) != "request\x00\n" {
				t.Errorf("got %+v, %v, want no content and the request", row, err)
			}
			if n, _ := b.Count(ctx, Deliveries); n != 1 {
				t.Errorf("%d wait, want the newer one", n)
			}
			b.move(t, older, finished(m), Overtaken)
			b.move(t, older, postponed(m, 0, 0), Overtaken)
			b.wantPhase(t, older, replaced)
			b.move(t, newer, finished(m2), Moved)
			b.wait(replacedTTL + time.Minute)
			b.wantGone(t, older)
		}},
		{"an older row that comes late is overtaken", func(t *testing.T, b testBackend) {
			for name, end := range map[string]func(*testing.T, Key, Move){
				"while the newer waits":         func(*testing.T, Key, Move) {},
				"after the newer has finished":  func(t *testing.T, key Key, m Move) { b.move(t, key, finished(m), Moved) },
				"after the newer was postponed": func(t *testing.T, key Key, m Move) { b.move(t, key, postponed(m, time.Minute, 0), Moved) },
			} {
				t.Run(name, func(t *testing.T) {
					older, owner := b.consume(t)
					newer, m := b.record(t, name, "", Moved)
					end(t, newer, m)
					before, err := b.Look(ctx, newer)
					must(t, err)
					b.move(t, older, recorded(owner, name, ""), Overtaken)
					b.wantPhase(t, older, replaced)
					if after, err := b.Look(ctx, newer); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
						t.Errorf("the newer row changed: got %+v, %v, want %+v", after, err, before)
					}
					b.move(t, older, recorded(owner, name, ""), Overtaken) // its answer was lost
				})
			}
		}},
		{"other destinations are left alone", func(t *testing.T, b testBackend) {
			one, _ := b.record(t, "ada", "", Moved)
			two, _ := b.record(t, "ada", "/eu", Waiting)
			three, _ := b.record(t, "bob", "", Moved)
			for _, key := range []Key{one, two, three} {
				b.wantPhase(t, key, Recorded)
			}
		}},
		{"a row whose destination becomes known is ordered by it", func(t *testing.T, b testBackend) {
			older, m := b.record(t, "ada", "?", Moved)
			b.move(t, older, postponed(m, time.Minute, 0), Moved)
			newer, m2 := b.record(t, "ada", "main", Moved)
			b.move(t, newer, finished(m2), Moved)
			b.move(t, older, recorded(m.Owner, "ada", "main"), Overtaken)

			older, m = b.record(t, "bob", "main", Moved)
			b.move(t, older, postponed(m, time.Minute, 0), Moved)
			newer, m2 = b.record(t, "bob", "?", Moved)
			b.move(t, newer, recorded(m2.Owner, "bob", "main"), Moved)
			b.wantPhase(t, older, replaced)
		}},
		{"an old record that is put back does not come after a newer one", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			old, err := b.Look(ctx, key)
			must(t, err)
			b.move(t, key, finished(m), Moved)
			newer, m2 := b.record(t, "ada", "", Moved)
			b.move(t, newer, finished(m2), Moved)
			b.write(key, string(old.encode()))
			b.claim(t, "")
			b.wantPhase(t, key, replaced)
		}},

		// Leases.
		{"a subscriber has one sender at a time", func(t *testing.T, b testBackend) {
			first, m := b.record(t, "ada", "", Moved)
			second, m2 := b.record(t, "ada", "/eu", Waiting)
			b.wantNext(t, 30*time.Second)
			b.move(t, first, finished(m), Moved)
			row, owner, _ := b.claim(t, second) // not only when the lease would have ended
			if row.Owner != owner {
				t.Errorf("got %+v, want it to be the claimer's", row)
			}
			b.move(t, second, finished(m2), Lost)
		}},
		{"waiting rows are due when the sender is done, or dies", func(t *testing.T, b testBackend) {
			first, m := b.record(t, "ada", "", Moved)
			second, _ := b.record(t, "ada", "/eu", Waiting)
			third, _ := b.record(t, "ada", "/us", Waiting)
			b.move(t, first, postponed(m, 5*time.Minute, 0), Moved)
			owner := NewOwner()
			one, row, _, err := b.Claim(ctx, Deliveries, owner, 30*time.Second)
			must(t, err)
			other := map[Key]Key{second: third, third: second}[one]
			if other == "" {
				t.Fatalf("got %q, want the second or the third", one)
			}
			b.claim(t, "") // the other waits for it
			b.move(t, one, Move{
				Owner: owner, To: Recorded, Content: []byte("webhook"), Subscriber: row.Subscriber, Destination: row.Destination, Due: 5 * time.Minute,
			}, Moved)
			b.claim(t, other)
			b.wait(31 * time.Second) // it dies
			b.claim(t, other)
		}},
		{"a lease that is held keeps everyone away", func(t *testing.T, b testBackend) {
			first, m := b.record(t, "ada", "", Moved)
			b.wait(20 * time.Second)
			b.move(t, first, postponed(m, 0, 30*time.Second), Moved)
			newer, _ := b.record(t, "ada", "", Waiting)
			b.wantNext(t, 30*time.Second)
			b.wait(29 * time.Second)
			b.claim(t, "")
			b.wait(2 * time.Second)
			b.claim(t, newer)
		}},
		{"who has another row's lease does not end it", func(t *testing.T, b testBackend) {
			first, m := b.record(t, "ada", "", Moved)
			second, m2 := b.record(t, "ada", "/eu", Waiting)
			b.move(t, second, postponed(m2, 0, 0), Moved)
			b.claim(t, "")
			b.move(t, first, finished(m), Moved)
			b.claim(t, second)
		}},
		{"an overtaken sender ends its lease, and the newer row is due", func(t *testing.T, b testBackend) {
			older, m := b.record(t, "ada", "", Moved)
			newer, _ := b.record(t, "ada", "", Waiting)
			b.move(t, older, finished(m), Overtaken)
			b.claim(t, newer)
		}},

		// The worker.
		{"what a dead instance left behind is taken over", func(t *testing.T, b testBackend) {
			working, owner := b.consume(t)
			b.wantNext(t, 30*time.Second)
			b.wait(31 * time.Second)
			row, claimer, _ := b.claim(t, working)
			if row.Phase != Working || string(row.Content) != "code\xff" || row.Owner != claimer || row.Age < 30*time.Second || row.Age > time.Minute {
				t.Errorf("got %+v", row)
			}
			b.move(t, working, recorded(owner, "ada", ""), Lost)
			b.wantPhase(t, working, Working)
			b.move(t, working, recorded(claimer, "ada", ""), Moved)
			b.claim(t, "")
			b.wait(31 * time.Second)
			row, claimer, _ = b.claim(t, working)
			if row.Phase != Recorded || string(row.Content) != "webhook" || row.Owner != claimer {
				t.Errorf("got %+v", row)
			}
		}},
		{"the longest due is claimed first", func(t *testing.T, b testBackend) {
			one, m := b.record(t, "ada", "", Moved)
			two, m2 := b.record(t, "bob", "", Moved)
			b.move(t, one, postponed(m, 20*time.Second, 0), Moved)
			b.move(t, two, postponed(m2, 10*time.Second, 0), Moved)
			b.wantNext(t, 10*time.Second)
			b.wait(25 * time.Second)
			if row, _, _ := b.claim(t, two); row.Attempts != 1 {
				t.Errorf("got %d attempts, want 1", row.Attempts)
			}
			b.claim(t, one)
			b.claim(t, "")
		}},
		{"a code is kept for later", func(t *testing.T, b testBackend) {
			key, owner := b.consume(t)
			m := Move{Owner: owner, To: Working, Attempts: 1, Content: []byte("code again"), Due: time.Minute, Keep: time.Hour}
			b.move(t, key, m, Moved)
			b.wantNext(t, time.Minute)
			b.wait(61 * time.Second)
			if row, _, _ := b.claim(t, key); row.Phase != Working || string(row.Content) != "code again" || row.Attempts != 1 {
				t.Errorf("got %+v", row)
			}
		}},
		{"waking makes due what waits, and leaves what is worked on", func(t *testing.T, b testBackend) {
			later, m := b.record(t, "ada", "", Moved)
			b.move(t, later, postponed(m, time.Hour, 0), Moved)
			b.record(t, "bob", "", Moved) // is being sent
			more, err := b.Wake(ctx, Deliveries)
			must(t, err)
			if more {
				t.Error("there are no more")
			}
			b.claim(t, later)
			b.claim(t, "")
		}},
		{"without any row nothing is due", func(t *testing.T, b testBackend) {
			if _, _, next := b.claim(t, ""); next >= 0 {
				t.Errorf("got %v, want a negative wait", next)
			}
		}},

		// Clocks.
		{"a clock that steps back an hour", func(t *testing.T, b testBackend) {
			older, m := b.record(t, "ada", "", Moved)
			b.move(t, older, postponed(m, 30*time.Minute, 0), Moved)
			sending, m2 := b.record(t, "bob", "", Moved)
			b.wait(-time.Hour)
			newer, m3 := b.record(t, "ada", "", Moved)
			b.wantPhase(t, older, replaced) // order holds
			b.move(t, newer, postponed(m3, time.Hour, 0), Moved)
			eu, _ := b.record(t, "bob", "/eu", Waiting) // leases hold
			b.wait(maxLease + time.Second)
			b.claim(t, eu) // and end
			b.wait(maxLease + time.Second)
			b.claim(t, eu)
			b.move(t, sending, finished(m2), Moved)
			b.wait(time.Hour)
			b.claim(t, eu)
			b.claim(t, newer)
		}},
		{"a lease ends soon after the clock stepped back, also for a row that waits already", func(t *testing.T, b testBackend) {
			sending, _ := b.record(t, "ada", "", Moved)
			waiting, _ := b.record(t, "ada", "/eu", Waiting)
			must(t, b.Drop(ctx, sending))
			b.wait(-time.Hour)
			_, err := b.Wake(ctx, Deliveries)
			must(t, err)
			b.claim(t, "")
			b.wait(maxLease + time.Second)
			b.claim(t, waiting)
		}},
		{"a clock that steps back a day puts nothing off by more than the longest pause", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			b.move(t, key, postponed(m, time.Hour, 0), Moved)
			b.wait(-24 * time.Hour)
			if _, _, next := b.claim(t, key); next > maxDue {
				t.Errorf("due in %v", next)
			}
		}},

		// Damage.
		{"a malformed record is named, and holds up nothing else", func(t *testing.T, b testBackend) {
			var bad []Key
			for _, record := range []string{"", "x", "r 1 2", "r one 2 0 a b c 0\n", "r 1 2 0 a b c 99999\nshort", "q 1 2 0 a b c 0\n", "r 99999999999999999999 2 0 a b c 0\n", strings.Repeat("r", 5000)} {
				key := newKey(t)
				b.write(key, record)
				bad = append(bad, key)
			}
			good, m := b.record(t, "ada", "", Moved)
			b.move(t, good, postponed(m, 0, 0), Moved)
			named := map[Key]bool{}
			found := false
			for range len(bad) + 1 {
				key, _, _, err := b.Claim(ctx, Deliveries, NewOwner(), time.Minute)
				if found = found || key == good; err != nil {
					for _, k := range bad {
						named[k] = named[k] || strings.Contains(err.Error(), string(k))
					}
				}
			}
			if len(named) != len(bad) || !found || slices.Contains(slices.Collect(mapValues(named)), false) {
				t.Errorf("got %v named of %d, and the good one claimed: %v", named, len(bad), found)
			}
			b.claim(t, "") // not again at once
			listed, failed := 0, 0
			must(t, b.List(ctx, Deliveries, func(key Key, _ Row, _ time.Time, err error) bool {
				if listed++; err != nil {
					failed++
				}
				return true
			}))
			if listed != len(bad)+1 || failed != len(bad) {
				t.Errorf("listed %d, %d of them malformed, want %d and %d", listed, failed, len(bad)+1, len(bad))
			}
			for _, key := range bad {
				if _, err := b.Look(ctx, key); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("Look: got %v", err)
				}
				if _, err := b.Consume(ctx, key, NewOwner(), nil, time.Second, 0); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("Consume: got %v", err)
				}
				b.move(t, key, recorded("a", "ada", ""), Lost)
				must(t, b.Drop(ctx, key))
				b.wantGone(t, key)
			}
			if n, _ := b.Count(ctx, Deliveries); n != 1 {
				t.Errorf("%d wait, want the good one", n)
			}
		}},
		{"an index entry without its record is removed", func(t *testing.T, b testBackend) {
			b.index(newKey(t))
			b.index(newKey(t))
			key, m := b.record(t, "ada", "", Moved)
			b.move(t, key, postponed(m, 0, 0), Moved)
			must(t, b.List(ctx, Deliveries, func(k Key, _ Row, _ time.Time, err error) bool {
				if k != key || err != nil {
					t.Errorf("listed %s, %v", k, err)
				}
				return true
			}))
			b.claim(t, key)
			b.claim(t, "")
			if n, _ := b.Count(ctx, Deliveries); n != 1 {
				t.Errorf("%d wait, want one", n)
			}
		}},

		// Answers that are lost: the caller asks again.
		{"every call can be repeated", func(t *testing.T, b testBackend) {
			key, owner := b.issue(t), NewOwner()
			for range 2 {
				must(t, b.Issue(ctx, key, []byte("request\x00\n"), time.Hour))
			}
			var first Row
			for i := range 2 {
				row, err := b.Consume(ctx, key, owner, []byte("code"), 30*time.Second, 0)
				must(t, err)
				if i == 0 {
					first = row
				}
				if row.Owner != owner || row.Phase != Working || row.Number != first.Number {
					t.Errorf("consume %d: got %+v, want %+v", i, row, first)
				}
			}
			m := recorded(owner, "ada", "")
			busy, m2 := b.record(t, "bob", "", Moved)
			other, m3 := b.record(t, "bob", "/eu", Waiting)
			for range 2 {
				b.move(t, key, m, Moved)
				b.move(t, busy, m2, Moved)
				b.move(t, other, m3, Waiting)
			}
			for range 2 {
				b.move(t, key, postponed(m, time.Minute, 30*time.Second), Moved)
			}
			for range 2 {
				b.move(t, key, finished(m), Moved)
			}
			b.move(t, busy, finished(m2), Moved)
			b.claim(t, other)
			b.move(t, busy, finished(m2), Moved) // does not end the lease of the other
			third, _ := b.record(t, "bob", "/us", Waiting)
			for range 2 {
				_, err := b.Wake(ctx, Deliveries)
				must(t, err)
				must(t, b.Drop(ctx, third))
			}
		}},
		{"calls that arrive late change nothing", func(t *testing.T, b testBackend) {
			key, owner := b.consume(t)
			m := recorded(owner, "ada", "")
			b.move(t, key, m, Moved)
			b.move(t, key, Move{Owner: owner, To: Working, Keep: time.Hour}, Lost)
			b.move(t, key, finished(m), Moved)
			b.move(t, key, m, Lost)
			b.move(t, key, postponed(m, 0, 0), Lost)
			must(t, b.Issue(ctx, key, nil, time.Hour))
			row, err := b.Consume(ctx, key, owner, []byte("late"), time.Minute, 0)
			must(t, err)
			if row.Phase != Finished || string(row.Content) != "result" {
				t.Errorf("got %+v", row)
			}
			if n, _ := b.Count(ctx, Deliveries); n != 0 {
				t.Errorf("%d wait, want none", n)
			}
		}},
		{"a row that is not the caller's cannot be moved", func(t *testing.T, b testBackend) {
			key := b.issue(t)
			b.move(t, key, recorded("", "ada", ""), Lost)
			b.move(t, key, recorded("-", "ada", ""), Lost)
			key, _ = b.consume(t)
			b.move(t, key, recorded(NewOwner(), "ada", ""), Lost)
			b.wantPhase(t, key, Working)
		}},

		// Events.
		{"an event waits in a queue of its own", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			other, _ := b.record(t, "ada", "/eu", Waiting)
			b.move(t, key, saved(m, 30*time.Second), Moved)
			b.wantPhase(t, key, Saved)
			b.claim(t, other) // the subscriber's lease ended
			b.claimEvent(t, "")
			b.wait(31 * time.Second)
			row, owner := b.claimEvent(t, key)
			if string(row.Content) != "result" || row.Number == 0 {
				t.Errorf("got %+v", row)
			}
			b.claimEvent(t, "")
			m.Owner = owner
			b.move(t, key, saved(m, 10*time.Minute), Moved) // the receiver is down
			b.claimEvent(t, "")
			if more, err := b.Wake(ctx, Events); more || err != nil {
				t.Errorf("got %t, %v", more, err)
			}
			_, m.Owner = b.claimEvent(t, key)
			b.wait(31 * time.Second) // the claimer died
			_, m.Owner = b.claimEvent(t, key)
			for range 2 {
				b.move(t, key, finished(m), Moved)
			}
			b.move(t, key, saved(m, 0), Lost)
			b.wantPhase(t, key, Finished)
			b.claimEvent(t, "")
			for q, want := range map[Queue]int{Deliveries: 1, Events: 0} {
				if n, err := b.Count(ctx, q); n != want || err != nil {
					t.Errorf("%s: got %d, %v, want %d", q, n, err, want)
				}
			}
		}},
		{"an event is kept for as long as it is owed", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			for range 2 { // an answer was lost
				b.move(t, key, saved(m, 0), Moved)
			}
			b.move(t, key, m, Lost) // a late repeat
			b.wait(24 * time.Hour)
			newer, m2 := b.record(t, "ada", "", Moved) // replaces no event
			b.move(t, newer, finished(m2), Moved)
			b.wantPhase(t, key, Saved)
			b.claimEvent(t, key)
		}},
		{"events of one destination go in order, of others at once", func(t *testing.T, b testBackend) {
			first, m1 := b.record(t, "ada", "", Moved)
			b.move(t, first, saved(m1, time.Minute), Moved)
			second, m2 := b.record(t, "ada", "", Moved)
			b.move(t, second, saved(m2, 0), Waiting)
			third, m3 := b.record(t, "ada", "", Moved)
			b.move(t, third, saved(m3, 0), Waiting)
			other, m4 := b.record(t, "ada", "/eu", Moved)
			b.move(t, other, saved(m4, 0), Moved)
			_, m4.Owner = b.claimEvent(t, other)
			b.move(t, other, finished(m4), Moved)
			b.claimEvent(t, "")
			b.move(t, third, saved(m3, 0), Waiting) // a repeat does not come before
			b.claimEvent(t, "")
			b.wait(61 * time.Second)
			_, m1.Owner = b.claimEvent(t, first)
			b.claimEvent(t, "")
			b.move(t, first, finished(m1), Moved)
			_, m2.Owner = b.claimEvent(t, second)
			b.move(t, second, saved(m2, 0), Moved) // the receiver refused
			_, m2.Owner = b.claimEvent(t, second)
			b.claimEvent(t, "")
			must(t, b.Drop(ctx, second))
			b.claimEvent(t, third)
			b.wantGone(t, second)
		}},
		{"dropping another flow leaves the event that is being sent alone", func(t *testing.T, b testBackend) {
			first, m1 := b.record(t, "ada", "", Moved)
			b.move(t, first, saved(m1, 30*time.Second), Moved)
			second, m2 := b.record(t, "ada", "", Moved)
			b.move(t, second, saved(m2, 30*time.Second), Waiting)
			must(t, b.Drop(ctx, second))
			b.claimEvent(t, "")
			third, _ := b.record(t, "ada", "", Moved)
			must(t, b.Drop(ctx, third))
			b.claimEvent(t, "")
			b.move(t, first, finished(m1), Moved)
			b.move(t, first, finished(m1), Moved) // a late repeat
		}},
		{"the end of a subscriber's lease leaves the event alone that is being sent", func(t *testing.T, b testBackend) {
			b.record(t, "ada", "", Moved)
			key, m := b.record(t, "ada", "/eu", Waiting)
			b.wait(20 * time.Second)
			third, owner := b.consume(t)
			b.wait(11 * time.Second)
			_, m.Owner, _ = b.claim(t, key)
			b.wait(31 * time.Second) // the claimer stands still, and goes on after another one has the lease
			m3 := recorded(owner, "ada", "/us")
			b.move(t, third, m3, Moved)
			b.move(t, key, saved(m, 30*time.Second), Moved)
			b.move(t, third, finished(m3), Moved)
			b.claimEvent(t, "")
		}},
		{"another deployment's events are told", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			_, err := b.Others(ctx) // it makes itself known
			must(t, err)
			b.move(t, key, saved(m, time.Second), Moved)
			if others, err := b.other.Others(ctx); err != nil || len(others) != 1 {
				t.Errorf("got %v, %v", others, err)
			}
		}},
		{"a flow that waited for its integration for days does not come after a newer one", func(t *testing.T, b testBackend) {
			older, m1 := b.record(t, "ada", "", Moved)
			b.move(t, older, postponed(m1, time.Hour, 0), Moved)
			newer, m2 := b.record(t, "ada", "/eu", Moved)
			b.move(t, newer, finished(m2), Moved)
			b.wait(72 * time.Hour)
			_, owner, _ := b.claim(t, older)
			b.move(t, older, recorded(owner, "ada", "/eu"), Overtaken)
		}},
		{"an older event that cannot be read holds up no other", func(t *testing.T, b testBackend) {
			first, m1 := b.record(t, "ada", "", Moved)
			b.move(t, first, saved(m1, 0), Moved)
			second, m2 := b.record(t, "ada", "", Moved)
			b.move(t, second, saved(m2, 0), Waiting)
			b.write(first, "malformed")
			b.move(t, second, saved(m2, 0), Moved)
			if key, _, _, err := b.Claim(ctx, Events, NewOwner(), time.Minute); err != nil && key != first {
				t.Errorf("got %s, %v, want the malformed one named, if it is claimed", key, err)
			} else if err != nil {
				b.claimEvent(t, second)
			}
		}},

		// And the rest.
		{"dropping takes a row out of everything", func(t *testing.T, b testBackend) {
			key, m := b.record(t, "ada", "", Moved)
			b.move(t, key, postponed(m, 0, 0), Moved)
			must(t, b.Drop(ctx, key))
			b.wantGone(t, key)
			b.claim(t, "")
			again, m2 := b.record(t, "ada", "", Moved)
			b.move(t, again, finished(m2), Moved)
		}},
		{"deployments neither see nor use each other's rows", func(t *testing.T, b testBackend) {
			other := b
			other.Backend = b.other
			key, _ := other.record(t, "ada", "", Moved)
			waiting, m := other.record(t, "bob", "", Moved)
			other.move(t, waiting, postponed(m, 0, 0), Moved)
			_, err := other.Others(ctx) // makes itself known
			must(t, err)
			b.wantGone(t, key)
			b.claim(t, "")
			newer, m2 := b.record(t, "ada", "", Moved) // another lease, another order
			b.move(t, newer, finished(m2), Moved)
			other.wantPhase(t, key, Recorded)
			if n, err := b.Count(ctx, Deliveries); n != 0 || err != nil {
				t.Errorf("got %d, %v, want none", n, err)
			}
			if others, err := b.Others(ctx); err != nil || len(others) != 1 || others[otherDeployment] != 2 {
				t.Errorf("got %v, %v, want two of the other deployment", others, err)
			}
			if others, err := other.Others(ctx); err != nil || len(others) != 0 {
				t.Errorf("got %v, %v, want none", others, err)
			}
		}},
		{"listing shows what waits, the first due first", func(t *testing.T, b testBackend) {
			var want []Key
			for i := range 5 {
				key, m := b.record(t, fmt.Sprint(i), "", Moved)
				b.move(t, key, postponed(m, time.Duration(5-i)*time.Minute, 0), Moved)
				want = append([]Key{key}, want...)
			}
			b.issue(t)
			var got []Key
			must(t, b.List(ctx, Deliveries, func(key Key, row Row, due time.Time, err error) bool {
				must(t, err)
				if len(got) < 4 && due.IsZero() || row.Phase != Recorded {
					t.Errorf("got %+v due at %v", row, due)
				}
				got = append(got, key)
				return true
			}))
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			calls := 0
			must(t, b.List(ctx, Deliveries, func(Key, Row, time.Time, error) bool { calls++; return calls < 2 }))
			if calls != 2 {
				t.Errorf("%d rows were listed until fn returned false, want 2", calls)
			}
		}},
		{"a cancelled context changes nothing", func(t *testing.T, b testBackend) {
			key := b.issue(t)
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := b.Consume(gone, key, NewOwner(), nil, time.Second, 0); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("got %v, want the context's error", err)
			}
			b.wantPhase(t, key, Issued)
		}},
		{"it is ready", func(t *testing.T, b testBackend) { must(t, b.Ready(ctx)) }},
	}
	eachBackend(t, func(t *testing.T, b testBackend) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				clearBackend(t, b)
				c.test(t, b)
			})
		}
	})
}

func mapValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// clearBackend empties a backend for the next case.
func clearBackend(t *testing.T, b testBackend) {
	t.Helper()
	switch s := b.Backend.(type) {
	case *Redis:
		must(t, s.client.FlushAll(context.Background()).Err())
	case *Bolt:
		for _, tag := range []Deployment{testDeployment, otherDeployment} {
			must(t, s.db.Update(func(tx *bolt.Tx) error {
				if err := tx.DeleteBucket([]byte(tag)); err != nil {
					return err
				}
				_, err := tx.CreateBucket([]byte(tag))
				return err
			}))
		}
	}
}

// TestBackendsAgree makes the same random calls on each backend: the Lua of Redis and
// the Go of Bolt are two texts of one thing.
func TestBackendsAgree(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		t.Run(fmt.Sprint("seed ", round), func(t *testing.T) {
			t.Parallel()
			bolt, redis := newTestBolt(t), newTestMiniredis(t)
			random := rand.New(rand.NewPCG(uint64(round), 1))
			var keys []Key
			owners := []string{NewOwner(), NewOwner(), NewOwner()}
			subscribers := []string{"ada", "bob"}
			for step := range 300 {
				var key Key
				if len(keys) > 0 {
					key = keys[random.IntN(len(keys))]
				}
				var call func(b testBackend) string
				switch n := random.IntN(20); {
				case n < 3 || key == "":
					key = newKey(t)
					keys = append(keys, key)
					call = func(b testBackend) string { return fmt.Sprint(b.Issue(t.Context(), key, []byte(key), time.Hour)) }
				case n < 6:
					owner, patience := owners[random.IntN(len(owners))], []time.Duration{0, 40 * time.Second, patience}[random.IntN(3)]
					call = func(b testBackend) string {
						row, err := b.Consume(t.Context(), key, owner, []byte("c"), 30*time.Second, patience)
						return fmt.Sprintf("%+v %v", plain(row), err)
					}
				case n < 13:
					subscriber := subscribers[random.IntN(2)]
					m := recorded(owners[random.IntN(len(owners))], subscriber, fmt.Sprint(random.IntN(2)))
					switch random.IntN(6) {
					case 5:
						m = Move{Owner: m.Owner, To: Working, Content: []byte("c"), Keep: time.Hour, Close: time.Duration(1+random.IntN(80)) * time.Second}
					case 4:
						m = saved(m, time.Duration(random.IntN(60))*time.Second)
					case 0:
						m = finished(m)
					case 1:
						m = postponed(m, time.Duration(random.IntN(100))*time.Second, time.Duration(random.IntN(2)*30)*time.Second)
					}
					call = func(b testBackend) string {
						step, err := b.Move(t.Context(), key, m)
						return fmt.Sprint(step, err)
					}
				case n < 16:
					owner := owners[random.IntN(len(owners))]
					queue := Queues[random.IntN(3)]
					call = func(b testBackend) string {
						key, row, next, err := b.Claim(t.Context(), queue, owner, 30*time.Second)
						return fmt.Sprintf("%s %+v %v %v", key, plain(row), next.Round(10*time.Second), err)
					}
				case n < 17:
					queue := Queues[random.IntN(3)]
					call = func(b testBackend) string {
						more, err := b.Wake(t.Context(), queue)
						return fmt.Sprint(more, err)
					}
				case n < 18 && random.IntN(2) == 0:
					number := int64(random.IntN(len(keys)))
					call = func(b testBackend) string {
						turn, err := b.Turn(t.Context(), number)
						return fmt.Sprint(turn.Place, turn.Wait.Round(10*time.Second), err)
					}
				case n < 18 && random.IntN(4) == 0:
					call = func(b testBackend) string { return fmt.Sprint(b.Drop(t.Context(), key)) }
				default:
					d := time.Duration(random.IntN(60)) * time.Second
					if random.IntN(20) == 0 {
						d = time.Duration(random.IntN(100)) * time.Minute
					}
					call = func(b testBackend) string { b.wait(d); return "" }
				}
				if got, want := call(redis), call(bolt); got != want {
					t.Fatalf("step %d: Redis answers %s, Bolt %s", step, got, want)
				}
				for _, k := range keys {
					a, errA := redis.Look(t.Context(), k)
					b, errB := bolt.Look(t.Context(), k)
					if fmt.Sprintf("%+v %v", plain(a), errA) != fmt.Sprintf("%+v %v", plain(b), errB) {
						t.Fatalf("after step %d: Redis has %+v, %v, Bolt %+v, %v", step, a, errA, b, errB)
					}
				}
			}
		})
	}
}

// plain is a row without what differs between backends of the same history.
func plain(r Row) Row {
	r.Consumed, r.Age, r.Turn.Wait, r.Request = r.Consumed.Round(10*time.Second), r.Age.Round(10*time.Second), r.Turn.Wait.Round(10*time.Second), nil
	return r
}

// A Redis that is full refuses each step before it has changed anything: above all, nobody
// gets a code to exchange whose webhook could not be recorded.
func TestFullRedisRefuses(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, "--maxmemory-policy", "noeviction").Client()
	b := newTestRedis(client)
	ctx := t.Context()
	limited, limitedOwner, _ := b.arrive(t)
	exchanging, exchangingOwner := b.consume(t)
	working, _ := b.consume(t)
	sent, m := b.record(t, "ada", "", Moved)
	waiting, m2 := b.record(t, "bob", "", Moved)
	b.move(t, waiting, postponed(m2, 0, 0), Moved)
	event, m3 := b.record(t, "eve", "", Moved)
	b.move(t, event, saved(m3, 0), Moved)
	b.refused(t, limited, limitedOwner, time.Second)
	issued := b.issue(t)
	b.wait(40 * time.Second) // all leases end
	before := b.dump()

	must(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	for name, step := range map[string]func() error{
		"issue":       func() error { return b.Issue(ctx, newKey(t), []byte("request"), time.Hour) },
		"consume":     func() error { _, err := b.Consume(ctx, issued, NewOwner(), nil, time.Minute, 0); return err },
		"record":      func() error { _, err := b.Move(ctx, exchanging, recorded(exchangingOwner, "joe", "")); return err },
		"finish":      func() error { _, err := b.Move(ctx, sent, finished(m)); return err },
		"save":        func() error { _, err := b.Move(ctx, sent, saved(m, 0)); return err },
		"postpone":    func() error { _, err := b.Move(ctx, sent, postponed(m, time.Minute, 0)); return err },
		"claim":       func() error { _, _, _, err := b.Claim(ctx, Deliveries, NewOwner(), time.Minute); return err },
		"claim turn":  func() error { _, _, _, err := b.Claim(ctx, Turns, NewOwner(), time.Minute); return err },
		"claim event": func() error { _, _, _, err := b.Claim(ctx, Events, NewOwner(), time.Minute); return err },
		"ready":       func() error { return b.Ready(ctx) },
	} {
		if err := step(); err == nil || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if after := b.dump(); after != before {
		t.Errorf("a refused step has changed something: got\n%s\nwant\n%s", after, before)
	}
	must(t, b.Drop(ctx, working))
	b.wantGone(t, working)

	must(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
	b.move(t, sent, finished(m), Moved)
	b.takeTurn(t, limited)
	b.claimEvent(t, event)
}

// A Redis that evicts, or another program, may lose the order of a destination's events:
// they are sent all the same.
func TestEventWithoutItsOrder(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	b := newTestRedis(client)
	key, m := b.record(t, "ada", "", Moved)
	b.move(t, key, saved(m, 0), Moved)
	must(t, client.Del(t.Context(), b.Backend.(*Redis).keys+"order:"+m.Destination).Err())
	b.claimEvent(t, key)
}

// Each operation is one round trip, once Redis knows the script.
func TestRedisRoundTrips(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	trips := &counter{}
	client.AddHook(trips)
	b := newTestRedis(client)
	key, m := b.record(t, "ada", "", Moved) // Redis learns the scripts
	b.claim(t, "")
	b.takeTurn(t, "")
	_, err := b.Turn(t.Context(), 1)
	must(t, err)
	for name, call := range map[string]func(){
		"issue":   func() { b.Issue(t.Context(), key, nil, time.Hour) },
		"consume": func() { b.Consume(t.Context(), key, NewOwner(), nil, time.Hour, 0) },
		"look":    func() { b.Look(t.Context(), key) },
		"move":    func() { b.Move(t.Context(), key, m) },
		"claim":   func() { b.Claim(t.Context(), Deliveries, NewOwner(), time.Minute) },
		"turns":   func() { b.Claim(t.Context(), Turns, NewOwner(), time.Minute) },
		"turn":    func() { b.Turn(t.Context(), 1) },
		"count":   func() { b.Count(t.Context(), Deliveries) },
	} {
		trips.n = 0
		if call(); trips.n != 1 {
			t.Errorf("%s: got %d round trips, want 1", name, trips.n)
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
