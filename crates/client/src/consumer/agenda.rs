//! What the consumer's task has to say on a stream, and what it waits to hear.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use ordo_wire::lease::{BootClock, BootInstant};
use ordo_wire::v1::DeliverRequest;
use tokio::time::Instant;

use super::lane::Lane;

/// Subscriptions asked for, and lanes' answers given, in one frame.
const FRAME_ITEMS_MAX: usize = 1024;

#[derive(Clone, Copy)]
struct Heartbeat {
    number: u64,
    /// When it was sent, by the clock of timers and by that of leases.
    at: Instant,
    sent_at: BootInstant,
}

pub(super) struct Agenda {
    clock: BootClock,
    consumer_id: Bytes,
    name: String,
    subscribe: VecDeque<Arc<Lane>>,
    unsubscribe: Vec<u32>,
    /// Lanes with answers to give.
    answering: VecDeque<Arc<Lane>>,
    /// When they have waited long enough for more.
    answer_at: Option<Instant>,
    /// Answers given, by subscription and epoch; results come in the same order.
    answered: VecDeque<(u32, u64)>,
    /// Heartbeats under way.
    heartbeats: VecDeque<Heartbeat>,
    /// The last heartbeat's number, over all streams.
    heartbeat: u64,
    heartbeat_due: bool,
    beaten_at: Option<Instant>,
}

impl Agenda {
    pub(super) fn new(clock: BootClock, consumer_id: Bytes, name: String) -> Self {
        Self {
            clock,
            consumer_id,
            name,
            subscribe: VecDeque::new(),
            unsubscribe: Vec::new(),
            answering: VecDeque::new(),
            answer_at: None,
            answered: VecDeque::new(),
            heartbeats: VecDeque::new(),
            heartbeat: 0,
            heartbeat_due: false,
            beaten_at: None,
        }
    }

    /// A new stream: every lane is to be subscribed, and there is nothing to answer yet.
    pub(super) fn begin<'a>(&mut self, lanes: impl Iterator<Item = &'a Arc<Lane>>) {
        self.subscribe = lanes.cloned().collect();
        self.unsubscribe.clear();
        for lane in self.answering.drain(..) {
            // Takes it off the list; without a grant it has none.
            lane.answers(&mut Vec::new());
        }
        self.answer_at = None;
        self.answered.clear();
        self.heartbeats.clear();
        self.beaten_at = None;
        self.heartbeat_due = true;
    }

    pub(super) fn subscribe(&mut self, lane: Arc<Lane>) {
        self.subscribe.push_back(lane);
    }

    pub(super) fn unsubscribe(&mut self, number: u32) {
        self.subscribe.retain(|lane| lane.number != number);
        self.unsubscribe.push(number);
    }

    /// Lanes with answers, to be given at `at` at the latest.
    pub(super) fn answer(&mut self, lanes: Vec<Arc<Lane>>, at: Instant) {
        self.answering.extend(lanes);
        self.answer_at = Some(self.answer_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The last things to say: every lane's answers, and then the end of its subscription.
    /// Where a delivery is still in hand, nothing is given back: the grant ends for want of heartbeats, and by then
    /// nothing may be in hand.
    pub(super) fn leave(&mut self, lanes: impl Iterator<Item = Arc<Lane>>) {
        self.subscribe.clear();
        for lane in lanes {
            let (in_hand, has_answers) = {
                let state = lane.state();
                (state.in_hand > 0, state.has_answers())
            };
            if in_hand {
                tracing::warn!(
                    interface = lane.to.interface,
                    "a delivery is in hand while closing: its grant is left to end by itself"
                );
            } else {
                self.unsubscribe.push(lane.number);
            }
            if has_answers {
                self.answering.push_back(lane);
            }
        }
        self.answer_at = None;
    }

    /// When the last heartbeat was sent; None on a stream that has sent none.
    pub(super) fn beaten_at(&self) -> Option<Instant> {
        self.beaten_at
    }

    pub(super) fn heartbeat(&mut self) {
        self.heartbeat_due = true;
    }

    pub(super) fn heartbeat_is_due(&self) -> bool {
        self.heartbeat_due
    }

    /// Everything said was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.is_empty() && self.heartbeats.is_empty()
    }

    /// When the heartbeat now answered was sent; None for one of an earlier stream.
    pub(super) fn heartbeat_answered(&mut self, number: u64) -> Option<BootInstant> {
        let mut answered = None;
        while let Some(under_way) = self.heartbeats.front().copied()
            && under_way.number <= number
        {
            answered = (under_way.number == number).then_some(under_way.sent_at);
            self.heartbeats.pop_front();
        }
        answered
    }

    /// When the oldest unanswered heartbeat was sent, or, where the next can't be sent, the last.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let unsent = self.beaten_at.filter(|_| self.heartbeat_due);
        self.heartbeats.front().map(|oldest| oldest.at).or(unsent)
    }

    /// The answer of the next result: its subscription and epoch.
    pub(super) fn answered(&mut self) -> Option<(u32, u64)> {
        self.answered.pop_front()
    }

    /// When answers that gather are due; None where there are none, or they are due already.
    pub(super) fn answer_at(&self, now: Instant) -> Option<Instant> {
        self.answer_at.filter(|at| *at > now)
    }

    /// There is something to say.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.heartbeat_due
            || !self.subscribe.is_empty()
            || !self.unsubscribe.is_empty()
            || (!self.answering.is_empty() && self.answer_at.is_none_or(|at| at <= now))
    }

    /// The next frame. Grants are given back only after the answers under them.
    pub(super) fn next_frame(&mut self, now: Instant) -> DeliverRequest {
        let mut frame = DeliverRequest::default();
        if mem::take(&mut self.heartbeat_due) {
            self.heartbeat += 1;
            self.heartbeats.push_back(Heartbeat {
                number: self.heartbeat,
                at: now,
                sent_at: self.clock.now(),
            });
            self.beaten_at = Some(now);
            frame.heartbeat = self.heartbeat;
        }
        while frame.subscribe.len() < FRAME_ITEMS_MAX
            && let Some(lane) = self.subscribe.pop_front()
        {
            frame
                .subscribe
                .push(lane.subscribe(&self.consumer_id, &self.name));
        }
        while frame.answers.len() < FRAME_ITEMS_MAX
            && let Some(lane) = self.answering.pop_front()
        {
            lane.answers(&mut frame.answers);
        }
        if self.answering.is_empty() {
            self.answer_at = None;
        }
        if frame.answers.is_empty() && self.answering.is_empty() {
            frame.unsubscribe = mem::take(&mut self.unsubscribe);
        }
        self.answered.extend(
            frame
                .answers
                .iter()
                .map(|answer| (answer.subscription, answer.epoch)),
        );
        frame
    }
}
