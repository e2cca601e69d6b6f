package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// maxConnections is how many connections the program has open at a time, as
// docs/operating.md says.
const maxConnections = 200

// Requests that are too large are refused before they are in memory.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "INSTALL_PAGE=true")
	program := start(t, w.env...)
	for name, c := range map[string]struct{ request, want string }{
		"huge header":          {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", "431"},
		"huge cookie":          {"GET /slack/callback HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("a=b; ", 16<<10) + "\r\n\r\n", "431"},
		"too many fields":      {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a: b\r\n", 10_000) + "\r\n", "431"},
		"header without end":   {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10), "431"},
		"huge URL":             {"GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", "431"},
		"URL without end":      {"GET /" + strings.Repeat("a", 64<<10), "431"},
		"many fields that fit": {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + strings.Repeat("a: b\r\n", 3000) + "\r\n", "200"},
	} {
		conn := dial(t, program.origin)
		go io.WriteString(conn, c.request)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 "+c.want) {
			t.Errorf("%s: got %.40q, %v, want %s", name, line, err, c.want)
		}
	}

	// A body is looked at by nobody: a little of it is read, for politeness.
	heap := gauge(t, program, "go_memstats_sys_bytes")
	var senders sync.WaitGroup
	for _, target := range []string{"/", "/healthz", "/slack/install", "/slack/install?token=x", "/v1/subscribers/a/credentials/slack/oauth", "/slack/callback", "/slack/result", "/nothing"} {
		for _, method := range []string{"POST", "GET", "PUT"} {
			for _, framing := range []string{"Content-Length: 1000000000", "Transfer-Encoding: chunked"} {
				conn := dial(t, program.origin)
				senders.Go(func() {
					go io.Copy(io.Discard, conn)
					_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", method, target, framing)
					chunk, sent := "10000\r\n"+strings.Repeat("a", 64<<10)+"\r\n", 0
					for ; err == nil && sent < 64<<20; sent += len(chunk) {
						_, err = io.WriteString(conn, chunk)
					}
					if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s %s, %s: %d bytes were taken, %v; want the end after 256 kB and what lies in buffers", method, target, framing, sent, err)
					}
				})
			}
		}
	}
	senders.Wait()
	if grown := gauge(t, program, "go_memstats_sys_bytes") - heap; grown > 48<<20 {
		t.Errorf("48 huge bodies cost %.0f MB, want next to nothing", grown/1e6)
	}
}

// from sends requests as a proxy does for a client at an address.
type from string

func (address from) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Forwarded-For", string(address))
	return http.DefaultTransport.RoundTrip(req)
}

// fromEverywhere sends each request as a proxy does for a client at an address of its own.
type fromEverywhere struct{ requests atomic.Uint32 }

func (f *fromEverywhere) RoundTrip(req *http.Request) (*http.Response, error) {
	n := f.requests.Add(1)
	return from(fmt.Sprintf("198.51.%d.%d", n>>8, n&0xff)).RoundTrip(req)
}

