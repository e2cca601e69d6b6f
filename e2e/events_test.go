package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const eventsSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw0mZ5Vq3rWbI="

// receiver is an app's EVENTS_URL: a process in Node, with the reference library of
// Standard Webhooks.
type receiver struct {
	*program
	url string
}

// startReceiver returns a receiver and the settings that lead events to it.
func startReceiver(t *testing.T) (*receiver, []string) {
	t.Helper()
	needCommand(t, "node")
	cmd := exec.Command("node", "testdata/receiver.js")
	r, port, err := launchUntil(t, cmd, regexp.MustCompile(`receiving at (\d+)`),
		"EVENTS_SECRET="+eventsSecret, "NODE_PATH="+must(filepath.Abs("testdata/standardwebhooks")), "PATH="+os.Getenv("PATH"))
	if r != nil {
		t.Cleanup(r.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	url := "http://127.0.0.1:" + port
	return &receiver{r, url}, []string{"EVENTS_URL=" + url + "/hook", "EVENTS_SECRET=" + eventsSecret}
}

// answer sets the status that the receiver answers with from then on; 0 hangs.
func (r *receiver) answer(status int) {
	r.t.Helper()
	res, err := http.Get(r.url + "/" + strconv.Itoa(status))
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
}

// receivedEvent is an event that verified, or one of type "forged: …".
type receivedEvent struct {
	ID, Type, Timestamp string
	Data                map[string]any
}

func (r *receiver) events() (all []receivedEvent) {
	for line := range strings.Lines(r.text()) {
		if text, ok := strings.CutPrefix(line, "event "); ok {
			var e receivedEvent
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				r.t.Errorf("%v: %s", err, text)
			}
			all = append(all, e)
		}
	}
	return all
}

// wantEvents waits for so many events, and checks their types and subscribers.
func (r *receiver) wantEvents(want ...string) []receivedEvent {
	r.t.Helper()
	waitFor(r.t, strconv.Itoa(len(want))+" events", func() bool { return len(r.events()) >= len(want) })
	var got []string
	for _, e := range r.events() {
		subscriber, _ := e.Data["subscriberId"].(string)
		got = append(got, strings.TrimSpace(e.Type+" "+subscriber))
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("got the events %q, want %q", got, want)
	}
	return r.events()
}

func TestEventsFromEndToEnd(t *testing.T) {
	t.Parallel()
	r, settings := startReceiver(t)
	w := newWorld(t, settings...)
	program, person := start(t, w.env...), w.person(t)
	person.wantConnect(program, w.linkTo("ada"), textConnected)
	e := r.wantEvents("slack.connected ada")[0]
	for name, want := range map[string]any{"integrationIdentifier": "slack-main", "channel": "#alerts", "team": "Acme", "teamId": "T01ACME"} {
		if e.Data[name] != want {
			t.Errorf("%s: got %v, want %v", name, e.Data[name], want)
		}
	}
	if flow, _ := e.Data["flow"].(string); e.ID != "evt_"+flow || flow == "" || e.Data["configurationUrl"] == nil || e.Timestamp == "" {
		t.Errorf("got %+v", e)
	}

	// The command, beside the running service.
	env := append(slices.Clone(w.env), "PORT="+program.origin[strings.LastIndex(program.origin, ":")+1:])
	begin := time.Now()
	exit, stdout, stderr := runCommand(t, env, "disconnect", "ada")
	if took := time.Since(begin); exit != exitOK || strings.TrimSpace(stdout) != "disconnected" && took < slow {
		t.Errorf("disconnect: got exit code %d after %v, %s %s", exit, took, stdout, stderr)
	}
	waitFor(t, "no message goes to Slack any more", func() bool { return len(w.novu.Messages("ada")) == 0 })
	r.wantEvents("slack.connected ada", "slack.disconnected ada")
	exit, stdout, _ = runCommand(t, env, "disconnect", "ada", "--link")
	if answer, err := person.get(program, strings.TrimSpace(stdout)); exit != exitOK || err != nil || answer.status != http.StatusOK || !strings.Contains(answer.body, "Disconnect Slack from") {
		t.Errorf("disconnect --link: got exit code %d, %v, %d", exit, err, answer.status)
	}

	if exit, stdout, _ = runCommand(t, w.env, "check", "--event"); !strings.Contains(stdout, "ok    event         EVENTS_URL took a signed event of type ping") || exit != exitOK {
		t.Errorf("check --event: got exit code %d: %s", exit, stdout)
	}
	r.wantEvents("slack.connected ada", "slack.disconnected ada", "ping")
	r.answer(http.StatusNotFound)
	if exit, stdout, _ = runCommand(t, w.env, "check", "--event"); !strings.Contains(stdout, "fail  event         EVENTS_URL answered HTTP 404: see that") || exit != exitFailed {
		t.Errorf("check --event: got exit code %d: %s", exit, stdout)
	}
	if text := r.text() + program.text(); strings.Contains(text, "hooks.slack.com") || strings.Contains(text, "canary-answer") {
		t.Errorf("an event, or the log, has the webhook or the answer: %s", text)
	}
}

// Whatever the receiver does, Novu has the webhook, and the person reads so; and whenever
// the program dies, the event comes, with the same ID.
func TestEventSurvivesKill(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"hangs": 0, "is broken": 500, "redirects": 307, "refuses": 410} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, settings := startReceiver(t)
			w := newWorld(t, append(settings, "METRICS_ADDR=127.0.0.1:0")...)
			r.answer(status)
			program, person := start(t, w.env...), w.person(t)
			person.wantConnect(program, w.linkTo("ada"), textConnected)
			person.wantConnect(program, w.linkTo("bob"), textConnected)
			w.wantSaved(t, "ada", 0)
			w.wantSaved(t, "bob", 1)
			waitFor(t, "the receiver is asked", func() bool { return len(r.events()) >= 2 })
			program.kill()

			exit, list, _ := runCommand(t, w.env, "outbox", "list")
			if exit != exitOK || strings.Count(list, "EVENTS_URL") < 2 || !strings.Contains(list, "ada") || !strings.Contains(list, "bob") {
				t.Errorf("got exit code %d: %s", exit, list)
			}
			if _, stdout, _ := runCommand(t, w.env, "check"); !strings.Contains(stdout, "events that EVENTS_URL does not have yet: 2, the oldest for ") {
				t.Errorf("check says %s", stdout)
			}
			before := len(r.events())
			r.answer(http.StatusNoContent)
			program = start(t, w.env...)
			waitFor(t, "both events come", func() bool {
				ids := map[string]bool{}
				for _, e := range r.events()[before:] {
					ids[e.ID] = true
				}
				return len(ids) == 2
			})
			waitFor(t, "nothing waits any more", func() bool { return gauge(t, program, "slack_redirect_events_waiting") == 0 })
			ids := map[string]int{}
			for _, e := range r.events() {
				ids[e.ID+" "+e.Type]++
			}
			if len(ids) != 2 {
				t.Errorf("got %v, want two IDs in all", ids)
			}
			program.stop()
			if _, list, _ := runCommand(t, w.env, "outbox", "list"); strings.Contains(list, "EVENTS_URL") {
				t.Errorf("the outbox still has %s", list)
			}
		})
	}
}

