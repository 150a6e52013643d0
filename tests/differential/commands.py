"""Random commands, made so that two right servers must agree on every reply.

What would race is not generated: relative times to live are random and far away, so that no two
compare equal by accident; short ones are set last in a batch and looked at only after a sleep
that is long past them. Commands that Redis answers in no fixed order are marked by `judge`.
"""



# Lengths at which a server may change its mind: empty, embedded strings (44), bits, pages.
LENGTHS = (0, 1, 2, 7, 8, 9, 15, 16, 43, 44, 45, 63, 64, 65, 127, 128, 511, 512, 513, 4095, 4096)
INTEGERS = (0, 1, -1, 2, 7, 8, 10, 63, 64, 99, 127, 128, 255, 256, 9999, 10000, 2**31 - 1, 2**31, -2**31, 2**32,
            2**53, 2**62, 2**63 - 1, -2**63, -2**63 + 1)
NOT_INTEGERS = (b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"0x10", b"1.0", b"1e3", b"abc", b"9223372036854775808",
                b"-9223372036854775809", b"99999999999999999999", b"-", b"--1", b"1\0")
FLOATS = (b"0", b"0.1", b"-0.1", b"1.5", b"3.0e3", b"5.0e-3", b"1e17", b"-1e17", b"0.00000000000000001", b"10.50",
          b"123456789.123456789", b"1e-20", b"3.14159265358979323846", b"1e300", b"-1e300", b".5", b"5.", b"1E2", b"-0",
          b"0.30000000000000004", b"1e18", b"9007199254740993")
NOT_FLOATS = (b"abc", b"", b"nan", b"1.0.0", b"1 ", b" 1", b"inf", b"-inf", b"1e", b"0x1p3", b"1e5000")
FAR_SECONDS = 10_000_000
KEYS = [b"k%d" % n for n in range(24)] + [b"n%d" % n for n in range(6)] + [b"{tag}a", b"{tag}b", b"", b"\xff\x00\r\n",
                                                                        b"with space", b"K1"]


