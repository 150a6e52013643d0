//! Whether two records of a segment were sealed with the same nonce, as one can tell who has no key.
//!
//! ```text
//!   record    head, 40 bytes, not sealed | sealed payload | padding to 8 bytes          (marline::disk::wal)
//!   head      … 4: CRC32C of the payload | 8: length | … 16: sequence number | … 32: kind, 2 for data
//! ```
//!
//! What is sealed with a key and a nonce is the plain text and a stream of random bytes, each added to each. Records
//! are much alike: numbers of eight bytes, of which most are zeros. So two under the same stream have many bytes in
//! common in the same places. Two under different ones have one in 256: that 16 of 64 are the same comes once in 10^24
//! pairs.

const HEAD_BYTES: usize = 40;
const ALIGN_BYTES: usize = 8;
const DATA: u8 = 2;
/// Bytes of a payload that are looked at.
const LOOKED_AT: usize = 64;
/// So many of them are the same when the stream is.
const ALIKE_MIN: usize = 16;
/// Neighbours that a record is compared with.
const NEIGHBOURS: usize = 4;

/// Where two records of a segment begin that are sealed with the same stream.
pub fn alike(file: &[u8]) -> Option<(usize, usize)> {
    let records: Vec<(usize, &[u8])> = records(file).collect();
    let pairs = records.iter().enumerate().flat_map(|(at, one)| {
        let behind = records[at + 1..].iter().take(NEIGHBOURS);
        behind.map(move |other| (one, other))
    });
    let mut alike = pairs.filter(|(one, other)| {
        let is_copy = sequence(file, one.0) == sequence(file, other.0);
        let same = one.1.iter().zip(other.1).filter(|(a, b)| a == b);
        !is_copy && same.count() >= ALIKE_MIN
    });
    alike.next().map(|(one, other)| (one.0, other.0))
}

/// A record that went astray is the same as the one in its place.
fn sequence(file: &[u8], record: usize) -> Option<&[u8]> {
    file.get(record + 16..record + 24)
}

/// Where records begin, and what their payloads begin with.
fn records(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + HEAD_BYTES < file.len() {
            let (begin, payload) = (at, payload(&file[at..]));
            at += ALIGN_BYTES;
            if let Some(payload) = payload {
                at = begin + (HEAD_BYTES + payload.len()).next_multiple_of(ALIGN_BYTES);
                return Some((begin, &payload[..payload.len().min(LOOKED_AT)]));
            }
        }
        None
    })
}

fn payload(record: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*record.get(at..)?.first_chunk()?));
    let is_data = record.get(32) == Some(&DATA);
    let length = number(8).filter(|&length| is_data && length > 0)?;
    let payload = record.get(HEAD_BYTES..)?.get(..length as usize)?;
    (number(4)? == crc32c::crc32c(payload)).then_some(payload)
}
