//! A message sent after a sequence was seen gets a higher one: the history fits one that happened step by step (guarantees 2 and 12).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::{Lane, Step};

pub(super) const SENTENCE: &str = "A message sent after a sequence was seen gets a higher one: the history fits one that happened step by step (guarantees 2 and 12).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    // The highest sequence that was seen so far, and where.
    let mut top = (0, 0);
    // What it was when each id was first sent, and when each redrive was begun.
    let mut floors = BTreeMap::new();
    let mut redrives = BTreeMap::new();
    for step in &lane.steps {
        let (id, sequence, at) = match *step {
            Step::Send(number) => {
                floors.entry(lane.sends[number].message_id).or_insert(top);
                continue;
            }
            Step::Operate(number) => {
                redrives.insert(number, top);
                continue;
            }
            Step::Operated(number) => {
                let redrive = &lane.operates[number];
                let (Some(sequence), Some((at, _))) = (redrive.tail(), redrive.operated) else {
                    continue;
                };
                let (floor, seen) = redrives[&number];
                ensure!(
                    sequence > floor,
                    [seen, redrive.at, at],
                    "a redrive at the tail got sequence {sequence}; {floor} was there before it"
                );
                top = top.max((sequence, at));
                continue;
            }
            Step::Read(number) => {
                let read = &lane.reads[number];
                top = top.max((read.standing.last_sequence, read.at));
                continue;
            }
            Step::Sent(number) => {
                let send = &lane.sends[number];
                let Some((at, sequence)) = send.accepted() else {
                    continue;
                };
                (send.message_id, sequence, at)
            }
            Step::Assigned(number) => {
                let assigned = &lane.assigned[number];
                (assigned.message_id, assigned.sequence, assigned.at)
            }
            Step::Delivered(number) => {
                let delivered = &lane.delivered[number];
                (delivered.message_id, delivered.sequence, delivered.at)
            }
            _ => continue,
        };
        if let Some((floor, seen)) = floors.get(&id) {
            ensure!(
                sequence > *floor,
                [*seen, at],
                "message {id} has sequence {sequence}, and was first sent after {floor} was seen"
            );
        }
        top = top.max((sequence, at));
    }
    Ok(())
}