// A flood of connections that say nothing, or half of a request, and of hostile
// requests from one address: a person at another one connects meanwhile as if
// nothing were, and nothing of the flood is left afterwards.
func TestFloodDisturbsNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "TRUSTED_PROXIES=127.0.0.0/8", "RATE_LIMIT=1",
		"GOGC=20") // so that what is garbage does not look as if it were held
	program := start(t, w.env...)
	others := &fromEverywhere{}
	connect := func(subscriber string) {
		t.Helper()
		p := w.person(t)
		p.client.Transport = others
		p.wantConnect(program, w.linkTo(subscriber), textConnected)
	}
	connect("first") // what a first flow needs is there
	goroutines, memory := gauge(t, program, "go_goroutines"), gauge(t, program, "go_memstats_heap_alloc_bytes")

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	crowd := min(1000, int(limit.Cur)/4) // the rest is for the other tests
	var conns []net.Conn
	flood := func(n int) {
		for i := range n {
			conn := dial(t, program.origin)
			io.WriteString(conn, []string{"", "GET /slack/install?token=", "GET / HTTP/1.1\r\nHost: x\r\n"}[i%3])
			conns = append(conns, conn)
		}
	}
	flood(crowd)
	waitFor(t, "as many are there as may be", func() bool {
		if gauge(t, program, "go_goroutines") > goroutines+maxConnections/2 {
			return true
		}
		if len(conns) < 3*crowd { // on a busy machine the first ones may have been cut off by now
			flood(maxConnections)
		}
		return false
	})

	ctx, stop := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	var sent, refused atomic.Int64
	attack := http.Client{Transport: from("203.0.113.66"), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, target := range []string{"/slack/install?token=x", "/slack/callback?code=x&state=x", "/slack/result?flow=x", "/v1/subscribers/a/credentials/slack/oauth?hmacHash=x", "/nothing", "/readyz"} {
		attackers.Go(func() {
			for tick := time.NewTicker(30 * time.Millisecond); ; { // six of these are 200 a second
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					begin := time.Now()
					res, err := attack.Get(program.origin + target)
					if err != nil && time.Since(begin) > slow {
						continue // the program cuts off who takes 5 s to send a request
					}
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					sent.Add(1)
					if res.StatusCode == http.StatusTooManyRequests {
						refused.Add(1)
					}
				}
			}
		})
	}
	waitFor(t, "the attacker meets the limit", func() bool { return refused.Load() > 0 })
	for i := range 10 {
		connect(fmt.Sprint("person", i))
	}
	stop()
	attackers.Wait()
	t.Logf("%d connections, %d requests, %d of them over the limit", crowd, sent.Load(), refused.Load())

	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection that says nothing is held")
		}
	}
	attack.CloseIdleConnections()
	waitFor(t, "goroutines and memory come back down", func() bool {
		connect("last") // which makes some garbage, so that it is collected
		now, held := gauge(t, program, "go_goroutines"), gauge(t, program, "go_memstats_heap_alloc_bytes")
		return now < goroutines+20 && held < memory+4<<20
	})
}

// peakMemory returns the most memory that a program has had in RAM, in bytes.
func peakMemory(t *testing.T, program *program) int {
	t.Helper()
	status := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", program.cmd.Process.Pid)))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no peak memory in %s", status)
	}
	return must(strconv.Atoi(string(m[1]))) << 10
}

