package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

// The test binary is the program too: started with beTheProgram set, it runs
// main. Processes that are killed and restarted are real ones.
const beTheProgram = "NOVU_SLACK_REDIRECT_TEST_PROGRAM"

// quickRace makes a program with the race detector end at once, and show by its
// exit code that there was a race.
const quickRace = "GORACE=exitcode=66 atexit_sleep_ms=0"

// shortPatience makes the program impatient in one way: "read=300ms".
const shortPatience = "NOVU_SLACK_REDIRECT_TEST_PATIENCE"

func TestMain(m *testing.M) {
	if os.Getenv(beTheProgram) != "" {
		if name, value, set := strings.Cut(os.Getenv(shortPatience), "="); set {
			*map[string]*time.Duration{"readHeader": &patience.readHeader, "read": &patience.read, "write": &patience.write, "idle": &patience.idle}[name] = must(time.ParseDuration(value))
		}
		main()
	}
	testscript.Main(m, map[string]func(){"novu-slack-redirect": main})
}

func TestCommands(t *testing.T) {
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
		{"version x", exitUsage, "", "takes no arguments"},
		{"serve x", exitUsage, "", "takes no arguments"},
		{"outbox", exitUsage, "", "outbox list"},
		{"outbox drop", exitUsage, "", "outbox list"},
		{"outbox drop x", exitUsage, "", "environment/integration/subscriber"},
		{"demo x", exitUsage, "", "takes no arguments"},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(context.Background(), strings.Fields(c.args), &stdout, &stderr); got != c.exit {
			t.Errorf("%s: got exit code %d, want %d", c.args, got, c.exit)
		}
		if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%s: got stdout %q and stderr %q", c.args, stdout.String(), stderr.String())
		}
	}
}

// program is a running process of the service.
type program struct {
	t      testing.TB
	cmd    *exec.Cmd
	origin string // where it listens
	mu     sync.Mutex
	log    bytes.Buffer
	exited chan int
}

// start runs the program with env and waits until it listens.
func start(t testing.TB, env ...string) *program {
	t.Helper()
	p, err := launch(env...)
	if err != nil {
		t.Fatal(err)
	}
	p.t = t
	t.Cleanup(p.kill)
	return p
}

func launch(env ...string) (*program, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return launchCommand(exec.Command(exe), env...)
}

func launchCommand(cmd *exec.Cmd, env ...string) (*program, error) {
	p := &program{cmd: cmd, exited: make(chan int, 1)}
	p.cmd.Env = append([]string{beTheProgram + "=1", "LOG_LEVEL=info", quickRace}, env...)
	p.cmd.Stdout = p
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	listening := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			p.Write(append(lines.Bytes(), '\n'))
			if m := listeningAt.FindSubmatch(lines.Bytes()); m != nil {
				listening <- string(m[1])
			}
		}
		p.cmd.Wait()
		p.exited <- p.cmd.ProcessState.ExitCode()
		close(p.exited)
		close(listening)
	}()
	select {
	case addr := <-listening:
		_, port, _ := net.SplitHostPort(addr)
		p.origin = "http://127.0.0.1:" + port
	case <-time.After(20 * time.Second):
	}
	if p.origin == "" {
		p.kill()
		return nil, errors.New("the program does not start: " + p.text())
	}
	return p, nil
}

// listeningAt finds the address in the log, in either of its formats.
var listeningAt = regexp.MustCompile(`(?:"addr":"| listening addr=)([^" ]+)(?:".*"message":"listening"| )`)

// Write keeps what the program prints.
func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

// kill ends the program as a crash does.
func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *program) wait() int {
	p.t.Helper()
	select {
	case code := <-p.exited:
		return code
	case <-time.After(30 * time.Second):
		p.t.Fatal("the program does not end: " + p.text())
		return -1
	}
}

// world is a fake Slack and a fake Novu for programs, and a link signer.
type world struct {
	slack *slacktest.Server
	novu  *novutest.Server
	wires *wire.Log
	links *handler.Links
	env   []string
}

