//! Walks over a dictionary that go on while it changes: SCAN, random keys, the expiry sweep.
//!
//! A cursor is a position in the space of hashes: the first [`CURSOR_BITS`] bits. Keys come in the order
//! of their hashes, and a key's hash never changes, so that a key which is there throughout is returned
//! exactly once, whatever splits, compactions or other keys come and go between two calls. No state is
//! kept for a scan.

use super::dict::{Dict, Place};
use super::table::{Table, hash_of};

/// Bits of a scan cursor; `0..2^38`.
pub(super) const CURSOR_BITS: u32 = 38;
/// Tables that one scan call looks at, be they empty.
const SCAN_TABLES_MAX: usize = 1024;
/// Tables that a sweep looks at for each table that it may sweep.
const SWEEP_LOOKS: usize = 64;
/// Tables full of expired keys that a random choice goes past before it gives up.
const RANDOM_TABLES_MAX: usize = 64;

impl Dict {
    /// See [`Store::scan`](super::Store::scan).
    pub(super) fn scan(
        &self,
        cursor: u64,
        count: usize,
        at_ms: u64,
        found: &mut dyn FnMut(&[u8]),
    ) -> u64 {
        let mut cursor = cursor & ((1 << CURSOR_BITS) - 1);
        let mut left = count.max(1);
        for _ in 0..SCAN_TABLES_MAX {
            let table = self.table_of(cursor << (64 - CURSOR_BITS));
            let span = CURSOR_BITS - u32::from(table.depth());
            let begin = cursor >> span << span;
            let end = begin + (1 << span);
            if cursor == begin && table.len() <= left {
                self.emit(table.addresses(), at_ms, found);
                left -= table.len();
                cursor = end;
            } else {
                cursor = self.scan_part(table, cursor, end, &mut left, at_ms, found);
            }
            if cursor >> CURSOR_BITS != 0 {
                return 0;
            }
            if left == 0 {
                break;
            }
        }
        cursor
    }

    /// Emits the `left` next keys of a table in the order of their hashes, and says where to go on.
    fn scan_part(
        &self,
        table: &Table,
        cursor: u64,
        end: u64,
        left: &mut usize,
        at_ms: u64,
        found: &mut dyn FnMut(&[u8]),
    ) -> u64 {
        let position = |at| hash_of(at, self.heap(), self.seed()) >> (64 - CURSOR_BITS);
        let mut ahead: Vec<(u64, u32)> = table
            .addresses()
            .map(|at| (position(at), at))
            .filter(|&(position, _)| position >= cursor)
            .collect();
        ahead.sort_unstable();
        let mut take = ahead.len().min(*left);
        // Keys at one position belong together: the next call begins after it.
        while take > 0 && take < ahead.len() && ahead[take].0 == ahead[take - 1].0 {
            take += 1;
        }
        self.emit(ahead[..take].iter().map(|&(_, at)| at), at_ms, found);
        *left = left.saturating_sub(take);
        if take == ahead.len() {
            end
        } else {
            ahead[take - 1].0 + 1
        }
    }

    fn emit(&self, addresses: impl Iterator<Item = u32>, at_ms: u64, found: &mut dyn FnMut(&[u8])) {
        for at in addresses {
            if !is_expired(self.expiry(at), at_ms) {
                found(self.key(at));
            }
        }
    }

    /// See [`Store::random_key`](super::Store::random_key).
    pub(super) fn random_key(&self, random: u64, at_ms: u64) -> Option<&[u8]> {
        let first = self.place_of_hash(random).table;
        let tables = self.tables();
        let numbers = (0..tables).map(|step| (first + step) % tables);
        numbers
            .map(|number| self.table(number))
            .filter(|table| table.len() > 0)
            .take(RANDOM_TABLES_MAX)
            .find_map(|table| {
                // The low bits choose the entry: the high ones chose the table.
                let skip = (random & 0xFFFF_FFFF) as usize % table.len();
                let alive = |at: &u32| !is_expired(self.expiry(*at), at_ms);
                let mut turned = table
                    .addresses()
                    .skip(skip)
                    .chain(table.addresses().take(skip));
                turned.find(alive).map(|at| self.key(at))
            })
    }

    /// Sweeps up to `tables_max` tables that may hold expired keys, beginning with number `next`; the
    /// number of removed keys and where to go on.
    pub(super) fn sweep(
        &mut self,
        next: u32,
        at_ms: u64,
        tables_max: usize,
        removed: &mut dyn FnMut(&[u8]),
    ) -> (usize, u32) {
        let (mut swept, mut gone, mut next) = (0, 0, next);
        let looks = tables_max
            .saturating_mul(SWEEP_LOOKS)
            .min(self.tables() as usize);
        for _ in 0..looks {
            if swept == tables_max {
                break;
            }
            if next >= self.tables() {
                next = 0;
            }
            if self.table(next).earliest_ms() < at_ms {
                let place = Place {
                    hash: 0,
                    table: next,
                };
                self.preserve_expired(next, at_ms);
                let seed = self.seed();
                gone += self.change(place, |table, heap| table.sweep(at_ms, heap, seed, removed));
                swept += 1;
            }
            next += 1;
        }
        (gone, next)
    }

    /// Lets an image under way have what a sweep is about to remove.
    fn preserve_expired(&mut self, table: u32, at_ms: u64) {
        if !self.is_imaging() {
            return;
        }
        let expired = |&at: &u32| is_expired(self.expiry(at), at_ms);
        let going: Vec<u32> = self.table(table).addresses().filter(expired).collect();
        for at in going {
            self.preserve(table, Some(at));
        }
    }
}

/// Redis's rule: a key lives through the millisecond of its expiry.
#[inline]
pub(super) fn is_expired(expire_at_ms: Option<u64>, at_ms: u64) -> bool {
    expire_at_ms.is_some_and(|expire_at_ms| at_ms > expire_at_ms)
}
