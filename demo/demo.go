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
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
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

// customers are the app's customers. The second ID must be escaped in URLs.
var customers = []struct{ Account, ID string }{
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
	webhook, err := standardwebhooks.NewWebhookRaw([]byte(eventsKey))
	if err != nil {
		return err
	}
	d := &demo{service: s, slack: slack, novu: novu, recorder: recorder, proxy: upstreamtest.NewProxy("this service", recorder, handler.New(s.Routes))}
	d.app = &backend{
		sign: func(r link.Request) string { return d.link(r, time.Hour) }, linkSecret: c.LinkSecrets[0], issuer: root.String(), origin: "http://localhost:" + port,
		webhook: webhook, accounts: map[string]account{}, heard: map[string]bool{},
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
	if port != "" {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return nil, fmt.Errorf("PORT: %w; choose another", err)
		}
		return listener, nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	return listener, err
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
	novuPath = "/novu" // below it is the fake Novu
)

//go:embed demo.html demo.css demo.js settings.html settings.js
var files embed.FS

func (d *demo) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /{$}", d.page)
	routes.HandleFunc("GET /live", d.live)
	routes.HandleFunc("POST /show", d.show)
	for _, name := range []string{"demo.css", "demo.js", "settings.js"} {
		routes.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, name) })
	}
	routes.HandleFunc("GET /account/{customer}", d.app.slack)
	routes.HandleFunc("POST /account/{customer}", d.app.slack)
	routes.Handle("POST /events", upstreamtest.NewProxy("your app", d.recorder, http.HandlerFunc(d.app.takeEvent)))
	routes.HandleFunc("/oauth/", d.simulateSlack)
	routes.HandleFunc("/api/", d.simulateSlack)
	routes.Handle(novuPath+"/", d.novu)
	routes.Handle("/", d.proxy)
	routes.HandleFunc("GET /front", func(w http.ResponseWriter, r *http.Request) { // / is the demo's
		r.URL.Path, r.RequestURI = "/", "/"
		d.proxy.ServeHTTP(w, r)
	})
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
	html, _ := files.ReadFile("demo.html")
	fragment, _ := files.ReadFile("settings.html")
	box, script, _ := strings.Cut(string(fragment), "<script")
	parts := d.parts()
	var cards g.Group
	for n, customer := range customers {
		name := fmt.Sprintf("account/%d", n)
		own := strings.Replace(box, `"/account/slack"`, fmt.Sprintf(`"/account/%d"`, n), 1)
		how := "in this window"
		if n == 1 {
			own, how = strings.Replace(own, " role=", " data-popup role=", 1), "in a popup"
		}
		cards = append(cards, h.Section(
			h.H2(g.Text(customer.Account), g.Text(" "), h.Span(g.Text(customer.ID))), g.Raw(own),
			h.P(h.Class("soft"), g.Text("Opens Slack "+how+". "), h.Span(h.ID(name), g.Raw(parts[name])), g.Text(" Or "),
				h.A(h.Class("plain"), h.Href(d.link(link.Request{Subscriber: customer.ID}, time.Hour)), g.Text("end on the service’s own page")), g.Text(".")),
		))
	}
	var note g.Group
	if "http://"+r.Host != d.app.origin {
		note = g.Group{h.P(h.Class("note"), g.Text("Links lead back to "), h.A(h.Href(d.app.origin+"/"), g.Text(d.app.origin)),
			g.Text(": open this page there. A container’s port must have the same number outside; PORT sets another one."))}
	}
	pages := g.Map(examplePages, func(p examplePage) g.Node {
		return h.Button(h.Name("page"), h.Value(p.Page), h.Code(g.Text(p.Page)), g.Text(" "), h.Span(g.Text(p.How)))
	})
	// What the page of an app may be like; its forms lead on to the service, which has another origin.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; form-action 'self' "+d.app.issuer+"; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	strings.NewReplacer("{{note}}", note.String(), "{{customers}}", cards.String(), "{{settings.js}}", "<script"+script,
		"{{events}}", parts["events"], "{{requests}}", parts["requests"], "{{pages}}", pages.String(),
	).WriteString(w, string(html))
}

