package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// Client is an http.Client for one origin that can have a connection open before
// there is a request. It does not follow redirects: that would repeat a secret
// elsewhere.
type Client struct {
	http.Client
	lines *lines
}

// NewClient returns a Client for the origin of to. It is like base, or has
// connections of its own when base is nil; only then Connect does anything.
func NewClient(base *http.Client, to *url.URL) *Client {
	c := &Client{}
	if base != nil {
		c.Client = *base
	} else {
		pool := http.DefaultTransport.(*http.Transport).Clone()
		pool.MaxIdleConnsPerHost = pool.MaxIdleConns // all are for one host, and one that speaks HTTP/1.1 needs many
		c.lines = &lines{pool: pool, opener: opener(pool, to), origin: to}
		c.Transport = c.lines
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// opener is pool for connections that are opened ahead. Go asks for the proxy of a
// host without its port, and of an IPv6 address without its brackets, so that
// NO_PROXY=host:port would not count; and closes HTTP/2 when it is idle as in a pool.
func opener(pool *http.Transport, to *url.URL) *http.Transport {
	o := pool.Clone()
	o.IdleConnTimeout = lineLife
	if proxy := pool.Proxy; proxy != nil {
		o.Proxy = func(r *http.Request) (*url.URL, error) {
			r = r.Clone(r.Context())
			r.URL, r.Host = to, to.Host
			return proxy(r)
		}
	}
	return o
}

// Connect opens a connection in the background, unless one is open: the request
// that comes while it lasts does not wait for DNS, TCP and TLS. It sends nothing,
// and when it fails, nothing is lost: a request opens its own.
func (c *Client) Connect() {
	if c.lines != nil {
		c.lines.connect()
	}
}

const (
	connectTimeout = 10 * time.Second
	// An opened connection is used for a while and not for good, so that a change in
	// DNS counts. It is closed when every request on it must be over.
	lineLife  = 5 * time.Minute
	lineClose = lineLife + time.Minute
)

// lines sends requests on the connection that was opened for them while there is
// one, and on those of its pool otherwise.
type lines struct {
	pool   *http.Transport
	opener *http.Transport
	origin *url.URL

	mu      sync.Mutex
	open    *http.ClientConn
	opened  time.Time
	closing *time.Timer // of the open one
	opening bool
}

func (l *lines) usable() bool {
	return l.open != nil && l.open.Err() == nil && time.Since(l.opened) < lineLife
}

func (l *lines) connect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opening || l.usable() {
		return
	}
	l.opening = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		conn, err := l.opener.NewClientConn(ctx, l.origin.Scheme, net.JoinHostPort(l.origin.Hostname(), l.origin.Port()))
		l.mu.Lock()
		defer l.mu.Unlock()
		l.opening = false
		if err == nil {
			if l.open != nil && l.open.Err() != nil {
				l.closing.Stop() // it is closed: keep nothing of it
			}
			l.open, l.opened = conn, time.Now()
			l.closing = time.AfterFunc(lineClose, func() { conn.Close() })
		}
	}()
}

// take reserves the open connection, if it has room for a request to u.
func (l *lines) take(u *url.URL) *http.ClientConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.Scheme != l.origin.Scheme || u.Host != l.origin.Host || !l.usable() || l.open.Reserve() != nil {
		return nil
	}
	return l.open
}

// RoundTrip implements http.RoundTripper.
func (l *lines) RoundTrip(req *http.Request) (*http.Response, error) {
	conn := l.take(req.URL)
	if conn == nil {
		return l.pool.RoundTrip(req)
	}
	// As the pool does: whoever traces the request must know that it can have been sent.
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Reused: true})
	}
	return conn.RoundTrip(req)
}
