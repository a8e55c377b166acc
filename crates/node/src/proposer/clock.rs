//! Cluster time, as the leader counts it.

use ordo_core::ClusterTime;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How much of the time between two looks at the clock counts at most: a process that was stopped for an hour, or a
/// clock that jumped, must not end every period at once.
const STEP_MAX: Duration = Duration::from_secs(1);

/// The value of the term's first entry as applied, plus this leader's monotonic time since. Stands still while this
/// node does not lead, or can't be sure that it does.
#[derive(Debug, Default)]
pub struct ClusterClock(Mutex<Reading>);

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    time: ClusterTime,
    /// When `time` was right; `None` while it stands still.
    at: Option<Instant>,
}

impl ClusterClock {
    /// Forgets the time: what this node counted in an earlier term, and never wrote into the log, is nobody's.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading::default();
    }

    /// Lets it run from `base`.
    pub fn start(&self, base: ClusterTime) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.time = base;
        reading.at = Some(Instant::now());
    }

    /// Lets it run on from where it was stopped.
    pub(super) fn resume(&self) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.at.get_or_insert_with(Instant::now);
    }

    /// Stops it.
    pub fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).at = None;
    }

    /// The time. The leader looks several times a second, so that hardly anything is cut off.
    #[must_use]
    pub fn now(&self) -> ClusterTime {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = reading.at {
            let now = Instant::now();
            let passed = now.saturating_duration_since(at);
            let counted = passed.min(STEP_MAX);
            let whole =
                Duration::from_millis(u64::try_from(counted.as_millis()).unwrap_or(u64::MAX));
            reading.time = reading
                .time
                .after_ms(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
            // What is left of a millisecond stays for the next look, unless time was cut off.
            reading.at = Some(if passed > STEP_MAX { now } else { at + whole });
        }
        reading.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_counts_as_one_second_at_most() {
        let clock = ClusterClock::default();
        clock.start(ClusterTime(500));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(clock.now(), ClusterTime(800));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now(), ClusterTime(1_800));
    }

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_while_stopped_and_a_term_starts_at_its_base() {
        let clock = ClusterClock::default();
        clock.start(ClusterTime(1_000));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), ClusterTime(1_250));
        clock.stop();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), ClusterTime(1_250));
        clock.resume();
        tokio::time::advance(Duration::from_millis(250)).await;
        clock.resume();
        assert_eq!(clock.now(), ClusterTime(1_500));
        clock.start(ClusterTime(900));
        assert_eq!(clock.now(), ClusterTime(900));
    }

    #[tokio::test(start_paused = true)]
    async fn many_looks_lose_no_part_of_a_millisecond() {
        let clock = ClusterClock::default();
        clock.start(ClusterTime(0));
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_micros(100)).await;
            let _ = clock.now();
        }
        assert!((999..=1_000).contains(&clock.now().0), "{:?}", clock.now());
    }
}
