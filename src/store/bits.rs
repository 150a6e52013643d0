//! Bits of a byte string, as Redis counts them: bit 0 is the highest of byte 0.

use crate::command::op::{BitPosRange, Range, Unit};

/// The bit at `offset`; beyond the end they are all 0.
pub(super) fn bit(bytes: &[u8], offset: u64) -> bool {
    let byte = usize::try_from(offset / 8)
        .ok()
        .and_then(|at| bytes.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (offset % 8)) != 0)
}

/// The first and the last position that `start..=end` names in `bytes` bytes, negative ones counted from
/// the end; none when it is empty.
pub(super) fn range(bytes: u64, start: i64, end: i64, unit: Unit) -> Option<(u64, u64)> {
    // Redis treats -1 -5 as empty even where clamping to the first position would not.
    if start < 0 && end < 0 && start > end {
        return None;
    }
    clamped(bytes, start, end, unit)
}

/// Number of set bits in a range, or in everything.
pub(super) fn count_range(bytes: &[u8], range: Option<Range>) -> usize {
    let Some(Range { start, end, unit }) = range else {
        return count(bytes);
    };
    let Some((first, last)) = self::range(bytes.len() as u64, start, end, unit) else {
        return 0;
    };
    let window = Window::new(bytes, first, last, unit);
    let outside = (window.head & !window.first_mask).count_ones()
        + (window.tail & !window.last_mask).count_ones();
    count(window.bytes) - outside as usize
}

/// Number of set bits.
fn count(bytes: &[u8]) -> usize {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let whole: u64 = chunks
        .iter()
        .map(|&chunk| u64::from(u64::from_ne_bytes(chunk).count_ones()))
        .sum();
    whole as usize
        + rest
            .iter()
            .map(|byte| byte.count_ones() as usize)
            .sum::<usize>()
}

/// The bytes that a range touches and the bits of the outer two that belong to it.
struct Window<'a> {
    bytes: &'a [u8],
    /// Position of the first byte.
    offset: u64,
    head: u8,
    tail: u8,
    first_mask: u8,
    last_mask: u8,
}

impl<'a> Window<'a> {
    fn new(bytes: &'a [u8], first: u64, last: u64, unit: Unit) -> Self {
        let (first, last, first_mask, last_mask) = match unit {
            Unit::Byte => (first, last, 0xFF, 0xFF),
            Unit::Bit => (
                first / 8,
                last / 8,
                0xFFu8 >> (first % 8),
                0xFFu8 << (7 - last % 8),
            ),
        };
        Window {
            bytes: &bytes[first as usize..=last as usize],
            offset: first,
            head: bytes[first as usize],
            tail: bytes[last as usize],
            first_mask,
            last_mask,
        }
    }
}

/// BITPOS on a key that is there: the position of the first `bit` in the range, or -1. When the end is
/// open the string counts as followed by zeros for ever.
pub(super) fn position(bytes: &[u8], bit: bool, range: BitPosRange) -> i64 {
    let (start, end, unit, is_open) = match range {
        BitPosRange::All => (0, -1, Unit::Byte, true),
        BitPosRange::From { start } => (start, -1, Unit::Byte, true),
        BitPosRange::Closed(Range { start, end, unit }) => (start, end, unit, false),
    };
    let Some((first, last)) = clamped(bytes.len() as u64, start, end, unit) else {
        return -1;
    };
    let window = Window::new(bytes, first, last, unit);
    match first_bit(&window, bit) {
        Some(position) => (window.offset * 8 + position) as i64,
        None if !bit && is_open => ((window.offset + window.bytes.len() as u64) * 8) as i64,
        None => -1,
    }
}

/// As [`range`], without BITCOUNT's exception for `-1 -5`, which BITPOS does not make.
fn clamped(bytes: u64, start: i64, end: i64, unit: Unit) -> Option<(u64, u64)> {
    let len = match unit {
        Unit::Byte => bytes,
        Unit::Bit => bytes * 8,
    };
    let from_start = |position: i64| match u64::try_from(position) {
        Ok(position) => position,
        Err(_) => len.saturating_sub(position.unsigned_abs()),
    };
    let (first, last) = (from_start(start), from_start(end).min(len.checked_sub(1)?));
    (first <= last).then_some((first, last))
}

