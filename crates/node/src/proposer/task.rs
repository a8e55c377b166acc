//! The task that turns proposals into numbered entries.

use super::standing::{QuorumAge, RunId, Standing};
use super::{Class, Listener, Proposal, ProposeError, Proposed, Shared, tell};
use crate::leader::Tag;
use crate::metrics::gauge_of;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use openraft::vote::RaftLeaderId;
use ordo_core::{ClusterTime, Command, Entry, Reply, RunPosition, WallTime};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Entries end when they have this many bytes; a frame that has more is an entry of its own.
const ENTRY_BYTES: usize = 32 * 1024;
/// Commands in an entry of several frames.
const ENTRY_COMMANDS: usize = 1_024;
/// Entries on their way at once.
const IN_FLIGHT: usize = 48;
/// Below this many entries on their way, what there is goes out at once, however little it is.
const IN_FLIGHT_EAGER: usize = 4;
/// Otherwise it gathers until it has this many bytes.
const GATHERED_BYTES: usize = 4 * 1024;
/// Bytes on their way at once; one entry may be larger.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// How often the leader looks at its clock.
const TICK: Duration = Duration::from_millis(200);
/// While a period runs there is an entry at least every second: this leaves it a tick of room.
const ENTRY_EVERY: Duration = Duration::from_millis(700);
/// How long the term's first entry waits for a quorum to acknowledge the new leader: consensus refuses it before.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);
/// A pause after a proposal was refused while this node still leads, as it does while it hands leadership over.
const HOLD: Duration = Duration::from_millis(50);
/// A leader that no quorum has acknowledged for so many leases lets go of its streams: another one leads by then, if
/// there can be one, and an idle stream would keep its client here for ever.
const FORSAKEN_LEASES: u32 = 4;
/// How long a stopping node waits for what it has sent.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// A leader's runs are numbered from its node id on: with openraft's leader ids two nodes can lead in one term, the
/// higher one later, and their runs must not be taken for each other.
const RUNS_BITS: u32 = 32;

const _: () = assert!(GATHERED_BYTES <= ENTRY_BYTES && ENTRY_BYTES <= IN_FLIGHT_BYTES);
const _: () = assert!(IN_FLIGHT_EAGER <= IN_FLIGHT);
const _: () = assert!(ENTRY_EVERY.as_millis() + TICK.as_millis() <= 1_000);

/// Why an entry has no replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// It was refused before it was appended.
    NotLeader {
        /// The leader's public address, where known.
        leader: Option<String>,
    },
    /// It was appended; whether it stays is not known.
    Unknown,
    /// Consensus has stopped; it was not appended.
    Stopped,
}

/// An entry on its way: resolves once it is applied.
pub type Submitted = BoxFuture<'static, Result<Vec<Reply>, SubmitError>>;

/// Who is elected, as consensus names it.
pub type LeaderId = ordo_storage::LeaderId;

/// The consensus below the proposer.
pub trait Replicate: Send + Sync + 'static {
    /// Hands an entry over, to be appended only if this node still leads as `leader`. Entries are appended in the
    /// order of the calls.
    fn submit(&self, data: Bytes, leader: LeaderId) -> impl Future<Output = Submitted> + Send;
    /// As what this node leads; `None` while it does not.
    fn leading(&self) -> Option<LeaderId>;
    /// Waits until [`Replicate::leading`] may have changed; with `quorum` also until a quorum may have acknowledged
    /// this leader.
    fn changed(&mut self, quorum: bool) -> impl Future<Output = ()> + Send;
    /// For how long a quorum's acknowledgement of this leader is good, and how old the last one is.
    fn quorum_lease(&self) -> (Duration, QuorumAge);
}

/// The loops, as the proposer talks to them.
pub trait LoopsLink: Send + Sync + 'static {
    /// This node leads in `term`: the term's first entry is applied. Answers with the state's cluster time.
    fn lead(&self, term: u64) -> impl Future<Output = Option<ClusterTime>> + Send;
    /// It no longer does.
    fn follow(&self);
    /// What came of the loops' own proposal.
    fn proposed(&self, tag: Tag, result: Proposed);
}

/// See [`super::Proposer::new`].
pub struct ProposerTask {
    shared: Arc<Shared>,
    urgent_rx: mpsc::UnboundedReceiver<Proposal>,
    ingest_rx: mpsc::UnboundedReceiver<Proposal>,
}

