package slackoauth_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/upstream"
	"novu-slack-redirect/upstream/upstreamtest"
)

const redirectURL = "https://slack.example.com/slack/callback"

func newClient(t *testing.T, slack string) *slackoauth.Client {
	t.Helper()
	u, err := url.Parse(slack)
	if err != nil {
		t.Fatal(err)
	}
	return slackoauth.New(slackoauth.Config{
		ClientID: "2222.3333", ClientSecret: secret.New("s3cr%t+/="), RedirectURL: redirectURL, URL: u,
	})
}

func answering(t *testing.T, body string) *slackoauth.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
	t.Cleanup(s.Close)
	return newClient(t, s.URL)
}

func TestAuthCodeURL(t *testing.T) {
	c := newClient(t, "https://slack.com")
	want := "https://slack.com/oauth/v2/authorize?client_id=2222.3333&redirect_uri=https%3A%2F%2Fslack.example.com%2Fslack%2Fcallback&scope=incoming-webhook&state=S"
	if got := c.AuthCodeURL(secret.New("S"), ""); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := c.AuthCodeURL(secret.New("S"), "T01"); got != want+"&team=T01" {
		t.Errorf("got %s, want %s&team=T01", got, want)
	}
	if got := newClient(t, "https://slack-gov.com").AuthCodeURL(secret.New("S"), ""); !strings.HasPrefix(got, "https://slack-gov.com/oauth/v2/authorize?") {
		t.Errorf("got %s, want GovSlack's page", got)
	}
}

// The exchange's exact bytes, as a raw socket sees them.
func TestExchangeOnTheWire(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			got <- err.Error()
			return
		}
		body, _ := io.ReadAll(req.Body)
		got <- fmt.Sprintf("%s %s\n%s\n%s\n%s", req.Method, req.RequestURI, req.Header.Get("Content-Type"), req.Header.Get("Authorization"), body)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n"+`{"ok":false,"error":"code_already_used"} `+"\n")
	}()
	_, err = newClient(t, "http://"+listener.Addr().String()).Exchange(context.Background(), secret.New("1.2&3=ä"))
	var failure *slackoauth.Error
	if !errors.As(err, &failure) || failure.Code != "code_already_used" || failure.Lost() {
		t.Errorf("got %v, want code_already_used", err)
	}
	want := "POST /api/oauth.v2.access\napplication/x-www-form-urlencoded\nBasic " +
		base64.StdEncoding.EncodeToString([]byte("2222.3333:s3cr%t+/=")) +
		"\ncode=1.2%263%3D%C3%A4&redirect_uri=https%3A%2F%2Fslack.example.com%2Fslack%2Fcallback"
	if g := <-got; g != want {
		t.Errorf("got\n%s\nwant\n%s", g, want)
	}
}

func TestExchangeReadsTheInstallation(t *testing.T) {
	const body = `{"ok":true,"app_id":"A01","access_token":"xoxb-1","token_type":"bot","scope":"incoming-webhook","bot_user_id":"U01",
	 "authed_user":{"id":"U02"},"team":{"id":"T01","name":"Acme"},"enterprise":null,"is_enterprise_install":false,"new_field":{"a":[1]},
	 "incoming_webhook":{"url":"https://hooks.slack.com/services/T01/B01/XXXX","channel":"#alerts","channel_id":"C01",
	                     "configuration_url":"https://acme.slack.com/services/B01"}}`
	in, err := answering(t, body).Exchange(context.Background(), secret.New("code"))
	if err != nil {
		t.Fatal(err)
	}
	if in.TeamID != "T01" || in.TeamName != "Acme" || in.Channel != "#alerts" || in.ChannelID != "C01" ||
		in.ConfigurationURL != "https://acme.slack.com/services/B01" || in.WebhookURL.Reveal() != "https://hooks.slack.com/services/T01/B01/XXXX" {
		t.Errorf("got %+v with webhook %s", in, in.WebhookURL.Reveal())
	}
	if text := fmt.Sprintf("%+v", *in); strings.Contains(text, "XXXX") || strings.Contains(text, "xoxb") {
		t.Errorf("the installation prints a secret: %s", text)
	}

	in, err = answering(t, strings.Replace(body, `{"id":"T01","name":"Acme"}`, "null", 1)).Exchange(context.Background(), secret.New("code"))
	if err != nil || in.TeamID != "" || in.Channel != "#alerts" {
		t.Errorf("organisation-wide install: got %+v, %v", in, err)
	}
	for _, manage := range []string{"http://acme.slack.com/x", "https://evil.example/x", "https://notslack.com/", "https://x@acme.slack.com/", "javascript:alert(1)", ""} {
		in, err = answering(t, strings.Replace(body, "https://acme.slack.com/services/B01", manage, 1)).Exchange(context.Background(), secret.New("code"))
		if err != nil || in.ConfigurationURL != "" {
			t.Errorf("configuration_url %q: got %+v, %v, want it dropped", manage, in, err)
		}
	}
	long := strings.Repeat("é", 300)
	in, err = answering(t, strings.Replace(body, "#alerts", long, 1)).Exchange(context.Background(), secret.New("code"))
	if err != nil || len(in.Channel) > 255 || !utf8.ValidString(in.Channel) || !strings.HasPrefix(long, in.Channel) {
		t.Errorf("long channel: got %d bytes, %v", len(in.Channel), err)
	}
}

