//! One node's machine: what it keeps over crashes, and what is wrong with it at the moment.

use crate::bugs::{self, Bug};
use crate::points::{Down, Point, Trap};
use crate::run::Notes;
use ordo_core::Key;
use ordo_node::config::{Config, PeerConfig, RaftTiming};
use ordo_node::context::Context;
use ordo_storage::{Flawed, MemDisk, MemoryState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The wall clock at the start of every run, in milliseconds since 1970.
pub const WALL_START_MS: u64 = 1_700_000_000_000;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Every sync fails.
    SyncFails,
    /// Nothing can be written.
    Full,
}

/// What becomes of some of a leader's proposals, besides what Raft does to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalFault {
    /// It is refused, and the next one is not: an expired lease does that.
    Refused,
    /// It is told to be lost, and appended a while later all the same.
    Late,
}

/// One node's machine.
pub struct Place {
    /// The node's number.
    pub id: u64,
    /// Its host name in the simulated network.
    pub name: String,
    /// Where the run is noted down.
    pub notes: Notes,
    folder: PathBuf,
    timing: RaftTiming,
    peers: Vec<PeerConfig>,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    disk: MemDisk,
    memory: MemoryState,
    /// What this start of the node began with, where a bug needs it.
    memory_before: MemoryState,
    boots: u64,
    traps: Vec<Trap>,
    sprung: Option<Trap>,
    fault: Option<DiskFault>,
    /// Whether this start of the node met a fault of the disk.
    hurt: bool,
    /// Some of the leader's proposals go wrong.
    wrong_proposals: bool,
    /// How long the disk is busy at most before it takes the next group, in milliseconds.
    disk_busy_ms_max: u64,
    /// How far its wall clock is off, in milliseconds, and how many parts in a thousand it runs fast.
    clock: (i64, i64),
    /// For how long the machine has been suspended in all, in milliseconds.
    suspended_ms: u64,
    running: Option<Arc<Context>>,
    /// Whether a quorum acknowledged it as the leader when that was last looked at.
    has_quorum: bool,
    /// Why it stopped by itself.
    stopped: Option<String>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.name)
    }
}

/// What a start of the node begins with.
pub struct Boot {
    /// Which start this is, from 1.
    pub number: u64,
    /// Seeds the node's own randomness.
    pub seed: u64,
    /// The log's folder.
    pub disk: MemDisk,
    /// The state's last flush.
    pub memory: MemoryState,
    /// The configuration.
    pub config: Config,
}

/// An empty state store, whose flushes leave something out where a bug says so.
fn empty_memory() -> MemoryState {
    type Flaw = fn(&Key) -> bool;
    let records: Flaw = |key| matches!(key, Key::Record(..));
    let position: Flaw = |key| matches!(key, Key::Clock);
    let destinations: Flaw = |key| matches!(key, Key::Destination(..));
    let producers: Flaw = |key| matches!(key, Key::Producer(..));
    let dead_letters: Flaw = |key| matches!(key, Key::DeadLetter(..));
    let slots: Flaw = |key| matches!(key, Key::Slot(_, sequence) if sequence.0 % 3 == 0);
    let flawed = [
        (Bug::RecordsNotFlushed, Flawed::Flushes, records),
        (Bug::PositionNotFlushed, Flawed::Flushes, position),
        (Bug::DestinationsNotFlushed, Flawed::Flushes, destinations),
        (Bug::ProducersNotFlushed, Flawed::Flushes, producers),
        (Bug::DeadLettersNotFlushed, Flawed::Flushes, dead_letters),
        (Bug::SlotsNotFlushed, Flawed::Flushes, slots),
        (Bug::RecordsNotInSnapshot, Flawed::Snapshots, records),
        (
            Bug::DestinationsNotInSnapshot,
            Flawed::Snapshots,
            destinations,
        ),
    ];
    let flaw = flawed.into_iter().find(|(bug, ..)| bugs::has(*bug));
    flaw.map_or_else(MemoryState::default, |(_, what, flaw)| {
        MemoryState::flawed(what, flaw)
    })
}

