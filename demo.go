package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

const demoHelp = `usage: novu-slack-redirect demo

Runs the service between a simulated Slack and a simulated Novu, all on this machine,
and prints the address of a page to click on. It needs no settings.

example:
  novu-slack-redirect demo
`

// demo runs the service between a simulated Slack and a simulated Novu, with a
// page of a customer's app in front. Everything is on loopback and gone when it
// ends.
func demo(ctx context.Context, _ []string, stdout, stderr io.Writer) int {
	if err := runDemo(ctx, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "novu-slack-redirect: demo:", err)
		return exitFailed
	}
	return exitOK
}

// demoPeople are the subscribers of the demo. The second one's ID is of the kind
// that breaks careless URLs.
var demoPeople = []string{"ada@example.com", "user+1@example.com/ä #?"}

func runDemo(ctx context.Context, stdout, stderr io.Writer) error {
	log := newLogger(config{logConsole: true, logLevel: zerolog.WarnLevel}, stderr)
	dir, err := os.MkdirTemp("", "novu-slack-redirect-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	listeners := map[string]net.Listener{}
	at := func(name string) *url.URL {
		return &url.URL{Scheme: "http", Host: listeners[name].Addr().String()}
	}
	for _, name := range []string{"app", "service", "slack", "novu"} {
		if listeners[name], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		defer listeners[name].Close()
	}

	wires := &wire.Log{}
	slack, novu := slacktest.New(wires), novutest.New(wires)
	redirectURL := at("service").JoinPath("/slack/callback")
	slack.RedirectURL = redirectURL.String()
	one := func(text string) []secret.String { return []secret.String{secret.New(text)} }
	service, err := newService(config{
		redirectURL: redirectURL, slackURL: at("slack"), novuAPIURL: at("novu"),
		slackClientID: slack.ClientID, slackSecrets: one(slack.ClientSecret), storeSecrets: one(slack.ClientSecret),
		novuAPIKeys: one(novu.APIKey), linkSecrets: one(novu.APIKey), novuCreate: true,
		dataFile: filepath.Join(dir, "demo.db"), stateTTL: 15 * time.Minute, brand: handler.Brand{Name: "Example Inc."},
	}, log)
	if err != nil {
		return err
	}
	defer service.close()
	app := &demoApp{
		origin: at("app").String() + "/", service: service, slack: slack, novu: novu, wires: wires,
		line: wire.NewLine("this service", wires, service.routes),
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return service.outbox.Run(ctx) })
	for name, h := range map[string]http.Handler{"app": app.routes(), "service": app.line, "slack": app.consent(), "novu": novu} {
		group.Go(func() error { return serveListener(ctx, listeners[name], h, zerolog.Nop()) })
	}
	fmt.Fprintf(stdout, "Open %s in a browser, and stop with Ctrl-C.\n", app.origin)
	return group.Wait()
}

// demoApp is the settings page of a customer's app.
type demoApp struct {
	origin  string
	service *service
	line    *wire.Line // to the service
	slack   *slacktest.Server
	novu    *novutest.Server
	wires   *wire.Log
	apart   atomic.Bool // Slack's pages cut popups off from who opened them
}

func (a *demoApp) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.settings)
	mux.HandleFunc("POST /show", func(w http.ResponseWriter, r *http.Request) {
		a.mend()
		i := slices.IndexFunc(demoPages, func(s demoPageSwitch) bool { return s.Page == r.FormValue("page") })
		if i < 0 {
			http.NotFound(w, r)
			return
		}
		status := http.StatusSeeOther
		if r.FormValue("page") == "method_not_allowed" {
			status = http.StatusTemporaryRedirect // stays a POST
		}
		http.Redirect(w, r, demoPages[i].show(a), status)
	})
	return mux
}

// mend ends whatever a switch has broken.
func (a *demoApp) mend() {
	for _, line := range []*wire.Line{a.line, a.slack.Line, a.novu.Line} {
		line.BreakAll(nil)
	}
}

// consent is the simulated Slack, whose pages may be apart from their opener.
func (a *demoApp) consent() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.apart.Load() {
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		a.slack.ServeHTTP(w, r)
	})
}

//go:embed demo.html
var demoHTML string