const linkSecret = "a-secret-of-the-tests-of-32-bytes-and-more"

// newWorld makes the fakes. The redirect URL's host is only a name here: tests
// change it for a program's own before they follow a link.
func newWorld(t testing.TB, env ...string) *world {
	t.Helper()
	w := &world{wires: &wire.Log{}}
	w.slack, w.novu = slacktest.New(w.wires), novutest.New(w.wires)
	w.slack.RedirectURL = "http://127.0.0.1:9/slack/callback"
	slack, novu := httptest.NewServer(w.slack), httptest.NewServer(w.novu)
	t.Cleanup(slack.Close)
	t.Cleanup(novu.Close)
	w.links = &handler.Links{Origin: "http://127.0.0.1:9", Secrets: []secret.String{secret.New(linkSecret)}, Now: time.Now}
	w.env = append([]string{
		"REDIRECT_URL=" + w.slack.RedirectURL, "SLACK_CLIENT_ID=" + w.slack.ClientID, "SLACK_CLIENT_SECRET=" + w.slack.ClientSecret, "SLACK_URL=" + slack.URL,
		"NOVU_API_KEY=" + w.novu.APIKey, "NOVU_API_URL=" + novu.URL, "LINK_SECRET=" + linkSecret, "PORT=0", "RATE_LIMIT=0",
	}, env...)
	return w
}

// person is a browser that meets programs through a load balancer: whatever the
// host of a link, it goes to the program it is told.
type person struct {
	t testing.TB
	*world
	client http.Client
}

