package outbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/state"
)

// Bolt is a Store in an embedded bbolt file, for a single instance. A method
// returns once its change is on disk. Leases live in memory: they end with the
// process that has them.
type Bolt struct {
	db    *bolt.DB
	flows *state.Bolt
	now   func() time.Time

	mu     sync.Mutex
	leases map[string]lease // by subscriber
}

type lease struct {
	until time.Time
	owner string
}

var (
	entryBucket = []byte("outbox")     // destination → when due and encoded entry
	dueBucket   = []byte("outbox_due") // when due and destination → nothing
)

// NewBolt returns a Store in db, which stays the caller's to close. Flows are
// finished in flows, which is in the same file.
func NewBolt(db *bolt.DB, flows *state.Bolt) (*Bolt, error) {
	err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(entryBucket)
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(dueBucket)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: prepare file: %w", err)
	}
	return &Bolt{db: db, flows: flows, now: time.Now, leases: map[string]lease{}}, nil
}

// lease gives the subscriber of d to owner, or says until when another has it.
func (s *Bolt) lease(d Destination, owner string, now time.Time, life time.Duration) (until time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.leases[d.Subscriber]; held.owner != owner && held.until.After(now) {
		return held.until, false
	}
	s.leases[d.Subscriber] = lease{now.Add(life), owner}
	return now.Add(life), true
}

// unlease ends the lease that owner has, or holds it for longer.
func (s *Bolt) unlease(d Destination, owner string, now time.Time, hold time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[d.Subscriber].owner != owner {
		return
	}
	if hold > 0 {
		s.leases[d.Subscriber] = lease{now.Add(hold), owner}
	} else {
		delete(s.leases, d.Subscriber)
	}
}

// update runs fn in a transaction that it may share with others'. A lease that fn
// took is only an intention until the transaction is on disk; if it fails, the
// lease ends by itself. Time has the grain of the index, and is the wall's.
func (s *Bolt) update(ctx context.Context, op string, fn func(tx *bolt.Tx, now time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.db.Batch(func(tx *bolt.Tx) error { return fn(tx, s.now().Truncate(time.Millisecond)) }); err != nil {
		return fmt.Errorf("outbox: %s: %w", op, err)
	}
	return nil
}

// Record implements Store.
func (s *Bolt) Record(ctx context.Context, e Entry, life time.Duration) (leased bool, err error) {
	err = s.update(ctx, "record", func(tx *bolt.Tx, now time.Time) error {
		due := now
		until, ok := s.lease(e.Destination, e.owner, now, life)
		if leased = ok; ok {
			due = until
		}
		return put(tx, e.Destination.String(), e.encode(), due)
	})
	return leased, err
}

// Claim implements Store. Looking alone costs no write.
func (s *Bolt) Claim(ctx context.Context, life time.Duration) (e *Entry, next time.Duration, err error) {
	if due, ok := s.firstDue(); !ok || due > 0 {
		return nil, due, ctx.Err()
	}
	owner := state.NewHalf()
	var malformed error
	err = s.update(ctx, "claim", func(tx *bolt.Tx, now time.Time) error {
		e, malformed = nil, nil
		for range claimLooks {
			key, _ := tx.Bucket(dueBucket).Cursor().First()
			if key == nil || dueAt(key).After(now) {
				return nil
			}
			destination := string(key[8:])
			found, err := get(tx, destination)
			if err != nil { // out of the way, for a while
				malformed = err
				return move(tx, destination, now.Add(pace[len(pace)-1]))
			}
			until, ok := s.lease(found.Destination, owner, now, life)
			if err := move(tx, destination, until); err != nil {
				return err
			}
			if ok {
				found.owner = owner
				e = found
				return nil
			}
		}
		return nil
	})
	if err != nil { // what is not on disk is not claimed
		return nil, 0, err
	}
	if e == nil {
		next, _ = s.firstDue()
	}
	return e, next, malformed
}

// claimLooks is how many leased entries one Claim passes over.
const claimLooks = 20

// firstDue returns how long until an entry is due, negative without entries.
func (s *Bolt) firstDue() (wait time.Duration, ok bool) {
	wait = -1
	_ = s.db.View(func(tx *bolt.Tx) error { // a closed file has nothing due
		if key, _ := tx.Bucket(dueBucket).Cursor().First(); key != nil {
			wait, ok = max(0, dueAt(key).Sub(s.now())), true
		}
		return nil
	})
	return wait, ok
}

// Release implements Store.
func (s *Bolt) Release(ctx context.Context, e Entry, then Then, ending *state.Ending) error {
	return s.update(ctx, "release", func(tx *bolt.Tx, now time.Time) error {
		current, err := get(tx, e.Destination.String())
		switch {
		case err != nil:
			return err
		case current == nil:
		case current.ID != e.ID:
			err = move(tx, current.Destination.String(), now)
		case then.Done:
			err = remove(tx, e.Destination.String())
		default:
			err = put(tx, e.Destination.String(), e.encode(), now.Add(then.Retry))
		}
		if err == nil && ending != nil {
			err = s.flows.FinishIn(tx, *ending)
		}
		if err == nil {
			tx.OnCommit(func() { s.unlease(e.Destination, e.owner, now, then.Hold) })
		}
		return err
	})
}

// Wake implements Store.
func (s *Bolt) Wake(ctx context.Context) (more bool, err error) {
	err = s.update(ctx, "wake", func(tx *bolt.Tx, now time.Time) error {
		var later []string
		cursor := tx.Bucket(dueBucket).Cursor()
		for key, _ := cursor.Seek(dueKey(now.Add(soon), "")); key != nil && len(later) < 500; key, _ = cursor.Next() {
			later = append(later, string(key[8:]))
		}
		for _, destination := range later {
			if err := move(tx, destination, now); err != nil {
				return err
			}
		}
		more = len(later) > 0
		return nil
	})
	return more, err
}

// List implements Store.
func (s *Bolt) List(_ context.Context, fn func(Entry) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(entryBucket).ForEach(func(key, value []byte) error {
			e, err := decode(string(key), string(value[8:]))
			if err != nil {
				return err
			}
			return fn(*e)
		})
	})
}

