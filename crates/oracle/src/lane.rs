//! A history, sorted by interface: what the checks read. Interfaces are independent, so each is judged alone.

mod index;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::history::{
    AnswerKind, Content, Deed, InterfaceShape, MessageEvent, MessageStatus, Numbered,
    OperateResult, ReportKind, SendResult, Standing, Verdict,
};
use crate::name::{Digest, Name};

pub(crate) use index::index;

/// One interface's part of a history. Places (`at`) are indexes into the history's events.
#[derive(Debug)]
pub struct Lane<'h> {
    /// How it is configured.
    pub shape: &'h InterfaceShape,
    /// Its events in the order of the history; each names an element of one of the lists below.
    pub steps: Vec<Step>,
    /// Messages handed over.
    pub sends: Vec<Send<'h>>,
    /// The calls of each id, as indexes into `sends`.
    pub sends_of: BTreeMap<Uuid, Vec<usize>>,
    /// Assignments.
    pub assigned: Vec<Assigned<'h>>,
    /// Reports.
    pub reports: Vec<Report<'h>>,
    /// Grants.
    pub granted: Vec<Granted<'h>>,
    /// Deliveries.
    pub delivered: Vec<Delivered<'h>>,
    /// Consumers' answers.
    pub answers: Vec<Answer<'h>>,
    /// Reads that were answered, in the order in which they were.
    pub reads: Vec<Read<'h>>,
    /// Operators' calls.
    pub operates: Vec<Operate<'h>>,
    /// Where it stood in the end.
    pub last: Option<(usize, &'h Standing)>,
    /// Its messages in the end.
    pub messages: Vec<FinalMessage<'h>>,
    /// Its dead letters in the end.
    pub letters: Vec<Letter<'h>>,
    /// What actors saw broken themselves.
    pub unlawful: Vec<(usize, u8, &'h str)>,
    /// Every sight of a message under a sequence, in order.
    pub sights: Vec<Sight>,
    /// The first id seen under each sequence.
    pub ids: BTreeMap<u64, Uuid>,
    /// Ids that redrives at the tail may have got, and the sequence of the dead letter each came from.
    pub redrives: BTreeMap<Uuid, u64>,
    /// Sequences that redrives at the tail are known to have got.
    tails: BTreeSet<u64>,
    /// The destinations that reports named, by sequence.
    named: BTreeMap<u64, Vec<&'h [Name]>>,
}

/// One event of a lane, as the index of an element of that name's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Send(usize),
    Sent(usize),
    Assigned(usize),
    Report(usize),
    Reported(usize),
    Granted(usize),
    Delivered(usize),
    Answer(usize),
    Answered(usize),
    Reading(usize),
    Read(usize),
    Operate(usize),
    Operated(usize),
}

/// See [`What::Send`]; so for the others.
#[derive(Debug)]
pub struct Send<'h> {
    pub at: usize,
    pub actor: &'h Name,
    pub message_id: Uuid,
    pub digest: Digest,
    pub order: Option<u64>,
    pub numbered: Option<&'h Numbered>,
    /// Where and what was answered.
    pub sent: Option<(usize, &'h SendResult)>,
}

#[derive(Debug)]
pub struct Assigned<'h> {
    pub at: usize,
    pub sequence: u64,
    pub message_id: Uuid,
    /// The stage's place in the interface's order; None for one that it has not.
    pub stage: Option<usize>,
    pub stage_name: &'h Name,
    pub turn: u32,
    pub attempts: u32,
    pub digest: Digest,
}

#[derive(Debug)]
pub struct Report<'h> {
    pub at: usize,
    pub sequence: u64,
    /// As of [`Assigned`].
    pub stage: Option<usize>,
    pub turn: u32,
    pub kind: &'h ReportKind,
    /// Where and what was answered.
    pub reported: Option<(usize, &'h Verdict)>,
}

#[derive(Debug)]
pub struct Granted<'h> {
    pub at: usize,
    pub actor: &'h Name,
    pub destination: &'h Name,
    pub epoch: u64,
    pub checkpoint: u64,
    pub raw: bool,
}

#[derive(Debug)]
pub struct Delivered<'h> {
    pub at: usize,
    pub actor: &'h Name,
    pub destination: &'h Name,
    pub epoch: u64,
    pub sequence: u64,
    pub message_id: Uuid,
    pub content: &'h Content,
    pub raw: bool,
}

