//! RESP bytes to reply values, for whoever is the client.
//!
//! The [`Decoder`] is fed whatever the socket gave and hands out whole [`Value`]s, RESP2 and RESP3
//! alike, with no need to know which of the two the connection speaks: the first byte of an item says it.
//!
//! ```text
//! item      = line-type text CRLF              + - : _ # , (
//!           | text-type length CRLF text CRLF  $ ! =
//!           | list-type length CRLF item*      * ~ > % |
//! ```
//!
//! What is held between two calls: the input not looked at yet, the position up to which a line end was
//! searched in vain, the text that is being received, and the aggregates that are still open. So no byte
//! is looked at twice, however the input was cut, and a large text is moved once as it comes in.
//!
//! A length is a promise of the other side, never a reason to allocate: memory grows with the bytes that
//! arrived. Depth, lengths and counts are bounded by [`Limits`]; nothing recurses.
//!
//! Attributes (`|`) are read and dropped. Streamed types (`$?`, `*?`) are deliberately absent: no server
//! sends them. After an error the stream has no known position: every later call repeats the error.

use std::fmt;

use super::number::{parse_i64, parse_u64};

/// Aggregates are given room for so many elements before any of them arrived.
const ELEMENTS_RESERVED_MAX: usize = 1024;
/// Texts are given room for so many bytes before any of them arrived.
const TEXT_BYTES_RESERVED_MAX: usize = 64 * 1024;

/// One reply, or an element of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A status: `+OK`.
    Simple(Vec<u8>),
    /// An error without its mark: `ERR syntax error`. Blob errors too.
    Error(Vec<u8>),
    /// An integer.
    Int(i64),
    /// A binary-safe string.
    Bulk(Vec<u8>),
    /// No value: `_`, `$-1` and `*-1` are the same.
    Nil,
    /// An ordered collection.
    Array(Vec<Value>),
    /// Key-value pairs in the order in which they came.
    Map(Vec<(Value, Value)>),
    /// An unordered collection.
    Set(Vec<Value>),
    /// A message that answers no request.
    Push(Vec<Value>),
    /// A floating-point number, as it was written.
    Double(Vec<u8>),
    /// A truth value.
    Boolean(bool),
    /// A text with a hint how to show it.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text without the hint.
        text: Vec<u8>,
    },
    /// An integer beyond 64 bits, as it was written.
    BigNumber(Vec<u8>),
}

/// What a decoder accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Aggregates within aggregates.
    pub depth_max: usize,
    /// Bytes of a line: statuses, errors, numbers, headers.
    pub line_bytes_max: usize,
    /// Bytes of a text that is announced by its length.
    pub text_bytes_max: usize,
    /// Elements of one aggregate (a pair of a map counts once).
    pub elements_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            depth_max: 32,
            line_bytes_max: 16 << 20,
            text_bytes_max: 512 << 20,
            elements_max: 1 << 28,
        }
    }
}

/// Why the input is no RESP, or more of it than was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// An item begins with a byte that names no type.
    UnknownType(u8),
    /// A line ends in `\n` without `\r`.
    BareNewline,
    /// Something else than `\r\n` follows a text.
    TextNotEnded,
    /// A length is not a canonical unsigned number (or `-1`, where nil may stand).
    BadLength,
    /// Not an integer of 64 bits.
    BadInteger,
    /// Neither `t` nor `f`.
    BadBoolean,
    /// A nil with content.
    BadNil,
    /// Not a floating-point number.
    BadDouble,
    /// Not a decimal integer.
    BadBigNumber,
    /// A verbatim text without its format.
    BadVerbatim,
    /// Beyond [`Limits::line_bytes_max`].
    LineTooLong,
    /// Beyond [`Limits::text_bytes_max`].
    TextTooLong,
    /// Beyond [`Limits::elements_max`].
    TooManyElements,
    /// Beyond [`Limits::depth_max`].
    TooDeep,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::UnknownType(byte) => {
                return write!(
                    f,
                    "no reply type begins with '{}'",
                    char::from(*byte).escape_default()
                );
            }
            DecodeError::BareNewline => "a line ends without a carriage return",
            DecodeError::TextNotEnded => "a string is longer than its length says",
            DecodeError::BadLength => "a length is not a number",
            DecodeError::BadInteger => "an integer is not a number of 64 bits",
            DecodeError::BadBoolean => "a boolean is neither t nor f",
            DecodeError::BadNil => "a nil has content",
            DecodeError::BadDouble => "a double is not a number",
            DecodeError::BadBigNumber => "a big number is not a number",
            DecodeError::BadVerbatim => "a verbatim string has no format",
            DecodeError::LineTooLong => "a line is too long",
            DecodeError::TextTooLong => "a string is too long",
            DecodeError::TooManyElements => "an aggregate has too many elements",
            DecodeError::TooDeep => "aggregates are nested too deeply",
        })
    }
}

