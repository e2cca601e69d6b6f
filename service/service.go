// Package service puts the parts together and runs them: the routes that browsers
// use, the worker of the outbox, and metrics.
package service

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"novu-slack-redirect/config"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/link"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

// NewLinks returns a link.Verifier made from the settings.
func NewLinks(c config.Config) *link.Verifier {
	links := &link.Verifier{
		Origin: link.Origin(c.RedirectURL), Secrets: c.LinkSecrets, Environment: c.NovuEnvironment,
		Integration: c.NovuIntegration, Contexts: c.SaveEndpoints, ReturnURLs: c.ReturnURLs, Now: time.Now,
	}
	if c.NovuStyleLinks {
		links.APIKeys = c.NovuAPIKeys
	}
	return links
}

// NewEvents returns what sends events to EVENTS_URL, which must be set.
func NewEvents(c config.Config) *outbox.Events {
	return &outbox.Events{URL: c.EventsURL, Keys: c.EventsKeys, Environment: c.NovuEnvironment}
}

// Deployment returns the name of the deployment that the settings are of.
func Deployment(c config.Config) state.Deployment {
	return state.NewDeployment(link.Origin(c.RedirectURL), c.SlackClientID, c.NovuEnvironment)
}

// OpenStore opens the store of this deployment's flows: Redis if REDIS_URL is set, else
// DATA_FILE. Call the returned function to close it. Redis is not contacted yet. failed is
// the Failed of state.Config.
func OpenStore(c config.Config, failed func(error)) (*state.Store, func() error, error) {
	deployment := Deployment(c)
	var backend state.Backend
	var closeBackend func() error
	if c.RedisURL.Empty() {
		file, err := state.OpenBolt(c.DataFile, deployment)
		if err != nil {
			return nil, nil, err
		}
		backend, closeBackend = file, file.Close
	} else {
		client, err := state.NewRedisClient(c.RedisURL)
		if err != nil {
			return nil, nil, fmt.Errorf("REDIS_URL: %w", err)
		}
		backend, closeBackend = state.NewRedis(client, c.RedisPrefix, deployment), client.Close
	}
	store, err := state.New(state.Config{Backend: backend, Deployment: deployment, Secrets: c.StoreSecrets, Links: NewLinks(c), ResultTTL: c.StateTTL, Failed: failed})
	if err != nil {
		return nil, nil, errors.Join(err, closeBackend())
	}
	return store, closeBackend, nil
}

// Error is an error with what the operator should do about it.
type Error struct {
	Err    error
	Remedy string
}

func (e *Error) Error() string { return e.Err.Error() + "; " + e.Remedy }

// Unwrap returns the error without the remedy.
func (e *Error) Unwrap() error { return e.Err }

// StoreError returns an error of the store as an Error, and nil for nil.
func StoreError(err error) error {
	if err == nil {
		return nil
	}
	return &Error{err, state.Remedy(err)}
}

// listenError returns the error of a listener at a setting's address.
func listenError(setting string, err error) error {
	remedy := "stop the program that listens there, or choose another port; ports below 1024 may need a privilege"
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.As(err, new(*net.DNSError)) {
		remedy = "use an address of this machine, or the port alone, such as :9090"
	}
	return &Error{fmt.Errorf("%s: %w", setting, err), remedy}
}

// Service is the whole program without its commands.
type Service struct {
	Config config.Config
	Routes handler.Config // for handler.New
	Store  *state.Store
	Outbox *outbox.Outbox
	Limits Limits // of the listeners; set before Run

	log        zerolog.Logger
	failures   chan error // of the store; watchStore receives
	closeStore func() error
}

