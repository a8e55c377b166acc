//! Scenarios in words: one command or question a line, `->` and what it answers. Every command runs on the bench,
//! so that the model, the store and the second replica follow each scenario too.
//!
//! ```text
//! interface lab stages=check,send to=his,ris    names of stages and destinations; also attempts= losses= backoff=
//!                                               backoff_max= delivery_attempts= dedup= letters= letter_bytes= as=
//! ingest a [payload=..] [by=producer:number] [session=number:heard] [headers=k:v,..]
//! refuse a by=producer:number
//! complete|retry|reject|filter|lose SEQUENCE STAGE [turn=..] [payload=..] [headers=k:v,..] [for=his] [jitter=..]
//! grant|end|ack|again|refused|unavailable DESTINATION [SEQUENCE] [epoch=..] [after=..] [position=..] [sent=1]
//! skip DESTINATION SEQUENCE [turn=..] | resume DESTINATION [turn=..] | note DESTINATION SEQUENCE [epoch=..] [text=..]
//! discard|redrive SEQUENCE[/DESTINATION] [in_place]
//! update version=.. [as for interface]           forget SEQUENCE
//! time +MS|-MS                                   lost (a proposal)          position TERM.RUN.N (of the next one)
//! see DESTINATION | slot SEQUENCE | letters | stored SEQUENCE | known a | watermark | counts DESTINATION
//! reason DESTINATION | tries DESTINATION
//! ```

use super::bench::{Bench, Replica};
use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DeadLetterKey,
    DestinationConfig, DestinationNumber, Digest, DiscardDeadLetter, Entry, Epoch, ForgetFinished,
    Grant, GrantEnd, Header, Incarnation, Ingest, Interface, InterfaceConfig, InterfaceId, Loss,
    MessageId, NoteDelivery, Outcome, ProducerSession, RedriveDeadLetter, RefuseIngest, Reply,
    Report, ResumeDelivery, RunPosition, Sequence, SkipDelivery, StageConfig, StageNumber, Status,
    Turn, UpdateInterface, WallTime,
};
use uuid::Uuid;

/// Runs a scenario; panics at the first line that answers something else.
pub fn run(text: &str) {
    let mut scenario = Scenario::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let (line, expected) = line.split_once("->").unwrap_or((line, ""));
        let words = Words(line.split_whitespace().collect());
        let answer = scenario.line(&words);
        let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(answer, expected, "to: {line}");
    }
}

#[derive(Default)]
struct Scenario {
    bench: Bench,
    lane: Option<InterfaceId>,
    time: u64,
    position: Option<RunPosition>,
}

struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn at(&self, i: usize) -> &'a str {
        self.0
            .get(i)
            .unwrap_or_else(|| panic!("{:?} lacks a word", self.0))
    }

    fn number(&self, i: usize) -> u64 {
        self.at(i)
            .parse()
            .unwrap_or_else(|_| panic!("{:?}: no number", self.0))
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let pair = |word: &&'a str| word.split_once('=').filter(|(key, _)| *key == name);
        self.0.iter().find_map(pair).map(|(_, value)| value)
    }

    fn value_number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        let parse = |value: &str| value.parse().unwrap_or_else(|_| panic!("{name}={value}"));
        self.value(name).map(parse)
    }

    fn list(&self, name: &str) -> Vec<&'a str> {
        self.value(name)
            .map_or_else(Vec::new, |value| value.split(',').collect())
    }

    fn headers(&self) -> Vec<Header> {
        let pairs = self.list("headers").into_iter();
        pairs
            .map(|pair| {
                let (name, value) = pair.split_once(':').expect("a header is name:value");
                Header {
                    name: name.to_owned(),
                    value: value.to_owned(),
                }
            })
            .collect()
    }

    fn numbered(&self) -> Option<(String, u64)> {
        let (name, number) = self
            .value("by")?
            .split_once(':')
            .expect("by=producer:number");
        Some((name.to_owned(), number.parse().expect("a number")))
    }

    fn session(&self) -> Option<(ProducerSession, Sequence)> {
        let (session, heard) = self
            .value("session")?
            .split_once(':')
            .expect("session=number:heard");
        let session = session.parse().expect("a number that is not 0");
        Some((
            ProducerSession(session),
            Sequence(heard.parse().expect("a sequence")),
        ))
    }
}

/// An id made of a name.
pub fn id_of(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::nil(), name.as_bytes())
}

/// A hash of what is ingested, good enough for tests.
pub fn digest_of(payload: &[u8]) -> Digest {
    Digest(*Uuid::new_v5(&Uuid::nil(), payload).as_bytes())
}

impl Scenario {
    fn interface(&self) -> &Interface {
        let id = self.lane.expect("an interface was made");
        self.bench
            .state
            .interface(id)
            .expect("an interface was made")
    }

