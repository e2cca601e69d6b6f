package demo

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// backend is the part of a customer's app that knows which channels are connected. It
// believes signed results and events, and nothing else that a browser brings.
type backend struct {
	sign       func(link.Request) string
	linkSecret secret.String
	issuer     string // the service's public origin
	origin     string // the app's own
	webhook    *standardwebhooks.Webhook

	mu       sync.Mutex
	accounts map[string]account // by subscriber ID
	heard    map[string]bool    // flows of which a result or an event has come: true if an event
	events   []receivedEvent    // newest first, the latest 100
}

// account is what the app keeps of a customer's connection.
type account struct {
	Status string `json:"status"` // none, pending or connected
	Place  string `json:"place"`  // such as #alerts at Acme
	flow   string // that it comes from
}

// receivedEvent is a request to EVENTS_URL.
type receivedEvent struct {
	ID        string
	Type      string
	Timestamp time.Time
	Data      struct{ SubscriberID, Channel, Team, Flow string }
	Err       error // why it was refused
}

// slack answers what settings.js asks: what is connected for one of the customers. A real
// app takes the customer from its session, not from the path.
func (b *backend) slack(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("customer"))
	if err != nil || n < 0 || n >= len(customers) {
		http.NotFound(w, r)
		return
	}
	id := customers[n].ID
	answer := struct {
		account
		Connect    string `json:"connect"`
		Disconnect string `json:"disconnect"`
		Problem    string `json:"problem,omitempty"`
	}{
		Connect:    b.sign(link.Request{Subscriber: id, ReturnURL: b.origin + "/"}),
		Disconnect: b.sign(link.Request{Subscriber: id, ReturnURL: b.origin + "/", Action: link.Disconnect}),
	}
	if r.Method == http.MethodPost {
		answer.Problem = b.takeResult(id, r.FormValue("slack_result"))
	}
	b.mu.Lock()
	answer.account = b.accounts[id]
	b.mu.Unlock()
	if answer.Status == "" {
		answer.Status = "none"
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

// takeResult keeps what a signed result says, and returns the problem it tells of, if any.
// A result that is not signed, or is for another customer, changes nothing.
func (b *backend) takeResult(subscriber, token string) (problem string) {
	result, err := b.verifyResult(subscriber, token)
	if err != nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if result.Outcome == "error" {
		return handler.Text(result.Reason, appName)
	}
	b.store(subscriber, account{result.Outcome, place(result.Channel, result.Team), result.ID}, false)
	return ""
}

// store stores what a result or an event says, once. After the event of a flow its result is
// old news, and so is anything about a flow that was heard of before another one came: the
// browser may bring a result again. b.mu is locked.
func (b *backend) store(subscriber string, a account, isEvent bool) {
	byEvent, known := b.heard[a.flow]
	if byEvent || known && b.accounts[subscriber].flow != a.flow {
		return
	}
	if a.Status == "disconnected" {
		a.Status, a.Place = "none", ""
	}
	b.heard[a.flow], b.accounts[subscriber] = isEvent, a
}

type result struct {
	jwt.RegisteredClaims
	link.Result
}

// verifyResult does what docs/integrating.md says.
func (b *backend) verifyResult(subscriber, token string) (r result, err error) {
	parsed, err := jwt.ParseWithClaims(token, &r, func(*jwt.Token) (any, error) { return []byte(b.linkSecret.Reveal()), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(b.issuer), jwt.WithAudience(b.origin), jwt.WithExpirationRequired())
	if err == nil && (parsed.Header["typ"] != "slack-result+jwt" || r.RegisteredClaims.Subject != subscriber) {
		err = errors.New("not a result for this person")
	}
	return r, err
}

// takeEvent is the app's EVENTS_URL.
func (b *backend) takeEvent(w http.ResponseWriter, r *http.Request) {
	e := receivedEvent{ID: r.Header.Get(standardwebhooks.HeaderWebhookID)}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err == nil {
		err = b.webhook.Verify(body, r.Header)
	}
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	e.Err = err
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = slices.Insert(b.events, 0, e)
	b.events = b.events[:min(len(b.events), 100)]
	if err != nil {
		http.Error(w, "the event does not verify", http.StatusBadRequest)
		return
	}
	if status, ok := strings.CutPrefix(e.Type, "slack."); ok {
		b.store(e.Data.SubscriberID, account{status, place(e.Data.Channel, e.Data.Team), e.Data.Flow}, true)
	}
	w.WriteHeader(http.StatusNoContent)
}

// allEvents returns the latest events, newest first.
func (b *backend) allEvents() []receivedEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

// place says where messages arrive.
func place(channel, team string) string {
	switch {
	case channel == "":
		return "your channel"
	case team == "":
		return channel
	}
	return channel + " at " + team
}
