//! MLLP out: one (interface, destination) is one receiver's address, or all with one prefix are (see [`many`]).
//!
//! One message is on its way at a time, in sequence order, on one connection that is kept between messages. What the
//! receiver makes of it decides the answer to the cluster:
//!
//! | receiver | answer | what follows |
//! | --- | --- | --- |
//! | AA, or CA where no AA is awaited | `ack` | the next sequence |
//! | AE, CE | `retry` | an attempt is counted; again after a pause that doubles with each |
//! | AR, CR | `reject` | a dead letter for this destination, then the next sequence |
//! | CA where AA is awaited, and nothing more in time | `unavailable`, *committed, unanswered* | it is not sent again by itself; the reply is waited for |
//! | no connection, no reply in time, none that can be taken | `unavailable` | no attempt is counted; again after a pause that doubles with each failure |
//!
//! What a receiver is expected to reply is for [`expect`] to say, which message a reply means for [`memory`], and for how
//! long it is listened to for [`link`]. A reply that comes after its message was acknowledged to the cluster changes
//! nothing and is kept with the message's history; where it refuses the message, a person has to look, and an error is
//! logged.
//!
//! A message that can't be sent over MLLP at all (no readable header, no MSH-10 to match a reply with, a framing byte
//! within) is rejected without asking the receiver. A skip marker is acknowledged at once: the receiver never hears of
//! it. A message is given up, and the connection closed, before the grant can be another's ([`Delivery::revoked`]).

