package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is a Backend in Redis 6 or newer, alone, behind Sentinel or as a Cluster: all
// keys of a deployment share a hash tag, and so a slot. It is as durable as Redis is
// set to be: use appendonly yes. Times are Redis's own.
//
//	PREFIX:{TAG}:flow:KEY          string: the row; expires unless Recorded or Saved
//	PREFIX:{TAG}:due               sorted set: keys of rows that are Working or Recorded, by when they are due (Unix ms)
//	PREFIX:{TAG}:events            sorted set: keys of rows that are Saved, by when they are due (Unix ms)
//	PREFIX:{TAG}:order:DEST        sorted set: keys of a destination's rows that are Saved, by number
//	PREFIX:{TAG}:number            counter: how many rows were consumed
//	PREFIX:{TAG}:newest:DEST       string: "number key" of the newest row recorded for a destination
//	PREFIX:{TAG}:lease:SUBSCRIBER  string: "until owner key key…": until when (Unix ms), whose, and which rows wait for its end
//	PREFIX:deployments             set: TAG of every deployment that has used this PREFIX
type Redis struct {
	client   redis.UniversalClient
	prefix   string // of all deployments
	tag      Deployment
	keys     string // how this deployment's keys begin
	number   string
	register string
}

// NewRedis returns a Backend for a deployment on client, which stays the caller's to
// close. Keys begin with prefix. From then on any call of client takes 1.8 s at most,
// including go-redis's retries.
func NewRedis(client redis.UniversalClient, prefix string, deployment Deployment) *Redis {
	client.AddHook(timeLimit{})
	keys := prefix + ":{" + string(deployment) + "}:"
	return &Redis{client, prefix, deployment, keys, keys + "number", prefix + ":deployments"}
}

// timeLimit limits every call, because a person waits while Redis is down or hangs.
type timeLimit struct{}

const answerTimeout = 1800 * time.Millisecond // leaves time for a page within two seconds

// DialHook implements redis.Hook.
func (timeLimit) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (timeLimit) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (timeLimit) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return next(ctx, cmds)
	}
}

func (s *Redis) queueKey(q Queue) string { return s.keys + string(q) }

func (s *Redis) flowKey(key Key) string { return s.keys + "flow:" + string(key) }

// Issue implements Backend.
func (s *Redis) Issue(ctx context.Context, key Key, request []byte, ttl time.Duration) error {
	// If the key exists, an earlier call stored this flow, and its answer was lost.
	return s.client.SetNX(ctx, s.flowKey(key), Row{Phase: Issued, Request: request}.encode(), ttl).Err()
}

