//! Release: what follows from a message's outcome for those behind it.

use crate::apply::Lane;
use crate::effect::Effect;
use crate::ids::{DestinationNumber, Sequence};
use crate::interface::{Interface, Slot, Status};
use crate::invariants::UNFINISHED;
use crate::mutation::{Key, Record, Row};
use crate::rules::Rules;
use crate::state::destination_number;

/// Room for unfinished messages that an interface keeps when it has none.
const SLOTS_KEPT: usize = 8;

impl<R: Rules> Lane<'_, R> {
    /// Moves the watermark over every outcome that is final, and the checkpoints over what is not meant for them.
    ///
    /// A message that this finishes may resolve a dead letter, which may make room for a FAILED one at the head.
    pub(crate) fn release(&mut self) {
        while self.raise_watermark() {
            let id = self.interface.id;
            self.effect(Effect::Released { interface: id });
            for number in 0..self.interface.destinations.len() {
                self.pass_over(destination_number(number));
            }
            self.finish();
        }
    }

    /// Whether it moved.
    fn raise_watermark(&mut self) -> bool {
        let interface = &mut *self.interface;
        let before = interface.watermark;
        while let Some(slot) = interface.slot(interface.watermark.next()) {
            if !R::releases(slot.status, interface.dead_letters_full()) {
                break;
            }
            match slot.status {
                Status::Failed(_) => interface.failed += 1,
                Status::Filtered => interface.filtered += 1,
                Status::Pending | Status::Ready => {}
            }
            interface.watermark = interface.watermark.next();
        }
        interface.watermark != before
    }

    /// Everything through `through`, which is released, is done for a destination.
    pub(crate) fn advance(&mut self, number: DestinationNumber, through: Sequence) {
        let from = self.interface.destinations[usize::from(number.0)].checkpoint;
        let (mut delivered, mut skipped) = (0, 0);
        for sequence in from.0 + 1..=through.0 {
            let Some(slot) = self.interface.slot(Sequence(sequence)) else {
                return self.broken(UNFINISHED);
            };
            match (slot.destinations.contains(number), slot.status) {
                (false, _) => {}
                (true, Status::Ready) if !slot.rejected.contains(number) => delivered += 1,
                (true, _) => skipped += 1,
            }
        }
        let now = self.clock.cluster_time;
        let destination = &mut self.interface.destinations[usize::from(number.0)];
        destination.checkpoint = through;
        destination.delivered += delivered;
        destination.skipped += skipped;
        destination.suspended_until = destination.suspended_until.min(now);
        destination.head_is_done();
        self.pass_over(number);
        self.destination_changed(number);
        self.finish();
        self.release();
    }

    /// Moves a checkpoint over released sequences that are meant for other destinations only.
    fn pass_over(&mut self, number: DestinationNumber) {
        let interface = &mut *self.interface;
        let before = interface.destinations[usize::from(number.0)].checkpoint;
        let mut checkpoint = before;
        while checkpoint < interface.watermark {
            let Some(slot) = interface.slot(checkpoint.next()) else {
                return self.broken(UNFINISHED);
            };
            if slot.destinations.contains(number) {
                break;
            }
            checkpoint = checkpoint.next();
        }
        if checkpoint != before {
            interface.destinations[usize::from(number.0)].checkpoint = checkpoint;
            self.destination_changed(number);
        }
    }

    /// Lets go of the messages that every destination is done with.
    pub(crate) fn finish(&mut self) {
        let through = self.interface.slowest_checkpoint();
        while self.interface.finished_through() < through {
            let sequence = self.interface.finished_through().next();
            let Some(slot) = self.interface.slots.pop_front() else {
                return self.broken(UNFINISHED);
            };
            self.finish_one(sequence, slot);
        }
        // Most interfaces are at rest most of the time: what a burst took is given back.
        let slots = &mut self.interface.slots;
        if slots.capacity() > SLOTS_KEPT && slots.len() < slots.capacity() / 4 {
            slots.shrink_to((slots.len() * 2).max(SLOTS_KEPT));
        }
    }

    fn finish_one(&mut self, sequence: Sequence, slot: Slot) {
        let id = self.interface.id;
        self.remember(sequence, &slot);
        if let Some(redriven) = slot.redrive_of.as_deref() {
            // A redrive that failed has replaced its dead letter already, under this key or another.
            let resolved = self
                .interface
                .dead_letters
                .get(redriven)
                .is_some_and(|l| l.redriven_as == Some(sequence));
            if resolved {
                self.remove_dead_letter(*redriven);
            }
        }
        match slot.body_of == sequence {
            true => self.drop_body(sequence, slot.header_rows),
            false => self.let_go_of_body(slot.body_of, slot.header_rows),
        }
        self.delete(Key::Slot(id, sequence));
        let record = Record {
            message_id: slot.message_id,
            digest: slot.digest,
            status: slot.status,
            destinations: slot.destinations,
            rejected: slot.rejected,
            config_version: self.interface.config_version,
            accepted_at: slot.accepted_at,
            stage_times: slot.stage_times,
            finished_at: self.clock.wall_time,
            finished: self.clock.cluster_time,
            redrive_of: slot.redrive_of.map(|key| *key),
            payload_bytes: slot.payload_bytes,
            session: slot.session,
            derived: slot.body_of != sequence,
        };
        self.put(Key::Record(id, sequence), Row::Record(record));
    }
}

impl Interface {
    /// The checkpoint of the slowest destination.
    #[must_use]
    pub fn slowest_checkpoint(&self) -> Sequence {
        self.destinations
            .iter()
            .map(|destination| destination.checkpoint)
            .min()
            .unwrap_or(self.watermark)
    }
}
