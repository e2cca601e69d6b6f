// Package state lets the browser that was sent to Slack come back exactly once.
//
// A flow has two secret halves. The state travels through Slack and returns in
// the callback's query; the browser half stays behind in a cookie. A flow is
// found only with both, so a stolen or planted callback URL can neither use nor
// burn it, and a Store holds a hash of them, so a copy of it opens nothing.
// (RFC 6749 section 10.12, RFC 9700 section 4.7.)
//
// A flow goes through three phases, each change atomic:
//
//	Issue ──► issued ──Consume──► working ──Finish──► finished
package state

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// ErrNotFound says that no flow is under a key: it never was, or it expired.
var ErrNotFound = errors.New("state: no such flow")

// Store keeps flows. Every method is one round trip, safe for any number of
// callers and instances at once, and touches nothing when it fails before
// reaching the store. Any error but ErrNotFound means the store cannot be relied
// on right now.
type Store interface {
	// Issue records a new flow for ttl. A key that exists already is an error
	// and stays as it is.
	Issue(ctx context.Context, key Key, flow Flow, ttl time.Duration) error

	// Consume takes the flow for the caller to work on. Of all callers, ever,
	// exactly one gets a Record in phase Issued: it is the winner and owes a
	// Finish. The others get the flow as it stands: Working with its Age, or
	// Finished with its Result. Consuming does not prolong the flow's life.
	Consume(ctx context.Context, key Key) (Record, error)

	// Look returns the flow as it stands and changes nothing.
	Look(ctx context.Context, key Key) (Record, error)

	// Finish records how a flow ended and keeps it for the ending's TTL from now,
	// also when the flow expired while it was being worked on. A second Finish
	// replaces the first, but Pending replaces nothing: who delivers may be faster
	// than who says that it will be delivered.
	Finish(ctx context.Context, ending Ending) error

	// Ping fails when the store cannot take a write.
	Ping(ctx context.Context) error
}

// Flow is what the install link asked for.
type Flow struct {
	Subscriber  string `json:"s"`
	Integration string `json:"i,omitempty"` // Novu's integration identifier
	Environment string `json:"e,omitempty"` // Novu's environment ID
	ReturnURL   string `json:"r,omitempty"` // already allowed
	TeamID      string `json:"t,omitempty"` // the only Slack workspace accepted
	LinkExpires int64  `json:"x,omitempty"` // Unix seconds; 0 is never
	Context     string `json:"k,omitempty"` // of Novu's channel endpoint, as JSON
	Popup       bool   `json:"p,omitempty"` // the browser's window is a popup
}

// Result is how a flow ended.
type Result struct {
	Code             string `json:"o"` // Connected, Pending, or the code of the failure
	Team             string `json:"n,omitempty"`
	Channel          string `json:"c,omitempty"`
	ConfigurationURL string `json:"u,omitempty"`
}

// Codes of a Result that is no failure.
const (
	Connected = "connected" // Novu has the webhook
	Pending   = "pending"   // the webhook is recorded, and Novu will have it
)

// Ending is all that finishing a flow takes.
type Ending struct {
	Key    Key
	Flow   Flow
	Result Result
	TTL    time.Duration
}

// Phase is how far a flow has come.
type Phase byte

// The phases of a flow.
const (
	Issued   Phase = 'i'
	Working  Phase = 'w'
	Finished Phase = 'f'
)

// Record is a flow as a Store has it.
type Record struct {
	Flow   Flow
	Phase  Phase
	Age    time.Duration // when Working: since it was consumed, by the store's clock
	Result Result        // when Finished
}

// Key finds a flow in a Store. It is a hash of both halves.
type Key string

const halfLength = 32 // base64url of 24 random bytes

var (
	halfFormat   = regexp.MustCompile(`^[A-Za-z0-9_-]{32}$`)
	flowIDFormat = regexp.MustCompile(`^[A-Za-z0-9_-]{24}$`)
)

