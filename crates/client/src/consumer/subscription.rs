//! One (interface, destination), as whoever handles its deliveries sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::lane::Lane;
use super::{Answer, Delivery, GrantState, Shared};
use crate::error::ConsumeError;

/// The shortest pause before a skip marker, which the cluster can't be asked to send again, is handled again.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// A subscription. Dropping it gives its grant back.
pub struct Subscription {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    lease: watch::Receiver<Option<Instant>>,
    /// Its end was told.
    told: bool,
}

/// What to wait for before the next delivery.
enum Wait {
    Delivery,
    /// There is one, but the cluster has not been heard of for too long to begin it.
    Lease,
}

impl Subscription {
    pub(super) fn new(lane: Arc<Lane>, shared: Arc<Shared>) -> Self {
        let lease = shared.lease.subscribe();
        Self {
            lane,
            shared,
            lease,
            told: false,
        }
    }

    /// The next delivery, in sequence order. It need not wait for the answers of those before it; an acknowledgement
    /// covers all before. None once the consumer is closed, or after an error.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        loop {
            if self.told || self.shared.is_closing() {
                return None;
            }
            let leased = self
                .lease
                .borrow_and_update()
                .is_some_and(|until| Instant::now() < until);
            let wait = {
                let mut state = self.lane.state();
                if let Some(error) = state.take_end() {
                    self.told = true;
                    return Some(Err(error));
                }
                if state.has_next() && !leased {
                    Wait::Lease
                } else if let Some(received) = Lane::take_next(&mut state) {
                    drop(state);
                    return Some(Ok(Delivery::new(
                        Arc::clone(&self.lane),
                        Arc::clone(&self.shared),
                        received,
                    )));
                } else {
                    Wait::Delivery
                }
            };
            self.wait(wait).await;
        }
    }

    /// Hands each delivery to `handler`, in order, and gives its answers. A skip marker that is not acknowledged is
    /// handed over again after the pause; one that is rejected counts as acknowledged. Returns when the consumer is
    /// closed.
    ///
    /// For a task of its own (`tokio::spawn`) the handler returns a boxed future,
    /// `|delivery: &Delivery| -> BoxFuture<'_, Answer> { Box::pin(async move { .. }) }`: the compiler can't see that
    /// an `async` closure's is `Send`.
    ///
    /// # Errors
    /// The cluster ended the subscription.
    pub async fn run(
        &mut self,
        mut handler: impl AsyncFnMut(&Delivery) -> Answer,
    ) -> Result<(), ConsumeError> {
        while let Some(delivery) = self.next().await {
            let delivery = delivery?;
            loop {
                let answer = handler(&delivery).await;
                let again = match &answer {
                    Answer::Retry { after, .. } | Answer::Unavailable { after, .. }
                        if delivery.is_skip() =>
                    {
                        *after
                    }
                    Answer::Reject { .. } if delivery.is_skip() => {
                        delivery.ack();
                        break;
                    }
                    _ => {
                        if let Err(error) = delivery.answer(answer) {
                            // It comes again, under the next grant.
                            tracing::debug!(?delivery, %error, "answer not given");
                        }
                        break;
                    }
                };
                sleep(again.max(PAUSE_MIN)).await;
                if !self.may_begin().await || !self.lane.is_epoch(delivery.epoch()) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> GrantState {
        self.lane.state().standing.clone()
    }

    /// Waits until a delivery may be begun; false when the consumer is closed meanwhile.
    async fn may_begin(&mut self) -> bool {
        loop {
            if self.shared.is_closing() {
                return false;
            }
            if self
                .lease
                .borrow_and_update()
                .is_some_and(|until| Instant::now() < until)
            {
                return true;
            }
            self.wait(Wait::Lease).await;
        }
    }

    /// Boxed, so that whoever runs a handler can do so in a task of its own: the compiler does not see that the
    /// future is `Send` for every lifetime otherwise. It happens only when there is nothing to do.
    fn wait(&mut self, wait: Wait) -> BoxFuture<'_, ()> {
        // The sender lives in `shared`: neither wait can end for want of one. A close moves the lease, too.
        match wait {
            Wait::Lease => Box::pin(async {
                let _ = self.lease.changed().await;
            }),
            Wait::Delivery => Box::pin(async {
                tokio::select! {
                    biased;
                    () = self.lane.changed.notified() => {}
                    _ = self.lease.changed() => {}
                }
            }),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.wanted().unsubscribe.push(self.lane.number);
        self.shared.arrived.notify_one();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("to", &self.lane.to)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use futures_util::FutureExt;
    use ordo_wire::v1::delivery::Content;
    use ordo_wire::v1::{self, SkipMarker, SubscriptionGranted};
    use tokio::sync::Notify;
    use tokio::time::advance;

    use super::*;
    use crate::consumer::{LEASE, Wanted};

    #[tokio::test(start_paused = true)]
    async fn no_delivery_begins_later_than_five_seconds_after_the_last_answered_heartbeat_was_sent()
    {
        let shared = Arc::new(Shared {
            wanted: Mutex::new(Wanted::default()),
            arrived: Notify::new(),
            lease: watch::Sender::new(None),
            closing: AtomicBool::new(false),
        });
        let lane = Arc::new(Lane::new(1, "orders".into()));
        let mut subscription = Subscription::new(Arc::clone(&lane), Arc::clone(&shared));
        lane.granted(&SubscriptionGranted {
            epoch: 1,
            incarnation: 1,
            ..SubscriptionGranted::default()
        });
        let content = || Some(Content::Skip(SkipMarker::default()));
        let deliveries = (1..=3).map(|sequence| v1::Delivery {
            sequence,
            attempts: 0,
            content: content(),
        });
        lane.received(1, deliveries.collect());
        assert!(
            subscription.next().now_or_never().is_none(),
            "no heartbeat was answered yet"
        );

        let sent_at = Instant::now();
        advance(Duration::from_secs(3)).await;
        shared.lease.send_replace(Some(sent_at + LEASE));
        assert_eq!(
            subscription
                .next()
                .now_or_never()
                .unwrap()
                .unwrap()
                .unwrap()
                .sequence(),
            1
        );
        advance(Duration::from_millis(1999)).await;
        assert_eq!(
            subscription
                .next()
                .now_or_never()
                .unwrap()
                .unwrap()
                .unwrap()
                .sequence(),
            2
        );
        advance(Duration::from_millis(1)).await;
        assert!(
            subscription.next().now_or_never().is_none(),
            "5 s have passed since that heartbeat was sent"
        );
        shared.lease.send_replace(Some(Instant::now() + LEASE));
        assert_eq!(
            subscription
                .next()
                .now_or_never()
                .unwrap()
                .unwrap()
                .unwrap()
                .sequence(),
            3
        );
    }
}
