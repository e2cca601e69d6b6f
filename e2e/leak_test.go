package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// search is a search for secrets in whatever the program shows.
type search struct {
	t       *testing.T
	mu      sync.Mutex
	secrets map[string]string // what it is, by the text
	shown   map[string]string // text, by where it was shown
}

func newSearch(t *testing.T) *search {
	return &search{t: t, secrets: map[string]string{}, shown: map[string]string{}}
}

func (s *search) secret(what string, texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		if len(text) < 8 {
			s.t.Fatalf("%s: %q is too short to be looked for", what, text)
		}
		s.secrets[text] = what
	}
}

func (s *search) show(where, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown[where] += text + "\n"
}

// want fails for each secret that is shown, as it is or in a form that programs
// like to give to text.
func (s *search) want() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for where, text := range s.shown {
		for secret, what := range s.secrets {
			for name, form := range forms(secret) {
				if i := strings.Index(text, form); i >= 0 {
					s.t.Errorf("%s shows %s (%s): %q", where, what, name, text[max(0, i-150):min(len(text), i+len(form)+20)])
				}
			}
		}
	}
}

// forms are a text as programs write it. The base64 of it within a longer text
// depends on what stands before: three ways to begin, without the ends that the
// neighbours change.
func forms(text string) map[string]string {
	quoted := fmt.Sprintf("%q", text)
	all := map[string]string{
		"as it is": text, "in a query": url.QueryEscape(text), "in a path": url.PathEscape(text), "quoted": quoted[1 : len(quoted)-1],
		"hex": hex.EncodeToString([]byte(text)), "as numbers": strings.Trim(fmt.Sprint([]byte(text)), "[]"),
	}
	for skip := range 3 {
		whole := text[skip:]
		whole = whole[:len(whole)/3*3]
		all[fmt.Sprintf("base64 %d", skip)] = base64.StdEncoding.EncodeToString([]byte(whole))
		all[fmt.Sprintf("base64url %d", skip)] = base64.RawURLEncoding.EncodeToString([]byte(whole))
	}
	return all
}

// RoundTrip shows the search what browsers are shown: bodies, and headers but for
// cookies and for the state on the way to Slack.
func (s *search) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	header := res.Header.Clone()
	for _, cookie := range res.Cookies() {
		s.secret("a cookie", cookie.Value)
	}
	header.Del("Set-Cookie")
	if to, err := res.Location(); err == nil && to.Path == "/oauth/v2/authorize" {
		s.secret("a state", to.Query().Get("state"))
		header.Del("Location")
	}
	var text strings.Builder
	header.Write(&text)
	s.show("a page", text.String()+string(body))
	return res, nil
}

// TestNothingSecretIsShown runs the whole program, at its most talkative, through
// flows and troubles of every kind, and then looks for every secret that was in
// play in all that it showed: logs in both formats, pages, headers, metrics, the
// output of the commands, the list of processes and a dump of its goroutines.
func TestNothingSecretIsShown(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "console"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			searchProgram(t, format)
		})
	}
}

const (
	canaryPassword    = "canary-redis-password/+%"
	canaryStoreSecret = "canary-store-secret-of-32-bytes-and-more"
	canaryEventSecret = "canary-event-secret-of-32-bytes-and-more"
	canaryLinkSecret  = "canary-link-secret-of-32-bytes-and-more"
)

