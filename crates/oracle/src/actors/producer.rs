//! A producer: messages in order, some of them twice, some under a known id with other bytes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ordo_client::{Cluster, ConfigError, Message, OnRefusal, Producer, SendError, Uuid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::script::{Script, ScriptOdds};
use super::{about, paused, reason_name};
use crate::history::{InterfaceShape, Numbered, SendResult, What};
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// Messages that may be sent again, at most.
const RECENT_MAX: usize = 32;

/// What a producer does.
#[derive(Clone, Debug)]
pub struct ProducerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The interfaces it sends to, in turn.
    pub interfaces: Vec<InterfaceShape>,
    /// Messages it sends in all, repeats not counted.
    pub messages: u64,
    /// The mean pause between two; nothing for as fast as it goes.
    pub pace: Duration,
    /// The longest payload, in bytes.
    pub payload_bytes_max: usize,
    /// What the payloads ask for.
    pub odds: ScriptOdds,
    /// Of a thousand messages, how many are sent again.
    pub repeats: u16,
    /// Of a thousand messages, how many are followed by another under the same id (or number).
    pub conflicts: u16,
    /// It numbers its messages itself, under the actor's name.
    pub numbered: bool,
    /// It gives up messages that are refused for the moment. Not for one that numbers: that would leave gaps.
    pub gives_up: bool,
    /// Messages unanswered at most.
    pub unanswered_max: usize,
    /// How long the client library waits on a silent stream before it replays.
    pub stall_max: Duration,
}

impl ProducerPlan {
    /// A plan for these interfaces.
    pub fn draw(random: &mut StdRng, interfaces: &[InterfaceShape], messages: u64) -> Self {
        let numbered = random.random_bool(0.3);
        Self {
            seed: random.random(),
            interfaces: interfaces.to_vec(),
            messages,
            pace: Duration::from_millis(random.random_range(0..40)),
            payload_bytes_max: 1 << random.random_range(6..14),
            odds: ScriptOdds::draw(random),
            repeats: random.random_range(0..100),
            conflicts: random.random_range(0..50),
            numbered,
            gives_up: !numbered && random.random_bool(0.3),
            unanswered_max: 1 << random.random_range(0..9),
            stall_max: Duration::from_millis(random.random_range(1_000..10_000)),
        }
    }
}

/// One interface, as this producer serves it.
struct Lane {
    shape: InterfaceShape,
    sent: u64,
    recent: VecDeque<Known>,
}

#[derive(Clone)]
struct Known {
    message_id: Uuid,
    payload: Bytes,
    number: Option<u64>,
}

struct Run<'a> {
    plan: &'a ProducerPlan,
    scribe: &'a Scribe,
    producer: Producer,
    random: StdRng,
    lanes: Vec<Lane>,
    answers: JoinSet<()>,
}

/// Sends the plan's messages, or what it can of them until `stop`, and waits for the answers of what it sent.
///
/// # Errors
/// The plan can't be carried out by the client library.
pub async fn produce(
    cluster: Cluster,
    scribe: Scribe,
    plan: ProducerPlan,
    stop: CancellationToken,
) -> Result<(), ConfigError> {
    let mut builder = cluster.producer().stall_max(plan.stall_max);
    if plan.numbered {
        builder = builder.name(&**scribe.actor());
    }
    if plan.gives_up {
        builder = builder.on_refusal(OnRefusal::GiveUp);
    }
    let lanes = plan.interfaces.iter().map(|shape| Lane {
        shape: shape.clone(),
        sent: 0,
        recent: VecDeque::new(),
    });
    let mut run = Run {
        plan: &plan,
        scribe: &scribe,
        producer: builder.start()?,
        random: StdRng::seed_from_u64(plan.seed),
        lanes: lanes.collect(),
        answers: JoinSet::new(),
    };
    for number in 0..plan.messages {
        if stop.is_cancelled() {
            break;
        }
        let lane = (number % plan.interfaces.len() as u64) as usize;
        run.message(lane).await;
        let pause = about(&mut run.random, plan.pace);
        if !pause.is_zero() {
            paused(pause, &stop).await;
        }
    }
    while run.answers.join_next().await.is_some() {}
    run.producer.close().await;
    Ok(())
}

impl Run<'_> {
    /// One message, and what follows from the plan's odds.
    async fn message(&mut self, lane: usize) {
        let plan = self.plan;
        let script = Script::draw(&mut self.random, &self.lanes[lane].shape, &plan.odds);
        let bytes = self.random.random_range(0..=plan.payload_bytes_max);
        let payload = script.payload(bytes, &mut self.random);
        let message_id = self.uuid();
        let sent = &mut self.lanes[lane];
        sent.sent += 1;
        let order = sent.sent;
        let known = Known {
            message_id,
            payload,
            number: plan.numbered.then_some(order),
        };
        sent.recent.push_back(known.clone());
        if sent.recent.len() > RECENT_MAX {
            sent.recent.pop_front();
        }
        self.send(lane, &known, Some(order)).await;
        if self.chance(plan.repeats) {
            let again = self.any_known(lane);
            self.send(lane, &again, None).await;
        }
        if self.chance(plan.conflicts) {
            let mut other = self.any_known(lane);
            match plan.numbered {
                true => other.message_id = self.uuid(),
                false => other.payload = script.payload(bytes, &mut self.random),
            }
            self.send(lane, &other, None).await;
        }
    }

    /// A message sent before; of numbered ones the last, since only that one's number still names it.
    fn any_known(&mut self, lane: usize) -> Known {
        let recent = &self.lanes[lane].recent;
        let index = match self.plan.numbered {
            true => recent.len() - 1,
            false => self.random.random_range(0..recent.len()),
        };
        recent[index].clone()
    }

    async fn send(&mut self, lane: usize, known: &Known, order: Option<u64>) {
        while self.answers.len() >= self.plan.unanswered_max.max(1) {
            self.answers.join_next().await;
        }
        let interface: &Name = &self.lanes[lane].shape.name;
        let call = self.scribe.next_call();
        let numbered = known.number.map(|number| Numbered {
            producer: self.scribe.actor().clone(),
            number,
        });
        self.scribe.record(What::Send {
            call,
            interface: interface.clone(),
            message_id: known.message_id,
            digest: Digest::of(&known.payload),
            order,
            numbered,
        });
        let mut message = Message::new(known.payload.clone()).with_id(known.message_id);
        message.producer_sequence = known.number;
        let receipt = self.producer.enqueue(interface, message).await;
        let scribe = self.scribe.clone();
        self.answers.spawn(async move {
            let result = match receipt {
                Ok(receipt) => receipt.await,
                Err(error) => Err(error),
            };
            let result = match result {
                Ok(accepted) => SendResult::Accepted {
                    sequence: accepted.sequence,
                    duplicate: accepted.duplicate,
                },
                Err(error) => failed(&error),
            };
            scribe.record(What::Sent { call, result });
        });
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.random.random())
    }

    fn chance(&mut self, of_thousand: u16) -> bool {
        self.random.random_range(0..1000) < of_thousand
    }
}

fn failed(error: &SendError) -> SendResult {
    match error {
        SendError::Refused(refusal) => SendResult::Refused {
            reason: reason_name(refusal.reason),
        },
        SendError::Invalid { .. }
        | SendError::QueueFull { .. }
        | SendError::Closed
        | SendError::Unsent(_) => SendResult::Refused {
            reason: "UNSENT".to_owned(),
        },
        _ => SendResult::Unknown {
            why: error.to_string(),
        },
    }
}
