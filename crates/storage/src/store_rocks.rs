//! RocksDB as the state store's engine.
//!
//! One column family and no write-ahead log: the Raft log is the durability. What a crash leaves is the last flush,
//! which holds whole batches and, of two, never the later one alone; the log replays from there.

use crate::store_engine::{Aside, Batch, Cursor, Engine, Sizes};
use crate::store_error::StoreError;
use rocksdb::{
    BlockBasedOptions, CStrLike, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind, LogLevel,
    Options, ReadOptions, WriteBatch, WriteOptions, checkpoint::Checkpoint, properties,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A memtable is flushed at this size. A payload whose message finishes before that never reaches a table file.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Memtables at once: one is written to, the others wait for their flush. With the last one full RocksDB lets no write
/// through, so there are more than ever should be: ingest is refused before.
const MEMTABLES_MAX: i32 = 6;
/// With so many that wait for their flush, ingest is refused.
const MEMTABLES_BEHIND: u64 = 3;
/// Blocks, and the index and filter blocks of all files, in memory.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
const BLOCK_BYTES: usize = 16 << 10;
const OPEN_FILES_MAX: i32 = 512;
/// Files of level 0 that begin a compaction; at which ingest is refused; at which RocksDB slows writes down, and stops
/// them. What is on its way when ingest is refused must not come near the last two.
const LEVEL_ZERO_FILES: i32 = 8;
const LEVEL_ZERO_BEHIND: u64 = 24;
const LEVEL_ZERO_SLOW: i32 = 48;
const LEVEL_ZERO_STOP: i32 = 64;
const BACKGROUND_JOBS: i32 = 2;
const INFO_LOG_BYTES: usize = 1 << 20;
const INFO_LOG_FILES: usize = 2;
/// How far a scan of the whole store reads ahead.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// What a lump's batch is expected to hold.
const BATCH_BYTES: usize = 32 << 10;

/// An open RocksDB folder.
pub(crate) struct RocksEngine {
    // Declared before `folder`, so that RocksDB is closed before the folder may go.
    db: DB,
    write: WriteOptions,
    folder: Folder,
    _open: Open,
}

/// The folder of the table files; removes it at the end of its life when nobody wants it any more.
struct Folder {
    path: PathBuf,
    retired: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if *self.retired.get_mut()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // The next start tries again.
            tracing::warn!(folder = %self.path.display(), %error, "a replaced state folder stays for now");
        }
    }
}

/// How much of RocksDB this process has open, and who waits until nothing is.
static OPEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Counts in [`OPEN`] as long as it is there.
struct Open;

impl Open {
    fn new() -> Self {
        *OPEN.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *OPEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        OPEN.1.notify_all();
    }
}

/// Waits until this process has no store open any more, for at most `within`. Returns whether that came.
///
/// To be called before `main` returns, when all that holds a store was told to end: what RocksDB shares in a process
/// is destroyed at the process's exit, and a thread that still closes a store then brings it down with `SIGABRT`.
#[must_use]
pub fn wait_until_closed(within: Duration) -> bool {
    let open = OPEN.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = OPEN.1.wait_timeout_while(open, within, |open| *open > 0);
    let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
    *open == 0
}

/// What one process shares between the RocksDB folders it opens.
pub(crate) struct RocksShared {
    cache: Cache,
    _open: Open,
}

impl RocksShared {
    pub(crate) fn new() -> Self {
        Self {
            cache: Cache::new_lru_cache(BLOCK_CACHE_BYTES),
            _open: Open::new(),
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(MEMTABLE_BYTES);
        options.set_max_write_buffer_number(MEMTABLES_MAX);
        options.set_level_zero_file_num_compaction_trigger(LEVEL_ZERO_FILES);
        options.set_level_zero_slowdown_writes_trigger(LEVEL_ZERO_SLOW);
        options.set_level_zero_stop_writes_trigger(LEVEL_ZERO_STOP);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_max_open_files(OPEN_FILES_MAX);
        // What is young dies young; compressing it would be for nothing.
        let lz4 = DBCompressionType::Lz4;
        let none = DBCompressionType::None;
        options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
        options.set_bytes_per_sync(1 << 20);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_keep_log_file_num(INFO_LOG_FILES);
        options.set_block_based_table_factory(&self.tables());
        options
    }

    fn tables(&self) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&self.cache);
        tables.set_block_size(BLOCK_BYTES);
        tables.set_bloom_filter(10.0, false);
        tables.set_format_version(6);
        // Otherwise every open file keeps its own for good.
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        tables
    }
}

impl RocksEngine {
    /// Makes an empty store in `folder`, which must not exist.
    pub(crate) fn create(shared: &RocksShared, folder: &Path) -> Result<Self, StoreError> {
        let mut options = shared.options();
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        let db = DB::open(&options, folder)
            .map_err(|error| failed(folder, "create its files", &error))?;
        Ok(Self::new(db, folder))
    }

    /// Opens the store in `folder`. Never makes one: an empty state in the place of a lost one would be a lie.
    ///
    /// RocksDB checks here that every file it knows of is there in its full length.
    pub(crate) fn open(shared: &RocksShared, folder: &Path) -> Result<Self, StoreError> {
        let db = DB::open(&shared.options(), folder).map_err(|error| not_opened(folder, &error))?;
        Ok(Self::new(db, folder))
    }

    /// Opens a checkpoint to look at it, and changes nothing there.
    pub(crate) fn open_to_read(shared: &RocksShared, folder: &Path) -> Result<Self, StoreError> {
        let db = DB::open_for_read_only(&shared.options(), folder, false)
            .map_err(|error| not_opened(folder, &error))?;
        Ok(Self::new(db, folder))
    }

