"""Where Marline answers differently from Redis on purpose, each with its reason.

Each is (pattern of the command, pattern of Redis's reply, pattern of Marline's reply, reason); the
patterns are regular expressions on bytes, matched from the beginning: of the command's words joined
with blanks, and of the raw replies.
"""

DELIBERATE = [
]
