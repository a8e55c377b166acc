//! The Raft log's files: append-only segments over a [`Disk`].
//!
//! ```text
//! Log (handles, any thread) ── queue ──► LogWriter (one thread) ──► segments, META
//!        ▲                                    │
//!        └──── tail in memory, index of segments ◄┘
//! ```
//! [`Log`] puts work in a queue and makes it readable at once; [`LogWriter`] writes everything that is queued in one
//! go, syncs once, and only then tells those who wait. The writer is plain synchronous code: [`LogWriter::spawn`]
//! drives it from a thread, a simulation may call [`LogWriter::step`] itself.
//!
//! What holds, whatever happens to the machine:
//! - What was acknowledged is there after a restart, in order, unless it was truncated or purged since.
//! - What was truncated, or lay behind the point where recovery cut the log, never reads as valid again: each of these
//!   starts a new salt or is itself a record.
//! - Bytes that were known to be synced and don't check are damage: opening fails and names file and offset. "Known"
//!   means that a marker behind them says so; every batch carries one, and an idle writer writes one more. Only what
//!   lies above the highest marker may be torn, and is cut.
//! - The first failed write or sync is the last: it is told to all who wait, and to all who come later.
//!
//! `FORMAT.md` beside the sources has the layout byte by byte.

mod format;
mod meta;
mod reader;
mod recovery;
mod rolling;
mod segment;
mod shared;
mod task;
mod thread;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::LogError;
pub use segment::{SpareJob, SpareMade};
use shared::{Op, Shared};
pub use thread::LogThread;
pub use writer::{LogWriter, Step};

/// Where salts come from.
pub type SaltSource = Box<dyn FnMut() -> u64 + Send>;

/// What is called when an operation is on the disk, or has failed. Runs in the writer's thread: keep it short.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// How the log is laid out and bounded.
pub struct LogOptions {
    /// Length of a segment file. A record that needs more gets a segment of its own length.
    pub segment_bytes: u64,
    /// How many bytes of records the memory keeps for readers, beyond what is not synced yet.
    pub tail_bytes: usize,
    /// How many bytes are written for one sync at most.
    pub group_bytes_max: usize,
    /// How large a batch grows before the next one begins. A batch is read back whole.
    pub batch_bytes_max: usize,
    /// How many unused segment files are kept for reuse.
    pub spare_files_max: usize,
    /// How far apart the entries of the in-memory index lie in a file.
    pub index_step_bytes: u64,
    /// How long the writer waits, idle, before it writes a marker.
    pub idle_marker_after: Duration,
    /// Random values that no earlier life of a file used. A simulation gives a seeded source.
    pub salt: SaltSource,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes: 64 << 20,
            group_bytes_max: 16 << 20,
            batch_bytes_max: 1 << 20,
            spare_files_max: 4,
            index_step_bytes: 64 << 10,
            idle_marker_after: Duration::from_millis(100),
            salt: Box::new(|| uuid::Uuid::new_v4().as_u64_pair().0),
        }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("tail_bytes", &self.tail_bytes)
            .field("group_bytes_max", &self.group_bytes_max)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("spare_files_max", &self.spare_files_max)
            .field("index_step_bytes", &self.index_step_bytes)
            .field("idle_marker_after", &self.idle_marker_after)
            .finish_non_exhaustive()
    }
}

/// A vote, as Raft means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Whom the vote is for.
    pub node_id: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// Up to where the log was purged: the id of the last entry that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgePoint {
    /// Term of the entry's leader.
    pub term: u64,
    /// The entry's leader.
    pub node_id: u64,
    /// The entry's index.
    pub index: u64,
}

const HEAD_BYTES_MAX: usize = 23;

/// The first bytes of a record, held by value, so that putting a header before a payload copies no payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    length: u8,
    bytes: [u8; HEAD_BYTES_MAX],
}

impl Head {
    /// No bytes.
    pub const EMPTY: Self = Self {
        length: 0,
        bytes: [0; HEAD_BYTES_MAX],
    };

    /// Holds `N` bytes; more than 23 do not compile.
    pub fn new<const N: usize>(data: [u8; N]) -> Self {
        const { assert!(N <= HEAD_BYTES_MAX, "a record's head holds 23 bytes") };
        let mut bytes = [0; HEAD_BYTES_MAX];
        bytes[..N].copy_from_slice(&data);
        Self {
            length: N as u8,
            bytes,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// One record. On the disk it is `head` followed by `body`; read back from there, all of it is in `body`.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's place in the log.
    pub index: u64,
    /// The first bytes.
    pub head: Head,
    /// The rest.
    pub body: Bytes,
}

impl Record {
    /// Bytes of head and body.
    pub fn len(&self) -> usize {
        self.head.as_slice().len() + self.body.len()
    }

    /// Whether the record holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record {{ index: {}, {} bytes }}",
            self.index,
            self.len()
        )
    }
}

