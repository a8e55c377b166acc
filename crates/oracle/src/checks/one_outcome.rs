//! A released sequence has one outcome, the same for ever and for every destination it is meant for (guarantee 5).

use std::collections::BTreeMap;

use super::{Seen, ensure};
use crate::history::{Content, SkipCause};
use crate::lane::Lane;
use crate::name::Digest;

pub(super) const SENTENCE: &str = "A released sequence has one outcome, the same for ever and for every destination it is meant for (guarantee 5).";
pub(super) const HEALED_ONLY: bool = false;

/// What must not change. Whether a dead letter is kept does, when it is resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Message(Digest, u64),
    Skip(SkipCause),
}

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    let mut outcomes = BTreeMap::new();
    for delivered in &lane.delivered {
        let outcome = match delivered.content {
            Content::Message { digest, redrive_of } => Outcome::Message(*digest, *redrive_of),
            Content::Skip { cause, .. } => Outcome::Skip(*cause),
        };
        let (sequence, at) = (delivered.sequence, delivered.at);
        let (first, before) = *outcomes.entry(sequence).or_insert((at, outcome));
        ensure!(
            before == outcome,
            [first, at],
            "sequence {sequence} was seen as {before:?} and as {outcome:?}"
        );
    }
    Ok(())
}
