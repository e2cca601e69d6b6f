package handler

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/rs/zerolog"

	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
)

// request is a request with what is known about it. Its steps fill that in; its page and
// its log line are made of it.
type request struct {
	echo.Context
	id       string     // in the answer and the log line
	client   string     // its address
	query    url.Values // of the URL
	queryErr error      // if the query is malformed
	flowID   string     // of the flow that the URL names; another browser may have it
	flow     state.Flow // of this browser; without an ID, it is what a link asks for
	problem  *problem   // nil if there is none
	novu     error      // why it is not known whether Novu has the integration; the flow goes on
	outcome  string     // of a flow that this request ended
}

// withoutCancel returns the request's context without its cancellation. A flow's work
// must not stop because a browser disconnects, nor may calls of the store: they would
// count as store errors.
func (r *request) withoutCancel() context.Context {
	return context.WithoutCancel(r.Request().Context())
}

// reference is what a person tells the people who run the app: the ID of the flow, which a
// reload does not change, or else of the request.
func (r *request) reference() string { return cmp.Or(r.flow.ID, r.flowID, r.id) }

// observe gives each request an ID and its answer the common headers, has every failure
// answered, and logs the request.
func (h *handler) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		r := &request{Context: c, id: c.Request().Header.Get(echo.HeaderXRequestID), client: c.RealIP()}
		if !isRequestID(r.id) {
			r.id = rand.Text()
		}
		header := c.Response().Header()
		maps.Copy(header, h.headers) // nobody changes the values: Set replaces them
		header.Set(echo.HeaderXRequestID, r.id)
		if c.Request().Method == http.MethodHead {
			header.Set(DeploymentHeader, string(h.Store.Deployment))
		}
		r.query, r.queryErr = url.ParseQuery(c.Request().URL.RawQuery)
		if id := cmp.Or(r.query.Get("flow"), r.query.Get(againParam)); state.ValidFlowID(id) {
			r.flowID = id
		}
		r.flow.Request.Popup = r.query.Get("display") == "popup"

		if err := recoverPanic(next, r); err != nil {
			h.fail(r, err)
		}
		h.logRequest(r, time.Since(start))
		return nil
	}
}

// isRequestID reports whether a request's own ID may stand in the log and on pages.
func isRequestID(id string) bool {
	return len(id) >= 8 && len(id) <= 64 && link.ConsistsOf(id, link.Alphanumeric+"._-")
}

// recoverPanic calls next and turns a panic into an error with its type and stack. The
// text of a panic is included only if it is the runtime's own: others may hold a secret.
func recoverPanic(next echo.HandlerFunc, r *request) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("panic: %w\n%s", p, debug.Stack())
		default:
			err = fmt.Errorf("panic of a %T\n%s", p, debug.Stack())
		}
	}()
	return next(r)
}

// logRequest counts what came of a request and writes its log line: with the route's
// pattern and never the URL, which carries codes, states and links.
func (h *handler) logRequest(r *request, took time.Duration) {
	level := zerolog.InfoLevel
	if r.novu != nil {
		level = zerolog.WarnLevel
	}
	if r.Path() == healthPath || r.Path() == readyPath {
		level = zerolog.DebugLevel
	}
	var code, cause, remedy string
	if p := r.problem; p != nil {
		page, _ := pageOf(p.Code)
		switch {
		case page.alarm && !p.Quiet:
			level = zerolog.ErrorLevel
		case page.status >= http.StatusInternalServerError:
			level = zerolog.WarnLevel
		}
		if !page.alarm || !p.Quiet {
			h.Metrics.Problems.WithLabelValues(p.Code).Inc()
		}
		code, remedy = p.Code, cmp.Or(p.Remedy, page.remedy)
		if p.Err != nil {
			cause = p.Err.Error()
		}
	}
	if r.outcome != "" {
		h.Metrics.FlowsFinished.WithLabelValues(r.outcome).Inc()
	}

	event := h.Log.WithLevel(level)
	for _, field := range [...]struct{ name, value string }{
		{"code", code}, {"error", cause}, {"remedy", remedy},
		{"flow", cmp.Or(r.flow.ID, r.flowID)}, {"subscriber", r.flow.Request.Subscriber}, {"outcome", r.outcome},
	} {
		if field.value != "" {
			event.Str(field.name, field.value)
		}
	}
	event.AnErr("novu", r.novu).Str("request_id", r.id).Str("method", r.Request().Method).Str("route", r.Path()).Int("status", r.Response().Status).
		Str("client", r.client).Dur("ms", took).Msg("request")
}
