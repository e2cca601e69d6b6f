package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// checked runs check and returns the findings, one line each.
func checked(t *testing.T, env []string) (exit int, lines string) {
	t.Helper()
	exit, out, errs := runCommand(t, env, "check", "--json")
	var report struct {
		OK       bool
		Findings []struct{ Level, Check, Text, Remedy string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.OK != (exit == exitOK) {
		t.Fatalf("got exit code %d, %v: %s %s", exit, err, out, lastLines(errs))
	}
	for _, f := range report.Findings {
		if f.Level != "ok" && f.Remedy == "" {
			t.Errorf("a finding without a remedy: %+v", f)
		}
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
	want(w.env, exitOK, "ok store: REDIS_URL: written and read", "ok redis: maxmemory-policy evicts nothing", "warn redis: appendonly is off")
	set("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru", "appendonly", "yes")
	want(w.env, exitOK, "warn redis: maxmemory-policy is allkeys-lru", "ok redis: appendonly is on")
	set("CONFIG", "SET", "maxmemory-policy", "noeviction")
	want(w.env, exitOK, "ok redis: maxmemory-policy evicts nothing")

	set("ACL", "SETUSER", "app", "on", ">canary-password", "~*", "+@all", "-info", "-config")
	app := append(w.env, "REDIS_URL="+strings.Replace(server.URL(), "redis://", "redis://app:canary-password@", 1))
	want(app, exitOK, "warn redis: INFO cannot be read: NOPERM", "give the user +info")
	set("ACL", "SETUSER", "app", "-set")
	want(app, exitFailed, "fail store: REDIS_URL: cannot do what a callback needs: ")
	want(append(w.env, "REDIS_URL=redis://:canary@127.0.0.1:1"), exitFailed, "fail store: REDIS_URL: cannot do what a callback needs: ")

	// A connection that Novu does not have yet.
	w.novu.BreakAll(upstreamtest.JSON(401, `{"statusCode":401,"message":"nope"}`))
	program := start(t, w.env...)
	w.person(t).wantConnect(program, w.linkTo("ada"), textPending)
	want(w.env, exitFailed, "warn outbox: connections that Novu does not have yet: 1, the oldest for ", "fail novu_key: novu: look up integrations: bad_api_key")
}

// Beside the running service the embedded store cannot be looked at: no failure.
func TestCheckBesideTheService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	start(t, w.env...)
	exit, lines := checked(t, w.env)
	if exit != exitOK || !strings.Contains(lines, "warn store: DATA_FILE is in use by another process, such as the running service") || !strings.Contains(lines, "ok slack_client") {
		t.Errorf("got exit code %d: %s", exit, lines)
	}
}

// Whatever is down, check ends soon and says what.
func TestCheckWhenAllIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "REDIS_URL=redis://127.0.0.1:1")
	w.slack.BreakAll(upstreamtest.Reset)
	w.novu.BreakAll(upstreamtest.Reset)
	exit, lines := checked(t, w.env)
	for _, text := range []string{"fail store", "fail novu_key: novu: look up integrations: unavailable", "fail slack_client: slack: unavailable", "can be reached from here", "warn clock"} {
		if !strings.Contains(lines, text) {
			t.Errorf("no finding says %q: %s", text, lines)
		}
	}
	if exit != exitFailed {
		t.Errorf("got exit code %d, want %d", exit, exitFailed)
	}
}

// Whatever hangs, check ends; and a terminal sees no control
// characters, whatever Novu says.
func TestCheckAgainstOddAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := func(identifier string) string {
		return `{"data":[{"identifier":"` + identifier + `","providerId":"slack","channel":"chat","active":true}]}`
	}
	for name, c := range map[string]struct {
		faults []upstreamtest.Fault
		exit   int
		want   string
	}{
		"controls":        {[]upstreamtest.Fault{upstreamtest.JSON(200, list(`a\u001b[2J\nok    forged\u202e`)), upstreamtest.JSON(200, `{"data":{"_id":"\u001b]0;x\u0007","name":"a\nb"}}`)}, exitOK, "ok integration: a?[2J?ok    forged? is the active one"},
		"no list":         {[]upstreamtest.Fault{upstreamtest.JSON(200, `{"data":null}`)}, exitFailed, "fail novu_key: novu: look up integrations: not_novu"},
		"no environment":  {[]upstreamtest.Fault{upstreamtest.JSON(200, list("a")), upstreamtest.JSON(200, `{"data":null}`), upstreamtest.JSON(200, `{"data":null}`)}, exitOK, "warn novu_key: is accepted; its environment could not be looked up"},
		"environment 500": {[]upstreamtest.Fault{upstreamtest.JSON(200, list("a")), upstreamtest.HTML(500), upstreamtest.HTML(500)}, exitOK, "warn novu_key: is accepted; its environment could not be looked up"},
		"HTML":            {[]upstreamtest.Fault{upstreamtest.HTML(200)}, exitFailed, "fail novu_key"},
		"huge":            {[]upstreamtest.Fault{upstreamtest.JSON(200, `[`+strings.Repeat(`{},`, 1<<20)+`{}]`)}, exitFailed, "fail novu_key"},
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
	w.slack.BreakAll(upstreamtest.Hang)
	w.novu.BreakAll(upstreamtest.Hang)
	if exit, stdout, stderr := runCommandOnce(t, w.env, "check", "--json"); exit != exitFailed { // and ends, after 20 s
		t.Errorf("everything hangs: got exit code %d, want %d: %s", exit, exitFailed, lastLines(stdout+stderr))
	}
	w.slack.BreakAll(upstreamtest.JSON(429, `{}`, "Retry-After", "60"))
	if _, lines := checked(t, w.env); !strings.Contains(lines, "fail slack_client: slack: ratelimited") || strings.Contains(lines, "can be reached") && strings.Contains(lines, "slack_client: slack: ratelimited (HTTP 429): see") {
		t.Errorf("got %s", lines)
	}
}
