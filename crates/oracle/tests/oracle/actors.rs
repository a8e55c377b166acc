//! Actors against a real node of one, in this process.

use std::time::Duration;

use ordo_client::{Cluster, Connect, TcpConnector, proto};
use ordo_node::config::PeerConfig;
use ordo_node::{Config, Seams, ServeHandle, start};
use ordo_oracle::actors::*;
use ordo_oracle::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(1);

struct Node {
    handle: ServeHandle,
    address: String,
    _folder: TempDir,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let mut config = Config::local(1, folder.path().to_owned());
        (config.peer, config.public) = (free(), free());
        let address = config.public.to_string();
        config.peers = vec![PeerConfig {
            node_id: 1,
            peer: config.peer.to_string(),
            public: address.clone(),
        }];
        let seams = Seams {
            check_invariants: true,
            ..Seams::default()
        };
        let handle = start(config, seams).await.unwrap();
        let node = Self {
            handle,
            address,
            _folder: folder,
        };
        node.cluster(0)
            .admin()
            .init_cluster(&node.address)
            .await
            .unwrap();
        node
    }

    fn cluster(&self, seed: u64) -> Cluster {
        let builder = Cluster::builder().addresses([self.address.clone()]);
        builder.connector(TcpConnector).seed(seed).build().unwrap()
    }

    fn raw(&self) -> Raw {
        fn connector() -> impl Connect {
            TcpConnector
        }
        Raw::new(connector(), [self.address.clone()])
    }
}

fn config(stages: &[&str], destinations: &[&str], window: u32) -> proto::InterfaceConfig {
    let stages = stages.iter().map(|name| proto::StageConfig {
        name: (*name).to_owned(),
        lease_ms: LEASE.as_millis() as u32,
        backoff_ms: 10,
        backoff_ms_max: 50,
        work_ms_max: 0,
        ..proto::StageConfig::default()
    });
    let destinations = destinations.iter().map(|name| proto::DestinationConfig {
        name: (*name).to_owned(),
        ..proto::DestinationConfig::default()
    });
    proto::InterfaceConfig {
        stages: stages.collect(),
        destinations: destinations.collect(),
        window,
        ..proto::InterfaceConfig::default()
    }
}

fn panic_with(history: &History, violations: &[Violation]) {
    for violation in violations {
        eprintln!("{}", violation.show(history, 3));
    }
    assert!(
        violations.is_empty(),
        "{} promises were broken",
        violations.len()
    );
}

