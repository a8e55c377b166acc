//! What is remembered of finished messages, for deduplication (guarantee 4).
//!
//! Those are the interface's last `dedup_messages`, whoever sent them; and of every producer's session those whose
//! answers it has not heard, half as many at most: a client keeps no more unanswered. Time takes them away by
//! `ForgetFinished` only.

use super::Lane;
use crate::hours::is_over;
use crate::ids::{ClusterTime, ProducerSession, Sequence};
use crate::interface::{Interface, Slot};
use crate::limits::{
    DEDUP_HOURS, DEDUP_MESSAGES_TOTAL_MAX, FORGOTTEN_A_MESSAGE, FORGOTTEN_AT_ONCE, REMEMBERED_MAX,
    SESSIONS_MAX, UNHEARD_TOTAL_MAX,
};
use crate::mutation::{Key, Row};
use crate::rules::Rules;
use crate::session::{Session, Unheard};
use std::collections::VecDeque;

/// What all interfaces come to together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// Their `dedup_messages`.
    pub(crate) dedup_messages: u64,
    /// Finished messages that are remembered because they are unheard.
    pub(crate) unheard: u64,
}

impl Totals {
    /// How many finished messages one of so many interfaces may have known, whatever its `dedup_messages` are.
    pub(crate) fn share(self, interfaces: usize) -> u64 {
        match self.dedup_messages <= DEDUP_MESSAGES_TOTAL_MAX {
            true => u64::MAX,
            false => (DEDUP_MESSAGES_TOTAL_MAX / (interfaces as u64).max(1)).max(1),
        }
    }
}

