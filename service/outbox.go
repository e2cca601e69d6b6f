package service

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/state"
)

// WaitingFlow is a flow that is not finished, as outbox list and GET /outbox show it. It
// has neither Slack's code nor the webhook.
type WaitingFlow struct {
	Flow        string    `json:"flow"`   // its ID; the record if it cannot be opened
	Record      state.Key `json:"record"` // as in log lines
	Subscriber  string    `json:"subscriber"`
	Integration string    `json:"integration"`
	Channel     string    `json:"channel"`
	WaitsFor    string    `json:"waitsFor"`       // Slack, Novu or EVENTS_URL; STORE_SECRET if it cannot be opened
	Since       time.Time `json:"since,omitzero"` // when the person came back from Slack
	Attempts    int       `json:"attempts"`       // failed ones
	Next        time.Time `json:"next,omitzero"`  // when it is due; absent if it waits for its turn at Slack
	Reason      string    `json:"reason"`         // why it waits
}

// EachWaiting calls fn with each flow that waits for its turn at Slack, then with each other
// one that Novu does not have yet, and then with each whose event the app does not have yet,
// while fn returns true.
func (s *Service) EachWaiting(ctx context.Context, fn func(WaitingFlow) (more bool)) error {
	for _, q := range state.Queues {
		more := true
		err := s.Store.List(ctx, q, func(f state.Flow, unreadable error) bool {
			w := WaitingFlow{
				Flow: cmp.Or(f.ID, string(f.Key)), Record: f.Key, Subscriber: f.Request.Subscriber, Integration: f.Request.Integration, Channel: f.Result.Channel,
				WaitsFor: map[state.Phase]string{state.Working: "Slack", state.Recorded: "Novu", state.Saved: "EVENTS_URL"}[f.Phase],
				Since:    f.Consumed, Attempts: f.Attempts, Next: f.Due,
				Reason: cmp.Or(f.LastError, "it is being worked on, or an earlier one of this subscriber is"),
			}
			if q == state.Turns {
				w.Reason = "Slack limits the rate: it waits for its turn"
			}
			if unreadable != nil {
				w.WaitsFor, w.Reason = "STORE_SECRET", unreadable.Error()
			}
			more = fn(w)
			return more
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// OutboxList is the answer of GET /outbox.
type OutboxList struct {
	Flows []WaitingFlow `json:"flows"`
	More  bool          `json:"more"` // there are more than maxListed
}

// maxListed bounds the memory that one answer takes.
const maxListed = 10_000

// operatorRoutes are those at METRICS_ADDR: the metrics, and the outbox of a service whose
// store no other process can open.
func (s *Service) operatorRoutes(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", metrics)
	mux.Handle("GET /outbox", requirePrivateHost(s.listOutbox))
	mux.Handle("POST /outbox/drain", requirePrivateHost(s.wakeOutbox))
	return new(http.CrossOriginProtection).Handler(mux)
}

// requirePrivateHost answers only requests for an IP address or a private name. The owner of
// a public name can make it lead here (DNS rebinding): a page at that name, in the browser of
// an operator, would be of the same origin as the outbox.
func requirePrivateHost(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host := (&url.URL{Host: r.Host}).Hostname()
		if _, err := netip.ParseAddr(host); err != nil && !config.IsPrivate(host) {
			http.Error(w, "the outbox is not shown under a public host name: ask at an IP address, localhost or a private name", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

const storeFailed = "the store failed; the log has the cause"

func (s *Service) listOutbox(w http.ResponseWriter, r *http.Request) {
	list := OutboxList{Flows: []WaitingFlow{}}
	err := s.EachWaiting(r.Context(), func(f WaitingFlow) bool {
		if list.More = len(list.Flows) == maxListed; !list.More {
			list.Flows = append(list.Flows, f)
		}
		return !list.More
	})
	if err != nil {
		http.Error(w, storeFailed, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // an error is the client's
}

func (s *Service) wakeOutbox(w http.ResponseWriter, r *http.Request) {
	if s.Outbox.WakeAll(r.Context()) != nil {
		http.Error(w, storeFailed, http.StatusServiceUnavailable)
		return
	}
	s.log.Info().Msg("everything in the outbox is due: drain --now asked for it")
}
