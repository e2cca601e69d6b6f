package config

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"novu-slack-redirect/secret"
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
		s := settings{
			Plain: Plain{SlackClientID: "1.2", AppName: "Example Inc."}, RedirectURL: "https://slack.example.com/slack/callback", SlackClientSecret: secret.New("s"), NovuAPIKey: secret.New("k"),
		}
		canary := "canary" + value
		switch to := reflect.ValueOf(&s).Elem().FieldByIndex(fields[field].Index).Addr().Interface().(type) {
		case *string:
			*to = canary
			if field%2 == 0 {
				*to = value
			}
		case *secret.String:
			*to = secret.New(canary)
		}
		var l loader
		c := l.load(&s)
		for _, p := range l.problems {
			if p.Name == "" || p.Cause == "" || strings.Contains(p.String(), "canary") || strings.ContainsAny(p.String(), "\n\x00") {
				t.Errorf("field %d: got problem %q", field, p)
			}
		}
		if len(l.problems) == 0 && (c.RedirectURL == nil || c.SlackURL == nil || c.NovuAPIURL == nil || len(c.LinkSecrets) == 0 != s.LinkSecret.Empty() || len(c.StoreSecrets) == 0 || c.StateTTL <= 0 || c.RedisPrefix == "") {
			t.Errorf("field %d, %q: right, but %+v", field, value, c)
		}
	})
}
