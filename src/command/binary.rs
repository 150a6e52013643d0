//! The fields of which binary formats of data are made: operations in the log, entries in an image.
//!
//! ```text
//! number   LEB128: seven bits a byte, lowest first, bit 7 set in all but the last; never longer than needed
//! string   its length as a number, its bytes
//! fixed    eight bytes
//! code     one byte that stands for a variant of an enum, from a table that never changes
//! ```
//!
//! Integers are little-endian. A [`Reader`] copies nothing, allocates nothing and panics on nothing.
//!
//! Not here: checksums. Whoever keeps such bytes guards them.

use std::fmt;

use crate::config::KEY_BYTES_MAX;

const MORE: u8 = 0x80;
/// Bytes of the longest number.
const NUMBER_BYTES_MAX: usize = 10;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// They end within a field.
    Ends,
    /// A number that is longer than needed, or does not fit into 64 bits.
    Number,
    /// A key of so many bytes, which is too long.
    Key(u64),
    /// No kind of operation has this tag.
    Tag(u8),
    /// A code that stands for nothing.
    Code {
        /// The field.
        field: &'static str,
        /// What it holds.
        code: u8,
    },
    /// A bit field of a width that there is not.
    Width(u8),
    /// A time that stands for never where a time must be.
    Never,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Ends => write!(f, "the bytes end within a field"),
            Malformed::Number => write!(f, "a number is written wrongly"),
            Malformed::Key(len) => {
                write!(f, "a key of {len} bytes; {KEY_BYTES_MAX} are allowed")
            }
            Malformed::Tag(tag) => write!(f, "unknown tag {tag:#04x}"),
            Malformed::Code { field, code } => write!(f, "unknown code {code:#04x} as {field}"),
            Malformed::Width(bits) => write!(f, "a bit field of {bits} bits"),
            Malformed::Never => write!(f, "an expiry at no time"),
        }
    }
}

impl std::error::Error for Malformed {}

/// An enum whose variants have a code each.
pub trait Coded: Sized {
    /// The code of a variant.
    fn code(self) -> u8;

    /// The variant of a code.
    ///
    /// # Errors
    /// There is none.
    fn of(code: u8) -> Result<Self, Malformed>;
}

/// Appends a number.
#[inline]
pub fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= u64::from(MORE) {
        out.push(number as u8 | MORE);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a string.
#[inline]
pub fn put_string(string: &[u8], out: &mut Vec<u8>) {
    put_number(string.len() as u64, out);
    out.extend_from_slice(string);
}

/// Appends eight bytes.
#[inline]
pub fn put_fixed(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Takes fields from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins with the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Bytes that were not read yet.
    #[inline]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next byte.
    ///
    /// # Errors
    /// There is none.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Ends)?;
        self.rest = rest;
        Ok(byte)
    }

    /// Eight bytes as a number.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn fixed(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Ends)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Eight bytes as the time at which a key expires. The last one there is, is none: the store uses it to say
    /// that a key never expires.
    ///
    /// # Errors
    /// There are fewer, or they hold that last time.
    #[inline]
    pub fn time(&mut self) -> Result<u64, Malformed> {
        let at_ms = self.fixed()?;
        (at_ms != u64::MAX).then_some(at_ms).ok_or(Malformed::Never)
    }

    /// A number.
    ///
    /// # Errors
    /// The bytes end, or it is not written as [`put_number`] writes it.
    #[inline]
    pub fn number(&mut self) -> Result<u64, Malformed> {
        match *self.rest {
            [byte, ref rest @ ..] if byte < MORE => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_number(),
        }
    }

    fn long_number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for step in 0..NUMBER_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & !MORE);
            let shift = 7 * step as u32;
            if bits << shift >> shift != bits {
                return Err(Malformed::Number);
            }
            number |= bits << shift;
            if byte < MORE {
                let is_shortest = byte != 0 || step == 0;
                return is_shortest.then_some(number).ok_or(Malformed::Number);
            }
        }
        Err(Malformed::Number)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn bytes(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed::Ends)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Ends)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A string.
    ///
    /// # Errors
    /// The bytes end, or its length is written wrongly.
    #[inline]
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.number()?;
        self.bytes(len)
    }

    /// The length of a key.
    ///
    /// # Errors
    /// As [`Reader::number`], and when no key is so long.
    #[inline]
    pub fn key_len(&mut self) -> Result<u64, Malformed> {
        let len = self.number()?;
        if len > KEY_BYTES_MAX as u64 {
            return Err(Malformed::Key(len));
        }
        Ok(len)
    }

    /// A code as what it stands for.
    ///
    /// # Errors
    /// There is none, or it stands for nothing.
    #[inline]
    pub fn code<T: Coded>(&mut self) -> Result<T, Malformed> {
        T::of(self.byte()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_one_way() {
        for bit in 0..64 {
            for number in [(1u64 << bit) - 1, 1 << bit, u64::MAX >> bit] {
                let mut bytes = Vec::new();
                put_number(number, &mut bytes);
                let mut reader = Reader::new(&bytes);
                assert_eq!((reader.number(), reader.left()), (Ok(number), 0));
                for cut in 0..bytes.len() {
                    let cut = Reader::new(&bytes[..cut]).number();
                    assert_eq!(cut, Err(Malformed::Ends));
                }
                *bytes.last_mut().expect("not empty") |= MORE;
                bytes.push(0);
                assert_eq!(Reader::new(&bytes).number(), Err(Malformed::Number));
            }
        }
        let beyond = [[0xFF; 9].as_slice(), &[0x02]].concat();
        assert_eq!(Reader::new(&beyond).number(), Err(Malformed::Number));
        assert_eq!(Reader::new(&[0xFF; 30]).number(), Err(Malformed::Number));
    }

    #[test]
    fn strings_end_where_the_bytes_do() {
        let mut reader = Reader::new(b"\x02ab\x01");
        assert_eq!(reader.string(), Ok(&b"ab"[..]));
        assert_eq!(reader.string(), Err(Malformed::Ends));
        assert_eq!(Reader::new(&[]).fixed(), Err(Malformed::Ends));
        let mut huge = Vec::new();
        put_number(u64::MAX, &mut huge);
        assert_eq!(Reader::new(&huge).string(), Err(Malformed::Ends));
        assert_eq!(Reader::new(&huge).key_len(), Err(Malformed::Key(u64::MAX)));
    }
}