// live answers demo.js with the parts of the page that change.
func (d *demo) live(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(d.parts())
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

// eventList lists what came to EVENTS_URL.
func (d *demo) eventList() (list g.Group) {
	for _, e := range d.app.allEvents() {
		if e.Err != nil {
			list = append(list, h.Li(h.Class("refused"), h.Strong(g.Text("refused")), g.Text(" "+e.Err.Error()+". The app answered 400 and stored nothing.")))
			continue
		}
		text := " for " + e.Data.SubscriberID
		if e.Data.Channel != "" {
			text += ": " + place(e.Data.Channel, e.Data.Team)
		}
		list = append(list, h.Li(h.Strong(g.Text(e.Type)), g.Text(text), h.Span(h.Class("good"), g.Text(" ✓ signature verified")), h.Span(h.Class("soft"), g.Text(" "+e.ID))))
	}
	if len(list) == 0 {
		return g.Group{h.Li(h.Class("soft"), g.Text("None yet."))}
	}
	return list
}

// requestList lists every request that was sent, as a Request Bin does.
func (d *demo) requestList() (list g.Group) {
	for _, e := range d.recorder.All() {
		if strings.HasPrefix(e.Target, "/slack/assets/") {
			continue
		}
		target := strings.TrimPrefix(e.Target, novuPath) // as Novu has it
		path, _, hasQuery := strings.Cut(target, "?")
		if hasQuery {
			path += "?…"
		}
		var text strings.Builder
		fmt.Fprintln(&text, e.Method, target)
		add := func(label, value string) {
			if value != "" {
				fmt.Fprintln(&text, label+value)
			}
		}
		for _, name := range []string{"Authorization", "Content-Type", "Cookie", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
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
			h.Summary(h.Span(h.Class("to"), g.Text("→ "+e.To)), g.Text(" "), h.Strong(g.Text(status)), g.Text(" "), h.Code(g.Text(e.Method+" "+path)), h.Span(h.Class("why"), g.Text(explain(e)))),
			h.Pre(g.Text(upstreamtest.Mask(text.String()))),
		)))
	}
	if len(list) == 0 {
		return g.Group{h.Li(h.Class("nobody soft"), g.Text("Nothing yet. Click Add to Slack."))}
	}
	return list
}

// explanations say in words what a request is for: the first whose regular expression
// matches "TO METHOD TARGET STATUS".
var explanations = []struct {
	request, text string
}{
	{`^this service GET /slack/install.* 302$`, "The link is genuine. A flow begins, and the browser goes to Slack."},
	{`^this service GET /slack/callback.*[?&]code=.* 303$`, "Cookie and state are right. What follows comes before this answer."},
	{`^this service GET /slack/callback.*[?&]error=`, "Slack says why not. Nothing is spent: Back and Allow still works."},
	{`^this service GET /slack/disconnect.* 200$`, "A page asks first."},
	{`^this service POST /slack/disconnect.* 303$`, "The person agrees."},
	{`^this service GET /slack/result`, "The outcome, at an address without code and state."},
	{`^Slack GET /oauth`, "The person picks a channel."},
	{`^Slack POST /oauth`, "Allow, or Cancel."},
	{`^Slack POST /api/oauth.v2.access 200$`, "The code, which works once, is exchanged for the webhook, and the webhook is stored, encrypted."},
	{`^Novu GET .*/integrations/active`, "Is there a Slack integration? Asked once a minute."},
	{`^Novu GET .*/environments/me`, "To which environment does the key belong?"},
	{`^Novu PUT .*/credentials 400$`, "As expected: Novu does not know this subscriber yet. The service creates it and sends the webhook again."},
	{`^Novu PUT .*/credentials 200$`, "Novu has it."},
	{`^Novu POST .*/subscribers 201$`, "The subscriber is created."},
	{`^Novu GET .*/channel-endpoints`, "Would Novu send the messages to another channel, too?"},
	{`^your app POST /events 204$`, "A signed event. The app verified it, and stores what it says."},
	{`^your app POST /events 400$`, "Not signed by the service: the app refuses it."},
}

func explain(e upstreamtest.Request) string {
	request := fmt.Sprint(e.To, " ", e.Method, " ", e.Target, " ", e.Status)
	for _, known := range explanations {
		if found, _ := regexp.MatchString(known.request, request); found {
			return known.text
		}
	}
	return ""
}
