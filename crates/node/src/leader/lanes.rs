//! What is ready to be worked on in one stage, fair across interfaces.
//!
//! Deficit round robin: an interface whose turn it is may spend a quantum of bytes, and keeps what it has left for its
//! next one, so that one loud interface, or one with large messages, can't starve the others. Within an interface the
//! lowest sequence goes first: the head is what everyone waits for.
//!
//! Turns go by interfaces' names, for each prefix on its own: those that a worker serves are a range, and what it does
//! not serve costs it nothing.

use super::FixedMap;
use super::crews::{Crews, Cursor};
use super::events::{Place, WorkerId};
use super::workers::Held;
use ordo_core::{ClusterTime, Interface, InterfaceId, Sequence, Slot, State, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Bytes an interface may spend in one turn.
const QUANTUM: u64 = 64 * 1024;
/// What any assignment costs beside its payload.
const COST: u64 = 1_024;
/// A payload counts for so much at most, so that no message waits for many turns.
const COST_MAX: u64 = 16 * QUANTUM;
/// Turns in which nobody could afford a message, before one goes all the same: where all messages are large, the
/// first would have to wait for everybody's turns.
const POOR_TURNS: usize = 64;

const _: () = assert!(COST <= QUANTUM && COST_MAX.div_ceil(QUANTUM) < POOR_TURNS as u64);

/// What is ready in one stage.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) name: Arc<str>,
    lanes: FixedMap<InterfaceId, Lane>,
    /// Interfaces with something ready, by name; not those that are found to be paused, until they go on.
    ready: BTreeMap<Arc<str>, InterfaceId>,
    /// The same with messages that have to be alone.
    alone: BTreeMap<Arc<str>, InterfaceId>,
    /// Sequences in all lanes; some may be out of date.
    count: usize,
    /// Workers connected for this stage.
    pub(crate) crews: Crews,
}

#[derive(Debug)]
struct Lane {
    name: Arc<str>,
    /// May hold one that has moved on: each is checked when it is taken.
    ready: BTreeSet<Sequence>,
    /// Messages that lost a worker before, and which it was, where this leader knows: they are assigned alone.
    alone: BTreeMap<Sequence, Option<WorkerId>>,
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

/// What was found in one look at what is ready.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) places: Vec<Place>,
    /// What has to wait for its time.
    pub(crate) delayed: Vec<(ClusterTime, Place)>,
    /// Entries looked at.
    pub(crate) steps: u64,
}

/// A message that has to be alone.
#[derive(Clone, Debug)]
pub(crate) struct Alone {
    pub(crate) interface: Arc<str>,
    pub(crate) place: Place,
    pub(crate) lost_by: Option<WorkerId>,
}

