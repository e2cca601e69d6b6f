package handler

import (
	"fmt"
	"html"
	"strings"
	"unicode/utf8"

	g "maragu.dev/gomponents"
	c "maragu.dev/gomponents/components"
	h "maragu.dev/gomponents/html"

	"novu-slack-redirect/link"
)

// icons are SVG paths, one for each kind of page, in a circle of 24 by 24.
var icons = map[string]string{
	"install":      "M12 7v10M7 12h10",
	"connected":    "M7 12.5l3.5 3.5L17 9",
	"working":      "M12 6.5V12l3.5 2.5",
	"disconnected": "M8.5 8.5l7 7M15.5 8.5l-7 7",
	"cancelled":    "M8.5 8.5l7 7M15.5 8.5l-7 7",
	"problem":      "M12 6.5v7M12 17v.1",
}

// markup is the page. Text and attributes are escaped as they are written; every
// URL was checked when it was read.
func (v view) markup() g.Node {
	isPopup, waits := v.flow.Request.Popup, v.refresh != ""
	account, manageURL := v.flow.Request.AccountName, v.flow.Result.ConfigurationURL
	showsPlace := v.hasPlace && v.flow.Request.Action == link.Connect
	done := v.kind == "connected" || v.kind == "working"
	// The app stands beside Slack where they are connected, or no more, and else alone.
	isPair := done || v.kind == "install" || v.kind == "disconnected"
	// What to do first: what the page asks about, to start again where that helps, or to go
	// back, once there is an outcome.
	againFirst := v.againURL != "" && !done
	backFirst := !v.hasForm && !againFirst && (!waits || showsPlace)
	title := v.Title
	if !strings.Contains(title, v.Brand.Name) {
		title += " · " + v.Brand.Name
	}
	return c.HTML5(c.HTML5Props{
		Title:    title,
		Language: v.Tag,
		Head: []g.Node{
			h.Meta(h.Name("color-scheme"), h.Content("light dark")),
			h.Meta(h.Name("robots"), h.Content("noindex")),
			// With no-referrer, browsers send the form with Origin: null, and those without
			// Sec-Fetch-Site could not show that it is ours.
			g.If(v.hasForm, h.Meta(h.Name("referrer"), h.Content("same-origin"))),
			h.Link(h.Rel("icon"), h.Href(assetsPath+"icon.svg"), h.Type("image/svg+xml")),
			h.Link(h.Rel("stylesheet"), h.Href(assetsPath+"style.css")),
			g.If(isPopup, h.Script(h.Src(assetsPath+"popup.js"), h.Defer())),
			g.If(waits, h.Script(h.Src(assetsPath+"wait.js"), h.Defer())),
		},
		Body: []g.Node{
			g.If(isPopup, g.Group{h.Data("origin", originOf(v.flow.Request.ReturnURL)), h.Data("outcome", v.message), g.If(v.kind == "problem", h.Data("stay", "yes"))}),
			g.If(!isPair, h.Header(v.appMark(v.Brand.Name), g.If(v.LogoURL == "", h.P(g.Text(v.Brand.Name))))),
			h.Main(g.If(v.kind != "", h.Class(v.kind)), g.If(v.code != "", h.Data("code", v.code)), g.If(waits, h.Data("refresh", v.refresh)),
				h.Div(h.ID("status"), g.If(waits, h.Role("status")),
					g.If(isPair, h.Div(h.Class("pair"), v.appMark(""), v.sign(), h.Img(h.Class("mark"), h.Src(assetsPath+"slack.svg"), h.Alt("")))),
					g.If(!isPair && v.kind != "", v.sign()),
					h.H1(g.Text(v.Title)),
					g.Iff(showsPlace, func() g.Node { return h.P(h.Class("place"), v.placeText()) }),
					// The name is the app's customer's own text: it stands apart from the text around it.
					g.If(account != "", h.P(h.Class("account"), g.Text(v.Labels["account"]+" "), g.El("bdi", g.Text(account)))),
					h.P(g.Text(v.Text)),
					g.If(v.flow.Turn.Place > 0, h.P(h.Strong(g.Text(strings.ReplaceAll(v.Labels["queue"], "{place}", fmt.Sprint(v.flow.Turn.Place)))))),
					h.P(g.Text(v.Next)),
				),
				g.If(v.hasForm, h.Form(h.Method("post"), v.formButton())),
				g.If(v.againURL != "" || v.backURL != "" || manageURL != "" || isPopup, h.Nav(h.Aria("label", v.Labels["what_next"]),
					g.If(againFirst, h.A(h.ID("again"), h.Class("button"), h.Href(v.againURL), g.Text(v.Labels["again"]))),
					g.If(v.backURL != "", h.A(h.ID("back"), g.If(backFirst, h.Class("button")), h.Href(v.backURL), g.Text(v.Labels["back"]))),
					g.If(isPopup, h.Button(c.Classes{"button": true, "plain": v.hasForm || againFirst}, h.ID("close"), h.Type("button"), h.Hidden(""), g.Text(v.Labels["close"]))),
					g.If(v.againURL != "" && done, h.A(h.ID("change"), h.Href(v.againURL), g.Text(v.Labels["change"]))),
					g.If(manageURL != "", h.A(h.ID("manage"), h.Href(manageURL), g.Text(v.Labels["manage"]))),
				)),
				g.If(v.reference != "", h.Div(h.Class("help"),
					h.P(g.Text(v.Labels["reference"]+" "), h.Code(g.Text(v.reference)), g.Text(" · "), h.Code(g.Text(v.code))),
					v.helpLink(),
				)),
			),
			g.If(v.reference == "" && v.helpURL != "", h.Footer(v.helpLink())),
		},
	})
}

