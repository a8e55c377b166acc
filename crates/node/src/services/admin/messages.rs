//! One message's whole history.

use super::super::bytes_of;
use super::interfaces::destination_to_proto;
use super::{Admin, unknown_interface};
use crate::context::Context;
use crate::leader::{Glance, InHand, Place};
use ordo_core::{
    DeadLetter, Destination, DestinationNumber, EventKind, EventRow, Interface, InterfaceConfig,
    InterfaceId, MessageId, Record, Sequence, Slot, Status,
};
use ordo_storage::StoreError;
use ordo_wire::convert::headers_to_proto;
use ordo_wire::request::uuid_of;
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, MessageEventKind, MessageStatus, Reason};
use std::sync::Arc;

/// What the state knows of a message; the rest is in the store.
struct Known {
    interface: InterfaceId,
    config: Arc<InterfaceConfig>,
    config_version: u64,
    sequence: Sequence,
    last: Sequence,
    released: bool,
    /// While it is not done for every destination.
    slot: Option<Slot>,
    letter: Option<DeadLetter>,
    retry_in_ms: u64,
    in_hand: InHand,
    /// The destinations whose checkpoint + 1 it is.
    waiting: Vec<v1::DestinationState>,
    applied_index: u64,
}

impl Admin {
    pub(super) async fn message(
        &self,
        request: v1::GetMessageRequest,
    ) -> Result<v1::GetMessageResponse, Failure> {
        let name = request.interface;
        let wanted = match (request.sequence, request.message_id.is_empty()) {
            (0, true) => {
                return Err(Failure::field(
                    "sequence",
                    "neither sequence nor message_id is given",
                ));
            }
            (0, false) => Wanted::Id(MessageId(uuid_of("message_id", &request.message_id)?)),
            (sequence, true) => Wanted::Sequence(Sequence(sequence)),
            (_, false) => {
                return Err(Failure::field(
                    "message_id",
                    "both sequence and message_id are given",
                ));
            }
        };
        let by_name = name.clone();
        let look = move |glance: Glance<'_>| {
            let interface = glance.state.interface_named(&by_name)?;
            Some(known(interface, wanted, &glance))
        };
        let found = self
            .read(request.stale_ok, look)
            .await?
            .ok_or_else(|| unknown_interface(&name))?;
        let known = found.ok_or_else(|| {
            let text = match wanted {
                Wanted::Sequence(sequence) => {
                    format!("interface {name:?} has no sequence {sequence}")
                }
                Wanted::Id(id) => {
                    format!("interface {name:?} does not know message_id {id}, or no longer")
                }
            };
            Failure::new(Reason::UnknownMessage, text)
        })?;
        let message = describe(&self.context, &name, &known)?;
        Ok(v1::GetMessageResponse {
            message: Some(message),
            applied_index: known.applied_index,
        })
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Sequence(Sequence),
    Id(MessageId),
}

fn known(interface: &Interface, wanted: Wanted, glance: &Glance<'_>) -> Option<Known> {
    let sequence = match wanted {
        Wanted::Sequence(sequence) => sequence,
        Wanted::Id(id) => interface.sequence_of(id)?,
    };
    if sequence == Sequence::ZERO || sequence > interface.last_sequence {
        return None;
    }
    let slot = interface.slot(sequence).cloned();
    let retry_in_ms = slot.as_ref().map_or(0, |slot| {
        slot.not_before.0.saturating_sub(glance.cluster_time().0)
    });
    let place = Place {
        interface: interface.id,
        sequence,
    };
    let waits = |destination: &Destination| {
        slot.is_some()
            && destination.checkpoint.next() == sequence
            && sequence <= interface.watermark
    };
    let waiting = (0u8..).zip(&interface.destinations);
    let waiting = waiting.filter(|(_, destination)| waits(destination));
    let waiting = waiting.map(|(number, destination)| {
        destination_to_proto(interface, DestinationNumber(number), destination, glance)
    });
    let waiting = waiting.collect();
    Some(Known {
        interface: interface.id,
        config: Arc::clone(&interface.config),
        config_version: interface.config_version,
        sequence,
        last: interface.last_sequence,
        released: sequence <= interface.watermark,
        slot,
        letter: interface
            .dead_letters_of(sequence)
            .next()
            .map(|(_, letter)| letter.clone()),
        retry_in_ms,
        in_hand: glance.holder_of(place).unwrap_or_default(),
        waiting,
        applied_index: glance.applied_index,
    })
}

