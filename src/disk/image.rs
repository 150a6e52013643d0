//! Images: snapshots of one shard and backups of all, written from front to back and published whole or not at all.
//!
//! ```text
//!   header (64)   block 0: meta   block 1: data   block 2: data   …   block n: end      and nothing behind it
//!
//!   block:   0  4  CRC32C of the rest of the head and of the stored bytes
//!            4  1  kind: 1 meta, 2 data, 3 end
//!            5  1  packing: 0 stored as it is, 1 LZ4 (a block without a frame)
//!            6  2  zeros
//!            8  4  raw length: of what was handed in
//!           12  4  stored length: of what stands in the file, with the seal's tag
//!           16  8  number, from 0
//!           24  4  tag: the caller's, the shard for example; 0 for meta and end
//!           28  …  stored bytes: packed; then, if the file is sealed, sealed
//!                  (nonce: the number; context: the head without its checksum)
//!
//!   end:     0  8  number of blocks before this one
//!            8  8  their raw bytes
//!           16  4  CRC32C of the header and of the checksums of all blocks before, in order
//! ```
//!
//! The checksum is over what stands in the file, so that a copy can be verified without a key. It finds accidents:
//! a torn write, a flipped bit, a block that is missing, twice or elsewhere. Whoever changes a file on purpose makes
//! checksums that fit; against that there is the seal, which binds every block to its head, its number and the file.
//!
//! [`write`] has no error that leaves a half image under the name that it is read by; [`read`] has none that ends
//! as if the image were whole.
//!
//! Invariants: a block is handed out only after its checksum, its place and its seal were found right; the end of
//! an image is told only by its end block, never by the end of the file; no length out of a file is believed before
//! its checksum, and none above [`BLOCK_BYTES_MAX`] ever.
//!
//! LZ4 because it packs at half a gigabyte a second and unpacks at several: a snapshot is limited by the disk and
//! not by the core that the node shares with it. (LZ4 block format, Yann Collet.)
//!
//! Deliberately absent: reading from the middle, an index, appending to an image, parallel writers, knowledge of
//! what the blocks hold.

pub mod read;
pub mod write;

/// The most bytes in one block, unpacked.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;

const HEAD_BYTES: usize = 28;
/// Where the checked part of a head begins.
const CHECKED_FROM: usize = 4;
const TOTALS_BYTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Meta,
    Data,
    End,
}

/// The head of a block, without its checksum.
#[derive(Debug, Clone, Copy)]
struct Head {
    kind: Kind,
    is_packed: bool,
    raw_bytes: u32,
    stored_bytes: u32,
    number: u64,
    tag: u32,
}

impl Head {
    /// The head as it stands in the file, with zeros for the checksum.
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[4] = match self.kind {
            Kind::Meta => 1,
            Kind::Data => 2,
            Kind::End => 3,
        };
        bytes[5] = u8::from(self.is_packed);
        bytes[8..12].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.tag.to_le_bytes());
        bytes
    }

    /// Reads a head whose checksum was found right; `None` when it is none that [`Head::encode`] makes.
    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
        let kind = match bytes[4] {
            1 => Kind::Meta,
            2 => Kind::Data,
            3 => Kind::End,
            _ => return None,
        };
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let head = Head {
            kind,
            is_packed: bytes[5] == 1,
            raw_bytes: u32_at(8),
            stored_bytes: u32_at(12),
            number: u64::from_le_bytes(std::array::from_fn(|i| bytes[16 + i])),
            tag: u32_at(24),
        };
        (head.encode()[CHECKED_FROM..] == bytes[CHECKED_FROM..]).then_some(head)
    }
}

/// The checksum of a block.
fn checksum(head: &[u8; HEAD_BYTES], stored: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[CHECKED_FROM..]), stored)
}

/// What the end block says of those before it.
#[derive(Debug, Clone, Copy)]
struct Totals {
    blocks: u64,
    raw_bytes: u64,
    chain: u32,
}

impl Totals {
    /// Of a file that has nothing but its header.
    fn new(header: &[u8]) -> Totals {
        Totals {
            blocks: 0,
            raw_bytes: 0,
            chain: crc32c::crc32c(header),
        }
    }

    fn add(&mut self, head: &Head, checksum: u32) {
        self.blocks += 1;
        self.raw_bytes += u64::from(head.raw_bytes);
        self.chain = crc32c::crc32c_append(self.chain, &checksum.to_le_bytes());
    }

    fn encode(&self) -> [u8; TOTALS_BYTES] {
        let mut bytes = [0; TOTALS_BYTES];
        bytes[..8].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.chain.to_le_bytes());
        bytes
    }
}
