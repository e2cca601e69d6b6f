package state

import (
	"bytes"
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"
)

// Backend keeps the rows of one deployment. Every method is one round trip, atomic,
// and safe for any number of callers and instances at once. Times are the backend's
// own: callers pass durations. Bolt, in Go, and Redis, in Lua, behave the same; the same
// tests run against both.
type Backend interface {
	// Issue keeps a row in phase Issued for ttl, unless the key has a row already.
	Issue(ctx context.Context, key Key, request []byte, ttl time.Duration) error

	// Consume moves an Issued row to Working, numbers it, and leases it to owner. If
	// owner has it already, the lease begins anew. If the row has no turn at Slack yet and
	// would get one within patience, it waits in Turns, and nobody has a lease of it; with
	// no patience it needs no turn. Consume returns the row as it then is, with its Turn,
	// or ErrNotFound.
	Consume(ctx context.Context, key Key, owner string, content []byte, lease, patience time.Duration) (Row, error)

	// Turn returns the turn of the row that was consumed with number.
	Turn(ctx context.Context, number int64) (Turn, error)

	// Look returns the row, or ErrNotFound.
	Look(ctx context.Context, key Key) (Row, error)

	// Move makes m's change to a row that m.Owner owns.
	Move(ctx context.Context, key Key, m Move) (Step, error)

	// Claim makes a row of a queue that is due owner's for lease, and a Recorded row's
	// subscriber too; rows whose subscriber is leased are passed over until that lease
	// ends, and Saved rows until no older row of their destination is Saved. It returns no
	// key, and how long until the next row is due (negative without any), when there is
	// nothing to claim. A row of Turns is claimed when it has its turn, or is older than
	// CodeLife. A malformed row is an error that names its key, and is not looked at again
	// for an hour.
	Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (key Key, row Row, next time.Duration, err error)

	// Wake makes rows of a queue due whose due time is later than soon, up to batch of
	// them. It reports whether there may be more. Rows of Turns have no due time.
	Wake(ctx context.Context, in Queue) (more bool, err error)

	// List calls fn with each row of a queue, the first due first, while fn returns true.
	// For a malformed row, fn gets an error and no row. Rows of Turns have no due time.
	List(ctx context.Context, in Queue, fn func(key Key, row Row, due time.Time, err error) (more bool)) error

	// Count returns how many rows a queue has.
	Count(ctx context.Context, in Queue) (int, error)

	// Drop deletes a row, even a malformed one. It works if the backend is full.
	Drop(ctx context.Context, key Key) error

	// Others returns how many rows are Working, Recorded or Saved for each other deployment
	// that has any.
	Others(ctx context.Context) (map[Deployment]int, error)

	// Ready fails when the backend cannot do what Consume and Move need.
	Ready(ctx context.Context) error
}

// Queue is what waits for a worker: there are several, so that none holds up another.
type Queue string

// The queues. The values are names in the backends.
const (
	Turns      Queue = "turns"  // rows that are Working and wait for their turn at Slack, in the order of their numbers
	Deliveries Queue = "due"    // other rows that are Working or Recorded
	Events     Queue = "events" // rows that are Saved
)

// Queues are all queues.
var Queues = []Queue{Turns, Deliveries, Events}

// Row is a record as a Backend stores it. Request and Content are sealed; the order of
// flows, leases and retries need the other fields.
type Row struct {
	Phase       Phase
	Number      int64     // order of consumption; 0 while Issued
	Consumed    time.Time // by the backend's clock; zero while Issued
	Attempts    int       // failed ones in this phase
	Owner       string    // who may Move the row; a half
	Subscriber  string    // index key; empty until Recorded
	Destination string    // index key; empty until Recorded
	Request     []byte
	Content     []byte

	Age  time.Duration // since Consumed, by the backend's clock; set by Claim only
	Turn Turn          // at Slack; set by Consume only
}

