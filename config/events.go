package config

import (
	"encoding/base64"
	"net/url"
	"strings"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// parseEvents parses EVENTS_URL and EVENTS_SECRET, of which each needs the other. A secret
// is whsec_ and base64, or plain text, of 24 to 64 bytes.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
func (l *loader) parseEvents(address string, secrets secret.String) (to *url.URL, keys []secret.String) {
	const remedy = "set it to the output of: echo whsec_$(openssl rand -base64 32)"
	if address != "" {
		var err error
		if to, err = link.ParseReturnURL(address); err != nil {
			l.report("EVENTS_URL", err.Error(), "use the https URL of your app that takes events")
		}
		l.check(!secrets.Empty(), "EVENTS_SECRET", "is missing: events must be signed", remedy)
	} else {
		l.check(secrets.Empty(), "EVENTS_URL", "is missing, although EVENTS_SECRET is set", "set it, or unset EVENTS_SECRET")
	}
	for _, s := range l.splitSecrets("EVENTS_SECRET", secrets) {
		key := s.Reveal()
		if encoded, ok := strings.CutPrefix(key, "whsec_"); ok {
			decoded, err := base64.StdEncoding.DecodeString(encoded)
			if key = string(decoded); err != nil {
				key = ""
			}
		}
		l.check(len(key) >= 24 && len(key) <= 64, "EVENTS_SECRET", "is neither whsec_ and base64, nor text, of 24 to 64 bytes", remedy)
		keys = append(keys, secret.New(key))
	}
	return to, keys
}
