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
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
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
	forms     http.CrossOriginProtection // refuses forms of other sites
	exchanges exchangeLimit

	readyMu  sync.Mutex
	readyAt  time.Time // of the last check of the store
	readyErr error     // its result
}

// Routes other than the callback, whose path comes from REDIRECT_URL.
const (
	InstallPath   = link.InstallPath
	shareablePath = "/v1/subscribers/:subscriberId/credentials/slack/oauth"
	resultPath    = "/slack/result"
	stylePath     = "/slack/assets/style.css"
	iconPath      = "/slack/assets/icon.svg"
	slackPath     = "/slack/assets/slack.svg"
	popupPath     = "/slack/assets/popup.js"
	waitPath      = "/slack/assets/wait.js"
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
	config.Metrics.FlowsFinished.WithLabelValues(state.Connected)
	config.Metrics.FlowsFinished.WithLabelValues(state.Disconnected)
	config.Metrics.FlowsFinished.WithLabelValues(codePending)
	h := &handler{Config: config}
	if err := h.forms.AddTrustedOrigin(link.Origin(config.RedirectURL)); err != nil { // a proxy may rewrite Host, which is compared otherwise
		panic(err) // REDIRECT_URL is a URL with a host
	}
	e := echo.New()
	e.HTTPErrorHandler = h.fail
	e.IPExtractor = addressExtractor(config.TrustedProxies)
	e.Pre(normalizePath)
	e.Use(h.observe, h.setHeaders())

	e.Match(readMethods, "/", func(c echo.Context) error { return h.render(c, "front", "", nil) })
	e.Match(readMethods, "/healthz", h.healthz)
	e.Match(readMethods, "/readyz", h.readyz)
	e.Match(readMethods, stylePath, serveStyle(config.Brand.Color))
	for _, path := range []string{iconPath, slackPath, popupPath, waitPath} {
		e.Match(readMethods, path, serveAsset)
	}

	limit, installMethods := h.limitRate(), readMethods
	if config.InstallPage {
		installMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	}
	callbackPath, _ := cleanPath(config.RedirectURL)
	e.Match(installMethods, InstallPath, h.install, limit, requireNavigation, h.requirePublicHost)
	e.Match(installMethods, shareablePath, h.install, limit, requireNavigation, h.requirePublicHost)
	e.Match([]string{http.MethodGet, http.MethodHead, http.MethodPost}, link.DisconnectPath, h.disconnect, limit, requireNavigation, h.requirePublicHost)
	e.Match(readMethods, callbackPath, h.callback, limit, requireNavigation)
	e.Match(readMethods, resultPath, h.result, limit)
	return e
}

var readMethods = []string{http.MethodGet, http.MethodHead}

// requireNavigation answers requests that no person's click made, so that they change
// nothing: HEAD, which link scanners send, and prefetches. Prefetches get 503, because
// browsers do not keep that answer to show it later.
func requireNavigation(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if r.Method == http.MethodHead {
			return c.NoContent(http.StatusOK)
		}
		for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
			if v := strings.ToLower(r.Header.Get(name)); strings.Contains(v, "prefetch") || strings.Contains(v, "prerender") || strings.Contains(v, "preview") {
				return c.NoContent(http.StatusServiceUnavailable)
			}
		}
		return next(c)
	}
}

// setHeaders sets the headers of every answer.
func (h *handler) setHeaders() echo.MiddlewareFunc {
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
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			maps.Copy(c.Response().Header(), all) // nobody changes the values: Set replaces them
			if c.Request().Method == http.MethodHead {
				c.Response().Header().Set(DeploymentHeader, string(h.Store.Deployment))
			}
			return next(c)
		}
	}
}

// contentPolicy returns the Content-Security-Policy of an answer: pages load our own files
// and the app's logo, and nothing else. Browsers apply form-action to every redirect that
// follows: to Slack, to a workspace's sign-in provider, and to the return URL. That can be
// any https host, or an http one during development.
func (h *handler) contentPolicy(v view) string {
	policy := strings.TrimSpace("default-src 'none'; style-src 'self'; img-src 'self' "+originOf(h.Brand.LogoURL)) + "; base-uri 'none'; frame-ancestors 'none'"
	switch {
	case v.formLabel == "":
		policy += "; form-action 'none'"
	case h.secure():
		policy += "; form-action 'self' https:"
	default:
		policy += "; form-action 'self' https: http:"
	}
	if v.popup != nil || v.refresh != "" {
		policy += "; script-src 'self'"
	}
	if v.refresh != "" {
		policy += "; connect-src 'self'"
	}
	return policy
}

// originOf returns the origin of a URL, or "" if text is empty.
func originOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func (h *handler) secure() bool { return h.RedirectURL.Scheme == "https" }

