//! A producer's messages get their sequences in the order in which it sent them (guarantee 3).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "A producer's messages get their sequences in the order in which it sent them (guarantee 3).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    // The lowest sequence of each place in each producer's order: a replay of what was forgotten gets another.
    let mut accepted: BTreeMap<_, BTreeMap<u64, (u64, usize)>> = BTreeMap::new();
    for send in &lane.sends {
        if let (Some(order), Some((at, sequence))) = (send.order, send.accepted()) {
            let places = accepted.entry(send.actor).or_default();
            let place = places.entry(order).or_insert((sequence, at));
            *place = (*place).min((sequence, at));
        }
    }
    for (producer, places) in accepted {
        let in_order = places.iter().zip(places.iter().skip(1));
        for ((first, (sequence, at)), (second, (later, later_at))) in in_order {
            ensure!(
                sequence < later,
                [*at, *later_at],
                "{producer} sent its number {first} before its number {second}; their sequences are {sequence} and \
                 {later}"
            );
        }
    }
    Ok(())
}
