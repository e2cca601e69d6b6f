package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/upstream/upstreamtest"
)

// startLogged is start, and returns the reading end of the pipe that is the program's
// stderr: nobody reads it any more once the program listens. Its metrics are served.
func startLogged(t *testing.T, settings ...string) (*program, *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	cmd := exec.Command(binary)
	cmd.Env, cmd.Stderr = programEnv(append(settings, "METRICS_ADDR=127.0.0.1:0")), write
	err = cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: cmd, exited: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(p.end)
	read.SetReadDeadline(time.Now().Add(patience))
	for lines := bufio.NewReaderSize(read, 1); p.origin == ""; { // as small as can be: what it reads is lost
		line, err := lines.ReadString('\n')
		p.output.WriteString(line)
		if err != nil {
			t.Fatalf("the program does not listen: %v", err)
		}
		if m := regexp.MustCompile(`"addr":"[^"]*:(\d+)".*"message":"listening"`).FindStringSubmatch(line); m != nil {
			p.origin = "http://127.0.0.1:" + m[1]
		}
	}
	return p, read
}

// readLog reads what is left of a log, to its end.
func readLog(log *os.File) []byte {
	log.SetReadDeadline(time.Now().Add(patience))
	return must(io.ReadAll(log))
}

// The log's reader goes away while a flow is at Slack: the flow ends in Novu, and the
// program lives.
func TestLogReaderGoesAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, log := startLogged(t, w.env...)
	p := w.person(t)
	callback := p.approve(program, w.linkTo("ada"))
	fault, goOn := holdRequest()
	w.slack.Break(fault)
	done := make(chan answer)
	go func() {
		a, _ := p.get(program, callback)
		done <- a
	}()
	waitFor(t, "the exchange begins", w.exchanging)
	log.Close()
	for range 3 { // each of them is a log line
		if status := w.person(t).status(program, "/slack/install?token=x"); status != http.StatusForbidden {
			t.Errorf("another person: got %d, want 403", status)
		}
	}
	close(goOn)
	a := <-done
	if a.status != http.StatusSeeOther {
		t.Fatalf("the callback: got %d, want 303", a.status)
	}
	result, err := p.get(program, a.location)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, result.body, textConnected)
	w.wantSaved(t, "ada", 0)
	w.person(t).wantConnect(program, w.linkTo("bob"), textConnected)
	if dropped := gauge(t, program, "slack_redirect_log_lines_dropped_total"); dropped < 3 {
		t.Errorf("%v lines are counted as dropped, want at least 3", dropped)
	}
	program.stop()
}

