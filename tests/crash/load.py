"""The load: connections that write until the node is killed, and one that reads what they write.

Each connection checks every reply it gets, since it knows what its own keys hold.
"""

import random
import threading

from model import MISSING, Write
from resp import ErrorReply, Incomplete, encode

WRITERS = 8
STRINGS, COUNTERS, ACCOUNTS, TALLIES = 60, 10, 12, 3
# In the year 2128: far beyond the run.
FAR_MS = 5_000_000_000_000
APPEND_MAX = 8000
ALONE, SOME, MANY = (1, 1), (2, 16), (17, 100)


class Wrong(Exception):
    """A reply that cannot be right."""


class Any:
    """Any reply but an error."""


def check_reply(command, reply, want):
    if isinstance(reply, ErrorReply) or (want is not Any and reply != want):
        raise Wrong(f"{str(command)[:200]} answered {str(reply)[:200]!r}, expected {str(want)[:200]!r}")


class Step:
    """What is sent at once and answered by one reply for each of its commands."""

    def __init__(self, commands, wants, write=None):
        self.commands, self.wants, self.write = commands, wants, write

    def take(self, replies):
        for command, reply, want in zip(self.commands, replies, self.wants):
            check_reply(command, reply, want)
        if self.write:
            self.write.acknowledge()


class Count(Step):
    """INCR of a tally."""

    def __init__(self, tally):
        super().__init__([("INCR", tally.name)], [Any], Write(f"INCR {tally.name}", tally=tally))

    def take(self, replies):
        super().take(replies)
        self.write.tally.answers.append(replies[0])


