//! A history, sorted by interface: what the checks read. Interfaces are independent, so each is judged alone.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::history::{
    AnswerKind, Content, Deed, Event, History, InterfaceShape, MessageEvent, MessageStatus,
    Numbered, OperateResult, ReportKind, SendResult, Standing, Verdict, What,
};
use crate::name::{Digest, Name};

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

/// Why a history can't be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) at: usize,
    pub(crate) text: String,
}

/// Sorts `history` by interface.
pub(crate) fn index(history: &History) -> Result<BTreeMap<Name, Lane<'_>>, Unreadable> {
    let mut index = Index::default();
    for (at, event) in history.events.iter().enumerate() {
        index
            .take(at, event)
            .map_err(|text| Unreadable { at, text })?;
    }
    for lane in index.lanes.values_mut() {
        lane.derive();
    }
    Ok(index.lanes)
}

#[derive(Default)]
struct Index<'h> {
    lanes: BTreeMap<Name, Lane<'h>>,
    /// The interface of each call, and what it is there.
    calls: BTreeMap<u64, (Name, Call)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Send(usize),
    Report(usize),
    Answer(usize),
    Reading(usize),
    Operate(usize),
}

impl<'h> Index<'h> {
    fn lane(&mut self, interface: &Name) -> Result<&mut Lane<'h>, String> {
        self.lanes
            .get_mut(interface)
            .ok_or_else(|| format!("interface {interface} is used and was not declared"))
    }

    /// Notes a call; its answer finds it by its number.
    fn call(&mut self, call: u64, interface: &Name, what: Call) -> Result<(), String> {
        match self.calls.insert(call, (interface.clone(), what)) {
            None => Ok(()),
            Some(_) => Err(format!("call {call} is made twice")),
        }
    }

    fn answered(&mut self, call: u64) -> Result<(&mut Lane<'h>, Call), String> {
        let (interface, what) = self
            .calls
            .get(&call)
            .cloned()
            .ok_or_else(|| format!("call {call} is answered and was not made"))?;
        Ok((self.lane(&interface)?, what))
    }

    fn take(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        match &event.what {
            What::Interface(shape) => {
                let lane = Lane::new(shape);
                if self.lanes.insert(shape.name.clone(), lane).is_some() {
                    return Err(format!("interface {} is declared twice", shape.name));
                }
            }
            What::Fault { .. } => {}
            What::Send { .. }
            | What::Report { .. }
            | What::Answer { .. }
            | What::Reading { .. }
            | What::Operate { .. } => self.take_call(at, event)?,
            What::Sent { .. }
            | What::Reported { .. }
            | What::Answered { .. }
            | What::Read { .. }
            | What::Operated { .. } => self.take_answer(at, &event.what)?,
            _ => self.take_sight(at, event)?,
        }
        Ok(())
    }

    fn take_call(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        let actor = &event.actor;
        match &event.what {
            What::Send {
                call,
                interface,
                message_id,
                digest,
                order,
                numbered,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.sends.len();
                lane.sends.push(Send {
                    at,
                    actor,
                    message_id: *message_id,
                    digest: *digest,
                    order: *order,
                    numbered: numbered.as_ref(),
                    sent: None,
                });
                lane.sends_of.entry(*message_id).or_default().push(number);
                lane.steps.push(Step::Send(number));
                self.call(*call, interface, Call::Send(number))
            }
            What::Report {
                call,
                interface,
                sequence,
                stage,
                turn,
                kind,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.reports.len();
                lane.reports.push(Report {
                    at,
                    sequence: *sequence,
                    stage: lane.stage(stage),
                    turn: *turn,
                    kind,
                    reported: None,
                });
                lane.steps.push(Step::Report(number));
                self.call(*call, interface, Call::Report(number))
            }
            What::Answer {
                call,
                interface,
                destination,
                epoch,
                sequence,
                kind,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.answers.len();
                lane.answers.push(Answer {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    sequence: *sequence,
                    kind: *kind,
                    answered: None,
                });
                lane.steps.push(Step::Answer(number));
                self.call(*call, interface, Call::Answer(number))
            }
            What::Reading { call, interface } => {
                self.lane(interface)?.steps.push(Step::Reading(at));
                self.call(*call, interface, Call::Reading(at))
            }
            What::Operate {
                call,
                interface,
                sequence,
                message_id,
                destination,
                deed,
            } => {
                let lane = self.lane(interface)?;
                let number = lane.operates.len();
                lane.operates.push(Operate {
                    at,
                    sequence: *sequence,
                    message_id: *message_id,
                    destination: destination.as_ref(),
                    deed: *deed,
                    operated: None,
                });
                lane.steps.push(Step::Operate(number));
                self.call(*call, interface, Call::Operate(number))
            }
            _ => Ok(()),
        }
    }

    fn take_answer(&mut self, at: usize, what: &'h What) -> Result<(), String> {
        let (What::Sent { call, .. }
        | What::Reported { call, .. }
        | What::Answered { call, .. }
        | What::Read { call, .. }
        | What::Operated { call, .. }) = what
        else {
            return Ok(());
        };
        let (lane, of) = self.answered(*call)?;
        let first = match (what, of) {
            (What::Sent { result, .. }, Call::Send(number)) => {
                lane.steps.push(Step::Sent(number));
                lane.sends[number].sent.replace((at, result)).is_none()
            }
            (What::Reported { verdict, .. }, Call::Report(number)) => {
                lane.steps.push(Step::Reported(number));
                let answer = (at, verdict);
                lane.reports[number].reported.replace(answer).is_none()
            }
            (
                What::Answered {
                    verdict,
                    checkpoint,
                    ..
                },
                Call::Answer(number),
            ) => {
                lane.steps.push(Step::Answered(number));
                let answer = (at, verdict, *checkpoint);
                lane.answers[number].answered.replace(answer).is_none()
            }
            (What::Read { standing, .. }, Call::Reading(began)) => {
                lane.steps.push(Step::Read(lane.reads.len()));
                let read = Read {
                    began,
                    at,
                    standing,
                };
                lane.reads.push(read);
                true
            }
            (What::Operated { result, .. }, Call::Operate(number)) => {
                lane.steps.push(Step::Operated(number));
                lane.operates[number]
                    .operated
                    .replace((at, result))
                    .is_none()
            }
            _ => return Err(format!("call {call} is answered as another kind of call")),
        };
        match first {
            true => Ok(()),
            false => Err(format!("call {call} is answered twice")),
        }
    }

    fn take_sight(&mut self, at: usize, event: &'h Event) -> Result<(), String> {
        let actor = &event.actor;
        match &event.what {
            What::Assigned {
                interface,
                sequence,
                message_id,
                stage,
                turn,
                attempts,
                digest,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Assigned(lane.assigned.len()));
                lane.assigned.push(Assigned {
                    at,
                    sequence: *sequence,
                    message_id: *message_id,
                    stage: lane.stage(stage),
                    stage_name: stage,
                    turn: *turn,
                    attempts: *attempts,
                    digest: *digest,
                });
            }
            What::Granted {
                interface,
                destination,
                epoch,
                checkpoint,
                raw,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Granted(lane.granted.len()));
                lane.granted.push(Granted {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    checkpoint: *checkpoint,
                    raw: *raw,
                });
            }
            What::Delivered {
                interface,
                destination,
                epoch,
                sequence,
                message_id,
                content,
                raw,
            } => {
                let lane = self.lane(interface)?;
                lane.steps.push(Step::Delivered(lane.delivered.len()));
                lane.delivered.push(Delivered {
                    at,
                    actor,
                    destination,
                    epoch: *epoch,
                    sequence: *sequence,
                    message_id: *message_id,
                    content,
                    raw: *raw,
                });
            }
            _ => self.take_end(at, &event.what)?,
        }
        Ok(())
    }

    fn take_end(&mut self, at: usize, what: &'h What) -> Result<(), String> {
        match what {
            What::Unlawful {
                interface,
                guarantee,
                text,
            } => self
                .lane(interface)?
                .unlawful
                .push((at, *guarantee, text.as_str())),
            What::Final {
                interface,
                standing,
            } => self.lane(interface)?.last = Some((at, standing)),
            What::FinalMessage {
                interface,
                sequence,
                message_id,
                status,
                redrive_of,
                events,
            } => self.lane(interface)?.messages.push(FinalMessage {
                at,
                sequence: *sequence,
                message_id: *message_id,
                status: *status,
                redrive_of: *redrive_of,
                events,
            }),
            What::FinalDeadLetter {
                interface,
                sequence,
                destination,
                message_id,
                stage,
                digest,
                ..
            } => {
                let lane = self.lane(interface)?;
                let stage = stage.as_ref().and_then(|stage| lane.stage(stage));
                lane.letters.push(Letter {
                    at,
                    sequence: *sequence,
                    destination: destination.as_ref(),
                    stage,
                    message_id: *message_id,
                    digest: *digest,
                });
            }
            _ => {}
        }
        Ok(())
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
