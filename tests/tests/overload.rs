//! More valid work than a cluster can do, from clients that mean well: honest clients beside them go on, what is too
//! much is refused with its reason, nothing that was accepted is lost. Prints a table of the honest clients' latencies:
//!
//!     cargo test --release -p ordo-tests --test overload -- --nocapture
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::proto::delivery_service_client::DeliveryServiceClient;
use ordo_client::proto::ingest_service_client::IngestServiceClient;
use ordo_client::proto::work_service_client::WorkServiceClient;
use ordo_client::proto::{self, Reason, ingest_result, subscription_state};
use ordo_client::{Cluster, Message};
use ordo_tests::hostile::{Floods, HONEST};
use ordo_tests::load::{consume, staged, worker};
use ordo_tests::{Nodes, PATIENCE, eventually};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

const LANES: usize = 4;
const WINDOW: u32 = 2_000;
const BACKLOG: u64 = 1_000;
const IDLE_INTERFACES: usize = 1_000;
const SUBSCRIBERS: u32 = 2_000;
const LINE_MAX: u32 = 256;
/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(2);
const MEMORY_BYTES_MAX: u64 = 768 << 20;
const LINES_MAX: usize = 100;

fn lane(n: usize) -> String {
    format!("flood/{n}")
}

async fn channel(nodes: &mut Nodes) -> Channel {
    let leader = nodes.leader().await;
    let address = format!("http://{}", nodes.nodes[leader].public);
    Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn id_of(n: u32) -> Bytes {
    Bytes::copy_from_slice(Uuid::from_u128(u128::from(n) + 1).as_bytes())
}

/// Sends small messages to an interface, as fast as they are taken; how many were accepted, and how often each refusal
/// was given.
async fn flood(
    channel: Channel,
    interface: String,
    stop: CancellationToken,
) -> (u64, BTreeMap<Reason, u64>) {
    let (send, frames) = tokio::sync::mpsc::channel(4);
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let opened = IngestServiceClient::new(channel).ingest(frames).await;
    let mut answers = opened.unwrap().into_inner();
    let latest = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let named = std::sync::Arc::clone(&latest);
    let sending = tokio::spawn(async move {
        while !stop.is_cancelled() {
            let messages = (0..100).map(|_| proto::IngestMessage {
                message_id: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
                payload: Bytes::from_static(&[b'x'; 512]),
                ..Default::default()
            });
            let batch = proto::IngestBatch {
                interface: interface.clone(),
                messages: messages.collect(),
                after_refusal: named.load(std::sync::atomic::Ordering::Relaxed),
                ..Default::default()
            };
            let request = proto::IngestRequest {
                batches: vec![batch],
            };
            if send.send(request).await.is_err() {
                return;
            }
        }
    });
    let (mut accepted, mut refused) = (0, BTreeMap::new());
    while let Some(response) = answers.message().await.unwrap() {
        for result in response.results {
            match result.result.unwrap() {
                ingest_result::Result::Accepted(_) => accepted += 1,
                ingest_result::Result::Refused(refusal) => {
                    *refused.entry(refusal.reason()).or_default() += 1;
                    latest.store(refusal.refusal, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
    }
    sending.await.unwrap();
    (accepted, refused)
}

/// Far more than is worked off: two producers to each interface.
async fn producers(
    nodes: &mut Nodes,
    interfaces: &[String],
    stop: &CancellationToken,
) -> (BTreeMap<String, u64>, String) {
    let mut floods = Vec::new();
    for interface in interfaces {
        for _ in 0..2 {
            floods.push((
                interface.clone(),
                tokio::spawn(flood(channel(nodes).await, interface.clone(), stop.clone())),
            ));
        }
    }
    let (mut accepted, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for (interface, flood) in floods {
        let (taken, reasons) = flood.await.unwrap();
        *accepted.entry(interface).or_default() += taken;
        for (reason, count) in reasons {
            *refused.entry(reason.as_str_name()).or_insert(0) += count;
        }
    }
    let total: u64 = accepted.values().sum();
    (accepted, format!("{total} accepted; refused: {refused:?}"))
}

/// Workers that take whatever they are given, want more, and do nothing.
async fn greedy_workers(nodes: &mut Nodes, count: u32, stop: &CancellationToken) -> String {
    let channels = join_all([channel(nodes).await, channel(nodes).await].map(async |it| it)).await;
    let mut streams = Vec::new();
    for n in 0..count {
        let (send, frames) = tokio::sync::mpsc::unbounded_channel();
        let hello = proto::WorkHello {
            worker_id: id_of(n),
            stages: vec!["slow".to_owned()],
            credits: u32::MAX,
            ..Default::default()
        };
        send.send(proto::WorkRequest {
            hello: Some(hello),
            ..Default::default()
        })
        .unwrap();
        let mut client = WorkServiceClient::new(channels[n as usize % 2].clone());
        let opened = client.work(UnboundedReceiverStream::new(frames)).await;
        streams.push((send, opened.unwrap().into_inner()));
    }
    stop.cancelled().await;
    let mut given = 0;
    for (send, answers) in &mut streams {
        // It leaves as it should, and gives everything back.
        let drain = proto::WorkRequest {
            drain: true,
            ..Default::default()
        };
        send.send(drain).unwrap();
        while let Ok(Ok(Some(response))) =
            tokio::time::timeout(Duration::from_millis(1), answers.message()).await
        {
            given += response.assignments.len();
        }
    }
    format!("{count} workers were given {given} messages")
}

/// Consumers that want the same, on one stream: one is granted it, the others wait, and when one leaves the next is
/// granted it.
async fn line(nodes: &mut Nodes, stop: &CancellationToken) -> String {
    let mut client = DeliveryServiceClient::new(channel(nodes).await);
    let (send, frames) = tokio::sync::mpsc::unbounded_channel();
    let subscribe = |n| proto::Subscribe {
        subscription: n,
        interface: lane(0),
        consumer_id: id_of(n),
        credits: 1,
        ..Default::default()
    };
    send.send(proto::DeliverRequest {
        subscribe: (0..SUBSCRIBERS).map(subscribe).collect(),
        heartbeat: 1,
        ..Default::default()
    })
    .unwrap();
    let frames = UnboundedReceiverStream::new(frames);
    let mut answers = client.deliver(frames).await.unwrap().into_inner();
    let (mut grants, mut refused) = (0, 0);
    while grants < 20 || !stop.is_cancelled() {
        let next = tokio::time::timeout(PATIENCE, answers.message());
        let response = tokio::select! {
            () = stop.cancelled(), if grants >= 20 => break,
            response = next => response.unwrap().unwrap().unwrap(),
        };
        for state in response.states {
            match state.state.unwrap() {
                subscription_state::State::Granted(_) => {
                    grants += 1;
                    let leave = proto::DeliverRequest {
                        unsubscribe: vec![state.subscription],
                        ..Default::default()
                    };
                    send.send(leave).unwrap();
                }
                subscription_state::State::Ended(ended) if ended.reason() == Reason::NodeFull => {
                    refused += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(refused, SUBSCRIBERS - LINE_MAX);
    format!("{grants} grants one after the other, {refused} RESOURCE_EXHAUSTED")
}

/// Administration that never pauses.
async fn admin(cluster: &Cluster, stop: &CancellationToken) -> String {
    let ask = async |n: usize| {
        let (admin, mut calls) = (cluster.admin(), 0);
        while !stop.is_cancelled() {
            match n % 4 {
                0 => drop(admin.get_interface(HONEST).await.unwrap()),
                1 => drop(admin.all_interfaces("").await.unwrap()),
                2 => drop(admin.cluster_status().await.unwrap()),
                _ => drop(admin.explain_interface(&lane(0)).await.unwrap()),
            }
            calls += 1;
        }
        calls
    };
    let calls: u64 = join_all((0..8).map(ask)).await.iter().sum();
    format!("{calls} calls")
}

async fn create_idle_interfaces(cluster: &Cluster) -> String {
    for few in (0..IDLE_INTERFACES).collect::<Vec<_>>().chunks(100) {
        let create = few.iter().map(async |n| {
            let name = format!("idle/{n}");
            let admin = cluster.admin();
            admin.create_interface(&name, staged(&["slow"])).await
        });
        for created in join_all(create).await {
            created.unwrap();
        }
    }
    format!("{IDLE_INTERFACES} interfaces created")
}

#[tokio::test(flavor = "multi_thread")]
async fn more_work_than_can_be_done_is_refused_and_what_was_accepted_is_done_in_order() {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let lanes: Vec<String> = (0..LANES).map(lane).collect();
    for name in &lanes {
        let config = proto::InterfaceConfig {
            window: WINDOW,
            ..staged(&["slow"])
        };
        cluster
            .admin()
            .create_interface(name, config)
            .await
            .unwrap();
    }
    let config = proto::InterfaceConfig {
        backlog: BACKLOG,
        window: WINDOW,
        ..staged(&[])
    };
    cluster
        .admin()
        .create_interface("backlog", config)
        .await
        .unwrap();
    let mut floods = Floods::begin(&cluster, &nodes).await.unwrap();
    floods.quiet("quiet", LOAD).await;

    let mut accepted = BTreeMap::new();
    for load in [
        "full windows",
        "full backlog",
        "greedy workers",
        "line for a grant",
        "idle interfaces",
        "administration",
    ] {
        let flood = async |stop: CancellationToken| match load {
            "full windows" | "full backlog" => {
                let interfaces = match load {
                    "full windows" => lanes.clone(),
                    _ => vec!["backlog".to_owned()],
                };
                let (taken, outcome) = producers(&mut nodes, &interfaces, &stop).await;
                accepted.extend(taken);
                outcome
            }
            "greedy workers" => greedy_workers(&mut nodes, 100, &stop).await,
            "line for a grant" => line(&mut nodes, &stop).await,
            "idle interfaces" => create_idle_interfaces(&cluster).await,
            _ => admin(&cluster, &stop).await,
        };
        let usage = floods.flood(load, LOAD, flood).await;
        assert!(usage.memory_bytes < MEMORY_BYTES_MAX, "{load}");
    }
    // While a frame is answered it counts twice, so what never pauses may be refused a few frames before the end; and it
    // names a refusal too late ever to be heard again.
    let window = u64::from(WINDOW);
    for name in &lanes {
        let taken = accepted[name];
        assert!((window / 2..=window).contains(&taken), "{name}: {taken}");
    }
    // Released at once, they fill the backlog; what was on its way when it filled up, a window at most, comes on top.
    let released = accepted["backlog"];
    let most = BACKLOG + window;
    assert!((BACKLOG..=most).contains(&released), "{released}");

    let everything: Vec<&str> = accepted.keys().map(String::as_str).collect();
    let _workers = [worker(&cluster, &["slow"]).unwrap()];
    let (_consumer, arrivals) = consume(&cluster, &everything).unwrap();
    for (name, count) in &accepted {
        eventually(&format!("all of {name}"), async || {
            (arrivals.count(name) as u64 == *count).then_some(())
        })
        .await;
        let skipped = |arrivals: Vec<ordo_tests::load::Arrival>| {
            arrivals.iter().filter(|arrival| arrival.skipped).count()
        };
        assert_eq!(skipped(arrivals.of(name).unwrap()), 0, "{name}");
    }
    let producer = cluster.producer().start().unwrap();
    let more = producer.send(&lane(0), Message::new("more")).await.unwrap();
    let next = accepted[&lane(0)] + 1;
    assert_eq!(more.sequence, next, "there is room again");
    floods.finish().await.unwrap();
    for node in &mut nodes.nodes {
        let lines = node.output().lines().count();
        assert!(node.runs() && lines < LINES_MAX, "{}", node.output());
    }
    nodes.agree().await;
}
