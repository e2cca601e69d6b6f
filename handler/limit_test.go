package handler_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/state"
)

// limitedRoutes returns a way to ask routes with a rate limit of one a second, as a proxy
// does for a client at an address.
func limitedRoutes() (ask func(method, target, address string) *httptest.ResponseRecorder) {
	routes := handler.New(handler.Config{
		RedirectURL: &url.URL{Scheme: "https", Host: "slack.example.com", Path: "/slack/callback"}, Log: zerolog.Nop(), Metrics: metrics.New(), Store: &state.Store{}, Links: &link.Verifier{Now: time.Now}, RateLimit: 1,
		TrustedProxies: []*net.IPNet{{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}}, // httptest's client
	})
	return func(method, target, address string) *httptest.ResponseRecorder {
		r, answer := httptest.NewRequest(method, target, nil), httptest.NewRecorder()
		r.Header.Set("X-Forwarded-For", address)
		routes.ServeHTTP(answer, r)
		return answer
	}
}

// limited is limitedRoutes for requests that cost next to nothing; it returns their status.
func limited() (ask func(address string) int) {
	routes := limitedRoutes()
	return func(address string) int { return routes(http.MethodHead, handler.InstallPath, address).Code }
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := limitedRoutes()
		want := func(address string, status int, code string) (header http.Header) {
			t.Helper()
			answer := ask(http.MethodGet, "https://slack.example.com"+handler.InstallPath, address)
			page{status: answer.Code, body: answer.Body.String()}.wantCode(t, status, code)
			return answer.Header()
		}
		for range 3 {
			want("203.0.113.7", http.StatusForbidden, "link_invalid")
		}
		if got := want("203.0.113.7", http.StatusTooManyRequests, "rate_limited").Get("Retry-After"); got != "1" {
			t.Errorf("got Retry-After %q, want 1", got)
		}
		want("203.0.113.8", http.StatusForbidden, "link_invalid")
		for i := range 3 {
			want(fmt.Sprintf("10.0.0.%d, 203.0.113.7", i), http.StatusTooManyRequests, "rate_limited") // what the client itself added is not believed
		}
		for i := range 3 {
			want(fmt.Sprintf("2001:db8::%x", i), http.StatusForbidden, "link_invalid")
		}
		want("2001:db8::3", http.StatusTooManyRequests, "rate_limited") // one household of IPv6
		if got := ask(http.MethodGet, "/healthz", "203.0.113.7").Code; got != http.StatusOK {
			t.Errorf("/healthz: got %d, want 200", got)
		}
		time.Sleep(time.Second)
		want("203.0.113.7", http.StatusForbidden, "link_invalid")
		want("203.0.113.7", http.StatusTooManyRequests, "rate_limited")
	})
}

// Each person is one client of the rate limit, whatever port their connection to the
// proxy has.
func TestRateLimitCountsPeopleWithPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := limited()
		for n := range 30 {
			for _, address := range []string{fmt.Sprintf("203.0.113.%d:%d", n, 1000+n), fmt.Sprintf("[2001:db8:%x::1]:%d", n, 1000+n)} {
				if got := ask(address); got != http.StatusOK {
					t.Errorf("%s: got %d, want 200", address, got)
				}
			}
		}
		for n := range 10 {
			want := http.StatusOK
			if n >= 3 {
				want = http.StatusTooManyRequests
			}
			if got := ask(fmt.Sprintf("[2001:db8:aaaa::1]:%d", 2000+n)); got != want {
				t.Errorf("one person's request %d, from another port: got %d, want %d", n+1, got, want)
			}
		}
	})
}

// A flood from ever new addresses, as one who holds a large network of IPv6 can
// make it, costs the memory of its last few seconds, and not of all of it.
func TestRateLimitForgetsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := limited()
		held := func() float64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc)
		}
		n := 0
		flood := func(requests int) {
			for range requests {
				if n++; ask(fmt.Sprintf("2001:db8:%x:%x::1", n>>16, n&0xffff)) != http.StatusOK {
					t.Fatal("a first request is refused: the test tests nothing")
				}
				time.Sleep(2 * time.Millisecond) // of the bubble's clock
			}
		}
		flood(5_000) // 10 s
		before := held()
		flood(30_000) // a minute
		if grown := held() - before; grown > 1<<20 {
			t.Errorf("30,000 addresses in a minute are held in %.1f MB, want what the last seconds of them need", grown/1e6)
		}
		ask("2001:db8::1") // so that the limiter is in use until here
	})
}

