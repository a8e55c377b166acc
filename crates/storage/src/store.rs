//! The state on the disk.

use crate::driver::Driver;
use crate::keys;
use crate::rows;
use crate::snapshot::SnapshotShelf;
use crate::store_cache::BodyCache;
use crate::store_engine::{Batch, Engine, Sizes};
use crate::store_error::StoreError;
use crate::store_folder::StateFolder;
use crate::store_home::Home;
use crate::store_memory::MemoryState;
use crate::store_meta::{self, Applied};
use crate::store_rows::StateRows;
use crate::store_warm;
use crate::types::{LogId, SnapshotFolder, SnapshotMeta};
use bytes::Bytes;
use ordo_core::{
    EventRow, Header, InterfaceId, Key, Mutation, PayloadRow, Record, Row, Sequence, State,
    merge_headers,
};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// How the state store is bounded.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of recent bodies kept in memory.
    pub cache_bytes_max: usize,
    /// Snapshots kept; older ones are deleted when a new one is there. At least 1.
    pub snapshots_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes_max: 128 << 20,
            snapshots_max: 2,
        }
    }
}

/// A message's payload and headers.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// Opaque.
    pub payload: Bytes,
    /// What wrote it: 0 the ingest, n the message's stage n - 1.
    pub payload_row: u8,
    /// Those it was ingested with, as its stages changed them.
    pub headers: Vec<Header>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Body({} bytes, {} headers)",
            self.payload.len(),
            self.headers.len()
        )
    }
}

/// How much there is, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in table files on the disk.
    pub table_bytes: u64,
    /// Bytes in memory that are not flushed yet, or not freed.
    pub memtable_bytes: u64,
    /// Bytes of recent bodies in memory.
    pub cache_bytes: u64,
    /// The last applied index that no crash undoes; 0 before the first.
    pub flushed_index: u64,
}

/// A snapshot that has become the store of the next start, and waits to take this one's place.
pub(crate) struct Prepared {
    engine: Arc<dyn Engine>,
    applied: Applied,
    state: State,
}

/// A store that was replaced. Dropping it may close it and remove its files.
pub(crate) struct Old {
    _engine: Arc<dyn Engine>,
}

/// What is called once, at the first failure.
type OnFailure = Box<dyn FnOnce(&StoreError) + Send>;

/// The state on the disk, and the bodies of recent messages in memory. A handle: clones share one store, and any
/// thread may read.
///
/// After a crash the store is as at its last flush, between two lumps; [`StateStore::applied`] says where, and the
/// log replays from there. The first failure of the disk is the last: it is told to `on_failure`, and every later
/// write is refused.
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
}

struct Inner {
    home: Arc<Home>,
    /// Readers hold the lock while they read, so that a replaced store is closed when nobody is in it.
    engine: RwLock<Arc<dyn Engine>>,
    cache: Mutex<BodyCache>,
    applied: Mutex<Applied>,
    flushed_index: AtomicU64,
    failure: OnceLock<StoreError>,
    on_failure: Mutex<Option<OnFailure>>,
    readers: Semaphore,
    shelf: SnapshotShelf,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore")
            .field("home", &self.inner.home.name())
            .finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens the store in `data_dir/state` and the snapshots in `data_dir/snapshots`; makes what is missing at the
    /// first start.
    ///
    /// # Errors
    /// Damage, naming the file; a disk that refuses; a folder that another process has open.
    pub fn open(data_dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let home = Home::Folder(StateFolder::open(&data_dir.join("state"))?);
        Self::open_home(home, &data_dir.join("snapshots"), options)
    }

    /// Opens a store in memory that is as `memory`'s last flush, for simulations. Snapshots are files all the same.
    ///
    /// # Errors
    /// When the folder for them refuses.
    pub fn open_in_memory(
        memory: MemoryState,
        snapshots: &Path,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        Self::open_home(Home::Memory(memory), snapshots, options)
    }

    fn open_home(home: Home, snapshots: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let home = Arc::new(home);
        let engine = home.open_current()?;
        let applied = store_meta::read(&*engine, &home.name())?;
        let shelf = SnapshotShelf::open(snapshots, options.snapshots_max, Arc::clone(&home))?;
        Ok(Self {
            inner: Arc::new(Inner {
                home,
                engine: RwLock::new(engine),
                cache: Mutex::new(BodyCache::new(options.cache_bytes_max)),
                flushed_index: AtomicU64::new(applied.index()),
                applied: Mutex::new(applied),
                failure: OnceLock::new(),
                on_failure: Mutex::new(None),
                readers: store_warm::readers(),
                shelf,
            }),
        })
    }

