//! What can go wrong with the state and its snapshots.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// An error of the state store. Cheap to clone: the first failure is told to everybody who comes later.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// What is stored is not what was written, or is missing. The node must stop: it never guesses.
    #[error("the state store in {folder} is damaged: {what}")]
    Damage {
        /// The folder of the table files.
        folder: String,
        /// What was found; names the file where one is to blame.
        what: String,
    },
    /// A snapshot is not what its manifest says, or has no readable manifest.
    #[error("snapshot {folder} is damaged: {what}")]
    SnapshotDamage {
        /// The snapshot's folder.
        folder: String,
        /// What was found; names the file where one is to blame.
        what: String,
    },
    /// What a peer sent is not what it said it would send. The transfer is void; nothing else is.
    #[error("the snapshot received is not usable: {0}")]
    Transfer(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: String,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// RocksDB failed for another reason than damage: a full disk, a disk that refuses, a folder that another process
    /// has open.
    #[error("the state store in {folder} cannot {action}: {what}")]
    Engine {
        /// The folder of the table files.
        folder: String,
        /// What was tried.
        action: &'static str,
        /// RocksDB's own words.
        what: String,
    },
    /// A committed log entry that means nothing to this program: damage, or a later version's.
    #[error("log entry {index} cannot be applied: {what}")]
    Entry {
        /// The entry's index.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An invariant of the state does not hold: a bug, or damage that no checksum saw.
    #[error("after log entry {index}: {what}")]
    Invariant {
        /// The last applied index.
        index: u64,
        /// The invariant and the interface.
        what: String,
    },
    /// The log begins behind what is stored: the entries between are gone.
    #[error(
        "the state is at log index {applied}, but the log is purged through {purged}: the state folder is not the one that belongs to this log"
    )]
    Behind {
        /// The last applied index.
        applied: u64,
        /// The last purged index.
        purged: u64,
    },
    /// An earlier operation failed; nothing is written any more.
    #[error("the state takes no more changes after an earlier failure: {0}")]
    Failed(Arc<StoreError>),
    /// A bug: the state machine's thread ended in a panic, which was printed.
    #[error("the state machine panicked")]
    Panicked,
    /// The state machine has ended.
    #[error("the state machine has ended")]
    Stopped,
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::Io {
            action,
            path,
            error: Arc::new(error),
        }
    }

    pub(crate) fn snapshot(folder: &Path, what: impl Into<String>) -> Self {
        Self::SnapshotDamage {
            folder: folder.display().to_string(),
            what: what.into(),
        }
    }

    /// What later operations are told after this error.
    pub(crate) fn sticky(&self) -> Self {
        match self {
            Self::Failed(_) | Self::Stopped => self.clone(),
            other => Self::Failed(Arc::new(other.clone())),
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Damage { .. }
            | StoreError::SnapshotDamage { .. }
            | StoreError::Transfer(_)
            | StoreError::Entry { .. }
            | StoreError::Invariant { .. }
            | StoreError::Behind { .. } => io::ErrorKind::InvalidData,
            StoreError::Io { error, .. } => error.kind(),
            StoreError::Engine { .. } | StoreError::Panicked => io::ErrorKind::Other,
            StoreError::Failed(_) | StoreError::Stopped => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
