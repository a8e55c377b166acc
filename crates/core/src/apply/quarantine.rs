//! Quarantine: an interface in which an invariant does not hold is set aside as it stands, on every replica alike
//! (guarantee 14), until a repair finds that all of them hold.

use super::{Context, Lane};
use crate::command::{QuarantineInterface, RepairInterface};
use crate::effect::Effect;
use crate::ids::{InterfaceId, MessageId, Sequence};
use crate::interface::{Interface, Quarantine, Slot};
use crate::invariants::{self, UNFINISHED, WAITS};
use crate::mutation::{Key, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;

impl<R: Rules> Context<'_, R> {
    /// Looks at what a command left behind: the invariants that cost next to nothing to look at.
    ///
    /// # Errors
    /// When one does not hold: the interface is quarantined, and this is the answer whatever the command came to.
    pub(super) fn left_whole(&mut self, id: InterfaceId) -> Result<(), Refusal> {
        let Some(interface) = self.state.interfaces.get_mut(&id) else {
            return Ok(());
        };
        let (touched, broken) = (
            interface.dirty.touched.take(),
            interface.dirty.broken.take(),
        );
        if interface.quarantine.is_some() {
            return Ok(());
        }
        match broken.or_else(|| invariants::broken_after_a_command(interface, touched)) {
            None => Ok(()),
            Some(invariant) => Err(self.any_lane(id)?.quarantine(invariant.to_owned())),
        }
    }

    pub(super) fn quarantine_interface(
        &mut self,
        command: QuarantineInterface,
    ) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        lane.quarantine(command.invariant);
        Ok(Reply::Done)
    }

    /// One that is not quarantined is left as it is.
    pub(super) fn repair_interface(&mut self, command: &RepairInterface) -> Result<Reply, Refusal> {
        let mut lane = self.any_lane(command.interface)?;
        match lane.interface.quarantine.is_some() {
            true => lane.repair(),
            false => Ok(Reply::Done),
        }
    }
}

impl<R: Rules> Lane<'_, R> {
    /// Sets the interface aside. Returns what whoever asked is told.
    fn quarantine(&mut self, invariant: String) -> Refusal {
        let quarantine = Quarantine {
            invariant,
            log_index: self.index,
            at: self.clock.wall_time,
        };
        let refusal = quarantine.refusal();
        self.set_quarantine(quarantine);
        self.interface.suspect = None;
        let interface = self.interface.id;
        self.effect(Effect::Interface { interface });
        refusal
    }

    fn set_quarantine(&mut self, quarantine: Quarantine) {
        let id = self.interface.id;
        self.put(Key::Quarantine(id), Row::Quarantine(quarantine.clone()));
        self.interface.quarantine = Some(Box::new(quarantine));
    }

    /// What is derived from messages and dead letters is derived anew, and what is due by now is done. Then every
    /// invariant has to hold.
    fn repair(&mut self) -> Result<Reply, Refusal> {
        self.interface.derive();
        self.rename_redrives();
        // Only where everything else holds may what is left undone be done.
        if let Err(violation) = invariants::check_interface(self.interface)
            && [UNFINISHED, WAITS].contains(&violation.name)
        {
            self.finish();
            self.release();
        }
        if let Err(violation) = invariants::check_interface(self.interface) {
            let mut quarantine = self.interface.quarantine.as_deref().cloned();
            if let Some(quarantine) = &mut quarantine {
                violation.name.clone_into(&mut quarantine.invariant);
                self.set_quarantine(quarantine.clone());
                return Err(quarantine.refusal());
            }
        }
        let id = self.interface.id;
        self.interface.quarantine = None;
        self.delete(Key::Quarantine(id));
        self.effect(Effect::Interface { interface: id });
        self.interface.resume(self.effects);
        Ok(Reply::Done)
    }

    /// A redrive that was given an id that another message has gets another one.
    fn rename_redrives(&mut self) {
        let taken: Vec<(Sequence, MessageId)> = self
            .interface
            .slots()
            .filter(|(sequence, slot)| {
                is_derived(*sequence, slot)
                    && self.interface.sequence_of(slot.message_id) != Some(*sequence)
            })
            .map(|(sequence, slot)| (sequence, slot.message_id))
            .collect();
        for (sequence, old) in taken {
            // Where none is free the invariant goes on not to hold, and the next repair tries further ones.
            let Ok(message_id) = self.derived_id(old) else {
                return;
            };
            if let Some(slot) = self.interface.slot_mut(sequence) {
                slot.message_id = message_id;
            }
            self.interface.known.insert(message_id, sequence);
            self.interface.touch_slot(sequence);
        }
    }
}

/// Whether the system made the message.
fn is_derived(sequence: Sequence, slot: &Slot) -> bool {
    slot.body_of != sequence
}

impl Quarantine {
    /// What a command is told.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::Quarantined {
            invariant: self.invariant.clone(),
            log_index: self.log_index,
        }
    }
}

impl Interface {
    /// Derives from messages and dead letters, as they are stored, what is not stored: known ids and what counts them.
    /// Of two that have one id the one that the system did not make keeps it.
    fn derive(&mut self) {
        self.known.clear();
        self.bodies.clear();
        self.dead_letter_bytes = 0;
        let letters: Vec<_> = self
            .dead_letters
            .iter()
            .map(|(key, letter)| {
                (
                    key.sequence,
                    letter.message_id,
                    letter.body_of,
                    letter.payload_bytes,
                )
            })
            .collect();
        for (sequence, message_id, body_of, payload_bytes) in letters {
            self.known.insert(message_id, sequence);
            self.need_body(body_of);
            self.dead_letter_bytes += u64::from(payload_bytes);
        }
        for session in &self.sessions {
            for (sequence, unheard) in &session.unheard {
                self.known.insert(unheard.message_id, *sequence);
            }
        }
        let slots: Vec<_> = self
            .slots()
            .map(|(sequence, slot)| (sequence, slot.message_id, slot.body_of))
            .collect();
        for (sequence, message_id, body_of) in &slots {
            match body_of == sequence {
                true => {
                    self.known.insert(*message_id, *sequence);
                }
                false => self.need_body(*body_of),
            }
        }
        for (sequence, message_id, body_of) in slots {
            if body_of != sequence {
                self.known.entry(message_id).or_insert(sequence);
            }
        }
    }
}
