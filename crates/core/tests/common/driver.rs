//! Turns small random choices into entries that make sense, mostly, for the state they meet. Who chooses is the
//! caller's business: proptest in `tests/model.rs`, a fuzzer in `tests/fuzz`.

use super::bench::{Bench, Replica};
use super::scenario::{digest_of, id_of};
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DeadLetterKey,
    DestinationConfig, DestinationNumber, DiscardDeadLetter, Entry, Epoch, ForgetFinished, Grant,
    GrantEnd, Header, Incarnation, Ingest, Interface, InterfaceConfig, InterfaceId, Loss,
    MessageId, NoteDelivery, Outcome, ProducerSession, RedriveDeadLetter, RefuseIngest, Report,
    ResumeDelivery, RunPosition, Sequence, SkipDelivery, StageConfig, StageNumber, Turn,
    UpdateInterface, WallTime,
};
use std::num::NonZeroU64;

/// What the next entry's position is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Next,
    /// One proposal of the run was lost.
    Gap,
    NewRun,
    /// A new run whose first proposal was lost.
    NewRunGap,
    NewTerm,
    /// One that was applied already, or of a run that is void.
    Old,
}

/// One command, in terms of the state it meets: most make sense there, some just don't.
#[derive(Clone, Debug)]
pub enum Op {
    Ingest {
        /// From [`DERIVED`] on it is an id that the system derives, or will: see [`message_id`].
        id: u8,
        other_payload: bool,
        headers: bool,
        numbered: Option<(bool, i8)>,
        /// Which session, and how far behind the last sequence it is with what it has heard.
        session: Option<(u8, u8)>,
    },
    Refuse {
        id: u8,
        producer: bool,
        off: i8,
    },
    Report {
        which: u16,
        off: Off,
        what: What,
    },
    Grant {
        destination: u8,
        position: Option<i8>,
        incarnation: u32,
    },
    GrantEnd {
        destination: u8,
        old: bool,
    },
    Answer {
        destination: u8,
        old: bool,
        off: i8,
        how: How,
    },
    /// What a person decides at a destination's head.
    Decide {
        destination: u8,
        /// Give up the head, rather than end the pause.
        skip: bool,
        /// Of an earlier turn.
        old: bool,
        off: i8,
    },
    /// What a receiver said of a message at or near the checkpoint.
    Note {
        destination: u8,
        old: bool,
        off: i8,
    },
    Discard {
        which: u16,
        off: bool,
    },
    Redrive {
        which: u16,
        in_place_only: bool,
        off: bool,
    },
    Forget {
        through: u16,
    },
    Update {
        old: bool,
        change: Change,
    },
    Create {
        name: u8,
    },
}

/// Ids below are a producer's own.
pub const DERIVED: u8 = 20;
/// Ids that the choices are drawn from.
pub const IDS: u8 = DERIVED + 12;

/// How far off a report is.
#[derive(Clone, Copy, Debug)]
pub enum Off {
    Right,
    /// Of an earlier turn.
    Turn(u8),
    Future,
    Stage(u8),
    Sequence(u8),
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Complete {
        payload: bool,
        header: bool,
        named: u8,
    },
    Retry(u16),
    Reject,
    Filter,
    Lose,
}

#[derive(Clone, Copy, Debug)]
pub enum How {
    Ack,
    Retry(u16),
    Reject,
    Unavailable(u16),
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Limits only.
    Caps(u8, u16),
    AddDestination,
    DropDestination,
    Stages(u8),
    Same,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Step {
    pub place: Place,
    pub passed_ms: u64,
    /// A clock that went back.
    pub behind: bool,
    pub replica: Replica,
    pub ops: Vec<(u8, Op)>,
}

fn config(stages: u8, destinations: u8) -> InterfaceConfig {
    let stages = ["check", "enrich", "route"].iter().take(stages.into());
    let destinations = ["his", "ris", "lis"].iter().take(destinations.into());
    let mut config = InterfaceConfig {
        stages: stages.map(|name| StageConfig::named(name)).collect(),
        destinations: destinations
            .map(|name| DestinationConfig::named(name))
            .collect(),
        dedup_messages: 4,
        dead_letters_max: 2,
        dead_letter_bytes_max: 24,
        ..InterfaceConfig::default()
    };
    for stage in &mut config.stages {
        stage.max_attempts = 2;
        stage.max_losses = 2;
        stage.backoff_ms_max = 1_500;
    }
    for destination in &mut config.destinations {
        destination.max_attempts = 2;
    }
    config
}

/// Turns steps into entries, by looking at the state.
pub struct Driver {
    bench: Bench,
    time: u64,
}

fn lane_id(lane: u8) -> InterfaceId {
    InterfaceId(id_of(&format!("lane {lane}")))
}

fn shifted(number: u64, by: i8) -> u64 {
    number.saturating_add_signed(by.into())
}

impl Driver {
    /// Two interfaces, of so many stages and destinations each, and a consumer at each destination of the first.
    pub fn new(shapes: [(u8, u8); 2]) -> Self {
        let mut driver = Self {
            bench: Bench::default(),
            time: 0,
        };
        let create = |(lane, (stages, destinations)): (u8, (u8, u8))| {
            Command::CreateInterface(CreateInterface {
                interface: lane_id(lane),
                name: format!("lane/{lane}"),
                config: config(stages, destinations),
            })
        };
        let grant = |number| {
            Command::Grant(Grant {
                interface: lane_id(0),
                destination: DestinationNumber(number),
                consumer: ConsumerId(id_of("consumer")),
                name: "consumer".into(),
                position: None,
            })
        };
        let mut commands: Vec<_> = (0u8..).zip(shapes).map(create).collect();
        commands.extend((0..shapes[0].1).map(grant));
        driver.entry(driver.bench.next_position(), 0, commands, Replica::Writes);
        driver
    }

