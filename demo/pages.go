package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream/upstreamtest"
)

// examplePage is one page of the service and what leads to it: faults, which last until
// the demo's page is opened again, and a link.
type examplePage struct {
	Page string // its code or name
	How  string

	slack, novu, service upstreamtest.Fault
	change               func(*handler.Config)      // of the service's configuration
	open                 func(*demoApp) (to string) // where to go, if not to the usual link
}

var examplePages = []examplePage{
	{Page: "front", How: "the address alone", open: func(a *demoApp) string { return a.service.Routes.Links.Origin + "/" }},
	{Page: "connected", How: "all goes well; then Allow"},
	{Page: "install", How: "the page of INSTALL_PAGE", change: func(c *handler.Config) { c.InstallPage = true }},
	{Page: "pending", How: "Novu is down; then Allow", novu: upstreamtest.HTML(http.StatusServiceUnavailable)},
	{Page: "working", How: "the callback is opened twice; then Allow", slack: upstreamtest.Slow(6 * time.Second), service: sendTwice},

	{Page: "link_invalid", How: "the link was changed", open: func(a *demoApp) string { return a.link(link.Request{}, time.Hour) + "x" }},
	{Page: "link_expired", How: "the link is too old", open: func(a *demoApp) string { return a.link(link.Request{}, -time.Hour) }},
	{Page: "return_url_not_allowed", How: "the return URL has no TLS", open: openLink(link.Request{ReturnURL: "http://app.example.com/"})},
	{Page: "request_invalid", How: "neither code nor error", open: openCallback("?state=", 0)},
	{Page: "state_missing", How: "an install begun inside Slack", open: func(a *demoApp) string {
		return a.service.Routes.RedirectURL.String() + "?code=1.2.3"
	}},
	{Page: "state_not_found", How: "an hour at Slack", open: openCallback("?code=1.2.3&state=", time.Hour)},
	{Page: "other_browser", How: "begun in another browser", open: openCallback("?code=1.2.3&state=", 0)},
	{Page: "no_cookies", How: "begun in a browser that blocks cookies", service: dropCookies, open: openCallback("?code=1.2.3&state=", 0)},
	{Page: "unfinished", How: "back before a channel is picked", service: skipSlack},
	{Page: "interrupted", How: "the store fails in the middle; then Allow, and wait 5 s", change: useBackend(
		func(b state.Backend) state.Backend { return interruptedBackend{b} })},
	{Page: "replaced", How: "another channel was connected meanwhile; then Allow", change: useBackend(
		func(b state.Backend) state.Backend { return overtakenBackend{b} })},

	{Page: "access_denied", How: "then Cancel"},
	withSlackError("code_expired", "invalid_code"),
	withSlackError("slack_account", "user_email_unverified"),
	withSlackError("slack_admin", "accesslimited"),
	withSlackError("not_distributed", "invalid_team_for_non_distributed_app"),
	withSlackError("slack_later", "team_added_to_org"),
	withSlackError("slack_setup", "bad_client_secret"),
	withSlackError("slack_unknown", "something_new"),
	{Page: "slack_busy", How: "Slack asks to wait longer than a code lives; then Allow", slack: upstreamtest.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "3600")},
	{Page: "slack_unavailable", How: "Slack answers 503; then Allow", slack: upstreamtest.HTML(http.StatusServiceUnavailable)},
	{Page: "no_webhook", How: "the scope is missing; then Allow", slack: upstreamtest.JSON(http.StatusOK, `{"ok":true}`)},
	{Page: "bad_webhook", How: "the webhook is not Slack’s; then Allow", slack: upstreamtest.JSON(http.StatusOK, `{"ok":true,"incoming_webhook":{"url":"https://hooks.slack.com.example/x"}}`)},
	{Page: "workspace_mismatch", How: "the link is for another workspace; then Allow", open: openLink(link.Request{TeamID: "T03OTHER"})},

	{Page: "novu_no_integration", How: "no integration is active", change: func(c *handler.Config) { c.Novu = noIntegration{} }},
	{Page: "store_unavailable", How: "the store is down", change: useBackend(
		func(b state.Backend) state.Backend { return brokenBackend{b} })},
	{Page: "rate_limited", How: "very many clicks", change: func(c *handler.Config) { c.RateLimit = 0.001 }, open: func(a *demoApp) string {
		link := a.link(link.Request{}, time.Hour)
		http.Head(link) // takes the one request that may pass
		return link
	}},
	{Page: "not_found", How: "an address that leads nowhere", open: func(a *demoApp) string { return a.service.Routes.Links.Origin + "/nothing" }},
	{Page: "method_not_allowed", How: "a form sent to a page", open: func(a *demoApp) string { return a.service.Routes.Links.Origin + "/slack/result" }},
	{Page: "internal_error", How: "a bug", change: func(c *handler.Config) { c.Store = nil }},
}

