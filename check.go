package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

const checkHelp = `usage: novu-slack-redirect check [--json] [--subscriber ID]

Looks at every setting, the store, Novu and Slack, and prints one line for each
finding: ok, warn or fail, and what to do. Exits with 1 if anything fails. It
saves nothing, and sends Slack one code that cannot work.

  --json            print {"ok":..., "findings":[{"level","check","text","remedy"}]}
  --subscriber ID   also look at what Novu has for this subscriber

example:
  novu-slack-redirect check --subscriber ada@example.com
`

// checkTimeout bounds all of check, when everything hangs.
const checkTimeout = 20 * time.Second

// Levels of a finding.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

// finding is one thing that was looked at.
type finding struct {
	Level  string `json:"level"`
	Check  string `json:"check"` // what was looked at
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// checker collects findings.
type checker struct {
	config
	novu  *novuclient.Client
	slack *slackoauth.Client
	dates dates
	found []finding
}

func (k *checker) ok(check, format string, args ...any) {
	k.add(levelOK, check, fmt.Sprintf(format, args...), "")
}

func (k *checker) warn(check, text, remedy string) { k.add(levelWarn, check, text, remedy) }

func (k *checker) fail(check, text, remedy string) { k.add(levelFail, check, text, remedy) }

// add keeps a finding as one line that does nothing to a terminal, whatever Novu,
// Slack or Redis wrote into it.
func (k *checker) add(level, check, text, remedy string) {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return '?'
	}
	k.found = append(k.found, finding{level, check, strings.Map(printable, text), strings.Map(printable, remedy)})
}

// check finds mistakes in the set-up before a customer does.
func check(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	subscriber := flags.String("subscriber", "", "")
	if _, ok := parse(flags, args, 0, stderr); !ok {
		return exitUsage
	}
	k := &checker{}
	var problems problems
	k.config, problems = loadConfig()
	for _, p := range problems {
		text, remedy, _ := strings.Cut(p, "; ")
		k.fail("settings", text, remedy)
	}
	if len(problems) == 0 {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		k.all(ctx)
		flags.Visit(func(f *flag.Flag) { // also when it is empty, as an unset variable makes it
			if f.Name == "subscriber" {
				k.subscriber(ctx, *subscriber)
			}
		})
	}
	failed := slices.ContainsFunc(k.found, func(f finding) bool { return f.Level == levelFail })
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		out.Encode(map[string]any{"ok": !failed, "findings": k.found})
	} else {
		for _, f := range k.found {
			fmt.Fprintf(stdout, "%-4s  %-12s  %s", f.Level, f.Check, f.Text)
			if f.Remedy != "" {
				fmt.Fprint(stdout, ": ", f.Remedy)
			}
			fmt.Fprintln(stdout)
		}
	}
	if failed {
		return exitFailed
	}
	return exitOK
}

// all looks at everything that right settings can still get wrong.
func (k *checker) all(ctx context.Context) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &k.dates}
	k.novu = novuclient.New(novuclient.Config{APIKey: k.novuAPIKeys[0], URL: k.novuAPIURL, HTTPClient: client})
	k.slack = slackoauth.New(slackoauth.Config{
		ClientID: k.slackClientID, ClientSecret: k.slackSecrets[0], RedirectURL: k.redirectURL.String(), URL: k.slackURL, HTTPClient: client,
	})
	k.settings()
	k.redirect()
	k.store(ctx)
	k.integrations(ctx)
	k.slackClient(ctx)
	k.clock()
}

