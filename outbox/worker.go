package outbox

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/state"
)

const (
	pollInterval = 5 * time.Second // the longest pause of the worker between two looks at the store
	workers      = 4               // flows of a queue that the worker advances at a time
	exchangers   = 32              // and of those that have their turn at Slack
)

// retryPauses are the pauses after each failed attempt; the last one repeats.
var retryPauses = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}

// Run advances flows that are due until ctx ends, and then waits for the attempts under
// way. At its start it makes all flows due, except those that an instance may be
// working on. If the app wants no events, those that wait at the start are not sent.
func (o *Outbox) Run(ctx context.Context) {
	for o.WakeAll(ctx) != nil && sleep(ctx, pollInterval) {
	}
	var working sync.WaitGroup
	for _, q := range state.Queues {
		var drained func(*state.Flow)
		if q == state.Events && o.SendEvent == nil {
			// What an earlier setting has left ends once, at the start. Later ones are for an
			// instance that has EVENTS_URL already.
			drained = func(*state.Flow) {}
		}
		working.Go(func() { o.work(ctx, q, drained) })
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

// Drain advances everything that is due and returns when nothing is, or when Novu limits
// the rate. It returns how many flows need no further attempt, and how many will be tried
// again.
func (o *Outbox) Drain(ctx context.Context) (sent, waiting int, err error) {
	var mu sync.Mutex
	again := map[state.Key]bool{}
	for _, q := range state.Queues {
		if err == nil {
			err = o.work(ctx, q, func(f *state.Flow) {
				mu.Lock()
				defer mu.Unlock()
				again[f.Key] = !f.Ended() || f.Phase == state.Saved && q == state.Events
			})
		}
		o.background.Wait() // events that are sent after the saves
	}
	for _, later := range again {
		if later {
			waiting++
		}
	}
	return len(again) - waiting, waiting, err
}

// work claims a queue's flows and advances them, some at a time, until ctx ends and the
// attempts under way are done. If drained is not nil, it is called with each of them, and
// work also ends when no flow is due, Novu limits the rate, or the store fails.
func (o *Outbox) work(ctx context.Context, q state.Queue, drained func(*state.Flow)) error {
	claimLease, slots := stepLease, make(chan struct{}, workers)
	switch q {
	case state.Turns:
		slots = make(chan struct{}, exchangers)
	case state.Deliveries:
		claimLease = saveLease
	}
	var working sync.WaitGroup
	defer working.Wait()
	for {
		slots <- struct{}{} // waits for an attempt under way at most
		if ctx.Err() != nil {
			return ctx.Err()
		}
		alone := len(slots) == 1 // nothing is being worked on that could make a flow due after the look
		var f *state.Flow
		var err error
		next := o.gate.closedFor()
		if next <= 0 || q != state.Deliveries { // Novu's limit is not theirs
			f, next, err = o.Store.Claim(ctx, q, claimLease)
		}
		if f != nil {
			working.Go(func() {
				o.advanceClaimed(context.WithoutCancel(ctx), f, err)
				if drained != nil {
					drained(f)
				}
				<-slots
				notify(o.wake[q]) // flows that waited for this one may be due
			})
			continue
		}
		<-slots
		if malformed := (state.MalformedError)(""); errors.As(err, &malformed) {
			o.Log.Error().Err(err).Msg("the outbox has a malformed record")
			continue
		}
		if drained != nil && alone {
			return err
		}
		if err != nil || next < 0 || next > pollInterval {
			next = pollInterval
		}
		select {
		case <-o.wake[q]:
		case <-time.After(next):
		case <-ctx.Done():
		}
	}
}

// advanceClaimed advances a claimed flow, and logs and counts its outcome, as no request
// does. A flow that cannot be opened is postponed: while STORE_SECRET is being changed,
// another instance may have its secret.
func (o *Outbox) advanceClaimed(ctx context.Context, f *state.Flow, unreadable error) {
	switch {
	case unreadable != nil:
		_ = o.postpone(ctx, f, unreadable, "add the secret that sealed it to STORE_SECRET, after the first") // postpone logs its error
		return
	case f.Phase == state.Saved:
		o.sendEvent(ctx, f)
		return
	}
	exchanged, p := f.Phase == state.Working, workerPace
	if exchanged { // a person may be looking at its page
		p = quickPace
	}
	failure, err := o.advance(ctx, f, p)
	if failure != nil {
		level := zerolog.WarnLevel
		remedy, forOperator := Remedies[failure.Code]
		if forOperator && !failure.Quiet {
			level = zerolog.ErrorLevel
		}
		o.logFlow(o.Log.WithLevel(level), f).Str("code", failure.Code).AnErr("error", failure.Err).Str("remedy", cmp.Or(failure.Remedy, remedy)).
			AnErr("store", err).Msg("flow failed")
	}
	if exchanged && f.Ended() {
		o.Metrics.FlowsFinished.WithLabelValues(f.Result.Code).Inc()
	}
}

// postpone leaves a flow to the worker, which tries again after a pause: the longest one if
// only the operator can help, and at least as long as the other side asked for. If the last
// attempt may still be at work in Novu, the subscriber's lease is held for as long.
func (o *Outbox) postpone(ctx context.Context, f *state.Flow, cause error, remedy string) error {
	novu := novuclient.AsError(cause)
	var app EventError
	errors.As(cause, &app)
	var hold time.Duration
	if novu.MaybeAtWork() {
		hold = maybeAtWorkFor
	}
	pause, level := retryPauses[min(f.Attempts, len(retryPauses)-1)], zerolog.WarnLevel
	switch { // only the operator can help
	case novu.Permanent():
		pause, level = retryPauses[len(retryPauses)-1], zerolog.ErrorLevel
	case errors.Is(cause, state.ErrSealed):
		level = zerolog.ErrorLevel
	}
	pause = max(pause, hold, novu.RetryAfter, app.RetryAfter)
	pause += time.Duration(float64(pause) * o.Random() / 5)
	f.Attempts++
	f.LastError = cause.Error()
	err := o.Store.Postpone(ctx, f, pause, hold)
	event := o.logFlow(o.Log.WithLevel(level), f).Str("record", string(f.Key)).Err(cause).Int("attempts", f.Attempts).
		Dur("retry_ms", pause).AnErr("store", err)
	if remedy != "" {
		event.Str("remedy", remedy)
	}
	event.Msg("the flow will be tried again")
	return err
}

// Waiting returns what waits for Slack, for Novu, and for EVENTS_URL.
func (o *Outbox) Waiting(ctx context.Context) (turns, deliveries, events metrics.Waiting, err error) {
	turns, turnsErr := o.waitingIn(ctx, state.Turns)
	deliveries, deliveriesErr := o.waitingIn(ctx, state.Deliveries)
	events, eventsErr := o.waitingIn(ctx, state.Events)
	return turns, deliveries, events, errors.Join(turnsErr, deliveriesErr, eventsErr)
}

func (o *Outbox) waitingIn(ctx context.Context, q state.Queue) (w metrics.Waiting, err error) {
	if w.N, err = o.Store.Count(ctx, q); err != nil || w.N == 0 {
		return w, err
	}
	looked := 0
	err = o.Store.Backend.List(ctx, q, func(_ state.Key, row state.Row, _ time.Time, _ error) bool { // no record need be opened
		if !row.Consumed.IsZero() {
			w.Oldest = max(w.Oldest, time.Since(row.Consumed))
		}
		looked++
		return looked < 1000
	})
	return w, err
}
