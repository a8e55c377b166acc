//! The loop that owns the state.

use crate::machine::{Lump, MachineOptions, Observer, View};
use crate::store::StateStore;
use crate::store_error::StoreError;
use crate::store_hash::{StateHash, hash};
use crate::store_meta::Applied;
use crate::types::{
    Entry, EntryPayload, EntryReply, SnapshotFolder, SnapshotMeta, StoredMembership, TypeConfig,
};
use openraft::storage::ApplyResponder;
use ordo_core::{Effect, Reply, Rules, Sound, State, invariants};
use std::fmt;
use std::marker::PhantomData;
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// A committed entry, and who waits for its reply, on the leader.
pub(crate) type Committed = (Entry, Option<ApplyResponder<TypeConfig>>);

pub(crate) type Query = Box<dyn FnOnce(View<'_>) + Send>;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the loop can be asked to do.
pub(crate) enum Job<E> {
    Apply(Vec<Committed>, Answer<()>),
    Install(Box<SnapshotMeta>, SnapshotFolder, Answer<()>),
    Event(E),
    Query(Query),
    Hash(Answer<StateHash>),
    Stop(Answer<()>),
}

/// The loop that owns the state: plain synchronous steps, driven by a thread or, in a simulation, by a task.
pub struct MachineLoop<O: Observer, R: Rules = Sound> {
    state: State,
    store: StateStore,
    observer: O,
    queue: UnboundedReceiver<Job<O::Event>>,
    applied: Applied,
    options: MachineOptions,
    /// Kept for its room.
    replies: Vec<(Option<ApplyResponder<TypeConfig>>, EntryReply)>,
    rules: PhantomData<R>,
}

impl<O: Observer, R: Rules> fmt::Debug for MachineLoop<O, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineLoop")
            .field("applied", &self.applied.last_log_id)
            .finish_non_exhaustive()
    }
}

impl<O: Observer, R: Rules> MachineLoop<O, R> {
    pub(crate) fn new(
        store: StateStore,
        observer: O,
        queue: UnboundedReceiver<Job<O::Event>>,
        options: MachineOptions,
    ) -> Result<Self, StoreError> {
        let mut machine = Self {
            state: State::default(),
            applied: store.applied(),
            store,
            observer,
            queue,
            options,
            replies: Vec::new(),
            rules: PhantomData,
        };
        machine.load()?;
        let view = view(&machine.state, &machine.store, &machine.applied);
        machine.observer.loaded(view);
        Ok(machine)
    }

