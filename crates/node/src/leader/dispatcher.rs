//! Hands work to workers: by credits, fair across interfaces, the head of a lane first.
//!
//! Assignments and leases live here alone and die with the leader; what a report may still do is decided by the
//! turn it carries. A loss is a command. Leases and graces are counted in cluster time, which a pause of the leader
//! moves by a second at most: the reports that waited for it are heard before any lease ends.

use super::FixedMap;
use super::deadlines::Deadlines;
use super::events::{Assignment, Place, SessionId, WorkPush, WorkerId};
use super::lanes::{Check, Lanes, is_worked_on};
use super::workers::{Held, Worker};
use ordo_core::{
    ClusterTime, Interface, InterfaceId, Sequence, Slot, StageConfig, StageNumber, State, Status,
    Turn,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a worker whose stream closed may take to come back, in milliseconds of cluster time.
pub(crate) const RECONNECT_GRACE_MS: u64 = 1_000;
/// How long a new leader waits for workers to say what they hold.
pub(crate) const LEADER_GRACE: Duration = Duration::from_millis(200);
/// Assignments given to one worker before it is the next one's turn.
const SHARE_MAX: usize = 32;
/// Messages waiting to be alone, and with a worker for them, that are looked at in one round.
const ALONE_LOOKED_AT: usize = 64;

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
    pub(super) stages: BTreeMap<String, usize>,
    pub(super) queues: Vec<Lanes>,
    /// Numbers of queues that no stage has any more.
    vacant: Vec<usize>,
    pub(super) workers: BTreeMap<SessionId, Worker>,
    pub(super) sessions: BTreeMap<WorkerId, SessionId>,
    /// Whose turn it is.
    pub(super) rotation: VecDeque<SessionId>,
    pub(super) held: FixedMap<Place, Held>,
    /// Messages whose time has not come.
    delayed: BTreeSet<(ClusterTime, Place)>,
    /// Of each worker: its first lease to end, or the end of its grace.
    pub(super) deadlines: Deadlines<ClusterTime, SessionId>,
    opens_at: Instant,
    /// Workers with something in their frames.
    dirty: Vec<SessionId>,
    /// Workers that get nothing until their hands are empty, and until when the choice stands.
    reserved: Vec<(SessionId, ClusterTime)>,
    losses: Vec<Lost>,
}

impl Dispatcher {
    /// A new leader's: everything that is PENDING is ready, or will be.
    pub(crate) fn new(state: &State, now: Now) -> Self {
        let mut dispatcher = Self {
            stages: BTreeMap::new(),
            queues: Vec::new(),
            vacant: Vec::new(),
            workers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            rotation: VecDeque::new(),
            held: FixedMap::default(),
            delayed: BTreeSet::new(),
            deadlines: Deadlines::default(),
            opens_at: now.instant + LEADER_GRACE,
            dirty: Vec::new(),
            reserved: Vec::new(),
            losses: Vec::new(),
        };
        for interface in state.interfaces() {
            dispatcher.scan(state, interface.id, now);
        }
        dispatcher
    }

    /// Looks at every PENDING message of an interface: it is new here, or its configuration changed.
    pub(crate) fn scan(&mut self, state: &State, id: InterfaceId, now: Now) {
        let Some(interface) = state
            .interface(id)
            .filter(|interface| is_worked_on(interface))
        else {
            return;
        };
        // Everything up to the watermark is final.
        let released = usize::try_from(interface.backlog()).unwrap_or(usize::MAX);
        let pending: Vec<Sequence> = interface
            .slots()
            .skip(released)
            .filter(|(_, slot)| slot.status == Status::Pending)
            .map(|(sequence, _)| sequence)
            .collect();
        for sequence in pending {
            self.work(
                state,
                Place {
                    interface: id,
                    sequence,
                },
                now,
            );
        }
    }

