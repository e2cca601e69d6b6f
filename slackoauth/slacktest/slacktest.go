// Package slacktest is a fake Slack that refuses what the real one refuses: an unknown
// client, a wrong redirect URL, and a code that is spent, expired or unknown.
package slacktest

import (
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"novu-slack-redirect/upstream/upstreamtest"
)

// Workspace is a Slack workspace and what its channel picker offers.
type Workspace struct {
	ID, Name string
	Channels []string
}

// Server is the fake: an http.Handler with the authorize page, oauth.v2.access and
// webhooks. Set its fields before it serves. The faults of its Proxy apply to
// oauth.v2.access only, so that the authorize page always works.
type Server struct {
	ClientID     string
	ClientSecret string
	RedirectURL  string // the one that is registered
	HooksURL     string // where webhooks are; https://hooks.slack.com, or the fake's own origin
	Workspaces   []Workspace
	Now          func() time.Time

	*upstreamtest.Proxy

	mu       sync.Mutex
	codes    map[string]*grant
	change   func(map[string]any)
	webhooks []string
	messages []string
	hang     bool
	limit    int // exchanges in a window; 0 is no limit
	window   time.Duration
	begins   time.Time // of this window
	used     int       // exchanges in this window
	refused  int
}

type grant struct {
	redirectURI string
	team        Workspace
	channel     string
	at          time.Time
	spent       time.Time // zero until then
	webhook     string    // that it was exchanged for
}

const codeLife = 10 * time.Minute

// New returns a fake Slack with one app and two workspaces. Its requests are recorded.
func New(recorder *upstreamtest.Recorder) *Server {
	s := &Server{
		ClientID:     "2222.3333",
		ClientSecret: "client-secret-" + rand.Text(),
		HooksURL:     "https://hooks.slack.com",
		Workspaces: []Workspace{
			{"T01ACME", "Acme", []string{"#alerts", "#general", "#random"}},
			{"T02GLOBEX", "Globex & Söhne", []string{"#ops", "Anna Müller"}},
		},
		Now:   time.Now,
		codes: map[string]*grant{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth/v2/authorize", s.authorize)
	mux.HandleFunc("POST /oauth/v2/authorize", s.consent)
	mux.HandleFunc("/api/oauth.v2.access", s.access)
	mux.HandleFunc("POST /services/", s.message)
	s.Proxy = upstreamtest.NewProxy("Slack", recorder, mux)
	return s
}

// Messages returns the bodies of all messages posted to webhooks at the fake's
// own origin.
func (s *Server) Messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// SetClientSecret replaces the client secret; the old one is refused from then on.
func (s *Server) SetClientSecret(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ClientSecret = text
}

// HangMessages sets whether webhooks never answer.
func (s *Server) HangMessages(hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hang = hang
}

func (s *Server) message(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.webhooks, func(url string) bool { return strings.HasSuffix(url, r.URL.Path) }) {
		http.Error(w, "no_service", http.StatusNotFound)
		return
	}
	s.messages = append(s.messages, string(body))
	io.WriteString(w, "ok")
}

// ServeHTTP applies faults to API calls only.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		s.Proxy.ServeHTTP(w, r)
		return
	}
	s.Proxy.ServeWithoutFaults(w, r)
}

// Change calls fn with every successful answer of oauth.v2.access before it is sent;
// nil stops that.
func (s *Server) Change(fn func(answer map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = fn
}

// Webhooks returns the URLs of all webhooks made so far, oldest first.
func (s *Server) Webhooks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.webhooks)
}

// Given returns the webhook that a code was exchanged for, and when. Both are zero if
// the code was never exchanged.
func (s *Server) Given(code string) (webhook string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.codes[code]; g != nil {
		return g.webhook, g.spent
	}
	return "", time.Time{}
}

// Approve does what a person does who opens authorizeURL, picks a channel and presses
// Allow. It returns the URL to which Slack redirects the browser.
func (s *Server) Approve(authorizeURL, teamID, channel string) (callback string, err error) {
	u, err := url.Parse(authorizeURL)
	if err != nil {
		return "", err
	}
	if problem := s.refuse(u.Query()); problem != "" {
		return "", fmt.Errorf("slacktest: %s", problem)
	}
	return s.grant(u.Query(), teamID, channel)
}

// refuse checks the authorize request as Slack's page does.
func (s *Server) refuse(q url.Values) string {
	switch {
	case q.Get("client_id") != s.ClientID:
		return "invalid_client_id"
	case q.Get("scope") != "incoming-webhook" || q.Has("user_scope"):
		return "invalid_scope"
	case q.Get("redirect_uri") != s.RedirectURL:
		return "bad_redirect_uri"
	}
	return ""
}

func (s *Server) grant(q url.Values, teamID, channel string) (string, error) {
	i := slices.IndexFunc(s.Workspaces, func(w Workspace) bool { return w.ID == teamID })
	if i < 0 || !slices.Contains(s.Workspaces[i].Channels, channel) {
		return "", fmt.Errorf("slacktest: no channel %q in workspace %q", channel, teamID)
	}
	code := "2222." + rand.Text() + "." + rand.Text()
	s.mu.Lock()
	s.codes[code] = &grant{redirectURI: q.Get("redirect_uri"), team: s.Workspaces[i], channel: channel, at: s.Now()}
	s.mu.Unlock()
	return redirect(q, "code", code), nil
}

