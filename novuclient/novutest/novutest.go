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
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

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
	endpoints    []Endpoint // oldest first
	busy         map[string]int
	numbers      int // of integrations and endpoints so far
	overlaps     int
	saves        int
}

// New returns a fake Novu with one active Slack integration and no subscriber. Its
// requests are recorded.
func New(recorder *upstreamtest.Recorder) *Server {
	s := &Server{APIKey: "novu-key-" + strings.ToLower(rand.Text()), subscribers: map[string][]Channel{}, busy: map[string]int{}}
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

// AddSubscriber adds a subscriber, unless it exists.
func (s *Server) AddSubscriber(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(id)
}

func (s *Server) add(id string) {
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
	channels, known := s.subscribers[subscriber]
	if !ok || !known {
		return nil
	}
	var webhooks []string
	for _, c := range channels {
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

// request is what a handler needs of a request.
type request struct {
	id    string // the path's
	query url.Values
	body  []byte
}

func (r request) decode(in any) bool { return json.Unmarshal(r.body, in) == nil }

// invalid is the result of a handler: Novu's validation refuses the request, for these
// reasons.
type invalid []string

// routes are Novu's routes; * stands for the ID. A handler is called with mu locked and
// returns a status and what data holds, or, with an error status, message.
var routes = []struct {
	method, path string
	since        Generation
	handle       func(*Server, request) (int, any)
}{
	{"PUT", "subscribers/*/credentials", V2_0, (*Server).putCredentials},
	{"DELETE", "subscribers/*/credentials/slack", V2_0, (*Server).deleteCredentials},
	{"POST", "subscribers", V2_0, (*Server).createSubscriber},
	{"GET", "subscribers/*", V2_0, (*Server).getSubscriber},
	{"PUT", "subscribers/*", V2_0, (*Server).updateSubscriber},    // here and in the next two ends
	{"PATCH", "subscribers/*", V2_0, (*Server).updateSubscriber},  // a path with an ID such as a#b
	{"DELETE", "subscribers/*", V2_0, (*Server).deleteSubscriber}, // that is not escaped
	{"GET", "integrations/active", V2_0, (*Server).getIntegrations},
	{"GET", "environments/me", V2_0, (*Server).getEnvironment},
	{"GET", "channel-endpoints", V3_15, (*Server).listEndpoints},
	{"POST", "channel-endpoints", V3_15, (*Server).createEndpoint},
	{"PATCH", "channel-endpoints/*", V3_15, (*Server).updateEndpoint},
	{"DELETE", "channel-endpoints/*", V3_15, (*Server).deleteEndpoint},
}

// route matches the escaped path, as Novu's router does: an ID that a client did not
// escape leads to a different route.
func (s *Server) route(r *http.Request) (handle func(*Server, request) (int, any), id string) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), s.Prefix+"/v1/")
	parts := strings.Split(path, "/")
	for _, route := range routes {
		want := strings.Split(route.path, "/")
		if !ok || route.method != r.Method || s.Generation < route.since || len(parts) != len(want) {
			continue
		}
		matches := true
		for i, part := range parts {
			text, err := url.PathUnescape(part)
			if matches = matches && err == nil && (want[i] == text || want[i] == "*" && text != ""); want[i] == "*" {
				id = text
			}
		}
		if matches {
			return route.handle, id
		}
	}
	return nil, ""
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	status, answer := s.answer(r, body)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		json.NewEncoder(w).Encode(answer)
	}
}

func (s *Server) answer(r *http.Request, body []byte) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var status int
	var result any
	if handle, id := s.route(r); handle == nil {
		status, result = http.StatusNotFound, fmt.Sprintf("Cannot %s %s", r.Method, r.URL.RequestURI())
	} else if r.Header.Get("Authorization") != "ApiKey "+s.APIKey {
		status, result = http.StatusUnauthorized, "API Key not found"
	} else {
		status, result = handle(s, request{id, r.URL.Query(), body})
	}
	failure := map[string]any{"timestamp": time.Now().UTC().Format(time.RFC3339), "path": r.URL.RequestURI(), "message": result}
	if reasons, ok := result.(invalid); ok && s.Generation == V2_0 {
		status = http.StatusBadRequest
	} else if ok {
		failure["message"], failure["errors"] = "Validation Error", map[string]any{"general": map[string]any{"messages": reasons, "value": "No Value Recorded"}}
	}
	failure["statusCode"] = status
	if page, ok := result.(endpointPage); ok {
		return status, page // has a field data already, and is not wrapped once more
	} else if status >= 400 {
		return status, failure
	}
	return status, map[string]any{"data": result}
}

