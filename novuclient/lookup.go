package novuclient

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Integration is an active Slack integration. Novu's answer may hold provider
// secrets; no other field of it is decoded.
type Integration struct {
	ID            string `json:"_id"`
	EnvironmentID string `json:"_environmentId"`
	Identifier    string `json:"identifier"`
	ProviderID    string `json:"providerId"`
	Channel       string `json:"channel"`
	Active        bool   `json:"active"`
}

// Environment is the environment that the API key belongs to. Older versions of
// Novu do not tell.
type Environment struct {
	ID   string `json:"_id"`
	Name string `json:"name"`
}

// Environment asks Novu which environment the key opens.
func (c *Client) Environment(ctx context.Context) (e Environment, err error) {
	err = c.do(ctx, "look up environment", http.MethodGet, "/environments/me", nil, &e)
	return e, err
}

// Integrations returns the environment's active Slack integrations. Older
// versions of Novu mix in other environments': they are left out where Novu tells
// which environment this is.
func (c *Client) Integrations(ctx context.Context) ([]Integration, error) {
	var all []Integration
	if err := c.do(ctx, "look up integrations", http.MethodGet, "/integrations/active", nil, &all); err != nil {
		return nil, err
	}
	if all == nil { // no list: Novu did not say
		return nil, &Error{Op: "look up integrations", Reason: Unavailable, Err: errors.New("the answer has no list")}
	}
	all = slices.DeleteFunc(all, func(in Integration) bool {
		return in.Channel != "chat" || in.ProviderID != "slack" || !in.Active
	})
	if len(all) > 0 {
		if own, err := c.Environment(ctx); err == nil && own.ID != "" {
			all = slices.DeleteFunc(all, func(in Integration) bool { return in.EnvironmentID != "" && in.EnvironmentID != own.ID })
		}
	}
	return all, nil
}

// Credentials returns the IDs of the integrations for which a subscriber has a
// Slack webhook among its credentials.
func (c *Client) Credentials(ctx context.Context, subscriber string) (integrations []string, err error) {
	var out struct {
		Channels []struct {
			ProviderID    string `json:"providerId"`
			IntegrationID string `json:"_integrationId"`
			Credentials   struct {
				WebhookURL present `json:"webhookUrl"`
			} `json:"credentials"`
		} `json:"channels"`
	}
	err = c.do(ctx, "look up subscriber", http.MethodGet, "/subscribers/"+escape(subscriber), nil, &out)
	for _, ch := range out.Channels {
		if ch.ProviderID == "slack" && bool(ch.Credentials.WebhookURL) {
			integrations = append(integrations, ch.IntegrationID)
		}
	}
	return integrations, err
}

// present is whether a string is there and not empty, without the string.
type present bool

func (p *present) UnmarshalJSON(text []byte) error {
	*p = len(text) > 2 && text[0] == '"'
	return nil
}

// Endpoints returns the identifiers of a subscriber's Slack channel endpoints. An
// older Novu has none, which is an *Error for NoEndpoints.
func (c *Client) Endpoints(ctx context.Context, subscriber string) (identifiers []string, err error) {
	var all []struct {
		Identifier string `json:"identifier"`
	}
	query := url.Values{"subscriberId": {subscriber}, "providerId": {"slack"}}.Encode()
	err = oldNovu(c.do(ctx, "look up endpoints", http.MethodGet, "/channel-endpoints?"+query, nil, &all))
	for _, e := range all {
		identifiers = append(identifiers, e.Identifier)
	}
	return identifiers, err
}

// How long an answer about integrations is good, and how long a look-up may keep
// a person waiting.
const (
	readyFor    = time.Minute
	unreadyFor  = 5 * time.Second // so that what the operator mends counts at once
	readyBudget = 1500 * time.Millisecond
)

// ready is what is known about the environment's integrations.
type ready struct {
	looking singleflight.Group

	mu   sync.Mutex
	at   time.Time
	list []Integration
	err  error
}

// Ready returns an *Error for NoIntegration when Novu says that there is no active
// Slack integration, or none of that name unless it is empty; and one for
// ManyIntegrations when a channel endpoint needs a name and there are several. It
// knows for a minute, looks up once for all who ask, and takes 1.5 s at most: any
// other error means that Novu did not say.
func (c *Client) Ready(ctx context.Context, integration string) error {
	age, err := c.say(integration)
	if age < unreadyFor || err == nil && age < readyFor {
		return err
	}
	_, _, _ = c.ready.looking.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyBudget)
		defer cancel()
		list, err := c.Integrations(ctx)
		c.ready.mu.Lock()
		defer c.ready.mu.Unlock()
		c.ready.at, c.ready.list, c.ready.err = time.Now(), list, err
		return nil, nil
	})
	_, err = c.say(integration)
	return err
}

// say returns what is known, and for how long.
func (c *Client) say(integration string) (age time.Duration, err error) {
	r := &c.ready
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.err
	if err == nil && c.config.SaveEndpoints && integration == "" && len(r.list) > 1 {
		err = &Error{Op: "look up integrations", Reason: ManyIntegrations}
	}
	if err == nil && !slices.ContainsFunc(r.list, func(in Integration) bool { return integration == "" || in.Identifier == integration }) {
		err = &Error{Op: "look up integrations", Reason: NoIntegration}
	}
	return time.Since(r.at), err
}
