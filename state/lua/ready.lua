-- Tries each command that the other scripts and calls use, on each kind of key. It writes one
-- key that expires; the other writes change nothing, because what they name does not exist.
--
--   returns OK, or the error of the first command that failed, with its name

local prefix = KEYS[1]
local ready, due, flow, newest, lease = prefix .. 'ready', prefix .. 'due', prefix .. 'flow:-', prefix .. 'newest:-', prefix .. 'lease:-'
for _, command in ipairs({
  {'TIME'},
  {'SET', ready, '0', 'PX', '60000'}, {'INCR', ready}, {'GET', prefix .. 'number'}, {'MGET', flow},
  {'PEXPIRE', newest, '1'}, {'DEL', flow, newest, lease},
  {'EXISTS', flow}, {'ZADD', due, 'XX', '0', '-'}, {'ZREM', due, '-'}, {'ZCARD', due}, {'ZSCORE', due, '-'}, {'ZCOUNT', due, '0', '0'},
  {'ZRANGE', due, '0', '0'}, {'ZRANGEBYSCORE', due, '0', '0', 'LIMIT', '0', '1'},
}) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    return redis.error_reply(answer.err .. ' (' .. command[1] .. ')')
  end
end
return redis.status_reply('OK')
