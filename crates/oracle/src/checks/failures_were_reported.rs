//! Every failure in a message's own history was reported by a worker or a consumer (guarantees 9 and 11).

use std::collections::{BTreeMap, BTreeSet};

use super::{Seen, ensure};
use crate::history::{AnswerKind, EventKind, ReportKind};
use crate::lane::Lane;
use crate::name::Name;

pub(super) const SENTENCE: &str = "Every failure in a message's own history was reported by a worker or a consumer (guarantees 9 and 11).";
pub(super) const HEALED_ONLY: bool = false;

/// A sequence, what was reported, and of which stage or destination.
type Failed<'a> = (u64, EventKind, &'a Name);

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    // Reports that may have been recorded, by what the history calls them; those of one turn count once.
    let mut reported: BTreeMap<Failed<'_>, BTreeSet<(u64, usize)>> = BTreeMap::new();
    for report in lane.reports.iter().filter(|report| report.may_count()) {
        let kind = match report.kind {
            ReportKind::Retry => EventKind::Retried,
            ReportKind::Reject => EventKind::Rejected,
            ReportKind::Filter => EventKind::Filtered,
            ReportKind::Complete { .. } => continue,
        };
        if let Some(stage) = report.stage {
            let key = (report.sequence, kind, &lane.shape.stages[stage].name);
            let turn = (u64::from(report.turn), 0);
            reported.entry(key).or_default().insert(turn);
        }
    }
    for answer in lane.answers.iter().filter(|answer| answer.may_count()) {
        let kinds: &[_] = match answer.kind {
            // The last that is allowed is a rejection.
            AnswerKind::Retry => &[EventKind::DeliveryRetried, EventKind::DeliveryRejected],
            AnswerKind::Reject => &[EventKind::DeliveryRejected],
            AnswerKind::Ack | AnswerKind::Unavailable => &[],
        };
        for kind in kinds {
            let key = (answer.sequence, *kind, answer.destination);
            let answers = reported.entry(key).or_default();
            answers.insert((answer.epoch, 0));
        }
    }
    for message in &lane.messages {
        let mut told: BTreeMap<_, usize> = BTreeMap::new();
        for event in message.events {
            let counted = matches!(
                event.kind,
                EventKind::Retried
                    | EventKind::Rejected
                    | EventKind::Filtered
                    | EventKind::DeliveryRetried
                    | EventKind::DeliveryRejected
            );
            if counted {
                *told.entry((event.kind, &event.place)).or_default() += 1;
            }
        }
        for ((kind, place), count) in told {
            let known = reported.get(&(message.sequence, kind, place));
            let known = known.map_or(0, BTreeSet::len);
            ensure!(
                count <= known,
                [message.at],
                "sequence {} tells of {count} times {kind:?} at {place}; {known} were reported",
                message.sequence
            );
        }
    }
    Ok(())
}
