package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"novu-slack-redirect/upstream"
)

// listen calls serve for every connection to the address that it returns.
func listen(t *testing.T, serve func(conn *net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			go serve(conn.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// read reads a whole request.
func read(conn net.Conn) {
	if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		io.Copy(io.Discard, req.Body)
	}
}

func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// answering reads a request, writes text and ends the connection.
func answering(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		read(conn)
		io.WriteString(conn, text)
		conn.Close()
	}
}

func hang(conn *net.TCPConn) { io.Copy(io.Discard, conn) }

const limit = 100

// Every row of Progress's table, over real sockets. What is sent and answered is full
// of canaries, which no error may show.
func TestProgress(t *testing.T) {
	const ok, cutOff = "", "the answer was cut off: "
	status := func(code int, header string) func(*net.TCPConn) {
		return answering(fmt.Sprintf("HTTP/1.1 %d canary\r\n%sContent-Length: 8\r\n\r\n\"canary\"", code, header))
	}
	for name, c := range map[string]struct {
		scheme  string // http by default
		serve   func(*net.TCPConn)
		timeout time.Duration // a minute by default
		want    upstream.Answer
		err     string // a part of it; "" is none
	}{
		"TLS is not spoken": {scheme: "https", serve: answering("canary"), want: upstream.Answer{Progress: upstream.NotSent}, err: "not HTTP"},
		"TLS hangs":         {scheme: "https", serve: hang, timeout: 50 * time.Millisecond, want: upstream.Answer{Progress: upstream.NotSent}, err: "deadline exceeded"},
		"no time":           {serve: hang, timeout: -1, want: upstream.Answer{Progress: upstream.NotSent}, err: "deadline exceeded"},

		"reset while reading": {serve: func(conn *net.TCPConn) { conn.Read(make([]byte, 1)); reset(conn) },
			want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: " "},
		"reset after reading":  {serve: func(conn *net.TCPConn) { read(conn); reset(conn) }, want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: "reset"},
		"closed after reading": {serve: answering(""), want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: "EOF"},
		"cut in the header":    {serve: answering("HTTP/1.1 200 canary\r\ncanary: c"), want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: "EOF"},
		"not HTTP":             {serve: answering("canary\r\n\r\n"), want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: "not HTTP"},
		"hangs":                {serve: hang, timeout: 50 * time.Millisecond, want: upstream.Answer{Progress: upstream.MaybeAtWork}, err: "deadline exceeded"},
		"502":                  {serve: status(502, ""), want: upstream.Answer{Progress: upstream.MaybeAtWork, Status: 502, Decoded: true}},
		"504":                  {serve: status(504, "Retry-After: 9\r\n"), want: upstream.Answer{Progress: upstream.MaybeAtWork, Status: 504, RetryAfter: 9 * time.Second, Decoded: true}},
		"502 cut off": {serve: answering("HTTP/1.1 502 canary\r\nContent-Length: 9\r\n\r\n\"canary"),
			want: upstream.Answer{Progress: upstream.MaybeAtWork, Status: 502}, err: cutOff + "unexpected EOF"},

		"200": {serve: status(200, ""), want: upstream.Answer{Progress: upstream.Answered, Status: 200, Decoded: true}},
		"404": {serve: status(404, ""), want: upstream.Answer{Progress: upstream.Answered, Status: 404, Decoded: true}},
		"429": {serve: status(429, "Retry-After: 7\r\n"), want: upstream.Answer{Progress: upstream.Answered, Status: 429, RetryAfter: 7 * time.Second, Decoded: true}},
		"500": {serve: status(500, ""), want: upstream.Answer{Progress: upstream.Answered, Status: 500, Decoded: true}},
		"503": {serve: status(503, "Retry-After: 99999\r\n"), want: upstream.Answer{Progress: upstream.Answered, Status: 503, RetryAfter: time.Hour, Decoded: true}},
		"307": {serve: status(307, "Location: http://127.0.0.1:1/canary\r\n"), want: upstream.Answer{Progress: upstream.Answered, Status: 307, Decoded: true}},
		"307 to no URL": {serve: status(307, "Location: http://%zz/canary\r\n"),
			want: upstream.Answer{Progress: upstream.Answered, Status: 307, Decoded: true}},
		"200 without a body": {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 0\r\n\r\n"), want: upstream.Answer{Progress: upstream.Answered, Status: 200}},
		"204":                {serve: answering("HTTP/1.1 204 canary\r\n\r\n"), want: upstream.Answer{Progress: upstream.Answered, Status: 204}},
		"not JSON":           {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 8\r\n\r\n<canary>"), want: upstream.Answer{Progress: upstream.Answered, Status: 200}},
		"JSON of no text":    {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 10\r\n\r\n[\"canary\"]"), want: upstream.Answer{Progress: upstream.Answered, Status: 200}},
		"JSON and more":      {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 10\r\n\r\n\"canary\" x"), want: upstream.Answer{Progress: upstream.Answered, Status: 200}},
		"no UTF-8":           {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 9\r\n\r\n\"canary\xff\""), want: upstream.Answer{Progress: upstream.Answered, Status: 200, Decoded: true}},
		"200 cut off": {serve: answering("HTTP/1.1 200 canary\r\nRetry-After: 3\r\nContent-Length: 9\r\n\r\n\"canary"),
			want: upstream.Answer{Progress: upstream.Answered, Status: 200, RetryAfter: 3 * time.Second}, err: cutOff + "unexpected EOF"},
		"200 with JSON that ends early": {serve: answering("HTTP/1.1 200 canary\r\nContent-Length: 7\r\n\r\n\"canary"),
			want: upstream.Answer{Progress: upstream.Answered, Status: 200}, err: cutOff + "unexpected EOF"},
		"200 hangs in the body": {serve: func(conn *net.TCPConn) {
			read(conn)
			io.WriteString(conn, "HTTP/1.1 200 canary\r\nContent-Length: 9\r\n\r\n\"canary")
			hang(conn)
		}, timeout: 200 * time.Millisecond, want: upstream.Answer{Progress: upstream.Answered, Status: 200}, err: cutOff + "context deadline exceeded"},
		"200, long": {serve: answering("HTTP/1.1 200 canary\r\n\r\n\"" + strings.Repeat("canary", limit)),
			want: upstream.Answer{Progress: upstream.Answered, Status: 200, Truncated: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scheme := "http"
			if c.scheme != "" {
				scheme = c.scheme
			}
			origin := &url.URL{Scheme: scheme, Host: listen(t, c.serve)}
			if c.timeout == 0 {
				c.timeout = time.Minute
			}
			// In a short time a busy machine may not get as far: then it has more.
			for timeout := c.timeout; ; timeout *= 4 {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				var body string
				got, err := upstream.Do(ctx, nil, post(origin), &body, limit)
				if got.Progress == c.want.Progress || timeout > 10*time.Second {
					check(t, got, body, err, c.want, c.err)
					return
				}
			}
		})
	}

	t.Run("refused", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		origin := &url.URL{Scheme: "http", Host: l.Addr().String()}
		checkDo(t, origin, nil, upstream.Answer{Progress: upstream.NotSent}, "refused")
	})
	t.Run("certificate", func(t *testing.T) {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		defer s.Close()
		origin, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		checkDo(t, origin, nil, upstream.Answer{Progress: upstream.NotSent}, "certificate")
	})
	t.Run("proxy", func(t *testing.T) {
		proxy := &url.URL{Scheme: "http", Host: listen(t, status(502, ""))}
		origin := &url.URL{Scheme: "https", Host: "slack.example.com"}
		checkDo(t, origin, &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}, upstream.Answer{Progress: upstream.NotSent}, " ")
	})
	t.Run("timeout of the client", func(t *testing.T) {
		origin := &url.URL{Scheme: "http", Host: listen(t, hang)}
		for timeout := 50 * time.Millisecond; ; timeout *= 4 {
			got, err := upstream.Do(t.Context(), &http.Client{Timeout: timeout}, post(origin), nil, 0)
			if got.Progress == upstream.MaybeAtWork || timeout > 10*time.Second {
				check(t, got, "", err, upstream.Answer{Progress: upstream.MaybeAtWork}, "deadline exceeded")
				return
			}
		}
	})
	t.Run("no URL", func(t *testing.T) {
		for _, address := range []string{"http://canary\x7f/", "://canary", "canary", ""} {
			r := post(&url.URL{})
			r.URL = address
			got, err := upstream.Do(t.Context(), nil, r, nil, 0)
			if got.Progress != upstream.NotSent || err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("%q: got %+v, %v, want an error that does not quote it", address, got, err)
			}
		}
	})
}

