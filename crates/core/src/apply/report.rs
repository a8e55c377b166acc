//! `Report` and `Loss`: what came of an assignment.

use super::{Context, Failure, Lane};
use crate::command::{Header, Loss, Outcome, Report};
use crate::ids::{ClusterTime, DestinationNumber, DestinationSet, Sequence, StageNumber, Turn};
use crate::interface::{FailCause, Slot, Status, header_bytes};
use crate::invariants::{IN_A_STAGE, UNFINISHED};
use crate::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use crate::mutation::{EventKind, Key, PayloadRow, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;
use bytes::Bytes;

impl<R: Rules> Context<'_, R> {
    pub(super) fn report(&mut self, command: Report) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let (sequence, stage, turn) = (command.sequence, command.stage, command.turn);
        match command.outcome {
            Outcome::Complete {
                payload,
                headers,
                destinations,
            } => {
                let from = lane.reported(sequence, stage, turn)?.turn_entered;
                lane.accepts(R::completes(from, turn), stage, turn)?;
                lane.complete(sequence, payload, headers, &destinations)?;
            }
            Outcome::Retry { reason, jitter } => {
                lane.current(sequence, stage, turn)?;
                lane.retry(sequence, reason, jitter);
            }
            Outcome::Reject { reason } => {
                lane.current(sequence, stage, turn)?;
                lane.reject(sequence, reason);
            }
            Outcome::Filter { reason } => {
                lane.current(sequence, stage, turn)?;
                lane.filter(sequence, reason);
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn loss(&mut self, command: Loss) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        lane.current(command.sequence, command.stage, command.turn)?;
        lane.lose(command.sequence, command.reason);
        Ok(Reply::Done)
    }
}

impl<R: Rules> Lane<'_, R> {
    /// The slot a report is about, if it is PENDING in that stage and the turn has been.
    fn reported(
        &self,
        sequence: Sequence,
        stage: StageNumber,
        turn: Turn,
    ) -> Result<&Slot, Refusal> {
        let interface = &*self.interface;
        if sequence == Sequence::ZERO || sequence > interface.last_sequence {
            return Err(Refusal::UnknownSequence(sequence, interface.last_sequence));
        }
        if usize::from(stage.0) >= interface.config.stages.len() {
            return Err(Refusal::UnknownStage(stage.0));
        }
        let slot = interface
            .slot(sequence)
            .filter(|slot| R::in_stage(slot, stage) && turn <= slot.turn);
        slot.ok_or(Refusal::Stale {
            given: turn,
            stage: stage.0,
        })
    }

    fn accepts(&self, accepted: bool, stage: StageNumber, given: Turn) -> Result<(), Refusal> {
        match accepted {
            true => Ok(()),
            false => Err(Refusal::Stale {
                given,
                stage: stage.0,
            }),
        }
    }

    fn current(&self, sequence: Sequence, stage: StageNumber, turn: Turn) -> Result<(), Refusal> {
        let current = self.reported(sequence, stage, turn)?.turn;
        self.accepts(R::is_current(current, turn), stage, turn)
    }

    fn complete(
        &mut self,
        sequence: Sequence,
        payload: Option<Bytes>,
        headers: Vec<Header>,
        destinations: &[DestinationNumber],
    ) -> Result<(), Refusal> {
        let configured = self.interface.destinations.len();
        if let Some(unknown) = destinations
            .iter()
            .find(|number| usize::from(number.0) >= configured)
        {
            return Err(Refusal::UnknownDestination(unknown.0));
        }
        let (id, stages) = (self.interface.id, self.interface.config.stages.len());
        let wall = self.clock.wall_time.0;
        let Some(slot) = self.interface.slot_mut(sequence) else {
            self.broken(UNFINISHED);
            return Ok(());
        };
        let count = usize::from(slot.header_count) + headers.len();
        let bytes = usize::from(slot.header_bytes) + header_bytes(&headers);
        if count > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            return Err(Refusal::HeadersFull { count, bytes });
        }
        let (body_of, row) = (slot.body_of, slot.stage.0 + 1);
        if !headers.is_empty() {
            slot.header_count = u8::try_from(count).expect("checked against the limit");
            slot.header_bytes = u16::try_from(bytes).expect("checked against the limit");
            slot.header_rows |= 1 << row;
        }
        if let Some(payload) = &payload {
            slot.payload_bytes =
                u32::try_from(payload.len()).expect("a payload is within its limit when proposed");
        }
        if !destinations.is_empty() {
            slot.destinations = destinations.iter().copied().collect::<DestinationSet>();
        }
        slot.stage_times
            .push(u32::try_from(wall.saturating_sub(slot.accepted_at.0)).unwrap_or(u32::MAX));
        slot.stage = slot.stage.next();
        slot.attempts = 0;
        slot.losses = 0;
        slot.not_before = ClusterTime(0);
        slot.turn = slot.turn.next();
        slot.turn_entered = slot.turn;
        let ready = usize::from(slot.stage.0) == stages;
        if ready {
            slot.status = Status::Ready;
        }
        if let Some(payload) = payload {
            self.put(
                Key::Payload(id, body_of),
                Row::Payload(PayloadRow { row, payload }),
            );
        }
        if !headers.is_empty() {
            self.put(Key::Headers(id, body_of, row), Row::Headers(headers));
        }
        self.interface.touch_slot(sequence);
        match ready {
            true => self.release(),
            false => self.work(sequence),
        }
        Ok(())
    }

    fn retry(&mut self, sequence: Sequence, reason: String, jitter: u16) {
        let now = self.clock.cluster_time;
        let config = std::sync::Arc::clone(&self.interface.config);
        let Some(slot) = self.interface.slot_mut(sequence) else {
            return self.broken(UNFINISHED);
        };
        let Some(stage) = config.stages.get(usize::from(slot.stage.0)) else {
            return self.broken(IN_A_STAGE);
        };
        slot.turn = slot.turn.next();
        slot.attempts += 1;
        let attempts = u32::from(slot.attempts);
        slot.not_before = now.after_ms(stage.backoff_after(attempts, jitter));
        self.event(
            sequence,
            EventKind::Retried,
            stage.name.clone(),
            reason.clone(),
        );
        self.again_or_fail(
            sequence,
            R::exhausted(attempts, stage.max_attempts),
            FailCause::Attempts,
            reason,
        );
    }

    fn lose(&mut self, sequence: Sequence, reason: String) {
        let config = std::sync::Arc::clone(&self.interface.config);
        let Some(slot) = self.interface.slot_mut(sequence) else {
            return self.broken(UNFINISHED);
        };
        let Some(stage) = config.stages.get(usize::from(slot.stage.0)) else {
            return self.broken(IN_A_STAGE);
        };
        slot.turn = slot.turn.next();
        slot.losses += 1;
        let losses = u32::from(slot.losses);
        self.event(
            sequence,
            EventKind::Lost,
            stage.name.clone(),
            reason.clone(),
        );
        self.again_or_fail(
            sequence,
            R::exhausted(losses, stage.max_losses),
            FailCause::Losses,
            reason,
        );
    }

    fn again_or_fail(
        &mut self,
        sequence: Sequence,
        exhausted: bool,
        cause: FailCause,
        reason: String,
    ) {
        match exhausted {
            true => self.fail(sequence, Failure { cause, reason }),
            false => {
                self.interface.touch_slot(sequence);
                self.work(sequence);
            }
        }
    }

    fn reject(&mut self, sequence: Sequence, reason: String) {
        let Some(slot) = self.interface.slot_mut(sequence) else {
            return self.broken(UNFINISHED);
        };
        slot.turn = slot.turn.next();
        slot.attempts += 1;
        let stage = slot.stage;
        self.event(
            sequence,
            EventKind::Rejected,
            self.stage_name(stage),
            reason.clone(),
        );
        self.fail(
            sequence,
            Failure {
                cause: FailCause::Rejected,
                reason,
            },
        );
    }

    fn filter(&mut self, sequence: Sequence, reason: String) {
        let Some(slot) = self.interface.slot_mut(sequence) else {
            return self.broken(UNFINISHED);
        };
        slot.turn = slot.turn.next();
        slot.status = Status::Filtered;
        let stage = slot.stage;
        self.event(
            sequence,
            EventKind::Filtered,
            self.stage_name(stage),
            reason,
        );
        self.interface.touch_slot(sequence);
        self.release();
    }
}
