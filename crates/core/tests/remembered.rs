//! What many interfaces remember of their finished messages: that it is little, that it is bounded, and that it goes.
//!
//!     cargo test --release -p ordo-core --test remembered -- --ignored --nocapture
//!
//! does it with 25,000 interfaces.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "what is measured is said, and by the clock"
)]

use ordo_core::{
    Answer, AnswerKind, ClusterTime, Command, ConsumerId, CreateInterface, DestinationNumber,
    Digest, Entry, Epoch, ForgetFinished, Grant, Ingest, InterfaceConfig, InterfaceId, Key,
    MessageId, Mutation, Reply, RunPosition, Sequence, State, WallTime, invariants,
};
use std::time::Instant;
use uuid::Uuid;

const MESSAGES: u64 = 3_000;
/// Ingested and delivered at once, as many as a client keeps unanswered.
const AT_ONCE: u64 = 500;
const HOUR_MS: u64 = 3_600_000;
/// What an interface costs beside its messages, generously.
const INTERFACE_BYTES: u64 = 4_000;
/// What a remembered message may cost.
const MESSAGE_BYTES: u64 = 45;

struct Run {
    state: State,
    index: u64,
    time: u64,
    records: u64,
    longest_us: u128,
}

fn id(interface: u64) -> InterfaceId {
    InterfaceId(Uuid::from_u128(u128::from(interface) + 1))
}

/// Ids as clients draw them: spread over everything.
fn message(interface: u64, n: u64) -> MessageId {
    let mut bytes = [0; 16];
    let name = (interface << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes[..8].copy_from_slice(&name.to_be_bytes());
    let name = (name ^ name >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bytes[8..].copy_from_slice(&name.to_be_bytes());
    MessageId(Uuid::from_bytes(bytes))
}

fn ingest(interface: u64, n: u64) -> Command {
    Command::Ingest(Ingest {
        interface: id(interface),
        message_id: message(interface, n),
        digest: Digest(message(interface, n).0.into_bytes()),
        payload: bytes::Bytes::new(),
        headers: Vec::new(),
        numbered: None,
        session: None,
    })
}

impl Run {
    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let entry = Entry {
            cluster_time: ClusterTime(self.time),
            wall_time: WallTime(self.time),
            position: RunPosition {
                term: 1,
                run: 1,
                n: self.index,
            },
            commands,
        };
        let begun = Instant::now();
        let replies = self.state.apply(self.index, entry, &mut Vec::new());
        let mutations = self.state.take_mutations();
        self.longest_us = self.longest_us.max(begun.elapsed().as_micros());
        for mutation in mutations {
            match mutation {
                Mutation::Put(Key::Record(..), _) => self.records += 1,
                Mutation::Forget { from, through, .. } => self.records -= through.0 + 1 - from.0,
                Mutation::Put(..) | Mutation::Delete(_) => {}
            }
        }
        replies
    }

    fn create(&mut self, interface: u64) {
        let create = CreateInterface {
            interface: id(interface),
            name: interface.to_string(),
            config: InterfaceConfig::default(),
        };
        let grant = Grant {
            interface: id(interface),
            destination: DestinationNumber(0),
            consumer: ConsumerId(Uuid::nil()),
            name: String::new(),
            position: None,
        };
        self.apply(vec![
            Command::CreateInterface(create),
            Command::Grant(grant),
        ]);
    }

    /// Ingests messages and delivers them.
    fn pass(&mut self, interface: u64, from: u64, through: u64) {
        let mut commands: Vec<Command> = (from..=through).map(|n| ingest(interface, n)).collect();
        commands.push(Command::Answer(Answer {
            interface: id(interface),
            destination: DestinationNumber(0),
            epoch: Epoch(1),
            sequence: Sequence(through),
            kind: AnswerKind::Ack,
        }));
        let replies = self.apply(commands);
        let last = replies.last().unwrap();
        assert!(
            matches!(last, Reply::Answered { checkpoint } if checkpoint.0 == through),
            "{last:?}"
        );
    }

    /// Forgets what is past its time, as a leader does; answers how many commands that took.
    fn sweep(&mut self) -> usize {
        let mut commands = 0;
        loop {
            let now = ClusterTime(self.time);
            let due: Vec<ForgetFinished> = self
                .state
                .interfaces()
                .filter_map(|interface| {
                    let through = self.state.forgettable(interface, now)?;
                    let interface = interface.id;
                    Some(ForgetFinished { interface, through })
                })
                .collect();
            if due.is_empty() {
                return commands;
            }
            commands += due.len();
            for due in due {
                self.apply(vec![Command::ForgetFinished(due)]);
            }
        }
    }

    fn remembered(&self) -> u64 {
        let of = |i: &ordo_core::Interface| i.finished_through().0 + 1 - i.known_from().0;
        self.state.interfaces().map(of).sum()
    }

    fn is_known(&self, interface: u64, n: u64) -> bool {
        let interface = self.state.interface(id(interface)).unwrap();
        interface.sequence_of(message(interface_number(interface.id), n)) == Some(Sequence(n))
    }
}

fn interface_number(id: InterfaceId) -> u64 {
    u64::try_from(id.0.as_u128() - 1).unwrap()
}

/// The process's memory.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn say(text: &str) {
    eprintln!("{text}");
}

