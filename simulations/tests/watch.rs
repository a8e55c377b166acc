//! Every check of [`Watch`] fails where it must: most planted bugs are found by another one first. `replicas_agree` is
//! not here: planted bugs of the state are found by it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use ordo_core::{
    ClusterTime, Command, CreateInterface, Digest, Ingest, InterfaceConfig, InterfaceId, MessageId,
    RunPosition, StageConfig, State, WallTime,
};
use ordo_node::config::RaftTiming;
use ordo_storage::{Entry, EntryData, EntryPayload, LeaderId, LogId, Vote};
use simulations::Notes;
use simulations::place::Place;
use simulations::watch::{Said, Voters, Watch};
use std::collections::BTreeSet;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// Three nodes that nobody runs.
struct World {
    notes: Notes,
    watch: Watch,
    nodes: [Arc<Place>; 3],
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let (notes, folder) = (Notes::new(false), tempfile::tempdir().unwrap());
        let place = |id| {
            let (root, timing) = (folder.path(), RaftTiming::default());
            Place::new(id, root, timing, Vec::new(), id, notes.clone())
        };
        Self {
            watch: Watch::new(notes.clone()),
            nodes: [1, 2, 3].map(place),
            notes,
            _folder: folder,
        }
    }

    /// Node `node` has the entries in its log, and they are safe there.
    fn has(&self, node: usize, entries: &[Entry]) {
        self.watch.appended(&self.nodes[node], entries);
        let last = entries.last().map(|entry| entry.log_id);
        self.watch.acknowledged(&self.nodes[node], last);
    }

    fn applies(&self, node: usize, last: u64) {
        let voters = Voters {
            sets: vec![BTreeSet::from([1, 2, 3])],
            since: 0,
        };
        let (node, state) = (&self.nodes[node], State::default());
        self.watch.applied(node, &voters, &state, last);
    }

    #[track_caller]
    fn is_fine(&self) {
        assert_eq!(self.notes.violations(), []);
    }

    #[track_caller]
    fn found(&self, check: &str) {
        let violations = self.notes.violations();
        let found: Vec<&str> = violations.iter().map(|found| &*found.check).collect();
        assert_eq!(found, [check]);
    }
}

fn at(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(term, 1),
        index,
    }
}

fn entry(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry {
        log_id: at(term, index),
        payload: EntryPayload::Normal(EntryData(Bytes::from_static(data))),
    }
}

/// Entries 1 to 5 of term 1. The membership's own, and the one behind it, are openraft's business.
fn five() -> Vec<Entry> {
    (1..=5).map(|index| entry(1, index, b"x")).collect()
}

/// Five entries on the first two nodes, applied by the first.
fn agreed() -> World {
    let world = World::new();
    world.has(0, &five());
    world.has(1, &five());
    world.applies(0, 5);
    world.is_fine();
    world
}

const FINE: Said = Said {
    term: 2,
    purged: 1,
    snapshot: 2,
    applied: 3,
    committed: 4,
    last: 5,
};

#[test]
fn an_entry_must_be_the_same_in_every_log() {
    let world = World::new();
    world.has(0, &five());
    world.has(1, &[entry(1, 1, b"x"), entry(1, 2, b"another")]);
    world.found("log_matching");
}

#[test]
fn what_is_applied_must_be_on_a_quorum() {
    let world = World::new();
    world.has(0, &five());
    world.has(1, &five()[..4]);
    world.watch.appended(&world.nodes[2], &five());
    world.applies(0, 4);
    world.is_fine();
    world.applies(0, 5);
    world.found("committed_on_a_quorum");
}

#[test]
fn what_is_applied_must_be_the_same_everywhere() {
    let world = agreed();
    let mut others = five();
    others[4] = entry(2, 5, b"y");
    world.has(2, &others);
    world.applies(2, 5);
    world.found("state_machine_safety");
}

#[test]
fn what_was_applied_must_not_be_cut_off() {
    let world = agreed();
    world.watch.truncated(&world.nodes[1], Some(at(1, 5)));
    world.is_fine();
    world.watch.truncated(&world.nodes[1], Some(at(1, 4)));
    world.found("committed_immutable");
}

