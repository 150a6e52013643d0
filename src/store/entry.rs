//! One entry as bytes in a slot of the heap.
//!
//! ```text
//! +-------+-------------+---------+--------------+-----------+-----+---------+
//! | flags | access time | key len | value len    | expiry    | key | value   |
//! | u8    | u24 seconds | varint  | varint       | u64, may  |     | unless  |
//! |       |             |         | or slab slot | be absent |     | outside |
//! +-------+-------------+---------+--------------+-----------+-----+---------+
//! flags: bits 0..=1 encoding (0 plain, 1 text, 2 raw), bit 2 expiry field present, bit 3 value outside,
//!        bit 4 the mark of images
//! ```
//!
//! Integers are little-endian, varints LEB128. A key and a value under 128 bytes cost six bytes of header.
//! The expiry field stays when an expiry is removed ([`NEVER`] is written into it), so that a key whose
//! time is set again and again is rewritten in place. A value longer than [`INLINE_BYTES_MAX`] lives
//! outside; the entry then holds its place in the heap's slab instead of a length.
//!
//! What the mark says is told in [`image`](super::image); here it is a bit that goes where the entry goes.
//!
//! The access time is unix seconds modulo 2^24 (194 days), as in Redis.
//!
//! Not here: checksums and versions. These bytes never leave the process.

use crate::command::op::Encoding;

/// Values up to this long lie behind their key; longer ones have an allocation of their own, so that
/// appending to them is amortised and nothing ever copies them.
pub(super) const INLINE_BYTES_MAX: usize = 512;
/// The expiry field of an entry that has the field but no expiry.
pub(super) const NEVER: u64 = u64::MAX;

const ENCODING: u8 = 0b11;
const EXPIRY: u8 = 0b100;
const OUTSIDE: u8 = 0b1000;
const MARK: u8 = 0b1_0000;
const EXPIRY_BYTES: usize = 8;
/// Where the first varint stands.
const KEY_LEN_AT: usize = 4;

/// An entry's header, decoded; positions are in the entry.
#[derive(Clone, Copy)]
pub(super) struct Head {
    flags: u8,
    key_at: usize,
    key_len: usize,
    /// Length of the inline value, or the place of the outside one in the slab.
    value: usize,
}

/// What a header says beside lengths.
#[derive(Clone, Copy)]
pub(super) struct Label {
    pub(super) encoding: Encoding,
    /// Whether there is an expiry field, and what it holds ([`NEVER`] for none).
    pub(super) expiry: Option<u64>,
    /// Unix seconds modulo 2^24.
    pub(super) access: u32,
}

/// Where the value is.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// Behind the key.
    Inline(&'a [u8]),
    /// At this place in the heap's slab.
    Outside(usize),
}

impl Body<'_> {
    fn number(self) -> usize {
        match self {
            Body::Inline(value) => value.len(),
            Body::Outside(place) => place,
        }
    }
}

impl Head {
    /// Decodes the entry with which `bytes` begins.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Head {
        let flags = bytes[0];
        let (key_len, next) = varint(bytes, KEY_LEN_AT);
        let (value, next) = varint(bytes, next);
        let expiry_bytes = if flags & EXPIRY == 0 { 0 } else { EXPIRY_BYTES };
        Head {
            flags,
            key_at: next + expiry_bytes,
            key_len,
            value,
        }
    }

    #[inline]
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.key_at..][..self.key_len]
    }

    /// Place of a value that lives outside.
    #[inline]
    pub(super) fn outside(&self) -> Option<usize> {
        (self.flags & OUTSIDE != 0).then_some(self.value)
    }

    /// The inline value; empty when it lives outside.
    #[inline]
    pub(super) fn inline<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.value_at()..self.end()]
    }

    #[inline]
    pub(super) fn inline_mut<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        &mut bytes[self.value_at()..self.end()]
    }

    #[inline]
    fn value_at(&self) -> usize {
        self.key_at + self.key_len
    }

    /// Bytes that the entry takes.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.value_at()
            + if self.flags & OUTSIDE == 0 {
                self.value
            } else {
                0
            }
    }

    pub(super) fn has_expiry_field(&self) -> bool {
        self.flags & EXPIRY != 0
    }

    /// When the entry expires, if ever.
    #[inline]
    pub(super) fn expiry(&self, bytes: &[u8]) -> Option<u64> {
        self.expiry_field(bytes).filter(|&at_ms| at_ms != NEVER)
    }

    #[inline]
    fn expiry_field(&self, bytes: &[u8]) -> Option<u64> {
        if self.flags & EXPIRY == 0 {
            return None;
        }
        let field = &bytes[self.key_at - EXPIRY_BYTES..self.key_at];
        Some(
            field
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        )
    }

    /// Writes the expiry field, which must be there.
    pub(super) fn write_expiry(&self, bytes: &mut [u8], at_ms: u64) {
        assert!(self.has_expiry_field());
        bytes[self.key_at - EXPIRY_BYTES..self.key_at].copy_from_slice(&at_ms.to_le_bytes());
    }

    #[inline]
    pub(super) fn encoding(&self) -> Encoding {
        match self.flags & ENCODING {
            0 => Encoding::Plain,
            1 => Encoding::Text,
            _ => Encoding::Raw,
        }
    }

    #[inline]
    pub(super) fn write_encoding(&self, bytes: &mut [u8], encoding: Encoding) {
        bytes[0] = self.flags & !ENCODING | encoding_bits(encoding);
    }

    pub(super) fn mark(&self) -> bool {
        self.flags & MARK != 0
    }

    /// The second of the last access, modulo 2^24.
    pub(super) fn access(&self, bytes: &[u8]) -> u32 {
        u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0])
    }

    /// The label of this entry, to write another one like it.
    pub(super) fn label(&self, bytes: &[u8]) -> Label {
        Label {
            encoding: self.encoding(),
            expiry: self.expiry_field(bytes),
            access: self.access(bytes),
        }
    }
}

