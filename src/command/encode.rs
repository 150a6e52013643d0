//! Changes as bytes, for the log: what was done to a shard, to be done again by replicas and after a start.
//!
//! ```text
//! change = tag, key as a string, fields          fields by tag:
//!   01 SET           options, value as a string, time if the options say so
//!   02 GETDEL        -
//!   03 GETEX         expiry code, time if it is 2
//!   04 APPEND        value as a string
//!   05 SETRANGE      offset as a number, value as a string
//!   06 INCRBY        delta, fixed
//!   07 INCRBYFLOAT   delta as a string, as it was typed
//!   08 SETBIT        offset as a number, bit (0 or 1)
//!   09 BITFIELD      how many as a number, then for each: form, bits, offset as a number, operand if any, fixed
//!   0a DEL           -
//!   0b EXPIRE        time, condition code (0: none)
//!   0c PERSIST       -
//!   0d CAS           expected as a string, new as a string
//!   0e put           event code, encoding code, value as a string, has an expiry (0 or 1), time if it has one
//!   0f remove        event code
//!   10 FLUSH         - ; the one change that has no key
//!
//! options of SET     bits 0..=1 expiry code, bits 2..=3 condition code (0: none), bits 4..=5 answer code
//! form in BITFIELD   bits 0..=1 verb (0 GET, 1 SET, 2 INCRBY), bits 2..=3 overflow code, bit 4 signed
//! expiry codes       0 SET clears, GETEX keeps; 1 SET keeps, GETEX clears; 2 at a time
//!
//! SET k v            01 01 6b 00 01 76
//!                    |  |  k  |  |  v
//!                    |  |     |  length of the value
//!                    |  |     options: no expiry, no condition, answers OK
//!                    |  length of the key
//!                    tag
//! ```
//!
//! Fields are those of [`binary`](super::binary); times are unix milliseconds, fixed, as are two's complement
//! integers. The other codes stand below, a table for each enum. What an operation answers is in it: the replica
//! that a client talks to answers from what it decoded.
//!
//! Tags and codes keep their meaning for ever: a log outlives the program that wrote it. New ones are added at
//! the ends. A tag is never 0, so that zeros are not taken for a change.
//!
//! Invariants: one change has one encoding; what decodes satisfies what [`op`](super::op) demands.
//!
//! Not here: the time at which a change is applied, and its index; they belong to the log.

use super::binary::{Coded, Malformed, Reader, put_fixed, put_number, put_string};
use super::op::{
    Action, BitFieldOp, BitFieldVerb, Encoding, Event, ExpireCondition, GetExExpiry, Op, Overflow,
    Set, SetAnswer, SetCondition, SetExpiry,
};
use crate::config::KEY_BYTES_MAX;

const SET: u8 = 0x01;
const GET_DEL: u8 = 0x02;
const GET_EX: u8 = 0x03;
const APPEND: u8 = 0x04;
const SET_RANGE: u8 = 0x05;
const INCR_BY: u8 = 0x06;
const INCR_BY_FLOAT: u8 = 0x07;
const SET_BIT: u8 = 0x08;
const BIT_FIELD: u8 = 0x09;
const DEL: u8 = 0x0a;
const EXPIRE: u8 = 0x0b;
const PERSIST: u8 = 0x0c;
const CAS: u8 = 0x0d;
const PUT: u8 = 0x0e;
const REMOVE: u8 = 0x0f;
const FLUSH: u8 = 0x10;

/// Expiry code that is followed by a time.
const AT: u8 = 2;
/// Fewest bytes of an operation of BITFIELD: form, bits, offset.
const FIELD_BYTES_MIN: usize = 3;
const SIGNED: u8 = 0b1_0000;

/// What may happen to a shard.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<'a> {
    /// An operation that writes.
    One(Op<'a>),
    /// Everything is deleted.
    Flush,
}

