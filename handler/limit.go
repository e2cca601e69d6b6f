package handler

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/labstack/echo/v4/middleware"
	"golang.org/x/time/rate"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// newRateLimit returns what counts the requests of each client: perSecond of them on
// average, and three times as many at once.
func newRateLimit(perSecond float64) *middleware.RateLimiterMemoryStore {
	burst := max(1, int(3*perSecond))
	return middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{
		Rate:  rate.Limit(perSecond),
		Burst: burst,
		// After this time without a request a client has its full burst again, and can be
		// forgotten. This bounds the memory that a flood from many addresses takes.
		ExpiresIn: time.Duration(min(float64(burst)/perSecond, 3600) * float64(time.Second)),
	})
}

// limitRate returns a problem if a client sends too many requests. A client is an IPv4
// address, or a /64 network of IPv6.
func (h *handler) limitRate(r *request) error {
	if h.RateLimit == 0 {
		return nil
	}
	client := r.client
	if ip, err := netip.ParseAddr(client); err == nil && !ip.Unmap().Is4() {
		client = netip.PrefixFrom(ip.WithZone(""), 64).Masked().String()
	}
	if allowed, _ := h.clients.Allow(client); allowed {
		return nil
	}
	if id, ok := state.FlowID(secret.New(r.query.Get("state"))); ok { // a callback
		r.flowID = id
	}
	r.Response().Header().Set("Retry-After", "1")
	return &problem{Code: codeRateLimited}
}

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

// add counts an exchange of a subscriber: the next one of a subscriber without a burst left
// must wait for pace. A negative pace takes back what was added.
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
