package novutest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/upstream/upstreamtest"
)

func newNovu(g novutest.Generation) *novutest.Server {
	novu := novutest.New(&upstreamtest.Recorder{})
	novu.Generation = g
	novu.SetIntegrations(
		novutest.Integration{Identifier: "slack-eu", Provider: "slack", Active: true},
		novutest.Integration{Identifier: "slack-us", Provider: "slack", Active: true},
		novutest.Integration{Identifier: "slack-off", Provider: "slack"},
		novutest.Integration{Identifier: "discord", Provider: "discord", Active: true},
		novutest.Integration{Identifier: "theirs", Provider: "slack", Active: true, Environment: "env-other"},
	)
	return novu
}

// call makes a request, "PUT /v1/…", and returns "status body".
func call(novu *novutest.Server, request, body string) string {
	method, target, _ := strings.Cut(request, " ")
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "ApiKey "+novu.APIKey)
	answer := httptest.NewRecorder()
	novu.ServeHTTP(answer, r)
	return fmt.Sprint(answer.Code, " ", answer.Body)
}

func put(integration, credentials string) string {
	return `{"providerId":"slack","integrationIdentifier":"` + integration + `","credentials":` + credentials + `}`
}

func endpoint(identifier, subscriber, integration, more string) string {
	return `{"identifier":"` + identifier + `","subscriberId":"` + subscriber + `","integrationIdentifier":"` + integration + `","type":"webhook","endpoint":{"url":"u"}` + more + `}`
}

