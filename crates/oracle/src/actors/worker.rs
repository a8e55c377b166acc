//! A worker: does with each message what its script says.

use std::sync::Arc;
use std::time::Duration;

use ordo_client::{Assignment, Cluster, ConfigError, Outcome, WorkError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::script::{Script, Work};
use super::{Lives, about, paused, sub_seed};
use crate::history::What;
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// What a worker does.
#[derive(Clone, Debug)]
pub struct WorkerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The stages it works on.
    pub stages: Vec<Name>,
    /// Only interfaces whose names begin so.
    pub interface_prefix: String,
    /// Assignments at once.
    pub concurrency: u32,
    /// The mean time of work on one.
    pub pace: Duration,
    /// How long slow work takes: longer than a lease, for a worker that is to lose some.
    pub slow: Duration,
    /// Whether it leaves and comes back.
    pub lives: Option<Lives>,
    /// How long its last reports may look for a leader when it leaves.
    pub drain_max: Duration,
}

impl WorkerPlan {
    /// A plan for these stages, `lease` being theirs.
    pub fn draw(random: &mut StdRng, stages: &[Name], lease: Duration) -> Self {
        Self {
            seed: random.random(),
            stages: stages.to_vec(),
            interface_prefix: String::new(),
            concurrency: 1 << random.random_range(0..8),
            pace: Duration::from_millis(random.random_range(0..30)),
            slow: lease.mul_f64(random.random_range(0.5..2.0)),
            lives: random.random_bool(0.5).then(|| Lives::draw(random)),
            drain_max: Duration::from_secs(30),
        }
    }
}

/// Works until `stop`, then drains. A refusal by the cluster is only an end of one life.
///
/// # Errors
/// The plan can't be carried out by the client library.
pub async fn work(
    cluster: Cluster,
    scribe: Scribe,
    plan: WorkerPlan,
    stop: CancellationToken,
) -> Result<(), ConfigError> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let shared = Arc::new(plan);
    let plan = &*shared;
    while !stop.is_cancelled() {
        let mut builder = cluster
            .worker()
            .name(&**scribe.actor())
            .interface_prefix(&plan.interface_prefix)
            .concurrency(plan.concurrency)
            .drain_max(plan.drain_max);
        for stage in &plan.stages {
            let (shared, scribe) = (Arc::clone(&shared), scribe.clone());
            builder = builder.stage(&**stage, move |assignment| {
                handle(Arc::clone(&shared), scribe.clone(), assignment)
            });
        }
        let mut worker = builder.start()?;
        let life = Lives::length(plan.lives.as_ref(), &mut random);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            ended = worker.ended() => {
                if let Err(WorkError::Config(error)) = ended {
                    return Err(error);
                }
                true
            }
            () = tokio::time::sleep(life) => {
                plan.lives.is_some_and(|lives| lives.ends_abruptly(&mut random))
            }
        };
        if !ended {
            // What could not be reported will be worked on again, which is no affair of this actor's.
            let _ = worker.drain().await;
        }
        let pause = plan
            .lives
            .map_or(Duration::from_millis(100), |lives| lives.pause);
        paused(pause, &stop).await;
    }
    Ok(())
}

async fn handle(plan: Arc<WorkerPlan>, scribe: Scribe, assignment: Assignment) -> Outcome {
    let interface = Name::from(assignment.interface());
    let stage = Name::from(assignment.stage());
    let (sequence, turn) = (assignment.sequence(), assignment.turn());
    scribe.record(What::Assigned {
        interface: interface.clone(),
        sequence,
        message_id: assignment.message_id(),
        stage: stage.clone(),
        turn,
        attempts: assignment.attempts(),
        digest: Digest::of(assignment.payload()),
    });
    let orders = Script::of(assignment.payload()).stages.remove(&stage);
    let slow = orders.is_some_and(|at| at.slow);
    let seed = sub_seed(plan.seed, &format!("{interface} {sequence} {stage} {turn}"));
    let mut random = StdRng::seed_from_u64(seed);
    let time = match slow {
        true => plan.slow,
        false => about(&mut random, plan.pace),
    };
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
    let work = Script::work(assignment.payload(), &stage, assignment.attempts());
    let kind = work.kind();
    scribe.record(What::Report {
        call: scribe.next_call(),
        interface,
        sequence,
        stage,
        turn,
        kind,
    });
    outcome(work)
}

fn outcome(work: Work) -> Outcome {
    let reason = "as the script says";
    match work {
        Work::Complete {
            payload,
            destinations,
        } => payload
            .map_or_else(Outcome::complete, Outcome::complete_with)
            .for_destinations(destinations.iter().map(|name| &**name)),
        Work::Retry => Outcome::retry(reason),
        Work::Reject => Outcome::reject(reason),
        Work::Filter => Outcome::filter(reason),
    }
}
