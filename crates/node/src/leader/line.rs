//! One (interface, destination): who holds it, who stands in line, what was sent.

use super::events::{
    Content, DeliverPush, Delivery, Heard, LineKey, SubscribeEvent, SubscriptionKey,
};
use ordo_core::{
    ConsumerId, Destination, DestinationNumber, Epoch, FailCause, Incarnation, Interface, Sequence,
    Slot, Status,
};
use ordo_wire::v1::SkipReason;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// Deliveries put into one push at most; a stream cuts its frames by bytes besides.
const PUSH_MAX: usize = 256;

/// What consumers are told in the place of the name of who holds the grant.
const QUARANTINED: &str = "nobody: the interface is quarantined";

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    pub(super) key: LineKey,
    /// The destination's name: a number may come to name another one when a drained interface is changed.
    pub(super) name: String,
    /// First come, first served; the holder is among them.
    pub(super) subscribers: VecDeque<Subscriber>,
    /// What was sent under the current epoch.
    pub(super) active: Option<Active>,
    /// When the holder was last heard of, while it has no subscription here.
    pub(super) absent_since: Instant,
    /// The holder gave the grant back: it needs not be waited for.
    pub(super) given_back: Option<ConsumerId>,
    /// A `Grant` or `GrantEnd` is on its way.
    pub(super) proposing: bool,
    /// What the destination had delivered and skipped at the last look, for the counts.
    pub(super) counted: (u64, u64),
}

/// A consumer's subscription.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(super) key: SubscriptionKey,
    pub(super) consumer: ConsumerId,
    pub(super) name: String,
    pub(super) credits: u32,
    pub(super) position: Option<(Incarnation, Sequence)>,
    pub(super) heard: Arc<Heard>,
    pub(super) push: UnboundedSender<DeliverPush>,
    pub(super) stage: Stage,
    /// The holder's name it was told it waits for.
    pub(super) told: Option<String>,
}

/// How far a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Stands in line; a holder that has come back does too, until it is granted again.
    Waiting,
    /// Its grant is on its way, or applied: that has a higher epoch than this.
    Granted { above: Epoch },
}

/// What was sent under an epoch.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) subscription: SubscriptionKey,
    pub(super) epoch: Epoch,
    /// The highest sequence sent or passed over.
    sent: Sequence,
    /// Sent and not acknowledged.
    unacknowledged: VecDeque<Sequence>,
    /// Until the checkpoint moves beyond this, only the head is sent: it probes.
    probe: Option<Sequence>,
}

impl Line {
    pub(super) fn new(key: LineKey, name: &str, counted: (u64, u64), now: Instant) -> Self {
        Self {
            key,
            name: name.to_owned(),
            subscribers: VecDeque::new(),
            active: None,
            absent_since: now,
            given_back: None,
            proposing: false,
            counted,
        }
    }

    pub(super) fn of_consumer(&self, consumer: ConsumerId) -> Option<usize> {
        self.subscribers
            .iter()
            .position(|subscriber| subscriber.consumer == consumer)
    }

    pub(super) fn at(&self, key: SubscriptionKey) -> Option<usize> {
        self.subscribers
            .iter()
            .position(|subscriber| subscriber.key == key)
    }

