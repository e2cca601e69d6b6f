package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"novu-slack-redirect/state/redistest"
)

// Many people come back from Slack at once, Slack limits the rate, and all instances are
// killed while people wait. Their codes live on in the store: the instances that start
// afterwards connect everyone, in turn, and the pages lead on.
func TestRushSurvivesKill(t *testing.T) {
	t.Parallel()
	const people, limit, window = 60, 20, 8 * time.Second
	w := newWorld(t, "REDIS_URL="+redistest.Start(t).URL())
	// Slack's clock stands still until the people have come: so many get through, and no more.
	var goOn atomic.Bool
	begin := time.Now().Truncate(window)
	w.slack.Now = func() time.Time {
		if goOn.Load() {
			return time.Now()
		}
		return begin
	}
	w.slack.LimitRate(limit, window)
	one, two := start(t, w.env...), start(t, w.env...)
	const back = "https://app.example.com/settings"
	results := make([]string, people)
	crowd := make([]*person, people)
	callbacks := make([]string, people)
	for i := range crowd {
		crowd[i] = w.person(t)
		callbacks[i] = crowd[i].approve(one, w.link(claims{"sub": fmt.Sprint("person-", i), "returnUrl": back}))
	}
	opened := time.Now()
	var arriving sync.WaitGroup
	for i, p := range crowd {
		arriving.Go(func() {
			a, err := p.get([]*program{one, two}[i%2], callbacks[i])
			if err != nil || a.status != http.StatusSeeOther {
				t.Errorf("callback: got %d, %v: %s", a.status, err, readable(a.body))
			}
			results[i] = a.location
		})
	}
	arriving.Wait()
	waiting := 0
	for i, to := range results {
		if strings.HasPrefix(to, back) {
			if !strings.Contains(to, "slack=connected") && !strings.Contains(to, "slack=pending") {
				t.Errorf("a person ends at %s", to)
			}
			continue
		}
		waiting++
		if waiting == 1 {
			a, err := crowd[i].get(one, to)
			if err != nil || a.status != http.StatusAccepted {
				t.Errorf("the page of one who waits: got %d, %v, want 202", a.status, err)
			}
			wantText(t, a.body, "One moment")
		}
	}
	if waiting < people-limit {
		t.Fatalf("%d people wait, want all but %d", waiting, limit)
	}
	_, list, stderr := runCommand(t, w.env, "outbox", "list")
	wantText(t, list+stderr, "in turn")
	wantText(t, list+stderr, "Slack limits the rate: it waits for its turn")
	one.kill()
	two.kill()
	goOn.Store(true)
	// One for each who came before anyone knew, and then one at a time.
	refused, stood := w.slack.RateLimited(), time.Since(opened)
	if most := people + int(stood/time.Second); refused > most {
		t.Errorf("Slack refused %d exchanges in %v, want at most %d", refused, stood, most)
	}

	three, four := start(t, w.env...), start(t, w.env...)
	for i, p := range crowd {
		at := []*program{three, four}[i%2]
		waitFor(t, fmt.Sprint("the page of person ", i, " leads back"), func() bool {
			if !strings.HasPrefix(results[i], back) {
				a, err := p.get(at, results[i]+"&n=2")
				if err == nil && a.status == http.StatusSeeOther {
					results[i] = a.location
				}
			}
			return strings.HasPrefix(results[i], back)
		})
		if !strings.Contains(results[i], "slack=connected") && !strings.Contains(results[i], "slack=pending") {
			t.Errorf("person %d ends at %s", i, results[i])
		}
		waitFor(t, fmt.Sprint("person ", i, " is connected"), func() bool {
			channels, _ := w.novu.Channels(fmt.Sprint("person-", i))
			return len(channels) == 1
		})
	}
	if got := len(w.slack.Webhooks()); got != people {
		t.Errorf("Slack gave %d webhooks, want %d: one for each person", got, people)
	}
	if got := w.slack.RateLimited() - refused; got > people {
		t.Errorf("Slack refused %d exchanges when its clock went on, want few", got)
	} else {
		t.Logf("Slack refused %d exchanges at first, and %d then", refused, got)
	}
}
