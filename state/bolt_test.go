package state

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/secret"
)

// The look for expired rows goes on where the last one ended: live ones are not in
// its way.
func TestBoltSweepGoesRound(t *testing.T) {
	b := newTestBolt(t)
	s := b.Backend.(*Bolt)
	s.db.MaxBatchSize = 0 // nobody else writes
	issue := func(n int, ttl time.Duration) {
		for range n {
			must(t, s.Issue(t.Context(), newKey(t), []byte("request"), ttl))
		}
	}
	issue(200, time.Hour)
	issue(200, time.Minute)
	dead, _ := b.consume(t)
	b.wait(70 * time.Minute)
	issue(100, time.Hour) // which look at 800
	b.claim(t, "")
	inBolt(t, s, func(tx *boltTx) {
		rows, places := 0, 0
		must(t, tx.ForEach(func(name, _ []byte) error {
			if strings.HasPrefix(string(name), "flow:") {
				rows++
			} else if strings.Contains(string(name), "/") {
				places++
			}
			return nil
		}))
		if rows != 100 {
			t.Errorf("%d rows are kept, want the 100 that live", rows)
		}
		if places != 0 {
			t.Errorf("%d places are kept in queues, one of them of %s", places, dead)
		}
	})
}

// What orders the events of a destination is not kept for one that cannot be read any more.
func TestBoltForgetsMalformedEvents(t *testing.T) {
	b := newTestBolt(t)
	first, m1 := b.record(t, "ada", "", Moved)
	b.move(t, first, saved(m1, 0), Moved)
	second, m2 := b.record(t, "ada", "", Moved)
	b.move(t, second, saved(m2, 0), Waiting)
	b.write(first, "malformed")
	must(t, b.Drop(t.Context(), first))
	b.move(t, second, finished(m2), Moved)
	inBolt(t, b.Backend.(*Bolt), func(tx *boltTx) {
		must(t, tx.ForEach(func(name, _ []byte) error {
			if bytes.Contains(name, []byte("order:")) {
				t.Errorf("%q is kept", name)
			}
			return nil
		}))
	})
}

// After a flood of states has expired, a flow writes as little as before it: the list
// of free pages is not written with every change.
func TestBoltAfterAFlood(t *testing.T) {
	b := newTestBolt(t)
	s := b.Backend.(*Bolt)
	s.db.MaxBatchSize = 0
	written := func() int64 {
		before := s.db.Stats()
		key, m := b.record(t, "ada", "", Moved)
		b.move(t, key, finished(m), Moved)
		diff := s.db.Stats()
		diff = diff.Sub(&before)
		return diff.TxStats.GetPageAlloc()
	}
	before := written()
	must(t, s.db.Update(func(tx *bolt.Tx) error { // 20,000 states in one write
		home := &boltTx{Bucket: tx.Bucket([]byte(s.tag)), now: s.Now().UnixMilli()}
		for range 20_000 {
			home.write(newKey(t), Row{Phase: Issued, Request: make([]byte, 700)}, time.Minute)
		}
		return nil
	}))
	b.wait(2 * time.Minute)
	for range 30 { // and are swept, as by 3,000 more
		inBolt(t, s, func(home *boltTx) {
			for range 100 {
				s.sweep(home, "flow:")
			}
		})
	}
	inBolt(t, s, func(home *boltTx) {
		if n := home.Stats().KeyN; n > 10 {
			t.Errorf("%d rows are left of the flood", n)
		}
	})
	if after := written(); after > before+64<<10 {
		t.Errorf("a flow allocates %d bytes of pages after the flood, %d before", after, before)
	}
}

