//! The clients of a run.

use crate::faults::Fault;
use crate::run::Notes;
use crate::wire;
use ordo_client::{Message, Outcome, proto};
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use turmoil::Sim;

/// The clients of a run.
pub struct Workload {
    hosts: Vec<String>,
    ending: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
}

impl Workload {
    /// Puts the clients on their hosts.
    pub fn begin(sim: &mut Sim<'_>, nodes: &[String], rng: &mut StdRng, notes: &Notes) -> Self {
        let this = Self {
            hosts: vec!["p1".into(), "w1".into(), "c1".into()],
            ending: Arc::default(),
            sent: Arc::default(),
            arrived: Arc::default(),
        };
        let (nodes, seed) = (nodes.to_vec(), rng.random::<u64>());
        let (n, ending, sent, note) = (
            nodes.clone(),
            this.ending.clone(),
            this.sent.clone(),
            notes.clone(),
        );
        sim.host("p1", move || {
            let (n, ending, sent, note) = (n.clone(), ending.clone(), sent.clone(), note.clone());
            async move {
                let cluster = wire::cluster(&n, seed);
                loop {
                    let config = proto::InterfaceConfig {
                        stages: vec![proto::StageConfig {
                            name: "work".into(),
                            ..Default::default()
                        }],
                        ..Default::default()
                    };
                    match cluster.admin().create_interface("lab", config).await {
                        Ok(_) => break,
                        Err(error) => note.line(format_args!("p1 {error}")),
                    }
                    if cluster.admin().get_interface("lab").await.is_ok() {
                        break;
                    }
                    sleep(Duration::from_millis(200)).await;
                }
                let producer = cluster.producer().start()?;
                while !ending.load(Ordering::Acquire) {
                    match producer.send("lab", Message::new("x")).await {
                        Ok(accepted) => {
                            sent.fetch_max(accepted.sequence, Ordering::AcqRel);
                        }
                        Err(error) => note.line(format_args!("p1 {error}")),
                    }
                    sleep(Duration::from_millis(50)).await;
                }
                std::future::pending().await
            }
        });
        let n = nodes.clone();
        sim.host("w1", move || {
            let n = n.clone();
            async move {
                let cluster = wire::cluster(&n, seed + 1);
                let _worker = cluster
                    .worker()
                    .name("w1")
                    .stage("work", async |_| Outcome::complete())
                    .start()?;
                std::future::pending().await
            }
        });
        let (n, arrived) = (nodes, this.arrived.clone());
        sim.host("c1", move || {
            let (n, arrived) = (n.clone(), arrived.clone());
            async move {
                let cluster = wire::cluster(&n, seed + 2);
                let consumer = cluster.consumer().name("c1").start()?;
                let mut subscription = consumer.subscribe("lab");
                while let Some(delivery) = subscription.next().await {
                    if let Ok(delivery) = delivery {
                        arrived.fetch_max(delivery.sequence(), Ordering::AcqRel);
                        delivery.ack();
                    }
                }
                std::future::pending().await
            }
        });
        this
    }

    /// The clients' hosts.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Notes a fault in the history.
    pub fn tell_fault(&self, _: &Fault) {}

    /// Lets the clients come to an end.
    pub fn wind_down(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Whether everything has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.arrived.load(Ordering::Acquire) >= self.sent.load(Ordering::Acquire)
    }

    /// What has not.
    #[must_use]
    pub fn left(&self) -> String {
        format!("{:?} of {:?}", self.arrived, self.sent)
    }

    /// Judges the history.
    pub fn judge(&self, notes: &Notes) {
        notes.line(format_args!("delivered {:?}", self.arrived));
    }
}
