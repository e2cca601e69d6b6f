package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// What is left behind can be listed, sent by a scheduled job, and given up, by
// another process than the service on Redis, and by one after it on a file.
func TestOutboxCommands(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"redis", "file"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			var settings []string
			if store == "redis" {
				settings = append(settings, "REDIS_URL="+redistest.Start(t).URL())
			}
			w := newWorld(t, settings...)
			program := start(t, w.env...)
			w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
			for _, subscriber := range []string{"ada/1", "bob"} {
				w.person(t).wantConnect(program, w.linkTo(subscriber), textPending)
			}
			if store == "file" {
				for _, args := range []string{"list", "drain", "drain --now", "drop x"} {
					if exit, _, stderr := runCommand(t, w.env, strings.Fields("outbox "+args)...); exit != exitFailed || !strings.Contains(stderr, "in use by another process; ") {
						t.Errorf("%s beside the service: got %d, %s", args, exit, stderr)
					}
				}
			}
			program.stop()

			exit, stdout, stderr := runCommand(t, w.env, "outbox", "list")
			ada := waitingFlow(stdout, "ada/1")
			if exit != exitOK || ada == "" || waitingFlow(stdout, "bob") == "" || !strings.Contains(stdout, "unavailable (HTTP 503)") || strings.Count(stdout, `"#alerts"`) != 2 {
				t.Errorf("list: got %d, %s%s", exit, stdout, stderr)
			}
			if head, _, _ := strings.Cut(stdout, "\n"); strings.Join(strings.Fields(head), " ") != "FLOW SUBSCRIBER INTEGRATION CHANNEL WAITS FOR AGE ATTEMPTS NEXT REASON" {
				t.Errorf("list: got columns %s", head)
			}
			if !strings.Contains(program.text(), `"flow":"`+ada+`","subscriber":"ada/1"`) {
				t.Errorf("the log does not name the flow %s as list does", ada)
			}
			for _, hook := range w.slack.Webhooks() {
				if strings.Contains(stdout+stderr+program.text(), hook) {
					t.Error("a webhook is printed")
				}
			}
			if exit, _, stderr := runCommand(t, w.env, "outbox", "drop", ada); exit != exitOK {
				t.Errorf("drop: got %d, %s", exit, stderr)
			}
			if exit, _, stderr := runCommand(t, w.env, "outbox", "drop", ada); exit != exitFailed || !strings.Contains(stderr, "there is no flow") {
				t.Errorf("drop again: got %d, %s", exit, stderr)
			}
			drained := func(wantExit int, want string) {
				t.Helper()
				waitFor(t, "the flow is due and drained", func() bool {
					exit, stdout, stderr = runCommand(t, w.env, "outbox", "drain", "--now") // of what is due in more than a minute
					if strings.HasPrefix(stdout, "0 sent, 0 ") && !strings.Contains(stdout, "left: 1, which are due within a minute;") {
						t.Errorf("drain before the flow is due: got %s%s", stdout, stderr)
					}
					return exit == wantExit && strings.HasPrefix(stdout, want)
				})
			}
			drained(exitFailed, "0 sent, 1 to be tried again\n")
			w.novu.BreakAll(nil)
			drained(exitOK, "1 sent, 0 to be tried again\n")
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

// While the service has the embedded store, its outbox is told at METRICS_ADDR: as JSON, and
// to the command, as that prints it when the store is free. Once the cause is repaired,
// nobody waits for the next attempt.
func TestOutboxOfARunningService(t *testing.T) {
	t.Parallel()
	receiver, events := startReceiver(t)
	receiver.answer(http.StatusServiceUnavailable)
	w := newWorld(t, append(events, "METRICS_ADDR=127.0.0.1:"+redistest.FreePort(t))...)
	program := start(t, w.env...)
	w.person(t).wantConnect(program, w.linkTo("bob"), textConnected) // its event waits
	w.novu.BreakAll(upstreamtest.JSON(http.StatusUnauthorized, `{"statusCode":401,"message":"nope"}`))
	w.person(t).wantConnect(program, w.link(claims{"sub": "ada", "integrationIdentifier": "slack-main"}), textPending)

	type waiting struct {
		Flow, Subscriber, Integration, Channel, WaitsFor, Reason string
		Since, Next                                              time.Time
		Attempts                                                 int
	}
	list := func() (flows map[string]waiting, text string) {
		t.Helper()
		res, err := http.Get("http://" + w.setting("METRICS_ADDR") + "/outbox")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text = string(must(io.ReadAll(res.Body)))
		var answer struct{ Flows []waiting }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || res.StatusCode != http.StatusOK || answer.Flows == nil {
			t.Fatalf("got HTTP %d, %v: %s", res.StatusCode, err, text)
		}
		flows = map[string]waiting{}
		for _, f := range answer.Flows {
			flows[f.Subscriber] = f
		}
		return flows, text
	}
	var flows map[string]waiting
	var text string
	waitFor(t, "both flows have failed once", func() bool {
		flows, text = list()
		return flows["ada"].Attempts > 0 && flows["bob"].Attempts > 0
	})
	for subscriber, want := range map[string]waiting{
		"ada": {Integration: "slack-main", Channel: "#alerts", WaitsFor: "Novu", Reason: "bad_api_key"},
		"bob": {Integration: "slack-main", Channel: "#alerts", WaitsFor: "EVENTS_URL", Reason: "EVENTS_URL answered HTTP 503"},
	} {
		got := flows[subscriber]
		if got.Integration != want.Integration || got.Channel != want.Channel || got.WaitsFor != want.WaitsFor || !strings.Contains(got.Reason, want.Reason) ||
			!strings.Contains(program.text(), `"flow":"`+got.Flow+`","subscriber":"`+subscriber) || !got.Next.After(got.Since) || time.Since(got.Since) > patience {
			t.Errorf("%s: got %+v, want %+v and the flow of the log", subscriber, got, want)
		}
	}
	if left := time.Until(flows["ada"].Next); left < 30*time.Minute {
		t.Fatalf("the next attempt is in %v: the test tests nothing", left)
	}
	exit, stdout, stderr := runCommand(t, w.env, "outbox", "list")
	if exit != exitOK || stderr != "" || waitingFlow(stdout, "ada") != flows["ada"].Flow || waitingFlow(stdout, "bob") != flows["bob"].Flow {
		t.Errorf("list: got %d, %s%s", exit, stdout, stderr)
	}
	for _, hook := range w.slack.Webhooks() {
		if strings.Contains(text+stdout, hook) {
			t.Error("a webhook is printed")
		}
	}

	// A page that the operator has open must not do it.
	req := must(http.NewRequest(http.MethodPost, "http://"+w.setting("METRICS_ADDR")+"/outbox/drain", nil))
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	res := must(http.DefaultClient.Do(req))
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site: got HTTP %d, want 403", res.StatusCode)
	}
	w.novu.BreakAll(nil)
	receiver.answer(http.StatusNoContent)
	if exit, stdout, stderr := runCommand(t, w.env, "outbox", "drain", "--now"); exit != exitOK {
		t.Errorf("drain --now: got %d, %s%s", exit, stdout, stderr)
	}
	waitFor(t, "nothing waits any more", func() bool { flows, _ := list(); return len(flows) == 0 })
	w.wantSaved(t, "ada", 1)
	program.stop()

	// Whoever has the file then does not answer there.
	other := start(t, append(w.env, "METRICS_ADDR=")...)
	defer other.kill()
	if exit, _, stderr := runCommand(t, w.env, "outbox", "list"); exit != exitFailed || !strings.Contains(stderr, "METRICS_ADDR does not answer") || !strings.Contains(stderr, "; see that METRICS_ADDR") {
		t.Errorf("nothing listens at METRICS_ADDR: got %d, %s", exit, stderr)
	}
}

