"""A disk that fails, that is full, that is slow: what the node must do then. Each scenario gets run.py's options."""

import contextlib
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

from cycles import Figures, judge
from harness import Skip, check, contains, equal, eventually
from load import Load
from model import Model
from node import Node
from resp import ErrorReply

EXIT_DISK = 74
FILL_BYTES = 100_000
# More than any space that a node may have set aside.
FILL_BYTES_MAX = 2 << 30
TMPFS = "512m"
SLOW_MS = 2000
TRIALS = 4


def fails_under_load(options, field):
    """Under load the Nth call fails: the node says so and ends with 74; what it acknowledged is there afterwards,
    although nothing of what the failed call was for ever reaches the disk."""
    rng, figures = random.Random(options.seed), Figures()
    with Node(sync="always", sealed=options.sealed, faulty=True) as node:
        model = Model()
        node.disk.begin_journal()
        for trial in range(TRIALS):
            node.start()
            judge(node, model, figures, options.seed)
            load = Load(node, model, f"{options.seed}:{trial}").start()
            time.sleep(rng.uniform(0.1, 0.4))
            setattr(node.disk, field, rng.randint(1, 20))
            code = node.process.wait(30)
            said = node.end_log()
            figures.count(load, model)
            check(not load.wrong(), "\n".join(load.wrong()))
            check(code != 0 if node.stand_in else code == EXIT_DISK, f"exit code {code}\n{said}")
            if not node.stand_in:
                check("Input/output error" in said or "os error 5" in said, f"no reason in: {said}")
            node.disk.lose_power(rng)
            node.disk.begin_journal()
        equal(node.disk.fired, TRIALS, "faults that fired")
        node.start()
        judge(node, model, figures, options.seed)
    return str(figures)


def sync_fails(options):
    return fails_under_load(options, "fail_sync")


def write_fails(options):
    if Node.of_stand_in():
        raise Skip("Redis writes again after a failed write, and its answer is another one")
    return fails_under_load(options, "fail_write")


# No space.

