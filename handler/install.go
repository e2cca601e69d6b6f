package handler

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/state"
)

// install sends the browser to Slack with a fresh flow. Links can be used again:
// a scanner's visit or a cancelled consent costs a state that expires, and
// nothing else.
func (h *handler) install(c echo.Context) error {
	flow, err := h.asked(c)
	if err != nil {
		return err
	}
	if err := h.preflight(c.Request().Context(), &flow); err != nil {
		return err
	}
	if h.InstallPage && !clicked(c) {
		h.allowForm(c, flow)
		return h.render(c, http.StatusOK, view{name: "install", kind: "install"})
	}
	st, browser := state.NewState(time.Now()), state.NewHalf()
	id, _ := state.FlowID(st)
	key, _ := state.NewKey(id, browser)
	if err := h.noted(h.States.Issue(lasting(c), key, flow, h.StateTTL)); err != nil {
		return &problem{code: codeStoreUnavailable, err: err, flow: &flow}
	}
	h.Metrics.FlowsBegun.Inc()
	c.Set(flowIDKey, id)
	h.dropOldCookies(c)
	h.setCookie(c, id, browser, h.StateTTL)
	h.Slack.Connect() // installs are rare: the connections of the last one are closed by now
	h.Novu.Connect()
	status := http.StatusFound
	if c.Request().Method == http.MethodPost {
		status = http.StatusSeeOther
	}
	return c.Redirect(status, h.Slack.AuthCodeURL(st, flow.TeamID))
}

// preflight spares people the way to Slack when Novu says that it would be in
// vain, and names the flow's integration. When Novu does not say, they go: the outbox
// will deliver.
func (h *handler) preflight(ctx context.Context, flow *state.Flow) error {
	identifier, err := h.Novu.Ready(ctx, flow.Integration)
	var failure *novuclient.Error
	if errors.As(err, &failure) && (failure.Reason == novuclient.NoIntegration || failure.Reason == novuclient.ManyIntegrations) {
		// A Novu-style link's integration is whatever its holder writes; a signed one's
		// is the app's, and alarms like the setting.
		signed := flow.LinkExpires != 0
		return &problem{code: codeNoIntegration, err: err, fix: failure.Reason.Remedy(), flow: flow, quiet: !signed && flow.Integration != h.Links.Integration}
	}
	if err != nil {
		h.Log.Warn().Err(err).Msg("Novu does not say whether it has a Slack integration; the flow goes on")
		return nil
	}
	flow.Integration = identifier
	return nil
}

// clicked reports whether a person pressed a button of our own pages: the install
// page's, or Start again. A form on another site does not count.
func clicked(c echo.Context) bool {
	site := c.Request().Header.Get("Sec-Fetch-Site") // absent in old browsers
	return state.ValidFlowID(c.QueryParam(againParam)) || c.Request().Method == http.MethodPost && site != "cross-site" && site != "same-site"
}

// asked returns the flow that the request asks for: by a link, or by Start again.
func (h *handler) asked(c echo.Context) (state.Flow, error) {
	if id := c.QueryParam(againParam); state.ValidFlowID(id) {
		return h.askedAgain(c, id)
	}
	subscriber := c.Param("subscriberId")
	if c.Request().URL.RawPath != "" { // echo matched the path as it was sent
		var err error
		if subscriber, err = url.PathUnescape(subscriber); err != nil {
			return state.Flow{}, &problem{code: codeLinkInvalid, err: err}
		}
	}
	return h.Links.verify(c.Request(), subscriber)
}

const againParam = "again"

// askedAgain repeats what an earlier flow of this browser asked for, as long as
// its link is good. Only the browser that holds the flow's cookie can: a page
// need not show the link, nor the store keep it.
func (h *handler) askedAgain(c echo.Context, id string) (state.Flow, error) {
	key, _, err := h.findFlow(c, id)
	if err != nil {
		return state.Flow{}, err
	}
	record, err := h.found(h.States.Look(lasting(c), key))
	if err == nil && h.linkExpired(record.Flow) {
		err = &problem{code: codeLinkExpired, flow: &record.Flow}
	}
	return record.Flow, err
}

func (h *handler) linkExpired(flow state.Flow) bool {
	return flow.LinkExpires != 0 && h.Links.Now().After(time.Unix(flow.LinkExpires, 0).Add(leeway))
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

func (h *handler) setCookie(c echo.Context, id, value string, life time.Duration) {
	maxAge := int(life.Seconds())
	if value == "" {
		maxAge = -1
	}
	// Lax is right: Slack's redirect is a top-level navigation, and carries it.
	c.SetCookie(&http.Cookie{
		Name: h.cookiePrefix() + id, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: h.secure(), SameSite: http.SameSiteLaxMode,
	})
}

// dropOldCookies makes room for one more. Browsers send the oldest first
// (RFC 6265 section 5.4).
func (h *handler) dropOldCookies(c echo.Context) {
	var ids []string
	for _, cookie := range c.Cookies() {
		if id, ok := strings.CutPrefix(cookie.Name, h.cookiePrefix()); ok && state.ValidFlowID(id) {
			ids = append(ids, id)
		}
	}
	for len(ids) >= maxCookies {
		h.setCookie(c, ids[0], "", 0)
		ids = ids[1:]
	}
}

// findFlow returns the key of the flow id and the browser half that makes it, if
// this browser holds the flow's cookie. No store is asked. Cookies of one name
// with different values have been tampered with.
func (h *handler) findFlow(c echo.Context, id string) (key state.Key, browser string, err error) {
	if c.Request().Header.Get("Cookie") == "" {
		return "", "", &problem{code: codeOtherBrowser, page: "no_cookies"}
	}
	for _, cookie := range c.Request().CookiesNamed(h.cookiePrefix() + id) {
		if browser != "" && cookie.Value != browser {
			return "", "", &problem{code: codeOtherBrowser}
		}
		browser = cookie.Value
	}
	key, ok := state.NewKey(id, browser)
	if !ok {
		return "", "", &problem{code: codeOtherBrowser}
	}
	return key, browser, nil
}
