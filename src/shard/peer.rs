//! What the replicas of a shard say to each other, as the bytes of a link between two nodes.
//!
//! ```text
//!   frame    = message message ...                     of any shards: one heartbeat of all is one frame
//!   message  = shard u16 | kind u8 | flags u16 | from u64 | to u64 | term u64
//!              | the fields that the flags announce, in the order of their bits
//!              | entries, of an append              | snapshot, of a snapshot
//!
//!   kind       1 append             2 its response   may carry: index log_term commit
//!                                                    reject index log_term commit reject_hint request_snapshot
//!              3 vote request       4 its response   index log_term commit commit_term priority context
//!              5 pre-vote request   6 its response     (the requests); reject commit commit_term (the responses)
//!              7 heartbeat          8 its response   commit context (both); commit_term (the heartbeat)
//!              9 snapshot          10 timeout now    nothing (both)
//!
//!   flags      bit 0 reject        no bytes: the flag is the field
//!              bit 1 index         u64               bit 5 reject_hint       u64
//!              bit 2 log_term      u64               bit 6 request_snapshot  u64
//!              bit 3 commit        u64               bit 7 priority          i64
//!              bit 4 commit_term   u64               bit 8 context           length u8 | bytes
//!
//!   entries  = count u32 | entry entry ...             the first is index + 1, the others follow
//!   entry    = term u64 | type u8 | length u32 | data  type 0: normal; 1: a change of members (see `change`)
//!   snapshot = index u64 | term u64 | auto_leave u8
//!              | voters u16 | learners u16 | outgoing voters u16 | next learners u16      how many of each
//!              | id u64 ... | length u32 | data        data: what the receiver needs to fetch the image
//! ```
//!
//! Integers are little-endian. A heartbeat is 45 bytes. The fields are raft's; those that raft reads of a kind are
//! carried, and one that it does not: of which term the entry is up to which a heartbeat calls everything committed.
//! Whose disk was put back to an earlier state may have another entry there. Reads need no kind of their own: a leader
//! confirms them with the context of heartbeats, and no other replica is asked.
//!
//! A message has one encoding: a field that is zero has no flag and a flag has a field that is not zero. So what
//! [`decode`] accepts is, written again, the same bytes; everything else is refused. That the bytes are a message
//! does not make the message true: [`check`] comes between here and raft.
//!
//! Invariants: no number is above [`NUMBER_MAX`], ids included; nothing is allocated for what is not there.
//!
//! Deliberately absent: checksums and secrecy, which are the link's; protobuf, whose parser no byte of a peer ever
//! reaches; kinds that no replica sends to another, such as proposals.

pub mod change;
pub mod check;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::section::NUMBER_MAX;
use crate::command::binary::{Malformed, Reader, put_fixed};

/// The most bytes of a message's context.
pub const CONTEXT_BYTES_MAX: usize = 64;
/// The most bytes of what a snapshot says beside its members.
pub const SNAPSHOT_BYTES_MAX: usize = 64 << 10;
/// The most ids in what a snapshot says of the members.
pub const MEMBERS_MAX: usize = 1_000;

/// Bytes of an entry without data.
const ENTRY_BYTES_MIN: usize = 8 + 1 + 4;
const ID_BYTES: usize = 8;

const REJECT: u16 = 1 << 0;
const INDEX: u16 = 1 << 1;
const LOG_TERM: u16 = 1 << 2;
const COMMIT: u16 = 1 << 3;
const COMMIT_TERM: u16 = 1 << 4;
const REJECT_HINT: u16 = 1 << 5;
const REQUEST_SNAPSHOT: u16 = 1 << 6;
const PRIORITY: u16 = 1 << 7;
const CONTEXT: u16 = 1 << 8;

const OF_VOTE: u16 = INDEX | LOG_TERM | COMMIT | COMMIT_TERM | PRIORITY | CONTEXT;
const OF_VOTE_RESPONSE: u16 = REJECT | COMMIT | COMMIT_TERM;
const OF_APPEND_RESPONSE: u16 = REJECT | INDEX | LOG_TERM | COMMIT | REJECT_HINT | REQUEST_SNAPSHOT;

/// The kinds of messages, each with its code and the flags that it may have.
const KINDS: [(u8, MessageType, u16); 10] = [
    (1, MessageType::MsgAppend, INDEX | LOG_TERM | COMMIT),
    (2, MessageType::MsgAppendResponse, OF_APPEND_RESPONSE),
    (3, MessageType::MsgRequestVote, OF_VOTE),
    (4, MessageType::MsgRequestVoteResponse, OF_VOTE_RESPONSE),
    (5, MessageType::MsgRequestPreVote, OF_VOTE),
    (6, MessageType::MsgRequestPreVoteResponse, OF_VOTE_RESPONSE),
    (7, MessageType::MsgHeartbeat, COMMIT | COMMIT_TERM | CONTEXT),
    (8, MessageType::MsgHeartbeatResponse, COMMIT | CONTEXT),
    (9, MessageType::MsgSnapshot, 0),
    (10, MessageType::MsgTimeoutNow, 0),
];

