package handler

import (
	"cmp"
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
	code  string
	page  string // in the dictionary, where it is not the code's own
	err   error
	fix   string      // what the operator should do, where it is not the catalogue's
	flow  *state.Flow // whom Start again is for, where that is known
	quiet bool        // whoever holds a link can cause it: no alarm
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

// remedy is what the operator should do, if anything.
func (p *problem) remedy() string { return cmp.Or(p.fix, p.entry().remedy) }

// entry is what is fixed about a code. What the person reads is in pages/*.json,
// one file a language.
type entry struct {
	status int
	again  bool   // Start again can help
	alarm  bool   // only the operator can help: the log line is an error
	remedy string // for the operator, in the log
}

// catalogue has every way to fail, by code. docs/errors.md is made from it.
var catalogue = map[string]entry{}

// declare puts a code into the catalogue.
func declare(code string, e entry) string {
	catalogue[code] = e
	return code
}

var (
	codeLinkInvalid    = declare("link_invalid", entry{status: http.StatusForbidden, remedy: "sign links with LINK_SECRET, with the origin of REDIRECT_URL as aud and an exp; hash subscriber IDs with NOVU_API_KEY"})
	codeLinkExpired    = declare("link_expired", entry{status: http.StatusGone, remedy: "make the link when its page is shown, or let it live longer"})
	codeReturnURL      = declare("return_url_not_allowed", entry{status: http.StatusForbidden, remedy: "put its prefix in RETURN_URLS, or sign the link"})
	codeRequestInvalid = declare("request_invalid", entry{status: http.StatusBadRequest})
	codeStateMissing   = declare("state_missing", entry{status: http.StatusBadRequest, remedy: "installs that begin in Slack name no subscriber: point the app's Direct Install URL at your own settings page"})
	codeUnfinished     = declare("unfinished", entry{status: http.StatusConflict, again: true})
	codeStateNotFound  = declare("state_not_found", entry{status: http.StatusGone, remedy: "if there are many, raise STATE_TTL, and see that the store does not evict"})
	codeOtherBrowser   = declare("other_browser", entry{status: http.StatusForbidden, remedy: "if there are many, see that no proxy strips cookies and that the link does not open in an app's own browser"})
	codeInterrupted    = declare("interrupted", entry{status: http.StatusServiceUnavailable, again: true, alarm: true, remedy: "an instance ended in the middle of a callback: see why"})

	codeAccessDenied     = declare("access_denied", entry{status: http.StatusForbidden, again: true})
	codeCodeExpired      = declare("code_expired", entry{status: http.StatusGone, again: true})
	codeAccount          = declare("slack_account", entry{status: http.StatusForbidden, again: true})
	codeAdmin            = declare("slack_admin", entry{status: http.StatusForbidden, again: true})
	codeNotDistributed   = declare("not_distributed", entry{status: http.StatusForbidden, again: true, alarm: true, remedy: "turn on public distribution: Slack app settings, Manage Distribution, Activate Public Distribution"})
	codeLater            = declare("slack_later", entry{status: http.StatusServiceUnavailable, again: true})
	codeBusy             = declare("slack_busy", entry{status: http.StatusServiceUnavailable, again: true})
	codeSlackUnavailable = declare("slack_unavailable", entry{status: http.StatusBadGateway, again: true})
	codeSlackSetup       = declare("slack_setup", entry{status: http.StatusBadGateway, alarm: true, remedy: "it depends on Slack's code: docs/errors.md lists them"})
	codeSlackUnknown     = declare("slack_unknown", entry{status: http.StatusBadGateway, again: true, alarm: true, remedy: "look Slack's code up in the reference of oauth.v2.access"})
	codeNoWebhook        = declare("no_webhook", entry{status: http.StatusBadGateway, alarm: true, remedy: "the Slack app needs the bot scope incoming-webhook, with Incoming Webhooks turned on"})
	codeBadWebhook       = declare("bad_webhook", entry{status: http.StatusBadGateway, alarm: true, remedy: "oauth.v2.access answered with a webhook that is not on Slack's host: check SLACK_URL and whatever proxy is in between"})

	codeWorkspaceMismatch = declare("workspace_mismatch", entry{status: http.StatusForbidden, again: true})
	codeNoIntegration     = declare("novu_no_integration", entry{status: http.StatusServiceUnavailable, alarm: true, remedy: novuclient.NoIntegration.Remedy()})
	codeNovuRefused       = declare("novu_refused", entry{status: http.StatusBadGateway, alarm: true, remedy: "it depends on Novu's answer: mend the key, the integration or the URL"})
	codeNovuUnavailable   = declare("novu_unavailable", entry{status: http.StatusBadGateway, again: true, alarm: true, remedy: "both Novu and the store failed: nothing was kept"})
	codeStoreUnavailable  = declare("store_unavailable", entry{status: http.StatusServiceUnavailable, alarm: true, remedy: "see that Redis, or the data file's disk, answers and has room"})
	codeRateLimited       = declare("rate_limited", entry{status: http.StatusTooManyRequests, remedy: "if people are hit, raise RATE_LIMIT; if all have one address, set TRUSTED_PROXIES"})
	codeNotFound          = declare("not_found", entry{status: http.StatusNotFound})
	codeMethodNotAllowed  = declare("method_not_allowed", entry{status: http.StatusMethodNotAllowed})
	codeInternal          = declare("internal_error", entry{status: http.StatusInternalServerError, alarm: true, remedy: "this is a bug: please report it with the log lines of this request ID"})
)

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

// SlackRemedy returns what the operator must do about a code of Slack's that only
// the operator, or a fix, can help; nothing for other codes.
func SlackRemedy(code string) string { return setupRemedies[code] }

const bugRemedy = "Slack refused the form of our request: please report this, with Slack's error code"

// slackProblem maps a code of Slack's to its entry.
func slackProblem(code string, err error) *problem {
	p := &problem{code: codeSlackUnknown, err: err}
	if known, ok := slackCodes[code]; ok {
		p.code = known
	} else if remedy, ok := setupRemedies[code]; ok {
		p.code, p.fix = codeSlackSetup, remedy
	}
	return p
}

// authorizeProblem maps the error of a callback's query. Whoever holds a link can
// write one there: a code that we do not know is not shown, and only those that
// Slack's authorize page is known to send alarm anyone.
func authorizeProblem(code string) *problem {
	p := slackProblem(code, &slackoauth.Error{Code: code})
	if p.code == codeSlackUnknown || p.code == codeNoWebhook || p.code == codeBadWebhook || code == slackoauth.CodeUnavailable {
		p = &problem{code: codeSlackUnknown, err: errors.New("an unknown error code in the query")}
	}
	p.quiet = code != "invalid_scope" && code != "invalid_team_for_non_distributed_app"
	return p
}

func novuProblem(err error) *problem {
	var failure *novuclient.Error
	if errors.As(err, &failure) && !failure.Temporary() {
		return &problem{code: codeNovuRefused, err: err, fix: failure.Reason.Remedy()}
	}
	return &problem{code: codeNovuUnavailable, err: err}
}

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
