// Package handler is what browsers see.
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
// Nothing leaves for Slack or Novu before the link, the cookie and the state
// are right. From the moment a flow is consumed the work goes on whether or not
// the browser waits. Every failure ends in one place, fail, as a page with a
// stable code.
package handler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// Outbox hands connections over to Novu.
type Outbox interface {
	// Deliver records conn, hands it over if Novu takes it in a few seconds, and
	// finishes its flow with ending, the result's code replaced by state.Pending
	// if Novu will have it later. It returns that result, and whether the flow is
	// finished; if not, that is the caller's to do. An error, a
	// *novuclient.Error, means that conn is neither recorded nor saved.
	Deliver(ctx context.Context, conn novuclient.Connection, ending state.Ending) (result state.Result, finished bool, err error)
}

// Novu knows whether Novu could take a connection.
type Novu interface {
	// Connect opens a connection to Novu in the background.
	Connect()

	// Ready returns the identifier of the integration that a connection goes to: the
	// named one, or Novu's choice. The error is a *novuclient.Error for NoIntegration
	// or ManyIntegrations when Novu refuses; any other means that nothing is known.
	Ready(ctx context.Context, integration string) (identifier string, err error)
}

// anyNovu is a Novu of which nothing is known.
type anyNovu struct{}

func (anyNovu) Connect() {}
func (anyNovu) Ready(_ context.Context, integration string) (string, error) {
	return integration, nil
}

// Brand is what the pages show of whom they speak for.
type Brand struct {
	Name       string // of the app
	LogoURL    string // optional: https, or http on a loopback host
	SupportURL string // optional: https or mailto, where people find help
}

// Config is what the routes need. All fields are required but Novu, Metrics,
// InstallPage, TrustedProxies and RateLimit.
type Config struct {
	RedirectURL *url.URL // its path is the callback route
	Links       *Links
	Slack       *slackoauth.Client
	States      state.Store
	Outbox      Outbox
	Novu        Novu
	StateTTL    time.Duration // how long a person may take at Slack
	Brand       Brand
	InstallPage bool // ask before sending a person to Slack
	Log         zerolog.Logger
	Metrics     *metrics.Metrics

	TrustedProxies []*net.IPNet // whose X-Forwarded-For is believed
	RateLimit      float64      // requests a second per client address; 0 is off
}

type handler struct {
	Config
	pings singleflight.Group
}

// Routes beside the callback, whose path is the operator's choice.
const (
	InstallPath   = "/slack/install"
	shareablePath = "/v1/subscribers/:subscriberId/credentials/slack/oauth"
	resultPath    = "/slack/result"
	stylePath     = "/assets/style.css"
	iconPath      = "/assets/icon.svg"
	popupPath     = "/assets/popup.js"
)

// New returns the routes of the service.
func New(config Config) http.Handler {
	if config.Metrics == nil {
		config.Metrics = metrics.New()
	}
	if config.Novu == nil {
		config.Novu = anyNovu{}
	}
	// At zero from the start: Prometheus sees no increase in a counter that appears
	// with its first failure.
	for code := range catalogue {
		config.Metrics.Problems.WithLabelValues(code)
		config.Metrics.FlowsFinished.WithLabelValues(code)
	}
	config.Metrics.FlowsFinished.WithLabelValues(state.Connected)
	config.Metrics.FlowsFinished.WithLabelValues(state.Pending)
	h := &handler{Config: config}
	e := echo.New()
	e.HTTPErrorHandler = h.fail
	e.IPExtractor = clientAddress(config.TrustedProxies)
	e.Use(h.observe, h.headers)

	e.Match(reading, "/", h.front)
	e.Match(reading, "/healthz", h.healthz)
	e.Match(reading, "/readyz", h.readyz)
	e.Match(reading, stylePath, asset("style.css", "text/css; charset=utf-8"))
	e.Match(reading, iconPath, asset("icon.svg", "image/svg+xml"))
	e.Match(reading, popupPath, asset("popup.js", "text/javascript; charset=utf-8"))

	limit, installing := h.limitRate(), reading
	if config.InstallPage {
		installing = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	}
	e.Match(installing, InstallPath, h.install, limit, navigationOnly)
	e.Match(installing, shareablePath, h.install, limit, navigationOnly)
	e.Match(reading, config.RedirectURL.Path, h.callback, limit, navigationOnly)
	e.Match(reading, resultPath, h.result, limit)
	return e
}

var reading = []string{http.MethodGet, http.MethodHead}

// CheckRedirectPath returns what is wrong with path, as it is escaped in the URL,
// as the callback's route.
func CheckRedirectPath(path string) error {
	switch {
	case path == "" || path == "/":
		return errors.New("has no path; use one like /slack/callback")
	case path == InstallPath, path == resultPath, path == "/healthz", path == "/readyz", strings.HasPrefix(path, "/assets/"), strings.HasPrefix(path, "/v1/"):
		return errors.New("has a path that the service uses itself; use one like /slack/callback")
	case !regexp.MustCompile(`^[A-Za-z0-9/._~-]+$`).MatchString(path):
		return errors.New("has a path with characters beside letters, digits and / . _ ~ -")
	}
	return nil
}

