//! A message_id keeps its first sequence for as long as it is known (guarantees 2 and 4).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "A message_id keeps its first sequence for as long as it is known (guarantees 2 and 4).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut sequences: BTreeMap<_, BTreeMap<u64, usize>> = BTreeMap::new();
    for sight in &lane.sights {
        let known = sequences.entry(sight.message_id).or_default();
        let other = known.iter().find(|(other, _)| {
            **other != sight.sequence && !lane.may_be_forgotten(**other, sight.sequence)
        });
        if let Some((other, before)) = other {
            ensure!(
                false,
                [*before, sight.at],
                "message {} has the sequences {other} and {}",
                sight.message_id,
                sight.sequence
            );
        }
        known.entry(sight.sequence).or_insert(sight.at);
    }
    Ok(())
}