fn run(interfaces: u64) {
    let mut run = Run {
        state: State::default(),
        index: 0,
        time: HOUR_MS,
        records: 0,
        longest_us: 0,
    };
    let empty = resident_bytes();
    (0..interfaces).for_each(|interface| run.create(interface));
    let begun = Instant::now();
    for from in (1..=MESSAGES).step_by(AT_ONCE as usize) {
        (0..interfaces).for_each(|interface| run.pass(interface, from, from + AT_ONCE - 1));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let kept = interfaces * 1_000;
    assert_eq!(
        (run.remembered(), run.records),
        (kept, interfaces * MESSAGES)
    );
    assert!(run.is_known(0, 2_001) && run.is_known(0, 3_000) && !run.is_known(0, 2_000));
    let held = resident_bytes() - empty;
    say(&format!(
        "{interfaces} interfaces, {MESSAGES} messages each: {} MB, {:.1} bytes a remembered message with all else; {:.0} \
         messages a second",
        held / 1_000_000,
        held as f64 / kept as f64,
        (interfaces * MESSAGES) as f64 / seconds,
    ));
    assert!(
        held <= kept * MESSAGE_BYTES + interfaces * INTERFACE_BYTES + 16_000_000,
        "{held} bytes"
    );
    // At rest, with tails shorter than they may be, too.
    run.time += 25 * HOUR_MS;
    run.longest_us = 0;
    let commands = run.sweep();
    assert_eq!((run.remembered(), run.records), (0, interfaces * MESSAGES));
    run.time += (6 * 24 + 1) * HOUR_MS;
    let more = run.sweep();
    assert_eq!((run.remembered(), run.records), (0, 0));
    assert_eq!(run.sweep(), 0, "nothing is due twice");
    say(&format!(
        "forgotten by {commands} commands after 24 h and {more} after 7 days, the longest took {} us",
        run.longest_us
    ));
    invariants::check(&run.state).unwrap();
    let again = run.apply(vec![ingest(0, MESSAGES)]);
    assert!(
        matches!(
            &again[..],
            [Reply::Ingested {
                sequence: Sequence(3_001),
                duplicate: false
            }]
        ),
        "{again:?}"
    );
}

#[test]
fn what_is_remembered_is_little_and_goes_with_its_time() {
    run(300);
}

#[test]
#[ignore = "takes a gigabyte and some minutes"]
fn twenty_five_thousand_interfaces_remember_what_they_promise() {
    run(25_000);
}
