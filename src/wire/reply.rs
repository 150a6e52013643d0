//! Replies as bytes, in four dialects that a connection chooses with `HELLO`.
//!
//! | dialect | chosen by | shape |
//! |---|---|---|
//! | RESP2 | default, `HELLO 2` | byte for byte as Redis answers |
//! | RESP3 | `HELLO 3` | maps, sets, doubles, nulls and pushes have types of their own |
//! | line | `HELLO LINE` | exactly one line a reply, ended by `\n`; strings quoted so that they paste back |
//! | JSON | `HELLO JSON` | exactly one JSON value a line |
//!
//! [`Reply`] is a writer, not a value: a command that answers with a stored string copies it once,
//! from the table into the connection's buffer. The price is that aggregates announce their length
//! first and that the writer, in the one-line dialects, keeps count of what is still open.
//!
//! Invariant: between two top-level values nothing is open ([`Reply::is_complete`]).

use base64::Engine;

use super::quote;

/// The dialect of a connection's replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Redis's default.
    #[default]
    Resp2,
    /// Typed replies, `HELLO 3`.
    Resp3,
    /// One plain line a reply, `HELLO LINE`.
    Line,
    /// One JSON value a line, `HELLO JSON`.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    List,
    Map,
}

/// An aggregate whose elements are still to come (one-line dialects only).
#[derive(Debug, Clone, Copy)]
struct Open {
    shape: Shape,
    left: usize,
    first: bool,
}

/// Writes reply values behind what `out` already holds.
#[derive(Debug)]
pub struct Reply<'o> {
    out: &'o mut Vec<u8>,
    dialect: Dialect,
    open: Vec<Open>,
    errors: u64,
    bytes_max: usize,
    is_cut: bool,
}

impl<'o> Reply<'o> {
    /// A writer that appends to `out`.
    pub fn new(out: &'o mut Vec<u8>, dialect: Dialect) -> Self {
        Reply {
            out,
            dialect,
            open: Vec::new(),
            errors: 0,
            bytes_max: usize::MAX,
            is_cut: false,
        }
    }

    /// With strings left out once the buffer would hold more than `bytes_max`: a reply that nobody will
    /// be sent need not be made.
    pub fn limited(self, bytes_max: usize) -> Self {
        Reply { bytes_max, ..self }
    }

