"""Smart clients: redis-py's RedisCluster, ioredis' and node-redis' clusters and redis-cli -c, with three nodes, one
of which is killed. And what a node of a cluster says of WAIT and READONLY."""

import time

from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster

from harness import HERE, check, contains, equal, eventually, run, scenario
from resp import ErrorReply
from server import Cluster, Connection

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
