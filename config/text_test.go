package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// right is a right value for settings that have a form; any text is right for the others.
var right = map[string]string{
	"REDIRECT_URL": "https://slack.example.com/slack/callback", "SLACK_CLIENT_ID": "2222.3333", "REDIS_URL": "redis://localhost", "REDIS_PREFIX": "nsr", "NOVU_API_URL": "https://api.novu.co",
	"APP_URL": "https://app.example.com", "APP_LOGO_URL": "https://cdn.example.com/logo.png", "APP_COLOR": "#4a154b", "SUPPORT_URL": "https://help.example.com", "PORT": "8080", "METRICS_ADDR": ":9090",
	"SLACK_URL": "https://slack.com", "NOVU_SAVE_AS": "endpoint", "NOVU_CREATE_SUBSCRIBER": "false", "NOVU_STYLE_LINKS": "true", "RETURN_URLS": "https://app.example.com", "STATE_TTL": "15m",
	"INSTALL_PAGE": "true", "TRUSTED_PROXIES": "private", "RATE_LIMIT": "20", "LOG_LEVEL": "info", "LOG_FORMAT": "console", "LINK_SECRET": "canary-link-secret-of-32-bytes-and-more",
	"EVENTS_URL": "https://app.example.com/events", "EVENTS_SECRET": "canary-events-secret-of-32-bytes",
}

