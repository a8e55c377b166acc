//! Segment files and their names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;

const SEGMENT_SUFFIX: &str = ".segment";
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

/// An unused file that was written over its whole length.
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

    pub(crate) fn make(self) -> Result<Spare, LogError> {
        let Self { disk, name, length } = self;
        let file = disk.create(&name).map_err(LogError::io("create", &name))?;
        file.preallocate(length)
            .map_err(LogError::io("fill", &name))?;
        file.sync_data().map_err(LogError::io("sync", &name))?;
        Ok(Spare { name, file, length })
    }
}