// Nobody reads the log: all requests are answered all the same, lines that find no room
// are counted, and the program ends. Whoever reads then, finds whole lines.
func TestLogThatNobodyReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, log := startLogged(t, w.env...)
	const requests, senders = 4000, 8 // 2,000 are more than the pipe and the buffer hold
	client := http.Client{Timeout: patience}
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			for range requests / senders {
				req := must(http.NewRequest(http.MethodGet, program.origin+"/slack/install?token=x", nil))
				req.Host = strings.TrimPrefix(publicOrigin, "http://")
				begin := time.Now()
				res, err := client.Do(req)
				if err != nil && time.Since(begin) > slow {
					continue // the program cuts off who takes 5 s to send a request
				}
				if err != nil {
					t.Errorf("a request: %v", err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	group.Wait()
	for _, path := range []string{"/healthz", "/readyz"} {
		if status := w.person(t).status(program, path); status != http.StatusOK {
			t.Errorf("%s: got %d, want 200", path, status)
		}
	}
	w.person(t).wantConnect(program, w.linkTo("ada"), textConnected)
	w.wantSaved(t, "ada", 0)
	if dropped := gauge(t, program, "slack_redirect_log_lines_dropped_total"); dropped < requests/2 || dropped > requests {
		t.Errorf("%v lines are counted as dropped, want most of %d", dropped, requests)
	}
	program.stop()
	for line := range bytes.Lines(readLog(log)) {
		if !json.Valid(line) && bytes.HasSuffix(line, []byte("\n")) {
			t.Errorf("not a line of its own: %.200q", line)
		}
	}
}

// A reader that falls behind gets what was written until it ends, with the last line.
func TestLogIsFlushedAtTheEnd(t *testing.T) {
	t.Parallel()
	const requests = 500 // more than the pipe holds, fewer than the buffer
	for try := 1; ; try++ {
		w := newWorld(t)
		program, log := startLogged(t, w.env...)
		p := w.person(t)
		for range requests {
			p.status(program, "/slack/install?token="+strings.Repeat("x", 100))
		}
		if dropped := gauge(t, program, "slack_redirect_log_lines_dropped_total"); dropped != 0 {
			t.Fatalf("%v lines were dropped: the test tests nothing", dropped)
		}
		begin := time.Now()
		program.terminate()
		text := string(readLog(log))
		took := time.Since(begin)
		if got := program.wait(); got != exitOK {
			t.Errorf("got exit code %d, want 0", got)
		}
		n := strings.Count(text, `"message":"request"`)
		if n >= requests && strings.Contains(text, `"message":"draining"`) {
			break
		}
		if took < 2*time.Second || try == 10 { // for which the program waits for its reader
			t.Errorf("got %d requests' lines and %q at the end after %v, want %d and the line about draining", n, lastLines(text[max(0, len(text)-300):]), took, requests)
			break
		}
	}

	// So does an error that ends the program.
	busy := must(net.Listen("tcp", ":0"))
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	exit, _, stderr := runCommand(t, append(newWorld(t).env, "PORT="+port), "serve")
	if exit != exitFailed || !strings.Contains(stderr, `"message":"stopped"`) {
		t.Errorf("with a busy port: got exit code %d and %q, want %d and the error", exit, stderr, exitFailed)
	}
}

// A command whose output nobody reads ends quietly, and one whose log nobody reads does
// its work.
func TestCommandsInPipes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// run runs a command with a closed pipe in the place of stdout or stderr, and returns
	// its exit code and what it writes to the other one.
	run := func(command string, closeStdout bool) (exit int, other string) {
		t.Helper()
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		read.Close()
		defer write.Close()
		var text bytes.Buffer
		cmd := exec.Command(binary, strings.Fields(command)...)
		cmd.Env, cmd.Stdout, cmd.Stderr = programEnv(w.env), &text, write
		if closeStdout {
			cmd.Stdout, cmd.Stderr = write, &text
		}
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), text.String()
	}
	// 141 is what a shell reports of a program that SIGPIPE ended.
	for command, want := range map[string]int{"outbox list": 141, "version": 141, "manifest": 141, "link ada": 141, "help": exitOK} {
		if exit, stderr := run(command, true); exit != want || stderr != "" {
			t.Errorf("%s without a reader: got exit code %d and %q, want %d and nothing", command, exit, stderr, want)
		}
	}
	program := start(t, w.env...)
	w.novu.BreakAll(upstreamtest.JSON(http.StatusServiceUnavailable, "{}"))
	w.person(t).wantConnect(program, w.linkTo("ada"), textPending)
	program.stop()
	w.novu.BreakAll(nil)
	waitFor(t, "the flow is due, and sent by a drain whose log has no reader", func() bool {
		exit, stdout := run("outbox drain", false)
		if exit != exitOK {
			t.Fatalf("drain without a reader of its log: got exit code %d and %q, want 0", exit, stdout)
		}
		return strings.Contains(stdout, "1 sent")
	})
	w.wantSaved(t, "ada", 0)
}

