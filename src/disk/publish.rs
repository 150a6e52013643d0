//! How a whole file takes a name: written beside it, then moved there.
//!
//! ```text
//!   NAME.tmp   write … sync        the bytes are on the disk, under a name that nobody reads
//!   rename     NAME.tmp -> NAME    from here on a crash leaves the old file or the new one
//!   sync       the directory       from here on the new one
//! ```
//!
//! Invariant: no file is ever changed under the name that it is read by, and none is seen half-written. A crash
//! may leave a `NAME.tmp`: nobody reads it, and whoever writes the next one removes it first.

use std::io;

use super::{DIRECTORY, Disk};
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};

const TEMPORARY: &str = ".tmp";

/// The name that a file has while it is written.
pub(super) fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Whether a file of this name was left by a writer that did not finish. Nobody reads it again.
pub fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// Makes room for the temporary file of `name`: a longer one left by a crash would show behind the new bytes.
pub(super) fn clear(disk: &dyn Disk, name: &str) -> io::Result<()> {
    let temporary = temporary(name);
    match disk.list()?.iter().any(|file| file.name == temporary) {
        true => disk.remove(&temporary),
        false => Ok(()),
    }
}

/// Gives the temporary file of `name`, all written, its name; on return that is durable.
pub(super) fn publish(disk: &dyn Disk, name: &str) -> io::Result<()> {
    let temporary = temporary(name);
    failpoint::reach(Point::FileEnded);
    if !planted::is(Bug::ImageNotSynced) {
        disk.sync(&temporary)?;
    }
    failpoint::reach(Point::FileSynced);
    disk.rename(&temporary, name)?;
    failpoint::reach(Point::FileRenamed);
    match planted::is(Bug::NameNotSynced) {
        true => Ok(()),
        false => disk.sync(DIRECTORY),
    }
}
