package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state"
)

// Redis is a Store in Redis 6 or newer, alone, behind Sentinel or as a Cluster.
// Its three keys share a hash tag, and so a slot. It is as durable as Redis is
// set to be: use appendonly yes.
type Redis struct {
	client redis.UniversalClient
	flows  *state.Redis
}

// NewRedis returns a Store on client, which stays the caller's to close. Flows
// are finished in flows, which is on the same client.
func NewRedis(client redis.UniversalClient, flows *state.Redis) *Redis { return &Redis{client, flows} }

var keys = []string{
	"nsr:{outbox}:due",   // sorted set: destination by when it is due, in Unix ms
	"nsr:{outbox}:entry", // hash: destination to encoded entry
	"nsr:{outbox}:lease", // hash: subscriber to "until owner"
}

// prelude is the beginning of every script: the clock and the leases.
const prelude = `
local due, entries, leases = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function subscriber(d) return d:match('[^/]*$') end
local function leased(d)
  local until_, owner = (redis.call('HGET', leases, subscriber(d)) or '0 '):match('^(%d+) (.*)$')
  return tonumber(until_), owner
end
local function lease(d, owner, ms)
  local until_, other = leased(d)
  if other ~= owner and until_ > now then return false, until_ end
  redis.call('HSET', leases, subscriber(d), string.format('%.0f %s', now + ms, owner))
  redis.call('ZADD', due, now + ms, d)
  return true
end
`

var recordScript = redis.NewScript(prelude + `
local d, value, owner, ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
redis.call('HSET', entries, d, value)
if lease(d, owner, ms) then return 1 end
redis.call('ZADD', due, now, d)
return 0`)

// Record implements Store.
func (s *Redis) Record(ctx context.Context, e Entry, lease time.Duration) (bool, error) {
	n, err := recordScript.Run(ctx, s.client, keys, e.Destination.String(), e.encode(), e.owner, lease.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("outbox: record: %w", err)
	}
	return n == 1, nil
}

// claimScript skips entries whose subscriber is leased until that lease ends.
var claimScript = redis.NewScript(prelude + `
local owner, ms = ARGV[1], tonumber(ARGV[2])
for _, d in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 20)) do
  local value = redis.call('HGET', entries, d)
  if not value then
    redis.call('ZREM', due, d)
  else
    local ok, until_ = lease(d, owner, ms)
    if ok then return {0, d, value} end
    redis.call('ZADD', due, until_, d)
  end
end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if not first[1] then return {-1} end
return {math.max(1, first[2] - now)}`)

// Claim implements Store.
func (s *Redis) Claim(ctx context.Context, lease time.Duration) (*Entry, time.Duration, error) {
	owner := state.NewHalf()
	answer, err := claimScript.Run(ctx, s.client, keys, owner, lease.Milliseconds()).Slice()
	if err != nil {
		return nil, 0, fmt.Errorf("outbox: claim: %w", err)
	}
	if len(answer) == 1 {
		ms, _ := answer[0].(int64)
		return nil, time.Duration(ms) * time.Millisecond, nil
	}
	d, _ := answer[1].(string)
	value, _ := answer[2].(string)
	e, err := decode(d, value)
	if err == nil {
		e.owner = owner
	}
	return e, 0, err
}

var releaseScript = redis.NewScript(prelude + `
local d, id, owner, value, retry, hold = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local current = redis.call('HGET', entries, d)
if current and current:sub(1, #id) ~= id then
  redis.call('ZADD', due, now, d)
elseif current and value == '' then
  redis.call('HDEL', entries, d)
  redis.call('ZREM', due, d)
elseif current then
  redis.call('HSET', entries, d, value)
  redis.call('ZADD', due, now + retry, d)
end
local _, holder = leased(d)
if holder == owner and hold > 0 then
  redis.call('HSET', leases, subscriber(d), string.format('%.0f %s', now + hold, owner))
elseif holder == owner then
  redis.call('HDEL', leases, subscriber(d))
end
return 1`)

// Release implements Store.
func (s *Redis) Release(ctx context.Context, e Entry, then Then, ending *state.Ending) error {
	value := ""
	if !then.Done {
		value = e.encode()
	}
	args := []any{e.Destination.String(), e.ID, e.owner, value, then.Retry.Milliseconds(), then.Hold.Milliseconds()}
	pipe := s.client.Pipeline()
	released := releaseScript.EvalSha(ctx, pipe, keys, args...)
	var finished *redis.StatusCmd
	if ending != nil {
		finished = s.flows.FinishIn(ctx, pipe, *ending)
	}
	_, failed := pipe.Exec(ctx)
	err := released.Err()
	if err == nil && (finished == nil || finished.Err() == nil) {
		err = failed // no command has an error when Redis refused the connection
	}
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		err = releaseScript.Eval(ctx, s.client, keys, args...).Err()
	}
	if err != nil {
		return fmt.Errorf("outbox: release: %w", err)
	}
	if finished != nil && finished.Err() != nil {
		return fmt.Errorf("outbox: released, but the flow is not finished: %w", finished.Err())
	}
	return nil
}

// wakeScript moves a bounded number of entries, so that it never holds Redis up.
var wakeScript = redis.NewScript(prelude + `
local later = redis.call('ZRANGEBYSCORE', due, now + ARGV[1], '+inf', 'LIMIT', 0, 500)
for _, d in ipairs(later) do redis.call('ZADD', due, now, d) end
return #later`)

// Wake implements Store.
func (s *Redis) Wake(ctx context.Context) (bool, error) {
	n, err := wakeScript.Run(ctx, s.client, keys, soon.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("outbox: wake: %w", err)
	}
	return n > 0, nil
}

// List implements Store.
func (s *Redis) List(ctx context.Context, fn func(Entry) error) error {
	entries := s.client.HScan(ctx, keys[1], 0, "", 200).Iterator()
	for entries.Next(ctx) {
		destination := entries.Val()
		if !entries.Next(ctx) {
			break
		}
		e, err := decode(destination, entries.Val())
		if err == nil {
			err = fn(*e)
		}
		if err != nil {
			return err
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("outbox: list: %w", err)
	}
	return nil
}

// Len implements Store.
func (s *Redis) Len(ctx context.Context) (int, error) {
	n, err := s.client.HLen(ctx, keys[1]).Result()
	if err != nil {
		return 0, fmt.Errorf("outbox: count: %w", err)
	}
	return int(n), nil
}

// dropScript only takes away, which a full Redis allows.
var dropScript = redis.NewScript(prelude + `
local value = redis.call('HGET', entries, ARGV[1])
if not value or tonumber(value:match('"t":(%d+)') or 0) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', due, ARGV[1])
if leased(ARGV[1]) <= now then redis.call('HDEL', leases, subscriber(ARGV[1])) end
return redis.call('HDEL', entries, ARGV[1])`)

// Drop implements Store.
func (s *Redis) Drop(ctx context.Context, d Destination, then time.Time) (bool, error) {
	n, err := dropScript.Run(ctx, s.client, keys, d.String(), then.UnixMilli()).Int()
	if err != nil {
		return false, fmt.Errorf("outbox: drop: %w", err)
	}
	return n == 1, nil
}
