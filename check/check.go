// Package check looks for mistakes in the set-up before a customer finds them: in the
// settings, the store, Novu and Slack. It saves nothing in Novu, and sends Slack one
// invalid code on purpose.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"novu-slack-redirect/config"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/service"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

// Finding is the result of one check. Its text is printable: it cannot control a
// terminal.
type Finding struct {
	Level  string `json:"level"` // ok, warn or fail
	Check  string `json:"check"` // what was checked
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

func (f Finding) String() string {
	line := fmt.Sprintf("%-4s  %-12s  %s", f.Level, f.Check, f.Text)
	if f.Remedy != "" {
		line += ": " + f.Remedy
	}
	return line
}

// Failed reports whether any finding is a failure.
func Failed(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Level == "fail" })
}

// Options are the checks that All makes only when asked.
type Options struct {
	Public     bool    // request REDIRECT_URL
	Event      bool    // send an event to EVENTS_URL
	Subscriber *string // look this subscriber's channels up; nil is none
}

// All returns the findings of every check. If the settings have problems, it checks nothing
// else. It takes 20 s at most.
func All(ctx context.Context, c config.Config, problems []config.Problem, o Options) []Finding {
	k := &checker{Config: c}
	for _, p := range problems {
		k.fail("settings", p.Name+": "+p.Cause, p.Remedy)
	}
	for _, w := range c.Warnings() {
		k.warn("settings", w.Name+" "+w.Cause, w.Remedy)
	}
	if len(problems) > 0 {
		return k.found
	}
	k.ok("settings", "every setting can be read")
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &k.skews}
	k.novu = novuclient.New(novuclient.Config{APIKey: c.NovuAPIKeys[0], URL: c.NovuAPIURL, HTTPClient: client})
	k.slack = slackoauth.New(slackoauth.Config{
		ClientID: c.SlackClientID, ClientSecret: c.SlackSecrets[0], RedirectURL: c.RedirectURL.String(), URL: c.SlackURL, HTTPClient: client,
	})
	k.redirect()
	if o.Public {
		k.public(ctx)
	}
	k.store(ctx)
	k.integrations(ctx)
	k.slackClient(ctx)
	k.clock()
	if o.Event {
		k.event(ctx)
	}
	if o.Subscriber != nil {
		k.subscriber(ctx, *o.Subscriber)
	}
	return k.found
}

// checker runs checks and collects their findings.
type checker struct {
	config.Config
	novu  *novuclient.Client
	slack *slackoauth.Client
	skews skews
	found []Finding
}

func (k *checker) ok(check, format string, args ...any) {
	k.add("ok", check, fmt.Sprintf(format, args...), "")
}

func (k *checker) warn(check, text, remedy string) { k.add("warn", check, text, remedy) }

func (k *checker) fail(check, text, remedy string) { k.add("fail", check, text, remedy) }

// add appends a finding. Parts of its text come from Novu, Slack or Redis, so
// characters that are not printable are replaced.
func (k *checker) add(level, check, text, remedy string) {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return '?'
	}
	k.found = append(k.found, Finding{level, check, strings.Map(printable, text), strings.Map(printable, remedy)})
}

func (k *checker) redirect() {
	enter := fmt.Sprintf("enter %s in the Slack app under OAuth & Permissions, Redirect URLs", k.RedirectURL)
	if config.IsPrivate(k.RedirectURL.Hostname()) {
		k.warn("redirect_url", "REDIRECT_URL is on this machine or in a private network: people elsewhere cannot come back from Slack", "for them, give the service a public https address; "+enter)
	} else {
		k.ok("redirect_url", "%s", enter)
	}
}

func (k *checker) store(ctx context.Context) {
	name := map[bool]string{true: "DATA_FILE", false: "REDIS_URL"}[k.RedisURL.Empty()]
	store, closeStore, err := service.OpenStore(k.Config, nil)
	if errors.Is(err, state.ErrInUse) {
		k.warn("store", "DATA_FILE is in use by another process, such as the running service, and was not checked", "the service looks after it: see its log, and outbox list; to check it here, stop the service")
		return
	}
	if err != nil {
		k.fail("store", err.Error(), state.Remedy(err))
		return
	}
	defer closeStore()
	if err := tryStore(ctx, store); err != nil {
		k.fail("store", fmt.Sprintf("%s: cannot do what a callback needs: %v", name, err), state.Remedy(err))
		return
	}
	k.ok("store", "%s: written and read", name)
	for _, advice := range state.AdviseRedis(ctx, k.RedisURL) {
		k.add(map[bool]string{true: "warn", false: "ok"}[advice.Risk], "redis", advice.Text, advice.Remedy)
	}
	k.outbox(ctx, store)
}

