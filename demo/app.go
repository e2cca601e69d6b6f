package demo

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/golang-jwt/jwt/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// backend is the part of a customer's app that knows which channels are connected. It
// believes signed results and events, and nothing else that a browser brings.
type backend struct {
	sign       func(customer, link.Request) string
	linkSecret secret.String
	issuer     string // the service's public origin
	origin     string // the app's own
	webhook    *standardwebhooks.Webhook

	mu       sync.Mutex
	accounts map[string]account // by subscriber ID
	known    map[string]bool    // the webhook-ids that it has had, and the flows that it has heard of
}

// account is what the app keeps of a customer's connection.
type account struct {
	Status string `json:"status"` // none, pending or connected
	Place  string `json:"place"`  // such as #alerts at Acme
	flow   string // that it comes from
	final  bool   // the flow's event has come
}

// newAccount returns what a result or an event says.
func newAccount(status, channel, team, flow string) account {
	if status == "disconnected" {
		return account{Status: "none", flow: flow}
	}
	return account{Status: status, Place: channel + " at " + team, flow: flow}
}

// slack answers what settings.js asks: what is connected for a customer. A real app takes
// the customer from its session.
func (b *backend) slack(w http.ResponseWriter, r *http.Request, c customer) {
	answer := struct {
		account
		Connect    string `json:"connect"`
		Disconnect string `json:"disconnect"`
		Problem    string `json:"problem,omitempty"`
	}{
		Connect:    b.sign(c, link.Request{ReturnURL: b.origin + "/"}),
		Disconnect: b.sign(c, link.Request{ReturnURL: b.origin + "/", Action: link.Disconnect}),
	}
	if r.Method == http.MethodPost {
		answer.Problem = b.takeResult(c.ID, r.FormValue("slack_result"))
	}
	b.mu.Lock()
	answer.account = b.accounts[c.ID]
	b.mu.Unlock()
	answer.Status = cmp.Or(answer.Status, "none")
	writeJSON(w, answer)
}

func writeJSON(w http.ResponseWriter, answer any) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

// takeResult keeps what a signed result says, and returns the problem it tells of, if any.
// A result that is not signed, or is for another customer, changes nothing.
func (b *backend) takeResult(subscriber, token string) (problem string) {
	result, err := b.verifyResult(subscriber, token)
	switch {
	case err != nil:
		return ""
	case result.Outcome == "error":
		return handler.Text(result.Reason, appName)
	}
	b.storeResult(subscriber, newAccount(result.Outcome, result.Channel, result.Team, result.ID))
	return ""
}

// storeResult stores what a result says, unless the event of its flow has come, or the flow
// was heard of before another one: the browser may bring a result again.
func (b *backend) storeResult(subscriber string, a account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.accounts[subscriber]; b.known[a.flow] && (now.flow != a.flow || now.final) {
		return
	}
	b.known[a.flow], b.accounts[subscriber] = true, a
}

// storeEvent stores what an event says, unless it is a repetition: others come in order.
func (b *backend) storeEvent(id, subscriber string, a account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[id] {
		return
	}
	a.final = true
	b.known[id], b.known[a.flow], b.accounts[subscriber] = true, true, a
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

// event is the body of a request to EVENTS_URL.
type event struct {
	Type string
	Data struct{ SubscriberID, Channel, Team, Flow string }
}

// takeEvent is the app's EVENTS_URL.
func (b *backend) takeEvent(w http.ResponseWriter, r *http.Request) {
	var e event
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err == nil {
		err = b.webhook.Verify(body, r.Header)
	}
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if status, ok := strings.CutPrefix(e.Type, "slack."); ok {
		b.storeEvent(r.Header.Get(standardwebhooks.HeaderWebhookID), e.Data.SubscriberID, newAccount(status, e.Data.Channel, e.Data.Team, e.Data.Flow))
	}
	w.WriteHeader(http.StatusNoContent)
}
