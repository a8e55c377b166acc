//! Who drives a cluster and writes down what it sees. Well-behaved ones use the client library as a user's program
//! does; rogues speak the bare protocol.
//!
//! Each is an async function that runs until its plan is carried out or its token is cancelled, and then leaves in
//! good order. Aborting its task instead is a crash: calls on their way stay without an answer, as they should. An
//! actor that comes back after a crash needs another name, since a producer's order is that of one life.
//!
//! What is drawn is drawn from seeds in the plans, and work on one message from that message alone, so that no other
//! actor's pace changes it.

mod consumer;
mod finish;
mod operator;
mod producer;
mod raw;
mod raw_work;
mod reader;
mod rogue_consumer;
mod rogue_producer;
mod rogue_worker;
mod script;
mod stalled_worker;
mod worker;

use std::time::Duration;

use ordo_client::{CallError, Reason};
use rand::Rng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::history::Verdict;

pub use consumer::{ConsumerPlan, consume};
pub use finish::{FinishError, declare, finish};
pub use operator::{OperatorPlan, operate};
pub use producer::{ProducerPlan, produce};
pub use raw::Raw;
pub use reader::{ReaderPlan, read};
pub use rogue_consumer::{RogueConsumerPlan, rogue_consume};
pub use rogue_producer::{RogueProducerPlan, rogue_produce};
pub use rogue_worker::{RogueWorkerPlan, rogue_work};
pub use script::{AtDestination, AtStage, End, Script, ScriptOdds, Work};
pub use stalled_worker::{StalledWorkerPlan, stall};
pub use worker::{WorkerPlan, work};

/// How an actor's life is cut into pieces: it leaves after a while, and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// The shortest life.
    pub min: Duration,
    /// The longest life.
    pub max: Duration,
    /// The pause between two.
    pub pause: Duration,
    /// How many lives of a hundred end without a word.
    pub abrupt_percent: u8,
}

impl Lives {
    /// Lives of 1 to 10 s with pauses of up to 2 s, some of which end abruptly.
    pub fn draw(random: &mut StdRng) -> Self {
        let min = Duration::from_millis(random.random_range(1_000..4_000));
        Self {
            min,
            max: min + Duration::from_millis(random.random_range(0..6_000)),
            pause: Duration::from_millis(random.random_range(0..2_000)),
            abrupt_percent: random.random_range(0..=100),
        }
    }

    fn length(lives: Option<&Self>, random: &mut StdRng) -> Duration {
        match lives {
            Some(lives) => between(random, lives.min, lives.max),
            // A century: no run lasts so long.
            None => Duration::from_secs(100 * 365 * 24 * 60 * 60),
        }
    }

    fn ends_abruptly(&self, random: &mut StdRng) -> bool {
        random.random_range(0..100) < self.abrupt_percent
    }
}

/// A seed for a part of what is drawn from `seed`.
#[must_use]
pub fn sub_seed(seed: u64, part: &str) -> u64 {
    xxh3_64_with_seed(part.as_bytes(), seed)
}

/// Sleeps, and says whether that was all: false where `stop` came first.
async fn paused(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

fn between(random: &mut StdRng, min: Duration, max: Duration) -> Duration {
    let (min, max) = (min.as_micros() as u64, max.as_micros() as u64);
    Duration::from_micros(random.random_range(min..=max.max(min)))
}

/// A pause of `mean` on average, between nothing and twice that.
fn about(random: &mut StdRng, mean: Duration) -> Duration {
    between(random, Duration::ZERO, mean * 2)
}

fn reason_name(reason: Reason) -> String {
    reason.as_str_name().to_owned()
}

/// What the result of a report or an answer says.
fn verdict(reason: i32, text: &str) -> Verdict {
    match Reason::try_from(reason) {
        Ok(Reason::Unspecified) => Verdict::Recorded,
        Ok(Reason::OutcomeUnknown) | Err(_) => Verdict::Unknown { why: text.into() },
        Ok(reason) => Verdict::Refused {
            reason: reason_name(reason),
        },
    }
}

/// The reason for which an administrative call certainly changed nothing; None where that isn't known.
fn certain_refusal(error: &CallError) -> Option<String> {
    match error {
        CallError::Refused(refusal) => Some(reason_name(refusal.reason)),
        CallError::Unsent(_) => Some("UNSENT".to_owned()),
        _ => None,
    }
}