func (k *checker) settings() {
	host := k.novuAPIURL.Hostname()
	switch {
	case host == "api.eu.novu.co":
		k.fail("settings", "NOVU_API_URL: there is no api.eu.novu.co", "the EU region is https://eu.api.novu.co")
	case k.novuAPIURL.Scheme == "http" && !private(host):
		k.warn("settings", "NOVU_API_URL: the key and the webhooks go over plain http", "use https")
	}
	if !k.linksByAPIKey && weak(k.linkSecrets) {
		k.warn("settings", "LINK_SECRET has fewer than 32 bytes: who has a link can try secrets until one fits", "set it to the output of: openssl rand -hex 32")
	}
	if k.linksByAPIKey {
		k.warn("settings", "LINK_SECRET is not set: who can choose a subscriber ID and see its hash can forge a link", "set it, for example to the output of: openssl rand -hex 32")
	}
	if !slices.ContainsFunc(k.found, func(f finding) bool { return f.Level == levelFail }) {
		k.ok("settings", "every setting can be read")
	}
}

func (k *checker) redirect() {
	enter := fmt.Sprintf("enter %s in the Slack app under OAuth & Permissions, Redirect URLs", k.redirectURL)
	switch host := k.redirectURL.Hostname(); {
	case handler.Loopback(host):
		k.warn("redirect_url", "REDIRECT_URL is on this machine: only browsers here can come back from Slack", "for anyone else, give the service a public https address; "+enter)
	case private(host):
		k.warn("redirect_url", "REDIRECT_URL looks like an address of a private network: people elsewhere cannot come back from Slack", enter)
	default:
		k.ok("redirect_url", "%s", enter)
	}
}

// private reports whether host is one that the public cannot reach, as far as its
// name tells.
func private(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	}
	last := host[strings.LastIndex(host, ".")+1:]
	return handler.Loopback(host) || last == host || slices.Contains([]string{"local", "internal", "lan", "home", "test", "localhost", "corp", "arpa"}, last)
}

func (k *checker) store(ctx context.Context) {
	name := map[bool]string{true: "DATA_FILE", false: "REDIS_URL"}[k.redisURL.Empty()]
	states, entries, closeStore, err := openStore(k.config)
	if errors.Is(err, errInUse) {
		k.warn("store", "DATA_FILE is in use, by the running service: it was not looked at", "stop the service to check its store")
		return
	}
	if err != nil {
		k.fail("store", err.Error(), "")
		return
	}
	defer closeStore()
	if err := tryStore(ctx, states); err != nil {
		k.fail("store", fmt.Sprintf("%s: %v", name, err), "see that it is reachable, takes the user and the password, may be written to, and has room")
		return
	}
	k.ok("store", "%s: written, read and expired", name)
	if !k.redisURL.Empty() {
		k.redis(ctx)
	}
	k.outbox(ctx, entries)
}

// tryStore issues a flow, finds it, and sees it expire.
func tryStore(ctx context.Context, states state.Store) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	const life = time.Second
	id, _ := state.FlowID(state.NewHalf())
	key, _ := state.NewKey(id, state.NewHalf())
	flow := state.Flow{Subscriber: "check"}
	if err := states.Issue(ctx, key, flow, life); err != nil {
		return fmt.Errorf("cannot be written: %w", err)
	}
	if record, err := states.Look(ctx, key); err != nil || record.Flow != flow {
		return errors.New("does not return what was written")
	}
	time.Sleep(life + 200*time.Millisecond)
	if _, err := states.Look(ctx, key); !errors.Is(err, state.ErrNotFound) {
		return errors.New("keeps what has expired")
	}
	return nil
}

// redis looks at what decides whether Redis keeps what it was given.
func (k *checker) redis(ctx context.Context) {
	client, err := newRedisClient(k.redisURL)
	if err != nil {
		return // found before
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	look := func(ctx context.Context, node redis.Cmdable) error {
		info, err := redisInfo(ctx, node)
		if err != nil {
			return err
		}
		k.redisNode(info)
		return nil
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		var one sync.Mutex
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			one.Lock()
			defer one.Unlock()
			return look(ctx, node)
		})
	} else {
		err = look(ctx, client)
	}
	if err != nil {
		k.warn("redis", "INFO cannot be read", "see for yourself that maxmemory-policy is noeviction and appendonly is on")
	}
}