    fn new(db: DB, folder: &Path) -> Self {
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Self {
            db,
            write,
            folder: Folder {
                path: folder.to_owned(),
                retired: AtomicBool::new(false),
            },
            _open: Open::new(),
        }
    }

    fn error(&self, action: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
        move |error| failed(&self.folder.path, action, &error)
    }

    /// What RocksDB says of itself; 0 where it says nothing.
    fn number(&self, property: impl CStrLike) -> u64 {
        self.db
            .property_int_value(property)
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    fn scan(&self) -> RocksCursor<'_> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        // A pass over everything would push out what is in use.
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD_BYTES);
        RocksCursor {
            engine: self,
            iterator: self.db.raw_iterator_opt(options),
        }
    }
}

impl Engine for RocksEngine {
    fn write(&self, fill: &mut dyn FnMut(&mut dyn Batch)) -> Result<(), StoreError> {
        let mut batch = WriteBatch::with_capacity_bytes(BATCH_BYTES);
        fill(&mut batch);
        self.db
            .write_opt(batch, &self.write)
            .map_err(self.error("write"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // Block checksums are verified by default.
        self.db.get(key).map_err(self.error("read"))
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(self.scan())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(self.error("flush"))
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(self.error("prepare a checkpoint"))?;
        checkpoint
            .create_checkpoint(folder)
            .map_err(self.error("make a checkpoint"))
    }

    fn read_aside(self: Arc<Self>, done: Aside) {
        let (standing, stands) = mpsc::sync_channel(1);
        let reader = thread::Builder::new()
            .name("ordo-state-scan".to_owned())
            .spawn(move || {
                let mut cursor = self.scan();
                // From here on the cursor sees nothing that is written later. The other side waits for this.
                let _ = standing.send(());
                let then = done(&mut cursor);
                drop(cursor);
                drop(self);
                then();
            });
        match reader {
            Ok(_) => {
                let _ = stands.recv();
            }
            Err(error) => tracing::warn!(%error, "no thread for a scan of the state"),
        }
    }

    fn retire(&self) {
        self.folder.retired.store(true, Ordering::Relaxed);
    }

    fn behind(&self) -> Option<String> {
        let waiting = self.number(properties::NUM_IMMUTABLE_MEM_TABLE);
        // Not among the numbers, for RocksDB.
        let level_zero = self.db.property_value(properties::num_files_at_level(0));
        let level_zero = level_zero.ok().flatten();
        let level_zero = level_zero.map_or(0, |files| files.parse::<u64>().unwrap_or(0));
        let rate = self.number(properties::ACTUAL_DELAYED_WRITE_RATE);
        if waiting >= MEMTABLES_BEHIND {
            return Some(format!(
                "{waiting} memtables of the state wait to be written to the disk, {MEMTABLES_BEHIND} may"
            ));
        }
        if level_zero >= LEVEL_ZERO_BEHIND {
            return Some(format!(
                "{level_zero} new table files of the state wait to be merged, {LEVEL_ZERO_BEHIND} may"
            ));
        }
        if self.number(properties::IS_WRITE_STOPPED) != 0 || rate != 0 {
            return Some(format!("the state takes {rate} bytes a second"));
        }
        None
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            tables: self.number(properties::TOTAL_SST_FILES_SIZE),
            memtables: self.number(properties::CUR_SIZE_ALL_MEM_TABLES),
        }
    }
}

impl Batch for WriteBatch {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        WriteBatch::put(self, key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        WriteBatch::delete(self, key);
    }

    fn delete_range(&mut self, first: &[u8], end: &[u8]) {
        WriteBatch::delete_range(self, first, end);
    }
}

struct RocksCursor<'a> {
    engine: &'a RocksEngine,
    iterator: DBRawIterator<'a>,
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    fn next(&mut self) {
        if self.iterator.valid() {
            self.iterator.next();
        }
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    fn status(&self) -> Result<(), StoreError> {
        self.iterator.status().map_err(self.engine.error("read"))
    }
}

fn failed(folder: &Path, action: &'static str, error: &rocksdb::Error) -> StoreError {
    let (folder, what) = (folder.display().to_string(), error.to_string());
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damage { folder, what },
        _ => StoreError::Engine {
            folder,
            action,
            what,
        },
    }
}

/// At opening, a missing file is damage too: the folder was made whole.
fn not_opened(folder: &Path, error: &rocksdb::Error) -> StoreError {
    let (path, what) = (folder.display().to_string(), error.to_string());
    let missing = error.kind() == ErrorKind::IOError && what.contains("No such file");
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => {
            StoreError::Damage { folder: path, what }
        }
        _ if missing => StoreError::Damage { folder: path, what },
        _ => failed(folder, "open", error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::{Engine, RocksEngine, RocksShared, wait_until_closed};
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    /// The only one of this program that opens a store.
    #[test]
    fn a_process_waits_for_whoever_still_reads_its_state() {
        let folder = tempfile::tempdir().unwrap();
        assert!(wait_until_closed(Duration::ZERO), "nothing was opened yet");
        let shared = RocksShared::new();
        let engine = Arc::new(RocksEngine::create(&shared, &folder.path().join("state")).unwrap());
        let (go, may_end) = mpsc::channel::<()>();
        engine.read_aside(Box::new(move |_| {
            may_end.recv().unwrap();
            Box::new(|| ())
        }));
        drop(shared);
        assert!(!wait_until_closed(Duration::ZERO), "it is being read");
        go.send(()).unwrap();
        assert!(wait_until_closed(Duration::from_secs(60)));
    }
}