impl Place {
    /// A machine that was never used, with a folder below `root`.
    #[must_use]
    pub fn new(
        id: u64,
        root: &Path,
        timing: RaftTiming,
        peers: Vec<PeerConfig>,
        seed: u64,
        notes: Notes,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            name: format!("n{id}"),
            notes,
            folder: root.join(format!("n{id}")),
            timing,
            peers,
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                disk: MemDisk::new(),
                memory: empty_memory(),
                memory_before: MemoryState::default(),
                boots: 0,
                traps: Vec::new(),
                sprung: None,
                fault: None,
                wrong_proposals: false,
                hurt: false,
                disk_busy_ms_max: 2,
                clock: (0, 0),
                suspended_ms: 0,
                running: None,
                has_quorum: false,
                stopped: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic is noted elsewhere, and ends the run.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next start.
    pub fn boot(&self) -> Boot {
        let mut state = self.lock();
        state.boots += 1;
        state.sprung = None;
        state.stopped = None;
        state.hurt = state.fault.is_some();
        if bugs::has(Bug::SnapshotAfterPurge) {
            state.memory_before = state.memory.after_crash();
        }
        // A folder that has been used has a log in it; the simulated one is elsewhere.
        let marker = self.folder.join("log");
        if state.boots > 1 && self.folder.join("IDENTITY").exists() {
            let made = std::fs::create_dir_all(&marker)
                .and_then(|()| std::fs::write(marker.join("simulated"), b""));
            made.expect("the run's temporary folder can be written");
        }
        let mut config = Config::local(self.id, self.folder.clone());
        config.peers.clone_from(&self.peers);
        config.raft = self.timing.clone();
        config.limits.cache_bytes = 64 << 10;
        Boot {
            number: state.boots,
            seed: state.rng.random(),
            disk: state.disk.clone(),
            memory: state.memory.clone(),
            config,
        }
    }

    /// The node runs.
    pub fn up(&self, context: Arc<Context>) {
        self.lock().running = Some(context);
    }

    /// Notes whether a quorum acknowledges it as the leader. To be called on the node's host: elsewhere it is another
    /// time.
    pub fn look_at_quorum(&self) {
        // The node reads this machine's clock, which takes the lock, too.
        let running = self.running();
        let has_quorum = running.is_some_and(|context| context.proposer.has_quorum());
        self.lock().has_quorum = has_quorum;
    }

    /// Whether a quorum acknowledged it as the leader, a moment ago.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let state = self.lock();
        state.running.is_some() && state.has_quorum
    }

    /// The node stopped by itself.
    pub fn stopped(&self, why: String) {
        self.notes
            .line(format_args!("{} stopped: {why}", self.name));
        let mut state = self.lock();
        state.running = None;
        state.stopped = Some(why);
    }

    /// Why the node stopped by itself, if it did.
    #[must_use]
    pub fn why_stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    /// What the running node shares with its services.
    #[must_use]
    pub fn running(&self) -> Option<Arc<Context>> {
        self.lock().running.clone()
    }

    /// The map that survives a crash; of the store in use it has the digest.
    #[must_use]
    pub fn memory(&self) -> MemoryState {
        self.lock().memory.clone()
    }

    /// The machine goes down now, unless a trap took it down before: what is on its disk is settled.
    pub fn crash(&self, down: Down) {
        let mut state = self.lock();
        state.running = None;
        if state.sprung.is_none() {
            self.settle(&mut state, down);
        }
    }

    /// Settles what a crash leaves on the disk.
    fn settle(&self, state: &mut State, down: Down) {
        let before = state.disk.clone();
        state.disk = match down {
            Down::Killed => before.process_ends(),
            Down::PowerLost => {
                let (mut kept, mut lost) = (0u64, 0u64);
                let keep = state.rng.random_range(0..=100);
                let rng = &mut state.rng;
                let disk = before.crash(|| {
                    let persists = rng.random_range(0..100) < keep;
                    *(if persists { &mut kept } else { &mut lost }) += 1;
                    persists
                });
                if lost > 0 {
                    self.notes.count("unsynced writes lost");
                }
                if lost > 0 && kept > 0 {
                    self.notes.count("torn tails");
                }
                disk
            }
        };
        // The state store is behind the page cache of a process that went: only its last flush is sure.
        state.memory = state.memory.after_crash();
        if bugs::has(Bug::SnapshotAfterPurge) {
            state.memory = state.memory_before.clone();
            let _ = std::fs::remove_dir_all(self.folder.join("snapshots"));
        }
    }

