//! Conversions between the public protocol and the state machine's types.

use crate::entry::DecodeError;
use crate::v1;
use ordo_core::{
    ConfigError, DestinationConfig, Digest, Header, InterfaceConfig, StageConfig, limits,
};
use xxhash_rust::xxh3::Xxh3;

/// A header as the state machine has it.
#[must_use]
pub fn header_from_proto(header: v1::Header) -> Header {
    Header {
        name: header.name,
        value: header.value,
    }
}

/// Headers as the protocol has them.
#[must_use]
pub fn headers_to_proto(headers: &[Header]) -> Vec<v1::Header> {
    headers
        .iter()
        .map(|header| v1::Header {
            name: header.name.clone(),
            value: header.value.clone(),
        })
        .collect()
}

/// The 128-bit hash of what a producer hands in: XXH3 over the payload's length, the payload, and each header's
/// name and value with their lengths.
#[must_use]
pub fn digest(payload: &[u8], headers: &[Header]) -> Digest {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(payload);
    for header in headers {
        part(header.name.as_bytes());
        part(header.value.as_bytes());
    }
    Digest(hash.digest128().to_be_bytes())
}

/// What 0 means.
#[derive(Clone, Copy)]
enum Zero {
    /// Nothing was said: the default. What a client sends.
    Default,
    /// 0. What stands in the log.
    Zero,
}

impl Zero {
    fn or<T: PartialEq + Default>(self, given: T, default: T) -> T {
        match self {
            Self::Default if given == T::default() => default,
            _ => given,
        }
    }
}

/// An interface's configuration as somebody asked for it: defaults filled in, every value checked.
///
/// # Errors
/// Names the first field that is wrong, its value and what is allowed.
pub fn interface_config_from_proto(
    config: v1::InterfaceConfig,
) -> Result<InterfaceConfig, ConfigError> {
    let mut filled = config_from_proto(config, Zero::Default);
    if filled.destinations.is_empty() {
        filled
            .destinations
            .push(DestinationConfig::named("default"));
    }
    filled.validate()?;
    Ok(filled)
}

fn config_from_proto(config: v1::InterfaceConfig, zero: Zero) -> InterfaceConfig {
    let stages = config.stages.into_iter().map(|stage| {
        let backoff_ms = zero.or(stage.backoff_ms, limits::BACKOFF_MS_DEFAULT);
        StageConfig {
            name: stage.name,
            max_attempts: zero.or(stage.max_attempts, limits::ATTEMPTS_DEFAULT),
            max_losses: zero.or(stage.max_losses, limits::LOSSES_DEFAULT),
            lease_ms: zero.or(stage.lease_ms, limits::LEASE_MS_DEFAULT),
            backoff_ms,
            backoff_ms_max: zero.or(
                stage.backoff_ms_max,
                limits::BACKOFF_MS_MAX_DEFAULT.max(backoff_ms),
            ),
            work_ms_max: stage.work_ms_max,
        }
    });
    let destinations = config
        .destinations
        .into_iter()
        .map(|destination| DestinationConfig {
            name: destination.name,
            max_attempts: zero.or(destination.max_attempts, limits::ATTEMPTS_DEFAULT),
            max_in_flight: zero.or(destination.max_in_flight, limits::IN_FLIGHT_DEFAULT),
        });
    InterfaceConfig {
        stages: stages.collect(),
        destinations: destinations.collect(),
        window: zero.or(config.window, limits::WINDOW_DEFAULT),
        backlog: zero.or(config.backlog, limits::BACKLOG_DEFAULT),
        dedup_messages: zero.or(config.dedup_messages, limits::DEDUP_MESSAGES_DEFAULT),
        paused: config.paused,
        payload_bytes_max: zero.or(config.payload_bytes_max, limits::PAYLOAD_BYTES_DEFAULT),
        dead_letters_max: zero.or(config.dead_letters_max, limits::DEAD_LETTERS_DEFAULT),
        dead_letter_bytes_max: zero.or(
            config.dead_letter_bytes_max,
            limits::DEAD_LETTER_BYTES_DEFAULT,
        ),
    }
}

/// An interface's configuration as it stands in a log entry: complete, and not filled in again.
///
/// # Errors
/// When it is not one that was proposed.
pub fn interface_config_from_entry(
    config: v1::InterfaceConfig,
) -> Result<InterfaceConfig, DecodeError> {
    let config = config_from_proto(config, Zero::Zero);
    match config.destinations.is_empty() {
        true => Err(DecodeError::Field("destinations")),
        false => Ok(config),
    }
}

/// An interface's configuration as the protocol has it.
#[must_use]
pub fn interface_config_to_proto(config: &InterfaceConfig) -> v1::InterfaceConfig {
    let stages = config.stages.iter().map(|stage| v1::StageConfig {
        name: stage.name.clone(),
        max_attempts: stage.max_attempts,
        max_losses: stage.max_losses,
        lease_ms: stage.lease_ms,
        backoff_ms: stage.backoff_ms,
        backoff_ms_max: stage.backoff_ms_max,
        work_ms_max: stage.work_ms_max,
    });
    let destinations = config
        .destinations
        .iter()
        .map(|destination| v1::DestinationConfig {
            name: destination.name.clone(),
            max_attempts: destination.max_attempts,
            max_in_flight: destination.max_in_flight,
        });
    v1::InterfaceConfig {
        stages: stages.collect(),
        destinations: destinations.collect(),
        window: config.window,
        backlog: config.backlog,
        dedup_messages: config.dedup_messages,
        paused: config.paused,
        payload_bytes_max: config.payload_bytes_max,
        dead_letters_max: config.dead_letters_max,
        dead_letter_bytes_max: config.dead_letter_bytes_max,
    }
}
