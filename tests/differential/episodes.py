"""An epoch: steps that take two servers from empty to a full keyspace, all from one seed.

A step is plain data, so that a failing epoch can be replayed with any part of it left out:
  Batch(connection, [Command(inline, args) ...])   sent at once, answered in lock-step
  Sleep(seconds)                                   both servers' clocks pass the short expiries
  Scan(options)                                    a full SCAN of each, compared as sets
  Garbage(bytes)                                   a connection of its own, compared until it closes
"""

import random
from typing import NamedTuple

from commands import KEYS, Commands, past_expiry_touch

BATCH = 50
EPOCH_STEPS = 40
SHORT_SLEEP = 0.08

# Answers to these have no fixed order or value; inside EXEC they could not be judged one by one.
NOT_IN_MULTI = {b"KEYS", b"RANDOMKEY", b"INFO", b"TIME", b"MEMORY", b"CLIENT", b"COMMAND", b"OBJECT", b"HELLO",
                b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME", b"RESET"}


class Command(NamedTuple):
    inline: bool
    args: tuple


class Batch(NamedTuple):
    connection: str
    commands: list


class Sleep(NamedTuple):
    seconds: float


class Scan(NamedTuple):
    options: tuple


class Garbage(NamedTuple):
    data: bytes


class Epoch:
    """Makes the steps of epoch `number` of `seed`."""

    def __init__(self, seed, number):
        self.r = random.Random(f"{seed}:{number}")
        self.source = Commands(self.r)

    def steps(self):
        kinds = [(60, self.plain), (12, self.transactions), (8, self.watched), (6, self.pubsub), (5, self.events),
                 (4, self.short_lived), (4, self.scan), (5, self.garbage)]
        weights = [weight for weight, _ in kinds]
        steps = []
        for _ in range(EPOCH_STEPS):
            steps += self.r.choices([maker for _, maker in kinds], weights)[0]()
        return steps

    def command(self, *args):
        return Command(self.r.random() < 0.25, tuple(a if isinstance(a, bytes) else str(a).encode() for a in args))

    def some(self, count, fits=lambda args: True):
        """About `count` commands."""
        made = []
        while len(made) < count:
            args = self.source.one()
            if not fits(args):
                continue
            made.append(self.command(*args))
            touched = past_expiry_touch(args)
            if touched is not None:
                made.append(self.command(b"EXISTS", touched))
        return made

    def plain(self):
        return [Batch("a", self.some(BATCH))]

    def queueable(self, args):
        return args[0].upper() not in NOT_IN_MULTI

    def transactions(self):
        r, commands = self.r, []
        while len(commands) < BATCH:
            commands += self.some(r.randrange(0, 4))
            commands.append(self.command(r.choice((b"MULTI", b"multi"))))
            commands += self.some(r.randrange(0, 8), self.queueable)
            if r.random() < 0.1:
                commands.append(self.command(*r.choice(((b"MULTI",), (b"WATCH", b"k1"), (b"MULTI", b"x"), (b"WATCH",)))))
            commands.append(self.command(r.choice((b"EXEC", b"EXEC", b"EXEC", b"exec", b"DISCARD"))))
        return [Batch("a", commands)]

    def watched(self):
        r = self.r
        keys = [self.source.key() for _ in range(r.choice((1, 1, 2, 3)))]
        mine = [self.command(b"WATCH", *keys)] + self.some(r.randrange(0, 4), self.queueable)
        if r.random() < 0.1:
            mine.append(self.command(b"UNWATCH"))
        theirs = self.some(r.randrange(0, 4))
        if r.random() < 0.5:
            theirs.append(self.command(*r.choice(((b"SET", keys[0], b"x"), (b"DEL", keys[0]), (b"APPEND", keys[0], b""),
                                                  (b"EXPIRE", keys[0], b"5000"), (b"PERSIST", keys[0]),
                                                  (b"SETBIT", keys[0], b"3", b"0"), (b"FLUSHALL",), (b"GET", keys[0]),
                                                  (b"RENAME", keys[0], b"k9"), (b"SETRANGE", keys[0], b"0", b"")))))
        rest = [self.command(b"MULTI")] + self.some(r.randrange(0, 5), self.queueable) + [self.command(b"EXEC")]
        return [Batch("a", mine), Batch("b", theirs), Batch("a", rest)]

    def pubsub(self):
        r = self.r
        # One pattern only: Redis hands a message to several matching patterns in no fixed order.
        pattern = r.choice((b"c*", b"c?", b"[cd]1"))
        protocol = self.command(b"HELLO", r.choice((b"2", b"3")))
        start = [self.command(*args) for args in r.sample((
            (b"SUBSCRIBE", b"c1"), (b"SUBSCRIBE", b"c2"), (b"SUBSCRIBE", b"c1", b"c1"), (b"PSUBSCRIBE", pattern),
            (b"PSUBSCRIBE", pattern, pattern), (b"PING",), (b"PING", b"x"), (b"GET", b"k1"),
            (b"SUBSCRIBE",), (b"UNSUBSCRIBE", b"never"), (b"MULTI",), (b"NOSUCH",), (b"SET", b"k1")), r.randrange(2, 9))]
        sent = [self.command(b"PUBLISH", r.choice((b"c1", b"c2", b"d1", b"other")), self.source.value())
                for _ in range(r.randrange(1, 10))]
        sent += [self.command(*args) for args in (
            (b"PUBSUB", b"NUMSUB", b"c1", b"c2", b"none"), (b"PUBSUB", b"NUMPAT"), (b"PUBSUB", b"CHANNELS", b"c1"),
            (b"PUBSUB", b"CHANNELS", b"none*"), (b"PUBSUB", b"NOSUCH"), (b"PUBSUB", b"NUMSUB"))]
        end = [self.command(*args) for args in (
            (b"UNSUBSCRIBE", b"c2"), (b"UNSUBSCRIBE", b"c2"), (b"PUNSUBSCRIBE", b"nothing*", pattern),
            (b"UNSUBSCRIBE",), (b"PUNSUBSCRIBE",), (b"GET", b"k1"), (b"RESET",), (b"GET", b"k1"))]
        return [Batch("s", [protocol]), Batch("s", start), Batch("b", sent), Batch("s", end)]

    def events(self):
        """Keyspace notifications of a plain batch, as a subscriber sees them."""
        on = [self.command(b"CONFIG", b"SET", b"notify-keyspace-events", b"KEA")]
        off = [self.command(b"CONFIG", b"SET", b"notify-keyspace-events", b"")]
        return [Batch("b", on), Batch("e", [self.command(b"PSUBSCRIBE", b"__key*__:*")]),
                Batch("a", self.some(BATCH)), Batch("e", [self.command(b"PING")]),
                Batch("e", [self.command(b"PUNSUBSCRIBE")]), Batch("b", off)]

    def short_lived(self):
        r = self.r
        keys = r.sample(KEYS, r.randrange(1, 8))
        short = []
        for key in keys:
            life = r.randrange(1, 20)
            short += [self.command(*args) for args in r.choice((
                ((b"SET", key, self.source.value(), b"PX", life),), ((b"PSETEX", key, life, b"x"),),
                ((b"SET", key, b"1"), (b"PEXPIRE", key, life)), ((b"SET", key, b"1"), (b"GETEX", key, b"PX", life)),
                ((b"SETRANGE", key, b"0", b"x"), (b"PEXPIRE", key, life))))]
        after = [self.command(r.choice((b"GET", b"EXISTS", b"TYPE", b"TTL", b"INCR", b"STRLEN", b"PERSIST", b"GETDEL")), key)
                 for key in keys]
        # A wrong type may stop INCR from looking; what counts is that every key is looked at.
        return [Batch("a", self.some(10) + short), Sleep(SHORT_SLEEP), Batch("a", after + self.some(10))]

    def scan(self):
        r = self.r
        options = r.choice(((), (b"COUNT", b"1"), (b"COUNT", b"1000"), (b"MATCH", b"k*"), (b"MATCH", b"k?"),
                            (b"MATCH", b"*[0-4]", b"COUNT", b"3"), (b"TYPE", b"string"), (b"TYPE", b"list"),
                            (b"MATCH", b"", b"COUNT", b"5"), (b"MATCH", b"k1", b"TYPE", b"STRING")))
        return [Scan(options)]

    def garbage(self):
        r = self.r
        pieces = (b"PING\r\n", b"PING\n", b"\r\n", b"\n", b"*1\r\n$4\r\nPING\r\n", b"*0\r\n", b"*-1\r\n", b"*-7\r\n",
                  b"*x\r\n", b"*\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$x\r\n", b"*1\r\n:4\r\n", b"*1\r\nPING\r\n",
                  b"*1\r\n$536870913\r\n", b"*99999999999\r\n", b'GET "a\r\n', b"GET 'a' 'b\r\n", b'GET "a"b\r\n',
                  b"GET \"\\x4\"\r\n", b"get 'it\\'s'\r\n", b"  PING  \r\n", b"\tPING\r\n", b"PING\r\r\n", b"ECHO \"\\n\"\r\n",
                  b"ECHO a\0b\r\n", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", b"*1\r\n$4\r\nPINGxxPING\r\n", b"QUIT\r\n",
                  b"*1\n$4\nPING\n", b"POST /\r\n", b"Host: x\r\n", b"ECHO ''\r\n", b"$4\r\n", b"+OK\r\n", b":1\r\n")
        return [Garbage(b"".join(r.choice(pieces) for _ in range(r.randrange(1, 7))))]
