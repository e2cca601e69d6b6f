// Package wire is the line between the service and a fake of Slack or Novu: it
// keeps every request that crosses, as a Request Bin would, and breaks answers
// on demand.
package wire

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

// Exchange is one request and its answer.
type Exchange struct {
	At     time.Time
	To     string // the line's name
	Method string
	Target string // path and query, as sent
	Header http.Header
	Body   string
	Status int // 0 while unanswered, and when the connection was cut
	Answer string
	Go     string // the answer's Location header
}

// Log keeps the latest exchanges of one or several lines, in order of arrival.
// The zero value is ready.
type Log struct {
	mu        sync.Mutex
	exchanges []*Exchange
}

const (
	keep    = 500     // exchanges
	maxBody = 8 << 10 // bytes kept of a body
)

// All returns copies of the exchanges.
func (l *Log) All() []Exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Exchange, len(l.exchanges))
	for i, e := range l.exchanges {
		all[i] = *e
	}
	return all
}

func (l *Log) change(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
}

// Line passes requests to a handler.
type Line struct {
	name string
	log  *Log
	next http.Handler

	mu     sync.Mutex
	queue  []Fault
	always Fault
}

// NewLine returns a line called name to next that writes to log.
func NewLine(name string, log *Log, next http.Handler) *Line {
	return &Line{name: name, log: log, next: next}
}

// Break makes the next requests meet one fault each, in order; a nil passes.
func (l *Line) Break(faults ...Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, faults...)
}

// BreakAll makes every request meet fault until it is nil again.
func (l *Line) BreakAll(fault Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.always, l.queue = fault, nil
}

func (l *Line) fault() Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return l.always
	}
	f := l.queue[0]
	l.queue = l.queue[1:]
	return f
}

// ServeHTTP passes a request on, through the fault whose turn it is.
func (l *Line) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.pass(w, r, l.fault()) }

// Pass is ServeHTTP without faults.
func (l *Line) Pass(w http.ResponseWriter, r *http.Request) { l.pass(w, r, nil) }

func (l *Line) pass(w http.ResponseWriter, r *http.Request, fault Fault) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	r.Body = io.NopCloser(bytes.NewReader(body))
	e := &Exchange{At: time.Now(), To: l.name, Method: r.Method, Target: r.RequestURI, Header: r.Header.Clone(), Body: cut(body)}
	l.log.change(func() {
		l.log.exchanges = append(l.log.exchanges, e)
		if extra := len(l.log.exchanges) - keep; extra > 0 {
			l.log.exchanges = append([]*Exchange(nil), l.log.exchanges[extra:]...)
		}
	})
	rec := &recorder{ResponseWriter: w}
	defer func() {
		l.log.change(func() {
			e.Status, e.Answer, e.Go = rec.status, cut(rec.body.Bytes()), w.Header().Get("Location")
		})
	}()
	if fault != nil {
		fault(rec, r, l.next)
		return
	}
	l.next.ServeHTTP(rec, r)
}

func cut(b []byte) string { return string(b[:min(len(b), maxBody)]) }

// recorder notes what is answered. Unwrap lets a fault cut the connection.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.body.Len() < maxBody {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// Fault answers a request in place of next, or around it.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Answer answers with status and body and does nothing else. Headers are given
// as name, value, name, value.
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

// HTML answers as a load balancer in trouble does.
func HTML(status int) Fault {
	return Answer(status, fmt.Sprintf("<html><body><h1>%d %s</h1></body></html>", status, http.StatusText(status)), "Content-Type", "text/html")
}

// Edit does the work and lets change alter the answer before it is sent, whether
// or not the client is still there.
func Edit(change func(answer *httptest.ResponseRecorder)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		change(answer)
		send(w, answer, answer.Body.Bytes())
	}
}

// Slow does the work, then holds the answer back for d.
func Slow(d time.Duration) Fault {
	return Edit(func(*httptest.ResponseRecorder) { time.Sleep(d) })
}

// Hang answers nothing until the client goes away.
func Hang(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	<-r.Context().Done()
	cutOff(w)
}

// Reset cuts the connection before any work is done.
func Reset(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cutOff(w) }

// LoseAnswer does the work and cuts the connection instead of answering.
func LoseAnswer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	cutOff(w)
}

// Truncate does the work and sends half of the answer.
func Truncate(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
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

var masked = []*regexp.Regexp{
	regexp.MustCompile(`(https://hooks\.[a-z.-]+/)([^"\s]+)`),
	regexp.MustCompile(`((?:^|[?&;\s])(?:code|state|token|hmacHash|flow|again|client_secret)=)([^&;\s]+)`),
	regexp.MustCompile(`("access_token"\s*:\s*")([^"]+)`),
	regexp.MustCompile(`(=)([A-Za-z0-9_-]{32})\b`), // a cookie's value
	regexp.MustCompile(`((?:Basic|ApiKey|Bearer) )(\S+)`),
}

// Mask returns text with the secrets of this flow cut to their first letters:
// codes, states, tokens, keys, cookies and webhook URLs.
func Mask(text string) string {
	for _, re := range masked {
		text = re.ReplaceAllStringFunc(text, func(found string) string {
			m := re.FindStringSubmatch(found)
			return m[1] + m[2][:min(4, len(m[2])/4)] + "…"
		})
	}
	return text
}
