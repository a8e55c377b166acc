//! A report takes effect in its turn only, a completion in its stage only, and each once (guarantee 11).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::{ReportKind, Verdict};
use crate::lane::{Lane, Step};

pub(super) const SENTENCE: &str = "A report takes effect in its turn only, a completion in its stage only, and each once (guarantee 11).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    // By sequence: the latest turn and stage seen, and where; where it was delivered; reports that took effect.
    let (mut turns, mut stages) = (BTreeMap::new(), BTreeMap::new());
    let mut delivered = BTreeMap::new();
    let mut effective = BTreeMap::new();
    for step in &lane.steps {
        match *step {
            Step::Assigned(number) => {
                let assigned = &lane.assigned[number];
                let (sequence, at) = (assigned.sequence, assigned.at);
                let turn = turns.entry(sequence).or_insert((assigned.turn, at));
                *turn = (*turn).max((assigned.turn, at));
                let stage = stages.entry(sequence).or_insert((assigned.stage, at));
                *stage = (*stage).max((assigned.stage, at));
            }
            Step::Delivered(number) => {
                let delivery = &lane.delivered[number];
                delivered.entry(delivery.sequence).or_insert(delivery.at);
            }
            Step::Report(number) => {
                let report = &lane.reports[number];
                let Some((at, Verdict::Recorded)) = report.reported else {
                    continue;
                };
                let complete = matches!(report.kind, ReportKind::Complete { .. });
                let sequence = report.sequence;
                if let Some(done) = delivered.get(&sequence) {
                    ensure!(
                        false,
                        [*done, report.at, at],
                        "a report on sequence {sequence} took effect after it was delivered"
                    );
                }
                let stage = stages
                    .get(&sequence)
                    .filter(|(stage, _)| *stage > report.stage);
                let turn = turns
                    .get(&sequence)
                    .filter(|(turn, _)| *turn > report.turn && !complete);
                let newer = stage.map(|(_, at)| at).or(turn.map(|(_, at)| at));
                if let Some(newer) = newer {
                    ensure!(
                        false,
                        [*newer, report.at, at],
                        "a report of turn {} on sequence {sequence} took effect after a later assignment",
                        report.turn
                    );
                }
                // What is completed is never entered again; anything else raises the turn.
                let key = (
                    sequence,
                    complete,
                    report.stage,
                    (!complete).then_some(report.turn),
                );
                if let Some(first) = effective.insert(key, report.at) {
                    ensure!(
                        false,
                        [first, report.at, at],
                        "two reports of one turn or completion of sequence {sequence} took effect"
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}