impl Lanes {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            lanes: FixedMap::default(),
            ready: BTreeMap::new(),
            alone: BTreeMap::new(),
            count: 0,
            crews: Crews::default(),
        }
    }

    /// Whether its interface had nothing ready before, and is not paused.
    pub(crate) fn push(&mut self, interface: &Interface, sequence: Sequence) -> bool {
        let lane = lane_of(&mut self.lanes, interface);
        self.count += usize::from(lane.ready.insert(sequence));
        is_worked_on(interface)
            && self
                .ready
                .insert(Arc::clone(&lane.name), interface.id)
                .is_none()
    }

    /// What is known of who lost it stays known.
    pub(crate) fn push_alone(
        &mut self,
        interface: &Interface,
        sequence: Sequence,
        lost_by: Option<WorkerId>,
    ) {
        let lane = lane_of(&mut self.lanes, interface);
        let there = lane.alone.entry(sequence).or_default();
        *there = lost_by.or(*there);
        if is_worked_on(interface) {
            self.alone.insert(Arc::clone(&lane.name), interface.id);
        }
    }

    /// An interface that may have been paused goes on. Whether it has something here.
    pub(crate) fn unpark(&mut self, id: InterfaceId) -> bool {
        let Some(lane) = self.lanes.get(&id) else {
            return false;
        };
        if !lane.ready.is_empty() {
            self.ready.insert(Arc::clone(&lane.name), id);
        }
        if !lane.alone.is_empty() {
            self.alone.insert(Arc::clone(&lane.name), id);
        }
        true
    }

    /// Nothing of an interface that is paused is looked at until it goes on.
    fn park(&mut self, name: &str) {
        self.ready.remove(name);
        self.alone.remove(name);
    }

    /// An interface has this stage no longer.
    pub(crate) fn drop_lane(&mut self, id: InterfaceId) {
        if let Some(lane) = self.lanes.remove(&id) {
            self.park(&lane.name);
            self.count -= lane.ready.len();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// A fair share of what is ready for one worker, at most `most`.
    pub(crate) fn share(&self, most: usize) -> usize {
        self.count
            .div_ceil(self.crews.workers().max(1))
            .clamp(1, most)
    }

    /// Takes up to `max` messages for a worker with this prefix.
    pub(crate) fn take(&mut self, check: &Check<'_>, prefix: &str, max: usize) -> Taken {
        let mut taken = Taken::default();
        let Some(crew) = self.crews.get_mut(prefix) else {
            return taken;
        };
        let mut cursor = std::mem::take(&mut crew.cursor);
        let mut poor = 0;
        while taken.places.len() < max {
            let Some((name, id)) = next_in(&self.ready, prefix, &cursor) else {
                break;
            };
            taken.steps += 1;
            let interface = check.state.interface(id);
            let Some(interface) = interface.filter(|interface| is_worked_on(interface)) else {
                self.park(&name);
                continue;
            };
            let before = taken.places.len();
            cursor = self.serve(check, interface, max, poor >= POOR_TURNS, &mut taken);
            poor = match taken.places.len() == before {
                true => poor + 1,
                false => 0,
            };
        }
        if let Some(crew) = self.crews.get_mut(prefix) {
            crew.cursor = cursor;
        }
        taken
    }

    /// One interface's turn, or what is left of it; in the end, whose turn is next. The first message goes whatever it
    /// costs where that `is_due`.
    fn serve(
        &mut self,
        check: &Check<'_>,
        interface: &Interface,
        max: usize,
        mut is_due: bool,
        taken: &mut Taken,
    ) -> Cursor {
        let id = interface.id;
        let lane = lane_of(&mut self.lanes, interface);
        if !lane.in_turn {
            lane.in_turn = true;
            lane.deficit += QUANTUM;
        }
        while taken.places.len() < max {
            let Some(sequence) = lane.ready.first().copied() else {
                break;
            };
            taken.steps += 1;
            let place = Place {
                interface: id,
                sequence,
            };
            match verdict(&self.name, check, interface, sequence) {
                Verdict::Assign(cost) if cost > lane.deficit && !is_due => break,
                Verdict::Assign(cost) => {
                    is_due = false;
                    lane.deficit = lane.deficit.saturating_sub(cost);
                    taken.places.push(place);
                }
                Verdict::NotBefore(at) => taken.delayed.push((at, place)),
                // It stands among those already, since it lost its worker.
                Verdict::Alone | Verdict::Drop => {}
            }
            lane.ready.pop_first();
            self.count -= 1;
        }
        let name = Arc::clone(&lane.name);
        let goes_on = taken.places.len() == max && !lane.ready.is_empty();
        if lane.ready.is_empty() {
            lane.deficit = 0;
            self.ready.remove(&name);
        }
        lane.in_turn = goes_on;
        if lane.ready.is_empty() && lane.alone.is_empty() {
            self.lanes.remove(&id);
        }
        match goes_on {
            true => Cursor::At(name),
            false => Cursor::After(name),
        }
    }

    // ----- messages that have to be alone -----

    /// Whether one of an interface with this prefix waits.
    pub(crate) fn has_alone(&self, prefix: &str) -> bool {
        next_in(&self.alone, prefix, &Cursor::Start).is_some()
    }

    /// The first one of the interfaces with this prefix, after an interface, or after a sequence of it. What can't be
    /// assigned now is forgotten on the way.
    pub(crate) fn next_alone(
        &mut self,
        check: &Check<'_>,
        prefix: &str,
        after: &(Cursor, Sequence),
        steps: &mut u64,
    ) -> Option<Alone> {
        let (mut cursor, mut after) = after.clone();
        loop {
            *steps += 1;
            let from = bound(prefix, &cursor);
            let (name, id) = first_in(&self.alone, prefix, from)?;
            if !matches!(&cursor, Cursor::At(at) if *at == name) {
                after = Sequence::ZERO;
            }
            let interface = check.state.interface(id);
            let Some(interface) = interface.filter(|interface| is_worked_on(interface)) else {
                self.park(&name);
                continue;
            };
            let Some((sequence, lost_by)) = self.alone_of(id, after) else {
                cursor = Cursor::After(name);
                continue;
            };
            let place = Place {
                interface: id,
                sequence,
            };
            if matches!(
                verdict(&self.name, check, interface, sequence),
                Verdict::Alone
            ) {
                return Some(Alone {
                    interface: name,
                    place,
                    lost_by,
                });
            }
            self.remove_alone(place);
            cursor = Cursor::At(name);
        }
    }

    fn alone_of(&self, id: InterfaceId, after: Sequence) -> Option<(Sequence, Option<WorkerId>)> {
        let lane = self.lanes.get(&id)?;
        let after = (Bound::Excluded(after), Bound::Unbounded);
        let (sequence, lost_by) = lane.alone.range(after).next()?;
        Some((*sequence, *lost_by))
    }

    pub(crate) fn remove_alone(&mut self, place: Place) {
        let Some(lane) = self.lanes.get_mut(&place.interface) else {
            return;
        };
        lane.alone.remove(&place.sequence);
        if lane.alone.is_empty() {
            self.alone.remove(&lane.name);
            if lane.ready.is_empty() {
                self.lanes.remove(&place.interface);
            }
        }
    }
}

/// Whether anything of an interface is assigned: it is neither paused nor quarantined.
pub(crate) fn is_worked_on(interface: &Interface) -> bool {
    !interface.config.paused && interface.set_aside().is_none()
}

fn lane_of<'a>(lanes: &'a mut FixedMap<InterfaceId, Lane>, interface: &Interface) -> &'a mut Lane {
    lanes.entry(interface.id).or_insert_with(|| Lane {
        name: Arc::clone(&interface.name),
        ready: BTreeSet::new(),
        alone: BTreeMap::new(),
        deficit: 0,
        in_turn: false,
    })
}

