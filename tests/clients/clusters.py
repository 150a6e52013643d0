"""Smart clients: redis-py's RedisCluster, ioredis' and node-redis' clusters and redis-cli -c, with three nodes, one
of which is killed. What a node of a cluster says of WAIT and READONLY. And the tools for people: `marline cli --cluster`
and `marline leave`."""

import json
import time

from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster

from harness import HERE, check, contains, equal, eventually, run, scenario
from resp import ErrorReply
from server import Cluster, Connection, Server, marline_binary

KEYS = 400


def leader_of(cluster, key):
    """The node that leads a key's shard, as the nodes that are alive see it."""
    for node in cluster.nodes:
        if node.process.poll() is None:
            with Connection(node.port) as client:
                slot = client.ask("CLUSTER", "KEYSLOT", key)
                for first, last, (_, port, *_), *_ in client.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(node for node in cluster.nodes if node.port == port)
    raise AssertionError(f"nobody knows of the slot of {key}")


@scenario(only_marline=True)
def redis_py_cluster_client(_server):
    """RedisCluster of redis-py: many keys, a pipeline, keys with one tag; then a node is killed and all goes on."""
    with Cluster() as cluster:
        host = ClusterNode("127.0.0.1", cluster.nodes[0].port)
        for balanced in (None, LoadBalancingStrategy.ROUND_ROBIN):
            client = RedisCluster(startup_nodes=[host], socket_timeout=15, load_balancing_strategy=balanced)
            equal({node.port for node in client.get_nodes()}, set(cluster.ports()), "nodes")
            for n in range(KEYS):
                equal(client.set(f"k{n}", n), True)
            if not balanced:
                for n in range(KEYS):
                    equal(client.get(f"k{n}"), b"%d" % n)
            pipeline = client.pipeline()
            for n in range(KEYS):
                pipeline.set(f"p{n}", n).incr(f"p{n}")
            equal(pipeline.execute()[-1], KEYS, "the last of a pipeline")
            equal(client.mset({"{tag}a": 1, "{tag}b": 2}), True)
            eventually(lambda: client.mget("{tag}a", "{tag}b", "{tag}c") == [b"1", b"2", None], "MGET of one tag")
        client.close()
        client = RedisCluster(startup_nodes=[host], socket_timeout=15)
        cluster.nodes[1].kill()
        for n in range(KEYS):
            equal(client.get(f"k{n}"), b"%d" % n, f"k{n} after a node was killed")
            equal(client.set(f"k{n}", -n), True)
        equal(client.get("p7"), b"8")


@scenario(only_marline=True)
def ioredis_cluster_client(_server):
    """Cluster of ioredis: many keys, pipelines, reads from replicas, and a node is killed while keys are written."""
    with Cluster() as cluster:
        run("node", HERE / "node/cluster.mjs", "ioredis", cluster.nodes[2].process.pid, *cluster.ports(), timeout=60)
        cluster.nodes[2].process.wait()


@scenario(only_marline=True)
def node_redis_cluster_client(_server):
    """createCluster of node-redis: the same."""
    with Cluster() as cluster:
        run("node", HERE / "node/cluster.mjs", "redis", cluster.nodes[2].process.pid, *cluster.ports(), timeout=60)
        cluster.nodes[2].process.wait()


@scenario(only_marline=True)
def redis_cli_cluster_mode(_server):
    """redis-cli -c sets and gets keys of every shard on any node; --cluster check and --cluster info are content, also
    when a node is gone."""
    with Cluster() as cluster:
        first, second, third = cluster.ports()
        typed = "".join(f"SET k{n} v{n}\n" for n in range(100))
        equal(run("redis-cli", "-c", "-p", first, input=typed), "OK\n" * 100)
        typed = "".join(f"GET k{n}\n" for n in range(100))
        equal(run("redis-cli", "-c", "-p", second, input=typed), "".join(f"v{n}\n" for n in range(100)))
        address = f"127.0.0.1:{third}"
        said = run("redis-cli", "--cluster", "check", address)
        contains(said, "[OK] All nodes agree about slots configuration.")
        contains(said, "[OK] All 16384 slots covered.")
        contains(run("redis-cli", "--cluster", "info", address), "[OK] ")
        cluster.nodes[0].kill()
        eventually(lambda: cluster.is_ok(cluster.nodes[1]) and cluster.is_ok(cluster.nodes[2]), "there are new leaders")
        contains(run("redis-cli", "--cluster", "check", address), "[OK] All 16384 slots covered.")
        equal(run("redis-cli", "-c", "-p", second, input=typed), "".join(f"v{n}\n" for n in range(100)))


