//! Commands to be sent together: their bytes, where each ends, and which of them only read.
//!
//! They go out in windows. A window is small enough for the buffers between two sockets, so that a node that
//! stops reading until its replies are read never meets a client that stops reading until its requests are.

use super::error::{Meaning, meaning};
use crate::command::row::{Row, flag};
use crate::command::table;
use crate::command::verb::Verb;
use crate::wire::decode::Value;
use crate::wire::encode::encode_request;

/// Bytes of a window, if it has more than one command.
const WINDOW_BYTES_MAX: usize = 64 * 1024;

const NOT_ALONE: &str = "this command changes what later replies on its connection look like or mean, \
     and connections come and go; MULTI and EXEC are what transaction() is for";

/// One of the commands.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Where it ends in the bytes.
    end: usize,
    only_reads: bool,
}

/// Commands to be sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    unfit: Option<&'static str>,
    /// MULTI, commands, EXEC: all of it is done when EXEC is, or nothing.
    is_transaction: bool,
}

impl Batch {
    /// Adds a command.
    pub(super) fn add<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let row = row(args);
        if args.is_empty() {
            self.unfit = Some("a command without a name");
        } else if row.is_some_and(|row| belongs_to_connection(row.verb)) {
            self.unfit = Some(NOT_ALONE);
        }
        self.push(args, row.is_some_and(only_reads));
    }

    fn push<A: AsRef<[u8]>>(&mut self, args: &[A], only_reads: bool) {
        encode_request(args, &mut self.bytes);
        let end = self.bytes.len();
        self.parts.push(Part { end, only_reads });
    }

    /// These commands between MULTI and EXEC.
    pub(super) fn into_transaction(self) -> Batch {
        let mut whole = Batch {
            unfit: self.unfit,
            is_transaction: true,
            ..Batch::default()
        };
        whole.push(&["MULTI"], true);
        let begin = whole.bytes.len();
        whole.bytes.extend_from_slice(&self.bytes);
        whole.parts.extend(self.parts.iter().map(|part| Part {
            end: begin + part.end,
            ..*part
        }));
        whole.push(&["EXEC"], true);
        whole
    }

    /// Number of commands.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Why none of it can be sent.
    pub(super) fn unfit(&self) -> Option<&'static str> {
        self.unfit
    }

    /// Whether it is done as a whole or not at all.
    pub(super) fn is_transaction(&self) -> bool {
        self.is_transaction
    }

    fn begin(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.parts[before].end)
    }

    /// The window that begins with command `from`: behind its last command, and its bytes.
    pub(super) fn window(&self, from: usize) -> (usize, &[u8]) {
        let begin = self.begin(from);
        let fits = |part: &&Part| part.end - begin <= WINDOW_BYTES_MAX;
        let count = self.parts[from..].iter().take_while(fits).count();
        let to = (from + count.max(1)).min(self.parts.len());
        (to, &self.bytes[begin..self.begin(to)])
    }

    /// Behind the last command that is whole in `count` bytes from command `from` on.
    pub(super) fn whole(&self, from: usize, count: usize) -> usize {
        let end = self.begin(from) + count;
        self.parts.partition_point(|part| part.end <= end)
    }

    /// Whether what is not answered may be sent again, `answered` replies having come in to `sent` commands:
    /// nothing that changes anything may have been done.
    pub(super) fn may_repeat(&self, answered: usize, sent: usize) -> bool {
        let risked = match self.is_transaction {
            true if sent < self.len() => return true,
            true => &self.parts[..],
            false => &self.parts[answered..sent.max(answered)],
        };
        risked.iter().all(|part| part.only_reads)
    }

    /// From which command on nothing was done because the node was not ready: those are sent again, in their
    /// order. A command that was done behind one that was not leaves both as they are.
    pub(super) fn not_ready(&self, replies: &[Value]) -> Option<usize> {
        let is_later =
            |reply: &Value| matches!(reply, Value::Error(text) if meaning(text) == Meaning::Later);
        if self.is_transaction {
            let is_refused = matches!(
                replies.last(),
                Some(Value::Error(text)) if matches!(meaning(text), Meaning::Later | Meaning::NotDone)
            );
            return (is_refused && replies.iter().any(is_later)).then_some(0);
        }
        let ready = replies.iter().rposition(|reply| !is_later(reply));
        let from = ready.map_or(0, |at| at + 1);
        (from < replies.len()).then_some(from)
    }
}

/// The row of a command or subcommand.
fn row<A: AsRef<[u8]>>(args: &[A]) -> Option<&'static Row> {
    let row = table::find(args.first()?.as_ref())?;
    match row.is_container() {
        true => table::find_sub(row, args.get(1)?.as_ref()),
        false => Some(row),
    }
}

