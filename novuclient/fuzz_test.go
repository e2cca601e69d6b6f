package novuclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"novu-slack-redirect/secret"
)

type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Whatever Novu, or what stands in for it, answers: no panic, an *Error or none, and
// nothing of the answer in it.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"data":{}}`, `{"statusCode":400,"message":"SubscriberId: ada not found"}`, `{"message":["a","b"]}`, `{"message":{"a":"b"}}`, `{"message":"Cannot PUT /v1/x"}`, `[]`, `null`, `"x"`, `{"data":null}`, `{"data":[{"channel":"chat","providerId":"slack","active":true,"identifier":"a"}]}`,
		`{"data":[{"channel":1}]}`, `{"channels":[{"providerId":"slack","credentials":{"webhookUrl":"https://x"}}]}`, `<html>`, ``,
	} {
		for _, status := range []int{200, 204, 301, 400, 401, 404, 409, 422, 429, 500} {
			f.Add(status, seed)
		}
	}
	u := &url.URL{Scheme: "https", Host: "novu.example"}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 100 || status > 999 {
			return
		}
		body = "canary-" + body
		for _, text := range []string{body, strings.TrimPrefix(body, "canary-")} {
			c := New(Config{APIKey: secret.New("key"), URL: u, CreateSubscriber: true, HTTPClient: &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}, nil
			})}})
			for name, call := range map[string]func() error{
				"Save": func() error {
					_, err := c.Save(context.Background(), Connection{SubscriberID: "ada", Integration: "slack-eu", WebhookURL: secret.New("https://x")})
					return err
				},
				"ResolveIntegration": func() error { _, err := c.ResolveIntegration(context.Background(), "", false); return err },
				"Integrations":       func() error { _, err := c.Integrations(context.Background()); return err },
				"Credentials":        func() error { _, err := c.Credentials(context.Background(), "ada"); return err },
				"Endpoints":          func() error { _, err := c.Endpoints(context.Background(), "ada", ""); return err },
			} {
				err := call()
				var failure *Error
				if err != nil && (!errors.As(err, &failure) || strings.Contains(err.Error(), "canary")) {
					t.Errorf("%s, %d %q: got %v", name, status, text, err)
				}
			}
		}
	})
}
