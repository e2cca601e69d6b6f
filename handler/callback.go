package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// How long a callback may take. When Slack is slow the person has a page within
// 15 s; delivering adds about 5 s to an answer that came.
const (
	exchangeTimeout = 13 * time.Second
	awaitTimeout    = 3 * time.Second // a duplicate waits this long for the winner
	awaitPace       = 100 * time.Millisecond
	// workLimit is the age at which the one who works on a flow must be dead. What
	// it recorded is delivered all the same, and the flow then finished.
	workLimit = 30 * time.Second
	month     = 30 * 24 * time.Hour // what claims to be older is not a state of ours
)

// callback is where Slack sends the browser back to.
func (h *handler) callback(c echo.Context) error {
	answer, err := parseCallback(c.Request().URL.RawQuery)
	if err != nil {
		return err
	}
	id, _ := state.FlowID(answer.state)
	c.Set(flowIDKey, id)
	key, browser, err := h.findFlow(c, id)
	if err != nil {
		if age := time.Since(state.Made(answer.state)); age > h.StateTTL && age < month {
			err = &problem{code: codeStateNotFound} // its cookie has gone with it
		}
		return err
	}

	// From here on the work is done whether or not the browser waits for it: a
	// consumed state or a spent code cannot be had again.
	ctx := lasting(c)
	record, err := h.found(h.States.Consume(ctx, key))
	if err != nil {
		return err
	}
	switch record.Phase {
	case state.Working:
		record = h.await(c.Request().Context(), key, record)
	case state.Issued:
		ending := state.Ending{Key: key, Flow: record.Flow, TTL: h.StateTTL}
		result, finished, p := h.connect(ctx, id, ending, answer)
		if p != nil {
			c.Set(problemKey, p)
			result.Code = p.code
		}
		c.Set(outcomeKey, result.Code)
		if ending.Result = result; !finished {
			if err := h.noted(h.States.Finish(ctx, ending)); err != nil {
				// The outcome stands, but no later page will know it: show it now.
				h.Log.Error().Err(err).Str("flow", id).Msg("the result could not be kept")
				if !leaves(record.Flow) {
					return h.renderResult(c, record.Flow, result)
				}
			}
		}
		record.Phase, record.Result = state.Finished, result
		h.setCookie(c, id, browser, h.StateTTL) // for as long as the result is kept
	}
	if record.Phase == state.Finished && leaves(record.Flow) {
		return c.Redirect(http.StatusSeeOther, returnTo(record.Flow, record.Result))
	}
	return c.Redirect(http.StatusSeeOther, resultPath+"?flow="+id)
}

// answer is what Slack's redirect brings: a code or an error.
type answer struct{ state, code, error string }

const (
	maxQuery = 8 << 10 // bytes
	maxCode  = 1024
)

// parseCallback checks the form of everything in the query, before anything is
// looked up.
func parseCallback(raw string) (a answer, err error) {
	refuse := func(format string, args ...any) (answer, error) {
		return answer{}, &problem{code: codeRequestInvalid, err: fmt.Errorf("callback: "+format, args...)}
	}
	if len(raw) > maxQuery {
		return refuse("the query has %d bytes", len(raw))
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return refuse("the query is malformed")
	}
	for name, to := range map[string]*string{"state": &a.state, "code": &a.code, "error": &a.error} {
		switch values := query[name]; {
		case len(values) > 1:
			return refuse("%s stands in it %d times", name, len(values))
		case len(values) == 1 && !visible(values[0], maxCode):
			return refuse("%s is empty, too long or not plain ASCII", name)
		case len(values) == 1:
			*to = values[0]
		}
	}
	switch {
	case (a.code == "") == (a.error == ""):
		return refuse("it has neither or both of code and error")
	case a.state == "" && a.error == "access_denied":
		return answer{}, &problem{code: codeAccessDenied}
	case a.state == "":
		// An install begun inside Slack, from its directory or by an admin; or
		// a stranger, who must not be able to alarm the operator.
		return answer{}, &problem{code: codeStateMissing}
	}
	if _, ok := state.FlowID(a.state); !ok {
		return refuse("state does not have the form of ours")
	}
	return a, nil
}

