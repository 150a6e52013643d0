//! The first 64 bytes of every file of ours.
//!
//! ```text
//!  0  8  "MARLINE" and the kind: W a segment of the log, I an image
//!  8  2  version of the format
//! 10  2  the smallest version whose reader understands it
//! 12  4  id of the key it is sealed with; 0: not sealed
//! 16 16  salt of the file's own key; of an image that is not sealed, zeros
//! 32  8  number: of the segment; 0 for an image
//! 40 20  zeros
//! 60  4  CRC32C of bytes 0..60
//! ```
//!
//! Integers are little-endian, here and in everything behind a header.

use super::Damage;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Version of the formats that this program writes.
pub const VERSION: u16 = 1;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

const CHECKED_BYTES: usize = HEADER_BYTES - 4;
const NAME: &[u8; 7] = b"MARLINE";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A segment of the log.
    Segment,
    /// A snapshot or a backup.
    Image,
}

impl Kind {
    fn letter(self) -> u8 {
        match self {
            Kind::Segment => b'W',
            Kind::Image => b'I',
        }
    }
}

/// A header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the file is.
    pub kind: Kind,
    /// Id of its key; 0: it is not sealed.
    pub key_id: u32,
    /// Salt of its key.
    pub salt: [u8; SALT_BYTES],
    /// Number of the segment.
    pub number: u64,
}

impl Header {
    /// The header as it stands in the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..7].copy_from_slice(NAME);
        bytes[7] = self.kind.letter();
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.key_id.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.salt);
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the header of `file`, of which `bytes` are the first (fewer when the file is shorter).
    ///
    /// # Errors
    /// It is no file of the kind, was made by a newer version, or has been changed.
    pub fn decode(bytes: &[u8], kind: Kind, file: &str) -> Result<Header, Damage> {
        let damage = |at: usize, reason: &str| Err(Damage::new(file, at as u64, reason));
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return damage(bytes.len(), "the file ends within its header");
        };
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..7] != NAME || bytes[7] != kind.letter() {
            return damage(0, "not a file of this kind");
        }
        if u32_at(CHECKED_BYTES) != crc32c::crc32c(&bytes[..CHECKED_BYTES]) {
            return damage(CHECKED_BYTES, "the header's checksum does not fit");
        }
        if u16_at(10) > VERSION {
            let reason = format!(
                "written in format {}, which needs a reader of format {}; this one reads {VERSION}",
                u16_at(8),
                u16_at(10)
            );
            return Err(Damage::new(file, 8, reason));
        }
        Ok(Header {
            kind,
            key_id: u32_at(12),
            salt: std::array::from_fn(|i| bytes[16 + i]),
            number: u64::from_le_bytes(std::array::from_fn(|i| bytes[32 + i])),
        })
    }
}
