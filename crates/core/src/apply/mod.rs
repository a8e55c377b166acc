//! One file per command; here is the choice between them and what they share.

mod answer;
mod dead_letter;
mod delivery;
mod forget;
mod grant;
mod ingest;
mod interface;
mod quarantine;
mod remember;
mod report;

pub use delivery::note_text;
pub(crate) use remember::Totals;

use crate::command::Command;
use crate::effect::Effect;
use crate::ids::{DeadLetterKey, DestinationNumber, InterfaceId, Sequence, StageNumber};
use crate::interface::{DeadLetter, FailCause, Interface};
use crate::invariants::{COUNTED, UNFINISHED};
use crate::mutation::{ClockRow, EventKind, EventRow, Key, Mutation, Row};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;
use crate::state::State;
use std::marker::PhantomData;

/// One command on its way through the state.
pub(crate) struct Context<'a, R> {
    state: &'a mut State,
    effects: &'a mut Vec<Effect>,
    /// The entry's place in the log and the command's in its entry: the names of its events.
    index: u64,
    n: u32,
    /// Whether ingests may be executed.
    follows: bool,
    rules: PhantomData<R>,
}

/// One interface, with what a command needs beside it.
pub(crate) struct Lane<'a, R> {
    pub(crate) interface: &'a mut Interface,
    pub(crate) clock: ClockRow,
    totals: &'a mut Totals,
    /// How many finished messages an interface may have known at most.
    share: u64,
    mutations: &'a mut Vec<Mutation>,
    effects: &'a mut Vec<Effect>,
    index: u64,
    n: u32,
    rules: PhantomData<R>,
}

impl<'a, R: Rules> Context<'a, R> {
    pub(crate) fn new(
        state: &'a mut State,
        effects: &'a mut Vec<Effect>,
        index: u64,
        n: u32,
        follows: bool,
    ) -> Self {
        Self {
            state,
            effects,
            index,
            n,
            follows,
            rules: PhantomData,
        }
    }

    pub(crate) fn run(&mut self, command: Command) -> Reply {
        let id = command.interface();
        let reply = match command {
            Command::Ingest(command) => self.ingest(command),
            Command::RefuseIngest(command) => self.refuse_ingest(command),
            Command::Report(command) => self.report(command),
            Command::Loss(command) => self.loss(command),
            Command::Grant(command) => self.grant(command),
            Command::GrantEnd(command) => self.grant_end(&command),
            Command::Answer(command) => self.answer(command),
            Command::CreateInterface(command) => self.create_interface(command),
            Command::UpdateInterface(command) => self.update_interface(command),
            Command::DiscardDeadLetter(command) => self.discard_dead_letter(&command),
            Command::RedriveDeadLetter(command) => self.redrive_dead_letter(&command),
            Command::ForgetFinished(command) => self.forget_finished(&command),
            Command::QuarantineInterface(command) => self.quarantine_interface(command),
            Command::RepairInterface(command) => self.repair_interface(&command),
            Command::SkipDelivery(command) => self.skip_delivery(&command),
            Command::ResumeDelivery(command) => self.resume_delivery(&command),
            Command::NoteDelivery(command) => self.note_delivery(command),
        };
        let reply = self.left_whole(id).and(reply);
        reply.unwrap_or_else(Reply::Refused)
    }

    /// An interface that takes commands.
    fn lane(&mut self, id: InterfaceId) -> Result<Lane<'_, R>, Refusal> {
        let lane = self.any_lane(id)?;
        match lane.interface.quarantine.as_deref() {
            None => Ok(lane),
            Some(quarantine) => Err(quarantine.refusal()),
        }
    }

    /// An interface, be it quarantined.
    fn any_lane(&mut self, id: InterfaceId) -> Result<Lane<'_, R>, Refusal> {
        let share = self.state.totals.share(self.state.interfaces.len());
        let interface = self
            .state
            .interfaces
            .get_mut(&id)
            .ok_or(Refusal::UnknownInterface(id))?;
        if !interface.dirty.listed {
            interface.dirty.listed = true;
            self.state.dirty.push(id);
        }
        Ok(Lane {
            interface,
            clock: self.state.clock,
            totals: &mut self.state.totals,
            share,
            mutations: &mut self.state.mutations,
            effects: self.effects,
            index: self.index,
            n: self.n,
            rules: PhantomData,
        })
    }
}