// NewHalf returns a fresh browser half: 192 random bits in 32
// characters of base64url.
func NewHalf() string {
	var b [halfLength / 4 * 3]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// NewState returns a fresh state: a half whose first 32 bits are the time it was
// made, in seconds, and 160 are random.
func NewState(now time.Time) string {
	var b [halfLength / 4 * 3]byte
	rand.Read(b[:]) // never fails
	binary.BigEndian.PutUint32(b[:], uint32(now.Unix()))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Made returns when a state says it was made. Anyone can write what they like
// there: it can choose words for a person, and decide nothing.
func Made(state string) time.Time {
	b, err := base64.RawURLEncoding.DecodeString(state)
	if err != nil || len(b) < 4 {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint32(b)), 0)
}

// FlowID returns the public name of the flow that state belongs to. It names the
// flow's cookie and result page and cannot be turned back into the state. It
// reports false unless state has the exact format of NewState.
func FlowID(state string) (id string, ok bool) {
	if !halfFormat.MatchString(state) {
		return "", false
	}
	sum := sha256.Sum256([]byte("flow ID\x00" + state))
	return base64.RawURLEncoding.EncodeToString(sum[:18]), true
}

// ValidFlowID reports whether id has the format of a flow ID.
func ValidFlowID(id string) bool { return flowIDFormat.MatchString(id) }

// NewKey joins a flow's ID and its browser half. It reports false unless both
// have their exact format.
func NewKey(flowID, browser string) (key Key, ok bool) {
	if !ValidFlowID(flowID) || !halfFormat.MatchString(browser) {
		return "", false
	}
	sum := sha256.Sum256([]byte("flow key\x00" + flowID + browser))
	return Key(base64.RawURLEncoding.EncodeToString(sum[:18])), true
}

// Both backends keep a flow as one string:
//
//	issued    i{flow}
//	working   wTTTTTTTTTTTTTMMMM…{flow}     when (Unix ms) and by whom (a half)
//	finished  f{flow and result}
const (
	timeLength = 13
	headLength = 1 + timeLength + halfLength
)

type finished struct {
	Flow
	Result
}

func (e Ending) encode() string { return encode(Finished, finished{e.Flow, e.Result}) }

func encode(phase Phase, value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // structs of strings and numbers always marshal
	}
	return string(phase) + string(data)
}

// take is Consume's transition on an encoded flow, made by the caller named
// mark. A caller that asks twice, because the first answer was lost, is the
// winner both times.
func take(value, mark string, nowMS int64) (next string) {
	if value == "" || Phase(value[0]) != Issued {
		return value
	}
	return fmt.Sprintf("%c%0*d%s%s", Working, timeLength, nowMS, mark, value[1:])
}

// decode reads a flow as the caller named mark sees it.
func decode(value, mark string, nowMS int64) (rec Record, err error) {
	if value == "" {
		return rec, errors.New("state: empty record")
	}
	rec.Phase = Phase(value[0])
	switch rec.Phase {
	case Issued:
		err = json.Unmarshal([]byte(value[1:]), &rec.Flow)
	case Working:
		if len(value) < headLength {
			return rec, errors.New("state: short record")
		}
		var since int64
		if since, err = strconv.ParseInt(value[1:1+timeLength], 10, 64); err != nil {
			return rec, fmt.Errorf("state: record time: %w", err)
		}
		rec.Age = max(0, time.Duration(nowMS-since)*time.Millisecond)
		if mark != "" && value[1+timeLength:headLength] == mark {
			rec.Phase, rec.Age = Issued, 0
		}
		err = json.Unmarshal([]byte(value[headLength:]), &rec.Flow)
	case Finished:
		var f finished
		err = json.Unmarshal([]byte(value[1:]), &f)
		rec.Flow, rec.Result = f.Flow, f.Result
	default:
		return rec, fmt.Errorf("state: unknown phase %q", value[0])
	}
	if err != nil {
		return rec, fmt.Errorf("state: record: %w", err)
	}
	return rec, nil
}
