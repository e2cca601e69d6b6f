package handler

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

var pageTemplate = template.Must(template.ParseFS(pages, "pages/page.html"))

// view is what page.html shows.
type view struct {
	AppName   string
	Kind      string // "", "connected", "working" or "problem"
	Title     string
	Text      string
	Next      string
	ManageURL string // the webhook's page at Slack
	AgainURL  string // begins a new flow
	BackURL   string // leads to the app
	Code      string
	RequestID string
}

func (h *handler) render(c echo.Context, status int, v view) error {
	v.AppName = h.AppName
	v.RequestID, _ = c.Get(requestIDKey).(string)
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, v); err != nil {
		return err
	}
	return c.HTMLBlob(status, page.Bytes())
}

func (h *handler) renderProblem(c echo.Context, p *problem) error {
	e := p.entry()
	v := view{Kind: "problem", Title: e.title, Text: e.text, Next: e.next, Code: p.code}
	if p.flow != nil {
		v.AgainURL, v.BackURL = h.again(c, *p.flow), p.flow.ReturnURL
	}
	return h.render(c, e.status, v)
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
	record, err := h.look(c.Request().Context(), key)
	if err != nil {
		return err
	}
	switch {
	case record.Phase == state.Finished:
		return h.renderResult(c, record.Flow, record.Result)
	case record.Phase == state.Working && record.Age < workLimit:
		refresh(c, id)
		return h.render(c, http.StatusAccepted, view{
			Kind: "working", Title: "One moment…", Text: "We are finishing the connection to Slack.", Next: "This page reloads by itself.",
		})
	case record.Phase == state.Working:
		return &problem{code: codeInterrupted, flow: &record.Flow}
	}
	// Issued: the person has not been to Slack yet, or came back with Back.
	return &problem{code: codeStateMissing, flow: &record.Flow}
}

func (h *handler) renderResult(c echo.Context, flow state.Flow, result state.Result) error {
	place := cmp.Or(result.Channel, "the channel you picked")
	if result.Team != "" {
		place += " at " + result.Team
	}
	switch result.Code {
	case state.Connected:
		return h.render(c, http.StatusOK, view{
			Kind: "connected", Title: "Slack is connected", Text: "Messages will arrive in " + place + ".",
			Next:      "You can close this page.",
			ManageURL: result.ConfigurationURL, AgainURL: h.again(c, flow), BackURL: flow.ReturnURL,
		})
	case state.Pending:
		id, _ := c.Get(flowIDKey).(string)
		refresh(c, id)
		return h.render(c, http.StatusOK, view{
			Kind: "working", Title: "Almost done", Text: "Slack is connected to " + place + "; we are finishing the set-up.",
			Next:      "You can close this page: nothing more is needed from you.",
			ManageURL: result.ConfigurationURL, BackURL: flow.ReturnURL,
		})
	}
	return h.renderProblem(c, &problem{code: result.Code, flow: &flow})
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
