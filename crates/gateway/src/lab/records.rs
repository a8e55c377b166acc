//! What a laboratory wrote down, and how it judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::{LabAnswer, LabConfig};
use crate::msh::Msh;

/// The interface of messages whose MSH-10 does not end in `-` and a number.
pub const UNNUMBERED: &str = "(unnumbered)";

/// What a laboratory saw of all interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabSummary {
    /// By interface.
    pub interfaces: BTreeMap<String, LabInterface>,
    /// Connections accepted.
    pub connections: u64,
    /// Messages without a readable header or control id.
    pub unreadable: u64,
    /// Connections ended by a framing error.
    pub framing_errors: u64,
}

impl LabSummary {
    /// Messages filed over all interfaces.
    pub fn filed(&self) -> u64 {
        self.interfaces
            .values()
            .map(|interface| interface.filed)
            .sum()
    }
}

/// What a laboratory saw of one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabInterface {
    /// Messages on the wire, repeats and refused ones included.
    pub received: u64,
    /// Messages filed.
    pub filed: u64,
    /// Of the filed and numbered: those with a number above all before.
    pub in_order: u64,
    /// Of the filed and numbered: the others.
    pub out_of_order: u64,
    /// Numbers from 1 to the highest filed that were not filed. Skipped or lost: only the sender can tell.
    pub missing: u64,
    /// Messages on the wire whose control id had arrived before, filed or not.
    pub repeats: u64,
    /// Messages filed whose content had been filed already: MSH-7 and MSH-10 aside, the same bytes.
    pub duplicated_effects: u64,
    /// Messages answered with AE, AR, CE or CR.
    pub refused: u64,
    /// Messages left without an answer that matches.
    pub unanswered: u64,
}

/// What a laboratory filed, against what it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabJudgement {
    /// How many it should have filed.
    pub expected: u64,
    /// How many different ones it did file.
    pub filed: u64,
    /// Control ids expected and not filed, in the order expected.
    pub lost: Vec<String>,
    /// Control ids filed and not expected, in the order filed.
    pub unexpected: Vec<String>,
    /// Expected messages filed after one that should have come later.
    pub out_of_order: u64,
    /// As in [`LabInterface`].
    pub repeats: u64,
    /// As in [`LabInterface`].
    pub duplicated_effects: u64,
}

impl LabJudgement {
    /// Nothing lost, unexpected, out of order or duplicated in effect. Repeats on the wire do no harm.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.unexpected.is_empty()
            && self.out_of_order == 0
            && self.duplicated_effects == 0
    }
}

#[derive(Default)]
pub(super) struct Records {
    interfaces: BTreeMap<String, Record>,
    pub(super) connections: u64,
    pub(super) unreadable: u64,
    pub(super) framing_errors: u64,
}

#[derive(Default)]
struct Record {
    counts: LabInterface,
    /// Control ids in the order filed.
    filed: Vec<String>,
    /// How often each control id arrived, and whether it is filed.
    arrived: BTreeMap<String, (u64, bool)>,
    numbers: BTreeSet<u64>,
    /// Digests of what was filed. 64 bits are enough for the numbers a demonstration files.
    effects: BTreeSet<u64>,
    messages: Vec<Bytes>,
}

pub(super) struct Arrival<'a> {
    pub(super) control_id: &'a str,
    pub(super) number: Option<u64>,
    pub(super) msh: &'a Msh<'a>,
    pub(super) payload: &'a Bytes,
}

