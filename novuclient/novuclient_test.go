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
	answers []string // "status body"
	asked   []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.asked = append(r.asked, fmt.Sprintf("%s %s %s %s %s", req.Method, req.RequestURI, req.Header.Get("Authorization"), req.Header.Get("Content-Type"), body))
	status, text := 200, `{"data":{}}`
	if len(r.answers) > 0 {
		fmt.Sscanf(r.answers[0], "%d", &status)
		_, text, _ = strings.Cut(r.answers[0], " ")
		r.answers = r.answers[1:]
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
	err := c.Save(context.Background(), novuclient.Connection{SubscriberID: "user+1@example.com/ä #?", Integration: "slack-eu", WebhookURL: secret.New(webhook)})
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
func TestSaveRefusesAnUnnamedIntegration(t *testing.T) {
	for _, endpoints := range []bool{false, true} {
		r := &recorder{}
		s := httptest.NewServer(r)
		defer s.Close()
		u, _ := url.Parse(s.URL)
		conn := connection("ada")
		conn.Integration = ""
		err := novuclient.New(novuclient.Config{URL: u, SaveEndpoints: endpoints}).Save(context.Background(), conn)
		var failure *novuclient.Error
		if !errors.As(err, &failure) || failure.Reason != novuclient.Refused || failure.Progress != upstream.NotSent || len(r.asked) != 0 {
			t.Errorf("got %v after %d requests, want a refusal without any", err, len(r.asked))
		}
	}
}

// Whichever request of a Save fails, the error tells how far that one got, and the Save
// ends there.
func TestProgressOfEveryStep(t *testing.T) {
	const unknown, noEndpoint = `{"message":"SubscriberId: ada not found"}`, `{"message":"Channel endpoint not found"}`
	faults := map[string]struct {
		fault    http.HandlerFunc
		progress upstream.Progress
	}{
		"reset": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, upstream.MaybeAtWork},
		"504":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(504) }, upstream.MaybeAtWork},
		"503":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, upstream.Answered},
	}
	for name, c := range map[string]struct {
		endpoints bool
		before    []string // the answers to the requests before the one that fails
	}{
		"update":                {false, nil},
		"create":                {false, []string{`400 ` + unknown}},
		"update again":          {false, []string{`400 ` + unknown, `201 {}`}},
		"update endpoint":       {true, nil},
		"add endpoint":          {true, []string{`404 ` + noEndpoint}},
		"create for endpoint":   {true, []string{`404 ` + noEndpoint, `404 ` + unknown}},
		"update endpoint again": {true, []string{`404 ` + noEndpoint, `404 ` + unknown, `201 {}`}},
	} {
		for kind, f := range faults {
			r := &recorder{answers: c.before}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if len(r.answers) == 0 {
					r.asked = append(r.asked, req.URL.Path)
					f.fault(w, req)
					return
				}
				r.ServeHTTP(w, req)
			}))
			u, _ := url.Parse(s.URL)
			err := novuclient.New(novuclient.Config{URL: u, CreateSubscriber: true, SaveEndpoints: c.endpoints}).Save(context.Background(), connection("ada"))
			s.Close()
			var failure *novuclient.Error
			if !errors.As(err, &failure) || failure.Progress != f.progress || failure.MaybeAtWork() != (f.progress == upstream.MaybeAtWork) || !failure.Temporary() || len(r.asked) != len(c.before)+1 {
				t.Errorf("%s, %s: got %+v after %d requests, want %s after %d", name, kind, err, len(r.asked), f.progress, len(c.before)+1)
			}
		}
	}
}

