package state

import (
	"context"
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
//	PREFIX:{TAG}:gate              string: the gate: "opens next passed allowed before"; expires gateLife after Slack's last refusal
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
	number string
	gate   string
}

// NewRedis returns a Backend for a deployment on client, which stays the caller's to
// close. Keys begin with prefix.
func NewRedis(client redis.UniversalClient, prefix string, deployment Deployment) *Redis {
	keys := deploymentKeys(prefix, deployment)
	return &Redis{client, prefix, deployment, keys, keys + "number", keys + "gate"}
}

// deploymentKeys returns how a deployment's keys begin.
func deploymentKeys(prefix string, deployment Deployment) string {
	return prefix + ":{" + string(deployment) + "}:"
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
local maxWaiting, maxLine = %d, %d
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- read returns a row, nil without one, or nil and its text when it is malformed.
local function read(key)
  local value = redis.pcall('GET', key)
  if not value then return nil end
  if type(value) == 'table' then return nil, '' end -- no string
  local head, phase, number, consumed, attempts, owner, subscriber, dest, length =
    value:match('^(([iwrsfx]) (%%d+) (%%d+) (%%d+) (%%S+) (%%S+) (%%S+) (%%d+)\n)')
  if not head or #head > maxLine + 1 or #number > 16 or #consumed > 16 or #attempts > 16 or #length > 16 or #value < #head + length then
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
`, maxLease.Milliseconds(), orderTTL.Milliseconds(), replacedTTL.Milliseconds(), workingTTL.Milliseconds(), maxWaiting*(hashLength+1), maxLine)

// gateLua has the gate's methods; see gate.
var gateLua = fmt.Sprintf(`
local slackWindow, slackAllows, maxClosed, probePause, gateLife = %d, %d, %d, %d, %d

local function readGate(key)
  local opens, next, passed, allowed, before = (redis.call('GET', key) or ''):match('^(%%d+) (%%d+) (%%d+) (%%d+) (%%d+)$')
  if not opens then return nil end
  local g = {opens = tonumber(opens), next = tonumber(next), passed = tonumber(passed), allowed = tonumber(allowed), before = tonumber(before)}
  if math.max(g.opens, g.next) > now + maxClosed then g.opens, g.next = now, now end
  local windows = math.floor((now - g.opens) / slackWindow)
  if windows > 0 then
    if g.allowed > 0 then g.allowed = math.max(g.allowed, g.passed) end
    g.opens, g.next, g.passed = g.opens + windows * slackWindow, 0, 0
  end
  return g
end

local function writeGate(key, g, ...)
  redis.call('SET', key, string.format('%%.0f %%.0f %%.0f %%.0f %%.0f', g.opens, g.next, g.passed, g.allowed, g.before), ...)
end

local function allows(g) return g.allowed > 0 and g.allowed or g.before end

local function closeGate(key, ms)
  local g = readGate(key)
  if not g then
    g = {opens = 0, passed = 0, allowed = 0, before = slackAllows}
  elseif g.opens <= now then
    g.before, g.allowed, g.passed = allows(g), math.max(0, g.passed - 1), 0
  else
    g.allowed = math.max(0, g.allowed - 1)
  end
  g.opens = math.max(g.opens, now + math.min(ms, maxClosed))
  g.next = g.opens
  writeGate(key, g, 'PX', gateLife)
end

local function pass(key, g)
  g.passed = g.passed + 1
  if g.passed >= allows(g) then g.next = now + probePause end
  writeGate(key, g, 'KEEPTTL')
end

-- turn returns a place, and the estimated wait (ms).
local function turn(g, place)
  if not g then return place, 0 end
  local free, wait = allows(g), math.max(0, g.opens - now)
  if wait == 0 then free = math.max(0, free - g.passed) end
  if place > free then wait = wait + math.ceil((place - free) / allows(g)) * slackWindow end
  return place, wait
end

-- placeOf returns the place in turns of the row with a number: not all numbers wait.
local function placeOf(turns, number)
  return redis.call('ZCOUNT', turns, '-inf', string.format('(%%.0f', number)) + 1
end
`, slackWindow.Milliseconds(), slackAllows, maxClosed.Milliseconds(), probePause.Milliseconds(), gateLife.Milliseconds())

// consumeScript numbers an Issued row and moves it to Working. If owner has it already,
// because an answer was lost, the lease begins anew.
//
//	KEYS  flow, due, number, turns, gate
//	ARGV  owner, content, lease, patience (ms)
//	returns the row as it then is, or false without one; if it waits for its turn, or would
//	for too long, {row, place, wait (ms)}
var consumeScript = redis.NewScript(prelude + gateLua + `
local r, malformed = read(KEYS[1])
if not r then return malformed or false end
local key, owner, leaseFor, patience = KEYS[1]:match('([^:]+)$'), ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if r.phase == 'w' and r.owner == owner then
  local place, wait = turn(patience > 0 and readGate(KEYS[5]), placeOf(KEYS[4], r.number))
  if redis.call('ZSCORE', KEYS[4], key) then
    return {redis.call('GET', KEYS[1]), place, math.min(wait, patience)}
  end
  redis.call('ZADD', KEYS[2], now + leaseFor, key)
  if wait > patience then return {redis.call('GET', KEYS[1]), place, wait} end
end
if r.phase ~= 'i' then return redis.call('GET', KEYS[1]) end
r.phase, r.owner, r.content = 'w', owner, ARGV[2]
r.number, r.consumed = redis.call('INCR', KEYS[3]), string.format('%.0f', now)
local g = patience > 0 and readGate(KEYS[5])
if g then
  if g.next > now or redis.call('EXISTS', KEYS[4]) == 1 then
    local place, wait = turn(g, placeOf(KEYS[4], r.number))
    if wait <= patience then
      redis.call('ZADD', KEYS[4], r.number, key)
    else
      redis.call('ZADD', KEYS[2], now + leaseFor, key)
    end
    return {write(KEYS[1], r, workingTTL), place, wait}
  end
  pass(KEYS[5], g)
end
redis.call('ZADD', KEYS[2], now + leaseFor, key)
return write(KEYS[1], r, workingTTL)`)

// Consume implements Backend.
func (s *Redis) Consume(ctx context.Context, key Key, owner string, content []byte, lease, patience time.Duration) (Row, error) {
	answer, err := consumeScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries), s.number, s.queueKey(Turns), s.gate},
		owner, content, lease.Milliseconds(), patience.Milliseconds()).Result()
	if text, ok := answer.(string); ok || err != nil {
		return decodeAnswer(key, text, err)
	}
	waits, _ := answer.([]any)
	text, turn := decodeTurn(waits)
	row, err := decodeAnswer(key, text, nil)
	row.Turn = turn
	return row, err
}

// decodeTurn decodes {text, place, wait (ms)}.
func decodeTurn(answer []any) (text string, t Turn) {
	if len(answer) != 3 {
		return "", Turn{}
	}
	text, _ = answer[0].(string)
	place, _ := answer[1].(int64)
	ms, _ := answer[2].(int64)
	return text, Turn{int(place), time.Duration(ms) * time.Millisecond}
}

// turnScript finds a row's turn.
//
//	KEYS  turns, gate
//	ARGV  the row's number
//	returns {"", place, wait (ms)}; place is 0 if it does not wait
var turnScript = redis.NewScript(prelude + gateLua + `
if redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[1]) == 0 then return {'', 0, 0} end
return {'', turn(readGate(KEYS[2]), placeOf(KEYS[1], tonumber(ARGV[1])))}`)

// Turn implements Backend.
func (s *Redis) Turn(ctx context.Context, number int64) (Turn, error) {
	answer, err := turnScript.Run(ctx, s.client, []string{s.queueKey(Turns), s.gate}, number).Slice()
	_, turn := decodeTurn(answer)
	return turn, err
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
//	KEYS  flow, due, newest of the destination, lease of the subscriber, turns, gate
//	ARGV  owner, to, attempts, content, subscriber, destination (- without a webhook),
//	      keep (ms; 0 is until it moves on), lease, due, hold, close (ms)
//	returns a Step
var moveScript = redis.NewScript(prelude + gateLua + fmt.Sprintf(`
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
  redis.call('ZREM', KEYS[5], key)
  local ok, ends = acquire(KEYS[4], owner, leaseFor, key)
  redis.call('ZADD', KEYS[2], ok and now + leaseFor + 1 or ends, key) -- those that wait go first
  return ok and moved or waits
