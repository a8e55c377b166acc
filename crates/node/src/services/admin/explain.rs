//! What the head of an interface waits for, in sentences.

use super::super::bytes_of;
use super::interfaces::interface_to_proto;
use super::messages::stage_of;
use super::{Admin, unknown_interface};
use crate::leader::{Glance, LineKey, Place};
use ordo_core::{Destination, DestinationNumber, Interface, InterfaceId, Sequence, Slot, Status};
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, MessageStatus};

/// What one look found, before the store is asked for the last reason.
struct Seen {
    id: InterfaceId,
    response: v1::ExplainInterfaceResponse,
    /// Which sentence is about the head, where it is to say why that is tried again.
    tried: Option<(usize, Sequence)>,
}

impl Admin {
    pub(super) async fn explain(
        &self,
        name: &str,
    ) -> Result<v1::ExplainInterfaceResponse, Failure> {
        let wall_ms = self.context.proposer.wall_ms();
        let wanted = name.to_owned();
        let look = move |glance: Glance<'_>| {
            let interface = glance.state.interface_named(&wanted)?;
            Some(look_at(interface, &glance, wall_ms))
        };
        let Seen {
            id,
            mut response,
            tried,
        } = self
            .read(false, look)
            .await?
            .ok_or_else(|| unknown_interface(name))?;
        if let Some((at, sequence)) = tried {
            let events = self.context.store.events(id, sequence);
            let events = events.map_err(|error| super::messages::store_failed(&error))?;
            if let (Some(last), Some(sentence)) = (events.last(), response.sentences.get_mut(at))
                && !last.reason.is_empty()
            {
                sentence.push_str(&format!(" (last: {})", last.reason));
            }
        }
        if let Some(why) = self.context.rooms.refusal() {
            response.sentences.push(format!("ingest is refused: {why}"));
        }
        Ok(response)
    }
}

fn look_at(interface: &Interface, glance: &Glance<'_>, wall_ms: u64) -> Seen {
    let mut response = v1::ExplainInterfaceResponse {
        interface: Some(interface_to_proto(interface, glance)),
        ..Default::default()
    };
    response.sentences.extend(interface.set_aside_text());
    let head = interface.watermark.next();
    let mut tried = None;
    match interface.slot(head) {
        None if interface.last_sequence == Sequence::ZERO => {
            response
                .sentences
                .push("nothing was ever ingested".to_owned());
        }
        None => response.sentences.push(format!(
            "everything through sequence {} is released",
            interface.watermark
        )),
        Some(slot) => {
            let since = slot.accepted_at.0 + slot.stage_times.last().copied().map_or(0, u64::from);
            response.head_waiting_ms = wall_ms.saturating_sub(since);
            response.behind = interface.window().saturating_sub(1);
            let behind = head.0.saturating_add(1)..=interface.last_sequence.0;
            let behind = behind.filter_map(|behind| interface.slot(Sequence(behind)));
            response.behind_ready = behind.filter(|slot| slot.status.is_final()).count() as u64;
            let stage = interface.stage_name(slot.stage);
            response.workers =
                u32::try_from(glance.workers_for(stage, &interface.name)).unwrap_or(u32::MAX);
            let message = head_to_proto(interface, head, slot, glance);
            tried =
                (slot.attempts > 0 || slot.losses > 0).then_some((response.sentences.len(), head));
            response
                .sentences
                .push(head_sentence(interface, slot, &message, &response));
            response.head = Some(message);
        }
    }
    response.sentences.extend(full(interface));
    if interface.config.paused {
        response
            .sentences
            .push("the interface is paused: ingest is refused and nothing is assigned".to_owned());
    }
    for (number, destination) in (0u8..).zip(&interface.destinations) {
        response.sentences.push(destination_sentence(
            interface,
            DestinationNumber(number),
            destination,
            glance,
        ));
    }
    Seen {
        id: interface.id,
        response,
        tried,
    }
}

/// Where producers are refused because too much is in the interface.
fn full(interface: &Interface) -> Option<String> {
    let (window, backlog) = (interface.window(), interface.backlog());
    let config = &interface.config;
    if backlog >= config.backlog {
        Some(format!(
            "the backlog is full: {backlog} released messages wait for the slowest destination, {} are allowed; \
             ingest is refused",
            config.backlog
        ))
    } else if window >= u64::from(config.window) {
        Some(format!(
            "the window is full: {window} sequences are not released, {} are allowed; ingest is refused",
            config.window
        ))
    } else {
        None
    }
}

