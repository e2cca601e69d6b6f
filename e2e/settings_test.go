package e2e_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused fails unless the service refuses to start with one line that has the prefix, and
// prints no value.
func refused(t *testing.T, env []string, prefix string) {
	t.Helper()
	p, err := launch(t, exec.Command(binary), env...)
	if p == nil {
		t.Fatal(err)
	}
	if err == nil {
		p.kill()
		t.Errorf("the service starts, want it to be refused with %q", prefix)
		return
	}
	if exit, text := p.wait(), p.text(); exit != exitUsage || !strings.HasPrefix(text, prefix) || strings.Count(text, "\n") != 1 || strings.Contains(text, "canary") {
		t.Errorf("got exit code %d and %q, want %d and one line that begins with %q", exit, lastLines(text), exitUsage, prefix)
	}
}

// A secret with which others could forge links stops the start, alone or in a list.
func TestBadLinkSecretStopsTheStart(t *testing.T) {
	t.Parallel()
	const key, oldKey, good = "canary-novu-key-of-32-bytes-and-more", "canary-old-novu-key-of-32-bytes-and-more", "canary-link-secret-of-32-bytes-and-more"
	for _, c := range []struct{ secrets, want string }{
		{"canary-of-thirty-one-bytes-long", "LINK_SECRET: has fewer than 32 bytes: "},
		{good + ",canary-short", "LINK_SECRET: entry 2 has fewer than 32 bytes: "},
		{key, "LINK_SECRET: is a key of NOVU_API_KEY: "},
		{oldKey, "LINK_SECRET: is a key of NOVU_API_KEY: "},
		{good + "," + key, "LINK_SECRET: entry 2 is a key of NOVU_API_KEY: "},
		{oldKey + "," + good, "LINK_SECRET: entry 1 is a key of NOVU_API_KEY: "},
	} {
		refused(t, newWorld(t, "NOVU_API_KEY="+key+","+oldKey, "LINK_SECRET="+c.secrets).env, c.want)
	}
}

// wantLinkInvalid fails unless a link is refused and nobody is called.
func (w *world) wantLinkInvalid(t *testing.T, program *program, link string) {
	t.Helper()
	before := len(w.recorder.All())
	a, err := w.person(t).get(program, link)
	if err != nil || a.status != http.StatusForbidden || a.location != "" || !strings.Contains(a.body, "<code>link_invalid</code>") {
		t.Errorf("got %d to %q, %v, want 403 and link_invalid: %s", a.status, a.location, err, readable(a.body))
	}
	if got := w.recorder.All()[before:]; len(got) != 0 {
		t.Errorf("got calls %v, want none", got)
	}
}

// Without LINK_SECRET a signed link is refused, also one that is signed with the API key,
// and Novu-style links work. With it they are refused unless they are switched on.
func TestKindsOfLinks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		secret, switched          string
		signedWorks, novuStyleToo bool
		warning                   string
	}{
		{"", "", false, true, "LINK_SECRET is not set: signed links are refused, and Novu-style links never expire"},
		{"", "true", false, true, "LINK_SECRET is not set: signed links are refused"},
		{"", "false", false, false, "LINK_SECRET is not set, and NOVU_STYLE_LINKS is false: every link is refused"},
		{linkSecret, "", true, false, ""},
		{linkSecret, "false", true, false, ""},
		{linkSecret, "true", true, true, ""},
	} {
		t.Run(fmt.Sprintf("secret %t, switched %q", c.secret != "", c.switched), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "LINK_SECRET="+c.secret, "NOVU_STYLE_LINKS="+c.switched)
			program := start(t, w.env...)
			signed, novuStyle := w.linkTo("ada"), novuStyleLink(w.novu.APIKey, "bob")
			w.linkSecret = w.novu.APIKey
			w.wantLinkInvalid(t, program, w.linkTo("ada"))
			shareable := "/v1/subscribers/bob/credentials/slack/oauth?hmacHash=" + subscriberHash(w.novu.APIKey, "bob")
			links := map[string]bool{signed: c.signedWorks, novuStyle: c.novuStyleToo, shareable: c.novuStyleToo}
			for link, works := range links { // before any connection, which goes on to ask Novu
				if !works {
					w.wantLinkInvalid(t, program, link)
				}
			}
			for link, works := range links {
				if works {
					w.person(t).wantConnect(program, link, textConnected)
				}
			}
			if log := program.text(); !strings.Contains(log, c.warning) || c.warning == "" && strings.Contains(log, "is not set") {
				t.Errorf("the log does not warn of %q: %s", c.warning, lastLines(log))
			}
			exit, _, stderr := runCommand(t, w.env, "link", "ada")
			if c.secret == "" && (exit != exitUsage || stderr != "LINK_SECRET: is not set, and signed links need it; set it to the output of: openssl rand -hex 32\n") || c.secret != "" && exit != exitOK {
				t.Errorf("link: got exit code %d and %q", exit, stderr)
			}
		})
	}
}

