//! A whole node: opened, served, watched and stopped.

mod compact;
mod descriptors;
mod home;
mod servers;
mod stop;
#[cfg(test)]
mod tests;

use crate::admission::Admission;
use crate::config::Config;
use crate::context::{Context, draw_uuid};
use crate::error::ServeError;
use crate::identity::Identity;
use crate::leader::{Loops, forget_old_records};
use crate::membership::{ClusterAdmin, Membership, StateHash};
use crate::metrics::{Metrics, gauge_of};
use crate::net::{Dial, Listening, TcpDial};
use crate::parts::Parts;
use crate::proposer::{Proposer, RaftConsensus, WallClock};
use crate::raft::{PeerNetwork, Peers, Raft, Standing, recall, settings};
use crate::rooms::{self, Rooms};
use crate::{behind, http, room};
use futures_util::FutureExt;
pub use home::SimulatedStorage;
use home::{Opened, Threads};
use openraft::StorageHelper;
use openraft::async_runtime::WatchReceiver;
use openraft::vote::RaftLeaderId;
use ordo_core::Sound;
use ordo_storage::log::Log;
use ordo_storage::{Driver, LeaderId, Machine, MachineOptions, StateStore, StoredMembership};
use ordo_wire::lease::BootClock;
use rand::SeedableRng;
use rand::rngs::StdRng;
use servers::Servers;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
pub use stop::leave;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the hash of the whole state may take before a status goes without it.
const HASH_WITHIN: Duration = Duration::from_secs(60);

/// Memory in use and free disk space, in bytes; None where it can't be found out.
pub type Measure = Arc<dyn Fn() -> (Option<u64>, Option<u64>) + Send + Sync>;

/// What a node meets the world through. Tests and simulations replace parts of it.
pub struct Seams {
    /// Where clients connect; listens on the configured address when there is none.
    pub public: Option<Listening>,
    /// Where other nodes connect.
    pub peer: Option<Listening>,
    /// Where health and metrics are served.
    pub http: Option<Listening>,
    /// Connects to other nodes.
    pub dial: Arc<dyn Dial>,
    /// Milliseconds since 1970.
    pub wall: WallClock,
    /// For how long the machine has been suspended.
    pub boot: BootClock,
    /// Seeds all randomness of the node's own; from the operating system when there is none.
    pub seed: Option<u64>,
    /// Whether every invariant is checked after every lump of entries.
    pub check_invariants: bool,
    /// Tells how much memory and disk are used, where that is not looked for on this machine.
    pub room: Option<Measure>,
    /// Where log and state live; in the data folder when there is none.
    pub storage: Option<SimulatedStorage>,
}

impl Default for Seams {
    fn default() -> Self {
        let wall = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64)
        };
        Self {
            public: None,
            peer: None,
            http: None,
            dial: Arc::new(TcpDial),
            wall: Arc::new(wall),
            boot: BootClock::default(),
            seed: None,
            check_invariants: false,
            room: None,
            storage: None,
        }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// A running node. Stop it with [`ServeHandle::shutdown`]: a mere drop takes no leave of the cluster.
pub struct ServeHandle {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where other nodes connect.
    pub peer: SocketAddr,
    /// Where health and metrics are served.
    pub http: SocketAddr,
    pub(crate) context: Arc<Context>,
    servers: Servers,
    failure: oneshot::Receiver<ServeError>,
    /// Ends the servers, the proposer and the timers; after [`Context::stop`], which ends the streams.
    closing: CancellationToken,
    log: Log,
    threads: Option<Threads>,
}

impl fmt::Debug for ServeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeHandle")
            .field("public", &self.public)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Runs a node until `shutdown` is there, and takes leave of the cluster then: leadership goes to another node,
/// streams end, what is in hand reaches the disk.
///
/// # Errors
/// When the node can't start, or can't go on. The caller logs it, once, and ends the process with
/// [`ServeError::exit_status`]; nothing is tried again.
pub async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let mut node = start(config, Seams::default()).await?;
    tokio::select! {
        biased;
        error = node.failed() => {
            node.abandon().await;
            Err(error)
        }
        () = shutdown => node.shutdown().await,
    }
}