macro_rules! codes {
    ($type:ty, $field:literal: $($code:literal = $variant:path,)+) => {
        impl Coded for $type {
            #[inline]
            fn code(self) -> u8 {
                match self {
                    $($variant => $code,)+
                }
            }

            #[inline]
            fn of(code: u8) -> Result<Self, Malformed> {
                match code {
                    $($code => Ok($variant),)+
                    _ => Err(Malformed::Code { field: $field, code }),
                }
            }
        }
    };
}

codes! { SetAnswer, "the answer of SET":
    0 = SetAnswer::Ok,
    1 = SetAnswer::Integer,
    2 = SetAnswer::OldValue,
    3 = SetAnswer::Silent,
}

codes! { SetCondition, "the condition of SET":
    1 = SetCondition::Absent,
    2 = SetCondition::Present,
}

codes! { ExpireCondition, "the condition of EXPIRE":
    1 = ExpireCondition::Absent,
    2 = ExpireCondition::Present,
    3 = ExpireCondition::Later,
    4 = ExpireCondition::Earlier,
    5 = ExpireCondition::PresentAndLater,
    6 = ExpireCondition::PresentAndEarlier,
}

codes! { Overflow, "the overflow of BITFIELD":
    0 = Overflow::Wrap,
    1 = Overflow::Saturate,
    2 = Overflow::Fail,
}

codes! { Encoding, "an encoding":
    0 = Encoding::Plain,
    1 = Encoding::Text,
    2 = Encoding::Raw,
}

codes! { Event, "an event":
    0 = Event::Expired,
    1 = Event::New,
    2 = Event::Set,
    3 = Event::IncrBy,
    4 = Event::IncrByFloat,
    5 = Event::Append,
    6 = Event::SetRange,
    7 = Event::SetBit,
    8 = Event::Expire,
    9 = Event::Persist,
    10 = Event::Del,
    11 = Event::RenameFrom,
    12 = Event::RenameTo,
    13 = Event::CopyTo,
    14 = Event::KeyMiss,
}

impl Coded for bool {
    fn code(self) -> u8 {
        u8::from(self)
    }

    fn of(code: u8) -> Result<bool, Malformed> {
        match code {
            0 => Ok(false),
            1 => Ok(true),
            code => Err(Malformed::Code {
                field: "yes or no",
                code,
            }),
        }
    }
}

/// A condition that may be missing: code 0, which is that of no condition.
fn optional_code<T: Coded>(value: Option<T>) -> u8 {
    value.map_or(0, T::code)
}

fn optional_of<T: Coded>(code: u8) -> Result<Option<T>, Malformed> {
    match code {
        0 => Ok(None),
        code => T::of(code).map(Some),
    }
}

/// Appends the bytes of `change`.
///
/// # Panics
/// The operation only reads: such are no changes.
pub fn encode(change: &Change<'_>, out: &mut Vec<u8>) {
    match change {
        Change::One(op) => encode_op(op, out),
        Change::Flush => out.push(FLUSH),
    }
}

/// Appends the bytes of the change that is `op`; as [`encode`].
///
/// # Panics
/// As [`encode`].
#[inline]
pub fn encode_op(op: &Op<'_>, out: &mut Vec<u8>) {
    assert!(op.key.len() <= KEY_BYTES_MAX, "the parser limits keys");
    out.push(tag(&op.action));
    put_string(op.key, out);
    match &op.action {
        Action::Set(set) => put_set(set, out),
        other => put_fields(other, out),
    }
}

fn tag(action: &Action<'_>) -> u8 {
    match action {
        Action::Set(_) => SET,
        Action::GetDel => GET_DEL,
        Action::GetEx { .. } => GET_EX,
        Action::Append { .. } => APPEND,
        Action::SetRange { .. } => SET_RANGE,
        Action::IncrBy { .. } => INCR_BY,
        Action::IncrByFloat { .. } => INCR_BY_FLOAT,
        Action::SetBit { .. } => SET_BIT,
        Action::BitField { .. } => BIT_FIELD,
        Action::Del => DEL,
        Action::Expire { .. } => EXPIRE,
        Action::Persist => PERSIST,
        Action::Cas { .. } => CAS,
        Action::Put { .. } => PUT,
        Action::Remove { .. } => REMOVE,
        reading => panic!("{reading:?} changes nothing"),
    }
}

