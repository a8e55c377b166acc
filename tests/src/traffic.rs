//! Producers, a worker and consumers under whom things are broken; what they see is taken down and judged.

use crate::eventually;
use crate::load::staged;
use anyhow::{Context, Result, ensure};
use ordo_client::{
    Cluster, Consumer, Content as Delivered, Delivery, Message, Outcome, SendError, Uuid, Worker,
};
use ordo_oracle::{
    AnswerKind, Completeness, Content, Digest, History, InterfaceShape, Name, Recorder, ReportKind,
    SendResult, Standing, What, check,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The stages of every interface.
const STAGES: [&str; 2] = ["validate", "enrich"];
/// Messages of one interface without an answer at most: enough to keep a leader busy, and few enough that a test ends
/// soon after its faults do.
const UNANSWERED_MAX: usize = 32;

/// A workload that runs until it is finished.
pub struct Traffic {
    recorder: Recorder,
    cluster: Cluster,
    interfaces: Vec<String>,
    stop: CancellationToken,
    producing: Vec<JoinHandle<Result<()>>>,
    consuming: Vec<JoinHandle<()>>,
    _consumers: Vec<Arc<Consumer>>,
    _worker: Worker,
    accepted: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
}

impl Traffic {
    /// Creates the interfaces, and one producer for each; a worker of all stages; and two consumers that both want
    /// every interface.
    ///
    /// # Errors
    /// When an interface can't be created, or a client not started.
    pub async fn start(cluster: &Cluster, interfaces: &[&str], pause: Duration) -> Result<Self> {
        let recorder = Recorder::started_now();
        for name in interfaces {
            let made = cluster
                .admin()
                .create_interface(name, staged(&STAGES))
                .await?;
            let shape = InterfaceShape::of(&made);
            recorder.record(&"operator".into(), What::Interface(shape));
        }
        let mut traffic = Self {
            recorder: recorder.clone(),
            cluster: cluster.clone(),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            stop: CancellationToken::new(),
            producing: Vec::new(),
            consuming: Vec::new(),
            _consumers: Vec::new(),
            _worker: worker(cluster, &recorder)?,
            accepted: Arc::default(),
            arrived: Arc::default(),
        };
        for actor in ["consumer a", "consumer b"] {
            let consumer = Arc::new(cluster.consumer().name(actor).start()?);
            for name in interfaces {
                let subscription = consumer.subscribe(*name);
                let (recorder, arrived) = (recorder.clone(), Arc::clone(&traffic.arrived));
                let consuming = consume(subscription, recorder, actor.into(), arrived);
                traffic.consuming.push(tokio::spawn(consuming));
            }
            traffic._consumers.push(consumer);
        }
        for name in interfaces {
            let producing = produce(
                cluster.clone(),
                recorder.clone(),
                (*name).to_owned(),
                traffic.stop.clone(),
                Arc::clone(&traffic.accepted),
                pause,
            );
            traffic.producing.push(tokio::spawn(producing));
        }
        Ok(traffic)
    }

    /// Takes down a fault, for people who read the history of a failure.
    pub fn fault(&self, text: impl Into<String>) {
        self.recorder.fault(text);
    }

    /// How many messages were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many deliveries there were so far, repeats included.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits until `more` messages were accepted, and as many deliveries made, since this was called.
    pub async fn goes_on(&self, more: u64) {
        let (accepted, arrived) = (self.accepted() + more, self.arrived() + more);
        eventually("the cluster to take and deliver messages", async || {
            (self.accepted() >= accepted && self.arrived() >= arrived).then_some(())
        })
        .await;
    }

    /// Judges what was seen so far, while everything runs on.
    ///
    /// # Errors
    /// What promise was broken, with the events to look at.
    pub fn judge(&self) -> Result<()> {
        judge(&self.recorder.snapshot(), Completeness::Cut)
    }

    /// Ends the producers, waits until everything has arrived, and judges the whole. Returns how many messages there
    /// were.
    ///
    /// # Errors
    /// What promise was broken, with the events to look at.
    pub async fn finish(self) -> Result<u64> {
        self.stop.cancel();
        for producing in self.producing {
            tokio::time::timeout(crate::PATIENCE, producing)
                .await
                .context("a message was never answered")???;
        }
        let admin = self.cluster.admin();
        let operator: Name = "operator".into();
        let mut messages = 0;
        for name in &self.interfaces {
            let done = eventually("everything to be delivered", async || {
                let now = admin.get_interface(name).await.ok()?;
                let all = now
                    .destinations
                    .iter()
                    .all(|to| to.checkpoint == now.last_sequence);
                all.then_some(now)
            })
            .await;
            messages += done.last_sequence;
            let (interface, standing) = (name.as_str().into(), Standing::of(&done));
            self.recorder.record(
                &operator,
                What::Final {
                    interface,
                    standing,
                },
            );
        }
        for consuming in &self.consuming {
            consuming.abort();
        }
        judge(&self.recorder.take(), Completeness::Healed)?;
        Ok(messages)
    }
}

fn judge(history: &History, completeness: Completeness) -> Result<()> {
    let violations = check(history, completeness);
    let shown: Vec<_> = violations
        .iter()
        .map(|broken| broken.show(history, 5))
        .collect();
    ensure!(shown.is_empty(), "{}", shown.join("\n"));
    Ok(())
}

/// Sends numbered messages, in order, until it is told to stop, and waits for every answer.
async fn produce(
    cluster: Cluster,
    recorder: Recorder,
    interface: String,
    stop: CancellationToken,
    accepted: Arc<AtomicU64>,
    pause: Duration,
) -> Result<()> {
    let scribe = recorder.scribe(format!("producer of {interface}"));
    let producer = cluster.producer().start()?;
    let mut unanswered = VecDeque::new();
    for order in 1.. {
        let over = stop.is_cancelled();
        while unanswered.len() >= if over { 1 } else { UNANSWERED_MAX } {
            let Some((call, receipt)) = unanswered.pop_front() else {
                break;
            };
            let result = match receipt_of(receipt).await {
                Ok((sequence, duplicate)) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    SendResult::Accepted {
                        sequence,
                        duplicate,
                    }
                }
                Err(SendError::OutcomeUnknown(why)) => SendResult::Unknown {
                    why: why.to_string(),
                },
                Err(error) => SendResult::Refused {
                    reason: error.to_string(),
                },
            };
            scribe.record(What::Sent { call, result });
        }
        if over {
            break;
        }
        // What becomes of it in its stages stands in the payload.
        let plan = match order % 25 {
            7 | 19 => "retry",
            13 => "filter",
            _ => "complete",
        };
        let message_id = Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            format!("{interface} {order}").as_bytes(),
        );
        let message = Message::new(format!("{plan} {interface} {order}")).with_id(message_id);
        let call = scribe.next_call();
        scribe.record(What::Send {
            call,
            interface: interface.as_str().into(),
            message_id,
            digest: Digest::of(&message.payload),
            order: Some(order),
            numbered: None,
        });
        unanswered.push_back((call, producer.enqueue(&interface, message).await?));
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn receipt_of(receipt: ordo_client::Receipt) -> Result<(u64, bool), SendError> {
    receipt
        .await
        .map(|accepted| (accepted.sequence, accepted.duplicate))
}

fn worker(cluster: &Cluster, recorder: &Recorder) -> Result<Worker> {
    let mut worker = cluster.worker().name("worker").concurrency(64);
    for stage in STAGES {
        let scribe = recorder.scribe("worker");
        worker = worker.stage(stage, move |work| {
            let (interface, stage): (Name, Name) = (work.interface().into(), work.stage().into());
            scribe.record(What::Assigned {
                interface: interface.clone(),
                sequence: work.sequence(),
                message_id: work.message_id(),
                stage: stage.clone(),
                turn: work.turn(),
                attempts: work.attempts(),
                digest: Digest::of(work.payload()),
            });
            let last = stage == Name::from(STAGES[1]);
            let (kind, outcome) = if work.payload().starts_with(b"retry") && work.attempts() == 0 {
                (ReportKind::Retry, Outcome::retry("the first try fails"))
            } else if work.payload().starts_with(b"filter") && last {
                (ReportKind::Filter, Outcome::filter("nobody wants it"))
            } else {
                let digest = None;
                (
                    ReportKind::Complete {
                        digest,
                        destinations: Vec::new(),
                    },
                    Outcome::complete(),
                )
            };
            scribe.record(What::Report {
                call: scribe.next_call(),
                interface,
                sequence: work.sequence(),
                stage,
                turn: work.turn(),
                kind,
            });
            async { outcome }
        });
    }
    Ok(worker.start()?)
}

async fn consume(
    mut subscription: ordo_client::Subscription,
    recorder: Recorder,
    actor: Name,
    arrived: Arc<AtomicU64>,
) {
    let scribe = recorder.scribe(actor);
    while let Some(Ok(delivery)) = subscription.next().await {
        arrived.fetch_add(1, Ordering::Relaxed);
        let (interface, destination): (Name, Name) =
            (delivery.interface().into(), delivery.destination().into());
        let (epoch, sequence) = (delivery.epoch(), delivery.sequence());
        scribe.record(What::Delivered {
            interface: interface.clone(),
            destination: destination.clone(),
            epoch,
            sequence,
            message_id: delivery.message_id(),
            content: content(&delivery),
            raw: false,
        });
        scribe.record(What::Answer {
            call: scribe.next_call(),
            interface,
            destination,
            epoch,
            sequence,
            kind: AnswerKind::Ack,
        });
        delivery.ack();
    }
}

fn content(delivery: &Delivery) -> Content {
    match delivery.content() {
        Delivered::Message(message) => Content::Message {
            digest: Digest::of(&message.payload),
            redrive_of: message.redrive_of,
        },
        Delivered::Skip(skip) => Content::Skip {
            cause: skip.reason().into(),
            dead_letter: skip.dead_letter,
        },
    }
}
