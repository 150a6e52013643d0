"""Wrong, hostile and unlucky input on raw sockets. Each ends with a clear error where one is
possible, and the server goes on: the runner asks it once more after every scenario."""

import random
import resource
import select
import socket
import struct
import time

from harness import Skip, check, connect, contains, equal, eventually, scenario
from resp import encode

MIB = 1 << 20


def closes_with(server, data, error):
    """Send bytes that end the conversation: the last reply is the error, then the server closes."""
    with connect(server, timeout=10) as other, connect(server, timeout=10) as client:
        equal(other.ask("SET", "other", "unharmed"), "OK")
        try:
            client.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        equal(client.rest(), error and f"-{error}\r\n".encode(), f"answer to {data[:60]!r}")
        equal(other.ask("GET", "other"), b"unharmed")


@scenario()
def unbalanced_quotes(server):
    """A line with unbalanced quotes: an error, and the connection is closed, as with Redis."""
    error = "ERR Protocol error: unbalanced quotes in request"
    closes_with(server, b'SET k "abc\r\n', error)
    closes_with(server, b"SET k 'abc\n", error)
    closes_with(server, b'SET k "abc"def\n', error)


@scenario()
def over_long_inline_line(server):
    """A line of more than 64 KiB without its end: an error, closed, and no memory taken."""
    before = server.rss()
    closes_with(server, b"x" * 70_000, "ERR Protocol error: too big inline request")
    check(server.rss() - before < 20 * MIB, "memory grew")


@scenario()
def bad_multibulk_lengths(server):
    """Huge, negative and unreadable array lengths."""
    error = "ERR Protocol error: invalid multibulk length"
    for head in (b"*2147483648", b"*99999999999999999999", b"*abc", b"*3x", b"*", b"* 3", b"*+3"):
        closes_with(server, head + b"\r\n$4\r\nPING\r\n", error)
    with connect(server) as client:
        client.send(b"*-1\r\n*0\r\n*-5\r\nPING\r\n")
        equal(client.reply(), "PONG")


@scenario()
def bad_bulk_lengths(server):
    """Huge, negative and unreadable string lengths, and a missing $."""
    for size in (b"$-1", b"$536870913", b"$99999999999999999999", b"$abc", b"$", b"$+4", b"$-"):
        closes_with(server, b"*1\r\n" + size + b"\r\nPING\r\n", "ERR Protocol error: invalid bulk length")
    closes_with(server, b"*2\r\n:1\r\n$1\r\nx\r\n", "ERR Protocol error: expected '$', got ':'")
    closes_with(server, b"*1\r\nPING\r\n", "ERR Protocol error: expected '$', got 'P'")


@scenario()
def announced_but_not_sent(server):
    """Fifty clients announce 500 MB each and send little of it: memory follows what has arrived."""
    before = server.rss()
    clients = [connect(server) for _ in range(50)]
    for client in clients:
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\n" + b"x" * 100)
    with connect(server) as other:
        equal(other.ask("PING"), "PONG")
    check(server.rss() - before < 100 * MIB, f"grew by {(server.rss() - before) // MIB} MiB")
    for client in clients:
        client.close()


@scenario()
def announced_arrays_not_sent(server):
    """A hundred clients announce a million arguments each and send none: no memory is taken."""
    before = server.rss()
    clients = [connect(server) for _ in range(100)]
    for client in clients:
        client.send(b"*1048576\r\n$4\r\nMGET\r\n")
    with connect(server) as other:
        equal(other.ask("PING"), "PONG")
    check(server.rss() - before < 100 * MIB, f"grew by {(server.rss() - before) // MIB} MiB")
    for client in clients:
        client.close()


