package state

import (
	"bytes"
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
	db    *bolt.DB
	now   func() time.Time
	swept []byte // where the next sweep begins; for transactions that write
}

var flowBucket = []byte("flow") // key → expiry and encoded flow

// sweepAtOnce is how many flows one Issue looks at for expired ones. The look
// goes round all flows: at a steady pace of whatever speed, about an eighth of what
// the file holds is expired, at most.
const sweepAtOnce = 8

// NewBolt returns a Store in db, which stays the caller's to close.
func NewBolt(db *bolt.DB) (*Bolt, error) {
	err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(flowBucket)
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
		if err := s.sweep(tx, now); err != nil {
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
	return s.update(ctx, "finish", func(tx *bolt.Tx, now time.Time) error {
		if old, err := get(tx, ending.Key, now); err == nil && ending.Result.Code == Pending && Phase(old[0]) == Finished {
			return nil
		}
		return s.FinishIn(tx, ending)
	})
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
	if v == nil || expired(v, now) {
		return "", ErrNotFound
	}
	return string(v[8:]), nil
}

func put(tx *bolt.Tx, key Key, value string, expires time.Time) error {
	at := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli()))
	return tx.Bucket(flowBucket).Put([]byte(key), append(at, value...))
}

func expired(value []byte, now time.Time) bool {
	return int64(binary.BigEndian.Uint64(value)) <= now.UnixMilli()
}

// sweep removes what has expired of a few flows, and goes on behind them the next
// time.
func (s *Bolt) sweep(tx *bolt.Tx, now time.Time) error {
	var old [][]byte
	cursor := tx.Bucket(flowBucket).Cursor()
	key, value := cursor.Seek(s.swept)
	for n := 0; key != nil && n < sweepAtOnce; n++ {
		if expired(value, now) {
			old = append(old, key)
		}
		key, value = cursor.Next()
	}
	s.swept = bytes.Clone(key) // nil begins anew
	for _, key := range old {
		if err := tx.Bucket(flowBucket).Delete(key); err != nil {
			return err
		}
	}
	return nil
}