// The log line of a refused link says what is wrong with it, and has neither the token nor
// a claim's value, but for the subscriber that a right signature names.
func TestRefusedLinksAreExplainedInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program := start(t, w.env...)
	for want, c := range map[string]claims{
		"the claim sub is not a string":                        {"sub": 4711471147114711},
		"the claim exp is more than 400 days ahead; it counts": {"sub": "ada", "accountName": "canary", "exp": time.Now().Add(time.Hour).UnixMilli()},
		"a claim's name is nearly teamId":                      {"sub": "canary", "teamid": "canary"},
	} {
		link := w.link(c)
		w.wantLinkInvalid(t, program, link)
		var line string
		waitFor(t, "the log has "+want, func() bool {
			for line = range strings.Lines(program.text()) {
				if strings.Contains(line, want) {
					return true
				}
			}
			return false
		})
		if !strings.Contains(line, `"code":"link_invalid"`) {
			t.Errorf("got %s, want link_invalid", line)
		}
		_, token, _ := strings.Cut(link, "token=")
		for _, part := range append(strings.Split(token, "."), "4711471147114711", "canary") {
			if strings.Contains(program.text(), part) {
				t.Errorf("the log has %s of the link", part)
			}
		}
	}
	w.wantLinkInvalid(t, program, novuStyleLink(w.novu.APIKey, "ada"))
	waitFor(t, "the log says that Novu-style links are off", func() bool {
		return strings.Contains(program.text(), "links with subscriberId and hmacHash are off (NOVU_STYLE_LINKS)")
	})
}

// What SECURITY.md does not promise: Slack binds a code to no browser, so who sees a
// callback URL first, and holds a link, can use its code. The victim's flow stays.
func TestUnspentCodeWorksInAnotherFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, victim, other := start(t, w.env...), w.person(t), w.person(t)
	seen := must(url.Parse(victim.approve(program, w.linkTo("ada")))).Query()
	own := must(url.Parse(other.approve(program, w.linkTo("eve"))))
	query := own.Query()
	query.Set("code", seen.Get("code"))
	own.RawQuery = query.Encode()
	other.wantFinish(program, own.String(), textConnected)
	w.wantSaved(t, "eve", 0)
	if channels, _ := w.novu.Channels("ada"); len(channels) != 0 {
		t.Errorf("got channels %v for the victim, want none", channels)
	}
}

// Docker's --env-file keeps quotes that every other reader of the file strips: the app
// would sign with another secret than the service verifies with.
func TestSettingsAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	const good = "canary-link-secret-of-32-bytes-and-more"
	file := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for setting, want := range map[string]string{
		`LINK_SECRET="` + good + `"`:                          "LINK_SECRET: has quotes around it; leave that out, and write the value alone\n",
		`LINK_SECRET=` + good + ` `:                           "LINK_SECRET: has spaces at its ends; ",
		"LINK_SECRET=" + good + "\n":                          "LINK_SECRET: has line breaks in it; ",
		"LINK_SECRET=\ufeff" + good:                           "LINK_SECRET: has invisible characters (U+FEFF) in it; ",
		"LINK_SECRET=" + good + "," + good + "\u200b":         "LINK_SECRET: has invisible characters (U+200B) in it; ",
		`LINK_SECRET=` + good + `,'` + good + `'`:             "LINK_SECRET: entry 2 has quotes around it; ",
		`LINK_SECRET=` + good + ` # canary`:                   "LINK_SECRET: has a comment after it; ",
		`NOVU_API_URL="http://127.0.0.1:1"`:                   "NOVU_API_URL: has quotes around it; ",
		`APP_NAME='canary'`:                                   "APP_NAME: has quotes around it; ",
		"WELCOME_MESSAGE=canary\u200b":                        "WELCOME_MESSAGE: has invisible characters (U+200B) in it; ",
		"PORT=8080\n":                                         "PORT: has line breaks in it; ",
		`RETURN_URLS=https://a.example.com, "https://b.com"`:  "RETURN_URLS: entry 2 has quotes around it; ",
		`STATE_TTL=900`:                                       "STATE_TTL: has no unit: add s, m, h or d; use one like 15m\n",
		`SLACK_CLIENT_ID=A0CANARY`:                            "SLACK_CLIENT_ID: is not two numbers with a dot between them; copy the Client ID",
		"REDIRECT_URL=https://canary.example.com//callback":   "REDIRECT_URL: has a path with an empty part, or with . or .. as one; ",
		"REDIRECT_URL=https://canary.example.com/a/../b":      "REDIRECT_URL: has a path with an empty part, or with . or .. as one; ",
		"REDIRECT_URL=https://canary.example.com/a/%2e/b":     "REDIRECT_URL: has a path with an empty part, or with . or .. as one; ",
		"REDIRECT_URL=https://x.example.com/slack/assets/x":   "REDIRECT_URL: has a path that the service uses itself; ",
		"REDIRECT_URL=https://x.example.com/slack/disconnect": "REDIRECT_URL: has a path that the service uses itself; ",
		"RETURN_URLS=https://canary.example.com/a//b":         "RETURN_URLS: entry 1 has a path with an empty part",
		"RETURN_URLS=https://canary.example.com/a/%2e%2e/b":   "RETURN_URLS: entry 1 has a path with an empty part",
		"APP_URL=canary.example.com":                          "APP_URL: must begin with https://",
		"APP_NAME=":                                           "APP_NAME: is missing; set it to your app's name",
	} {
		refused(t, newWorld(t, setting).env, want)
	}
	for text, want := range map[string]string{
		`"` + good + `"` + "\n": "LINK_SECRET_FILE: names a file whose text has quotes around it; ",
		"\ufeff" + good + "\n":  "LINK_SECRET_FILE: names a file whose text has invisible characters (U+FEFF) in it; ",
		good + "\n\n":           "LINK_SECRET_FILE: names a file whose text has line breaks in it; ",
		good + " \n":            "LINK_SECRET_FILE: names a file whose text has spaces at its ends; ",
	} {
		write(text)
		refused(t, newWorld(t, "LINK_SECRET=", "LINK_SECRET_FILE="+file).env, want)
	}
	for _, text := range []string{good, good + "\n", good + "\r\n"} {
		write(text)
		w := newWorld(t, "LINK_SECRET=", "LINK_SECRET_FILE="+file)
		w.linkSecret = good
		w.person(t).wantConnect(start(t, w.env...), w.linkTo("ada"), textConnected)
	}
	for _, ttl := range []string{"15min", "15 minutes", "1h30m", "1d", "900s"} {
		w := newWorld(t, "STATE_TTL="+ttl)
		if exit, _, stderr := runCommand(t, w.env, "link", "ada"); exit != exitOK {
			t.Errorf("STATE_TTL=%s: got exit code %d: %s", ttl, exit, stderr)
		}
	}
}

