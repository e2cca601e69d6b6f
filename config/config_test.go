package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// set sets what a service needs, and more, in a clean environment.
func set(t *testing.T, more ...string) {
	t.Helper()
	for name := range Defaults() {
		t.Setenv(name, "")
		t.Setenv(name+"_FILE", "")
	}
	pairs := append([]string{
		"REDIRECT_URL", "https://slack.example.com/slack/callback",
		"SLACK_CLIENT_ID", "2222.3333",
		"SLACK_CLIENT_SECRET", "canary-client-secret",
		"NOVU_API_KEY", "canary-api-key",
		"APP_NAME", "Example Inc.",
	}, more...)
	for i := 0; i+1 < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
}

func TestDefaults(t *testing.T) {
	set(t)
	c, problems := Load()
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	if c.StateTTL != 15*time.Minute || c.Port != "8080" || c.RateLimit != 20 || !c.CreateSubscriber || c.SaveEndpoints || c.InstallPage || c.AppURL != "" ||
		c.NovuAPIURL.String() != "https://api.novu.co" || c.SlackURL.String() != "https://slack.com" || c.DataFile != "novu-slack-redirect.db" || c.RedisPrefix != "nsr" ||
		!c.RedisURL.Empty() || c.LogLevel != zerolog.InfoLevel || c.LogFormat != "json" || c.MetricsAddr != "" || len(c.ReturnURLs) != 0 || len(c.TrustedProxies) != 0 {
		t.Errorf("got %+v", c)
	}
	if len(c.LinkSecrets) != 0 || !c.NovuStyleLinks {
		t.Error("without LINK_SECRET: want no secret, and Novu-style links")
	}
	if len(c.StoreSecrets) != 1 || c.StoreSecrets[0].Reveal() != "canary-client-secret" {
		t.Error("STORE_SECRET does not default to SLACK_CLIENT_SECRET")
	}
	if text := fmt.Sprintf("%+v %#v", c, c); strings.Contains(text, "canary") {
		t.Errorf("the config prints a secret: %s", text)
	}
}

func TestSettingsAreRead(t *testing.T) {
	newSecret, oldSecret := strings.Repeat("n", 32), strings.Repeat("o", 32)
	set(t, "LINK_SECRET", newSecret+","+oldSecret+",", "RETURN_URLS", "https://app.example.com/settings, http://localhost:3000", "TRUSTED_PROXIES", "203.0.113.0/24,private",
		"STATE_TTL", "5m", "PORT", "0", "RATE_LIMIT", "0", "LOG_LEVEL", "debug", "LOG_FORMAT", "console", "NOVU_CREATE_SUBSCRIBER", "false", "NOVU_SAVE_AS", "endpoint",
		"NOVU_INTEGRATION_IDENTIFIER", "slack-main", "NOVU_ENVIRONMENT_ID", "env1", "NOVU_API_URL", "http://novu:3000/api/v1/", "STORE_SECRET", "s", "WELCOME_MESSAGE", "Hello",
		"REDIS_URL", "rediss://user:canary@redis.example.com:6380/1?addr=x:1", "REDIS_PREFIX", "team-a:slack_1.0", "DATA_FILE", "x.db", "SLACK_URL", "https://slack-gov.com/", "APP_NAME", "Example Inc.",
		"APP_LOGO_URL", "https://cdn.example.com/logo.png?v=2", "APP_COLOR", "#4A154b", "SUPPORT_URL", "mailto:help@example.com", "INSTALL_PAGE", "true", "METRICS_ADDR", "127.0.0.1:9090", "APP_URL", "https://app.example.com/a//b")
	c, problems := Load()
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	if len(c.LinkSecrets) != 2 || c.LinkSecrets[0].Reveal() != newSecret || c.LinkSecrets[1].Reveal() != oldSecret || c.NovuStyleLinks {
		t.Errorf("got %d link secrets", len(c.LinkSecrets))
	}
	if c.RedirectURL.String() != "https://slack.example.com/slack/callback" || c.SlackClientID != "2222.3333" || len(c.ReturnURLs) != 2 || len(c.TrustedProxies) != 9 || c.StateTTL != 5*time.Minute ||
		c.Port != "0" || c.RateLimit != 0 || c.LogLevel != zerolog.DebugLevel || c.LogFormat != LogConsole || c.CreateSubscriber || !c.SaveEndpoints || c.NovuIntegration != "slack-main" || c.NovuEnvironment != "env1" ||
		c.NovuAPIURL.String() != "http://novu:3000/api/v1/" || c.StoreSecrets[0].Reveal() != "s" || c.WelcomeMessage != "Hello" || c.RedisURL.Empty() || c.RedisPrefix != "team-a:slack_1.0" || c.DataFile != "x.db" ||
		c.SlackURL.String() != "https://slack-gov.com" || c.AppName != "Example Inc." || c.AppLogoURL != "https://cdn.example.com/logo.png?v=2" || c.AppColor != "#4A154b" || c.SupportURL != "mailto:help@example.com" || !c.InstallPage || c.MetricsAddr != "127.0.0.1:9090" ||
		c.AppURL != "https://app.example.com/a//b" {
		t.Errorf("got %+v", c)
	}
}