mod expect;
mod inbox;
mod link;
mod many;
mod memory;

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use ordo_client::{
    Answer, ConsumeError, Consumer, Content, Delivery, Position, SubscribeTo, Subscription, Uuid,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::many::Many;

use self::link::{Heard, Link};
use self::memory::{Message, Note, Said};
use crate::ack::{AckCode, Verdict};
use crate::backoff::Backoff;
use crate::config::{OutboundConfig, SendConfig};
use crate::metrics::{Direction, Metrics, Open, Waiting};

/// Deliveries asked for at once: enough that the next is at hand, few enough that their payloads take little memory.
const CREDITS: u32 = 16;
/// The pauses before a subscription that the cluster ended is tried again.
const RESUBSCRIBE_MIN: Duration = Duration::from_secs(1);
const RESUBSCRIBE_MAX: Duration = Duration::from_secs(30);
/// How long after its pause a message that was not settled is counted as waiting here.
const COMES_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// Late replies that wait to be kept, and how often and after which pauses that is tried.
const NOTES_MAX: usize = 256;
const NOTE_ATTEMPTS_MAX: u32 = 7;
const NOTE_PAUSE_MIN: Duration = Duration::from_millis(100);
const NOTE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long they may take when the gateway stops.
const NOTES_END_MAX: Duration = Duration::from_secs(1);
/// What is told where the cluster has not been heard of for so long that the grant may be another's.
const REVOKED: &str = "given up: the grant may be another consumer's by now";

/// A message that was sent and is not settled.
struct Unsettled {
    sequence: u64,
    /// The receiver gave no answer to the last try.
    unanswered: bool,
    waiting: Waiting,
}

/// What goes to one receiver.
pub(crate) struct Outbound {
    to: SendConfig,
    link: Link,
    unavailable: Backoff,
    pause_min: Duration,
    repeats_max: u32,
    /// The message that was told to be sent again and again.
    repeated: Option<Position>,
    /// The message that was told to be committed and unanswered.
    unanswered: Option<Position>,
    /// Where late replies go to be kept.
    notes: Option<mpsc::Sender<Note>>,
    metrics: Metrics,
    /// By interface: the message that was sent and is not settled.
    unsettled: HashMap<Uuid, Unsettled>,
    /// What connections are counted under, and the one that is open.
    name: String,
    open: Option<Open>,
    stop: CancellationToken,
}

impl Outbound {
    pub(crate) fn new(
        to: SendConfig,
        limits: OutboundConfig,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        Self {
            metrics,
            unsettled: HashMap::new(),
            name: to.interface.clone(),
            open: None,
            unavailable: Backoff::new(limits.pause_min, limits.pause_max),
            pause_min: limits.pause_min,
            repeats_max: limits.repeats_max,
            repeated: None,
            unanswered: None,
            notes: None,
            link: Link::to(&to, limits),
            to,
            stop,
        }
    }

    /// Delivers until it is stopped; then the message on its way is finished, and the grant given back.
    pub(crate) async fn run(mut self, consumer: &Consumer) {
        let (kept, destination) = (self.keep(), self.to.destination.clone());
        keeping_notes(consumer, &destination, kept, self.run_deliveries(consumer)).await;
    }

    /// Where late replies come from, for [`keeping_notes`].
    fn keep(&mut self) -> mpsc::Receiver<Note> {
        let (notes, kept) = mpsc::channel(NOTES_MAX);
        self.notes = Some(notes);
        kept
    }

    async fn run_deliveries(mut self, consumer: &Consumer) {
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
                // Notices a receiver that closes an idle connection, and what it says late.
                () = self.link.watch() => {
                    self.tell_notes();
                    self.count_surplus();
                    self.count_connection();
                    continue;
                }
            };
            let Some(delivery) = delivery else {
                return Ok(());
            };
            let delivery = delivery?;
            *delivered = true;
            let answer = self.deliver(&delivery).await;
            self.answer(&delivery, answer);
        }
    }

    fn answer(&self, delivery: &Delivery, answer: Answer) {
        let sequence = delivery.sequence();
        if let Err(error) = delivery.answer(answer) {
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
        let position = delivery.position();
        self.begin(position);
        let begin = Instant::now();
        let outgoing = Message {
            interface: delivery.interface().into(),
            position,
            epoch: delivery.epoch(),
        };
        let heard = tokio::select! {
            biased;
            heard = self.link.deliver(outgoing, &message.payload, delivery.begin()) => Some(heard),
            // What was under way is dropped, and its connection with it.
            () = delivery.revoked() => None,
        };
        let heard = heard.unwrap_or_else(|| Heard::Nothing {
            reason: REVOKED.to_owned(),
            sent: self.link.may_have_sent(),
        });
        self.tell_notes();
        self.count(&heard, begin.elapsed());
        let answer = self.judge(heard, position, delivery.attempts(), delivery.repeats());
        self.end(position, &answer);
        answer
    }

    /// Notes that a message is sent, perhaps once more.
    fn begin(&mut self, position: Position) {
        let interface = self.to.interface.as_str();
        let (of, sequence) = (position.interface_id, position.sequence);
        match self.unsettled.get_mut(&of) {
            Some(earlier) if earlier.sequence == sequence => {
                earlier.waiting.goes_on();
                if earlier.unanswered {
                    self.metrics.repeated(interface);
                }
            }
            _ => {
                let unsettled = Unsettled {
                    sequence,
                    unanswered: false,
                    waiting: self.metrics.waiting(Direction::Out, interface),
                };
                self.unsettled.insert(of, unsettled);
            }
        }
    }

    /// Counts what was heard.
    fn count(&mut self, heard: &Heard, took: Duration) {
        self.count_connection();
        self.count_surplus();
        let interface = self.to.interface.as_str();
        match heard {
            Heard::Said(_) => self.metrics.acknowledged(interface, took),
            Heard::Unsendable { .. } => {}
            Heard::Nothing { .. } | Heard::Unanswered { .. } => self.metrics.unavailable(interface),
        }
    }

    /// Notes what became of a message that was sent. One that comes again does so after a pause; where it does not, it is
    /// another gateway's by then.
    fn end(&mut self, position: Position, answer: &Answer) {
        let of = position.interface_id;
        let (after, unanswered) = match answer {
            Answer::Ack | Answer::Reject { .. } => {
                self.unsettled.remove(&of);
                return;
            }
            Answer::Retry { after, .. } => (*after, false),
            Answer::Unavailable { after, .. } => (*after, true),
        };
        if let Some(unsettled) = self.unsettled.get_mut(&of) {
            unsettled.unanswered = unanswered;
            unsettled.waiting.ends_after(after + COMES_AGAIN_WITHIN);
        }
    }

    fn count_surplus(&mut self) {
        let count = self.link.take_surplus();
        self.metrics.surplus_replies(&self.to.interface, count);
    }

    fn count_connection(&mut self) {
        match self.link.is_open() {
            false => self.open = None,
            true if self.open.is_none() => {
                self.open = Some(self.metrics.connection(Direction::Out, &self.name));
            }
            true => {}
        }
    }

    /// What the cluster is told of what was heard. The receiver's own words go there, to be kept with the message, and
    /// into no log.
    fn judge(&mut self, heard: Heard, position: Position, attempts: u32, repeats: u32) -> Answer {
        let sequence = position.sequence;
        if matches!(heard, Heard::Said(_)) {
            self.answers_again();
        }
        let SendConfig {
            interface,
            destination,
            address,
            ..
        } = &self.to;
        match heard {
            Heard::Said(Said::Accepted) => {
                tracing::debug!(interface, destination, sequence, "delivered");
                Answer::Ack
            }
            Heard::Said(Said::Error { code, text }) => {
                let after = self.unavailable.after(attempts);
                tracing::warn!(interface, destination, sequence, attempts, %code, ?after, "the receiver answered with an error");
                Answer::retry(after, told(code, &text))
            }
            Heard::Said(Said::Rejected { code, text }) => {
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
            Heard::Nothing { reason, sent } => {
                let after = self.unavailable.next();
                tracing::warn!(
                    interface,
                    destination,
                    address,
                    sequence,
                    sent,
                    reason,
                    ?after,
                    "the receiver is unavailable"
                );
                if sent {
                    self.count_repeat(position, repeats);
                }
                Answer::Unavailable {
                    after,
                    sent,
                    reason,
                }
            }
            Heard::Unanswered { reason } => {
                // Where it is listened to nothing is gained by a longer pause.
                let after = match self.link.is_open() {
                    true => self.pause_min,
                    false => self.unavailable.next(),
                };
                if self.unanswered != Some(position) {
                    self.unanswered = Some(position);
                    self.metrics.unanswered(interface);
                    tracing::error!(
                        interface,
                        destination,
                        address,
                        sequence,
                        "the receiver took a message (CA) and its application does not answer; it is not sent again by itself"
                    );
                }
                // A try that only listened sent nothing.
                Answer::Unavailable {
                    after,
                    sent: self.link.may_have_sent(),
                    reason,
                }
            }
        }
    }

    fn answers_again(&mut self) {
        if self.unavailable.reset() {
            let SendConfig {
                interface,
                destination,
                address,
                ..
            } = &self.to;
            tracing::info!(
                interface,
                destination,
                address,
                "the receiver answers again"
            );
        }
    }

    /// A try that may have reached the receiver is followed by another; a person is told once a message. `earlier`: how
    /// often it was so before, by whichever gateway.
    fn count_repeat(&mut self, position: Position, earlier: u32) {
        let repeats = earlier.saturating_add(1);
        if repeats >= self.repeats_max && self.repeated != Some(position) {
            self.repeated = Some(position);
            self.metrics.repeat_alarm(&self.to.interface);
            let SendConfig {
                interface,
                destination,
                address,
                ..
            } = &self.to;
            let sequence = position.sequence;
            tracing::error!(
                interface,
                destination,
                address,
                sequence,
                repeats,
                "a message was sent again and again without an answer; nothing passes it until the receiver answers or a person decides"
            );
        }
    }

    /// Tells what followed on replies that had settled their messages.
    fn tell_notes(&mut self) {
        for note in self.link.take_notes() {
            self.tell(&note);
            self.metrics
                .late_reply(&note.message.interface, note.code.as_str());
            let waits = self.notes.as_ref().map(|notes| notes.try_send(note));
            if let Some(Err(error)) = waits {
                tracing::debug!(%error, "too many late replies wait to be kept");
            }
        }
    }

    fn tell(&self, note: &Note) {
        let (interface, destination) = (&*note.message.interface, &self.to.destination);
        let (sequence, code) = (note.message.position.sequence, note.code);
        if code.verdict() == Verdict::Accept {
            tracing::debug!(interface, destination, sequence, %code, "the application confirmed a message");
        } else {
            // It was acknowledged to the cluster already.
            tracing::error!(interface, destination, sequence, %code, "the receiver refused a message that it had accepted; a person has to look");
        }
    }
}

/// Delivers, and keeps the late replies that come meanwhile. `deliver` has the other end of `kept`.
async fn keeping_notes(
    consumer: &Consumer,
    destination: &str,
    kept: mpsc::Receiver<Note>,
    deliver: impl Future<Output = ()>,
) {
    let mut keeping = pin!(keep_notes(consumer, destination, kept));
    tokio::select! {
        () = deliver => {}
        // Not before the other, which sends to it.
        () = &mut keeping => return,
    }
    if timeout(NOTES_END_MAX, keeping).await.is_err() {
        tracing::debug!("late replies that could not be kept yet are dropped");
    }
}

/// Keeps what receivers said late with the history of their messages, where the cluster takes it. A message whose
/// acknowledgement is on its way takes no note yet, so it is tried for a while.
async fn keep_notes(consumer: &Consumer, destination: &str, mut notes: mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        let Message {
            interface,
            position,
            epoch,
        } = &note.message;
        let (sequence, code) = (position.sequence, note.code.as_str());
        let mut pauses = Backoff::new(NOTE_PAUSE_MIN, NOTE_PAUSE_MAX);
        for attempt in 1..=NOTE_ATTEMPTS_MAX {
            let kept = consumer.note(interface, destination, sequence, *epoch, code, &note.text);
            match kept.await {
                Ok(()) => break,
                Err(error) if attempt == NOTE_ATTEMPTS_MAX => {
                    tracing::info!(interface = %interface, destination, sequence, code, %error, "what the receiver said late could not be kept");
                }
                Err(_) => sleep(pauses.next()).await,
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
