//! Reading an image, and finding out whether it is whole.

use std::sync::Arc;

use super::super::header::{self, HEADER_BYTES, Header};
use super::super::seal::{KEY_BYTES, Sealer, TAG_BYTES};
use super::super::{Damage, Disk};
use super::{BLOCK_BYTES_MAX, CHECKED_FROM, HEAD_BYTES, Head, Kind, Totals, checksum};

/// The file is read in pieces of so many bytes.
const READ_BYTES: usize = 256 * 1024;
/// The first one reads so much: many images are small.
const FIRST_READ_BYTES: usize = 4 * 1024;

/// Finds the secret of a key by its id.
pub type Keys<'k> = &'k dyn Fn(u32) -> Option<[u8; KEY_BYTES]>;

/// How the blocks of the file are read.
enum Seal {
    /// They are not sealed.
    Absent,
    Known(Box<Sealer>),
    /// They are sealed, and only their outside is looked at.
    Closed,
}

/// An image that is being read. Every call blocks on the disk.
pub struct ImageReader {
    disk: Arc<dyn Disk>,
    name: String,
    key_id: u32,
    seal: Seal,
    totals: Totals,
    /// What was read; the first `taken` bytes are done with.
    ahead: Vec<u8>,
    taken: usize,
    /// Where in the file the first byte stands that is not taken.
    at: u64,
    /// A sealed block while it is opened.
    piece: Vec<u8>,
    is_ended: bool,
}

/// What an image holds, all of it verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What its writer said of it; `None` when it is sealed and was verified without a key.
    pub meta: Option<Vec<u8>>,
    /// Blocks of data.
    pub blocks: u64,
    /// Bytes in these blocks as they were handed in.
    pub raw_bytes: u64,
    /// Bytes of the file.
    pub stored_bytes: u64,
    /// Id of the key it is sealed with; 0: it is not.
    pub key_id: u32,
}

impl ImageReader {
    /// Opens an image and returns what its writer said of it.
    ///
    /// # Errors
    /// It cannot be read, is no image, is damaged in its first bytes, or is sealed with a key that `keys` does not
    /// know.
    pub fn open(
        disk: Arc<dyn Disk>,
        name: &str,
        keys: Keys<'_>,
    ) -> Result<(ImageReader, Vec<u8>), Damage> {
        ImageReader::begin(disk, name, Some(keys))
    }

