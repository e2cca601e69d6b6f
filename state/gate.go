package state

import (
	"fmt"
	"time"
)

// Turn is a flow's place among those that wait for Slack, which limits how many codes an
// app may exchange a minute. The zero Turn is that of a flow that does not wait.
type Turn struct {
	Place int           // 1 is the next
	Wait  time.Duration // estimated
}

// CodeLife is how long a code is worth an exchange. Slack's codes live 10 minutes.
const CodeLife = 9 * time.Minute

// gate orders the exchanges of all instances once Slack has refused one because of its
// rate limit. Without a gate, codes are exchanged as they come.
//
// Slack counts exchanges in windows of a minute or less, and says with each refusal when the
// next one begins. The gate is closed until then, for a minute at most at a time. After it,
// codes are exchanged in order, as many as Slack allowed in the window before, and from then
// on one at a time, until Slack refuses one. So each window costs little more than one
// refusal, and the gate follows Slack's limit when that changes. The gate is gone gateLife
// after the last refusal.
//
// Bolt uses these methods; lua/gate.lua has the same for Redis. Times are the backend's, in
// Unix milliseconds.
type gate struct {
	opens   int64 // when it opens, or opened: the beginning of a window
	next    int64 // when the next exchange may begin
	passed  int64 // exchanges in this window
	allowed int64 // exchanges that Slack allowed in the last full window; 0 is unknown
	before  int64 // and in the one before that
	window  int64 // how long the last full window was
}

const (
	slackWindow  = time.Minute            // of Slack's limit, at most
	slackAllows  = 600                    // exchanges a window, until Slack has shown another limit
	maxClosed    = slackWindow            // at a time, whatever Slack asks and however the clock steps back
	probePause   = 500 * time.Millisecond // between exchanges beyond those that Slack allowed
	gateLife     = 10 * time.Minute
	gateEncoding = "%d %d %d %d %d %d"
)

// decodeGate returns the gate that text holds, as it is now, or nil.
func decodeGate(text []byte, now int64) *gate {
	var g gate
	if n, _ := fmt.Sscanf(string(text), gateEncoding, &g.opens, &g.next, &g.passed, &g.allowed, &g.before, &g.window); n != 6 {
		return nil
	}
	if max(g.opens, g.next) > now+maxClosed.Milliseconds() { // the clock stepped back
		g.opens, g.next = now, now
	}
	if windows := (now - g.opens) / slackWindow.Milliseconds(); windows > 0 { // a window without a refusal
		if g.allowed > 0 {
			g.allowed = max(g.allowed, g.passed)
		}
		g.opens, g.next, g.passed = g.opens+windows*slackWindow.Milliseconds(), 0, 0
		g.window = slackWindow.Milliseconds()
	}
	return &g
}

func (g *gate) encode() []byte {
	return fmt.Appendf(nil, gateEncoding, g.opens, g.next, g.passed, g.allowed, g.before, g.window)
}

// close closes the gate for d, after Slack refused an exchange. g may be nil.
func (g *gate) close(now int64, d time.Duration) *gate {
	until := now + min(d, maxClosed).Milliseconds()
	switch {
	case g == nil:
		g = &gate{before: slackAllows, window: slackWindow.Milliseconds()}
	case g.opens <= now: // the first refusal of this window
		g.before, g.allowed, g.passed = g.allows(), max(0, g.passed-1), 0
		g.window = min(until-g.opens, slackWindow.Milliseconds())
	default: // of an exchange that was under way
		g.allowed = max(0, g.allowed-1)
		g.window = min(g.window+max(0, until-g.opens), slackWindow.Milliseconds())
	}
	g.opens = max(g.opens, until)
	g.next = g.opens
	return g
}

// allows returns how many exchanges Slack allows a window.
func (g *gate) allows() int64 {
	if g.allowed > 0 {
		return g.allowed
	}
	return g.before
}

// pass counts an exchange that may begin, because next is not after now.
func (g *gate) pass(now int64) {
	if g.passed++; g.passed >= g.allows() {
		g.next = now + probePause.Milliseconds()
	}
}

// turn returns the turn of the flow in a place. g may be nil.
func (g *gate) turn(now, place int64) Turn {
	if g == nil {
		return Turn{Place: int(place)}
	}
	free, wait := g.allows(), max(0, g.opens-now)
	if wait == 0 {
		free = max(0, free-g.passed)
	}
	if place > free {
		wait += (place - free + g.allows() - 1) / g.allows() * g.window
	}
	return Turn{int(place), time.Duration(wait) * time.Millisecond}
}