fn head_to_proto(
    interface: &Interface,
    head: Sequence,
    slot: &Slot,
    glance: &Glance<'_>,
) -> v1::Message {
    let place = Place {
        interface: interface.id,
        sequence: head,
    };
    let in_hand = glance.holder_of(place).unwrap_or_default();
    let mut message = v1::Message {
        interface: interface.name.to_string(),
        sequence: head.0,
        message_id: bytes_of(slot.message_id.0),
        stage: stage_of(&interface.config, usize::from(slot.stage.0)),
        turn: slot.turn.0,
        attempts: slot.attempts.into(),
        losses: slot.losses.into(),
        payload_bytes: slot.payload_bytes.into(),
        redrive_of: slot.redrive_of.as_ref().map_or(0, |key| key.sequence.0),
        retry_in_ms: slot.not_before.0.saturating_sub(glance.cluster_time().0),
        worker: in_hand.worker,
        worked_on_ms: in_hand.worked_on_ms,
        lease_extensions: in_hand.lease_extensions,
        ..v1::Message::default()
    };
    message.set_status(match slot.status {
        Status::Pending => MessageStatus::Pending,
        Status::Ready => MessageStatus::Ready,
        Status::Failed(_) => MessageStatus::Failed,
        Status::Filtered => MessageStatus::Filtered,
    });
    message
}

/// "head is sequence 17, in stage enrich since 4.2 s: worker lab-2 has it, attempt 2 of 3; 12 behind it, 9 of them
/// done"
fn head_sentence(
    interface: &Interface,
    slot: &Slot,
    message: &v1::Message,
    response: &v1::ExplainInterfaceResponse,
) -> String {
    let stage = &message.stage;
    let limits = interface.config.stages.get(usize::from(slot.stage.0));
    let (attempts_max, losses_max) =
        limits.map_or((0, 0), |stage| (stage.max_attempts, stage.max_losses));
    let mut what = if slot.status.is_final() {
        "it failed, and the interface's dead letters are at their cap: discard or redrive some"
            .to_owned()
    } else if !message.worker.is_empty() {
        let mut what = format!("worker {} has it", message.worker);
        if message.worked_on_ms >= 1_000 {
            what.push_str(&format!(" for {}", seconds(message.worked_on_ms)));
        }
        if message.lease_extensions > 0 {
            let times = counted(message.lease_extensions.into(), "time", "times");
            what.push_str(&format!(" and extended its lease {times}"));
        }
        what
    } else if message.retry_in_ms > 0 {
        format!("it is tried again in {}", seconds(message.retry_in_ms))
    } else if response.workers == 0 {
        format!("no worker is connected for stage {stage}")
    } else {
        let workers = counted(response.workers.into(), "worker is", "workers are");
        format!("{workers} connected, and none has room for it yet")
    };
    if !slot.status.is_final() {
        what.push_str(&format!(
            ", attempt {} of {attempts_max}",
            message.attempts + 1
        ));
    }
    if message.losses > 0 {
        what.push_str(&format!(", {} of {losses_max} losses", message.losses));
    }
    let since = seconds(response.head_waiting_ms);
    let behind = match response.behind {
        0 => "nothing is behind it".to_owned(),
        behind => format!("{behind} behind it, {} of them done", response.behind_ready),
    };
    format!(
        "head is sequence {}, in stage {stage} for {since}: {what}; {behind}",
        message.sequence
    )
}

fn destination_sentence(
    interface: &Interface,
    number: DestinationNumber,
    destination: &Destination,
    glance: &Glance<'_>,
) -> String {
    let name = interface.destination_name(number);
    let waiting = interface
        .watermark
        .0
        .saturating_sub(destination.checkpoint.0);
    if waiting == 0 {
        return format!(
            "destination {name} has everything that is released, through sequence {}",
            destination.checkpoint
        );
    }
    let waits = counted(waiting, "waits", "wait");
    let suspended_ms = destination
        .suspended_until
        .0
        .saturating_sub(glance.cluster_time().0);
    let reason = if destination.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", destination.reason)
    };
    let head = destination.checkpoint.next();
    let repeats = match destination.repeats {
        0 => String::new(),
        times => format!(
            ", sequence {head} may have reached its receiver {}",
            counted(times.into(), "time", "times")
        ),
    };
    if suspended_ms > 0 {
        let attempts = match destination.attempts {
            0 => String::new(),
            attempts => format!(
                " after {}",
                counted(attempts.into(), "failed try", "failed tries")
            ),
        };
        return format!(
            "destination {name} is suspended for {} more{attempts}{repeats}{reason}; {waits}",
            seconds(suspended_ms)
        );
    }
    match &destination.holder {
        None => format!("destination {name} has no consumer; {waits}"),
        Some(holder) => {
            let in_flight = glance.in_flight(LineKey {
                interface: interface.id,
                destination: number,
            });
            format!(
                "destination {name}: consumer {} has been sent {in_flight} of them and has not acknowledged sequence \
                 {head}{repeats}; {waits}",
                holder.name
            )
        }
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
