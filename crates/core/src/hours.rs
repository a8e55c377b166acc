//! When an interface's messages finished, by the hour: enough to know what may be forgotten without reading a record.

use crate::ids::{ClusterTime, Sequence};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// An hour of cluster time in which messages finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedHour {
    /// Hours since cluster time began.
    pub hour: u32,
    /// The first message that finished in it.
    pub from: Sequence,
}

/// The hours of the messages that have a record, oldest first: one for each in which any finished.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hours(VecDeque<FinishedHour>);

/// The hour that a time falls into.
pub(crate) fn hour_of(at: ClusterTime) -> u32 {
    u32::try_from(at.0 / HOUR_MS).unwrap_or(u32::MAX)
}

/// Whether something of an hour, kept for so many hours, may go: the hour's end is as long ago.
pub(crate) fn is_over(hour: u32, kept_hours: u64, now: ClusterTime) -> bool {
    u64::from(hour) + kept_hours < now.0 / HOUR_MS
}

impl Hours {
    pub(crate) fn new(hours: Vec<FinishedHour>) -> Self {
        Self(hours.into())
    }

    pub(crate) fn to_vec(&self) -> Vec<FinishedHour> {
        self.0.iter().copied().collect()
    }

    /// The first message of all of them.
    #[must_use]
    pub(crate) fn from(&self) -> Option<Sequence> {
        self.0.front().map(|hour| hour.from)
    }

    /// A message finished, after all others. Returns whether that began an hour.
    pub(crate) fn finished(&mut self, sequence: Sequence, now: ClusterTime) -> bool {
        let hour = hour_of(now);
        let begins = self.0.back().is_none_or(|last| last.hour != hour);
        if begins {
            self.0.push_back(FinishedHour {
                hour,
                from: sequence,
            });
        }
        begins
    }

    /// The hour in which a message finished.
    pub(crate) fn of(&self, sequence: Sequence) -> Option<u32> {
        let after = self.0.partition_point(|hour| hour.from <= sequence);
        Some(self.0.get(after.checked_sub(1)?)?.hour)
    }

    /// The last message of the hours that are over, kept for so many; `last` is the last one that finished.
    pub(crate) fn over_through(
        &self,
        kept_hours: u64,
        now: ClusterTime,
        last: Sequence,
    ) -> Sequence {
        let young = |hour: &&FinishedHour| !is_over(hour.hour, kept_hours, now);
        let first = self.0.iter().find(young).map(|hour| hour.from);
        first.map_or(last, |first| Sequence(first.0 - 1))
    }

    /// Those through `through` are forgotten; `last` is the last one that finished. Returns whether that ended an hour.
    pub(crate) fn forget(&mut self, through: Sequence, last: Sequence) -> bool {
        if through >= last {
            let there = !self.0.is_empty();
            self.0 = VecDeque::new();
            return there;
        }
        let after = self.0.partition_point(|hour| hour.from <= through);
        let Some(began) = after.checked_sub(1) else {
            return false;
        };
        self.0.drain(..began);
        self.0[0].from = through.next();
        // The next message that began an hour may be the one after.
        if self
            .0
            .get(1)
            .is_some_and(|next| next.from == through.next())
        {
            self.0.pop_front();
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(hour: u64) -> ClusterTime {
        ClusterTime(hour * HOUR_MS + 5)
    }

    #[test]
    fn an_hour_is_over_when_its_last_message_is_old_enough() {
        assert!(!is_over(3, 24, ClusterTime(28 * HOUR_MS - 1)));
        assert!(is_over(3, 24, ClusterTime(28 * HOUR_MS)));
    }

    #[test]
    fn hours_are_found_by_sequence_and_go_with_what_is_forgotten() {
        let mut hours = Hours::default();
        let begins =
            |hours: &mut Hours, sequence, hour| hours.finished(Sequence(sequence), at(hour));
        assert!(begins(&mut hours, 11, 2));
        assert!(!begins(&mut hours, 12, 2));
        assert!(begins(&mut hours, 13, 5));
        assert!(begins(&mut hours, 14, 9));
        let of = |hours: &Hours, sequence| hours.of(Sequence(sequence));
        assert_eq!(of(&hours, 10), None);
        assert_eq!(
            (of(&hours, 11), of(&hours, 12), of(&hours, 13)),
            (Some(2), Some(2), Some(5))
        );
        let over = |hours: &Hours, now| hours.over_through(24, at(now), Sequence(14)).0;
        assert_eq!(
            (
                over(&hours, 26),
                over(&hours, 27),
                over(&hours, 30),
                over(&hours, 99)
            ),
            (10, 12, 13, 14)
        );
        hours.forget(Sequence(11), Sequence(14));
        assert_eq!(
            hours.to_vec()[0],
            FinishedHour {
                hour: 2,
                from: Sequence(12)
            }
        );
        hours.forget(Sequence(12), Sequence(14));
        assert_eq!(
            hours.to_vec()[0],
            FinishedHour {
                hour: 5,
                from: Sequence(13)
            }
        );
        hours.forget(Sequence(14), Sequence(14));
        assert_eq!(hours.to_vec(), []);
        assert!(!hours.forget(Sequence(14), Sequence(14)));
    }
}
