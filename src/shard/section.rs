//! What one shard has to say in one record of the log: its hard state and its new entries.
//!
//! ```text
//!   record  = section section ...
//!   section = shard u16 | term u64 | vote u64 | commit u64 | entries u32 | entry entry ...
//!   entry   = index u64 | term u64 | length u32 | data
//!   data    = nothing (a new leader's first entry) | at_ms u64 | change change ...
//! ```
//!
//! Integers are little-endian. Changes are written as `command::encode` draws them. An entry that stands
//! where an earlier one stood replaces it and all behind it (Raft, section 5.3).

use bytes::Bytes;

/// The greatest index, term or time that is believed: no shard comes so far, and there is room to count on.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Bytes of a section with one entry, beside the data of that.
pub const ENTRY_BYTES_MAX: usize = 2 + 3 * 8 + 4 + 2 * 8 + 4;

/// What one shard says in one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Section<'r> {
    /// The shard.
    pub shard: u16,
    /// Raft's hard state.
    pub state: HardState,
    /// New entries, in order.
    pub entries: Vec<Entry<'r>>,
}

/// What raft must never forget (Raft, figure 2), and the commit index, which it might.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// Who got the vote in it; 0: nobody.
    pub vote: u64,
    /// Everything up to this index is committed.
    pub commit: u64,
}

/// An entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'r> {
    /// Its index.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// When it was proposed and what it changes; see [`body`].
    pub data: &'r [u8],
}

/// Begins a section behind what `out` holds; [`put_entry`] adds its entries, as many as announced.
pub(super) fn begin(out: &mut Vec<u8>, shard: u16, state: HardState, entries: usize) {
    out.extend_from_slice(&shard.to_le_bytes());
    for number in [state.term, state.vote, state.commit] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let entries = u32::try_from(entries).expect("a batch has fewer than 2^32 entries");
    out.extend_from_slice(&entries.to_le_bytes());
}

/// Adds an entry to the section begun last.
pub(super) fn put_entry(out: &mut Vec<u8>, index: u64, term: u64, data: &[u8]) {
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&term.to_le_bytes());
    let len = u32::try_from(data.len()).expect("an entry is below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(data);
}

/// The sections of a record.
///
/// # Errors
/// The bytes are no record; what about them is not.
pub fn read(record: &[u8]) -> Result<Vec<Section<'_>>, String> {
    let mut reader = Reader { rest: record };
    let mut sections = Vec::new();
    while !reader.rest.is_empty() {
        let shard = u16::from_le_bytes(reader.array()?);
        let state = HardState {
            term: reader.u64()?,
            vote: reader.u64()?,
            commit: reader.u64()?,
        };
        let count = u32::from_le_bytes(reader.array()?);
        let mut entries = Vec::new();
        for _ in 0..count {
            let (index, term) = (reader.u64()?, reader.u64()?);
            let len = u32::from_le_bytes(reader.array()?) as usize;
            let data = reader.take(len)?;
            entries.push(Entry { index, term, data });
        }
        sections.push(Section {
            shard,
            state,
            entries,
        });
    }
    Ok(sections)
}

struct Reader<'r> {
    rest: &'r [u8],
}

impl<'r> Reader<'r> {
    fn take(&mut self, len: usize) -> Result<&'r [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or("a section ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|at| bytes[at]))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

/// Bytes in front of an entry's changes.
pub(super) const STAMP_BYTES: usize = 8;

/// When an entry was proposed (unix milliseconds) and the bytes of its changes; `None` for an empty entry.
///
/// # Errors
/// It is shorter than its time stamp, or that is none.
pub fn body(data: &[u8]) -> Result<Option<(u64, &[u8])>, String> {
    if data.is_empty() {
        return Ok(None);
    }
    let (stamp, changes) = data
        .split_first_chunk::<STAMP_BYTES>()
        .ok_or("an entry is shorter than its time stamp")?;
    match u64::from_le_bytes(*stamp) {
        at_ms if at_ms <= NUMBER_MAX => Ok(Some((at_ms, changes))),
        _ => Err("an entry has an impossible time stamp".to_owned()),
    }
}

/// An entry that is committed and not yet applied, with a place in its changes.
#[derive(Debug)]
pub struct Committed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// When it was proposed, unix milliseconds; 0 for an empty entry.
    pub at_ms: u64,
    /// Its changes that were not applied yet.
    pub changes: Bytes,
}
