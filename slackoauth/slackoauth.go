// Package slackoauth installs a Slack app's incoming webhook with OAuth 2.0: it makes
// the authorize URL and exchanges the code that comes back.
//
// A code works once. Exchange repeats a request a few times if Slack cannot have spent
// the code, and once if Slack may have. After CodeRateLimited the code may be exchanged
// later. https://docs.slack.dev/authentication/installing-with-oauth
package slackoauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/runes"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

// Config describes a Slack app. All fields but HTTPClient are required.
type Config struct {
	ClientID     string
	ClientSecret secret.String
	RedirectURL  string   // byte for byte as entered in the Slack app
	URL          *url.URL // https://slack.com, or https://slack-gov.com for GovSlack

	// HTTPClient's Transport and Timeout are used if it is not nil. Redirects are
	// never followed.
	HTTPClient *http.Client
}

// Client talks to Slack for one app. It is safe for concurrent use.
type Client struct {
	config      Config
	authorize   string             // the page at Slack, up to the state
	exchange    string             // the URL of oauth.v2.access
	redirectURL string             // the end of its form
	header      func() http.Header // of its request; a function, so that the secret in it never prints
}

// New returns a Client for the app that config describes.
func New(config Config) *Client {
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}, "User-Agent": {upstream.UserAgent}}
	(&http.Request{Header: header}).SetBasicAuth(config.ClientID, config.ClientSecret.Reveal())
	authorize, redirectURL := *config.URL, url.QueryEscape(config.RedirectURL)
	authorize.Path = "/oauth/v2/authorize"
	authorize.RawQuery = "client_id=" + url.QueryEscape(config.ClientID) + "&redirect_uri=" + redirectURL + "&scope=incoming-webhook&state="
	return &Client{
		config: config, authorize: authorize.String(), exchange: config.URL.JoinPath("/api/oauth.v2.access").String(),
		redirectURL: "&redirect_uri=" + redirectURL, header: func() http.Header { return header },
	}
}

// AuthCodeURL returns the page at Slack on which a person picks a channel and
// allows the app. A team preselects a workspace; it does not enforce one.
func (c *Client) AuthCodeURL(state secret.String, team string) string {
	page := c.authorize + url.QueryEscape(state.Reveal())
	if team != "" {
		page += "&team=" + url.QueryEscape(team)
	}
	return page
}

// Installation is the webhook that a person allowed; it posts into one channel. The
// bot token that comes with it is not needed and not decoded.
type Installation struct {
	TeamID           string
	TeamName         string
	ChannelID        string
	Channel          string // display text, such as #alerts or a person's name
	ConfigurationURL string // where the person manages the webhook; may be empty
	WebhookURL       secret.String
}

// Error is the failure of an Exchange.
type Error struct {
	// Code is Slack's error code, or one of this package's.
	Code string
	// Status is the HTTP status, 0 without an answer.
	Status int
	// RetryAfter is how long Slack asked to wait; 0 if it did not. With CodeRateLimited
	// it is a second at least.
	RetryAfter time.Duration
	// Progress is how far the last request got.
	Progress upstream.Progress
	// MaybeSpent is set if an earlier request of the same Exchange may have spent the
	// code.
	MaybeSpent bool
	// Err is the cause if there was no answer or none of Slack's. It names no secret.
	Err error
}

const (
	CodeRateLimited = "ratelimited" // Slack's own, and any HTTP 429
	CodeUnavailable = "unavailable" // no answer, or none that can be read
	CodeOrgInstall  = "org_install" // success without a webhook: the app was installed to a whole organisation
	CodeNoWebhook   = "no_webhook"  // success without a webhook for another reason: the scope is missing
	CodeBadWebhook  = "bad_webhook" // success with a webhook that is not Slack's
)

// OwnCodes are the codes of an Error that Slack never sends.
var OwnCodes = []string{CodeUnavailable, CodeOrgInstall, CodeNoWebhook, CodeBadWebhook}