func (a *demoApp) settings(w http.ResponseWriter, r *http.Request) {
	a.mend()
	query := r.URL.Query()
	a.apart.Store(query.Has("apart"))
	apart := g.Group{h.A(h.Href("/?apart"), g.Text("Let Slack cut popups off")), g.Text(" from the page that opened them.")}
	if query.Has("apart") {
		apart = g.Group{g.Text("Slack now cuts popups off from the page that opened them: "), h.A(h.Href("/"), g.Text("let them be")), g.Text(".")}
	}
	pages := g.Map(demoPages, func(s demoPageSwitch) g.Node {
		return h.Button(h.Name("page"), h.Value(s.Page), h.Code(g.Text(s.Page)), g.Text(" "), h.Span(g.Text(s.How)))
	})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	http.SetCookie(w, &http.Cookie{Name: "demo", Value: "1", SameSite: http.SameSiteLaxMode}) // as apps have them
	strings.NewReplacer(
		"{{outcome}}", outcome(query).String(), "{{people}}", g.Map(demoPeople, a.person).String(), "{{apart}}", apart.String(),
		"{{pages}}", pages.String(), "{{lines}}", a.lines().String(), "{{service}}", a.service.config.Links.Origin,
	).WriteString(w, demoHTML)
}

// outcome is what the return URL said.
func outcome(query url.Values) g.Group {
	class, title, rest := "outcome", "Slack is connected", ""
	where := query.Get("channel") + " at " + query.Get("team")
	if query.Get("channel") == "" {
		where = "your channel"
	}
	switch query.Get("slack") {
	case "connected":
		rest = ": " + where + "."
	case "pending":
		rest = " to " + where + "; we are finishing the set-up."
	case "error":
		class, title, rest = "outcome error", "Slack was not connected", ". "+query.Get("reason")
	default:
		return nil
	}
	return g.Group{h.P(h.Class(class), h.Role("status"), h.Strong(g.Text(title)), g.Text(rest))}
}

// person is one subscriber on the page.
func (a *demoApp) person(id string) g.Node {
	channels, known := a.novu.Channels(id)
	stands := g.Map(channels, func(c novutest.Channel) g.Node {
		return h.P(g.Text("Novu sends to "), h.Code(g.Text(wire.Mask(c.WebhookURL))))
	})
	if len(channels) == 0 && known {
		stands = g.Group{h.P(h.Class("soft"), g.Text("Novu knows this subscriber, without a Slack channel."))}
	} else if len(channels) == 0 {
		stands = g.Group{h.P(h.Class("soft"), g.Text("Novu does not know this subscriber yet."))}
	}
	link, plain := a.link(state.Flow{Subscriber: id, ReturnURL: a.origin}, time.Hour), a.link(state.Flow{Subscriber: id}, time.Hour)
	return h.Section(h.H2(g.Text(id)), stands,
		h.A(h.Class("add"), h.Href(link), g.Text("Add to Slack")), g.Text(" "),
		h.A(h.Class("plain"), h.Href(plain), g.Text("or end on the service’s own page")), g.Text(", or "),
		h.A(h.Class("slack-popup"), h.Href(link), g.Text("in a popup")),
	)
}

// lines are what went over the wire, as a Request Bin shows it.
func (a *demoApp) lines() (list g.Group) {
	for _, e := range a.wires.All() {
		if strings.HasPrefix(e.Target, "/assets/") {
			continue
		}
		var text strings.Builder
		for _, name := range []string{"Authorization", "Content-Type", "Cookie"} {
			if v := e.Header.Get(name); v != "" {
				fmt.Fprintf(&text, "%s: %s\n", name, wire.Mask(v))
			}
		}
		if e.Body != "" {
			fmt.Fprintln(&text, wire.Mask(e.Body))
		}
		if e.Go != "" {
			fmt.Fprintln(&text, "← Location:", wire.Mask(e.Go))
		}
		if answer := strings.TrimSpace(e.Answer); strings.HasPrefix(answer, "{") {
			fmt.Fprintln(&text, "←", wire.Mask(answer))
		} else if answer != "" && e.Go == "" {
			fmt.Fprintln(&text, "← (a page)")
		}
		status := "no answer"
		if e.Status != 0 {
			status = strconv.Itoa(e.Status)
		}
		list = append(list, h.Li(h.Details(
			h.Summary(h.Span(h.Class("to"), g.Text("→ "+e.To)), g.Text(" "), h.Code(g.Text(e.Method+" "+wire.Mask(e.Target))), g.Text(" "), h.Strong(g.Text(status))),
			h.Pre(g.Text(text.String())),
		)))
	}
	if len(list) == 0 {
		return g.Group{h.Li(h.Class("nobody soft"), g.Text("Nothing yet. Click Add to Slack."))}
	}
	return list
}
