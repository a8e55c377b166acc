//! The state, its store and the naive model, compared in everything that can be seen.

use super::model::{self, Body, Lane, Model};
use super::store::Store;
use ordo_core::limits::TRIES_MAX;
use ordo_core::{
    ClusterTime, DeadLetterKey, DestinationNumber, Effect, Interface, InterfaceId, Key, Rules,
    Sequence, Slot, Sound, State, Status,
};
use std::collections::{BTreeMap, BTreeSet};

fn same_status(status: Status, model: model::Status) -> bool {
    match (status, model) {
        (Status::Pending, model::Status::Pending)
        | (Status::Ready, model::Status::Ready)
        | (Status::Filtered, model::Status::Filtered) => true,
        (Status::Failed(a), model::Status::Failed(b)) => a == b,
        _ => false,
    }
}

fn key(key: &DeadLetterKey) -> (u64, Option<u8>) {
    (key.sequence.0, key.destination.map(|d| d.0))
}

/// Everything that can be read from the state is as the model has it.
pub fn state(state: &State, model: &Model) {
    assert_eq!(
        state.cluster_time(),
        ClusterTime(model.time),
        "cluster time"
    );
    assert_eq!(state.wall_time().0, model.wall, "wall time");
    assert_eq!(state.position(), model.position, "the last proposal");
    assert_eq!(state.interfaces().count(), model.lanes.len(), "interfaces");
    for lane in &model.lanes {
        let interface = state.interface(lane.id).expect("the model has it");
        assert_eq!(
            state.interface_named(&lane.name).map(|i| i.id),
            Some(lane.id)
        );
        assert_eq!(
            interface.config_version, lane.version,
            "configuration version"
        );
        assert_eq!(*interface.config, lane.config, "configuration");
        counters(interface, lane);
        slots(interface, lane);
        destinations(interface, lane);
        dead_letters(interface, lane);
        known(interface, lane);
        sights(interface, lane);
    }
}

fn counters(interface: &Interface, lane: &Lane) {
    let of = |status: fn(&model::Status) -> bool| {
        let released = lane.messages.iter().filter(|m| m.released);
        released.filter(|m| status(&m.status)).count() as u64
    };
    assert_eq!(interface.last_sequence.0, lane.last(), "last sequence");
    assert_eq!(interface.watermark.0, lane.watermark(), "watermark");
    assert_eq!(interface.finished_through().0, lane.finished(), "finished");
    assert_eq!(interface.window(), lane.last() - lane.watermark(), "window");
    assert_eq!(
        interface.backlog(),
        lane.watermark() - lane.finished(),
        "backlog"
    );
    assert_eq!(
        interface.failed,
        of(|s| matches!(s, model::Status::Failed(_))),
        "failed"
    );
    assert_eq!(
        interface.filtered,
        of(|s| *s == model::Status::Filtered),
        "filtered"
    );
    assert_eq!(interface.forgotten_through.0, lane.forgotten, "forgotten");
    let producers = interface
        .producers
        .iter()
        .map(|(name, p)| (name.clone(), p.last, p.message_id, p.sequence.map(|s| s.0)));
    let mut expected: Vec<_> = lane
        .producers
        .iter()
        .map(|p| (p.name.clone(), p.last, p.message_id, p.sequence))
        .collect();
    expected.sort();
    assert_eq!(producers.collect::<Vec<_>>(), expected, "producers");
}

