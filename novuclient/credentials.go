package novuclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"novu-slack-redirect/secret"
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
	others, all, err := c.putCredentials(ctx, conn)
	if err != nil || others == 0 || !all {
		return others, err
	}
	if err := c.do(ctx, "remove duplicate credentials", http.MethodDelete, "/subscribers/"+escape(conn.SubscriberID)+"/credentials/slack", nil, into(nil)); err != nil {
		return others, err
	}
	others, _, err = c.putCredentials(ctx, conn)
	return others, err
}

// putCredentials updates the credentials. It returns how many other channels with a
// webhook the same integration has, and whether all of the subscriber's Slack channels
// are of that integration.
// https://docs.novu.co/api-reference/subscribers/update-provider-credentials
func (c *Client) putCredentials(ctx context.Context, conn Connection) (others int, all bool, err error) {
	var channels []Channel
	err = c.do(ctx, "save credentials", http.MethodPut, "/subscribers/"+escape(conn.SubscriberID)+"/credentials", struct {
		ProviderID            string            `json:"providerId"`
		IntegrationIdentifier string            `json:"integrationIdentifier"`
		Credentials           map[string]string `json:"credentials"`
	}{"slack", conn.Integration, map[string]string{"webhookUrl": conn.WebhookURL.Reveal()}}, func(body io.Reader) error {
		limited := &io.LimitedReader{R: body, N: maxSubscriber}
		err := readChannels(json.NewDecoder(limited), &channels)
		if limited.N == 0 { // it began as a success
			return nil
		}
		return err
	})
	integration := c.integrationID(conn.Integration)
	for _, ch := range channels {
		if integration == "" && ch.WebhookURL.Equal(conn.WebhookURL.Reveal()) {
			integration = ch.IntegrationID
		}
	}
	all = true
	for _, ch := range channels {
		switch {
		case ch.IntegrationID != integration:
			all = false
		case !ch.WebhookURL.Empty():
			others++
		}
	}
	return max(0, others-1), all, err
}

// Credentials returns a subscriber's Slack channels among its credentials. One that is
// disconnected has no webhook URL.
func (c *Client) Credentials(ctx context.Context, subscriber string) (channels []Channel, err error) {
	err = c.do(ctx, "look up subscriber", http.MethodGet, "/subscribers/"+escape(subscriber), nil, func(body io.Reader) error {
		return readChannels(json.NewDecoder(io.LimitReader(body, maxSubscriber)), &channels)
	})
	return channels, err
}

// maxSubscriber is how many bytes of a subscriber are read. Its custom data can be large.
const maxSubscriber = 32 << 20

// readChannels reads the Slack channels of a subscriber: an object's field channels, or
// that of its field data. It keeps nothing else, and reads no further.
func readChannels(d *json.Decoder, channels *[]Channel) error {
	var list []struct {
		ProviderID    string `json:"providerId"`
		IntegrationID string `json:"_integrationId"`
		Credentials   struct {
			WebhookURL secret.String `json:"webhookUrl"`
		} `json:"credentials"`
	}
	inData := false
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return orNotNovu(err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		switch {
		case name == "data" && !inData:
			inData = true
			if start, err := d.Token(); err != nil || start != json.Delim('{') {
				return orNotNovu(err)
			}
		case name == "channels":
			if err := d.Decode(&list); err != nil {
				return err
			}
			for _, ch := range list {
				if ch.ProviderID == "slack" {
					*channels = append(*channels, Channel{ch.IntegrationID, ch.Credentials.WebhookURL})
				}
			}
			return nil
		default:
			if err := skip(d); err != nil {
				return err
			}
		}
	}
	_, err := d.Token() // an object without channels must end
	if err == nil && !inData {
		err = errNotNovu
	}
	return err
}

// skip reads the next value and keeps nothing of it.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// errNotNovu says that an answer has not the form of Novu's.
var errNotNovu = errors.New("the answer is not Novu's")

// orNotNovu returns err, or errNotNovu if it is nil.
func orNotNovu(err error) error {
	if err != nil {
		return err
	}
	return errNotNovu
}
