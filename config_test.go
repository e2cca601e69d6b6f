package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/handler"
)

// settings are those that a service needs, in a clean environment.
func settings(t *testing.T, more ...string) {
	t.Helper()
	for name := range settingNames() {
		t.Setenv(name, "")
		t.Setenv(name+"_FILE", "")
	}
	pairs := append([]string{
		"REDIRECT_URL", "https://slack.example.com/slack/callback",
		"SLACK_CLIENT_ID", "2222.3333",
		"SLACK_CLIENT_SECRET", "canary-client-secret",
		"NOVU_API_KEY", "canary-api-key",
	}, more...)
	for i := 0; i+1 < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
}

// settingNames are the names of all settings with their defaults.
func settingNames() map[string]string {
	names := map[string]string{}
	for i, typ := 0, reflect.TypeFor[environment](); i < typ.NumField(); i++ {
		names[typ.Field(i).Tag.Get("envconfig")] = typ.Field(i).Tag.Get("default")
	}
	return names
}

func TestDefaults(t *testing.T) {
	settings(t)
	c, found := loadConfig()
	if len(found) != 0 {
		t.Fatal(found)
	}
	if c.stateTTL != 15*time.Minute || c.listen != ":8080" || c.rateLimit != 20 || !c.novuCreate || c.brand.Name != "Novu" ||
		c.novuAPIURL.String() != "https://api.novu.co" || c.slackURL.String() != "https://slack.com" || c.dataFile != "novu-slack-redirect.db" {
		t.Errorf("got %+v", c)
	}
	if newLinks(c).Contexts {
		t.Error("contexts are kept for credentials, which have none")
	}
	if len(c.linkSecrets) != 1 || c.linkSecrets[0].Reveal() != "canary-api-key" {
		t.Error("LINK_SECRET does not default to NOVU_API_KEY")
	}
	if len(c.storeSecrets) != 1 || c.storeSecrets[0].Reveal() != "canary-client-secret" {
		t.Error("STORE_SECRET does not default to SLACK_CLIENT_SECRET")
	}
	if text := fmt.Sprintf("%+v %#v", c, c); strings.Contains(text, "canary") {
		t.Errorf("the config prints a secret: %s", text)
	}
}

func TestSettingsAreRead(t *testing.T) {
	settings(t, "LINK_SECRET", " new , old,", "RETURN_URLS", "https://app.example.com/settings, http://localhost:3000", "TRUSTED_PROXIES", "203.0.113.0/24,private",
		"STATE_TTL", "5m", "PORT", "0", "RATE_LIMIT", "0", "LOG_LEVEL", "debug", "LOG_FORMAT", "console", "NOVU_CREATE_SUBSCRIBER", "false",
		"REDIS_URL", "rediss://user:canary@redis.example.com:6380/1?addr=x:1", "SLACK_URL", "https://slack-gov.com/", "APP_NAME", "Example Inc.",
		"APP_LOGO_URL", "https://cdn.example.com/logo.png?v=2", "SUPPORT_URL", "mailto:help@example.com", "INSTALL_PAGE", "true")
	c, found := loadConfig()
	if len(found) != 0 {
		t.Fatal(found)
	}
	if len(c.linkSecrets) != 2 || c.linkSecrets[0].Reveal() != "new" || c.linkSecrets[1].Reveal() != "old" {
		t.Errorf("got %d link secrets", len(c.linkSecrets))
	}
	if len(c.returnURLs) != 2 || len(c.trustedProxies) != 9 || c.stateTTL != 5*time.Minute || c.rateLimit != 0 || c.novuCreate || !c.logConsole || c.slackURL.String() != "https://slack-gov.com" || !c.installPage ||
		c.brand != (handler.Brand{Name: "Example Inc.", LogoURL: "https://cdn.example.com/logo.png?v=2", SupportURL: "mailto:help@example.com"}) {
		t.Errorf("got %+v", c)
	}
}

func TestSupportURL(t *testing.T) {
	for _, good := range []string{"https://help.example.com/contact?topic=slack", "http://localhost:3000/help", "mailto:help+slack@example.com"} {
		settings(t, "SUPPORT_URL", good)
		if c, found := loadConfig(); len(found) != 0 || c.brand.SupportURL != good {
			t.Errorf("%s: got %q, %v", good, c.brand.SupportURL, found)
		}
	}
}

func TestSecretsFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings(t, "NOVU_API_KEY", "", "NOVU_API_KEY_FILE", path)
	c, found := loadConfig()
	if len(found) != 0 || c.novuAPIKeys[0].Reveal() != "from-a-file" {
		t.Errorf("got %q, %v", c.novuAPIKeys[0].Reveal(), found)
	}
	settings(t, "NOVU_API_KEY_FILE", path, "SLACK_CLIENT_SECRET", "", "SLACK_CLIENT_SECRET_FILE", path+"canary")
	_, found = loadConfig()
	wantProblems(t, found, "NOVU_API_KEY: is set twice", "SLACK_CLIENT_SECRET_FILE: cannot be read")
}

func TestEveryProblemIsReportedAtOnceAndNoValue(t *testing.T) {
	settings(t, "REDIRECT_URL", "http://canary.example.com/cb", "SLACK_CLIENT_ID", " ", "SLACK_CLIENT_SECRET", "", "NOVU_API_KEY", "",
		"NOVU_API_URL", "canary:// x", "NOVU_CREATE_SUBSCRIBER", "canary", "REDIS_URL", "http://:canary@x", "RETURN_URLS", "https://ok.example.com,http://canary.example.com,https://a@canary.example.com",
		"STATE_TTL", "canary", "SLACK_URL", "https://canary.example.com", "PORT", "99999", "TRUSTED_PROXIES", "canary", "RATE_LIMIT", "NaN", "LOG_LEVEL", "canary", "LOG_FORMAT", "canary", "LINK_SECRET", ",,")
	var stdout, stderr bytes.Buffer
	if got := run(context.Background(), nil, &stdout, &stderr); got != exitUsage {
		t.Errorf("got exit code %d, want 2", got)
	}
	if strings.Contains(stderr.String(), "canary") {
		t.Errorf("a value is printed: %s", stderr.String())
	}
	wantProblems(t, strings.Split(strings.TrimSpace(stderr.String()), "\n"),
		"SLACK_CLIENT_ID: is missing; set it to", "SLACK_CLIENT_SECRET: is missing; set it, or SLACK_CLIENT_SECRET_FILE, to", "NOVU_API_KEY: is missing", "REDIRECT_URL: must begin with https://",
		"SLACK_URL: is neither", "NOVU_API_URL: is not the root", "NOVU_CREATE_SUBSCRIBER: is neither true nor false", "REDIS_URL: is not a Redis URL", "LINK_SECRET: holds no secret",
		"RETURN_URLS: entry 2 must begin", "RETURN_URLS: entry 3 must not have a user name", "STATE_TTL: is not a duration", "PORT: is not a port", "TRUSTED_PROXIES: entry 1 is not a CIDR", "RATE_LIMIT: is not a number", "LOG_LEVEL: is not a level", "LOG_FORMAT: is neither")
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"REDIRECT_URL", "https://slack.example.com", "has no path"},
		{"REDIRECT_URL", "https://slack.example.com/", "has no path"},
		{"REDIRECT_URL", "https://slack.example.com/healthz", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/slack/install", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/v1/subscribers/x/credentials/slack/oauth", "uses itself"},
		{"REDIRECT_URL", "https://slack.example.com/:id", "characters"},
		{"REDIRECT_URL", "https://slack.example.com/cb?x=y", "query"},
		{"REDIRECT_URL", "HTTPS://slack.example.com/cb", "plain form"},
		{"REDIRECT_URL", "slack.example.com/cb", "https://"},
		{"REDIRECT_URL", "https://Slack.example.com/cb", "plain form"},
		{"REDIRECT_URL", "https://slack.example.com:443/cb", "plain form"},
		{"REDIRECT_URL", "https://slack.example.com/%63b", "characters"},
		{"REDIRECT_URL", "https://slack.example.com/a%2fb", "characters"},
		{"NOVU_API_KEY", "two\nlines", "line break"},
		{"NOVU_API_URL", "https://x/?", "not the root"},
		{"NOVU_API_URL", "https://x/#a", "not the root"},
		{"NOVU_API_URL", "https://:8080/", "not the root"},
		{"NOVU_API_URL", "https://key@x/", "not the root"},
		{"SLACK_URL", "foo://localhost", "origin"},
		{"SLACK_URL", "https://localhost:99999", "origin"},
		{"LOG_LEVEL", "disabled", "level"},
		{"LOG_LEVEL", "42", "level"},
		{"SLACK_URL", "https://slack.com/api", "origin"},
		{"SLACK_URL", "http://slack.com", "neither"},
		{"REDIS_URL", "redis://x?bogus=1", "unknown"},
		{"REDIS_URL", "redis://x/canary", "not a Redis URL"},
		{"REDIS_URL", "redis://x?addr=y:1&bogus=1", "unknown"},
		{"REDIS_URL", "redis://x?master_name=m&addr=y:1&bogus=1", "unknown"},
		{"APP_LOGO_URL", "http://cdn.example.com/logo.png", "https://"},
		{"APP_LOGO_URL", "data:image/png;base64,canary", "https"},
		{"SUPPORT_URL", "javascript:alert(1)", "mailto:"},
		{"SUPPORT_URL", "mailto:a@example.com?cc=b", "mailto:"},
		{"SUPPORT_URL", "javascript:mailto:a@example.com", "mailto:"},
		{"REDIRECT_URL", "https://slack.example.com/assets/callback", "uses itself"},
		{"INSTALL_PAGE", "maybe", "neither true nor false"},
		{"STATE_TTL", "1s", "between"},
		{"STATE_TTL", "48h", "between"},
		{"RATE_LIMIT", "-1", "not a number"},
		{"PORT", "-1", "port"},
	} {
		settings(t, c.name, c.value)
		_, found := loadConfig()
		if len(found) != 1 || !strings.HasPrefix(found[0], c.name+": ") || !strings.Contains(found[0], c.want) {
			t.Errorf("%s=%s: got %q, want one problem with %q", c.name, c.value, found, c.want)
		}
	}
}