@scenario()
def binary_keys_and_values(server):
    """Keys and values of any bytes, empty ones and 64 KiB keys too, through both request forms."""
    everything = bytes(range(256))
    with connect(server) as client:
        for key in (b"", b"\0", b"\r\n", everything, b"k" * 65_536, b"\xff\xfe"):
            equal(client.ask("SET", key, everything + key), "OK")
            equal(client.ask("GET", key), everything + key)
        equal(client.ask("SET", "escaped", "x"), "OK")
        client.send(b'SET "a\\x00\\xff\\r\\n" "\\x01\\"\\\\"\r\nGET "a\\x00\\xff\\r\\n"\r\n')
        equal(client.reply(), "OK")
        equal(client.reply(), b'\x01"\\')
        equal(client.ask("GET", b"a\x00\xff\r\n"), b'\x01"\\')


@scenario()
def wrong_arity(server):
    """Too few or too many arguments: Redis's words, the command's name in lower case."""
    with connect(server) as client:
        for line, name in (("GET", "get"), ("GET a b", "get"), ("SET k", "set"), ("MSET a", "mset"),
                           ("MSET a 1 b", "mset"), ("DEL", "del"), ("EXPIRE k", "expire"), 
                           ("OBJECT", "object"), ("CLIENT SETNAME", "client|setname"), ("PUBLISH a", "publish")):
            equal(client.ask(*line.split()), f"ERR wrong number of arguments for '{name}' command", line)
        equal(client.ask("SET", "k", "a", "b"), "ERR syntax error")


@scenario()
def unknown_commands(server):
    """Unknown commands get Redis's text, long ones cut, line breaks in them made harmless."""
    with connect(server) as client:
        def starts(answer, text):
            check(answer.startswith(text), f"got {answer!r}, want {text!r} first")
        starts(client.ask("NOSUCH"), "ERR unknown command 'NOSUCH', with args beginning with: ")
        starts(client.ask("nosuch", "a", "b c"), "ERR unknown command 'nosuch', with args beginning with: 'a' 'b c' ")
        starts(client.ask("bad\r\n+OK"), "ERR unknown command 'bad  +OK', with args beginning with: ")
        starts(client.ask("x" * 300), "ERR unknown command '" + "x" * 128 + "'")
        starts(client.ask("nosuch", "y" * 300), "ERR unknown command 'nosuch', with args beginning with: '" + "y" * 50)
        starts(client.ask("OBJECT", "NOSUCH", "k"), "ERR unknown subcommand 'NOSUCH'. Try OBJECT HELP.")
        equal(client.ask("PING"), "PONG")


@scenario()
def http_requests_close(server):
    """A browser that was tricked into sending here is cut off before its body is read as commands."""
    body = b"SET hacked 1\r\n"
    with connect(server) as other:
        for head in (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"post / HTTP/1.1\r\n",
                     b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"Host: localhost\r\n"):
            with connect(server, timeout=10) as client:
                client.send(head + body)
                check(b"+OK" not in client.rest(), f"{head!r} did not close the connection")
        equal(other.ask("EXISTS", "hacked"), 0)


@scenario()
def tls_client_hello(server):
    """A TLS ClientHello on the plain port: an error or a close within a few seconds, no harm."""
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + bytes.fromhex("20") + bytes(range(32, 64)) \
        + bytes.fromhex("0008130213031301 00ff0100") + b"\0\x0a" * 40
    with connect(server, timeout=5) as client:
        client.send(hello + b"\r\n")
        client.finish_sending()
        answer = client.rest()
        check(len(answer) < 2000 and (not answer or answer.startswith(b"-")), answer)


@scenario()
def random_bytes(server):
    """500 connections of random bytes, some made to look like RESP, leave the server whole."""
    source = random.Random(8001)
    pieces = [b"*", b"$", b"\r\n", b"\n", b"3", b"-1", b"GET", b"SET", b'"', b"'", b"\\x", b" ", b"0", b"PING", b":"]
    before = server.rss()
    for _ in range(500):
        if source.random() < 0.5:
            data = source.randbytes(source.randrange(1, 3000))
        else:
            data = b"".join(source.choice(pieces) for _ in range(source.randrange(1, 300)))
        with connect(server, timeout=10) as client:
            try:
                client.send(data)
                client.finish_sending()
                client.rest()
            except (BrokenPipeError, ConnectionResetError, OSError) as error:
                check(not isinstance(error, TimeoutError), f"no end after {data[:80]!r}")
    check(server.rss() - before < 50 * MIB, "memory grew")