// New opens the store and puts the parts together, which log to w. Close what it returns.
// Its error is an Error.
func New(c config.Config, w *LogWriter) (*Service, error) {
	log := NewLogger(c, w)
	counts := metrics.New()
	counts.LogLinesDropped = w.Dropped
	failures := make(chan error, 1)
	store, closeStore, err := OpenStore(c, func(err error) {
		counts.StoreErrors.Inc()
		select {
		case failures <- err:
		default: // one is enough
		}
	})
	if err != nil {
		return nil, StoreError(err)
	}
	slack := slackoauth.New(slackoauth.Config{
		ClientID: c.SlackClientID, ClientSecret: c.SlackSecrets[0], RedirectURL: c.RedirectURL.String(), URL: c.SlackURL,
	})
	novu := novuclient.New(novuclient.Config{APIKey: c.NovuAPIKeys[0], URL: c.NovuAPIURL, CreateSubscriber: c.CreateSubscriber, SaveEndpoints: c.SaveEndpoints})
	outboxConfig := outbox.Config{Store: store, Slack: slack, Novu: novu, Log: log, Metrics: counts}
	if c.WelcomeMessage != "" {
		outboxConfig.Welcome = func(ctx context.Context, webhook secret.String) error {
			return slack.Post(ctx, webhook, c.WelcomeMessage)
		}
	}
	if c.EventsURL != nil {
		outboxConfig.SendEvent = NewEvents(c).Send
	}
	s := &Service{
		Config: c, Store: store, Outbox: outbox.New(outboxConfig), log: log, failures: failures, closeStore: closeStore,
		// A callback takes 23 s at most, and hosts wait 30 s before they kill.
		// A header of the smallest possible fields takes 330 KB of memory, and 200 of them
		// 70 MB: with what is garbage meanwhile, that fits into 128 MB.
		Limits: Limits{
			ReadHeader: 5 * time.Second, Read: 10 * time.Second, Write: 40 * time.Second, Idle: 2 * time.Minute, Drain: 20 * time.Second,
			Connections: 200, HeaderBytes: 16 << 10,
		},
	}
	s.Routes = handler.Config{
		RedirectURL: c.RedirectURL, Links: NewLinks(c), Slack: slack, Novu: novu, Store: store, Outbox: s.Outbox, StateTTL: c.StateTTL,
		Brand:       handler.Brand{Name: c.AppName, AppURL: c.AppURL, LogoURL: c.AppLogoURL, Color: c.AppColor, SupportURL: c.SupportURL},
		InstallPage: c.InstallPage, Log: log, Metrics: counts, TrustedProxies: c.TrustedProxies, RateLimit: c.RateLimit,
	}
	return s, nil
}

// Close waits up to 5 s for background work to finish, and closes the store.
func (s *Service) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.Outbox.Close(ctx)
	if err := s.closeStore(); err != nil {
		s.log.Error().Err(err).Str("remedy", state.Remedy(err)).Msg("the store was not closed properly")
	}
}

// Run listens at PORT and METRICS_ADDR and runs the worker. When ctx ends, it waits for
// the requests and attempts under way, and returns. Its error may be an Error.
func (s *Service) Run(ctx context.Context) error {
	redis.SetLogger(state.RedisLogger{Log: s.log})
	listener, err := net.Listen("tcp", ":"+s.Config.Port)
	if err != nil {
		return listenError("PORT", err)
	}
	defer listener.Close()
	group, ctx := errgroup.WithContext(ctx)
	if s.Config.MetricsAddr != "" {
		metricsListener, err := net.Listen("tcp", s.Config.MetricsAddr)
		if err != nil {
			return listenError("METRICS_ADDR", err)
		}
		defer metricsListener.Close()
		s.log.Info().Str("addr", metricsListener.Addr().String()).Msg("serving metrics")
		group.Go(func() error {
			return s.Serve(ctx, metricsListener, s.operatorRoutes(s.Routes.Metrics.Handler(upstream.Version(), s.Outbox)))
		})
	}
	group.Go(func() error {
		s.Outbox.Run(ctx)
		return nil
	})
	group.Go(func() error { return s.Serve(ctx, listener, handler.New(s.Routes)) })
	group.Go(func() error {
		s.watchStore(ctx)
		return nil
	})
	s.logWarnings(ctx)
	s.log.Info().Str("addr", listener.Addr().String()).Str("version", upstream.Version()).Str("redirect_url", s.Config.RedirectURL.String()).
		Str("store", map[bool]string{true: "DATA_FILE", false: "REDIS_URL"}[s.Config.RedisURL.Empty()]).
		Str("novu_url", s.Config.NovuAPIURL.String()).Str("save_as", map[bool]string{true: "endpoint", false: "credentials"}[s.Config.SaveEndpoints]).
		Msg("listening")
	return group.Wait()
}

