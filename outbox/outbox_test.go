package outbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream"
)

// Nothing that contains canary may be readable in a store or a log.
const webhookPrefix = "https://hooks.slack.com/services/T01/B01/canary-"

// fakeSlack exchanges a code once, as Slack does. Its time is the bubble's: hours pass
// at once.
type fakeSlack struct {
	mu        sync.Mutex
	answer    func(n int) error         // to the nth exchange, from 1; an error does not spend the code
	takes     func(n int) time.Duration // from the answer until Exchange returns, whatever its context says
	begun     time.Time
	codes     int
	spent     map[string]bool
	exchanges []time.Duration // when each came, since begun
}

func (f *fakeSlack) Exchange(_ context.Context, code secret.String) (*slackoauth.Installation, error) {
	f.mu.Lock()
	f.exchanges = append(f.exchanges, time.Since(f.begun))
	n := len(f.exchanges)
	var err error
	var takes time.Duration
	if f.answer != nil {
		err = f.answer(n)
	}
	if f.takes != nil {
		takes = f.takes(n)
	}
	if err == nil && f.spent[code.Reveal()] {
		err = &slackoauth.Error{Code: "invalid_code", Status: 200, Progress: upstream.Answered}
	}
	if err == nil {
		f.spent[code.Reveal()] = true
	}
	f.mu.Unlock()
	time.Sleep(takes)
	if err != nil {
		return nil, err
	}
	return &slackoauth.Installation{
		TeamID: "T01", TeamName: "Canary Team", ChannelID: "C01", Channel: "#canary-channel",
		ConfigurationURL: "https://acme.slack.com/services/B01", WebhookURL: secret.New(webhookPrefix + code.Reveal()),
	}, nil
}

func (f *fakeSlack) newCode() secret.String {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.codes++
	return secret.New(fmt.Sprintf("canary-code-%d", f.codes))
}

func (f *fakeSlack) set(answer func(n int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeSlack) log() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.exchanges)
}

func slackError(code string, retryAfter time.Duration) func(int) error {
	return func(int) error {
		return &slackoauth.Error{Code: code, RetryAfter: retryAfter, Progress: upstream.Answered}
	}
}

// fakeNovu answers as it is told and notes every attempt to save.
type fakeNovu struct {
	mu       sync.Mutex
	answer   func(n int) error              // to the nth attempt, from 1
	ready    func(integration string) error // to a look-up of an integration
	refused  string                         // a subscriber for whom it is down, whatever answer says
	takes    func(n int) time.Duration
	begun    time.Time
	attempts []attempt
	busy     map[string]int // attempts in flight, by subscriber
	inFlight int
	most     int // attempts in flight at a time
	overlaps int // of one subscriber

	others, elsewhere int      // what Save and Elsewhere return
	lookErr           error    // what Elsewhere returns
	looks             []string // subscribers whom Elsewhere was asked about
}

type attempt struct {
	novuclient.Connection
	at  time.Duration // since begun
	err error
}

// defaultIntegration is the one that connections go to which name none.
const defaultIntegration = "slack-default"

func (f *fakeNovu) ResolveIntegration(_ context.Context, integration string, _ bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready != nil {
		if err := f.ready(integration); err != nil {
			return "", err
		}
	}
	if integration == "" {
		integration = defaultIntegration
	}
	return integration, nil
}

func (f *fakeNovu) Save(ctx context.Context, conn novuclient.Connection) (others int, err error) {
	f.mu.Lock()
	n := len(f.attempts) + 1
	if f.answer != nil {
		err = f.answer(n)
	}
	if f.refused != "" && conn.SubscriberID == f.refused {
		err = down(n)
	}
	f.attempts = append(f.attempts, attempt{conn, time.Since(f.begun), err})
	var takes time.Duration
	if f.takes != nil {
		takes = f.takes(n)
	}
	if f.busy[conn.SubscriberID]++; f.busy[conn.SubscriberID] > 1 {
		f.overlaps++
	}
	f.inFlight++
	f.most = max(f.most, f.inFlight)
	f.mu.Unlock()
	end := func() {
		time.Sleep(takes) // Novu works on, whether or not anyone waits
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy[conn.SubscriberID]--
		f.inFlight--
	}
	if takes == 0 {
		end()
		return f.others, err
	}
	done := make(chan struct{})
	go func() { end(); close(done) }()
	select {
	case <-done:
		return f.others, err
	case <-ctx.Done():
		return 0, &novuclient.Error{Op: "save credentials", Reason: novuclient.Unavailable, Progress: upstream.MaybeAtWork, Err: ctx.Err()}
	}
}

// Disconnect is a Save without a webhook.
func (f *fakeNovu) Disconnect(ctx context.Context, conn novuclient.Connection) (int, error) {
	conn.WebhookURL = secret.String{}
	return f.Save(ctx, conn)
}

func (f *fakeNovu) Elsewhere(ctx context.Context, conn novuclient.Connection) (int, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, conn.SubscriberID)
	return f.elsewhere, f.lookErr
}

func (f *fakeNovu) set(answer func(n int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeNovu) setReady(answer func(integration string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = answer
}

// slow makes the next attempts take so long, and all later ones no time.
func (f *fakeNovu) slow(attempts int, takes time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.attempts) + attempts
	f.takes = func(n int) time.Duration {
		if n <= last {
			return takes
		}
		return 0
	}
}

func (f *fakeNovu) log() []attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attempts)
}

// saved returns the webhooks that Novu took, in order, without their common beginning.
func (f *fakeNovu) saved() (webhooks []string) {
	for _, a := range f.log() {
		if a.err == nil {
			webhooks = append(webhooks, strings.TrimPrefix(a.WebhookURL.Reveal(), webhookPrefix))
		}
	}
	return webhooks
}

func status(code int, reason novuclient.Reason, retryAfter time.Duration) func(int) error {
	return func(int) error {
		return &novuclient.Error{Op: "save credentials", Status: code, Reason: reason, RetryAfter: retryAfter, Progress: upstream.Answered}
	}
}

var down = status(503, novuclient.Unavailable, 0)

func unanswered(int) error {
	return &novuclient.Error{Op: "save credentials", Status: 504, Reason: novuclient.Unavailable, Progress: upstream.MaybeAtWork}
}

// faultyBackend is a backend as one instance sees it. Calls are issue, consume, look,
// record, postpone, save, finish, claim, wake and list.
type faultyBackend struct {
	state.Backend
	mu     sync.Mutex
	before func(call string) error // an error: the backend is not asked
	after  func(call string) error // an error: the backend has done it, and the answer is lost
	calls  []string
}

