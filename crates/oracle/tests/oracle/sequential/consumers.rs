//! Grants, deliveries and answers.

use super::*;

impl Sequential {
    pub(super) fn grant(&mut self) {
        let names = self.names();
        let name = &names[self.random.random_range(0..names.len())];
        let other = self.chance(0.2);
        let destination = self.destinations.get_mut(name).unwrap();
        if destination.holder_epoch == destination.epoch && destination.epoch > 0 && !other {
            return;
        }
        // The same consumer again, after an answer that voided what it had, or another.
        if other || destination.epoch == 0 || destination.holder_epoch == destination.epoch {
            destination.holder = 1 - destination.holder;
            destination.epoch += 1;
        }
        destination.holder_epoch = destination.epoch;
        destination.received = destination.checkpoint;
        let (epoch, checkpoint) = (destination.epoch, destination.checkpoint);
        let holder = destination.holder;
        // The client library does not always tell of a grant.
        if holder == 1 || self.chance(0.7) {
            let what = What::Granted {
                interface: INTERFACE.into(),
                destination: name.clone(),
                epoch,
                checkpoint,
                raw: holder == 1,
            };
            self.record(["c0", "c1"][holder], what);
        }
    }

    pub(super) fn deliver(&mut self) {
        for name in self.names() {
            let destination = &self.destinations[&name];
            if destination.epoch == 0 || destination.holder_epoch != destination.epoch {
                continue;
            }
            let from = destination.received.max(destination.checkpoint);
            let next = (from + 1..=self.watermark).find(|next| self.is_for(&name, *next));
            let Some(sequence) = next else { continue };
            let slot = &self.slots[sequence as usize - 1];
            let content = match slot.status {
                Status::Ready => Content::Message {
                    digest: slot.payload,
                    redrive_of: slot.redrive_of,
                },
                Status::Failed(cause) => Content::Skip {
                    cause,
                    dead_letter: self.letters.contains_key(&(sequence, None)),
                },
                Status::Filtered => Content::Skip {
                    cause: SkipCause::Filtered,
                    dead_letter: false,
                },
                Status::Pending => unreachable!("it is released"),
            };
            let (epoch, holder, message_id) = (destination.epoch, destination.holder, slot.id);
            self.destinations.get_mut(&name).unwrap().received = sequence;
            let what = What::Delivered {
                interface: INTERFACE.into(),
                destination: name,
                epoch,
                sequence,
                message_id,
                content,
                raw: holder == 1,
            };
            self.record(["c0", "c1"][holder], what);
        }
    }

    pub(super) fn answer(&mut self) {
        let names = self.names();
        let name = names[self.random.random_range(0..names.len())].clone();
        let destination = &self.destinations[&name];
        let (epoch, holder) = (destination.holder_epoch, destination.holder);
        let (checkpoint, received) = (destination.checkpoint, destination.received);
        if epoch != destination.epoch || received <= checkpoint {
            return;
        }
        let head = (checkpoint + 1..).find(|s| self.is_for(&name, *s)).unwrap();
        let refuse = !self.draining
            && head == checkpoint + 1
            && self.slots[head as usize - 1].status == Status::Ready
            && self.chance(0.2);
        let (sequence, kind) = if refuse {
            let kinds = [
                AnswerKind::Retry,
                AnswerKind::Reject,
                AnswerKind::Unavailable,
            ];
            (head, kinds[self.random.random_range(0..3_usize)])
        } else {
            let through = self.random.random_range(checkpoint + 1..=received);
            let seen = (checkpoint + 1..=through).rfind(|s| self.is_for(&name, *s));
            let Some(through) = seen else { return };
            (through, AnswerKind::Ack)
        };
        let actor: Name = ["c0", "c1"][holder].into();
        let call = self.call();
        let what = What::Answer {
            call,
            interface: INTERFACE.into(),
            destination: name.clone(),
            epoch,
            sequence,
            kind,
        };
        self.record(&actor, what);
        self.under_way.push(Call::Answer {
            call,
            actor,
            destination: name,
            epoch,
            sequence,
            kind,
        });
    }

    pub(super) fn apply_answer(
        &mut self,
        name: &Name,
        epoch: u64,
        sequence: u64,
        kind: AnswerKind,
    ) -> bool {
        let max = self.shape.destinations.iter().find(|d| d.name == *name);
        let max = max.unwrap().max_attempts;
        let destination = self.destinations.get_mut(name).unwrap();
        if destination.epoch != epoch {
            return false;
        }
        if kind == AnswerKind::Ack {
            if sequence > destination.checkpoint {
                destination.checkpoint = sequence;
                destination.attempts = 0;
            }
            self.release();
            return true;
        }
        if sequence != destination.checkpoint + 1 {
            return false;
        }
        destination.epoch += 1;
        if kind == AnswerKind::Unavailable {
            return true;
        }
        let (mut told, mut rejected) = (EventKind::DeliveryRetried, false);
        destination.attempts += 1;
        if kind == AnswerKind::Reject || destination.attempts >= max {
            (told, rejected) = (EventKind::DeliveryRejected, true);
            destination.checkpoint = sequence;
            destination.attempts = 0;
        }
        let slot = &mut self.slots[sequence as usize - 1];
        slot.events.push(MessageEvent {
            kind: told,
            place: name.clone(),
        });
        if rejected {
            slot.rejected.push(name.clone());
            let slot = slot.clone();
            let cause = DeadLetterCause::DeliveryRejected;
            self.bury(sequence, Some(name.clone()), None, cause, slot);
        }
        self.release();
        true
    }
}
