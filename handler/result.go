package handler

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/outbox"
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

// signResult returns the outcome as a signed JWT, or "" if there is no secret or no return
// URL.
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
	signed, _ := h.Links.SignResult(result) // it fails only for a bad return URL, which no verified link has
	return signed
}

// returnsToApp reports whether the browser is redirected to the app with an outcome: there
// is one, and a return URL. A popup stays, because its page informs its opener.
func returnsToApp(flow state.Flow, outcome string) bool {
	return outcome != "" && flow.Request.ReturnURL != "" && !flow.Request.Popup
}

// redirect sends the browser to a URL that only shows the flow's outcome, and can be
// reloaded: the return URL, or the result page with more in its query.
func (h *handler) redirect(r *request, outcome, more string) error {
	if returnsToApp(r.flow, outcome) {
		return r.Redirect(http.StatusSeeOther, link.AddQuery(r.flow.Request.ReturnURL, h.outcome(r.flow, outcome)...))
	}
	return r.Redirect(http.StatusSeeOther, resultPath+"?flow="+r.flow.ID+more)
}

const (
	// refusedParam is the query parameter with the code of a refusal, for the result page.
	// Anyone can write it, so it only selects the text of the page.
	refusedParam = "refused"

	// unusedParam is the query parameter that says that the person made a second choice at
	// Slack after the first one was connected.
	unusedParam = "unused"

	// reloadParam is the query parameter that counts how often a page reloaded itself.
	reloadParam = "n"
)

// result shows the outcome of a flow, so far, to the browser that has its cookie.
func (h *handler) result(r *request) error {
	if r.queryErr != nil || len(r.query["flow"]) != 1 || !state.ValidFlowID(r.query.Get("flow")) {
		return &problem{Code: codeRequestInvalid}
	}
	if err := h.lookUp(r, r.query.Get("flow")); err != nil {
		return err
	}
	refused, outcome := r.query.Get(refusedParam), outcomeOf(r.flow)
	switch {
	case r.flow.Phase == state.Issued && outbox.IsRefusal(refused):
		return h.render(r, refused)
	case r.flow.Phase == state.Issued:
		return &problem{Code: codeUnfinished}
	case r.query.Has(unusedParam) && (outcome == state.Connected || outcome == codePending):
		return h.render(r, pageUnused)
	case r.query.Has(reloadParam) && r.flow.Ended() && returnsToApp(r.flow, outcome):
		return h.redirect(r, outcome, "") // this is a page that reloaded itself
	}
	return h.renderFlow(r)
}

const (
	showPlaceFrom  = 30 * time.Second // of the wait for Slack
	firstRefresh   = 2 * time.Second
	longestRefresh = 10 * time.Second
	lastRefresh    = 15 * time.Minute / longestRefresh // about as long as a flow is kept
)

// renderFlow shows a flow that has been consumed. A page without a final outcome reloads
// itself: after firstRefresh, and then after twice as long each time, up to longestRefresh.
// If the wait for Slack is long, it has the person's place among those who wait.
func (h *handler) renderFlow(r *request) error {
	name, pause := outcomeOf(r.flow), firstRefresh
	switch name {
	case codePending:
	case "":
		name = pageWorking
		if turn, err := h.Store.Turn(r.withoutCancel(), r.flow); err == nil && turn.Wait >= showPlaceFrom {
			r.flow.Turn, pause = turn, longestRefresh
		}
	default:
		return h.render(r, name)
	}

	reloads, _ := strconv.Atoi(r.query.Get(reloadParam))
	next := max(reloads, 1) + 1
	for i := 2; i < next && pause < longestRefresh; i++ {
		pause *= 2
	}
	to := fmt.Sprintf("%s?flow=%s&%s=%d", resultPath, r.flow.ID, reloadParam, next)
	if r.query.Has(unusedParam) { // said once there is an outcome
		to += "&" + unusedParam
	}
	if reloads <= int(lastRefresh) {
		r.Response().Header().Set("Refresh", fmt.Sprintf("%.0f; url=%s", min(pause, longestRefresh).Seconds(), to))
	}
	return h.render(r, name)
}

// startAgainURL returns the URL at which this browser starts the flow again, or "" if
// its link is no longer valid.
func (h *handler) startAgainURL(flow state.Flow) string {
	if flow.ID == "" || flow.Request.Action == link.Disconnect {
		return ""
	}
	if _, err := h.Links.Verify(flow.Link); err != nil {
		return ""
	}
	return InstallPath + "?" + againParam + "=" + flow.ID
}
