-- Numbers an Issued row and moves it to Working. If owner has it already, because an answer
-- was lost, the lease begins anew.
--
--   ARGV  key, owner, content, lease, patience (ms)
--   returns {row, place, wait (ms)}: the row as it then is, or false without one; place is 0
--   if the row neither waits for its turn, nor would for too long

local key, owner, content, leaseFor, patience = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local r, malformed = read(key)
local g = patience > 0 and readGate() or nil
local place, wait = 0, 0
if not r then
  return {malformed or false, 0, 0}
elseif r.phase == 'i' then
  r.phase, r.owner, r.content = 'w', owner, content
  r.number, r.consumed = redis.call('INCR', prefix .. 'number'), string.format('%.0f', now)
  r.text = write(key, r, workingTTL)
  if g and (g.next > now or redis.call('EXISTS', turns) == 1) then
    place, wait = turn(g, placeOf(r.number))
  elseif g then
    pass(g)
  end
  if place > 0 and wait <= patience then
    redis.call('ZADD', turns, r.number, key)
  else
    redis.call('ZADD', due, now + leaseFor, key)
  end
elseif r.phase == 'w' and r.owner == owner then -- an answer was lost
  place, wait = turn(g, placeOf(r.number))
  if redis.call('ZSCORE', turns, key) then
    return {r.text, place, math.min(wait, patience)}
  end
  redis.call('ZADD', due, now + leaseFor, key) -- the lease begins anew
  if wait <= patience then place, wait = 0, 0 end
end
return {r.text, place, wait}
