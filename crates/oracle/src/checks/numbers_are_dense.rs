//! A producer's own numbers are each one message's, in their order and without a gap (guarantee 3).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::lane::Lane;

pub(super) const SENTENCE: &str = "A producer's own numbers are each one message's, in their order and without a gap (guarantee 3).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut accepted = BTreeMap::new();
    let mut sent = BTreeMap::new();
    for send in &lane.sends {
        let Some(numbered) = send.numbered else {
            continue;
        };
        let (producer, number) = (&numbered.producer, numbered.number);
        sent.entry((producer, number)).or_insert(send.at);
        if let Some((at, sequence)) = send.accepted() {
            let first = (send.message_id, sequence, at);
            let (id, _, before) = *accepted.entry((producer, number)).or_insert(first);
            ensure!(
                id == send.message_id,
                [before, at],
                "{producer}'s number {number} was accepted for two messages, {id} and {}",
                send.message_id
            );
        }
    }
    let mut before: Option<(_, u64, usize)> = None;
    for ((producer, number), (_, sequence, at)) in accepted {
        let begun = sent
            .get(&(producer, number - 1))
            .is_some_and(|begun| *begun < at);
        ensure!(
            number == 1 || begun,
            [at],
            "{producer}'s number {number} was accepted, and {} was never sent",
            number - 1
        );
        if let Some((same, lower, lower_at)) = before
            && same == producer
        {
            ensure!(
                lower < sequence,
                [lower_at, at],
                "{producer}'s number {number} got sequence {sequence}; one before it has {lower}"
            );
        }
        before = Some((producer, sequence, at));
    }
    Ok(())
}
