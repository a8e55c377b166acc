//! What can go wrong with the log.

use std::io;
use std::sync::Arc;

/// An error of the Raft log. Cheap to clone: one failed sync is told to everybody who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Bytes that were known to be on the disk are not what was written. The log refuses to open, or to go on.
    #[error("log file {file} is damaged at offset {offset}: {what}")]
    Damage {
        /// The file's name in the log folder.
        file: String,
        /// Where the bad bytes begin (the start of the batch, slot or header that does not check).
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A file that must be there is not.
    #[error("log file {file} is missing: {what}")]
    Missing {
        /// The file's name in the log folder.
        file: String,
        /// Why it must be there.
        what: &'static str,
    },
    /// The disk refused an operation.
    #[error("cannot {action} log file {file}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's name in the log folder.
        file: String,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// An entry that does not follow the log's last one.
    #[error("log index {index} is out of order: expected {expected}")]
    OutOfOrder {
        /// The index that was given.
        index: u64,
        /// The index that would have been right.
        expected: u64,
    },
    /// A record larger than a segment can ever hold.
    #[error("log record {index} has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The record's index.
        index: u64,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A record whose bytes are intact but mean nothing to this version.
    #[error("log record {index} cannot be read: {what}")]
    Unreadable {
        /// The record's index.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An earlier write or sync failed. Nothing is written any more, whatever the disk says now: after a failed sync
    /// nobody knows what is on it.
    #[error("the log takes no more writes after an earlier failure: {0}")]
    Failed(Arc<LogError>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    pub(crate) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |error| Self::Io {
            action,
            file,
            error: Arc::new(error),
        }
    }

    pub(crate) fn damage(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damage {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }

    /// What later operations are told after this error.
    pub(crate) fn sticky(&self) -> Self {
        match self {
            Self::Failed(_) | Self::Closed => self.clone(),
            other => Self::Failed(Arc::new(other.clone())),
        }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Damage { .. } | LogError::Unreadable { .. } => io::ErrorKind::InvalidData,
            LogError::Missing { .. } => io::ErrorKind::NotFound,
            LogError::Io { error, .. } => error.kind(),
            LogError::OutOfOrder { .. } | LogError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            LogError::Failed(_) | LogError::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