impl std::error::Error for DecodeError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextType {
    Bulk,
    Error,
    Verbatim,
}

/// A text whose length is known and whose bytes are coming in.
#[derive(Debug)]
struct Text {
    kind: TextType,
    missing: usize,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListType {
    Array,
    Set,
    Push,
    Map,
    Attribute,
}

/// An aggregate whose elements are coming in.
#[derive(Debug)]
struct Open {
    kind: ListType,
    missing: usize,
    elements: Vec<Value>,
}

/// One step of decoding.
enum Step {
    /// The input ends within an item.
    Starved,
    /// A header was read; its content follows.
    Header,
    /// An item is whole.
    Whole(Value),
}

/// Turns bytes into values. See the module's text.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    input: Vec<u8>,
    /// `input[..at]` is decoded.
    at: usize,
    /// `input[at..searched]` holds no line end.
    searched: usize,
    text: Option<Text>,
    open: Vec<Open>,
    failed: Option<DecodeError>,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Decoder {
            limits,
            ..Decoder::default()
        }
    }

    /// Adds what came in.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.searched = self.searched.saturating_sub(self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// The next whole value, or `None` when it takes more bytes.
    ///
    /// # Errors
    /// The input is no RESP or beyond a limit; the decoder is of no use then.
    pub fn next_value(&mut self) -> Result<Option<Value>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let decoded = self.decode();
        self.failed = decoded.as_ref().err().copied();
        decoded
    }

    /// Whether the input ended between two values.
    pub fn is_between_values(&self) -> bool {
        self.open.is_empty() && self.text.is_none() && self.at == self.input.len()
    }

    /// Takes the bytes behind the last value out, for a stream that goes on in another language.
    pub fn take_unread(&mut self) -> Vec<u8> {
        let unread = self.input.split_off(self.at);
        self.input.clear();
        (self.at, self.searched) = (0, 0);
        unread
    }

    fn decode(&mut self) -> Result<Option<Value>, DecodeError> {
        loop {
            let step = match self.text.take() {
                Some(text) => self.continue_text(text)?,
                None => self.begin_item()?,
            };
            match step {
                Step::Starved => return Ok(None),
                Step::Header => {}
                Step::Whole(value) => {
                    if let Some(whole) = self.place(value) {
                        return Ok(Some(whole));
                    }
                }
            }
        }
    }

    /// Puts a value into the innermost open aggregate; returns the outermost that became whole by it.
    fn place(&mut self, mut value: Value) -> Option<Value> {
        while let Some(innermost) = self.open.last_mut() {
            innermost.elements.push(value);
            innermost.missing -= 1;
            if innermost.missing > 0 {
                return None;
            }
            let Open { kind, elements, .. } = self.open.pop()?;
            value = aggregate(kind, elements)?;
        }
        Some(value)
    }

    fn begin_item(&mut self) -> Result<Step, DecodeError> {
        let Some((from, to)) = self.take_line()? else {
            return Ok(Step::Starved);
        };
        let (mark, rest) = (self.input[from], &self.input[from + 1..to]);
        let value = match mark {
            b'+' => Value::Simple(rest.to_vec()),
            b'-' => Value::Error(rest.to_vec()),
            b':' => Value::Int(integer(rest)?),
            b'_' => match rest {
                [] => Value::Nil,
                _ => return Err(DecodeError::BadNil),
            },
            b'#' => match rest {
                b"t" => Value::Boolean(true),
                b"f" => Value::Boolean(false),
                _ => return Err(DecodeError::BadBoolean),
            },
            b',' => Value::Double(double(rest)?),
            b'(' => Value::BigNumber(big_number(rest)?),
            b'$' | b'*' if rest == b"-1" => Value::Nil,
            b'$' | b'!' | b'=' => return self.begin_text(mark, from + 1, to),
            b'*' | b'~' | b'>' | b'%' | b'|' => return self.begin_list(mark, from + 1, to),
            unknown => return Err(DecodeError::UnknownType(unknown)),
        };
        Ok(Step::Whole(value))
    }

    /// Bounds of the next line without its end; the position moves behind it.
    fn take_line(&mut self) -> Result<Option<(usize, usize)>, DecodeError> {
        let from = self.at;
        let searched = self.searched.max(from);
        let found = memchr::memchr(b'\n', &self.input[searched..]);
        let end = found.map_or(self.input.len(), |offset| searched + offset);
        if end - from > self.limits.line_bytes_max {
            return Err(DecodeError::LineTooLong);
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        self.at = end + 1;
        match self.input[from..end] {
            [b'\r'] => Err(DecodeError::UnknownType(b'\r')),
            [.., b'\r'] => Ok(Some((from, end - 1))),
            _ => Err(DecodeError::BareNewline),
        }
    }

    fn begin_text(&mut self, mark: u8, from: usize, to: usize) -> Result<Step, DecodeError> {
        let missing = length(&self.input[from..to])?;
        if missing > self.limits.text_bytes_max {
            return Err(DecodeError::TextTooLong);
        }
        let kind = match mark {
            b'!' => TextType::Error,
            b'=' => TextType::Verbatim,
            _ => TextType::Bulk,
        };
        let bytes = Vec::with_capacity(missing.min(TEXT_BYTES_RESERVED_MAX));
        self.continue_text(Text {
            kind,
            missing,
            bytes,
        })
    }

    fn continue_text(&mut self, mut text: Text) -> Result<Step, DecodeError> {
        let here = text.missing.min(self.input.len() - self.at);
        text.bytes
            .extend_from_slice(&self.input[self.at..self.at + here]);
        text.missing -= here;
        self.at += here;
        match self.input.get(self.at..self.at + 2) {
            Some(b"\r\n") if text.missing == 0 => self.at += 2,
            Some(_) if text.missing == 0 => return Err(DecodeError::TextNotEnded),
            _ => {
                self.text = Some(text);
                return Ok(Step::Starved);
            }
        }
        Ok(Step::Whole(match text.kind {
            TextType::Bulk => Value::Bulk(text.bytes),
            TextType::Error => Value::Error(text.bytes),
            TextType::Verbatim => verbatim(&text.bytes)?,
        }))
    }

    fn begin_list(&mut self, mark: u8, from: usize, to: usize) -> Result<Step, DecodeError> {
        let count = length(&self.input[from..to])?;
        if count > self.limits.elements_max {
            return Err(DecodeError::TooManyElements);
        }
        let (kind, each) = match mark {
            b'~' => (ListType::Set, 1),
            b'>' => (ListType::Push, 1),
            b'%' => (ListType::Map, 2),
            b'|' => (ListType::Attribute, 2),
            _ => (ListType::Array, 1),
        };
        if count == 0 {
            return Ok(aggregate(kind, Vec::new()).map_or(Step::Header, Step::Whole));
        }
        if self.open.len() == self.limits.depth_max {
            return Err(DecodeError::TooDeep);
        }
        let missing = count.saturating_mul(each);
        self.open.push(Open {
            kind,
            missing,
            elements: Vec::with_capacity(missing.min(ELEMENTS_RESERVED_MAX)),
        });
        Ok(Step::Header)
    }
}

