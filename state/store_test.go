package state

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

var testLinks = &link.Verifier{
	Origin: "https://slack.example.com", Secrets: []secret.String{secret.New("a link secret of the tests")}, Integration: "from-settings",
	ReturnURLs: []*url.URL{{Scheme: "https", Host: "default.example.com"}},
}

func newTestStore(t *testing.T, b Backend, secrets ...string) *Store {
	t.Helper()
	config := Config{Backend: b, Deployment: testDeployment, Links: testLinks, ResultTTL: time.Hour}
	for _, text := range secrets {
		config.Secrets = append(config.Secrets, secret.New(text))
	}
	s, err := New(config)
	must(t, err)
	return s
}

// newFlow returns a flow that is not issued yet.
func newFlow(t *testing.T, r link.Request) Flow {
	t.Helper()
	signed, err := testLinks.Sign(r, time.Now().Add(time.Hour))
	must(t, err)
	_, query, _ := strings.Cut(signed, "?")
	l, err := link.Read(query, "")
	must(t, err)
	f := Flow{Link: l}
	f.Request, err = testLinks.Verify(l)
	must(t, err)
	f.ID, _ = FlowID(NewState(time.Now()))
	f.Key, _ = NewKey(f.ID, NewBrowserHalf())
	return f
}

var result = Result{Team: "Acme", TeamID: "T01", Channel: "#alerts", ChannelID: "C01", ConfigurationURL: "https://acme.slack.com/services/B01"}