class Commands:
    """A source of commands; everything comes from the one random generator."""

    def __init__(self, source):
        self.r = source
        self.kinds = [
            (16, self.set), (8, self.get_like), (6, self.counter), (5, self.range), (4, self.many), (6, self.bits),
            (4, self.bitfield), (7, self.keyspace), (7, self.expire), (5, self.ttl), (3, self.get_changing),
            (2, self.lcs), (3, self.object), (3, self.connection), (3, self.unknown), (4, self.wrong_arity),
            (1, self.flush), (2, self.counting), (1, self.by_type), (1, self.publish),
        ]
        self.weights = [weight for weight, _ in self.kinds]
        self.makers = [maker for _, maker in self.kinds]

    def one(self):
        """One command, sometimes damaged, in a random case of its name."""
        r = self.r
        command = [arg if isinstance(arg, bytes) else str(arg).encode()
                   for arg in r.choices(self.makers, self.weights)[0]()]
        if r.random() < 0.04:
            command = self.damage(command)
        roll = r.random()
        if roll < 0.15:
            command[0] = command[0].lower()
        elif roll < 0.2:
            command[0] = bytes(r.choice((b, b ^ 32)) if 65 <= b <= 90 or 97 <= b <= 122 else b for b in command[0])
        return command

    def damage(self, command):
        """Drop, repeat, swap or replace an argument: mostly invalid, sometimes a surprise."""
        r = self.r
        command = list(command)
        at = r.randrange(1, len(command)) if len(command) > 1 else 0
        kind = r.randrange(4)
        if at == 0 or kind == 0:
            command.append(r.choice((b"x", b"1", b"EX", b"NX", b"")))
        elif kind == 1:
            del command[at]
        elif kind == 2:
            command.insert(at, command[at])
        else:
            command[at] = r.choice(NOT_INTEGERS)
        return command if safe(command) else [b"PING"]

    # Arguments

    def key(self):
        return self.r.choice(KEYS)

    def value(self):
        r = self.r
        roll = r.random()
        if roll < 0.3:
            return str(r.choice(INTEGERS)).encode()
        if roll < 0.36:
            return r.choice(NOT_INTEGERS)
        if roll < 0.44:
            return r.choice(FLOATS)
        if roll < 0.7:
            return r.choice((b"a", b"hello", b"ohmytext", b"mynewtext", b"foobar", b"\xff\xf0\x00"))
        length = r.choice(LENGTHS)
        return r.choice((b"x", b"ab", b"\x00\xff", b"\r\n"))[:1] * length if r.random() < 0.5 else r.randbytes(length)

    def integer(self):
        r = self.r
        roll = r.random()
        if roll < 0.6:
            return r.randrange(-20, 20)
        if roll < 0.9:
            return r.choice(INTEGERS)
        return r.choice(NOT_INTEGERS)

    def offset(self):
        """A position in a string: often inside, sometimes far outside, rarely nonsense."""
        r = self.r
        roll = r.random()
        if roll < 0.75:
            return r.randrange(-20, 60)
        if roll < 0.9:
            return r.choice((0, -1, 511, 512, 4096, -4096, 2**31, -2**31, 2**63 - 1, -2**63))
        return r.choice(NOT_INTEGERS)

    def bit_offset(self):
        r = self.r
        roll = r.random()
        if roll < 0.85:
            return r.randrange(0, 300)
        if roll < 0.93:
            return r.choice((4095, 32768, 2**32, 2**33, -1, 2**63 - 1))
        return r.choice(NOT_INTEGERS)

    def seconds(self):
        return self.r.randrange(1000, FAR_SECONDS)

    def expiry(self):
        """An expiry option of SET and GETEX, far away, past, or invalid."""
        r = self.r
        roll = r.random()
        if roll < 0.3:
            return [b"EX", self.seconds()]
        if roll < 0.5:
            return [b"PX", self.seconds() * 1000 + r.randrange(1000)]
        if roll < 0.65:
            return [b"EXAT", 4_000_000_000 + r.randrange(10**8)]
        if roll < 0.8:
            return [b"PXAT", 4_000_000_000_000 + r.randrange(10**11)]
        return [r.choice((b"EX", b"PX", b"EXAT", b"PXAT")),
                r.choice((b"0", b"-1", b"abc", b"", b"9223372036854775807", b"9223372036854775", b"1.5"))]

    # Kinds of commands

    def set(self):
        r = self.r
        roll = r.random()
        if roll < 0.4:
            return [b"SET", self.key(), self.value()]
        if roll < 0.85:
            options = []
            if r.random() < 0.5:
                options.append(self.expiry())
            if r.random() < 0.2:
                options.append([b"KEEPTTL"])
            if r.random() < 0.4:
                options.append([r.choice((b"NX", b"XX", b"nx", b"xX"))])
            if r.random() < 0.3:
                options.append([b"GET"])
            if r.random() < 0.08:
                options.append([r.choice((b"NX", b"XX", b"PX", b"EX", b"FOO", b"PERSIST"))])
            r.shuffle(options)
            return [b"SET", self.key(), self.value()] + [word for option in options for word in option]
        if roll < 0.9:
            return [b"SETNX", self.key(), self.value()]
        name = r.choice((b"SETEX", b"PSETEX"))
        seconds = self.seconds() * (1000 if name == b"PSETEX" else 1)
        return [name, self.key(), r.choice((seconds, seconds, seconds, 0, -1, b"x", 2**63 - 1)), self.value()]

    def get_like(self):
        return [self.r.choice((b"GET", b"GET", b"GET", b"STRLEN", b"TYPE")), self.key()]

    def get_changing(self):
        r = self.r
        name = r.choice((b"GETSET", b"GETDEL", b"GETEX"))
        if name == b"GETSET":
            return [name, self.key(), self.value()]
        if name == b"GETDEL":
            return [name, self.key()]
        return [name, self.key()] + r.choice(([], [b"PERSIST"], self.expiry(), self.expiry() + [b"PERSIST"], [b"KEEPTTL"]))

    def counter(self):
        r = self.r
        roll = r.random()
        key = r.choice(KEYS[24:30]) if r.random() < 0.7 else self.key()
        if roll < 0.4:
            return [r.choice((b"INCR", b"DECR")), key]
        if roll < 0.7:
            return [r.choice((b"INCRBY", b"DECRBY")), key, self.integer()]
        return [b"INCRBYFLOAT", key, r.choice(FLOATS if r.random() < 0.85 else NOT_FLOATS)]

    def range(self):
        r = self.r
        roll = r.random()
        if roll < 0.3:
            return [b"APPEND", self.key(), self.value()]
        if roll < 0.55:
            at = r.choice((0, 1, 5, 43, 44, 511, 512, 4000, -1, 536870912, 2**31, b"x", 2**63 - 1))
            return [b"SETRANGE", self.key(), at, r.choice((b"", b"x", b"hello", b"\0\xff"))]
        return [r.choice((b"GETRANGE", b"GETRANGE", b"SUBSTR")), self.key(), self.offset(), self.offset()]

    def many(self):
        r = self.r
        roll = r.random()
        count = r.randrange(1, 6)
        if roll < 0.4:
            return [b"MGET"] + [self.key() for _ in range(count)]
        name = b"MSET" if roll < 0.75 else b"MSETNX"
        return [name] + [word for _ in range(count) for word in (self.key(), self.value())] + \
            ([self.key()] if r.random() < 0.05 else [])

    def bits(self):
        r = self.r
        name = r.choice((b"SETBIT", b"SETBIT", b"GETBIT", b"BITCOUNT", b"BITCOUNT", b"BITPOS", b"BITPOS", b"BITOP"))
        if name == b"SETBIT":
            at = self.bit_offset()
            if isinstance(at, int) and 10**6 < at < 2**32:
                at = 77
            return [name, self.key(), at, r.choice((0, 1, 0, 1, 1, 2, b"x"))]
        if name == b"GETBIT":
            return [name, self.key(), self.bit_offset()]
        if name == b"BITOP":
            how = r.choice((b"AND", b"OR", b"XOR", b"NOT", b"and", b"NAND"))
            return [name, how, self.key()] + [self.key() for _ in range(r.choice((1, 1, 2, 3)))]
        span = r.choice(([], [self.offset()], [self.offset(), self.offset()],
                         [self.offset(), self.offset(), r.choice((b"BIT", b"BYTE", b"bit", b"NIBBLE"))]))
        if name == b"BITPOS":
            return [name, self.key(), r.choice((0, 1, 0, 1, 2, b"x"))] + span
        return [name, self.key()] + span

    def bitfield(self):
        r = self.r
        readonly = r.random() < 0.25
        words = []
        for _ in range(r.randrange(0, 5)):
            kind = r.choice(("i%d", "u%d")) % r.choice((1, 2, 4, 5, 7, 8, 9, 13, 16, 31, 32, 33, 62, 63, 64))
            if r.random() < 0.04:
                kind = r.choice(("i0", "u65", "i65", "x8", "i", "8", "i8x", ""))
            at = r.choice((r.randrange(0, 100), "#%d" % r.randrange(0, 12), r.randrange(0, 4000), -1, "#", "x", "#-1")
                          if r.random() < 0.2 else (r.randrange(0, 100), "#%d" % r.randrange(0, 12)))
            if readonly and r.random() < 0.9 or r.random() < 0.3:
                words += [b"GET", kind, at]
            elif r.random() < 0.5:
                words += [b"SET", kind, at, self.integer()]
            elif r.random() < 0.6:
                words += [b"INCRBY", kind, at, self.integer()]
            else:
                words += [b"OVERFLOW", r.choice((b"WRAP", b"SAT", b"FAIL", b"fail", b"NONE")),
                          b"INCRBY", kind, at, self.integer()]
        return [b"BITFIELD_RO" if readonly else b"BITFIELD", self.key()] + words

    def keyspace(self):
        r = self.r
        roll = r.random()
        if roll < 0.5:
            return [r.choice((b"DEL", b"UNLINK", b"EXISTS", b"TOUCH", b"EXISTS"))] + \
                [self.key() for _ in range(r.choice((1, 1, 1, 2, 3)))]
        if roll < 0.7:
            return [r.choice((b"RENAME", b"RENAMENX")), self.key(), self.key()]
        if roll < 0.85:
            return [b"COPY", self.key(), self.key()] + r.choice(([], [b"REPLACE"], [b"DB", b"0"], [b"DB", b"x"],
                                                                 [b"DB", b"0", b"REPLACE"], [b"FOO"]))
        return [b"PERSIST", self.key()]

    def counting(self):
        r = self.r
        return r.choice(([b"DBSIZE"], [b"RANDOMKEY"], [b"KEYS", b"*"], [b"KEYS", b"k?"], [b"KEYS", b"k[1-3]*"],
                         [b"KEYS", b"[^k]*"], [b"KEYS", b"\\k1"], [b"KEYS", b""], [b"KEYS", b"K1"], [b"KEYS", b"*1*"],
                         [b"SCAN", b"x"], [b"SCAN", b"0", b"COUNT", b"0"], [b"SCAN", b"0", b"FOO"],
                         [b"SCAN", b"0", b"COUNT", b"x"], [b"SCAN", b"0", b"MATCH"]))

    def expire(self):
        r = self.r
        name = r.choice((b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"))
        roll = r.random()
        if roll < 0.8:
            amount = {b"EXPIRE": self.seconds, b"PEXPIRE": lambda: self.seconds() * 1000 + r.randrange(1000),
                      b"EXPIREAT": lambda: 4_000_000_000 + r.randrange(10**8),
                      b"PEXPIREAT": lambda: 4_000_000_000_000 + r.randrange(10**11)}[name]()
        elif roll < 0.9:
            amount = r.choice((0, 1, -1, -1000)) if name.endswith(b"AT") else r.choice((0, -1, -100_000))
        else:
            amount = r.choice(NOT_INTEGERS + (2**63 - 1, -2**63, 9223372036854775))
        options = r.choice(([], [], [], [b"NX"], [b"XX"], [b"GT"], [b"LT"], [b"gt"], [b"NX", b"XX"], [b"GT", b"LT"],
                            [b"XX", b"GT"], [b"FOO"], [b"NX", b"GT"]))
        return [name, self.key(), amount] + options

    def ttl(self):
        return [self.r.choice((b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME")), self.key()]

    def lcs(self):
        r = self.r
        return [b"LCS", self.key(), self.key()] + r.choice(([], [b"LEN"], [b"IDX"], [b"IDX", b"MINMATCHLEN", b"2"],
                                                            [b"IDX", b"WITHMATCHLEN"], [b"LEN", b"IDX"], [b"FOO"],
                                                            [b"IDX", b"MINMATCHLEN", b"x"]))

    def object(self):
        r = self.r
        return r.choice(([b"OBJECT", b"ENCODING", self.key()], [b"OBJECT", b"encoding", self.key()],
                         [b"OBJECT", b"REFCOUNT", self.key()], [b"OBJECT", b"FREQ", self.key()],
                         [b"OBJECT", b"NOSUCH", self.key()], [b"OBJECT", b"ENCODING"]))

    def connection(self):
        r = self.r
        return r.choice((
            [b"PING"], [b"PING", self.value()], [b"ECHO", self.value()], [b"SELECT", b"0"], [b"SELECT", b"x"],
            [b"SELECT", b"-1"], [b"CLIENT", b"SETNAME", b"name%d" % r.randrange(9)], [b"CLIENT", b"GETNAME"],
            [b"CLIENT", b"SETNAME", b"with space"], [b"CLIENT", b"SETNAME", b""], [b"CLIENT", b"NOSUCH"],
            [b"HELLO", b"2"], [b"HELLO", b"3"], [b"HELLO"], [b"HELLO", b"4"], [b"HELLO", b"3", b"SETNAME", b"x"],
            [b"HELLO", b"2", b"FOO"], [b"HELLO", b"3", b"AUTH", b"default", b"wrong"],
            [b"COMMAND", b"GETKEYS", b"SET", b"a", b"1"], [b"COMMAND", b"GETKEYS", b"MSET", b"a", b"1", b"b", b"2"],
            [b"COMMAND", b"GETKEYS", b"BITOP", b"AND", b"d", b"a", b"b"], [b"COMMAND", b"GETKEYS", b"PING"],
            [b"COMMAND", b"GETKEYS", b"NOSUCH", b"a"], [b"COMMAND", b"GETKEYS", b"GET"],
            [b"UNWATCH"], [b"DISCARD"], [b"EXEC"], [b"RESET", b"x"], [b"AUTH", b"x"],
        ))

    def unknown(self):
        r = self.r
        name = r.choice((b"NOSUCH", b"GTE", b"", b"set2", b"x" * 140, b"a\r\nb", b"\xff", b"GET ", b"get\0"))
        return [name] + [r.choice((b"a", b"b c", b"y" * 100, b"\r\n", b"")) for _ in range(r.randrange(0, 4))]

    def wrong_arity(self):
        r = self.r
        name = r.choice((b"GET", b"SET", b"SETNX", b"SETEX", b"GETSET", b"GETDEL", b"GETEX", b"MGET", b"MSET", b"APPEND",
                         b"STRLEN", b"SETRANGE", b"GETRANGE", b"INCR", b"INCRBY", b"INCRBYFLOAT", b"LCS", b"SETBIT",
                         b"GETBIT", b"BITCOUNT", b"BITPOS", b"BITOP", b"BITFIELD", b"DEL", b"EXISTS", b"TYPE", b"RENAME",
                         b"COPY", b"KEYS", b"EXPIRE", b"TTL", b"PERSIST", b"WATCH", b"PUBLISH", b"ECHO", b"SELECT",
                         b"OBJECT", b"CLIENT", b"SUBSTR", b"MSETNX", b"DBSIZE", b"RANDOMKEY", b"TOUCH", b"UNLINK"))
        command = [name] + [b"a"] * r.choice((0, 0, 1, 2, 3, 6))
        return command if safe(command) else [b"GET"]

    def flush(self):
        r = self.r
        if r.random() < 0.8:
            return [b"DBSIZE"]
        return r.choice(([b"FLUSHALL"], [b"FLUSHDB"], [b"FLUSHALL", b"SYNC"], [b"FLUSHDB", b"async"], [b"FLUSHALL", b"x"]))

    def by_type(self):
        return self.r.choice(([b"INFO"], [b"INFO", b"nosuch"], [b"TIME"], [b"MEMORY", b"USAGE", self.key()],
                              [b"OBJECT", b"IDLETIME", self.key()], [b"CLIENT", b"ID"], [b"COMMAND", b"COUNT"]))

    def publish(self):
        return [b"PUBLISH", self.r.choice((b"nobody", b"", b"c1")), self.value()]


def safe(command):
    """False for what would change how the stream goes on: a damaged command must stay one reply,
    and no relative expiry may become so short that the servers race."""
    name = command[0].upper()
    if name in (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"MONITOR", b"QUIT", b"SHUTDOWN", b"WATCH", b"MULTI"):
        return False
    if name == b"SELECT":  # there is one database here: elsewhere the two would go on in different ones
        return not (len(command) == 2 and command[1].isdigit())
    if name in (b"EXPIRE", b"PEXPIRE", b"SETEX", b"PSETEX"):
        return not (len(command) > 2 and near(command[2]))
    for at, word in enumerate(command):
        if word.upper() in (b"EX", b"PX") and at + 1 < len(command) and near(command[at + 1]):
            return False
    return name not in (b"INFO", b"SCAN", b"COMMAND")


def near(word):
    return word.isdigit() and 0 < int(word) < 1000 * 1000


def past_expiry_touch(command):
    """SET with a time in the past leaves a key that Redis drops when it is next seen: look at it at
    once, so that DBSIZE does not depend on when."""
    words = [word.upper() for word in command]
    return command[1] if len(command) > 2 and (b"EXAT" in words or b"PXAT" in words or b"EXPIRE" in words[0]) else None