@scenario()
def one_byte_segments(server):
    """A pipelined session cut into segments of one byte: the same replies."""
    session = encode(["SET", "k", "a\r\nb"]) + b'GET k\r\nSET "q r" \'s\'\n' + encode(["GET", "q r"]) + b"\r\n\nPING\r\n"
    with connect(server) as client:
        for at in range(len(session)):
            client.send(session[at:at + 1])
            if at % 8 == 0:
                time.sleep(0.001)
        client.finish_sending()
        equal(client.rest(), b"+OK\r\n$4\r\na\r\nb\r\n+OK\r\n$1\r\ns\r\n+PONG\r\n")


@scenario()
def every_cut_of_a_session(server):
    """The same session in two pieces, cut at every position in turn."""
    session = encode(["SET", "k", "a\r\nb"]) + b'GET k\r\nSET "q r" \'s\'\n' + encode(["GET", "q r"]) + b"PING\r\n"
    for cut in range(1, len(session)):
        with connect(server) as client:
            client.send(session[:cut])
            time.sleep(0.002)
            client.send(session[cut:])
            client.finish_sending()
            equal(client.rest(), b"+OK\r\n$4\r\na\r\nb\r\n+OK\r\n$1\r\ns\r\n+PONG\r\n", f"replies when cut at {cut}")


@scenario(only_marline=True)
def client_that_never_reads(server):
    """A client asks 5,000 times for 1 MB and reads nothing: less than 200 MB more memory, and
    others are served meanwhile."""
    with connect(server) as other:
        equal(other.ask("SET", "big", "x" * 1_000_000), "OK")
        before = server.rss()
        with connect(server) as greedy:
            greedy.socket.settimeout(2)
            try:
                greedy.send(b"GET big\r\n" * 5000)
            except TimeoutError:
                pass
            most = 0
            for _ in range(40):
                start = time.monotonic()
                equal(other.ask("PING"), "PONG")
                check(time.monotonic() - start < 1, "another client had to wait")
                most = max(most, server.rss() - before)
                time.sleep(0.05)
            check(most < 200_000_000, f"grew by {most / 1e6:.0f} MB")


@scenario(only_marline=True)
def slow_reader_gets_everything(server):
    """A client that asks for 1 MB 500 times and only then reads gets every byte, in order."""
    with connect(server, timeout=60) as client:
        equal(client.ask("SET", "big", "x" * 1_000_000), "OK")
        for number in range(500):
            client.send(b"GET big\r\nECHO %d\r\n" % number)
        time.sleep(1)
        for number in range(500):
            head = b"$1000000\r\n"
            while len(client.buffer) < len(head) + 1_000_002:
                client.fill()
            check(client.buffer.startswith(head), client.buffer[:40])
            client.buffer = client.buffer[len(head) + 1_000_002:]
            equal(client.reply(), b"%d" % number)


@scenario()
def million_pipelined_commands(server):
    """A million commands written without a pause while replies are read: a million replies."""
    with connect(server) as client:
        chunk = b"INCR n\r\n" * 10_000
        sent, received, newlines = 0, 0, 0
        waiting = memoryview(b"")
        client.socket.setblocking(False)
        while newlines < 1_000_000:
            if not waiting and sent < 100:
                waiting, sent = memoryview(chunk), sent + 1
            readable, writable, _ = select.select([client.socket], [client.socket] if waiting else [], [], 30)
            check(readable or writable, f"stalled after {newlines} replies")
            if writable:
                waiting = waiting[client.socket.send(waiting):]
            if readable:
                data = client.socket.recv(MIB)
                check(data, f"closed after {newlines} replies")
                received += len(data)
                newlines += data.count(b"\n")
        client.socket.setblocking(True)
        equal(client.ask("GET", "n"), b"1000000")


