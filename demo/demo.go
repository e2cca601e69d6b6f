// Package demo runs the service with a simulated Slack, a simulated Novu and the
// settings page of a customer's app, which shows every request that was sent. Everything
// is on one port, and nothing is kept.
package demo

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"fmt"
	"html"
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
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
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

// customer is a customer of the app.
type customer struct{ Account, ID string }

// customers are all customers, as demo.html has them. The second ID must be escaped in URLs.
var customers = []customer{
	{"Acme Ltd", "ada@example.com"},
	{"Globex", "user+1@example.com/ä #?"},
}

// Run runs the demo until ctx ends, and prints the address of its first page. It listens
// at port on all addresses, as a container must; if port is empty, on this machine only, at
// 8080 if that is free. Its store is a temporary file below dir, or in the usual place for
// these if dir is empty.
//
// The app has the name localhost, and the service and Slack have 127.0.0.1: so they have
// different origins and sites, as they have in earnest.
func Run(ctx context.Context, port, dir string, stdout io.Writer, stderr *service.LogWriter) error {
	dir, err := os.MkdirTemp(dir, "novu-slack-redirect-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := listen(port)
	if err != nil {
		return err
	}
	defer listener.Close()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	root := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}

	recorder := &upstreamtest.Recorder{}
	slack, novu := slacktest.New(recorder), novutest.New(recorder)
	slack.RedirectURL, novu.Prefix = root.String()+"/slack/callback", novuPath
	one := func(text string) []secret.String { return []secret.String{secret.New(text)} }
	linkSecret, eventsKey := rand.Text()+rand.Text(), rand.Text()+rand.Text()
	c := config.Config{
		RedirectURL: root.JoinPath("/slack/callback"), SlackURL: root, NovuAPIURL: root.JoinPath(novuPath), EventsURL: root.JoinPath("/events"),
		SlackClientID: slack.ClientID, DataFile: filepath.Join(dir, "demo.db"), AppName: appName, AppURL: "http://localhost:" + port + "/", LogFormat: config.LogConsole,
		SlackSecrets: one(slack.ClientSecret), StoreSecrets: one(slack.ClientSecret), NovuAPIKeys: one(novu.APIKey), LinkSecrets: one(linkSecret), EventsKeys: one(eventsKey),
		CreateSubscriber: true, StateTTL: 15 * time.Minute, LogLevel: zerolog.WarnLevel,
	}
	s, err := service.New(c, stderr)
	if err != nil {
		return err
	}
	defer s.Close()
	webhook, _ := standardwebhooks.NewWebhookRaw([]byte(eventsKey)) // never fails
	d := &demo{service: s, slack: slack, novu: novu, recorder: recorder, proxy: upstreamtest.NewProxy("this service", recorder, handler.New(s.Routes))}
	d.app = &backend{
		sign: func(c customer, r link.Request) string { return d.link(c, r, time.Hour) }, linkSecret: c.LinkSecrets[0], issuer: root.String(),
		origin: "http://localhost:" + port, webhook: webhook, accounts: map[string]account{}, known: map[string]bool{},
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.Outbox.Run(ctx)
		return nil
	})
	group.Go(func() error { return s.Serve(ctx, listener, d.routes()) })
	fmt.Fprintf(stdout, "Open %s in a browser, and stop with Ctrl-C.\n", c.AppURL)
	return group.Wait()
}

func listen(port string) (net.Listener, error) {
	if port == "" {
		if listener, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
			return listener, nil
		}
		return net.Listen("tcp", "127.0.0.1:0")
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return nil, fmt.Errorf("PORT: %w; choose another", err)
	}
	return listener, nil
}

// demo is the page that surrounds the settings of the app's customers.
type demo struct {
	app      *backend
	service  *service.Service
	proxy    *upstreamtest.Proxy // in front of the service
	slack    *slacktest.Server
	novu     *novutest.Server
	recorder *upstreamtest.Recorder
	coop     atomic.Bool // Slack's pages cut popups off from their opener
}

const (
	appName  = "Example Inc."
	toApp    = "your app"
	novuPath = "/novu" // below it is the fake Novu
)

//go:embed demo.html demo.css demo.js settings.html settings.js
var files embed.FS