/// Notes an access to the entry with which `bytes` begins. A page that already says so is not written.
#[inline]
pub(super) fn write_access(bytes: &mut [u8], second: u32) {
    let second = second.to_le_bytes();
    if bytes[1..4] != second[..3] {
        bytes[1..4].copy_from_slice(&second[..3]);
    }
}

/// Sets the mark of the entry with which `bytes` begins.
pub(super) fn write_mark(bytes: &mut [u8], mark: bool) {
    bytes[0] = bytes[0] & !MARK | mark_bits(mark);
}

/// Bytes that such an entry takes.
#[inline]
pub(super) fn len(label: Label, key: &[u8], body: Body<'_>) -> usize {
    let expiry = if label.expiry.is_some() {
        EXPIRY_BYTES
    } else {
        0
    };
    let inline = match body {
        Body::Inline(value) => value.len(),
        Body::Outside(_) => 0,
    };
    KEY_LEN_AT + varint_len(key.len()) + varint_len(body.number()) + expiry + key.len() + inline
}

/// Writes an entry at the beginning of `bytes`, which are long enough.
#[inline]
pub(super) fn write(bytes: &mut [u8], mark: bool, label: Label, key: &[u8], body: Body<'_>) {
    let expiry_flag = if label.expiry.is_some() { EXPIRY } else { 0 };
    let outside_flag = if matches!(body, Body::Outside(_)) {
        OUTSIDE
    } else {
        0
    };
    bytes[0] = encoding_bits(label.encoding) | expiry_flag | outside_flag | mark_bits(mark);
    bytes[1..4].copy_from_slice(&label.access.to_le_bytes()[..3]);
    let mut at = write_varint(bytes, KEY_LEN_AT, key.len());
    at = write_varint(bytes, at, body.number());
    if let Some(at_ms) = label.expiry {
        bytes[at..at + EXPIRY_BYTES].copy_from_slice(&at_ms.to_le_bytes());
        at += EXPIRY_BYTES;
    }
    bytes[at..at + key.len()].copy_from_slice(key);
    if let Body::Inline(value) = body {
        let at = at + key.len();
        bytes[at..at + value.len()].copy_from_slice(value);
    }
}

#[inline]
fn mark_bits(mark: bool) -> u8 {
    if mark { MARK } else { 0 }
}

fn encoding_bits(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Plain => 0,
        Encoding::Text => 1,
        Encoding::Raw => 2,
    }
}

/// The number at `at` and where it ends.
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

#[inline]
fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Writes a number at `at`; where it ends.
#[inline]
fn write_varint(bytes: &mut [u8], mut at: usize, mut value: usize) -> usize {
    while value >= 0x80 {
        bytes[at] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value as u8;
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_written() {
        let long = vec![b'v'; 512];
        let bodies = [0, 1, 127, 128, 512].map(|len| Body::Inline(&long[..len]));
        for key_len in [0, 1, 127, 128, 16_383, 16_384, 65_536] {
            let key = vec![b'k'; key_len];
            for body in bodies
                .into_iter()
                .chain([Body::Outside(0), Body::Outside(300)])
            {
                for expiry in [None, Some(0), Some(1 << 50), Some(NEVER)] {
                    let label = Label {
                        encoding: Encoding::Text,
                        expiry,
                        access: 0xABCDEF,
                    };
                    let len = len(label, &key, body);
                    let mut bytes = vec![0xEE; len + 3];
                    let mark = key_len % 2 == 0;
                    write(&mut bytes, mark, label, &key, body);
                    assert_eq!(bytes[len..], [0xEE; 3]);
                    let head = Head::read(&bytes);
                    assert_eq!(head.end(), len);
                    assert_eq!(head.key(&bytes), key);
                    match body {
                        Body::Inline(value) => assert_eq!(head.inline(&bytes), value),
                        Body::Outside(place) => assert_eq!(head.outside(), Some(place)),
                    }
                    assert_eq!(head.expiry(&bytes), expiry.filter(|&at| at != NEVER));
                    assert_eq!(head.access(&bytes), 0xABCDEF);
                    assert_eq!(head.encoding(), Encoding::Text);
                    write_access(&mut bytes, 0x123456);
                    assert_eq!(head.access(&bytes), 0x123456);
                    assert_eq!(head.mark(), mark);
                    head.write_encoding(&mut bytes, Encoding::Raw);
                    assert_eq!(Head::read(&bytes).mark(), mark);
                    write_mark(&mut bytes, !mark);
                    let head = Head::read(&bytes);
                    assert_eq!((head.mark(), head.end()), (!mark, len));
                    assert_eq!(head.encoding(), Encoding::Raw);
                }
            }
        }
    }
}
