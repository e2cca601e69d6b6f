package upstream_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
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
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients go away as they like
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

func get(t *testing.T, c *upstream.Client, origin *url.URL, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, origin.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := c.Do(req, 100); err != nil || a.Progress != upstream.Answered {
		t.Fatalf("got %s, %v", a.Progress, err)
	}
}

// changeDefaultTransport changes the transport that clients begin with.
func changeDefaultTransport(t *testing.T, change func(*http.Transport)) {
	old := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = old })
	transport := old.(*http.Transport).Clone()
	change(transport)
	http.DefaultTransport = transport
}

// trustTestServers makes clients trust the certificate of httptest's servers, and
// returns a configuration with it.
func trustTestServers(t *testing.T) *tls.Config {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	changeDefaultTransport(t, func(transport *http.Transport) { transport.TLSClientConfig = &tls.Config{RootCAs: pool} })
	return &tls.Config{Certificates: s.TLS.Certificates}
}

// A request finds the connection that was opened for it, by HTTP/1.1 and by HTTP/2,
// and so do those that come after it.
func TestConnect(t *testing.T) {
	trustTestServers(t)
	for protocol, begin := range map[string]func(*httptest.Server){
		"HTTP/1.1": (*httptest.Server).Start,
		"HTTP/2.0": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(protocol, func(t *testing.T) {
			s := start(t, begin, func(_ http.ResponseWriter, r *http.Request) {
				if r.Proto != protocol {
					t.Errorf("got %s", r.Proto)
				}
			})
			c := upstream.NewClient(nil, s.origin)
			for range 10 {
				c.Connect()
			}
			s.waitFor(t, 1)
			for range 10 {
				c.Connect()
				get(t, c, s.origin, "")
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
			get(t, c, s.origin, "")
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
	group.Go(func() { get(t, c, s.origin, "/slow") })
	get(t, c, s.origin, "")
	get(t, c, other.origin, "")
	if all := other.connections(); all != 1 {
		t.Errorf("the other host got %d connections, want 1", all)
	}
	close(release)
	group.Wait()
}

// A request on the opened connection can have been sent: a Slack code must not be sent
// again as if it had not.
func TestRequestOnOpenedConnectionIsSent(t *testing.T) {
	var dialled atomic.Int64
	changeDefaultTransport(t, func(transport *http.Transport) { // one connection, and none for the pool
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dialled.Add(1) > 1 {
				return nil, errors.New("there is the opened one")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	})
	s := start(t, (*httptest.Server).Start, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		a, err := c.Do(post(t, t.Context(), s.origin), 100)
		if a.Progress == upstream.NotSent && time.Now().Before(deadline) {
			continue // too early: the client does not have the connection yet
		}
		if a.Progress != upstream.MaybeAtWork || err == nil {
			t.Errorf("got %s, %v, want that it may be at work", a.Progress, err)
		}
		return
	}
}

// NO_PROXY names hosts with a port too, and an IPv6 address has brackets: whoever
// says which proxy to use is asked the same as for any other connection.
func TestConnectAsksForTheProxyOfTheWholeURL(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{}
	changeDefaultTransport(t, func(transport *http.Transport) {
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
	get(t, c, s.origin, "")
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 1 || !asked[s.origin.Host] {
		t.Errorf("asked for %v, want %s alone", asked, s.origin.Host)
	}
}

// A person takes longer at Slack than a pool keeps an idle connection: 90 s.
func TestOpenedConnectionOutlivesThePools(t *testing.T) {
	config := trustTestServers(t)
	synctest.Test(t, func(t *testing.T) {
		conns := pipeListener(make(chan net.Conn, 10))
		var opened atomic.Int64
		changeDefaultTransport(t, func(transport *http.Transport) {
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
				opened.Add(1)
				here, there := net.Pipe()
				conns <- there
				return here, nil
			}
		})
		server := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 {
				t.Errorf("got %s, want HTTP/2", r.Proto)
			}
		})}
		go server.ServeTLS(conns, "", "")
		defer server.Close()
		to := &url.URL{Scheme: "https", Host: "example.com"}
		c := upstream.NewClient(nil, to)
		c.Connect()
		synctest.Wait()
		time.Sleep(5*time.Minute - time.Second)
		get(t, c, to, "")
		if n := opened.Load(); n != 1 {
			t.Errorf("got %d connections, want the one that was opened", n)
		}
		time.Sleep(time.Hour) // until every connection is closed
	})
}

// pipeListener is a net.Listener for the connections that it is sent.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if conn, ok := <-l; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

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
	changeDefaultTransport(t, func(transport *http.Transport) {
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
func TestOpenedConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled, closed := 0, make(chan bool, 10)
		changeDefaultTransport(t, func(transport *http.Transport) {
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
			get(t, c, to, "")
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
