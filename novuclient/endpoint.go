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
	if conn.Integration == "" { // Novu wants one by name
		list, err := c.Integrations(ctx)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return &Error{Op: "save endpoint", Reason: map[bool]Reason{true: NoIntegration, false: ManyIntegrations}[len(list) == 0]}
		}
		conn.Integration = list[0].Identifier
	}
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
	patch := func() error {
		return c.do(ctx, "update endpoint", http.MethodPatch, "/channel-endpoints/"+in.Identifier, struct {
			Endpoint endpoint `json:"endpoint"`
		}{in.Endpoint}, nil)
	}
	err := patch()
	if is(err, NotFound) {
		err = c.do(ctx, "save endpoint", http.MethodPost, "/channel-endpoints", in, nil)
		if is(err, NotFound) { // of all that the call names, the integration is left
			err = &Error{Op: "save endpoint", Status: http.StatusNotFound, Reason: NoIntegration}
		}
	}
	return oldNovu(err)
}

// oldNovu gives the error of a route that is missing its likely reason.
func oldNovu(err error) error {
	if is(err, BadURL) {
		failure := *err.(*Error)
		failure.Reason = NoEndpoints
		return &failure
	}
	return err
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
