package handler

import (
	"net/http"
	"slices"

	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
)

// codePending is the outcome of a flow that is Recorded: the outbox will save its
// webhook in Novu.
const codePending = "pending"

// successes are the outcomes that are no problem's code.
var successes = []string{state.Connected, state.Disconnected, codePending}

// outcomeOf returns a flow's outcome: one of successes, or the code of why it failed. It
// is empty while there is none.
func outcomeOf(flow state.Flow) string {
	if flow.Phase == state.Recorded {
		return codePending
	}
	if flow.Ended() {
		return flow.Result.Code
	}
	return ""
}

// outcome returns what the app learns of a flow: name, value, name, value. A popup's
// message has the same fields as the return URL.
func (h *handler) outcome(flow state.Flow, outcome string) []string {
	pairs := []string{"slack", outcome}
	if !slices.Contains(successes, outcome) {
		pairs = []string{"slack", "error", "reason", outcome}
	} else if to := flow.Result; to.Channel != "" || to.Team != "" {
		pairs = append(pairs, "channel", to.Channel, "team", to.Team)
	}
	if signed := h.signResult(flow, outcome); signed != "" {
		pairs = append(pairs, "slack_result", signed)
	}
	return pairs
}

// signResult returns the same in signed form, or "" if there is no secret, or no app to tell.
func (h *handler) signResult(flow state.Flow, outcome string) string {
	result := link.Result{
		Subscriber: flow.Request.Subscriber, FlowID: flow.ID, ReturnURL: flow.Request.ReturnURL, Integration: flow.Request.Integration,
	}
	if slices.Contains(successes, outcome) {
		to := flow.Result
		result.Outcome, result.Channel, result.ChannelID, result.Team, result.TeamID = outcome, to.Channel, to.ChannelID, to.Team, to.TeamID
	} else {
		result.Outcome, result.Reason = "error", outcome
	}
	signed, _ := h.Links.SignResult(result) // it fails for a bad return URL only, and no link is verified with one
	return signed
}

// returnsToApp reports whether the browser is redirected to the app with an outcome: there
// is one, and a return URL. A popup stays, because its page informs its opener.
func returnsToApp(flow state.Flow, outcome string) bool {
	return outcome != "" && flow.Request.ReturnURL != "" && !flow.Request.Popup
}

// redirect sends the browser from a URL that does something to one that shows the flow's
// outcome: to the app, or to the result page, with more in its query.
func (h *handler) redirect(r *request, outcome, more string) error {
	if returnsToApp(r.flow, outcome) {
		return r.Redirect(http.StatusSeeOther, link.AddQuery(r.flow.Request.ReturnURL, h.outcome(r.flow, outcome)...))
	}
	return r.Redirect(http.StatusSeeOther, resultPath+"?flow="+r.flow.ID+more)
}
