package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sync/errgroup"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/metrics"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/outbox"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/slackoauth"
	"novu-slack-redirect/state"
)

// drainTimeout is how long requests in flight may take after SIGTERM.
const drainTimeout = 20 * time.Second

const serveHelp = `usage: novu-slack-redirect [serve]

Runs the service until SIGTERM or Ctrl-C. All settings come from the environment;
wrong ones stop it with exit code 2 and a line for each. Check them first:
novu-slack-redirect check

example:
  REDIRECT_URL=https://slack.example.com/slack/callback SLACK_CLIENT_ID=... \
  SLACK_CLIENT_SECRET=... NOVU_API_KEY=... LINK_SECRET=... novu-slack-redirect serve
`

func serve(ctx context.Context, _ []string, _, stderr io.Writer) int {
	c, ok := loadConfigOr(stderr)
	if !ok {
		return exitUsage
	}
	log := newLogger(c, stderr)
	if err := serveConfig(ctx, c, log); err != nil {
		log.Error().Err(err).Msg("stopped")
		return exitFailed
	}
	return exitOK
}

func newLogger(c config, w io.Writer) zerolog.Logger {
	if c.logConsole {
		file, isFile := w.(*os.File)
		info, err := file.Stat()
		colour := isFile && err == nil && info.Mode()&os.ModeCharDevice != 0
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !colour}
	}
	return zerolog.New(w).Level(c.logLevel).With().Timestamp().Logger()
}

// serveConfig runs the service and the outbox's worker until ctx ends and what
// they have begun is done.
func serveConfig(ctx context.Context, c config, log zerolog.Logger) error {
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	defer listener.Close()
	redis.SetLogger(redisLogger{log})
	service, err := newService(c, log)
	if err != nil {
		return err
	}
	defer service.close()
	group, ctx := errgroup.WithContext(ctx)
	if c.metricsAddr != "" {
		metricsListener, err := net.Listen("tcp", c.metricsAddr)
		if err != nil {
			return fmt.Errorf("METRICS_ADDR: %w", err)
		}
		defer metricsListener.Close()
		log.Info().Str("addr", metricsListener.Addr().String()).Msg("metrics")
		group.Go(func() error {
			return serveListener(ctx, metricsListener, service.config.Metrics.Handler(programVersion(), service.outbox), log)
		})
	}
	group.Go(func() error { return service.outbox.Run(ctx) })
	group.Go(func() error { return serveListener(ctx, listener, service.routes, log) })
	if !c.linksByAPIKey && weak(c.linkSecrets) {
		log.Warn().Msg("LINK_SECRET has fewer than 32 bytes: who has a link can try secrets until one fits. Set the output of: openssl rand -hex 32")
	}
	if c.linksByAPIKey {
		log.Warn().Msg("LINK_SECRET is not set: signed links are verified with NOVU_API_KEY, which also hashes subscriber IDs. Whoever can choose a subscriber ID and sees its hash can forge a link. Set LINK_SECRET")
	}
	log.Info().Str("addr", listener.Addr().String()).Str("redirect_url", c.redirectURL.String()).Msg("listening")
	return group.Wait()
}

// weak reports whether one of the secrets that sign links is shorter than HS256 wants
// it (RFC 7518 section 3.2).
func weak(secrets []secret.String) bool {
	return slices.ContainsFunc(secrets, func(s secret.String) bool { return len(s.Reveal()) < 32 })
}

// patience is how long a client may take. Tests of what happens then shorten it.
var patience = struct{ readHeader, read, write, idle time.Duration }{
	readHeader: 5 * time.Second,
	read:       10 * time.Second,
	write:      40 * time.Second, // above the longest callback
	idle:       2 * time.Minute,
}

// serveListener answers requests until ctx ends, then lets those in flight
// finish.
func serveListener(ctx context.Context, listener net.Listener, h http.Handler, log zerolog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: patience.readHeader,
		ReadTimeout:       patience.read,
		WriteTimeout:      patience.write,
		IdleTimeout:       patience.idle,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          stdlog.New(log.Level(zerolog.DebugLevel), "", 0),
	}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info().Msg("draining")
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		return fmt.Errorf("drain: requests were still running after %v: %w", drainTimeout, err)
	}
	return nil
}

// service is the parts put together, and what they hold open.
type service struct {
	config  handler.Config
	routes  http.Handler
	outbox  *outbox.Outbox
	entries outbox.Store
	close   func()
}

// newService opens the store and puts the parts together.
func newService(c config, log zerolog.Logger) (*service, error) {
	states, entries, closeStore, err := openStore(c)
	if err != nil {
		return nil, err
	}
	s := &service{entries: entries, close: func() {
		if err := closeStore(); err != nil {
			log.Error().Err(err).Msg("close the store")
		}
	}}
	slack := slackoauth.New(slackoauth.Config{
		ClientID: c.slackClientID, ClientSecret: c.slackSecrets[0], RedirectURL: c.redirectURL.String(), URL: c.slackURL,
	})
	novu := novuclient.New(novuclient.Config{APIKey: c.novuAPIKeys[0], URL: c.novuAPIURL, CreateSubscriber: c.novuCreate, SaveEndpoints: c.novuEndpoints})
	counts := metrics.New()
	delivery := outbox.Config{Metrics: counts, Store: entries, Novu: namingSaver{novu}, Secrets: c.storeSecrets, Log: log, Environment: c.novuEnvironment}
	if c.welcomeMessage != "" {
		delivery.Welcome = func(ctx context.Context, webhook secret.String) error {
			return slack.Post(ctx, webhook, c.welcomeMessage)
		}
	}
	if s.outbox, err = outbox.New(delivery); err != nil {
		s.close()
		return nil, err
	}
	s.config = handler.Config{
		RedirectURL: c.redirectURL,
		Links:       newLinks(c),
		Slack:       slack, States: states, Outbox: s.outbox, Novu: novu, StateTTL: c.stateTTL, Brand: c.brand, InstallPage: c.installPage,
		Log: log, Metrics: counts, TrustedProxies: c.trustedProxies, RateLimit: c.rateLimit,
	}
	s.routes = handler.New(s.config)
	return s, nil
}

