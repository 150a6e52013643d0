"""Where Marline answers differently from Redis on purpose, each with its reason.

Each is (pattern of the command, pattern of Redis's reply, pattern of Marline's reply, reason); the
patterns are regular expressions on bytes, matched from the beginning: of the command's words joined
with blanks, and of the raw replies.
"""

DELIBERATE = [
    (rb"(?i)(bitcount|bitpos) ", rb":(0|-1)\r\n", rb"-ERR (syntax error|value is not an integer or out of range)\r\n",
     "arguments are judged before the key is looked up: Redis lets a malformed one pass when there is no key"),
    (rb"(.*\n)?\s*(POST|Host:)", rb"<closed>", rb".*-ERR Protocol error: this port does not speak HTTP\r\n<closed>",
     "what came before a browser's request is answered, and the browser is told why it is cut off"),
]
