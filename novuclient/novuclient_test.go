package novuclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

const webhook = "https://hooks.slack.com/services/T01/B01/canary"

// recorder answers in turn and keeps what it was asked.
type recorder struct {
	mu      sync.Mutex // net/http repeats a look-up on a new connection
	answers []string   // "status body"
	asked   []string
	lookUps bool // answer look-ups of integrations aside
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case req.URL.Query().Get("subscriberId") == "none":
		io.WriteString(w, `{"data":[],"next":null}`)
		return
	case r.lookUps && strings.Contains(req.URL.Path, "/integrations"):
		io.WriteString(w, list("1 slack-eu"))
		return
	case r.lookUps && strings.HasSuffix(req.URL.Path, "/environments/me"):
		io.WriteString(w, `{"data":{"_id":"env1"}}`)
		return
	}
	body, _ := io.ReadAll(req.Body)
	r.asked = append(r.asked, fmt.Sprintf("%s %s %s %s %s", req.Method, req.RequestURI, req.Header.Get("Authorization"), req.Header.Get("Content-Type"), body))
	status, text := 200, `{"data":{}}`
	if len(r.answers) > 0 {
		fmt.Sscanf(r.answers[0], "%d", &status)
		_, text, _ = strings.Cut(r.answers[0], " ")
		r.answers = r.answers[1:]
	}
	if rest, ok := strings.CutPrefix(text, `{"message":`); ok { // as Novu says it
		text = fmt.Sprintf(`{"statusCode":%d,"message":%s`, status, rest)
	}
	w.Header().Set("Retry-After", "7")
	w.WriteHeader(status)
	io.WriteString(w, text)
}

func newClient(t *testing.T, r *recorder, path string, create bool) *novuclient.Client {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	return novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u, CreateSubscriber: create})
}

