package novuclient

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
)

// saveEndpoint makes the webhook the subscriber's channel endpoint under an
// identifier of ours, so that a reconnect updates it and adds none.
// https://docs.novu.co/api-reference/channel-endpoints
func (c *Client) saveEndpoint(ctx context.Context, conn Connection) error {
	type endpoint struct {
		URL string `json:"url"`
	}
	in := struct {
		Identifier       string          `json:"identifier"`
		SubscriberID     string          `json:"subscriberId"`
		Integration      string          `json:"integrationIdentifier"`
		Type             string          `json:"type"`
		Endpoint         endpoint        `json:"endpoint"`
		CreateSubscriber bool            `json:"createSubscriberIfMissing,omitempty"`
		Context          json.RawMessage `json:"context,omitempty"`
	}{EndpointID(conn), conn.SubscriberID, conn.Integration, "webhook", endpoint{conn.WebhookURL.Reveal()}, c.config.CreateSubscriber, json.RawMessage(conn.Context)}
	err := c.do(ctx, "update endpoint", http.MethodPatch, "/channel-endpoints/"+in.Identifier, struct {
		Endpoint endpoint `json:"endpoint"`
	}{in.Endpoint}, nil)
	if is(err, NotFound) {
		err = c.do(ctx, "save endpoint", http.MethodPost, "/channel-endpoints", in, nil)
		err = withReason(err, NotFound, NoIntegration) // the call names nothing else that must exist
	}
	return withReason(err, BadURL, NoEndpoints)
}

// withReason replaces the reason of an *Error, where what was called makes it clear.
func withReason(err error, old, reason Reason) error {
	if !is(err, old) {
		return err
	}
	failure := *err.(*Error)
	failure.Reason = reason
	return &failure
}

// EndpointID is the identifier of a connection's channel endpoint: the same for
// the same integration, subscriber and context. The environment is the key's.
func EndpointID(conn Connection) string {
	parts, err := json.Marshal([]string{conn.Integration, conn.SubscriberID, conn.Context})
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(parts)
	return "slack_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}
