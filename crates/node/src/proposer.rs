//! The proposer: everything that changes the state goes through here, in numbered entries of many commands.
//!
//! Two queues feed one task: what empties the node (reports, answers, grants, losses, administration) goes before
//! what fills it (ingest). While entries are on their way the next ones gather; a lone proposal goes out at once.
//! Entries are numbered (term, run, n); whenever one fails, or its outcome is unknown, a new run begins and every
//! ingest stream of the old one ends, so that nothing sent later can overtake what was lost.

mod clock;
mod consensus;
mod standing;
mod task;
#[cfg(test)]
mod tests;

pub use clock::ClusterClock;
pub use consensus::RaftConsensus;
pub use standing::{QuorumAge, QuorumLease, RunId, Standing};
pub use task::{LeaderId, LoopsLink, ProposerTask, Replicate, SubmitError, Submitted};

use crate::admission::Room;
use crate::leader::Tag;
use crate::metrics::Metrics;
use ordo_core::{Command, Outcome, Reply};
use ordo_wire::lease::BootClock;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot, watch};

/// Milliseconds since 1970, from wherever the node has them: simulations bring their own.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What came of a proposal: one reply per command, in order.
pub type Proposed = Result<Vec<Reply>, ProposeError>;

/// Why a proposal has no replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was sent: another node leads, or none.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader's public address, where known.
        leader: Option<String>,
    },
    /// Nothing was sent: the run that the ingest stream belongs to has ended.
    #[error("the run that this stream belongs to has ended")]
    RunEnded,
    /// Nothing was sent: too much waits already.
    #[error("{bytes} bytes wait to be proposed, which is more than {limit}")]
    Full {
        /// What waits.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing was sent: the node stops.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// It was sent, and nobody knows yet whether it is in the log for good.
    #[error("it is not known whether the change was made")]
    OutcomeUnknown,
}

/// Which queue a proposal stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Goes before ingest.
    Urgent,
    /// Ingest of a stream that belongs to this run: it is proposed in that run or not at all.
    Ingest(RunId),
}

/// Who hears of it.
pub(crate) enum Listener {
    /// Whoever asked, or asked and has gone. The room that the messages take is theirs until there is an answer.
    Caller(oneshot::Sender<Proposed>, Vec<Room>),
    /// The leader's loops.
    Loops(Tag),
}

/// Commands that go into one entry together.
pub(crate) struct Proposal {
    pub(crate) commands: Vec<Command>,
    pub(crate) bytes: usize,
    pub(crate) class: Class,
    pub(crate) listener: Listener,
}

/// The replies of a proposal, once they are there.
pub struct Pending(oneshot::Receiver<Proposed>);

impl Future for Pending {
    type Output = Proposed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Proposed> {
        // The task drops a listener only when it ends with entries on their way.
        Pin::new(&mut self.0)
            .poll(context)
            .map(|there| there.unwrap_or(Err(ProposeError::OutcomeUnknown)))
    }
}

/// The handle that services and loops propose through. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    urgent: mpsc::UnboundedSender<Proposal>,
    ingest: mpsc::UnboundedSender<Proposal>,
    /// Bytes of ingest that wait; those on their way are counted by the task.
    pub(crate) ingest_bytes: AtomicUsize,
    ingest_bytes_max: usize,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) clock: ClusterClock,
    pub(crate) quorum: QuorumLease,
    pub(crate) period_runs: AtomicBool,
    pub(crate) wall: WallClock,
    pub(crate) metrics: Arc<Metrics>,
}

