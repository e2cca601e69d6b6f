package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

// connect is a whole flow through a program; it returns the page at its end.
func (p *person) connect(to *program, flow state.Flow) string {
	p.t.Helper()
	link, err := p.links.Sign(flow, time.Now().Add(time.Hour))
	if err != nil {
		p.t.Fatal(err)
	}
	return p.land(to, p.approve(to, link))
}

func wantText(t testing.TB, page, want string) {
	t.Helper()
	if !strings.Contains(page, want) {
		t.Errorf("the page does not say %q: %s", want, page)
	}
}

func TestSaveAsEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "NOVU_SAVE_AS=endpoint", "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	w.links.Contexts = true
	program, person := start(t, w.env...), w.person(t)
	acme := state.Flow{Subscriber: "user+1@example.com/ä #?", Context: `{"tenant": "acme", "a": {"id": 1}}`}
	same := acme
	same.Context = `{"a":{"id":1},"tenant":"acme"}`
	other := acme
	other.Context = `{"tenant":"globex"}`
	for _, flow := range []state.Flow{acme, same, other} {
		wantText(t, person.connect(program, flow), "Slack is connected")
	}
	got, hooks := w.novu.Endpoints(), w.slack.Webhooks()
	if len(got) != 2 || got[0].URL != hooks[1] || got[1].URL != hooks[2] || got[0].Identifier == got[1].Identifier {
		t.Fatalf("got endpoints %v of webhooks %v, want one for each context, the first updated", got, hooks)
	}
	if got[0].Subscriber != acme.Subscriber || got[0].Integration != "slack-main" || string(got[0].Context) != same.Context {
		t.Errorf("got %+v", got[0])
	}
	if channels, known := w.novu.Channels(acme.Subscriber); !known || len(channels) != 0 {
		t.Errorf("got credentials %v, %v, want a subscriber without", channels, known)
	}

	// The worker saves the same, context and all.
	w.novu.BreakAll(wire.HTML(http.StatusServiceUnavailable))
	for _, tenant := range []string{"initech", "hooli"} {
		later := acme
		later.Context = `{"tenant":"` + tenant + `"}`
		wantText(t, person.connect(program, later), "we are finishing the set-up")
	}
	w.novu.BreakAll(nil)
	waitFor(t, "the worker saves both", func() bool { return len(w.novu.Endpoints()) == 4 })
	contexts := string(w.novu.Endpoints()[2].Context) + string(w.novu.Endpoints()[3].Context)
	if !strings.Contains(contexts, "initech") || !strings.Contains(contexts, "hooli") {
		t.Errorf("got contexts %s", contexts)
	}
}

// An older Novu has no channel endpoints, and several integrations want a name:
// the person is told "saving", the entry is kept, and the log says what to do.
func TestSaveAsEndpointThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil  func(*novutest.Server)
		remedy string
	}{
		"older Novu": {func(n *novutest.Server) { n.SetOld() }, "update it, or set NOVU_SAVE_AS=credentials"},
		"several integrations": {func(n *novutest.Server) {
			n.SetIntegrations(novutest.Integration{Identifier: "a", Provider: "slack", Active: true}, novutest.Integration{Identifier: "b", Provider: "slack", Active: true})
		}, "set NOVU_INTEGRATION_IDENTIFIER"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "NOVU_SAVE_AS=endpoint", "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
			program, person := start(t, w.env...), w.person(t)
			link, _ := w.links.Sign(state.Flow{Subscriber: "ada"}, time.Now().Add(time.Hour))
			callback := person.approve(program, link)
			c.spoil(w.novu) // while the person is at Slack
			wantText(t, person.land(program, callback), "we are finishing the set-up")
			waitFor(t, "the log says "+c.remedy, func() bool { return strings.Contains(program.text(), c.remedy) })
			program.kill()
			if _, list, _ := runCommand(t, w.env, "outbox", "list"); !strings.Contains(list, "//ada") {
				t.Errorf("the entry is not kept: %s", list)
			}
		})
	}
}

func TestWelcomeMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "WELCOME_MESSAGE=You are set: <https://x|y> & more", "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	w.slack.HooksURL = envOf(w.env, "SLACK_URL")
	program, person := start(t, w.env...), w.person(t)
	link, _ := w.links.Sign(state.Flow{Subscriber: "ada"}, time.Now().Add(time.Hour))
	callback := person.approve(program, link)
	for range 3 { // the flow, and its reloads
		wantText(t, person.land(program, callback), "Slack is connected")
	}
	const want = `{"text":"You are set: \u0026lt;https://x|y\u0026gt; \u0026amp; more"}`
	waitFor(t, "the message", func() bool { return len(w.slack.Messages()) > 0 })
	if got := w.slack.Messages(); len(got) != 1 || got[0] != want {
		t.Fatalf("got %q, want %s once", got, want)
	}

	// Not before Novu has the webhook, and then once, by the worker.
	w.novu.BreakAll(wire.HTML(http.StatusServiceUnavailable))
	wantText(t, person.connect(program, state.Flow{Subscriber: "bob"}), "we are finishing the set-up")
	if got := len(w.slack.Messages()); got != 1 {
		t.Errorf("got %d messages before Novu has the webhook, want 1", got)
	}
	w.novu.BreakAll(nil)
	waitFor(t, "the worker welcomes", func() bool { return len(w.slack.Messages()) == 2 })

	// A channel that is gone fails no flow.
	w.slack.Change(func(a map[string]any) {
		a["incoming_webhook"].(map[string]any)["url"] = w.slack.HooksURL + "/services/gone"
	})
	wantText(t, person.connect(program, state.Flow{Subscriber: "cyd"}), "Slack is connected")
	waitFor(t, "the log says so", func() bool { return strings.Contains(program.text(), "the welcome message was not posted") })

	// Nor does one that hangs: nobody waits for it.
	w.slack.Change(nil)
	w.slack.HangMessages(true)
	begin := time.Now()
	wantText(t, person.connect(program, state.Flow{Subscriber: "dee"}), "Slack is connected")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the person waited %v for a message", took)
	}
	w.slack.HangMessages(false)
	if log := program.text(); strings.Contains(log, "/services/") {
		t.Errorf("the log has a webhook: %s", log)
	}
}

