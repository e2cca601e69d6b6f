package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// logFields are the fields of a log line that name a flow and say how it fares.
type logFields struct{ Message, Level, Code, Outcome, Flow, Subscriber, Novu, Remedy string }

// flowLines returns the program's log lines that name a flow or a subscriber.
func flowLines(t *testing.T, p *program) (lines []logFields) {
	t.Helper()
	for line := range strings.Lines(p.text()) {
		var fields logFields
		if err := json.Unmarshal([]byte(line), &fields); err == nil && fields.Flow+fields.Subscriber != "" {
			lines = append(lines, fields)
		}
	}
	return lines
}

// "Who could not connect in the last hour?" is one filter: each kind of failure has a line
// with its code, its subscriber and, once there is one, its flow. No line of a flow lacks
// its subscriber, unless its record could not be read: then the flow's other lines have it.
func TestLogLinesNameFlowAndSubscriber(t *testing.T) {
	t.Parallel()
	const (
		flowAndSubscriber = iota
		subscriberOnly    // the link was refused before there was a flow
		flowOnly          // the record could not be read
		neither           // anyone can write any subscriber into a link that is not genuine
	)
	approve := func(p *person, at *program, link string) { p.connect(at, link) }
	exchange := func(fault upstreamtest.Fault) func(p *person, at *program, link string) {
		return func(p *person, at *program, link string) {
			callback := p.approve(at, link)
			p.slack.Break(fault)
			p.finish(at, callback)
		}
	}
	open := func(p *person, at *program, link string) { p.status(at, link) }
	receiver, events := startReceiver(t)
	receiver.answer(http.StatusServiceUnavailable)
	for name, c := range map[string]struct {
		settings []string
		claims   claims
		novu     upstreamtest.Fault
		run      func(p *person, at *program, link string) // link is for subscriber ada
		want     logFields                                 // of one line; an empty field may be anything
		names    int
	}{
		"connected": {run: approve, want: logFields{Message: "connection", Outcome: "connected"}},
		"cancelled at Slack": {run: func(p *person, at *program, link string) {
			callback := must(url.Parse(p.approve(at, link)))
			p.status(at, callback.Path+"?error=access_denied&state="+callback.Query().Get("state"))
		}, want: logFields{Code: "access_denied"}},
		"Slack refuses the client":  {run: exchange(upstreamtest.JSON(200, `{"ok":false,"error":"bad_client_secret"}`)), want: logFields{Code: "slack_setup", Level: "error"}},
		"Slack refuses the code":    {run: exchange(upstreamtest.JSON(200, `{"ok":false,"error":"invalid_code"}`)), want: logFields{Code: "code_expired"}},
		"Slack gives no webhook":    {run: exchange(upstreamtest.JSON(200, `{"ok":true,"access_token":"xoxb-1"}`)), want: logFields{Code: "no_webhook"}},
		"Slack asks to wait longer": {run: exchange(upstreamtest.JSON(429, `{}`, "Retry-After", "900")), want: logFields{Code: "slack_busy"}},
		"Slack asks to wait, and refuses": {run: func(p *person, at *program, link string) {
			callback := p.approve(at, link)
			p.slack.Break(upstreamtest.JSON(429, `{}`, "Retry-After", "1"), upstreamtest.JSON(200, `{"ok":false,"error":"invalid_code"}`))
			p.finish(at, callback)
		}, want: logFields{Message: "flow failed", Code: "code_expired", Level: "warn"}},
		"Slack asks to wait, and the app is not distributed": {run: func(p *person, at *program, link string) {
			callback := p.approve(at, link)
			p.slack.Break(upstreamtest.JSON(429, `{}`, "Retry-After", "1"), upstreamtest.JSON(200, `{"ok":false,"error":"invalid_team_for_non_distributed_app"}`))
			p.finish(at, callback)
		}, want: logFields{Message: "flow failed", Code: "not_distributed", Level: "error", Remedy: "turn on public distribution"}},
		"another workspace":         {claims: claims{"teamId": "T09OTHER"}, run: approve, want: logFields{Code: "workspace_mismatch"}},
		"Novu refuses the key":      {novu: upstreamtest.JSON(401, `{"statusCode":401,"message":"nope"}`), run: approve, want: logFields{Message: "the flow will be tried again", Level: "error"}},
		"Novu is down":              {novu: upstreamtest.HTML(503), run: approve, want: logFields{Message: "the flow will be tried again", Level: "warn"}},
		"Novu is down at install":   {novu: upstreamtest.HTML(503), run: open, want: logFields{Message: "request", Level: "warn", Novu: "novu: look up integrations: "}},
		"no such integration":       {claims: claims{"integrationIdentifier": "x"}, run: open, want: logFields{Code: "novu_no_integration"}, names: subscriberOnly},
		"an expired link":           {claims: claims{"exp": time.Now().Add(-time.Hour).Unix()}, run: open, want: logFields{Code: "link_expired"}, names: subscriberOnly},
		"a link for another host":   {claims: claims{"aud": "https://other.example.com"}, run: open, want: logFields{Code: "link_invalid"}, names: subscriberOnly},
		"a link for the other path": {claims: claims{"action": "disconnect"}, run: open, want: logFields{Code: "link_invalid"}, names: subscriberOnly},
		"a return URL without a prefix": {settings: []string{"NOVU_STYLE_LINKS=true"}, run: func(p *person, at *program, _ string) {
			p.status(at, novuStyleLink(p.novu.APIKey, "ada")+"&returnUrl=https://evil.example")
		}, want: logFields{Code: "return_url_not_allowed"}, names: subscriberOnly},
		"a forged link": {run: func(p *person, at *program, link string) {
			w := *p.world
			w.linkSecret = "another-secret-of-32-bytes-and-more"
			p.status(at, w.linkTo("ada"))
		}, want: logFields{Code: "link_invalid"}, names: neither},
		"another browser": {run: func(p *person, at *program, link string) {
			p.world.person(p.t).status(at, p.approve(at, link))
		}, want: logFields{Code: "other_browser"}, names: flowOnly},
		"a callback that the rate limit refuses": {settings: []string{"RATE_LIMIT=0.001"}, run: func(p *person, at *program, link string) {
			p.status(at, p.approve(at, link))
		}, want: logFields{Code: "rate_limited"}, names: flowOnly},
		"the welcome message is refused": {settings: []string{"WELCOME_MESSAGE=hello"}, run: func(p *person, at *program, link string) {
			callback := p.approve(at, link)
			p.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(to, r)
				p.slack.BreakAll(upstreamtest.HTML(404))
			})
			p.finish(at, callback)
		}, want: logFields{Message: "the welcome message was not posted"}},
		"the app does not take its event": {settings: events, run: approve, want: logFields{Message: "the flow will be tried again"}},
		"another channel gets all": {run: func(p *person, at *program, link string) {
			connectInNovu(p.novu, "ada", "endpoints")
			p.connect(at, link)
		}, want: logFields{Message: "Novu sends this subscriber's messages to other channels of the integration, too"}},
		"replaced": {novu: upstreamtest.HTML(503), run: func(p *person, at *program, link string) {
			p.connect(at, link)
			p.connect(at, link)
			p.novu.BreakAll(nil)
		}, want: logFields{Message: "connection", Outcome: "connected"}},
		"disconnected": {run: func(p *person, at *program, _ string) {
			target := strings.Replace(p.link(claims{"sub": "ada", "action": "disconnect", "integrationIdentifier": "slack-main"}), publicOrigin+"/slack/install", at.origin+"/slack/disconnect", 1)
			req := must(http.NewRequest(http.MethodPost, target, nil))
			req.Host, req.Header = strings.TrimPrefix(publicOrigin, "http://"), http.Header{"Accept": {"application/json"}}
			must(http.DefaultClient.Do(req)).Body.Close()
		}, want: logFields{Message: "connection", Outcome: "disconnected"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.settings...)
			all := claims{"sub": "ada"}
			for name, value := range c.claims {
				all[name] = value
			}
			w.novu.BreakAll(c.novu)
			program := start(t, w.env...)
			c.run(w.person(t), program, w.link(all))
			wantFlowLine(t, program, c.want, c.names != subscriberOnly && c.names != neither, c.names != flowOnly && c.names != neither)
			program.stop()
			wantFlowsNamed(t, program)
		})
	}

	t.Run("Start again with a link of an old secret", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		program, p := start(t, w.env...), w.person(t)
		callback := must(url.Parse(p.approve(program, w.linkTo("ada"))))
		result := must(p.get(program, callback.Path+"?error=access_denied&state="+callback.Query().Get("state"))).location
		program.stop()
		rotated := start(t, append(w.env, "LINK_SECRET=another-secret-of-32-bytes-and-more")...)
		p.status(rotated, "/slack/install?again="+must(url.Parse(result)).Query().Get("flow"))
		wantFlowLine(t, rotated, logFields{Code: "link_invalid"}, true, true)
		wantFlowsNamed(t, rotated)
	})

	// The store goes away after the link is verified, and after the person is at Slack.
	t.Run("the store is down", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		w := newWorld(t, "REDIS_URL="+server.URL())
		program, p := start(t, w.env...), w.person(t)
		callback := p.approve(program, w.linkTo("ada"))
		server.Stop()
		p.status(program, w.linkTo("bob"))
		wantFlowLine(t, program, logFields{Code: "store_unavailable", Subscriber: "bob"}, true, true)
		p.status(program, callback)
		wantFlowLine(t, program, logFields{Code: "store_unavailable"}, true, false)
		wantFlowsNamed(t, program)
	})
}

