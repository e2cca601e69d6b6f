// Package slackoauth installs a Slack app's incoming webhook with OAuth 2.0: it
// makes the authorize URL and exchanges the code that comes back.
//
// A code works once. Exchange therefore repeats a request only where Slack
// cannot have spent the code, or once where it may have, and says so when an
// answer got lost. https://docs.slack.dev/authentication/installing-with-oauth
package slackoauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
	"unicode"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

// Config describes a Slack app. All fields but HTTPClient are required.
type Config struct {
	ClientID     string
	ClientSecret secret.String
	RedirectURL  string   // byte for byte as entered in the Slack app
	URL          *url.URL // https://slack.com, or https://slack-gov.com for GovSlack

	// HTTPClient sends the exchange. Nil means a client of its own. Redirects
	// are never followed, whatever it says.
	HTTPClient *http.Client
}

// Client talks to Slack for one app. It is safe for concurrent use.
type Client struct {
	config    Config
	accessURL string // of oauth.v2.access
	http      *upstream.Client
}

// New returns a Client for the app that config describes.
func New(config Config) *Client {
	return &Client{config, config.URL.JoinPath("/api/oauth.v2.access").String(), upstream.NewClient(config.HTTPClient, config.URL)}
}

// Connect opens a connection to Slack in the background, so that an Exchange in
// the next minutes does not wait for one. It sends nothing.
func (c *Client) Connect() { c.http.Connect() }

// AuthCodeURL returns the page at Slack on which a person picks a channel and
// allows the app. A team preselects a workspace; it does not enforce one.
func (c *Client) AuthCodeURL(state, team string) string {
	q := url.Values{
		"client_id":    {c.config.ClientID},
		"scope":        {"incoming-webhook"},
		"redirect_uri": {c.config.RedirectURL},
		"state":        {state},
	}
	if team != "" {
		q.Set("team", team)
	}
	u := *c.config.URL
	u.Path = "/oauth/v2/authorize"
	u.RawQuery = q.Encode()
	return u.String()
}

// Installation is what a person gave: a webhook that posts into one channel. The
// bot token that comes with it is not needed and not even decoded.
type Installation struct {
	TeamID           string
	TeamName         string
	ChannelID        string
	Channel          string // display text, such as #alerts or a person's name
	ConfigurationURL string // where the person manages the webhook; may be empty
	WebhookURL       secret.String
}

// Error says why there is no Installation.
type Error struct {
	// Code is Slack's error code, or one of this package's: CodeUnavailable,
	// CodeNoWebhook, CodeBadWebhook.
	Code string
	// Status is the HTTP status, 0 without an answer.
	Status int
	// RetryAfter is how long Slack asked to wait; 0 if it did not.
	RetryAfter time.Duration
	// Lost is set when Slack refuses the code after an earlier request whose
	// answer never arrived: Slack spent the code on that one.
	Lost bool
	// Err is what happened on the line, if anything did. It names no secret.
	Err error

	retry retry
}

// Codes of this package, beside Slack's own.
const (
	CodeUnavailable = "unavailable" // no answer, or none that can be read
	CodeNoWebhook   = "no_webhook"  // success without a webhook: the scope is missing
	CodeBadWebhook  = "bad_webhook" // success with a webhook that is not Slack's
)

