package e2e_test

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args           string
		exit           int
		stdout, stderr string
	}{
		{"help", exitOK, "usage:", ""},
		{"--help", exitOK, "usage:", ""},
		{"version", exitOK, "novu-slack-redirect ", ""},
		{"--version", exitOK, "novu-slack-redirect ", ""},
		{"bogus", exitUsage, "", `there is no command "bogus"`},
		{"outbox drop x", exitUsage, "", "REDIRECT_URL: is missing"},
	} {
		exit, stdout, stderr := runCommand(t, nil, strings.Fields(c.args)...)
		if exit != c.exit || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
			t.Errorf("%s: got exit code %d, stdout %q and stderr %q, want %d, %q and %q", c.args, exit, stdout, stderr, c.exit, c.stdout, c.stderr)
		}
	}
}

func TestProgramServesOnTheEmbeddedStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program := start(t, w.env...)
	person := w.person(t)
	callback := person.approve(program, w.linkTo("ada"))

	// A restart in the middle of a flow loses nothing.
	program.stop()
	program = start(t, w.env...)
	person.wantFinish(program, callback, textConnected)
	w.wantSaved(t, "ada", 0)
	if info, err := os.Stat(w.setting("DATA_FILE")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the data file: got %v, %v, want mode 0600", info, err)
	}
}

// Two instances, and a rolling restart in mid-flow: a flow begun on one ends on the
// other.
func TestTwoProgramsOnRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "REDIS_URL="+redistest.Start(t).URL())
	one, two := start(t, w.env...), start(t, w.env...)
	person := w.person(t)
	first, second := person.approve(one, w.linkTo("ada")), person.approve(two, w.linkTo("bob"))
	one.stop()
	person.wantFinish(two, first, textConnected)
	person.wantFinish(two, second, textConnected)
	w.wantSaved(t, "ada", 0)
	w.wantSaved(t, "bob", 1)
}

// exchanging reports whether the program has asked Slack for anything.
func (w *world) exchanging() bool {
	return slices.ContainsFunc(w.recorder.All(), func(e upstreamtest.Request) bool { return e.To == "Slack" && strings.HasPrefix(e.Target, "/api/") })
}

func TestSIGTERMLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program := start(t, w.env...)
	person := w.person(t)
	callback := person.approve(program, w.linkTo("ada"))
	fault, answered := holdRequest()
	w.slack.Break(fault)
	done := make(chan int)
	go func() { done <- person.status(program, callback) }()
	waitFor(t, "the exchange begins", w.exchanging)
	program.terminate()
	waitFor(t, "the program drains", func() bool { return strings.Contains(program.text(), `"message":"draining"`) })
	close(answered)
	if got := <-done; got != http.StatusSeeOther {
		t.Errorf("got %d, want 303", got)
	}
	if got := program.wait(); got != exitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
	w.wantSaved(t, "ada", 0)
}

// The disk is full under the embedded store, here by a limit on the file's size:
// people are refused, the process lives, and nothing of the file is lost.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	limited := startCommand(t, exec.Command("/bin/sh", "-c", `ulimit -f 256; exec "$0"`, binary), w.env...) // blocks of 512 bytes
	p := w.person(t)
	early := p.approve(limited, w.linkTo("ada"))
	link := w.link(claims{"sub": strings.Repeat("x", 255), "returnUrl": "https://app.example.com/" + strings.Repeat("x", 1900)})
	status := 0
	for n := 0; n < 1000 && status != http.StatusServiceUnavailable; n++ {
		if status = w.person(t).status(limited, link); status == 0 {
			t.Fatal("no answer while the disk fills up")
		}
	}
	if status != http.StatusServiceUnavailable {
		t.Fatal("the disk does not fill up: the test tests nothing")
	}
	if status := p.status(limited, "/healthz"); status != http.StatusOK {
		t.Errorf("healthz: got %d, want 200", status)
	}
	limited.terminate()
	limited.wait()

	roomy := start(t, w.env...)
	p.wantFinish(roomy, early, textConnected)
	w.wantSaved(t, "ada", 0)
}

func TestStartFailsClearly(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, busyPort, _ := net.SplitHostPort(busy.Addr().String())
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked.db")
	db, err := bolt.Open(locked, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("no database "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ setting, want string }{
		"busy port":      {"PORT=" + busyPort, "address already in use"},
		"locked file":    {"DATA_FILE=" + locked, "in use by another process"},
		"missing folder": {"DATA_FILE=" + filepath.Join(dir, "none", "x.db"), "no such file or directory"},
		"not a database": {"DATA_FILE=" + garbage, "DATA_FILE"},
	} {
		if exit, _, stderr := runCommand(t, append(newWorld(t).env, c.setting), "serve"); exit != exitFailed || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: got exit code %d and %s, want %d and %q", name, exit, lastLines(stderr), exitFailed, c.want)
		}
	}
}

func TestHealthCommand(t *testing.T) {
	t.Parallel()
	program := start(t, newWorld(t).env...)
	port := program.origin[strings.LastIndex(program.origin, ":")+1:]
	if exit, out, errs := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitOK || !strings.HasPrefix(out, "200") {
		t.Errorf("got exit code %d: %s%s", exit, out, errs)
	}
	program.kill()
	if exit, _, errs := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitFailed || errs == "" {
		t.Errorf("without a service: got exit code %d: %s", exit, errs)
	}
	if exit, _, errs := runCommand(t, []string{"PORT=x y"}, "health"); exit != exitFailed || errs == "" {
		t.Errorf("with a bad port: got exit code %d: %s", exit, errs)
	}
}

// The program cuts off clients that take longer than 10 s to send a request. A callback
// that waits longer than that for Slack and Novu is no slow client: the person gets an
// answer, and a second tab too.
func TestSlowSlackIsNoSlowClient(t *testing.T) {
	t.Parallel()
	const readTimeout = 10 * time.Second
	w := newWorld(t)
	w.novu.AddSubscriber("ada")
	program, p := start(t, w.env...), w.person(t)
	callback := p.approve(program, w.linkTo("ada"))
	w.slack.Break(upstreamtest.Slow(7 * time.Second))
	w.novu.BreakAll(upstreamtest.Slow(4 * time.Second))
	begin, second := time.Now(), make(chan answer)
	go func() {
		a, _ := p.get(program, callback)
		second <- a
	}()
	a, err := p.get(program, callback)
	if b := <-second; err != nil || a.status != http.StatusSeeOther || b != a {
		t.Errorf("got %d to %q, %v, and in a second tab %d to %q, want 303 to the same page", a.status, a.location, err, b.status, b.location)
	}
	if took := time.Since(begin); took < readTimeout {
		t.Fatalf("the callback took %v: the test tests nothing", took)
	}
	w.novu.BreakAll(nil)
	waitFor(t, "the result is there", func() bool {
		a, err := p.get(program, a.location)
		return err == nil && strings.Contains(a.body, textConnected)
	})
	waitFor(t, "Novu has the webhook", func() bool { return w.novu.Saves() == 1 })
	w.wantSaved(t, "ada", 0)
}