func (w *world) person(t testing.TB) *person {
	jar, _ := cookiejar.New(nil)
	return &person{t, w, http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// get asks a program for the path and query of target.
func (p *person) get(to *program, target string) (status int, location, body string, err error) {
	u, err := url.Parse(target)
	if err != nil {
		return 0, "", "", err
	}
	res, err := p.client.Get(to.origin + u.RequestURI())
	if err != nil {
		return 0, "", "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header.Get("Location"), string(text), err
}

// begin opens a fresh link and approves; it returns the callback URL.
func (p *person) begin(to *program, subscriber string) string {
	p.t.Helper()
	link, err := p.links.Sign(state.Flow{Subscriber: subscriber}, time.Now().Add(time.Hour))
	if err != nil {
		p.t.Fatal(err)
	}
	return p.approve(to, link)
}

// approve opens a link and allows; it returns the callback URL.
func (p *person) approve(to *program, link string) string {
	p.t.Helper()
	status, authorize, body, err := p.get(to, link)
	if err != nil || status != http.StatusFound {
		p.t.Fatalf("install: got %d, %v: %s", status, err, body)
	}
	callback, err := p.slack.Approve(authorize, "T01ACME", "#alerts")
	if err != nil {
		p.t.Fatal(err)
	}
	return callback
}

// land opens a callback and the result page it leads to.
func (p *person) land(to *program, callback string) string {
	p.t.Helper()
	status, location, body, err := p.get(to, callback)
	if err != nil || status != http.StatusSeeOther {
		p.t.Fatalf("callback: got %d, %v: %s", status, err, body)
	}
	_, _, body, err = p.get(to, location)
	if err != nil {
		p.t.Fatal(err)
	}
	return body
}

func (w *world) wantSaved(t *testing.T, subscriber string, nth int) {
	t.Helper()
	channels, _ := w.novu.Channels(subscriber)
	if hooks := w.slack.Webhooks(); len(channels) != 1 || len(hooks) <= nth || channels[0].WebhookURL != hooks[nth] {
		t.Errorf("%s: got channels %v, want webhook %d of %v", subscriber, channels, nth, hooks)
	}
}

func TestProgramServesOnTheEmbeddedStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	w := newWorld(t, "DATA_FILE="+file)
	program := start(t, w.env...)
	person := w.person(t)
	callback := person.begin(program, "ada")

	// A restart in the middle of a flow loses nothing.
	program.cmd.Process.Signal(syscall.SIGTERM)
	if got := program.wait(); got != exitOK {
		t.Errorf("got exit code %d, want 0: %s", got, program.text())
	}
	program = start(t, w.env...)
	if body := person.land(program, callback); !strings.Contains(body, "Slack is connected") {
		t.Errorf("got %s", body)
	}
	w.wantSaved(t, "ada", 0)
	if mode, err := os.Stat(file); err != nil || mode.Mode().Perm() != 0o600 {
		t.Errorf("the data file has mode %v, %v, want 0600", mode.Mode(), err)
	}
}

// Without LINK_SECRET links are verified with NOVU_API_KEY, and the log says why
// that is a bad idea.
func TestLinkSecretDefault(t *testing.T) {
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), "LINK_SECRET=", "NOVU_API_KEY=short")
	w.novu.SetAPIKey("short")
	w.links.Secrets = []secret.String{secret.New(w.novu.APIKey)}
	program := start(t, w.env...)
	p := w.person(t)
	if body := p.land(program, p.begin(program, "ada")); !strings.Contains(body, "Slack is connected") {
		t.Errorf("got %s", body)
	}
	if !strings.Contains(program.text(), `"level":"warn"`) || !strings.Contains(program.text(), "LINK_SECRET is not set") || strings.Contains(program.text(), "fewer than 32 bytes") {
		t.Errorf("the log does not warn, or of what is not set: %s", program.text())
	}
	short := start(t, newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"), "LINK_SECRET=short").env...)
	if text := short.text(); !strings.Contains(text, "LINK_SECRET has fewer than 32 bytes") || strings.Contains(text, "is not set") {
		t.Errorf("the log does not warn of a short secret alone: %s", text)
	}
	if with := start(t, newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db")).env...); strings.Contains(with.text(), "LINK_SECRET") {
		t.Error("it warns though LINK_SECRET is set, and long")
	}
}

// Two instances, and a rolling restart in mid-flow: a flow begun on one ends on
// the other.
func TestTwoProgramsOnRedis(t *testing.T) {
	w := newWorld(t, "REDIS_URL="+redistest.Start(t).URL())
	one, two := start(t, w.env...), start(t, w.env...)
	person := w.person(t)
	first, second := person.begin(one, "ada"), person.begin(two, "bob")
	one.cmd.Process.Signal(syscall.SIGTERM)
	if got := one.wait(); got != exitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
	for i, callback := range []string{first, second} {
		if body := person.land(two, callback); !strings.Contains(body, "Slack is connected") {
			t.Errorf("got %s", body)
		}
		w.wantSaved(t, []string{"ada", "bob"}[i], i)
	}
}

func TestSIGTERMLetsRequestsFinish(t *testing.T) {
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	program := start(t, w.env...)
	person := w.person(t)
	callback := person.begin(program, "ada")
	w.slack.Break(wire.Slow(1500 * time.Millisecond))
	done := make(chan int)
	go func() {
		status, _, _, err := person.get(program, callback)
		if err != nil {
			t.Error(err)
		}
		done <- status
	}()
	waitFor(t, "the exchange begins", func() bool {
		return len(w.wires.All()) > 0 && slices.ContainsFunc(w.wires.All(), func(e wire.Exchange) bool { return strings.HasPrefix(e.Target, "/api/") })
	})
	program.cmd.Process.Signal(syscall.SIGTERM)
	if got := <-done; got != http.StatusSeeOther {
		t.Errorf("got %d, want 303", got)
	}
	if got := program.wait(); got != exitOK {
		t.Errorf("got exit code %d, want 0: %s", got, program.text())
	}
	w.wantSaved(t, "ada", 0)
}

// runCommand runs the program to its end with args, and returns its exit code and
// output.
func runCommand(t *testing.T, env []string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(slices.Clone(env), beTheProgram+"=1", quickRace)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// What is left behind can be listed, sent by a scheduled job, and given up, by
// another process than the service on Redis, and by one after it on a file.
func TestOutboxCommands(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) string{
		"redis": func(t *testing.T) string { return "REDIS_URL=" + redistest.Start(t).URL() },
		"bolt":  func(t *testing.T) string { return "DATA_FILE=" + filepath.Join(t.TempDir(), "data.db") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, store(t))
			program := start(t, w.env...)
			w.novu.BreakAll(wire.HTML(503))
			for _, subscriber := range []string{"ada/1", "bob"} {
				p := w.person(t)
				if body := p.land(program, p.begin(program, subscriber)); !strings.Contains(body, "we are finishing the set-up") {
					t.Fatalf("got %s", body)
				}
			}
			if name == "bolt" {
				if exit, _, stderr := runCommand(t, w.env, "outbox", "list"); exit != exitFailed || !strings.Contains(stderr, "in use by another process") {
					t.Errorf("list beside the service: got %d, %s", exit, stderr)
				}
			}
			program.cmd.Process.Signal(syscall.SIGTERM)
			program.wait()

			exit, stdout, stderr := runCommand(t, w.env, "outbox", "list")
			if exit != exitOK || !strings.Contains(stdout, "//ada%2F1 ") || !strings.Contains(stdout, "//bob ") || !strings.Contains(stdout, "unavailable (HTTP 503)") {
				t.Errorf("list: got %d, %s%s", exit, stdout, stderr)
			}
			for _, hook := range w.slack.Webhooks() {
				if strings.Contains(stdout+stderr+program.text(), hook) {
					t.Error("a webhook is printed")
				}
			}
			if exit, _, stderr := runCommand(t, w.env, "outbox", "drop", "//ada%2F1"); exit != exitOK {
				t.Errorf("drop: got %d, %s", exit, stderr)
			}
			if exit, _, stderr := runCommand(t, w.env, "outbox", "drop", "//ada%2F1"); exit != exitFailed || !strings.Contains(stderr, "no entry") {
				t.Errorf("drop again: got %d, %s", exit, stderr)
			}
			w.novu.BreakAll(nil)
			waitFor(t, "the entry is due and drained", func() bool {
				exit, stdout, stderr = runCommand(t, w.env, "outbox", "drain")
				if strings.HasPrefix(stdout, "0 sent") && !strings.Contains(stdout, "not due yet: 1;") {
					t.Errorf("drain before the entry is due: got %s", stdout)
				}
				return exit == exitOK && strings.HasPrefix(stdout, "1 sent, 0 ")
			})
			w.wantSaved(t, "bob", 1)
			if channels, _ := w.novu.Channels("ada/1"); len(channels) != 0 {
				t.Errorf("the dropped one was sent: %v", channels)
			}
			if exit, stdout, _ := runCommand(t, w.env, "outbox", "drain"); exit != exitOK || stdout != "0 sent, 0 to be tried again\n" {
				t.Errorf("drain again: got %d, %s", exit, stdout)
			}
		})
	}
}

