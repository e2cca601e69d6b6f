// Package novuclient makes the calls to Novu's API that are needed to save a Slack
// connection. It escapes IDs exactly, and its errors classify Novu's answers without
// quoting them.
//
// Never overlap two Saves of one subscriber: Novu reads the credentials and then adds to
// them, so that two at once leave two channels. A Save whose error is MaybeAtWork may
// still be going on.
// https://docs.novu.co/api-reference
package novuclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

// Config describes a Novu environment.
type Config struct {
	APIKey secret.String // the environment's secret key

	// URL is the API root: https://api.novu.co, https://eu.api.novu.co or a
	// self-hosted one, with or without a path prefix, a trailing / or /v1.
	URL *url.URL

	// CreateSubscriber lets Save create a subscriber that Novu does not know.
	CreateSubscriber bool

	// SaveEndpoints makes Save write channel endpoints, which current Novu has, in
	// place of the subscriber's credentials.
	SaveEndpoints bool

	// HTTPClient's Transport and Timeout are used if it is not nil. Redirects are
	// never followed.
	HTTPClient *http.Client
}

// Client talks to one Novu environment. It is safe for concurrent use.
type Client struct {
	config       Config
	base         string // without trailing slash, with /v1
	integrations integrationCache
}

// New returns a Client for the environment that config describes.
func New(config Config) *Client {
	base := strings.TrimRight(config.URL.String(), "/")
	return &Client{config: config, base: strings.TrimSuffix(base, "/v1") + "/v1"}
}

// Connection says where a subscriber's Slack messages go.
type Connection struct {
	SubscriberID string
	Integration  string // integration identifier, as ResolveIntegration returns it
	WebhookURL   secret.String

	// Context is Novu's for a channel endpoint, a JSON object or nothing.
	Context string
}

// Save makes the webhook the Slack channel of the connection's subscriber. It is
// idempotent. A subscriber that Novu does not know is created first, if the Config
// allows. Every error is an *Error. An empty Integration is refused: Novu would choose
// the newest, and a later Save could add a second channel.
// https://docs.novu.co/api-reference/subscribers/update-provider-credentials
func (c *Client) Save(ctx context.Context, conn Connection) error {
	if conn.Integration == "" {
		return &Error{Op: "save", Reason: Refused, Progress: upstream.NotSent, Err: errors.New("the connection names no integration")}
	}
	save := c.putCredentials
	if c.config.SaveEndpoints {
		save = c.saveEndpoint
	}
	err := save(ctx, conn)
	if c.config.CreateSubscriber && AsError(err).Reason == UnknownSubscriber {
		if err := c.createSubscriber(ctx, conn.SubscriberID); err != nil {
			return err
		}
		err = save(ctx, conn)
	}
	return err
}

func (c *Client) putCredentials(ctx context.Context, conn Connection) error {
	return c.do(ctx, "save credentials", http.MethodPut, "/subscribers/"+escape(conn.SubscriberID)+"/credentials", struct {
		ProviderID            string            `json:"providerId"`
		IntegrationIdentifier string            `json:"integrationIdentifier"`
		Credentials           map[string]string `json:"credentials"`
	}{"slack", conn.Integration, map[string]string{"webhookUrl": conn.WebhookURL.Reveal()}}, nil)
}

// createSubscriber is an upsert: it leaves an existing subscriber's fields alone.
func (c *Client) createSubscriber(ctx context.Context, id string) error {
	return c.do(ctx, "create subscriber", http.MethodPost, "/subscribers", map[string]string{"subscriberId": id}, nil)
}

// Reason classifies a failure by who can correct it.
type Reason string

// The reasons of an Error.
const (
	Unavailable       Reason = "unavailable"           // temporary: no answer, busy, or broken
	UnknownSubscriber Reason = "unknown_subscriber"    // and Save may not create it
	NoIntegration     Reason = "no_active_integration" // the operator activates one
	ManyIntegrations  Reason = "several_integrations"  // the operator names one
	NoEndpoints       Reason = "no_channel_endpoints"  // an older Novu: the operator updates it, or saves credentials
	BadKey            Reason = "bad_api_key"           // the operator corrects NOVU_API_KEY
	BadURL            Reason = "bad_api_url"           // the operator corrects NOVU_API_URL
	NotFound          Reason = "not_found"             // the object that the call names is not in Novu
	Refused           Reason = "refused"               // Novu rejected the request for another reason
)

