package handler

import (
	"maps"
	"sync"
	"time"
)

// A subscriber may have exchangeBurst codes refused by Slack at once, and on average one in
// exchangePace. Of codes that Slack takes it may have three times as many, for a person
// made each of them at Slack. Slack allows the whole app 600 exchanges a minute.
const (
	exchangeBurst = 20
	exchangePace  = 6 * time.Second
	takenPace     = exchangePace / 3
)

// exchangeLimit bounds the exchanges of each subscriber by this instance, so that one
// holder of a link cannot use up the app's with codes that Slack never made.
//
// A flow's subscriber is known once the flow is looked up or consumed. So that a flow costs
// no look-up, one is needed only while some subscriber has reached the limit. Callbacks at
// the same moment can go beyond it; the subscriber then waits for longer.
type exchangeLimit struct {
	mu        sync.Mutex
	busyUntil map[string]time.Time // by subscriber: when its exchanges so far, one in exchangePace, are through
	sweptAt   time.Time
	until     time.Time // no subscriber has reached the limit after it
}

// add counts an exchange of a subscriber, which takes up pace of its time.
func (l *exchangeLimit) add(subscriber string, pace time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.sweptAt) > exchangePace { // forget those that may have a full burst again
		maps.DeleteFunc(l.busyUntil, func(_ string, at time.Time) bool { return at.Before(now) })
		l.sweptAt = now
	}
	at := l.busyUntil[subscriber]
	if at.Before(now) {
		at = now
	}
	if l.busyUntil == nil {
		l.busyUntil = map[string]time.Time{}
	}
	at = at.Add(pace)
	l.busyUntil[subscriber] = at
	if ends := at.Add(-(exchangeBurst - 1) * exchangePace); ends.After(l.until) {
		l.until = ends
	}
}

// isReached reports whether some subscriber has reached the limit.
func (l *exchangeLimit) isReached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until)
}

// wait returns how long a subscriber must wait for its next exchange; 0 is not at all.
func (l *exchangeLimit) wait(subscriber string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.busyUntil[subscriber].Add(-(exchangeBurst-1)*exchangePace)))
}
