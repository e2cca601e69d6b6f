package config

import (
	"strings"
	"testing"
)

// A secret is taken as Standard Webhooks writes it or as plain text, and each of the two
// settings needs the other.
func TestEvents(t *testing.T) {
	const to, text = "https://app.example.com/events", "canary-events-secret-of-32-bytes"
	for name, c := range map[string]struct {
		url, secrets string
		keys         []string // what signs
		problem      string
	}{
		"none":              {"", "", nil, ""},
		"text":              {to, text, []string{text}, ""},
		"whsec_":            {to, "whsec_" + "Y2FuYXJ5LWV2ZW50cy1zZWNyZXQtb2YtMzItYnl0ZXM=", []string{text}, ""},
		"a list":            {"http://localhost:3000/x", text + "-new," + text, []string{text + "-new", text}, ""},
		"64 bytes":          {to, strings.Repeat("x", 64), []string{strings.Repeat("x", 64)}, ""},
		"no secret":         {to, "", nil, "EVENTS_SECRET: is missing: events must be signed"},
		"no URL":            {"", text, []string{text}, "EVENTS_URL: is missing, although EVENTS_SECRET is set"},
		"http":              {"http://app.example.com/", text, []string{text}, "EVENTS_URL: must begin with https://"},
		"too short":         {to, "canary-short", nil, "EVENTS_SECRET: is neither whsec_ and base64, nor text, of 24 to 64 bytes"},
		"too long":          {to, strings.Repeat("x", 65), nil, "EVENTS_SECRET: is neither"},
		"whsec_, too short": {to, "whsec_Y2FuYXJ5", nil, "EVENTS_SECRET: is neither"},
		"whsec_, no base64": {to, "whsec_canary-events-secret-of-32-bytes", nil, "EVENTS_SECRET: is neither"},
	} {
		t.Run(name, func(t *testing.T) {
			set(t, "EVENTS_URL", c.url, "EVENTS_SECRET", c.secrets)
			got, problems := Load()
			if c.problem != "" {
				if len(problems) != 1 || !strings.HasPrefix(problems[0].String(), c.problem) || strings.Contains(problems[0].String(), "canary") {
					t.Errorf("got %v, want %s", problems, c.problem)
				}
				return
			}
			if len(problems) != 0 || (got.EventsURL != nil) != (c.url != "") || len(got.EventsKeys) != len(c.keys) {
				t.Fatalf("got %v, %v, %d keys", problems, got.EventsURL, len(got.EventsKeys))
			}
			for i, want := range c.keys {
				if got.EventsKeys[i].Reveal() != want {
					t.Errorf("key %d is another", i)
				}
			}
		})
	}
}
