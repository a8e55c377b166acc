//! A workload with a memory: what was accepted, what arrived, and whether that is what was promised.

use anyhow::{Result, ensure};
use ordo_client::{Cluster, Consumer, Delivery, Message, Outcome, Uuid, Worker, proto};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The configuration of an interface with these stages and quick back-offs.
#[must_use]
pub fn staged(stages: &[&str]) -> proto::InterfaceConfig {
    let stage = |name: &&str| proto::StageConfig {
        name: (*name).to_owned(),
        backoff_ms: 20,
        ..Default::default()
    };
    proto::InterfaceConfig {
        stages: stages.iter().map(stage).collect(),
        ..Default::default()
    }
}

/// What one consumer saw of its interfaces, in the order it saw it.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<BTreeMap<String, Vec<Arrival>>>>);

/// One delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its sequence.
    pub sequence: u64,
    /// The message's id.
    pub message_id: Uuid,
    /// A skip marker.
    pub skipped: bool,
    /// What it carried.
    pub payload: bytes::Bytes,
}

impl Arrivals {
    /// Takes a delivery down.
    pub fn record(&self, delivery: &Delivery) {
        let arrival = Arrival {
            sequence: delivery.sequence(),
            message_id: delivery.message_id(),
            skipped: delivery.message().is_none(),
            payload: delivery.payload().clone(),
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(delivery.interface().to_owned())
            .or_default()
            .push(arrival);
    }

    /// What arrived of an interface, repeats discarded as a receiver does that stores the last sequence with its
    /// data.
    ///
    /// # Errors
    /// When a sequence came out of order: neither a repeat nor the next one.
    pub fn of(&self, interface: &str) -> Result<Vec<Arrival>> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: Vec<Arrival> = Vec::new();
        for arrival in seen.get(interface).into_iter().flatten() {
            let next = kept.len() as u64 + 1;
            ensure!(
                arrival.sequence <= next,
                "{interface}: {} arrived where {next} was due",
                arrival.sequence
            );
            match arrival.sequence == next {
                true => kept.push(arrival.clone()),
                false => ensure!(
                    kept[arrival.sequence as usize - 1] == *arrival,
                    "{interface}: {} arrived again and was another",
                    arrival.sequence
                ),
            }
        }
        Ok(kept)
    }

    /// How many sequences of an interface arrived, repeats discarded.
    #[must_use]
    pub fn count(&self, interface: &str) -> usize {
        self.of(interface).map_or(0, |arrivals| arrivals.len())
    }
}

/// A worker on `stages` that completes everything, but rejects payloads that begin with `bad`.
///
/// # Errors
/// When it can't be started.
pub fn worker(cluster: &Cluster, stages: &[&str]) -> Result<Worker> {
    let mut builder = cluster.worker().name("test worker").concurrency(64);
    for stage in stages {
        builder = builder.stage(*stage, async |work| {
            match work.payload().starts_with(b"bad") {
                true => Outcome::reject("it is bad"),
                false => Outcome::complete(),
            }
        });
    }
    Ok(builder.start()?)
}

/// A consumer of `interfaces` that takes everything down, until it is dropped.
///
/// # Errors
/// When it can't be started.
pub fn consume(cluster: &Cluster, interfaces: &[&str]) -> Result<(Arc<Consumer>, Arrivals)> {
    let consumer = Arc::new(cluster.consumer().name("test consumer").start()?);
    let arrivals = Arrivals::default();
    for name in interfaces {
        let (mut subscription, seen) = (consumer.subscribe(*name), arrivals.clone());
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = subscription.next().await {
                seen.record(&delivery);
                delivery.ack();
            }
        });
    }
    Ok((consumer, arrivals))
}

/// Sends the messages `from..=through` of "lab", all in flight at once, to an interface that has had all those before.
///
/// # Errors
/// When one is refused.
///
/// # Panics
/// When one gets another sequence than its place in the producer's order.
pub async fn send(cluster: &Cluster, from: u64, through: u64) -> Result<()> {
    let producer = cluster.producer().start()?;
    let mut receipts = Vec::new();
    for n in from..=through {
        receipts.push((n, producer.enqueue("lab", message("lab", n)).await?));
    }
    for (n, receipt) in receipts {
        assert_eq!(receipt.await?.sequence, n, "the producer's order");
    }
    Ok(())
}

/// The same, each when the one before was accepted: so each is an entry of the log.
///
/// # Errors
/// When one is refused.
///
/// # Panics
/// When one gets another sequence than its place in the producer's order.
pub async fn send_singly(cluster: &Cluster, from: u64, through: u64) -> Result<()> {
    let producer = cluster.producer().start()?;
    for n in from..=through {
        let sent = producer.send("lab", message("lab", n)).await?;
        assert_eq!(sent.sequence, n, "the producer's order");
    }
    Ok(())
}

/// The n-th message of an interface: its id and payload can be told from n.
#[must_use]
pub fn message(interface: &str, n: u64) -> Message {
    Message::new(format!("{interface} {n}")).with_id(id(interface, n))
}

/// The id of the n-th message of an interface.
#[must_use]
pub fn id(interface: &str, n: u64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{interface} {n}").as_bytes())
}