fn describe(context: &Context, name: &str, known: &Known) -> Result<v1::Message, Failure> {
    let rows = context
        .store
        .events(known.interface, known.sequence)
        .map_err(|error| store_failed(&error))?;
    let mut message = v1::Message {
        interface: name.to_owned(),
        sequence: known.sequence.0,
        released: known.released,
        retry_in_ms: known.retry_in_ms,
        worker: known.in_hand.worker.clone(),
        worked_on_ms: known.in_hand.worked_on_ms,
        lease_extensions: known.in_hand.lease_extensions,
        waiting: known.waiting.clone(),
        ..v1::Message::default()
    };
    match &known.slot {
        Some(slot) => {
            describe_slot(&mut message, slot, &known.config);
            message.headers = headers(context, known.interface, slot.body_of, slot.header_rows)?;
            message.events = history(&Past::of_slot(slot), &known.config, true, rows);
        }
        None => {
            let record = context
                .store
                .record(known.interface, known.sequence)
                .map_err(|error| store_failed(&error))?;
            let Some(record) = record else {
                let text = format!(
                    "sequence {} of interface {name:?} (the last one is {}) is done, and its record is no longer kept",
                    known.sequence, known.last
                );
                return Err(Failure::new(Reason::UnknownMessage, text));
            };
            describe_record(&mut message, &record, &known.config);
            let same = record.config_version == known.config_version;
            message.events = history(
                &Past::of_record(&record, &known.config),
                &known.config,
                same,
                rows,
            );
        }
    }
    if let Some(letter) = &known.letter {
        message.attempts = letter.attempts;
        message.losses = letter.losses;
        message.stage = stage_of(&known.config, usize::from(letter.stage.0));
        message.headers = headers(context, known.interface, letter.body_of, letter.header_rows)?;
    }
    Ok(message)
}

fn describe_slot(message: &mut v1::Message, slot: &Slot, config: &InterfaceConfig) {
    let status = match slot.status {
        Status::Pending => MessageStatus::Pending,
        Status::Ready => MessageStatus::Ready,
        Status::Failed(_) => MessageStatus::Failed,
        Status::Filtered => MessageStatus::Filtered,
    };
    message.message_id = bytes_of(slot.message_id.0);
    message.set_status(status);
    message.stage = stage_of(config, usize::from(slot.stage.0));
    message.turn = slot.turn.0;
    message.attempts = slot.attempts.into();
    message.losses = slot.losses.into();
    message.payload_bytes = slot.payload_bytes.into();
    message.redrive_of = slot.redrive_of.as_ref().map_or(0, |key| key.sequence.0);
}

fn describe_record(message: &mut v1::Message, record: &Record, config: &InterfaceConfig) {
    message.message_id = bytes_of(record.message_id.0);
    message.set_status(match was_delivered(record, config) {
        true => MessageStatus::Delivered,
        false => MessageStatus::Skipped,
    });
    message.payload_bytes = record.payload_bytes.into();
    message.redrive_of = record.redrive_of.map_or(0, |key| key.sequence.0);
}

/// Whether a destination took it: one that all of them refused was not delivered.
fn was_delivered(record: &Record, config: &InterfaceConfig) -> bool {
    let took = |number| {
        let number = DestinationNumber(number);
        record.destinations.contains(number) && !record.rejected.contains(number)
    };
    record.status == Status::Ready && (0u8..).zip(&config.destinations).any(|(n, _)| took(n))
}

/// What of a message's past stands in its slot, record or dead letter.
pub(super) struct Past<'a> {
    accepted_at: u64,
    stage_times: &'a [u32],
    /// When it was done for every destination, and as what.
    finished: Option<(u64, MessageEventKind)>,
}

impl<'a> Past<'a> {
    fn of_slot(slot: &'a Slot) -> Self {
        Self {
            accepted_at: slot.accepted_at.0,
            stage_times: &slot.stage_times,
            finished: None,
        }
    }

    fn of_record(record: &'a Record, config: &InterfaceConfig) -> Self {
        let kind = match was_delivered(record, config) {
            true => MessageEventKind::Delivered,
            false => MessageEventKind::Skipped,
        };
        let finished = Some((record.finished_at.0, kind));
        Self {
            accepted_at: record.accepted_at.0,
            stage_times: &record.stage_times,
            finished,
        }
    }

    pub(super) fn of_letter(letter: &'a DeadLetter) -> Self {
        Self {
            accepted_at: letter.accepted_at.0,
            stage_times: &letter.stage_times,
            finished: None,
        }
    }
}