func (b *faultyBackend) set(before, after func(call string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before, b.after = before, after
}

func (b *faultyBackend) count(call string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (b *faultyBackend) log() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

func (b *faultyBackend) do(call string, fn func() error) error {
	b.mu.Lock()
	before, after := b.before, b.after
	b.calls = append(b.calls, call)
	b.mu.Unlock()
	if before != nil {
		if err := before(call); err != nil {
			return err
		}
	}
	err := fn()
	if after != nil {
		if lost := after(call); lost != nil {
			return lost
		}
	}
	return err
}

func (b *faultyBackend) Issue(ctx context.Context, key state.Key, request []byte, ttl time.Duration) error {
	return b.do("issue", func() error { return b.Backend.Issue(ctx, key, request, ttl) })
}

func (b *faultyBackend) Consume(ctx context.Context, key state.Key, owner string, content []byte, lease, patience time.Duration) (r state.Row, err error) {
	err = b.do("consume", func() error {
		r, err = b.Backend.Consume(ctx, key, owner, content, lease, patience)
		return err
	})
	return r, err
}

func (b *faultyBackend) Look(ctx context.Context, key state.Key) (r state.Row, err error) {
	err = b.do("look", func() error {
		r, err = b.Backend.Look(ctx, key)
		return err
	})
	return r, err
}

func (b *faultyBackend) Move(ctx context.Context, key state.Key, m state.Move) (step state.Step, err error) {
	call := "postpone"
	switch {
	case m.To == state.Finished:
		call = "finish"
	case m.To == state.Saved:
		call = "save" // or postpone its event
	case m.Lease > 0:
		call = "record"
	}
	err = b.do(call, func() error {
		step, err = b.Backend.Move(ctx, key, m)
		return err
	})
	return step, err
}

func (b *faultyBackend) Claim(ctx context.Context, from state.Queue, owner string, lease time.Duration) (key state.Key, r state.Row, next time.Duration, err error) {
	err = b.do("claim", func() error {
		key, r, next, err = b.Backend.Claim(ctx, from, owner, lease)
		return err
	})
	return key, r, next, err
}

func (b *faultyBackend) Wake(ctx context.Context, in state.Queue) (more bool, err error) {
	err = b.do("wake", func() error {
		more, err = b.Backend.Wake(ctx, in)
		return err
	})
	return more, err
}

var errStore = errors.New("the store does not answer")

// fails is a fault of these calls.
func fails(calls ...string) func(string) error {
	return func(call string) error {
		if slices.Contains(calls, call) {
			return errStore
		}
		return nil
	}
}

// sleeps is a pause of the process at these calls.
func sleeps(d time.Duration, call string) func(string) error {
	return func(c string) error {
		if c == call {
			time.Sleep(d)
		}
		return nil
	}
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const (
	deployment = state.Deployment("deployment-a")
	origin     = "https://slack.example.com"
)

var links = &link.Verifier{Origin: origin, Secrets: []secret.String{secret.New("canary-link-secret-canary-link-secret")}, Contexts: true}

// box is an instance: an Outbox between a fake Slack, a fake Novu and a store.
type box struct {
	*Outbox
	t       *testing.T
	slack   *fakeSlack
	novu    *fakeNovu
	logs    *buffer
	backend state.Backend  // shared with other instances
	faults  *faultyBackend // this instance's
}

// newBox returns an instance on a new embedded store.
func newBox(t *testing.T, changes ...func(*state.Config, *Config)) *box {
	t.Helper()
	return newBoxOn(t, openBolt(t, filepath.Join(t.TempDir(), "store.db"), deployment), changes...)
}

func newBoxOn(t *testing.T, backend state.Backend, changes ...func(*state.Config, *Config)) *box {
	t.Helper()
	b := &box{
		t: t, backend: backend, logs: &buffer{},
		slack: &fakeSlack{begun: time.Now(), spent: map[string]bool{}},
		novu:  &fakeNovu{begun: time.Now(), busy: map[string]int{}},
	}
	return b.another(changes...)
}

// another returns another instance, with the same Slack, Novu, store and log.
func (b *box) another(changes ...func(*state.Config, *Config)) *box {
	b.t.Helper()
	return b.restart(b.backend, changes...)
}

// restart returns an instance with the same Slack, Novu and log.
func (b *box) restart(backend state.Backend, changes ...func(*state.Config, *Config)) *box {
	b.t.Helper()
	next := *b
	next.backend, next.faults = backend, &faultyBackend{Backend: backend}
	storeConfig := state.Config{Backend: next.faults, Deployment: deployment, Secrets: []secret.String{secret.New("store-secret")}, Links: links, ResultTTL: 1000 * time.Hour}
	config := Config{Slack: b.slack, Novu: b.novu, Log: zerolog.New(b.logs), Metrics: metrics.New()}
	for _, change := range changes {
		change(&storeConfig, &config)
	}
	store, err := state.New(storeConfig)
	must(b.t, err)
	config.Store = store
	next.Outbox = New(config)
	b.t.Cleanup(func() { next.Close(context.Background()) })
	return &next
}

func openBolt(t *testing.T, path string, deployment state.Deployment) *state.Bolt {
	t.Helper()
	backend, err := state.OpenBolt(path, deployment)
	must(t, err)
	t.Cleanup(func() { backend.Close() })
	return backend
}

func storeSecrets(texts ...string) func(*state.Config, *Config) {
	return func(c *state.Config, _ *Config) {
		c.Secrets = nil
		for _, text := range texts {
			c.Secrets = append(c.Secrets, secret.New(text))
		}
	}
}

// request is what most links ask for.
func request(subscriber string) link.Request {
	return link.Request{Subscriber: subscriber, Integration: "slack-1"}
}

// issue begins a flow.
func (b *box) issue(r link.Request) state.Key {
	b.t.Helper()
	signed, err := links.Sign(r, time.Now().Add(time.Hour))
	must(b.t, err)
	_, query, _ := strings.Cut(signed, "?")
	l, err := link.Read(query, "")
	must(b.t, err)
	return b.issueLink(l, r)
}

// issueLink begins a flow with a link that asks for r.
func (b *box) issueLink(l link.Link, r link.Request) state.Key {
	b.t.Helper()
	text := state.NewState(time.Now())
	id, _ := state.FlowID(text)
	key, ok := state.NewKey(id, state.NewBrowserHalf())
	if !ok {
		b.t.Fatal("no key")
	}
	must(b.t, b.Store.Issue(context.Background(), state.Flow{Key: key, ID: id, Link: l, Request: r}, 15*time.Minute))
	return key
}

// consume begins the callback of a flow.
func (b *box) consume(key state.Key) state.Flow {
	b.t.Helper()
	f, won, err := b.Consume(context.Background(), key, b.slack.newCode())
	if err != nil || !won {
		b.t.Fatalf("consume: got %t, %v, want the flow", won, err)
	}
	return f
}

// connect is a whole flow, as far as its request gets.
func (b *box) connect(r link.Request) state.Flow {
	b.t.Helper()
	f := b.consume(b.issue(r))
	failure, err := b.Advance(context.Background(), &f)
	if failure != nil || err != nil {
		b.t.Fatalf("advance: got %+v, %v", failure, err)
	}
	return f
}

// record keeps a flow's webhook, due at once, and does not ask Novu.
func (b *box) record(r link.Request) state.Key {
	b.t.Helper()
	ctx := context.Background()
	f := b.consume(b.issue(r))
	f.Webhook = secret.New(webhookPrefix + f.Code.Reveal())
	_, err := b.Store.Record(ctx, &f, saveLease)
	must(b.t, err)
	must(b.t, b.Store.Postpone(ctx, &f, 0, 0))
	return f.Key
}

// run starts the worker until the returned function is called.
func (b *box) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { b.Run(ctx); close(ended) }()
	return func() { cancel(); <-ended }
}

// outcome names how far a flow has come: its result's code when it is finished.
func outcome(f state.Flow) string {
	switch f.Phase {
	case state.Issued:
		return "issued"
	case state.Working:
		return "working"
	case state.Recorded:
		return "recorded"
	}
	return f.Result.Code
}

func (b *box) outcome(key state.Key) string {
	b.t.Helper()
	f, err := b.Store.Look(context.Background(), key)
	must(b.t, err)
	return outcome(f)
}

func (b *box) wantOutcome(key state.Key, want ...string) {
	b.t.Helper()
	if got := b.outcome(key); !slices.Contains(want, got) {
		b.t.Errorf("the flow is %s, want %s", got, strings.Join(want, " or "))
	}
}

// wantSaved checks which webhooks Novu took, by their codes.
func (b *box) wantSaved(want ...string) {
	b.t.Helper()
	if got := b.novu.saved(); !slices.Equal(got, want) {
		b.t.Errorf("Novu took %q, want %q", got, want)
	}
}

// left counts the flows that are not finished.
func (b *box) left() int {
	b.t.Helper()
	deliveries, err := b.Store.Count(context.Background(), state.Deliveries)
	must(b.t, err)
	turns, err := b.Store.Count(context.Background(), state.Turns)
	must(b.t, err)
	return deliveries + turns
}

func (b *box) wantNoneLeft() {
	b.t.Helper()
	if n := b.left(); n != 0 {
		b.t.Errorf("%d flows are not finished, want none; the log:\n%s", n, b.logs)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(*testing.T)) { t.Helper(); synctest.Test(t, test) }

// eachStore runs a test that waits for nothing on both backends, the embedded one in
// virtual time.
func eachStore(t *testing.T, test func(t *testing.T, b *box)) {
	t.Run("bolt", func(t *testing.T) {
		bubble(t, func(t *testing.T) { test(t, newBox(t)) })
	})
	t.Run("redis", func(t *testing.T) {
		test(t, newBoxOn(t, state.NewRedis(redistest.Start(t).Client(), "nsr", deployment)))
	})
}

func TestConnect(t *testing.T) {
	eachStore(t, func(t *testing.T, b *box) {
		r := link.Request{Subscriber: "ada", Integration: "slack-1", Context: novuclient.Context{JSON: `{"tenant":"acme"}`, Key: `["tenant:acme"]`}, TeamID: "T01"}
		f := b.connect(r)
		want := state.Result{Code: state.Connected, Team: "Canary Team", TeamID: "T01", Channel: "#canary-channel", ChannelID: "C01", ConfigurationURL: "https://acme.slack.com/services/B01"}
		if f.Phase != state.Finished || f.Result != want {
			t.Errorf("got %c, %+v, want %+v", f.Phase, f.Result, want)
		}
		if got := b.faults.log(); !slices.Equal(got, []string{"issue", "consume", "record", "finish"}) {
			t.Errorf("got the store calls %q, want four", got)
		}
		if kept, err := b.Store.Look(t.Context(), f.Key); err != nil || kept.Result != want || !kept.Webhook.Empty() || !kept.Code.Empty() {
			t.Errorf("the store has %+v, %v, want the result alone", kept, err)
		}
		got := b.novu.log()
		if len(got) != 1 || got[0].SubscriberID != "ada" || got[0].Integration != "slack-1" || got[0].Context != r.Context || got[0].WebhookURL.Reveal() != webhookPrefix+"canary-code-1" {
			t.Errorf("got the attempts %+v, want one", got)
		}
		b.wantNoneLeft()
	})
}

// Many callbacks of one flow at once: one exchange, one save.
func TestManyCallbacksAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, b *box) {
		key, code := b.issue(request("ada")), b.slack.newCode()
		var group errgroup.Group
		for range 20 {
			group.Go(func() error {
				f, won, err := b.Consume(t.Context(), key, code)
				if won {
					_, err = b.Advance(t.Context(), &f)
				}
				return err
			})
		}
		must(t, group.Wait())
		b.wantOutcome(key, state.Connected)
		if got := len(b.slack.log()); got != 1 || len(b.novu.log()) != 1 {
			t.Errorf("got %d exchanges and %d saves, want one of each", got, len(b.novu.log()))
		}
	})
}

// Novu down for hours: three quick tries, then the pace of the worker.
func TestRetryPace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		stop := b.run()
		if got := outcome(b.connect(request("ada"))); got != "recorded" {
			t.Errorf("got %s, want recorded", got)
		}
		if took := time.Since(b.novu.begun); took > 6*time.Second {
			t.Errorf("the person waited %v, want about 5 s at most", took)
		}
		time.Sleep(4 * time.Hour)
		b.novu.set(nil)
		time.Sleep(2 * time.Hour)
		stop()

		want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour, time.Hour}
		last := time.Duration(0)
		for i, a := range b.novu.log() {
			pause := a.at - last
			last = a.at
			w := want[min(i, len(want)-1)]
			if pause < w || pause > w+w/5+pollInterval {
				t.Errorf("attempt %d came %v after the one before, want %v and up to a fifth more", i+1, pause, w)
			}
		}
		if n := len(b.novu.log()); n < 10 || b.novu.log()[n-1].err != nil {
			t.Errorf("got %d attempts, want about 11 and the last a success", n)
		}
		b.wantNoneLeft()
	})
}

// Only a 429 is for everyone; any other answer's Retry-After is for its own flow.
func TestRetryAfterOfOneFlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		stop := b.run()
		b.novu.set(status(503, novuclient.Unavailable, 10*time.Minute))
		b.connect(request("ada"))
		b.novu.set(nil)
		before := len(b.novu.log())
		if got := outcome(b.connect(request("bob"))); got != state.Connected {
			t.Errorf("got %s for another subscriber, want connected", got)
		}
		time.Sleep(9 * time.Minute)
		if got := len(b.novu.log()) - before; got != 1 {
			t.Errorf("got %d attempts within Novu's pause, want bob's alone", got)
		}
		time.Sleep(4 * time.Minute)
		stop()
		b.wantNoneLeft()
	})
}

func TestRetryAfterOfAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		stop := b.run()
		b.novu.set(status(429, novuclient.Unavailable, 100*time.Second))
		begin := time.Now()
		b.connect(request("ada"))
		b.connect(request("bob")) // goes straight to the worker
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the people waited %v for a Novu that asks to wait 100 s", took)
		}
		b.novu.set(nil)
		time.Sleep(99 * time.Second)
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts within Novu's pause, want the one that met it", got)
		}
		time.Sleep(time.Minute)
		stop()
		if got := len(b.novu.log()); got != 3 {
			t.Errorf("got %d attempts, want 3", got)
		}
		b.wantNoneLeft()
	})
}

// What stands between us and Novu stopped waiting: Novu may still be at work. Nothing
// more is sent for the subscriber for 30 s, not even a newer connection.
func TestUnansweredRequestHoldsTheSubscriber(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(unanswered)
		older := b.connect(request("ada"))
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts at once, want 1", got)
		}
		b.novu.set(nil)
		defer b.run()()
		time.Sleep(time.Second)
		newer := b.connect(request("ada"))
		other := b.connect(link.Request{Subscriber: "ada", Integration: "slack-2"})
		if outcome(newer) != "recorded" || outcome(other) != "recorded" {
			t.Errorf("got %s and %s, want both recorded", outcome(newer), outcome(other))
		}
		time.Sleep(28 * time.Second)
		if got := len(b.novu.log()); got != 1 {
			t.Errorf("got %d attempts within 30 s, want 1", got)
		}
		time.Sleep(20 * time.Second)
		b.wantOutcome(older.Key, state.Replaced)
		b.wantOutcome(newer.Key, state.Connected)
		b.wantOutcome(other.Key, state.Connected)
		b.wantNoneLeft()
	})
}

// An instance is killed while Novu works on its request: the next one, on the same
// file, waits for the lease.
func TestRestartDoesNotOverlapASlowAttempt(t *testing.T) {
	for name, diesAfter := range map[string]time.Duration{"in the attempt": 2 * time.Second, "after the attempt": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "store.db")
				backend := openBolt(t, path, deployment)
				first := newBoxOn(t, backend)
				first.novu.slow(1, maybeAtWorkFor-time.Second)
				f := first.consume(first.issue(request("ada")))
				go first.Advance(context.Background(), &f)
				time.Sleep(diesAfter)
				first.faults.set(fails("record", "postpone", "finish"), nil) // it does nothing any more
				must(t, backend.Close())

				second := first.restart(openBolt(t, path, deployment))
				defer second.run()()
				time.Sleep(2 * time.Minute)
				if second.novu.overlaps != 0 {
					t.Errorf("got %d overlaps, want none", second.novu.overlaps)
				}
				second.wantNoneLeft()
			})
		})
	}
}

// Novu refuses for good, then the operator mends the cause: it goes through by
// itself, and until then asks for no more than an attempt an hour.
func TestRefusedForGoodThenMended(t *testing.T) {
	for _, reason := range []novuclient.Reason{novuclient.BadKey, novuclient.NoIntegration, novuclient.BadURL, novuclient.Refused, novuclient.UnknownSubscriber} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				stop := b.run()
				b.novu.set(status(400, reason, 0))
				if got := outcome(b.connect(request("ada"))); got != "recorded" {
					t.Errorf("got %s, want recorded", got)
				}
				time.Sleep(3*time.Hour + 50*time.Minute)
				if got := len(b.novu.log()); got < 3 || got > 4 {
					t.Errorf("got %d attempts in 3:50 hours, want about one an hour", got)
				}
				if !strings.Contains(b.logs.String(), `"level":"error"`) || !strings.Contains(b.logs.String(), `"remedy":"`+reason.Remedy()) {
					t.Errorf("the log has no error with its remedy: %s", b.logs)
				}
				b.novu.set(nil)
				time.Sleep(75 * time.Minute)
				stop()
				b.wantNoneLeft()
			})
		})
	}
}

func TestAllAreDueAtStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(status(401, novuclient.BadKey, 0)) // the hourly pace
		for i := range 30 {
			b.connect(request(fmt.Sprint(i)))
		}
		b.novu.set(nil)
		stop := b.run()
		time.Sleep(time.Second)
		stop()
		b.wantNoneLeft()
	})
}

// The store may be down for a while when the program starts.
func TestAllAreDueAtStartWhenTheStoreIsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(status(401, novuclient.BadKey, 0))
		b.connect(request("ada"))
		b.novu.set(nil)
		b.faults.set(fails("wake", "claim"), nil)
		defer b.run()()
		time.Sleep(time.Minute)
		b.faults.set(nil, nil)
		time.Sleep(time.Minute)
		b.wantNoneLeft()
	})
}

// Thousands are due and Novu takes 20 a second: everything arrives, a few at a
// time, and most attempts are not wasted.
func TestThousandsDueRespectTheRateLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		const n = 1000
		var group errgroup.Group
		group.SetLimit(200)
		for i := range n {
			group.Go(func() error {
				b.record(request(fmt.Sprint(i)))
				return nil
			})
		}
		must(t, group.Wait())
		second, in := time.Duration(-1), 0
		b.novu.takes = func(int) time.Duration { return 10 * time.Millisecond }
		b.novu.set(func(int) error {
			if now := time.Since(b.novu.begun).Truncate(time.Second); now != second {
				second, in = now, 0
			}
			if in++; in > 20 {
				return status(429, novuclient.Unavailable, time.Second)(0)
			}
			return nil
		})
		stop := b.run()
		time.Sleep(10 * time.Minute)
		stop()
		if n := b.left(); n != 0 {
			t.Errorf("got %d left, want none", n)
		}
		if got := len(b.novu.log()); got > n*3/2 {
			t.Errorf("got %d attempts for %d flows", got, n)
		}
		if b.novu.most > workers {
			t.Errorf("got %d attempts at a time, want at most %d", b.novu.most, workers)
		}
	})
}

// Novu takes longer than we wait and goes on working: no second attempt while it
// may, not for a newer connection either.
func TestSlowNovuNeverSeesTwoAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		other := b.another()
		defer b.run()()
		defer other.run()()
		b.novu.slow(4, 25*time.Second)
		var last state.Flow
		for range 3 {
			if last = b.connect(request("ada")); outcome(last) != "recorded" {
				t.Errorf("got %s, want recorded", outcome(last))
			}
		}
		time.Sleep(time.Hour)
		if b.novu.overlaps != 0 {
			t.Errorf("got %d overlaps, want none", b.novu.overlaps)
		}
		b.wantOutcome(last.Key, state.Connected)
		b.wantNoneLeft()
	})
}

// SIGTERM in flight: the attempt under way finishes, and is not made again.
func TestStoppingLetsTheAttemptFinish(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.connect(request("ada"))
		b.novu.set(nil)
		b.novu.takes = func(int) time.Duration { return 3 * time.Second }
		stop := b.run()
		time.Sleep(7 * time.Second) // the attempt began 5 to 6 s after the one before
		stop()
		b.wantNoneLeft()
		if got := b.novu.saved(); len(got) != 1 {
			t.Errorf("got %d saves, want 1", len(got))
		}
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		for i := range 10 {
			b.connect(request(fmt.Sprint(i)))
		}
		working := b.consume(b.issue(request("left behind"))) // Slack was not asked yet
		if sent, waiting, err := b.Drain(t.Context()); sent != 0 || err != nil {
			t.Errorf("got %d sent, %d waiting, %v", sent, waiting, err)
		}
		time.Sleep(time.Minute)
		b.novu.set(func(n int) error {
			if n%2 == 0 {
				return down(n)
			}
			return nil
		})
		sent, waiting, err := b.Drain(t.Context())
		if sent+waiting != 11 || sent == 0 || waiting == 0 || err != nil || b.left() != waiting {
			t.Errorf("got %d sent, %d waiting, %v and %d left", sent, waiting, err, b.left())
		}
		b.wantOutcome(working.Key, state.Connected, "recorded")
	})
}

// A drain that tries a flow twice counts it once.
func TestDrainCountsFlows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		b.connect(request("ada")) // is the first to be due
		const others = 40
		for i := range others {
			b.connect(request(fmt.Sprint(i)))
		}
		time.Sleep(time.Minute)

		// Novu does not take hers, and is so slow with the others that she is due a second
		// time, after 30 s, before the drain ends.
		before := len(b.novu.log())
		b.novu.set(nil)
		b.novu.refused = "ada"
		b.novu.slow(1000, 11*time.Second)
		sent, waiting, err := b.Drain(t.Context())
		if sent != others || waiting != 1 || err != nil {
			t.Errorf("got %d sent, %d waiting, %v, want %d and 1", sent, waiting, err, others)
		}
		tries := 0
		for _, a := range b.novu.log()[before:] {
			if a.SubscriberID == "ada" {
				tries++
			}
		}
		if tries < 2 {
			t.Errorf("ada's flow was tried %d times, want twice: the test tests nothing", tries)
		}
	})
}

// A drain neither waits for a Novu that asks for an hour, nor says it is done
// when it was interrupted.
func TestDrainThatCannot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		for i := range 10 {
			b.connect(request(fmt.Sprint(i)))
		}
		time.Sleep(time.Minute)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := b.Drain(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: got %v, want its error", err)
		}
		b.novu.set(status(429, novuclient.Unavailable, time.Hour))
		begin := time.Now()
		_, waiting, err := b.Drain(t.Context())
		if took := time.Since(begin); took > time.Minute || waiting == 0 || err != nil {
			t.Errorf("rate limited: got %d waiting, %v after %v", waiting, err, took)
		}
		b.faults.set(fails("claim"), nil)
		b.gate = gate{}
		if _, _, err := b.Drain(t.Context()); !errors.Is(err, errStore) {
			t.Errorf("store down: got %v, want its error", err)
		}
	})
}

func TestWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		if _, w, events, err := b.Waiting(t.Context()); w != (metrics.Waiting{}) || events != (metrics.Waiting{}) || err != nil {
			t.Errorf("empty: got %v, %v, %v", w, events, err)
		}
		b.novu.set(down)
		b.connect(request("ada"))
		time.Sleep(time.Hour)
		b.issue(request("bob")) // does not wait: a person does
		b.consume(b.issue(request("eve")))
		if _, w, _, err := b.Waiting(t.Context()); w.N != 2 || w.Oldest < time.Hour || w.Oldest > time.Hour+time.Minute || err != nil {
			t.Errorf("got %v, %v, want 2, of an hour", w, err)
		}
	})
}

