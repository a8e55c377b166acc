//! Workers that come, come back and leave, and what becomes of what they hold.

use super::dispatcher::{Dispatcher, Now, RECONNECT_GRACE_MS, current_turn, staged};
use super::events::{Freed, Hold, Place, SessionId, WorkPush, WorkerHello};
use super::workers::{CREDITS_MAX, Held, NEVER, Worker, work_until};
use ordo_core::{ClusterTime, Slot, StageConfig, State, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Dispatcher {
    /// A worker comes, or comes back: what it names it holds, what it held and does not name is ready again.
    pub(crate) fn join(&mut self, state: &State, hello: WorkerHello, now: Now) {
        let session = hello.session;
        let unknown_stages = self.unknown(&hello.stages);
        let mut stages: Vec<usize> = hello
            .stages
            .iter()
            .map(|stage| self.queue_of(stage))
            .collect();
        stages.sort_unstable();
        stages.dedup();
        let prefix: Arc<str> = hello.interface_prefix.into();
        // The stream may be gone already; its end will say so.
        let _ = hello.push.send(WorkPush::Welcome { unknown_stages });
        let before = self.sessions.insert(hello.worker, session);
        let left = before.map_or_else(Vec::new, |before| self.held_by(before));
        for stage in &stages {
            self.queues[*stage].crews.join(&prefix, session);
        }
        let worker = Worker {
            id: hello.worker,
            name: hello.name.into(),
            stages,
            next_stage: 0,
            prefix,
            credits: hello.credits.min(CREDITS_MAX),
            holds: BTreeSet::new(),
            alone: false,
            was_alone: false,
            reserved: false,
            slow: false,
            listed: false,
            draining: false,
            silent: hello.silent,
            push: Some(hello.push),
            frame: Vec::new(),
            lease_check: None,
        };
        self.workers.insert(session, worker);
        if let Some(before) = before {
            self.retire(before);
        }
        for (place, _) in &left {
            self.free(*place);
        }
        let before: BTreeMap<Place, Held> = left.iter().copied().collect();
        for hold in &hello.holds {
            self.hold(state, session, hold, before.get(&hold.place), now);
        }
        for (place, _) in left {
            self.work(state, place, now);
        }
        self.spoke(session);
    }

    /// A worker may be given something, or something again.
    pub(crate) fn spoke(&mut self, session: SessionId) {
        self.has_room(session);
        if let Some(worker) = self.workers.get(&session)
            && worker.holds.is_empty()
        {
            self.has_empty_hands(session);
        }
    }

    /// The worker has it in hand, if nobody else has and the state agrees. `before` is what its last stream held.
    fn hold(
        &mut self,
        state: &State,
        session: SessionId,
        hold: &Hold,
        before: Option<&Held>,
        now: Now,
    ) {
        let Some((slot, stage)) = assigned(state, hold) else {
            return;
        };
        if self.held.contains_key(&hold.place) {
            return;
        }
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        worker.alone |= slot.losses > 0;
        let before = before.filter(|before| before.turn == slot.turn);
        let mut held = Held {
            session,
            worker: worker.id,
            stage: slot.stage,
            turn: slot.turn,
            since: before.map_or(now.instant, |before| before.since),
            lease_until: now.cluster,
            listed_at: NEVER,
            work_until: match before {
                Some(before) => before.work_until,
                None => work_until(stage, now.cluster),
            },
            extensions: before.map_or(0, |before| before.extensions),
            losing: false,
        };
        held.lease_until = held.lease_from(now.cluster, stage.lease_ms);
        self.take_in_hand(hold.place, held);
    }

    pub(super) fn look_at_leases(&mut self, session: SessionId, at: ClusterTime) {
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        if worker.lease_check.is_none_or(|there| at < there) {
            worker.lease_check = Some(at);
            self.deadlines.set_earlier(session, at);
        }
    }

    /// Lets go of a stream, not of what it held.
    fn retire(&mut self, session: SessionId) {
        let Some(worker) = self.workers.remove(&session) else {
            return;
        };
        self.deadlines.clear(session);
        if let Some(push) = worker.push {
            self.unserve(session, worker.stages, &worker.prefix);
            let _ = push.send(WorkPush::Replaced);
        }
    }

    /// In order, so that the same happens in every run.
    pub(super) fn held_by(&mut self, session: SessionId) -> Vec<(Place, Held)> {
        let Some(worker) = self.workers.get(&session) else {
            return Vec::new();
        };
        self.steps += worker.holds.len() as u64;
        let held = |(_, place): &(ClusterTime, Place)| Some((*place, *self.held.get(place)?));
        let mut held: Vec<(Place, Held)> = worker.holds.iter().filter_map(held).collect();
        held.sort_unstable_by_key(|(place, _)| *place);
        held
    }

    pub(crate) fn credits(&mut self, session: SessionId, credits: u32) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.credits = credits.min(CREDITS_MAX);
            self.spoke(session);
        }
    }

    pub(crate) fn drain(&mut self, session: SessionId) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.draining = true;
            // What was to go to it may find another.
            self.has_empty_hands(session);
        }
    }

    /// Leases that begin anew.
    pub(crate) fn extend(&mut self, state: &State, session: SessionId, holds: &[Hold], now: Now) {
        for hold in holds {
            let Some((_, stage)) = assigned(state, hold) else {
                continue;
            };
            let Some(held) = self.held.get_mut(&hold.place) else {
                continue;
            };
            if held.session == session && held.turn == hold.turn {
                held.lease_until = held.lease_from(now.cluster, stage.lease_ms);
                held.extensions = held.extensions.saturating_add(1);
            }
        }
    }

    /// Assignments that were reported, or could not be sent.
    pub(crate) fn freed(&mut self, state: &State, session: SessionId, freed: &[Freed], now: Now) {
        for Freed { place, turn } in freed.iter().copied() {
            let held = self
                .held
                .get(&place)
                .filter(|held| held.session == session && held.turn == turn);
            if held.is_some_and(|held| !held.losing) {
                self.free(place);
                if current_turn(state, place) == Some(turn) {
                    self.work(state, place, now);
                }
            }
        }
    }

    /// A worker's stream ended: it may come back, unless it said it was leaving.
    pub(crate) fn leave(&mut self, state: &State, session: SessionId, now: Now) {
        let Some(worker) = self.workers.get_mut(&session) else {
            return;
        };
        worker.push = None;
        worker.frame.clear();
        let (draining, holds_nothing) = (worker.draining, worker.holds.is_empty());
        let (stages, prefix) = (
            std::mem::take(&mut worker.stages),
            Arc::clone(&worker.prefix),
        );
        self.unserve(session, stages, &prefix);
        if draining || holds_nothing {
            let held = self.held_by(session);
            self.forget(session);
            for (place, _) in held {
                self.free(place);
                self.work(state, place, now);
            }
        } else {
            self.deadlines
                .set(session, now.cluster.after_ms(RECONNECT_GRACE_MS));
        }
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        let Some(worker) = self.workers.get(&session) else {
            return;
        };
        if self.sessions.get(&worker.id) == Some(&session) {
            self.sessions.remove(&worker.id);
        }
        self.retire(session);
    }
}

/// The slot and the stage of an assignment, while the state agrees with it.
fn assigned<'a>(state: &'a State, hold: &Hold) -> Option<(&'a Slot, &'a StageConfig)> {
    let (_, slot, stage) = staged(state, hold.place)?;
    let is_its = slot.status == Status::Pending && slot.turn == hold.turn;
    (is_its && stage.name == hold.stage).then_some((slot, stage))
}
