//! What one interface's broken invariant does to the others, and to a state that has it: nothing.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use common::scenario::{digest_of, id_of};
use common::store::Store;
use ordo_core::{
    ClusterTime, Command, ConsumerId, CreateInterface, DeadLetterKey, DestinationConfig,
    DestinationNumber, Effect, Entry, ForgetFinished, Grant, Ingest, Interface, InterfaceConfig,
    InterfaceId, Key, MessageId, Outcome, QuarantineInterface, RedriveDeadLetter, Refusal,
    RepairInterface, Reply, Report, Row, Rules, RunPosition, Sequence, Slot, Sound, StageConfig,
    StageNumber, State, Status, Turn, WallTime, invariants,
};

/// A state, what it wrote, and a replica that begins again from that after every command.
#[derive(Default)]
struct Pair {
    state: State,
    store: Store,
    replica: State,
    replica_store: Store,
    index: u64,
    effects: Vec<Effect>,
}

fn lane(name: &str) -> InterfaceId {
    InterfaceId(id_of(name))
}

fn config() -> InterfaceConfig {
    InterfaceConfig {
        stages: vec![StageConfig::named("check")],
        destinations: vec![DestinationConfig::named("lab")],
        ..InterfaceConfig::default()
    }
}

fn entry(n: u64, command: Command) -> Entry {
    Entry {
        cluster_time: ClusterTime(n),
        wall_time: WallTime(1_700_000_000_000 + n),
        position: RunPosition { term: 1, run: 1, n },
        commands: vec![command],
    }
}

impl Pair {
    /// Two interfaces, "a" and "b", with a consumer each.
    fn new() -> Self {
        let mut pair = Self::default();
        for name in ["a", "b"] {
            pair.sound(Command::CreateInterface(CreateInterface {
                interface: lane(name),
                name: name.to_owned(),
                config: config(),
            }));
            pair.sound(Command::Grant(Grant {
                interface: lane(name),
                destination: DestinationNumber(0),
                consumer: ConsumerId(id_of("consumer")),
                name: "consumer".to_owned(),
                position: None,
            }));
        }
        pair
    }

    fn sound(&mut self, command: Command) -> Reply {
        self.by::<Sound>(command)
    }

    /// Both replicas by these rules; they answer and hold the same.
    fn by<R: Rules>(&mut self, command: Command) -> Reply {
        self.index += 1;
        let entry = entry(self.index, command);
        self.effects.clear();
        let reply = self
            .state
            .apply_by::<R>(self.index, entry.clone(), &mut self.effects);
        let again = self
            .replica
            .apply_by::<R>(self.index, entry, &mut Vec::new());
        assert_eq!(reply, again, "the replicas' replies");
        self.store.take(&mut self.state);
        self.replica_store.take(&mut self.replica);
        let (a, b) = (self.store.canonical(), self.replica_store.canonical());
        assert_eq!(a, b, "the replicas' stores");
        self.replica = self.replica_store.load();
        reply.into_iter().next().unwrap()
    }

    fn there(&self, name: &str) -> &Interface {
        self.state.interface(lane(name)).unwrap()
    }
}

fn ingest(name: &str, message_id: MessageId) -> Command {
    Command::Ingest(Ingest {
        interface: lane(name),
        message_id,
        digest: digest_of(b"order"),
        payload: "order".into(),
        headers: Vec::new(),
        numbered: None,
        session: None,
    })
}

fn report(name: &str, sequence: u64, outcome: Outcome) -> Command {
    Command::Report(Report {
        interface: lane(name),
        sequence: Sequence(sequence),
        stage: StageNumber(0),
        turn: Turn(1),
        outcome,
    })
}

fn reject(name: &str, sequence: u64) -> Command {
    let reason = "no".to_owned();
    report(name, sequence, Outcome::Reject { reason })
}

fn complete(name: &str, sequence: u64) -> Command {
    let outcome = Outcome::Complete {
        payload: None,
        headers: Vec::new(),
        destinations: Vec::new(),
    };
    report(name, sequence, outcome)
}