// The newest of several connections is the one that Novu ends with, also when
// the older ones failed before it came.
func TestNewestConnectionWins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		older := b.connect(request("ada"))
		newer := b.connect(request("ada"))
		b.wantOutcome(older.Key, state.Replaced)
		b.novu.set(nil)
		stop := b.run()
		time.Sleep(time.Minute)
		stop()
		b.wantOutcome(newer.Key, state.Connected)
		b.wantSaved("canary-code-2")
		b.wantNoneLeft()
	})
}

// A flow that was consumed earlier and recorded later than another one ends as
// replaced, and says so, in the round trip that would have recorded it.
func TestOvertaken(t *testing.T) {
	eachStore(t, func(t *testing.T, b *box) {
		older := b.consume(b.issue(request("ada")))
		newer := b.connect(request("ada"))
		calls := len(b.faults.log())
		failure, err := b.Advance(t.Context(), &older)
		if failure != nil || err != nil || outcome(older) != state.Replaced {
			t.Errorf("got %+v, %v, %s, want replaced", failure, err, outcome(older))
		}
		if got := b.faults.log()[calls:]; !slices.Equal(got, []string{"record"}) {
			t.Errorf("got the store calls %q, want one", got)
		}
		b.wantOutcome(older.Key, state.Replaced)
		b.wantOutcome(newer.Key, state.Connected)
		b.wantSaved("canary-code-2")
		b.wantNoneLeft()
		if !strings.Contains(b.logs.String(), `"outcome":"replaced"`) {
			t.Errorf("the log does not say it: %s", b.logs)
		}
	})
}

// A flow is overtaken while Novu saves it: it stays replaced although Novu answers
// 200, and the newer one is sent right after, once.
func TestOvertakenWhileItIsSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var welcomes atomic.Int32
		b := newBox(t, func(_ *state.Config, c *Config) {
			c.Welcome = func(context.Context, secret.String) error { welcomes.Add(1); return nil }
		})
		defer b.run()()
		b.novu.takes = func(int) time.Duration { return time.Second }
		older := b.consume(b.issue(request("ada")))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if failure, err := b.Advance(context.Background(), &older); failure != nil || err != nil {
				t.Errorf("got %+v, %v", failure, err)
			}
		}()
		time.Sleep(100 * time.Millisecond)
		newer := b.connect(request("ada"))
		if outcome(newer) != "recorded" {
			t.Errorf("the newer is %s, want recorded until Novu has it", outcome(newer))
		}
		b.wantOutcome(older.Key, state.Replaced)
		<-done
		if outcome(older) != state.Replaced {
			t.Errorf("the older is %s, want replaced", outcome(older))
		}
		time.Sleep(pollInterval + 2*time.Second)
		b.wantOutcome(older.Key, state.Replaced)
		b.wantOutcome(newer.Key, state.Connected)
		b.wantSaved("canary-code-1", "canary-code-2")
		b.wantNoneLeft()
		if b.novu.overlaps != 0 || welcomes.Load() != 1 {
			t.Errorf("got %d overlaps and %d welcome messages, want none and 1", b.novu.overlaps, welcomes.Load())
		}
	})
}

// Another destination of the same subscriber waits for the attempt under way, and not
// for the end of a lease that was released.
func TestReleasedLeaseIsNotWaitedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		defer b.run()()
		b.novu.slow(1, 2*time.Second)
		first := b.consume(b.issue(request("ada")))
		go b.Advance(context.Background(), &first)
		time.Sleep(time.Second)
		others := []state.Flow{
			b.connect(link.Request{Subscriber: "ada", Integration: "slack-2"}),
			b.connect(link.Request{Subscriber: "ada", Integration: "slack-1", Context: novuclient.Context{JSON: `{"tenant":"acme"}`, Key: `["tenant:acme"]`}}),
		}
		time.Sleep(time.Second + pollInterval)
		for _, f := range others {
			if outcome(f) != "recorded" {
				t.Errorf("a second flow is %s at once, want recorded", outcome(f))
			}
			b.wantOutcome(f.Key, state.Connected)
		}
		time.Sleep(time.Second)
		b.wantNoneLeft()
		if b.novu.overlaps != 0 {
			t.Errorf("got %d overlaps, want none", b.novu.overlaps)
		}
	})
}

// The same on Redis, whose clock is real: what waited is due at once.
func TestReleasedLeaseIsNotWaitedOutOnRedis(t *testing.T) {
	server := redistest.Start(t)
	b := newBoxOn(t, state.NewRedis(server.Client(), "nsr", deployment))
	other := b.restart(state.NewRedis(server.Client(), "nsr", deployment))
	sending, answer := make(chan struct{}), make(chan struct{})
	b.novu.set(func(int) error { // called under the fake's lock: others' attempts would wait too
		close(sending)
		<-answer
		return nil
	})
	first := b.consume(b.issue(request("ada")))
	done := make(chan error, 1)
	go func() {
		_, err := b.Advance(context.Background(), &first)
		done <- err
	}()
	<-sending
	second := other.consume(other.issue(link.Request{Subscriber: "ada", Integration: "slack-2"}))
	if failure, err := other.Advance(t.Context(), &second); failure != nil || err != nil || outcome(second) != "recorded" {
		t.Errorf("got %+v, %v, %s, want recorded", failure, err, outcome(second))
	}
	if sent, waiting, err := other.Drain(t.Context()); sent != 0 || waiting != 0 || err != nil {
		t.Errorf("during the attempt: got %d, %d, %v, want nothing due", sent, waiting, err)
	}
	close(answer)
	must(t, <-done)
	b.novu.set(nil)
	if sent, waiting, err := other.Drain(t.Context()); sent != 1 || waiting != 0 || err != nil {
		t.Errorf("after the attempt: got %d, %d, %v, want one sent", sent, waiting, err)
	}
	b.wantSaved("canary-code-1", "canary-code-2")
	b.wantNoneLeft()
}

// An instance that dies once it has the code leaves a flow that another one finishes
// after the lease.
func TestInstanceDiesAfterConsume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		f := b.consume(b.issue(request("ada")))
		other := b.another()
		defer other.run()()
		time.Sleep(stepLease - time.Second)
		b.wantOutcome(f.Key, "working")
		time.Sleep(time.Second + pollInterval)
		b.wantOutcome(f.Key, state.Connected)
		b.wantSaved("canary-code-1")
		b.wantNoneLeft()
	})
}

// It died between Slack's answer and the record: the code is spent, and the webhook is
// nowhere.
func TestInstanceDiesAfterExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		f := b.consume(b.issue(request("ada")))
		_, err := b.slack.Exchange(t.Context(), f.Code)
		must(t, err)
		other := b.another()
		defer other.run()()
		time.Sleep(stepLease + pollInterval)
		b.wantOutcome(f.Key, CodeInterrupted)
		b.wantSaved()
		b.wantNoneLeft()
		if !strings.Contains(b.logs.String(), `"code":"`+CodeInterrupted+`"`) {
			t.Errorf("the log does not say it: %s", b.logs)
		}
	})
}

// It died before the exchange, and the next one begins when the code has expired: nothing
// was interrupted in the middle.
func TestInstanceDiesForLongerThanTheCodeLives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		f := b.consume(b.issue(request("ada")))
		time.Sleep(10 * time.Minute)
		b.slack.set(slackError("invalid_code", 0))
		defer b.run()()
		time.Sleep(pollInterval)
		b.wantOutcome(f.Key, CodeCodeExpired)
		b.wantNoneLeft()
	})
}

// It died between the record and the save, or while Novu was saving.
func TestInstanceDiesAfterRecord(t *testing.T) {
	for name, dies := range map[string]func(b *box){
		"before the save": func(b *box) { b.faults.set(fails("finish", "postpone"), sleeps(time.Hour, "record")) },
		"after the save":  func(b *box) { b.faults.set(fails("finish", "postpone"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				dies(b)
				f := b.consume(b.issue(request("ada")))
				go b.Advance(context.Background(), &f)
				other := b.another()
				stop := other.run()
				time.Sleep(saveLease + pollInterval)
				stop()
				b.wantOutcome(f.Key, state.Connected)
				if got := slices.Compact(b.novu.saved()); !slices.Equal(got, []string{"canary-code-1"}) {
					t.Errorf("Novu took %q", got)
				}
				b.wantNoneLeft()
				time.Sleep(time.Hour) // until its goroutine ends
			})
		})
	}
}

// Slack limits the rate: the code is kept, and exchanged when Slack allows it.
func TestSlackAsksToWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		defer b.run()()
		b.slack.set(slackError("ratelimited", 40*time.Second))
		f := b.connect(request("ada"))
		if outcome(f) != "working" || len(b.slack.log()) != 1 {
			t.Errorf("got %s after %d exchanges, want working after one", outcome(f), len(b.slack.log()))
		}
		b.slack.set(nil)
		time.Sleep(39 * time.Second)
		if got := len(b.slack.log()); got != 1 {
			t.Errorf("got %d exchanges within Slack's pause, want 1", got)
		}
		time.Sleep(9*time.Second + pollInterval)
		b.wantOutcome(f.Key, state.Connected)
		b.wantSaved("canary-code-1")
		b.wantNoneLeft()
	})
}

// A short wait for Slack ends when Slack says, and not when the worker looks next.
func TestSlackAsksToWaitShortly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		defer b.run()()
		time.Sleep(time.Second) // the worker has looked
		b.slack.set(slackError("ratelimited", time.Second))
		f := b.connect(request("ada"))
		b.slack.set(nil)
		time.Sleep(1500 * time.Millisecond)
		b.wantOutcome(f.Key, state.Connected)
	})
}

// It goes on until the code is about to expire.
func TestSlackAsksToWaitTooLong(t *testing.T) {
	for name, pause := range map[string]time.Duration{"again and again": 30 * time.Second, "at once": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				defer b.run()()
				b.slack.set(slackError("ratelimited", pause))
				f := b.consume(b.issue(request("ada")))
				failure, err := b.Advance(t.Context(), &f)
				if pause > state.CodeLife {
					if failure == nil || failure.Code != CodeSlackBusy || err != nil {
						t.Errorf("got %+v, %v, want slack_busy", failure, err)
					}
				} else if failure != nil || err != nil {
					t.Errorf("got %+v, %v, want the code kept", failure, err)
				} else {
					time.Sleep(state.CodeLife - 90*time.Second)
					b.wantOutcome(f.Key, "working")
					if got := len(b.slack.log()); got < 10 || got > 16 {
						t.Errorf("got %d exchanges, want about one every 30 s", got)
					}
					time.Sleep(90 * time.Second)
				}
				b.wantOutcome(f.Key, CodeSlackBusy)
				b.wantNoneLeft()
				b.wantSaved()
			})
		})
	}
}

