//! Whether this node leads.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

/// One run of one leader: what an ingest stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// The Raft term.
    pub term: u64,
    /// The run within it.
    pub run: u64,
}

/// Whether this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another node leads, or none.
    Following,
    /// Elected; the term's first entry is not applied yet, so nothing opens.
    Opening,
    /// Leads.
    Leading(RunId),
    /// The node stops.
    Stopping,
}

impl Standing {
    /// The run, while streams may be open.
    #[must_use]
    pub const fn run(self) -> Option<RunId> {
        match self {
            Self::Leading(run) => Some(run),
            _ => None,
        }
    }

    /// The term, while streams may be open.
    #[must_use]
    pub const fn term(self) -> Option<u64> {
        match self {
            Self::Leading(run) => Some(run.term),
            _ => None,
        }
    }
}

/// How old a quorum's last acknowledgement is; `None` when there was none.
pub type QuorumAge = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// For how long no other leader can have been chosen: followers grant no vote for a lease after they heard of this
/// one, so a quorum's acknowledgement is good for that long after the request was *sent*.
#[derive(Default)]
pub struct QuorumLease(OnceLock<(Duration, QuorumAge)>);

impl fmt::Debug for QuorumLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuorumLease")
    }
}

impl QuorumLease {
    /// Says how long an acknowledgement is good, and where the age of the last one can be read.
    pub fn connect(&self, lease: Duration, age: QuorumAge) {
        // A second proposer task for one node would be a mistake that shows elsewhere: the first stays.
        let _ = self.0.set((lease, age));
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.0
            .get()
            .is_some_and(|(lease, age)| age().is_some_and(|age| age < *lease))
    }

    /// Whether no quorum has acknowledged this leader for so many leases.
    #[must_use]
    pub fn is_lapsed_for(&self, leases: u32) -> bool {
        self.0
            .get()
            .is_some_and(|(lease, age)| age().is_none_or(|age| age >= *lease * leases))
    }
}
