// Package novutest is a fake Novu. It answers as a generation of the real one does, with
// the same statuses, texts and order of checks, and refuses what that one refuses.
//
// Like the real one it reads a subscriber before it changes its credentials, so that two
// overlapping updates leave two channels; Overlaps counts them. Messages returns the
// webhooks that a trigger would post to.
package novutest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"novu-slack-redirect/upstream/upstreamtest"
)

// Generation stands for the versions of Novu that answer alike.
type Generation int

// The generations. A later one is greater, and the newest is the zero value.
const (
	V2_0      Generation = iota - 4 // no channel endpoints
	V3_15                           // refuses them
	V3_15Flag                       // 3.15 with IS_SLACK_TEAMS_ENABLED=true
	V3_17                           // has them for everyone
	V3_19                           // can filter them by provider, and create their subscriber
)

// Generations are all generations, oldest first.
var Generations = []Generation{V2_0, V3_15, V3_15Flag, V3_17, V3_19}

func (g Generation) String() string {
	return map[Generation]string{V2_0: "2.0", V3_15: "3.15", V3_15Flag: "3.15+flag", V3_17: "3.17", V3_19: "3.19"}[g]
}

// Integration is a chat integration.
type Integration struct {
	Identifier  string
	Provider    string // "slack"
	Active      bool
	Environment string // ID; empty is the server's own

	id string
}

// Channel is one entry of a subscriber's credentials.
type Channel struct {
	Integration string // identifier
	WebhookURL  string

	integrationID string
}

// Endpoint is a channel endpoint.
type Endpoint struct {
	Identifier, Subscriber, Integration, URL string
	Context                                  json.RawMessage // as it was sent
	ContextKeys                              []string        // type:id, as Novu orders and returns them

	provider string
	number   int // orders endpoints by age
}

// environment is the ID of the key's environment.
const environment = "env-demo"

// Secret is a canary: the decrypted secret of a provider. The real Novu's newest
// versions keep it from API keys; this one returns it in every generation.
const Secret = "provider-secret"

// Server is the fake. Its exported fields are set before it serves.
type Server struct {
	Generation Generation
	APIKey     string
	Prefix     string        // path before /v1, as some self-hosted roots have
	Work       time.Duration // how long an update of credentials takes between reading and writing
	Data       any           // every subscriber's custom data, which many answers repeat

	*upstreamtest.Proxy

	mu           sync.Mutex
	integrations []Integration // oldest first
	subscribers  map[string][]Channel
	history      map[string][]string
	endpoints    []Endpoint // oldest first
	busy         map[string]int
	numbers      int // of integrations and endpoints so far
	overlaps     int
	saves        int
}

// New returns a fake Novu with one active Slack integration and no subscriber. Its
// requests are recorded.
func New(recorder *upstreamtest.Recorder) *Server {
	s := &Server{APIKey: "novu-key-" + strings.ToLower(rand.Text()), subscribers: map[string][]Channel{}, history: map[string][]string{}, busy: map[string]int{}}
	s.SetIntegrations(Integration{Identifier: "slack-main", Provider: "slack", Active: true})
	s.Proxy = upstreamtest.NewProxy("Novu", recorder, http.HandlerFunc(s.serve))
	return s
}

// SetIntegrations replaces the integrations; the last one is the newest. An integration
// that was there already keeps its ID.
func (s *Server) SetIntegrations(list ...Integration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list = slices.Clone(list)
	for i := range list {
		in := &list[i]
		in.Environment = cmp.Or(in.Environment, environment)
		s.numbers++
		in.id = objectID(s.numbers)
		for _, old := range s.integrations {
			if old.Identifier == in.Identifier && old.Environment == in.Environment {
				in.id = old.id
			}
		}
	}
	s.integrations = list
}

// SetAPIKey replaces the API key while the server serves; the old one is refused from
// then on.
func (s *Server) SetAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.APIKey = key
}

// SetGeneration replaces the generation while the server serves, as an update does.
func (s *Server) SetGeneration(g Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Generation = g
}

// DeleteSubscriber removes a subscriber. Its endpoints stay.
func (s *Server) DeleteSubscriber(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subscribers, id)
}

// AddSubscriber adds a subscriber, unless it exists.
func (s *Server) AddSubscriber(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(id)
}

func (s *Server) add(id string) {
	if !s.known(id) {
		s.subscribers[id] = nil
	}
}