// A refusal that one code does not outlive closes the gate for the others, for a minute at
// most: they do not run into it one by one.
func TestSlackAsksAllToWaitTooLong(t *testing.T) {
	eachStore(t, func(t *testing.T, b *box) {
		b.slack.set(slackError("ratelimited", 20*time.Minute))
		f := b.consume(b.issue(request("ada")))
		if failure, err := b.Advance(t.Context(), &f); failure == nil || failure.Code != CodeSlackBusy || err != nil {
			t.Errorf("got %+v, %v, want slack_busy", failure, err)
		}
		b.wantOutcome(f.Key, CodeSlackBusy)
		b.wantNoneLeft()
		next := b.connect(request("bob"))
		if outcome(next) != "working" || next.Turn.Place != 1 || next.Turn.Wait > time.Minute {
			t.Errorf("the next flow is %s with %+v, want it to wait for a minute at most", outcome(next), next.Turn)
		}
		if got := len(b.slack.log()); got != 1 {
			t.Errorf("Slack was asked %d times, want once", got)
		}
	})
}

// Slack answered, and the answer was lost: the code is spent.
func TestExchangeAnswerLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.slack.set(func(int) error {
			return &slackoauth.Error{Code: "invalid_code", Progress: upstream.Answered, MaybeSpent: true}
		})
		f := b.consume(b.issue(request("ada")))
		failure, err := b.Advance(t.Context(), &f)
		if err != nil || failure == nil || failure.Code != CodeInterrupted {
			t.Errorf("got %+v, %v, want interrupted", failure, err)
		}
		b.wantOutcome(f.Key, CodeInterrupted)
	})
}

// What Slack refuses is told, ends the flow, and reaches Novu in no way.
func TestExchangeFails(t *testing.T) {
	for slackCode, want := range map[string]string{
		"invalid_code": CodeCodeExpired, "access_denied": CodeAccessDenied, "no_permission": CodeSlackAdmin, "bad_client_secret": CodeSlackSetup,
		"made_up": CodeSlackUnknown, slackoauth.CodeUnavailable: CodeSlackUnavailable, slackoauth.CodeNoWebhook: CodeNoWebhook, slackoauth.CodeBadWebhook: CodeBadWebhook,
		"": CodeWorkspaceMismatch,
	} {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				r := request("ada")
				if slackCode != "" {
					b.slack.set(slackError(slackCode, 0))
				} else {
					r.TeamID = "T02"
				}
				f := b.consume(b.issue(r))
				failure, err := b.Advance(t.Context(), &f)
				if err != nil || failure == nil || failure.Code != want || failure.Err == nil || (failure.Remedy != "") != (want == CodeSlackSetup) {
					t.Errorf("got %+v, %v, want %s", failure, err, want)
				}
				if outcome(f) != want {
					t.Errorf("the flow is %s, want %s", outcome(f), want)
				}
				b.wantOutcome(f.Key, want)
				b.wantNoneLeft()
				if len(b.novu.log()) != 0 {
					t.Error("Novu was asked")
				}
			})
		})
	}
}

// The store fails for a moment between the exchange and the record, or the process stands
// still for longer than the record is tried again.
func TestRecordFailsForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		lost  bool
		pause time.Duration // of each call that fails
	}{
		"down":           {},
		"answers lost":   {lost: true},
		"while it stood": {pause: recordBudget + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				begin := time.Now()
				fault := func(call string) error {
					if call == "record" && time.Since(begin) < 4*time.Second {
						time.Sleep(c.pause)
						return errStore
					}
					return nil
				}
				if b.faults.set(fault, nil); c.lost {
					b.faults.set(nil, fault)
				}
				if f := b.connect(request("ada")); outcome(f) != state.Connected {
					t.Errorf("got %s, want connected", outcome(f))
				}
				b.wantSaved("canary-code-1")
				b.wantNoneLeft()
			})
		})
	}
}

// The store fails throughout: there is no unrecorded way to Novu, and a newer
// connection stays.
func TestRecordFailsThroughout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, other := newBox(t), (*box)(nil)
		other = b.another()
		defer other.run()()
		b.faults.set(fails("record", "postpone", "finish"), nil)
		older := b.consume(b.issue(request("ada")))
		newer := other.connect(request("ada"))
		begin := time.Now()
		failure, err := b.Advance(t.Context(), &older)
		if failure == nil || failure.Code != CodeInterrupted || failure.Remedy == "" || !errors.Is(err, errStore) || outcome(older) != CodeInterrupted {
			t.Errorf("got %+v, %v, %s, want interrupted", failure, err, outcome(older))
		}
		if took := time.Since(begin); took > recordBudget+time.Second {
			t.Errorf("the person waited %v", took)
		}
		time.Sleep(time.Hour)
		b.wantOutcome(older.Key, CodeInterrupted)
		b.wantOutcome(newer.Key, state.Connected)
		b.wantSaved("canary-code-2")
		b.wantNoneLeft()
	})
}

// The store fails when a flow is to be finished or postponed: the worker sends the
// webhook again, and finishes it.
func TestFinishFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		defer b.run()()
		b.faults.set(fails("finish", "postpone"), nil)
		f := b.consume(b.issue(request("ada")))
		failure, err := b.Advance(t.Context(), &f)
		if failure != nil || !errors.Is(err, errStore) || outcome(f) != state.Connected {
			t.Errorf("got %+v, %v, %s, want connected with the store's error", failure, err, outcome(f))
		}
		b.wantOutcome(f.Key, "recorded")
		b.faults.set(nil, nil)
		time.Sleep(saveLease + pollInterval)
		b.wantOutcome(f.Key, state.Connected)
		b.wantSaved("canary-code-1", "canary-code-1")
		b.wantNoneLeft()
	})
}

// An instance stands still (SIGSTOP, a paused VM) between the exchange and the record,
// and the subscriber connects another channel meanwhile: that one stays.
func TestPauseBetweenExchangeAndRecord(t *testing.T) {
	for _, pause := range []time.Duration{18 * time.Second, 35 * time.Second} {
		for name, worker := range map[string]bool{"with a worker elsewhere": true, "alone": false} {
			t.Run(pause.String()+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := newBox(t)
					other := b.another()
					if worker {
						defer other.run()()
					}
					b.slack.takes = func(n int) time.Duration {
						if n == 1 {
							return pause
						}
						return 0
					}
					older := b.consume(b.issue(request("ada")))
					done := make(chan struct{})
					go func() {
						defer close(done)
						b.Advance(context.Background(), &older)
					}()
					time.Sleep(time.Second)
					newer := other.connect(request("ada"))
					if outcome(newer) != state.Connected {
						t.Errorf("the newer is %s, want connected", outcome(newer))
					}
					<-done
					time.Sleep(5 * time.Minute)
					b.wantOutcome(older.Key, state.Replaced, CodeInterrupted)
					b.wantOutcome(newer.Key, state.Connected)
					b.wantSaved("canary-code-2")
					b.wantNoneLeft()
				})
			})
		}
	}
}

// An instance stands still before the exchange for so long that another one takes the
// flow over, or is about to: the code is exchanged once, and the flow connects.
func TestPauseBeforeExchange(t *testing.T) {
	for call, life := range map[string]time.Duration{"consume": stepLease, "claim": saveLease} {
		for _, pause := range []time.Duration{5 * time.Second, life / 2, life - 5*time.Second, life + 5*time.Second, time.Hour} {
			t.Run(fmt.Sprint(pause, " after ", call), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := newBox(t)
					other := b.another()
					defer other.run()()
					b.slack.takes = func(int) time.Duration { return 8 * time.Second }
					var paused atomic.Bool
					b.faults.set(nil, func(c string) error {
						if c == call && !paused.Swap(true) {
							time.Sleep(pause)
						}
						return nil
					})
					key := b.issue(request("ada"))
					if call == "claim" { // the request died, and the worker that claims its flow stands still
						other.faults.set(fails("claim"), nil)
						b.another().consume(key)
						time.Sleep(stepLease)
						done := make(chan struct{})
						go func() { b.Drain(context.Background()); close(done) }()
						defer func() { <-done }()
						time.Sleep(100 * time.Millisecond)
						other.faults.set(nil, nil)
					} else {
						f := b.consume(key)
						failure, err := b.Advance(t.Context(), &f)
						if failure != nil || err != nil && !errors.Is(err, state.ErrLost) {
							t.Errorf("got %+v, %v", failure, err)
						}
					}
					time.Sleep(2*time.Minute + pause)
					b.wantOutcome(key, state.Connected)
					b.wantSaved("canary-code-1")
					if got := len(b.slack.log()); got != 1 {
						t.Errorf("got %d exchanges, want 1", got)
					}
					b.wantNoneLeft()
				})
			})
		}
	}
}

// An instance stands still between the record and the save for so long that its lease
// ends, or nearly: it sends nothing any more.
func TestPauseBetweenRecordAndSave(t *testing.T) {
	for _, pause := range []time.Duration{saveLease - maybeAtWorkFor - leaseMargin, saveLease - leaseMargin, saveLease + 15*time.Second, time.Hour} {
		for name, worker := range map[string]bool{"with a worker elsewhere": true, "alone": false} {
			t.Run(pause.String()+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := newBox(t)
					mine := &fakeNovu{begun: time.Now(), busy: map[string]int{}}
					paused := b.another(func(_ *state.Config, c *Config) { c.Novu = mine })
					paused.faults.set(nil, sleeps(pause, "record"))
					stop := func() {}
					if worker {
						stop = b.run()
					}
					f := paused.consume(paused.issue(request("ada")))
					failure, err := paused.Advance(t.Context(), &f)
					if failure != nil || err != nil && !errors.Is(err, state.ErrLost) {
						t.Errorf("got %+v, %v", failure, err)
					}
					if got := len(mine.log()); got != 0 {
						t.Errorf("got %d attempts after the pause, want none", got)
					}
					if !worker {
						stop = b.run()
					}
					time.Sleep(time.Minute)
					stop()
					b.wantOutcome(f.Key, state.Connected)
					b.wantSaved("canary-code-1")
					b.wantNoneLeft()
				})
			})
		}
	}
}

