//! One receiver for every interface whose name begins in one way.
//!
//! Which interfaces there are is asked every 10 s. Each has a connection and a sender of its own, or all share one: then
//! one message is out at a time, whatever its interface, so the receiver sees each interface's messages in their order
//! and never two at once. A receiver that does not answer is left alone for the pause, whichever interface comes next.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ordo_client::proto::Interface;
use ordo_client::{
    Admin, Answer, CallError, ConsumeError, Consumer, Delivery, SubscribeTo, Subscription,
};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Outbound, keeping_notes};
use crate::config::{Connections, OutboundConfig, SendConfig};
use crate::metrics::Metrics;

/// How often it is asked which interfaces there are.
const ASKED_EVERY: Duration = Duration::from_secs(10);
/// Deliveries asked for at once where all interfaces share a connection: the next, while one is out.
const CREDITS_SHARED: u32 = 2;

type Names = BTreeSet<String>;

/// What goes to one receiver from several interfaces.
pub(crate) struct Many {
    pub(crate) to: SendConfig,
    pub(crate) limits: OutboundConfig,
    pub(crate) metrics: Metrics,
    pub(crate) admin: Admin,
    pub(crate) stop: CancellationToken,
    pub(crate) abort: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Many {
    /// Delivers until it is stopped.
    pub(crate) async fn run(self, consumer: Arc<Consumer>) {
        let (names, found) = watch::channel(Names::new());
        let follow = self.follow(&names);
        let deliver = async {
            match self.to.connections {
                Connections::Each => self.deliver_apart(found, &consumer).await,
                Connections::Shared => self.deliver_together(found, &consumer).await,
            }
        };
        tokio::select! {
            () = self.abort.cancelled() => {}
            () = deliver => {}
            () = follow => {}
        }
    }

    /// Keeps `names` up to date.
    async fn follow(&self, names: &watch::Sender<Names>) {
        loop {
            match self.look().await {
                Ok(found) => {
                    names.send_if_modified(|names| {
                        let changed = *names != found;
                        *names = found;
                        changed
                    });
                }
                // The next question is near, and that there is no leader is told elsewhere.
                Err(error) => {
                    tracing::debug!(interfaces = self.to.interface, %error, "which interfaces there are could not be asked");
                }
            }
            sleep(ASKED_EVERY).await;
        }
    }

    /// The interfaces that have the destination.
    async fn look(&self) -> Result<Names, CallError> {
        let prefix = self.to.prefix().unwrap_or(&self.to.interface);
        let all = self.admin.all_interfaces(prefix).await?;
        let has = |interface: &Interface| {
            let mut destinations = interface.destinations.iter();
            destinations.any(|destination| destination.name == self.to.destination)
        };
        Ok(all
            .into_iter()
            .filter(has)
            .map(|interface| interface.name)
            .collect())
    }

    fn outbound(&self, interface: &str, stop: CancellationToken) -> Outbound {
        let to = SendConfig {
            interface: interface.to_owned(),
            ..self.to.clone()
        };
        Outbound::new(to, self.limits.clone(), self.metrics.clone(), stop)
    }

    /// Each interface for itself.
    async fn deliver_apart(&self, mut found: watch::Receiver<Names>, consumer: &Arc<Consumer>) {
        let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
        loop {
            let names = found.borrow_and_update().clone();
            running.retain(|name, stop| {
                let there = names.contains(name);
                if !there {
                    stop.cancel();
                }
                there
            });
            for name in names {
                if running.contains_key(&name) {
                    continue;
                }
                let stop = self.stop.child_token();
                let outbound = self.outbound(&name, stop.clone());
                let (consumer, abort) = (Arc::clone(consumer), self.abort.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = abort.cancelled() => {}
                        () = outbound.run(&consumer) => {}
                    }
                });
                running.insert(name, stop);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = found.changed() => if changed.is_err() { return },
            }
        }
    }

    /// All on one connection.
    async fn deliver_together(&self, found: watch::Receiver<Names>, consumer: &Consumer) {
        let mut outbound = self.outbound(&self.to.interface, self.stop.clone());
        let kept = outbound.keep();
        let deliver = self.deliver_shared(outbound, found, consumer);
        keeping_notes(consumer, &self.to.destination, kept, deliver).await;
    }

    async fn deliver_shared(
        &self,
        mut outbound: Outbound,
        mut found: watch::Receiver<Names>,
        consumer: &Consumer,
    ) {
        let mut subscribed: HashSet<String> = HashSet::new();
        let mut ended: HashSet<String> = HashSet::new();
        let mut again = interval(ASKED_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscriptions = FuturesUnordered::new();
        loop {
            let delivered = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = found.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    for name in found.borrow_and_update().iter() {
                        if subscribed.insert(name.clone()) {
                            let to = SubscribeTo::interface(name)
                                .destination(&self.to.destination)
                                .credits(CREDITS_SHARED);
                            subscriptions.push(next(name.clone(), consumer.subscribe(to)));
                        }
                    }
                    continue;
                }
                _ = again.tick(), if !ended.is_empty() => {
                    for name in ended.drain() {
                        subscribed.remove(&name);
                    }
                    found.mark_changed();
                    continue;
                }
                () = outbound.link.watch() => {
                    outbound.tell_notes();
                    outbound.count_surplus();
                    outbound.count_connection();
                    continue;
                }
                Some(delivered) = subscriptions.next(), if !subscriptions.is_empty() => delivered,
            };
            let (name, subscription, delivery) = delivered;
            match delivery {
                // The consumer is closed.
                None => return,
                Some(Err(error)) => {
                    // Deleted, most of the time. Where not, it is found again.
                    tracing::info!(interface = name, destination = self.to.destination, %error, "nothing more is delivered for now");
                    ended.insert(name);
                }
                Some(Ok(delivery)) => {
                    outbound.to.interface.clone_from(&name);
                    let answer = outbound.deliver(&delivery).await;
                    let pause = match &answer {
                        Answer::Unavailable { after, .. } => Some(*after),
                        _ => None,
                    };
                    outbound.answer(&delivery, answer);
                    subscriptions.push(next(name, subscription));
                    if let Some(pause) = pause {
                        tokio::select! {
                            () = self.stop.cancelled() => return,
                            () = sleep(pause) => {}
                        }
                    }
                }
            }
        }
    }
}

/// The next delivery of a subscription, with all that is needed to wait for the one after.
async fn next(
    name: String,
    mut subscription: Subscription,
) -> (String, Subscription, Option<Result<Delivery, ConsumeError>>) {
    let delivery = subscription.next().await;
    (name, subscription, delivery)
}