/// Whether a command may be done twice, or late, and nobody can tell.
fn only_reads(row: &Row) -> bool {
    let reads_the_node = matches!(
        row.verb,
        Verb::Ping | Verb::Echo | Verb::Time | Verb::Info | Verb::Lastsave | Verb::ConfigGet
    );
    row.is(flag::READONLY) || reads_the_node
}

/// Whether a command is about the replies that follow on its connection.
fn belongs_to_connection(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Multi
            | Verb::Exec
            | Verb::Discard
            | Verb::Watch
            | Verb::Unwatch
            | Verb::Subscribe
            | Verb::Psubscribe
            | Verb::Unsubscribe
            | Verb::Punsubscribe
            | Verb::Monitor
            | Verb::Hello
            | Verb::Reset
            | Verb::Quit
            | Verb::ClientReply
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(commands: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for command in commands {
            batch.add(&command.split(' ').collect::<Vec<_>>());
        }
        batch
    }

    fn error(text: &str) -> Value {
        Value::Error(text.as_bytes().to_vec())
    }

    #[test]
    fn only_what_reads_is_repeated() {
        for (command, repeated) in [
            ("GET a", true),
            ("mget a b", true),
            ("PING", true),
            ("object encoding a", true),
            ("SET a 1", false),
            ("INCR a", false),
            ("DEL a", false),
            ("GETEX a", false),
            ("OBJECT nonesuch", false),
            ("CONFIG SET a b", false),
            ("NONESUCH", false),
        ] {
            assert_eq!(batch(&[command]).may_repeat(0, 1), repeated, "{command}");
        }
        let mixed = batch(&["INCR a", "GET a", "GET b", "INCR b"]);
        for (answered, sent, repeated) in [
            (0, 0, true),
            (0, 1, false),
            (1, 1, true),
            (1, 3, true),
            (1, 4, false),
            (4, 4, true),
        ] {
            assert_eq!(
                mixed.may_repeat(answered, sent),
                repeated,
                "{answered} of {sent}"
            );
        }
    }

    #[test]
    fn a_transaction_is_risked_with_its_exec() {
        let writes = batch(&["INCR a", "GET a"]).into_transaction();
        assert_eq!(writes.len(), 4);
        assert!(writes.may_repeat(2, 3) && !writes.may_repeat(0, 4) && !writes.may_repeat(3, 4));
        assert!(batch(&["GET a"]).into_transaction().may_repeat(0, 3));
        let queued = || Value::Simple(b"QUEUED".to_vec());
        let (loading, abort) = (error("LOADING wait"), error("EXECABORT because"));
        let refused = [queued(), loading.clone(), queued(), abort.clone()];
        assert_eq!(writes.not_ready(&refused), Some(0));
        let wrong = [queued(), error("ERR syntax error"), queued(), abort];
        assert_eq!(writes.not_ready(&wrong), None);
        let done = [queued(), loading, queued(), Value::Array(Vec::new())];
        assert_eq!(writes.not_ready(&done), None, "what was done is done");
    }

    #[test]
    fn what_was_not_ready_is_repeated_in_its_order_or_not_at_all() {
        let three = batch(&["INCR a", "INCR b", "INCR c"]);
        let (one, later) = (Value::Int(1), error("TRYAGAIN"));
        for (replies, from) in [
            ([&one, &one, &one], None),
            ([&one, &later, &later], Some(1)),
            ([&later, &later, &later], Some(0)),
            ([&later, &one, &one], None),
            ([&later, &one, &later], Some(2)),
        ] {
            assert_eq!(three.not_ready(&replies.map(Clone::clone)), from);
        }
    }

    #[test]
    fn windows_hold_one_command_or_few_bytes() {
        let mut batch = batch(&["GET a", "GET b"]);
        batch.add(&[
            b"SET".to_vec(),
            b"c".to_vec(),
            vec![b'x'; 2 * WINDOW_BYTES_MAX],
        ]);
        batch.add(&["GET", "d"]);
        let small = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".len();
        assert_eq!(batch.window(0).0, 2);
        assert_eq!(batch.window(0).1.len(), 2 * small);
        assert_eq!(batch.window(2).0, 3);
        assert_eq!(batch.window(3), (4, &batch.bytes[batch.parts[2].end..]));
        let whole = |count| batch.whole(0, count);
        assert_eq!(
            [0, small - 1, small, 2 * small + 1].map(whole),
            [0, 0, 1, 2]
        );
        assert_eq!(batch.whole(1, small), 2);
    }

    #[test]
    fn what_belongs_to_a_connection_is_unfit() {
        for command in [
            "MULTI",
            "exec",
            "Subscribe a",
            "HELLO 3",
            "CLIENT REPLY OFF",
        ] {
            assert!(batch(&[command]).unfit().is_some(), "{command}");
        }
        assert!(batch(&["CLIENT ID", "GET a"]).unfit().is_none());
        let mut empty = Batch::default();
        empty.add::<&str>(&[]);
        assert!(empty.unfit().is_some());
    }
}
