//! The state machine's rules, one of which may be broken.

use crate::bugs::{Bug, has};
use ordo_core::{
    ClusterTime, Digest, Epoch, Rules, RunPosition, Sequence, Slot, Sound, StageNumber, Status,
    Turn,
};
use std::cell::Cell;

thread_local! {
    /// What a clock says to who reads it.
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    /// How many answers were of an epoch that is over.
    static FENCED: Cell<u64> = const { Cell::new(0) };
}

/// Sets what the machine's clock says, for a bug that reads it.
pub fn set_clock(ms: u64) {
    CLOCK.set(ms);
}

/// How many answers of this run were of an epoch that is over, before they were proposed or when they were applied.
#[must_use]
pub fn fenced() -> u64 {
    FENCED.get()
}

/// The rules, with the process's bug, if that is one of theirs.
#[derive(Clone, Copy, Debug)]
pub struct Planted;

impl Rules for Planted {
    fn time(state: ClusterTime, entry: ClusterTime) -> ClusterTime {
        match has(Bug::ApplyReadsTheClock) {
            true => ClusterTime(CLOCK.get()),
            false => Sound::time(state, entry),
        }
    }

    fn follows(last: RunPosition, new: RunPosition) -> bool {
        let same_run = (new.term, new.run) == (last.term, last.run);
        Sound::follows(last, new)
            || (has(Bug::GapSteppedOver) && same_run && new.n > last.n)
            || (has(Bug::VoidRunAccepted) && (new.term, new.run) < (last.term, last.run))
    }

    fn next_sequence(last: Sequence) -> Sequence {
        match has(Bug::SequenceLeftOut) && last.0 % 3 == 2 {
            true => last.next().next(),
            false => Sound::next_sequence(last),
        }
    }

    fn known(sequence: Option<Sequence>) -> Option<Sequence> {
        sequence.filter(|_| !has(Bug::DuplicateTakenAsNew))
    }

    fn same_payload(known: Option<Digest>, given: Digest) -> bool {
        has(Bug::ConflictTakenAsDuplicate) || Sound::same_payload(known, given)
    }

    fn names_refusal(latest: u64, given: u64) -> bool {
        has(Bug::WindowRefusalReorders) || Sound::names_refusal(latest, given)
    }

    fn remembers(finished: usize, kept_max: usize, young: bool) -> bool {
        !has(Bug::FinishedForgotten) && Sound::remembers(finished, kept_max, young)
    }

    fn is_unheard(heard: Sequence, finished: Sequence) -> bool {
        !has(Bug::FinishedForgotten) && Sound::is_unheard(heard, finished)
    }

    fn in_stage(slot: &Slot, stage: StageNumber) -> bool {
        match has(Bug::OtherStageAccepted) {
            true => slot.status == Status::Pending,
            false => Sound::in_stage(slot, stage),
        }
    }

    fn completes(entered: Turn, given: Turn) -> bool {
        has(Bug::StaleTurnAccepted) || Sound::completes(entered, given)
    }

    fn is_current(current: Turn, given: Turn) -> bool {
        has(Bug::StaleTurnAccepted) || Sound::is_current(current, given)
    }

    fn exhausted(count: u32, max: u32) -> bool {
        if has(Bug::NeverExhausted) {
            return false;
        }
        has(Bug::FailsAtFirstAttempt) || Sound::exhausted(count, max)
    }

    fn releases(status: Status, dead_letters_full: bool) -> bool {
        match status {
            Status::Pending => has(Bug::ReleasedBeforeItsTurn),
            Status::Failed(_) if has(Bug::FailedNotReleased) => false,
            status => Sound::releases(status, dead_letters_full),
        }
    }

    fn holds(current: Epoch, given: Epoch) -> bool {
        if given < current {
            FENCED.set(FENCED.get() + 1);
        }
        has(Bug::StaleEpochAccepted) || Sound::holds(current, given)
    }

    fn is_released(up_to: Sequence, given: Sequence) -> bool {
        has(Bug::AnswerBeyondReleased) || Sound::is_released(up_to, given)
    }

    fn is_head(head: Sequence, given: Sequence) -> bool {
        has(Bug::NotHeadAccepted) || Sound::is_head(head, given)
    }

    fn next_epoch(last: Epoch) -> Epoch {
        match has(Bug::EpochNotRaised) {
            true => last.max(Epoch(1)),
            false => Sound::next_epoch(last),
        }
    }

    fn checkpoint(checkpoint: Sequence, through: Sequence) -> Sequence {
        if has(Bug::CheckpointMovesBack) {
            return through;
        }
        if has(Bug::CheckpointOneTooFar) && through > checkpoint {
            return through.next();
        }
        Sound::checkpoint(checkpoint, through)
    }
}
