//! What holds of every history. Each check has a file, a name and a sentence that cites the guarantee it guards.
//!
//! Checks assume nothing of a call whose outcome is unknown: it may have happened at any time since it was begun, or
//! never. So a check finds only what no correct cluster could have shown.

mod answers_are_fenced;
mod checkpoints_are_earned;
mod effects_happen_once;
mod endings_agree;
mod epochs_only_grow;
mod every_call_in_its_time;
mod everything_ends;
mod failures_were_reported;
mod id_has_one_payload;
mod id_has_one_sequence;
mod late_reports_change_nothing;
mod no_gaps;
mod nothing_is_invented;
mod nothing_unlawful;
mod numbers_are_dense;
mod one_outcome;
mod producer_order;
mod reads_are_fresh;
mod reads_make_sense;
mod refused_leaves_nothing;
mod sequence_has_one_message;
mod skips_have_causes;
mod stage_has_one_payload;
mod strictly_next;
mod what_is_done_stays_done;

use std::fmt;

use crate::history::{History, What};
use crate::lane::{Lane, index};
use crate::name::Name;

/// Whether everything had ended when the history did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It stops somewhere: what was not seen may yet come.
    Cut,
    /// Everything healed, everything was given time to end, and the final state was read.
    Healed,
}

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name, that of its file.
    pub name: &'static str,
    /// What holds, and the number of the guarantee.
    pub sentence: &'static str,
    /// It holds of histories whose run healed and drained only.
    pub healed_only: bool,
    run: fn(&Lane<'_>) -> Result<(), Seen>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("sentence", &self.sentence)
            .finish_non_exhaustive()
    }
}

/// What a check saw that must not be, and the places to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    text: String,
    events: Vec<usize>,
}

impl Seen {
    fn new(text: impl Into<String>, events: impl IntoIterator<Item = usize>) -> Self {
        Self {
            text: text.into(),
            events: events.into_iter().collect(),
        }
    }
}

/// `Err` with what was seen, unless it holds.
macro_rules! ensure {
    ($holds:expr, [$($at:expr),* $(,)?], $($text:tt)+) => {
        if !$holds {
            return Err($crate::checks::Seen::new(format!($($text)+), [$($at),*]));
        }
    };
}
use ensure;

macro_rules! checks {
    ($($module:ident),* $(,)?) => {
        &[$(Check {
            name: stringify!($module),
            sentence: $module::SENTENCE,
            healed_only: $module::HEALED_ONLY,
            run: $module::check,
        }),*]
    };
}

/// Every check.
pub const ALL: &[Check] = checks![
    sequence_has_one_message,
    no_gaps,
    id_has_one_sequence,
    id_has_one_payload,
    refused_leaves_nothing,
    producer_order,
    numbers_are_dense,
    every_call_in_its_time,
    nothing_is_invented,
    stage_has_one_payload,
    late_reports_change_nothing,
    strictly_next,
    what_is_done_stays_done,
    epochs_only_grow,
    answers_are_fenced,
    one_outcome,
    skips_have_causes,
    failures_were_reported,
    checkpoints_are_earned,
    effects_happen_once,
    reads_make_sense,
    reads_are_fresh,
    nothing_unlawful,
    endings_agree,
    everything_ends,
];

/// The name of the violation of a history that can't be judged at all.
pub const UNREADABLE: &str = "history";

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The check's name.
    pub check: &'static str,
    /// What should hold.
    pub sentence: &'static str,
    /// Where; None where the history itself is at fault.
    pub interface: Option<Name>,
    /// What was seen.
    pub seen: String,
    /// Indexes of the events to look at.
    pub events: Vec<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.sentence)?;
        match &self.interface {
            Some(interface) => write!(f, "\n  seen on {interface}: {}", self.seen),
            None => write!(f, "\n  seen: {}", self.seen),
        }
    }
}

impl Violation {
    /// The violation with the events to look at, and the last `around` faults before the last of them: for people.
    #[must_use]
    pub fn show(&self, history: &History, around: usize) -> String {
        let last = self.events.iter().max().copied().unwrap_or_default();
        let is_fault = |at: &usize| matches!(history.events[*at].what, What::Fault { .. });
        let through = last.min(history.events.len().saturating_sub(1));
        let mut shown: Vec<_> = (0..=through)
            .rev()
            .filter(|at| history.events.get(*at).is_some() && is_fault(at))
            .take(around)
            .chain(self.events.iter().copied())
            .collect();
        shown.sort_unstable();
        shown.dedup();
        let mut text = self.to_string();
        for at in shown {
            if let Some(event) = history.events.get(at) {
                let line = serde_json::to_string(event).unwrap_or_default();
                text.push_str(&format!("\n  {at:>7} {line}"));
            }
        }
        text
    }
}

/// Judges a history: at most one violation of each check on each interface, in the order of [`ALL`].
#[must_use]
pub fn check(history: &History, completeness: Completeness) -> Vec<Violation> {
    let lanes = match index(history) {
        Ok(lanes) => lanes,
        Err(unreadable) => {
            return vec![Violation {
                check: UNREADABLE,
                sentence: "a history names what it uses, and answers each call once",
                interface: None,
                seen: unreadable.text,
                events: vec![unreadable.at],
            }];
        }
    };
    let due = |check: &&Check| !check.healed_only || completeness == Completeness::Healed;
    let mut violations = Vec::new();
    for check in ALL.iter().filter(due) {
        for (name, lane) in &lanes {
            if let Err(seen) = (check.run)(lane) {
                violations.push(Violation {
                    check: check.name,
                    sentence: check.sentence,
                    interface: Some(name.clone()),
                    seen: seen.text,
                    events: seen.events,
                });
            }
        }
    }
    violations
}
