package bench

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
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

// growIdle shows what connections cost that clients keep open after a request and do not
// use. The service closes those that have been idle longest; see service.Limits.
func growIdle(t *testing.T, l *lab) {
	for _, program := range l.services {
		p := l.start(program)
		fmt.Printf("%d idle connections, %v\n", *idle, program)
		p.printLatency(t, "before")
		conns := make(chan net.Conn, *idle)
		repeat(t, *idle, 8, func() error {
			conn, err := p.getAndKeepOpen("/healthz")
			if err != nil { // it may be closed as the oldest before its request is read: browsers connect again
				conn, err = p.getAndKeepOpen("/healthz")
			}
			conns <- conn
			return err
		})
		fmt.Printf("  %s of them are open\n", p.openConnections(t))
		p.printLatency(t, "with them")
		close(conns)
		for conn := range conns {
			_ = conn.Close()
		}
		p.kill()
	}
}

// getAndKeepOpen makes a request on a connection of its own and leaves the connection open.
func (p *process) getAndKeepOpen(path string) (net.Conn, error) {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", path)
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return conn, err
}

// openConnections returns how many connections of clients the process has open. The kernel
// has them in /proc/PID/net/tcp, where state 01 is open. https://docs.kernel.org/networking/proc_net_tcp.html
func (p *process) openConnections(t *testing.T) string {
	_, port, err := net.SplitHostPort(p.addr)
	must(t, err)
	number, err := strconv.Atoi(port)
	must(t, err)
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp6", p.cmd.Process.Pid))
	must(t, err)
	return fmt.Sprint(len(regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: \w+:%04X \w+:\w+ 01 `, number)).FindAll(table, -1)))
}

func (p *process) printLatency(t *testing.T, when string) {
	p50, p99 := p.latency(t)
	fmt.Printf("  %s: callback p50 %.2f ms, p99 %.2f ms; resident %.1f MB, %.1f MB of it not pages of files\n", when, p50, p99, p.memory("VmRSS"), p.memory("RssAnon"))
}
