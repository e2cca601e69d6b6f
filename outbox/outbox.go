// Package outbox delivers Slack connections to Novu at least once, and of each
// destination the newest one last: what Slack gave is recorded before the first
// attempt and erased after the one that succeeds, because Slack's code cannot be
// spent twice.
//
//	Deliver: Record ──► Save ──► Release      the request that got the webhook
//	Run:     Claim  ──► Save ──► Release      the worker, for what is left behind
//
// Novu reads a subscriber before it pushes to it, so that two updates at once
// leave two channels. Whoever sends holds a lease on the subscriber: there is one
// sender at a time, across instances. A lease ends by itself when its sender dies.
//
// What remains is the time between Slack's answer arriving and the record being
// written, a fraction of a millisecond plus one round trip of the store: a
// process killed in it loses the webhook. Its flow is then never finished, and
// the person is offered to start again.
package outbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// Store keeps one Entry a destination, and who is sending to which subscriber.
// Every method is one round trip, atomic, and safe for any number of callers and
// instances at once. Times are the store's own: callers name durations.
type Store interface {
	// Record keeps e in place of an older entry of its destination. It leases the
	// subscriber to e for lease, or reports false when another sender has it; e is
	// then due when that sender is done.
	Record(ctx context.Context, e Entry, lease time.Duration) (leased bool, err error)

	// Claim leases an entry that is due, the longest due one first. Without one it
	// returns nil and how long until the next one is due, or a negative duration
	// when there is none. An entry that cannot be read is an error once in a while
	// and holds up no other.
	Claim(ctx context.Context, lease time.Duration) (e *Entry, next time.Duration, err error)

	// Release ends the lease of e. It erases e, or keeps it to be due after Retry.
	// If a newer entry has replaced e, that one stays, and is due at once. With
	// Hold the subscriber stays leased for so long: the last attempt may still be
	// going on inside Novu. If ending is not nil, its flow is finished in the same
	// round trip; a failure of that alone is an error too.
	Release(ctx context.Context, e Entry, then Then, ending *state.Ending) error

	// Wake makes entries due at once, a few hundred at a time; it reports whether
	// there are more. What is due within soon stays: it may be being sent.
	Wake(ctx context.Context) (more bool, err error)

	// List calls fn with every entry, in no order, until it returns an error.
	List(ctx context.Context, fn func(Entry) error) error

	// Len returns how many entries there are.
	Len(ctx context.Context) (int, error)

	// Drop erases the entry of a destination if it was recorded by then, and
	// reports whether it did. It works when the store is full.
	Drop(ctx context.Context, d Destination, then time.Time) (bool, error)
}

// Then is what becomes of an entry that is released.
type Then struct {
	Done  bool          // delivered: erase it
	Retry time.Duration // otherwise: due after this
	Hold  time.Duration // keep the subscriber leased for this
}

// Destination is where a connection goes in Novu.
type Destination struct {
	Environment, Integration, Subscriber string
	Context                              string // a short hash of a channel endpoint's context, if it has one
}

func destination(environment string, conn novuclient.Connection) Destination {
	d := Destination{Environment: environment, Integration: conn.Integration, Subscriber: conn.SubscriberID}
	if conn.Context != "" {
		sum := sha256.Sum256([]byte(conn.Context))
		d.Context = hex.EncodeToString(sum[:8])
	}
	return d
}

// String joins the escaped parts with slashes: env1/slack-main/ada%2F1, or with a
// context env1/slack-main/0123456789abcdef/ada%2F1. The subscriber is the last one.
func (d Destination) String() string {
	text := url.PathEscape(d.Environment) + "/" + url.PathEscape(d.Integration) + "/"
	if d.Context != "" {
		text += url.PathEscape(d.Context) + "/"
	}
	return text + url.PathEscape(d.Subscriber)
}

// ParseDestination reads what String wrote.
func ParseDestination(text string) (d Destination, err error) {
	parts := strings.Split(text, "/")
	to := []*string{&d.Environment, &d.Integration, &d.Subscriber}
	if len(parts) == 4 && parts[2] != "" {
		to = slices.Insert(to, 2, &d.Context)
	}
	if len(parts) != len(to) || parts[len(parts)-1] == "" {
		return d, errors.New("a destination is environment/integration/subscriber, as outbox list prints it")
	}
	for i, part := range parts {
		if *to[i], err = url.PathUnescape(part); err != nil {
			return d, errors.New("a destination's escapes are malformed")
		}
	}
	return d, nil
}

// Entry is a connection that Novu does not have yet.
type Entry struct {
	Destination Destination
	ID          string // of this connection: a newer one has another
	Recorded    time.Time
	Attempts    int
	LastError   string // of the last attempt; names no secret

	sealed []byte // the content, readable with STORE_SECRET only
	owner  string // whom the lease is to
}

// content is what is sealed.
type content struct {
	Webhook string
	Ending  state.Ending
}

// Saver is the part of *novuclient.Client that the outbox needs.
type Saver interface {
	Save(ctx context.Context, conn novuclient.Connection) error
}

// Config is what an Outbox needs; all of it is required but Environment, Metrics
// and Welcome.
type Config struct {
	Store   Store
	Novu    Saver
	Secrets []secret.String // all open entries, the first seals
	Log     zerolog.Logger
	Metrics *metrics.Metrics

	// Environment is the Novu environment's ID. Deployments for several
	// environments that share a store must each name theirs.
	Environment string

	// Welcome is called once a connection is saved and its entry erased, for 3 s at
	// most. Its failure is logged, and nothing else.
	Welcome func(ctx context.Context, webhook secret.String) error
}

// Outbox delivers to one Novu environment. It is safe for concurrent use.
type Outbox struct {
	store       Store
	novu        Saver
	environment string
	welcome     func(context.Context, secret.String) error
	seals       seals
	metrics     *metrics.Metrics
	log         zerolog.Logger
	gate        gate
}

// New returns an Outbox. It sends nothing of its own accord until Run or Drain.
func New(config Config) (*Outbox, error) {
	s, err := newSeals(config.Secrets)
	if err != nil {
		return nil, err
	}
	if config.Metrics == nil {
		config.Metrics = metrics.New()
	}
	return &Outbox{metrics: config.Metrics, store: config.Store, novu: config.Novu, environment: config.Environment, welcome: config.Welcome, seals: s, log: config.Log}, nil
}

const (
	deliverBudget  = 5 * time.Second  // quick tries within a request
	deliverLease   = 10 * time.Second // above the budget and the store's timeouts
	sendTimeout    = 15 * time.Second // one attempt of the worker; with release and welcome, below the drain's 20 s
	sendLease      = 30 * time.Second // above sendTimeout and the store's
	unansweredFor  = 30 * time.Second // an attempt that Novu did not answer may still go on
	soon           = 40 * time.Second // above every lease and hold, jitter included
	forgetFor      = 10 * time.Minute // how long an entry that was overtaken is tried to be erased
	notOurs        = 30 * time.Second // until an entry of another environment is looked at again
	idle           = 5 * time.Second  // the worker looks at least so often
	welcomeTimeout = 3 * time.Second
	workers        = 4 // entries sent at a time
)

// pace is the pause after each failed attempt; the last one goes on.
var pace = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}

// quickPauses are those before each try within a request.
var quickPauses = []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond}

// Deliver records the connection, tries to hand it over for about five seconds,
// and finishes its flow with ending: as it is when Novu has the connection, or
// with the result's code replaced by state.Pending when the worker will go on, as
// it does at once when another sender has the subscriber. It returns that result,
// and whether the flow is finished; if not, finishing it is left to the caller.
// When the store cannot record, Novu is tried directly; only if that fails too is
// there an error, a *novuclient.Error.
func (o *Outbox) Deliver(ctx context.Context, conn novuclient.Connection, ending state.Ending) (result state.Result, finished bool, err error) {
	trying, cancel := context.WithTimeout(ctx, deliverBudget)
	defer cancel()
	e, leased, err := o.record(ctx, conn, ending)
	if err != nil {
		o.log.Error().Err(err).Msg("a connection could not be recorded; Novu is tried directly")
		if err = o.tryQuickly(trying, conn); err == nil {
			go o.forget(context.WithoutCancel(ctx), e)
			go o.greet(context.WithoutCancel(ctx), conn.WebhookURL)
		}
		return ending.Result, false, err
	}
	if !leased {
		ending.Result.Code = state.Pending
		return ending.Result, false, nil
	}
	result, err = o.release(ctx, e, ending, o.tryQuickly(trying, conn))
	if err == nil && result.Code != state.Pending {
		go o.greet(context.WithoutCancel(ctx), conn.WebhookURL) // nobody waits for it
	}
	return result, err == nil, nil
}

// greet posts the welcome message. Whoever erased the entry does it, so that
// there is one.
func (o *Outbox) greet(ctx context.Context, webhook secret.String) {
	if o.welcome == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	if err := o.welcome(ctx, webhook); err != nil {
		o.log.Warn().Err(err).Msg("the welcome message was not posted")
	}
}

// forget erases what the store may still hold of a destination that was served
// directly: an older connection, which must not come after this one, or this one.
func (o *Outbox) forget(ctx context.Context, e Entry) {
	ctx, cancel := context.WithTimeout(ctx, forgetFor)
	defer cancel()
	for {
		if _, err := o.store.Drop(ctx, e.Destination, e.Recorded); err == nil || !sleep(ctx, time.Second) {
			return
		}
	}
}

// record seals and records a connection.
func (o *Outbox) record(ctx context.Context, conn novuclient.Connection, ending state.Ending) (e Entry, leased bool, err error) {
	text, err := json.Marshal(content{conn.WebhookURL.Reveal(), ending})
	if err != nil {
		return e, false, err
	}
	d := destination(o.environment, conn)
	id := state.NewHalf()
	e = Entry{Destination: d, ID: id, Recorded: time.Now(), sealed: o.seals.seal(text, d), owner: id}
	leased, err = o.store.Record(ctx, e, deliverLease)
	return e, leased, o.noted(err)
}

// tryQuickly saves conn, a few times while the failure is a passing one.
func (o *Outbox) tryQuickly(ctx context.Context, conn novuclient.Connection) (err error) {
	for _, wait := range quickPauses {
		if !sleep(ctx, wait) || !o.gate.pass(ctx) {
			if err == nil {
				err = &novuclient.Error{Op: "save credentials", Reason: novuclient.Unavailable, Err: errors.New("no time for an attempt: Novu asks everyone to wait")}
			}
			break
		}
		if err = o.save(ctx, conn); err == nil || permanent(err) != "" || unanswered(err) {
			break
		}
	}
	return err
}

// save is one attempt. A 429 holds everyone's next attempts back, not only this
// entry's.
func (o *Outbox) save(ctx context.Context, conn novuclient.Connection) error {
	start := time.Now()
	err := o.novu.Save(ctx, conn)
	o.metrics.Save.Observe(time.Since(start).Seconds())
	o.metrics.Saves.WithLabelValues(map[bool]string{true: "saved", false: "failed"}[err == nil]).Inc()
	var failure *novuclient.Error
	if errors.As(err, &failure) && failure.Status == http.StatusTooManyRequests {
		o.gate.close(max(failure.RetryAfter, time.Second))
	}
	return err
}

// permanent returns what the operator must do about a failure that will not pass
// by itself, or nothing when it may.
func permanent(err error) (remedy string) {
	var failure *novuclient.Error
	switch {
	case errors.Is(err, errSealed):
		return "add the secret that sealed it to STORE_SECRET, after the first"
	case errors.As(err, &failure):
		return failure.Reason.Remedy()
	}
	return ""
}

// unanswered reports whether Novu may still be working on the attempt: we, or
// something between us, stopped waiting.
func unanswered(err error) bool {
	var failure *novuclient.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &failure) && failure.Status == http.StatusGatewayTimeout
}

// release ends an attempt at e that failed with cause, or succeeded with nil,
// and finishes its flow accordingly. The error is about the store alone.
func (o *Outbox) release(ctx context.Context, e Entry, ending state.Ending, cause error) (state.Result, error) {
	then := Then{Done: cause == nil}
	log := o.log.Info()
	if cause != nil {
		ending.Result.Code = state.Pending
		e.Attempts++
		e.LastError = cause.Error()
		then.Retry = retryAfter(e.Attempts, cause)
		if unanswered(cause) {
			then.Hold = unansweredFor
		}
		log = o.log.Warn()
		if remedy := permanent(cause); remedy != "" {
			log = o.log.Error().Str("remedy", remedy)
		}
		log = log.Err(cause).Dur("retry_ms", then.Retry)
	}
	var finish *state.Ending
	if ending.Key != "" { // there is none when the content could not be opened
		finish = &ending
	}
	err := o.noted(o.store.Release(context.WithoutCancel(ctx), e, then, finish))
	log.Str("subscriber", e.Destination.Subscriber).Str("integration", e.Destination.Integration).Int("attempts", e.Attempts).
		AnErr("store", err).Msg(map[bool]string{true: "connection saved in Novu", false: "connection not saved yet"}[then.Done])
	return ending.Result, err
}

// retryAfter is the pause after the attempts made so far. What Novu refuses for
// good waits for the operator, at the slowest pace; an entry that this instance
// cannot open does not, as another one may, while STORE_SECRET is being changed.
func retryAfter(attempts int, cause error) time.Duration {
	wait := pace[min(attempts, len(pace))-1]
	var failure *novuclient.Error
	if errors.As(cause, &failure) {
		wait = max(wait, failure.RetryAfter)
	}
	if permanent(cause) != "" && !errors.Is(cause, errSealed) {
		wait = pace[len(pace)-1]
	}
	if unanswered(cause) {
		wait = max(wait, unansweredFor)
	}
	return time.Duration(float64(wait) * (1 + rand.Float64()/5)) // never sooner than asked
}

// noted counts an error of the store.
func (o *Outbox) noted(err error) error {
	if err != nil {
		o.metrics.StoreErrors.Inc()
	}
	return err
}

// Waiting returns how many connections Novu does not have yet, and the age of the
// oldest, of a thousand at most.
func (o *Outbox) Waiting(ctx context.Context) (n int, oldest time.Duration, err error) {
	if n, err = o.store.Len(ctx); err != nil || n == 0 {
		return n, 0, err
	}
	errEnough, looked := errors.New("enough"), 0
	err = o.store.List(ctx, func(e Entry) error {
		oldest = max(oldest, time.Since(e.Recorded))
		if looked++; looked == 1000 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return n, oldest, err
}

// Run sends what is left behind until ctx ends, and then lets the attempts under
// way finish. At the start everything is due but what Novu may be working on.
func (o *Outbox) Run(ctx context.Context) error {
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = o.store.Wake(ctx); err != nil && ctx.Err() == nil {
			o.log.Error().Err(err).Msg("the outbox cannot be read at the start; it will be tried again")
			more = sleep(ctx, idle)
		}
	}
	_, _, _ = o.work(ctx, false) // its errors are logged where they occur
	return nil
}

// Drain sends everything that is due and returns when nothing is, or when Novu
// asks everyone to wait. Failed are those that will be tried again later.
func (o *Outbox) Drain(ctx context.Context) (sent, failed int, err error) {
	sent, failed, err = o.work(ctx, true)
	return sent, failed, cmp.Or(err, ctx.Err())
}

// work claims and sends with several workers. It ends when ctx does or, for a
// drain, when nothing is due, the gate is closed or the store fails.
func (o *Outbox) work(ctx context.Context, drain bool) (sent, failed int, err error) {
	var good, bad atomic.Int64
	var group errgroup.Group
	for range workers {
		group.Go(func() error { return o.worker(ctx, drain, &good, &bad) })
	}
	err = group.Wait()
	return int(good.Load()), int(bad.Load()), err
}

func (o *Outbox) worker(ctx context.Context, drain bool, good, bad *atomic.Int64) error {
	for !(drain && o.gate.closedFor() > 0) && o.gate.pass(ctx) {
		e, next, err := o.store.Claim(ctx, sendLease)
		if ctx.Err() == nil {
			o.noted(err)
		}
		switch {
		case e != nil && !o.ours(*e):
			// Another deployment's, on the same store: never send it elsewhere.
			_ = o.store.Release(ctx, *e, Then{Retry: notOurs}, nil) // the lease ends by itself too
		case e != nil && o.send(context.WithoutCancel(ctx), *e):
			good.Add(1)
		case e != nil:
			bad.Add(1)
		case drain:
			return err
		default:
			if err != nil && ctx.Err() == nil {
				o.log.Error().Err(err).Msg("the outbox cannot be read")
			}
			if err != nil || next < 0 || next > idle {
				next = idle
			}
			sleep(ctx, next)
		}
	}
	return nil
}

// ours reports whether an entry is for this outbox's environment. One that was
// recorded without an environment's name, or is read without, is.
func (o *Outbox) ours(e Entry) bool {
	return e.Destination.Environment == o.environment || e.Destination.Environment == "" || o.environment == ""
}

// send makes one attempt at a claimed entry.
func (o *Outbox) send(ctx context.Context, e Entry) (delivered bool) {
	var c content
	text, err := o.seals.open(e.sealed, e.Destination)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil {
		trying, cancel := context.WithTimeout(ctx, sendTimeout)
		err = o.save(trying, novuclient.Connection{
			SubscriberID: e.Destination.Subscriber, Integration: e.Destination.Integration,
			Context: c.Ending.Flow.Context, WebhookURL: secret.New(c.Webhook),
		})
		cancel()
	}
	if _, kept := o.release(ctx, e, c.Ending, err); kept == nil && err == nil {
		o.greet(ctx, secret.New(c.Webhook))
	}
	return err == nil
}

// sleep waits for d and reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// gate is closed while Novu asks everyone to wait.
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

// pass waits until the gate is open. It reports false when ctx ends first, at
// once if that is certain.
func (g *gate) pass(ctx context.Context) bool {
	for {
		wait := g.closedFor()
		if wait <= 0 {
			return ctx.Err() == nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait || !sleep(ctx, wait) {
			return false
		}
	}
}

// Entries are kept as their ID, so that a store can compare it, and their rest.
const idLength = 32

type rest struct {
	Sealed    []byte `json:"s"`
	Recorded  int64  `json:"t"` // Unix milliseconds
	Attempts  int    `json:"a,omitempty"`
	LastError string `json:"e,omitempty"`
}

func (e Entry) encode() string {
	text, err := json.Marshal(rest{e.sealed, e.Recorded.UnixMilli(), e.Attempts, e.LastError})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return e.ID + string(text)
}

func decode(destination, value string) (*Entry, error) {
	d, err := ParseDestination(destination)
	if err != nil || len(value) < idLength {
		return nil, errors.New("outbox: an entry is malformed")
	}
	var r rest
	if err := json.Unmarshal([]byte(value[idLength:]), &r); err != nil {
		return nil, fmt.Errorf("outbox: an entry is malformed: %w", err)
	}
	return &Entry{Destination: d, ID: value[:idLength], Recorded: time.UnixMilli(r.Recorded), Attempts: r.Attempts, LastError: r.LastError, sealed: r.Sealed}, nil
}