#[test]
fn a_leader_must_have_what_was_applied() {
    let world = agreed();
    world.watch.leads(&world.nodes[1], 2, 0);
    world.is_fine();
    world.has(2, &five()[..4]);
    world.watch.leads(&world.nodes[2], 2, 0);
    world.found("leader_completeness");
}

#[test]
fn a_vote_must_not_go_back() {
    let world = World::new();
    world.watch.vote_saved(&world.nodes[0], &Vote::new(2, 1));
    world.watch.vote_saved(&world.nodes[0], &Vote::new(3, 2));
    world.is_fine();
    world.watch.vote_saved(&world.nodes[0], &Vote::new(2, 1));
    world.found("monotonic_vote");
}

#[test]
fn a_vote_must_outlive_a_start() {
    let world = World::new();
    let (node, vote) = (&world.nodes[0], Vote::new(3, 2));
    world.watch.vote_saved(node, &vote);
    world.watch.log_opened(node, None, &[], Some(vote));
    world.is_fine();
    world.watch.log_opened(node, None, &[], None);
    world.found("vote_is_synced");
}

#[test]
fn what_was_acknowledged_must_outlive_a_start() {
    let world = agreed();
    world.watch.log_opened(&world.nodes[1], None, &five(), None);
    world.is_fine();
    world
        .watch
        .log_opened(&world.nodes[1], None, &five()[..4], None);
    world.found("acknowledged_is_synced");
}

#[test]
fn indexes_must_be_in_order_and_never_go_back() {
    for further in [
        Said { term: 3, ..FINE },
        Said { applied: 4, ..FINE },
        Said {
            committed: 5,
            ..FINE
        },
    ] {
        let world = World::new();
        world.watch.look(&world.nodes[0], FINE);
        world.watch.look(&world.nodes[0], further);
        world.is_fine();
        world.watch.look(&world.nodes[0], FINE);
        world.found("monotonic_raft");
    }
    for wrong in [
        Said { purged: 3, ..FINE },
        Said {
            snapshot: 4,
            ..FINE
        },
        Said { applied: 5, ..FINE },
        Said {
            committed: 6,
            ..FINE
        },
    ] {
        let world = World::new();
        world.watch.look(&world.nodes[0], wrong);
        world.found("order_of_indexes");
    }
}

/// The state with so many messages on an interface with a window of 2, none of them done.
fn with_messages(count: u64) -> State {
    let mut state = State::default();
    let interface = InterfaceId(Uuid::from_u128(1));
    let config = InterfaceConfig {
        window: 2,
        stages: vec![StageConfig::named("parse")],
        ..InterfaceConfig::default()
    };
    let create = CreateInterface {
        interface,
        name: "a".into(),
        config,
    };
    let ingest = |n: u64| {
        Command::Ingest(Ingest {
            interface,
            message_id: MessageId(Uuid::from_u128(u128::from(n))),
            digest: Digest(u128::from(n).to_be_bytes()),
            payload: Bytes::new(),
            headers: Vec::new(),
            numbered: None,
            session: None,
        })
    };
    let commands = [Command::CreateInterface(create)]
        .into_iter()
        .chain((1..=count).map(ingest));
    let entry = ordo_core::Entry {
        cluster_time: ClusterTime(0),
        wall_time: WallTime(0),
        position: RunPosition {
            term: 1,
            run: 1,
            n: 1,
        },
        commands: commands.collect(),
    };
    state.apply(1, entry, &mut Vec::new());
    state
}

#[test]
fn a_window_must_hold_and_no_interface_may_go_back() {
    let world = World::new();
    let (node, voters) = (&world.nodes[0], Voters::default());
    for (index, count) in [(1, 1), (2, 2)] {
        let state = with_messages(count);
        world.watch.applied(node, &voters, &state, index);
        world.is_fine();
    }
    world.watch.applied(node, &voters, &with_messages(3), 3);
    world.found("caps_hold");

    let world = World::new();
    let (node, state) = (&world.nodes[0], with_messages(2));
    world.watch.applied(node, &voters, &state, 1);
    world.is_fine();
    world.watch.applied(node, &voters, &with_messages(1), 2);
    world.found("monotonic_interface");
}
