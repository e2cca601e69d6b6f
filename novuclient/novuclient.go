// Package novuclient makes the calls to Novu's API that are needed to save a Slack
// connection and to end it. It escapes IDs exactly, and its errors classify Novu's answers without
// quoting them.
//
// Never overlap two Saves or Disconnects of one subscriber: Novu reads the credentials and
// then adds to them, so that two at once leave two channels. One whose error is
// MaybeAtWork may still be going on.
// https://docs.novu.co/api-reference
package novuclient

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"

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
	config Config
	base   string             // without trailing slash, with /v1
	header func() http.Header // of every request; a function, so that the key in it never prints

	lookUp singleflight.Group           // of the integrations
	last   atomic.Pointer[lookUpResult] // never nil
}

// New returns a Client for the environment that config describes.
func New(config Config) *Client {
	base := strings.TrimRight(config.URL.String(), "/")
	header := http.Header{
		"Authorization": {"ApiKey " + config.APIKey.Reveal()}, "Content-Type": {"application/json"}, "Accept": {"application/json"},
		"User-Agent": {upstream.UserAgent},
	}
	c := &Client{config: config, base: strings.TrimSuffix(base, "/v1") + "/v1", header: func() http.Header { return header }}
	c.last.Store(&lookUpResult{})
	return c
}

// Connection says where a subscriber's Slack messages go.
type Connection struct {
	SubscriberID string
	Integration  string // integration identifier, as ResolveIntegration returns it
	WebhookURL   secret.String
	Context      Context // of a channel endpoint; credentials have none
}

// Save makes the webhook the Slack channel of the connection's subscriber. It is
// idempotent. A subscriber that Novu does not know is created first, if the Config
// allows. Every error is an *Error. An empty Integration is refused: Novu would choose
// the newest, and a later Save could add a second channel.
//
// Novu also sends every message to the others: the number of the subscriber's other
// channels for the same integration, in the place that Save writes to, that Save could
// not remove.
func (c *Client) Save(ctx context.Context, conn Connection) (others int, err error) {
	if conn.Integration == "" {
		return 0, unnamedIntegration("save")
	}
	save := c.saveCredentials
	if c.config.SaveEndpoints {
		save = c.saveEndpoint
	}
	others, err = save(ctx, conn)
	if c.config.CreateSubscriber && AsError(err).Reason == UnknownSubscriber {
		// This is an upsert: it leaves an existing subscriber's fields alone, and restores a
		// deleted one.
		if err := c.change(ctx, "create subscriber", http.MethodPost, "/subscribers", map[string]string{"subscriberId": conn.SubscriberID}); err != nil {
			return 0, err
		}
		others, err = save(ctx, conn)
	}
	return others, err
}

// Disconnect ends the subscriber's Slack messages for the connection's integration, in
// both places that Save can write to. Channels of other integrations stay, and so do
// endpoints of other contexts if the Config's SaveEndpoints is set. The connection's webhook
// is not used. It is idempotent; a subscriber or an integration that Novu does not know is
// a success. Every error is an *Error. An empty Integration is refused.
//
// Novu still sends every message to the others: the number of the subscriber's channels
// for the integration that could not be ended. Duplicates of a channel stay beside one of
// another integration, and so do endpoints that are not webhooks.
//
// An inactive integration sends nothing. If it has a channel beside another integration's,
// the error is for NoIntegration until it is active again or deleted: the channel would
// come back with it.
func (c *Client) Disconnect(ctx context.Context, conn Connection) (others int, err error) {
	if conn.Integration == "" {
		return 0, unnamedIntegration("disconnect")
	}
	others, err = c.deleteEndpoints(ctx, conn)
	if err == nil {
		var channels int
		channels, err = c.clearCredentials(ctx, conn)
		others += channels
	}
	if AsError(err).Reason == UnknownSubscriber {
		err = nil
	}
	return others, err
}

func unnamedIntegration(op string) error {
	return &Error{Op: op, Reason: NoIntegration, Progress: upstream.NotSent, Err: errors.New("the connection names no integration")}
}