// A page of a public host name that its owner points to this machine (DNS rebinding) is of one
// origin with what it requests, and learns nothing. Those who may ask use an address or a
// private name.
func TestOutboxRefusesPublicHostNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0")
	origin := "http://" + metricsAddr(t, start(t, w.env...))
	for host, want := range map[string]int{
		"rebind.example.com": http.StatusForbidden, "rebind.example.com.": http.StatusForbidden, "1.2.0.192.in-addr.arpa": http.StatusForbidden,
		"127.0.0.1.example.com": http.StatusForbidden,
		"127.0.0.1":             http.StatusOK, "[::1]": http.StatusOK, "203.0.113.7": http.StatusOK, "localhost": http.StatusOK, "novu-slack-redirect": http.StatusOK,
		"app.internal": http.StatusOK, "slack.default.svc": http.StatusOK, "slack.default.svc.cluster.local": http.StatusOK,
	} {
		for _, port := range []string{"", ":9090"} {
			for path, method := range map[string]string{"/outbox": http.MethodGet, "/outbox/drain": http.MethodPost} {
				req := must(http.NewRequest(method, origin+path, nil))
				req.Host = host + port
				req.Header.Set("Sec-Fetch-Site", "same-origin")
				res := must(http.DefaultClient.Do(req))
				text := string(must(io.ReadAll(res.Body)))
				res.Body.Close()
				if res.StatusCode != want || want != http.StatusOK && (strings.Contains(text, "flows") || !strings.Contains(text, "localhost")) {
					t.Errorf("%s of %s: got HTTP %d %s, want %d", path, req.Host, res.StatusCode, text, want)
				}
			}
		}
	}
	req := must(http.NewRequest(http.MethodGet, origin+"/metrics", nil))
	req.Host = "metrics.example.com" // as a Prometheus elsewhere may have it; metrics name nobody
	res := must(http.DefaultClient.Do(req))
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("/metrics of %s: got HTTP %d, want 200", req.Host, res.StatusCode)
	}
}

// waitingFlow finds a subscriber's line in what outbox list prints, and returns the name
// that outbox drop takes, the line's first column.
func waitingFlow(list, subscriber string) (name string) {
	for line := range strings.Lines(list) {
		if name, rest, ok := strings.Cut(line, " "); ok && strings.HasPrefix(strings.TrimLeft(rest, " "), strconv.Quote(subscriber)+" ") {
			return name
		}
	}
	return ""
}
