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

	"novu-slack-redirect/link"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

// view is a page for one request.
type view struct {
	Brand
	page
	words
	*dictionary
	name      string     // of the page
	flow      state.Flow // of the request; its zero value has nothing to show
	code      string     // of a problem
	reference string     // of a problem that the person did not choose: the log lines with it say what happened
	message   string     // to the page that opened a popup: a query with its fields; empty while there is no outcome
	againURL  string     // starts the flow again
	backURL   string     // returns to the app
	helpURL   string     // where people find help
	refresh   string     // the Refresh header of a page that waits
}

// render answers with a page: the one of a problem, by its code, of a flow's outcome, or
// another one. It leads back to the app, and starts again, the flow of the request.
func (h *handler) render(r *request, name string) error {
	page, isProblem := pageOf(name)
	header := r.Response().Header()
	v := view{
		Brand: h.Brand, page: page, dictionary: chooseDictionary(r.Request().Header.Get("Accept-Language")),
		name: name, flow: r.flow, helpURL: h.Brand.SupportURL, refresh: header.Get("Refresh"),
	}
	v.words = v.Pages[h.wordsOf(r, name)].fill(v.Brand.Name)
	outcome := outcomeOf(v.flow)
	if isProblem {
		v.code = name
		if name != codeUnfinished {
			outcome = name
		}
	}
	if isProblem && v.kind != "cancelled" {
		v.reference = r.reference()
		v.helpURL = fillMail(v.SupportURL, v.words.Title+" ("+v.reference+")", fmt.Sprintf("\r\n\r\n%s\r\n%s: %s (%s)\r\n", v.words.Text, v.Labels["reference"], v.reference, name))
	}
	if v.again {
		if v.againURL = h.startAgainURL(v.flow); v.againURL == "" && isProblem {
			v.Next = v.label("from_app")
		}
	}
	v.backURL = cmp.Or(v.flow.Request.ReturnURL, v.AppURL)
	if to := v.flow.Request.ReturnURL; outcome != "" && (to != "" || v.flow.Request.Popup) {
		told := h.outcome(v.flow, outcome)
		v.message = strings.TrimPrefix(link.AddQuery("", told...), "?")
		if v.flow.Request.Popup {
			told = append(told, "slack_popup", "1")
		}
		if to != "" { // APP_URL learns nothing
			v.backURL = link.AddQuery(to, told...)
		}
	}

	header.Set("Content-Language", v.Tag)
	header.Set("Content-Security-Policy", h.contentPolicy(v))
	var markup bytes.Buffer
	_ = v.markup().Render(&markup) // a buffer takes all
	return r.HTMLBlob(page.status, markup.Bytes())
}

// wordsOf returns the name of a page's words in the dictionary: its own, but where more is
// known.
func (h *handler) wordsOf(r *request, name string) string {
	switch {
	case name == codeOtherBrowser && r.Request().Header.Get("Cookie") == "":
		return "no_cookies"
	case name == codeNotFound && h.isChangedPath(r.Request().URL.Path):
		return "path_changed"
	case name == codePending && r.flow.Request.Action == link.Disconnect:
		return "disconnecting"
	case name == pageWorking && r.flow.Turn.Place > 0:
		return "waiting"
	}
	return name
}

// contentPolicy returns the Content-Security-Policy of an answer: pages load our own files
// and the app's logo, and nothing else. Browsers apply form-action to every redirect that
// follows: to Slack, to a workspace's sign-in provider, and to the return URL. That can be
// any https host, or an http one during development.
func (h *handler) contentPolicy(v view) string {
	policy := strings.TrimSpace("default-src 'none'; style-src 'self'; img-src 'self' "+originOf(h.Brand.LogoURL)) + "; base-uri 'none'; frame-ancestors 'none'"
	switch {
	case !v.hasForm:
		policy += "; form-action 'none'"
	case h.secure():
		policy += "; form-action 'self' https:"
	default:
		policy += "; form-action 'self' https: http:"
	}
	if v.flow.Request.Popup || v.refresh != "" {
		policy += "; script-src 'self'"
	}
	if v.refresh != "" {
		policy += "; connect-src 'self'"
	}
	return policy
}

// originOf returns the origin of a URL, or "" if text is empty.
func originOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// fillMail returns a mailto URL with a subject and a body (RFC 6068), and any other URL as
// it is.
func fillMail(to, subject, body string) string {
	if !strings.HasPrefix(to, "mailto:") {
		return to
	}
	return to + "?" + strings.ReplaceAll(url.Values{"subject": {subject}, "body": {body}}.Encode(), "+", "%20")
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

const assetCache = "public, max-age=3600"

// serveAsset serves the embedded file with the name of the route.
func serveAsset(r *request) error {
	r.Response().Header().Set("Cache-Control", assetCache)
	http.ServeFileFS(r.Response(), r.Request(), pages, "pages/"+path.Base(r.Path()))
	return nil
}