func (e *Error) Error() string {
	text := "slack: " + e.Code
	if e.Status != 0 && e.Status != http.StatusOK {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Lost {
		text += " after an answer that was lost: Slack had spent the code"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// retry says whether the same code may be sent again.
type retry int

const (
	never     retry = iota
	harmless        // Slack has not spent the code, as far as it says: a few times
	uncertain       // Slack may have spent it: once
)

const (
	maxAttempts = 3
	maxAnswer   = 256 << 10 // bytes; a real answer has about 1,000
	maxField    = 255       // bytes of a name or an ID
)

// Exchange turns code into an Installation, or returns an *Error. It takes until
// ctx ends at most; give it a deadline of about 15 s. It makes no other call.
// https://docs.slack.dev/reference/methods/oauth.v2.access
func (c *Client) Exchange(ctx context.Context, code string) (*Installation, error) {
	maybeSpent := false
	for attempt := 1; ; attempt++ {
		installation, failure := c.exchangeOnce(ctx, code)
		if failure == nil {
			return installation, nil
		}
		if maybeSpent && (failure.Code == "invalid_code" || failure.Code == "code_already_used") {
			failure.Lost = true
		}
		again := failure.retry == harmless || failure.retry == uncertain && !maybeSpent
		maybeSpent = maybeSpent || failure.retry == uncertain || failure.Status >= 500
		if !again || attempt == maxAttempts || !pause(ctx, failure.RetryAfter, attempt) {
			return nil, failure
		}
	}
}

// pause waits before the next attempt: as long as Slack asked, else a quarter of
// a second doubling, with jitter. It reports false at once when ctx would end
// before, with a second left for the attempt itself.
func pause(ctx context.Context, asked time.Duration, attempt int) bool {
	wait := asked
	if wait == 0 {
		wait = time.Duration(float64(125*time.Millisecond<<attempt) * (0.75 + rand.Float64()/2))
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait+time.Second {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Client) exchangeOnce(ctx context.Context, code string) (*Installation, *Error) {
	// A slow answer still counts: the first attempt gets most of the time, and
	// leaves some for another.
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*2/3)
		defer cancel()
	}
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }})
	fail := func(status int, err error) *Error {
		e := &Error{Code: CodeUnavailable, Status: status, Err: err, retry: harmless}
		if sent {
			e.retry = uncertain
		}
		return e
	}

	form := url.Values{"code": {code}, "redirect_uri": {c.config.RedirectURL}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.accessURL, strings.NewReader(form))
	if err != nil {
		return nil, fail(0, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(c.config.ClientID, c.config.ClientSecret.Reveal())
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fail(0, upstream.Cause(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fail(res.StatusCode, upstream.Cause(err))
	}
	if len(body) > maxAnswer {
		return nil, fail(res.StatusCode, fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	}
	return c.parse(res, body, fail)
}

// answer is the part of oauth.v2.access's answer that is needed.
type answer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	Team  *struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"team"`
	IncomingWebhook *struct {
		URL              string `json:"url"`
		Channel          string `json:"channel"`
		ChannelID        string `json:"channel_id"`
		ConfigurationURL string `json:"configuration_url"`
	} `json:"incoming_webhook"`
}

func (c *Client) parse(res *http.Response, body []byte, fail func(int, error) *Error) (*Installation, *Error) {
	status := res.StatusCode
	retryAfter := upstream.RetryAfter(res.Header)
	var a answer
	err := json.Unmarshal(body, &a)
	switch {
	case status == http.StatusTooManyRequests || err == nil && a.Error == "ratelimited":
		return nil, &Error{Code: "ratelimited", Status: status, RetryAfter: max(retryAfter, time.Second), retry: harmless}
	case err == nil && !a.OK && a.Error != "":
		e := &Error{Code: cleanCode(a.Error), Status: status, RetryAfter: retryAfter}
		switch e.Code {
		case "service_unavailable", "request_timeout":
			e.retry = harmless
		case "internal_error", "fatal_error":
			e.retry = uncertain
		}
		return nil, e
	case status >= 500:
		return nil, &Error{Code: CodeUnavailable, Status: status, RetryAfter: retryAfter, retry: harmless}
	case status >= 300:
		return nil, &Error{Code: CodeUnavailable, Status: status, Err: errors.New("not an answer of Slack's API")}
	case err != nil || !a.OK:
		return nil, fail(status, errors.New("the answer is not JSON of Slack's API"))
	case a.IncomingWebhook == nil || a.IncomingWebhook.URL == "":
		return nil, &Error{Code: CodeNoWebhook, Status: status}
	case !c.validWebhook(a.IncomingWebhook.URL):
		return nil, &Error{Code: CodeBadWebhook, Status: status}
	}
	in := &Installation{
		ChannelID:        clip(a.IncomingWebhook.ChannelID),
		Channel:          clip(a.IncomingWebhook.Channel),
		ConfigurationURL: c.configurationURL(a.IncomingWebhook.ConfigurationURL),
		WebhookURL:       secret.New(a.IncomingWebhook.URL),
	}
	if a.Team != nil { // null for an organisation-wide install
		in.TeamID, in.TeamName = clip(a.Team.ID), clip(a.Team.Name)
	}
	return in, nil
}

// validWebhook is Novu's filter: Novu posts to whatever URL it has stored. Only
// https://hooks.slack.com/… passes, without port, user, query or fragment; for
// GovSlack, hooks.slack-gov.com. When Slack is a fake on a loopback address, the
// fake's own origin passes too.
func (c *Client) validWebhook(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > 1024 || u.String() != raw || u.User != nil || strings.ContainsAny(raw, "?#\\") || len(u.Path) < 2 {
		return false
	}
	if c.fake() && u.Scheme == c.config.URL.Scheme && u.Host == c.config.URL.Host {
		return true
	}
	return u.Scheme == "https" && u.Host == "hooks."+c.domain()
}

// configurationURL returns raw if it leads to Slack over https, else nothing.
func (c *Client) configurationURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > 1024 || u.Scheme != "https" || u.User != nil || !strings.HasSuffix(u.Host, "."+c.domain()) {
		return ""
	}
	return u.String()
}

func (c *Client) fake() bool {
	return c.config.URL.Host != "slack.com" && c.config.URL.Host != "slack-gov.com"
}

func (c *Client) domain() string {
	if c.fake() {
		return "slack.com"
	}
	return c.config.URL.Host
}

// cleanCode returns Slack's error code if it looks like one, so that it can go
// into logs and metrics.
func cleanCode(code string) string {
	for _, r := range code {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return "unreadable_error"
		}
	}
	if len(code) > 64 {
		return "unreadable_error"
	}
	return code
}

// Post sends text to a webhook as a plain message: Slack's control characters in
// it are escaped. Its error names no URL.
// https://docs.slack.dev/messaging/formatting-message-text#escaping
func (c *Client) Post(ctx context.Context, webhook secret.String, text string) error {
	body, err := json.Marshal(map[string]string{"text": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook.Reveal(), bytes.NewReader(body))
	if err != nil {
		return errors.New("slack: the webhook is not a URL")
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("slack: post: %w", upstream.Cause(err))
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("slack: post: HTTP %d", res.StatusCode)
	}
	return nil
}

// clip bounds display text without splitting a character, and drops what would
// change how the text around it reads: controls and marks of direction.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s)
	if len(s) > maxField {
		s = strings.ToValidUTF8(s[:maxField], "")
	}
	return s
}
