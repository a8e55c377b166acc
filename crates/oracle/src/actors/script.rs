//! What a payload tells workers and consumers to do with it, so that outcomes are planned and can be foreseen.
//!
//! A payload is one line of ASCII, a `|`, and padding: `check=r2,reject;enrich=slow,replace;@ward=r1|xxxx`.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::xxh3_64;

use crate::history::{InterfaceShape, ReportKind};
use crate::name::{Digest, Name};

/// What is to be done with one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// By stage; a stage that is not named completes at once.
    pub stages: BTreeMap<Name, AtStage>,
    /// By destination; one that is not named acknowledges at once.
    pub destinations: BTreeMap<Name, AtDestination>,
}

/// What a worker is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtStage {
    /// How many times it reports a retry first.
    pub retries: u32,
    /// It takes as long as the worker's plan says slow work does, which may be longer than the lease.
    pub slow: bool,
    /// What it reports in the end.
    pub end: End,
}

/// How work on a stage ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Complete, as it is.
    #[default]
    Complete,
    /// Complete, with other bytes.
    Replace,
    /// Complete, and meant for this destination only.
    Only(Name),
    /// Reject.
    Reject,
    /// Filter.
    Filter,
}

/// What came of a worker's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Done.
    Complete {
        /// What replaces the payload.
        payload: Option<Bytes>,
        /// The destinations that are named.
        destinations: Vec<Name>,
    },
    /// To be tried again.
    Retry,
    /// Refused for good.
    Reject,
    /// Not wanted downstream.
    Filter,
}

impl Work {
    /// How a history calls it.
    #[must_use]
    pub fn kind(&self) -> ReportKind {
        match self {
            Self::Complete {
                payload,
                destinations,
            } => ReportKind::Complete {
                digest: payload.as_deref().map(Digest::of),
                destinations: destinations.clone(),
            },
            Self::Retry => ReportKind::Retry,
            Self::Reject => ReportKind::Reject,
            Self::Filter => ReportKind::Filter,
        }
    }
}

/// What a consumer is to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtDestination {
    /// How many times it answers a retry first.
    pub retries: u32,
    /// Whether it rejects in the end.
    pub reject: bool,
}

/// How often, of a thousand messages at each stage or destination, something is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptOdds {
    /// Retries, one to three.
    pub retry: u16,
    /// Slow work.
    pub slow: u16,
    /// Other bytes.
    pub replace: u16,
    /// One destination only, where there are several.
    pub only: u16,
    /// A rejection by a worker.
    pub reject: u16,
    /// A filter.
    pub filter: u16,
    /// Retries of a consumer, one to three.
    pub delivery_retry: u16,
    /// A rejection by a consumer.
    pub delivery_reject: u16,
}

impl ScriptOdds {
    /// Every message completes everywhere.
    pub const NONE: Self = Self {
        retry: 0,
        slow: 0,
        replace: 0,
        only: 0,
        reject: 0,
        filter: 0,
        delivery_retry: 0,
        delivery_reject: 0,
    };

    /// Odds of which some are nothing and some are high.
    pub fn draw(random: &mut StdRng) -> Self {
        let mut odds = |max: u16| match random.random_bool(0.4) {
            true => 0,
            false => random.random_range(0..=max),
        };
        Self {
            retry: odds(200),
            slow: odds(30),
            replace: odds(500),
            only: odds(150),
            reject: odds(100),
            filter: odds(100),
            delivery_retry: odds(60),
            delivery_reject: odds(40),
        }
    }
}

impl Script {
    /// What is to be done with one message of that interface.
    pub fn draw(random: &mut StdRng, shape: &InterfaceShape, odds: &ScriptOdds) -> Self {
        let mut script = Self::default();
        for stage in &shape.stages {
            let mut chance = |of: u16| random.random_range(0..1000) < of;
            let (retries, slow) = (chance(odds.retry), chance(odds.slow));
            let ends = [odds.reject, odds.filter, odds.replace, odds.only].map(&mut chance);
            let end = match ends {
                [true, ..] => End::Reject,
                [_, true, ..] => End::Filter,
                [_, _, true, _] => End::Replace,
                [.., true] if shape.destinations.len() > 1 => {
                    let one = random.random_range(0..shape.destinations.len());
                    End::Only(shape.destinations[one].name.clone())
                }
                _ => End::Complete,
            };
            let retries = if retries {
                random.random_range(1..=3)
            } else {
                0
            };
            let at = AtStage { retries, slow, end };
            if at != AtStage::default() {
                script.stages.insert(stage.name.clone(), at);
            }
        }
        for destination in &shape.destinations {
            let retries = match random.random_range(0..1000) < odds.delivery_retry {
                true => random.random_range(1..=3),
                false => 0,
            };
            let reject = random.random_range(0..1000) < odds.delivery_reject;
            let at = AtDestination { retries, reject };
            if at != AtDestination::default() {
                script.destinations.insert(destination.name.clone(), at);
            }
        }
        script
    }

    /// A payload with this script, padded to `bytes` (or as long as the script is).
    #[must_use]
    pub fn payload(&self, bytes: usize, random: &mut StdRng) -> Bytes {
        let mut payload = self.line().into_bytes();
        payload.push(b'|');
        // Two payloads of one script differ, however short the padding.
        let salt: u64 = random.random();
        payload.extend(format!("{salt:016x}").bytes());
        payload.resize(payload.len().max(bytes), b'.');
        payload.into()
    }

