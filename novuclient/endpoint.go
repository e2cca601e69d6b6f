package novuclient

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
)

// saveEndpoint saves the webhook as the subscriber's channel endpoint under an
// identifier of our own, so that a reconnect updates it and does not add another.
// https://docs.novu.co/api-reference/channel-endpoints
func (c *Client) saveEndpoint(ctx context.Context, conn Connection) error {
	in := struct {
		Identifier       string            `json:"identifier"`
		SubscriberID     string            `json:"subscriberId"`
		Integration      string            `json:"integrationIdentifier"`
		Type             string            `json:"type"`
		Endpoint         map[string]string `json:"endpoint"`
		CreateSubscriber bool              `json:"createSubscriberIfMissing,omitempty"`
		Context          json.RawMessage   `json:"context,omitempty"`
	}{EndpointID(conn), conn.SubscriberID, conn.Integration, "webhook", map[string]string{"url": conn.WebhookURL.Reveal()}, c.config.CreateSubscriber, json.RawMessage(conn.Context)}
	err := c.do(ctx, "update endpoint", http.MethodPatch, "/channel-endpoints/"+in.Identifier, map[string]any{"endpoint": in.Endpoint}, nil)
	if AsError(err).Reason == NotFound {
		err = c.do(ctx, "save endpoint", http.MethodPost, "/channel-endpoints", in, nil)
		err = withReason(err, NotFound, NoIntegration) // nothing else that the call names can be missing
	}
	return withReason(err, BadURL, NoEndpoints)
}

// withReason replaces the reason old of an *Error by one that fits the call better.
func withReason(err error, old, reason Reason) error {
	failure := *AsError(err)
	if failure.Reason != old {
		return err
	}
	failure.Reason = reason
	return &failure
}

// EndpointID returns the identifier of a connection's channel endpoint: the same for
// the same integration, subscriber and context. The environment is the key's.
func EndpointID(conn Connection) string {
	parts, err := json.Marshal([]string{conn.Integration, conn.SubscriberID, conn.Context})
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(parts)
	return "slack_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}