// Novu answers with the whole subscriber, whose data can be large.
func TestLongAnswerIsSaved(t *testing.T) {
	long := `200 {"data":{"subscriberId":"ada","data":"` + strings.Repeat("x", 2<<20) + `"}}`
	c := newClient(t, &recorder{answers: []string{long, "200 <html>" + long, long}}, "", false)
	if err := c.Save(context.Background(), connection("ada")); err != nil {
		t.Errorf("got %v, want it saved", err)
	}
	if err := c.Save(context.Background(), connection("ada")); err == nil {
		t.Error("a page in place of Novu's answer is taken for a success")
	}
	if _, err := c.Credentials(context.Background(), "ada"); err == nil {
		t.Error("what was not read is taken for nothing")
	}
}

func TestBaseURLVariants(t *testing.T) {
	for path, want := range map[string]string{
		"": "/v1/", "/": "/v1/", "/v1": "/v1/", "/v1/": "/v1/", "/api": "/api/v1/", "/api/": "/api/v1/", "/api/v1": "/api/v1/", "/api/v1//": "/api/v1/", "/api%20x": "/api%20x/v1/",
	} {
		r := &recorder{}
		if err := newClient(t, r, path, true).Save(context.Background(), connection("a/b")); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(r.asked[0])[1]; got != want+"subscribers/a%2Fb/credentials" {
			t.Errorf("base %q: got %s, want %ssubscribers/a%%2Fb/credentials", path, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for answer, want := range map[string]novuclient.Reason{
		`400 {"message":"SubscriberId: ada not found"}`:                          novuclient.UnknownSubscriber,
		`404 {"message":"Subscriber not found for id ada"}`:                      novuclient.UnknownSubscriber,
		`400 {"message":"Subscriber ada do not have active slack integration."}`: novuclient.NoIntegration,
		`400 {"message":["x should not be empty"]}`:                              novuclient.Refused,
		`422 {"message":{"providerId":"x"}}`:                                     novuclient.Refused,
		`400 not json`:                                                           novuclient.Refused,
		`401 {"message":"API Key not found"}`:                                    novuclient.BadKey,
		`403 {"message":"Forbidden"}`:                                            novuclient.BadKey,
		`404 {"message":"Cannot PUT /v1/subscribers/ada/credentials"}`:           novuclient.BadURL,
		`302 moved`:                            novuclient.BadURL,
		`405 {"message":"Method Not Allowed"}`: novuclient.BadURL,
		`408 x`:                                novuclient.Unavailable,
		`409 {"message":"conflict"}`:           novuclient.Unavailable,
		`429 {"message":"ThrottlerException: Too Many Requests"}`: novuclient.Unavailable,
		`500 {"message":"Internal server error"}`:                 novuclient.Unavailable,
		`503 <html>`:                     novuclient.Unavailable,
		`200 <html>the dashboard</html>`: novuclient.Unavailable,
		`200 {"data":{"channels":[{"credentials":{"webhookUrl":"` + webhook + `"}}]`: novuclient.Unavailable, // cut off
		`200 `: novuclient.Unavailable,
		`400 {"message":"SubscriberId: ada not found ` + webhook + `"}`: novuclient.UnknownSubscriber,
	} {
		r := &recorder{answers: []string{answer}}
		err := newClient(t, r, "", false).Save(context.Background(), connection("ada"))
		var failure *novuclient.Error
		if !errors.As(err, &failure) {
			t.Errorf("%s: got %v, want an *Error", answer, err)
			continue
		}
		status := 0
		fmt.Sscanf(answer, "%d", &status)
		if failure.Reason != want || failure.Status != status || failure.RetryAfter != 7*time.Second || failure.Temporary() != (want == novuclient.Unavailable) {
			t.Errorf("%s: got %+v, want reason %s, status %d, 7 s", answer, failure, want, status)
		}
		if text := fmt.Sprintf("%v %+v", err, *failure); strings.Contains(text, "canary") || strings.Contains(text, "key1") {
			t.Errorf("the error names a secret: %s", text)
		}
	}
}

func TestNoContentIsSaved(t *testing.T) {
	r := &recorder{answers: []string{"204 "}}
	if err := newClient(t, r, "", false).Save(context.Background(), connection("ada")); err != nil {
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
	err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), connection("ada"))
	var failure *novuclient.Error
	if !errors.As(err, &failure) || failure.Reason != novuclient.BadURL || visited {
		t.Errorf("got %v, followed: %t, want a bad URL, not followed", err, visited)
	}
}

func TestNoAnswer(t *testing.T) {
	u, _ := url.Parse("http://127.0.0.1:1")
	err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), connection("ada"))
	var failure *novuclient.Error
	if !errors.As(err, &failure) || !failure.Temporary() || failure.Status != 0 || failure.Progress != upstream.NotSent || failure.MaybeAtWork() || strings.Contains(err.Error(), "ada") {
		t.Errorf("got %v, want a temporary error without the subscriber", err)
	}
}

