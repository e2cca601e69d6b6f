package main

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

// farAway is the way to a server on this machine as if it were on another
// continent: every byte takes half a round trip, and a connection takes a whole one.
type farAway struct {
	net.Listener
	to        string
	roundTrip time.Duration

	mu    sync.Mutex
	conns []net.Conn
	all   int
	last  time.Time // when something went either way
}

func newFarAway(t testing.TB, to string, roundTrip time.Duration) *farAway {
	t.Helper()
	f := &farAway{to: to, roundTrip: roundTrip, Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	t.Cleanup(func() { f.Close(); f.cut() })
	go func() {
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
			f.mu.Lock()
			f.conns, f.all = append(f.conns, from, to), f.all+1
			f.mu.Unlock()
			go f.carry(from, to, roundTrip) // the first bytes come after the handshake
			go f.carry(to, from, 0)
		}
	}()
	return f
}

func (f *farAway) carry(from, to net.Conn, later time.Duration) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 100)
	go func() {
		defer to.Close()
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
		f.mu.Lock()
		f.last = time.Now()
		f.mu.Unlock()
		at := time.Now().Add(f.roundTrip / 2)
		if at.Before(earliest) {
			at = earliest
		}
		pieces <- piece{at, data[:n]}
	}
}

// cut ends all connections, as servers do with idle ones.
func (f *farAway) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = time.Now()
	for _, conn := range f.conns {
		conn.Close()
	}
	f.conns = nil
}

func (f *farAway) connections() (all int, quiet time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all, time.Since(f.last)
}

// distant starts a program whose Slack and Novu, in this order, are far away, behind
// TLS.
func distant(t testing.TB, roundTrip time.Duration) (p *person, program *program, ways []*farAway) {
	t.Helper()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	authority := filepath.Join(t.TempDir(), "ca.pem")
	for i, h := range []http.Handler{w.slack, w.novu} {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		way := newFarAway(t, s.Listener.Addr().String(), roundTrip)
		ways = append(ways, way)
		w.env = append(w.env, []string{"SLACK_URL", "NOVU_API_URL"}[i]+"=https://"+way.Addr().String())
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(authority, certificate, 0o600); err != nil { // the same for all of httptest's servers
			t.Fatal(err)
		}
	}
	return w.person(t), start(t, append(w.env, "SSL_CERT_FILE="+authority)...), ways
}

// wantReady waits until each way has one connection more than before, and the
// handshakes on it are over.
func wantReady(t testing.TB, ways []*farAway, before []int) {
	t.Helper()
	for i, way := range ways {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if all, quiet := way.connections(); all > before[i] && quiet > 10*way.roundTrip {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("way %d: no connection was opened while the person was away", i)
			}
		}
	}
}

func counts(ways []*farAway) (list []int) {
	for _, way := range ways {
		n, _ := way.connections()
		list = append(list, n)
	}
	return list
}

// Installs are rare: when a person comes back, the last one's connections to Slack
// and Novu are long closed. New ones were opened when the person left, and the
// callback opens none.
func TestConnectionsAreOpenWhenThePersonReturns(t *testing.T) {
	t.Parallel()
	p, program, ways := distant(t, 40*time.Millisecond)
	for round := range 3 {
		for _, way := range ways {
			way.cut()
		}
		before := counts(ways)
		callback := p.begin(program, "ada")
		wantReady(t, ways, before)
		ready := counts(ways)
		wantText(t, p.land(program, callback), "Slack is connected")
		if after := counts(ways); !slices.Equal(after, ready) {
			t.Errorf("round %d: the callback opened connections: %v, then %v", round+1, ready, after)
		}
	}

	// As long as they are open, no others are opened.
	before := counts(ways)
	for range 5 {
		wantText(t, p.land(program, p.begin(program, "ada")), "Slack is connected")
	}
	if after := counts(ways); !slices.Equal(after, before) {
		t.Errorf("five more flows opened connections: %v, then %v", before, after)
	}
}

// Who took long at Slack finds no connection to Novu: it is opened while Slack is
// asked, and not after that.
func TestNovuIsConnectedWhileSlackIsAsked(t *testing.T) {
	t.Parallel()
	p, program, ways := distant(t, 40*time.Millisecond)
	novu := ways[1:]
	callback := p.begin(program, "ada")
	wantReady(t, ways, []int{0, 0})
	novu[0].cut()
	wantReady(t, novu, []int{0}) // and what is closed is known to be
	before := counts(novu)[0]
	p.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		for deadline := time.Now().Add(5 * time.Second); counts(novu)[0] == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Error("Novu is not connected while Slack takes its time")
				break
			}
		}
		next.ServeHTTP(to, r)
	})
	wantText(t, p.land(program, callback), "Slack is connected")
}

// BenchmarkCallback is what a person waits for at the callback, with Slack and Novu
// 40 ms away: two requests after each other, 80 ms, are the least. Cold is after all
// connections were cut, as they are after some minutes without an install.
func BenchmarkCallback(b *testing.B) {
	p, program, ways := distant(b, 40*time.Millisecond)
	for name, cut := range map[string]bool{"warm": false, "cold": true} {
		b.Run(name, func(b *testing.B) {
			p.land(program, p.begin(program, "ada"))
			var took time.Duration
			for b.Loop() {
				if cut {
					for _, way := range ways {
						way.cut()
					}
				}
				callback := p.begin(program, "ada")
				time.Sleep(200 * time.Millisecond) // a very quick person: the handshakes take 80 ms
				start := time.Now()
				if status, _, body, err := p.get(program, callback); err != nil || status != http.StatusSeeOther {
					b.Fatalf("got %d, %v: %s", status, err, body)
				}
				took += time.Since(start)
			}
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/callback")
		})
	}
}
