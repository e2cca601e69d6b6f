package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"novu-slack-redirect/secret"
)

// Whatever stands in the settings, they are right or refused with a line for each
// problem, and no line holds a value.
func FuzzSettings(f *testing.F) {
	typ := reflect.TypeFor[environment]()
	for i := range typ.NumField() {
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
		if field < 0 || field >= typ.NumField() {
			return
		}
		env := environment{
			RedirectURL: "https://slack.example.com/slack/callback", SlackClientID: "1.2", SlackClientSecret: secret.New("s"), NovuAPIKey: secret.New("k"),
		}
		canary := "canary" + value
		switch to := reflect.ValueOf(&env).Elem().Field(field).Addr().Interface().(type) {
		case *string:
			*to = canary
			if field%2 == 0 {
				*to = value
			}
		case *secret.String:
			*to = secret.New(canary)
		}
		var found problems
		env.complete(&found)
		c, found := env.parse(found)
		for _, p := range found {
			name, text, ok := strings.Cut(p, ": ")
			if !ok || name == "" || text == "" || strings.Contains(p, "canary") || strings.ContainsAny(p, "\n\x00") {
				t.Errorf("field %d: got problem %q", field, p)
			}
		}
		if len(found) == 0 && (c.redirectURL == nil || c.slackURL == nil || c.novuAPIURL == nil || len(c.linkSecrets) == 0 || len(c.storeSecrets) == 0 || c.stateTTL <= 0) {
			t.Errorf("field %d, %q: right, but %+v", field, value, c)
		}
	})
}
