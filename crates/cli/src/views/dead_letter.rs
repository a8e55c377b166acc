//! Dead letters.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ordo_client::proto;
use serde::Serialize;

use super::message::{header_lines, history};
use super::{Event, bytes, headers, time, unless_zero, uuid, word};
use crate::output::{Card, Row};

/// A dead letter in a list.
#[derive(Debug, Serialize)]
pub struct DeadLetterRow {
    interface: String,
    sequence: u64,
    destination: String,
    message_id: String,
    stage: String,
    cause: String,
    attempts: u32,
    losses: u32,
    reason: String,
    failed_at_ms: u64,
    payload_bytes: u64,
    redriven_as: u64,
    redrive_of: u64,
}

impl From<proto::DeadLetter> for DeadLetterRow {
    fn from(wire: proto::DeadLetter) -> Self {
        Self {
            cause: word(wire.cause().as_str_name(), "DEAD_LETTER_CAUSE_"),
            message_id: uuid(&wire.message_id),
            interface: wire.interface,
            sequence: wire.sequence,
            destination: wire.destination,
            stage: wire.stage,
            attempts: wire.attempts,
            losses: wire.losses,
            reason: wire.reason,
            failed_at_ms: wire.failed_at_ms,
            payload_bytes: wire.payload_bytes,
            redriven_as: wire.redriven_as,
            redrive_of: wire.redrive_of,
        }
    }
}

impl DeadLetterRow {
    fn place(&self) -> String {
        if self.destination.is_empty() {
            self.stage.clone()
        } else {
            format!("→ {}", self.destination)
        }
    }

    /// "attempts in enrich", "delivery rejected at lab"
    fn failed(&self) -> String {
        let cause = self.cause.replace('_', " ");
        match self.destination.as_str() {
            "" => format!("{cause} in {}", self.stage),
            destination => format!("{cause} at {destination}"),
        }
    }
}

impl Row for DeadLetterRow {
    const HEADINGS: &'static [&'static str] = &[
        ">sequence",
        "where",
        "cause",
        ">attempts",
        ">losses",
        "failed at",
        "redriven as",
        "reason",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.sequence.to_string(),
            self.place(),
            self.cause.replace('_', " "),
            self.attempts.to_string(),
            self.losses.to_string(),
            time(self.failed_at_ms),
            unless_zero(self.redriven_as),
            self.reason.clone(),
        ]
    }
}

/// A dead letter with its history, and its payload where it was asked for.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    #[serde(flatten)]
    row: DeadLetterRow,
    headers: BTreeMap<String, String>,
    events: Vec<Event>,
    #[serde(flatten)]
    payload: Option<Payload>,
}

/// A payload as programs read it: as text where it is UTF-8, else in base64.
#[derive(Serialize)]
pub enum Payload {
    /// UTF-8.
    #[serde(rename = "payload")]
    Text(String),
    /// Anything else.
    #[serde(rename = "payload_base64")]
    Base64(String),
}

impl Payload {
    /// Of these bytes.
    pub fn of(payload: &[u8]) -> Self {
        match std::str::from_utf8(payload) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(payload)),
        }
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// Of a node's answer.
    pub fn new(wire: proto::GetDeadLetterResponse, with_payload: bool) -> Self {
        Self {
            row: wire.dead_letter.unwrap_or_default().into(),
            headers: headers(&wire.headers),
            events: wire.events.into_iter().map(Event::from).collect(),
            payload: with_payload.then(|| Payload::of(&wire.payload)),
        }
    }
}

impl Card for DeadLetter {
    fn properties(&self) -> Vec<(&'static str, String)> {
        let row = &self.row;
        vec![
            ("interface", row.interface.clone()),
            ("sequence", row.sequence.to_string()),
            ("message id", row.message_id.clone()),
            ("failed", row.failed()),
            ("reason", row.reason.clone()),
            ("failed at", time(row.failed_at_ms)),
            ("attempts", unless_zero(row.attempts.into())),
            ("losses", unless_zero(row.losses.into())),
            ("payload", bytes(row.payload_bytes)),
            ("redriven as", unless_zero(row.redriven_as)),
            ("redrive of", unless_zero(row.redrive_of)),
            ("headers", header_lines(&self.headers)),
        ]
    }

    fn below(&self) -> Option<String> {
        history(&self.events)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn wire(payload: &'static [u8]) -> proto::GetDeadLetterResponse {
        let dead_letter = proto::DeadLetter {
            interface: "rad".into(),
            sequence: 3,
            stage: "validate".into(),
            cause: proto::DeadLetterCause::Rejected.into(),
            reason: "PID-3 patient identifier is missing".into(),
            ..Default::default()
        };
        proto::GetDeadLetterResponse {
            dead_letter: Some(dead_letter),
            payload: payload.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_dead_letter_has_the_fields_that_scripts_read() {
        let json = serde_json::to_value(DeadLetter::new(wire(b"MSH|"), true)).unwrap();
        assert_eq!(
            (&json["sequence"], &json["cause"]),
            (&3.into(), &"rejected".into())
        );
        assert_eq!(json["payload"], "MSH|");
        let json = serde_json::to_value(DeadLetter::new(wire(b"\xff"), true)).unwrap();
        assert_eq!(json["payload_base64"], "/w==");
        assert!(json.get("payload").is_none());
    }

    #[test]
    fn the_payload_is_shown_only_where_it_was_asked_for() {
        let letter = DeadLetter::new(wire(b"SECRET"), false);
        assert!(!serde_json::to_string(&letter).unwrap().contains("SECRET"));
        let letter = DeadLetter::new(wire(b"SECRET"), true);
        assert!(!format!("{letter:?} {:?}", letter.properties()).contains("SECRET"));
    }

    #[test]
    fn a_row_has_a_cell_per_heading() {
        let row = DeadLetterRow::from(wire(b"").dead_letter.unwrap());
        assert_eq!(row.cells().len(), DeadLetterRow::HEADINGS.len());
    }
}
