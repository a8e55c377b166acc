//! One FIFO lane: its messages, destinations and dead letters, in memory.

use crate::command::Header;
use crate::config::InterfaceConfig;
use crate::hours::Hours;
use crate::ids::{
    ClusterTime, ConsumerId, DeadLetterKey, DestinationNumber, DestinationSet, Digest, Epoch,
    Incarnation, InterfaceId, MessageId, ProducerSession, Sequence, StageNumber, Turn, WallTime,
};
use crate::remembered::Remembered;
use crate::session::Session;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One FIFO lane.
///
/// Its unfinished messages are a ring: a sequence's slot is found by subtraction. Those finished last, kept for
/// deduplication, are a second ring below it.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its identity.
    pub id: InterfaceId,
    /// Its name.
    pub name: Arc<str>,
    /// Raised by a restore from a backup.
    pub incarnation: Incarnation,
    /// From 1.
    pub config_version: u64,
    /// How it treats its messages.
    pub config: Arc<InterfaceConfig>,
    /// The last sequence assigned.
    pub last_sequence: Sequence,
    /// The release watermark.
    pub watermark: Sequence,
    /// Sequences released as FAILED so far.
    pub failed: u64,
    /// Sequences released as FILTERED so far.
    pub filtered: u64,
    /// Records through this sequence are gone.
    pub forgotten_through: Sequence,
    /// By number.
    pub destinations: Vec<Destination>,
    /// By sequence, the message's own before a destination's.
    pub dead_letters: BTreeMap<DeadLetterKey, DeadLetter>,
    /// Bytes of the dead letters' payloads.
    pub dead_letter_bytes: u64,
    /// By name.
    pub producers: BTreeMap<String, Producer>,
    /// Slots of `finished_through + 1 ..= last_sequence`.
    pub(crate) slots: VecDeque<Slot>,
    /// The last ones of `..= finished_through`.
    pub(crate) remembered: Remembered,
    /// The ids that ingest must recognise beside those: of unfinished messages, dead letters, and finished messages
    /// whose answers were not heard.
    pub(crate) known: BTreeMap<MessageId, Sequence>,
    /// Producers' sessions, the one heard of last at the end.
    pub(crate) sessions: Vec<Session>,
    /// When those that have a record finished.
    pub(crate) hours: Hours,
    /// How many dead letters, and unfinished redrives at the tail, need the body stored under a sequence.
    pub(crate) bodies: BTreeMap<Sequence, u32>,
    /// What was counted so far for the ids of redrives at the tail.
    pub redrives: u64,
    /// Set aside as it stands, on every replica alike, because an invariant does not hold.
    pub quarantine: Option<Box<Quarantine>>,
    /// An invariant that did not hold when this replica loaded its state: the leader's loops leave the interface alone
    /// until the log says that it is quarantined. No part of what replicas agree on; apply does not look at it.
    pub(crate) suspect: Option<&'static str>,
    /// What changed since the mutations were taken.
    pub(crate) dirty: Dirty,
}

/// Why an interface takes nothing but reads and a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The name of the invariant that does not hold.
    pub invariant: String,
    /// The log entry whose command broke it, or told of it.
    pub log_index: u64,
    /// For people.
    pub at: WallTime,
}

/// What of an interface has changed since [`State::take_mutations`](crate::State::take_mutations).
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    /// The interface stands in the state's list.
    pub(crate) listed: bool,
    pub(crate) config: bool,
    pub(crate) hours: bool,
    pub(crate) destinations: DestinationBits,
    pub(crate) slots: Vec<Sequence>,
    /// The slot that the command at hand changed: none changes two.
    pub(crate) touched: Option<Sequence>,
    /// An invariant that the command at hand found broken.
    pub(crate) broken: Option<&'static str>,
}

pub(crate) type DestinationBits = u16;

/// A message that is not yet done for every destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// The producer's id for it.
    pub message_id: MessageId,
    /// Hash of what was ingested.
    pub digest: Digest,
    /// For people.
    pub accepted_at: WallTime,
    /// Not assigned before.
    pub not_before: ClusterTime,
    /// Where its payload and headers are stored: its own sequence, or that of the dead letter it redrives.
    pub body_of: Sequence,
    /// The dead letter it redrives.
    pub redrive_of: Option<Box<DeadLetterKey>>,
    /// When each stage was done, in milliseconds after `accepted_at`; as many as `stage`.
    pub stage_times: SmallVec<[u32; 4]>,
    /// The current turn.
    pub turn: Turn,
    /// The turn in which it entered its stage or was redriven: `complete` is accepted from here on.
    pub turn_entered: Turn,
    /// Its payload's length.
    pub payload_bytes: u32,
    /// Which header rows it has: bit 0 those ingested, bit n those set by stage n - 1.
    pub header_rows: u64,
    /// Bytes of header names and values in those rows.
    pub header_bytes: u16,
    /// Headers in those rows.
    pub header_count: u8,
    /// The stage it is in, or failed in; past the last one when READY.
    pub stage: StageNumber,
    /// Where it stands.
    pub status: Status,
    /// Failed tries of this stage that count.
    pub attempts: u16,
    /// Workers lost on this stage.
    pub losses: u16,
    /// The destinations it is for.
    pub destinations: DestinationSet,
    /// The destinations that refused it.
    pub rejected: DestinationSet,
    /// The session of the producer that sent it, when it named one.
    pub session: Option<ProducerSession>,
    /// Stands in the interface's list of changed slots.
    #[serde(skip)]
    pub(crate) dirty: bool,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// In a stage.
    Pending,
    /// Through its stages.
    Ready,
    /// Skipped, with a dead letter.
    Failed(FailCause),
    /// Skipped, not wanted downstream.
    Filtered,
}

