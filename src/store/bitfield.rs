//! BITFIELD: integers of any width at any bit of a value.
//!
//! Arithmetic is done in 128 bits, in which nothing overflows, and then fitted into the width: wrapped,
//! saturated, or refused.

use super::bits;
use super::visit::Visit;
use super::write::TOO_LONG;
use crate::command::op::{BitFieldOp, BitFieldVerb, Effect, Event, Overflow};
use crate::config::VALUE_BYTES_MAX;
use crate::wire::reply::Reply;

/// Runs all operations; an array of their results.
pub(super) fn apply(mut visit: Visit<'_, '_>, ops: &[BitFieldOp], reply: &mut Reply<'_>) -> Effect {
    let writes = ops.iter().filter(|op| op.verb != BitFieldVerb::Get);
    let Some(end) = writes
        .map(|op| op.offset.saturating_add(u64::from(op.bits)))
        .max()
    else {
        visit.touch();
        if !visit.exists() {
            visit.effect.add(Event::KeyMiss);
        }
        let value = visit.entry().map_or(&[][..], |entry| entry.value);
        reply.array(ops.len());
        for op in ops {
            answer(reply, op, Some(read(value, op)));
        }
        return visit.effect;
    };
    let len = end.div_ceil(8);
    if len > VALUE_BYTES_MAX as u64 {
        reply.error(TOO_LONG);
        return visit.effect;
    }
    reply.array(ops.len());
    let changed = visit.edit(len as usize, |value, grew| {
        let mut changed = false;
        for op in ops {
            let (result, wrote) = run(value, op, grew);
            changed |= wrote;
            answer(reply, op, result);
        }
        changed
    });
    if changed {
        visit.effect.modified = true;
        visit.effect.add(Event::SetBit);
    }
    visit.effect
}

fn answer(reply: &mut Reply<'_>, op: &BitFieldOp, result: Option<i128>) {
    debug_assert!(op.bits <= 64);
    match result.and_then(|result| i64::try_from(result).ok()) {
        Some(result) => reply.int(result),
        None => reply.nil(),
    }
}

/// One operation: its result, and whether it counts as a change.
fn run(value: &mut [u8], op: &BitFieldOp, grew: bool) -> (Option<i128>, bool) {
    let old = read(value, op);
    let (sought, overflow) = match op.verb {
        BitFieldVerb::Get => return (Some(old), false),
        // Redis stores into an unsigned field what the 64 bits say when read without a sign.
        BitFieldVerb::Set { value, overflow } if !op.signed => (i128::from(value as u64), overflow),
        BitFieldVerb::Set { value, overflow } => (i128::from(value), overflow),
        BitFieldVerb::IncrBy { delta, overflow } => (old + i128::from(delta), overflow),
    };
    let Some(new) = fit(sought, op, overflow) else {
        return (None, false);
    };
    write(value, op, new);
    let result = if matches!(op.verb, BitFieldVerb::Set { .. }) {
        old
    } else {
        new
    };
    (Some(result), grew || old != new)
}

fn limits(op: &BitFieldOp) -> (i128, i128) {
    match op.signed {
        true => (-(1i128 << (op.bits - 1)), (1i128 << (op.bits - 1)) - 1),
        false => (0, (1i128 << op.bits) - 1),
    }
}

fn fit(value: i128, op: &BitFieldOp, overflow: Overflow) -> Option<i128> {
    let (least, most) = limits(op);
    if (least..=most).contains(&value) {
        return Some(value);
    }
    match overflow {
        Overflow::Fail => None,
        Overflow::Saturate if is_beyond_redis(value, op, most) => Some(most),
        Overflow::Saturate => Some(value.clamp(least, most)),
        Overflow::Wrap => Some((value - least).rem_euclid(1 << op.bits) + least),
    }
}

/// Redis asks whether a value is too large by subtracting it from the limit in 64 bits. For the lowest
/// values that overflows, and SET saturates them to the upper limit; so do we.
fn is_beyond_redis(value: i128, op: &BitFieldOp, most: i128) -> bool {
    op.signed
        && op.bits < 64
        && matches!(op.verb, BitFieldVerb::Set { .. })
        && most - value > i128::from(i64::MAX)
}

/// The field; bits beyond the end are 0.
fn read(value: &[u8], op: &BitFieldOp) -> i128 {
    let first = op.offset / 8;
    let window = (0..9).fold(0u128, |window, step| {
        let byte = first
            .checked_add(step)
            .and_then(|at| value.get(at as usize));
        window << 8 | u128::from(byte.copied().unwrap_or(0))
    });
    let shift = 72 - op.offset % 8 - u64::from(op.bits);
    let field = (window >> shift & ((1 << op.bits) - 1)) as i128;
    let (_, most) = limits(op);
    if field > most {
        field - (1 << op.bits)
    } else {
        field
    }
}

fn write(value: &mut [u8], op: &BitFieldOp, field: i128) {
    for index in 0..u64::from(op.bits) {
        let bit = field >> (u64::from(op.bits) - 1 - index) & 1 != 0;
        let at = op.offset + index;
        let mask = 0x80u8 >> (at % 8);
        let byte = &mut value[(at / 8) as usize];
        *byte = *byte & !mask | if bit { mask } else { 0 };
        debug_assert_eq!(bits::bit(value, at), bit);
    }
}
