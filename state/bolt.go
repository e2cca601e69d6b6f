package state

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Bolt is a Backend in an embedded bbolt file, for a single instance. A method that
// changes something returns once the change is on disk; changes made at the same time
// share one write. Each deployment has a bucket of its own, with these in it:
//
//	flow    key → when it expires, when it is due (Unix ms; 0 is never), row
//	turns   number, key of a row that is Working and waits for its turn at Slack → nothing
//	gate    gateKey → when it expires, the gate
//	due     when due, key of another row that is Working or Recorded → nothing
//	events  when due, key of a row that is Saved → nothing
//	order   destination, number of a row that is Saved → key
//	newest  destination → when it expires, number, key of the newest row recorded
//	lease   subscriber → when it ends, owner, keys of rows that wait for its end
type Bolt struct {
	// Now is the clock. Set it before anything else is called.
	Now func() time.Time

	db    *bolt.DB
	tag   Deployment
	swept map[string][]byte // by bucket: where the next sweep begins; for transactions that write
}

// The buckets of a deployment. Each queue has one too, by its name, whose sequence is how
// many places it has; OpenBolt counts them.
const (
	flowBucket   = "flow"
	gateBucket   = "gate"
	orderBucket  = "order"
	newestBucket = "newest"
	leaseBucket  = "lease"
)

var bucketNames = []string{flowBucket, string(Turns), gateBucket, string(Deliveries), string(Events), orderBucket, newestBucket, leaseBucket}

// queueOf returns the queue of rows in a phase.
func queueOf(p Phase) Queue {
	if p == Saved {
		return Events
	}
	return Deliveries
}

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
		home, err := tx.CreateBucketIfNotExists([]byte(deployment))
		for _, name := range bucketNames {
			if err == nil {
				_, err = home.CreateBucketIfNotExists([]byte(name))
			}
		}
		for _, q := range Queues {
			if err == nil {
				b := home.Bucket([]byte(q))
				err = b.SetSequence(uint64(b.Stats().KeyN))
			}
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("DATA_FILE: cannot be written: %w", err), db.Close())
	}
	return &Bolt{Now: time.Now, db: db, tag: deployment, swept: map[string][]byte{}}, nil
}

var errDamaged = errors.New("DATA_FILE: is damaged, or not a data file of this program")

// openFile opens a bbolt file, after it has read all of it.
func openFile(path string) (*bolt.DB, error) {
	options := bolt.Options{
		Timeout:        time.Second,
		NoFreelistSync: true, // or each commit writes the list, which is long after a flood
		FreelistType:   bolt.FreelistMapType,
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
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
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return readBucket(b) })
	})
}

