//! Sealing at rest: AES-256-GCM, a key of its own for every file, a ring of keys.
//!
//! ```text
//!   ring file        a text file, one key a line, the last is the active one
//!   file's key     = HKDF-SHA256(salt = the file's random salt, secret = ring key, info = "marline file")
//!   sealed piece   = AES-256-GCM(file's key, nonce = number of the piece, context as additional data)
//! ```
//!
//! No nonce is ever used twice with one key: a file has a fresh random salt, pieces in it are numbered, and no
//! writer goes on in a file that it did not begin (after a crash the log continues in a new segment).
//! Sources: RFC 5869 (HKDF), NIST SP 800-38D (GCM, its limits on nonces).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::header::SALT_BYTES;

/// Bytes that sealing adds to a piece.
pub const TAG_BYTES: usize = 16;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Where random bytes come from: the kernel, or a simulation's seed.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Seals and opens the pieces of one file.
pub struct Sealer {
    key: LessSafeKey,
}

impl Sealer {
    /// The sealer of the file with this salt, under this key of the ring.
    pub fn new(secret: &[u8; KEY_BYTES], salt: &[u8; SALT_BYTES]) -> Sealer {
        let derived = Salt::new(HKDF_SHA256, salt).extract(secret);
        let key = derived
            .expand(&[b"marline file"], &AES_256_GCM)
            .map(UnboundKey::from)
            .expect("HKDF gives keys of this length");
        Sealer {
            key: LessSafeKey::new(key),
        }
    }

    /// Seals the piece with this number in place and appends its tag. `context` is bound to it unsealed.
    pub fn seal(&self, number: u64, context: &[u8], piece: &mut Vec<u8>) {
        self.key
            .seal_in_place_append_tag(nonce(number), Aad::from(context), piece)
            .expect("a piece is far below GCM's limit of 64 GiB");
    }

    /// Opens a sealed piece in place; `None` when it is not what was sealed under this number and context.
    pub fn open<'p>(
        &self,
        number: u64,
        context: &[u8],
        piece: &'p mut [u8],
    ) -> Option<&'p mut [u8]> {
        self.key
            .open_in_place(nonce(number), Aad::from(context), piece)
            .ok()
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
