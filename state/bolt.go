package state

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Bolt is a Store in an embedded bbolt file, for a single instance. A method
// returns once its change is on disk; changes made at the same time share one
// write.
type Bolt struct {
	db  *bolt.DB
	now func() time.Time
}

var (
	flowBucket   = []byte("flow")        // key → expiry and encoded flow
	expiryBucket = []byte("flow_expiry") // expiry and key → nothing
)

// sweepAtOnce bounds how many expired flows one Issue removes. It is more than
// one, so the file stops growing however fast flows are issued.
const sweepAtOnce = 8

// NewBolt returns a Store in db, which stays the caller's to close.
func NewBolt(db *bolt.DB) (*Bolt, error) {
	err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(flowBucket)
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(expiryBucket)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("state: prepare file: %w", err)
	}
	return &Bolt{db: db, now: time.Now}, nil
}

// Issue implements Store.
func (s *Bolt) Issue(ctx context.Context, key Key, flow Flow, ttl time.Duration) error {
	return s.update(ctx, "issue", func(tx *bolt.Tx, now time.Time) error {
		if _, err := get(tx, key, now); err == nil {
			return errors.New("the key exists")
		}
		if err := sweep(tx, now); err != nil {
			return err
		}
		return put(tx, key, encode(Issued, flow), now.Add(ttl))
	})
}

// Consume implements Store.
func (s *Bolt) Consume(ctx context.Context, key Key) (rec Record, err error) {
	mark := NewHalf()
	err = s.update(ctx, "consume", func(tx *bolt.Tx, now time.Time) error {
		value, err := get(tx, key, now)
		if err != nil {
			return err
		}
		next := take(value, mark, now.UnixMilli())
		if rec, err = decode(next, mark, now.UnixMilli()); err != nil || next == value {
			return err
		}
		expiry := tx.Bucket(flowBucket).Get([]byte(key))[:8]
		return tx.Bucket(flowBucket).Put([]byte(key), append(expiry[:8:8], next...))
	})
	return rec, err
}

// Look implements Store.
func (s *Bolt) Look(ctx context.Context, key Key) (rec Record, err error) {
	if err := ctx.Err(); err != nil {
		return rec, err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		now := s.now()
		value, err := get(tx, key, now)
		if err == nil {
			rec, err = decode(value, "", now.UnixMilli())
		}
		return err
	})
	return rec, err
}

// Finish implements Store.
func (s *Bolt) Finish(ctx context.Context, ending Ending) error {
	return s.update(ctx, "finish", func(tx *bolt.Tx, _ time.Time) error { return s.FinishIn(tx, ending) })
}

// FinishIn is Finish as a part of a transaction.
func (s *Bolt) FinishIn(tx *bolt.Tx, ending Ending) error {
	return put(tx, ending.Key, ending.encode(), s.now().Add(ending.TTL))
}

// Ping implements Store.
func (s *Bolt) Ping(ctx context.Context) error {
	return s.update(ctx, "ping", func(tx *bolt.Tx, _ time.Time) error {
		_, err := tx.Bucket(flowBucket).NextSequence()
		return err
	})
}

func (s *Bolt) update(ctx context.Context, op string, fn func(*bolt.Tx, time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.db.Batch(func(tx *bolt.Tx) error { return fn(tx, s.now()) })
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("state: %s: %w", op, err)
	}
	return err
}

func get(tx *bolt.Tx, key Key, now time.Time) (string, error) {
	v := tx.Bucket(flowBucket).Get([]byte(key))
	if len(v) < 8 || int64(binary.BigEndian.Uint64(v)) <= now.UnixMilli() {
		return "", ErrNotFound
	}
	return string(v[8:]), nil
}

// put writes a flow and moves its place in the expiry index.
func put(tx *bolt.Tx, key Key, value string, expires time.Time) error {
	flows, expiry := tx.Bucket(flowBucket), tx.Bucket(expiryBucket)
	if old := flows.Get([]byte(key)); len(old) >= 8 {
		if err := expiry.Delete(append(old[:8:8], key...)); err != nil {
			return err
		}
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli()))
	if err := expiry.Put(append(at[:8:8], key...), nil); err != nil {
		return err
	}
	return flows.Put([]byte(key), append(at[:8:8], value...))
}

// sweep removes a few of the flows that expired first. It reads nothing else.
func sweep(tx *bolt.Tx, now time.Time) error {
	flows, expiry := tx.Bucket(flowBucket), tx.Bucket(expiryBucket)
	for range sweepAtOnce {
		at, _ := expiry.Cursor().First()
		if len(at) < 8 || int64(binary.BigEndian.Uint64(at)) > now.UnixMilli() {
			return nil
		}
		if err := errors.Join(flows.Delete(at[8:]), expiry.Delete(at)); err != nil {
			return err
		}
	}
	return nil
}
