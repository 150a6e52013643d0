//! The disk of the operating system: one directory, opened for one process.
//!
//! Descriptors stay open between calls, because a log writes and syncs the same file thousands of times a second.
//! One with writes that were not synced is never closed: Linux reports a failed write-back to a descriptor once,
//! and one opened later may not hear of it. Files are made for their owner alone (0600), the directory too (0700).
//!
//! Errors say which file they are about and keep their [`kind`](io::Error::kind): a full disk is
//! [`io::ErrorKind::StorageFull`], an exceeded quota [`io::ErrorKind::QuotaExceeded`]. The error of the operating
//! system is the [`source`](std::error::Error::source) of what they hold.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DIRECTORY, Disk, FileInfo};

/// The file that is locked while a process uses the directory; it is not listed.
pub const LOCK: &str = "LOCK";
/// So many descriptors are kept open, and those with unsynced writes besides.
const OPEN_FILES_MAX: usize = 16;

/// A directory.
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    /// Not locked during a call of the operating system: who writes to one file waits for nobody's other.
    open: Mutex<BTreeMap<String, Open>>,
}

/// A file that is open.
struct Open {
    file: Arc<File>,
    is_writable: bool,
    /// It was written to, and not synced since.
    is_dirty: bool,
}

/// The directory is in use by this process while this value lives.
pub struct Lock {
    _file: File,
}

/// An error of the operating system, and what it is about.
#[derive(Debug)]
struct Named {
    name: String,
    error: io::Error,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}

impl std::error::Error for Named {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

fn named(name: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| {
        let name = name.to_string();
        io::Error::new(error.kind(), Named { name, error })
    }
}

impl RealDisk {
    /// Opens a directory, which is made if there is none.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        if !path.is_dir() {
            make_directory(path)?;
        }
        let directory = File::open(path).map_err(named(path.display()))?;
        Ok(RealDisk {
            path: path.to_owned(),
            directory,
            open: Mutex::new(BTreeMap::new()),
        })
    }

    /// Locks the directory for this process.
    ///
    /// # Errors
    /// Another process uses it ([`io::ErrorKind::WouldBlock`]), or one of the operating system.
    pub fn try_lock(&self) -> io::Result<Lock> {
        let path = self.path.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(named(path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(named(path.display())(error)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // For people only: the lock counts, not what stands in the file.
                let _ = file.take(20).read_to_string(&mut owner);
                let reason = format!("another process uses this directory ({})", owner.trim());
                let error = io::Error::new(io::ErrorKind::WouldBlock, reason);
                return Err(named(self.path.display())(error));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(named(path.display()))?;
        Ok(Lock { _file: file })
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        assert!(!name.is_empty() && !name.contains('/') && name != LOCK);
        self.path.join(name)
    }

    /// The file's descriptor; opened, and for writing made, if need be.
    fn file(&self, name: &str, to_write: bool) -> io::Result<Arc<File>> {
        if let Some(open) = self.files().get_mut(name)
            && (open.is_writable || !to_write)
        {
            open.is_dirty |= to_write;
            return Ok(Arc::clone(&open.file));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(to_write)
            .create(to_write)
            .truncate(false)
            .mode(0o600)
            .open(self.path_of(name))?;
        let mut files = self.files();
        if files.len() >= OPEN_FILES_MAX {
            files.retain(|_, open| open.is_dirty);
        }
        let open = Open {
            file: Arc::new(file),
            is_writable: to_write,
            is_dirty: to_write,
        };
        let file = Arc::clone(&open.file);
        files.insert(name.to_owned(), open);
        Ok(file)
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        let file = self.file(name, false)?;
        // Before it is true, so that a write that comes meanwhile is not forgotten; `file` keeps it open.
        if let Some(open) = self.files().get_mut(name) {
            open.is_dirty = false;
        }
        file.sync_data()
    }
}

/// Makes a directory, and those it is in, and makes their names durable.
fn make_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        make_directory(parent)?;
    }
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(path) {
        // Somebody else has just made it, for another directory in it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(named(path.display()))?,
    }
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(named(parent.display()))
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let about = || named(self.path.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(about())? {
            let entry = entry.map_err(about())?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(about())?,
            };
            if let Ok(name) = entry.file_name().into_string()
                && metadata.is_file()
                && name != LOCK
            {
                let bytes = metadata.len();
                files.push(FileInfo { name, bytes });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name, false).map_err(named(name))?;
        let mut length = 0;
        while length < into.len() {
            match file.read_at(&mut into[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(named(name)(error)),
            }
        }
        Ok(length)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name, true)
            .and_then(|file| file.write_all_at(bytes, offset))
            .map_err(named(name))?;
        // Again: a sync may have come between.
        if let Some(open) = self.files().get_mut(name) {
            open.is_dirty = true;
        }
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        match name {
            DIRECTORY => (self.directory.sync_all()).map_err(named(self.path.display())),
            _ => self.sync_file(name).map_err(named(name)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path_of(from), self.path_of(to)).map_err(named(from))?;
        let mut files = self.files();
        files.remove(to);
        if let Some(open) = files.remove(from) {
            files.insert(to.to_owned(), open);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path_of(name)).map_err(named(name))?;
        self.files().remove(name);
        Ok(())
    }
}
