//! Arguments -> data commands.
//!
//! Errors are judged in Redis's order and told in Redis's words, as far as they do not depend on what is
//! stored. Relative times become absolute here, against the time that the caller stamps.

use std::borrow::Cow;

use super::data::{BitOperator, Command, Counted, LcsAnswer, Many};
use super::op::{
    Action, BitFieldOp, BitFieldVerb, BitPosRange, ExpireCondition, GetExExpiry, Op, Overflow,
    Range, Set, SetAnswer, SetCondition, SetExpiry, TtlForm, Unit,
};
use super::row::{Keys, Row};
use super::verb::Verb;
use crate::config;
use crate::wire::number;
use crate::wire::request::Args;

/// Why arguments mean nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The text of an error reply, with its code.
    pub text: Cow<'static, [u8]>,
    /// What to answer instead when there is no such key: of some commands Redis judges some arguments
    /// only after it has found the key.
    pub without_key: Option<WithoutKey>,
}

/// The answer of a command without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutKey {
    /// Nil.
    Nil,
    /// A number.
    Int(i64),
}

type Parsed<T> = Result<T, Fault>;

const fn fault(text: &'static str) -> Fault {
    Fault {
        text: Cow::Borrowed(text.as_bytes()),
        without_key: None,
    }
}

impl From<Vec<u8>> for Fault {
    fn from(text: Vec<u8>) -> Self {
        Fault {
            text: Cow::Owned(text),
            without_key: None,
        }
    }
}

impl Fault {
    fn or_without_key(self, answer: WithoutKey) -> Fault {
        Fault {
            without_key: Some(answer),
            ..self
        }
    }
}

/// Redis's text for what does not follow a command's syntax.
pub const SYNTAX: Fault = fault("ERR syntax error");
/// Redis's text for what should be an integer.
pub const NOT_INTEGER: Fault = fault("ERR value is not an integer or out of range");
const BIT_OFFSET: Fault = fault("ERR bit offset is not an integer or out of range");
const PATTERN_TOO_LONG: Fault = fault("ERR pattern is longer than 1024 bytes");
const _: () = assert!(config::PATTERN_BYTES_MAX == 1_024);
const KEY_TOO_LONG: Fault = fault("ERR key is longer than 65536 bytes");
const _: () = assert!(config::KEY_BYTES_MAX == 65_536);

/// Parses the data command of `row`, whose arity `args` fulfil. `at_ms` is the command's time.
/// `None` when the row is no data command.
///
/// # Errors
/// The text to answer with.
pub fn data<'a>(row: &Row, args: Args<'a>, at_ms: u64) -> Option<Parsed<Command<'a>>> {
    let too_long = |position: usize| args.at(position).len() > config::KEY_BYTES_MAX;
    let any_too_long = match row.keys {
        Keys::ONE => too_long(1),
        keys => keys.positions(args.len()).any(too_long),
    };
    if any_too_long {
        return Some(Err(KEY_TOO_LONG));
    }
    let parsed = match one(row, args, at_ms) {
        Some(action) => {
            let key = args.at(row.keys.first.unsigned_abs().into());
            action.map(|action| Command::One(Op { key, action }))
        }
        None => many(row.verb, args)?.map(Command::Many),
    };
    Some(parsed)
}

