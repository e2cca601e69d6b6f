package state

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Bolt is a Backend in an embedded bbolt file, for a single instance. A method that
// changes something returns once the change is on disk; changes made at the same time
// share one write. Each deployment has a bucket of its own, with the values and the queues
// (sorted sets) that Redis has, by the same names:
//
//	NAME              → when the value expires (Unix ms; 0 is never), the value
//	QUEUE/score, KEY  → nothing: the places of a queue, in order
//	flow:KEY/QUEUE    → 0, the score of a row
//
// The functions of boltTx are those of the scripts of Redis, in Go.
type Bolt struct {
	// Now is the clock. Set it before anything else is called.
	Now func() time.Time

	db    *bolt.DB
	tag   Deployment
	swept map[string]string // by the beginning of names: where the next sweep goes on; for transactions that write
}

// read returns a row, or ErrNotFound. Another error says that it is malformed.
func (t *boltTx) read(key Key) (Row, error) {
	value, _ := t.get(flowName(key))
	if value == nil {
		return Row{}, ErrNotFound
	}
	return decode(key, bytes.Clone(value))
}

// write keeps a row for a while or, with 0, until it moves on.
func (t *boltTx) write(key Key, r Row, keep time.Duration) {
	expires := int64(0)
	if keep > 0 {
		expires = t.after(keep)
	}
	t.set(flowName(key), r.encode(), expires)
}

// enqueue moves a row to a queue, or with no queue, out of all.
func (t *boltTx) enqueue(key Key, queue Queue, score int64) {
	for _, q := range Queues {
		if q != queue {
			t.remove(q, key)
		}
	}
	if queue != "" {
		t.add(queue, score, key)
	}
}

// replace ends a row as Replaced.
func (t *boltTx) replace(key Key, r Row) {
	r.Phase, r.Content = replaced, nil
	t.write(key, r, replacedTTL)
	t.enqueue(key, "", 0)
}

// newest returns the number and the key of the newest row recorded for a destination.
func (t *boltTx) newest(destination string) (number int64, key Key) {
	value, _ := t.get("newest:" + destination)
	text, name, _ := strings.Cut(string(value), " ")
	number, _ = strconv.ParseInt(text, 10, 64)
	return number, Key(name)
}

// expireNewest makes the newest row of a destination expire.
func (t *boltTx) expireNewest(destination string) {
	if value, _ := t.get("newest:" + destination); value != nil {
		t.set("newest:"+destination, value, t.after(orderTTL))
	}
}

// lease returns when a subscriber's lease ends, its owner, and the rows that wait for its
// end. A lease ends after maxLease at most, even if the clock stepped back.
func (t *boltTx) lease(subscriber string) (ends int64, owner string, waiting []string) {
	value, _ := t.get("lease:" + subscriber)
	fields := strings.Fields(string(value))
	if len(fields) < 2 {
		return 0, "", nil
	}
	ends, _ = strconv.ParseInt(fields[0], 10, 64)
	return min(ends, t.after(maxLease)), fields[1], fields[2:]
}

func (t *boltTx) setLease(subscriber string, ends int64, owner string, waiting []string) {
	text := strings.Join(append([]string{strconv.FormatInt(ends, 10), owner}, waiting...), " ")
	t.set("lease:"+subscriber, []byte(text), max(ends, t.now)+maxLease.Milliseconds())
}

// acquire leases a subscriber to owner. If another owner has the lease, it adds the row to
// those that wait for its end, and returns false. It returns when the row is due: at the end
// of the lease, and after that of its own, because those that wait go first.
func (t *boltTx) acquire(subscriber, owner string, life time.Duration, key Key) (acquired bool, due int64) {
	ends, holder, waiting := t.lease(subscriber)
	if holder == owner || ends <= t.now {
		ends = t.after(life)
		t.setLease(subscriber, ends, owner, waiting)
		return true, ends + 1
	}
	if !slices.Contains(waiting, string(key)) && len(waiting) < maxWaiting {
		waiting = append(waiting, string(key))
	}
	t.setLease(subscriber, ends, holder, waiting) // with an end that may have come nearer
	return false, ends
}

// release ends owner's lease and makes the rows that wait for it due. With hold, the lease
// goes on for so long without an owner, so that no late call can end it.
func (t *boltTx) release(subscriber, owner string, hold time.Duration) {
	_, holder, waiting := t.lease(subscriber)
	if holder != owner {
		return
	}
	if hold > 0 {
		t.setLease(subscriber, t.after(hold), "-", waiting)
		return
	}
	t.delete([]byte("lease:" + subscriber))
	for _, key := range waiting {
		t.makeDue(Deliveries, Key(key))
	}
}