// Whoever waits for Slack is told nothing before the outcome, neither by the return URL nor
// in a popup; and if the page was closed meanwhile, the event tells it, once.
func TestEventOfOneWhoClosedTheWaitingPage(t *testing.T) {
	t.Parallel()
	const back = "https://app.example.com/settings"
	for name, c := range map[string]struct {
		display  string
		page     int    // status once it is known
		location string // then
	}{
		"return URL": {"", http.StatusSeeOther, back + "?slack=connected"},
		"popup":      {"&display=popup", http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, settings := startReceiver(t)
			w := newWorld(t, settings...)
			program, p := start(t, w.env...), w.person(t)
			looked := w.slackAsksToWait()
			a, err := p.get(program, p.approve(program, w.link(claims{"sub": "ada", "returnUrl": back})+c.display))
			if err != nil || a.status != http.StatusSeeOther || !strings.HasPrefix(a.location, "/slack/result?") {
				t.Fatalf("callback: got %d to %q, %v, want the page that waits", a.status, a.location, err)
			}
			page := a.location + "&n=2"
			a, err = p.get(program, page)
			if err != nil || a.status != http.StatusAccepted || strings.Contains(a.body, "slack=") || strings.Contains(a.body, "pending") {
				t.Errorf("while it waits: got %d, %v, want 202 and no outcome: %s", a.status, err, a.body)
			}
			wantText(t, a.body, "One moment")
			if got := r.events(); len(got) > 0 {
				t.Errorf("while it waits: got the events %v", got)
			}

			// Nobody looks at the page any more.
			close(looked)
			e := r.wantEvents("slack.connected ada")[0]
			if e.Data["channel"] != "#alerts" {
				t.Errorf("got %+v", e)
			}
			w.wantSaved(t, "ada", 0)
			a, err = p.get(program, page)
			if err != nil || a.status != c.page || !strings.HasPrefix(a.location, c.location) {
				t.Errorf("afterwards: got %d to %q, %v", a.status, a.location, err)
			}
			wantText(t, a.location+a.body, "slack=connected")
			wantText(t, a.location+a.body, "slack_result=")
		})
	}
}
