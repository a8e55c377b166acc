//! Crash points: places in a node where a crash finds what a crash at a random time almost never does.

/// A place in a node that a trap can be set at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Entries are queued for the log, and not written.
    Appended,
    /// A segment was written, and not synced.
    Written,
    /// A segment was synced, and nobody told.
    Synced,
    /// A vote or purge point was written, and not synced.
    MetaWritten,
    /// A vote or purge point was synced, and nobody told.
    MetaSynced,
    /// A file was created, renamed or removed, and its folder not synced.
    FolderChanged,
    /// Consensus was told that a vote is safe, and its answer is on its way.
    VoteSaved,
    /// Entries are to be cut off, for those of another leader.
    Truncating,
    /// A snapshot is there, and the log is to be purged.
    Purging,
    /// A batch was applied, and its proposers not answered.
    Applied,
    /// A snapshot replaced the state.
    Installed,
    /// An entry that changes the membership is in the log's queue.
    MembershipAppended,
    /// Work or deliveries were handed out.
    LoopsRan,
    /// A proposal was handed to consensus.
    Submitted,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Appended,
        Self::Written,
        Self::Synced,
        Self::MetaWritten,
        Self::MetaSynced,
        Self::FolderChanged,
        Self::VoteSaved,
        Self::Truncating,
        Self::Purging,
        Self::Applied,
        Self::Installed,
        Self::MembershipAppended,
        Self::LoopsRan,
        Self::Submitted,
    ];

    /// Its name, in traces and counts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Appended => "crash at appended",
            Self::Written => "crash at written",
            Self::Synced => "crash at synced",
            Self::MetaWritten => "crash at meta-written",
            Self::MetaSynced => "crash at meta-synced",
            Self::FolderChanged => "crash at folder-changed",
            Self::VoteSaved => "crash at vote-saved",
            Self::Truncating => "crash at truncating",
            Self::Purging => "crash at purging",
            Self::Applied => "crash at applied",
            Self::Installed => "crash at installed",
            Self::MembershipAppended => "crash at membership-appended",
            Self::LoopsRan => "crash at loops-ran",
            Self::Submitted => "crash at submitted",
        }
    }
}

/// How a node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The process ends; what it wrote stays written.
    Killed,
    /// The machine loses power: of what was not synced, any part may be gone.
    PowerLost,
}

/// A crash that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Where.
    pub point: Point,
    /// How often the point is passed before.
    pub passes: u32,
    /// How.
    pub down: Down,
    /// For how long the node is down, in milliseconds.
    pub down_ms: u64,
}
