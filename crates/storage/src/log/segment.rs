//! Segment files and their names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;

const SEGMENT_SUFFIX: &str = ".segment";
/// How much of a new file is filled between two syncs.
const FILL_BYTES: u64 = 2 << 20;
const SPARE_PREFIX: &str = "spare-";

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:020}{SEGMENT_SUFFIX}")
}

/// The number in a segment's name, `None` for other files.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

pub(crate) fn spare_name(number: u64) -> String {
    format!("{SPARE_PREFIX}{number}")
}

/// The number in an unused file's name, `None` for other files.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix(SPARE_PREFIX)?.parse().ok()
}

/// An open segment. Whoever holds one may read it: the writer reuses the file only when nobody else holds it.
pub(crate) struct Segment {
    pub number: u64,
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub length: u64,
    /// Where its last batch ends, once a later segment was begun.
    end: AtomicU64,
}

impl Segment {
    pub fn new(number: u64, file: Arc<dyn DiskFile>, length: u64, end: u64) -> Self {
        Self {
            number,
            name: segment_name(number),
            file,
            length,
            end: AtomicU64::new(end),
        }
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }
}

/// An unused file.
pub(crate) struct Spare {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub length: u64,
}

/// Makes a segment file ahead of its use. It takes a while, and may run in a thread of its own.
pub struct SpareJob {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) name: String,
    pub(crate) length: u64,
}

/// What a [`SpareJob`] made, for [`super::LogWriter::spare_made`].
pub struct SpareMade(pub(crate) Result<Spare, LogError>);

impl SpareJob {
    /// Creates the file, fills it with zeros and syncs it.
    pub fn run(self) -> SpareMade {
        SpareMade(self.make())
    }

    /// Only creates the file, in its length. Syncs cost about twice as much in such a file, once: it is whole when it
    /// is used again. Filling it now would hold up the log for as long as hundreds of syncs.
    pub(crate) fn make_unfilled(self) -> Result<Spare, LogError> {
        let Self { disk, name, length } = self;
        let file = disk.create(&name).map_err(LogError::io("create", &name))?;
        file.set_len(length)
            .map_err(LogError::io("set the length of", &name))?;
        Ok(Spare { name, file, length })
    }

    pub(crate) fn make(self) -> Result<Spare, LogError> {
        let Self { disk, name, length } = self;
        let file = disk.create(&name).map_err(LogError::io("create", &name))?;
        let mut written = 0;
        while written < length {
            // In small pieces: the log's own syncs wait behind whatever this one has to write.
            let end = (written + FILL_BYTES).min(length);
            file.preallocate(written, end)
                .map_err(LogError::io("fill", &name))?;
            file.sync_data().map_err(LogError::io("sync", &name))?;
            written = end;
        }
        Ok(Spare { name, file, length })
    }
}
