//! What a consumer receives, and what it may answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ordo_wire::v1::answer::Answer as Kind;
use ordo_wire::v1::delivery::Content as WireContent;
use ordo_wire::v1::{
    AnswerReject, AnswerRetry, AnswerUnavailable, DeliveredMessage, Header, SkipMarker, SkipReason,
};
use uuid::Uuid;

use super::lane::{Lane, Received};
use super::{Position, Shared};
use crate::error::AnswerError;
use crate::{bounded_reason, uuid_of};

/// The longest pause before a delivery is tried again; longer ones are cut.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What the receiver says of a delivery. Pauses are of a day at most. Reasons are for people: no patient data; 1,024 bytes at most, longer ones
/// are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Ack,
    /// The receiver answered that it can't take it now: an attempt is counted, and it comes again after the pause.
    Retry {
        /// The pause.
        after: Duration,
        /// Why.
        reason: String,
    },
    /// The receiver will never take it: it becomes a dead letter for this destination.
    Reject {
        /// Why.
        reason: String,
    },
    /// The receiver can't be reached: no attempt is counted, and it comes again after the pause.
    Unavailable {
        /// The pause.
        after: Duration,
        /// It may have reached the receiver: that it comes again is counted, see [`Delivery::repeats`].
        sent: bool,
        /// Why.
        reason: String,
    },
}

impl Answer {
    /// See [`Answer::Retry`].
    pub fn retry(after: Duration, reason: impl Into<String>) -> Self {
        Self::Retry {
            after,
            reason: reason.into(),
        }
    }

    /// See [`Answer::Reject`].
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject {
            reason: reason.into(),
        }
    }

    /// See [`Answer::Unavailable`]: it certainly did not reach the receiver.
    pub fn unavailable(after: Duration, reason: impl Into<String>) -> Self {
        Self::Unavailable {
            after,
            sent: false,
            reason: reason.into(),
        }
    }

    /// See [`Answer::Unavailable`]: it may have reached the receiver.
    pub fn unavailable_sent(after: Duration, reason: impl Into<String>) -> Self {
        Self::Unavailable {
            after,
            sent: true,
            reason: reason.into(),
        }
    }
}

/// One sequence of an interface, for one destination.
///
/// Dropped without an answer it stays unacknowledged until a later one is acknowledged, or the grant begins anew.
pub struct Delivery {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    received: Received,
}

