//! What a run looked like from outside, event by event.
//!
//! Calls come in pairs: what is about to be asked is recorded before it is asked, its answer when it is there. A call
//! without an answer, or with an unknown one, may have happened at any time since, or never. So an event's place in
//! the history orders it against others only this far: what an answer says was true when it was recorded, and
//! nothing can have come of a call before it was begun.

mod file;
mod protocol;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::{Digest, Name};

pub use file::{FORMAT_VERSION, HistoryError};

/// The events of one run, in the order in which they were recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// See [`Event`].
    pub events: Vec<Event>,
}

/// One thing that one actor asked or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began.
    pub at_us: u64,
    /// Who asked or saw it.
    pub actor: Name,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What an actor asked or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The interface exists, and is configured so. Written by whoever created it, once that was acknowledged and
    /// before anybody uses it.
    Interface(InterfaceShape),

    /// A producer is about to hand over a message. Whatever the client library does to get an answer belongs to this
    /// one call.
    Send {
        /// Names the call.
        call: u64,
        /// The interface.
        interface: Name,
        /// The message's identity on it.
        message_id: Uuid,
        /// Of the payload.
        digest: Digest,
        /// The message's place in this producer's own order on this interface, ascending; None where no order is
        /// promised (a repeat, a second producer of the same program).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<u64>,
        /// The producer's own number for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        numbered: Option<Numbered>,
    },
    /// The call's answer.
    Sent {
        /// Names the call.
        call: u64,
        /// What came of it.
        result: SendResult,
    },

    /// A worker was handed a message for one stage.
    Assigned {
        /// The interface.
        interface: Name,
        /// The message's place on it.
        sequence: u64,
        /// The message's identity.
        message_id: Uuid,
        /// The stage to be worked on.
        stage: Name,
        /// The message's turn.
        turn: u32,
        /// Failed tries of this stage so far.
        attempts: u32,
        /// Of the payload that came with it.
        digest: Digest,
    },
    /// A worker is about to report.
    Report {
        /// Names the call.
        call: u64,
        /// The interface.
        interface: Name,
        /// The message's place on it.
        sequence: u64,
        /// The stage that was worked on.
        stage: Name,
        /// The assignment's turn.
        turn: u32,
        /// What came of the work.
        kind: ReportKind,
    },
    /// The report's answer, where the worker hears it: the client library tells its user only how many there were.
    Reported {
        /// Names the call.
        call: u64,
        /// What came of it.
        verdict: Verdict,
    },

    /// A consumer was told that it holds the grant.
    Granted {
        /// The interface.
        interface: Name,
        /// The destination.
        destination: Name,
        /// The grant's epoch.
        epoch: u64,
        /// The checkpoint when it began.
        checkpoint: u64,
        /// True for a consumer that speaks the bare protocol, and hears of every delivery on the wire.
        #[serde(default, skip_serializing_if = "is_false")]
        raw: bool,
    },
    /// A consumer received one sequence.
    Delivered {
        /// The interface.
        interface: Name,
        /// The destination.
        destination: Name,
        /// The grant's epoch.
        epoch: u64,
        /// The sequence.
        sequence: u64,
        /// The identity of the message, of a skipped one too.
        message_id: Uuid,
        /// The message, or the marker in its place.
        content: Content,
        /// As of [`What::Granted`].
        #[serde(default, skip_serializing_if = "is_false")]
        raw: bool,
    },
    /// A consumer is about to answer.
    Answer {
        /// Names the call.
        call: u64,
        /// The interface.
        interface: Name,
        /// The destination.
        destination: Name,
        /// The epoch given with the answer.
        epoch: u64,
        /// The sequence answered; of an acknowledgement the last of those acknowledged.
        sequence: u64,
        /// What it says.
        kind: AnswerKind,
    },
    /// The answer's result, where the consumer hears it: the client library keeps it to itself.
    Answered {
        /// Names the call.
        call: u64,
        /// What came of it.
        verdict: Verdict,
        /// The destination's checkpoint after it, where it was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<u64>,
    },

    /// Somebody is about to read where an interface stands, linearizably.
    Reading {
        /// Names the call.
        call: u64,
        /// The interface.
        interface: Name,
    },
    /// The read's answer.
    Read {
        /// Names the call.
        call: u64,
        /// Where the interface stood, at one moment between the two events.
        standing: Standing,
    },

    /// An operator is about to resolve a dead letter.
    Operate {
        /// Names the call.
        call: u64,
        /// The interface.
        interface: Name,
        /// The dead letter's sequence.
        sequence: u64,
        /// Its message's identity.
        message_id: Uuid,
        /// The destination that refused it; None for one that failed in a stage.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<Name>,
        /// What is to be done with it.
        deed: Deed,
    },
    /// The call's answer.
    Operated {
        /// Names the call.
        call: u64,
        /// What came of it.
        result: OperateResult,
    },

    /// Something was broken or healed. For people: no check reads it.
    Fault {
        /// What.
        text: String,
    },
    /// An actor saw a promise broken that can be judged where it stood: a rogue's demand was met.
    Unlawful {
        /// The interface.
        interface: Name,
        /// The guarantee's number.
        guarantee: u8,
        /// What was seen.
        text: String,
    },

    /// Where an interface stands after everything has healed and come to rest.
    Final {
        /// The interface.
        interface: Name,
        /// Where it stands.
        standing: Standing,
    },
    /// A message after everything has come to rest.
    FinalMessage {
        /// The interface.
        interface: Name,
        /// The message's place on it.
        sequence: u64,
        /// The message's identity.
        message_id: Uuid,
        /// How it ended.
        status: MessageStatus,
        /// The sequence whose dead letter it redrives; 0 for none.
        redrive_of: u64,
        /// Its history as the cluster tells it, oldest first.
        events: Vec<MessageEvent>,
    },
    /// A dead letter after everything has come to rest.
    FinalDeadLetter {
        /// The interface.
        interface: Name,
        /// Its sequence.
        sequence: u64,
        /// The destination that refused it; None for one that failed in a stage.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<Name>,
        /// The message's identity.
        message_id: Uuid,
        /// The stage it failed in; None where a destination refused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<Name>,
        /// Why it is one.
        cause: DeadLetterCause,
        /// Of the payload that is kept.
        digest: Digest,
        /// The sequence that redrives it; 0 for none.
        redriven_as: u64,
    },
}

