package handler

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// problem is how a request or a flow failed. Its code is stable: the page, the
// log line and the return URL show the same one. Its err is for the operator
// alone.
type problem struct {
	code string
	err  error
	flow *state.Flow // whom Start again is for, where that is known
}

func (p *problem) Error() string {
	if p.err == nil {
		return p.code
	}
	return p.code + ": " + p.err.Error()
}

func (p *problem) Unwrap() error { return p.err }

func (p *problem) entry() entry {
	if e, ok := catalogue[p.code]; ok {
		return e
	}
	return catalogue[codeInternal]
}

// The codes of the catalogue.
const (
	codeLinkInvalid       = "link_invalid"
	codeLinkExpired       = "link_expired"
	codeReturnURL         = "return_url_not_allowed"
	codeRequestInvalid    = "request_invalid"
	codeStateMissing      = "state_missing"
	codeStateNotFound     = "state_not_found"
	codeOtherBrowser      = "other_browser"
	codeInterrupted       = "interrupted"
	codeAccessDenied      = "access_denied"
	codeCodeExpired       = "code_expired"
	codeAccount           = "slack_account"
	codeAdmin             = "slack_admin"
	codeNotDistributed    = "not_distributed"
	codeLater             = "slack_later"
	codeBusy              = "slack_busy"
	codeSlackUnavailable  = "slack_unavailable"
	codeSlackSetup        = "slack_setup"
	codeSlackUnknown      = "slack_unknown"
	codeNoWebhook         = "no_webhook"
	codeBadWebhook        = "bad_webhook"
	codeWorkspaceMismatch = "workspace_mismatch"
	codeNovuRefused       = "novu_refused"
	codeNovuUnavailable   = "novu_unavailable"
	codeStoreUnavailable  = "store_unavailable"
	codeRateLimited       = "rate_limited"
	codeNotFound          = "not_found"
	codeMethodNotAllowed  = "method_not_allowed"
	codeInternal          = "internal_error"
	codeConnected         = "connected" // not a problem: the outcome that all others are not
	startAgainFromApp     = "Go back to the app and use its Add to Slack button again."
	startAgain            = "Start again; it takes a few seconds."
	onOurSide             = "This is on our side, not yours, and the people who run the app can see it. Please try again later."
)

// entry is what a person reads about a code, and what the operator should do.
type entry struct {
	status int
	title  string
	text   string
	next   string
	remedy string // for the log; set only where the operator must act
}