class Writer(threading.Thread):
    """One connection and the keys that only it writes."""

    def __init__(self, node, model, number, seed):
        super().__init__(daemon=True)
        self.connection, self.model = node.connect(timeout=120), model
        self.rng = random.Random(seed)
        self.seed = seed
        self.strings = [model.key(f"w{number}:s:{n}") for n in range(STRINGS)]
        self.counters = [model.key(f"w{number}:n:{n}") for n in range(COUNTERS)]
        self.receipt = model.key(f"w{number}:receipt")
        self.accounts = [model.account(f"account:{n}") for n in range(ACCOUNTS)]
        self.tallies = [model.tally(f"tally:{n}") for n in range(TALLIES)]
        self.sizes = ALONE if number % 2 == 0 else None
        self.serial, self.acknowledged, self.wrong, self.mine = 0, 0, None, []

    def run(self):
        try:
            while True:
                self.batch()
        except (OSError, EOFError, Incomplete):
            pass  # killed
        except Wrong as wrong:
            self.wrong = str(wrong)
        except Exception as error:
            self.wrong = f"{type(error).__name__}: {error}"
        finally:
            self.connection.close()

    def batch(self):
        low, high = self.sizes or self.rng.choice((ALONE, SOME, SOME, MANY))
        steps = [self.step() for _ in range(self.rng.randint(low, high))]
        self.mine += [step.write for step in steps if step.write]
        self.connection.send(b"".join(encode(command) for step in steps for command in step.commands))
        for step in steps:
            step.take([self.connection.reply() for _ in step.commands])
            self.acknowledged += step.write is not None

    def step(self):
        kinds, weights = zip(*self.KINDS)
        return self.rng.choices(kinds, weights)[0](self)

    def value(self):
        """Never the same twice: who wrote it in which cycle, its number, and a tail of random length."""
        self.serial += 1
        room = self.rng.choices((20, 200, 4000, 50_000, 200_000), (60, 30, 8, 1.5, 0.5))[0]
        head = f"{self.seed}:{self.serial}:".encode()
        return head + b"x" * self.rng.randint(0, room)

    def some(self, low, high):
        return self.rng.sample(self.strings, self.rng.randint(low, high))

    # The kinds of steps.

    def set(self):
        key, value = self.rng.choice(self.strings), self.value()
        command, expires = ["SET", key.name, value], None
        if self.rng.random() < 0.2:
            expires = FAR_MS + self.rng.randrange(10**9)
            command += ["PXAT", expires]
        return Step([command], ["OK"], Write(f"SET {key.name} {value[:20]!r}", [(key, (value, expires))]))

    def count(self):
        key, by = self.rng.choice(self.counters), self.rng.randint(1, 9)
        total = int(key.now[0] or 0) + by
        return Step([("INCRBY", key.name, by)], [total],
                    Write(f"INCRBY {key.name} {by}", [(key, (b"%d" % total, None))]))

    def append(self):
        key = self.rng.choice(self.strings)
        old, expires = key.now
        tail = b"+%d" % self.rng.randrange(10**6)
        if len(old or b"") > APPEND_MAX:
            return self.set()
        whole = (old or b"") + tail
        return Step([("APPEND", key.name, tail)], [len(whole)],
                    Write(f"APPEND {key.name} {tail!r}", [(key, (whole, expires))]))

    def delete(self):
        keys = self.some(1, 3)
        there = sum(key.now != MISSING for key in keys)
        names = [key.name for key in keys]
        return Step([("DEL", *names)], [there], Write(f"DEL {' '.join(names)}", [(key, MISSING) for key in keys]))

    def set_many(self):
        pairs = [(key, self.value()) for key in self.some(2, 6)]
        flat = [part for key, value in pairs for part in (key.name, value)]
        return Step([("MSET", *flat)], ["OK"],
                    Write(f"MSET {' '.join(key.name for key, _ in pairs)}",
                          [(key, (value, None)) for key, value in pairs]))

    def rename(self):
        there = [key for key in self.strings if key.now != MISSING]
        if not there:
            return self.set()
        source = self.rng.choice(there)
        target = self.rng.choice([key for key in self.strings if key is not source])
        return Step([("RENAME", source.name, target.name)], ["OK"],
                    Write(f"RENAME {source.name} {target.name}", [(target, source.now), (source, MISSING)]))

    def expire(self):
        key = self.rng.choice(self.strings)
        value, old = key.now
        if self.rng.random() < 0.3:
            return Step([("PERSIST", key.name)], [int(old is not None)],
                        Write(f"PERSIST {key.name}", [(key, (value, None))]))
        at = FAR_MS + self.rng.randrange(10**9)
        return Step([("PEXPIREAT", key.name, at)], [int(value is not None)],
                    Write(f"PEXPIREAT {key.name} {at}", [(key, MISSING if value is None else (value, at))]))

    def transfer(self):
        (source, target), amount = self.rng.sample(self.accounts, 2), self.rng.randint(1, 1000)
        receipt = self.value()[:60] + b"#%d" % self.serial
        commands = [("MULTI",), ("DECRBY", source, amount), ("INCRBY", target, amount),
                    ("SET", self.receipt.name, receipt), ("EXEC",)]
        write = Write(f"transfer of {amount} from {source} to {target}", [(self.receipt, (receipt, None))],
                      [(source, -amount), (target, amount)])
        return Step(commands, ["OK", "QUEUED", "QUEUED", "QUEUED", Any], write)

    def transaction(self):
        """Both kinds of keys, on as many shards as it hits."""
        pairs, counter = [(key, self.value()) for key in self.some(1, 3)], self.rng.choice(self.counters)
        total = int(counter.now[0] or 0) + 1
        commands = [("MULTI",), *[("SET", key.name, value) for key, value in pairs], ("INCR", counter.name), ("EXEC",)]
        wants = ["OK", *["QUEUED"] * (len(pairs) + 1), ["OK"] * len(pairs) + [total]]
        write = Write(f"MULTI of {' '.join(key.name for key, _ in pairs)} {counter.name}",
                      [*((key, (value, None)) for key, value in pairs), (counter, (b"%d" % total, None))])
        return Step(commands, wants, write)

    def tally(self):
        return Count(self.rng.choice(self.tallies))

    def get(self):
        key = self.rng.choice(self.strings + self.counters)
        return Step([("GET", key.name)], [key.now[0]])

    KINDS = [(set, 25), (count, 15), (append, 10), (delete, 6), (set_many, 8), (rename, 6), (expire, 6),
             (transfer, 8), (transaction, 6), (tally, 5), (get, 8)]


