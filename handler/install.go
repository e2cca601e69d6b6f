package handler

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// install sends the browser to Slack with a new flow. A link can be used many times: a
// visit of a scanner or a cancelled consent leaves only a flow that expires.
func (h *handler) install(c echo.Context) error {
	flow, err := h.requestedFlow(c)
	if err != nil {
		return err
	}
	if err := h.preflight(c, &flow); err != nil {
		return err
	}
	if h.InstallPage && !h.isClick(c) {
		return h.render(c, "install", "", &flow)
	}
	st, browser := newFlow(&flow)
	logLineOf(c).flow = &flow
	if err := h.Store.Issue(withoutCancel(c), flow, h.StateTTL); err != nil {
		return &problem{code: codeStoreUnavailable, err: err, fix: state.Remedy(err), flow: &flow}
	}
	h.Metrics.FlowsBegun.Inc()
	h.dropOldCookies(c)
	h.setCookie(c, flow.ID, browser, h.StateTTL)
	status := http.StatusFound
	if c.Request().Method == http.MethodPost {
		status = http.StatusSeeOther
	}
	return c.Redirect(status, h.Slack.AuthCodeURL(st, flow.Request.TeamID))
}

// preflight sets the flow's integration, and returns a problem if Novu has no such
// active integration, so that nobody goes to Slack in vain. If Novu does not answer, the
// flow goes on, and the outbox asks again.
func (h *handler) preflight(c echo.Context, flow *state.Flow) error {
	named := flow.Request.Integration
	resolved, err := h.Novu.ResolveIntegration(c.Request().Context(), named, flow.Request.Action == link.Disconnect)
	reason := novuclient.AsError(err).Reason
	if reason == novuclient.NoIntegration || reason == novuclient.ManyIntegrations || reason == novuclient.NoEndpoints {
		// Anyone who holds a Novu-style link can write any integration into it; a signed
		// link's integration is what the app asked for.
		quiet := !flow.Link.Signed() && named != h.Links.Integration
		return &problem{code: outbox.CodeNoIntegration, err: err, fix: reason.Remedy(), flow: flow, quiet: quiet}
	}
	if err != nil {
		logLineOf(c).novu = err
		return nil
	}
	flow.Request.Integration = resolved
	return nil
}

// isClick reports whether a person pressed a button on one of our pages: the install
// page's button, or Start again. A form on another site does not count.
func (h *handler) isClick(c echo.Context) bool {
	return state.ValidFlowID(logLineOf(c).query.Get(againParam)) || c.Request().Method == http.MethodPost && h.forms.Check(c.Request()) == nil
}

// againParam is the query parameter with the ID of the flow to start again.
const againParam = "again"

// requestedFlow returns a new flow with the verified link of the request, or, for Start
// again, with that of the earlier flow, verified anew.
func (h *handler) requestedFlow(c echo.Context) (flow state.Flow, err error) {
	if id := logLineOf(c).query.Get(againParam); state.ValidFlowID(id) {
		// Only the browser with the earlier flow's cookie can start it again, so that pages
		// need not contain the link.
		earlier, err := h.lookUp(c, id)
		if err != nil {
			return flow, err
		}
		flow.Link = earlier.Link
	} else if flow.Link, err = readLink(c); err != nil {
		return flow, &problem{code: codeLinkInvalid, err: err}
	}
	return flow, h.verifyLink(c, &flow, link.Connect)
}

// verifyLink sets what the flow's link asks for, and its subscriber in the log line, or
// returns why the link is refused.
func (h *handler) verifyLink(c echo.Context, flow *state.Flow, action string) (err error) {
	flow.Request, err = h.Links.Verify(flow.Link)
	if line := logLineOf(c); line.flow == nil {
		line.flow = &state.Flow{Request: link.Request{Subscriber: flow.Request.Subscriber}}
	}
	switch {
	case err == nil && flow.Request.Action == action:
		return nil
	case err == nil:
		return &problem{code: codeLinkInvalid, err: errors.New("the claim action is not the one that this path is for"), flow: flow}
	case errors.Is(err, link.ErrExpired):
		return &problem{code: codeLinkExpired, err: err, flow: flow}
	case errors.Is(err, link.ErrReturnURL):
		return &problem{code: codeReturnURL, err: err}
	}
	return &problem{code: codeLinkInvalid, err: err}
}

// newFlow gives a flow an ID and a key, and returns its two secret halves.
func newFlow(flow *state.Flow) (st, browser secret.String) {
	st, browser = state.NewState(time.Now()), state.NewBrowserHalf()
	flow.ID, _ = state.FlowID(st)
	flow.Key, _ = state.NewKey(flow.ID, browser)
	return st, browser
}

func readLink(c echo.Context) (link.Link, error) {
	subscriber := c.Param("subscriberId")
	if c.Request().URL.RawPath != "" { // echo matched the path as it was sent
		var err error
		if subscriber, err = url.PathUnescape(subscriber); err != nil {
			return link.Link{}, err
		}
	}
	return link.Read(c.Request().URL.RawQuery, subscriber)
}

// lookUp returns the flow with an ID, if this browser has its cookie, and sets the flow of
// the request's log line.
func (h *handler) lookUp(c echo.Context, id string) (flow state.Flow, err error) {
	key, _, err := h.findKey(c, id)
	if err != nil {
		return flow, err
	}
	if flow, err = h.Store.Look(withoutCancel(c), key); err == nil {
		logLineOf(c).flow = &flow
	}
	return flow, h.storeProblem(err)
}

// storeProblem returns the problem that an error of the store is, or nil.
func (h *handler) storeProblem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, state.ErrNotFound), errors.Is(err, state.ErrSealed):
		return &problem{code: codeStateNotFound, err: err}
	}
	return &problem{code: codeStoreUnavailable, err: err, fix: state.Remedy(err)}
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
func (h *handler) setCookie(c echo.Context, id string, value secret.String, life time.Duration) {
	// Lax, because Slack's redirect is a top-level navigation, which sends such cookies.
	c.SetCookie(&http.Cookie{
		Name: h.cookiePrefix() + id, Value: value.Reveal(), Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: h.secure(), SameSite: http.SameSiteLaxMode,
	})
}

// dropOldCookies deletes the oldest flow cookies, so that there is room for one more.
// Browsers send the oldest first (RFC 6265 section 5.4).
func (h *handler) dropOldCookies(c echo.Context) {
	var ids []string
	for _, cookie := range c.Cookies() {
		if id, ok := strings.CutPrefix(cookie.Name, h.cookiePrefix()); ok && state.ValidFlowID(id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[:max(0, len(ids)-maxCookies+1)] {
		h.setCookie(c, id, secret.String{}, -time.Second)
	}
}

// findKey returns the key of the flow with an ID, and the browser half in its cookie. It
// does not ask the store. If two cookies of that name differ, someone planted one.
func (h *handler) findKey(c echo.Context, id string) (key state.Key, browser secret.String, err error) {
	if c.Request().Header.Get("Cookie") == "" {
		return "", browser, &problem{code: codeOtherBrowser, page: "no_cookies"}
	}
	for _, cookie := range c.Request().CookiesNamed(h.cookiePrefix() + id) {
		if !browser.Empty() && !browser.Equal(cookie.Value) {
			return "", browser, &problem{code: codeOtherBrowser}
		}
		browser = secret.New(cookie.Value)
	}
	key, ok := state.NewKey(id, browser)
	if !ok {
		return "", browser, &problem{code: codeOtherBrowser}
	}
	return key, browser, nil
}
