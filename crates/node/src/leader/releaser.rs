//! Sends what is released, strictly in order, to whoever holds the grant.
//!
//! Grants, epochs and checkpoints are the state's; here is only what was sent under the current epoch, and who
//! stands in line. Nothing is sent before its grant is applied, and nothing while the leader can't be sure that it
//! still leads.

use super::FixedMap;
use super::deadlines::Deadlines;
use super::dispatcher::Now;
use super::events::{DeliverPush, LineKey, SessionId, SubscribeEvent, SubscriptionKey, Tag};
use super::line::{Line, Stage, Subscriber};
use crate::proposer::{ProposeError, Proposed};
use ordo_core::limits::DESTINATIONS_MAX;
use ordo_core::{
    ClusterTime, Command, Destination, DestinationNumber, Grant, GrantEnd, Interface, InterfaceId,
    Refusal, Reply, State,
};
use ordo_wire::lease::SILENCE_MAX;
use ordo_wire::status::reason_of;
use ordo_wire::v1::Reason;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Consumers that stand in line for one grant: each look at a line goes through all of them.
const LINE_MAX: usize = 256;
/// When a grant that could not be proposed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long a leader whose quorum lease has lapsed waits before it looks again.
const QUORUM_RECHECK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Releaser {
    lines: FixedMap<LineKey, Line>,
    /// Which line a subscription stands in.
    subscriptions: FixedMap<SubscriptionKey, LineKey>,
    suspended: Deadlines<ClusterTime, LineKey>,
    deadlines: Deadlines<Instant, LineKey>,
    /// Lines where something may be sent.
    changed: BTreeSet<LineKey>,
    proposals: Vec<(Command, Tag)>,
    /// Messages and skip markers acknowledged since they were last taken.
    acknowledged: (u64, u64),
}

impl Releaser {
    /// A new leader's: holders have as long to come back as they have to be silent.
    pub(crate) fn new(state: &State, now: Now) -> Self {
        let mut releaser = Self::default();
        for interface in state.interfaces() {
            for (number, destination) in (0u8..).zip(&interface.destinations) {
                if destination.holder.is_some() {
                    let key = LineKey {
                        interface: interface.id,
                        destination: DestinationNumber(number),
                    };
                    releaser.line(interface, key, now);
                    releaser.settle(state, key, now);
                }
            }
        }
        releaser
    }

    fn line(&mut self, interface: &Interface, key: LineKey, now: Now) -> &mut Line {
        let name = interface.destination_name(key.destination);
        let destination = interface.destination(key.destination);
        let counted = destination.map_or((0, 0), |there| (there.delivered, there.skipped));
        let line = self.lines.entry(key);
        line.or_insert_with(|| Line::new(key, name, counted, now.instant))
    }

    // ----- what the state did -----

    /// Something was released.
    pub(crate) fn released(&mut self, state: &State, id: InterfaceId) {
        let Some(interface) = state.interface(id) else {
            return;
        };
        for number in 0..interface.destinations.len() {
            let destination = DestinationNumber(u8::try_from(number).unwrap_or(u8::MAX));
            let key = LineKey {
                interface: id,
                destination,
            };
            if self.lines.contains_key(&key) {
                self.changed.insert(key);
            }
        }
    }

    /// A grant, an epoch, a checkpoint or a suspension changed.
    pub(crate) fn destination(&mut self, state: &State, key: LineKey, now: Now) {
        if self.lines.contains_key(&key) {
            self.settle(state, key, now);
        }
    }

    // ----- what consumers do -----

