package handler

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

// view is what a page shows.
type view struct {
	name   string       // of the page in the dictionary
	result state.Result // of the flow, if there is one

	kind      string // "", "install", "connected", "working", "cancelled" or "problem"
	againURL  string // begins a new flow
	backURL   string // leads to the app
	code      string // of a problem
	popup     *popup // if the page is in one
	requestID string
	Brand
	words
	*dictionary
}

// popup is what a page in a popup tells the page that opened it.
type popup struct {
	origin  string // of the return URL: nobody else is told
	outcome string // as the return URL's parameter slack
	stay    bool   // there is something to read: do not close
}

func (h *handler) render(c echo.Context, status int, v view) error {
	v.dictionary = speak(c.Request().Header.Get("Accept-Language"))
	v.words = v.Pages[v.name].fill(h.Brand.Name, v.place(v.result.Channel, v.result.Team))
	if v.againURL == "" && catalogue[v.code].again {
		v.Next = v.Labels["from_app"]
	}
	v.Brand = h.Brand
	v.requestID, _ = c.Get(requestIDKey).(string)
	header := c.Response().Header()
	header.Set("Content-Language", v.Tag)
	if v.popup != nil { // no other page has a script
		header.Set("Content-Security-Policy", header.Get("Content-Security-Policy")+"; script-src 'self'")
	}
	var page bytes.Buffer
	if err := v.markup().Render(&page); err != nil {
		return err
	}
	return c.HTMLBlob(status, page.Bytes())
}

func (h *handler) front(c echo.Context) error {
	return h.render(c, http.StatusOK, view{name: "front"})
}

func (h *handler) renderProblem(c echo.Context, p *problem) error {
	v := view{name: cmp.Or(p.page, p.code), kind: "problem", code: p.code}
	if p.code == codeAccessDenied {
		v.kind = "cancelled"
	}
	if p.flow != nil {
		if p.entry().again {
			v.againURL = h.again(c, *p.flow)
		}
		v.result.Code = p.code
		v.leadBack(*p.flow)
	} else if c.QueryParam(displayParam) == displayPopup {
		v.popup = &popup{stay: true}
	}
	return h.render(c, p.entry().status, v)
}

// result shows how a flow stands to the browser that holds its cookie.
func (h *handler) result(c echo.Context) error {
	query, err := url.ParseQuery(c.Request().URL.RawQuery)
	id := query.Get("flow")
	if err != nil || len(query["flow"]) != 1 || !state.ValidFlowID(id) {
		return &problem{code: codeRequestInvalid}
	}
	c.Set(flowIDKey, id)
	key, _, err := h.findFlow(c, id)
	if err != nil {
		return err
	}
	record, err := h.found(h.States.Look(lasting(c), key))
	if err != nil {
		return err
	}
	switch {
	case record.Phase == state.Finished:
		return h.renderResult(c, record.Flow, record.Result)
	case record.Phase == state.Working && record.Age < workLimit:
		refresh(c, id)
		return h.render(c, http.StatusAccepted, view{name: "working", kind: "working"})
	case record.Phase == state.Working:
		return &problem{code: codeInterrupted, flow: &record.Flow}
	}
	return &problem{code: codeUnfinished, flow: &record.Flow}
}

func (h *handler) renderResult(c echo.Context, flow state.Flow, result state.Result) error {
	v := view{name: result.Code, result: result, kind: "connected"}
	switch result.Code {
	case state.Connected:
		v.againURL = h.again(c, flow)
	case state.Pending:
		v.kind = "working"
		id, _ := c.Get(flowIDKey).(string)
		refresh(c, id)
	default:
		return h.renderProblem(c, &problem{code: result.Code, flow: &flow})
	}
	v.leadBack(flow)
	return h.render(c, http.StatusOK, v)
}

// leadBack leads from the page back to the app, with the outcome.
func (v *view) leadBack(flow state.Flow) {
	if v.code == codeUnfinished { // no outcome yet
		v.backURL = flow.ReturnURL
	} else if flow.ReturnURL != "" {
		v.backURL = returnTo(flow, v.result)
	}
	if flow.Popup {
		v.popup = &popup{origin: originOf("", flow.ReturnURL), outcome: outcome(v.result), stay: v.kind == "problem"}
		if v.code == codeUnfinished {
			v.popup.outcome = ""
		}
	}
}

// refresh makes a page that is not final reload by itself: after 2 s, then after
// twice as long each time, for about as long as a flow is kept.
func refresh(c echo.Context, id string) {
	n, _ := strconv.Atoi(c.QueryParam("n"))
	if n = max(n, 1); n <= 8 {
		c.Response().Header().Set("Refresh", fmt.Sprintf("%d; url=%s?flow=%s&n=%d", 1<<n, resultPath, id, n+1))
	}
}

// again returns where this browser begins the same flow anew, or nothing when
// its link has expired.
func (h *handler) again(c echo.Context, flow state.Flow) string {
	if id, ok := c.Get(flowIDKey).(string); ok && !h.linkExpired(flow) {
		return InstallPath + "?" + againParam + "=" + id
	}
	return ""
}

func asset(name, contentType string) echo.HandlerFunc {
	data, err := pages.ReadFile("pages/" + name)
	if err != nil {
		panic(err) // embedded
	}
	return func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", "public, max-age=3600")
		return c.Blob(http.StatusOK, contentType, data)
	}
}