/// What of an interface's configuration the checks need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceShape {
    /// Its name.
    pub name: Name,
    /// Its stages, in order.
    pub stages: Vec<StageShape>,
    /// Its destinations.
    pub destinations: Vec<DestinationShape>,
    /// How many finished messages are known for deduplication.
    pub dedup_messages: u32,
    /// Unreleased sequences at most.
    pub window: u32,
}

/// A stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageShape {
    /// Its name.
    pub name: Name,
    /// Failed tries until the message fails.
    pub max_attempts: u32,
    /// Lost workers until the message fails.
    pub max_losses: u32,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationShape {
    /// Its name.
    pub name: Name,
    /// Failed tries until the message is a dead letter there.
    pub max_attempts: u32,
}

/// A producer's own number for a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// The name under which it numbers.
    pub producer: Name,
    /// Dense, from 1.
    pub number: u64,
}

/// What came of handing over a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum SendResult {
    /// It has a sequence.
    Accepted {
        /// Its place on its interface.
        sequence: u64,
        /// It was known already. Also true where only the client library's own replay met it.
        duplicate: bool,
    },
    /// It was refused, and this call changed nothing.
    Refused {
        /// The name of the protocol's `Reason`.
        reason: String,
    },
    /// It may have a sequence or get one.
    Unknown {
        /// Why that isn't known.
        why: String,
    },
}

