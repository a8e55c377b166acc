//! What is ready to be worked on in one stage, fair across interfaces.
//!
//! Deficit round robin: an interface whose turn it is may spend a quantum of bytes, and goes to the end of the line
//! with what it has left, so that one loud interface, or one with large messages, can't starve the others. Within
//! an interface the lowest sequence goes first: the head is what everyone waits for.

use super::FixedMap;
use super::events::Place;
use super::workers::Held;
use ordo_core::{ClusterTime, Interface, InterfaceId, Sequence, Slot, State, Status};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Bytes an interface may spend in one turn.
const QUANTUM: u64 = 64 * 1024;
/// What any assignment costs beside its payload.
const COST: u64 = 1_024;
/// A payload counts for so much at most, so that no message waits for many turns.
const COST_MAX: u64 = 16 * QUANTUM;

const _: () = assert!(COST <= QUANTUM);

/// What is ready in one stage.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) name: Arc<str>,
    lanes: FixedMap<InterfaceId, Lane>,
    /// Interfaces with a lane, in the order of their turns.
    ring: VecDeque<InterfaceId>,
    /// Messages that lost a worker before: they are assigned alone.
    pub(crate) alone: BTreeSet<Place>,
    /// Entries in all lanes; some may be out of date.
    ready: usize,
    /// Workers connected for this stage.
    pub(crate) workers: usize,
    /// Some message has been ready in it.
    pub(crate) seen: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// May hold a sequence twice, or one that has moved on: each is checked when it is taken.
    ready: BinaryHeap<Reverse<Sequence>>,
    deficit: u64,
    in_turn: bool,
}

/// What to do with the first of a lane.
enum Verdict {
    Assign(u64),
    NotBefore(ClusterTime),
    Alone,
    Drop,
}

/// What a lane's first is checked against.
pub(crate) struct Check<'a> {
    pub(crate) state: &'a State,
    pub(crate) now: ClusterTime,
    pub(crate) held: &'a FixedMap<Place, Held>,
}

impl Lanes {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            lanes: FixedMap::default(),
            ring: VecDeque::new(),
            alone: BTreeSet::new(),
            ready: 0,
            workers: 0,
            seen: false,
        }
    }

    pub(crate) fn push(&mut self, place: Place) {
        let lane = self.lanes.entry(place.interface).or_insert_with(|| {
            self.ring.push_back(place.interface);
            Lane::default()
        });
        lane.ready.push(Reverse(place.sequence));
        self.ready += 1;
        self.seen = true;
    }

    pub(crate) fn push_alone(&mut self, place: Place) {
        self.alone.insert(place);
        self.seen = true;
    }

    /// The next message that waits to be alone.
    pub(crate) fn alone_after(&self, place: Place) -> Option<Place> {
        let after = (Bound::Excluded(place), Bound::Unbounded);
        self.alone.range(after).next().copied()
    }

    /// The next interface's first message that waits to be alone.
    pub(crate) fn alone_after_interface(&self, interface: InterfaceId) -> Option<Place> {
        self.alone_after(Place {
            interface,
            sequence: Sequence(u64::MAX),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.alone.is_empty()
    }

    /// A fair share of what is ready for one worker, at most `most`.
    pub(crate) fn share(&self, most: usize) -> usize {
        self.ready.div_ceil(self.workers.max(1)).clamp(1, most)
    }

    /// Takes up to `max` messages of interfaces whose names begin with `prefix`; what has to wait for its time goes
    /// to `delayed`.
    pub(crate) fn take(
        &mut self,
        check: &Check<'_>,
        prefix: &str,
        max: usize,
        delayed: &mut BTreeSet<(ClusterTime, Place)>,
    ) -> Vec<Place> {
        let mut taken = Vec::new();
        let mut unmatched = 0;
        while taken.len() < max && unmatched < self.ring.len() {
            let Some(id) = self.ring.pop_front() else {
                break;
            };
            let interface = check
                .state
                .interface(id)
                .filter(|interface| is_worked_on(interface));
            let Some(interface) = interface else {
                // Its messages come back when the interface changes.
                self.drop_lane(id);
                continue;
            };
            if !interface.name.starts_with(prefix) {
                self.ring.push_back(id);
                unmatched += 1;
                continue;
            }
            unmatched = 0;
            self.serve(check, interface, max, delayed, &mut taken);
        }
        taken
    }

    /// One interface's turn, or what is left of it.
    fn serve(
        &mut self,
        check: &Check<'_>,
        interface: &Interface,
        max: usize,
        delayed: &mut BTreeSet<(ClusterTime, Place)>,
        taken: &mut Vec<Place>,
    ) {
        let id = interface.id;
        let lane = self
            .lanes
            .get_mut(&id)
            .expect("every interface in the ring has a lane");
        if !lane.in_turn {
            lane.in_turn = true;
            lane.deficit += QUANTUM;
        }
        while taken.len() < max {
            let Some(Reverse(sequence)) = lane.ready.peek().copied() else {
                break;
            };
            let place = Place {
                interface: id,
                sequence,
            };
            match verdict(&self.name, check, interface, place) {
                Verdict::Assign(cost) if cost > lane.deficit => break,
                Verdict::Assign(cost) => {
                    lane.deficit -= cost;
                    taken.push(place);
                }
                Verdict::NotBefore(at) => drop(delayed.insert((at, place))),
                Verdict::Alone => drop(self.alone.insert(place)),
                Verdict::Drop => {}
            }
            lane.ready.pop();
            self.ready -= 1;
        }
        if lane.ready.is_empty() {
            self.lanes.remove(&id);
        } else if taken.len() == max {
            self.ring.push_front(id);
        } else {
            lane.in_turn = false;
            self.ring.push_back(id);
        }
    }

    fn drop_lane(&mut self, id: InterfaceId) {
        if let Some(lane) = self.lanes.remove(&id) {
            self.ready -= lane.ready.len();
        }
    }

    /// Whether a message can be assigned alone now; otherwise it is forgotten here.
    pub(crate) fn is_alone_ready(&mut self, check: &Check<'_>, place: Place) -> bool {
        let interface = check
            .state
            .interface(place.interface)
            .filter(|interface| is_worked_on(interface));
        let ready = interface.is_some_and(|interface| {
            matches!(verdict(&self.name, check, interface, place), Verdict::Alone)
        });
        if !ready {
            self.alone.remove(&place);
        }
        ready
    }
}

/// Whether anything of an interface is assigned: it is neither paused nor quarantined.
pub(crate) fn is_worked_on(interface: &Interface) -> bool {
    !interface.config.paused && interface.set_aside().is_none()
}

fn verdict(stage: &str, check: &Check<'_>, interface: &Interface, place: Place) -> Verdict {
    let pending =
        |slot: &&Slot| slot.status == Status::Pending && interface.stage_name(slot.stage) == stage;
    let Some(slot) = interface.slot(place.sequence).filter(pending) else {
        return Verdict::Drop;
    };
    if check.held.contains_key(&place) {
        return Verdict::Drop;
    }
    if slot.not_before > check.now {
        return Verdict::NotBefore(slot.not_before);
    }
    if slot.losses > 0 {
        return Verdict::Alone;
    }
    Verdict::Assign((COST + u64::from(slot.payload_bytes)).min(COST_MAX))
}
