// Package handler serves the routes that browsers use.
//
//	customer's app        this package                       Slack           Novu
//	install link ───────► install: verify the link,
//	                      issue a flow, set its cookie ────► consent page
//	                      callback: cookie and state, ◄───── code and state
//	                      consume the flow once,
//	                      exchange the code ───────────────► oauth.v2.access
//	                      deliver the webhook ──────────────────────────────► subscriber
//	return URL, or   ◄─── 303, to a URL without code or state
//	GET /slack/result
//
// Nothing is sent to Slack or Novu before the link, the cookie and the state have been
// checked. Once a flow is consumed, the work goes on even if the browser disconnects.
// Every failure is answered by one function, fail, with a page that has a stable code.
package handler

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/rs/zerolog"

	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// Novu is the part of *novuclient.Client that the routes need.
type Novu interface {
	// ResolveIntegration returns the identifier of the active Slack integration to use: the named
	// one, or Novu's choice if integration is empty; with only, it refuses to choose among
	// several. It returns a *novuclient.Error for
	// NoIntegration or ManyIntegrations if there is none. Any other error means that
	// Novu did not answer.
	ResolveIntegration(ctx context.Context, integration string, only bool) (resolved string, err error)
}

// Brand is the name, logo and links shown on pages.
type Brand struct {
	Name       string // of the app
	AppURL     string // optional: where pages without a return URL lead back to
	LogoURL    string // optional: https, or http on a loopback host
	Color      string // optional: #rrggbb, of buttons and links
	SupportURL string // optional: https or mailto, where people find help
}

// Config is what the routes need. All fields are required but InstallPage,
// TrustedProxies and RateLimit.
type Config struct {
	RedirectURL *url.URL // its path is the callback route
	Links       *link.Verifier
	Slack       *slackoauth.Client
	Novu        Novu
	Store       *state.Store
	Outbox      *outbox.Outbox
	StateTTL    time.Duration // how long a person may take at Slack
	Brand       Brand
	InstallPage bool // show a page with a button before sending a person to Slack
	Log         zerolog.Logger
	Metrics     *metrics.Metrics

	TrustedProxies []*net.IPNet // whose X-Forwarded-For is believed
	RateLimit      float64      // requests a second per client address; 0 is off
}

type handler struct {
	Config
	headers   http.Header                        // of every answer
	forms     http.CrossOriginProtection         // refuses forms of other sites
	clients   *middleware.RateLimiterMemoryStore // counts the requests of each client
	exchanges exchangeLimit

	dictionaries []func() *dictionary // as tags

	readyMu  sync.Mutex
	readyAt  time.Time // of the last check of the store
	readyErr error     // its result
}

// Routes other than the callback, whose path comes from REDIRECT_URL.
const (
	InstallPath   = link.InstallPath
	shareablePath = "/v1/subscribers/:subscriberId/credentials/slack/oauth"
	resultPath    = "/slack/result"
	assetsPath    = "/slack/assets/"
	healthPath    = "/healthz"
	readyPath     = "/readyz"
)

// DeploymentHeader is in the answer to each HEAD, with the deployment's name, by which check
// finds out whether REDIRECT_URL leads to this service. It is made of what is public.
const DeploymentHeader = "Novu-Slack-Redirect"

// New returns the routes of the service.
func New(config Config) http.Handler {
	// Create each counter at zero: Prometheus sees no increase in a counter that appears
	// with its first failure.
	for code := range catalogue {
		config.Metrics.Problems.WithLabelValues(code)
		config.Metrics.FlowsFinished.WithLabelValues(code)
	}
	for _, outcome := range successes {
		config.Metrics.FlowsFinished.WithLabelValues(outcome)
	}
	h := &handler{Config: config, clients: newRateLimit(config.RateLimit), dictionaries: listDictionaries(config.Brand.Name)}
	h.headers = h.commonHeaders()
	if err := h.forms.AddTrustedOrigin(link.Origin(config.RedirectURL)); err != nil { // a proxy may rewrite Host, which is compared otherwise
		panic(err) // REDIRECT_URL is a URL with a host
	}
	e := echo.New()
	e.IPExtractor = addressExtractor(config.TrustedProxies)
	e.Use(h.observe)
	// A route's steps are taken until one has answered, or fails.
	route := func(methods []string, path string, steps ...func(*request) error) {
		e.Match(methods, path, func(c echo.Context) error {
			for _, step := range steps {
				if err := step(c.(*request)); err != nil || c.Response().Committed {
					return err
				}
			}
			return nil
		})
	}
	read := []string{http.MethodGet, http.MethodHead}
	readOrPost := append(read, http.MethodPost)
	install := read
	if config.InstallPage {
		install = readOrPost
	}
	callbackPath, _ := cleanPath(config.RedirectURL)

	route(read, "/", func(r *request) error { return h.render(r, pageFront) })
	route(read, healthPath, healthz)
	route(read, readyPath, h.readyz)
	route(read, assetsPath+"style.css", serveStyle(config.Brand.Color))
	for _, name := range []string{"icon.svg", "slack.svg", "popup.js", "wait.js"} {
		route(read, assetsPath+name, serveAsset)
	}
	route(install, InstallPath, h.limitRate, requireNavigation, h.requirePublicHost, h.install)
	route(install, shareablePath, h.limitRate, requireNavigation, h.requirePublicHost, h.install)
	route(readOrPost, link.DisconnectPath, h.limitRate, requireNavigation, h.requirePublicHost, h.disconnect)
	route(read, callbackPath, h.limitRate, requireNavigation, h.callback)
	route(read, resultPath, h.limitRate, h.result)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		normalizePath(r.URL) // before a route is chosen by it
		e.ServeHTTP(w, r)
	})
}

// requireNavigation answers requests that no person's click made, so that they change
// nothing: HEAD, which link scanners send, and prefetches. Prefetches get 503, because
// browsers do not keep that answer to show it later.
func requireNavigation(r *request) error {
	if r.Request().Method == http.MethodHead {
		return r.NoContent(http.StatusOK)
	}
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		purpose := strings.ToLower(r.Request().Header.Get(name))
		if strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "prerender") || strings.Contains(purpose, "preview") {
			return r.NoContent(http.StatusServiceUnavailable)
		}
	}
	return nil
}

// commonHeaders returns the headers of every answer.
func (h *handler) commonHeaders() http.Header {
	all := http.Header{
		"Content-Security-Policy": {h.contentPolicy(view{})},
		"X-Frame-Options":         {"DENY"},
		"X-Content-Type-Options":  {"nosniff"},
		"Referrer-Policy":         {"no-referrer"},
		"Cache-Control":           {"no-store"},
	}
	if h.secure() {
		all.Set("Strict-Transport-Security", "max-age=31536000")
	}
	return all
}

func (h *handler) secure() bool { return h.RedirectURL.Scheme == "https" }

func healthz(r *request) error {
	return r.JSON(http.StatusOK, map[string]string{"status": "ok"})
}

// readyz reports whether the store can do what a callback needs. It has no rate limit,
// and no log line of its own: the store reports its failures once.
func (h *handler) readyz(r *request) error {
	if h.checkReady(r.withoutCancel()) != nil {
		return r.JSON(http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "store": "does not answer"})
	}
	return healthz(r)
}

// checkReady asks the store once a second at most, however many requests come.
func (h *handler) checkReady(ctx context.Context) error {
	h.readyMu.Lock()
	defer h.readyMu.Unlock()
	if time.Since(h.readyAt) >= time.Second {
		h.readyErr, h.readyAt = h.Store.Ready(ctx), time.Now()
	}
	return h.readyErr
}