// Elsewhere returns how many channels the subscriber has for the connection's
// integration in the place that Save does not write to: channel endpoints, or
// credentials. Novu sends every message to both places.
func (c *Client) Elsewhere(ctx context.Context, conn Connection) (n int, err error) {
	if !c.config.SaveEndpoints {
		endpoints, err := c.Endpoints(ctx, conn.SubscriberID, conn.Integration)
		if AsError(err).Reason == NoEndpoints {
			err = nil
		}
		return len(endpoints), err
	}
	channels, err := c.Credentials(ctx, conn.SubscriberID)
	for _, in := range c.last.Load().list {
		if in.Identifier == conn.Integration {
			n, _ = countLive(channels, in.ID)
		}
	}
	return n, err
}

const (
	maxAnswer     = 1 << 20  // bytes
	maxSubscriber = 32 << 20 // bytes, with the subscriber's custom data
)

// answer is the body of an answer: the data, as the field data or by itself, or a refusal.
type answer[Data any] struct {
	Data *Data          `json:"data"`
	Next string         `json:"next"`
	Rest jsontext.Value `json:",embed"` // of data by itself
	refusal
}

// UnmarshalJSONFrom decodes an answer as a stream, without the fields of data that are not
// needed.
func (a *answer[Data]) UnmarshalJSONFrom(from *jsontext.Decoder) error {
	if from.PeekKind() == '[' {
		a.Data = new(Data)
		return json.UnmarshalDecode(from, a.Data)
	}
	type fields answer[Data]
	err := json.UnmarshalDecode(from, (*fields)(a))
	if err != nil || a.Rest == nil {
		return err
	}
	var itself struct { // what one of Novu's objects has
		ID         jsontext.Value `json:"_id"`
		Identifier jsontext.Value `json:"identifier"`
		Subscriber jsontext.Value `json:"subscriberId"`
		Channels   jsontext.Value `json:"channels"`
	}
	if json.Unmarshal(a.Rest, &itself, from.Options()) != nil || itself.ID == nil && itself.Identifier == nil && itself.Subscriber == nil && itself.Channels == nil {
		return nil // the data is in the field, or the answer is not Novu's
	}
	a.Data = new(Data) // a subscriber has a field data of its own, with anything
	return json.Unmarshal(a.Rest, a.Data, from.Options())
}

// do sends in as JSON, unless it is nil, and returns the data of Novu's answer. If that is a
// page of a list, next is the cursor of the next page, or empty.
//
// The answer to a change may be empty, or too long to be read, which is a success without
// data. Every error is an *Error, which keeps nothing of an answer.
func do[Data any](ctx context.Context, c *Client, op, method, path string, in any) (data Data, next string, err error) {
	var text []byte
	if in != nil {
		if text, err = json.Marshal(in); err != nil {
			return data, "", &Error{Op: op, Reason: Invalid, Progress: upstream.NotSent, Err: err}
		}
	}
	var body answer[Data]
	r := upstream.Request{Method: method, URL: c.base + path, Header: c.header(), Body: text}
	limit := int64(maxAnswer)
	if strings.HasPrefix(path, "/subscribers/") {
		limit = maxSubscriber
	}
	a, err := upstream.Do(ctx, c.config.HTTPClient, r, &body, limit)
	if err == nil && a.Status >= 200 && a.Status <= 299 {
		switch {
		case a.Decoded && body.Data != nil:
			return *body.Data, body.Next, nil
		case method != http.MethodGet && (a.Status == http.StatusNoContent || a.Truncated):
			return data, "", nil // without a part of the data, from which what is missing seems not to be there
		}
	}
	failure := &Error{Op: op, Status: a.Status, Reason: Unavailable, RetryAfter: a.RetryAfter, Progress: a.Progress, Err: err}
	if method == http.MethodGet {
		failure.Progress = upstream.NotSent // whatever Novu may still do changes nothing
	}
	if err == nil {
		failure.Reason, failure.Err = body.classify(a)
	}
	return data, "", failure
}

// change is do for a change of which no data is needed.
func (c *Client) change(ctx context.Context, op, method, path string, in any) error {
	_, _, err := do[jsontext.Value](ctx, c, op, method, path, in)
	return err
}

// escape writes every byte outside RFC 3986's unreserved set as %XX. An ID such as a#b
// would otherwise lead to another route of Novu, which answers 200 and saves nothing.
func escape(id string) string {
	return strings.ReplaceAll(url.QueryEscape(id), "+", "%20") // a + in id is %2B by then
}
