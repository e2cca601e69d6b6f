package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

const (
	eventTimeout = 10 * time.Second
	maxSending   = 32 // events that are sent in background at a time, or little more; the worker sends the others

	eventDelivered, eventFailed = "delivered", "failed" // in the metrics
)

// saveAndTell moves a flow to Saved and sends its event in background, unless too many are
// being sent, or an older one of the destination is not: then the worker does.
func (o *Outbox) saveAndTell(ctx context.Context, f *state.Flow) error {
	lease := stepLease
	if o.sending.Load() >= maxSending {
		lease = 0
	}
	leased, err := o.Store.Save(ctx, f, lease)
	if leased && lease > 0 {
		event := *f
		o.sending.Add(1)
		o.background.Go(func() {
			defer o.sending.Add(-1)
			o.sendEvent(ctx, &event)
		})
	}
	return err
}

// sendEvent tells the app of a flow that is Saved and that the caller owns, and finishes
// the flow, or leaves it to the worker. It logs its errors.
func (o *Outbox) sendEvent(ctx context.Context, f *state.Flow) {
	if time.Until(f.LeaseEnds) < eventTimeout+leaseMargin {
		return // this process was paused: another instance may have the flow
	}
	if o.SendEvent != nil { // or else the app wants none any more
		sending, cancel := context.WithTimeout(ctx, eventTimeout)
		err := o.SendEvent(sending, f)
		cancel()
		if err != nil {
			o.Metrics.Events.WithLabelValues(eventFailed).Inc()
			_ = o.postpone(ctx, f, err, "see that EVENTS_URL can be reached from here and answers 2xx: novu-slack-redirect check --event")
			return
		}
		o.Metrics.Events.WithLabelValues(eventDelivered).Inc()
	}
	err := o.Store.Finish(ctx, f)
	o.logFlow(o.Log.Info(), f).Str("outcome", f.Result.Code).Int("attempts", f.Attempts+1).AnErr("store", err).Msg("event")
}

// Events sends signed events to the app, as the Standard Webhooks specification has them.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
type Events struct {
	URL         *url.URL
	Keys        []secret.String // each signs, so that the receiver can change from one to the next
	Environment string          // Novu's, for flows whose link names none
	HTTPClient  *http.Client    // its Transport and Timeout are used if it is not nil
}

// event is the body of an event. It never has the webhook.
type event struct {
	Type      string    `json:"type"`      // slack.connected, slack.disconnected or ping
	Timestamp time.Time `json:"timestamp"` // when the person chose; the same each time the event is sent
	Data      eventData `json:"data"`
}

type eventData struct {
	SubscriberID          string          `json:"subscriberId,omitempty"`
	IntegrationIdentifier string          `json:"integrationIdentifier,omitempty"`
	EnvironmentID         string          `json:"environmentId,omitempty"`
	Context               json.RawMessage `json:"context,omitempty"`
	Channel               string          `json:"channel,omitempty"`
	ChannelID             string          `json:"channelId,omitempty"`
	Team                  string          `json:"team,omitempty"`
	TeamID                string          `json:"teamId,omitempty"`
	ConfigurationURL      string          `json:"configurationUrl,omitempty"`
	Flow                  string          `json:"flow,omitempty"`
}

// EventError is the status with which EVENTS_URL refused an event. It quotes nothing of the
// answer.
type EventError struct {
	Status     int
	RetryAfter time.Duration // how long the receiver asked to wait
}

func (e EventError) Error() string { return fmt.Sprintf("EVENTS_URL answered HTTP %d", e.Status) }

// Send sends the event of a flow that is Saved. Each time it is the same event, with the
// same webhook-id, signed anew. Any status but 2xx is an EventError.
func (e *Events) Send(ctx context.Context, f *state.Flow) error {
	return e.send(ctx, "evt_"+f.ID, event{"slack." + f.Result.Code, f.Consumed.UTC(), eventData{
		SubscriberID: f.Request.Subscriber, IntegrationIdentifier: f.Request.Integration, EnvironmentID: cmp.Or(f.Request.Environment, e.Environment),
		Context: json.RawMessage(f.Request.Context.JSON), Channel: f.Result.Channel, ChannelID: f.Result.ChannelID, Team: f.Result.Team, TeamID: f.Result.TeamID,
		ConfigurationURL: f.Result.ConfigurationURL, Flow: f.ID,
	}})
}

// Ping sends an event of type ping, without data.
func (e *Events) Ping(ctx context.Context) error {
	return e.send(ctx, "evt_"+state.NewOwner(), event{Type: "ping", Timestamp: time.Now().UTC()})
}

func (e *Events) send(ctx context.Context, id string, v event) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	now := time.Now()
	var signatures []string
	for _, key := range e.Keys {
		webhook, _ := standardwebhooks.NewWebhookRaw([]byte(key.Reveal())) // neither this nor Sign fails
		signature, _ := webhook.Sign(id, now, body)
		signatures = append(signatures, signature)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	header.Set(standardwebhooks.HeaderWebhookID, id)
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	answer, err := upstream.Do(ctx, e.HTTPClient, upstream.Request{Method: http.MethodPost, URL: e.URL.String(), Header: header, Body: body}, nil, 0)
	switch {
	case answer.Status == 0:
		return fmt.Errorf("EVENTS_URL does not answer: %w", err)
	case answer.Status < 200 || answer.Status > 299:
		return EventError{answer.Status, answer.RetryAfter}
	}
	return nil
}
