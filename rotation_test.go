package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"testing"
	"time"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

// All four secrets change, in the way that the README says: what was given out
// before, links of both kinds, a flow whose person is at Slack and an entry of the
// outbox, works after it; and no longer once the old ones are taken away.
func TestEverySecretRotates(t *testing.T) {
	for name, c := range map[string]struct{ before, both, after []string }{
		"each set": {
			before: []string{"LINK_SECRET=link-old", "STORE_SECRET=store-old", "SLACK_CLIENT_SECRET=client-old", "NOVU_API_KEY=key-old"},
			both:   []string{"LINK_SECRET=link-new,link-old", "STORE_SECRET=store-new,store-old", "SLACK_CLIENT_SECRET=client-new", "NOVU_API_KEY=key-new,key-old"},
			after:  []string{"LINK_SECRET=link-new", "STORE_SECRET=store-new", "SLACK_CLIENT_SECRET=client-new", "NOVU_API_KEY=key-new"},
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
			oldLink, newLink := "link-old", "link-new"
			if name == "by default" {
				oldLink, newLink = "key-old", "key-new"
			}
			signed := func(text, subscriber string) string {
				w.links.Secrets = []secret.String{secret.New(text)}
				return must(w.links.Sign(state.Flow{Subscriber: subscriber}, time.Now().Add(time.Hour)))
			}
			novuStyle := func(key, subscriber string) string {
				mac := hmac.New(sha256.New, []byte(key))
				mac.Write([]byte(subscriber))
				return "/slack/install?subscriberId=" + subscriber + "&hmacHash=" + hex.EncodeToString(mac.Sum(nil))
			}

			w.slack.SetClientSecret("client-old")
			w.novu.SetAPIKey("key-old")
			program := start(t, append(slices.Clone(w.env), c.before...)...)
			links := map[string]string{"ada": signed(oldLink, "ada"), "bob": novuStyle("key-old", "bob")}
			w.novu.BreakAll(wire.HTML(http.StatusServiceUnavailable))
			wantText(t, p.land(program, p.approve(program, signed(oldLink, "pending"))), "we are finishing the set-up")
			atSlack := p.approve(program, signed(oldLink, "at-slack"))

			// Novu refuses the old key from now on. Who comes before the new one is
			// deployed is in the outbox, and so safe.
			w.novu.BreakAll(nil)
			w.novu.SetAPIKey("key-new")
			wantText(t, p.land(program, p.approve(program, signed(oldLink, "between"))), "we are finishing the set-up")
			w.slack.SetClientSecret("client-new")
			program.kill()

			program = start(t, append(slices.Clone(w.env), c.both...)...)
			wantText(t, p.land(program, atSlack), "Slack is connected")
			links["eve"], links["dan"] = signed(newLink, "eve"), novuStyle("key-new", "dan")
			for subscriber, link := range links {
				wantText(t, p.land(program, p.approve(program, link)), "Slack is connected")
				wantChannels(t, w.novu, w.slack, subscriber)
			}
			for _, subscriber := range []string{"pending", "between", "at-slack"} {
				wantChannels(t, w.novu, w.slack, subscriber)
			}
			program.kill()

			program = start(t, append(slices.Clone(w.env), c.after...)...)
			for subscriber, link := range links {
				status, _, _, err := p.get(program, link)
				want := http.StatusFound
				if subscriber == "ada" || subscriber == "bob" {
					want = http.StatusForbidden
				}
				if err != nil || status != want {
					t.Errorf("%s, after the old secrets are gone: got %d, %v, want %d", subscriber, status, err, want)
				}
			}
		})
	}
}

// wantChannels waits until a subscriber has one channel, with a webhook that Slack gave.
func wantChannels(t *testing.T, novu *novutest.Server, slack *slacktest.Server, subscriber string) {
	t.Helper()
	var channels []novutest.Channel
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if channels, _ = novu.Channels(subscriber); len(channels) == 1 && slices.Contains(slack.Webhooks(), channels[0].WebhookURL) {
			return
		}
	}
	t.Errorf("%s: got channels %v, want one of Slack's webhooks", subscriber, channels)
}
