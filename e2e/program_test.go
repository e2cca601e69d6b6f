package e2e_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is a running process of the program.
type program struct {
	t      testing.TB
	cmd    *exec.Cmd
	origin string // http://host:port where it listens
	exited chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
}

// start runs the service with these settings until the test ends, and waits until it
// listens.
func start(t testing.TB, settings ...string) *program {
	t.Helper()
	return startCommand(t, exec.Command(binary), settings...)
}

// startCommand is start with a command that runs the program in some other way.
func startCommand(t testing.TB, cmd *exec.Cmd, settings ...string) *program {
	t.Helper()
	p, err := launch(t, cmd, settings...)
	if p != nil {
		t.Cleanup(p.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// listeningAt finds the address in the log, in either of its formats.
var listeningAt = regexp.MustCompile(`(?:"addr":"| listening addr=)([^" ]+)(?:".*"message":"listening"| )`)

// launch starts the service and waits until it listens. The caller ends it; it may be
// called from any goroutine.
func launch(t testing.TB, cmd *exec.Cmd, settings ...string) (*program, error) {
	p, addr, err := launchUntil(t, cmd, listeningAt, settings...)
	if err == nil {
		_, port, _ := net.SplitHostPort(addr)
		p.origin = "http://127.0.0.1:" + port
	}
	return p, err
}

// launchUntil starts a process and waits until it prints what marker matches; it
// returns the first group. The process is nil if it could not be started.
func launchUntil(t testing.TB, cmd *exec.Cmd, marker *regexp.Regexp, settings ...string) (*program, string, error) {
	p := &program{t: t, cmd: cmd, exited: make(chan struct{})}
	cmd.Env = programEnv(settings)
	read, write, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return nil, "", err
	}
	found := make(chan string, 1)
	go func() {
		defer read.Close()
		for lines := bufio.NewReader(read); ; {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.output.WriteString(line)
			p.mu.Unlock()
			if m := marker.FindStringSubmatch(line); m != nil && len(found) == 0 {
				found <- m[1]
			}
			if err != nil {
				break
			}
		}
		cmd.Wait()
		close(p.exited)
	}()
	select {
	case text := <-found:
		return p, text, nil
	case <-p.exited:
		return p, "", errors.New("the program ends instead of listening")
	case <-time.After(patience):
		return p, "", fmt.Errorf("the program does not listen after %v", patience)
	}
}

// end is for the end of the test. The last lines that the program printed are shown
// if the test failed: go test prints what was written here before the test's own
// messages, so that these come last.
func (p *program) end() {
	p.kill()
	if p.t.Failed() {
		lines := strings.Split(lastLines(p.text()), "\n")
		fmt.Printf("=== the program of %s printed last:\n%s\n", p.t.Name(), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// kill ends the program as a crash does.
func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.exited
	if _, race, ok := strings.Cut(p.text(), "WARNING: DATA RACE"); ok {
		p.t.Errorf("the program has a data race:\n%s", race)
	}
}

// terminate asks the program to end, as hosts do.
func (p *program) terminate() { p.cmd.Process.Signal(syscall.SIGTERM) }

// wait returns the program's exit code once it has ended.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the program does not end in %v", patience)
		return -1
	}
}

// stop ends the program in order.
func (p *program) stop() {
	p.t.Helper()
	p.terminate()
	if got := p.wait(); got != exitOK {
		p.t.Errorf("after SIGTERM: got exit code %d, want %d", got, exitOK)
	}
}

// text is all that the program has printed so far.
func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// lastLines cuts text to its last 40 lines, and lines to 400 bytes.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-40):]
	for i, line := range lines {
		if len(line) > 400 {
			lines[i] = line[:400] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