/// What is delivered.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// A message.
    Message(&'a DeliveredMessage),
    /// In the place of one that is not delivered.
    Skip(&'a SkipMarker),
}

impl Delivery {
    pub(super) fn new(lane: Arc<Lane>, shared: Arc<Shared>, received: Received) -> Self {
        Self {
            lane,
            shared,
            received,
        }
    }

    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.lane.to.interface
    }

    /// The destination's name.
    #[must_use]
    pub fn destination(&self) -> &str {
        if self.lane.to.destination.is_empty() {
            "default"
        } else {
            &self.lane.to.destination
        }
    }

    /// The place on the interface.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.received.wire.sequence
    }

    /// The grant's epoch: what a receiver fences with.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.received.grant.epoch
    }

    /// What names this delivery for good: a receiver that stores it with its own data discards repeats.
    #[must_use]
    pub fn position(&self) -> Position {
        let grant = &self.received.grant;
        Position {
            interface_id: grant.interface_id,
            incarnation: grant.incarnation,
            sequence: self.sequence(),
        }
    }

    /// Failed tries of this delivery so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.received.wire.attempts
    }

    /// How often it may have reached the receiver before, and is delivered again: those answers that were
    /// [`Answer::Unavailable`] with `sent`.
    #[must_use]
    pub fn repeats(&self) -> u32 {
        self.received.wire.repeats
    }

    /// A message, or the marker in the place of one.
    #[must_use]
    pub fn content(&self) -> Content<'_> {
        match self
            .received
            .wire
            .content
            .as_ref()
            .expect("deliveries without content are not taken over")
        {
            WireContent::Message(message) => Content::Message(message),
            WireContent::Skip(skip) => Content::Skip(skip),
        }
    }

    /// The message; None for a skip marker.
    #[must_use]
    pub fn message(&self) -> Option<&DeliveredMessage> {
        match self.content() {
            Content::Message(message) => Some(message),
            Content::Skip(_) => None,
        }
    }

    /// Why a message is not delivered; None for one that is.
    #[must_use]
    pub fn skip_reason(&self) -> Option<SkipReason> {
        match self.content() {
            Content::Message(_) => None,
            Content::Skip(skip) => Some(skip.reason()),
        }
    }

    /// What the message carries; empty for a skip marker.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        self.message().map_or(&EMPTY, |message| &message.payload)
    }

    /// The message's headers; none for a skip marker.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        self.message().map_or(&[], |message| &message.headers)
    }

    /// The identity that the producer gave the message, of a skipped one too.
    #[must_use]
    pub fn message_id(&self) -> Uuid {
        match self.content() {
            Content::Message(message) => uuid_of(&message.message_id),
            Content::Skip(skip) => uuid_of(&skip.message_id),
        }
    }

    /// This delivery and all before it are done. Told to the cluster together with others, shortly.
    pub fn ack(self) {
        self.acknowledge();
    }

    /// See [`Answer::Retry`]. The delivery must be the first unacknowledged one; what came behind it is void and
    /// comes again.
    ///
    /// # Errors
    /// See [`AnswerError`]; nothing was answered then.
    pub fn retry(self, after: Duration, reason: impl Into<String>) -> Result<(), AnswerError> {
        self.answer(Answer::retry(after, reason))
    }

    /// See [`Answer::Reject`], and [`Delivery::retry`] for when it can be given.
    ///
    /// # Errors
    /// See [`AnswerError`]; nothing was answered then.
    pub fn reject(self, reason: impl Into<String>) -> Result<(), AnswerError> {
        self.answer(Answer::reject(reason))
    }

    /// See [`Answer::Unavailable`], and [`Delivery::retry`] for when it can be given.
    ///
    /// # Errors
    /// See [`AnswerError`]; nothing was answered then.
    pub fn unavailable(
        self,
        after: Duration,
        reason: impl Into<String>,
    ) -> Result<(), AnswerError> {
        self.answer(Answer::unavailable(after, reason))
    }

    /// As [`Delivery::unavailable`], where the message may have reached the receiver.
    ///
    /// # Errors
    /// See [`AnswerError`]; nothing was answered then.
    pub fn unavailable_sent(
        self,
        after: Duration,
        reason: impl Into<String>,
    ) -> Result<(), AnswerError> {
        self.answer(Answer::unavailable_sent(after, reason))
    }

    /// True while this delivery may be started: the cluster answered a heartbeat that was sent in the last 3 s, and no
    /// other consumer holds the grant. [`Subscription::next`](super::Subscription::next) hands over no other; whoever
    /// has to wait before the receiver hears of it, as for a connection, looks again.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        !self.lane.is_revoked(self.epoch()) && self.shared.lease.may_begin()
    }

    /// Waits until this delivery may be started. Never returns once it is revoked.
    pub async fn begin(&self) {
        let mut watch = self.shared.lease.watch();
        while !self.may_begin() {
            watch.changed().await;
        }
    }

    /// Returns when the receiver must be at work no longer, since the grant may be another consumer's soon: 5 s after
    /// the last heartbeat that was answered was sent, when the cluster says that the grant is over, or when
    /// [`Consumer::close`](super::Consumer::close) has waited long enough. Whoever handles a delivery drops what it
    /// does then, and may answer [`Answer::Unavailable`]: where the grant is this consumer's after all, it comes again.
    /// [`Subscription::run`](super::Subscription::run) does all of this by itself.
    pub async fn revoked(&self) {
        tokio::select! {
            biased;
            () = self.lane.revoked(self.epoch()) => {}
            () = self.shared.lease.ended() => {}
        }
    }

    /// It was begun, aborted, and is the next again where the grant still holds.
    pub(super) fn put_back(self) {
        self.lane.put_back(&self.received);
    }

    pub(super) fn is_skip(&self) -> bool {
        self.message().is_none()
    }

    /// Gives an answer that was chosen elsewhere. Of several, the first counts.
    ///
    /// # Errors
    /// See [`AnswerError`]; nothing was answered then.
    pub fn answer(&self, answer: Answer) -> Result<(), AnswerError> {
        let kind = match answer {
            Answer::Ack => {
                self.acknowledge();
                return Ok(());
            }
            Answer::Retry { after, reason } => Kind::Retry(AnswerRetry {
                after_ms: milliseconds(after),
                reason: bounded_reason(reason),
            }),
            Answer::Reject { reason } => Kind::Reject(AnswerReject {
                reason: bounded_reason(reason),
            }),
            Answer::Unavailable {
                after,
                sent,
                reason,
            } => Kind::Unavailable(AnswerUnavailable {
                after_ms: milliseconds(after),
                reason: bounded_reason(reason),
                sent,
            }),
        };
        let sequence = self.sequence();
        if self.is_skip() {
            return Err(AnswerError::SkipMarker { sequence });
        }
        let hurry =
            self.lane
                .answer(self.received.grant, self.received.previous, sequence, kind)?;
        self.shared.answers(&self.lane, hurry);
        Ok(())
    }

    fn acknowledge(&self) {
        let hurry = self.lane.ack(self.received.grant, self.sequence());
        self.shared.answers(&self.lane, hurry);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let leaves = self.lane.released();
        if leaves {
            self.shared.give_back(self.lane.number);
        } else if self.shared.is_closing() {
            self.shared.arrived.notify_one();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("interface", &self.interface())
            .field("destination", &self.destination())
            .field("sequence", &self.sequence())
            .field("epoch", &self.epoch())
            .field("skip", &self.skip_reason())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// A pause as the protocol carries it, a day at most.
fn milliseconds(pause: Duration) -> u64 {
    u64::try_from(pause.min(PAUSE_MAX).as_millis()).unwrap_or(u64::MAX)
}
