package slacktest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// The fake refuses what Slack refuses.
func TestContract(t *testing.T) {
	slack := slacktest.New(&upstreamtest.Recorder{})
	slack.RedirectURL = "https://slack.example.com/cb"
	now := time.Now()
	slack.Now = func() time.Time { return now }
	server := httptest.NewServer(slack)
	defer server.Close()
	query := url.Values{"client_id": {slack.ClientID}, "scope": {"incoming-webhook"}, "redirect_uri": {slack.RedirectURL}, "state": {"S"}}
	authorize := func(change ...string) (string, error) {
		q := url.Values{}
		for name, v := range query {
			q[name] = v
		}
		if len(change) == 2 {
			q.Set(change[0], change[1])
		}
		return slack.Approve(server.URL+"/oauth/v2/authorize?"+q.Encode(), "T01ACME", "#alerts")
	}
	code := func() string {
		callback, err := authorize()
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(callback)
		if u.Query().Get("state") != "S" {
			t.Errorf("the state did not come back: %s", callback)
		}
		return u.Query().Get("code")
	}
	exchange := func(id, secret, code, redirect string, basic bool) string {
		form := url.Values{"code": {code}, "redirect_uri": {redirect}}
		if !basic {
			form.Set("client_id", id)
			form.Set("client_secret", secret)
		}
		req, _ := http.NewRequest(http.MethodPost, server.URL+"/api/oauth.v2.access", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if basic {
			req.SetBasicAuth(id, secret)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var a struct {
			OK    bool
			Error string
		}
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %d, %v", res.StatusCode, err)
		}
		return a.Error
	}

	for _, bad := range [][]string{{"client_id", "x"}, {"scope", "chat:write"}, {"redirect_uri", "https://evil.example/"}} {
		if _, err := authorize(bad...); err == nil {
			t.Errorf("%v: got a code, want a refusal", bad)
		}
	}
	spent := code()
	old := code()
	for _, c := range []struct{ name, got, want string }{
		{"wrong client", exchange("x", slack.ClientSecret, spent, slack.RedirectURL, true), "invalid_client_id"},
		{"wrong secret", exchange(slack.ClientID, "x", spent, slack.RedirectURL, true), "bad_client_secret"},
		{"other redirect", exchange(slack.ClientID, slack.ClientSecret, spent, slack.RedirectURL+"/", true), "bad_redirect_uri"},
		{"unknown code", exchange(slack.ClientID, slack.ClientSecret, "x", slack.RedirectURL, true), "invalid_code"},
		{"right", exchange(slack.ClientID, slack.ClientSecret, spent, slack.RedirectURL, true), ""},
		{"again", exchange(slack.ClientID, slack.ClientSecret, spent, slack.RedirectURL, true), "code_already_used"},
		{"in the form", exchange(slack.ClientID, slack.ClientSecret, code(), slack.RedirectURL, false), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	now = now.Add(11 * time.Minute)
	if got := exchange(slack.ClientID, slack.ClientSecret, old, slack.RedirectURL, true); got != "invalid_code" {
		t.Errorf("after 11 minutes: got %q, want invalid_code", got)
	}
}
