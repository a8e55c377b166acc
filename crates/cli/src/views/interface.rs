//! Interfaces.

use ordo_client::proto;
use serde::Serialize;

use super::{Message, bytes, span, time, unless_zero, uuid, word};
use crate::output::{Card, Row, table};

/// An interface: its configuration and where it stands.
#[derive(Debug, Serialize)]
pub struct Interface {
    name: String,
    interface_id: String,
    incarnation: u32,
    config_version: u64,
    paused: bool,
    quarantine: Option<Quarantine>,
    stages: Vec<Stage>,
    window: u32,
    backlog: u64,
    dedup_messages: u32,
    payload_bytes_max: u32,
    dead_letters_max: u32,
    dead_letter_bytes_max: u64,
    last_sequence: u64,
    watermark: u64,
    failed: u64,
    filtered: u64,
    dead_letters: u64,
    destinations: Vec<Destination>,
}

#[derive(Debug, Serialize)]
struct Quarantine {
    invariant: String,
    sentence: String,
    log_index: u64,
    at_ms: u64,
}

#[derive(Debug, Serialize)]
struct Stage {
    name: String,
    max_attempts: u32,
    max_losses: u32,
    lease_ms: u32,
    backoff_ms: u32,
    backoff_ms_max: u32,
    work_ms_max: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Destination {
    name: String,
    max_attempts: u32,
    max_in_flight: u32,
    checkpoint: u64,
    delivered: u64,
    skipped: u64,
    in_flight: u64,
    epoch: u64,
    holder: String,
    suspended_ms: u64,
    attempts: u32,
    repeats: u32,
    turn: u32,
    reason: String,
    tries: Vec<Try>,
}

/// What came of one try to deliver the head.
#[derive(Debug, Serialize)]
pub(super) struct Try {
    kind: String,
    at_ms: u64,
    reason: String,
}

impl From<proto::DeliveryTry> for Try {
    fn from(wire: proto::DeliveryTry) -> Self {
        Self {
            kind: word(wire.kind().as_str_name(), "DELIVERY_TRY_KIND_"),
            at_ms: wire.at_ms,
            reason: wire.reason,
        }
    }
}

impl Row for Try {
    const HEADINGS: &'static [&'static str] = &["tried", "what came back", "why"];

    fn cells(&self) -> Vec<String> {
        vec![time(self.at_ms), self.kind.clone(), self.reason.clone()]
    }
}

impl From<proto::DestinationState> for Destination {
    fn from(state: proto::DestinationState) -> Self {
        Self {
            max_attempts: 0,
            max_in_flight: 0,
            name: state.name,
            checkpoint: state.checkpoint,
            delivered: state.delivered,
            skipped: state.skipped,
            in_flight: state.in_flight,
            epoch: state.epoch,
            holder: state.holder,
            suspended_ms: state.suspended_ms,
            attempts: state.attempts,
            repeats: state.repeats,
            turn: state.turn,
            reason: state.reason,
            tries: state.tries.into_iter().map(Try::from).collect(),
        }
    }
}

impl From<proto::Interface> for Interface {
    fn from(wire: proto::Interface) -> Self {
        let config = wire.config.unwrap_or_default();
        let destinations = config.destinations;
        let with_config = |state: proto::DestinationState| {
            let config = destinations.iter().find(|config| config.name == state.name);
            Destination {
                max_attempts: config.map_or(0, |config| config.max_attempts),
                max_in_flight: config.map_or(0, |config| config.max_in_flight),
                ..Destination::from(state)
            }
        };
        Self {
            name: wire.name,
            interface_id: uuid(&wire.interface_id),
            incarnation: wire.incarnation,
            config_version: wire.config_version,
            paused: config.paused,
            quarantine: wire.quarantine.map(|wire| Quarantine {
                invariant: wire.invariant,
                sentence: wire.sentence,
                log_index: wire.log_index,
                at_ms: wire.at_ms,
            }),
            stages: config.stages.into_iter().map(Stage::from).collect(),
            window: config.window,
            backlog: config.backlog,
            dedup_messages: config.dedup_messages,
            payload_bytes_max: config.payload_bytes_max,
            dead_letters_max: config.dead_letters_max,
            dead_letter_bytes_max: config.dead_letter_bytes_max,
            last_sequence: wire.last_sequence,
            watermark: wire.watermark,
            failed: wire.failed,
            filtered: wire.filtered,
            dead_letters: wire.dead_letters,
            destinations: wire.destinations.into_iter().map(with_config).collect(),
        }
    }
}

