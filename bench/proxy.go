package main

import (
	"io"
	"net"
	"sync/atomic"
)

// counter is a proxy to Redis that counts round trips: each time a client speaks
// on a connection after Redis did, whatever it then says at once. A script is
// one, and so is a pipeline.
type counter struct {
	addr  string
	trips atomic.Int64
}

func newCounter(redis string) (*counter, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{addr: listener.Addr().String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go c.pass(client, redis)
		}
	}()
	return c, nil
}

func (c *counter) pass(client net.Conn, redis string) {
	defer client.Close()
	server, err := net.Dial("tcp", redis)
	if err != nil {
		return
	}
	defer server.Close()
	var speaking atomic.Bool // the client, since Redis last did
	go func() {
		defer client.Close()
		move(client, server, func() { speaking.Store(false) })
	}()
	move(server, client, func() {
		if !speaking.Swap(true) {
			c.trips.Add(1)
		}
	})
}

// move copies until one side is done, and calls each before a piece is passed on.
func move(to io.Writer, from io.Reader, each func()) {
	for piece := make([]byte, 64<<10); ; {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		each()
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}
