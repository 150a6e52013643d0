//! Where a key lives: key -> slot -> shard.
//!
//! A *slot* is one of 16,384 hash buckets, computed as Redis Cluster computes it (CRC16/XMODEM of the
//! key, or of its `{tag}`), so that smart clients and `CLUSTER KEYSLOT` agree with us. A *shard* is a
//! contiguous run of slots. Placement of shards on nodes is not here: this module knows numbers only.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

use std::ops::RangeInclusive;

use crc::{CRC_16_XMODEM, Crc, Table};

/// Number of hash buckets. Part of the contract with clients; never changes.
pub const SLOTS: u16 = 16_384;

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// The part of `key` that is hashed: between the first `{` and the next `}` when that is not empty,
/// else all of it. Keys that share a tag share a slot.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let inner = &key[open + 1..];
    match memchr::memchr(b'}', inner) {
        Some(close) if close > 0 => &inner[..close],
        _ => key,
    }
}

/// The slot of `key`, `0..SLOTS`.
pub fn slot(key: &[u8]) -> u16 {
    CRC16.checksum(hash_tag(key)) % SLOTS
}

/// The shard of `slot` when the slots are cut into `shards` runs of equal length (+-1).
pub fn shard_of_slot(slot: u16, shards: u16) -> u16 {
    debug_assert!(slot < SLOTS && shards > 0 && shards <= SLOTS);
    (u32::from(slot) * u32::from(shards) / u32::from(SLOTS)) as u16
}

/// The slots of `shard` when the slots are cut into `shards` runs: those that [`shard_of_slot`] gives to it.
pub fn slots_of_shard(shard: u16, shards: u16) -> RangeInclusive<u16> {
    debug_assert!(shard < shards && shards <= SLOTS);
    let first = |shard: u32| (shard * u32::from(SLOTS)).div_ceil(u32::from(shards)) as u16;
    let shard = u32::from(shard);
    first(shard)..=first(shard + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot(b"123456789"), 0x31C3 % SLOTS);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b""), 0);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(
            slot(b"foo{}{bar}"),
            CRC16.checksum(b"foo{}{bar}") % SLOTS,
            "an empty tag is no tag"
        );
        assert_eq!(
            slot(b"foo{{bar}}zap"),
            slot(b"{bar"),
            "the tag begins after the first brace"
        );
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"), "the first tag counts");
    }

    #[test]
    fn shards_are_contiguous_and_even() {
        for shards in [1, 3, 16, 1000, SLOTS] {
            let mut sizes = vec![0u32; usize::from(shards)];
            let mut last = 0;
            for slot in 0..SLOTS {
                let shard = shard_of_slot(slot, shards);
                assert!(shard == last || shard == last + 1, "runs are contiguous");
                last = shard;
                sizes[usize::from(shard)] += 1;
            }
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1, "{shards} shards: {least}..{most}");
        }
    }

    #[test]
    fn a_shard_has_the_slots_that_say_they_are_its() {
        for shards in [1, 2, 3, 7, 16, 1000, SLOTS - 1, SLOTS] {
            let mut next = 0;
            for shard in 0..shards {
                let slots = slots_of_shard(shard, shards);
                assert_eq!(*slots.start(), next, "shard {shard} of {shards}");
                next = slots.end() + 1;
                for slot in slots {
                    assert_eq!(shard_of_slot(slot, shards), shard);
                }
            }
            assert_eq!(next, SLOTS);
        }
    }
}
