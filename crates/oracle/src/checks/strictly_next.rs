//! Under a grant sequences arrive as checkpoint + 1, + 2 and on, without omission or repeat (guarantee 5).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::{Lane, Step};

pub(super) const SENTENCE: &str = "Under a grant sequences arrive as checkpoint + 1, + 2 and on, without omission or repeat (guarantee 5).";
pub(super) const HEALED_ONLY: bool = false;

/// What one consumer has received of one destination.
#[derive(Clone, Copy, Default)]
struct Line {
    epoch: u64,
    /// The last sequence under the epoch, or the checkpoint it began at, and where.
    last: Option<(u64, usize)>,
    /// What this consumer has acknowledged: the client library does not show it again.
    handled: u64,
}

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut lines: BTreeMap<_, Line> = BTreeMap::new();
    // What anybody has acknowledged of each destination.
    let mut acked: BTreeMap<_, u64> = BTreeMap::new();
    for step in &lane.steps {
        match *step {
            Step::Granted(number) => {
                let granted = &lane.granted[number];
                let key = (granted.actor, granted.destination);
                let line = lines.entry(key).or_default();
                line.epoch = granted.epoch;
                line.last = Some((granted.checkpoint, granted.at));
            }
            Step::Answer(number) => {
                let answer = &lane.answers[number];
                let line = lines.entry((answer.actor, answer.destination)).or_default();
                line.handled = line.handled.max(answer.sequence);
                let acked = acked.entry(answer.destination).or_default();
                *acked = (*acked).max(answer.sequence);
            }
            Step::Delivered(number) => {
                let delivered = &lane.delivered[number];
                let (sequence, at) = (delivered.sequence, delivered.at);
                let key = (delivered.actor, delivered.destination);
                let line = lines.entry(key).or_default();
                if line.epoch != delivered.epoch {
                    line.epoch = delivered.epoch;
                    line.last = None;
                }
                // Where the grant itself was not seen, the checkpoint is at most what was acknowledged.
                let acked = acked
                    .get(delivered.destination)
                    .copied()
                    .unwrap_or_default();
                let (last, before) = line.last.unwrap_or((acked.min(sequence - 1), at));
                ensure!(
                    sequence > last,
                    [before, at],
                    "sequence {sequence} came to {} under epoch {} where {last} was done already",
                    delivered.actor,
                    delivered.epoch
                );
                let from = if delivered.raw {
                    last
                } else {
                    last.max(line.handled)
                };
                if let Some(due) = lane.first_due(delivered.destination, from, sequence) {
                    ensure!(
                        false,
                        [before, at],
                        "sequence {sequence} came to {} under epoch {}, and {due} did not come before it",
                        delivered.actor,
                        delivered.epoch
                    );
                }
                line.last = Some((sequence, at));
            }
            _ => {}
        }
    }
    Ok(())
}
