//! What a person decides at a destination's head, and what a receiver says of a message that is settled.

use super::Admin;
use super::messages::store_failed;
use ordo_core::limits::{NOTE_CODE_BYTES_MAX, NOTE_TEXT_BYTES_MAX, NOTES_MAX};
use ordo_core::{
    Command, DestinationNumber, Epoch, EventKind, InterfaceId, NoteDelivery, Reply, ResumeDelivery,
    Sequence, SkipDelivery, Turn, note_text,
};
use ordo_wire::request::{check_bytes, destination_or_default};
use ordo_wire::status::Failure;
use ordo_wire::v1::{self, Reason};

impl Admin {
    pub(super) async fn skip(
        &self,
        request: v1::SkipDeliveryRequest,
    ) -> Result<v1::SkipDeliveryResponse, Failure> {
        let (interface, destination) = self.place(&request.interface, &request.destination).await?;
        let turn = self
            .decide(Command::SkipDelivery(SkipDelivery {
                interface,
                destination,
                sequence: Sequence(request.sequence),
                turn: Turn(request.turn),
            }))
            .await?;
        Ok(v1::SkipDeliveryResponse { turn: turn.0 })
    }

    pub(super) async fn resume(
        &self,
        request: v1::ResumeDeliveryRequest,
    ) -> Result<v1::ResumeDeliveryResponse, Failure> {
        let (interface, destination) = self.place(&request.interface, &request.destination).await?;
        let turn = self
            .decide(Command::ResumeDelivery(ResumeDelivery {
                interface,
                destination,
                turn: (request.turn != 0).then_some(Turn(request.turn)),
            }))
            .await?;
        Ok(v1::ResumeDeliveryResponse { turn: turn.0 })
    }

    /// What was noted before is not noted twice: a caller that does not know whether it was may say it again.
    pub(super) async fn note(
        &self,
        request: v1::NoteDeliveryRequest,
    ) -> Result<v1::NoteDeliveryResponse, Failure> {
        check_bytes("code", &request.code, NOTE_CODE_BYTES_MAX)?;
        check_bytes("text", &request.text, NOTE_TEXT_BYTES_MAX)?;
        if request.code.is_empty() {
            return Err(Failure::field("code", "code is empty"));
        }
        let name = destination_or_default(&request.destination);
        let (interface, destination) = self.place(&request.interface, name).await?;
        let sequence = Sequence(request.sequence);
        let _one = self.noting.lock().await;
        let said = note_text(&request.code, &request.text);
        let rows = self.context.store.events(interface, sequence);
        let rows = rows.map_err(|error| store_failed(&error))?;
        let notes: Vec<_> = rows
            .iter()
            .filter(|row| row.kind == EventKind::Noted)
            .collect();
        if notes
            .iter()
            .any(|row| row.place == name && row.reason == said)
        {
            return Ok(v1::NoteDeliveryResponse {});
        }
        if notes.len() >= NOTES_MAX {
            let text = format!("sequence {sequence} has {NOTES_MAX} notes, which is the limit");
            return Err(Failure::new(Reason::CapReached, text));
        }
        let note = NoteDelivery {
            interface,
            destination,
            sequence,
            epoch: Epoch(request.epoch),
            code: request.code,
            text: request.text,
        };
        self.change(Command::NoteDelivery(note)).await?;
        Ok(v1::NoteDeliveryResponse {})
    }

    async fn place(
        &self,
        interface: &str,
        destination: &str,
    ) -> Result<(InterfaceId, DestinationNumber), Failure> {
        let name = destination_or_default(destination);
        let (interface, number) = self.find(interface, name).await?;
        Ok((
            interface,
            number.expect("a name that is not found is refused"),
        ))
    }

    async fn decide(&self, command: Command) -> Result<Turn, Failure> {
        match self.change(command).await? {
            Reply::Decided { turn } => Ok(turn),
            other => Err(Failure::new(
                Reason::Unspecified,
                format!("a decision was answered with {other:?}"),
            )),
        }
    }
}
