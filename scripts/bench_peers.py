"""Groups of servers that scripts/bench cluster starts and ends: etcd, redis-server with replicas, and Marline.

Every server is a tests/clients/server.py one, with its data in a directory of its own below the benchmark's, and is
ended by its own process id when its group is left, however that comes about.
"""

import base64
import binascii
import bisect
import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

from resp import ErrorReply, Incomplete
from server import STAND_IN, Connection, Server, free_port

HERE = pathlib.Path(__file__).resolve().parent
WRK_THREADS = 3
FOUNDED_SECONDS = 60
SPREAD_SECONDS = 40
FILL_CHUNK = 500
TXN_PUTS = 100  # etcd takes 128 operations in one transaction


def wait_for(what, condition, seconds, pause=0.05):
    """Waits until `condition()` is true; gives the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return time.monotonic() - began


def distinct_ports(count):
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


def key_of(number):
    """As load.c has them."""
    return b"key:%012d" % number


class Group:
    """Servers that are started and ended together; use it with `with`. `ready` waits until they can be measured."""

    def __init__(self, servers):
        self.servers = servers

    def __enter__(self):
        try:
            for server in self.servers:
                server.launch()
            self.ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def ports(self):
        return [server.port for server in self.servers]

    def ready(self):
        for server in self.servers:
            wait_for(f"port {server.port} answers", lambda: self.is_up(server), FOUNDED_SECONDS)

    def is_up(self, server):
        if server.process.poll() is not None:
            raise RuntimeError(f"a server ended: {' '.join(server.command())}\n{server.log_text()}")
        return server.answers()

    def stop(self):
        alive = [server for server in self.servers if server.process]
        for server in alive:
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.process.send_signal(signal.SIGTERM)
        for server in alive:
            server.stop()


def directory(place, name):
    return tempfile.mkdtemp(dir=place, prefix=f"{name}-")


# etcd


class EtcdServer(Server):
    """One member; its peers reach it at its port + 100."""

    def __init__(self, name, data):
        super().__init__("etcd", data=data)
        self.name, self.members = name, ""

    def command(self, *_):
        url, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.port + 100}"
        return [self.binary, "--name", self.name, "--data-dir", self.data, "--logger", "zap",
                "--listen-client-urls", url, "--advertise-client-urls", url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", self.members, "--initial-cluster-state", "new"]

    def ask(self, path, body):
        """What the JSON gateway says to a request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.load(reply)

    def answers(self):
        try:
            return self.ask("/v3/maintenance/status", {}).get("leader", "0") != "0"
        except OSError:
            return False

    def leads(self):
        status = self.ask("/v3/maintenance/status", {})
        return status["leader"] == status["header"]["member_id"]


