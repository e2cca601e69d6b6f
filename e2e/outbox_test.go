package e2e_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

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
				wantText(t, w.person(t).connect(program, w.linkTo(subscriber)), textPending)
			}
			if store == "file" {
				if exit, _, stderr := runCommand(t, w.env, "outbox", "list"); exit != exitFailed || !strings.Contains(stderr, "in use by another process") {
					t.Errorf("list beside the service: got %d, %s", exit, stderr)
				}
			}
			program.stop()

			exit, stdout, stderr := runCommand(t, w.env, "outbox", "list")
			ada := waitingFlow(stdout, "ada/1")
			if exit != exitOK || ada == "" || waitingFlow(stdout, "bob") == "" || !strings.Contains(stdout, "unavailable (HTTP 503)") {
				t.Errorf("list: got %d, %s%s", exit, stdout, stderr)
			}
			if head, _, _ := strings.Cut(stdout, "\n"); strings.Join(strings.Fields(head), " ") != "FLOW SUBSCRIBER INTEGRATION WAITS FOR AGE ATTEMPTS NEXT LAST ERROR" {
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
			w.novu.BreakAll(nil)
			waitFor(t, "the flow is due and drained", func() bool {
				exit, stdout, stderr = runCommand(t, w.env, "outbox", "drain")
				if strings.HasPrefix(stdout, "0 sent") && !strings.Contains(stdout, "not due yet: 1;") {
					t.Errorf("drain before the flow is due: got %s", stdout)
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
