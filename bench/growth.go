package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// growth shows what the service costs when there is much of something.
func growth(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench growth", flag.ExitOnError)
	states := flags.Int("states", 100_000, "pending states in Redis; 0 skips them")
	entries := flags.Int("entries", 10_000, "outbox entries, in Redis and in the embedded store; 0 skips them")
	connections := flags.Int("connections", 1_000, "idle keep-alive connections; 0 skips them")
	_ = flags.Parse(args)
	if err := nofile(uint64(*connections) + 1000); err != nil {
		return err
	}
	l, err := newLab(false)
	if err != nil {
		return err
	}
	defer l.close()
	if *states > 0 {
		err = manyStates(l, *states, out)
	}
	if err == nil && *entries > 0 {
		err = manyEntries(l, *entries, out)
	}
	if err == nil && *connections > 0 {
		err = manyConnections(l, *connections, out)
	}
	return err
}

func manyStates(l *lab, n int, out io.Writer) error {
	ctx := context.Background()
	s, err := l.start("service", l.addr)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Fprintf(out, "%d pending states in Redis\n", n)
	if err := pace(l, s, "before", out); err != nil {
		return err
	}
	before := l.usedMemory()
	flows := state.NewRedis(l.redis)
	err = each(n, 64, func(i int) error {
		key, ending := flow(i)
		return flows.Issue(ctx, key, ending.Flow, time.Hour)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  Redis bytes a state   %.0f\n", float64(l.usedMemory()-before)/float64(n))
	err = pace(l, s, "after", out)
	l.redis.FlushAll(ctx)
	return err
}

// pace prints the latency of four seconds at 100 flows a second.
func pace(l *lab, s *server, when string, out io.Writer) error {
	installs, callbacks, err := open(s.addr, l.visits("service", 400), 100)
	if err == nil {
		fmt.Fprintf(out, "  %-8s install p50 %.2f ms, callback p50 %.2f ms; the service has %.1f MB\n", when, percentile(installs, 50), percentile(callbacks, 50), s.memory("VmRSS"))
	}
	return err
}

// flow makes the i-th of many flows, as an install leaves it.
func flow(i int) (state.Key, state.Ending) {
	id, _ := state.FlowID(state.NewState(time.Now()))
	key, _ := state.NewKey(id, state.NewHalf())
	return key, state.Ending{Key: key, TTL: time.Hour, Flow: state.Flow{
		Subscriber: fmt.Sprintf("user-%012d", i), Integration: "slack-main", ReturnURL: returnURL, LinkExpires: time.Now().Unix() + 3600,
	}, Result: state.Result{Code: state.Connected, Team: "Acme", Channel: "#alerts", ConfigurationURL: "https://acme.slack.com/services/B0123456789"}}
}

// each calls fn for 0 to n-1, so many at a time, until one fails.
func each(n, atATime int, fn func(int) error) error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, atATime)
	for worker := range atATime {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[worker] == nil; i = int(next.Add(1)) - 1 {
				errs[worker] = fn(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// refusing is a Novu whose key is wrong: entries then wait for an hour.
type refusing struct{}

func (refusing) Save(context.Context, novuclient.Connection) error {
	return &novuclient.Error{Op: "save credentials", Reason: novuclient.BadKey}
}

func manyEntries(l *lab, n int, out io.Writer) error {
	fmt.Fprintf(out, "%d outbox entries in Redis\n", n)
	if err := entries(l, outbox.NewRedis(l.redis, state.NewRedis(l.redis)), l.addr, func() error { return nil }, n, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d outbox entries in the embedded store\n", n)
	db, err := bolt.Open(filepath.Join(l.dir, "data.db"), 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	db.MaxBatchDelay = time.Millisecond // as the service sets it
	flows, err := state.NewBolt(db)
	if err != nil {
		return err
	}
	store, err := outbox.NewBolt(db, flows)
	if err != nil {
		return err
	}
	return entries(l, store, "", db.Close, n, out)
}

// entries fills a store with connections that are not due, looks what they cost
// while they wait, closes it, and lets the service send them.
func entries(l *lab, store outbox.Store, redis string, closeStore func() error, n int, out io.Writer) error {
	ctx := context.Background()
	o, err := outbox.New(outbox.Config{Store: store, Novu: refusing{}, Secrets: []secret.String{secret.New(clientSecret)}, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	costs := func(when string) error {
		claim, err := typical(func() error { _, _, err := store.Claim(ctx, time.Second); return err })
		scrape, err2 := typical(func() error { _, _, err := o.Waiting(ctx); return err })
		fmt.Fprintf(out, "  %-8s a look for what is due %.3f ms, a scrape of the metrics %.3f ms\n", when, claim, scrape)
		return errors.Join(err, err2)
	}
	if err := costs("before"); err != nil {
		return err
	}
	err = each(n, 256, func(i int) error {
		_, ending := flow(i)
		_, _, err := o.Deliver(ctx, novuclient.Connection{SubscriberID: ending.Flow.Subscriber, Integration: "slack-main", WebhookURL: secret.New(webhook)}, ending)
		return err
	})
	if err != nil {
		return err
	}
	if err := costs("waiting"); err != nil {
		return err
	}
	if err := closeStore(); err != nil {
		return err
	}
	s, err := l.start("service", redis) // which makes everything due
	if err != nil {
		return err
	}
	defer s.stop()
	// Without the pages of files: the embedded store's, which the kernel can drop.
	begin, saved, first, most := time.Now(), l.fakes.saved.Load(), 0.0, 0.0
	for l.fakes.saved.Load() < saved+int64(n) {
		if time.Since(begin) > 10*time.Minute {
			return fmt.Errorf("after ten minutes %d of %d entries are sent", l.fakes.saved.Load()-saved, n)
		}
		if first == 0 && l.fakes.saved.Load() > saved+int64(n/10) {
			first = s.memory("RssAnon")
		}
		most = max(most, s.memory("RssAnon"))
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(begin).Seconds()
	fmt.Fprintf(out, "  drained in %.1f s, %.0f/s; beside its files the service had %.1f MB after a tenth, %.1f MB at most\n", took, float64(n)/took, first, most)
	return nil
}

// typical is the median of fifty calls, in milliseconds.
func typical(fn func() error) (float64, error) {
	var times []time.Duration
	for range 50 {
		start := time.Now()
		if err := fn(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	return percentile(times, 50), nil
}

func manyConnections(l *lab, n int, out io.Writer) error {
	s, err := l.start("service", l.addr)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Fprintf(out, "%d idle connections\n", n)
	if err := pace(l, s, "before", out); err != nil {
		return err
	}
	before := s.memory("VmRSS")
	for range n {
		b, err := dial(s.addr)
		if err != nil {
			return err
		}
		defer b.conn.Close()
		if _, err := b.get("/healthz", ""); err != nil {
			return err
		}
	}
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	fmt.Fprintf(out, "  %.1f kB a connection, %d open files\n", (s.memory("VmRSS")-before)*1000/float64(n), len(files))
	return pace(l, s, "with them", out)
}
