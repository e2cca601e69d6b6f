// Package state stores flows: one record for each, from the click on an install link
// until some time after its webhook is in Novu.
//
//	Issue ──► issued ──Consume──► working ──Record──► recorded ──Finish──► finished
//	                    (code)       │     (webhook)      └──Save──► saved ──Finish──► finished
//	                                 └── Finish: it failed ──► finished    (event)
//
// A flow has two secret halves. The state travels through Slack and returns in the
// callback's query; the browser half stays behind in a cookie. A record is found only
// with both, so that a stolen or planted callback URL can neither use nor spend it.
// (RFC 6749 section 10.12, RFC 9700 section 4.7.)
//
// From Consume on, the record holds what the next step needs: first the code, then
// the webhook. Only the holder of the record's lease may take that step; if the
// holder dies, the lease ends and another instance goes on.
//
// Flows are numbered when they are consumed. Of the flows of one destination
// (integration, subscriber and context) the one with the higher number is newer,
// whatever any clock says; an older one that is not finished ends as Replaced.
//
// If Slack limits the rate, flows that are Working wait for their turn in the order of
// their numbers, for all instances together; see Turn.
//
// Store seals and opens records; a Backend (Redis or Bolt) keeps them and makes each
// change atomically.
package state

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// ErrNotFound means that no flow has the key: it never existed, or it expired.
var ErrNotFound = errors.New("state: no such flow")

// ErrLost means that the caller does not own the flow any more: the lease ended and
// another instance took the flow over, or the flow was dropped. Nothing was changed.
var ErrLost = errors.New("state: the flow was taken over by another instance")

// MalformedError means that the value stored under a key is not a record.
type MalformedError Key

func (e MalformedError) Error() string {
	return fmt.Sprintf("the record %s is malformed; it can be dropped with: outbox drop %s", string(e), string(e))
}

// Phase is the phase of a flow.
type Phase byte

// The phases of a flow.
const (
	// Issued: the person was sent to Slack. Consume moves it on; it expires by its TTL.
	Issued Phase = 'i'
	// Working: the record holds Slack's code. Record or Finish moves it on. After a
	// crash the worker takes it over once its lease has ended.
	Working Phase = 'w'
	// Recorded: the record holds the webhook, and does not expire. Finish moves it on.
	// After a crash the worker takes it over once its lease has ended.
	Recorded Phase = 'r'
	// Saved: Novu has the change, and the app has not got its event yet. The record holds
	// the result, and does not expire. Finish moves it on. After a crash the worker takes it
	// over once its lease has ended.
	Saved Phase = 's'
	// Finished: the record holds the result, until the result's TTL ends.
	Finished Phase = 'f'

	// replaced is Finished, with the result Replaced and no content: a newer flow's
	// Record writes it, and cannot seal anything for another record.
	replaced Phase = 'x'
)

// Flow is one person's attempt to connect a channel, from the install link to the
// webhook in Novu.
type Flow struct {
	Row                  // as the backend has it
	Key     Key          // where the backend has it
	ID      string       // public name, in logs and result URLs; empty if the record cannot be opened
	Link    link.Link    // as it was opened; Start again verifies it anew
	Request link.Request // what the link asks for; an integration that it leaves open is resolved

	Due       time.Time // when the worker may claim it; set by List only
	Abandoned bool      // another instance may have sent the code or the webhook, and stopped; set by Claim only
	LastError string    // of the last failed attempt; names no secret

	// LeaseEnds is when another instance may take the flow over, by this process's
	// own clock, which a pause of the process does not stop. It is zero if the caller does
	// not own the flow.
	LeaseEnds time.Time

	Code    secret.String // Slack's, while Working
	Webhook secret.String // Slack's, while Recorded
	Result  Result        // the channel from Recorded on, the code when it has Ended

	codeID string // of the code that the flow was consumed with
}

// Ended reports whether the flow has a result that does not change any more.
func (f *Flow) Ended() bool { return f.Phase == Saved || f.Phase == Finished }