func (e *Error) Error() string {
	text := "slack: " + e.Code
	if e.Status != 0 && e.Status != http.StatusOK {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Lost() {
		text += " after an answer that was lost: Slack had spent the code"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Lost reports whether Slack refuses the code because it spent it on an earlier request
// whose answer never arrived.
func (e *Error) Lost() bool {
	return e.MaybeSpent && (e.Code == "invalid_code" || e.Code == "code_already_used")
}

// mayRepeat reports whether Exchange may send the same code again, and whether Slack may have
// spent it: then once, otherwise a few times.
func (e *Error) mayRepeat() (again, spent bool) {
	switch e.Code {
	case "service_unavailable", "request_timeout":
		return true, false
	case "internal_error", "fatal_error":
		return true, true
	case CodeUnavailable:
		lost := e.Progress == upstream.MaybeAtWork || e.Progress == upstream.Answered && e.Status < 300 // or cannot be read
		return lost || e.Progress == upstream.NotSent || e.Status >= 500, lost
	}
	return false, false
}

const (
	maxAttempts = 3
	maxAnswer   = 256 << 10 // bytes; a real answer has about 1,000
	maxField    = 255       // bytes of a name or an ID
)

// Exchange turns code into an Installation, or returns an *Error. It takes until
// ctx ends at most; give it a deadline of about 15 s. When Slack limits the rate,
// Exchange returns at once and leaves the code to a later Exchange. It makes no other
// call. https://docs.slack.dev/reference/methods/oauth.v2.access
func (c *Client) Exchange(ctx context.Context, code secret.String) (*Installation, error) {
	var repeated, maybeSpent bool
	for attempt := 1; ; attempt++ {
		installation, failure := c.exchangeOnce(ctx, code)
		if failure == nil {
			return installation, nil
		}
		failure.MaybeSpent = maybeSpent
		again, spent := failure.mayRepeat()
		if !again || spent && repeated || attempt == maxAttempts || !pause(ctx, failure.RetryAfter, attempt) {
			return nil, failure
		}
		repeated = repeated || spent
		maybeSpent = maybeSpent || spent || failure.Status >= 500
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

func (c *Client) exchangeOnce(ctx context.Context, code secret.String) (*Installation, *Error) {
	// Each attempt gets two thirds of the time that is left, so that a slow answer can
	// still arrive and there is time for another attempt.
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*2/3)
		defer cancel()
	}
	form := "code=" + url.QueryEscape(code.Reveal()) + c.redirectURL
	var body answer
	r := upstream.Request{Method: http.MethodPost, URL: c.exchange, Header: c.header(), Body: []byte(form)}
	res, err := upstream.Do(ctx, c.config.HTTPClient, r, &body, maxAnswer)
	return c.parse(res, body, err)
}

// answer is the part of oauth.v2.access's answer that is needed.
type answer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	Team  struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"team"`
	IsEnterpriseInstall any `json:"is_enterprise_install"` // a bool
	IncomingWebhook     struct {
		URL              string `json:"url"`
		Channel          string `json:"channel"`
		ChannelID        string `json:"channel_id"`
		ConfigurationURL string `json:"configuration_url"`
	} `json:"incoming_webhook"`
}

// parse reads an answer, its body, and the error that came with them.
func (c *Client) parse(res upstream.Answer, a answer, failed error) (*Installation, *Error) {
	failure := func(code string, err error) (*Installation, *Error) {
		return nil, &Error{Code: code, Status: res.Status, RetryAfter: res.RetryAfter, Progress: res.Progress, Err: err}
	}
	switch {
	case res.Status == http.StatusTooManyRequests || res.Decoded && a.Error == CodeRateLimited:
		res.RetryAfter = max(res.RetryAfter, time.Second)
		return failure(CodeRateLimited, nil)
	case failed != nil:
		return failure(CodeUnavailable, failed)
	case res.Decoded && !a.OK && a.Error != "":
		return failure(cleanCode(a.Error), nil)
	case res.Status >= 300:
		return failure(CodeUnavailable, errors.New("not an answer of Slack's API"))
	case res.Truncated:
		return failure(CodeUnavailable, fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	case !res.Decoded || !a.OK:
		return failure(CodeUnavailable, errors.New("the answer is not JSON of Slack's API"))
	case a.IncomingWebhook.URL == "" && a.IsEnterpriseInstall == true:
		return failure(CodeOrgInstall, nil)
	case a.IncomingWebhook.URL == "":
		return failure(CodeNoWebhook, nil)
	case !c.validWebhook(a.IncomingWebhook.URL):
		return failure(CodeBadWebhook, nil)
	}
	return &Installation{
		TeamID:           clip(a.Team.ID), // null for an organisation-wide install
		TeamName:         clip(a.Team.Name),
		ChannelID:        clip(a.IncomingWebhook.ChannelID),
		Channel:          clip(a.IncomingWebhook.Channel),
		ConfigurationURL: c.configurationURL(a.IncomingWebhook.ConfigurationURL),
		WebhookURL:       secret.New(a.IncomingWebhook.URL),
	}, nil
}

// validWebhook reports whether Novu may post to raw: Novu itself accepts any URL. It
// must be https://hooks.slack.com/… with a plain path and nothing else, or
// hooks.slack-gov.com with GovSlack. When Slack is a fake on a loopback address, the
// fake's own origin is valid too.
func (c *Client) validWebhook(raw string) bool {
	path, ok := strings.CutPrefix(raw, "https://hooks."+c.domain()+"/")
	if !ok && c.config.URL.Host != c.domain() {
		path, ok = strings.CutPrefix(raw, c.config.URL.String()+"/")
	}
	return ok && path != "" && len(raw) <= 1024 && strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~%/") == ""
}

// configurationURL returns raw if it leads to Slack over https, else nothing.
func (c *Client) configurationURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > 1024 || u.Scheme != "https" || u.User != nil || !strings.HasSuffix(u.Host, "."+c.domain()) {
		return ""
	}
	return u.String()
}

// domain returns Slack's domain: slack.com, also for a fake, or slack-gov.com.
func (c *Client) domain() string {
	if c.config.URL.Host == "slack-gov.com" {
		return "slack-gov.com"
	}
	return "slack.com"
}

// cleanCode returns Slack's error code if it looks like one, so that it can go
// into logs and metrics.
func cleanCode(code string) string {
	if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return "unreadable_error"
	}
	return code
}

// Post sends text to a webhook as a plain message: Slack's control characters in
// it are escaped. Its error names no URL.
// https://docs.slack.dev/messaging/formatting-message-text#escaping
func (c *Client) Post(ctx context.Context, webhook secret.String, text string) error {
	escaped := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	body, _ := json.Marshal(map[string]string{"text": escaped}) // strings always marshal
	r := upstream.Request{Method: http.MethodPost, URL: webhook.Reveal(), Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}, Body: body}
	if a, err := upstream.Do(ctx, c.config.HTTPClient, r, nil, 0); err != nil {
		return fmt.Errorf("slack: post: %w", err)
	} else if a.Status != http.StatusOK {
		return fmt.Errorf("slack: post: HTTP %d", a.Status)
	}
	return nil
}

// clip cuts display text to maxField bytes without splitting a character. It removes
// control characters and bidirectional marks, which could change how the text around
// it is displayed.
func clip(s string) string {
	s = withoutControls.String(s)
	if len(s) > maxField {
		s = strings.ToValidUTF8(s[:maxField], "")
	}
	return s
}

var withoutControls = runes.Remove(runes.Predicate(func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }))
