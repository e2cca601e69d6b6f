package bench

import (
	"fmt"
	"testing"
	"time"
)

// growPending shows what a flow costs while many people are at Slack.
func growPending(t *testing.T, l *lab) {
	for _, program := range l.services {
		if program.bolt {
			continue
		}
		l.redis.FlushAll(t.Context())
		p := l.start(program)
		fmt.Printf("%d pending flows, %v\n", *pending, program)
		p.printLatency(t, "before")
		empty := l.redisBytes()
		repeat(t, *pending, 64, func() error { _, _, err := p.install(); return err })
		fmt.Printf("  %.0f bytes of Redis's memory for each\n", (l.redisBytes()-empty)/float64(*pending))
		p.printLatency(t, "with them")
		p.kill()
	}
}

// growRecorded lets Novu refuse the webhooks of many flows, which then wait for an hour,
// or until the service starts again.
func growRecorded(t *testing.T, l *lab) {
	for _, program := range l.services {
		p := l.start(program)
		fmt.Printf("%d recorded flows, %v\n", *recorded, program)
		p.printLatency(t, "before")
		l.fakes.refuse.Store(true)
		repeat(t, *recorded, 128, func() error { _, err := p.flow("pending"); return err })
		l.fakes.refuse.Store(false)
		start := time.Now()
		p.metric("any")
		fmt.Printf("  reading the metrics: %.1f ms\n", time.Since(start).Seconds()*1000)
		p.printLatency(t, "with them")
		p.kill()
		wanted := l.fakes.saved.Load() + int64(*recorded)
		p, start = l.start(program), time.Now()
		most := 0.0
		if !waitFor(10*time.Minute, func() bool { most = max(most, p.memory("RssAnon")); return l.fakes.saved.Load() >= wanted }) {
			t.Fatalf("%d of %d flows were not sent in ten minutes", wanted-l.fakes.saved.Load(), *recorded)
		}
		took := time.Since(start).Seconds()
		fmt.Printf("  after a start, of %.0f ms, sent in %.1f s: %.0f a second; %.1f MB not pages of files, at most\n",
			p.started.Seconds()*1000, took, float64(*recorded)/took, most)
		p.kill()
	}
}

func (p *process) printLatency(t *testing.T, when string) {
	p50, p99 := p.latency(t)
	fmt.Printf("  %s: callback p50 %.2f ms, p99 %.2f ms; resident %.1f MB, %.1f MB of it not pages of files\n", when, p50, p99, p.memory("VmRSS"), p.memory("RssAnon"))
}