func (s *Server) putCredentials(r request) (int, any) {
	var in struct {
		ProviderID, IntegrationIdentifier string
		Credentials                       *struct{ WebhookURL *string }
	}
	if !r.decode(&in) || in.Credentials == nil {
		return http.StatusUnprocessableEntity, invalid{"credentials must be an object"}
	}
	if in.ProviderID != "slack" && s.Generation > V2_0 {
		return http.StatusUnprocessableEntity, invalid{"providerId must be a valid provider ID"}
	}
	if _, known := s.subscribers[r.id]; !known {
		return http.StatusBadRequest, "SubscriberId: " + r.id + " not found"
	}
	integration := s.find(func(known Integration) bool {
		return known.Active && known.Provider == in.ProviderID && (in.IntegrationIdentifier == "" || known.Identifier == in.IntegrationIdentifier)
	})
	if integration == nil {
		return http.StatusBadRequest, fmt.Sprintf("Subscribers environment (%s) do not have active %s integration.", environment, in.ProviderID)
	}
	i := s.channel(r.id, integration.id)
	channel := Channel{Integration: integration.Identifier, integrationID: integration.id}
	if i >= 0 {
		channel = s.subscribers[r.id][i]
	}
	if in.Credentials.WebhookURL != nil {
		channel.WebhookURL = *in.Credentials.WebhookURL
	}

	s.work(r.id)
	s.setChannel(r.id, channel, i >= 0)
	return http.StatusOK, s.subscriber(r.id)
}

func (s *Server) deleteCredentials(r request) (int, any) {
	if _, known := s.subscribers[r.id]; !known {
		return http.StatusNotFound, "Subscriber not found for id " + r.id
	}
	s.work(r.id)
	s.subscribers[r.id] = nil
	return http.StatusNoContent, nil
}

func (s *Server) createSubscriber(r request) (int, any) {
	var in struct{ SubscriberID string }
	if !r.decode(&in) || trim(in.SubscriberID) == "" {
		return http.StatusUnprocessableEntity, invalid{"subscriberId should not be empty"}
	}
	s.add(trim(in.SubscriberID))
	return http.StatusCreated, s.subscriber(trim(in.SubscriberID))
}

func (s *Server) getSubscriber(r request) (int, any) {
	if _, known := s.subscribers[r.id]; !known && s.Generation == V2_0 {
		return http.StatusNotFound, "Subscriber not found for id " + r.id
	} else if !known {
		return http.StatusNotFound, "Subscriber '" + r.id + "' was not found"
	}
	return http.StatusOK, s.subscriber(r.id)
}

func (s *Server) updateSubscriber(r request) (int, any) {
	if _, known := s.subscribers[r.id]; !known {
		return http.StatusBadRequest, "SubscriberId: " + r.id + " not found"
	}
	return http.StatusOK, s.subscriber(r.id)
}

func (s *Server) deleteSubscriber(r request) (int, any) {
	if _, known := s.subscribers[r.id]; !known {
		return http.StatusNotFound, "Subscriber not found for id " + r.id
	}
	delete(s.subscribers, r.id)
	return http.StatusOK, map[string]any{"acknowledged": true, "status": "deleted"}
}

// subscriber returns a subscriber as Novu's answers hold it.
func (s *Server) subscriber(id string) any {
	channels := []any{}
	for _, c := range s.subscribers[id] {
		channels = append(channels, map[string]any{"providerId": "slack", "_integrationId": c.integrationID, "credentials": map[string]any{"webhookUrl": c.WebhookURL}})
	}
	return map[string]any{"_id": objectID(0), "subscriberId": id, "channels": channels, "data": s.Data}
}

