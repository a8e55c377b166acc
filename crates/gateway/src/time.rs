//! Points in time as HL7 writes them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, printed as an HL7 time stamp in UTC: `20260131235959.123+0000`.
///
/// It is handed in wherever a time is written, so that what is built is a function of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hl7Time(i64);

impl Hl7Time {
    /// From milliseconds since 1970-01-01 UTC.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms)
    }

    /// The wall clock. For people and time stamps only: nothing is decided by it.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The same point `seconds` later.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000)))
    }
}

impl fmt::Display for Hl7Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A time beyond what the calendar holds prints as its epoch rather than panic: it is a label.
        let time = chrono::DateTime::from_timestamp_millis(self.0).unwrap_or_default();
        write!(f, "{}", time.format("%Y%m%d%H%M%S%.3f+0000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_hl7_time_stamps() {
        assert_eq!(
            Hl7Time::from_unix_ms(0).to_string(),
            "19700101000000.000+0000"
        );
        assert_eq!(
            Hl7Time::from_unix_ms(1_769_903_999_123).to_string(),
            "20260131235959.123+0000"
        );
        assert_eq!(
            Hl7Time::from_unix_ms(0).plus_seconds(86_400).to_string(),
            "19700102000000.000+0000"
        );
        assert!(!Hl7Time::from_unix_ms(i64::MAX).to_string().is_empty());
    }
}