// makeDue makes a row of a queue due now, if it is still there.
func (t *boltTx) makeDue(queue Queue, key Key) {
	if _, found := t.score(queue, key); found {
		t.add(queue, t.now, key)
	}
}

// orderOf returns the queue of a destination's rows that are Saved, by number.
func orderOf(destination string) Queue { return Queue("order:" + destination) }

// firstSaved returns the key of a destination's oldest row that is Saved. A row that is not
// there any more, or malformed, holds up nothing.
func (t *boltTx) firstSaved(destination string) (first Key) {
	var others []Key
	for _, key := range t.from(orderOf(destination), 0) {
		if r, err := t.read(key); err == nil && r.Phase == Saved {
			first = key
			break
		}
		others = append(others, key)
	}
	for _, key := range others {
		t.remove(orderOf(destination), key)
	}
	return first
}

// endEvent ends a Saved row's place among its destination's events; the next one is due.
func (t *boltTx) endEvent(key Key, destination string) {
	first := t.firstSaved(destination)
	t.remove(orderOf(destination), key)
	if next := t.firstSaved(destination); first == key && next != "" { // or else the first one may be being sent
		t.makeDue(Events, next)
	}
}

// Issue implements Backend.
func (s *Bolt) Issue(ctx context.Context, key Key, request []byte, ttl time.Duration) error {
	_, err := update(ctx, s, func(t *boltTx) (any, error) {
		if _, err := t.read(key); !errors.Is(err, ErrNotFound) {
			return nil, nil // an earlier call stored it, or it is malformed
		}
		for _, kind := range []string{"flow:", "newest:", "lease:"} {
			s.sweep(t, kind)
		}
		t.write(key, Row{Phase: Issued, Request: request}, ttl)
		return nil, nil
	})
	return err
}

// sweepAtOnce is how many values of each kind one Issue checks for expiry. At any steady
// rate of installs, at most about an eighth of the file's values are then expired ones.
const sweepAtOnce = 8

// sweep deletes the expired ones of the next few values of a kind.
func (s *Bolt) sweep(t *boltTx, kind string) {
	var old [][]byte
	cursor := t.Cursor()
	name, value := cursor.Seek([]byte(cmp.Or(s.swept[kind], kind)))
	for n := 0; bytes.HasPrefix(name, []byte(kind)) && n < sweepAtOnce; n++ {
		if t.expired(value) {
			old = append(old, bytes.Clone(name))
		}
		name, value = cursor.Next()
	}
	s.swept[kind] = string(name)
	if !bytes.HasPrefix(name, []byte(kind)) { // begin anew
		s.swept[kind] = kind
	}
	for _, name := range old {
		t.delete(name)
	}
}

// Consume implements Backend.
func (s *Bolt) Consume(ctx context.Context, key Key, owner string, content []byte, lease, patience time.Duration) (Row, error) {
	return update(ctx, s, func(t *boltTx) (Row, error) { return t.consume(key, owner, content, lease, patience) })
}

func (t *boltTx) consume(key Key, owner string, content []byte, lease, patience time.Duration) (Row, error) {
	r, err := t.read(key)
	var g *gate
	if patience > 0 {
		g = t.readGate()
	}
	switch {
	case err != nil:
		return Row{}, err
	case r.Phase == Issued:
		sequence, err := t.NextSequence()
		if err != nil {
			return Row{}, err
		}
		r.Phase, r.Number, r.Consumed, r.Owner, r.Content = Working, int64(sequence), time.UnixMilli(t.now), owner, content
		t.write(key, r, workingTTL)
		if _, first := t.first(Turns); g != nil && (g.next > t.now || first != "") {
			r.Turn = g.turn(t.now, t.place(r.Number))
		} else if g != nil {
			t.pass(g)
		}
		if r.Turn.Place > 0 && r.Turn.Wait <= patience {
			t.add(Turns, r.Number, key)
		} else {
			t.add(Deliveries, t.after(lease), key)
		}
	case r.Phase == Working && r.Owner == owner: // an answer was lost
		r.Turn = g.turn(t.now, t.place(r.Number))
		if _, waits := t.score(Turns, key); waits {
			r.Turn.Wait = min(r.Turn.Wait, patience)
			break
		}
		t.add(Deliveries, t.after(lease), key) // the lease begins anew
		if r.Turn.Wait <= patience {
			r.Turn = Turn{}
		}
	}
	return r, nil
}

// readGate returns the gate as it is now, or nil.
func (t *boltTx) readGate() *gate {
	value, _ := t.get("gate")
	return decodeGate(value, t.now)
}

// pass lets one exchange through the gate.
func (t *boltTx) pass(g *gate) {
	_, expires := t.get("gate")
	g.pass(t.now)
	t.set("gate", g.encode(), expires)
}