func TestSaveOnTheWire(t *testing.T) {
	r := &recorder{answers: []string{`400 {"statusCode":400,"message":"SubscriberId: user+1@example.com/ä #? not found"}`, `201 {"data":{}}`, `200 {"data":{}}`}}
	c := newClient(t, r, "", true)
	_, err := c.Save(context.Background(), novuclient.Connection{SubscriberID: "user+1@example.com/ä #?", Integration: "slack-eu", WebhookURL: secret.New(webhook)})
	if err != nil {
		t.Fatal(err)
	}
	put := `PUT /v1/subscribers/user%2B1%40example.com%2F%C3%A4%20%23%3F/credentials ApiKey key1 application/json ` +
		`{"providerId":"slack","integrationIdentifier":"slack-eu","credentials":{"webhookUrl":"` + webhook + `"}}`
	want := []string{put, `POST /v1/subscribers ApiKey key1 application/json {"subscriberId":"user+1@example.com/ä #?"}`, put}
	if got := strings.Join(r.asked, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func connection(subscriber string) novuclient.Connection {
	return novuclient.Connection{SubscriberID: subscriber, Integration: "slack-eu", WebhookURL: secret.New(webhook)}
}

// Without a name, Novu's choice could change from one Save to the next.
func TestAnUnnamedIntegrationIsRefused(t *testing.T) {
	for _, endpoints := range []bool{false, true} {
		r := &recorder{}
		s := httptest.NewServer(r)
		defer s.Close()
		u, _ := url.Parse(s.URL)
		conn := connection("ada")
		conn.Integration = ""
		c := novuclient.New(novuclient.Config{URL: u, SaveEndpoints: endpoints})
		for name, call := range map[string]func(context.Context, novuclient.Connection) (int, error){"save": c.Save, "disconnect": c.Disconnect} {
			_, err := call(context.Background(), conn)
			var failure *novuclient.Error
			if !errors.As(err, &failure) || failure.Op != name || failure.Reason != novuclient.NoIntegration || failure.Progress != upstream.NotSent || len(r.asked) != 0 {
				t.Errorf("%s: got %v after %d requests, want a refusal without any", name, err, len(r.asked))
			}
		}
	}
}

// Whichever request of a Save or a Disconnect fails, the error tells how far that one got,
// and nothing more is sent. A look-up that may still be at work does no harm.
func TestProgressOfEveryStep(t *testing.T) {
	const unknown, none, one = `{"message":"SubscriberId: ada not found"}`, `{"data":[],"next":null}`, `{"data":[{"identifier":"x","type":"webhook","providerId":"slack","integrationIdentifier":"slack-eu"}]}`
	const twice = `{"data":{"channels":[{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"` + webhook + `"}},{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"x"}}]}}`
	checkProgress(t, (*novuclient.Client).Save, map[string]step{
		"update":                  {false, false, nil},
		"create":                  {false, false, []string{`400 ` + unknown}},
		"update again":            {false, false, []string{`400 ` + unknown, `201 {"data":{}}`}},
		"remove duplicates":       {false, false, []string{`200 ` + twice}},
		"update after removing":   {false, false, []string{`200 ` + twice, `204 `}},
		"look up endpoints":       {true, true, nil},
		"add endpoint":            {true, false, []string{`200 ` + none}},
		"create for endpoint":     {true, false, []string{`200 ` + none, `404 ` + unknown}},
		"look up endpoints again": {true, true, []string{`200 ` + none, `404 ` + unknown, `201 {"data":{}}`}},
		"look up the subscriber":  {true, true, []string{`200 ` + one}},
		"update endpoint":         {true, false, []string{`200 ` + one, `200 {"data":{}}`}},
	})
	const ours, more = `{"data":{"channels":[{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"x"}}]}}`, `{"identifier":"y","type":"webhook","providerId":"slack","integrationIdentifier":"slack-eu"}`
	two := strings.Replace(one, `"slack-eu"}`, `"slack-eu"},`+more, 1)
	for _, endpoints := range []bool{false, true} {
		checkProgress(t, (*novuclient.Client).Disconnect, map[string]step{
			"disconnect: look up endpoints":         {endpoints, true, nil},
			"disconnect: delete endpoint":           {endpoints, false, []string{`200 ` + one}},
			"disconnect: delete the second":         {endpoints, false, []string{`200 ` + two, `204 `}},
			"disconnect: look up subscriber":        {endpoints, true, []string{`200 ` + one, `204 `}},
			"disconnect: clear credentials":         {endpoints, false, []string{`200 ` + none, `200 ` + ours}},
			"disconnect: delete credentials":        {endpoints, false, []string{`200 ` + none, `200 ` + ours, `200 ` + ours}},
			"disconnect: delete, without endpoints": {endpoints, false, []string{`404 {"message":"Feature not enabled"}`, `200 ` + ours, `200 ` + ours}},
		})
	}
}

// step is a request of a call.
type step struct {
	endpoints bool
	lookUp    bool
	before    []string // the answers to the requests before it
}

// checkProgress lets each step fail.
func checkProgress(t *testing.T, call func(*novuclient.Client, context.Context, novuclient.Connection) (int, error), steps map[string]step) {
	t.Helper()
	faults := map[string]struct {
		fault    http.HandlerFunc
		progress upstream.Progress
	}{
		"reset": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, upstream.MaybeAtWork},
		"504":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(504) }, upstream.MaybeAtWork},
		"503":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, upstream.Answered},
	}
	for name, c := range steps {
		for kind, f := range faults {
			r := &recorder{answers: c.before, lookUps: true}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r.mu.Lock()
				fails := len(r.answers) == 0 && !strings.Contains(req.URL.Path, "/integrations") && !strings.HasSuffix(req.URL.Path, "/me") && !strings.Contains(req.URL.RawQuery, "subscriberId=none")
				if fails {
					r.asked = append(r.asked, req.URL.Path)
				}
				r.mu.Unlock()
				if fails {
					f.fault(w, req)
					return
				}
				r.ServeHTTP(w, req)
			}))
			u, _ := url.Parse(s.URL)
			_, err := call(novuclient.New(novuclient.Config{URL: u, CreateSubscriber: true, SaveEndpoints: c.endpoints}), context.Background(), connection("ada"))
			s.Close()
			want := f.progress
			if c.lookUp {
				want = upstream.NotSent
			}
			var failure *novuclient.Error
			if !errors.As(err, &failure) || failure.Progress != want || failure.MaybeAtWork() != (want == upstream.MaybeAtWork) || !failure.Temporary() ||
				len(r.asked) != len(c.before)+1 && !c.lookUp {
				t.Errorf("%s, %s: got %+v after %d requests, want %s after %d", name, kind, err, len(r.asked), want, len(c.before)+1)
			}
		}
	}
}

// Novu answers with the whole subscriber, whose data can be large. It is read as a stream.
func TestLongAnswerIsSaved(t *testing.T) {
	data := strings.Repeat(`{"channels":[{"deep":["x",1,{}]}]},`, 100_000) + `{}`
	long := `200 {"data":{"subscriberId":"ada","data":{"all":[` + data + `]},"channels":[{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"` + webhook + `"}}],` + `"more":"` + strings.Repeat("x", 2<<20) + `"}}`
	endless := `200 {"data":{"subscriberId":"ada","data":{"all":[` + strings.Repeat(data+",", 12)
	c := newClient(t, &recorder{answers: []string{long, "200 <html>" + long, long, endless, endless}}, "", false)
	save := func() error { _, err := c.Save(context.Background(), connection("ada")); return err }
	credentials := func() (int, error) { all, err := c.Credentials(context.Background(), "ada"); return len(all), err }
	if err := save(); err != nil {
		t.Errorf("got %v, want it saved", err)
	}
	if err := save(); novuclient.AsError(err).Reason != novuclient.NotNovu {
		t.Errorf("a page in place of Novu's answer: got %v", err)
	}
	if n, err := credentials(); n != 1 || err != nil {
		t.Errorf("got %d channels, %v, want 1", n, err)
	}
	if err := save(); err != nil {
		t.Errorf("an answer of %d MB that begins as a success: got %v, want it saved", len(endless)>>20, err)
	}
	if n, err := credentials(); err == nil {
		t.Errorf("got %d channels of an answer that was not read to its end", n)
	}
}

