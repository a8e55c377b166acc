//! The parts of a simulated node: the product's own, with eyes, crash points and planted bugs between.

use crate::bugs::{self, Bug};
use crate::place::{Place, ProposalFault};
use crate::points::Point;
use crate::rules::{self, Planted};
use crate::watch::{Voters, Watch};
use bytes::Bytes;
use futures_util::FutureExt;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::async_runtime::Oneshot as _;
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};
use ordo_core::{Command, Effect, State};
use ordo_node::Parts;
use ordo_node::leader::{DeliverPush, Event, Loops, SubscribeEvent};
use ordo_node::proposer::{LeaderId, QuorumAge, RaftConsensus, Replicate, SubmitError, Submitted};
use ordo_storage::{
    Entry, EntryData, EntryPayload, LogEntries, LogId, Lump, Machine, Observer, OrdoRuntime,
    RaftLog, TypeConfig, View, Vote,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How much later a late proposal is appended: in a later run, most of the time.
const LATE: Duration = Duration::from_millis(150);
/// After how long a refusal is heard of: what was proposed meanwhile is in the log.
const REFUSED: Duration = Duration::from_millis(60);

/// What one start of a node is put together with.
pub struct Eyes {
    /// The node's machine.
    pub place: Arc<Place>,
    /// Which start this is.
    pub boot: u64,
    /// What sees all nodes of the run.
    pub watch: Watch,
}

impl Parts for Eyes {
    type Rules = Planted;
    type Log = WatchedLog;
    type Loops = WatchedLoops;
    type Consensus = WatchedConsensus;

    fn log(&self, log: RaftLog) -> WatchedLog {
        WatchedLog {
            log,
            place: Arc::clone(&self.place),
            watch: self.watch.clone(),
            vote: None,
            boot: self.boot,
            seen: false,
        }
    }

    fn loops(&self, loops: Loops) -> WatchedLoops {
        WatchedLoops {
            loops,
            place: Arc::clone(&self.place),
            watch: self.watch.clone(),
            boot: self.boot,
            nothing: State::default(),
        }
    }

    fn consensus(&self, consensus: RaftConsensus<Machine<Event>>) -> WatchedConsensus {
        WatchedConsensus {
            waited: consensus.clone(),
            consensus: Arc::new(consensus),
            place: Arc::clone(&self.place),
        }
    }
}

/// The log, watched.
pub struct WatchedLog {
    log: RaftLog,
    place: Arc<Place>,
    watch: Watch,
    /// The last vote, where a bug keeps it from the disk.
    vote: Option<Vote>,
    boot: u64,
    /// Whether the watch has seen what the log began with.
    seen: bool,
}

fn dead() -> io::Error {
    io::Error::other("the machine is gone")
}

impl WatchedLog {
    /// Between the moment that a trap took it down and the end of the tick a node's tasks still run. Nobody hears of
    /// what they do.
    fn alive(&self) -> io::Result<()> {
        match self.place.is_dead(self.boot) {
            true => Err(dead()),
            false => Ok(()),
        }
    }

    fn pass(&self, point: Point) -> io::Result<()> {
        match self.place.pass(point) {
            true => Err(dead()),
            false => Ok(()),
        }
    }

    /// A planted bug: one node's bytes are not the others'.
    fn changed(&self, mut entry: Entry) -> Entry {
        let index = entry.log_id.index;
        if let EntryPayload::Normal(data) = &mut entry.payload
            && bugs::has(Bug::EntryChanged)
            && self.place.id == 2
            && index.is_multiple_of(50)
        {
            *data = EntryData(rewritten(&data.0, |entry| entry.wall_time.0 += 1));
        }
        entry
    }
}

impl RaftLogStorage<TypeConfig> for WatchedLog {
    type LogReader = LogEntries;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.get_log_state().await?;
        if std::mem::replace(&mut self.seen, true) {
            return Ok(state);
        }
        let (first, last) = (
            state.last_purged_log_id.map_or(0, |purged| purged.index),
            state.last_log_id.map_or(0, |last| last.index),
        );
        let mut reader = self.log.get_log_reader().await;
        let entries = reader.try_get_log_entries(first + 1..last + 1).await?;
        let vote = reader.read_vote().await?;
        self.watch
            .log_opened(&self.place, state.last_purged_log_id, &entries, vote);
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> LogEntries {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.alive()?;
        if bugs::has(Bug::VoteForgotten) && self.vote.is_some() {
            self.vote = Some(*vote);
        } else if bugs::has(Bug::VoteBeforeSync) {
            let (told, _) = oneshot::channel::<()>();
            let vote = ordo_storage::log::Vote {
                term: vote.leader_id.term,
                node_id: vote.leader_id.node_id,
                committed: vote.committed,
            };
            let done = Box::new(move |_| drop(told));
            self.log.log().save_vote(vote, done);
        } else {
            self.vote = Some(*vote);
            self.log.save_vote(vote).await?;
        }
        self.watch.vote_saved(&self.place, vote);
        self.pass(Point::VoteSaved)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if bugs::has(Bug::CommittedOverstated) {
            return Ok(self.log.get_log_state().await?.last_log_id);
        }
        self.log.read_committed().await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.alive()?;
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|entry| self.changed(entry))
            .collect();
        let last = entries.last().map(|entry| entry.log_id);
        let membership = entries
            .iter()
            .any(|entry| matches!(entry.payload, EntryPayload::Membership(_)));
        self.watch.appended(&self.place, &entries);
        let (told, hears) = <OrdoRuntime as AsyncRuntime>::Oneshot::channel();
        self.log.append(entries, IOFlushed::signal(told)).await?;
        if bugs::has(Bug::AckBeforeSync) {
            self.watch.acknowledged(&self.place, last);
            callback.io_completed(Ok(()));
        } else {
            let (place, watch) = (Arc::clone(&self.place), self.watch.clone());
            let boot = self.boot;
            tokio::spawn(async move {
                let result = hears.await.unwrap_or_else(|_| Err(dead()));
                if result.is_ok() && !place.is_dead(boot) {
                    watch.acknowledged(&place, last);
                }
                callback.io_completed(result);
            });
        }
        if membership {
            self.pass(Point::MembershipAppended)?;
        }
        self.pass(Point::Appended)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.alive()?;
        self.watch.truncated(&self.place, last_log_id);
        self.log.truncate_after(last_log_id).await?;
        self.pass(Point::Truncating)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.pass(Point::Purging)?;
        let mut log_id = log_id;
        if bugs::has(Bug::PurgedTooFar)
            && let Some(last) = self.log.get_log_state().await?.last_log_id
        {
            log_id = last;
        }
        self.watch.purged(&self.place, log_id);
        self.log.purge(log_id).await
    }
}

