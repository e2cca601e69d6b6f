package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

const (
	awaitTimeout = 3 * time.Second // a duplicate callback waits this long for the one that won
	awaitPause   = 100 * time.Millisecond
	month        = 30 * 24 * time.Hour // a state that claims to be older is not ours
)

// callback is the Redirect URL, to which Slack sends the browser with a code or an error.
func (h *handler) callback(c echo.Context) error {
	if size := len(c.Request().URL.RawQuery); size > maxQuery {
		return &problem{code: codeRequestInvalid, err: fmt.Errorf("callback: the query has %d bytes", size)}
	}
	line := logLineOf(c)
	answer, err := parseCallback(line.query, line.queryErr)
	if answer.flowID != "" {
		line.flow = &state.Flow{ID: answer.flowID}
	}
	if err != nil {
		return err
	}
	id := answer.flowID
	key, browser, err := h.findKey(c, id)
	if err != nil {
		if age := time.Since(state.MadeAt(answer.state)); age > h.StateTTL && age < month {
			err = &problem{code: codeStateNotFound} // its cookie has expired as well
		}
		return err
	}
	if !answer.error.Empty() {
		return h.handleRefusal(c, id, answer.refusal())
	}

	if err := h.checkExchanges(c, key); err != nil {
		return err
	}

	// From here on the work goes on even if the browser disconnects: a state and a code
	// work once.
	flow, won, err := h.Outbox.Consume(withoutCancel(c), key, answer.code)
	if err != nil {
		return h.storeProblem(err)
	}
	line.flow = &flow
	if !won {
		flow = h.awaitResult(c.Request().Context(), flow)
		if outcome := outcomeCode(flow); (outcome == "" || appOutcome(outcome) != "error") && !flow.HasCode(answer.code) {
			// Back, and another choice: the code is not used.
			return c.Redirect(http.StatusSeeOther, resultPath+"?flow="+flow.ID+"&"+unusedParam)
		}
		return h.redirectToOutcome(c, flow)
	}
	h.exchanges.add(flow.Request.Subscriber)
	failure, err := h.Outbox.Advance(withoutCancel(c), &flow)
	if failure == nil && flow.Phase != state.Working { // or it waits, and Slack has not seen the code
		h.exchanges.takeBack(flow.Request.Subscriber)
	}
	if failure != nil {
		line.problem = &problem{code: failure.Code, err: failure.Err, fix: failure.Remedy, quiet: failure.Quiet}
	}
	line.outcome = outcomeCode(flow)
	life := h.StateTTL // the result is kept for as long
	if flow.Phase == state.Working {
		life += state.CodeLife // once it is known
	}
	h.setCookie(c, id, browser, life)
	if err != nil && !errors.Is(err, state.ErrLost) && !returnsToApp(flow) {
		return h.renderFlow(c, flow) // the store may not know the outcome: show it now
	}
	return h.redirectToOutcome(c, flow)
}

// checkExchanges returns a problem if the subscriber of an issued flow must wait for its
// next exchange. The flow is not consumed: to reload the page later connects.
func (h *handler) checkExchanges(c echo.Context, key state.Key) error {
	if !h.exchanges.isReached() {
		return nil
	}
	flow, err := h.Store.Look(withoutCancel(c), key)
	if err != nil {
		return h.storeProblem(err)
	}
	wait := h.exchanges.wait(flow.Request.Subscriber)
	if flow.Phase != state.Issued || wait == 0 {
		return nil
	}
	logLineOf(c).flow = &flow
	c.Response().Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
	return &problem{code: codeTooManyTries, flow: &flow}
}

// redirectToOutcome redirects the browser from the callback's URL to one without code
// and state: the return URL or the result page.
func (h *handler) redirectToOutcome(c echo.Context, flow state.Flow) error {
	if returnsToApp(flow) {
		return c.Redirect(http.StatusSeeOther, h.returnURL(flow, outcomeCode(flow)))
	}
	return c.Redirect(http.StatusSeeOther, resultPath+"?flow="+flow.ID)
}

// handleRefusal answers a callback that has an error instead of a code. It does not
// consume the flow, so that the person can go back and press Allow.
func (h *handler) handleRefusal(c echo.Context, id string, p *problem) error {
	flow, err := h.lookUp(c, id)
	if err != nil {
		return err
	}
	if flow.Phase != state.Issued {
		return h.redirectToOutcome(c, flow)
	}
	logLineOf(c).problem = p // and no outcome: the flow goes on, and anyone who holds a link can write a refusal
	if flow.Request.ReturnURL != "" && !flow.Request.Popup {
		return c.Redirect(http.StatusSeeOther, h.returnURL(flow, p.code))
	}
	return c.Redirect(http.StatusSeeOther, resultPath+"?flow="+flow.ID+"&"+refusedParam+"="+p.code)
}

// answer is the query of a callback: a state, and a code or an error. Anyone can write
// anything there, so none of it may be printed.
type answer struct {
	state, code, error secret.String
	flowID             string // of state; empty if there is no state of our form
	described          bool   // the error has an error_description
}

