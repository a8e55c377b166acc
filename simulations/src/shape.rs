//! What the interfaces and clients of a run are like.

use ordo_client::proto::{DestinationConfig, InterfaceConfig, StageConfig};
use rand::Rng;
use rand::rngs::StdRng;
use std::time::Duration;

/// The interfaces and clients of a run.
#[derive(Debug)]
pub struct Shape {
    /// Names and configurations.
    pub interfaces: Vec<(String, InterfaceConfig)>,
    /// The stages' lease.
    pub lease: Duration,
    /// Whether producers send as fast as they can, into small windows.
    pub rush: bool,
    /// Messages of one producer's life.
    pub messages: u64,
    /// How many producers there are.
    pub producers: u32,
    /// How many workers.
    pub workers: u32,
    /// How many consumers: the second waits in line.
    pub consumers: u32,
    /// What the interfaces' names begin with that one more worker is for: maybe none of them.
    pub narrow: Option<String>,
    /// Whether one worker takes work and says nothing of it, to the end.
    pub stalled: bool,
    /// Whether there is a rogue producer, worker, consumer.
    pub rogues: [bool; 3],
}

impl Shape {
    /// A run's shape, with so many interfaces where a number is given.
    pub fn draw(rng: &mut StdRng, interfaces: Option<u32>) -> Self {
        let lease = Duration::from_millis(rng.random_range(800..4_000));
        let rush = rng.random_range(0..5) == 0;
        let drawn = match rng.random_range(0..10) {
            0 => rng.random_range(20..=60),
            _ => rng.random_range(1..=4),
        };
        let interfaces = (0..interfaces.unwrap_or(drawn))
            .map(|at| (format!("lane/{at}"), interface(rng, lease, rush)))
            .collect();
        Self {
            interfaces,
            lease,
            rush,
            messages: match rush {
                true => rng.random_range(500..2_000),
                false => rng.random_range(50..700),
            },
            producers: rng.random_range(1..=2),
            workers: rng.random_range(1..=3),
            consumers: rng.random_range(1..=2),
            narrow: match rng.random_range(0..6) {
                0 => Some("lane/1".to_owned()),
                1 => Some("nobody/".to_owned()),
                _ => None,
            },
            stalled: rng.random_range(0..4) == 0,
            rogues: [
                rng.random_bool(0.4),
                rng.random_bool(0.4),
                rng.random_bool(0.4),
            ],
        }
    }
}

fn interface(rng: &mut StdRng, lease: Duration, rush: bool) -> InterfaceConfig {
    let lease_ms = u32::try_from(lease.as_millis()).expect("a few seconds");
    let stages = (0..rng.random_range(0..=3)).map(|at| StageConfig {
        name: format!("stage{at}"),
        max_attempts: rng.random_range(1..=4),
        max_losses: rng.random_range(2..=4),
        lease_ms,
        backoff_ms: rng.random_range(10..200),
        backoff_ms_max: 1_000,
        // Longer than any work that is slow on purpose.
        work_ms_max: match lease_ms % 4 {
            0 => 3 * lease_ms,
            _ => 0,
        },
    });
    let stages = stages.collect();
    let destinations = (0..rng.random_range(1..=2)).map(|at| DestinationConfig {
        name: format!("out{at}"),
        max_attempts: rng.random_range(1..=4),
        max_in_flight: rng.random_range(1..200),
    });
    let destinations = destinations.collect();
    InterfaceConfig {
        stages,
        destinations,
        // Small ones are full at times; 0 is the default.
        window: match rng.random_range(0..3) {
            0 => rng.random_range(4..60),
            _ if rush => rng.random_range(4..30),
            _ => 0,
        },
        backlog: match rng.random_range(0..4) {
            0 => rng.random_range(20..200),
            _ => 0,
        },
        dedup_messages: match rng.random_range(0..3) {
            0 => rng.random_range(1_000..2_000),
            _ => 0,
        },
        ..InterfaceConfig::default()
    }
}
