package upstream

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// Client sends requests, and can open a connection to one origin before there is a
// request. It is safe for concurrent use.
type Client struct {
	transport http.RoundTripper
	timeout   time.Duration // of a request; 0 is none but its context's
}

// NewClient returns a Client that opens connections to origin. With a base it uses
// base's Transport and Timeout instead, and Connect does nothing; the Transport must
// call httptrace's GotConn, as http.Transport does.
func NewClient(base *http.Client, origin *url.URL) *Client {
	if base == nil {
		return &Client{transport: newTransport(origin)}
	}
	return &Client{transport: cmp.Or(base.Transport, http.DefaultTransport), timeout: base.Timeout}
}

// Connect opens a connection in the background, unless one is open: a request in the
// next five minutes does not wait for DNS, TCP and TLS. Connect sends nothing, and when
// it fails, a request opens its own connection.
func (c *Client) Connect() {
	if t, ok := c.transport.(*transport); ok {
		t.connect()
	}
}

const (
	connectTimeout = 10 * time.Second
	// Requests use an opened connection for connLifetime only, so that a change in DNS
	// takes effect. It is closed when every request on it must be over.
	connLifetime   = 5 * time.Minute
	connCloseAfter = connLifetime + time.Minute
)

// transport sends a request on the connection that was opened ahead of time, if it has
// room for one, and on a connection of its pool otherwise.
type transport struct {
	origin *url.URL
	pool   *http.Transport
	opener *http.Transport // opens the connections ahead of time

	mu         sync.Mutex
	conn       *http.ClientConn // the latest that was opened
	opened     time.Time
	closeTimer *time.Timer // closes conn
	opening    bool
}

func newTransport(origin *url.URL) *transport {
	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = pool.MaxIdleConns // all are for one host, and HTTP/1.1 needs many
	opener := pool.Clone()
	opener.IdleConnTimeout = connLifetime // the default closes an idle HTTP/2 connection earlier
	if proxy := pool.Proxy; proxy != nil {
		// NewClientConn asks for the proxy of a host without its port, and of an IPv6
		// address without its brackets: NO_PROXY=host:port would not match.
		opener.Proxy = func(r *http.Request) (*url.URL, error) {
			r = r.Clone(r.Context())
			r.URL, r.Host = origin, origin.Host
			return proxy(r)
		}
	}
	return &transport{origin: origin, pool: pool, opener: opener}
}

func (t *transport) usable() bool {
	return t.conn != nil && t.conn.Err() == nil && time.Since(t.opened) < connLifetime
}

func (t *transport) connect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opening || t.usable() {
		return
	}
	t.opening = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		conn, err := t.opener.NewClientConn(ctx, t.origin.Scheme, net.JoinHostPort(t.origin.Hostname(), t.origin.Port()))
		t.mu.Lock()
		defer t.mu.Unlock()
		t.opening = false
		if err != nil {
			return
		}
		if t.conn != nil && t.conn.Err() != nil {
			t.closeTimer.Stop() // the connection is closed already: let it be collected
		}
		t.conn, t.opened = conn, time.Now()
		t.closeTimer = time.AfterFunc(connCloseAfter, func() { conn.Close() })
	}()
}

// reserve returns the opened connection, reserved for a request to u, or nil.
func (t *transport) reserve(u *url.URL) *http.ClientConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.Scheme != t.origin.Scheme || u.Host != t.origin.Host || !t.usable() || t.conn.Reserve() != nil {
		return nil
	}
	return t.conn
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	conn := t.reserve(req.URL)
	if conn == nil {
		return t.pool.RoundTrip(req)
	}
	// As http.Transport does: it tells Do that the request may have been sent.
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Reused: true})
	}
	return conn.RoundTrip(req)
}
