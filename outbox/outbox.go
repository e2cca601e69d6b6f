// Package outbox hands Slack connections over to Novu.
package outbox

import (
	"context"
	"errors"
	"time"

	"novu-slack-redirect/novuclient"
)

// Outbox delivers to one Novu environment.
type Outbox struct{ novu *novuclient.Client }

// New returns an Outbox in front of novu.
func New(novu *novuclient.Client) *Outbox { return &Outbox{novu} }

// quickTries are the pauses before each attempt inside the person's request.
var quickTries = []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond}

// Deliver saves the connection, trying up to three times while the failure is a
// passing one. It takes until ctx ends at most. The error is a *novuclient.Error.
func (o *Outbox) Deliver(ctx context.Context, conn novuclient.Connection) (err error) {
	for _, wait := range quickTries {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
		err = o.novu.Save(ctx, conn)
		var failure *novuclient.Error
		if err == nil || errors.As(err, &failure) && !failure.Temporary() {
			return err
		}
	}
	return err
}