@scenario()
def reset_in_the_middle(server):
    """200 clients send half a command or a full pipeline and reset the connection."""
    for number in range(200):
        client = connect(server)
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nxx" if number % 2 else b"GET k\r\n" * 1000)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with connect(server) as other:
        eventually(lambda: b"connected_clients:1\r\n" in other.ask("INFO", "clients"), "connections were leaked")


@scenario()
def half_open_peer(server):
    """A peer that sent half a command and then its end of stream is closed, not kept."""
    with connect(server, timeout=10) as client:
        client.send(b"SET k v\r\n*3\r\n$3\r\nSET\r\n$1\r\n")
        client.finish_sending()
        equal(client.rest(), b"+OK\r\n")
    with connect(server) as other:
        eventually(lambda: b"connected_clients:1\r\n" in other.ask("INFO", "clients"), "the connection was leaked")


@scenario()
def slow_loris(server):
    """200 clients that send a byte now and then for seconds: others are served at once, and the
    slow ones are answered when they finish."""
    slow = [connect(server) for _ in range(200)]
    text = b"SET k v\r\n"
    with connect(server) as other:
        for at in range(len(text)):
            for client in slow:
                client.send(text[at:at + 1])
            start = time.monotonic()
            equal(other.ask("PING"), "PONG")
            check(time.monotonic() - start < 0.5, "another client had to wait")
            time.sleep(0.3)
    for client in slow:
        equal(client.reply(), "OK")
        client.close()


@scenario(options=("--maxclients", 15000))
def ten_thousand_idle_connections(server):
    """10,000 connections are kept, each still answers, and one busy client does not notice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 10_300:
        if hard < 10_300:
            raise Skip(f"the open file limit is {hard}")
        raise Skip(f"the open file limit is {soft}: raise it with `ulimit -n {hard}`")
    idle = []
    try:
        for _ in range(10_000):
            idle.append(connect(server))
        with connect(server) as busy:
            for number in range(1000):
                equal(busy.ask("INCR", "n"), number + 1)
        for client in idle[::7]:
            client.send(b"PING\r\n")
        for client in idle[::7]:
            equal(client.reply(), "PONG")
    finally:
        for client in idle:
            client.close()
    with connect(server) as other:
        eventually(lambda: b"connected_clients:1\r\n" in other.ask("INFO", "clients"), "connections were leaked")


@scenario()
def commands_not_allowed_in_subscriber_mode(server):
    """RESP2 subscribers may only (un)subscribe, PING, QUIT and RESET: the error lists them."""
    with connect(server) as client:
        client.send(b"SUBSCRIBE c\r\n")
        client.reply()
        contains(client.ask("GET", "k"), "ERR Can't execute 'get': only (P|S)SUBSCRIBE")
        equal(client.ask("PING"), [b"pong", b""])
        equal(client.ask("RESET"), "RESET")
        equal(client.ask("GET", "k"), None)


@scenario()
def slow_subscriber(server):
    """A subscriber that never reads is dropped or bounded; the publisher goes on."""
    before = server.rss()
    with connect(server) as sleepy, connect(server) as publisher:
        sleepy.send(b"SUBSCRIBE c\r\n")
        sleepy.reply()
        message = b"x" * 10_000
        for _ in range(100):
            publisher.send(encode(["PUBLISH", "c", message]) * 100)
            for _ in range(100):
                check(publisher.reply() in (0, 1), "PUBLISH")
        check(server.rss() - before < 200_000_000, f"grew by {(server.rss() - before) // MIB} MiB")
