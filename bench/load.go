package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// message is the part of an HTTP/1.1 request or answer that the benchmark looks
// at. net/http would take more of the machine than what is measured: both ends
// of the load, browsers and fakes, read with this instead.
type message struct {
	first, location, cookie, auth string
	body                          []byte
}

func read(from *bufio.Reader) (m message, err error) {
	length := 0
	for n := 0; ; n++ {
		line, err := from.ReadSlice('\n')
		if err != nil {
			return m, err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case n == 0:
			m.first = string(line)
		case bytes.EqualFold(name, []byte("Location")):
			m.location = string(value)
		case bytes.EqualFold(name, []byte("Set-Cookie")):
			m.cookie = string(value)
		case bytes.EqualFold(name, []byte("Authorization")):
			m.auth = string(value)
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return m, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return m, errors.New("the benchmark's reader knows no chunks")
		}
	}
	m.body = make([]byte, length)
	_, err = io.ReadFull(from, m.body)
	return m, err
}

// browser is a keep-alive connection, used by many people in turn.
type browser struct {
	conn net.Conn
	from *bufio.Reader
}

func dial(addr string) (*browser, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &browser{conn, bufio.NewReader(conn)}, nil
}

// headers are about as many as a browser sends.
const headers = " HTTP/1.1\r\nHost: slack.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\n"

func (b *browser) get(target, cookie string) (message, error) {
	if cookie != "" {
		cookie = "Cookie: " + cookie + "\r\n"
	}
	if _, err := io.WriteString(b.conn, "GET "+target+headers+cookie+"\r\n"); err != nil {
		return message{}, err
	}
	return read(b.from)
}

// visit is one person's flow: the link they open and the code that Slack gives.
type visit struct{ link, code string }

// install opens the link and returns where Slack would send the browser back to.
func (b *browser) install(v visit) (back, cookie string, err error) {
	m, err := b.get(v.link, "")
	if err != nil {
		return "", "", err
	}
	_, state, ok := bytes.Cut([]byte(m.location), []byte("&state="))
	if !ok || !answers(m, "302") {
		return "", "", fmt.Errorf("install: got %q to %q, want a 302 to Slack with a state", m.first, m.location)
	}
	state, _, _ = bytes.Cut(state, []byte("&"))
	pair, _, _ := bytes.Cut([]byte(m.cookie), []byte(";"))
	return "/slack/callback?code=" + v.code + "&state=" + string(state), string(pair), nil
}

func (b *browser) callback(back, cookie string) error {
	m, err := b.get(back, cookie)
	if err == nil && (!answers(m, "303") || !bytes.Contains([]byte(m.location), []byte("slack=connected"))) {
		err = fmt.Errorf("callback: got %q to %q, want a 303 with slack=connected", m.first, m.location)
	}
	return err
}

func answers(m message, status string) bool { return len(m.first) > 12 && m.first[9:12] == status }

// closed runs all visits, so many at a time, and returns flows a second.
func closed(addr string, visits []visit, atATime int) (float64, error) {
	var next atomic.Int64
	errs := make(chan error, atATime)
	start := time.Now()
	for range atATime {
		go func() {
			b, err := dial(addr)
			if err == nil {
				defer b.conn.Close()
			}
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= len(visits) {
					break
				}
				var back, cookie string
				if back, cookie, err = b.install(visits[i]); err == nil {
					err = b.callback(back, cookie)
				}
			}
			errs <- err
		}()
	}
	var err error
	for range atATime {
		err = errors.Join(err, <-errs)
	}
	return float64(len(visits)) / time.Since(start).Seconds(), err
}

// open begins rate visits a second whatever becomes of the earlier ones, and
// returns how long each install and each callback took.
func open(addr string, visits []visit, rate int) (installs, callbacks []time.Duration, err error) {
	var group sync.WaitGroup
	idle, errs := make(chan *browser, len(visits)), make([]error, len(visits))
	installs, callbacks = make([]time.Duration, len(visits)), make([]time.Duration, len(visits))
	one := func(i int) (err error) {
		var b *browser
		select {
		case b = <-idle:
		default:
			if b, err = dial(addr); err != nil {
				return err
			}
		}
		begin := time.Now()
		back, cookie, err := b.install(visits[i])
		if err != nil {
			return err
		}
		between := time.Now()
		err = b.callback(back, cookie)
		installs[i], callbacks[i] = between.Sub(begin), time.Since(between)
		idle <- b
		return err
	}
	begin := time.Now()
	for i := range visits {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		group.Go(func() { errs[i] = one(i) })
	}
	group.Wait()
	close(idle)
	for b := range idle {
		b.conn.Close()
	}
	return installs, callbacks, errors.Join(errs...)
}

// percentile returns the p-th of a hundred parts, in milliseconds.
func percentile(times []time.Duration, p int) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, len(times)*p/100)].Seconds() * 1000
}
