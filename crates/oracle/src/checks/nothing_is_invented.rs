//! What a worker or a consumer is handed was sent by a producer, or left so by the stage before (guarantees 9 and 10).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Seen, ensure};
use crate::history::{Content, ReportKind};
use crate::lane::{Lane, Send};
use crate::name::Digest;

pub(super) const SENTENCE: &str = "What a worker or a consumer is handed was sent by a producer, or left so by the stage before (guarantees 9 and 10).";
pub(super) const HEALED_ONLY: bool = false;

/// Payloads that may have been there, and since where in the history.
type Payloads = BTreeMap<Digest, usize>;

pub(super) fn check(lane: &Lane<'_>) -> Result<(), Seen> {
    for sight in &lane.sights {
        let id = sight.message_id;
        let sent = lane.sends_of.get(&id);
        let begun = sent.is_some_and(|calls| lane.sends[calls[0]].at < sight.at);
        ensure!(
            begun || lane.redrives.contains_key(&id),
            [sight.at],
            "sequence {} is message {id}, which nobody had sent",
            sight.sequence
        );
    }
    let payloads = payloads(lane);
    let expect = |sequence, stage: usize, digest: Digest, at| {
        let possible = payloads
            .get(&sequence)
            .and_then(|stages: &Vec<Payloads>| stages.get(stage));
        ensure!(
            possible.is_some_and(|possible| possible.get(&digest).is_some_and(|since| *since < at)),
            [at],
            "sequence {sequence} carries payload {digest} before stage {} of {}, which neither its producer nor a \
             stage before gave it",
            stage + 1,
            lane.shape.stages.len()
        );
        Ok(())
    };
    for assigned in &lane.assigned {
        let stage = assigned.stage;
        ensure!(
            stage.is_some(),
            [assigned.at],
            "the interface has no stage {}",
            assigned.stage_name
        );
        let stage = stage.unwrap_or_default();
        expect(assigned.sequence, stage, assigned.digest, assigned.at)?;
    }
    let end = lane.shape.stages.len();
    for delivered in &lane.delivered {
        if let Content::Message { digest, .. } = delivered.content {
            expect(delivered.sequence, end, *digest, delivered.at)?;
        }
    }
    for letter in &lane.letters {
        let stage = letter.stage.unwrap_or(end);
        expect(letter.sequence, stage, letter.digest, letter.at)?;
    }
    Ok(())
}

/// For every sequence, what it may have carried into each stage, and out of the last.
fn payloads(lane: &Lane<'_>) -> BTreeMap<u64, Vec<Payloads>> {
    let mut reports: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for report in lane.reports.iter().filter(|report| report.may_count()) {
        reports.entry(report.sequence).or_default().push(report);
    }
    let mut payloads: BTreeMap<u64, Vec<Payloads>> = BTreeMap::new();
    // A redrive's dead letter has a lower sequence, so that it is there when it is asked for.
    for (sequence, id) in &lane.ids {
        let parent = lane
            .redrives
            .get(id)
            .and_then(|parent| payloads.get(parent));
        // The failed stage's number is not always known, so whatever the dead letter may have carried counts for all.
        let inherited: Payloads = parent.into_iter().flatten().flatten().fold(
            Payloads::new(),
            |mut all, (digest, since)| {
                let first = all.entry(*digest).or_insert(*since);
                *first = (*first).min(*since);
                all
            },
        );
        let sent = sent(lane, *sequence, id);
        let mut stages = vec![if sent.is_empty() {
            inherited.clone()
        } else {
            sent
        }];
        for stage in 0..lane.shape.stages.len() {
            let mut left = inherited.clone();
            let of_stage = reports.get(sequence).into_iter().flatten();
            for report in of_stage.filter(|report| report.stage == Some(stage)) {
                match report.kind {
                    ReportKind::Complete {
                        digest: Some(digest),
                        ..
                    } => {
                        left.entry(*digest).or_insert(report.at);
                    }
                    ReportKind::Complete { digest: None, .. } => {
                        for (digest, since) in &stages[stage] {
                            left.entry(*digest).or_insert(report.at.max(*since));
                        }
                    }
                    _ => {}
                }
            }
            stages.push(left);
        }
        payloads.insert(*sequence, stages);
    }
    payloads
}

/// What its producers sent under this id: what was accepted under this sequence, where that is known. That a refused
/// one is there at all is another check's.
fn sent(lane: &Lane<'_>, sequence: u64, id: &Uuid) -> Payloads {
    let calls = lane.sends_of.get(id).into_iter().flatten();
    let sends: Vec<&Send<'_>> = calls.map(|call| &lane.sends[*call]).collect();
    let is_here = |send: &&&Send<'_>| send.accepted().is_some_and(|(_, here)| here == sequence);
    let accepted = sends.iter().find(is_here);
    let unrefused = sends.iter().any(|send| !send.refused());
    let mut payloads = Payloads::new();
    for send in &sends {
        // The same payload may have been sent, and taken, before the call that was answered so.
        let possible = match accepted {
            Some(accepted) => accepted.digest == send.digest,
            None => !send.refused() || !unrefused,
        };
        if possible {
            payloads.entry(send.digest).or_insert(send.at);
        }
    }
    payloads
}