// A link left the integration open and Novu did not say at install which one there is:
// the worker asks, and the flow then has its place among those that name it.
func TestUnresolvedIntegration(t *testing.T) {
	open, named := link.Request{Subscriber: "ada"}, link.Request{Subscriber: "ada", Integration: defaultIntegration}
	for name, test := range map[string]struct {
		older, newer link.Request
		newerIsSaved bool // before the older is looked at
	}{
		"alone":                      {older: open},
		"older, newer is saved":      {open, named, true},
		"older, newer waits":         {open, named, false},
		"newer":                      {named, open, false},
		"both":                       {open, open, false},
		"newer, and nothing to wait": {named, open, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				b.novu.set(down)
				b.novu.setReady(func(string) error { return down(0) })
				older := b.connect(test.older)
				if outcome(older) != "recorded" {
					t.Fatalf("got %s, want recorded", outcome(older))
				}
				want := older
				if test.newer.Subscriber != "" {
					if test.newerIsSaved {
						b.novu.set(nil)
						if test.newer.Integration == "" {
							b.novu.setReady(nil)
						}
					}
					want = b.connect(test.newer)
				}
				stop := b.run()
				time.Sleep(time.Minute) // it fails a few times
				b.novu.set(nil)
				b.novu.setReady(nil)
				time.Sleep(5 * time.Minute)
				stop()
				b.wantOutcome(want.Key, state.Connected)
				if want.Key != older.Key {
					b.wantOutcome(older.Key, state.Replaced, state.Connected)
				}
				saved := b.novu.saved()
				if last := saved[len(saved)-1]; last != fmt.Sprint("canary-code-", b.slack.codes) {
					t.Errorf("Novu took %q, want the newest last", saved)
				}
				for _, a := range b.novu.log() {
					if a.Integration != defaultIntegration {
						t.Errorf("an attempt went to %q", a.Integration)
					}
				}
				b.wantNoneLeft()
			})
		})
	}
}

// An integration that the holder of a Novu-style link made up ends the flow, without an
// alarm. What the app or the operator named is tried until the operator mends it.
func TestUnknownIntegrationOfALink(t *testing.T) {
	for name, c := range map[string]struct {
		link link.Link // none is a signed one
		ends bool
	}{
		"a Novu-style link's own":   {link.Link{Subscriber: "ada", Hash: "00", Integration: "gone"}, true},
		"a signed link's":           {link.Link{}, false},
		"the operator's":            {link.Link{Subscriber: "ada", Hash: "00"}, false},
		"the operator's, by a link": {link.Link{Subscriber: "ada", Hash: "00", Integration: "operators"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t, func(c *state.Config, _ *Config) {
					operators := *c.Links
					operators.Integration = "operators"
					c.Links = &operators
				})
				r := link.Request{Subscriber: "ada", Integration: cmp.Or(c.link.Integration, "operators")}
				issue := func() state.Key {
					if c.link.Subscriber == "" {
						return b.issue(r)
					}
					return b.issueLink(c.link, r)
				}
				b.novu.set(down) // at the callback; then it is up, and refuses
				waited := b.consume(issue())
				failure, err := b.Advance(t.Context(), &waited)
				must(t, err)
				if failure != nil || outcome(waited) != "recorded" {
					t.Fatalf("got %s and %+v, want recorded", outcome(waited), failure)
				}
				b.novu.set(status(404, novuclient.NoIntegration, 0))
				stop := b.run()
				time.Sleep(24 * time.Hour)
				stop()
				if c.ends {
					b.wantOutcome(waited.Key, CodeNoIntegration)
					b.wantNoneLeft()
				} else {
					b.wantOutcome(waited.Key, "recorded")
				}
				if got := strings.Contains(b.logs.String(), `"level":"error"`); got == c.ends {
					t.Errorf("an error in the log is %t, want %t: %s", got, !c.ends, b.logs)
				}
				at := b.consume(issue())
				failure, err = b.Advance(t.Context(), &at)
				must(t, err)
				if ended := outcome(at) == CodeNoIntegration && failure != nil && failure.Quiet; ended != c.ends {
					t.Errorf("at the callback: got %s and %+v, want an end that is %t", outcome(at), failure, c.ends)
				}
			})
		})
	}
}

// The store does not answer Consume. If it has consumed the flow all the same, or does so
// late, the worker takes the flow over when its lease ends; otherwise the same callback
// can be repeated.
func TestStoreDoesNotAnswerConsume(t *testing.T) {
	for fault, consumed := range map[string]bool{"down": false, "answer lost": true, "late": true} {
		t.Run(fault, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t)
				other := b.another()
				defer other.run()()
				key, code := b.issue(request("ada")), b.slack.newCode()
				b.faults.set(func(string) error {
					switch fault {
					case "down":
						return errStore
					case "late":
						time.Sleep(1500 * time.Millisecond)
					}
					return nil
				}, fails("consume"))
				if _, won, err := b.Consume(t.Context(), key, code); won || !errors.Is(err, errStore) {
					t.Fatalf("got %t, %v, want the store's error", won, err)
				}
				b.faults.set(nil, nil)
				f, won, err := b.Consume(t.Context(), key, code)
				if must(t, err); won == consumed {
					t.Fatalf("the second call: won: %t", won)
				}
				if won {
					_, err := b.Advance(t.Context(), &f)
					must(t, err)
				} else {
					b.wantOutcome(key, "working")
					time.Sleep(stepLease + pollInterval)
				}
				b.wantOutcome(key, state.Connected)
				b.wantSaved("canary-code-1")
				b.wantNoneLeft()
			})
		})
	}
}

// Close waits no longer than its context.
func TestCloseEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t, func(_ *state.Config, c *Config) {
			c.Welcome = func(context.Context, secret.String) error { time.Sleep(time.Hour); return nil }
		})
		b.connect(request("ada"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		b.Close(ctx)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("it took %v, want 10 s", took)
		}
		time.Sleep(time.Hour) // until the message's goroutine ends
	})
}

// Who has another channel gets every message twice: one look for each save, one warning.
func TestWarningOfOtherChannels(t *testing.T) {
	for name, c := range map[string]struct {
		others, elsewhere int
		err               error
		hangs             bool   // the welcome message is not posted in time
		channels          string // that the warning counts; empty is no warning
	}{
		"none":                {},
		"in the same place":   {others: 1, channels: `"channels":1`},
		"in the other place":  {elsewhere: 2, channels: `"channels":2`},
		"in both":             {others: 1, elsewhere: 2, channels: `"channels":3`},
		"the look-up fails":   {err: errors.New("down")},
		"fails, but is known": {others: 1, err: errors.New("down"), channels: `"channels":1`},
		"Slack hangs":         {elsewhere: 1, hangs: true, channels: `"channels":1`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBox(t, func(_ *state.Config, to *Config) {
					if c.hangs {
						to.Welcome = func(ctx context.Context, _ secret.String) error { <-ctx.Done(); return ctx.Err() }
					}
				})
				b.novu.others, b.novu.elsewhere, b.novu.lookErr = c.others, c.elsewhere, c.err
				if f := b.connect(request("ada")); outcome(f) != "connected" {
					t.Errorf("got %s", outcome(f))
				}
				b.Close(t.Context())
				warned := strings.Contains(b.logs.String(), "other channels of the integration") && strings.Contains(b.logs.String(), c.channels) && strings.Contains(b.logs.String(), `"subscriber":"ada"`)
				scrape := httptest.NewRecorder()
				b.Metrics.Handler("1", b).ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
				counted := strings.Contains(scrape.Body.String(), "double_deliveries_total 1\n")
				if want := c.channels != ""; warned != want || counted != want || len(b.novu.looks) != 1 {
					t.Errorf("counted: %t, got %d looks and the log %s", counted, len(b.novu.looks), b.logs)
				}
			})
		})
	}
}

func TestWelcomeMessage(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		hangs  bool
		worker bool // the worker saves the webhook
		code   string
	}{
		"in the request": {},
		"by the worker":  {worker: true},
		"Slack refuses":  {err: errors.New("slack: post: HTTP 404")},
		"Slack hangs":    {hangs: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				var posted []string
				b := newBox(t, func(_ *state.Config, c *Config) {
					c.Welcome = func(ctx context.Context, webhook secret.String) error {
						wait := time.Second
						if test.hangs {
							wait = time.Hour
						}
						select {
						case <-time.After(wait):
						case <-ctx.Done():
							return ctx.Err()
						}
						mu.Lock()
						defer mu.Unlock()
						posted = append(posted, webhook.Reveal())
						return test.err
					}
				})
				begin := time.Now()
				if test.worker {
					b.novu.set(down)
					b.connect(request("ada"))
					time.Sleep(time.Minute)
					b.novu.set(nil)
					stop := b.run()
					time.Sleep(100 * time.Millisecond)
					stop()
					begin = time.Now()
				} else {
					b.connect(request("ada"))
					if took := time.Since(begin); took > 500*time.Millisecond {
						t.Errorf("the person waited %v for the message", took)
					}
				}
				b.Close(t.Context()) // right after the save
				if took := time.Since(begin); took > afterSaveTimeout+100*time.Millisecond {
					t.Errorf("Close took %v", took)
				}
				want := []string{webhookPrefix + "canary-code-1"}
				if test.hangs {
					want = nil
				}
				if !slices.Equal(posted, want) {
					t.Errorf("got %q, want %q", posted, want)
				}
				if logged := strings.Contains(b.logs.String(), "welcome message"); logged != (test.hangs || test.err != nil) {
					t.Errorf("got a warning: %t: %s", logged, b.logs)
				}
				b.wantNoneLeft()
			})
		})
	}
}

