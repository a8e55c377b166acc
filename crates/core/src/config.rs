//! An interface's configuration and its checks.

use crate::limits::{
    ATTEMPTS_DEFAULT, ATTEMPTS_MAX, BACKLOG_DEFAULT, BACKOFF_MS_DEFAULT, BACKOFF_MS_MAX,
    BACKOFF_MS_MAX_DEFAULT, DEAD_LETTER_BYTES_DEFAULT, DEAD_LETTERS_DEFAULT,
    DEDUP_MESSAGES_DEFAULT, DEDUP_MESSAGES_MAX, DESTINATIONS_MAX, IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX,
    INTERFACE_NAME_BYTES_MAX, LEASE_MS_DEFAULT, LEASE_MS_MAX, LEASE_MS_MIN, LOSSES_DEFAULT,
    LOSSES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_DEFAULT, PAYLOAD_BYTES_MAX, STAGES_MAX,
    WINDOW_DEFAULT, WINDOW_MAX, WORK_MS_MAX,
};
use serde::{Deserialize, Serialize};

/// How an interface treats its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceConfig {
    /// In order; none: a message is READY on ingest.
    pub stages: Vec<StageConfig>,
    /// At least one.
    pub destinations: Vec<DestinationConfig>,
    /// Unreleased sequences at most.
    pub window: u32,
    /// Released messages that the slowest destination has not acknowledged, at most.
    pub backlog: u64,
    /// How many finished messages are known for deduplication.
    pub dedup_messages: u32,
    /// Ingest is refused and nothing is assigned; what is released still goes out.
    pub paused: bool,
    /// Bytes of one payload at most.
    pub payload_bytes_max: u32,
    /// Dead letters at most.
    pub dead_letters_max: u32,
    /// Bytes of dead letters' payloads at most.
    pub dead_letter_bytes_max: u64,
}

/// One processing step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageConfig {
    /// Cluster-wide: workers subscribe to it across interfaces.
    pub name: String,
    /// Failed tries at which a message is FAILED.
    pub max_attempts: u32,
    /// Lost workers at which a message is FAILED.
    pub max_losses: u32,
    /// How long a worker has to report, in milliseconds.
    pub lease_ms: u32,
    /// The first back-off, doubled with each attempt, in milliseconds.
    pub backoff_ms: u32,
    /// The longest back-off, in milliseconds.
    pub backoff_ms_max: u32,
    /// How long one worker may have a message, however often it extends its lease, in milliseconds; 0: for ever.
    /// Rows that were written before it have none, so that it is stored behind the configuration's other fields.
    #[serde(skip)]
    pub work_ms_max: u32,
}

/// One named receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationConfig {
    /// Unique within the interface.
    pub name: String,
    /// Answers `retry` at which a message is rejected.
    pub max_attempts: u32,
    /// Deliveries unacknowledged at once.
    pub max_in_flight: u32,
}

impl Default for InterfaceConfig {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            destinations: vec![DestinationConfig::named("default")],
            window: WINDOW_DEFAULT,
            backlog: BACKLOG_DEFAULT,
            dedup_messages: DEDUP_MESSAGES_DEFAULT,
            paused: false,
            payload_bytes_max: PAYLOAD_BYTES_DEFAULT,
            dead_letters_max: DEAD_LETTERS_DEFAULT,
            dead_letter_bytes_max: DEAD_LETTER_BYTES_DEFAULT,
        }
    }
}

impl StageConfig {
    /// A stage with the defaults.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            max_attempts: ATTEMPTS_DEFAULT,
            max_losses: LOSSES_DEFAULT,
            lease_ms: LEASE_MS_DEFAULT,
            backoff_ms: BACKOFF_MS_DEFAULT,
            backoff_ms_max: BACKOFF_MS_MAX_DEFAULT,
            work_ms_max: 0,
        }
    }
}

impl DestinationConfig {
    /// A destination with the defaults.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            max_attempts: ATTEMPTS_DEFAULT,
            max_in_flight: IN_FLIGHT_DEFAULT,
        }
    }
}

/// A configuration value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; allowed: {allowed}")]
pub struct ConfigError {
    /// The field, as the protocol names it.
    pub field: String,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl ConfigError {
    fn new(field: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// Checks an interface's name: 1 to 255 bytes of `[A-Za-z0-9._/-]`.
///
/// # Errors
/// Names the value and what is allowed.
pub fn validate_interface_name(name: &str) -> Result<(), ConfigError> {
    validate_name("name", name, INTERFACE_NAME_BYTES_MAX)
}

fn validate_name(field: &str, name: &str, bytes_max: usize) -> Result<(), ConfigError> {
    let allowed = || format!("1 to {bytes_max} bytes of [A-Za-z0-9._/-]");
    if name.is_empty() || name.len() > bytes_max {
        return Err(ConfigError::new(
            field,
            format!("{} bytes long", name.len()),
            allowed(),
        ));
    }
    match name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
    {
        true => Ok(()),
        false => Err(ConfigError::new(field, format!("{name:?}"), allowed())),
    }
}

fn within<T: PartialOrd + ToString>(
    field: String,
    value: T,
    min: T,
    max: T,
) -> Result<(), ConfigError> {
    match value >= min && value <= max {
        true => Ok(()),
        false => Err(ConfigError::new(
            field,
            value,
            format!("{} to {}", min.to_string(), max.to_string()),
        )),
    }
}

fn distinct<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ConfigError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ConfigError::new(
                field,
                format!("{name:?} twice"),
                "distinct names",
            ));
        }
    }
    Ok(())
}

