//! Pauses that grow while something stays away.

use std::time::Duration;

/// Doubles from `min` to `max`, until [`Backoff::reset`].
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// The pause after `failures` earlier ones.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        self.min.saturating_mul(1 << failures.min(31)).min(self.max)
    }

    /// It works again; whether it had failed.
    pub(crate) fn reset(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let pauses: Vec<u64> = (0..9).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(backoff.reset());
        assert!(!backoff.reset());
        assert_eq!(backoff.next(), Duration::from_secs(1));
        assert_eq!(backoff.after(u32::MAX), Duration::from_secs(60));
    }
}
