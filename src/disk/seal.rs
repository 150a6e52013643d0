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
//!
//! The ring file; ids ascend, and the CRC32C is that of the line before its last blank:
//!
//! ```text
//!   # Marline keys: …
//!   1 2026-11-23T20:10:00Z <64 hex digits> <CRC32C, 8 hex digits>
//!   2 2027-01-02T03:04:05Z <64 hex digits> <CRC32C, 8 hex digits>      the active one: it seals new files
//! ```
//!
//! A line has a checksum so that a flipped digit is told apart from a wrong key: the one is mended from a copy of
//! the ring, the other is not. The ring is replaced whole ([`publish`]), and no text of ours ever
//! shows a key: not in an error, not by `Debug`.
//!
//! Deliberately absent: keys that leave the ring (a person deletes a line when no file needs it any more), keys in
//! a vault or a TPM, a passphrase, and keys wiped from memory after use (that takes a crate, `zeroize`; the active
//! key stands in memory as long as the node runs anyway).

pub mod date;

use std::fmt;
use std::io;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::header::SALT_BYTES;
use super::publish::{clear, publish, temporary};
use super::{Damage, Disk};
use crate::planted::{self, Bug};

/// Bytes that sealing adds to a piece.
pub const TAG_BYTES: usize = 16;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

const RING_TITLE: &str = "# Marline keys: whoever has this file reads what is sealed. Keep a copy, but not beside the data.\n";
const RING_BYTES_MAX: usize = 1 << 20;

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
    let number = if planted::is(Bug::NonceReused) {
        0
    } else {
        number
    };
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// One key of a ring.
#[derive(Clone)]
struct Key {
    id: u32,
    created_ms: u64,
    secret: [u8; KEY_BYTES],
}

/// The keys that files are sealed with. Never empty, ids ascend; the last key is the active one.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl fmt::Debug for KeyRing {
    /// The ids, and nothing of the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u32> = self.keys.iter().map(|key| key.id).collect();
        f.debug_struct("KeyRing").field("ids", &ids).finish()
    }
}

impl KeyRing {
    /// Reads a ring file.
    ///
    /// # Errors
    /// It cannot be read, or a line of it (which the damage counts from 1) is not as it was written.
    pub fn open(disk: &dyn Disk, name: &str) -> Result<KeyRing, Damage> {
        let mut bytes = vec![0; RING_BYTES_MAX + 1];
        let length = disk
            .read(name, 0, &mut bytes)
            .map_err(|error| Damage::new(name, 0, format!("cannot be read: {error}")))?;
        if length > RING_BYTES_MAX {
            return Err(Damage::new(name, 0, "too long for a ring of keys"));
        }
        let damage = |at: usize, reason: String| Damage::new(name, at as u64, reason);
        let text = std::str::from_utf8(&bytes[..length])
            .map_err(|error| damage(error.valid_up_to(), "not a text".to_owned()))?;
        let Some(lines) = text.strip_prefix(RING_TITLE) else {
            return Err(damage(0, "not a ring of keys".to_owned()));
        };
        let (mut keys, mut at): (Vec<Key>, usize) = (Vec::new(), RING_TITLE.len());
        for (index, line) in lines.split_inclusive('\n').enumerate() {
            let last = keys.last().map_or(0, |key| key.id);
            let key = Key::parse(line, last)
                .map_err(|reason| damage(at, format!("line {}: {reason}", index + 2)))?;
            keys.push(key);
            at += line.len();
        }
        match keys.is_empty() {
            true => Err(damage(at, "there is no key in it".to_owned())),
            false => Ok(KeyRing { keys }),
        }
    }

