//! `Answer`: what a consumer says to what it was sent.

use super::{Context, Failure, Lane};
use crate::command::{Answer, AnswerKind};
use crate::ids::{DeadLetterKey, DestinationNumber, Epoch, Sequence, WallTime};
use crate::interface::{Destination, FailCause, Status, Try, TryKind};
use crate::invariants::UNFINISHED;
use crate::limits::{TRIES_MAX, TRY_REASON_BYTES_MAX};
use crate::mutation::EventKind;
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

/// Stands for what a consumer did not say.
const NO_REASON: &str = "no reason given";

impl<R: Rules> Context<'_, R> {
    pub(super) fn answer(&mut self, command: Answer) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let (number, sequence) = (command.destination, command.sequence);
        lane.check_answer(number, command.epoch, sequence)?;
        match command.kind {
            AnswerKind::Ack => lane.ack(number, sequence),
            AnswerKind::Retry { after_ms, reason } => {
                lane.retry_delivery(number, sequence, after_ms, reason)?
            }
            AnswerKind::Reject { reason } => {
                lane.check_message_at_head(number, sequence)?;
                let cause = FailCause::DeliveryRejected;
                let attempts = lane.destination(number).attempts + 1;
                lane.reject_delivery(number, sequence, (cause, reason), attempts)?;
            }
            AnswerKind::Unavailable {
                after_ms,
                sent,
                reason,
            } => {
                lane.check_head(number, sequence)?;
                let kind = match sent {
                    true => TryKind::Sent,
                    false => TryKind::Unavailable,
                };
                lane.postpone(number, after_ms, kind, reason);
            }
        }
        Ok(Reply::Answered {
            checkpoint: lane.destination(number).checkpoint,
        })
    }
}

