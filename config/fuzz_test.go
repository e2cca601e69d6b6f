package config

import (
	"os"
	"strings"
	"testing"
)

// Whatever a setting says, the settings are right or refused with a line for each
// problem, and no line contains a value.
func FuzzSettings(f *testing.F) {
	for i := range fields {
		for _, value := range []string{"", "x", "-1", "true", "https://a@b/?c#d", "redis://:p@h:1/0?addr=x", "10.0.0.0/8,private", "1h", "0.5", "\x00", "http://[::1]:99999/", ":9090", "mailto:a@b.c"} {
			f.Add(i, value)
		}
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasSuffix(name, "_FILE") {
			os.Unsetenv(name)
		}
	}
	f.Fuzz(func(t *testing.T, field int, value string) {
		if field < 0 || field >= len(fields) {
			return
		}
		canary := "canary" + value
		if field%2 == 0 {
			canary = value
		}
		l := loader{texts: Defaults()}
		for name, text := range map[string]string{
			"SLACK_CLIENT_ID": "1.2", "APP_NAME": "Example Inc.", "REDIRECT_URL": "https://slack.example.com/slack/callback", "SLACK_CLIENT_SECRET": "s", "NOVU_API_KEY": "k",
			fields[field].Tag.Get("envconfig"): canary,
		} {
			l.texts[name] = text
		}
		l.complete()
		c := l.parse()
		for _, p := range l.problems {
			if p.Name == "" || p.Cause == "" || strings.Contains(p.String(), "canary") || strings.ContainsAny(p.String(), "\n\x00") {
				t.Errorf("field %d: got problem %q", field, p)
			}
		}
		if len(l.problems) == 0 && (c.RedirectURL == nil || c.SlackURL == nil || c.NovuAPIURL == nil || len(c.LinkSecrets) == 0 != (l.texts["LINK_SECRET"] == "") || len(c.StoreSecrets) == 0 || c.StateTTL <= 0 || c.RedisPrefix == "") {
			t.Errorf("field %d, %q: right, but %+v", field, value, c)
		}
	})
}