func (s *Server) getIntegrations(request) (int, any) {
	list := []any{}
	for _, in := range s.integrations {
		if in.Active && (s.Generation == V2_0 || in.Environment == environment) {
			list = append(list, map[string]any{"_id": in.id, "_environmentId": in.Environment, "name": in.Identifier,
				"identifier": in.Identifier, "providerId": in.Provider, "channel": "chat", "active": true, "primary": false,
				"credentials": map[string]any{"secretKey": Secret}})
		}
	}
	return http.StatusOK, list
}

func (s *Server) getEnvironment(request) (int, any) {
	return http.StatusOK, map[string]any{"_id": environment, "name": "Demo"}
}

// endpointPage is a page of endpoints, newest first. A cursor is the ID of an endpoint,
// which is not its identifier and occurs in no endpoint.
type endpointPage struct {
	Data             []any   `json:"data"`
	Next             *string `json:"next"`
	Previous         *string `json:"previous"`
	TotalCount       int     `json:"totalCount"`
	TotalCountCapped bool    `json:"totalCountCapped"`
}

func (s *Server) listEndpoints(r request) (int, any) {
	q := r.query
	limit, err := strconv.Atoi(cmp.Or(q.Get("limit"), "10"))
	if err != nil || limit < 1 || limit > 100 {
		return http.StatusUnprocessableEntity, invalid{"limit must not be greater than 100"}
	}
	if q.Get("providerId") != "" && s.Generation < V3_19 {
		return http.StatusUnprocessableEntity, invalid{"providerId must be one of the following values: "}
	}
	if s.Generation == V3_15 {
		return noEndpoints()
	}
	var list []Endpoint
	for _, e := range slices.Backward(s.endpoints) {
		matches := func(name, value string) bool { return q.Get(name) == "" || q.Get(name) == value }
		if matches("subscriberId", e.Subscriber) && matches("integrationIdentifier", e.Integration) && matches("providerId", e.provider) {
			list = append(list, e)
		}
	}
	start, end := 0, min(limit, len(list))
	if cursor := cmp.Or(q.Get("before"), q.Get("after")); cursor != "" {
		i := slices.IndexFunc(s.endpoints, func(e Endpoint) bool { return objectID(e.number) == cursor })
		if i < 0 { // deleted meanwhile: the list ends here
			return http.StatusOK, endpointPage{Data: []any{}}
		}
		older := slices.IndexFunc(append(list, Endpoint{}), func(e Endpoint) bool { return e.number < s.endpoints[i].number })
		newer := slices.IndexFunc(append(list, Endpoint{}), func(e Endpoint) bool { return e.number <= s.endpoints[i].number })
		if start, end = older, min(older+limit, len(list)); q.Get("before") != "" {
			start, end = max(0, newer-limit), newer
		}
	}
	page := endpointPage{Data: []any{}, TotalCount: len(list)}
	for _, e := range list[start:end] {
		page.Data = append(page.Data, e.answer())
	}
	if start < end && end < len(list) {
		page.Next = new(objectID(list[end-1].number))
	}
	if start < end && start > 0 {
		page.Previous = new(objectID(list[start].number))
	}
	return http.StatusOK, page
}

func (e Endpoint) answer() any {
	return map[string]any{"identifier": e.Identifier, "channel": "chat", "providerId": e.provider, "integrationIdentifier": e.Integration, "connectionIdentifier": nil,
		"subscriberId": e.Subscriber, "contextKeys": append([]string{}, e.ContextKeys...), "type": "webhook", "endpoint": map[string]any{"url": e.URL}}
}

