//! One entry as bytes in a table's arena.
//!
//! ```text
//! +-------+-------------+---------+--------------+-----------+-----+---------+
//! | flags | access time | key len | value len    | expiry    | key | value   |
//! | u8    | u24 seconds | varint  | varint       | u64, may  |     | unless  |
//! |       |             |         | or slot      | be absent |     | outside |
//! +-------+-------------+---------+--------------+-----------+-----+---------+
//! flags: bits 0..=1 encoding (0 plain, 1 text, 2 raw), bit 2 expiry field present, bit 3 value outside
//! ```
//!
//! Integers are little-endian, varints LEB128. A key and a value under 128 bytes cost six bytes of header.
//! The expiry field stays when an expiry is removed ([`NEVER`] is written into it), so that a key whose
//! time is set again and again is rewritten in place. A value longer than [`INLINE_BYTES_MAX`] lives
//! outside the arena; the entry then holds its slot in the table's slab instead of a length.
//!
//! The access time is unix seconds modulo 2^24 (194 days), as in Redis.
//!
//! Not here: checksums and versions. These bytes never leave the process.

use crate::command::op::Encoding;

/// Values up to this long lie in the arena behind their key; longer ones have an allocation of their own,
/// so that compacting and splitting never copy them and appending to them is amortised.
pub(super) const INLINE_BYTES_MAX: usize = 512;
/// The expiry field of an entry that has the field but no expiry.
pub(super) const NEVER: u64 = u64::MAX;

const ENCODING: u8 = 0b11;
const EXPIRY: u8 = 0b100;
const OUTSIDE: u8 = 0b1000;
const EXPIRY_BYTES: usize = 8;
/// Where the first varint stands.
const KEY_LEN_AT: usize = 4;

/// An entry's header, decoded; positions are in the arena.
#[derive(Clone, Copy)]
pub(super) struct Head {
    flags: u8,
    /// Where the entry begins.
    at: usize,
    /// Where the key begins.
    key_at: usize,
    key_len: usize,
    /// Length of the inline value, or the slot of the outside one.
    value: usize,
}

/// What a new header says.
#[derive(Clone, Copy)]
pub(super) struct Label {
    pub(super) encoding: Encoding,
    /// Whether there is an expiry field, and what it holds ([`NEVER`] for none).
    pub(super) expiry: Option<u64>,
    /// Unix seconds modulo 2^24.
    pub(super) access: u32,
}

impl Head {
    /// Decodes the entry at `offset`.
    #[inline]
    pub(super) fn read(arena: &[u8], offset: u32) -> Head {
        let at = offset as usize;
        let bytes = &arena[at..];
        let flags = bytes[0];
        let (key_len, next) = varint(bytes, KEY_LEN_AT);
        let (value, next) = varint(bytes, next);
        let expiry_bytes = if flags & EXPIRY == 0 { 0 } else { EXPIRY_BYTES };
        Head {
            flags,
            at,
            key_at: at + next + expiry_bytes,
            key_len,
            value,
        }
    }

    #[inline]
    pub(super) fn key<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.key_at..][..self.key_len]
    }

    /// Slot of a value that lives outside.
    #[inline]
    pub(super) fn slot(&self) -> Option<usize> {
        (self.flags & OUTSIDE != 0).then_some(self.value)
    }

    /// The inline value; empty when it lives outside.
    #[inline]
    pub(super) fn inline<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.value_at()..self.end()]
    }

    #[inline]
    pub(super) fn value_at(&self) -> usize {
        self.key_at + self.key_len
    }

    /// Where the entry ends.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.value_at()
            + if self.flags & OUTSIDE == 0 {
                self.value
            } else {
                0
            }
    }

    /// Bytes the entry takes.
    pub(super) fn len(&self) -> usize {
        self.end() - self.at
    }

    pub(super) fn start(&self) -> usize {
        self.at
    }

    pub(super) fn key_at(&self) -> usize {
        self.key_at
    }

    pub(super) fn key_len(&self) -> usize {
        self.key_len
    }

    pub(super) fn has_expiry_field(&self) -> bool {
        self.flags & EXPIRY != 0
    }

    /// When the entry expires, if ever.
    #[inline]
    pub(super) fn expiry(&self, arena: &[u8]) -> Option<u64> {
        self.expiry_field(arena).filter(|&at_ms| at_ms != NEVER)
    }

    #[inline]
    pub(super) fn expiry_field(&self, arena: &[u8]) -> Option<u64> {
        if self.flags & EXPIRY == 0 {
            return None;
        }
        let field = &arena[self.key_at - EXPIRY_BYTES..self.key_at];
        Some(
            field
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        )
    }

    /// Writes the expiry field, which must be there.
    pub(super) fn write_expiry(&self, arena: &mut [u8], at_ms: u64) {
        assert!(self.has_expiry_field());
        arena[self.key_at - EXPIRY_BYTES..self.key_at].copy_from_slice(&at_ms.to_le_bytes());
    }

    pub(super) fn encoding(&self) -> Encoding {
        match self.flags & ENCODING {
            0 => Encoding::Plain,
            1 => Encoding::Text,
            _ => Encoding::Raw,
        }
    }

    pub(super) fn write_encoding(&self, arena: &mut [u8], encoding: Encoding) {
        arena[self.at] = self.flags & !ENCODING | encoding_bits(encoding);
    }

    /// Rewrites the length of the inline value; only to one whose varint is as long as the present one.
    pub(super) fn write_inline_len(&self, arena: &mut [u8], len: usize) {
        assert!(self.flags & OUTSIDE == 0 && varint_len(len) == varint_len(self.value));
        let at = self.at + KEY_LEN_AT + varint_len(self.key_len);
        write_varint(&mut arena[at..], len);
    }

    /// The second of the last access, modulo 2^24.
    pub(super) fn access(&self, arena: &[u8]) -> u32 {
        let at = self.at;
        u32::from_le_bytes([arena[at + 1], arena[at + 2], arena[at + 3], 0])
    }

    /// Notes an access. A page that already says so is not written.
    #[inline]
    pub(super) fn write_access(&self, arena: &mut [u8], seconds: u32) {
        let field = &mut arena[self.at + 1..self.at + 4];
        let bytes = seconds.to_le_bytes();
        if field != &bytes[..3] {
            field.copy_from_slice(&bytes[..3]);
        }
    }

    /// The label of this entry, to write another one like it.
    pub(super) fn label(&self, arena: &[u8]) -> Label {
        Label {
            encoding: self.encoding(),
            expiry: self.expiry_field(arena),
            access: self.access(arena),
        }
    }
}

