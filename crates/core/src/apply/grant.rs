//! `Grant` and `GrantEnd`: who may receive.

use super::Context;
use crate::command::{Grant, GrantEnd};
use crate::ids::{ClusterTime, DestinationNumber, Incarnation, Sequence};
use crate::interface::{Destination, Holder, Interface};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

impl<R: Rules> Context<'_, R> {
    pub(super) fn grant(&mut self, command: Grant) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let number = command.destination;
        let checkpoint = lane.interface.known_destination(number)?.checkpoint;
        if let Some((incarnation, sequence)) = command.position {
            lane.interface.check_position(incarnation, sequence)?;
            if sequence > checkpoint {
                lane.note_repeats(number);
                lane.advance(number, sequence);
            }
        }
        let destination = &mut lane.interface.destinations[usize::from(number.0)];
        destination.epoch = R::next_epoch(destination.epoch);
        destination.holder = Some(Holder {
            consumer: command.consumer,
            name: command.name,
        });
        let reply = Reply::Granted {
            epoch: destination.epoch,
            checkpoint: destination.checkpoint,
        };
        lane.destination_changed(number);
        Ok(reply)
    }

    pub(super) fn grant_end(&mut self, command: &GrantEnd) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let destination = lane.interface.known_destination(command.destination)?;
        if destination.epoch == command.epoch && destination.holder.is_some() {
            lane.interface.destinations[usize::from(command.destination.0)].holder = None;
            lane.destination_changed(command.destination);
        }
        Ok(Reply::Done)
    }
}

impl Interface {
    pub(super) fn known_destination(
        &self,
        number: DestinationNumber,
    ) -> Result<&Destination, Refusal> {
        self.destination(number)
            .ok_or(Refusal::UnknownDestination(number.0))
    }

    fn check_position(&self, incarnation: Incarnation, sequence: Sequence) -> Result<(), Refusal> {
        if incarnation != self.incarnation {
            let text = format!(
                "of incarnation {incarnation}; the interface's is {}",
                self.incarnation
            );
            return Err(Refusal::Position(text));
        }
        match sequence <= self.watermark {
            true => Ok(()),
            false => Err(Refusal::Position(format!(
                "{sequence}, beyond the release watermark {}",
                self.watermark
            ))),
        }
    }
}

impl Destination {
    /// Whether something may be sent at `now`.
    #[must_use]
    pub fn is_open(&self, now: ClusterTime) -> bool {
        self.holder.is_some() && self.suspended_until <= now
    }
}
