"""Three nodes of Marline on this machine, beside a three-member etcd and a redis-server with two replicas.

    scripts/bench cluster [--only ROW ...] [--quick] [--rounds N] [--seconds S] [--kills N] [--directory DIR]
                          [--logs DIR]

    writes      linearizable SET, 256 connections, P=1 and 16, --sync always, against etcd's /v3/kv/put
    reads       linearizable GET, likewise, against etcd's /v3/kv/range
    replicated  SET, 50 connections, P=16, --sync 1s, against a primary with two replicas (appendfsync everysec),
                whose clients wait for no replica, and whose clients send WAIT 1 behind each 16
    forwarding  SET and GET, 50 connections, P=16, --sync 1s: keys that two nodes lead, through the third, against
                each asked for its own
    kill        the longest time between two acknowledged writes when the leader of the key's shard is killed (kill -9),
                the writer being another node's client; it is started again, and so on
    stop        the same when the leader is stopped (SIGSTOP) for 5 s and goes on (SIGCONT)
    join        a fourth node joins 1 M keys while 20 connections at the three read and write (50 % each)
    idle        processor time of each node of a cluster with 100,000 keys and no client

Without --only, all of them. Keys are key:%012d at random among 100,000 (join: 1 M), values 100 bytes, the same for
all. All servers and the load share all cores: nothing is pinned. The servers of a row take turns (A B A B ...) and
medians are compared. Connections are spread evenly over the three nodes of Marline; etcd is asked at all its members
or at its leader alone, whichever was faster in a trial before; it syncs before it answers, as it does by default. Its
load is wrk (3 threads, so 258 connections instead of 256), ours load.c. Redis is asked at its primary, which alone
takes writes.

kill and stop: the writer waits for each answer and 2 ms, so a write that nobody answers counts until it is answered or
refused. Errors between are counted; one command may be refused or its outcome unknown when its leader dies.
"""

import argparse
import collections
import math
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/crash"), str(HERE.parent / "tests/clients")]

from bench_durable import GENERATOR_BUSY, file_system, load_program, markdown, parsed, sync_ms  # noqa: E402
from bench_peers import Etcd, Nodes, RedisTrio, key_of, wait_for  # noqa: E402
from resp import ErrorReply  # noqa: E402
from server import Connection, marline_binary  # noqa: E402

PIPELINE = 16
CONNECTIONS = 50
WRITES_GOALS, READS_GOALS = {1: 4, PIPELINE: 15}, {1: 4, PIPELINE: 20}
FORWARDING_GOAL = 0.6
KILL_GOAL, STOP_GOAL = 1.5, 2.5
JOIN_CONNECTIONS, JOIN_GET_PERCENT, JOIN_SECONDS = 20, 50, 600
IDLE_GOAL, REST_SECONDS = 1.0, 5
STOP_SECONDS = 5
WRITER_PAUSE = 0.002
# After a kill or a stop, as long as this is watched, and further until writes have gone on for this long.
WATCH_SECONDS, CALM_SECONDS, GIVE_UP_SECONDS = 3, 1, 60
SURE_GAP_SECONDS = 0.2
NOTHING = "-"