fn slots(interface: &Interface, lane: &Lane) {
    for sequence in 1..=lane.last() {
        let message = lane.message(sequence).expect("in range");
        let slot = interface.slot(Sequence(sequence));
        assert_eq!(slot.is_none(), message.is_finished(), "slot of {sequence}");
        let Some(slot) = slot else { continue };
        let at = |what: &str| format!("{what} of {sequence}");
        assert_eq!(slot.message_id, message.id, "{}", at("id"));
        assert_eq!(slot.digest, message.digest, "{}", at("digest"));
        assert!(
            same_status(slot.status, message.status),
            "status of {sequence}: {:?}, expected {:?}",
            slot.status,
            message.status
        );
        assert_eq!(usize::from(slot.stage.0), message.stage, "{}", at("stage"));
        assert_eq!(
            slot.stage_times.len(),
            message.stage,
            "{}",
            at("stage times")
        );
        assert_eq!(slot.turn.0, message.turn, "{}", at("turn"));
        assert_eq!(
            u32::from(slot.attempts),
            message.attempts,
            "{}",
            at("attempts")
        );
        assert_eq!(u32::from(slot.losses), message.losses, "{}", at("losses"));
        assert_eq!(slot.not_before.0, message.not_before, "{}", at("back-off"));
        let redrive_of = slot.redrive_of.as_deref().map(key);
        assert_eq!(redrive_of, message.redrive_of, "{}", at("redrive_of"));
        let set = (slot.header_count.into(), slot.header_bytes.into());
        assert_eq!(set, message.headers_set, "{}", at("headers"));
        let length = message.body.payload.len();
        assert_eq!(
            slot.payload_bytes as usize,
            length,
            "{}",
            at("payload bytes")
        );
        for number in 0..lane.destinations.len() {
            let destination = DestinationNumber(u8::try_from(number).expect("small"));
            let is_for = slot.destinations.contains(destination);
            assert_eq!(is_for, message.is_for(number), "{}", at("destinations"));
            let rejected = message.ends[number] == Some(model::End::Rejected);
            assert_eq!(
                slot.rejected.contains(destination),
                rejected,
                "{}",
                at("rejected")
            );
        }
    }
}

fn destinations(interface: &Interface, lane: &Lane) {
    assert_eq!(
        interface.destinations.len(),
        lane.destinations.len(),
        "destinations"
    );
    for (number, expected) in lane.destinations.iter().enumerate() {
        let there = &interface.destinations[number];
        let at = |what: &str| format!("{what} of destination {number}");
        assert_eq!(
            there.checkpoint.0,
            lane.checkpoint(number),
            "{}",
            at("checkpoint")
        );
        assert_eq!(there.epoch.0, expected.epoch, "{}", at("epoch"));
        let holder = there.holder.as_ref().map(|h| (h.consumer, h.name.clone()));
        assert_eq!(holder, expected.holder, "{}", at("holder"));
        assert_eq!(
            there.suspended_until.0,
            expected.suspended_until,
            "{}",
            at("suspension")
        );
        assert_eq!(there.attempts, expected.attempts, "{}", at("attempts"));
        assert_eq!(there.reason, expected.reason, "{}", at("reason"));
        assert_eq!(there.repeats, expected.repeats, "{}", at("repeats"));
        assert_eq!(there.turn.0, expected.turn, "{}", at("turn"));
        let tries = there.tries.iter();
        let tries: Vec<_> = tries
            .map(|there| (there.kind, there.at.0, there.reason.clone()))
            .collect();
        let first = expected.tries.len().saturating_sub(TRIES_MAX);
        assert_eq!(tries, expected.tries[first..], "{}", at("tries"));
        assert_eq!(there.delivered, expected.delivered, "{}", at("delivered"));
        assert_eq!(there.skipped, expected.skipped, "{}", at("skipped"));
    }
}

fn dead_letters(interface: &Interface, lane: &Lane) {
    let keys: BTreeSet<_> = interface.dead_letters.keys().map(key).collect();
    let expected: BTreeSet<_> = lane.letters.iter().map(|letter| letter.key).collect();
    assert_eq!(keys, expected, "dead letters");
    for (there, letter) in &interface.dead_letters {
        let expected = lane.letter(key(there)).expect("the keys are the same");
        let at = |what: &str| format!("{what} of dead letter {there:?}");
        assert_eq!(letter.message_id, expected.message.id, "{}", at("id"));
        assert_eq!(letter.digest, expected.message.digest, "{}", at("digest"));
        assert_eq!(
            usize::from(letter.stage.0),
            expected.message.stage,
            "{}",
            at("stage")
        );
        assert_eq!(letter.cause, expected.cause, "{}", at("cause"));
        assert_eq!(letter.attempts, expected.attempts, "{}", at("attempts"));
        assert_eq!(letter.losses, expected.losses, "{}", at("losses"));
        assert_eq!(letter.reason, expected.reason, "{}", at("reason"));
        assert_eq!(
            letter.redriven_as.map(|s| s.0),
            expected.redriven_as,
            "{}",
            at("redriven_as")
        );
        let redrive_of = letter.redrive_of.as_ref().map(key);
        assert_eq!(
            redrive_of,
            expected.message.redrive_of,
            "{}",
            at("redrive_of")
        );
        let length = expected.message.body.payload.len();
        assert_eq!(
            letter.payload_bytes as usize,
            length,
            "{}",
            at("payload bytes")
        );
        for number in 0..lane.destinations.len() {
            let destination = DestinationNumber(u8::try_from(number).expect("small"));
            let is_for = letter.destinations.contains(destination);
            assert_eq!(
                is_for,
                expected.message.is_for(number),
                "{}",
                at("destinations")
            );
        }
    }
    assert_eq!(
        interface.dead_letters_full(),
        lane.over_cap(),
        "dead letters over their cap"
    );
}

