//! MLLP out: one (interface, destination) is one receiver's address.
//!
//! One message is on its way at a time, in sequence order, on one connection that is kept between messages. What the
//! receiver makes of it decides the answer to the cluster:
//!
//! | receiver | answer | what follows |
//! | --- | --- | --- |
//! | AA, CA | `ack` | the next sequence |
//! | AE, CE | `retry` | an attempt is counted; again after a pause that doubles with each |
//! | AR, CR | `reject` | a dead letter for this destination, then the next sequence |
//! | no connection, no reply in time, a reply that is none or answers another message | `unavailable` | no attempt is counted; the connection is closed; again after a pause that doubles with each failure |
//!
//! A message that can't be sent over MLLP at all (no readable header, no MSH-10 to match a reply with, a framing byte
//! within) is rejected without asking the receiver. A skip marker is acknowledged at once: the receiver never hears of
//! it. A message is given up, and the connection closed, before the grant can be another's
//! ([`Delivery::revoked`]). MSH-15 of what is sent decides whether a receiver has to reply; see [`link`].

mod link;

use std::time::Duration;

use ordo_client::{Answer, ConsumeError, Consumer, Content, Delivery, SubscribeTo, Subscription};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::link::{Heard, Link};
use crate::ack::AckCode;
use crate::backoff::Backoff;
use crate::config::{OutboundConfig, SendConfig};

/// Deliveries asked for at once: enough that the next is at hand, few enough that their payloads take little memory.
const CREDITS: u32 = 16;
/// The pauses before a subscription that the cluster ended is tried again.
const RESUBSCRIBE_MIN: Duration = Duration::from_secs(1);
const RESUBSCRIBE_MAX: Duration = Duration::from_secs(30);
/// What is told where the cluster has not been heard of for so long that the grant may be another's.
const REVOKED: &str = "given up: the grant may be another consumer's by now";

/// What goes to one receiver.
pub(crate) struct Outbound {
    to: SendConfig,
    link: Link,
    unavailable: Backoff,
    stop: CancellationToken,
}

impl Outbound {
    pub(crate) fn new(to: SendConfig, limits: OutboundConfig, stop: CancellationToken) -> Self {
        Self {
            unavailable: Backoff::new(limits.pause_min, limits.pause_max),
            link: Link::new(to.address.clone(), limits),
            to,
            stop,
        }
    }

    /// Delivers until it is stopped; then the message on its way is finished, and the grant given back.
    pub(crate) async fn run(mut self, consumer: &Consumer) {
        let mut pauses = Backoff::new(RESUBSCRIBE_MIN, RESUBSCRIBE_MAX);
        // Told once, not with each try.
        let mut told = None;
        loop {
            let to = SubscribeTo::interface(&self.to.interface)
                .destination(&self.to.destination)
                .credits(CREDITS);
            let mut subscription = consumer.subscribe(to);
            let mut delivered = false;
            let Err(error) = self.deliver_all(&mut subscription, &mut delivered).await else {
                return;
            };
            drop(subscription);
            if delivered {
                pauses.reset();
                told = None;
            }
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                let SendConfig {
                    interface,
                    destination,
                    ..
                } = &self.to;
                tracing::warn!(interface, destination, %error, "nothing can be delivered for now; it is tried again");
                told = Some(text);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pauses.next()) => {}
            }
        }
    }

    /// Until it is stopped or the consumer is closed.
    async fn deliver_all(
        &mut self,
        subscription: &mut Subscription,
        delivered: &mut bool,
    ) -> Result<(), ConsumeError> {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                delivery = subscription.next() => delivery,
                // Notices a receiver that closes an idle connection, so that the next message goes out on a new one.
                () = self.link.watch() => continue,
            };
            let Some(delivery) = delivery else {
                return Ok(());
            };
            let delivery = delivery?;
            *delivered = true;
            let answer = self.deliver(&delivery).await;
            self.answer(delivery, answer);
        }
    }

    fn answer(&self, delivery: Delivery, answer: Answer) {
        let sequence = delivery.sequence();
        let given = match answer {
            Answer::Ack => {
                delivery.ack();
                Ok(())
            }
            Answer::Retry { after, reason } => delivery.retry(after, reason),
            Answer::Reject { reason } => delivery.reject(reason),
            answer @ Answer::Unavailable { .. } => delivery.answer(answer),
        };
        if let Err(error) = given {
            // The grant is over, so that the sequence comes again to whoever holds the next.
            let SendConfig {
                interface,
                destination,
                ..
            } = &self.to;
            tracing::info!(interface, destination, sequence, %error, "the receiver's answer came too late for this grant");
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Answer {
        let sequence = delivery.sequence();
        let message = match delivery.content() {
            Content::Message(message) => message,
            Content::Skip(skip) => {
                let SendConfig {
                    interface,
                    destination,
                    ..
                } = &self.to;
                let reason = skip.reason().as_str_name();
                let dead_letter = skip.dead_letter;
                tracing::info!(
                    interface,
                    destination,
                    sequence,
                    reason,
                    dead_letter,
                    "skipped"
                );
                return Answer::Ack;
            }
        };
        let heard = tokio::select! {
            biased;
            heard = self.link.deliver(&message.payload, delivery.begin()) => heard,
            // What was under way is dropped, and its connection with it.
            () = delivery.revoked() => Heard::Nothing { reason: REVOKED.to_owned() },
        };
        self.judge(heard, sequence, delivery.attempts())
    }

    /// What the cluster is told of what was heard. The receiver's own words go there, to be kept with the message, and
    /// into no log.
    fn judge(&mut self, heard: Heard, sequence: u64, attempts: u32) -> Answer {
        let SendConfig {
            interface,
            destination,
            address,
        } = &self.to;
        let spoke = matches!(
            heard,
            Heard::Accepted | Heard::Error { .. } | Heard::Rejected { .. }
        );
        if spoke && self.unavailable.reset() {
            tracing::info!(
                interface,
                destination,
                address,
                "the receiver answers again"
            );
        }
        match heard {
            Heard::Accepted => {
                tracing::debug!(interface, destination, sequence, "delivered");
                Answer::Ack
            }
            Heard::Error { code, text } => {
                let after = self.unavailable.after(attempts);
                tracing::warn!(interface, destination, sequence, attempts, %code, ?after, "the receiver answered with an error");
                Answer::retry(after, told(code, &text))
            }
            Heard::Rejected { code, text } => {
                tracing::warn!(interface, destination, sequence, %code, "the receiver rejected the message");
                Answer::reject(told(code, &text))
            }
            Heard::Unsendable { reason } => {
                tracing::warn!(
                    interface,
                    destination,
                    sequence,
                    reason,
                    "a message can't be sent over MLLP"
                );
                Answer::reject(reason)
            }
            Heard::Nothing { reason } => {
                let after = self.unavailable.next();
                tracing::warn!(
                    interface,
                    destination,
                    address,
                    sequence,
                    reason,
                    ?after,
                    "the receiver is unavailable"
                );
                Answer::unavailable(after, reason)
            }
        }
    }
}

fn told(code: AckCode, text: &str) -> String {
    if text.is_empty() {
        format!("the receiver answered {code} without a reason")
    } else {
        format!("the receiver answered {code}: {text}")
    }
}

#[cfg(test)]
mod tests;