/// Ends the process when any thread panics: a node that lost a thread is not the node that the others count on.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!("ordo: a thread panicked; the process ends, so that another node can take over");
        std::process::abort();
    }));
}

fn storage_failed(error: impl fmt::Display) -> ServeError {
    ServeError::Storage(error.to_string())
}

/// Starts a node.
///
/// # Errors
/// When an address is taken, the data folder is another node's, or what is in it is damaged.
pub async fn start(config: Config, seams: Seams) -> Result<ServeHandle, ServeError> {
    start_with(config, seams, Sound).await
}

/// [`start`] with other parts, for simulations.
///
/// # Errors
/// See [`start`].
pub async fn start_with<P: Parts>(
    config: Config,
    mut seams: Seams,
    parts: P,
) -> Result<ServeHandle, ServeError> {
    let config = Arc::new(config);
    // First of all, since a taken port is the mistake that is made most often.
    let listening = servers::listen(&config, &mut seams).await?;
    let rng = seams
        .seed
        .map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
    let rng = Arc::new(Mutex::new(rng));
    let identity = Arc::new(Identity::open(&config, || draw_uuid(&rng))?);
    let (report, failure) = oneshot::channel();
    let Opened {
        mut raft_log,
        log,
        log_thread,
        store,
        last_log_id,
    } = home::open(&config, &identity, seams.storage, report).await?;
    let driver = store.driver();

    let metrics = Arc::new(Metrics::default());
    let (waiting_max, closing) = (config.limits.proposal_bytes, CancellationToken::new());
    let waiting_bytes_max = usize::try_from(waiting_max).unwrap_or(usize::MAX);
    let (proposer, proposing) = Proposer::new(
        waiting_bytes_max,
        Arc::clone(&seams.wall),
        seams.boot,
        Arc::clone(&metrics),
    );
    let admission = Admission::new(waiting_max);
    let rooms = Rooms::new(config.node_id, &config.limits, Arc::clone(&admission));
    let (loops, timers) = Loops::new(
        proposer.clone(),
        Arc::clone(&admission),
        Arc::clone(&metrics),
    );
    let options = MachineOptions {
        check_invariants: seams.check_invariants,
        steps: Some(metrics.steps()),
        ..MachineOptions::default()
    };
    let (mut machine, machine_loop) =
        Machine::by_rules::<_, P::Rules>(store.clone(), parts.loops(loops), options)
            .map_err(storage_failed)?;
    let handle = machine.handle();
    let threads = home::drive(machine_loop, log_thread)?;
    machine.cover(last_log_id).await.map_err(storage_failed)?;

    let peers = Peers::new(Arc::clone(&seams.dial), Arc::clone(&identity));
    let mut helper = StorageHelper::new(&mut raft_log, &mut machine);
    let membership = helper.get_membership().await.map_err(storage_failed)?;
    refuse_older_copy(&config, &peers, membership.effective(), &log, &store).await?;
    let network = PeerNetwork::new(peers.clone(), log.clone(), store.clone(), driver);
    let timing = settings(&config.raft);
    let raft_log = parts.log(raft_log);
    let raft = Raft::build(config.node_id, timing, network, raft_log, machine).await;
    let raft = raft.map_err(|error| ServeError::Raft(error.to_string()))?;
    let draw = Arc::clone(&rng);
    let cluster = Membership {
        raft: raft.clone(),
        identity: Arc::clone(&identity),
        config: Arc::clone(&config),
        peers: peers.clone(),
        draw: Box::new(move || draw_uuid(&draw)),
        state_hash: state_hash(handle.clone()),
        rooms: Arc::clone(&rooms),
        changing: AsyncMutex::new(()),
    };
    let cluster = Arc::new(cluster);
    let context = Arc::new(Context {
        config,
        identity,
        raft,
        machine: handle,
        store,
        proposer,
        admission,
        rooms,
        cluster: Arc::clone(&cluster) as Arc<dyn ClusterAdmin>,
        metrics,
        wall: seams.wall,
        rng,
        peers,
        stop: CancellationToken::new(),
    });

    let (public, peer, http) = (
        listening.public.address,
        listening.peer.address,
        listening.http.address,
    );
    let mut servers = servers::spawn::<P::Rules>(&context, listening, &closing, &log).await;
    let tasks = &mut servers.tasks;
    let consensus = parts.consensus(RaftConsensus::new(context.raft.clone()));
    tasks.spawn(
        proposing
            .run(consensus, context.machine.clone(), closing.clone())
            .map(Ok),
    );
    tasks.spawn(timers.run(context.machine.clone(), closing.clone()).map(Ok));
    let (proposer, machine) = (context.proposer.clone(), context.machine.clone());
    tasks.spawn(forget_old_records(proposer, machine, closing.clone()).map(Ok));
    // The disk of this machine is none of a simulation's.
    if driver == Driver::Threads {
        let (store, admission) = (context.store.clone(), Arc::clone(&context.admission));
        tasks.spawn(behind::watch(store, admission, closing.clone()).map(Ok));
    }
    watch_rooms(&context, seams.room, driver, &closing, tasks);
    let (raft, log_bytes) = (context.raft.clone(), context.config.raft.log_bytes);
    tasks.spawn(compact::watch(raft, log.clone(), log_bytes, closing.clone()).map(Ok));
    tasks.spawn(cluster.end_changes(closing.clone()).map(Ok));
    tasks.spawn(watch_raft(context.raft.clone(), closing.clone()));
    context.raft.run();
    tracing::info!(node_id = context.config.node_id, %public, %peer, %http, "this node serves");
    Ok(ServeHandle {
        public,
        peer,
        http,
        context,
        servers,
        failure,
        closing,
        log,
        threads,
    })
}

