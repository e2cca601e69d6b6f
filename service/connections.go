package service

import (
	"net"
	"net/http"
	"sync"
)

// connections caps the open connections of a server. One too many closes the one that
// has waited for a request, or for the rest of its header, the longest. If none waits,
// it closes the one whose request takes the longest, whose work goes on. So a crowd of
// idle or slow clients keeps nobody out, and neither people nor probes wait for a place.
type connections struct {
	max int

	mu    sync.Mutex
	count int64              // of changes
	open  map[net.Conn]int64 // when it changed last, plus serving while a request is answered
}

const serving = 1 << 62

// track implements http.Server.ConnState. The state is still New or Idle while a header
// arrives.
func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	_, known := c.open[conn] // not if it was closed here
	switch {
	case state == http.StateNew || state == http.StateIdle && known:
		c.open[conn] = c.count
	case state == http.StateActive && known:
		c.open[conn] = c.count + serving
	default:
		delete(c.open, conn)
	}
	if len(c.open) <= c.max {
		return
	}
	var oldest net.Conn
	for other, changed := range c.open {
		if other != conn && (oldest == nil || changed < c.open[oldest]) {
			oldest = other
		}
	}
	delete(c.open, oldest)
	oldest.Close()
}