func (d *demo) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /{$}", d.page)
	routes.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.parts()) })
	routes.HandleFunc("POST /show", d.show)
	for _, name := range []string{"demo.css", "demo.js", "settings.js"} {
		routes.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, name) })
	}
	for n, customer := range customers {
		routes.HandleFunc(fmt.Sprintf("/account/%d", n), func(w http.ResponseWriter, r *http.Request) { d.app.slack(w, r, customer) })
	}
	routes.Handle("POST /events", upstreamtest.NewProxy(toApp, d.recorder, http.HandlerFunc(d.app.takeEvent)))
	routes.HandleFunc("/oauth/", d.simulateSlack)
	routes.HandleFunc("/api/", d.simulateSlack)
	routes.Handle(novuPath+"/", d.novu)
	routes.Handle("/", d.proxy)
	routes.Handle("GET /front/", http.StripPrefix("/front", d.proxy)) // / is the demo's
	return routes
}

// simulateSlack is the fake Slack, whose pages may cut popups off from their opener.
func (d *demo) simulateSlack(w http.ResponseWriter, r *http.Request) {
	if d.coop.Load() {
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
	}
	d.slack.ServeHTTP(w, r)
}

func (d *demo) page(w http.ResponseWriter, r *http.Request) {
	d.beginFaults(examplePage{})
	d.coop.Store(r.URL.Query().Has("apart"))
	page, _ := files.ReadFile("demo.html")
	fragment, _ := files.ReadFile("settings.html")
	box, script, _ := strings.Cut(string(fragment), "<script")
	pages := g.Map(examplePages, func(p examplePage) g.Node {
		return h.Button(h.Name("page"), h.Value(p.Page), h.Code(g.Text(p.Page)), g.Text(" "), h.Span(g.Text(p.How)))
	})
	var note g.Group
	if "http://"+r.Host != d.app.origin {
		note = g.Group{h.P(h.Class("note"), g.Text("Links lead back to "), h.A(h.Href(d.app.origin+"/"), g.Text(d.app.origin)),
			g.Text(": open this page there. A container’s port must have the same number outside; PORT sets another one."))}
	}
	texts := []string{"{{note}}", note.String(), "{{settings.js}}", "<script" + script, "{{pages}}", pages.String()}
	for id, part := range d.parts() {
		texts = append(texts, "{{"+id+"}}", part)
	}
	for n, customer := range customers {
		own := strings.Replace(box, "/account/slack", fmt.Sprint("/account/", n), 1)
		if n == 1 {
			own = strings.Replace(own, " role=", " data-popup role=", 1)
		}
		texts = append(texts, fmt.Sprintf("{{box/%d}}", n), own, fmt.Sprintf("{{link/%d}}", n), html.EscapeString(d.link(customer, link.Request{}, time.Hour)))
	}
	// What the page of an app may be like; its forms lead on to the service, which has another origin.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; form-action 'self' "+d.app.issuer+"; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	strings.NewReplacer(texts...).WriteString(w, string(page))
}

// parts returns the HTML of the parts of the page that change, by the IDs of their
// elements.
func (d *demo) parts() map[string]string {
	parts := map[string]string{"events": d.eventList().String(), "requests": d.requestList().String()}
	for n, customer := range customers {
		channels, known := d.novu.Channels(customer.ID)
		saved := g.Map(channels, func(c novutest.Channel) g.Node {
			return g.Group{g.Text("Novu sends to "), h.Code(g.Text(upstreamtest.Mask(c.WebhookURL))), g.Text(".")}
		})
		if len(channels) == 0 && known {
			saved = g.Group{g.Text("Novu knows this subscriber, without a Slack channel.")}
		} else if len(channels) == 0 {
			saved = g.Group{g.Text("Novu does not know this subscriber yet.")}
		}
		parts[fmt.Sprintf("account/%d", n)] = saved.String()
	}
	return parts
}

// eventList lists what came to EVENTS_URL, the newest first.
func (d *demo) eventList() (list g.Group) {
	for _, r := range slices.Backward(d.recorder.All()) {
		if r.To != toApp || r.Status == 0 {
			continue
		}
		if r.Status != http.StatusNoContent {
			list = append(list, h.Li(h.Class("refused"), h.Strong(g.Text("refused")), g.Text(" "+strings.TrimSpace(r.Answer)+". The app answered 400 and stored nothing.")))
			continue
		}
		var e event
		_ = json.Unmarshal([]byte(r.Body), &e) // the app could
		text := " for " + e.Data.SubscriberID
		if e.Data.Channel != "" {
			text += ": " + e.Data.Channel + " at " + e.Data.Team
		}
		list = append(list, h.Li(h.Strong(g.Text(e.Type)), g.Text(text), h.Span(h.Class("good"), g.Text(" ✓ signature verified")),
			h.Span(h.Class("soft"), g.Text(" "+r.Header.Get(standardwebhooks.HeaderWebhookID)))))
	}
	return list
}