    fn line(&mut self, words: &Words<'_>) -> String {
        match words.at(0) {
            "time" => {
                let ms: i64 = words.at(1).parse().expect("milliseconds");
                self.time = self.time.saturating_add_signed(ms);
                String::new()
            }
            "lost" => {
                let next = self.position.unwrap_or_else(|| self.bench.next_position());
                self.position = Some(RunPosition {
                    n: next.n + 1,
                    ..next
                });
                String::new()
            }
            "position" => {
                let parts = words
                    .at(1)
                    .split('.')
                    .map(|part| part.parse().expect("a number"));
                let parts: Vec<u64> = parts.collect();
                self.position = Some(RunPosition {
                    term: parts[0],
                    run: parts[1],
                    n: parts[2],
                });
                String::new()
            }
            "see" | "slot" | "letters" | "stored" | "known" | "watermark" | "counts" | "reason"
            | "tries" => self.question(words),
            _ => {
                let command = self.command(words);
                self.apply(command)
            }
        }
    }

    fn apply(&mut self, command: Command) -> String {
        let position = self
            .position
            .take()
            .unwrap_or_else(|| self.bench.next_position());
        let entry = Entry {
            cluster_time: ClusterTime(self.time),
            wall_time: WallTime(1_700_000_000_000 + self.time),
            position,
            commands: vec![command],
        };
        let replies = self.bench.apply(&entry, Replica::Restarts);
        match &replies[0] {
            Reply::Done => "done".to_owned(),
            Reply::Ingested {
                sequence,
                duplicate: true,
            } => format!("{sequence} again"),
            Reply::Ingested { sequence, .. } => sequence.to_string(),
            Reply::Granted { epoch, checkpoint } => format!("epoch {epoch} after {checkpoint}"),
            Reply::Answered { checkpoint } => format!("checkpoint {checkpoint}"),
            Reply::Decided { turn } => format!("turn {turn}"),
            Reply::Configured { config_version, .. } => format!("version {config_version}"),
            Reply::Redriven { in_place: true, .. } => "in place".to_owned(),
            Reply::Redriven { sequence, .. } => format!("as {sequence}"),
            Reply::Refused(refusal) => format!("refused: {refusal}"),
        }
    }

    fn command(&mut self, words: &Words<'_>) -> Command {
        let name = words.at(0);
        match name {
            "interface" => {
                let interface = InterfaceId(id_of(words.value("as").unwrap_or(words.at(1))));
                self.lane = Some(interface);
                Command::CreateInterface(CreateInterface {
                    interface,
                    name: words.at(1).to_owned(),
                    config: config(words),
                })
            }
            "ingest" => {
                let payload = words.value("payload").unwrap_or(words.at(1)).as_bytes();
                Command::Ingest(Ingest {
                    interface: self.id(words),
                    message_id: MessageId(id_of(words.at(1))),
                    digest: digest_of(payload),
                    payload: payload.to_vec().into(),
                    headers: words.headers(),
                    numbered: words.numbered(),
                    session: words.session(),
                })
            }
            "refuse" => Command::RefuseIngest(RefuseIngest {
                interface: self.id(words),
                message_id: MessageId(id_of(words.at(1))),
                numbered: words.numbered().expect("by=producer:number"),
            }),
            "complete" | "retry" | "reject" | "filter" | "lose" => self.report(words),
            "grant" => Command::Grant(Grant {
                interface: self.id(words),
                destination: self.destination(words.at(1)),
                consumer: ConsumerId(id_of(words.value("as").unwrap_or("consumer"))),
                name: words.value("as").unwrap_or("consumer").to_owned(),
                position: words.value_number("position").map(|sequence| {
                    let incarnation = words.value_number("incarnation").unwrap_or(1);
                    (Incarnation(incarnation), Sequence(sequence))
                }),
            }),
            "end" => Command::GrantEnd(GrantEnd {
                interface: self.id(words),
                destination: self.destination(words.at(1)),
                epoch: self.epoch(words),
            }),
            "ack" | "again" | "refused" | "unavailable" => self.answer(words),
            "skip" => Command::SkipDelivery(SkipDelivery {
                interface: self.id(words),
                destination: self.destination(words.at(1)),
                sequence: Sequence(words.number(2)),
                turn: self.turn(words),
            }),
            "resume" => Command::ResumeDelivery(ResumeDelivery {
                interface: self.id(words),
                destination: self.destination(words.at(1)),
                turn: words.value_number("turn").map(Turn),
            }),
            "note" => Command::NoteDelivery(NoteDelivery {
                interface: self.id(words),
                destination: self.destination(words.at(1)),
                sequence: Sequence(words.number(2)),
                epoch: self.epoch(words),
                code: "AE".to_owned(),
                text: words.value("text").unwrap_or("late").to_owned(),
            }),
            "discard" => Command::DiscardDeadLetter(DiscardDeadLetter {
                interface: self.id(words),
                key: self.key(words.at(1)),
            }),
            "redrive" => Command::RedriveDeadLetter(RedriveDeadLetter {
                interface: self.id(words),
                key: self.key(words.at(1)),
                in_place_only: words.0.contains(&"in_place"),
            }),
            "update" => Command::UpdateInterface(UpdateInterface {
                interface: self.id(words),
                config_version: words.value_number("version").expect("version="),
                config: config(words),
            }),
            "forget" => Command::ForgetFinished(ForgetFinished {
                interface: self.id(words),
                through: Sequence(words.number(1)),
            }),
            _ => panic!("{name}: no such command"),
        }
    }

