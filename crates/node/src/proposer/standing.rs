//! Whether this node leads.

use ordo_wire::lease::BootClock;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

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
pub struct QuorumLease {
    term: OnceLock<(Duration, QuorumAge)>,
    awake: Awake,
}

/// Whether the machine was suspended. An acknowledgement's age is counted by a clock that stands still then, while
/// followers choose another leader: what was acknowledged before is worth nothing afterwards.
struct Awake {
    clock: BootClock,
    seen: Mutex<Seen>,
}

struct Seen {
    suspended: Duration,
    /// When it was noticed that the machine had been suspended.
    woken: Option<Instant>,
}

/// Less is how exactly the clocks can be read. No lease is so short.
const SUSPENSION_MIN: Duration = Duration::from_millis(10);

impl Awake {
    fn new(clock: BootClock) -> Self {
        let suspended = clock.suspended();
        Self {
            clock,
            seen: Mutex::new(Seen {
                suspended,
                woken: None,
            }),
        }
    }

    /// For how long the machine has been awake, as far as anybody looked.
    fn awake_for(&self) -> Duration {
        let suspended = self.clock.suspended();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if suspended > seen.suspended + SUSPENSION_MIN {
            seen.suspended = suspended;
            seen.woken = Some(Instant::now());
            tracing::warn!("the machine was suspended: a quorum has to confirm who leads");
        }
        seen.woken.map_or(Duration::MAX, |at| at.elapsed())
    }
}

impl fmt::Debug for QuorumLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuorumLease")
    }
}

impl QuorumLease {
    /// A lease that ends when the machine was suspended by `clock`.
    #[must_use]
    pub fn new(clock: BootClock) -> Self {
        Self {
            term: OnceLock::new(),
            awake: Awake::new(clock),
        }
    }

    /// Says how long an acknowledgement is good, and where the age of the last one can be read.
    pub fn connect(&self, lease: Duration, age: QuorumAge) {
        // A second proposer task for one node would be a mistake that shows elsewhere: the first stays.
        let _ = self.term.set((lease, age));
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        // Looked at first, so that nothing is older than the look by the time it counts.
        let awake_for = self.awake.awake_for();
        self.term
            .get()
            .is_some_and(|(lease, age)| age().is_some_and(|age| age < *lease && age < awake_for))
    }

    /// Whether no quorum has acknowledged this leader for so many leases.
    #[must_use]
    pub fn is_lapsed_for(&self, leases: u32) -> bool {
        self.term
            .get()
            .is_some_and(|(lease, age)| age().is_none_or(|age| age >= *lease * leases))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn what_was_acknowledged_before_the_machine_was_suspended_is_worth_nothing_after() {
        let (suspended_s, acked) = (
            Arc::new(AtomicU64::new(7)),
            Arc::new(Mutex::new(Instant::now())),
        );
        let (told, at) = (Arc::clone(&suspended_s), Arc::clone(&acked));
        let clock = BootClock::new(move || Duration::from_secs(told.load(Ordering::Relaxed)));
        let quorum = QuorumLease::new(clock);
        let age = move || Some(at.lock().unwrap_or_else(PoisonError::into_inner).elapsed());
        quorum.connect(Duration::from_secs(1), Box::new(age));
        advance(Duration::from_millis(500)).await;
        assert!(quorum.is_valid());
        suspended_s.store(600, Ordering::Relaxed);
        // No timer ran meanwhile: by the clock of timers half of the lease is left.
        assert!(!quorum.is_valid());
        advance(Duration::from_millis(100)).await;
        assert!(!quorum.is_valid());
        *acked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        assert!(quorum.is_valid());
    }
}
