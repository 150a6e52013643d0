//! One operation's visit to one key.
//!
//! The key is hashed and found once, when the visit begins; an expired entry is removed on the way in, so
//! that operations only know keys that are there and keys that are not. The visit keeps the books: which
//! events happened, whether anything changed, when the key was last used.
//!
//! Invariant: `offset` is good; whatever may move entries sets it anew or ends the visit (takes `self`).

use super::Entry;
use super::dict::{Dict, Place};
use super::scan::is_expired;
use super::table::{Item, Table};
use crate::command::op::{Effect, Encoding, Event};

/// See the module.
pub(super) struct Visit<'d, 'k> {
    dict: &'d mut Dict,
    key: &'k [u8],
    place: Place,
    offset: Option<u32>,
    pub(super) at_ms: u64,
    pub(super) effect: Effect,
}

impl<'d, 'k> Visit<'d, 'k> {
    #[inline]
    pub(super) fn new(dict: &'d mut Dict, key: &'k [u8], at_ms: u64) -> Self {
        let place = dict.place(key);
        let offset = dict.find(place, key);
        let mut visit = Visit {
            dict,
            key,
            place,
            offset,
            at_ms,
            effect: Effect::default(),
        };
        if visit
            .entry()
            .is_some_and(|entry| is_expired(entry.expire_at_ms, at_ms))
        {
            visit.take_out(Event::Expired);
        }
        visit
    }

    pub(super) fn exists(&self) -> bool {
        self.offset.is_some()
    }

    /// What is stored.
    #[inline]
    pub(super) fn entry(&self) -> Option<Entry<'_>> {
        let offset = self.offset?;
        Some(self.table().entry(offset))
    }

    fn table(&self) -> &Table {
        self.dict.table(self.place.table)
    }

    /// The second, modulo 2^24, as access times count it.
    fn second(&self) -> u32 {
        (self.at_ms / 1000) as u32 & 0xFF_FFFF
    }

    /// Counts as an access to the key.
    #[inline]
    pub(super) fn touch(&mut self) {
        let second = self.second();
        if let Some(offset) = self.offset {
            self.dict.table_mut(self.place.table).touch(offset, second);
        }
    }

    /// Seconds since the last access, and the time of that access.
    pub(super) fn idle(&self) -> Option<(u32, u32)> {
        let access = self.table().access(self.offset?);
        Some((self.second().wrapping_sub(access) & 0xFF_FFFF, access))
    }

    /// Bytes that the key takes.
    pub(super) fn bytes(&self) -> Option<usize> {
        Some(self.table().entry_bytes(self.offset?))
    }

    /// Stores a value, adding the key when it is not there.
    #[inline]
    pub(super) fn put(
        mut self,
        value: &[u8],
        expire_at_ms: Option<u64>,
        encoding: Encoding,
    ) -> Effect {
        let access = self.second();
        self.store(&Item {
            key: self.key,
            value,
            expire_at_ms,
            encoding,
            access,
        });
        self.effect.modified = true;
        self.effect
    }

    #[inline]
    fn store(&mut self, item: &Item<'_>) {
        let seed = self.dict.seed();
        match self.offset {
            Some(offset) => {
                let hash = self.place.hash;
                self.dict
                    .change(self.place, |table| table.replace(hash, offset, item));
            }
            None => {
                self.effect.add(Event::New);
                self.place = self.dict.make_room(self.place);
                let hash = self.place.hash;
                self.dict
                    .change(self.place, |table| table.insert(hash, item, seed));
            }
        }
    }

    /// Changes the bytes of the value in place, zero-padded to at least `len`, adding the key when it is
    /// not there; whether that lengthened it is told, too. The encoding becomes raw.
    pub(super) fn edit<R>(&mut self, len: usize, change: impl FnOnce(&mut [u8], bool) -> R) -> R {
        let access = self.second();
        if self.offset.is_none() {
            self.store(&Item {
                key: self.key,
                value: &[],
                expire_at_ms: None,
                encoding: Encoding::Raw,
                access,
            });
            self.place = self.dict.place_of_hash(self.place.hash);
            self.offset = self.dict.find(self.place, self.key);
        }
        let offset = self.offset.expect("the key is there or was just added");
        let (hash, table) = (self.place.hash, self.dict.table(self.place.table));
        let grows = table.value(offset).len() < len;
        self.effect.modified |= grows;
        let result = self.dict.change(self.place, |table| {
            table.touch(offset, access);
            change(table.edit(hash, offset, len), grows)
        });
        self.offset = None;
        result
    }

    /// Sets or removes the expiry of the key, which must be there.
    pub(super) fn set_expiry(mut self, expire_at_ms: Option<u64>) -> Effect {
        let offset = self.offset.expect("only a key that is there has an expiry");
        let hash = self.place.hash;
        self.dict.change(self.place, |table| {
            table.set_expiry(hash, offset, expire_at_ms);
        });
        self.effect.modified = true;
        self.effect
    }

    /// Removes the key, if it is there.
    pub(super) fn remove(mut self, event: Event) -> Effect {
        self.take_out(event);
        self.effect
    }

    fn take_out(&mut self, event: Event) {
        if let Some(offset) = self.offset.take() {
            let hash = self.place.hash;
            self.dict
                .change(self.place, |table| table.remove(hash, offset));
            self.effect.add(event);
            self.effect.modified = true;
        }
    }
}