/// Everything that happened to a message, oldest first. Stage numbers have their names where `named`.
pub(super) fn history(
    past: &Past<'_>,
    config: &InterfaceConfig,
    named: bool,
    rows: Vec<EventRow>,
) -> Vec<v1::MessageEvent> {
    let event =
        |kind: MessageEventKind, at_ms: u64, place: String, reason: String| v1::MessageEvent {
            kind: kind.into(),
            at_ms,
            place,
            reason,
        };
    let stage = |number: usize| {
        if named {
            stage_of(config, number)
        } else {
            format!("stage {}", number + 1)
        }
    };
    let done = past
        .finished
        .map(|(at_ms, kind)| event(kind, at_ms, String::new(), String::new()));
    let mut events: Vec<v1::MessageEvent> = rows
        .into_iter()
        .map(|row| event(kind_of(row.kind), row.at.0, row.place, row.reason))
        .chain(past.stage_times.iter().enumerate().map(|(number, after)| {
            event(
                MessageEventKind::Completed,
                past.accepted_at + u64::from(*after),
                stage(number),
                String::new(),
            )
        }))
        .chain(done)
        .collect();
    // Within a millisecond the rows stand in the log's order, and what ends a message's way follows them.
    events.sort_by_key(|event| (event.at_ms, how_late(event.kind())));
    events.insert(
        0,
        event(
            MessageEventKind::Accepted,
            past.accepted_at,
            String::new(),
            String::new(),
        ),
    );
    events
}

/// Which of the events of one millisecond come after the others.
const fn how_late(kind: MessageEventKind) -> u8 {
    match kind {
        MessageEventKind::Delivered | MessageEventKind::Skipped => 1,
        // Nearly always of a message that was skipped before, or delivered.
        MessageEventKind::Discarded | MessageEventKind::Noted => 2,
        _ => 0,
    }
}

const fn kind_of(kind: EventKind) -> MessageEventKind {
    match kind {
        EventKind::Retried => MessageEventKind::Retried,
        EventKind::Rejected => MessageEventKind::Rejected,
        EventKind::Filtered => MessageEventKind::Filtered,
        EventKind::Lost => MessageEventKind::Lost,
        EventKind::Redriven => MessageEventKind::Redriven,
        EventKind::DeliveryRetried => MessageEventKind::DeliveryRetried,
        EventKind::DeliveryRejected => MessageEventKind::DeliveryRejected,
        EventKind::Discarded => MessageEventKind::Discarded,
        EventKind::Noted => MessageEventKind::Noted,
        EventKind::DeliveryRepeated => MessageEventKind::DeliveryRepeated,
    }
}

pub(super) fn stage_of(config: &InterfaceConfig, number: usize) -> String {
    config
        .stages
        .get(number)
        .map(|stage| stage.name.clone())
        .unwrap_or_default()
}

fn headers(
    context: &Context,
    interface: InterfaceId,
    body_of: Sequence,
    header_rows: u64,
) -> Result<Vec<v1::Header>, Failure> {
    let body = context
        .store
        .body(interface, body_of, header_rows)
        .map_err(|error| store_failed(&error))?;
    // Gone in the meantime: then there is nothing to show.
    Ok(body
        .map(|body| headers_to_proto(&body.headers))
        .unwrap_or_default())
}

pub(super) fn store_failed(error: &StoreError) -> Failure {
    Failure::new(Reason::Unspecified, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ordo_core::WallTime;

    fn row(kind: EventKind, at: u64) -> EventRow {
        EventRow {
            kind,
            at: WallTime(at),
            place: String::new(),
            reason: String::new(),
        }
    }

    fn kinds(finished_at: u64, rows: Vec<EventRow>) -> Vec<MessageEventKind> {
        let past = Past {
            accepted_at: 10,
            stage_times: &[5],
            finished: Some((finished_at, MessageEventKind::Skipped)),
        };
        let events = history(&past, &InterfaceConfig::default(), true, rows);
        events.iter().map(v1::MessageEvent::kind).collect()
    }

    #[test]
    fn a_history_is_told_oldest_first() {
        use MessageEventKind::{Accepted, Completed, Discarded, Rejected, Retried, Skipped};
        let rows = || {
            vec![
                row(EventKind::Retried, 12),
                row(EventKind::Rejected, 20),
                row(EventKind::Discarded, 40),
            ]
        };
        let told = [Accepted, Retried, Completed, Rejected, Skipped, Discarded];
        assert_eq!(kinds(30, rows()), told);
        assert_eq!(kinds(20, rows()), told, "skipped at once");
        assert_eq!(kinds(40, rows()), told, "discarded at once");
        let unreleased = [Accepted, Retried, Completed, Rejected, Discarded, Skipped];
        assert_eq!(kinds(50, rows()), unreleased);
    }
}
