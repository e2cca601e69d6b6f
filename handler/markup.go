package handler

import (
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

// icons are SVG paths, one for each kind of page, in a circle of 24 by 24.
var icons = map[string]string{
	"install":   "M12 7v10M7 12h10",
	"connected": "M7 12.5l3.5 3.5L17 9",
	"working":   "M12 6.5V12l3.5 2.5",
	"cancelled": "M8.5 8.5l7 7M15.5 8.5l-7 7",
	"problem":   "M12 6.5v7M12 17v.1",
}

// markup is the page. Text and attributes are escaped as they are written; every
// URL was checked when it was read.
func (v view) markup() g.Node {
	done := v.kind == "connected" || v.kind == "working"
	return h.Doctype(h.HTML(h.Lang(v.Tag),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.Meta(h.Name("color-scheme"), h.Content("light dark")),
			h.Meta(h.Name("robots"), h.Content("noindex")),
			// With no-referrer, browsers send the form with Origin: null, and those without
			// Sec-Fetch-Site could not show that it is ours.
			g.If(v.formLabel != "", h.Meta(h.Name("referrer"), h.Content("same-origin"))),
			h.TitleEl(g.Text(v.words.Title+" · "+v.Brand.Name)),
			h.Link(h.Rel("icon"), h.Href(iconPath), h.Type("image/svg+xml")),
			h.Link(h.Rel("stylesheet"), h.Href(stylePath)),
			g.If(v.popup != nil, h.Script(h.Src(popupPath), h.Defer())),
		),
		h.Body(
			g.Iff(v.popup != nil, func() g.Node {
				return g.Group{h.Data("origin", v.popup.origin), h.Data("outcome", v.popup.outcome), g.If(v.popup.stay, h.Data("stay", "yes"))}
			}),
			h.Header(
				g.If(v.LogoURL != "", h.Img(h.Src(v.LogoURL), h.Alt(""), h.ReferrerPolicy("no-referrer"))),
				h.P(g.Text(v.Brand.Name)),
			),
			h.Main(g.If(v.kind != "", h.Class(v.kind)),
				g.If(v.kind != "", g.El("svg", h.Class("sign"), g.Attr("viewBox", "0 0 24 24"), h.Aria("hidden", "true"),
					g.El("circle", g.Attr("cx", "12"), g.Attr("cy", "12"), g.Attr("r", "11")), g.El("path", g.Attr("d", icons[v.kind])),
				)),
				h.H1(g.Text(v.words.Title)),
				// The name is the app's customer's own text: it stands apart from the text around it.
				g.If(v.account != "", h.P(h.Class("account"), g.Text(v.Labels["account"]+" "), g.El("bdi", g.Text(v.account)))),
				h.P(g.Text(v.Text)), g.If(v.place != "", h.P(h.Strong(g.Text(v.place)))), h.P(g.Text(v.Next)),
				g.If(v.formLabel != "", h.Form(h.Method("post"), h.Button(h.Class("button"), g.Text(v.formLabel)))),
				g.If(v.againURL != "" || v.backURL != "" || v.manageURL != "" || v.popup != nil, h.Nav(h.Aria("label", v.Labels["what_next"]),
					g.If(v.againURL != "" && !done, h.A(h.Class("button"), h.Href(v.againURL), g.Text(v.Labels["again"]))),
					g.If(v.backURL != "", h.A(h.ID("back"), g.If(done || v.againURL == "", h.Class("button")), h.Href(v.backURL), g.Text(v.Labels["back"]))),
					g.If(v.popup != nil, h.Button(h.Class("button"+map[bool]string{true: " plain"}[v.againURL != ""]), h.ID("close"), h.Type("button"), h.Hidden(""), g.Text(v.Labels["close"]))),
					g.If(v.manageURL != "", h.A(h.Href(v.manageURL), g.Text(v.Labels["manage"]))),
					g.If(v.againURL != "" && done, h.A(h.Href(v.againURL), g.Text(v.Labels["change"]))),
				)),
			),
			g.If(v.code != "" || v.SupportURL != "", h.Footer(
				g.If(v.SupportURL != "", h.P(h.A(h.Href(v.SupportURL), g.Text(v.Labels["help"])))),
				g.If(v.code != "", h.P(
					g.Text(v.Labels["code"]+" "), h.Code(g.Text(v.code)), g.Text(" · "+v.Labels["request"]+" "), h.Code(g.Text(v.requestID)),
				)),
			)),
		),
	))
}
