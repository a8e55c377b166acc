//! Whoever is handed a message for a stage gets the same bytes, and a turn belongs to one try of one stage (guarantees 10 and 11).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str = "Whoever is handed a message for a stage gets the same bytes, and a turn belongs to one try of one stage (guarantees 10 and 11).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut payloads = BTreeMap::new();
    let mut turns: BTreeMap<u64, BTreeMap<u32, _>> = BTreeMap::new();
    for assigned in &lane.assigned {
        let (sequence, at) = (assigned.sequence, assigned.at);
        let key = (sequence, assigned.stage);
        let (first, digest) = *payloads.entry(key).or_insert((at, assigned.digest));
        ensure!(
            digest == assigned.digest,
            [first, at],
            "sequence {sequence} was handed out twice for stage {}, with two payloads",
            assigned.stage_name
        );
        let turns = turns.entry(sequence).or_default();
        let this = (assigned.stage, assigned.attempts);
        let (first, before) = *turns.entry(assigned.turn).or_insert((at, this));
        ensure!(
            before == this,
            [first, at],
            "turn {} of sequence {sequence} is two tries",
            assigned.turn
        );
    }
    for (sequence, turns) in turns {
        for ((_, (at, first)), (_, (later_at, later))) in turns.iter().zip(turns.iter().skip(1)) {
            ensure!(
                first.0 <= later.0,
                [*at, *later_at],
                "sequence {sequence} went back to an earlier stage at a later turn"
            );
        }
    }
    Ok(())
}
