package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

// demoPageSwitch shows one page of the service: it breaks what leads there, until the
// demo's page is opened again, and returns where to go.
type demoPageSwitch struct {
	Page string // its code or name
	How  string
	show func(*demoApp) (link string)
}

var demoPages = []demoPageSwitch{
	{"front", "the address alone", func(a *demoApp) string { return a.service.config.Links.Origin + "/" }},
	{"connected", "all goes well; then Allow", func(a *demoApp) string { return a.link(state.Flow{}, time.Hour) }},
	{"install", "the page of INSTALL_PAGE", whileService(func(c *handler.Config) { c.InstallPage = true })},
	{"pending", "Novu is down; then Allow", whileNovu(wire.HTML(http.StatusServiceUnavailable))},
	{"working", "the callback is opened twice; then Allow", func(a *demoApp) string {
		a.slack.BreakAll(wire.Slow(6 * time.Second))
		a.line.BreakAll(twice)
		return a.link(state.Flow{}, time.Hour)
	}},

	{"link_invalid", "the link was changed", func(a *demoApp) string { return a.link(state.Flow{}, time.Hour) + "x" }},
	{"link_expired", "the link is too old", func(a *demoApp) string { return a.link(state.Flow{}, -time.Hour) }},
	{"return_url_not_allowed", "the return URL has no TLS", func(a *demoApp) string {
		return a.link(state.Flow{ReturnURL: "http://app.example.com/"}, time.Hour)
	}},
	{"request_invalid", "neither code nor error", atCallback(func() url.Values { return url.Values{"state": {state.NewState(time.Now())}} })},
	{"state_missing", "an install begun inside Slack", atCallback(func() url.Values { return url.Values{"code": {"1.2.3"}} })},
	{"state_not_found", "an hour at Slack", atCallback(func() url.Values {
		return url.Values{"code": {"1.2.3"}, "state": {state.NewState(time.Now().Add(-time.Hour))}}
	})},
	{"other_browser", "begun in another browser", atCallback(func() url.Values {
		return url.Values{"code": {"1.2.3"}, "state": {state.NewState(time.Now())}}
	})},
	{"no_cookies", "begun in a browser that blocks cookies", func(a *demoApp) string {
		a.line.BreakAll(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Del("Cookie")
			next.ServeHTTP(w, r)
		})
		return a.service.config.RedirectURL.String() + "?code=1.2.3&state=" + state.NewState(time.Now())
	}},
	{"unfinished", "back before a channel is picked", func(a *demoApp) string {
		a.line.BreakAll(turnBack)
		return a.link(state.Flow{}, time.Hour)
	}},
	{"interrupted", "the service dies; then Allow", whileService(func(c *handler.Config) { c.States = interruptedStore{c.States} })},

	{"access_denied", "then Cancel", func(a *demoApp) string { return a.link(state.Flow{}, time.Hour) }},
	slackSays("code_expired", "invalid_code"),
	slackSays("slack_account", "user_email_unverified"),
	slackSays("slack_admin", "accesslimited"),
	slackSays("not_distributed", "invalid_team_for_non_distributed_app"),
	slackSays("slack_later", "team_added_to_org"),
	slackSays("slack_setup", "bad_client_secret"),
	slackSays("slack_unknown", "something_new"),
	{"slack_busy", "Slack answers 429; then Allow", whileSlack(wire.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "60"))},
	{"slack_unavailable", "Slack answers 503; then Allow", whileSlack(wire.HTML(http.StatusServiceUnavailable))},
	{"no_webhook", "the scope is missing; then Allow", whileSlack(wire.JSON(http.StatusOK, `{"ok":true}`))},
	{"bad_webhook", "the webhook is not Slack’s; then Allow", whileSlack(wire.JSON(http.StatusOK, `{"ok":true,"incoming_webhook":{"url":"https://hooks.slack.com.example/x"}}`))},
	{"workspace_mismatch", "the link is for another workspace; then Allow", func(a *demoApp) string {
		return a.link(state.Flow{TeamID: "T03OTHER"}, time.Hour)
	}},

	{"novu_no_integration", "no integration is active", whileService(func(c *handler.Config) { c.Novu = noIntegration{} })},
	{"novu_refused", "a wrong key, and no store; then Allow", whileService(func(c *handler.Config) { c.Outbox = brokenOutbox{novuclient.BadKey} })},
	{"novu_unavailable", "neither Novu nor the store; then Allow", whileService(func(c *handler.Config) { c.Outbox = brokenOutbox{novuclient.Unavailable} })},
	{"store_unavailable", "the store is down", whileService(func(c *handler.Config) { c.States = brokenStore{c.States} })},
	{"rate_limited", "very many clicks", func(a *demoApp) string {
		link := whileService(func(c *handler.Config) { c.RateLimit = 0.001 })(a)
		http.Head(link) // takes the one request that may pass
		return link
	}},
	{"not_found", "an address that leads nowhere", func(a *demoApp) string { return a.service.config.Links.Origin + "/nothing" }},
	{"method_not_allowed", "a form sent to a page", func(a *demoApp) string { return a.service.config.Links.Origin + "/slack/result" }},
	{"internal_error", "a bug", whileService(func(c *handler.Config) { c.States = nil })},
}

