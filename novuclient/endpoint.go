package novuclient

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Endpoint is one of a subscriber's Slack channel endpoints. Its URL is a secret and is
// not decoded.
type Endpoint struct {
	Identifier  string   `json:"identifier"`
	Type        string   `json:"type"` // webhook is the type that Save writes
	ProviderID  string   `json:"providerId"`
	Integration string   `json:"integrationIdentifier"`
	ContextKeys []string `json:"contextKeys"` // type:id of each entry of its context
}

// ContextKey returns the Key of the endpoint's Context.
func (e Endpoint) ContextKey() string { return contextKey(e.ContextKeys) }

// saveEndpoint saves the webhook as a channel endpoint of the subscriber. If the
// subscriber has one for the integration and the context already, that one is updated:
// Novu's own Shareable URL makes endpoints too, and delivers to all of them.
// https://docs.novu.co/api-reference/channel-endpoints
func (c *Client) saveEndpoint(ctx context.Context, conn Connection) (others int, err error) {
	if _, err := c.ResolveIntegration(ctx, conn.Integration, false); err != nil { // PATCH does not look whether it still exists
		return 0, err
	}
	all, err := c.Endpoints(ctx, conn.SubscriberID, conn.Integration)
	if err != nil {
		return 0, err
	}
	ours, existing := EndpointID(conn), ""
	for _, e := range all {
		if e.ContextKey() != conn.Context.Key {
			continue
		}
		others++
		if e.Type == "webhook" && (existing == "" || e.Identifier == ours) {
			existing = e.Identifier
		}
	}
	endpoint := map[string]string{"url": conn.WebhookURL.Reveal()}
	if existing != "" {
		if _, err := c.Credentials(ctx, conn.SubscriberID); err != nil { // nor does it look at the subscriber
			return 0, err
		}
		err := c.change(ctx, "update endpoint", http.MethodPatch, "/channel-endpoints/"+escape(existing), map[string]any{"endpoint": endpoint})
		if failure := AsError(err); failure.Reason == NotFound { // it was removed a moment ago
			failure.Reason = Unavailable
		}
		return others - 1, err
	}
	return others, c.change(ctx, "save endpoint", http.MethodPost, "/channel-endpoints", struct {
		Identifier       string            `json:"identifier"`
		SubscriberID     string            `json:"subscriberId"`
		Integration      string            `json:"integrationIdentifier"`
		Type             string            `json:"type"`
		Endpoint         map[string]string `json:"endpoint"`
		CreateSubscriber bool              `json:"createSubscriberIfMissing,omitzero"`
		Context          Context           `json:"context,omitzero"`
	}{ours, conn.SubscriberID, conn.Integration, "webhook", endpoint, c.config.CreateSubscriber, conn.Context})
}

// deleteEndpoints deletes the subscriber's endpoints of the type that Save writes, for the
// connection's integration. If Save writes endpoints, it deletes only those with exactly
// the connection's context. It returns how many others of the same kind there are, which
// are of another type.
func (c *Client) deleteEndpoints(ctx context.Context, conn Connection) (others int, err error) {
	all, err := c.Endpoints(ctx, conn.SubscriberID, conn.Integration) // the whole list: the cursor ends at an endpoint that is deleted
	if AsError(err).Reason == NoEndpoints {
		return 0, nil
	}
	for _, e := range all {
		switch {
		case c.config.SaveEndpoints && e.ContextKey() != conn.Context.Key:
		case e.Type != "webhook":
			others++
		default:
			err := c.change(ctx, "delete endpoint", http.MethodDelete, "/channel-endpoints/"+escape(e.Identifier), nil)
			if err != nil && AsError(err).Reason != NotFound {
				return 0, err
			}
		}
	}
	return others, err
}

// endpointPage is the data of a page of endpoints: a list or, if the page was wrapped once
// more, an object whose field data is the list.
type endpointPage struct {
	List []Endpoint `json:"data"`
	Next string     `json:"next"`
}

// UnmarshalJSONFrom decodes either form.
func (p *endpointPage) UnmarshalJSONFrom(from *jsontext.Decoder) error {
	if from.PeekKind() == '[' {
		return json.UnmarshalDecode(from, &p.List)
	}
	type fields endpointPage
	err := json.UnmarshalDecode(from, (*fields)(p))
	if err == nil && p.List == nil {
		err = errors.New("there is no list")
	}
	return err
}

const maxPages = 100 // of ten endpoints

// Endpoints returns a subscriber's Slack channel endpoints, or only those for an
// integration, unless it is empty. An older Novu has none, which is an *Error for
// NoEndpoints.
func (c *Client) Endpoints(ctx context.Context, subscriber, integration string) (all []Endpoint, err error) {
	query, after := "subscriberId="+escape(subscriber), "" // a providerId is refused before Novu 3.18
	if integration != "" {
		query = "integrationIdentifier=" + escape(integration) + "&" + query
	}
	for range maxPages {
		page, next, err := do[endpointPage](ctx, c, "look up endpoints", http.MethodGet, "/channel-endpoints?"+after+query, nil)
		if failure := AsError(err); failure.Reason == BadURL {
			failure.Reason = NoEndpoints
		}
		if err != nil {
			return nil, err
		}
		for _, e := range page.List {
			if e.ProviderID == "slack" && (e.Integration == integration || integration == "") {
				all = append(all, e)
			}
		}
		if next = cmp.Or(next, page.Next); next == "" {
			break
		}
		after = "after=" + escape(next) + "&"
	}
	return all, nil
}

// EndpointID returns the identifier of the channel endpoint that Save creates: the same
// for the same integration, subscriber and context. The environment is the key's.
func EndpointID(conn Connection) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{conn.Integration, conn.SubscriberID, conn.Context.Key}))
	return "slack_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}
