//! One (interface, destination), as whoever handles its deliveries sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::lane::Lane;
use super::lease::Watch;
use super::{Answer, Delivery, GrantState, Shared};
use crate::error::ConsumeError;

/// The shortest pause before a skip marker, which the cluster can't be asked to send again, is handled again.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// A subscription. Dropping it gives its grant back, once no delivery of it is in hand.
pub struct Subscription {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    lease: Watch,
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
        let lease = shared.lease.watch();
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
            self.lease.seen();
            let leased = self.shared.lease.may_begin();
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

    /// Hands each delivery to `handler`, in order, and gives its answers. A handler is dropped in the midst of its work
    /// when the delivery is revoked, see [`Delivery::revoked`]; it is handed over again should the grant still be this
    /// consumer's. A skip marker that is not acknowledged is
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
                let answer = tokio::select! {
                    biased;
                    answer = handler(&delivery) => answer,
                    () = delivery.revoked() => {
                        tracing::warn!(?delivery, "aborted: the grant may be another's soon");
                        delivery.put_back();
                        break;
                    }
                };
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
            self.lease.seen();
            if self.shared.lease.may_begin() {
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
            Wait::Lease => Box::pin(self.lease.changed()),
            Wait::Delivery => Box::pin(async {
                tokio::select! {
                    biased;
                    () = self.lane.changed.notified() => {}
                    () = self.lease.changed() => {}
                }
            }),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.lane.dropped() {
            self.shared.give_back(self.lane.number);
        }
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
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use ordo_wire::lease::{ABORT_WITHIN, BEGIN_WITHIN, BootClock};
    use ordo_wire::v1::delivery::Content;
    use ordo_wire::v1::{self, SkipMarker, SubscriptionGranted};
    use tokio::sync::Notify;
    use tokio::time::advance;

    use super::*;
    use crate::consumer::Wanted;
    use crate::consumer::lease::Lease;

    const MOMENT: Duration = Duration::from_millis(1);

    /// A consumer whose machine can be suspended, with one subscription to which three deliveries have come.
    struct World {
        shared: Arc<Shared>,
        subscription: Subscription,
        suspended_s: Arc<AtomicU64>,
    }

    impl World {
        fn new() -> Self {
            let suspended_s = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&suspended_s);
            let clock = BootClock::new(move || Duration::from_secs(told.load(Ordering::Relaxed)));
            let shared = Arc::new(Shared {
                wanted: Mutex::new(Wanted::default()),
                arrived: Notify::new(),
                lease: Lease::new(clock),
                closing: AtomicBool::new(false),
            });
            let lane = Arc::new(Lane::new(1, "orders".into()));
            lane.granted(&SubscriptionGranted {
                epoch: 1,
                incarnation: 1,
                ..SubscriptionGranted::default()
            });
            let deliveries = (1..=3).map(|sequence| v1::Delivery {
                sequence,
                attempts: 0,
                repeats: 0,
                content: Some(Content::Skip(SkipMarker::default())),
            });
            lane.received(1, deliveries.collect());
            Self {
                subscription: Subscription::new(lane, Arc::clone(&shared)),
                shared,
                suspended_s,
            }
        }

        fn next(&mut self) -> Option<Delivery> {
            self.subscription
                .next()
                .now_or_never()
                .map(|next| next.unwrap().unwrap())
        }

        /// A heartbeat that was sent just now is answered.
        fn beat(&self) {
            self.shared.lease.answered(self.shared.lease.now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_delivery_begins_later_than_three_seconds_after_the_last_answered_heartbeat_was_sent()
     {
        let mut world = World::new();
        assert!(world.next().is_none(), "no heartbeat was answered yet");
        let sent_at = world.shared.lease.now();
        advance(Duration::from_secs(2)).await;
        world.shared.lease.answered(sent_at);
        let first = world.next().unwrap();
        advance(Duration::from_secs(1) - MOMENT).await;
        assert!(first.may_begin());
        let second = world.next().unwrap();
        assert_eq!((first.sequence(), second.sequence()), (1, 2));
        advance(MOMENT).await;
        assert!(!second.may_begin());
        assert!(world.next().is_none(), "3 s have passed since it was sent");
        assert!(second.begin().now_or_never().is_none());
        world.beat();
        assert!(second.begin().now_or_never().is_some());
        assert_eq!(world.next().unwrap().sequence(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_hand_is_revoked_five_seconds_after_the_last_answered_heartbeat_was_sent() {
        let mut world = World::new();
        world.beat();
        let delivery = world.next().unwrap();
        advance(BEGIN_WITHIN).await;
        world.beat();
        advance(ABORT_WITHIN - MOMENT).await;
        assert!(delivery.revoked().now_or_never().is_none());
        advance(MOMENT).await;
        assert!(delivery.revoked().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_is_dropped_when_its_delivery_is_revoked_and_begins_anew_where_the_grant_holds()
     {
        let world = World::new();
        world.beat();
        let World {
            shared,
            mut subscription,
            ..
        } = world;
        let begun = Mutex::new(Vec::new());
        let aborted = AtomicUsize::new(0);
        let handle = async |delivery: &Delivery| {
            struct Count<'a>(&'a AtomicUsize);
            impl Drop for Count<'_> {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
            let first = {
                let mut begun = begun.lock().unwrap();
                begun.push(delivery.sequence());
                begun.len() == 1
            };
            if first {
                let _count = Count(&aborted);
                std::future::pending::<()>().await;
            }
            Answer::Ack
        };
        let play = async {
            tokio::time::sleep(ABORT_WITHIN + MOMENT).await;
            assert_eq!(aborted.load(Ordering::Relaxed), 1);
            assert_eq!(*begun.lock().unwrap(), [1]);
            shared.lease.answered(shared.lease.now());
            tokio::time::sleep(MOMENT).await;
            shared.close();
        };
        let (result, ()) = tokio::join!(subscription.run(handle), play);
        result.unwrap();
        assert_eq!(*begun.lock().unwrap(), [1, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_suspended_begins_nothing_and_lets_go_of_what_is_in_hand() {
        let mut world = World::new();
        world.beat();
        let delivery = world.next().unwrap();
        let shared = Arc::clone(&world.shared);
        let noticed = tokio::spawn(async move { shared.lease.notice_suspensions().await });
        let revoked = async {
            delivery.revoked().await;
            world.shared.lease.now()
        };
        let begin = tokio::time::Instant::now();
        let suspend = async {
            tokio::time::sleep(MOMENT).await;
            world.suspended_s.store(600, Ordering::Relaxed);
        };
        tokio::join!(revoked, suspend);
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "timers did not run on"
        );
        assert!(!delivery.may_begin());
        assert!(world.next().is_none());
        world.beat();
        assert_eq!(world.next().unwrap().sequence(), 2);
        noticed.abort();
    }
}
