package novuclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream"
)

// Channel is a Slack channel among a subscriber's credentials.
type Channel struct {
	IntegrationID string // Novu's _integrationId
	WebhookURL    secret.String
}

// saveCredentials saves the webhook among the subscriber's credentials.
//
// Novu reads the credentials and then adds to them, so that two updates at once leave two
// channels of one integration, of which a later update replaces the first alone. The API
// cannot remove one channel, only all Slack channels of a subscriber. That is done if all
// are of this integration, and the webhook is saved again.
func (c *Client) saveCredentials(ctx context.Context, conn Connection) (others int, err error) {
	channels, err := c.putCredentials(ctx, conn)
	if err != nil {
		return 0, err
	}
	live, all := c.countSaved(channels, conn)
	if live <= 1 || !all {
		return max(0, live-1), nil
	}
	if err := c.deleteCredentials(ctx, conn.SubscriberID); err != nil {
		return 0, err
	}
	channels, err = c.putCredentials(ctx, conn)
	live, _ = c.countSaved(channels, conn)
	return max(0, live-1), err
}

// countSaved is countLive for the connection's integration. If it is not in the cached
// list of integrations, it is that of the channel with the connection's webhook.
func (c *Client) countSaved(channels []Channel, conn Connection) (live int, all bool) {
	integration := c.integrationID(conn.Integration)
	for _, ch := range channels {
		if integration == "" && ch.WebhookURL.Equal(conn.WebhookURL.Reveal()) {
			integration = ch.IntegrationID
		}
	}
	return countLive(channels, integration)
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
func (c *Client) putCredentials(ctx context.Context, conn Connection) (channels []Channel, err error) {
	err = c.do(ctx, "save credentials", http.MethodPut, "/subscribers/"+escape(conn.SubscriberID)+"/credentials", struct {
		ProviderID            string            `json:"providerId"`
		IntegrationIdentifier string            `json:"integrationIdentifier"`
		Credentials           webhookCredential `json:"credentials"`
	}{"slack", conn.Integration, webhookCredential{conn.WebhookURL.Reveal()}}, func(body io.Reader) error {
		limited := &io.LimitedReader{R: body, N: maxSubscriber}
		err := readChannels(newDecoder(limited), &channels)
		if limited.N == 0 { // it began as a success
			return nil
		}
		return err
	})
	return channels, err
}

type webhookCredential struct {
	WebhookURL string `json:"webhookUrl"`
}

// deleteCredentials deletes all of the subscriber's Slack channels among its credentials,
// of every integration.
func (c *Client) deleteCredentials(ctx context.Context, subscriber string) error {
	return c.do(ctx, "delete credentials", http.MethodDelete, "/subscribers/"+escape(subscriber)+"/credentials/slack", nil, into(nil))
}

// Credentials returns a subscriber's Slack channels among its credentials. One that is
// disconnected has no webhook URL.
func (c *Client) Credentials(ctx context.Context, subscriber string) (channels []Channel, err error) {
	err = c.do(ctx, "look up subscriber", http.MethodGet, "/subscribers/"+escape(subscriber), nil, func(body io.Reader) error {
		return readChannels(newDecoder(io.LimitReader(body, maxSubscriber)), &channels)
	})
	return channels, err
}

// maxSubscriber is how many bytes of a subscriber are read. Its custom data can be large.
const maxSubscriber = 32 << 20

// readChannels reads the Slack channels of a subscriber: an object's field channels, or
// that of its field data. It keeps nothing else, and reads no further.
func readChannels(d *jsontext.Decoder, channels *[]Channel) error {
	inData := false
	if start, err := d.ReadToken(); err != nil || start.Kind() != '{' {
		return cmp.Or(err, errNotNovu)
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadValue() // not a token, which would be a string for each name
		switch {
		case err != nil:
		case string(name) == `"data"` && !inData:
			inData = true
			if start, err := d.ReadToken(); err != nil || start.Kind() != '{' {
				return cmp.Or(err, errNotNovu)
			}
		case string(name) == `"channels"`:
			return readSlackChannels(d, channels)
		default:
			err = d.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	_, err := d.ReadToken() // an object without channels must end
	if err == nil && !inData {
		err = errNotNovu
	}
	return err
}

// readSlackChannels reads a subscriber's field channels.
func readSlackChannels(d *jsontext.Decoder, channels *[]Channel) error {
	var list []struct {
		ProviderID    string `json:"providerId"`
		IntegrationID string `json:"_integrationId"`
		Credentials   struct {
			WebhookURL secret.String `json:"webhookUrl"`
		} `json:"credentials"`
	}
	text, err := d.ReadValue()
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return err
	}
	for _, ch := range list {
		if ch.ProviderID == "slack" {
			*channels = append(*channels, Channel{ch.IntegrationID, ch.Credentials.WebhookURL})
		}
	}
	return nil
}

// errNotNovu says that an answer has not the form of Novu's.
var errNotNovu = errors.New("the answer is not Novu's")