impl From<proto::StageConfig> for Stage {
    fn from(wire: proto::StageConfig) -> Self {
        Self {
            name: wire.name,
            max_attempts: wire.max_attempts,
            max_losses: wire.max_losses,
            lease_ms: wire.lease_ms,
            backoff_ms: wire.backoff_ms,
            backoff_ms_max: wire.backoff_ms_max,
            work_ms_max: wire.work_ms_max,
        }
    }
}

impl Quarantine {
    fn since(&self) -> String {
        match self.log_index {
            0 => "found by one node, not in the log yet".to_owned(),
            index => format!("since {} (log entry {index})", time(self.at_ms)),
        }
    }

    fn sentence(&self) -> String {
        format!(
            "{}: {} does not hold ({})\n`ordo interface repair` may lift it; see docs/quarantine.md",
            self.since(),
            self.invariant,
            self.sentence
        )
    }
}

impl Stage {
    fn sentence(&self) -> String {
        let at_most = match self.work_ms_max {
            0 => String::new(),
            most => format!(", at most {} of work", span(most.into())),
        };
        format!(
            "{}: {} attempts (back-off {} to {}), {} losses, lease {}{at_most}",
            self.name,
            self.max_attempts,
            span(self.backoff_ms.into()),
            span(self.backoff_ms_max.into()),
            self.max_losses,
            span(self.lease_ms.into()),
        )
    }
}

impl Destination {
    fn sentence(&self) -> String {
        let holder = match self.holder.as_str() {
            "" => "no consumer".to_owned(),
            holder => format!("held by {holder} (epoch {})", self.epoch),
        };
        let mut text = format!(
            "{}: through {}, {} delivered, {} skipped, {} in flight, {holder}",
            self.name, self.checkpoint, self.delivered, self.skipped, self.in_flight
        );
        if self.suspended_ms > 0 {
            text.push_str(&format!(", suspended for {} more", span(self.suspended_ms)));
        }
        text.push_str(&self.failures());
        if !self.reason.is_empty() && (self.suspended_ms > 0 || self.attempts > 0) {
            text.push_str(&format!(": {}", self.reason));
        }
        text
    }

    /// How often its head was tried, as the end of a sentence.
    fn failures(&self) -> String {
        let mut text = match (self.attempts, self.max_attempts) {
            (0, _) => String::new(),
            (failed, 0) => format!(", {failed} attempts failed"),
            (failed, most) => format!(", {failed} of {most} attempts failed"),
        };
        if self.repeats > 0 {
            text.push_str(&format!(", sent again {} times", self.repeats));
        }
        text
    }

    /// What a person who looks at its head is told: the name, where it stands, and what was tried.
    pub(super) fn at_head(&self) -> String {
        let mut text = self.name.clone();
        if self.suspended_ms > 0 {
            text.push_str(&format!(", suspended for {} more", span(self.suspended_ms)));
        }
        text.push_str(&self.failures());
        text.push_str(&format!(" (turn {})", self.turn));
        text
    }

    /// The last answers to its head.
    pub(super) fn tries(&self) -> Option<String> {
        let title = format!("{} #{}", self.name, self.checkpoint + 1);
        (!self.tries.is_empty()).then(|| format!("{title}\n{}", table(&self.tries)))
    }
}

