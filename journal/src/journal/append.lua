-- Appends events to one aggregate, all or none, if it has the expected version.
--
-- KEYS: the events of all aggregates, the events of the aggregate, the versions of all aggregates.
-- ARGV: id, expected version, id of the append, most events of an aggregate, then the events.
-- The answer is a list: what happened, the version of the aggregate, and the position of the last
-- event of the append (or, of a damaged aggregate, the version that was found).
--
-- Everything is checked before the first write, because Redis does not undo a script that fails.

local id, expected, append, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local count = #ARGV - 4

-- The usual conversion of large numbers loses digits.
local function text(number) return string.format('%.0f', number) end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
  return ''
end

-- A key of another type is an error here, before anything is written.
redis.call('XLEN', KEYS[1])
local listed = tonumber(redis.call('HGET', KEYS[3], id) or '0') or -1
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local stored = newest and tonumber(string.match(newest[1], '^%d+')) or 0
if listed ~= stored then return {'damaged', text(listed), text(stored)} end

if stored > expected then
  -- The version of each event is the id of its entry, so a repetition is found by one look-up.
  local version, position = 0, ''
  local from = text(expected + 1) .. '-0'
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', count)) do
    if field(entry, 'append') ~= append then break end
    version, position = tonumber(string.match(entry[1], '^%d+')), field(entry, 'position')
  end
  if version > 0 then
    -- A write that changes nothing: a caller that waits for replicas then waits for this as well.
    redis.call('HSET', KEYS[3], id, text(stored))
    return {'repeated', text(version), position}
  end
end
-- An absent aggregate has version 0; its absence skips no check.
if stored ~= expected then return {'conflict', text(stored), ''} end
if stored + count > most then return {'too-long', text(stored), ''} end

local version, position, previous = stored, '', newest and field(newest, 'append') or ''
for i = 5, #ARGV do
  version = version + 1
  position = redis.call('XADD', KEYS[1], '*', 'id', id, 'version', text(version),
    'append', append, 'previous', previous, 'event', ARGV[i])
  redis.call('XADD', KEYS[2], text(version) .. '-0',
    'append', append, 'position', position, 'event', ARGV[i])
  previous = append
end
redis.call('HSET', KEYS[3], id, text(version))
return {'appended', text(version), position}
