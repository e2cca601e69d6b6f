// Package bench measures the service beside a floor, a small program that keeps the same
// promises on the wire (bench/floor), and beside other builds of the service. They run in turn on this machine, with a real redis-server and fakes of Slack and Novu. With
// its defaults it measures nothing, and only sees that it still works.
// docs/performance.md says how to run it and how to read it.
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var (
	flows       = flag.Int("flows", 20, "flows of each program in each round, and 400 at most for the latency")
	concurrency = flag.Int("concurrency", 32, "flows at a time")
	rounds      = flag.Int("rounds", 1, "rounds, in each of which every program has its turn")
	rate        = flag.Int("rate", 100, "flows a second while latency is measured")
	pending     = flag.Int("pending", 20, "flows in Redis whose person is at Slack")
	recorded    = flag.Int("recorded", 20, "flows that Novu does not have yet, in each store")
	idle        = flag.Int("idle", 20, "connections that clients keep open and do not use")
	builds      = flag.String("builds", "", "other builds of the service to compare with: `files`, between commas")
)

func TestBench(t *testing.T) {
	l := newLab(t)
	t.Run("compare", func(t *testing.T) { compare(t, l) })
	t.Run("pending", func(t *testing.T) { growPending(t, l) })
	t.Run("recorded", func(t *testing.T) { growRecorded(t, l) })
	t.Run("idle", func(t *testing.T) { growIdle(t, l) })
}

func compare(t *testing.T, l *lab) {
	programs := append([]program{l.floor}, l.services...)
	processes := make([]*process, len(programs))
	table := &table{programs: programs}
	for round := range *rounds {
		l.redis.FlushAll(t.Context())
		order := make([]int, len(programs))
		for i := range order { // each program comes early in some rounds and late in others
			order[i] = (i + round) % len(order)
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			if processes[i] != nil && programs[i].bolt {
				processes[i].kill() // its file serves one at a time
			}
			p := l.start(programs[i])
			table.add("exec to the first 200 (ms)", "%.1f", p, p.started.Seconds()*1000)
			if processes[i] == nil || p.bolt {
				processes[i] = p
				repeat(t, min(300, *flows), *concurrency, p.connect) // warm
			} else {
				p.kill()
			}
			measure(t, processes[i], table)
		}
	}
	for _, p := range processes {
		table.add("resident memory at the end (MB)", "%.1f", p, p.memory("VmRSS"))
		table.add("of it not pages of files (MB)", "%.1f", p, p.memory("RssAnon"))
		file, err := os.Stat(p.path)
		must(t, err)
		table.add("stripped binary (MB)", "%.1f", p, float64(file.Size())/1e6)
		p.kill()
	}
	table.print()
}

func measure(t *testing.T, p *process, table *table) {
	n := float64(*flows)
	cpu, mallocs, bytes := p.cpu(), p.metric("go_memstats_mallocs_total"), p.metric("go_memstats_alloc_bytes_total")
	perSecond := repeat(t, *flows, *concurrency, p.connect)
	table.add("CPU of a flow (ms)", "%.3f", p, (p.cpu()-cpu)/n)
	table.add("allocations of a flow", "%.0f", p, (p.metric("go_memstats_mallocs_total")-mallocs)/n)
	table.add("bytes allocated of a flow", "%.0f", p, (p.metric("go_memstats_alloc_bytes_total")-bytes)/n)
	table.add(fmt.Sprintf("flows a second, %d at a time", *concurrency), "%.0f", p, perSecond)
	p50, p99 := p.latency(t)
	table.add(fmt.Sprintf("callback p50 at %d flows a second (ms)", *rate), "%.2f", p, p50)
	table.add("callback p99 (ms)", "%.2f", p, p99)
}

// table has a row for each figure, with the values of every program.
type table struct {
	programs []program
	rows     []*row
}

type row struct {
	name, format string
	values       map[program][]float64
}

func (t *table) add(name, format string, p *process, value float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{name, format, map[program][]float64{}})
	}
	t.rows[i].values[p.program] = append(t.rows[i].values[p.program], value)
}

// print writes medians, the lowest and the highest value, and how often the median of
// the rounds goes into the service's with the same store.
func (t *table) print() {
	head, line := "| |", "|---|"
	for _, p := range t.programs {
		head, line = head+" "+p.String()+" |", line+"--:|"
	}
	fmt.Print(head, "\n", line, "\n")
	for _, r := range t.rows {
		fmt.Printf("| %s |", r.name)
		for _, p := range t.programs {
			values := r.values[p]
			fmt.Printf(" "+r.format, median(values))
			if len(values) > 1 {
				fmt.Printf(" ("+r.format+"–"+r.format+")", slices.Min(values), slices.Max(values))
			}
			if service := r.values[program{t.programs[1].name, t.programs[1].path, p.bolt}]; p.path != t.programs[1].path && len(service) == len(values) {
				ratios := make([]float64, len(values))
				for i := range ratios {
					ratios[i] = service[i] / values[i]
				}
				fmt.Printf(" ×%.2f", median(ratios))
			}
			fmt.Print(" |")
		}
		fmt.Println()
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// A flow of the service has at most 1.25 times the allocations of the floor. Unlike times,
// they are the same on a busy machine.
func TestAllocations(t *testing.T) {
	l := newLab(t)
	allocations := func(of program) float64 {
		p := l.start(of)
		defer p.kill()
		repeat(t, 100, 8, p.connect) // warm
		const n = 300
		before := p.metric("go_memstats_mallocs_total")
		repeat(t, n, 8, p.connect)
		return (p.metric("go_memstats_mallocs_total") - before) / n
	}
	floor, service := allocations(l.floor), allocations(l.services[0])
	if service > 1.25*floor {
		t.Errorf("a flow of the service has %.0f allocations, want at most 1.25 times the floor's %.0f", service, floor)
	}
}

// What a first request does not need is made when it is needed: the initialisation of our
// own packages allocates at most 300 KB. https://pkg.go.dev/runtime, GODEBUG=inittrace
func TestInitialisation(t *testing.T) {
	cmd := exec.Command(newLab(t).services[0].path, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	trace, err := cmd.CombinedOutput()
	must(t, err)
	sum, each := 0, ""
	for line := range strings.Lines(string(trace)) {
		var name string
		var at, clock float64
		var bytes int
		if n, _ := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes", &name, &at, &clock, &bytes); n == 4 && strings.HasPrefix(name, "novu-slack-redirect/") {
			sum += bytes
			each += fmt.Sprintf("\n%s %d", name, bytes)
		}
	}
	if sum == 0 || sum > 300_000 {
		t.Errorf("the packages allocate %d bytes, want 1 to 300,000:%s", sum, each)
	}
}
