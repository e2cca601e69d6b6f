package outbox

import (
	"maps"
	"slices"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/slackoauth"
)

// Failure is why a flow ended without a connection.
type Failure struct {
	Code   string // stable: in the page, the log, the metrics and the return URL
	Remedy string // what the operator should do, where the code alone does not say
	Err    error  // for the log
	Quiet  bool   // anyone who holds a link can cause it, so it must not alarm the operator
}

// Codes of flows that failed. Package handler has what people read about them.
const (
	CodeAccessDenied      = "access_denied"
	CodeCodeExpired       = "code_expired"
	CodeSlackAccount      = "slack_account"
	CodeSlackAdmin        = "slack_admin"
	CodeNotDistributed    = "not_distributed"
	CodeSlackLater        = "slack_later"
	CodeSlackBusy         = "slack_busy"
	CodeSlackUnavailable  = "slack_unavailable"
	CodeSlackSetup        = "slack_setup"
	CodeSlackUnknown      = "slack_unknown"
	CodeOrgInstall        = "org_install"
	CodeNoWebhook         = "no_webhook"
	CodeBadWebhook        = "bad_webhook"
	CodeWorkspaceMismatch = "workspace_mismatch"
	CodeInterrupted       = "interrupted"
	CodeNoIntegration     = "novu_no_integration"
)

// Remedies says, for each code that only the operator can help with, what to do, unless the
// Failure says it. The log line of such a failure is an error, unless the Failure is quiet.
var Remedies = map[string]string{
	CodeNotDistributed: "turn on public distribution: Slack app settings, Manage Distribution, Activate Public Distribution",
	CodeSlackSetup:     "it depends on Slack's code: docs/errors.md lists them",
	CodeSlackUnknown:   "look Slack's code up in the reference of oauth.v2.access",
	CodeNoWebhook:      "the Slack app needs the bot scope incoming-webhook, with Incoming Webhooks turned on",
	CodeBadWebhook:     "oauth.v2.access answered with a webhook that is not on Slack's host: check SLACK_URL and whatever proxy is in between",
	CodeNoIntegration:  novuclient.NoIntegration.Remedy(),
	CodeInterrupted:    "an instance ended in the middle of a callback: see why",
}

// slackCodes has, for each of our codes, Slack's error codes that it stands for. The codes
// of the authorize page and of the exchange share the table.
// https://docs.slack.dev/reference/methods/oauth.v2.access#errors
var slackCodes = map[string][]string{
	CodeAccessDenied:     {"access_denied"},
	CodeCodeExpired:      {"invalid_code", "code_already_used", "invalid_code_verifier"},
	CodeSlackAccount:     {"user_email_unverified", "two_factor_setup_required", "account_inactive", "cannot_install_an_org_installed_app"},
	CodeSlackAdmin:       {"accesslimited", "enterprise_is_restricted", "ekm_access_denied", "no_permission", "team_access_not_granted", "preview_feature_not_available"},
	CodeSlackLater:       {"team_added_to_org", "org_login_required"},
	CodeSlackBusy:        {slackoauth.CodeRateLimited},
	CodeSlackUnavailable: {"service_unavailable", "request_timeout", "internal_error", "fatal_error", slackoauth.CodeUnavailable},
	CodeOrgInstall:       {slackoauth.CodeOrgInstall},
	CodeNoWebhook:        {slackoauth.CodeNoWebhook},
	CodeBadWebhook:       {slackoauth.CodeBadWebhook},
	CodeNotDistributed:   {"invalid_team_for_non_distributed_app"},
	CodeSlackSetup:       slices.Collect(maps.Keys(setupRemedies)),
	CodeSlackUnknown:     {}, // any other
}

// setupRemedies says, for each of Slack's error codes that only the operator or a fix of
// this program can help with, what to do.
var setupRemedies = map[string]string{
	"invalid_client_id":                "SLACK_CLIENT_ID is not a Slack app's: copy it from Basic Information",
	"bad_client_secret":                "SLACK_CLIENT_SECRET does not belong to SLACK_CLIENT_ID: copy it from Basic Information",
	"bad_redirect_uri":                 "enter REDIRECT_URL, byte for byte, under OAuth & Permissions, Redirect URLs",
	"oauth_authorization_url_mismatch": "the app and SLACK_URL do not belong together",
	"no_scopes":                        scopeRemedy, "missing_scope": scopeRemedy, "invalid_scope": scopeRemedy,
	"invalid_grant_type": "turn token rotation off in the Slack app",
	"pkce_not_allowed":   "the Slack app must not use PKCE",
	"invalid_auth":       bugRemedy, "not_authed": bugRemedy, "not_allowed_token_type": bugRemedy,
	"token_expired": bugRemedy, "token_revoked": bugRemedy, "invalid_arguments": bugRemedy, "invalid_arg_name": bugRemedy,
	"invalid_array_arg": bugRemedy, "invalid_charset": bugRemedy, "invalid_form_data": bugRemedy, "invalid_post_type": bugRemedy,
	"missing_post_type": bugRemedy, "deprecated_endpoint": bugRemedy, "method_deprecated": bugRemedy,
}

const (
	scopeRemedy = "add the bot scope incoming-webhook under OAuth & Permissions"
	bugRemedy   = "Slack refused the form of our request: please report this, with Slack's error code"
)

// SlackFailure returns the Failure for one of Slack's error codes.
func SlackFailure(slackCode string, err error) *Failure {
	for code, slackCodes := range slackCodes {
		if slices.Contains(slackCodes, slackCode) {
			return &Failure{Code: code, Remedy: setupRemedies[slackCode], Err: err}
		}
	}
	return &Failure{Code: CodeSlackUnknown, Err: err}
}

// IsRefusal reports whether SlackFailure can return a Failure with code.
func IsRefusal(code string) bool {
	_, ok := slackCodes[code]
	return ok
}