// Each request is made of a Novu with the subscriber ada, and of every generation where
// wants has five entries.
func TestAnswers(t *testing.T) {
	t.Parallel()
	same := func(want string) []string { return slices.Repeat([]string{want}, 5) }
	const credentials, endpoints, off = "PUT /v1/subscribers/ada/credentials", "POST /v1/channel-endpoints", `404 "message":"Feature not enabled"`
	const invalid = `422 "message":"Validation Error"`
	without := func(method string) string { return `404 "message":"Cannot ` + method + ` /v1/channel-endpoints` }
	for _, c := range []struct {
		name, request, body string
		wants               []string // status and a part of the answer, by generation
	}{
		{"unknown route", "PUT /v1/a%20b/c?d", "", same(`404 "message":"Cannot PUT /v1/a%20b/c?d"`)},
		{"environment", "GET /v1/environments/me", "", same(`200 {"data":{"_id":"env-demo"`)},
		{"subscriber", "GET /v1/subscribers/ada", "", same(`200 "channels":[]`)},
		{"unknown subscriber", "GET /v1/subscribers/bob", "", append([]string{`404 "message":"Subscriber not found for id bob"`}, same(`404 "message":"Subscriber 'bob' was not found"`)[1:]...)},
		{"create", "POST /v1/subscribers", `{"subscriberId":"bob"}`, same(`201 "subscriberId":"bob"`)},
		{"create again", "POST /v1/subscribers", `{"subscriberId":"ada"}`, same(`201 "subscriberId":"ada"`)},
		{"create trims", "POST /v1/subscribers", `{"subscriberId":"\u00a0\ufeff\u2028 a b\t"}`, same(`201 "subscriberId":"a b"`)},
		{"create nothing", "POST /v1/subscribers", `{"subscriberId":"\ufeff"}`, append([]string{`400 "message":["subscriberId`}, same(invalid)[1:]...)},

		{"save", credentials, put("slack-eu", `{"webhookUrl":"https://x"}`), same(`200 "credentials":{"webhookUrl":"https://x"}`)},
		{"save without a form", credentials, `{"providerId":"slack"}`, append([]string{`400 "message":["credentials`}, same(invalid)[1:]...)},
		{"save for Slack in upper case", credentials, `{"providerId":"Slack","credentials":{}}`, append([]string{`400 do not have active Slack integration.`}, same(invalid)[1:]...)},
		{"save for an unknown subscriber and integration", "PUT /v1/subscribers/a%23b/credentials", put("x", `{}`), same(`400 "message":"SubscriberId: a#b not found"`)},
		{"save for a white space", "PUT /v1/subscribers/ada%20/credentials", put("slack-eu", `{}`), same(`400 "message":"SubscriberId: ada  not found"`)},
		{"save in an inactive integration", credentials, put("slack-off", `{}`), same(`400 "message":"Subscribers environment (env-demo) do not have active slack integration."`)},
		{"save in another environment's", credentials, put("theirs", `{}`), same(`400 do not have active slack integration.`)},
		{"save in another provider's", credentials, put("discord", `{}`), same(`400 do not have active slack integration.`)},
		{"disconnect", "DELETE /v1/subscribers/ada/credentials/slack?integrationIdentifier=x", "", same(`204 `)},
		{"disconnect an unknown subscriber", "DELETE /v1/subscribers/bob/credentials/slack", "", same(`404 "message":"Subscriber not found for id bob"`)},

		{"list", "GET /v1/channel-endpoints?subscriberId=ada", "", []string{without("GET") + `?subscriberId=ada"`, off, `200 {"data":[],"next":null`, `200 {"data":[]`, `200 {"data":[]`}},
		{"list by provider", "GET /v1/channel-endpoints?providerId=slack", "", []string{without("GET"), invalid, invalid, invalid, `200 {"data":[]`}},
		{"add", endpoints, endpoint("e", "ada", "slack-eu", ""), []string{without("POST"), off, `201 {"data":{`, `201 "identifier":"e"`, `201 "contextKeys":[]`}},
		{"add to an inactive integration", endpoints, endpoint("", "ada", "slack-off", ""), []string{without("POST"), off, `201 "identifier":"chendp_`, `201 `, `201 `}},
		{"add without integration", endpoints, endpoint("e", "bob", "", ""), []string{without("POST"), off, invalid, invalid, invalid}},
		{"add to an unknown integration and subscriber", endpoints, endpoint("e", "bob", "x", ""), []string{without("POST"), off, `404 "message":"Integration not found: x"`, `404 "message":"Integration not found: x"`, `404 "message":"Integration not found: x"`}},
		{"add to an unknown subscriber", endpoints, endpoint("e", "bob", "slack-eu", ""), []string{without("POST"), off, `404 "message":"Subscriber not found: bob"`, `404 "message":"Subscriber not found: bob"`, `404 "message":"Subscriber not found: bob. Pass createSubscriberIfMissing`}},
		{"add and create the subscriber", endpoints, endpoint("e", "bob", "slack-eu", `,"createSubscriberIfMissing":true`), []string{without("POST"), off, `404 not found: bob"`, `404 not found: bob"`, `201 "subscriberId":"bob"`}},
		{"update an unknown one", "PATCH /v1/channel-endpoints/e", `{"endpoint":{"url":"u"}}`, []string{without("PATCH") + `/e"`, off, `404 "message":"Channel endpoint with identifier \"e\" not found`, `404 `, `404 `}},
		{"update without a form", "PATCH /v1/channel-endpoints/e", `{}`, []string{without("PATCH"), invalid, invalid, invalid, invalid}},
		{"delete an unknown one", "DELETE /v1/channel-endpoints/e", "", []string{without("DELETE"), off, `404 "message":"Channel endpoint with identifier 'e' not found"`, `404 `, `404 `}},
	} {
		for i, g := range novutest.Generations {
			t.Run(c.name+"/"+g.String(), func(t *testing.T) {
				novu := newNovu(g)
				novu.AddSubscriber("ada")
				status, part, _ := strings.Cut(c.wants[i], " ")
				got := call(novu, c.request, c.body)
				if !strings.HasPrefix(got, status+" ") || !strings.Contains(got, part) || status >= "400" && !strings.Contains(got, `"statusCode":`+status) || status < "400" && status != "204" && !strings.HasPrefix(got, status+` {"data":`) {
					t.Errorf("%s: got %s, want %s", c.request, got, c.wants[i])
				}
			})
		}
	}
	novu := newNovu(novutest.V3_19)
	key := novu.APIKey
	novu.SetAPIKey("other")
	r := httptest.NewRequest(http.MethodGet, "/v1/subscribers/ada", nil)
	r.Header.Set("Authorization", "ApiKey "+key)
	answer := httptest.NewRecorder()
	if novu.ServeHTTP(answer, r); answer.Code != http.StatusUnauthorized {
		t.Errorf("another key: got %d", answer.Code)
	}
}

