//! The lowest layer of a dump: bytes, lengths, strings, and the checksum over all of them.

use std::io::{ErrorKind, Read};

use crc::{CRC_64_REDIS, Crc, Digest, Table};

use super::RdbError;

const BUFFER_BYTES: usize = 256 * 1024;
/// Matches of LZF have at least so many bytes.
const LZF_MATCH_MIN: usize = 2;

/// CRC-64 with the polynomial of Andrew Jones, reflected, as Redis has it.
static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// What stands where a length is expected.
enum Length {
    Bytes(u64),
    /// A string in another way: its number.
    Encoded(u8),
}

/// The bytes of a dump, in order.
pub(super) struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    /// How far into the buffer was read, and how much of that is in the digest.
    at: usize,
    summed: usize,
    digest: Digest<'static, u64, Table<16>>,
    /// Where in the dump the buffer begins.
    begin: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Input<R> {
        Input {
            source,
            buffer: Vec::new(),
            at: 0,
            summed: 0,
            digest: CRC64.digest(),
            begin: 0,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.begin + self.at as u64
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> RdbError {
        RdbError {
            offset: self.offset(),
            reason: reason.into(),
        }
    }

    /// The checksum of everything read so far.
    pub(super) fn checksum(&mut self) -> u64 {
        self.sum_up();
        self.digest.clone().finalize()
    }

    fn sum_up(&mut self) {
        self.digest.update(&self.buffer[self.summed..self.at]);
        self.summed = self.at;
    }

    /// Reads more when the buffer is empty; whether nothing came.
    pub(super) fn is_at_end(&mut self) -> Result<bool, RdbError> {
        if self.at < self.buffer.len() {
            return Ok(false);
        }
        self.sum_up();
        self.begin += self.at as u64;
        (self.at, self.summed) = (0, 0);
        self.buffer.resize(BUFFER_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(count) => Ok(count == 0),
            Err(error) => Err(self.error(format!("cannot be read: {error}"))),
        }
    }

    /// The next bytes, at least one and at most `most`.
    fn piece(&mut self, most: u64) -> Result<&[u8], RdbError> {
        if self.is_at_end()? {
            return Err(self.error("the file ends here, in the middle of something"));
        }
        let from = self.at;
        let ready = self.buffer.len() - from;
        self.at += usize::try_from(most).map_or(ready, |most| most.min(ready));
        Ok(&self.buffer[from..self.at])
    }

    pub(super) fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.piece(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut array = [0; N];
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    pub(super) fn skip(&mut self, count: u64) -> Result<(), RdbError> {
        let mut missing = count;
        while missing > 0 {
            missing -= self.piece(missing)?.len() as u64;
        }
        Ok(())
    }

    /// The next `count` bytes. Memory grows as they come.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, RdbError> {
        let (mut bytes, mut missing) = (Vec::new(), count);
        while missing > 0 {
            let piece = self.piece(missing)?;
            bytes.extend_from_slice(piece);
            missing -= piece.len() as u64;
        }
        Ok(bytes)
    }

    fn length_or_encoding(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match (first >> 6, low) {
            (0, _) => Length::Bytes(u64::from(low)),
            (1, _) => Length::Bytes(u64::from(low) << 8 | u64::from(self.byte()?)),
            (2, 0) => Length::Bytes(u64::from(u32::from_be_bytes(self.array()?))),
            (2, 1) => Length::Bytes(u64::from_be_bytes(self.array()?)),
            (2, _) => return Err(self.error("no length begins like this")),
            _ => Length::Encoded(low),
        })
    }

    /// A number where nothing but a number may stand.
    pub(super) fn length(&mut self) -> Result<u64, RdbError> {
        match self.length_or_encoding()? {
            Length::Bytes(length) => Ok(length),
            Length::Encoded(_) => Err(self.error("an encoded string where a number belongs")),
        }
    }

    pub(super) fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        match self.length_or_encoding()? {
            Length::Bytes(length) => self.bytes(length),
            Length::Encoded(0) => Ok(decimal(i8::from_le_bytes(self.array()?).into())),
            Length::Encoded(1) => Ok(decimal(i16::from_le_bytes(self.array()?).into())),
            Length::Encoded(2) => Ok(decimal(i32::from_le_bytes(self.array()?))),
            Length::Encoded(3) => {
                let (packed_length, length) = (self.length()?, self.length()?);
                let packed = self.bytes(packed_length)?;
                unpack(&packed, length).ok_or_else(|| self.error("a string does not unpack"))
            }
            Length::Encoded(_) => Err(self.error("a string in an unknown encoding")),
        }
    }

    pub(super) fn skip_string(&mut self) -> Result<(), RdbError> {
        match self.length_or_encoding()? {
            Length::Bytes(length) => self.skip(length),
            Length::Encoded(number @ 0..=2) => self.skip(1 << number),
            Length::Encoded(3) => {
                let packed_length = self.length()?;
                self.length()?;
                self.skip(packed_length)
            }
            Length::Encoded(_) => Err(self.error("a string in an unknown encoding")),
        }
    }
}

fn decimal(number: i32) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// Unpacks LZF; `None` when that does not give `length` bytes. Grows as it goes.
///
/// ```text
///   000nnnnn  n+1 bytes as they are
///   lllddddd (l=7: length byte) d    l+2 bytes again from d+1 before; they may reach into themselves
/// ```
fn unpack(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = packed.iter();
    while let Some(&first) = rest.next() {
        if first < 32 {
            let (plain, behind) = rest.as_slice().split_at_checked(usize::from(first) + 1)?;
            out.extend_from_slice(plain);
            rest = behind.iter();
        } else {
            let mut count = usize::from(first >> 5) + LZF_MATCH_MIN;
            if first >> 5 == 7 {
                count += usize::from(*rest.next()?);
            }
            let back = (usize::from(first & 0x1f) << 8 | usize::from(*rest.next()?)) + 1;
            let from = out.len().checked_sub(back)?;
            for at in from..from + count {
                out.push(out[at]);
            }
        }
        if out.len() as u64 > length {
            return None;
        }
    }
    (out.len() as u64 == length).then_some(out)
}
