package bench

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	people = flag.Int("people", 12, "people in the rush")
	limit  = flag.Int("limit", 4, "codes that Slack exchanges in each window of the rush")
	window = flag.Duration("window", 2*time.Second, "window of Slack's limit in the rush")
	arrive = flag.Duration("arrive", time.Second, "time in which the people of the rush come back from Slack")
)

// TestRush measures how a crowd that Slack's rate limit holds up ends: with two instances on
// Redis, and pages that are looked at as often as they say. For figures:
//
//	go test -v -run Rush -people 600 -limit 60 -window 1m -arrive 6s -timeout 1h
func TestRush(t *testing.T) {
	l := newLab(t)
	for _, of := range l.services {
		if of.bolt {
			continue
		}
		t.Run(of.name, func(t *testing.T) {
			must(t, l.redis.FlushAll(t.Context()).Err())
			slack := &limitedSlack{next: l.fakes.slack.Config.Handler}
			server := httptest.NewServer(slack)
			defer server.Close()
			direct := l.fakes.slack
			l.fakes.slack = server
			defer func() { l.fakes.slack = direct }()
			instances := []*process{l.start(of), l.start(of)}
			defer instances[0].kill()
			defer instances[1].kill()

			var mu sync.Mutex
			ends := map[string]int{}
			var waits []time.Duration
			var crowd sync.WaitGroup
			for i := range *people {
				p := instances[i%2]
				callback, cookie, err := p.install()
				must(t, err)
				crowd.Go(func() {
					time.Sleep(*arrive * time.Duration(i) / time.Duration(*people))
					begin := time.Now()
					end, err := p.await(callback, cookie)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					ends[end]++
					if end == "connected" {
						waits = append(waits, time.Since(begin))
					}
				})
			}
			crowd.Wait()
			slices.Sort(waits)
			for _, end := range slices.Sorted(maps.Keys(ends)) {
				t.Logf("%s: %d of %d", end, ends[end], *people)
			}
			if n := len(waits); n > 0 {
				t.Logf("they waited %v at the median, %v at most; Slack refused %d exchanges", waits[n/2].Round(time.Second), waits[n-1].Round(time.Second), slack.refused)
			}
			if of.path == l.services[0].path && ends["connected"] != *people && *people <= *limit*int(9*time.Minute / *window) {
				t.Errorf("%d of %d people are connected, want all", ends["connected"], *people)
			}
		})
	}
}

// limitedSlack exchanges a number of codes in each window.
type limitedSlack struct {
	next    http.Handler
	mu      sync.Mutex
	begins  time.Time
	used    int
	refused int
}

func (s *limitedSlack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	now := time.Now()
	if begins := now.Truncate(*window); begins != s.begins {
		s.begins, s.used = begins, 0
	}
	s.used++
	tooMany := s.used > *limit
	if tooMany {
		s.refused++
	}
	rest := s.begins.Add(*window).Sub(now)
	s.mu.Unlock()
	if tooMany {
		w.Header().Set("Retry-After", strconv.Itoa(int((rest+time.Second-1)/time.Second)))
		write(w, http.StatusTooManyRequests, `{"ok":false,"error":"ratelimited"}`)
		return
	}
	s.next.ServeHTTP(w, r)
}

// await opens a callback, and reloads its page as often as that asks for, until it has an
// outcome: what the return URL is told, or the status of the last page.
func (p *process) await(path, cookie string) (outcome string, err error) {
	for {
		r, err := http.NewRequest(http.MethodGet, "http://"+p.addr+path, nil)
		if err != nil {
			return "", err
		}
		r.Host = strings.TrimPrefix(origin, "https://")
		r.Header.Set("Cookie", cookie)
		res, err := browser.Do(r)
		if err != nil {
			return "", err
		}
		res.Body.Close()
		to, _ := res.Location()
		refresh := res.Header.Get("Refresh")
		switch {
		case to != nil && strings.HasPrefix(to.String(), returnURL):
			q := to.Query()
			return strings.TrimSpace(q.Get("slack") + " " + q.Get("reason")), nil
		case to != nil:
			path = to.RequestURI()
		case refresh != "":
			seconds, next, _ := strings.Cut(refresh, "; url=")
			pause, _ := strconv.Atoi(seconds)
			time.Sleep(time.Duration(pause) * time.Second)
			path = next
		default:
			return fmt.Sprint("a page with status ", res.StatusCode), nil
		}
	}
}