var catalogue = map[string]entry{
	codeLinkInvalid:    {http.StatusForbidden, "This link doesn’t work", "The link is incomplete or was changed on the way.", startAgainFromApp, ""},
	codeLinkExpired:    {http.StatusGone, "This link has expired", "Links to connect Slack work for a limited time only.", startAgainFromApp, ""},
	codeReturnURL:      {http.StatusForbidden, "This link doesn’t work", "The link leads back to a page that isn’t allowed.", startAgainFromApp, ""},
	codeRequestInvalid: {http.StatusBadRequest, "That didn’t look right", "The answer from Slack was incomplete or was changed on the way. Nothing was connected.", startAgainFromApp, ""},
	codeStateMissing:   {http.StatusBadRequest, "Please start in the app", "Slack sent you here, but we can’t tell who you are. Nothing was connected.", "Go to the app and use its Add to Slack button.", ""},
	codeStateNotFound:  {http.StatusGone, "This took too long", "The time to finish in Slack has run out, or this page was used already. Nothing was connected.", startAgainFromApp, ""},
	codeOtherBrowser:   {http.StatusForbidden, "Please start again in this browser", "Connecting Slack has to end in the browser where it began, within a few minutes. This browser has no memory of it: it was another one, it blocks cookies, or the time ran out. Nothing was connected.", startAgainFromApp, ""},
	codeInterrupted:    {http.StatusServiceUnavailable, "We were interrupted", "Something stopped us in the middle, and we can’t tell whether Slack was connected.", "Start again to be sure; connecting twice does no harm.", ""},
	codeAccessDenied:   {http.StatusForbidden, "You cancelled", "Slack is not connected, and nothing was changed.", "Changed your mind? Start again.", ""},
	codeCodeExpired:    {http.StatusGone, "Slack’s approval has expired", "Slack’s approval works once and for ten minutes, and this one no longer did. Nothing was connected.", startAgain, ""},
	codeAccount:        {http.StatusForbidden, "Slack needs something from you first", "Slack asks you to finish setting up your account there, for example to confirm your e-mail address or to turn on two-factor sign-in.", "Do that in Slack, then start again.", ""},
	codeAdmin:          {http.StatusForbidden, "A workspace admin must allow it", "Your Slack workspace doesn’t let everyone add apps.", "Ask an admin of the workspace to approve the app, then start again.", ""},
	codeNotDistributed: {http.StatusForbidden, "The app can’t be added to this workspace yet", "The app is not open to other Slack workspaces.", onOurSide,
		"turn on public distribution: Slack app settings, Manage Distribution, Activate Public Distribution"},
	codeLater:            {http.StatusServiceUnavailable, "Slack is busy with your workspace", "Your workspace is being moved or needs you to sign in to its organisation.", "Sign in to Slack, wait a little, then start again.", ""},
	codeBusy:             {http.StatusServiceUnavailable, "Slack is very busy", "Slack asked us to wait. Nothing was connected.", "Wait a minute, then start again.", ""},
	codeSlackUnavailable: {http.StatusBadGateway, "Slack didn’t answer", "We couldn’t get an answer from Slack that we can use. Nothing was connected.", "Wait a minute, then start again.", ""},
	codeSlackSetup:       {http.StatusBadGateway, "Slack can’t be connected right now", "The connection to Slack isn’t set up properly.", onOurSide, ""},
	codeSlackUnknown: {http.StatusBadGateway, "Slack said no", "Slack refused for a reason we don’t know. Nothing was connected.", startAgain,
		"look the Slack error code up in the reference of oauth.v2.access"},
	codeNoWebhook: {http.StatusBadGateway, "Slack gave us no channel", "Slack agreed, but without a channel to post to.", onOurSide,
		"the Slack app needs the bot scope incoming-webhook, with Incoming Webhooks turned on"},
	codeBadWebhook: {http.StatusBadGateway, "Slack’s answer looked wrong", "Slack’s answer didn’t lead to Slack, so we didn’t use it. Nothing was connected.", onOurSide,
		"oauth.v2.access answered with a webhook that is not on Slack's host: check SLACK_URL and whatever proxy is in between"},
	codeWorkspaceMismatch: {http.StatusForbidden, "That was another workspace", "This link is for one Slack workspace only, and a different one was picked. Nothing was connected.", "Start again and pick the right workspace at the top of Slack’s page.", ""},
	codeNovuRefused:       {http.StatusBadGateway, "We couldn’t save your channel", "Slack agreed, but your choice couldn’t be saved.", onOurSide, ""},
	codeNovuUnavailable:   {http.StatusBadGateway, "We couldn’t save your channel", "Slack agreed, but your choice couldn’t be saved just now.", "Wait a minute, then start again.", ""},
	codeStoreUnavailable:  {http.StatusServiceUnavailable, "Please try again in a minute", "We can’t work right now. Nothing is lost.", "Reload this page in a minute.", ""},
	codeRateLimited:       {http.StatusTooManyRequests, "That was too fast", "There were too many requests from your network.", "Wait a few seconds, then reload this page.", ""},
	codeNotFound:          {http.StatusNotFound, "There is nothing here", "This address doesn’t lead anywhere.", startAgainFromApp, ""},
	codeMethodNotAllowed:  {http.StatusMethodNotAllowed, "That doesn’t work here", "This address is for reading only.", startAgainFromApp, ""},
	codeInternal:          {http.StatusInternalServerError, "Something went wrong", "Something went wrong on our side.", "Please try again in a minute.", "this is a bug: please report it with the log lines of this request ID"},
}

