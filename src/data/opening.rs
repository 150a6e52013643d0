//! Opening a data directory on the real disk: made if it is not there, locked, with its ring of keys.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::disk::real::{LOCK, Lock, RealDisk};
use crate::disk::seal::{Entropy, KeyRing, require_private};
use crate::disk::wal::SEGMENT_BYTES;

use super::files::{BACKUPS, Files, IDENTITY, Keys, RESERVE_BYTES};

/// How often a directory that is in use is asked for again, and how long between.
const LOCK_TRIES: u32 = 20;
/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Opens a directory for a node; at `at_ms` (unix milliseconds), should a key have to be made. The directory is
/// this process's own until the lock is dropped.
///
/// # Errors
/// It cannot be made, opened or locked; the ring of keys cannot be read, is open to others, or is not there
/// although there are data.
pub fn open(directory: &Path, ring: Option<&Path>, at_ms: u64) -> Result<(Files, Lock), String> {
    let fault = |error: io::Error| error.to_string();
    let disk = RealDisk::open(directory).map_err(fault)?;
    let lock = lock(&disk).map_err(fault)?;
    let backups = RealDisk::open(&directory.join(BACKUPS)).map_err(fault)?;
    let is_new = !disk
        .list()
        .map_err(fault)?
        .iter()
        .any(|file| file.name == IDENTITY);
    let keys = ring.map(|path| keys(path, is_new, at_ms)).transpose()?;
    let files = Files {
        disk: Arc::new(disk),
        backups: Arc::new(backups),
        keys,
        entropy: kernel_entropy,
        segment_bytes: SEGMENT_BYTES,
        reserve_bytes: RESERVE_BYTES,
    };
    Ok((files, lock))
}

/// Locks the directory. One that is taken is asked for again for a while: a process that was killed holds it until
/// its memory is gone.
#[expect(
    clippy::disallowed_methods,
    reason = "the reactor does not run yet, and this lock is on no simulated disk"
)]
fn lock(disk: &RealDisk) -> io::Result<Lock> {
    let mut left = LOCK_TRIES;
    loop {
        match disk.try_lock() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && left > 0 => {
                left -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            locked => return locked,
        }
    }
}

/// The ring in this file. It is made if it is not there and nothing can have been sealed yet.
///
/// # Errors
/// It cannot be read or is open to others.
pub fn keys(path: &Path, may_make: bool, at_ms: u64) -> Result<Keys, String> {
    let shown = path.display();
    let (parent, name) = split(path)?;
    let disk = RealDisk::open(parent).map_err(|error| format!("{shown}: {error}"))?;
    let ring = if path.exists() {
        require_private(path)?;
        KeyRing::open(&disk, name).map_err(|damage| damage.to_string())?
    } else if may_make {
        log::info!(
            "made the ring of keys {shown}: keep a copy of it, nothing can be read without it"
        );
        KeyRing::create(&disk, name, at_ms, &mut kernel_entropy())
            .map_err(|error| format!("{shown}: {error}"))?
    } else {
        return Err(format!(
            "{shown}: there is no such ring of keys; one is made only together with new data"
        ));
    };
    Ok(Keys {
        disk: Arc::new(disk),
        name: name.to_owned(),
        ring: Arc::new(ring),
    })
}

/// The directory that a file is in, or will be, and its name there.
///
/// # Errors
/// There is no such directory, or the name is none for a file.
pub fn file(path: &Path) -> Result<(RealDisk, String), String> {
    let (parent, name) = split(path)?;
    Ok((existing(parent)?, name.to_owned()))
}

fn split(path: &Path) -> Result<(&Path, &str), String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(name) = name.filter(|name| *name != LOCK) else {
        return Err(format!("{}: is no file name", path.display()));
    };
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Ok((parent, name)),
        _ => Ok((Path::new("."), name)),
    }
}

/// A directory that must be there.
///
/// # Errors
/// It is not there or cannot be opened.
pub fn existing(directory: &Path) -> Result<RealDisk, String> {
    let shown = directory.display();
    match directory.is_dir() {
        true => RealDisk::open(directory).map_err(|error| format!("{shown}: {error}")),
        false => Err(format!("{shown}: there is no such directory")),
    }
}

/// Random bytes from the kernel.
pub fn kernel_entropy() -> Entropy {
    Box::new(|bytes| {
        // Without random numbers there is no safe key and no safe salt: nothing must be written.
        getrandom::fill(bytes).expect("the kernel gives random numbers");
    })
}
