package novuclient

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

// subscriber is the part of a subscriber that is needed.
type subscriber struct {
	Channels []Channel `json:"channels"`
}

// Channel is a channel among a subscriber's credentials.
type Channel struct {
	ProviderID    string `json:"providerId"`
	IntegrationID string `json:"_integrationId"`
	Credentials   `json:"credentials"`
}

// Credentials are those of a Channel. The webhook URL of one that is disconnected is empty.
type Credentials struct {
	WebhookURL secret.String `json:"webhookUrl"`
}

func (s subscriber) slackChannels() []Channel {
	return slices.DeleteFunc(s.Channels, func(ch Channel) bool { return ch.ProviderID != "slack" })
}

// saveCredentials saves the webhook among the subscriber's credentials.
//
// Novu reads the credentials and then adds to them, so that two updates at once leave two
// channels of one integration, of which a later update replaces the first alone. The API
// cannot remove one channel, only all Slack channels of a subscriber. That is done if all
// are of this integration, and the webhook is saved again.
func (c *Client) saveCredentials(ctx context.Context, conn Connection) (others int, err error) {
	live, all, err := c.putAndCount(ctx, conn)
	if err == nil && live > 1 && all {
		if err := c.deleteCredentials(ctx, conn.SubscriberID); err != nil {
			return 0, err
		}
		live, _, err = c.putAndCount(ctx, conn)
	}
	return max(0, live-1), err
}

// putAndCount updates the credentials. It returns what countLive does, for the integration
// in which Novu then has the webhook.
func (c *Client) putAndCount(ctx context.Context, conn Connection) (live int, all bool, err error) {
	channels, err := c.putCredentials(ctx, conn)
	i := slices.IndexFunc(channels, func(ch Channel) bool { return ch.WebhookURL.Equal(conn.WebhookURL.Reveal()) })
	if i < 0 {
		return 0, false, err
	}
	live, all = countLive(channels, channels[i].IntegrationID)
	return live, all, err
}

// countLive returns how many of the channels are of the integration and have a webhook,
// and whether there are channels and all are of that integration, with a webhook or not.
func countLive(channels []Channel, integrationID string) (live int, all bool) {
	all = len(channels) > 0
	for _, ch := range channels {
		switch {
		case ch.IntegrationID != integrationID:
			all = false
		case !ch.WebhookURL.Empty():
			live++
		}
	}
	return live, all
}

// clearCredentials ends the messages to the subscriber's channels of the connection's
// integration among its credentials. It returns how many of them still have a webhook.
//
// If all of the subscriber's Slack channels are of the integration, they are deleted,
// duplicates too. A channel beside those of another integration can only get an empty
// webhook, and of duplicates only the first one.
//
// Novu caches the look-up, which can be old. Therefore it only decides whether to update:
// the answer to an update is never old. An update would add an empty channel where there is
// none, which makes every trigger log a failure. So nothing is sent if the look-up shows
// other integrations' channels alone, and an empty channel that was added is deleted.
func (c *Client) clearCredentials(ctx context.Context, conn Connection) (others int, err error) {
	in, err := c.findIntegration(ctx, conn.Integration)
	if err != nil || in.ID == "" { // Novu refers to an integration by its ID, which does not come back
		return 0, err
	}
	channels, err := c.Credentials(ctx, conn.SubscriberID)
	if err != nil {
		return 0, err
	}
	if len(channels) > 0 && !slices.ContainsFunc(channels, func(ch Channel) bool { return ch.IntegrationID == in.ID }) {
		return 0, nil
	}
	if in.Active { // else Novu refuses the update, and sends nothing
		conn.WebhookURL = secret.New("")
		if channels, err = c.putCredentials(ctx, conn); err != nil {
			return 0, err
		}
	}
	live, all := countLive(channels, in.ID)
	switch {
	case all:
		return 0, c.deleteCredentials(ctx, conn.SubscriberID)
	case live > 0 && !in.Active: // it would send again once it is active
		return 0, &Error{Op: "clear credentials", Reason: NoIntegration, Progress: upstream.NotSent, Err: errors.New("the integration is inactive")}
	}
	return live, nil
}

// putCredentials updates the credentials. It returns the subscriber's Slack channels after
// that.
// https://docs.novu.co/api-reference/subscribers/update-provider-credentials
func (c *Client) putCredentials(ctx context.Context, conn Connection) ([]Channel, error) {
	updated, _, err := do[subscriber](ctx, c, "save credentials", http.MethodPut, "/subscribers/"+escape(conn.SubscriberID)+"/credentials", struct {
		ProviderID            string            `json:"providerId"`
		IntegrationIdentifier string            `json:"integrationIdentifier"`
		Credentials           map[string]string `json:"credentials"`
	}{"slack", conn.Integration, map[string]string{"webhookUrl": conn.WebhookURL.Reveal()}})
	return updated.slackChannels(), err
}

// deleteCredentials deletes all of the subscriber's Slack channels among its credentials,
// of every integration.
func (c *Client) deleteCredentials(ctx context.Context, id string) error {
	return c.change(ctx, "delete credentials", http.MethodDelete, "/subscribers/"+escape(id)+"/credentials/slack", nil)
}

// Credentials returns a subscriber's Slack channels among its credentials.
func (c *Client) Credentials(ctx context.Context, id string) ([]Channel, error) {
	known, _, err := do[subscriber](ctx, c, "look up subscriber", http.MethodGet, "/subscribers/"+escape(id), nil)
	return known.slackChannels(), err
}
