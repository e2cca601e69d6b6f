-- Moves a row that its caller owns to a phase.
--
--   ARGV  key, owner, to, attempts, content, subscriber, destination (- without a webhook),
--         keep (ms; 0 is until it moves on), lease, due, hold, close (ms)
--   returns a Step

local key, owner, to, attempts, content, subscriber, dest = unpack(ARGV, 1, 7)
local keep, leaseFor, dueIn, hold, close =
  tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local phaseOrder = {i = 0, w = 1, r = 2, s = 3, f = 4}
-- A Move with Lease never ends a lease: it may be a late repeat, while its owner is
-- sending.
local function endLease()
  if leaseFor == 0 then release(subscriber, owner, hold) end
end
local r = read(key)
if not r or r.owner ~= owner then -- a malformed row is lost, too
  return lost
elseif r.phase == 'x' then
  endLease()
  return overtaken
elseif r.phase == 'f' and to == 'f' then
  return moved
elseif r.phase == 'f' or r.phase == 'i' or phaseOrder[to] < phaseOrder[r.phase] then
  return lost
end
if r.phase ~= 's' then -- or else its event is owed, whatever was connected since
  if r.dest ~= '-' and r.dest ~= dest then expireNewest(r.dest) end
  if dest ~= '-' then
    local number, last = newest(dest)
    if number > r.number then
      replace(key, r)
      endLease()
      return overtaken
    end
    local older = last and read(last)
    if older and older.phase == 'r' and older.number < r.number then replace(last, older) end
    redis.call('SET', prefix .. 'newest:' .. dest, string.format('%.0f ', r.number) .. key)
    if to ~= 'r' then expireNewest(dest) end
  end
  r.subscriber, r.dest = subscriber, dest
elseif to == 'f' then
  endEvent(key, r.dest)
end
r.phase, r.attempts, r.content = to, attempts, content
write(key, r, keep)
if leaseFor > 0 then
  local acquired, at = acquire(subscriber, owner, leaseFor, key)
  enqueue(key, due, at)
  return acquired and moved or waits
end
endLease()
if to == 'f' then
  enqueue(key)
elseif to == 's' then
  enqueue(key, events, now + dueIn)
  redis.call('ZADD', prefix .. 'order:' .. r.dest, r.number, key)
  if firstSaved(r.dest) ~= key then return waits end
elseif close == 0 then
  enqueue(key, due, now + dueIn)
elseif not redis.call('ZSCORE', turns, key) then -- or it is a repeat
  closeGate(readGate(), close)
  enqueue(key, turns, r.number)
end
return moved
