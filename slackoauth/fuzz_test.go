package slackoauth

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"novu-slack-redirect/secret"
)

type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Whatever Slack, or what stands in for it, answers: an Installation whose webhook
// is on Slack's host, or an error that quotes nothing but a well-formed code.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"ok":true,"team":{"id":"T01","name":"Acme"},"incoming_webhook":{"url":"https://hooks.slack.com/services/T01/B01/XXXX","channel":"#a","configuration_url":"https://acme.slack.com/x"}}`,
		`{"ok":true,"team":null,"incoming_webhook":{"url":"https://hooks.slack.com.evil.example/x"}}`, `{"ok":true,"incoming_webhook":{"url":"https://hooks.slack.com@evil.example/x"}}`,
		`{"ok":true}`, `{"ok":false,"error":"invalid_code"}`, `{"ok":false,"error":"<script>"}`, `[]`, `null`, `{"ok":true,"incoming_webhook":[]}`, `<html>`, ``,
	} {
		f.Add(200, seed)
		f.Add(429, seed)
		f.Add(503, seed)
		f.Add(307, seed)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		c := New(Config{URL: &url.URL{Scheme: "https", Host: "slack.com"}, HTTPClient: &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})}})
		in, failure := c.exchangeOnce(t.Context(), secret.New("code"))
		if (in == nil) == (failure == nil) {
			t.Fatalf("%d %q: got %v and %v", status, body, in, failure)
		}
		if failure != nil {
			if failure.Code != cleanCode(failure.Code) || strings.Contains(failure.Error(), "hooks.slack.com/services") {
				t.Errorf("%d %q: got %v", status, body, failure)
			}
			return
		}
		u, err := url.Parse(in.WebhookURL.Reveal())
		if status != http.StatusOK && status >= 300 || err != nil || u.Scheme != "https" || u.Host != "hooks.slack.com" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%d %q: got webhook %q", status, body, in.WebhookURL.Reveal())
		}
		if in.ConfigurationURL != "" && !strings.HasPrefix(in.ConfigurationURL, "https://") || len(in.Channel) > maxField || len(in.TeamName) > maxField || strings.ContainsAny(in.Channel+in.TeamName, "\x00\n\u202e") {
			t.Errorf("%d %q: got %+v", status, body, in)
		}
	})
}
