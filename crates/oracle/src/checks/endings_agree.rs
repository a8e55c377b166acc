//! How a message ended is what its consumers saw (guarantee 5).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::{AnswerKind, Content, MessageStatus};
use crate::lane::Lane;

pub(super) const SENTENCE: &str = "How a message ended is what its consumers saw (guarantee 5).";
pub(super) const HEALED_ONLY: bool = false;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut seen = BTreeMap::new();
    for delivered in &lane.delivered {
        let skip = matches!(delivered.content, Content::Skip { .. });
        let redrive_of = match delivered.content {
            Content::Message { redrive_of, .. } => Some(*redrive_of),
            Content::Skip { .. } => None,
        };
        seen.entry(delivered.sequence)
            .or_insert((skip, redrive_of, delivered.at));
    }
    let refused = |sequence| {
        let mut answers = lane.answers.iter();
        answers.any(|answer| {
            let refusal = matches!(answer.kind, AnswerKind::Reject | AnswerKind::Retry);
            answer.sequence == sequence && refusal && answer.may_count()
        })
    };
    for message in &lane.messages {
        let Some((skip, redrive_of, at)) = seen.get(&message.sequence).copied() else {
            continue;
        };
        let sequence = message.sequence;
        let of = message.redrive_of;
        ensure!(
            redrive_of.is_none_or(|seen| seen == of),
            [at, message.at],
            "sequence {sequence} ended as a redrive of {of} (0 for none), and was delivered as another"
        );
        let agrees = match message.status {
            MessageStatus::Delivered | MessageStatus::Ready => !skip,
            MessageStatus::Skipped => skip || refused(sequence),
            MessageStatus::Failed | MessageStatus::Filtered => skip,
            MessageStatus::Pending | MessageStatus::Unknown => false,
        };
        ensure!(
            agrees,
            [at, message.at],
            "sequence {sequence} ended as {:?}, and was delivered as a {}",
            message.status,
            if skip { "skip marker" } else { "message" }
        );
    }
    Ok(())
}
