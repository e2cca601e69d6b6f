// Package demo runs the service with a simulated Slack, a simulated Novu and the
// settings page of a customer's app, which lists every request that was sent. Everything
// listens on loopback, and nothing is kept.
package demo

import (
	"context"
	"crypto/rand"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"novu-slack-redirect/config"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/service"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// demoPeople are the subscribers of the demo. The second ID must be escaped in URLs.
var demoPeople = []string{"ada@example.com", "user+1@example.com/ä #?"}

// Run runs the demo until ctx ends, and prints the address of its first page.
func Run(ctx context.Context, stdout io.Writer, stderr *service.LogWriter) error {
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

	recorder := &upstreamtest.Recorder{}
	slack, novu := slacktest.New(recorder), novutest.New(recorder)
	redirectURL := at("service").JoinPath("/slack/callback")
	slack.RedirectURL = redirectURL.String()
	one := func(text string) []secret.String { return []secret.String{secret.New(text)} }
	c := config.Config{
		RedirectURL: redirectURL, SlackURL: at("slack"), NovuAPIURL: at("novu"),
		Plain:        config.Plain{SlackClientID: slack.ClientID, DataFile: filepath.Join(dir, "demo.db"), AppName: "Example Inc.", AppURL: at("app").String() + "/", LogFormat: config.LogConsole},
		SlackSecrets: one(slack.ClientSecret), StoreSecrets: one(slack.ClientSecret),
		NovuAPIKeys: one(novu.APIKey), LinkSecrets: one(rand.Text() + rand.Text()), CreateSubscriber: true,
		StateTTL: 15 * time.Minute, LogLevel: zerolog.WarnLevel,
	}
	s, err := service.New(c, stderr)
	if err != nil {
		return err
	}
	defer s.Close()
	app := &demoApp{
		origin: at("app").String() + "/", service: s, slack: slack, novu: novu, recorder: recorder,
		proxy: upstreamtest.NewProxy("this service", recorder, handler.New(s.Routes)),
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.Outbox.Run(ctx)
		return nil
	})
	pages := http.NewServeMux()
	pages.HandleFunc("GET /{$}", app.settings)
	pages.HandleFunc("POST /show", app.show)
	for name, h := range map[string]http.Handler{"app": pages, "service": app.proxy, "slack": app.simulatedSlack(), "novu": novu} {
		group.Go(func() error { return s.Serve(ctx, listeners[name], h) })
	}
	fmt.Fprintf(stdout, "Open %s in a browser, and stop with Ctrl-C.\n", app.origin)
	return group.Wait()
}

// demoApp is the settings page of a customer's app.
type demoApp struct {
	origin   string
	service  *service.Service
	proxy    *upstreamtest.Proxy // in front of the service
	slack    *slacktest.Server
	novu     *novutest.Server
	recorder *upstreamtest.Recorder
	coop     atomic.Bool // Slack's pages cut popups off from their opener
}

// simulatedSlack is the fake Slack, whose pages may cut popups off from their opener.
func (a *demoApp) simulatedSlack() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.coop.Load() {
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		a.slack.ServeHTTP(w, r)
	})
}

//go:embed demo.html
var demoHTML string

func (a *demoApp) settings(w http.ResponseWriter, r *http.Request) {
	a.beginFaults(examplePage{})
	query := r.URL.Query()
	a.coop.Store(query.Has("apart"))
	pages := g.Map(examplePages, func(s examplePage) g.Node {
		return h.Button(h.Name("page"), h.Value(s.Page), h.Code(g.Text(s.Page)), g.Text(" "), h.Span(g.Text(s.How)))
	})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	http.SetCookie(w, &http.Cookie{Name: "demo", Value: "1", SameSite: http.SameSiteLaxMode}) // a real app has cookies, too
	strings.NewReplacer(
		"{{outcome}}", outcomeNote(query).String(), "{{people}}", g.Map(demoPeople, a.personCard).String(),
		"{{pages}}", pages.String(), "{{requests}}", a.requestList().String(), "{{service}}", a.service.Routes.Links.Origin,
	).WriteString(w, demoHTML)
}

// outcomeNote shows the outcome in the query of the return URL.
func outcomeNote(query url.Values) g.Group {
	place := "your channel"
	if query.Has("channel") {
		place = query.Get("channel") + " at " + query.Get("team")
	}
	class, text := "outcome", ""
	switch query.Get("slack") {
	case "connected":
		text = "Slack is connected: " + place + "."
	case "pending":
		text = "Slack is connected to " + place + "; we are finishing the set-up."
	case "error":
		class, text = "outcome error", "Slack was not connected. "+query.Get("reason")
	default:
		return nil
	}
	return g.Group{h.P(h.Class(class), h.Role("status"), g.Text(text))}
}

// personCard shows one subscriber.
func (a *demoApp) personCard(id string) g.Node {
	channels, known := a.novu.Channels(id)
	saved := g.Map(channels, func(c novutest.Channel) g.Node {
		return h.P(g.Text("Novu sends to "), h.Code(g.Text(upstreamtest.Mask(c.WebhookURL))))
	})
	if len(channels) == 0 {
		text := "Novu does not know this subscriber yet."
		if known {
			text = "Novu knows this subscriber, without a Slack channel."
		}
		saved = g.Group{h.P(h.Class("soft"), g.Text(text))}
	}
	signed, plain := a.link(link.Request{Subscriber: id, ReturnURL: a.origin}, time.Hour), a.link(link.Request{Subscriber: id}, time.Hour)
	return h.Section(h.H2(g.Text(id)), saved,
		h.A(h.Class("add"), h.Href(signed), g.Text("Add to Slack")), g.Text(" "),
		h.A(h.Class("plain"), h.Href(plain), g.Text("or end on the service’s own page")), g.Text(", or "),
		h.A(h.Class("slack-popup"), h.Href(signed), g.Text("in a popup")),
	)
}

// requestList lists every request that was sent, as a Request Bin does.
func (a *demoApp) requestList() (list g.Group) {
	for _, e := range a.recorder.All() {
		if strings.HasPrefix(e.Target, "/slack/assets/") {
			continue
		}
		var text strings.Builder
		add := func(label, value string) {
			if value != "" {
				fmt.Fprintln(&text, label+value)
			}
		}
		for _, name := range []string{"Authorization", "Content-Type", "Cookie"} {
			add(name+": ", e.Header.Get(name))
		}
		add("", e.Body)
		answer := strings.TrimSpace(e.Answer)
		if answer != "" && answer[0] != '{' {
			answer = "(a page)"
		}
		if e.Location != "" {
			add("← Location: ", e.Location)
		} else {
			add("← ", answer)
		}
		status := "no answer"
		if e.Status != 0 {
			status = strconv.Itoa(e.Status)
		}
		list = append(list, h.Li(h.Details(
			h.Summary(h.Span(h.Class("to"), g.Text("→ "+e.To)), g.Text(" "), h.Code(g.Text(e.Method+" "+upstreamtest.Mask(e.Target))), g.Text(" "), h.Strong(g.Text(status))),
			h.Pre(g.Text(upstreamtest.Mask(text.String()))),
		)))
	}
	if len(list) == 0 {
		return g.Group{h.Li(h.Class("nobody soft"), g.Text("Nothing yet. Click Add to Slack."))}
	}
	return list
}
