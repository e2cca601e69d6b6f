package outbox

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/state"
)

// pace is how often, and for how long, a flow is tried at a time.
type pace struct {
	budget time.Duration   // for all attempts
	pauses []time.Duration // between attempts
}

var (
	quickPace  = pace{5 * time.Second, []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}} // while a person waits
	workerPace = pace{saveTimeout, nil}
)

const (
	saveTimeout      = 15 * time.Second // for one attempt of the worker
	maybeAtWorkFor   = 30 * time.Second // how long an unanswered request may be at work in Novu
	afterSaveTimeout = 3 * time.Second
)

// save hands a Recorded flow's webhook to Novu and ends the flow, or leaves it to the
// worker. The caller has the subscriber's lease.
func (o *Outbox) save(ctx context.Context, f *state.Flow, p pace) (*Failure, error) {
	// The deadline leaves time for a request to end in Novu before another sender may
	// begin, even if this process was paused after it got the lease.
	trying, cancel := context.WithTimeout(ctx, min(p.budget, time.Until(f.LeaseEnds)-maybeAtWorkFor-leaseMargin))
	defer cancel()
	others, cause := o.trySave(trying, f, p.pauses)
	reason := novuclient.AsError(cause).Reason
	switch {
	case !ownsSubscriber(f): // another flow goes first, or has replaced this one; or the store failed
		return nil, cause
	case cause == nil:
		return nil, o.complete(ctx, f, others)
	case o.isMadeUp(f, cause): // it would be tried for ever
		return o.fail(ctx, f, &Failure{Code: CodeNoIntegration, Remedy: "the link names an integration that Novu does not have", Err: cause, Quiet: true})
	case reason == novuclient.ManyIntegrations && f.Request.Action == link.Disconnect: // refused as at the click, if Novu had answered then
		return o.fail(ctx, f, &Failure{Code: CodeNoIntegration, Remedy: reason.Remedy(), Err: cause})
	}
	return nil, o.postpone(ctx, f, cause, reason.Remedy())
}

// trySave makes one attempt to save, and one more after each pause, until one succeeds, may
// still be at work in Novu, or fails with a cause that only the operator can correct.
func (o *Outbox) trySave(ctx context.Context, f *state.Flow, pauses []time.Duration) (others int, err error) {
	if f.Request.Integration == "" {
		if err := o.resolveIntegration(ctx, f); err != nil || !ownsSubscriber(f) {
			return 0, err
		}
	}
	save := o.Novu.Save
	if f.Request.Action == link.Disconnect {
		save = o.Novu.Disconnect
	}
	err = &novuclient.Error{Op: "save", Reason: novuclient.Unavailable, Err: errors.New("no time for an attempt: Novu limits the rate")}
	for tries := 0; o.gate.pass(ctx); tries++ {
		start := time.Now()
		others, err = save(ctx, connection(f))
		o.Metrics.Save.Observe(time.Since(start).Seconds())
		if !o.isMadeUp(f, err) { // which must alarm nobody
			o.countSave(err)
		}
		failure := novuclient.AsError(err)
		if failure.Status == http.StatusTooManyRequests {
			o.gate.close(max(failure.RetryAfter, time.Second)) // the limit counts all requests with our key
		}
		if err == nil || failure.Permanent() || failure.MaybeAtWork() || tries == len(pauses) || !sleep(ctx, pauses[tries]) {
			break
		}
	}
	return others, err
}

func connection(f *state.Flow) novuclient.Connection {
	return novuclient.Connection{SubscriberID: f.Request.Subscriber, Integration: f.Request.Integration, Context: f.Request.Context, WebhookURL: f.Webhook}
}

// resolveIntegration sets the integration of a flow whose link names none, if Novu did
// not answer at install: the one that the operator may have named since, or Novu's choice.
// It records the flow again, because the destination and with it the order depend on the
// integration.
func (o *Outbox) resolveIntegration(ctx context.Context, f *state.Flow) error {
	integration, err := o.Novu.ResolveIntegration(ctx, o.Store.Links.Integration, f.Request.Action == link.Disconnect)
	if err != nil {
		o.countSave(err)
		return err
	}
	f.Request.Integration = integration
	err = o.record(ctx, f)
	if f.Phase == state.Finished { // it was replaced, and still has the subscriber's lease
		_ = o.Store.Finish(ctx, f) // or else the lease ends by itself
	}
	return err
}