const (
	maxQuery = 8 << 10 // bytes
	maxCode  = 1024
)

// parseCallback checks the format of a callback's query, before anything is looked up.
// malformed is the error of its url.ParseQuery. An empty parameter is an absent one.
func parseCallback(query url.Values, malformed error) (a answer, err error) {
	refuse := func(format string, args ...any) (answer, error) {
		return a, &problem{code: codeRequestInvalid, err: fmt.Errorf("callback: "+format, args...)}
	}
	if malformed != nil {
		return refuse("the query is malformed")
	}
	for name, to := range map[string]*secret.String{"state": &a.state, "code": &a.code, "error": &a.error} {
		values := slices.DeleteFunc(query[name], func(value string) bool { return value == "" })
		switch {
		case len(values) > 1:
			return refuse("%s occurs %d times", name, len(values))
		case len(values) == 1 && !isVisibleASCII(values[0], maxCode):
			return refuse("%s is too long or not plain ASCII", name)
		case len(values) == 1:
			*to = secret.New(values[0])
		}
	}
	a.flowID, _ = state.FlowID(a.state)
	a.described = query.Get("error_description") != ""
	switch {
	case a.code.Empty() == a.error.Empty():
		return refuse("the query has neither or both of code and error")
	case a.state.Empty() && a.error.Equal("access_denied"):
		return a, a.refusal()
	case a.state.Empty():
		// An install that began inside Slack, from its directory or by an admin; or a
		// request of anyone, which must not alarm the operator.
		return a, &problem{code: codeStateMissing}
	case a.flowID == "":
		return refuse("state has the wrong format")
	}
	return a, nil
}

// isVisibleASCII reports whether s is visible ASCII of at most limit bytes.
func isVisibleASCII(s string, limit int) bool {
	return len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// withoutCancel returns the request's context without its cancellation. A flow's work
// must not stop because a browser disconnects, nor may calls of the store: they would
// count as store errors.
func withoutCancel(c echo.Context) context.Context {
	return context.WithoutCancel(c.Request().Context())
}

// awaitResult waits for the callback that won, up to awaitTimeout, and returns the flow
// as it then is.
func (h *handler) awaitResult(ctx context.Context, flow state.Flow) state.Flow {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	for !flow.Ended() {
		select {
		case <-ctx.Done():
			return flow
		case <-time.After(awaitPause):
		}
		latest, err := h.Store.Look(context.WithoutCancel(ctx), flow.Key)
		if h.storeProblem(err) == nil {
			flow = latest
		}
	}
	return flow
}

// codePending is the outcome of a flow that is Recorded: the outbox will save its
// webhook in Novu.
const codePending = "pending"

// outcomeCode returns the code of a flow's outcome: connected, disconnected, pending, or why it
// failed. It is empty while there is no outcome.
func outcomeCode(flow state.Flow) string {
	switch {
	case flow.Phase == state.Recorded:
		return codePending
	case flow.Ended():
		return flow.Result.Code
	}
	return ""
}

// returnsToApp reports whether the browser is redirected to the app: there is an outcome
// and a return URL. A popup stays, because its page informs its opener.
func returnsToApp(flow state.Flow) bool {
	return outcomeCode(flow) != "" && flow.Request.ReturnURL != "" && !flow.Request.Popup
}

// appOutcome returns the return URL's parameter slack for a code: connected, disconnected,
// pending or error.
func appOutcome(code string) string {
	if code == state.Connected || code == state.Disconnected || code == codePending {
		return code
	}
	return "error"
}

// returnURL returns the flow's return URL with the outcome added.
func (h *handler) returnURL(flow state.Flow, code string) string {
	pairs := h.outcome(flow, code)
	if flow.Request.Popup {
		pairs = append(pairs, "slack_popup", "1")
	}
	return link.AddQuery(flow.Request.ReturnURL, pairs...)
}

// outcome returns what the app learns of a flow: name, value, name, value. A popup's
// message has the same fields as the return URL.
func (h *handler) outcome(flow state.Flow, code string) []string {
	result := link.Result{
		Subscriber: flow.Request.Subscriber, FlowID: flow.ID, ReturnURL: flow.Request.ReturnURL, Integration: flow.Request.Integration,
		Outcome: appOutcome(code),
	}
	var pairs []string
	if result.Outcome == "error" {
		result.Reason = code
		pairs = []string{"slack", "error", "reason", code}
	} else {
		to := flow.Result
		result.Channel, result.ChannelID, result.Team, result.TeamID = to.Channel, to.ChannelID, to.Team, to.TeamID
		pairs = []string{"slack", code}
		if to.Channel != "" || to.Team != "" {
			pairs = append(pairs, "channel", to.Channel, "team", to.Team)
		}
	}
	signed, err := h.Links.SignResult(result)
	if err != nil { // the link was verified, so this cannot be
		h.Log.Error().Err(err).Str("flow", flow.ID).Str("subscriber", flow.Request.Subscriber).Msg("the app is told an outcome without slack_result")
	}
	if signed != "" {
		pairs = append(pairs, "slack_result", signed)
	}
	return pairs
}