func redirect(q url.Values, name, value string) string {
	back := url.Values{name: {value}}
	if q.Get("state") != "" {
		back.Set("state", q.Get("state"))
	}
	return q.Get("redirect_uri") + "?" + back.Encode()
}

//go:embed consent.html
var consentHTML string

func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	problem := s.refuse(q)
	team := s.Workspaces[0]
	for _, ws := range s.Workspaces {
		if ws.ID == q.Get("team") || ws.ID == q.Get("workspace") {
			team = ws
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	what := g.Group{
		h.H1(g.Text("Something went wrong when authorizing this app")),
		h.P(g.Text("Error details: "), h.Code(g.Text(problem))),
	}
	if problem == "" {
		what = s.consentForm(team, "?"+r.URL.RawQuery)
	}
	strings.NewReplacer("{{what}}", what.String()).WriteString(w, consentHTML)
}

// consentForm lets a person pick a workspace and a channel.
func (s *Server) consentForm(team Workspace, here string) g.Group {
	return g.Group{
		h.H1(g.Text("The app wants to post to " + team.Name)),
		h.P(g.Text("Workspace: "), g.Map(s.Workspaces, func(ws Workspace) g.Node {
			if ws.ID == team.ID {
				return h.Strong(g.Text(ws.Name + " "))
			}
			return g.Group{h.A(h.Href(here+"&workspace="+ws.ID), g.Text(ws.Name)), g.Text(" ")}
		})),
		h.Form(h.Method("post"), h.Action(here),
			h.Input(h.Type("hidden"), h.Name("team"), h.Value(team.ID)),
			h.FieldSet(h.Legend(g.Text("Where should it post?")), g.Map(team.Channels, func(channel string) g.Node {
				return h.Label(h.Input(h.Type("radio"), h.Name("channel"), h.Value(channel), g.If(channel == team.Channels[0], h.Checked())), g.Text(" "+channel))
			})),
			h.Button(h.Name("cancel"), h.Value("1"), g.Text("Cancel")),
			g.Text(" "),
			h.Button(h.Name("allow"), h.Value("1"), g.Text("Allow")),
		),
	}
}

func (s *Server) consent(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if s.refuse(q) != "" {
		s.authorize(w, r)
		return
	}
	to := redirect(q, "error", "access_denied")
	if r.FormValue("allow") != "" {
		var err error
		if to, err = s.grant(q, r.FormValue("team"), r.FormValue("channel")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// LimitRate limits oauth.v2.access to some exchanges in each window, as Slack does with 600
// a minute. Each refusal tells how long the window goes on, in whole seconds.
func (s *Server) LimitRate(limit int, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.window = limit, window
}

// RateLimited returns how many exchanges were refused by LimitRate.
func (s *Server) RateLimited() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// countAccess counts a request and returns how long the caller must wait if it was one too
// many.
func (s *Server) countAccess() (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == 0 {
		return 0
	}
	now := s.Now()
	if begins := now.Truncate(s.window); !begins.Equal(s.begins) {
		s.begins, s.used = begins, 0
	}
	if s.used == s.limit {
		s.refused++
		return s.begins.Add(s.window).Sub(now)
	}
	s.used++
	return 0
}

func (s *Server) access(w http.ResponseWriter, r *http.Request) {
	if wait := s.countAccess(); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		http.Error(w, `{"ok":false,"error":"ratelimited"}`, http.StatusTooManyRequests)
		return
	}
	answer := s.exchange(r)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(answer)
}

func (s *Server) exchange(r *http.Request) map[string]any {
	refused := func(code string) map[string]any { return map[string]any{"ok": false, "error": code} }
	if r.Method != http.MethodPost {
		return refused("invalid_arguments")
	}
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return refused("invalid_post_type")
	}
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.ClientID {
		return refused("invalid_client_id")
	}
	if secret != s.ClientSecret {
		return refused("bad_client_secret")
	}
	g := s.codes[r.PostFormValue("code")]
	switch {
	case g == nil || s.Now().After(g.at.Add(codeLife)):
		return refused("invalid_code")
	case !g.spent.IsZero():
		return refused("code_already_used")
	case r.PostFormValue("redirect_uri") != g.redirectURI:
		return refused("bad_redirect_uri")
	}
	bot := fmt.Sprintf("B%08d", len(s.webhooks)+1)
	webhook := fmt.Sprintf("%s/services/%s/%s/%s", s.HooksURL, g.team.ID, bot, rand.Text())
	s.webhooks = append(s.webhooks, webhook)
	g.spent, g.webhook = time.Now(), webhook
	answer := map[string]any{
		"ok": true, "app_id": "A01", "access_token": "xoxb-" + rand.Text(), "token_type": "bot",
		"scope": "incoming-webhook", "bot_user_id": "U01", "authed_user": map[string]any{"id": "U02"},
		"team": map[string]any{"id": g.team.ID, "name": g.team.Name}, "enterprise": nil, "is_enterprise_install": false,
		"incoming_webhook": map[string]any{
			"url": webhook, "channel": g.channel, "channel_id": "C01",
			"configuration_url": "https://" + strings.ToLower(g.team.ID) + ".slack.com/services/" + bot,
		},
	}
	if s.change != nil {
		s.change(answer)
	}
	return answer
}
