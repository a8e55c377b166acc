//! What must hold of a state: one name, one sentence and one predicate each.
//!
//! After every command those are looked at that cost next to nothing, of the one interface and the one message that the
//! command was about: where one does not hold, apply quarantines the interface. All of them are looked at, of
//! everything, when a state is loaded, before a quarantine is lifted, and after every lump of entries in tests and
//! simulations.

use crate::ids::{DeadLetterKey, Sequence};
use crate::interface::{DeadLetter, Interface, Slot, Status};
use crate::state::State;
use smallvec::SmallVec;

/// Something that must hold of every interface.
#[derive(Clone, Copy)]
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub sentence: &'static str,
    /// Of what it says it, and whether it holds.
    pub holds: Predicate,
}

/// Of what an invariant speaks, which decides when it is looked at.
#[derive(Clone, Copy)]
pub enum Predicate {
    /// Of an interface's counters and destinations: after every command.
    Counters(fn(&Interface) -> bool),
    /// Of each unfinished message: after every command, of the message that it changed and of the one released last.
    Message(fn(&Interface, Sequence, &Slot) -> bool),
    /// Of each unfinished message's id: apply sees it where it gives an id to a message, in the one look-up that it
    /// needs there in any case.
    Id(fn(&Interface, Sequence, &Slot) -> bool),
    /// Of each dead letter: after every command, of those of the message that it changed.
    DeadLetter(fn(&Interface, &DeadLetterKey, &DeadLetter) -> bool),
    /// Of a sum over everything: only when everything is looked at.
    Sum(fn(&Interface) -> bool),
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

/// Apply goes no further where a message is missing that this says is there.
pub(crate) const UNFINISHED: &str = "slots_are_the_unfinished";
/// Apply gives no message an id that another one has.
pub(crate) const KNOWN: &str = "ids_are_known";
/// Apply goes no further where a count is missing that this says is there.
pub(crate) const COUNTED: &str = "dead_letters_are_counted";
/// Apply goes no further where a stage is missing that this says is there.
pub(crate) const IN_A_STAGE: &str = "pending_is_in_a_stage";
/// A repair releases what is left to be released.
pub(crate) const WAITS: &str = "nothing_waits_on_the_dead";

/// Every invariant. The last two are those that hold again once what is due is done, where all others hold.
pub const ALL: &[Invariant] = &[
    Invariant {
        name: "checkpoint_at_most_watermark",
        sentence: "no destination has acknowledged what is not released",
        holds: Predicate::Counters(|i| {
            i.destinations
                .iter()
                .all(|destination| destination.checkpoint <= i.watermark)
        }),
    },
    Invariant {
        name: "watermark_at_most_last",
        sentence: "nothing is released that has no sequence",
        holds: Predicate::Counters(|i| i.watermark <= i.last_sequence),
    },
    Invariant {
        name: "released_is_final",
        sentence: "every released message has its final outcome",
        holds: Predicate::Message(|i, sequence, slot| {
            sequence > i.watermark || slot.status.is_final()
        }),
    },
    Invariant {
        name: IN_A_STAGE,
        sentence: "a message is PENDING exactly while a stage is before it, READY exactly when none is",
        holds: Predicate::Message(|i, _, slot| {
            let stages = i.config.stages.len();
            match slot.status {
                Status::Pending => usize::from(slot.stage.0) < stages,
                Status::Ready => usize::from(slot.stage.0) >= stages,
                Status::Failed(_) | Status::Filtered => true,
            }
        }),
    },
    Invariant {
        name: KNOWN,
        sentence: "the id of every unfinished message is known under its sequence",
        holds: Predicate::Id(|i, sequence, slot| i.sequence_of(slot.message_id) == Some(sequence)),
    },
    Invariant {
        name: "failed_has_a_dead_letter_or_was_resolved",
        sentence: "a dead letter of a stage belongs to a message that failed, or that is being redriven in place",
        holds: Predicate::DeadLetter(|i, key, letter| {
            if key.destination.is_some() {
                return true;
            }
            match i.slot(key.sequence).map(|slot| slot.status) {
                None | Some(Status::Failed(_)) => true,
                Some(_) => letter.redriven_as == Some(key.sequence),
            }
        }),
    },
    Invariant {
        name: "redriven_once",
        sentence: "a dead letter being redriven names an unfinished message that names it",
        holds: Predicate::DeadLetter(|i, key, letter| match letter.redriven_as {
            None => true,
            Some(sequence) => i
                .slot(sequence)
                .is_some_and(|slot| slot.redrive_of.as_deref() == Some(key)),
        }),
    },
    Invariant {
        name: COUNTED,
        sentence: "the bytes counted are those of the dead letters, the bodies those of dead letters and redrives at the tail",
        holds: Predicate::Sum(|i| {
            let bytes: u64 = i
                .dead_letters
                .values()
                .map(|letter| u64::from(letter.payload_bytes))
                .sum();
            let bodies: u32 = i.bodies.values().sum();
            let redrives = i.slots().filter(|(s, slot)| slot.body_of != *s).count();
            bytes == i.dead_letter_bytes && bodies as usize == i.dead_letters.len() + redrives
        }),
    },
    Invariant {
        name: "records_have_their_hours",
        sentence: "the hours in which messages finished are those of exactly the messages that have a record",
        holds: Predicate::Counters(|i| {
            let first = i.forgotten_through.next();
            i.hours.from() == (first <= i.finished_through()).then_some(first)
        }),
    },
    Invariant {
        name: UNFINISHED,
        sentence: "exactly the sequences after the slowest checkpoint have a slot",
        holds: Predicate::Counters(|i| {
            let slots = i.slots.len() as u64;
            i.slowest_checkpoint().0.checked_add(slots) == Some(i.last_sequence.0)
        }),
    },
    Invariant {
        name: WAITS,
        sentence: "the first unreleased message is PENDING, or FAILED while the dead letters are at their cap",
        holds: Predicate::Counters(
            |i| match i.slot(i.watermark.next()).map(|slot| slot.status) {
                None | Some(Status::Pending) => true,
                Some(Status::Failed(_)) => i.dead_letters_full(),
                Some(Status::Ready | Status::Filtered) => false,
            },
        ),
    },
];

impl Invariant {
    /// Whether it holds of everything there is.
    fn holds(&self, interface: &Interface) -> bool {
        match self.holds {
            Predicate::Counters(holds) | Predicate::Sum(holds) => holds(interface),
            Predicate::Message(holds) | Predicate::Id(holds) => interface
                .slots()
                .all(|(sequence, slot)| holds(interface, sequence, slot)),
            Predicate::DeadLetter(holds) => interface
                .dead_letters
                .iter()
                .all(|(key, letter)| holds(interface, key, letter)),
        }
    }