// Remedy says what the operator should do; it is empty for Unavailable.
func (r Reason) Remedy() string {
	return map[Reason]string{
		UnknownSubscriber: "the subscriber is not in Novu: create it there, or set NOVU_CREATE_SUBSCRIBER=true",
		NoIntegration:     "activate a Slack integration in this Novu environment, and check NOVU_INTEGRATION_IDENTIFIER",
		ManyIntegrations:  "name the Slack integration: set NOVU_INTEGRATION_IDENTIFIER",
		NoEndpoints:       "this Novu has no channel endpoints: update it, or set NOVU_SAVE_AS=credentials",
		NotFound:          "the object that the call names is not in Novu (any more)",
		BadKey:            "NOVU_API_KEY is not a secret key of the environment at NOVU_API_URL",
		BadURL:            "NOVU_API_URL is not the root of a Novu API",
		Refused:           "Novu refused the form of our request: please report this, with the HTTP status",
	}[r]
}

// Error is the failure of a call. It never holds Novu's answer, which may contain the
// webhook.
type Error struct {
	Op         string // what was being done
	Status     int    // the HTTP status, 0 without an answer
	Reason     Reason
	RetryAfter time.Duration     // how long Novu asked to wait; 0 if it did not
	Progress   upstream.Progress // how far the last request got
	Err        error             // why there is no answer, or none that can be read
}

func (e *Error) Error() string {
	text := fmt.Sprintf("novu: %s: %s", e.Op, e.Reason)
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same call may succeed without anyone acting.
func (e *Error) Temporary() bool { return e.Reason == Unavailable }

// MaybeAtWork reports whether Novu may still be working on the call. If so, nothing more
// may be sent about the subscriber for 30 s.
func (e *Error) MaybeAtWork() bool { return e.Progress == upstream.MaybeAtWork }

const maxAnswer = 1 << 20 // bytes

// AsError returns the *Error that err wraps, or an empty one.
func AsError(err error) *Error {
	failure := &Error{}
	errors.As(err, &failure)
	return failure
}

// do sends in as JSON, maps the answer's status, and reads the answer into out,
// unwrapped. Both may be nil. Nothing else of an answer is kept.
func (c *Client) do(ctx context.Context, op, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return &Error{Op: op, Reason: Refused, Err: err}
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return &Error{Op: op, Reason: BadURL, Err: errors.New("NOVU_API_URL and the subscriber ID do not make a URL")}
	}
	req.Header.Set("Authorization", "ApiKey "+c.config.APIKey.Reveal())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	answer, err := upstream.Do(c.config.HTTPClient, req, maxAnswer)
	failure := &Error{Op: op, Status: answer.Status, Reason: Unavailable, RetryAfter: answer.RetryAfter, Progress: answer.Progress, Err: err}
	switch {
	case err != nil:
		return failure
	case answer.Status < 200 || answer.Status >= 300:
		failure.Reason = classify(answer.Status, answer.Body)
		return failure
	case answer.Status == http.StatusNoContent, json.Valid(answer.Body) && unwrap(answer.Body, out) == nil:
		return nil
	case answer.Truncated && out == nil && bytes.HasPrefix(answer.Body, []byte("{")): // a subscriber with much data
		return nil
	}
	failure.Err = errors.New("the answer is too long or is not JSON of Novu's")
	return failure
}

// unwrap decodes an answer, or its field data if it has one, into out.
func unwrap(answer []byte, out any) error {
	var wrapped struct {
		Data json.RawMessage `json:"data"`
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, &wrapped); err == nil && wrapped.Data != nil {
		answer = wrapped.Data
	}
	return json.Unmarshal(answer, out)
}

// classify returns the Reason of an answer with an error status.
func classify(status int, answer []byte) Reason {
	var body struct {
		Message json.RawMessage `json:"message"` // a string, a list or an object
	}
	_ = json.Unmarshal(answer, &body) // an answer that is not JSON has no message
	message := strings.ToLower(string(body.Message))
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return BadKey
	case status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooManyRequests || status >= 500:
		return Unavailable
	case (status == http.StatusBadRequest || status == http.StatusNotFound) && strings.Contains(message, "subscriber") && strings.Contains(message, "not found"):
		return UnknownSubscriber
	case status == http.StatusBadRequest && strings.Contains(message, "active") && strings.Contains(message, "integration"):
		return NoIntegration
	case status == http.StatusNotFound && body.Message != nil && !strings.HasPrefix(message, `"cannot `):
		return NotFound
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status >= 300 && status < 400:
		return BadURL
	}
	return Refused
}

// escape writes every byte outside RFC 3986's unreserved set as %XX. An ID such as a#b
// would otherwise lead to another route of Novu, which answers 200 and saves nothing.
func escape(id string) string {
	return strings.ReplaceAll(url.QueryEscape(id), "+", "%20") // a + in id is %2B by then
}
