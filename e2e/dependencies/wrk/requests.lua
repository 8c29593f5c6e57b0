-- Sends the requests of a file, in order, and prints one line of JSON at the end.
--
--   wrk --threads 1 --connections 64 --duration 3s --script requests.lua URL -- FILE once|again [FIRST]
--
-- FILE has requests in their wire form, each after its length and a line feed. `once`: each is sent once, and the run ends
-- with the list; `again`: the list is repeated. FIRST is the index of the first request, from 1.
--
-- Requests are strings in a table before the first is sent, so that sending one costs as little as possible.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long sec; long nsec; } confcast_time;
  int clock_gettime(int clock, confcast_time *time);
]]
local MONOTONIC = 1

local function seconds()
  local time = ffi.new("confcast_time")
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.sec) + tonumber(time.nsec) / 1e9
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

local requests, place, again, looked = {}, 0, false, false

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  while true do
    local length = file:read("*n")
    if not length then break end
    file:read(1)
    requests[#requests + 1] = assert(file:read(length))
  end
  file:close()
  again = arguments[2] == "again"
  place = tonumber(arguments[3] or "1") - 1
  -- The code below allocates no memory.
  collectgarbage()
  collectgarbage("stop")
  prepared = os.clock()
end

function request()
  -- The first call is a test of wrk, which does not send the request: it must not count.
  if not looked then
    looked = true
    return requests[place + 1]
  end
  began = began or seconds()
  place = place + 1
  if place > #requests and again then
    place = 1
  elseif place > #requests then
    -- Requests in flight are no longer answered, and do not count.
    ended = ended or seconds()
    wrk.thread:stop()
    return requests[#requests]
  end
  return requests[place]
end

function done(summary, latency)
  local thread = threads[1]
  local busy = os.clock() - thread:get("prepared")
  local finished, began = thread:get("ended"), thread:get("began")
  local lasted = finished and (finished - began) or summary.duration / 1e6
  local errors = summary.errors
  io.write(string.format(
    '{"answered":%d,"bytes":%d,"seconds":%.6f,"busySeconds":%.6f,"refused":%d,"broken":%d,"p50":%.9f,"p99":%.9f}\n',
    summary.requests, summary.bytes, lasted, busy, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
