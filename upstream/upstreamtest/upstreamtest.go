// Package upstreamtest stands in front of a fake Slack or Novu: it records every
// request and its answer, and makes requests fail on demand.
package upstreamtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"time"
)

// Request is one request and its answer.
type Request struct {
	At       time.Time
	To       string // the proxy's name
	Method   string
	Target   string // path and query, as sent
	Header   http.Header
	Body     string
	Status   int // 0 while unanswered, and when the connection was cut
	Answer   string
	Location string // the answer's header
}

// Recorder keeps the latest requests of one or several proxies, in order of arrival.
// The zero value is ready.
type Recorder struct {
	mu       sync.Mutex
	requests []*Request
}

const (
	maxRequests = 500     // kept by a Recorder
	maxBody     = 8 << 10 // bytes kept of a body
)

// All returns copies of the requests.
func (rec *Recorder) All() []Request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	all := make([]Request, len(rec.requests))
	for i, r := range rec.requests {
		all[i] = *r
	}
	return all
}

func (rec *Recorder) add(r *Request) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.requests = append(rec.requests, r)
	if extra := len(rec.requests) - maxRequests; extra > 0 {
		rec.requests = append([]*Request(nil), rec.requests[extra:]...)
	}
}

func (rec *Recorder) setAnswer(r *Request, answer *responseWriter) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	r.Status, r.Answer, r.Location = answer.status, truncate(answer.body.Bytes()), answer.Header().Get("Location")
}

// Proxy passes requests to a fake.
type Proxy struct {
	name     string
	recorder *Recorder
	fake     http.Handler

	mu     sync.Mutex
	queue  []Fault
	always Fault
}

// NewProxy returns a proxy called name in front of fake.
func NewProxy(name string, recorder *Recorder, fake http.Handler) *Proxy {
	return &Proxy{name: name, recorder: recorder, fake: fake}
}

// Break applies one fault to each of the next requests, in order; nil is no fault.
func (p *Proxy) Break(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, faults...)
}

// BreakAll applies fault to every request until BreakAll is called with nil.
func (p *Proxy) BreakAll(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.always, p.queue = fault, nil
}

func (p *Proxy) nextFault() Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return p.always
	}
	f := p.queue[0]
	p.queue = p.queue[1:]
	return f
}

// ServeHTTP records a request and passes it on, or applies the next fault to it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, p.nextFault()) }

// ServeWithoutFaults records a request and passes it on.
func (p *Proxy) ServeWithoutFaults(w http.ResponseWriter, r *http.Request) { p.serve(w, r, nil) }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, fault Fault) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	r.Body = io.NopCloser(bytes.NewReader(body))
	request := &Request{At: time.Now(), To: p.name, Method: r.Method, Target: r.RequestURI, Header: r.Header.Clone(), Body: truncate(body)}
	p.recorder.add(request)
	answer := &responseWriter{ResponseWriter: w}
	defer p.recorder.setAnswer(request, answer)
	if fault != nil {
		fault(answer, r, p.fake)
		return
	}
	p.fake.ServeHTTP(answer, r)
}

func truncate(b []byte) string { return string(b[:min(len(b), maxBody)]) }

// responseWriter keeps what is answered. Unwrap lets a fault cut the connection.
type responseWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *responseWriter) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *responseWriter) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *responseWriter) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.body.Len() < maxBody {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// Fault answers a request in place of fake, or passes it on and changes the answer.
type Fault func(w http.ResponseWriter, r *http.Request, fake http.Handler)

// Answer answers with status and body without asking the fake. Headers are given as
// name, value, name, value.
func Answer(status int, body string, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// JSON is Answer with the content type of an API.
func JSON(status int, body string, headers ...string) Fault {
	return Answer(status, body, append(headers, "Content-Type", "application/json; charset=utf-8")...)
}

// HTML answers with an error page of a load balancer.
func HTML(status int) Fault {
	return Answer(status, fmt.Sprintf("<html><body><h1>%d %s</h1></body></html>", status, http.StatusText(status)), "Content-Type", "text/html")
}

// Edit passes the request on and calls change with the answer before it is sent,
// whether or not the client is still there.
func Edit(change func(answer *httptest.ResponseRecorder)) Fault {
	return func(w http.ResponseWriter, r *http.Request, fake http.Handler) {
		answer := httptest.NewRecorder()
		fake.ServeHTTP(answer, r)
		change(answer)
		send(w, answer, answer.Body.Bytes())
	}
}

// Slow passes the request on and delays the answer by d, or until the client has gone.
func Slow(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, fake http.Handler) {
		Edit(func(*httptest.ResponseRecorder) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		})(w, r, fake)
	}
}

// Hang never answers: it cuts the connection once the client has gone.
func Hang(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	<-r.Context().Done()
	cutOff(w)
}

// Reset cuts the connection without asking the fake.
func Reset(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cutOff(w) }

// LoseAnswer passes the request on and cuts the connection instead of answering.
func LoseAnswer(w http.ResponseWriter, r *http.Request, fake http.Handler) {
	fake.ServeHTTP(httptest.NewRecorder(), r)
	cutOff(w)
}

// Truncate passes the request on, sends half of the answer, and cuts the connection.
func Truncate(w http.ResponseWriter, r *http.Request, fake http.Handler) {
	answer := httptest.NewRecorder()
	fake.ServeHTTP(answer, r)
	answer.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
	send(w, answer, answer.Body.Bytes()[:answer.Body.Len()/2])
	http.NewResponseController(w).Flush()
	cutOff(w)
}

func send(w http.ResponseWriter, answer *httptest.ResponseRecorder, body []byte) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	w.Write(body)
}

func cutOff(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // a reset rather than an orderly end
	}
	conn.Close()
}

// masked are made on first use: the demo is in the program, and most never start it.
var masked = sync.OnceValue(func() []*regexp.Regexp {
	return []*regexp.Regexp{
		regexp.MustCompile(`(https://hooks\.[a-z.-]+/)([^"\s]+)`),
		regexp.MustCompile(`((?:^|[?&;\s])(?:code|state|token|slack_result|hmacHash|flow|again|client_secret)=)([^&;\s]+)`),
		regexp.MustCompile(`("access_token"\s*:\s*")([^"]+)`),
		regexp.MustCompile(`(=)([A-Za-z0-9_-]{32})\b`), // a cookie's value
		regexp.MustCompile(`((?:Basic|ApiKey|Bearer) )(\S+)`),
	}
})

// Mask returns text with every secret cut to its first letters: codes, states,
// tokens, keys, cookies and webhook URLs.
func Mask(text string) string {
	for _, re := range masked() {
		text = re.ReplaceAllStringFunc(text, func(found string) string {
			m := re.FindStringSubmatch(found)
			return m[1] + m[2][:min(4, len(m[2])/4)] + "…"
		})
	}
	return text
}
