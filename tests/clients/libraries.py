"""Client libraries as their users call them: redis-py here, ioredis and node-redis in node/."""

import threading
import time

import redis

from harness import HERE, check, equal, run, scenario

PROTOCOLS = (2, 3)


def clients(server, **more):
    """One redis-py client for RESP2, then one for RESP3, on an emptied keyspace."""
    for protocol in PROTOCOLS:
        client = redis.Redis(port=server.port, protocol=protocol, socket_timeout=20, **more)
        client.flushall()
        yield client
        client.close()


def text(answer):
    """redis-py gives some names as str and some as bytes, by protocol."""
    return answer.decode() if isinstance(answer, bytes) else answer


@scenario()
def redis_py_strings(server):
    """redis-py, RESP2 and RESP3: strings, counters, ranges, expiry options, MGET and MSET."""
    for r in clients(server):
        equal(r.set("k", "v"), True)
        equal(r.get("k"), b"v")
        equal(r.get("none"), None)
        equal(r.set("k", "w", nx=True), None)
        equal(r.set("k", "w", xx=True, get=True), b"v")
        equal(r.incrby("n", 5), 5)
        equal(r.incrbyfloat("f", 0.1), 0.1)
        equal(r.append("k", "xyz"), 4)
        equal(r.getrange("k", 1, 2), b"xy")
        equal(r.setrange("k", 6, "!"), 7)
        equal(r.get("k"), b"wxyz\0\0!")
        equal(r.mset({"a": 1, "b": 2}), True)
        equal(r.mget("a", "none", "b"), [b"1", None, b"2"])
        equal(r.set("t", "x", ex=100), True)
        check(95 <= r.ttl("t") <= 100, "TTL")
        equal(r.getex("t", persist=True), b"x")
        equal(r.ttl("t"), -1)
        equal(r.getdel("t"), b"x")
        equal(r.exists("a", "b", "t"), 2)
        equal(r.lcs("a", "b"), b"")
        equal(r.type("a"), b"string")
        equal(r.delete("a", "b"), 2)
        equal(r.set("bytes", bytes(range(256))), True)
        equal(r.get("bytes"), bytes(range(256)))


@scenario()
def redis_py_bits(server):
    """redis-py: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP and the BITFIELD builder."""
    for r in clients(server):
        equal(r.setbit("b", 7, 1), 0)
        equal(r.getbit("b", 7), 1)
        equal(r.bitcount("b"), 1)
        equal(r.bitpos("b", 1), 7)
        equal(r.bitop("NOT", "inverse", "b"), 1)
        equal(r.get("inverse"), b"\xfe")
        field = r.bitfield("counters", default_overflow="SAT")
        equal(field.set("u8", 0, 250).incrby("u8", 0, 10).get("u4", 0).execute(), [0, 255, 15])


@scenario()
def redis_py_pipelines(server):
    """redis-py: a plain pipeline of 10,000 commands, and a MULTI one with an error among them."""
    for r in clients(server):
        pipe = r.pipeline(transaction=False)
        for number in range(5000):
            pipe.set(f"k{number}", number)
            pipe.get(f"k{number}")
        equal(pipe.execute(), [x for n in range(5000) for x in (True, str(n).encode())])
        pipe = r.pipeline(transaction=True)
        pipe.set("word", "x").incr("word").incr("n")
        answers = pipe.execute(raise_on_error=False)
        equal([answers[0], answers[2]], [True, 1])
        check(isinstance(answers[1], redis.ResponseError), answers)


