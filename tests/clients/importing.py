"""`marline import`: what a real redis-server saved, in a node."""

import random
import shutil
import time

from harness import check, connect, contains, eventually, equal, run, scenario
from server import STAND_IN, Connection, Server, marline_binary

SUMMARY = "imported: {}, expired: {}, existing: {}, refused: 0, skipped: {}\n"


def importing(server, dump, *options, **more):
    return run(marline_binary(), "import", "-p", server.port, *options, dump, **more)


def fill_strings(redis, now_ms):
    """Strings in every way that Redis saves them."""
    chance = random.Random(1)
    strings = {b"empty": b"", b"": b"no name", b"text": b"hello", b"binary \0\r\n\xff": bytes(range(256)),
               b"packed": b"abcdefgh" * 20_000, b"zeros": bytes(1_000_000), b"noise": chance.randbytes(70_000),
               b"12345": b"a number as a name", b"k" * 100: b"x" * 100}
    for bits in (7, 8, 15, 16, 31, 32, 63):
        for number in (2**bits - 1, 2**bits, -2**bits, -2**bits - 1):
            strings[b"int%d" % number] = b"%d" % number
    for number in range(5000):
        strings[b"key:%d" % number] = b"value %d " % number * (number % 12)
    for name, value in strings.items():
        equal(redis.ask("SET", name, value), "OK")
    for at, name in enumerate(strings):
        if at % 3 == 0:
            equal(redis.ask("PEXPIREAT", name, now_ms + 3_600_000 + at * 1001), 1)
    equal(redis.ask("PFADD", "visitors", *range(1000)), 1)
    strings[b"visitors"] = redis.ask("GET", "visitors")
    return strings


def fill_others(redis):
    """Keys of the other types, small and large, which Redis saves in different ways. Gives their lines in
    the summary."""
    many = [f"{number:0100d}" for number in range(1000)]
    for command in (["RPUSH", "list", 1, "b", "x" * 50], ["RPUSH", "long list", *many, "y" * 20_000],
                    ["SADD", "ints", 1, 2, 300_000], ["SADD", "set", "a", "b"], ["SADD", "large set", *many],
                    ["HSET", "hash", "field", "value"], ["HSET", "large hash", *many],
                    ["ZADD", "zset", 1.5, "a", "-inf", "b"],
                    ["ZADD", "large zset", *(part for member in many for part in ("0.1", member))]):
        redis.ask(*command)
    for number in range(500):
        redis.ask("XADD", "stream", f"{number + 1}-0", "field", "value " * 20)
    redis.ask("XGROUP", "CREATE", "stream", "group", "0")
    redis.ask("XREADGROUP", "GROUP", "group", "consumer", "COUNT", 10, "STREAMS", "stream", ">")
    redis.ask("XDEL", "stream", "5-0")
    redis.ask("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('f', function() return 1 end)")
    redis.ask("SELECT", 3)
    redis.ask("SET", "text", "of another database")
    redis.ask("RPUSH", "list", "of another database")
    redis.ask("SELECT", 0)
    return ("skipped 2: hash\nskipped 2: key of database 3\nskipped 1: library of functions\n"
            "skipped 2: list\nskipped 3: set\nskipped 1: stream\nskipped 2: zset\n")


def same_strings(server, redis, strings):
    with connect(server) as marline:
        equal(marline.ask("DBSIZE"), len(strings), "keys")
        for name, value in strings.items():
            equal(marline.ask("GET", name), value, f"value of {name!r}")
            equal(marline.ask("PEXPIRETIME", name), redis.ask("PEXPIRETIME", name), f"expiry of {name!r}")


@scenario(only_marline=True)
def import_of_a_redis_dump(server):
    """A dump by redis-server, packed or not, with and without the hints of its eviction: every string is
    there with its expiry, every key of another type is left out and counted."""
    with Server(STAND_IN) as source, Connection(source.port) as redis:
        now_ms = int(time.time() * 1000)
        strings = fill_strings(redis, now_ms)
        skipped = fill_others(redis)
        for settings in ({}, {"rdbcompression": "no", "maxmemory-policy": "allkeys-lfu"},
                         {"rdbcompression": "yes", "maxmemory-policy": "allkeys-lru"}):
            for name, value in settings.items():
                equal(redis.ask("CONFIG", "SET", name, value), "OK")
            equal(redis.ask("SAVE"), "OK")
            with connect(server) as marline:
                equal(marline.ask("FLUSHALL"), "OK")
            said = importing(server, f"{source.home}/dump.rdb")
            equal(said, skipped + SUMMARY.format(len(strings), 0, 0, 13), "summary")
            same_strings(server, redis, strings)


@scenario(only_marline=True)
def import_of_expired_and_existing_keys(server):
    """What expired since the dump was made is left out; what exists is overwritten, unless asked not to."""
    with Server(STAND_IN) as source, Connection(source.port) as redis, connect(server) as marline:
        for name in ("a", "b"):
            equal(redis.ask("SET", name, "of the dump"), "OK")
        equal(redis.ask("SET", "short", "x", "PX", 500), "OK")
        equal(redis.ask("SAVE"), "OK")
        eventually(lambda: redis.ask("EXISTS", "short") == 0, "the key does not expire")
        dump = f"{source.home}/dump.rdb"
        equal(marline.ask("SET", "a", "own"), "OK")
        equal(importing(server, dump, "--no-overwrite"), SUMMARY.format(1, 1, 1, 0))
        equal(marline.ask("MGET", "a", "b", "short"), [b"own", b"of the dump", None])
        equal(importing(server, dump), SUMMARY.format(2, 1, 0, 0))
        equal(marline.ask("MGET", "a", "b", "short"), [b"of the dump", b"of the dump", None])


@scenario(only_marline=True)
def import_of_a_damaged_dump(server):
    """A dump that was cut or changed is refused whole: its place is told and no key is set."""
    with Server(STAND_IN) as source, Connection(source.port) as redis, connect(server) as marline:
        for number in range(2000):
            redis.ask("SET", f"key:{number}", f"value {number}")
        equal(redis.ask("SAVE"), "OK")
        with open(f"{source.home}/dump.rdb", "rb") as file:
            whole = file.read()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        for content in (whole[:-100], bytes(changed), whole + b"*1"):
            damaged = f"{server.home}/damaged.rdb"
            with open(damaged, "wb") as file:
                file.write(content)
            equal(importing(server, damaged, fails=True), "", "output")
            equal(marline.ask("DBSIZE"), 0, "keys")
        shutil.copy(f"{source.home}/dump.rdb", damaged)
        contains(importing(server, damaged), "imported: 2000,")
        check(marline.ask("GET", "key:1999") == b"value 1999", "the whole dump is imported")
