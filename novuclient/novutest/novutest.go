// Package novutest is a fake Novu that refuses what the real one refuses. Like the real
// one it reads a subscriber before it changes it, so that two overlapping updates leave
// two channels; Overlaps counts them.
package novutest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"novu-slack-redirect/upstream/upstreamtest"
)

// Integration is a chat integration of the environment.
type Integration struct {
	Identifier  string
	Provider    string // "slack"
	Active      bool
	Environment string // ID; empty is the server's own
}

// Channel is one of a subscriber's channels.
type Channel struct {
	Integration string // identifier
	WebhookURL  string
}

// Endpoint is a channel endpoint.
type Endpoint struct {
	Identifier, Subscriber, Integration, URL string
	Context                                  json.RawMessage
}

// environment is the ID of the one environment.
const environment = "env-demo"

// Server is the fake. Its exported fields are set before it serves.
type Server struct {
	APIKey string
	Prefix string        // path before /v1, as some self-hosted roots have
	Work   time.Duration // how long an update takes between reading and writing

	*upstreamtest.Proxy

	mu           sync.Mutex
	integrations []Integration
	subscribers  map[string][]Channel
	endpoints    []Endpoint
	busy         map[string]int
	old          bool
	overlaps     int
	saves        int
}

// New returns a fake Novu with one active Slack integration and no subscriber. Its
// requests are recorded.
func New(recorder *upstreamtest.Recorder) *Server {
	s := &Server{
		APIKey:       "novu-key-" + strings.ToLower(rand.Text()),
		integrations: []Integration{{Identifier: "slack-main", Provider: "slack", Active: true}},
		subscribers:  map[string][]Channel{},
		busy:         map[string]int{},
	}
	s.Proxy = upstreamtest.NewProxy("Novu", recorder, http.HandlerFunc(s.route))
	return s
}

// SetIntegrations replaces the integrations; the last one is the newest.
func (s *Server) SetIntegrations(list ...Integration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.integrations = list
}

// SetAPIKey replaces the API key; the old one is refused from then on.
func (s *Server) SetAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.APIKey = key
}

func (s *Server) authorization() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "ApiKey " + s.APIKey
}

// SetOld makes the server a version without channel endpoints and without
// /environments/me.
func (s *Server) SetOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = true
}

func (s *Server) isOld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.old
}

// AddSubscriber adds a subscriber, unless it exists.
func (s *Server) AddSubscriber(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.subscribers[id]; !known {
		s.subscribers[id] = nil
	}
}

// Channels returns a subscriber's channels, and whether the subscriber exists.
func (s *Server) Channels(id string) ([]Channel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, known := s.subscribers[id]
	return slices.Clone(list), known
}

// Endpoints returns all channel endpoints, oldest first.
func (s *Server) Endpoints() []Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.endpoints)
}

// Subscribers returns the IDs of all subscribers, sorted.
func (s *Server) Subscribers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for id := range s.subscribers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Overlaps returns how many updates began while another one of the same subscriber
// was running.
func (s *Server) Overlaps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overlaps
}

// Saves returns how many updates were made.
func (s *Server) Saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves
}

// route matches the escaped path, as Novu's router does: an ID that a client did not
// escape leads to a different route.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), s.Prefix+"/v1/")
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		text, err := url.PathUnescape(part)
		ok = ok && err == nil
		parts = append(parts, text)
	}
	switch route := r.Method + " " + parts[0]; {
	case !ok:
	case r.Header.Get("Authorization") != s.authorization():
		answer(w, http.StatusUnauthorized, "API Key not found")
		return
	case route == "PUT subscribers" && len(parts) == 3 && parts[2] == "credentials":
		s.putCredentials(w, r, parts[1])
		return
	case route == "PUT subscribers" && len(parts) == 2, route == "PATCH subscribers" && len(parts) == 2:
		data(w, http.StatusOK, map[string]any{}) // the route that an unescaped ID falls into
		return
	case route == "POST subscribers" && len(parts) == 1:
		s.createSubscriber(w, r)
		return
	case route == "GET subscribers" && len(parts) == 2:
		s.getSubscriber(w, parts[1])
		return
	case route == "GET integrations" && len(parts) == 2 && parts[1] == "active":
		s.getIntegrations(w)
		return
	case s.isOld(): // has none of the routes that follow
	case route == "GET environments" && len(parts) == 2 && parts[1] == "me":
		data(w, http.StatusOK, map[string]any{"_id": environment, "name": "Demo"})
		return
	case route == "GET channel-endpoints" && len(parts) == 1:
		s.listEndpoints(w, r.URL.Query().Get("subscriberId"))
		return
	case route == "POST channel-endpoints" && len(parts) == 1:
		s.addEndpoint(w, r)
		return
	case route == "PATCH channel-endpoints" && len(parts) == 2:
		s.changeEndpoint(w, r, parts[1])
		return
	}
	answer(w, http.StatusNotFound, fmt.Sprintf("Cannot %s %s", r.Method, r.URL.EscapedPath()))
}