/// Appends to `out` a message that raft wants sent for `shard`.
///
/// # Panics
/// It is of a kind that no replica sends to another, or carries what its kind does not.
pub fn encode(shard: u16, message: &Message, out: &mut Vec<u8>) {
    let kind = message.get_msg_type();
    let (code, _, allowed) = KINDS
        .into_iter()
        .find(|(_, it, _)| *it == kind)
        .unwrap_or_else(|| panic!("{kind:?} goes to no peer"));
    let numbers = numbers(message);
    let mut flags = if message.reject { REJECT } else { 0 };
    for (flag, number) in numbers {
        flags |= if number != 0 { flag } else { 0 };
    }
    if !message.context.is_empty() {
        flags |= CONTEXT;
    }
    let (is_append, is_snapshot) = (
        kind == MessageType::MsgAppend,
        kind == MessageType::MsgSnapshot,
    );
    assert!(
        flags & !allowed == 0
            && (is_append || message.entries.is_empty())
            && is_snapshot == message.has_snapshot()
            && message.deprecated_priority == message.priority.max(0) as u64,
        "{kind:?} carries what it should not"
    );
    out.extend_from_slice(&shard.to_le_bytes());
    out.push(code);
    out.extend_from_slice(&flags.to_le_bytes());
    for number in [message.from, message.to, message.term] {
        put_fixed(number, out);
    }
    let present = numbers.into_iter().filter(|(_, number)| *number != 0);
    present.for_each(|(_, number)| put_fixed(number, out));
    if flags & CONTEXT != 0 {
        let len = message.context.len();
        assert!(len <= CONTEXT_BYTES_MAX, "a context of {len} bytes");
        out.push(len as u8);
        out.extend_from_slice(&message.context);
    }
    if is_append {
        put_entries(message, out);
    }
    if is_snapshot {
        put_snapshot(message.get_snapshot(), out);
    }
}

/// The fields of eight bytes, in the order of their flags.
fn numbers(message: &Message) -> [(u16, u64); 7] {
    [
        (INDEX, message.index),
        (LOG_TERM, message.log_term),
        (COMMIT, message.commit),
        (COMMIT_TERM, message.commit_term),
        (REJECT_HINT, message.reject_hint),
        (REQUEST_SNAPSHOT, message.request_snapshot),
        (PRIORITY, message.priority as u64),
    ]
}

fn put_entries(message: &Message, out: &mut Vec<u8>) {
    put_len(message.entries.len(), out);
    for (at, entry) in (message.index + 1..).zip(message.entries.iter()) {
        assert!(
            entry.index == at && entry.context.is_empty() && !entry.sync_log,
            "entries are contiguous and have nothing but data"
        );
        put_fixed(entry.term, out);
        out.push(match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChangeV2 => 1,
            EntryType::EntryConfChange => panic!("members are changed by version 2 only"),
        });
        put_len(entry.data.len(), out);
        out.extend_from_slice(&entry.data);
    }
}

fn put_snapshot(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let meta = snapshot.get_metadata();
    let members = meta.get_conf_state();
    let groups = groups(members);
    let ids: usize = groups.iter().map(|ids| ids.len()).sum();
    assert!(
        ids <= MEMBERS_MAX && snapshot.data.len() <= SNAPSHOT_BYTES_MAX,
        "a snapshot is told in few words"
    );
    put_fixed(meta.index, out);
    put_fixed(meta.term, out);
    out.push(u8::from(members.auto_leave));
    for ids in groups {
        out.extend_from_slice(&(ids.len() as u16).to_le_bytes());
    }
    groups
        .concat()
        .into_iter()
        .for_each(|id| put_fixed(id, out));
    put_len(snapshot.data.len(), out);
    out.extend_from_slice(&snapshot.data);
}