/// Why a message failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailCause {
    /// A worker rejected it.
    Rejected,
    /// The stage's `max_attempts` were used up.
    Attempts,
    /// The stage's `max_losses` were used up.
    Losses,
    /// A destination refused it.
    DeliveryRejected,
    /// The destination's `max_attempts` were used up.
    DeliveryAttempts,
}

impl Status {
    /// Whether the outcome is decided; below the watermark it is also for good.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

/// A receiver's state. New fields stand at the end: stored rows of before lack them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Everything at or below it is done.
    pub checkpoint: Sequence,
    /// The last grant's fencing token; it never falls, not even when the destination goes and comes back.
    pub epoch: Epoch,
    /// Who holds the grant.
    pub holder: Option<Holder>,
    /// Nothing is sent before.
    pub suspended_until: ClusterTime,
    /// Failed tries of checkpoint + 1.
    pub attempts: u32,
    /// What its consumer said last of checkpoint + 1 when it did not acknowledge it; empty only while it has not
    /// said anything but an ack.
    pub reason: String,
    /// Messages acknowledged so far.
    pub delivered: u64,
    /// Skip markers acknowledged, and messages it refused, so far.
    pub skipped: u64,
    /// How often checkpoint + 1 may have reached the receiver and is sent again.
    pub repeats: u32,
    /// Raised by every answer but an ack and by every decision of a person; never reset.
    pub turn: Turn,
    /// The last answers to checkpoint + 1 that were no ack, [`TRIES_MAX`](crate::limits::TRIES_MAX) at most, oldest
    /// first.
    pub tries: Vec<Try>,
}

/// What came of one try to deliver checkpoint + 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// What.
    pub kind: TryKind,
    /// When.
    pub at: WallTime,
    /// As its consumer said, cut at [`TRY_REASON_BYTES_MAX`](crate::limits::TRY_REASON_BYTES_MAX).
    pub reason: String,
}

/// The answers that leave checkpoint + 1 where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TryKind {
    /// The receiver answered that it can't now.
    Retry,
    /// The receiver could not be reached.
    Unavailable,
    /// The same, but the message may have reached it.
    Sent,
}

/// Who holds a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its identity.
    pub consumer: ConsumerId,
    /// Its name, for people.
    pub name: String,
}

/// A failed message kept for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its id, which ingest goes on to recognise.
    pub message_id: MessageId,
    /// Its hash.
    pub digest: Digest,
    /// Where it failed; past the last stage when a destination refused it.
    pub stage: StageNumber,
    /// Why.
    pub cause: FailCause,
    /// Failed tries of that stage or delivery.
    pub attempts: u32,
    /// Workers lost on that stage.
    pub losses: u32,
    /// What the last of them said.
    pub reason: String,
    /// For people.
    pub accepted_at: WallTime,
    /// For people.
    pub failed_at: WallTime,
    /// The destinations it is for.
    pub destinations: DestinationSet,
    /// Where its payload and headers are stored.
    pub body_of: Sequence,
    /// Its payload's length.
    pub payload_bytes: u32,
    /// Which header rows it has.
    pub header_rows: u64,
    /// Bytes of header names and values in those rows.
    pub header_bytes: u16,
    /// Headers in those rows.
    pub header_count: u8,
    /// When the stages before were done.
    pub stage_times: SmallVec<[u32; 4]>,
    /// The sequence that redrives it now.
    pub redriven_as: Option<Sequence>,
    /// The dead letter it was itself a redrive of.
    pub redrive_of: Option<DeadLetterKey>,
}

/// A producer that numbers its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// Its last number.
    pub last: u64,
    /// The message it was given for.
    pub message_id: MessageId,
    /// What became of it: its sequence, or `None` when it was refused for good.
    pub sequence: Option<Sequence>,
}

impl Interface {
    /// Everything at or below it is done for every destination.
    #[must_use]
    pub fn finished_through(&self) -> Sequence {
        Sequence(self.last_sequence.0.saturating_sub(self.slots.len() as u64))
    }