/// The tables of what was tried at the heads of destinations, below `text`.
pub(super) fn with_tries(text: Option<String>, destinations: &[Destination]) -> Option<String> {
    let tries = destinations.iter().filter_map(Destination::tries);
    let parts: Vec<String> = text.into_iter().chain(tries).collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

fn lines<T>(list: &[T], sentence: impl Fn(&T) -> String) -> String {
    list.iter().map(sentence).collect::<Vec<_>>().join("\n")
}

impl Card for Interface {
    fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("interface", self.name.clone()),
            (
                "id",
                format!("{} (incarnation {})", self.interface_id, self.incarnation),
            ),
            ("configuration", format!("version {}", self.config_version)),
            (
                "paused",
                if self.paused {
                    "yes: ingest is refused".to_owned()
                } else {
                    String::new()
                },
            ),
            (
                "quarantined",
                self.quarantine
                    .as_ref()
                    .map_or_else(String::new, Quarantine::sentence),
            ),
            (
                "stages",
                if self.stages.is_empty() {
                    "none".to_owned()
                } else {
                    lines(&self.stages, Stage::sentence)
                },
            ),
            ("sequences", self.sequences()),
            ("released", format!("through {}", self.watermark)),
            ("failed", unless_zero(self.failed)),
            ("filtered", unless_zero(self.filtered)),
            ("dead letters", unless_zero(self.dead_letters)),
            (
                "destinations",
                lines(&self.destinations, Destination::sentence),
            ),
            (
                "limits",
                format!(
                    "window {}, backlog {}, payload {}, dead letters {} in {}, {} finished ids known",
                    self.window,
                    self.backlog,
                    bytes(self.payload_bytes_max.into()),
                    self.dead_letters_max,
                    bytes(self.dead_letter_bytes_max),
                    self.dedup_messages
                ),
            ),
        ]
    }
}

/// An interface in a list. Programs get the whole.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct InterfaceRow(pub Interface);

impl Row for InterfaceRow {
    const HEADINGS: &'static [&'static str] = &[
        "interface",
        "stages",
        ">last",
        ">released",
        ">delivered through",
        ">dead letters",
        "state",
    ];

    fn cells(&self) -> Vec<String> {
        let interface = &self.0;
        let stages = interface
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect::<Vec<_>>();
        let slowest = interface
            .destinations
            .iter()
            .map(|destination| destination.checkpoint)
            .min();
        vec![
            interface.name.clone(),
            stages.join(" → "),
            interface.last_sequence.to_string(),
            interface.watermark.to_string(),
            slowest.unwrap_or(0).to_string(),
            interface.dead_letters.to_string(),
            interface.state(),
        ]
    }
}

impl Interface {
    fn sequences(&self) -> String {
        match self.last_sequence {
            0 => "none yet".to_owned(),
            last => format!("1 to {last}"),
        }
    }

    fn state(&self) -> String {
        let mut states = Vec::new();
        if self.quarantine.is_some() {
            states.push("quarantined".to_owned());
        }
        if self.paused {
            states.push("paused".to_owned());
        }
        for destination in &self.destinations {
            if destination.suspended_ms > 0 {
                states.push(format!("{} suspended", destination.name));
            } else if destination.holder.is_empty() {
                states.push(format!("{} has no consumer", destination.name));
            }
        }
        states.join(", ")
    }
}

/// What an interface's head waits for.
#[derive(Debug, Serialize)]
pub struct Explanation {
    interface: Interface,
    sentences: Vec<String>,
    head: Option<Message>,
    head_waiting_ms: u64,
    behind: u64,
    behind_ready: u64,
    workers: u32,
}

impl From<proto::ExplainInterfaceResponse> for Explanation {
    fn from(wire: proto::ExplainInterfaceResponse) -> Self {
        Self {
            interface: wire.interface.unwrap_or_default().into(),
            sentences: wire.sentences,
            head: wire.head.map(Message::from),
            head_waiting_ms: wire.head_waiting_ms,
            behind: wire.behind,
            behind_ready: wire.behind_ready,
            workers: wire.workers,
        }
    }
}

