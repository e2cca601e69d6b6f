package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/upstream/upstreamtest"
)

func TestSaveAsEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "NOVU_SAVE_AS=endpoint")
	program, person := start(t, w.env...), w.person(t)
	const subscriber = "user+1@example.com/ä #?"
	const acme = `{"a":{"id":"1"},"tenant":"acme"}`
	link := func(context string) string {
		return w.link(claims{"sub": subscriber, "context": json.RawMessage(context)})
	}
	for _, context := range []string{`{"tenant": "acme", "a": {"id": "1"}}`, acme, `{"tenant":"globex"}`} {
		person.wantConnect(program, link(context), textConnected)
	}
	got, hooks := w.novu.Endpoints(), w.slack.Webhooks()
	if len(got) != 2 || got[0].URL != hooks[1] || got[1].URL != hooks[2] || got[0].Identifier == got[1].Identifier {
		t.Fatalf("got endpoints %v of webhooks %v, want one for each context, the first updated", got, hooks)
	}
	if got[0].Subscriber != subscriber || got[0].Integration != "slack-main" || string(got[0].Context) != acme {
		t.Errorf("got %+v", got[0])
	}
	if channels, known := w.novu.Channels(subscriber); !known || len(channels) != 0 {
		t.Errorf("got credentials %v, %v, want a subscriber without", channels, known)
	}

	// The worker saves the same, context and all.
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	for _, tenant := range []string{"initech", "hooli"} {
		person.wantConnect(program, link(`{"tenant":"`+tenant+`"}`), textPending)
	}
	w.novu.BreakAll(nil)
	waitFor(t, "the worker saves both", func() bool { return len(w.novu.Endpoints()) == 4 })
	contexts := string(w.novu.Endpoints()[2].Context) + string(w.novu.Endpoints()[3].Context)
	if !strings.Contains(contexts, "initech") || !strings.Contains(contexts, "hooli") {
		t.Errorf("got contexts %s", contexts)
	}
}

// An older Novu has no channel endpoints, and several integrations want a name:
// the person is told "saving", the flow is kept, and the log says what to do.
func TestSaveAsEndpointThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil  func(*novutest.Server)
		remedy string
	}{
		"older Novu": {func(n *novutest.Server) { n.SetGeneration(novutest.V2_0) }, "update it, or set NOVU_SAVE_AS=credentials"},
		"several integrations": {func(n *novutest.Server) {
			n.SetIntegrations(novutest.Integration{Identifier: "a", Provider: "slack", Active: true}, novutest.Integration{Identifier: "b", Provider: "slack", Active: true})
		}, "name the Slack integration, in the link or as NOVU_INTEGRATION_IDENTIFIER"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "NOVU_SAVE_AS=endpoint")
			program, person := start(t, w.env...), w.person(t)
			link := w.linkTo("ada")
			w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable)) // so that the install names no integration
			callback := person.approve(program, link)
			w.novu.BreakAll(nil)
			c.spoil(w.novu) // while the person is at Slack
			person.wantFinish(program, callback, textPending)
			waitFor(t, "the log says "+c.remedy, func() bool { return strings.Contains(program.text(), c.remedy) })
			program.kill()
			if _, list, _ := runCommand(t, w.env, "outbox", "list"); waitingFlow(list, "ada") == "" {
				t.Errorf("the flow is not kept: %s", list)
			}
		})
	}
}

func TestWelcomeMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "WELCOME_MESSAGE=You are set: <https://x|y> & more")
	w.slack.HooksURL = w.setting("SLACK_URL")
	program, person := start(t, w.env...), w.person(t)
	link := w.linkTo("ada")
	callback := person.approve(program, link)
	for range 3 { // the flow, and its reloads
		person.wantFinish(program, callback, textConnected)
	}
	const want = `{"text":"You are set: \u0026lt;https://x|y\u0026gt; \u0026amp; more"}`
	waitFor(t, "the message", func() bool { return len(w.slack.Messages()) > 0 })
	if got := w.slack.Messages(); len(got) != 1 || got[0] != want {
		t.Fatalf("got %q, want %s once", got, want)
	}

	// Not before Novu has the webhook, and then once, by the worker.
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	person.wantConnect(program, w.linkTo("bob"), textPending)
	if got := len(w.slack.Messages()); got != 1 {
		t.Errorf("got %d messages before Novu has the webhook, want 1", got)
	}
	w.novu.BreakAll(nil)
	waitFor(t, "the worker welcomes", func() bool { return len(w.slack.Messages()) == 2 })

	// A channel that is gone fails no flow.
	w.slack.Change(func(a map[string]any) {
		a["incoming_webhook"].(map[string]any)["url"] = w.slack.HooksURL + "/services/gone"
	})
	person.wantConnect(program, w.linkTo("cyd"), textConnected)
	waitFor(t, "the log says so", func() bool { return strings.Contains(program.text(), "the welcome message was not posted") })

	// Nor does one that hangs: nobody waits for it. It is given up after 3 s, which the
	// log says; on a very slow machine that may come before the page, but not always.
	w.slack.Change(nil)
	w.slack.HangMessages(true)
	givenUp := func() int { return strings.Count(program.text(), "the welcome message was not posted") }
	waited := true
	for try := 0; waited && try < 5; try++ {
		before := givenUp()
		person.wantConnect(program, w.linkTo("dee"), textConnected)
		waited = givenUp() > before
		waitFor(t, "the message is given up", func() bool { return givenUp() > before })
	}
	if waited {
		t.Error("the person waits for a message that hangs")
	}
	w.slack.HangMessages(false)
	if strings.Contains(program.text(), "/services/") {
		t.Error("the log has a webhook")
	}
}