// HasCode reports whether code is the one that the flow was consumed with. It also reports
// true if the record does not tell any more: the flow was replaced.
func (f *Flow) HasCode(code secret.String) bool {
	return f.codeID == "" || f.codeID == codeID(code)
}

// codeID returns what tells a code from others and cannot be turned back into it.
func codeID(code secret.String) string {
	if code.Empty() {
		return ""
	}
	return hash("code", code.Reveal())
}

// Result is the outcome of a flow, with the channel that was picked.
type Result struct {
	Code             string `json:"o,omitempty"` // Connected, Disconnected, Replaced, or the code of a failure
	Team             string `json:"n,omitempty"`
	TeamID           string `json:"t,omitempty"`
	Channel          string `json:"c,omitempty"`
	ChannelID        string `json:"i,omitempty"`
	ConfigurationURL string `json:"u,omitempty"`
}

// Codes of a Result that are not failures.
const (
	Connected    = "connected"    // Novu has the webhook
	Disconnected = "disconnected" // Novu has no webhook any more
	Replaced     = "replaced"     // the person connected another channel, or disconnected, since
)

// Key finds a flow in a store. It is a hash of both halves.
type Key string

const (
	halfLength = 32 // base64url of 24 random bytes
	hashLength = 24 // base64url of 18 bytes of a hash
)

// NewBrowserHalf returns a fresh browser half: 192 random bits in 32 characters of
// base64url.
func NewBrowserHalf() secret.String { return secret.New(NewOwner()) }

// NewOwner returns a fresh name for whoever works on a flow. It is as long as a half,
// and no secret.
func NewOwner() string {
	var b [halfLength / 4 * 3]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// NewState returns a fresh state: a half whose first 32 bits are the time it was
// made, in seconds, and 160 are random.
func NewState(now time.Time) secret.String {
	var b [halfLength / 4 * 3]byte
	rand.Read(b[:]) // never fails
	binary.BigEndian.PutUint32(b[:], uint32(now.Unix()))
	return secret.New(base64.RawURLEncoding.EncodeToString(b[:]))
}

// MadeAt returns when a state says it was made. Anyone can write any time there:
// use it to choose words for a person, and to decide nothing.
func MadeAt(state secret.String) time.Time {
	b, err := base64.RawURLEncoding.DecodeString(state.Reveal())
	if err != nil || len(b) < 4 {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint32(b)), 0)
}

// FlowID returns the public name of the flow that state belongs to. It names the
// flow's cookie and result page and cannot be turned back into the state. It
// reports false unless state has the exact format of NewState.
func FlowID(state secret.String) (id string, ok bool) {
	if !isBase64URL(state.Reveal(), halfLength) {
		return "", false
	}
	return hash("flow ID", state.Reveal()), true
}

// ValidFlowID reports whether id has the format of a flow ID.
func ValidFlowID(id string) bool { return isBase64URL(id, hashLength) }

// NewKey joins a flow's ID and its browser half. It reports false unless both
// have their exact format.
func NewKey(flowID string, browser secret.String) (key Key, ok bool) {
	if !ValidFlowID(flowID) || !isBase64URL(browser.Reveal(), halfLength) {
		return "", false
	}
	return Key(hash("flow key", flowID+browser.Reveal())), true
}

// hash returns 144 bits of the SHA-256 of text, for one use, in base64url.
func hash(use, text string) string {
	var b [128]byte
	sum := sha256.Sum256(append(append(append(b[:0], use...), 0), text...))
	base64.RawURLEncoding.Encode(b[:hashLength], sum[:hashLength/4*3])
	return string(b[:hashLength])
}

func isBase64URL(s string, length int) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return len(s) == length && strings.Trim(s, alphabet) == ""
}

// Deployment is the deployment that records belong to. Deployments that share a Redis
// neither see nor use each other's flows.
type Deployment string

// NewDeployment returns the name of the deployment at a public origin, for a Slack
// app's client ID and, if the settings name one, a Novu environment.
func NewDeployment(origin, clientID, environment string) Deployment {
	return Deployment(hash("deployment", origin+"\x00"+clientID+"\x00"+environment)[:12])
}
