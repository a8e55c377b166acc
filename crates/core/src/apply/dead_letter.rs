//! `DiscardDeadLetter` and `RedriveDeadLetter`.

use super::{Context, Lane};
use crate::command::{DiscardDeadLetter, RedriveDeadLetter};
use crate::ids::{ClusterTime, DeadLetterKey, DestinationSet, MessageId, Sequence, Turn};
use crate::interface::{DeadLetter, Slot, Status};
use crate::invariants::{COUNTED, UNFINISHED};
use crate::limits::DERIVED_IDS_TRIED;
use crate::mutation::{EventKind, Key, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

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
        let (sequence, derived) = match in_place {
            true => (key.sequence, None),
            false => (
                lane.interface.last_sequence.next(),
                Some(lane.derived_id(letter.message_id)?),
            ),
        };
        let place = lane.place_of(key);
        lane.event(
            key.sequence,
            EventKind::Redriven,
            place,
            format!("as sequence {sequence}"),
        );
        lane.mark_redriven(key, sequence);
        match derived {
            None => lane.redrive_in_place(key),
            Some(message_id) => lane.redrive_at_tail(key, letter, message_id),
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

    /// An id for a message that the system makes of another: derived from the old one's and a count, passing over any
    /// that is known. Only so many at once: whoever sent thousands of them in advance must not hold everybody up.
    ///
    /// # Errors
    /// When all of those are known. The count has moved on all the same.
    pub(super) fn derived_id(&mut self, old: MessageId) -> Result<MessageId, Refusal> {
        for _ in 0..DERIVED_IDS_TRIED {
            self.interface.redrives += 1;
            let message_id = old.derived(self.interface.redrives);
            if R::is_free(self.interface.sequence_of(message_id)) {
                return Ok(message_id);
            }
        }
        Err(Refusal::DerivedIdsKnown(DERIVED_IDS_TRIED))
    }

    fn place_of(&self, key: DeadLetterKey) -> String {
        match (key.destination, self.interface.dead_letters.get(&key)) {
            (Some(destination), _) => self.interface.destination_name(destination).to_owned(),
            (None, Some(letter)) => self.stage_name(letter.stage),
            (None, None) => String::new(),
        }
    }

    fn mark_redriven(&mut self, key: DeadLetterKey, sequence: Sequence) {
        let Some(letter) = self.interface.dead_letters.get_mut(&key) else {
            return self.broken(COUNTED);
        };
        letter.redriven_as = Some(sequence);
        let row = Row::DeadLetter(letter.clone());
        self.put(Key::DeadLetter(self.interface.id, key), row);
    }

    /// Back under its own sequence: nothing behind it was released yet.
    fn redrive_in_place(&mut self, key: DeadLetterKey) {
        let Some(slot) = self.interface.slot_mut(key.sequence) else {
            return self.broken(UNFINISHED);
        };
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
    fn redrive_at_tail(&mut self, key: DeadLetterKey, letter: DeadLetter, message_id: MessageId) {
        self.append(Slot {
            message_id,
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
