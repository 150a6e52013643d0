//! The least disk that loses what was not synced, and refuses from a chosen change on.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use marline::disk::{DIRECTORY, Disk, FileInfo};

#[derive(Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    /// Writes, syncs, renames and removals so far.
    changes: usize,
    /// Changes that are done before all fail.
    changes_max: Option<usize>,
    /// Lengths of all writes, and the most bytes written between two syncs of a file.
    writes: Vec<usize>,
    unsynced: usize,
    unsynced_max: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct MemoryDisk(Mutex<State>);

impl MemoryDisk {
    pub(crate) fn new() -> Arc<MemoryDisk> {
        Arc::default()
    }

    /// A disk with one file, which is durable.
    pub(crate) fn with(name: &str, bytes: &[u8]) -> Arc<MemoryDisk> {
        let disk = MemoryDisk::new();
        disk.write(name, 0, bytes).unwrap();
        disk.sync(name).unwrap();
        disk.sync(DIRECTORY).unwrap();
        disk
    }

    /// All of a file.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.files[state.names[name]].now.clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        state.names.keys().cloned().collect()
    }

    /// From now on `count` changes are done, and then none.
    pub(crate) fn fail_after(&self, count: usize) {
        let mut state = self.0.lock().unwrap();
        state.changes = 0;
        state.changes_max = Some(count);
    }

    pub(crate) fn changes(&self) -> usize {
        self.0.lock().unwrap().changes
    }

    /// (the lengths of all writes, the most bytes written between two syncs)
    pub(crate) fn writes(&self) -> (Vec<usize>, usize) {
        let state = self.0.lock().unwrap();
        (state.writes.clone(), state.unsynced_max)
    }

    /// The power goes and comes back: what was not synced is gone.
    pub(crate) fn crash(&self) {
        let mut state = self.0.lock().unwrap();
        state.names = state.synced_names.clone();
        for file in &mut state.files {
            file.now = file.synced.clone();
        }
        state.changes_max = None;
    }
}

impl State {
    fn change(&mut self) -> io::Result<()> {
        if self.changes_max.is_some_and(|most| self.changes >= most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.changes += 1;
        Ok(())
    }

    fn at(&self, name: &str) -> io::Result<usize> {
        let at = self.names.get(name);
        at.copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.0.lock().unwrap();
        let files = state.names.iter().map(|(name, at)| FileInfo {
            name: name.clone(),
            bytes: state.files[*at].now.len() as u64,
        });
        Ok(files.collect())
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.0.lock().unwrap();
        let file = &state.files[state.at(name)?].now;
        let rest = &file[file.len().min(offset as usize)..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.change()?;
        if !state.names.contains_key(name) {
            state.files.push(File::default());
            let at = state.files.len() - 1;
            state.names.insert(name.to_owned(), at);
        }
        let at = state.at(name)?;
        let file = &mut state.files[at].now;
        let end = offset as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[offset as usize..end].copy_from_slice(bytes);
        state.writes.push(bytes.len());
        state.unsynced += bytes.len();
        state.unsynced_max = state.unsynced_max.max(state.unsynced);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.change()?;
        if name == DIRECTORY {
            state.synced_names = state.names.clone();
            return Ok(());
        }
        let at = state.at(name)?;
        state.files[at].synced = state.files[at].now.clone();
        state.unsynced = 0;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.change()?;
        let at = state.at(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), at);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.change()?;
        state.at(name)?;
        state.names.remove(name);
        Ok(())
    }
}
