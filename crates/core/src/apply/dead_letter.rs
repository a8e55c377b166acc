//! `DiscardDeadLetter` and `RedriveDeadLetter`.

use super::{Context, Lane};
use crate::command::{DiscardDeadLetter, RedriveDeadLetter};
use crate::ids::{ClusterTime, DeadLetterKey, DestinationSet, MessageId, Sequence, Turn};
use crate::interface::{DeadLetter, Slot, Status};
use crate::mutation::{EventKind, Key, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;
use uuid::Uuid;

impl<R: Rules> Context<'_, R> {
    pub(super) fn discard_dead_letter(
        &mut self,
        command: &DiscardDeadLetter,
    ) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        lane.idle_dead_letter(command.key)?;
        let place = lane.place_of(command.key);
        lane.event(
            command.key.sequence,
            EventKind::Discarded,
            place,
            String::new(),
        );
        lane.remove_dead_letter(command.key);
        lane.release();
        Ok(Reply::Done)
    }

    pub(super) fn redrive_dead_letter(
        &mut self,
        command: &RedriveDeadLetter,
    ) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let key = command.key;
        let letter = lane.idle_dead_letter(key)?.clone();
        let in_place = key.destination.is_none() && key.sequence > lane.interface.watermark;
        if !in_place && command.in_place_only {
            return Err(Refusal::Released(key.sequence));
        }
        let place = lane.place_of(key);
        let sequence = if in_place {
            key.sequence
        } else {
            lane.interface.last_sequence.next()
        };
        lane.event(
            key.sequence,
            EventKind::Redriven,
            place,
            format!("as sequence {sequence}"),
        );
        lane.mark_redriven(key, sequence);
        match in_place {
            true => lane.redrive_in_place(key),
            false => lane.redrive_at_tail(key, letter),
        }
        Ok(Reply::Redriven { in_place, sequence })
    }
}

impl<R: Rules> Lane<'_, R> {
    fn idle_dead_letter(&self, key: DeadLetterKey) -> Result<&DeadLetter, Refusal> {
        let letter = self
            .interface
            .dead_letters
            .get(&key)
            .ok_or(Refusal::UnknownDeadLetter(key))?;
        match letter.redriven_as {
            None => Ok(letter),
            Some(sequence) => Err(Refusal::BeingRedriven(sequence)),
        }
    }

    fn place_of(&self, key: DeadLetterKey) -> String {
        match (key.destination, self.interface.dead_letters.get(&key)) {
            (Some(destination), _) => self.interface.destination_name(destination).to_owned(),
            (None, Some(letter)) => self.stage_name(letter.stage),
            (None, None) => String::new(),
        }
    }

    fn mark_redriven(&mut self, key: DeadLetterKey, sequence: Sequence) {
        let letter = self
            .interface
            .dead_letters
            .get_mut(&key)
            .expect("the caller has just read it");
        letter.redriven_as = Some(sequence);
        let row = Row::DeadLetter(letter.clone());
        self.put(Key::DeadLetter(self.interface.id, key), row);
    }

    /// Back under its own sequence: nothing behind it was released yet.
    fn redrive_in_place(&mut self, key: DeadLetterKey) {
        let slot = self
            .interface
            .slot_mut(key.sequence)
            .expect("what is beyond the watermark has a slot");
        slot.status = Status::Pending;
        slot.attempts = 0;
        slot.losses = 0;
        slot.not_before = ClusterTime(0);
        slot.turn = slot.turn.next();
        slot.turn_entered = slot.turn;
        slot.redrive_of = Some(Box::new(key));
        self.interface.touch_slot(key.sequence);
        self.work(key.sequence);
    }

    /// A new message, with the old one's body: only for the destinations that have not had it.
    fn redrive_at_tail(&mut self, key: DeadLetterKey, letter: DeadLetter) {
        self.interface.redrives += 1;
        let name = self.interface.redrives.to_be_bytes();
        self.append(Slot {
            message_id: MessageId(Uuid::new_v5(&letter.message_id.0, &name)),
            digest: letter.digest,
            accepted_at: letter.accepted_at,
            not_before: ClusterTime(0),
            body_of: letter.body_of,
            redrive_of: Some(Box::new(key)),
            stage_times: letter.stage_times,
            turn: Turn(1),
            turn_entered: Turn(1),
            payload_bytes: letter.payload_bytes,
            header_rows: letter.header_rows,
            header_bytes: letter.header_bytes,
            header_count: letter.header_count,
            stage: letter.stage,
            status: Status::Pending,
            attempts: 0,
            losses: 0,
            destinations: letter.destinations,
            rejected: DestinationSet::NONE,
            session: None,
            dirty: false,
        });
    }
}