func post(origin *url.URL) upstream.Request {
	return upstream.Request{Method: http.MethodPost, URL: origin.JoinPath("canary").String(), Header: http.Header{"Authorization": {"canary"}}, Body: []byte("canary")}
}

// checkDo sends a request and checks what Do returns.
func checkDo(t *testing.T, origin *url.URL, c *http.Client, want upstream.Answer, text string) {
	t.Helper()
	var body string
	got, err := upstream.Do(t.Context(), c, post(origin), &body, limit)
	check(t, got, body, err, want, text)
}

func check(t *testing.T, got upstream.Answer, body string, err error, want upstream.Answer, text string) {
	t.Helper()
	if got.Progress != want.Progress || got.Status != want.Status || got.RetryAfter != want.RetryAfter || got.Decoded != want.Decoded || got.Truncated != want.Truncated {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.Decoded && !strings.HasPrefix(body, "canary") || len(body) > limit {
		t.Errorf("got the body %q, decoded: %t", body, got.Decoded)
	}
	if (err == nil) != (text == "") || err != nil && (!strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "canary")) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
}

// The bodies of refusals are short, however long an answer may be: decoded, a small one in
// JSON can take fifty times its size.
func TestLongRefusalIsNotDecoded(t *testing.T) {
	for status, truncated := range map[int]bool{200: false, 400: true, 502: true} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, `["`+strings.Repeat("x", 1<<20)+`"]`)
		}))
		defer s.Close()
		var body any
		got, err := upstream.Do(t.Context(), nil, upstream.Request{Method: http.MethodGet, URL: s.URL, Header: http.Header{}}, &body, 32<<20)
		if err != nil || got.Status != status || got.Truncated != truncated || got.Decoded == truncated {
			t.Errorf("%d: got %+v, %v, want it truncated: %t", status, got, err, truncated)
		}
	}
}