func (s *Server) putCredentials(w http.ResponseWriter, r *http.Request, id string) {
	var in struct {
		ProviderID            string
		IntegrationIdentifier string
		Credentials           struct{ WebhookURL string }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		answer(w, http.StatusBadRequest, "Unexpected token in JSON")
		return
	}
	if in.ProviderID != "slack" {
		answer(w, http.StatusUnprocessableEntity, []string{"providerId must be one of the following values: slack, discord"})
		return
	}
	s.mu.Lock()
	before, known := s.subscribers[id]
	before = slices.Clone(before)
	integration := ""
	for _, in2 := range s.integrations {
		if in2.Active && in2.Provider == "slack" && (in.IntegrationIdentifier == "" || in2.Identifier == in.IntegrationIdentifier) {
			integration = in2.Identifier
		}
	}
	if known && integration != "" {
		if s.busy[id] > 0 {
			s.overlaps++
		}
		s.busy[id]++
	}
	s.mu.Unlock()
	if !known {
		answer(w, http.StatusBadRequest, "SubscriberId: "+id+" not found")
		return
	}
	if integration == "" {
		answer(w, http.StatusBadRequest, "Subscriber "+id+" do not have active slack integration.")
		return
	}

	time.Sleep(s.Work)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[id]--
	s.saves++
	channel := Channel{integration, in.Credentials.WebhookURL}
	same := func(c Channel) bool { return c.Integration == integration }
	if slices.ContainsFunc(before, same) {
		s.subscribers[id][slices.IndexFunc(s.subscribers[id], same)] = channel
	} else {
		s.subscribers[id] = append(s.subscribers[id], channel)
	}
	data(w, http.StatusOK, map[string]any{"subscriberId": id, "channels": []any{
		map[string]any{"providerId": "slack", "_integrationId": integration, "credentials": map[string]any{"webhookUrl": channel.WebhookURL}},
	}})
}

func (s *Server) createSubscriber(w http.ResponseWriter, r *http.Request) {
	var in struct{ SubscriberID string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.SubscriberID == "" {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"subscriberId": "should not be empty"})
		return
	}
	s.AddSubscriber(in.SubscriberID)
	data(w, http.StatusCreated, map[string]any{"subscriberId": in.SubscriberID})
}

func (s *Server) getSubscriber(w http.ResponseWriter, id string) {
	list, known := s.Channels(id)
	if !known {
		answer(w, http.StatusNotFound, "Subscriber not found for id "+id)
		return
	}
	channels := []any{}
	for _, c := range list {
		channels = append(channels, map[string]any{"providerId": "slack", "_integrationId": c.Integration, "credentials": map[string]any{"webhookUrl": c.WebhookURL}})
	}
	data(w, http.StatusOK, map[string]any{"subscriberId": id, "channels": channels})
}

func (s *Server) getIntegrations(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for i, in := range s.integrations {
		if in.Active {
			list = append(list, map[string]any{"_id": fmt.Sprintf("%024x", i+1), "_environmentId": cmp.Or(in.Environment, environment), "name": in.Identifier,
				"identifier": in.Identifier, "providerId": in.Provider, "channel": "chat", "active": true, "primary": false,
				"credentials": map[string]any{"secretKey": "provider-secret"}})
		}
	}
	data(w, http.StatusOK, list)
}

func (s *Server) listEndpoints(w http.ResponseWriter, subscriber string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for _, e := range s.endpoints {
		if e.Subscriber == subscriber {
			list = append(list, map[string]any{"identifier": e.Identifier, "type": "webhook", "providerId": "slack", "endpoint": map[string]any{"url": e.URL}})
		}
	}
	data(w, http.StatusOK, list)
}

func (s *Server) addEndpoint(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Identifier, SubscriberID, IntegrationIdentifier, Type string
		Endpoint                                              struct{ URL string }
		CreateSubscriberIfMissing                             bool
		Context                                               json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Type != "webhook" || in.Endpoint.URL == "" || in.IntegrationIdentifier == "" {
		answer(w, http.StatusUnprocessableEntity, "integrationIdentifier, type and endpoint are required")
		return
	}
	if _, known := s.Channels(in.SubscriberID); !known && in.CreateSubscriberIfMissing {
		s.AddSubscriber(in.SubscriberID)
	} else if !known {
		answer(w, http.StatusNotFound, "Subscriber with id "+in.SubscriberID+" not found")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.integrations, func(known Integration) bool { return known.Active && known.Identifier == in.IntegrationIdentifier }) {
		answer(w, http.StatusNotFound, "Integration with identifier "+in.IntegrationIdentifier+" not found")
		return
	}
	if slices.ContainsFunc(s.endpoints, func(e Endpoint) bool { return e.Identifier == in.Identifier }) {
		answer(w, http.StatusConflict, "Channel endpoint with identifier "+in.Identifier+" already exists")
		return
	}
	s.saves++
	s.endpoints = append(s.endpoints, Endpoint{in.Identifier, in.SubscriberID, in.IntegrationIdentifier, in.Endpoint.URL, in.Context})
	data(w, http.StatusCreated, map[string]any{"identifier": in.Identifier})
}

func (s *Server) changeEndpoint(w http.ResponseWriter, r *http.Request, id string) {
	var in struct{ Endpoint struct{ URL string } }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Endpoint.URL == "" {
		answer(w, http.StatusUnprocessableEntity, "endpoint is required")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.endpoints, func(e Endpoint) bool { return e.Identifier == id })
	if i < 0 {
		answer(w, http.StatusNotFound, "Channel endpoint with identifier "+id+" not found")
		return
	}
	s.saves++
	s.endpoints[i].URL = in.Endpoint.URL
	data(w, http.StatusOK, map[string]any{"identifier": id})
}

func data(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"data": v})
}

func answer(w http.ResponseWriter, status int, message any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"statusCode": status, "message": message, "errorId": rand.Text()})
}