func TestSubscriberThatMayNotBeCreated(t *testing.T) {
	r := &recorder{answers: []string{`400 {"message":"SubscriberId: ada not found"}`}}
	err := newClient(t, r, "", false).Save(context.Background(), connection("ada"))
	if err == nil || len(r.asked) != 1 {
		t.Errorf("got %v after %d requests, want an error after 1", err, len(r.asked))
	}
}

const integrations = `[
	{"_id":"1","_environmentId":"env1","identifier":"slack-eu","providerId":"slack","channel":"chat","active":true,"credentials":{"secretKey":"canary"}},
	{"_id":"2","_environmentId":"env1","identifier":"slack-off","providerId":"slack","channel":"chat","active":false},
	{"_id":"3","_environmentId":"env2","identifier":"slack-other","providerId":"slack","channel":"chat","active":true},
	{"_id":"4","_environmentId":"env1","identifier":"mail","providerId":"slack","channel":"email","active":true},
	{"_id":"5","_environmentId":"env1","identifier":"discord","providerId":"discord","channel":"chat","active":true}]`

// Newer and older versions answer differently: wrapped or not, with an environment
// or without, with other environments' integrations among them.
func TestIntegrations(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    string
	}{
		"newer":            {[]string{`200 {"data":` + integrations + `}`, `200 {"data":{"_id":"env1","name":"Production"}}`}, "slack-eu"},
		"not wrapped":      {[]string{`200 ` + integrations, `200 {"_id":"env1"}`}, "slack-eu"},
		"other":            {[]string{`200 ` + integrations, `200 {"_id":"env2"}`}, "slack-other"},
		"older, no answer": {[]string{`200 {"data":` + integrations + `}`, `404 {"message":"Cannot GET /v1/environments/me"}`}, "slack-eu slack-other"},
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
		_, err := newClient(t, &recorder{answers: []string{answer}}, "", true).ResolveIntegration(context.Background(), "")
		if failure := (*novuclient.Error)(nil); !errors.As(err, &failure) || !failure.Temporary() {
			t.Errorf("%s: got %v, want that Novu did not say", answer, err)
		}
	}
}

func TestCredentialsAreCountedAndNotRead(t *testing.T) {
	r := &recorder{answers: []string{`200 {"data":{"channels":[
		{"providerId":"slack","_integrationId":"1","credentials":{"webhookUrl":"https://hooks.slack.com/services/canary"}},
		{"providerId":"slack","_integrationId":"2","credentials":{"webhookUrl":""}},
		{"providerId":"slack","_integrationId":"3","credentials":{}},
		{"providerId":"discord","_integrationId":"4","credentials":{"webhookUrl":"https://x"}}]}}`}}
	got, err := newClient(t, r, "", true).Credentials(context.Background(), "a/b")
	if err != nil || len(got) != 1 || got[0] != "1" || !strings.HasPrefix(r.asked[0], "GET /v1/subscribers/a%2Fb ") {
		t.Errorf("got %v, %v by %s, want integration 1", got, err, r.asked[0])
	}
}

