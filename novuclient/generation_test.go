package novuclient_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream/upstreamtest"
)

// serveNovu starts a fake Novu of a generation, and returns a client for it.
func serveNovu(t *testing.T, g novutest.Generation, endpoints bool) (*novutest.Server, *novuclient.Client) {
	t.Helper()
	novu := novutest.New(&upstreamtest.Recorder{})
	novu.Generation = g
	s := httptest.NewServer(novu)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return novu, novuclient.New(novuclient.Config{APIKey: secret.New(novu.APIKey), URL: u, CreateSubscriber: true, SaveEndpoints: endpoints})
}

func hook(n int) string { return fmt.Sprintf("https://hooks.slack.com/services/T01/B01/%d", n) }

// A customer who connects again, also one whom Novu's own Shareable URL connected, gets
// each message once, in the newest channel; or Elsewhere reports the other.
func TestEveryGeneration(t *testing.T) {
	for _, g := range novutest.Generations {
		for _, endpoints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, endpoints: %t", g, endpoints), func(t *testing.T) {
				novu, c := serveNovu(t, g, endpoints)
				save := func(subscriber string, n int) (others, elsewhere int, err error) {
					conn := novuclient.Connection{SubscriberID: subscriber, Integration: "slack-main", WebhookURL: secret.New(hook(n))}
					if others, err = c.Save(t.Context(), conn); err != nil {
						return 0, 0, err
					}
					elsewhere, err = c.Elsewhere(t.Context(), conn)
					return others, elsewhere, err
				}
				if none := g < novutest.V3_15Flag; endpoints && none {
					_, _, err := save("ada", 1)
					_, preflight := c.ResolveIntegration(t.Context(), "", false)
					if novuclient.AsError(err).Reason != novuclient.NoEndpoints || novuclient.AsError(preflight).Reason != novuclient.NoEndpoints {
						t.Fatalf("got %v, %v at install, want no channel endpoints", err, preflight)
					}
					return
				}
				for n := 1; n <= 2; n++ { // new, then known
					if others, elsewhere, err := save("ada/1", n); err != nil || others+elsewhere != 0 || !slices.Equal(novu.Messages("ada/1"), []string{hook(n)}) {
						t.Errorf("connection %d: got %v, %d, %d, %v", n, novu.Messages("ada/1"), others, elsewhere, err)
					}
				}
				for range 12 { // more than one page of someone else's
					novu.ShareableURL("bob", "slack-main", hook(0))
				}
				novu.ShareableURL("eve", "slack-main", hook(3))
				others, elsewhere, err := save("eve", 4)
				got := novu.Messages("eve")
				inEndpoint := g == novutest.V3_15Flag || g >= novutest.V3_17
				switch {
				case err != nil || others != 0:
					t.Errorf("got %d others, %v", others, err)
				case inEndpoint == endpoints && (elsewhere != 0 || !slices.Equal(got, []string{hook(4)})):
					t.Errorf("after the Shareable URL: got %v, %d elsewhere, want the newest alone", got, elsewhere)
				case inEndpoint != endpoints && (elsewhere != 1 || len(got) != 2):
					t.Errorf("after the Shareable URL: got %v, %d elsewhere, want two channels, and 1 reported", got, elsewhere)
				}
			})
		}
	}
}

// Endpoints deliver for exactly their context, and one context is one endpoint in
// whatever form a link has it.
func TestContextsAreWhatNovuTakesThemFor(t *testing.T) {
	novu, c := serveNovu(t, novutest.V3_19, true)
	for n, text := range []string{`{"tenant":"acme"}`, `{"tenant":{"id":"acme"}}`, `{"tenant":{"id":"acme","data":{"x":1}}}`, ``, `{"tenant":"beta","app":"web"}`, `{"app":{"id":"web"},"tenant":"beta"}`} {
		context, err := novuclient.ParseContext(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Save(t.Context(), novuclient.Connection{SubscriberID: "ada", Integration: "slack-main", Context: context, WebhookURL: secret.New(hook(n))}); err != nil {
			t.Fatal(err)
		}
	}
	for context, want := range map[string]string{`{"tenant":"acme"}`: hook(2), ``: hook(3), `{"tenant":"beta","app":"web"}`: hook(5)} {
		var keys []string
		if context != "" {
			keys = []string{context}
		}
		if got := novu.Messages("ada", keys...); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", context, got, want)
		}
	}
}

// PATCH looks neither at the integration nor at the subscriber.
func TestReconnectSeesWhatIsGone(t *testing.T) {
	novu, c := serveNovu(t, novutest.V3_19, true)
	conn := novuclient.Connection{SubscriberID: "ada", Integration: "slack-subscribers", WebhookURL: secret.New(hook(1))}
	novu.SetIntegrations(novutest.Integration{Identifier: conn.Integration, Provider: "slack", Active: true})
	if _, err := c.Save(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	novu.DeleteSubscriber("ada")
	if _, err := c.Save(t.Context(), conn); err != nil || !slices.Equal(novu.Messages("ada"), []string{hook(1)}) || !slices.Contains(novu.Subscribers(), "ada") {
		t.Errorf("the subscriber is gone: got %v, %v", novu.Subscribers(), err)
	}
	novu.SetIntegrations()
	s := httptest.NewServer(novu)
	defer s.Close()
	u, _ := url.Parse(s.URL)
	c = novuclient.New(novuclient.Config{APIKey: secret.New(novu.APIKey), URL: u, CreateSubscriber: true, SaveEndpoints: true}) // without a cached list
	if _, err := c.Save(t.Context(), conn); novuclient.AsError(err).Reason != novuclient.NoIntegration {
		t.Errorf("the integration is gone: got %v", err)
	}
}