    fn id(&self, words: &Words<'_>) -> InterfaceId {
        let named = words
            .value("interface")
            .map(|name| InterfaceId(id_of(name)));
        named.or(self.lane).expect("an interface was made")
    }

    fn destination(&self, name: &str) -> DestinationNumber {
        let parsed = name.parse().ok().map(DestinationNumber);
        let named = || self.interface().config.destination_number(name);
        parsed
            .or_else(named)
            .unwrap_or_else(|| panic!("destination {name}"))
    }

    fn epoch(&self, words: &Words<'_>) -> Epoch {
        let number = self.destination(words.at(1));
        let current = || {
            self.interface()
                .destination(number)
                .map_or(Epoch(0), |d| d.epoch)
        };
        words.value_number("epoch").map_or_else(current, Epoch)
    }

    fn turn(&self, words: &Words<'_>) -> Turn {
        let number = self.destination(words.at(1));
        let current = || {
            let there = self.interface().destination(number);
            there.map_or(Turn(0), |destination| destination.turn)
        };
        words.value_number("turn").map_or_else(current, Turn)
    }

    fn key(&self, text: &str) -> DeadLetterKey {
        let (sequence, destination) = match text.split_once('/') {
            Some((sequence, name)) => (sequence, Some(self.destination(name))),
            None => (text, None),
        };
        DeadLetterKey {
            sequence: Sequence(sequence.parse().expect("a sequence")),
            destination,
        }
    }