    /// Makes a ring file with one fresh key; on return it is durable.
    ///
    /// # Errors
    /// There is such a file already, which is left alone; or the disk refuses.
    pub fn create(
        disk: &dyn Disk,
        name: &str,
        at_ms: u64,
        entropy: &mut Entropy,
    ) -> io::Result<KeyRing> {
        if disk.list()?.iter().any(|file| file.name == name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let keys = vec![Key::fresh(1, at_ms, entropy)];
        KeyRing { keys }.replace(disk, name)
    }

    /// Appends a fresh key to the ring and its file and returns its id; from then on it is the active one. A crash
    /// at any point leaves the old ring file or the new one.
    ///
    /// # Errors
    /// The disk refuses. The ring is unchanged then, but the file may be either: open it anew before going on.
    pub fn rotate(
        &mut self,
        disk: &dyn Disk,
        name: &str,
        at_ms: u64,
        entropy: &mut Entropy,
    ) -> io::Result<u32> {
        let Some(id) = self.last().id.checked_add(1) else {
            return Err(io::Error::other("there is no id left for a key"));
        };
        let mut keys = self.keys.clone();
        keys.push(Key::fresh(id, at_ms, entropy));
        *self = KeyRing { keys }.replace(disk, name)?;
        Ok(id)
    }

    /// Id and secret of the key for new files.
    pub fn active(&self) -> (u32, [u8; KEY_BYTES]) {
        (self.last().id, self.last().secret)
    }

    /// The secret with this id.
    pub fn secret(&self, id: u32) -> Option<[u8; KEY_BYTES]> {
        let at = self.keys.binary_search_by_key(&id, |key| key.id).ok()?;
        Some(self.keys[at].secret)
    }

    /// Id of every key and when it was made (unix milliseconds), the oldest first.
    pub fn ids(&self) -> impl Iterator<Item = (u32, u64)> {
        self.keys.iter().map(|key| (key.id, key.created_ms))
    }

    fn last(&self) -> &Key {
        self.keys.last().expect("a ring is never empty")
    }

    /// Writes the ring in place of the file.
    fn replace(self, disk: &dyn Disk, name: &str) -> io::Result<KeyRing> {
        let lines: String = self.keys.iter().map(Key::line).collect();
        let text = format!("{RING_TITLE}{lines}");
        if text.len() > RING_BYTES_MAX {
            return Err(io::Error::other("there is no room left in the ring"));
        }
        clear(disk, name)?;
        disk.write(&temporary(name), 0, text.as_bytes())?;
        publish(disk, name)?;
        Ok(self)
    }
}

impl Key {
    fn fresh(id: u32, at_ms: u64, entropy: &mut Entropy) -> Key {
        let mut secret = [0; KEY_BYTES];
        entropy(&mut secret);
        let created_ms = at_ms - at_ms % 1000;
        Key {
            id,
            created_ms,
            secret,
        }
    }

    fn line(&self) -> String {
        let hex: String = self
            .secret
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let line = format!("{} {} {hex}", self.id, date::text(self.created_ms));
        let sum = crc32c::crc32c(line.as_bytes());
        format!("{line} {sum:08x}\n")
    }

    /// Reads a line that stands behind the key `last`. The reason why not says nothing of what stands there.
    fn parse(line: &str, last: u32) -> Result<Key, &'static str> {
        let whole = line.strip_suffix('\n').ok_or("the file ends within it")?;
        let words: Vec<&str> = whole.split(' ').collect();
        let [id, created, hex, sum] = words[..] else {
            return Err("not four words: id, time, key, checksum");
        };
        let id: u32 = id.parse().map_err(|_| "the id is no number")?;
        let created_ms = date::ms(created).ok_or("the time is none, as in 2026-11-23T20:10:00Z")?;
        if hex.len() != 2 * KEY_BYTES {
            return Err("the key has not 64 digits");
        }
        let secret = secret(hex).ok_or("the key has a digit that is not one of 0-9 a-f")?;
        let covered = &whole[..whole.len() - sum.len() - 1];
        if sum != format!("{:08x}", crc32c::crc32c(covered.as_bytes())) {
            return Err("the checksum does not fit: something in the line was changed");
        }
        if id == last {
            return Err("the id is that of the line before");
        }
        if id < last || id == 0 {
            return Err("ids begin with 1 and ascend");
        }
        let key = Key {
            id,
            created_ms,
            secret,
        };
        match key.line() == line {
            true => Ok(key),
            false => Err("not as it was written"),
        }
    }
}

fn secret(hex: &str) -> Option<[u8; KEY_BYTES]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut secret = [0; KEY_BYTES];
    for (byte, pair) in secret.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(secret)
}

/// Whether nobody but the owner of a file of keys may read or write it.
///
/// # Errors
/// Others may, or the file cannot be seen; the text says how to mend it. Elsewhere than on Unix there is nothing
/// to see.
pub fn require_private(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "{shown} has mode {mode:04o}: others than its owner can get at the keys; say: chmod 600 {shown}"
            ));
        }
    }
    #[cfg(not(unix))]
    drop(metadata);
    Ok(())
}
