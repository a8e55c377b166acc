//! Workers that stand still, or whose work never ends, beside healthy ones.

use ordo_client::{Message, MessageKey, proto};
use ordo_tests::{Nodes, eventually, ordo};
use std::process::{Child, Command, Stdio};

const INTERFACE: &str = "RAD";
const STAGE: &str = "enrich";

/// `ordo work`, killed when it is dropped.
struct Worker(Child);

impl Worker {
    fn start(nodes: &Nodes, name: &str, command: &str) -> Self {
        let mut worker = Command::new(ordo());
        worker
            .env("ORDO_CLUSTER", nodes.addresses())
            .args(["work", "--stage", STAGE, "--exec", command])
            .args(["--name", name, "--concurrency", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self(worker.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let kill = kill.arg(format!("-{name}")).arg(self.0.id().to_string());
        assert!(kill.status().unwrap().success());
    }
}

impl Drop for Worker {
    #[allow(
        clippy::disallowed_methods,
        reason = "a pause between two looks, where nothing can be awaited"
    )]
    fn drop(&mut self) {
        // It kills what it has started, unless it does not listen.
        self.signal("TERM");
        self.signal("TERM");
        self.signal("CONT");
        for _ in 0..200 {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node with an interface whose one stage has these settings.
async fn node_with(stage: proto::StageConfig) -> Nodes {
    let nodes = Nodes::running(1, "").await.unwrap();
    let config = proto::InterfaceConfig {
        stages: vec![proto::StageConfig {
            name: STAGE.to_owned(),
            ..stage
        }],
        ..proto::InterfaceConfig::default()
    };
    let admin = nodes.cluster().unwrap().admin();
    admin.create_interface(INTERFACE, config).await.unwrap();
    nodes
}

async fn explained(nodes: &Nodes) -> proto::ExplainInterfaceResponse {
    let admin = nodes.cluster().unwrap().admin();
    admin.explain_interface(INTERFACE).await.unwrap()
}

/// Waits until so many workers are connected for the first message's stage.
async fn workers(nodes: &Nodes, count: u32) {
    eventually("workers", async || {
        (explained(nodes).await.workers == count).then_some(())
    })
    .await;
}

/// Waits until the head is in this worker's hands.
async fn taken_by(nodes: &Nodes, worker: &str) {
    eventually("the head to be taken", async || {
        let head = explained(nodes).await.head?;
        (head.worker == worker).then_some(())
    })
    .await;
}

async fn released(nodes: &Nodes, count: u64) -> proto::Interface {
    eventually("everything to be released", async || {
        let interface = explained(nodes).await.interface?;
        (interface.watermark == count).then_some(interface)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_beside_a_healthy_one_costs_no_order_more_than_a_loss() {
    let nodes = node_with(proto::StageConfig {
        lease_ms: 1_000,
        ..proto::StageConfig::default()
    })
    .await;
    let cluster = nodes.cluster().unwrap();
    let producer = cluster.producer().start().unwrap();
    let gate = nodes.folder().join("gate");
    let waits = format!("until [ -e {} ]; do sleep 0.05; done; cat", gate.display());
    let frozen = Worker::start(&nodes, "frozen", &waits);
    producer.send(INTERFACE, Message::new("1")).await.unwrap();
    taken_by(&nodes, "frozen").await;
    frozen.signal("STOP");
    let _healthy = Worker::start(&nodes, "healthy", "cat");
    for n in 2..=8 {
        let order = Message::new(n.to_string());
        producer.send(INTERFACE, order).await.unwrap();
    }
    let interface = released(&nodes, 8).await;
    assert_eq!((interface.failed, interface.dead_letters), (0, 0));
    let admin = cluster.admin();
    let message = admin
        .get_message(INTERFACE, MessageKey::Sequence(1))
        .await
        .unwrap();
    let lost = |event: &&proto::MessageEvent| event.kind() == proto::MessageEventKind::Lost;
    assert_eq!(message.events.iter().filter(lost).count(), 1, "{message:?}");
    // It goes on, with a report that nobody waits for, and is given work again.
    std::fs::write(&gate, "").unwrap();
    frozen.signal("CONT");
    producer.send(INTERFACE, Message::new("9")).await.unwrap();
    let interface = released(&nodes, 9).await;
    assert_eq!(interface.failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_never_ends_is_seen_and_goes_to_another_worker_when_its_time_is_up() {
    let nodes = node_with(proto::StageConfig {
        lease_ms: 500,
        work_ms_max: 4_000,
        ..proto::StageConfig::default()
    })
    .await;
    let producer = nodes.cluster().unwrap().producer().start().unwrap();
    let _hung = Worker::start(&nodes, "hung", "sleep 1000");
    producer.send(INTERFACE, Message::new("1")).await.unwrap();
    taken_by(&nodes, "hung").await;
    let why = eventually("a lease that is extended", async || {
        let sentences = explained(&nodes).await.sentences.join("; ");
        sentences
            .contains("extended its lease 8 times")
            .then_some(sentences)
    })
    .await;
    assert!(why.contains("worker hung has it for "), "{why}");
    let _other = Worker::start(&nodes, "other", "cat");
    workers(&nodes, 2).await;
    let interface = released(&nodes, 1).await;
    assert_eq!(interface.failed, 0);
    let admin = nodes.cluster().unwrap().admin();
    let message = admin
        .get_message(INTERFACE, MessageKey::Sequence(1))
        .await
        .unwrap();
    let lost = |event: &&proto::MessageEvent| event.kind() == proto::MessageEventKind::Lost;
    let lost: Vec<_> = message.events.iter().filter(lost).collect();
    assert_eq!(lost.len(), 1, "{message:?}");
    assert!(lost[0].reason.contains("work_ms_max"), "{lost:?}");
}