// GovSlack's webhooks are GovSlack's, and only its.
func TestWebhookHostMovesWithSlackURL(t *testing.T) {
	for slack, want := range map[string]map[string]bool{
		"https://slack.com":     {"https://hooks.slack.com/services/x": true, "https://hooks.slack-gov.com/services/x": false, "https://slack.com/services/x": false},
		"https://slack-gov.com": {"https://hooks.slack.com/services/x": false, "https://hooks.slack-gov.com/services/x": true},
	} {
		for webhook, good := range want {
			u, _ := url.Parse(slack)
			c := slackoauth.New(slackoauth.Config{ClientID: "c", RedirectURL: redirectURL, URL: u, HTTPClient: &http.Client{Transport: canned(
				`{"ok":true,"incoming_webhook":{"url":"` + webhook + `"}}`)}})
			if _, err := c.Exchange(context.Background(), secret.New("code")); (err == nil) != good {
				t.Errorf("%s, %s: got %v, want accepted: %t", slack, webhook, err, good)
			}
		}
	}
}

// canned answers every request with itself.
type canned string

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(c))), Request: r}, nil
}

// A redirect gets neither the code nor the secret, whatever its status.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var visited atomic.Bool
		elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visited.Store(true) }))
		defer elsewhere.Close()
		slack := httptest.NewServer(http.RedirectHandler(elsewhere.URL, status))
		defer slack.Close()
		_, err := newClient(t, slack.URL).Exchange(context.Background(), secret.New("code"))
		var failure *slackoauth.Error
		if !errors.As(err, &failure) || failure.Code != slackoauth.CodeUnavailable || failure.Status != status {
			t.Errorf("%d: got %v, want unavailable", status, err)
		}
		if visited.Load() {
			t.Errorf("%d: the redirect was followed", status)
		}
	}
}

// Nothing that Slack, or whoever answers in its place, sends is quoted.
func TestErrorsDoNotQuoteTheAnswer(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 307 x\r\nLocation: http://%zz/?code=canary\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncanary line\r\n\r\n",
		"HTTP/1.1 canary\r\n\r\n",
		"canary",
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: canary\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"ok\":false,\"error\":\"canary!\"}",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				http.ReadRequest(bufio.NewReader(conn))
				io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		_, err = newClient(t, "http://"+listener.Addr().String()).Exchange(context.Background(), secret.New("canary-code"))
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), "canary") {
			t.Errorf("%q: got %v, want an error without it", answer, err)
		}
	}
}