    fn entry(
        &mut self,
        position: RunPosition,
        time: u64,
        commands: Vec<Command>,
        replica: Replica,
    ) {
        let entry = Entry {
            cluster_time: ClusterTime(time),
            wall_time: WallTime(1_700_000_000_000 + time),
            position,
            commands,
        };
        self.bench.apply(&entry, replica);
    }

    pub fn step(&mut self, step: &Step) {
        let (last, next) = (self.bench.model.position, self.bench.next_position());
        let position = match step.place {
            Place::Next => next,
            Place::Gap => RunPosition {
                n: next.n + 1,
                ..next
            },
            Place::NewRun => RunPosition {
                run: last.run + 1,
                n: 1,
                ..last
            },
            Place::NewRunGap => RunPosition {
                run: last.run + 1,
                n: 2,
                ..last
            },
            Place::NewTerm => RunPosition {
                term: last.term + 1,
                run: 1,
                n: 1,
            },
            Place::Old if last.run > 1 => RunPosition {
                run: last.run - 1,
                ..next
            },
            Place::Old => RunPosition {
                n: last.n.max(1),
                ..last
            },
        };
        self.time += step.passed_ms;
        let time = if step.behind {
            self.time / 2
        } else {
            self.time
        };
        let mut commands = Vec::new();
        for (lane, op) in &step.ops {
            commands.extend(self.command(*lane, op));
            // The model learns a redrive's id from the state after the entry.
            if matches!(op, Op::Redrive { .. }) {
                break;
            }
        }
        self.entry(position, time, commands, step.replica);
    }

    /// The second replica has the last word: it begins again from what it wrote.
    pub fn finish(mut self) {
        let position = self.bench.next_position();
        self.entry(position, self.time, Vec::new(), Replica::Restarts);
    }

