//! Where a node's log and state live, and what drives them: files, RocksDB and threads, or what a simulation holds.

use super::storage_failed;
use crate::config::Config;
use crate::error::ServeError;
use crate::identity::Identity;
use openraft::storage::RaftLogStorage;
use ordo_core::Rules;
use ordo_storage::log::{Log, LogOptions, LogThread};
use ordo_storage::{
    Disk, FileDisk, LogId, MachineLoop, MemoryState, Observer, RaftLog, StateStore, StoreOptions,
};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A simulation's disk and map, driven by tasks.
pub struct SimulatedStorage {
    /// The log's folder.
    pub disk: Arc<dyn Disk>,
    /// How the log is laid out.
    pub log: LogOptions,
    /// How long the disk is busy before it takes the next group of writes.
    pub delay: Box<dyn FnMut() -> Duration + Send>,
    /// What of the state survives a crash.
    pub state: MemoryState,
}

impl fmt::Debug for SimulatedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedStorage")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// The threads of a node that is not simulated.
pub(super) struct Threads {
    machine: JoinHandle<()>,
    log: LogThread,
}

impl Threads {
    /// Waits until both have ended: the machine was stopped and the log closed.
    pub(super) fn join(self) -> Result<(), ServeError> {
        let ended = self.machine.join();
        self.log.join();
        ended.map_err(|_| ServeError::Storage("the state machine's thread panicked".to_owned()))
    }
}

/// Log and state, opened and checked against each other.
pub(super) struct Opened {
    pub(super) raft_log: RaftLog,
    pub(super) log: Log,
    /// `None` where a task writes.
    pub(super) log_thread: Option<LogThread>,
    pub(super) store: StateStore,
    /// The last log entry's id.
    pub(super) last_log_id: Option<LogId>,
}

/// Opens log and state, and begins to drive the log. The first failure of either is sent to `report`.
pub(super) async fn open(
    config: &Config,
    identity: &Identity,
    simulated: Option<SimulatedStorage>,
    report: oneshot::Sender<ServeError>,
) -> Result<Opened, ServeError> {
    let cache_bytes_max = usize::try_from(config.limits.cache_bytes).unwrap_or(usize::MAX);
    let options = StoreOptions {
        cache_bytes_max,
        ..StoreOptions::default()
    };
    let (log, log_thread, store, mut raft_log) = match simulated {
        None => {
            let disk = FileDisk::open(identity.folder("log")).map_err(storage_failed)?;
            let (log, writer) =
                Log::open(Arc::new(disk), LogOptions::default()).map_err(storage_failed)?;
            let store = StateStore::open(&config.data_dir, options).map_err(storage_failed)?;
            let thread = writer.spawn().map_err(storage_failed)?;
            let raft_log = RaftLog::open(log.clone()).map_err(storage_failed)?;
            (log, Some(thread), store, raft_log)
        }
        Some(simulated) => {
            let (log, writer) = Log::open(simulated.disk, simulated.log).map_err(storage_failed)?;
            let snapshots = identity.folder("snapshots");
            let store = StateStore::open_in_memory(simulated.state, &snapshots, options)
                .map_err(storage_failed)?;
            tokio::spawn(writer.run_as_task(simulated.delay));
            let raft_log = RaftLog::open(log.clone()).map_err(storage_failed)?;
            (log, None, store, raft_log.with_reads_on_task())
        }
    };
    // The first failure is the one to tell; later ones follow from it.
    store.on_failure(move |error| {
        let _ = report.send(storage_failed(error));
    });
    raft_log.drop_replaced(&store).map_err(storage_failed)?;
    let state = raft_log.get_log_state().await.map_err(storage_failed)?;
    store
        .check_purged(state.last_purged_log_id)
        .map_err(storage_failed)?;
    Ok(Opened {
        raft_log,
        log,
        log_thread,
        store,
        last_log_id: state.last_log_id,
    })
}

/// Drives the machine: by a thread where the log has one, else by a task.
pub(super) fn drive<O: Observer, R: Rules>(
    machine: MachineLoop<O, R>,
    log: Option<LogThread>,
) -> Result<Option<Threads>, ServeError> {
    match log {
        Some(log) => {
            let machine = machine.spawn().map_err(storage_failed)?;
            Ok(Some(Threads { machine, log }))
        }
        None => {
            tokio::spawn(machine.run());
            Ok(None)
        }
    }
}