func (k *checker) redisNode(info map[string]string) {
	if policy := info["maxmemory_policy"]; policy != "noeviction" && info["maxmemory"] != "0" {
		k.warn("redis", "maxmemory-policy is "+policy+": states and recorded webhooks can be evicted", "set it to noeviction")
	} else {
		k.ok("redis", "evicts nothing")
	}
	if info["aof_enabled"] != "1" {
		k.warn("redis", "appendonly is off: a restart of Redis can lose recorded webhooks", "set appendonly to yes")
	} else {
		k.ok("redis", "appends what it was given to a file")
	}
}

func redisInfo(ctx context.Context, client redis.Cmdable) (map[string]string, error) {
	info := map[string]string{}
	for _, section := range []string{"memory", "persistence"} {
		text, err := client.Info(ctx, section).Result()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			info[name] = value
		}
	}
	return info, nil
}

func (k *checker) outbox(ctx context.Context, entries outbox.Store) {
	n, oldest := 0, time.Now()
	err := entries.List(ctx, func(e outbox.Entry) error {
		n++
		if e.Recorded.Before(oldest) {
			oldest = e.Recorded
		}
		return nil
	})
	switch {
	case err != nil:
		k.fail("outbox", "cannot be read: "+err.Error(), "")
	case n > 0:
		k.warn("outbox", fmt.Sprintf("connections that Novu does not have yet: %d, the oldest for %v", n, time.Since(oldest).Round(time.Second)), "see novu-slack-redirect outbox list")
	default:
		k.ok("outbox", "empty: Novu has everything")
	}
}

// integrations looks at Novu: the key, its environment, and where Save would save.
func (k *checker) integrations(ctx context.Context) {
	list, err := k.novu.Integrations(ctx)
	if err != nil {
		k.failNovu("novu_key", err)
		return
	}
	env, err := k.novu.Environment(ctx)
	var failure *novuclient.Error
	switch {
	case errors.As(err, &failure) && failure.Temporary():
		k.warn("novu_key", "is accepted; of which environment it is cannot be asked: "+err.Error(), "")
	case err != nil || env.ID == "":
		k.ok("novu_key", "is accepted; this Novu does not tell of which environment it is")
	case k.novuEnvironment != "" && k.novuEnvironment != env.ID:
		k.fail("novu_key", fmt.Sprintf("is of the environment %s, not of NOVU_ENVIRONMENT_ID", env.ID), "correct one of the two")
	default:
		k.ok("novu_key", "is accepted, of the environment %s (%s)", env.Name, env.ID)
	}

	named := slices.ContainsFunc(list, func(in novuclient.Integration) bool { return in.Identifier == k.novuIntegration })
	switch {
	case len(list) == 0:
		k.fail("integration", "no Slack integration is active in this environment", "Novu, Integration Store: add Slack (chat) and activate it")
	case k.novuIntegration != "" && !named:
		k.fail("integration", "NOVU_INTEGRATION_IDENTIFIER names no active Slack integration", "use one of: "+identifiers(list))
	case k.novuIntegration == "" && len(list) > 1 && k.novuEndpoints:
		k.fail("integration", fmt.Sprintf("%d Slack integrations are active, and a channel endpoint needs one by name", len(list)), "set NOVU_INTEGRATION_IDENTIFIER to one of: "+identifiers(list))
	case k.novuIntegration == "" && len(list) > 1:
		k.warn("integration", fmt.Sprintf("%d Slack integrations are active and none is named: a reconnect may go to another one", len(list)), "set NOVU_INTEGRATION_IDENTIFIER to one of: "+identifiers(list))
	case k.novuIntegration != "":
		k.ok("integration", "%s is active", k.novuIntegration)
	default:
		k.ok("integration", "%s is the active one", list[0].Identifier)
	}
	if k.novuEndpoints {
		if _, err := k.novu.Endpoints(ctx, "check"); err != nil {
			k.failNovu("save_as", err)
		} else {
			k.ok("save_as", "this Novu has channel endpoints")
		}
	}
}

func identifiers(list []novuclient.Integration) string {
	var names []string
	for _, in := range list {
		names = append(names, in.Identifier)
	}
	return strings.Join(names, ", ")
}