    /// Whether a string was left out; what was written since is of no use.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The dialect being written.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Changes the dialect for what follows; only between top-level values.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        debug_assert!(self.is_complete());
        self.dialect = dialect;
    }

    /// Whether no aggregate is waiting for elements.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// Number of error values written so far.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Bytes in the buffer, written by this writer or before it.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written after the first `len` bytes.
    pub fn written_from(&self, len: usize) -> &[u8] {
        self.out.get(len..).unwrap_or_default()
    }

    /// Lets `take` have what was written so far; it leaves an empty buffer.
    pub fn hand_over(&mut self, take: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.is_complete());
        take(self.out);
    }

    /// Forgets everything after the first `len` bytes: the answer of a client that asked for silence.
    pub fn truncate(&mut self, len: usize) {
        debug_assert!(self.is_complete());
        self.out.truncate(len);
    }

    /// The buffer, for replies that were written elsewhere.
    pub fn out(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.is_complete());
        self.out
    }

    /// Appends bytes that are already in this connection's dialect (a push prepared elsewhere).
    pub fn raw(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_complete());
        self.out.extend_from_slice(bytes);
    }

    /// The status `OK`.
    pub fn ok(&mut self) {
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => self.out.extend_from_slice(b"+OK\r\n"),
            _ => self.simple("OK"),
        }
    }

    /// A short status word or line: `PONG`, `QUEUED`, `string`.
    pub fn simple(&mut self, text: &str) {
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => {
                self.out.push(b'+');
                self.out.extend_from_slice(text.as_bytes());
                self.end_line();
            }
            Dialect::Line => self.line_item(|out| match text.contains([' ', '\n']) {
                false => out.extend_from_slice(text.as_bytes()),
                true => quote::quoted(text.as_bytes(), out),
            }),
            Dialect::Json => self.json_item(|out| json_string(text.as_bytes(), out), true),
        }
    }

    /// A binary-safe string.
    pub fn bulk(&mut self, value: &[u8]) {
        if self.out.len().saturating_add(value.len()) > self.bytes_max {
            self.is_cut = true;
            return self.nil();
        }
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => {
                self.out.reserve(value.len() + 16);
                self.length(b'$', value.len());
                self.out.extend_from_slice(value);
                self.end_line();
            }
            Dialect::Line => self.line_item(|out| quote::quoted(value, out)),
            Dialect::Json => self.json_item(|out| json_string(value, out), true),
        }
    }

    /// A string or, when there is none, nil.
    pub fn bulk_or_nil(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.nil(),
        }
    }

    /// A text for people (INFO, reports): RESP3 marks it so, the other dialects treat it as a string.
    pub fn verbatim(&mut self, text: &str) {
        if self.dialect != Dialect::Resp3 {
            return self.bulk(text.as_bytes());
        }
        self.length(b'=', text.len() + 4);
        self.out.extend_from_slice(b"txt:");
        self.out.extend_from_slice(text.as_bytes());
        self.end_line();
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value).as_bytes();
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => {
                self.out.push(b':');
                self.out.extend_from_slice(digits);
                self.end_line();
            }
            Dialect::Line => self.line_item(|out| out.extend_from_slice(digits)),
            Dialect::Json => self.json_item(|out| out.extend_from_slice(digits), false),
        }
    }

    /// A count, as an integer.
    pub fn count(&mut self, value: usize) {
        self.int(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A truth value: RESP2 says `:1` and `:0`.
    pub fn boolean(&mut self, value: bool) {
        match self.dialect {
            Dialect::Resp2 | Dialect::Line => self.int(i64::from(value)),
            Dialect::Resp3 => self
                .out
                .extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
            Dialect::Json => {
                let text: &[u8] = if value { b"true" } else { b"false" };
                self.json_item(|out| out.extend_from_slice(text), false);
            }
        }
    }

    /// No value, where a string could have stood.
    pub fn nil(&mut self) {
        match self.dialect {
            Dialect::Resp2 => self.out.extend_from_slice(b"$-1\r\n"),
            Dialect::Resp3 => self.out.extend_from_slice(b"_\r\n"),
            Dialect::Line => self.line_item(|out| out.extend_from_slice(b"(nil)")),
            Dialect::Json => self.json_item(|out| out.extend_from_slice(b"null"), false),
        }
    }

    /// No value, where an array could have stood.
    pub fn nil_array(&mut self) {
        match self.dialect {
            Dialect::Resp2 => self.out.extend_from_slice(b"*-1\r\n"),
            _ => self.nil(),
        }
    }

    /// An error: `text` begins with its code in capitals (`ERR`, `WRONGTYPE`). Line breaks become blanks.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// As [`Reply::error`], for texts that quote a client's own bytes.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.errors += 1;
        let flat = |out: &mut Vec<u8>| {
            out.push(b'-');
            out.extend(text.iter().map(|&byte| {
                if matches!(byte, b'\r' | b'\n') {
                    b' '
                } else {
                    byte
                }
            }));
        };
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => {
                flat(self.out);
                self.end_line();
            }
            Dialect::Line if self.open.is_empty() => self.line_item(flat),
            Dialect::Line => self.line_item(|out| {
                let mut text_with_dash = Vec::new();
                flat(&mut text_with_dash);
                quote::double_quoted(&text_with_dash, out);
            }),
            Dialect::Json => self.json_item(
                |out| {
                    out.extend_from_slice(b"{\"error\":");
                    json_string(String::from_utf8_lossy(text).as_bytes(), out);
                    out.push(b'}');
                },
                false,
            ),
        }
    }

    /// An ordered collection; `len` values follow.
    pub fn array(&mut self, len: usize) {
        self.aggregate(b'*', len, Shape::List);
    }

    /// An unordered collection; `len` values follow.
    pub fn set(&mut self, len: usize) {
        let mark = if self.dialect == Dialect::Resp3 {
            b'~'
        } else {
            b'*'
        };
        self.aggregate(mark, len, Shape::List);
    }

    /// Key-value pairs; `2 * pairs` values follow.
    pub fn map(&mut self, pairs: usize) {
        match self.dialect {
            Dialect::Resp3 => self.aggregate(b'%', pairs, Shape::Map),
            Dialect::Resp2 => self.aggregate(b'*', pairs * 2, Shape::List),
            Dialect::Line => self.aggregate(b'*', pairs * 2, Shape::List),
            Dialect::Json => self.aggregate(b'{', pairs, Shape::Map),
        }
    }

    /// A message that answers no request (pub/sub); `len` values follow. RESP2 has no type for it.
    pub fn push(&mut self, len: usize) {
        let mark = if self.dialect == Dialect::Resp2 {
            b'*'
        } else {
            b'>'
        };
        self.aggregate(mark, len, Shape::List);
    }

    fn aggregate(&mut self, mark: u8, len: usize, shape: Shape) {
        match self.dialect {
            Dialect::Resp2 | Dialect::Resp3 => self.length(mark, len),
            Dialect::Line => {
                self.line_separator();
                self.out.push(mark);
                self.out
                    .extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
                self.open.push(Open {
                    shape: Shape::List,
                    left: len,
                    first: false,
                });
                self.close_finished();
            }
            Dialect::Json => {
                self.json_separator(false);
                self.out.push(if shape == Shape::Map { b'{' } else { b'[' });
                let left = if shape == Shape::Map { len * 2 } else { len };
                self.open.push(Open {
                    shape,
                    left,
                    first: true,
                });
                self.close_finished();
            }
        }
    }

    fn length(&mut self, mark: u8, len: usize) {
        self.out.push(mark);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
        self.end_line();
    }

    fn end_line(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn line_separator(&mut self) {
        if !self.open.is_empty() {
            self.out.push(b' ');
        }
    }

    fn line_item(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.line_separator();
        write(self.out);
        self.item_done();
    }

    /// Writes what stands before a JSON value; a key that is not a string is put in quotes.
    fn json_separator(&mut self, is_string: bool) -> bool {
        let Some(open) = self.open.last_mut() else {
            return false;
        };
        let is_key = open.shape == Shape::Map && open.left % 2 == 0;
        let is_value = open.shape == Shape::Map && !is_key;
        if is_value {
            self.out.push(b':');
        } else if !open.first {
            self.out.push(b',');
        }
        open.first = false;
        is_key && !is_string
    }

    fn json_item(&mut self, write: impl FnOnce(&mut Vec<u8>), is_string: bool) {
        let bare_key = self.json_separator(is_string);
        if bare_key {
            self.out.push(b'"');
        }
        write(self.out);
        if bare_key {
            self.out.push(b'"');
        }
        self.item_done();
    }

    fn item_done(&mut self) {
        if let Some(open) = self.open.last_mut() {
            debug_assert!(open.left > 0);
            open.left -= 1;
            self.close_finished();
        } else {
            self.out.push(b'\n');
        }
    }

    /// Closes every aggregate that has all its elements, innermost first.
    fn close_finished(&mut self) {
        while let Some(open) = self.open.last().copied().filter(|open| open.left == 0) {
            self.open.pop();
            if self.dialect == Dialect::Json {
                self.out
                    .push(if open.shape == Shape::Map { b'}' } else { b']' });
            }
            match self.open.last_mut() {
                Some(outer) => outer.left -= 1,
                None => self.out.push(b'\n'),
            }
        }
    }
}