@scenario(only_marline=True)
def wait_and_readonly_in_a_cluster(_server):
    """WAIT counts the replicas that have a write, READONLY reads go on without a majority, and others do not."""
    with Cluster() as cluster:
        leader = leader_of(cluster, "k")
        other, victim = [node for node in cluster.nodes if node is not leader]
        with Connection(leader.port) as here, Connection(other.port) as there:
            for client in (here, there):
                equal(client.ask("SET", "k", "v"), "OK")
                equal(client.ask("WAIT", 2, 5000), 2, "replicas that have it")
            equal(here.ask("CLUSTER", "COUNTKEYSINSLOT", here.ask("CLUSTER", "KEYSLOT", "k")), 1)
            equal(there.ask("CLUSTER", "GETKEYSINSLOT", there.ask("CLUSTER", "KEYSLOT", "k"), 10), [b"k"])
            victim.kill()
            for client in (here, there):
                eventually(lambda: client.ask("SET", "k", "w") == "OK", "writes go on")
                began = time.monotonic()
                equal(client.ask("WAIT", 2, 300), 1, "one replica is left")
                check(0.25 < time.monotonic() - began < 2, "WAIT waits as long as it is told to")
            leader.kill()
            equal(there.ask("READONLY"), "OK")
            equal(there.ask("GET", "k"), b"w", "a stale read")
            contains(there.ask("CLUSTER", "INFO"), b"cluster_state:fail")
            equal(there.ask("RESET"), "RESET")
            there.socket.settimeout(1)
            try:
                check(isinstance(there.ask("GET", "k"), ErrorReply), "a read that might be stale is not answered")
            except TimeoutError:
                pass


def cluster_table(node, fails=False):
    """What `marline cli --cluster` shows: the cells of each row, without the head, and the summary."""
    text = run(marline_binary(), "cli", "--cluster", "-p", node.port, fails=fails)
    *rows, empty, summary = text.splitlines()
    equal(empty, "")
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows[1:]], summary


@scenario(only_marline=True)
def a_table_of_the_cluster(_server):
    """`marline cli --cluster` has a row for each node; one that was killed does not answer, and the shards that it led
    get new leaders; without a majority it fails."""
    with Cluster() as cluster:
        first, second, third = cluster.nodes
        with Connection(first.port) as client:
            for n in range(KEYS):
                equal(client.ask("SET", f"k{n}", n), "OK")
        rows, summary = cluster_table(second)
        equal([row[2:4] for row in rows],
              [[f"127.0.0.1:{port}", "up"] for port in cluster.ports()], "nodes")
        contains(summary, f"16 shards, {KEYS} keys: every shard has a leader; no replica is to move")
        third.kill()
        contains(cluster_table(first, fails=True)[1], "no leader")
        eventually(lambda: cluster.is_ok(first), "there are new leaders")
        told = json.loads(run(marline_binary(), "cli", "--cluster", "--json", "-p", first.port))
        equal([node["state"] for node in told["nodes"]], ["up", "up", "does not answer"], "states")
        equal(sum(node["leads"] or 0 for node in told["nodes"]), 17, "shards that are led")
        equal((told["ok"], told["leaderless"], told["keys"]), (True, [], KEYS), "the whole")
        second.kill()
        eventually(lambda: not cluster.is_ok(first), "the majority is gone")
        rows, _ = cluster_table(first, fails=True)
        equal([row[3] for row in rows].count("does not answer"), 2, "nodes that do not answer")


@scenario(only_marline=True)
def a_node_leaves_by_the_tool(_server):
    """A fourth node joins, and leaves by `marline leave`, then one of three: all keys are there, also when their
    processes are stopped. The last of a cluster does not leave."""
    with Cluster(options=("--shards", 3)) as cluster:
        first, second, third = cluster.nodes
        with Connection(first.port) as client:
            for n in range(KEYS):
                equal(client.ask("SET", f"k{n}", n), "OK")
        with Server(options=("--join", f"127.0.0.1:{first.port}"), data="data") as fourth:
            eventually(lambda: len(cluster_table(first)[0]) == 4, "it has joined")
            eventually(lambda: "no replica is to move" in cluster_table(fourth)[1], "it has its share", 60)
            for node in (fourth, third):
                said = run(marline_binary(), "leave", f"127.0.0.1:{node.port}", timeout=60)
                contains(said, f"(127.0.0.1:{node.port}) has left: its process may be stopped")
                run(marline_binary(), "leave", f"127.0.0.1:{node.port}", fails=True)
                node.process.terminate()
                node.process.wait()
        equal([row[3] for row in cluster_table(second)[0]], ["up", "up"], "nodes")
        with Connection(second.port) as client:
            for n in range(KEYS):
                equal(client.ask("GET", f"k{n}"), b"%d" % n)
                equal(client.ask("SET", f"k{n}", -n), "OK")
        contains(run(marline_binary(), "leave", "-p", second.port, timeout=60), "has left")
        run(marline_binary(), "leave", "-p", first.port, fails=True)
        with Connection(first.port) as client:
            equal(client.ask("DBSIZE"), KEYS)