/// Why a message fails now.
pub(crate) struct Failure {
    pub(crate) cause: FailCause,
    pub(crate) reason: String,
}

impl<R: Rules> Lane<'_, R> {
    pub(crate) fn put(&mut self, key: Key, row: Row) {
        self.mutations.push(Mutation::Put(key, row));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.mutations.push(Mutation::Delete(key));
    }

    /// Something that the command relies on is missing: it goes no further, and the interface is quarantined.
    pub(crate) fn broken(&mut self, invariant: &'static str) {
        self.interface.dirty.broken.get_or_insert(invariant);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn work(&mut self, sequence: Sequence) {
        let interface = self.interface.id;
        self.effect(Effect::Work {
            interface,
            sequence,
        });
    }

    pub(crate) fn destination_changed(&mut self, destination: DestinationNumber) {
        self.interface.touch_destination(destination);
        let interface = self.interface.id;
        self.effect(Effect::Destination {
            interface,
            destination,
        });
    }

    /// Writes down something out of the ordinary. A command writes at most one event about a sequence.
    pub(crate) fn event(
        &mut self,
        sequence: Sequence,
        kind: EventKind,
        place: String,
        reason: String,
    ) {
        let row = EventRow {
            kind,
            at: self.clock.wall_time,
            place,
            reason,
        };
        let key = Key::Event(self.interface.id, sequence, self.index, self.n);
        self.put(key, Row::Event(row));
    }

    /// Fails a PENDING message for good: it becomes a dead letter, and a skip marker once it is released.
    pub(crate) fn fail(&mut self, sequence: Sequence, failure: Failure) {
        let Some(slot) = self.interface.slot_mut(sequence) else {
            return self.broken(UNFINISHED);
        };
        slot.status = crate::Status::Failed(failure.cause);
        let (attempts, losses) = (u32::from(slot.attempts), u32::from(slot.losses));
        let key = DeadLetterKey {
            sequence,
            destination: None,
        };
        self.bury(key, failure, attempts, losses);
        self.interface.touch_slot(sequence);
        self.release();
    }

    /// Keeps an unfinished message that failed, in the place of the dead letter that it redrove.
    pub(crate) fn bury(
        &mut self,
        key: DeadLetterKey,
        failure: Failure,
        attempts: u32,
        losses: u32,
    ) {
        let failed_at = self.clock.wall_time;
        let Some(slot) = self.interface.slot(key.sequence) else {
            return self.broken(UNFINISHED);
        };
        let old = slot.redrive_of.as_deref().copied();
        let letter = DeadLetter {
            message_id: slot.message_id,
            digest: slot.digest,
            stage: slot.stage,
            cause: failure.cause,
            attempts,
            losses,
            reason: failure.reason,
            accepted_at: slot.accepted_at,
            failed_at,
            destinations: key.destination.map_or(slot.destinations, |destination| {
                [destination].into_iter().collect()
            }),
            body_of: slot.body_of,
            payload_bytes: slot.payload_bytes,
            header_rows: slot.header_rows,
            header_bytes: slot.header_bytes,
            header_count: slot.header_count,
            stage_times: slot.stage_times.clone(),
            redriven_as: None,
            redrive_of: old,
        };
        self.insert_dead_letter(key, letter);
        if let Some(old) = old.filter(|old| *old != key) {
            self.remove_dead_letter(old);
        }
    }

    /// A dead letter under the same key, which this one's message redrove, is replaced.
    fn insert_dead_letter(&mut self, key: DeadLetterKey, letter: DeadLetter) {
        let interface = &mut *self.interface;
        interface.dead_letter_bytes += u64::from(letter.payload_bytes);
        interface.need_body(letter.body_of);
        let id = interface.id;
        let replaced = interface.dead_letters.insert(key, letter.clone());
        self.put(Key::DeadLetter(id, key), Row::DeadLetter(letter));
        if let Some(replaced) = replaced {
            self.let_go(&replaced);
        }
    }

    /// Removes a dead letter that is resolved or replaced; its body goes when nobody else needs it.
    pub(crate) fn remove_dead_letter(&mut self, key: DeadLetterKey) {
        let Some(letter) = self.interface.dead_letters.remove(&key) else {
            return;
        };
        let id = self.interface.id;
        self.delete(Key::DeadLetter(id, key));
        self.let_go(&letter);
        let gone = self
            .interface
            .dead_letters_of(key.sequence)
            .next()
            .is_none();
        if !gone {
            return;
        }
        let sequence = key.sequence;
        if self.interface.slot(sequence).is_none() && self.interface.unheard(sequence).is_none() {
            self.interface.forget_id(letter.message_id, key.sequence);
        }
        if key.sequence <= self.interface.forgotten_through {
            self.mutations.push(Mutation::Forget {
                interface: id,
                from: key.sequence,
                through: key.sequence,
            });
        }
    }

    /// A dead letter no longer counts, nor needs its body.
    fn let_go(&mut self, letter: &DeadLetter) {
        let bytes = u64::from(letter.payload_bytes);
        match self.interface.dead_letter_bytes.checked_sub(bytes) {
            Some(left) => self.interface.dead_letter_bytes = left,
            None => self.broken(COUNTED),
        }
        self.let_go_of_body(letter.body_of, letter.header_rows);
    }

    /// One less needs a body that is counted.
    pub(crate) fn let_go_of_body(&mut self, body_of: Sequence, header_rows: u64) {
        let bodies = &mut self.interface.bodies;
        let Some(count) = bodies.get_mut(&body_of) else {
            return self.broken(COUNTED);
        };
        *count -= 1;
        if *count == 0 {
            bodies.remove(&body_of);
            self.drop_body(body_of, header_rows);
        }
    }

    /// Deletes a body unless a dead letter, a redrive at the tail or its own unfinished message needs it.
    pub(crate) fn drop_body(&mut self, body_of: Sequence, header_rows: u64) {
        if self.interface.bodies.contains_key(&body_of) || self.interface.slot(body_of).is_some() {
            return;
        }
        let id = self.interface.id;
        self.delete(Key::Payload(id, body_of));
        for row in (0u8..64).filter(|row| header_rows & (1 << row) != 0) {
            self.delete(Key::Headers(id, body_of, row));
        }
    }

    /// The stage's name, as it is called now.
    pub(crate) fn stage_name(&self, stage: StageNumber) -> String {
        self.interface.stage_name(stage).to_owned()
    }
}

impl Interface {
    /// A dead letter, or a redrive at the tail, needs a body.
    pub(crate) fn need_body(&mut self, body_of: Sequence) {
        *self.bodies.entry(body_of).or_default() += 1;
    }

    /// No longer recognises an id, unless it has been given a later sequence.
    pub(crate) fn forget_id(&mut self, message_id: crate::MessageId, sequence: Sequence) {
        if self.known.get(&message_id) == Some(&sequence) {
            self.known.remove(&message_id);
        }
    }

    /// Whether the dead letters are at their cap: then nothing that failed is released, rather than one be lost.
    #[must_use]
    pub fn dead_letters_full(&self) -> bool {
        self.dead_letters.len() > self.config.dead_letters_max as usize
            || self.dead_letter_bytes > self.config.dead_letter_bytes_max
    }
}