    /// Runs the loop on a thread of its own until [`MachineHandle::stop`](crate::MachineHandle::stop), or until nobody
    /// can send jobs any more.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("ordo-machine".to_owned())
            .spawn(move || {
                let _on_panic = OnPanic(self.store.clone());
                while let Some(job) = self.queue.blocking_recv() {
                    if !self.burst(job) {
                        return;
                    }
                }
                self.end();
            })
    }

    /// Runs the loop as a task: for simulations, whose threads are not deterministic.
    pub async fn run(mut self) {
        while let Some(job) = self.queue.recv().await {
            if !self.burst(job) {
                return;
            }
        }
        self.end();
    }

    /// Does `job` and all that is in the queue. Returns whether to go on.
    fn burst(&mut self, job: Job<O::Event>) -> bool {
        let mut next = Some(job);
        while let Some(job) = next {
            if !self.step(job) {
                return false;
            }
            next = self.queue.try_recv().ok();
        }
        let view = view(&self.state, &self.store, &self.applied);
        self.observer.idle(view);
        true
    }

    /// Does one job. Returns whether to go on.
    fn step(&mut self, job: Job<O::Event>) -> bool {
        match job {
            Job::Apply(entries, done) => {
                let result = self.apply(entries);
                let _ = done.send(result);
            }
            Job::Install(meta, snapshot, done) => {
                let result = self.install(&meta, &snapshot);
                let _ = done.send(result);
            }
            Job::Event(event) => {
                let view = view(&self.state, &self.store, &self.applied);
                self.observer.event(view, event);
            }
            Job::Query(query) => query(view(&self.state, &self.store, &self.applied)),
            Job::Hash(answer) => self.hash(answer),
            Job::Stop(done) => {
                self.queue.close();
                let _ = done.send(self.store.flush());
                return false;
            }
        }
        true
    }

    /// Nobody is left: what a clean shutdown would have done.
    fn end(&self) {
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the state was not flushed; the next start replays more of the log");
        }
    }

    /// Applies a lump: all in memory, then one batch to the store, then the observer, then the replies.
    fn apply(&mut self, entries: Vec<Committed>) -> Result<(), StoreError> {
        let Some(last_log_id) = entries.last().map(|(entry, _)| entry.log_id) else {
            return Ok(());
        };
        // The state in memory has no way back, so it must not go on when the store no longer does.
        self.store.checked(|| Ok(()))?;
        let (store, mut effects) = (self.store.clone(), Vec::new());
        let mut applied = Applied {
            last_log_id: Some(last_log_id),
            membership: self.applied.membership.clone(),
        };
        let mut previous = self.applied.last_log_id.map(|log_id| log_id.index);
        store.checked(|| {
            for (entry, responder) in entries {
                let index = entry.log_id.index;
                self.check_order(previous, index)?;
                previous = Some(index);
                let replies = self.apply_entry(entry, &mut applied.membership, &mut effects)?;
                self.replies.push((responder, EntryReply(replies)));
            }
            self.check(last_log_id.index)
        })?;
        store.write(self.state.take_mutations(), applied.clone())?;
        self.applied = applied;
        let lump = Lump {
            last_log_id,
            effects,
        };
        self.observer
            .applied(view(&self.state, &self.store, &self.applied), &lump);
        for (responder, reply) in self.replies.drain(..) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        entry: Entry,
        membership: &mut StoredMembership,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Reply>, StoreError> {
        let index = entry.log_id.index;
        match entry.payload {
            EntryPayload::Blank => Ok(Vec::new()),
            EntryPayload::Membership(new) => {
                *membership = StoredMembership::new(Some(entry.log_id), new);
                Ok(Vec::new())
            }
            EntryPayload::Normal(data) => {
                let entry =
                    ordo_wire::entry::decode(data.0).map_err(|error| StoreError::Entry {
                        index,
                        what: error.to_string(),
                    })?;
                Ok(self.state.apply_by::<R>(index, entry, effects))
            }
        }
    }

    /// An entry left out would make this replica differ from the others for good.
    fn check_order(&self, previous: Option<u64>, index: u64) -> Result<(), StoreError> {
        match previous.map(|previous| previous + 1) {
            Some(expected)
                if index < expected || (index > expected && !self.options.allow_gaps) =>
            {
                Err(StoreError::Entry {
                    index,
                    what: format!("{expected} is the next one"),
                })
            }
            _ => Ok(()),
        }
    }

    fn check(&self, index: u64) -> Result<(), StoreError> {
        if !self.options.check_invariants {
            return Ok(());
        }
        invariants::check(&self.state).map_err(|violation| StoreError::Invariant {
            index,
            what: violation.to_string(),
        })
    }

    /// Replaces the state by a snapshot's.
    fn install(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: &SnapshotFolder,
    ) -> Result<(), StoreError> {
        let (folder, files) = self.store.shelf().adopt(meta, &snapshot.path)?;
        self.store.replace(&folder, &files)?;
        self.load()?;
        self.observer
            .installed(view(&self.state, &self.store, &self.applied));
        Ok(())
    }

    fn load(&mut self) -> Result<(), StoreError> {
        self.state = self.store.load()?;
        self.applied = self.store.applied();
        Ok(())
    }

    fn hash(&self, answer: Answer<StateHash>) {
        let index = self.applied.index();
        let store = self.store.clone();
        self.store.engine().read_aside(Box::new(move |cursor| {
            let hash = hash(cursor, || !answer.is_closed()).inspect_err(|error| store.fail(error));
            let hash = hash.transpose();
            let hash = hash.map(|hash| hash.map(|hash| StateHash { index, hash }));
            Box::new(move || drop(hash.map(|hash| answer.send(hash))))
        }));
    }
}

/// Tells of a panic on the machine's thread, which nobody would hear otherwise.
struct OnPanic(StateStore);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(&StoreError::Panicked);
        }
    }
}

fn view<'a>(state: &'a State, store: &'a StateStore, applied: &Applied) -> View<'a> {
    View {
        state,
        store,
        applied_index: applied.index(),
    }
}