// An answer is read up to a limit, and no further.
func TestAnswersAreBounded(t *testing.T) {
	var most atomic.Int64 // bytes that were sent in answer to one request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat("x", 64<<10))
		io.WriteString(w, `{"ok":false,"error":"`)
		for sent := int64(0); sent < 64<<20; sent += int64(len(chunk)) {
			most.Store(max(most.Load(), sent))
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := newClient(t, server.URL).Exchange(ctx, secret.New("code"))
	if err == nil || !strings.Contains(err.Error(), "more than 262144 bytes") {
		t.Errorf("got %v, want a refusal", err)
	}
	server.Close()
	if sent := most.Load(); sent > 32<<20 {
		t.Errorf("%d bytes were taken", sent)
	}
}

// What Exchange repeats, how often, and what its error says of the code. Every case
// ends in an installation if code is "".
func TestExchangeRepeats(t *testing.T) {
	refused := func(code string) upstreamtest.Fault { return upstreamtest.JSON(200, `{"ok":false,"error":"`+code+`"}`) }
	limited := upstreamtest.JSON(429, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "30")
	for name, c := range map[string]struct {
		faults     []upstreamtest.Fault // of each request; the last one stays
		code       string
		requests   int
		lost       bool
		retryAfter time.Duration
	}{
		"nothing":                     {nil, "", 1, false, 0},
		"429":                         {[]upstreamtest.Fault{limited}, slackoauth.CodeRateLimited, 1, false, 30 * time.Second},
		"429 without JSON":            {[]upstreamtest.Fault{upstreamtest.Answer(429, "slow down")}, slackoauth.CodeRateLimited, 1, false, time.Second},
		"ratelimited":                 {[]upstreamtest.Fault{refused("ratelimited")}, slackoauth.CodeRateLimited, 1, false, time.Second},
		"not yet, then 429":           {[]upstreamtest.Fault{refused("service_unavailable"), limited}, slackoauth.CodeRateLimited, 2, false, 30 * time.Second},
		"reset, then 429":             {[]upstreamtest.Fault{upstreamtest.Reset, limited}, slackoauth.CodeRateLimited, 2, false, 30 * time.Second},
		"503, then 429":               {[]upstreamtest.Fault{upstreamtest.HTML(503), limited}, slackoauth.CodeRateLimited, 2, false, 30 * time.Second},
		"refused":                     {[]upstreamtest.Fault{refused("access_denied")}, "access_denied", 1, false, 0},
		"not yet":                     {[]upstreamtest.Fault{refused("service_unavailable"), refused("request_timeout"), nil}, "", 3, false, 0},
		"never":                       {[]upstreamtest.Fault{refused("service_unavailable")}, "service_unavailable", 3, false, 0},
		"503 with Retry-After":        {[]upstreamtest.Fault{upstreamtest.JSON(503, `{}`, "Retry-After", "60")}, slackoauth.CodeUnavailable, 1, false, time.Minute},
		"503 for ever":                {[]upstreamtest.Fault{upstreamtest.HTML(503)}, slackoauth.CodeUnavailable, 3, false, 0},
		"503, 502, 500":               {[]upstreamtest.Fault{upstreamtest.HTML(503), upstreamtest.HTML(502), upstreamtest.HTML(500)}, slackoauth.CodeUnavailable, 3, false, 0},
		"502 once":                    {[]upstreamtest.Fault{upstreamtest.HTML(502), nil}, "", 2, false, 0},
		"502 for ever":                {[]upstreamtest.Fault{upstreamtest.HTML(502)}, slackoauth.CodeUnavailable, 2, false, 0},
		"504 for ever":                {[]upstreamtest.Fault{upstreamtest.HTML(504)}, slackoauth.CodeUnavailable, 2, false, 0},
		"reset once":                  {[]upstreamtest.Fault{upstreamtest.Reset, nil}, "", 2, false, 0},
		"reset for ever":              {[]upstreamtest.Fault{upstreamtest.Reset}, slackoauth.CodeUnavailable, 2, false, 0},
		"fatal_error for ever":        {[]upstreamtest.Fault{refused("fatal_error")}, "fatal_error", 2, false, 0},
		"HTML for ever":               {[]upstreamtest.Fault{upstreamtest.HTML(200)}, slackoauth.CodeUnavailable, 2, false, 0},
		"404":                         {[]upstreamtest.Fault{upstreamtest.HTML(404)}, slackoauth.CodeUnavailable, 1, false, 0},
		"spent, the answer lost":      {[]upstreamtest.Fault{upstreamtest.LoseAnswer, nil}, "code_already_used", 2, true, 0},
		"spent, the answer cut off":   {[]upstreamtest.Fault{upstreamtest.Truncate, nil}, "code_already_used", 2, true, 0},
		"spent, and 503":              {[]upstreamtest.Fault{upstreamtest.Edit(func(answer *httptest.ResponseRecorder) { answer.Code = 503; answer.Body.Reset() }), nil}, "code_already_used", 2, true, 0},
		"spent, and the gateway lost": {[]upstreamtest.Fault{upstreamtest.Edit(func(answer *httptest.ResponseRecorder) { answer.Code = 502 }), nil}, "code_already_used", 2, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := &upstreamtest.Recorder{}
			slack := slacktest.New(recorder)
			slack.RedirectURL = redirectURL
			server := httptest.NewServer(slack)
			defer server.Close()
			u, _ := url.Parse(server.URL)
			client := slackoauth.New(slackoauth.Config{ClientID: slack.ClientID, ClientSecret: secret.New(slack.ClientSecret), RedirectURL: redirectURL, URL: u})
			callback, err := slack.Approve(client.AuthCodeURL(secret.New("S"), ""), "T01ACME", "#alerts")
			if err != nil {
				t.Fatal(err)
			}
			back, _ := url.Parse(callback)
			if n := len(c.faults); n > 0 {
				slack.BreakAll(c.faults[n-1])
				slack.Break(c.faults[:n-1]...)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second) // less than one of them is asked to wait
			defer cancel()
			in, err := client.Exchange(ctx, secret.New(back.Query().Get("code")))
			if n := len(recorder.All()); n != c.requests {
				t.Errorf("got %d requests, want %d", n, c.requests)
			}
			if c.code == "" {
				if err != nil || in.Channel != "#alerts" {
					t.Errorf("got %+v, %v, want the installation", in, err)
				}
				return
			}
			var failure *slackoauth.Error
			if !errors.As(err, &failure) || failure.Code != c.code || failure.Lost() != c.lost || failure.RetryAfter != c.retryAfter {
				t.Errorf("got %+v, want %s, lost: %t, retry after %v", err, c.code, c.lost, c.retryAfter)
			}
		})
	}
}

