//! One subscription's state, shared between whoever handles its deliveries and the consumer's task. No input or
//! output: what a grant, a delivery, an answer or the end of a stream does.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ordo_wire::v1::answer::Answer as Kind;
use ordo_wire::v1::{self, AnswerAck, Reason, Subscribe, SubscriptionGranted};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::{GrantState, Position, SubscribeTo};
use crate::error::{AnswerError, ConsumeError, Refusal};
use crate::uuid_of;

/// An acknowledgement does not wait for more once it covers so many sequences.
const ACK_MAX: u64 = 256;

pub(super) struct Lane {
    pub(super) number: u32,
    pub(super) to: SubscribeTo,
    state: Mutex<LaneState>,
    /// Something changed for whoever waits for the next delivery.
    pub(super) changed: Notify,
    /// Every epoch up to this is over, or another's: what is in hand under it is to be let go of.
    revoked: watch::Sender<u64>,
}

/// The grant under which deliveries come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) epoch: u64,
    pub(super) interface_id: Uuid,
    pub(super) incarnation: u32,
}

/// A delivery, and what it needs to be answered.
#[derive(Clone)]
pub(super) struct Received {
    pub(super) grant: Grant,
    /// The sequence before it under this grant: of the delivery before, or the checkpoint.
    pub(super) previous: u64,
    pub(super) wire: v1::Delivery,
}

pub(super) struct LaneState {
    pub(super) standing: GrantState,
    grant: Option<Grant>,
    /// Of the last grant there was: something may be in hand under it while the stream is away.
    epoch: u64,
    /// An answer that voids everything beyond it was given: nothing more comes under this epoch.
    void: bool,
    queue: VecDeque<Received>,
    /// What the receiver has handled, in this process or (as given on subscribe) before.
    handled: Option<Position>,
    /// Of this grant: the last sequence received, and the last for which an acknowledgement was sent. Both begin at
    /// the checkpoint.
    received: u64,
    acked: u64,
    /// An answer other than an acknowledgement, to be sent.
    answer: Option<(u64, Kind)>,
    /// Deliveries at work.
    pub(super) in_hand: usize,
    /// Its subscription was dropped: it is given back once nothing is in hand.
    dropped: bool,
    /// The lane stands in the list of those with answers to give.
    listed: bool,
    /// To be told once.
    ended: Option<ConsumeError>,
}

/// What is to be done about a lane's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hurry {
    /// The lane has answers and does not stand in the list of such lanes.
    pub(super) list: bool,
    /// They do not wait for more, so that one would carry many.
    pub(super) urgent: bool,
}

/// What the end of a subscription by the node means.
pub(super) enum Ended {
    /// It is to be asked for again at once, without a position.
    AskAgain,
    /// It is to be asked for again on another stream.
    ForNow(Refusal),
    /// Whoever handles it is told.
    ForGood,
}

