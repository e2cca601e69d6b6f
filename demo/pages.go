package demo

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream/upstreamtest"
)

// examplePage is one page of the service and what leads to it: faults, which last until
// the demo's page is opened again, and a link.
type examplePage struct {
	Page string // its code or name
	How  string

	slack, novu upstreamtest.Fault
	open        func(*demo) (to string) // where to go, if not to the usual link
}

// examplePages has each kind of page at least once. docs/errors.md has the text of every
// code.
var examplePages = []examplePage{
	{Page: "front", How: "the address alone", open: func(d *demo) string { return d.app.issuer + "/front/" }},
	{Page: "install", How: "the page of INSTALL_PAGE", open: (*demo).openInstallPage},
	{Page: "connected", How: "all goes well; then Allow"},
	{Page: "pending", How: "Novu is down; then Allow", novu: upstreamtest.HTML(http.StatusServiceUnavailable)},
	{Page: "working", How: "Slack asks to wait; then Allow", slack: upstreamtest.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "4")},

	{Page: "access_denied", How: "then Cancel"},
	withSlackError("slack_admin", "accesslimited"),
	withSlackError("slack_setup", "bad_client_secret"),
	{Page: "slack_unavailable", How: "Slack answers 503; then Allow", slack: upstreamtest.HTML(http.StatusServiceUnavailable)},
	{Page: "workspace_mismatch", How: "the link is for another workspace; then Allow", open: func(d *demo) string { return d.link(customers[0], link.Request{TeamID: "T03OTHER"}, time.Hour) }},

	{Page: "link_expired", How: "the link is too old", open: func(d *demo) string { return d.link(customers[0], link.Request{}, -time.Hour) }},
	{Page: "other_browser", How: "begun in another browser", open: func(d *demo) string {
		return d.service.Routes.RedirectURL.String() + "?code=1.2.3&state=" + state.NewState(time.Now()).Reveal()
	}},
	{Page: "not_found", How: "an address that leads nowhere", open: func(d *demo) string { return d.app.issuer + "/slack/nothing" }},
}

func withSlackError(page, code string) examplePage {
	return examplePage{Page: page, How: "Slack says " + code + "; then Allow", slack: upstreamtest.JSON(http.StatusOK, fmt.Sprintf(`{"ok":false,"error":%q}`, code))}
}

// show begins the faults of an example page in place of those before it, and redirects
// to what leads to the page.
func (d *demo) show(w http.ResponseWriter, r *http.Request) {
	n := slices.IndexFunc(examplePages, func(p examplePage) bool { return p.Page == r.FormValue("page") })
	if n < 0 {
		http.NotFound(w, r)
		return
	}
	d.beginFaults(examplePages[n])
	to := d.link(customers[0], link.Request{}, time.Hour)
	if open := examplePages[n].open; open != nil {
		to = open(d)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// beginFaults begins the faults of an example page, and ends those of the one before.
func (d *demo) beginFaults(p examplePage) {
	d.slack.BreakAll(p.slack)
	d.novu.BreakAll(p.novu)
	d.proxy.BreakAll(nil)
}

// openInstallPage makes the service show its install page until the next beginFaults.
func (d *demo) openInstallPage() string {
	config := d.service.Routes
	config.InstallPage = true
	routes := handler.New(config)
	d.proxy.BreakAll(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { routes.ServeHTTP(w, r) })
	return d.link(customers[0], link.Request{}, time.Hour)
}

// link signs a link for a customer.
func (d *demo) link(c customer, r link.Request, life time.Duration) string {
	r.Subscriber, r.AccountName = c.ID, c.Account
	signed, err := d.service.Routes.Links.Sign(r, time.Now().Add(life))
	if err != nil {
		panic(err) // the IDs are constants
	}
	return signed
}
