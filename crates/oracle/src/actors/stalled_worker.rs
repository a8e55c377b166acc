//! A worker that takes work and never says a word of it: nothing but the end of its leases gives that to others.

use std::time::Duration;

use ordo_client::proto::{WorkRequest, WorkResponse};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::raw::{Frames, Raw};
use super::raw_work;
use crate::name::Name;
use crate::recorder::Scribe;

const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a stalled worker takes.
#[derive(Clone, Debug)]
pub struct StalledWorkerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The stages it subscribes to.
    pub stages: Vec<Name>,
    /// Assignments at once.
    pub credits: u32,
}

impl StalledWorkerPlan {
    /// A plan for these stages.
    pub fn draw(random: &mut StdRng, stages: &[Name]) -> Self {
        Self {
            seed: random.random(),
            stages: stages.to_vec(),
            credits: random.random_range(1..4),
        }
    }
}

/// Takes work until `stop`.
pub async fn stall(raw: Raw, scribe: Scribe, plan: StalledWorkerPlan, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let stalling = async {
        loop {
            let hello = raw_work::hello(&mut random, &scribe, &plan.stages, "", plan.credits);
            take(raw_work::open(&raw, hello).await, &scribe).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = stalling => {}
    }
}

/// Until the stream ends.
async fn take(mut frames: Frames<WorkRequest, WorkResponse>, scribe: &Scribe) {
    let mut heartbeats = interval(HEARTBEAT);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            response = frames.responses.message() => {
                let Ok(Some(response)) = response else { return };
                for assignment in &response.assignments {
                    raw_work::note(scribe, assignment);
                }
            }
            _ = heartbeats.tick() => {
                let heartbeat = WorkRequest {
                    heartbeat: 1,
                    ..WorkRequest::default()
                };
                if frames.requests.send(heartbeat).await.is_err() {
                    return;
                }
            }
        }
    }
}