func TestEndpointsOnTheWire(t *testing.T) {
	conn := novuclient.Connection{SubscriberID: "ada", Integration: "slack-eu", Context: `{"tenant":"acme"}`, WebhookURL: secret.New(webhook)}
	id := novuclient.EndpointID(conn)
	patch := `PATCH /v1/channel-endpoints/` + id + ` ApiKey key1 application/json {"endpoint":{"url":"` + webhook + `"}}`
	post := `POST /v1/channel-endpoints ApiKey key1 application/json {"identifier":"` + id + `","subscriberId":"ada","integrationIdentifier":"slack-eu","type":"webhook",` +
		`"endpoint":{"url":"` + webhook + `"},"createSubscriberIfMissing":true,"context":{"tenant":"acme"}}`
	create := `POST /v1/subscribers ApiKey key1 application/json {"subscriberId":"ada"}`
	for name, c := range map[string]struct {
		answers []string
		asked   []string
		reason  novuclient.Reason
	}{
		"without createSubscriberIfMissing": {[]string{`404 {"message":"Channel endpoint not found"}`, `404 {"message":"Subscriber not found: ada"}`, `201 {}`,
			`404 {"message":"Channel endpoint not found"}`, `201 {}`}, []string{patch, post, create, patch, post}, ""},
		"known":                  {[]string{`200 {"data":{}}`}, []string{patch}, ""},
		"new":                    {[]string{`404 {"message":"Channel endpoint not found"}`, `201 {"data":{}}`}, []string{patch, post}, ""},
		"older Novu":             {[]string{`404 {"message":"Cannot PATCH /v1/channel-endpoints/x"}`}, []string{patch}, novuclient.NoEndpoints},
		"down":                   {[]string{`503 {}`}, []string{patch}, novuclient.Unavailable},
		"integration not found":  {[]string{`404 {"message":"Channel endpoint not found"}`, `404 {"message":"Integration not found"}`}, []string{patch, post}, novuclient.NoIntegration},
		"made by someone before": {[]string{`404 {"message":"Channel endpoint not found"}`, `409 {"message":"exists"}`}, []string{patch, post}, novuclient.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{answers: c.answers}
			s := httptest.NewServer(r)
			t.Cleanup(s.Close)
			u, _ := url.Parse(s.URL)
			err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u, CreateSubscriber: true, SaveEndpoints: true}).Save(context.Background(), conn)
			var failure *novuclient.Error
			if errors.As(err, &failure); (err == nil) != (c.reason == "") || err != nil && failure.Reason != c.reason {
				t.Errorf("got %v, want reason %q", err, c.reason)
			}
			if got := strings.Join(r.asked, "\n"); got != strings.Join(c.asked, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.asked, "\n"))
			}
		})
	}
	for _, change := range []func(*novuclient.Connection){
		func(c *novuclient.Connection) { c.SubscriberID = "bob" }, func(c *novuclient.Connection) { c.Integration = "x" },
		func(c *novuclient.Connection) { c.Context = "" },
	} {
		other := conn
		change(&other)
		if novuclient.EndpointID(other) == id {
			t.Errorf("%+v has the same identifier", other)
		}
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
}

func (n *readyNovu) RoundTrip(req *http.Request) (*http.Response, error) {
	text := `{"_id":"env1"}`
	if !strings.HasSuffix(req.URL.Path, "/me") {
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
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(text))}, nil
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
	return "[" + strings.Join(all, ",") + "]"
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
		"no list":           {"{}", "a", string(novuclient.Unavailable), string(novuclient.Unavailable)},
	} {
		for endpoints, want := range map[bool]string{false: c.credentials, true: c.endpoints} {
			got, err := (&readyNovu{list: c.list}).client(endpoints).ResolveIntegration(t.Context(), c.integration)
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
			got, err := c.ResolveIntegration(t.Context(), integration)
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
		n.list = "[]"
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
					if _, err := c.ResolveIntegration(ctx, ""); (err == nil) != want {
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
