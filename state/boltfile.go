package state

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrInUse says that another process has the file open.
var ErrInUse = errors.New("DATA_FILE is in use by another process")

// OpenBolt opens the file at path for a deployment. It creates the file if there is none.
// Only one process can have it open. Errors do not quote the path.
func OpenBolt(path string, deployment Deployment) (*Bolt, error) {
	db, err := openFile(path)
	if err != nil {
		return nil, err
	}
	db.MaxBatchDelay = time.Millisecond
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(deployment))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("DATA_FILE: cannot be written: %w", err), db.Close())
	}
	return &Bolt{Now: time.Now, db: db, tag: deployment, swept: map[string]string{}}, nil
}

var errDamaged = errors.New("DATA_FILE: is damaged, or not a data file of this program")

// openFile opens a bbolt file, after it has read all of it.
func openFile(path string) (*bolt.DB, error) {
	options := bolt.Options{
		Timeout:        time.Second,
		NoFreelistSync: true, // or each commit writes the list, which is long after a flood
		FreelistType:   bolt.FreelistMapType,
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, errors.New("DATA_FILE: cannot be opened: it is a folder")
	case err == nil && info.Size() > 0:
		if err := readFile(path, options, info.Size()); err != nil {
			return nil, err
		}
	}
	db, err := bolt.Open(path, 0o600, &options)
	return db, describeOpenError(err)
}

// readFile reads all of a file and returns an error if it is damaged. If damage were
// found later, it would end the process with SIGBUS or a panic in a goroutine of bbolt.
func readFile(path string, options bolt.Options, size int64) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errDamaged
		}
	}()
	options.ReadOnly = true
	db, err := bolt.Open(path, 0, &options)
	if err != nil {
		return describeOpenError(err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > size {
			return errDamaged
		}
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			b.Stats() // looks at every page
			return nil
		})
	})
}

// describeOpenError names the setting in an error of bolt.Open, and not its value.
func describeOpenError(err error) error {
	var pathError *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case errors.As(err, &pathError):
		return fmt.Errorf("DATA_FILE: cannot be opened: %w", pathError.Err)
	}
	return errDamaged
}

// Close closes the file.
func (s *Bolt) Close() error { return s.db.Close() }

// boltTx is a transaction on a deployment's bucket. The first write that fails makes the
// whole transaction fail, so that callers need not check each write.
type boltTx struct {
	*bolt.Bucket
	now int64 // Unix ms
	err error
}

// update runs fn in a transaction that writes, which it may share with concurrent calls.
func update[T any](ctx context.Context, s *Bolt, fn func(*boltTx) (T, error)) (T, error) {
	return run(ctx, s, s.db.Batch, fn)
}

// view runs fn in a transaction that only reads.
func view[T any](ctx context.Context, s *Bolt, fn func(*boltTx) (T, error)) (T, error) {
	return run(ctx, s, s.db.View, fn)
}

func run[T any](ctx context.Context, s *Bolt, in func(func(*bolt.Tx) error) error, fn func(*boltTx) (T, error)) (result T, err error) {
	if err := ctx.Err(); err != nil {
		return result, err
	}
	err = in(func(tx *bolt.Tx) (err error) {
		t := &boltTx{Bucket: tx.Bucket([]byte(s.tag)), now: s.Now().UnixMilli()}
		result, err = fn(t)
		return cmp.Or(err, t.err)
	})
	if err != nil { // what is not on disk has not happened
		return *new(T), err
	}
	return result, nil
}

// after returns the time d from now.
func (t *boltTx) after(d time.Duration) int64 { return t.now + d.Milliseconds() }

// get returns a value and when it expires; no value is nil.
func (t *boltTx) get(name string) (value []byte, expires int64) {
	value = t.Get([]byte(name))
	if len(value) < 8 || t.expired(value) {
		return nil, 0
	}
	return value[8:], number(value)
}

// expired reports whether a value with the time before it has expired.
func (t *boltTx) expired(value []byte) bool {
	return len(value) >= 8 && number(value) != 0 && number(value) <= t.now
}

// set stores a value until it expires; 0 is never.
func (t *boltTx) set(name string, value []byte, expires int64) {
	t.put([]byte(name), slices.Concat(appendNumber(nil, expires), value))
}

func (t *boltTx) put(key, value []byte) { t.err = cmp.Or(t.err, t.Put(key, value)) }

func (t *boltTx) delete(key []byte) { t.err = cmp.Or(t.err, t.Delete(key)) }

// add adds a row to a queue, or changes its score there.
func (t *boltTx) add(queue Queue, score int64, key Key) {
	t.remove(queue, key)
	t.put(placeName(queue, score, key), []byte{})
	t.set(scoreName(queue, key), appendNumber(nil, score), 0)
}

// remove removes a row from a queue.
func (t *boltTx) remove(queue Queue, key Key) {
	if score, found := t.score(queue, key); found {
		t.delete(placeName(queue, score, key))
		t.delete([]byte(scoreName(queue, key)))
	}
}

// score returns a row's score in a queue.
func (t *boltTx) score(queue Queue, key Key) (score int64, found bool) {
	value, _ := t.get(scoreName(queue, key))
	if len(value) < 8 {
		return 0, false
	}
	return number(value), true
}

// from returns the scores and the keys of a queue's rows with scores from min on, the lowest
// first. The queue must not be changed meanwhile.
func (t *boltTx) from(queue Queue, min int64) iter.Seq2[int64, Key] {
	return func(yield func(int64, Key) bool) {
		start := []byte(queue + "/")
		cursor := t.Cursor()
		place, _ := cursor.Seek(placeName(queue, min, ""))
		for len(place) >= len(start)+8 && bytes.HasPrefix(place, start) && yield(number(place[len(start):]), Key(place[len(start)+8:])) {
			place, _ = cursor.Next()
		}
	}
}

// first returns the score and the key of a queue's row with the lowest score, or no key.
func (t *boltTx) first(queue Queue) (score int64, key Key) {
	for score, key := range t.from(queue, 0) {
		return score, key
	}
	return 0, ""
}

// between returns the keys of a limited number of a queue's rows with scores from min to
// max.
func (t *boltTx) between(queue Queue, min, max int64, limit int) (keys []Key) {
	for score, key := range t.from(queue, min) {
		if score > max || len(keys) == limit {
			break
		}
		keys = append(keys, key)
	}
	return keys
}

func placeName(queue Queue, score int64, key Key) []byte {
	return append(appendNumber([]byte(queue+"/"), score), key...)
}

func scoreName(queue Queue, key Key) string { return flowName(key) + "/" + string(queue) }

func flowName(key Key) string { return "flow:" + string(key) }

// number decodes what appendNumber has appended.
func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func appendNumber(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }
