package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// Config is what a Store needs. All fields but Failed are required.
type Config struct {
	Backend    Backend
	Deployment Deployment
	Secrets    []secret.String // all open records, the first seals
	Links      *link.Verifier  // reads the links that records hold
	ResultTTL  time.Duration   // how long a finished flow is kept, for its result page

	// Failed, if it is not nil, is called with each error that means that the store
	// cannot be relied on now, unless the caller gave up. It must not block.
	Failed func(error)
}

// Store keeps the flows of one deployment, sealed. Each method is one round trip of
// the backend, atomic, and safe to repeat when its answer was lost. Any error but
// ErrNotFound, ErrLost and ErrSealed means that the store cannot be relied on now.
// It is safe for concurrent use, by any number of instances.
type Store struct {
	Config
	seals seals
}

// New returns a Store. The caller closes its backend.
func New(config Config) (*Store, error) {
	seals, err := newSeals(config.Secrets)
	if err != nil {
		return nil, err
	}
	return &Store{config, seals}, nil
}

// request is the part of a record that does not change: sealed by Issue.
type request struct {
	ID          string    `json:"f"`
	Link        link.Link `json:"l"`
	Integration string    `json:"i,omitempty"`
}

// content is the part of a record that each phase writes anew.
type content struct {
	Code      string `json:"c,omitempty"` // while Working
	Webhook   string `json:"w,omitempty"` // while Recorded
	Result    Result `json:"r,omitzero"`
	CodeID    string `json:"k,omitempty"`
	LastError string `json:"e,omitempty"`

	Integration string `json:"i,omitempty"` // from Saved on: the one that was resolved
}

// open decodes a row. If the row cannot be opened, open returns ErrSealed and a Flow
// with only the fields that are not sealed.
func (s *Store) open(key Key, row Row) (Flow, error) {
	f := Flow{Key: key, Row: row}
	var r request
	if err := s.seals.open(row.Request, associatedData(key, Issued, 0), &r); err != nil {
		return f, err
	}
	var c content
	switch row.Phase {
	case Issued: // it has no content
	case replaced:
		f.Phase, c.Result.Code = Finished, Replaced
	default:
		if err := s.seals.open(row.Content, associatedData(key, row.Phase, row.Number), &c); err != nil {
			return f, err
		}
	}
	asks, err := s.Links.DecodeVerified(r.Link)
	if err != nil {
		return f, err
	}
	f.ID, f.Link, f.Request = r.ID, r.Link, asks
	f.Request.Integration = cmp.Or(c.Integration, r.Integration)
	f.Code, f.Webhook, f.Result = secret.New(c.Code), secret.New(c.Webhook), c.Result
	f.codeID, f.LastError = c.CodeID, c.LastError
	return f, nil
}

// Issue stores a new flow for ttl: its ID, its Link, and the integration of its
// Request. A flow that exists is not changed.
func (s *Store) Issue(ctx context.Context, f Flow, ttl time.Duration) error {
	sealed := s.seals.seal(request{f.ID, f.Link, f.Request.Integration}, associatedData(f.Key, Issued, 0))
	return s.check(ctx, "issue", s.Backend.Issue(ctx, f.Key, sealed, ttl))
}

// Consume moves an Issued flow to Working, with the code that Slack sent, and leases it
// to owner. Exactly one owner ever wins; it may call again if an answer was lost. All
// others get the flow unchanged.
//
// While Slack's rate limit makes flows take turns, the flow has a Turn. If that comes
// within patience, nobody has a lease of it: Claim returns it when it has its turn. Without
// patience, it needs none.
func (s *Store) Consume(ctx context.Context, key Key, owner string, code secret.String, lease, patience time.Duration) (f Flow, won bool, err error) {
	sealed, ends := s.seals.seal(content{Code: code.Reveal(), CodeID: codeID(code)}, associatedData(key, Working, 0)), time.Now().Add(lease)
	row, err := s.Backend.Consume(ctx, key, owner, sealed, lease, patience)
	if err != nil {
		return f, false, s.check(ctx, "consume", err)
	}
	f, err = s.open(key, row)
	won = err == nil && f.Phase == Working && f.Owner == owner
	if won && (f.Turn.Place == 0 || f.Turn.Wait > patience) {
		f.LeaseEnds = ends
	}
	return f, won, err
}

// Turn returns the turn of a flow that is Working.
func (s *Store) Turn(ctx context.Context, f Flow) (Turn, error) {
	turn, err := s.Backend.Turn(ctx, f.Number)
	return turn, s.check(ctx, "turn", err)
}

// Look returns the flow and changes nothing.
func (s *Store) Look(ctx context.Context, key Key) (Flow, error) {
	row, err := s.Backend.Look(ctx, key)
	if err != nil {
		return Flow{}, s.check(ctx, "look", err)
	}
	return s.open(key, row)
}

// Record stores the flow's webhook and channel in place of the code, and leases its
// subscriber. leased is false if another flow has the subscriber's lease; this flow is
// then due when that lease ends. Older flows of the same destination that are not
// finished end as Replaced. If a newer flow was recorded before, f itself ends as
// Replaced and is Finished.
//
// A Recorded flow is recorded again once its integration is known.
func (s *Store) Record(ctx context.Context, f *Flow, lease time.Duration) (leased bool, err error) {
	ends := time.Now().Add(lease)
	leased, err = s.move(ctx, f, Recorded, Move{Lease: lease})
	if leased {
		f.LeaseEnds = ends
	}
	return leased, err
}

// Postpone makes the flow due after a pause, in the same phase, and stores its Attempts
// and LastError. The subscriber's lease ends after hold: while the last attempt may
// still be at work, nobody else may send.
func (s *Store) Postpone(ctx context.Context, f *Flow, pause, hold time.Duration) error {
	_, err := s.move(ctx, f, f.Phase, Move{Due: pause, Hold: hold})
	return err
}

// AwaitTurn leaves a Working flow whose exchange Slack refused because of its rate limit to
// wait for its next turn. Nobody exchanges a code for as long as Slack asked to wait.
func (s *Store) AwaitTurn(ctx context.Context, f *Flow, retryAfter time.Duration) error {
	_, err := s.move(ctx, f, Working, Move{Close: max(retryAfter, time.Second)})
	return err
}

// Save stores the flow's Result, erases the webhook, and leases the flow for as long as
// sending its event takes. The subscriber's lease ends. leased is false if an older flow of
// the destination has an event that was not sent yet; this flow is then due when that one
// is finished.
func (s *Store) Save(ctx context.Context, f *Flow, lease time.Duration) (leased bool, err error) {
	ends := time.Now().Add(lease)
	f.Attempts, f.LastError = 0, ""
	leased, err = s.move(ctx, f, Saved, Move{Due: lease})
	if leased {
		f.LeaseEnds = ends
	}
	return leased, err
}

// Finish stores the flow's Result for ResultTTL and erases the code and the webhook. The
// subscriber's lease ends.
func (s *Store) Finish(ctx context.Context, f *Flow) error {
	_, err := s.move(ctx, f, Finished, Move{})
	return err
}

// move moves a flow that the caller owns to a phase.
func (s *Store) move(ctx context.Context, f *Flow, to Phase, m Move) (leased bool, err error) {
	m.Owner, m.To, m.Attempts = f.Owner, to, f.Attempts
	m.Subscriber, m.Destination, m.Content = f.Subscriber, f.Destination, f.Content
	c := content{Result: f.Result, CodeID: f.codeID, LastError: f.LastError}
	switch to {
	case Working:
		c.Code, m.Keep = f.Code.Reveal(), workingTTL
	case Recorded:
		c.Webhook = f.Webhook.Reveal()
	case Finished:
		m.Keep = s.ResultTTL
		fallthrough
	case Saved:
		c.Integration = f.Request.Integration
	}
	if f.ID != "" { // or else it cannot be opened, and is kept as it is
		if to == Recorded {
			m.Subscriber = s.indexKey("subscriber", f.Request.Subscriber)
			m.Destination = s.indexKey("destination", f.Request.Integration, f.Request.Subscriber, f.Request.Context.Key)
		}
		m.Content = s.seals.seal(c, associatedData(f.Key, to, f.Number))
	}
	switch step, err := s.Backend.Move(ctx, f.Key, m); {
	case err != nil:
		return false, s.check(ctx, "move to phase "+string(rune(to)), err)
	case step == Lost:
		return false, ErrLost
	case step == Overtaken:
		f.Phase, f.Result = Finished, Result{Code: Replaced}
		return false, nil
	default:
		f.Phase = to
		f.Subscriber, f.Destination, f.Content = m.Subscriber, m.Destination, m.Content
		return step == Moved, nil
	}
}

// indexKey returns the backend's key for a subscriber or a destination. It does not
// depend on a secret, because the order of flows must survive a rotation.
func (s *Store) indexKey(parts ...string) string {
	return hash("index "+string(s.Deployment), strings.Join(parts, "\x00")) // IDs have no control characters
}

// Claim takes over the flow of a queue that has been due longest, for lease. If none is
// due, f is nil and next is how long until one is, negative if there is none. A flow that
// cannot be opened is returned with ErrSealed: postpone it. A malformed record is a
// MalformedError, once an hour.
//
// A flow of Turns is claimed when it has its turn, or is older than CodeLife.
func (s *Store) Claim(ctx context.Context, from Queue, lease time.Duration) (f *Flow, next time.Duration, err error) {
	ends := time.Now().Add(lease)
	key, row, next, err := s.Backend.Claim(ctx, from, NewOwner(), lease)
	if err != nil || key == "" {
		return nil, next, s.check(ctx, "claim", err)
	}
	flow, err := s.open(key, row)
	flow.LeaseEnds, flow.Abandoned = ends, from == Deliveries
	return &flow, 0, err
}

// Wake makes a queue's flows due at once, a few hundred at a time, and reports whether
// there are more. Flows that are due within a minute are left alone, because an
// instance may be working on them.
func (s *Store) Wake(ctx context.Context, in Queue) (more bool, err error) {
	more, err = s.Backend.Wake(ctx, in)
	return more, s.check(ctx, "wake", err)
}

// List calls fn with each flow of a queue, the first due first, while fn returns true. For a
// record that cannot be read, fn gets an error and a Flow with only its Key
// and the fields that are not sealed.
func (s *Store) List(ctx context.Context, in Queue, fn func(Flow, error) (more bool)) error {
	return s.check(ctx, "list", s.Backend.List(ctx, in, func(key Key, row Row, due time.Time, err error) bool {
		f := Flow{Key: key}
		if err == nil {
			f, err = s.open(key, row)
		}
		f.Due = due
		return fn(f, err)
	}))
}

// Count returns how many flows a queue has.
func (s *Store) Count(ctx context.Context, in Queue) (int, error) {
	n, err := s.Backend.Count(ctx, in)
	return n, s.check(ctx, "count", err)
}

// Drop erases a flow. It works when the store is full.
func (s *Store) Drop(ctx context.Context, key Key) error {
	return s.check(ctx, "drop", s.Backend.Drop(ctx, key))
}

// Others returns how many flows of other deployments wait in the same Redis or file,
// by deployment.
func (s *Store) Others(ctx context.Context) (map[Deployment]int, error) {
	others, err := s.Backend.Others(ctx)
	if err != nil { // flows do not need it: the store has not failed
		err = fmt.Errorf("state: look for other deployments: %w", err)
	}
	return others, err
}

// Ready fails when the store cannot do what a callback needs.
func (s *Store) Ready(ctx context.Context) error { return s.check(ctx, "ready", s.Backend.Ready(ctx)) }

// check wraps an error of the backend, and reports it if it means that the store failed.
func (s *Store) check(ctx context.Context, op string, err error) error {
	if err == nil || errors.Is(err, ErrNotFound) {
		return err
	}
	err = fmt.Errorf("state: %s: %w", op, err)
	if malformed := (MalformedError)(""); s.Failed != nil && !errors.As(err, &malformed) && !errors.Is(ctx.Err(), context.Canceled) {
		s.Failed(err)
	}
	return err
}