#[inline]
fn put_set(set: &Set<'_>, out: &mut Vec<u8>) {
    let (expiry, at_ms) = match set.expiry {
        SetExpiry::Clear => (0, None),
        SetExpiry::Keep => (1, None),
        SetExpiry::At(at_ms) => (AT, Some(at_ms)),
    };
    out.push(expiry | optional_code(set.condition) << 2 | set.answer.code() << 4);
    put_string(set.value, out);
    if let Some(at_ms) = at_ms {
        put_fixed(at_ms, out);
    }
}

fn put_fields(action: &Action<'_>, out: &mut Vec<u8>) {
    match action {
        Action::GetEx { expiry } => put_get_ex(*expiry, out),
        Action::Append { value } => put_string(value, out),
        Action::SetRange { offset, value } => {
            put_number(*offset, out);
            put_string(value, out);
        }
        Action::IncrBy { delta } => put_fixed(delta.cast_unsigned(), out),
        Action::IncrByFloat { delta } => put_string(delta, out),
        Action::SetBit { offset, bit } => {
            put_number(*offset, out);
            out.push(bit.code());
        }
        Action::BitField { ops } => {
            put_number(ops.len() as u64, out);
            ops.iter().for_each(|op| put_field_op(op, out));
        }
        Action::Expire { at_ms, condition } => {
            put_fixed(at_ms.cast_unsigned(), out);
            out.push(optional_code(*condition));
        }
        Action::Cas { expected, new } => {
            put_string(expected, out);
            put_string(new, out);
        }
        Action::Put {
            value,
            expire_at_ms,
            encoding,
            event,
        } => {
            out.extend_from_slice(&[event.code(), encoding.code()]);
            put_string(value, out);
            out.push(expire_at_ms.is_some().code());
            expire_at_ms.iter().for_each(|&at_ms| put_fixed(at_ms, out));
        }
        Action::Remove { event } => out.push(event.code()),
        _ => {}
    }
}

fn put_get_ex(expiry: GetExExpiry, out: &mut Vec<u8>) {
    match expiry {
        GetExExpiry::Keep => out.push(0),
        GetExExpiry::Clear => out.push(1),
        GetExExpiry::At(at_ms) => {
            out.push(AT);
            put_fixed(at_ms, out);
        }
    }
}

fn put_field_op(op: &BitFieldOp, out: &mut Vec<u8>) {
    let (verb, operand) = match op.verb {
        BitFieldVerb::Get => (0, None),
        BitFieldVerb::Set { value, overflow } => (1 | overflow.code() << 2, Some(value)),
        BitFieldVerb::IncrBy { delta, overflow } => (2 | overflow.code() << 2, Some(delta)),
    };
    let signed = if op.signed { SIGNED } else { 0 };
    out.extend_from_slice(&[verb | signed, op.bits]);
    put_number(op.offset, out);
    if let Some(operand) = operand {
        put_fixed(operand.cast_unsigned(), out);
    }
}

/// Reads the change with which `bytes` begin, and says how many of them it took.
///
/// # Errors
/// They do not begin with a change; nothing is allocated for what is not there.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<(Change<'_>, usize), Malformed> {
    let mut reader = Reader::new(bytes);
    let tag = reader.byte()?;
    let change = match tag {
        SET..=REMOVE => {
            let key_len = reader.key_len()?;
            let key = reader.bytes(key_len)?;
            let action = match tag {
                SET => set_from(&mut reader)?,
                _ => action_from(tag, &mut reader)?,
            };
            Change::One(Op { key, action })
        }
        FLUSH => Change::Flush,
        unknown => return Err(Malformed::Tag(unknown)),
    };
    Ok((change, bytes.len() - reader.left()))
}

