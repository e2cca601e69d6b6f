package e2e_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/slackoauth/slacktest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// TestScripts runs the commands as their users do, each script with right settings
// and a Slack and a Novu of its own. Beside testscript's commands there are
//
//	novu-slack-redirect ARGS... the program
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
			f := &fakes{slack: slacktest.New(&upstreamtest.Recorder{}), novu: novutest.New(&upstreamtest.Recorder{})}
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
			e.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+e.Getenv("PATH")) // for exec sh
			e.Vars = append(e.Vars, programEnv(nil)...)
			e.Vars = append(e.Vars,
				"REDIRECT_URL="+f.slack.RedirectURL, "SLACK_CLIENT_ID="+f.slack.ClientID, "SLACK_CLIENT_SECRET="+f.slack.ClientSecret, "SLACK_URL="+serve(f.slack),
				"NOVU_API_KEY="+f.novu.APIKey, "NOVU_API_URL="+serve(f.novu), "LINK_SECRET=canary-link-secret-of-32-bytes-and-more", "DATA_FILE="+e.WorkDir+"/data.db", "APP_NAME=Example Inc.",
			)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"novu-slack-redirect": func(ts *testscript.TestScript, wantFailure bool, args []string) {
				if err := ts.Exec(binary, args...); (err != nil) != wantFailure {
					ts.Fatalf("novu-slack-redirect %s: got %v", strings.Join(args, " "), err)
				}
			},
			"slack": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).slack.BreakAll(upstreamtest.JSON(http.StatusOK, `{"ok":false,"error":"`+args[1]+`"}`))
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
					novu.SetGeneration(novutest.V2_0)
				case "integrations":
					var list []novutest.Integration
					for _, name := range args[1:] {
						list = append(list, novutest.Integration{Identifier: name, Provider: "slack", Active: true})
					}
					novu.SetIntegrations(list...)
				case "has":
					ts.Check(connectInNovu(novu, args[1], args[2]))
				}
			},
		},
	})
}

// connectInNovu gives a subscriber a Slack webhook by Novu's API, in "credentials" or in
// "endpoints".
func connectInNovu(novu *novutest.Server, subscriber, where string) error {
	novu.AddSubscriber(subscriber)
	const webhook = "https://hooks.slack.com/services/canary"
	method, path := http.MethodPut, "/v1/subscribers/"+url.PathEscape(subscriber)+"/credentials"
	body := `{"providerId":"slack","credentials":{"webhookUrl":"` + webhook + `"}}`
	if where == "endpoints" {
		method, path = http.MethodPost, "/v1/channel-endpoints"
		body = `{"identifier":"e1","subscriberId":"` + subscriber + `","integrationIdentifier":"slack-main","type":"webhook","endpoint":{"url":"` + webhook + `"}}`
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "ApiKey "+novu.APIKey)
	answer := httptest.NewRecorder()
	novu.ServeHTTP(answer, r)
	if answer.Code/100 != 2 {
		return fmt.Errorf("novu: HTTP %d: %s", answer.Code, answer.Body)
	}
	return nil
}

// No command prints a secret, in the scripts or here.
func TestCheckPrintsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
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
	t.Parallel()
	const first, second = "the-first-secret-of-32-bytes-and-more", "the-second-secret-of-32-bytes-and-more"
	w := newWorld(t, "LINK_SECRET="+first+","+second, "NOVU_SAVE_AS=endpoint", "NOVU_ENVIRONMENT_ID=env1")
	exit, stdout, stderr := runCommand(t, w.env, "link", "--expires", "2h", "a & b", "--integration", "slack-eu", "--return-url", "https://app.example.com/x", "--team", "T01", "--context", `{"tenant":"acme"}`,
		"--account-name", "Ada & Söhne", "--environment", "env1")
	if exit != exitOK {
		t.Fatalf("got exit code %d: %s", exit, stderr)
	}
	token, ok := strings.CutPrefix(strings.TrimSpace(stdout), publicOrigin+"/slack/install?token=")
	if !ok {
		t.Fatalf("got %s, want an install link", stdout)
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte(first), nil }, jwt.WithAudience(publicOrigin), jwt.WithValidMethods([]string{"HS256"}))
	if err != nil {
		t.Fatal(err)
	}
	expires, _ := claims.GetExpirationTime()
	if left := time.Until(expires.Time); left < 115*time.Minute || left > 2*time.Hour {
		t.Errorf("the link works for %v, want 2h", left)
	}
	for name, want := range map[string]string{"sub": "a & b", "integrationIdentifier": "slack-eu", "environmentId": "env1", "returnUrl": "https://app.example.com/x", "teamId": "T01", "accountName": "Ada & Söhne", "context": "map[tenant:acme]"} {
		if got := fmt.Sprint(claims[name]); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