@scenario()
def redis_py_watch(server):
    """redis-py: optimistic transactions. Four threads add 100 each through WATCH, none is lost."""
    for r in clients(server):
        r.set("sum", 0)

        def add(amount):
            def body(pipe):
                value = int(pipe.get("sum"))
                pipe.multi()
                pipe.set("sum", value + 1)
            for _ in range(amount):
                r.transaction(body, "sum")
        threads = [threading.Thread(target=add, args=(100,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(r.get("sum"), b"400")
        with r.pipeline() as pipe:
            pipe.watch("sum")
            r.set("sum", "changed")
            pipe.multi()
            pipe.set("sum", "lost")
            try:
                pipe.execute()
                raise AssertionError("EXEC went through although the key changed")
            except redis.WatchError:
                pass
        equal(r.get("sum"), b"changed")


@scenario()
def redis_py_pubsub(server):
    """redis-py: SUBSCRIBE, PSUBSCRIBE, messages in order, PUBSUB, unsubscribe."""
    for r in clients(server):
        p = r.pubsub()
        p.subscribe("news")
        p.psubscribe("n*")
        equal([p.get_message(timeout=5)["type"] for _ in range(2)], ["subscribe", "psubscribe"])
        equal(r.pubsub_channels(), [b"news"])
        equal(r.pubsub_numsub("news", "none"), [(b"news", 1), (b"none", 0)])
        equal(r.pubsub_numpat(), 1)
        for number in range(1000):
            equal(r.publish("news", number), 2)
        got = []
        while len(got) < 2000:
            message = p.get_message(timeout=5)
            check(message, f"only {len(got)} messages came")
            got.append((message["type"], int(message["data"])))
        equal([n for kind, n in got if kind == "message"], list(range(1000)))
        equal([n for kind, n in got if kind == "pmessage"], list(range(1000)))
        p.unsubscribe()
        p.punsubscribe()
        equal([p.get_message(timeout=5)["type"] for _ in range(2)], ["unsubscribe", "punsubscribe"])
        equal(r.publish("news", "nobody"), 0)
        p.close()


@scenario()
def redis_py_scan(server):
    """redis-py: scan_iter finds every key once while other keys come and go, with MATCH too."""
    for r in clients(server):
        r.mset({f"key:{n}": n for n in range(5000)})
        found = []
        for number, key in enumerate(r.scan_iter(count=50)):
            found.append(key)
            if number % 10 == 0:
                r.set(f"other:{number}", "x")
                r.delete(f"other:{number - 50}")
        ours = [key for key in found if key.startswith(b"key:")]
        equal(set(ours), {b"key:%d" % n for n in range(5000)})
        equal(len(list(r.scan_iter(match="key:12??"))), 100)
        equal(r.dbsize(), len(r.keys("*")))


@scenario()
def redis_py_client_commands(server):
    """redis-py: client name, id, list and info, and KILL by id."""
    for r in clients(server, client_name="lookout"):
        equal(text(r.client_getname()), "lookout")
        with redis.Redis(port=server.port, protocol=2, single_connection_client=True) as other:
            ident = other.client_id()
            check(ident > 0, "id")
            names = [c["name"] for c in r.client_list()]
            check("lookout" in names, names)
            equal(r.client_info()["name"], "lookout")
            equal(r.client_kill_filter(_id=ident), 1)


@scenario()
def redis_py_client_pause(server):
    """CLIENT PAUSE holds others back for its time, in WRITE mode only writers, and UNPAUSE ends it."""
    for r in clients(server):
        other = redis.Redis(port=server.port, protocol=2, socket_timeout=20)
        other.set("k", "before")
        r.client_pause(600, all=False)
        start = time.monotonic()
        equal(other.get("k"), b"before")
        check(time.monotonic() - start < 0.3, "a read waited although only writes are paused")
        other.set("k", "after")
        check(0.4 < time.monotonic() - start < 3, "a write did not wait for the pause")
        r.client_pause(400)
        start = time.monotonic()
        equal(other.get("k"), b"after")
        check(0.3 < time.monotonic() - start < 3, "a read did not wait although everything is paused")
        r.client_pause(20_000, all=False)
        r.client_unpause()
        start = time.monotonic()
        other.set("k", "again")
        check(time.monotonic() - start < 1, "UNPAUSE did not end the pause")
        other.close()


@scenario()
def redis_py_server_commands(server):
    """redis-py: INFO, CONFIG, TIME, COMMAND, OBJECT, MEMORY USAGE, SLOWLOG, LATENCY and DBSIZE."""
    for r in clients(server):
        info = r.info()
        check(info["redis_version"].startswith("7."), info["redis_version"])
        equal(info["loading"], 0)
        equal(info["role"], "master")
        equal(r.config_get("maxmemory"), {"maxmemory": "0"})
        seconds, micros = r.time()
        check(abs(seconds - time.time()) < 2 and 0 <= micros < 1_000_000, "TIME")
        check(r.command_count() > 60, "COMMAND COUNT")
        check("get" in {name.lower() for name in map(str, r.command())}, "COMMAND")
        equal([text(key) for key in r.command_getkeys("MSET", "a", 1, "b", 2)], ["a", "b"])
        r.set("k", "12345")
        equal(r.object("encoding", "k"), b"int")
        check(r.memory_usage("k") > 0, "MEMORY USAGE")
        check(isinstance(r.slowlog_get(), list), "SLOWLOG GET")
        check(isinstance(r.slowlog_len(), int), "SLOWLOG LEN")
        equal(r.config_resetstat(), True)
        equal(r.echo("x"), b"x")
        equal(r.wait(0, 10), 0)


@scenario()
def redis_py_many_threads(server):
    """Twenty threads with a connection each increment one counter 500 times: the sum is exact."""
    for r in clients(server):
        threads = [threading.Thread(target=lambda: [r.incr("n") for _ in range(500)]) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(r.get("n"), b"10000")


def node(server, script, part):
    run("node", HERE / "node" / script, server.port, part, timeout=60)


@scenario()
def ioredis_commands(server):
    """ioredis (hello 3, then INFO until loading:0): strings, buffers, counters, errors."""
    node(server, "ioredis.mjs", "commands")


@scenario()
def ioredis_pipelines(server):
    """ioredis: pipeline, auto-pipelining and multi."""
    node(server, "ioredis.mjs", "pipelines")


@scenario()
def ioredis_subscribe(server):
    """ioredis: subscribe and psubscribe, messages in order."""
    node(server, "ioredis.mjs", "subscribe")


@scenario()
def ioredis_scan(server):
    """ioredis: scanStream finds every key."""
    node(server, "ioredis.mjs", "scan")


@scenario()
def node_redis_commands(server):
    """node-redis, RESP2 and RESP3: strings, buffers, counters, errors."""
    node(server, "node-redis.mjs", "commands")


@scenario()
def node_redis_pipelines(server):
    """node-redis: automatic pipelining, multi, watch."""
    node(server, "node-redis.mjs", "pipelines")


@scenario()
def node_redis_subscribe(server):
    """node-redis: subscribe and pSubscribe, messages in order."""
    node(server, "node-redis.mjs", "subscribe")


@scenario()
def node_redis_scan(server):
    """node-redis: scanIterator finds every key."""
    node(server, "node-redis.mjs", "scan")