    /// A message is PENDING, and not, or no longer, in anyone's hands.
    pub(crate) fn work(&mut self, state: &State, place: Place, now: Now) {
        let Some(interface) = state.interface(place.interface) else {
            return;
        };
        if interface.set_aside().is_some() {
            self.free(place);
            return;
        }
        let Some(slot) = interface
            .slot(place.sequence)
            .filter(|slot| slot.status == Status::Pending)
        else {
            return;
        };
        match self.held.get(&place) {
            Some(held) if held.turn == slot.turn => return,
            Some(_) => self.free(place),
            None => {}
        }
        if slot.not_before > now.cluster {
            self.delayed.insert((slot.not_before, place));
            return;
        }
        let queue = self.queue_of(interface.stage_name(slot.stage));
        if slot.losses > 0 {
            self.queues[queue].push_alone(place);
        } else {
            self.queues[queue].push(place);
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
    pub(super) fn unserve(&mut self, queues: Vec<usize>) {
        for queue in queues {
            let lanes = &mut self.queues[queue];
            lanes.workers -= 1;
            if lanes.workers == 0 && lanes.is_empty() {
                self.stages.remove(&*lanes.name);
                self.vacant.push(queue);
            }
        }
    }

    /// Those of `stages` that no interface has, or had while this node led.
    pub(super) fn unknown(&self, state: &State, stages: &[String]) -> Vec<String> {
        let seen = |stage: &str| {
            let queue = self.stages.get(stage);
            queue.is_some_and(|queue| self.queues[*queue].seen)
        };
        let mut unknown: BTreeSet<&str> = stages.iter().map(String::as_str).collect();
        unknown.retain(|stage| !seen(stage));
        for interface in state.interfaces() {
            if unknown.is_empty() {
                break;
            }
            for stage in &interface.config.stages {
                unknown.remove(&*stage.name);
            }
        }
        let is_unknown = |stage: &&String| unknown.contains(stage.as_str());
        stages.iter().filter(is_unknown).cloned().collect()
    }

    pub(super) fn free(&mut self, place: Place) {
        let Some(held) = self.held.remove(&place) else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(&held.session) {
            worker.held -= 1;
            worker.alone &= worker.held > 0;
            worker.slow &= worker.held > 0;
        }
    }

    // ----- time -----

    /// Ends leases and graces that are over, and wakes what waited for its time.
    pub(crate) fn tick(&mut self, state: &State, now: Now) {
        while let Some(session) = self.deadlines.pop_due(now.cluster) {
            let Some(worker) = self.workers.get_mut(&session) else {
                continue;
            };
            worker.lease_check = None;
            let name = Arc::clone(&worker.name);
            let gone = worker.push.is_none();
            let mut next = None;
            for (place, held) in self.held_by(session) {
                if held.losing {
                    continue;
                }
                if gone {
                    self.lose(state, place, held, format!("worker {name} went away"));
                } else if held.lease_until <= now.cluster {
                    self.lose(
                        state,
                        place,
                        held,
                        format!("worker {name} did not report within its lease"),
                    );
                } else {
                    next = Some(next.map_or(held.lease_until, |next: ClusterTime| {
                        next.min(held.lease_until)
                    }));
                }
            }
            if gone {
                self.forget(session);
            } else if let Some(next) = next {
                self.look_at_leases(session, next);
            }
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
        (
            opens,
            self.deadlines.next().into_iter().chain(delayed).min(),
        )
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
        if now.instant < self.opens_at || self.queues.iter().all(Lanes::is_empty) {
            return;
        }
        let waits = |queues: &[Lanes]| queues.iter().any(|queue| !queue.alone.is_empty());
        if waits(&self.queues) || !self.reserved.is_empty() {
            self.reserve_and_place_alone(state, now);
        }
        self.fill_all(state, now);
        if waits(&self.queues) {
            self.place_alone(state, now, None);
        }
    }

    /// Fills every worker's hands, by turns.
    fn fill_all(&mut self, state: &State, now: Now) {
        let mut without = 0;
        while without < self.rotation.len() {
            let Some(session) = self.rotation.pop_front() else {
                break;
            };
            self.rotation.push_back(session);
            without = if self.fill(state, session, now) == 0 {
                without + 1
            } else {
                0
            };
        }
    }

    /// Gives one worker its share of one of its stages.
    fn fill(&mut self, state: &State, session: SessionId, now: Now) -> usize {
        let Some(worker) = self.workers.get_mut(&session) else {
            return 0;
        };
        let room = worker.room();
        if room == 0 {
            return 0;
        }
        let check = Check {
            state,
            now: now.cluster,
            held: &self.held,
        };
        let count = worker.stages.len();
        let mut taken = Vec::new();
        for step in 0..count {
            let at = (worker.next_stage + step) % count;
            let queue = &mut self.queues[worker.stages[at]];
            let share = queue.share(SHARE_MAX).min(room);
            taken = queue.take(&check, &worker.prefix, share, &mut self.delayed);
            if !taken.is_empty() {
                worker.next_stage = (at + 1) % count;
                break;
            }
        }
        for place in &taken {
            self.assign(state, *place, session, now);
        }
        taken.len()
    }

    fn assign(&mut self, state: &State, place: Place, session: SessionId, now: Now) {
        // A lane may have held it twice, and both were taken before the first was assigned.
        if self.held.contains_key(&place) {
            return;
        }
        let Some((interface, slot, stage)) = staged(state, place) else {
            return;
        };
        let queue = self.queue_of(&stage.name);
        let name = Arc::clone(&self.queues[queue].name);
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        let lease_until = now.cluster.after_ms(stage.lease_ms.into());
        let held = Held {
            session,
            stage: slot.stage,
            turn: slot.turn,
            since: now.instant,
            lease_until,
            losing: false,
        };
        self.held.insert(place, held);
        worker.held += 1;
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
            turn: slot.turn,
            attempts: slot.attempts.into(),
            message_id: slot.message_id,
            body_of: slot.body_of,
            header_rows: slot.header_rows,
            lease_ms: stage.lease_ms,
        });
        self.look_at_leases(session, lease_until);
    }

    /// Messages that lost a worker before go to workers with empty hands, which get nothing else until they report. Such
    /// messages may be slow, and the others have to go on: half of the workers stay with those, and each worker takes
    /// turns. Where nobody's hands are empty, one worker gets no more until they are.
    fn reserve_and_place_alone(&mut self, state: &State, now: Now) {
        // Chosen anew each time: what a worker was reserved for may have come to its end elsewhere. Nobody else gets
        // to hold less than the one that is given nothing, so that it is chosen again for as long as there is cause.
        let before = std::mem::take(&mut self.reserved);
        for (session, until) in &before {
            if let Some(worker) = self.workers.get_mut(session) {
                worker.reserved = false;
                worker.slow |= now.cluster >= *until;
            }
        }
        self.place_alone(state, now, Some(&before));
    }

    /// `before` are the reservations that there were, as long as other messages have yet to get their share of the
    /// workers. Without it they have: what is left goes to whoever has nothing else to do.
    fn place_alone(
        &mut self,
        state: &State,
        now: Now,
        before: Option<&[(SessionId, ClusterTime)]>,
    ) {
        for queue in 0..self.queues.len() {
            self.place_alone_of(state, queue, now, before);
        }
    }

    fn place_alone_of(
        &mut self,
        state: &State,
        queue: usize,
        now: Now,
        before: Option<&[(SessionId, ClusterTime)]>,
    ) {
        let able = |session: &SessionId| {
            let worker = self.workers.get(session);
            worker.is_some_and(|worker| worker.serves(queue) && !worker.alone)
        };
        let mut able = self.rotation.iter().filter(|session| able(session)).count();
        let mut looked_at = 0;
        let mut next = self.queues[queue].alone.first().copied();
        while let Some(place) = next.filter(|_| able > 0 && looked_at < ALONE_LOOKED_AT) {
            let check = Check {
                state,
                now: now.cluster,
                held: &self.held,
            };
            let ready = self.queues[queue].is_alone_ready(&check, place);
            let Some((interface, _, stage)) = staged(state, place).filter(|_| ready) else {
                next = self.queues[queue].alone_after(place);
                continue;
            };
            let mut crew = Crew::default();
            for session in &self.rotation {
                let worker = self.workers.get(session);
                let serves = |worker: &&Worker| {
                    worker.serves(queue) && interface.name.starts_with(&worker.prefix)
                };
                if let Some(worker) = worker.filter(serves) {
                    crew.add(*session, worker);
                }
            }
            // What nobody can take hides nothing that somebody can.
            looked_at += usize::from(crew.best.is_some());
            let fits = before.is_none() || crew.may_be_alone();
            next = match crew.best {
                Some(best) if best.held == 0 && fits && (before.is_none() || !best.was_alone) => {
                    able -= 1;
                    self.queues[queue].alone.remove(&place);
                    self.assign(state, place, best.session, now);
                    self.queues[queue].alone_after(place)
                }
                // The others of the interface would find the same workers.
                best => {
                    let busy = best.filter(|best| best.held > 0 && fits && !crew.reserved);
                    if let (Some(busy), Some(before)) = (busy, before) {
                        let a_lease = now.cluster.after_ms(stage.lease_ms.into());
                        let until = before.iter().find(|(session, _)| *session == busy.session);
                        self.reserve(busy.session, until.map_or(a_lease, |(_, until)| *until));
                    }
                    self.queues[queue].alone_after_interface(place.interface)
                }
            };
        }
    }

    fn reserve(&mut self, session: SessionId, until: ClusterTime) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.reserved = true;
            self.reserved.push((session, until));
        }
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

/// The workers that a message which has to be alone can be given to.
#[derive(Default)]
struct Crew {
    count: usize,
    /// How many hold such a message.
    alone: usize,
    /// Whether one of them is reserved.
    reserved: bool,
    best: Option<Best>,
}

/// Who holds least, of those that will be done with it soon.
#[derive(Clone, Copy)]
struct Best {
    session: SessionId,
    slow: bool,
    held: u32,
    was_alone: bool,
}

impl Crew {
    fn add(&mut self, session: SessionId, worker: &Worker) {
        self.count += 1;
        self.reserved |= worker.reserved;
        if worker.alone {
            self.alone += 1;
            return;
        }
        let new = Best {
            session,
            slow: worker.slow,
            held: worker.held,
            was_alone: worker.was_alone,
        };
        let key = |best: &Best| (best.slow, best.held, best.was_alone);
        if self.best.as_ref().is_none_or(|best| key(&new) < key(best)) {
            self.best = Some(new);
        }
    }

    /// Whether enough of them stay with the other messages.
    fn may_be_alone(&self) -> bool {
        self.alone < (self.count / 2).max(1)
    }
}

/// The turn of a message, while it is PENDING.
pub(super) fn current_turn(state: &State, place: Place) -> Option<Turn> {
    let slot = state.interface(place.interface)?.slot(place.sequence)?;
    (slot.status == Status::Pending).then_some(slot.turn)
}
