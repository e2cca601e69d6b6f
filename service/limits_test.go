package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/service"
)

func parseURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// newService returns a Service on a store of its own, closed when the test ends.
func newService(t *testing.T) *service.Service {
	t.Helper()
	secrets := []secret.String{secret.New("a-secret-of-the-tests-of-32-bytes-and-more")}
	logWriter := service.NewLogWriter(io.Discard)
	t.Cleanup(logWriter.Close)
	s, err := service.New(config.Config{
		RedirectURL: parseURL(t, "http://127.0.0.1:9/slack/callback"), SlackURL: parseURL(t, "http://127.0.0.1:9"), SlackSecrets: secrets,
		NovuAPIURL: parseURL(t, "http://127.0.0.1:9"), NovuAPIKeys: secrets, LinkSecrets: secrets, StoreSecrets: secrets,
		StateTTL: time.Minute, InstallPage: true,
		Plain: config.Plain{SlackClientID: "1.2", DataFile: filepath.Join(t.TempDir(), "data.db"), AppName: "Example Inc."},
	}, logWriter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// serve serves h until stop is called or the test ends. What Serve returned is in done.
func serve(t *testing.T, s *service.Service, h http.Handler) (addr string, stop func(), done <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		result <- s.Serve(ctx, listener, h)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return listener.Addr().String(), cancel, result
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// patience is how long a test waits for something that happens by itself.
const patience = 2 * time.Minute

// wantServed fails unless a request is answered. On a machine that is busy it may take
// longer than the limits of these tests are, and is sent again.
func wantServed(t *testing.T, addr string) {
	t.Helper()
	for {
		begin := time.Now()
		conn := dial(t, addr)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		got, err := io.ReadAll(conn)
		if err == nil && strings.HasPrefix(string(got), "HTTP/1.1 200") {
			return
		}
		if took := time.Since(begin); took < short || took > patience/2 {
			t.Errorf("got %.20q, %v after %v, want 200", got, err, took)
			return
		}
	}
}

// wantCutOff sends a byte of text every 20 ms, the last one again and again, and fails unless
// the other side ends the connection.
func wantCutOff(t *testing.T, conn net.Conn, text string) {
	over := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		over <- err
	}()
	for i := 0; ; i++ {
		select {
		case err := <-over:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("not cut off after %v, want %v", patience, short)
			}
			return
		case <-time.After(20 * time.Millisecond):
			conn.Write([]byte{text[min(i, len(text)-1)]})
		}
	}
}

const short = 300 * time.Millisecond

// Clients that take their time are cut off. Each case shortens one limit and makes the others
// an hour: what cuts off is the one that is meant.
func TestSlowClientsAreCutOff(t *testing.T) {
	dripAll := func(t *testing.T, addr string, heads []string, text string) {
		t.Helper()
		var clients sync.WaitGroup
		for _, head := range heads {
			conn := dial(t, addr)
			clients.Go(func() {
				io.WriteString(conn, head)
				wantCutOff(t, conn, text)
			})
		}
		clients.Wait()
	}
	for _, c := range []struct {
		name    string
		shorten func(*service.Limits)
		test    func(t *testing.T, addr string)
	}{
		{"a request line and header, a byte at a time", func(l *service.Limits) { l.ReadHeader = short }, func(t *testing.T, addr string) {
			dripAll(t, addr, []string{"", "GET / HTTP/1.1\r\nHost: x\r\nX: ", "POST /slack/install HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: "}, "GET /aaaaa")
		}},
		{"nothing at all", func(l *service.Limits) { l.ReadHeader = short }, func(t *testing.T, addr string) {
			if got, err := io.ReadAll(dial(t, addr)); len(got) != 0 || err != nil {
				t.Errorf("got %q, %v, want the end after %v", got, err, short)
			}
		}},
		{"a body, a byte at a time", func(l *service.Limits) { l.Read = short }, func(t *testing.T, addr string) {
			var heads []string
			for _, target := range []string{"/slack/install", "/slack/callback", "/", "/nothing"} {
				for _, framing := range []string{"Content-Length: 100000\r\n\r\na", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9999\r\n\r\na"} {
					heads = append(heads, "POST "+target+" HTTP/1.1\r\nHost: x\r\n"+framing)
				}
			}
			dripAll(t, addr, heads, "a")
		}},
		{"a client that never reads", func(l *service.Limits) { l.Write = short }, func(t *testing.T, addr string) {
			conn := dial(t, addr)
			conn.SetReadBuffer(4 << 10)
			var err error
			for err == nil { // until the answers fill every buffer on the way, and the requests too
				_, err = io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 100))
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("not cut off after %v, want %v from when it blocks", patience, short)
			}
		}},
		{"a connection that nobody uses any more", func(l *service.Limits) { l.Idle = short }, func(t *testing.T, addr string) {
			conn := dial(t, addr)
			io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200") {
				t.Errorf("got %.20q, %v, want an answer and the end after %v", got, err, short)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t)
			s.Limits.ReadHeader, s.Limits.Read, s.Limits.Write, s.Limits.Idle = time.Hour, time.Hour, time.Hour, time.Hour
			c.shorten(&s.Limits)
			addr, _, _ := serve(t, s, handler.New(s.Routes))
			wantServed(t, addr)
			before := runtime.NumGoroutine()
			c.test(t, addr)
			for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("got %d goroutines afterwards, want at most %d", runtime.NumGoroutine(), before)
				}
			}
			wantServed(t, addr) // others, afterwards
		})
	}
}

// At the end requests in flight finish, and those that take longer than the limit do
// not hold the program up.
func TestDrainEnds(t *testing.T) {
	for name, c := range map[string]struct {
		drain   time.Duration
		release bool // the request finishes in time
	}{"in time": {20 * time.Second, true}, "too late": {100 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.Limits.Drain = c.drain
			begun, release := make(chan bool), make(chan bool)
			addr, stop, done := serve(t, s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begun <- true
				<-release
				io.WriteString(w, "finished")
			}))
			answer := make(chan string, 1)
			go func() {
				res, err := http.Get("http://" + addr)
				if err != nil {
					answer <- err.Error()
					return
				}
				defer res.Body.Close()
				text, _ := io.ReadAll(res.Body)
				answer <- string(text)
			}()
			<-begun
			stop()
			if !c.release {
				if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want an error that says what was still running", err)
				}
				close(release)
				<-answer
				return
			}
			select {
			case err := <-done:
				t.Fatalf("Serve ends during a request: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			close(release)
			if got := <-answer; got != "finished" {
				t.Errorf("the request in flight got %q, want its answer", got)
			}
			if err := <-done; err != nil {
				t.Errorf("got %v, want nil", err)
			}
		})
	}
}

// A callback takes 23 s at most when Slack, Novu and the store are slow: people get an
// answer. The drain lasts as long as hosts wait for it: the README says 20 s.
func TestDefaultLimits(t *testing.T) {
	if l := newService(t).Limits; l.Write < 30*time.Second || l.ReadHeader <= 0 || l.Read <= 0 || l.Idle <= 0 || l.Drain != 20*time.Second || l.Connections != 200 || l.HeaderBytes != 16<<10 {
		t.Errorf("got %+v", l)
	}
}