def fill(connection, seed):
    """SETs until one is refused; the names of what was taken."""
    rng, taken = random.Random(seed), []
    for number in range(FILL_BYTES_MAX // FILL_BYTES):
        reply = connection.ask("SET", f"fill:{number}", rng.randbytes(FILL_BYTES))
        if isinstance(reply, ErrorReply):
            check(reply.startswith("NOSPACE"), f"a full disk was answered with: {reply}")
            return taken
        equal(reply, "OK")
        taken.append(f"fill:{number}")
    raise AssertionError(f"the disk is full, and {FILL_BYTES_MAX >> 20} MiB were written")


def refuse_and_recover(node, seed, make_full, make_room):
    """Writes are refused, reads and deletes go on; with room again it goes on by itself; nothing is lost and
    nothing that was refused appears."""
    with node.connect() as one, node.connect() as other:
        for number in range(200):
            equal(one.ask("SET", f"small:{number}", f"value {number}"), "OK")
        make_full()
        taken = fill(one, seed)
        for command in (("SET", "refused", "x" * 1000), ("MSET", "refused", "1", "refused2", "2"), ("INCR", "refused"),
                        ("APPEND", "small:0", "refused")):
            reply = other.ask(*command)
            check(isinstance(reply, ErrorReply) and reply.startswith("NOSPACE"), f"{command[0]} answered {reply!r}")
        for number in range(200):
            equal(other.ask("GET", f"small:{number}"), b"value %d" % number)
        for number in range(100, 150):
            equal(other.ask("DEL", f"small:{number}"), 1, "DEL on a full disk")
        make_room()
        start = time.monotonic()
        eventually(lambda: other.ask("SET", "room", "again") == "OK", "no write was taken again", 10)
        waited = time.monotonic() - start
    node.kill()
    node.start()
    with node.connect() as one:
        for number in range(200):
            want = None if 100 <= number < 150 else b"value %d" % number
            equal(one.ask("GET", f"small:{number}"), want, f"small:{number} after the restart")
        for name in taken:
            equal(one.ask("STRLEN", name), FILL_BYTES, f"{name} after the restart")
        equal(one.ask("EXISTS", "refused", "refused2", f"fill:{len(taken)}"), 0, "refused writes that are there")
        equal(one.ask("GET", "room"), b"again")
    check(waited < 5, f"it took {waited:.1f} s until writes were taken again")
    return f"{len(taken) * FILL_BYTES >> 20} MiB fitted, writes again after {waited:.1f} s"


def only_marline():
    if Node.of_stand_in():
        raise Skip("the server under test is not Marline")


def disk_full(options):
    only_marline()
    with Node(sync="always", sealed=options.sealed, faulty=True) as node:
        node.start()

        def make_full():
            node.disk.free, node.disk.limited = 0, 1

        def make_room():
            check(node.disk.refused, "the faulty disk refused nothing: it is not in the node's way")
            node.disk.limited = 0

        return refuse_and_recover(node, options.seed, make_full, make_room)


def disk_full_at_start(options):
    """Killed when the disk is full, and started while it still is: it comes up to be read, or it says what it lacks and
    ends; with room again everything is there."""
    only_marline()
    with Node(sync="always", sealed=options.sealed, faulty=True) as node:
        node.start()
        equal(node.ask("SET", "small", "value"), "OK")
        node.disk.free, node.disk.limited = 0, 1
        with node.connect() as connection:
            taken = fill(connection, options.seed)
        node.kill()
        try:
            node.start()
            how = "came up"
        except AssertionError as ended:
            check("disk is full" in str(ended), f"no reason in: {ended}")
            how = "DID NOT COME UP until there was room"
            node.disk.limited = 0
            node.start()
        equal(node.ask("GET", "small"), b"value")
        equal(node.ask("EXISTS", "small", *taken), 1 + len(taken))
        node.disk.limited = 0
        eventually(lambda: node.ask("SET", "room", "again") == "OK", "no write was taken again", 10)
        return how


@contextlib.contextmanager
def small_file_system():
    """A tmpfs of its own."""
    if os.getuid() != 0:
        raise Skip("only root may mount a small file system")
    with tempfile.TemporaryDirectory(prefix="marline-tmpfs-") as place:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "marline-test", place],
                              capture_output=True)
        if done.returncode != 0:
            raise Skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
        try:
            yield pathlib.Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def disk_full_for_real(options):
    only_marline()
    with small_file_system() as place, Node(sync="always", sealed=options.sealed, data=place / "data") as node:
        node.start()
        filler = place / "filler"

        def make_full():
            with open(filler, "wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    while file.write(bytes(1 << 16)):
                        pass

        try:
            return refuse_and_recover(node, options.seed, make_full, filler.unlink)
        finally:
            node.kill()


# A slow disk.

def reads_go_on(node):
    """While a SET waits for a sync of two seconds, GETs answer at once."""
    with node.connect() as writer, node.connect() as reader:
        equal(writer.ask("CONFIG", "SET", "latency-monitor-threshold", "100"), "OK")
        equal(writer.ask("SET", "k", "old"), "OK")
        node.disk.slow_sync_ms = SLOW_MS
        start = time.monotonic()
        writer.send(b"SET k new\r\n")
        time.sleep(0.05)
        waits = []
        while time.monotonic() - start < 0.8 * SLOW_MS / 1000:
            before = time.monotonic()
            reply = reader.ask("GET", "k")
            waits.append(time.monotonic() - before)
            late = time.monotonic() - start > SLOW_MS / 1000
            check(reply == b"old" or late, f"GET shows what is not durable: {reply}")
            time.sleep(0.005)
        equal(writer.reply(), "OK")
        took = time.monotonic() - start
        node.disk.slow_sync_ms = 0
        check(took > 0.9 * SLOW_MS / 1000, f"SET was answered after {took:.2f} s, before it was synced")
        typical, worst = statistics.median(waits), max(waits)
        check(typical < 0.1 and worst < 1, f"GETs waited for the disk: {typical * 1000:.0f} ms, at worst {worst:.2f} s")
        equal(reader.ask("GET", "k"), b"new")
        events = reader.ask("LATENCY", "LATEST")
        check(any(event[3] >= SLOW_MS // 2 for event in events), f"LATENCY LATEST has no such event: {events}")
        names = ", ".join(event[0].decode() for event in events if event[3] >= SLOW_MS // 2)
        return f"{len(waits)} GETs, at worst {worst * 1000:.1f} ms, SET {took:.2f} s; LATENCY: {names}"


def slow_disk(options):
    with Node(sync="always", sealed=options.sealed, faulty=True) as node:
        node.start()
        return reads_go_on(node)


# The directory.

def two_processes(options):
    """A second process on the same directory is refused, and the first is unharmed."""
    only_marline()
    with Node(sealed=options.sealed) as node:
        node.start()
        equal(node.ask("SET", "k", "v"), "OK")
        first, second = node.server, None
        try:
            node.launch()
            second = node.server
            code = second.process.wait(20)
            said = second.log_text()
            equal(code, 1, "exit code of the second")
            contains(said, "another process uses")
        finally:
            node.server = first
            if second:
                second.stop()
        equal(node.ask("GET", "k"), b"v")


ALL = [sync_fails, write_fails, disk_full, disk_full_at_start, disk_full_for_real, slow_disk, two_processes]