impl<R: Rules> Lane<'_, R> {
    /// How many finished messages this interface may have known.
    fn kept_max(&self) -> usize {
        self.interface.kept_max(self.share)
    }

    /// A session sends a new message, under `sequence`, and has heard the answers through `heard`.
    pub(super) fn hear(&mut self, id: ProducerSession, heard: Sequence, sequence: Sequence) {
        let sessions = &mut self.interface.sessions;
        let mut session = match sessions.iter().position(|there| there.id == id) {
            Some(at) => sessions.remove(at),
            None => {
                if sessions.len() == SESSIONS_MAX {
                    let gone = sessions.remove(0);
                    self.forget_unheard(gone.unheard);
                }
                let sessions = &self.interface.sessions;
                let free = |number: &u8| sessions.iter().all(|there| there.number != *number);
                Session {
                    id,
                    number: (1..=u8::MAX)
                        .find(free)
                        .expect("there are fewer sessions than numbers"),
                    since: sequence,
                    heard: Sequence::ZERO,
                    unheard: VecDeque::new(),
                }
            }
        };
        session.heard = session.heard.max(heard);
        let now_heard = session
            .unheard
            .partition_point(|(sequence, _)| *sequence <= session.heard);
        let gone = session.unheard.drain(..now_heard).collect();
        self.interface.sessions.push(session);
        self.forget_unheard(gone);
    }

    /// A message finished, after all others: it is remembered, and those are forgotten that are too many.
    pub(crate) fn remember(&mut self, sequence: Sequence, slot: &Slot) {
        let interface = &mut *self.interface;
        if interface.hours.finished(sequence, self.clock.cluster_time) {
            interface.dirty.hours = true;
        }
        if interface.dead_letters_of(sequence).next().is_none() {
            interface.forget_id(slot.message_id, sequence);
        }
        let derived = slot.body_of != sequence;
        let (id, digest) = (slot.message_id, slot.digest);
        let finished = interface.finished_as(sequence, id, digest, (slot.session, derived));
        let kept_max = self.kept_max();
        // Before it comes, so that there is never room for more than are to be remembered.
        self.forget_beyond(kept_max - usize::from(!derived));
        self.interface.remembered.push(sequence, finished, kept_max);
        self.forget_beyond(kept_max);
    }

    /// The oldest go, where there are more; a few at a time, should a configuration have made many of them too many.
    fn forget_beyond(&mut self, kept_max: usize) {
        for _ in 0..FORGOTTEN_A_MESSAGE {
            let remembered = &self.interface.remembered;
            let fits = remembered.len() < REMEMBERED_MAX;
            let keeps = fits && R::remembers(remembered.counted(), kept_max, true);
            if keeps || remembered.is_empty() {
                return;
            }
            self.forget_oldest();
        }
    }

    /// Forgets the oldest unless it may be replayed yet.
    fn forget_oldest(&mut self) {
        let Some((sequence, finished)) = self.interface.remembered.pop() else {
            return;
        };
        let of = |there: &&mut Session| there.number == finished.tag && there.since <= sequence;
        let Some(session) = self.interface.sessions.iter_mut().find(of) else {
            return;
        };
        if !R::is_unheard(session.heard, sequence) || self.totals.unheard >= UNHEARD_TOTAL_MAX {
            return;
        }
        let unheard = Unheard {
            session: session.id,
            message_id: finished.message_id,
            digest: finished.digest,
            hour: self.interface.hours.of(sequence).unwrap_or(0),
        };
        session.unheard.push_back((sequence, unheard));
        let unheard_max = (self.interface.config.dedup_messages as usize / 2).max(1);
        let too_many = session.unheard.len().saturating_sub(unheard_max);
        let gone = session.unheard.drain(..too_many).collect();
        self.totals.unheard += 1;
        let id = self.interface.id;
        self.interface.known.insert(unheard.message_id, sequence);
        self.put(Key::Unheard(id, sequence), Row::Unheard(unheard));
        self.forget_unheard(gone);
    }

    fn forget_unheard(&mut self, gone: VecDeque<(Sequence, Unheard)>) {
        let id = self.interface.id;
        for (sequence, unheard) in gone {
            self.totals.unheard -= 1;
            self.delete(Key::Unheard(id, sequence));
            if self.interface.dead_letters_of(sequence).next().is_none() {
                self.interface.forget_id(unheard.message_id, sequence);
            }
        }
    }

    /// Forgets what finished too long ago, and what is more than the interface may have known by now; some at a time.
    pub(super) fn forget_known(&mut self) {
        let now = self.clock.cluster_time;
        for _ in 0..FORGOTTEN_AT_ONCE {
            let interface = &mut *self.interface;
            let remembered = &interface.remembered;
            if remembered.is_empty() {
                break;
            }
            let hour = interface.hours.of(interface.known_from());
            let young = !hour.is_some_and(|hour| is_over(hour, DEDUP_HOURS, now));
            if R::remembers(remembered.counted(), interface.kept_max(self.share), young) {
                break;
            }
            match young {
                true => self.forget_oldest(),
                false => {
                    interface.remembered.pop();
                }
            }
        }
        let mut gone = VecDeque::new();
        for session in &mut self.interface.sessions {
            let old = |(_, unheard): &(Sequence, Unheard)| is_over(unheard.hour, DEDUP_HOURS, now);
            let old = session.unheard.partition_point(old);
            gone.extend(session.unheard.drain(..old));
        }
        self.forget_unheard(gone);
        let interface = &mut *self.interface;
        let at_rest = interface.slots.is_empty() && interface.remembered.is_empty();
        if at_rest && interface.unheard_messages() == 0 {
            // Nothing of any session is left that could be replayed.
            interface.sessions = Vec::new();
        }
    }
}

impl Interface {
    /// How many finished messages it may have known, where none has more than `share`.
    pub(crate) fn kept_max(&self, share: u64) -> usize {
        let kept_max = u64::from(self.config.dedup_messages).min(share);
        usize::try_from(kept_max).unwrap_or(usize::MAX).max(1)
    }

    /// Whether deduplication remembers what finished too long ago, or more than it may by now.
    pub(crate) fn knows_too_much(&self, share: u64, now: ClusterTime) -> bool {
        let old = |hour: u32| is_over(hour, DEDUP_HOURS, now);
        let oldest = match self.remembered.is_empty() {
            true => None,
            false => self.hours.of(self.known_from()),
        };
        let unheard = |session: &Session| {
            let oldest = session.unheard.front();
            oldest.is_some_and(|(_, unheard)| old(unheard.hour))
        };
        self.remembered.counted() > self.kept_max(share)
            || oldest.is_some_and(old)
            || self.sessions.iter().any(unheard)
    }
}
