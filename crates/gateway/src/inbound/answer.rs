//! From a frame to its replies.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ordo_client::{Accepted, Reason, SendError};
use tokio::time::Instant;
use uuid::Uuid;

use super::batch::{Frame, MESSAGES_MAX};
use super::identity::{canonical, message_id};
use super::{Inbound, Sink, replies};
use crate::ack::{ErrorCondition, Outcome, Refusal, acknowledge, is_reply, reject_unreadable};
use crate::config::Batch;
use crate::connection::ReadError;
use crate::hl7::Message;
use crate::metrics::{Direction, reason};
use crate::msh::{Msh, from_header, is_segment_end, printable};
use crate::refusals::Refused;
use crate::time::Hl7Time;

/// Whoever sends, as logs show it.
pub(super) type Peer<'a> = &'a (dyn fmt::Display + Sync);

/// A control id in lists and logs, in characters: no version of HL7 allows more than 199.
const CONTROL_ID_SHOWN: usize = 199;

impl<K: Sink> Inbound<K> {
    /// Hands over what a frame holds, and gives the replies to it, in order. Dropped, it hands nothing more over.
    pub(super) async fn answer(&self, payload: &Bytes, peer: Peer<'_>) -> Vec<Bytes> {
        let Some(frame) = Frame::open(payload) else {
            return self
                .answer_message(payload, peer)
                .await
                .into_iter()
                .collect();
        };
        let count = frame.messages.len();
        let refusal = match self.messages.batch {
            Batch::Refuse => Some(frame.refusal()),
            Batch::Split if count == 0 => Some(frame.refusal()),
            Batch::Split if count > MESSAGES_MAX => Some(format!(
                "the frame holds {count} messages; at most {MESSAGES_MAX} are taken out of one"
            )),
            Batch::Split => None,
        };
        if let Some(text) = refusal {
            self.metrics.frame(&self.interface);
            self.metrics.refused(&self.interface, "BATCH");
            let outcome = Outcome::Rejected(Refusal::new(ErrorCondition::SegmentSequence, text));
            let first = frame.messages.first().unwrap_or(payload);
            self.note(&self.interface, first, &outcome, peer);
            return self.reply(first, &outcome).into_iter().collect();
        }
        let mut replies = Vec::with_capacity(count);
        for message in &frame.messages {
            replies.extend(self.answer_message(message, peer).await);
        }
        let time = Hl7Time::now().to_string();
        match frame.reply(&replies, &time, &self.reply_ids.next()) {
            // Nobody asked for any.
            Some(_) if replies.is_empty() => Vec::new(),
            Some(reply) => vec![reply],
            None => replies,
        }
    }

    async fn answer_message(&self, payload: &Bytes, peer: Peer<'_>) -> Option<Bytes> {
        let (outcome, interface) = self.hand_over(payload, peer).await;
        let interface = interface.as_deref().unwrap_or(&self.interface);
        self.note(interface, payload, &outcome, peer);
        self.reply(payload, &outcome)
    }

    /// What became of a message, and of which interface it is where that is known.
    pub(super) async fn hand_over(
        &self,
        payload: &Bytes,
        peer: Peer<'_>,
    ) -> (Outcome, Option<String>) {
        let begin = Instant::now();
        let read = match self.read(payload) {
            Ok(read) => read,
            Err(refusal) => {
                self.metrics.frame(&self.interface);
                self.metrics.refused(&self.interface, "UNREADABLE");
                return (Outcome::Rejected(refusal), None);
            }
        };
        let mut again = true;
        loop {
            let target = match self.lanes.of(&read.msh).await {
                Ok(target) => target,
                Err(refused) => {
                    self.metrics.frame(&self.interface);
                    self.metrics.refused(&self.interface, "NO_INTERFACE");
                    return (refused, None);
                }
            };
            let interface = target.interface.as_str();
            if again {
                self.metrics.frame(interface);
            }
            let _waiting = self.metrics.waiting(Direction::In, interface);
            let answer = target.intake.take(read.id, read.message.clone()).await;
            if is_gone(&answer) && std::mem::take(&mut again) && self.lanes.forget(interface) {
                continue;
            }
            let outcome = match answer {
                Ok(accepted) => {
                    let took = begin.elapsed();
                    self.metrics.accepted(interface, took, accepted.duplicate);
                    let sequence = accepted.sequence;
                    tracing::debug!(interface, %peer, sequence, "accepted");
                    Outcome::Accepted
                }
                Err(error) => {
                    self.metrics.refused(interface, reason(&error));
                    replies::outcome(interface, self.messages.identity, &error)
                }
            };
            return (outcome, Some(target.interface.clone()));
        }
    }

