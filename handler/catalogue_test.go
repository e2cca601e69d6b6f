package handler

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"novu-slack-redirect/outbox"
	"novu-slack-redirect/state"
)

var update = flag.Bool("update", false, "write docs/errors.md anew")

// docs/errors.md is the catalogue: `go test ./handler -run ErrorsDoc -update` makes it.
func TestErrorsDocIsTheCatalogue(t *testing.T) {
	var doc strings.Builder
	doc.WriteString(`# Error codes

Every failure has one stable code. The page shows it beside a reference, the flow's ID or else the request's: the log lines that have it as
` + "`flow`" + ` or ` + "`request_id`" + ` say what happened. The log line has the code as ` + "`code`" + `, and the
return URL as ` + "`?slack=error&reason=CODE`" + `. A flow that ends well is ` + "`connected`" + ` or ` + "`disconnected`" + `, or ` + "`pending`" + ` while Novu does not have the
webhook yet. {app} is the setting APP_NAME. Made from the code by ` + "`go test ./handler -run ErrorsDoc -update`" + `.

| code | status | the person reads | Start again | the operator |
|---|---|---|---|---|
`)
	english := readDictionary("en", "{app}")
	for _, code := range slices.Sorted(maps.Keys(catalogue)) {
		e, w := catalogue[code], english.Pages[code]
		again, remedy := "", e.remedy
		if e.again {
			again = "helps"
		}
		if e.alarm {
			remedy = strings.TrimSpace("**error in the log** " + remedy)
		}
		fmt.Fprintf(&doc, "| `%s` | %d | **%s.** %s | %s | %s |\n", code, e.status, strings.TrimRight(w.Title, "."), w.Text, again, remedy)
	}
	doc.WriteString(`
## Slack's codes

What Slack's authorize page (` + "`error`" + ` in the callback's query) and [oauth.v2.access](https://docs.slack.dev/reference/methods/oauth.v2.access#errors)
can say. The log line has Slack's own code in ` + "`error`" + `; any other code is ` + "`slack_unknown`" + `.

| Slack's code | code | the operator |
|---|---|---|
`)
	for _, code := range slices.Sorted(strings.FieldsSeq(slackCodes)) {
		if failure := outbox.SlackFailure(code, nil); failure.Code != code {
			fmt.Fprintln(&doc, strings.TrimSpace(fmt.Sprintf("| `%s` | `%s` | %s", code, failure.Code, failure.Remedy)), "|")
		}
	}
	const path = "../docs/errors.md"
	if *update {
		if err := os.WriteFile(path, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != doc.String() {
		t.Errorf("docs/errors.md is not the catalogue (%v): run this test with -update", err)
	}
}

// slackCodes are Slack's codes as its reference and the pages that people are sent back
// from have them.
const slackCodes = `invalid_code code_already_used access_denied invalid_code_verifier
	user_email_unverified two_factor_setup_required account_inactive cannot_install_an_org_installed_app
	accesslimited enterprise_is_restricted ekm_access_denied no_permission team_access_not_granted preview_feature_not_available
	team_added_to_org org_login_required
	invalid_client_id bad_client_secret bad_redirect_uri oauth_authorization_url_mismatch no_scopes missing_scope invalid_grant_type
	pkce_not_allowed invalid_auth not_authed not_allowed_token_type token_expired token_revoked invalid_arguments invalid_arg_name
	invalid_array_arg invalid_charset invalid_form_data invalid_post_type missing_post_type deprecated_endpoint method_deprecated
	ratelimited service_unavailable request_timeout internal_error fatal_error
	invalid_scope invalid_team_for_non_distributed_app`

// Each of Slack's codes has an entry, and one that is the operator's a remedy.
func TestEverySlackCodeHasAnEntry(t *testing.T) {
	for code := range strings.FieldsSeq(slackCodes) {
		failure := outbox.SlackFailure(code, nil)
		if _, known := catalogue[failure.Code]; !known || failure.Code == outbox.CodeSlackUnknown {
			t.Errorf("%s has no entry", code)
		}
		if failure.Code == outbox.CodeSlackSetup && failure.Remedy == "" {
			t.Errorf("%s has no remedy of its own", code)
		}
		if !outbox.IsRefusal(failure.Code) {
			t.Errorf("the result page does not know the refusal %s", failure.Code)
		}
	}
	if failure := outbox.SlackFailure("something_new", nil); failure.Code != outbox.CodeSlackUnknown {
		t.Errorf("an unknown code: got %s, want the generic entry", failure.Code)
	}
	for _, code := range []string{"", state.Connected, codePending, state.Replaced, outbox.CodeInterrupted, outbox.CodeWorkspaceMismatch, codeInternal} {
		if outbox.IsRefusal(code) {
			t.Errorf("%q is taken for a refusal of Slack's", code)
		}
	}
}
