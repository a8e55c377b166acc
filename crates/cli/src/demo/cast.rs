//! Who takes part beside the nodes: workers, the gateway and the laboratory, each a client of the cluster or not even
//! that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ordo_client::{Admin, Assignment, Cluster, Outcome, Worker, proto};
use ordo_gateway::config::{GatewayConfig, ListenConfig, OutboundConfig, SendConfig};
use ordo_gateway::gateway::Gateway;
use ordo_gateway::lab::{Lab, LabAnswer, LabConfig};
use ordo_gateway::msh::Msh;
use ordo_gateway::stages::{DEMO_STAGES, StageFn, StageResult, demo_stage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};

use super::watch::{Event, Finish};
use super::{Args, INTERFACES};
use crate::commands::work::outcome_of;

const WORKERS_PER_STAGE: usize = 2;
/// How often the gateway looks whether the laboratory is back.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the gateway may take to get its grants.
const GRANT_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Everybody but the nodes.
pub struct Cast {
    /// The laboratory: a door for each interface.
    pub labs: Vec<Lab>,
    gateway: Gateway,
    workers: Vec<Worker>,
}

impl Cast {
    /// Creates the interfaces, opens the laboratory and the gateway and starts the workers.
    pub async fn gather(
        cluster: &Cluster,
        args: &Args,
        events: &UnboundedSender<Event>,
    ) -> Result<Self> {
        let admin = cluster.admin().timeout(Duration::from_secs(30));
        for (name, _) in INTERFACES {
            let stages = DEMO_STAGES.map(|stage| proto::StageConfig {
                name: stage.to_owned(),
                ..Default::default()
            });
            let config = proto::InterfaceConfig {
                stages: stages.into(),
                ..Default::default()
            };
            admin
                .create_interface(name, config)
                .await
                .with_context(|| format!("creating {name}"))?;
        }
        let mut labs = Vec::new();
        for (lane, (name, _)) in INTERFACES.iter().enumerate() {
            labs.push(
                open_lab(lane, name, events.clone())
                    .await
                    .context("opening the laboratory")?,
            );
        }
        let addresses: Vec<_> = labs.iter().map(Lab::address).collect();
        let gateway = Gateway::start(gateway_config(&addresses), cluster)
            .await
            .context("starting the gateway")?;
        let mut workers = Vec::new();
        for (stage, name) in DEMO_STAGES.iter().enumerate() {
            for number in 1..=WORKERS_PER_STAGE {
                let pace = (!args.no_faults).then_some(args.seed);
                let worker = start_worker(
                    cluster,
                    stage,
                    &format!("{name}-{number}"),
                    pace,
                    events.clone(),
                );
                workers.push(worker.with_context(|| format!("starting worker {name}-{number}"))?);
            }
        }
        wait_for_consumers(&admin).await?;
        Ok(Self {
            labs,
            gateway,
            workers,
        })
    }

    /// Where the gateway takes each interface's messages.
    pub fn doors(&self) -> Vec<SocketAddr> {
        self.gateway.listening().to_vec()
    }

    /// Everybody goes home.
    pub async fn leave(self) {
        self.gateway.shutdown().await;
        for worker in self.workers {
            if let Err(error) = worker.drain().await {
                tracing::warn!(%error, "a worker did not end well");
            }
        }
        for mut lab in self.labs {
            lab.down().await;
        }
    }
}

/// Waits until the gateway holds every interface's grant, so that the first delivery is as fast as the others.
async fn wait_for_consumers(admin: &Admin) -> Result<()> {
    let granted = async {
        for (name, _) in INTERFACES {
            loop {
                let interface = admin.get_interface(name).await?;
                if interface
                    .destinations
                    .iter()
                    .all(|destination| !destination.holder.is_empty())
                {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
        }
        anyhow::Ok(())
    };
    timeout(GRANT_MAX, granted)
        .await
        .context("the gateway did not get its grants")?
}

fn gateway_config(labs: &[SocketAddr]) -> GatewayConfig {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = INTERFACES
        .iter()
        .map(|(name, _)| ListenConfig::new(free, *name));
    let send = INTERFACES
        .iter()
        .zip(labs)
        .map(|((name, _), address)| SendConfig {
            interface: (*name).to_owned(),
            address: address.to_string(),
            ..SendConfig::default()
        });
    GatewayConfig {
        listen: listen.collect(),
        send: send.collect(),
        outbound: OutboundConfig {
            pause_min: PAUSE_MIN,
            pause_max: PAUSE_MAX,
            ..OutboundConfig::default()
        },
        ..GatewayConfig::default()
    }
}

async fn open_lab(lane: usize, name: &str, events: UnboundedSender<Event>) -> std::io::Result<Lab> {
    let lab = Lab::start(LabConfig {
        interface: Some(name.to_owned()),
        ..LabConfig::default()
    })
    .await?;
    lab.answer_with(move |message| {
        let at = Instant::now();
        if let Ok(id) = Msh::scan(message.payload).and_then(|msh| msh.message_id()) {
            // Nobody listens once the demonstration is over.
            let _ = events.send(Event::Arrived { lane, id, at });
        }
        LabAnswer::Accept
    });
    Ok(lab)
}

fn start_worker(
    cluster: &Cluster,
    stage: usize,
    name: &str,
    pace: Option<u64>,
    events: UnboundedSender<Event>,
) -> Result<Worker> {
    let stage_name = DEMO_STAGES[stage];
    let work = demo_stage(stage_name).context("a stage of the demonstration")?;
    let builder = cluster.worker().name(name);
    let worker = builder.stage(stage_name, move |assignment: Assignment| {
        let events = events.clone();
        async move {
            if let Some(seed) = pace {
                sleep(think(seed, stage, &assignment)).await;
            }
            perform(work, stage, &assignment, &events)
        }
    });
    Ok(worker.start()?)
}

fn perform(
    work: StageFn,
    stage: usize,
    assignment: &Assignment,
    events: &UnboundedSender<Event>,
) -> Outcome {
    let result = work(assignment.payload());
    let finish = match &result {
        StageResult::Complete { .. } => Finish::Done,
        StageResult::Reject { .. } | StageResult::Filter { .. } => Finish::Out,
    };
    if let Some(lane) = INTERFACES
        .iter()
        .position(|(name, _)| *name == assignment.interface())
    {
        let (id, sequence) = (assignment.message_id(), assignment.sequence());
        // Nobody listens once the demonstration is over.
        let _ = events.send(Event::Worked {
            lane,
            id,
            sequence,
            stage,
            finish,
        });
    }
    outcome_of(result)
}

/// How long the work takes: mostly some milliseconds, now and then, as with a look-up in a system that is busy, far
/// longer. That is what makes later messages overtake earlier ones.
fn think(seed: u64, stage: usize, assignment: &Assignment) -> Duration {
    let mixed = seed ^ (assignment.message_id().as_u64_pair().0) ^ (stage as u64);
    let mut random = StdRng::seed_from_u64(mixed);
    let is_slow = DEMO_STAGES[stage] == "enrich" && random.random_bool(0.08);
    Duration::from_millis(if is_slow {
        random.random_range(400..1_000)
    } else {
        random.random_range(2..25)
    })
}