// beginFaults begins the faults of an example page, and ends those of the one before.
func (a *demoApp) beginFaults(p examplePage) {
	a.slack.BreakAll(p.slack)
	a.novu.BreakAll(p.novu)
	a.proxy.BreakAll(p.service)
	if p.change != nil {
		config := a.service.Routes
		p.change(&config)
		routes := handler.New(config)
		a.proxy.BreakAll(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { routes.ServeHTTP(w, r) })
	}
}

// link signs a link, for the first of the people where r names nobody.
func (a *demoApp) link(r link.Request, life time.Duration) string {
	r.Subscriber = cmp.Or(r.Subscriber, demoPeople[0])
	signed, err := a.service.Routes.Links.Sign(r, time.Now().Add(life))
	if err != nil {
		panic(err) // the IDs are constants
	}
	return signed
}

func withSlackError(page, code string) examplePage {
	return examplePage{Page: page, How: "Slack says " + code + "; then Allow", slack: upstreamtest.JSON(http.StatusOK, fmt.Sprintf(`{"ok":false,"error":%q}`, code))}
}

func openLink(r link.Request) func(*demoApp) string {
	return func(a *demoApp) string { return a.link(r, time.Hour) }
}

// openCallback opens the callback with a query that ends with a state of that age.
func openCallback(query string, age time.Duration) func(*demoApp) string {
	return func(a *demoApp) string {
		return a.service.Routes.RedirectURL.String() + query + state.NewState(time.Now().Add(-age)).Reveal()
	}
}

func dropCookies(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("Cookie")
	next.ServeHTTP(w, r)
}

// sendTwice sends a callback a second time during the first, and shows the answer to
// the second.
func sendTwice(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.URL.Query().Has("code") {
		go next.ServeHTTP(httptest.NewRecorder(), r.Clone(context.WithoutCancel(r.Context())))
		time.Sleep(100 * time.Millisecond)
	}
	next.ServeHTTP(w, r)
}

// skipSlack redirects to the flow's result page instead of to Slack.
var skipSlack = upstreamtest.Edit(func(answer *httptest.ResponseRecorder) {
	to, err := url.Parse(answer.Header().Get("Location"))
	if err != nil {
		return
	}
	if id, ok := state.FlowID(secret.New(to.Query().Get("state"))); ok {
		answer.Header().Set("Location", "/slack/result?flow="+id)
	}
})

// useBackend wraps the backend of the routes and of their outbox.
func useBackend(wrap func(state.Backend) state.Backend) func(*handler.Config) {
	return func(c *handler.Config) {
		store := *c.Store
		store.Backend = wrap(store.Backend)
		c.Store = &store
		advancing := c.Outbox.Config
		advancing.Store, advancing.Log = c.Store, zerolog.Nop()
		c.Outbox = outbox.New(advancing)
	}
}

// interruptedBackend records nothing.
type interruptedBackend struct{ state.Backend }

func (b interruptedBackend) Move(context.Context, state.Key, state.Move) (state.Step, error) {
	return state.Lost, errors.New("the demo's store does not record")
}

// overtakenBackend ends every flow as if a newer one had been recorded before it.
type overtakenBackend struct{ state.Backend }

func (b overtakenBackend) Move(ctx context.Context, key state.Key, m state.Move) (state.Step, error) {
	_, err := b.Backend.Move(ctx, key, state.Move{Owner: m.Owner, To: state.Finished, Keep: 15 * time.Minute})
	return state.Overtaken, err
}

func (b overtakenBackend) Look(ctx context.Context, key state.Key) (state.Row, error) {
	row, err := b.Backend.Look(ctx, key)
	if row.Phase == state.Finished {
		row.Phase = 'x' // finished, because it was replaced
	}
	return row, err
}

type noIntegration struct{ handler.Novu }

func (noIntegration) ResolveIntegration(context.Context, string) (string, error) {
	return "", &novuclient.Error{Op: "look up integrations", Reason: novuclient.NoIntegration}
}

type brokenBackend struct{ state.Backend }

func (brokenBackend) Issue(context.Context, state.Key, []byte, time.Duration) error {
	return errors.New("the demo's store is down")
}
