package upstreamtest_test

import (
	"strings"
	"testing"

	"novu-slack-redirect/upstream/upstreamtest"
)

func TestMask(t *testing.T) {
	const secret = "5ecretSecretSecretSecretSecret42"
	for _, text := range []string{
		"/slack/callback?code=" + secret + "&state=" + secret,
		"/slack/install?token=" + secret,
		"/x?a=b&hmacHash=" + secret,
		"https://app.example.com/?slack=connected&slack_result=" + secret + "more",
		"/slack/result?flow=" + secret,
		"code=" + secret + "&redirect_uri=https%3A%2F%2Fx",
		`{"access_token":"` + secret + `"}`,
		`{"incoming_webhook":{"url":"https://hooks.slack.com/services/` + secret + `"}}`,
		`{"credentials":{"webhookUrl":"https://hooks.slack.com/services/` + secret + `"}}`,
		"Authorization: Basic " + secret,
		"Authorization: ApiKey " + secret,
		"Cookie: slack_flow_abc=" + secret + "; __Host-slack_flow_abc=" + secret,
	} {
		got := upstreamtest.Mask(text)
		if strings.Contains(got, secret[8:]) || !strings.Contains(got, "…") {
			t.Errorf("Mask(%q): got %q", text, got)
		}
	}
	if got := upstreamtest.Mask("PUT /v1/subscribers/ada/credentials"); got != "PUT /v1/subscribers/ada/credentials" {
		t.Errorf("got %q, want it unchanged", got)
	}
}
