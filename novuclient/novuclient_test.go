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
	"testing"
	"time"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
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

func TestSaveLeavesOutAnUnsetIntegration(t *testing.T) {
	r := &recorder{}
	if err := newClient(t, r, "", true).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.asked[0], "integrationIdentifier") {
		t.Errorf("got %s", r.asked[0])
	}
}

func TestBaseURLVariants(t *testing.T) {
	for path, want := range map[string]string{
		"": "/v1/", "/": "/v1/", "/v1": "/v1/", "/v1/": "/v1/", "/api": "/api/v1/", "/api/": "/api/v1/", "/api/v1": "/api/v1/", "/api/v1//": "/api/v1/", "/api%20x": "/api%20x/v1/",
	} {
		r := &recorder{}
		if err := newClient(t, r, path, true).Save(context.Background(), novuclient.Connection{SubscriberID: "a/b", WebhookURL: secret.New(webhook)}); err != nil {
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
		err := newClient(t, r, "", false).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)})
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
	if err := newClient(t, r, "", false).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)}); err != nil {
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
	err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)})
	var failure *novuclient.Error
	if !errors.As(err, &failure) || failure.Reason != novuclient.BadURL || visited {
		t.Errorf("got %v, followed: %t, want a bad URL, not followed", err, visited)
	}
}

func TestNoAnswer(t *testing.T) {
	u, _ := url.Parse("http://127.0.0.1:1")
	err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u}).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)})
	var failure *novuclient.Error
	if !errors.As(err, &failure) || !failure.Temporary() || failure.Status != 0 || strings.Contains(err.Error(), "ada") {
		t.Errorf("got %v, want a temporary error without the subscriber", err)
	}
}

func TestSubscriberThatMayNotBeCreated(t *testing.T) {
	r := &recorder{answers: []string{`400 {"message":"SubscriberId: ada not found"}`}}
	err := newClient(t, r, "", false).Save(context.Background(), novuclient.Connection{SubscriberID: "ada", WebhookURL: secret.New(webhook)})
	if err == nil || len(r.asked) != 1 {
		t.Errorf("got %v after %d requests, want an error after 1", err, len(r.asked))
	}
}
