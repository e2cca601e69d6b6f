package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

// checked runs check and returns the findings, one line each.
func checked(t *testing.T, env []string) (exit int, lines string) {
	t.Helper()
	exit, out, errs := runCommand(t, env, "check", "--json")
	var report struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.OK != (exit == exitOK) {
		t.Fatalf("got exit code %d, %v: %s %s", exit, err, out, errs)
	}
	for _, f := range report.Findings {
		lines += f.Level + " " + f.Check + ": " + f.Text + ": " + f.Remedy + "\n"
	}
	return exit, lines
}

// Redis tells whether it keeps what it is given, unless the user may not ask.
func TestCheckRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	admin := redis.NewClient(options)
	defer admin.Close()
	set := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(env []string, exit int, texts ...string) {
		t.Helper()
		got, lines := checked(t, env)
		if got != exit {
			t.Errorf("got exit code %d, want %d: %s", got, exit, lines)
		}
		for _, text := range texts {
			if !strings.Contains(lines, text) {
				t.Errorf("no finding says %q: %s", text, lines)
			}
		}
		if strings.Contains(lines, "canary") {
			t.Errorf("a finding has a secret: %s", lines)
		}
	}
	set("CONFIG", "SET", "appendonly", "no")
	want(w.env, exitOK, "ok store: REDIS_URL: written, read and expired", "ok redis: evicts nothing", "warn redis: appendonly is off")
	set("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru", "appendonly", "yes")
	want(w.env, exitOK, "warn redis: maxmemory-policy is allkeys-lru", "ok redis: appends")
	set("CONFIG", "SET", "maxmemory-policy", "noeviction")
	want(w.env, exitOK, "ok redis: evicts nothing")

	set("ACL", "SETUSER", "app", "on", ">canary-password", "~*", "+@all", "-info", "-config")
	app := append(w.env, "REDIS_URL="+strings.Replace(server.URL(), "redis://", "redis://app:canary-password@", 1))
	want(app, exitOK, "warn redis: INFO cannot be read: see for yourself")
	set("ACL", "SETUSER", "app", "-set")
	want(app, exitFailed, "fail store: REDIS_URL: cannot be written")
	want(append(w.env, "REDIS_URL=redis://:canary@127.0.0.1:1"), exitFailed, "fail store: REDIS_URL: cannot be written")

	// A connection that Novu does not have yet.
	w.novu.BreakAll(wire.JSON(401, `{"message":"nope"}`))
	program := start(t, w.env...)
	wantText(t, w.person(t).connect(program, state.Flow{Subscriber: "ada"}), "we are finishing the set-up")
	want(w.env, exitFailed, "warn outbox: connections that Novu does not have yet: 1, the oldest for ", "fail novu_key: novu: look up integrations: bad_api_key")
}

// Beside the running service the embedded store cannot be looked at: no failure.
func TestCheckBesideTheService(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	start(t, w.env...)
	exit, lines := checked(t, w.env)
	if exit != exitOK || !strings.Contains(lines, "warn store: DATA_FILE is in use, by the running service") || !strings.Contains(lines, "ok slack_client") {
		t.Errorf("got exit code %d: %s", exit, lines)
	}
}

// Whatever is down, check ends soon and says what.
func TestCheckWhenAllIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "REDIS_URL=redis://127.0.0.1:1")
	w.slack.BreakAll(wire.Reset)
	w.novu.BreakAll(wire.Reset)
	begin := time.Now()
	exit, lines := checked(t, w.env)
	for _, text := range []string{"fail store", "fail novu_key: novu: look up integrations: unavailable", "fail slack_client: slack: unavailable", "can be reached from here", "warn clock"} {
		if !strings.Contains(lines, text) {
			t.Errorf("no finding says %q: %s", text, lines)
		}
	}
	if took := time.Since(begin); exit != exitFailed || took > 30*time.Second {
		t.Errorf("got exit code %d after %v", exit, took)
	}
}

// Whatever hangs, check ends within its time; and a terminal sees no control
// characters, whatever Novu says.
func TestCheckAgainstOddAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	list := func(identifier string) string {
		return `{"data":[{"identifier":"` + identifier + `","providerId":"slack","channel":"chat","active":true}]}`
	}
	for name, c := range map[string]struct {
		faults []wire.Fault
		exit   int
		want   string
	}{
		"controls":        {[]wire.Fault{wire.JSON(200, list(`a\u001b[2J\nok    forged\u202e`)), wire.JSON(200, `{"data":{"_id":"\u001b]0;x\u0007","name":"a\nb"}}`)}, exitOK, "ok integration: a?[2J?ok    forged? is the active one"},
		"no list":         {[]wire.Fault{wire.JSON(200, `{"data":null}`)}, exitFailed, "fail novu_key: novu: look up integrations: unavailable"},
		"no environment":  {[]wire.Fault{wire.JSON(200, list("a")), wire.JSON(200, `{"data":null}`), wire.JSON(200, `{"data":null}`)}, exitOK, "ok novu_key: is accepted; this Novu does not tell"},
		"environment 500": {[]wire.Fault{wire.JSON(200, list("a")), wire.HTML(500), wire.HTML(500)}, exitOK, "warn novu_key: is accepted; of which environment it is cannot be asked"},
		"HTML":            {[]wire.Fault{wire.HTML(200)}, exitFailed, "fail novu_key"},
		"huge":            {[]wire.Fault{wire.JSON(200, `[`+strings.Repeat(`{},`, 1<<20)+`{}]`)}, exitFailed, "fail novu_key"},
	} {
		t.Run(name, func(t *testing.T) {
			w.novu.Break(c.faults...)
			defer w.novu.BreakAll(nil)
			exit, lines := checked(t, w.env)
			if exit != c.exit || !strings.Contains(lines, c.want) {
				t.Errorf("got exit code %d, want %d and %q: %s", exit, c.exit, c.want, lines)
			}
			if strings.ContainsAny(lines, "\x1b\x07\u202e") || strings.Contains(lines, "\nok    forged") {
				t.Errorf("got %q", lines)
			}
		})
	}
	w.slack.BreakAll(wire.Hang)
	w.novu.BreakAll(wire.Hang)
	begin := time.Now()
	if exit, lines := checked(t, w.env); exit != exitFailed || time.Since(begin) > checkTimeout+3*time.Second {
		t.Errorf("everything hangs: got exit code %d after %v: %s", exit, time.Since(begin), lines)
	}
	w.slack.BreakAll(wire.JSON(429, `{}`, "Retry-After", "60"))
	if _, lines := checked(t, w.env); !strings.Contains(lines, "fail slack_client: slack: ratelimited") || strings.Contains(lines, "can be reached") && strings.Contains(lines, "slack_client: slack: ratelimited (HTTP 429): see") {
		t.Errorf("got %s", lines)
	}
}
