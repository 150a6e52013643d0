"""Where Marline answers differently from Redis on purpose, each with its reason.

Each is (pattern of the command, pattern of Redis's reply, pattern of Marline's reply, reason); the
patterns are regular expressions on bytes, matched from the beginning: of the command's words joined
with blanks, and of the raw replies.
"""

DELIBERATE = [
    (rb"(.*\n)?\s*(POST|Host:)", rb"<closed>", rb".*-ERR Protocol error: this port does not speak HTTP\r\n<closed>",
     "what came before a browser's request is answered, and the browser is told why it is cut off"),
    (rb".*\x00", rb"[^\0]*<closed>", rb".*",
     "a NUL in an inline line is a byte like others; Redis never finds the end of such a line and answers nothing"),
    (rb".*", rb".*", rb".*-ERR Protocol error: expected CR LF behind a bulk string\r\n<closed>",
     "Redis skips two bytes behind a bulk string whatever they are; a wrong length is told at once"),
    (rb"(?i)select ", rb"\+OK", rb"-ERR DB index is out of range", "there is one database, number 0"),
    (rb"(?i)object refcount ", rb":(1|2147483647)\r\n", rb":(1|2147483647)\r\n",
     "no value is shared: small integers are told as shared wherever they came from"),
]
