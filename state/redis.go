package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is a Store in Redis 6 or newer, alone, behind Sentinel or as a Cluster:
// every operation touches one key. Flows expire by Redis's own clock.
type Redis struct{ client redis.UniversalClient }

// NewRedis returns a Store on client, which stays the caller's to close. From then
// on whatever client is asked takes 1.8 s at most, with all that it repeats.
func NewRedis(client redis.UniversalClient) *Redis {
	client.AddHook(bounded{})
	return &Redis{client}
}

// bounded ends what a Redis that is down, or hangs, would make a person wait for.
type bounded struct{}

const answerTimeout = 1800 * time.Millisecond // a page within two seconds

// DialHook implements redis.Hook.
func (bounded) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (bounded) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (bounded) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return next(ctx, cmds)
	}
}

func redisKey(key Key) string { return "nsr:flow:" + string(key) }

// Issue implements Store.
func (s *Redis) Issue(ctx context.Context, key Key, flow Flow, ttl time.Duration) error {
	ok, err := s.client.SetNX(ctx, redisKey(key), encode(Issued, flow), ttl).Result()
	if err != nil {
		return fmt.Errorf("state: issue: %w", err)
	}
	if !ok {
		return errors.New("state: issue: the key exists")
	}
	return nil
}

// consumeScript is take, run inside Redis: it answers with the flow as it now
// stands and Redis's time. Without a mark it only looks.
var consumeScript = redis.NewScript(`
local value = redis.call('GET', KEYS[1])
if not value then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' and value:sub(1, 1) == 'i' then
  value = 'w' .. string.format('%013d', now) .. ARGV[1] .. value:sub(2)
  redis.call('SET', KEYS[1], value, 'KEEPTTL')
end
return {value, now}`)

// Consume implements Store.
func (s *Redis) Consume(ctx context.Context, key Key) (Record, error) {
	return s.run(ctx, key, NewHalf())
}

// Look implements Store.
func (s *Redis) Look(ctx context.Context, key Key) (Record, error) {
	return s.run(ctx, key, "")
}

func (s *Redis) run(ctx context.Context, key Key, mark string) (Record, error) {
	answer, err := consumeScript.Run(ctx, s.client, []string{redisKey(key)}, mark).Slice()
	if errors.Is(err, redis.Nil) {
		return Record{}, ErrNotFound
	}
	if err != nil {
		return Record{}, fmt.Errorf("state: consume: %w", err)
	}
	value, _ := answer[0].(string)
	now, _ := answer[1].(int64)
	return decode(value, mark, now)
}

// laterScript is SET, unless the flow is finished.
var laterScript = redis.NewScript(`
if (redis.call('GET', KEYS[1]) or ''):sub(1, 1) == 'f' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

// Finish implements Store.
func (s *Redis) Finish(ctx context.Context, ending Ending) (err error) {
	if ending.Result.Code == Pending {
		err = laterScript.Run(ctx, s.client, []string{redisKey(ending.Key)}, ending.encode(), ending.TTL.Milliseconds()).Err()
	} else {
		err = s.FinishIn(ctx, s.client, ending).Err()
	}
	if err != nil {
		return fmt.Errorf("state: finish: %w", err)
	}
	return nil
}

// FinishIn is Finish as a command of a pipeline, to share its round trip.
func (s *Redis) FinishIn(ctx context.Context, pipe redis.Cmdable, ending Ending) *redis.StatusCmd {
	return pipe.Set(ctx, redisKey(ending.Key), ending.encode(), ending.TTL)
}

// Ping implements Store. A Redis that is full, or a replica, answers PING.
func (s *Redis) Ping(ctx context.Context) error {
	return s.client.Set(ctx, "nsr:ping", "", time.Minute).Err()
}