/// Keeps up to date which nodes have room. What is used on this machine is none of a simulation's, which may have it
/// measured otherwise.
fn watch_rooms(
    context: &Arc<Context>,
    measure: Option<Measure>,
    driver: Driver,
    closing: &CancellationToken,
    tasks: &mut JoinSet<Result<(), ServeError>>,
) {
    let (rooms, raft) = (Arc::clone(&context.rooms), context.raft.clone());
    let config = Arc::clone(&context.config);
    match (measure, driver) {
        (Some(measure), _) => {
            tasks.spawn(rooms::measure_by(measure, rooms, raft, closing.clone()).map(Ok));
        }
        (None, Driver::Threads) => {
            let admission = Arc::clone(&context.admission);
            tasks.spawn(room::watch(config, admission, rooms, raft, closing.clone()).map(Ok));
        }
        (None, _) => return,
    }
    let (rooms, raft) = (Arc::clone(&context.rooms), context.raft.clone());
    let (config, peers) = (Arc::clone(&context.config), context.peers.clone());
    tasks.spawn(rooms::ask_others(config, rooms, raft, peers, closing.clone()).map(Ok));
    let (rooms, raft) = (Arc::clone(&context.rooms), context.raft.clone());
    let cluster = Arc::clone(&context.cluster);
    tasks.spawn(rooms::hand_over(rooms, raft, cluster, closing.clone()).map(Ok));
}

/// Refuses a data folder that lacks what this node showed the others: see `raft/fence.rs`.
async fn refuse_older_copy(
    config: &Config,
    peers: &Peers,
    membership: &StoredMembership,
    log: &Log,
    store: &StateStore,
) -> Result<(), ServeError> {
    let vote = log.vote();
    let vote = vote.map_or(LeaderId::new(0, 0), |vote| {
        LeaderId::new(vote.term, vote.node_id)
    });
    // After a snapshot the log may begin behind the state, and a crash may come before it does.
    let index = log
        .last_synced_index()
        .unwrap_or(0)
        .max(store.applied().index());
    let found = Standing { vote, index };
    match recall(peers, membership).await {
        Some((witness, shown)) if shown > found => Err(ServeError::OlderCopy {
            folder: config.data_dir.display().to_string(),
            found,
            shown,
            witness,
        }),
        _ => Ok(()),
    }
}

fn state_hash(machine: ordo_storage::MachineHandle<crate::leader::Event>) -> StateHash {
    Box::new(move || {
        let machine = machine.clone();
        Box::pin(async move {
            let hash = tokio::time::timeout(HASH_WITHIN, machine.state_hash())
                .await
                .ok()?
                .ok()?;
            Some((hash.index, hash.hash.to_be_bytes().to_vec()))
        })
    })
}

