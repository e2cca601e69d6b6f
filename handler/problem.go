package handler

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
	"golang.org/x/text/runes"

	"novu-slack-redirect/link"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// problem is why a request or a flow failed. Its code is stable: the page, the log line and
// the return URL show the same one.
type problem outbox.Failure

func (p *problem) Error() string { return p.Code }

// storeProblem returns the problem that an error of the store is.
func storeProblem(err error) error {
	if errors.Is(err, state.ErrNotFound) || errors.Is(err, state.ErrSealed) {
		return &problem{Code: codeStateNotFound, Err: err}
	}
	return &problem{Code: codeStoreUnavailable, Err: err, Remedy: state.Remedy(err)}
}

// catalogue has the page of every problem, by its code. docs/errors.md is made from it. The
// remedies of flows' codes that only the operator can help with are those of package outbox.
var catalogue = map[string]page{
	outbox.CodeAccessDenied:      {status: http.StatusForbidden, kind: "cancelled", again: true},
	outbox.CodeCodeExpired:       {status: http.StatusGone, again: true},
	outbox.CodeSlackAccount:      {status: http.StatusForbidden, again: true},
	outbox.CodeSlackAdmin:        {status: http.StatusForbidden, again: true},
	outbox.CodeNotDistributed:    {status: http.StatusForbidden, again: true},
	outbox.CodeSlackLater:        {status: http.StatusServiceUnavailable, again: true},
	outbox.CodeSlackBusy:         {status: http.StatusServiceUnavailable, again: true},
	outbox.CodeSlackUnavailable:  {status: http.StatusBadGateway, again: true},
	outbox.CodeSlackSetup:        {status: http.StatusBadGateway},
	outbox.CodeSlackUnknown:      {status: http.StatusBadGateway, again: true},
	outbox.CodeOrgInstall:        {status: http.StatusForbidden, again: true, remedy: "set org_deploy_enabled to false in the Slack app's manifest, so that people install it to one workspace"},
	outbox.CodeNoWebhook:         {status: http.StatusBadGateway},
	outbox.CodeBadWebhook:        {status: http.StatusBadGateway},
	outbox.CodeWorkspaceMismatch: {status: http.StatusForbidden, again: true},
	outbox.CodeNoIntegration:     {status: http.StatusServiceUnavailable},
	outbox.CodeInterrupted:       {status: http.StatusServiceUnavailable, again: true},
	state.Replaced:               {status: http.StatusConflict, again: true},
}

// Codes of requests that failed. Those of flows are in package outbox.
var (
	codeLinkInvalid      = newCode("link_invalid", page{status: http.StatusForbidden, remedy: "sign links with LINK_SECRET, with the origin of REDIRECT_URL as aud and an exp; hash subscriber IDs with NOVU_API_KEY, and set NOVU_STYLE_LINKS=true if LINK_SECRET is set"})
	codeLinkExpired      = newCode("link_expired", page{status: http.StatusGone, remedy: "make the link when its page is shown, or let it live longer"})
	codeReturnURL        = newCode("return_url_not_allowed", page{status: http.StatusForbidden, remedy: "put its prefix in RETURN_URLS, or sign the link"})
	codeRequestInvalid   = newCode("request_invalid", page{status: http.StatusBadRequest})
	codeStateMissing     = newCode("state_missing", page{status: http.StatusBadRequest, remedy: "installs that begin in Slack name no subscriber: point the app's Direct Install URL at your own settings page"})
	codeUnfinished       = newCode("unfinished", page{status: http.StatusConflict, again: true})
	codeStateNotFound    = newCode("state_not_found", page{status: http.StatusGone, remedy: "if there are many, raise STATE_TTL, and see that the store does not evict"})
	codeOtherBrowser     = newCode("other_browser", page{status: http.StatusForbidden, remedy: "if there are many, see that no proxy strips cookies and that the link does not open in an app's own browser"})
	codeStoreUnavailable = newCode("store_unavailable", page{status: http.StatusServiceUnavailable, alarm: true, remedy: "see that Redis, or the data file's disk, answers and has room"})
	codeRateLimited      = newCode("rate_limited", page{status: http.StatusTooManyRequests, remedy: "if people are hit, raise RATE_LIMIT; if all have one address, set TRUSTED_PROXIES"})
	codeTooManyTries     = newCode("too_many_tries", page{status: http.StatusTooManyRequests, remedy: "somebody sends many codes with one subscriber's link: the log line names the subscriber"})
	codeNotFound         = newCode("not_found", page{status: http.StatusNotFound, remedy: "if the path ends as one of this service's and begins otherwise, let the proxies in front pass paths on as they are"})
	codeMethodNotAllowed = newCode("method_not_allowed", page{status: http.StatusMethodNotAllowed})
	codeInternal         = newCode("internal_error", page{status: http.StatusInternalServerError, alarm: true, remedy: "this is a bug: please report it with the log lines of this request ID"})
)

func init() {
	for code, remedy := range outbox.Remedies {
		p := catalogue[code]
		p.alarm, p.remedy = true, remedy
		catalogue[code] = p
	}
}

// newCode adds a code and its page to the catalogue.
func newCode(code string, p page) string {
	catalogue[code] = p
	return code
}

// newRefusal returns the problem for the error of a callback's query. Anyone who holds a link
// can write any code there: one that is in no list is cleaned for the log and never shown,
// and only those that Slack's authorize page is known to send alarm the operator.
func newRefusal(query url.Values) *problem {
	isOdd := func(r rune) bool { return !strings.ContainsRune(link.Alphanumeric+"_", r) }
	slackCode := runes.Remove(runes.Predicate(isOdd)).String(query.Get("error"))
	slackCode = cmp.Or(slackCode[:min(len(slackCode), 64)], "unreadable_error")

	p := (*problem)(outbox.SlackFailure(slackCode, &slackoauth.Error{Code: slackCode}))
	switch {
	case slices.Contains(slackoauth.OwnCodes, slackCode):
		p = &problem{Code: outbox.CodeSlackUnknown, Err: p.Err}
	case p.Code == outbox.CodeAccessDenied && query.Get("error_description") != "":
		p.Err = fmt.Errorf("%w, with an error_description: the person cancelled", p.Err)
	case p.Code == outbox.CodeAccessDenied:
		p.Err = fmt.Errorf("%w, without an error_description: the workspace may not let the person install apps", p.Err)
	}
	p.Quiet = slackCode != "invalid_scope" && slackCode != "invalid_team_for_non_distributed_app"
	return p
}

// fail answers every failure.
func (h *handler) fail(r *request, err error) {
	var p *problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, echo.ErrNotFound):
		p = &problem{Code: codeNotFound}
	case errors.Is(err, echo.ErrMethodNotAllowed):
		p = &problem{Code: codeMethodNotAllowed}
	default:
		p = &problem{Code: codeInternal, Err: err}
	}
	r.problem = p
	switch page, _ := pageOf(p.Code); {
	case r.Response().Committed: // the answer was sent, or the browser has gone
	case wantsJSON(r):
		_ = r.JSON(page.status, map[string]string{"error": p.Code})
	default:
		_ = h.render(r, p.Code)
	}
}