    /// The slot of a message that is not yet done for every destination.
    #[must_use]
    pub fn slot(&self, sequence: Sequence) -> Option<&Slot> {
        let at = sequence.0.checked_sub(self.finished_through().0 + 1)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, sequence: Sequence) -> Option<&mut Slot> {
        let at = sequence.0.checked_sub(self.finished_through().0 + 1)?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The slots there are, with their sequences, in order.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = (Sequence, &Slot)> {
        let from = self.finished_through().0 + 1;
        self.slots
            .iter()
            .enumerate()
            .map(move |(i, slot)| (Sequence(from + i as u64), slot))
    }

    /// The first of the finished sequences that are known because they are the last ones.
    #[must_use]
    pub fn known_from(&self) -> Sequence {
        Sequence((self.finished_through().0 + 1).saturating_sub(self.remembered.len() as u64))
    }

    /// How many finished messages are known because they are the last ones: as many as `dedup_messages` at most. Those
    /// that the system made itself do not count.
    #[must_use]
    pub fn last_known_messages(&self) -> u64 {
        self.remembered.counted() as u64
    }

    /// The sequence a known message has: undelivered ones, unresolved dead letters, those finished last, and those
    /// whose answers were not heard.
    #[must_use]
    pub fn sequence_of(&self, message_id: MessageId) -> Option<Sequence> {
        let known = self.known.get(&message_id).copied();
        known.max(self.remembered.sequence_of(message_id))
    }

    /// The hash of a known message.
    pub(crate) fn digest_of(&self, sequence: Sequence) -> Option<Digest> {
        if let Some(slot) = self.slot(sequence) {
            return Some(slot.digest);
        }
        if let Some(finished) = self.remembered.get(sequence) {
            return Some(finished.digest);
        }
        if let Some(unheard) = self.unheard(sequence) {
            return Some(unheard.digest);
        }
        self.dead_letters_of(sequence)
            .next()
            .map(|(_, letter)| letter.digest)
    }

    /// The dead letters of one sequence: its own, or those of its destinations.
    pub fn dead_letters_of(
        &self,
        sequence: Sequence,
    ) -> impl Iterator<Item = (&DeadLetterKey, &DeadLetter)> {
        let from = DeadLetterKey {
            sequence,
            destination: None,
        };
        let to = DeadLetterKey {
            sequence: sequence.next(),
            destination: None,
        };
        self.dead_letters.range(from..to)
    }

    /// A destination's state.
    #[must_use]
    pub fn destination(&self, number: DestinationNumber) -> Option<&Destination> {
        self.destinations.get(usize::from(number.0))
    }

    /// Unreleased sequences.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.last_sequence.0.saturating_sub(self.watermark.0)
    }

    /// Released sequences that the slowest destination has not acknowledged.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.watermark.0.saturating_sub(self.finished_through().0)
    }

    /// The invariant for which the interface is set aside: quarantined, or about to be. Nothing is assigned, sent or
    /// accepted then.
    #[must_use]
    pub fn set_aside(&self) -> Option<&str> {
        let quarantine = self.quarantine.as_deref();
        quarantine.map_or(self.suspect, |there| Some(&there.invariant))
    }

    /// In words for a person: that it is set aside, why, and what helps.
    #[must_use]
    pub fn set_aside_text(&self) -> Option<String> {
        let invariant = self.set_aside()?;
        let sentence = crate::invariants::sentence(invariant);
        let since = match self.quarantine.as_deref() {
            Some(quarantine) => format!("since log entry {}", quarantine.log_index),
            None => "as soon as the log says so".to_owned(),
        };
        Some(format!(
            "interface {:?} is quarantined {since}: {invariant} does not hold ({sentence}). It takes nothing but reads \
             and `ordo interface repair`; see docs/quarantine.md",
            self.name
        ))
    }

    /// The stage a message is in.
    #[must_use]
    pub fn stage_name(&self, stage: StageNumber) -> &str {
        self.config
            .stages
            .get(usize::from(stage.0))
            .map_or("", |stage| stage.name.as_str())
    }

    /// A destination's name.
    #[must_use]
    pub fn destination_name(&self, destination: DestinationNumber) -> &str {
        self.config
            .destinations
            .get(usize::from(destination.0))
            .map_or("", |destination| destination.name.as_str())
    }

    pub(crate) fn touch_slot(&mut self, sequence: Sequence) {
        self.dirty.touched = Some(sequence);
        let Some(slot) = self.slot_mut(sequence) else {
            return;
        };
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.slots.push(sequence);
        }
    }

    pub(crate) fn touch_destination(&mut self, destination: DestinationNumber) {
        self.dirty.destinations |= 1 << destination.0;
    }
}

/// Bytes of header names and values.
pub(crate) fn header_bytes(headers: &[Header]) -> usize {
    headers
        .iter()
        .map(|header| header.name.len() + header.value.len())
        .sum()
}