// tryStore issues a flow of a second, and looks it up.
func tryStore(ctx context.Context, store *state.Store) error {
	id, _ := state.FlowID(state.NewState(time.Now()))
	key, _ := state.NewKey(id, state.NewBrowserHalf())
	if err := store.Ready(ctx); err != nil {
		return err
	}
	if err := store.Issue(ctx, state.Flow{Key: key, ID: id, Link: link.Link{Subscriber: "check"}}, time.Second); err != nil {
		return err
	}
	_, err := store.Look(ctx, key)
	return err
}

func (k *checker) outbox(ctx context.Context, store *state.Store) {
	empty, unreadable := true, error(nil)
	others, err := store.Others(ctx)
	waits := map[state.Queue]string{state.Turns: "codes that Slack", state.Deliveries: "connections that Novu", state.Events: "events that EVENTS_URL"}
	for _, queue := range state.Queues {
		what := waits[queue]
		n, oldest := 0, time.Now()
		err = cmp.Or(err, store.List(ctx, queue, func(f state.Flow, err error) bool {
			n++
			unreadable = cmp.Or(unreadable, err)
			if !f.Consumed.IsZero() && f.Consumed.Before(oldest) {
				oldest = f.Consumed
			}
			return true
		}))
		if n > 0 {
			empty = false
			k.warn("outbox", fmt.Sprintf("%s does not have yet: %d, the oldest for %v", what, n, time.Since(oldest).Round(time.Second)), "see novu-slack-redirect outbox list")
		}
	}
	switch {
	case err != nil:
		k.fail("outbox", "cannot be read: "+err.Error(), state.Remedy(err))
	case empty:
		k.ok("outbox", "empty: Novu has everything")
	}
	if unreadable != nil {
		k.warn("outbox", unreadable.Error(), "see novu-slack-redirect outbox list")
	}
	for deployment, n := range others {
		k.warn("outbox", fmt.Sprintf("flows of another deployment (%s) in this store: %d", deployment, n), service.OthersRemedy)
	}
}

// integrations checks Novu: the key, its environment, and its Slack integrations.
func (k *checker) integrations(ctx context.Context) {
	list, err := k.novu.Integrations(ctx)
	if err != nil {
		k.failNovu("novu_key", err)
		return
	}
	env, err := k.novu.Environment(ctx)
	switch {
	case err != nil:
		k.warn("novu_key", "is accepted; its environment could not be looked up: "+err.Error(), "try again in a minute")
	case k.NovuEnvironment != "" && k.NovuEnvironment != env.ID:
		k.fail("novu_key", fmt.Sprintf("belongs to the environment %s, not to NOVU_ENVIRONMENT_ID", env.ID), "correct one of the two")
	default:
		k.ok("novu_key", "is accepted; it belongs to the environment %s (%s)", env.Name, env.ID)
	}

	var names []string
	for _, in := range list {
		names = append(names, in.Identifier)
	}
	oneOf := "set NOVU_INTEGRATION_IDENTIFIER to one of: " + strings.Join(names, ", ")
	switch {
	case len(list) == 0:
		k.fail("integration", "no Slack integration is active in this environment", "Novu, Integration Store: add Slack (chat) and activate it")
	case k.NovuIntegration != "" && slices.Contains(names, k.NovuIntegration):
		k.ok("integration", "%s is active", k.NovuIntegration)
	case k.NovuIntegration != "":
		k.fail("integration", "NOVU_INTEGRATION_IDENTIFIER names no active Slack integration", oneOf)
	case len(list) > 1 && k.SaveEndpoints:
		k.fail("integration", fmt.Sprintf("%d Slack integrations are active, and a channel endpoint needs one by name", len(list)), oneOf)
	case len(list) > 1:
		k.warn("integration", fmt.Sprintf("%d Slack integrations are active and none is named: a reconnect may go to another one", len(list)), oneOf)
	default:
		k.ok("integration", "%s is the active one", list[0].Identifier)
	}
	if k.SaveEndpoints {
		if _, err := k.novu.Endpoints(ctx, "check", ""); err != nil {
			k.failNovu("save_as", err)
		} else {
			k.ok("save_as", "this Novu has channel endpoints")
		}
	}
}

func (k *checker) failNovu(check string, err error) {
	remedy := novuclient.AsError(err).Reason.Remedy()
	k.fail(check, err.Error(), cmp.Or(remedy, "see that NOVU_API_URL is right and can be reached from here"))
}