end
endLease()
if to == 'w' and tonumber(ARGV[11]) > 0 then
  redis.call('ZREM', KEYS[2], key)
  if redis.call('ZADD', KEYS[5], r.number, key) == 1 then closeGate(KEYS[6], tonumber(ARGV[11])) end -- or it is a repeat
  return moved
end
redis.call('ZREM', KEYS[5], key)
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
	n, err := moveScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries), s.keys + "newest:" + destination, s.keys + "lease:" + subscriber, s.queueKey(Turns), s.gate},
		m.Owner, string(rune(m.To)), m.Attempts, m.Content, subscriber, destination, m.Keep.Milliseconds(), m.Lease.Milliseconds(), m.Due.Milliseconds(), m.Hold.Milliseconds(), m.Close.Milliseconds()).Int()
	return Step(n), err
}

// claimScript takes over a row that is due.
//
//	KEYS  the queue
//	ARGV  prefix, owner, lease (ms), longest possible due (ms), pause of a malformed row,
//	      and of an event that is not the first of its destination (ms), rows to look at
//	returns {key, row, Unix ms}, or {ms until the next row is due}, -1 without any
var claimScript = redis.NewScript(prelude + `
local due, prefix, owner, leaseFor = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local function take(key, r, ends, keep)
  r.owner = owner
  redis.call('ZADD', due, ends, key)
  return {key, write(prefix .. 'flow:' .. key, r, keep), now}
end
-- Rows that are due later than the longest pause: the clock stepped back.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', due, now + ARGV[4], '+inf', 'LIMIT', 0, ARGV[6])) do
  redis.call('ZADD', due, now, key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[6])) do
  local r, malformed = read(prefix .. 'flow:' .. key)
  if malformed then
    redis.call('ZADD', due, now + ARGV[5], key)
    return {key, malformed, now}
  elseif r and r.phase == 'w' then
    return take(key, r, now + leaseFor, workingTTL)
  elseif r and r.phase == 'r' then
    local newest = (redis.call('GET', prefix .. 'newest:' .. r.dest) or ''):match('^(%d+) ')
    if newest and tonumber(newest) > r.number then
      replace(prefix, key, r)
    else
      local ok, ends = acquire(prefix .. 'lease:' .. r.subscriber, owner, leaseFor, key)
      if ok then return take(key, r, now + leaseFor + 1, 0) end
      redis.call('ZADD', due, ends, key)
    end
  elseif r and r.phase == 's' then
    if isFirst(prefix, r.dest, key) then return take(key, r, now + leaseFor, 0) end
    redis.call('ZADD', due, now + ARGV[5], key)
  else
    redis.call('ZREM', due, key)
  end
end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if not first[1] then return {-1} end
return {math.max(0, first[2] - now)}`)