// wantFlowLine waits for a line with these fields that names a flow and a subscriber, or not.
func wantFlowLine(t *testing.T, p *program, want logFields, hasFlow, hasSubscriber bool) {
	t.Helper()
	matches := func(got, want string) bool { return want == "" || got == want }
	waitFor(t, fmt.Sprintf("a line like %+v that names the flow (%v) and the subscriber (%v)", want, hasFlow, hasSubscriber), func() bool {
		for line := range strings.Lines(p.text()) {
			var got logFields
			if json.Unmarshal([]byte(line), &got) == nil && matches(got.Message, want.Message) && matches(got.Level, want.Level) && matches(got.Code, want.Code) &&
				matches(got.Outcome, want.Outcome) && matches(got.Subscriber, want.Subscriber) && strings.HasPrefix(got.Novu, want.Novu) && strings.HasPrefix(got.Remedy, want.Remedy) &&
				(got.Flow != "") == hasFlow && (got.Subscriber != "") == hasSubscriber {
				return true
			}
		}
		return false
	})
}

// wantFlowsNamed fails if a line of a flow lacks its subscriber, but for those of codes that
// say that the record was not read; the flow has another line then, which names it.
func wantFlowsNamed(t *testing.T, p *program) {
	t.Helper()
	lines := flowLines(t, p)
	for _, line := range lines {
		switch unread := slices.Contains([]string{"other_browser", "rate_limited", "store_unavailable"}, line.Code); {
		case line.Flow == "" || line.Subscriber != "":
		case !unread:
			t.Errorf("a line of a flow without its subscriber: %+v", line)
		case !slices.ContainsFunc(lines, func(other logFields) bool { return other.Flow == line.Flow && other.Subscriber != "" }):
			t.Errorf("no line tells the subscriber of the flow of %+v", line)
		}
	}
	if len(lines) == 0 && !strings.Contains(p.text(), "link_invalid") {
		t.Error("no line names a flow or a subscriber: the test tests nothing")
	}
}

// The first line to look at says what runs and where to.
func TestStartLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ settings, want []string }{
		{nil, []string{`"store":"DATA_FILE"`, `"save_as":"credentials"`}},
		{[]string{"REDIS_URL=redis://:canary@127.0.0.1:1", "NOVU_SAVE_AS=endpoint"}, []string{`"store":"REDIS_URL"`, `"save_as":"endpoint"`}},
	} {
		w := newWorld(t, c.settings...)
		program := start(t, w.env...)
		_, version, _ := runCommand(t, nil, "version")
		for _, want := range append(c.want, `"version":"`+strings.TrimSpace(strings.TrimPrefix(version, "novu-slack-redirect "))+`"`, `"novu_url":"`+w.setting("NOVU_API_URL")+`"`, `"redirect_url":"`) {
			if lines := logged(program, `"message":"listening"`); len(lines) != 1 || !strings.Contains(lines[0], want) {
				t.Errorf("got %q, want one line with %s", lines, want)
			}
		}
		if strings.Contains(program.text(), "canary") {
			t.Error("the log has the password of Redis")
		}
	}
}
