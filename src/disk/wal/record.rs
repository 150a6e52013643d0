//! Records as they stand in a segment; the module above draws them.

use super::super::header::HEADER_BYTES;
use super::super::seal::{Sealer, TAG_BYTES};
use crate::planted::{self, Bug};

/// Bytes of a record before its payload.
pub(super) const HEAD_BYTES: usize = 40;
/// Records begin at multiples of this.
pub(super) const ALIGN_BYTES: usize = 8;
/// Payload of an open record.
const OPEN_BYTES: usize = 24;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open = 1,
    Data = 2,
}

/// The part of a record before its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Bytes of the payload as it stands.
    pub(super) length: u32,
    /// CRC32C of the payload as it stands.
    pub(super) payload_sum: u32,
    pub(super) chain: u32,
    pub(super) sequence: u64,
    pub(super) synced: u64,
}

impl Head {
    /// The head as it stands in a segment with this seed; its first four bytes are the next record's chain.
    fn encode(&self, seed: u32) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_sum.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chain.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.synced.to_le_bytes());
        bytes[32] = self.kind as u8;
        let sum = crc32c::crc32c_append(seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads what `bytes` begin with; `None` when that is no head of the segment with this seed.
    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Head> {
        let bytes = bytes.first_chunk::<HEAD_BYTES>()?;
        if sum_of(bytes) != crc32c::crc32c_append(seed, &bytes[4..]) {
            return None;
        }
        let kind = match bytes[32] {
            1 => Kind::Open,
            2 => Kind::Data,
            _ => return None,
        };
        Some(Head {
            kind,
            payload_sum: u32_at(bytes, 4),
            length: u32_at(bytes, 8),
            chain: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            synced: u64_at(bytes, 24),
        })
    }
}

/// What checksums of records begin with in the segment with this header: the header's own.
pub(super) fn seed(header: &[u8; HEADER_BYTES]) -> u32 {
    if planted::is(Bug::GenerationIgnored) {
        return 0;
    }
    u32_at(header, HEADER_BYTES - 4)
}

/// The checksum that a record begins with.
pub(super) fn sum_of(record: &[u8; HEAD_BYTES]) -> u32 {
    u32_at(record, 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// What is bound to a sealed payload: the segment's number, and the head without its checksums.
fn context(number: u64, head: &[u8; HEAD_BYTES]) -> [u8; HEAD_BYTES] {
    let mut context = *head;
    context[..8].copy_from_slice(&number.to_le_bytes());
    context
}

/// Bytes that a payload and what belongs to it take in a segment.
pub(super) fn record_bytes(payload_bytes: usize, is_sealed: bool) -> u64 {
    let tag = if is_sealed { TAG_BYTES } else { 0 };
    (HEAD_BYTES + payload_bytes + tag).next_multiple_of(ALIGN_BYTES) as u64
}

/// Where the first data record of a segment stands.
pub(super) fn first_offset(is_sealed: bool) -> u64 {
    HEADER_BYTES as u64 + record_bytes(OPEN_BYTES, is_sealed)
}

/// What an open record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    /// Number of the segment before; 0: none.
    pub(super) previous: u64,
    /// Where that one ended.
    pub(super) end: u64,
    /// Bytes of this segment's file.
    pub(super) bytes: u64,
}

impl Open {
    pub(super) fn encode(&self) -> [u8; OPEN_BYTES] {
        let mut bytes = [0; OPEN_BYTES];
        bytes[..8].copy_from_slice(&self.previous.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end.to_le_bytes());
        bytes[16..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Open> {
        (bytes.len() == OPEN_BYTES).then(|| Open {
            previous: u64_at(bytes, 0),
            end: u64_at(bytes, 8),
            bytes: u64_at(bytes, 16),
        })
    }
}

/// What is the same for all records of a segment.
pub(super) struct Frame {
    /// Number of the segment.
    pub(super) number: u64,
    /// What checksums begin with.
    pub(super) seed: u32,
    /// Sequence number of its open record.
    pub(super) first: u64,
    pub(super) sealer: Option<Sealer>,
}

impl Frame {
    /// Appends a record to `into`, padded. `head` needs neither length nor checksum. Returns the next chain.
    pub(super) fn put(&self, mut head: Head, payload: &[u8], into: &mut Vec<u8>) -> u32 {
        let tag = self.sealer.as_ref().map_or(0, |_| TAG_BYTES);
        head.length = u32::try_from(payload.len() + tag).expect("payloads are limited");
        let begin = into.len();
        match &self.sealer {
            None => {
                head.payload_sum = crc32c::crc32c(payload);
                into.extend_from_slice(&head.encode(self.seed));
                into.extend_from_slice(payload);
            }
            Some(sealer) => {
                let context = context(self.number, &head.encode(self.seed));
                let mut piece = Vec::with_capacity(payload.len() + tag);
                piece.extend_from_slice(payload);
                sealer.seal(head.sequence - self.first, &context, &mut piece);
                head.payload_sum = crc32c::crc32c(&piece);
                into.extend_from_slice(&head.encode(self.seed));
                into.extend_from_slice(&piece);
            }
        }
        into.resize(
            begin + (into.len() - begin).next_multiple_of(ALIGN_BYTES),
            0,
        );
        u32_at(into, begin)
    }

    /// The record at `offset` of the segment's bytes, if there is a whole one: its head and checksum.
    pub(super) fn get(&self, bytes: &[u8], offset: u64) -> Option<(Head, u32)> {
        let record = bytes.get(usize::try_from(offset).ok()?..)?;
        let head = Head::decode(record, self.seed)?;
        let payload = record.get(HEAD_BYTES..HEAD_BYTES.checked_add(head.length as usize)?)?;
        let is_sound = crc32c::crc32c(payload) == head.payload_sum;
        (is_sound || planted::is(Bug::ChecksumIgnored)).then(|| (head, u32_at(record, 0)))
    }

    /// The payload of the record that [`Frame::get`] found at `offset`, opened in place; `None` when the
    /// segment's key does not open it.
    pub(super) fn open<'b>(
        &self,
        bytes: &'b mut [u8],
        offset: u64,
        head: &Head,
    ) -> Option<&'b [u8]> {
        let record = bytes.get_mut(usize::try_from(offset).ok()?..)?;
        let (head_bytes, rest) = record.split_first_chunk_mut::<HEAD_BYTES>()?;
        let piece = rest.get_mut(..head.length as usize)?;
        match &self.sealer {
            None => Some(piece),
            Some(sealer) => {
                let number = head.sequence.checked_sub(self.first)?;
                let context = context(self.number, head_bytes);
                sealer.open(number, &context, piece).map(|piece| &*piece)
            }
        }
    }
}
