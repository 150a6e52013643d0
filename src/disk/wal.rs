//! The log: one for all shards, a row of segments, opaque payloads.
//!
//! ```text
//!  wal-…04                          wal-…05                                  spare-…02
//!  [header|open|rec|rec|rec|dead]   [header|open|rec|rec|rec|0 ···········]  [ zeros or old bytes ········ ]
//!                          ▲           │                     ▲ the end         renamed to wal-…06 when it is
//!                          └───────────┘ "04 ended here, with this chain"      needed and its beginning is durable
//! ```
//!
//! A segment file begins with the [`header`](super::header); records follow, each at a multiple of 8 bytes:
//!
//! ```text
//!  0  4  CRC32C of bytes 4..40, begun with the checksum of the segment's header
//!  4  4  CRC32C of the payload as it stands
//!  8  4  bytes of the payload as it stands
//! 12  4  chain: bytes 0..4 of the record before, across segments; 0 in the very first
//! 16  8  sequence number: 1, 2, 3 …, across segments
//! 24  8  synced: everything below this sequence number was durable when this record was written
//! 32  1  kind: 1 open, 2 data
//! 33  7  zeros
//! 40  n  the payload; zeros up to the next multiple of 8, and 8 zeros more where the next record will stand
//! ```
//!
//! The first record of a segment is its open record; its payload: number of the segment before (0: none), where
//! that one ended, bytes of this file (8 each). When the segment is sealed, each payload is a piece of
//! [`seal`](super::seal): its number is the record's place in the segment (the open record is 0), its context
//! the segment's number and bytes 8..40. Checksums are over what stands in the file, so that integrity can be
//! told from authenticity. The header has a random salt even where nothing is sealed: through its checksum
//! every segment has a checksum of its own, so that the old records in a file that is used again are nothing,
//! and a payload that looks like a record does not become one.
//!
//! **Writing** ([`writer`]). A segment is made by writing zeros over its length and is named `spare-…` until
//! its header, its open record and its first data record are durable; then it is renamed and the directory synced.
//! So a lack of space shows when a spare is made, an append is one write and one sync that changes no metadata,
//! and a file called `wal-…` is whole up to its first data record, or it is rotten. Every process begins a segment
//! of its own, behind what [`replay`] found; what the segment before holds beyond the stated end is dead. Segments
//! that are no longer needed become spares, the lowest first and one at a time, so that there is never a gap.
//!
//! **Torn or rotten.** After a crash the log may end with records that were never synced, in any state. A bad record
//! that nothing later vouches for is that end. A bad record before a stated end, or with a number below the
//! `synced` of a record found behind it, was durable and is not any more: that is rot, and the log is refused
//! ("Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018: the two must not be mistaken for each
//! other). The very last record cannot be told apart, which [`replay::End::torn`] reports; an empty payload is a
//! legal record, to vouch for the one before.
//!
//! **Invariants.** Numbers of segments have no gaps; the newest segment is never taken away. No sealed piece is
//! sealed twice under one salt with different contents. A record that was refused for lack of space never appears.
//! Whatever replay believed is written and synced again before anything builds on it: a sync that failed in an
//! earlier process may have left it in memory only ("Can Applications Recover from fsync Failures?", ATC 2020).
//!
//! Deliberately absent: repair (a replicated node has peers for that), records that span segments, compression.

pub mod check;
mod record;
pub mod replay;
mod segment;
pub mod spares;
pub mod writer;

use std::io;

use super::seal::KEY_BYTES;

/// The longest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Segments are this long unless somebody wants otherwise.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// The greatest number of a segment or a record that is believed.
const NUMBER_MAX: u64 = 1 << 62;

/// The key that new segments are sealed with.
#[derive(Clone)]
pub struct ActiveKey {
    /// Its id in the ring, never 0.
    pub id: u32,
    /// The key itself.
    pub secret: [u8; KEY_BYTES],
}

/// A segment on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Length of its file.
    pub bytes: u64,
    /// Id of the key it is sealed with; 0: not sealed.
    pub key_id: u32,
}

/// A data record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'p> {
    /// Number of its segment.
    pub segment: u64,
    /// Where in the segment's file it begins.
    pub offset: u64,
    /// Its sequence number.
    pub sequence: u64,
    /// What was appended.
    pub payload: &'p [u8],
}

/// Whether an operation failed for lack of space, so that it may work later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The file of a segment.
pub fn segment_name(number: u64) -> String {
    format!("wal-{number:016x}")
}

/// The number in a name of this kind.
fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}