impl Lane {
    pub(super) fn new(number: u32, to: SubscribeTo) -> Self {
        let state = LaneState {
            standing: GrantState::Connecting,
            grant: None,
            epoch: 0,
            void: false,
            queue: VecDeque::new(),
            handled: to.position,
            received: 0,
            acked: 0,
            answer: None,
            in_hand: 0,
            dropped: false,
            listed: false,
            ended: None,
        };
        Self {
            number,
            to,
            state: Mutex::new(state),
            changed: Notify::new(),
            revoked: watch::Sender::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request for the grant, naming what was handled already.
    pub(super) fn subscribe(&self, consumer_id: &Bytes, name: &str) -> Subscribe {
        Subscribe {
            subscription: self.number,
            interface: self.to.interface.clone(),
            destination: self.to.destination.clone(),
            consumer_id: consumer_id.clone(),
            name: name.to_owned(),
            credits: self.to.credits,
            position: self.state().handled.map(Position::to_wire),
        }
    }

    /// Another consumer holds the grant.
    pub(super) fn wait_in_line(&self, holder: String) {
        let mut state = self.state();
        self.revoke(&mut state);
        state.standing = GrantState::Waiting { holder };
    }

    /// The grant, or a higher epoch of it: whatever came under a lower one is void.
    pub(super) fn granted(&self, granted: &SubscriptionGranted) {
        let mut state = self.state();
        let grant = Grant {
            epoch: granted.epoch,
            interface_id: uuid_of(&granted.interface_id),
            incarnation: granted.incarnation,
        };
        if state.grant.is_some_and(|held| held.epoch >= grant.epoch) {
            return;
        }
        state.drop_grant();
        state.grant = Some(grant);
        state.epoch = grant.epoch;
        state.received = granted.checkpoint;
        state.acked = granted.checkpoint;
        let same = state.handled.filter(|handled| grant.covers(handled));
        let sequence = same
            .map_or(0, |handled| handled.sequence)
            .max(granted.checkpoint);
        state.handled = Some(grant.position(sequence));
        state.standing = GrantState::Granted {
            epoch: granted.epoch,
            checkpoint: granted.checkpoint,
        };
    }

    /// Deliveries of an epoch; how urgently what is handled already has to be acknowledged again.
    pub(super) fn received(&self, epoch: u64, deliveries: Vec<v1::Delivery>) -> Hurry {
        let mut state = self.state();
        let Some(grant) = state
            .grant
            .filter(|grant| grant.epoch == epoch && !state.void)
        else {
            return Hurry::default();
        };
        let handled = state.handled.map_or(0, |handled| handled.sequence);
        let before = state.queue.len();
        for wire in deliveries {
            if wire.sequence <= state.received {
                continue;
            }
            let previous = std::mem::replace(&mut state.received, wire.sequence);
            // Handled under an earlier grant, whose acknowledgement did not arrive.
            if wire.sequence > handled {
                state.queue.push_back(Received {
                    grant,
                    previous,
                    wire,
                });
            }
        }
        let hurry = state.list_answers();
        if state.queue.len() > before {
            drop(state);
            self.changed.notify_one();
        }
        hurry
    }

    /// Takes the next delivery to be handled.
    pub(super) fn take_next(state: &mut LaneState) -> Option<Received> {
        let next = state.queue.pop_front()?;
        state.in_hand += 1;
        Some(next)
    }

    /// `through` and everything before it is handled.
    pub(super) fn ack(&self, grant: Grant, through: u64) -> Hurry {
        let mut state = self.state();
        // Also of an epoch that is over: the receiver has it, so it is acknowledged under the next.
        let handled = state
            .handled
            .filter(|handled| grant.covers(handled) && handled.sequence < through);
        if handled.is_some() {
            state.handled = Some(grant.position(through));
        }
        state.list_answers()
    }

    /// Answers `sequence` with something else than an acknowledgement.
    pub(super) fn answer(
        &self,
        grant: Grant,
        previous: u64,
        sequence: u64,
        kind: Kind,
    ) -> Result<Hurry, AnswerError> {
        let mut state = self.state();
        if state.void || state.grant != Some(grant) {
            return Err(AnswerError::EpochOver { epoch: grant.epoch });
        }
        if state
            .handled
            .is_some_and(|handled| handled.sequence < previous)
        {
            return Err(AnswerError::NotHead { sequence });
        }
        state.void = true;
        state.queue.clear();
        state.answer = Some((sequence, kind));
        let list = !std::mem::replace(&mut state.listed, true);
        Ok(Hurry { list, urgent: true })
    }

    /// A delivery is in hand no more; true where the lane is to be given back now.
    pub(super) fn released(&self) -> bool {
        let mut state = self.state();
        state.in_hand -= 1;
        state.dropped && state.in_hand == 0
    }

    /// Its subscription is dropped; true where it is to be given back now.
    pub(super) fn dropped(&self) -> bool {
        let mut state = self.state();
        state.dropped = true;
        state.in_hand == 0
    }

    /// Its subscription is dropped, and a delivery still in hand.
    pub(super) fn lingers(&self) -> bool {
        let state = self.state();
        state.dropped && state.in_hand > 0
    }

    /// It is to the same destination as `other`.
    pub(super) fn is_to(&self, other: &Self) -> bool {
        (&self.to.interface, &self.to.destination) == (&other.to.interface, &other.to.destination)
    }

    /// Puts back what was begun and aborted under a grant that is still this consumer's: it is the next again.
    pub(super) fn put_back(&self, received: &Received) {
        let mut state = self.state();
        let handled = state.handled.map_or(0, |handled| handled.sequence);
        let current = state.grant == Some(received.grant) && !state.void;
        if current && received.wire.sequence > handled {
            state.queue.push_front(received.clone());
        }
    }

    /// The grant is another's, or over.
    fn revoke(&self, state: &mut LaneState) {
        state.drop_grant();
        let epoch = state.epoch;
        self.revoked.send_if_modified(|there| {
            let later = epoch > *there;
            *there = epoch.max(*there);
            later
        });
    }

    /// What is in hand under `epoch` is to be let go of.
    pub(super) fn is_revoked(&self, epoch: u64) -> bool {
        *self.revoked.borrow() >= epoch
    }

    /// Waits until it is.
    pub(super) async fn revoked(&self, epoch: u64) {
        // Its sender is here: it can't go.
        let _ = self
            .revoked
            .subscribe()
            .wait_for(|there| *there >= epoch)
            .await;
    }

    /// The answers to give now, in order: the acknowledgement of all that is handled, then the other one.
    pub(super) fn answers(&self, answers: &mut Vec<v1::Answer>) {
        let mut state = self.state();
        state.listed = false;
        let Some(grant) = state.grant else { return };
        let mut push = |sequence, kind| {
            answers.push(v1::Answer {
                subscription: self.number,
                epoch: grant.epoch,
                sequence,
                answer: Some(kind),
            });
        };
        let through = state.ackable();
        if through > state.acked {
            state.acked = through;
            push(through, Kind::Ack(AnswerAck {}));
        }
        if let Some((sequence, kind)) = state.answer.take() {
            push(sequence, kind);
        }
    }

    /// True while answers of that epoch matter.
    pub(super) fn is_epoch(&self, epoch: u64) -> bool {
        self.state().grant.is_some_and(|grant| grant.epoch == epoch)
    }

    /// The stream is over, and what it brought.
    pub(super) fn stream_ended(&self) {
        let mut state = self.state();
        state.drop_grant();
        if state.standing != GrantState::Ended {
            state.standing = GrantState::Connecting;
        }
    }

    /// The node ended the subscription.
    pub(super) fn ended(&self, reason: Reason, text: String) -> Ended {
        let refusal = Refusal::of_item(reason as i32, text, 0);
        let mut state = self.state();
        self.revoke(&mut state);
        state.standing = GrantState::Connecting;
        // A restore from a backup voids the position that this process remembers. One that the receiver keeps with
        // its data is its own affair, so it hears of it.
        if reason == Reason::Position
            && self.to.position.is_none()
            && state.handled.take().is_some()
        {
            return Ended::AskAgain;
        }
        if refusal.is_transient() {
            return Ended::ForNow(refusal);
        }
        drop(state);
        self.failed(&refusal);
        Ended::ForGood
    }

    /// The consumer can't go on.
    pub(super) fn failed(&self, refusal: &Refusal) {
        let mut state = self.state();
        self.revoke(&mut state);
        state.standing = GrantState::Ended;
        state.ended = Some(ConsumeError::Ended(Box::new(refusal.clone())));
        drop(state);
        self.changed.notify_one();
    }
}

impl LaneState {
    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Why the subscription ended, told once.
    pub(super) fn take_end(&mut self) -> Option<ConsumeError> {
        self.ended.take()
    }

    /// Something waits to be told to the node.
    pub(super) fn has_answers(&self) -> bool {
        self.grant.is_some() && (self.answer.is_some() || self.ackable() > self.acked)
    }

    fn ackable(&self) -> u64 {
        self.handled
            .map_or(0, |handled| handled.sequence)
            .min(self.received)
    }

    fn list_answers(&mut self) -> Hurry {
        let fresh = self.ackable().saturating_sub(self.acked);
        if fresh == 0 || self.grant.is_none() {
            return Hurry::default();
        }
        // As much again waits here at most: the node goes on sending before it runs dry.
        let urgent = self.queue.is_empty() || fresh >= ACK_MAX || fresh >= self.queue.len() as u64;
        Hurry {
            list: !std::mem::replace(&mut self.listed, true),
            urgent,
        }
    }

    fn drop_grant(&mut self) {
        self.grant = None;
        self.void = false;
        self.queue.clear();
        self.answer = None;
    }
}

impl Grant {
    fn position(&self, sequence: u64) -> Position {
        Position {
            interface_id: self.interface_id,
            incarnation: self.incarnation,
            sequence,
        }
    }

    /// The position is of the same interface and incarnation.
    fn covers(&self, position: &Position) -> bool {
        position.interface_id == self.interface_id && position.incarnation == self.incarnation
    }
}