#[derive(Debug)]
pub struct Answer<'h> {
    pub at: usize,
    pub actor: &'h Name,
    pub destination: &'h Name,
    pub epoch: u64,
    pub sequence: u64,
    pub kind: AnswerKind,
    /// Where and what was answered, and the checkpoint after it.
    pub answered: Option<(usize, &'h Verdict, Option<u64>)>,
}

#[derive(Debug)]
pub struct Read<'h> {
    /// Where it was begun.
    pub began: usize,
    /// Where it was answered.
    pub at: usize,
    pub standing: &'h Standing,
}

#[derive(Debug)]
pub struct Operate<'h> {
    pub at: usize,
    pub sequence: u64,
    pub message_id: Uuid,
    pub destination: Option<&'h Name>,
    pub deed: Deed,
    /// Where and what was answered.
    pub operated: Option<(usize, &'h OperateResult)>,
}

#[derive(Debug)]
pub struct FinalMessage<'h> {
    pub at: usize,
    pub sequence: u64,
    pub message_id: Uuid,
    pub status: MessageStatus,
    pub redrive_of: u64,
    pub events: &'h [MessageEvent],
}

#[derive(Debug)]
pub struct Letter<'h> {
    pub at: usize,
    pub sequence: u64,
    pub destination: Option<&'h Name>,
    /// As of [`Assigned`].
    pub stage: Option<usize>,
    pub message_id: Uuid,
    pub digest: Digest,
}

/// Somebody saw a message under a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Where.
    pub at: usize,
    /// The sequence.
    pub sequence: u64,
    /// The message.
    pub message_id: Uuid,
}

impl Send<'_> {
    /// The sequence it was answered with, and where.
    #[must_use]
    pub fn accepted(&self) -> Option<(usize, u64)> {
        match self.sent {
            Some((at, SendResult::Accepted { sequence, .. })) => Some((at, *sequence)),
            _ => None,
        }
    }

    /// It certainly changed nothing.
    #[must_use]
    pub fn refused(&self) -> bool {
        matches!(self.sent, Some((_, SendResult::Refused { .. })))
    }
}

impl Report<'_> {
    /// It may have taken effect.
    #[must_use]
    pub fn may_count(&self) -> bool {
        !matches!(self.reported, Some((_, Verdict::Refused { .. })))
    }
}

impl Answer<'_> {
    /// It may have taken effect.
    #[must_use]
    pub fn may_count(&self) -> bool {
        !matches!(self.answered, Some((_, Verdict::Refused { .. }, _)))
    }
}

impl Operate<'_> {
    /// It may have taken effect.
    #[must_use]
    pub fn may_count(&self) -> bool {
        !matches!(self.operated, Some((_, OperateResult::Refused { .. })))
    }

    fn may_add_a_sequence(&self) -> bool {
        let redrive = matches!(
            self.deed,
            Deed::Redrive {
                in_place_only: false
            }
        );
        let in_place = matches!(
            self.operated,
            Some((_, OperateResult::Redriven { in_place: true, .. }))
        );
        redrive && !in_place && self.may_count()
    }
}

impl Lane<'_> {
    /// Whether `sequence` may be meant for other destinations only, so that `destination` does not get it.
    #[must_use]
    pub fn may_pass(&self, destination: &Name, sequence: u64) -> bool {
        let named_others = self
            .named
            .get(&sequence)
            .is_some_and(|reports| reports.iter().any(|names| !names.contains(destination)));
        named_others || self.may_be_tail(sequence)
    }

    /// The first sequence after `after` and before `before` that `destination` must get.
    #[must_use]
    pub fn first_due(&self, destination: &Name, after: u64, before: u64) -> Option<u64> {
        (after + 1..before).find(|sequence| !self.may_pass(destination, *sequence))
    }

    /// Whether `sequence` may be a redrive at the tail.
    #[must_use]
    pub fn may_be_tail(&self, sequence: u64) -> bool {
        self.tails.contains(&sequence)
            || match self.ids.get(&sequence) {
                Some(id) => self.redrives.contains_key(id),
                None => self
                    .operates
                    .iter()
                    .any(|operate| operate.may_add_a_sequence() && operate.tail().is_none()),
            }
    }

    /// Redrives that may have added a sequence.
    pub fn tail_redrives(&self) -> impl Iterator<Item = &Operate<'_>> {
        self.operates
            .iter()
            .filter(|operate| operate.may_add_a_sequence())
    }

    /// True where two sequences of one id are so far apart that the first may have been forgotten before the second.
    #[must_use]
    pub fn may_be_forgotten(&self, first: u64, second: u64) -> bool {
        second.abs_diff(first) > u64::from(self.shape.dedup_messages)
    }
}