// What fails is not sent a second time, nor are redirects followed.
func TestDoSendsOnce(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 308 x\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"} {
		requests := make(chan bool, 10)
		origin := &url.URL{Scheme: "http", Host: listen(t, func(conn *net.TCPConn) { requests <- true; answering(answer)(conn) })}
		upstream.Do(t.Context(), nil, post(origin), nil, 0)
		if len(requests) != 1 {
			t.Errorf("%q: got %d requests, want 1", answer, len(requests))
		}
	}
}

// Requests can share a header, and each is sent with our User-Agent.
func TestHeaderIsNotChanged(t *testing.T) {
	agents := make(chan string, 2)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { agents <- r.UserAgent() + " " + r.Header.Get("X") }))
	defer s.Close()
	for _, header := range []http.Header{nil, {"X": {"1"}}, {"X": {"1"}, "User-Agent": {upstream.UserAgent}}} {
		before := header.Clone()
		_, err := upstream.Do(t.Context(), nil, upstream.Request{Method: http.MethodGet, URL: s.URL, Header: header}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-agents; !strings.HasPrefix(got, "novu-slack-redirect/") || !strings.HasSuffix(got, " "+header.Get("X")) || !reflect.DeepEqual(header, before) {
			t.Errorf("%v: got %s and then the header %v, want our User-Agent and the header as before", before, got, header)
		}
	}
}

// The connections of many requests at once serve as many later ones.
func TestConnectionsAreKept(t *testing.T) {
	const atOnce = 20
	var opened atomic.Int64
	var arrived sync.WaitGroup
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived.Done()
		arrived.Wait()
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	origin, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var group sync.WaitGroup
		arrived.Add(atOnce)
		for range atOnce {
			group.Go(func() {
				checkDo(t, origin, nil, upstream.Answer{Progress: upstream.Answered, Status: 200}, "")
			})
		}
		group.Wait()
	}
	// A connection is not kept if net/http learns more than 50 ms late that the request was
	// written, as on a busy machine.
	if n := opened.Load(); n < atOnce || n >= 2*atOnce {
		t.Errorf("got %d connections, want about %d", n, atOnce)
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "1.5": 0, "x": 0, "999999": time.Hour, "-9223372037": 0,
		"Thu, 01 Jan 1970 00:00:00 GMT":                                             0,
		time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat):                time.Hour,
		time.Now().Add(30*time.Second + 900*time.Millisecond).Format(time.DateTime): 0,
	} {
		c := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {text}}, Body: http.NoBody}, nil
		})}
		if got, err := upstream.Do(t.Context(), c, post(&url.URL{Scheme: "http", Host: "x"}), nil, 0); got.RetryAfter != want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", text, got.RetryAfter, err, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestErrorsQuoteNothing(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	other := errors.New("the connection ended early, or the answer is not HTTP")
	for _, c := range []struct{ err, want error }{
		{fmt.Errorf("Post \"https://x/?canary\": %w", refused), refused},
		{fmt.Errorf("canary: %w", context.DeadlineExceeded), context.DeadlineExceeded},
		{fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
		{errors.New(`malformed MIME header line: "canary"`), other},
	} {
		client := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, c.err })}
		if _, err := upstream.Do(t.Context(), client, post(&url.URL{Scheme: "http", Host: "x"}), nil, 0); err.Error() != c.want.Error() {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
}
