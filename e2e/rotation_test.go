package e2e_test

import (
	"net/http"
	"slices"
	"testing"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// All four secrets change, in the way that the README says: what was given out
// before, links of both kinds, a flow whose person is at Slack and an entry of the
// outbox, works after it; and no longer once the old ones are taken away.
func TestEverySecretRotates(t *testing.T) {
	t.Parallel()
	const oldSecret, newSecret = "link-secret-old-0123456789-0123456789", "link-secret-new-0123456789-0123456789"
	for name, c := range map[string]struct{ before, both, after []string }{
		"each set": {
			before: []string{"NOVU_STYLE_LINKS=true", "LINK_SECRET=" + oldSecret, "STORE_SECRET=store-old", "SLACK_CLIENT_SECRET=client-old", "NOVU_API_KEY=key-old"},
			both:   []string{"NOVU_STYLE_LINKS=true", "LINK_SECRET=" + newSecret + "," + oldSecret, "STORE_SECRET=store-new,store-old", "SLACK_CLIENT_SECRET=client-new", "NOVU_API_KEY=key-new,key-old"},
			after:  []string{"NOVU_STYLE_LINKS=true", "LINK_SECRET=" + newSecret, "STORE_SECRET=store-new", "SLACK_CLIENT_SECRET=client-new", "NOVU_API_KEY=key-new"},
		},
		"by default": {
			before: []string{"LINK_SECRET=", "STORE_SECRET=", "SLACK_CLIENT_SECRET=client-old", "NOVU_API_KEY=key-old"},
			both:   []string{"LINK_SECRET=", "STORE_SECRET=", "SLACK_CLIENT_SECRET=client-new,client-old", "NOVU_API_KEY=key-new,key-old"},
			after:  []string{"LINK_SECRET=", "STORE_SECRET=", "SLACK_CLIENT_SECRET=client-new", "NOVU_API_KEY=key-new"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "REDIS_URL="+redistest.Start(t).URL())
			p := w.person(t)
			oldLink, newLink := oldSecret, newSecret
			signed := func(text, subscriber string) string {
				w.linkSecret = text
				return w.linkTo(subscriber)
			}
			if name == "by default" { // without LINK_SECRET links are Novu-style
				oldLink, newLink, signed = "key-old", "key-new", novuStyleLink
			}
			w.slack.SetClientSecret("client-old")
			w.novu.SetAPIKey("key-old")
			program := start(t, append(slices.Clone(w.env), c.before...)...)
			links := map[string]string{"ada": signed(oldLink, "ada"), "bob": novuStyleLink("key-old", "bob")}
			w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
			p.wantConnect(program, signed(oldLink, "pending"), textPending)
			atSlack := p.approve(program, signed(oldLink, "at-slack"))

			// Novu refuses the old key from now on. Who comes before the new one is
			// deployed is in the outbox, and so safe.
			w.novu.BreakAll(nil)
			w.novu.SetAPIKey("key-new")
			p.wantConnect(program, signed(oldLink, "between"), textPending)
			w.slack.SetClientSecret("client-new")
			program.kill()

			program = start(t, append(slices.Clone(w.env), c.both...)...)
			p.wantFinish(program, atSlack, textConnected)
			links["eve"], links["dan"] = signed(newLink, "eve"), novuStyleLink("key-new", "dan")
			for subscriber, link := range links {
				p.wantConnect(program, link, textConnected)
				w.waitSaved(t, subscriber)
			}
			for _, subscriber := range []string{"pending", "between", "at-slack"} {
				w.waitSaved(t, subscriber)
			}
			program.kill()

			program = start(t, append(slices.Clone(w.env), c.after...)...)
			for subscriber, link := range links {
				want := http.StatusFound
				if subscriber == "ada" || subscriber == "bob" {
					want = http.StatusForbidden
				}
				if status := p.status(program, link); status != want {
					t.Errorf("%s, after the old secrets are gone: got %d, want %d", subscriber, status, want)
				}
			}
		})
	}
}

// waitSaved waits until a subscriber has one channel, with a webhook that Slack gave.
func (w *world) waitSaved(t *testing.T, subscriber string) {
	t.Helper()
	waitFor(t, subscriber+" has one of Slack's webhooks", func() bool {
		channels, _ := w.novu.Channels(subscriber)
		return len(channels) == 1 && slices.Contains(w.slack.Webhooks(), channels[0].WebhookURL)
	})
}