impl ProposerTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        urgent_rx: mpsc::UnboundedReceiver<Proposal>,
        ingest_rx: mpsc::UnboundedReceiver<Proposal>,
    ) -> Self {
        Self {
            shared,
            urgent_rx,
            ingest_rx,
        }
    }

    /// Proposes until `stop` is cancelled; then waits a few seconds for what is on its way.
    pub async fn run<R: Replicate, L: LoopsLink>(self, raft: R, loops: L, stop: CancellationToken) {
        let (lease, age) = raft.quorum_lease();
        self.shared.quorum.connect(lease, age);
        let mut core = Core {
            shared: self.shared,
            raft,
            loops,
            lead: None,
            forsaken: None,
            urgent: Queue::default(),
            ingest: Queue::default(),
            in_flight: FuturesUnordered::new(),
            in_flight_bytes: 0,
            last_entry: Instant::now(),
            hold_until: Instant::now(),
        };
        core.run(self.urgent_rx, self.ingest_rx, stop).await;
    }
}

/// What this node leads as.
struct Lead {
    leader: LeaderId,
    run: RunId,
    /// The last entry's number in the run.
    n: u64,
    /// The term's first entry is applied.
    open: bool,
    /// The first entry is on its way.
    opening: bool,
    /// When the first entry no longer waits for a quorum's acknowledgement.
    opens_by: Instant,
}

#[derive(Default)]
struct Queue {
    proposals: VecDeque<Proposal>,
    bytes: usize,
}

/// One entry on its way.
struct Flight {
    run: RunId,
    bytes: usize,
    /// Listeners, with the number of replies that are theirs.
    listeners: Vec<(usize, Listener)>,
    first: bool,
    at: Instant,
}

type Landed = (Flight, Result<Vec<Reply>, SubmitError>);

struct Core<R, L> {
    shared: Arc<Shared>,
    raft: R,
    loops: L,
    lead: Option<Lead>,
    /// As what this node led when it let go of its streams, and its last run.
    forsaken: Option<(LeaderId, RunId)>,
    urgent: Queue,
    ingest: Queue,
    in_flight: FuturesUnordered<BoxFuture<'static, Landed>>,
    in_flight_bytes: usize,
    last_entry: Instant,
    /// Nothing is submitted before: consensus has just refused something.
    hold_until: Instant,
}