#[inline]
fn set_from<'a>(reader: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    let options = reader.byte()?;
    let unknown = Malformed::Code {
        field: "the options of SET",
        code: options,
    };
    if options >> 6 != 0 {
        return Err(unknown);
    }
    let value = reader.string()?;
    let expiry = match options & 0b11 {
        0 => SetExpiry::Clear,
        1 => SetExpiry::Keep,
        AT => SetExpiry::At(reader.time()?),
        _ => return Err(unknown),
    };
    Ok(Action::Set(Set {
        value,
        expiry,
        condition: optional_of(options >> 2 & 0b11)?,
        answer: SetAnswer::of(options >> 4)?,
    }))
}

fn action_from<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    Ok(match tag {
        GET_DEL => Action::GetDel,
        GET_EX => Action::GetEx {
            expiry: get_ex_from(reader)?,
        },
        APPEND => Action::Append {
            value: reader.string()?,
        },
        SET_RANGE => Action::SetRange {
            offset: reader.number()?,
            value: reader.string()?,
        },
        INCR_BY => Action::IncrBy {
            delta: reader.fixed()?.cast_signed(),
        },
        INCR_BY_FLOAT => Action::IncrByFloat {
            delta: reader.string()?,
        },
        SET_BIT => Action::SetBit {
            offset: reader.number()?,
            bit: reader.code()?,
        },
        BIT_FIELD => Action::BitField {
            ops: field_ops_from(reader)?,
        },
        DEL => Action::Del,
        EXPIRE => Action::Expire {
            at_ms: reader.fixed()?.cast_signed(),
            condition: optional_of(reader.byte()?)?,
        },
        PERSIST => Action::Persist,
        CAS => Action::Cas {
            expected: reader.string()?,
            new: reader.string()?,
        },
        PUT => put_from(reader)?,
        REMOVE => Action::Remove {
            event: reader.code()?,
        },
        unknown => return Err(Malformed::Tag(unknown)),
    })
}

fn get_ex_from(reader: &mut Reader<'_>) -> Result<GetExExpiry, Malformed> {
    match reader.byte()? {
        0 => Ok(GetExExpiry::Keep),
        1 => Ok(GetExExpiry::Clear),
        AT => reader.time().map(GetExExpiry::At),
        code => Err(Malformed::Code {
            field: "the expiry of GETEX",
            code,
        }),
    }
}

fn put_from<'a>(reader: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    let (event, encoding, value) = (reader.code()?, reader.code()?, reader.string()?);
    let has_expiry = reader.code::<bool>()?;
    Ok(Action::Put {
        value,
        expire_at_ms: has_expiry.then(|| reader.time()).transpose()?,
        encoding,
        event,
    })
}

fn field_ops_from(reader: &mut Reader<'_>) -> Result<Vec<BitFieldOp>, Malformed> {
    let count = reader.number()?;
    if count > (reader.left() / FIELD_BYTES_MIN) as u64 {
        return Err(Malformed::Ends);
    }
    (0..count).map(|_| field_op_from(reader)).collect()
}

fn field_op_from(reader: &mut Reader<'_>) -> Result<BitFieldOp, Malformed> {
    let form = reader.byte()?;
    let unknown = Malformed::Code {
        field: "the form in BITFIELD",
        code: form,
    };
    let (bits, signed) = (reader.byte()?, form & SIGNED != 0);
    let bits_max = if signed { 64 } else { 63 };
    if !(1..=bits_max).contains(&bits) {
        return Err(Malformed::Width(bits));
    }
    let offset = reader.number()?;
    let (verb, overflow) = (form & 0b11, form >> 2 & 0b11);
    let verb = match verb {
        _ if form >= SIGNED << 1 => return Err(unknown),
        0 if overflow == 0 => BitFieldVerb::Get,
        1 => BitFieldVerb::Set {
            value: reader.fixed()?.cast_signed(),
            overflow: Overflow::of(overflow)?,
        },
        2 => BitFieldVerb::IncrBy {
            delta: reader.fixed()?.cast_signed(),
            overflow: Overflow::of(overflow)?,
        },
        _ => return Err(unknown),
    };
    Ok(BitFieldOp {
        bits,
        signed,
        offset,
        verb,
    })
}
