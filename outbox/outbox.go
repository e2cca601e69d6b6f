// Package outbox advances flows: it exchanges Slack's code, saves the webhook in Novu, or
// removes it there, at least once, and leaves the newest choice for each destination there.
// Then it tells the app by an event, at least once.
//
//	Advance: exchange ──► record ──► save ──► finish     by the request that consumed the flow
//	                                  └► event ──► finish   in the background, where the app wants events
//	Run:     Claim ──► the remaining steps               by the worker, for all other flows
//
// This package decides when attempts are made, how often, and how many at a time. Package
// state stores the flows and their order. The code is in the order of a flow: outbox.go
// until its webhook is recorded, save.go until Novu has it, event.go until the app knows;
// worker.go goes on with what others have left.
//
// Novu reads a subscriber before it writes to it, so that two updates at once leave
// two channels. A sender therefore holds a lease on the subscriber: there is one at a
// time, across instances. A request that was sent and not answered may still be at work
// in Novu, so the lease is held for 30 s more.
//
// A webhook can be lost in one case: the process is killed after Slack's answer and
// before the record. The code cannot be exchanged again, so the flow ends as
// CodeInterrupted, and the person can start again.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// Slack is the part of *slackoauth.Client that the outbox needs. Every error of
// Exchange is a *slackoauth.Error.
type Slack interface {
	Exchange(ctx context.Context, code secret.String) (*slackoauth.Installation, error)
}

// Novu is the part of *novuclient.Client that the outbox needs.
type Novu interface {
	// ResolveIntegration returns the identifier of the integration to use: the named one, or
	// Novu's choice if integration is empty; with only, it refuses to choose among several.
	ResolveIntegration(ctx context.Context, integration string, only bool) (resolved string, err error)

	// Save saves a connection. Novu sends every message to the others as well.
	Save(ctx context.Context, conn novuclient.Connection) (others int, err error)

	// Disconnect removes a connection. Novu still sends every message to the others.
	Disconnect(ctx context.Context, conn novuclient.Connection) (others int, err error)

	// Elsewhere returns how many channels get every message besides those that Save
	// knows.
	Elsewhere(ctx context.Context, conn novuclient.Connection) (n int, err error)
}

// Config is what an Outbox needs. All fields but SendEvent, Random and Welcome are
// required.
type Config struct {
	Store   *state.Store
	Slack   Slack
	Novu    Novu
	Log     zerolog.Logger
	Metrics *metrics.Metrics

	// SendEvent tells the app of a flow that is Saved. It is nil if the app wants no events.
	// Its error may be an EventError.
	SendEvent func(ctx context.Context, f *state.Flow) error

	// Random returns a number from 0 to 1, for the jitter of pauses. Nil is rand.Float64.
	Random func() float64

	// Welcome is called after a connection was saved, for 3 s at most. Its error is only
	// logged. It may be nil.
	Welcome func(ctx context.Context, webhook secret.String) error
}

// Outbox advances the flows of one deployment. It is safe for concurrent use.
type Outbox struct {
	Config
	gate       gate
	background sync.WaitGroup // what is done after a connection was saved
	sending    atomic.Int32   // events that are being sent in background
	wake       map[state.Queue]chan struct{}
}

// New returns an Outbox. It starts no work until Run or Drain.
func New(config Config) *Outbox {
	if config.Random == nil {
		config.Random = rand.Float64
	}
	// Prometheus sees no increase in a counter that appears with its first failure.
	config.Metrics.Saves.WithLabelValues(resultSaved)
	for _, reason := range novuclient.Reasons() {
		config.Metrics.Saves.WithLabelValues(string(reason))
	}
	config.Metrics.Events.WithLabelValues(eventDelivered)
	config.Metrics.Events.WithLabelValues(eventFailed)
	o := &Outbox{Config: config, wake: map[state.Queue]chan struct{}{}}
	for _, q := range state.Queues {
		o.wake[q] = make(chan struct{}, 1)
	}
	return o
}

