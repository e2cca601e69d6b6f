// Package outbox advances flows: it exchanges Slack's code, saves the webhook in Novu, or
// removes it there, at least once, and leaves the newest choice for each destination there.
// Then it tells the app by an event, at least once.
//
//	Advance: exchange ──► record ──► save ──► finish     by the request that consumed the flow
//	                                  └► event ──► finish   in the background, where the app wants events
//	Run:     Claim ──► the remaining steps               by the worker, for all other flows
//
// This package decides when attempts are made, how often, and how many at a time. Package
// state stores the flows and their order.
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
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
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
	// Its error may be an *EventError.
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
	sending    chan struct{}  // limits the events that are sent at once after a save
	queued     chan struct{}  // receives when a flow begins to wait for its turn at Slack
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
	for _, result := range []string{"delivered", "failed"} {
		config.Metrics.Events.WithLabelValues(result)
	}
	return &Outbox{Config: config, sending: make(chan struct{}, maxSending), queued: make(chan struct{}, 1)}
}

const (
	// consumeLease is longer than an exchange and its record take.
	consumeLease = 30 * time.Second

	// lease covers one attempt to save, and the time for which the attempt may still be at
	// work in Novu if its sender dies.
	lease       = saveTimeout + maybeAtWorkFor + leaseMargin
	leaseMargin = 5 * time.Second // for calls of the store, and for a store whose clock runs ahead

	// eventLease is longer than an event and what follows it take.
	eventLease   = 30 * time.Second
	eventTimeout = 10 * time.Second
	maxSending   = 32 // events that are sent at once after a save; the worker sends the others

	exchangeTimeout  = 13 * time.Second                // so that a person waits 15 s at most when Slack is slow
	recordBudget     = 5 * time.Second                 // for repeats of Record while the store fails
	requestBudget    = 5 * time.Second                 // for saving within a request
	saveTimeout      = 15 * time.Second                // for one attempt of the worker
	maybeAtWorkFor   = 30 * time.Second                // how long an unanswered request may be at work in Novu
	turnPatience     = state.CodeLife - 15*time.Second // the longest wait for Slack, with some time for those who have the same turn
	pollInterval     = 5 * time.Second                 // the longest pause of the worker between two looks at the store
	afterSaveTimeout = 3 * time.Second
	workers          = 4  // flows of a queue that the worker advances at a time
	exchangers       = 32 // and of those that have their turn at Slack
)

// pauses are the pauses after each failed attempt; the last one repeats.
var pauses = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}

// requestPauses are the pauses before each attempt in a request. The worker makes one
// attempt, without a pause.
var (
	requestPauses = []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond}
	workerPauses  = []time.Duration{0}
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
	return o.Store.Consume(ctx, key, state.NewOwner(), code, consumeLease, patience)
}

// Advance makes the next steps of a flow that the caller owns, for about 20 s at most. It
// returns why the flow failed, if it did. If f is Recorded then, the worker will save the
// webhook; if it is Working, the worker will exchange the code. An error means that the
// store failed: f is right, but the store may hold an earlier phase.
func (o *Outbox) Advance(ctx context.Context, f *state.Flow) (*Failure, error) {
	return o.advance(context.WithoutCancel(ctx), f, requestPauses)
}

