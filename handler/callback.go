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
	code, refusal, err := parseAnswer(r)
	if err != nil {
		return err
	}
	key, browser, err := h.findKey(r, r.flowID)
	if err != nil {
		if age := time.Since(state.MadeAt(secret.New(r.query.Get("state")))); age > h.StateTTL && age < month {
			err = &problem{Code: codeStateNotFound} // its cookie has expired as well
		}
		return err
	}
	if refusal != nil {
		return h.refuse(r, refusal)
	}
	if err := h.checkExchanges(r); err != nil {
		return err
	}

	// From here on the work goes on even if the browser disconnects: a state and a code
	// work once.
	flow, won, err := h.Outbox.Consume(r.withoutCancel(), key, code)
	if err != nil {
		return storeProblem(err)
	}
	r.flow = flow
	if !won {
		return h.repeat(r, code)
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

const (
	maxQuery = 8 << 10 // bytes
	maxCode  = 1024
)

// parseAnswer sets r.flowID to the flow of a callback's state, and returns the code or the
// error that came with it. It checks their format, before anything is looked up: anyone can
// write anything there, so none of it may be printed. An empty parameter is an absent one.
func parseAnswer(r *request) (code secret.String, refusal *problem, err error) {
	r.flowID = ""
	invalid := func(format string, args ...any) error {
		return &problem{Code: codeRequestInvalid, Err: fmt.Errorf("callback: "+format, args...)}
	}
	if size := len(r.Request().URL.RawQuery); size > maxQuery {
		return code, nil, invalid("the query has %d bytes", size)
	}
	if r.queryErr != nil {
		return code, nil, invalid("the query is malformed")
	}
	for _, name := range []string{"state", "code", "error"} {
		r.query[name] = slices.DeleteFunc(r.query[name], func(value string) bool { return value == "" })
		if n := len(r.query[name]); n > 1 {
			return code, nil, invalid("%s occurs %d times", name, n)
		}
		value := r.query.Get(name)
		if len(value) > maxCode || strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
			return code, nil, invalid("%s is too long or not visible ASCII", name)
		}
	}
	st := secret.New(r.query.Get("state"))
	r.flowID, _ = state.FlowID(st)
	code = secret.New(r.query.Get("code"))
	if r.query.Get("error") != "" {
		refusal = newRefusal(r.query)
	}
	switch {
	case code.Empty() == (refusal == nil):
		err = invalid("the query has neither or both of code and error")
	case st.Empty() && refusal != nil && refusal.Code == outbox.CodeAccessDenied:
		err = refusal
	case st.Empty():
		// An install that began inside Slack, from its directory or by an admin; or a
		// request of anyone, which must not alarm the operator.
		err = &problem{Code: codeStateMissing}
	case r.flowID == "":
		err = invalid("state has the wrong format")
	}
	return code, refusal, err
}