class Etcd(Group):
    """Three members, as they come: each write is on the disks of two before it is answered."""

    def __init__(self, place, options):
        super().__init__([EtcdServer(f"e{n}", directory(place, "etcd")) for n in range(3)])
        for server, port in zip(self.servers, distinct_ports(3)):
            server.port = port
        members = ",".join(f"{server.name}=http://127.0.0.1:{server.port + 100}" for server in self.servers)
        for server in self.servers:
            server.members = members
        self.options, self.asked = options, None

    def fill(self):
        """All keys, so that a read finds something."""
        text = lambda data: base64.b64encode(data).decode()  # noqa: E731
        value = text(b"v" * self.options.value_bytes)
        leader = self.leader()
        for at in range(0, self.options.keys, TXN_PUTS):
            some = range(at, min(at + TXN_PUTS, self.options.keys))
            puts = [{"requestPut": {"key": text(key_of(n)), "value": value}} for n in some]
            leader.ask("/v3/kv/txn", {"success": puts})
        said = leader.ask("/v3/kv/range", {"key": text(b"key:"), "range_end": text(b"key;"), "count_only": True})
        if int(said["count"]) != self.options.keys:
            raise RuntimeError("etcd does not have every key")

    def leader(self):
        return next(server for server in self.servers if server.leads())

    def choose(self, verb):
        """Tries its leader alone and all members for a moment, and measures what is faster from then on."""
        candidates = {"all three": self.ports(), "its leader": [self.leader().port]}
        rates = {who: self.wrk(verb, ports, max(1, self.options.seconds / 2))[0] for who, ports in candidates.items()}
        self.asked = max(rates, key=rates.get)
        self.asked_ports = candidates[self.asked]
        print(f"  etcd {verb}: " + ", ".join(f"{who} asked {rate:,.0f}/s" for who, rate in rates.items()), flush=True)

    def measure(self, verb):
        return self.wrk(verb, self.asked_ports, self.options.seconds)

    def wrk(self, verb, ports, seconds):
        """(requests a second, p99 in microseconds)"""
        environment = {**os.environ, "ETCD_PORTS": ",".join(map(str, ports)), "KEYS": str(self.options.keys),
                       "VALUE_BYTES": str(self.options.value_bytes)}
        each = -(-self.options.connections // WRK_THREADS)
        said = subprocess.run(
            ["wrk", "-t", str(WRK_THREADS), "-c", str(each * WRK_THREADS), "-d", f"{round(seconds)}s",
             "--timeout", "10s", "-s", HERE / "etcd.lua", f"http://127.0.0.1:{ports[0]}", "--", verb],
            env=environment, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
        line = next(line for line in said.splitlines() if line.startswith("etcd "))
        requests, micros, _, p99, bad, lost = map(int, line.split()[1:])
        if bad or lost or not requests:
            raise RuntimeError(f"etcd: {requests} requests, {bad} answered with an error, {lost} lost or late\n{said}")
        return requests / micros * 1e6, p99


# redis-server


class RedisTrio(Group):
    """A primary and two replicas, each with its append-only file."""

    def __init__(self, place, sync):
        super().__init__([Server(STAND_IN, ["--sync", sync], data=directory(place, "Redis")) for _ in range(3)])
        for server, port in zip(self.servers, distinct_ports(3)):
            server.port = port

    def ready(self):
        super().ready()
        primary, *replicas = self.servers
        for replica in replicas:
            with Connection(replica.port) as connection:
                connection.ask("REPLICAOF", "127.0.0.1", primary.port)

        def are_online():
            with Connection(primary.port) as connection:
                return connection.ask("INFO", "replication").count(b"state=online") == len(replicas)

        wait_for("two replicas of Redis are online", are_online, FOUNDED_SECONDS)


# Marline


class NodeServer(Server):
    """One node. A panic in its log is told of, and the log is kept if there is a directory for it."""

    logs = None

    def stop(self):
        path = pathlib.Path(self.log.name)
        if path.exists():
            if "panicked" in path.read_text(errors="replace"):
                print(f"  ODD: the node at port {self.port} panicked:\n{self.log_text()}", flush=True)
            if self.logs:
                pathlib.Path(self.logs).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, pathlib.Path(self.logs) / f"{self.port}-{self.process.pid}.log")
        super().stop()


class Nodes(Group):
    """Nodes that found a cluster together. They can be killed, started again, and joined by others."""

    def __init__(self, place, sync, logs=None):
        ports = distinct_ports(3)
        self.place, self.sync, self.logs = place, sync, logs
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        super().__init__([self.node(port, "--cluster", addresses) for port in ports])

    def node(self, port, *options):
        node = NodeServer(options=["--sync", self.sync, *options], data=directory(self.place, "Marline"))
        node.logs = self.logs
        node.port = port
        return node

    def ready(self):
        super().ready()
        wait_for("the cluster is founded", lambda: all(map(self.is_whole, self.servers)), FOUNDED_SECONDS)
        self.spread()

    def join(self):
        """Starts one more node, and does not wait for it."""
        node = self.node(distinct_ports(1)[0], "--join", f"127.0.0.1:{self.servers[0].port}")
        self.servers.append(node)
        return node.launch()

    def restart(self, node):
        """Starts a node that was killed on the data that it has."""
        node.stop()
        node.launch()
        self.ready()

    def is_whole(self, node):
        """Whether a node sees a leader of every shard, and all others."""
        try:
            with Connection(node.port, timeout=5) as connection:
                facts = connection.ask("CLUSTER", "INFO")
        except (OSError, Incomplete, EOFError):
            return False
        return (not isinstance(facts, ErrorReply) and b"cluster_state:ok\r\n" in facts
                and b"marline_nodes_unreachable:0\r\n" in facts)

    def status(self, node):
        """What REPL STATUS says of every shard but the meta shard, one dictionary each."""
        with contextlib.suppress(OSError, Incomplete, EOFError), Connection(node.port, timeout=5) as connection:
            said = connection.ask("REPL", "STATUS")
            if not isinstance(said, ErrorReply):
                lines = [dict(word.split("=", 1) for word in line.decode().split()) for line in said]
                return [line for line in lines if line["shard"].isdigit()]
        return []

    def led(self):
        """Numbers of the shards that each node leads, by port."""
        return {node.port: [int(line["shard"]) for line in self.status(node) if line["role"] == "leader"]
                for node in self.servers}

    def spread(self):
        """Waits until every node leads its share; gives the seconds that it took."""
        def is_spread():
            counts = [len(shards) for shards in self.led().values()]
            return min(counts) >= max(1, sum(counts) // len(counts)) and max(counts) - min(counts) <= 1

        try:
            return wait_for("leaders are spread", is_spread, SPREAD_SECONDS, pause=0.2)
        except RuntimeError as error:
            counts = {port: len(shards) for port, shards in self.led().items()}
            print(f"  ODD: {error}; led shards by port: {counts}", flush=True)
            return SPREAD_SECONDS

    def masters(self):
        """A function from a key to the port of the node that leads it, as of now."""
        with Connection(self.servers[0].port) as connection:
            runs = sorted((first, port) for first, _, (_, port, *_), *_ in connection.ask("CLUSTER", "SLOTS"))
        firsts, ports = zip(*runs)
        return lambda key: ports[bisect.bisect_right(firsts, slot(key)) - 1]

    def keys_by_leader(self, count):
        """The numbers of keys that each node leads, by its port."""
        leader, keys = self.masters(), collections.defaultdict(list)
        for number in range(count):
            keys[leader(key_of(number))].append(number)
        return keys

    def fill(self, count, value_bytes):
        """Sets `count` keys, pipelined on one connection."""
        form = b"*3\r\n$3\r\nSET\r\n$16\r\n%s\r\n" + b"$%d\r\n%s\r\n" % (value_bytes, b"v" * value_bytes)
        with Connection(self.servers[0].port, timeout=60) as connection:
            for at in range(0, count, FILL_CHUNK):
                some = range(at, min(at + FILL_CHUNK, count))
                connection.send(b"".join([form % key_of(number) for number in some]))
                if connection.take(5 * len(some)) != b"+OK\r\n" * len(some):
                    raise RuntimeError("a key was not stored")
        # Not DBSIZE: that counts what is applied on the node that is asked.
        wait_for(f"every node has {count} keys", lambda: all(
            sum(int(line["keys"]) for line in self.status(node)) == count for node in self.servers), FOUNDED_SECONDS)


def slot(key):
    """CRC16/XMODEM, as Redis Cluster has it; for keys without a tag."""
    return binascii.crc_hqx(key, 0) % 16384
