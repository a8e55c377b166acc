//! A read shows everything that was known to have happened before it was begun, and nothing that nobody asked for (guarantee 12).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::{Standing, Verdict};
use crate::lane::{Lane, Step};
use crate::name::Name;

pub(super) const SENTENCE: &str = "A read shows everything that was known to have happened before it was begun, and nothing that nobody asked for (guarantee 12).";
pub(super) const HEALED_ONLY: bool = false;

/// A number that only grows: how far it is known to have come, and where that was seen.
type Known = (u64, usize);

#[derive(Clone, Default)]
struct Knowledge<'h> {
    last: Known,
    watermark: Known,
    failed: Known,
    filtered: Known,
    checkpoints: BTreeMap<&'h Name, Known>,
    epochs: BTreeMap<&'h Name, Known>,
}

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut known = Knowledge::default();
    let mut begun = BTreeMap::new();
    // Calls that may have made a sequence each.
    let mut calls = 0;
    for step in &lane.steps {
        match *step {
            Step::Send(_) | Step::Operate(_) => calls += 1,
            Step::Sent(number) => {
                if let Some((at, sequence)) = lane.sends[number].accepted() {
                    grow(&mut known.last, sequence, at);
                }
            }
            Step::Operated(number) => {
                let operate = &lane.operates[number];
                if let (Some(sequence), Some((at, _))) = (operate.tail(), operate.operated) {
                    grow(&mut known.last, sequence, at);
                }
            }
            Step::Assigned(number) => {
                let assigned = &lane.assigned[number];
                grow(&mut known.last, assigned.sequence, assigned.at);
            }
            Step::Delivered(number) => {
                let d = &lane.delivered[number];
                grow(&mut known.last, d.sequence, d.at);
                grow(&mut known.watermark, d.sequence, d.at);
                grow(
                    known.epochs.entry(d.destination).or_default(),
                    d.epoch,
                    d.at,
                );
            }
            Step::Granted(number) => {
                let g = &lane.granted[number];
                let checkpoint = known.checkpoints.entry(g.destination).or_default();
                grow(checkpoint, g.checkpoint, g.at);
                grow(
                    known.epochs.entry(g.destination).or_default(),
                    g.epoch,
                    g.at,
                );
            }
            Step::Answered(number) => {
                let answer = &lane.answers[number];
                if let Some((at, Verdict::Recorded, Some(checkpoint))) = answer.answered {
                    let known = known.checkpoints.entry(answer.destination).or_default();
                    grow(known, checkpoint, at);
                }
            }
            Step::Reading(at) => {
                begun.insert(at, known.clone());
            }
            Step::Read(number) => {
                let read = &lane.reads[number];
                let before = begun.remove(&read.began).unwrap_or_default();
                fresh(&before, read.standing, calls, read.at)?;
                known.learn(read.standing, read.at);
            }
            _ => {}
        }
    }
    match lane.last {
        Some((at, standing)) => fresh(&known, standing, calls, at),
        None => Ok(()),
    }
}

fn grow(known: &mut Known, to: u64, at: usize) {
    if to > known.0 {
        *known = (to, at);
    }
}

impl<'h> Knowledge<'h> {
    fn learn(&mut self, standing: &'h Standing, at: usize) {
        grow(&mut self.last, standing.last_sequence, at);
        grow(&mut self.watermark, standing.watermark, at);
        grow(&mut self.failed, standing.failed, at);
        grow(&mut self.filtered, standing.filtered, at);
        for (name, standing) in &standing.destinations {
            let checkpoint = self.checkpoints.entry(name).or_default();
            grow(checkpoint, standing.checkpoint, at);
            grow(self.epochs.entry(name).or_default(), standing.epoch, at);
        }
    }
}

fn fresh(known: &Knowledge<'_>, standing: &Standing, calls: u64, at: usize) -> Result<(), Seen> {
    let at_least = |what: &str, read: u64, known: Known| {
        ensure!(
            read >= known.0,
            [known.1, at],
            "a read shows {what} {read}; it was {} before the read began",
            known.0
        );
        Ok(())
    };
    at_least("last sequence", standing.last_sequence, known.last)?;
    at_least("watermark", standing.watermark, known.watermark)?;
    at_least("failed", standing.failed, known.failed)?;
    at_least("filtered", standing.filtered, known.filtered)?;
    for (name, read) in &standing.destinations {
        let checkpoint = known.checkpoints.get(name).copied().unwrap_or_default();
        at_least("checkpoint", read.checkpoint, checkpoint)?;
        let epoch = known.epochs.get(name).copied().unwrap_or_default();
        at_least("epoch", read.epoch, epoch)?;
    }
    ensure!(
        standing.last_sequence <= calls,
        [at],
        "a read shows last sequence {}, after {calls} calls that may have made one",
        standing.last_sequence
    );
    Ok(())
}
