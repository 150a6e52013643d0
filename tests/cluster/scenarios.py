"""What may happen to a cluster under load. Each scenario ends at rest, with every replica equal and every
acknowledged write on all of them. A scenario gives a line of figures."""

import pathlib
import random
import signal
import time

from harness import Skip, check, equal
from load import LOST_ERRORS, NOT_DONE, Load, outcome
from nodes import Cluster, shard_of, values
from partition import Network
from resp import ErrorReply, encode

WORDS = (pathlib.Path("/usr/share/dict/american-english-huge"), pathlib.Path("/usr/share/dict/words"))
WORDS_MAX = 100_000
# What a command may take that finds no leader, and some more on a slow machine.
DEADLINE_SECONDS = 15


def killed_leader(seed):
    """kill -9 of the leader of a busy shard under load, twice; it comes back and catches up."""
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            for _ in range(2):
                load.run(1.5)
                _, leader = cluster.busiest()
                leader.kill()
                load.run(3)
                cluster.start(leader)
                cluster.heal()
        return load.judge(cluster)


def stopped_leader(seed):
    """SIGSTOP of a leader for 3 s under load: others lead meanwhile, and when it goes on it reads nothing stale."""
    probed = 0
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            for turn in range(2):
                load.run(1)
                _, leader = cluster.busiest()
                probed += probe_stopped(cluster, leader, turn)
                load.run(1)
                cluster.heal()
        return f"{load.judge(cluster)}, {probed} reads of a leader that had been stopped"


def probe_stopped(cluster, leader, turn):
    """Stops a leader, overwrites keys of its shards through another node, and asks it for them before it goes on."""
    led = {shard for shard, (_, node) in cluster.leaders().items() if node is leader}
    keys = [key for key in (f"probe:{turn}:{n}" for n in range(200)) if shard_of(key) in led]
    check(keys, f"{leader} leads no shard of 200 keys")
    other = next(node for node in cluster.nodes if node is not leader)
    write_all(leader, keys, "old")
    leader.signal(signal.SIGSTOP)
    connections = []
    try:
        began = time.monotonic()
        write_all(other, keys, "new")
        for key in keys:
            connection = leader.connect()
            connection.send(encode(("GET", key)))
            connections.append((key, connection))
        time.sleep(max(0.0, began + 3 - time.monotonic()))
    finally:
        leader.signal(signal.SIGCONT)
    for key, connection in connections:
        with connection:
            reply = connection.reply()
        check(reply == b"new" or isinstance(reply, ErrorReply) and reply.startswith(NOT_DONE),
              f"GET {key} from {leader}, which had been stopped: {reply}, it was overwritten meanwhile")
    return len(keys)


def write_all(node, keys, value):
    """Says it until it is done: who leads may change meanwhile. What is unknown is written again, to the same effect."""
    for _ in range(20):
        with node.connect() as connection:
            connection.send(b"".join(encode(("SET", key, value)) for key in keys))
            replies = [connection.reply() for _ in keys]
        keys = [key for key, reply in zip(keys, replies) if outcome(reply) != "done"]
        if not keys:
            return
        time.sleep(0.2)
    raise AssertionError(f"{len(keys)} of the keys could not be written through {node}: {replies[-1]}")


def rolling_restart(seed):
    """Every node in turn is stopped with SIGTERM and started, under load."""
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            for node in cluster.nodes:
                load.run(1)
                node.terminate()
                load.run(0.5)
                cluster.start(node)
                cluster.heal()
        return load.judge(cluster)


def wiped(seed):
    """A node is killed and its directory removed, under load; started as ever it is made whole by the others, and when
    one of those is killed it stands in for it."""
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            load.run(1.5)
            _, leader = cluster.busiest()
            leader.wipe()
            load.run(1)
            cluster.start(leader)
            began = time.monotonic()
            cluster.demand_whole()
            seconds = time.monotonic() - began
            other = next(node for node in cluster.nodes if node is not leader)
            other.kill()
            load.run(2)
            cluster.start(other)
            cluster.heal()
        return f"{load.judge(cluster)}, whole after {seconds:.1f} s"


def word_list(seed):
    """A word list is written through node 1 while node 2 is killed and comes back; node 3 knows every word."""
    source = next((path for path in WORDS if path.exists()), None)
    if not source:
        raise Skip(f"there is no {WORDS[0]} (scripts/install installs it)")
    words = source.read_text(encoding="utf-8").split()
    words = random.Random(seed).sample(words, min(len(words), WORDS_MAX))
    with Cluster() as cluster:
        first, second, third = cluster.nodes
        parts, rounds = [words[at::10] for at in range(10)], 0
        for at, part in enumerate(parts):
            if at == 3:
                second.kill()
            if at == 7:
                cluster.start(second)
            rounds += load_words(first, part)
        cluster.heal()
        found = values(third, words)
        missing = [word for word in words if found.get(word) != length(word)]
        check(not missing, f"{len(missing)} words are not on node 3 as they were written: {missing[:5]}")
        cluster.demand_equal()
        equal(sum(int(line["keys"]) for shard, line in second.status().items() if shard != "meta"), len(words),
              "keys on node 2")
    return f"{len(words)} words, {rounds - len(parts)} batches said again"


