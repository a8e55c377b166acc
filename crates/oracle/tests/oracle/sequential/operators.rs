//! Reads, redrives and discards.

use super::*;

impl Sequential {
    pub(super) fn read_or_operate(&mut self) {
        let call = self.call();
        let idle: Vec<_> = self.letters.keys().cloned().collect();
        if idle.is_empty() || self.chance(0.5) {
            let interface = INTERFACE.into();
            self.record("reader", What::Reading { call, interface });
            self.under_way.push(Call::Read { call, read: None });
            return;
        }
        let (sequence, destination) = idle[self.random.random_range(0..idle.len())].clone();
        let in_place_only = self.chance(0.3);
        let deed = match self.chance(0.3) {
            true => Deed::Discard,
            false => Deed::Redrive { in_place_only },
        };
        let message_id = self.slots[sequence as usize - 1].id;
        let what = What::Operate {
            call,
            interface: INTERFACE.into(),
            sequence,
            message_id,
            destination: destination.clone(),
            deed,
        };
        self.record("operator", what);
        self.under_way.push(Call::Operate {
            call,
            sequence,
            destination,
            deed,
            result: None,
        });
    }

    pub(super) fn apply_deed(
        &mut self,
        sequence: u64,
        destination: Option<Name>,
        deed: Deed,
    ) -> OperateResult {
        let refused = |reason: &str| OperateResult::Refused {
            reason: reason.into(),
        };
        let key = (sequence, destination);
        let letter = match self.letters.get(&key) {
            None => return refused("REASON_UNKNOWN_DEAD_LETTER"),
            Some(letter) if letter.redriven_as > 0 => return refused("REASON_BEING_REDRIVEN"),
            Some(letter) => letter.clone(),
        };
        let Deed::Redrive { in_place_only } = deed else {
            self.letters.remove(&key);
            return OperateResult::Discarded;
        };
        let in_place = key.1.is_none() && sequence > self.watermark;
        if in_place_only && !in_place {
            return refused("REASON_RELEASED");
        }
        let sequence = if in_place {
            self.letters.get_mut(&key).unwrap().redriven_as = sequence;
            let slot = &mut self.slots[sequence as usize - 1];
            slot.status = Status::Pending;
            slot.turn += 1;
            slot.entered = slot.turn;
            (slot.attempts, slot.losses) = (0, 0);
            slot.redrive_of = sequence;
            sequence
        } else {
            self.redrives += 1;
            let tail = self.slots.len() as u64 + 1;
            self.letters.get_mut(&key).unwrap().redriven_as = tail;
            let named = key
                .1
                .clone()
                .map(|name| vec![name])
                .or(letter.slot.named.clone());
            self.append(Slot {
                id: Uuid::new_v5(&letter.slot.id, &self.redrives.to_be_bytes()),
                stage: letter.stage.unwrap_or(self.shape.stages.len()),
                turn: 1,
                entered: 1,
                attempts: 0,
                losses: 0,
                status: Status::Pending,
                named,
                redrive_of: key.0,
                rejected: Vec::new(),
                events: Vec::new(),
                ..letter.slot
            })
        };
        OperateResult::Redriven { in_place, sequence }
    }
}