    /// A consumer subscribes.
    pub(crate) fn subscribe(&mut self, state: &State, event: SubscribeEvent, now: Now) {
        let (interface, key) = match line_of(state, &event) {
            Ok(found) => found,
            Err((reason, text)) => {
                let _ = event.push.send(DeliverPush::Ended {
                    number: event.key.number,
                    reason,
                    text,
                });
                return;
            }
        };
        if self.subscriptions.contains_key(&event.key) {
            let text = format!(
                "subscription {} is open already on this stream",
                event.key.number
            );
            let ended = DeliverPush::Ended {
                number: event.key.number,
                reason: Reason::InvalidField,
                text,
            };
            let _ = event.push.send(ended);
            return;
        }
        self.subscriptions.insert(event.key, key);
        let line = self.line(interface, key, now);
        let subscriber = Subscriber::new(event);
        if line.given_back == Some(subscriber.consumer) {
            // It wants it again: should its stream break, it is waited for like any other.
            line.given_back = None;
        }
        match line.of_consumer(subscriber.consumer) {
            // The same consumer on a newer stream stands where the older one stood.
            Some(at) => {
                if let Some(old) = line.remove(at) {
                    let text =
                        "a newer subscription of the same consumer took its place".to_owned();
                    let ended = DeliverPush::Ended {
                        number: old.key.number,
                        reason: Reason::Replaced,
                        text,
                    };
                    let _ = old.push.send(ended);
                    line.subscribers
                        .insert(at.min(line.subscribers.len()), subscriber);
                    self.subscriptions.remove(&old.key);
                }
            }
            None if line.subscribers.len() >= LINE_MAX => {
                let text = format!("{LINE_MAX} consumers stand in line for it already");
                let ended = DeliverPush::Ended {
                    number: subscriber.key.number,
                    reason: Reason::NodeFull,
                    text,
                };
                let _ = subscriber.push.send(ended);
                self.subscriptions.remove(&subscriber.key);
                return;
            }
            None => line.subscribers.push_back(subscriber),
        }
        self.settle(state, key, now);
    }

    /// A consumer gives its grant back, or its place in the line.
    pub(crate) fn unsubscribe(&mut self, state: &State, subscription: SubscriptionKey, now: Now) {
        let Some(key) = self.subscriptions.remove(&subscription) else {
            return;
        };
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        let holder = find(state, key).and_then(|(_, destination)| destination.holder.as_ref());
        let holder = holder.map(|holder| holder.consumer);
        if let Some(gone) = line.at(subscription).and_then(|at| line.remove(at)) {
            // Who only stood in line has nothing to give back, and leaves what the holder said as it is.
            if gone.stage != Stage::Waiting || holder == Some(gone.consumer) {
                line.given_back = Some(gone.consumer);
            }
            let text = "given back".to_owned();
            let number = subscription.number;
            let _ = gone.push.send(DeliverPush::Ended {
                number,
                reason: Reason::Unspecified,
                text,
            });
        }
        self.settle(state, key, now);
    }

    /// A consumer's stream ended: its grants stay for as long as it may be silent, so that it can come back.
    pub(crate) fn leave(&mut self, state: &State, session: SessionId, numbers: &[u32], now: Now) {
        for number in numbers.iter().copied() {
            let subscription = SubscriptionKey { session, number };
            let Some(key) = self.subscriptions.remove(&subscription) else {
                continue;
            };
            let Some(line) = self.lines.get_mut(&key) else {
                continue;
            };
            if let Some(at) = line.at(subscription) {
                line.remove(at);
            }
            self.settle(state, key, now);
        }
    }

    // ----- grants -----

    /// Compares a line with the state and does what follows: begins or restarts sending, grants, ends.
    fn settle(&mut self, state: &State, key: LineKey, now: Now) {
        let Some((interface, destination)) = find(state, key) else {
            self.close(key);
            return;
        };
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        if line.name != interface.destination_name(key.destination) {
            self.close(key);
            return;
        }
        if interface.set_aside().is_some() {
            line.set_aside();
            self.suspended.clear(key);
            self.deadlines.clear(key);
            return;
        }
        let counted = (destination.delivered, destination.skipped);
        let before = std::mem::replace(&mut line.counted, counted);
        self.acknowledged.0 += counted.0.saturating_sub(before.0);
        self.acknowledged.1 += counted.1.saturating_sub(before.1);
        line.follow(interface, destination);
        self.suspended.clear(key);
        // Also while its consumer is away: who comes back, and a later leader, find that its time has passed.
        if destination.suspended_until > now.cluster {
            self.suspended.set(key, destination.suspended_until);
        }
        self.changed.insert(key);
        self.watch_holder(destination, key, now);
        self.grant_next(destination, key);
        self.tell_waiting(destination, key);
        let idle = self
            .lines
            .get(&key)
            .is_some_and(|line| line.subscribers.is_empty() && !line.proposing);
        if idle && destination.holder.is_none() {
            self.close(key);
        }
    }

