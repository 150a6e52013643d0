//! The map of the cluster as a file: the last one that this node knew.
//!
//! An image without blocks, as the identity is; all of it is the text that `cluster::map` draws. Whoever holds a
//! replica of the meta shard has the map there as well; the others find here whom to ask. It may be old.

use std::io;
use std::sync::Arc;

use crate::cluster::map::Map;
use crate::disk::image::read::ImageReader;
use crate::disk::image::write::ImageWriter;
use crate::disk::seal::Entropy;
use crate::disk::{Damage, Disk};
use crate::failpoint::{self, Point};

use super::files::MAP;

/// Writes a map, in place of the one that is there; on return it is durable.
///
/// # Errors
/// The disk's.
pub fn write(disk: Arc<dyn Disk>, entropy: &mut Entropy, text: &str) -> io::Result<()> {
    failpoint::reach(Point::MapFileBegun);
    let writer = ImageWriter::create(disk, MAP, None, entropy, text.as_bytes())?;
    writer.finish().map(drop)
}

/// Reads the map.
///
/// # Errors
/// It is damaged.
pub fn read(disk: Arc<dyn Disk>) -> Result<Map, Damage> {
    let (mut reader, text) = ImageReader::open(disk, MAP, &|_| None)?;
    reader.next(&mut Vec::new())?;
    Map::decode(&text).map_err(|reason| Damage::new(MAP, 0, reason))
}
