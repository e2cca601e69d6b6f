package novuclient_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
)

func TestDisconnectOnTheWire(t *testing.T) {
	const auth = ` ApiKey key1 application/json `
	look, subscriber := `GET /v1/channel-endpoints?integrationIdentifier=slack-eu&subscriberId=a%2Fb`+auth, `GET /v1/subscribers/a%2Fb`+auth
	put := `PUT /v1/subscribers/a%2Fb/credentials` + auth + `{"providerId":"slack","integrationIdentifier":"slack-eu","credentials":{"webhookUrl":""}}`
	remove := `DELETE /v1/subscribers/a%2Fb/credentials/slack` + auth
	drop := func(id string) string { return `DELETE /v1/channel-endpoints/` + id + auth }
	endpoint := func(id, context, kind string) string {
		return `{"identifier":"` + id + `","type":"` + kind + `","providerId":"slack","integrationIdentifier":"slack-eu","contextKeys":[` + context + `],"endpoint":{"url":"canary"}}`
	}
	page := func(endpoints ...string) string {
		return `200 {"data":[` + strings.Join(endpoints, ",") + `],"next":null}`
	}
	const unknown, acme, off = `404 {"message":"Subscriber 'a/b' was not found"}`, `"tenant:acme"`, `404 {"message":"Feature not enabled"}`
	const gone = `404 {"message":"Channel endpoint with identifier 'x' not found"}`
	both := []bool{false, true}
	for name, c := range map[string]struct {
		endpoints []bool // the modes
		answers   []string
		asked     []string
		reason    novuclient.Reason
		others    int
	}{
		"one channel":                         {both, []string{page(), channels("1 x"), channels("1 "), "204 "}, []string{look, subscriber, put, remove}, "", 0},
		"duplicates":                          {both, []string{page(), channels("1 x", "1 y"), channels("1 ", "1 y"), "204 "}, []string{look, subscriber, put, remove}, "", 0},
		"beside another's":                    {both, []string{page(), channels("2 y", "1 x"), channels("2 y", "1 ")}, []string{look, subscriber, put}, "", 0},
		"beside another's without a URL":      {both, []string{page(), channels("2 ", "1 x"), channels("2 ", "1 ")}, []string{look, subscriber, put}, "", 0},
		"duplicates beside another's":         {both, []string{page(), channels("1 x", "1 y", "2 z", "1 y"), channels("1 ", "1 y", "2 z", "1 y")}, []string{look, subscriber, put}, "", 2},
		"never connected, beside another's":   {both, []string{page(), channels("2 y")}, []string{look, subscriber}, "", 0},
		"never connected":                     {both, []string{page(), channels(), channels("1 "), "204 "}, []string{look, subscriber, put, remove}, "", 0},
		"the look-up is old, and ours is new": {both, []string{page(), channels(), channels("2 y", "1 ", "1 x")}, []string{look, subscriber, put}, "", 1},
		"the look-up is old, another is new":  {both, []string{page(), channels("1 x"), channels("1 ", "2 y")}, []string{look, subscriber, put}, "", 0},
		"the look-up is old, ours was empty":  {both, []string{page(), channels("1 ", "2 y"), channels("1 ", "1 x", "2 y")}, []string{look, subscriber, put}, "", 1},
		"an answer without channels":          {both, []string{page(), channels("1 x"), "204 "}, []string{look, subscriber, put}, "", 0},
		"unknown to the look-up":              {both, []string{page(), unknown}, []string{look, subscriber}, "", 0},
		"unknown to the list of endpoints":    {both, []string{`404 {"message":"Subscriber not found: a/b"}`}, []string{look}, "", 0},
		"unknown to the update":               {both, []string{page(), channels("1 x"), `400 {"message":"SubscriberId: a/b not found"}`}, []string{look, subscriber, put}, "", 0},
		"unknown to the deletion":             {both, []string{page(), channels("1 x"), channels("1 "), `404 {"message":"Subscriber not found for id a/b"}`}, []string{look, subscriber, put, remove}, "", 0},
		"deactivated a moment ago":            {both, []string{page(), channels("1 x"), `400 {"message":"Subscribers environment (1) do not have active slack integration."}`}, []string{look, subscriber, put}, novuclient.NoIntegration, 0},
		"no endpoints":                        {both, []string{off, channels("1 x"), channels("1 "), "204 "}, []string{look, subscriber, put, remove}, "", 0},
		"no route for endpoints":              {both, []string{`404 {"message":"Cannot GET /v1/channel-endpoints"}`, channels("2 y")}, []string{look, subscriber}, "", 0},
		"a wrong key":                         {both, []string{`401 {"message":"API Key not found"}`}, []string{look}, novuclient.BadKey, 0},
		"an endpoint":                         {both, []string{page(endpoint("x/y", acme, "webhook")), "204 ", channels("2 y")}, []string{look, drop("x%2Fy"), subscriber}, "", 0},
		"an endpoint that is gone":            {both, []string{page(endpoint("x", acme, "webhook"), endpoint("y", acme, "webhook")), gone, "204 ", channels("2 y")}, []string{look, drop("x"), drop("y"), subscriber}, "", 0},
		"an endpoint of another type":         {both, []string{page(endpoint("x", acme, "slack_channel"), endpoint("y", acme, "webhook")), "204 ", channels("2 y", "1 x"), channels("2 y", "1 ", "1 z")}, []string{look, drop("y"), subscriber, put}, "", 2},
		"an endpoint, and a wrong route":      {both, []string{page(endpoint("x", acme, "webhook")), `404 {"message":"Cannot DELETE /v1/channel-endpoints/x"}`}, []string{look, drop("x")}, novuclient.BadURL, 0},
		"endpoints on two pages": {both, []string{`200 {"data":[` + endpoint("x", acme, "webhook") + `],"next":"n"}`, page(endpoint("y", acme, "webhook")), "204 ", "204 ", channels("2 y")},
			[]string{look, strings.Replace(look, "?", "?after=n&", 1), drop("x"), drop("y"), subscriber}, "", 0},
		"endpoints of other contexts": {[]bool{true}, []string{page(endpoint("x", "", "webhook"), endpoint("y", acme+`,"a:b"`, "slack_user"), endpoint("z", acme, "webhook")), "204 ", channels("2 y")},
			[]string{look, drop("z"), subscriber}, "", 0},
		"endpoints of every context": {[]bool{false}, []string{page(endpoint("x", "", "webhook"), endpoint("y", acme+`,"a:b"`, "slack_user"), endpoint("z", acme, "webhook")), "204 ", "204 ", channels("2 y")},
			[]string{look, drop("x"), drop("z"), subscriber}, "", 1},
	} {
		for _, endpoints := range c.endpoints {
			t.Run(fmt.Sprintf("%s, endpoints: %t", name, endpoints), func(t *testing.T) {
				r := &recorder{answers: slices.Clone(c.answers), lookUps: true}
				s := httptest.NewServer(r)
				t.Cleanup(s.Close)
				u, _ := url.Parse(s.URL)
				conn := connection("a/b")
				conn.Context, _ = novuclient.ParseContext(`{"tenant":"acme"}`)
				others, err := novuclient.New(novuclient.Config{APIKey: secret.New("key1"), URL: u, CreateSubscriber: true, SaveEndpoints: endpoints}).Disconnect(t.Context(), conn)
				if novuclient.AsError(err).Reason != c.reason || (err == nil) != (c.reason == "") || err == nil && others != c.others {
					t.Errorf("got %d others, %v, want %d, reason %q", others, err, c.others, c.reason)
				}
				if got := strings.Join(r.asked, "\n"); got != strings.Join(c.asked, "\n") {
					t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.asked, "\n"))
				}
			})
		}
	}
}

