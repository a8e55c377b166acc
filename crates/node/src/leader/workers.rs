//! Workers and what they hold.

use super::events::{Assignment, Place, SessionId, WorkPush, WorkerId};
use ordo_core::{ClusterTime, StageConfig, StageNumber, Turn};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// No lease ends then.
pub(crate) const NEVER: ClusterTime = ClusterTime(u64::MAX);
/// Assignments one worker may hold, whatever it asks for.
pub(crate) const CREDITS_MAX: u32 = 100_000;

/// One worker's stream, or what is left of it while it may come back.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) name: Arc<str>,
    /// Numbers of the dispatcher's queues; none once the stream has closed.
    pub(crate) stages: Vec<usize>,
    /// Which of them it is served from first.
    pub(crate) next_stage: usize,
    pub(crate) prefix: Arc<str>,
    pub(crate) credits: u32,
    /// The assignments it holds, by when their leases are looked at.
    pub(crate) holds: BTreeSet<(ClusterTime, Place)>,
    /// It holds a message that is to be alone.
    pub(crate) alone: bool,
    /// So was the last that it was given.
    pub(crate) was_alone: bool,
    /// It gets nothing until its hands are empty, since a message of one of its stages waits to be alone.
    pub(crate) reserved: bool,
    /// It was reserved for a whole lease, and its hands are not empty yet.
    pub(crate) slow: bool,
    /// It stands among those of its stages that may have room.
    pub(crate) listed: bool,
    pub(crate) draining: bool,
    /// It lost a lease and has said nothing since: it may be frozen, and gets nothing. Its stream clears it.
    pub(crate) silent: Arc<AtomicBool>,
    /// Into its stream; `None` once that has closed.
    pub(crate) push: Option<UnboundedSender<WorkPush>>,
    /// Gathered for its next frame.
    pub(crate) frame: Vec<Assignment>,
    /// When its leases are looked at next.
    pub(crate) lease_check: Option<ClusterTime>,
}

/// An assignment in somebody's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) session: SessionId,
    pub(crate) worker: WorkerId,
    pub(crate) stage: StageNumber,
    pub(crate) turn: Turn,
    pub(crate) since: Instant,
    pub(crate) lease_until: ClusterTime,
    /// Where it stands in its worker's list: not later than its lease ends, as long as that is waited for.
    pub(crate) listed_at: ClusterTime,
    /// No extension of the lease goes beyond.
    pub(crate) work_until: Option<ClusterTime>,
    /// How often the lease was extended.
    pub(crate) extensions: u32,
    /// Its loss is proposed.
    pub(crate) losing: bool,
}

impl Held {
    /// When its lease ends that begins now.
    pub(crate) fn lease_from(&self, now: ClusterTime, lease_ms: u32) -> ClusterTime {
        let until = now.after_ms(lease_ms.into());
        self.work_until.map_or(until, |most| most.min(until))
    }
}

/// Until when whoever is given a message of a stage now may work on it.
pub(crate) fn work_until(stage: &StageConfig, now: ClusterTime) -> Option<ClusterTime> {
    (stage.work_ms_max > 0).then(|| now.after_ms(stage.work_ms_max.into()))
}

impl Worker {
    /// How many more it can be given now.
    pub(crate) fn room(&self) -> usize {
        let idle = self.is_there() && !self.alone && !self.reserved;
        if idle {
            (self.credits as usize).saturating_sub(self.holds.len())
        } else {
            0
        }
    }

    /// Whether it is connected, stays, and can be heard.
    pub(crate) fn is_there(&self) -> bool {
        self.push.is_some() && !self.draining && !self.silent.load(Ordering::Relaxed)
    }
}
