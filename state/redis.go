package state

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is a Backend in Redis 6 or newer, alone, behind Sentinel or as a Cluster: all
// keys of a deployment share a hash tag, and so a slot. It is as durable as Redis is
// set to be: use appendonly yes. Times are Redis's own.
//
//	PREFIX:{TAG}:flow:KEY          string: the row; expires unless Recorded or Saved
//	PREFIX:{TAG}:turns             sorted set: keys of rows that are Working and wait for their turn at Slack, by number
//	PREFIX:{TAG}:gate              string: the gate; expires gateLife after Slack's last refusal
//	PREFIX:{TAG}:due               sorted set: keys of other rows that are Working or Recorded, by when they are due (Unix ms)
//	PREFIX:{TAG}:events            sorted set: keys of rows that are Saved, by when they are due (Unix ms)
//	PREFIX:{TAG}:order:DEST        sorted set: keys of a destination's rows that are Saved, by number
//	PREFIX:{TAG}:number            counter: how many rows were consumed
//	PREFIX:{TAG}:newest:DEST       string: "number key" of the newest row recorded for a destination
//	PREFIX:{TAG}:lease:SUBSCRIBER  string: "until owner key key…": until when (Unix ms), whose, and which rows wait for its end
//	PREFIX:deployments             set: TAG of every deployment that has used this PREFIX
type Redis struct {
	client redis.UniversalClient
	prefix string // of all deployments
	tag    Deployment
	keys   string // how this deployment's keys begin

	scripts map[string]*redis.Script // by name
}

// NewRedis returns a Backend for a deployment on client, which stays the caller's to
// close. Keys begin with prefix.
func NewRedis(client redis.UniversalClient, prefix string, deployment Deployment) *Redis {
	s := &Redis{client, prefix, deployment, deploymentKeys(prefix, deployment), map[string]*redis.Script{}}
	for _, name := range []string{"consume", "turn", "move", "claim", "wake", "drop"} {
		s.scripts[name] = redis.NewScript(constants + readLua("prelude") + readLua("gate") + readLua(name))
	}
	s.scripts["ready"] = redis.NewScript(readLua("ready"))
	return s
}

// deploymentKeys returns how a deployment's keys begin.
func deploymentKeys(prefix string, deployment Deployment) string {
	return prefix + ":{" + string(deployment) + "}:"
}

func (s *Redis) queueKey(q Queue) string { return s.keys + string(q) }

func (s *Redis) flowKey(key Key) string { return s.keys + "flow:" + string(key) }

// luaFiles are the scripts of Redis. Their functions are those of boltTx and gate, in Lua.
//
//go:embed lua
var luaFiles embed.FS

func readLua(name string) string {
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(text)
}

// run runs a script after the prelude and the gate.
func (s *Redis) run(ctx context.Context, script string, args ...any) *redis.Cmd {
	return s.scripts[script].Run(ctx, s.client, []string{s.keys}, args...)
}

// constants are those of this package, with durations in ms and maxWaiting in bytes.
var constants = fmt.Sprintf(`
local lost, moved, waits, overtaken = %d, %d, %d, %d
local orderTTL, replacedTTL, workingTTL, codeLife = %d, %d, %d, %d
local maxLease, maxDue, malformedPause, soon = %d, %d, %d, %d
local batch, claimLooks, maxWaiting, maxLine = %d, %d, %d, %d
local slackWindow, slackAllows, maxClosed, probePause, gateLife = %d, %d, %d, %d, %d
`, Lost, Moved, Waiting, Overtaken,
	orderTTL.Milliseconds(), replacedTTL.Milliseconds(), workingTTL.Milliseconds(), CodeLife.Milliseconds(),
	maxLease.Milliseconds(), maxDue.Milliseconds(), malformedPause.Milliseconds(), soon.Milliseconds(),
	batch, claimLooks, maxWaiting*(hashLength+1), maxLine,
	slackWindow.Milliseconds(), slackAllows, maxClosed.Milliseconds(), probePause.Milliseconds(), gateLife.Milliseconds())

// Issue implements Backend.
func (s *Redis) Issue(ctx context.Context, key Key, request []byte, ttl time.Duration) error {
	// If the key exists, an earlier call stored this flow, and its answer was lost.
	return s.client.SetNX(ctx, s.flowKey(key), Row{Phase: Issued, Request: request}.encode(), ttl).Err()
}

// Consume implements Backend.
func (s *Redis) Consume(ctx context.Context, key Key, owner string, content []byte, lease, patience time.Duration) (Row, error) {
	answer, err := s.run(ctx, "consume", string(key), owner, content, lease.Milliseconds(), patience.Milliseconds()).Slice()
	if err != nil {
		return Row{}, err
	}
	text, found := answer[0].(string)
	if !found {
		return Row{}, ErrNotFound
	}
	row, err := decode(key, []byte(text))
	row.Turn = decodeTurn(answer[1:])
	return row, err
}

