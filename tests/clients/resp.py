"""RESP as the tests speak it: encode a command, split and read replies.

The tests keep their own few lines of RESP on purpose: what checks the server must not share
code with it, nor with a client library that forgives. Replies keep their kind: an error is an
`ErrorReply`, a status a `Status`, a push a `Push`, so that a test can tell `OK` from "OK".
"""


class ErrorReply(str):
    """`-CODE text`"""


class Status(str):
    """`+OK`"""


class Push(list):
    """`>` of RESP3"""


class Incomplete(Exception):
    """The buffer ends before the reply does."""


def encode(args):
    """One command as a RESP array of bulk strings."""
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = as_bytes(arg)
        out.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(out)


def encode_inline(args):
    """The same command as one line in Redis's quoting."""
    return b" ".join(quote(as_bytes(arg)) for arg in args) + b"\r\n"


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.:*?<>[](){}=@/,;!$%&|^~")


def quote(arg):
    """Bare when nothing in it needs quotes, else "..." with \\xHH for every unusual byte."""
    if arg and all(byte in _PLAIN for byte in arg):
        return arg
    body = "".join(chr(b) if b in _PLAIN or b == 32 else "\\x%02x" % b for b in arg)
    return b'"' + body.encode() + b'"'


def as_bytes(arg):
    if isinstance(arg, bytes):
        return arg
    return str(arg).encode()


def skip(data, at):
    """The position after the reply that starts at `at`, without building its value."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind = data[at]
    after = end + 2
    if kind in b"+-:_,#(":
        return after
    if kind in b"$=!":
        size = int(data[at + 1:end])
        if size < 0:
            return after
        if after + size + 2 > len(data):
            raise Incomplete
        return after + size + 2
    if kind in b"*~>%|":
        count = int(data[at + 1:end])
        for _ in range(max(count, 0) * (2 if kind in b"%|" else 1)):
            after = skip(data, after)
        return after
    raise ValueError("not a reply: %r" % data[at:at + 60])


def parse(data, at=0):
    """(value, position after it). Maps become lists of pairs: no key need be hashable."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind, head, after = data[at:at + 1], data[at + 1:end], end + 2
    if kind == b"+":
        return Status(head.decode("latin-1")), after
    if kind == b"-":
        return ErrorReply(head.decode("latin-1")), after
    if kind in (b":", b"("):
        return int(head), after
    if kind == b"_":
        return None, after
    if kind == b",":
        return float(head), after
    if kind == b"#":
        return head == b"t", after
    if kind in (b"$", b"=", b"!"):
        size = int(head)
        if size < 0:
            return None, after
        if after + size + 2 > len(data):
            raise Incomplete
        return data[after:after + size], after + size + 2
    if kind in (b"*", b"~", b">"):
        count = int(head)
        if count < 0:
            return None, after
        items = Push() if kind == b">" else []
        for _ in range(count):
            item, after = parse(data, after)
            items.append(item)
        return items, after
    if kind == b"%":
        items = []
        for _ in range(int(head)):
            key, after = parse(data, after)
            value, after = parse(data, after)
            items.append((key, value))
        return items, after
    raise ValueError("not a reply: %r" % data[at:at + 60])


def split(data):
    """Cut a buffer of whole replies into the raw bytes of each."""
    replies, at = [], 0
    while at < len(data):
        after = skip(data, at)
        replies.append(data[at:after])
        at = after
    return replies