func (s *Server) known(id string) bool {
	_, known := s.subscribers[id]
	return known
}

// Channels returns a subscriber's channels, and whether the subscriber exists.
func (s *Server) Channels(id string) ([]Channel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, known := s.subscribers[id]
	return slices.Clone(list), known
}

// History returns what was written to a subscriber's credentials so far, in order: webhooks,
// and "" where one was cleared or all were deleted.
func (s *Server) History(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history[id])
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
	return slices.Sorted(maps.Keys(s.subscribers))
}

// Overlaps returns how many updates of credentials began while another one of the same
// subscriber was running.
func (s *Server) Overlaps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overlaps
}

// Saves returns how many webhooks were saved, in either store.
func (s *Server) Saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves
}

// Messages returns the webhooks to which a trigger posts for a subscriber: those of all
// active integrations' channels, and those of the endpoints that have exactly the
// trigger's context, a JSON object or nothing. One webhook can occur twice. An endpoint
// with an empty URL makes the trigger fail.
func (s *Server) Messages(subscriber string, context ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys, ok := contextKeys(strings.Join(context, ""))
	if !ok || !s.known(subscriber) {
		return nil
	}
	var webhooks []string
	for _, c := range s.subscribers[subscriber] {
		if s.find(func(in Integration) bool { return in.Active && in.id == c.integrationID }) != nil && c.WebhookURL != "" {
			webhooks = append(webhooks, c.WebhookURL)
		}
	}
	for _, e := range s.endpoints {
		if s.find(func(in Integration) bool { return in.Active && in.Identifier == e.Integration }) == nil || e.Subscriber != subscriber || !slices.Equal(e.ContextKeys, keys) {
			continue
		}
		if e.URL == "" {
			return nil
		}
		webhooks = append(webhooks, e.URL)
	}
	return webhooks
}

// ShareableURL does what Novu's own Shareable URL ends in: it creates the subscriber and
// saves the webhook, as the generation does, in the credentials or as one more endpoint
// with a random identifier. The integration must exist.
func (s *Server) ShareableURL(subscriber, integration, webhook string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.find(func(in Integration) bool { return in.Identifier == integration })
	s.add(trim(subscriber))
	if s.Generation == V2_0 || s.Generation == V3_15 {
		s.setChannel(subscriber, Channel{in.Identifier, webhook, in.id}, s.channel(subscriber, in.id) >= 0)
	} else {
		s.addEndpoint(Endpoint{Subscriber: subscriber, Integration: in.Identifier, URL: webhook, provider: in.Provider})
	}
}

// find returns the newest integration of the key's environment that match accepts, or
// nil.
func (s *Server) find(match func(Integration) bool) *Integration {
	for i := len(s.integrations) - 1; i >= 0; i-- {
		if in := s.integrations[i]; in.Environment == environment && match(in) {
			return &in
		}
	}
	return nil
}

// channel returns the index of the subscriber's first channel of an integration, or -1.
func (s *Server) channel(subscriber, integrationID string) int {
	return slices.IndexFunc(s.subscribers[subscriber], func(c Channel) bool { return c.integrationID == integrationID })
}

// setChannel replaces the first channel of c's integration, or adds one.
func (s *Server) setChannel(subscriber string, c Channel, replace bool) {
	i := s.channel(subscriber, c.integrationID)
	if !replace {
		s.subscribers[subscriber] = append(s.subscribers[subscriber], c)
	} else if i >= 0 { // else it was deleted meanwhile: the update matches nothing
		s.subscribers[subscriber][i] = c
	}
	s.history[subscriber] = append(s.history[subscriber], c.WebhookURL)
	s.saves++
}

func (s *Server) addEndpoint(e Endpoint) Endpoint {
	s.numbers++
	s.saves++
	e.number = s.numbers
	e.Identifier = cmp.Or(e.Identifier, "chendp_"+rand.Text()[:12])
	s.endpoints = append(s.endpoints, e)
	return e
}

// work passes the time between an update's reading and its writing, during which other
// requests are served.
func (s *Server) work(subscriber string) {
	if s.busy[subscriber] > 0 {
		s.overlaps++
	}
	s.busy[subscriber]++
	s.mu.Unlock()
	time.Sleep(s.Work)
	s.mu.Lock()
	s.busy[subscriber]--
}
