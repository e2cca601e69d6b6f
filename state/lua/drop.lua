-- Only deletes, which a full Redis allows.
--
--   ARGV  key

local key = ARGV[1]
local r = read(key)
local dest = r and r.dest or '-'
expireNewest(dest)
endEvent(key, dest)
enqueue(key)
return redis.call('DEL', prefix .. 'flow:' .. key)
