//! Dead letters: list, show, discard, redrive.

use super::super::{bytes_of, read_ahead};
use super::messages::{Past, history, stage_of, store_failed};
use super::{Admin, limit_of};
use ordo_core::{
    Command, DeadLetter, DeadLetterKey, DiscardDeadLetter, FailCause, Interface, RedriveDeadLetter,
    Refusal, Reply, Sequence,
};
use ordo_storage::BodyPlace;
use ordo_wire::convert::headers_to_proto;
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, DeadLetterCause, Reason};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

impl Admin {
    pub(super) async fn dead_letters(
        &self,
        request: v1::ListDeadLettersRequest,
    ) -> Result<v1::ListDeadLettersResponse, Failure> {
        let limit = limit_of(request.limit);
        // After all of that sequence's own, whatever its destinations.
        let from = DeadLetterKey {
            sequence: Sequence(request.after_sequence.saturating_add(1)),
            destination: None,
        };
        let list = move |interface: &Interface| {
            let first = interface.dead_letters.get_key_value(&from);
            let rest = interface.dead_letters.range((Excluded(from), Unbounded));
            let mut dead_letters: Vec<v1::DeadLetter> = first
                .into_iter()
                .chain(rest)
                .take(limit + 1)
                .map(|(key, letter)| letter_to_proto(interface, *key, letter))
                .collect();
            let more = dead_letters.len() > limit;
            dead_letters.truncate(limit);
            v1::ListDeadLettersResponse { dead_letters, more }
        };
        self.read_interface(&request.interface, false, move |interface, _| {
            list(interface)
        })
        .await
    }

    pub(super) async fn dead_letter(
        &self,
        request: v1::GetDeadLetterRequest,
    ) -> Result<v1::GetDeadLetterResponse, Failure> {
        let (id, destination) = self.find(&request.interface, &request.destination).await?;
        let key = DeadLetterKey {
            sequence: Sequence(request.sequence),
            destination,
        };
        let look = move |interface: &Interface| {
            let letter = interface.dead_letters.get(&key)?;
            Some((
                letter.clone(),
                letter_to_proto(interface, key, letter),
                Arc::clone(&interface.config),
            ))
        };
        let found = self
            .read_interface(&request.interface, true, move |interface, _| {
                look(interface)
            })
            .await?;
        let (letter, dead_letter, config) =
            found.ok_or_else(|| Failure::from(&Refusal::UnknownDeadLetter(key)))?;
        let place = BodyPlace {
            interface: id,
            body_of: letter.body_of,
            header_rows: letter.header_rows,
        };
        read_ahead(&self.context, &[place]).await;
        let store = &self.context.store;
        let body = store
            .body(id, letter.body_of, letter.header_rows)
            .map_err(|error| store_failed(&error))?;
        let body = body.ok_or_else(|| Failure::from(&Refusal::UnknownDeadLetter(key)))?;
        let rows = store
            .events(id, key.sequence)
            .map_err(|error| store_failed(&error))?;
        Ok(v1::GetDeadLetterResponse {
            dead_letter: Some(dead_letter),
            headers: headers_to_proto(&body.headers),
            payload: body.payload,
            events: history(&Past::of_letter(&letter), &config, true, rows),
        })
    }

    pub(super) async fn discard(
        &self,
        request: v1::DiscardDeadLetterRequest,
    ) -> Result<v1::DiscardDeadLetterResponse, Failure> {
        let (interface, destination) = self.find(&request.interface, &request.destination).await?;
        let key = DeadLetterKey {
            sequence: Sequence(request.sequence),
            destination,
        };
        self.change(Command::DiscardDeadLetter(DiscardDeadLetter {
            interface,
            key,
        }))
        .await?;
        Ok(v1::DiscardDeadLetterResponse {})
    }

    pub(super) async fn redrive(
        &self,
        request: v1::RedriveDeadLetterRequest,
    ) -> Result<v1::RedriveDeadLetterResponse, Failure> {
        let (interface, destination) = self.find(&request.interface, &request.destination).await?;
        let key = DeadLetterKey {
            sequence: Sequence(request.sequence),
            destination,
        };
        let in_place_only = request.in_place_only;
        let redrive = RedriveDeadLetter {
            interface,
            key,
            in_place_only,
        };
        match self.change(Command::RedriveDeadLetter(redrive)).await? {
            Reply::Redriven { in_place, sequence } => Ok(v1::RedriveDeadLetterResponse {
                in_place,
                sequence: sequence.0,
            }),
            other => Err(Failure::new(
                Reason::Unspecified,
                format!("a redrive was answered with {other:?}"),
            )),
        }
    }
}

fn letter_to_proto(
    interface: &Interface,
    key: DeadLetterKey,
    letter: &DeadLetter,
) -> v1::DeadLetter {
    let destination = key
        .destination
        .map(|destination| interface.destination_name(destination).to_owned());
    let cause = match letter.cause {
        FailCause::Rejected => DeadLetterCause::Rejected,
        FailCause::Attempts => DeadLetterCause::Attempts,
        FailCause::Losses => DeadLetterCause::Losses,
        FailCause::DeliveryRejected => DeadLetterCause::DeliveryRejected,
        FailCause::DeliveryAttempts => DeadLetterCause::DeliveryAttempts,
    };
    v1::DeadLetter {
        interface: interface.name.to_string(),
        sequence: key.sequence.0,
        // Past the last stage when a destination refused it.
        stage: stage_of(&interface.config, usize::from(letter.stage.0)),
        destination: destination.unwrap_or_default(),
        message_id: bytes_of(letter.message_id.0),
        cause: cause.into(),
        attempts: letter.attempts,
        losses: letter.losses,
        reason: letter.reason.clone(),
        failed_at_ms: letter.failed_at.0,
        payload_bytes: letter.payload_bytes.into(),
        redriven_as: letter.redriven_as.map_or(0, |sequence| sequence.0),
        redrive_of: letter.redrive_of.map_or(0, |key| key.sequence.0),
    }
}