// place returns the place in Turns of the row with a number: not all numbers wait.
func (t *boltTx) place(number int64) int64 {
	place := int64(1)
	for waiting := range t.from(Turns, 0) {
		if waiting >= number {
			break
		}
		place++
	}
	return place
}

// Turn implements Backend.
func (s *Bolt) Turn(ctx context.Context, number int64) (Turn, error) {
	return view(ctx, s, func(t *boltTx) (Turn, error) {
		if len(t.between(Turns, number, number, 1)) == 0 {
			return Turn{}, nil
		}
		return t.readGate().turn(t.now, t.place(number)), nil
	})
}

// Look implements Backend.
func (s *Bolt) Look(ctx context.Context, key Key) (Row, error) {
	return view(ctx, s, func(t *boltTx) (Row, error) { return t.read(key) })
}

// Move implements Backend.
func (s *Bolt) Move(ctx context.Context, key Key, m Move) (Step, error) {
	return update(ctx, s, func(t *boltTx) (Step, error) { return t.move(key, m), nil })
}

func (t *boltTx) move(key Key, m Move) Step {
	// A Move with Lease never ends a lease: it may be a late repeat, while its owner is
	// sending.
	endLease := func() {
		if m.Lease == 0 {
			t.release(m.Subscriber, m.Owner, m.Hold)
		}
	}
	r, err := t.read(key)
	switch {
	case err != nil || r.Owner != m.Owner: // a malformed row is lost, too
		return Lost
	case r.Phase == replaced:
		endLease()
		return Overtaken
	case r.Phase == Finished && m.To == Finished:
		return Moved
	case r.Phase == Finished || r.Phase == Issued || phaseOrder(m.To) < phaseOrder(r.Phase):
		return Lost
	}
	if r.Phase != Saved { // or else its event is owed, whatever was connected since
		if r.Destination != m.Destination {
			t.expireNewest(r.Destination)
		}
		if m.Destination != "" {
			number, newest := t.newest(m.Destination)
			if number > r.Number {
				t.replace(key, r)
				endLease()
				return Overtaken
			}
			if older, err := t.read(newest); err == nil && older.Phase == Recorded && older.Number < r.Number {
				t.replace(newest, older)
			}
			t.set("newest:"+m.Destination, fmt.Appendf(nil, "%d %s", r.Number, key), 0)
			if m.To != Recorded {
				t.expireNewest(m.Destination)
			}
		}
		r.Subscriber, r.Destination = m.Subscriber, m.Destination
	} else if m.To == Finished {
		t.endEvent(key, r.Destination)
	}
	r.Phase, r.Attempts, r.Content = m.To, m.Attempts, m.Content
	t.write(key, r, m.Keep)
	if m.Lease > 0 {
		acquired, due := t.acquire(m.Subscriber, m.Owner, m.Lease, key)
		t.enqueue(key, Deliveries, due)
		if !acquired {
			return Waiting
		}
		return Moved
	}
	endLease()
	switch {
	case m.To == Finished:
		t.enqueue(key, "", 0)
	case m.To == Saved:
		t.enqueue(key, Events, t.after(m.Due))
		t.add(orderOf(r.Destination), r.Number, key)
		if t.firstSaved(r.Destination) != key {
			return Waiting
		}
	case m.Close == 0:
		t.enqueue(key, Deliveries, t.after(m.Due))
	default:
		if _, waits := t.score(Turns, key); !waits { // or it is a repeat
			t.set("gate", t.readGate().close(t.now, m.Close).encode(), t.after(gateLife))
			t.enqueue(key, Turns, r.Number)
		}
	}
	return Moved
}

// Claim implements Backend. It writes to the disk only if a row is due.
func (s *Bolt) Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (Key, Row, time.Duration, error) {
	next, err := view(ctx, s, func(t *boltTx) (time.Duration, error) { return t.next(from), nil })
	if err != nil || next != 0 {
		return "", Row{}, next, err
	}
	type claim struct {
		key       Key
		row       Row
		next      time.Duration
		malformed error
	}
	c, err := update(ctx, s, func(t *boltTx) (c claim, _ error) {
		if c.key, c.row, c.malformed = t.claim(from, owner, lease); c.key == "" {
			c.next = t.next(from)
		}
		return c, nil
	})
	return c.key, c.row, c.next, cmp.Or(err, c.malformed)
}

// next returns how long until a row of a queue is due, negative without any.
func (t *boltTx) next(queue Queue) time.Duration {
	due, key := t.first(queue)
	switch {
	case key == "":
		return -1
	case queue == Turns:
		g := t.readGate()
		r, err := t.read(key)
		if g == nil || err != nil || r.Phase != Working {
			return 0
		}
		due = min(g.next, r.Consumed.Add(CodeLife).UnixMilli())
	case due > t.after(maxDue): // the clock stepped back
		return 0
	}
	return max(0, time.Duration(due-t.now)*time.Millisecond)
}

