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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

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
	base         string             // without trailing slash, with /v1
	header       func() http.Header // of every request; a function, so that the key in it never prints
	integrations integrationCache
}

// New returns a Client for the environment that config describes.
func New(config Config) *Client {
	base := strings.TrimRight(config.URL.String(), "/")
	header := upstream.NewHeader("Authorization", "ApiKey "+config.APIKey.Reveal(), "Content-Type", "application/json", "Accept", "application/json")
	return &Client{config: config, base: strings.TrimSuffix(base, "/v1") + "/v1", header: func() http.Header { return header }}
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
		if err := c.createSubscriber(ctx, conn.SubscriberID); err != nil {
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
	n, _ = countLive(channels, c.integrationID(conn.Integration))
	return n, err
}

// createSubscriber is an upsert: it leaves an existing subscriber's fields alone, and
// restores a deleted one.
func (c *Client) createSubscriber(ctx context.Context, id string) error {
	return c.do(ctx, "create subscriber", http.MethodPost, "/subscribers", map[string]string{"subscriberId": id}, into(nil))
}

const maxAnswer = 1 << 20 // bytes

// do sends in as JSON, unless it is nil, and lets read decode the body of a 2xx answer.
// Nothing else of an answer is kept.
func (c *Client) do(ctx context.Context, op, method, path string, in any, read func(io.Reader) error) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return &Error{Op: op, Reason: Invalid, Progress: upstream.NotSent, Err: err}
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return &Error{Op: op, Reason: BadURL, Progress: upstream.NotSent, Err: errors.New("NOVU_API_URL and the subscriber ID do not make a URL")}
	}
	req.Header = c.header()
	notNovu := false
	answer, err := upstream.Stream(c.config.HTTPClient, req, func(a *upstream.Answer, body io.Reader) (err error) {
		if a.Status < 200 || a.Status >= 300 {
			a.Body, err = io.ReadAll(io.LimitReader(body, maxAnswer))
			return err
		}
		if a.Status == http.StatusNoContent {
			return nil
		}
		err = read(body)
		if notNovu = isNotNovu(err); notNovu {
			return nil
		}
		return err
	})
	if err == nil && !notNovu && answer.Status >= 200 && answer.Status < 300 {
		return nil
	}
	failure := &Error{Op: op, Status: answer.Status, Reason: Unavailable, RetryAfter: answer.RetryAfter, Progress: answer.Progress, Err: err}
	if method == http.MethodGet {
		failure.Progress = upstream.NotSent // whatever Novu may still do changes nothing
	}
	switch {
	case err != nil:
		return failure
	case notNovu:
		failure.Reason, failure.Err = NotNovu, answeredBy(answer)
	default:
		failure.Reason, failure.Err = classify(answer)
	}
	return failure
}

// isNotNovu reports whether err says that a body came in full and is not one of Novu's.
func isNotNovu(err error) bool {
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return false
	}
	var mismatch *json.UnmarshalTypeError
	var syntax *jsontext.SyntacticError
	return errors.Is(err, errNotNovu) || errors.As(err, &mismatch) || errors.As(err, &syntax)
}

// newDecoder returns a decoder of an answer, as lenient as encoding/json is.
func newDecoder(body io.Reader) *jsontext.Decoder {
	return jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// into returns a function that decodes an answer, or its field data if it has one, into
// out, unless it is nil.
func into(out any) func(io.Reader) error {
	return func(body io.Reader) error {
		answer, err := newDecoder(io.LimitReader(body, maxAnswer)).ReadValue()
		if err != nil {
			return err
		}
		var wrapped struct {
			ID   json.RawMessage `json:"_id"`
			Data json.RawMessage `json:"data"`
		}
		err = json.Unmarshal(answer, &wrapped) // a list is not wrapped
		if err == nil && wrapped.ID == nil && wrapped.Data == nil {
			return errNotNovu
		}
		if _, ok := out.(*page); wrapped.Data != nil && !(ok && wrapped.Data[0] == '[') {
			answer = jsontext.Value(wrapped.Data)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(answer, out)
	}
}

// escape writes every byte outside RFC 3986's unreserved set as %XX. An ID such as a#b
// would otherwise lead to another route of Novu, which answers 200 and saves nothing.
func escape(id string) string {
	return strings.ReplaceAll(url.QueryEscape(id), "+", "%20") // a + in id is %2B by then
}
