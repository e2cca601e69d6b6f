package main

import (
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/bench/floor"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// newBareLab is a lab without the binaries. Where redis-server is not installed
// the test is skipped, or fails with CI=true.
func newBareLab(tb testing.TB) *lab {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil && os.Getenv("CI") != "true" {
		tb.Skip(errNoRedis)
	}
	l := &lab{dir: tb.TempDir()}
	tb.Cleanup(l.close)
	var err error
	if l.fakes, err = newFakes(); err == nil {
		err = l.startRedis()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// inProcess starts the routes of the service or the floor in this process.
func inProcess(tb testing.TB, l *lab, name string) (addr string) {
	tb.Helper()
	client, err := floor.Redis("redis://" + l.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	log, parse := zerolog.New(devNull(tb)), func(text string) *url.URL { u, _ := url.Parse(text); return u }
	routes := floor.New(floor.Config{
		Redis: client, Slack: l.fakes.slack, Novu: l.fakes.novu, ClientID: clientID, ClientSecret: clientSecret,
		APIKey: apiKey, LinkSecret: linkSecret, RedirectURL: redirectURL, To: returnURL, Log: log,
	})
	if name == "service" {
		flows := state.NewRedis(client)
		novu := novuclient.New(novuclient.Config{APIKey: secret.New(apiKey), URL: parse(l.fakes.novu)})
		deliveries, err := outbox.New(outbox.Config{Store: outbox.NewRedis(client, flows), Novu: novu, Secrets: []secret.String{secret.New(clientSecret)}, Log: log})
		if err != nil {
			tb.Fatal(err)
		}
		routes = handler.New(handler.Config{
			RedirectURL: parse(redirectURL), States: flows, Outbox: deliveries, Novu: novu, StateTTL: 15 * time.Minute, Log: log,
			Links: &handler.Links{Origin: strings.TrimSuffix(redirectURL, "/slack/callback"), Secrets: []secret.String{secret.New(linkSecret)}, ReturnURLs: []*url.URL{parse(returnURL)}, Now: time.Now},
			Slack: slackoauth.New(slackoauth.Config{ClientID: clientID, ClientSecret: secret.New(clientSecret), RedirectURL: redirectURL, URL: parse(l.fakes.slack)}),
		})
	}
	server := httptest.NewServer(routes)
	tb.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func devNull(tb testing.TB) *os.File {
	file, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { file.Close() })
	return file
}

// BenchmarkFlow is one flow after the other, install and callback. Allocations
// are all of this process: the browser's and the fakes' are the same for both.
func BenchmarkFlow(b *testing.B) {
	for _, name := range []string{"service", "floor"} {
		b.Run(name, func(b *testing.B) {
			l := newBareLab(b)
			addr := inProcess(b, l, name)
			visits := l.visits(name, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			if _, err := closed(addr, visits, 1); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// One tiny round, so that the benchmark stays in working order.
func TestCompare(t *testing.T) {
	newBareLab(t) // skips without Redis
	var out strings.Builder
	if err := run([]string{"-flows", "100", "-rounds", "1", "-rate", "200", "-starts", "1", "-pending", "100"}, &out); err != nil {
		t.Fatal(err)
	}
	// The outbox's worker looks for what is due now and then: 4.0 or 4.1.
	for _, line := range []string{`flows/s, 32 at a time +\d+ +\d+ +\d`, `Redis round trips a flow +4\.[01]\d +2\.00 +2`, `stripped binary \(MB\) +\d`} {
		if !regexp.MustCompile(line).MatchString(out.String()) {
			t.Errorf("got\n%s, want a line like %q", out.String(), line)
		}
	}
}