// Len implements Store.
func (s *Bolt) Len(context.Context) (n int, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(entryBucket).Stats().KeyN
		return nil
	})
	return n, err
}

// Drop implements Store.
func (s *Bolt) Drop(ctx context.Context, d Destination, then time.Time) (dropped bool, err error) {
	err = s.update(ctx, "drop", func(tx *bolt.Tx, _ time.Time) error {
		e, err := get(tx, d.String())
		if dropped = err != nil || e != nil && !e.Recorded.After(then); !dropped {
			return nil
		}
		return remove(tx, d.String())
	})
	return dropped, err
}

// get returns the entry of a destination, nil without one.
func get(tx *bolt.Tx, destination string) (*Entry, error) {
	value := tx.Bucket(entryBucket).Get([]byte(destination))
	if value == nil {
		return nil, nil
	}
	return decode(destination, string(value[8:]))
}

// put writes an entry and its place in the index of what is due.
func put(tx *bolt.Tx, destination, value string, due time.Time) error {
	if err := remove(tx, destination); err != nil {
		return err
	}
	key := dueKey(due, destination)
	if err := tx.Bucket(dueBucket).Put(key, nil); err != nil {
		return err
	}
	return tx.Bucket(entryBucket).Put([]byte(destination), append(key[:8:8], value...))
}

// move changes when an entry is due.
func move(tx *bolt.Tx, destination string, due time.Time) error {
	return put(tx, destination, string(tx.Bucket(entryBucket).Get([]byte(destination))[8:]), due)
}

func remove(tx *bolt.Tx, destination string) error {
	entries := tx.Bucket(entryBucket)
	if old := entries.Get([]byte(destination)); old != nil {
		if err := tx.Bucket(dueBucket).Delete(append(old[:8:8], destination...)); err != nil {
			return err
		}
		return entries.Delete([]byte(destination))
	}
	return nil
}

func dueKey(at time.Time, destination string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())), destination...)
}

func dueAt(key []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(key))) }
