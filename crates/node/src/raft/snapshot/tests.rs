#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::{Answers, InstallSnapshotRequest, follow, receive, send};
use crate::raft::convert;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use ordo_core::{
    ClusterTime, Command, CreateInterface, Digest, Entry as CoreEntry, Ingest, InterfaceConfig,
    InterfaceId, MessageId, RunPosition, WallTime,
};
use ordo_storage::{
    Driver, Entry, EntryPayload, LeaderId, LogId, Machine, MachineHandle, MachineOptions, Member,
    Membership, MemoryState, Snapshot, StateStore, StoreOptions, Vote,
};
use ordo_wire::internal::v1 as proto;
use proto::install_snapshot_request::Part;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use uuid::Uuid;

/// How long nothing may happen; the clock stands on its head here, so that it costs no time.
const SILENCE: Duration = Duration::from_secs(120);
/// The same in small.
const SHORT_SILENCE: Duration = Duration::from_secs(2);
/// Messages of a mebibyte, so many.
const MESSAGES: u64 = 5;

/// A state in memory: everything here is tasks, driven by a clock that jumps.
struct Node {
    /// Taken by whoever installs.
    machine: Option<Machine<Infallible>>,
    handle: MachineHandle<Infallible>,
    store: StateStore,
    _folder: TempDir,
}

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (memory, options) = (MemoryState::default(), StoreOptions::default());
        let store = StateStore::open_in_memory(memory, folder.path(), options).unwrap();
        let (machine, run) = Machine::new(store.clone(), (), MachineOptions::default()).unwrap();
        tokio::spawn(run.run());
        Self {
            handle: machine.handle(),
            machine: Some(machine),
            store,
            _folder: folder,
        }
    }

    /// A node with a snapshot of some mebibytes.
    async fn with_snapshot() -> (Self, Snapshot) {
        let mut node = Self::start();
        let interface = InterfaceId(Uuid::from_u128(7));
        let create = Command::CreateInterface(CreateInterface {
            interface,
            name: "a".into(),
            config: InterfaceConfig::default(),
        });
        let ingest = |n: u64| {
            Command::Ingest(Ingest {
                interface,
                message_id: MessageId(Uuid::from_u128(u128::from(n))),
                digest: Digest([1; 16]),
                headers: Vec::new(),
                numbered: None,
                session: None,
                payload: vec![n as u8; 1 << 20].into(),
            })
        };
        let commands = [create].into_iter().chain((0..MESSAGES).map(ingest));
        let members = BTreeMap::from([(1, Member::default())]);
        let membership = Membership::new(vec![BTreeSet::from([1])], members).unwrap();
        let payloads = [EntryPayload::Membership(membership)].into_iter();
        let payloads = payloads.chain((1..).zip(commands).map(|(n, command)| {
            let entry = CoreEntry {
                cluster_time: ClusterTime(n),
                wall_time: WallTime(n),
                position: RunPosition { term: 1, run: 1, n },
                commands: vec![command],
            };
            EntryPayload::Normal(ordo_wire::entry::encode(&entry).into())
        }));
        let entries = (1..).zip(payloads).map(|(index, payload)| {
            let leader = LeaderId {
                term: 1,
                node_id: 1,
            };
            let log_id = LogId::new(leader, index);
            Ok((Entry { log_id, payload }, None))
        });
        let entries: Vec<_> = entries.collect();
        let machine = node.machine.as_mut().unwrap();
        machine.apply(stream::iter(entries)).await.unwrap();
        let mut builder = machine.get_snapshot_builder().await;
        let snapshot = builder.build_snapshot().await.unwrap();
        (node, snapshot)
    }

    async fn hash(&self) -> u128 {
        self.handle.state_hash().await.unwrap().hash
    }
}

/// What a link has carried, in bytes of chunks.
#[derive(Clone, Default)]
struct Carried(Arc<AtomicU64>);

impl Carried {
    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A transfer over a link that takes `pause` for every part, and breaks after `parts_max`. What came of it at the
/// sender's side.
async fn transfer<I>(
    from: (&Node, &Snapshot),
    to: &Node,
    (pause, parts_max): (Duration, usize),
    silence: Duration,
    carried: Carried,
    install: impl FnOnce(Snapshot) -> I + Send + 'static,
) -> Result<proto::Vote, Status>
where
    I: Future<Output = Result<proto::Vote, Status>> + Send + 'static,
{
    let (node, snapshot) = from;
    let head = convert::snapshot_head(&vote(), &snapshot.meta);
    let folder = snapshot.snapshot.clone();
    let (parts, held) = send(node.store.clone(), folder, head, Driver::Tasks);
    let parts = link(parts, pause, parts_max, carried);
    let (answers, receiver) = mpsc::channel(super::ANSWERS_WAITING);
    let store = to.store.clone();
    tokio::spawn(async move {
        let mut parts = parts;
        let head = parts.next().await;
        assert!(matches!(head, Some(Ok(head)) if matches!(head.part, Some(Part::Head(_)))));
        receive(store, parts, answers, silence, install).await;
    });
    follow(ReceiverStream::new(receiver), held, silence).await
}

fn link(
    parts: impl Stream<Item = InstallSnapshotRequest> + Send + 'static,
    pause: Duration,
    parts_max: usize,
    carried: Carried,
) -> BoxStream<'static, Result<InstallSnapshotRequest, Status>> {
    let broken = stream::once(async { Err(Status::unavailable("the link broke")) });
    let parts = parts.take(parts_max).then(move |part| {
        let carried = carried.clone();
        async move {
            sleep(pause).await;
            if let Some(Part::Chunk(chunk)) = &part.part {
                carried
                    .0
                    .fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
            }
            Ok(part)
        }
    });
    match parts_max {
        usize::MAX => parts.boxed(),
        _ => parts.chain(broken).boxed(),
    }
}