// Channels are not deleted as duplicates where others may follow.
func TestHalfOfTheChannelsIsNotAll(t *testing.T) {
	two := strings.TrimSuffix(channels("1 "+webhook, "1 x"), `]}}`)
	r := &recorder{answers: []string{two + strings.Repeat(`,{"x":"`+strings.Repeat("x", 1<<20)+`"}`, 33)}}
	if _, err := newClient(t, r, "", true).Save(t.Context(), connection("ada")); err != nil || len(r.asked) != 1 {
		t.Errorf("got %v after %d requests, want it saved by one", err, len(r.asked))
	}
}

func TestBaseURLVariants(t *testing.T) {
	for path, want := range map[string]string{
		"": "/v1/", "/": "/v1/", "/v1": "/v1/", "/v1/": "/v1/", "/api": "/api/v1/", "/api/": "/api/v1/", "/api/v1": "/api/v1/", "/api/v1//": "/api/v1/", "/api%20x": "/api%20x/v1/",
	} {
		r := &recorder{}
		if _, err := newClient(t, r, path, true).Save(context.Background(), connection("a/b")); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(r.asked[0])[1]; got != want+"subscribers/a%2Fb/credentials" {
			t.Errorf("base %q: got %s, want %ssubscribers/a%%2Fb/credentials", path, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for answer, want := range map[string]novuclient.Reason{
		`400 {"message":"SubscriberId: ada not found"}`:                                        novuclient.UnknownSubscriber,
		`404 {"message":"Subscriber not found: ada"}`:                                          novuclient.UnknownSubscriber,
		`404 {"message":"Subscriber not found for id ada"}`:                                    novuclient.UnknownSubscriber,
		`404 {"message":"Subscriber 'ada' was not found"}`:                                     novuclient.UnknownSubscriber,
		`400 {"message":"SubscriberId: ada not found ` + webhook + `"}`:                        novuclient.UnknownSubscriber,
		`404 {"message":"Integration not found: slack-subscribers"}`:                           novuclient.NoIntegration,
		`400 {"message":"Subscribers environment (6a) do not have active slack integration."}`: novuclient.NoIntegration,
		`404 {"message":"Feature not enabled"}`:                                                novuclient.NoEndpoints,
		`400 {"message":["x should not be empty"]}`:                                            novuclient.Invalid,
		`422 {"message":{"providerId":"x"}}`:                                                   novuclient.Invalid,
		`422 {"message":"Validation Error"}`:                                                   novuclient.Invalid,
		`402 {"message":"Payment Required"}`:                                                   novuclient.Refused,
		`401 {"message":"API Key not found"}`:                                                  novuclient.BadKey,
		`403 {"message":"Forbidden"}`:                                                          novuclient.BadKey,
		`404 {"message":"Cannot PUT /v1/subscribers/ada/credentials"}`:                         novuclient.BadURL,
		`404 {"message":"Topic not found"}`:                                                    novuclient.NotFound,
		`409 {"message":"conflict"}`:                                                           novuclient.Unavailable,
		`429 {"message":"ThrottlerException: Too Many Requests"}`:                              novuclient.Unavailable,
		`500 {"message":"Internal server error"}`:                                              novuclient.Unavailable,
		`408 x`:      novuclient.Unavailable,
		`503 <html>`: novuclient.Unavailable,
		`200 {"data":{"channels":[{"credentials":{"webhookUrl":"canary`: novuclient.Unavailable, // cut off

		// Something in front of Novu.
		`400 not json`:                                  novuclient.NotNovu,
		`401 <html>canary`:                              novuclient.NotNovu,
		`403 <html>canary`:                              novuclient.NotNovu,
		`404 <html>canary`:                              novuclient.NotNovu,
		`401 {"error":"canary"}`:                        novuclient.NotNovu,
		`403 { "message":"Forbidden"}`:                  novuclient.NotNovu, // Amazon's API gateway
		`404 {"statusCode":403,"message":"Cannot PUT"}`: novuclient.NotNovu,
		`403 {"message":"Forbidden"} <html>`:            novuclient.NotNovu,
		`403 {"statusCode":403}`:                        novuclient.NotNovu,
		`404 []`:                                        novuclient.NotNovu,
		`407 `:                                          novuclient.NotNovu,
		`413 <html>`:                                    novuclient.NotNovu,
		`302 moved`:                                     novuclient.NotNovu,
		`405 Method Not Allowed`:                        novuclient.NotNovu,
		`511 <html>`:                                    novuclient.Unavailable,
		`200 <html>the dashboard</html>`:                novuclient.NotNovu,
		`200 {"ok":true}`:                               novuclient.NotNovu,
		`200 `:                                          novuclient.NotNovu,
		`200 []`:                                        novuclient.NotNovu,
		`200 null`:                                      novuclient.NotNovu,
	} {
		r := &recorder{answers: []string{answer}}
		_, err := newClient(t, r, "", false).Save(context.Background(), connection("ada"))
		var failure *novuclient.Error
		if !errors.As(err, &failure) {
			t.Errorf("%s: got %v, want an *Error", answer, err)
			continue
		}
		status := 0
		fmt.Sscanf(answer, "%d", &status)
		temporary := want == novuclient.Unavailable || want == novuclient.NotNovu
		if failure.Reason != want || failure.Status != status || failure.RetryAfter != 7*time.Second || failure.Temporary() != temporary {
			t.Errorf("%s: got %+v, want reason %s, status %d, 7 s", answer, failure, want, status)
		}
		if text := fmt.Sprintf("%v %+v", err, *failure); strings.Contains(text, "canary") || strings.Contains(text, "key1") {
			t.Errorf("the error names a secret: %s", text)
		}
		if report := strings.Contains(failure.Reason.Remedy(), "report"); report != (want == novuclient.Invalid) {
			t.Errorf("%s: got the remedy %q", answer, failure.Reason.Remedy())
		}
	}
}

// The log says what stands in front of Novu, as far as that tells.
func TestWhatAnsweredInPlaceOfNovu(t *testing.T) {
	for want, c := range map[string]struct {
		status int
		header http.Header
	}{
		`not_novu (HTTP 403): the answer is not Novu's: its Content-Type is "text/html; charset=UTF-8", its Server "cloudflare"`:                                                {403, http.Header{"Content-Type": {"text/html; charset=UTF-8"}, "Server": {"cloudflare"}}},
		`not_novu (HTTP 302): the answer is not Novu's: its Content-Type is "", its Server ""`:                                                                                  {302, http.Header{"Location": {"https://login.example/canary"}, "Content-Type": nil}},
		`not_novu (HTTP 407): a proxy wants a user and a password: see HTTPS_PROXY`:                                                                                             {407, http.Header{"Proxy-Authenticate": {"Basic"}}},
		`unavailable (HTTP 503): the answer is not Novu's: its Content-Type is "text/plain", its Server "` + strings.Repeat("x", 30) + ` \u009b` + strings.Repeat("x", 8) + `"`: {503, http.Header{"Content-Type": {"text/plain"}, "Server": {strings.Repeat("x", 30) + " \u009b" + strings.Repeat("x", 100) + "canary"}}},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			for name, values := range c.header {
				w.Header()[name] = values
			}
			w.WriteHeader(c.status)
		}))
		u, _ := url.Parse(s.URL)
		_, err := novuclient.New(novuclient.Config{URL: u}).Save(context.Background(), connection("ada"))
		s.Close()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestNoContentIsSaved(t *testing.T) {
	r := &recorder{answers: []string{"204 "}}
	if _, err := newClient(t, r, "", false).Save(context.Background(), connection("ada")); err != nil {
		t.Error(err)
	}
}

// A redirect gets neither the key nor the webhook.
func TestRedirectsAreNotFollowed(t *testing.T) {
	visited := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visited = true }))
	defer elsewhere.Close()
	novu := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer novu.Close()
	u, _ := url.Parse(novu.URL)
	_, err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), connection("ada"))
	var failure *novuclient.Error
	if !errors.As(err, &failure) || failure.Reason != novuclient.NotNovu || visited {
		t.Errorf("got %v, followed: %t, want something else, not followed", err, visited)
	}
}

