"""What durability costs, beside redis-server 7 with its append-only file on the same file system.

    scripts/bench durable [ROW ...] [--quick] [--rounds N] [--seconds S] [--keys N] [--directory DIR] [--slow-sync MS]

    set-always        SET, 50 connections, P=1: --sync always against appendfsync always
    mixed-always      90 % GET, 10 % SET, 50 connections, P=1, likewise
    pipelined-always  SET, 200 connections, P=16, likewise
    memory-only       SET and GET without persistence, P=1, 16, 64: the server's processor time a command
    set-1s            SET, P=1 and 16: --sync 1s against appendfsync everysec
    snapshot          p99.9 latency and memory while BGSAVE saves 10 M keys, against before
    start             from exec to the first key read, 10 M keys in a snapshot, against Redis and its RDB
    sealed            SET, P=16, --sync 1s: with sealing against without

Without a row, all of them. The servers take turns (A B A B ...) and medians are compared. The server has
core 0, the load core 1, but for snapshot and start, which may use both. Redis: save "", auto-aof-rewrite-percentage 0.
--slow-sync lets every sync of either server last that much longer (tests/crash/faulty_disk.c), for disks slower
than the one that is here: an ordinary one takes about 4 ms.
The load is redis-benchmark -r 1000000; where it mixes or keeps a rate, load.c. "by cpu" behind a verdict: the
load was the limit, and the server's processor time a command decides.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/crash"), str(HERE.parent / "tests/clients")]

from bench import (CLIENT_CORE, CONNECTIONS, RANDOM_KEYS, SERVER_CORE, load_keys, measure, random_load,  # noqa: E402
                   redis_benchmark, verdict)
from disk import FaultyDisk  # noqa: E402
from node import REDIS_FILES, write_keys  # noqa: E402
from server import STAND_IN, Connection, Server  # noqa: E402

ALL_CORES = f"0-{os.cpu_count() - 1}"
SYNCS_MEASURED = 50
LOAD_FIELDS = ["commands", "rate", "p50_us", "p99_us", "p999_us", "max_us", "own_cpu", "errors"]
GENERATOR_BUSY = 0.9
GET_PERCENT, VALUE_BYTES = 90, 32
SNAPSHOT_RATE = 10_000
FIRST_KEY = "key:%012d" % 0
START_SECONDS = 600


class Bench:
    def __init__(self, options, place):
        self.options, self.place, self.rows, self.missed = options, pathlib.Path(place), [], []
        self.disks = []

    def servers(self, sync, names=("Redis", "Marline"), pinned=True):
        """Servers with a fresh directory each, or with none when `sync` is None; not started."""
        made = {}
        for name in names:
            data, more = "none", []
            if sync:
                data, more = tempfile.mkdtemp(dir=self.place, prefix=f"{name.split()[0]}-"), ["--sync", sync]
            if name == "Marline sealed":
                keys = pathlib.Path(tempfile.mkdtemp(dir=self.place)) / "keys"
                write_keys(keys)
                more += ["--seal-keys", keys]
            made[name] = Server(STAND_IN if name == "Redis" else None, more, data=data,
                                environment=self.slow_disk(name, data) if sync else None,
                                prefix=["taskset", "-c", SERVER_CORE if pinned else ALL_CORES])
        return made

    def slow_disk(self, name, data):
        """The environment of a server whose syncs take longer; None if they are not to."""
        if not self.options.slow_sync:
            return None
        files = pathlib.Path(data) / REDIS_FILES if name == "Redis" else data
        disk = FaultyDisk(files, pathlib.Path(tempfile.mkdtemp(dir=self.place)) / "faults")
        disk.slow_sync_ms = self.options.slow_sync
        self.disks.append(disk)
        return disk.environment()

    def row(self, *cells, goal, met):
        cells = [*cells, goal, met]
        self.rows.append(cells)
        if met.startswith("MISSED"):
            self.missed.append(cells[0])
        print("  " + " | ".join(cells), flush=True)

    def turns(self, servers, function):
        """The medians of every column that `function(server)` gives, by server's name."""
        measured = {name: [] for name in servers}
        for _ in range(self.options.rounds):
            for name, server in servers.items():
                measured[name].append(function(server))
        return {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}

    def requests(self, servers, load, command, pipeline):
        """Warms up, and finds how many requests last long enough."""
        few = 5000 * pipeline
        fastest = max(measure(load, server, command, pipeline, few)[0] for server in servers.values())
        return max(few, int(fastest * self.options.seconds) // 1000 * 1000)

    def compare(self, what, servers, load, command, pipeline, goal, decides):
        """One row: rate and processor time of two servers. `decides`: what the goal is about, "rate", "cpu" or
        "either"."""
        requests = self.requests(servers, load, command, pipeline)
        medians = self.turns(servers, lambda server: measure(load, server, command, pipeline, requests))
        (rate, cost), (our_rate, our_cost) = medians.values()
        ratio, cpu_ratio = our_rate / rate, cost / our_cost
        met = {"rate": ratio, "cpu": cpu_ratio, "either": max(ratio, cpu_ratio)}[decides] >= goal
        by = " by cpu" if decides == "cpu" or decides == "either" and met and ratio < goal else ""
        self.row(what, f"{rate:,.0f}/s, {cost:,.0f} ns", f"{our_rate:,.0f}/s, {our_cost:,.0f} ns",
                 f"{ratio:.2f}x, cpu {cpu_ratio:.2f}x", goal=f">= {goal}x", met=verdict(met) + by)

    # Rows.

    def set_always(self):
        with started(self.servers("always")) as servers:
            self.compare(f"SET always, {CONNECTIONS} connections, P=1", servers, random_load, "SET", 1, 1.2, "rate")

    def pipelined_always(self):
        def load(port, command, pipeline, requests):
            return redis_benchmark(port, command, pipeline, requests, "-r", str(RANDOM_KEYS), connections=200)
        with started(self.servers("always")) as servers:
            self.compare("SET always, 200 connections, P=16", servers, load, "SET", 16, 2, "rate")

    def mixed_always(self):
        with started(self.servers("always")) as servers:
            for server in servers.values():
                load_keys(server, self.options.mixed_keys)

            def run(server):
                before = server.cpu_ns()
                said = self.load(server, self.options.seconds, 0, self.options.mixed_keys)
                return said["rate"], (server.cpu_ns() - before) / said["commands"], said["p999_us"], said["own_cpu"]

            medians = self.turns(servers, run)
        (rate, cost, slow, _), (our_rate, our_cost, our_slow, busy) = medians.values()
        limit = ", the load is the limit" if busy > GENERATOR_BUSY else ""
        self.row(f"90 % GET always, {CONNECTIONS} connections, P=1",
                 f"{rate:,.0f}/s, {cost:,.0f} ns, p99.9 {slow:,.0f} us",
                 f"{our_rate:,.0f}/s, {our_cost:,.0f} ns, p99.9 {our_slow:,.0f} us{limit}", f"{our_rate / rate:.2f}x",
                 goal=">= 5x", met=verdict(our_rate / rate >= 5))

    def memory_only(self):
        with started(self.servers(None)) as servers:
            for pipeline, goal in ((1, 1.05), (16, 1.4), (64, 1.7)):
                for command in ("SET", "GET"):
                    what = f"{command} memory only, P={pipeline}"
                    self.compare(what, servers, random_load, command, pipeline, goal, "cpu")

    def set_1s(self):
        with started(self.servers("1s")) as servers:
            for pipeline, goal in ((1, 1.1), (16, 1.5)):
                self.compare(f"SET 1s, P={pipeline}", servers, random_load, "SET", pipeline, goal, "either")

    def sealed(self):
        with started(self.servers("1s", ("Marline", "Marline sealed"))) as servers:
            self.compare("SET 1s, P=16, sealed (right) against not", servers, random_load, "SET", 16, 0.9, "either")

    def snapshot(self):
        medians = {}
        for name, server in self.servers("1s", pinned=False).items():
            with server:
                load_keys(server, self.options.keys)
                rounds = [self.one_snapshot(server) for _ in range(self.options.rounds)]
            medians[name] = [statistics.median(column) for column in zip(*rounds)]
        texts = [f"{before:,.0f} -> {during:,.0f} us ({took:.1f} s)" for before, during, took, _ in medians.values()]
        before, during, _, memory = medians["Marline"]
        keys = f"{self.options.keys / 1e6:g} M keys"
        self.row(f"p99.9 while BGSAVE of {keys}, {SNAPSHOT_RATE:,}/s", *texts, f"{during / before:.2f}x",
                 goal="<= 2x", met=verdict(during <= 2 * before))
        self.row(f"peak memory in BGSAVE of {keys} (Redis: without its child)", f"{medians['Redis'][3]:.2f}x",
                 f"{memory:.2f}x", f"{memory:.2f}x", goal="<= 1.15x", met=verdict(memory <= 1.15))

    def one_snapshot(self, server):
        """(p99.9 before, p99.9 during, seconds, peak memory by memory before)"""
        with Connection(server.port, timeout=120) as connection:
            wait_saved(connection)
            before = self.load(server, max(5, self.options.seconds), SNAPSHOT_RATE, self.options.keys)["p999_us"]
            memory = server.rss()
            pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forget the peak
            load = self.begin_load(server, START_SECONDS, SNAPSHOT_RATE, self.options.keys)
            try:
                start = time.monotonic()
                connection.ask("BGSAVE")
                wait_saved(connection)
                took = time.monotonic() - start
            finally:
                load.terminate()
            during = parsed(load.communicate(timeout=20)[0])["p999_us"]
            return before, during, took, peak(server) / memory

    def start(self):
        servers = {**self.servers("lie", ("Redis",), pinned=False),  # its RDB file alone
                   **self.servers("always", ("Marline",), pinned=False)}
        for server in servers.values():
            with server:
                load_keys(server, self.options.keys)
                with Connection(server.port, timeout=START_SECONDS) as connection:
                    if connection.ask("SAVE") != "OK":
                        raise RuntimeError("SAVE failed")
            warm(server.data)
        medians = self.turns(servers, lambda server: (time_to_read(server),))
        theirs, ours = medians["Redis"][0], medians["Marline"][0]
        self.row(f"start with {self.options.keys / 1e6:g} M keys", f"{theirs:.2f} s", f"{ours:.2f} s",
                 f"{ours / theirs:.2f}x", goal="<= 0.5x", met=verdict(ours <= 0.5 * theirs))

    # Load of our own.

    def begin_load(self, server, seconds, rate, keys):
        return subprocess.Popen(
            ["taskset", "-c", CLIENT_CORE, self.generator(), *map(str, (
                server.port, CONNECTIONS, 1, GET_PERCENT, keys, VALUE_BYTES, seconds, rate))],
            stdout=subprocess.PIPE, text=True)

    def load(self, server, seconds, rate, keys):
        with self.begin_load(server, seconds, rate, keys) as load:
            out = load.communicate(timeout=seconds + 60)[0]
        if load.returncode != 0:
            raise RuntimeError("the load failed")
        return parsed(out)

    def generator(self):
        return load_program(self.place)


@contextlib.contextmanager
def started(servers):
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(server) for name, server in servers.items()}