    /// Takes a subscriber out; the holder's absence counts from when it was last heard of.
    pub(super) fn remove(&mut self, at: usize) -> Option<Subscriber> {
        let gone = self.subscribers.remove(at)?;
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.subscription == gone.key)
        {
            self.active = None;
        }
        if gone.stage != Stage::Waiting {
            self.absent_since = gone.heard.at();
        }
        Some(gone)
    }

    /// The grant's state as applied: begins to send afresh when the epoch is a new one.
    pub(super) fn follow(&mut self, interface: &Interface, destination: &Destination) {
        let holder = destination.holder.as_ref().map(|holder| holder.consumer);
        let granted = holder
            .and_then(|consumer| self.of_consumer(consumer))
            .and_then(|at| self.subscribers.get(at))
            .filter(|subscriber| matches!(subscriber.stage, Stage::Granted { above } if destination.epoch > above));
        let Some(subscriber) = granted else {
            self.active = None;
            return;
        };
        let before = self.active.as_ref();
        let same = before.is_some_and(|active| {
            active.epoch == destination.epoch && active.subscription == subscriber.key
        });
        if same {
            return;
        }
        // Whatever the head was answered but an ack: it is tried again alone.
        let tried = destination.attempts > 0 || !destination.reason.is_empty();
        let granted = DeliverPush::Granted {
            number: subscriber.key.number,
            epoch: destination.epoch,
            checkpoint: destination.checkpoint,
            interface: self.key.interface,
            destination: self.key.destination,
            incarnation: interface.incarnation,
        };
        // A stream that has ended says so itself.
        let _ = subscriber.push.send(granted);
        self.active = Some(Active {
            subscription: subscriber.key,
            epoch: destination.epoch,
            sent: destination.checkpoint,
            unacknowledged: VecDeque::new(),
            probe: tried.then_some(destination.checkpoint),
        });
    }

    /// The interface is quarantined: nothing is sent, and everybody stands in line until that is lifted.
    pub(super) fn set_aside(&mut self) {
        self.active = None;
        for subscriber in &mut self.subscribers {
            subscriber.stage = Stage::Waiting;
            if subscriber.told.as_deref() == Some(QUARANTINED) {
                continue;
            }
            subscriber.told = Some(QUARANTINED.to_owned());
            // A stream that has ended says so itself.
            let _ = subscriber.push.send(DeliverPush::Waiting {
                number: subscriber.key.number,
                holder: QUARANTINED.to_owned(),
            });
        }
    }

    /// Sends what is released and fits.
    pub(super) fn pump(&mut self, interface: &Interface, destination: &Destination) {
        let Some(active) = &mut self.active else {
            return;
        };
        let subscription = active.subscription;
        let Some(subscriber) = self
            .subscribers
            .iter()
            .find(|subscriber| subscriber.key == subscription)
        else {
            return;
        };
        let allowed = interface
            .config
            .destinations
            .get(usize::from(self.key.destination.0));
        let allowed = allowed.map_or(1, |config| config.max_in_flight);
        let mut room = if subscriber.credits == 0 {
            allowed
        } else {
            allowed.min(subscriber.credits)
        };
        active.acknowledge(destination.checkpoint);
        if active.probe.is_some() {
            room = 1;
        }
        let room = room as usize;
        let mut deliveries = Vec::new();
        while active.unacknowledged.len() < room && active.sent < interface.watermark {
            let sequence = active.sent.next();
            let Some(slot) = interface.slot(sequence) else {
                break;
            };
            active.sent = sequence;
            if !slot.destinations.contains(self.key.destination) {
                continue;
            }
            active.unacknowledged.push_back(sequence);
            deliveries.push(delivery(
                interface,
                destination,
                self.key.destination,
                sequence,
                slot,
            ));
            if deliveries.len() == PUSH_MAX {
                let push = active.push(std::mem::take(&mut deliveries));
                let _ = subscriber.push.send(push);
            }
        }
        if !deliveries.is_empty() {
            let _ = subscriber.push.send(active.push(deliveries));
        }
    }

    /// How many deliveries are not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.unacknowledged.len())
    }
}

impl Active {
    fn acknowledge(&mut self, checkpoint: Sequence) {
        while self
            .unacknowledged
            .front()
            .is_some_and(|sequence| *sequence <= checkpoint)
        {
            self.unacknowledged.pop_front();
        }
        self.sent = self.sent.max(checkpoint);
        if self.probe.is_some_and(|probe| checkpoint > probe) {
            self.probe = None;
        }
    }

    fn push(&self, deliveries: Vec<Delivery>) -> DeliverPush {
        DeliverPush::Deliveries {
            number: self.subscription.number,
            epoch: self.epoch,
            deliveries,
        }
    }
}

impl Subscriber {
    pub(super) fn new(event: SubscribeEvent) -> Self {
        Self {
            key: event.key,
            consumer: event.consumer,
            name: event.name,
            credits: event.credits,
            position: event
                .position
                .map(|(_, incarnation, sequence)| (incarnation, sequence)),
            heard: event.heard,
            push: event.push,
            stage: Stage::Waiting,
            told: None,
        }
    }
}

fn delivery(
    interface: &Interface,
    destination: &Destination,
    number: DestinationNumber,
    sequence: Sequence,
    slot: &Slot,
) -> Delivery {
    let (attempts, repeats) = match sequence == destination.checkpoint.next() {
        true => (destination.attempts, destination.repeats),
        false => (0, 0),
    };
    let skip = |reason| {
        let dead_letter = interface
            .dead_letters_of(sequence)
            .any(|(key, _)| key.destination.is_none_or(|d| d == number));
        Content::Skip {
            reason,
            dead_letter,
        }
    };
    let content = match slot.status {
        Status::Failed(FailCause::Attempts) => skip(SkipReason::Attempts),
        Status::Failed(FailCause::Losses) => skip(SkipReason::Losses),
        Status::Failed(_) => skip(SkipReason::Rejected),
        Status::Filtered => skip(SkipReason::Filtered),
        // Below the watermark nothing is PENDING.
        Status::Ready | Status::Pending => Content::Message {
            body_of: slot.body_of,
            header_rows: slot.header_rows,
            accepted_at: slot.accepted_at,
            redrive_of: slot
                .redrive_of
                .as_ref()
                .map_or(Sequence::ZERO, |key| key.sequence),
        },
    };
    Delivery {
        sequence,
        attempts,
        repeats,
        message_id: slot.message_id,
        content,
    }
}