    /// A message as the cluster is to have it.
    fn read<'a>(&self, payload: &'a Bytes) -> Result<Read<'a>, Refusal> {
        let read = Message::read_in(payload, self.messages.charset)?;
        check_controls(payload)?;
        let known_by = canonical(payload, &read, &self.messages.ignored);
        let id = message_id(self.messages.identity, &read.msh(), &known_by)?;
        let message = ordo_client::Message::new(payload.clone()).known_by(&known_by);
        let msh = read.msh();
        Ok(Read { msh, id, message })
    }

    /// The reply, where the message asks for one. Bytes without a header get one all the same: whoever sent them waits.
    pub(super) fn reply(&self, payload: &[u8], outcome: &Outcome) -> Option<Bytes> {
        let (time, id) = (Hl7Time::now(), self.reply_ids.next());
        match Message::read_in(payload, self.messages.charset) {
            Ok(message) if is_reply(&message) => None,
            Ok(message) => acknowledge(&message.msh(), outcome, time, &id),
            Err(error) => {
                let refusal = outcome.refusal().cloned();
                let refusal = refusal.unwrap_or_else(|| Refusal::from(error));
                Some(reject_unreadable(&refusal, time, &id))
            }
        }
    }

    /// Replies to a frame that broke, behind which the connection goes on: to its message where that is known, else to
    /// nobody by name, so that there is one reply for each frame.
    pub(super) fn answer_broken(
        &self,
        broken: Option<Bytes>,
        peer: Peer<'_>,
        error: &ReadError,
    ) -> Vec<Bytes> {
        self.metrics.refused(&self.interface, "FRAMING");
        let outcome = replies::of_broken_frame(error);
        let broken = broken.unwrap_or_default();
        if self.identified(&broken).is_some() {
            self.note(&self.interface, &broken, &outcome, peer);
            return self.reply(&broken, &outcome).into_iter().collect();
        }
        self.note(&self.interface, &[], &outcome, peer);
        self.reply(&[], &outcome).into_iter().collect()
    }

    /// Replies to a frame after which nothing can be understood, where it says whom to reply to.
    pub(super) fn answer_lost(
        &self,
        broken: &[u8],
        peer: Peer<'_>,
        error: &ReadError,
    ) -> Option<Bytes> {
        let outcome = replies::of_broken_frame(error);
        let known = self.identified(broken).is_some();
        let header = if known { broken } else { &[] };
        self.note(&self.interface, header, &outcome, peer);
        known.then(|| self.reply(broken, &outcome)).flatten()
    }

    /// The header of a frame that broke, where it is whole and names its message. A header that was cut within MSH-10 would
    /// name another.
    fn identified<'a>(&self, broken: &'a [u8]) -> Option<Msh<'a>> {
        let msh = Msh::scan_in(broken, self.messages.charset).ok()?;
        let header = from_header(broken);
        let is_whole = header.iter().any(|byte| is_segment_end(*byte));
        (is_whole && msh.control_id().is_ok()).then_some(msh)
    }

    /// Leaves a line and a row about a refusal.
    fn note(&self, interface: &str, payload: &[u8], outcome: &Outcome, peer: Peer<'_>) {
        let Some(refusal) = outcome.refusal() else {
            return;
        };
        let reason = refusal.text.as_str();
        let control_id = Msh::scan_in(payload, self.messages.charset)
            .map(|msh| printable(msh.field(10), CONTROL_ID_SHOWN))
            .unwrap_or_default();
        if self.warnings.may_warn(interface) {
            tracing::warn!(interface, %peer, control_id, reason, "a message was refused");
        } else {
            tracing::debug!(interface, %peer, control_id, reason, "a message was refused");
        }
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.refusals.add(Refused {
            unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            interface: interface.to_owned(),
            peer: peer.to_string(),
            control_id,
            reason: reason.to_owned(),
        });
    }
}

/// A message that was read.
struct Read<'a> {
    msh: Msh<'a>,
    id: Uuid,
    message: ordo_client::Message,
}

/// Whether the interface does not exist any more.
fn is_gone(answer: &Result<Accepted, SendError>) -> bool {
    matches!(answer, Err(SendError::Refused(refusal)) if refusal.reason == Reason::UnknownInterface)
}

/// Refuses control bytes inside text. HL7 has segment ends, and the escape and shifts of ISO 2022; tabulators are common
/// enough in notes to be let through.
fn check_controls(payload: &[u8]) -> Result<(), Refusal> {
    let allowed = |byte: u8| matches!(byte, 0x20..|b'\t'| b'\n' | b'\r' | 0x0e | 0x0f | 0x1b);
    let Some(at) = payload.iter().position(|byte| !allowed(*byte)) else {
        return Ok(());
    };
    Err(Refusal::new(
        ErrorCondition::DataType,
        format!(
            "a control byte inside the text of the message: 0x{:02x} at byte {at}; allowed are line ends, ESC, SO, SI and \
             tabulators",
            payload[at]
        ),
    ))
}