// visible reports whether s is 1 to limit bytes of visible ASCII.
func visible(s string, limit int) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return s != "" && len(s) <= limit
}

// lasting is the request's context for what must not end because a browser hangs
// up: a flow's work, and the store, which would look broken.
func lasting(c echo.Context) context.Context { return context.WithoutCancel(c.Request().Context()) }

// found gives an error of Consume or Look its problem.
func (h *handler) found(record state.Record, err error) (state.Record, error) {
	if errors.Is(err, state.ErrNotFound) {
		return record, &problem{code: codeStateNotFound}
	}
	if h.noted(err) != nil {
		return record, &problem{code: codeStoreUnavailable, err: err}
	}
	return record, nil
}

// await gives the callback that won a little time, and returns the latest record.
func (h *handler) await(ctx context.Context, key state.Key, record state.Record) state.Record {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	for record.Phase == state.Working && record.Age < workLimit {
		select {
		case <-ctx.Done():
			return record
		case <-time.After(awaitPace):
		}
		if latest, err := h.States.Look(context.WithoutCancel(ctx), key); h.noted(err) == nil {
			record = latest
		}
	}
	return record
}

// connect is the work of a flow: exchange the code, check what came, deliver it.
// It reports whether the flow is finished already.
func (h *handler) connect(ctx context.Context, id string, ending state.Ending, a answer) (result state.Result, finished bool, p *problem) {
	flow := ending.Flow
	if a.error != "" {
		return result, false, authorizeProblem(a.error)
	}
	h.Novu.Connect() // meanwhile
	exchanging, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	start := time.Now()
	installation, err := h.Slack.Exchange(exchanging, secret.New(a.code))
	h.Metrics.Exchange.Observe(time.Since(start).Seconds())
	if err != nil {
		var failure *slackoauth.Error
		errors.As(err, &failure)
		return result, false, slackProblem(failure.Code, err)
	}
	if flow.TeamID != "" && installation.TeamID != flow.TeamID {
		return result, false, &problem{code: codeWorkspaceMismatch, err: fmt.Errorf("the link is for workspace %s, the installation is in %s", flow.TeamID, installation.TeamID)}
	}
	ending.Result = state.Result{
		Code: state.Connected, Team: installation.TeamName, Channel: installation.Channel, ConfigurationURL: installation.ConfigurationURL,
	}
	result, finished, err = h.Outbox.Deliver(ctx, novuclient.Connection{
		SubscriberID: flow.Subscriber, Integration: flow.Integration, Context: flow.Context, WebhookURL: installation.WebhookURL,
	}, ending)
	if err != nil {
		return result, finished, novuProblem(err)
	}
	h.Log.Info().Str("flow", id).Str("subscriber", flow.Subscriber).Str("integration", flow.Integration).
		Str("team", installation.TeamID).Str("channel", installation.ChannelID).Str("outcome", result.Code).Msg("connection")
	return result, finished, nil
}

// leaves reports whether the browser leaves for the app by itself: a popup stays,
// to tell its opener.
func leaves(flow state.Flow) bool { return flow.ReturnURL != "" && !flow.Popup }

// outcome is what the app learns: state.Connected, state.Pending or "error".
func outcome(result state.Result) string {
	if result.Code == state.Connected || result.Code == state.Pending {
		return result.Code
	}
	return "error"
}

// returnTo is the return URL with the outcome added.
func returnTo(flow state.Flow, result state.Result) string {
	pairs := []string{"slack", result.Code, "channel", result.Channel, "team", result.Team}
	if outcome(result) == "error" {
		pairs = []string{"slack", "error", "reason", result.Code}
	}
	if flow.Popup {
		pairs = append(pairs, "slack_popup", "1")
	}
	return addQuery(flow.ReturnURL, pairs...)
}
