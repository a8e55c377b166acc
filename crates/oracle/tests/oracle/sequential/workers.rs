//! Work is handed out, reported and lost.

use super::*;

impl Sequential {
    pub(super) fn assign(&mut self) {
        let held = |holds: &Vec<(Name, u64, usize, u32, Digest)>, sequence, turn| {
            holds
                .iter()
                .any(|hold| hold.1 == sequence && hold.3 == turn)
        };
        let pending: Vec<u64> = (self.watermark + 1..=self.slots.len() as u64)
            .filter(|sequence| {
                let slot = &self.slots[*sequence as usize - 1];
                slot.status == Status::Pending && !held(&self.holds, *sequence, slot.turn)
            })
            .collect();
        if pending.is_empty() {
            return;
        }
        let sequence = pending[self.random.random_range(0..pending.len())];
        let slot = self.slots[sequence as usize - 1].clone();
        let worker = ["w0", "w1"][self.random.random_range(0..2_usize)];
        self.record(
            worker,
            What::Assigned {
                interface: INTERFACE.into(),
                sequence,
                message_id: slot.id,
                stage: self.shape.stages[slot.stage].name.clone(),
                turn: slot.turn,
                attempts: slot.attempts,
                digest: slot.payload,
            },
        );
        self.holds
            .push((worker.into(), sequence, slot.stage, slot.turn, slot.payload));
    }

    pub(super) fn report(&mut self) {
        if self.holds.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.holds.len());
        let (actor, sequence, stage, turn, _) = self.holds[index].clone();
        // Some report twice.
        if self.draining || self.chance(0.8) {
            self.holds.swap_remove(index);
        }
        let fate = if self.draining {
            0
        } else {
            self.random.random_range(0..10)
        };
        let kind = match fate {
            0..=3 => ReportKind::Complete {
                digest: None,
                destinations: Vec::new(),
            },
            4 => ReportKind::Complete {
                digest: Some(self.digest()),
                destinations: Vec::new(),
            },
            5 => ReportKind::Complete {
                digest: None,
                destinations: vec![self.shape.destinations[0].name.clone()],
            },
            6 | 7 => ReportKind::Retry,
            8 => ReportKind::Reject,
            _ => ReportKind::Filter,
        };
        let call = self.call();
        self.record(
            &actor.clone(),
            What::Report {
                call,
                interface: INTERFACE.into(),
                sequence,
                stage: self.shape.stages[stage].name.clone(),
                turn,
                kind: kind.clone(),
            },
        );
        self.under_way.push(Call::Report {
            call,
            actor,
            sequence,
            stage,
            turn,
            kind,
        });
    }

    pub(super) fn lose(&mut self) {
        if self.holds.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.holds.len());
        let (_, sequence, stage, turn, _) = self.holds[index];
        let max = self.shape.stages[stage].max_losses;
        let place = self.shape.stages[stage].name.clone();
        let slot = &mut self.slots[sequence as usize - 1];
        if slot.status != Status::Pending || slot.turn != turn {
            return;
        }
        slot.turn += 1;
        slot.losses += 1;
        slot.events.push(MessageEvent {
            kind: EventKind::Lost,
            place,
        });
        if slot.losses >= max {
            self.fail(sequence, SkipCause::Losses, DeadLetterCause::Losses);
        }
    }

    pub(super) fn apply_report(
        &mut self,
        sequence: u64,
        stage: usize,
        turn: u32,
        kind: ReportKind,
    ) -> bool {
        let (max, place) = {
            let stage = &self.shape.stages[stage];
            (stage.max_attempts, stage.name.clone())
        };
        let stages = self.shape.stages.len();
        let slot = &mut self.slots[sequence as usize - 1];
        let complete = matches!(kind, ReportKind::Complete { .. });
        let accepted = slot.status == Status::Pending
            && slot.stage == stage
            && turn <= slot.turn
            && if complete {
                turn >= slot.entered
            } else {
                turn == slot.turn
            };
        if !accepted {
            return false;
        }
        slot.turn += 1;
        let event = |kind| MessageEvent {
            kind,
            place: place.clone(),
        };
        match kind {
            ReportKind::Complete {
                digest,
                destinations,
            } => {
                slot.payload = digest.unwrap_or(slot.payload);
                if !destinations.is_empty() {
                    slot.named = Some(destinations);
                }
                slot.entered = slot.turn;
                slot.stage += 1;
                (slot.attempts, slot.losses) = (0, 0);
                if slot.stage == stages {
                    slot.status = Status::Ready;
                }
            }
            ReportKind::Retry => {
                slot.attempts += 1;
                slot.events.push(event(EventKind::Retried));
                if slot.attempts >= max {
                    self.fail(sequence, SkipCause::Attempts, DeadLetterCause::Attempts);
                }
            }
            ReportKind::Reject => {
                slot.events.push(event(EventKind::Rejected));
                self.fail(sequence, SkipCause::Rejected, DeadLetterCause::Rejected);
            }
            ReportKind::Filter => {
                slot.events.push(event(EventKind::Filtered));
                slot.status = Status::Filtered;
            }
        }
        self.release();
        true
    }
}
