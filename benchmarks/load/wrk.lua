-- Whole requests from files: head, eight hexadecimal digits, tail. With `fresh` the digits count up, so that no two
-- requests carry the same bytes; with `repeated` each photo keeps its own.

wrong = 0 -- answers of status 200 whose body has no length that the server may send; global, for thread:get

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

function init(args)
  local folder = args[1]
  num_photos, number, repeated = tonumber(args[2]), tonumber(args[3]), args[4] == "repeated"
  least, most = tonumber(args[5]), tonumber(args[6])
  heads, tails = {}, {}
  for i = 1, num_photos do
    heads[i] = read(string.format("%s/%05d.head", folder, i - 1))
    tails[i] = read(string.format("%s/%05d.tail", folder, i - 1))
  end
end

function request()
  local i = number % num_photos + 1
  number = number + 1
  return heads[i] .. string.format("%08x", repeated and i or number) .. tails[i]
end

function response(status, _, body)
  if status == 200 and (#body < least or #body > most) then
    wrong = wrong + 1
  end
end

function done(summary, latency)
  local wrongs = 0
  for _, thread in ipairs(threads) do
    wrongs = wrongs + thread:get("wrong")
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "wrong": %d, "status": %d, "lost": %d, "p50_us": %.1f, "p99_us": %.1f}\n',
    summary.requests, summary.duration, wrongs, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
