-- Changes a limited number of rows, so that it never blocks Redis for long.
--
--   ARGV  queue
--   returns how many were changed

local later = redis.call('ZRANGEBYSCORE', prefix .. ARGV[1], now + soon, '+inf', 'LIMIT', 0, batch)
for _, key in ipairs(later) do redis.call('ZADD', prefix .. ARGV[1], now, key) end
return #later