fn redrive(name: &str, sequence: u64) -> Command {
    Command::RedriveDeadLetter(RedriveDeadLetter {
        interface: lane(name),
        key: DeadLetterKey {
            sequence: Sequence(sequence),
            destination: None,
        },
        in_place_only: false,
    })
}

fn repair(name: &str) -> Command {
    Command::RepairInterface(RepairInterface {
        interface: lane(name),
    })
}

fn message(n: u32) -> MessageId {
    MessageId(id_of(&format!("message {n}")))
}

fn accepted(sequence: u64) -> Reply {
    Reply::Ingested {
        sequence: Sequence(sequence),
        duplicate: false,
    }
}

/// Rejects a message, and sends the ids that a redrive of it would get.
fn ids_of_redrives_are_taken(pair: &mut Pair, through: u64) {
    pair.sound(ingest("a", message(1)));
    pair.sound(reject("a", 1));
    for count in 1..=through {
        let reply = pair.sound(ingest("a", message(1).derived(count)));
        assert_eq!(reply, accepted(1 + count));
        let small = u32::try_from(count).unwrap().to_be_bytes();
        let other = MessageId(uuid::Uuid::new_v5(&message(1).0, &small));
        assert_eq!(pair.sound(ingest("b", other)), accepted(count));
    }
}

#[test]
fn a_redrive_passes_over_ids_that_a_producer_has_sent_before() {
    let mut pair = Pair::new();
    ids_of_redrives_are_taken(&mut pair, 12);
    let in_place = false;
    let sequence = Sequence(14);
    assert_eq!(
        pair.sound(redrive("a", 1)),
        Reply::Redriven { in_place, sequence }
    );
    let slot = pair.there("a").slot(sequence).unwrap();
    assert_eq!(slot.message_id, message(1).derived(13));
    invariants::check(&pair.state).unwrap();
    assert_eq!(pair.store.load().suspects().count(), 0);
    let again = Reply::Ingested {
        sequence: Sequence(2),
        duplicate: true,
    };
    assert_eq!(
        pair.sound(ingest("a", message(1).derived(1))),
        again,
        "who had it first is known still"
    );
}

#[test]
fn a_redrive_tries_so_many_ids_at_once_and_the_next_one_goes_on_behind_them() {
    let tried = ordo_core::limits::DERIVED_IDS_TRIED;
    let mut pair = Pair::new();
    pair.sound(ingest("a", message(1)));
    pair.sound(reject("a", 1));
    for count in 1..=u64::from(tried) {
        pair.index += 1;
        let command = ingest("a", message(1).derived(count));
        for state in [&mut pair.state, &mut pair.replica] {
            state.apply(
                pair.index,
                entry(pair.index, command.clone()),
                &mut Vec::new(),
            );
        }
    }
    let refused = Reply::Refused(Refusal::DerivedIdsKnown(tried));
    assert_eq!(pair.sound(redrive("a", 1)), refused);
    assert!(
        pair.there("a")
            .dead_letters
            .values()
            .all(|letter| letter.redriven_as.is_none())
    );
    let reply = pair.sound(redrive("a", 1));
    assert!(matches!(reply, Reply::Redriven { .. }), "{reply:?}");
}

/// A redrive gets the first id that it could get, whoever has it.
struct Blind;

impl Rules for Blind {
    fn is_free(_known: Option<Sequence>) -> bool {
        true
    }
}

/// The watermark passes messages that are still in work.
struct Hasty;

impl Rules for Hasty {
    fn releases(_status: Status, _full: bool) -> bool {
        true
    }
}

/// What may only be said of the head may be said of anything.
struct Headless;

impl Rules for Headless {
    fn is_head(_head: Sequence, _given: Sequence) -> bool {
        true
    }

    fn is_released(_up_to: Sequence, _given: Sequence) -> bool {
        true
    }

    fn in_stage(_slot: &Slot, _stage: StageNumber) -> bool {
        true
    }

    fn checkpoint(_checkpoint: Sequence, through: Sequence) -> Sequence {
        through.next()
    }
}

fn broken(reply: &Reply) -> &str {
    match reply {
        Reply::Refused(Refusal::Quarantined { invariant, .. }) => invariant,
        other => panic!("{other:?}"),
    }
}