// At the start the log warns of what is risky or misnamed, once, and of nothing else.
func TestWarningsAtStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ settings, want string }{
		{"RETURN_URL=https://canary.example.com", "RETURN_URL is not a setting, but its name is nearly RETURN_URLS"},
		{"TRUSTED_PROXY=private", "TRUSTED_PROXY is not a setting, but its name is nearly TRUSTED_PROXIES"},
		{"SLACK_CLIENTID=2222.3333", "SLACK_CLIENTID is not a setting, but its name is nearly SLACK_CLIENT_ID"},
		{"NOVU_APIKEY=canary", "NOVU_APIKEY is not a setting, but its name is nearly NOVU_API_KEY"},
		{"NOVU_API_URL=http://novu.example.com", "NOVU_API_URL begins with http: the key and the webhooks are sent unencrypted"},
		{"PORTS=1 APP_ENV=x REDIS_HOST=x REDIS_PORT=1 LOG_LEVELS=x SLACK_BOT_TOKEN=x API_URL=x", ""},
	} {
		w := newWorld(t, strings.Fields(c.settings)...)
		log := start(t, w.env...).text()
		var warnings []string
		for line := range strings.Lines(log) {
			if strings.Contains(line, `"level":"warn"`) {
				warnings = append(warnings, line)
			}
		}
		if c.want == "" && len(warnings) != 0 || c.want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], c.want) || !strings.Contains(warnings[0], `"remedy":"`)) || strings.Contains(log, "canary") {
			t.Errorf("%s: got %q, want one warning of %q", c.settings, warnings, c.want)
		}
		if c.want == "" {
			continue
		}
		if _, lines := checked(t, w.env); !strings.Contains(lines, "warn settings: "+c.want) || strings.Contains(lines, "canary") {
			t.Errorf("check with %s: got %s", c.settings, lines)
		}
	}
	// A start that fails names the variable too.
	refused(t, newWorld(t, "SLACK_CLIENT_ID=", "SLACK_CLIENTID=canary").env,
		"SLACK_CLIENT_ID: is missing; set it to the Client ID from the Slack app's Basic Information; SLACK_CLIENTID, which is set, is nearly this name\n")
}

// health reads PORT as serve does.
func TestHealthReadsPORT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	origin := must(url.Parse(start(t, w.env...).origin))
	if exit, stdout, stderr := runCommand(t, []string{"PORT=" + origin.Port()}, "health"); exit != exitOK || !strings.HasPrefix(stdout, "200") {
		t.Errorf("got exit code %d: %s%s", exit, stdout, stderr)
	}
	for port, want := range map[string]string{
		"99999": "PORT: is not a port number; ", "http": "PORT: is not a port number; ", "-1": "PORT: is not a port number; ", "8080/x": "PORT: is not a port number; ",
		`"8080"`: "PORT: has quotes around it; ", "8080 ": "PORT: has spaces at its ends; ", "0": "PORT: is 0, which is any free port; ",
	} {
		if exit, stdout, stderr := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitFailed || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("PORT=%s: got exit code %d and %q, want %d and %q", port, exit, stdout+stderr, exitFailed, want)
		}
		if port != "0" {
			refused(t, newWorld(t, "PORT="+port).env, want)
		}
	}
	if exit, _, stderr := runCommand(t, []string{"PORT=1"}, "health"); exit != exitFailed || !strings.Contains(stderr, "refused") {
		t.Errorf("nothing listens: got exit code %d and %q, want %d", exit, stderr, exitFailed)
	}
}