impl<R: Rules> Lane<'_, R> {
    pub(super) fn destination(&mut self, number: DestinationNumber) -> &mut Destination {
        &mut self.interface.destinations[usize::from(number.0)]
    }

    fn check_answer(
        &self,
        number: DestinationNumber,
        given: Epoch,
        sequence: Sequence,
    ) -> Result<(), Refusal> {
        let destination = self.interface.known_destination(number)?;
        if !R::holds(destination.epoch, given) || destination.holder.is_none() {
            return Err(Refusal::WrongEpoch {
                given,
                current: destination.epoch,
            });
        }
        let watermark = self.interface.watermark;
        match R::is_released(watermark, sequence) {
            true => Ok(()),
            false => Err(Refusal::NotReleased {
                given: sequence,
                watermark,
            }),
        }
    }

    fn check_head(&mut self, number: DestinationNumber, given: Sequence) -> Result<(), Refusal> {
        let head = self.destination(number).checkpoint.next();
        match R::is_head(head, given) {
            true => Ok(()),
            false => Err(Refusal::NotHead { given, head }),
        }
    }

    pub(super) fn check_message_at_head(
        &mut self,
        number: DestinationNumber,
        given: Sequence,
    ) -> Result<(), Refusal> {
        self.check_head(number, given)?;
        let status = self.interface.slot(given).map(|slot| slot.status);
        if status.is_none() {
            self.broken(UNFINISHED);
        }
        match status {
            Some(Status::Ready) => Ok(()),
            _ => Err(Refusal::SkipMarker(given)),
        }
    }

    fn ack(&mut self, number: DestinationNumber, through: Sequence) {
        let checkpoint = self.destination(number).checkpoint;
        let moved = R::checkpoint(checkpoint, through);
        if moved != checkpoint {
            self.note_repeats(number);
            self.advance(number, moved);
        }
    }

    /// The head is acknowledged: that the receiver may have had it more than once stays with its history.
    pub(super) fn note_repeats(&mut self, number: DestinationNumber) {
        let destination = self.destination(number);
        if destination.repeats == 0 {
            return;
        }
        let head = destination.checkpoint.next();
        let times = destination.repeats;
        let reason = format!("sent again {times} times; last: {}", destination.reason);
        let place = self.interface.destination_name(number).to_owned();
        self.event(head, EventKind::DeliveryRepeated, place, reason);
    }

    fn retry_delivery(
        &mut self,
        number: DestinationNumber,
        sequence: Sequence,
        after_ms: u64,
        reason: String,
    ) -> Result<(), Refusal> {
        self.check_message_at_head(number, sequence)?;
        let attempts = self.destination(number).attempts + 1;
        if attempts >= self.interface.config.destinations[usize::from(number.0)].max_attempts {
            let cause = FailCause::DeliveryAttempts;
            return self.reject_delivery(number, sequence, (cause, reason), attempts);
        }
        self.destination(number).attempts = attempts;
        let place = self.interface.destination_name(number).to_owned();
        self.event(sequence, EventKind::DeliveryRetried, place, reason.clone());
        self.postpone(number, after_ms, TryKind::Retry, reason);
        Ok(())
    }

    /// Nothing is sent for a while, and what was sent before is void.
    ///
    /// That there is a reason tells a later leader that checkpoint + 1 was tried and is to be tried alone: so there
    /// is always one.
    fn postpone(
        &mut self,
        number: DestinationNumber,
        after_ms: u64,
        kind: TryKind,
        reason: String,
    ) {
        let reason = match reason.is_empty() {
            true => NO_REASON.to_owned(),
            false => reason,
        };
        let until = self.clock.cluster_time.after_ms(after_ms);
        let at = self.clock.wall_time;
        let destination = self.destination(number);
        destination.suspended_until = until;
        destination.repeats = destination
            .repeats
            .saturating_add(u32::from(kind == TryKind::Sent));
        destination.tried(kind, at, &reason);
        destination.reason = reason;
        destination.turn = destination.turn.next();
        destination.epoch = R::next_epoch(destination.epoch);
        self.destination_changed(number);
    }

    /// The message becomes a dead letter for this destination, which goes on behind it. At the dead letters' cap the
    /// refusal changes nothing, the attempts included: they are stored only with an answer that counted.
    pub(super) fn reject_delivery(
        &mut self,
        number: DestinationNumber,
        sequence: Sequence,
        (cause, reason): (FailCause, String),
        attempts: u32,
    ) -> Result<(), Refusal> {
        if self.interface.dead_letters_full() {
            let (count, bytes) = (
                self.interface.dead_letters.len(),
                self.interface.dead_letter_bytes,
            );
            return Err(Refusal::DeadLettersFull { count, bytes });
        }
        let Some(slot) = self.interface.slot_mut(sequence) else {
            self.broken(UNFINISHED);
            return Ok(());
        };
        slot.rejected.insert(number);
        let key = DeadLetterKey {
            sequence,
            destination: Some(number),
        };
        let failure = Failure {
            cause,
            reason: reason.clone(),
        };
        self.bury(key, failure, attempts, 0);
        self.interface.touch_slot(sequence);
        let place = self.interface.destination_name(number).to_owned();
        self.event(sequence, EventKind::DeliveryRejected, place, reason);
        let destination = self.destination(number);
        destination.turn = destination.turn.next();
        destination.epoch = R::next_epoch(destination.epoch);
        self.advance(number, sequence);
        Ok(())
    }
}

impl Destination {
    /// Keeps what came of a try for people; the oldest goes.
    fn tried(&mut self, kind: TryKind, at: WallTime, reason: &str) {
        let cut = reason.floor_char_boundary(TRY_REASON_BYTES_MAX);
        if self.tries.len() == TRIES_MAX {
            self.tries.remove(0);
        }
        let reason = reason[..cut].to_owned();
        self.tries.push(Try { kind, at, reason });
    }

    /// The checkpoint moves: what was said of checkpoint + 1 is over.
    pub(crate) fn head_is_done(&mut self) {
        self.attempts = 0;
        self.repeats = 0;
        self.reason.clear();
        self.tries = Vec::new();
    }
}