/// Every command about `name` that a client or the leader may come with is refused, and the other interface goes on.
fn only_this_one_is_set_aside(pair: &mut Pair, name: &str) {
    let quarantine = pair.there(name).quarantine.clone().unwrap();
    let before = pair.store.canonical();
    let last = pair.there(name).last_sequence.0;
    let forget = Command::ForgetFinished(ForgetFinished {
        interface: lane(name),
        through: Sequence(last),
    });
    let quarantined = Command::QuarantineInterface(QuarantineInterface {
        interface: lane(name),
        invariant: "another".to_owned(),
    });
    for command in [
        ingest(name, message(77)),
        complete(name, last),
        redrive(name, 1),
        forget,
        quarantined,
    ] {
        let reply = pair.sound(command);
        assert_eq!(broken(&reply), quarantine.invariant);
    }
    let moved = |row: &&String| !row.starts_with("Clock") && row.contains(&lane(name).to_string());
    let (before, after) = (before, pair.store.canonical());
    let of_it = |rows: &[String]| rows.iter().filter(moved).cloned().collect::<Vec<_>>();
    assert_eq!(of_it(&before), of_it(&after), "it stands as it stood");
    let other = if name == "a" { "b" } else { "a" };
    let next = pair.there(other).last_sequence.0 + 1;
    let fresh = message(1_000 + u32::try_from(next).unwrap());
    assert_eq!(pair.sound(ingest(other, fresh)), accepted(next));
    assert_eq!(pair.sound(complete(other, next)), Reply::Done);
    let loaded = pair.store.load();
    assert_eq!(
        loaded.interface(lane(name)).unwrap().quarantine,
        Some(quarantine)
    );
    let resumed = loaded.resume();
    let works = |effect: &Effect| matches!(effect, Effect::Work { interface, .. } if *interface == lane(name));
    assert!(!resumed.iter().any(works));
}

#[test]
fn an_id_that_two_messages_have_quarantines_the_interface_and_a_repair_gives_the_redrive_another() {
    let mut pair = Pair::new();
    ids_of_redrives_are_taken(&mut pair, 2);
    let reply = pair.by::<Blind>(redrive("a", 1));
    assert_eq!(broken(&reply), "ids_are_known");
    assert!(pair.effects.contains(&Effect::Interface {
        interface: lane("a")
    }));
    assert_eq!(
        pair.there("a").sequence_of(message(1).derived(1)),
        Some(Sequence(2)),
        "who had it first is known still"
    );
    only_this_one_is_set_aside(&mut pair, "a");
    assert_eq!(pair.sound(repair("a")), Reply::Done);
    let work = Effect::Work {
        interface: lane("a"),
        sequence: Sequence(4),
    };
    assert!(pair.effects.contains(&work));
    invariants::check(&pair.state).unwrap();
    let redriven = pair.there("a").slot(Sequence(4)).unwrap().message_id;
    assert_ne!(redriven, message(1).derived(1));
    assert_eq!(pair.sound(complete("a", 4)), Reply::Done);
    assert_eq!(
        pair.sound(repair("a")),
        Reply::Done,
        "there is nothing to do"
    );
}

#[test]
fn what_a_repair_can_not_derive_stays_quarantined_and_it_says_why() {
    let mut pair = Pair::new();
    pair.sound(ingest("a", message(1)));
    pair.sound(ingest("a", message(2)));
    let reply = pair.by::<Hasty>(reject("a", 1));
    assert_eq!(broken(&reply), "released_is_final");
    only_this_one_is_set_aside(&mut pair, "a");
    assert_eq!(broken(&pair.sound(repair("a"))), "released_is_final");
    only_this_one_is_set_aside(&mut pair, "a");
}

#[test]
fn what_was_not_released_in_time_is_released_by_a_repair() {
    struct Late;
    impl Rules for Late {
        fn releases(_status: Status, _full: bool) -> bool {
            false
        }
    }
    let mut pair = Pair::new();
    pair.sound(ingest("a", message(1)));
    let reply = pair.by::<Late>(complete("a", 1));
    assert_eq!(broken(&reply), "nothing_waits_on_the_dead");
    only_this_one_is_set_aside(&mut pair, "a");
    assert_eq!(pair.sound(repair("a")), Reply::Done);
    assert_eq!(pair.there("a").watermark, Sequence(1));
}

