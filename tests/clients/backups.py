"""`marline backup`, `restore` and `check`: what a node held comes back, and what is damaged is told."""

import contextlib
import pathlib
import random
import tempfile
import threading
import time

from harness import check, contains, equal, run, scenario
from resp import encode
from server import Connection, Server, free_port, marline_binary


@contextlib.contextmanager
def home():
    with tempfile.TemporaryDirectory(prefix="marline-backups-") as path:
        yield pathlib.Path(path)


def tool(*args, **more):
    return run(marline_binary(), *args, **more)


def node(directory, keys=None, options=()):
    sealed = ["--seal-keys", keys] if keys else []
    return Server(options=["--shards", 5, *sealed, *options], data=directory)


def ring(keys):
    return ["--seal-keys", keys] if keys else []


def pipeline(connection, commands, want="OK"):
    """Send many commands at once; every reply must be the same."""
    connection.send(b"".join(encode(command) for command in commands))
    for _ in commands:
        equal(connection.reply(), want)


def fill(connection):
    """Keys of all sizes, a third of them with an expiry; gives their values and times."""
    chance, now_ms = random.Random(3), int(time.time() * 1000)
    held = {}
    for number in range(3000):
        name = b"key:%d" % number
        value = b"value %d " % number * (number % 15)
        held[name] = (value, now_ms + 3_600_000 + number if number % 3 == 0 else -1)
    held[b"binary \0\r\n\xff"] = (bytes(range(256)), -1)
    held[b""] = (b"no name", -1)
    held[b"canary"] = (chance.randbytes(100), -1)
    held[b"large"] = (chance.randbytes(9_000_000), -1)
    pipeline(connection, [["SET", name, value] + (["PXAT", at_ms] if at_ms > 0 else [])
                          for name, (value, at_ms) in held.items()])
    equal(connection.ask("SET", "soon", "gone", "PX", 1), "OK")
    return held


def same(connection, held):
    """Exactly these keys, with these values and times."""
    equal(connection.ask("EXISTS", "soon"), 0, "the expired key")
    equal(connection.ask("DBSIZE"), len(held), "number of keys")
    for command, field in (("GET", 0), ("PEXPIRETIME", 1)):
        names = list(held)
        connection.send(b"".join(encode([command, name]) for name in names))
        for name in names:
            equal(connection.reply(), held[name][field], f"{command} {name!r}")


@scenario(only_marline=True)
def backup_and_restore(server):
    """A backup of a node brings back the same keys with the same expiry into a new directory, sealed and
    not, after the keys of the node were wrecked; and restored over the wreck, too."""
    for is_sealed in (False, True):
        with home() as files:
            keys = files / "keys" if is_sealed else None
            file = files / "backup"
            with node(files / "old", keys) as old, Connection(old.port) as client:
                held = fill(client)
                said = tool("backup", f"127.0.0.1:{old.port}", file)
                contains(said, f"{file}: {file.stat().st_size} bytes, ")
                contains(said, "sealed with key 1" if is_sealed else " keys, ")
                equal(list(files.glob("old/backups/*")), [], "backups left at the node")
                contains(tool("backup", f"127.0.0.1:{old.port}", file, fails=True), "")
                pipeline(client, [["SET", name, "wrecked"] for name in held])
                client.ask("SAVE")
                pipeline(client, [["SET", b"more:%d" % number, "wreck"] for number in range(1000)])
                contains(tool("check", files / "old", *ring(keys), fails=True), "")
            contains(tool("backup", "--verify", file, *ring(keys)), "\nwhole\n")
            equal(held[b"canary"][0] in file.read_bytes(), not is_sealed, "whether values can be read in the file")
            contains(tool("check", files / "old", *ring(keys)), "\nwhole\n")
            tool("restore", file, "--data", files / "old", *ring(keys), fails=True)
            contains(tool("check", files / "old", *ring(keys)), "\nwhole\n")
            for directory, forced in (("new", []), ("old", ["--force"])):
                said = tool("restore", file, "--data", files / directory, *ring(keys), *forced)
                contains(said, "restored 5 shards: ")
                contains(said, f"marline --data {files / directory} --shards 5")
                for _ in range(2):
                    contains(tool("check", files / directory, *ring(keys)), "\nwhole\n")
                    with node(files / directory, keys) as new, Connection(new.port) as client:
                        same(client, held)
                        equal(client.ask("SET", "after", "restored"), "OK")
                        equal(client.ask("DEL", "after"), 1)