/// The leader's loops, watched.
pub struct WatchedLoops {
    loops: Loops,
    place: Arc<Place>,
    watch: Watch,
    boot: u64,
    /// What a leader sees that does not look.
    nothing: State,
}

impl Observer for WatchedLoops {
    type Event = Event;

    fn loaded(&mut self, view: View<'_>) {
        self.loops.loaded(view);
    }

    fn applied(&mut self, view: View<'_>, lump: &Lump) {
        if self.place.is_dead(self.boot) {
            return;
        }
        rules::set_clock(self.place.wall_ms());
        let (voters, last) = (Voters::seen_by(&self.place), lump.last_log_id.index);
        self.watch.applied(&self.place, &voters, view.state, last);
        let lost;
        let lump = match bugs::has(Bug::EffectsLost) && lump.last_log_id.index.is_multiple_of(11) {
            true => {
                lost = Lump {
                    last_log_id: lump.last_log_id,
                    effects: Vec::<Effect>::new(),
                };
                &lost
            }
            false => lump,
        };
        self.loops.applied(view, lump);
        self.place.pass(Point::Applied);
    }

    fn event(&mut self, view: View<'_>, event: Event) {
        match event {
            _ if self.place.is_dead(self.boot) => {}
            Event::Tick if bugs::has(Bug::TimersNeverFire) => {}
            Event::Lead { term } => {
                self.watch.leads(&self.place, term, view.applied_index);
                let seen = match bugs::has(Bug::EffectsNotRebuilt) {
                    true => View {
                        state: &self.nothing,
                        ..view
                    },
                    false => view,
                };
                self.loops.event(seen, event);
            }
            event => {
                if let Event::Subscribe(subscribe) = &event
                    && bugs::has(Bug::GrantBeforeApplied)
                {
                    grant_at_once(view, subscribe);
                }
                self.loops.event(view, event);
            }
        }
    }