/// Says who leads, and ends with an error when consensus stops by itself.
async fn watch_raft(raft: Raft, closing: CancellationToken) -> Result<(), ServeError> {
    let mut metrics = raft.server_metrics();
    let mut all = raft.metrics();
    let mut last = None;
    loop {
        let (leader, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.vote.leader_id.term)
        };
        if last != Some((leader, term)) {
            last = Some((leader, term));
            match leader {
                Some(leader) => tracing::info!(node_id = leader, term, "a node leads"),
                None => tracing::info!(term, "no node is known to lead"),
            }
        }
        tokio::select! {
            biased;
            () = closing.cancelled() => return Ok(()),
            changed = metrics.changed() => {
                if changed.is_err() && !closing.is_cancelled() {
                    return Err(stopped(&all.borrow_watched().running_state));
                }
            }
            fatal = wait_fatal(&mut all) => return Err(fatal),
        }
    }
}

type RunningState = Result<(), openraft::errors::Fatal<ordo_storage::TypeConfig>>;

fn stopped(state: &RunningState) -> ServeError {
    match state {
        Err(openraft::errors::Fatal::StorageError(error)) => ServeError::Storage(error.to_string()),
        Err(error) => ServeError::Raft(error.to_string()),
        Ok(()) => ServeError::Raft("its task is gone".to_owned()),
    }
}

async fn wait_fatal(
    metrics: &mut openraft::alias::WatchReceiverOf<
        ordo_storage::TypeConfig,
        openraft::RaftMetrics<ordo_storage::TypeConfig>,
    >,
) -> ServeError {
    loop {
        if metrics.borrow_watched().running_state.is_err() {
            return stopped(&metrics.borrow_watched().running_state);
        }
        if metrics.changed().await.is_err() {
            return stopped(&metrics.borrow_watched().running_state);
        }
    }
}

/// The node, as its pages show it.
struct Pages {
    context: Arc<Context>,
    log: Log,
}

impl http::Pages for Pages {
    fn look(&self) {
        let (context, raft) = (&self.context, self.context.raft.metrics());
        let (raft, gauges) = (raft.borrow_watched(), &self.context.metrics.raft);
        let index = |id: &Option<ordo_storage::LogId>| gauge_of(id.map_or(0, |id| id.index));
        gauges.term.set(gauge_of(raft.current_term));
        gauges
            .leader
            .set(gauge_of(raft.current_leader.unwrap_or(0)));
        gauges.is_leader.set(i64::from(raft.state.is_leader()));
        gauges
            .last_log_index
            .set(gauge_of(raft.last_log_index.unwrap_or(0)));
        gauges.committed_index.set(index(&raft.local_committed));
        gauges.applied_index.set(index(&raft.last_applied));
        gauges.snapshot_index.set(index(&raft.snapshot));
        let (stats, gauges) = (context.store.stats(), &context.metrics.storage);
        gauges.log_bytes.set(gauge_of(self.log.bytes_on_disk()));
        gauges
            .log_memory_bytes
            .set(gauge_of(self.log.bytes_in_memory() as u64));
        gauges.state_bytes.set(gauge_of(stats.table_bytes));
        gauges
            .state_memory_bytes
            .set(gauge_of(stats.memtable_bytes));
        gauges.cache_bytes.set(gauge_of(stats.cache_bytes));
        gauges.flushed_index.set(gauge_of(stats.flushed_index));
    }

    fn ready(&self) -> Result<Vec<String>, String> {
        if self.context.stop.is_cancelled() {
            return Err("this node is stopping".to_owned());
        }
        let metrics = self.context.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.nodes().next().is_none() {
            return Err(
                "this node is not a member of a cluster yet: run `ordo cluster init`".to_owned(),
            );
        }
        if metrics.current_leader.is_none() {
            return Err("no node is known to lead".to_owned());
        }
        let rooms = &self.context.rooms;
        match rooms.misplaced().filter(|misplaced| misplaced.cut_off) {
            Some(misplaced) => Err(misplaced.text),
            None => Ok(rooms.problems()),
        }
    }
}