func TestWarnings(t *testing.T) {
	long := strings.Repeat("x", 32)
	for _, c := range []struct{ name, value, want string }{
		{"LINK_SECRET", "", "LINK_SECRET is not set"},
		{"LINK_SECRET", long, ""},
		{"NOVU_STYLE_LINKS", "true", ""},
		{"NOVU_STYLE_LINKS", "false", ""},
		{"STORE_SECRET", long + ",short", "STORE_SECRET has fewer than 32 bytes"},
		{"STORE_SECRET", long, ""},
		{"NOVU_API_URL", "http://novu.example.com", "NOVU_API_URL begins with http"},
		{"NOVU_API_URL", "http://novu:3000", ""},
		{"NOVU_API_URL", "http://10.1.2.3", ""},
		{"NOVU_API_URL", "http://[::1]:3000", ""},
	} {
		set(t, "LINK_SECRET", long, c.name, c.value)
		loaded, problems := Load()
		if len(problems) != 0 {
			t.Fatalf("%s=%s: %v", c.name, c.value, problems)
		}
		got := ""
		for _, w := range loaded.Warnings() {
			got += w.Name + " " + w.Cause
		}
		if !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s=%s: got %q, want %q", c.name, c.value, got, c.want)
		}
	}
}

func TestSupportURL(t *testing.T) {
	for _, good := range []string{"https://help.example.com/contact?topic=slack", "http://localhost:3000/help", "mailto:help+slack@example.com"} {
		set(t, "SUPPORT_URL", good)
		if c, problems := Load(); len(problems) != 0 || c.SupportURL != good {
			t.Errorf("%s: got %q, %v", good, c.SupportURL, problems)
		}
	}
}

