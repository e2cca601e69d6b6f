package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"syscall"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/service"
	"novu-slack-redirect/upstream"
)

// public requests the two kinds of paths that browsers need at the public origin, and
// checks that this deployment answers both. HEAD changes nothing there.
func (k *checker) public(ctx context.Context) {
	if k.requestPublic(ctx, k.RedirectURL, k.RedirectURL.EscapedPath()) {
		k.requestPublic(ctx, k.RedirectURL.ResolveReference(&url.URL{Path: handler.InstallPath}), "/slack/")
	}
}

// requestPublic adds the finding of one URL, and reports whether anything answered there.
// route is what the proxies in front must send to the service.
func (k *checker) requestPublic(ctx context.Context, target *url.URL, route string) (answered bool) {
	host, address := target.Hostname(), ""
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { address = info.Conn.RemoteAddr().String() }})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, target.String(), nil)
	if err != nil {
		k.fail("public", err.Error(), "correct REDIRECT_URL")
		return false
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: upstream.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		text, remedy := explainNoAnswer(err, host)
		k.fail("public", target.String()+": "+text, remedy)
		return false
	}
	res.Body.Close()
	found, own := res.Header.Get(handler.DeploymentHeader), string(service.Deployment(k.Config))
	answers, remedy := "", fmt.Sprintf("route %s of %s to this service, with paths as they are", route, host)
	switch {
	case found == own && (res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed):
		answers, remedy = "reaches this service under another path", "let the proxies in front pass paths on as they are, without adding or removing a prefix"
	case found == own:
		at, _, _ := net.SplitHostPort(address)
		if config.IsPrivate(at) && !config.IsPrivate(host) {
			k.warn("public", fmt.Sprintf("%s reaches this service from here, at %s, which is a private address", target, at), "run check --public on a machine elsewhere too: people may be led to another address")
		} else {
			k.ok("public", "%s reaches this service, at %s", target, at)
		}
		return true
	case found != "":
		answers, remedy = "reaches another deployment of this program, with another REDIRECT_URL, SLACK_CLIENT_ID or NOVU_ENVIRONMENT_ID", "run check with that one's settings, or correct where DNS and the proxy lead"
	case res.StatusCode >= 500:
		answers, remedy = "reaches a proxy that does not reach the service", "start the service, and let the proxy send requests to its address and PORT"
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden:
		answers, remedy = "is refused by something in front of the service", "let everybody reach /slack/ and the path of REDIRECT_URL: no sign-in, firewall or protection from bots may stand before them"
	case res.StatusCode >= 300 && res.StatusCode < 400:
		answers = "is redirected by something in front of the service"
	case res.StatusCode == http.StatusNotFound:
		answers = "is not routed to this service"
	default:
		answers = "reaches something else than this service, or an older version of it"
	}
	k.fail("public", fmt.Sprintf("%s %s (HTTP %d)", target, answers, res.StatusCode), remedy)
	return true
}

// explainNoAnswer says why a request to the public host got no answer, and what to do.
func explainNoAnswer(err error, host string) (text, remedy string) {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		return "the host name cannot be resolved: " + err.Error(), "create a DNS record for " + host + " that leads to the host or proxy in front of the service, or correct REDIRECT_URL"
	case errors.As(err, &certificate):
		return "the certificate is not valid: " + err.Error(), "give the proxy a certificate of a public authority for " + host + ", with its chain"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &tls.RecordHeaderError{}):
		return "the port does not speak TLS", "the service speaks HTTP: put a proxy with a certificate for " + host + " before it"
	case strings.Contains(err.Error(), "tls: "):
		return "TLS fails: " + err.Error(), "see the proxy's log, and that it has a certificate for " + host
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: " + err.Error(), "start the proxy and the service, and let the firewall open the port"
	}
	return "no answer: " + err.Error(), "see that the DNS record of " + host + " is right, that the proxy runs, and that the firewall opens the port"
}