// prelude begins every script: the clock, rows, and leases.
var prelude = fmt.Sprintf(`
local maxLease, orderTTL, replacedTTL, workingTTL = %d, %d, %d, %d
local maxWaiting = %d
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- read returns a row, nil without one, or nil and its text when it is malformed.
local function read(key)
  local value = redis.pcall('GET', key)
  if not value then return nil end
  if type(value) == 'table' then return nil, '' end -- no string
  local head, phase, number, consumed, attempts, owner, subscriber, dest, length =
    value:match('^(([iwrsfx]) (%%d+) (%%d+) (%%d+) (%%S+) (%%S+) (%%S+) (%%d+)\n)')
  if not head or #head > 200 or #number > 16 or #consumed > 16 or #attempts > 16 or #length > 16 or #value < #head + length then
    return nil, value
  end
  return {
    phase = phase, number = tonumber(number), consumed = consumed, attempts = attempts, owner = owner,
    subscriber = subscriber, dest = dest,
    request = value:sub(#head + 1, #head + length), content = value:sub(#head + length + 1),
  }
end

-- write keeps a row, for keep ms or, with 0, until it moves on, and returns its text.
local function write(key, r, keep)
  local value = string.format('%%s %%.0f %%s %%s %%s %%s %%s %%d\n',
    r.phase, r.number, r.consumed, r.attempts, r.owner, r.subscriber, r.dest, #r.request) .. r.request .. r.content
  if keep > 0 then redis.call('SET', key, value, 'PX', keep) else redis.call('SET', key, value) end
  return value
end

-- replace ends a row as Replaced.
local function replace(prefix, key, r)
  r.phase, r.content = 'x', ''
  write(prefix .. 'flow:' .. key, r, replacedTTL)
  redis.call('ZREM', prefix .. 'due', key)
end

-- lease returns when a subscriber's lease ends, its owner, and the rows that wait for its
-- end. A lease ends after maxLease at most, even if the clock stepped back.
local function lease(key)
  local ends, owner, waiting = (redis.call('GET', key) or ''):match('^(%%d+) (%%S+)(.*)$')
  if not ends then return 0, '', '' end
  return math.min(tonumber(ends), now + maxLease), owner, waiting
end

local function setLease(key, ends, owner, waiting)
  redis.call('SET', key, string.format('%%.0f ', ends) .. owner .. waiting, 'PX', math.max(1, ends - now) + maxLease)
end

-- acquire leases a subscriber to owner for ms. If another owner has the lease, it adds the
-- row to those that wait for its end, and returns false and that end.
local function acquire(key, owner, ms, row)
  local ends, holder, waiting = lease(key)
  if holder == owner or ends <= now then
    setLease(key, now + ms, owner, waiting)
    return true
  end
  if not waiting:find(row, 1, true) and #waiting < maxWaiting then waiting = waiting .. ' ' .. row end
  setLease(key, ends, holder, waiting)
  return false, ends
end

-- release ends owner's lease and makes the rows that wait for it due. With hold, the lease
-- goes on for that many ms without an owner, so that no late call can end it.
local function release(key, owner, hold, due)
  local _, holder, waiting = lease(key)
  if holder ~= owner then return end
  if hold > 0 then return setLease(key, now + hold, '-', waiting) end
  redis.call('DEL', key)
  for row in waiting:gmatch('%%S+') do redis.call('ZADD', due, 'XX', now, row) end
end

-- sent ends a Saved row's place among its destination's events; the next one is due.
local function sent(prefix, dest, key)
  local order = prefix .. 'order:' .. dest
  local was = redis.call('ZRANGE', order, 0, 0)[1]
  redis.call('ZREM', prefix .. 'events', key)
  redis.call('ZREM', order, key)
  if was ~= key then return end -- the first one may be being sent
  local first = redis.call('ZRANGE', order, 0, 0)[1]
  if first then redis.pcall('ZADD', prefix .. 'events', 'XX', now, first) end -- a full Redis refuses; it is due later then
end

-- isFirst reports whether no older row of a Saved row's destination is Saved. A row that is
-- not there any more, or malformed, holds up nothing.
local function isFirst(prefix, dest, key)
  local order = prefix .. 'order:' .. dest
  while true do
    local first = redis.call('ZRANGE', order, 0, 0)[1]
    if not first or first == key then return true end
    local r = read(prefix .. 'flow:' .. first)
    if r and r.phase == 's' then return false end
    redis.call('ZREM', order, first)
  end
end
`, maxLease.Milliseconds(), orderTTL.Milliseconds(), replacedTTL.Milliseconds(), workingTTL.Milliseconds(), maxWaiting*(hashLength+1))

// consumeScript numbers an Issued row and moves it to Working. If owner has it already,
// because an answer was lost, the lease begins anew.
//
//	KEYS  flow, due, number
//	ARGV  owner, content, lease (ms)
//	returns the row as it then is, or false without one
var consumeScript = redis.NewScript(prelude + `
local r, malformed = read(KEYS[1])
if not r then return malformed or false end
local key, owner = KEYS[1]:match('([^:]+)$'), ARGV[1]
if r.phase == 'w' and r.owner == owner then redis.call('ZADD', KEYS[2], now + ARGV[3], key) end
if r.phase ~= 'i' then return redis.call('GET', KEYS[1]) end
r.phase, r.owner, r.content = 'w', owner, ARGV[2]
r.number, r.consumed = redis.call('INCR', KEYS[3]), string.format('%.0f', now)
redis.call('ZADD', KEYS[2], now + ARGV[3], key)
return write(KEYS[1], r, workingTTL)`)

