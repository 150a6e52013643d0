//! Writing an image.
//!
//! Small blocks are gathered into large writes. Every few megabytes the file is synced: what a disk has not yet
//! written it writes when anybody asks for anything, and a gigabyte in that queue would hold up the log's next sync
//! for seconds.

use std::io;
use std::sync::Arc;

use super::super::Disk;
use super::super::header::{self, Header, SALT_BYTES};
use super::super::publish::{clear, publish, temporary};
use super::super::seal::{Entropy, KEY_BYTES, Sealer, TAG_BYTES};
use super::{BLOCK_BYTES_MAX, CHECKED_FROM, Head, Kind, Totals, checksum};
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};

/// A write has at least so many bytes, but for the last.
const WRITE_BYTES: usize = 256 * 1024;
/// So many bytes are written between two syncs.
const SYNC_BYTES: u64 = 4 << 20;

/// An image that is being written. Every call blocks on the disk; it may travel between threads.
///
/// After an error there is nothing left to do but to drop it.
pub struct ImageWriter {
    disk: Arc<dyn Disk>,
    name: String,
    sealer: Option<Sealer>,
    totals: Totals,
    /// What is not written yet; it belongs at `written`.
    buffer: Vec<u8>,
    written: u64,
    unsynced: u64,
    /// A block before it goes into the buffer.
    piece: Vec<u8>,
    is_published: bool,
}

impl ImageWriter {
    /// Begins an image that will be called `name` once it is finished. `key`: id and secret it is sealed with;
    /// `meta`: what the reader is told before the first block, at most [`BLOCK_BYTES_MAX`].
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(
        disk: Arc<dyn Disk>,
        name: &str,
        key: Option<(u32, [u8; KEY_BYTES])>,
        entropy: &mut Entropy,
        meta: &[u8],
    ) -> io::Result<ImageWriter> {
        clear(&*disk, name)?;
        failpoint::reach(Point::FileBegun);
        let key = key.filter(|_| !planted::is(Bug::PlainImage));
        let mut salt = [0; SALT_BYTES];
        if key.is_some() {
            entropy(&mut salt);
        }
        let header = Header {
            kind: header::Kind::Image,
            key_id: key.map_or(0, |(id, _)| id),
            salt,
            number: 0,
        };
        let header = header.encode();
        let mut writer = ImageWriter {
            disk,
            name: name.to_owned(),
            sealer: key.map(|(_, secret)| Sealer::new(&secret, &salt)),
            totals: Totals::new(&header),
            buffer: header.to_vec(),
            written: 0,
            unsynced: 0,
            piece: Vec::new(),
            is_published: false,
        };
        writer.append(Kind::Meta, 0, meta)?;
        Ok(writer)
    }

    /// Appends a block of at most [`BLOCK_BYTES_MAX`]; blocks of about 1 MiB pack best for the memory they take.
    /// What `tag` means is the caller's business.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn block(&mut self, tag: u32, raw: &[u8]) -> io::Result<()> {
        self.append(Kind::Data, tag, raw)
    }

    /// Ends the image and gives it its name, in place of what had that name; on return all of it is durable.
    /// Returns its bytes.
    ///
    /// # Errors
    /// The disk refuses. What had the name before still has it, unless the last sync, of the directory, was what
    /// failed: then it is one of the two.
    pub fn finish(mut self) -> io::Result<u64> {
        let totals = self.totals.encode();
        self.append(Kind::End, 0, &totals)?;
        self.write()?;
        publish(&*self.disk, &self.name)?;
        failpoint::reach(Point::FileNamed);
        self.is_published = true;
        Ok(self.written)
    }

    /// Removes what was written so far. Dropping does the same.
    pub fn abandon(self) {}

    fn append(&mut self, kind: Kind, tag: u32, raw: &[u8]) -> io::Result<()> {
        assert!(
            raw.len() <= BLOCK_BYTES_MAX,
            "a block of {} bytes",
            raw.len()
        );
        let is_packed = self.pack(raw);
        let seal_bytes = self.sealer.as_ref().map_or(0, |_| TAG_BYTES);
        let head = Head {
            kind,
            is_packed,
            raw_bytes: raw.len() as u32,
            stored_bytes: (self.piece.len() + seal_bytes) as u32,
            number: self.totals.blocks,
            tag,
        };
        let mut encoded = head.encode();
        if let Some(sealer) = &self.sealer {
            sealer.seal(head.number, &encoded[CHECKED_FROM..], &mut self.piece);
        }
        debug_assert_eq!(self.piece.len(), head.stored_bytes as usize);
        let sum = checksum(&encoded, &self.piece);
        encoded[..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(&encoded);
        self.buffer.extend_from_slice(&self.piece);
        self.totals.add(&head, sum);
        match self.buffer.len() >= WRITE_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Fills `piece` with `raw`, packed if that makes it smaller; whether it did.
    fn pack(&mut self, raw: &[u8]) -> bool {
        let most = lz4_flex::block::get_maximum_output_size(raw.len());
        self.piece.resize(most, 0);
        let packed = lz4_flex::block::compress_into(raw, &mut self.piece).ok();
        if let Some(length) = packed.filter(|&length| length < raw.len()) {
            self.piece.truncate(length);
            return true;
        }
        self.piece.clear();
        self.piece.extend_from_slice(raw);
        false
    }

    fn write(&mut self) -> io::Result<()> {
        let temporary = temporary(&self.name);
        self.disk.write(&temporary, self.written, &self.buffer)?;
        failpoint::reach(Point::FileWritten);
        self.written += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced >= SYNC_BYTES {
            self.disk.sync(&temporary)?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if !self.is_published {
            // It may not be there yet; and what cannot be removed now is removed by whoever begins this image again.
            let _ = self.disk.remove(&temporary(&self.name));
        }
    }
}
