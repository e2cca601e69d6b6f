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

// A flood of connections that say nothing, or half of a request, and of hostile
// requests from one address: a person at another one connects meanwhile as if
// nothing were, and nothing of the flood is left afterwards.
func TestFloodDisturbsNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "TRUSTED_PROXIES=127.0.0.0/8", "RATE_LIMIT=20",
		"GOGC=20") // so that what is garbage does not look as if it were held
	program := start(t, w.env...)
	connect := func(name from, subscriber string) time.Duration {
		t.Helper()
		p := w.person(t)
		p.client.Transport = name
		begin := time.Now()
		wantText(t, p.connect(program, w.linkTo(subscriber)), textConnected)
		return time.Since(begin)
	}
	connect("198.51.100.1", "first") // what a first flow needs is there
	goroutines, memory := gauge(t, program, "go_goroutines"), gauge(t, program, "go_memstats_heap_alloc_bytes")

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	crowd := min(2000, int(limit.Cur)/2) // the other half is for the other tests
	var conns []net.Conn
	for i := range crowd {
		conn := dial(t, program.origin)
		io.WriteString(conn, []string{"", "GET /slack/install?token=", "GET / HTTP/1.1\r\nHost: x\r\n"}[i%3])
		conns = append(conns, conn)
	}
	waitFor(t, "they are there", func() bool { return gauge(t, program, "go_goroutines") > goroutines+float64(crowd)/2 })

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
					res, err := attack.Get(program.origin + target)
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
		if took := connect("198.51.100.7", fmt.Sprint("person", i)); took > 10*time.Second {
			t.Errorf("a flow took %v during the flood, want what it always takes", took)
		}
	}
	stop()
	attackers.Wait()
	t.Logf("%d connections, %d requests, %d of them over the limit", crowd, sent.Load(), refused.Load())

	for _, conn := range conns {
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection that says nothing is held")
		}
	}
	attack.CloseIdleConnections()
	waitFor(t, "goroutines and memory come back down", func() bool {
		connect("198.51.100.9", "last") // which makes some garbage, so that it is collected
		now, held := gauge(t, program, "go_goroutines"), gauge(t, program, "go_memstats_heap_alloc_bytes")
		return now < goroutines+20 && held < memory+4<<20
	})
}
