//! The state machine's surroundings: who watches it, and how others reach it.
//!
//! ```text
//! openraft ── apply, install ──► Machine ──┐
//! services, peers ── send, query ► MachineHandle ── queue ──► MachineLoop (one thread): State, StateStore, Observer
//! ```
//! One thread owns the state. It takes jobs in the order in which they came: lumps of committed entries, events for
//! the observer, questions. So a question is answered at exactly one applied index, and an observer never sees a
//! state and an event that don't belong together.

use crate::machine_loop::{Job, MachineLoop, Query};
use crate::store::StateStore;
use crate::store_error::StoreError;
use crate::store_hash::StateHash;
use crate::types::LogId;
use ordo_core::{Effect, Rules, Sound, State};
use std::fmt;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// What watches the state machine: the leader's loops. All of it runs on the machine's thread; keep it short, and
/// block on nothing.
pub trait Observer: Send + 'static {
    /// What others may tell it through [`MachineHandle::send`].
    type Event: Send + 'static;

    /// The state was loaded from the disk, before anything else happens.
    fn loaded(&mut self, _view: View<'_>) {}

    /// A lump of entries was applied and written to the store (not synced: the log is the durability), and its
    /// proposers have not been answered yet.
    fn applied(&mut self, view: View<'_>, lump: &Lump);

    /// An event came.
    fn event(&mut self, view: View<'_>, event: Self::Event);

    /// A snapshot replaced the state: nothing known of the old one holds.
    fn installed(&mut self, view: View<'_>);

    /// The queue ran empty: the end of a burst. Send what gathered.
    fn idle(&mut self, view: View<'_>);
}

/// Watches nothing.
impl Observer for () {
    type Event = std::convert::Infallible;

    fn applied(&mut self, _: View<'_>, _: &Lump) {}

    fn event(&mut self, _: View<'_>, event: Self::Event) {
        match event {}
    }

    fn installed(&mut self, _: View<'_>) {}

    fn idle(&mut self, _: View<'_>) {}
}

/// The state at one applied index.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The state in memory.
    pub state: &'a State,
    /// Payloads, headers, records and events.
    pub store: &'a StateStore,
    /// The last applied log index; 0 before the first.
    pub applied_index: u64,
}

/// Entries that were applied together.
#[derive(Debug)]
pub struct Lump {
    /// The last of them.
    pub last_log_id: LogId,
    /// What follows from them for a leader, in their order.
    pub effects: Vec<Effect>,
}

/// How the machine runs.
#[derive(Debug, Clone)]
pub struct MachineOptions {
    /// Entries of a lump at most.
    pub lump_entries_max: usize,
    /// Bytes of a lump's entries at most, save for a single larger one.
    pub lump_bytes_max: usize,
    /// Whether every invariant is checked after every lump: costs a walk over all unfinished messages.
    pub check_invariants: bool,
    /// Whether log indexes may be left out, which means damage everywhere but in openraft's own storage suite.
    pub allow_gaps: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            lump_entries_max: 256,
            lump_bytes_max: 4 << 20,
            check_invariants: false,
            allow_gaps: false,
        }
    }
}

/// The machine has ended, or stopped after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state machine has ended")]
pub struct Stopped;

/// Reaches the machine's thread from any other. Cheap to clone.
pub struct MachineHandle<E> {
    jobs: mpsc::UnboundedSender<Job<E>>,
}

impl<E> Clone for MachineHandle<E> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
        }
    }
}

impl<E> fmt::Debug for MachineHandle<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineHandle")
    }
}

impl<E: Send + 'static> MachineHandle<E> {
    /// Puts an event in the queue for the observer. Those sent from one place arrive in order; after the machine's
    /// end they are dropped.
    ///
    /// The queue has no bound of its own: who sends must have one (credits, a window, one event a stream).
    pub fn send(&self, event: E) {
        let _ = self.jobs.send(Job::Event(event));
    }

    /// Runs `question` on the machine's thread, after everything that is in the queue.
    ///
    /// # Errors
    /// When the machine has ended.
    pub async fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |view| {
            let _ = answer.send(question(view));
        });
        self.jobs.send(Job::Query(query)).map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// The hash of the whole state at the index applied when its turn comes. Reads the whole store, on another
    /// thread.
    ///
    /// # Errors
    /// Damage, or a disk that refuses; [`StoreError::Stopped`] when the machine has ended.
    pub async fn state_hash(&self) -> Result<StateHash, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.jobs
            .send(Job::Hash(answer))
            .map_err(|_| StoreError::Stopped)?;
        answered.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Ends the machine after what is in its queue, with a flush. Entries that come later are refused. Does nothing
    /// when it has ended already.
    ///
    /// # Errors
    /// When the flush fails: nothing is lost then, the next start replays more of the log.
    pub async fn stop(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job::Stop(answer)).is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }
}

/// The state machine, as openraft drives it: see `machine_raft.rs`. `E` is what its observer may be told.
pub struct Machine<E> {
    pub(crate) jobs: mpsc::UnboundedSender<Job<E>>,
    pub(crate) store: StateStore,
    pub(crate) options: MachineOptions,
}

impl<E> fmt::Debug for Machine<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl<E: Send + 'static> Machine<E> {
    /// Loads the state from its store. The loop that comes with it must be driven: by
    /// [`MachineLoop::spawn`], or in a simulation by [`MachineLoop::run`].
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn new<O: Observer<Event = E>>(
        store: StateStore,
        observer: O,
        options: MachineOptions,
    ) -> Result<(Self, MachineLoop<O>), StoreError> {
        Self::by_rules::<O, Sound>(store, observer, options)
    }

    /// [`Machine::new`] by other rules, for simulations.
    ///
    /// # Errors
    /// See [`Machine::new`].
    pub fn by_rules<O: Observer<Event = E>, R: Rules>(
        store: StateStore,
        observer: O,
        options: MachineOptions,
    ) -> Result<(Self, MachineLoop<O, R>), StoreError> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let machine_loop = MachineLoop::new(store.clone(), observer, queue, options.clone())?;
        Ok((
            Self {
                jobs,
                store,
                options,
            },
            machine_loop,
        ))
    }

    /// Reaches the machine's thread.
    #[must_use]
    pub fn handle(&self) -> MachineHandle<E> {
        MachineHandle {
            jobs: self.jobs.clone(),
        }
    }
}
