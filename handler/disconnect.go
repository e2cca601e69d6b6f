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
	if err != nil && failure == nil && outcomeOf(flow) == "" && !errors.Is(err, state.ErrLost) { // or else the worker goes on
		return storeProblem(err)
	}
	r.flow = flow
	if !wantsJSON(r) {
		h.dropOldCookies(r)
		return h.answerFlow(r, browser, failure, err)
	}
	r.outcome = outcomeOf(flow)
	if failure != nil {
		return (*problem)(failure)
	}
	status := http.StatusOK
	if !flow.Ended() {
		status = http.StatusAccepted
	}
	answer := map[string]string{"outcome": r.outcome, "flow": flow.ID}
	if signed := h.signResult(flow, r.outcome); signed != "" {
		answer["slack_result"] = signed
	}
	return r.JSON(status, answer)
}

// wantsJSON reports whether a request is a program's: only links to disconnect may be.
func wantsJSON(r *request) bool {
	return r.Path() == link.DisconnectPath && strings.Contains(r.Request().Header.Get("Accept"), "application/json")
}
