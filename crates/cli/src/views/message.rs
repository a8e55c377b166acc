//! Messages and what happened to them.

use std::collections::BTreeMap;

use ordo_client::proto;
use serde::Serialize;

use super::interface::{Destination, with_tries};
use super::{bytes, headers, span, time, unless_zero, uuid, word};
use crate::output::{Card, Row, table};

/// A message's whole history.
#[derive(Debug, Serialize)]
pub struct Message {
    interface: String,
    sequence: u64,
    message_id: String,
    status: String,
    stage: String,
    turn: u32,
    attempts: u32,
    losses: u32,
    released: bool,
    payload_bytes: u64,
    redrive_of: u64,
    retry_in_ms: u64,
    worker: String,
    worked_on_ms: u64,
    lease_extensions: u32,
    waiting: Vec<Destination>,
    headers: BTreeMap<String, String>,
    events: Vec<Event>,
}

/// Something that happened to a message.
#[derive(Debug, Serialize)]
pub struct Event {
    kind: String,
    at_ms: u64,
    place: String,
    reason: String,
}

impl From<proto::MessageEvent> for Event {
    fn from(wire: proto::MessageEvent) -> Self {
        Self {
            kind: word(wire.kind().as_str_name(), "MESSAGE_EVENT_KIND_"),
            at_ms: wire.at_ms,
            place: wire.place,
            reason: wire.reason,
        }
    }
}

impl From<proto::Message> for Message {
    fn from(wire: proto::Message) -> Self {
        Self {
            status: word(wire.status().as_str_name(), "MESSAGE_STATUS_"),
            message_id: uuid(&wire.message_id),
            headers: headers(&wire.headers),
            interface: wire.interface,
            sequence: wire.sequence,
            stage: wire.stage,
            turn: wire.turn,
            attempts: wire.attempts,
            losses: wire.losses,
            released: wire.released,
            payload_bytes: wire.payload_bytes,
            redrive_of: wire.redrive_of,
            retry_in_ms: wire.retry_in_ms,
            worker: wire.worker,
            worked_on_ms: wire.worked_on_ms,
            lease_extensions: wire.lease_extensions,
            waiting: wire.waiting.into_iter().map(Destination::from).collect(),
            events: wire.events.into_iter().map(Event::from).collect(),
        }
    }
}

impl Message {
    /// Where it stands, in a few words.
    pub fn standing(&self) -> String {
        let mut text = format!("#{} {}", self.sequence, self.status);
        if !self.stage.is_empty() {
            text.push_str(&format!(" in {}", self.stage));
        }
        if !self.worker.is_empty() {
            text.push_str(&format!(
                ", at worker {} for {}",
                self.worker,
                span(self.worked_on_ms)
            ));
            if self.lease_extensions > 0 {
                text.push_str(&format!(
                    " (lease extended {})",
                    counted(self.lease_extensions, "time")
                ));
            }
        }
        if self.retry_in_ms > 0 {
            text.push_str(&format!(", again in {}", span(self.retry_in_ms)));
        }
        if self.attempts > 0 {
            text.push_str(&format!(", {}", counted(self.attempts, "failed attempt")));
        }
        if self.losses > 0 {
            text.push_str(&format!(", {} lost", counted(self.losses, "worker")));
        }
        text
    }
}

impl Message {
    /// The destinations whose next one it is.
    fn waiting_at(&self) -> String {
        let waiting = self.waiting.iter().map(Destination::at_head);
        waiting.collect::<Vec<_>>().join("\n")
    }
}

impl Row for Event {
    const HEADINGS: &'static [&'static str] = &["when", "what", "where", "why"];

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ms),
            self.kind.replace('_', " "),
            self.place.clone(),
            self.reason.clone(),
        ]
    }
}

/// "1 worker", "2 workers".
fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Headers as lines for a person.
pub(super) fn header_lines(headers: &BTreeMap<String, String>) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The history below a card.
pub(super) fn history(events: &[Event]) -> Option<String> {
    (!events.is_empty()).then(|| table(events))
}

impl Card for Message {
    fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("interface", self.interface.clone()),
            ("sequence", self.sequence.to_string()),
            ("message id", self.message_id.clone()),
            ("standing", self.standing()),
            (
                "released",
                if self.released {
                    "yes".to_owned()
                } else {
                    "no".to_owned()
                },
            ),
            ("payload", bytes(self.payload_bytes)),
            ("redrive of", unless_zero(self.redrive_of)),
            ("waits at", self.waiting_at()),
            ("headers", header_lines(&self.headers)),
        ]
    }

    fn below(&self) -> Option<String> {
        with_tries(history(&self.events), &self.waiting)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_message_has_the_fields_that_scripts_read() {
        let event = proto::MessageEvent {
            kind: proto::MessageEventKind::Retried.into(),
            at_ms: 1_767_600_000_000,
            place: "enrich".into(),
            reason: "no answer".into(),
        };
        let message = Message::from(proto::Message {
            interface: "rad".into(),
            sequence: 17,
            status: proto::MessageStatus::Pending.into(),
            stage: "enrich".into(),
            attempts: 1,
            retry_in_ms: 1_500,
            headers: vec![proto::Header {
                name: "lab".into(),
                value: "radiology".into(),
            }],
            events: vec![event],
            ..Default::default()
        });
        let json = serde_json::to_value(&message).unwrap();
        assert_eq!(
            (&json["status"], &json["sequence"]),
            (&"pending".into(), &17.into())
        );
        assert_eq!(json["headers"]["lab"], "radiology");
        assert_eq!(json["events"][0]["kind"], "retried");
        assert_eq!(json["events"][0]["at_ms"], 1_767_600_000_000_u64);
        assert_eq!(
            message.standing(),
            "#17 pending in enrich, again in 1.5 s, 1 failed attempt"
        );
        let history = message.below().unwrap();
        assert!(
            history.contains("retried") && history.contains("no answer"),
            "{history}"
        );
    }
}
