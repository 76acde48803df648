-- wrk's script. Arguments: the method, and for POST the number of bytes in the body.
-- Prints one line of JSON: requests, seconds, errors, and latencies in milliseconds.

function init(arguments)
   wrk.method = arguments[1]
   if wrk.method == "POST" then
      -- An item is small by its rules, so the rest is white space, which JSON allows.
      local start, stop = '{"name": "Tea", "price": 2.5', "}"
      wrk.headers["Content-Type"] = "application/json"
      wrk.body = start .. string.rep(" ", tonumber(arguments[2]) - #start - #stop) .. stop
   end
end

function done(summary, latency)
   local errors = 0
   for _, count in pairs(summary.errors) do errors = errors + count end
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "errors": %d, "p50": %f, "p99": %f, "p99.9": %f}\n',
      summary.requests, summary.duration / 1e6, errors, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