impl InterfaceConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first field that is wrong, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.stages.len() > STAGES_MAX {
            return Err(ConfigError::new(
                "stages",
                format!("{} stages", self.stages.len()),
                format!("0 to {STAGES_MAX}"),
            ));
        }
        if self.destinations.is_empty() || self.destinations.len() > DESTINATIONS_MAX {
            let value = format!("{} destinations", self.destinations.len());
            return Err(ConfigError::new(
                "destinations",
                value,
                format!("1 to {DESTINATIONS_MAX}"),
            ));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            stage.validate(i)?;
        }
        for (i, destination) in self.destinations.iter().enumerate() {
            validate_name(
                &format!("destinations[{i}].name"),
                &destination.name,
                NAME_BYTES_MAX,
            )?;
            within(
                format!("destinations[{i}].max_attempts"),
                destination.max_attempts,
                1,
                ATTEMPTS_MAX,
            )?;
            within(
                format!("destinations[{i}].max_in_flight"),
                destination.max_in_flight,
                1,
                IN_FLIGHT_MAX,
            )?;
        }
        // After the names themselves: what it quotes is short.
        distinct(
            "stages.name",
            self.stages.iter().map(|stage| stage.name.as_str()),
        )?;
        distinct(
            "destinations.name",
            self.destinations
                .iter()
                .map(|destination| destination.name.as_str()),
        )?;
        within("window".into(), self.window, 1, WINDOW_MAX)?;
        within("backlog".into(), self.backlog, 1, u64::MAX)?;
        within(
            "dedup_messages".into(),
            self.dedup_messages,
            2,
            DEDUP_MESSAGES_MAX,
        )?;
        within(
            "payload_bytes_max".into(),
            self.payload_bytes_max,
            1,
            PAYLOAD_BYTES_MAX,
        )?;
        within(
            "dead_letters_max".into(),
            self.dead_letters_max,
            1,
            u32::MAX,
        )?;
        within(
            "dead_letter_bytes_max".into(),
            self.dead_letter_bytes_max,
            1,
            u64::MAX,
        )
    }

    /// The number of the destination called `name`.
    #[must_use]
    pub fn destination_number(&self, name: &str) -> Option<crate::DestinationNumber> {
        let at = self
            .destinations
            .iter()
            .position(|destination| destination.name == name)?;
        u8::try_from(at).ok().map(crate::DestinationNumber)
    }

    /// The number of the stage called `name`.
    #[must_use]
    pub fn stage_number(&self, name: &str) -> Option<crate::StageNumber> {
        let at = self.stages.iter().position(|stage| stage.name == name)?;
        u8::try_from(at).ok().map(crate::StageNumber)
    }
}

impl StageConfig {
    fn validate(&self, i: usize) -> Result<(), ConfigError> {
        validate_name(&format!("stages[{i}].name"), &self.name, NAME_BYTES_MAX)?;
        within(
            format!("stages[{i}].max_attempts"),
            self.max_attempts,
            1,
            ATTEMPTS_MAX,
        )?;
        within(
            format!("stages[{i}].max_losses"),
            self.max_losses,
            1,
            LOSSES_MAX,
        )?;
        within(
            format!("stages[{i}].lease_ms"),
            self.lease_ms,
            LEASE_MS_MIN,
            LEASE_MS_MAX,
        )?;
        within(
            format!("stages[{i}].backoff_ms"),
            self.backoff_ms,
            0,
            BACKOFF_MS_MAX,
        )?;
        within(
            format!("stages[{i}].backoff_ms_max"),
            self.backoff_ms_max,
            self.backoff_ms,
            BACKOFF_MS_MAX,
        )?;
        within(
            format!("stages[{i}].work_ms_max"),
            self.work_ms_max,
            0,
            WORK_MS_MAX,
        )
    }

    /// The pause before the try after `attempts` failed ones, in milliseconds: exponential, with the jitter given
    /// taking off up to half.
    #[must_use]
    pub fn backoff_after(&self, attempts: u32, jitter: u16) -> u64 {
        let doublings = attempts.saturating_sub(1).min(31);
        let full = (u64::from(self.backoff_ms) << doublings).min(u64::from(self.backoff_ms_max));
        full - full / 2 * u64::from(jitter) / u64::from(u16::MAX)
    }
}
