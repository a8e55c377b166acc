//! A cluster in one thread, doing one thing after the other, with clients whose calls begin, take effect and are
//! answered at random times: a generator of histories that keep every promise.

mod consumers;
mod operators;
mod producers;
mod workers;

use std::collections::{BTreeMap, VecDeque};

use ordo_oracle::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

const INTERFACE: &str = "lab";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Pending,
    Ready,
    Failed(SkipCause),
    Filtered,
}

#[derive(Clone)]
struct Slot {
    id: Uuid,
    ingested: Digest,
    payload: Digest,
    stage: usize,
    turn: u32,
    entered: u32,
    attempts: u32,
    losses: u32,
    status: Status,
    /// None: every destination.
    named: Option<Vec<Name>>,
    redrive_of: u64,
    rejected: Vec<Name>,
    events: Vec<MessageEvent>,
}

#[derive(Clone)]
struct LetterState {
    stage: Option<usize>,
    cause: DeadLetterCause,
    slot: Slot,
    redriven_as: u64,
}

#[derive(Default)]
struct Destination {
    checkpoint: u64,
    epoch: u64,
    holder: usize,
    /// The last sequence the holder received, while its epoch is the destination's.
    received: u64,
    holder_epoch: u64,
    attempts: u32,
}

/// A call on its way to the cluster.
enum Call {
    Report {
        call: u64,
        actor: Name,
        sequence: u64,
        stage: usize,
        turn: u32,
        kind: ReportKind,
    },
    Answer {
        call: u64,
        actor: Name,
        destination: Name,
        epoch: u64,
        sequence: u64,
        kind: AnswerKind,
    },
    Read {
        call: u64,
        read: Option<Standing>,
    },
    Operate {
        call: u64,
        sequence: u64,
        destination: Option<Name>,
        deed: Deed,
        result: Option<OperateResult>,
    },
}

struct Sending {
    call: u64,
    id: Uuid,
    digest: Digest,
    result: Option<SendResult>,
}

/// See the module.
pub struct Sequential {
    random: StdRng,
    events: Vec<Event>,
    calls: u64,
    shape: InterfaceShape,
    slots: Vec<Slot>,
    known: BTreeMap<Uuid, u64>,
    watermark: u64,
    destinations: BTreeMap<Name, Destination>,
    letters: BTreeMap<(u64, Option<Name>), LetterState>,
    redrives: u64,
    failed: u64,
    filtered: u64,
    /// By producer, in the order in which they were sent.
    sending: [VecDeque<Sending>; 2],
    sent: [u64; 2],
    repeats: Vec<Sending>,
    ids: Vec<(Uuid, Digest)>,
    holds: Vec<(Name, u64, usize, u32, Digest)>,
    under_way: Vec<Call>,
    /// Nothing new begins and nothing fails: everything comes to its end.
    draining: bool,
}

/// A history of about `steps` things, everything ended.
pub fn history(seed: u64, steps: usize) -> History {
    let mut sequential = Sequential::new(seed);
    for _ in 0..steps {
        sequential.step();
    }
    sequential.draining = true;
    while !sequential.is_done() {
        sequential.step();
    }
    sequential.finish();
    History {
        events: sequential.events,
    }
}

