package e2e_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Every error of a command is one line of one form: the command, what is wrong, and what to
// do about it.
func TestCommandErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		args    string
		setting string // beside right ones
		exit    int
		cause   string
		remedy  string
	}{
		{"frob", "", exitUsage, `there is no command "frob"`, "use one of serve, demo, check, manifest, disconnect, link, outbox, health, version; see novu-slack-redirect --help"},
		{"--frob", "", exitUsage, `there is no command "--frob"`, "use one of serve, "},
		{"help frob", "", exitUsage, `there is no command "frob"`, "use one of serve, "},
		{"link", "", exitUsage, "SUBSCRIBER_ID is missing", "write novu-slack-redirect link SUBSCRIBER_ID [flags]; see novu-slack-redirect link --help"},
		{"link ada bob", "", exitUsage, `"bob" is one argument too many`, "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --frob", "", exitUsage, "there is no flag --frob", "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --team", "", exitUsage, "a value is missing after --team", "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --expires soon", "", exitUsage, `invalid value "soon" for --expires: is not a duration: use one like 90min, 24h or 7d`, "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --team Acme", "", exitUsage, `invalid value "Acme" for --team: is not a workspace's ID, such as T0123ABCD`, "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --html=x", "", exitUsage, `invalid boolean value "x" for --html`, "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"link ada --return-url javascript:x", "", exitUsage, "link: the return URL is not allowed: it must begin with https://", "write novu-slack-redirect link SUBSCRIBER_ID [flags]; "},
		{"disconnect", "", exitUsage, "SUBSCRIBER_ID is missing", "write novu-slack-redirect disconnect SUBSCRIBER_ID [flags]; "},
		{"disconnect ada", "PORT=1", exitFailed, "the service on this machine does not answer at PORT: dial tcp 127.0.0.1:1: connect: connection refused", "print a link with --link, and open it"},
		{"outbox", "", exitUsage, "an action is missing", "write novu-slack-redirect outbox (list | drain [--now] | drop FLOW); see novu-slack-redirect outbox --help"},
		{"outbox frob", "", exitUsage, `there is no "outbox frob"`, "write novu-slack-redirect outbox (list | drain [--now] | drop FLOW); "},
		{"outbox drop", "", exitUsage, "FLOW is missing", "write novu-slack-redirect outbox (list | drain [--now] | drop FLOW); "},
		{"outbox drop frob", "", exitFailed, `there is no flow "frob" in the outbox`, "see novu-slack-redirect outbox list"},
		{"outbox list", "DATA_FILE=/proc/nothing/data.db", exitFailed, "DATA_FILE: cannot be opened: no such file or directory", "name a file in a folder that can be written"},
		{"outbox list", "REDIS_URL=redis://:canary@127.0.0.1:1", exitFailed, "state: list: connect: dial tcp 127.0.0.1:1: connect: connection refused", "nothing listens there: see that Redis runs"},
		{"outbox drain", "REDIS_URL=redis://:canary@127.0.0.1:1", exitFailed, "state: claim: ", "nothing listens there: see that Redis runs"},
		{"outbox drain --now", "REDIS_URL=redis://:canary@127.0.0.1:1", exitFailed, "state: wake: ", "nothing listens there: see that Redis runs"},
		{"outbox drop x", "REDIS_URL=redis://:canary@127.0.0.1:1", exitFailed, "state: list: ", "nothing listens there: see that Redis runs"},
		{"demo 8080", "", exitUsage, `"8080" is not expected: settings, such as PORT, come from the environment`, "write novu-slack-redirect demo; see novu-slack-redirect demo --help"},
		{"serve --port 80", "", exitUsage, `"--port" is not expected: settings, such as PORT, come from the environment`, "write novu-slack-redirect serve; "},
		{"version 1", "", exitUsage, `"1" is not expected: `, "write novu-slack-redirect version; "},
		{"check now", "", exitUsage, `"now" is one argument too many`, "write novu-slack-redirect check "},
		{"check --frob", "", exitUsage, "there is no flag --frob", "write novu-slack-redirect check "},
		{"health", "PORT=1", exitFailed, `dial tcp 127.0.0.1:1: connect: connection refused`, "see that the service runs on this machine, and that PORT is where it listens"},
	} {
		exit, stdout, stderr := runCommand(t, append(w.env, c.setting), strings.Fields(c.args)...)
		name, _, _ := strings.Cut(c.args, " ")
		prefix := "novu-slack-redirect " + name + ": "
		if strings.Contains(c.cause, "there is no command") {
			prefix = "novu-slack-redirect: "
		}
		if exit != c.exit || !strings.HasPrefix(stderr, prefix+c.cause) || !strings.Contains(stderr, "; "+c.remedy) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr+stdout, "canary") {
			t.Errorf("%s %s: got exit code %d and %q, want %d and %q", c.args, c.setting, exit, stderr, c.exit, prefix+c.cause+"; "+c.remedy)
		}
	}
}

// Whatever stops the start says what to do about it.
func TestErrorsAtStartHaveARemedy(t *testing.T) {
	t.Parallel()
	busy := must(net.Listen("tcp", ":0"))
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	running := newWorld(t)
	start(t, running.env...)
	for setting, want := range map[string]string{
		"PORT=" + port:                                   `"remedy":"stop the program that listens there, or choose another port`,
		"METRICS_ADDR=:" + port:                          `"remedy":"stop the program that listens there, or choose another port`,
		"DATA_FILE=" + running.setting("DATA_FILE"):      `"remedy":"an embedded store serves one instance: stop the other one, or set REDIS_URL`,
		"DATA_FILE=" + filepath.Join(t.TempDir(), "a/b"): `"remedy":"name a file in a folder that can be written"`,
		"DATA_FILE=" + t.TempDir():                       `"remedy":"name a file in a folder that can be written"`,
		"METRICS_ADDR=203.0.113.1:9090":                  `"remedy":"use an address of this machine`,
		"METRICS_ADDR=nowhere.invalid:9090":              `"remedy":"use an address of this machine`,
		"DATA_FILE=e2e_test.go":                          `"remedy":"restore it from a backup, or move it away`,
	} {
		exit, _, stderr := runCommand(t, append(newWorld(t).env, setting), "serve")
		if exit != exitFailed || !strings.Contains(stderr, want) || strings.Count(stderr, `"level":"error"`) != 1 {
			t.Errorf("%s: got exit code %d and %s, want %s", setting, exit, lastLines(stderr), want)
		}
	}
}