/// The interface a control id is booked under, and its number.
pub(super) fn book_under<'a>(
    fixed: Option<&'a str>,
    control_id: &'a str,
) -> (&'a str, Option<u64>) {
    let numbered = control_id
        .rsplit_once('-')
        .filter(|(prefix, digits)| {
            !prefix.is_empty()
                && !digits.is_empty()
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
        .and_then(|(prefix, digits)| Some((prefix, digits.parse().ok()?)));
    match (fixed, numbered) {
        (Some(fixed), numbered) => (fixed, numbered.map(|(_, number)| number)),
        (None, Some((prefix, number))) => (prefix, Some(number)),
        (None, None) => (UNNUMBERED, None),
    }
}

impl Records {
    pub(super) fn arrived(&self, interface: &str, control_id: &str) -> u64 {
        let arrived = |record: &Record| {
            record
                .arrived
                .get(control_id)
                .map_or(0, |(count, _)| *count)
        };
        self.interfaces.get(interface).map_or(0, arrived)
    }

    pub(super) fn receive(
        &mut self,
        interface: &str,
        arrival: &Arrival<'_>,
        answer: &LabAnswer,
        config: &LabConfig,
    ) {
        let record = self.interfaces.entry(interface.to_owned()).or_default();
        record.counts.received += 1;
        if config.keep_messages {
            record.messages.push(arrival.payload.clone());
        }
        let (count, filed) = record
            .arrived
            .entry(arrival.control_id.to_owned())
            .or_default();
        if *count > 0 {
            record.counts.repeats += 1;
        }
        *count += 1;
        let files = answer.files() && !(*filed && config.discard_repeats);
        *filed |= files;
        match answer {
            LabAnswer::Accept
            | LabAnswer::AcceptAndClose
            | LabAnswer::AcceptTwice
            | LabAnswer::AcceptLate(_)
            | LabAnswer::CommitThen(_)
            | LabAnswer::Bytes(_) => {}
            LabAnswer::Error(_) | LabAnswer::Reject(_) => record.counts.refused += 1,
            LabAnswer::Silence
            | LabAnswer::FileSilently
            | LabAnswer::FileAndClose
            | LabAnswer::Drop
            | LabAnswer::Mismatch => record.counts.unanswered += 1,
        }
        if files {
            record.file(arrival);
        }
    }

    pub(super) fn summary(&self) -> LabSummary {
        LabSummary {
            interfaces: self
                .interfaces
                .iter()
                .map(|(name, record)| (name.clone(), record.counts()))
                .collect(),
            connections: self.connections,
            unreadable: self.unreadable,
            framing_errors: self.framing_errors,
        }
    }

    pub(super) fn filed(&self, interface: &str) -> Vec<String> {
        self.interfaces
            .get(interface)
            .map(|record| record.filed.clone())
            .unwrap_or_default()
    }

    pub(super) fn messages(&self, interface: &str) -> Vec<Bytes> {
        self.interfaces
            .get(interface)
            .map(|record| record.messages.clone())
            .unwrap_or_default()
    }

    pub(super) fn judge(&self, interface: &str, expected: &[String]) -> LabJudgement {
        let nothing = Record::default();
        let record = self.interfaces.get(interface).unwrap_or(&nothing);
        let place: BTreeMap<&str, usize> = expected.iter().map(String::as_str).zip(0..).collect();
        let (mut seen, mut unexpected, mut out_of_order, mut furthest) =
            (BTreeSet::new(), Vec::new(), 0, None);
        for control_id in &record.filed {
            if !seen.insert(control_id.as_str()) {
                continue;
            }
            match place.get(control_id.as_str()) {
                None => unexpected.push(control_id.clone()),
                Some(place) if furthest.is_some_and(|furthest| *place < furthest) => {
                    out_of_order += 1
                }
                Some(place) => furthest = Some(*place),
            }
        }
        LabJudgement {
            expected: expected.len() as u64,
            filed: seen.len() as u64,
            lost: expected
                .iter()
                .filter(|id| !seen.contains(id.as_str()))
                .cloned()
                .collect(),
            unexpected,
            out_of_order,
            repeats: record.counts.repeats,
            duplicated_effects: record.counts.duplicated_effects,
        }
    }
}

impl Record {
    fn file(&mut self, arrival: &Arrival<'_>) {
        self.counts.filed += 1;
        self.filed.push(arrival.control_id.to_owned());
        if let Some(number) = arrival.number {
            if self.numbers.last().is_none_or(|highest| number > *highest) {
                self.counts.in_order += 1;
            } else {
                self.counts.out_of_order += 1;
            }
            self.numbers.insert(number);
        }
        if !self.effects.insert(effect(arrival.msh, arrival.payload)) {
            self.counts.duplicated_effects += 1;
        }
    }

    fn counts(&self) -> LabInterface {
        let highest = self.numbers.last().copied().unwrap_or(0);
        let filed = self.numbers.range(1..).count() as u64;
        LabInterface {
            missing: highest - filed,
            ..self.counts
        }
    }
}

/// Digest of what a message does at a laboratory: all of it except when it was written and its control id.
fn effect(msh: &Msh<'_>, payload: &[u8]) -> u64 {
    // Fixed keys: the digest never leaves the process, but it should not differ between two runs either.
    let mut hasher = DefaultHasher::new();
    for number in (2..=25).filter(|number| !matches!(number, 7 | 10)) {
        msh.field(number).hash(&mut hasher);
    }
    let body = payload
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .map_or(&[][..], |end| &payload[end..]);
    body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_ids_are_booked_by_prefix_and_number() {
        assert_eq!(book_under(None, "RAD-000017"), ("RAD", Some(17)));
        assert_eq!(book_under(None, "A-B-3"), ("A-B", Some(3)));
        for id in [
            "Q1283",
            "-5",
            "RAD-",
            "RAD-1x",
            "RAD-99999999999999999999999",
            "C8E-D58C80DB0FDE",
        ] {
            assert_eq!(book_under(None, id), (UNNUMBERED, None), "{id}");
        }
        assert_eq!(book_under(Some("west"), "RAD-000017"), ("west", Some(17)));
        assert_eq!(book_under(Some("west"), "Q1283"), ("west", None));
    }
}
