"""The load on a cluster, and what must be in it afterwards.

Every reply to a write is one of four, by what is known of the write then:

    done      the reply that it has when it was done
    not done  CLUSTERDOWN, TRYAGAIN, LOADING, "the node is stopping": it may be said again
    unknown   UNKNOWN: it was done or will never be
    lost      the connection broke: it may be done, now or a little later, or never

Any other reply is wrong. A *register* is a key that one connection writes, a larger number each time. What is found in
it, by anybody at any time, may be the last number that was acknowledged or read before, or a later one that may have
been done; not an earlier one, and not one that was not done. A register whose last write may be done later is left
alone. One with an unknown write is read at once: what is read then has to stay.

A *tally* is counted up by everybody: it holds at least as much as was acknowledged, at most what was not refused, and
no number is answered twice. A *pair* is two registers of one shard that are written together.
"""

import random
import socket
import threading
import time

from harness import check
from nodes import REPLY_SECONDS, values
from resp import ErrorReply, Incomplete, encode

WRITERS = 6
REGISTERS, PAIRS, TALLIES, PASSING = 24, 6, 8, 20
BATCH_MAX = 12
NOT_DONE = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "ERR the node is stopping")
DONE, REFUSED, UNKNOWN, LOST = "done", "not done", "unknown", "lost"
LOST_ERRORS = (OSError, EOFError, Incomplete)
# A writer whose connection broke tries others for so long.
CONNECT_SECONDS = 60


class Wrong(Exception):
    """A reply that cannot be right."""


def outcome(reply):
    """Which of the four a reply is."""
    if not isinstance(reply, ErrorReply):
        return DONE
    if reply.startswith(NOT_DONE):
        return REFUSED
    if reply.startswith("UNKNOWN"):
        return UNKNOWN
    raise Wrong(f"a write was answered {str(reply)[:200]}")


class Register:
    """What is known of the numbers in a key, or in two keys that are written together."""

    def __init__(self, names):
        self.names = names
        self.lock = threading.Lock()
        self.serial = 0
        # The last number that must be there, as far as is known; 0: no key.
        self.floor = 0
        self.refused = set()
        # Whether nobody writes it any more, and whether what was said last may still be done.
        self.is_left, self.is_lost = False, False
        # What it holds for ever, if that is known.
        self.settled = None

    def next(self):
        self.serial += 1
        return self.serial

    def conclude(self, number, what):
        with self.lock:
            if what == DONE:
                self.floor = max(self.floor, number)
            elif what == REFUSED:
                self.refused.add(number)
            else:
                self.is_left = True
                self.is_lost |= what == LOST

    def see(self, number, since, settled=None):
        """Somebody has read `number`, and had asked when `since` was the floor; `settled`: what it held for ever."""
        with self.lock:
            if number < since:
                return f"{self.names[0]} is {number}, was {since} before: stale or lost"
            if number > self.serial or number in self.refused:
                return f"{self.names[0]} is {number}: never written, or said to be not done"
            if settled is not None and number != settled:
                return f"{self.names[0]} is {number}, was {settled} after an UNKNOWN: it changed later"
            self.floor = max(self.floor, number)
        return None


class Model:
    """Everything that was said and answered."""

    def __init__(self):
        self.lock = threading.Lock()
        self.registers, self.tallies = [], {f"tally:{n}": [] for n in range(TALLIES)}
        self.counts = {what: 0 for what in (DONE, REFUSED, UNKNOWN, LOST)}
        self.tally_maybe = {name: 0 for name in self.tallies}
        # Longest time between two acknowledged writes of one connection.
        self.gap_seconds = 0

    def register(self, names):
        register = Register(names)
        with self.lock:
            self.registers.append(register)
        return register

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def count_up(self, name, what, reply):
        with self.lock:
            if what == DONE:
                self.tallies[name].append(reply)
            elif what in (UNKNOWN, LOST):
                self.tally_maybe[name] += 1

    def complaints(self, found):
        """What is wrong with the values found, name -> value."""
        for register in self.registers:
            numbers = {int(found.get(name, 0)) for name in register.names}
            if len(numbers) > 1:
                yield f"{register.names} are {sorted(numbers)}: written together, done in part"
            said = register.see(max(numbers), register.floor, register.settled)
            if said:
                yield said
        for name, answers in self.tallies.items():
            number, least, most = int(found.get(name, 0)), len(answers), len(answers) + self.tally_maybe[name]
            if not max([least, *answers]) <= number <= most:
                yield f"{name} is {number}: {least} INCRs were acknowledged, {most - least} may have been done"
            if len(set(answers)) < len(answers):
                yield f"{name}: a number was answered twice"

    def names(self):
        return [name for register in self.registers for name in register.names] + list(self.tallies)

    def __str__(self):
        return (", ".join(f"{count} {what}" for what, count in self.counts.items())
                + f", longest gap {self.gap_seconds:.1f} s")


