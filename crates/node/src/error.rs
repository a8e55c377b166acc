//! What can go wrong with a node.

use crate::identity::IdentityError;
use crate::raft::Standing;
use std::io;
use std::net::SocketAddr;

/// Why a node can't start, or stopped. The process ends with [`ServeError::exit_status`].
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address can't be listened on.
    #[error("cannot listen on {address} (`{key}` in the configuration): {error}")]
    Listen {
        /// The key that names it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The log or the state can't be opened, or failed while the node ran. Never retried: after a failed write nobody
    /// knows what is on the disk.
    #[error("{0}")]
    Storage(String),
    /// The state is older than what the log still has.
    #[error(
        "the state in {folder} ends at index {applied}, the log begins after {purged}: what lies between is lost. \
         Take this node's data away and take it in anew with `ordo cluster add --replace`"
    )]
    StateBehindLog {
        /// The state's folder.
        folder: String,
        /// The last index applied.
        applied: u64,
        /// The last index that is gone from the log.
        purged: u64,
    },
    /// The data folder is an older copy of what it was: entries or a vote that the others count on are not there.
    #[error(
        "{folder} is an older copy: its log ends at {found}, but node {witness} knows that this node had {shown} on its \
         disk. It takes no part with less than that. Take its data away and take it in anew with \
         `ordo cluster add --replace`"
    )]
    OlderCopy {
        /// The data folder.
        folder: String,
        /// What is there.
        found: Standing,
        /// What was there.
        shown: Standing,
        /// Who knows.
        witness: u64,
    },
    /// Consensus stopped.
    #[error("consensus stopped: {0}")]
    Raft(String),
    /// A server stopped.
    #[error("the {server} server stopped: {error}")]
    Server {
        /// Which one.
        server: &'static str,
        /// Why.
        error: String,
    },
}

impl ServeError {
    /// The exit status a process ends with: 1 for what a person can put right in the configuration or around it, 10
    /// when the storage failed or is damaged, 11 when the node stopped for another reason.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Identity(IdentityError::Damaged { .. } | IdentityError::Missing { .. })
            | Self::Storage(_)
            | Self::StateBehindLog { .. }
            | Self::OlderCopy { .. } => 10,
            Self::Identity(_) | Self::Listen { .. } => 1,
            Self::Raft(_) | Self::Server { .. } => 11,
        }
    }
}

/// A message between nodes that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// A part is not there, or not in its form.
    #[error("the message lacks {0}")]
    Malformed(&'static str),
}

impl From<PeerError> for tonic::Status {
    fn from(error: PeerError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
