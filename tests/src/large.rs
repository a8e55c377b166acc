//! A large state, made without a cluster, and how long a node's dealings with the whole of it take.

use anyhow::{Context, Result};
use futures_util::stream;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::RaftLeaderId;
use ordo_core::{
    ClusterTime, Command, CreateInterface, Digest, Entry as CoreEntry, Ingest, InterfaceConfig,
    InterfaceId, MessageId, RunPosition, StageConfig, WallTime,
};
use ordo_storage::{
    Entry, EntryPayload, LeaderId, LogId, Machine, MachineHandle, MachineOptions, Member,
    Membership, StateStore, StoreOptions,
};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Commands of an entry.
const COMMANDS: usize = 200;

/// What the state holds.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Interfaces, each with one stage.
    pub interfaces: u64,
    /// Messages of each, none of them worked on.
    pub messages: u64,
    /// Bytes of each message's payload.
    pub payload_bytes: usize,
}

/// How long things took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// To apply all entries, written to disk as they come.
    pub apply: Duration,
    /// To make a snapshot: flush, link, checksums of what is new.
    pub snapshot: Duration,
    /// To hash the whole state.
    pub hash: Duration,
    /// To open the store and load the state, as at a node's start.
    pub load: Duration,
    /// To compare, load and install the snapshot in an empty node.
    pub install: Duration,
    /// The longest wait for the machine's thread in that time.
    pub waited: Duration,
    /// Bytes of table files.
    pub table_bytes: u64,
}

struct Node {
    machine: Machine<Infallible>,
    handle: MachineHandle<Infallible>,
    store: StateStore,
    thread: JoinHandle<()>,
}

impl Node {
    fn open(folder: &Path) -> Result<Self> {
        let store = StateStore::open(folder, StoreOptions::default())?;
        let options = MachineOptions::default();
        let (machine, machine_loop) = Machine::new(store.clone(), (), options)?;
        Ok(Self {
            handle: machine.handle(),
            thread: machine_loop.spawn()?,
            machine,
            store,
        })
    }

    async fn stop(self) -> Result<()> {
        self.handle.stop().await?;
        drop((self.machine, self.store));
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.ok().context("the machine's thread panicked")
    }
}

/// Makes a state in a temporary folder and measures what is done with the whole of it.
///
/// # Errors
/// When a disk refuses.
pub async fn measure(size: Size) -> Result<Took> {
    let folder = tempfile::tempdir()?;
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let (mut node, mut took) = (Node::open(&here)?, Took::default());
    let timed = |began: Instant| began.elapsed();

    let began = Instant::now();
    node.machine.apply(stream::iter(entries(size))).await?;
    took.apply = timed(began);
    let began = Instant::now();
    let mut builder = node.machine.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await?;
    took.snapshot = timed(began);
    took.table_bytes = node.store.stats().table_bytes;
    let began = Instant::now();
    let hash = node.handle.state_hash().await?;
    took.hash = timed(began);
    drop(builder);
    node.stop().await?;

    let began = Instant::now();
    let node = Node::open(&here)?;
    took.load = timed(began);
    let mut other = Node::open(&there)?;
    let watching = tokio::spawn(longest_wait(other.handle.clone()));
    let began = Instant::now();
    let installed = other
        .machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot);
    installed.await?;
    took.install = timed(began);
    assert_eq!(other.handle.state_hash().await?.hash, hash.hash);
    other.stop().await?;
    took.waited = watching.await?;
    node.stop().await?;
    Ok(took)
}

/// Asks the machine's thread again and again until it has ended.
async fn longest_wait(handle: MachineHandle<Infallible>) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        if handle.query(|_| ()).await.is_err() {
            return longest;
        }
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn entries(size: Size) -> impl Iterator<Item = std::io::Result<(Entry, Option<Responder>)>> {
    let create = (0..size.interfaces).map(|n| {
        Command::CreateInterface(CreateInterface {
            interface: interface(n),
            name: format!("lab/{n}"),
            config: InterfaceConfig {
                stages: vec![StageConfig::named("translate")],
                ..InterfaceConfig::default()
            },
        })
    });
    let mut rng = StdRng::seed_from_u64(7);
    let ingest = (0..size.messages * size.interfaces).map(move |n| {
        let mut payload = vec![0; size.payload_bytes];
        rng.fill_bytes(&mut payload);
        Command::Ingest(Ingest {
            interface: interface(n % size.interfaces),
            message_id: MessageId(Uuid::from_u128(u128::from(n))),
            digest: Digest([n as u8; 16]),
            headers: Vec::new(),
            numbered: None,
            session: None,
            payload: payload.into(),
        })
    });
    let members = BTreeMap::from([(1, Member::default())]);
    let membership = Membership::new(vec![BTreeSet::from([1])], members);
    let membership = EntryPayload::Membership(membership.expect("one voter is a membership"));
    let mut commands = create.chain(ingest);
    let mut n = 0;
    let normal = std::iter::from_fn(move || {
        let commands: Vec<_> = commands.by_ref().take(COMMANDS).collect();
        n += 1;
        (!commands.is_empty()).then(|| {
            let entry = CoreEntry {
                cluster_time: ClusterTime(n),
                wall_time: WallTime(n),
                position: RunPosition { term: 1, run: 1, n },
                commands,
            };
            EntryPayload::Normal(ordo_wire::entry::encode(&entry).into())
        })
    });
    let payloads = std::iter::once(membership).chain(normal);
    (1..).zip(payloads).map(|(index, payload)| {
        let log_id = LogId::new(LeaderId::new(1, 1), index);
        Ok((Entry { log_id, payload }, None))
    })
}

type Responder = openraft::storage::ApplyResponder<ordo_storage::TypeConfig>;

fn interface(n: u64) -> InterfaceId {
    InterfaceId(Uuid::from_u128(u128::from(n) << 64 | 7))
}
