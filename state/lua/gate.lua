-- The gate, as in gate.go. Times are Unix ms.

-- readGate returns the gate as it is now, or nil.
local function readGate()
  local opens, next, passed, allowed, before, window =
    (redis.call('GET', prefix .. 'gate') or ''):match('^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not opens then return nil end
  local g = {
    opens = tonumber(opens), next = tonumber(next), passed = tonumber(passed),
    allowed = tonumber(allowed), before = tonumber(before), window = tonumber(window),
  }
  if math.max(g.opens, g.next) > now + maxClosed then g.opens, g.next = now, now end -- the clock stepped back
  local windows = math.floor((now - g.opens) / slackWindow)
  if windows > 0 then -- a window without a refusal
    if g.allowed > 0 then g.allowed = math.max(g.allowed, g.passed) end
    g.opens, g.next, g.passed = g.opens + windows * slackWindow, 0, 0
    g.window = slackWindow
  end
  return g
end

local function writeGate(g, ...)
  local text = string.format('%.0f %.0f %.0f %.0f %.0f %.0f', g.opens, g.next, g.passed, g.allowed, g.before, g.window)
  redis.call('SET', prefix .. 'gate', text, ...)
end

-- allows returns how many exchanges Slack allows a window.
local function allows(g) return g.allowed > 0 and g.allowed or g.before end

-- closeGate closes the gate for ms, after Slack refused an exchange. g may be nil.
local function closeGate(g, ms)
  local ends = now + math.min(ms, maxClosed)
  if not g then
    g = {opens = 0, passed = 0, allowed = 0, before = slackAllows, window = slackWindow}
  elseif g.opens <= now then -- the first refusal of this window
    g.before, g.allowed, g.passed = allows(g), math.max(0, g.passed - 1), 0
    g.window = math.min(ends - g.opens, slackWindow)
  else -- of an exchange that was under way
    g.allowed = math.max(0, g.allowed - 1)
    g.window = math.min(g.window + math.max(0, ends - g.opens), slackWindow)
  end
  g.opens = math.max(g.opens, ends)
  g.next = g.opens
  writeGate(g, 'PX', gateLife)
end

-- pass counts an exchange that may begin, because next is not after now.
local function pass(g)
  g.passed = g.passed + 1
  if g.passed >= allows(g) then g.next = now + probePause end
  writeGate(g, 'KEEPTTL')
end

-- turn returns a place, and the estimated wait (ms). g may be nil.
local function turn(g, place)
  if not g then return place, 0 end
  local free, wait = allows(g), math.max(0, g.opens - now)
  if wait == 0 then free = math.max(0, free - g.passed) end
  if place > free then wait = wait + math.ceil((place - free) / allows(g)) * g.window end
  return place, wait
end

-- placeOf returns the place in Turns of the row with a number: not all numbers wait.
local function placeOf(number)
  return redis.call('ZCOUNT', turns, '-inf', string.format('(%.0f', number)) + 1
end