// Redis restarts with its append-only file while Novu is down: what was recorded
// is delivered afterwards.
func TestRedisRestartWithAOF(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	w := newWorld(t, "REDIS_URL="+server.URL())
	program := start(t, w.env...)
	w.novu.BreakAll(wire.HTML(503))
	p := w.person(t)
	pending := p.begin(program, "ada")
	if body := p.land(program, pending); !strings.Contains(body, "we are finishing the set-up") {
		t.Fatalf("got %s", body)
	}
	open := p.begin(program, "bob") // at Slack while Redis is away
	server.Stop()
	if status, _, _, err := p.get(program, open); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("callback without Redis: got %d, %v, want 503", status, err)
	}
	server.Restart()
	w.novu.BreakAll(nil)
	waitFor(t, "the recorded webhook is saved", func() bool { return w.novu.Saves() == 1 })
	w.wantSaved(t, "ada", 0)
	waitFor(t, "the page says so", func() bool { return strings.Contains(p.land(program, pending), "Messages will arrive") })
	if body := p.land(program, open); !strings.Contains(body, "Slack is connected") {
		t.Errorf("the state was spent: %s", body)
	}
}

// The disk is full under the embedded store, here by a limit on the file's size:
// people are refused, the process lives, and nothing of the file is lost.
func TestDiskFull(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	w := newWorld(t, "DATA_FILE="+file)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limited, err := launchCommand(exec.Command("/bin/sh", "-c", `ulimit -f 256; exec "$0"`, exe), w.env...) // blocks of 512 bytes
	if err != nil {
		t.Fatal(err)
	}
	limited.t = t
	t.Cleanup(limited.kill)
	p := w.person(t)
	early := p.begin(limited, "ada")
	link, err := w.links.Sign(state.Flow{Subscriber: strings.Repeat("x", 255), ReturnURL: "https://app.example.com/" + strings.Repeat("x", 1900)}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	status := 0
	for n := 0; n < 1000 && status != http.StatusServiceUnavailable; n++ {
		if status, _, _, err = w.person(t).get(limited, link); err != nil {
			t.Fatal(err)
		}
	}
	if status != http.StatusServiceUnavailable {
		t.Fatal("the disk does not fill up: the test tests nothing")
	}
	if status, _, _, err := p.get(limited, "/healthz"); err != nil || status != http.StatusOK {
		t.Errorf("healthz: got %d, %v, want 200", status, err)
	}
	limited.cmd.Process.Signal(syscall.SIGTERM)
	limited.wait()

	roomy := start(t, w.env...)
	if body := p.land(roomy, early); !strings.Contains(body, "Slack is connected") {
		t.Errorf("the flow begun before is lost: %s", body)
	}
	w.wantSaved(t, "ada", 0)
}

func TestStartFailsClearly(t *testing.T) {
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
	for name, c := range map[string]struct{ setting, value, want string }{
		"busy port":      {"PORT", busyPort, "address already in use"},
		"locked file":    {"DATA_FILE", locked, "in use by another process"},
		"missing folder": {"DATA_FILE", filepath.Join(dir, "none", "x.db"), "no such file or directory"},
		"not a database": {"DATA_FILE", garbage, "DATA_FILE"},
	} {
		settings(t, "PORT", "0", "DATA_FILE", filepath.Join(dir, "good.db"))
		t.Setenv(c.setting, c.value)
		var stderr bytes.Buffer
		if got := run(context.Background(), nil, io.Discard, &stderr); got != exitFailed || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: got exit code %d and %s, want 1 and %q", name, got, stderr.String(), c.want)
		}
	}
}