    /// Forgets everything, as when its disk was replaced.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.disk = MemDisk::new();
        state.memory = empty_memory();
        // A planted bug: the node keeps its name and so passes for the one it was.
        let keeps_name = bugs::has(Bug::WipedNodeKeepsItsName);
        let identity = std::fs::read(self.folder.join("IDENTITY"));
        let _ = std::fs::remove_dir_all(&self.folder);
        if let (true, Ok(identity)) = (keeps_name, identity) {
            let restored = std::fs::create_dir_all(&self.folder)
                .and_then(|()| std::fs::write(self.folder.join("IDENTITY"), identity));
            restored.expect("the run's temporary folder can be written");
        }
    }

    /// Sets a trap.
    pub fn set_trap(&self, trap: Trap) {
        self.lock().traps.push(trap);
    }

    /// Takes all traps and disk faults away.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.traps.clear();
        state.fault = None;
        state.wrong_proposals = false;
        state.disk_busy_ms_max = 2;
    }

    /// Breaks the disk.
    pub fn break_disk(&self, fault: DiskFault) {
        self.lock().fault = Some(fault);
    }

    /// How long the disk is busy at most before a group of writes.
    pub fn set_disk_busy(&self, ms_max: u64) {
        self.lock().disk_busy_ms_max = ms_max;
    }

    /// Puts the wall clock off by `offset_ms` and lets it run `drift` parts in a thousand fast. One that jumps ahead is
    /// that of a machine which was suspended for so long: the time since it was started jumps, too, and timers don't.
    pub fn set_clock(&self, offset_ms: i64, drift: i64) {
        let mut state = self.lock();
        state.clock = (offset_ms, drift);
        state.suspended_ms += u64::try_from(offset_ms).unwrap_or(0);
    }

    /// For how long the machine has been suspended.
    #[must_use]
    pub fn suspended(&self) -> Duration {
        Duration::from_millis(self.lock().suspended_ms)
    }

    /// The trap that took the node down, until it starts again.
    pub fn sprung(&self) -> Option<Trap> {
        self.lock().sprung
    }

    /// Whether the node is dead, of a trap: nothing it does counts any more.
    #[must_use]
    pub fn is_dead(&self, boot: u64) -> bool {
        let state = self.lock();
        state.sprung.is_some() || state.boots != boot
    }

    /// Passes a crash point. True when the node is dead from here on.
    pub fn pass(&self, point: Point) -> bool {
        let mut state = self.lock();
        if state.sprung.is_some() {
            return true;
        }
        let Some(at) = state.traps.iter().position(|trap| trap.point == point) else {
            return false;
        };
        if state.traps[at].passes > 0 {
            state.traps[at].passes -= 1;
            return false;
        }
        let trap = state.traps.remove(at);
        self.settle(&mut state, trap.down);
        state.sprung = Some(trap);
        drop(state);
        self.notes.count(point.name());
        self.notes
            .line(format_args!("{} dies: {point:?}", self.name));
        true
    }

    /// Lets some of the leader's proposals go wrong, or none.
    pub fn set_wrong_proposals(&self, wrong: bool) {
        self.lock().wrong_proposals = wrong;
    }

    /// What goes wrong with the next proposal: something for one of four, while that is so.
    pub fn next_proposal(&self) -> Option<ProposalFault> {
        let mut state = self.lock();
        if !state.wrong_proposals {
            return None;
        }
        match state.rng.random_range(0..12) {
            0 | 1 => Some(ProposalFault::Refused),
            2 => Some(ProposalFault::Late),
            _ => None,
        }
    }

    /// The disk refused something to this start of the node, which may notice later.
    pub fn hurt(&self) {
        self.lock().hurt = true;
    }

    /// Whether the disk refused something to this start of the node.
    #[must_use]
    pub fn was_hurt(&self) -> bool {
        self.lock().hurt
    }

    /// What is wrong with the disk.
    #[must_use]
    pub fn disk_fault(&self) -> Option<DiskFault> {
        self.lock().fault
    }

    /// How long the disk is busy before it takes the next group of writes.
    pub fn disk_delay(&self) -> Duration {
        let mut state = self.lock();
        let max = state.disk_busy_ms_max;
        Duration::from_millis(state.rng.random_range(0..=max))
    }

    /// The wall clock, in milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        let (offset, drift) = self.lock().clock;
        let since = i64::try_from(self.notes.now_us() / 1_000).unwrap_or(i64::MAX);
        WALL_START_MS.saturating_add_signed(since + since * drift / 1_000 + offset)
    }
}