// advance makes a flow's next steps, for requests and for the worker.
func (o *Outbox) advance(ctx context.Context, f *state.Flow, pauses []time.Duration) (failure *Failure, err error) {
	if f.Phase == state.Working {
		failure, err = o.exchange(ctx, f)
	}
	attempts := f.Attempts + 1 // an event begins to count anew
	if err == nil && ownsSubscriber(f) {
		failure, err = o.save(ctx, f, pauses)
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
	if f.Request.Action == link.Disconnect {
		return o.recordOrFail(ctx, f)
	}
	if f.LeaseEnds.IsZero() { // it waits for its turn
		notify(o.queued)
		return nil, nil
	}
	if f.Turn.Place > 0 || f.Age >= state.CodeLife && !f.Abandoned {
		err := errors.New("the rate limit of Slack leaves no time for an exchange while the code lives")
		return SlackFailure(slackoauth.CodeRateLimited, err), o.finish(ctx, f, CodeSlackBusy)
	}
	start := time.Now()
	if f.LeaseEnds.Sub(start) < exchangeTimeout+leaseMargin {
		return nil, state.ErrLost // this process was paused: another instance may have the flow
	}
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
		return failure, o.finish(ctx, f, failure.Code)
	}
	if f.Request.TeamID != "" && installation.TeamID != f.Request.TeamID {
		failure := &Failure{Code: CodeWorkspaceMismatch, Err: fmt.Errorf("the link is for workspace %s, the installation is in %s", f.Request.TeamID, installation.TeamID)}
		return failure, o.finish(ctx, f, failure.Code)
	}

	f.Webhook, f.Attempts, f.LastError = installation.WebhookURL, 0, ""
	f.Result = state.Result{
		Team: installation.TeamName, TeamID: installation.TeamID, ConfigurationURL: installation.ConfigurationURL,
		Channel: installation.Channel, ChannelID: installation.ChannelID,
	}
	return o.recordOrFail(ctx, f)
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
		leased, err := o.Store.Record(ctx, f, lease)
		if !leased {
			f.LeaseEnds = time.Time{}
		}
		if err == nil || errors.Is(err, state.ErrLost) || tries > 1 && time.Since(start) > recordBudget || !sleep(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// save hands a Recorded flow's webhook to Novu, with one attempt after each pause, and
// finishes the flow, or leaves it to the worker. The caller has the subscriber's lease.
func (o *Outbox) save(ctx context.Context, f *state.Flow, pauses []time.Duration) (*Failure, error) {
	budget := saveTimeout
	if len(pauses) > 1 {
		budget = requestBudget
	}
	// The deadline leaves time for a request to end in Novu before another sender may
	// begin, even if this process was paused after it got the lease.
	ends := time.Now().Add(budget)
	if last := f.LeaseEnds.Add(-maybeAtWorkFor - leaseMargin); last.Before(ends) {
		ends = last
	}
	trying, cancel := context.WithDeadline(ctx, ends)
	defer cancel()
	cause, err := o.resolveIntegration(trying, f)
	if err != nil || !ownsSubscriber(f) {
		return nil, err
	}
	conn, others := novuclient.Connection{
		SubscriberID: f.Request.Subscriber, Integration: f.Request.Integration, Context: f.Request.Context, WebhookURL: f.Webhook,
	}, 0
	if cause == nil {
		others, cause = o.trySave(trying, f, conn, pauses)
	}
	if cause != nil {
		failure, hold := novuclient.AsError(cause), time.Duration(0)
		if failure.MaybeAtWork() {
			hold = maybeAtWorkFor
		}
		switch { // these two must not be tried for ever
		case o.isMadeUp(f, cause):
			return &Failure{Code: CodeNoIntegration, Remedy: "the link names an integration that Novu does not have", Err: cause, Quiet: true}, o.finish(ctx, f, CodeNoIntegration)
		case failure.Reason == novuclient.ManyIntegrations && f.Request.Action == link.Disconnect: // refused as at the click, if Novu had answered then
			return &Failure{Code: CodeNoIntegration, Remedy: failure.Reason.Remedy(), Err: cause}, o.finish(ctx, f, CodeNoIntegration)
		}
		return nil, o.postpone(ctx, f, cause, failure.Reason.Remedy(), o.pauseAfter(f, cause, hold), hold)
	}
	if f.Request.Action == link.Disconnect {
		if others > 0 {
			o.logFlow(o.Log.Error(), f).Int("channels", others).Str("remedy", "see novu-slack-redirect check --subscriber ID").
				Msg("Novu still sends this subscriber's messages to a channel of the integration")
		}
		return nil, o.finish(ctx, f, state.Disconnected)
	}
	err = o.finish(ctx, f, state.Connected)
	if err == nil && f.Result.Code == state.Connected {
		saved := *f // nobody waits for these two
		o.background.Go(func() { o.warnOfOthers(ctx, &saved, conn, others) })
		if o.Welcome != nil {
			o.background.Go(func() { o.welcome(ctx, &saved, conn.WebhookURL) })
		}
	}
	return nil, err
}

// resolveIntegration sets the integration of a flow whose link names none, if Novu did
// not answer at install: the one that the operator may have named since, or Novu's choice.
// It records the flow again, because the destination and with it the order depend on the
// integration.
func (o *Outbox) resolveIntegration(ctx context.Context, f *state.Flow) (cause, err error) {
	if f.Request.Integration != "" {
		return nil, nil
	}
	integration, cause := o.Novu.ResolveIntegration(ctx, o.Store.Links.Integration, f.Request.Action == link.Disconnect)
	if cause != nil {
		o.countSave(cause)
		return cause, nil
	}
	f.Request.Integration = integration
	err = o.record(ctx, f)
	if f.Phase == state.Finished { // it was replaced: end its lease too
		_ = o.Store.Finish(ctx, f) // or else the lease ends by itself
	}
	return nil, err
}

// trySave makes one attempt to save after each pause, until one succeeds, may still be at
// work in Novu, or fails with a cause that only the operator can correct.
func (o *Outbox) trySave(ctx context.Context, f *state.Flow, conn novuclient.Connection, pauses []time.Duration) (others int, err error) {
	save := o.Novu.Save
	if f.Request.Action == link.Disconnect {
		save = o.Novu.Disconnect
	}
	err = &novuclient.Error{Op: "save", Reason: novuclient.Unavailable, Err: errors.New("no time for an attempt: Novu limits the rate")}
	for _, pause := range pauses {
		if !sleep(ctx, pause) || !o.gate.pass(ctx) {
			return 0, err
		}
		start := time.Now()
		others, err = save(ctx, conn)
		o.Metrics.Save.Observe(time.Since(start).Seconds())
		if !o.isMadeUp(f, err) { // which must alarm nobody
			o.countSave(err)
		}
		if err == nil {
			return others, nil
		}
		failure := novuclient.AsError(err)
		if failure.Status == http.StatusTooManyRequests {
			o.gate.close(max(failure.RetryAfter, time.Second)) // the limit counts all requests with our key
		}
		if failure.Permanent() || failure.MaybeAtWork() {
			return 0, err
		}
	}
	return 0, err
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

// finish finishes a flow with the code of its result, or leaves it Saved and sends its
// event, for which nobody waits. If the store fails, f is not changed, unless Novu has
// the change.
func (o *Outbox) finish(ctx context.Context, f *state.Flow, code string) (err error) {
	f.Result.Code = code
	done := code == state.Connected || code == state.Disconnected
	to, leased := state.Finished, false
	if done && o.SendEvent != nil {
		to = state.Saved
		leased, err = o.saved(ctx, f)
	} else {
		err = o.Store.Finish(ctx, f)
	}
	if err != nil && (errors.Is(err, state.ErrLost) || !done) {
		f.Result.Code = "" // another attempt will be made
		return err
	}
	if f.Phase != state.Finished { // or else it was replaced
		f.Phase = to
	}
	if leased {
		event := *f
		o.background.Go(func() {
			defer func() { <-o.sending }()
			o.sendEvent(ctx, &event)
		})
	}
	return err
}

// saved moves a flow to Saved. If leased is true, the caller has a place in sending, and
// sends the event; otherwise the worker does.
func (o *Outbox) saved(ctx context.Context, f *state.Flow) (leased bool, err error) {
	select {
	case o.sending <- struct{}{}:
	default:
		_, err = o.Store.Save(ctx, f, 0)
		return false, err
	}
	leased, err = o.Store.Save(ctx, f, eventLease)
	if leased = leased && err == nil && f.Phase == state.Saved; !leased {
		<-o.sending
	}
	return leased, err
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
		o.Metrics.Events.WithLabelValues(map[bool]string{true: "delivered", false: "failed"}[err == nil]).Inc()
		if err != nil {
			refused := &EventError{}
			errors.As(err, &refused)
			_ = o.postpone(ctx, f, err, eventRemedy, o.pauseAfter(f, err, refused.RetryAfter), 0)
			return
		}
	}
	err := o.Store.Finish(ctx, f)
	o.logFlow(o.Log.Info(), f).Str("outcome", f.Result.Code).Int("attempts", f.Attempts+1).AnErr("store", err).Msg("event")
}

const eventRemedy = "see that EVENTS_URL can be reached from here and answers 2xx: novu-slack-redirect check --event"

// postpone leaves a flow to the worker, which tries again after a pause. Its subscriber's
// lease ends after hold: for as long as the last attempt may be at work.
func (o *Outbox) postpone(ctx context.Context, f *state.Flow, cause error, remedy string, pause, hold time.Duration) error {
	f.Attempts++
	f.LastError = cause.Error()
	err := o.Store.Postpone(ctx, f, pause, hold)
	event := o.Log.Warn()
	if novuclient.AsError(cause).Permanent() || errors.Is(cause, state.ErrSealed) { // only the operator can help
		event = o.Log.Error()
	}
	if remedy != "" {
		event.Str("remedy", remedy)
	}
	o.logFlow(event, f).Str("record", string(f.Key)).Err(cause).Int("attempts", f.Attempts).Dur("retry_ms", pause).AnErr("store", err).
		Msg("the flow will be tried again")
	return err
}

// awaitTurn leaves a flow to the worker, which exchanges its code when it has its turn.
func (o *Outbox) awaitTurn(ctx context.Context, f *state.Flow, cause *slackoauth.Error) error {
	f.Attempts++
	f.LastError = cause.Error()
	err := o.Store.AwaitTurn(ctx, f, cause.RetryAfter)
	f.LeaseEnds = time.Time{}
	notify(o.queued)
	o.logFlow(o.Log.Warn(), f).Err(cause).Int("attempts", f.Attempts).Dur("retry_ms", cause.RetryAfter).AnErr("store", err).
		Msg("Slack limits the rate: codes are exchanged in turn")
	return err
}

// pauseAfter returns the pause after a failed attempt. It is the longest one if only the
// operator can help.
func (o *Outbox) pauseAfter(f *state.Flow, cause error, atLeast time.Duration) time.Duration {
	failure, longest := novuclient.AsError(cause), len(pauses)-1
	pause := pauses[min(f.Attempts, longest)]
	if failure.Permanent() {
		pause = pauses[longest]
	}
	return o.jitter(max(pause, failure.RetryAfter, atLeast))
}

// jitter makes a pause up to a fifth longer, and never shorter.
func (o *Outbox) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + o.Random()/5))
}

