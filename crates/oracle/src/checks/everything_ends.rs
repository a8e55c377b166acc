//! In the end every sequence was delivered or skipped at every destination, and every failure is a dead letter or was resolved (guarantees 8 and 9).

use std::collections::{BTreeMap, BTreeSet};

use super::{Seen, ensure};
use crate::history::{Content, EventKind, MessageStatus, SkipCause, Standing};
use crate::lane::Lane;
use crate::name::Name;

pub(super) const SENTENCE: &str = "In the end every sequence was delivered or skipped at every destination, and every failure is a dead letter or was resolved (guarantees 8 and 9).";
pub(super) const HEALED_ONLY: bool = true;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let Some((at, standing)) = lane.last else {
        let text = "nobody read where the interface stood in the end";
        return Err(Seen::new(text, []));
    };
    all_is_done(standing, at)?;
    for send in &lane.sends {
        if let Some((sent_at, sequence)) = send.accepted() {
            ensure!(
                sequence <= standing.last_sequence,
                [sent_at, at],
                "sequence {sequence} was given, and the last in the end is {}",
                standing.last_sequence
            );
        }
    }
    let mut delivered: BTreeMap<&Name, BTreeSet<u64>> = BTreeMap::new();
    for delivery in &lane.delivered {
        let sequences = delivered.entry(delivery.destination).or_default();
        sequences.insert(delivery.sequence);
    }
    let none = BTreeSet::new();
    for destination in lane.shape.destinations.iter().map(|shape| &shape.name) {
        let had = delivered.get(destination).unwrap_or(&none);
        let missing = (1..=standing.last_sequence)
            .find(|sequence| !had.contains(sequence) && !lane.may_pass(destination, *sequence));
        if let Some(sequence) = missing {
            ensure!(
                false,
                [at],
                "sequence {sequence} was never delivered to {destination}"
            );
        }
    }
    failures_are_kept(lane)?;
    let kept = lane.letters.len() as u64;
    ensure!(
        standing.dead_letters == kept,
        [at],
        "{} dead letters are counted, and {kept} listed",
        standing.dead_letters
    );
    Ok(())
}

fn all_is_done(standing: &Standing, at: usize) -> Result<(), Seen> {
    let last = standing.last_sequence;
    ensure!(
        standing.watermark == last,
        [at],
        "the watermark stays at {} of {last}",
        standing.watermark
    );
    for (destination, standing) in &standing.destinations {
        ensure!(
            standing.checkpoint == last,
            [at],
            "the checkpoint of {destination} stays at {} of {last}",
            standing.checkpoint
        );
    }
    Ok(())
}

/// A failure in a stage concerns all destinations, a consumer's refusal its own.
fn failures_are_kept(lane: &Lane<'_>) -> Result<(), Seen> {
    let letters = lane
        .letters
        .iter()
        .map(|letter| (letter.sequence, letter.destination));
    let resolved = lane.operates.iter().filter(|operate| operate.may_count());
    let resolved = resolved.map(|operate| (operate.sequence, operate.destination));
    let known: BTreeSet<_> = letters.chain(resolved).collect();
    for delivery in &lane.delivered {
        let failed = matches!(
            delivery.content,
            Content::Skip { cause, .. } if *cause != SkipCause::Filtered
        );
        ensure!(
            !failed || known.contains(&(delivery.sequence, None)),
            [delivery.at],
            "sequence {} failed, and is neither a dead letter in the end nor was it resolved",
            delivery.sequence
        );
    }
    for message in &lane.messages {
        let sequence = message.sequence;
        ensure!(
            matches!(
                message.status,
                MessageStatus::Delivered | MessageStatus::Skipped
            ),
            [message.at],
            "sequence {sequence} is {:?} in the end",
            message.status
        );
        let refusals = message.events.iter();
        for event in refusals.filter(|event| event.kind == EventKind::DeliveryRejected) {
            ensure!(
                known.contains(&(sequence, Some(&event.place))),
                [message.at],
                "{} refused sequence {sequence}, which is neither a dead letter in the end nor was it resolved",
                event.place
            );
        }
    }
    Ok(())
}