/// Known ids are known, and no others.
fn known(interface: &Interface, lane: &Lane) {
    assert_eq!(interface.known_from().0, lane.let_go + 1, "known from");
    assert_eq!(
        interface.unheard_messages(),
        lane.unheard.len() as u64,
        "unheard"
    );
    for message in &lane.messages {
        let there = interface.sequence_of(message.id).map(|s| s.0);
        assert_eq!(there, lane.known(message.id), "known id {}", message.id);
    }
}

/// What each consumer is to be sent beyond its checkpoint, up to the watermark.
fn sights(interface: &Interface, lane: &Lane) {
    for (number, destination) in interface.destinations.iter().enumerate() {
        let at = DestinationNumber(u8::try_from(number).expect("small"));
        for sequence in destination.checkpoint.0 + 1..=interface.watermark.0 {
            let slot = interface
                .slot(Sequence(sequence))
                .expect("it is not finished");
            let expected = lane.sight(sequence, number);
            let same = match (slot.destinations.contains(at), slot.status) {
                (false, _) => expected == model::Sight::Nothing,
                (true, Status::Ready) => expected == model::Sight::Message,
                (true, status) => {
                    matches!(expected, model::Sight::Skip(skipped) if same_status(status, skipped))
                }
            };
            assert!(
                same,
                "{sequence} at destination {number}: expected {expected:?}"
            );
        }
    }
}

/// Whoever needs a body finds it as the model has it; nobody's body is left behind; records and events are kept as
/// long as they are to be.
pub fn store(store: &Store, state: &State, model: &Model) {
    let mut needed: BTreeSet<Key> = BTreeSet::new();
    for lane in &model.lanes {
        let interface = state.interface(lane.id).expect("the model has it");
        let mut need = |of: Sequence, rows: u64, expected: Option<&Body>| {
            needed.insert(Key::Payload(lane.id, of));
            let set = (0u8..64).filter(|row| rows & (1 << row) != 0);
            needed.extend(set.map(|row| Key::Headers(lane.id, of, row)));
            let body = store.body(lane.id, of, rows);
            let (payload, headers) = body.unwrap_or_else(|| panic!("the body of {of} is missing"));
            if let Some(expected) = expected {
                assert_eq!(payload, expected.payload, "payload of {of}");
                let pairs = |of: &[ordo_core::Header]| {
                    let pairs = of.iter().map(|h| (h.name.clone(), h.value.clone()));
                    pairs.collect::<BTreeMap<_, _>>()
                };
                assert_eq!(pairs(&headers), pairs(&expected.headers), "headers of {of}");
            }
        };
        for (sequence, slot) in interface.slots() {
            let message = lane.message(sequence.0).expect("in range");
            // The body of a skipped one is its dead letter's, and a redrive at the tail may be changing it.
            let used = matches!(slot.status, Status::Pending | Status::Ready);
            need(
                slot.body_of,
                slot.header_rows,
                used.then_some(&message.body),
            );
            let row = store.payload_row(lane.id, slot.body_of);
            assert!(
                !used || row.is_some_and(|row| Sound::entered(row, slot.stage)),
                "the payload of {sequence} is of row {row:?}, and it is in stage {}",
                slot.stage.0
            );
        }
        for (there, letter) in &interface.dead_letters {
            let expected = lane.letter(key(there)).expect("compared already");
            // One being redriven shares its body with the message that redrives it, which may change it.
            let idle = expected.redriven_as.is_none();
            need(
                letter.body_of,
                letter.header_rows,
                idle.then_some(&expected.message.body),
            );
        }
        history(store, lane);
    }
    let there: BTreeSet<Key> = store.body_keys().cloned().collect();
    assert_eq!(there, needed, "stored bodies, and bodies somebody needs");
}