func eachGeneration(t *testing.T, since novutest.Generation, test func(*testing.T, *novutest.Server)) {
	t.Parallel()
	for _, g := range novutest.Generations {
		if g >= since {
			t.Run(g.String(), func(t *testing.T) {
				novu := newNovu(g)
				novu.AddSubscriber("ada")
				test(t, novu)
			})
		}
	}
}

// wantChannels checks ada's channels, "integration=webhook …".
func wantChannels(t *testing.T, novu *novutest.Server, step, want string) {
	t.Helper()
	var got []string
	channels, _ := novu.Channels("ada")
	for _, c := range channels {
		got = append(got, c.Integration+"="+c.WebhookURL)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("%s: got channels %q, want %q", step, got, want)
	}
}

func TestCredentialsAreMerged(t *testing.T) {
	eachGeneration(t, novutest.V2_0, func(t *testing.T, novu *novutest.Server) {
		for _, c := range []struct{ name, body, want string }{
			{"without a name the newest active integration is chosen", put("", `{"webhookUrl":"a"}`), "slack-us=a"},
			{"a name adds a second channel", put("slack-eu", `{"webhookUrl":"b"}`), "slack-us=a slack-eu=b"},
			{"null keeps the webhook", put("slack-eu", `{"webhookUrl":null}`), "slack-us=a slack-eu=b"},
			{"nothing keeps the webhook", put("slack-eu", `{}`), "slack-us=a slack-eu=b"},
			{"the empty webhook keeps the channel", put("slack-us", `{"webhookUrl":""}`), "slack-us= slack-eu=b"},
		} {
			if got := call(novu, "PUT /v1/subscribers/ada/credentials", c.body); !strings.HasPrefix(got, "200 ") {
				t.Fatalf("%s: got %s", c.name, got)
			}
			wantChannels(t, novu, c.name, c.want)
		}
		if got := novu.Messages("ada"); !slices.Equal(got, []string{"b"}) {
			t.Errorf("got messages to %q, want b", got)
		}
		call(novu, "DELETE /v1/subscribers/ada/credentials/slack", "")
		wantChannels(t, novu, "DELETE removes every channel", "")
		call(novu, "PUT /v1/subscribers/ada/credentials", put("slack-eu", `{"webhookUrl":""}`))
		wantChannels(t, novu, "blanking adds an empty channel", "slack-eu=")
		if got, want := novu.History("ada"), []string{"a", "b", "b", "b", "", "", ""}; !slices.Equal(got, want) {
			t.Errorf("got the history %q, want %q", got, want)
		}
	})
}

// The fake has the real one's fault: overlapping first updates leave two channels. Later
// ones touch the first alone; DELETE takes both.
func TestOverlappingUpdatesLeaveTwoChannels(t *testing.T) {
	eachGeneration(t, novutest.V2_0, func(t *testing.T, novu *novutest.Server) {
		novu.Work = 100 * time.Millisecond
		save := func(webhook string) string {
			return call(novu, "PUT /v1/subscribers/ada/credentials", put("slack-eu", `{"webhookUrl":"`+webhook+`"}`))
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { save("a") })
		}
		wg.Wait()
		wantChannels(t, novu, "two at once", "slack-eu=a slack-eu=a")
		if got := novu.Overlaps(); got != 1 {
			t.Errorf("got %d overlaps, want 1", got)
		}
		novu.Work = 0
		if got := save(""); strings.Count(got, `"_integrationId"`) != 2 || !strings.Contains(got, `"webhookUrl":"a"`) {
			t.Errorf("got %s, want both channels", got)
		}
		wantChannels(t, novu, "blanked", "slack-eu= slack-eu=a")
		save("b")
		wantChannels(t, novu, "replaced", "slack-eu=b slack-eu=a")
		if got := novu.Messages("ada"); !slices.Equal(got, []string{"b", "a"}) {
			t.Errorf("got messages to %q, want both", got)
		}
		call(novu, "DELETE /v1/subscribers/ada/credentials/slack", "")
		save("c")
		wantChannels(t, novu, "healed", "slack-eu=c")
	})
}

