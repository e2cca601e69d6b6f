package handler

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/outbox"
	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

// view is what a page shows.
type view struct {
	name   string       // of the page in the dictionary
	result state.Result // of the flow, if there is one

	kind      string // "", "install", "connected", "working", "cancelled" or "problem"
	againURL  string // starts the flow again
	backURL   string // returns to the app
	code      string // of a problem
	popup     *popup // if the page is in one
	requestID string
	Brand
	words
	*dictionary
}

// popup is the message of a page in a popup to the page that opened it.
type popup struct {
	origin  string // of the return URL: no other page receives the message
	outcome string // the return URL's parameter slack
	stay    bool   // do not close: the person has something to read
}

func (h *handler) render(c echo.Context, status int, v view) error {
	v.dictionary = chooseDictionary(c.Request().Header.Get("Accept-Language"))
	v.words = v.Pages[v.name].fill(h.Brand.Name, v.describePlace(v.result.Channel, v.result.Team))
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

func (h *handler) renderProblem(c echo.Context, p *problem) error {
	v := view{name: cmp.Or(p.page, p.code), kind: "problem", code: p.code}
	if p.code == outbox.CodeAccessDenied {
		v.kind = "cancelled"
	}
	if p.flow != nil {
		if p.info().again {
			v.againURL = h.startAgainURL(*p.flow)
		}
		v.setBack(*p.flow, p.code)
	} else if c.QueryParam("display") == "popup" {
		v.popup = &popup{stay: true}
	}
	return h.render(c, p.info().status, v)
}

// refusedParam is the query parameter with the code of a refusal, for the result page.
// Anyone can write it, so it only selects the text of the page.
const refusedParam = "refused"

// result shows the outcome of a flow, so far, to the browser that has its cookie.
func (h *handler) result(c echo.Context) error {
	query, err := url.ParseQuery(c.Request().URL.RawQuery)
	id := query.Get("flow")
	if err != nil || len(query["flow"]) != 1 || !state.ValidFlowID(id) {
		return &problem{code: codeRequestInvalid}
	}
	setFlow(c, &state.Flow{ID: id})
	flow, err := h.lookUp(c, id)
	if err != nil {
		return err
	}
	setFlow(c, &flow)
	switch refused := query.Get(refusedParam); {
	case flow.Phase == state.Issued && outbox.IsRefusal(refused):
		return h.renderProblem(c, &problem{code: refused, flow: &flow})
	case flow.Phase == state.Issued:
		return &problem{code: codeUnfinished, flow: &flow}
	case flow.Phase == state.Finished && returnsToApp(flow) && query.Has(reloadParam):
		return c.Redirect(http.StatusSeeOther, returnURL(flow, outcomeCode(flow))) // this is a page that reloaded itself
	}
	return h.renderFlow(c, flow)
}

// renderFlow shows a flow that has been consumed.
func (h *handler) renderFlow(c echo.Context, flow state.Flow) error {
	v := view{name: outcomeCode(flow), result: flow.Result, kind: "working"}
	status := http.StatusOK
	switch v.name {
	case "":
		v.name, status = "working", http.StatusAccepted
		setRefresh(c, flow.ID)
	case codePending:
		setRefresh(c, flow.ID)
		v.setBack(flow, v.name)
	case state.Connected:
		v.kind, v.againURL = "connected", h.startAgainURL(flow)
		v.setBack(flow, v.name)
	default:
		return h.renderProblem(c, &problem{code: flow.Result.Code, flow: &flow})
	}
	return h.render(c, status, v)
}

// setBack sets the page's way back to the app, with the outcome that code means: a link
// to the return URL, and in a popup the message to its opener.
func (v *view) setBack(flow state.Flow, code string) {
	outcome := appOutcome(code)
	if v.backURL = flow.Request.ReturnURL; code == codeUnfinished { // no outcome yet
		outcome = ""
	} else if v.backURL != "" {
		v.backURL = returnURL(flow, code)
	}
	if flow.Request.Popup {
		v.popup = &popup{origin: originOf(flow.Request.ReturnURL), outcome: outcome, stay: v.kind == "problem"}
	}
}

// reloadParam is the query parameter that counts how often a page reloaded itself.
const reloadParam = "n"

// setRefresh makes a page without a final outcome reload itself: after 2 s, then after
// twice as long each time, for about as long as a flow is kept.
func setRefresh(c echo.Context, id string) {
	n, _ := strconv.Atoi(c.QueryParam(reloadParam))
	if n = max(n, 1); n <= 8 {
		c.Response().Header().Set("Refresh", fmt.Sprintf("%d; url=%s?flow=%s&%s=%d", 1<<n, resultPath, id, reloadParam, n+1))
	}
}

// startAgainURL returns the URL at which this browser starts the flow again, or "" if
// its link is no longer valid.
func (h *handler) startAgainURL(flow state.Flow) string {
	if _, err := h.Links.Verify(flow.Link); err != nil || flow.ID == "" {
		return ""
	}
	return InstallPath + "?" + againParam + "=" + flow.ID
}

// serveAsset serves the embedded file with the name of the route.
func serveAsset(c echo.Context) error {
	c.Response().Header().Set("Cache-Control", "public, max-age=3600")
	http.ServeFileFS(c.Response(), c.Request(), pages, "pages/"+path.Base(c.Path()))
	return nil
}
