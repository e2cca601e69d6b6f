package slackoauth

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/runes"
)

// Manifest returns the app manifest, in YAML, of a Slack app for name that
// installs an incoming webhook and comes back to redirectURL. It cannot turn on
// public distribution.
// https://docs.slack.dev/reference/app-manifest
func Manifest(name, redirectURL string) string {
	return fmt.Sprintf(`display_information:
  name: %s
  description: %s
  background_color: "#4a154b"
features:
  bot_user:
    display_name: %s
    always_online: false
oauth_config:
  redirect_urls:
    - %s
  scopes:
    bot:
      - incoming-webhook
settings:
  incoming_webhooks:
    incoming_webhooks_enabled: true
  org_deploy_enabled: false
  socket_mode_enabled: false
  token_rotation_enabled: false
`, quote(name, 35), quote("Messages from "+name+" in the channel you pick", 140), quote(name, 80), quote(redirectURL, 4096))
}

// quote returns text, cut to limit characters, as a YAML string.
func quote(text string, limit int) string {
	text = runes.Remove(runes.Predicate(func(r rune) bool { return !unicode.IsPrint(r) })).String(text) // YAML does not allow it
	if utf8.RuneCountInString(text) > limit {
		text = strings.TrimSpace(string([]rune(text)[:limit-1])) + "…"
	}
	return strconv.Quote(text) // of what is printable, Go escapes only \ and ", as YAML does
}
