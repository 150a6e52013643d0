"""A cluster of real nodes on this machine, and what it says of itself."""

import binascii
import pathlib
import shutil
import signal
import tempfile
import time

from harness import check
from resp import ErrorReply, Incomplete, encode
from server import Connection, Server, free_port, marline_binary

NODES = 3
START_SECONDS = 60
HEAL_SECONDS = 60
EQUAL_SECONDS = 30
# What replies to a command may take: a write waits 10 s for a leader, one that was passed on 30 s for its answer.
REPLY_SECONDS = 40


class Node:
    """One node: its data outlive its processes. `prefix` is put before its command."""

    def __init__(self, home, number, host, port, prefix=()):
        self.number, self.host, self.port, self.prefix = number, host, port, list(prefix)
        self.data, self.log = home / f"data-{number}", home / f"log-{number}"
        self.server = None

    def __str__(self):
        return f"node {self.number}"

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def launch(self, options):
        environment = {"RUST_BACKTRACE": "1"}
        self.server = Server(marline_binary(), options, data=self.data, prefix=self.prefix, environment=environment,
                             port=self.port)
        self.server.host = self.host
        self.server.launch()

    @property
    def runs(self):
        return self.server is not None

    def signal(self, number):
        self.server.process.send_signal(number)

    def kill(self):
        """kill -9, or nothing when it does not run."""
        if self.runs:
            self.server.kill()
            self.end()

    def wipe(self):
        """kill -9, and the data are gone, too."""
        self.kill()
        shutil.rmtree(self.data)

    def terminate(self):
        """SIGTERM; it has to end with exit code 0."""
        self.signal(signal.SIGTERM)
        code = self.server.process.wait(60)
        self.end()
        check(code == 0, f"{self} ended with exit code {code} after SIGTERM; its log ends:\n{self.last_words()}")

    def end(self):
        """Appends the log of a process that has ended to that of the node."""
        with open(self.log, "a") as log:
            log.write(pathlib.Path(self.server.log.name).read_text(errors="replace"))
        self.server.stop()
        self.server = None

    def demand_running(self):
        if self.runs and self.server.process.poll() is not None:
            code = self.server.process.returncode
            self.end()
            raise AssertionError(f"{self} ended by itself, exit code {code}; its log ends:\n{self.last_words()}")

    def last_words(self):
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    def connect(self, timeout=REPLY_SECONDS):
        return Connection(self.port, timeout, self.host)

    def ask(self, *args, timeout=REPLY_SECONDS):
        with self.connect(timeout) as connection:
            return connection.ask(*args)

    def lines(self, *args, timeout=2):
        """A reply of lines as {shard: {word: value}}; empty when there is none."""
        try:
            reply = self.ask(*args, timeout=timeout)
        except (OSError, EOFError, Incomplete):
            return {}
        if isinstance(reply, ErrorReply):
            return {}
        lines = [dict(word.split("=", 1) for word in line.decode().split()) for line in reply]
        return {line["shard"]: line for line in lines}

    def status(self):
        return self.lines("REPL", "STATUS")


