//! Where Ordo keeps what it must not forget: the Raft log and the state.

mod disk;
mod error;
pub mod log;
mod mem_disk;
mod raft_log;
mod runtime;
mod types;

pub use disk::{Disk, DiskFile, FileDisk};
pub use error::LogError;
pub use mem_disk::MemDisk;
pub use raft_log::{LogEntries, RaftLog};
pub use runtime::OrdoRuntime;
pub use types::{
    Entry, EntryData, EntryPayload, EntryReply, LeaderId, LogId, Member, Membership, Snapshot,
    SnapshotFolder, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