    /// The payload that replaces `payload` when the script asks for one: the same script and length with other
    /// bytes, always the same for the same payload, since a stage may run twice.
    #[must_use]
    pub fn replaced(payload: &Bytes) -> Bytes {
        let end = payload.iter().position(|byte| *byte == b'|');
        let mut replaced = payload[..end.unwrap_or(payload.len())].to_vec();
        replaced.push(b'|');
        replaced.extend(format!("{:016x}", xxh3_64(payload)).bytes());
        replaced.resize(replaced.len().max(payload.len()), b'.');
        replaced.into()
    }

    /// The script in a payload; an empty one for a payload that holds none.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let line = payload.split(|byte| *byte == b'|').next();
        let line = line.and_then(|line| std::str::from_utf8(line).ok());
        let mut script = Self::default();
        for (place, orders) in line
            .into_iter()
            .flat_map(|line| line.split(';'))
            .filter_map(|part| part.split_once('='))
        {
            match place.strip_prefix('@') {
                Some(place) => {
                    let at = script.destinations.entry(place.into()).or_default();
                    for order in orders.split(',') {
                        match order {
                            "reject" => at.reject = true,
                            retries => at.retries = number(retries),
                        }
                    }
                }
                None => {
                    let at = script.stages.entry(place.into()).or_default();
                    for order in orders.split(',') {
                        match order {
                            "slow" => at.slow = true,
                            "replace" => at.end = End::Replace,
                            "reject" => at.end = End::Reject,
                            "filter" => at.end = End::Filter,
                            order => match order.strip_prefix("only:") {
                                Some(name) => at.end = End::Only(name.into()),
                                None => at.retries = number(order),
                            },
                        }
                    }
                }
            }
        }
        script
    }

    /// What a worker is to report of a message in this stage, after so many failed tries.
    #[must_use]
    pub fn work(payload: &Bytes, stage: &Name, attempts: u32) -> Work {
        let at = Self::of(payload).stages.remove(stage).unwrap_or_default();
        if attempts < at.retries {
            return Work::Retry;
        }
        let complete = |payload, destinations| Work::Complete {
            payload,
            destinations,
        };
        match at.end {
            End::Complete => complete(None, Vec::new()),
            End::Replace => complete(Some(Self::replaced(payload)), Vec::new()),
            End::Only(name) => complete(None, vec![name]),
            End::Reject => Work::Reject,
            End::Filter => Work::Filter,
        }
    }

    fn line(&self) -> String {
        let mut line = String::new();
        let mut part = |place: &str, orders: Vec<String>| {
            let separator = if line.is_empty() { "" } else { ";" };
            // Writing to a string can't fail.
            let _ = write!(line, "{separator}{place}={}", orders.join(","));
        };
        for (stage, at) in &self.stages {
            let mut orders = vec![format!("r{}", at.retries)];
            orders.extend(at.slow.then(|| "slow".to_owned()));
            orders.extend(match &at.end {
                End::Complete => None,
                End::Replace => Some("replace".to_owned()),
                End::Only(name) => Some(format!("only:{name}")),
                End::Reject => Some("reject".to_owned()),
                End::Filter => Some("filter".to_owned()),
            });
            part(stage, orders);
        }
        for (destination, at) in &self.destinations {
            let mut orders = vec![format!("r{}", at.retries)];
            orders.extend(at.reject.then(|| "reject".to_owned()));
            part(&format!("@{destination}"), orders);
        }
        line
    }
}

fn number(order: &str) -> u32 {
    order.trim_start_matches('r').parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::history::{DestinationShape, StageShape};

    fn shape() -> InterfaceShape {
        let stages = ["check", "enrich"].map(|name| StageShape {
            name: name.into(),
            max_attempts: 3,
            max_losses: 3,
        });
        let destinations = ["ward", "archive"].map(|name| DestinationShape {
            name: name.into(),
            max_attempts: 3,
        });
        InterfaceShape {
            name: "lab".into(),
            stages: stages.into(),
            destinations: destinations.into(),
            dedup_messages: 1000,
            window: 1000,
        }
    }

    #[test]
    fn a_payload_holds_its_script_before_and_after_it_is_replaced() {
        let mut random = StdRng::seed_from_u64(1);
        let often = ScriptOdds {
            retry: 500,
            slow: 500,
            replace: 300,
            only: 300,
            reject: 300,
            filter: 300,
            delivery_retry: 500,
            delivery_reject: 500,
        };
        for _ in 0..500 {
            let script = Script::draw(&mut random, &shape(), &often);
            let bytes = random.random_range(0..300);
            let payload = script.payload(bytes, &mut random);
            assert!(payload.len() >= bytes);
            assert_eq!(Script::of(&payload), script);
            let replaced = Script::replaced(&payload);
            assert_ne!(replaced, payload);
            assert_eq!(replaced, Script::replaced(&payload));
            assert_eq!(
                (Script::of(&replaced), replaced.len()),
                (script, payload.len())
            );
        }
    }

    #[test]
    fn a_payload_of_somebody_else_asks_for_nothing() {
        for payload in [&b""[..], b"MSH|^~\\&|lab", &[0xff, 0xfe, b'=']] {
            assert_eq!(Script::of(payload), Script::default());
            assert_ne!(Script::replaced(&Bytes::copy_from_slice(payload)), payload);
        }
    }
}