/// The value of a whole aggregate; an attribute has none.
fn aggregate(kind: ListType, elements: Vec<Value>) -> Option<Value> {
    match kind {
        ListType::Array => Some(Value::Array(elements)),
        ListType::Set => Some(Value::Set(elements)),
        ListType::Push => Some(Value::Push(elements)),
        ListType::Map => {
            let mut elements = elements.into_iter();
            let pairs = std::iter::from_fn(|| Some((elements.next()?, elements.next()?)));
            Some(Value::Map(pairs.collect()))
        }
        ListType::Attribute => None,
    }
}

fn length(text: &[u8]) -> Result<usize, DecodeError> {
    parse_u64(text)
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(DecodeError::BadLength)
}

fn integer(text: &[u8]) -> Result<i64, DecodeError> {
    let number = match text {
        [b'+', digits @ ..] if digits.first() != Some(&b'-') => digits,
        _ => text,
    };
    parse_i64(number).ok_or(DecodeError::BadInteger)
}

fn double(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .map(|_| text.to_vec())
        .ok_or(DecodeError::BadDouble)
}

fn big_number(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        true => Ok(text.to_vec()),
        false => Err(DecodeError::BadBigNumber),
    }
}

fn verbatim(bytes: &[u8]) -> Result<Value, DecodeError> {
    match bytes {
        &[a, b, c, b':', ref text @ ..] => Ok(Value::Verbatim {
            format: [a, b, c],
            text: text.to_vec(),
        }),
        _ => Err(DecodeError::BadVerbatim),
    }
}

#[cfg(test)]
mod tests;