// Consume implements Backend.
func (s *Redis) Consume(ctx context.Context, key Key, owner string, content []byte, lease time.Duration) (Row, error) {
	text, err := consumeScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries), s.number},
		owner, content, lease.Milliseconds()).Text()
	return decodeAnswer(key, text, err)
}

// Look implements Backend.
func (s *Redis) Look(ctx context.Context, key Key) (Row, error) {
	text, err := s.client.Get(ctx, s.flowKey(key)).Result()
	return decodeAnswer(key, text, err)
}

func decodeAnswer(key Key, text string, err error) (Row, error) {
	if errors.Is(err, redis.Nil) {
		return Row{}, ErrNotFound
	}
	if err != nil {
		return Row{}, err
	}
	return decode(key, []byte(text))
}

// moveScript moves a row that its caller owns to a phase.
//
//	KEYS  flow, due, newest of the destination, lease of the subscriber
//	ARGV  owner, to, attempts, content, subscriber, destination (- without a webhook),
//	      keep (ms; 0 is until it moves on), lease, due, hold (ms)
//	returns a Step
var moveScript = redis.NewScript(prelude + fmt.Sprintf(`
local lost, moved, waits, overtaken = %d, %d, %d, %d`, Lost, Moved, Waiting, Overtaken) + `
local prefix, key = KEYS[1]:match('^(.*:)flow:(.+)$')
local owner, to, subscriber, dest = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local leaseFor, dueIn, hold = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local r = read(KEYS[1])
if not r or r.owner ~= owner then return lost end
-- A Move with Lease never ends a lease: it may be a late repeat, while its owner is
-- sending.
local function endLease()
  if leaseFor == 0 then release(KEYS[4], owner, hold, KEYS[2]) end
end
if r.phase == 'x' then
  endLease()
  return overtaken
end
if r.phase == 'f' then return to == 'f' and moved or lost end
if r.phase == 's' then -- its event is owed, whatever was connected since
  if to ~= 's' and to ~= 'f' then return lost end
  r.phase, r.attempts, r.content = to, ARGV[3], ARGV[4]
  write(KEYS[1], r, tonumber(ARGV[7]))
  if to == 'f' then
    sent(prefix, r.dest, key)
    return moved
  end
  redis.call('ZADD', prefix .. 'events', now + dueIn, key)
  return isFirst(prefix, r.dest, key) and moved or waits
end
if r.phase == 'i' or r.phase == 'r' and to == 'w' then return lost end

if r.dest ~= '-' and r.dest ~= dest then redis.call('PEXPIRE', prefix .. 'newest:' .. r.dest, orderTTL) end
if dest ~= '-' then
  local number, newest = (redis.call('GET', KEYS[3]) or ''):match('^(%d+) (%S+)$')
  if number and tonumber(number) > r.number then
    replace(prefix, key, r)
    endLease()
    return overtaken
  end
  if newest and newest ~= key then
    local older = read(prefix .. 'flow:' .. newest)
    if older and older.phase == 'r' and older.number < r.number then replace(prefix, newest, older) end
  end
  redis.call('SET', KEYS[3], string.format('%.0f ', r.number) .. key)
  if to == 'f' or to == 's' then redis.call('PEXPIRE', KEYS[3], orderTTL) end
end

r.phase, r.attempts, r.content, r.subscriber, r.dest = to, ARGV[3], ARGV[4], subscriber, dest
write(KEYS[1], r, tonumber(ARGV[7]))
if to == 'r' and leaseFor > 0 then
  local ok, ends = acquire(KEYS[4], owner, leaseFor, key)
  redis.call('ZADD', KEYS[2], ok and now + leaseFor + 1 or ends, key) -- those that wait go first
  return ok and moved or waits
end
endLease()
if to == 'w' or to == 'r' then
  redis.call('ZADD', KEYS[2], now + dueIn, key)
  return moved
end
redis.call('ZREM', KEYS[2], key)
if to == 'f' then return moved end
redis.call('ZADD', prefix .. 'events', now + dueIn, key)
redis.call('ZADD', prefix .. 'order:' .. dest, r.number, key)
return isFirst(prefix, dest, key) and moved or waits`)