    /// Sets what is called once, at the first failure that the node must not survive: damage, or a disk that refuses.
    /// When that has happened already, it is called now.
    pub fn on_failure(&self, report: impl FnOnce(&StoreError) + Send + 'static) {
        *lock(&self.inner.on_failure) = Some(Box::new(report));
        if let Some(error) = self.inner.failure.get() {
            self.report(error);
        }
    }

    /// The last applied log id and membership.
    #[must_use]
    pub fn applied(&self) -> Applied {
        lock(&self.inner.applied).clone()
    }

    /// The last applied index that no crash undoes; 0 before the first. The log must not be purged beyond it, and is
    /// not: openraft purges below a snapshot only, and a snapshot begins with a flush.
    #[must_use]
    pub fn flushed_index(&self) -> u64 {
        self.inner.flushed_index.load(Ordering::Acquire)
    }

    /// Checks at start-up that the log reaches back to what is stored.
    ///
    /// # Errors
    /// When the log is purged beyond it, and no snapshot closes the gap: this state does not belong to this log.
    pub fn check_purged(&self, purged: Option<LogId>) -> Result<(), StoreError> {
        let applied = self.applied().index().max(self.inner.shelf.newest_index());
        match purged {
            Some(purged) if purged.index > applied => Err(StoreError::Behind {
                applied,
                purged: purged.index,
            }),
            _ => Ok(()),
        }
    }

    /// A message's payload and headers; `header_rows` is the slot's or the dead letter's. `None` when they are gone:
    /// for a message that the state says is there, read on the machine's thread, that is damage.
    ///
    /// # Errors
    /// Damage, or a disk that refuses.
    pub fn body(
        &self,
        interface: InterfaceId,
        body_of: Sequence,
        header_rows: u64,
    ) -> Result<Option<Body>, StoreError> {
        let found = lock(&self.inner.cache).get((interface, body_of), header_rows);
        let (PayloadRow { row, payload }, mut there) = match found {
            Some(found) => (found.payload, found.headers),
            None => match self.get(&Key::Payload(interface, body_of))? {
                Some(Row::Payload(payload)) => (payload, Vec::new()),
                _ => return Ok(None),
            },
        };
        if there.len() < header_rows.count_ones() as usize {
            for row in (0..64u8).filter(|row| header_rows & (1 << row) != 0) {
                let place = there.partition_point(|(number, _)| *number < row);
                if there.get(place).is_some_and(|(number, _)| *number == row) {
                    continue;
                }
                match self.get(&Key::Headers(interface, body_of, row))? {
                    Some(Row::Headers(headers)) => there.insert(place, (row, headers)),
                    _ => return Ok(None),
                }
            }
        }
        let headers = merge_headers(there.into_iter().map(|(_, headers)| headers));
        Ok(Some(Body {
            payload,
            payload_row: row,
            headers,
        }))
    }

    /// What is left of a message that is done for every destination; `None` when it is not done, or forgotten.
    ///
    /// # Errors
    /// Damage, or a disk that refuses.
    pub fn record(
        &self,
        interface: InterfaceId,
        sequence: Sequence,
    ) -> Result<Option<Record>, StoreError> {
        Ok(match self.get(&Key::Record(interface, sequence))? {
            Some(Row::Record(record)) => Some(record),
            _ => None,
        })
    }

    /// What happened to a message out of the ordinary, in order.
    ///
    /// # Errors
    /// Damage, or a disk that refuses.
    pub fn events(
        &self,
        interface: InterfaceId,
        sequence: Sequence,
    ) -> Result<Vec<EventRow>, StoreError> {
        let (first, end) = keys::sequence_range(keys::EVENT, interface, sequence, sequence);
        self.read(|engine| {
            let mut cursor = engine.cursor();
            let mut events = Vec::new();
            cursor.seek(&first);
            while let Some((key, value)) = cursor.item().filter(|(key, _)| *key < end.as_slice()) {
                if let Row::Event(event) = self.decode(key, value)?.1 {
                    events.push(event);
                }
                cursor.next();
            }
            cursor.status()?;
            Ok(events)
        })
    }

