//! The operations that write. Conditions are checked first, then the reply is written (it may be the old
//! value, straight from the arena), then the key is changed, which ends the visit.

use super::visit::Visit;
use super::{Entry, bitfield};
use crate::command::float;
use crate::command::op::{
    Action, Effect, Encoding, Event, ExpireCondition, GetExExpiry, Set, SetAnswer, SetCondition,
    SetExpiry,
};
use crate::config::VALUE_BYTES_MAX;
use crate::wire::number;
use crate::wire::reply::Reply;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const WOULD_OVERFLOW: &str = "ERR increment or decrement would overflow";
const NOT_A_FLOAT: &str = "ERR value is not a valid float";
const NOT_FINITE: &str = "ERR increment would produce NaN or Infinity";
pub(super) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// Redis shares one object for each integer below this.
const SHARED_INTEGERS: i64 = 10_000;

/// Does one of the writing actions.
pub(super) fn apply(visit: Visit<'_, '_>, action: &Action<'_>, reply: &mut Reply<'_>) -> Effect {
    match action {
        Action::Set(set) => self::set(visit, set, reply),
        Action::GetDel => get_del(visit, reply),
        Action::GetEx { expiry } => get_ex(visit, *expiry, reply),
        Action::Append { value } => append(visit, value, reply),
        Action::SetRange { offset, value } => set_range(visit, *offset, value, reply),
        Action::IncrBy { delta } => incr_by(visit, *delta, reply),
        Action::IncrByFloat { delta } => incr_by_float(visit, delta, reply),
        Action::SetBit { offset, bit } => set_bit(visit, *offset, *bit, reply),
        Action::BitField { ops } => bitfield::apply(visit, ops, reply),
        Action::Del => {
            reply.int(i64::from(visit.exists()));
            visit.remove(Event::Del)
        }
        Action::Expire { at_ms, condition } => expire(visit, *at_ms, *condition, reply),
        Action::Persist => persist(visit, reply),
        Action::Cas { expected, new } => cas(visit, expected, new, reply),
        Action::Put {
            value,
            expire_at_ms,
            encoding,
            event,
        } => put(visit, value, *expire_at_ms, *encoding, *event),
        Action::Remove { event } => visit.remove(*event),
        _ => unreachable!("the reading actions are done elsewhere"),
    }
}

/// Adds an event on the way out.
fn with(mut effect: Effect, event: Event) -> Effect {
    effect.add(event);
    effect
}

fn expiry_of(visit: &Visit<'_, '_>) -> Option<u64> {
    visit.entry().and_then(|entry| entry.expire_at_ms)
}

#[inline]
fn set(mut visit: Visit<'_, '_>, set: &Set<'_>, reply: &mut Reply<'_>) -> Effect {
    let is_held = match set.condition {
        None => true,
        Some(SetCondition::Absent) => !visit.exists(),
        Some(SetCondition::Present) => visit.exists(),
    };
    match set.answer {
        SetAnswer::Ok if is_held => reply.ok(),
        SetAnswer::Ok => reply.nil(),
        SetAnswer::Integer => reply.int(i64::from(is_held)),
        SetAnswer::OldValue => get(&mut visit, reply),
        SetAnswer::Silent => {}
    }
    if !is_held {
        return visit.effect;
    }
    let expire_at_ms = match set.expiry {
        SetExpiry::Clear => None,
        SetExpiry::Keep => expiry_of(&visit),
        // A time in the past is stored, too, as in Redis: the next who looks finds the key expired.
        SetExpiry::At(at_ms) => Some(at_ms),
    };
    let mut effect = visit.put(set.value, expire_at_ms, Encoding::Plain);
    effect.add(Event::Set);
    if matches!(set.expiry, SetExpiry::At(_)) {
        effect.add(Event::Expire);
    }
    effect
}