    fn installed(&mut self, view: View<'_>) {
        if self.place.is_dead(self.boot) {
            return;
        }
        self.watch
            .installed(&self.place, view.state, view.applied_index);
        self.loops.installed(view);
        self.place.pass(Point::Installed);
    }

    fn idle(&mut self, view: View<'_>) {
        if self.place.is_dead(self.boot) {
            return;
        }
        self.loops.idle(view);
        self.place.pass(Point::LoopsRan);
    }
}

/// An entry's bytes, changed.
fn rewritten(data: &Bytes, change: impl FnOnce(&mut ordo_core::Entry)) -> Bytes {
    let mut entry = ordo_wire::entry::decode(data.clone()).expect("a node decodes what it encoded");
    change(&mut entry);
    ordo_wire::entry::encode(&entry)
}

/// A planted bug: leases are so long that nobody sees their end.
fn leases_for_ever(entry: &mut ordo_core::Entry) {
    for command in &mut entry.commands {
        if let Command::CreateInterface(create) = command {
            for stage in &mut create.config.stages {
                stage.lease_ms = u32::MAX;
            }
        }
    }
}

/// A planted bug: a consumer hears of a grant that is not even proposed.
fn grant_at_once(view: View<'_>, event: &SubscribeEvent) -> Option<()> {
    let interface = view.state.interface_named(&event.interface)?;
    let number = interface.config.destination_number(&event.destination)?;
    let destination = interface.destination(number);
    let destination = destination.filter(|there| there.holder.is_none())?;
    let granted = DeliverPush::Granted {
        number: event.key.number,
        epoch: destination.epoch.next(),
        checkpoint: destination.checkpoint,
        interface: interface.id,
        destination: number,
        incarnation: interface.incarnation,
    };
    event.push.send(granted).ok()
}

/// Consensus, watched.
pub struct WatchedConsensus {
    consensus: Arc<RaftConsensus<Machine<Event>>>,
    /// The same, to be waited on.
    waited: RaftConsensus<Machine<Event>>,
    place: Arc<Place>,
}

impl Replicate for WatchedConsensus {
    async fn submit(&self, data: Bytes, leader: LeaderId) -> Submitted {
        match self.place.next_proposal() {
            None => {}
            Some(ProposalFault::Refused) => {
                self.place.notes.count("proposals refused");
                let refused = async {
                    tokio::time::sleep(REFUSED).await;
                    Err(SubmitError::NotLeader { leader: None })
                };
                return refused.boxed();
            }
            Some(ProposalFault::Late) => {
                self.place.notes.count("proposals late");
                let consensus = Arc::clone(&self.consensus);
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    drop(consensus.submit(data, leader).await);
                });
                return std::future::ready(Err(SubmitError::Unknown)).boxed();
            }
        }
        let data = match bugs::has(Bug::LeasesNeverEnd) {
            true => rewritten(&data, leases_for_ever),
            false => data,
        };
        if bugs::has(Bug::ProposedTwice) {
            drop(self.consensus.submit(data.clone(), leader).await);
        }
        let submitted = self.consensus.submit(data, leader).await;
        self.place.pass(Point::Submitted);
        submitted
    }

    fn leading(&self) -> Option<LeaderId> {
        self.consensus.leading()
    }

    async fn changed(&mut self, quorum: bool) {
        self.waited.changed(quorum).await;
    }

    fn quorum_lease(&self) -> (Duration, QuorumAge) {
        self.consensus.quorum_lease()
    }
}