// Thousands of connections that say nothing, or send half a header, or do not read the
// answer: the program stays below the 128 MiB (134 MB) that Kubernetes allows, probes are
// answered all the time, and a person connects.
func TestCrowdOfConnections(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 3000 {
		t.Skipf("%d open files are too few", limit.Cur)
	}
	if limit.Cur >= 8_000 { // else the other tests need the rest
		t.Parallel()
	}
	const head = "GET / HTTP/1.1\r\nHost: x\r\n"
	var tiny strings.Builder // the most memory for the fewest bytes
	for i := 0; tiny.Len() < 19<<10; i++ {
		tiny.WriteString(strconv.FormatInt(int64(i), 36) + ":\r\n")
	}
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "GOMEMLIMIT=96MiB") // what it takes in a container of 128 MiB, see TestMemoryLimitOfTheContainer
	program := start(t, w.env...)
	probe := func(crowd string) (longest time.Duration) {
		t.Helper()
		for _, path := range []string{"/healthz", "/readyz"} {
			begin := time.Now()
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Get(program.origin + path)
			if err != nil && time.Since(begin) > slow { // the program cuts off who takes 5 s to send a request
				res, err = client.Get(program.origin + path)
			}
			if err != nil {
				t.Fatalf("%s: %s: %v", crowd, path, err)
			}
			res.Body.Close()
			longest = max(longest, time.Since(begin))
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: got %d, want 200", crowd, path, res.StatusCode)
			}
		}
		return longest
	}
	// Clients that do not read have 40 s: nobody waits for them, on a machine of any speed.
	most := 30*time.Second + 20*probe("nobody")
	for _, crowd := range []struct {
		name  string
		n     int
		begin func(conn *net.TCPConn)
	}{
		{"silent", 1500, func(*net.TCPConn) {}},
		{"half a header of one field", 1000, func(conn *net.TCPConn) { io.WriteString(conn, head+"X: "+strings.Repeat("a", 19<<10)) }},
		{"half a header of the smallest fields", 1000, func(conn *net.TCPConn) { io.WriteString(conn, head+tiny.String()) }},
		{"used once", 1000, func(conn *net.TCPConn) {
			io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			conn.Read(make([]byte, 1))
		}},
		{"not reading", maxConnections, func(conn *net.TCPConn) { // with its request still being answered
			conn.SetReadBuffer(4 << 10)
			conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
			for many := strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1000); ; {
				if _, err := io.WriteString(conn, many); err != nil {
					return
				}
			}
		}},
	} {
		var conns []net.Conn
		var longest time.Duration
		var busy sync.WaitGroup
		for i := range crowd.n {
			conn, err := net.Dial("tcp", strings.TrimPrefix(program.origin, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience))
			conns = append(conns, conn)
			if crowd.n == maxConnections {
				busy.Go(func() { crowd.begin(conn.(*net.TCPConn)) })
			} else {
				crowd.begin(conn.(*net.TCPConn))
			}
			if i%500 == 499 {
				longest = max(longest, probe(crowd.name))
			}
		}
		busy.Wait()
		if longest = max(longest, probe(crowd.name)); crowd.n == maxConnections && longest > most {
			t.Errorf("%s: a probe took %v, want at most %v", crowd.name, longest, most)
		}
		w.person(t).wantConnect(program, w.linkTo(crowd.name), "Slack is connected") // or almost, on a busy machine
		// Goroutines: one for each connection, one that reads ahead during an answer.
		if n := gauge(t, program, "go_goroutines"); n > 2*maxConnections+100 {
			t.Errorf("%s: %v goroutines, want at most %d connections", crowd.name, n, maxConnections)
		}
		for _, conn := range conns {
			conn.Close()
		}
		peak := peakMemory(t, program)
		t.Logf("%s: %d connections, %d MB and %v for a probe at the most", crowd.name, crowd.n, peak/1e6, longest)
		if peak > 120e6 && !raceDetector {
			t.Errorf("%s: the program took %d MB of memory, want less than 120 MB", crowd.name, peak/1e6)
		}
	}
}

// In a container the program knows how much memory it may take.
func TestMemoryLimitOfTheContainer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0")
	const container = 128 << 20
	// A group of this process's own: version 1 of cgroups, or 2.
	file, group := "memory.limit_in_bytes", "/sys/fs/cgroup/memory"
	groups := string(must(os.ReadFile("/proc/self/cgroup")))
	m := regexp.MustCompile(`(?m)^\d+:memory:(.*)$`).FindStringSubmatch(groups)
	if m == nil {
		file, group = "memory.max", "/sys/fs/cgroup"
		m = regexp.MustCompile(`(?m)^0::(.*)$`).FindStringSubmatch(groups)
	}
	if m == nil {
		t.Skip("no cgroups")
	}
	group = filepath.Join(group, m[1])
	if _, err := os.Stat(group); err != nil { // the group is the root of what is mounted here
		group = strings.TrimSuffix(group, m[1])
	}
	group = filepath.Join(group, fmt.Sprintf("novu-slack-redirect-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) }) // after the program has ended
	if err := os.WriteFile(filepath.Join(group, file), []byte(strconv.Itoa(container)), 0); err != nil {
		t.Skipf("no memory limit can be set here: %v", err)
	}
	in := func() *exec.Cmd {
		return exec.Command("/bin/sh", "-c", `echo $$ >"$1/cgroup.procs" && exec "$0"`, binary, group)
	}
	const want = container * 3 / 4
	if got := int(gauge(t, startCommand(t, in(), w.env...), "go_gc_gomemlimit_bytes")); got != want {
		t.Errorf("in a container of %d bytes: got a limit of %d, want %d", container, got, want)
	}
	w = newWorld(t, "METRICS_ADDR=127.0.0.1:0", "GOMEMLIMIT=50MiB")
	if got := int(gauge(t, startCommand(t, in(), w.env...), "go_gc_gomemlimit_bytes")); got != 50<<20 {
		t.Errorf("with GOMEMLIMIT: got %d, want what it says", got)
	}
}