fn vote() -> Vote {
    Vote {
        leader_id: LeaderId {
            term: 3,
            node_id: 1,
        },
        committed: true,
    }
}

async fn at_once(_: Snapshot) -> Result<proto::Vote, Status> {
    Ok(convert::vote_to_proto(&vote()))
}

/// In real time: what is done on threads is, and a paused clock would run ahead of them.
#[tokio::test]
async fn a_transfer_takes_as_long_as_it_gets_on() {
    let (leader, snapshot) = Node::with_snapshot().await;
    let mut follower = Node::start();
    let began = Instant::now();
    let mut machine = follower.machine.take().unwrap();
    let install = move |snapshot: Snapshot| async move {
        sleep(SHORT_SILENCE / 2).await;
        let folder = snapshot.snapshot.clone();
        machine
            .install_snapshot(&snapshot.meta, folder)
            .await
            .unwrap();
        at_once(snapshot).await
    };
    let link = (SHORT_SILENCE / 10, usize::MAX);
    let carried = Carried::default();
    let installed = transfer(
        (&leader, &snapshot),
        &follower,
        link,
        SHORT_SILENCE,
        carried.clone(),
        install,
    );
    assert_eq!(installed.await.unwrap().term, 3);
    assert!(began.elapsed() > SHORT_SILENCE * 2, "{:?}", began.elapsed());
    assert!(carried.bytes() > MESSAGES << 20);
    assert_eq!(follower.hash().await, leader.hash().await);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_gets_nowhere_is_given_up_in_time() {
    let (leader, snapshot) = Node::with_snapshot().await;
    let follower = Node::start();
    let link = (Duration::ZERO, usize::MAX);
    let began = Instant::now();
    let hangs = |_| std::future::pending();
    let given_up = transfer(
        (&leader, &snapshot),
        &follower,
        link,
        SILENCE,
        Carried::default(),
        hangs,
    );
    assert_eq!(given_up.await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < SILENCE * 2, "{:?}", began.elapsed());
    // What it hangs in may still go on: the next transfer waits for its turn.
    let next = transfer(
        (&leader, &snapshot),
        &follower,
        link,
        SILENCE,
        Carried::default(),
        at_once,
    );
    assert_eq!(next.await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_goes_silent_is_given_up_in_time() {
    let follower = Node::start();
    let (answers, mut receiver): (Answers, _) = mpsc::channel(super::ANSWERS_WAITING);
    let began = Instant::now();
    receive(
        follower.store.clone(),
        stream::pending(),
        answers,
        SILENCE,
        at_once,
    )
    .await;
    let answer = receiver.recv().await.unwrap();
    assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < SILENCE * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_link_that_breaks_again_and_again_carries_a_snapshot_through_and_nothing_twice() {
    let (leader, snapshot) = Node::with_snapshot().await;
    let follower = Node::start();
    let carried = Carried::default();
    let manifest = leader_manifest_bytes(&snapshot);
    let mut tries = 0;
    loop {
        tries += 1;
        // The head, the manifest, the question, and three chunks.
        let link = (Duration::ZERO, 6);
        match transfer(
            (&leader, &snapshot),
            &follower,
            link,
            SILENCE,
            carried.clone(),
            at_once,
        )
        .await
        {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        assert!(tries < 50, "it gets nowhere");
    }
    let snapshot_bytes = snapshot_bytes(&snapshot);
    assert!(tries > 5, "{tries}");
    assert_eq!(carried.bytes(), snapshot_bytes + tries * manifest);
}

fn leader_manifest_bytes(snapshot: &Snapshot) -> u64 {
    let manifest = snapshot.snapshot.path.join("MANIFEST.ordo");
    std::fs::metadata(manifest).unwrap().len()
}

/// Of its files, without the manifest.
fn snapshot_bytes(snapshot: &Snapshot) -> u64 {
    let reader = ordo_storage::SnapshotReader::open(&snapshot.snapshot).unwrap();
    reader.bytes() - leader_manifest_bytes(snapshot)
}