// navigationOnly keeps what is no person's click from changing anything: HEAD,
// as link scanners send it, and prefetches, to which 503 is the answer that no
// browser keeps and shows later.
func navigationOnly(next echo.HandlerFunc) echo.HandlerFunc {
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

// headers go on every answer.
func (h *handler) headers(next echo.HandlerFunc) echo.HandlerFunc {
	// Files of our own and nothing else, but for the app's logo.
	policy := "default-src 'none'; style-src 'self'; img-src 'self'" + originOf(" ", h.Brand.LogoURL) + "; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
	return func(c echo.Context) error {
		to := c.Response().Header()
		to.Set("Content-Security-Policy", policy)
		to.Set("X-Frame-Options", "DENY")
		to.Set("X-Content-Type-Options", "nosniff")
		to.Set("Referrer-Policy", "no-referrer")
		to.Set("Cache-Control", "no-store")
		if h.secure() {
			to.Set("Strict-Transport-Security", "max-age=31536000")
		}
		return next(c)
	}
}

// allowForm lets the page's form lead away. Browsers hold a form to the policy
// through all redirects: to Slack, to a workspace and who signs people in there,
// and straight back to the return URL. That is any host; only http, which tests
// use on loopback, is named.
func (h *handler) allowForm(c echo.Context, flow state.Flow) {
	forms := "form-action 'self' https:"
	for _, to := range []string{h.Slack.AuthCodeURL("", ""), flow.ReturnURL} {
		if strings.HasPrefix(to, "http:") {
			forms += originOf(" ", to)
		}
	}
	to := c.Response().Header()
	to.Set("Content-Security-Policy", strings.Replace(to.Get("Content-Security-Policy"), "form-action 'none'", forms, 1))
}

// originOf returns the origin of a URL behind prefix, or nothing without one.
func originOf(prefix, text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return prefix + u.Scheme + "://" + u.Host
}

func (h *handler) secure() bool { return h.RedirectURL.Scheme == "https" }

// clientAddress returns the address that logs and the rate limit go by.
func clientAddress(trusted []*net.IPNet) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, n := range trusted {
		options = append(options, echo.TrustIPRange(n))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}

func (h *handler) limitRate() echo.MiddlewareFunc {
	burst := max(1, int(3*h.RateLimit))
	// An address that was quiet for so long has its whole burst again: to forget it
	// changes nothing, and bounds what a flood from ever new addresses can fill.
	full := time.Duration(min(float64(burst)/h.RateLimit, 3600) * float64(time.Second))
	return middleware.RateLimiterWithConfig(middleware.RateLimiterConfig{
		Skipper:             func(echo.Context) bool { return h.RateLimit == 0 },
		Store:               middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{Rate: rate.Limit(h.RateLimit), Burst: burst, ExpiresIn: full}),
		IdentifierExtractor: func(c echo.Context) (string, error) { return network(c.RealIP()), nil },
		DenyHandler: func(c echo.Context, _ string, _ error) error {
			c.Response().Header().Set("Retry-After", "1")
			return &problem{code: codeRateLimited}
		},
	})
}

// network returns what one client holds: an IPv4 address, or a /64 of IPv6.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	prefix, _ := ip.WithZone("").Prefix(64)
	return prefix.String()
}

var requestIDFormat = regexp.MustCompile(`^[A-Za-z0-9._-]{8,64}$`)

// Names of what observe and fail keep in echo's context.
const (
	requestIDKey = "request ID"
	flowIDKey    = "flow ID"
	problemKey   = "problem"
	outcomeKey   = "outcome"
)

// observe gives each request its ID and its one log line: the route's pattern
// and never the URL, which carries codes, states and links.
func (h *handler) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !requestIDFormat.MatchString(id) {
			id = rand.Text()
		}
		c.Set(requestIDKey, id)
		c.Response().Header().Set(echo.HeaderXRequestID, id)

		if err := h.caught(next, c); err != nil {
			c.Error(err)
		}

		event := h.Log.Info()
		if route := c.Path(); route == "/healthz" || route == "/readyz" {
			event = h.Log.Debug()
		}
		if p, ok := c.Get(problemKey).(*problem); ok {
			e := p.entry()
			switch {
			case e.alarm && !p.quiet:
				event = h.Log.Error()
			case e.status >= 500:
				event = h.Log.Warn()
			}
			if !e.alarm || !p.quiet {
				h.Metrics.Problems.WithLabelValues(p.code).Inc()
			}
			event = event.Str("code", p.code).AnErr("error", p.err)
			if remedy := p.remedy(); remedy != "" {
				event = event.Str("remedy", remedy)
			}
		}
		if flow, ok := c.Get(flowIDKey).(string); ok {
			event = event.Str("flow", flow)
		}
		if outcome, ok := c.Get(outcomeKey).(string); ok {
			h.Metrics.FlowsFinished.WithLabelValues(outcome).Inc()
			event = event.Str("outcome", outcome)
		}
		event.Str("request_id", id).Str("method", c.Request().Method).Str("route", c.Path()).Int("status", c.Response().Status).
			Str("client", c.RealIP()).Dur("ms", time.Since(start)).Msg("request")
		return nil
	}
}

// caught turns a panic into an error that tells the type and the place, and the
// text only where it is the runtime's own: any other may hold a secret.
func (h *handler) caught(next echo.HandlerFunc, c echo.Context) (err error) {
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

// noted counts an error of the store.
func (h *handler) noted(err error) error {
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		h.Metrics.StoreErrors.Inc()
	}
	return err
}

func (h *handler) healthz(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
}

// readyz has no rate limit: however many ask at a time, the store is asked once.
func (h *handler) readyz(c echo.Context) error {
	_, err, _ := h.pings.Do("", func() (any, error) {
		return nil, h.noted(h.States.Ping(lasting(c)))
	})
	if err != nil {
		c.Set(problemKey, &problem{code: codeStoreUnavailable, err: err})
		return c.JSON(http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "store": "does not answer"})
	}
	return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
}