fn one<'a>(row: &Row, args: Args<'a>, at_ms: u64) -> Option<Parsed<Action<'a>>> {
    let action = match row.verb {
        Verb::Get => Ok(Action::Get),
        Verb::Set => set(args, at_ms),
        Verb::Setnx => Ok(plain_set(
            args.at(2),
            Some(SetCondition::Absent),
            SetAnswer::Integer,
        )),
        Verb::Setex => set_with_ttl(row, args, 1000, at_ms),
        Verb::Psetex => set_with_ttl(row, args, 1, at_ms),
        Verb::Getset => Ok(plain_set(args.at(2), None, SetAnswer::OldValue)),
        Verb::Getdel => Ok(Action::GetDel),
        Verb::Getex => get_ex(args, at_ms),
        Verb::Append => Ok(Action::Append { value: args.at(2) }),
        Verb::Strlen => Ok(Action::Strlen),
        Verb::Setrange => set_range(args),
        Verb::Getrange | Verb::Substr => get_range(args),
        Verb::Incr => Ok(Action::IncrBy { delta: 1 }),
        Verb::Decr => Ok(Action::IncrBy { delta: -1 }),
        Verb::Incrby => integer(args.at(2)).map(|delta| Action::IncrBy { delta }),
        Verb::Decrby => decr_by(args),
        Verb::Incrbyfloat => Ok(Action::IncrByFloat { delta: args.at(2) }),
        Verb::Cas => Ok(Action::Cas {
            expected: args.at(2),
            new: args.at(3),
        }),
        Verb::Setbit => set_bit(args),
        Verb::Getbit => bit_offset(args.at(2)).map(|offset| Action::GetBit { offset }),
        Verb::Bitcount => bit_count(args),
        Verb::Bitpos => bit_pos(args),
        Verb::Bitfield => bit_field(args, false),
        Verb::BitfieldRo => bit_field(args, true),
        Verb::Del | Verb::Unlink if args.len() == 2 => Ok(Action::Del),
        Verb::Exists if args.len() == 2 => Ok(Action::Exists),
        Verb::Touch if args.len() == 2 => Ok(Action::Touch),
        Verb::Type => Ok(Action::Type),
        Verb::Expire => expire(row, args, 1000, at_ms),
        Verb::Pexpire => expire(row, args, 1, at_ms),
        Verb::Expireat => expire(row, args, 1000, 0),
        Verb::Pexpireat => expire(row, args, 1, 0),
        Verb::Ttl => Ok(Action::Ttl {
            form: TtlForm::Seconds,
        }),
        Verb::Pttl => Ok(Action::Ttl {
            form: TtlForm::Milliseconds,
        }),
        Verb::Expiretime => Ok(Action::Ttl {
            form: TtlForm::UnixSeconds,
        }),
        Verb::Pexpiretime => Ok(Action::Ttl {
            form: TtlForm::UnixMilliseconds,
        }),
        Verb::Persist => Ok(Action::Persist),
        Verb::ObjectEncoding => Ok(Action::Encoding),
        Verb::ObjectIdletime => Ok(Action::IdleTime),
        Verb::ObjectRefcount => Ok(Action::RefCount),
        Verb::MemoryUsage => memory_usage(args),
        _ => return None,
    };
    Some(action)
}