func TestNoAnswer(t *testing.T) {
	u, _ := url.Parse("http://127.0.0.1:1")
	_, err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), connection("ada"))
	var failure *novuclient.Error
	if !errors.As(err, &failure) || !failure.Temporary() || failure.Status != 0 || failure.Progress != upstream.NotSent || failure.MaybeAtWork() || strings.Contains(err.Error(), "ada") {
		t.Errorf("got %v, want a temporary error without the subscriber", err)
	}
}

func TestSubscriberThatMayNotBeCreated(t *testing.T) {
	r := &recorder{answers: []string{`400 {"message":"SubscriberId: ada not found"}`}}
	_, err := newClient(t, r, "", false).Save(context.Background(), connection("ada"))
	if err == nil || len(r.asked) != 1 {
		t.Errorf("got %v after %d requests, want an error after 1", err, len(r.asked))
	}
}

const integrations = `{"data":[
	{"_id":"1","_environmentId":"env1","identifier":"slack-eu","providerId":"slack","channel":"chat","active":true,"credentials":{"secretKey":"canary"}},
	{"_id":"2","_environmentId":"env1","identifier":"slack-off","providerId":"slack","channel":"chat","active":false},
	{"_id":"3","_environmentId":"env2","identifier":"slack-other","providerId":"slack","channel":"chat","active":true},
	{"_id":"4","_environmentId":"env1","identifier":"mail","providerId":"slack","channel":"email","active":true},
	{"_id":"5","_environmentId":"env1","identifier":"discord","providerId":"discord","channel":"chat","active":true}]}`

