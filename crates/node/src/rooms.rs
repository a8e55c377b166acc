//! Which nodes have room, and what follows from that: whether ingest is refused (guarantee 13), and who should lead.
//!
//! A full disk ends a node. One of three is a failure that the cluster bears; two are the end of the quorum, with
//! nobody left who could work the queues empty. So nodes tell each other their room (see `exchange.rs`), and the leader
//! refuses ingest while the voters that answer and have room are no quorum. What is not known of a node, or is old,
//! counts as room. A leader that lacks room itself refuses, too, and hands leadership to a voter that has some.

mod exchange;
#[cfg(test)]
mod tests;

pub(crate) use exchange::{ask_others, hand_over, measure_by};

use crate::admission::Admission;
use crate::config::Limits;
use crate::net::Told;
use crate::raft::Raft;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use ordo_wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// After so long what a node said last is old, and a node that says nothing is taken for one that is away.
const OLD: Duration = Duration::from_secs(5);

/// A node's memory and disk, in bytes, and its own limits of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// None where it can't be found out; so below.
    pub(crate) memory: Option<u64>,
    pub(crate) memory_max: u64,
    pub(crate) disk_free: Option<u64>,
    pub(crate) disk_free_min: u64,
}

impl Room {
    fn new(limits: &Limits, memory: Option<u64>, disk_free: Option<u64>) -> Self {
        Self {
            memory,
            memory_max: limits.memory_bytes,
            disk_free,
            disk_free_min: limits.disk_free_bytes,
        }
    }

    /// What is used up, for a person. What can't be found out lacks nothing.
    pub(crate) fn lacks(&self) -> Option<String> {
        let disk = self.disk_free.filter(|free| *free < self.disk_free_min);
        if let Some(free) = disk {
            return Some(format!(
                "its disk has {free} bytes left, its limits.disk_free_bytes is {}",
                self.disk_free_min
            ));
        }
        let used = self.memory.filter(|used| *used > self.memory_max)?;
        Some(format!(
            "it uses {used} bytes of memory, its limits.memory_bytes is {}",
            self.memory_max
        ))
    }

    /// Whether there is so much that leading will not use it up at once: a leader that had to hand over does not get
    /// leadership back for a few bytes.
    fn is_ample(&self) -> bool {
        let disk_min = self.disk_free_min + self.disk_free_min / 8;
        let memory_max = self.memory_max - self.memory_max / 16;
        self.disk_free.is_none_or(|free| free >= disk_min)
            && self.memory.is_none_or(|used| used <= memory_max)
    }

    pub(crate) fn to_proto(self) -> v1::NodeRoom {
        v1::NodeRoom {
            memory_bytes: self.memory,
            memory_bytes_max: self.memory_max,
            disk_free_bytes: self.disk_free,
            disk_free_bytes_min: self.disk_free_min,
        }
    }

    pub(crate) fn from_proto(room: &v1::NodeRoom) -> Self {
        Self {
            memory: room.memory_bytes,
            memory_max: room.memory_bytes_max,
            disk_free: room.disk_free_bytes,
            disk_free_min: room.disk_free_bytes_min,
        }
    }
}

/// What is to be thought of one voter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It has room, as far as is known.
    Room,
    Lacks(String),
    /// It does not answer: no quorum can count on it now.
    Away,
}

/// Who votes, and whether this node leads them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voters {
    own: u64,
    leads: bool,
    /// Two sets while the voters change.
    sets: Vec<BTreeSet<u64>>,
}

impl Voters {
    fn now(raft: &Raft) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        Self {
            own: metrics.id,
            leads: metrics.state == ServerState::Leader,
            sets: metrics
                .membership_config
                .membership()
                .get_joint_config()
                .clone(),
        }
    }

    fn all(&self) -> BTreeSet<u64> {
        self.sets.iter().flatten().copied().collect()
    }
}

/// What follows from what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// A sentence for each voter that lacks room.
    lacking: Vec<String>,
    /// Why ingest is refused.
    refusal: Option<String>,
}

/// Whether there is a quorum of voters that answer and have room.
fn judge(voters: &Voters, of: impl Fn(u64) -> Standing) -> Verdict {
    let standings: BTreeMap<u64, Standing> = voters
        .all()
        .into_iter()
        .map(|node_id| (node_id, of(node_id)))
        .collect();
    let lacking: Vec<String> = standings
        .iter()
        .filter_map(|(node_id, standing)| match standing {
            Standing::Lacks(what) => Some(format!("node {node_id} lacks room: {what}")),
            _ => None,
        })
        .collect();
    if lacking.is_empty() {
        return Verdict::default();
    }
    let counts = |node_id: &&u64| standings.get(node_id) == Some(&Standing::Room);
    let quorum = voters
        .sets
        .iter()
        .all(|set| set.iter().filter(counts).count() > set.len() / 2);
    let own = standings.get(&voters.own);
    let refusal = match own {
        _ if !quorum => {
            let away = standings
                .iter()
                .filter(|(_, standing)| **standing == Standing::Away)
                .map(|(node_id, _)| format!("node {node_id} does not answer"));
            let all: Vec<String> = lacking.iter().cloned().chain(away).collect();
            Some(format!("no quorum has room: {}", all.join("; ")))
        }
        Some(Standing::Lacks(what)) if voters.leads => Some(format!(
            "node {}, which leads, lacks room: {what}",
            voters.own
        )),
        _ => None,
    };
    Verdict { lacking, refusal }
}

