package novutest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

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

// routes are Novu's routes; * stands for an ID. A handler is called with mu locked and
// returns a status and what the answer's data holds, or, with an error status, its
// message.
var routes = map[string]func(*Server, request) (int, any){
	"PUT subscribers/*/credentials":          (*Server).putCredentials,
	"DELETE subscribers/*/credentials/slack": (*Server).deleteCredentials,
	"POST subscribers":                       (*Server).createSubscriber,
	"GET subscribers/*":                      (*Server).getSubscriber,
	"PUT subscribers/*":                      (*Server).updateSubscriber, // a path with an ID such as a#b that is not
	"PATCH subscribers/*":                    (*Server).updateSubscriber, // escaped ends here, and in the next line
	"DELETE subscribers/*":                   (*Server).deleteSubscriber,
	"GET integrations":                       (*Server).getIntegrations,
	"GET integrations/active":                (*Server).getActiveIntegrations,
	"GET environments/me":                    (*Server).getEnvironment,
	"GET channel-endpoints":                  (*Server).listEndpoints,
	"POST channel-endpoints":                 (*Server).createEndpoint,
	"PATCH channel-endpoints/*":              (*Server).updateEndpoint,
	"DELETE channel-endpoints/*":             (*Server).deleteEndpoint,
}

// route matches the escaped path, as Novu's router does: an ID that a client did not
// escape leads to a different route. It returns nil if there is none.
func (s *Server) route(r *http.Request) (handle func(*Server, request) (int, any), id string) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), s.Prefix+"/v1/")
	parts := strings.Split(path, "/")
	endpoints := parts[0] == "channel-endpoints"
	if !ok || endpoints && s.Generation == V2_0 {
		return nil, ""
	}
	if len(parts) > 1 && (endpoints || parts[0] == "subscribers") {
		id, _ = url.PathUnescape(parts[1]) // "" if it cannot be
		parts[1] = strings.Repeat("*", min(len(id), 1))
	}
	return routes[r.Method+" "+strings.Join(parts, "/")], id
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
	if !s.known(r.id) {
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
	if !s.known(r.id) {
		return http.StatusNotFound, "Subscriber not found for id " + r.id
	}
	s.work(r.id)
	s.subscribers[r.id] = nil
	s.history[r.id] = append(s.history[r.id], "")
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
	if !s.known(r.id) && s.Generation == V2_0 {
		return http.StatusNotFound, "Subscriber not found for id " + r.id
	} else if !s.known(r.id) {
		return http.StatusNotFound, "Subscriber '" + r.id + "' was not found"
	}
	return http.StatusOK, s.subscriber(r.id)
}

func (s *Server) updateSubscriber(r request) (int, any) {
	if !s.known(r.id) {
		return http.StatusBadRequest, "SubscriberId: " + r.id + " not found"
	}
	return http.StatusOK, s.subscriber(r.id)
}

func (s *Server) deleteSubscriber(r request) (int, any) {
	if !s.known(r.id) {
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
	return s.listIntegrations(func(Integration) bool { return true })
}

func (s *Server) getActiveIntegrations(request) (int, any) {
	return s.listIntegrations(func(in Integration) bool { return in.Active })
}

func (s *Server) listIntegrations(match func(Integration) bool) (int, any) {
	list := []any{}
	for _, in := range s.integrations {
		if match(in) && (s.Generation == V2_0 || in.Environment == environment) {
			list = append(list, map[string]any{"_id": in.id, "_environmentId": in.Environment, "name": in.Identifier,
				"identifier": in.Identifier, "providerId": in.Provider, "channel": "chat", "active": in.Active, "primary": false,
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
	start := 0
	if cursor := q.Get("after"); cursor != "" {
		i := slices.IndexFunc(s.endpoints, func(e Endpoint) bool { return objectID(e.number) == cursor })
		if i < 0 { // deleted meanwhile: the list ends here
			return http.StatusOK, endpointPage{Data: []any{}}
		}
		newer := func(e Endpoint) bool { return e.number >= s.endpoints[i].number }
		start = len(list) - len(slices.DeleteFunc(slices.Clone(list), newer))
	}
	end := min(start+limit, len(list))
	page := endpointPage{Data: []any{}, TotalCount: len(list)}
	for _, e := range list[start:end] {
		page.Data = append(page.Data, e.answer())
	}
	if end < len(list) {
		page.Next = new(objectID(list[end-1].number))
	}
	if 0 < start && start < end {
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
	switch {
	case s.known(in.SubscriberID):
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

// isContextID reports whether id has 1 to 100 letters, digits, - and _.
func isContextID(id string) bool {
	return id != "" && len(id) <= 100 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

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
		if json.Unmarshal(value, &in.ID) != nil && json.Unmarshal(value, &in) != nil || !isContextID(in.ID) {
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