// requestList lists every request that was sent, as a Request Bin does.
func (d *demo) requestList() (list g.Group) {
	for _, r := range d.recorder.All() {
		if strings.HasPrefix(r.Target, "/slack/assets/") {
			continue
		}
		r.Target = strings.TrimPrefix(r.Target, novuPath) // as Novu has it
		status := "no answer"
		if r.Status != 0 {
			status = strconv.Itoa(r.Status)
		}
		path, _, hasQuery := strings.Cut(r.Target, "?")
		if hasQuery {
			path += "?…"
		}
		list = append(list, h.Li(h.Details(
			h.Summary(h.Span(h.Class("to"), g.Text("→ "+r.To)), g.Text(" "), h.Strong(g.Text(status)), g.Text(" "), h.Code(g.Text(r.Method+" "+path)), h.Span(h.Class("why"), g.Text(explain(r)))),
			h.Pre(g.Text(upstreamtest.Mask(describe(r)))),
		)))
	}
	return list
}

// describe returns what is worth to be read of a request and its answer.
func describe(r upstreamtest.Request) string {
	lines := []string{r.Method + " " + r.Target}
	for _, name := range []string{"Authorization", "Content-Type", "Cookie", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		if value := r.Header.Get(name); value != "" {
			lines = append(lines, name+": "+value)
		}
	}
	if r.Body != "" {
		lines = append(lines, r.Body)
	}
	switch {
	case r.Location != "":
		lines = append(lines, "← Location: "+r.Location)
	case strings.HasPrefix(r.Answer, "{"):
		lines = append(lines, "← "+r.Answer)
	case r.Answer != "":
		lines = append(lines, "← (a page)")
	}
	return strings.Join(lines, "\n")
}

// explanations say in words what a request is for: the first that begins and ends like "TO
// METHOD TARGET STATUS".
var explanations = []struct{ begin, end, text string }{
	{"this service GET /slack/install", " 302", "The link is genuine. A flow begins, and the browser goes to Slack."},
	{"this service GET /slack/callback?code=", " 303", "Cookie and state are right. What follows comes before this answer."},
	{"this service GET /slack/callback?error=", "", "Slack says why not. Nothing is spent: Back and Allow still works."},
	{"this service GET /slack/disconnect", " 200", "A page asks first."},
	{"this service POST /slack/disconnect", " 303", "The person agrees."},
	{"this service GET /slack/result", "", "The outcome, at an address without code and state."},
	{"Slack GET /oauth", "", "The person picks a channel."},
	{"Slack POST /oauth", "", "Allow, or Cancel."},
	{"Slack POST /api/oauth.v2.access", " 200", "The code, which works once, is exchanged for the webhook, and the webhook is stored, encrypted."},
	{"Novu GET /v1/integrations/active", "", "Is there a Slack integration? Asked once a minute."},
	{"Novu GET /v1/environments/me", "", "To which environment does the key belong?"},
	{"Novu PUT /v1/subscribers/", "/credentials 400", "As expected: Novu does not know this subscriber yet. The service creates it and sends the webhook again."},
	{"Novu PUT /v1/subscribers/", "/credentials 200", "Novu has it; an empty webhook disconnects."},
	{"Novu GET /v1/subscribers/", "", "Which Slack channels does the subscriber have?"},
	{"Novu DELETE /v1/subscribers/", "", "The subscriber has no Slack channel any more."},
	{"Novu POST ", "/subscribers 201", "The subscriber is created."},
	{"Novu GET /v1/channel-endpoints", "", "Would Novu send the messages to another channel, too?"},
	{toApp + " POST /events", " 204", "A signed event. The app verified it, and stores what it says."},
	{toApp + " POST /events", " 400", "Not signed by the service: the app refuses it."},
}

func explain(r upstreamtest.Request) string {
	request := fmt.Sprint(r.To, " ", r.Method, " ", r.Target, " ", r.Status)
	for _, known := range explanations {
		if strings.HasPrefix(request, known.begin) && strings.HasSuffix(request, known.end) {
			return known.text
		}
	}
	return ""
}
