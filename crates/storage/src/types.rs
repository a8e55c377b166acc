//! The types Ordo runs openraft with.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use ordo_core::Reply;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runtime::OrdoRuntime;

openraft::declare_raft_types!(
    /// How Ordo configures openraft.
    pub TypeConfig:
        D = EntryData,
        R = EntryReply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = OrdoRuntime,
);

/// The id of a log entry.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The id of a leader: term and node.
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What a log entry holds.
pub type EntryPayload = openraft::alias::PayloadOf<TypeConfig>;
/// Who votes, and who learns.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership and the id of the entry that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: what it covers, and its folder.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFolder>;

/// The encoded protobuf of one proposal. The log and the network carry it without looking inside.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EntryData(pub Bytes);

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

// Entries hold patients' data: only their length may reach a log line.
impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryData({} bytes)", self.0.len())
    }
}

impl From<Bytes> for EntryData {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// What applying one entry answered: one reply a command, in order. Empty for entries that hold no commands.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EntryReply(pub Vec<Reply>);

impl fmt::Display for EntryReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.0.len())
    }
}

impl fmt::Debug for EntryReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryReply({} replies)", self.0.len())
    }
}

/// A node of the cluster, as the membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` where other nodes reach it.
    pub peer: String,
    /// `host:port` where clients reach it.
    pub public: String,
    /// Made at the first start of its data folder. A node that lost its folder comes back with another one, and is
    /// nobody's peer any more: it must not vote on what it forgot.
    pub storage_id: Uuid,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "peer {} public {} storage {}",
            self.peer, self.public, self.storage_id
        )
    }
}

/// A snapshot: a folder with a checkpoint of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFolder {
    /// Where the folder is.
    pub path: PathBuf,
}
