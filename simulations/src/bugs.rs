//! Bugs that are planted to see whether the checks find them.
//!
//! None of them is in `ordo`: they live in parts that only this package puts between the product's own (see
//! [`ordo_node::Parts`]) and in rules that only this package has (see [`ordo_core::Rules`]). One process has one bug
//! or none.

use std::sync::OnceLock;

static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();

/// Chooses this process's bug, once.
///
/// # Panics
/// When one was chosen before.
pub fn choose(bug: Option<Bug>) {
    assert!(CHOSEN.set(bug).is_ok(), "a process has one bug or none");
}

/// Whether this process has `bug`.
#[must_use]
pub fn has(bug: Bug) -> bool {
    CHOSEN.get().copied().flatten() == Some(bug)
}

/// Bugs with a seed that finds each, for a quick look at whether the checks still do.
pub const RECORDED: &[(Bug, u64)] = &[
    (Bug::AckBeforeSync, 2),
    (Bug::VoteBeforeSync, 4),
    (Bug::CommittedOverstated, 2),
    (Bug::SnapshotAfterPurge, 1),
    (Bug::RecordsNotInSnapshot, 1),
    (Bug::ApplyReadsTheClock, 2),
    (Bug::ConflictTakenAsDuplicate, 3),
    (Bug::FinishedForgotten, 5),
    (Bug::StaleTurnAccepted, 1),
    (Bug::WindowRefusalReorders, 3),
];

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, as `--bug` takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What is wrong, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)* }
            }

            /// The bug of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|bug| bug.name() == name)
            }
        }
    };
}

bugs! {
    /// The log's segments are never synced.
    LogNeverSynced,
    /// Votes and purge points are never synced.
    VoteNeverSynced,
    /// New and renamed files are never synced into their folder.
    FolderNeverSynced,
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A vote is answered before it is synced.
    VoteBeforeSync,
    /// Votes are kept in memory only.
    VoteForgotten,
    /// A node that restarts takes everything in its log for committed.
    CommittedOverstated,
    /// One node writes other bytes into its log than it was sent.
    EntryChanged,
    /// The flushed state lacks what is known of finished messages.
    RecordsNotFlushed,
    /// The flushed state lacks the position of the last run.
    PositionNotFlushed,
    /// The flushed state lacks the destinations: checkpoints and epochs.
    DestinationsNotFlushed,
    /// The flushed state lacks the producers' own numbers.
    ProducersNotFlushed,
    /// The flushed state lacks the dead letters.
    DeadLettersNotFlushed,
    /// The flushed state lacks some unfinished messages.
    SlotsNotFlushed,
    /// The log is purged for a snapshot that is not on the disk yet.
    SnapshotAfterPurge,
    /// A snapshot lacks what is known of finished messages.
    RecordsNotInSnapshot,
    /// A snapshot lacks the destinations: checkpoints and epochs.
    DestinationsNotInSnapshot,
    /// Apply reads the clock of its machine.
    ApplyReadsTheClock,
    /// Apply executes ingests over a gap in their run.
    GapSteppedOver,
    /// Apply executes ingests of a run that is void.
    VoidRunAccepted,
    /// A known message gets a new sequence.
    DuplicateTakenAsNew,
    /// A known message's id with another payload gets the known one's sequence.
    ConflictTakenAsDuplicate,
    /// Finished messages are forgotten at once.
    FinishedForgotten,
    /// Every third sequence is left out.
    SequenceLeftOut,
    /// A report counts whatever its turn is.
    StaleTurnAccepted,
    /// A report counts whatever stage it is of.
    OtherStageAccepted,
    /// The first failed attempt is the last.
    FailsAtFirstAttempt,
    /// Attempts are never exhausted.
    NeverExhausted,
    /// The lease of an assignment never ends.
    LeasesNeverEnd,
    /// A refusal for lack of room does not hold up what was sent after it.
    WindowRefusalReorders,
    /// The watermark passes messages that are still in work.
    ReleasedBeforeItsTurn,
    /// A failed message holds up the interface.
    FailedNotReleased,
    /// An answer counts whatever its epoch is.
    StaleEpochAccepted,
    /// An answer counts however far beyond what was sent it is.
    AnswerBeyondReleased,
    /// A new grant has the old one's epoch.
    EpochNotRaised,
    /// A grant is told to its consumer before it is applied.
    GrantBeforeApplied,
    /// An acknowledgement of less moves the checkpoint back.
    CheckpointMovesBack,
    /// An acknowledgement moves the checkpoint one further than it says.
    CheckpointOneTooFar,
    /// Any answer that is of the head only is taken, whatever it is of.
    NotHeadAccepted,
    /// A new leader does not derive what there is to do from the state.
    EffectsNotRebuilt,
    /// Nothing that should happen after some time ever does.
    TimersNeverFire,
    /// The leader does not hear of some changes that it applied.
    EffectsLost,
    /// Every proposal goes into the log twice.
    ProposedTwice,
    /// A node that lost its disk votes as the one it was.
    WipedNodeKeepsItsName,
    /// The log is cut further than it may be.
    PurgedTooFar,
}
