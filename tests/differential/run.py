"""Send the same random commands to redis-server and to Marline; every reply must be the same.

    run.py [--commands N] [--seed S] [--epoch E] [--differences N] [--self-test]

Prints the seed first. On a difference it prints the command, both replies, and the shortest script
that it finds within half a minute that still shows it. --self-test sabotages the second of two
redis-servers in several ways and demands that each is found.
"""

import argparse
import itertools
import pathlib
import random
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]

from episodes import Batch, Command, Epoch, Garbage, Scan, Sleep  # noqa: E402
from judge import agree, deliberate  # noqa: E402
from resp import Incomplete, encode, encode_inline, split  # noqa: E402
from server import STAND_IN, Connection, Server  # noqa: E402

REPLY_SECONDS = 20
MINIMISE_SECONDS = 30


class Difference(Exception):
    """Two replies that may not both stand."""

    def __init__(self, what, ours, theirs):
        super().__init__(what)
        self.what, self.ours, self.theirs = what, ours, theirs


class Pair:
    """Both servers, with connections of the same names to each."""

    def __init__(self, redis, marline, sabotage=None):
        self.ports = (redis.port, marline.port)
        self.sabotage = sabotage or (lambda args: args)
        self.connections = {}
        self.marks = 0
        self.sent = 0

    def fresh(self):
        """New connections and an empty keyspace."""
        for pair in self.connections.values():
            for connection in pair:
                connection.close()
        self.connections = {}
        for connection in self.named("fresh"):
            connection.ask("CONFIG", "SET", "notify-keyspace-events", "")
            connection.ask("FLUSHALL")

    def named(self, name):
        if name not in self.connections:
            self.connections[name] = tuple(Connection(port, REPLY_SECONDS) for port in self.ports)
        return self.connections[name]

    def run(self, steps):
        for step in steps:
            {Batch: self.batch, Sleep: self.sleep, Scan: self.scan, Garbage: self.garbage}[type(step)](step)

    def sleep(self, step):
        time.sleep(step.seconds)

    def batch(self, step):
        commands = list(step.commands)
        if any(command.args[0].upper() == b"MULTI" for command in commands):
            commands.append(Command(False, (b"DISCARD",)))  # the mark below must not be queued
        self.marks += 1
        mark = b"mark-%d-%d" % (self.marks, random.getrandbits(32))
        commands.append(Command(False, (b"PING", mark)))
        self.sent += len(commands)
        pair = self.named(step.connection)
        for connection, change in zip(pair, (lambda args: args, self.sabotage)):
            connection.send(b"".join((encode_inline if command.inline else encode)(change(command.args))
                                     for command in commands))
        ours, theirs = (self.until(connection, mark + b"\r\n") for connection in pair)
        if ours != theirs:
            compare(commands, ours, theirs)

    @staticmethod
    def until(connection, mark):
        """All that comes up to the mark; or up to silence or the end, which then differs."""
        parts = bytearray(connection.buffer)
        connection.buffer = b""
        try:
            while not parts.endswith(mark):
                data = connection.socket.recv(1 << 20)
                if not data:
                    parts += b"<closed>"
                    break
                parts += data
        except (TimeoutError, ConnectionResetError) as error:
            parts += b"<%s>" % type(error).__name__.encode()
        return bytes(parts)

    def scan(self, step):
        found = []
        for connection in self.named("scan"):
            keys, cursor, rounds = set(), b"0", 0
            while rounds == 0 or cursor != b"0":
                reply = connection.ask(b"SCAN", cursor, *step.options)
                rounds += 1
                if not isinstance(reply, list) or len(reply) != 2 or rounds > 100_000:
                    raise Difference(f"SCAN {step.options}", b"", repr(reply).encode())
                cursor = reply[0]
                keys.update(reply[1])
            found.append(sorted(keys))
            self.sent += rounds
        if found[0] != found[1]:
            raise Difference(f"SCAN {show(step.options)}", repr(found[0]).encode(), repr(found[1]).encode())

    def garbage(self, step):
        answers = []
        for port in self.ports:
            with Connection(port, REPLY_SECONDS) as connection:
                connection.send(step.data)
                connection.finish_sending()
                answers.append(self.until(connection, b"<never>"))
        self.sent += 1
        if answers[0] != answers[1]:
            if deliberate((step.data,), *answers):
                return
            one, other = pieces(answers[0]), pieces(answers[1])
            if len(one) != len(other) or not all(agree((b"",), a, b) for a, b in zip(one, other)):
                raise Difference(f"the bytes {step.data!r}", *answers)


def pieces(answer):
    """Replies of a connection that the server has closed."""
    whole = answer.removesuffix(b"<closed>")
    try:
        return split(whole)
    except (Incomplete, ValueError):
        return [answer]


def compare(commands, ours, theirs):
    try:
        one, other = split(ours), split(theirs)
    except (Incomplete, ValueError):
        raise Difference(f"the replies to {lines(commands)}", ours, theirs) from None
    if len(one) != len(commands) or len(other) != len(commands):
        # Messages stand between the replies: look for the first that differs.
        for a, b in zip(one, other):
            if a != b and not agree((b"",), a, b) and not agree((b"HELLO",), a, b):
                raise Difference(f"a reply among those to\n{lines(commands)}\n", a, b)
        if len(one) != len(other):
            raise Difference(f"the number of replies to\n{lines(commands)}\n", ours, theirs)
        return
    for command, a, b in zip(commands, one, other):
        if a != b and not agree(command.args, a, b):
            raise Difference(show(command.args), a, b)


def show(args):
    return encode_inline(args).decode().strip()


def lines(commands):
    return "\n".join("    " + show(command.args)[:200] for command in commands)