func isRefused(a answer) bool { return a.status == http.StatusServiceUnavailable }

// Who cannot be connected is told before the way to Slack; when Novu does not say,
// the flow goes on.
func TestPreflight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "NOVU_STYLE_LINKS=true")
	w.novu.SetIntegrations(novutest.Integration{Identifier: "discord", Provider: "discord", Active: true})
	program := start(t, w.env...)
	link := w.linkTo("ada")
	a, err := w.person(t).unlessSlow(program, link, isRefused)
	if err != nil || a.status != http.StatusServiceUnavailable || a.location != "" {
		t.Errorf("got %d to %q, %v, want 503", a.status, a.location, err)
	}
	wantText(t, a.body, "<code>novu_no_integration</code>")
	waitFor(t, "the log alarms, with the remedy", func() bool {
		return strings.Contains(program.text(), `"level":"error","code":"novu_no_integration"`) && strings.Contains(program.text(), "activate a Slack integration in this Novu environment")
	})

	// Down is not none.
	w.novu.BreakAll(upstreamtest.Reset)
	waitFor(t, "what was known is forgotten", func() bool { return w.person(t).status(program, link) == http.StatusFound })
	w.novu.BreakAll(nil)
	w.novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: true})
	person := w.person(t)
	person.connect(program, link)
	person.waitPage(program, person.resultPage(), textConnected)

	// A name that no active integration has: the link may be to blame, and the way back
	// to the app is there.
	named := w.link(claims{"sub": "ada", "integrationIdentifier": "slack-eu", "returnUrl": "https://app.example.com/"})
	waitFor(t, "the name is looked up", func() bool {
		a, _ := w.person(t).get(program, named)
		return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, `href="https://app.example.com/?slack=error&amp;reason=novu_no_integration&amp;slack_result=`)
	})
	// The hash of a Novu-style link covers the subscriber alone.
	a, _ = w.person(t).get(program, novuStyleLink(w.novu.APIKey, "ada")+"&integrationIdentifier=slack-eu")
	_, id, _ := strings.Cut(a.body, "Reference <code>")
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
	w := newWorld(t)
	w.novu.BreakAll(upstreamtest.Slow(300 * time.Millisecond))
	program := start(t, w.env...)
	link := w.linkTo("ada")
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if a, err := w.person(t).get(program, link); err != nil || a.status != http.StatusFound {
				t.Errorf("got %d, %v: %s", a.status, err, readable(a.body))
			}
		})
	}
	group.Wait()
	asked := map[string]int{}
	for _, e := range w.recorder.All() {
		asked[e.To+" "+e.Target]++
	}
	if asked["Novu /v1/integrations/active"] != 1 || asked["Novu /v1/environments/me"] != 1 {
		t.Errorf("got %v, want one look-up for all", asked)
	}
}

// The documents' link in Node, signed by the usual library, connects.
func TestLinkFromNode(t *testing.T) {
	t.Parallel()
	needCommand(t, "node")
	example := regexp.MustCompile("(?s)```js\n(const jwt = require.*?)```")
	code := example.FindStringSubmatch(string(must(os.ReadFile("../docs/integrating.md"))))
	if code == nil || !slices.Equal(code, example.FindStringSubmatch(string(must(os.ReadFile("../README.md"))))) {
		t.Fatal("README.md and docs/integrating.md have not the same example in Node")
	}
	w := newWorld(t)
	script := "const subscriberId = 'user+1@example.com/ä #?';\n" + strings.ReplaceAll(code[1], "https://slack.example.com", publicOrigin) + "\nconsole.log(JSON.stringify(link));"
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
	person.wantConnect(program, link, textConnected)
	w.wantSaved(t, "user+1@example.com/ä #?", 0)
}