// Deployments that share a file or a Redis, even with one prefix.
func TestFlowsOfAnotherDeploymentAreNeverSent(t *testing.T) {
	const prod, dev = state.Deployment("deployment-p"), state.Deployment("deployment-d")
	named := func(d state.Deployment) func(*state.Config, *Config) {
		return func(c *state.Config, _ *Config) { c.Deployment = d }
	}
	t.Run("bolt", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			backend := openBolt(t, path, prod)
			p := newBoxOn(t, backend, named(prod))
			p.novu.set(down)
			key := p.connect(request("ada")).Key
			before := len(p.novu.log())
			p.novu.set(nil)
			must(t, backend.Close())

			backend = openBolt(t, path, dev)
			d := p.restart(backend, named(dev))
			stop := d.run()
			time.Sleep(time.Hour)
			stop()
			if got := len(d.novu.log()); got != before {
				t.Errorf("got %d attempts by another deployment", got-before)
			}
			wantNothingOf(t, d, prod, key)
			must(t, backend.Close())

			p = p.restart(openBolt(t, path, prod), named(prod))
			defer p.run()()
			time.Sleep(time.Minute)
			p.wantOutcome(key, state.Connected)
		})
	})
	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t)
		p := newBoxOn(t, state.NewRedis(server.Client(), "nsr", prod), named(prod))
		d := p.restart(state.NewRedis(server.Client(), "nsr", dev), named(dev))
		_, err := p.Store.Others(t.Context()) // as serve does at its start
		must(t, err)
		key := p.record(request("ada"))
		wantNothingOf(t, d, prod, key)
		if sent, waiting, err := p.Drain(t.Context()); sent != 1 || waiting != 0 || err != nil {
			t.Errorf("its own deployment: got %d, %d, %v, want it sent", sent, waiting, err)
		}
	})
}

// wantNothingOf checks that b has nothing of another deployment, but knows of it.
func wantNothingOf(t *testing.T, b *box, other state.Deployment, key state.Key) {
	t.Helper()
	if sent, waiting, err := b.Drain(t.Context()); sent != 0 || waiting != 0 || err != nil {
		t.Errorf("drain: got %d, %d, %v, want it left alone", sent, waiting, err)
	}
	if _, w, _, err := b.Waiting(t.Context()); w.N != 0 || err != nil {
		t.Errorf("waiting: got %v, %v, want none", w, err)
	}
	if _, _, err := b.Consume(t.Context(), key, secret.New("code")); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("consume: got %v, want not found", err)
	}
	if others, err := b.Store.Others(t.Context()); err != nil || others[other] != 1 {
		t.Errorf("others: got %v, %v, want 1", others, err)
	}
}

// Rotation: what an old secret sealed opens while it is listed, and is kept
// when it is not.
func TestStoreSecretRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		recorded := b.connect(request("ada"))
		working := b.consume(b.issue(request("bob")))
		attempts := len(b.novu.log())
		b.novu.set(nil)

		without := b.another(storeSecrets("new-secret"))
		stop := without.run()
		time.Sleep(time.Minute)
		stop()
		for _, key := range []state.Key{recorded.Key, working.Key} {
			if n := strings.Count(b.logs.String(), string(key)); n < 1 || key == recorded.Key && n < 2 {
				t.Errorf("%s was tried %d times in a minute, want again soon: another instance may have the secret", key, n)
			}
		}
		if got := b.logs.String(); !strings.Contains(got, state.ErrSealed.Error()) || !strings.Contains(got, `"level":"error"`) || !strings.Contains(got, `"remedy":"add the secret`) {
			t.Errorf("the log does not say it: %s", got)
		}
		stop = without.run()
		time.Sleep(8 * time.Minute)
		if len(b.novu.log()) != attempts || len(b.slack.log()) != 1 || b.left() != 2 {
			t.Errorf("got %d attempts, %d exchanges and %d left, want none, none and 2", len(b.novu.log())-attempts, len(b.slack.log())-1, b.left())
		}
		stop()

		with := b.another(storeSecrets("new-secret", "store-secret"))
		defer with.run()()
		time.Sleep(30 * time.Second)
		with.wantOutcome(recorded.Key, state.Connected)
		with.wantOutcome(working.Key, state.Connected)
		with.wantNoneLeft()
	})
}

// The order of connections survives a rotation of the store's secret.
func TestOrderSurvivesRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		older := b.connect(request("ada"))
		rotated := b.another(storeSecrets("new-secret"))
		newer := rotated.connect(request("ada"))
		b.novu.set(nil)
		defer b.another(storeSecrets("new-secret", "store-secret")).run()()
		time.Sleep(time.Minute)
		b.wantOutcome(older.Key, state.Replaced)
		rotated.wantOutcome(newer.Key, state.Connected)
		b.wantSaved("canary-code-2")
	})
}

// rawBolt edits a closed store's file. Each deployment has a bucket; a flow's value begins
// with 8 bytes: when it expires.
func rawBolt(t *testing.T, path string, edit func(home *bolt.Bucket) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error { return edit(tx.Bucket([]byte(deployment))) }))
	must(t, db.Close())
}

// Who can write to the store can delete and delay, and redirect nothing: a record that
// is moved, or mixed with another one, does not open.
func TestEditedRecordsAreNotSent(t *testing.T) {
	const ada, eve = 0, 1
	for name, edit := range map[string]func(rows [][]byte) []byte{ // returns what is put in ada's place
		"whole record moved": func(rows [][]byte) []byte { return rows[eve] },
		"content mixed": func(rows [][]byte) []byte {
			length := func(row []byte) (head int, request int) { // the first line ends with the length of the request
				line, _, _ := bytes.Cut(row, []byte("\n"))
				fields := bytes.Fields(line)
				fmt.Sscan(string(fields[len(fields)-1]), &request)
				return len(line) + 1, request
			}
			head, request := length(rows[ada])
			eveHead, eveRequest := length(rows[eve])
			return append(bytes.Clone(rows[ada][:head+request]), rows[eve][eveHead+eveRequest:]...)
		},
		"another number": func(rows [][]byte) []byte { return append([]byte("r 9"), rows[ada][len("r 1"):]...) },
		"working again":  func(rows [][]byte) []byte { return append([]byte("w"), rows[ada][1:]...) },
		"finished":       func(rows [][]byte) []byte { return append([]byte("f"), rows[ada][1:]...) },
		"altered":        func(rows [][]byte) []byte { row := bytes.Clone(rows[ada]); row[len(row)-1] ^= 1; return row },
		"emptied": func(rows [][]byte) []byte {
			line, _, _ := bytes.Cut(rows[ada], []byte("\n"))
			return append(bytes.Clone(line), '\n')
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "store.db")
				backend := openBolt(t, path, deployment)
				b := newBoxOn(t, backend)
				keys := []state.Key{b.record(request("ada")), b.record(request("eve"))}
				must(t, backend.Close())
				rawBolt(t, path, func(home *bolt.Bucket) error {
					var rows [][]byte
					for _, key := range keys {
						rows = append(rows, bytes.Clone(home.Get([]byte("flow:" + key))[8:]))
					}
					expires := bytes.Clone(home.Get([]byte("flow:" + keys[ada]))[:8])
					return home.Put([]byte("flow:"+keys[ada]), append(expires, edit(rows)...))
				})
				b = b.restart(openBolt(t, path, deployment))
				defer b.run()()
				time.Sleep(10 * time.Minute)
				b.wantOutcome(keys[eve], state.Connected, state.Replaced) // replaced is deleted, by who may delete it
				for _, a := range b.novu.log() {
					if a.SubscriberID != "eve" || !strings.HasSuffix(a.WebhookURL.Reveal(), "-2") {
						t.Errorf("%s was sent for %s", a.WebhookURL.Reveal(), a.SubscriberID)
					}
				}
				if got := len(b.slack.log()); got != 0 {
					t.Errorf("got %d exchanges, want none", got)
				}
				if f, err := b.Store.Look(t.Context(), keys[ada]); err == nil || errors.Is(err, state.ErrNotFound) {
					t.Errorf("got %s, %v, want a record that does not open", outcome(f), err)
				}
				if name != "finished" && !strings.Contains(b.logs.String(), string(keys[ada])) {
					t.Errorf("the log does not name the record: %s", b.logs)
				}
			})
		})
	}
}

// A copy of the store, and the log, show nobody and nothing that is secret.
func TestNothingIsReadable(t *testing.T) {
	const subscriber = "canary-subscriber"
	r := request(subscriber)
	r.ReturnURL = "https://canary.example.com/"
	forms := []string{"canary", "Canary", "hooks.slack.com", "slack-1", "example.com", base64.RawURLEncoding.EncodeToString([]byte("canary")), hex.EncodeToString([]byte("canary")), "eyJ"}
	// fill leaves a flow in each phase.
	fill := func(b *box) (keys []state.Key) {
		keys = append(keys, b.issue(r), b.consume(b.issue(r)).Key)
		b.novu.set(nil)
		keys = append(keys, b.connect(r).Key)
		b.novu.set(down)
		return append(keys, b.connect(r).Key)
	}
	check := func(t *testing.T, what, text string, shown []state.Key) {
		t.Helper()
		for _, key := range shown {
			if !strings.Contains(text, string(key)) {
				t.Fatalf("%s does not show the keys: the test sees nothing", what)
			}
		}
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s shows %q", what, form)
			}
		}
	}
	t.Run("bolt", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			b := newBoxOn(t, openBolt(t, path, deployment))
			keys := fill(b)
			raw, err := os.ReadFile(path)
			must(t, err)
			check(t, "the file", string(raw), keys)
			for _, text := range []string{webhookPrefix, "canary-code", "canary-channel", "eyJ"} {
				if strings.Contains(b.logs.String(), text) {
					t.Errorf("the log shows %q: %s", text, b.logs)
				}
			}
			if !strings.Contains(b.logs.String(), subscriber) {
				t.Errorf("the log does not name the subscriber: %s", b.logs)
			}
		})
	})
	t.Run("redis", func(t *testing.T) {
		client := redistest.Start(t).Client()
		b := newBoxOn(t, state.NewRedis(client, "nsr", deployment))
		keys := fill(b)
		check(t, "Redis", dump(t, client), keys)
	})
}

// dump returns all that a Redis holds.
func dump(t *testing.T, client *redis.Client) string {
	t.Helper()
	var all strings.Builder
	keys, err := client.Keys(t.Context(), "*").Result()
	must(t, err)
	for _, key := range keys {
		kind, err := client.Type(t.Context(), key).Result()
		must(t, err)
		var value any
		switch kind {
		case "string":
			value, err = client.Get(t.Context(), key).Result()
		case "zset":
			value, err = client.ZRangeWithScores(t.Context(), key, 0, -1).Result()
		case "set":
			value, err = client.SMembers(t.Context(), key).Result()
		default:
			t.Fatalf("%s is a %s", key, kind)
		}
		must(t, err)
		fmt.Fprintln(&all, key, value)
	}
	return all.String()
}

