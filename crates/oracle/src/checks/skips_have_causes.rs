//! A skip has a cause that somebody reported, and a failure leaves a dead letter (guarantees 5 and 9).

use std::collections::{BTreeMap, BTreeSet};

use super::{Seen, ensure};
use crate::history::{Content, EventKind, ReportKind, SkipCause};
use crate::lane::{Delivered, Lane, Report};

pub(super) const SENTENCE: &str = "A skip has a cause that somebody reported, and a failure leaves a dead letter (guarantees 5 and 9).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut reports: BTreeMap<u64, Vec<&Report<'_>>> = BTreeMap::new();
    for report in lane.reports.iter().filter(|report| report.may_count()) {
        reports.entry(report.sequence).or_default().push(report);
    }
    let resolving: BTreeSet<_> = lane
        .operates
        .iter()
        .filter(|operate| operate.may_count() && operate.destination.is_none())
        .map(|operate| operate.sequence)
        .collect();
    for delivered in &lane.delivered {
        let Content::Skip { cause, dead_letter } = delivered.content else {
            continue;
        };
        let (sequence, at) = (delivered.sequence, delivered.at);
        let reports = reports.get(&sequence).map_or(&[][..], Vec::as_slice);
        ensure!(
            has_cause(lane, delivered, *cause, reports),
            [at],
            "sequence {sequence} is skipped ({cause:?}), and no report says why"
        );
        let failed = *cause != SkipCause::Filtered;
        ensure!(
            !failed || *dead_letter || resolving.contains(&sequence),
            [at],
            "sequence {sequence} failed ({cause:?}), and neither is a dead letter nor was resolved"
        );
    }
    Ok(())
}

fn has_cause(
    lane: &Lane<'_>,
    delivered: &Delivered<'_>,
    cause: SkipCause,
    reports: &[&Report<'_>],
) -> bool {
    let before = || reports.iter().filter(|report| report.at < delivered.at);
    match cause {
        SkipCause::Rejected => before().any(|report| *report.kind == ReportKind::Reject),
        SkipCause::Filtered => before().any(|report| *report.kind == ReportKind::Filter),
        SkipCause::Attempts => lane.shape.stages.iter().enumerate().any(|(number, stage)| {
            let retries = before()
                .filter(|report| report.stage == Some(number) && *report.kind == ReportKind::Retry);
            let turns: BTreeSet<_> = retries.map(|report| report.turn).collect();
            turns.len() >= stage.max_attempts as usize
        }),
        // A worker that vanishes says nothing; only the message's own history tells.
        SkipCause::Losses => {
            let ended = lane.messages.iter();
            let told = ended
                .clone()
                .find(|message| message.sequence == delivered.sequence);
            told.is_none_or(|message| {
                lane.shape.stages.iter().any(|stage| {
                    let lost = message
                        .events
                        .iter()
                        .filter(|event| event.kind == EventKind::Lost && event.place == stage.name);
                    lost.count() >= stage.max_losses as usize
                })
            })
        }
        SkipCause::Unknown => false,
    }
}
