package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"novu-slack-redirect/secret"
)

// answerTimeout limits each call, with go-redis's retries, because a person waits while
// Redis is down or hangs. It leaves time for a page within two seconds.
const answerTimeout = 1800 * time.Millisecond

// NewRedisClient returns a client for the URL of one Redis node, of a Cluster (with
// addr parameters) or of Sentinels (with master_name). It does not connect yet. A call
// takes 1.8 s at most.
// Neither its error nor the client's errors quote the URL or the password. The
// error is a predicate, such as "is not a Redis URL", to follow the name of the
// setting.
func NewRedisClient(rawURL secret.String) (redis.UniversalClient, error) {
	client, err := parseRedisURL(rawURL)
	if err == nil {
		client.AddHook(&callHook{})
	}
	return client, err
}

func parseRedisURL(rawURL secret.String) (redis.UniversalClient, error) {
	if strings.Contains(rawURL.Reveal(), "#") {
		return nil, errors.New("has a #, at which a URL ends: percent-encode it as %23")
	}
	u, err := url.Parse(rawURL.Reveal())
	if err == nil && strings.Contains(u.Path, "@") {
		return nil, errors.New("has a / or another special character in the user or the password: percent-encode it, / as %2F")
	}
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, errors.New("is not a Redis URL")
	}
	query := u.Query()
	for _, name := range []string{"dial_timeout", "read_timeout", "write_timeout", "pool_timeout"} {
		if !query.Has(name) {
			query.Set(name, "1s") // a person is waiting
		}
	}
	u.RawQuery = query.Encode()
	switch {
	case query.Has("master_name"):
		var o *redis.FailoverOptions
		if o, err = redis.ParseFailoverURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize, o.DialerRetries = true, noPipelinePool, dialOnce
			return redis.NewFailoverClient(o), nil
		}
	case query.Has("addr"):
		var o *redis.ClusterOptions
		if o, err = redis.ParseClusterURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize, o.DialerRetries = true, noPipelinePool, dialOnce
			return redis.NewClusterClient(o), nil
		}
	default:
		var o *redis.Options
		if o, err = redis.ParseURL(u.String()); err == nil {
			o.ContextTimeoutEnabled, o.PipelinePoolSize, o.DialerRetries = true, noPipelinePool, dialOnce
			return redis.NewClient(o), nil
		}
	}
	if strings.Contains(err.Error(), "unexpected option") {
		return nil, errors.New("has an unknown parameter")
	}
	return nil, errors.New("is not a Redis URL")
}

// noPipelinePool keeps go-redis from opening a second pool for pipelines, of ten
// connections with 256 KiB of buffers each. Ours hold two commands.
const noPipelinePool = -1

// dialOnce lets a call learn soon why it has no connection; each call is tried again
// anyway.
const dialOnce = 1

// callHook is around every call of a client.
type callHook struct {
	mu        sync.Mutex
	dialError error // why the last connection failed; nil if it did not
}

// DialHook implements redis.Hook.
func (h *callHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			err = fmt.Errorf("connect: %w", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if err == nil || h.dialError == nil || !errors.Is(err, context.DeadlineExceeded) { // which says the least
			h.dialError = err
		}
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (h *callHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return h.explain(next(ctx, cmd))
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h *callHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		err := h.explain(next(ctx, cmds))
		for _, cmd := range cmds { // each has an error of its own as well
			cmd.SetErr(removeQuote(cmd.Err()))
		}
		return err
	}
}

// explain returns the error of a call without what Redis quotes. If the call took too long
// because there was no connection, the error says why.
func (h *callHook) explain(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.dialError = nil
	}
	if errors.Is(err, context.DeadlineExceeded) && h.dialError != nil && !strings.Contains(err.Error(), "connect: ") {
		err = fmt.Errorf("%w: %w", err, h.dialError)
	}
	return removeQuote(err)
}

// removeQuote removes the arguments that Redis quotes in the error of an unknown command. A
// proxy that does not know AUTH would quote the password.
func removeQuote(err error) error {
	if err == nil {
		return nil
	}
	if text, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return redisError(text)
	}
	return err
}

// redisError is an answer of Redis. It implements redis.Error, because go-redis
// falls back from HELLO to AUTH only after such an error.
type redisError string

func (e redisError) Error() string { return string(e) }

func (redisError) RedisError() {}

// RedisLogger logs at level debug what go-redis reports about its connections. Pass
// it to redis.SetLogger.
type RedisLogger struct{ Log zerolog.Logger }

// Printf implements the logger of go-redis.
func (l RedisLogger) Printf(_ context.Context, format string, v ...any) {
	l.Log.Debug().Msgf(format, v...)
}
