package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"novu-slack-redirect/wire"
)

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

// drip sends a byte of text every 20 ms, the last one again and again, until the
// other side has had enough; it returns after how long that was.
func drip(conn net.Conn, text string) time.Duration {
	begin, over := time.Now(), make(chan struct{})
	go func() {
		io.Copy(io.Discard, conn)
		close(over)
	}()
	for i := 0; ; i++ {
		select {
		case <-over:
			return time.Since(begin)
		case <-time.After(20 * time.Millisecond):
			conn.Write([]byte{text[min(i, len(text)-1)]})
		}
	}
}

// Clients that take their time are cut off. Each case shortens one timeout of the
// program and leaves the others as they are, at 5 s and more: what cuts off sooner
// is the one that is meant.
func TestSlowClientsAreCutOff(t *testing.T) {
	const soon = 4 * time.Second
	for name, c := range map[string]struct {
		patience string
		test     func(t *testing.T, program *program)
	}{
		"a request line and header, a byte at a time": {"readHeader=300ms", func(t *testing.T, program *program) {
			for where, addr := range map[string]string{"the service": program.origin, "the metrics": metricsAddr(t, program)} {
				for _, text := range []string{"GET /aaaaa", "GET / HTTP/1.1\r\nHost: x\r\nX: a", "POST /slack/install HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: "} {
					if took := drip(dial(t, addr), text); took > soon {
						t.Errorf("%s, %.9q: cut off after %v, want 300 ms", where, text, took)
					}
				}
			}
		}},
		"nothing at all": {"readHeader=300ms", func(t *testing.T, program *program) {
			begin := time.Now()
			if got, _ := io.ReadAll(dial(t, program.origin)); len(got) != 0 || time.Since(begin) > soon {
				t.Errorf("got %q after %v, want to be cut off after 300 ms", got, time.Since(begin))
			}
		}},
		"a body, a byte at a time": {"read=300ms", func(t *testing.T, program *program) {
			for _, target := range []string{"/slack/install", "/slack/callback", "/", "/nothing"} {
				for _, head := range []string{"Content-Length: 100000\r\n\r\na", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9999\r\n\r\na"} {
					conn := dial(t, program.origin)
					fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%s", target, head)
					if took := drip(conn, "a"); took > soon {
						t.Errorf("%s, %.20q: cut off after %v, want 300 ms", target, head, took)
					}
				}
			}
		}},
		"a client that never reads": {"write=300ms", func(t *testing.T, program *program) {
			conn := dial(t, program.origin)
			conn.SetReadBuffer(4 << 10)
			begin := time.Now()
			var err error
			for err == nil { // until the answers fill every buffer on the way, and the requests too
				_, err = io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 100))
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("not cut off after %v, want 300 ms from when it blocks", time.Since(begin))
			}
		}},
		"a connection that nobody uses any more": {"idle=300ms", func(t *testing.T, program *program) {
			conn := dial(t, program.origin)
			io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			begin := time.Now()
			got, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200") || time.Since(begin) > soon {
				t.Errorf("got %.20q, %v after %v, want an answer and the end after 300 ms", got, err, time.Since(begin))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), "METRICS_ADDR=127.0.0.1:0", "INSTALL_PAGE=true", shortPatience+"="+c.patience)
			program := start(t, w.env...)
			c.test(t, program)
			// None of them leaves a goroutine behind, and others are served.
			waitFor(t, "the goroutines end", func() bool { return gauge(t, program, "go_goroutines") < 30 })
			if status, _, _, err := w.person(t).get(program, "/"); err != nil || status != http.StatusOK {
				t.Errorf("afterwards: got %d, %v, want 200", status, err)
			}
		})
	}
	if patience.readHeader != 5*time.Second || patience.read != 10*time.Second || patience.write != 40*time.Second || patience.idle != 2*time.Minute {
		t.Errorf("got %+v, want what these cases shorten", patience)
	}
}

// The timeouts are for clients: a callback that waits for Slack may take longer than
// its request, for the one who waits and for a second tab.
func TestSlowSlackIsNoSlowClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), shortPatience+"=read=300ms")
	program, p := start(t, w.env...), w.person(t)
	callback := p.begin(program, "ada")
	w.slack.Break(wire.Slow(1500 * time.Millisecond))
	var tabs sync.WaitGroup
	for range 2 {
		tabs.Go(func() {
			status, location, _, err := p.get(program, callback)
			if err != nil || status != http.StatusSeeOther {
				t.Errorf("got %d, %v, want 303", status, err)
				return
			}
			_, _, body, err := p.get(program, location)
			if err != nil {
				t.Error(err)
			}
			wantText(t, body, "Slack is connected")
		})
	}
	tabs.Wait()
	w.wantSaved(t, "ada", 0)
}

// Requests that are too large are refused before they are in memory.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), "METRICS_ADDR=127.0.0.1:0", "INSTALL_PAGE=true")
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

// gauge reads one of a program's metrics.
func gauge(t *testing.T, program *program, name string) float64 {
	t.Helper()
	text, _ := served(t, program)
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("there is no metric %s", name)
	}
	return must(strconv.ParseFloat(m[1], 64))
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
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), "METRICS_ADDR=127.0.0.1:0", "TRUSTED_PROXIES=127.0.0.0/8", "RATE_LIMIT=20",
		"GOGC=20", // so that what is garbage does not look as if it were held
		shortPatience+"=readHeader=4s")
	program := start(t, w.env...)
	connect := func(name from, subscriber string) time.Duration {
		t.Helper()
		p := w.person(t)
		p.client.Transport = name
		begin := time.Now()
		wantText(t, p.land(program, p.begin(program, subscriber)), "Slack is connected")
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
	waitFor(t, "they are there", func() bool { return gauge(t, program, "go_goroutines") > float64(crowd) })

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
		if took := connect("198.51.100.7", fmt.Sprint("person", i)); took > 2*time.Second {
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
