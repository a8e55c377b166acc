//! What the log says happened.

use crate::config::InterfaceConfig;
use crate::ids::{
    ClusterTime, ConsumerId, DeadLetterKey, DestinationNumber, Digest, Epoch, Incarnation,
    InterfaceId, MessageId, ProducerSession, Sequence, StageNumber, Turn, WallTime,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One log entry: the commands of one proposal, applied in order.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The leader's cluster time when it proposed; `apply` takes the later of this and the state's.
    pub cluster_time: ClusterTime,
    /// The leader's wall clock when it proposed, for people.
    pub wall_time: WallTime,
    /// Which proposal this is.
    pub position: RunPosition,
    /// What to do.
    pub commands: Vec<Command>,
}

/// Which proposal an entry is: the n-th of a leader's run.
///
/// A lost proposal must not let a later one's messages overtake those it carried: ingests are executed only when
/// `n` follows the last applied n of that run, and a higher (term, run) voids the lower ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunPosition {
    /// The Raft term the leader was elected in.
    pub term: u64,
    /// Counts a leader's runs within its term, from 1.
    pub run: u64,
    /// Counts the proposals of a run, from 1.
    pub n: u64,
}

/// A name and a value that travel with a message beside its payload.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl fmt::Debug for Header {
    // Values may hold patients' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ({} bytes)", self.name, self.value.len())
    }
}

/// One change, asked for by a client or by the leader itself.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each variant is documented at its struct")]
pub enum Command {
    Ingest(Ingest),
    RefuseIngest(RefuseIngest),
    Report(Report),
    Loss(Loss),
    Grant(Grant),
    GrantEnd(GrantEnd),
    Answer(Answer),
    CreateInterface(CreateInterface),
    UpdateInterface(UpdateInterface),
    DiscardDeadLetter(DiscardDeadLetter),
    RedriveDeadLetter(RedriveDeadLetter),
    ForgetFinished(ForgetFinished),
    QuarantineInterface(QuarantineInterface),
    RepairInterface(RepairInterface),
    SkipDelivery(SkipDelivery),
    ResumeDelivery(ResumeDelivery),
    NoteDelivery(NoteDelivery),
}

impl Command {
    /// The one interface that it is about.
    #[must_use]
    pub const fn interface(&self) -> InterfaceId {
        match self {
            Self::Ingest(command) => command.interface,
            Self::RefuseIngest(command) => command.interface,
            Self::Report(command) => command.interface,
            Self::Loss(command) => command.interface,
            Self::Grant(command) => command.interface,
            Self::GrantEnd(command) => command.interface,
            Self::Answer(command) => command.interface,
            Self::CreateInterface(command) => command.interface,
            Self::UpdateInterface(command) => command.interface,
            Self::DiscardDeadLetter(command) => command.interface,
            Self::RedriveDeadLetter(command) => command.interface,
            Self::ForgetFinished(command) => command.interface,
            Self::QuarantineInterface(command) => command.interface,
            Self::RepairInterface(command) => command.interface,
            Self::SkipDelivery(command) => command.interface,
            Self::ResumeDelivery(command) => command.interface,
            Self::NoteDelivery(command) => command.interface,
        }
    }
}

/// Gives a message the next sequence of its interface.
#[derive(Clone)]
pub struct Ingest {
    /// Where it goes.
    pub interface: InterfaceId,
    /// The producer's id for it.
    pub message_id: MessageId,
    /// Hash of payload and headers as they came.
    pub digest: Digest,
    /// Opaque.
    pub payload: Bytes,
    /// Within the limits; checked before proposing.
    pub headers: Vec<Header>,
    /// The producer's name and its own number for the message, when it numbers them.
    pub numbered: Option<(String, u64)>,
    /// The producer's session, and through which sequence it has heard the answers to its messages of this interface,
    /// when it says so.
    pub session: Option<(ProducerSession, Sequence)>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ingest({} {} {} bytes)",
            self.interface,
            self.message_id,
            self.payload.len()
        )
    }
}

/// Consumes a producer's number for a message refused for good, so that the refusal leaves no gap.
#[derive(Clone, Debug)]
pub struct RefuseIngest {
    /// Where the message would have gone.
    pub interface: InterfaceId,
    /// The message's id.
    pub message_id: MessageId,
    /// The producer's name and number.
    pub numbered: (String, u64),
}

/// What came of an assignment.
#[derive(Clone, Debug)]
pub struct Report {
    /// The message's interface.
    pub interface: InterfaceId,
    /// The message.
    pub sequence: Sequence,
    /// The stage it was assigned for.
    pub stage: StageNumber,
    /// The turn the assignment carried.
    pub turn: Turn,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a worker may report.
#[derive(Clone)]
pub enum Outcome {
    /// The stage is done.
    Complete {
        /// Replaces the payload.
        payload: Option<Bytes>,
        /// Set on top of those there are: same name replaced, empty value removed. Stored as a row of its own, so
        /// that nothing is read to merge them.
        headers: Vec<Header>,
        /// Names the destinations; empty keeps what was named before.
        destinations: Vec<DestinationNumber>,
    },
    /// Tried again after back-off, or FAILED at `max_attempts`.
    Retry {
        /// Why, without patient data.
        reason: String,
        /// Where in the jitter's range the back-off falls; drawn by the leader.
        jitter: u16,
    },
    /// FAILED at once.
    Reject {
        /// Why.
        reason: String,
    },
    /// Not wanted downstream.
    Filter {
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete { .. } => "Complete",
            Self::Retry { .. } => "Retry",
            Self::Reject { .. } => "Reject",
            Self::Filter { .. } => "Filter",
        })
    }
}

