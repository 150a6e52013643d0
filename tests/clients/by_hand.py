"""People at telnet and netcat, and Marline's one-line reply modes."""

import json

from harness import HERE, check, connect, contains, equal, run, scenario, shell


@scenario()
def telnet_session(server):
    """A person at telnet: quotes, a typo, Ctrl-C in the middle (IAC bytes), QUIT."""
    run("expect", HERE / "expect/telnet.exp", server.port)


@scenario()
def telnet_control_bytes_on_the_wire(server):
    """The bytes of telnet's Ctrl-C (IAC IP, IAC DO TIMING-MARK) are no command; the mark is refused, so
    that telnet shows again what it receives."""
    with connect(server) as client:
        client.send(b"SET a 1\r\n\xff\xf4\xff\xfd\x06\r\nGET a\r\n")
        equal(client.reply(), "OK")
        equal(client.take(3), b"\xff\xfc\x06")
        equal(client.reply(), b"1")


@scenario()
def netcat_conversation_in_resp(server):
    """Lines through nc are answered in RESP, byte for byte as Redis does."""
    said = shell(f"printf '%s\\n' 'SET a \"tab\\there\"' 'GET a' 'INCR n' 'MGET a none' 'GET none' 'EXISTS a' 'SET a' "
                 f"| nc -N 127.0.0.1 {server.port}")
    equal(said, "+OK\r\n$8\r\ntab\there\r\n:1\r\n*2\r\n$8\r\ntab\there\r\n$-1\r\n$-1\r\n:1\r\n"
                "-ERR wrong number of arguments for 'set' command\r\n")


def converse(server, mode, exchanges):
    """Send all the lines at once through nc; each must give exactly its one line."""
    text = "".join(line + "\n" for line in [mode] + [line for line, _ in exchanges])
    said = run("nc", "-N", "127.0.0.1", server.port, input=text)
    check(said.endswith("\n") and "\r" not in said, f"lines must end in a bare newline: {said!r}")
    answers = said.split("\n")[:-1]
    equal(len(answers), len(exchanges) + 1, f"number of lines in {answers}")
    for (line, want), got in zip(exchanges, answers[1:]):
        if callable(want):
            check(want(got), f"{line}: got {got!r}")
        else:
            equal(got, want, line)
    return answers[0]


def error(code):
    return lambda got: got.startswith(f"-{code} ")


@scenario(only_marline=True)
def hello_line_conversation(server):
    """HELLO LINE: each command gives exactly one line, and any string can be pasted back."""
    converse(server, "HELLO LINE", [
        ("SET greeting hello", "OK"),
        ("GET greeting", "hello"),
        ("SET motto \"two words\"", "OK"),
        ("GET motto", "\"two words\""),
        ("GET none", "(nil)"),
        ("INCR n", "1"),
        ("GET n", "1"),
        ("SET empty \"\"", "OK"),
        ("GET empty", "\"\""),
        ("SET odd \"a\\nb\\tc\\\"d\\\\\\x00\\xff\"", "OK"),
        ("GET odd", "\"a\\nb\\tc\\\"d\\\\\\x00\\xff\""),
        ("MGET greeting motto none n", "*4 hello \"two words\" (nil) 1"),
        ("SCAN 0 MATCH greeting COUNT 1000", lambda got: got.startswith("*2 ") and got.endswith(" *1 greeting")),
        ("MGET", error("ERR")),
        ("INCR greeting", "-ERR value is not an integer or out of range"),
        ("MULTI", "OK"),
        ("INCR n", "QUEUED"),
        ("GET motto", "QUEUED"),
        ("EXEC", "*2 2 \"two words\""),
        ("GET \"unbalanced", error("ERR")),
        ("PING", "PONG"),
        ("SET dash -x", "OK"),
        ("GET dash", "\"-x\""),
        ("DECR below", "-1"),
        ("GET below", '"-1"'),
        ("SET star *2", "OK"),
        ("GET star", "\"*2\""),
    ])


@scenario(only_marline=True)
def hello_line_round_trip(server):
    """Every one of the 256 bytes survives: what GET printed in HELLO LINE is pasted back into SET."""
    with connect(server) as client:
        client.send(b"HELLO LINE\n")
        client.line()
        for byte in range(256):
            client.send(b"SET a \"x\\x%02x y\\x%02x\"\nGET a\n" % (byte, byte))
            equal(client.line(), "OK")
            printed = client.line()
            client.send(f"SET b {printed}\nGET b\n".encode())
            equal(client.line(), "OK")
            equal(client.line(), printed, f"byte {byte}")
        client.send(b"HELLO 2\n")
        client.reply()
        equal(client.ask("GET", "b"), b"x\xff y\xff")


@scenario(only_marline=True)
def hello_line_comments_and_empty_lines(server):
    """In HELLO LINE a line that starts with # is a comment and, like an empty one, has no answer."""
    said = run("nc", "-N", "127.0.0.1", server.port, input="HELLO LINE\n# a comment\n\nPING\n")
    equal(said.splitlines()[1:], ["PONG"])


@scenario(only_marline=True)
def hello_json_conversation(server):
    """HELLO JSON: one JSON value a line, for jq and its kind."""
    def value(want):
        return lambda got: json.loads(got) == want
    converse(server, "HELLO JSON", [
        ("SET greeting \"two words\"", value("OK")),
        ("GET greeting", value("two words")),
        ("GET none", value(None)),
        ("INCR n", value(1)),
        ("MGET greeting none n", value(["two words", None, "1"])),
        ("INCR greeting", value({"error": "ERR value is not an integer or out of range"})),
        ("SET odd \"\\xff\\x00\"", value("OK")),
        ("GET odd", value({"base64": "/wA="})),
        ("PING", value("PONG")),
    ])


@scenario(only_marline=True)
def hello_line_push_message(server):
    """A pub/sub message in HELLO LINE is one line that begins with `>`."""
    with connect(server) as client, connect(server) as other:
        client.send(b"HELLO LINE\nSUBSCRIBE news\n")
        client.line()
        contains(client.line(), "subscribe")
        equal(other.ask("PUBLISH", "news", "ship ahoy"), 1)
        line = client.line()
        check(line.startswith(">") and line.endswith('message news "ship ahoy"'), line)


@scenario(only_marline=True)
def help_by_hand(server):
    """HELP, HELP command and HELP @group answer in RESP and in one-line mode."""
    with connect(server) as client:
        check(len(client.ask("HELP")) > 5, "HELP is short")
        contains(" ".join(map(str, client.ask("HELP", "SET"))), "SET")
        check(len(client.ask("HELP", "@string")) > 5, "HELP @string is short")
        client.send(b"HELLO LINE\nHELP GET\n")
        client.line()
        contains(client.line(), "GET")


@scenario(only_marline=True)
def did_you_mean(server):
    """An unknown command is answered in Redis's words, and a near miss with a suggestion after
    them."""
    with connect(server) as client:
        answer = client.ask("GTE", "k")
        check(answer.startswith("ERR unknown command 'GTE', with args beginning with: 'k'"), answer)
        contains(answer.lower(), "did you mean")
        contains(answer.upper(), "GET")
