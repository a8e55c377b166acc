//! A history that is told line by line.

use ordo_oracle::*;
use uuid::Uuid;

pub const A: Uuid = Uuid::from_u128(0xa);
pub const B: Uuid = Uuid::from_u128(0xb);

/// A history that is told line by line. Everything is about one interface with the stage "check" (two attempts, two
/// losses) and the destinations "ward" and "lab".
pub struct Story {
    pub events: Vec<Event>,
    calls: u64,
}

pub fn name(name: &str) -> Name {
    name.into()
}

impl Story {
    pub fn new(stages: &[&str]) -> Self {
        let stages = stages.iter().map(|stage| StageShape {
            name: name(stage),
            max_attempts: 2,
            max_losses: 2,
        });
        let shape = InterfaceShape {
            name: name("i"),
            stages: stages.collect(),
            destinations: vec![DestinationShape {
                name: name("ward"),
                max_attempts: 2,
            }],
            dedup_messages: 10,
            window: 100,
        };
        let story = Self {
            events: Vec::new(),
            calls: 0,
        };
        story.tell("creator", What::Interface(shape))
    }

    pub fn tell(mut self, actor: &str, what: What) -> Self {
        let at_us = self.events.len() as u64;
        self.events.push(Event {
            at_us,
            actor: name(actor),
            what,
        });
        self
    }

    pub fn begin(mut self, actor: &str, what: impl FnOnce(u64, Name) -> What) -> Self {
        self.calls += 1;
        let what = what(self.calls, name("i"));
        self.tell(actor, what)
    }

    pub fn sends(self, producer: &str, message_id: Uuid, order: u64) -> Self {
        self.sends_bytes(producer, message_id, order, 1)
    }

    pub fn sends_bytes(self, producer: &str, message_id: Uuid, order: u64, digest: u128) -> Self {
        self.begin(producer, |call, interface| What::Send {
            call,
            interface,
            message_id,
            digest: Digest(digest),
            order: Some(order),
            numbered: None,
        })
    }

    pub fn numbers(self, message_id: Uuid, number: u64) -> Self {
        self.begin("p", |call, interface| What::Send {
            call,
            interface,
            message_id,
            digest: Digest(1),
            order: None,
            numbered: Some(Numbered {
                producer: name("n"),
                number,
            }),
        })
    }

    /// Answers a call by its number, counted from 1.
    pub fn accepted(self, call: u64, sequence: u64) -> Self {
        let result = SendResult::Accepted {
            sequence,
            duplicate: false,
        };
        self.tell("p", What::Sent { call, result })
    }

    pub fn refused(self, call: u64, reason: &str) -> Self {
        let result = SendResult::Refused {
            reason: reason.into(),
        };
        self.tell("p", What::Sent { call, result })
    }

    /// Two messages of one producer, accepted.
    pub fn two(stages: &[&str]) -> Self {
        let story = Self::new(stages).sends("p", A, 1).sends("p", B, 2);
        story.accepted(1, 1).accepted(2, 2)
    }

    pub fn assigned(self, sequence: u64, message_id: Uuid, turn: u32, digest: u128) -> Self {
        let what = What::Assigned {
            interface: name("i"),
            sequence,
            message_id,
            stage: name("check"),
            turn,
            attempts: turn - 1,
            digest: Digest(digest),
        };
        self.tell("w", what)
    }

    pub fn reports(self, sequence: u64, turn: u32, kind: ReportKind) -> Self {
        self.begin("w", |call, interface| What::Report {
            call,
            interface,
            sequence,
            stage: name("check"),
            turn,
            kind,
        })
    }

    pub fn completes(self, sequence: u64, turn: u32) -> Self {
        let kind = ReportKind::Complete {
            digest: None,
            destinations: Vec::new(),
        };
        self.reports(sequence, turn, kind)
    }

    pub fn recorded(self) -> Self {
        let (call, verdict) = (self.calls, Verdict::Recorded);
        self.tell("w", What::Reported { call, verdict })
    }