impl Card for Explanation {
    fn properties(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("interface", self.interface.name.clone()),
            ("sequences", self.interface.sequences()),
            ("released", format!("through {}", self.interface.watermark)),
        ];
        if let Some(head) = &self.head {
            properties.push(("head", head.standing()));
            properties.push(("waiting for", span(self.head_waiting_ms)));
            properties.push(("workers there", self.workers.to_string()));
            let behind = format!(
                "{}, of them {} through their stages",
                self.behind, self.behind_ready
            );
            properties.push(("behind it", behind));
        }
        properties.push((
            "destinations",
            lines(&self.interface.destinations, Destination::sentence),
        ));
        properties
    }

    fn below(&self) -> Option<String> {
        let sentences = (!self.sentences.is_empty()).then(|| self.sentences.join("\n"));
        with_tries(sentences, &self.interface.destinations)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn wire() -> proto::Interface {
        let stage = proto::StageConfig {
            name: "validate".into(),
            lease_ms: 30_000,
            ..Default::default()
        };
        let destination = proto::DestinationConfig {
            name: "default".into(),
            max_attempts: 3,
            max_in_flight: 1_000,
        };
        let state = proto::DestinationState {
            name: "default".into(),
            checkpoint: 7,
            suspended_ms: 2_500,
            reason: "no connection".into(),
            ..Default::default()
        };
        proto::Interface {
            name: "rad".into(),
            interface_id: vec![7; 16].into(),
            config_version: 2,
            config: Some(proto::InterfaceConfig {
                stages: vec![stage],
                destinations: vec![destination],
                ..Default::default()
            }),
            last_sequence: 9,
            watermark: 8,
            destinations: vec![state],
            ..Default::default()
        }
    }

    #[test]
    fn an_interface_has_the_fields_that_scripts_read() {
        let json = serde_json::to_value(Interface::from(wire())).unwrap();
        assert_eq!(json["name"], "rad");
        assert_eq!(json["interface_id"], "07070707-0707-0707-0707-070707070707");
        assert_eq!(json["config_version"], 2);
        assert_eq!(json["stages"][0]["name"], "validate");
        assert_eq!(json["stages"][0]["lease_ms"], 30_000);
        assert_eq!(
            (&json["last_sequence"], &json["watermark"]),
            (&9.into(), &8.into())
        );
        let destination = &json["destinations"][0];
        assert_eq!(
            (&destination["checkpoint"], &destination["max_in_flight"]),
            (&7.into(), &1_000.into())
        );
    }

    #[test]
    fn a_row_of_the_list_says_what_is_wrong() {
        let cells = InterfaceRow(wire().into()).cells();
        assert_eq!(
            cells,
            ["rad", "validate", "9", "8", "7", "0", "default suspended"]
        );
        assert_eq!(cells.len(), InterfaceRow::HEADINGS.len());
    }

    #[test]
    fn a_suspended_destination_says_for_how_long_and_why() {
        let interface = Interface::from(wire());
        let sentence = interface.destinations[0].sentence();
        assert!(
            sentence.ends_with("no consumer, suspended for 2.5 s more: no connection"),
            "{sentence}"
        );
    }

    #[test]
    fn an_explanation_without_a_head_says_so_to_programs() {
        let wire = proto::ExplainInterfaceResponse {
            interface: Some(wire()),
            sentences: vec!["everything is released".into()],
            ..Default::default()
        };
        let explanation = Explanation::from(wire);
        let json = serde_json::to_value(&explanation).unwrap();
        assert!(json["head"].is_null());
        assert_eq!(json["interface"]["name"], "rad");
        assert_eq!(explanation.below().unwrap(), "everything is released");
    }
}
