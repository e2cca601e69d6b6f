package outbox

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

// limited answers exchanges as a Slack that allows some in each window: each refusal tells
// how long the window goes on. It returns how many it has refused.
func (f *fakeSlack) limited(limit int, window time.Duration) (refused func() int) {
	var begins time.Duration
	used, refusals := 0, 0
	f.answer = func(int) error { // f.mu is held
		now := time.Since(f.begun)
		if this := now.Truncate(window); this != begins {
			begins, used = this, 0
		}
		if used == limit {
			refusals++
			rest := (begins + window - now + time.Second - 1).Truncate(time.Second)
			return &slackoauth.Error{Code: slackoauth.CodeRateLimited, RetryAfter: rest, Progress: upstream.Answered}
		}
		used++
		return nil
	}
	f.takes = func(int) time.Duration { return 200 * time.Millisecond }
	return func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return refusals
	}
}

// A rush: many people come back from Slack at once, at two instances, and Slack allows some
// codes a minute. Whoever can be reached while the code lives ends connected, without
// starting again; the others are told at once.
func TestRushConnectsEveryone(t *testing.T) {
	for name, c := range map[string]struct {
		limit, people int
		within        time.Duration
		connected     int // of the people; the others are told at once
		refusals      int // by Slack, at most
	}{
		"600 in 6 s, 60 a minute":         {60, 600, 6 * time.Second, 600, 200},
		"7,000 at once, 600 a minute":     {600, 7000, time.Millisecond, 5400, 600},
		"2,000 in a minute, 600 a minute": {600, 2000, time.Minute, 2000, 100},
		"500 in 10 min, 600 a minute":     {600, 500, 10 * time.Minute, 500, 0},
		"1,300 in 10 min, 120 a minute":   {120, 1300, 10 * time.Minute, 1300, 100},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				one := newBox(t)
				two := one.another()
				defer one.run()()
				defer two.run()()
				refused := one.slack.limited(c.limit, time.Minute)
				var mu sync.Mutex
				told, waited := 0, map[state.Key]bool{}
				var arriving sync.WaitGroup
				var keys []state.Key
				for i := range c.people {
					b := []*box{one, two}[i%2]
					key := b.issue(request(fmt.Sprint("person-", i)))
					keys = append(keys, key)
					arriving.Go(func() {
						f := b.consume(key)
						failure, err := b.Advance(t.Context(), &f)
						mu.Lock()
						defer mu.Unlock()
						if err != nil || failure != nil && failure.Code != CodeSlackBusy {
							t.Errorf("got %+v, %v", failure, err)
						}
						if failure != nil {
							told++
						}
						waited[key] = f.Phase == state.Working
					})
					time.Sleep(c.within / time.Duration(c.people))
				}
				arriving.Wait()
				time.Sleep(10 * time.Minute)
				connected, inVain := 0, 0
				for _, key := range keys {
					switch outcome := one.outcome(key); {
					case outcome == state.Connected:
						connected++
					case outcome == CodeSlackBusy && waited[key]:
						inVain++
					case outcome != CodeSlackBusy:
						t.Errorf("a flow is %s", outcome)
					}
				}
				if connected < c.connected || told > c.people-c.connected || inVain > 0 || refused() > c.refusals {
					t.Errorf("%d connected, %d told at once, %d waited in vain, %d refusals by Slack; want %d, %d, 0 and at most %d",
						connected, told, inVain, refused(), c.connected, c.people-c.connected, c.refusals)
				}
				one.wantNoneLeft()
			})
		})
	}
}
