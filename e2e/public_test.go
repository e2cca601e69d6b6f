package e2e_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// publicFindings runs check --public and returns its findings about the public origin.
func publicFindings(t *testing.T, env []string) (exit int, lines string) {
	t.Helper()
	exit, out, errs := runCommand(t, env, "check", "--public")
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "ok    public ") || strings.HasPrefix(line, "warn  public ") || strings.HasPrefix(line, "fail  public ") {
			lines += line
		}
	}
	if lines == "" {
		t.Fatalf("got exit code %d and no finding: %s%s", exit, out, errs)
	}
	return exit, lines
}

// check --public tells this service, behind whatever proxy, from all else that may answer at
// REDIRECT_URL, and names what to do.
func TestCheckPublic(t *testing.T) {
	t.Parallel()
	// front is a proxy at REDIRECT_URL, which a case may change.
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://login.example.com/")
			w.WriteHeader(status)
		}
	}
	const callback, install = "/slack/callback", "/slack/install"
	okCallback, okInstall := "ok    public        ORIGIN"+callback+" reaches this service, at 127.0.0.1\n", "ok    public        ORIGIN"+install+" reaches this service, at 127.0.0.1\n"
	for name, c := range map[string]struct {
		front   func(service http.Handler) http.Handler
		service []string // settings that the service has and check has not
		want    string
	}{
		"passed on as it is": {want: okCallback + okInstall},
		"only the callback is routed": {func(service http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle(callback, service)
			return mux
		}, nil, okCallback + "fail  public        ORIGIN" + install + " is not routed to this service (HTTP 404): route /slack/ of 127.0.0.1 to this service, with paths as they are\n"},
		"the callback is not routed": {func(service http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle(install, service)
			return mux
		}, nil, "fail  public        ORIGIN" + callback + " is not routed to this service (HTTP 404): route " + callback + " of 127.0.0.1 to this service, with paths as they are\n" + okInstall},
		"a prefix is removed": {func(service http.Handler) http.Handler { return http.StripPrefix("/slack", service) }, nil,
			"fail  public        ORIGIN" + callback + " reaches this service under another path (HTTP 404): let the proxies in front pass paths on as they are"},
		"another service answers": {func(http.Handler) http.Handler { return answer(200) }, nil,
			"fail  public        ORIGIN" + callback + " reaches something else than this service, or an older version of it (HTTP 200): route " + callback + " of 127.0.0.1"},
		"a sign-in page is in front": {func(http.Handler) http.Handler { return answer(302) }, nil, "is redirected by something in front of the service (HTTP 302): route "},
		"a firewall is in front":     {func(http.Handler) http.Handler { return answer(403) }, nil, "is refused by something in front of the service (HTTP 403): let everybody reach /slack/"},
		"the service does not run":   {func(http.Handler) http.Handler { return answer(502) }, nil, "reaches a proxy that does not reach the service (HTTP 502): start the service, and let the proxy send requests to its address and PORT"},
		"another deployment": {nil, []string{"NOVU_ENVIRONMENT_ID=env-other"},
			"reaches another deployment of this program, with another REDIRECT_URL, SLACK_CLIENT_ID or NOVU_ENVIRONMENT_ID (HTTP 200): run check with that one's settings, or correct where DNS and the proxy lead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var front atomic.Pointer[http.Handler]
			proxy := httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) { (*front.Load()).ServeHTTP(to, r) }))
			defer proxy.Close()
			env := append(w.env, "REDIRECT_URL="+proxy.URL+callback)
			program := start(t, append(env, c.service...)...)
			var behind http.Handler = httputil.NewSingleHostReverseProxy(must(url.Parse(program.origin)))
			if c.front != nil {
				behind = c.front(behind)
			}
			front.Store(&behind)
			exit, lines := publicFindings(t, env)
			if want := strings.ReplaceAll(c.want, "ORIGIN", proxy.URL); !strings.Contains(lines, want) || (exit == exitFailed) != strings.Contains(lines, "fail") {
				t.Errorf("got exit code %d and %s, want %s", exit, lines, want)
			}
		})
	}

	// Nothing that answers: DNS, TLS, and nobody there.
	untrusted := httptest.NewTLSServer(answer(200))
	defer untrusted.Close()
	plain := httptest.NewServer(answer(200))
	defer plain.Close()
	noCertificate := httptest.NewUnstartedServer(answer(200))
	noCertificate.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, fmt.Errorf("no certificate") }}
	noCertificate.StartTLS()
	defer noCertificate.Close()
	for origin, want := range map[string]string{
		"https://nothing.invalid": "the host name cannot be resolved: ",
		"https://127.0.0.1:1":     "nothing listens there: dial tcp 127.0.0.1:1: connect: connection refused: start the proxy and the service, and let the firewall open the port",
		untrusted.URL:             "the certificate is not valid: ",
		strings.Replace(plain.URL, "http:", "https:", 1): "the port does not speak TLS: the service speaks HTTP: put a proxy with a certificate for 127.0.0.1 before it",
		noCertificate.URL: "TLS fails: remote error: tls: ",
	} {
		exit, lines := publicFindings(t, append(newWorld(t).env, "REDIRECT_URL="+origin+callback))
		if want = "fail  public        " + origin + callback + ": " + want; exit != exitFailed || !strings.HasPrefix(lines, want) || strings.Count(lines, "\n") != 1 || strings.HasSuffix(lines, ": \n") {
			t.Errorf("got exit code %d and %s, want %s", exit, lines, want)
		}
	}

	// TLS in front, with a certificate that is trusted.
	cert, key := certificate(t)
	w := newWorld(t)
	var service http.Handler
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) { service.ServeHTTP(to, r) }))
	proxy.TLS = &tls.Config{Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(cert, key))}}
	proxy.StartTLS()
	defer proxy.Close()
	env := append(w.env, "REDIRECT_URL="+proxy.URL+callback, "SSL_CERT_FILE="+cert)
	service = httputil.NewSingleHostReverseProxy(must(url.Parse(start(t, env...).origin)))
	if exit, lines := publicFindings(t, env); exit != exitOK || lines != strings.ReplaceAll(okCallback+okInstall, "ORIGIN", proxy.URL) {
		t.Errorf("behind TLS: got exit code %d and %s", exit, lines)
	}
	if _, lines := checked(t, env); strings.Contains(lines, " public: ") {
		t.Errorf("check without --public requests REDIRECT_URL: %s", lines)
	}
}