func envOf(env []string, name string) string {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// Who cannot be connected is told before the way to Slack; when Novu does not say,
// the flow goes on.
func TestPreflight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	w.novu.SetIntegrations(novutest.Integration{Identifier: "discord", Provider: "discord", Active: true})
	program := start(t, w.env...)
	link, _ := w.links.Sign(state.Flow{Subscriber: "ada"}, time.Now().Add(time.Hour))
	status, location, body, err := w.person(t).get(program, link)
	if err != nil || status != http.StatusServiceUnavailable || location != "" {
		t.Errorf("got %d to %q, %v, want 503", status, location, err)
	}
	wantText(t, body, "<code>novu_no_integration</code>")
	waitFor(t, "the log alarms, with the remedy", func() bool {
		return strings.Contains(program.text(), `"level":"error","code":"novu_no_integration"`) && strings.Contains(program.text(), "activate a Slack integration in this Novu environment")
	})

	// Down is not none.
	w.novu.BreakAll(wire.Reset)
	waitFor(t, "what was known is forgotten", func() bool {
		status, _, _, _ := w.person(t).get(program, link)
		return status == http.StatusFound
	})
	w.novu.BreakAll(nil)
	w.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: true})
	person := w.person(t)
	wantText(t, person.land(program, person.approve(program, link)), "Slack is connected")

	// A name that no active integration has: the link may be to blame, and the way back
	// to the app is there.
	named, _ := w.links.Sign(state.Flow{Subscriber: "ada", Integration: "slack-eu", ReturnURL: "https://app.example.com/"}, time.Now().Add(time.Hour))
	waitFor(t, "the name is looked up", func() bool {
		status, _, body, _ := w.person(t).get(program, named)
		return status == http.StatusServiceUnavailable && strings.Contains(body, `href="https://app.example.com/?slack=error&amp;reason=novu_no_integration"`)
	})
	mac := hmac.New(sha256.New, []byte(w.novu.APIKey))
	mac.Write([]byte("ada")) // and nothing else of a Novu-style link
	_, _, body, _ = w.person(t).get(program, "/slack/install?subscriberId=ada&integrationIdentifier=slack-eu&hmacHash="+hex.EncodeToString(mac.Sum(nil)))
	_, id, _ := strings.Cut(body, "Request <code>")
	id, _, _ = strings.Cut(id, "<")
	var line string
	waitFor(t, "the refusal is in the log", func() bool {
		for line = range strings.Lines(program.text()) {
			if strings.Contains(line, `"request_id":"`+id+`"`) {
				return true
			}
		}
		return false
	})
	if !strings.Contains(line, `"code":"novu_no_integration"`) || strings.Contains(line, `"level":"error"`) {
		t.Errorf("who writes a name into a link can raise an alarm: %s", line)
	}
}

func TestPreflightAsksOnceForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	w.novu.BreakAll(wire.Slow(300 * time.Millisecond))
	program := start(t, w.env...)
	link, _ := w.links.Sign(state.Flow{Subscriber: "ada"}, time.Now().Add(time.Hour))
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if status, _, body, err := w.person(t).get(program, link); err != nil || status != http.StatusFound {
				t.Errorf("got %d, %v: %s", status, err, body)
			}
		})
	}
	group.Wait()
	asked := map[string]int{}
	for _, e := range w.wires.All() {
		asked[e.To+" "+e.Target]++
	}
	if asked["Novu /v1/integrations/active"] != 1 || asked["Novu /v1/environments/me"] != 1 {
		t.Errorf("got %v, want one look-up for all", asked)
	}
}

// The README's link in Node, signed by the usual library, connects.
func TestLinkFromNode(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("Node is not installed, and CI=true wants it")
		}
		t.Skip("Node is not installed")
	}
	readme := string(must(os.ReadFile("README.md")))
	code := regexp.MustCompile("(?s)```js\n(const jwt = require.*?)```").FindStringSubmatch(readme)
	if code == nil {
		t.Fatal("the README has no example in Node")
	}
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	script := "const subscriberId = 'user+1@example.com/ä #?';\n" + strings.ReplaceAll(code[1], "https://slack.example.com", w.links.Origin) + "\nconsole.log(JSON.stringify(link));"
	node := exec.Command("node", "-e", script)
	node.Env = append(os.Environ(), "LINK_SECRET="+linkSecret, "NODE_PATH="+must(filepath.Abs("testdata/jsonwebtoken")))
	out, err := node.CombinedOutput()
	var link string
	if err != nil || json.Unmarshal(out, &link) != nil {
		t.Fatalf("node: %v: %s", err, out)
	}
	if u, err := url.Parse(link); err != nil || u.Path != "/slack/install" {
		t.Fatalf("got %q", link)
	}
	program, person := start(t, w.env...), w.person(t)
	wantText(t, person.land(program, person.approve(program, link)), "Slack is connected")
	w.wantSaved(t, "user+1@example.com/ä #?", 0)
}
