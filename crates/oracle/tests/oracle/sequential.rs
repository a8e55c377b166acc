//! A cluster in one thread, doing one thing after the other, with clients whose calls begin, take effect and are
//! answered at random times: a generator of histories that keep every promise.

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

    fn send(&mut self) {
        let producer = self.random.random_range(0..2_usize);
        self.sent[producer] += 1;
        let order = self.sent[producer];
        let id = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        let digest = self.digest();
        let call = self.call();
        let numbered = (producer == 1).then(|| Numbered {
            producer: "numberer".into(),
            number: order,
        });
        self.record(
            ["p0", "p1"][producer],
            What::Send {
                call,
                interface: INTERFACE.into(),
                message_id: id,
                digest,
                order: Some(order),
                numbered,
            },
        );
        self.ids.push((id, digest));
        self.sending[producer].push_back(Sending {
            call,
            id,
            digest,
            result: None,
        });
    }

    /// A producer's first untaken message takes effect, or its first call is answered.
    fn take_sent(&mut self) {
        let producer = self.random.random_range(0..2_usize);
        let answer = self.chance(0.5);
        let first = self.sending[producer].front();
        if answer && first.is_some_and(|sending| sending.result.is_some()) {
            let done = self.sending[producer].pop_front().unwrap();
            // Some answers never come.
            let result = if self.chance(0.05) {
                SendResult::Unknown { why: "cut".into() }
            } else {
                done.result.unwrap()
            };
            let call = done.call;
            self.record(["p0", "p1"][producer], What::Sent { call, result });
            return;
        }
        let untaken = self.sending[producer]
            .iter()
            .position(|sending| sending.result.is_none());
        let Some(untaken) = untaken else { return };
        let (id, digest) = {
            let sending = &self.sending[producer][untaken];
            (sending.id, sending.digest)
        };
        // Numbered ones must not leave a gap.
        let fate = self.random.random_range(0..40);
        let result = match fate {
            0 if producer == 0 => SendResult::Refused {
                reason: "REASON_WINDOW_FULL".into(),
            },
            1 if producer == 0 => SendResult::Unknown { why: "lost".into() },
            _ => self.ingest(id, digest),
        };
        self.sending[producer][untaken].result = Some(result);
    }

    fn repeat(&mut self) {
        if self.chance(0.5) && !self.ids.is_empty() && !self.draining {
            let (id, digest) = self.ids[self.random.random_range(0..self.ids.len())];
            let digest = if self.chance(0.3) {
                self.digest()
            } else {
                digest
            };
            let call = self.call();
            self.record(
                "p2",
                What::Send {
                    call,
                    interface: INTERFACE.into(),
                    message_id: id,
                    digest,
                    order: None,
                    numbered: None,
                },
            );
            self.repeats.push(Sending {
                call,
                id,
                digest,
                result: None,
            });
        } else if let Some(sending) = self.repeats.pop() {
            let result = match self.known.contains_key(&sending.id) {
                true => self.ingest(sending.id, sending.digest),
                false => SendResult::Refused {
                    reason: "REASON_PAUSED".into(),
                },
            };
            let call = sending.call;
            self.record("p2", What::Sent { call, result });
        }
    }

    fn ingest(&mut self, id: Uuid, digest: Digest) -> SendResult {
        if let Some(sequence) = self.known.get(&id).copied() {
            return match self.slots[sequence as usize - 1].ingested == digest {
                true => SendResult::Accepted {
                    sequence,
                    duplicate: true,
                },
                false => SendResult::Refused {
                    reason: "REASON_CONFLICTING_PAYLOAD".into(),
                },
            };
        }
        let sequence = self.append(Slot {
            id,
            ingested: digest,
            payload: digest,
            stage: 0,
            turn: 1,
            entered: 1,
            attempts: 0,
            losses: 0,
            status: Status::Pending,
            named: None,
            redrive_of: 0,
            rejected: Vec::new(),
            events: Vec::new(),
        });
        SendResult::Accepted {
            sequence,
            duplicate: false,
        }
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

    fn assign(&mut self) {
        let held = |holds: &Vec<(Name, u64, usize, u32, Digest)>, sequence, turn| {
            holds
                .iter()
                .any(|hold| hold.1 == sequence && hold.3 == turn)
        };
        let pending: Vec<u64> = (self.watermark + 1..=self.slots.len() as u64)
            .filter(|sequence| {
                let slot = &self.slots[*sequence as usize - 1];
                slot.status == Status::Pending && !held(&self.holds, *sequence, slot.turn)
            })
            .collect();
        if pending.is_empty() {
            return;
        }
        let sequence = pending[self.random.random_range(0..pending.len())];
        let slot = self.slots[sequence as usize - 1].clone();
        let worker = ["w0", "w1"][self.random.random_range(0..2_usize)];
        self.record(
            worker,
            What::Assigned {
                interface: INTERFACE.into(),
                sequence,
                message_id: slot.id,
                stage: self.shape.stages[slot.stage].name.clone(),
                turn: slot.turn,
                attempts: slot.attempts,
                digest: slot.payload,
            },
        );
        self.holds
            .push((worker.into(), sequence, slot.stage, slot.turn, slot.payload));
    }

    fn report(&mut self) {
        if self.holds.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.holds.len());
        let (actor, sequence, stage, turn, _) = self.holds[index].clone();
        // Some report twice.
        if self.draining || self.chance(0.8) {
            self.holds.swap_remove(index);
        }
        let fate = if self.draining {
            0
        } else {
            self.random.random_range(0..10)
        };
        let kind = match fate {
            0..=3 => ReportKind::Complete {
                digest: None,
                destinations: Vec::new(),
            },
            4 => ReportKind::Complete {
                digest: Some(self.digest()),
                destinations: Vec::new(),
            },
            5 => ReportKind::Complete {
                digest: None,
                destinations: vec![self.shape.destinations[0].name.clone()],
            },
            6 | 7 => ReportKind::Retry,
            8 => ReportKind::Reject,
            _ => ReportKind::Filter,
        };
        let call = self.call();
        self.record(
            &actor.clone(),
            What::Report {
                call,
                interface: INTERFACE.into(),
                sequence,
                stage: self.shape.stages[stage].name.clone(),
                turn,
                kind: kind.clone(),
            },
        );
        self.under_way.push(Call::Report {
            call,
            actor,
            sequence,
            stage,
            turn,
            kind,
        });
    }

    fn lose(&mut self) {
        if self.holds.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.holds.len());
        let (_, sequence, stage, turn, _) = self.holds[index];
        let max = self.shape.stages[stage].max_losses;
        let place = self.shape.stages[stage].name.clone();
        let slot = &mut self.slots[sequence as usize - 1];
        if slot.status != Status::Pending || slot.turn != turn {
            return;
        }
        slot.turn += 1;
        slot.losses += 1;
        slot.events.push(MessageEvent {
            kind: EventKind::Lost,
            place,
        });
        if slot.losses >= max {
            self.fail(sequence, SkipCause::Losses, DeadLetterCause::Losses);
        }
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

    fn apply_report(&mut self, sequence: u64, stage: usize, turn: u32, kind: ReportKind) -> bool {
        let (max, place) = {
            let stage = &self.shape.stages[stage];
            (stage.max_attempts, stage.name.clone())
        };
        let stages = self.shape.stages.len();
        let slot = &mut self.slots[sequence as usize - 1];
        let complete = matches!(kind, ReportKind::Complete { .. });
        let accepted = slot.status == Status::Pending
            && slot.stage == stage
            && turn <= slot.turn
            && if complete {
                turn >= slot.entered
            } else {
                turn == slot.turn
            };
        if !accepted {
            return false;
        }
        slot.turn += 1;
        let event = |kind| MessageEvent {
            kind,
            place: place.clone(),
        };
        match kind {
            ReportKind::Complete {
                digest,
                destinations,
            } => {
                slot.payload = digest.unwrap_or(slot.payload);
                if !destinations.is_empty() {
                    slot.named = Some(destinations);
                }
                slot.entered = slot.turn;
                slot.stage += 1;
                (slot.attempts, slot.losses) = (0, 0);
                if slot.stage == stages {
                    slot.status = Status::Ready;
                }
            }
            ReportKind::Retry => {
                slot.attempts += 1;
                slot.events.push(event(EventKind::Retried));
                if slot.attempts >= max {
                    self.fail(sequence, SkipCause::Attempts, DeadLetterCause::Attempts);
                }
            }
            ReportKind::Reject => {
                slot.events.push(event(EventKind::Rejected));
                self.fail(sequence, SkipCause::Rejected, DeadLetterCause::Rejected);
            }
            ReportKind::Filter => {
                slot.events.push(event(EventKind::Filtered));
                slot.status = Status::Filtered;
            }
        }
        self.release();
        true
    }

    fn grant(&mut self) {
        let names = self.names();
        let name = &names[self.random.random_range(0..names.len())];
        let other = self.chance(0.2);
        let destination = self.destinations.get_mut(name).unwrap();
        if destination.holder_epoch == destination.epoch && destination.epoch > 0 && !other {
            return;
        }
        // The same consumer again, after an answer that voided what it had, or another.
        if other || destination.epoch == 0 || destination.holder_epoch == destination.epoch {
            destination.holder = 1 - destination.holder;
            destination.epoch += 1;
        }
        destination.holder_epoch = destination.epoch;
        destination.received = destination.checkpoint;
        let (epoch, checkpoint) = (destination.epoch, destination.checkpoint);
        let holder = destination.holder;
        // The client library does not always tell of a grant.
        if holder == 1 || self.chance(0.7) {
            let what = What::Granted {
                interface: INTERFACE.into(),
                destination: name.clone(),
                epoch,
                checkpoint,
                raw: holder == 1,
            };
            self.record(["c0", "c1"][holder], what);
        }
    }

    fn deliver(&mut self) {
        for name in self.names() {
            let destination = &self.destinations[&name];
            if destination.epoch == 0 || destination.holder_epoch != destination.epoch {
                continue;
            }
            let from = destination.received.max(destination.checkpoint);
            let next = (from + 1..=self.watermark).find(|next| self.is_for(&name, *next));
            let Some(sequence) = next else { continue };
            let slot = &self.slots[sequence as usize - 1];
            let content = match slot.status {
                Status::Ready => Content::Message {
                    digest: slot.payload,
                    redrive_of: slot.redrive_of,
                },
                Status::Failed(cause) => Content::Skip {
                    cause,
                    dead_letter: self.letters.contains_key(&(sequence, None)),
                },
                Status::Filtered => Content::Skip {
                    cause: SkipCause::Filtered,
                    dead_letter: false,
                },
                Status::Pending => unreachable!("it is released"),
            };
            let (epoch, holder, message_id) = (destination.epoch, destination.holder, slot.id);
            self.destinations.get_mut(&name).unwrap().received = sequence;
            let what = What::Delivered {
                interface: INTERFACE.into(),
                destination: name,
                epoch,
                sequence,
                message_id,
                content,
                raw: holder == 1,
            };
            self.record(["c0", "c1"][holder], what);
        }
    }

    fn answer(&mut self) {
        let names = self.names();
        let name = names[self.random.random_range(0..names.len())].clone();
        let destination = &self.destinations[&name];
        let (epoch, holder) = (destination.holder_epoch, destination.holder);
        let (checkpoint, received) = (destination.checkpoint, destination.received);
        if epoch != destination.epoch || received <= checkpoint {
            return;
        }
        let head = (checkpoint + 1..).find(|s| self.is_for(&name, *s)).unwrap();
        let refuse = !self.draining
            && head == checkpoint + 1
            && self.slots[head as usize - 1].status == Status::Ready
            && self.chance(0.2);
        let (sequence, kind) = if refuse {
            let kinds = [
                AnswerKind::Retry,
                AnswerKind::Reject,
                AnswerKind::Unavailable,
            ];
            (head, kinds[self.random.random_range(0..3_usize)])
        } else {
            let through = self.random.random_range(checkpoint + 1..=received);
            let seen = (checkpoint + 1..=through).rfind(|s| self.is_for(&name, *s));
            let Some(through) = seen else { return };
            (through, AnswerKind::Ack)
        };
        let actor: Name = ["c0", "c1"][holder].into();
        let call = self.call();
        let what = What::Answer {
            call,
            interface: INTERFACE.into(),
            destination: name.clone(),
            epoch,
            sequence,
            kind,
        };
        self.record(&actor, what);
        self.under_way.push(Call::Answer {
            call,
            actor,
            destination: name,
            epoch,
            sequence,
            kind,
        });
    }

    fn apply_answer(&mut self, name: &Name, epoch: u64, sequence: u64, kind: AnswerKind) -> bool {
        let max = self.shape.destinations.iter().find(|d| d.name == *name);
        let max = max.unwrap().max_attempts;
        let destination = self.destinations.get_mut(name).unwrap();
        if destination.epoch != epoch {
            return false;
        }
        if kind == AnswerKind::Ack {
            if sequence > destination.checkpoint {
                destination.checkpoint = sequence;
                destination.attempts = 0;
            }
            self.release();
            return true;
        }
        if sequence != destination.checkpoint + 1 {
            return false;
        }
        destination.epoch += 1;
        if kind == AnswerKind::Unavailable {
            return true;
        }
        let (mut told, mut rejected) = (EventKind::DeliveryRetried, false);
        destination.attempts += 1;
        if kind == AnswerKind::Reject || destination.attempts >= max {
            (told, rejected) = (EventKind::DeliveryRejected, true);
            destination.checkpoint = sequence;
            destination.attempts = 0;
        }
        let slot = &mut self.slots[sequence as usize - 1];
        slot.events.push(MessageEvent {
            kind: told,
            place: name.clone(),
        });
        if rejected {
            slot.rejected.push(name.clone());
            let slot = slot.clone();
            let cause = DeadLetterCause::DeliveryRejected;
            self.bury(sequence, Some(name.clone()), None, cause, slot);
        }
        self.release();
        true
    }

    fn read_or_operate(&mut self) {
        let call = self.call();
        let idle: Vec<_> = self.letters.keys().cloned().collect();
        if idle.is_empty() || self.chance(0.5) {
            let interface = INTERFACE.into();
            self.record("reader", What::Reading { call, interface });
            self.under_way.push(Call::Read { call, read: None });
            return;
        }
        let (sequence, destination) = idle[self.random.random_range(0..idle.len())].clone();
        let in_place_only = self.chance(0.3);
        let deed = match self.chance(0.3) {
            true => Deed::Discard,
            false => Deed::Redrive { in_place_only },
        };
        let message_id = self.slots[sequence as usize - 1].id;
        let what = What::Operate {
            call,
            interface: INTERFACE.into(),
            sequence,
            message_id,
            destination: destination.clone(),
            deed,
        };
        self.record("operator", what);
        self.under_way.push(Call::Operate {
            call,
            sequence,
            destination,
            deed,
            result: None,
        });
    }

    fn apply_deed(
        &mut self,
        sequence: u64,
        destination: Option<Name>,
        deed: Deed,
    ) -> OperateResult {
        let refused = |reason: &str| OperateResult::Refused {
            reason: reason.into(),
        };
        let key = (sequence, destination);
        let letter = match self.letters.get(&key) {
            None => return refused("REASON_UNKNOWN_DEAD_LETTER"),
            Some(letter) if letter.redriven_as > 0 => return refused("REASON_BEING_REDRIVEN"),
            Some(letter) => letter.clone(),
        };
        let Deed::Redrive { in_place_only } = deed else {
            self.letters.remove(&key);
            return OperateResult::Discarded;
        };
        let in_place = key.1.is_none() && sequence > self.watermark;
        if in_place_only && !in_place {
            return refused("REASON_RELEASED");
        }
        let sequence = if in_place {
            self.letters.get_mut(&key).unwrap().redriven_as = sequence;
            let slot = &mut self.slots[sequence as usize - 1];
            slot.status = Status::Pending;
            slot.turn += 1;
            slot.entered = slot.turn;
            (slot.attempts, slot.losses) = (0, 0);
            slot.redrive_of = sequence;
            sequence
        } else {
            self.redrives += 1;
            let tail = self.slots.len() as u64 + 1;
            self.letters.get_mut(&key).unwrap().redriven_as = tail;
            let named = key
                .1
                .clone()
                .map(|name| vec![name])
                .or(letter.slot.named.clone());
            self.append(Slot {
                id: Uuid::new_v5(&letter.slot.id, &self.redrives.to_be_bytes()),
                stage: letter.stage.unwrap_or(self.shape.stages.len()),
                turn: 1,
                entered: 1,
                attempts: 0,
                losses: 0,
                status: Status::Pending,
                named,
                redrive_of: key.0,
                rejected: Vec::new(),
                events: Vec::new(),
                ..letter.slot
            })
        };
        OperateResult::Redriven { in_place, sequence }
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
