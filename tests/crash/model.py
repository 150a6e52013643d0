"""What must be in the database after a crash, and what may be.

Every key has one connection that writes it, so the states of a key are a list: the one at the start, and one more
for every write that was sent. Found after the crash must be one of them, at or behind the last that was
acknowledged or that anybody has read. A write to several keys (MSET, DEL, RENAME, MULTI) must be in all of
their lists or in none.

    states     s0  s1  s2  s3  s4  s5           s = (value, expires at ms), a missing key is (None, None)
    floor              ^ acknowledged, or read          found: s2 .. s5, or it is lost, or it never was

Two kinds of keys have many writers. Accounts are only ever changed by transfers, MULTI with a receipt among
the writer's own keys: the receipts found say which transfers happened, and so what every account holds; their
sum is always 0. Tallies are only ever INCRed: between the acknowledged and the sent, and no number is
answered twice.
"""

import collections

MISSING = (None, None)


class Key:
    """The states of a key that one connection writes."""
    __slots__ = ("name", "states", "acknowledged", "seen")

    def __init__(self, name):
        self.name = name
        self.start(MISSING)

    def start(self, state):
        self.states, self.acknowledged, self.seen = [state], 0, 0

    @property
    def floor(self):
        """The first state that may still be: the last acknowledged, or the last that somebody has read."""
        return max(self.acknowledged, self.seen)

    @property
    def now(self):
        """As of the last write that was sent."""
        return self.states[-1]

    def read(self, value, since):
        """Somebody else has read this, and asked when `since` was the floor: it may not be forgotten. False when
        it was never written, or was already overwritten when it was asked for."""
        for at in range(since, len(self.states)):
            if self.states[at][0] == value:
                self.seen = max(self.seen, at)
                return True
        return False


class Write:
    """One command or transaction: what it makes of which keys, and what it moves between accounts."""
    __slots__ = ("what", "effects", "moves", "tally", "acknowledged")

    def __init__(self, what, effects=(), moves=(), tally=None):
        """`effects`: (Key, its new state) each; `moves`: (account, amount) each; `tally`: the one to count up."""
        self.what, self.moves, self.tally, self.acknowledged = what, moves, tally, False
        self.effects = []
        for key, state in effects:
            key.states.append(state)
            self.effects.append((key, len(key.states) - 1))

    def acknowledge(self):
        self.acknowledged = True
        for key, at in self.effects:
            key.acknowledged = max(key.acknowledged, at)


class Tally:
    """A counter that everybody counts up."""

    def __init__(self, name):
        self.name, self.base, self.answers = name, 0, []

    def complain(self, found, sent):
        answered = f"began at {self.base}, {len(self.answers)} INCRs were acknowledged, {sent} sent"
        least = max([self.base + len(self.answers), *self.answers])
        if found < least:
            yield Complaint("lost", self.name, f"is {found}, must be {least}: {answered}", least - found)
        if found > self.base + sent:
            yield Complaint("twice", self.name, f"is {found}: {answered}", 0)
        if len(set(self.answers)) < len(self.answers) or self.answers and min(self.answers) <= self.base:
            yield Complaint("twice", self.name, f"a number was answered twice: {answered}", 0)


Complaint = collections.namedtuple("Complaint", "kind key what lost")


class Model:
    def __init__(self):
        self.keys, self.accounts, self.tallies, self.writes = {}, {}, {}, []

    def key(self, name):
        return self.keys.setdefault(name, Key(name))

    def account(self, name):
        self.accounts.setdefault(name, 0)
        return name

    def tally(self, name):
        return self.tallies.setdefault(name, Tally(name))

    def names(self):
        return [*self.keys, *self.accounts, *self.tallies]

    def unknown(self):
        return [write for write in self.writes if not write.acknowledged]

    def complain(self, found):
        """What is wrong with `found`, name -> state of every key in the database."""
        complaints = [Complaint("phantom", name, f"nobody wrote it: {show(state)}", 0)
                      for name, state in found.items()
                      if name not in self.keys and name not in self.accounts and name not in self.tallies]
        possible = {}
        for key in self.keys.values():
            state = found.get(key.name, MISSING)
            possible[key] = [at for at in range(key.floor, len(key.states)) if key.states[at] == state]
            if not possible[key]:
                complaints.append(self.diagnose(key, state))
        if not complaints:
            complaints += self.halves(possible)
        if not complaints:
            complaints += self.balances(found, possible)
        for tally in self.tallies.values():
            sent = sum(write.tally is tally for write in self.writes)
            complaints += tally.complain(int(found.get(tally.name, MISSING)[0] or 0), sent)
        return complaints

    def diagnose(self, key, state):
        earlier = [at for at in range(key.floor) if key.states[at] == state]
        wanted = f"must be {show(key.states[key.floor])}"
        if len(key.states) - 1 > key.floor:
            wanted += f" or one of {len(key.states) - 1 - key.floor} later states, to {show(key.now)}"
        if not earlier:
            kind = "lost" if state == MISSING else "never written"
            return Complaint(kind, key.name, f"is {show(state)}, which it never was; {wanted}", 1)
        lost = [write.what for write in self.writes if write.acknowledged
                and any(k is key and earlier[-1] < at <= key.floor for k, at in write.effects)]
        return Complaint("lost", key.name, f"is {show(state)}; {wanted}; acknowledged and lost (or read and undone): "
                         f"{', '.join(lost[:3]) or 'a read'}", max(1, len(lost)))

    def halves(self, possible):
        """Writes to several keys that happened in part. Narrows `possible` to what is consistent."""
        several = [write for write in self.unknown() if len(write.effects) > 1]
        complaints, changed = [], True
        while changed and not complaints:
            changed = False
            for write in several:
                happened = [{at >= place for at in possible[key]} for key, place in write.effects]
                both = set.intersection(*happened)
                if not both:
                    parts = ", ".join(f"{key.name}: {'done' if done == {True} else 'not done'}"
                                      for (key, _), done in zip(write.effects, happened))
                    complaints.append(Complaint("half", write.effects[0][0].name, f"{write.what}: {parts}", 0))
                elif len(both) == 1:
                    for key, place in write.effects:
                        left = [at for at in possible[key] if (at >= place) in both]
                        changed |= len(left) < len(possible[key])
                        possible[key] = left
        return complaints

    def balances(self, found, possible):
        want = dict(self.accounts)
        for write in self.writes:
            if write.moves and all(at >= place for key, place in write.effects for at in possible[key]):
                for account, amount in write.moves:
                    want[account] += amount
        have = {name: int(found.get(name, MISSING)[0] or 0) for name in want}
        if sum(have.values()):
            yield Complaint("half", "accounts", f"their sum is {sum(have.values())}, not 0", 0)
        for name in want:
            if have[name] != want[name]:
                yield Complaint("half", name, f"holds {have[name]}, the receipts say {want[name]}", 0)

    def go_on_from(self, found):
        """The crash has been judged: what was found is the start of what follows."""
        for key in self.keys.values():
            key.start(found.get(key.name, MISSING))
        for name in self.accounts:
            self.accounts[name] = int(found.get(name, MISSING)[0] or 0)
        for tally in self.tallies.values():
            tally.base, tally.answers = int(found.get(tally.name, MISSING)[0] or 0), []
        self.writes = []


def show(state):
    value, expires = state
    if value is None:
        return "missing"
    text = repr(value) if len(value) <= 60 else f"{value[:40]!r}... ({len(value)} bytes)"
    return text + (f" expiring at {expires}" if expires else "")
