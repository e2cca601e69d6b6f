package handler

import (
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
)

// disconnect shows a page that asks, and disconnects when its form is sent. A program may
// send the form too, and gets JSON if it accepts that. The flow is like any other: ordered
// with those that connect, stored and told.
func (h *handler) disconnect(c echo.Context) error {
	l, err := link.Read(c.Request().URL.RawQuery, "")
	if err != nil {
		return &problem{code: codeLinkInvalid, err: err}
	}
	flow := state.Flow{Link: l}
	if err := h.verifyLink(c, &flow, link.Disconnect); err != nil {
		return err
	}
	if flow.Request.Integration == "" { // a named one may be inactive, or deleted: its channels end all the same
		if err := h.preflight(c, &flow); err != nil {
			return err
		}
	}
	if c.Request().Method != http.MethodPost || h.forms.Check(c.Request()) != nil {
		return h.render(c, "disconnect", "", &flow)
	}

	_, browser := newFlow(&flow)
	logLineOf(c).flow = &state.Flow{ID: flow.ID, Request: flow.Request} // the store may not return it
	flow, failure, err := h.Outbox.Disconnect(withoutCancel(c), flow, h.StateTTL)
	if err != nil && failure == nil && outcomeCode(flow) == "" && !errors.Is(err, state.ErrLost) { // or else the worker goes on
		return h.storeProblem(err)
	}
	logLineOf(c).flow, logLineOf(c).outcome = &flow, outcomeCode(flow)
	if failure != nil {
		return &problem{code: failure.Code, err: failure.Err, fix: failure.Remedy, flow: &flow}
	}
	if wantsJSON(c) {
		status := http.StatusOK
		if !flow.Ended() {
			status = http.StatusAccepted
		}
		answer := map[string]string{"outcome": outcomeCode(flow), "flow": flow.ID}
		if pairs := h.outcome(flow, outcomeCode(flow)); pairs[len(pairs)-2] == "slack_result" {
			answer["slack_result"] = pairs[len(pairs)-1]
		}
		return c.JSON(status, answer)
	}
	h.dropOldCookies(c)
	h.setCookie(c, flow.ID, browser, h.StateTTL)
	return h.redirectToOutcome(c, flow)
}

// wantsJSON reports whether a request is a program's: only links to disconnect may be.
func wantsJSON(c echo.Context) bool {
	return c.Path() == link.DisconnectPath && strings.Contains(c.Request().Header.Get("Accept"), "application/json")
}