// link signs a link, for the first of the people where flow names nobody.
func (a *demoApp) link(flow state.Flow, life time.Duration) string {
	flow.Subscriber = cmp.Or(flow.Subscriber, demoPeople[0])
	link, err := a.service.config.Links.Sign(flow, time.Now().Add(life))
	if err != nil {
		panic(err) // the IDs are constants
	}
	return link
}

// whileService lets a service with another configuration answer.
func whileService(change func(*handler.Config)) func(*demoApp) string {
	return func(a *demoApp) string {
		config := a.service.config
		change(&config)
		routes := handler.New(config)
		a.line.BreakAll(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { routes.ServeHTTP(w, r) })
		return a.link(state.Flow{}, time.Hour)
	}
}

func whileSlack(fault wire.Fault) func(*demoApp) string {
	return func(a *demoApp) string {
		a.slack.BreakAll(fault)
		return a.link(state.Flow{}, time.Hour)
	}
}

func slackSays(page, code string) demoPageSwitch {
	return demoPageSwitch{page, "Slack says " + code + "; then Allow", whileSlack(wire.JSON(http.StatusOK, fmt.Sprintf(`{"ok":false,"error":%q}`, code)))}
}

func whileNovu(fault wire.Fault) func(*demoApp) string {
	return func(a *demoApp) string {
		a.novu.BreakAll(fault)
		return a.link(state.Flow{}, time.Hour)
	}
}

func atCallback(query func() url.Values) func(*demoApp) string {
	return func(a *demoApp) string { return a.service.config.RedirectURL.String() + "?" + query().Encode() }
}

// twice opens a callback a second time while the first is worked on, and shows
// what the second one gets.
func twice(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.URL.Query().Has("code") {
		go next.ServeHTTP(httptest.NewRecorder(), r.Clone(context.WithoutCancel(r.Context())))
		time.Sleep(100 * time.Millisecond)
	}
	next.ServeHTTP(w, r)
}

// turnBack leads from the way to Slack to the flow's own page.
var turnBack = wire.Edit(func(answer *httptest.ResponseRecorder) {
	to, err := url.Parse(answer.Header().Get("Location"))
	if err != nil {
		return
	}
	if id, ok := state.FlowID(to.Query().Get("state")); ok {
		answer.Header().Set("Location", "/slack/result?flow="+id)
	}
})

// interruptedStore shows every flow as one whose worker is long dead.
type interruptedStore struct{ state.Store }

func (s interruptedStore) Consume(ctx context.Context, key state.Key) (state.Record, error) {
	return s.Look(ctx, key)
}

func (s interruptedStore) Look(ctx context.Context, key state.Key) (state.Record, error) {
	record, err := s.Store.Look(ctx, key)
	record.Phase, record.Age = state.Working, time.Hour
	return record, err
}

type noIntegration struct{ handler.Novu }

func (noIntegration) Ready(context.Context, string) (string, error) {
	return "", &novuclient.Error{Op: "look up integrations", Reason: novuclient.NoIntegration}
}

type brokenStore struct{ state.Store }

func (brokenStore) Issue(context.Context, state.Key, state.Flow, time.Duration) error {
	return errors.New("the demo's store is down")
}

// brokenOutbox can neither record nor save.
type brokenOutbox struct{ reason novuclient.Reason }

func (o brokenOutbox) Deliver(context.Context, novuclient.Connection, state.Ending) (state.Result, bool, error) {
	return state.Result{}, false, &novuclient.Error{Op: "save", Reason: o.reason}
}
