//! Attacks on every port of a real cluster, while honest clients go on: what is refused and how, and that memory,
//! descriptors and logs stay bounded. Prints a table of the honest clients' latencies:
//!
//!     cargo test --release -p ordo-tests --test hostile -- --nocapture
//!
//! `ORDO_TEST_ATTACK` names one attack that is to be run alone.
#![allow(clippy::unwrap_used, reason = "tests")]

mod calls;
mod descriptors;
mod frames;
mod gateway;
mod stalled;
mod wire;

use calls::{bombs, calls, compressed, idlers, limits, names, strangers, unread};
use frames::beginnings;
use ordo_client::proto::Reason;
use ordo_tests::hostile::Floods;
use ordo_tests::load::worker;
use ordo_tests::{Nodes, eventually};
use ordo_wire::status::Failure;
use stalled::{STALLED, stalled_worker};
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::{continuations, garbage, hellos, newcomers, pages, pings, resets, streams};

/// Small, so that floods go beyond them.
const LIMITS: &str =
    "[limits]\nconnections = 300\nstreams_per_connection = 64\nmemory_bytes = 536870912\n";
/// What a node may use at most, whatever is done to it: its own 150 MiB or so, an eighth of its limit for beginnings of
/// frames (twice, for the growth of buffers), and what the streams and windows of 300 connections hold.
const MEMORY_BYTES_MAX: u64 = 768 << 20;
const DESCRIPTORS_MAX: usize = 300 + 256 + 64 + 1_024;
/// Lines that a node may write about all the attacks together.
const LINES_MAX: usize = 200;
/// How long each attack goes on.
const ATTACK: Duration = Duration::from_millis(1_500);

const INGEST: &str = "/ordo.v1.IngestService/Ingest";
const WORK: &str = "/ordo.v1.WorkService/Work";
const DELIVER: &str = "/ordo.v1.DeliveryService/Deliver";

/// The leader.
#[derive(Clone, Copy)]
struct Target {
    public: SocketAddr,
    peer: SocketAddr,
    http: SocketAddr,
}

impl Target {
    fn ports(self) -> [SocketAddr; 3] {
        [self.public, self.peer, self.http]
    }

    async fn channel(self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.public)).unwrap();
        endpoint.connect().await.unwrap()
    }
}

fn kind(status: &Status) -> (Code, Reason) {
    (status.code(), Failure::from_status(status).reason)
}

macro_rules! attacks {
    ($($attack:ident),* $(,)?) => {
        [$((stringify!($attack), |at, stop| Box::pin($attack(at, stop)) as Attacking)),*]
    };
}
type Attacking = std::pin::Pin<Box<dyn Future<Output = String>>>;
type Attack = (&'static str, fn(Target, CancellationToken) -> Attacking);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_hostile_clients_do_honest_ones_go_on_and_every_bound_holds() {
    let mut nodes = Nodes::running(3, LIMITS).await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let leader = nodes.leader().await;
    let node = &nodes.nodes[leader];
    let at = Target {
        public: node.public,
        peer: node.peer,
        http: node.http,
    };
    let lines = |nodes: &Nodes| -> usize {
        let lines = |node: &ordo_tests::Node| node.output().lines().count();
        nodes.nodes.iter().map(lines).sum()
    };
    let stalled = stalled_worker(at, &cluster).await;
    let mut floods = Floods::begin(&cluster, &nodes).await.unwrap();
    let lines_before = lines(&nodes);
    floods.quiet("quiet", 2 * ATTACK).await;

    let attacks: [Attack; 17] = attacks![
        garbage,
        resets,
        continuations,
        pings,
        streams,
        calls,
        unread,
        beginnings,
        bombs,
        names,
        limits,
        compressed,
        strangers,
        pages,
        idlers,
        hellos,
        newcomers,
    ];
    let only = std::env::var("ORDO_TEST_ATTACK").ok();
    for (name, attack) in attacks {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let usage = floods
            .flood(name, ATTACK, async |stop| attack(at, stop).await)
            .await;
        assert!(
            usage.memory_bytes < MEMORY_BYTES_MAX,
            "{name}: {} MiB",
            usage.memory_bytes >> 20
        );
        assert!(usage.descriptors < DESCRIPTORS_MAX, "{name}");
    }
    floods.quiet("quiet again", ATTACK).await;
    let lines = lines(&nodes) - lines_before;
    println!("{lines} lines logged by all nodes");
    assert!(lines < LINES_MAX, "{lines} lines");
    let _worker = worker(&cluster, &[STALLED]).unwrap();
    eventually(
        "what a worker does not read to be given to another",
        async || {
            let interface = cluster.admin().get_interface(STALLED).await.unwrap();
            (interface.watermark == 1).then_some(())
        },
    )
    .await;
    drop(stalled);
    floods.finish().await.unwrap();
    for node in &mut nodes.nodes {
        assert!(node.runs(), "{}", node.output());
    }
    nodes.agree().await;
}