// watchStore logs one line when the store fails, and one when nothing has failed for a
// second and the store does what a callback needs, until ctx ends.
func (s *Service) watchStore(ctx context.Context) {
	var failed time.Time // zero while the store works
	for {
		pause := time.After(time.Second)
		if failed.IsZero() {
			pause = nil
		}
		select {
		case <-ctx.Done():
			return
		case err := <-s.failures:
			if failed.IsZero() {
				failed = time.Now()
				if ready := s.Store.Ready(ctx); ready != nil {
					err = ready // it names the command
				}
				s.log.Error().Err(err).Str("remedy", state.Remedy(err)).Msg("the store failed; it is tried again until it works")
			}
		case <-pause:
			if s.Store.Ready(ctx) == nil {
				s.log.Info().Dur("ms", time.Since(failed)).Msg("the store works again")
				failed = time.Time{}
			}
		}
	}
}

// logWarnings logs risky settings, and flows of other deployments in the store. If the
// store fails, watchStore logs that.
func (s *Service) logWarnings(ctx context.Context) {
	for _, w := range s.Config.Warnings() {
		s.log.Warn().Str("remedy", w.Remedy).Msg(w.Name + " " + w.Cause)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if s.Store.Ready(ctx) != nil {
		return
	}
	for _, advice := range state.AdviseRedis(ctx, s.Config.RedisURL) {
		if advice.Risk {
			s.log.Warn().Str("remedy", advice.Remedy).Msg("REDIS_URL: " + advice.Text)
		}
	}
	others, err := s.Store.Others(ctx)
	if err != nil {
		s.log.Warn().Err(err).Str("remedy", state.Remedy(err)).Msg("flows of other deployments in this store are not known")
	}
	for deployment, n := range others {
		s.log.Warn().Str("deployment", string(deployment)).Int("flows", n).Str("remedy", OthersRemedy).Msg("flows of another deployment wait in this store")
	}
}

// OthersRemedy says what to do about flows of another deployment.
const OthersRemedy = "if REDIRECT_URL, SLACK_CLIENT_ID or NOVU_ENVIRONMENT_ID was changed, run outbox drain --now with the earlier settings; otherwise another deployment uses the same store, which does no harm"

// Limits are those of each listener.
type Limits struct {
	ReadHeader, Read, Write, Idle time.Duration

	Drain       time.Duration // how long requests may take after the end of Run's context
	Connections int           // open at a time, at least 2; see connections
	HeaderBytes int           // of a request with its first line; net/http allows 4 KiB more
}

// Serve answers requests until ctx ends, and then waits for those under way.
func (s *Service) Serve(ctx context.Context, listener net.Listener, h http.Handler) error {
	open := connections{max: s.Limits.Connections, open: map[net.Conn]int64{}}
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.Limits.ReadHeader,
		ReadTimeout:       s.Limits.Read,
		WriteTimeout:      s.Limits.Write,
		IdleTimeout:       s.Limits.Idle,
		MaxHeaderBytes:    s.Limits.HeaderBytes,
		ConnState:         open.track,
		ErrorLog:          stdlog.New(s.log.Level(zerolog.DebugLevel), "", 0),
	}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return &Error{fmt.Errorf("serve: %w", err), "see that the process may have more open files, and start it again"}
	case <-ctx.Done():
	}
	s.log.Info().Str("addr", listener.Addr().String()).Msg("draining")
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Limits.Drain)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		return &Error{fmt.Errorf("drain: requests were still running after %v: %w", s.Limits.Drain, err), "the log says what was slow; a flow under way goes on at the next start"}
	}
	return nil
}
