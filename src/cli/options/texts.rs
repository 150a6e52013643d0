//! The help texts of the client tools: above the list of options the briefs, below it the notes.

pub(in crate::cli) const BRIEF: &str = "\
Usage: marline cli [options] [command [argument ...]]

Sends commands to a node. With a command: sends it, prints the reply, exits. Without one: a shell
with history, completion and hints; or, when stdin is no terminal, every line of stdin in order.
With --cluster: how the cluster of the node is.";

pub(in crate::cli) const NOTES: &str = "
Output: on a terminal formatted for reading, like \"value\", (integer) 1, (nil). Elsewhere plain: one
line for each element; `get` alone writes the exact bytes of the value and no newline, so that
`marline cli get k > file` is a copy. --raw and --no-raw choose one of the two. With --json every
reply is one JSON value a line, errors and nil included. Error replies go to stderr.

Last argument from stdin: -x, or a lone - in its place:  marline cli set photo - < photo.jpg

--cluster asks every member for itself: who is up, leads, holds and lags how much, and which shards
have no leader. In colour on a terminal, unless NO_COLOR is set or with --raw; --json makes it one
object a line. -i SECONDS looks again and again. Members that do not answer within --timeout (2 s)
are told as such.

Exit codes: 0 ok · 1 error reply · 2 usage · 3 nil reply (prints nothing) · 4 cannot connect, or
connection lost. Lines from stdin and --pipe: 1 when any reply was an error. --cluster: 1 when a
shard has no leader, or when there is no cluster.

Environment: MARLINE_HOST, MARLINE_PORT, MARLINE_PASSWORD_FILE.

Examples:
  marline cli set greeting \"hello world\"
  x=$(marline cli get greeting) || echo \"no such key\"
  printf 'set a 1\\nincr a\\n' | marline cli
  marline cli --pipe < commands.txt
  marline cli -r 10 -i 1 info stats
  marline cli --cluster -i 1
";

pub(in crate::cli) const IMPORT_BRIEF: &str = "\
Usage: marline import [options] FILE

Brings the strings of a Redis dump (dump.rdb, versions 1 to 12) into a node, with their expiry.";

pub(in crate::cli) const IMPORT_NOTES: &str = "
The file is read twice: first to its end, to see that it is whole, before anything is sent. Only
database 0 is imported; keys of other databases and of other types than strings are left out and
counted by type. Keys that have expired are left out. Existing keys are overwritten.

Exit codes: 0 ok · 1 the file cannot be read or is damaged, or a key was refused · 2 usage ·
4 cannot connect, or connection lost.

Environment: MARLINE_HOST, MARLINE_PORT, MARLINE_PASSWORD_FILE.

Example:
  redis-cli -p 6379 save && marline import -p 8001 /var/lib/redis/dump.rdb
";

pub(in crate::cli) const BACKUP_BRIEF: &str = "\
Usage: marline backup [options] [HOST:PORT] FILE
       marline backup --verify FILE [--seal-keys FILE]

Makes a backup of a node as it is at one moment, while it works, and writes it to FILE. With
--verify: reads all of a backup and says what is in it.";

pub(in crate::cli) const BACKUP_NOTES: &str = "
FILE must not be there. It is complete and checked when it gets its name; until then it is FILE.tmp.
A node that seals its files sends a sealed backup: to read it takes the node's ring of keys.

Exit codes: 0 ok · 1 the node refused, or FILE cannot be written · 2 usage · 4 cannot connect, or
connection lost.

Environment: MARLINE_HOST, MARLINE_PORT, MARLINE_PASSWORD_FILE.

Example:
  marline backup 127.0.0.1:8001 monday.backup && marline backup --verify monday.backup
";

pub(in crate::cli) const LEAVE_BRIEF: &str = "\
Usage: marline leave [options] [HOST:PORT]

Lets a node go: the other nodes of its cluster take over what it holds, then it is no member any
more. Follows that until it is done.";

pub(in crate::cli) const LEAVE_NOTES: &str = "
The node goes on answering meanwhile, and its process is not stopped. Ctrl-C, or the end
of --wait, ends only the following: the leaving goes on, and whoever says it once more follows on. A
node that does not answer is let go by another one: marline cli -h HOST -p PORT cluster forget NAME.

Exit codes: 0 it has left · 1 it is in no cluster, has left before, is the last one, or --wait is over ·
2 usage · 4 cannot connect, connection lost, or Ctrl-C.

Environment: MARLINE_HOST, MARLINE_PORT, MARLINE_PASSWORD_FILE.

Example:
  marline leave 127.0.0.1:8004
";
