// Command bench measures the service beside a floor, a small program that makes
// the same calls and promises nothing (package floor). It runs both in turn on
// this machine, with a real redis-server and fakes of Slack and Novu, and prints
// one table with their ratio. docs/performance.md tells how to read it.
//
//	go run ./bench                 service and floor, with Redis
//	go run ./bench -store bolt     the service alone, with the embedded store
//	go run ./bench growth          many states, entries and connections
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// settings are the command's flags.
type settings struct {
	flows, concurrency, rounds, rate, starts, pending int
	store, profile                                    string
}

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "growth" {
		return growth(args[1:], out)
	}
	var s settings
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&s.flows, "flows", 10_000, "flows in each round")
	flags.IntVar(&s.concurrency, "concurrency", 32, "flows at a time")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds, each of the service and of the floor")
	flags.IntVar(&s.rate, "rate", 100, "flows a second while latency is measured, for 4 s a round at most")
	flags.IntVar(&s.starts, "starts", 11, "starts of each program")
	flags.IntVar(&s.pending, "pending", 20_000, "pending states to weigh in Redis")
	flags.StringVar(&s.store, "store", "redis", "redis, or bolt: the service alone on its embedded store")
	flags.StringVar(&s.profile, "profile", "", "measure nothing, and write CPU and memory profiles into this `directory`")
	_ = flags.Parse(args)
	if s.store != "redis" && s.store != "bolt" || flags.NArg() > 0 {
		flags.Usage()
		return errors.New("unknown store or argument")
	}
	l, err := newLab(s.profile != "")
	if err != nil {
		return err
	}
	defer l.close()
	names, addr := []string{"service", "floor"}, l.addr
	if s.store == "bolt" {
		names, addr = names[:1], ""
	}
	if s.profile != "" {
		return profile(l, s, names, addr)
	}
	t := &table{names: names}
	if err := compare(l, s, t, addr); err != nil {
		return err
	}
	t.print(out)
	return nil
}

