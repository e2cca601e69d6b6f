package novuclient

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"novu-slack-redirect/upstream"
)

// Reason classifies a failure by who can correct it.
type Reason string

// The reasons of an Error.
const (
	Unavailable       Reason = "unavailable"           // temporary: no answer, busy, or broken
	NotNovu           Reason = "not_novu"              // something else answered: a firewall, a proxy, a login page
	UnknownSubscriber Reason = "unknown_subscriber"    // and Save may not create it
	NoIntegration     Reason = "no_active_integration" // the operator activates one
	ManyIntegrations  Reason = "several_integrations"  // the operator names one
	NoEndpoints       Reason = "no_channel_endpoints"  // an older Novu: the operator updates it, or saves credentials
	BadKey            Reason = "bad_api_key"           // the operator corrects NOVU_API_KEY
	BadURL            Reason = "bad_api_url"           // the operator corrects NOVU_API_URL
	NotFound          Reason = "not_found"             // the object that the call names is not in Novu
	Invalid           Reason = "invalid_request"       // Novu refused the form of our request
	Refused           Reason = "refused"               // Novu refused the request for another reason
)

// Remedy says what the operator should do; it is empty for Unavailable.
func (r Reason) Remedy() string { return remedies[r] }

// Reasons returns every Reason.
func Reasons() []Reason { return slices.Collect(maps.Keys(remedies)) }

var remedies = map[Reason]string{
	Unavailable:       "",
	NotNovu:           "something other than Novu answers at NOVU_API_URL: see that the URL is right, also its https, and which firewall, proxy or login page is in between",
	UnknownSubscriber: "the subscriber is not in Novu: create it there, or set NOVU_CREATE_SUBSCRIBER=true",
	NoIntegration:     "activate a Slack integration in this Novu environment, and check NOVU_INTEGRATION_IDENTIFIER",
	ManyIntegrations:  "name the Slack integration, in the link or as NOVU_INTEGRATION_IDENTIFIER",
	NoEndpoints:       "this Novu has no channel endpoints: update it, or set NOVU_SAVE_AS=credentials",
	NotFound:          "the object that the call names is not in Novu (any more)",
	BadKey:            "NOVU_API_KEY is not a secret key of the environment at NOVU_API_URL",
	BadURL:            "NOVU_API_URL is not the root of a Novu API",
	Invalid:           "Novu refused the form of our request: please report this, with the HTTP status and Novu's version",
	Refused:           "Novu's own log says why it refused the request",
}

// Error is the failure of a call. It never holds Novu's answer, which may contain the
// webhook.
type Error struct {
	Op         string // what was being done
	Status     int    // the HTTP status, 0 without an answer
	Reason     Reason
	RetryAfter time.Duration     // how long Novu asked to wait; 0 if it did not
	Progress   upstream.Progress // how far the last request got; NotSent if it was a look-up
	Err        error             // why there is no answer, or none of Novu's
}

func (e *Error) Error() string {
	text := fmt.Sprintf("novu: %s: %s", e.Op, e.Reason)
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same call may succeed without anyone acting.
func (e *Error) Temporary() bool { return e.Reason == Unavailable || e.Reason == NotNovu }

// Permanent reports whether the same call fails until someone acts. An empty Error is
// neither Temporary nor Permanent.
func (e *Error) Permanent() bool { return e.Reason != "" && !e.Temporary() }

// MaybeAtWork reports whether Novu may still be working on the call. If so, nothing more
// may be sent about the subscriber for 30 s.
func (e *Error) MaybeAtWork() bool { return e.Progress == upstream.MaybeAtWork }

// AsError returns the *Error that err wraps, or an empty one.
func AsError(err error) *Error {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure
	}
	return &Error{}
}

// refusal is the body of an answer with an error status.
type refusal struct {
	StatusCode int `json:"statusCode"`
	Message    any `json:"message"` // a string, a list or an object
}

// classify returns the Reason of an answer that is no success, and what is known about who
// answered. Novu's error bodies repeat the status and have a message; what lacks them comes
// from something in front of Novu.
func (r refusal) classify(a upstream.Answer) (Reason, error) {
	fromNovu := a.Decoded && r.StatusCode == a.Status && r.Message != nil
	text, _ := r.Message.(string) // another form has no text that is known
	message := strings.ToLower(text)
	switch {
	case a.Status == http.StatusProxyAuthRequired:
		return NotNovu, errors.New("a proxy wants a user and a password: see HTTPS_PROXY and HTTP_PROXY")
	case !fromNovu && passing(a.Status):
		return Unavailable, answeredBy(a)
	case !fromNovu:
		return NotNovu, answeredBy(a)
	case passing(a.Status):
		return Unavailable, nil
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		return BadKey, nil
	case strings.HasPrefix(message, "integration not found"):
		return NoIntegration, nil
	case a.Status == http.StatusBadRequest && strings.Contains(message, "active") && strings.Contains(message, "integration"):
		return NoIntegration, nil
	case strings.HasPrefix(message, "subscriber") && strings.Contains(message, "not found"):
		return UnknownSubscriber, nil
	case a.Status == http.StatusNotFound && message == "feature not enabled":
		return NoEndpoints, nil
	case a.Status == http.StatusNotFound && strings.HasPrefix(message, "cannot "): // no such route
		return BadURL, nil
	case a.Status == http.StatusNotFound:
		return NotFound, nil
	case a.Status == http.StatusBadRequest || a.Status == http.StatusUnprocessableEntity:
		return Invalid, nil
	}
	return Refused, nil
}

// passing reports whether a status says by itself that the request may be repeated.
func passing(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooManyRequests || status >= 500
}

// answeredBy says what is known about something other than Novu that answered.
func answeredBy(a upstream.Answer) error {
	return fmt.Errorf("the answer is not Novu's: its Content-Type is %.40q, its Server %.40q", a.Header.Get("Content-Type"), a.Header.Get("Server"))
}
