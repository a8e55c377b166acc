//! A reader: looks where interfaces stand, linearizably.

use std::time::Duration;

use ordo_client::Cluster;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::{about, paused};
use crate::history::{Standing, What};
use crate::name::Name;
use crate::recorder::Scribe;

/// What a reader does.
#[derive(Clone, Debug)]
pub struct ReaderPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// What it reads.
    pub interfaces: Vec<Name>,
    /// The mean pause between two reads.
    pub pace: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

impl ReaderPlan {
    /// A plan for these interfaces.
    pub fn draw(random: &mut StdRng, interfaces: &[Name]) -> Self {
        Self {
            seed: random.random(),
            interfaces: interfaces.to_vec(),
            pace: Duration::from_millis(random.random_range(20..1_000)),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Reads until `stop`.
pub async fn read(cluster: Cluster, scribe: Scribe, plan: ReaderPlan, stop: CancellationToken) {
    let admin = cluster.admin().timeout(plan.timeout);
    let mut random = StdRng::seed_from_u64(plan.seed);
    loop {
        let pause = about(&mut random, plan.pace);
        if plan.interfaces.is_empty() || !paused(pause, &stop).await {
            return;
        }
        let interface = &plan.interfaces[random.random_range(0..plan.interfaces.len())];
        let call = scribe.next_call();
        scribe.record(What::Reading {
            call,
            interface: interface.clone(),
        });
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            answer = admin.get_interface(interface) => answer,
        };
        // A read that fails says nothing.
        if let Ok(answer) = answer {
            let standing = Standing::of(&answer);
            scribe.record(What::Read { call, standing });
        }
    }
}