// compare fills the table.
func compare(l *lab, s settings, t *table, redis string) error {
	servers := map[string]*server{}
	for _, name := range t.names {
		var err error
		if servers[name], err = l.start(name, redis); err != nil {
			return err
		}
		if _, err := closed(servers[name].addr, l.visits(name, s.concurrency*10), s.concurrency); err != nil { // warm
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	// Side by side, and each first in every other round, so that what else the
	// machine does falls on both.
	for round := range s.rounds {
		order := slices.Clone(t.names)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			l.redis.FlushAll(context.Background())
			if err := throughput(l, s, t, servers[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		for _, name := range order {
			if err := latency(l, s, t, servers[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for _, name := range t.names {
		t.add(fmt.Sprintf("resident memory after %d flows (MB)", s.rounds*s.flows), "%.1f", name, servers[name].memory("VmRSS"))
		t.add("of it not pages of files (MB)", "%.1f", name, servers[name].memory("RssAnon"))
		if redis != "" {
			if err := weigh(l, s, t, servers[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		servers[name].stop()
	}
	if redis != "" {
		for _, name := range t.names {
			if err := trips(l, s, t, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for range s.starts {
		for _, name := range t.names {
			server, err := l.start(name, redis)
			if err != nil {
				return err
			}
			server.stop()
			t.add("exec to first 200 (ms)", "%.1f", name, server.ready.Seconds()*1000)
		}
	}
	for _, name := range t.names {
		file, err := os.Stat(filepath.Join(l.dir, name))
		if err != nil {
			return err
		}
		t.add("stripped binary (MB)", "%.1f", name, float64(file.Size())/1e6)
	}
	return nil
}

// throughput measures a closed loop.
func throughput(l *lab, s settings, t *table, server *server) error {
	visits := l.visits(server.name, s.flows)
	cpu, mallocs, bytes := server.cpu(), server.metric("go_memstats_mallocs_total"), server.metric("go_memstats_alloc_bytes_total")
	perSecond, err := closed(server.addr, visits, s.concurrency)
	if err != nil {
		return err
	}
	flows := float64(s.flows)
	t.add(fmt.Sprintf("flows/s, %d at a time", s.concurrency), "%.0f", server.name, perSecond)
	t.add("CPU s for 10,000 flows", "%.2f", server.name, (server.cpu()-cpu)/flows*10_000)
	t.add("allocations a flow", "%.0f", server.name, (server.metric("go_memstats_mallocs_total")-mallocs)/flows)
	t.add("bytes allocated a flow", "%.0f", server.name, (server.metric("go_memstats_alloc_bytes_total")-bytes)/flows)
	return nil
}

// latency measures an open loop of four seconds at most.
func latency(l *lab, s settings, t *table, server *server) error {
	installs, callbacks, err := open(server.addr, l.visits(server.name, min(4*s.rate, s.flows)), s.rate)
	if err != nil {
		return err
	}
	for _, p := range []int{50, 99} {
		t.add(fmt.Sprintf("install p%d at %d flows/s (ms)", p, s.rate), "%.2f", server.name, percentile(installs, p))
		t.add(fmt.Sprintf("callback p%d at %d flows/s (ms)", p, s.rate), "%.2f", server.name, percentile(callbacks, p))
	}
	return nil
}

// weigh tells what Redis needs for a pending state, of everything it has in use
// and of one key as it says itself.
func weigh(l *lab, s settings, t *table, server *server) error {
	ctx := context.Background()
	l.redis.FlushAll(ctx)
	before := l.usedMemory()
	b, err := dial(server.addr)
	if err != nil {
		return err
	}
	defer b.conn.Close()
	for _, v := range l.visits(server.name, s.pending) {
		if _, _, err := b.install(v); err != nil {
			return err
		}
	}
	t.add(fmt.Sprintf("Redis bytes a pending state, of %d", s.pending), "%.0f", server.name, float64(l.usedMemory()-before)/float64(s.pending))
	t.add("Redis MEMORY USAGE of one", "%.0f", server.name, float64(l.redis.MemoryUsage(ctx, l.redis.RandomKey(ctx).Val()).Val()))
	l.redis.FlushAll(ctx)
	return nil
}

// trips counts round trips, one flow after the other.
func trips(l *lab, s settings, t *table, name string) error {
	proxy, err := newCounter(l.addr)
	if err != nil {
		return err
	}
	server, err := l.start(name, proxy.addr)
	if err != nil {
		return err
	}
	defer server.stop()
	if _, err := closed(server.addr, l.visits(name, 50), 1); err != nil { // connects, and makes Redis know the scripts
		return err
	}
	n, before := min(2000, s.flows), proxy.trips.Load()
	_, err = closed(server.addr, l.visits(name, n), 1)
	t.add("Redis round trips a flow", "%.2f", name, float64(proxy.trips.Load()-before)/float64(n))
	return err
}

// profile loads one server after the other for its profiles.
func profile(l *lab, s settings, names []string, redis string) error {
	if err := os.MkdirAll(s.profile, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		server, err := l.start(name, redis)
		if err != nil {
			return err
		}
		visits, done := l.visits(name, s.flows*s.rounds), make(chan error, 1)
		go func() {
			_, err := closed(server.addr, visits, s.concurrency)
			done <- err
		}()
		if err := errors.Join(server.profile(s.profile, 8), <-done); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		server.stop()
	}
	return nil
}

// table has a row for each figure, with every server's values.
type table struct {
	names []string
	rows  []*row
}

type row struct {
	name, format string
	values       map[string][]float64
}

func (t *table) add(name, format, server string, value float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{name, format, map[string][]float64{}})
	}
	t.rows[i].values[server] = append(t.rows[i].values[server], value)
}

// print writes medians, and the median of the rounds' ratios.
func (t *table) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprint(w, "\t")
	for _, name := range t.names {
		fmt.Fprintf(w, "%s\t", name)
	}
	if len(t.names) == 2 {
		fmt.Fprint(w, "ratio\t")
	}
	for _, r := range t.rows {
		fmt.Fprintf(w, "\n%s\t", r.name)
		for _, name := range t.names {
			fmt.Fprintf(w, r.format+"\t", median(r.values[name]))
		}
		if len(t.names) == 2 {
			var ratios []float64
			for i, value := range r.values[t.names[0]] {
				ratios = append(ratios, value/r.values[t.names[1]][i])
			}
			fmt.Fprintf(w, "%.2f\t", median(ratios))
		}
	}
	fmt.Fprintln(w)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
