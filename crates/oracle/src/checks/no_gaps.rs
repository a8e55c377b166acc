//! Sequences are 1, 2, 3, without gaps: each is some message's (guarantee 2).

use super::{Seen, ensure};
use crate::history::SendResult;
use crate::lane::Lane;

pub(super) const SENTENCE: &str =
    "Sequences are 1, 2, 3, without gaps: each is some message's (guarantee 2).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let seen = lane.sights.iter().map(|sight| (sight.sequence, sight.at));
    let reads = lane.reads.iter();
    let read = reads.map(|read| (read.standing.last_sequence, read.at));
    let last = lane.last.iter();
    let last = last.map(|(at, standing)| (standing.last_sequence, *at));
    let Some((highest, at)) = seen.chain(read).chain(last).max() else {
        return Ok(());
    };
    let known = lane.ids.range(..=highest).count() as u64;
    let missing = highest - known.min(highest);
    let unclaimed = unclaimed(lane, highest);
    let first = (1..=highest).find(|sequence| !lane.ids.contains_key(sequence));
    ensure!(
        missing <= unclaimed,
        [at],
        "of the sequences through {highest}, {missing} belong to no message that was seen (the first is {}), and \
         only {unclaimed} calls can have made one unseen",
        first.unwrap_or_default()
    );
    Ok(())
}

/// How many calls may have made a sequence whose message nobody saw under it.
fn unclaimed(lane: &Lane<'_>, highest: u64) -> u64 {
    let sequence_of = |id| {
        let sights = lane.sights.iter();
        sights.rev().find(|sight| sight.message_id == id)
    };
    let sends = lane.sends.iter().filter(|send| {
        let unknown = matches!(send.sent, None | Some((_, SendResult::Unknown { .. })));
        unknown
            && sequence_of(send.message_id)
                .is_none_or(|sight| lane.may_be_forgotten(sight.sequence, highest))
    });
    let redrives = lane.tail_redrives().filter(|redrive| {
        redrive
            .tail()
            .is_none_or(|sequence| !lane.ids.contains_key(&sequence))
    });
    (sends.count() + redrives.count()) as u64
}