// Whatever another reader of a setting would strip is one problem of every setting, and of
// the text of a secret's file.
func TestWrappingsAreProblems(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	events := slices.Clip([]string{"EVENTS_URL", right["EVENTS_URL"], "EVENTS_SECRET", right["EVENTS_SECRET"]}) // each needs the other
	for _, field := range fields {
		name, prose := field.Tag.Get("envconfig"), field.Tag.Get("prose") != ""
		value := right[name]
		if value == "" {
			value = "canary-value"
		}
		middle := len(value) / 2
		for wrapped, cause := range map[string]string{
			`"` + value + `"`:       "has quotes around it",
			"'" + value + "'":       "has quotes around it",
			"“" + value + "”":       "has quotes around it",
			`"'` + value + `'"`:     "has quotes around it",
			" " + value:             "has spaces at its ends",
			value + " ":             "has spaces at its ends",
			`" ` + value + `"`:      "has quotes around it and spaces at its ends",
			"\ufeff" + value:        "has invisible characters (U+FEFF) in it",
			value + "\u200b":        "has invisible characters (U+200B) in it",
			value + "\x7f":          "has invisible characters (U+007F) in it",
			value + "\xff":          "is not UTF-8 text",
			value + "\n":            "has ",
			"\t" + value:            "has ",
			value + "\r\n":          "has ",
			value + " # my comment": "has a comment after it",
			value[:middle] + "\u200b" + value[middle:]: "has invisible characters (U+200B) in it",
			value[:middle] + "\u00ad" + value[middle:]: "has invisible characters (U+00AD) in it",
			value[:middle] + "\n" + value[middle:]:     "has line breaks in it",
		} {
			if prose && (strings.Contains(wrapped, "#") || strings.ContainsAny(wrapped[1:len(wrapped)-1], "\n\u00ad")) && !strings.HasSuffix(wrapped, "\n") {
				continue
			}
			set(t, append(events, name, wrapped)...)
			_, problems := Load()
			if len(problems) == 0 || problems[0].Name != name || !strings.HasPrefix(problems[0].Cause, cause) || cause != "is not UTF-8 text" && len(problems) != 1 {
				t.Errorf("%s=%q: got %v, want one problem that %s", name, wrapped, problems, cause)
			}
			if strings.Contains(fmt.Sprint(problems), "canary") {
				t.Errorf("%s=%q: a value is printed: %v", name, wrapped, problems)
			}
			if !isSecret(field) || strings.HasSuffix(wrapped, "\n") {
				continue
			}
			if err := os.WriteFile(path, []byte(wrapped+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			set(t, append(events, name, "", name+"_FILE", path)...)
			if _, problems := Load(); len(problems) != 1 || problems[0].Name != name+"_FILE" || !strings.HasPrefix(problems[0].Cause, "names a file whose text "+cause) {
				t.Errorf("the file of %s with %q: got %v, want one problem that its text %s", name, wrapped, problems, cause)
			}
			set(t, append(events, name, "", name+"_FILE", `"`+path+`"`)...)
			if _, problems := Load(); !slices.ContainsFunc(problems, func(p Problem) bool { return p.Name == name+"_FILE" && strings.HasPrefix(p.Cause, "has quotes") }) {
				t.Errorf("%s_FILE in quotes: got %v", name, problems)
			}
		}
		set(t, append(events, name, value)...)
		if _, problems := Load(); len(problems) != 0 {
			t.Errorf("%s=%s: got %v, want none", name, value, problems)
		}
	}
}

func TestWrappedEntries(t *testing.T) {
	const one, two = "a-secret-of-the-tests-of-32-bytes", "another-one-of-the-tests-of-32-bytes"
	for _, c := range []struct{ name, value, want string }{
		{"LINK_SECRET", one + `,"` + two + `"`, "entry 2 has quotes around it"},
		{"LINK_SECRET", one + ", " + two, "entry 2 has spaces at its ends"},
		{"LINK_SECRET", one + " ," + two, "entry 1 has spaces at its ends"},
		{"LINK_SECRET", `"` + one + "," + two + `"`, "has quotes around it"},
		{"LINK_SECRET", one + ",\u200b" + two, "has invisible characters (U+200B) in it"},
		{"NOVU_API_KEY", "'a',b", "entry 1 has quotes around it"},
		{"RETURN_URLS", `https://a.example.com, "https://b.example.com"`, "entry 2 has quotes around it"},
		{"TRUSTED_PROXIES", "private,'10.0.0.0/8'", "entry 2 has quotes around it"},
	} {
		set(t, c.name, c.value)
		if _, problems := Load(); len(problems) != 1 || problems[0].Name != c.name || problems[0].Cause != c.want {
			t.Errorf("%s=%s: got %v, want one problem that %s", c.name, c.value, problems, c.want)
		}
	}
}

// Prose may have what other settings may not.
func TestProse(t *testing.T) {
	for _, text := range []string{"Grüße!\n\tNews for #alerts # and you", "שלום \u200fעולם", "می\u200cخواهم", "👩\u200d💻 ❤\ufe0f", `She said "hello"`, "Bonjour\u00a0!"} {
		set(t, "WELCOME_MESSAGE", text, "APP_NAME", text)
		if c, problems := Load(); len(problems) != 0 || c.WelcomeMessage != text || c.AppName != text {
			t.Errorf("%q: got %q and %v", text, c.WelcomeMessage, problems)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"15m": 15 * time.Minute, "15min": 15 * time.Minute, "15 mins": 15 * time.Minute, "15 minutes": 15 * time.Minute, "1 Minute": time.Minute, "900s": 15 * time.Minute, "900 sec": 15 * time.Minute,
		"1h30m": 90 * time.Minute, "1h 30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "0.5 hours": 30 * time.Minute, "24H": 24 * time.Hour, "1d": 24 * time.Hour, "7 days": 168 * time.Hour, "2w": 336 * time.Hour,
		"900000ms": 15 * time.Minute, "1m0s": time.Minute, "0s": 0,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"900": "has no unit", "0": "has no unit", "15.5": "has no unit", "1h30": "is not a duration", "": "is not a duration", "m": "is not a duration", "-1h": "is not a duration", "1,5h": "is not a duration",
		"15M": "has a unit", "1y": "has a unit", "15µs": "has a unit", "999999999w": "is longer", "1h x": "is not a duration", "1.h": "is not a duration",
	} {
		if got, err := ParseDuration(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error that it %s", text, got, err, want)
		}
	}
}

func TestMisnamedVariables(t *testing.T) {
	for _, c := range []struct{ variables, want string }{
		{"RETURN_URL=x", "RETURN_URL is nearly RETURN_URLS"},
		{"TRUSTED_PROXY=x", "TRUSTED_PROXY is nearly TRUSTED_PROXIES"},
		{"SLACK_CLIENTID=x", "SLACK_CLIENTID is nearly SLACK_CLIENT_ID"},
		{"NOVU_APIKEY=x", "NOVU_APIKEY is nearly NOVU_API_KEY"},
		{"NOVU_API_KEYS=x", "NOVU_API_KEYS is nearly NOVU_API_KEY"},
		{"slack_client_secret=x", "slack_client_secret is nearly SLACK_CLIENT_SECRET"},
		{"LINK-SECRET=x", "LINK-SECRET is nearly LINK_SECRET"},
		{"LINK_SECERT=x", "LINK_SECERT is nearly LINK_SECRET"},
		{"LINK_SECRETFILE=x", "LINK_SECRETFILE is nearly LINK_SECRET_FILE"},
		{"APP_COLOUR=x", "APP_COLOUR is nearly APP_COLOR"},
		{"REDIRECT_URI=x", "REDIRECT_URI is nearly REDIRECT_URL"},
		{"REDIS_URI=x", "REDIS_URI is nearly REDIS_URL"},
		{"NOVU_INTEGRATION_ID=x", "NOVU_INTEGRATION_ID is nearly NOVU_INTEGRATION_IDENTIFIER"},
		{"NOVU_ENVIRONMENT=x", "NOVU_ENVIRONMENT is nearly NOVU_ENVIRONMENT_ID"},
		{"LOGLEVEL=x", "LOGLEVEL is nearly LOG_LEVEL"},
		{"SLACK_CLIENT_ID_FILE=x", "SLACK_CLIENT_ID_FILE is nearly SLACK_CLIENT_ID"},
		// The right name is set too.
		{"SLACK_CLIENTID=x SLACK_CLIENT_ID=x", "SLACK_CLIENTID is nearly SLACK_CLIENT_ID"},
		{"RETURN_URL=x RETURN_URLS=x", "RETURN_URL is nearly RETURN_URLS"},
		{"REDIS_URI=x REDIS_URL=x", ""},
		{"REDIS_URI=x REDIS_URL_FILE=x", ""},
		{"NOVU_APP_URL=x NOVU_API_URL=x", ""},
		// Right names, and names of other programs and of platforms.
		{"RETURN_URLS=x LINK_SECRET_FILE=x DATA_FILE=x PORT=1", ""},
		{"RETURN_URL=", ""},
		{"PORTS=x POST=x SORT=x PATH=x LOG_LEVELS=x LOG_FORMATS=x API_URL=x APP_URI=x APP_URLS=x DATA_FILES=x DATE_FILE=x APP_NAMES=x APP_ENV=x APP_KEY=x APP_PORT=x", ""},
		{"REDIS_HOST=x REDIS_PORT=x REDISHOST=x REDIS_PASSWORD=x REDIS_TLS_URL=x REDIS_PRIVATE_URL=x REDIS_SERVICE_HOST=x REDIS_PORT_6379_TCP=x UPSTASH_REDIS_REST_URL=x", ""},
		{"SLACK_PORT=x SLACK_SERVICE_HOST=x NOVU_API_PORT=x NOVU_API_SERVICE_HOST=x SLACK_BOT_TOKEN=x SLACK_SIGNING_SECRET=x SLACK_WEBHOOK_URL=x SLACK_TOKEN=x SLACK_APP_ID=x", ""},
		{"K_SERVICE=x FLY_APP_NAME=x DYNO=x RAILWAY_PUBLIC_DOMAIN=x RENDER_EXTERNAL_URL=x HOSTNAME=x HOME=x DATABASE_URL=x PUBLIC_URL=x BASE_URL=x SECRET_KEY=x NODE_ENV=x HTTP_PROXY=x no_proxy=x", ""},
	} {
		var got []string
		for _, m := range misnamedVariables(strings.Fields(c.variables)) {
			got = append(got, m.name+" is nearly "+m.setting)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: got %q, want %q", c.variables, got, c.want)
		}
	}
}
