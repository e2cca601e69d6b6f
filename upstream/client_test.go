package upstream_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"novu-slack-redirect/upstream"
)

// server counts the connections that it gets.
type server struct {
	*httptest.Server
	origin *url.URL

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func start(t *testing.T, begin func(*httptest.Server), h http.HandlerFunc) *server {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(h), conns: map[net.Conn]bool{}}
	s.Config.ConnState = func(conn net.Conn, _ http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns[conn] = true
	}
	begin(s.Server)
	t.Cleanup(s.Close)
	var err error
	if s.origin, err = url.Parse(s.URL); err != nil {
		t.Fatal(err)
	}
	return s
}

// connections returns how many there have been.
func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// waitFor waits until there have been n connections.
func (s *server) waitFor(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if all := s.connections(); all >= n {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("got %d connections, want %d", all, n)
		}
	}
}

func get(t *testing.T, c *upstream.Client, url string) (protocol string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.Proto
}

// change changes what clients begin with.
func change(t *testing.T, to func(*http.Transport)) {
	old := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = old })
	transport := old.(*http.Transport).Clone()
	to(transport)
	http.DefaultTransport = transport
}

// trust makes clients trust the certificate of httptest's servers.
func trust(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	change(t, func(transport *http.Transport) { transport.TLSClientConfig = &tls.Config{RootCAs: pool} })
}

// A request finds the connection that was opened for it, by HTTP/1.1 and by HTTP/2,
// and so do those that come after it.
func TestConnect(t *testing.T) {
	trust(t)
	for protocol, begin := range map[string]func(*httptest.Server){
		"HTTP/1.1": (*httptest.Server).Start,
		"HTTP/2.0": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(protocol, func(t *testing.T) {
			s := start(t, begin, func(http.ResponseWriter, *http.Request) {})
			c := upstream.NewClient(nil, s.origin)
			for range 10 {
				c.Connect()
			}
			s.waitFor(t, 1)
			for range 10 {
				c.Connect()
				if got := get(t, c, s.URL); got != protocol {
					t.Fatalf("got %s", got)
				}
			}
			all := s.connections()
			if all > 2 { // the first request may be earlier than the client knows
				t.Errorf("got %d connections for 10 requests, want 1 or 2", all)
			}

			// One that the server has closed is replaced.
			s.CloseClientConnections()
			for deadline := time.Now().Add(10 * time.Second); s.connections() == all; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no connection is opened in place of the closed one")
				}
				c.Connect()
			}
			get(t, c, s.URL)
		})
	}
}

// The open connection is for requests to its own origin, and for as many as it has
// room for; the pool has the others.
func TestConnectIsNotInTheWay(t *testing.T) {
	release := make(chan struct{})
	s := start(t, (*httptest.Server).Start, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	})
	other := start(t, (*httptest.Server).Start, func(http.ResponseWriter, *http.Request) {})
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	var group sync.WaitGroup
	group.Go(func() { get(t, c, s.URL+"/slow") })
	get(t, c, s.URL)
	get(t, c, other.URL)
	if all := other.connections(); all != 1 {
		t.Errorf("the other host got %d connections, want 1", all)
	}
	close(release)
	group.Wait()
}

// Whoever traces a request learns that it has a connection, and so may have been
// sent: a Slack code must not be sent again for want of that.
func TestOpenConnectionIsTraced(t *testing.T) {
	var dialled atomic.Int64
	change(t, func(transport *http.Transport) { // one connection, and none for the pool
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dialled.Add(1) > 1 {
				return nil, errors.New("there is the opened one")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	})
	s := start(t, (*httptest.Server).Start, func(http.ResponseWriter, *http.Request) {})
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { got++ }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil && time.Now().Before(deadline) {
			continue // too early: the client does not have it yet
		} else if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got != 1 {
			t.Errorf("the trace was told %d times of a connection, want once", got)
		}
		return
	}
}

// NO_PROXY names hosts with a port too, and an IPv6 address has brackets: whoever
// says which proxy to use is asked the same as for any other connection.
func TestConnectAsksForTheProxyOfTheWholeURL(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{}
	change(t, func(transport *http.Transport) {
		transport.Proxy = func(r *http.Request) (*url.URL, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[r.URL.Host] = true
			return nil, nil
		}
	})
	s := start(t, (*httptest.Server).Start, func(http.ResponseWriter, *http.Request) {})
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	get(t, c, s.URL)
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 1 || !asked[s.origin.Host] {
		t.Errorf("asked for %v, want %s alone", asked, s.origin.Host)
	}
}

// A person takes longer at Slack than a pool keeps a connection that nobody uses.
func TestOpenConnectionOutlivesThePools(t *testing.T) {
	trust(t)
	change(t, func(transport *http.Transport) { transport.IdleConnTimeout = 100 * time.Millisecond })
	s := start(t, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() }, func(http.ResponseWriter, *http.Request) {})
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	time.Sleep(time.Second)
	get(t, c, s.URL)
	if all := s.connections(); all != 1 {
		t.Errorf("got %d connections, want the one that was opened", all)
	}
}

// A balancer without anybody behind it accepts and closes: of what is closed, and
// replaced, nothing is kept.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			conn.Close()
		}
	}()
	var opened, kept atomic.Int64
	change(t, func(transport *http.Transport) {
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			wrapped := &struct{ net.Conn }{conn}
			opened.Add(1)
			kept.Add(1)
			runtime.AddCleanup(wrapped, func(kept *atomic.Int64) { kept.Add(-1) }, &kept)
			return wrapped, nil
		}
	})
	c := upstream.NewClient(nil, &url.URL{Scheme: "http", Host: l.Addr().String()})
	for deadline := time.Now().Add(20 * time.Second); opened.Load() < 20 || kept.Load() > 10; time.Sleep(time.Millisecond) {
		if opened.Load() < 20 {
			c.Connect()
		} else {
			runtime.GC()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections are kept, want one or two", kept.Load(), opened.Load())
		}
	}
	runtime.KeepAlive(c)
}

// An opened connection serves for five minutes, so that a change in DNS counts, and is
// closed a minute later, with what it did until then done.
func TestOpenConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled, closed := 0, make(chan bool, 10)
		change(t, func(transport *http.Transport) {
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
				dialled++
				here, there := net.Pipe()
				go func() {
					in := bufio.NewReader(there)
					for _, err := http.ReadRequest(in); err == nil; _, err = http.ReadRequest(in) {
						io.WriteString(there, "HTTP/1.1 204 No Content\r\n\r\n")
					}
					closed <- true
				}()
				return here, nil
			}
		})
		to := &url.URL{Scheme: "http", Host: "slack.example.com"}
		upstream.NewClient(&http.Client{}, to).Connect()
		synctest.Wait()
		if dialled != 0 {
			t.Error("a connection was opened for a client that has its own")
		}
		c := upstream.NewClient(nil, to)
		ask := func(want int) {
			t.Helper()
			get(t, c, "http://slack.example.com/")
			synctest.Wait()
			if dialled != want {
				t.Errorf("got %d connections, want %d", dialled, want)
			}
		}
		c.Connect()
		time.Sleep(5*time.Minute - time.Second)
		c.Connect()
		synctest.Wait()
		ask(1)
		time.Sleep(2 * time.Second)
		ask(2) // by the pool
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("a connection is closed while a request may be on it")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(closed) != 1 {
			t.Errorf("%d connections are closed after six minutes, want the opened one", len(closed))
		}
		time.Sleep(time.Hour) // and the pool's, so that nothing is left
	})
}
