//! One operation's visit to one key.
//!
//! The key is hashed and found once, when the visit begins; an expired entry is removed on the way in, or
//! overlooked where it may not be, so that operations only know keys that are there and keys that are
//! not. The visit keeps the books: which events happened, whether anything changed, when the key was
//! last used.
//!
//! Invariant: `at` is good; whatever may move entries sets it anew or ends the visit (takes `self`).

use super::Entry;
use super::dict::{Dict, Place};
use super::entry::{self, Head};
use super::scan::is_expired;
use super::table::{self, INDEX_BYTES_PER_KEY, Item};
use crate::command::op::{Effect, Encoding, Event};

/// See the module.
pub(super) struct Visit<'d, 'k> {
    dict: &'d mut Dict,
    key: &'k [u8],
    place: Place,
    at: Option<u32>,
    pub(super) at_ms: u64,
    pub(super) effect: Effect,
    /// Whether reading counts as use of the key.
    touching: bool,
}

impl<'d, 'k> Visit<'d, 'k> {
    /// `removing`: whether an expired entry is removed. An operation that writes must say so, for it may
    /// store the key anew.
    #[inline]
    pub(super) fn new(
        dict: &'d mut Dict,
        key: &'k [u8],
        hash: u64,
        at_ms: u64,
        touching: bool,
        removing: bool,
    ) -> Self {
        let place = dict.place_of_hash(hash);
        let at = dict.find(place, key);
        let mut visit = Visit {
            dict,
            key,
            place,
            at,
            at_ms,
            effect: Effect::default(),
            touching,
        };
        if visit
            .entry()
            .is_some_and(|entry| is_expired(entry.expire_at_ms, at_ms))
        {
            match removing {
                true => visit.take_out(Event::Expired),
                false => visit.at = None,
            }
        }
        visit
    }

    pub(super) fn exists(&self) -> bool {
        self.at.is_some()
    }

    /// What is stored.
    #[inline]
    pub(super) fn entry(&self) -> Option<Entry<'_>> {
        let at = self.at?;
        Some(self.dict.entry(at))
    }

    fn second(&self) -> u32 {
        access_second(self.at_ms)
    }

    /// Counts as an access to the key.
    #[inline]
    pub(super) fn touch(&mut self) {
        let second = self.second();
        if let Some(at) = self.at.filter(|_| self.touching) {
            entry::write_access(self.dict.bytes_mut(at), second);
        }
    }

    /// Seconds since the last access, and the time of that access.
    pub(super) fn idle(&self) -> Option<(u32, u32)> {
        let bytes = self.dict.heap().get(self.at?);
        let access = Head::read(bytes).access(bytes);
        Some((self.second().wrapping_sub(access) & 0xFF_FFFF, access))
    }

    /// Bytes that the key takes.
    pub(super) fn bytes(&self) -> Option<usize> {
        let at = self.at?;
        let bytes = self.dict.heap().get(at);
        let outside = match Head::read(bytes).outside() {
            None => 0,
            Some(place) => self.dict.heap().outside(place).capacity() + size_of::<Vec<u8>>(),
        };
        Some(self.dict.heap().slot_bytes(at) + outside + INDEX_BYTES_PER_KEY)
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
        match self.at {
            Some(at) => {
                self.dict.preserve(self.place.table, Some(at));
                if table::replace_in_place(self.dict.bytes_mut(at), item) {
                    return;
                }
                let hash = self.place.hash;
                self.dict.change(self.place, |table, heap| {
                    table.replace(hash, at, item, heap);
                });
            }
            None => {
                self.effect.add(Event::New);
                self.place = self.dict.insert(self.place, item);
            }
        }
    }

    /// Changes the bytes of the value in place, zero-padded to at least `len`, adding the key when it is
    /// not there; whether that lengthened it is told, too. The encoding becomes raw.
    pub(super) fn edit<R>(&mut self, len: usize, change: impl FnOnce(&mut [u8], bool) -> R) -> R {
        let access = self.second();
        if self.at.is_none() {
            self.store(&Item {
                key: self.key,
                value: &[],
                expire_at_ms: None,
                encoding: Encoding::Raw,
                access,
            });
            self.at = self.dict.find(self.place, self.key);
        }
        let at = self.at.expect("the key is there or was just added");
        self.dict.preserve(self.place.table, Some(at));
        let hash = self.place.hash;
        let grows = self.dict.entry(at).value.len() < len;
        self.effect.modified |= grows;
        let result = self.dict.change(self.place, |table, heap| {
            entry::write_access(heap.get_mut(at), access);
            change(table.edit(hash, at, len, heap), grows)
        });
        self.at = None;
        result
    }

    /// Sets or removes the expiry of the key, which must be there.
    pub(super) fn set_expiry(mut self, expire_at_ms: Option<u64>) -> Effect {
        let at = self.at.expect("only a key that is there has an expiry");
        self.dict.preserve(self.place.table, Some(at));
        let hash = self.place.hash;
        self.dict.change(self.place, |table, heap| {
            table.set_expiry(hash, at, expire_at_ms, heap);
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
        if let Some(at) = self.at.take() {
            self.dict.preserve(self.place.table, Some(at));
            let hash = self.place.hash;
            self.dict
                .change(self.place, |table, heap| table.remove(hash, at, heap));
            self.effect.add(event);
            self.effect.modified = true;
        }
    }
}

/// The second, modulo 2^24, as access times count it.
#[inline]
pub(super) fn access_second(at_ms: u64) -> u32 {
    (at_ms / 1000) as u32 & 0xFF_FFFF
}