/// The reading half of GETDEL, GETEX, GETSET.
fn get(visit: &mut Visit<'_, '_>, reply: &mut Reply<'_>) {
    visit.touch();
    reply.bulk_or_nil(visit.entry().map(|entry| entry.value));
    if !visit.exists() {
        visit.effect.add(Event::KeyMiss);
    }
}

fn get_del(mut visit: Visit<'_, '_>, reply: &mut Reply<'_>) -> Effect {
    get(&mut visit, reply);
    visit.remove(Event::Del)
}

fn get_ex(mut visit: Visit<'_, '_>, expiry: GetExExpiry, reply: &mut Reply<'_>) -> Effect {
    get(&mut visit, reply);
    if !visit.exists() {
        return visit.effect;
    }
    match expiry {
        GetExExpiry::At(at_ms) if at_ms <= visit.at_ms => visit.remove(Event::Del),
        GetExExpiry::At(at_ms) => with(visit.set_expiry(Some(at_ms)), Event::Expire),
        GetExExpiry::Clear if expiry_of(&visit).is_some() => {
            with(visit.set_expiry(None), Event::Persist)
        }
        GetExExpiry::Clear | GetExExpiry::Keep => visit.effect,
    }
}

fn append(mut visit: Visit<'_, '_>, tail: &[u8], reply: &mut Reply<'_>) -> Effect {
    let Some(entry) = visit.entry() else {
        reply.count(tail.len());
        return with(visit.put(tail, None, Encoding::Plain), Event::Append);
    };
    let old_len = entry.value.len();
    let len = old_len + tail.len();
    if len > VALUE_BYTES_MAX {
        reply.error(TOO_LONG);
        return visit.effect;
    }
    visit.edit(len, |value, _| value[old_len..].copy_from_slice(tail));
    reply.count(len);
    visit.effect.modified = true;
    with(visit.effect, Event::Append)
}

fn set_range(mut visit: Visit<'_, '_>, offset: u64, part: &[u8], reply: &mut Reply<'_>) -> Effect {
    let old_len = visit.entry().map_or(0, |entry| entry.value.len());
    if part.is_empty() {
        reply.count(old_len);
        return visit.effect;
    }
    let end = offset.saturating_add(part.len() as u64);
    if end > VALUE_BYTES_MAX as u64 {
        reply.error(TOO_LONG);
        return visit.effect;
    }
    let (start, end) = (offset as usize, end as usize);
    visit.edit(end, |value, _| value[start..end].copy_from_slice(part));
    reply.count(old_len.max(end));
    visit.effect.modified = true;
    with(visit.effect, Event::SetRange)
}

fn set_bit(mut visit: Visit<'_, '_>, offset: u64, bit: bool, reply: &mut Reply<'_>) -> Effect {
    if offset / 8 >= VALUE_BYTES_MAX as u64 {
        reply.error(TOO_LONG);
        return visit.effect;
    }
    let (byte, mask) = ((offset / 8) as usize, 0x80u8 >> (offset % 8));
    let (old, changed) = visit.edit(byte + 1, |value, grew| {
        let old = value[byte] & mask != 0;
        value[byte] = value[byte] & !mask | if bit { mask } else { 0 };
        (old, grew || old != bit)
    });
    reply.int(i64::from(old));
    if changed {
        visit.effect.modified = true;
        visit.effect.add(Event::SetBit);
    }
    visit.effect
}

fn incr_by(visit: Visit<'_, '_>, delta: i64, reply: &mut Reply<'_>) -> Effect {
    let old = match visit.entry() {
        None => 0,
        Some(entry) => match number::parse_i64(entry.value) {
            Some(old) => old,
            None => {
                reply.error(NOT_AN_INTEGER);
                return visit.effect;
            }
        },
    };
    let Some(new) = old.checked_add(delta) else {
        reply.error(WOULD_OVERFLOW);
        return visit.effect;
    };
    reply.int(new);
    let expire_at_ms = expiry_of(&visit);
    let mut digits = itoa::Buffer::new();
    let effect = visit.put(digits.format(new).as_bytes(), expire_at_ms, Encoding::Plain);
    with(effect, Event::IncrBy)
}