// isMadeUp reports whether Novu does not have the integration that a Novu-style link names,
// into which anyone can write one.
func (o *Outbox) isMadeUp(f *state.Flow, cause error) bool {
	return novuclient.AsError(cause).Reason == novuclient.NoIntegration && !f.Link.Signed() && f.Link.Integration != "" && f.Link.Integration != o.Store.Links.Integration
}

// resultSaved is the result of an attempt that succeeded, in the metrics.
const resultSaved = "saved"

// countSave counts an attempt to save that ended with err, by the reason of its failure.
func (o *Outbox) countSave(err error) {
	result := resultSaved
	if err != nil {
		result = string(cmp.Or(novuclient.AsError(err).Reason, novuclient.Unavailable))
	}
	o.Metrics.Saves.WithLabelValues(result).Inc()
}

// complete stores that Novu has the change, and does what nobody waits for in background.
// If the store fails, f has ended all the same: Novu has the change, and the worker will
// send it once more.
func (o *Outbox) complete(ctx context.Context, f *state.Flow, others int) (err error) {
	f.Result.Code = state.Connected
	if f.Request.Action == link.Disconnect {
		f.Result.Code = state.Disconnected
	}
	if o.SendEvent == nil {
		err = o.Store.Finish(ctx, f)
	} else {
		err = o.saveAndTell(ctx, f)
	}
	switch {
	case errors.Is(err, state.ErrLost): // another attempt will be made
	case err != nil:
		f.Phase = state.Finished
	case f.Result.Code == state.Connected: // or else it was replaced
		saved := *f
		o.background.Go(func() { o.welcome(ctx, &saved) })
		o.background.Go(func() { o.warnOfOthers(ctx, &saved, others) })
	case f.Result.Code == state.Disconnected && others > 0:
		o.logFlow(o.Log.Error(), f).Int("channels", others).Str("remedy", "see novu-slack-redirect check --subscriber ID").
			Msg("Novu still sends this subscriber's messages to a channel of the integration")
	}
	return err
}

// welcome posts the welcome message. It is called once for a connection.
func (o *Outbox) welcome(ctx context.Context, f *state.Flow) {
	if o.Welcome == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, afterSaveTimeout)
	defer cancel()
	if err := o.Welcome(ctx, f.Webhook); err != nil {
		o.logFlow(o.Log.Warn(), f).Err(err).Str("remedy", "the connection is saved; see that Slack can be reached from here").Msg("the welcome message was not posted")
	}
}

// warnOfOthers warns if Novu sends every message to other channels of the subscriber, too.
func (o *Outbox) warnOfOthers(ctx context.Context, f *state.Flow, others int) {
	ctx, cancel := context.WithTimeout(ctx, afterSaveTimeout)
	defer cancel()
	elsewhere, err := o.Novu.Elsewhere(ctx, connection(f))
	if err != nil {
		o.logFlow(o.Log.Debug(), f).Err(err).Msg("Novu did not say whether the subscriber has other channels")
	}
	if others+elsewhere > 0 {
		o.Metrics.DoubleDeliveries.Inc()
		o.logFlow(o.Log.Warn(), f).Int("channels", others+elsewhere).
			Str("remedy", "see novu-slack-redirect check --subscriber ID, and which save mode fits in docs/migrating.md").
			Msg("Novu sends this subscriber's messages to other channels of the integration, too")
	}
}

// gate is closed while Novu limits the rate.
type gate struct {
	mu    sync.Mutex
	until time.Time
}

func (g *gate) close(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
}

func (g *gate) closedFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.until)
}

// pass waits until the gate is open. It reports false if ctx ends first, and at once if
// its deadline is earlier.
func (g *gate) pass(ctx context.Context) bool {
	for wait := g.closedFor(); wait > 0; wait = g.closedFor() {
		if !sleep(ctx, wait) {
			return false
		}
	}
	return ctx.Err() == nil
}
