//! Messages that lost a worker before go to workers with empty hands, which get nothing else until they report. Such
//! messages may be slow, and the others have to go on: half of the workers stay with those, and each worker takes
//! turns. Where nobody's hands are empty, one worker gets no more until they are.

use super::crews::Cursor;
use super::dispatcher::{Dispatcher, Now, staged};
use super::events::{SessionId, WorkerId};
use super::lanes::{Alone, Check};
use super::workers::Worker;
use ordo_core::{ClusterTime, Sequence, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Interfaces that are looked at in vain in one round, for one prefix of a stage.
const IN_VAIN: usize = 64;

/// What a crew's workers have in their hands.
struct Hands {
    /// How many may be given something, now or later.
    count: usize,
    /// How many of them have a message that is alone.
    alone: usize,
    /// Whether one of them is reserved.
    reserved: bool,
    /// The others, best first.
    free: Vec<Hand>,
}

/// One worker that has no message that is alone.
#[derive(Clone, Copy)]
struct Hand {
    session: SessionId,
    worker: WorkerId,
    slow: bool,
    held: usize,
    was_alone: bool,
}

impl Hand {
    /// Another one than that which lost the message, and who holds least, of those that will be done with it soon.
    fn key(&self, lost_by: Option<WorkerId>) -> impl Ord + use<> {
        let lost_it = lost_by == Some(self.worker);
        (self.slow, lost_it, self.held, self.was_alone)
    }
}

impl Hands {
    fn add(&mut self, session: SessionId, worker: &Worker) {
        if !worker.is_there() || worker.credits == 0 {
            return;
        }
        self.count += 1;
        self.reserved |= worker.reserved;
        if worker.alone {
            self.alone += 1;
            return;
        }
        self.free.push(Hand {
            session,
            worker: worker.id,
            slow: worker.slow,
            held: worker.holds.len(),
            was_alone: worker.was_alone,
        });
    }

    /// Who gets it. The one that lost it is among the first two where it is best after all.
    fn best(&self, lost_by: Option<WorkerId>) -> Option<Hand> {
        let first = self.free.iter().take(2);
        first.min_by_key(|hand| hand.key(lost_by)).copied()
    }
}

/// The crews that were looked at, by stage and prefix.
type Seen = BTreeMap<(usize, Arc<str>), Hands>;

impl Dispatcher {
    /// Reservations that have come to their end, or have no cause any more. Whether there were any.
    pub(super) fn end_reservations(&mut self, now: Now) -> bool {
        let before = self.reserved.len();
        for (session, until) in std::mem::take(&mut self.reserved) {
            let Some(worker) = self.workers.get_mut(&session) else {
                continue;
            };
            let is_over = now.cluster >= until;
            worker.slow |= is_over && !worker.holds.is_empty();
            let waits = |queue: &usize| self.queues[*queue].has_alone(&worker.prefix);
            self.steps += worker.stages.len() as u64;
            if !is_over
                && worker.is_there()
                && !worker.holds.is_empty()
                && worker.stages.iter().any(waits)
            {
                self.reserved.push((session, until));
                continue;
            }
            worker.reserved = false;
            self.has_room(session);
            self.has_empty_hands(session);
        }
        self.reserved.len() < before
    }

    /// Looks at what may have found a worker since the last time. `others_first`: as long as other messages have yet
    /// to get their share of the workers. Afterwards what is left goes to whoever has nothing else to do.
    pub(super) fn place_alone(&mut self, state: &State, now: Now, others_first: bool) {
        let mut seen = Seen::new();
        let touched = std::mem::take(&mut self.touched);
        for ((queue, prefix), from) in touched {
            let at = (queue, &*prefix);
            let rest = self.place_alone_of(state, at, from.clone(), &mut seen, now, others_first);
            // Afterwards only the rest of what was too much for one round is to be looked at.
            if let Some(from) = if others_first { Some(from) } else { rest } {
                self.touched.insert((queue, prefix), from);
            }
        }
    }

    /// A message that has to be alone may find a worker, of an interface whose name begins so.
    pub(super) fn touch(&mut self, queue: usize, prefix: &Arc<str>) {
        let from_the_first = (Cursor::Start, Sequence::ZERO);
        self.touched
            .insert((queue, Arc::clone(prefix)), from_the_first);
    }

    /// Where the next round goes on, if there is more than one looks at.
    fn place_alone_of(
        &mut self,
        state: &State,
        (queue, prefix): (usize, &str),
        mut after: (Cursor, Sequence),
        seen: &mut Seen,
        now: Now,
        others_first: bool,
    ) -> Option<(Cursor, Sequence)> {
        let mut in_vain = 0;
        while in_vain < IN_VAIN {
            let check = Check {
                state,
                now: now.cluster,
                held: &self.held,
            };
            let lanes = &mut self.queues[queue];
            let alone = lanes.next_alone(&check, prefix, &after, &mut self.steps)?;
            let name = Arc::clone(&alone.interface);
            after = match self.place_one(state, queue, &alone, seen, now, others_first) {
                true => (Cursor::At(name), alone.place.sequence),
                // The others of the interface would find the same workers.
                false => {
                    in_vain += 1;
                    (Cursor::After(name), Sequence::ZERO)
                }
            };
        }
        Some(after)
    }

    /// Whether it found a worker.
    fn place_one(
        &mut self,
        state: &State,
        queue: usize,
        alone: &Alone,
        seen: &mut Seen,
        now: Now,
        others_first: bool,
    ) -> bool {
        let Some((_, _, stage)) = staged(state, alone.place) else {
            return false;
        };
        let (mut count, mut busy, mut reserved) = (0, 0, false);
        let mut best: Option<Hand> = None;
        let serving = self.queues[queue].crews.serving(&alone.interface);
        for (prefix, crew) in serving {
            self.steps += 1;
            let hands = seen.entry((queue, Arc::clone(prefix))).or_insert_with(|| {
                self.steps += crew.workers.len() as u64;
                hands_of(&self.workers, &crew.workers)
            });
            (count, busy) = (count + hands.count, busy + hands.alone);
            reserved |= hands.reserved;
            let both = hands.best(alone.lost_by).into_iter().chain(best);
            best = both.min_by_key(|hand| hand.key(alone.lost_by));
        }
        let Some(best) = best else {
            return false;
        };
        // Enough of them stay with the other messages.
        let fits = busy < (count / 2).max(1);
        if best.held == 0 && (!others_first || (fits && !best.was_alone)) {
            self.queues[queue].remove_alone(alone.place);
            self.assign(state, alone.place, best.session, now);
            if let Some(hands) = self.crew_of(queue, best.session, seen) {
                hands.alone += 1;
                hands.free.retain(|hand| hand.session != best.session);
            }
            return true;
        }
        if best.held > 0 && fits && !reserved {
            let until = now.cluster.after_ms(stage.lease_ms.into());
            self.reserve(best.session, until);
            if let Some(hands) = self.crew_of(queue, best.session, seen) {
                hands.reserved = true;
            }
        }
        false
    }

    fn crew_of<'a>(
        &self,
        queue: usize,
        session: SessionId,
        seen: &'a mut Seen,
    ) -> Option<&'a mut Hands> {
        let prefix = Arc::clone(&self.workers.get(&session)?.prefix);
        seen.get_mut(&(queue, prefix))
    }

    fn reserve(&mut self, session: SessionId, until: ClusterTime) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.reserved = true;
            self.reserved.push((session, until));
        }
    }

    /// A worker's hands are empty: messages that have to be alone may go to it.
    pub(super) fn has_empty_hands(&mut self, session: SessionId) {
        let Some(worker) = self.workers.get(&session) else {
            return;
        };
        self.steps += worker.stages.len() as u64;
        let waits = |queue: &&usize| self.queues[**queue].has_alone(&worker.prefix);
        let queues: Vec<usize> = worker.stages.iter().filter(waits).copied().collect();
        let prefix = Arc::clone(&worker.prefix);
        for queue in queues {
            self.touch(queue, &prefix);
        }
    }
}

fn hands_of(workers: &BTreeMap<SessionId, Worker>, crew: &BTreeSet<SessionId>) -> Hands {
    let mut hands = Hands {
        count: 0,
        alone: 0,
        reserved: false,
        free: Vec::new(),
    };
    for session in crew {
        if let Some(worker) = workers.get(session) {
            hands.add(*session, worker);
        }
    }
    hands
        .free
        .sort_by_key(|hand| (hand.slow, hand.held, hand.was_alone));
    hands
}
