package handler

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"novu-slack-redirect/link"
	"novu-slack-redirect/state"
)

//go:embed pages
var pages embed.FS

// page is what all pages of one name have in common. The name of a problem's page is the
// problem's code. What the person reads is in pages/*.json, one file for each language.
type page struct {
	status   int
	kind     string // as in icons; if empty, a problem's is "problem", and other pages have no icon
	again    bool   // Start again can help
	hasForm  bool   // with a button that does what the page asks about
	hasPlace bool   // shows the channel that was picked
	alarm    bool   // only the operator can help, so the log line is an error
	remedy   string // for the operator, in the log
}

// pageOf returns the page with a name, and whether it is a problem's.
func pageOf(name string) (p page, isProblem bool) {
	if p, ok := otherPages[name]; ok {
		return p, false
	}
	p, ok := catalogue[name]
	if !ok {
		p = catalogue[codeInternal]
	}
	p.kind = cmp.Or(p.kind, "problem")
	return p, true
}

// Names of pages that show no problem, other than the outcomes of flows.
const (
	pageFront      = "front"
	pageInstall    = "install"
	pageDisconnect = "disconnect"
	pageWorking    = "working"         // the flow has no outcome yet
	pageUnused     = "choice_not_used" // a second choice, after the first was connected
)

var otherPages = map[string]page{
	pageFront:          {status: http.StatusOK},
	pageInstall:        {status: http.StatusOK, kind: "install", hasForm: true},
	pageDisconnect:     {status: http.StatusOK, kind: "disconnected", hasForm: true},
	pageWorking:        {status: http.StatusAccepted, kind: "working"},
	codePending:        {status: http.StatusOK, kind: "working", hasPlace: true},
	state.Connected:    {status: http.StatusOK, kind: "connected", again: true, hasPlace: true},
	pageUnused:         {status: http.StatusConflict, kind: "problem", again: true, hasPlace: true},
	state.Disconnected: {status: http.StatusOK, kind: "disconnected"},
}

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

// render answers with the page of a name: a problem's code, a flow's outcome or one of
// otherPages. Its buttons return to the app of r.flow, and start that flow again.
func (h *handler) render(r *request, name string) error {
	page, isProblem := pageOf(name)
	header := r.Response().Header()
	v := view{
		Brand: h.Brand, page: page, dictionary: h.chooseDictionary(r.Request().Header.Get("Accept-Language")),
		name: name, flow: r.flow, helpURL: h.Brand.SupportURL, refresh: header.Get("Refresh"),
	}
	v.words = v.Pages[h.wordsOf(r, name)]
	outcome := outcomeOf(v.flow)
	if isProblem {
		v.code = name
		if name != codeUnfinished {
			outcome = name
		}
	}
	if isProblem && v.kind != "cancelled" {
		v.reference = r.reference()
		v.helpURL = fillMail(v.SupportURL, v.Title+" ("+v.reference+")", fmt.Sprintf("\r\n\r\n%s\r\n%s: %s (%s)\r\n", v.Text, v.Labels["reference"], v.reference, name))
	}
	if v.again {
		if v.againURL = h.startAgainURL(v.flow); v.againURL == "" && isProblem {
			v.Next = v.Labels["from_app"]
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
	_ = v.markup().Render(&markup) // writing to a buffer does not fail
	return r.HTMLBlob(page.status, markup.Bytes())
}

// wordsOf returns the name of a page's words in the dictionary. It is the page's own name,
// or another one if more is known about the cause.
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

const assetCache = "public, max-age=3600"

// serveAsset serves the embedded file with the name of the route.
func serveAsset(r *request) error {
	r.Response().Header().Set("Cache-Control", assetCache)
	http.ServeFileFS(r.Response(), r.Request(), pages, "pages/"+path.Base(r.Path()))
	return nil
}