    /// Id of the key that the image is sealed with; 0: it is not.
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// How much of the file has been taken, in bytes.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Whether the file has a byte at `offset`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn reaches(&self, offset: u64) -> Result<bool, Damage> {
        match self.disk.read(&self.name, offset, &mut [0]) {
            Ok(read) => Ok(read == 1),
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                Err(Damage::new(&self.name, offset, reason))
            }
        }
    }

    /// Puts the next block into `raw`, in place of what is there, and returns its tag. `None`: the image ended, as
    /// its last block says, and nothing is missing.
    ///
    /// # Errors
    /// The file is damaged here or cannot be read. It stays so: asking again gives the same.
    pub fn next(&mut self, raw: &mut Vec<u8>) -> Result<Option<u32>, Damage> {
        if self.is_ended {
            return Ok(None);
        }
        let head = self.block(raw)?;
        Ok((head.kind == Kind::Data).then_some(head.tag))
    }

    /// Reads the header and the first block. Without `keys`, sealed blocks stay closed.
    fn begin(
        disk: Arc<dyn Disk>,
        name: &str,
        keys: Option<Keys<'_>>,
    ) -> Result<(ImageReader, Vec<u8>), Damage> {
        let mut reader = ImageReader {
            disk,
            name: name.to_owned(),
            key_id: 0,
            seal: Seal::Absent,
            totals: Totals::new(&[]),
            ahead: Vec::new(),
            taken: 0,
            at: 0,
            piece: Vec::new(),
            is_ended: false,
        };
        reader.fill(HEADER_BYTES)?;
        let header = Header::decode(reader.ready(), header::Kind::Image, name)?;
        reader.key_id = header.key_id;
        reader.seal = seal(&header, keys).ok_or_else(|| {
            let id = header.key_id;
            let reason = format!("sealed with key {id}, which is not in the ring of keys");
            Damage::new(name, 12, reason)
        })?;
        reader.totals = Totals::new(&reader.ready()[..HEADER_BYTES]);
        reader.take(HEADER_BYTES);
        let mut meta = Vec::new();
        reader.block(&mut meta)?;
        Ok((reader, meta))
    }

    /// What was read and is not taken.
    fn ready(&self) -> &[u8] {
        &self.ahead[self.taken..]
    }

    /// Reads until `wanted` bytes are ready or the file ends; whether they are.
    fn fill(&mut self, wanted: usize) -> Result<bool, Damage> {
        while self.ready().len() < wanted {
            self.ahead.drain(..self.taken);
            self.taken = 0;
            let have = self.ahead.len();
            let offset = self.at + have as u64;
            // Small files are many, and each ends with a read that finds nothing.
            let behind = usize::try_from(offset).unwrap_or(READ_BYTES);
            let bytes = behind.saturating_mul(4).clamp(FIRST_READ_BYTES, READ_BYTES);
            self.ahead.resize(have + bytes, 0);
            let read = self.disk.read(&self.name, offset, &mut self.ahead[have..]);
            self.ahead.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) => {
                    let reason = format!("cannot be read: {error}");
                    return Err(Damage::new(&self.name, offset, reason));
                }
            }
        }
        Ok(true)
    }

    /// Goes on behind the next `count` bytes.
    fn take(&mut self, count: usize) {
        self.taken += count;
        self.at += count as u64;
    }

    fn damage(&self, reason: &str) -> Damage {
        Damage::new(&self.name, self.at, reason)
    }

    /// Reads the next block into `raw` (which stays empty if it stays closed) and goes on behind it.
    fn block(&mut self, raw: &mut Vec<u8>) -> Result<Head, Damage> {
        raw.clear();
        let (head, sum) = self.sound_block()?;
        let is_first = head.number == 0;
        if head.number != self.totals.blocks || is_first != (head.kind == Kind::Meta) {
            let (number, due) = (head.number, self.totals.blocks);
            return Err(self.damage(&format!("block {number} stands where {due} belongs")));
        }
        let length = HEAD_BYTES + head.stored_bytes as usize;
        let block = &self.ahead[self.taken..self.taken + length];
        let (encoded, stored) = block.split_at(HEAD_BYTES);
        let unpacked = match &self.seal {
            Seal::Closed => Ok(()),
            Seal::Absent => unpack(&head, stored, raw),
            Seal::Known(sealer) => {
                self.piece.clear();
                self.piece.extend_from_slice(stored);
                match sealer.open(head.number, &encoded[CHECKED_FROM..], &mut self.piece) {
                    Some(opened) => unpack(&head, opened, raw),
                    None => {
                        Err("the seal does not open: another key of this id, or changed on purpose")
                    }
                }
            }
        };
        unpacked.map_err(|reason| self.damage(reason))?;
        match head.kind {
            Kind::End => self.end(length, raw)?,
            Kind::Meta | Kind::Data => self.totals.add(&head, sum),
        }
        self.take(length);
        Ok(head)
    }

    /// Reads ahead a block whose checksum fits; the head and the checksum.
    fn sound_block(&mut self) -> Result<(Head, u32), Damage> {
        let is_there = self.fill(HEAD_BYTES)?;
        let Some(&encoded) = self
            .ready()
            .first_chunk::<HEAD_BYTES>()
            .filter(|_| is_there)
        else {
            return Err(self.damage(match self.ready().is_empty() {
                true => "the file ends without its last block",
                false => "the file ends within the head of a block",
            }));
        };
        let stored_bytes = u32::from_le_bytes(std::array::from_fn(|i| encoded[12 + i])) as usize;
        if stored_bytes > BLOCK_BYTES_MAX + TAG_BYTES {
            return Err(self.damage("the block's length is none"));
        }
        if !self.fill(HEAD_BYTES + stored_bytes)? {
            return Err(self.damage("the file ends within a block"));
        }
        let sum = checksum(
            &encoded,
            &self.ready()[HEAD_BYTES..HEAD_BYTES + stored_bytes],
        );
        if encoded[..CHECKED_FROM] != sum.to_le_bytes() {
            return Err(self.damage("the block's checksum does not fit"));
        }
        let head = Head::decode(&encoded)
            .filter(|head| head.raw_bytes as usize <= BLOCK_BYTES_MAX)
            .ok_or_else(|| self.damage("the block's head is none of ours"))?;
        Ok((head, sum))
    }

    /// Looks at the end block, whose `length` bytes are read ahead and whose content is `raw`.
    fn end(&mut self, length: usize, raw: &[u8]) -> Result<(), Damage> {
        let is_closed = matches!(self.seal, Seal::Closed);
        if !is_closed && raw != self.totals.encode() {
            return Err(self.damage("the end block tells of other blocks than these"));
        }
        if self.fill(length + 1)? {
            let behind = self.at + length as u64;
            return Err(Damage::new(
                &self.name,
                behind,
                "something stands behind the end",
            ));
        }
        self.is_ended = true;
        Ok(())
    }
}

/// How the blocks of a file with this header are read; `None` when its key is not known.
fn seal(header: &Header, keys: Option<Keys<'_>>) -> Option<Seal> {
    match (header.key_id, keys) {
        (0, _) => Some(Seal::Absent),
        (_, None) => Some(Seal::Closed),
        (id, Some(keys)) => {
            let secret = keys(id)?;
            Some(Seal::Known(Box::new(Sealer::new(&secret, &header.salt))))
        }
    }
}

/// Appends to `raw` what the stored bytes of a block hold.
fn unpack(head: &Head, stored: &[u8], raw: &mut Vec<u8>) -> Result<(), &'static str> {
    let raw_bytes = head.raw_bytes as usize;
    if head.is_packed {
        raw.resize(raw_bytes, 0);
        let unpacked = lz4_flex::block::decompress_into(stored, raw);
        if !matches!(unpacked, Ok(length) if length == raw_bytes) {
            raw.clear();
            return Err("the block does not unpack");
        }
    } else if stored.len() == raw_bytes {
        raw.extend_from_slice(stored);
    } else {
        return Err("the block has not the length that it tells");
    }
    Ok(())
}

/// Reads all of an image and tells what it holds. Without `keys`, the blocks of a sealed one are held against
/// their checksums only: that finds accidents, not forgery.
///
/// # Errors
/// The first damage found.
pub fn verify(disk: Arc<dyn Disk>, name: &str, keys: Option<Keys<'_>>) -> Result<Summary, Damage> {
    let (mut reader, meta) = ImageReader::begin(disk, name, keys)?;
    let before = reader.totals;
    let mut raw = Vec::new();
    while reader.next(&mut raw)?.is_some() {}
    Ok(Summary {
        meta: (!matches!(reader.seal, Seal::Closed)).then_some(meta),
        blocks: reader.totals.blocks - before.blocks,
        raw_bytes: reader.totals.raw_bytes - before.raw_bytes,
        stored_bytes: reader.at,
        key_id: reader.key_id,
    })
}
