//! Whoever sees a sequence sees the same message (guarantee 2).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str = "Whoever sees a sequence sees the same message (guarantee 2).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut first = BTreeMap::new();
    for sight in &lane.sights {
        let (at, sequence) = (sight.at, sight.sequence);
        ensure!(sequence > 0, [at], "sequence 0; they begin at 1");
        let (before, id) = *first.entry(sequence).or_insert((at, sight.message_id));
        ensure!(
            id == sight.message_id,
            [before, at],
            "sequence {sequence} is message {id}, and then {}",
            sight.message_id
        );
    }
    Ok(())
}