def length(word):
    return b"%d" % len(word)


def load_words(node, words, at_once=1000):
    """Says each batch until all of it is done; how often one was said."""
    rounds = 1
    for at in range(0, len(words), at_once):
        left = words[at:at + at_once]
        deadline = time.monotonic() + 60
        while left:
            with node.connect() as connection:
                connection.send(b"".join(encode(("SET", word, length(word))) for word in left))
                replies = [connection.reply() for _ in left]
            left = [word for word, reply in zip(left, replies) if outcome(reply) != "done"]
            rounds += bool(left)
            check(time.monotonic() < deadline, f"{len(left)} words could not be written: {replies[-1]}")
    return rounds


def lost_majority(seed):
    """Two of three nodes are killed: within 15 s every command is refused or unknown, none is done; when one of them
    comes back, all is well."""
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            load.run(1.5)
        one, two, three = cluster.nodes
        keys = [f"alone:{n}" for n in range(32)]
        two.kill()
        three.kill()
        slowest = ask_alone(one, [command for key in keys for command in (("SET", key, 1), ("GET", key))])
        cluster.start(two)
        cluster.heal()
        write_all(one, keys, 2)
        cluster.start(three)
        figures = load.judge(cluster)
        for node in cluster.nodes:
            equal(values(node, keys), {key: b"2" for key in keys}, f"keys through {node}")
    return f"{figures}; alone, a node answered within {slowest:.1f} s"


def ask_alone(node, commands):
    """Says all at once to a node that has no majority; the seconds until the last answer. All must be refusals."""
    began = time.monotonic()
    with node.connect(DEADLINE_SECONDS) as connection:
        connection.send(b"".join(encode(command) for command in commands))
        for command in commands:
            reply = connection.reply()
            refusals = NOT_DONE if command[0] == "GET" else (*NOT_DONE, "UNKNOWN")
            check(isinstance(reply, ErrorReply) and reply.startswith(refusals),
                  f"{command} was answered {reply} by a node without a majority")
    return time.monotonic() - began


def counted_once(seed):
    """INCR through every node while nodes are killed at random: no count is lost, and none is counted twice."""
    rng = random.Random(seed)
    with Cluster() as cluster:
        with Load(cluster, seed) as load:
            for _ in range(5):
                load.run(rng.uniform(0.3, 1))
                node = rng.choice(cluster.nodes)
                node.kill()
                load.run(rng.uniform(0, 2))
                cluster.start(node)
                cluster.heal()
        figures = load.judge(cluster)
        counted = sum(len(answers) for answers in load.model.tallies.values())
        check(counted >= 200, f"only {counted} INCRs were acknowledged: nothing was tested")
    return f"{figures}, {counted} counted"


def partition(seed):
    """A leader is cut off from the others, then a follower can hear but not speak, under load: a leader that is
    alone reads nothing stale, and nothing acknowledged is lost."""
    with Network(3) as network, Cluster(network.places(), ["--insecure"]) as cluster:
        with Load(cluster, seed) as load:
            load.run(1)
            _, leader = cluster.busiest()
            load.run(0.5)
            network.isolate(leader.number)
            load.run(4)
            stale = read_overwritten(cluster, leader)
            network.mend()
            cluster.heal()
            load.run(1)
            _, leader = cluster.busiest()
            mute = next(node for node in cluster.nodes if node is not leader)
            network.silence(mute.number)
            load.run(3)
            network.mend()
            cluster.heal()
        return f"{load.judge(cluster)}, {stale} reads of a leader that was alone"


def read_overwritten(cluster, alone):
    """Overwrites keys on the side of the majority; the node that is alone must not answer with what was there before.
    It may wait, so that the answers come only when the network is whole: those are not waited for here."""
    other = next(node for node in cluster.nodes if node is not alone)
    keys = [f"split:{n}" for n in range(40)]
    with other.connect() as connection:
        connection.send(b"".join(encode(("SET", key, "new")) for key in keys))
        replies = [connection.reply() for _ in keys]
    written = [key for key, reply in zip(keys, replies) if outcome(reply) == "done"]
    check(written, f"the majority did not take one of {len(keys)} writes: {replies[0]}")
    answered = 0
    for key in written:
        try:
            reply = alone.ask("GET", key, timeout=0.05)
        except LOST_ERRORS:
            continue
        answered += 1
        check(reply == b"new" or isinstance(reply, ErrorReply) and reply.startswith(NOT_DONE),
              f"GET {key} from {alone}, which is alone: {reply}, the others have written it")
    return answered


ALL = [killed_leader, stopped_leader, rolling_restart, wiped, word_list, lost_majority, counted_once, partition]