    fn command(&self, lane: u8, op: &Op) -> Option<Command> {
        let interface = lane_id(lane);
        // The third one does not exist until it is created.
        let there = self.bench.state.interface(interface);
        Some(match op {
            Op::Ingest {
                id,
                other_payload,
                headers,
                numbered,
                session,
            } => {
                // Lengths vary, for the cap in bytes.
                let body = format!("{id}{}", "x".repeat(usize::from(*id % 5)));
                let payload = if *other_payload {
                    format!("{body}!")
                } else {
                    body
                };
                let header = || Header {
                    name: "from".into(),
                    value: format!("{id}"),
                };
                Command::Ingest(Ingest {
                    interface,
                    message_id: message_id(there, *id),
                    digest: digest_of(payload.as_bytes()),
                    payload: payload.into(),
                    headers: headers.then(header).into_iter().collect(),
                    numbered: numbered.map(|(producer, off)| numbered_by(there, producer, off)),
                    session: session.map(|(session, behind)| {
                        let last = there.map_or(0, |i| i.last_sequence.0);
                        let session = NonZeroU64::MIN.saturating_add(session.into());
                        (
                            ProducerSession(session),
                            Sequence(last.saturating_sub(behind.into())),
                        )
                    }),
                })
            }
            Op::Refuse { id, producer, off } => Command::RefuseIngest(RefuseIngest {
                interface,
                message_id: message_id(there, *id),
                numbered: numbered_by(there, *producer, *off),
            }),
            Op::Report { which, off, what } => report_command(there?, *which, *off, *what),
            Op::Grant {
                destination,
                position,
                incarnation,
            } => {
                let checkpoint = there
                    .and_then(|i| i.destination(DestinationNumber(*destination)))
                    .map_or(0, |d| d.checkpoint.0);
                let position = position.map(|off| Sequence(shifted(checkpoint, off)));
                Command::Grant(Grant {
                    interface,
                    destination: DestinationNumber(*destination),
                    consumer: ConsumerId(id_of(&format!("consumer {incarnation}"))),
                    name: "consumer".into(),
                    position: position.map(|sequence| (Incarnation(*incarnation), sequence)),
                })
            }
            Op::GrantEnd { destination, old } => {
                let destination = DestinationNumber(*destination);
                Command::GrantEnd(GrantEnd {
                    interface,
                    destination,
                    epoch: epoch(there, destination, *old),
                })
            }
            Op::Answer {
                destination,
                old,
                off,
                how,
            } => {
                let number = DestinationNumber(*destination);
                let head = there
                    .and_then(|i| i.destination(number))
                    .map_or(1, |d| d.checkpoint.0 + 1);
                Command::Answer(Answer {
                    interface,
                    destination: number,
                    epoch: epoch(there, number, *old),
                    sequence: Sequence(shifted(head, *off)),
                    kind: answer_kind(*how),
                })
            }
            Op::Decide {
                destination,
                skip,
                old,
                off,
            } => {
                let destination = DestinationNumber(*destination);
                let state = there.and_then(|i| i.destination(destination));
                let (head, turn) = state.map_or((1, 0), |d| (d.checkpoint.0 + 1, d.turn.0));
                let turn = Turn(turn.saturating_sub(u32::from(*old)));
                match skip {
                    true => Command::SkipDelivery(SkipDelivery {
                        interface,
                        destination,
                        sequence: Sequence(shifted(head, *off)),
                        turn,
                    }),
                    false => Command::ResumeDelivery(ResumeDelivery {
                        interface,
                        destination,
                        turn: (*off == 0).then_some(turn),
                    }),
                }
            }
            Op::Note {
                destination,
                old,
                off,
            } => {
                let destination = DestinationNumber(*destination);
                let state = there.and_then(|i| i.destination(destination));
                let checkpoint = state.map_or(1, |d| d.checkpoint.0);
                let Epoch(current) = epoch(there, destination, *old);
                Command::NoteDelivery(NoteDelivery {
                    interface,
                    destination,
                    sequence: Sequence(shifted(checkpoint, *off)),
                    epoch: Epoch(current + u64::from(*off == 1)),
                    code: "AE".into(),
                    text: "no".into(),
                })
            }
            Op::Discard { which, off } => Command::DiscardDeadLetter(DiscardDeadLetter {
                interface,
                key: letter_key(there?, *which, *off)?,
            }),
            Op::Redrive {
                which,
                in_place_only,
                off,
            } => Command::RedriveDeadLetter(RedriveDeadLetter {
                interface,
                key: letter_key(there?, *which, *off)?,
                in_place_only: *in_place_only,
            }),
            Op::Forget { through } => {
                let last = there?.last_sequence.0;
                Command::ForgetFinished(ForgetFinished {
                    interface,
                    through: Sequence(u64::from(*through) % (last + 2)),
                })
            }
            Op::Update { old, change } => Command::UpdateInterface(UpdateInterface {
                interface,
                config_version: there.map_or(1, |i| i.config_version) - u64::from(*old),
                config: there.map_or_else(InterfaceConfig::default, |i| changed(i, *change)),
            }),
            // Under its own id or, refused, under another's name.
            Op::Create { name } => {
                let exists = self.bench.state.interface(lane_id(*name)).is_some();
                Command::CreateInterface(CreateInterface {
                    interface: if exists {
                        InterfaceId(id_of("drawn"))
                    } else {
                        lane_id(*name)
                    },
                    name: format!("lane/{name}"),
                    config: config(1, 2),
                })
            }
        })
    }
}

/// A producer's own id, or one that a redrive of some dead letter or message got, gets next or soon.
fn message_id(there: Option<&Interface>, id: u8) -> MessageId {
    let own = MessageId(id_of(&format!("message {id}")));
    let (Some(there), Some(derived)) = (there, id.checked_sub(DERIVED)) else {
        return own;
    };
    let letters = there.dead_letters.values().map(|letter| letter.message_id);
    let slots = there.slots().map(|(_, slot)| slot.message_id);
    let olds: Vec<_> = letters.chain(slots).take(3).collect();
    let old = pick(&olds, u16::from(derived / 4)).unwrap_or(own);
    old.derived(there.redrives + u64::from(derived % 4))
}

fn numbered_by(there: Option<&Interface>, producer: bool, off: i8) -> (String, u64) {
    let name = if producer { "p" } else { "q" };
    let last = there
        .and_then(|i| i.producers.get(name))
        .map_or(0, |p| p.last);
    (name.to_owned(), shifted(last + 1, off).max(1))
}

fn epoch(there: Option<&Interface>, destination: DestinationNumber, old: bool) -> Epoch {
    let epoch = there
        .and_then(|i| i.destination(destination))
        .map_or(0, |d| d.epoch.0);
    Epoch(epoch.saturating_sub(old.into()))
}

fn answer_kind(how: How) -> AnswerKind {
    let reason = "no".to_owned();
    match how {
        How::Ack => AnswerKind::Ack,
        How::Retry(ms) => AnswerKind::Retry {
            after_ms: ms.into(),
            reason,
        },
        How::Reject => AnswerKind::Reject { reason },
        How::Unavailable(ms) => AnswerKind::Unavailable {
            after_ms: ms.into(),
            sent: ms % 2 == 1,
            reason,
        },
    }
}

fn pick<T: Copy>(among: &[T], which: u16) -> Option<T> {
    let at = usize::from(which).checked_rem(among.len())?;
    Some(among[at])
}

fn letter_key(there: &Interface, which: u16, off: bool) -> Option<DeadLetterKey> {
    let keys: Vec<_> = there.dead_letters.keys().copied().collect();
    let key = pick(&keys, which)?;
    let sequence = Sequence(key.sequence.0 + u64::from(off));
    Some(DeadLetterKey { sequence, ..key })
}

fn report_command(there: &Interface, which: u16, off: Off, what: What) -> Command {
    // Mostly one in work, near the head.
    let pending = |s: &ordo_core::Slot| s.status == ordo_core::Status::Pending;
    let pending: Vec<_> = there.slots().filter(|(_, s)| pending(s)).take(4).collect();
    let (mut sequence, mut stage, mut turn) = match pick(&pending, which) {
        None => (there.last_sequence, StageNumber(0), Turn(1)),
        Some((sequence, slot)) => (sequence, slot.stage, slot.turn),
    };
    match off {
        Off::Right => {}
        Off::Turn(by) => turn = Turn(turn.0.saturating_sub(by.into())),
        Off::Future => turn = turn.next(),
        Off::Stage(number) => stage = StageNumber(number),
        Off::Sequence(number) => sequence = Sequence(number.into()),
    }
    let (interface, reason) = (there.id, "no".to_owned());
    let outcome = match what {
        What::Complete {
            payload,
            header,
            named,
        } => Outcome::Complete {
            payload: payload.then(|| format!("{}@{}", sequence.0, stage.0).into()),
            headers: complete_headers(header, stage),
            destinations: (0u8..4)
                .filter(|n| named & (1 << n) != 0)
                .map(DestinationNumber)
                .collect(),
        },
        What::Retry(jitter) => Outcome::Retry { reason, jitter },
        What::Reject => Outcome::Reject { reason },
        What::Filter => Outcome::Filter { reason },
        What::Lose => {
            return Command::Loss(Loss {
                interface,
                sequence,
                stage,
                turn,
                reason,
            });
        }
    };
    Command::Report(Report {
        interface,
        sequence,
        stage,
        turn,
        outcome,
    })
}

/// One of its own, and one that replaces or removes the ingested one.
fn complete_headers(set: bool, stage: StageNumber) -> Vec<Header> {
    let header = |name: &str, value: &str| Header {
        name: name.into(),
        value: value.into(),
    };
    let from = if stage.0 == 1 { "" } else { "stage" };
    match set {
        true => vec![header(&format!("by{stage}"), "it"), header("from", from)],
        false => Vec::new(),
    }
}

fn changed(there: &Interface, change: Change) -> InterfaceConfig {
    let mut config = (*there.config).clone();
    match change {
        Change::Same => {}
        Change::Caps(count, bytes) => {
            config.dead_letters_max = count.into();
            config.dead_letter_bytes_max = bytes.into();
        }
        Change::AddDestination => {
            let name = format!("new{}", there.config_version);
            config.destinations.push(DestinationConfig::named(&name));
            config.destinations.truncate(4);
        }
        Change::DropDestination => {
            config.destinations.remove(0);
            if config.destinations.is_empty() {
                config.destinations.push(DestinationConfig::named("only"));
            }
        }
        Change::Stages(count) => {
            config.stages = self::config(count, 1).stages;
        }
    }
    config
}
