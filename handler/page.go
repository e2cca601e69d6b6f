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
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/link"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

// view is what a page shows.
type view struct {
	kind      string        // as in icons; "" has no icon
	againURL  string        // starts the flow again
	backURL   string        // returns to the app
	manageURL string        // where the person manages the webhook at Slack
	place     *state.Result // whose channel and workspace are shown; nil shows none
	code      string        // of a problem
	reference string        // of a problem that the person did not choose: the log lines with it say what happened
	helpURL   string        // where people find help
	refresh   string        // the Refresh header of a page that waits
	queue     string        // the person's place among those who wait for Slack; empty if there is none
	formLabel string        // of the button of the page's form; empty without a form
	account   string        // whose account the flow is for
	popup     *popup        // if the page is in one
	Brand
	words
	*dictionary
}

// popup is the message of a page in a popup to the page that opened it.
type popup struct {
	origin  string // of the return URL: no other page receives the message
	outcome string // a query with the fields of the message; empty while there is no outcome
	stay    bool   // do not close: the person has something to read
}

// render answers with the page for a code: one of the catalogue, the outcome of a flow, or
// the name of another page. text is the page's name in the dictionary, if it is not the
// code. flow is the flow to return to the app from and to start again; it may be nil.
func (h *handler) render(c echo.Context, code, text string, flow *state.Flow) error {
	info, ok := otherPages[code]
	isProblem := !ok
	if isProblem {
		info = problemInfo(code)
	}
	if flow == nil {
		flow = &state.Flow{Request: link.Request{Popup: isProblem && logLineOf(c).query.Get("display") == "popup"}}
	}

	d := chooseDictionary(c.Request().Header.Get("Accept-Language"))
	v := view{kind: info.kind, manageURL: flow.Result.ConfigurationURL, account: flow.Request.AccountName, helpURL: h.Brand.SupportURL, Brand: h.Brand, dictionary: d}
	v.refresh = c.Response().Header().Get("Refresh")
	v.words = d.Pages[cmp.Or(text, code)].fill(h.Brand.Name)
	if flow.Turn.Place > 0 {
		v.queue = strings.ReplaceAll(d.Labels["queue"], "{place}", strconv.Itoa(flow.Turn.Place))
	}
	if isProblem {
		v.kind, v.code = cmp.Or(info.kind, "problem"), code
	}
	if isProblem && v.kind != "cancelled" {
		v.reference = referenceOf(c)
		v.helpURL = fillMail(h.Brand.SupportURL, v.words.Title+" ("+v.reference+")", fmt.Sprintf("\r\n\r\n%s\r\n%s: %s (%s)\r\n", v.words.Text, d.Labels["reference"], v.reference, code))
	}
	if code == pageUnused || (code == state.Connected || code == codePending) && flow.Request.Action != link.Disconnect {
		v.place = &flow.Result
	}
	if code == "install" || code == "disconnect" {
		v.formLabel = d.Labels[code]
	}
	if code == pageUnused {
		code = outcomeCode(*flow) // for the app
	}
	if info.again {
		if v.againURL = h.startAgainURL(*flow); v.againURL == "" && isProblem {
			v.Next = v.label("from_app")
		}
	}
	hasOutcome := isProblem && code != codeUnfinished || appOutcome(code) == code
	if v.backURL = flow.Request.ReturnURL; v.backURL != "" && hasOutcome {
		v.backURL = h.returnURL(*flow, code)
	} else if v.backURL == "" {
		v.backURL = h.Brand.AppURL // which learns nothing
	}
	if flow.Request.Popup {
		v.popup = &popup{origin: originOf(flow.Request.ReturnURL), stay: v.kind == "problem"}
		if hasOutcome {
			v.popup.outcome = strings.TrimPrefix(link.AddQuery("", h.outcome(*flow, code)...), "?")
		}
	}

	header := c.Response().Header()
	header.Set("Content-Language", d.Tag)
	header.Set("Content-Security-Policy", h.contentPolicy(v))
	var page bytes.Buffer
	if err := v.markup().Render(&page); err != nil {
		return err
	}
	return c.HTMLBlob(info.status, page.Bytes())
}

// referenceOf returns what a person tells the people who run the app: the ID of the flow,
// which a reload does not change, or else of the request.
func referenceOf(c echo.Context) string {
	line := logLineOf(c)
	if line.flow != nil && line.flow.ID != "" {
		return line.flow.ID
	}
	return line.requestID
}