/// The room of all nodes, as this one knows it.
pub(crate) struct Rooms {
    own: u64,
    limits: Limits,
    admission: Arc<Admission>,
    state: Mutex<State>,
}

struct State {
    room: Room,
    others: BTreeMap<u64, Heard>,
    verdict: Verdict,
    told: Told,
    /// When another member last called this node where the membership says it is.
    called: Instant,
    /// Why that no longer seems to be the place.
    misplaced: Option<Misplaced>,
}

/// Another node, as far as it was heard.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When it was last heard; before that, since when it is asked.
    at: Instant,
    /// None where it does not say, as an older version doesn't.
    room: Option<(Room, Instant)>,
}

/// A node that is not where the membership says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misplaced {
    /// For a person.
    pub(crate) text: String,
    /// Whether the other nodes miss it, and not only clients.
    pub(crate) cut_off: bool,
}

impl Rooms {
    pub(crate) fn new(own: u64, limits: &Limits, admission: Arc<Admission>) -> Arc<Self> {
        Arc::new(Self {
            own,
            limits: limits.clone(),
            admission,
            state: Mutex::new(State {
                room: Room::new(limits, None, None),
                others: BTreeMap::new(),
                verdict: Verdict::default(),
                told: Told::default(),
                called: Instant::now(),
                misplaced: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's own room was measured: decides anew whether ingest is refused.
    pub(crate) fn measured(&self, raft: &Raft, memory: Option<u64>, disk_free: Option<u64>) {
        let voters = Voters::now(raft);
        let room = Room::new(&self.limits, memory, disk_free);
        let mut state = self.lock();
        state.room = room;
        let now = Instant::now();
        let verdict = judge(&voters, |node_id| state.standing(self.own, node_id, now));
        self.say(&mut state, &verdict);
        self.admission.set_full(verdict.refusal.clone());
        state.verdict = verdict;
    }

    /// Says in the log what changed; the figures in it change all the time, and are said once a minute.
    fn say(&self, state: &mut State, verdict: &Verdict) {
        let before = &state.verdict;
        let changed = before.lacking.len() != verdict.lacking.len()
            || before.refusal.is_some() != verdict.refusal.is_some();
        let again = !verdict.lacking.is_empty() && state.told.may_tell();
        if !changed && !again {
            return;
        }
        match &verdict.refusal {
            Some(why) => tracing::warn!("ingest is refused: {why}"),
            None if !verdict.lacking.is_empty() => {
                tracing::warn!("{}; the others have room", verdict.lacking.join("; "));
            }
            None => tracing::info!("there is room again on every node"),
        }
    }

    /// This node's own room.
    pub(crate) fn own(&self) -> Room {
        self.lock().room
    }

    /// A node's room, where it is known.
    pub(crate) fn of(&self, node_id: u64) -> Option<Room> {
        let state = self.lock();
        if node_id == self.own {
            return Some(state.room);
        }
        let (room, at) = state.others.get(&node_id)?.room?;
        (at.elapsed() < OLD).then_some(room)
    }

    /// Whether a node is known to lack room.
    pub(crate) fn lacks(&self, node_id: u64) -> Option<String> {
        self.of(node_id)?.lacks()
    }

    /// Whether a node is known to have so much room that it may take over from one that lacks some.
    pub(crate) fn is_ample(&self, node_id: u64) -> bool {
        self.of(node_id).is_some_and(|room| room.is_ample())
    }

    /// Why ingest is refused, where it is for want of room.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.lock().verdict.refusal.clone()
    }

    /// What a person should look at, in sentences.
    pub(crate) fn problems(&self) -> Vec<String> {
        let state = self.lock();
        let mut problems = match &state.verdict.refusal {
            Some(why) => vec![format!("ingest is refused: {why}")],
            None => state.verdict.lacking.clone(),
        };
        problems.extend(
            state
                .misplaced
                .iter()
                .map(|misplaced| misplaced.text.clone()),
        );
        problems
    }

    /// Another member called this node, under its name and its storage id.
    pub(crate) fn was_called(&self) {
        self.lock().called = Instant::now();
    }

    /// Why this node no longer seems to be where the membership says.
    pub(crate) fn misplaced(&self) -> Option<Misplaced> {
        self.lock().misplaced.clone()
    }
}

impl State {
    fn standing(&self, own: u64, node_id: u64, now: Instant) -> Standing {
        let lacks = |room: &Room| room.lacks().map_or(Standing::Room, Standing::Lacks);
        if node_id == own {
            return lacks(&self.room);
        }
        match self.others.get(&node_id) {
            None => Standing::Room,
            Some(heard) if now.duration_since(heard.at) >= OLD => Standing::Away,
            Some(heard) => match &heard.room {
                Some((room, at)) if now.duration_since(*at) < OLD => lacks(room),
                _ => Standing::Room,
            },
        }
    }
}