/// A JSON string, or `{"base64":"…"}` when `value` is not UTF-8.
fn json_string(value: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(text) => {
            // Serialising a &str into memory has no way to fail.
            out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        }
        Err(_) => {
            out.extend_from_slice(b"{\"base64\":\"");
            out.extend_from_slice(
                base64::engine::general_purpose::STANDARD
                    .encode(value)
                    .as_bytes(),
            );
            out.extend_from_slice(b"\"}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dialect: Dialect, write: impl FnOnce(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, dialect);
        write(&mut reply);
        assert!(reply.is_complete());
        String::from_utf8(out).expect("readable")
    }

    fn sample(reply: &mut Reply<'_>) {
        reply.array(5);
        reply.bulk(b"two words");
        reply.int(-3);
        reply.nil();
        reply.map(1);
        reply.bulk(b"k");
        reply.array(0);
        reply.simple("OK");
    }

    #[test]
    fn one_reply_in_four_dialects() {
        let resp2 = "*5\r\n$9\r\ntwo words\r\n:-3\r\n$-1\r\n*2\r\n$1\r\nk\r\n*0\r\n+OK\r\n";
        assert_eq!(written(Dialect::Resp2, sample), resp2);
        let resp3 = "*5\r\n$9\r\ntwo words\r\n:-3\r\n_\r\n%1\r\n$1\r\nk\r\n*0\r\n+OK\r\n";
        assert_eq!(written(Dialect::Resp3, sample), resp3);
        assert_eq!(
            written(Dialect::Line, sample),
            "*5 \"two words\" -3 (nil) *2 k *0 OK\n"
        );
        assert_eq!(
            written(Dialect::Json, sample),
            "[\"two words\",-3,null,{\"k\":[]},\"OK\"]\n"
        );
    }

    #[test]
    fn one_line_dialects_hold_one_line() {
        let error = |reply: &mut Reply<'_>| reply.error_bytes(b"ERR unknown command 'a\r\nb'");
        assert_eq!(
            written(Dialect::Line, error),
            "-ERR unknown command 'a  b'\n"
        );
        assert_eq!(
            written(Dialect::Json, error),
            "{\"error\":\"ERR unknown command 'a\\r\\nb'\"}\n"
        );
        assert_eq!(
            written(Dialect::Resp2, error),
            "-ERR unknown command 'a  b'\r\n"
        );
        let binary = |reply: &mut Reply<'_>| reply.bulk(b"\xff\n");
        assert_eq!(written(Dialect::Line, binary), "\"\\xff\\n\"\n");
        assert_eq!(written(Dialect::Json, binary), "{\"base64\":\"/wo=\"}\n");
        let integer_key = |reply: &mut Reply<'_>| {
            reply.map(1);
            reply.int(1);
            reply.int(2);
        };
        assert_eq!(written(Dialect::Json, integer_key), "{\"1\":2}\n");
    }
}
