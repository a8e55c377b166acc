//! openraft on our log and our machine: its own storage suite, and one node that runs, ends and runs again.

use crate::state_support::{lane, member, open_log};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId;
use openraft::{Config, OptionalSend, Raft, SnapshotPolicy, StorageError};
use ordo_core::{Command, Reply, Sequence};
use ordo_storage::log::LogThread;
use ordo_storage::{
    Entry, EntryData, EntryPayload, LeaderId, LogId, Lump, Machine, MachineHandle, MachineOptions,
    Member, MemoryState, Observer, RaftLog, Snapshot, SnapshotFolder, StateStore, StoreOptions,
    TypeConfig, View, Vote,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct OnDisk(Threads);
struct InMemory(Threads);

/// The machines' threads, which end when the suite has let go of the machines. They close their stores: a process that
/// ends before that is aborted.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Threads {
    fn join(self) {
        for thread in self.0.lock().unwrap().drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Everything of one store, in the order in which it goes.
type Guard = (LogThread, TempDir);

fn build(
    threads: &Threads,
    store: impl FnOnce(&Path) -> StateStore,
) -> (Guard, RaftLog, Machine<std::convert::Infallible>) {
    let folder = tempfile::tempdir().unwrap();
    let (log, thread) = open_log(folder.path());
    let options = MachineOptions {
        check_invariants: true,
        allow_gaps: true,
        ..MachineOptions::default()
    };
    let (machine, machine_loop) = Machine::new(store(folder.path()), (), options).unwrap();
    let running = machine_loop.spawn().unwrap();
    threads.0.lock().unwrap().push(running);
    ((thread, folder), log, machine)
}

impl StoreBuilder<TypeConfig, RaftLog, Machine<std::convert::Infallible>, Guard> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(Guard, RaftLog, Machine<std::convert::Infallible>), StorageError<TypeConfig>> {
        Ok(build(&self.0, |folder| {
            StateStore::open(folder, StoreOptions::default()).unwrap()
        }))
    }
}

impl StoreBuilder<TypeConfig, RaftLog, Machine<std::convert::Infallible>, Guard> for InMemory {
    async fn build(
        &self,
    ) -> Result<(Guard, RaftLog, Machine<std::convert::Infallible>), StorageError<TypeConfig>> {
        Ok(build(&self.0, |folder| {
            StateStore::open_in_memory(MemoryState::default(), folder, StoreOptions::default())
                .unwrap()
        }))
    }
}

#[tokio::test]
async fn openrafts_storage_suite_passes_on_disk() {
    let threads = Threads::default();
    Suite::test_all(OnDisk(threads.clone())).await.unwrap();
    threads.join();
}

#[tokio::test]
async fn openrafts_storage_suite_passes_in_memory() {
    let threads = Threads::default();
    Suite::test_all(InMemory(threads.clone())).await.unwrap();
    threads.join();
}

/// A network without anybody.
struct Nobody;

impl RaftNetworkFactory<TypeConfig> for Nobody {
    type Network = Self;

    async fn new_client(&mut self, _: u64, _: &Member) -> Self {
        Self
    }
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::from_string("there is only one node")
}

impl RaftNetworkV2<TypeConfig> for Nobody {
    type SnapshotData = SnapshotFolder;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(unreachable()))
    }
}

/// Notes how far it was told.
#[derive(Clone, Default)]
struct Heard(Arc<AtomicU64>);

impl Observer for Heard {
    type Event = ();

    fn applied(&mut self, view: View<'_>, lump: &Lump) {
        assert_eq!(view.applied_index, lump.last_log_id.index);
        self.0.store(view.applied_index, Ordering::Release);
    }

