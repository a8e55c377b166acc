//! What a destination is done with never comes back under a later epoch (guarantees 5 and 7).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::Verdict;
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "What a destination is done with never comes back under a later epoch (guarantees 5 and 7).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    // By destination and epoch: the highest checkpoint known to have been reached in it or before. A grant's own
    // deliveries begin after its checkpoint too, so it counts for the epoch before.
    let mut reached: BTreeMap<_, BTreeMap<u64, (u64, usize)>> = BTreeMap::new();
    let mut note = |destination, epoch, checkpoint, at| {
        let epochs = reached.entry(destination).or_default();
        let best = epochs.entry(epoch).or_insert((checkpoint, at));
        *best = (*best).max((checkpoint, at));
    };
    for granted in &lane.granted {
        let epoch = granted.epoch.saturating_sub(1);
        note(granted.destination, epoch, granted.checkpoint, granted.at);
    }
    for answer in &lane.answers {
        if let Some((at, Verdict::Recorded, Some(checkpoint))) = answer.answered {
            note(answer.destination, answer.epoch, checkpoint, at);
        }
    }
    let reads = lane.reads.iter().map(|read| (read.at, read.standing));
    for (at, standing) in reads.chain(lane.last) {
        for (destination, standing) in &standing.destinations {
            note(destination, standing.epoch, standing.checkpoint, at);
        }
    }
    for epochs in reached.values_mut() {
        let mut best = (0, 0);
        for reached in epochs.values_mut() {
            best = best.max(*reached);
            *reached = best;
        }
    }
    for delivered in &lane.delivered {
        let epochs = reached.get(delivered.destination);
        let before = epochs.and_then(|epochs| epochs.range(..delivered.epoch).next_back());
        if let Some((epoch, (checkpoint, at))) = before {
            ensure!(
                delivered.sequence > *checkpoint,
                [*at, delivered.at],
                "sequence {} came under epoch {}, and the checkpoint was {checkpoint} by the end of epoch {epoch}",
                delivered.sequence,
                delivered.epoch
            );
        }
    }
    Ok(())
}
