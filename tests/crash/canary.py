"""What is sealed shows nothing of it: a string that stands in keys and values is sought in every file.

The same without sealing must find it, in the log and in a snapshot: else the search proves nothing.
"""

import random

from harness import Skip, check, contains, equal
from node import Node, write_keys
from resp import ErrorReply

KEYS = 300


def write(connection, canary, first):
    for number in range(first, first + KEYS):
        equal(connection.ask("SET", f"{canary}:{number}", f"value {canary} {number} " + "x" * (number % 50 * 40)), "OK")
    equal(connection.ask("APPEND", f"{canary}:{first}", canary) > 0, True)
    equal(connection.ask("RENAME", f"{canary}:{first}", f"renamed:{canary}:{first}"), "OK")


def fill(node, canary):
    """Logs, snapshots, backups, rotations and a crash, all with the canary in them."""
    with node.connect() as connection:
        write(connection, canary, 0)
        equal(connection.ask("SAVE"), "OK")
        write(connection, canary, KEYS)
        if not node.stand_in:
            check(not isinstance(reply := connection.ask("BACKUP", "one"), ErrorReply), f"BACKUP: {reply}")
            code, said = node.tool("backup", f"127.0.0.1:{node.port}", node.home / "backup-file")
            equal(code, 0, f"exit code of marline backup\n{said}")
        if node.sealed:
            check(not isinstance(reply := connection.ask("KEY", "ROTATE"), ErrorReply), f"KEY ROTATE: {reply}")
        write(connection, canary, 2 * KEYS)
        connection.ask("NOSUCH", canary)
        connection.ask("SET", canary)
        equal(connection.ask("SAVE"), "OK")
        write(connection, canary, 3 * KEYS)
    node.kill()
    node.start()
    equal(node.ask("DBSIZE"), 4 * KEYS)
    equal(node.ask("GET", f"{canary}:{2 * KEYS + 1}")[:20], f"value {canary}"[:20].encode())
    node.kill()


def files_with(node, needles):
    """The files of the node, and its output, in which one of these bytes stands. The ring of keys is not searched."""
    found, searched = set(), 0
    for path in node.home.rglob("*"):
        if not path.is_file() or node.sealed and path == node.keys:
            continue
        searched += 1
        data = path.read_bytes()
        if any(needle in data for needle in needles) or any(needle in path.name.encode() for needle in needles):
            found.add(str(path.relative_to(node.home)))
    return found, searched


def secrets(node):
    """The bytes of every key in the ring, raw and as they stand there."""
    words = [word for line in node.keys.read_text().splitlines() if not line.startswith("#") for word in line.split()]
    hexes = [word for word in words if len(word) == 64]
    check(hexes, "no key was found in the ring: what is a key there?")
    return [form for text in hexes for form in (text.encode(), bytes.fromhex(text))]


def scan(options):
    canary = "canary-" + random.Random(options.seed).randbytes(8).hex()
    with Node() as open_node:
        open_node.start()
        fill(open_node, canary)
        shown, _ = files_with(open_node, [canary.encode()])
        check(shown, "without sealing the canary was not found either")
        if not open_node.stand_in:
            for part in ("data/wal-", "data/snapshot-", "data/backups/", "backup-file"):
                check(any(name.startswith(part) for name in shown), f"without sealing there is none in {part}: {shown}")
    if open_node.stand_in:
        raise Skip(f"the server under test does not seal; found as expected in {sorted(shown)}")
    with Node(sealed=True) as node:
        node.start()
        fill(node, canary)
        found, searched = files_with(node, [canary.encode(), *secrets(node)])
        check(not found, f"the canary or a key stands in {sorted(found)}")
        wrong_keys(node)
    return f"none in {searched} sealed files, in {len(shown)} of the unsealed"


def wrong_keys(node):
    """With another ring it does not start, says so, and harms nothing."""
    right = node.keys.read_bytes()
    write_keys(node.keys)
    node.launch()
    code = node.process.wait(30)
    said = node.end_log()
    check(code not in (0, None), f"started with another ring of keys\n{said}")
    contains(said.lower(), "key")
    node.keys.write_bytes(right)
    node.start()
    equal(node.ask("DBSIZE"), 4 * KEYS)