class Bench:
    def __init__(self, options, place):
        self.options, self.place, self.rows, self.short, self.skipped = options, pathlib.Path(place), [], [], []

    def row(self, what, peer, ours, ratio, goal, met):
        verdict = "met" if met else "short"
        self.rows.append([what, peer, ours, ratio, goal, verdict])
        if not met:
            self.short.append(what)
        print("  " + " | ".join(self.rows[-1]), flush=True)

    def lacks(self, row, *programs):
        """Whether a row cannot be measured because a peer is not here; says so loudly."""
        missing = [program for program in programs if not shutil.which(program)]
        if missing:
            self.skipped.append(f"{row} ({', '.join(missing)} not installed)")
            print(f"\n!!! {row}: SKIPPED: {', '.join(missing)} not installed; scripts/install peers installs it\n",
                  flush=True)
        return bool(missing)

    def turns(self, functions):
        """The medians of every column that a function gives, by its name; they take turns."""
        measured = {name: [] for name in functions}
        for _ in range(self.options.rounds):
            for name, function in functions.items():
                measured[name].append(function())
        return {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}

    def nodes(self, sync):
        return Nodes(self.place, sync, logs=self.options.logs)

    # Load.

    def load(self, places, connections, pipeline, get_percent, wait=0):
        """(commands a second, p99 in microseconds, part of a core that the load itself took)"""
        words = self.load_words(places, connections, pipeline, get_percent, self.options.keys, self.options.seconds)
        if wait:
            words[1:1] = ["-w", str(wait)]
        said = parsed(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True,
                                     timeout=self.options.seconds + 60).stdout)
        return said["rate"], said["p99_us"], said["own_cpu"]

    def load_words(self, places, connections, pipeline, get_percent, keys, seconds):
        numbers = [connections, pipeline, get_percent, keys, self.options.value_bytes, seconds, 0]
        return [load_program(self.place), ",".join(map(str, places)), *map(str, numbers)]

    # Throughput.

    def writes(self):
        self.beside_etcd("writes", "SET", "put", WRITES_GOALS)

    def reads(self):
        self.beside_etcd("reads", "GET", "range", READS_GOALS)

    def beside_etcd(self, row, command, verb, goals):
        if self.lacks(row, "etcd", "wrk"):
            return
        with Etcd(self.place, self.options) as etcd, self.nodes("always") as nodes:
            if command == "GET":
                etcd.fill()
                nodes.fill(self.options.keys, self.options.value_bytes)
            etcd.choose(verb)
            percent = 100 if command == "GET" else 0
            ours = {pipeline: lambda pipeline=pipeline: self.load(
                nodes.ports(), self.options.connections, pipeline, percent) for pipeline in goals}
            medians = self.turns({"etcd": lambda: etcd.measure(verb), **ours})
        rate = medians["etcd"][0]
        for pipeline, goal in goals.items():
            our_rate = medians[pipeline][0]
            self.row(f"{command} always, {self.options.connections} connections, P={pipeline}",
                     f"etcd ({etcd.asked}): {shown(*medians['etcd'])}", shown(*medians[pipeline]),
                     f"{our_rate / rate:.1f}x", f">= {goal}x", our_rate >= goal * rate)

    def replicated(self):
        if self.lacks("replicated", "redis-server"):
            return
        with RedisTrio(self.place, "1s") as redis, self.nodes("1s") as nodes:
            primary = redis.ports()[:1]
            peers = {"async": 0, "WAIT 1": 1}
            medians = self.turns({
                **{name: lambda wait=wait: self.load(primary, CONNECTIONS, PIPELINE, 0, wait)
                   for name, wait in peers.items()},
                "ours": lambda: self.load(nodes.ports(), CONNECTIONS, PIPELINE, 0)})
        our_rate = medians["ours"][0]
        for name in peers:
            rate = medians[name][0]
            self.row(f"SET 1s, {CONNECTIONS} connections, P={PIPELINE}, replicated",
                     f"Redis, {name}: {shown(*medians[name])}", shown(*medians["ours"]), f"{our_rate / rate:.2f}x",
                     ">= 1x", our_rate >= rate)

    def forwarding(self):
        with self.nodes("1s") as nodes:
            nodes.fill(self.options.keys, self.options.value_bytes)
            through, *leaders = nodes.ports()
            keys = nodes.keys_by_leader(self.options.keys)
            files = {port: self.keys_file(port, keys[port]) for port in leaders}
            both = self.keys_file("both", [key for port in leaders for key in keys[port]])
            direct, forwarded = [f"{port}@{file}" for port, file in files.items()], [f"{through}@{both}"]
            for command, percent in (("SET", 0), ("GET", 100)):
                medians = self.turns({
                    "direct": lambda: self.load(direct, CONNECTIONS, PIPELINE, percent),
                    "forwarded": lambda: self.load(forwarded, CONNECTIONS, PIPELINE, percent)})
                rate, our_rate = medians["direct"][0], medians["forwarded"][0]
                self.row(f"{command} 1s, {CONNECTIONS} connections, P={PIPELINE}, forwarded",
                         f"leaders asked: {shown(*medians['direct'])}", shown(*medians["forwarded"]),
                         f"{our_rate / rate:.2f}x", f">= {FORWARDING_GOAL}x", our_rate >= FORWARDING_GOAL * rate)
            if nodes.keys_by_leader(self.options.keys) != keys:
                print("  ODD: leaders moved while forwarding was measured", flush=True)

    def keys_file(self, name, keys):
        path = self.place / f"keys-{name}"
        path.write_text("\n".join(map(str, keys)))
        return path

    # Faults.

    def kill(self):
        def fault(nodes, victim):
            victim.kill()
            return lambda: nodes.restart(victim)
        self.gaps("kill -9 of the leader", KILL_GOAL, fault)

    def stop(self):
        def fault(_, victim):
            victim.process.send_signal(signal.SIGSTOP)
            time.sleep(self.options.stop_seconds)
            victim.process.send_signal(signal.SIGCONT)
            return lambda: None
        self.gaps(f"SIGSTOP of the leader for {self.options.stop_seconds:g} s", STOP_GOAL, fault)

    def gaps(self, what, goal, fault):
        """Makes `fault(nodes, victim)` again and again, which gives how it is mended."""
        gaps, errors = [], collections.Counter()
        with self.nodes("always") as nodes:
            for n in range(self.options.kills):
                victim, through = nodes.servers[n % 3], nodes.servers[(n + 1 + n // 3 % 2) % 3]
                keys = nodes.keys_by_leader(1000)[victim.port]
                if not keys:
                    raise RuntimeError(f"port {victim.port} leads nothing")
                key = key_of(keys[n % len(keys)])
                with Writer(through.port, key, self.options.value_bytes) as writer:
                    time.sleep(0.5)
                    at = time.monotonic()
                    mend = fault(nodes, victim)
                    gaps.append(writer.watch(at))
                errors += writer.errors
                print(f"  {n + 1}: {gaps[-1] * 1000:,.0f} ms{described(writer.errors)}", flush=True)
                if gaps[-1] < SURE_GAP_SECONDS:
                    print("  ODD: no election is so fast: another node led the key", flush=True)
                mend()
                nodes.ready()
        p50, p99 = percentile(gaps, 0.5), percentile(gaps, 0.99)
        self.row(f"write gap after {what}, {len(gaps)} times", NOTHING,
                 f"p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(gaps):.2f} s{described(errors)}", NOTHING,
                 f"p99 <= {goal} s", p99 <= goal)

    # Membership and rest.

    def join(self):
        options = self.options
        with self.nodes("always") as nodes:
            nodes.fill(options.join_keys, options.value_bytes)
            program, *words = self.load_words(nodes.ports(), JOIN_CONNECTIONS, 1, JOIN_GET_PERCENT, options.join_keys,
                                              JOIN_SECONDS)
            load = subprocess.Popen([program, "-e", *words], stdout=subprocess.PIPE, text=True)
            try:
                time.sleep(2)
                held, led = self.time_to_share(nodes)
                time.sleep(2)
            finally:
                load.terminate()
                out = load.communicate(timeout=60)[0]
            if load.returncode != 0:
                raise RuntimeError("the load of join failed")
            said = parsed(out)
        self.row(f"a 4th node joins {options.join_keys / 1e6:g} M keys, {JOIN_CONNECTIONS} connections", NOTHING,
                 f"{said['errors']:,.0f} errors in {said['commands']:,.0f} commands ({said['rate']:,.0f}/s, "
                 f"longest {said['max_us'] / 1000:,.0f} ms); has its replicas after {held:.1f} s, leads its share "
                 f"after {led:.1f} s", NOTHING, "0 errors", said["errors"] == 0)

    def time_to_share(self, nodes):
        """Seconds from the start of a fourth node until it votes on its share of replicas, and until it leads its
        share of shards."""
        shards = len(nodes.status(nodes.servers[0]))
        share, began = shards * 3 // 4, time.monotonic()
        node = nodes.join()

        def votes_on_share():
            nodes.is_up(node)
            return sum(line["role"] != "learner" for line in nodes.status(node)) >= share

        def leads_share():
            return len(nodes.led()[node.port]) >= shards // 4

        wait_for(f"the 4th node has {share} of {3 * shards} replicas", votes_on_share, JOIN_SECONDS / 2)
        held = time.monotonic() - began
        wait_for(f"the 4th node leads {shards // 4} of {shards} shards", leads_share, JOIN_SECONDS / 4)
        return held, time.monotonic() - began

    def idle(self):
        with self.nodes("always") as nodes:
            nodes.fill(self.options.keys, self.options.value_bytes)
            time.sleep(REST_SECONDS)
            before = [cpu_seconds(node) for node in nodes.servers]
            time.sleep(self.options.idle_seconds)
            used = [cpu_seconds(node) - start for node, start in zip(nodes.servers, before)]
        percents = [100 * seconds / self.options.idle_seconds for seconds in used]
        self.row(f"idle cluster of 3, {self.options.keys:,} keys, {self.options.idle_seconds:g} s", NOTHING,
                 ", ".join(f"{percent:.2f} %" for percent in percents) + " of a core", NOTHING,
                 f"<= {IDLE_GOAL:g} % each", max(percents) <= IDLE_GOAL)


class Writer:
    """A client that writes to one key again and again, and remembers when it was answered."""

    def __init__(self, port, key, value_bytes):
        self.command, self.port = ("SET", key, b"v" * value_bytes), port
        self.acknowledged, self.errors, self.is_over = [], collections.Counter(), False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        connection = None
        while not self.is_over:
            try:
                connection = connection or Connection(self.port)
                said = connection.ask(*self.command)
                if isinstance(said, ErrorReply):
                    self.errors[said.split()[0]] += 1
                else:
                    self.acknowledged.append(time.monotonic())
            except (OSError, EOFError) as error:
                self.errors[type(error).__name__] += 1
                connection = None
            time.sleep(WRITER_PAUSE)
        if connection:
            connection.close()

    def watch(self, at):
        """The longest time between two answers from the last one before `at` until writes go on and nothing more
        is to be expected."""
        until = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < until or not self.is_calm():
            if time.monotonic() > until + GIVE_UP_SECONDS:
                raise RuntimeError(f"writes do not go on after {GIVE_UP_SECONDS} s{described(self.errors)}")
            time.sleep(0.02)
        before = [time for time in self.acknowledged if time <= at][-1:]
        times = before + [time for time in self.acknowledged if time > at]
        return max(later - earlier for earlier, later in zip(times, times[1:]))

    def is_calm(self):
        """Whether writes went on all the time, lately."""
        now = time.monotonic()
        recent = [now - CALM_SECONDS, *(at for at in list(self.acknowledged) if at > now - CALM_SECONDS), now]
        return max(later - earlier for earlier, later in zip(recent, recent[1:])) < CALM_SECONDS / 2

    def __enter__(self):
        self.thread.start()
        wait_for("the first write is answered", lambda: self.acknowledged, 30, pause=0.005)
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join(timeout=5)


def shown(rate, p99_us, busy=0):
    """A rate with its latency, and how busy the load was when it may have been the limit."""
    limit = f", load {100 * busy:.0f} % of a core" if busy > GENERATOR_BUSY else ""
    return f"{rate:,.0f}/s, p99 {p99_us / 1000:,.1f} ms{limit}"


def described(errors):
    return "".join(f", {count} {what}" for what, count in sorted(errors.items()))


def percentile(values, part):
    """By nearest rank: of few values, the 99th percentile is the longest."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def cpu_seconds(node):
    """Processor time of a process until now, user and system."""
    fields = pathlib.Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ROWS = {"writes": Bench.writes, "reads": Bench.reads, "replicated": Bench.replicated, "forwarding": Bench.forwarding,
        "kill": Bench.kill, "stop": Bench.stop, "join": Bench.join, "idle": Bench.idle}


def versions():
    """The first line that says so, of every program that takes part."""
    commands = {"Marline": [marline_binary(), "--version"], "etcd": ["etcd", "--version"],
                "redis-server": ["redis-server", "--version"], "wrk": ["wrk", "--version"]}
    texts = []
    for name, words in commands.items():
        if not shutil.which(words[0]):
            texts.append(f"{name}: NOT INSTALLED")
            continue
        said = subprocess.run(words, capture_output=True, text=True)
        texts.append(f"{name}: {((said.stdout + said.stderr).splitlines() or ['?'])[0]}")
    return texts


def options_of(arguments):
    parser = argparse.ArgumentParser(prog="scripts/bench cluster", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help="may be given again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="how long one measurement lasts")
    parser.add_argument("--kills", type=int, default=20, help="how often a node is killed, or stopped")
    parser.add_argument("--quick", action="store_true", help="1 round of 2 s, 3 kills, 50,000 keys for join: to try it")
    parser.add_argument("--logs", metavar="DIR", help="keep what the nodes of Marline said, a file for each process")
    parser.add_argument("--directory", help="where the data is kept meanwhile (default: a temporary directory)")
    options = parser.parse_args(arguments)
    options.keys, options.value_bytes, options.connections = 100_000, 100, 256
    options.join_keys, options.idle_seconds, options.stop_seconds = 1_000_000, 20, STOP_SECONDS
    if options.quick:
        options.rounds, options.seconds, options.kills = 1, 2, min(3, options.kills)
        options.join_keys, options.idle_seconds = 50_000, 5
    return options


def interrupted(*_):
    """Once is enough: what was started is being ended now, and must not be interrupted at that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    options = options_of(sys.argv[1:])
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        with tempfile.TemporaryDirectory(prefix="marline-bench-", dir=options.directory) as place:
            head = [f"cluster: {options.rounds} rounds of {options.seconds:g} s, medians; {file_system(place)}, "
                    f"fdatasync {sync_ms(place):.1f} ms; {os.cpu_count()} cores", *versions()]
            print("\n".join(head), flush=True)
            bench = Bench(options, place)
            for name in options.only or ROWS:
                print(f"{name}:", flush=True)
                ROWS[name](bench)
                for old in bench.place.iterdir():
                    if old.is_dir():
                        shutil.rmtree(old)
    except KeyboardInterrupt:
        sys.exit("interrupted; everything that was started was ended")
    print("\n" + "\n".join(head) + "\n")
    markdown(["load", "peer", "Marline", "ratio", "goal", ""], bench.rows)
    if bench.short:
        print(f"\nshort: {'; '.join(bench.short)}")
    if bench.skipped:
        print(f"\n!!! SKIPPED: {'; '.join(bench.skipped)}")


if __name__ == "__main__":
    main()
