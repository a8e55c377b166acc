//! What must hold of a state, one name, one sentence and one predicate each. Run after every lump of entries in
//! tests and simulations, and when a state is loaded.

use crate::interface::{Interface, Status};
use crate::state::State;

/// Something that must hold of every interface.
#[derive(Clone, Copy)]
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub sentence: &'static str,
    /// Whether it holds.
    pub holds: fn(&Interface) -> bool,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface {interface}: {name} does not hold: {sentence}")]
pub struct Violation {
    /// The interface's name.
    pub interface: String,
    /// The invariant's name.
    pub name: &'static str,
    /// The invariant's sentence.
    pub sentence: &'static str,
}

/// Every invariant.
pub const ALL: &[Invariant] = &[
    Invariant {
        name: "checkpoint_at_most_watermark",
        sentence: "no destination has acknowledged what is not released",
        holds: |i| {
            i.destinations
                .iter()
                .all(|destination| destination.checkpoint <= i.watermark)
        },
    },
    Invariant {
        name: "watermark_at_most_last",
        sentence: "nothing is released that has no sequence",
        holds: |i| i.watermark <= i.last_sequence,
    },
    Invariant {
        name: "slots_are_the_unfinished",
        sentence: "exactly the sequences after the slowest checkpoint have a slot",
        holds: |i| i.finished_through() == i.slowest_checkpoint(),
    },
    Invariant {
        name: "released_is_final",
        sentence: "every released message has its final outcome",
        holds: |i| {
            i.slots()
                .take_while(|(sequence, _)| *sequence <= i.watermark)
                .all(|(_, s)| s.status.is_final())
        },
    },
    Invariant {
        name: "nothing_waits_on_the_dead",
        sentence: "the first unreleased message is PENDING, or FAILED while the dead letters are at their cap",
        holds: |i| match i.slot(i.watermark.next()).map(|slot| slot.status) {
            None | Some(Status::Pending) => true,
            Some(Status::Failed(_)) => i.dead_letters_full(),
            Some(Status::Ready | Status::Filtered) => false,
        },
    },
    Invariant {
        name: "pending_is_in_a_stage",
        sentence: "a message is PENDING exactly while a stage is before it, READY exactly when none is",
        holds: |i| {
            let stages = i.config.stages.len();
            i.slots().all(|(_, slot)| match slot.status {
                Status::Pending => usize::from(slot.stage.0) < stages,
                Status::Ready => usize::from(slot.stage.0) >= stages,
                Status::Failed(_) | Status::Filtered => true,
            })
        },
    },
    Invariant {
        name: "failed_has_a_dead_letter_or_was_resolved",
        sentence: "a dead letter of a stage belongs to a message that failed, or that is being redriven in place",
        holds: |i| {
            i.dead_letters
                .iter()
                .filter(|(key, _)| key.destination.is_none())
                .all(
                    |(key, letter)| match i.slot(key.sequence).map(|slot| slot.status) {
                        None | Some(Status::Failed(_)) => true,
                        Some(_) => letter.redriven_as == Some(key.sequence),
                    },
                )
        },
    },
    Invariant {
        name: "ids_are_known",
        sentence: "the id of every unfinished message is known under its sequence",
        holds: |i| {
            i.slots()
                .all(|(sequence, slot)| i.sequence_of(slot.message_id) == Some(sequence))
        },
    },
    Invariant {
        name: "dead_letters_are_counted",
        sentence: "the bytes counted are those of the dead letters, the bodies those of dead letters and redrives at the tail",
        holds: |i| {
            let bytes: u64 = i
                .dead_letters
                .values()
                .map(|letter| u64::from(letter.payload_bytes))
                .sum();
            let bodies: u32 = i.bodies.values().sum();
            let redrives = i.slots().filter(|(s, slot)| slot.body_of != *s).count();
            bytes == i.dead_letter_bytes && bodies as usize == i.dead_letters.len() + redrives
        },
    },
    Invariant {
        name: "records_have_their_hours",
        sentence: "the hours in which messages finished are those of exactly the messages that have a record",
        holds: |i| {
            let first = i.forgotten_through.next();
            i.hours.from() == (first <= i.finished_through()).then_some(first)
        },
    },
    Invariant {
        name: "redriven_once",
        sentence: "a dead letter being redriven names an unfinished message that names it",
        holds: |i| {
            i.dead_letters
                .iter()
                .all(|(key, letter)| match letter.redriven_as {
                    None => true,
                    Some(sequence) => i
                        .slot(sequence)
                        .is_some_and(|slot| slot.redrive_of.as_deref() == Some(key)),
                })
        },
    },
];

/// Checks every invariant on every interface.
///
/// # Errors
/// The first one that does not hold.
pub fn check(state: &State) -> Result<(), Violation> {
    state.interfaces().try_for_each(check_interface)
}

/// Checks every invariant on one interface.
///
/// # Errors
/// The first one that does not hold.
pub fn check_interface(interface: &Interface) -> Result<(), Violation> {
    match ALL.iter().find(|invariant| !(invariant.holds)(interface)) {
        None => Ok(()),
        Some(Invariant { name, sentence, .. }) => Err(Violation {
            interface: interface.name.to_string(),
            name,
            sentence,
        }),
    }
}
