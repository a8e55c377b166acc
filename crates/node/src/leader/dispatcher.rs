//! Hands work to workers: by credits, fair across interfaces, the head of a lane first.
//!
//! Assignments and leases live here alone and die with the leader; what a report may still do is decided by the
//! turn it carries. A loss is a command. Leases and graces are counted in cluster time, which a pause of the leader
//! moves by a second at most: the reports that waited for it are heard before any lease ends.

use super::FixedMap;
use super::crews::Cursor;
use super::deadlines::Deadlines;
use super::events::{Assignment, Place, SessionId, WorkPush, WorkerId};
use super::lanes::{Check, Lanes, is_worked_on};
use super::turns::Turns;
use super::workers::{Held, NEVER, Worker, work_until};
use ordo_core::{
    ClusterTime, Interface, InterfaceConfig, InterfaceId, Sequence, Slot, StageConfig, StageNumber,
    State, Status, Turn,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a worker whose stream closed may take to come back, in milliseconds of cluster time.
pub(crate) const RECONNECT_GRACE_MS: u64 = 1_000;
/// How long a new leader waits for workers to say what they hold.
pub(crate) const LEADER_GRACE: Duration = Duration::from_millis(200);
/// Assignments given to one worker before it is the next one's turn.
const SHARE_MAX: usize = 32;
/// Both clocks, read once a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) cluster: ClusterTime,
}

/// A loss to be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) place: Place,
    pub(crate) stage: StageNumber,
    pub(crate) turn: Turn,
    pub(crate) reason: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    /// The queues there are, by the names of their stages.
    pub(super) stages: BTreeMap<String, usize>,
    pub(super) queues: Vec<Lanes>,
    /// Numbers of queues that no stage has any more.
    vacant: Vec<usize>,
    /// Each interface's configuration, as it was seen last.
    configs: FixedMap<InterfaceId, Arc<InterfaceConfig>>,
    /// How many of those have a stage of a name.
    named: BTreeMap<String, usize>,
    pub(super) workers: BTreeMap<SessionId, Worker>,
    pub(super) sessions: BTreeMap<WorkerId, SessionId>,
    /// Stages and prefixes whose workers may have room, and whose interfaces may have something ready. What does not
    /// stand here has nothing to be given, or nobody to give it to.
    woken: Turns<(usize, Arc<str>)>,
    /// Stages and beginnings of interfaces' names for which a message that has to be alone may find a worker.
    /// From where on they are looked at stands beside them.
    pub(super) touched: BTreeMap<(usize, Arc<str>), (Cursor, Sequence)>,
    pub(super) held: FixedMap<Place, Held>,
    /// Messages whose time has not come.
    delayed: BTreeSet<(ClusterTime, Place)>,
    /// Of each worker: its first lease to end, or the end of its grace.
    pub(super) deadlines: Deadlines<ClusterTime, SessionId>,
    opens_at: Instant,
    /// Workers with something in their frames.
    dirty: Vec<SessionId>,
    /// Workers that get nothing until their hands are empty, and until when the choice stands.
    pub(super) reserved: Vec<(SessionId, ClusterTime)>,
    losses: Vec<Lost>,
    /// Entries looked at so far: tests hold it against what there was to do.
    pub(super) steps: u64,
}

impl Dispatcher {
    /// A new leader's: everything that is PENDING is ready, or will be.
    pub(crate) fn new(state: &State, now: Now) -> Self {
        let mut dispatcher = Self {
            stages: BTreeMap::new(),
            queues: Vec::new(),
            vacant: Vec::new(),
            configs: FixedMap::default(),
            named: BTreeMap::new(),
            workers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            woken: Turns::default(),
            touched: BTreeMap::new(),
            held: FixedMap::default(),
            delayed: BTreeSet::new(),
            deadlines: Deadlines::default(),
            opens_at: now.instant + LEADER_GRACE,
            dirty: Vec::new(),
            reserved: Vec::new(),
            losses: Vec::new(),
            steps: 0,
        };
        for interface in state.interfaces() {
            dispatcher.configured(state, interface.id, now);
        }
        dispatcher
    }

    /// An interface is new here, or its configuration changed. Its messages stay where they are: they are looked at
    /// when it is seen for the first time.
    pub(crate) fn configured(&mut self, state: &State, id: InterfaceId, now: Now) {
        let Some(interface) = state.interface(id) else {
            return;
        };
        let config = Arc::clone(&interface.config);
        for stage in &config.stages {
            self.steps += 1;
            *self.named.entry(stage.name.clone()).or_default() += 1;
        }
        match self.configs.insert(id, config) {
            Some(before) => self.reconfigured(interface, &before),
            None => self.scan(state, interface, now),
        }
    }

