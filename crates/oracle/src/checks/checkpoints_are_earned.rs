//! A checkpoint moves only over what a consumer has answered, or what is not meant for it (guarantees 5 and 9).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::{Lane, Step};
use crate::name::Name;

pub(super) const SENTENCE: &str = "A checkpoint moves only over what a consumer has answered, or what is not meant for it (guarantees 5 and 9).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut answered: BTreeMap<&Name, u64> = BTreeMap::new();
    let earned = |answered: &BTreeMap<&Name, u64>, destination: &Name, checkpoint, at| {
        let through = answered.get(destination).copied().unwrap_or_default();
        let due = lane.first_due(destination, through, checkpoint + 1);
        if let Some(due) = due {
            ensure!(
                false,
                [at],
                "the checkpoint of {destination} is {checkpoint}, and nobody answered {due}"
            );
        }
        Ok(())
    };
    for step in &lane.steps {
        match *step {
            Step::Answer(number) => {
                let answer = &lane.answers[number];
                // Whatever it says, it may have taken the checkpoint past this one.
                if answer.may_count() {
                    let through = answered.entry(answer.destination).or_default();
                    *through = (*through).max(answer.sequence);
                }
            }
            Step::Granted(number) => {
                let granted = &lane.granted[number];
                earned(
                    &answered,
                    granted.destination,
                    granted.checkpoint,
                    granted.at,
                )?;
            }
            Step::Answered(number) => {
                let answer = &lane.answers[number];
                if let Some((at, _, Some(checkpoint))) = answer.answered {
                    earned(&answered, answer.destination, checkpoint, at)?;
                }
            }
            Step::Read(number) => {
                let read = &lane.reads[number];
                for (destination, standing) in &read.standing.destinations {
                    earned(&answered, destination, standing.checkpoint, read.at)?;
                }
            }
            _ => {}
        }
    }
    if let Some((at, standing)) = lane.last {
        for (destination, standing) in &standing.destinations {
            earned(&answered, destination, standing.checkpoint, at)?;
        }
    }
    Ok(())
}