fn incr_by_float(visit: Visit<'_, '_>, delta: &[u8], reply: &mut Reply<'_>) -> Effect {
    let old = visit.entry().map_or(&b"0"[..], |entry| entry.value);
    let (Some(old), Some(delta)) = (float::parse(old), float::parse(delta)) else {
        reply.error(NOT_A_FLOAT);
        return visit.effect;
    };
    let Some(new) = float::sum(old, delta) else {
        reply.error(NOT_FINITE);
        return visit.effect;
    };
    let text = float::format(new);
    reply.bulk(text.as_bytes());
    let expire_at_ms = expiry_of(&visit);
    with(
        visit.put(text.as_bytes(), expire_at_ms, Encoding::Text),
        Event::IncrByFloat,
    )
}

fn expire(
    visit: Visit<'_, '_>,
    at_ms: i64,
    condition: Option<ExpireCondition>,
    reply: &mut Reply<'_>,
) -> Effect {
    let Some(entry) = visit.entry() else {
        reply.int(0);
        return visit.effect;
    };
    if !condition.is_none_or(|condition| is_met(condition, at_ms, entry)) {
        reply.int(0);
        return visit.effect;
    }
    reply.int(1);
    match u64::try_from(at_ms) {
        Ok(at_ms) if at_ms > visit.at_ms => with(visit.set_expiry(Some(at_ms)), Event::Expire),
        _ => visit.remove(Event::Del),
    }
}

fn is_met(condition: ExpireCondition, at_ms: i64, entry: Entry<'_>) -> bool {
    let now = entry.expire_at_ms;
    let is_later = now.is_some_and(|now| i128::from(at_ms) > i128::from(now));
    let is_earlier = now.is_none_or(|now| i128::from(at_ms) < i128::from(now));
    match condition {
        ExpireCondition::Absent => now.is_none(),
        ExpireCondition::Present => now.is_some(),
        ExpireCondition::Later | ExpireCondition::PresentAndLater => is_later,
        ExpireCondition::Earlier => is_earlier,
        ExpireCondition::PresentAndEarlier => now.is_some() && is_earlier,
    }
}

fn persist(visit: Visit<'_, '_>, reply: &mut Reply<'_>) -> Effect {
    let had_expiry = expiry_of(&visit).is_some();
    reply.int(i64::from(had_expiry));
    if !had_expiry {
        return visit.effect;
    }
    with(visit.set_expiry(None), Event::Persist)
}

fn cas(visit: Visit<'_, '_>, expected: &[u8], new: &[u8], reply: &mut Reply<'_>) -> Effect {
    let Some(entry) = visit.entry() else {
        reply.nil();
        return visit.effect;
    };
    let (is_equal, expire_at_ms) = (entry.value == expected, entry.expire_at_ms);
    reply.int(i64::from(is_equal));
    if !is_equal {
        return visit.effect;
    }
    with(visit.put(new, expire_at_ms, Encoding::Plain), Event::Set)
}

fn put(
    visit: Visit<'_, '_>,
    value: &[u8],
    expire_at_ms: Option<u64>,
    encoding: Encoding,
    event: Event,
) -> Effect {
    let mut effect = visit.put(value, expire_at_ms, encoding);
    // RENAME and COPY delete what was there before they add, so that Redis calls the key new.
    if matches!(event, Event::RenameTo | Event::CopyTo) {
        effect.add(Event::New);
    }
    with(effect, event)
}

/// Whether Redis would keep this value as one of its shared integers.
pub(super) fn is_small_shared_integer(value: &[u8]) -> bool {
    number::parse_i64(value).is_some_and(|value| (0..SHARED_INTEGERS).contains(&value))
}
