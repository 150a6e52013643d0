"""netcat, seq and pipes: the server as a shell script sees it."""

import collections
import pathlib
import subprocess
import tempfile

from harness import check, connect, equal, run, scenario, shell
from resp import encode, quote
from server import marline_binary

WORDS = pathlib.Path("/usr/share/dict/american-english-huge")


def words():
    """Each distinct word with the number of the line it stands on."""
    numbered = {}
    for number, word in enumerate(WORDS.read_bytes().splitlines(), 1):
        numbered[word] = number
    check(len(numbered) > 300_000, "the huge word list is not installed")
    return numbered


def read_back(server, numbered):
    """Ask for every word, many at a time, and compare each value."""
    items = list(numbered.items())
    with connect(server) as client:
        equal(client.ask("DBSIZE"), len(items), "number of keys")
        for at in range(0, len(items), 1000):
            some = items[at:at + 1000]
            values = client.ask("MGET", *[word for word, _ in some])
            for (word, number), value in zip(some, values, strict=True):
                if value != b"%d" % number:
                    raise AssertionError(f"GET {word!r}: got {value!r}, want {number}")


@scenario()
def word_list_through_netcat(server):
    """348,454 words as `SET word line-number` through nc -N: every reply counted, every word read
    back."""
    numbered = words()
    with tempfile.NamedTemporaryFile() as lines:
        for word, number in numbered.items():
            lines.write(b"SET %s %d\n" % (quote(word), number))
        lines.flush()
        replies = shell(f"nc -N 127.0.0.1 {server.port} < {lines.name}")
    counted = collections.Counter(replies.split("\r\n"))
    equal(counted, {"+OK": len(numbered), "": 1}, "replies by kind")
    read_back(server, numbered)


@scenario()
def word_list_through_redis_cli_pipe(server):
    """The word list as RESP through `redis-cli --pipe`, which counts errors and replies itself."""
    numbered = words()
    said = run("redis-cli", "-p", server.port, "--pipe",
               input=b"".join(encode(["SET", word, number]) for word, number in numbered.items()))
    check(f"errors: 0, replies: {len(numbered)}" in said, said)
    read_back(server, numbered)


@scenario()
def word_list_as_lines_through_redis_cli_pipe(server):
    """`redis-cli --pipe` hands plain lines on as they are, so the word list may also be text."""
    numbered = words()
    said = run("redis-cli", "-p", server.port, "--pipe",
               input=b"".join(b"SET %s %d\n" % (quote(word), number) for word, number in numbered.items()))
    check(f"errors: 0, replies: {len(numbered)}" in said, said)
    read_back(server, numbered)


@scenario(only_marline=True)
def word_list_through_marline_cli_pipe(server):
    """The word list as lines through `marline cli --pipe`: exit code 0, every word read back."""
    numbered = words()
    run(marline_binary(), "cli", "-p", server.port, "--pipe",
        input=b"".join(b"SET %s %d\n" % (quote(word), number) for word, number in numbered.items()))
    read_back(server, numbered)


@scenario(seconds=300)
def netcat_half_close_gets_every_reply(server):
    """100,000 commands into `nc -N`, which half-closes after the last: 100,000 replies, each of 50
    times."""
    for attempt in range(50):
        count = shell(f"seq 100000 | sed 's/.*/SET k& v/' | nc -N 127.0.0.1 {server.port} | wc -l")
        equal(int(count), 100_000, f"replies of attempt {attempt + 1}")


@scenario()
def netcat_line_without_newline(server):
    """A last line without its newline is no command: it is dropped, and what came before is
    answered."""
    equal(shell(f"printf 'SET a 1\\nGET a' | nc -N 127.0.0.1 {server.port}"), "+OK\r\n")


@scenario()
def netcat_line_endings(server):
    """LF and CRLF both end a line, empty lines are passed over, and case does not matter."""
    said = shell(f"printf 'set a \"x y\"\\r\\n\\r\\n\\nGeT a\\nPING\\r\\n' | nc -N 127.0.0.1 {server.port}")
    equal(said, "+OK\r\n$3\r\nx y\r\n+PONG\r\n")


@scenario()
def netcat_quit_answers_first(server):
    """QUIT is answered, after everything before it, and then the server closes: plain nc returns."""
    said = shell(f"(printf 'SET a 1\\nQUIT\\nSET a 2\\n'; sleep 1) | timeout 20 nc 127.0.0.1 {server.port}")
    equal(said, "+OK\r\n+OK\r\n")
    with connect(server) as client:
        equal(client.ask("GET", "a"), b"1", "what came after QUIT was not run")


@scenario(only_marline=True)
def marline_cli_exit_codes(server):
    """`marline cli` in a script: bare bytes out; 0 ok, 1 error reply, 2 usage, 3 nil, 4 no server."""
    def cli(*args, port=server.port, code=0):
        done = subprocess.run([marline_binary(), "cli", "-p", str(port), *args],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        equal(done.returncode, code, f"exit code of cli {' '.join(args)}")
        return done.stdout
    cli("SET", "k", "two words")
    equal(cli("GET", "k"), b"two words", "GET")
    cli("INCR", "k", code=1)
    cli("GET", "nothing", code=3)
    cli("PING", port=1, code=4)