// Newer and older versions answer differently: wrapped or not, with an environment or
// without, with other environments' integrations among them.
func TestIntegrations(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    string
	}{
		"ours":             {[]string{`200 ` + integrations, `200 {"data":{"_id":"env1","name":"Production"}}`}, "slack-eu"},
		"not wrapped":      {[]string{`200 ` + unwrap(integrations), `200 {"_id":"env1"}`}, "slack-eu"},
		"other":            {[]string{`200 ` + integrations, `200 {"data":{"_id":"env2"}}`}, "slack-other"},
		"older, no answer": {[]string{`200 ` + integrations, `404 {"message":"Cannot GET /v1/environments/me"}`}, "slack-eu slack-other"},
		"none":             {[]string{`200 {"data":[]}`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := newClient(t, &recorder{answers: c.answers}, "", true).Integrations(context.Background())
			var got []string
			for _, in := range list {
				got = append(got, in.Identifier)
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			if text := fmt.Sprintf("%+v", list); strings.Contains(text, "canary") {
				t.Errorf("a provider's secret is decoded: %s", text)
			}
		})
	}
	for _, answer := range []string{`200 {"data":{"not":"a list"}}`, `200 {"data":null}`, `200 null`, `204 `, `200 {}`, `200 "x"`} {
		_, err := newClient(t, &recorder{answers: []string{answer}}, "", true).ResolveIntegration(context.Background(), "", false)
		if failure := (*novuclient.Error)(nil); !errors.As(err, &failure) || !failure.Temporary() {
			t.Errorf("%s: got %v, want that Novu did not say", answer, err)
		}
	}
}

// channels is an answer with a subscriber's Slack channels as "integrationID webhook",
// and one of another provider.
func channels(channels ...string) string {
	var list []string
	for _, ch := range channels {
		integration, url, _ := strings.Cut(ch, " ")
		list = append(list, fmt.Sprintf(`{"providerId":"slack","_integrationId":%q,"credentials":{"webhookUrl":%q}}`, integration, url))
	}
	list = append(list, `{"providerId":"discord","_integrationId":"9","credentials":{"webhookUrl":"x"}}`)
	return `200 {"data":{"channels":[` + strings.Join(list, ",") + `]}}`
}