// claim takes over the first row of a queue that is due and can be claimed. Rows of Turns
// are always due: their scores are numbers.
func (t *boltTx) claim(queue Queue, owner string, lease time.Duration) (key Key, r Row, malformed error) {
	for _, key := range t.between(queue, t.after(maxDue), math.MaxInt64, claimLooks) { // the clock stepped back
		t.add(queue, t.now, key)
	}
	for _, key := range t.between(queue, 0, t.now, claimLooks) {
		r, err := t.read(key)
		switch {
		case err != nil && !errors.Is(err, ErrNotFound):
			if queue == Turns {
				queue = Deliveries // where it can wait
			}
			t.enqueue(key, queue, t.after(malformedPause))
			return key, Row{}, err
		case r.Phase == Working:
			if g := t.readGate(); queue == Turns && g != nil && t.now < r.Consumed.Add(CodeLife).UnixMilli() {
				if g.next > t.now {
					return "", Row{}, nil
				}
				t.pass(g)
			}
			return key, t.take(key, r, owner, t.after(lease)), nil
		case r.Phase == Recorded:
			if newest, _ := t.newest(r.Destination); newest > r.Number {
				t.replace(key, r)
				continue
			}
			acquired, due := t.acquire(r.Subscriber, owner, lease, key)
			if acquired {
				return key, t.take(key, r, owner, due), nil
			}
			t.add(queue, due, key)
		case r.Phase == Saved:
			if first := t.firstSaved(r.Destination); first == "" || first == key {
				return key, t.take(key, r, owner, t.after(lease)), nil
			}
			t.add(queue, t.after(malformedPause), key) // or when that one ends
		default:
			t.remove(queue, key)
		}
	}
	return "", Row{}, nil
}

// take makes a row owner's until it is due again.
func (t *boltTx) take(key Key, r Row, owner string, due int64) Row {
	r.Owner = owner
	queue, keep := Deliveries, time.Duration(0)
	switch r.Phase {
	case Working:
		keep = workingTTL
	case Saved:
		queue = Events
	}
	t.write(key, r, keep)
	t.enqueue(key, queue, due)
	r.Age = time.UnixMilli(t.now).Sub(r.Consumed)
	return r
}

// Wake implements Backend.
func (s *Bolt) Wake(ctx context.Context, in Queue) (more bool, err error) {
	return update(ctx, s, func(t *boltTx) (bool, error) {
		later := t.between(in, t.after(soon), math.MaxInt64, batch)
		for _, key := range later {
			t.add(in, t.now, key)
		}
		return len(later) == batch, nil
	})
}

// List implements Backend.
func (s *Bolt) List(ctx context.Context, in Queue, fn func(Key, Row, time.Time, error) bool) error {
	_, err := view(ctx, s, func(t *boltTx) (any, error) {
		for score, key := range t.from(in, 0) {
			if r, err := t.read(key); !errors.Is(err, ErrNotFound) && !fn(key, r, dueTime(in, score), err) {
				break
			}
		}
		return nil, nil
	})
	return err
}

// Count implements Backend.
func (s *Bolt) Count(ctx context.Context, in Queue) (int, error) {
	return view(ctx, s, func(t *boltTx) (int, error) { return t.count(in), nil })
}

func (t *boltTx) count(in Queue) (n int) {
	for range t.from(in, 0) {
		n++
	}
	return n
}

// Drop implements Backend.
func (s *Bolt) Drop(ctx context.Context, key Key) error {
	_, err := update(ctx, s, func(t *boltTx) (any, error) {
		r, _ := t.read(key)
		t.expireNewest(r.Destination)
		t.endEvent(key, r.Destination)
		t.enqueue(key, "", 0)
		t.delete([]byte(flowName(key)))
		return nil, nil
	})
	return err
}

// Others implements Backend.
func (s *Bolt) Others(ctx context.Context) (map[Deployment]int, error) {
	return view(ctx, s, func(t *boltTx) (map[Deployment]int, error) {
		others := map[Deployment]int{}
		err := t.Tx().ForEach(func(name []byte, bucket *bolt.Bucket) error {
			for _, q := range Queues {
				if n := (&boltTx{Bucket: bucket}).count(q); n > 0 && Deployment(name) != s.tag {
					others[Deployment(name)] += n
				}
			}
			return nil
		})
		return others, err
	})
}

// Ready implements Backend. It writes, because a full disk can still be read.
func (s *Bolt) Ready(ctx context.Context) error {
	_, err := update(ctx, s, func(t *boltTx) (any, error) {
		t.set("lease:ready", nil, t.now+1)
		return nil, nil
	})
	return err
}
