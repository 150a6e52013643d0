"""Lies and losses planted on purpose; a test here passes when they are found."""

import os
import pathlib
import tempfile

from cycles import Broken, Figures, kill_cycles, power_cycles
from disk import HEAD, FaultyDisk
from faults import only_marline, reads_go_on
from harness import check, equal
from model import MISSING, Model, Write
from node import Node
from server import STAND_IN

DEAF_FILES, DEAF_DIRECTORY = 1, 2


def found(function):
    """What the checks say; they must say something."""
    try:
        function()
    except (Broken, AssertionError) as complaint:
        return str(complaint)
    raise AssertionError("nothing was found")


def lost(cycles, options, **more):
    figures = Figures()
    with Node(STAND_IN, **more) as node:
        said = found(lambda: cycles(5, options.seed, figures, node))
    check(figures.lost > 0, f"no loss was found, but: {said}")
    return f"found: lost={figures.lost} in {figures.cycles} cycles"


def a_server_that_keeps_nothing(options):
    return lost(kill_cycles, options, sync="lie")


def a_server_that_syncs_later(options):
    return lost(power_cycles, options, sync="1s", faulty=True)


def deaf(options, what):
    """The node under test on a disk whose syncs do nothing, once it has begun: it loses, or refuses to start."""
    only_marline()
    with Node(faulty=True) as node:
        node.start()
        node.kill()
        node.disk.deaf = what
        return "found: " + found(lambda: power_cycles(20, options.seed, Figures(), node)).splitlines()[0]


def our_files_never_synced(options):
    return deaf(options, DEAF_FILES)


def our_directory_never_synced(options):
    return deaf(options, DEAF_DIRECTORY)


def a_server_that_syncs_is_not_blamed(options):
    figures = Figures()
    with Node(STAND_IN, sync="always", faulty=True) as node:
        power_cycles(5, options.seed, figures, node)
    return str(figures)


def reads_that_wait_for_the_disk(_options):
    with Node(STAND_IN, sync="always", faulty=True) as node:
        node.start()
        return "found: " + found(lambda: reads_go_on(node))


def planted():
    """A model of a few writes, the last of which were not acknowledged, and what was found."""
    model = Model()
    a, b, c, receipt = (model.key(name) for name in ("a", "b", "c", "receipt"))
    model.account("x"), model.account("y")
    tally = model.tally("t")
    writes = [Write("SET a", [(a, (b"1", None))]),
              Write("MSET a b", [(a, (b"2", None)), (b, (b"2", None))]),
              Write("SET c", [(c, (b"1", 77))]),
              Write("SET c", [(c, (b"2", 77))]),
              Write("transfer", [(receipt, (b"r1", None))], [("x", -5), ("y", 5)]),
              Write("INCR t", tally=tally)]
    for write in writes:
        write.acknowledge()
    tally.answers.append(1)
    unknown = [Write("MSET a b", [(a, (b"3", None)), (b, (b"3", None))]),
               Write("RENAME c d", [(model.key("d"), (b"2", 77)), (c, MISSING)]),
               Write("transfer", [(receipt, (b"r2", None))], [("x", -7), ("y", 7)]),
               Write("INCR t", tally=tally)]
    model.writes = writes + unknown
    state = {"a": (b"2", None), "b": (b"2", None), "c": (b"2", 77), "receipt": (b"r1", None),
             "x": (b"-5", None), "y": (b"5", None), "t": (b"1", None)}
    return model, state


def the_judge(_options):
    """Each planted mistake is found and called by its name; what may be is not blamed."""
    right = [{}, {"a": b"3", "b": b"3"}, {"c": None, "d": (b"2", 77)}, {"receipt": b"r2", "x": b"-12", "y": b"12"},
             {"t": b"2"}]
    wrong = [("lost", {"a": b"1"}), ("lost", {"a": None}), ("lost", {"c": (b"1", 77)}), ("never written", {"a": b"9"}),
             ("never written", {"c": (b"2", None)}),
             ("half", {"a": b"3"}), ("half", {"b": b"3"}), ("half", {"c": None}),
             ("half", {"d": (b"2", 77)}), ("half", {"receipt": b"r2"}), ("half", {"x": b"-12", "y": b"12"}),
             ("half", {"x": b"-12"}), ("phantom", {"z": b"1"}), ("lost", {"t": None}), ("twice", {"t": b"3"}),
             ("lost", {"receipt": None, "x": b"0", "y": b"0"})]
    for kind, change in [(None, change) for change in right] + wrong:
        model, state = planted()
        for name, value in change.items():
            state[name] = value if isinstance(value, tuple) else (value, None)
        state = {name: value for name, value in state.items() if value[0] is not None}
        kinds = {complaint.kind for complaint in model.complain(state)}
        check(kinds == ({kind} if kind else set()), f"{change} was called {kinds or 'right'}, and is {kind or 'right'}")
    model, state = planted()
    model.keys["a"].read(b"3", 0)
    check({c.kind for c in model.complain(state)} == {"lost"}, "a read that was undone was not found")
    check(not model.keys["a"].read(b"1", model.keys["a"].floor), "a stale read was not found")
    return f"{len(wrong) + 2} mistakes found, {len(right)} right ones not blamed"


def a_kill_within_the_record_of_it(_options):
    """A kill leaves half a record, or a change of a name without one: what follows is read all the same."""
    with tempfile.TemporaryDirectory(prefix="marline-shim-") as place:
        home = pathlib.Path(place)
        (home / "data").mkdir()
        for name in ("kept", "moved", "removed"):
            (home / "data" / name).write_bytes(b"old")
        disk = FaultyDisk(home / "data", home / "faults")
        disk.begin_journal()
        kept = disk.names["kept"]

        def record(kind, offset=0, old=b"", new=b"", length=None):
            head = HEAD.pack(kind, kept, offset, 3, len(old), len(new) if length is None else length)
            with open(disk.control / "journal", "ab") as file:
                file.write(head + old + new)

        record(b"W", new=b"half", length=1000)
        os.rename(home / "data" / "moved", home / "data" / "found")
        os.unlink(home / "data" / "removed")
        (home / "data" / "made").write_bytes(b"")
        disk.mend()
        (home / "data" / "kept").write_bytes(b"new")
        record(b"W", old=b"old", new=b"new")
        writes, moves, _ = disk.unsynced()
        equal({inode: [write.new for write in pending] for inode, pending in writes.items()}, {kept: [b"new"]},
              "writes behind half a record")
        equal(sorted((move.kind, move.old, move.new) for move in moves),
              [("C", b"made", b""), ("R", b"moved", b"found"), ("U", b"removed", b"")], "changes without a record")
        disk.mend()
        equal(len(disk.unsynced()[1]), 3, "changes of names after a second look")


ALL = [the_judge, a_kill_within_the_record_of_it, a_server_that_keeps_nothing, a_server_that_syncs_later, a_server_that_syncs_is_not_blamed,
       our_files_never_synced, our_directory_never_synced, reads_that_wait_for_the_disk]
