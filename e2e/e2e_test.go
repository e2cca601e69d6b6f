// Package e2e_test tests the whole program: it builds the binary once and starts it
// as a real process between a fake Slack and a fake Novu. The tests know what users
// of the program know, and nothing of its packages: settings, routes, the
// documented fields of log lines, the output of commands, exit codes.
//
// One test:
//
//	go test ./e2e -run TestDiskFull
package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"
)

// Exit codes of every command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// patience is how long a test waits for something that happens by itself. It is far
// above what that takes, for machines that do other work too.
const patience = 3 * time.Minute

// binary is the path of the program under test.
var binary string

func TestMain(m *testing.M) {
	// Most of these tests wait more than they work: more of them than processors may run
	// at a time. The command line's -parallel counts, where it is there.
	flag.Set("test.parallel", "40")
	flag.Parse()
	dir, err := os.MkdirTemp("", "novu-slack-redirect-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := buildProgram(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	closeBrowser()
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildProgram builds the program into dir, with the race detector if the tests were.
func buildProgram(dir string) error {
	binary = filepath.Join(dir, "novu-slack-redirect")
	args := []string{"build", "-o", binary}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "..")...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// dependOnSources makes the result of a test depend on the whole repository: the go
// command caches results until a file or folder changes that a test has opened, and it
// cannot know by itself that these tests run the program. What TestMain opens does not
// count.
var dependOnSources = sync.OnceFunc(func() {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", "dist", "screenshots"}, d.Name()) {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		panic(err)
	}
})

// programEnv is the environment of every process of the program: its settings, and how
// the race detector ends it, at once and with an exit code of its own.
func programEnv(settings []string) []string {
	dependOnSources()
	return append([]string{"GORACE=exitcode=66 atexit_sleep_ms=0"}, settings...)
}

// tooLate is what commands say of a Redis, or of another service, that answers too late.
var tooLate = regexp.MustCompile(`does not answer in time|Client\.Timeout exceeded`)

// runCommand runs the program to its end, and returns its exit code and output. A command that
// says that something answers too late is run again: on a busy machine it may.
func runCommand(t *testing.T, env []string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	for range 10 {
		begin := time.Now()
		exit, stdout, stderr = runCommandOnce(t, env, args...)
		if time.Since(begin) < slow || !tooLate.MatchString(stdout+stderr) {
			break
		}
	}
	return exit, stdout, stderr
}

func runCommandOnce(t *testing.T, env []string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = programEnv(env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("%v: %v", args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%v: does not end in %v: %s", args, patience, lastLines(errs.String()))
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// waitFor waits until done returns true. It looks less and less often, so that the
// looking does not keep the machine busy.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	pause := 5 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pause) {
		if done() {
			return
		}
		pause = min(pause*5/4, 200*time.Millisecond)
	}
	t.Fatalf("%s: not within %v", what, patience)
}

// needCommand skips a test whose command is not installed; with CI=true it fails.
func needCommand(t testing.TB, names ...string) (path string) {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and CI=true wants it", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
