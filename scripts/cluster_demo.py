"""What a cluster does when the leader of a shard is killed, in half a minute, for somebody who watches.

Played by `scripts/cluster demo`, in a directory and on ports of its own. Every command is shown as it could be typed,
and what it says is what it said.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

NODES = 3
# Where to look for free ports: 8001, 8011, ...
PORTS = range(8001, 8100, 10)
KEYS = 2000
PAUSE_SECONDS = 1.2


class Player:
    """Shows and runs commands. `tools` is scripts/cluster."""

    def __init__(self, tools, cluster, program):
        self.tools, self.cluster, self.program = tools, cluster, program
        self.client = "redis-cli" if shutil.which("redis-cli") else f"{shortest(program)} cli"

    def tell(self, text):
        self.tools.say(f"\n{text}")
        if sys.stdout.isatty():
            time.sleep(PAUSE_SECONDS)

    def type(self, line):
        """Runs a line in a shell; gives (what it said, how many seconds it took)."""
        self.tools.say(self.tools.paint(1, f"$ {line}"))
        began = time.monotonic()
        done = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.tools.ROOT, stdin=subprocess.DEVNULL)
        took = time.monotonic() - began
        if done.stdout.strip():
            self.tools.say(done.stdout.rstrip())
        if done.returncode != 0:
            raise self.tools.Refused(f"the demo stops: exit code {done.returncode}")
        return done.stdout, took

    def on(self, node, command):
        return self.type(f"{self.client} -p {node.port} {command}")


def shortest(path):
    """A path as it is typed in the root of the repository."""
    root = pathlib.Path(__file__).resolve().parent.parent
    path = pathlib.Path(path).absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def free_ports(tools):
    """The first of as many free ports in a row as are needed."""
    named = os.environ.get("MARLINE_CLUSTER_PORT")
    bases = [tools.base_port(NODES)] if named else PORTS
    for base in bases:
        if all(tools.is_free(base + at) for at in range(NODES)):
            return base
    raise tools.Refused(f"no {NODES} free ports in a row: " + (f"something listens on {named} or behind it" if named
                        else "MARLINE_CLUSTER_PORT names others than 8001, 8011, ... 8091"))


def play(tools):
    """The whole demo. Whatever happens, no process and no file stays."""
    base = free_ports(tools)
    program = tools.binary()
    home = pathlib.Path(tempfile.mkdtemp(prefix="marline-demo-"))
    cluster = tools.Cluster(home, base)
    try:
        acts(tools, cluster, program)
    finally:
        cluster.stop_all(cluster.nodes)
        shutil.rmtree(home, ignore_errors=True)
    tools.say("\nAll nodes are stopped, and their data are removed.")


def acts(tools, cluster, program):
    player = Player(tools, cluster, program)
    player.tell(f"A cluster of {NODES} nodes:")
    tools.say(tools.paint(1, "$ scripts/cluster start"))
    cluster.start(NODES)
    first, second, third = cluster.nodes

    player.tell("What is written on node 1 can be read on node 2:")
    player.on(first, "set greeting hello")
    player.on(second, "get greeting")
    if has_netcat():
        player.type(f"printf 'HELLO LINE\\nGET greeting\\n' | nc -N 127.0.0.1 {third.port}")

    player.tell("The key is the only one so far, so its shard is the one that has a key. Who leads it?")
    settle(tools, cluster)
    said, _ = player.on(first, "repl status | grep -v meta | grep -w keys=1")
    leader = cluster.nodes[int(said.split("leader=")[1].split()[0]) - 1]
    others = [node for node in cluster.nodes if node is not leader]

    player.tell(f"Node {leader.number} does. Kill it:")
    pid = leader.pid()
    player.type(f"kill -9 {pid}")
    leader.has_ended(10)
    player.tell("Another node takes the next write, and waits for the shard's next leader:")
    _, gap = player.on(others[0], "set greeting 'hello again'")
    tools.say(tools.green(f"The gap was {gap:.1f} s."))
    player.tell(f"Writes go on without node {leader.number}, {KEYS} of them:")
    player.type(f"seq {KEYS} | sed 's/.*/set key:& value:&/' | {player.client} -p {others[1].port} | sort | uniq -c")
    player.on(others[0], "get key:1000")

    player.tell(f"Node {leader.number} comes back, and catches up:")
    line = [shortest(part) if part == str(program) else part for part in leader.command(program, ["--cluster", ",".join(cluster.founders())])]
    tools.say(tools.paint(1, f"$ {' '.join(map(str, line))} &"))
    cluster.launch(leader, program)
    watch(tools, cluster, leader)
    player.on(leader, "get greeting")

    player.tell("All replicas hold the same: a line for each shard, and a digest of all of them:")
    settle(tools, cluster)
    player.on(first, "repl digest | head -3")
    sums = [player.on(node, "repl digest | sort | cksum")[0] for node in cluster.nodes]
    keys = [player.on(node, "dbsize")[0] for node in cluster.nodes]
    if len(set(sums)) > 1 or len(set(keys)) > 1:
        raise tools.Refused("the replicas differ")
    tools.say(tools.green("They are equal."))


def has_netcat():
    """Whether there is a netcat that knows -N, which closes its side behind what it was given."""
    if not shutil.which("nc"):
        return False
    said = subprocess.run(["nc", "-h"], capture_output=True, text=True)
    return "OpenBSD" in said.stdout + said.stderr


def watch(tools, cluster, node):
    """Shows how many entries a node has applied, until it has all that the leaders have committed."""
    began, last = time.monotonic(), None
    while time.monotonic() - began < tools.ANSWER_SECONDS:
        node.demand_running()
        statuses = [other.status() for other in cluster.nodes]
        own = node.status()
        goal = {words["shard"]: int(words["commit"]) for status in statuses for words in status.led()}
        behind = sum(max(0, goal.get(shard, 0) - int(words["applied"])) for shard, words in own.shards.items())
        shown = own.why and "not there yet" or f"{behind} entries behind"
        if shown != last:
            tools.say(f"  {time.monotonic() - began:4.1f} s: {shown}")
        if not own.why and behind == 0 and not tools.leaderless(statuses):
            return
        last = shown
        time.sleep(0.05)
    raise tools.Refused(f"{node} did not catch up")


def settle(tools, cluster):
    """Waits until every replica has applied the same entries."""
    def is_equal():
        applied = [{shard: words["applied"] for shard, words in node.status().shards.items()}
                   for node in cluster.nodes]
        return all(each == applied[0] for each in applied)
    if not tools.eventually(is_equal, tools.ANSWER_SECONDS):
        raise tools.Refused("the replicas have not applied the same entries")