// Move implements Backend.
func (s *Redis) Move(ctx context.Context, key Key, m Move) (Step, error) {
	subscriber, destination := m.Subscriber, m.Destination
	if subscriber == "" {
		subscriber, destination = "-", "-"
	}
	n, err := moveScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries), s.keys + "newest:" + destination, s.keys + "lease:" + subscriber},
		m.Owner, string(rune(m.To)), m.Attempts, m.Content, subscriber, destination, m.Keep.Milliseconds(), m.Lease.Milliseconds(), m.Due.Milliseconds(), m.Hold.Milliseconds()).Int()
	return Step(n), err
}

// claimScript takes over a row that is due.
//
//	KEYS  the queue
//	ARGV  prefix, owner, lease (ms), keep of a Working row (ms), longest possible due (ms),
//	      pause of a malformed row, and of an event that is not the first of its
//	      destination (ms), rows to look at
//	returns {key, row, Unix ms}, or {ms until the next row is due}, -1 without any
var claimScript = redis.NewScript(prelude + `
local due, prefix, owner, leaseFor = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
-- Rows that are due later than the longest pause: the clock stepped back.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', due, now + ARGV[5], '+inf', 'LIMIT', 0, ARGV[7])) do
  redis.call('ZADD', due, now, key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[7])) do
  local r, malformed = read(prefix .. 'flow:' .. key)
  if malformed then
    redis.call('ZADD', due, now + ARGV[6], key)
    return {key, malformed, now}
  elseif r and r.phase == 'w' then
    r.owner = owner
    redis.call('ZADD', due, now + leaseFor, key)
    return {key, write(prefix .. 'flow:' .. key, r, tonumber(ARGV[4])), now}
  elseif r and r.phase == 'r' then
    local newest = (redis.call('GET', prefix .. 'newest:' .. r.dest) or ''):match('^(%d+) ')
    if newest and tonumber(newest) > r.number then
      replace(prefix, key, r)
    else
      local ok, ends = acquire(prefix .. 'lease:' .. r.subscriber, owner, leaseFor, key)
      redis.call('ZADD', due, ok and now + leaseFor + 1 or ends, key)
      if ok then
        r.owner = owner
        return {key, write(prefix .. 'flow:' .. key, r, 0), now}
      end
    end
  elseif r and r.phase == 's' then
    if isFirst(prefix, r.dest, key) then
      r.owner = owner
      redis.call('ZADD', due, now + leaseFor, key)
      return {key, write(prefix .. 'flow:' .. key, r, 0), now}
    end
    redis.call('ZADD', due, now + ARGV[6], key)
  else
    redis.call('ZREM', due, key)
  end
end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if not first[1] then return {-1} end
return {math.max(0, first[2] - now)}`)

// Claim implements Backend.
func (s *Redis) Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (Key, Row, time.Duration, error) {
	answer, err := claimScript.Run(ctx, s.client, []string{s.queueKey(from)}, s.keys, owner, lease.Milliseconds(), workingTTL.Milliseconds(),
		maxDue.Milliseconds(), malformedPause.Milliseconds(), claimLooks).Slice()
	if err != nil {
		return "", Row{}, 0, err
	}
	if len(answer) == 1 {
		ms, _ := answer[0].(int64)
		return "", Row{}, time.Duration(ms) * time.Millisecond, nil
	}
	key, _ := answer[0].(string)
	text, _ := answer[1].(string)
	now, _ := answer[2].(int64)
	row, err := decode(Key(key), []byte(text))
	row.Age = time.Duration(now-row.Consumed) * time.Millisecond
	return Key(key), row, 0, err
}

// wakeScript changes a limited number of rows, so that it never blocks Redis for long.
//
//	KEYS  the queue
//	ARGV  what is due within this stays (ms), rows to change
//	returns how many were changed
var wakeScript = redis.NewScript(prelude + `
local later = redis.call('ZRANGEBYSCORE', KEYS[1], now + ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
for _, key in ipairs(later) do redis.call('ZADD', KEYS[1], now, key) end
return #later`)