    /// Sizes, for metrics.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let Sizes { tables, memtables } = self.engine().sizes();
        StoreStats {
            table_bytes: tables,
            memtable_bytes: memtables,
            cache_bytes: lock(&self.inner.cache).bytes() as u64,
            flushed_index: self.flushed_index(),
        }
    }

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        let index = self.applied().index();
        self.checked(|| self.engine().flush())?;
        self.flushed_through(index);
        Ok(())
    }

    /// What drives long work on this store.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self.inner.home.as_ref() {
            Home::Folder(_) => Driver::Threads,
            Home::Memory(_) => Driver::Tasks,
        }
    }

    /// Why writes are about to be held up, where they are. More must not come then.
    #[must_use]
    pub fn behind(&self) -> Option<String> {
        self.engine().behind()
    }

    /// Bodies of recent messages.
    pub(crate) fn cache(&self) -> &Mutex<BodyCache> {
        &self.inner.cache
    }

    /// Who reads bodies ahead.
    pub(crate) fn readers(&self) -> &Semaphore {
        &self.inner.readers
    }

    /// Reads a value, and says how long it is; 0 where there is none. Errors are told by whoever reads it next.
    pub(crate) fn stored_bytes(&self, key: &Key) -> usize {
        let mut bytes = Vec::with_capacity(48);
        keys::encode(key, &mut bytes);
        let value = self.engine().get(&bytes);
        value.ok().flatten().map_or(0, |value| value.len())
    }

    /// The snapshots.
    pub(crate) fn shelf(&self) -> &SnapshotShelf {
        &self.inner.shelf
    }

    /// Rebuilds the state in memory.
    pub(crate) fn load(&self) -> Result<State, StoreError> {
        self.read(|engine| self.load_from(engine))
    }

    fn load_from(&self, engine: &dyn Engine) -> Result<State, StoreError> {
        let progress = self.inner.shelf.progress();
        let mut rows = StateRows::new(engine.cursor(), self.inner.home.name());
        let state = State::load(&mut rows.by_ref().inspect(|_| progress.made(1)));
        rows.finish()?;
        state.map_err(|error| self.inner.home.damage(error.to_string()))
    }

    /// How much was done for snapshots that come in, in bytes and rows. It grows as long as one is received, compared
    /// with its checksums, or loaded; where it stands still, nothing is done.
    #[must_use]
    pub fn snapshot_progress(&self) -> u64 {
        self.inner.shelf.progress().so_far()
    }

    /// Writes what a lump changed, with the log id it brings the state to, and the membership where it changed.
    pub(crate) fn write(
        &self,
        mutations: Vec<Mutation>,
        applied: Applied,
    ) -> Result<(), StoreError> {
        let meta = store_meta::rows(&lock(&self.inner.applied), &applied);
        self.checked(|| {
            self.engine().write(&mut |batch| {
                put_mutations(&mutations, batch);
                for (key, value) in &meta {
                    batch.put(key, value);
                }
            })
        })?;
        let mut cache = lock(&self.inner.cache);
        for mutation in mutations {
            cache.take(mutation);
        }
        drop(cache);
        *lock(&self.inner.applied) = applied;
        Ok(())
    }

    /// Puts a copy of the store into `folder`, which must not exist, on whatever thread this is called.
    pub(crate) fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        // Not through `read`: that lock would hold up the installation of a snapshot for as long as the flush takes.
        self.checked(|| self.engine().checkpoint(folder))
    }

    /// Notes that no crash undoes what was applied through `index`.
    pub(crate) fn flushed_through(&self, index: u64) {
        self.inner.flushed_index.fetch_max(index, Ordering::AcqRel);
    }

    /// Makes a snapshot the store of the next start, and loads the state from it, while this store goes on. What takes
    /// long is done here, on whatever thread this is called; [`StateStore::switch`] is quick.
    pub(crate) fn prepare(
        &self,
        meta: &SnapshotMeta,
        snapshot: &SnapshotFolder,
    ) -> Result<Prepared, StoreError> {
        let (folder, files) = self.shelf().adopt(meta, &snapshot.path)?;
        self.checked(|| {
            let home = &self.inner.home;
            let (engine, (applied, state)) = home.install(&folder, &files, |engine| {
                let applied = store_meta::read(engine, &home.name())?;
                Ok((applied, self.load_from(engine)?))
            })?;
            Ok(Prepared {
                engine,
                applied,
                state,
            })
        })
    }

    /// Replaces the whole store by one that is prepared. The state is its; the old one's engine closes with the last
    /// handle to it.
    pub(crate) fn switch(&self, prepared: Prepared) -> Result<(State, Old), StoreError> {
        let Prepared {
            engine,
            applied,
            state,
        } = prepared;
        self.checked(|| {
            engine.take_over();
            let old = std::mem::replace(
                &mut *self
                    .inner
                    .engine
                    .write()
                    .unwrap_or_else(PoisonError::into_inner),
                engine,
            );
            old.retire();
            lock(&self.inner.cache).clear();
            self.flushed_through(applied.index());
            *lock(&self.inner.applied) = applied;
            Ok((state, Old { _engine: old }))
        })
    }

    /// The engine of this moment.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(
            &self
                .inner
                .engine
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Where the store lives.
    pub(crate) fn home(&self) -> &Home {
        &self.inner.home
    }

    /// Refuses everything after a failure, and reports the first one.
    pub(crate) fn checked<T>(
        &self,
        run: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(error) = self.inner.failure.get() {
            return Err(error.sticky());
        }
        run().inspect_err(|error| self.fail(error))
    }

    /// Notes the first failure and reports it.
    pub(crate) fn fail(&self, error: &StoreError) {
        if self.inner.failure.set(error.clone()).is_ok() {
            self.report(error);
        }
    }

    /// Says that this node's own snapshot could not be read to its end; damage stops the node. One that is gone, since
    /// a newer one took its place, is not.
    pub fn snapshot_unreadable(&self, error: &StoreError) {
        if matches!(error, StoreError::SnapshotDamage { .. }) {
            self.fail(error);
        }
    }

    fn report(&self, error: &StoreError) {
        if let Some(report) = lock(&self.inner.on_failure).take() {
            report(error);
        }
    }

    fn read<T>(
        &self,
        run: impl FnOnce(&dyn Engine) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let engine = self
            .inner
            .engine
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        run(&**engine).inspect_err(|error| self.fail(error))
    }

    fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let mut bytes = Vec::with_capacity(48);
        keys::encode(key, &mut bytes);
        self.read(|engine| match engine.get(&bytes)? {
            None => Ok(None),
            // The value is ours: no need to copy a payload out of it.
            Some(value) if matches!(key, Key::Payload(..)) => {
                Ok(Some(Row::Payload(rows::payload_of(value))))
            }
            Some(value) => Ok(Some(self.decode(&bytes, &value)?.1)),
        })
    }

    fn decode(&self, key: &[u8], value: &[u8]) -> Result<(Key, Row), StoreError> {
        decode(key, value).map_err(|what| self.inner.home.damage(what))
    }
}