    pub fn granted(self, consumer: &str, epoch: u64, checkpoint: u64) -> Self {
        let (interface, destination) = (name("i"), name("ward"));
        let what = What::Granted {
            interface,
            destination,
            epoch,
            checkpoint,
            raw: false,
        };
        self.tell(consumer, what)
    }

    pub fn content(self, consumer: &str, epoch: u64, sequence: u64, content: Content) -> Self {
        let (interface, destination) = (name("i"), name("ward"));
        let message_id = if sequence == 1 { A } else { B };
        let what = What::Delivered {
            interface,
            destination,
            epoch,
            sequence,
            message_id,
            content,
            raw: false,
        };
        self.tell(consumer, what)
    }

    pub fn delivered(self, consumer: &str, epoch: u64, sequence: u64) -> Self {
        let content = Content::Message {
            digest: Digest(1),
            redrive_of: 0,
        };
        self.content(consumer, epoch, sequence, content)
    }

    pub fn skipped(self, epoch: u64, sequence: u64, cause: SkipCause) -> Self {
        let dead_letter = cause != SkipCause::Filtered;
        self.content("c", epoch, sequence, Content::Skip { cause, dead_letter })
    }

    pub fn answers(self, consumer: &str, epoch: u64, sequence: u64, kind: AnswerKind) -> Self {
        self.begin(consumer, |call, interface| What::Answer {
            call,
            interface,
            destination: name("ward"),
            epoch,
            sequence,
            kind,
        })
    }

    pub fn acks(self, consumer: &str, epoch: u64, sequence: u64) -> Self {
        self.answers(consumer, epoch, sequence, AnswerKind::Ack)
    }

    pub fn answered(self, checkpoint: u64) -> Self {
        let (call, verdict, checkpoint) = (self.calls, Verdict::Recorded, Some(checkpoint));
        self.tell(
            "c",
            What::Answered {
                call,
                verdict,
                checkpoint,
            },
        )
    }

    pub fn reads(self, last_sequence: u64, watermark: u64, checkpoint: u64) -> Self {
        let story = self.begin("r", |call, interface| What::Reading { call, interface });
        let call = story.calls;
        let standing = standing(last_sequence, watermark, checkpoint);
        story.tell("r", What::Read { call, standing })
    }

    pub fn ends(self, last_sequence: u64, checkpoint: u64) -> Self {
        let (interface, standing) = (
            name("i"),
            standing(last_sequence, last_sequence, checkpoint),
        );
        self.tell(
            "r",
            What::Final {
                interface,
                standing,
            },
        )
    }

    pub fn message(
        self,
        sequence: u64,
        status: MessageStatus,
        events: &[(EventKind, &str)],
    ) -> Self {
        let events = events.iter().map(|(kind, place)| MessageEvent {
            kind: *kind,
            place: name(place),
        });
        let what = What::FinalMessage {
            interface: name("i"),
            sequence,
            message_id: if sequence == 1 { A } else { B },
            status,
            redrive_of: 0,
            events: events.collect(),
        };
        self.tell("r", what)
    }

    /// The names of the checks that find something.
    pub fn found(&self, completeness: Completeness) -> Vec<&'static str> {
        let history = History {
            events: self.events.clone(),
        };
        let violations = check(&history, completeness);
        violations.iter().map(|violation| violation.check).collect()
    }

    #[track_caller]
    pub fn passes(self) -> Self {
        assert_eq!(self.found(Completeness::Cut), Vec::<&str>::new());
        self
    }

    #[track_caller]
    pub fn breaks(self, check: &str) {
        assert_eq!(self.found(Completeness::Cut), [check]);
    }
}

fn standing(last_sequence: u64, watermark: u64, checkpoint: u64) -> Standing {
    let ward = DestinationStanding {
        checkpoint,
        epoch: 9,
    };
    Standing {
        last_sequence,
        watermark,
        destinations: [(name("ward"), ward)].into(),
        ..Standing::default()
    }
}