fn many(verb: Verb, args: Args<'_>) -> Option<Parsed<Many<'_>>> {
    let many = match verb {
        Verb::Mget => Ok(Many::Get { keys: args.skip(1) }),
        Verb::Mset | Verb::Msetnx => many_set(verb, args),
        Verb::Del | Verb::Unlink => Ok(Many::Count {
            what: Counted::Del,
            keys: args.skip(1),
        }),
        Verb::Exists => Ok(Many::Count {
            what: Counted::Exists,
            keys: args.skip(1),
        }),
        Verb::Touch => Ok(Many::Count {
            what: Counted::Touch,
            keys: args.skip(1),
        }),
        Verb::Rename => Ok(Many::Rename {
            from: args.at(1),
            to: args.at(2),
            only_if_absent: false,
        }),
        Verb::Renamenx => Ok(Many::Rename {
            from: args.at(1),
            to: args.at(2),
            only_if_absent: true,
        }),
        Verb::Copy => copy(args),
        Verb::Bitop => bit_op(args),
        Verb::Lcs => lcs(args),
        Verb::Keys => pattern(args.at(1)).map(|pattern| Many::Keys { pattern }),
        Verb::Scan => scan(args),
        Verb::Randomkey => Ok(Many::RandomKey),
        Verb::Dbsize => Ok(Many::DbSize),
        Verb::Flushall | Verb::Flushdb => flush(args),
        _ => return None,
    };
    Some(many)
}

/// An integer argument, in Redis's words when it is none.
///
/// # Errors
/// [`NOT_INTEGER`].
pub fn integer(text: &[u8]) -> Parsed<i64> {
    number::parse_i64(text).ok_or(NOT_INTEGER)
}

/// A pattern that is short enough to be matched.
///
/// # Errors
/// It is longer than `config::PATTERN_BYTES_MAX`.
pub fn pattern(text: &[u8]) -> Parsed<&[u8]> {
    match text.len() > config::PATTERN_BYTES_MAX {
        true => Err(PATTERN_TOO_LONG),
        false => Ok(text),
    }
}

/// Whether `word` is `keyword`, in any case.
pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// What Redis repeats of a client's bytes in an error: they are C strings there, which end at a NUL.
pub fn as_c_string(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

fn invalid_expire(name: &str) -> Fault {
    format!("ERR invalid expire time in '{name}' command")
        .into_bytes()
        .into()
}

/// `count` units from `base_ms`, as an absolute time that must be positive.
fn time(text: &[u8], unit_ms: i64, base_ms: u64, name: &str) -> Parsed<u64> {
    let count = integer(text)?;
    count
        .checked_mul(unit_ms)
        .filter(|&ms| ms > 0)
        .and_then(|ms| ms.checked_add_unsigned(base_ms))
        .map(i64::cast_unsigned)
        .ok_or_else(|| invalid_expire(name))
}

/// The unit in milliseconds of an expiry option, and whether it counts from now.
fn expiry_option(word: &[u8]) -> Option<(i64, bool)> {
    match word.len() {
        2 if is(word, "EX") => Some((1000, true)),
        2 if is(word, "PX") => Some((1, true)),
        4 if is(word, "EXAT") => Some((1000, false)),
        4 if is(word, "PXAT") => Some((1, false)),
        _ => None,
    }
}

fn plain_set(value: &[u8], condition: Option<SetCondition>, answer: SetAnswer) -> Action<'_> {
    Action::Set(Set {
        value,
        expiry: SetExpiry::Clear,
        condition,
        answer,
    })
}

fn set<'a>(args: Args<'a>, at_ms: u64) -> Parsed<Action<'a>> {
    let mut set = Set {
        value: args.at(2),
        expiry: SetExpiry::Clear,
        condition: None,
        answer: SetAnswer::Ok,
    };
    if args.len() == 3 {
        return Ok(Action::Set(set));
    }
    let mut timed: Option<(&[u8], i64, bool)> = None;
    let mut keep = false;
    let mut options = args.skip(3).iter();
    while let Some(word) = options.next() {
        if is(word, "NX") && set.condition != Some(SetCondition::Present) {
            set.condition = Some(SetCondition::Absent);
        } else if is(word, "XX") && set.condition != Some(SetCondition::Absent) {
            set.condition = Some(SetCondition::Present);
        } else if is(word, "GET") {
            set.answer = SetAnswer::OldValue;
        } else if is(word, "KEEPTTL") && timed.is_none() {
            keep = true;
        } else if let Some((unit_ms, relative)) = expiry_option(word) {
            let other =
                timed.is_some_and(|(_, unit, from_now)| (unit, from_now) != (unit_ms, relative));
            let count = options.next().filter(|_| !keep && !other).ok_or(SYNTAX)?;
            timed = Some((count, unit_ms, relative));
        } else {
            return Err(SYNTAX);
        }
    }
    if let Some((count, unit_ms, relative)) = timed {
        set.expiry = SetExpiry::At(time(
            count,
            unit_ms,
            if relative { at_ms } else { 0 },
            "set",
        )?);
    } else if keep {
        set.expiry = SetExpiry::Keep;
    }
    Ok(Action::Set(set))
}

fn set_with_ttl<'a>(row: &Row, args: Args<'a>, unit_ms: i64, at_ms: u64) -> Parsed<Action<'a>> {
    let expiry = SetExpiry::At(time(args.at(2), unit_ms, at_ms, row.name)?);
    Ok(Action::Set(Set {
        value: args.at(3),
        expiry,
        condition: None,
        answer: SetAnswer::Ok,
    }))
}

fn get_ex<'a>(args: Args<'a>, at_ms: u64) -> Parsed<Action<'a>> {
    let mut expiry = GetExExpiry::Keep;
    let mut timed: Option<(&[u8], i64, bool)> = None;
    let mut options = args.skip(2).iter();
    while let Some(word) = options.next() {
        if is(word, "PERSIST") && timed.is_none() {
            expiry = GetExExpiry::Clear;
        } else if let Some((unit_ms, relative)) = expiry_option(word) {
            let other =
                timed.is_some_and(|(_, unit, from_now)| (unit, from_now) != (unit_ms, relative));
            let free = !other && expiry == GetExExpiry::Keep;
            timed = Some((
                options.next().filter(|_| free).ok_or(SYNTAX)?,
                unit_ms,
                relative,
            ));
        } else {
            return Err(SYNTAX);
        }
    }
    if let Some((count, unit_ms, relative)) = timed {
        let at = time(count, unit_ms, if relative { at_ms } else { 0 }, "getex");
        expiry = GetExExpiry::At(at.map_err(|fault| fault.or_without_key(WithoutKey::Nil))?);
    }
    Ok(Action::GetEx { expiry })
}

