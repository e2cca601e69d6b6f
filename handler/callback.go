package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

const (
	awaitTimeout = 3 * time.Second // a duplicate callback waits this long for the one that won
	awaitPause   = 100 * time.Millisecond
	month        = 30 * 24 * time.Hour // a state that claims to be older is not ours
)

// callback is the Redirect URL, to which Slack sends the browser with a code or an error.
func (h *handler) callback(r *request) error {
	answer, err := parseAnswer(r)
	r.flowID = answer.flowID
	if err != nil {
		return err
	}
	key, browser, err := h.findKey(r, answer.flowID)
	if err != nil {
		if age := time.Since(state.MadeAt(answer.state)); age > h.StateTTL && age < month {
			err = &problem{Code: codeStateNotFound} // its cookie has expired as well
		}
		return err
	}
	if answer.refusal != nil {
		return h.refuse(r, answer.refusal)
	}
	if err := h.checkExchanges(r); err != nil {
		return err
	}

	// From here on the work goes on even if the browser disconnects: a state and a code
	// work once.
	flow, won, err := h.Outbox.Consume(r.withoutCancel(), key, answer.code)
	if err != nil {
		return storeProblem(err)
	}
	r.flow = flow
	if !won {
		return h.repeat(r, answer.code)
	}
	h.exchanges.add(flow.Request.Subscriber, exchangePace)
	failure, err := h.Outbox.Advance(r.withoutCancel(), &r.flow)
	if failure == nil && r.flow.Phase != state.Working { // or it waits, and Slack has not seen the code
		h.exchanges.add(flow.Request.Subscriber, takenPace-exchangePace)
	}
	return h.answerFlow(r, browser, failure, err)
}

// answerFlow answers the request that consumed a flow, with what Advance returned.
func (h *handler) answerFlow(r *request, browser secret.String, failure *outbox.Failure, err error) error {
	r.problem, r.outcome = (*problem)(failure), outcomeOf(r.flow)
	life := h.StateTTL // the result is kept for as long
	if r.flow.Phase == state.Working {
		life += state.CodeLife // once it is known
	}
	h.setCookie(r, r.flow.ID, browser, life)
	if err != nil && !errors.Is(err, state.ErrLost) && !returnsToApp(r.flow, r.outcome) {
		return h.renderFlow(r) // the store may not know the outcome: show it now
	}
	return h.redirect(r, r.outcome, "")
}

// refuse answers a callback that has an error instead of a code. It does not consume the
// flow, so that the person can go back and press Allow.
func (h *handler) refuse(r *request, refusal *problem) error {
	if err := h.lookUp(r, r.flowID); err != nil {
		return err
	}
	if r.flow.Phase != state.Issued {
		return h.redirect(r, outcomeOf(r.flow), "")
	}
	r.problem = refusal // and no outcome: the flow goes on, and anyone who holds a link can write a refusal
	return h.redirect(r, refusal.Code, "&"+refusedParam+"="+refusal.Code)
}

// checkExchanges returns a problem if the subscriber of an issued flow must wait for its
// next exchange. The flow is not consumed: to reload the page later connects.
func (h *handler) checkExchanges(r *request) error {
	if !h.exchanges.isReached() {
		return nil
	}
	if err := h.lookUp(r, r.flowID); err != nil {
		return err
	}
	wait := h.exchanges.wait(r.flow.Request.Subscriber)
	if r.flow.Phase != state.Issued || wait == 0 {
		return nil
	}
	r.Response().Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
	return &problem{Code: codeTooManyTries}
}

// repeat answers a callback whose flow was consumed already. It waits for the callback that
// won, up to awaitTimeout.
func (h *handler) repeat(r *request, code secret.String) error {
	ctx, cancel := context.WithTimeout(r.Request().Context(), awaitTimeout)
	defer cancel()
	for !r.flow.Ended() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(awaitPause):
			_ = h.lookUp(r, r.flow.ID) // or the flow stays as it was
		}
	}
	outcome := outcomeOf(r.flow)
	if (outcome == "" || slices.Contains(successes, outcome)) && !r.flow.HasCode(code) {
		return h.redirect(r, "", "&"+unusedParam) // Back, and another choice: the code is not used
	}
	return h.redirect(r, outcome, "")
}

// answer is the query of a callback: a state, and a code or an error. Anyone can write
// anything there, so none of it may be printed.
type answer struct {
	state, code secret.String
	flowID      string   // of the state; empty if there is no state of our form
	refusal     *problem // if there is an error
}

const (
	maxQuery = 8 << 10 // bytes
	maxCode  = 1024
)

// parseAnswer checks the format of a callback's query, before anything is looked up. An
// empty parameter is an absent one.
func parseAnswer(r *request) (a answer, err error) {
	refuse := func(format string, args ...any) (answer, error) {
		return a, &problem{Code: codeRequestInvalid, Err: fmt.Errorf("callback: "+format, args...)}
	}
	if size := len(r.Request().URL.RawQuery); size > maxQuery {
		return refuse("the query has %d bytes", size)
	}
	if r.queryErr != nil {
		return refuse("the query is malformed")
	}
	query := r.query
	for _, name := range []string{"state", "code", "error"} {
		query[name] = slices.DeleteFunc(query[name], func(value string) bool { return value == "" })
		if n := len(query[name]); n > 1 {
			return refuse("%s occurs %d times", name, n)
		}
		value := query.Get(name)
		if len(value) > maxCode || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return refuse("%s is too long or not visible ASCII", name)
		}
	}
	a.state, a.code = secret.New(query.Get("state")), secret.New(query.Get("code"))
	a.flowID, _ = state.FlowID(a.state)
	if query.Get("error") != "" {
		a.refusal = refusal(query)
	}
	switch {
	case a.code.Empty() == (a.refusal == nil):
		return refuse("the query has neither or both of code and error")
	case a.state.Empty() && a.refusal != nil && a.refusal.Code == outbox.CodeAccessDenied:
		return a, a.refusal
	case a.state.Empty():
		// An install that began inside Slack, from its directory or by an admin; or a
		// request of anyone, which must not alarm the operator.
		return a, &problem{Code: codeStateMissing}
	case a.flowID == "":
		return refuse("state has the wrong format")
	}
	return a, nil
}
