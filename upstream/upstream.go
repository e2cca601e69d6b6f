// Package upstream sends requests to Slack, Novu and the app's EVENTS_URL. Do is the
// one function that knows whether a request can have been sent. It never follows
// redirects, which would repeat a secret elsewhere, and its errors may be logged: they
// quote no URL, header or body.
package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Progress is how far a request got, and so when it may be repeated:
//
//	NotSent      DNS, dial, proxy or TLS failed, or the context ended before there was
//	             a connection. Anyone may repeat the request at once.
//	Answered     A status other than 502 and 504 came. The request may be repeated after
//	             a pause if the status invites that: 429, 500, 503.
//	MaybeAtWork  The request was sent, and was then reset, timed out or cut off before a
//	             status came; or the status is 502 or 504. Nothing more may go to Novu
//	             about the subscriber for 30 s. Slack's code may be sent once more: it is
//	             possibly spent.
type Progress string

const (
	NotSent     Progress = "not sent"      // nothing can have reached the other side
	Answered    Progress = "answered"      // the other side has finished with the request
	MaybeAtWork Progress = "maybe at work" // the other side may still be working on it
)

// Request is a request that Do sends.
type Request struct {
	Method, URL string
	Header      http.Header // is not changed; without a User-Agent a copy is sent
	Body        []byte
}

// Answer is what came back for a request.
type Answer struct {
	Progress   Progress
	Status     int           // 0 if none came
	RetryAfter time.Duration // how long Retry-After asks to wait, an hour at most; 0 without it
	Header     http.Header
	Decoded    bool // the body came in full, and is JSON of the form that was asked for
	Truncated  bool // the body is longer than the limit, and was decoded in part
}

// Transport sends requests where the caller has no client of its own. It keeps idle
// connections open for later requests.
var Transport http.RoundTripper = newTransport()

func newTransport() http.RoundTripper {
	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = pool.MaxIdleConns // there are two or three hosts, and HTTP/1.1 needs many connections
	pool.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
		if res.StatusCode != http.StatusOK {
			return proxyError(res.StatusCode)
		}
		return nil
	}
	return pool
}

// proxyError is the status with which a proxy refused to connect.
type proxyError int

func (e proxyError) Error() string {
	text := fmt.Sprintf("the proxy of HTTPS_PROXY refused the connection (HTTP %d)", int(e))
	if e == http.StatusProxyAuthRequired {
		text += ": it wants a user and a password"
	}
	return text
}

const (
	maxRest    = 64 << 10 // bytes of a body that are read so that the connection can be used again
	maxRefusal = 64 << 10 // bytes that are decoded of the body of an answer that is no success
)

// Do sends r once, and decodes the JSON of the answer's body into out, unless out is nil: up
// to limit bytes, and of a status above 299 up to 64 KB. Every status is an answer, not an
// error, and so is every body that came in full; if it is not Decoded, out may hold a part of
// it. The Answer's Progress is set also when there is an error; so are Status and RetryAfter
// when the status came and the body was cut off.
//
// Only client's Transport and Timeout are used. Without them, or without a client, that
// is Transport and no timeout. A Transport must call httptrace's GotConn, as
// http.Transport does.
func Do(ctx context.Context, client *http.Client, r Request, out any, limit int64) (Answer, error) {
	transport := Transport
	if client != nil {
		transport = cmp.Or(client.Transport, Transport)
		if client.Timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, client.Timeout)
			defer cancel()
		}
	}
	a := Answer{Progress: NotSent}
	if ctx.Err() != nil {
		return a, safeError(ctx.Err())
	}
	// Once the request has a connection, it may have been sent.
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { a.Progress = MaybeAtWork }})
	req, err := http.NewRequestWithContext(traced, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return a, errors.New("the URL is not valid")
	}
	if req.Header = r.Header; r.Header["User-Agent"] == nil {
		req.Header = http.Header{"User-Agent": {UserAgent}}
		maps.Copy(req.Header, r.Header)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return a, safeError(err)
	}
	defer res.Body.Close()
	a.Status, a.Header, a.RetryAfter = res.StatusCode, res.Header, retryAfter(res.Header)
	a.Progress = Answered
	if a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout {
		a.Progress = MaybeAtWork // a gateway gave up waiting for a server that may still be working
	}
	if a.Status > 299 {
		limit = min(limit, maxRefusal)
	}
	if out != nil && res.Body != http.NoBody {
		err = a.decode(res.Body, out, limit)
	}
	io.CopyN(io.Discard, res.Body, maxRest)
	if err != nil {
		return a, fmt.Errorf("the answer was cut off: %w", safeError(err))
	}
	return a, nil
}

// decode decodes a body as leniently as JavaScript does. Its error means that the body was
// cut off, as one also was whose JSON ends early.
func (a *Answer) decode(body io.Reader, out any, limit int64) error {
	limited := &io.LimitedReader{R: body, N: limit}
	err := json.UnmarshalRead(limited, out, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	a.Decoded, a.Truncated = err == nil, err != nil && limited.N == 0
	_, isSyntax := errors.AsType[*jsontext.SyntacticError](err)
	_, isMismatch := errors.AsType[*json.SemanticError](err)
	if a.Truncated || (isSyntax || isMismatch) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// safeError returns the part of a failed request's error that may be logged. The whole
// error may quote malformed headers.
func safeError(err error) error {
	for _, known := range []error{context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	if proxy, ok := errors.AsType[proxyError](err); ok {
		return proxy
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certificate
	}
	return errors.New("the connection ended early, or the answer is not HTTP")
}

// retryAfter returns the wait that the header Retry-After asks for, in seconds or as a
// date (RFC 9110 section 10.2.3): an hour at most, and 0 if it is absent or invalid.
func retryAfter(header http.Header) time.Duration {
	var wait time.Duration
	text := header.Get("Retry-After")
	if text == "" { // the usual case; http.ParseTime is slow for it
		return 0
	}
	if n, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(max(0, min(n, 3600))) * time.Second // clamped first, or else it could wrap around
	} else if at, err := http.ParseTime(text); err == nil {
		wait = time.Until(at)
	}
	return min(max(wait, 0), time.Hour)
}