impl Operate<'_> {
    /// The sequence a redrive at the tail got, where that is known.
    #[must_use]
    pub fn tail(&self) -> Option<u64> {
        match self.operated {
            Some((
                _,
                OperateResult::Redriven {
                    in_place: false,
                    sequence,
                },
            )) => Some(*sequence),
            _ => None,
        }
    }
}

impl<'h> Lane<'h> {
    fn new(shape: &'h InterfaceShape) -> Self {
        Self {
            shape,
            steps: Vec::new(),
            sends: Vec::new(),
            sends_of: BTreeMap::new(),
            assigned: Vec::new(),
            reports: Vec::new(),
            granted: Vec::new(),
            delivered: Vec::new(),
            answers: Vec::new(),
            reads: Vec::new(),
            operates: Vec::new(),
            last: None,
            messages: Vec::new(),
            letters: Vec::new(),
            unlawful: Vec::new(),
            sights: Vec::new(),
            ids: BTreeMap::new(),
            redrives: BTreeMap::new(),
            tails: BTreeSet::new(),
            named: BTreeMap::new(),
        }
    }

    fn stage(&self, name: &Name) -> Option<usize> {
        self.shape
            .stages
            .iter()
            .position(|stage| stage.name == *name)
    }

    /// What follows from the events of the whole lane.
    fn derive(&mut self) {
        self.sights = self.all_sights();
        for sight in &self.sights {
            self.ids.entry(sight.sequence).or_insert(sight.message_id);
        }
        for report in &self.reports {
            if let ReportKind::Complete { destinations, .. } = report.kind
                && !destinations.is_empty()
                && report.may_count()
            {
                self.named
                    .entry(report.sequence)
                    .or_default()
                    .push(destinations);
            }
        }
        self.tails = self.operates.iter().filter_map(Operate::tail).collect();
        self.redrives = self.possible_redrives();
    }

    fn all_sights(&self) -> Vec<Sight> {
        let sight = |at, sequence, message_id| Sight {
            at,
            sequence,
            message_id,
        };
        let sends = self.sends.iter().filter_map(|send| {
            let (at, sequence) = send.accepted()?;
            Some(sight(at, sequence, send.message_id))
        });
        let assigned = self.assigned.iter();
        let assigned = assigned.map(|a| sight(a.at, a.sequence, a.message_id));
        let delivered = self.delivered.iter();
        let delivered = delivered.map(|d| sight(d.at, d.sequence, d.message_id));
        let operates = self.operates.iter();
        let operates = operates.map(|o| sight(o.at, o.sequence, o.message_id));
        let messages = self.messages.iter();
        let messages = messages.map(|m| sight(m.at, m.sequence, m.message_id));
        let letters = self.letters.iter();
        let letters = letters.map(|l| sight(l.at, l.sequence, l.message_id));
        let mut sights: Vec<_> = sends
            .chain(assigned)
            .chain(delivered)
            .chain(operates)
            .chain(messages)
            .chain(letters)
            .collect();
        sights.sort_by_key(|sight| sight.at);
        sights
    }

    /// A redrive's id is made of the dead letter's and a count of the interface's redrives at the tail, which is at
    /// most the number of calls that may have made one.
    fn possible_redrives(&self) -> BTreeMap<Uuid, u64> {
        let mut redrives = BTreeMap::new();
        let count = self.tail_redrives().count() as u64;
        for operate in self.tail_redrives() {
            if let Some(id) = self.ids.get(&operate.sequence) {
                for number in 1..=count {
                    let id = Uuid::new_v5(id, &number.to_be_bytes());
                    redrives.insert(id, operate.sequence);
                }
            }
        }
        redrives
    }
}