fn set_range(args: Args<'_>) -> Parsed<Action<'_>> {
    let offset =
        u64::try_from(integer(args.at(2))?).map_err(|_| fault("ERR offset is out of range"))?;
    Ok(Action::SetRange {
        offset,
        value: args.at(3),
    })
}

fn get_range(args: Args<'_>) -> Parsed<Action<'_>> {
    Ok(Action::GetRange {
        start: integer(args.at(2))?,
        end: integer(args.at(3))?,
    })
}

fn decr_by(args: Args<'_>) -> Parsed<Action<'_>> {
    let delta = integer(args.at(2))?
        .checked_neg()
        .ok_or(fault("ERR decrement would overflow"))?;
    Ok(Action::IncrBy { delta })
}

fn bit_offset(text: &[u8]) -> Parsed<u64> {
    number::parse_i64(text)
        .and_then(|offset| u64::try_from(offset).ok())
        .filter(|offset| offset / 8 < config::VALUE_BYTES_MAX as u64)
        .ok_or(BIT_OFFSET)
}

fn set_bit(args: Args<'_>) -> Parsed<Action<'_>> {
    let offset = bit_offset(args.at(2))?;
    let bit = match args.at(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(fault("ERR bit is not an integer or out of range")),
    };
    Ok(Action::SetBit { offset, bit })
}

fn unit(word: Option<&[u8]>) -> Parsed<Unit> {
    match word {
        None => Ok(Unit::Byte),
        Some(word) if is(word, "BYTE") => Ok(Unit::Byte),
        Some(word) if is(word, "BIT") => Ok(Unit::Bit),
        Some(_) => Err(SYNTAX),
    }
}

fn bit_count(args: Args<'_>) -> Parsed<Action<'_>> {
    let range = count_range(args).map_err(|fault| fault.or_without_key(WithoutKey::Int(0)))?;
    Ok(Action::BitCount { range })
}

fn count_range(args: Args<'_>) -> Parsed<Option<Range>> {
    match args.len() {
        2 => Ok(None),
        4 | 5 => {
            let (start, end) = (integer(args.at(2))?, integer(args.at(3))?);
            // Redis answers 0 for such a range before it looks at the unit.
            let empty = start < 0 && end < 0 && start > end;
            let unit = if empty {
                Unit::Byte
            } else {
                unit(args.get(4))?
            };
            Ok(Some(Range { start, end, unit }))
        }
        _ => Err(SYNTAX),
    }
}

fn bit_pos(args: Args<'_>) -> Parsed<Action<'_>> {
    let bit = match integer(args.at(2))? {
        0 => false,
        1 => true,
        _ => return Err(fault("ERR The bit argument must be 1 or 0.")),
    };
    let without_key = WithoutKey::Int(if bit { -1 } else { 0 });
    let range = pos_range(args).map_err(|fault| fault.or_without_key(without_key))?;
    Ok(Action::BitPos { bit, range })
}

fn pos_range(args: Args<'_>) -> Parsed<BitPosRange> {
    match args.len() {
        3 => Ok(BitPosRange::All),
        4 => Ok(BitPosRange::From {
            start: integer(args.at(3))?,
        }),
        5 | 6 => {
            let start = integer(args.at(3))?;
            let unit = unit(args.get(5))?;
            Ok(BitPosRange::Closed(Range {
                start,
                end: integer(args.at(4))?,
                unit,
            }))
        }
        _ => Err(SYNTAX),
    }
}

fn bit_field(args: Args<'_>, read_only: bool) -> Parsed<Action<'_>> {
    let mut ops = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut writes = false;
    let mut words = args.skip(2);
    while let Some(word) = words.get(0) {
        let operands = words.len() - 1;
        if is(word, "OVERFLOW") && operands >= 1 {
            overflow = overflow_named(words.at(1))?;
            words = words.skip(2);
            continue;
        }
        let taken = match () {
            () if is(word, "GET") && operands >= 2 => 3,
            () if (is(word, "SET") || is(word, "INCRBY")) && operands >= 3 => 4,
            () => return Err(SYNTAX),
        };
        let (signed, bits) = field_type(words.at(1))?;
        let offset = field_offset(words.at(2), bits)?;
        let verb = if taken == 3 {
            BitFieldVerb::Get
        } else {
            writes = true;
            let operand = integer(words.at(3))?;
            match is(word, "SET") {
                true => BitFieldVerb::Set {
                    value: operand,
                    overflow,
                },
                false => BitFieldVerb::IncrBy {
                    delta: operand,
                    overflow,
                },
            }
        };
        ops.push(BitFieldOp {
            bits,
            signed,
            offset,
            verb,
        });
        words = words.skip(taken);
    }
    match read_only && writes {
        true => Err(fault("ERR BITFIELD_RO only supports the GET subcommand")),
        false => Ok(Action::BitField { ops }),
    }
}

fn overflow_named(word: &[u8]) -> Parsed<Overflow> {
    match () {
        () if is(word, "WRAP") => Ok(Overflow::Wrap),
        () if is(word, "SAT") => Ok(Overflow::Saturate),
        () if is(word, "FAIL") => Ok(Overflow::Fail),
        () => Err(fault("ERR Invalid OVERFLOW type specified")),
    }
}

/// `i16`, `u8` …: whether signed, and the width in bits.
fn field_type(text: &[u8]) -> Parsed<(bool, u8)> {
    let invalid = fault(
        "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
    );
    let (signed, digits) = match text {
        [b'i', digits @ ..] => (true, digits),
        [b'u', digits @ ..] => (false, digits),
        _ => return Err(invalid),
    };
    match number::parse_i64(digits) {
        Some(bits @ 1..=63) => Ok((signed, bits as u8)),
        Some(64) if signed => Ok((true, 64)),
        _ => Err(invalid),
    }
}

/// A position in bits, or `#n`: the n-th field of this width.
fn field_offset(text: &[u8], bits: u8) -> Parsed<u64> {
    let Some(nth) = text.strip_prefix(b"#") else {
        return bit_offset(text);
    };
    number::parse_i64(nth)
        .and_then(|nth| u64::try_from(nth).ok()?.checked_mul(bits.into()))
        .filter(|offset| offset / 8 < config::VALUE_BYTES_MAX as u64)
        .ok_or(BIT_OFFSET)
}

fn expire<'a>(row: &Row, args: Args<'a>, unit_ms: i64, base_ms: u64) -> Parsed<Action<'a>> {
    let condition = expire_condition(args.skip(3))?;
    let at_ms = integer(args.at(2))?
        .checked_mul(unit_ms)
        .and_then(|ms| ms.checked_add_unsigned(base_ms))
        .ok_or_else(|| invalid_expire(row.name))?;
    Ok(Action::Expire { at_ms, condition })
}

fn expire_condition(words: Args<'_>) -> Parsed<Option<ExpireCondition>> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for word in words.iter() {
        match () {
            () if is(word, "NX") => nx = true,
            () if is(word, "XX") => xx = true,
            () if is(word, "GT") => gt = true,
            () if is(word, "LT") => lt = true,
            () => {
                return Err([b"ERR Unsupported option ", as_c_string(word)]
                    .concat()
                    .into());
            }
        }
    }
    if nx && (xx || gt || lt) {
        return Err(fault(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    Ok(match (nx, xx, gt, lt) {
        (_, _, true, true) => {
            return Err(fault(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        (true, ..) => Some(ExpireCondition::Absent),
        (_, true, true, _) => Some(ExpireCondition::PresentAndLater),
        (_, true, _, true) => Some(ExpireCondition::PresentAndEarlier),
        (_, true, ..) => Some(ExpireCondition::Present),
        (_, _, true, _) => Some(ExpireCondition::Later),
        (.., true) => Some(ExpireCondition::Earlier),
        _ => None,
    })
}

fn memory_usage(args: Args<'_>) -> Parsed<Action<'_>> {
    match (args.get(3), args.get(4), args.len()) {
        (None, ..) => Ok(Action::MemoryUsage),
        (Some(word), Some(samples), 5) if is(word, "SAMPLES") => match integer(samples)? {
            ..0 => Err(SYNTAX),
            _ => Ok(Action::MemoryUsage),
        },
        _ => Err(SYNTAX),
    }
}

fn many_set(verb: Verb, args: Args<'_>) -> Parsed<Many<'_>> {
    let only_if_none_exists = verb == Verb::Msetnx;
    if args.len().is_multiple_of(2) {
        let name = if only_if_none_exists {
            "msetnx"
        } else {
            "mset"
        };
        let text = format!("ERR wrong number of arguments for '{name}' command");
        return Err(text.into_bytes().into());
    }
    Ok(Many::Set {
        pairs: args.skip(1),
        only_if_none_exists,
    })
}

fn copy(args: Args<'_>) -> Parsed<Many<'_>> {
    let mut replace = false;
    let mut options = args.skip(3).iter();
    while let Some(word) = options.next() {
        if is(word, "REPLACE") {
            replace = true;
        } else if is(word, "DB") {
            match integer(options.next().ok_or(SYNTAX)?)? {
                0 => {}
                _ => return Err(fault("ERR DB index is out of range")),
            }
        } else {
            return Err(SYNTAX);
        }
    }
    let (from, to) = (args.at(1), args.at(2));
    match from == to {
        true => Err(fault("ERR source and destination objects are the same")),
        false => Ok(Many::Copy { from, to, replace }),
    }
}

fn bit_op(args: Args<'_>) -> Parsed<Many<'_>> {
    let word = args.at(1);
    let operator = match () {
        () if is(word, "AND") => BitOperator::And,
        () if is(word, "OR") => BitOperator::Or,
        () if is(word, "XOR") => BitOperator::Xor,
        () if is(word, "NOT") => BitOperator::Not,
        () => return Err(SYNTAX),
    };
    let sources = args.skip(3);
    match operator == BitOperator::Not && sources.len() != 1 {
        true => Err(fault(
            "ERR BITOP NOT must be called with a single source key.",
        )),
        false => Ok(Many::BitOp {
            operator,
            destination: args.at(2),
            sources,
        }),
    }
}

fn lcs(args: Args<'_>) -> Parsed<Many<'_>> {
    let (mut len, mut idx, mut len_min, mut with_len) = (false, false, 0, false);
    let mut options = args.skip(3).iter();
    while let Some(word) = options.next() {
        match () {
            () if is(word, "LEN") => len = true,
            () if is(word, "IDX") => idx = true,
            () if is(word, "WITHMATCHLEN") => with_len = true,
            () if is(word, "MINMATCHLEN") => {
                len_min = u64::try_from(integer(options.next().ok_or(SYNTAX)?)?).unwrap_or(0);
            }
            () => return Err(SYNTAX),
        }
    }
    let answer = match (len, idx) {
        (true, true) => {
            return Err(fault(
                "ERR If you want both the length and indexes, please just use IDX.",
            ));
        }
        (true, false) => LcsAnswer::Length,
        (false, true) => LcsAnswer::Ranges { len_min, with_len },
        (false, false) => LcsAnswer::Text,
    };
    Ok(Many::Lcs {
        keys: [args.at(1), args.at(2)],
        answer,
    })
}

fn scan(args: Args<'_>) -> Parsed<Many<'_>> {
    let cursor = number::parse_u64(args.at(1)).ok_or(fault("ERR invalid cursor"))?;
    let (mut matching, mut count, mut only_strings) = (None, 10, true);
    let mut options = args.skip(2).iter();
    while let (Some(word), Some(value)) = (options.next(), options.next()) {
        match () {
            () if is(word, "COUNT") => {
                count = usize::try_from(integer(value)?)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or(SYNTAX)?;
            }
            () if is(word, "MATCH") => {
                matching = Some(pattern(value)?).filter(|&pattern| pattern != b"*");
            }
            () if is(word, "TYPE") => only_strings = is(value, "string"),
            () => return Err(SYNTAX),
        }
    }
    match args.len().is_multiple_of(2) {
        true => Ok(Many::Scan {
            cursor,
            pattern: matching,
            count,
            only_strings,
        }),
        false => Err(SYNTAX),
    }
}

fn flush(args: Args<'_>) -> Parsed<Many<'_>> {
    match args.get(1) {
        None => Ok(Many::Flush),
        Some(word) if args.len() == 2 && (is(word, "SYNC") || is(word, "ASYNC")) => Ok(Many::Flush),
        Some(_) => Err(SYNTAX),
    }
}
