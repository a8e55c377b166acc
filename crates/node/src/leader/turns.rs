//! Things that take turns.

use std::collections::BTreeMap;

/// Things that take turns; each stands in it once, and can go from anywhere.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    by_turn: BTreeMap<u64, T>,
    turn_of: BTreeMap<T, u64>,
    last: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            by_turn: BTreeMap::new(),
            turn_of: BTreeMap::new(),
            last: 0,
        }
    }
}

impl<T: Ord + Clone> Turns<T> {
    /// Puts it at the end, unless it stands there.
    pub(crate) fn push_back(&mut self, thing: T) {
        if self.turn_of.contains_key(&thing) {
            return;
        }
        self.last += 1;
        self.turn_of.insert(thing.clone(), self.last);
        self.by_turn.insert(self.last, thing);
    }

    /// The first one.
    pub(crate) fn first(&self) -> Option<&T> {
        self.by_turn.values().next()
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let (_, thing) = self.by_turn.pop_first()?;
        self.turn_of.remove(&thing);
        Some(thing)
    }

    pub(crate) fn remove(&mut self, thing: &T) {
        if let Some(turn) = self.turn_of.remove(thing) {
            self.by_turn.remove(&turn);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }
}
