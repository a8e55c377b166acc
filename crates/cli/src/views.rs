//! What programs and people see of the cluster's answers. The names of the fields are an interface: scripts read them.

mod cluster;
mod dead_letter;
mod interface;
mod message;
mod refusal;

pub use cluster::{Answers, Status};
pub use dead_letter::{DeadLetter, DeadLetterRow, Payload};
pub use interface::{Explanation, Interface, InterfaceRow};
pub use message::{Event, Message};
pub use refusal::RefusalRow;

use chrono::DateTime;
use ordo_client::{CallError, ConsumeError, Refusal, SendError, WorkError, proto};
use serde::Serialize;
use std::collections::BTreeMap;

/// A UUID as it is written; empty where there is none.
pub fn uuid(bytes: &[u8]) -> String {
    ordo_client::Uuid::from_slice(bytes)
        .map(|id| id.to_string())
        .unwrap_or_default()
}

/// The word for an enumerated value: `MESSAGE_STATUS_READY` with the prefix `MESSAGE_STATUS_` is `ready`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Milliseconds since 1970 as a person reads them; empty for 0.
pub fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .filter(|ms| *ms > 0)
        .and_then(DateTime::from_timestamp_millis);
    time.map(|time| time.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string())
        .unwrap_or_default()
}

/// A time span as a person reads it: `350 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn span(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// Bytes as a person reads them.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// Headers by name.
pub fn headers(headers: &[proto::Header]) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect()
}

/// A number; empty for 0.
pub fn unless_zero(number: u64) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

#[derive(Serialize)]
struct ErrorView {
    error: String,
    exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<String, String>,
}

/// An error as programs read it, on one line.
pub fn error(error: &anyhow::Error, exit: u8) -> String {
    let refusal = error.chain().find_map(refusal_of);
    let view = ErrorView {
        error: format!("{error:#}"),
        exit,
        reason: refusal.map(|refusal| refusal.reason.as_str_name()),
        leader: refusal.and_then(|refusal| refusal.leader.clone()),
        retry_after_ms: refusal
            .and_then(|refusal| refusal.retry_after)
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        fields: refusal
            .map(|refusal| {
                refusal
                    .fields
                    .iter()
                    .map(|wrong| (wrong.field.clone(), wrong.text.clone()))
                    .collect()
            })
            .unwrap_or_default(),
    };
    serde_json::to_string(&view).expect("texts and numbers serialize")
}

/// What a node said, where the cause of an error is that.
pub fn refusal_of<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
    if let Some(error) = cause.downcast_ref::<CallError>() {
        return Some(error.refusal());
    }
    if let Some(
        SendError::Refused(refusal)
        | SendError::Unsent(refusal)
        | SendError::OutcomeUnknown(refusal),
    ) = cause.downcast_ref::<SendError>()
    {
        return Some(refusal);
    }
    if let Some(WorkError::Refused(refusal)) = cause.downcast_ref::<WorkError>() {
        return Some(refusal);
    }
    match cause.downcast_ref::<ConsumeError>()? {
        ConsumeError::Ended(refusal) => Some(refusal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_readable() {
        let spans = [0, 999, 4_210, 200_000, 7_500_000, 273_600_000].map(span);
        assert_eq!(
            spans,
            [
                "0 ms",
                "999 ms",
                "4.2 s",
                "3 min 20 s",
                "2 h 5 min",
                "3 d 4 h"
            ]
        );
        assert_eq!(
            [12, 2_048, 3 << 20].map(bytes),
            ["12 B", "2.0 KiB", "3.0 MiB"]
        );
    }

    #[test]
    fn times_are_utc_and_unknown_ones_are_empty() {
        assert_eq!(time(1_767_600_000_123), "2026-01-05 08:00:00.123 UTC");
        assert_eq!(time(0), "");
    }

    #[test]
    fn enumerated_values_become_words() {
        let status = proto::MessageStatus::Ready;
        assert_eq!(word(status.as_str_name(), "MESSAGE_STATUS_"), "ready");
    }

    #[test]
    fn an_error_without_a_refusal_has_its_text_and_status() {
        let text = error(&anyhow::anyhow!("x").context("y"), 1);
        assert_eq!(text, r#"{"error":"y: x","exit":1}"#);
    }
}
