//! An ordered map in memory as the state store's engine, for simulations and as a measure for tests.
//!
//! It forgets what RocksDB would forget: a store that is dropped and opened again on the same [`MemoryState`] is at
//! its last flush. Nothing here is asynchronous and no thread is started, so that a simulation's run depends on its
//! seed alone.

use crate::keys;
use crate::store::put_mutations;
use crate::store_engine::{Aside, Batch, Cursor, Engine, Sizes};
use crate::store_error::StoreError;
use crate::store_folder::sync_folder;
use crate::store_hash::StateHasher;
use ordo_core::{Key, Mutation};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::store::lock;

/// The one file of a checkpoint.
const ROWS: &str = "rows";
/// Written bytes after which the map is flushed, as a full memtable is.
const FLUSH_BYTES: usize = 256 << 10;

/// Rows in memory, as bytes: what a replica's store would hold.
#[derive(Clone, Default)]
pub struct MemoryRows {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes put since the last flush.
    unflushed: usize,
    digest: u128,
}

impl fmt::Debug for MemoryRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryRows({} rows)", self.rows.len())
    }
}

impl MemoryRows {
    /// Takes over what a lump changed.
    pub fn apply(&mut self, mutations: &[Mutation]) {
        put_mutations(mutations, self);
    }

    /// What [`MachineHandle::state_hash`](crate::MachineHandle::state_hash) says of a store with these rows.
    #[must_use]
    pub fn hash(&self) -> u128 {
        let mut hasher = StateHasher::new();
        for (key, value) in &self.rows {
            hasher.row(key, value);
        }
        hasher.finish()
    }
}

impl Batch for MemoryRows {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.unflushed += key.len() + value.len();
        self.digest ^= digest_of(key, value);
        if let Some(old) = self.rows.insert(key.to_vec(), value.to_vec()) {
            self.digest ^= digest_of(key, &old);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.rows.remove(key) {
            self.digest ^= digest_of(key, &old);
        }
    }

    fn delete_range(&mut self, first: &[u8], end: &[u8]) {
        let range = (Bound::Included(first), Bound::Excluded(end));
        let gone: Vec<Vec<u8>> = self
            .rows
            .range::<[u8], _>(range)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.delete(&key);
        }
    }
}

/// What a row adds to a map's digest.
fn digest_of(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = StateHasher::new();
    hasher.row(key, value);
    hasher.finish()
}

/// What of a store in memory survives a crash: its last flush.
#[derive(Clone, Default)]
pub struct MemoryState {
    flushed: Arc<Mutex<MemoryRows>>,
    /// The digest of the store in use.
    digest: Arc<Mutex<u128>>,
    flaw: Option<(Flawed, Flaw)>,
}

/// Which rows a flaw leaves out.
type Flaw = fn(&Key) -> bool;

/// What a flaw is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flawed {
    /// Flushes: what a crash leaves.
    Flushes,
    /// Snapshots: what a node that is far behind is sent.
    Snapshots,
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lock(&self.flushed).fmt(f)
    }
}

impl MemoryState {
    /// A digest of the rows of the store in use, kept at every write: equal rows, equal digests.
    #[must_use]
    pub fn digest(&self) -> u128 {
        *lock(&self.digest)
    }

    /// An empty store whose flushes or snapshots leave out the rows that `flaw` names, to see whether somebody
    /// notices.
    #[must_use]
    pub fn flawed(what: Flawed, flaw: fn(&Key) -> bool) -> Self {
        Self {
            flaw: Some((what, flaw)),
            ..Self::default()
        }
    }

    fn leaves_out(&self, what: Flawed, key: &[u8]) -> bool {
        let flaw = self.flaw.filter(|(flawed, _)| *flawed == what);
        flaw.is_some_and(|(_, flaw)| keys::decode(key).is_ok_and(|key| flaw(&key)))
    }

