package main

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
)

// What the service is told, and what the fakes check.
const (
	clientID, clientSecret = "1234567890.1234567890", "bench-client-secret-0123456789ab"
	apiKey, linkSecret     = "bench-novu-key-0123456789abcdef", "bench-link-secret-0123456789abcdef"
	redirectURL            = "https://slack.example.com/slack/callback"
	returnURL              = "https://app.example.com/settings/integrations"
	webhook                = "https://hooks.slack.com/services/T0123456789/B0123456789/abcdefghijklmnopqrstuvwx"
)

// fakes are a Slack and a Novu with fixed answers. slacktest and novutest keep
// and check everything, and would be most of what is measured. These check what
// a flow stands on: path, key, each code once, the webhook.
type fakes struct {
	slack, novu string // origins
	saved       atomic.Int64

	mu    sync.Mutex
	spent map[string]bool
}

func newFakes() (*fakes, error) {
	f := &fakes{spent: map[string]bool{}}
	for to, answer := range map[*string]func(message) string{&f.slack: f.answerSlack, &f.novu: f.answerNovu} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*to = "http://" + listener.Addr().String()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go serve(conn, answer)
			}
		}()
	}
	return f, nil
}

func serve(conn net.Conn, answer func(message) string) {
	defer conn.Close()
	for from := bufio.NewReader(conn); ; {
		m, err := read(from)
		if err != nil {
			return
		}
		if _, err := conn.Write([]byte(answer(m))); err != nil {
			return
		}
	}
}

func answer(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// The sizes of real answers, about.
var (
	slackAnswer = answer("200 OK", `{"ok":true,"app_id":"A0123456789","authed_user":{"id":"U0123456789"},"scope":"incoming-webhook","token_type":"bot",`+
		`"access_token":"xoxb-000000000000-0000000000000-abcdefghijklmnopqrstuvwx","bot_user_id":"U0000000000","team":{"id":"T0123456789","name":"Acme"},`+
		`"enterprise":null,"is_enterprise_install":false,"incoming_webhook":{"channel":"#alerts","channel_id":"C0123456789",`+
		`"configuration_url":"https://acme.slack.com/services/B0123456789","url":"`+webhook+`"}}`)
	slackRefusal = answer("200 OK", `{"ok":false,"error":"invalid_code"}`)
	novuAnswer   = answer("200 OK", `{"data":{"_id":"0123456789abcdef01234567","subscriberId":"one","channels":[{"providerId":"slack","_integrationId":"0123456789abcdef01234567","credentials":{"webhookUrl":"`+webhook+`"}}]}}`)
	integrations = answer("200 OK", `{"data":[{"_id":"0123456789abcdef01234567","_environmentId":"e1","identifier":"slack-main","providerId":"slack","channel":"chat","active":true}]}`)
	environment  = answer("200 OK", `{"data":{"_id":"e1","name":"Production"}}`)
	notFound     = answer("404 Not Found", `{"message":"Cannot do that"}`)
	unauthorized = answer("401 Unauthorized", `{"message":"Unauthorized"}`)
)

func (f *fakes) answerSlack(m message) string {
	form, err := url.ParseQuery(string(m.body))
	code := form.Get("code")
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || m.first != "POST /api/oauth.v2.access HTTP/1.1" || m.auth != slackAuth || form.Get("redirect_uri") != redirectURL ||
		!strings.HasPrefix(code, "code-") || f.spent[code] {
		return slackRefusal
	}
	f.spent[code] = true
	return slackAnswer
}

func (f *fakes) answerNovu(m message) string {
	switch {
	case m.auth != "ApiKey "+apiKey:
		return unauthorized
	case m.first == "GET /v1/integrations/active HTTP/1.1":
		return integrations
	case m.first == "GET /v1/environments/me HTTP/1.1":
		return environment
	case strings.HasPrefix(m.first, "PUT /v1/subscribers/user-") && strings.HasSuffix(m.first, "/credentials HTTP/1.1") && strings.Contains(string(m.body), `"`+webhook+`"`):
		f.saved.Add(1)
		return novuAnswer
	}
	return notFound
}