@scenario(only_marline=True)
def backups_while_clients_write(server):
    """While clients move money between accounts in all shards by MULTI/EXEC, every backup holds the whole sum,
    and whoever was acknowledged before it began is in it."""
    accounts = [f"account:{number}" for number in range(20)]
    stop = threading.Event()
    failures = []

    def move(port, seed):
        chance = random.Random(seed)
        try:
            with Connection(port) as client:
                while not stop.is_set():
                    (one, other), amount = chance.sample(accounts, 2), chance.randrange(1, 100)
                    client.send(b"MULTI\r\nDECRBY %s %d\r\nINCRBY %s %d\r\nINCR moves\r\nEXEC\r\n"
                                % (one.encode(), amount, other.encode(), amount))
                    for _ in range(4):
                        client.reply()
                    check(len(client.reply()) == 3, "a move failed")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    with home() as files:
        with node(files / "data", options=["--sync", "1s"]) as source, Connection(source.port) as client:
            pipeline(client, [["SET", account, 1000] for account in accounts])
            pipeline(client, [["SET", b"ballast:%d" % number, b"x" * 1000] for number in range(30_000)])
            writers = [threading.Thread(target=move, args=(source.port, seed)) for seed in range(3)]
            for writer in writers:
                writer.start()
            before = []
            try:
                for number in range(3):
                    before.append(int(client.ask("GET", "moves") or 0))
                    tool("backup", f"127.0.0.1:{source.port}", files / f"backup{number}")
            finally:
                stop.set()
                for writer in writers:
                    writer.join()
            equal(failures, [])
            after = int(client.ask("GET", "moves"))
        for number in range(3):
            directory = files / f"restored{number}"
            tool("restore", files / f"backup{number}", "--data", directory)
            with node(directory) as restored, Connection(restored.port) as client:
                sums = [int(value) for value in client.ask("MGET", *accounts)]
                equal(sum(sums), 1000 * len(accounts), "sum of all accounts")
                moves = int(client.ask("GET", "moves"))
                check(before[number] <= moves <= after, f"moves: {before[number]}, {moves}, {after}")
                equal(client.ask("DBSIZE"), 30_000 + len(accounts) + 1, "keys")
        check(before[2] > before[0], f"nobody wrote meanwhile: {before}")


@scenario(only_marline=True)
def check_finds_what_a_node_refuses(server):
    """A flipped byte in a snapshot is told by `marline check`, file and place, and no node starts from it until
    a backup is restored."""
    with home() as files:
        data, file = files / "data", files / "backup"
        with node(data) as source, Connection(source.port) as client:
            held = fill(client)
            equal(client.ask("SAVE"), "OK")
            tool("backup", f"127.0.0.1:{source.port}", file)
        contains(tool("check", "--verbose", data), "\nwhole\n")
        snapshot = sorted(data.glob("snapshot-*"))[2]
        content = bytearray(snapshot.read_bytes())
        content[len(content) // 2] ^= 4
        snapshot.write_bytes(content)
        said = tool("check", data, fails=True)
        contains(said, f"{snapshot.name} at byte ")
        contains(said, "identity ")
        refused = node(data)
        try:
            refused.start()
            raise AssertionError("the node started from damaged data")
        except RuntimeError as error:
            contains(str(error), f"{snapshot.name} at byte ")
        tool("restore", file, "--data", data, "--force")
        with node(data) as restored, Connection(restored.port) as client:
            same(client, held)


@scenario(only_marline=True)
def backup_without_a_node(server):
    """No node, a node without files, a full name: the reason is told, the exit code fits, nothing is left."""
    with home() as files:
        tool("backup", f"127.0.0.1:{free_port()}", files / "backup", fails=True)
        tool("backup", f"127.0.0.1:{server.port}", files / "backup", fails=True)
        tool("backup", f"127.0.0.1:{server.port}", files / "no/such/backup", fails=True)
        tool("check", files, fails=True)
        equal([path.name for path in files.iterdir() if path.name != "LOCK"], [], "files")