// claimTurnScript takes over the row that waits longest for its turn at Slack, if it has it.
//
//	KEYS  turns, gate, due
//	ARGV  prefix, owner, lease, CodeLife (ms), rows to look at
//	returns what claimScript returns
var claimTurnScript = redis.NewScript(prelude + gateLua + `
local prefix, owner, leaseFor, codeLife = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[5] - 1)) do
  local flow = prefix .. 'flow:' .. key
  local r, malformed = read(flow)
  if malformed then
    redis.call('ZREM', KEYS[1], key)
    return {key, malformed, now}
  elseif r and r.phase == 'w' then
    local g, life = readGate(KEYS[2]), r.consumed + codeLife - now
    if g and life > 0 then
      if g.next > now then return {math.min(g.next - now, life)} end
      pass(KEYS[2], g)
    end
    r.owner = owner
    redis.call('ZREM', KEYS[1], key)
    redis.call('ZADD', KEYS[3], now + leaseFor, key)
    return {key, write(flow, r, workingTTL), now}
  end
  redis.call('ZREM', KEYS[1], key)
end
return {redis.call('EXISTS', KEYS[1]) - 1}`)

// Claim implements Backend.
func (s *Redis) Claim(ctx context.Context, from Queue, owner string, lease time.Duration) (Key, Row, time.Duration, error) {
	script, keys := claimScript, []string{s.queueKey(from)}
	args := []any{s.keys, owner, lease.Milliseconds(), maxDue.Milliseconds(), malformedPause.Milliseconds(), claimLooks}
	if from == Turns {
		script, keys = claimTurnScript, []string{s.queueKey(Turns), s.gate, s.queueKey(Deliveries)}
		args = []any{s.keys, owner, lease.Milliseconds(), CodeLife.Milliseconds(), claimLooks}
	}
	answer, err := script.Run(ctx, s.client, keys, args...).Slice()
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
			due := time.UnixMilli(int64(z.Score))
			if in == Turns { // the score is a number
				due = time.Time{}
			}
			if !fn(key, row, due, err) {
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

// dropScript only deletes, which a full Redis allows.
//
//	KEYS  flow, due, turns
//	ARGV  prefix, key
var dropScript = redis.NewScript(prelude + `
local r = read(KEYS[1])
if r then redis.call('PEXPIRE', ARGV[1] .. 'newest:' .. r.dest, orderTTL) end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
sent(ARGV[1], r and r.dest or '-', ARGV[2])
return redis.call('DEL', KEYS[1])`)

// Drop implements Backend.
func (s *Redis) Drop(ctx context.Context, key Key) error {
	return dropScript.Run(ctx, s.client, []string{s.flowKey(key), s.queueKey(Deliveries), s.queueKey(Turns)}, s.keys, string(key)).Err()
}

// Others implements Backend.
func (s *Redis) Others(ctx context.Context) (map[Deployment]int, error) {
	register := s.prefix + ":deployments"
	if err := s.client.SAdd(ctx, register, string(s.tag)).Err(); err != nil {
		return nil, err
	}
	tags, err := s.client.SMembers(ctx, register).Result()
	if err != nil {
		return nil, err
	}
	others := map[Deployment]int{}
	for _, tag := range tags {
		if tag == string(s.tag) {
			continue
		}
		for _, q := range Queues {
			n, err := s.client.ZCard(ctx, deploymentKeys(s.prefix, Deployment(tag))+string(q)).Result()
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
  {'EXISTS', flow}, {'ZADD', due, 'XX', '0', '-'}, {'ZREM', due, '-'}, {'ZCARD', due}, {'ZSCORE', due, '-'}, {'ZCOUNT', due, '0', '0'},
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