// appMark is the app's logo, or the first letter of its name. name is what a screen reader
// says for the logo: empty where the text says it.
func (v view) appMark(name string) g.Node {
	if v.LogoURL != "" {
		return h.Img(h.Class("mark"), h.Src(v.LogoURL), h.Alt(name), h.ReferrerPolicy("no-referrer"))
	}
	first, _ := utf8.DecodeRuneInString(v.Brand.Name)
	return h.Span(h.Class("mark initial"), h.Aria("hidden", "true"), g.Text(strings.ToUpper(string(first))))
}

// formButton is the button of the page's form: Slack's own Add to Slack on the install page.
func (v view) formButton() g.Node {
	if v.name == pageInstall {
		return h.Button(h.Class("button slack"), h.Img(h.Src(assetsPath+"slack.svg"), h.Alt("")), g.Text(v.Labels[v.name]))
	}
	return h.Button(h.Class("button"), g.Text(v.Labels[v.name]))
}

func (v view) sign() g.Node {
	return g.El("svg", h.Class("sign"), g.Attr("viewBox", "0 0 24 24"), h.Aria("hidden", "true"),
		g.El("circle", g.Attr("cx", "12"), g.Attr("cy", "12"), g.Attr("r", "11")), g.El("path", g.Attr("d", icons[v.kind])))
}

func (v view) helpLink() g.Node {
	return g.If(v.helpURL != "", h.P(h.A(h.Href(v.helpURL), g.Text(v.Labels["help"]))))
}

// placeText is where messages arrive: the channel and the workspace, by the names that Slack
// shows, which no browser may translate or hyphenate.
func (v view) placeText() g.Node {
	name := func(text string) g.Node { return g.El("bdi", g.Attr("translate", "no"), g.Text(text)) }
	place := v.flow.Result
	channel := name(place.Channel)
	// Slack's IDs of direct messages begin with D. Their name is the person's with an @, or
	// a word for what it is, in English.
	isDirect := strings.HasPrefix(place.ChannelID, "D") || strings.EqualFold(place.Channel, "directmessage")
	switch {
	case isDirect && !strings.HasPrefix(place.Channel, "@"):
		channel = g.El("bdi", g.Text(v.Labels["direct_message"]))
	case place.Channel == "":
		channel = g.El("bdi", g.Text(v.Labels["some_channel"]))
	}
	if place.Team == "" {
		return channel
	}
	return g.Raw(strings.NewReplacer("{channel}", fmt.Sprint(channel), "{team}", fmt.Sprint(name(place.Team))).Replace(html.EscapeString(v.Labels["place"])))
}
