//! `SkipDelivery`, `ResumeDelivery` and `NoteDelivery`: what a person decides at a destination's head, and what a receiver
//! says when its message is settled already.

use super::{Context, Lane};
use crate::command::{NoteDelivery, ResumeDelivery, SkipDelivery};
use crate::ids::{DestinationNumber, Turn};
use crate::interface::FailCause;
use crate::mutation::EventKind;
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

/// The reason that a message has which a person gave up.
const GIVEN_UP: &str = "given up for this destination by a person";

impl<R: Rules> Context<'_, R> {
    pub(super) fn skip_delivery(&mut self, command: &SkipDelivery) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let (number, sequence) = (command.destination, command.sequence);
        lane.check_turn(number, command.turn)?;
        let watermark = lane.interface.watermark;
        if !R::is_released(watermark, sequence) {
            return Err(Refusal::NotReleased {
                given: sequence,
                watermark,
            });
        }
        lane.check_message_at_head(number, sequence)?;
        let failure = (FailCause::DeliveryRejected, GIVEN_UP.to_owned());
        let attempts = lane.destination(number).attempts;
        lane.reject_delivery(number, sequence, failure, attempts)?;
        let turn = lane.destination(number).turn;
        Ok(Reply::Decided { turn })
    }

    /// A destination that is not paused stays as it is, and so does what was sent to it.
    pub(super) fn resume_delivery(&mut self, command: &ResumeDelivery) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let number = command.destination;
        let current = lane.interface.known_destination(number)?.turn;
        lane.check_turn(number, command.turn.unwrap_or(current))?;
        let now = lane.clock.cluster_time;
        let destination = lane.destination(number);
        if destination.suspended_until <= now {
            return Ok(Reply::Decided { turn: current });
        }
        destination.suspended_until = now;
        destination.turn = current.next();
        destination.epoch = R::next_epoch(destination.epoch);
        lane.destination_changed(number);
        let turn = current.next();
        Ok(Reply::Decided { turn })
    }

    /// How many notes a message has stands in the store only, where the leader looks before it proposes.
    pub(super) fn note_delivery(&mut self, command: NoteDelivery) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let (number, sequence) = (command.destination, command.sequence);
        let destination = lane.interface.known_destination(number)?;
        let (checkpoint, current) = (destination.checkpoint, destination.epoch);
        if command.epoch > current {
            let given = command.epoch;
            return Err(Refusal::WrongEpoch { given, current });
        }
        if sequence > checkpoint {
            let given = sequence;
            return Err(Refusal::NotAcknowledged { given, checkpoint });
        }
        let has_letter = lane.interface.dead_letters_of(sequence).next().is_some();
        if sequence <= lane.interface.forgotten_through && !has_letter {
            return Err(Refusal::Forgotten(sequence));
        }
        let place = lane.interface.destination_name(number).to_owned();
        let said = note_text(&command.code, &command.text);
        lane.event(sequence, EventKind::Noted, place, said);
        Ok(Reply::Done)
    }
}

/// A note as it stands in a message's history.
#[must_use]
pub fn note_text(code: &str, text: &str) -> String {
    match text.is_empty() {
        true => code.to_owned(),
        false => format!("{code}: {text}"),
    }
}

impl<R: Rules> Lane<'_, R> {
    /// Of two decisions only the first counts.
    fn check_turn(&self, number: DestinationNumber, given: Turn) -> Result<(), Refusal> {
        let current = self.interface.known_destination(number)?.turn;
        match given == current {
            true => Ok(()),
            false => Err(Refusal::StaleDecision { given, current }),
        }
    }
}
