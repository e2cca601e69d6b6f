package bench

import (
	"crypto/rand"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state"
)

// growPending shows what a flow costs while many people are at Slack. Their flows are put
// into the store directly, as long as real ones and as random.
func growPending(t *testing.T, l *lab) {
	deployment := state.NewDeployment(origin, clientID, "")
	for _, program := range l.services {
		l.redis.FlushAll(t.Context())
		p := l.start(program)
		fmt.Printf("%d pending flows, %v\n", *pending, program)
		p.printLatency(t, "before")
		empty := l.redisBytes()
		if program.bolt {
			p.kill() // its file serves one at a time
			file, err := state.OpenBolt(l.dataFile(program), deployment)
			must(t, err)
			issue(t, file)
			must(t, file.Close())
			p = l.start(program)
			info, err := os.Stat(l.dataFile(program))
			must(t, err)
			fmt.Printf("  started in %.0f ms; the file has %.0f MB\n", p.started.Seconds()*1000, float64(info.Size())/1e6)
		} else {
			issue(t, state.NewRedis(redis.NewClient(l.redis.Options()), "nsr", deployment))
			fmt.Printf("  %.0f bytes of Redis's memory for each\n", (l.redisBytes()-empty)/float64(*pending))
		}
		p.printLatency(t, "with them")
		p.kill()
	}
}

// issue puts pending flows into a store.
func issue(t *testing.T, to state.Backend) {
	repeat(t, *pending, 256, func() error {
		key, _ := state.NewKey(state.NewOwner()[:24], state.NewBrowserHalf())
		request := make([]byte, 400)
		rand.Read(request)
		return to.Issue(t.Context(), key, request, 15*time.Minute)
	})
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