fn history(store: &Store, lane: &Lane) {
    for sequence in 1..=lane.last() {
        let message = lane.message(sequence).expect("in range");
        let has_letter = lane.letters.iter().any(|letter| letter.key.0 == sequence);
        let forgotten = sequence <= lane.forgotten && !has_letter;
        let record = store.record(lane.id, Sequence(sequence));
        assert_eq!(
            record.is_some(),
            message.is_finished() && !forgotten,
            "record of {sequence}"
        );
        if let Some(record) = record {
            assert_eq!(record.message_id, message.id, "recorded id of {sequence}");
            assert!(
                same_status(record.status, message.status),
                "recorded status of {sequence}"
            );
            assert_eq!(
                Some(record.finished.0),
                message.finished_at,
                "end of {sequence}"
            );
        }
        let expected = if forgotten { &[][..] } else { &message.events };
        let events = store.events(lane.id, Sequence(sequence));
        assert_eq!(events, expected, "events of {sequence}");
    }
    assert!(store.record(lane.id, Sequence(lane.last() + 1)).is_none());
}

/// What the leader's loops would have to hear of.
#[derive(Clone, Default)]
pub struct Watched {
    work: BTreeMap<(InterfaceId, Sequence), (u32, ClusterTime)>,
    watermarks: BTreeMap<InterfaceId, Sequence>,
    versions: BTreeMap<InterfaceId, u64>,
    destinations: BTreeMap<(InterfaceId, DestinationNumber), (u64, u64, bool, u64)>,
}

impl Watched {
    pub fn of(state: &State) -> Self {
        let mut watched = Self::default();
        for interface in state.interfaces() {
            let id = interface.id;
            let pending = |slot: &Slot| slot.status == Status::Pending;
            let pending = interface.slots().filter(|(_, slot)| pending(slot));
            watched
                .work
                .extend(pending.map(|(s, slot)| ((id, s), (slot.turn.0, slot.not_before))));
            watched.watermarks.insert(id, interface.watermark);
            watched.versions.insert(id, interface.config_version);
            for (number, d) in interface.destinations.iter().enumerate() {
                let number = DestinationNumber(u8::try_from(number).expect("small"));
                let seen = (
                    d.checkpoint.0,
                    d.epoch.0,
                    d.holder.is_some(),
                    d.suspended_until.0,
                );
                watched.destinations.insert((id, number), seen);
            }
        }
        watched
    }

    /// Each change from `before` to here has its effect among `effects`.
    pub fn explained_since(&self, before: &Self, effects: &[Effect]) {
        let expect = |changed: bool, effect: Effect| {
            assert!(
                !changed || effects.contains(&effect),
                "{effect:?} was not told: {effects:?}"
            );
        };
        for (&(interface, sequence), now) in &self.work {
            let changed = before.work.get(&(interface, sequence)) != Some(now);
            expect(
                changed,
                Effect::Work {
                    interface,
                    sequence,
                },
            );
        }
        for (&interface, now) in &self.watermarks {
            let was = before
                .watermarks
                .get(&interface)
                .copied()
                .unwrap_or(Sequence::ZERO);
            expect(was != *now, Effect::Released { interface });
        }
        for (&interface, now) in &self.versions {
            let changed = before.versions.get(&interface) != Some(now);
            expect(changed, Effect::Interface { interface });
        }
        for (&(interface, destination), now) in &self.destinations {
            // A new interface's destinations have nothing to tell yet.
            let was = before.destinations.get(&(interface, destination));
            let changed = was.is_some_and(|was| was != now);
            expect(
                changed,
                Effect::Destination {
                    interface,
                    destination,
                },
            );
        }
    }

    /// A new leader is told of everything there is to do.
    pub fn resumed_by(&self, effects: &[Effect]) {
        let work = |effect: &Effect| match effect {
            Effect::Work {
                interface,
                sequence,
            } => Some((*interface, *sequence)),
            _ => None,
        };
        let told: Vec<_> = effects.iter().filter_map(work).collect();
        let expected: Vec<_> = self.work.keys().copied().collect();
        assert_eq!(told, expected, "work resumed");
        let interfaces = self
            .versions
            .keys()
            .map(|&interface| Effect::Interface { interface });
        let destinations = self.destinations.keys();
        let destinations = destinations.map(|&(interface, destination)| Effect::Destination {
            interface,
            destination,
        });
        for effect in interfaces.chain(destinations) {
            assert!(effects.contains(&effect), "{effect:?} was not resumed");
        }
    }
}
