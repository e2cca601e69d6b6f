package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/wire"
)

// TestScripts runs the commands as their users do, each script with right settings
// and a Slack and a Novu of its own. Beside testscript's commands there are
//
//	slack says CODE             Slack refuses every exchange with CODE
//	novu integrations NAME...   the active Slack integrations
//	novu has SUBSCRIBER WHERE   a Slack webhook in credentials or endpoints
//	novu old                    a Novu without channel endpoints
//	clock off DURATION          Slack's and Novu's clocks differ from ours
func TestScripts(t *testing.T) {
	t.Parallel()
	type fakes struct {
		slack *slacktest.Server
		novu  *novutest.Server
		skew  atomic.Int64
	}
	of := func(ts *testscript.TestScript) *fakes { return ts.Value("fakes").(*fakes) }
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			f := &fakes{slack: slacktest.New(&wire.Log{}), novu: novutest.New(&wire.Log{})}
			f.slack.RedirectURL = "https://slack.example.com/slack/callback"
			f.slack.ClientSecret, f.novu.APIKey = "canary-client-secret", "canary-api-key"
			serve := func(h http.Handler) string {
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if skew := f.skew.Load(); skew != 0 {
						w.Header().Set("Date", time.Now().Add(time.Duration(skew)).UTC().Format(http.TimeFormat))
					}
					h.ServeHTTP(w, r)
				}))
				e.Defer(s.Close)
				return s.URL
			}
			e.Values["fakes"] = f
			e.Vars = append(e.Vars,
				"REDIRECT_URL="+f.slack.RedirectURL, "SLACK_CLIENT_ID="+f.slack.ClientID, "SLACK_CLIENT_SECRET="+f.slack.ClientSecret, "SLACK_URL="+serve(f.slack),
				"NOVU_API_KEY="+f.novu.APIKey, "NOVU_API_URL="+serve(f.novu), "LINK_SECRET=canary-link-secret-of-32-bytes-and-more", "DATA_FILE="+e.WorkDir+"/data.db",
			)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"slack": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).slack.BreakAll(wire.JSON(http.StatusOK, `{"ok":false,"error":"`+args[1]+`"}`))
			},
			"clock": func(ts *testscript.TestScript, _ bool, args []string) {
				d, err := time.ParseDuration(args[1])
				ts.Check(err)
				of(ts).skew.Store(int64(d))
			},
			"novu": func(ts *testscript.TestScript, _ bool, args []string) {
				novu := of(ts).novu
				switch args[0] {
				case "old":
					novu.SetOld()
				case "integrations":
					var list []novutest.Integration
					for _, name := range args[1:] {
						list = append(list, novutest.Integration{Identifier: name, Provider: "slack", Active: true})
					}
					novu.SetIntegrations(list...)
				case "has":
					root, err := url.Parse(ts.Getenv("NOVU_API_URL"))
					ts.Check(err)
					client := novuclient.New(novuclient.Config{URL: root, APIKey: secret.New(novu.APIKey), CreateSubscriber: true, SaveEndpoints: args[2] == "endpoints"})
					ts.Check(client.Save(context.Background(), novuclient.Connection{SubscriberID: args[1], Integration: "slack-main", WebhookURL: secret.New("https://hooks.slack.com/services/canary")}))
				}
			},
		},
	})
}

// No command prints a secret, in the scripts or here.
func TestCheckPrintsNoSecret(t *testing.T) {
	w := newWorld(t, "DATA_FILE="+t.TempDir()+"/data.db")
	for _, args := range [][]string{{"check"}, {"check", "--json", "--subscriber", "ada"}} {
		_, out, errs := runCommand(t, w.env, args...)
		out += errs
		if !strings.Contains(out, "slack_client") {
			t.Fatalf("%v: got %s", args, out)
		}
		for _, s := range []string{w.novu.APIKey, w.slack.ClientSecret, linkSecret, "provider-secret", "hooks.slack.com"} {
			if strings.Contains(out, s) {
				t.Errorf("%v prints %s: %s", args, s, out)
			}
		}
	}
}

// What link is told stands in the link, signed with the first of LINK_SECRET.
func TestLinkSaysWhatItIsTold(t *testing.T) {
	settings(t, "LINK_SECRET", "first,second", "NOVU_SAVE_AS", "endpoint", "NOVU_ENVIRONMENT_ID", "env1")
	var stdout, stderr bytes.Buffer
	args := []string{"link", "--expires", "2h", "a & b", "--integration", "slack-eu", "--return-url", "https://app.example.com/x", "--team", "T01", "--context", `{"a":1}`}
	if got := run(context.Background(), args, &stdout, &stderr); got != exitOK {
		t.Fatalf("got exit code %d: %s", got, stderr.String())
	}
	token := strings.TrimSpace(strings.TrimPrefix(stdout.String(), "https://slack.example.com/slack/install?token="))
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte("first"), nil }, jwt.WithAudience("https://slack.example.com"), jwt.WithValidMethods([]string{"HS256"}))
	if err != nil {
		t.Fatal(err)
	}
	expires, _ := claims.GetExpirationTime()
	if left := time.Until(expires.Time); left < 119*time.Minute || left > 121*time.Minute {
		t.Errorf("the link works for %v, want 2h", left)
	}
	for name, want := range map[string]string{"sub": "a & b", "integrationIdentifier": "slack-eu", "environmentId": "env1", "returnUrl": "https://app.example.com/x", "teamId": "T01", "context": "map[a:1]"} {
		if got := fmt.Sprint(claims[name]); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