    /// The interface or the destination is gone, or nobody is interested.
    fn close(&mut self, key: LineKey) {
        let Some(line) = self.lines.remove(&key) else {
            return;
        };
        for subscriber in line.subscribers {
            self.subscriptions.remove(&subscriber.key);
            let text = "the destination was removed".to_owned();
            let reason = Reason::UnknownDestination;
            let _ = subscriber.push.send(DeliverPush::Ended {
                number: subscriber.key.number,
                reason,
                text,
            });
        }
        self.suspended.clear(key);
        self.deadlines.clear(key);
        self.changed.remove(&key);
    }

    /// Ends the grant of a holder that left or is silent; otherwise sees to it that it is looked at in time.
    fn watch_holder(&mut self, destination: &Destination, key: LineKey, now: Now) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        let Some(holder) = &destination.holder else {
            if !line.proposing {
                line.given_back = None;
            }
            self.deadlines.clear(key);
            return;
        };
        let here = line.of_consumer(holder.consumer);
        let last = here
            .and_then(|at| line.subscribers.get(at))
            .map_or(line.absent_since, |there| there.heard.at());
        let left = line.given_back == Some(holder.consumer) && here.is_none();
        let silent_at = last + SILENCE_MAX;
        if !left && silent_at > now.instant {
            self.deadlines.set_earlier(key, silent_at);
            return;
        }
        self.deadlines.set(key, now.instant + RETRY);
        if line.proposing {
            return;
        }
        if let Some(gone) = here.and_then(|at| line.remove(at)) {
            self.subscriptions.remove(&gone.key);
            let text = format!("no heartbeat for {} s", SILENCE_MAX.as_secs());
            let number = gone.key.number;
            let _ = gone.push.send(DeliverPush::Ended {
                number,
                reason: Reason::Epoch,
                text,
            });
        }
        line.proposing = true;
        let end = GrantEnd {
            interface: key.interface,
            destination: key.destination,
            epoch: destination.epoch,
        };
        self.proposals
            .push((Command::GrantEnd(end), Tag::GrantEnd(key)));
    }

    /// Grants to a holder that has come back, or, when nobody holds it, to the first in line.
    fn grant_next(&mut self, destination: &Destination, key: LineKey) {
        let Some(line) = self.lines.get_mut(&key).filter(|line| !line.proposing) else {
            return;
        };
        let next = match &destination.holder {
            Some(holder) => line.of_consumer(holder.consumer),
            None => (!line.subscribers.is_empty()).then_some(0),
        };
        let Some(subscriber) = next.and_then(|at| line.subscribers.get_mut(at)) else {
            return;
        };
        if subscriber.stage != Stage::Waiting && destination.holder.is_some() {
            return;
        }
        subscriber.stage = Stage::Granted {
            above: destination.epoch,
        };
        line.proposing = true;
        let grant = Grant {
            interface: key.interface,
            destination: key.destination,
            consumer: subscriber.consumer,
            name: subscriber.name.clone(),
            position: subscriber.position,
        };
        self.proposals
            .push((Command::Grant(grant), Tag::Grant(key, subscriber.key)));
    }

    fn tell_waiting(&mut self, destination: &Destination, key: LineKey) {
        let (Some(line), Some(holder)) = (self.lines.get_mut(&key), &destination.holder) else {
            return;
        };
        for subscriber in &mut line.subscribers {
            let waits =
                subscriber.stage == Stage::Waiting && subscriber.consumer != holder.consumer;
            if waits && subscriber.told.as_ref() != Some(&holder.name) {
                subscriber.told = Some(holder.name.clone());
                let waiting = DeliverPush::Waiting {
                    number: subscriber.key.number,
                    holder: holder.name.clone(),
                };
                let _ = subscriber.push.send(waiting);
            }
        }
    }

    /// What came of a grant or its end.
    pub(crate) fn proposed(&mut self, state: &State, tag: &Tag, result: &Proposed, now: Now) {
        let (key, subscription) = match tag {
            Tag::Grant(key, subscription) => (*key, Some(*subscription)),
            Tag::GrantEnd(key) => (*key, None),
            Tag::Losses(_) => return,
        };
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.proposing = false;
        let at = subscription.and_then(|subscription| line.at(subscription));
        match (result, at) {
            (Err(ProposeError::ShuttingDown), _) => return,
            (Err(_), at) => {
                if let Some(subscriber) = at.and_then(|at| line.subscribers.get_mut(at)) {
                    subscriber.stage = Stage::Waiting;
                }
                self.deadlines.set(key, now.instant + RETRY);
                return;
            }
            (Ok(replies), Some(at)) => {
                if let Some(Reply::Refused(refusal)) = replies.first() {
                    self.refuse(key, at, refusal);
                }
            }
            (Ok(_), None) => {}
        }
        self.settle(state, key, now);
    }

    fn refuse(&mut self, key: LineKey, at: usize, refusal: &Refusal) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        if let Some(gone) = line.remove(at) {
            self.subscriptions.remove(&gone.key);
            let (reason, text) = (reason_of(refusal), refusal.to_string());
            let _ = gone.push.send(DeliverPush::Ended {
                number: gone.key.number,
                reason,
                text,
            });
        }
    }

    /// Messages and skip markers acknowledged since the last call.
    pub(crate) fn take_acknowledged(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.acknowledged)
    }

    /// What is to be proposed.
    pub(crate) fn take_proposals(&mut self) -> Vec<(Command, Tag)> {
        std::mem::take(&mut self.proposals)
    }

    // ----- time and sending -----

    /// Looks at silent holders and at suspensions that are over.
    pub(crate) fn tick(&mut self, state: &State, now: Now) {
        while let Some(key) = self.suspended.pop_due(now.cluster) {
            self.changed.insert(key);
        }
        let mut due = Vec::new();
        while let Some(key) = self.deadlines.pop_due(now.instant) {
            due.push(key);
        }
        for key in due {
            self.settle(state, key, now);
        }
    }

    /// Sends what fits, where something changed. Without the quorum's word nothing goes out.
    pub(crate) fn pump(&mut self, state: &State, now: Now, has_quorum: bool) {
        if !has_quorum {
            return;
        }
        for key in std::mem::take(&mut self.changed) {
            let Some((interface, destination)) = find(state, key) else {
                continue;
            };
            if !destination.is_open(now.cluster) || interface.set_aside().is_some() {
                continue;
            }
            if let Some(line) = self.lines.get_mut(&key) {
                line.pump(interface, destination);
            }
        }
    }

    /// When there is something to do next without anything else happening; by either clock.
    pub(crate) fn next(&self, now: Now) -> (Option<Instant>, Option<ClusterTime>) {
        let held_back = (!self.changed.is_empty()).then(|| now.instant + QUORUM_RECHECK);
        (
            self.deadlines.next().into_iter().chain(held_back).min(),
            self.suspended.next(),
        )
    }

    /// Whether a period runs that outlives this leader, so that the log has to carry the time on.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// An interface's configuration changed.
    pub(crate) fn interface(&mut self, state: &State, id: InterfaceId, now: Now) {
        for number in 0..u8::try_from(DESTINATIONS_MAX).unwrap_or(u8::MAX) {
            self.destination(
                state,
                LineKey {
                    interface: id,
                    destination: DestinationNumber(number),
                },
                now,
            );
        }
    }

    /// How many deliveries to an (interface, destination) are not acknowledged.
    pub(crate) fn in_flight(&self, key: LineKey) -> usize {
        self.lines.get(&key).map_or(0, Line::in_flight)
    }
}

fn find(state: &State, key: LineKey) -> Option<(&Interface, &Destination)> {
    let interface = state.interface(key.interface)?;
    Some((interface, interface.destination(key.destination)?))
}

/// The line that a subscription is for.
fn line_of<'a>(
    state: &'a State,
    event: &SubscribeEvent,
) -> Result<(&'a Interface, LineKey), (Reason, String)> {
    let Some(interface) = state.interface_named(&event.interface) else {
        return Err((
            Reason::UnknownInterface,
            format!("interface {:?} is unknown", event.interface),
        ));
    };
    let Some(destination) = interface.config.destination_number(&event.destination) else {
        let text = format!(
            "interface {:?} has no destination {:?}",
            event.interface, event.destination
        );
        return Err((Reason::UnknownDestination, text));
    };
    if let Some((id, ..)) = event.position
        && id != interface.id
    {
        let text = format!(
            "the position presented is of interface {id}; {:?} is {}",
            event.interface, interface.id
        );
        return Err((Reason::Position, text));
    }
    Ok((
        interface,
        LineKey {
            interface: interface.id,
            destination,
        },
    ))
}