// Until Novu says which integration is meant, nothing changes.
func TestDisconnectNeedsTheIntegration(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		asked   string
		reason  novuclient.Reason
	}{
		"no list":           {[]string{"503 {}"}, "channel-endpoints integrations/active", novuclient.Unavailable},
		"no environment":    {[]string{"200 " + integrations, "503 {}"}, "channel-endpoints integrations/active environments/me", novuclient.Unavailable},
		"no list of all":    {[]string{"200 []", "503 {}"}, "channel-endpoints integrations/active integrations", novuclient.Unavailable},
		"one list alone":    {[]string{"200 []", `404 {"message":"Cannot GET /v1/integrations"}`}, "channel-endpoints integrations/active integrations", ""},
		"no such URL":       {[]string{`404 {"message":"Cannot GET /v1/integrations/active"}`}, "channel-endpoints integrations/active", novuclient.BadURL},
		"in no list":        {[]string{"200 []", "200 []"}, "channel-endpoints integrations/active integrations", ""},
		"a page":            {[]string{"200 <html>"}, "channel-endpoints integrations/active", novuclient.NotNovu},
		"not a Slack one":   {[]string{"200 []", strings.ReplaceAll("200 "+list("1 slack-eu"), "slack\",", "discord\","), "200 {}"}, "channel-endpoints integrations/active integrations", ""},
		"another's by name": {[]string{"200 []", "200 " + list("1 slack-eu"), `200 {"data":{"_id":"env2"}}`}, "channel-endpoints integrations/active integrations environments/me", ""},
	} {
		r := &recorder{answers: append([]string{`200 {"data":[],"next":null}`}, c.answers...)}
		_, err := newClient(t, r, "", true).Disconnect(t.Context(), connection("ada"))
		var asked []string
		for _, a := range r.asked {
			path, _, _ := strings.Cut(strings.TrimPrefix(strings.Fields(a)[1], "/v1/"), "?")
			asked = append(asked, path)
		}
		if novuclient.AsError(err).Reason != c.reason || (err == nil) != (c.reason == "") || novuclient.AsError(err).MaybeAtWork() || strings.Join(asked, " ") != c.asked {
			t.Errorf("%s: got %v by %q, want reason %q by %q", name, err, asked, c.reason, c.asked)
		}
	}
}

