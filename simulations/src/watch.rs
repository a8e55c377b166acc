//! What sees all nodes of a run at once: Raft's own promises, and the replicas' equality, at every step.

use crate::place::Place;
use crate::run::Notes;
use openraft::async_runtime::WatchReceiver;
use openraft::vote::RaftLeaderId;
use ordo_core::{InterfaceId, Sequence, State};
use ordo_storage::{Entry, EntryPayload, LeaderId, LogId, Vote};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_128;

/// Up to so many interfaces are looked at after every lump, twice as many after every second one, and so on: what they
/// are held against holds between any two looks.
const INTERFACES_AT_ONCE: usize = 100;

/// Sees all nodes of a run. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    notes: Notes,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<u64, Node>,
    /// What nodes were before they lost their disks: what they acknowledged counted.
    ghosts: BTreeMap<u64, Node>,
    /// Every entry that ever was in a log, by index and leader.
    written: BTreeMap<(u64, LeaderId), u128>,
    /// What was applied at an index, by whoever was first.
    committed: BTreeMap<u64, Stamp>,
    /// The state's digest after an index, by whoever ended a lump there first.
    digests: BTreeMap<u64, u128>,
}

/// An entry's leader and content.
type Stamp = (LeaderId, u128);

/// One node, as it must remember itself.
#[derive(Default)]
struct Node {
    log: BTreeMap<u64, Stamp>,
    purged: u64,
    /// Up to where it told consensus that its log is safe.
    acknowledged: u64,
    vote: Option<Vote>,
    applied: u64,
    /// Lumps that it applied.
    lumps: usize,
    standings: BTreeMap<InterfaceId, Standing>,
    said: Option<Said>,
}

/// What may only grow, of one interface.
#[derive(Default, Clone, PartialEq, Eq)]
struct Standing {
    last: Sequence,
    watermark: Sequence,
    /// By destination, with the epoch: both change when destinations do, of which there is one of a name.
    checkpoints: BTreeMap<String, (u64, u64)>,
}

/// What consensus says of itself on a node. Term, committed and applied only grow within one start.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// The term.
    pub term: u64,
    /// The index up to which the log is purged.
    pub purged: u64,
    /// The newest snapshot's index.
    pub snapshot: u64,
    /// The last index that is applied.
    pub applied: u64,
    /// The last index that it knows is committed.
    pub committed: u64,
    /// The log's last index.
    pub last: u64,
}

impl Said {
    /// Of a node, while it runs.
    #[must_use]
    pub fn by(place: &Place) -> Option<Self> {
        let metrics = place.running()?.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Some(Self {
            term: metrics.current_term,
            purged: index(metrics.purged),
            snapshot: index(metrics.snapshot),
            applied: index(metrics.last_applied),
            committed: index(metrics.local_committed),
            last: metrics.last_log_index.unwrap_or(0),
        })
    }
}

/// Who votes, and since which index.
#[derive(Debug, Default)]
pub struct Voters {
    /// One set, or two while the membership changes: a quorum of each counts.
    pub sets: Vec<BTreeSet<u64>>,
    /// The entry that says so.
    pub since: u64,
}

impl Voters {
    /// As a node sees it; nobody while it does not run.
    #[must_use]
    pub fn seen_by(place: &Place) -> Self {
        let Some(context) = place.running() else {
            return Self::default();
        };
        let metrics = context.raft.metrics();
        let metrics = metrics.borrow_watched();
        let config = &metrics.membership_config;
        Self {
            sets: config.membership().get_joint_config().clone(),
            since: config.log_id().map_or(0, |id| id.index),
        }
    }
}