const (
	// stepLease is longer than an exchange and its record take, or an event and its finish.
	stepLease = 30 * time.Second

	// saveLease covers one attempt to save, and the time for which the attempt may still be
	// at work in Novu if its sender dies.
	saveLease   = saveTimeout + maybeAtWorkFor + leaseMargin
	leaseMargin = 5 * time.Second // for calls of the store, and for a store whose clock runs ahead

	exchangeTimeout = 13 * time.Second                // so that a person waits 15 s at most when Slack is slow
	recordBudget    = 5 * time.Second                 // for repeats of Record while the store fails
	turnPatience    = state.CodeLife - 15*time.Second // the longest wait for Slack, with some time for those who have the same turn
)

// Consume consumes the flow of a callback. If won is true, the caller must call Advance;
// otherwise f is the flow as it is. A store that does not answer may have consumed the
// flow all the same: the worker then takes it over when its lease ends.
//
// While Slack limits the rate, the flow has a Turn: Advance then leaves it to the worker,
// or, if it could not be reached while its code lives, ends it at once.
func (o *Outbox) Consume(ctx context.Context, key state.Key, code secret.String) (f state.Flow, won bool, err error) {
	patience := turnPatience
	if code.Empty() { // a disconnect asks Slack for nothing
		patience = 0
	}
	return o.Store.Consume(ctx, key, state.NewOwner(), code, stepLease, patience)
}

// Disconnect begins a flow whose link asks to disconnect, and advances it as Advance does.
func (o *Outbox) Disconnect(ctx context.Context, f state.Flow, ttl time.Duration) (state.Flow, *Failure, error) {
	ctx = context.WithoutCancel(ctx)
	err := o.Store.Issue(ctx, f, ttl)
	if err == nil {
		f, _, err = o.Consume(ctx, f.Key, secret.String{}) // there is no code
	}
	if err != nil {
		return f, nil, err
	}
	failure, err := o.Advance(ctx, &f)
	return f, failure, err
}

// Advance makes the next steps of a flow that the caller owns, for about 20 s at most. It
// returns why the flow failed, if it did. If f is Recorded then, the worker will save the
// webhook; if it is Working, the worker will exchange the code. An error means that the
// store failed: f is right, but the store may hold an earlier phase.
func (o *Outbox) Advance(ctx context.Context, f *state.Flow) (*Failure, error) {
	return o.advance(context.WithoutCancel(ctx), f, quickPace)
}

// advance makes a flow's next steps until Novu has its change, for requests and for the
// worker.
func (o *Outbox) advance(ctx context.Context, f *state.Flow, p pace) (failure *Failure, err error) {
	if f.Phase == state.Working {
		failure, err = o.exchange(ctx, f)
	}
	attempts := f.Attempts + 1 // an event begins to count anew
	if err == nil && ownsSubscriber(f) {
		failure, err = o.save(ctx, f, p)
	}
	if f.Ended() && failure == nil { // it is connected, disconnected or replaced; callers log failures
		o.logFlow(o.Log.Info(), f).Int("attempts", attempts).Str("outcome", f.Result.Code).AnErr("store", err).Msg("connection")
	}
	return failure, err
}

// ownsSubscriber reports whether f is Recorded and has its subscriber's lease.
func ownsSubscriber(f *state.Flow) bool { return f.Phase == state.Recorded && !f.LeaseEnds.IsZero() }

