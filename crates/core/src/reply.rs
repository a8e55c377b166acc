//! What apply answers.

use crate::ids::{DeadLetterKey, Epoch, InterfaceId, Sequence, Turn};
use crate::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use serde::{Deserialize, Serialize};

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; there is nothing to tell.
    Done,
    /// To `Ingest`.
    Ingested {
        /// Its place in the interface.
        sequence: Sequence,
        /// The message was known already; this is its first answer again.
        duplicate: bool,
    },
    /// To `Grant`.
    Granted {
        /// The new epoch.
        epoch: Epoch,
        /// Deliveries begin after it.
        checkpoint: Sequence,
    },
    /// To `Answer`.
    Answered {
        /// The checkpoint after it.
        checkpoint: Sequence,
    },
    /// To `SkipDelivery` and `ResumeDelivery`.
    Decided {
        /// The destination's turn now.
        turn: Turn,
    },
    /// To `CreateInterface` and `UpdateInterface`.
    Configured {
        /// Which interface.
        interface: InterfaceId,
        /// The version now in force.
        config_version: u64,
    },
    /// To `RedriveDeadLetter`.
    Redriven {
        /// Whether it went back under its own sequence; otherwise it is a new message at the tail.
        in_place: bool,
        /// The sequence it is worked on under.
        sequence: Sequence,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// Why a command changed nothing. The texts are for people and name the value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("interface {0} is unknown")]
    UnknownInterface(InterfaceId),
    #[error("an interface called {0:?} exists already")]
    InterfaceExists(String),
    #[error("sequence {0} is not known; the last one is {1}")]
    UnknownSequence(Sequence, Sequence),
    #[error("destination number {0} does not exist")]
    UnknownDestination(u8),
    #[error("stage number {0} does not exist")]
    UnknownStage(u8),
    #[error("the message_id is known, as sequence {0}, with another payload")]
    ConflictingPayload(Sequence),
    #[error("producer_sequence {given} leaves a gap: {expected} is expected")]
    ProducerGap { given: u64, expected: u64 },
    #[error(
        "producer_sequence {given} was used already for another message; {expected} is expected"
    )]
    ProducerSequenceUsed { given: u64, expected: u64 },
    #[error("the message with producer_sequence {0} was refused for good")]
    ProducerRefused(u64),
    #[error("the interface has {0} numbered producers, which is the limit")]
    ProducersFull(usize),
    #[error("an earlier proposal of this run was lost; send it again")]
    Superseded,
    #[error("the report is of turn {given}, stage {stage}; it came too late and changed nothing")]
    Stale { given: Turn, stage: u8 },
    #[error(
        "the message's headers would be {count} with {bytes} bytes; at most {HEADERS_MAX} with {HEADER_BYTES_MAX} bytes"
    )]
    HeadersFull { count: usize, bytes: usize },
    #[error("the answer is of epoch {given}; the grant's is {current}")]
    WrongEpoch { given: Epoch, current: Epoch },
    #[error("sequence {given} is beyond the release watermark {watermark}")]
    NotReleased {
        given: Sequence,
        watermark: Sequence,
    },
    #[error("only checkpoint + 1, which is {head}, can be answered so, not {given}")]
    NotHead { given: Sequence, head: Sequence },
    #[error("sequence {0} is a skip marker, which can only be acknowledged")]
    SkipMarker(Sequence),
    #[error(
        "the destination's turn is {current}, not {given}: another answer or decision came first; nothing changed"
    )]
    StaleDecision { given: Turn, current: Turn },
    #[error(
        "sequence {given} is beyond the destination's checkpoint {checkpoint}: only what it has acknowledged is noted"
    )]
    NotAcknowledged {
        given: Sequence,
        checkpoint: Sequence,
    },
    #[error("the record of sequence {0} is no longer kept")]
    Forgotten(Sequence),
    #[error("the position presented is {0}")]
    Position(String),
    #[error("the configuration version is {current}, not {given}")]
    ConfigVersion { given: u64, current: u64 },
    #[error(
        "{change} needs a drained interface: {undelivered} messages are not delivered and {dead_letters} dead letters not resolved"
    )]
    NotDrained {
        change: String,
        undelivered: u64,
        dead_letters: u64,
    },
    #[error("the interface's dead letters are at their cap: {count} with {bytes} bytes of payload")]
    DeadLettersFull { count: usize, bytes: u64 },
    #[error(
        "sequence {} has no dead letter of {}",
        .0.sequence,
        if .0.destination.is_some() { "that destination" } else { "a stage" }
    )]
    UnknownDeadLetter(DeadLetterKey),
    #[error("the dead letter is being redriven as sequence {0}")]
    BeingRedriven(Sequence),
    #[error("sequence {0} is released: it can be redriven at the tail only")]
    Released(Sequence),
    #[error(
        "the next {0} ids that the redrive could get are known already, sent by clients; once more tries those after them"
    )]
    DerivedIdsKnown(u32),
    #[error(
        "the interface is quarantined since log entry {log_index}: {invariant} does not hold ({}). It takes nothing but \
         reads and `ordo interface repair`; see docs/quarantine.md",
        crate::invariants::sentence(.invariant)
    )]
    Quarantined { invariant: String, log_index: u64 },
}