    /// Whether it holds as far as a command can have broken it that changed these.
    fn holds_after(&self, interface: &Interface, touched: &Touched<'_>) -> bool {
        match self.holds {
            Predicate::Counters(holds) => holds(interface),
            Predicate::Message(holds) => {
                let mut messages = touched.messages.iter().flatten();
                messages.all(|&(sequence, slot)| holds(interface, sequence, slot))
            }
            Predicate::DeadLetter(holds) => {
                let mut letters = touched.letters.iter();
                letters.all(|(key, letter)| holds(interface, key, letter))
            }
            Predicate::Id(_) | Predicate::Sum(_) => true,
        }
    }
}

/// What a command may have changed of an interface, looked up once.
struct Touched<'a> {
    /// The message that it changed, and the one released last.
    messages: [Option<(Sequence, &'a Slot)>; 2],
    /// Those of the message that it changed.
    letters: SmallVec<[(&'a DeadLetterKey, &'a DeadLetter); 2]>,
}

/// What the invariant called `name` says.
#[must_use]
pub fn sentence(name: &str) -> &'static str {
    find(name).map_or("a rule that this version does not know", |invariant| {
        invariant.sentence
    })
}

/// The first invariant that a command has broken that changed this message, or none.
pub(crate) fn broken_after_a_command(
    interface: &Interface,
    touched: Option<Sequence>,
) -> Option<&'static str> {
    let message = |sequence| Some((sequence, interface.slot(sequence)?));
    let letters = touched.filter(|_| !interface.dead_letters.is_empty());
    let touched = Touched {
        messages: [touched.and_then(message), message(interface.watermark)],
        letters: letters
            .into_iter()
            .flat_map(|sequence| interface.dead_letters_of(sequence))
            .collect(),
    };
    let mut all = ALL.iter();
    let broken = all.find(|invariant| !invariant.holds_after(interface, &touched))?;
    Some(broken.name)
}

/// Checks every invariant on every interface, and that none is quarantined.
///
/// # Errors
/// The first one that does not hold.
pub fn check(state: &State) -> Result<(), Violation> {
    state.interfaces().try_for_each(|interface| {
        check_interface(interface)?;
        let quarantine = interface.quarantine.as_deref();
        let broken = quarantine.and_then(|there| find(&there.invariant));
        broken.map_or(Ok(()), |invariant| Err(invariant.violated(interface)))
    })
}

/// Checks every invariant on one interface.
///
/// # Errors
/// The first one that does not hold.
pub fn check_interface(interface: &Interface) -> Result<(), Violation> {
    match ALL.iter().find(|invariant| !invariant.holds(interface)) {
        None => Ok(()),
        Some(invariant) => Err(invariant.violated(interface)),
    }
}

fn find(name: &str) -> Option<&'static Invariant> {
    ALL.iter().find(|invariant| invariant.name == name)
}

impl Invariant {
    fn violated(&self, interface: &Interface) -> Violation {
        Violation {
            interface: interface.name.to_string(),
            name: self.name,
            sentence: self.sentence,
        }
    }
}