// slackCodes says which entry each of Slack's codes belongs to. Codes of the
// authorize page and of the exchange share the table.
// https://docs.slack.dev/reference/methods/oauth.v2.access#errors
var slackCodes = map[string]string{
	"access_denied":                       codeAccessDenied,
	"invalid_code":                        codeCodeExpired,
	"code_already_used":                   codeCodeExpired,
	"invalid_code_verifier":               codeCodeExpired,
	"user_email_unverified":               codeAccount,
	"two_factor_setup_required":           codeAccount,
	"account_inactive":                    codeAccount,
	"cannot_install_an_org_installed_app": codeAccount,

	"accesslimited":                 codeAdmin,
	"enterprise_is_restricted":      codeAdmin,
	"ekm_access_denied":             codeAdmin,
	"no_permission":                 codeAdmin,
	"team_access_not_granted":       codeAdmin,
	"preview_feature_not_available": codeAdmin,
	"team_added_to_org":             codeLater,
	"org_login_required":            codeLater,
	"ratelimited":                   codeBusy,

	"service_unavailable":      codeSlackUnavailable,
	"request_timeout":          codeSlackUnavailable,
	"internal_error":           codeSlackUnavailable,
	"fatal_error":              codeSlackUnavailable,
	slackoauth.CodeUnavailable: codeSlackUnavailable,
	slackoauth.CodeNoWebhook:   codeNoWebhook,
	slackoauth.CodeBadWebhook:  codeBadWebhook,

	"invalid_team_for_non_distributed_app": codeNotDistributed,
}

// setupRemedies are Slack's codes that only the operator, or a fix, can help.
var setupRemedies = map[string]string{
	"invalid_client_id":                "SLACK_CLIENT_ID is not a Slack app's: copy it from Basic Information",
	"bad_client_secret":                "SLACK_CLIENT_SECRET does not belong to SLACK_CLIENT_ID: copy it from Basic Information",
	"bad_redirect_uri":                 "enter REDIRECT_URL, byte for byte, under OAuth & Permissions, Redirect URLs",
	"oauth_authorization_url_mismatch": "the app and SLACK_URL do not belong together",
	"no_scopes":                        "add the bot scope incoming-webhook under OAuth & Permissions",
	"missing_scope":                    "add the bot scope incoming-webhook under OAuth & Permissions",
	"invalid_scope":                    "add the bot scope incoming-webhook under OAuth & Permissions",
	"invalid_grant_type":               "turn token rotation off in the Slack app",
	"pkce_not_allowed":                 "the Slack app must not use PKCE",
	"invalid_auth":                     bugRemedy, "not_authed": bugRemedy, "not_allowed_token_type": bugRemedy,
	"token_expired": bugRemedy, "token_revoked": bugRemedy, "invalid_arguments": bugRemedy, "invalid_arg_name": bugRemedy,
	"invalid_array_arg": bugRemedy, "invalid_charset": bugRemedy, "invalid_form_data": bugRemedy, "invalid_post_type": bugRemedy,
	"missing_post_type": bugRemedy, "deprecated_endpoint": bugRemedy, "method_deprecated": bugRemedy,
}

const bugRemedy = "Slack refused the form of our request: please report this, with Slack's error code"

// slackProblem maps a code of Slack's to its entry.
func slackProblem(code string, err error) *problem {
	p := &problem{code: codeSlackUnknown, err: err}
	if known, ok := slackCodes[code]; ok {
		p.code = known
	} else if remedy, ok := setupRemedies[code]; ok {
		p.code, p.err = codeSlackSetup, &remedied{err, remedy}
	}
	return p
}

func novuProblem(err error) *problem {
	var failure *novuclient.Error
	if errors.As(err, &failure) && !failure.Temporary() {
		return &problem{code: codeNovuRefused, err: &remedied{err, failure.Reason.Remedy()}}
	}
	return &problem{code: codeNovuUnavailable, err: err}
}

// remedied is an error that knows what the operator should do about it.
type remedied struct {
	error
	remedy string
}

func (r *remedied) Unwrap() error { return r.error }

// fail is the one place where failures are answered.
func (h *handler) fail(err error, c echo.Context) {
	if c.Response().Committed {
		c.Set(problemKey, &problem{code: codeInternal, err: err})
		return
	}
	var p *problem
	var he *echo.HTTPError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		p = &problem{code: codeNotFound}
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		p = &problem{code: codeMethodNotAllowed}
	default:
		p = &problem{code: codeInternal, err: err}
	}
	c.Set(problemKey, p)
	if err := h.renderProblem(c, p); err != nil {
		c.Set(problemKey, &problem{code: codeInternal, err: err})
	}
}