/// The first `bit` of a window, counted from its first byte.
fn first_bit(window: &Window<'_>, bit: bool) -> Option<u64> {
    let boring = if bit { 0x00 } else { 0xFF };
    let at_byte = |at: usize| {
        // Bits outside the range become boring ones; what is sought becomes 1.
        let first_mask = if at == 0 { window.first_mask } else { 0xFF };
        let last_mask = if at + 1 == window.bytes.len() {
            window.last_mask
        } else {
            0xFF
        };
        let sought = (window.bytes[at] ^ boring) & first_mask & last_mask;
        (sought != 0).then(|| at as u64 * 8 + u64::from(sought.leading_zeros()))
    };
    let inner = window.bytes.get(1..)?;
    at_byte(0).or_else(|| {
        let (chunks, rest) = inner.as_chunks::<8>();
        let skipped = chunks
            .iter()
            .take_while(|chunk| **chunk == [boring; 8])
            .count()
            * 8;
        let last = inner.len() - rest.len();
        let end = if skipped < last {
            skipped + 8
        } else {
            inner.len()
        };
        let in_chunk = (skipped..end).find_map(|at| at_byte(at + 1));
        // The chunk that differed may do so only by masked bits of the last byte.
        in_chunk.or_else(|| (end..inner.len()).find_map(|at| at_byte(at + 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_bits(bytes: &[u8]) -> Vec<bool> {
        (0..bytes.len() as u64 * 8)
            .map(|at| bit(bytes, at))
            .collect()
    }

    #[test]
    fn ranges_are_cut_as_redis_cuts_them() {
        for (len, start, end, want) in [
            (3, 0, -1, Some((0, 2))),
            (3, -100, 100, Some((0, 2))),
            (3, 2, 1, None),
            (3, 5, 9, None),
            (3, -5, -9, None),
            (3, -9, -5, Some((0, 0))),
            (0, 0, -1, None),
            (3, i64::MIN, i64::MAX, Some((0, 2))),
        ] {
            assert_eq!(
                range(len, start, end, Unit::Byte),
                want,
                "{len} {start} {end}"
            );
        }
        assert_eq!(range(2, -3, -1, Unit::Bit), Some((13, 15)));
    }

    #[test]
    fn counting_and_seeking_agree_with_looking_at_each_bit() {
        let mut random = fastrand::Rng::with_seed(4);
        for round in 0..4000 {
            let fill = [0, 0xFF, random.u8(..)][round % 3];
            let mut bytes = vec![fill; random.usize(1..40)];
            for _ in 0..random.usize(..3) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let all = slow_bits(&bytes);
            let (a, b) = (random.usize(..all.len()), random.usize(..all.len()));
            let (first, last) = (a.min(b), a.max(b));
            let range = Range {
                start: first as i64,
                end: last as i64,
                unit: Unit::Bit,
            };
            let set = all[first..=last].iter().filter(|&&bit| bit).count();
            assert_eq!(count_range(&bytes, Some(range)), set);
            for sought in [false, true] {
                let want = (first..=last).find(|&at| all[at] == sought);
                let got = position(&bytes, sought, BitPosRange::Closed(range));
                assert_eq!(got, want.map_or(-1, |at| at as i64), "{bytes:?} {range:?}");
            }
            assert_eq!(
                count_range(&bytes, None),
                all.iter().filter(|&&bit| bit).count()
            );
        }
    }

    #[test]
    fn an_open_end_is_followed_by_zeros() {
        assert_eq!(position(b"\xff\xff", false, BitPosRange::All), 16);
        assert_eq!(
            position(b"\xff\xff", false, BitPosRange::From { start: 1 }),
            16
        );
        let closed = Range {
            start: 0,
            end: -1,
            unit: Unit::Byte,
        };
        assert_eq!(
            position(b"\xff\xff", false, BitPosRange::Closed(closed)),
            -1
        );
        assert_eq!(position(b"", false, BitPosRange::All), -1);
        assert_eq!(position(b"\0\0", true, BitPosRange::All), -1);
    }
}