def load_program(place):
    """The path of load.c's program; it is compiled once into `place`."""
    program = pathlib.Path(place) / "load"
    if not program.exists():
        if not shutil.which("cc"):
            raise RuntimeError("there is no C compiler (cc) to make the load with")
        subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / "load.c"], check=True)
    return str(program)


def parsed(line):
    return dict(zip(LOAD_FIELDS, map(float, line.split())))


def wait_saved(connection):
    while b"rdb_bgsave_in_progress:0" not in connection.ask("INFO", "persistence"):
        time.sleep(0.01)


def peak(server):
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no peak of memory: the server is gone")


def warm(data):
    """Every file into the page cache."""
    for path in pathlib.Path(data).rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def time_to_read(server):
    """Seconds from exec until a key can be read."""
    start = time.monotonic()
    server.launch()
    try:
        while time.monotonic() - start < START_SECONDS:
            if server.process.poll() is not None:
                raise RuntimeError(f"the server did not start\n{server.log_text()}")
            with contextlib.suppress(OSError, EOFError):
                with Connection(server.port, timeout=START_SECONDS) as connection:
                    if isinstance(connection.ask("GET", FIRST_KEY), bytes):
                        return time.monotonic() - start
            time.sleep(0.002)
        raise RuntimeError("the server does not load its data")
    finally:
        server.stop()


