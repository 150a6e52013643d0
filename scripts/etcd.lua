-- wrk's requests to etcd's JSON gateway, for scripts/bench cluster.
--
--   ETCD_PORTS=P1,P2,... VALUE_BYTES=100 KEYS=100000 wrk -t THREADS ... -s etcd.lua URL -- put|range
--
-- Thread n asks the port n % ports. Keys are key:%012d of 0..KEYS-1, at random, as load.c has them, and range is
-- linearizable, which is its default. A request is made when its key comes up first, and kept. The last line is
--
--   etcd requests, microseconds, p50 and p99 latency in microseconds, bad answers, lost or late requests

local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local threads = 0

function setup(thread)
    local ports = {}
    for port in os.getenv("ETCD_PORTS"):gmatch("%d+") do
        table.insert(ports, port)
    end
    thread.addr = wrk.lookup("127.0.0.1", ports[threads % #ports + 1])[1]
    threads = threads + 1
    thread:set("seed", threads)
end

local function base64(text)
    local out = {}
    for at = 1, #text, 3 do
        local a, b, c = text:byte(at, at + 2)
        local bits = a * 65536 + (b or 0) * 256 + (c or 0)
        for n, power in ipairs({ 262144, 4096, 64, 1 }) do
            local index = math.floor(bits / power) % 64 + 1
            local is_there = n < 3 or n == 3 and b or n == 4 and c
            table.insert(out, is_there and letters:sub(index, index) or "=")
        end
    end
    return table.concat(out)
end

function init(args)
    math.randomseed(seed)
    keys = tonumber(os.getenv("KEYS"))
    made = {}
    path = "/v3/kv/" .. args[1]
    rest = '"}'
    if args[1] == "put" then
        rest = '","value":"' .. base64(("v"):rep(tonumber(os.getenv("VALUE_BYTES")))) .. '"}'
    end
end

function request()
    local key = math.random(0, keys - 1)
    if not made[key] then
        made[key] = wrk.format("POST", path, nil, '{"key":"' .. base64(("key:%012d"):format(key)) .. rest)
    end
    return made[key]
end

function done(summary, latency)
    local errors = summary.errors
    print(("\netcd %d %d %d %d %d %d"):format(summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
