package handler

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// install sends the browser to Slack with a new flow. A link can be used many times: a
// visit of a scanner or a cancelled consent leaves only a flow that expires.
func (h *handler) install(r *request) error {
	if err := h.openLink(r, link.Connect); err != nil {
		return err
	}
	if err := h.preflight(r); err != nil {
		return err
	}
	// Start again is a button of our own, too.
	if h.InstallPage && !h.isOwnForm(r) && !state.ValidFlowID(r.query.Get(againParam)) {
		return h.render(r, pageInstall)
	}
	st, browser := newFlow(&r.flow)
	if err := h.Store.Issue(r.withoutCancel(), r.flow, h.StateTTL); err != nil {
		return storeProblem(err)
	}
	h.Metrics.FlowsBegun.Inc()
	h.dropOldCookies(r)
	h.setCookie(r, r.flow.ID, browser, h.StateTTL)
	status := http.StatusFound
	if r.Request().Method == http.MethodPost {
		status = http.StatusSeeOther
	}
	return r.Redirect(status, h.Slack.AuthCodeURL(st, r.flow.Request.TeamID))
}

// againParam is the query parameter with the ID of the flow to start again.
const againParam = "again"

// isOwnForm reports whether a request is the form of one of our pages, or a program's.
func (h *handler) isOwnForm(r *request) bool {
	return r.Request().Method == http.MethodPost && h.forms.Check(r.Request()) == nil
}

// openLink makes r.flow a new flow for what a link asks for, or returns why the link is
// refused. For Start again, the link is that of the earlier flow, and is verified anew.
func (h *handler) openLink(r *request, action string) error {
	opened, err := h.readLink(r)
	if err != nil {
		return err
	}
	wanted, err := h.Links.Verify(opened)
	if err != nil && !errors.Is(err, link.ErrExpired) { // then only the log may know for whom it is
		wanted = link.Request{Subscriber: cmp.Or(wanted.Subscriber, r.flow.Request.Subscriber), Popup: r.flow.Request.Popup}
	}
	r.flow = state.Flow{Link: opened, Request: wanted}
	switch {
	case errors.Is(err, link.ErrExpired):
		return &problem{Code: codeLinkExpired, Err: err}
	case errors.Is(err, link.ErrReturnURL):
		return &problem{Code: codeReturnURL, Err: err}
	case err != nil:
		return &problem{Code: codeLinkInvalid, Err: err}
	case wanted.Action != action:
		return &problem{Code: codeLinkInvalid, Err: errors.New("the claim action is not the one that this path is for")}
	}
	return nil
}

// readLink returns the link of the request, or that of the flow to start again. Only the
// browser with that flow's cookie can do so, so that pages need not contain the link.
func (h *handler) readLink(r *request) (l link.Link, err error) {
	if id := r.query.Get(againParam); state.ValidFlowID(id) {
		err = h.lookUp(r, id)
		return r.flow.Link, err
	}
	subscriber := r.Param("subscriberId")
	if r.Request().URL.RawPath != "" { // echo matched the path as it was sent
		subscriber, err = url.PathUnescape(subscriber)
	}
	if err == nil {
		l, err = link.Read(r.Request().URL.RawQuery, subscriber)
	}
	if err != nil {
		return l, &problem{Code: codeLinkInvalid, Err: err}
	}
	return l, nil
}

// preflight sets the flow's integration, and returns a problem if Novu has no such
// active integration, so that nobody goes to Slack in vain. If Novu does not answer, the
// flow goes on, and the outbox asks again.
func (h *handler) preflight(r *request) error {
	wanted := &r.flow.Request
	resolved, err := h.Novu.ResolveIntegration(r.Request().Context(), wanted.Integration, wanted.Action == link.Disconnect)
	switch reason := novuclient.AsError(err).Reason; {
	case err == nil:
		wanted.Integration = resolved
	case reason == novuclient.NoIntegration, reason == novuclient.ManyIntegrations, reason == novuclient.NoEndpoints:
		// Anyone who holds a Novu-style link can write any integration into it; a signed
		// link's integration is what the app asked for.
		quiet := !r.flow.Link.Signed() && wanted.Integration != h.Links.Integration
		return &problem{Code: outbox.CodeNoIntegration, Err: err, Remedy: reason.Remedy(), Quiet: quiet}
	default:
		r.novu = err
	}
	return nil
}

// newFlow gives a flow an ID and a key, and returns its two secret halves.
func newFlow(flow *state.Flow) (st, browser secret.String) {
	st, browser = state.NewState(time.Now()), state.NewBrowserHalf()
	flow.ID, _ = state.FlowID(st)
	flow.Key, _ = state.NewKey(flow.ID, browser)
	return st, browser
}

// lookUp sets r.flow to the flow with an ID, if this browser has its cookie.
func (h *handler) lookUp(r *request, id string) error {
	key, _, err := h.findKey(r, id)
	if err != nil {
		return err
	}
	flow, err := h.Store.Look(r.withoutCancel(), key)
	if err != nil {
		return storeProblem(err)
	}
	r.flow = flow
	return nil
}

// maxCookies is how many flows one browser can have at a time.
const maxCookies = 5

// cookiePrefix begins the name of a flow's cookie; the flow's ID ends it.
// __Host- keeps other hosts and paths of the domain from planting one
// (RFC 6265bis section 4.1.3.2); plain http, on loopback only, cannot have it.
func (h *handler) cookiePrefix() string {
	if h.secure() {
		return "__Host-slack_flow_"
	}
	return "slack_flow_"
}

// setCookie sets a flow's cookie for a while, or deletes it if life is negative.
func (h *handler) setCookie(r *request, id string, value secret.String, life time.Duration) {
	// Lax, because Slack's redirect is a top-level navigation, which sends such cookies.
	r.SetCookie(&http.Cookie{
		Name: h.cookiePrefix() + id, Value: value.Reveal(), Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: h.secure(), SameSite: http.SameSiteLaxMode,
	})
}

// dropOldCookies deletes the oldest flow cookies, so that there is room for one more.
// Browsers send the oldest first (RFC 6265 section 5.4).
func (h *handler) dropOldCookies(r *request) {
	var ids []string
	for _, cookie := range r.Cookies() {
		if id, ok := strings.CutPrefix(cookie.Name, h.cookiePrefix()); ok && state.ValidFlowID(id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[:max(0, len(ids)-maxCookies+1)] {
		h.setCookie(r, id, secret.String{}, -time.Second)
	}
}

// findKey returns the key of the flow with an ID, and the browser half in its cookie. It
// does not ask the store. If two cookies of that name differ, someone planted one.
func (h *handler) findKey(r *request, id string) (key state.Key, browser secret.String, err error) {
	for _, cookie := range r.Request().CookiesNamed(h.cookiePrefix() + id) {
		if !browser.Empty() && !browser.Equal(cookie.Value) {
			return "", browser, &problem{Code: codeOtherBrowser}
		}
		browser = secret.New(cookie.Value)
	}
	key, ok := state.NewKey(id, browser)
	if !ok {
		return "", browser, &problem{Code: codeOtherBrowser}
	}
	return key, browser, nil
}
