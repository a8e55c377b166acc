//! Points in time, at most one per thing that waits.

use std::collections::{BTreeMap, BTreeSet};

/// Points in time, at most one per thing that waits; by monotonic or by cluster time.
#[derive(Debug)]
pub(crate) struct Deadlines<T, K> {
    due: BTreeSet<(T, K)>,
    of: BTreeMap<K, T>,
}

impl<T, K> Default for Deadlines<T, K> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            of: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Copy, K: Ord + Copy> Deadlines<T, K> {
    /// Replaces the one there is.
    pub(crate) fn set(&mut self, key: K, at: T) {
        if let Some(before) = self.of.insert(key, at) {
            self.due.remove(&(before, key));
        }
        self.due.insert((at, key));
    }

    /// Removes the one there is.
    pub(crate) fn clear(&mut self, key: K) {
        if let Some(before) = self.of.remove(&key) {
            self.due.remove(&(before, key));
        }
    }

    /// Sets it unless there is an earlier one.
    pub(crate) fn set_earlier(&mut self, key: K, at: T) {
        if self.of.get(&key).is_none_or(|there| at < *there) {
            self.set(key, at);
        }
    }

    /// The first one.
    pub(crate) fn next(&self) -> Option<T> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(crate) fn pop_due(&mut self, now: T) -> Option<K> {
        let (at, key) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, key));
        self.of.remove(&key);
        Some(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}