// savers are clients of one Novu that save in either place.
type savers struct {
	t    *testing.T
	novu *novutest.Server
	in   map[bool]*novuclient.Client // by SaveEndpoints
}

func newSavers(t *testing.T, g novutest.Generation) savers {
	novu, credentials := serveNovu(t, g, false)
	s := httptest.NewServer(novu)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	setActive(novu, true)
	return savers{t, novu, map[bool]*novuclient.Client{false: credentials, true: novuclient.New(novuclient.Config{APIKey: secret.New(novu.APIKey), URL: u, CreateSubscriber: true, SaveEndpoints: true})}}
}

// setActive makes slack-main active or not. There is another Slack integration.
func setActive(novu *novutest.Server, active bool) {
	novu.SetIntegrations(novutest.Integration{Identifier: "slack-main", Provider: "slack", Active: active}, novutest.Integration{Identifier: "slack-other", Provider: "slack", Active: true})
}

func ada(integration string, n int) novuclient.Connection {
	return novuclient.Connection{SubscriberID: "ada/1", Integration: integration, WebhookURL: secret.New(hook(n))}
}

func (s savers) save(endpoints bool, conn novuclient.Connection) {
	s.t.Helper()
	if _, err := s.in[endpoints].Save(s.t.Context(), conn); err != nil {
		s.t.Fatal(err)
	}
}

// saveTwiceAtOnce leaves two channels among the credentials.
func (s savers) saveTwiceAtOnce() {
	s.t.Helper()
	s.novu.AddSubscriber("ada/1")
	s.novu.Work = time.Second
	synctest.Test(s.t, func(t *testing.T) {
		var group sync.WaitGroup
		for n := 1; n <= 2; n++ {
			group.Go(func() {
				r := httptest.NewRequest(http.MethodPut, "/v1/subscribers/ada%2F1/credentials", strings.NewReader(`{"providerId":"slack","integrationIdentifier":"slack-main","credentials":{"webhookUrl":"`+hook(1)+`"}}`))
				r.Header.Set("Authorization", "ApiKey "+s.novu.APIKey)
				s.novu.ServeHTTP(httptest.NewRecorder(), r)
			})
		}
		group.Wait()
	})
	s.novu.Work = 0
	if all, _ := s.novu.Channels("ada/1"); len(all) < 2 {
		s.t.Fatalf("got %d channels, want two", len(all))
	}
}