/// Reads a stored pair, or says what is wrong with it.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<(Key, Row), String> {
    let key = keys::decode(key).map_err(|error| error.to_string())?;
    match rows::decode(&key, value) {
        Ok(row) => Ok((key, row)),
        Err(error) => Err(format!("{key:?}: {error}")),
    }
}

/// Puts a lump's changes in a batch, in their order.
pub(crate) fn put_mutations(mutations: &[Mutation], batch: &mut dyn Batch) {
    let (mut key_bytes, mut row_bytes) = (Vec::with_capacity(64), Vec::with_capacity(512));
    for mutation in mutations {
        match mutation {
            Mutation::Put(key, row) => {
                keys::encode(key, &mut key_bytes);
                match row {
                    Row::Payload(row) if rows::is_plain(row) => batch.put(&key_bytes, &row.payload),
                    row => {
                        rows::encode(row, &mut row_bytes);
                        batch.put(&key_bytes, &row_bytes);
                    }
                }
            }
            Mutation::Delete(key) => {
                keys::encode(key, &mut key_bytes);
                batch.delete(&key_bytes);
            }
            Mutation::Forget {
                interface,
                from,
                through,
            } if from <= through => {
                for kind in [keys::RECORD, keys::EVENT] {
                    let (first, end) = keys::sequence_range(kind, *interface, *from, *through);
                    batch.delete_range(&first, &end);
                }
            }
            Mutation::Forget { .. } => {}
        }
    }
}

/// A panic that poisoned one of these locks stops the node; what they hold is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
