//! Where Ordo keeps what it must not forget: the Raft log and the state.

mod disk;
mod driver;
mod error;
mod keys;
pub mod log;
mod machine;
mod machine_loop;
mod machine_raft;
mod mem_disk;
mod raft_log;
mod rows;
mod runtime;
mod snapshot;
mod snapshot_manifest;
mod snapshot_receive;
mod snapshot_send;
mod store;
mod store_cache;
mod store_engine;
mod store_error;
mod store_folder;
mod store_hash;
mod store_home;
mod store_memory;
mod store_meta;
mod store_rocks;
mod store_rows;
mod store_warm;
mod types;

pub use disk::{Disk, DiskFile, FileDisk};
pub use driver::Driver;
pub use error::LogError;
pub use keys::KeyError;
pub use machine::{
    Lump, Machine, MachineHandle, MachineOptions, Observer, Step, StepWatch, Stopped, View,
};
pub use machine_loop::MachineLoop;
pub use machine_raft::Builder as SnapshotBuilder;
pub use mem_disk::MemDisk;
pub use raft_log::{LogEntries, RaftLog};
pub use rows::RowError;
pub use runtime::OrdoRuntime;
pub use snapshot_receive::{ReceivedSnapshot, SnapshotHeld, SnapshotReceiver};
pub use snapshot_send::{SnapshotChunk, SnapshotReader};
pub use store::{Body, StateStore, StoreOptions, StoreStats};
pub use store_error::StoreError;
pub use store_hash::{StateHash, StateHasher};
pub use store_memory::{Flawed, MemoryRows, MemoryState};
pub use store_meta::Applied;
pub use store_rocks::wait_until_closed;
pub use store_warm::BodyPlace;
pub use types::{
    Entry, EntryData, EntryPayload, EntryReply, LeaderId, LogId, Member, Membership, Snapshot,
    SnapshotFolder, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