func (s *Server) createEndpoint(r request) (int, any) {
	var in struct {
		Identifier, SubscriberID, IntegrationIdentifier, Type string
		Endpoint                                              struct{ URL *string }
		CreateSubscriberIfMissing                             bool
		Context                                               json.RawMessage
	}
	if s.Generation == V3_15 {
		return noEndpoints()
	}
	decoded := r.decode(&in)
	keys, ok := contextKeys(string(in.Context))
	switch {
	case !decoded || in.IntegrationIdentifier == "" || in.SubscriberID == "" || in.Type != "webhook" || in.Endpoint.URL == nil:
		return http.StatusUnprocessableEntity, invalid{"integrationIdentifier should not be null or undefined", `Endpoint must match the required format for type "` + in.Type + `"`}
	case !ok:
		return http.StatusUnprocessableEntity, invalid{"Invalid context payload type or exceeds maximum of 5 contexts"}
	}
	integration := s.find(func(known Integration) bool { return known.Identifier == in.IntegrationIdentifier })
	if integration == nil {
		return http.StatusNotFound, "Integration not found: " + in.IntegrationIdentifier
	}
	_, known := s.subscribers[in.SubscriberID]
	switch {
	case known:
	case s.Generation < V3_19:
		return http.StatusNotFound, "Subscriber not found: " + in.SubscriberID
	case !in.CreateSubscriberIfMissing:
		return http.StatusNotFound, "Subscriber not found: " + in.SubscriberID + ". Pass createSubscriberIfMissing: true to create it, or provision it via POST /v1/subscribers."
	default:
		s.add(trim(in.SubscriberID))
	}
	if in.Identifier != "" && s.endpoint(in.Identifier) >= 0 {
		return http.StatusConflict, fmt.Sprintf("Channel endpoint with identifier %q already exists in environment %q", in.Identifier, environment)
	}
	e := s.addEndpoint(Endpoint{in.Identifier, in.SubscriberID, in.IntegrationIdentifier, *in.Endpoint.URL, in.Context, keys, integration.Provider, 0})
	return http.StatusCreated, e.answer()
}

func (s *Server) updateEndpoint(r request) (int, any) {
	var in struct{ Endpoint *struct{ URL *string } }
	if !r.decode(&in) || in.Endpoint == nil {
		return http.StatusUnprocessableEntity, invalid{"endpoint must be an object"}
	}
	if s.Generation == V3_15 {
		return noEndpoints()
	}
	i := s.endpoint(r.id)
	if i < 0 {
		return http.StatusNotFound, fmt.Sprintf("Channel endpoint with identifier %q not found in environment %q", r.id, environment)
	}
	if in.Endpoint.URL == nil {
		return http.StatusBadRequest, `Endpoint must match the required format for type "webhook"`
	}
	s.saves++
	s.endpoints[i].URL = *in.Endpoint.URL
	return http.StatusOK, s.endpoints[i].answer()
}

func (s *Server) deleteEndpoint(r request) (int, any) {
	if s.Generation == V3_15 {
		return noEndpoints()
	}
	i := s.endpoint(r.id)
	if i < 0 {
		return http.StatusNotFound, "Channel endpoint with identifier '" + r.id + "' not found"
	}
	s.endpoints = slices.Delete(s.endpoints, i, i+1)
	return http.StatusNoContent, nil
}

// endpoint returns the index of the endpoint with the identifier, or -1.
func (s *Server) endpoint(identifier string) int {
	return slices.IndexFunc(s.endpoints, func(e Endpoint) bool { return e.Identifier == identifier })
}

func noEndpoints() (int, any) { return http.StatusNotFound, "Feature not enabled" }

var contextID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// contextKeys returns the keys of a context, type:id each, in Novu's order, which ignores
// case. It reports whether Novu accepts the context.
func contextKeys(context string) (keys []string, ok bool) {
	if context == "" || context == "null" {
		return nil, true
	}
	var entries map[string]json.RawMessage
	if json.Unmarshal([]byte(context), &entries) != nil || len(entries) < 1 || len(entries) > 5 {
		return nil, false
	}
	for kind, value := range entries {
		var in struct {
			ID   string
			Data json.RawMessage
		}
		if json.Unmarshal(value, &in.ID) != nil && json.Unmarshal(value, &in) != nil || !contextID.MatchString(in.ID) {
			return nil, false
		}
		if len(in.Data) > 64<<10 || in.Data != nil && in.Data[0] != '{' && in.Data[0] != '[' {
			return nil, false
		}
		keys = append(keys, kind+":"+in.ID)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(b, a))
	})
	return keys, true
}

// trim removes what JavaScript's trim does.
func trim(id string) string {
	return strings.TrimFunc(id, func(r rune) bool { return r == '\uFEFF' || unicode.IsSpace(r) && r != '\u0085' })
}

// objectID returns an ID as Novu's database makes them: a later one is greater.
func objectID(n int) string { return fmt.Sprintf("%024x", n) }
