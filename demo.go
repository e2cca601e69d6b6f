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
	"strings"
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
	app := &demoApp{origin: at("app").String() + "/", service: service, novu: novu, wires: wires}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return service.outbox.Run(ctx) })
	for name, h := range map[string]http.Handler{"app": app, "service": wire.NewLine("this service", wires, service.routes), "slack": slack, "novu": novu} {
		group.Go(func() error { return serveListener(ctx, listeners[name], h, zerolog.Nop()) })
	}
	fmt.Fprintf(stdout, "Open %s in a browser, and stop with Ctrl-C.\n", app.origin)
	return group.Wait()
}

// demoApp is the settings page of a customer's app.
type demoApp struct {
	origin  string
	service *service
	novu    *novutest.Server
	wires   *wire.Log
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

func (a *demoApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	var people []demoPerson
	for _, id := range demoPeople {
		p := demoPerson{ID: id}
		p.Channels, p.Known = a.novu.Channels(id)
		var err error
		for link, back := range map[*string]string{&p.Link: a.origin, &p.PlainLink: ""} {
			if *link, err = a.service.links.Sign(state.Flow{Subscriber: id, ReturnURL: back}, time.Now().Add(time.Hour)); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
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
	query := r.URL.Query()
	demoPage.Execute(w, map[string]any{
		"Outcome": query.Get("slack"), "Channel": query.Get("channel"), "Team": query.Get("team"), "Reason": query.Get("reason"),
		"People": people, "Lines": lines,
	})
}