/// Everybody at work, with rogues or without; what they saw.
async fn run(seed: u64, messages: u64, rogues: bool) -> History {
    let node = Node::start().await;
    let recorder = Recorder::started_now();
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = node.cluster(seed);
    let creator = recorder.scribe("creator");
    let shapes = [
        declare(
            &cluster,
            &creator,
            "lab",
            config(&["check", "enrich"], &["ward", "archive"], 0),
        )
        .await
        .unwrap(),
        declare(&cluster, &creator, "narrow", config(&["check"], &[], 20))
            .await
            .unwrap(),
        declare(&cluster, &creator, "plain", config(&[], &[], 0))
            .await
            .unwrap(),
    ];
    let names = shapes.each_ref().map(|shape| shape.name.clone());
    let stages = ["check", "enrich"].map(Name::from);
    let subscriptions: Vec<_> = shapes
        .iter()
        .flat_map(|shape| {
            shape
                .destinations
                .iter()
                .map(|d| (shape.name.clone(), d.name.clone()))
        })
        .collect();

    let (stop_first, stop) = (CancellationToken::new(), CancellationToken::new());
    let (mut producers, mut others, mut staff) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for number in 0..3 {
        let scribe = recorder.scribe(format!("producer-{number}"));
        let mut plan = ProducerPlan::draw(&mut random, &shapes, messages);
        plan.pace = Duration::from_millis(1);
        let made = produce(node.cluster(number), scribe, plan, stop.clone());
        producers.spawn(async { made.await.unwrap() });
    }
    for number in 0..2 {
        let scribe = recorder.scribe(format!("worker-{number}"));
        let mut plan = WorkerPlan::draw(&mut random, &stages, LEASE);
        plan.pace = Duration::from_millis(2);
        let working = work(node.cluster(10 + number), scribe, plan, stop.clone());
        staff.spawn(async { working.await.unwrap() });
        let scribe = recorder.scribe(format!("consumer-{number}"));
        let mut plan = ConsumerPlan::draw(&mut random, &subscriptions);
        plan.pace = Duration::from_millis(1);
        let consuming = consume(node.cluster(20 + number), scribe, plan, stop.clone());
        staff.spawn(async { consuming.await.unwrap() });
    }
    let plan = ReaderPlan::draw(&mut random, &names);
    others.spawn(read(
        node.cluster(30),
        recorder.scribe("reader"),
        plan,
        stop_first.clone(),
    ));
    let mut plan = OperatorPlan::draw(&mut random, &names);
    (plan.deeds, plan.pace) = (50, Duration::from_millis(50));
    others.spawn(operate(
        node.cluster(31),
        recorder.scribe("operator"),
        plan,
        stop_first.clone(),
    ));
    if rogues {
        let mut plan = RogueProducerPlan::draw(&mut random, &shapes, messages);
        (plan.pace, plan.cut_percent) = (Duration::from_millis(5), 10);
        producers.spawn(rogue_produce(
            node.raw(),
            recorder.scribe("rogue-producer"),
            plan,
            stop.clone(),
        ));
        let plan = RogueWorkerPlan::draw(&mut random, &stages, LEASE);
        others.spawn(rogue_work(
            node.raw(),
            recorder.scribe("rogue-worker"),
            plan,
            stop_first.clone(),
        ));
        let mut plan = RogueConsumerPlan::draw(&mut random, "lab".into(), "ward".into());
        plan.silent = 0;
        others.spawn(rogue_consume(
            node.raw(),
            recorder.scribe("rogue-consumer"),
            plan,
            stop_first.clone(),
        ));
    }

    while let Some(ended) = tokio::time::timeout(PATIENCE, producers.join_next())
        .await
        .unwrap()
    {
        ended.unwrap();
    }
    stop_first.cancel();
    while let Some(ended) = others.join_next().await {
        ended.unwrap();
    }
    finish(&cluster, &recorder.scribe("finisher"), &names, PATIENCE)
        .await
        .unwrap();
    stop.cancel();
    while let Some(ended) = staff.join_next().await {
        ended.unwrap();
    }
    node.handle.shutdown().await.unwrap();
    recorder.take()
}

fn count(history: &History, fits: impl Fn(&What) -> bool) -> usize {
    history
        .events
        .iter()
        .filter(|event| fits(&event.what))
        .count()
}

#[tokio::test]
async fn well_behaved_actors_at_a_healthy_node_see_every_promise_kept() {
    let history = run(1, 300, false).await;
    panic_with(&history, &check(&history, Completeness::Healed));
    let accepted = |what: &What| {
        matches!(
            what,
            What::Sent {
                result: SendResult::Accepted { .. },
                ..
            }
        )
    };
    assert!(count(&history, accepted) >= 600);
    assert!(count(&history, |what| matches!(what, What::Delivered { .. })) >= 900);
    assert!(count(&history, |what| matches!(what, What::Read { .. })) > 0);
    assert!(count(&history, |what| matches!(what, What::Operated { .. })) > 0);
}

#[tokio::test]
async fn rogues_are_refused_and_harm_nobody() {
    let history = run(2, 300, true).await;
    panic_with(&history, &check(&history, Completeness::Healed));
    let of = |name: &str, fits: fn(&What) -> bool| {
        let events = history.events.iter();
        events
            .filter(|event| &*event.actor == name && fits(&event.what))
            .count()
    };
    let recorded = |what: &What| {
        matches!(
            what,
            What::Reported {
                verdict: Verdict::Recorded,
                ..
            }
        )
    };
    assert!(of("rogue-worker", recorded) > 0);
    let refused = |what: &What| {
        matches!(
            what,
            What::Reported {
                verdict: Verdict::Refused { .. },
                ..
            }
        )
    };
    assert!(of("rogue-worker", refused) > 0);
    assert!(of("rogue-producer", |what| matches!(what, What::Sent { .. })) >= 100);
}