    /// What a crash at this moment leaves. The store in use goes on without being heard.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let rows = lock(&self.flushed).clone();
        Self {
            digest: Arc::new(Mutex::new(rows.digest)),
            flushed: Arc::new(Mutex::new(rows)),
            flaw: self.flaw,
        }
    }

    /// The store in use.
    pub(crate) fn open_current(&self) -> MemoryEngine {
        let rows = lock(&self.flushed).clone();
        *lock(&self.digest) = rows.digest;
        MemoryEngine {
            rows: RwLock::new(rows),
            flushed: self.clone(),
        }
    }

    /// Makes a checkpoint the store in use, once that takes over.
    pub(crate) fn install(&self, folder: &Path) -> Result<MemoryEngine, StoreError> {
        Ok(MemoryEngine {
            rows: RwLock::new(read_rows(folder)?),
            flushed: self.clone(),
        })
    }

    /// Opens a checkpoint to look at it.
    pub(crate) fn open_to_read(folder: &Path) -> Result<MemoryEngine, StoreError> {
        Ok(MemoryEngine {
            rows: RwLock::new(read_rows(folder)?),
            flushed: Self::default(),
        })
    }
}

pub(crate) struct MemoryEngine {
    rows: RwLock<MemoryRows>,
    flushed: MemoryState,
}

impl MemoryEngine {
    fn rows(&self) -> RwLockReadGuard<'_, MemoryRows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn write(&self, fill: &mut dyn FnMut(&mut dyn Batch)) -> Result<(), StoreError> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        fill(&mut *rows);
        *lock(&self.flushed.digest) = rows.digest;
        let full = rows.unflushed > FLUSH_BYTES;
        drop(rows);
        if full {
            self.flush()?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows().rows.get(key).cloned())
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(MemoryCursor {
            rows: self.rows(),
            at: None,
        })
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.unflushed = 0;
        let mut flushed = rows.clone();
        let left_out = |key: &[u8]| self.flushed.leaves_out(Flawed::Flushes, key);
        flushed.rows.retain(|key, _| !left_out(key));
        *lock(&self.flushed.flushed) = flushed;
        Ok(())
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        self.flush()?;
        fs::create_dir(folder).map_err(StoreError::io("create", folder))?;
        let mut bytes = Vec::new();
        let left_out = |key: &[u8]| self.flushed.leaves_out(Flawed::Snapshots, key);
        for (key, value) in self.rows().rows.iter().filter(|(key, _)| !left_out(key)) {
            for part in [key, value] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        let path = folder.join(ROWS);
        fs::write(&path, bytes).map_err(StoreError::io("write", &path))?;
        sync_folder(folder)
    }

    fn read_aside(self: Arc<Self>, done: Aside) {
        let then = done(&mut *self.cursor());
        then();
    }

    fn take_over(&self) {
        let rows = self.rows();
        *lock(&self.flushed.flushed) = rows.clone();
        *lock(&self.flushed.digest) = rows.digest;
    }

    fn retire(&self) {}

    fn sizes(&self) -> Sizes {
        let rows = self.rows();
        let tables = rows
            .rows
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum();
        Sizes {
            tables,
            memtables: rows.unflushed as u64,
        }
    }
}

fn read_rows(folder: &Path) -> Result<MemoryRows, StoreError> {
    let path = folder.join(ROWS);
    let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
    let mut rows = MemoryRows::default();
    let mut rest = bytes.as_slice();
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (part, after) =
            after.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        rest = after;
        Some(part.to_vec())
    };
    while let Some(key) = part() {
        let value =
            part().ok_or_else(|| StoreError::snapshot(folder, format!("{ROWS} is cut short")))?;
        rows.digest ^= digest_of(&key, &value);
        rows.rows.insert(key, value);
    }
    Ok(rows)
}

struct MemoryCursor<'a> {
    rows: RwLockReadGuard<'a, MemoryRows>,
    at: Option<Vec<u8>>,
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.at = self
            .rows
            .rows
            .range::<[u8], _>((Bound::Included(key), Bound::Unbounded))
            .next()
            .map(|(key, _)| key.clone());
    }

    fn next(&mut self) {
        let Some(at) = self.at.take() else { return };
        let behind = (Bound::Excluded(at.as_slice()), Bound::Unbounded);
        self.at = self
            .rows
            .rows
            .range::<[u8], _>(behind)
            .next()
            .map(|(key, _)| key.clone());
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.rows.rows.get_key_value(self.at.as_ref()?)?;
        Some((key, value))
    }

    fn status(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
