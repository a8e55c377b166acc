//! An answer of an epoch that is over changes nothing, and one that is recorded has moved the checkpoint (guarantees 1 and 6).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::{AnswerKind, Verdict};
use crate::lane::{Lane, Step};

pub(super) const SENTENCE: &str = "An answer of an epoch that is over changes nothing, and one that is recorded has moved the checkpoint (guarantees 1 and 6).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut newest = BTreeMap::new();
    let note = |newest: &mut BTreeMap<_, _>, destination, epoch, at| {
        let known = newest.entry(destination).or_insert((epoch, at));
        *known = (*known).max((epoch, at));
    };
    for step in &lane.steps {
        match *step {
            Step::Granted(number) => {
                let granted = &lane.granted[number];
                note(&mut newest, granted.destination, granted.epoch, granted.at);
            }
            Step::Delivered(number) => {
                let delivered = &lane.delivered[number];
                note(
                    &mut newest,
                    delivered.destination,
                    delivered.epoch,
                    delivered.at,
                );
            }
            Step::Answer(number) => {
                let answer = &lane.answers[number];
                let Some((at, Verdict::Recorded, checkpoint)) = answer.answered else {
                    continue;
                };
                if let Some((epoch, seen)) = newest.get(answer.destination) {
                    ensure!(
                        answer.epoch >= *epoch,
                        [*seen, answer.at, at],
                        "an answer of epoch {} was recorded after epoch {epoch} was seen",
                        answer.epoch
                    );
                }
                let moved = checkpoint.is_none_or(|checkpoint| checkpoint >= answer.sequence);
                ensure!(
                    answer.kind != AnswerKind::Ack || moved,
                    [answer.at, at],
                    "the acknowledgement of {} was recorded, and left the checkpoint behind it",
                    answer.sequence
                );
            }
            _ => {}
        }
    }
    Ok(())
}
