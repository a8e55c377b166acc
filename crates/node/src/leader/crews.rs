//! The workers of one stage, by the interfaces that they serve.

use super::events::SessionId;
use super::turns::Turns;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The workers of one stage: a crew for every prefix that one of them has named.
#[derive(Debug, Default)]
pub(crate) struct Crews {
    crews: BTreeMap<Arc<str>, Crew>,
    /// How many crews have prefixes of so many bytes.
    lengths: BTreeMap<usize, usize>,
    workers: usize,
}

/// The workers of one stage with one prefix.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    pub(crate) workers: BTreeSet<SessionId>,
    /// Those that may have room, by turns.
    pub(crate) free: Turns<SessionId>,
    /// Which interface's turn it is.
    pub(crate) cursor: Cursor,
}

/// Where a crew stands in its interfaces' names.
#[derive(Clone, Debug, Default)]
pub(crate) enum Cursor {
    /// Before the first.
    #[default]
    Start,
    /// Within this one's turn.
    At(Arc<str>),
    /// This one had its turn.
    After(Arc<str>),
}

impl Crews {
    pub(crate) fn join(&mut self, prefix: &Arc<str>, session: SessionId) {
        let lengths = &mut self.lengths;
        let crew = self.crews.entry(Arc::clone(prefix)).or_insert_with(|| {
            *lengths.entry(prefix.len()).or_default() += 1;
            Crew::default()
        });
        self.workers += usize::from(crew.workers.insert(session));
    }

    pub(crate) fn leave(&mut self, prefix: &Arc<str>, session: SessionId) {
        let Some(crew) = self.crews.get_mut(prefix) else {
            return;
        };
        self.workers -= usize::from(crew.workers.remove(&session));
        crew.free.remove(&session);
        if !crew.workers.is_empty() {
            return;
        }
        self.crews.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }

    pub(crate) fn get_mut(&mut self, prefix: &str) -> Option<&mut Crew> {
        self.crews.get_mut(prefix)
    }

    /// How many workers there are.
    pub(crate) const fn workers(&self) -> usize {
        self.workers
    }

    /// The prefixes that an interface's name begins with, of those that have a crew.
    pub(crate) fn serving<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Crew)> {
        let lengths = self
            .lengths
            .keys()
            .take_while(|length| **length <= name.len());
        lengths.filter_map(|length| self.crews.get_key_value(name.get(..*length)?))
    }
}