type Names = BTreeMap<Arc<str>, InterfaceId>;

fn bound<'a>(prefix: &'a str, cursor: &'a Cursor) -> Bound<&'a str> {
    match cursor {
        Cursor::Start => Bound::Included(prefix),
        Cursor::At(name) => Bound::Included(name),
        Cursor::After(name) => Bound::Excluded(name),
    }
}

/// The first from there on whose name begins so.
fn first_in(names: &Names, prefix: &str, from: Bound<&str>) -> Option<(Arc<str>, InterfaceId)> {
    let (name, id) = names.range::<str, _>((from, Bound::Unbounded)).next()?;
    name.starts_with(prefix).then(|| (Arc::clone(name), *id))
}

/// The next one whose name begins so; after the last comes the first.
fn next_in(names: &Names, prefix: &str, cursor: &Cursor) -> Option<(Arc<str>, InterfaceId)> {
    first_in(names, prefix, bound(prefix, cursor))
        .or_else(|| first_in(names, prefix, Bound::Included(prefix)))
}

fn verdict(stage: &str, check: &Check<'_>, interface: &Interface, sequence: Sequence) -> Verdict {
    let place = Place {
        interface: interface.id,
        sequence,
    };
    let pending =
        |slot: &&Slot| slot.status == Status::Pending && interface.stage_name(slot.stage) == stage;
    let Some(slot) = interface.slot(sequence).filter(pending) else {
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
