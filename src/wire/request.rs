//! Requests: bytes -> arguments.
//!
//! ```text
//! request   = multibulk | inline
//! multibulk = "*" count CRLF { "$" length CRLF bytes CRLF }      what client libraries send
//! inline    = { blank argument } [CR] LF                         what people and scripts type
//! ```
//!
//! The parser is *resumable*: given the same bytes again with more behind them, it goes on where it
//! stopped and never looks twice at a byte it has judged. It copies nothing, except an inline line with
//! quotes: arguments are ranges of the caller's buffer.
//!
//! Limits are checked on what a request announces, before its bytes arrive; the caller's buffer grows
//! only as they do arrive.
//!
//! Deliberately absent: any knowledge of commands.

use std::ops::Range;

use super::{number, quote};

/// How large a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest inline line, and longest header line of a multibulk request.
    pub line_bytes_max: usize,
    /// Most arguments of one request.
    pub arguments_max: usize,
    /// Longest argument.
    pub argument_bytes_max: usize,
    /// Whether these are the limits of a connection that has yet to authenticate (errors say so).
    pub unauthenticated: bool,
}

impl Limits {
    /// For a connection that may do anything; `argument_bytes_max` comes from the configuration.
    pub const fn trusted(argument_bytes_max: usize) -> Limits {
        Limits {
            line_bytes_max: 65_536,
            arguments_max: 1 << 20,
            argument_bytes_max,
            unauthenticated: false,
        }
    }

    /// For a connection that has to authenticate first: room for AUTH and HELLO, as in Redis.
    pub const UNAUTHENTICATED: Limits = Limits {
        line_bytes_max: 65_536,
        arguments_max: 10,
        argument_bytes_max: 16_384,
        unauthenticated: true,
    };
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A request of `consumed` bytes; its arguments are [`Parser::args`].
    Request {
        /// Length of the request in bytes.
        consumed: usize,
    },
    /// Nothing to do in the first `consumed` bytes: an empty line, a comment, `*0`, a discarded line.
    Nothing {
        /// Length of the nothing in bytes.
        consumed: usize,
    },
    /// A telnet's own words (RFC 854), as it says them after Ctrl-C; `refusal` is the answer, empty when
    /// none is due. A telnet that asked for a timing mark hides everything until it is answered (RFC 860).
    Telnet {
        /// Length of the words in bytes.
        consumed: usize,
        /// What to answer: WONT to DO TIMING-MARK; other wishes may be left unanswered.
        refusal: &'static [u8],
    },
    /// More bytes are needed.
    Incomplete,
}

/// What a client did to the grammar. The stream cannot be trusted after it, unless the error is of an
/// inline line and the connection speaks a line dialect ([`Parser::discard_line`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// An inline line or header without an end.
    InlineTooBig,
    /// A quote that does not close.
    UnbalancedQuotes,
    /// A `*` line without an end.
    CountTooLong,
    /// `*` followed by something that is no count, or too many.
    InvalidCount,
    /// Too many arguments before authentication.
    UnauthenticatedCount,
    /// A `$` line without an end.
    LengthTooLong,
    /// `$` followed by something that is no length, or too long.
    InvalidLength,
    /// Too long an argument before authentication.
    UnauthenticatedLength,
    /// Another byte where `$` must stand.
    ExpectedDollar(u8),
    /// An argument's bytes are not followed by CR LF.
    ExpectedCrLf,
    /// The first bytes of a TLS handshake.
    Tls,
}

