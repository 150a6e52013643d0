"""When two different replies are equally right, and when they are not."""

import re

from differences import DELIBERATE
from resp import ErrorReply, parse

SECONDS_APART = 1
MILLISECONDS_APART = 200
BY_TYPE = {b"INFO", b"TIME", b"MEMORY", b"MEMORY USAGE", b"CLIENT ID", b"COMMAND COUNT", b"OBJECT IDLETIME", b"RANDOMKEY"}
APART = {b"TTL": SECONDS_APART, b"EXPIRETIME": SECONDS_APART, b"PTTL": MILLISECONDS_APART, b"PEXPIRETIME": MILLISECONDS_APART}
HELLO_VALUES = (b"server", b"version", b"id")


def agree(args, ours, theirs):
    """True when Redis's raw reply `ours` and Marline's `theirs` to the command may both stand."""
    if ours == theirs:
        return True
    name = args[0].upper()
    both = name + b" " + args[1].upper() if len(args) > 1 else name
    one, other = parse(ours)[0], parse(theirs)[0]
    if isinstance(one, ErrorReply):
        if one.startswith("ERR unknown ") and isinstance(other, ErrorReply) and other.startswith(one):
            return True  # a "did you mean" may follow Redis's text
    elif name in APART:
        if isinstance(one, int) and isinstance(other, int) and one > 0 and other > 0:
            return abs(one - other) <= APART[name]
    elif name == b"KEYS":
        return isinstance(other, list) and sorted(one) == sorted(other)
    elif name == b"HELLO":
        return hello(one) == hello(other) and ours[:1] == theirs[:1]
    elif name in BY_TYPE or both in BY_TYPE:
        return ours[:1] == theirs[:1] and (one is None) == (other is None)
    return deliberate(args, ours, theirs)


def deliberate(args, ours, theirs):
    line = b" ".join(args)
    return any(re.match(command, line, re.I | re.S) and re.match(redis, ours, re.S) and re.match(marline, theirs, re.S)
               for command, redis, marline, _reason in DELIBERATE)


def hello(reply):
    """HELLO's fields with the values blanked that name the server."""
    if not isinstance(reply, list):
        return reply
    pairs = reply if reply and isinstance(reply[0], tuple) else list(zip(reply[::2], reply[1::2]))
    return [(key, type(value) if key in HELLO_VALUES else value) for key, value in pairs]
