//! A disk in memory that keeps what was written apart from what was synced, for crash tests.
//!
//! [`MemDisk::crash`] makes the disk a machine could find after losing power at that moment: what was synced, and of
//! the rest any selection of 512-byte sectors and of folder operations. [`MemDisk::fail_after`] makes it fail at a
//! chosen operation, so that a test can stop at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    folder_operations: Vec<FolderOperation>,
    /// How many changing operations succeed before all fail; `None` for no limit.
    operations_left: Option<u64>,
    operations: u64,
    syncs: u64,
}

#[derive(Default, Clone)]
struct Content {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors that were written and not synced.
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum FolderOperation {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl FolderOperation {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl MemDisk {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing operations (writes, syncs, folder operations) were made.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many times a file was synced.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Lets `operations` more changing operations succeed. The one after that happens in part (a write reaches the
    /// cache, a sync does not reach the disk) and fails, and so do all that follow.
    pub fn fail_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// The folder after a power loss at this moment. `persists` says of each unsynced sector and folder operation
    /// whether it had reached the disk.
    pub fn crash(&self, mut persists: impl FnMut() -> bool) -> Self {
        let state = self.lock();
        let mut names = state.synced_names.clone();
        for operation in &state.folder_operations {
            if persists() {
                operation.apply(&mut names);
            }
        }
        let files = state
            .files
            .iter()
            .map(|content| content.crash(&mut persists))
            .collect();
        let state = State {
            files,
            synced_names: names.clone(),
            names,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The folder after the process ended while the machine went on: everything written is there, nothing more is
    /// synced than before.
    pub fn process_ends(&self) -> Self {
        let state = self.lock();
        let state = State {
            files: state.files.clone(),
            names: state.names.clone(),
            synced_names: state.synced_names.clone(),
            folder_operations: state.folder_operations.clone(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Flips one bit of what was written and synced. False where the file has no such byte.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) -> bool {
        let mut state = self.lock();
        let Some(file) = state.names.get(name).copied() else {
            return false;
        };
        let content = &mut state.files[file];
        let mut flipped = false;
        for bytes in [&mut content.written, &mut content.synced] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        }
        flipped
    }

    /// A copy of a file's bytes as written.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = *state.names.get(name)?;
        Some(state.files[file].written.clone())
    }
}

impl Content {
    fn crash(&self, persists: &mut impl FnMut() -> bool) -> Self {
        let mut bytes = self.synced.clone();
        for sector in &self.dirty {
            if !persists() {
                continue;
            }
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.written.len());
            if start < end {
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(&self.written[start..end]);
            }
        }
        Self {
            synced: bytes.clone(),
            written: bytes,
            dirty: BTreeSet::new(),
        }
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            *left -= 1;
        }
        self.operations += 1;
        Ok(())
    }

    fn folder(&mut self, operation: FolderOperation) {
        operation.apply(&mut self.names);
        self.folder_operations.push(operation);
    }

    fn must_exist(&self, name: &str) -> io::Result<usize> {
        let file = self.names.get(name).copied();
        file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")))
    }
}

impl Disk for MemDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.spend()?;
        let file = state.files.len();
        state.files.push(Content::default());
        state.folder(FolderOperation::Create(name.to_owned(), file));
        Ok(Arc::new(MemFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().must_exist(name)?;
        Ok(Arc::new(MemFile {
            disk: self.clone(),
            file,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.must_exist(from)?;
        let spent = state.spend();
        state.folder(FolderOperation::Rename(from.to_owned(), to.to_owned()));
        spent
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.must_exist(name)?;
        let spent = state.spend();
        state.folder(FolderOperation::Remove(name.to_owned()));
        spent
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.spend()?;
        state.synced_names = state.names.clone();
        state.folder_operations.clear();
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    file: usize,
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.files[self.file]
            .written
            .get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let spent = state.spend();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + data.len();
        let content = &mut state.files[self.file];
        if content.written.len() < end {
            content.written.resize(end, 0);
        }
        content.written[start..end].copy_from_slice(data);
        content.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        spent
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.file].written.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.spend()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let content = &mut state.files[self.file];
        let old = content.written.len();
        content.written.resize(length, 0);
        content
            .dirty
            .extend(old.min(length) / SECTOR..old.max(length).div_ceil(SECTOR));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.spend()?;
        state.syncs += 1;
        let content = &mut state.files[self.file];
        // Only what changed is copied: segments are large and syncs are many.
        let length = content.written.len();
        content.synced.resize(length, 0);
        for sector in std::mem::take(&mut content.dirty) {
            let start = (sector * SECTOR).min(length);
            let end = (start + SECTOR).min(length);
            content.synced[start..end].copy_from_slice(&content.written[start..end]);
        }
        Ok(())
    }
}
