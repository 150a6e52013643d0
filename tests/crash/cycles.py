"""Kill a node under load again and again, and lose no acknowledged write."""

import random
import time

from load import Load, read_all
from model import Model

# Acknowledged writes that a cycle must come to on average: a test that tested nothing fails.
WRITES_MIN = 100
SNAPSHOTS = [("SAVE",), ("BGSAVE",), ("BGSAVE",)]
ROTATION = [("KEY", "ROTATE")]
SHOWN_MAX = 6


class Broken(Exception):
    """A promise was not kept; the data directory is left for a look."""


class Figures:
    def __init__(self):
        self.cycles = self.acknowledged = self.unknown = self.reads = self.nuisances = self.lost = 0
        self.killed_loading = self.restarts = self.keys = self.power_failures = self.writes_lost = self.names_lost = 0
        self.start = time.monotonic()

    def count(self, load, model):
        """After the node was killed."""
        self.cycles += 1
        self.acknowledged += load.join()
        self.unknown += len(model.unknown())
        self.reads += sum(getattr(thread, "reads", 0) for thread in load.threads)
        self.nuisances += sum(getattr(thread, "done", 0) for thread in load.threads)

    def __str__(self):
        said = (f"{self.cycles} cycles, {self.acknowledged:,} writes acknowledged, {self.unknown:,} unknown, "
                f"{self.reads:,} reads, {self.keys:,} keys compared, {self.nuisances} snapshots and rotations, "
                f"{self.restarts} starts cut short ({self.killed_loading} while loading)")
        if self.power_failures:
            said += (f", {self.power_failures} power failures threw away {self.writes_lost:,} unsynced writes and "
                     f"{self.names_lost:,} names")
        return f"{said}, lost={self.lost}, {time.monotonic() - self.start:.0f} s"


def nuisances(node):
    return SNAPSHOTS + (ROTATION if node.sealed else [])


def judge(node, model, figures, seed):
    """Compare everything with the model, and go on from there."""
    found = read_all(node, model)
    figures.keys += len(found)
    complaints = model.complain(found)
    figures.lost += sum(complaint.lost for complaint in complaints)
    if complaints:
        lines = [f"{kind} {key}: {what}" for kind, key, what, _ in complaints[:SHOWN_MAX]]
        if len(complaints) > SHOWN_MAX:
            lines.append(f"and {len(complaints) - SHOWN_MAX} more")
        raise Broken(f"cycle {figures.cycles} (seed {seed}): lost={figures.lost}\n      " + "\n      ".join(lines)
                     + f"\n      directory: {node.data}")
    model.go_on_from(found)


def come_up(node, rng, figures):
    """Start; one time in four kill it while it is starting, up to three times."""
    for _ in range(3):
        if rng.random() >= 0.25:
            break
        node.launch()
        time.sleep(rng.uniform(0, 0.08))
        if rng.random() < 0.5:
            figures.killed_loading += "LOADING" in str(node.first_answer())
        if node.process.poll() not in (None, 0):
            raise Broken(f"the node did not start again: exit code {node.process.poll()}\n{node.end_log()}")
        node.kill()
        figures.restarts += 1
    node.start()


def load_and_kill(node, model, rng, figures, seed):
    load = Load(node, model, f"{seed}:{figures.cycles}", nuisances(node)).start()
    time.sleep(rng.uniform(0.05, 0.9))
    if node.process.poll() is not None:
        raise Broken(f"the node ended by itself, exit code {node.process.returncode}\n{node.end_log()}")
    node.kill()
    figures.count(load, model)
    if load.wrong():
        raise Broken(f"cycle {figures.cycles} (seed {seed}): " + "\n      ".join(load.wrong()))


def enough(figures, cycles):
    if figures.acknowledged < cycles * WRITES_MIN:
        raise Broken(f"only {figures.acknowledged} writes were acknowledged in {cycles} cycles: nothing was tested")
    if cycles >= 10 and not figures.unknown:
        raise Broken("not one kill came while a write was under way: nothing was tested")


def kill_cycles(cycles, seed, figures, node, say=print):
    """kill -9 at random moments, and at the end SIGTERM; `figures` is filled in, `Broken` says what is not kept."""
    rng, model = random.Random(seed), Model()
    for cycle in range(cycles):
        come_up(node, rng, figures)
        judge(node, model, figures, seed)
        load_and_kill(node, model, rng, figures, seed)
        if cycle % 10 == 9:
            node.check()
            say(f"    {figures}")
    node.start()
    judge(node, model, figures, seed)
    code = node.terminate()
    if code != 0:
        raise Broken(f"SIGTERM: exit code {code}")
    node.check()
    node.start()
    judge(node, model, figures, seed)
    enough(figures, cycles)


def lose_power(node, rng, figures):
    loss = node.disk.lose_power(rng)
    figures.power_failures += 1
    figures.writes_lost += loss.writes_lost
    figures.names_lost += loss.names_lost
    if not node.disk.syncs and node.options[1] == "always":
        raise Broken("the faulty disk saw no sync: it is not in the node's way")
    node.disk.begin_journal()


def power_cycles(cycles, seed, figures, node):
    """Kill, and throw away a random part of what was not synced, as a power failure does; now and then the power
    fails again while the node starts."""
    rng, model = random.Random(seed), Model()
    node.disk.begin_journal()
    for _ in range(cycles):
        come_up(node, rng, figures)
        judge(node, model, figures, seed)
        node.disk.slow_sync_ms = rng.choice([0, 3, 15])
        load_and_kill(node, model, rng, figures, seed)
        node.disk.slow_sync_ms = 0
        lose_power(node, rng, figures)
        while rng.random() < 0.3:
            node.launch()
            time.sleep(rng.uniform(0, 0.15))
            node.kill()
            lose_power(node, rng, figures)
    node.start()
    judge(node, model, figures, seed)
    enough(figures, cycles)
