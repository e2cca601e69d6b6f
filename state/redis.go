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

// NewRedis returns a Store on client, which stays the caller's to close.
func NewRedis(client redis.UniversalClient) *Redis { return &Redis{client} }

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

// Finish implements Store.
func (s *Redis) Finish(ctx context.Context, ending Ending) error {
	if err := s.FinishIn(ctx, s.client, ending).Err(); err != nil {
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