// welcome posts the welcome message. It is called only after the finish, so that there is
// one message.
func (o *Outbox) welcome(ctx context.Context, f *state.Flow, webhook secret.String) {
	ctx, cancel := context.WithTimeout(ctx, afterSaveTimeout)
	defer cancel()
	if err := o.Welcome(ctx, webhook); err != nil {
		o.logFlow(o.Log.Warn(), f).Err(err).Str("remedy", "the connection is saved; see that Slack can be reached from here").Msg("the welcome message was not posted")
	}
}

// warnOfOthers warns if Novu sends every message to other channels of the subscriber, too.
func (o *Outbox) warnOfOthers(ctx context.Context, f *state.Flow, conn novuclient.Connection, others int) {
	ctx, cancel := context.WithTimeout(ctx, afterSaveTimeout)
	defer cancel()
	elsewhere, err := o.Novu.Elsewhere(ctx, conn)
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

// logFlow adds what every log line of a flow has.
func (o *Outbox) logFlow(event *zerolog.Event, f *state.Flow) *zerolog.Event {
	return event.Str("flow", f.ID).Str("subscriber", f.Request.Subscriber).Str("integration", f.Request.Integration).
		Str("team", f.Result.TeamID).Str("channel", f.Result.ChannelID)
}

// Waiting returns what waits for Slack, for Novu, and for EVENTS_URL.
func (o *Outbox) Waiting(ctx context.Context) (turns, deliveries, events metrics.Waiting, err error) {
	if turns, err = o.waitingIn(ctx, state.Turns); err == nil {
		deliveries, err = o.waitingIn(ctx, state.Deliveries)
	}
	if err == nil {
		events, err = o.waitingIn(ctx, state.Events)
	}
	return turns, deliveries, events, err
}

func (o *Outbox) waitingIn(ctx context.Context, q state.Queue) (w metrics.Waiting, err error) {
	if w.N, err = o.Store.Count(ctx, q); err != nil || w.N == 0 {
		return w, err
	}
	looked := 0
	err = o.Store.List(ctx, q, func(f state.Flow, _ error) bool {
		if !f.Consumed.IsZero() {
			w.Oldest = max(w.Oldest, time.Since(f.Consumed))
		}
		looked++
		return looked < 1000
	})
	return w, err
}

// Run advances flows that are due until ctx ends, and then waits for the attempts under
// way. At its start it makes all flows due, except those that an instance may be
// working on.
func (o *Outbox) Run(ctx context.Context) {
	for o.WakeAll(ctx) != nil && sleep(ctx, pollInterval) {
	}
	var working sync.WaitGroup
	for _, q := range state.Queues {
		once := q == state.Events && o.SendEvent == nil                       // an earlier setting may have left some
		working.Go(func() { _ = o.work(ctx, q, once, func(*state.Flow) {}) }) // work logs its errors
	}
	working.Wait()
}

// WakeAll makes due what waits, but what may be being worked on.
func (o *Outbox) WakeAll(ctx context.Context) error {
	for _, q := range state.Queues {
		for more := true; more; {
			var err error
			if more, err = o.Store.Wake(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// work claims a queue's flows and advances them, some at a time, and calls done with each.
// It ends when ctx ends and the attempts under way are done. With drain, it also ends when
// no flow is due, Novu limits the rate, or the store fails.
func (o *Outbox) work(ctx context.Context, from state.Queue, drain bool, done func(*state.Flow)) error {
	limit, life, workers, freed := &o.gate, lease, workers, make(chan struct{}, 1)
	switch from { // Novu's limit is not theirs
	case state.Turns:
		limit, life, workers, freed = &gate{}, consumeLease, exchangers, o.queued
	case state.Events:
		limit, life = &gate{}, eventLease
	}
	var working sync.WaitGroup
	defer working.Wait()
	slots := make(chan struct{}, workers)
	for {
		slots <- struct{}{} // waits for an attempt under way at most
		if drain && limit.closedFor() > 0 || !limit.pass(ctx) {
			return ctx.Err()
		}
		alone := len(slots) == 1 // nothing is being worked on that could make a flow due after the look
		f, next, err := o.Store.Claim(ctx, from, life)
		if f != nil {
			working.Go(func() {
				defer func() {
					<-slots
					notify(freed) // flows that waited for this one may be due
				}()
				o.advanceClaimed(context.WithoutCancel(ctx), f, err)
				done(f)
			})
			continue
		}
		<-slots
		if malformed := (state.MalformedError)(""); errors.As(err, &malformed) {
			o.Log.Error().Err(err).Msg("the outbox has a malformed record")
			continue
		}
		if drain && alone {
			return err
		}
		if err != nil || next < 0 || next > pollInterval {
			next = pollInterval
		}
		select {
		case <-freed:
		case <-time.After(next):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// advanceClaimed advances a claimed flow, and logs and counts its outcome, as no request
// does. A flow that cannot be opened is postponed: while STORE_SECRET is being changed,
// another instance may have its secret.
func (o *Outbox) advanceClaimed(ctx context.Context, f *state.Flow, unreadable error) {
	if unreadable != nil {
		const remedy = "add the secret that sealed it to STORE_SECRET, after the first"
		_ = o.postpone(ctx, f, unreadable, remedy, o.pauseAfter(f, unreadable, 0), 0) // postpone logs its error
		return
	}
	if f.Phase == state.Saved {
		o.sendEvent(ctx, f)
		return
	}
	exchanged, pauses := f.Phase == state.Working, workerPauses
	if exchanged { // a person may be looking at its page
		pauses = requestPauses
	}
	failure, err := o.advance(ctx, f, pauses)
	if failure != nil {
		o.logFlow(o.Log.Warn(), f).Str("code", failure.Code).AnErr("error", failure.Err).Str("remedy", failure.Remedy).AnErr("store", err).Msg("flow failed")
	}
	if exchanged && f.Ended() {
		o.Metrics.FlowsFinished.WithLabelValues(f.Result.Code).Inc()
	}
}

// Drain advances everything that is due and returns when nothing is, or when Novu limits
// the rate. It returns how many flows need no further attempt, and how many will be tried
// again.
func (o *Outbox) Drain(ctx context.Context) (sent, waiting int, err error) {
	var mu sync.Mutex
	again := map[state.Key]bool{}
	for _, q := range state.Queues {
		if err == nil {
			err = o.work(ctx, q, true, func(f *state.Flow) {
				mu.Lock()
				defer mu.Unlock()
				again[f.Key] = f.Phase != state.Finished && (f.Phase != state.Saved || q == state.Events)
			})
		}
		o.background.Wait() // events that are sent after the saves
	}
	for _, later := range again {
		if later {
			waiting++
		} else {
			sent++
		}
	}
	return sent, waiting, err
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

// sleep waits for d and reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
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
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait || !sleep(ctx, wait) {
			return false
		}
	}
	return ctx.Err() == nil
}