func TestDemoRunsTheMainJob(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	exit := make(chan int)
	go func() { exit <- run(ctx, []string{"demo"}, in, os.Stderr) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	home := strings.Fields(line)[1]
	res, err := http.Get(home)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), "Add to Slack") {
		t.Errorf("got %s", body)
	}
	cancel()
	if got := <-exit; got != exitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
}

// Imports point one way: the design's arrows, and nothing else.
func TestImportsPointOneWay(t *testing.T) {
	allowed := map[string]string{
		"handler": "metrics novuclient secret slackoauth state", "outbox": "metrics novuclient secret state", "metrics": "", "slackoauth": "secret upstream", "novuclient": "secret upstream", "upstream": "", "state": "", "secret": "",
		"slackoauth/slacktest": "wire", "novuclient/novutest": "wire", "state/redistest": "", "wire": "",
		"bench": "bench/floor handler novuclient outbox secret state", "bench/floor": "", "bench/floor/serve": "bench/floor",
	}
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Imports}}", "./...").Output()
	if err != nil {
		t.Skip("go list: ", err)
	}
	const module = "novu-slack-redirect/"
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		from, imports, _ := strings.Cut(line, " ")
		from, isPart := strings.CutPrefix(from, module)
		for _, to := range strings.Fields(strings.Trim(imports, "[]")) {
			if to, ours := strings.CutPrefix(to, module); ours && isPart && !slices.Contains(strings.Fields(allowed[from]), to) {
				t.Errorf("%s imports %s", from, to)
			}
		}
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("%s: not within 20 s", what)
}