    fn report(&self, words: &Words<'_>) -> Command {
        let sequence = Sequence(words.number(1));
        let config = &self.interface().config;
        let stage = config.stage_number(words.at(2));
        let stage = stage.unwrap_or_else(|| StageNumber(words.at(2).parse().expect("a stage")));
        let current = || {
            self.interface()
                .slot(sequence)
                .map_or(Turn(1), |slot| slot.turn)
        };
        let turn = words.value_number("turn").map_or_else(current, Turn);
        let interface = self.id(words);
        let reason = words.value("why").unwrap_or("because").to_owned();
        let outcome = match words.at(0) {
            "complete" => Outcome::Complete {
                payload: words.value("payload").map(|p| p.as_bytes().to_vec().into()),
                headers: words.headers(),
                destinations: words
                    .list("for")
                    .iter()
                    .map(|d| self.destination(d))
                    .collect(),
            },
            "retry" => Outcome::Retry {
                reason,
                jitter: words.value_number("jitter").unwrap_or(0),
            },
            "reject" => Outcome::Reject { reason },
            "filter" => Outcome::Filter { reason },
            _ => {
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

    fn answer(&self, words: &Words<'_>) -> Command {
        let reason = words.value("why").unwrap_or("because").to_owned();
        let after_ms = words.value_number("after").unwrap_or(1_000);
        Command::Answer(Answer {
            interface: self.id(words),
            destination: self.destination(words.at(1)),
            epoch: self.epoch(words),
            sequence: Sequence(words.number(2)),
            kind: match words.at(0) {
                "ack" => AnswerKind::Ack,
                "again" => AnswerKind::Retry { after_ms, reason },
                "refused" => AnswerKind::Reject { reason },
                _ => AnswerKind::Unavailable {
                    after_ms,
                    sent: words.value("sent").is_some(),
                    reason,
                },
            },
        })
    }

    fn question(&self, words: &Words<'_>) -> String {
        let interface = self.interface();
        match words.at(0) {
            "watermark" => interface.watermark.to_string(),
            "see" => self.see(self.destination(words.at(1))),
            "slot" => self.slot(Sequence(words.number(1))),
            "known" => {
                let sequence = interface.sequence_of(MessageId(id_of(words.at(1))));
                sequence.map_or("no".to_owned(), |s| s.to_string())
            }
            "letters" => {
                let letter = |(key, letter): (&DeadLetterKey, &ordo_core::DeadLetter)| {
                    let place = key.destination.map(|d| interface.destination_name(d));
                    let place = place.map_or(String::new(), |name| format!("/{name}"));
                    let as_ = letter
                        .redriven_as
                        .map_or(String::new(), |s| format!(" as {s}"));
                    format!("{}{place} {:?}{as_}", key.sequence, letter.cause)
                };
                interface
                    .dead_letters
                    .iter()
                    .map(letter)
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            "stored" => self.stored(Sequence(words.number(1))),
            "reason" => {
                let there = interface.destination(self.destination(words.at(1)));
                there.expect("it was named").reason.clone()
            }
            "tries" => {
                let there = interface.destination(self.destination(words.at(1)));
                let there = there.expect("it was named");
                let tries = there.tries.iter();
                let tries: Vec<_> = tries
                    .map(|tried| format!("{:?} {}", tried.kind, tried.reason))
                    .collect();
                let said = format!("turn {} repeats {}: ", there.turn, there.repeats);
                format!("{said}{}", tries.join(", ")).trim_end().to_owned()
            }
            _ => {
                let destination = self.destination(words.at(1));
                let there = interface.destination(destination).expect("it was named");
                format!(
                    "delivered {} skipped {} attempts {} until {}",
                    there.delivered, there.skipped, there.attempts, there.suspended_until
                )
            }
        }
    }

    /// What the destination's consumer is to be sent now.
    fn see(&self, number: DestinationNumber) -> String {
        let interface = self.interface();
        let destination = interface.destination(number).expect("it was named");
        let released = destination.checkpoint.0 + 1..=interface.watermark.0;
        let one = |sequence: u64| {
            let slot = interface
                .slot(Sequence(sequence))
                .expect("it is not finished");
            match (slot.destinations.contains(number), slot.status) {
                (false, _) => format!("({sequence})"),
                (true, Status::Ready) => sequence.to_string(),
                (true, _) => format!("skip {sequence}"),
            }
        };
        released.map(one).collect::<Vec<_>>().join(", ")
    }

    fn slot(&self, sequence: Sequence) -> String {
        let interface = self.interface();
        let Some(slot) = interface.slot(sequence) else {
            return "finished".to_owned();
        };
        let stage = interface.stage_name(slot.stage);
        let status = match slot.status {
            Status::Pending => format!("pending {stage}"),
            Status::Ready => "ready".to_owned(),
            Status::Failed(cause) => format!("failed {stage} {cause:?}"),
            Status::Filtered => format!("filtered {stage}"),
        };
        let (turn, attempts, losses) = (slot.turn, slot.attempts, slot.losses);
        format!(
            "{status} turn {turn} attempts {attempts} losses {losses} from {}",
            slot.not_before
        )
    }

    fn stored(&self, sequence: Sequence) -> String {
        let (id, store) = (self.interface().id, &self.bench.store);
        let mut words = Vec::new();
        for key in store.body_keys() {
            match key {
                ordo_core::Key::Payload(of, at) if (*of, *at) == (id, sequence) => {
                    words.push("payload".to_owned());
                }
                ordo_core::Key::Headers(of, at, row) if (*of, *at) == (id, sequence) => {
                    words.push(format!("headers{row}"));
                }
                _ => {}
            }
        }
        if store.record(id, sequence).is_some() {
            words.push("record".to_owned());
        }
        words.extend(
            store
                .events(id, sequence)
                .iter()
                .map(|kind| format!("{kind:?}")),
        );
        words.join(" ")
    }
}

/// An interface's configuration in words.
fn config(words: &Words<'_>) -> InterfaceConfig {
    let mut config = InterfaceConfig::default();
    for name in words.list("stages") {
        let mut stage = StageConfig::named(name);
        stage.max_attempts = words.value_number("attempts").unwrap_or(stage.max_attempts);
        stage.max_losses = words.value_number("losses").unwrap_or(stage.max_losses);
        stage.backoff_ms = words.value_number("backoff").unwrap_or(stage.backoff_ms);
        stage.backoff_ms_max = words
            .value_number("backoff_max")
            .unwrap_or(stage.backoff_ms_max);
        config.stages.push(stage);
    }
    if words.value("to").is_some() {
        config.destinations = words
            .list("to")
            .into_iter()
            .map(DestinationConfig::named)
            .collect();
    }
    for destination in &mut config.destinations {
        let attempts = words.value_number("delivery_attempts");
        destination.max_attempts = attempts.unwrap_or(destination.max_attempts);
    }
    config.dedup_messages = words.value_number("dedup").unwrap_or(config.dedup_messages);
    config.dead_letters_max = words
        .value_number("letters")
        .unwrap_or(config.dead_letters_max);
    config.dead_letter_bytes_max = words
        .value_number("letter_bytes")
        .unwrap_or(config.dead_letter_bytes_max);
    config
        .validate()
        .expect("a scenario's configuration is valid");
    config
}