func (h *handler) limitRate() echo.MiddlewareFunc {
	burst := max(1, int(3*h.RateLimit))
	// After this time without a request a client has its full burst again, and can be
	// forgotten. This bounds the memory that a flood from many addresses takes.
	expiresIn := time.Duration(min(float64(burst)/h.RateLimit, 3600) * float64(time.Second))
	return middleware.RateLimiterWithConfig(middleware.RateLimiterConfig{
		Skipper:             func(echo.Context) bool { return h.RateLimit == 0 },
		Store:               middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{Rate: rate.Limit(h.RateLimit), Burst: burst, ExpiresIn: expiresIn}),
		IdentifierExtractor: func(c echo.Context) (string, error) { return clientNetwork(c.RealIP()), nil },
		DenyHandler: func(c echo.Context, _ string, _ error) error {
			line := logLineOf(c)
			if id, ok := state.FlowID(secret.New(line.query.Get("state"))); ok { // a callback
				line.flow = &state.Flow{ID: id}
			}
			c.Response().Header().Set("Retry-After", "1")
			return &problem{code: codeRateLimited}
		},
	})
}

// clientNetwork returns what the rate limit counts as one client: an IPv4 address, or a
// /64 network of IPv6.
func clientNetwork(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	prefix, _ := ip.WithZone("").Prefix(64)
	return prefix.String()
}

// isRequestID reports whether a request's own ID may stand in the log and on pages.
func isRequestID(id string) bool {
	return len(id) >= 8 && len(id) <= 64 && link.ConsistsOf(id, link.Alphanumeric+"._-")
}

// logLine is what observe reads of a request, and logs and counts of it.
type logLine struct {
	requestID string
	query     url.Values  // of the URL
	queryErr  error       // if it is malformed
	flow      *state.Flow // nil if the request has none
	problem   *problem    // nil if there is none
	novu      error       // why it is not known whether Novu has the integration; the flow goes on
	outcome   string      // of a flow that this request ended
}

const logLineKey = "log line" // in echo's context

// logLineOf returns the log line of a request, for its handler to fill in.
func logLineOf(c echo.Context) *logLine { return c.Get(logLineKey).(*logLine) }

// observe gives each request an ID, counts its outcome, and writes its log line: with
// the route's pattern and never the URL, which carries codes, states and links.
func (h *handler) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !isRequestID(id) {
			id = rand.Text()
		}
		line := &logLine{requestID: id}
		line.query, line.queryErr = url.ParseQuery(c.Request().URL.RawQuery)
		if id := cmp.Or(line.query.Get("flow"), line.query.Get(againParam)); state.ValidFlowID(id) {
			line.flow = &state.Flow{ID: id} // it is not known yet whether the browser has it
		}
		c.Set(logLineKey, line)
		c.Response().Header().Set(echo.HeaderXRequestID, id)

		if err := h.recoverPanic(next, c); err != nil {
			c.Error(err)
		}

		event := h.Log.Info()
		if route := c.Path(); route == "/healthz" || route == "/readyz" {
			event = h.Log.Debug()
		}
		if line.novu != nil {
			event = h.Log.Warn()
		}
		if p := line.problem; p != nil {
			info := problemInfo(p.code)
			switch {
			case info.alarm && !p.quiet:
				event = h.Log.Error()
			case info.status >= 500:
				event = h.Log.Warn()
			}
			if !info.alarm || !p.quiet {
				h.Metrics.Problems.WithLabelValues(p.code).Inc()
			}
			event = event.Str("code", p.code).AnErr("error", p.err)
			if remedy := cmp.Or(p.fix, info.remedy); remedy != "" {
				event = event.Str("remedy", remedy)
			}
		}
		if line.flow != nil {
			if line.flow.ID != "" {
				event = event.Str("flow", line.flow.ID)
			}
			if subscriber := line.flow.Request.Subscriber; subscriber != "" {
				event = event.Str("subscriber", subscriber)
			}
		}
		if line.outcome != "" {
			h.Metrics.FlowsFinished.WithLabelValues(line.outcome).Inc()
			event = event.Str("outcome", line.outcome)
		}
		event.AnErr("novu", line.novu).Str("request_id", id).Str("method", c.Request().Method).Str("route", c.Path()).Int("status", c.Response().Status).
			Str("client", c.RealIP()).Dur("ms", time.Since(start)).Msg("request")
		return nil
	}
}

// recoverPanic calls next and turns a panic into an error with its type and stack. The
// text of a panic is included only if it is the runtime's own: others may hold a secret.
func (h *handler) recoverPanic(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("panic: %w\n%s", p, debug.Stack())
		default:
			err = fmt.Errorf("panic of a %T\n%s", p, debug.Stack())
		}
	}()
	return next(c)
}

func (h *handler) healthz(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
}

// readyz reports whether the store can do what a callback needs. It has no rate limit,
// and no log line of its own: the store reports its failures once.
func (h *handler) readyz(c echo.Context) error {
	if h.checkReady(withoutCancel(c)) != nil {
		return c.JSON(http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "store": "does not answer"})
	}
	return h.healthz(c)
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