func TestEndpointsDeliverForExactlyTheirContext(t *testing.T) {
	eachGeneration(t, novutest.V3_15Flag, func(t *testing.T, novu *novutest.Server) {
		add := func(identifier, context string) string {
			return call(novu, "POST /v1/channel-endpoints", endpoint(identifier, "ada", "slack-eu", `,"context":`+context))
		}
		update := func(identifier, webhook string) {
			call(novu, "PATCH /v1/channel-endpoints/"+identifier, `{"endpoint":{"url":"`+webhook+`"}}`)
		}
		wantMessages := func(context, want string) {
			t.Helper()
			if got := strings.Join(novu.Messages("ada", context), " "); got != want {
				t.Errorf("context %s: got messages to %q, want %q", context, got, want)
			}
		}
		add("plain", "null")
		add("acme", `{"tenant":{"id":"acme","data":{"plan":1}}}`)
		if got := add("both", `{"b":"1","A":{"id":"1"},"a":"2"}`); !strings.Contains(got, `"contextKeys":["A:1","a:2","b:1"]`) {
			t.Errorf("got %s", got)
		}
		for _, identifier := range []string{"plain", "acme", "both"} {
			update(identifier, identifier)
		}
		call(novu, "PUT /v1/subscribers/ada/credentials", put("slack-eu", `{"webhookUrl":"credentials"}`))
		wantMessages("", "credentials plain")
		wantMessages(`{"tenant":"acme"}`, "credentials acme")
		wantMessages(`{"tenant":"acme","a":"1"}`, "credentials")
		wantMessages(`{"a":"2","b":"1","A":"1"}`, "credentials both")
		if got := add("acme", "null"); !strings.HasPrefix(got, "409 ") {
			t.Errorf("the same identifier again: got %s", got)
		}
		if got := call(novu, "DELETE /v1/channel-endpoints/acme", ""); got != "204 " {
			t.Errorf("got %s", got)
		}
		if got := add("acme", `{"tenant":"acme"}`); !strings.HasPrefix(got, "201 ") {
			t.Errorf("after DELETE: got %s", got)
		}
		wantMessages(`{"tenant":{"id":"acme"}}`, "credentials u")
		update("plain", "")
		wantMessages("", "")
		novu.SetIntegrations(novutest.Integration{Identifier: "slack-eu", Provider: "slack"})
		wantMessages(`{"tenant":"acme"}`, "")

		long := strings.Repeat("x", 100)
		for context, want := range map[string]string{
			`{"a":"` + long + `","b":"1","c":"1","d":"1","e":"1"}`:                  "404", // the integration's
			`{"a":{"id":"1","data":{"x":"` + strings.Repeat("x", 64<<10-8) + `"}}}`: "404",
			`{"a":{"id":"1","data":{"x":"` + strings.Repeat("x", 64<<10-7) + `"}}}`: "422",
			`{}`: "422", `[]`: "422", `"a"`: "422", `{"a":1}`: "422", `{"a":""}`: "422", `{"a":null}`: "422", `{"a":"é"}`: "422", `{"a":"` + long + `x"}`: "422",
			`{"a":{}}`: "422", `{"a":{"id":1}}`: "422", `{"a":{"id":"1","data":"x"}}`: "422", `{"a":{"id":"1","data":null}}`: "422",
			`{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1"}`: "422",
		} {
			if got := call(novu, "POST /v1/channel-endpoints", endpoint("e", "ada", "x", `,"context":`+context)); !strings.HasPrefix(got, want) {
				t.Errorf("context %.60s: got %s, want %s", context, got, want)
			}
		}
	})
}