// exchange exchanges the flow's code and records the webhook. A flow to disconnect has
// neither, and is only recorded.
func (o *Outbox) exchange(ctx context.Context, f *state.Flow) (*Failure, error) {
	switch {
	case f.Request.Action == link.Disconnect:
		return o.recordOrFail(ctx, f)
	case f.LeaseEnds.IsZero(): // it waits for its turn
		notify(o.wake[state.Turns])
		return nil, nil
	case f.Turn.Place > 0 || f.Age >= state.CodeLife && !f.Abandoned:
		err := errors.New("the rate limit of Slack leaves no time for an exchange while the code lives")
		return o.fail(ctx, f, SlackFailure(slackoauth.CodeRateLimited, err))
	case time.Until(f.LeaseEnds) < exchangeTimeout+leaseMargin: // this process was paused: another instance may have the flow
		return nil, state.ErrLost
	}
	start := time.Now()
	exchanging, cancel := context.WithTimeout(ctx, exchangeTimeout)
	installation, err := o.Slack.Exchange(exchanging, f.Code)
	cancel()
	o.Metrics.Exchange.Observe(time.Since(start).Seconds())

	if err != nil {
		var refused *slackoauth.Error
		errors.As(err, &refused)
		if refused.Code == slackoauth.CodeRateLimited { // the limit is everyone's, also if this code will not live until it ends
			waitErr := o.awaitTurn(ctx, f, refused)
			if waitErr != nil || f.Age+refused.RetryAfter < state.CodeLife {
				return nil, waitErr
			}
		}
		failure := SlackFailure(refused.Code, err)
		if refused.Lost() || failure.Code == CodeCodeExpired && f.Abandoned && f.Age < state.CodeLife {
			failure.Code = CodeInterrupted // the code was spent, and the answer was lost
			failure.Remedy = "Slack's answer was lost, or the instance that asked for it ended: see the network between here and Slack, and why it ended"
		}
		return o.fail(ctx, f, failure)
	}
	if f.Request.TeamID != "" && installation.TeamID != f.Request.TeamID {
		err := fmt.Errorf("the link is for workspace %s, the installation is in %s", f.Request.TeamID, installation.TeamID)
		return o.fail(ctx, f, &Failure{Code: CodeWorkspaceMismatch, Err: err})
	}

	f.Webhook, f.Attempts, f.LastError = installation.WebhookURL, 0, ""
	f.Result = state.Result{
		Team: installation.TeamName, TeamID: installation.TeamID, ConfigurationURL: installation.ConfigurationURL,
		Channel: installation.Channel, ChannelID: installation.ChannelID,
	}
	return o.recordOrFail(ctx, f)
}

// awaitTurn leaves a flow to the worker, which exchanges its code when it has its turn.
func (o *Outbox) awaitTurn(ctx context.Context, f *state.Flow, cause *slackoauth.Error) error {
	f.Attempts++
	f.LastError = cause.Error()
	err := o.Store.AwaitTurn(ctx, f, cause.RetryAfter)
	f.LeaseEnds = time.Time{}
	notify(o.wake[state.Turns])
	o.logFlow(o.Log.Warn(), f).Err(cause).Int("attempts", f.Attempts).Dur("retry_ms", cause.RetryAfter).AnErr("store", err).
		Msg("Slack limits the rate: codes are exchanged in turn")
	return err
}

// recordOrFail records a flow. If the store fails, so does the flow.
func (o *Outbox) recordOrFail(ctx context.Context, f *state.Flow) (*Failure, error) {
	err := o.record(ctx, f)
	if err != nil && !errors.Is(err, state.ErrLost) {
		// The code is spent and the webhook is not recorded. It must not go to Novu then.
		f.Phase, f.Result = state.Finished, state.Result{Code: CodeInterrupted}
		return &Failure{Code: CodeInterrupted, Remedy: "the store failed to record a webhook: see that it answers and has free space", Err: err}, err
	}
	return nil, err
}

// record records the webhook. If the store fails, it tries again for recordBudget, and
// once at least: this process may have been paused. If another flow has the subscriber's
// lease, the caller does not own f any more.
func (o *Outbox) record(ctx context.Context, f *state.Flow) error {
	for start, tries := time.Now(), 1; ; tries++ {
		leased, err := o.Store.Record(ctx, f, saveLease)
		if !leased {
			f.LeaseEnds = time.Time{}
		}
		if err == nil || errors.Is(err, state.ErrLost) || tries > 1 && time.Since(start) > recordBudget || !sleep(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// fail ends a flow without a connection. If the store fails, f has not ended, and another
// attempt will be made.
func (o *Outbox) fail(ctx context.Context, f *state.Flow, failure *Failure) (*Failure, error) {
	f.Result.Code = failure.Code
	return failure, o.Store.Finish(ctx, f)
}

// logFlow adds what every log line of a flow has.
func (o *Outbox) logFlow(event *zerolog.Event, f *state.Flow) *zerolog.Event {
	return event.Str("flow", f.ID).Str("subscriber", f.Request.Subscriber).Str("integration", f.Request.Integration).
		Str("team", f.Result.TeamID).Str("channel", f.Result.ChannelID)
}

// Close waits until what follows a save is done, the welcome message and the event, or
// until ctx ends.
func (o *Outbox) Close(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		o.background.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// notify makes whoever receives from c look again. c has a buffer of one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d. It reports false if ctx ends first, and at once if its deadline is
// earlier.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
