//! One number for a whole state: replicas at the same applied index have the same.

use crate::keys;
use crate::store_engine::Cursor;
use crate::store_error::StoreError;
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// The hash of every row, in key order, at one applied index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// The last applied index.
    pub index: u64,
    /// XXH3, 128 bits.
    pub hash: u128,
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} at {}", self.hash, self.index)
    }
}

/// Takes rows in key order. Raft's own rows are not among them: a term's blank entries leave the state as it is.
#[derive(Default)]
pub struct StateHasher(Xxh3);

impl StateHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next row. Lengths go in too, so that no two lists of rows look the same.
    pub fn row(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The hash of what it took.
    #[must_use]
    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

/// The hash of all that `cursor` sees; `None` when it is no longer wanted.
pub(crate) fn hash(
    cursor: &mut dyn Cursor,
    is_wanted: impl Fn() -> bool,
) -> Result<Option<u128>, StoreError> {
    let mut hasher = StateHasher::new();
    cursor.seek(keys::STATE_FROM);
    while let Some((key, value)) = cursor.item() {
        if !is_wanted() {
            return Ok(None);
        }
        hasher.row(key, value);
        cursor.next();
    }
    cursor.status()?;
    Ok(Some(hasher.finish()))
}
