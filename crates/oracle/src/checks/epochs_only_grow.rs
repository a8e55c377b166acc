//! An epoch is one consumer's, and nothing is delivered under an old one after a newer was seen (guarantee 6).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::{Lane, Step};
use crate::name::Name;

pub(super) const SENTENCE: &str = "An epoch is one consumer's, and nothing is delivered under an old one after a newer was seen (guarantee 6).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut holders: BTreeMap<(&Name, u64), (&Name, usize)> = BTreeMap::new();
    // By consumer and destination, and by destination alone.
    let mut own: BTreeMap<(&Name, &Name), (u64, usize)> = BTreeMap::new();
    let mut any: BTreeMap<&Name, (u64, usize)> = BTreeMap::new();
    for step in &lane.steps {
        let (actor, destination, epoch, at, raw) = match *step {
            Step::Granted(number) => {
                let g = &lane.granted[number];
                (g.actor, g.destination, g.epoch, g.at, g.raw)
            }
            Step::Delivered(number) => {
                let d = &lane.delivered[number];
                (d.actor, d.destination, d.epoch, d.at, d.raw)
            }
            _ => continue,
        };
        let (holder, first) = *holders.entry((destination, epoch)).or_insert((actor, at));
        ensure!(
            holder == actor,
            [first, at],
            "epoch {epoch} of {destination} is held by {holder} and by {actor}"
        );
        let own = own.entry((actor, destination)).or_insert((epoch, at));
        let any = any.entry(destination).or_insert((epoch, at));
        // A consumer on the bare protocol keeps no lease: it may hear late what was sent in time.
        let (newest, seen) = if raw { *own } else { *any };
        ensure!(
            newest <= epoch,
            [seen, at],
            "{actor} was served {destination} under epoch {epoch} after epoch {newest} was seen"
        );
        *own = (*own).max((epoch, at));
        *any = (*any).max((epoch, at));
    }
    Ok(())
}