func TestEndpointsComeTenAPage(t *testing.T) {
	eachGeneration(t, novutest.V3_15Flag, func(t *testing.T, novu *novutest.Server) {
		for i := range 24 {
			call(novu, "POST /v1/channel-endpoints", endpoint(fmt.Sprint("e", i), "ada", []string{"slack-eu", "slack-us"}[i%2], ""))
		}
		type page struct {
			Data []struct {
				Identifier, IntegrationIdentifier, SubscriberID, ProviderID, Type string
				Endpoint                                                          struct{ URL string }
			}
			Next, Previous string
			TotalCount     int
		}
		get := func(query string) (p page) {
			t.Helper()
			got := call(novu, "GET /v1/channel-endpoints?subscriberId=ada"+query, "")
			if err := json.Unmarshal([]byte(strings.TrimPrefix(got, "200 ")), &p); err != nil {
				t.Fatalf("%s: got %s", query, got)
			}
			return p
		}
		first := get("&integrationIdentifier=slack-eu")
		if e := first.Data[0]; len(first.Data) != 10 || first.TotalCount != 12 || first.Previous != "" || e.Identifier != "e22" || e.SubscriberID != "ada" || e.ProviderID != "slack" || e.Type != "webhook" || e.Endpoint.URL != "u" {
			t.Errorf("got %+v, want ten of slack-eu, the newest first", first)
		}
		second := get("&integrationIdentifier=slack-eu&after=" + first.Next)
		if len(second.Data) != 2 || second.Data[1].Identifier != "e0" || second.Next != "" || second.Previous == "" {
			t.Errorf("got %+v, want the other two", second)
		}
		if all := get("&limit=100"); len(all.Data) != 24 {
			t.Errorf("got %d, want all", len(all.Data))
		}
		call(novu, "DELETE /v1/channel-endpoints/"+first.Data[9].Identifier, "")
		if gone := get("&after=" + first.Next); len(gone.Data) != 0 || gone.Next != "" {
			t.Errorf("after a deleted endpoint: got %+v, want nothing", gone)
		}
	})
}

func TestShareableURL(t *testing.T) {
	eachGeneration(t, novutest.V2_0, func(t *testing.T, novu *novutest.Server) {
		novu.ShareableURL("bob", "slack-eu", "a")
		novu.ShareableURL("bob", "slack-eu", "b")
		channels, _ := novu.Channels("bob")
		got, want := fmt.Sprint(len(channels), len(novu.Endpoints()), novu.Messages("bob")), "0 2 [a b]"
		if novu.Generation == novutest.V2_0 || novu.Generation == novutest.V3_15 {
			want = "1 0 [b]"
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// 2.0 tells about other environments; every generation has a canary.
func TestIntegrations(t *testing.T) {
	eachGeneration(t, novutest.V2_0, func(t *testing.T, novu *novutest.Server) {
		got := call(novu, "GET /v1/integrations/active", "")
		if strings.Contains(got, "theirs") != (novu.Generation == novutest.V2_0) || strings.Contains(got, "slack-off") || !strings.Contains(got, novutest.Secret) {
			t.Errorf("got %s", got)
		}
		got = call(novu, "GET /v1/integrations", "")
		if strings.Contains(got, "theirs") != (novu.Generation == novutest.V2_0) || strings.Count(got, `"active":false`) != 1 || !strings.Contains(got, "slack-off") {
			t.Errorf("all: got %s", got)
		}
	})
}

// What a client forgets to escape is another route that answers 200: it saves nothing, or
// deletes the subscriber.
func TestUnescapedIDSavesNothing(t *testing.T) {
	t.Parallel()
	novu := newNovu(novutest.V3_19)
	novu.AddSubscriber("a")
	server := httptest.NewServer(novu)
	defer server.Close()
	for _, c := range []struct {
		method string
		known  bool
	}{{http.MethodPut, true}, {http.MethodDelete, false}} {
		req, _ := http.NewRequest(c.method, server.URL+"/v1/subscribers/a#b/credentials", nil)
		req.Header.Set("Authorization", "ApiKey "+novu.APIKey)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if channels, known := novu.Channels("a"); res.StatusCode != 200 || len(channels) != 0 || known != c.known {
			t.Errorf("%s: got %d, %v, %v, want 200, no channel, %v", c.method, res.StatusCode, channels, known, c.known)
		}
	}
}
