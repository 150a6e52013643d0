"""Starting, stopping, signals, expiry, notifications and MONITOR."""

import signal
import subprocess
import time

from harness import check, connect, contains, equal, eventually, run, scenario
from server import free_port


def exit_code(server, seconds=20):
    return server.process.wait(seconds)


@scenario(survives=False)
def sigterm_drains_and_exits_0(server):
    """SIGTERM with clients connected: what was acknowledged stays, idle clients are closed, exit
    code 0."""
    with connect(server) as idle, connect(server) as busy:
        equal(idle.ask("PING"), "PONG")
        busy.send(b"SET k v\r\n" * 10_000)
        equal(busy.reply(), "OK")
        server.process.send_signal(signal.SIGTERM)
        replies = busy.rest()
        equal(replies.replace(b"+OK\r\n", b""), b"", "torn replies")
        equal(idle.rest(), b"")
        equal(exit_code(server), 0, "exit code")


@scenario(survives=False)
def sigint_exits_0(server):
    """Ctrl-C in the server's terminal stops it as SIGTERM does."""
    with connect(server) as idle:
        equal(idle.ask("PING"), "PONG")
        server.process.send_signal(signal.SIGINT)
        equal(exit_code(server), 0, "exit code")


@scenario(survives=False)
def second_sigterm_exits_at_once(server):
    """While a client that does not read holds up the drain, a second SIGTERM ends the process
    within a second."""
    with connect(server) as greedy:
        equal(greedy.ask("SET", "big", "x" * 1_000_000), "OK")
        greedy.send(b"GET big\r\n" * 100)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        start = time.monotonic()
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        exit_code(server, 5)
        check(time.monotonic() - start < 1.5, "the second SIGTERM was not obeyed at once")


@scenario(survives=False)
def sigterm_does_not_wait_for_ever(server):
    """A client that never reads its replies cannot keep the server from stopping."""
    with connect(server) as greedy:
        equal(greedy.ask("SET", "big", "x" * 1_000_000), "OK")
        greedy.send(b"GET big\r\n" * 100)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        equal(exit_code(server, 30), 0, "exit code")


@scenario(survives=False)
def shutdown_command(server):
    """SHUTDOWN stops the server with exit code 0; the caller's connection is closed without a
    reply."""
    with connect(server) as client:
        client.send(b"SHUTDOWN NOSAVE\r\n")
        equal(client.rest(), b"", "reply to SHUTDOWN")
        equal(exit_code(server), 0, "exit code")


@scenario()
def port_in_use(server):
    """A second server on the same port says so, names the address and exits with a code that is
    not 0."""
    done = subprocess.run(server.command(), capture_output=True, timeout=20, cwd=server.home,
                          stdin=subprocess.DEVNULL)
    said = (done.stdout + done.stderr).decode()
    check(done.returncode != 0, "exit code 0")
    contains(said, str(server.port))
    contains(said.lower(), "in use")


@scenario(only_marline=True)
def non_loopback_bind_is_refused(server):
    """Without --insecure the server refuses to listen where others could reach it, and says how
    to go on. (Nothing is ever sent to that address.)"""
    done = subprocess.run(server.command(port=free_port(), bind="0.0.0.0"), capture_output=True,
                          timeout=20, cwd=server.home, stdin=subprocess.DEVNULL)
    check(done.returncode not in (0, None), "exit code 0")
    contains((done.stdout + done.stderr).decode(), "--insecure")


@scenario(only_marline=True)
def usage_errors_exit_2(server):
    """An unknown option exits 2 and names the option."""
    done = subprocess.run([server.binary, "--no-such-option"], capture_output=True, timeout=20,
                          cwd=server.home, stdin=subprocess.DEVNULL)
    equal(done.returncode, 2, "exit code")
    contains((done.stdout + done.stderr).decode(), "no-such-option")


@scenario(only_marline=True)
def help_and_version(server):
    """--help and --version print to standard output and exit 0."""
    contains(run(server.binary, "--help"), "--port")
    contains(run(server.binary, "--version"), "arline")


@scenario()
def expiry_on_access(server):
    """PX 100: there at once, gone after 100 ms, and so is its TTL."""
    with connect(server) as client:
        equal(client.ask("SET", "k", "v", "PX", 100), "OK")
        equal(client.ask("GET", "k"), b"v")
        check(0 < client.ask("PTTL", "k") <= 100, "PTTL")
        time.sleep(0.15)
        equal(client.ask("GET", "k"), None)
        equal(client.ask("PTTL", "k"), -2)
        equal(client.ask("DBSIZE"), 0)


@scenario()
def expiry_without_access(server):
    """10,000 keys with PX 200 that nobody touches again are gone from DBSIZE within seconds."""
    with connect(server) as client:
        client.send(b"".join(b"SET k%d v PX 200\r\n" % n for n in range(10_000)))
        for _ in range(10_000):
            equal(client.reply(), "OK")
        equal(client.ask("SET", "stays", "v"), "OK")
        eventually(lambda: client.ask("DBSIZE") == 1, "expired keys were never removed")
        contains(client.ask("INFO", "stats").decode(), "expired_keys:10000")


@scenario()
def keyspace_notifications(server):
    """notify-keyspace-events KEA: set, expire, del and expired arrive on both kinds of channel."""
    with connect(server) as listener, connect(server) as client:
        equal(client.ask("CONFIG", "SET", "notify-keyspace-events", "KEA"), "OK")
        listener.send(b"PSUBSCRIBE __key*__:*\r\n")
        listener.reply()
        equal(client.ask("SET", "k", "v"), "OK")
        equal(client.ask("PEXPIRE", "k", 50), 1)
        equal(client.ask("SET", "d", "v"), "OK")
        equal(client.ask("DEL", "d"), 1)
        want = [("k", "set"), ("k", "expire"), ("d", "set"), ("d", "del"), ("k", "expired")]
        for key, event in want:
            equal(listener.reply(), [b"pmessage", b"__key*__:*", b"__keyspace@0__:" + key.encode(), event.encode()])
            equal(listener.reply(), [b"pmessage", b"__key*__:*", b"__keyevent@0__:" + event.encode(), key.encode()])


@scenario()
def monitor_shows_commands(server):
    """MONITOR: every command of every connection in order, arguments quoted."""
    with connect(server) as watcher, connect(server) as client:
        equal(watcher.ask("MONITOR"), "OK")
        for number in range(100):
            equal(client.ask("SET", f"k{number}", b"\x00\xff\"\n"), "OK")
        for number in range(100):
            line = watcher.reply()
            check(line.endswith(f'"SET" "k{number}" "\\x00\\xff\\"\\n"'), line)


@scenario(only_marline=True, options=("--client-output-limit", "50mb"))
def monitor_that_does_not_read(server):
    """A MONITOR that never reads 200 MB is cut off at the limit that is set, and nobody else is."""
    before = server.rss()
    with connect(server) as watcher, connect(server) as client:
        equal(watcher.ask("MONITOR"), "OK")
        value = b"x" * 4000
        for _ in range(50):
            client.send(b"SET k %s\r\n" % value * 1000)
            for _ in range(1000):
                equal(client.reply(), "OK")
        check(server.rss() - before < 100_000_000, f"grew by {(server.rss() - before) >> 20} MiB")