func searchProgram(t *testing.T, format string) {
	store := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	letIn := func() {
		if err := store.Client().Do(t.Context(), "ACL", "SETUSER", "slack", "on", ">"+canaryPassword, "~*", "+@all").Err(); err != nil {
			t.Fatal(err)
		}
	}
	letIn()
	redisURL := (&url.URL{Scheme: "redis", User: url.UserPassword("slack", canaryPassword), Host: store.Addr}).String()
	// The app's receiver of events answers what it must not.
	app := httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		to.Header().Set("Location", "https://canary-from-upstream.example/")
		to.WriteHeader(http.StatusTemporaryRedirect)
		fmt.Fprint(to, "canary-from-upstream")
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, "EVENTS_URL="+app.URL+"/?key="+canaryEventSecret, "EVENTS_SECRET="+canaryEventSecret, "REDIS_URL="+redisURL, "STORE_SECRET="+canaryStoreSecret+","+linkSecret, "LINK_SECRET="+canaryLinkSecret+","+linkSecret,
		"NOVU_STYLE_LINKS=true", "LOG_LEVEL=trace", "LOG_FORMAT="+format, "METRICS_ADDR=127.0.0.1:0", "WELCOME_MESSAGE=Hello")
	w.slack.HooksURL = w.setting("SLACK_URL") // so that the welcome message stays on this machine
	s := newSearch(t)
	s.secret("SLACK_CLIENT_SECRET", w.slack.ClientSecret)
	s.secret("NOVU_API_KEY", w.novu.APIKey)
	s.secret("LINK_SECRET", canaryLinkSecret, linkSecret)
	s.secret("STORE_SECRET", canaryStoreSecret)
	s.secret("EVENTS_SECRET, and what EVENTS_URL has in its query", canaryEventSecret)
	s.secret("the password in REDIS_URL", canaryPassword, redisURL)
	s.secret("what an upstream wrote into an error", "canary-from-upstream")
	s.secret("a bot token", "xoxb-canary")
	w.slack.Change(func(a map[string]any) { a["access_token"] = "xoxb-canary" })

	program := start(t, w.env...)
	s.show("ps", string(must(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", program.cmd.Process.Pid)))))
	person := func() *person {
		p := w.person(t)
		p.client.Transport = s
		return p
	}
	link := func(c claims) string {
		link := w.link(c)
		s.secret("the token of a link", strings.TrimPrefix(link, publicOrigin+"/slack/install?token="))
		return link
	}
	// flow is a person who connects, reloads, and whose callback a stranger and a
	// scanner see. It returns the callback's URL.
	flow := func(link string) string {
		p := person()
		callback := p.approve(program, link)
		u := must(url.Parse(callback))
		s.secret("a code", u.Query().Get("code"))
		for range 2 {
			if a, err := p.get(program, callback); err != nil {
				t.Error(err)
			} else if strings.HasPrefix(a.location, "/") {
				p.get(program, a.location)
			}
		}
		person().get(program, callback)
		p.get(program, callback+"&state=%zz")
		p.get(program, strings.Replace(callback, "code=", "error=", 1))
		p.get(program, strings.Replace(callback, "/callback?", "/callback/x?", 1))
		return callback
	}

	// Flows that end well, in each of their ways.
	for _, link := range []string{
		link(claims{"sub": "ada"}), link(claims{"sub": "ada"}) + "&display=popup", link(claims{"sub": "ada", "returnUrl": "https://app.example.com/x"}), link(claims{"sub": "ada", "teamId": "T02GLOBEX"}),
	} {
		flow(link)
	}
	hash := subscriberHash(w.novu.APIKey, "ada")
	s.secret("an hmacHash", hash, hash[:32])
	for _, target := range []string{
		"/slack/install?subscriberId=ada&hmacHash=" + hash, "/v1/subscribers/ada/credentials/slack/oauth?hmacHash=" + hash, "/slack/install?subscriberId=bob&hmacHash=" + hash,
		"/slack/install?subscriberId=ada&hmacHash=" + hash + "&returnUrl=https://evil.example", "/slack/install/" + hash, "/slack/result?flow=" + hash, "/?token=" + hash, "/slack/install?token=" + hash, "/slack/install?token=a." + hash + ".c",
	} {
		person().get(program, target)
	}
	for _, bad := range []string{link(claims{"sub": "ada"}) + "x", link(claims{"sub": "ada", "exp": time.Now().Add(-time.Hour).Unix()}), link(claims{"sub": "ada", "returnUrl": "javascript:alert(1)"})} {
		person().get(program, bad)
	}

	// Requests that are not HTTP, or nearly: net/http answers and logs by itself.
	state1 := must(url.Parse(person().approve(program, link(claims{"sub": "ada"})))).Query().Get("state")
	s.secret("a state", state1)
	for _, request := range []string{
		"GET /slack/callback?code=canary-raw-code&state=" + state1 + " HTTP/9.9\r\n\r\n", "GET /slack/callback?state=" + state1 + "\r\n\r\n", "\x16\x03\x01" + state1,
		"GET /slack/callback?state=" + state1 + " HTTP/1.1\r\nHost: x\r\nCookie: a=\x01" + state1 + "\r\n\r\n", "GET /x?a;state=" + state1 + " HTTP/1.1\r\nHost: " + state1 + " \r\nConnection: close\r\n\r\n",
		"POST /slack/callback?state=" + state1 + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + state1,
	} {
		conn := must(net.Dial("tcp", strings.TrimPrefix(program.origin, "http://")))
		io.WriteString(conn, request)
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(patience))
		answer, _ := io.ReadAll(conn)
		s.show("an answer to a malformed request", string(answer))
		conn.Close()
	}

	// Slack refuses, or its answers break.
	for _, code := range []string{
		"invalid_code", "bad_client_secret", "bad_redirect_uri", "invalid_client_id", "accesslimited", "user_email_unverified", "team_added_to_org",
		"no_scopes", "invalid_arguments", "canary-from-upstream", "brand_new_error", `\u0000<b>`,
	} {
		w.slack.Break(upstreamtest.JSON(http.StatusOK, `{"ok":false,"error":"`+code+`"}`))
		flow(link(claims{"sub": "ada"}))
	}
	edit := func(change func(string) string) upstreamtest.Fault {
		return upstreamtest.Edit(func(answer *httptest.ResponseRecorder) {
			text := change(answer.Body.String())
			answer.Body.Reset()
			answer.Body.WriteString(text)
		})
	}
	for _, faults := range [][]upstreamtest.Fault{
		{upstreamtest.HTML(503), upstreamtest.Truncate}, {upstreamtest.Reset}, {upstreamtest.LoseAnswer}, {upstreamtest.HTML(200)}, {upstreamtest.Answer(307, "", "Location", "https://canary-from-upstream.example/?xoxb-canary")},
		{upstreamtest.Answer(429, "xoxb-canary")}, {unsolicited}, {notHTTP},
		{edit(func(text string) string { return text[:len(text)-5] }), edit(func(text string) string { return `{"ok":"` + text })},
		{edit(func(text string) string { return strings.ReplaceAll(text, "/services/", "/services/?") })},
		{edit(func(text string) string { return strings.ReplaceAll(text, `"incoming_webhook"`, `"webhook"`) })},
	} {
		w.slack.Break(faults...)
		flow(link(claims{"sub": "ada"}))
		w.slack.BreakAll(nil)
	}

	// Novu refuses, or its answers break.
	for i, fault := range []upstreamtest.Fault{
		upstreamtest.Reset, upstreamtest.Truncate, upstreamtest.HTML(200), unsolicited, notHTTP, upstreamtest.JSON(401, `{"statusCode":401,"message":"canary-from-upstream"}`), upstreamtest.JSON(422, `{"statusCode":422,"message":["canary-from-upstream"]}`),
		echoed(400), echoed(404), upstreamtest.Answer(302, "", "Location", "https://canary-from-upstream.example/"),
	} {
		w.novu.Break(fault)
		flow(link(claims{"sub": fmt.Sprintf("novu%d", i)}))
		w.novu.BreakAll(nil)
	}
	w.novu.BreakAll(echoed(400))
	open := flow(link(claims{"sub": "bob"})) // waits in the outbox
	s.show("the metrics", metricsText(t, program))
	s.show("GET /outbox", operatorText(t, program, "/outbox"))

	// The store goes, comes back without our user, and comes back as it was.
	p := person()
	atSlack := p.approve(program, link(claims{"sub": "cy"}))
	refused := func() {
		var people sync.WaitGroup
		for _, target := range []string{link(claims{"sub": "ada"}), open, atSlack, "/readyz", "/healthz"} {
			people.Go(func() { p.get(program, target) })
		}
		people.Wait()
	}
	store.Stop()
	refused()
	s.command(w.env, 1, "outbox", "drain")
	store.Restart()
	refused()
	s.command(w.env, 1, "check", "--json", "--subscriber", "ada")
	s.command(w.env, 1, "outbox", "list")
	letIn()
	waitFor(t, "the store is back", func() bool { return p.status(program, "/readyz") == http.StatusOK })
	flow(link(claims{"sub": "dee"}))
	for _, args := range [][]string{{"check", "--public"}, {"check", "--json", "--subscriber", "dee"}, {"outbox", "list"}, {"outbox", "drain"}, {"manifest"}, {"health"}, {"version"}, {"help"}} {
		s.command(w.env, -1, args...)
	}
	_, list, _ := runCommand(t, w.env, "outbox", "list")
	s.command(w.env, 0, "outbox", "drop", waitingFlow(list, "dee"))
	s.command(w.env, 0, "link", "ada") // the token that it is to print is not one of ours
	s.command(w.env, 2, "link", "ada", "--expires", "x")

	// Settings that are wrong, or that hold each other's secrets.
	key := w.novu.APIKey
	all := []string{"REDIS_URL=" + redisURL + "?x=" + key, "NOVU_API_KEY=" + key + "\nx", "LINK_SECRET=" + canaryLinkSecret + "\x7fx", "SLACK_CLIENT_SECRET_FILE=" + key}
	for _, name := range []string{
		"NOVU_API_URL", "SLACK_URL", "REDIRECT_URL", "RETURN_URLS", "PORT", "METRICS_ADDR", "TRUSTED_PROXIES", "RATE_LIMIT", "STATE_TTL", "LOG_LEVEL", "LOG_FORMAT",
		"NOVU_SAVE_AS", "NOVU_CREATE_SUBSCRIBER", "INSTALL_PAGE", "SUPPORT_URL", "APP_LOGO_URL", "APP_COLOR",
	} {
		all = append(all, name+"="+key)
	}
	s.command(append(w.env, all...), 2, "serve")
	s.command(append(w.env, all...), 1, "check")
	for _, wrong := range []string{"redis://slack:" + canaryPassword + "@" + store.Addr, canaryPassword, redisURL + "/" + key} {
		s.command(append(w.env, "REDIS_URL="+wrong, "NOVU_API_URL=https://"+key+"@api.novu.co", "REDIRECT_URL=https://"+key+"@x/y"), 2, "serve")
	}
	s.command(append(w.env, "REDIS_URL=", "DATA_FILE="+filepath.Join(t.TempDir(), "none", key)), 1, "serve")

	// A Redis that quotes what it does not understand, as old ones and proxies do.
	quoting := redistest.Start(t, "--rename-command", "HELLO", "", "--rename-command", "AUTH", "")
	quotingURL := "REDIS_URL=" + strings.Replace(redisURL, store.Addr, quoting.Addr, 1)
	s.command(append(w.env, quotingURL), 1, "check")
	s.command(append(w.env, quotingURL), 1, "outbox", "list")
	deaf := start(t, append(w.env, quotingURL)...)
	for _, target := range []string{link(claims{"sub": "ada"}), "/readyz"} {
		if status := p.status(deaf, target); status != http.StatusServiceUnavailable {
			t.Errorf("a Redis without AUTH: got %d, want 503", status)
		}
	}
	s.show("the log without AUTH", deaf.text())

	// What the runtime prints of a program in trouble.
	program.cmd.Process.Signal(syscall.SIGQUIT)
	program.wait()
	log := program.text()
	s.show("the log", log)
	s.secret("a webhook", w.slack.Webhooks()...)
	for _, hook := range w.slack.Webhooks() {
		s.secret("a webhook", hook[strings.LastIndex(hook, "/")+1:])
	}
	for where, texts := range map[string][]string{
		"the log": {"connection", "goroutine 1 ", "store_unavailable", "slack_unknown", "request_invalid"}, "outbox drain": {"state: claim: "}, "outbox list": {"WRONGPASS", "bob", "unknown command 'auth'"},
		"the log without AUTH": {"unknown command 'auth'"}, "a page": {textConnected, textPending}, "GET /outbox": {"bob"}, "serve": {"REDIS_URL: ", "METRICS_ADDR: "},
	} {
		for _, text := range texts {
			if !strings.Contains(s.shown[where], text) {
				t.Errorf("%s has no %q: there is less to search than there should be", where, text)
			}
		}
	}
	if len(s.secrets) < 150 || len(s.shown["a page"]) < 100_000 || !strings.Contains(s.shown["the metrics"], "slack_redirect_") {
		t.Errorf("got %d secrets and %d bytes of pages: the search has nothing to search", len(s.secrets), len(s.shown["a page"]))
	}
	s.want()
}

// command shows the search what a command prints. An exit of -1 is any.
func (s *search) command(env []string, exit int, args ...string) {
	s.t.Helper()
	got, stdout, stderr := runCommand(s.t, env, args...)
	if exit != -1 && got != exit {
		s.t.Errorf("%v: got exit code %d, want %d: %s", args, got, exit, lastLines(stdout+stderr))
	}
	s.show(strings.Join(args, " "), stdout+stderr)
}

// unsolicited answers twice to one request, as a confused proxy does.
func unsolicited(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	conn, to, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	for range 2 {
		fmt.Fprintf(to, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", answer.Body.Len(), answer.Body)
	}
	to.Flush()
	time.AfterFunc(time.Second, func() { conn.Close() })
}

// notHTTP answers with the bare body.
func notHTTP(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	conn, to, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(to, "%s\r\n\r\n", answer.Body)
	to.Flush()
	conn.Close()
}

// echoed answers as Novu's validation does: with what it was sent.
func echoed(status int) upstreamtest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		body := must(io.ReadAll(r.Body))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"message":%q,"path":%q,"key":%q}`, body, r.URL, r.Header.Get("Authorization"))
	}
}