func readBucket(b *bolt.Bucket) error {
	return b.ForEach(func(key, value []byte) error {
		if value == nil {
			if inner := b.Bucket(key); inner != nil {
				return readBucket(inner)
			}
		}
		return nil
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

// boltTx is a transaction on a deployment's buckets. The first write that fails makes the
// whole transaction fail, so that callers need not check each write.
type boltTx struct {
	*bolt.Bucket
	now int64 // Unix ms
	err error
}

func (t *boltTx) bucket(name string) *bolt.Bucket { return t.Bucket.Bucket([]byte(name)) }

func (t *boltTx) get(bucket, key string) []byte { return t.bucket(bucket).Get([]byte(key)) }

func (t *boltTx) put(bucket, key string, value []byte) {
	t.err = cmp.Or(t.err, t.bucket(bucket).Put([]byte(key), value))
}

func (t *boltTx) delete(bucket, key string) {
	t.err = cmp.Or(t.err, t.bucket(bucket).Delete([]byte(key)))
}

// enqueue adds a place to a queue.
func (t *boltTx) enqueue(q Queue, place string) {
	if t.get(string(q), place) == nil {
		t.put(string(q), place, []byte{}) // get would not find nil in the same transaction
		t.count(q, 1)
	}
}

// dequeue removes a place from a queue.
func (t *boltTx) dequeue(q Queue, place string) {
	if t.get(string(q), place) != nil {
		t.delete(string(q), place)
		t.count(q, -1)
	}
}

func (t *boltTx) count(q Queue, change int) {
	b := t.bucket(string(q))
	t.err = cmp.Or(t.err, b.SetSequence(b.Sequence()+uint64(change)))
}

// after returns the time d from now.
func (t *boltTx) after(d time.Duration) int64 { return t.now + d.Milliseconds() }

// update runs fn in a transaction, which it may share with concurrent calls.
func (s *Bolt) update(ctx context.Context, fn func(*boltTx) error) error {
	return s.run(ctx, s.db.Batch, fn)
}

func (s *Bolt) view(ctx context.Context, fn func(*boltTx) error) error {
	return s.run(ctx, s.db.View, fn)
}

func (s *Bolt) run(ctx context.Context, in func(func(*bolt.Tx) error) error, fn func(*boltTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return in(func(tx *bolt.Tx) error {
		t := &boltTx{Bucket: tx.Bucket([]byte(s.tag)), now: s.Now().UnixMilli()}
		return cmp.Or(fn(t), t.err)
	})
}

// read returns a row, or ErrNotFound. Another error says that it is malformed.
func (t *boltTx) read(key Key) (Row, error) {
	value := t.get(flowBucket, string(key))
	if value == nil || t.expired(value) {
		return Row{}, ErrNotFound
	}
	return decode(key, bytes.Clone(value[min(16, len(value)):]))
}

// expired reports whether a value has expired. Its first 8 bytes are the time when it
// expires.
func (t *boltTx) expired(value []byte) bool {
	return len(value) >= 8 && millis(value) != 0 && millis(value) <= t.now
}

// write stores a row. keep is how long; 0 is until its next move. due is when it is due;
// 0 is never.
func (t *boltTx) write(key Key, r Row, keep time.Duration, due int64) {
	expires := int64(0)
	if keep > 0 {
		expires = t.after(keep)
	}
	t.schedule(key, r.Phase, due)
	t.put(flowBucket, string(key), append(appendMillis(nil, expires, due), r.encode()...))
}

// due returns when a row is due, and its queue; 0 is never.
func (t *boltTx) due(key Key) (due int64, queue Queue) {
	value := t.get(flowBucket, string(key))
	if len(value) < 16 {
		return 0, Deliveries
	}
	phase := Issued
	if len(value) > 16 {
		phase = Phase(value[16])
	}
	return millis(value[8:]), queueOf(phase)
}

// schedule updates a row's place in the queue of its phase. The caller writes the due time
// in the row itself.
func (t *boltTx) schedule(key Key, phase Phase, due int64) {
	if old, queue := t.due(key); old != 0 {
		t.dequeue(queue, place(old, key))
	}
	if due != 0 {
		t.enqueue(queueOf(phase), place(due, key))
	}
}

// setDue changes when a row is due, if it has a due time.
func (t *boltTx) setDue(key Key, due int64) {
	before, queue := t.due(key)
	if before == 0 {
		return // it is finished
	}
	t.dequeue(queue, place(before, key))
	t.enqueue(queue, place(due, key))
	old := t.get(flowBucket, string(key))
	t.put(flowBucket, string(key), slices.Concat(old[:8], appendMillis(nil, due), old[16:]))
}

// firstSaved returns the key of a destination's oldest row that is Saved. A row that is
// not there any more, or malformed, holds up nothing.
func (t *boltTx) firstSaved(destination string) Key {
	cursor := t.bucket(orderBucket).Cursor()
	for k, v := cursor.Seek([]byte(destination)); strings.HasPrefix(string(k), destination); k, v = cursor.Next() {
		if r, err := t.read(Key(v)); err == nil && r.Phase == Saved {
			return Key(v)
		}
	}
	return ""
}

func orderPlace(r Row) string { return r.Destination + string(appendMillis(nil, r.Number)) }

// endSaved ends a Saved row's place among its destination's events; the next one is due.
// The caller then writes or deletes the row.
func (t *boltTx) endSaved(key Key, r Row) {
	first := t.firstSaved(r.Destination)
	t.delete(orderBucket, orderPlace(r))
	if next := t.firstSaved(r.Destination); first == key && next != "" { // or else the first one may be being sent
		t.setDue(next, t.now)
	}
}

// replace ends a row as Replaced.
func (t *boltTx) replace(key Key, r Row) {
	r.Phase, r.Content = replaced, nil
	t.write(key, r, replacedTTL, 0)
}

// newest returns the number and the key of the newest row recorded for a destination.
func (t *boltTx) newest(destination string) (number int64, key Key) {
	value := t.get(newestBucket, destination)
	if len(value) < 16 || t.expired(value) {
		return 0, ""
	}
	return millis(value[8:]), Key(value[16:])
}

// setNewest keeps the newest row of a destination, for ever or for orderTTL.
func (t *boltTx) setNewest(destination string, number int64, key Key, forever bool) {
	expires := t.after(orderTTL)
	if forever {
		expires = 0
	}
	t.put(newestBucket, destination, append(appendMillis(nil, expires, number), key...))
}

// expireNewest makes the newest row of a destination expire after orderTTL.
func (t *boltTx) expireNewest(destination string) {
	if number, key := t.newest(destination); key != "" {
		t.setNewest(destination, number, key, false)
	}
}

// lease returns when a subscriber's lease ends, its owner, and the rows that wait for its
// end. A lease ends after maxLease at most, even if the clock stepped back.
func (t *boltTx) lease(subscriber string) (ends int64, owner string, waiting []string) {
	value := t.get(leaseBucket, subscriber)
	fields := strings.Fields(string(value[min(8, len(value)):]))
	if len(fields) == 0 {
		return 0, "", nil
	}
	return min(millis(value), t.after(maxLease)), fields[0], fields[1:]
}

func (t *boltTx) setLease(subscriber string, ends int64, owner string, waiting []string) {
	t.put(leaseBucket, subscriber, append(appendMillis(nil, ends), strings.Join(append([]string{owner}, waiting...), " ")...))
}

// acquire leases a subscriber to owner. If another owner has the lease, it adds the row to
// those that wait for its end, and returns false and that end.
func (t *boltTx) acquire(subscriber, owner string, life time.Duration, row Key) (until int64, ok bool) {
	ends, holder, waiting := t.lease(subscriber)
	if ok = holder == owner || ends <= t.now; ok {
		ends, holder = t.after(life), owner
	} else if !slices.Contains(waiting, string(row)) && len(waiting) < maxWaiting {
		waiting = append(waiting, string(row))
	}
	t.setLease(subscriber, ends, holder, waiting)
	return ends, ok
}

// endLease ends the lease of m's owner and makes the rows that wait for it due. With
// Hold, the lease goes on without an owner instead. A Move with Lease never ends a lease:
// it may be a late repeat, while its owner is sending.
func (t *boltTx) endLease(m Move) {
	_, holder, waiting := t.lease(m.Subscriber)
	switch {
	case holder != m.Owner || m.Lease > 0:
	case m.Hold > 0:
		t.setLease(m.Subscriber, t.after(m.Hold), "-", waiting)
	default:
		t.delete(leaseBucket, m.Subscriber)
		for _, row := range waiting {
			if _, queue := t.due(Key(row)); queue == Deliveries { // or else its event is being sent
				t.setDue(Key(row), t.now)
			}
		}
	}
}

// Issue implements Backend.
func (s *Bolt) Issue(ctx context.Context, key Key, request []byte, ttl time.Duration) error {
	return s.update(ctx, func(t *boltTx) error {
		if _, err := t.read(key); !errors.Is(err, ErrNotFound) {
			return nil // an earlier call stored it, or it is malformed
		}
		for _, name := range []string{flowBucket, newestBucket, leaseBucket} {
			s.sweep(t, name)
		}
		t.write(key, Row{Phase: Issued, Request: request}, ttl, 0)
		return nil
	})
}

// sweepAtOnce is how many values of each bucket one Issue checks for expiry. At any steady
// rate of installs, at most about an eighth of the file's values are then expired ones.
const sweepAtOnce = 8

// sweep deletes the expired ones of the next few values of a bucket.
func (s *Bolt) sweep(t *boltTx, name string) {
	var old []string
	cursor := t.bucket(name).Cursor()
	key, value := cursor.Seek(s.swept[name])
	for n := 0; key != nil && n < sweepAtOnce; n++ {
		if t.expired(value) {
			old = append(old, string(key))
		}
		key, value = cursor.Next()
	}
	s.swept[name] = bytes.Clone(key) // nil begins anew
	for _, key := range old {
		if name == flowBucket {
			t.schedule(Key(key), Finished, 0)
		}
		t.delete(name, key)
	}
}

// Consume implements Backend.
func (s *Bolt) Consume(ctx context.Context, key Key, owner string, content []byte, lease, patience time.Duration) (r Row, err error) {
	err = s.update(ctx, func(t *boltTx) error {
		r, err = t.read(key)
		switch {
		case err == nil && r.Phase == Working && r.Owner == owner: // an answer was lost: the lease begins anew
			t.setDue(key, t.after(lease))
			turn := t.turn(r.Number)
			if t.get(string(Turns), place(r.Number, key)) != nil {
				r.Turn = Turn{turn.Place, min(turn.Wait, patience)}
			} else if patience > 0 && turn.Wait > patience {
				r.Turn = turn
			}
		case err == nil && r.Phase == Issued:
			var number uint64
			number, t.err = t.NextSequence()
			r.Phase, r.Number, r.Consumed, r.Owner, r.Content = Working, int64(number), t.now, owner, content
			due := t.after(lease)
			if g, ends := t.gate(); g != nil && patience > 0 && (t.firstTurn() != nil || g.next > t.now) {
				if r.Turn = t.turn(r.Number); r.Turn.Wait <= patience {
					due = 0
					t.enqueue(Turns, place(r.Number, key))
				}
			} else if g != nil && patience > 0 {
				t.pass(g, ends)
			}
			t.write(key, r, workingTTL, due)
		}
		return err
	})
	return r, err
}

// gate returns the gate, or nil without one, and when it ends.
func (t *boltTx) gate() (g *gate, ends int64) {
	value := t.get(gateBucket, gateKey)
	if len(value) < 8 || t.expired(value) {
		return nil, 0
	}
	return decodeGate(value[8:], t.now), millis(value)
}

const gateKey = "gate"

func (t *boltTx) setGate(g *gate, ends int64) {
	t.put(gateBucket, gateKey, append(appendMillis(nil, ends), g.encode()...))
}

// pass lets one exchange through the gate.
func (t *boltTx) pass(g *gate, ends int64) {
	g.pass(t.now)
	t.setGate(g, ends)
}

// turn returns the turn of the row with a number: not all numbers wait.
func (t *boltTx) turn(number int64) Turn {
	at, cursor := int64(1), t.bucket(string(Turns)).Cursor()
	for k, _ := cursor.First(); k != nil && millis(k) < number; k, _ = cursor.Next() {
		at++
	}
	if g, _ := t.gate(); g != nil {
		return g.turn(t.now, at)
	}
	return Turn{Place: int(at)}
}

// firstTurn returns the place of the row that waits longest for its turn, or nil.
func (t *boltTx) firstTurn() []byte {
	first, _ := t.bucket(string(Turns)).Cursor().First()
	return first
}

// Turn implements Backend.
func (s *Bolt) Turn(ctx context.Context, number int64) (turn Turn, err error) {
	err = s.view(ctx, func(t *boltTx) error {
		if k, _ := t.bucket(string(Turns)).Cursor().Seek(appendMillis(nil, number)); k != nil && millis(k) == number {
			turn = t.turn(number)
		}
		return nil
	})
	return turn, err
}

// Look implements Backend.
func (s *Bolt) Look(ctx context.Context, key Key) (r Row, err error) {
	err = s.view(ctx, func(t *boltTx) error {
		r, err = t.read(key)
		return err
	})
	return r, err
}

// Move implements Backend.
func (s *Bolt) Move(ctx context.Context, key Key, m Move) (step Step, err error) {
	err = s.update(ctx, func(t *boltTx) error {
		step = t.move(key, m)
		return nil
	})
	return step, err
}

func (t *boltTx) move(key Key, m Move) Step {
	r, err := t.read(key)
	switch {
	case err != nil || r.Owner != m.Owner: // a malformed row is lost, too
		return Lost
	case r.Phase == replaced:
		t.endLease(m)
		return Overtaken
	case r.Phase == Finished && m.To == Finished:
		return Moved
	case r.Phase == Saved && (m.To == Saved || m.To == Finished): // its event is owed, whatever was connected since
		r.Attempts, r.Content = m.Attempts, m.Content
		return t.writeSaved(key, r, m)
	case r.Phase == Saved, r.Phase == Finished, r.Phase == Issued, r.Phase == Recorded && m.To == Working:
		return Lost
	}
	if r.Destination != m.Destination {
		t.expireNewest(r.Destination)
	}
	if m.Destination != "" {
		number, newest := t.newest(m.Destination)
		if number > r.Number {
			t.replace(key, r)
			t.endLease(m)
			return Overtaken
		}
		if older, err := t.read(newest); err == nil && older.Phase == Recorded && older.Number < r.Number {
			t.replace(newest, older)
		}
		t.setNewest(m.Destination, r.Number, key, m.To == Recorded)
	}
	r.Phase, r.Attempts, r.Content, r.Subscriber, r.Destination = m.To, m.Attempts, m.Content, m.Subscriber, m.Destination
	step, due := Moved, int64(0)
	switch {
	case m.To == Finished:
		t.endLease(m)
	case m.To == Saved:
		t.endLease(m)
		t.dequeue(Turns, place(r.Number, key))
		return t.writeSaved(key, r, m)
	case m.Lease > 0:
		ends, leased := t.acquire(m.Subscriber, m.Owner, m.Lease, key)
		if due = ends + 1; !leased { // those that wait go first
			step, due = Waiting, ends
		}
	case m.Close > 0:
		if turn := place(r.Number, key); t.get(string(Turns), turn) == nil { // or it is a repeat
			g, _ := t.gate()
			t.setGate(g.close(t.now, m.Close), t.after(gateLife))
			t.enqueue(Turns, turn)
		}
	default:
		t.endLease(m)
		due = t.after(m.Due)
	}
	if m.Close == 0 {
		t.dequeue(Turns, place(r.Number, key))
	}
	t.write(key, r, m.Keep, due)
	return step
}

// writeSaved writes a row that is Saved, or ends it.
func (t *boltTx) writeSaved(key Key, r Row, m Move) Step {
	r.Phase = m.To
	if m.To == Finished {
		t.endSaved(key, r)
		t.write(key, r, m.Keep, 0)
		return Moved
	}
	t.write(key, r, 0, t.after(m.Due))
	t.put(orderBucket, orderPlace(r), []byte(key))
	if t.firstSaved(r.Destination) != key {
		return Waiting
	}
	return Moved
}

// Claim implements Backend. It writes to the disk only if a row is due.
func (s *Bolt) Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (key Key, r Row, next time.Duration, err error) {
	if next, err = s.nextDue(ctx, from); err != nil || next != 0 {
		return "", Row{}, next, err
	}
	var malformed error
	err = s.update(ctx, func(t *boltTx) error {
		if from == Turns {
			key, r, next, malformed = t.claimTurn(owner, lease)
		} else {
			key, r, malformed = t.claimDue(from, owner, lease)
		}
		return nil
	})
	if err != nil { // what is not on disk is not claimed
		return "", Row{}, 0, err
	}
	if key == "" && from != Turns {
		next, err = s.nextDue(ctx, from)
	}
	return key, r, next, cmp.Or(err, malformed)
}

// claimDue takes over the first row of a queue that is due and can be claimed. It returns
// no key if there is none.
func (t *boltTx) claimDue(queue Queue, owner string, lease time.Duration) (key Key, r Row, malformed error) {
	for _, key := range t.dueFrom(queue, t.after(maxDue)+1, claimLooks) { // the clock stepped back
		t.setDue(key, t.now)
	}
	for _, key := range t.dueFrom(queue, 0, claimLooks) {
		if due, _ := t.due(key); due > t.now {
			break
		}
		if r, claimed, malformed := t.claim(key, owner, lease); claimed || malformed != nil {
			return key, r, malformed
		}
	}
	return "", Row{}, nil
}

// claimTurn takes over the row that waits longest for its turn at Slack, if it has it. If
// not, next is how long until it may.
func (t *boltTx) claimTurn(owner string, lease time.Duration) (key Key, r Row, next time.Duration, malformed error) {
	for first := t.firstTurn(); first != nil && t.err == nil; first = t.firstTurn() {
		turn := string(first)
		key = Key(turn[8:])
		r, err := t.read(key)
		if err == nil && r.Phase == Working {
			life := r.Consumed + CodeLife.Milliseconds() - t.now
			if g, ends := t.gate(); g != nil && life > 0 {
				if g.next > t.now {
					return "", Row{}, time.Duration(min(g.next-t.now, life)) * time.Millisecond, nil
				}
				t.pass(g, ends)
			}
			r.Owner, r.Age = owner, time.Duration(t.now-r.Consumed)*time.Millisecond
			t.write(key, r, workingTTL, t.after(lease))
		}
		t.dequeue(Turns, turn)
		switch {
		case err == nil && r.Phase == Working:
			return key, r, 0, nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return key, Row{}, 0, err
		}
	}
	return "", Row{}, -1, nil
}

// claim takes over a row that is due. If it cannot, it changes when the row is due.
func (t *boltTx) claim(key Key, owner string, lease time.Duration) (r Row, claimed bool, malformed error) {
	r, err := t.read(key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.setDue(key, t.after(malformedPause))
		return r, false, err
	}
	due, keep := t.after(lease), time.Duration(0)
	switch r.Phase {
	case Working:
		keep = workingTTL
	case Saved:
		if t.firstSaved(r.Destination) != key {
			t.setDue(key, t.after(malformedPause)) // or when that one ends
			return r, false, nil
		}
	case Recorded:
		if number, _ := t.newest(r.Destination); number > r.Number {
			t.replace(key, r)
			return r, false, nil
		}
		ends, leased := t.acquire(r.Subscriber, owner, lease, key)
		if !leased {
			t.setDue(key, ends)
			return r, false, nil
		}
		due = ends + 1
	default:
		t.schedule(key, r.Phase, 0)
		return r, false, nil
	}
	r.Owner, r.Age = owner, time.Duration(t.now-r.Consumed)*time.Millisecond
	t.write(key, r, keep, due)
	return r, true, nil
}

// dueFrom returns the keys of a queue's rows that are due at a time or later, the first
// due first. An entry that does not match its row is removed.
func (t *boltTx) dueFrom(queue Queue, from int64, limit int) (keys []Key) {
	var stale []string
	cursor := t.bucket(string(queue)).Cursor()
	for k, _ := cursor.Seek(appendMillis(nil, from)); k != nil && len(keys) < limit; k, _ = cursor.Next() {
		key := Key(k[min(8, len(k)):])
		if due, in := t.due(key); in == queue && string(k) == place(due, key) {
			keys = append(keys, key)
		} else {
			stale = append(stale, string(k))
		}
	}
	for _, k := range stale {
		t.dequeue(queue, k)
	}
	return keys
}

// nextDue returns how long until a row of a queue is due, negative without any.
func (s *Bolt) nextDue(ctx context.Context, queue Queue) (wait time.Duration, err error) {
	wait = -1
	err = s.view(ctx, func(t *boltTx) error {
		if k, _ := t.bucket(string(queue)).Cursor().First(); len(k) >= 8 {
			wait = max(0, time.Duration(millis(k)-t.now)*time.Millisecond)
			if wait > maxDue { // the clock stepped back
				wait = 0
			}
		}
		return nil
	})
	return wait, err
}

// Wake implements Backend.
func (s *Bolt) Wake(ctx context.Context, in Queue) (more bool, err error) {
	err = s.update(ctx, func(t *boltTx) error {
		later := t.dueFrom(in, t.after(soon), batch)
		for _, key := range later {
			t.setDue(key, t.now)
		}
		more = len(later) == batch
		return nil
	})
	return more, err
}

// List implements Backend.
func (s *Bolt) List(ctx context.Context, in Queue, fn func(Key, Row, time.Time, error) bool) error {
	return s.view(ctx, func(t *boltTx) error {
		cursor := t.bucket(string(in)).Cursor()
		for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
			key := Key(k[min(8, len(k)):])
			r, err := t.read(key)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			due := time.UnixMilli(millis(k))
			if in == Turns { // its place begins with a number
				due = time.Time{}
			}
			if !fn(key, r, due, err) {
				break
			}
		}
		return nil
	})
}

// Count implements Backend.
func (s *Bolt) Count(ctx context.Context, in Queue) (n int, err error) {
	err = s.view(ctx, func(t *boltTx) error {
		n = int(t.bucket(string(in)).Sequence())
		return nil
	})
	return n, err
}

// Drop implements Backend.
func (s *Bolt) Drop(ctx context.Context, key Key) error {
	return s.update(ctx, func(t *boltTx) error {
		r, err := t.read(key)
		if err == nil {
			t.expireNewest(r.Destination)
		}
		if err == nil && r.Phase == Saved {
			t.endSaved(key, r)
		}
		t.schedule(key, r.Phase, 0)
		t.dequeue(Turns, place(r.Number, key))
		t.delete(flowBucket, string(key))
		return nil
	})
}

// Others implements Backend.
func (s *Bolt) Others(context.Context) (map[Deployment]int, error) {
	others := map[Deployment]int{}
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, home *bolt.Bucket) error {
			for _, q := range Queues {
				if b := home.Bucket([]byte(q)); string(name) != string(s.tag) && b != nil && b.Sequence() > 0 {
					others[Deployment(name)] += int(b.Sequence())
				}
			}
			return nil
		})
	})
	return others, err
}

// Ready implements Backend. It writes, because a full disk can still be read.
func (s *Bolt) Ready(ctx context.Context) error {
	return s.update(ctx, func(t *boltTx) error {
		t.put(leaseBucket, "ready", appendMillis(nil, t.now+1))
		return nil
	})
}

// place returns a row's key in the due bucket.
func place(due int64, key Key) string { return string(append(appendMillis(nil, due), key...)) }

// millis decodes a time or a number from 8 bytes.
func millis(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func appendMillis(b []byte, values ...int64) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}
