//! For how long a consumer may act on a grant: the times that node and client have to agree on, with the relations
//! between them, and the clock by which a lease is counted.
//!
//! A holder that falls silent is followed by another. For receivers that can't fence, nothing of the first may be at
//! work when the second begins: it begins nothing [`BEGIN_WITHIN`] after it sent the last heartbeat that was answered,
//! has let go of what is in hand by [`ABORT_WITHIN`], and the node that heard that heartbeat, later than it was sent,
//! ends the grant after [`SILENCE_MAX`].

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between a consumer's heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// A consumer starts no delivery later than this after it sent the last heartbeat that was answered.
pub const BEGIN_WITHIN: Duration = Duration::from_secs(3);
/// By then it has aborted what is in hand.
pub const ABORT_WITHIN: Duration = Duration::from_secs(5);
/// A grant ends after so long without a heartbeat.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);
/// What an abort may be late by: a timer, a busy processor, the reading of the clocks.
const ABORT_LATE_MAX: Duration = Duration::from_secs(1);

// One heartbeat may be lost without anybody noticing.
const _: () = assert!(2 * HEARTBEAT_EVERY.as_millis() <= BEGIN_WITHIN.as_millis());
const _: () = assert!(BEGIN_WITHIN.as_millis() < ABORT_WITHIN.as_millis());
const _: () =
    assert!(ABORT_WITHIN.as_millis() + ABORT_LATE_MAX.as_millis() <= SILENCE_MAX.as_millis());

/// For how long the machine has been suspended in all. A lease is counted by the time since the machine was started:
/// the clock of timers stands still while a machine is suspended, and the others' leases go on.
///
/// Only decisions are made by it. Timers run by their own clock, so whoever was woken by one looks here again.
#[derive(Clone)]
pub struct BootClock(Arc<dyn Fn() -> Duration + Send + Sync>);

/// A moment by a [`BootClock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Instant);

impl BootClock {
    /// A clock by which the machine has been suspended for as long as `suspended` says; it never says less than it did.
    pub fn new(suspended: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(suspended))
    }

    /// For how long the machine has been suspended.
    #[must_use]
    pub fn suspended(&self) -> Duration {
        (self.0)()
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> BootInstant {
        BootInstant(Instant::now() + self.suspended())
    }
}

/// The machine's.
impl Default for BootClock {
    fn default() -> Self {
        Self::new(suspended)
    }
}

impl fmt::Debug for BootClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BootClock").field(&self.suspended()).finish()
    }
}

impl BootInstant {
    /// The time since `earlier`; none where that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0 + after)
    }
}

/// How far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC. They can't be read at once: of a few tries the one that was
/// disturbed least counts.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    const TRIES: u32 = 8;
    const CERTAIN: Duration = Duration::from_micros(100);
    let read = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let (mut least, mut found) = (Duration::MAX, Duration::ZERO);
    for _ in 0..TRIES {
        let before = read(ClockId::Monotonic);
        let since_boot = read(ClockId::Boottime);
        let after = read(ClockId::Monotonic);
        let took = after.saturating_sub(before);
        if took < least {
            (least, found) = (took, since_boot.saturating_sub(after));
        }
        if took <= CERTAIN {
            break;
        }
    }
    found
}

/// Nothing here tells.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn suspended() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn the_time_that_a_machine_was_suspended_counts() {
        let seconds = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&seconds);
        let clock = BootClock::new(move || Duration::from_secs(told.load(Ordering::Relaxed)));
        let begin = clock.now();
        seconds.store(600, Ordering::Relaxed);
        assert!(clock.now().since(begin) >= Duration::from_secs(600));
        assert!(clock.now() > begin + ABORT_WITHIN);
        assert_eq!(begin.since(clock.now()), Duration::ZERO);
    }

    #[test]
    fn the_machines_clocks_are_read_to_a_fraction_of_what_an_abort_may_be_late_by() {
        let clock = BootClock::default();
        let first = clock.suspended();
        for _ in 0..1_000 {
            assert!(clock.suspended().abs_diff(first) < ABORT_LATE_MAX / 10);
        }
    }
}