// slackClient exchanges an invalid code: Slack's error code tells whether the client ID
// and secret are right.
func (k *checker) slackClient(ctx context.Context) {
	_, err := k.slack.Exchange(ctx, secret.New("0.0.novu-slack-redirect-check"))
	var refused *slackoauth.Error
	if !errors.As(err, &refused) {
		k.fail("slack_client", "Slack accepted an invalid code", "check SLACK_URL and whatever proxy is in between")
		return
	}
	remedy := cmp.Or(outbox.SlackFailure(refused.Code, err).Remedy, "try again in a minute; docs/errors.md lists Slack's codes")
	switch refused.Code {
	case "invalid_code":
		k.ok("slack_client", "Slack knows SLACK_CLIENT_ID and SLACK_CLIENT_SECRET")
		return
	case slackoauth.CodeUnavailable:
		remedy = "see that " + k.SlackURL.String() + " can be reached from here"
	}
	k.fail("slack_client", err.Error(), remedy)
}

// event sends an event of type ping.
func (k *checker) event(ctx context.Context) {
	if k.EventsURL == nil {
		k.fail("event", "EVENTS_URL is not set", "set it and EVENTS_SECRET")
	} else if err := service.NewEvents(k.Config).Ping(ctx); err != nil {
		k.fail("event", err.Error(), "see that your app takes POST at EVENTS_URL and answers 2xx")
	} else {
		k.ok("event", "EVENTS_URL took a signed event of type ping")
	}
}

// maxSkew is the leeway of signed links.
const maxSkew = time.Minute

func (k *checker) clock() {
	if len(k.skews) == 0 {
		k.warn("clock", "neither Slack nor Novu sent a Date", "see that this machine's clock is synchronised: links would expire too early or too late")
		return
	}
	// A Date is up to a second older than its answer, the answer may have been slow, and
	// one server's clock may be wrong: the smallest difference counts.
	if skew := slices.Min(k.skews); skew > maxSkew {
		k.fail("clock", fmt.Sprintf("this machine's clock is off by %v", skew.Round(time.Second)), "synchronise it: links would expire too early or too late")
	} else {
		k.ok("clock", "agrees with Slack's and Novu's")
	}
}

// skews is a transport that keeps by how much the Date of each answer differs from this
// machine's clock, for one request at a time.
type skews []time.Duration

func (s *skews) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := upstream.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		*s = append(*s, time.Since(at).Abs())
	}
	return res, nil
}

// subscriber checks the subscriber's credentials and channel endpoints. Novu sends every
// message to both.
func (k *checker) subscriber(ctx context.Context, id string) {
	if err := link.CheckSubscriberID(id); err != nil {
		k.fail("subscriber", err.Error(), "use another ID, in Novu and in links")
		return
	}
	channels, err := k.novu.Credentials(ctx, id)
	if novuclient.AsError(err).Reason == novuclient.UnknownSubscriber && k.CreateSubscriber {
		k.fail("subscriber", err.Error(), "correct the ID; if it is right, the service creates the subscriber when it connects")
		return
	}
	if err != nil {
		k.failNovu("subscriber", err)
		return
	}
	endpoints, err := k.novu.Endpoints(ctx, id, "")
	if err != nil && (k.SaveEndpoints || novuclient.AsError(err).Reason != novuclient.NoEndpoints) {
		k.failNovu("subscriber", err)
		return
	}
	live, integrations, contexts := 0, map[string]bool{}, map[string]bool{}
	for _, ch := range channels {
		if !ch.WebhookURL.Empty() {
			live++
			integrations[ch.IntegrationID] = true
		}
	}
	var identifiers []string
	for _, e := range endpoints {
		identifiers = append(identifiers, e.Identifier)
		contexts[e.Integration+" "+e.ContextKey()] = true
	}
	text := fmt.Sprintf("Slack webhooks in the credentials: %d, Slack channel endpoints: %d", live, len(endpoints))
	if len(identifiers) > 0 {
		text += " (" + strings.Join(identifiers, ", ") + ")"
	}
	dropEndpoints := "remove an endpoint with DELETE /v1/channel-endpoints/IDENTIFIER"
	dropCredentials := "remove the credentials of all Slack integrations with DELETE /v1/subscribers/ID/credentials/slack"
	switch {
	case live > 0 && len(endpoints) > 0 && k.SaveEndpoints:
		k.warn("subscriber", text+": every message arrives in both", dropCredentials)
	case live > 0 && len(endpoints) > 0:
		k.warn("subscriber", text+": every message arrives in both", dropEndpoints+", or set NOVU_SAVE_AS=endpoint (see docs/migrating.md)")
	case live > len(integrations):
		k.warn("subscriber", text+", one integration more than once: its messages arrive twice", dropCredentials+", and connect again")
	case len(endpoints) > len(contexts):
		k.warn("subscriber", text+", one context more than once: its messages arrive twice", dropEndpoints)
	case live+len(endpoints) == 0:
		k.warn("subscriber", text+": no message arrives", "connect it with a link: novu-slack-redirect link")
	default:
		k.ok("subscriber", "%s", text)
	}
}