func (k *checker) failNovu(check string, err error) {
	var failure *novuclient.Error
	errors.As(err, &failure)
	remedy := failure.Reason.Remedy()
	if failure.Temporary() {
		remedy = "see that NOVU_API_URL is right and can be reached from here"
	}
	k.fail(check, err.Error(), remedy)
}

// slackClient exchanges a code that cannot work: how Slack refuses it tells
// whether the client is right.
func (k *checker) slackClient(ctx context.Context) {
	_, err := k.slack.Exchange(ctx, secret.New("0.0.novu-slack-redirect-check"))
	var failure *slackoauth.Error
	switch {
	case !errors.As(err, &failure):
		k.fail("slack_client", "Slack accepted a code that cannot be", "check SLACK_URL and whatever proxy is in between")
	case failure.Code == "invalid_code":
		k.ok("slack_client", "Slack knows SLACK_CLIENT_ID and SLACK_CLIENT_SECRET")
	case handler.SlackRemedy(failure.Code) != "":
		k.fail("slack_client", err.Error(), handler.SlackRemedy(failure.Code))
	case failure.Code == slackoauth.CodeUnavailable:
		k.fail("slack_client", err.Error(), "see that "+k.slackURL.String()+" can be reached from here")
	default:
		k.fail("slack_client", err.Error(), "try again in a minute; docs/errors.md lists Slack's codes")
	}
}

// maxSkew is what links forgive.
const maxSkew = time.Minute

func (k *checker) clock() {
	skew, known := k.dates.skew()
	switch {
	case !known:
		k.warn("clock", "neither Slack nor Novu sent a Date", "")
	case skew.Abs() > maxSkew:
		k.fail("clock", fmt.Sprintf("this machine's clock is off by %v", skew.Round(time.Second)), "synchronise it: links would expire too early or too late")
	default:
		k.ok("clock", "agrees with Slack's and Novu's")
	}
}

// dates passes requests on and compares the Date of the answers with the clock.
type dates struct {
	mu    sync.Mutex
	skews []time.Duration
}

func (d *dates) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
			d.mu.Lock()
			d.skews = append(d.skews, time.Since(at))
			d.mu.Unlock()
		}
	}
	return res, err
}

// skew is the smallest difference seen: a Date is up to a second and a slow answer
// old, and one server's clock may be wrong too.
func (d *dates) skew() (smallest time.Duration, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.skews {
		if !known || s.Abs() < smallest.Abs() {
			smallest, known = s, true
		}
	}
	return smallest, known
}

// subscriber looks at both of Novu's stores: what is in both is sent twice.
func (k *checker) subscriber(ctx context.Context, id string) {
	if err := handler.CheckSubscriberID(id); err != nil {
		k.fail("subscriber", err.Error(), "")
		return
	}
	credentials, err := k.novu.Credentials(ctx, id)
	if err != nil {
		k.failNovu("subscriber", err)
		return
	}
	endpoints, err := k.novu.Endpoints(ctx, id)
	var failure *novuclient.Error
	if err != nil && !(errors.As(err, &failure) && failure.Reason == novuclient.NoEndpoints) {
		k.failNovu("subscriber", err)
		return
	}
	text := fmt.Sprintf("Slack webhooks in the credentials: %d, Slack channel endpoints: %d", len(credentials), len(endpoints))
	switch {
	case len(credentials) > 0 && len(endpoints) > 0:
		k.warn("subscriber", text+": every message arrives twice", "remove one of the two in Novu")
	case len(slices.Compact(slices.Sorted(slices.Values(credentials)))) < len(credentials):
		k.warn("subscriber", text+", one integration more than once: its messages arrive twice", "remove the older one in Novu")
	case len(credentials)+len(endpoints) == 0:
		k.warn("subscriber", text+": no message arrives", "connect it with a link: novu-slack-redirect link")
	default:
		k.ok("subscriber", "%s", text)
	}
}