/// The worker that held an assignment vanished, or its lease passed. Proposed by the leader.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The message's interface.
    pub interface: InterfaceId,
    /// The message.
    pub sequence: Sequence,
    /// The stage it was assigned for.
    pub stage: StageNumber,
    /// The turn the assignment carried.
    pub turn: Turn,
    /// The worker's name, and how it was lost.
    pub reason: String,
}

/// Makes a consumer the holder of an (interface, destination), under a new epoch.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// The new holder.
    pub consumer: ConsumerId,
    /// Its name, for people.
    pub name: String,
    /// What the receiver says it has stored: counts as an acknowledgement.
    pub position: Option<(Incarnation, Sequence)>,
}

/// Ends a grant: the consumer left, or was silent for too long.
#[derive(Clone, Debug)]
pub struct GrantEnd {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// The grant's epoch; a later grant stays.
    pub epoch: Epoch,
}

/// A consumer's answer to what it was sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// The epoch it was sent under.
    pub epoch: Epoch,
    /// Ack: everything through it. Otherwise checkpoint + 1.
    pub sequence: Sequence,
    /// Which answer.
    pub kind: AnswerKind,
}

/// The kinds of answers.
#[derive(Clone, Debug)]
pub enum AnswerKind {
    /// Done.
    Ack,
    /// The receiver answered that it can't now; counts as an attempt.
    Retry {
        /// The pause, in milliseconds.
        after_ms: u64,
        /// Why.
        reason: String,
    },
    /// The receiver will never take it.
    Reject {
        /// Why.
        reason: String,
    },
    /// The receiver can't be reached; no attempt counted.
    Unavailable {
        /// The pause, in milliseconds.
        after_ms: u64,
        /// It may have reached the receiver: that it is sent again is counted as a repeat.
        sent: bool,
        /// Why.
        reason: String,
    },
}

/// Makes an interface.
#[derive(Clone, Debug)]
pub struct CreateInterface {
    /// Drawn by the leader.
    pub interface: InterfaceId,
    /// Unique.
    pub name: String,
    /// Valid, defaults filled in: a later version's other defaults must not change what an old entry means.
    pub config: InterfaceConfig,
}

/// Changes an interface's configuration.
#[derive(Clone, Debug)]
pub struct UpdateInterface {
    /// Which.
    pub interface: InterfaceId,
    /// The version the change is made from.
    pub config_version: u64,
    /// Valid, defaults filled in.
    pub config: InterfaceConfig,
}

/// Resolves a dead letter without delivering it.
#[derive(Clone, Debug)]
pub struct DiscardDeadLetter {
    /// The interface.
    pub interface: InterfaceId,
    /// Which.
    pub key: DeadLetterKey,
}

/// Puts a dead letter back to work.
#[derive(Clone, Debug)]
pub struct RedriveDeadLetter {
    /// The interface.
    pub interface: InterfaceId,
    /// Which.
    pub key: DeadLetterKey,
    /// Refuse rather than enter at the tail.
    pub in_place_only: bool,
}

/// Drops the records of finished messages whose retention is over. Proposed by the leader.
#[derive(Clone, Debug)]
pub struct ForgetFinished {
    /// The interface.
    pub interface: InterfaceId,
    /// Through this sequence.
    pub through: Sequence,
}

/// Quarantines an interface in which a node that loaded its state found an invariant that does not hold. Proposed by the
/// leader.
#[derive(Clone, Debug)]
pub struct QuarantineInterface {
    /// Which.
    pub interface: InterfaceId,
    /// The invariant's name.
    pub invariant: String,
}

/// Derives afresh what can be derived of a quarantined interface, and lifts the quarantine where every invariant holds
/// then.
#[derive(Clone, Debug)]
pub struct RepairInterface {
    /// Which.
    pub interface: InterfaceId,
}

/// Gives up checkpoint + 1 for one destination, as a person decided: a dead letter, as a reject leaves.
#[derive(Clone, Debug)]
pub struct SkipDelivery {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// Checkpoint + 1.
    pub sequence: Sequence,
    /// The destination's turn that the person saw: where another answer or decision came first, nothing changes.
    pub turn: Turn,
}

/// Ends a destination's pause, as a person decided.
#[derive(Clone, Debug)]
pub struct ResumeDelivery {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// The destination's turn that the person saw; `None` whatever it is.
    pub turn: Option<Turn>,
}

/// Keeps what a receiver said of a message after its delivery was settled.
#[derive(Clone)]
pub struct NoteDelivery {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
    /// At or below its checkpoint.
    pub sequence: Sequence,
    /// The epoch under which it was delivered.
    pub epoch: Epoch,
    /// What the receiver's reply is called.
    pub code: String,
    /// What it says.
    pub text: String,
}

impl fmt::Debug for NoteDelivery {
    // A receiver's words are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NoteDelivery({} {} {} {})",
            self.interface, self.destination, self.sequence, self.code
        )
    }
}
