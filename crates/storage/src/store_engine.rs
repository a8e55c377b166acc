//! The seam under the state store: an ordered map from bytes to bytes that writes batches whole.
//!
//! RocksDB is behind it ([`crate::store_rocks`]); a simulation can put another map there, with a crash of its own.

use crate::store_error::StoreError;
use std::path::Path;
use std::sync::Arc;

/// An ordered map on a disk.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Writes what `fill` puts in the batch: all of it or, after a crash, nothing, and nothing of a later batch
    /// without it. Durable only after [`Engine::flush`].
    fn write(&self, fill: &mut dyn FnMut(&mut dyn Batch)) -> Result<(), StoreError>;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// A cursor over the map as it is now, whatever is written later; it stands nowhere until it is sent somewhere.
    fn cursor(&self) -> Box<dyn Cursor + '_>;

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), StoreError>;

    /// Flushes, and puts a copy of the map into `folder`, which must not exist. Changes nothing for others.
    fn checkpoint(&self, folder: &Path) -> Result<(), StoreError>;

    /// Reads the map as it is at this call, in key order, on another thread where there is one: `done` is called with
    /// a cursor.
    fn read_aside(self: Arc<Self>, done: Aside);

    /// The engine is the one in use from now on.
    fn take_over(&self) {}

    /// The engine is no longer wanted: its folder goes when the last handle does.
    fn retire(&self);

    /// Why writes are about to be held up, where they are: what is written comes faster than the disk takes it.
    fn behind(&self) -> Option<String> {
        None
    }

    /// Sizes, for metrics.
    fn sizes(&self) -> Sizes;
}

/// Runs with a cursor over a map that stands still.
pub(crate) type Aside = Box<dyn FnOnce(&mut dyn Cursor) -> Then + Send>;

/// What runs once the map is let go of: whoever it tells may close the store and open it again.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

/// Changes that are written together.
pub(crate) trait Batch {
    /// Writes a value.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes a value, or does nothing.
    fn delete(&mut self, key: &[u8]);
    /// Removes all values from `first` up to and without `end`; `first` is below `end`.
    fn delete_range(&mut self, first: &[u8], end: &[u8]);
}

/// A place in the map.
pub(crate) trait Cursor {
    /// Goes to the first key at or after `key`.
    fn seek(&mut self, key: &[u8]);
    /// Goes to the next key.
    fn next(&mut self);
    /// Key and value here; `None` past the end, or after an error.
    fn item(&self) -> Option<(&[u8], &[u8])>;
    /// Whether the end was the end, and not damage.
    fn status(&self) -> Result<(), StoreError>;
}

/// How large the map is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// In table files on the disk.
    pub tables: u64,
    /// In memory, not flushed yet.
    pub memtables: u64,
}