/// A record's largest length. Lengths are 32 bits on the disk, and a batch must hold one record at least.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// A handle on the log. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = self.bounds();
        f.debug_struct("Log")
            .field("bounds", &bounds)
            .finish_non_exhaustive()
    }
}

/// Which indexes the log holds: `first` up to, not including, `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// The lowest index held, if any is.
    pub first: u64,
    /// The index the next record gets.
    pub next: u64,
    /// Up to where the log was purged.
    pub purge: Option<PurgePoint>,
}

impl LogBounds {
    /// The highest index held.
    pub fn last(&self) -> Option<u64> {
        (self.next > self.first).then(|| self.next - 1)
    }
}

impl Log {
    /// Opens the log in `disk`'s folder, or begins one there.
    ///
    /// Everything the folder holds is read and checked. Nothing is written later than this call unless the writer
    /// that is returned is driven.
    ///
    /// # Errors
    /// [`LogError::Damage`] and [`LogError::Missing`] where synced bytes are not what was written; nothing was
    /// changed then, except that a torn meta slot may have been written again.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Self, LogWriter), LogError> {
        let (shared, writer) = recovery::open(disk, options)?;
        Ok((Self { shared }, writer))
    }

    /// Appends records; they are readable when this returns and durable when `done` is called with `Ok`.
    ///
    /// `done` is called in every case, also where this returns an error.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] where the first record does not follow the log (an empty log that was never purged
    /// may begin anywhere) or the records do not follow each other; [`LogError::TooLarge`]; and whatever made the log
    /// fail earlier.
    pub fn append(&self, records: Vec<Record>, done: Done) -> Result<(), LogError> {
        if let Err(error) = self.shared.append(records, done) {
            let (error, done) = *error;
            done(Err(error.clone()));
            return Err(error);
        }
        Ok(())
    }

    /// Removes the records at `from` and above. Readers see it at once; the disk follows in order.
    pub fn truncate(&self, from: u64) -> Result<(), LogError> {
        self.shared.truncate(from)
    }

    /// Removes the records up to and including `point`, which may lie past the end: then the log is empty and goes on
    /// behind `point`. Readers see it at once; the disk follows in order. A point below the last one does nothing.
    ///
    /// # Errors
    /// [`LogError::OutOfOrder`] where entries between `point` and the log's first one never existed.
    pub fn purge(&self, point: PurgePoint) -> Result<(), LogError> {
        self.shared.purge(point)
    }

    /// Saves a vote; it is durable when `done` is called with `Ok`, and [`Log::vote`] returns it from then on.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.shared.enqueue_or_fail(Op::Vote { vote, done });
    }

    /// Calls `done` when everything queued before is durable.
    pub fn flush(&self, done: Done) {
        self.shared.enqueue_or_fail(Op::Flush { done });
    }

    /// Remembers the last committed index. It costs no sync: the next batch, or the marker of an idle writer, carries
    /// it to the disk.
    pub fn set_committed(&self, index: u64) {
        self.shared.lock().set_committed(index);
    }

    /// The last committed index that is known, never above the last record's.
    pub fn committed(&self) -> Option<u64> {
        self.shared.lock().committed
    }

    /// The last vote that is durable.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    /// Which indexes the log holds.
    pub fn bounds(&self) -> LogBounds {
        self.shared.lock().bounds()
    }

    /// The highest index that is synced, purged ones included: what this node may have acknowledged to a leader.
    pub fn last_synced_index(&self) -> Option<u64> {
        self.shared.lock().last_synced_index()
    }

    /// Bytes the log's files take on the disk, unused ones included.
    pub fn bytes_on_disk(&self) -> u64 {
        self.shared.bytes_on_disk()
    }

    /// Bytes of records held in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.shared.lock().tail_bytes
    }

    /// What made the log fail, if it did. The node must stop then.
    pub fn failure(&self) -> Option<LogError> {
        self.shared.lock().failed.clone()
    }

    /// Whether all of the log from `start` on is in memory, so that reading it touches no disk.
    pub fn is_in_memory(&self, start: u64) -> bool {
        self.shared.lock().tail_first() <= start
    }

    /// Reads the records of `start..end` that exist, in order and without gaps, as they are at this moment.
    ///
    /// Stops after the record with which the sum of lengths reaches `bytes_max`; so at least one record is returned
    /// where there is one.
    ///
    /// # Errors
    /// [`LogError::Damage`] where a record on the disk does not check; [`LogError::Io`].
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Record>, LogError> {
        let plan = self.shared.lock().plan_read(start, end, bytes_max);
        plan.run()
    }

    /// Sets what is called when the writer has work after it had none; once, before the writer is driven.
    pub fn on_work(&self, notify: impl Fn() + Send + Sync + 'static) {
        self.shared.set_notify(Box::new(notify));
    }

    /// Refuses new operations. The writer finishes what is queued and then says [`Step::Closed`].
    pub fn close(&self) {
        self.shared.close();
    }
}
