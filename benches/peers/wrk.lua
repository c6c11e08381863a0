-- Asks for what a file lists: a target on each line, and after a tab an entity tag for `If-None-Match`. Says in one line
-- what came of it: requests, microseconds, bytes, failures, and the 50th and 99th percentile of the latencies.
local requests, at = {}, 0

function init(arguments)
  -- Caches tell hosts apart: all that ask ask for the same one.
  wrk.headers["Host"] = "localhost"
  for line in io.lines(arguments[1]) do
    local target, tag = line:match("^(%S+)\t?(.*)$")
    wrk.headers["If-None-Match"] = tag ~= "" and tag or nil
    requests[#requests + 1] = wrk.format("GET", target)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  local failures = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("figures %d %d %d %d %d %d\n", summary.requests, summary.duration, summary.bytes, failures,
    latency:percentile(50), latency:percentile(99)))
end