impl<R: Replicate, L: LoopsLink> Core<R, L> {
    async fn run(
        &mut self,
        mut urgent_rx: mpsc::UnboundedReceiver<Proposal>,
        mut ingest_rx: mpsc::UnboundedReceiver<Proposal>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.check_leadership();
        loop {
            while let Ok(proposal) = urgent_rx.try_recv() {
                self.urgent.push(proposal);
            }
            while let Ok(proposal) = ingest_rx.try_recv() {
                self.ingest.push(proposal);
            }
            let held = Instant::now() < self.hold_until;
            if !held {
                self.submit_all().await;
            }
            let held_until = self.hold_until;
            let opens = self
                .lead
                .as_ref()
                .is_some_and(|lead| !lead.open && !lead.opening);
            // Biased: the order of the branches, not a random number, decides which of several is taken.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.raft.changed(opens) => self.check_leadership(),
                Some((flight, result)) = self.in_flight.next(), if !self.in_flight.is_empty() => self.land(flight, result).await,
                Some(proposal) = urgent_rx.recv() => self.urgent.push(proposal),
                Some(proposal) = ingest_rx.recv() => self.ingest.push(proposal),
                _ = ticks.tick() => self.tick().await,
                () = tokio::time::sleep_until(held_until), if held => {}
            }
        }
        self.stop(urgent_rx, ingest_rx).await;
    }

    async fn stop(
        &mut self,
        mut urgent_rx: mpsc::UnboundedReceiver<Proposal>,
        mut ingest_rx: mpsc::UnboundedReceiver<Proposal>,
    ) {
        urgent_rx.close();
        ingest_rx.close();
        self.shared.standing.send_replace(Standing::Stopping);
        while let Ok(proposal) = urgent_rx.try_recv() {
            self.urgent.push(proposal);
        }
        while let Ok(proposal) = ingest_rx.try_recv() {
            self.ingest.push(proposal);
        }
        self.refuse_all(&ProposeError::ShuttingDown);
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.in_flight.is_empty() {
            match tokio::time::timeout_at(deadline, self.in_flight.next()).await {
                Ok(Some((flight, result))) => self.answer(flight, result),
                _ => break,
            }
        }
        self.shared.clock.stop();
        self.loops.follow();
    }

    /// Follows the elections.
    fn check_leadership(&mut self) {
        let (forsaken, alone) = (self.forsaken, !self.shared.quorum.is_valid());
        // openraft's leader stays one, for itself, until it hears of another.
        let leading = self.raft.leading().filter(|leader| {
            !(alone && forsaken.is_some_and(|(as_leader, _)| as_leader == *leader))
        });
        if leading == self.lead.as_ref().map(|lead| lead.leader) {
            return;
        }
        if let Some(lead) = self.lead.take() {
            // First the streams end, then the loops let go of them.
            self.shared.standing.send_replace(Standing::Following);
            self.shared.clock.stop();
            self.loops.follow();
            tracing::info!(term = lead.run.term, "no longer leads");
        }
        if let Some(leader) = leading {
            // The first entry brings no time: the state's stands, and is what this leader and its loops count from.
            self.shared.clock.clear();
            let first = RunId {
                term: leader.term(),
                run: (leader.node_id() << RUNS_BITS) + 1,
            };
            let again = self.forsaken.take().filter(|(before, _)| *before == leader);
            let run = again.map_or(first, |(_, last)| RunId {
                run: last.run + 1,
                ..last
            });
            self.lead = Some(Lead {
                leader,
                run,
                n: 0,
                open: false,
                opening: false,
                opens_by: Instant::now() + ACKNOWLEDGED_WITHIN,
            });
            self.shared.standing.send_replace(Standing::Opening);
            tracing::info!(term = run.term, "elected");
        } else {
            self.refuse_all(&ProposeError::NotLeader { leader: None });
        }
    }

    fn refuse_all(&mut self, error: &ProposeError) {
        let proposals = self
            .urgent
            .drain()
            .chain(self.ingest.drain())
            .collect::<Vec<_>>();
        for proposal in proposals {
            self.forget_ingest(&proposal);
            self.hear(proposal.listener, Err(error.clone()));
        }
    }

    fn forget_ingest(&self, proposal: &Proposal) {
        if matches!(proposal.class, Class::Ingest(_)) {
            self.shared
                .ingest_bytes
                .fetch_sub(proposal.bytes, Ordering::Relaxed);
        }
    }

    fn hear(&self, listener: Listener, result: Proposed) {
        match listener {
            Listener::Caller(sender, rooms) => tell(sender, rooms, result),
            Listener::Loops(tag) => self.loops.proposed(tag, result),
        }
    }

    async fn submit_all(&mut self) {
        match &self.lead {
            None => self.refuse_all(&ProposeError::NotLeader { leader: None }),
            Some(lead)
                if !lead.open
                    && !lead.opening
                    && (self.shared.quorum.is_valid() || Instant::now() >= lead.opens_by) =>
            {
                self.submit(Vec::new(), Vec::new(), 0, true).await
            }
            Some(_) => {}
        }
        while self.may_submit() {
            self.submit_next().await;
        }
    }

    fn may_submit(&self) -> bool {
        let open = self.lead.as_ref().is_some_and(|lead| lead.open);
        let gathered = self.urgent.bytes + self.ingest.bytes;
        let entries = self.in_flight.len();
        let worth_it = entries < IN_FLIGHT_EAGER || gathered >= GATHERED_BYTES;
        let room = entries == 0 || (entries < IN_FLIGHT && self.in_flight_bytes < IN_FLIGHT_BYTES);
        open && gathered > 0 && worth_it && room
    }

    /// One entry of what waits: urgent frames first, whole frames always.
    async fn submit_next(&mut self) {
        let run = self.lead.as_ref().map(|lead| lead.run);
        let mut commands = Vec::new();
        let mut listeners = Vec::new();
        let mut bytes = 0;
        loop {
            let queue = if self.urgent.proposals.is_empty() {
                &mut self.ingest
            } else {
                &mut self.urgent
            };
            let Some(next) = queue.proposals.front() else {
                break;
            };
            let fits = bytes + next.bytes <= ENTRY_BYTES
                && commands.len() + next.commands.len() <= ENTRY_COMMANDS;
            if !commands.is_empty() && !fits {
                break;
            }
            let Some(mut proposal) = queue.pop() else {
                break;
            };
            self.forget_ingest(&proposal);
            if matches!(proposal.class, Class::Ingest(of) if Some(of) != run) {
                self.hear(proposal.listener, Err(ProposeError::RunEnded));
                continue;
            }
            bytes += proposal.bytes;
            listeners.push((proposal.commands.len(), proposal.listener));
            commands.append(&mut proposal.commands);
        }
        if !listeners.is_empty() {
            self.submit(commands, listeners, bytes, false).await;
        }
    }

    async fn submit(
        &mut self,
        commands: Vec<Command>,
        listeners: Vec<(usize, Listener)>,
        bytes: usize,
        first: bool,
    ) {
        let Some(lead) = &mut self.lead else { return };
        lead.n += 1;
        lead.opening |= first;
        let RunId { term, run } = lead.run;
        let entry = Entry {
            cluster_time: self.shared.clock.now(),
            wall_time: WallTime((self.shared.wall)()),
            position: RunPosition {
                term,
                run,
                n: lead.n,
            },
            commands,
        };
        let flight = Flight {
            run: lead.run,
            bytes,
            listeners,
            first,
            at: Instant::now(),
        };
        self.shared.metrics.proposals.inc();
        self.shared
            .metrics
            .commands
            .inc_by(entry.commands.len() as u64);
        let data = ordo_wire::entry::encode(&entry);
        drop(entry);
        let submitted = self.raft.submit(data, lead.leader).await;
        self.in_flight_bytes += bytes;
        self.last_entry = Instant::now();
        self.in_flight
            .push(Box::pin(async move { (flight, submitted.await) }));
        self.count();
    }

    async fn land(&mut self, flight: Flight, result: Result<Vec<Reply>, SubmitError>) {
        let (run, first, failed) = (flight.run, flight.first, result.is_err());
        self.answer(flight, result);
        if failed {
            self.begin_run(run);
        } else if first {
            self.open(run).await;
        }
    }

    /// The term's first entry is applied: time runs, the loops take over, streams may open.
    async fn open(&mut self, run: RunId) {
        if !self
            .lead
            .as_ref()
            .is_some_and(|lead| lead.run == run && !lead.open)
        {
            return;
        }
        let Some(time) = self.loops.lead(run.term).await else {
            return;
        };
        self.shared.clock.start(time);
        if let Some(lead) = &mut self.lead {
            lead.open = true;
        }
        self.shared.standing.send_replace(Standing::Leading(run));
        tracing::info!(term = run.term, "leads");
    }

    /// What was sent later must not overtake what was lost.
    fn begin_run(&mut self, lost: RunId) {
        self.check_leadership();
        let Some(lead) = &mut self.lead else { return };
        // Several entries of one run may fail; they end it once.
        if lead.run != lost {
            return;
        }
        lead.run.run += 1;
        lead.n = 0;
        lead.opening = false;
        self.hold_until = Instant::now() + HOLD;
        tracing::warn!(
            term = lead.run.term,
            run = lead.run.run,
            "a proposal was lost: a new run begins"
        );
        if lead.open {
            self.shared
                .standing
                .send_replace(Standing::Leading(lead.run));
        }
    }

    fn answer(&mut self, flight: Flight, result: Result<Vec<Reply>, SubmitError>) {
        self.in_flight_bytes -= flight.bytes;
        self.shared
            .metrics
            .proposal_seconds
            .observe(flight.at.elapsed().as_secs_f64());
        self.count();
        let replies = match result {
            Ok(replies) => replies,
            Err(error) => {
                let error = ProposeError::from(error);
                for (_, listener) in flight.listeners {
                    self.hear(listener, Err(error.clone()));
                }
                return;
            }
        };
        let mut replies = replies.into_iter();
        for (count, listener) in flight.listeners {
            let own: Vec<Reply> = replies.by_ref().take(count).collect();
            assert_eq!(own.len(), count, "apply answers every command");
            self.hear(listener, Ok(own));
        }
    }

    fn count(&self) {
        let waiting = self.urgent.bytes + self.ingest.bytes;
        self.shared
            .metrics
            .proposals_in_flight
            .set(gauge_of(self.in_flight.len() as u64));
        self.shared
            .metrics
            .proposal_bytes
            .set(gauge_of((self.in_flight_bytes + waiting) as u64));
    }

    /// Lets go of the streams when no quorum has been heard for long; leads again when one is.
    fn check_quorum(&mut self) {
        if let Some(lead) = &self.lead
            && lead.open
            && self.shared.quorum.is_lapsed_for(FORSAKEN_LEASES)
        {
            tracing::warn!(
                term = lead.run.term,
                "no quorum was heard for long: streams are let go of"
            );
            self.forsaken = Some((lead.leader, lead.run));
        }
        if self.forsaken.is_some() {
            self.check_leadership();
        }
    }

    async fn tick(&mut self) {
        self.check_quorum();
        let open = self.lead.as_ref().is_some_and(|lead| lead.open);
        let clock = &self.shared.clock;
        let _ = clock.now();
        // Time in which the cluster may have had no leader, or another one, is not to be counted.
        match open && self.shared.quorum.is_valid() {
            true => clock.resume(),
            false => clock.stop(),
        }
        let due = self.shared.period_runs.load(Ordering::Relaxed)
            && self.last_entry.elapsed() >= ENTRY_EVERY;
        if open && due && self.in_flight.is_empty() && Instant::now() >= self.hold_until {
            self.submit(Vec::new(), Vec::new(), 0, false).await;
        }
    }
}

impl Queue {
    fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.bytes;
        self.proposals.push_back(proposal);
    }

    fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.proposals.pop_front()?;
        self.bytes -= proposal.bytes;
        Some(proposal)
    }

    fn drain(&mut self) -> impl Iterator<Item = Proposal> {
        self.bytes = 0;
        std::mem::take(&mut self.proposals).into_iter()
    }
}

impl From<SubmitError> for ProposeError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::NotLeader { leader } => Self::NotLeader { leader },
            SubmitError::Unknown => Self::OutcomeUnknown,
            SubmitError::Stopped => Self::ShuttingDown,
        }
    }
}
