//! What to store: keys and rows, the same on every replica.

use crate::command::{Header, RunPosition};
use crate::config::InterfaceConfig;
use crate::hours::FinishedHour;
use crate::ids::{
    ClusterTime, DeadLetterKey, DestinationNumber, DestinationSet, Digest, Incarnation,
    InterfaceId, MessageId, ProducerSession, Sequence, WallTime,
};
use crate::interface::{DeadLetter, Destination, Producer, Quarantine, Slot, Status};
use crate::session::Unheard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// The name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is documented at its row")]
pub enum Key {
    Clock,
    Config(InterfaceId),
    Quarantine(InterfaceId),
    Lane(InterfaceId),
    Hours(InterfaceId),
    Destination(InterfaceId, DestinationNumber),
    Producer(InterfaceId, String),
    DeadLetter(InterfaceId, DeadLetterKey),
    Slot(InterfaceId, Sequence),
    Unheard(InterfaceId, Sequence),
    Payload(InterfaceId, Sequence),
    /// 0 for those it was ingested with, stage number + 1 for those set by a stage: a later one's win.
    Headers(InterfaceId, Sequence, u8),
    Record(InterfaceId, Sequence),
    /// Ordered by log index, then by the command's place in its entry.
    Event(InterfaceId, Sequence, u64, u32),
}

/// A row's content.
#[derive(Clone, Debug)]
pub enum Row {
    /// Time and run, one for the whole state.
    Clock(ClockRow),
    /// An interface's name and configuration.
    Config(ConfigRow),
    /// That and why an interface is quarantined.
    Quarantine(Quarantine),
    /// An interface's counters.
    Lane(LaneRow),
    /// When its messages finished.
    Hours(Vec<FinishedHour>),
    /// A destination's grant and checkpoint.
    Destination(Destination),
    /// A numbered producer's last number.
    Producer(Producer),
    /// A failed message kept for a person.
    DeadLetter(DeadLetter),
    /// A message not yet done for every destination.
    Slot(Slot),
    /// What is remembered of a finished message whose producer may not have heard the answer.
    Unheard(Unheard),
    /// A message's payload.
    Payload(PayloadRow),
    /// Headers of a message, as ingested or as set by one stage (see [`merge_headers`]).
    Headers(Vec<Header>),
    /// A message done for every destination.
    Record(Record),
    /// Something out of the ordinary that happened to a message.
    Event(EventRow),
}

/// A change of the store.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Write.
    Put(Key, Row),
    /// Remove; it may be absent.
    Delete(Key),
    /// Remove the records and events of the sequences `from..=through`.
    Forget {
        /// Where.
        interface: InterfaceId,
        /// First.
        from: Sequence,
        /// Last.
        through: Sequence,
    },
}

/// Time and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRow {
    /// The latest.
    pub cluster_time: ClusterTime,
    /// The latest.
    pub wall_time: WallTime,
    /// The last applied proposal.
    pub position: RunPosition,
}

/// An interface's name and configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigRow {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The configuration's version, from 1.
    pub config_version: u64,
    /// The configuration.
    pub config: InterfaceConfig,
}

/// An interface's counters, and its producers' sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// The last sequence assigned.
    pub last_sequence: Sequence,
    /// The release watermark.
    pub watermark: Sequence,
    /// Sequences released as FAILED so far.
    pub failed: u64,
    /// Sequences released as FILTERED so far.
    pub filtered: u64,
    /// The first of the finished sequences that are known because they are the last ones.
    pub known_from: Sequence,
    /// Records through this sequence are gone.
    pub forgotten_through: Sequence,
    /// What was counted so far for the ids of redrives at the tail.
    pub redrives: u64,
    /// The producers' sessions, the one heard of last at the end.
    pub sessions: Vec<SessionRow>,
}

/// A producer's session on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its name.
    pub session: ProducerSession,
    /// The first of its messages since it was told apart from others.
    pub since: Sequence,
    /// It has heard the answers to all its messages through this one.
    pub heard: Sequence,
}

/// A message's payload. A stage that replaces it writes over the one before, so that it says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadRow {
    /// 0 as it was ingested, stage number + 1 as a stage left it.
    pub row: u8,
    /// As it is.
    pub payload: Bytes,
}

/// A message done for every destination: what is left of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub message_id: MessageId,
    /// Its hash, for telling repeats from conflicts.
    pub digest: Digest,
    /// How its stages ended.
    pub status: Status,
    /// The destinations it was for.
    pub destinations: DestinationSet,
    /// The destinations that refused it.
    pub rejected: DestinationSet,
    /// The configuration its stage numbers belong to.
    pub config_version: u64,
    /// When it was accepted.
    pub accepted_at: WallTime,
    /// When each stage was done, in milliseconds after `accepted_at`.
    pub stage_times: SmallVec<[u32; 4]>,
    /// When the last destination was done with it.
    pub finished_at: WallTime,
    /// The same in cluster time, by which it is forgotten.
    pub finished: ClusterTime,
    /// The dead letter it redrove.
    pub redrive_of: Option<DeadLetterKey>,
    /// Its payload's length.
    pub payload_bytes: u32,
    /// The session of the producer that sent it, when it named one.
    pub session: Option<ProducerSession>,
    /// The system made it.
    pub derived: bool,
}

/// A message's headers: those of its [`Row::Headers`] rows, in key order, a later name's value replacing an
/// earlier one and an empty value removing it.
#[must_use]
pub fn merge_headers(rows: impl IntoIterator<Item = Vec<Header>>) -> Vec<Header> {
    let mut merged: Vec<Header> = Vec::new();
    for header in rows.into_iter().flatten() {
        match merged.iter_mut().find(|there| there.name == header.name) {
            Some(there) => there.value = header.value,
            None => merged.push(header),
        }
    }
    merged.retain(|header| !header.value.is_empty());
    merged
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EventKind {
    Retried,
    Rejected,
    Filtered,
    Lost,
    Redriven,
    DeliveryRetried,
    DeliveryRejected,
    Discarded,
    Noted,
    DeliveryRepeated,
}

/// Something out of the ordinary that happened to a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// What.
    pub kind: EventKind,
    /// When.
    pub at: WallTime,
    /// The stage's or destination's name at the time.
    pub place: String,
    /// What the worker, the consumer or the leader said.
    pub reason: String,
}
