"""The faulty disk: compiles faulty_disk.c, switches its faults, and makes of a data directory what a power
failure would have left of it.

What is durable is read pessimistically (src/disk/mod.rs says the same): bytes only after a sync of their file that
began after they were written, names only after a sync of the directory. Of everything else any subset may be
there, in any order, and a write may be torn at any sector.
"""

import collections
import mmap
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FIELDS = ["fail_sync", "fail_write", "limited", "free", "slow_sync_ms", "deaf", "journal",
          "syncs", "writes", "fired", "refused"]
HEAD = struct.Struct("<c7xQQQII")
KINDS = [b"W", b"T", b"C", b"R", b"U", b"B", b"S", b"F"]
SECTOR = 512
# What survives of that which was not synced.
STYLES = ["nothing", "everything", "a beginning", "any part", "any part"]

Record = collections.namedtuple("Record", "place kind inode offset old_size old new")


class NoCompiler(Exception):
    """There is no cc here."""


_shim = None


def shim():
    """The path of the compiled shim; it is compiled once a run, into a temporary directory."""
    global _shim
    if _shim is None:
        if not shutil.which("cc"):
            raise NoCompiler("there is no C compiler (cc) to make the faulty disk with")
        _shim = tempfile.TemporaryDirectory(prefix="marline-shim-")
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", f"{_shim.name}/faulty_disk.so",
                        str(HERE / "faulty_disk.c"), "-ldl", "-lpthread"], check=True)
    return f"{_shim.name}/faulty_disk.so"