def script(steps):
    """The steps as a person would type them."""
    text = []
    for step in steps:
        if isinstance(step, Batch):
            text += [f"    {step.connection}> {show(c.args)}" for c in step.commands]
        else:
            text.append(f"    {step}")
    return "\n".join(text)


def still_differs(pair, steps):
    try:
        pair.fresh()
        pair.run(steps)
    except Difference as difference:
        return difference
    except (OSError, EOFError) as error:
        return Difference(f"the connection: {error!r}", b"", b"")
    return None


def minimise(pair, steps):
    """Leave out ever smaller parts while the difference stays."""
    deadline = time.monotonic() + MINIMISE_SECONDS
    units = [(number, at) for number, step in enumerate(steps)
             for at in (range(len(step.commands)) if isinstance(step, Batch) else (None,))]

    def build(chosen):
        kept = {}
        for number, at in chosen:
            kept.setdefault(number, []).append(at)
        return [Batch(steps[n].connection, [steps[n].commands[at] for at in ats]) if isinstance(steps[n], Batch)
                else steps[n] for n, ats in kept.items()]

    best = still_differs(pair, build(units))
    if best is None:
        return None, steps
    topic = best.what.split()[0].upper()
    size = len(units) // 2
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(units) and time.monotonic() < deadline:
            fewer = units[:at] + units[at + size:]
            difference = still_differs(pair, build(fewer))
            if difference and difference.what.split()[0].upper() == topic:
                units, best = fewer, difference
            else:
                at += size
        size //= 2
    return best, build(units)


def run_epoch(pair, seed, number):
    """None, or a report of the difference."""
    steps = Epoch(seed, number).steps()
    pair.fresh()
    for at, step in enumerate(steps):
        try:
            pair.run([step])
        except Difference as difference:
            found, shortest = minimise(pair, steps[:at + 1])
            report = f"differs: {difference.what}\n  Redis:   {clip(difference.ours)}\n  Marline: {clip(difference.theirs)}\n"
            if found:
                report += (f"shortest script found:\n{script(shortest)}\n  {found.what}\n"
                           f"  Redis:   {clip(found.ours)}\n  Marline: {clip(found.theirs)}\n")
            else:
                report += "it did not show again when replayed: something in it depends on time\n"
            return report + f"replay: tests/differential/run.py --seed {seed} --epoch {number}", shortest
    return None, None


def clip(data):
    text = repr(data)
    return text if len(text) < 1000 else text[:700] + " ... " + text[-200:]


def run(pair, seed, commands, only=None, most=1):
    """Epoch after epoch until enough commands were sent or `most` differences were found."""
    print(f"seed {seed}", flush=True)
    start, found = time.monotonic(), 0
    for number in [only] if only is not None else itertools.count():
        if (only is None and pair.sent >= commands) or found >= most:
            break
        report, _ = run_epoch(pair, seed, number)
        if report:
            found += 1
            print(report, flush=True)
        if commands > 200_000 and number % 100 == 99:
            print(f"  {pair.sent} commands, {pair.sent / (time.monotonic() - start):.0f}/s", flush=True)
    print(f"{found} difference{'s' * (found != 1)} in {pair.sent} commands ({pair.sent / (time.monotonic() - start):.0f}/s)")
    return 1 if found else 0


def replaced(name, change):
    """A sabotage: commands of this name reach the second server changed."""
    return lambda args: change(args) if args[0].upper() == name else args


SABOTAGES = {
    "APPEND loses a byte": replaced(b"APPEND", lambda a: a[:2] + (a[2][:-1],) if len(a) == 3 else a),
    "INCRBY adds one more": replaced(b"INCRBY", lambda a: a[:2] + (b"%d" % (int(a[2]) + 1),)
                                     if len(a) == 3 and a[2].isdigit() and len(a[2]) < 9 else a),
    "SET forgets KEEPTTL": replaced(b"SET", lambda a: a[:3] + tuple(w for w in a[3:] if w.upper() != b"KEEPTTL")),
    "EXPIRE takes GT for LT": replaced(b"EXPIRE", lambda a: a[:-1] + (b"LT",) if a[-1].upper() == b"GT" else a),
    "WATCH sees nothing": replaced(b"WATCH", lambda a: (b"WATCH", b"unrelated") if len(a) > 1 else a),
    "COPY replaces always": replaced(b"COPY", lambda a: a + (b"REPLACE",) if len(a) == 3 else a),
}


def self_test(seed):
    for name, sabotage in SABOTAGES.items():
        with Server(STAND_IN) as one, Server(STAND_IN) as other:
            pair = Pair(one, other, sabotage)
            for number in range(60):
                report, shortest = run_epoch(pair, seed, number)
                if report:
                    break
            else:
                print(f"sabotage not found: {name}")
                return 1
            length = sum(len(s.commands) if isinstance(s, Batch) else 1 for s in shortest)
            print(f"found: {name}, after {pair.sent} commands with replays, in a script of {length}", flush=True)
            if length > 15:
                print(report)
                print("the shortest script is too long to be of use")
                return 1
    print("every sabotage was found")
    return 0


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--commands", type=int, default=50_000)
    options.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options.add_argument("--epoch", type=int, help="run this one epoch of the seed")
    options.add_argument("--differences", type=int, default=1, help="stop after so many differences")
    options.add_argument("--data", default="none",
                         help="directory of Marline's data, under one that is removed; none: in memory only")
    options.add_argument("--self-test", action="store_true")
    chosen = options.parse_args()
    if chosen.self_test:
        return self_test(chosen.seed)
    with Server(STAND_IN) as redis, Server(data=chosen.data) as marline:
        return run(Pair(redis, marline), chosen.seed, chosen.commands, chosen.epoch, chosen.differences)


if __name__ == "__main__":
    sys.exit(main())