// decodeTurn decodes {place, wait (ms)}.
func decodeTurn(answer []any) Turn {
	place, _ := answer[0].(int64)
	return Turn{int(place), decodeMilliseconds(answer[1])}
}

func decodeMilliseconds(answer any) time.Duration {
	ms, _ := answer.(int64)
	return time.Duration(ms) * time.Millisecond
}

// Turn implements Backend.
func (s *Redis) Turn(ctx context.Context, number int64) (Turn, error) {
	answer, err := s.run(ctx, "turn", number).Slice()
	if err != nil {
		return Turn{}, err
	}
	return decodeTurn(answer), nil
}

// Look implements Backend.
func (s *Redis) Look(ctx context.Context, key Key) (Row, error) {
	text, err := s.client.Get(ctx, s.flowKey(key)).Bytes()
	if errors.Is(err, redis.Nil) {
		return Row{}, ErrNotFound
	}
	if err != nil {
		return Row{}, err
	}
	return decode(key, text)
}

// Move implements Backend.
func (s *Redis) Move(ctx context.Context, key Key, m Move) (Step, error) {
	n, err := s.run(ctx, "move", string(key), m.Owner, string(rune(m.To)), m.Attempts, m.Content, cmp.Or(m.Subscriber, "-"), cmp.Or(m.Destination, "-"),
		m.Keep.Milliseconds(), m.Lease.Milliseconds(), m.Due.Milliseconds(), m.Hold.Milliseconds(), m.Close.Milliseconds()).Int()
	return Step(n), err
}

// Claim implements Backend.
func (s *Redis) Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (Key, Row, time.Duration, error) {
	answer, err := s.run(ctx, "claim", string(from), owner, lease.Milliseconds()).Slice()
	if err != nil {
		return "", Row{}, 0, err
	}
	if len(answer) == 1 {
		return "", Row{}, decodeMilliseconds(answer[0]), nil
	}
	key, _ := answer[0].(string)
	text, _ := answer[1].(string)
	now, _ := answer[2].(int64)
	row, err := decode(Key(key), []byte(text))
	row.Age = time.UnixMilli(now).Sub(row.Consumed)
	return Key(key), row, 0, err
}

// Wake implements Backend.
func (s *Redis) Wake(ctx context.Context, in Queue) (bool, error) {
	n, err := s.run(ctx, "wake", string(in)).Int()
	return n == batch, err
}

// List implements Backend.
func (s *Redis) List(ctx context.Context, in Queue, fn func(Key, Row, time.Time, error) bool) error {
	const page = 200
	for from := int64(0); ; from += page {
		waiting, err := s.client.ZRangeWithScores(ctx, s.queueKey(in), from, from+page-1).Result()
		if err != nil || len(waiting) == 0 {
			return err
		}
		keys := make([]string, len(waiting))
		for i, z := range waiting {
			keys[i] = s.flowKey(Key(z.Member.(string)))
		}
		values, err := s.client.MGet(ctx, keys...).Result()
		if err != nil {
			return err
		}
		for i, z := range waiting {
			text, found := values[i].(string)
			if !found {
				continue // it ended meanwhile
			}
			key := Key(z.Member.(string))
			row, err := decode(key, []byte(text))
			if !fn(key, row, dueTime(in, int64(z.Score)), err) {
				return nil
			}
		}
	}
}

// Count implements Backend.
func (s *Redis) Count(ctx context.Context, in Queue) (int, error) {
	n, err := s.client.ZCard(ctx, s.queueKey(in)).Result()
	return int(n), err
}

// Drop implements Backend.
func (s *Redis) Drop(ctx context.Context, key Key) error {
	return s.run(ctx, "drop", string(key)).Err()
}

// Others implements Backend.
func (s *Redis) Others(ctx context.Context) (map[Deployment]int, error) {
	register := s.prefix + ":deployments"
	if err := s.client.SAdd(ctx, register, string(s.tag)).Err(); err != nil {
		return nil, err
	}
	tags, err := s.client.SMembers(ctx, register).Result()
	others := map[Deployment]int{}
	for _, tag := range tags {
		other := &Redis{client: s.client, tag: Deployment(tag), keys: deploymentKeys(s.prefix, Deployment(tag))}
		for _, q := range Queues {
			n, countErr := other.Count(ctx, q)
			if err = cmp.Or(err, countErr); n > 0 && other.tag != s.tag {
				others[other.tag] += n
			}
		}
	}
	return others, err
}

// Ready implements Backend. A Redis that is full, or a replica, answers PING.
func (s *Redis) Ready(ctx context.Context) error {
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		s.scripts["ready"].Eval(ctx, pipe, []string{s.keys})
		s.scripts["ready"].EvalSha(ctx, pipe, []string{s.keys}) // as the others are run
		return nil
	})
	return err
}