class FaultyDisk:
    """One directory behind the shim. Fields of the control page are attributes: `disk.slow_sync_ms = 2000`."""

    def __init__(self, directory, control, tears=True):
        """`tears`: a power failure may leave holes and halves of writes, else only ends are cut off."""
        self.tears = tears
        self.directory, self.control = pathlib.Path(directory).resolve(), pathlib.Path(control).resolve()
        (self.control / "inodes").mkdir(parents=True)
        (self.control / "control").write_bytes(bytes(8 * len(FIELDS)))
        (self.control / "journal").touch()
        with open(self.control / "control", "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 8 * len(FIELDS))

    def environment(self):
        return {"LD_PRELOAD": shim(), "FAULTY_DISK_DIR": str(self.directory), "FAULTY_DISK_CTL": str(self.control)}

    def __getattr__(self, name):
        if name not in FIELDS:
            raise AttributeError(name)
        return struct.unpack_from("<q", self.page, 8 * FIELDS.index(name))[0]

    def __setattr__(self, name, value):
        if name in FIELDS:
            struct.pack_into("<q", self.page, 8 * FIELDS.index(name), value)
        else:
            super().__setattr__(name, value)

    # Power failures.

    def begin_journal(self):
        """What is in the directory now is durable; from now on everything is recorded. The server must not run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for old in (self.control / "inodes").iterdir():
            old.unlink()
        os.truncate(self.control / "journal", 0)
        self.names = {}
        for entry in os.scandir(self.directory):
            if entry.is_file(follow_symlinks=False):
                self.names[entry.name] = entry.inode()
                os.link(entry.path, self.path_of(entry.inode()))
        self.journal = 1

    def mend(self):
        """After the server was killed, before the next one starts: the kill may have come within a record, which is
        cut off (what it announced was not done yet), or between a change of a name and its record, which is added."""
        if not self.journal:
            return
        whole, recorded = 0, dict(self.names)
        for record in self.records():
            whole = record.place + HEAD.size + len(record.old) + len(record.new)
            if record.kind in "CRU":
                apply_move(recorded, record)
        os.truncate(self.control / "journal", whole)
        real = {entry.name: entry.inode() for entry in os.scandir(self.directory)
                if entry.is_file(follow_symlinks=False)}
        gone = {inode: name for name, inode in recorded.items() if name not in real}
        with open(self.control / "journal", "ab") as file:
            for name, inode in real.items():
                if recorded.get(name) == inode:
                    continue
                before = gone.pop(inode, None)
                if before is None and not self.path_of(inode).exists():
                    os.link(self.directory / name, self.path_of(inode))
                old, new = (before or name).encode(), name.encode() if before else b""
                file.write(HEAD.pack(b"R" if before else b"C", inode, 0, 0, len(old), len(new)) + old + new)
            for inode, name in gone.items():
                file.write(HEAD.pack(b"U", inode, 0, 0, len(name.encode()), 0) + name.encode())

    def path_of(self, inode):
        return self.control / "inodes" / str(inode)

    def records(self):
        with open(self.control / "journal", "rb") as file:
            while True:
                place, head = file.tell(), file.read(HEAD.size)
                if len(head) < HEAD.size:
                    return
                kind, inode, offset, old_size, old_length, new_length = HEAD.unpack(head)
                if kind not in KINDS:
                    raise RuntimeError(f"the shim's journal makes no sense at byte {place}: {head}")
                old, new = file.read(old_length), file.read(new_length)
                if len(old) + len(new) == old_length + new_length:
                    yield Record(place, kind.decode(), inode, offset, old_size, old, new)

    def lose_power(self, rng):
        """After the server was killed: throws away a random part of what was not synced. Says what it did."""
        writes, moves, durable = self.unsynced()
        self.refuse_unseen()
        style = rng.choice(STYLES if self.tears else STYLES[:3])
        kept_writes = 0
        for inode, pending in writes.items():
            kept_writes += self.rewrite(inode, pending, choose(pending, style, rng), rng)
        names, kept_moves = dict(durable), choose(moves, style, rng)
        for move in kept_moves:
            apply_move(names, move)
        for entry in list(os.scandir(self.directory)):
            if entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)
        for name, inode in names.items():
            os.link(self.path_of(inode), self.directory / name)
        pending_writes = sum(map(len, writes.values()))
        return Loss(style, pending_writes, pending_writes - kept_writes, len(moves), len(moves) - len(kept_moves))

    def unsynced(self):
        """(writes of each inode, changes of names, the names that are durable)"""
        writes, doomed = collections.defaultdict(list), collections.defaultdict(list)
        moves, names = [], dict(self.names)
        for record in self.records():
            if record.kind in "WT":
                writes[record.inode].append(record)
            elif record.kind in "CRU":
                moves.append(record)
            elif record.kind == "S" and record.inode == 0:
                for move in moves:
                    if move.place < record.offset:
                        apply_move(names, move)
                moves = [move for move in moves if move.place > record.offset]
            elif record.kind == "S":
                writes[record.inode] = [write for write in writes[record.inode] if write.place > record.offset]
            elif record.kind == "F":
                # What a failed sync should have written stays lost, whatever later ones say.
                doomed[record.inode] += writes.pop(record.inode, [])
        for inode, lost in doomed.items():
            writes[inode] = sorted(lost + writes[inode])
        return {inode: pending for inode, pending in writes.items() if pending}, moves, names

    def refuse_unseen(self):
        """A file that the shim did not see being made would be lost by us and not by the server."""
        for entry in os.scandir(self.directory):
            seen = self.path_of(entry.inode()).exists()
            if entry.is_file(follow_symlinks=False) and not seen and entry.stat().st_size:
                raise RuntimeError(f"{entry.name} was made behind the shim's back")

    def rewrite(self, inode, pending, kept, rng):
        """Undoes all that is pending, then does again what is kept of it."""
        with open(self.path_of(inode), "r+b", buffering=0) as file:
            for write in reversed(pending):
                os.pwrite(file.fileno(), write.old, write.offset)
                os.ftruncate(file.fileno(), write.old_size)
            for write in kept:
                if write.kind == "T":
                    os.ftruncate(file.fileno(), write.offset)
                    continue
                first, last = 0, len(write.new)
                if self.tears and rng.random() < 0.3:
                    cuts = range(-write.offset % SECTOR, last, SECTOR)
                    first, last = sorted((rng.choice([0, *cuts]), rng.choice([*cuts, last])))
                os.pwrite(file.fileno(), write.new[first:last], write.offset + first)
        return len(kept)

    def clear(self):
        for field in FIELDS:
            setattr(self, field, 0)


Loss = collections.namedtuple("Loss", "style writes writes_lost names names_lost")


def choose(pending, style, rng):
    """What of this reached the disk, in the order in which it was issued."""
    if style == "nothing":
        return []
    if style == "everything":
        return list(pending)
    if style == "a beginning":
        return pending[:rng.randint(0, len(pending))]
    return [change for change in pending if rng.random() < 0.5]


def apply_move(names, move):
    name, second = move.old.decode(), move.new.decode()
    if move.kind == "U":
        if names.get(name) == move.inode:
            del names[name]
        return
    names[second or name] = move.inode
    if move.kind == "R" and names.get(name) == move.inode:
        del names[name]
