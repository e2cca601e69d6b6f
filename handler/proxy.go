package handler

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/link"
)

// addressExtractor returns the function that finds a client's address, for the log and
// the rate limit. Some proxies write a port into X-Forwarded-For (203.0.113.7:1234,
// [2001:db8::1]:1234), or leave an element of the list empty.
func addressExtractor(trusted []*net.IPNet) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, n := range trusted {
		options = append(options, echo.TrustIPRange(n))
	}
	extract := echo.ExtractIPFromXFFHeader(options...)
	isSeparator := func(c rune) bool { return c == ',' || unicode.IsSpace(c) }
	return func(r *http.Request) string {
		addresses := strings.FieldsFunc(strings.Join(r.Header.Values(echo.HeaderXForwardedFor), ","), isSeparator)
		for i, address := range addresses {
			if host, _, err := net.SplitHostPort(address); err == nil {
				addresses[i] = host
			}
		}
		forwarded := http.Header{echo.HeaderXForwardedFor: {strings.Join(addresses, ",")}}
		return extract(&http.Request{RemoteAddr: r.RemoteAddr, Header: forwarded})
	}
}

// normalizePath undoes what proxies do to a path: it removes empty and dot segments and
// the slash at the end, and decodes what need not be escaped. An escaped slash stays, for
// it may be a part of a subscriber ID.
func normalizePath(u *url.URL) {
	if u.RawPath != "" || path.Clean(u.Path) != u.Path { // or else it is normal
		u.Path, u.RawPath = cleanPath(u)
	}
}

// cleanPath returns a normal path, and its escaped form if it has an escaped slash.
func cleanPath(u *url.URL) (plain, escaped string) {
	clean := u.JoinPath() // removes empty and dot segments
	plain, escaped = cmp.Or(strings.TrimRight(clean.Path, "/"), "/"), strings.TrimRight(clean.RawPath, "/")
	if !strings.Contains(strings.ToUpper(escaped), "%2F") {
		escaped = ""
	}
	return plain, escaped
}

// movedParam is the query parameter that marks a request as redirected to the public
// origin, so that no request is redirected twice.
const movedParam = "moved"

// requirePublicHost redirects a request for another host name of the service to the same
// path and query of REDIRECT_URL's: the flow's cookie would not come back from Slack
// otherwise. A proxy may rewrite Host, so X-Forwarded-Host comes first, and a request that
// was redirected already is served whatever it says.
func (h *handler) requirePublicHost(r *request) error {
	req := r.Request()
	forwarded, _, _ := strings.Cut(req.Header.Get("X-Forwarded-Host"), ",") // the first is what the browser asked for
	host := cmp.Or(strings.TrimSpace(forwarded), req.Host)
	if host == h.RedirectURL.Host || link.Origin(&url.URL{Scheme: h.RedirectURL.Scheme, Host: host}) == h.Links.Origin || r.query.Has(movedParam) {
		return nil
	}
	query, status := movedParam+"=1", http.StatusFound
	if req.URL.RawQuery != "" {
		query = req.URL.RawQuery + "&" + query
	}
	if req.Method == http.MethodPost {
		status = http.StatusTemporaryRedirect // the browser repeats the form
	}
	return r.Redirect(status, h.Links.Origin+req.URL.EscapedPath()+"?"+query)
}

// isChangedPath reports whether a path that no route has ends as one of ours, because a
// proxy removed or added a prefix.
func (h *handler) isChangedPath(requested string) bool {
	return slices.ContainsFunc([]string{InstallPath, shareablePath, h.RedirectURL.Path}, func(own string) bool {
		return path.Base(requested) == path.Base(own)
	})
}