func TestSecretsFromFiles(t *testing.T) {
	dir := t.TempDir()
	path, empty := filepath.Join(dir, "key"), filepath.Join(dir, "canary-empty")
	for name, text := range map[string]string{path: "from-a-file\r\n", empty: " \n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(t, "NOVU_API_KEY", "", "NOVU_API_KEY_FILE", path)
	c, problems := Load()
	if len(problems) != 0 || c.NovuAPIKeys[0].Reveal() != "from-a-file" {
		t.Errorf("got %q, %v", c.NovuAPIKeys[0].Reveal(), problems)
	}
	set(t, "NOVU_API_KEY_FILE", path+"canary", "SLACK_CLIENT_SECRET", "", "SLACK_CLIENT_SECRET_FILE", path+"canary", "LINK_SECRET_FILE", empty)
	_, problems = Load()
	wantProblems(t, problems, "NOVU_API_KEY: is set twice; unset it or NOVU_API_KEY_FILE", "SLACK_CLIENT_SECRET_FILE: cannot be read (no such file or directory); name a file", "LINK_SECRET_FILE: names an empty file")
}

func TestEveryProblemIsReportedAtOnceAndNoValue(t *testing.T) {
	set(t, "REDIRECT_URL", "http://canary.example.com/cb", "SLACK_CLIENT_ID", " ", "APP_NAME", "", "SLACK_CLIENT_SECRET", "", "NOVU_API_KEY", "",
		"NOVU_API_URL", "canary:// x", "NOVU_CREATE_SUBSCRIBER", "canary", "NOVU_SAVE_AS", "canary", "REDIS_URL", "http://:canary@x", "REDIS_PREFIX", "{canary}",
		"RETURN_URLS", "https://ok.example.com,http://canary.example.com,https://a@canary.example.com,https://canary.example.com/?x", "WELCOME_MESSAGE", strings.Repeat("canary", 600),
		"STATE_TTL", "canary", "SLACK_URL", "https://canary.example.com", "PORT", "99999", "METRICS_ADDR", "canary", "TRUSTED_PROXIES", "canary", "RATE_LIMIT", "NaN", "LOG_LEVEL", "canary", "LOG_FORMAT", "canary", "LINK_SECRET", ",,")
	_, problems := Load()
	wantProblems(t, problems,
		"SLACK_CLIENT_ID: is missing; set it to the", "SLACK_CLIENT_SECRET: is missing; set it, or SLACK_CLIENT_SECRET_FILE, to", "NOVU_API_KEY: is missing", "REDIRECT_URL: must begin with https://",
		"SLACK_URL: is neither", "NOVU_API_URL: is not the root", "NOVU_CREATE_SUBSCRIBER: is neither true nor false", "NOVU_SAVE_AS: is neither credentials nor endpoint", "REDIS_URL: is not a Redis URL; use",
		"REDIS_PREFIX: has more than 64 bytes, or characters", "LINK_SECRET: holds no secret", "RETURN_URLS: entry 2 must begin", "RETURN_URLS: entry 3 must not have a user name", "RETURN_URLS: entry 4 has a query",
		"STATE_TTL: is not a duration", "APP_NAME: is missing", "PORT: is not a port", "METRICS_ADDR: is not an address", "TRUSTED_PROXIES: entry 1 is not a CIDR", "RATE_LIMIT: is not a number", "LOG_LEVEL: is not a level", "LOG_FORMAT: is not a format",
		"WELCOME_MESSAGE: has more than")
	var missing []string
	for _, p := range problems {
		if p.Missing {
			missing = append(missing, p.Name)
		}
	}
	if want := []string{"SLACK_CLIENT_ID", "SLACK_CLIENT_SECRET", "NOVU_API_KEY", "APP_NAME"}; !slices.Equal(missing, want) {
		t.Errorf("got %v missing, want %v", missing, want)
	}
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"REDIRECT_URL", "", "is missing"},
		{"REDIRECT_URL", "https://slack.example.com", "has no path"},
		{"REDIRECT_URL", "https://slack.example.com/", "has no path"},
		{"REDIRECT_URL", "https://slack.example.com/healthz", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/readyz", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/install", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/result", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/assets/callback", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/disconnect", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/install/", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com//slack/callback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/slack//callback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/x/../slack/callback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/slack/./callback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/slack/%2e%2e/callback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/slack%2f%2fcallback", "empty part"},
		{"REDIRECT_URL", "https://slack.example.com/v1/subscribers/x/credentials/slack/oauth", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/:id", "characters"},
		{"REDIRECT_URL", "https://slack.example.com/cb?x=y", "query"},
		{"REDIRECT_URL", "https://slack.example.com/cb#", "query or a fragment"},
		{"REDIRECT_URL", "HTTPS://slack.example.com/cb", "plain form"},
		{"REDIRECT_URL", "slack.example.com/cb", "https://"},
		{"REDIRECT_URL", "https://Slack.example.com/cb", "plain form"},
		{"REDIRECT_URL", "https://slack.example.com:443/cb", "plain form"},
		{"REDIRECT_URL", "https://slack.example.com/%63b", "characters"},
		{"REDIRECT_URL", "https://slack.example.com/a%2fb", "characters"},
		{"RETURN_URLS", "https://app.example.com/a//b", "entry 1 has a path with an empty part"},
		{"RETURN_URLS", "https://app.example.com,https://app.example.com/a/../b", "entry 2 has a path"},
		{"RETURN_URLS", "https://app.example.com/%2e%2e/b", "entry 1 has a path"},
		{"RETURN_URLS", "https://app.example.com/a%252f%252fb", "entry 1 has a path"},
		{"SLACK_CLIENT_ID", "A0123456789", "two numbers"},
		{"SLACK_CLIENT_ID", "2222", "two numbers"},
		{"SLACK_CLIENT_ID", "2222.", "two numbers"},
		{"SLACK_CLIENT_ID", ".3333", "two numbers"},
		{"SLACK_CLIENT_ID", "2222.3333.4444", "two numbers"},
		{"SLACK_CLIENT_ID", "1.2345e+12", "two numbers"},
		{"APP_URL", "http://app.example.com", "https://"},
		{"APP_URL", "app.example.com", "https://"},
		{"NOVU_STYLE_LINKS", "maybe", "neither true nor false"},
		{"LINK_SECRET", strings.Repeat("x", 31), "has fewer than 32 bytes"},
		{"LINK_SECRET", strings.Repeat("x", 32) + "," + strings.Repeat("x", 31), "entry 2 has fewer than 32 bytes"},
		{"LINK_SECRET", "canary-api-key", "is a key of NOVU_API_KEY"},
		{"LINK_SECRET", strings.Repeat("x", 32) + ",canary-api-key", "entry 2 is a key of NOVU_API_KEY"},
		{"NOVU_API_KEY", "two\nlines", "line break"},
		{"NOVU_API_URL", "https://x/?", "not the root"},
		{"NOVU_API_URL", "https://x/#a", "not the root"},
		{"NOVU_API_URL", "https://:8080/", "not the root"},
		{"NOVU_API_URL", "https://key@x/", "not the root"},
		{"NOVU_API_URL", "https://api.eu.novu.co", "https://eu.api.novu.co"},
		{"SLACK_URL", "foo://localhost", "neither"},
		{"SLACK_URL", "https://localhost:99999", "neither"},
		{"SLACK_URL", "https://slack.com/api", "neither"},
		{"SLACK_URL", "http://slack.com", "neither"},
		{"LOG_LEVEL", "disabled", "level"},
		{"LOG_LEVEL", "42", "level"},
		{"REDIS_URL", "redis://x?bogus=1", "unknown"},
		{"REDIS_URL", "redis://x/canary", "not a Redis URL"},
		{"REDIS_PREFIX", "a{b}", "characters"},
		{"REDIS_PREFIX", "a b", "characters"},
		{"REDIS_PREFIX", "a*", "characters"},
		{"REDIS_PREFIX", "ä", "characters"},
		{"REDIS_PREFIX", strings.Repeat("x", 65), "more than 64 bytes"},
		{"APP_LOGO_URL", "http://cdn.example.com/logo.png", "https://"},
		{"APP_LOGO_URL", "data:image/png;base64,canary", "https"},
		{"APP_COLOR", "4a154b", "hexadecimal"},
		{"APP_COLOR", "#fff", "hexadecimal"},
		{"APP_COLOR", "#4a154g", "hexadecimal"},
		{"APP_COLOR", "aubergine", "hexadecimal"},
		{"APP_COLOR", "#4a154b}", "hexadecimal"},
		{"SUPPORT_URL", "javascript:alert(1)", "mailto:"},
		{"SUPPORT_URL", "mailto:", "mailto:"},
		{"SUPPORT_URL", "mailto:a@", "mailto:"},
		{"SUPPORT_URL", "mailto:a@b@c", "mailto:"},
		{"SUPPORT_URL", "mailto:a@example.com?cc=b", "mailto:"},
		{"SUPPORT_URL", "javascript:mailto:a@example.com", "mailto:"},
		{"INSTALL_PAGE", "maybe", "neither true nor false"},
		{"STATE_TTL", "1s", "between"},
		{"STATE_TTL", "900", "no unit"},
		{"STATE_TTL", "-15m", "not a duration"},
		{"STATE_TTL", "15M", "unit other"},
		{"STATE_TTL", "15 parsecs", "unit other"},
		{"STATE_TTL", "999999999w", "100 years"},
		{"STATE_TTL", "48h", "between"},
		{"RATE_LIMIT", "-1", "not a number"},
		{"PORT", "-1", "port"},
	} {
		set(t, c.name, c.value)
		_, problems := Load()
		if len(problems) != 1 || problems[0].Name != c.name || problems[0].Remedy == "" || !strings.Contains(problems[0].String(), c.want) || c.value != "" && strings.Contains(problems[0].String(), "canary") {
			t.Errorf("%s=%s: got %q, want one problem with %q", c.name, c.value, problems, c.want)
		}
	}
	set(t, "REDIS_PREFIX", strings.Repeat("x", 64))
	if c, problems := Load(); len(problems) != 0 || len(c.RedisPrefix) != 64 {
		t.Errorf("a prefix of 64 bytes: got %v", problems)
	}
}

// wantProblems fails unless there is one problem for each prefix, and no value in
// any.
func wantProblems(t *testing.T, problems []Problem, prefixes ...string) {
	t.Helper()
	if len(problems) != len(prefixes) {
		t.Errorf("got %d problems, want %d: %q", len(problems), len(prefixes), problems)
	}
	for _, prefix := range prefixes {
		if !slices.ContainsFunc(problems, func(p Problem) bool { return strings.HasPrefix(p.String(), prefix) }) {
			t.Errorf("no problem begins with %q", prefix)
		}
	}
	for _, p := range problems {
		if strings.Contains(fmt.Sprintf("%+v", p), "canary") {
			t.Errorf("a value is printed: %s", p)
		}
		if p.Remedy == "" {
			t.Errorf("%s: no remedy", p)
		}
	}
}