class Reader(threading.Thread):
    """Reads what the writers write: whatever it has seen may not be undone by a crash."""

    def __init__(self, node, model, seed):
        super().__init__(daemon=True)
        self.connection, self.rng = node.connect(timeout=120), random.Random(seed)
        self.keys, self.reads, self.wrong = list(model.keys.values()), 0, None

    def run(self):
        try:
            while True:
                keys = self.rng.choices(self.keys, k=8)
                asked = [key.floor for key in keys]
                self.connection.send(b"".join(encode(("GET", key.name)) for key in keys))
                for key, since in zip(keys, asked):
                    self.judge(key, self.connection.reply(), since)
        except (OSError, EOFError, Incomplete):
            pass
        except Exception as error:
            self.wrong = f"{type(error).__name__}: {error}"
        finally:
            self.connection.close()

    def judge(self, key, value, since):
        self.reads += 1
        if isinstance(value, ErrorReply) or not key.read(value, since):
            raise Wrong(f"GET {key.name} answered {str(value)[:100]}: stale, or never written")


class Nuisance(threading.Thread):
    """Asks for snapshots and new keys now and then, while everything else goes on."""

    def __init__(self, node, rng, commands):
        super().__init__(daemon=True)
        self.connection, self.rng, self.commands = node.connect(timeout=120), random.Random(rng.random()), commands
        self.stop, self.done, self.wrong = threading.Event(), 0, None

    def run(self):
        try:
            while not self.stop.wait(self.rng.uniform(0, 0.6)):
                command = self.rng.choice(self.commands)
                reply = self.connection.ask(*command)
                if isinstance(reply, ErrorReply) and "progress" not in reply:
                    self.wrong = f"{' '.join(command)} answered {reply}"
                    return
                self.done += not isinstance(reply, ErrorReply)
        except (OSError, EOFError, Incomplete):
            pass
        finally:
            self.connection.close()


class Load:
    """All of them on one node."""

    def __init__(self, node, model, seed, commands=()):
        self.model = model
        self.writers = [Writer(node, model, number, f"{seed}:{number}") for number in range(WRITERS)]
        self.threads = [*self.writers, Reader(node, model, f"{seed}:r")]
        if commands:
            self.threads.append(Nuisance(node, random.Random(f"{seed}:n"), commands))

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def join(self):
        """After the node was killed. Gives how many writes were acknowledged."""
        for thread in self.threads:
            if isinstance(thread, Nuisance):
                thread.stop.set()
        for thread in self.threads:
            thread.join(130)
            if thread.is_alive():
                raise AssertionError("a connection of a killed node did not end")
        for writer in self.writers:
            self.model.writes += writer.mine
        return sum(writer.acknowledged for writer in self.writers)

    def wrong(self):
        return [thread.wrong for thread in self.threads if thread.wrong]


def read_all(node, model):
    """name -> state of every key there is, and of every one that should be."""
    with node.connect() as connection:
        names = sorted({name.decode() for name in connection.ask("KEYS", "*")} | set(model.names()))
        found = {}
        for at in range(0, len(names), 50):
            some = names[at:at + 50]
            connection.send(b"".join(encode(("GET", name)) + encode(("PEXPIRETIME", name)) for name in some))
            for name in some:
                value, expires = connection.reply(), connection.reply()
                if isinstance(value, ErrorReply) or isinstance(expires, ErrorReply):
                    raise AssertionError(f"GET {name}: {value}; PEXPIRETIME: {expires}")
                if value is not None:
                    found[name] = (value, expires if expires >= 0 else None)
        return found
