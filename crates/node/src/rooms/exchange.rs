//! What keeps [`Rooms`] up to date, and the leader where there is room.

use super::{Heard, Misplaced, Room, Rooms};
use crate::config::Config;
use crate::membership::ClusterAdmin;
use crate::raft::{Peers, Raft, ask_room};
use crate::serve::Measure;
use futures_util::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use ordo_storage::Member;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often a node looks whether clients find it where the membership says.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long no other node may have called one that reaches others, before it counts as not being where it should be.
const UNCALLED: Duration = Duration::from_secs(10);
/// How often a leader that lacks room looks for another one.
const LEAD_EVERY: Duration = Duration::from_millis(500);
/// How long it waits after it handed over, or could not: leadership doesn't go round in circles faster than that.
const HAND_OVER_EVERY: Duration = Duration::from_secs(10);

/// Keeps this node's own room as `measure` says, until `stop` is cancelled.
pub(crate) async fn measure_by(
    measure: Measure,
    rooms: Arc<Rooms>,
    raft: Raft,
    stop: CancellationToken,
) {
    let mut ticks = every(LEAD_EVERY);
    while next(&mut ticks, &stop).await {
        let (memory, disk_free) = measure();
        rooms.measured(&raft, memory, disk_free);
    }
}

/// Asks the other members for their room, until `stop` is cancelled, and looks whether this node is where they look for
/// it.
pub(crate) async fn ask_others(
    config: Arc<Config>,
    rooms: Arc<Rooms>,
    raft: Raft,
    peers: Peers,
    stop: CancellationToken,
) {
    let mut ticks = every(ASK_EVERY);
    let mut looked = Instant::now();
    while next(&mut ticks, &stop).await {
        let members = members(&raft);
        let own = rooms.own;
        let others = members.iter().filter(|(node_id, _)| **node_id != own);
        let answers = others.map(|(node_id, member)| {
            let asked = ask_room(&peers, *node_id, member);
            async move { (*node_id, asked.await) }
        });
        let mut reached = false;
        for (node_id, answer) in join_all(answers).await {
            reached |= matches!(answer, Ok(Some(_)));
            rooms.heard(
                node_id,
                answer.ok().map(|room| room.as_ref().map(Room::from_proto)),
            );
        }
        rooms.forget_all_but(&members);
        let Some(member) = members.get(&own) else {
            rooms.set_misplaced(None);
            continue;
        };
        let cut_off = rooms.cut_off(member, reached);
        let known = rooms.misplaced().is_some_and(|before| before.cut_off);
        if cut_off.is_some() || known {
            rooms.set_misplaced(cut_off);
        } else if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            rooms.set_misplaced(hidden(&config, &peers, member).await);
        }
    }
}

/// Hands leadership to a voter that has room, whenever this node leads and lacks some, until `stop` is cancelled.
pub(crate) async fn hand_over(
    rooms: Arc<Rooms>,
    raft: Raft,
    cluster: Arc<dyn ClusterAdmin>,
    stop: CancellationToken,
) {
    let mut ticks = every(LEAD_EVERY);
    let mut tried: Option<Instant> = None;
    while next(&mut ticks, &stop).await {
        let leads = raft.metrics().borrow_watched().state == ServerState::Leader;
        let Some(what) = rooms.own().lacks().filter(|_| leads) else {
            continue;
        };
        let voters: Vec<u64> = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.voter_ids().collect()
        };
        let has_room = |node_id: &u64| *node_id != rooms.own && rooms.is_ample(*node_id);
        let waits = tried.is_some_and(|at| at.elapsed() < HAND_OVER_EVERY);
        if waits || !voters.iter().any(has_room) {
            continue;
        }
        tried = Some(Instant::now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            handed = cluster.transfer_to_room() => match handed {
                Ok(leader) => tracing::warn!("node {leader} leads in this one's place, which lacks room: {what}"),
                Err(failure) => tracing::warn!(
                    "this node leads and lacks room ({what}), and no other one took over: {}",
                    failure.text
                ),
            },
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick; says whether there is one.
async fn next(ticks: &mut tokio::time::Interval, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        _ = ticks.tick() => true,
    }
}

fn members(raft: &Raft) -> BTreeMap<u64, Member> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let nodes = metrics.membership_config.nodes();
    nodes
        .map(|(node_id, member)| (*node_id, member.clone()))
        .collect()
}

/// Why clients do not find this node where the membership sends them. Looked for only where the configuration gives
/// reason to: an address that others reach need not be one that this machine reaches itself.
async fn hidden(config: &Config, peers: &Peers, member: &Member) -> Option<Misplaced> {
    let bound = config.public;
    let elsewhere =
        bound.port() != 0 && !bound.ip().is_unspecified() && bound.to_string() != member.public;
    if config.public_address() == member.public && !elsewhere {
        return None;
    }
    let own = peers.identity.storage_id();
    let there = match peers.storage_at(&member.public).await {
        Ok(storage_id) if storage_id == own => return None,
        Ok(_) => "another node answers".to_owned(),
        Err(status) => format!("nobody answers ({})", status.message()),
    };
    let text = format!(
        "the membership sends clients of this node to {}, where {there}; the node listens on {bound}: \
         `ordo cluster move {} --peer {} --public ADDR` says where it is",
        member.public, config.node_id, member.peer
    );
    Some(Misplaced {
        text,
        cut_off: false,
    })
}

impl Rooms {
    /// A node was asked: None where it did not answer, Some(None) where it does not say.
    fn heard(&self, node_id: u64, answer: Option<Option<Room>>) {
        let now = Instant::now();
        let mut state = self.lock();
        let heard = state.others.entry(node_id).or_insert(Heard {
            at: now,
            room: None,
        });
        if let Some(room) = answer {
            heard.at = now;
            heard.room = room.map(|room| (room, now));
        }
    }

    fn forget_all_but(&self, members: &BTreeMap<u64, Member>) {
        self.lock()
            .others
            .retain(|node_id, _| members.contains_key(node_id));
    }

    /// Why the others do not find this node where the membership says, if they do not. Every member asks every other
    /// one for its room: one that reaches others and is never called is somewhere else, or no member any more.
    fn cut_off(&self, member: &Member, reached: bool) -> Option<Misplaced> {
        let since = self.lock().called.elapsed();
        if !reached || since < UNCALLED {
            return None;
        }
        let text = format!(
            "no other node reaches this one, though it reaches them; the membership says that it is at {}: if it was \
             moved, run `ordo cluster move {} --peer ADDR --public ADDR`; if it was removed, stop it",
            member.peer, self.own
        );
        Some(Misplaced {
            text,
            cut_off: true,
        })
    }

    fn set_misplaced(&self, misplaced: Option<Misplaced>) {
        let mut state = self.lock();
        if state.misplaced.is_some() != misplaced.is_some() {
            match &misplaced {
                Some(misplaced) => tracing::error!("{}", misplaced.text),
                None => tracing::info!("this node is where the membership says"),
            }
        }
        state.misplaced = misplaced;
    }
}