// A line has at most 8 KiB, whatever a client sends, and is whole.
func TestLogLinesAreBounded(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "google", "console"} {
		w := newWorld(t, "TRUSTED_PROXIES=127.0.0.0/8", "LOG_LEVEL=debug", "LOG_FORMAT="+format)
		program := start(t, w.env...)
		long := func(text string) string { return strings.Repeat(text, 15_000/len(text)) }
		for _, request := range []string{
			long("M") + " / HTTP/1.1\r\nHost: x\r\n",
			long("M") + " /slack/install HTTP/1.1\r\nHost: x\r\n",
			long("!") + " /readyz HTTP/1.1\r\nHost: x\r\n",
			"GET /" + long("a/") + " HTTP/1.1\r\nHost: x\r\n",
			"GET /slack/install?token=" + long("e30.") + " HTTP/1.1\r\nHost: x\r\n",
			"GET /slack/install?token=x&" + long("%01=%ff&") + " HTTP/1.1\r\nHost: x\r\n",
			"GET /v1/subscribers/" + long("%01") + "/credentials/slack/oauth?hmacHash=" + strings.Repeat("0", 64) + " HTTP/1.1\r\nHost: x\r\n",
			"GET /slack/callback?error=" + long("%22") + "&state=x HTTP/1.1\r\nHost: x\r\n",
			"GET /slack/callback?code=x&state=" + long("x") + " HTTP/1.1\r\nHost: x\r\nUser-Agent: " + long("u")[:300] + "\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: " + long("1.2.3.4, ") + "1.2.3.4\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: " + long("\"") + "\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: " + long("x") + "\r\n",
		} {
			conn := dial(t, program.origin)
			io.WriteString(conn, request+"Connection: close\r\n\r\n")
			if text, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(text, []byte("HTTP/1.1 ")) || bytes.HasPrefix(text, []byte("HTTP/1.1 431")) {
				t.Errorf("%.40q: got %.40q, %v, want an answer of the routes", request, text, err)
			}
		}
		// What Slack writes and what a link holder chooses is in the log, too.
		p := w.person(t)
		p.connect(program, w.linkTo(strings.Repeat("ü", 127)))
		w.slack.BreakAll(upstreamtest.JSON(http.StatusOK, `{"ok":false,"error":"`+strings.Repeat("x", 100_000)+`"}`))
		p.connect(program, w.linkTo(strings.Repeat("\"", 255)))
		program.stop()
		longest := 0
		for line := range strings.Lines(program.text()) {
			longest = max(longest, len(line))
			if len(line) > 8<<10 {
				t.Errorf("%s: a line of %d bytes: %.80q…", format, len(line), line)
			}
			if format != "console" && !json.Valid([]byte(line)) {
				t.Errorf("%s: not JSON: %.80q…", format, line)
			}
		}
		if longest < 4<<10 {
			t.Errorf("%s: the longest line has %d bytes: the test tests nothing", format, longest)
		}
		if !strings.Contains(program.text(), "MMM…") {
			t.Errorf("%s: no line shows that it was cut", format)
		}
	}
}

// With LOG_FORMAT=google, each line has what Cloud Logging takes its severity and time
// from: https://docs.cloud.google.com/logging/docs/structured-logging
func TestLogFormatGoogle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "LOG_FORMAT=google", "LOG_LEVEL=debug")
	begin := time.Now().Add(-time.Second)
	program, p := start(t, w.env...), w.person(t)
	p.status(program, "/healthz")
	p.connect(program, w.linkTo("ada"))
	w.novu.BreakAll(upstreamtest.JSON(http.StatusUnauthorized, `{"message":"nope"}`))
	p.connect(program, w.linkTo("ada"))
	w.novu.BreakAll(nil)
	w.slack.BreakAll(upstreamtest.JSON(http.StatusOK, `{"ok":false,"error":"invalid_client_id"}`))
	p.connect(program, w.linkTo("ada"))
	program.stop()

	want := map[string]string{"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}
	seen := map[string]bool{}
	nanoseconds := false
	for line := range strings.Lines(program.text()) {
		var fields struct {
			Severity, Level, Message string
			Time                     time.Time
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Message == "" || fields.Severity == "" || fields.Severity != want[fields.Level] {
			t.Errorf("got %v: %s", err, line)
		}
		if fields.Time.Before(begin) || fields.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("not the time of the line: %s", line)
		}
		nanoseconds = nanoseconds || fields.Time.Nanosecond()%int(time.Millisecond) != 0
		seen[fields.Severity] = true
		if n := strings.Count(line, `"time":`); n != 1 {
			t.Errorf("%d times in one line: %s", n, line)
		}
	}
	if len(seen) != len(want) || !nanoseconds {
		t.Errorf("got severities %v and nanoseconds %v, want %v and true", seen, nanoseconds, want)
	}
}