fn groups(members: &ConfState) -> [&[u64]; 4] {
    [
        members.get_voters(),
        members.get_learners(),
        members.get_voters_outgoing(),
        members.get_learners_next(),
    ]
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    let len = u32::try_from(len).expect("a message is below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

/// The message at the front of `frame`: its shard, itself, and how many bytes it takes.
///
/// # Errors
/// No message begins there; why.
pub fn decode(frame: &[u8]) -> Result<(u16, Message, usize), String> {
    let mut reader = Reader::new(frame);
    let shard = u16::from_le_bytes(array(&mut reader)?);
    let code = reader.byte().map_err(malformed)?;
    let (_, kind, allowed) = KINDS
        .into_iter()
        .find(|(it, ..)| *it == code)
        .ok_or_else(|| format!("no message is of kind {code}"))?;
    let flags = u16::from_le_bytes(array(&mut reader)?);
    if flags & !allowed != 0 {
        return Err(format!("a message of kind {code} with flags {flags:#06x}"));
    }
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = number(&mut reader)?;
    message.to = number(&mut reader)?;
    message.term = number(&mut reader)?;
    message.reject = flags & REJECT != 0;
    read_fields(&mut reader, flags, &mut message)?;
    match kind {
        MessageType::MsgAppend => {
            let entries = read_entries(&mut reader, message.index)?;
            message.set_entries(entries.into());
        }
        MessageType::MsgSnapshot => message.set_snapshot(read_snapshot(&mut reader)?),
        _ => {}
    }
    Ok((shard, message, frame.len() - reader.left()))
}

/// Reads the fields that `flags` announce.
fn read_fields(reader: &mut Reader<'_>, flags: u16, message: &mut Message) -> Result<(), String> {
    let mut field = |flag| match flags & flag {
        0 => Ok(0),
        _ => match number(reader)? {
            0 => Err("a field that is announced is zero".to_owned()),
            number => Ok(number),
        },
    };
    message.index = field(INDEX)?;
    message.log_term = field(LOG_TERM)?;
    message.commit = field(COMMIT)?;
    message.commit_term = field(COMMIT_TERM)?;
    message.reject_hint = field(REJECT_HINT)?;
    message.request_snapshot = field(REQUEST_SNAPSHOT)?;
    if flags & PRIORITY != 0 {
        message.priority = priority(reader)?;
        // Raft says a positive one twice, for its own past.
        message.deprecated_priority = message.priority.max(0) as u64;
    }
    if flags & CONTEXT != 0 {
        let len = usize::from(reader.byte().map_err(malformed)?);
        if !(1..=CONTEXT_BYTES_MAX).contains(&len) {
            return Err(format!("a context of {len} bytes"));
        }
        message.context = Bytes::copy_from_slice(bytes(reader, len)?);
    }
    Ok(())
}

fn priority(reader: &mut Reader<'_>) -> Result<i64, String> {
    let priority = reader.fixed().map_err(malformed)? as i64;
    match priority.unsigned_abs() {
        1..=NUMBER_MAX => Ok(priority),
        _ => Err(format!("a priority of {priority}")),
    }
}

fn read_entries(reader: &mut Reader<'_>, before: u64) -> Result<Vec<Entry>, String> {
    let count = length(reader)?;
    if count > reader.left() / ENTRY_BYTES_MIN {
        return Err(format!("{count} entries are announced and not there"));
    }
    if before + count as u64 > NUMBER_MAX {
        return Err("entries have impossible indices".to_owned());
    }
    let mut entries = Vec::with_capacity(count);
    for index in (before + 1..).take(count) {
        let mut entry = Entry {
            index,
            term: number(reader)?,
            ..Entry::default()
        };
        let is_change = is_set(reader)?;
        let len = length(reader)?;
        let data = bytes(reader, len)?;
        if is_change {
            change::check_change(data)?;
            entry.set_entry_type(EntryType::EntryConfChangeV2);
        }
        entry.data = Bytes::copy_from_slice(data);
        entries.push(entry);
    }
    Ok(entries)
}

fn read_snapshot(reader: &mut Reader<'_>) -> Result<Snapshot, String> {
    let mut snapshot = Snapshot::default();
    let meta = snapshot.mut_metadata();
    meta.index = number(reader)?;
    meta.term = number(reader)?;
    let mut members = ConfState {
        auto_leave: is_set(reader)?,
        ..ConfState::default()
    };
    let mut counts = [0; 4];
    for count in &mut counts {
        *count = usize::from(u16::from_le_bytes(array(reader)?));
    }
    let ids: usize = counts.iter().sum();
    if ids > MEMBERS_MAX || ids > reader.left() / ID_BYTES {
        return Err(format!("{ids} members are too many or not there"));
    }
    let mut group = |count| (0..count).map(|_| number(reader)).collect::<Result<_, _>>();
    members.set_voters(group(counts[0])?);
    members.set_learners(group(counts[1])?);
    members.set_voters_outgoing(group(counts[2])?);
    members.set_learners_next(group(counts[3])?);
    meta.set_conf_state(members);
    let len = length(reader)?;
    if len > SNAPSHOT_BYTES_MAX {
        return Err(format!("a snapshot is told in {len} bytes"));
    }
    snapshot.data = Bytes::copy_from_slice(bytes(reader, len)?);
    Ok(snapshot)
}

fn number(reader: &mut Reader<'_>) -> Result<u64, String> {
    match reader.fixed().map_err(malformed)? {
        number @ 0..=NUMBER_MAX => Ok(number),
        number => Err(format!("{number} is an impossible number")),
    }
}

fn is_set(reader: &mut Reader<'_>) -> Result<bool, String> {
    match reader.byte().map_err(malformed)? {
        0 => Ok(false),
        1 => Ok(true),
        code => Err(format!("{code} is neither no nor yes")),
    }
}

fn length(reader: &mut Reader<'_>) -> Result<usize, String> {
    Ok(u32::from_le_bytes(array(reader)?) as usize)
}

fn bytes<'r>(reader: &mut Reader<'r>, len: usize) -> Result<&'r [u8], String> {
    reader.bytes(len as u64).map_err(malformed)
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], String> {
    let bytes = bytes(reader, N)?;
    Ok(std::array::from_fn(|at| bytes[at]))
}

fn malformed(error: Malformed) -> String {
    format!("a message: {error}")
}

#[cfg(test)]
mod tests;