// namingSaver names the integration of a connection whose flow began while Novu did not
// answer.
type namingSaver struct{ *novuclient.Client }

func (s namingSaver) Save(ctx context.Context, conn novuclient.Connection) (err error) {
	if conn.Integration == "" {
		if conn.Integration, err = s.Ready(ctx, ""); err != nil {
			return err
		}
	}
	return s.Client.Save(ctx, conn)
}

func newLinks(c config) *handler.Links {
	return &handler.Links{
		Origin: origin(c.redirectURL), Secrets: c.linkSecrets, APIKeys: c.novuAPIKeys,
		Environment: c.novuEnvironment, Integration: c.novuIntegration, Contexts: c.novuEndpoints, ReturnURLs: c.returnURLs, Now: time.Now,
	}
}

// openStore opens Redis or the embedded file, for flows and for the outbox.
func openStore(c config) (state.Store, outbox.Store, func() error, error) {
	if !c.redisURL.Empty() {
		client, err := newRedisClient(c.redisURL)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("REDIS_URL: %w", err)
		}
		flows := state.NewRedis(client)
		return flows, outbox.NewRedis(client, flows), client.Close, nil
	}
	db, err := openBolt(c.dataFile)
	if err != nil {
		return nil, nil, nil, err
	}
	flows, err := state.NewBolt(db)
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	entries, err := outbox.NewBolt(db, flows)
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	return flows, entries, db.Close, nil
}

var errInUse = errors.New("DATA_FILE is in use by another process: an embedded store serves one instance; for more, set REDIS_URL")

// openBolt opens the embedded store. Only one process can have it open.
func openBolt(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errInUse
	}
	if err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			err = path.Err // without the value of the setting
		}
		return nil, fmt.Errorf("DATA_FILE: %w: name a file in a folder that can be written", err)
	}
	db.MaxBatchDelay = time.Millisecond
	return db, nil
}

// newRedisClient makes a client for a URL of one node, of a Cluster (with addr
// parameters) or of Sentinels (with master_name). It does not connect yet. Its
// errors, and the client's, never quote the URL or the password.
func newRedisClient(text secret.String) (redis.UniversalClient, error) {
	client, err := parseRedisURL(text)
	if err == nil {
		client.AddHook(unquoted{})
	}
	return client, err
}

func parseRedisURL(text secret.String) (redis.UniversalClient, error) {
	u, err := url.Parse(text.Reveal())
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, errors.New("is not a Redis URL")
	}
	query := u.Query()
	for _, name := range []string{"dial_timeout", "read_timeout", "write_timeout", "pool_timeout"} {
		if !query.Has(name) {
			query.Set(name, "1s") // a person waits
		}
	}
	u.RawQuery = query.Encode()
	switch {
	case query.Has("master_name"):
		var o *redis.FailoverOptions
		if o, err = redis.ParseFailoverURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize = true, onePool
			return redis.NewFailoverClient(o), nil
		}
	case query.Has("addr"):
		var o *redis.ClusterOptions
		if o, err = redis.ParseClusterURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize = true, onePool
			return redis.NewClusterClient(o), nil
		}
	default:
		var o *redis.Options
		if o, err = redis.ParseURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize = true, onePool
			return redis.NewClient(o), nil
		}
	}
	if strings.Contains(err.Error(), "unexpected option") {
		return nil, errors.New("has a parameter that is unknown")
	}
	return nil, errors.New("is not a Redis URL")
}

// onePool keeps go-redis from opening a second pool for pipelines, of ten connections
// with 256 KiB of buffers each: ours hold two commands.
const onePool = -1

// unquoted takes from errors what Redis quotes of a command that it does not
// know. A proxy that does not know AUTH quotes the password.
type unquoted struct{}

func (unquoted) DialHook(next redis.DialHook) redis.DialHook { return next }

func (unquoted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return unquote(next(ctx, cmd)) }
}

func (unquoted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := unquote(next(ctx, cmds))
		for _, cmd := range cmds { // each has its own as well
			cmd.SetErr(unquote(cmd.Err()))
		}
		return err
	}
}

func unquote(err error) error {
	if err == nil {
		return nil
	}
	if text, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return redisError(text)
	}
	return err
}

// redisError is an answer of Redis still, from which go-redis sees that it has to
// do without HELLO.
type redisError string

func (e redisError) Error() string { return string(e) }

// RedisError implements redis.Error.
func (redisError) RedisError() {}

// redisLogger takes what go-redis has to say about its connections.
type redisLogger struct{ zerolog.Logger }

func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.Debug().Msgf(format, v...)
}