// Forgetting gives nothing away: whatever the pace, a client gets its burst and
// its rate and no more.
func TestRateLimitHoldsWhateverThePace(t *testing.T) {
	for _, pace := range []time.Duration{100 * time.Millisecond, 900 * time.Millisecond, 1900 * time.Millisecond, 2900 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			ask, begin, served := limited(), time.Now(), 0
			for round := 0; time.Since(begin) < time.Minute; round++ {
				for range 5 {
					if ask("203.0.113.7") == http.StatusOK {
						served++
					}
				}
				time.Sleep(pace - pace/10)
				ask(fmt.Sprintf("198.51.100.%d", round%256)) // others make it look for what to forget
				time.Sleep(pace / 10)
			}
			if got, most := served, 3+61; got > most || got < 45 {
				t.Errorf("five every %v: got %d of a minute served, want about 60 and at most %d", pace, got, most)
			}
		})
	}
}

// However many ask at a time whether the service is ready, the store is asked once,
// and its connections stay free for people.
func TestReadyzAsksTheStoreOnce(t *testing.T) {
	asked, answer := make(chan bool, 100), make(chan bool)
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.wrap = func(b state.Backend) state.Backend { return slowReady{b, asked, answer} }
	})
	var probes sync.WaitGroup
	for range 50 {
		probes.Go(func() { w.browser().get("/readyz").want(t, http.StatusOK, `"status":"ok"`) })
	}
	<-asked
	w.browser().connect("ada").want(t, http.StatusOK, isConnected)
	if more := len(asked); more != 0 {
		t.Errorf("50 probes asked the store %d times, want once while it does not answer", more+1)
	}
	close(answer)
	probes.Wait()
}

// slowReady answers when it may.
type slowReady struct {
	state.Backend
	asked, answer chan bool
}

func (b slowReady) Ready(ctx context.Context) error {
	b.asked <- true
	<-b.answer
	return b.Backend.Ready(ctx)
}

// Nobody can make the store work by asking whether it is ready: it is asked once a
// second at most, and a failure is known as soon.
func TestReadyzAsksTheStoreOnceASecond(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	begun := time.Now()
	for range 200 {
		b.get("/readyz").want(t, http.StatusOK)
	}
	if got, most := w.backend.readies.Load(), int64(time.Since(begun)/time.Second)+1; got > most {
		t.Errorf("200 probes in %v asked the store %d times, want at most %d", time.Since(begun), got, most)
	}
	w.backend.down.Store(true)
	eventually(t, "it is not ready", func() bool { return b.get("/readyz").status == http.StatusServiceUnavailable })
	begun, before := time.Now(), w.backend.readies.Load()
	for range 50 {
		b.get("/readyz")
	}
	if got, most := w.backend.readies.Load()-before, int64(time.Since(begun)/time.Second)+1; got > most {
		t.Errorf("50 probes in %v asked a store that is down %d times, want at most %d", time.Since(begun), got, most)
	}
	w.backend.down.Store(false)
	eventually(t, "it is ready again", func() bool { return b.get("/readyz").status == http.StatusOK })
}

// What panics may carry a secret: the log has the type and the place, and the
// person a page.
func TestPanicsShowNoSecret(t *testing.T) {
	var value atomic.Value
	value.Store(&[]any{nil}[0])
	w := newWorld(t, func(w *world, c *handler.Config) {
		w.wrap = func(b state.Backend) state.Backend { return panicking{b, func() any { return *value.Load().(*any) }} }
	})
	b := w.browser()
	for _, carried := range []any{"canary-panic", errors.New("canary-panic"), struct{ key string }{"canary-panic"}, []byte("canary-panic"), map[string]bool(nil)} {
		value.Store(&carried)
		p := b.get(w.link("ada"))
		p.wantCode(t, http.StatusInternalServerError, "internal_error")
		b.get("/readyz").wantCode(t, http.StatusInternalServerError, "internal_error")
		if strings.Contains(p.body, "goroutine") || strings.Contains(p.body, "panic") {
			t.Errorf("the page shows the panic: %s", p.body)
		}
	}
	logs := w.logs.String()
	for _, want := range []string{`"code":"internal_error"`, `"error":"panic of a string\n`, "panic of a *errors.errorString", "panic: assignment to entry in nil map", "limit_test.go:"} {
		if !strings.Contains(logs, want) {
			t.Errorf("the log does not say %q: %s", want, logs)
		}
	}
	if strings.Contains(logs, "canary") {
		t.Errorf("the log shows what the panic carried: %s", logs)
	}
	value.Store(&[]any{nil}[0])
	b.connect("ada").want(t, http.StatusOK, isConnected) // it lives
}

// panicking is a backend that panics with value, if there is one.
type panicking struct {
	state.Backend
	value func() any
}

func (b panicking) trip() {
	switch value := b.value(); value.(type) {
	case nil:
	case map[string]bool:
		value.(map[string]bool)["x"] = true // the runtime's own panic
	default:
		panic(value)
	}
}

func (b panicking) Issue(ctx context.Context, key state.Key, request []byte, ttl time.Duration) error {
	b.trip()
	return b.Backend.Issue(ctx, key, request, ttl)
}

func (b panicking) Ready(ctx context.Context) error {
	b.trip()
	return b.Backend.Ready(ctx)
}
