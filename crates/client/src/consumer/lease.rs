//! For how long a consumer may act on its grants: counted from the sending of the last heartbeat that was answered.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use ordo_wire::lease::{ABORT_WITHIN, BEGIN_WITHIN, BootClock, BootInstant};
use tokio::sync::watch;
use tokio::time::sleep;

/// How often it is looked whether the machine was suspended: timers don't run on meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One consumer's lease, for all its grants: they share the stream and its heartbeats.
pub(super) struct Lease {
    clock: BootClock,
    standing: watch::Sender<Standing>,
}

#[derive(Clone, Copy, Default)]
struct Standing {
    /// When the last heartbeat that was answered was sent.
    beaten: Option<BootInstant>,
    /// The consumer closes and waits for nothing any more.
    over: bool,
}

impl Lease {
    pub(super) fn new(clock: BootClock) -> Self {
        Self {
            clock,
            standing: watch::Sender::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> BootInstant {
        self.clock.now()
    }

    /// A heartbeat that was sent at `sent_at` was answered.
    pub(super) fn answered(&self, sent_at: BootInstant) {
        self.standing
            .send_modify(|standing| standing.beaten = standing.beaten.max(Some(sent_at)));
    }

    /// What is in hand is waited for no longer.
    pub(super) fn end(&self) {
        self.standing.send_modify(|standing| standing.over = true);
    }

    /// Wakes whoever waits.
    pub(super) fn look_again(&self) {
        self.standing.send_modify(|_| {});
    }

    /// Hears of every change.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.standing.subscribe())
    }

    /// A delivery may be started now.
    pub(super) fn may_begin(&self) -> bool {
        let beaten = self.standing.borrow().beaten;
        beaten.is_some_and(|at| self.clock.now() < at + BEGIN_WITHIN)
    }

    /// Waits until nothing may be in hand any more. Never where no heartbeat was ever answered: there nothing is.
    pub(super) async fn ended(&self) {
        let mut watch = self.standing.subscribe();
        loop {
            let standing = *watch.borrow_and_update();
            if standing.over {
                return;
            }
            let left = standing
                .beaten
                .map(|at| (at + ABORT_WITHIN).since(self.clock.now()));
            if left == Some(Duration::ZERO) {
                return;
            }
            let timer = async {
                match left {
                    Some(left) => sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender is here: it can't go.
                _ = watch.changed() => {}
                () = timer => {}
            }
        }
    }

    /// Wakes whoever waits when the machine was suspended.
    pub(super) async fn notice_suspensions(&self) -> Infallible {
        let mut before = self.clock.suspended();
        loop {
            sleep(LOOK_EVERY).await;
            let suspended = self.clock.suspended();
            // Less is how exactly the clocks can be read.
            if suspended > before + LOOK_EVERY {
                before = suspended;
                tracing::info!(
                    "the machine was suspended: what is in hand may be another's by now"
                );
                self.look_again();
            }
        }
    }
}

/// Hears of changes of a lease.
pub(super) struct Watch(watch::Receiver<Standing>);

impl Watch {
    /// Whatever changed until now is known.
    pub(super) fn seen(&mut self) {
        self.0.mark_unchanged();
    }

    pub(super) async fn changed(&mut self) {
        // Its sender lives as long as the consumer's handles do, one of which waits here.
        let _ = self.0.changed().await;
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("may_begin", &self.may_begin())
            .finish_non_exhaustive()
    }
}
