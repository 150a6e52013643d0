//! What one shard has to say in one record of the log: its hard state and its new entries, or where its log
//! begins.
//!
//! ```text
//!   record  = section section ...
//!   section = shard u16 | term u64 | vote u64 | commit u64 | entries u32 | entry entry ...
//!           | shard u16 | term u64 | vote u64 | commit u64 | ffffffff    | base
//!   entry   = index u64 | term u64 | length u32 | data
//!   data    = nothing (a new leader's first entry) | at_ms u64 | change change ...
//!   base    = replica u64 | index u64 | term u64 | at_ms u64 | members | 0
//!           | replica u64 | index u64 | term u64 | at_ms u64 | members | 1 | length u32 | change change ...
//! ```
//!
//! Integers are little-endian. Changes are written as `command::encode` draws them, members as
//! [`members`](super::members) does. The highest bit of an entry's length says that its data are a change of
//! members, in the words of raft. An entry that stands where an earlier one stood replaces it and all behind
//! it (Raft, section 5.3). A base replaces all entries: the log goes on behind its index. What is stored there is in a
//! snapshot up to that index or a later one (0), or made by these changes of an empty store (1).

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType};

use super::members::Members;
use crate::command::encode;

/// The greatest index, term or time that is believed: no shard comes so far, and there is room to count on.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Bytes of a section with one entry, beside the data of that.
pub const ENTRY_BYTES_MAX: usize = 2 + 3 * 8 + 4 + 2 * 8 + 4;

/// In the place of a number of entries: a base follows.
const BASE: u32 = u32::MAX;
/// In the length of an entry's data: they are a change of members.
const MEMBERS_BIT: u32 = 1 << 31;

/// What one shard says in one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Section<'r> {
    /// The shard.
    pub shard: u16,
    /// Raft's hard state.
    pub state: HardState,
    /// Where the log begins anew.
    pub base: Option<Base>,
    /// New entries, in order.
    pub entries: Vec<Entry<'r>>,
}

/// Where a log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The replica whose log it is.
    pub replica: u64,
    /// Index of the last entry that is not in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The latest time stamp up to there, unix milliseconds.
    pub at_ms: u64,
    /// What makes the store of an empty one; `None`: it is in a snapshot.
    pub changes: Option<Vec<u8>>,
    /// Who is in the group.
    pub members: Members,
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
    /// Whether it changes the members of the group, and not the store.
    pub is_members: bool,
    /// When it was proposed and what it changes; see [`body`].
    pub data: &'r [u8],
}

/// Begins a section behind what `out` holds; [`put_entry`] adds its entries, as many as announced.
pub fn begin(out: &mut Vec<u8>, shard: u16, state: HardState, entries: usize) {
    let entries = u32::try_from(entries).expect("a batch has few entries");
    assert!(entries != BASE, "a batch has few entries");
    begin_with(out, shard, state, entries);
}

fn begin_with(out: &mut Vec<u8>, shard: u16, state: HardState, entries: u32) {
    out.extend_from_slice(&shard.to_le_bytes());
    for number in [state.term, state.vote, state.commit] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&entries.to_le_bytes());
}

/// Adds an entry to the section begun last.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &RaftEntry) {
    out.extend_from_slice(&entry.index.to_le_bytes());
    out.extend_from_slice(&entry.term.to_le_bytes());
    let len = u32::try_from(entry.data.len()).expect("an entry is below 2 GiB");
    assert!(len & MEMBERS_BIT == 0, "an entry is below 2 GiB");
    let of_members = match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => MEMBERS_BIT,
    };
    out.extend_from_slice(&(len | of_members).to_le_bytes());
    out.extend_from_slice(&entry.data);
}

/// Appends a section that says where the log of a shard begins.
pub(super) fn put_base(out: &mut Vec<u8>, shard: u16, state: HardState, base: &Base) {
    begin_with(out, shard, state, BASE);
    for number in [base.replica, base.index, base.term, base.at_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    base.members.put(out);
    out.push(base.changes.is_some().into());
    if let Some(changes) = &base.changes {
        let len = u32::try_from(changes.len()).expect("what a shard begins with is little");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(changes);
    }
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
        let (mut base, mut entries) = (None, Vec::new());
        match count {
            BASE => base = Some(reader.base()?),
            _ => {
                for _ in 0..count {
                    entries.push(reader.entry()?);
                }
            }
        }
        sections.push(Section {
            shard,
            state,
            base,
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

    fn entry(&mut self) -> Result<Entry<'r>, String> {
        let (index, term) = (self.u64()?, self.u64()?);
        let len = u32::from_le_bytes(self.array()?);
        Ok(Entry {
            index,
            term,
            is_members: len & MEMBERS_BIT != 0,
            data: self.take((len & !MEMBERS_BIT) as usize)?,
        })
    }

    fn base(&mut self) -> Result<Base, String> {
        let [replica, index, term, at_ms] = [self.u64()?, self.u64()?, self.u64()?, self.u64()?];
        let members =
            Members::take(&mut self.rest).ok_or("the members of a base are impossible")?;
        let changes = match self.array()? {
            [0] => None,
            [1] => {
                let len = u32::from_le_bytes(self.array()?) as usize;
                Some(self.take(len)?.to_vec())
            }
            _ => return Err("a base does not say where its store is".to_owned()),
        };
        let numbers = [replica, index, term, at_ms];
        if numbers.iter().any(|&number| number > NUMBER_MAX) || replica == 0 || index == 0 {
            return Err("a base has an impossible number".to_owned());
        }
        Ok(Base {
            replica,
            index,
            term,
            at_ms,
            members,
            changes,
        })
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

/// Whether the changes of an entry's data can be applied.
///
/// # Errors
/// They cannot; why.
pub(super) fn check_body(data: &[u8]) -> Result<(), String> {
    let mut changes = body(data)?.map_or(&[][..], |(_, changes)| changes);
    while !changes.is_empty() {
        let (_, used) = encode::decode(changes).map_err(|fault| fault.to_string())?;
        changes = &changes[used..];
    }
    Ok(())
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
    /// Whether it changes the members of the group; those are not among its changes.
    pub is_members: bool,
    /// Its changes that were not applied yet.
    pub changes: Bytes,
}
