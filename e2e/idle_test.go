package e2e_test

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// farAway is the way to a server on this machine as if it were on another continent:
// every byte takes half a round trip, and a connection takes a whole one.
type farAway struct {
	net.Listener
	t         testing.TB
	to        string
	roundTrip time.Duration

	mu     sync.Mutex
	conns  []*farConn // that are not cut
	opened []string   // all connections, by the address that the server sees
	ready  []string   // those whose handshakes are over and that are not cut
	used   []string   // by requests, one after the other
}

// farConn is a connection of the program, which goes on to the server.
type farConn struct {
	from, to *net.TCPConn
	closed   chan struct{} // by the program
}

func newFarAway(t testing.TB, roundTrip time.Duration) *farAway {
	t.Helper()
	f := &farAway{t: t, roundTrip: roundTrip, Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	t.Cleanup(func() {
		f.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.conns {
			c.from.Close()
			c.to.Close()
		}
	})
	return f
}

// run takes connections until the listener is closed.
func (f *farAway) run() {
	for {
		from, err := f.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", f.to)
		if err != nil {
			from.Close()
			continue
		}
		c := &farConn{from.(*net.TCPConn), to.(*net.TCPConn), make(chan struct{})}
		f.mu.Lock()
		f.conns, f.opened = append(f.conns, c), append(f.opened, to.LocalAddr().String())
		f.mu.Unlock()
		go func() {
			f.carry(c.from, c.to, f.roundTrip) // the first bytes come after the handshake
			close(c.closed)
		}()
		go f.carry(c.to, c.from, 0)
	}
}

// carry copies until from ends; then to does, once all has arrived.
func (f *farAway) carry(from, to *net.TCPConn, later time.Duration) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 100)
	go func() {
		defer to.CloseWrite()
		for p := range pieces {
			time.Sleep(time.Until(p.at))
			to.Write(p.data)
		}
	}()
	defer close(pieces)
	earliest := time.Now().Add(later + f.roundTrip/2)
	for {
		data := make([]byte, 16<<10)
		n, err := from.Read(data)
		if err != nil {
			return
		}
		at := time.Now().Add(f.roundTrip / 2)
		if at.Before(earliest) {
			at = earliest
		}
		pieces <- piece{at, data[:n]}
	}
}

// cut ends all connections, as servers do with idle ones, and returns when the program
// knows.
func (f *farAway) cut() {
	f.t.Helper()
	f.mu.Lock()
	conns := f.conns
	f.conns, f.ready = nil, nil
	f.mu.Unlock()
	for _, c := range conns {
		c.from.CloseWrite()
		select {
		case <-c.closed:
		case <-time.After(patience):
			f.t.Fatal("the program does not close a connection that its server has closed")
		}
		c.from.Close()
		c.to.Close()
	}
}

// waitReady waits until a connection is open.
func (f *farAway) waitReady() {
	f.t.Helper()
	waitFor(f.t, "a connection is open while nobody asks for anything", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.ready) > 0
	})
}

// connections returns all that were ever opened.
func (f *farAway) connections() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.opened)
}

// openNow returns those that are open, or being opened.
func (f *farAway) openNow() []*farConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.conns)
}

// requests returns the connection of each request.
func (f *farAway) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.used)
}

// server is h behind TLS at the end of the way. It returns its certificate.
func (f *farAway) server(h http.Handler) (certificate []byte) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.used = append(f.used, r.RemoteAddr)
		f.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	// A connection with HTTP/2 is idle for the first time when its first bytes have come
	// after the handshakes: half a round trip after the program could use it.
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			f.mu.Lock()
			f.ready = append(f.ready, c.RemoteAddr().String())
			f.mu.Unlock()
		}
	}
	s.StartTLS()
	f.t.Cleanup(s.Close)
	f.to = s.Listener.Addr().String()
	go f.run()
	return s.Certificate().Raw
}

