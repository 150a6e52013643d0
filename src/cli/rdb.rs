//! Redis's dump files (RDB): bytes to keys.
//!
//! ```text
//!   REDIS0010                                 magic, version in four digits
//!   ( opcode …                                aux fields, database, size hints, expiry of the next key, functions
//!   | type  key  value )*                     a string as the key, the value as its type has it
//!   255  CRC64 (8, from version 5 on)         of everything before; 0: not computed
//!
//!   length   00xxxxxx | 01xxxxxx x | 10000000 x4 | 10000001 x8      big-endian, unlike everything else
//!   string   length bytes | 11000000 i8 | 11000001 i16 | 11000010 i32 | 11000011 packed-length length LZF
//! ```
//!
//! Versions up to 12 (Redis 7.4) are read; Redis 7.0 writes 10. Strings are handed out; a key of any other type is
//! walked over and named, so that the strings behind it are found. Sources: `src/rdb.c` and `src/rdb.h` of Redis
//! (7.0 and 7.4, as their comments have it), and the format of LZF (liblzf by Marc Lehmann).
//!
//! Invariants: no byte of a file makes this panic; no length out of a file is allocated, memory grows with the
//! bytes that come (times the 88 that LZF packs at best). The checksum stands at the end: who must not act on a
//! damaged file reads it twice.
//!
//! Deliberately absent: what is inside lists, hashes, sets, sorted sets, streams and modules; module values of the
//! format before Redis 4.0 GA and functions before 7.0 GA, whose end nothing tells; Valkey's own versions (80 on),
//! whose numbers of types mean other things.

mod input;
mod skip;

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use input::Input;

/// The newest version that is read.
const VERSION_MAX: u32 = 12;
/// The first version with a checksum behind the end.
const VERSION_WITH_SUM: u32 = 5;

const TYPE_STRING: u8 = 0;

/// Something in a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key and its value.
    Key(Key),
    /// Something that is no key and was walked over: what it is.
    Aside(Cow<'static, str>),
}

/// A key of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Number of its database.
    pub db: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Unix milliseconds.
    pub expires_ms: Option<i64>,
    /// What it holds.
    pub value: Value,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string, unpacked.
    String(Vec<u8>),
    /// Something else, walked over: its type as `TYPE` says it, or the module that it belongs to.
    Other(Cow<'static, str>),
}

/// What is wrong with a dump, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdbError {
    /// Offset of the byte that the reader stood before.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for RdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for RdbError {}

/// A dump that is being read.
pub struct Rdb<R> {
    input: Input<R>,
    version: u32,
    db: u64,
    is_ended: bool,
}

impl<R: Read> Rdb<R> {
    /// Reads the first bytes.
    ///
    /// # Errors
    /// It is no dump, or one of a version that is not known.
    pub fn new(source: R) -> Result<Rdb<R>, RdbError> {
        let mut input = Input::new(source);
        let magic: [u8; 9] = input.array()?;
        let version = match magic.strip_prefix(b"REDIS") {
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => digits
                .iter()
                .fold(0, |number, digit| number * 10 + u32::from(digit - b'0')),
            _ => return Err(input.error("not a dump of Redis: it does not begin with REDIS")),
        };
        if !(1..=VERSION_MAX).contains(&version) {
            let reason = format!("a dump of version {version}; 1 to {VERSION_MAX} are read");
            return Err(input.error(reason));
        }
        Ok(Rdb {
            input,
            version,
            db: 0,
            is_ended: false,
        })
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes were read.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next thing; `None` at the end, when the checksum was found right and nothing stands behind it.
    ///
    /// # Errors
    /// The dump ends early, is damaged or holds what cannot be walked over. There is no going on then.
    pub fn next_event(&mut self) -> Result<Option<Event>, RdbError> {
        let mut expires_ms = None;
        while !self.is_ended {
            let opcode = self.input.byte()?;
            match opcode {
                255 => self.end()?,
                254 => self.db = self.input.length()?,
                253 => {
                    let seconds = i32::from_le_bytes(self.input.array()?);
                    expires_ms = Some(i64::from(seconds) * 1000);
                }
                252 => expires_ms = Some(i64::from_le_bytes(self.input.array()?)),
                251 => self.lengths(2)?,
                250 => {
                    self.input.skip_string()?;
                    self.input.skip_string()?;
                }
                249 => self.input.skip(1)?,
                248 => self.lengths(1)?,
                247 => {
                    let name = skip::module_name(self.input.length()?);
                    self.lengths(2)?;
                    skip::module_values(&mut self.input)?;
                    return Ok(Some(Event::Aside(format!("data of module {name}").into())));
                }
                246 => {
                    let reason = "functions of a preview of Redis 7.0: their end is not told";
                    return Err(self.input.error(reason));
                }
                245 => {
                    self.input.skip_string()?;
                    return Ok(Some(Event::Aside("library of functions".into())));
                }
                244 => self.lengths(3)?,
                kind => return self.key(kind, expires_ms).map(Event::Key).map(Some),
            }
        }
        Ok(None)
    }

    fn lengths(&mut self, count: usize) -> Result<(), RdbError> {
        for _ in 0..count {
            self.input.length()?;
        }
        Ok(())
    }

    fn key(&mut self, kind: u8, expires_ms: Option<i64>) -> Result<Key, RdbError> {
        skip::require_known(kind, &self.input)?;
        let name = self.input.string()?;
        let value = match kind {
            TYPE_STRING => Value::String(self.input.string()?),
            _ => Value::Other(skip::value(kind, &mut self.input)?),
        };
        Ok(Key {
            db: self.db,
            name,
            expires_ms,
            value,
        })
    }

    /// Reads what stands behind the last opcode.
    fn end(&mut self) -> Result<(), RdbError> {
        if self.version >= VERSION_WITH_SUM {
            let computed = self.input.checksum();
            let at = self.offset();
            let stored = u64::from_le_bytes(self.input.array()?);
            if stored != 0 && stored != computed {
                let reason = "the checksum does not fit: the file was changed or copied badly";
                return Err(RdbError {
                    offset: at,
                    reason: reason.to_owned(),
                });
            }
        }
        if !self.input.is_at_end()? {
            let reason = "something stands behind the end (is it an append-only file that begins with a dump?)";
            return Err(self.input.error(reason));
        }
        self.is_ended = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