// A flow comes back from every phase as it was put in.
func TestStoreKeepsFlows(t *testing.T) {
	s, ctx := newTestStore(t, newTestMiniredis(t).Backend, "canary-store-secret"), t.Context()
	f := newFlow(t, link.Request{Subscriber: "user+1@example.com/ä #?", ReturnURL: "https://app.example.com/s?x=1#y", TeamID: "T01"})
	f.Request.Integration = "resolved"
	must(t, s.Issue(ctx, f, time.Hour))
	same := func(got Flow, err error, phase Phase) Flow {
		t.Helper()
		must(t, err)
		if got.ID != f.ID || got.Key != f.Key || got.Link != f.Link || got.Request != f.Request || got.Phase != phase {
			t.Fatalf("got %+v, want %+v in phase %c", got, f, phase)
		}
		return got
	}
	got, err := s.Look(ctx, f.Key)
	same(got, err, Issued)

	begin := time.Now()
	got, won, err := s.Consume(ctx, f.Key, NewOwner(), secret.New("code"), time.Minute, 0)
	flow := same(got, err, Working)
	if !won || got.Code.Reveal() != "code" || got.Number < 1 || got.Consumed.IsZero() || got.LeaseEnds.After(time.Now().Add(time.Minute)) || got.LeaseEnds.Before(begin.Add(time.Minute-time.Second)) {
		t.Errorf("got %+v", got)
	}
	got, won, err = s.Consume(ctx, f.Key, NewOwner(), secret.New("another code"), time.Minute, 0)
	if same(got, err, Working); won || got.Code.Reveal() != "code" {
		t.Errorf("the second callback: got %+v, won %v", got, won)
	}

	flow.Webhook, flow.Result, flow.LastError = secret.New("https://hooks.slack.com/services/x"), result, ""
	leased, err := s.Record(ctx, &flow, time.Minute)
	must(t, err)
	flow.LastError, flow.Attempts = "novu: unavailable", 1
	must(t, s.Postpone(ctx, &flow, 0, 0))
	claimed, _, err := s.Claim(ctx, Deliveries, time.Minute)
	same(*claimed, err, Recorded)
	if !leased || claimed.Webhook.Reveal() != "https://hooks.slack.com/services/x" || claimed.Result != result || claimed.LastError != "novu: unavailable" || claimed.Attempts != 1 || !claimed.Code.Empty() {
		t.Errorf("got %+v", claimed)
	}
	claimed.Result.Code = Connected
	must(t, s.Finish(ctx, claimed))
	got, err = s.Look(ctx, f.Key)
	if same(got, err, Finished); got.Result.Code != Connected || got.Result.Channel != "#alerts" || !got.Webhook.Empty() {
		t.Errorf("got %+v", got)
	}
	if err := s.Finish(ctx, &flow); !errors.Is(err, ErrLost) {
		t.Errorf("a sender that lost the flow: got %v, want ErrLost", err)
	}
	if _, err := s.Look(ctx, newKey(t)); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// An overtaken flow says so, whoever asks.
func TestStoreSaysReplaced(t *testing.T) {
	s, ctx := newTestStore(t, newTestMiniredis(t).Backend, "secret"), t.Context()
	consume := func(r link.Request) *Flow {
		f := newFlow(t, r)
		must(t, s.Issue(ctx, f, time.Hour))
		f, won, err := s.Consume(ctx, f.Key, NewOwner(), secret.New("code"), time.Minute, 0)
		if err != nil || !won {
			t.Fatal(won, err)
		}
		return &f
	}
	ada := link.Request{Subscriber: "ada", Integration: "main"}
	older, newer := consume(ada), consume(ada)
	_, err := s.Record(ctx, newer, time.Minute)
	must(t, err)
	leased, err := s.Record(ctx, older, time.Minute)
	if err != nil || leased || older.Phase != Finished || older.Result.Code != Replaced {
		t.Errorf("got %v, %v, %+v", leased, err, older)
	}
	if got, err := s.Look(ctx, older.Key); err != nil || got.Phase != Finished || got.Result.Code != Replaced || got.Link != older.Link {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, other := range map[string]link.Request{
		"integration": {Subscriber: "ada", Integration: "eu"},
		"subscriber":  {Subscriber: "bob", Integration: "main"},
	} {
		if f := consume(other); f != nil {
			if _, err := s.Record(ctx, f, time.Minute); err != nil || f.Phase != Recorded {
				t.Errorf("another %s: got %v, %c, want it recorded", name, err, f.Phase)
			}
		}
	}
	if got, err := s.Look(ctx, newer.Key); err != nil || got.Phase != Recorded {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Records are sealed for their key, phase and number, and show nothing.
func TestStoreIsSealed(t *testing.T) {
	eachBackend(t, func(t *testing.T, b testBackend) {
		ctx := context.Background()
		old, s := newTestStore(t, b, "old secret"), newTestStore(t, b, "new secret", "old secret")
		f := newFlow(t, link.Request{Subscriber: "canary-ada", ReturnURL: "https://canary.example.com/"})
		must(t, old.Issue(ctx, f, time.Hour))
		got, won, err := s.Consume(ctx, f.Key, NewOwner(), secret.New("canary-code"), time.Minute, 0)
		if err != nil || !won || got.Request.Subscriber != "canary-ada" {
			t.Fatalf("after a rotation: got %+v, %v, %v", got, won, err)
		}
		got.Webhook, got.Result = secret.New("https://hooks.slack.com/canary"), Result{Channel: "#canary", Team: "canary Inc."}
		_, err = s.Record(ctx, &got, time.Minute)
		must(t, err)
		if all := b.dump(); strings.Contains(all, "canary") || strings.Contains(all, f.Link.Token) || !strings.Contains(all, string(f.Key)) {
			t.Error("the store shows what it keeps, or the dump shows nothing")
		}
		if _, err := newTestStore(t, b, "third secret").Look(ctx, f.Key); !errors.Is(err, ErrSealed) {
			t.Errorf("with another secret: got %v, want ErrSealed", err)
		}

		row, err := b.Look(ctx, f.Key)
		must(t, err)
		other := newFlow(t, link.Request{Subscriber: "mallory"})
		must(t, s.Issue(ctx, other, time.Hour))
		theirs, err := b.Look(ctx, other.Key)
		must(t, err)
		edited := func(change func(*Row)) Row {
			r := row
			change(&r)
			return r
		}
		for name, bad := range map[string]struct {
			key Key
			Row
		}{
			"moved to another key":   {other.Key, row},
			"another flow's request": {f.Key, edited(func(r *Row) { r.Request = theirs.Request })},
			"another phase":          {f.Key, edited(func(r *Row) { r.Phase = Finished })},
			"back to working":        {f.Key, edited(func(r *Row) { r.Phase = Working })},
			"another number":         {f.Key, edited(func(r *Row) { r.Number++ })},
			"an edited byte":         {f.Key, edited(func(r *Row) { r.Content = append([]byte{r.Content[0] ^ 1}, r.Content[1:]...) })},
			"no content":             {f.Key, edited(func(r *Row) { r.Content = nil })},
		} {
			b.write(bad.key, string(bad.encode()))
			if got, err := s.Look(ctx, bad.key); !errors.Is(err, ErrSealed) {
				t.Errorf("%s: got %+v, %v, want ErrSealed", name, got, err)
			}
		}

		// What cannot be opened is kept as it is, for who can.
		b.write(f.Key, string(row.encode()))
		stranger := newTestStore(t, b, "third secret")
		claimed, _, err := stranger.Claim(ctx, Deliveries, time.Minute)
		for n := 0; err == nil || claimed == nil || claimed.Key != f.Key; n++ { // the other cases' records are due too
			if n == 100 {
				t.Fatalf("the record is not claimed; the last answers: %+v, %v", claimed, err)
			}
			if claimed == nil && err == nil {
				b.wait(time.Minute)
			}
			claimed, _, err = stranger.Claim(ctx, Deliveries, time.Minute)
		}
		if !errors.Is(err, ErrSealed) {
			t.Fatalf("got %v, want ErrSealed", err)
		}
		claimed.Attempts++
		must(t, stranger.Postpone(ctx, claimed, 0, 0))
		if got, err := s.Look(ctx, f.Key); err != nil || got.Webhook.Reveal() != "https://hooks.slack.com/canary" || got.Attempts != 1 {
			t.Errorf("got %+v, %v, want the webhook, and the attempt counted", got, err)
		}
	})
}

func TestStoreWantsASecret(t *testing.T) {
	for _, secrets := range [][]secret.String{nil, {secret.New("")}, {secret.New("x"), {}}} {
		if _, err := New(Config{Secrets: secrets}); err == nil {
			t.Errorf("%d secrets: got no error", len(secrets))
		}
	}
}