impl Violation {
    /// The error text, in Redis's words where Redis has some.
    pub fn text(self) -> String {
        let what = match self {
            Violation::InlineTooBig => "too big inline request",
            Violation::UnbalancedQuotes => "unbalanced quotes in request",
            Violation::CountTooLong => "too big mbulk count string",
            Violation::InvalidCount => "invalid multibulk length",
            Violation::UnauthenticatedCount => "unauthenticated multibulk length",
            Violation::LengthTooLong => "too big bulk count string",
            Violation::InvalidLength => "invalid bulk length",
            Violation::UnauthenticatedLength => "unauthenticated bulk length",
            Violation::ExpectedDollar(got) => {
                return format!("ERR Protocol error: expected '$', got '{}'", printable(got));
            }
            Violation::ExpectedCrLf => "expected CR LF behind a bulk string",
            Violation::Tls => "TLS handshake on a plain-text port",
        };
        format!("ERR Protocol error: {what}")
    }

    /// Whether the line can be skipped and the conversation go on.
    pub fn is_of_one_line(self) -> bool {
        matches!(self, Violation::UnbalancedQuotes | Violation::InlineTooBig)
    }
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte)
    } else {
        '?'
    }
}

/// The arguments of one request, borrowed. Never empty; argument 0 is the command's name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    text: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Args<'a> {
    /// Arguments lying in `text`.
    pub fn new(text: &'a [u8], ranges: &'a [Range<usize>]) -> Self {
        Args { text, ranges }
    }

    /// How many there are, the command's name included.
    pub fn len(self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`; panics beyond the end, as slices do.
    pub fn at(self, index: usize) -> &'a [u8] {
        &self.text[self.ranges[index].clone()]
    }

    /// Argument `index`, if there is one.
    pub fn get(self, index: usize) -> Option<&'a [u8]> {
        self.ranges
            .get(index)
            .map(|range| &self.text[range.clone()])
    }

    /// All but the first `count` arguments.
    pub fn skip(self, count: usize) -> Args<'a> {
        Args {
            text: self.text,
            ranges: &self.ranges[count.min(self.ranges.len())..],
        }
    }

    /// The first `count` arguments.
    pub fn take(self, count: usize) -> Args<'a> {
        Args {
            text: self.text,
            ranges: &self.ranges[..count.min(self.ranges.len())],
        }
    }

    /// One after the other.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        self.ranges
            .iter()
            .map(move |range| &self.text[range.clone()])
    }
}

/// A request that owns its bytes: a queued command.
#[derive(Debug, Clone, Default)]
pub struct OwnedArgs {
    text: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl OwnedArgs {
    /// A copy of `args`, packed.
    pub fn copy(args: Args<'_>) -> Self {
        let mut owned = OwnedArgs::default();
        args.iter().for_each(|argument| owned.push(argument));
        owned
    }

    /// Adds an argument.
    pub fn push(&mut self, argument: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(argument);
        self.ranges.push(start..self.text.len());
    }

    /// As borrowed arguments.
    pub fn args(&self) -> Args<'_> {
        Args {
            text: &self.text,
            ranges: &self.ranges,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.ranges.len() * size_of::<Range<usize>>()
    }
}

/// Where the parser stands in the request at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// At its first byte.
    #[default]
    Start,
    /// In an inline line of which `scanned` bytes hold no newline.
    Inline { scanned: usize },
    /// In a line to be skipped.
    Discard,
    /// In the `*` line.
    Count,
    /// Before or in the `$` line at `at`, `left` arguments to go.
    Length { at: usize, left: usize },
    /// In the `len` bytes at `at`, `left` arguments to go with this one.
    Bytes { at: usize, len: usize, left: usize },
}

/// The resumable parser. One request at a time: give it the bytes from the request's first one.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
    ranges: Vec<Range<usize>>,
    /// The arguments of an inline line with quotes, unquoted.
    unquoted: Vec<u8>,
    /// Whether `ranges` point into `unquoted`.
    is_unquoted: bool,
}

impl Parser {
    /// Whether it stands between two requests.
    pub fn is_at_start(&self) -> bool {
        self.state == State::Start
    }

    /// Looks at `bytes`, which begin with the request at hand. `comments`: lines that begin with `#`
    /// are nothing.
    ///
    /// # Errors
    /// A [`Violation`]; the parser then stands at the start of a request again.
    pub fn next(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        comments: bool,
    ) -> Result<Progress, Violation> {
        let progress = self.step(bytes, limits, comments);
        if !matches!(progress, Ok(Progress::Incomplete)) && self.state != State::Discard {
            self.state = State::Start;
        }
        progress
    }

    /// The arguments of the request that [`Parser::next`] just found in `bytes`.
    pub fn args<'a>(&'a self, bytes: &'a [u8]) -> Args<'a> {
        Args {
            text: if self.is_unquoted {
                &self.unquoted
            } else {
                bytes
            },
            ranges: &self.ranges,
        }
    }

    /// Makes the next calls skip everything up to and including the next newline, as it comes in.
    pub fn discard_line(&mut self) {
        self.state = State::Discard;
    }

    fn step(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        comments: bool,
    ) -> Result<Progress, Violation> {
        if self.state == State::Start {
            match bytes {
                [] => return Ok(Progress::Incomplete),
                // Nearly every count has one digit: judged without a search.
                [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..]
                    if usize::from(count - b'0') <= limits.arguments_max =>
                {
                    let left = usize::from(count - b'0');
                    self.state = State::Length { at: 4, left };
                    self.ranges.clear();
                    self.is_unquoted = false;
                }
                [b'*', ..] => {
                    self.state = State::Count;
                    self.ranges.clear();
                    self.is_unquoted = false;
                }
                [0x16] => return Ok(Progress::Incomplete),
                [0x16, 0x03, ..] => return Err(Violation::Tls),
                [IAC, ..] => return Ok(telnet(bytes)),
                _ => self.state = State::Inline { scanned: 0 },
            }
        }
        match self.state {
            State::Inline { scanned } => self.inline(bytes, scanned, limits, comments),
            State::Discard => Ok(self.discard(bytes)),
            _ => self.multibulk(bytes, limits),
        }
    }

    fn discard(&mut self, bytes: &[u8]) -> Progress {
        let newline = memchr::memchr(b'\n', bytes);
        if newline.is_some() {
            self.state = State::Start;
        }
        match newline.map_or(bytes.len(), |newline| newline + 1) {
            0 => Progress::Incomplete,
            consumed => Progress::Nothing { consumed },
        }
    }

    fn inline(
        &mut self,
        bytes: &[u8],
        scanned: usize,
        limits: &Limits,
        comments: bool,
    ) -> Result<Progress, Violation> {
        let Some(newline) = memchr::memchr(b'\n', &bytes[scanned..]) else {
            if bytes.len() > limits.line_bytes_max {
                return Err(Violation::InlineTooBig);
            }
            self.state = State::Inline {
                scanned: bytes.len(),
            };
            return Ok(Progress::Incomplete);
        };
        let end = scanned + newline;
        if end > limits.line_bytes_max {
            return Err(Violation::InlineTooBig);
        }
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        let consumed = end + 1;
        if comments && line.trim_ascii_start().first() == Some(&b'#') {
            return Ok(Progress::Nothing { consumed });
        }
        self.split(line)?;
        match self.ranges.is_empty() {
            true => Ok(Progress::Nothing { consumed }),
            false => Ok(Progress::Request { consumed }),
        }
    }

    fn split(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.is_unquoted = memchr::memchr2(b'"', b'\'', line).is_some();
        if self.is_unquoted {
            return quote::split_line(line, &mut self.unquoted, &mut self.ranges)
                .map_err(|quote::Unbalanced| Violation::UnbalancedQuotes);
        }
        self.ranges.clear();
        let mut start = None;
        for (at, &byte) in line.iter().enumerate() {
            match (quote::is_blank(byte), start) {
                (false, None) => start = Some(at),
                (true, Some(first)) => {
                    self.ranges.push(first..at);
                    start = None;
                }
                _ => {}
            }
        }
        self.ranges.extend(start.map(|first| first..line.len()));
        Ok(())
    }

    fn multibulk(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, Violation> {
        loop {
            match self.state {
                State::Count => match self.count(bytes, limits)? {
                    None => return Ok(Progress::Incomplete),
                    Some((0, consumed)) => return Ok(Progress::Nothing { consumed }),
                    Some((left, at)) => self.state = State::Length { at, left },
                },
                State::Length { at, left } => {
                    let Some((len, at)) = length(bytes, at, limits)? else {
                        return Ok(Progress::Incomplete);
                    };
                    self.state = State::Bytes { at, len, left };
                }
                State::Bytes { at, len, left } => {
                    let end = at + len;
                    if bytes.len() < end + 2 {
                        return Ok(Progress::Incomplete);
                    }
                    if bytes[end..end + 2] != *b"\r\n" {
                        return Err(Violation::ExpectedCrLf);
                    }
                    self.ranges.push(at..end);
                    if left == 1 {
                        return Ok(Progress::Request { consumed: end + 2 });
                    }
                    self.state = State::Length {
                        at: end + 2,
                        left: left - 1,
                    };
                }
                State::Start | State::Inline { .. } | State::Discard => {
                    unreachable!("not multibulk")
                }
            }
        }
    }

    /// The number after `*` and where its line ends.
    fn count(&self, bytes: &[u8], limits: &Limits) -> Result<Option<(usize, usize)>, Violation> {
        let Some((line, end)) =
            header(bytes, 0, limits).map_err(|TooLong| Violation::CountTooLong)?
        else {
            return Ok(None);
        };
        let count = number::parse_i64(&line[1..])
            .filter(|&count| count <= i64::from(i32::MAX))
            .ok_or(Violation::InvalidCount)?;
        let count = usize::try_from(count).unwrap_or(0);
        match count > limits.arguments_max {
            true if limits.unauthenticated => Err(Violation::UnauthenticatedCount),
            true => Err(Violation::InvalidCount),
            false => Ok(Some((count, end))),
        }
    }
}

/// "Interpret as command": the byte that begins telnet's own words. No command begins with it.
const IAC: u8 = 255;

/// What a telnet says of itself at the beginning of `bytes`.
fn telnet(bytes: &[u8]) -> Progress {
    const WILL: u8 = 251;
    const DO: u8 = 253;
    const DONT: u8 = 254;
    const TIMING_MARK: u8 = 6;
    match *bytes {
        [_, WILL..=DONT, ..] if bytes.len() < 3 => Progress::Incomplete,
        [_, DO, TIMING_MARK, ..] => Progress::Telnet {
            consumed: 3,
            refusal: b"\xff\xfc\x06",
        },
        [_, WILL..=DONT, ..] => Progress::Telnet {
            consumed: 3,
            refusal: b"",
        },
        [_, _, ..] => Progress::Telnet {
            consumed: 2,
            refusal: b"",
        },
        _ => Progress::Incomplete,
    }
}

/// The number after the `$` at `at` and where its line ends.
fn length(bytes: &[u8], at: usize, limits: &Limits) -> Result<Option<(usize, usize)>, Violation> {
    // Nearly every length has one or two digits: judged without a search.
    let short = match *bytes.get(at..).unwrap_or_default() {
        [b'$', units, b'\r', b'\n', ..] if units.is_ascii_digit() => Some((units - b'0', at + 4)),
        [b'$', tens @ b'1'..=b'9', units, b'\r', b'\n', ..] if units.is_ascii_digit() => {
            Some(((tens - b'0') * 10 + units - b'0', at + 5))
        }
        _ => None,
    };
    if let Some((length, end)) = short
        && usize::from(length) <= limits.argument_bytes_max
    {
        return Ok(Some((length.into(), end)));
    }
    let Some((line, end)) =
        header(bytes, at, limits).map_err(|TooLong| Violation::LengthTooLong)?
    else {
        return Ok(None);
    };
    if line.first() != Some(&b'$') {
        return Err(Violation::ExpectedDollar(
            line.first().copied().unwrap_or(b'\r'),
        ));
    }
    let length = number::parse_i64(&line[1..]).and_then(|length| usize::try_from(length).ok());
    match length {
        Some(length) if length <= limits.argument_bytes_max => Ok(Some((length, end))),
        Some(_) if limits.unauthenticated => Err(Violation::UnauthenticatedLength),
        _ => Err(Violation::InvalidLength),
    }
}

struct TooLong;

/// The line at `at` without its CR LF, and where the next one begins. A header is short; a search from
/// its beginning costs less than remembering where the last one ended.
fn header<'a>(
    bytes: &'a [u8],
    at: usize,
    limits: &Limits,
) -> Result<Option<(&'a [u8], usize)>, TooLong> {
    let rest = &bytes[at.min(bytes.len())..];
    let window = &rest[..rest.len().min(limits.line_bytes_max + 1)];
    match memchr::memchr(b'\r', window) {
        Some(end) if end + 1 < rest.len() => Ok(Some((&rest[..end], at + end + 2))),
        Some(_) => Ok(None),
        None if rest.len() > limits.line_bytes_max => Err(TooLong),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::trusted(512 << 20);

    /// All requests in `input`, given in pieces of `piece` bytes; the rest of the line on a violation.
    fn requests(input: &[u8], piece: usize) -> Vec<Result<Vec<Vec<u8>>, Violation>> {
        let (mut parser, mut found) = (Parser::default(), Vec::new());
        let (mut start, mut end) = (0, 0);
        while end < input.len() {
            end = (end + piece).min(input.len());
            loop {
                match parser.next(&input[start..end], &LIMITS, true) {
                    Ok(Progress::Incomplete) => break,
                    Ok(Progress::Nothing { consumed } | Progress::Telnet { consumed, .. }) => {
                        start += consumed;
                    }
                    Ok(Progress::Request { consumed }) => {
                        let args = parser.args(&input[start..end]);
                        found.push(Ok(args.iter().map(<[u8]>::to_vec).collect()));
                        start += consumed;
                    }
                    Err(violation) => {
                        found.push(Err(violation));
                        return found;
                    }
                }
            }
        }
        found
    }

    fn command(words: &[&[u8]]) -> Result<Vec<Vec<u8>>, Violation> {
        Ok(words.iter().map(|word| word.to_vec()).collect())
    }

    #[test]
    fn any_segmentation_gives_the_same_requests() {
        let input = b"PING\r\n\r\n*2\r\n$4\r\nECHO\r\n$12\r\na\r\nb \"c\" \x00de\r\n*0\r\n# a comment\nset k 'v w'\n*-1\r\n*1\r\n$0\r\n\r\nGET a\n";
        let want = vec![
            command(&[b"PING"]),
            command(&[b"ECHO", b"a\r\nb \"c\" \x00de"]),
            command(&[b"set", b"k", b"v w"]),
            command(&[b""]),
            command(&[b"GET", b"a"]),
        ];
        for piece in 1..=input.len() {
            assert_eq!(requests(input, piece), want, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_has_a_name() {
        let cases: [(&[u8], Violation); 11] = [
            (b"SET k \"v\n", Violation::UnbalancedQuotes),
            (b"*x\r\n", Violation::InvalidCount),
            (b"*2147483648\r\n", Violation::InvalidCount),
            (b"*1048577\r\n", Violation::InvalidCount),
            (b"*1\r\n$-1\r\n", Violation::InvalidLength),
            (b"*1\r\n$99999999999\r\n", Violation::InvalidLength),
            (b"*1\r\n$\r\n", Violation::InvalidLength),
            (b"*1\r\n:1\r\n", Violation::ExpectedDollar(b':')),
            (b"*1\r\n\r\nx", Violation::ExpectedDollar(b'\r')),
            (b"*1\r\n$2\r\nabcd", Violation::ExpectedCrLf),
            (b"\x16\x03\x01\x02\x00\x01", Violation::Tls),
        ];
        for (input, violation) in cases {
            assert_eq!(
                requests(input, input.len()),
                [Err(violation)],
                "{:?}",
                input.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_handshake_is_known_wherever_it_is_cut() {
        for piece in 1..6 {
            let found = requests(b"\x16\x03\x01\x02\x00\x01", piece);
            assert_eq!(found, [Err(Violation::Tls)], "in pieces of {piece}");
        }
        assert_eq!(requests(b"\x16\n", 1), [command(&[b"\x16"])]);
    }

    #[test]
    fn endless_lines_end() {
        let long = vec![b'a'; LIMITS.line_bytes_max + 1];
        assert_eq!(requests(&long, 4096), [Err(Violation::InlineTooBig)]);
        let count = [b"*".as_slice(), &vec![b'1'; LIMITS.line_bytes_max + 9]].concat();
        assert_eq!(requests(&count, 4096), [Err(Violation::CountTooLong)]);
        let length = [
            b"*1\r\n$".as_slice(),
            &vec![b'1'; LIMITS.line_bytes_max + 9],
        ]
        .concat();
        assert_eq!(requests(&length, 4096), [Err(Violation::LengthTooLong)]);
        // Just too long, with its end: the same whether that has arrived or not.
        let just = [&count[..LIMITS.line_bytes_max + 1], b"\r\n"].concat();
        for piece in [just.len() - 2, just.len()] {
            assert_eq!(requests(&just, piece), [Err(Violation::CountTooLong)]);
        }
    }

    #[test]
    fn strangers_are_bounded_earlier() {
        let mut parser = Parser::default();
        assert_eq!(
            parser.next(b"*11\r\n", &Limits::UNAUTHENTICATED, false),
            Err(Violation::UnauthenticatedCount)
        );
        assert_eq!(
            parser.next(b"*1\r\n$16385\r\n", &Limits::UNAUTHENTICATED, false),
            Err(Violation::UnauthenticatedLength)
        );
    }

    #[test]
    fn the_words_of_a_telnet_are_no_commands() {
        let ctrl_c = b"\xff\xf4\xff\xfd\x06PING\r\n";
        for piece in 1..=ctrl_c.len() {
            assert_eq!(
                requests(ctrl_c, piece),
                [command(&[b"PING"])],
                "in pieces of {piece}"
            );
        }
        let refusal = b"\xff\xfc\x06".as_slice();
        let next = Parser::default().next(&ctrl_c[2..], &LIMITS, false);
        assert_eq!(
            next,
            Ok(Progress::Telnet {
                consumed: 3,
                refusal
            })
        );
    }

    #[test]
    fn short_cuts_keep_the_limits() {
        let limits = Limits {
            line_bytes_max: 24,
            arguments_max: 4,
            argument_bytes_max: 12,
            unauthenticated: false,
        };
        let judged = |input: &[u8]| Parser::default().next(input, &limits, false);
        assert_eq!(judged(b"*5\r\n$1\r\na\r\n"), Err(Violation::InvalidCount));
        assert_eq!(judged(b"*1\r\n$13\r\n"), Err(Violation::InvalidLength));
        assert_eq!(judged(b"*1\r\n$12\r\n"), Ok(Progress::Incomplete));
    }

    #[test]
    fn a_discarded_line_is_skipped_wherever_it_is_cut() {
        let mut parser = Parser::default();
        parser.discard_line();
        assert_eq!(
            parser.next(b"rubbish", &LIMITS, false),
            Ok(Progress::Nothing { consumed: 7 }),
            "it is not kept until its end"
        );
        assert!(!parser.is_at_start());
        assert_eq!(
            parser.next(b"bish\nPING\n", &LIMITS, false),
            Ok(Progress::Nothing { consumed: 5 })
        );
        assert_eq!(
            parser.next(b"PING\n", &LIMITS, false),
            Ok(Progress::Request { consumed: 5 })
        );
    }
}