// Records that cannot be opened or read hold up nothing else.
func TestUnreadableRecordsHoldUpNothing(t *testing.T) {
	const good = 6
	malformed := map[state.Key]string{
		"malformed-record-garbage": "garbage",
		"malformed-record-empty--": "",
		"malformed-record-cut----": "r 1 1 0 - - - 999\nabc",
		"malformed-record-binary-": strings.Repeat("\x00\xff\n", 50),
	}
	// check is given a store with the good flows, the malformed rows, and one row that
	// cannot be opened, all due.
	check := func(t *testing.T, b *box, keys []state.Key, sealed state.Key) {
		t.Helper()
		if _, w, _, err := b.Waiting(t.Context()); w.N != good+len(malformed)+1 || err != nil {
			t.Errorf("waiting: got %v, %v, want all", w, err)
		}
		listed := map[state.Key]bool{}
		must(t, b.Store.List(t.Context(), state.Deliveries, func(f state.Flow, err error) bool {
			listed[f.Key] = err == nil
			return true
		}))
		for key := range malformed {
			if readable, ok := listed[key]; !ok || readable {
				t.Errorf("%s is listed: %t, readable: %t", key, ok, readable)
			}
		}
		sent, _, err := b.Drain(t.Context())
		if sent != good || err != nil {
			t.Errorf("drain: got %d sent, %v, want %d", sent, err, good)
		}
		for _, key := range keys {
			b.wantOutcome(key, state.Connected)
		}
		for key := range malformed {
			if !strings.Contains(b.logs.String(), string(key)) {
				t.Errorf("the log does not name %s: %s", key, b.logs)
			}
		}
		if !strings.Contains(b.logs.String(), string(sealed)) {
			t.Errorf("the log does not name %s: %s", sealed, b.logs)
		}
		for key := range malformed {
			must(t, b.Store.Drop(t.Context(), key))
		}
		must(t, b.Store.Drop(t.Context(), sealed))
		b.wantNoneLeft()
	}
	fill := func(b *box) (keys []state.Key, sealed state.Key) {
		sealed = b.another(storeSecrets("another-secret")).record(request("eve"))
		for i := range good {
			keys = append(keys, b.record(request(fmt.Sprint(i))))
		}
		return keys, sealed
	}
	fillBolt := func(t *testing.T) (b *box, keys []state.Key, sealed state.Key) {
		path := filepath.Join(t.TempDir(), "store.db")
		backend := openBolt(t, path, deployment)
		b = newBoxOn(t, backend)
		keys, sealed = fill(b)
		must(t, backend.Close())
		rawBolt(t, path, func(home *bolt.Bucket) error {
			for key, text := range malformed {
				never, at := make([]byte, 8), binary.BigEndian.AppendUint64(nil, 1) // the longest due
				err := errors.Join(
					home.Put([]byte("flow:"+key), slices.Concat(never, []byte(text))),
					home.Put([]byte("flow:"+key+"/due"), slices.Concat(never, at)),
					home.Put(slices.Concat([]byte("due/"), at, []byte(key)), nil),
				)
				if err != nil {
					return err
				}
			}
			return nil
		})
		return b.restart(openBolt(t, path, deployment)), keys, sealed
	}
	t.Run("bolt", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b, keys, sealed := fillBolt(t)
			check(t, b, keys, sealed)
		})
	})
	t.Run("redis", func(t *testing.T) {
		client := redistest.Start(t).Client()
		b := newBoxOn(t, state.NewRedis(client, "nsr", deployment))
		keys, sealed := fill(b)
		prefix := "nsr:{" + string(deployment) + "}:"
		for key, text := range malformed {
			must(t, client.Set(t.Context(), prefix+"flow:"+string(key), text, 0).Err())
			must(t, client.ZAdd(t.Context(), prefix+"due", redis.Z{Score: 1, Member: string(key)}).Err())
		}
		check(t, b, keys, sealed)
	})
	t.Run("worker", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b, keys, _ := fillBolt(t)
			defer b.run()()
			time.Sleep(pollInterval)
			for _, key := range keys {
				b.wantOutcome(key, state.Connected)
			}
			newer := b.connect(request("new"))
			if outcome(newer) != state.Connected {
				t.Errorf("a newer flow is %s, want connected", outcome(newer))
			}
			time.Sleep(50 * time.Minute)
			if got := strings.Count(b.logs.String(), "malformed-record-garbage"); got == 0 || got > 4 {
				t.Errorf("a malformed record was named %d times in 50 minutes, want once", got)
			}
			if got := b.faults.count("claim"); got > (50*60/5+20)*len(state.Queues) {
				t.Errorf("the store was asked %d times in 50 minutes", got)
			}
		})
	})
}

// Two instances on one Redis share the work of a third that died.
func TestTwoInstancesOnRedis(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	b := newBoxOn(t, state.NewRedis(client, "nsr", deployment))
	var keys []state.Key
	for i := range 20 {
		keys = append(keys, b.consume(b.issue(request(fmt.Sprint(i)))).Key)
	}
	if sent, waiting, err := b.Drain(t.Context()); sent != 0 || waiting != 0 || err != nil {
		t.Fatalf("leased: got %d, %d, %v, want nothing due", sent, waiting, err)
	}
	for _, key := range keys { // the leases end
		must(t, client.ZAddXX(t.Context(), "nsr:{"+string(deployment)+"}:due", redis.Z{Score: 1, Member: string(key)}).Err())
	}
	var total int
	var mu sync.Mutex
	var group errgroup.Group
	for range 2 {
		other := b.restart(state.NewRedis(server.Client(), "nsr", deployment))
		group.Go(func() error {
			sent, _, err := other.Drain(t.Context())
			mu.Lock()
			defer mu.Unlock()
			total += sent
			return err
		})
	}
	must(t, group.Wait())
	for _, key := range keys {
		b.wantOutcome(key, state.Connected)
	}
	if total != len(keys) || len(b.slack.log()) != len(keys) || len(b.novu.log()) != len(keys) {
		t.Errorf("got %d sent, %d exchanges and %d saves, want %d of each", total, len(b.slack.log()), len(b.novu.log()), len(keys))
	}
	b.wantNoneLeft()
}

// wire is Slack and Novu, as the real clients see them.
type wire struct {
	mu    sync.Mutex
	begun time.Time
	save  func(n int) (status int, body string, err error) // to the nth save
	saves []time.Duration
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	status, body, err := 200, "", error(nil)
	switch path := r.URL.Path; {
	case path == "/api/oauth.v2.access":
		body = `{"ok":true,"team":{"id":"T01","name":"Acme"},"incoming_webhook":{"url":"` + webhookPrefix + `1","channel":"#alerts","channel_id":"C01"}}`
	case path == "/v1/integrations/active":
		body = `{"data":[{"_id":"1","_environmentId":"e","identifier":"` + defaultIntegration + `","providerId":"slack","channel":"chat","active":true}]}`
	case path == "/v1/environments/me":
		body = `{"data":{"_id":"e","name":"Production"}}`
	case strings.HasSuffix(path, "/credentials"):
		w.mu.Lock()
		w.saves = append(w.saves, time.Since(w.begun))
		status, body, err = w.save(len(w.saves))
		w.mu.Unlock()
	default:
		status, body = 404, `{"message":"Cannot `+r.Method+` `+path+`"}`
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// The real clients: what may have reached Novu is not sent again for 30 s, what Novu
// answered is tried again at once.
func TestRealClients(t *testing.T) {
	slackURL, novuURL := &url.URL{Scheme: "https", Host: "slack.com"}, &url.URL{Scheme: "https", Host: "api.novu.co"}
	for name, test := range map[string]struct {
		status int
		body   string
		err    error
		pause  time.Duration // at least, until the second save
	}{
		"reset":               {err: io.ErrUnexpectedEOF, pause: maybeAtWorkFor},
		"gateway timed out":   {status: 504, body: "<html>", pause: maybeAtWorkFor},
		"bad gateway":         {status: 502, body: "<html>", pause: maybeAtWorkFor},
		"service unavailable": {status: 503, body: "{}", pause: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := &wire{begun: time.Now(), save: func(n int) (int, string, error) {
					if n == 1 {
						return test.status, test.body, test.err
					}
					return 200, `{"data":{}}`, nil
				}}
				client := &http.Client{Transport: w}
				b := newBox(t, func(_ *state.Config, c *Config) {
					c.Slack = slackoauth.New(slackoauth.Config{ClientID: "1.2", ClientSecret: secret.New("s"), RedirectURL: origin + "/callback", URL: slackURL, HTTPClient: client})
					c.Novu = novuclient.New(novuclient.Config{APIKey: secret.New("k"), URL: novuURL, HTTPClient: client})
				})
				defer b.run()()
				f := b.connect(link.Request{Subscriber: "ada"})
				time.Sleep(2 * time.Minute)
				b.wantOutcome(f.Key, state.Connected)
				if len(w.saves) != 2 {
					t.Fatalf("got %d saves, want 2", len(w.saves))
				}
				if pause := w.saves[1] - w.saves[0]; pause < test.pause || pause > test.pause*6/5+pollInterval {
					t.Errorf("the second save came after %v, want %v", pause, test.pause)
				}
				b.wantNoneLeft()
			})
		})
	}
}

// The log of every flow names it and its subscriber, and is JSON.
func TestLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBox(t)
		b.novu.set(down)
		f := b.connect(request("ada"))
		b.novu.set(nil)
		stop := b.run()
		time.Sleep(time.Minute)
		stop()
		lines := strings.Split(strings.TrimSpace(b.logs.String()), "\n")
		for _, line := range lines {
			var fields struct{ Flow, Subscriber, Integration, Team, Channel string }
			if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Flow != f.ID || fields.Subscriber != "ada" || fields.Integration != "slack-1" || fields.Team != "T01" || fields.Channel != "C01" {
				t.Errorf("got %s, %v", line, err)
			}
		}
		if len(lines) != 2 || !strings.Contains(lines[1], `"outcome":"connected"`) || !strings.Contains(lines[1], `"attempts":2`) {
			t.Errorf("got %q, want a line that it waits and one that it is connected", lines)
		}
	})
}