/// What a worker says of an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReportKind {
    /// The stage is done.
    Complete {
        /// Of the payload that replaces the one there was; None where that stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
        /// The destinations that are named; none keeps those named before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        destinations: Vec<Name>,
    },
    /// It failed this time.
    Retry,
    /// It will never succeed.
    Reject,
    /// It is not wanted downstream.
    Filter,
}

/// What came of a report or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It took effect.
    Recorded,
    /// It was refused and changed nothing.
    Refused {
        /// The name of the protocol's `Reason`.
        reason: String,
    },
    /// It may have taken effect, or may yet.
    Unknown {
        /// Why that isn't known.
        why: String,
    },
}

/// What a sequence is to one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "snake_case")]
pub enum Content {
    /// A message.
    Message {
        /// Of its payload.
        digest: Digest,
        /// The sequence whose dead letter it redrives; 0 for none.
        redrive_of: u64,
    },
    /// A marker in the place of a message that is not delivered.
    Skip {
        /// Why it is not.
        cause: SkipCause,
        /// It is kept as a dead letter.
        dead_letter: bool,
    },
}

/// Why a message is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipCause {
    /// A worker rejected it.
    Rejected,
    /// A stage's `max_attempts` were used up.
    Attempts,
    /// A stage's `max_losses` were used up.
    Losses,
    /// Not wanted downstream.
    Filtered,
    /// None that this crate knows.
    Unknown,
}

/// What a consumer says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// It and all before it are done.
    Ack,
    /// It failed this time.
    Retry,
    /// It will never be taken.
    Reject,
    /// The receiver can't be reached.
    Unavailable,
}

/// Where an interface stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The last sequence that was assigned.
    pub last_sequence: u64,
    /// The last that is released.
    pub watermark: u64,
    /// By name.
    pub destinations: BTreeMap<Name, DestinationStanding>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Sequences that failed, so far.
    pub failed: u64,
    /// Sequences that were filtered, so far.
    pub filtered: u64,
}

/// Where a destination stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationStanding {
    /// The last sequence that is done.
    pub checkpoint: u64,
    /// The grant's epoch.
    pub epoch: u64,
}

/// What an operator does with a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub enum Deed {
    /// Throws it away.
    Discard,
    /// Puts it back to work.
    Redrive {
        /// Only under its own sequence.
        in_place_only: bool,
    },
}

/// What came of an operator's call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum OperateResult {
    /// It is thrown away.
    Discarded,
    /// It is back at work.
    Redriven {
        /// Under its own sequence; otherwise at the tail, as a new message.
        in_place: bool,
        /// Its sequence now.
        sequence: u64,
    },
    /// Refused, and nothing changed.
    Refused {
        /// The name of the protocol's `Reason`.
        reason: String,
    },
    /// It may have happened.
    Unknown {
        /// Why that isn't known.
        why: String,
    },
}

/// How a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageStatus {
    /// In a stage.
    Pending,
    /// Through its stages, and not done.
    Ready,
    /// It failed, and not every destination has had its skip marker.
    Failed,
    /// It was filtered, and not every destination has had its skip marker.
    Filtered,
    /// Done, as a message.
    Delivered,
    /// Done, as a skip marker.
    Skipped,
    /// None that this crate knows.
    Unknown,
}

/// One line of a message's own history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageEvent {
    /// What happened to it.
    pub kind: EventKind,
    /// The stage or destination; empty where there is none.
    pub place: Name,
}

/// What happened to a message, as the cluster tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are those of the protocol's MessageEventKind"
)]
pub enum EventKind {
    Accepted,
    Completed,
    Retried,
    Rejected,
    Filtered,
    Lost,
    Redriven,
    DeliveryRetried,
    DeliveryRejected,
    Delivered,
    Skipped,
    Discarded,
    Noted,
    DeliveryRepeated,
    Unknown,
}

/// Why a dead letter is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are those of the protocol's DeadLetterCause"
)]
pub enum DeadLetterCause {
    Rejected,
    Attempts,
    Losses,
    DeliveryRejected,
    DeliveryAttempts,
    Unknown,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}