    fn reconfigured(&mut self, interface: &Interface, before: &InterfaceConfig) {
        for stage in &before.stages {
            if let Some(count) = self.named.get_mut(&stage.name) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&stage.name);
                }
            }
            let Some(queue) = self.stages.get(&stage.name).copied() else {
                continue;
            };
            if interface.config.stage_number(&stage.name).is_none() {
                self.queues[queue].drop_lane(interface.id);
                self.vacate(queue);
            } else if is_worked_on(interface) && self.queues[queue].unpark(interface.id) {
                self.wake(queue, &interface.name);
                self.touch(queue, &interface.name);
            }
        }
    }

    /// Looks at every PENDING message of an interface.
    fn scan(&mut self, state: &State, interface: &Interface, now: Now) {
        // Everything up to the watermark is final.
        for sequence in interface.watermark.0 + 1..=interface.last_sequence.0 {
            let place = Place {
                interface: interface.id,
                sequence: Sequence(sequence),
            };
            self.work(state, place, now);
        }
    }

    /// A message is PENDING, and not, or no longer, in anyone's hands. One that lost its worker goes to another, if there
    /// is one, as long as this leader remembers which it was.
    pub(crate) fn work(&mut self, state: &State, place: Place, now: Now) {
        let Some(interface) = state.interface(place.interface) else {
            return;
        };
        let Some(slot) = interface
            .slot(place.sequence)
            .filter(|slot| slot.status == Status::Pending)
        else {
            return;
        };
        let mut lost_by = None;
        match self.held.get(&place) {
            Some(held) if held.turn == slot.turn => return,
            Some(held) => {
                lost_by = held.losing.then_some(held.worker);
                self.free(place);
            }
            None => {}
        }
        if slot.not_before > now.cluster {
            self.delayed.insert((slot.not_before, place));
            return;
        }
        let queue = self.queue_of(interface.stage_name(slot.stage));
        if slot.losses > 0 {
            self.queues[queue].push_alone(interface, place.sequence, lost_by);
            self.touch(queue, &interface.name);
        } else if self.queues[queue].push(interface, place.sequence) {
            self.wake(queue, &interface.name);
        }
    }

    /// An interface has something ready: who serves it is to be looked at.
    fn wake(&mut self, queue: usize, interface: &str) {
        for (prefix, crew) in self.queues[queue].crews.serving(interface) {
            self.steps += 1;
            if !crew.free.is_empty() {
                self.woken.push_back((queue, Arc::clone(prefix)));
            }
        }
    }

    /// A worker may have room: it is looked at for each of its stages.
    pub(super) fn has_room(&mut self, session: SessionId) {
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        if worker.listed || worker.room() == 0 {
            return;
        }
        worker.listed = true;
        let (later, first) = worker.stages.split_at(worker.next_stage);
        for queue in first.iter().chain(later) {
            self.steps += 1;
            if let Some(crew) = self.queues[*queue].crews.get_mut(&worker.prefix) {
                crew.free.push_back(session);
                self.woken.push_back((*queue, Arc::clone(&worker.prefix)));
            }
        }
    }

    pub(super) fn queue_of(&mut self, stage: &str) -> usize {
        if let Some(queue) = self.stages.get(stage) {
            return *queue;
        }
        let lanes = Lanes::new(stage.into());
        let queue = if let Some(vacant) = self.vacant.pop() {
            self.queues[vacant] = lanes;
            vacant
        } else {
            self.queues.push(lanes);
            self.queues.len() - 1
        };
        self.stages.insert(stage.to_owned(), queue);
        queue
    }

    /// A worker no longer serves these. A worker names what stages it likes, so that those nobody else has go with it.
    pub(super) fn unserve(&mut self, session: SessionId, queues: Vec<usize>, prefix: &Arc<str>) {
        for queue in queues {
            self.queues[queue].crews.leave(prefix, session);
            if self.queues[queue].has_alone(prefix) {
                // What was to go to it may find another.
                self.touch(queue, prefix);
            }
            self.vacate(queue);
        }
    }

    /// A stage that has neither messages nor workers needs no queue.
    fn vacate(&mut self, queue: usize) {
        let lanes = &self.queues[queue];
        if lanes.crews.workers() == 0 && lanes.is_empty() {
            let was_there = self.stages.remove(&*lanes.name).is_some();
            self.vacant.extend(was_there.then_some(queue));
        }
    }

    /// Those of `stages` that no interface has.
    pub(super) fn unknown(&self, stages: &[String]) -> Vec<String> {
        let is_unknown = |stage: &&String| !self.named.contains_key(*stage);
        stages.iter().filter(is_unknown).cloned().collect()
    }

    pub(super) fn free(&mut self, place: Place) {
        let Some(held) = self.held.remove(&place) else {
            return;
        };
        let Some(worker) = self.workers.get_mut(&held.session) else {
            return;
        };
        worker.holds.remove(&(held.listed_at, place));
        let is_empty = worker.holds.is_empty();
        worker.alone &= !is_empty;
        worker.slow &= !is_empty;
        self.has_room(held.session);
        if is_empty {
            self.has_empty_hands(held.session);
        }
    }

    // ----- time -----

    /// Ends leases and graces that are over.
    pub(crate) fn tick(&mut self, state: &State, now: Now) {
        while let Some(session) = self.deadlines.pop_due(now.cluster) {
            let Some(worker) = self.workers.get_mut(&session) else {
                continue;
            };
            worker.lease_check = None;
            if worker.push.is_some() {
                self.end_leases(state, session, now);
                continue;
            }
            let reason = format!("worker {} went away", worker.name);
            for (place, held) in self.held_by(session) {
                if !held.losing {
                    self.lose(state, place, held, reason.clone());
                }
            }
            self.forget(session);
        }
    }

    /// Ends a worker's leases that are over. Each is looked at when it would have ended without its extensions.
    fn end_leases(&mut self, state: &State, session: SessionId, now: Now) {
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        let mut ended = Vec::new();
        let mut next = None;
        while let Some((at, place)) = worker.holds.first().copied() {
            if at > now.cluster {
                next = (at != NEVER).then_some(at);
                break;
            }
            self.steps += 1;
            worker.holds.pop_first();
            let Some(held) = self.held.get_mut(&place) else {
                continue;
            };
            held.listed_at = held.lease_until;
            if held.losing || held.lease_until <= now.cluster {
                held.listed_at = NEVER;
                ended.push((place, *held));
            }
            worker.holds.insert((held.listed_at, place));
        }
        let name = Arc::clone(&worker.name);
        let silent = Arc::clone(&worker.silent);
        for (place, held) in ended {
            if held.losing {
                continue;
            }
            let overdue = held.work_until.is_some_and(|most| most <= now.cluster);
            let reason = match overdue {
                true => format!("worker {name} took longer than work_ms_max allows"),
                false => format!("worker {name} did not report within its lease"),
            };
            silent.store(true, Ordering::Relaxed);
            self.lose(state, place, held, reason);
        }
        if let Some(next) = next {
            self.look_at_leases(session, next);
        }
    }

    fn lose(&mut self, state: &State, place: Place, held: Held, reason: String) {
        if current_turn(state, place) != Some(held.turn) {
            self.free(place);
            return;
        }
        if let Some(held) = self.held.get_mut(&place) {
            held.losing = true;
        }
        self.losses.push(Lost {
            place,
            stage: held.stage,
            turn: held.turn,
            reason,
        });
    }

    /// What is to be proposed.
    pub(crate) fn take_losses(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.losses)
    }

    /// Losses are applied, or were not proposed: then the messages are simply ready again.
    pub(crate) fn lost(&mut self, state: &State, losses: &[(Place, StageNumber, Turn)], now: Now) {
        for (place, _, turn) in losses {
            if self.held.get(place).is_some_and(|held| held.turn == *turn) {
                self.free(*place);
                self.work(state, *place, now);
            }
        }
    }

    /// When there is something to do next without anything else happening; by either clock.
    pub(crate) fn next(&self, now: Now) -> (Option<Instant>, Option<ClusterTime>) {
        let opens = (now.instant < self.opens_at).then_some(self.opens_at);
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let reserved = self.reserved.iter().map(|(_, until)| *until);
        let more = opens.is_none() && !self.touched.is_empty();
        let more = more.then_some(now.cluster);
        let due = self.deadlines.next().into_iter().chain(delayed).chain(more);
        (opens, due.chain(reserved).min())
    }

    // ----- work -----

    /// Gives out what is ready to whoever has room.
    pub(crate) fn dispatch(&mut self, state: &State, now: Now) {
        while let Some((at, place)) = self
            .delayed
            .first()
            .copied()
            .filter(|(at, _)| *at <= now.cluster)
        {
            self.delayed.remove(&(at, place));
            self.work(state, place, now);
        }
        if now.instant < self.opens_at {
            return;
        }
        self.end_reservations(now);
        self.place_alone(state, now, true);
        // A worker may be kept for what has just gone to another.
        self.end_reservations(now);
        self.fill_all(state, now);
        self.place_alone(state, now, false);
        if self.end_reservations(now) {
            self.fill_all(state, now);
        }
    }

    /// Fills every worker's hands, by turns.
    fn fill_all(&mut self, state: &State, now: Now) {
        while let Some((queue, prefix)) = self.woken.pop_front() {
            if self.fill(state, queue, &prefix, now) {
                self.woken.push_back((queue, prefix));
            }
        }
    }

    /// Gives one worker of a crew its share of what is ready in the stage. Whether there was both.
    fn fill(&mut self, state: &State, queue: usize, prefix: &Arc<str>, now: Now) -> bool {
        let lanes = &mut self.queues[queue];
        let Some((session, room)) = next_free(lanes, prefix, &mut self.workers, &mut self.steps)
        else {
            return false;
        };
        let check = Check {
            state,
            now: now.cluster,
            held: &self.held,
        };
        let share = lanes.share(SHARE_MAX).min(room);
        let taken = lanes.take(&check, prefix, share);
        self.steps += taken.steps;
        self.delayed.extend(taken.delayed);
        if taken.places.is_empty() {
            return false;
        }
        for place in taken.places {
            self.assign(state, place, session, now);
        }
        let Some(worker) = self.workers.get_mut(&session) else {
            return true;
        };
        let at = worker.stages.binary_search(&queue).unwrap_or_default();
        worker.next_stage = (at + 1) % worker.stages.len().max(1);
        worker.listed = worker.room() > 0;
        if let Some(crew) = self.queues[queue].crews.get_mut(prefix) {
            crew.free.remove(&session);
            if worker.listed {
                crew.free.push_back(session);
            }
        }
        true
    }

    pub(super) fn assign(&mut self, state: &State, place: Place, session: SessionId, now: Now) {
        let Some((interface, slot, stage)) = staged(state, place) else {
            return;
        };
        let queue = self.queue_of(&stage.name);
        let name = Arc::clone(&self.queues[queue].name);
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        let mut held = Held {
            session,
            worker: worker.id,
            stage: slot.stage,
            turn: slot.turn,
            since: now.instant,
            lease_until: now.cluster,
            listed_at: NEVER,
            work_until: work_until(stage, now.cluster),
            extensions: 0,
            losing: false,
        };
        held.lease_until = held.lease_from(now.cluster, stage.lease_ms);
        worker.alone = slot.losses > 0;
        worker.was_alone = worker.alone;
        if worker.frame.is_empty() {
            self.dirty.push(session);
        }
        worker.frame.push(Assignment {
            place,
            interface: Arc::clone(&interface.name),
            incarnation: interface.incarnation,
            stage: name,
            stage_number: slot.stage,
            turn: slot.turn,
            attempts: slot.attempts.into(),
            message_id: slot.message_id,
            body_of: slot.body_of,
            header_rows: slot.header_rows,
            lease_ms: stage.lease_ms,
        });
        self.take_in_hand(place, held);
    }

    pub(super) fn take_in_hand(&mut self, place: Place, mut held: Held) {
        let Some(worker) = self.workers.get_mut(&held.session) else {
            return;
        };
        held.listed_at = held.lease_until;
        worker.holds.insert((held.listed_at, place));
        self.held.insert(place, held);
        self.look_at_leases(held.session, held.lease_until);
    }

    /// Sends what was gathered.
    pub(crate) fn flush(&mut self) {
        for session in std::mem::take(&mut self.dirty) {
            let Some(worker) = self.workers.get_mut(&session) else {
                continue;
            };
            let frame = std::mem::take(&mut worker.frame);
            if let Some(push) = worker.push.as_ref().filter(|_| !frame.is_empty()) {
                // A stream that has ended says so itself.
                let _ = push.send(WorkPush::Assignments(frame));
            }
        }
    }

    /// Whether a period runs that outlives this leader, so that the log has to carry the time on.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.delayed.is_empty()
    }
}

/// A message's interface, its slot and the stage that it stands in.
pub(super) fn staged(state: &State, place: Place) -> Option<(&Interface, &Slot, &StageConfig)> {
    let interface = state.interface(place.interface)?;
    let slot = interface.slot(place.sequence)?;
    let stage = interface.config.stages.get(usize::from(slot.stage.0))?;
    Some((interface, slot, stage))
}

/// The crew's next worker with room. Those that have none any more are listed again when they do.
fn next_free(
    lanes: &mut Lanes,
    prefix: &str,
    workers: &mut BTreeMap<SessionId, Worker>,
    steps: &mut u64,
) -> Option<(SessionId, usize)> {
    let crew = lanes.crews.get_mut(prefix)?;
    loop {
        *steps += 1;
        let session = *crew.free.first()?;
        if let Some(worker) = workers.get_mut(&session) {
            let room = worker.room();
            if room > 0 {
                return Some((session, room));
            }
            worker.listed = false;
        }
        crew.free.pop_front();
    }
}

/// The turn of a message, while it is PENDING.
pub(super) fn current_turn(state: &State, place: Place) -> Option<Turn> {
    let slot = state.interface(place.interface)?.slot(place.sequence)?;
    (slot.status == Status::Pending).then_some(slot.turn)
}
