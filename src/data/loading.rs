//! From the files of a directory to shards: what a node does when it starts, and the tools to find out whether one
//! could.

use std::sync::Arc;

use crate::cluster::map::META;
use crate::disk::image::read::{ImageReader, Keys};
use crate::disk::wal::Record;
use crate::disk::wal::replay::{self, End};
use crate::disk::{Damage, Disk};
use crate::failpoint::{self, Point};
use crate::shard::meta::{CONTINUES, Meta};
use crate::shard::recovery::Recovery;
use crate::shard::section;
use crate::store::HashSeed;

/// Keys that room is made for at once, seven bytes each, because a file says so.
const ROOM_KEYS_MAX: u64 = 64 << 20;
/// Claims of fewer keys are not looked into.
const KEYS_UNDOUBTED: u64 = 64 << 10;
/// Most keys in one byte of an image: an entry has three bytes at least, and LZ4 makes one of 255 at best.
const KEYS_PER_BYTE_MAX: u64 = 255 / 3;

/// Loads an image, a shard after the other, and gives each to `shard` once it is complete. What was read, bytes of
/// the file and keys, is told to `read` on the way. Returns what the image says of itself.
///
/// # Errors
/// The image is damaged, is sealed with a key that `keys` does not know, or does not hold what it says.
pub fn image(
    disk: Arc<dyn Disk>,
    name: &str,
    keys: Keys<'_>,
    seed: HashSeed,
    read: &mut dyn FnMut(u64, u64),
    shard: &mut dyn FnMut(Recovery),
) -> Result<Meta, Damage> {
    let (mut reader, meta) = ImageReader::open(disk, name, keys)?;
    let meta = Meta::decode(&meta).map_err(|reason| Damage::new(name, 0, reason))?;
    doubt(&reader, name, &meta)?;
    let (mut block, mut whole) = (Vec::new(), Vec::new());
    let mut at = reader.position();
    let mut tag = reader.next(&mut block)?;
    for part in &meta.parts {
        let mut recovery = Recovery::new(part.shard, seed);
        let keys = part.keys.min(ROOM_KEYS_MAX) as usize;
        recovery.begin_from(part, keys);
        let mut count = 0;
        while let Some(of_part) = tag.filter(|tag| tag & !CONTINUES == u32::from(part.shard)) {
            whole.extend_from_slice(&block);
            let mut loaded = 0;
            if of_part & CONTINUES == 0 {
                loaded = recovery
                    .load(&whole)
                    .map_err(|reason| Damage::new(name, at, reason))?
                    as u64;
                whole.clear();
            }
            count += loaded;
            read(reader.position() - at, loaded);
            at = reader.position();
            tag = reader.next(&mut block)?;
        }
        failpoint::reach(Point::SnapshotLoaded);
        if count != part.keys || !whole.is_empty() {
            let (number, keys) = (part.shard, part.keys);
            let reason = format!("shard {number} ends here with {count} keys instead of {keys}");
            return Err(Damage::new(name, at, reason));
        }
        shard(recovery);
    }
    match tag {
        None => Ok(meta),
        Some(tag) => {
            let reason = format!("a block of shard {} stands here", tag & !CONTINUES);
            Err(Damage::new(name, at, reason))
        }
    }
}

/// Refuses an image that cannot hold as many keys as it says, before room is made for them.
fn doubt(reader: &ImageReader, name: &str, meta: &Meta) -> Result<(), Damage> {
    let keys = meta.parts.iter().map(|part| part.keys);
    let keys = keys.fold(0, u64::saturating_add);
    if keys < KEYS_UNDOUBTED || reader.reaches(keys / KEYS_PER_BYTE_MAX)? {
        return Ok(());
    }
    Err(Damage::new(name, 0, format!("too short for {keys} keys")))
}

/// Who is told of a record, and of the last entry in it of each shard that has any: shard and index.
pub type OnRecord<'r> = &'r mut dyn FnMut(&Record<'_>, &[(u16, u64)]);

/// The shard of this number; the meta shard is the last, if it is there.
fn find(shards: &mut [Recovery], number: u16) -> Option<&mut Recovery> {
    let shard = match number {
        META => shards.last_mut(),
        number => shards.get_mut(usize::from(number)),
    };
    shard.filter(|shard| shard.number() == number)
}

/// Replays the log into all shards, which stand in the order of their numbers.
///
/// # Errors
/// The log is damaged, is sealed with a key that `keys` does not know, or does not fit to the shards.
pub fn log(
    disk: &dyn Disk,
    keys: Keys<'_>,
    shards: &mut [Recovery],
    read: OnRecord<'_>,
) -> Result<End, Damage> {
    let mut marks = Vec::new();
    let end = replay::replay(disk, keys, &mut |record| {
        marks.clear();
        for section in section::read(record.payload)? {
            let Some(shard) = find(shards, section.shard) else {
                // The cluster that was joined may have fewer than the node had, which had nothing.
                if section.base.is_none() && section.entries.is_empty() {
                    continue;
                }
                return Err(format!("there is no shard {}", section.shard));
            };
            shard.section(&section)?;
            let base = section.base.as_ref().map(|base| base.index);
            let last = section.entries.last().map(|last| last.index);
            marks.extend(base.max(last).map(|index| (section.shard, index)));
        }
        read(record, &marks);
        Ok(())
    })?;
    for shard in shards {
        shard
            .check()
            .map_err(|reason| Damage::new("the log", 0, reason))?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::image::write::ImageWriter;
    use crate::disk::seal::Entropy;
    use crate::disk::sim::SimDisk;
    use crate::shard::members::Members;
    use crate::shard::meta::Part;
    use crate::shard::section::HardState;
    use crate::shard::{ALONE, Applying};

    #[test]
    fn no_room_is_made_for_keys_that_cannot_be_there() {
        for (keys, reason) in [
            (KEYS_UNDOUBTED - 1, "ends here with 0 keys"),
            (KEYS_UNDOUBTED, "too short"),
            (u64::MAX, "too short"),
        ] {
            let part = Part {
                shard: 0,
                applied: Applying::default(),
                state: HardState::default(),
                keys,
                replica: ALONE,
                members: Members::of(&[ALONE]),
            };
            let meta = Meta {
                shards: 2,
                parts: vec![part],
            };
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
            let mut entropy: Entropy = Box::new(|bytes| bytes.fill(1));
            let writer =
                ImageWriter::create(disk.clone(), "image", None, &mut entropy, &meta.encode());
            writer.and_then(ImageWriter::finish).expect("a sound disk");
            let seed = HashSeed(1, 2);
            let loaded = image(disk, "image", &|_| None, seed, &mut |_, _| {}, &mut drop);
            let damage = loaded.expect_err("there are no keys");
            assert!(damage.reason.contains(reason), "{damage}");
        }
    }
}
