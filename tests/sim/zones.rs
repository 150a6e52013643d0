//! Whether a register can have been so, by zones: a second opinion, as short as the first is long ("Testing Shared
//! Memories", Gibbons and Korach, SIAM J. Comput. 26(4), 1997).
//!
//! Every value is written once. All that was said of a value, its write and its reads, has a zone: from the first end
//! among them to the last beginning. If the end comes first, the register held the value all that time; if not, there
//! is one moment at which it may have held it, somewhere in the zone. So it can have been if no read was over before
//! its write began, no two zones of the first kind overlap, and none of the second kind lies within one of the first.
//!
//! It knows nothing of each client's order, nor of operations that change what they find: see
//! [`history`](super::history).

use std::collections::BTreeMap;

use super::history::{Call, Op, Told};

/// What was said of a value.
#[derive(Debug, Clone, Copy)]
struct Zone {
    value: i64,
    written_at: u64,
    first_end: u64,
    last_begin: u64,
}

impl Zone {
    /// From when until when the register held the value, if there was such a time.
    fn held(&self) -> Option<(u64, u64)> {
        (self.first_end < self.last_begin).then_some((self.first_end, self.last_begin))
    }
}

/// The zones of the values of a register that was only written and read, and began without one, which is value 0.
fn zones(ops: &[Op]) -> Result<Vec<Zone>, String> {
    let none = Zone {
        value: 0,
        written_at: 0,
        first_end: 0,
        last_begin: 0,
    };
    let mut zones = BTreeMap::from([(0, none)]);
    for op in ops {
        if let Call::Set(value) = op.call {
            let zone = Zone {
                value,
                written_at: op.called_at,
                first_end: op.told_at,
                last_begin: op.called_at,
            };
            zones.insert(value, zone);
        }
    }
    for op in ops.iter().filter(|op| op.call == Call::Get) {
        let value = match op.told {
            Told::Number(value) => value,
            Told::Nil => 0,
            _ => continue,
        };
        let Some(zone) = zones.get_mut(&value) else {
            return Err(format!("nobody wrote what was read: {op:?}"));
        };
        if op.told_at < zone.written_at {
            return Err(format!("it was read before it was written: {op:?}"));
        }
        zone.first_end = zone.first_end.min(op.told_at);
        zone.last_begin = zone.last_begin.max(op.called_at);
    }
    Ok(zones.into_values().collect())
}

/// Whether these operations on a register can have been so.
///
/// # Errors
/// They cannot; what contradicts what.
pub fn judge(ops: &[Op]) -> Result<(), String> {
    let zones = zones(ops)?;
    let mut held: Vec<(u64, u64, Zone)> = zones
        .iter()
        .filter_map(|zone| zone.held().map(|(from, to)| (from, to, *zone)))
        .collect();
    held.sort_unstable_by_key(|(from, ..)| *from);
    if let Some(pair) = held.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        let [one, other] = [pair[0].2.value, pair[1].2.value];
        return Err(format!("both {one} and {other} were held: {pair:?}"));
    }
    for zone in zones.iter().filter(|zone| zone.held().is_none()) {
        // The last that begins before it; those before that one end earlier still.
        let before = held.partition_point(|(from, ..)| *from < zone.last_begin);
        let around = before.checked_sub(1).map(|at| held[at]);
        if let Some(around) = around.filter(|(_, to, _)| zone.first_end < *to) {
            let (value, held) = (zone.value, around.2.value);
            return Err(format!(
                "{value} came while {held} was held: {zone:?}, {around:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, told: Told, called_at: u64, told_at: u64) -> Op {
        Op {
            client: 0,
            call,
            told,
            called_at,
            told_at,
        }
    }

    fn set(value: i64, called_at: u64, told_at: u64) -> Op {
        op(Call::Set(value), Told::Ok, called_at, told_at)
    }

    fn get(value: i64, called_at: u64, told_at: u64) -> Op {
        let told = if value == 0 {
            Told::Nil
        } else {
            Told::Number(value)
        };
        op(Call::Get, told, called_at, told_at)
    }

    #[test]
    fn what_is_possible_passes() {
        let never = op(Call::Set(9), Told::Unknown, 3, u64::MAX);
        for ops in [
            vec![get(0, 1, 2), set(1, 3, 4), get(1, 5, 6)],
            vec![set(1, 1, 9), get(0, 2, 3), get(1, 4, 5)],
            vec![set(1, 1, 2), set(2, 3, 9), get(1, 4, 5), get(2, 6, 7)],
            vec![set(1, 1, 2), never, get(1, 4, 5), get(9, 7, 8)],
        ] {
            assert_eq!(judge(&ops), Ok(()), "{ops:?}");
        }
    }

    #[test]
    fn what_is_impossible_is_refused() {
        for ops in [
            // Stale, back to nothing, back again, from the future, from nobody.
            vec![set(1, 1, 2), set(2, 3, 4), get(1, 5, 6)],
            vec![set(1, 1, 2), get(0, 3, 4)],
            vec![set(1, 1, 2), set(2, 3, 9), get(2, 4, 5), get(1, 6, 7)],
            vec![get(1, 1, 2), set(1, 3, 4)],
            vec![get(5, 1, 2)],
        ] {
            assert!(judge(&ops).is_err(), "{ops:?}");
        }
    }
}