// What is not a data file, or only a part of one, is an error that names the setting
// and not the path, and no end of the process.
func TestBoltRefusesDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	s, err := OpenBolt(good, testDeployment)
	must(t, err)
	s.db.NoSync = true
	must(t, s.db.Update(func(tx *bolt.Tx) error {
		home := &boltTx{Bucket: tx.Bucket([]byte(s.tag)), now: s.Now().UnixMilli()}
		for range 3000 {
			home.write(newKey(t), Row{Phase: Issued, Request: make([]byte, 700)}, time.Minute)
		}
		return nil
	}))
	used := int64(0) // the file may be longer
	must(t, s.db.View(func(tx *bolt.Tx) error {
		used = tx.Size()
		return nil
	}))
	must(t, s.Close())
	whole, err := os.ReadFile(good)
	must(t, err)
	whole = whole[:used]
	for name, data := range map[string][]byte{
		"cut to a tenth":          whole[:len(whole)/10],
		"cut in half":             whole[:len(whole)/2],
		"cut by the last quarter": whole[:len(whole)*3/4],
		"cut inside a page":       whole[:len(whole)/3+1234],
		"cut to one page":         whole[:4096],
		"zeros":                   make([]byte, 64<<10),
		"zeros behind the start":  append(bytes.Clone(whole[:16<<10]), make([]byte, len(whole)-16<<10)...),
		"text":                    []byte(strings.Repeat("no database ", 4096)),
		"a few bytes":             []byte("x"),
	} {
		path := filepath.Join(dir, "secret-path.db")
		must(t, os.WriteFile(path, data, 0o600))
		s, err := OpenBolt(path, testDeployment)
		if err == nil {
			s.Close()
			t.Errorf("%s: got no error", name)
		} else if text := err.Error(); !strings.HasPrefix(text, "DATA_FILE") || strings.Contains(text, "secret-path") || strings.Contains(text, "\n") {
			t.Errorf("%s: got %q", name, text)
		}
	}
	s, err = OpenBolt(good, testDeployment)
	must(t, err)
	defer s.Close()
	if _, err := OpenBolt(good, testDeployment); !errors.Is(err, ErrInUse) {
		t.Errorf("a file that is open already: got %v, want ErrInUse", err)
	}
	if _, err := OpenBolt(filepath.Join(dir, "none", "x.db"), testDeployment); err == nil || strings.Contains(err.Error(), dir) || Remedy(err) != "name a file in a folder that can be written" {
		t.Errorf("a missing folder: got %v", err)
	}
}

// A file is as it was after the process was killed.
func TestBoltKeepsItsOrderAndLeasesAcrossProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	open := func() (testBackend, *Bolt) {
		s, err := OpenBolt(path, testDeployment)
		must(t, err)
		return testBackend{Backend: s}, s
	}
	b, s := open()
	older, owner := b.consume(t)
	newer, m := b.record(t, "ada", "", Moved)
	busy, _ := b.record(t, "ada", "/eu", Waiting)
	must(t, s.Close())

	b, s = open()
	defer s.Close()
	b.claim(t, "") // the lease of the process that died may still be at work
	b.move(t, older, recorded(owner, "ada", ""), Overtaken)
	b.move(t, newer, finished(m), Moved)
	b.claim(t, busy)
	next, m2 := b.record(t, "bob", "", Moved)
	if row, err := b.Look(t.Context(), next); err != nil || row.Number < 4 {
		t.Errorf("got %+v, %v, want the numbers to go on", row, err)
	}
	b.move(t, next, finished(m2), Moved)
	if _, err := exec.LookPath("stat"); err == nil {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
		}
	}
}

// Calls made at the same time share a transaction, in which a row can come and go.
func TestBoltQueueInOneTransaction(t *testing.T) {
	s := newTestBolt(t).Backend.(*Bolt) // whose clean-up compares scores and places
	inBolt(t, s, func(t *boltTx) {
		t.enqueue("a", Deliveries, 1)
		t.enqueue("a", Deliveries, 2)
		t.enqueue("b", Deliveries, 1)
		t.enqueue("c", Turns, 1)
		t.enqueue("b", Turns, 2)
		t.enqueue("a", "", 0)
		t.enqueue("a", "", 0)
		t.enqueue("c", Deliveries, 3)
	})
	for _, q := range []Queue{Turns, Deliveries} {
		if n, err := s.Count(t.Context(), q); n != 1 || err != nil {
			t.Errorf("%s: got %d, %v, want 1", q, n, err)
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
	client, err := NewRedisClient(secret.New("redis://" + l.Addr().String() + "?max_retries=10&read_timeout=30s"))
	must(t, err)
	defer client.Close()
	s, pipe := NewRedis(client, "nsr", testDeployment), client.Pipeline()
	pipe.Get(t.Context(), "x")
	for op, ask := range map[string]func() error{
		"ready":    func() error { return s.Ready(t.Context()) },
		"pipeline": func() error { _, err := pipe.Exec(t.Context()); return err },
	} {
		start := time.Now()
		if err := ask(); err == nil || time.Since(start) > 25*time.Second { // less than the client's own limit
			t.Errorf("%s: got %v after %v, want an error after about 1.8 s", op, err, time.Since(start))
		}
	}
}