fn stamp(entry: &Entry) -> Stamp {
    let hash = match &entry.payload {
        EntryPayload::Blank => 1,
        EntryPayload::Normal(data) => xxh3_128(&data.0),
        EntryPayload::Membership(membership) => xxh3_128(format!("{membership:?}").as_bytes()),
    };
    (entry.log_id.leader_id, hash)
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(notes: Notes) -> Self {
        Self {
            notes,
            inner: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, check: &str, what: impl std::fmt::Display) {
        self.notes.violation(check, what);
    }

    /// A node begins with an empty disk.
    pub fn wiped(&self, place: &Place) {
        let mut inner = self.lock();
        if let Some(node) = inner.nodes.remove(&place.id) {
            inner.ghosts.insert(place.id, node);
        }
    }

    /// A node has opened its log: what it told others before must be in it.
    pub fn log_opened(
        &self,
        place: &Place,
        purged: Option<LogId>,
        entries: &[Entry],
        vote: Option<Vote>,
    ) {
        let mut inner = self.lock();
        let node = inner.nodes.entry(place.id).or_default();
        if node.vote.is_some() && vote < node.vote {
            let (before, now) = (node.vote, vote);
            self.broken(
                "vote_is_synced",
                format_args!("{} gave {before:?} and came back with {now:?}", place.name),
            );
        }
        let purged = purged.map_or(0, |purged| purged.index);
        let found: BTreeMap<u64, Stamp> = entries
            .iter()
            .map(|entry| (entry.log_id.index, stamp(entry)))
            .collect();
        if let Some((index, _)) = node
            .log
            .range(purged + 1..node.acknowledged.max(purged) + 1)
            .find(|(index, stamp)| found.get(index) != Some(stamp))
        {
            self.broken(
                "acknowledged_is_synced",
                format_args!(
                    "{} acknowledged {} and came back without {index}",
                    place.name, node.acknowledged
                ),
            );
        }
        if purged < node.purged {
            let before = node.purged;
            // A purge that was not synced is done again; the entries are harmless.
            self.notes.line(format_args!(
                "{} purge {before} back at {purged}",
                place.name
            ));
        }
        node.purged = purged;
        node.log = found;
        node.acknowledged = node.log.keys().next_back().copied().unwrap_or(purged);
        if node.vote < vote {
            node.vote = vote;
        }
        // Replayed from the last flush: along the log, what only grows begins anew.
        node.said = None;
        node.applied = 0;
        node.standings.clear();
        self.notes.line(format_args!(
            "{} opens its log: ({purged}, {}] {vote:?}",
            place.name, node.acknowledged
        ));
    }

    /// A vote is safe, says the node.
    pub fn vote_saved(&self, place: &Place, vote: &Vote) {
        let mut inner = self.lock();
        let node = inner.nodes.entry(place.id).or_default();
        if node.vote.as_ref() > Some(vote) {
            let before = node.vote;
            self.broken(
                "monotonic_vote",
                format_args!("{} had {before:?} and saved {vote:?}", place.name),
            );
        }
        node.vote = Some(*vote);
        self.notes
            .line(format_args!("{} saves {vote:?}", place.name));
    }

    /// Entries go into a node's log.
    pub fn appended(&self, place: &Place, entries: &[Entry]) {
        let mut inner = self.lock();
        for entry in entries {
            let (index, stamp) = (entry.log_id.index, stamp(entry));
            let known = *inner.written.entry((index, stamp.0)).or_insert(stamp.1);
            if known != stamp.1 {
                self.broken(
                    "log_matching",
                    format_args!("{}: {index} of {:?} is another", place.name, stamp.0),
                );
            }
            let node = inner.nodes.entry(place.id).or_default();
            node.log.insert(index, stamp);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let (first, last) = (first.log_id, last.log_id);
            self.notes.line(format_args!(
                "{} appends {}..={} of {}-{}",
                place.name, first.index, last.index, last.leader_id.term, last.leader_id.node_id
            ));
        }
    }

    /// A node's log is safe up to `last`, says the node.
    pub fn acknowledged(&self, place: &Place, last: Option<LogId>) {
        let Some(last) = last else { return };
        let mut inner = self.lock();
        let node = inner.nodes.entry(place.id).or_default();
        // It may have been cut off meanwhile.
        if node
            .log
            .get(&last.index)
            .is_some_and(|(leader, _)| *leader == last.leader_id)
        {
            node.acknowledged = node.acknowledged.max(last.index);
        }
    }

    /// A node cuts entries off its end.
    pub fn truncated(&self, place: &Place, kept: Option<LogId>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let node = inner.nodes.entry(place.id).or_default();
        let kept = kept.map_or(0, |kept| kept.index);
        let cut = node.log.split_off(&(kept + 1));
        node.acknowledged = node.acknowledged.min(kept);
        self.notes.count("truncations");
        self.notes.line(format_args!(
            "{} cuts {} entries after {kept}",
            place.name,
            cut.len()
        ));
        if let Some((index, _)) = cut
            .iter()
            .find(|(index, stamp)| inner.committed.get(index) == Some(stamp))
        {
            self.broken(
                "committed_immutable",
                format_args!("{} cuts off {index}, which was applied", place.name),
            );
        }
    }

    /// A node lets go of its log's beginning.
    pub fn purged(&self, place: &Place, through: LogId) {
        let mut inner = self.lock();
        let node = inner.nodes.entry(place.id).or_default();
        node.purged = node.purged.max(through.index);
        node.log = node.log.split_off(&(through.index + 1));
        self.notes.count("purges");
        self.notes.line(format_args!(
            "{} purges through {}",
            place.name, through.index
        ));
    }

    /// A node has applied entries up to `last`, and is in this state.
    pub fn applied(&self, place: &Place, voters: &Voters, state: &State, last: u64) {
        let mut inner = self.lock();
        let first = inner.nodes.entry(place.id).or_default().applied + 1;
        for index in first..=last {
            let Some(stamp) = inner.nodes[&place.id].log.get(&index).copied() else {
                continue;
            };
            match inner.committed.get(&index) {
                Some(there) if *there != stamp => self.broken(
                    "state_machine_safety",
                    format_args!("{} applies another entry at {index}", place.name),
                ),
                Some(_) => {}
                None => {
                    self.check_quorum(&inner, place, voters, index, stamp);
                    inner.committed.insert(index, stamp);
                }
            }
        }
        self.check_digest(&mut inner, place, last);
        let node = inner.nodes.entry(place.id).or_default();
        node.applied = last;
        node.lumps += 1;
        let interfaces = state.interfaces().count();
        if node
            .lumps
            .is_multiple_of(1 + interfaces / INTERFACES_AT_ONCE)
        {
            self.check_standings(node, place, state);
            self.check_caps(place, state);
        }
    }

    /// What an interface holds stays within what it may, however long a consumer stalls.
    fn check_caps(&self, place: &Place, state: &State) {
        for interface in state.interfaces() {
            let config = &interface.config;
            let (window, backlog) = (u64::from(config.window), config.backlog);
            let beyond = interface.window() > window || interface.backlog() > backlog + window;
            // A redrive needs no room: there are as many at most as there are dead letters.
            let redriven = match beyond {
                true => interface
                    .slots()
                    .filter(|(_, slot)| slot.redrive_of.is_some())
                    .count() as u64,
                false => 0,
            };
            let finished = interface.last_known_messages();
            let held = [
                ("unreleased", interface.window(), window + redriven),
                // While the backlog is full nothing is accepted; what was before is released.
                ("released", interface.backlog(), backlog + window + redriven),
                ("finished", finished, u64::from(config.dedup_messages)),
            ];
            for (what, count, max) in held {
                if count > max {
                    self.broken(
                        "caps_hold",
                        format_args!(
                            "{} of {} holds {count} {what} messages of {max}",
                            interface.name, place.name
                        ),
                    );
                }
            }
            if interface.backlog() >= backlog {
                self.notes.count("full backlogs");
            }
        }
    }

    /// What is applied must be safe on a quorum.
    fn check_quorum(
        &self,
        inner: &Inner,
        place: &Place,
        voters: &Voters,
        index: u64,
        stamp: Stamp,
    ) {
        // While the membership changes, which one counted for an entry is openraft's business.
        if voters.since + 2 >= index {
            return;
        }
        for set in &voters.sets {
            let safe = set.iter().filter(|id| {
                let was = inner.nodes.get(id).into_iter().chain(inner.ghosts.get(id));
                was.into_iter().any(|node| {
                    node.purged >= index
                        || (node.acknowledged >= index && node.log.get(&index) == Some(&stamp))
                })
            });
            let safe = safe.count();
            if safe * 2 <= set.len() {
                self.broken(
                    "committed_on_a_quorum",
                    format_args!(
                        "{} applies {index}, which is safe on {safe} of {set:?}",
                        place.name
                    ),
                );
            }
        }
    }

    fn check_digest(&self, inner: &mut Inner, place: &Place, index: u64) {
        let digest = place.memory().digest();
        self.notes.line(format_args!(
            "{} applied {index}: {:08x}",
            place.name, digest as u32
        ));
        let known = *inner.digests.entry(index).or_insert(digest);
        if known != digest {
            self.broken(
                "replicas_agree",
                format_args!("{} differs from the others at {index}", place.name),
            );
        }
    }

    /// checkpoint, watermark and last sequence only grow, along the log.
    fn check_standings(&self, node: &mut Node, place: &Place, state: &State) {
        for interface in state.interfaces() {
            let names = interface.config.destinations.iter();
            let now = Standing {
                last: interface.last_sequence,
                watermark: interface.watermark,
                checkpoints: names
                    .zip(&interface.destinations)
                    .map(|(config, destination)| {
                        let (checkpoint, epoch) = (destination.checkpoint.0, destination.epoch.0);
                        (config.name.clone(), (checkpoint, epoch))
                    })
                    .collect(),
            };
            let before = node.standings.entry(interface.id).or_default();
            let back = now.last < before.last
                || now.watermark < before.watermark
                || before
                    .checkpoints
                    .iter()
                    .any(|(name, (checkpoint, epoch))| {
                        now.checkpoints
                            .get(name)
                            .is_some_and(|(c, e)| c < checkpoint || e < epoch)
                    });
            if back {
                self.broken(
                    "monotonic_interface",
                    format_args!("{} of {} went back", interface.name, place.name),
                );
            }
            *before = now;
        }
    }

    /// A node's loops begin to lead in `term`: it must have everything that was applied of leaders before it. A later
    /// one may lead already.
    pub fn leads(&self, place: &Place, term: u64, applied: u64) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.notes.count("leaders");
        self.notes
            .line(format_args!("{} leads, applied {applied}", place.name));
        let node = inner.nodes.entry(place.id).or_default();
        let missing = inner
            .committed
            .range(node.purged + 1..)
            .filter(|(_, (leader, _))| (leader.term(), *leader.node_id()) <= (term, place.id))
            .find(|(index, stamp)| node.log.get(index) != Some(stamp));
        if let Some((index, _)) = missing {
            self.broken(
                "leader_completeness",
                format_args!("{} leads without {index}", place.name),
            );
        }
    }

    /// A snapshot up to `last` replaced a node's state with this one.
    pub fn installed(&self, place: &Place, state: &State, last: u64) {
        let mut inner = self.lock();
        self.notes.count("snapshots installed");
        self.notes
            .line(format_args!("{} installs a snapshot at {last}", place.name));
        self.check_digest(&mut inner, place, last);
        let node = inner.nodes.entry(place.id).or_default();
        node.applied = last;
        self.check_standings(node, place, state);
    }

    /// Looks at what consensus says of itself on a node; between two steps.
    pub fn look(&self, place: &Place, now: Said) {
        let indexes = [
            now.purged,
            now.snapshot,
            now.applied,
            now.committed,
            now.last,
        ];
        if !indexes.is_sorted() {
            self.broken("order_of_indexes", format_args!("{}: {now:?}", place.name));
        }
        let mut inner = self.lock();
        let node = inner.nodes.entry(place.id).or_default();
        if let Some(before) = node.said.replace(now)
            && (now.term < before.term
                || now.committed < before.committed
                || now.applied < before.applied)
        {
            self.broken(
                "monotonic_raft",
                format_args!("{}: {before:?}, then {now:?}", place.name),
            );
        }
    }
}