func wantProblems(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for _, w := range want {
		found := false
		for _, g := range got {
			found = found || strings.HasPrefix(g, w)
		}
		if !found {
			t.Errorf("no problem begins with %q", w)
		}
	}
}

// Each row of the README's table of failures, and of SECURITY.md's of attacks, names
// tests that exist.
func TestTablesNameTheirTests(t *testing.T) {
	var tests strings.Builder
	for _, glob := range []string{"*_test.go", "*/*_test.go"} {
		for _, file := range must(filepath.Glob(glob)) {
			tests.Write(must(os.ReadFile(file)))
		}
	}
	for path, heading := range map[string]string{"README.md": "## When something fails", "SECURITY.md": "## Attacks, and"} {
		_, table, _ := strings.Cut(string(must(os.ReadFile(path))), heading)
		_, table, _ = strings.Cut(table, "|---|---|---|\n")
		table, _, _ = strings.Cut(table, "\n\n")
		rows := strings.Split(strings.TrimSpace(table), "\n")
		for _, row := range rows {
			names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(row, -1)
			if len(names) == 0 {
				t.Errorf("no test in %s", row)
			}
			for _, name := range names {
				if !strings.Contains(tests.String(), "\nfunc "+name[1]+"(") {
					t.Errorf("there is no test %s", name[1])
				}
			}
		}
		if len(rows) < 15 {
			t.Errorf("%s: got %d rows, want the table", path, len(rows))
		}
	}
}

// The README's table has each setting once, with its default.
func TestREADMEListsTheSettings(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "## Settings")
	table, _, _ = strings.Cut(table, "\n## ")
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(table, -1) {
		if _, twice := listed[row[1]]; twice {
			t.Errorf("%s is listed twice", row[1])
		}
		listed[row[1]] = strings.Trim(strings.TrimSpace(row[2]), "`")
	}
	for name, def := range settingNames() {
		got, ok := listed[name]
		delete(listed, name)
		switch {
		case !ok:
			t.Errorf("%s is not listed", name)
		case def != "" && got != def:
			t.Errorf("%s: the README says %q, the code %q", name, got, def)
		case def == "" && strings.ContainsAny(got, "0123456789"):
			t.Errorf("%s: the README gives a default that the code has not: %q", name, got)
		}
	}
	for name := range listed {
		t.Errorf("%s is listed, and no setting", name)
	}
}

func TestPrivateHosts(t *testing.T) {
	for host, want := range map[string]bool{
		"slack.example.com": false, "8.8.8.8": false, "2001:db8::1": false,
		"slack": true, "slack.internal": true, "slack.local": true, "localhost": true, "10.1.2.3": true, "192.168.0.1": true, "127.0.0.1": true, "169.254.1.1": true, "fd00::1": true, "::1": true,
	} {
		if got := private(host); got != want {
			t.Errorf("%s: got %t, want %t", host, got, want)
		}
	}
}