    fn event(&mut self, _: View<'_>, (): ()) {}

    fn installed(&mut self, _: View<'_>) {}

    fn idle(&mut self, _: View<'_>) {}
}

struct Node {
    raft: Raft<TypeConfig, Machine<()>>,
    handle: MachineHandle<()>,
    store: StateStore,
    heard: Heard,
    machine: JoinHandle<()>,
    log: LogThread,
}

/// Opens the store. In one process a task of openraft's that ends on its own may hold the one before for a moment
/// longer: `Raft::shutdown` waits for its core, not for the state machine's worker.
async fn open_store(folder: &Path) -> StateStore {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match StateStore::open(folder, StoreOptions::default()) {
            Ok(store) => return store,
            Err(error) => assert!(
                error.to_string().contains("by current process") && Instant::now() < until,
                "{error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn start(folder: &Path) -> Node {
    let (log, log_thread) = open_log(folder);
    let store = open_store(folder).await;
    let heard = Heard::default();
    let options = MachineOptions {
        check_invariants: true,
        ..MachineOptions::default()
    };
    let (mut machine, machine_loop) = Machine::new(store.clone(), heard.clone(), options).unwrap();
    let handle = machine.handle();
    let thread = machine_loop.spawn().unwrap();
    let mut log = log;
    log.drop_replaced(&store).unwrap();
    let last = log.get_log_state().await.unwrap().last_log_id;
    machine.cover(last).await.unwrap();
    let config = Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(50),
        max_in_snapshot_log_to_keep: 5,
        purge_batch_size: 1,
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let raft = Raft::new(
        1,
        Arc::new(config.validate().unwrap()),
        Nobody,
        log,
        machine,
    )
    .await
    .unwrap();
    Node {
        raft,
        handle,
        store,
        heard,
        machine: thread,
        log: log_thread,
    }
}

impl Node {
    async fn leads(&self) {
        let wait = self.raft.wait(Some(Duration::from_secs(30)));
        wait.current_leader(1, "it is alone").await.unwrap();
    }

    async fn write(&self, n: u64, command: Command) -> Reply {
        let entry = ordo_core::Entry {
            cluster_time: ordo_core::ClusterTime(n),
            wall_time: ordo_core::WallTime(n),
            position: ordo_core::RunPosition { term: 1, run: 1, n },
            commands: vec![command],
        };
        let data = EntryData(ordo_wire::entry::encode(&entry));
        let written = self.raft.client_write(data).await.unwrap();
        let told = self.heard.0.load(Ordering::Acquire);
        assert!(
            told >= written.log_id.index,
            "the observer hears of an entry before its proposer does"
        );
        assert_eq!(written.data.0.len(), 1, "one reply a command");
        written.data.0[0].clone()
    }

    async fn stop(self) {
        self.raft.shutdown().await.unwrap();
        self.handle.stop().await.unwrap();
        self.machine.join().unwrap();
        self.log.join();
    }
}

fn ingest(n: u64) -> Command {
    Command::Ingest(ordo_core::Ingest {
        interface: lane(1),
        message_id: ordo_core::MessageId(uuid::Uuid::from_u128(u128::from(n))),
        digest: ordo_core::Digest([0; 16]),
        payload: bytes::Bytes::from(format!("payload {n}")),
        headers: Vec::new(),
        numbered: None,
        session: None,
    })
}

/// A node that leads alone, with one interface.
async fn begin(folder: &Path) -> Node {
    let node = start(folder).await;
    node.raft
        .initialize(BTreeMap::from([(1, member(1))]))
        .await
        .unwrap();
    node.leads().await;
    let create = ordo_core::CreateInterface {
        interface: lane(1),
        name: "lane".to_owned(),
        config: ordo_core::InterfaceConfig::default(),
    };
    node.write(1, Command::CreateInterface(create)).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_purges_below_its_snapshots_only_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = begin(folder.path()).await;
    let mut hash = None;
    for round in 0..3 {
        for n in 0..80 {
            let n = round * 80 + n + 1;
            let reply = node.write(n + 1, ingest(n)).await;
            assert_eq!(
                reply,
                Reply::Ingested {
                    sequence: Sequence(n),
                    duplicate: false
                }
            );
        }
        let wait = node.raft.wait(Some(Duration::from_secs(30)));
        let purged = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.purged.is_some_and(|id| id.index > round * 80)
        };
        let metrics = wait
            .metrics(purged, "a snapshot lets the log be purged")
            .await
            .unwrap();
        let purged = metrics.purged.unwrap().index;
        let snapshot = metrics.snapshot.unwrap().index;
        assert!(purged <= snapshot && snapshot <= node.store.flushed_index());
        hash = Some(node.handle.state_hash().await.unwrap());
        node.stop().await;
        node = start(folder.path()).await;
        node.store.check_purged(metrics.purged).unwrap();
        node.leads().await;
    }
    let now = node.handle.state_hash().await.unwrap();
    assert_eq!(
        Some(now.hash),
        hash.map(|hash| hash.hash),
        "a restart changes nothing"
    );
    let body = node.store.body(lane(1), Sequence(240), 0).unwrap().unwrap();
    assert_eq!(body.payload, "payload 240");
    node.stop().await;
}

/// A leader that loses power may have flushed what its own log had not: see [`Machine::cover`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_ahead_of_its_log_comes_back_with_a_snapshot_as_new_as_the_log_is_purged() {
    let folder = tempfile::tempdir().unwrap();
    let node = begin(folder.path()).await;
    for n in 1..=60 {
        node.write(n + 1, ingest(n)).await;
    }
    let wait = node.raft.wait(Some(Duration::from_secs(30)));
    let has_snapshot = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.snapshot.is_some();
    wait.metrics(has_snapshot, "the first snapshot")
        .await
        .unwrap();
    node.stop().await;

    let (mut log, thread) = open_log(folder.path());
    let last = log.get_log_state().await.unwrap().last_log_id.unwrap();
    log.log().truncate(last.index - 2).unwrap();
    drop(log);
    thread.join();

    let node = start(folder.path()).await;
    node.leads().await;
    let metrics = node.raft.metrics().borrow_watched().clone();
    assert!(metrics.purged >= Some(last), "{:?}", metrics.purged);
    assert!(metrics.snapshot >= metrics.purged, "{:?}", metrics.snapshot);
    node.stop().await;
}

/// A follower that stops may have applied what its own log had not, where that still holds what another leader wrote:
/// see [`RaftLog::drop_replaced`]. That leader was `terms` after the one of the applied entries, or before it; its
/// entries end so many before the last applied one, or behind it.
async fn lets_go_of_what_was_replaced(terms: i64, ends: i64) {
    let folder = tempfile::tempdir().unwrap();
    let node = begin(folder.path()).await;
    node.write(2, ingest(1)).await;
    let earlier = last_applied(&node).await;
    node.stop().await;
    let node = start(folder.path()).await;
    node.leads().await;
    node.write(3, ingest(2)).await;
    let applied = last_applied(&node).await;
    assert!(applied.leader_id > earlier.leader_id);
    let hash = node.handle.state_hash().await.unwrap().hash;
    node.stop().await;

    let (mut log, thread) = open_log(folder.path());
    log.truncate_after(Some(earlier)).await.unwrap();
    let term = applied.leader_id.term.checked_add_signed(terms).unwrap();
    let leader_id = LeaderId::new(term, 1);
    let last = applied.index.checked_add_signed(ends).unwrap();
    assert!(earlier.index < last && leader_id != applied.leader_id);
    let replaced = (earlier.index + 1..=last).map(|index| Entry {
        log_id: LogId { leader_id, index },
        payload: EntryPayload::Blank,
    });
    log.append(replaced, IOFlushed::noop()).await.unwrap();
    drop(log);
    thread.join();

    let node = start(folder.path()).await;
    node.leads().await;
    assert_eq!(node.handle.state_hash().await.unwrap().hash, hash);
    node.write(4, ingest(3)).await;
    let metrics = node.raft.metrics().borrow_watched().clone();
    assert!(metrics.purged >= Some(applied), "{:?}", metrics.purged);
    assert!(metrics.snapshot >= metrics.purged, "{:?}", metrics.snapshot);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_in_what_a_later_leader_replaced_lets_go_of_it() {
    lets_go_of_what_was_replaced(-1, 2).await;
    lets_go_of_what_was_replaced(-1, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_in_what_earlier_entries_replaced_lets_go_of_it() {
    lets_go_of_what_was_replaced(1, 2).await;
    lets_go_of_what_was_replaced(1, 0).await;
    lets_go_of_what_was_replaced(1, -1).await;
}

/// The last applied entry that the observer heard of, once metrics have it: they may come after a proposer's answer.
async fn last_applied(node: &Node) -> LogId {
    let told = node.heard.0.load(Ordering::Acquire);
    let wait = node.raft.wait(Some(Duration::from_secs(30)));
    let wait = wait.applied_index_at_least(Some(told), "the observer heard of it");
    wait.await.unwrap().last_applied.unwrap()
}