// Two updates that overlapped left two channels of one integration. They are removed where
// that removes nothing else.
func TestDuplicatesHeal(t *testing.T) {
	const put, remove = "PUT /v1/subscribers/a%2Fb/credentials ", "DELETE /v1/subscribers/a%2Fb/credentials/slack "
	for name, c := range map[string]struct {
		answers []string
		asked   []string
		others  int
	}{
		"one":                              {[]string{channels("1 " + webhook)}, []string{put}, 0},
		"another that is disconnected":     {[]string{channels("1 "+webhook, "1 ")}, []string{put}, 0},
		"another integration's":            {[]string{channels("1 "+webhook, "2 x")}, []string{put}, 0},
		"two":                              {[]string{channels("1 "+webhook, "1 x"), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, not wrapped":                 {[]string{strings.Replace("200 "+unwrap(channels("1 "+webhook, "1 x")[4:]), "{", `{"_id":"s",`, 1), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, without an ID":               {[]string{"200 " + unwrap(channels("1 "+webhook, "1 x")[4:]), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, with data of its own":        {[]string{strings.Replace("200 "+unwrap(channels("1 "+webhook, "1 x")[4:]), "{", `{"subscriberId":"s","data":{"plan":"x"},`, 1), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, and any answer to a change":  {[]string{channels("1 "+webhook, "1 x"), `200 {"data":true}`, channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, not wrapped, custom data":    {[]string{strings.Replace("200 "+unwrap(channels("1 "+webhook, "1 x")[4:]), "{", `{"_id":"s","data":{"plan":"pro"},`, 1), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"the same twice":                   {[]string{channels("1 "+webhook, "1 "+webhook), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"three, ours is not the first":     {[]string{channels("1 x", "1 y", "1 "+webhook), "204 ", channels("1 " + webhook)}, []string{put, remove, put}, 0},
		"two, and another integration's":   {[]string{channels("1 "+webhook, "1 x", "2 y")}, []string{put}, 1},
		"two, and another's without a URL": {[]string{channels("1 "+webhook, "1 x", "2 ")}, []string{put}, 1},
		"two, again":                       {[]string{channels("1 "+webhook, "1 x"), "204 ", channels("1 "+webhook, "1 z")}, []string{put, remove, put}, 1},
	} {
		r := &recorder{answers: c.answers}
		others, err := newClient(t, r, "", true).Save(context.Background(), connection("a/b"))
		var asked []string
		for _, a := range r.asked {
			asked = append(asked, a[:strings.Index(a, "ApiKey")])
		}
		if err != nil || others != c.others || strings.Join(asked, "\n") != strings.Join(c.asked, "\n") {
			t.Errorf("%s: got %d others, %v by %q, want %d by %q", name, others, err, asked, c.others, c.asked)
		}
	}
}

func TestCredentials(t *testing.T) {
	r := &recorder{answers: []string{`200 {"data":{"channels":[
		{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"https://hooks.slack.com/services/canary"}},
		{"providerId":"slack","_integrationId":"2","credentials":{"webhookUrl":""}},
		{"providerId":"slack","_integrationId":"3","credentials":{}},
		{"providerId":"discord","_integrationId":"4","credentials":{"webhookUrl":"https://x"}}]}}`}}
	got, err := newClient(t, r, "", true).Credentials(context.Background(), "a/b")
	if err != nil || len(got) != 3 || got[0].IntegrationID != "1" || got[0].WebhookURL.Empty() || !got[1].WebhookURL.Empty() || !got[2].WebhookURL.Empty() || !strings.HasPrefix(r.asked[0], "GET /v1/subscribers/a%2Fb ") {
		t.Errorf("got %v, %v by %s, want three, the first connected", got, err, r.asked[0])
	}
}

func TestEndpointsOnTheWire(t *testing.T) {
	acme, err := novuclient.ParseContext(`{"tenant":"acme"}`)
	if err != nil {
		t.Fatal(err)
	}
	conn := novuclient.Connection{SubscriberID: "ada", Integration: "slack-eu", Context: acme, WebhookURL: secret.New(webhook)}
	id := novuclient.EndpointID(conn)
	const auth = ` ApiKey key1 application/json `
	look, subscriber := `GET /v1/channel-endpoints?integrationIdentifier=slack-eu&subscriberId=ada`+auth, `GET /v1/subscribers/ada`+auth
	patch := func(id string) string {
		return `PATCH /v1/channel-endpoints/` + id + auth + `{"endpoint":{"url":"` + webhook + `"}}`
	}
	post := `POST /v1/channel-endpoints` + auth + `{"identifier":"` + id + `","subscriberId":"ada","integrationIdentifier":"slack-eu","type":"webhook",` +
		`"endpoint":{"url":"` + webhook + `"},"createSubscriberIfMissing":true,"context":{"tenant":"acme"}}`
	create := `POST /v1/subscribers` + auth + `{"subscriberId":"ada"}`
	endpoint := func(id, context, more string) string {
		return `{"identifier":"` + id + `","type":"webhook","providerId":"slack","integrationIdentifier":"slack-eu","contextKeys":[` + context + `],"endpoint":{"url":"canary"}` + more + `}`
	}
	page := func(endpoints ...string) string {
		return `200 {"data":[` + strings.Join(endpoints, ",") + `],"next":null}`
	}
	known := `200 {"data":{"channels":[]}}`
	for name, c := range map[string]struct {
		answers []string
		asked   []string
		reason  novuclient.Reason
		others  int
	}{
		"new":                               {[]string{page(), `201 {"data":{"_id":"1"}}`}, []string{look, post}, "", 0},
		"without createSubscriberIfMissing": {[]string{page(), `404 {"message":"Subscriber not found: ada"}`, `201 {"data":{"_id":"1"}}`, page(), `201 {"data":{"_id":"1"}}`}, []string{look, post, create, look, post}, "", 0},
		"ours":                              {[]string{page(endpoint(id, `"tenant:acme"`, "")), known, `200 {"data":{"_id":"1"}}`}, []string{look, subscriber, patch(id)}, "", 0},
		"Novu's own":                        {[]string{page(endpoint("a/b", `"tenant:acme"`, "")), known, `200 {"data":{"_id":"1"}}`}, []string{look, subscriber, patch("a%2Fb")}, "", 0},
		"ours of two":                       {[]string{page(endpoint("first", `"tenant:acme"`, ""), endpoint(id, `"tenant:acme"`, ""), endpoint("last", `"tenant:acme"`, "")), known, `200 {"data":{"_id":"1"}}`}, []string{look, subscriber, patch(id)}, "", 2},
		"of other contexts":                 {[]string{page(endpoint("none", ``, ""), endpoint("more", `"tenant:acme","x:y"`, ""), endpoint("other", `"tenant:b"`, "")), `201 {"data":{"_id":"1"}}`}, []string{look, post}, "", 0},
		"of another type":                   {[]string{page(endpoint("x", `"tenant:acme"`, `,"type":"slack_channel"`)), `201 {"data":{"_id":"1"}}`}, []string{look, post}, "", 1},
		"of another provider":               {[]string{page(endpoint("x", `"tenant:acme"`, `,"providerId":"msteams"`)), `201 {"data":{"_id":"1"}}`}, []string{look, post}, "", 0},
		"of another integration":            {[]string{page(endpoint("x", `"tenant:acme"`, `,"integrationIdentifier":"slack-us"`)), `201 {"data":{"_id":"1"}}`}, []string{look, post}, "", 0},
		"on the second page": {[]string{`200 {"data":[` + endpoint("x", ``, "") + `],"next":"a b"}`, page(endpoint("y", `"tenant:acme"`, "")), known, `200 {"data":{"_id":"1"}}`},
			[]string{look, strings.Replace(look, "?", "?after=a%20b&", 1), subscriber, patch("y")}, "", 0},
		"not wrapped": {[]string{`200 [` + endpoint(id, `"tenant:acme"`, "") + `]`, `200 {"subscriberId":"ada"}`, `200 {"identifier":"1"}`}, []string{look, subscriber, patch(id)}, "", 0},
		"on the second page, wrapped once more": {[]string{`200 {"data":{"data":[` + endpoint("x", ``, "") + `],"next":"a b"}}`, `200 {"data":` + page(endpoint("y", `"tenant:acme"`, ""))[4:] + `}`, known, `200 {"data":{"_id":"1"}}`},
			[]string{look, strings.Replace(look, "?", "?after=a%20b&", 1), subscriber, patch("y")}, "", 0},
		"no list": {[]string{`200 {"data":{"x":[]}}`}, []string{look}, novuclient.NotNovu, 0},
		"a deleted subscriber": {[]string{page(endpoint(id, `"tenant:acme"`, "")), `404 {"message":"Subscriber 'ada' was not found"}`, `201 {"data":{"_id":"1"}}`, page(endpoint(id, `"tenant:acme"`, "")), known, `200 {"data":{"_id":"1"}}`},
			[]string{look, subscriber, create, look, subscriber, patch(id)}, "", 0},
		"no endpoints":           {[]string{`404 {"message":"Cannot GET /v1/channel-endpoints"}`}, []string{look}, novuclient.NoEndpoints, 0},
		"not enabled":            {[]string{`404 {"message":"Feature not enabled"}`}, []string{look}, novuclient.NoEndpoints, 0},
		"down":                   {[]string{`503 {}`}, []string{look}, novuclient.Unavailable, 0},
		"integration not found":  {[]string{page(), `404 {"message":"Integration not found: slack-eu"}`}, []string{look, post}, novuclient.NoIntegration, 0},
		"made by someone before": {[]string{page(), `409 {"message":"exists"}`}, []string{look, post}, novuclient.Unavailable, 0},
		"removed meanwhile":      {[]string{page(endpoint(id, `"tenant:acme"`, "")), known, `404 {"message":"Channel endpoint not found"}`}, []string{look, subscriber, patch(id)}, novuclient.Unavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{answers: c.answers, lookUps: true}
			s := httptest.NewServer(r)
			t.Cleanup(s.Close)
			u, _ := url.Parse(s.URL)
			others, err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u, CreateSubscriber: true, SaveEndpoints: true}).Save(context.Background(), conn)
			if novuclient.AsError(err).Reason != c.reason || (err == nil) != (c.reason == "") || err == nil && others != c.others {
				t.Errorf("got %d others, %v, want %d, reason %q", others, err, c.others, c.reason)
			}
			if got := strings.Join(r.asked, "\n"); got != strings.Join(c.asked, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.asked, "\n"))
			}
		})
	}
	for _, change := range []func(*novuclient.Connection){
		func(c *novuclient.Connection) { c.SubscriberID = "bob" }, func(c *novuclient.Connection) { c.Integration = "x" },
		func(c *novuclient.Connection) { c.Context = novuclient.Context{} },
	} {
		other := conn
		change(&other)
		if novuclient.EndpointID(other) == id {
			t.Errorf("%+v has the same identifier", other)
		}
	}
	same := conn
	same.Context, _ = novuclient.ParseContext(`{"tenant":{"id":"acme","data":{}}}`)
	if novuclient.EndpointID(same) != id {
		t.Error("the same context in another form has another identifier")
	}
	if conn.WebhookURL = secret.New("x"); novuclient.EndpointID(conn) != id {
		t.Error("another webhook has another identifier")
	}
}

// readyNovu is a Novu whose list of integrations changes; "" is down.
type readyNovu struct {
	list  string
	takes time.Duration
	asked atomic.Int64
	flag  bool // channel endpoints need a flag that is not set
}

func (n *readyNovu) RoundTrip(req *http.Request) (*http.Response, error) {
	text, status := `{"data":{"_id":"env1"}}`, 200
	if strings.HasSuffix(req.URL.Path, "/channel-endpoints") {
		if text = `{"data":[]}`; n.flag {
			text, status = `{"statusCode":404,"message":"Feature not enabled"}`, 404
		}
	} else if !strings.HasSuffix(req.URL.Path, "/me") {
		n.asked.Add(1)
		text = n.list
		select {
		case <-time.After(n.takes):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if text == "" {
		return nil, errors.New("down")
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(text))}, nil
}

func (n *readyNovu) client(endpoints bool) *novuclient.Client {
	u, _ := url.Parse("http://novu.example")
	return novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u, SaveEndpoints: endpoints, HTTPClient: &http.Client{Transport: n}})
}

// list is Novu's, of integrations as "id identifier"; the newest has the greatest ID.
func list(integrations ...string) string {
	var all []string
	for _, in := range integrations {
		id, identifier, _ := strings.Cut(in, " ")
		all = append(all, fmt.Sprintf(`{"_id":%q,"_environmentId":"env1","identifier":%q,"providerId":"slack","channel":"chat","active":true}`, id, identifier))
	}
	return `{"data":[` + strings.Join(all, ",") + `]}`
}

// unwrap returns the data of an answer.
func unwrap(answer string) string {
	return strings.TrimSuffix(strings.TrimPrefix(answer, `{"data":`), `}`)
}

// Before anyone goes to Slack in vain.
func TestResolveIntegrationSeesThatThereAreNoEndpoints(t *testing.T) {
	for _, endpoints := range []bool{false, true} {
		n := &readyNovu{list: list("1 a"), flag: true}
		got, err := n.client(endpoints).ResolveIntegration(t.Context(), "a", false)
		if want := map[bool]novuclient.Reason{true: novuclient.NoEndpoints}[endpoints]; novuclient.AsError(err).Reason != want || (got == "a") == endpoints {
			t.Errorf("endpoints: %t: got %q, %v, want reason %q", endpoints, got, err, want)
		}
	}
}

func TestResolveIntegrationChooses(t *testing.T) {
	several := list("66aa00000000000000000000 middle", "66ff00000000000000000000 newest", "5fff00000000000000000000 oldest")
	for name, c := range map[string]struct {
		list, integration string
		credentials       string // the identifier, or the reason
		endpoints         string
	}{
		"the only one":      {list("1 a"), "", "a", "a"},
		"the newest":        {several, "", "newest", string(novuclient.ManyIntegrations)},
		"the named one":     {several, "oldest", "oldest", "oldest"},
		"none":              {list(), "", string(novuclient.NoIntegration), string(novuclient.NoIntegration)},
		"none of that name": {several, "other", string(novuclient.NoIntegration), string(novuclient.NoIntegration)},
		"no list":           {"{}", "a", string(novuclient.NotNovu), string(novuclient.NotNovu)},
	} {
		for endpoints, want := range map[bool]string{false: c.credentials, true: c.endpoints} {
			got, err := (&readyNovu{list: c.list}).client(endpoints).ResolveIntegration(t.Context(), c.integration, false)
			if failure := (*novuclient.Error)(nil); errors.As(err, &failure) {
				got += string(failure.Reason)
			}
			if got != want {
				t.Errorf("%s, endpoints: %t: got %q, %v, want %q", name, endpoints, got, err, want)
			}
		}
	}
}

// A list counts for a minute; after an error or a refusal Novu is asked again in five
// seconds; while Novu does not answer, the last list finds and does not refuse.
func TestResolveIntegrationCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &readyNovu{list: list("1 a", "2 b")}
		c := n.client(false)
		check := func(integration, want string, reason novuclient.Reason, asked int64) {
			t.Helper()
			got, err := c.ResolveIntegration(t.Context(), integration, false)
			var failure *novuclient.Error
			if errors.As(err, &failure); got != want || (err == nil) != (reason == "") || err != nil && failure.Reason != reason || n.asked.Load() != asked {
				t.Errorf("%q: got %q, %v after %d look-ups, want %q %q after %d", integration, got, err, n.asked.Load(), want, reason, asked)
			}
		}
		n.list = ""
		check("", "", novuclient.Unavailable, 1)
		check("a", "", novuclient.Unavailable, 1)
		time.Sleep(6 * time.Second)
		n.list = list("1 a", "2 b")
		check("", "b", "", 2)
		time.Sleep(55 * time.Second)
		check("a", "a", "", 2)
		check("new", "", novuclient.NoIntegration, 3) // it may have been made since
		check("new", "", novuclient.NoIntegration, 3)
		check("", "b", "", 3)
		time.Sleep(61 * time.Second)
		n.list = list()
		check("", "", novuclient.NoIntegration, 4)
		time.Sleep(4 * time.Second)
		check("", "", novuclient.NoIntegration, 4)
		time.Sleep(2 * time.Second)
		n.list = list("1 a", "2 b") // the operator has mended it
		check("", "b", "", 5)
		time.Sleep(61 * time.Second)
		n.list = "" // down
		check("", "b", "", 6)
		check("a", "a", "", 6)
		check("new", "", novuclient.Unavailable, 6)
		time.Sleep(6 * time.Second)
		check("a", "a", "", 7)
		time.Sleep(24 * time.Hour)
		check("", "b", "", 8)
		check("new", "", novuclient.Unavailable, 8)
	})
}