// A code that Slack never saw is not lost.
func TestCodeIsNotSent(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, exchange := range map[string]func() (*slackoauth.Installation, error){
		"refused": func() (*slackoauth.Installation, error) {
			return newClient(t, "http://127.0.0.1:1").Exchange(t.Context(), secret.New("code"))
		},
		"no time": func() (*slackoauth.Installation, error) {
			return answering(t, "{}").Exchange(ended, secret.New("code"))
		},
	} {
		_, err := exchange()
		var failure *slackoauth.Error
		if !errors.As(err, &failure) || failure.Code != slackoauth.CodeUnavailable || failure.Progress != upstream.NotSent || failure.MaybeSpent {
			t.Errorf("%s: got %v, want that the code was not sent", name, err)
		}
	}
}

func TestErrorsNameNoSecret(t *testing.T) {
	_, err := newClient(t, "http://127.0.0.1:1").Exchange(context.Background(), secret.New("canary-code"))
	for _, text := range []string{"canary-code", "s3cr"} {
		if strings.Contains(err.Error(), text) {
			t.Errorf("the error says %q: %v", text, err)
		}
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	hang := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then does the server notice the client going
		<-r.Context().Done()
	}))
	defer hang.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := newClient(t, hang.URL).Exchange(ctx, secret.New("code")); err == nil { // and it ends
		t.Error("got no error")
	}
}

// What goes wrong with a post names no webhook.
func TestPostErrorsNameNoWebhook(t *testing.T) {
	c := slackoauth.New(slackoauth.Config{URL: &url.URL{Scheme: "https", Host: "slack.com"}})
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	for _, webhook := range []string{"http://127.0.0.1:1/services/canary", gone.URL + "/services/canary", "http://canary\x7f/", ""} {
		if err := c.Post(context.Background(), secret.New(webhook), "hello"); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: got %v, want an error without it", webhook, err)
		}
	}
}