// distant starts a program whose Slack and Novu are far away, behind TLS.
func distant(t testing.TB, roundTrip time.Duration) (p *person, program *program, slack, novu *farAway) {
	t.Helper()
	w := newWorld(t)
	slack, novu = newFarAway(t, roundTrip), newFarAway(t, roundTrip)
	slack.server(w.slack)
	certificate := novu.server(w.novu) // the same for all of httptest's servers
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(w.env, "SLACK_URL=https://"+slack.Addr().String(), "NOVU_API_URL=https://"+novu.Addr().String(), "SSL_CERT_FILE="+authority)
	return w.person(t), start(t, env...), slack, novu
}

// Installs are rare: when a person comes back, the last one's connections to Slack and
// Novu are long closed. New ones were opened when the person left, and no request of the
// callback waits for another.
func TestConnectionsAreOpenWhenThePersonReturns(t *testing.T) {
	t.Parallel()
	p, program, slack, novu := distant(t, 100*time.Millisecond)
	link := p.linkTo("ada")
	ways := map[string]*farAway{"Slack": slack, "Novu": novu}
	wantText(t, p.connect(program, link), textConnected) // from now on the install itself asks Novu nothing, for a minute
	for round := range 3 {
		opened, requests := map[string][]string{}, map[string]int{}
		for _, way := range ways {
			way.cut()
		}
		callback := p.approve(program, link)
		for name, way := range ways {
			way.waitReady()
			opened[name], requests[name] = way.connections(), len(way.requests())
		}
		wantText(t, p.finish(program, callback), textConnected)
		for name, way := range ways {
			used := way.requests()[requests[name]:]
			if len(used) == 0 || slices.ContainsFunc(used, func(addr string) bool { return !slices.Contains(opened[name], addr) }) {
				t.Errorf("round %d: the callback's requests to %s came on %v, want ones that were opened before: %v", round+1, name, used, opened[name])
			}
		}
	}

	// As long as they are open, no others are opened.
	before := len(slack.connections()) + len(novu.connections())
	for range 5 {
		wantText(t, p.connect(program, link), textConnected)
	}
	if after := len(slack.connections()) + len(novu.connections()); after != before {
		t.Errorf("five more flows opened %d connections, want none", after-before)
	}
}

// For somebody who took long at Slack there is no connection to Novu any more: one is
// opened while Slack is asked, and not after that.
func TestNovuIsConnectedWhileSlackIsAsked(t *testing.T) {
	t.Parallel()
	p, program, slack, novu := distant(t, 100*time.Millisecond)
	callback := p.approve(program, p.linkTo("ada"))
	slack.waitReady()
	novu.waitReady()
	novu.cut()
	p.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		for len(novu.openNow()) == 0 {
			select {
			case <-time.After(time.Millisecond):
			case <-r.Context().Done():
				t.Error("Novu is not connected while Slack takes its time")
				return
			}
		}
		next.ServeHTTP(to, r)
	})
	wantText(t, p.finish(program, callback), textConnected)
}

// BenchmarkCallback is what a person waits for at the callback, with Slack and Novu
// 40 ms away: two requests after each other, 80 ms, are the least. Cold is after all
// connections were cut, as they are after some minutes without an install.
func BenchmarkCallback(b *testing.B) {
	p, program, slack, novu := distant(b, 40*time.Millisecond)
	link := p.linkTo("ada")
	for name, cut := range map[string]bool{"warm": false, "cold": true} {
		b.Run(name, func(b *testing.B) {
			p.connect(program, link)
			var took time.Duration
			for b.Loop() {
				if cut {
					slack.cut()
					novu.cut()
				}
				callback := p.approve(program, link)
				time.Sleep(200 * time.Millisecond) // a very quick person: the handshakes take 80 ms
				start := time.Now()
				if a, err := p.get(program, callback); err != nil || a.status != http.StatusSeeOther {
					b.Fatalf("got %d, %v: %s", a.status, err, readable(a.body))
				}
				took += time.Since(start)
			}
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/callback")
		})
	}
}