/// Appends a header; the key and an inline value are for the caller to append. `value` is the length of
/// an inline value or the slot of an outside one.
pub(super) fn push_head(
    arena: &mut Vec<u8>,
    label: Label,
    key_len: usize,
    outside: bool,
    value: usize,
) {
    let expiry_flag = if label.expiry.is_some() { EXPIRY } else { 0 };
    let outside_flag = if outside { OUTSIDE } else { 0 };
    let access = label.access.to_le_bytes();
    let flags = encoding_bits(label.encoding) | expiry_flag | outside_flag;
    arena.extend_from_slice(&[flags, access[0], access[1], access[2]]);
    push_varint(arena, key_len);
    push_varint(arena, value);
    if let Some(at_ms) = label.expiry {
        arena.extend_from_slice(&at_ms.to_le_bytes());
    }
}

/// Bytes of such a header.
pub(super) fn head_len(label: Label, key_len: usize, value: usize) -> usize {
    let expiry = if label.expiry.is_some() {
        EXPIRY_BYTES
    } else {
        0
    };
    KEY_LEN_AT + varint_len(key_len) + varint_len(value) + expiry
}

fn encoding_bits(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Plain => 0,
        Encoding::Text => 1,
        Encoding::Raw => 2,
    }
}

#[inline]
fn varint(bytes: &[u8], at: usize) -> (usize, usize) {
    let first = bytes[at];
    if first < 0x80 {
        return (usize::from(first), at + 1);
    }
    long_varint(bytes, at)
}

fn long_varint(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[at];
        value |= usize::from(byte & 0x7f) << shift;
        at += 1;
        shift += 7;
        if byte < 0x80 {
            return (value, at);
        }
    }
}

pub(super) fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn push_varint(out: &mut Vec<u8>, value: usize) {
    let at = out.len();
    out.resize(at + varint_len(value), 0);
    write_varint(&mut out[at..], value);
}

fn write_varint(out: &mut [u8], mut value: usize) {
    for byte in out.iter_mut() {
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return;
        }
        *byte |= 0x80;
    }
    unreachable!("the caller left room for the varint");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_written() {
        for key_len in [0, 1, 127, 128, 16_383, 16_384, 65_536] {
            for (outside, value) in [
                (false, 0),
                (false, 127),
                (false, 128),
                (false, 512),
                (true, 0),
                (true, 300),
            ] {
                for expiry in [None, Some(0), Some(1 << 50), Some(NEVER)] {
                    let label = Label {
                        encoding: Encoding::Text,
                        expiry,
                        access: 0xABCDEF,
                    };
                    let mut arena = vec![0xEE; 3];
                    push_head(&mut arena, label, key_len, outside, value);
                    assert_eq!(arena.len(), 3 + head_len(label, key_len, value));
                    arena.extend(vec![b'k'; key_len]);
                    if !outside {
                        arena.extend(vec![b'v'; value]);
                    }
                    let end = arena.len();
                    arena.extend([0xEE; 9]);
                    let head = Head::read(&arena, 3);
                    assert_eq!(head.end(), end);
                    assert_eq!(head.key(&arena), vec![b'k'; key_len]);
                    assert_eq!(head.slot(), outside.then_some(value));
                    assert_eq!(head.inline(&arena).len(), if outside { 0 } else { value });
                    assert_eq!(head.expiry(&arena), expiry.filter(|&at| at != NEVER));
                    assert_eq!(head.access(&arena), 0xABCDEF);
                    assert_eq!(head.encoding(), Encoding::Text);
                }
            }
        }
    }
}
