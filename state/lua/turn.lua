-- Finds a row's turn.
--
--   ARGV  the row's number
--   returns {place, wait (ms)}; place is 0 if it does not wait

if redis.call('ZCOUNT', turns, ARGV[1], ARGV[1]) == 0 then return {0, 0} end
return {turn(readGate(), placeOf(tonumber(ARGV[1])))}