// Whatever a subscriber has had, no message arrives for the integration after a
// Disconnect, and those for another integration do. Connecting again leads to one message.
func TestDisconnectInEveryGeneration(t *testing.T) {
	tenant, err := novuclient.ParseContext(`{"tenant":"acme"}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		before   func(s savers, endpoints bool)
		stay     []string // the messages after it
		others   int
		channels string // and the credentials, as integration=webhook
		tenant   bool   // a tenant's endpoint stays if Save writes endpoints
		bob      bool   // another person's channel stays
	}{
		"connected": {before: func(s savers, endpoints bool) { s.save(endpoints, ada("slack-main", 1)) }},
		"changed": {before: func(s savers, endpoints bool) {
			s.save(endpoints, ada("slack-main", 1))
			s.save(endpoints, ada("slack-main", 2))
		}},
		"duplicates":                {before: func(s savers, _ bool) { s.saveTwiceAtOnce() }},
		"duplicates, and connected": {before: func(s savers, endpoints bool) { s.saveTwiceAtOnce(); s.save(endpoints, ada("slack-main", 2)) }},
		"Shareable URL":             {before: func(s savers, _ bool) { s.novu.ShareableURL("ada/1", "slack-main", hook(1)) }},
		"Shareable URL twice": {before: func(s savers, _ bool) {
			s.novu.ShareableURL("ada/1", "slack-main", hook(1))
			s.novu.ShareableURL("ada/1", "slack-main", hook(2))
		}},
		"Shareable URL often": {before: func(s savers, _ bool) {
			for n := range 25 {
				s.novu.ShareableURL("ada/1", "slack-main", hook(n))
			}
		}},
		"Shareable URL, and connected": {before: func(s savers, endpoints bool) {
			s.novu.ShareableURL("ada/1", "slack-main", hook(1))
			s.save(endpoints, ada("slack-main", 2))
		}},
		"connected, and Shareable URL": {before: func(s savers, endpoints bool) {
			s.save(endpoints, ada("slack-main", 2))
			s.novu.ShareableURL("ada/1", "slack-main", hook(1))
		}},
		"the other mode": {before: func(s savers, endpoints bool) {
			s.save(s.novu.Generation >= novutest.V3_15Flag && !endpoints, ada("slack-main", 1))
		}},
		"both modes": {before: func(s savers, endpoints bool) {
			s.save(false, ada("slack-main", 1))
			s.save(endpoints, ada("slack-main", 2))
		}},
		"never connected": {before: func(s savers, _ bool) { s.novu.AddSubscriber("ada/1") }},
		"unknown":         {before: func(savers, bool) {}},
		"deleted": {before: func(s savers, endpoints bool) {
			s.save(endpoints, ada("slack-main", 1))
			s.novu.DeleteSubscriber("ada/1")
		}},
		"connected, and another": {before: func(s savers, endpoints bool) {
			s.save(false, ada("slack-other", 9))
			s.save(endpoints, ada("slack-main", 1))
		}, stay: []string{hook(9)}},
		"another by the Shareable URL": {before: func(s savers, endpoints bool) {
			s.novu.ShareableURL("ada/1", "slack-other", hook(9))
			s.save(endpoints, ada("slack-main", 1))
		}, stay: []string{hook(9)}},
		"duplicates, and another":       {before: func(s savers, _ bool) { s.save(false, ada("slack-other", 9)); s.saveTwiceAtOnce() }, stay: []string{hook(9), hook(1)}, others: 1},
		"never connected, only another": {before: func(s savers, _ bool) { s.save(false, ada("slack-other", 9)) }, stay: []string{hook(9)}, channels: "slack-other=" + hook(9)},
		"another person": {before: func(s savers, endpoints bool) {
			s.save(endpoints, ada("slack-main", 1))
			bob := ada("slack-main", 5)
			bob.SubscriberID = "bob"
			s.save(endpoints, bob)
		}, bob: true},
		"another context's endpoint": {before: func(s savers, endpoints bool) {
			s.save(endpoints, ada("slack-main", 1))
			if conn := ada("slack-main", 3); s.novu.Generation >= novutest.V3_15Flag {
				conn.Context = tenant
				s.save(true, conn)
			}
		}, tenant: true},
	} {
		for _, g := range novutest.Generations {
			for _, endpoints := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, endpoints: %t", name, g, endpoints), func(t *testing.T) {
					s := newSavers(t, g)
					saving := endpoints && g >= novutest.V3_15Flag
					c.before(s, saving)
					known := s.novu.Subscribers()
					for n := range 2 { // it is idempotent
						others, err := s.in[endpoints].Disconnect(t.Context(), ada("slack-main", 7))
						got := s.novu.Messages("ada/1")
						slices.Sort(got)
						want := slices.Sorted(slices.Values(c.stay))
						if err != nil || others != c.others || !slices.Equal(got, want) {
							t.Errorf("disconnect %d: got %v, %d others, %v, want %v, %d", n, got, others, err, want, c.others)
						}
						channels, _ := s.novu.Channels("ada/1")
						if len(c.stay) == 0 && len(channels) > 0 {
							t.Errorf("disconnect %d: got %v, want no channel", n, channels)
						}
						if c.channels != "" && (len(channels) != 1 || c.channels != channels[0].Integration+"="+channels[0].WebhookURL) {
							t.Errorf("disconnect %d: got %v, want %s alone", n, channels, c.channels)
						}
					}
					if got := s.novu.Subscribers(); !slices.Equal(got, known) {
						t.Errorf("got the subscribers %q, want %q", got, known)
					}
					if got := s.novu.Messages("ada/1", tenant.JSON); c.tenant && (len(got) > 0) != saving {
						t.Errorf("got %v for another context, want some: %t", got, saving)
					}
					if got := s.novu.Messages("bob"); c.bob && !slices.Equal(got, []string{hook(5)}) {
						t.Errorf("got %v for another person", got)
					}
					if c.others > 0 {
						return // a Save reports them, too
					}
					s.save(saving, ada("slack-main", 8))
					want := slices.Sorted(slices.Values(append([]string{hook(8)}, c.stay...)))
					if got := slices.Sorted(slices.Values(s.novu.Messages("ada/1"))); !slices.Equal(got, want) {
						t.Errorf("connected again: got %v, want %v", got, want)
					}
				})
			}
		}
	}
}

// Novu refuses updates for an inactive integration. What it would send once it is active
// again is ended nevertheless, or the error says that it is not.
func TestDisconnectFromAnInactiveIntegration(t *testing.T) {
	for _, g := range novutest.Generations {
		for _, endpoints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, endpoints: %t", g, endpoints), func(t *testing.T) {
				s := newSavers(t, g)
				disconnect := func(step string, reason novuclient.Reason) {
					t.Helper()
					others, err := s.in[endpoints].Disconnect(t.Context(), ada("slack-main", 1))
					if novuclient.AsError(err).Reason != reason || (err == nil) != (reason == "") || others != 0 {
						t.Errorf("%s: got %d others, %v, want reason %q", step, others, err, reason)
					}
				}
				check := func(step string, want ...string) {
					t.Helper()
					if got := s.novu.Messages("ada/1"); !slices.Equal(got, want) {
						t.Errorf("%s: got %v, want %v", step, got, want)
					}
				}
				connect := func() {
					s.save(false, ada("slack-main", 1))
					if g >= novutest.V3_15Flag {
						s.save(true, ada("slack-main", 2))
					}
				}
				connect()
				setActive(s.novu, false)
				disconnect("inactive", "")
				disconnect("inactive, again", "")
				setActive(s.novu, true)
				check("active again")

				connect()
				s.save(false, ada("slack-other", 9))
				setActive(s.novu, false)
				disconnect("inactive, and another", novuclient.NoIntegration)
				check("inactive, and another", hook(9))
				setActive(s.novu, true)
				check("active again, and another", hook(1), hook(9))
				disconnect("active again, and another", "")
				check("disconnected, and another", hook(9))
				setActive(s.novu, false)
				disconnect("inactive, empty, and another", "")
				check("inactive, empty, and another", hook(9))
				setActive(s.novu, true)

				connect()
				s.novu.SetIntegrations(novutest.Integration{Identifier: "slack-other", Provider: "slack", Active: true})
				disconnect("deleted", "")
				check("deleted", hook(9))
				setActive(s.novu, true) // a new one of the same name
				check("made again", hook(9))
			})
		}
	}
}
