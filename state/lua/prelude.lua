-- What the other scripts use: the clock, rows, queues, leases, and the order of events. The
-- constants are those of the package, with durations in ms. Each script has one key, which is
-- how the deployment's keys begin.
--
-- A full Redis refuses a script's first change, if that takes memory (SET, INCR, ZADD), and
-- allows all that follow a change. So a script begins with one that is refused, unless it ends
-- something, and none ends half-way.

local prefix = KEYS[1]
local turns, due, events = prefix .. 'turns', prefix .. 'due', prefix .. 'events'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- read returns a row, nil without one, or nil and its text when it is malformed.
local function read(key)
  local text = redis.pcall('GET', prefix .. 'flow:' .. key)
  if not text then return nil end
  if type(text) == 'table' then return nil, '' end -- no string
  local head, phase, number, consumed, attempts, owner, subscriber, dest, length =
    text:match('^(([iwrsfx]) (%d+) (%d+) (%d+) (%S+) (%S+) (%S+) (%d+)\n)')
  if not head or #head > maxLine + 1 or #number > 16 or #consumed > 16 or #attempts > 16 or #length > 16 or #text < #head + length then
    return nil, text
  end
  return {
    phase = phase, number = tonumber(number), consumed = consumed, attempts = attempts, owner = owner,
    subscriber = subscriber, dest = dest, text = text,
    request = text:sub(#head + 1, #head + length), content = text:sub(#head + length + 1),
  }
end

-- write keeps a row, for keep ms or, with 0, until it moves on, and returns its text.
local function write(key, r, keep)
  local text = string.format('%s %.0f %s %s %s %s %s %d\n',
    r.phase, r.number, r.consumed, r.attempts, r.owner, r.subscriber, r.dest, #r.request) .. r.request .. r.content
  if keep > 0 then
    redis.call('SET', prefix .. 'flow:' .. key, text, 'PX', keep)
  else
    redis.call('SET', prefix .. 'flow:' .. key, text)
  end
  return text
end

-- enqueue moves a row to a queue, or with no queue, out of all.
local function enqueue(key, queue, score)
  for _, q in ipairs({turns, due, events}) do
    if q ~= queue then redis.call('ZREM', q, key) end
  end
  if queue then redis.call('ZADD', queue, score, key) end
end

-- replace ends a row as Replaced.
local function replace(key, r)
  r.phase, r.content = 'x', ''
  write(key, r, replacedTTL)
  enqueue(key)
end

-- newest returns the number and the key of the newest row recorded for a destination.
local function newest(dest)
  local number, key = (redis.call('GET', prefix .. 'newest:' .. dest) or ''):match('^(%d+) (%S+)$')
  return tonumber(number or 0), key
end

-- expireNewest makes the newest row of a destination expire.
local function expireNewest(dest) redis.call('PEXPIRE', prefix .. 'newest:' .. dest, orderTTL) end

-- lease returns when a subscriber's lease ends, its owner, and the rows that wait for its
-- end. A lease ends after maxLease at most, even if the clock stepped back.
local function lease(subscriber)
  local ends, owner, waiting = (redis.call('GET', prefix .. 'lease:' .. subscriber) or ''):match('^(%d+) (%S+)(.*)$')
  if not ends then return 0, '', '' end
  return math.min(tonumber(ends), now + maxLease), owner, waiting
end

local function setLease(subscriber, ends, owner, waiting)
  local text = string.format('%.0f ', ends) .. owner .. waiting
  redis.call('SET', prefix .. 'lease:' .. subscriber, text, 'PX', math.max(1, ends - now) + maxLease)
end

-- acquire leases a subscriber to owner. If another owner has the lease, it adds the row to
-- those that wait for its end, and returns false. It returns when the row is due: at the end
-- of the lease, and after that of its own, because those that wait go first.
local function acquire(subscriber, owner, life, key)
  local ends, holder, waiting = lease(subscriber)
  if holder == owner or ends <= now then
    ends = now + life
    setLease(subscriber, ends, owner, waiting)
    return true, ends + 1
  end
  if not waiting:find(key, 1, true) and #waiting < maxWaiting then
    waiting = waiting .. ' ' .. key
  end
  setLease(subscriber, ends, holder, waiting) -- with an end that may have come nearer
  return false, ends
end

-- release ends owner's lease and makes the rows that wait for it due. With hold, the lease
-- goes on for so long without an owner, so that no late call can end it.
local function release(subscriber, owner, hold)
  local _, holder, waiting = lease(subscriber)
  if holder ~= owner then return end
  if hold > 0 then return setLease(subscriber, now + hold, '-', waiting) end
  redis.call('DEL', prefix .. 'lease:' .. subscriber)
  for key in waiting:gmatch('%S+') do redis.call('ZADD', due, 'XX', now, key) end
end

-- firstSaved returns the key of a destination's oldest row that is Saved, or nil. A row that
-- is not there any more, or malformed, holds up nothing.
local function firstSaved(dest)
  local order = prefix .. 'order:' .. dest
  while true do
    local first = redis.call('ZRANGE', order, 0, 0)[1]
    local r = first and read(first)
    if not first or r and r.phase == 's' then return first end
    redis.call('ZREM', order, first)
  end
end

-- endEvent ends a Saved row's place among its destination's events; the next one is due.
local function endEvent(key, dest)
  local first = firstSaved(dest)
  redis.call('ZREM', prefix .. 'order:' .. dest, key)
  local next = firstSaved(dest)
  if first == key and next then -- or else the first one may be being sent
    redis.pcall('ZADD', events, 'XX', now, next) -- a full Redis refuses; it is due later then
  end
end