// fillMail returns a mailto URL with a subject and a body (RFC 6068), and any other URL as
// it is.
func fillMail(to, subject, body string) string {
	if !strings.HasPrefix(to, "mailto:") {
		return to
	}
	return to + "?" + strings.ReplaceAll(url.Values{"subject": {subject}, "body": {body}}.Encode(), "+", "%20")
}

// refusedParam is the query parameter with the code of a refusal, for the result page.
// Anyone can write it, so it only selects the text of the page.
const refusedParam = "refused"

// unusedParam is the query parameter that says that the person made a second choice at
// Slack after the first one was connected.
const unusedParam = "unused"

// pageUnused says that a second choice was not used.
const pageUnused = "choice_not_used"

// result shows the outcome of a flow, so far, to the browser that has its cookie.
func (h *handler) result(c echo.Context) error {
	query, malformed := logLineOf(c).query, logLineOf(c).queryErr
	id := query.Get("flow")
	if malformed != nil || len(query["flow"]) != 1 || !state.ValidFlowID(id) {
		return &problem{code: codeRequestInvalid}
	}
	flow, err := h.lookUp(c, id)
	if err != nil {
		return err
	}
	switch refused := query.Get(refusedParam); {
	case flow.Phase == state.Issued && outbox.IsRefusal(refused):
		return h.render(c, refused, "", &flow)
	case flow.Phase == state.Issued:
		return &problem{code: codeUnfinished, flow: &flow}
	case query.Has(unusedParam) && flow.Result.Code != state.Disconnected && appOutcome(outcomeCode(flow)) != "error":
		return h.render(c, pageUnused, "", &flow)
	case flow.Ended() && returnsToApp(flow) && query.Has(reloadParam):
		return c.Redirect(http.StatusSeeOther, h.returnURL(flow, outcomeCode(flow))) // this is a page that reloaded itself
	}
	return h.renderFlow(c, flow)
}

// renderFlow shows a flow that has been consumed.
func (h *handler) renderFlow(c echo.Context, flow state.Flow) error {
	code, text := outcomeCode(flow), ""
	switch code {
	case "":
		return h.renderWorking(c, flow)
	case codePending:
		setRefresh(c, flow.ID, 2*time.Second)
		if flow.Request.Action == link.Disconnect {
			text = "disconnecting"
		}
	}
	return h.render(c, code, text, &flow)
}

// renderWorking shows a flow that has no outcome yet. If it waits for Slack for longer than
// showPlaceFrom, the page has its place in the queue.
func (h *handler) renderWorking(c echo.Context, flow state.Flow) error {
	turn, err := h.Store.Turn(withoutCancel(c), flow)
	if h.storeProblem(err) != nil || turn.Wait < showPlaceFrom {
		setRefresh(c, flow.ID, 2*time.Second)
		return h.render(c, "working", "", &flow)
	}
	setRefresh(c, flow.ID, longestRefresh)
	flow.Turn = turn
	return h.render(c, "working", "waiting", &flow)
}

const (
	showPlaceFrom  = 30 * time.Second
	longestRefresh = 10 * time.Second
	lastRefresh    = 15 * time.Minute / longestRefresh // about as long as a flow is kept
)

// reloadParam is the query parameter that counts how often a page reloaded itself.
const reloadParam = "n"

// setRefresh makes a page without a final outcome reload itself: after a pause at first, then
// after twice as long each time, up to longestRefresh.
func setRefresh(c echo.Context, id string, pause time.Duration) {
	n, _ := strconv.Atoi(logLineOf(c).query.Get(reloadParam))
	n = max(n, 1)
	for i := 1; i < n && pause < longestRefresh; i++ {
		pause *= 2
	}
	if logLineOf(c).query.Has(unusedParam) { // said once there is an outcome
		id += "&" + unusedParam
	}
	if n <= int(lastRefresh) {
		c.Response().Header().Set("Refresh", fmt.Sprintf("%d; url=%s?flow=%s&%s=%d", int(min(pause, longestRefresh).Seconds()), resultPath, id, reloadParam, n+1))
	}
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

const assetCache = "public, max-age=3600"

// serveAsset serves the embedded file with the name of the route.
func serveAsset(c echo.Context) error {
	c.Response().Header().Set("Cache-Control", assetCache)
	http.ServeFileFS(c.Response(), c.Request(), pages, "pages/"+path.Base(c.Path()))
	return nil
}