class Cluster:
    """Use it with `with`. `places`: (host, prefix of the command) for each node."""

    def __init__(self, places=((None, ()),) * NODES, options=()):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="marline-cluster-")).resolve()
        self.nodes = []
        ports = set()
        while len(ports) < len(places):
            ports.add(free_port())
        for number, ((host, prefix), port) in enumerate(zip(places, sorted(ports)), 1):
            self.nodes.append(Node(self.home, number, host or "127.0.0.1", port, prefix))
        founders = ",".join(node.address for node in self.nodes)
        self.options = ["--cluster", founders, *options]

    def __enter__(self):
        try:
            for node in self.nodes:
                node.launch(self.options)
            self.heal(START_SECONDS)
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind, *_):
        for node in self.running():
            node.signal(signal.SIGCONT)
        if kind is None:
            self.discard()
            return
        for node in self.nodes:
            node.kill()
        print(f"    kept: {self.home}", flush=True)

    def discard(self):
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def running(self):
        return [node for node in self.nodes if node.runs]

    def start(self, node):
        node.launch(self.options)

    def leaders(self, nodes=None):
        """shard -> (term, node) of those who say that they lead; of two, the one of the later term."""
        led = {}
        for node in nodes or self.running():
            for shard, line in node.status().items():
                if line["role"] == "leader":
                    led[shard] = max(led.get(shard, (0, None)), (int(line["term"]), node), key=lambda pair: pair[0])
        return led

    def leader_of(self, shard):
        return self.leaders()[shard][1]

    def busiest(self, number=None):
        """(shard, its leader) of the shard with the most entries, of those that `number` leads if it is given."""
        lines = [(int(line["index"]), shard, node) for node in self.running()
                 for shard, line in node.status().items()
                 if line["role"] == "leader" and shard != "meta" and number in (None, node.number)]
        return max(lines, key=lambda line: line[0])[1:]

    def heal(self, seconds=HEAL_SECONDS):
        """Waits until every shard has a leader and every node that runs has applied what it has committed."""
        lacking = eventually(self.lacking, seconds)
        check(lacking is None, f"after {seconds} s: {lacking}")

    def lacking(self):
        commits = {}
        for node in self.running():
            node.demand_running()
            lines = node.status()
            if not lines:
                return f"{node} has no replica or does not answer"
            commits.update({shard: int(line["commit"]) for shard, line in lines.items()
                            if line["role"] == "leader"})
        # Asked again: what was committed by then has been applied, whatever the load has added meanwhile.
        for node in self.running():
            for shard, line in node.status().items():
                if shard not in commits:
                    return f"shard {shard} has no leader"
                if int(line["applied"]) < commits[shard]:
                    return f"{node} has applied shard {shard} to {line['applied']}, not {commits[shard]}"
        return None

    def demand_whole(self):
        """Waits until every shard has a voter on every node."""
        lacking = eventually(self.gap, HEAL_SECONDS)
        check(lacking is None, f"after {HEAL_SECONDS} s: {lacking}")

    def gap(self):
        held = {node: node.status() for node in self.running()}
        for shard in sorted({shard for lines in held.values() for shard in lines}):
            roles = [lines[shard]["role"] if shard in lines else "nothing" for lines in held.values()]
            if set(roles) - {"leader", "follower"} or "leader" not in roles:
                return f"of shard {shard} the nodes hold: {', '.join(roles)}"
        return None if all(held.values()) else "a node has no replica or does not answer"

    def demand_equal(self):
        """Every replica of every shard has applied the same entries, and holds the same keys."""
        unequal = eventually(self.unequal, EQUAL_SECONDS)
        check(unequal is None, f"after {EQUAL_SECONDS} s of rest: {unequal}")

    def unequal(self):
        digests = {node: node.lines("REPL", "DIGEST", timeout=10) for node in self.running()}
        for shard in sorted({shard for lines in digests.values() for shard in lines}):
            said = {node.number: (lines[shard]["applied"], lines[shard]["digest"])
                    for node, lines in digests.items() if shard in lines}
            if len(set(said.values())) > 1 or len(said) < len(digests):
                return f"shard {shard} differs, node: (applied, digest) is {said}"
        return None


def eventually(complaint, seconds):
    """Asks again until there is no complaint; the last one."""
    deadline = time.monotonic() + seconds
    while (said := complaint()) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    return said


def values(node, names, at_once=500):
    """name -> value of all of `names`, read through one node."""
    found = {}
    with node.connect() as connection:
        for at in range(0, len(names), at_once):
            some = names[at:at + at_once]
            connection.send(b"".join(encode(("GET", name)) for name in some))
            for name in some:
                value = connection.reply()
                check(not isinstance(value, ErrorReply), f"GET {name} through {node}: {value}")
                if value is not None:
                    found[name] = value
    return found


def shard_of(key, shards=16):
    """Where a key lives: its slot is CRC16/XMODEM of it or of its {tag}."""
    tag = key.partition("{")[2].partition("}")
    hashed = tag[0] if tag[0] and tag[1] else key
    return str(binascii.crc_hqx(hashed.encode(), 0) % 16384 * shards // 16384)