class Client(threading.Thread):
    """A connection to one node after another, always to one that takes it."""

    def __init__(self, nodes, model, seed):
        super().__init__(daemon=True)
        self.nodes, self.model, self.rng = list(nodes), model, random.Random(seed)
        self.stopping, self.connection, self.wrong, self.at = threading.Event(), None, None, 0

    def connect(self):
        """To the node that it was connected to, or the next that answers; False when it is to stop."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while not self.stopping.is_set():
            node = self.nodes[self.at % len(self.nodes)]
            try:
                self.connection = node.connect()
                return True
            except OSError:
                self.at += 1
                time.sleep(0.05)
            if time.monotonic() > deadline:
                raise Wrong(f"no node took a connection for {CONNECT_SECONDS} s")
        return False

    def run(self):
        try:
            while not self.stopping.is_set():
                if self.connection is None and not self.connect():
                    break
                self.go_on()
        except Wrong as wrong:
            self.wrong = str(wrong)
        except Exception as error:
            self.wrong = f"{type(error).__name__}: {error}"
        finally:
            self.drop()

    def drop(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def ask_all(self, commands):
        """The replies; fewer when the connection broke. One that does not come in time is wrong."""
        replies = []
        try:
            self.connection.send(b"".join(encode(command) for command in commands))
            while len(replies) < len(commands):
                replies.append(self.connection.reply())
        except socket.timeout:
            raise Wrong(f"{commands[len(replies)]} was not answered for {REPLY_SECONDS} s") from None
        except LOST_ERRORS:
            self.drop()
            self.at += 1
        return replies


class Writer(Client):
    """Writes registers and pairs of its own, and tallies."""

    def __init__(self, nodes, model, number, seed):
        super().__init__(nodes, model, seed)
        self.number, self.at, self.made, self.last = number, number, 0, time.monotonic()
        self.registers = [self.fresh(False) for _ in range(REGISTERS)] + [self.fresh(True) for _ in range(PAIRS)]

    def fresh(self, is_pair):
        """A register under a new name."""
        self.made += 1
        name = f"w{self.number}:{self.made}"
        return self.model.register([f"{{{name}}}:a", f"{{{name}}}:b"] if is_pair else [name])

    def go_on(self):
        chosen = self.rng.sample(range(len(self.registers)), self.rng.randint(1, BATCH_MAX))
        steps = [step for at in chosen for step in self.writes(self.registers[at])]
        for _ in range(self.rng.randint(0, 3)):
            steps.insert(self.rng.randint(0, len(steps)), (("INCR", self.rng.choice(list(self.model.tallies))), None, 0))
        steps.append((("SET", f"passing:{self.rng.randrange(PASSING)}", self.number, "PX", self.rng.randint(1, 3000)),
                      "passing", 0))
        replies = self.ask_all([command for command, _, _ in steps])
        for at, (command, register, number) in enumerate(steps):
            self.conclude(command, register, number, replies[at] if at < len(replies) else None)
        for at in chosen:
            self.replace(at)
        refused = [reply for reply in replies if isinstance(reply, ErrorReply)]
        if refused:
            time.sleep(0.05)

    def writes(self, register):
        """Mostly one write, sometimes several of the same key one behind the other."""
        for _ in range(self.rng.choice((1, 1, 1, 3))):
            number = register.next()
            if len(register.names) == 1:
                yield ("SET", register.names[0], number), register, number
            else:
                yield ("MSET", *[part for name in register.names for part in (name, number)]), register, number

    def conclude(self, command, register, number, reply):
        what = LOST if reply is None else outcome(reply)
        self.model.count(what)
        if what == DONE:
            now = time.monotonic()
            self.model.gap_seconds = max(self.model.gap_seconds, now - self.last)
            self.last = now
        if command[0] == "INCR":
            self.model.count_up(command[1], what, reply)
        elif register != "passing":
            register.conclude(number, what)

    def replace(self, at):
        """Leaves a register alone whose last write may be done. What an unknown one holds now is what it keeps."""
        register = self.registers[at]
        if not register.is_left:
            return
        self.registers[at] = self.fresh(len(register.names) > 1)
        if register.is_lost or self.connection is None:
            return
        floor = register.floor
        replies = self.ask_all([("GET", name) for name in register.names])
        if len(replies) < len(register.names) or any(isinstance(reply, ErrorReply) for reply in replies):
            return
        number = int(replies[0] or 0)
        said = register.see(number, floor)
        if said:
            raise Wrong(f"after an UNKNOWN: {said}")
        register.settled = number


class Reader(Client):
    """Reads what the writers write, always through the same node as long as that answers."""

    def __init__(self, nodes, model, number, seed):
        super().__init__(nodes, model, seed)
        self.at, self.reads = number, 0

    def go_on(self):
        with self.model.lock:
            registers = self.rng.choices(self.model.registers, k=8)
        # What is settled is looked at first: its floor is at least that.
        asked = [(register, name, register.settled, register.floor) for register in registers
                 for name in register.names]
        replies = self.ask_all([("GET", name) for _, name, _, _ in asked])
        node = self.nodes[self.at % len(self.nodes)]
        for (register, name, settled, since), reply in zip(asked, replies):
            if isinstance(reply, ErrorReply):
                if not reply.startswith(NOT_DONE):
                    raise Wrong(f"GET {name} was answered {str(reply)[:200]}")
                continue
            self.reads += 1
            said = register.see(int(reply or 0), since, settled)
            if said:
                raise Wrong(f"GET through {node}: {said}")
        time.sleep(0.002)


class Load:
    """Writers and readers on all nodes; use it with `with`: it ends there, and demands that nothing was wrong."""

    def __init__(self, cluster, seed, nodes=None):
        nodes = self.nodes = nodes or cluster.nodes
        self.model = Model()
        self.writers = [Writer(nodes, self.model, number, f"{seed}:{number}") for number in range(WRITERS)]
        self.readers = [Reader(nodes, self.model, number, f"{seed}:r{number}") for number in range(len(nodes))]

    def __enter__(self):
        for thread in self.writers + self.readers:
            thread.start()
        return self

    def run(self, seconds):
        """Lets it go on for a while, unless something is wrong already."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.demand_right()
            time.sleep(0.05)

    def demand_right(self):
        """Nothing was answered that is wrong, and no node has ended by itself."""
        for node in self.nodes:
            node.demand_running()
        wrong = [thread.wrong for thread in self.writers + self.readers if thread.wrong]
        check(not wrong, "\n      ".join(wrong[:5]))

    def __exit__(self, kind, *_):
        for thread in self.writers + self.readers:
            thread.stopping.set()
        if kind is not None:
            return
        for thread in self.writers + self.readers:
            thread.join(REPLY_SECONDS + 5)
            check(not thread.is_alive(), "a connection does not end")
        self.demand_right()

    def judge(self, cluster):
        """At rest: every replica is equal, every node reads the same, all that was acknowledged is there."""
        cluster.heal()
        names = self.model.names()
        found = None
        for node in cluster.running():
            here = values(node, names)
            complaints = list(self.model.complaints(here))
            check(not complaints, f"through {node}: " + "\n      ".join(complaints[:8]))
            check(found is None or here == found, f"through {node} other values are read than through the one before")
            found = here
        cluster.demand_equal()
        done = self.model.counts[DONE]
        check(done >= 500, f"only {done} writes were acknowledged: nothing was tested")
        return f"{self.model}, {sum(reader.reads for reader in self.readers)} reads"
