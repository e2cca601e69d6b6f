-- Takes over the first row of a queue that is due and can be claimed. Rows of Turns are always
-- due: their scores are numbers.
--
--   ARGV  queue, owner, lease (ms)
--   returns {key, row, Unix ms}, or {ms until the next row is due}, -1 without any

local queue, owner, leaseFor = prefix .. ARGV[1], ARGV[2], tonumber(ARGV[3])

-- take makes a row owner's until it is due again.
local function take(key, r, ends)
  r.owner = owner
  local text = write(key, r, r.phase == 'w' and workingTTL or 0)
  enqueue(key, r.phase == 's' and events or due, ends)
  return {key, text, now}
end

for _, key in ipairs(redis.call('ZRANGEBYSCORE', queue, now + maxDue, '+inf', 'LIMIT', 0, claimLooks)) do -- the clock stepped back
  redis.call('ZADD', queue, now, key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, claimLooks)) do
  local r, malformed = read(key)
  if malformed then
    enqueue(key, queue == turns and due or queue, now + malformedPause)
    return {key, malformed, now}
  elseif r and r.phase == 'w' then
    local g, life = readGate(), r.consumed + codeLife - now
    if queue == turns and g and life > 0 then
      if g.next > now then return {math.min(g.next - now, life)} end
      pass(g)
    end
    return take(key, r, now + leaseFor)
  elseif r and r.phase == 'r' then
    if newest(r.dest) > r.number then
      replace(key, r)
    else
      local acquired, at = acquire(r.subscriber, owner, leaseFor, key)
      if acquired then return take(key, r, at) end
      redis.call('ZADD', queue, at, key)
    end
  elseif r and r.phase == 's' then
    local first = firstSaved(r.dest)
    if not first or first == key then return take(key, r, now + leaseFor) end
    redis.call('ZADD', queue, now + malformedPause, key) -- or when that one ends
  else
    redis.call('ZREM', queue, key)
  end
end
local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
return {first[1] and math.max(0, first[2] - now) or -1}