def sync_ms(place):
    """The median time of an fdatasync behind a small write to the end of a file here."""
    times = []
    with open(pathlib.Path(place) / "synced", "wb", buffering=0) as file:
        for _ in range(SYNCS_MEASURED):
            file.write(b"x" * 300)
            start = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - start)
    return 1000 * statistics.median(times)


def file_system(place):
    return subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True).stdout.strip()


ROWS = {"set-always": Bench.set_always, "mixed-always": Bench.mixed_always, "pipelined-always": Bench.pipelined_always,
        "memory-only": Bench.memory_only, "set-1s": Bench.set_1s, "snapshot": Bench.snapshot, "start": Bench.start,
        "sealed": Bench.sealed}


def markdown(head, rows):
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")


def row_name(name):
    if name not in ROWS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(ROWS)}")
    return name


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench durable", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), type=row_name, metavar="row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="about how long one measurement lasts")
    parser.add_argument("--keys", type=int, default=10_000_000, help="of snapshot and start")
    parser.add_argument("--quick", action="store_true", help="1 M keys, 1 round, 1 second: to try it")
    parser.add_argument("--slow-sync", type=int, default=0, metavar="MS", help="added to every sync")
    parser.add_argument("--directory", help="where the data is kept meanwhile (default: a temporary directory)")
    options = parser.parse_args()
    options.mixed_keys = 1_000_000
    if options.quick:
        options.rounds, options.seconds, options.keys, options.mixed_keys = 1, 1, 1_000_000, 100_000
    os.sched_setaffinity(0, {int(CLIENT_CORE)})
    with tempfile.TemporaryDirectory(prefix="marline-bench-", dir=options.directory) as place:
        head = (f"durable: {options.rounds} rounds, medians; {file_system(place)}, "
                f"fdatasync {sync_ms(place) + options.slow_sync:.1f} ms; {os.cpu_count()} cores")
        bench = Bench(options, place)
        for name in options.rows:
            ROWS[name](bench)
            for old in bench.place.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
    print(f"\n{head}\n")
    markdown(["load", "Redis", "Marline", "ratio", "goal", ""], bench.rows)
    if bench.missed:
        print(f"\nmissed: {'; '.join(bench.missed)}")


if __name__ == "__main__":
    main()