// Wake implements Backend.
func (s *Redis) Wake(ctx context.Context, in Queue) (bool, error) {
	n, err := wakeScript.Run(ctx, s.client, []string{s.queueKey(in)}, soon.Milliseconds(), batch).Int()
	return n == batch, err
}

// List implements Backend.
func (s *Redis) List(ctx context.Context, in Queue, fn func(Key, Row, time.Time, error) error) error {
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
			if err := fn(key, row, time.UnixMilli(int64(z.Score)), err); err != nil {
				return err
			}
		}
	}
}

// Count implements Backend.
func (s *Redis) Count(ctx context.Context, in Queue) (int, error) {
	n, err := s.client.ZCard(ctx, s.queueKey(in)).Result()
	return int(n), err
}

// dropScript only deletes, which a full Redis allows.
//
//	KEYS  flow, due
//	ARGV  prefix, key
var dropScript = redis.NewScript(prelude + `
local r = read(KEYS[1])
if r then redis.call('PEXPIRE', ARGV[1] .. 'newest:' .. r.dest, orderTTL) end
redis.call('ZREM', KEYS[2], ARGV[2])
sent(ARGV[1], r and r.dest or '-', ARGV[2])
return redis.call('DEL', KEYS[1])`)

// Drop implements Backend.
func (s *Redis) Drop(ctx context.Context, key Key) error {
	return dropScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries)}, s.keys, string(key)).Err()
}

// Others implements Backend.
func (s *Redis) Others(ctx context.Context) (map[Deployment]int, error) {
	if err := s.client.SAdd(ctx, s.register, string(s.tag)).Err(); err != nil {
		return nil, err
	}
	tags, err := s.client.SMembers(ctx, s.register).Result()
	if err != nil {
		return nil, err
	}
	others := map[Deployment]int{}
	for _, tag := range tags {
		if tag == string(s.tag) {
			continue
		}
		for _, q := range []Queue{Deliveries, Events} {
			n, err := s.client.ZCard(ctx, strings.Replace(s.queueKey(q), "{"+string(s.tag)+"}", "{"+tag+"}", 1)).Result()
			if err != nil {
				return nil, err
			}
			if n > 0 {
				others[Deployment(tag)] += int(n)
			}
		}
	}
	return others, nil
}

// readyScript tries each command that the other scripts and calls use, on each kind of
// key. It writes one key that expires; the other writes change nothing, because what
// they name does not exist.
//
//	KEYS  ready, due, number, and a flow, a newest and a lease that do not exist
//	returns OK, or the error of the first command that failed, with its name
var readyScript = redis.NewScript(`
local ready, due, number, flow, newest, lease = unpack(KEYS)
for _, command in ipairs({
  {'TIME'},
  {'SET', ready, '0', 'PX', '60000'}, {'INCR', ready}, {'GET', number}, {'MGET', flow},
  {'PEXPIRE', newest, '1'}, {'DEL', flow, newest, lease},
  {'ZADD', due, 'XX', '0', '-'}, {'ZREM', due, '-'}, {'ZCARD', due},
  {'ZRANGE', due, '0', '0'}, {'ZRANGEBYSCORE', due, '0', '0', 'LIMIT', '0', '1'},
}) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    return redis.error_reply(answer.err .. ' (' .. command[1] .. ')')
  end
end
return redis.status_reply('OK')`)

// emptyScript finds out whether scripts may be run by their hash, as the others are.
var emptyScript = redis.NewScript("return 1")

// Ready implements Backend. A Redis that is full, or a replica, answers PING.
func (s *Redis) Ready(ctx context.Context) error {
	keys := []string{s.keys + "ready", s.queueKey(Deliveries), s.number, s.flowKey("-"), s.keys + "newest:-", s.keys + "lease:-"}
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		emptyScript.Eval(ctx, pipe, keys[:1])
		emptyScript.EvalSha(ctx, pipe, keys[:1])
		readyScript.Eval(ctx, pipe, keys)
		return nil
	})
	return err
}