#[test]
fn a_message_that_is_missing_stops_nobody() {
    use ordo_core::{Answer, AnswerKind, Epoch};
    let answer = |kind: AnswerKind| {
        Command::Answer(Answer {
            interface: lane("a"),
            destination: DestinationNumber(0),
            epoch: Epoch(1),
            sequence: Sequence(9),
            kind,
        })
    };
    let reason = || "no".to_owned();
    for command in [
        answer(AnswerKind::Ack),
        answer(AnswerKind::Reject { reason: reason() }),
        answer(AnswerKind::Retry {
            after_ms: 1,
            reason: reason(),
        }),
    ] {
        let mut pair = Pair::new();
        pair.sound(ingest("a", message(1)));
        let reply = pair.by::<Headless>(command);
        assert_eq!(broken(&reply), "slots_are_the_unfinished");
        only_this_one_is_set_aside(&mut pair, "a");
    }
}

#[test]
fn a_report_of_a_stage_that_a_message_is_not_in_stops_nobody() {
    let mut pair = Pair::new();
    pair.sound(ingest("a", message(1)));
    pair.sound(ingest("a", message(2)));
    pair.sound(complete("a", 2));
    let outcome = Outcome::Retry {
        reason: "no".to_owned(),
        jitter: 0,
    };
    let mut command = report("a", 2, outcome);
    if let Command::Report(report) = &mut command {
        report.turn = Turn(2);
    }
    let reply = pair.by::<Headless>(command);
    assert_eq!(broken(&reply), "pending_is_in_a_stage");
    only_this_one_is_set_aside(&mut pair, "a");
}

/// What an earlier version, which looked at nothing while it applied, has written.
fn a_state_with_one_id_twice() -> Store {
    let mut pair = Pair::new();
    ids_of_redrives_are_taken(&mut pair, 2);
    pair.by::<Blind>(redrive("a", 1));
    pair.store.rows.remove(&Key::Quarantine(lane("a")));
    pair.store
}

#[test]
fn a_state_in_which_one_interface_is_broken_loads_and_the_log_quarantines_it() {
    let mut pair = Pair {
        store: a_state_with_one_id_twice(),
        ..Pair::default()
    };
    pair.replica_store = pair.store.clone();
    (pair.state, pair.replica) = (pair.store.load(), pair.store.load());
    pair.index = pair.state.position().n;
    let suspects: Vec<_> = pair
        .state
        .suspects()
        .map(|(i, name)| (i.id, name))
        .collect();
    assert_eq!(suspects, [(lane("a"), "ids_are_known")]);
    assert_eq!(pair.there("a").set_aside(), Some("ids_are_known"));
    assert_eq!(pair.there("b").set_aside(), None);
    let works = |effect: &Effect| matches!(effect, Effect::Work { interface, .. } if *interface == lane("a"));
    assert!(
        !pair.state.resume().iter().any(works),
        "nothing is assigned"
    );
    let reply = pair.sound(Command::QuarantineInterface(QuarantineInterface {
        interface: lane("a"),
        invariant: "ids_are_known".to_owned(),
    }));
    assert_eq!(reply, Reply::Done);
    assert_eq!(pair.state.suspects().count(), 0);
    only_this_one_is_set_aside(&mut pair, "a");
    assert_eq!(pair.sound(repair("a")), Reply::Done);
    invariants::check(&pair.state).unwrap();
}

#[test]
fn rows_that_are_missing_are_damage_and_no_quarantine() {
    let mut pair = Pair::new();
    for n in 1..=3 {
        pair.sound(ingest("a", message(n)));
    }
    for sequence in 1..=3 {
        let mut rows = pair.store.rows.clone();
        let slot = rows.remove(&Key::Slot(lane("a"), Sequence(sequence)));
        assert!(matches!(slot, Some(Row::Slot(_))));
        assert!(State::load(rows.into_iter()).is_err(), "{sequence}");
    }
}
