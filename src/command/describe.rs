//! A change as a line that a person could have typed: what shows the log.
//!
//! Arguments are quoted as [`quote`](crate::wire::quote) has it, so that the line can be typed again; times are
//! absolute. Done again it has the same effect on the data, but for what no command can say: the encoding that
//! a value brings along from RENAME, COPY or BITOP. What a command answers is told only where an option says it.

use super::encode::Change;
use super::op::{
    Action, BitFieldOp, BitFieldVerb, ExpireCondition, GetExExpiry, Op, Overflow, Set, SetAnswer,
    SetCondition, SetExpiry,
};
use crate::wire::quote;

/// The line of `change`, without a newline.
///
/// # Panics
/// The operation only reads.
pub fn describe(change: &Change<'_>) -> String {
    let mut line = Line(Vec::new());
    match change {
        Change::Flush => line.word("FLUSHALL"),
        Change::One(op) => one(op, &mut line),
    }
    String::from_utf8(line.0).expect("quoting leaves nothing that is not text")
}

/// Words with blanks between them.
struct Line(Vec<u8>);

impl Line {
    fn word(&mut self, word: &str) {
        self.separate();
        self.0.extend_from_slice(word.as_bytes());
    }

    fn number(&mut self, number: impl itoa::Integer) {
        self.word(itoa::Buffer::new().format(number));
    }

    fn argument(&mut self, argument: &[u8]) {
        self.separate();
        quote::quoted(argument, &mut self.0);
    }

    fn separate(&mut self) {
        if !self.0.is_empty() {
            self.0.push(b' ');
        }
    }

    /// A command's name and its key.
    fn begin(&mut self, name: &str, key: &[u8]) {
        self.word(name);
        self.argument(key);
    }

    fn time(&mut self, option: &str, at_ms: u64) {
        self.word(option);
        self.number(at_ms);
    }
}

fn one(op: &Op<'_>, line: &mut Line) {
    let key = op.key;
    match &op.action {
        Action::Set(set) => self::set(key, set, line),
        Action::GetDel => line.begin("GETDEL", key),
        Action::GetEx { expiry } => {
            line.begin("GETEX", key);
            match *expiry {
                GetExExpiry::Keep => {}
                GetExExpiry::Clear => line.word("PERSIST"),
                GetExExpiry::At(at_ms) => line.time("PXAT", at_ms),
            }
        }
        Action::Append { value } => {
            line.begin("APPEND", key);
            line.argument(value);
        }
        Action::SetRange { offset, value } => {
            line.begin("SETRANGE", key);
            line.number(*offset);
            line.argument(value);
        }
        Action::IncrBy { delta } => {
            line.begin("INCRBY", key);
            line.number(*delta);
        }
        Action::IncrByFloat { delta } => {
            line.begin("INCRBYFLOAT", key);
            line.argument(delta);
        }
        Action::SetBit { offset, bit } => {
            line.begin("SETBIT", key);
            line.number(*offset);
            line.number(u8::from(*bit));
        }
        Action::BitField { ops } => {
            line.begin("BITFIELD", key);
            bit_field(ops, line);
        }
        Action::Del | Action::Remove { .. } => line.begin("DEL", key),
        Action::Expire { at_ms, condition } => {
            line.begin("PEXPIREAT", key);
            line.number(*at_ms);
            condition.iter().for_each(|&it| line.word(words(it)));
        }
        Action::Persist => line.begin("PERSIST", key),
        Action::Cas { expected, new } => {
            line.begin("CAS", key);
            line.argument(expected);
            line.argument(new);
        }
        Action::Put {
            value,
            expire_at_ms,
            ..
        } => {
            line.begin("SET", key);
            line.argument(value);
            expire_at_ms.iter().for_each(|&at| line.time("PXAT", at));
        }
        reading => panic!("{reading:?} changes nothing"),
    }
}

fn set(key: &[u8], set: &Set<'_>, line: &mut Line) {
    let is_setnx = set.answer == SetAnswer::Integer
        && set.expiry == SetExpiry::Clear
        && set.condition == Some(SetCondition::Absent);
    line.begin(if is_setnx { "SETNX" } else { "SET" }, key);
    line.argument(set.value);
    match set.condition {
        Some(SetCondition::Absent) if !is_setnx => line.word("NX"),
        Some(SetCondition::Present) => line.word("XX"),
        _ => {}
    }
    if set.answer == SetAnswer::OldValue {
        line.word("GET");
    }
    match set.expiry {
        SetExpiry::Clear => {}
        SetExpiry::Keep => line.word("KEEPTTL"),
        SetExpiry::At(at_ms) => line.time("PXAT", at_ms),
    }
}

fn words(condition: ExpireCondition) -> &'static str {
    match condition {
        ExpireCondition::Absent => "NX",
        ExpireCondition::Present => "XX",
        ExpireCondition::Later => "GT",
        ExpireCondition::Earlier => "LT",
        ExpireCondition::PresentAndLater => "XX GT",
        ExpireCondition::PresentAndEarlier => "XX LT",
    }
}

/// OVERFLOW holds for all that follows, so it is said where it changes.
fn bit_field(ops: &[BitFieldOp], line: &mut Line) {
    let mut said = Overflow::Wrap;
    for op in ops {
        let (verb, operand) = match op.verb {
            BitFieldVerb::Get => ("GET", None),
            BitFieldVerb::Set { value, overflow } => ("SET", Some((value, overflow))),
            BitFieldVerb::IncrBy { delta, overflow } => ("INCRBY", Some((delta, overflow))),
        };
        if let Some((_, overflow)) = operand.filter(|&(_, overflow)| overflow != said) {
            line.word("OVERFLOW");
            line.word(match overflow {
                Overflow::Wrap => "WRAP",
                Overflow::Saturate => "SAT",
                Overflow::Fail => "FAIL",
            });
            said = overflow;
        }
        line.word(verb);
        line.word(&format!("{}{}", if op.signed { 'i' } else { 'u' }, op.bits));
        line.number(op.offset);
        operand
            .iter()
            .for_each(|&(operand, _)| line.number(operand));
    }
}
