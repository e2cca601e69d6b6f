package handler

import (
	"errors"
	"net/http"
	"strings"

	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
)

// disconnect shows a page that asks, and disconnects when its form is sent. A program may
// send the form too, and gets JSON if it accepts that. The flow is like any other: ordered
// with those that connect, stored and told.
func (h *handler) disconnect(r *request) error {
	if err := h.openLink(r, link.Disconnect); err != nil {
		return err
	}
	if r.flow.Request.Integration == "" { // a named one may be inactive, or deleted: its channels end all the same
		if err := h.preflight(r); err != nil {
			return err
		}
	}
	if !h.isOwnForm(r) {
		return h.render(r, pageDisconnect)
	}

	_, browser := newFlow(&r.flow)
	flow, failure, err := h.Outbox.Disconnect(r.withoutCancel(), r.flow, h.StateTTL)
	outcome := outcomeOf(flow)
	if err != nil && failure == nil && outcome == "" && !errors.Is(err, state.ErrLost) { // or else the worker goes on
		return storeProblem(err)
	}
	r.flow, r.outcome = flow, outcome
	if failure != nil {
		return (*problem)(failure)
	}
	if wantsJSON(r) {
		status := http.StatusOK
		if !flow.Ended() {
			status = http.StatusAccepted
		}
		answer := map[string]string{"outcome": outcome, "flow": flow.ID}
		if signed := h.signResult(flow, outcome); signed != "" {
			answer["slack_result"] = signed
		}
		return r.JSON(status, answer)
	}
	h.dropOldCookies(r)
	h.setCookie(r, flow.ID, browser, h.StateTTL)
	return h.redirect(r, outcome, "")
}

// wantsJSON reports whether a request is a program's: only links to disconnect may be.
func wantsJSON(r *request) bool {
	return r.Path() == link.DisconnectPath && strings.Contains(r.Request().Header.Get("Accept"), "application/json")
}