// A slow Novu keeps nobody waiting for more than 1.5 s, and is asked once for all.
func TestResolveIntegrationSharesOneLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &readyNovu{list: list("1 a"), takes: time.Second}
		c := n.client(false)
		ask := func(want bool, takes time.Duration) {
			t.Helper()
			begin := time.Now()
			var group sync.WaitGroup
			for i := range 10 {
				ctx, cancel := context.WithCancel(t.Context())
				group.Go(func() {
					defer cancel()
					if _, err := c.ResolveIntegration(ctx, "", false); (err == nil) != want {
						t.Errorf("got %v", err)
					}
				})
				if synctest.Wait(); i == 0 {
					cancel() // the caller whose look-up the others share
				}
			}
			group.Wait()
			if took := time.Since(begin); took != takes {
				t.Errorf("took %v, want %v", took, takes)
			}
		}
		ask(true, time.Second)
		n.takes, c = time.Hour, n.client(false)
		ask(false, 1500*time.Millisecond)
		if got := n.asked.Load(); got != 2 {
			t.Errorf("got %d look-ups, want 2", got)
		}
	})
}

// While Novu does not tell its environment, and another one's integrations are among
// those listed, it did not say which are ours.
func TestIntegrationsOfAnUnknownEnvironment(t *testing.T) {
	if all, err := newClient(t, &recorder{answers: []string{"200 " + list("1 a", "2 b"), "503 {}"}}, "", true).Integrations(context.Background()); err != nil || len(all) != 2 {
		t.Errorf("got %v, %v, want two of one environment", all, err)
	}
	c := newClient(t, &recorder{answers: []string{`200 ` + integrations, `503 {}`}}, "", true)
	_, err := c.Integrations(context.Background())
	if failure := (*novuclient.Error)(nil); !errors.As(err, &failure) || !failure.Temporary() {
		t.Errorf("got %v, want a temporary error", err)
	}
}
