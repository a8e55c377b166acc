//! Workers and what they hold.

use super::events::{Assignment, SessionId, WorkPush, WorkerId};
use ordo_core::{ClusterTime, StageNumber, Turn};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

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
    pub(crate) prefix: String,
    pub(crate) credits: u32,
    /// How many assignments it holds.
    pub(crate) held: u32,
    /// It holds a message that is to be alone.
    pub(crate) alone: bool,
    /// So was the last that it was given.
    pub(crate) was_alone: bool,
    /// It gets nothing until its hands are empty, since a message of one of its stages waits to be alone.
    pub(crate) reserved: bool,
    /// It was reserved for a whole lease, and its hands are not empty yet.
    pub(crate) slow: bool,
    pub(crate) draining: bool,
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
    pub(crate) stage: StageNumber,
    pub(crate) turn: Turn,
    pub(crate) since: Instant,
    pub(crate) lease_until: ClusterTime,
    /// Its loss is proposed.
    pub(crate) losing: bool,
}

impl Worker {
    /// How many more it can be given now.
    pub(crate) fn room(&self) -> usize {
        let idle = self.push.is_some() && !self.draining && !self.alone && !self.reserved;
        if idle {
            self.credits.saturating_sub(self.held) as usize
        } else {
            0
        }
    }

    /// Whether messages of this queue, and of an interface it serves, can be given to it, now or later.
    pub(crate) fn serves(&self, queue: usize) -> bool {
        self.stages.contains(&queue) && self.push.is_some() && !self.draining && self.credits > 0
    }
}
