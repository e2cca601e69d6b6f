package handler

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever the pace, a subscriber gets its burst and ten exchanges a minute, and one that
// went beyond with callbacks at the same moment waits for longer.
func TestExchangeLimitHoldsWhateverThePace(t *testing.T) {
	for _, pace := range []time.Duration{time.Millisecond, time.Second, 5 * time.Second, 7 * time.Second} {
		for _, atOnce := range []int{1, 5, 100} {
			synctest.Test(t, func(t *testing.T) {
				var l exchangeLimit
				const minutes = 20
				exchanged, begin := 0, time.Now()
				for time.Since(begin) < minutes*time.Minute {
					if !l.isReached() || l.wait("bob") == 0 {
						for range atOnce { // all of them ask before the first one counts
							l.add("bob", exchangePace)
							exchanged++
						}
					}
					time.Sleep(pace)
				}
				if most := exchangeBurst + 10*minutes + atOnce; exchanged > most {
					t.Errorf("%d every %v: got %d exchanges in %d minutes, want %d at most", atOnce, pace, exchanged, minutes, most)
				}
				if least := min(10*minutes, int(minutes*time.Minute/pace)) * 9 / 10; exchanged < least {
					t.Errorf("%d every %v: got %d exchanges in %d minutes, want about %d", atOnce, pace, exchanged, minutes, least)
				}
				if l.wait("ada") != 0 {
					t.Error("another subscriber waits")
				}
			})
		}
	}
}

// A mailing to many people, or a flood of links, costs the memory of the last twelve seconds. None
// of them has reached the limit, so that no callback needs a look-up.
func TestExchangeLimitForgetsSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l exchangeLimit
		for n := range 20_000 { // in an hour
			l.add(fmt.Sprint("user-", n), exchangePace)
			time.Sleep(180 * time.Millisecond)
			if l.isReached() {
				t.Fatalf("after %d people with one exchange each, the limit is reached", n+1)
			}
		}
		if got := len(l.busyUntil); got > 100 {
			t.Errorf("%d subscribers are held, want those of the last twelve seconds", got)
		}
	})
}
