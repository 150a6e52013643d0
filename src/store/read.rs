//! The operations that only read. What they answer for a key that is not there is Redis's choice for each.

use super::Entry;
use super::bits;
use super::visit::Visit;
use super::write::is_small_shared_integer;
use crate::command::op::{Action, Effect, Encoding, Event, TtlForm, Unit};
use crate::config::VALUE_BYTES_MAX;
use crate::wire::number;
use crate::wire::reply::Reply;

/// The longest string that Redis embeds into its object.
const EMBSTR_BYTES_MAX: usize = 44;
/// The longest text that Redis tries to read as an integer.
const INTEGER_BYTES_MAX: usize = 20;

/// Does one of the reading actions.
pub(super) fn apply(
    mut visit: Visit<'_, '_>,
    action: &Action<'_>,
    reply: &mut Reply<'_>,
) -> Effect {
    match action {
        Action::Encoding | Action::IdleTime | Action::RefCount => object(&visit, action, reply),
        Action::MemoryUsage => match visit.bytes() {
            Some(bytes) => reply.count(bytes),
            None => reply.nil(),
        },
        Action::DebugObject => debug_object(&visit, reply),
        Action::Exists | Action::Type | Action::Ttl { .. } => {
            note_miss(&mut visit);
            about_key(&visit, action, reply);
        }
        _ => {
            visit.touch();
            note_miss(&mut visit);
            about_value(&visit, action, reply);
        }
    }
    visit.effect
}

fn note_miss(visit: &mut Visit<'_, '_>) {
    if !visit.exists() {
        visit.effect.add(Event::KeyMiss);
    }
}

/// Reads that leave the access time alone.
fn about_key(visit: &Visit<'_, '_>, action: &Action<'_>, reply: &mut Reply<'_>) {
    match *action {
        Action::Exists => reply.int(i64::from(visit.exists())),
        Action::Type => reply.simple(if visit.exists() { "string" } else { "none" }),
        Action::Ttl { form } => reply.int(ttl(visit.entry(), form, visit.at_ms)),
        _ => unreachable!("apply sends no other here"),
    }
}

fn ttl(entry: Option<Entry<'_>>, form: TtlForm, at_ms: u64) -> i64 {
    let Some(entry) = entry else { return -2 };
    let Some(expire_at_ms) = entry.expire_at_ms else {
        return -1;
    };
    let left_ms = expire_at_ms.saturating_sub(at_ms);
    // Redis rounds to the nearest second, halves up.
    let seconds = |ms: u64| ms.saturating_add(500) / 1000;
    let answer = match form {
        TtlForm::Seconds => seconds(left_ms),
        TtlForm::Milliseconds => left_ms,
        TtlForm::UnixSeconds => seconds(expire_at_ms),
        TtlForm::UnixMilliseconds => expire_at_ms,
    };
    i64::try_from(answer).unwrap_or(i64::MAX)
}

/// Reads of the value.
#[inline]
fn about_value(visit: &Visit<'_, '_>, action: &Action<'_>, reply: &mut Reply<'_>) {
    let entry = visit.entry();
    let value = entry.map_or(&[][..], |entry| entry.value);
    match *action {
        Action::Get => reply.bulk_or_nil(entry.map(|entry| entry.value)),
        Action::Touch => reply.int(i64::from(entry.is_some())),
        Action::Strlen => reply.count(value.len()),
        Action::GetRange { start, end } => {
            let bytes = bits::range(value.len() as u64, start, end, Unit::Byte);
            reply.bulk(bytes.map_or(&[], |(first, last)| &value[first as usize..=last as usize]));
        }
        Action::GetBit { offset } => reply.int(i64::from(bits::bit(value, offset))),
        Action::BitCount { range } => reply.count(bits::count_range(value, range)),
        Action::BitPos { bit, .. } if entry.is_none() => reply.int(if bit { -1 } else { 0 }),
        Action::BitPos { bit, range } => reply.int(bits::position(value, bit, range)),
        _ => unreachable!("apply sends no other here"),
    }
}

/// OBJECT's answers.
fn object(visit: &Visit<'_, '_>, action: &Action<'_>, reply: &mut Reply<'_>) {
    let (Some(entry), Some((idle, _))) = (visit.entry(), visit.idle()) else {
        return reply.nil();
    };
    match action {
        Action::Encoding => reply.bulk(encoding_name(entry).as_bytes()),
        Action::IdleTime => reply.int(i64::from(idle)),
        Action::RefCount => reply.int(references(entry)),
        _ => unreachable!("apply sends no other here"),
    }
}

fn encoding_name(entry: Entry<'_>) -> &'static str {
    let len = entry.value.len();
    let is_integer = || len <= INTEGER_BYTES_MAX && number::parse_i64(entry.value).is_some();
    match entry.encoding {
        Encoding::Raw => "raw",
        Encoding::Plain if is_integer() => "int",
        _ if len <= EMBSTR_BYTES_MAX => "embstr",
        _ => "raw",
    }
}

fn references(entry: Entry<'_>) -> i64 {
    let is_shared = entry.encoding == Encoding::Plain && is_small_shared_integer(entry.value);
    if is_shared { i64::from(i32::MAX) } else { 1 }
}

fn debug_object(visit: &Visit<'_, '_>, reply: &mut Reply<'_>) {
    let (Some(entry), Some((idle, access))) = (visit.entry(), visit.idle()) else {
        return reply.error("ERR no such key");
    };
    let (references, encoding) = (references(entry), encoding_name(entry));
    let saved = saved_len(entry.value);
    reply.simple(&format!(
        "Value at:0x0 refcount:{references} encoding:{encoding} serializedlength:{saved} lru:{access} lru_seconds_idle:{idle}"
    ));
}

/// Bytes that the value would take in Redis's dump, were it not compressed.
fn saved_len(value: &[u8]) -> usize {
    let small = (value.len() <= 11)
        .then(|| number::parse_i64(value))
        .flatten();
    match small {
        Some(-0x80..=0x7f) => 2,
        Some(-0x8000..=0x7fff) => 3,
        Some(-0x8000_0000..=0x7fff_ffff) => 5,
        _ => match value.len() {
            len @ 0..64 => len + 1,
            len @ 64..16_384 => len + 2,
            len => {
                debug_assert!(len <= VALUE_BYTES_MAX);
                len + 5
            }
        },
    }
}