impl Proposer {
    /// A proposer and the task that does its work. Until [`ProposerTask::run`] runs, proposals wait.
    ///
    /// `ingest_bytes_max` bounds the ingest that waits, in bytes; `boot` tells when the machine was suspended.
    #[must_use]
    pub fn new(
        ingest_bytes_max: usize,
        wall: WallClock,
        boot: BootClock,
        metrics: Arc<Metrics>,
    ) -> (Self, ProposerTask) {
        let (urgent, urgent_rx) = mpsc::unbounded_channel();
        let (ingest, ingest_rx) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            urgent,
            ingest,
            ingest_bytes: AtomicUsize::new(0),
            ingest_bytes_max,
            standing: watch::Sender::new(Standing::Following),
            clock: ClusterClock::default(),
            quorum: QuorumLease::new(boot),
            period_runs: AtomicBool::new(false),
            wall,
            metrics,
        });
        let task = ProposerTask::new(Arc::clone(&shared), urgent_rx, ingest_rx);
        (Self { shared }, task)
    }

    /// Proposes `commands`, which go into one entry together, before any ingest.
    #[must_use]
    pub fn propose(&self, commands: Vec<Command>) -> Pending {
        let (sender, receiver) = oneshot::channel();
        self.urgent(commands, Listener::Caller(sender, Vec::new()));
        Pending(receiver)
    }

    /// Proposes ingest of a stream that belongs to `run`: in that run or not at all. Gives `rooms` back when there is an
    /// answer, whether or not anybody still waits for it.
    ///
    /// # Errors
    /// [`ProposeError::Full`] at once, so that the stream can end before its next frame is read and overtakes this
    /// one.
    pub fn propose_ingest(
        &self,
        commands: Vec<Command>,
        rooms: Vec<Room>,
        run: RunId,
    ) -> Result<Pending, ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let listener = Listener::Caller(sender, rooms);
        let proposal = Proposal::new(commands, Class::Ingest(run), listener);
        let (waiting_bytes, bytes) = (&self.shared.ingest_bytes, proposal.bytes);
        let (waiting, limit) = (
            waiting_bytes.fetch_add(bytes, Ordering::Relaxed),
            self.shared.ingest_bytes_max,
        );
        if waiting > limit {
            waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ProposeError::Full {
                bytes: waiting,
                limit,
            });
        }
        send(&self.shared.ingest, proposal);
        Ok(Pending(receiver))
    }

    /// Proposes and waits.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_one(&self, command: Command) -> Result<Reply, ProposeError> {
        let replies = self.propose(vec![command]).await?;
        replies
            .into_iter()
            .next()
            .ok_or(ProposeError::OutcomeUnknown)
    }

    /// Proposes on behalf of the loops, which hear of it by [`Event::Proposed`](crate::leader::Event::Proposed).
    pub(crate) fn propose_for_loops(&self, commands: Vec<Command>, tag: Tag) {
        self.urgent(commands, Listener::Loops(tag));
    }

    fn urgent(&self, commands: Vec<Command>, listener: Listener) {
        send(
            &self.shared.urgent,
            Proposal::new(commands, Class::Urgent, listener),
        );
    }

    /// Whether this node leads, and in which run.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// The run, while this node leads and streams may open.
    #[must_use]
    pub fn run(&self) -> Option<RunId> {
        self.shared.standing.borrow().run()
    }

    /// The cluster's time.
    #[must_use]
    pub fn clock(&self) -> &ClusterClock {
        &self.shared.clock
    }

    /// Whether a quorum has acknowledged this leader so lately that no other can have been chosen.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.shared.quorum.is_valid()
    }

    /// Says whether any period of cluster time runs, so that entries must carry the time on.
    pub(crate) fn set_period_runs(&self, runs: bool) {
        self.shared.period_runs.store(runs, Ordering::Relaxed);
    }

    /// The wall clock, in milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        (self.shared.wall)()
    }
}

impl Proposal {
    fn new(commands: Vec<Command>, class: Class, listener: Listener) -> Self {
        debug_assert!(
            !commands.is_empty(),
            "an entry without commands is the task's own affair"
        );
        let bytes = commands.iter().map(weight).sum();
        Self {
            commands,
            bytes,
            class,
            listener,
        }
    }
}

fn send(queue: &mpsc::UnboundedSender<Proposal>, proposal: Proposal) {
    if let Err(unsent) = queue.send(proposal) {
        unsent.0.listener.hear_error(ProposeError::ShuttingDown);
    }
}

impl Listener {
    /// For a listener that the loops need not hear of: they hear of those that the task took.
    fn hear_error(self, error: ProposeError) {
        if let Self::Caller(sender, rooms) = self {
            tell(sender, rooms, Err(error));
        }
    }
}

/// Who asked may take the same room again when it hears.
fn tell(sender: oneshot::Sender<Proposed>, rooms: Vec<Room>, result: Proposed) {
    drop(rooms);
    // Whoever asked may have gone.
    let _ = sender.send(result);
}

/// About how many bytes a command takes in an entry.
fn weight(command: &Command) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match command {
            Command::Ingest(ingest) => ingest.payload.len() + headers_weight(&ingest.headers),
            Command::Report(report) => match &report.outcome {
                Outcome::Complete {
                    payload,
                    headers: set,
                    ..
                } => payload.as_ref().map_or(0, bytes::Bytes::len) + headers_weight(set),
                Outcome::Retry { reason, .. }
                | Outcome::Reject { reason }
                | Outcome::Filter { reason } => reason.len(),
            },
            Command::Loss(loss) => loss.reason.len(),
            _ => FIXED,
        }
}

/// About how many bytes headers take in an entry.
pub(crate) fn headers_weight(headers: &[ordo_core::Header]) -> usize {
    headers
        .iter()
        .map(|h| h.name.len() + h.value.len() + 6)
        .sum()
}