// Move is one step of a row, made by its owner.
type Move struct {
	Owner    string
	To       Phase // the same again, or a later one
	Attempts int
	Content  []byte
	Keep     time.Duration // how long the row is kept; 0 is until it moves on

	Subscriber, Destination string // index keys; empty while there is no webhook

	Lease time.Duration // lease the subscriber, and the row, for this long
	Due   time.Duration // without Lease: when the worker may take the row
	Hold  time.Duration // without Lease: hold the subscriber's lease for this long; 0 ends it

	// Close is set if Slack refused the row's exchange because of its rate limit: how long
	// nobody may exchange a code. The row, which stays Working, then waits in Turns.
	Close time.Duration
}

// Step is the result of a Move.
type Step int

const (
	Lost      Step = iota // the owner does not own the row any more, or it is gone: nothing was changed
	Moved                 // done; with Lease, the subscriber is leased
	Waiting               // done, but another row has the subscriber's lease, or is Saved and older: this row is due when that ends
	Overtaken             // a newer row of the destination was recorded: this one ended as Replaced
)

const (
	workingTTL     = time.Hour           // above the life of Slack's codes and all attempts with them
	orderTTL       = 30 * 24 * time.Hour // how long the newest number of a destination is kept; above workingTTL
	replacedTTL    = 15 * time.Minute    // how long a replaced flow is kept, for its result page
	maxLease       = time.Minute         // above every lease and hold
	maxDue         = 75 * time.Minute    // above the longest pause, jitter included
	malformedPause = time.Hour           // until a malformed row is looked at again
	soon           = maxLease            // an instance may be working on rows that are due within this time
	batch          = 500                 // rows that one Wake changes
	claimLooks     = 20                  // rows that one Claim looks at
	maxWaiting     = 20                  // keys in the list of rows that wait for a lease
	maxLine        = 200                 // bytes of a row's line of plain text
)

// phases are the phases in the order in which a row goes through them. The last two are both
// the end.
const phases = "iwrsfx"

func phaseOrder(p Phase) int { return strings.IndexByte(phases, byte(p)) }

// Rows are encoded as a line of plain text and the two sealed parts:
//
//	phase number consumed attempts owner subscriber destination length\n
//
// where - is an empty field and length is that of Request.
func (r Row) encode() []byte {
	consumed := int64(0)
	if !r.Consumed.IsZero() {
		consumed = r.Consumed.UnixMilli()
	}
	b := append(make([]byte, 0, maxLine+len(r.Request)+len(r.Content)), byte(r.Phase))
	for _, n := range []int64{r.Number, consumed, int64(r.Attempts)} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	for _, s := range []string{r.Owner, r.Subscriber, r.Destination} {
		b = append(append(b, ' '), cmp.Or(s, "-")...)
	}
	b = strconv.AppendInt(append(b, ' '), int64(len(r.Request)), 10)
	return append(append(append(b, '\n'), r.Request...), r.Content...)
}

// decode reads what encode wrote. The row keeps parts of value.
func decode(key Key, value []byte) (Row, error) {
	line, rest, _ := bytes.Cut(value, []byte("\n"))
	fields := strings.Split(string(line), " ")
	if len(line) > maxLine || len(fields) != 8 || !strings.Contains(phases, fields[0]) || len(fields[0]) != 1 {
		return Row{}, MalformedError(key)
	}
	var numbers [4]int64
	for i, field := range []string{fields[1], fields[2], fields[3], fields[7]} {
		n, err := strconv.ParseUint(field, 10, 53) // as the numbers of Lua
		if err != nil {
			return Row{}, MalformedError(key)
		}
		numbers[i] = int64(n)
	}
	length := int(numbers[3])
	if length > len(rest) {
		return Row{}, MalformedError(key)
	}
	for i := range fields {
		if fields[i] == "-" {
			fields[i] = ""
		}
	}
	r := Row{
		Phase: Phase(fields[0][0]), Number: numbers[0], Attempts: int(numbers[2]), Owner: fields[4], Subscriber: fields[5], Destination: fields[6],
		Request: rest[:length:length], Content: rest[length:],
	}
	if numbers[1] > 0 {
		r.Consumed = time.UnixMilli(numbers[1])
	}
	return r, nil
}

// dueTime returns when a row of a queue with a score is due. Rows of Turns have no due time.
func dueTime(queue Queue, score int64) time.Time {
	if queue == Turns { // the score is a number
		return time.Time{}
	}
	return time.UnixMilli(score)
}
