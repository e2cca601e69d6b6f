package main

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

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
func demo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if !noArgs("demo", args, stderr) {
		return exitUsage
	}
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
	service, err := newService(config{
		redirectURL: redirectURL, slackURL: at("slack"), novuAPIURL: at("novu"),
		slackClientID: slack.ClientID, slackClientSecret: secret.New(slack.ClientSecret),
		novuAPIKey: secret.New(novu.APIKey), novuCreate: true, linkSecrets: []secret.String{secret.New(novu.APIKey)}, storeSecrets: []secret.String{secret.New(slack.ClientSecret)},
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

var demoPage = template.Must(template.New("demo").Funcs(template.FuncMap{"mask": wire.Mask}).Parse(demoHTML))

// demoPerson is one subscriber on the page.
type demoPerson struct {
	ID, Link, PlainLink string
	Known               bool
	Channels            []novutest.Channel
}

// demoLine is an exchange as the page shows it.
type demoLine struct {
	wire.Exchange
	Sent, Answered []string
}

func (a *demoApp) settings(w http.ResponseWriter, r *http.Request) {
	a.mend()
	query := r.URL.Query()
	a.apart.Store(query.Has("apart"))
	var people []demoPerson
	for _, id := range demoPeople {
		p := demoPerson{ID: id}
		p.Channels, p.Known = a.novu.Channels(id)
		p.Link, p.PlainLink = a.link(state.Flow{Subscriber: id, ReturnURL: a.origin}, time.Hour), a.link(state.Flow{Subscriber: id}, time.Hour)
		people = append(people, p)
	}
	var lines []demoLine
	for _, e := range a.wires.All() {
		if strings.HasPrefix(e.Target, "/assets/") {
			continue
		}
		line := demoLine{Exchange: e}
		for _, name := range []string{"Authorization", "Content-Type", "Cookie"} {
			if v := e.Header.Get(name); v != "" {
				line.Sent = append(line.Sent, name+": "+v)
			}
		}
		if e.Body != "" {
			line.Sent = append(line.Sent, e.Body)
		}
		if e.Go != "" {
			line.Answered = append(line.Answered, "Location: "+e.Go)
		}
		if answer := strings.TrimSpace(e.Answer); strings.HasPrefix(answer, "{") {
			line.Answered = append(line.Answered, answer)
		} else if answer != "" && e.Go == "" {
			line.Answered = append(line.Answered, "(a page)")
		}
		lines = append(lines, line)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.SetCookie(w, &http.Cookie{Name: "demo", Value: "1", SameSite: http.SameSiteLaxMode}) // as apps have them
	demoPage.Execute(w, map[string]any{
		"Outcome": query.Get("slack"), "Channel": query.Get("channel"), "Team": query.Get("team"), "Reason": query.Get("reason"),
		"People": people, "Pages": demoPages, "Lines": lines, "Service": a.service.config.Links.Origin, "Apart": query.Has("apart"),
	})
}