impl Sequential {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let stages = ["check", "enrich", "route"];
        let stages = stages[..random.random_range(0..=3)].iter();
        let destinations = ["archive", "ward"];
        let destinations = &destinations[..random.random_range(1..=2)];
        let shape = InterfaceShape {
            name: INTERFACE.into(),
            stages: stages
                .map(|name| StageShape {
                    name: (*name).into(),
                    max_attempts: random.random_range(1..=3),
                    max_losses: random.random_range(1..=3),
                })
                .collect(),
            destinations: destinations
                .iter()
                .map(|name| DestinationShape {
                    name: (*name).into(),
                    max_attempts: random.random_range(1..=3),
                })
                .collect(),
            dedup_messages: 1000,
            window: 100_000,
        };
        let destinations = shape.destinations.iter();
        let destinations = destinations.map(|d| (d.name.clone(), Destination::default()));
        let mut sequential = Self {
            random,
            events: Vec::new(),
            calls: 0,
            destinations: destinations.collect(),
            shape: shape.clone(),
            slots: Vec::new(),
            known: BTreeMap::new(),
            watermark: 0,
            letters: BTreeMap::new(),
            redrives: 0,
            failed: 0,
            filtered: 0,
            sending: Default::default(),
            sent: [0; 2],
            repeats: Vec::new(),
            ids: Vec::new(),
            holds: Vec::new(),
            under_way: Vec::new(),
            draining: false,
        };
        sequential.record("creator", What::Interface(shape));
        sequential
    }

    fn record(&mut self, actor: &str, what: What) {
        let at_us = self.events.last().map_or(0, |event| event.at_us) + 10;
        self.events.push(Event {
            at_us,
            actor: actor.into(),
            what,
        });
    }

    fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn is_done(&self) -> bool {
        let last = self.slots.len() as u64;
        self.sending.iter().all(VecDeque::is_empty)
            && self.repeats.is_empty()
            && self.under_way.is_empty()
            && self.destinations.values().all(|d| d.checkpoint == last)
    }

    fn step(&mut self) {
        match self.random.random_range(0..14) {
            0 | 1 if !self.draining => self.send(),
            2 | 3 => self.take_sent(),
            4 => self.repeat(),
            5 | 6 => self.assign(),
            7 => self.report(),
            8 if self.chance(0.1) && !self.draining => self.lose(),
            8 | 9 => self.take(),
            10 => self.grant(),
            11 => self.deliver(),
            12 => self.answer(),
            13 if !self.draining => self.read_or_operate(),
            _ => {}
        }
    }

    fn digest(&mut self) -> Digest {
        Digest(self.random.random())
    }

    fn append(&mut self, mut slot: Slot) -> u64 {
        if slot.stage == self.shape.stages.len() {
            slot.status = Status::Ready;
        }
        self.known.insert(slot.id, self.slots.len() as u64 + 1);
        self.slots.push(slot);
        let sequence = self.slots.len() as u64;
        self.release();
        sequence
    }

    fn release(&mut self) {
        while let Some(slot) = self.slots.get(self.watermark as usize) {
            match slot.status {
                Status::Pending => break,
                Status::Failed(_) => self.failed += 1,
                Status::Filtered => self.filtered += 1,
                Status::Ready => {}
            }
            self.watermark += 1;
        }
        for name in self.names() {
            while self.destinations[&name].checkpoint < self.watermark
                && !self.is_for(&name, self.destinations[&name].checkpoint + 1)
            {
                self.destinations.get_mut(&name).unwrap().checkpoint += 1;
            }
        }
        self.resolve();
    }

    /// A dead letter is resolved when its redrive is done everywhere.
    fn resolve(&mut self) {
        let through = self.destinations.values().map(|d| d.checkpoint).min();
        let through = through.unwrap_or_default();
        self.letters
            .retain(|_, letter| letter.redriven_as == 0 || letter.redriven_as > through);
    }

    fn names(&self) -> Vec<Name> {
        self.destinations.keys().cloned().collect()
    }

    fn is_for(&self, destination: &Name, sequence: u64) -> bool {
        let named = &self.slots[sequence as usize - 1].named;
        named
            .as_ref()
            .is_none_or(|named| named.contains(destination))
    }

    fn fail(&mut self, sequence: u64, cause: SkipCause, why: DeadLetterCause) {
        let slot = &mut self.slots[sequence as usize - 1];
        slot.status = Status::Failed(cause);
        let (stage, slot) = (Some(slot.stage), slot.clone());
        self.bury(sequence, None, stage, why, slot);
        self.release();
    }

    fn bury(
        &mut self,
        sequence: u64,
        destination: Option<Name>,
        stage: Option<usize>,
        cause: DeadLetterCause,
        slot: Slot,
    ) {
        // A redrive that failed replaces its dead letter.
        self.letters
            .retain(|_, letter| letter.redriven_as != sequence);
        let letter = LetterState {
            stage,
            cause,
            slot,
            redriven_as: 0,
        };
        self.letters.insert((sequence, destination), letter);
    }

    /// A call takes effect, or its answer comes, or it is lost on its way.
    fn take(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.under_way.len());
        let call = self.under_way.swap_remove(index);
        let lost = !self.draining && self.chance(0.1);
        match call {
            Call::Report {
                call,
                actor,
                sequence,
                stage,
                turn,
                kind,
            } => {
                if lost {
                    return;
                }
                let verdict = match self.apply_report(sequence, stage, turn, kind) {
                    true => Verdict::Recorded,
                    false => Verdict::Refused {
                        reason: "REASON_STALE".into(),
                    },
                };
                if &*actor == "w1" {
                    self.record(&actor, What::Reported { call, verdict });
                }
            }
            Call::Answer {
                call,
                actor,
                destination,
                epoch,
                sequence,
                kind,
            } => {
                if lost {
                    return;
                }
                let recorded = self.apply_answer(&destination, epoch, sequence, kind);
                let checkpoint = recorded.then(|| self.destinations[&destination].checkpoint);
                let verdict = match recorded {
                    true => Verdict::Recorded,
                    false => Verdict::Refused {
                        reason: "REASON_EPOCH".into(),
                    },
                };
                if &*actor == "c1" {
                    let what = What::Answered {
                        call,
                        verdict,
                        checkpoint,
                    };
                    self.record(&actor, what);
                }
            }
            Call::Read { call, read: None } => {
                let read = Some(self.standing());
                self.under_way.push(Call::Read { call, read });
            }
            Call::Read {
                call,
                read: Some(standing),
            } => self.record("reader", What::Read { call, standing }),
            Call::Operate {
                call,
                sequence,
                destination,
                deed,
                result: None,
            } => {
                let result = Some(self.apply_deed(sequence, destination.clone(), deed));
                self.under_way.push(Call::Operate {
                    call,
                    sequence,
                    destination,
                    deed,
                    result,
                });
            }
            Call::Operate {
                call,
                result: Some(result),
                ..
            } => {
                let result = match lost {
                    true => OperateResult::Unknown { why: "cut".into() },
                    false => result,
                };
                self.record("operator", What::Operated { call, result });
            }
        }
    }

    fn standing(&self) -> Standing {
        let destinations = self.destinations.iter().map(|(name, d)| {
            let standing = DestinationStanding {
                checkpoint: d.checkpoint,
                epoch: d.epoch,
            };
            (name.clone(), standing)
        });
        Standing {
            last_sequence: self.slots.len() as u64,
            watermark: self.watermark,
            destinations: destinations.collect(),
            dead_letters: self.letters.len() as u64,
            failed: self.failed,
            filtered: self.filtered,
        }
    }

    fn finish(&mut self) {
        let interface = Name::from(INTERFACE);
        let standing = self.standing();
        self.record(
            "reader",
            What::Final {
                interface: interface.clone(),
                standing,
            },
        );
        for (sequence, slot) in (1..).zip(self.slots.clone()) {
            let took = |d: &DestinationShape| {
                let named = slot.named.as_ref().is_none_or(|n| n.contains(&d.name));
                named && !slot.rejected.contains(&d.name)
            };
            let delivered =
                slot.status == Status::Ready && self.shape.destinations.iter().any(took);
            let what = What::FinalMessage {
                interface: interface.clone(),
                sequence,
                message_id: slot.id,
                status: match delivered {
                    true => MessageStatus::Delivered,
                    false => MessageStatus::Skipped,
                },
                redrive_of: slot.redrive_of,
                events: slot.events,
            };
            self.record("reader", what);
        }
        for ((sequence, destination), letter) in self.letters.clone() {
            let stage = letter
                .stage
                .map(|stage| self.shape.stages[stage].name.clone());
            let what = What::FinalDeadLetter {
                interface: interface.clone(),
                sequence,
                destination,
                message_id: letter.slot.id,
                stage,
                cause: letter.cause,
                digest: letter.slot.payload,
                redriven_as: letter.redriven_as,
            };
            self.record("reader", what);
        }
    }
}
