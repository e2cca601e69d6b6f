package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"sync"
	"testing"
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

// trust makes clients trust the certificate of httptest's servers.
func trust(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	transport := http.DefaultTransport.(*http.Transport)
	old := transport.TLSClientConfig
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	t.Cleanup(func() { transport.TLSClientConfig = old })
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
			for now := all; now == all; now = s.connections() {
				c.Connect()
				time.Sleep(time.Millisecond)
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

	// Nobody there, or a client with connections of its own: nothing happens.
	gone := start(t, (*httptest.Server).Start, nil)
	gone.Close()
	upstream.NewClient(nil, gone.origin).Connect()
	before := other.connections()
	upstream.NewClient(http.DefaultClient, other.origin).Connect()
	if after := other.connections(); after != before {
		t.Error("a connection was opened for a client that has its own")
	}
}

// Whoever traces a request learns that it has a connection, and so may have been
// sent: a Slack code must not be sent again for want of that.
func TestOpenConnectionIsTraced(t *testing.T) {
	s := start(t, (*httptest.Server).Start, func(http.ResponseWriter, *http.Request) {})
	c := upstream.NewClient(nil, s.origin)
	c.Connect()
	s.waitFor(t, 1)
	for range 3 { // the first one may be too early for it
		got := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { got++ }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got != 1 {
			t.Errorf("the trace was told %d times of a connection, want once", got)
		}
	}
}
