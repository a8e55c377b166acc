//! A consumer: acknowledges, in batches, unless a message's script says otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ordo_client::{
    Answer, Cluster, ConfigError, Content as Delivered, Delivery, GrantState, Position,
    SubscribeTo, Subscription,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::script::Script;
use super::{Lives, about, paused, sub_seed};
use crate::history::{AnswerKind, Content, What};
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// How long an acknowledgement waits for another delivery.
const GATHER: Duration = Duration::from_millis(100);
/// The longest pause that is asked for with an answer.
const AFTER_MAX: Duration = Duration::from_millis(300);

/// What a consumer does.
#[derive(Clone, Debug)]
pub struct ConsumerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The interfaces and destinations it serves.
    pub subscriptions: Vec<(Name, Name)>,
    /// Deliveries to one acknowledgement, at most.
    pub batch: u32,
    /// The mean time of one delivery.
    pub pace: Duration,
    /// Of a thousand messages, how many are answered with "unavailable".
    pub unavailable: u16,
    /// Of a thousand deliveries, how many it stalls at.
    pub stalls: u16,
    /// How long a stall lasts.
    pub stall: Duration,
    /// Whether it leaves and comes back.
    pub lives: Option<Lives>,
    /// It keeps the last position with its own data, and presents it when it comes back.
    pub keeps_position: bool,
    /// Deliveries unacknowledged at most; 0 for as many as the destination allows.
    pub credits: u32,
}

impl ConsumerPlan {
    /// A plan for these destinations.
    pub fn draw(random: &mut StdRng, subscriptions: &[(Name, Name)]) -> Self {
        Self {
            seed: random.random(),
            subscriptions: subscriptions.to_vec(),
            batch: 1 << random.random_range(0..6),
            pace: Duration::from_millis(random.random_range(0..10)),
            unavailable: random.random_range(0..10),
            stalls: random.random_range(0..5),
            stall: Duration::from_millis(random.random_range(500..15_000)),
            lives: random.random_bool(0.5).then(|| Lives::draw(random)),
            keeps_position: random.random_bool(0.3),
            credits: match random.random_bool(0.5) {
                true => 0,
                false => random.random_range(1..200),
            },
        }
    }
}

/// The position of each subscription that its receiver has stored.
type Positions = Arc<Mutex<BTreeMap<(Name, Name), Position>>>;

/// Consumes until `stop`, then acknowledges what it has and gives its grants back.
///
/// # Errors
/// The plan can't be carried out by the client library.
pub async fn consume(
    cluster: Cluster,
    scribe: Scribe,
    plan: ConsumerPlan,
    stop: CancellationToken,
) -> Result<(), ConfigError> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let positions = Positions::default();
    let mut life_number = 0_u64;
    while !stop.is_cancelled() {
        life_number += 1;
        let consumer = cluster.consumer().name(&**scribe.actor()).start()?;
        let leave = stop.child_token();
        let mut serving = JoinSet::new();
        for (interface, destination) in &plan.subscriptions {
            let key = (interface.clone(), destination.clone());
            let mut to = SubscribeTo::interface(&**interface)
                .destination(&**destination)
                .credits(plan.credits);
            if plan.keeps_position
                && let Some(position) = lock(&positions).get(&key).copied()
            {
                to = to.position(position);
            }
            let part = format!("{interface} {destination} {life_number}");
            let server = Server {
                plan: plan.clone(),
                scribe: scribe.clone(),
                random: StdRng::seed_from_u64(sub_seed(plan.seed, &part)),
                interface: interface.clone(),
                destination: destination.clone(),
                epoch: 0,
                unacknowledged: None,
                count: 0,
                positions: Arc::clone(&positions),
            };
            serving.spawn(server.run(consumer.subscribe(to), leave.clone()));
        }
        let life = Lives::length(plan.lives.as_ref(), &mut random);
        let stopped = !paused(life, &stop).await;
        let abrupt = plan
            .lives
            .is_some_and(|lives| lives.ends_abruptly(&mut random));
        if stopped || !abrupt {
            leave.cancel();
            while serving.join_next().await.is_some() {}
            consumer.close().await;
        }
        drop((serving, consumer));
        let pause = plan.lives.map_or(Duration::ZERO, |lives| lives.pause);
        paused(pause, &stop).await;
    }
    Ok(())
}

fn lock(positions: &Positions) -> std::sync::MutexGuard<'_, BTreeMap<(Name, Name), Position>> {
    // Every change is one insert.
    positions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one subscription.
struct Server {
    plan: ConsumerPlan,
    scribe: Scribe,
    random: StdRng,
    interface: Name,
    destination: Name,
    /// The epoch that was recorded last.
    epoch: u64,
    /// The last delivery that was done and is not acknowledged.
    unacknowledged: Option<Delivery>,
    count: u32,
    positions: Positions,
}

impl Server {
    async fn run(mut self, mut subscription: Subscription, leave: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                () = leave.cancelled() => break,
                next = tokio::time::timeout(GATHER, subscription.next()) => next,
            };
            match next {
                Err(_) => self.acknowledge(),
                Ok(Some(Ok(delivery))) => self.handle(&subscription, delivery, &leave).await,
                // The cluster ended it, or the consumer was closed.
                Ok(Some(Err(_)) | None) => break,
            }
        }
        self.acknowledge();
    }

    async fn handle(
        &mut self,
        subscription: &Subscription,
        delivery: Delivery,
        leave: &CancellationToken,
    ) {
        self.note(subscription, &delivery);
        let stalls = self.random.random_range(0..1000) < self.plan.stalls;
        let time = match stalls {
            true => self.plan.stall,
            false => about(&mut self.random, self.plan.pace),
        };
        if !time.is_zero() {
            paused(time, leave).await;
        }
        match self.refusal(&delivery) {
            None => {
                self.unacknowledged = Some(delivery);
                self.count += 1;
                if self.count >= self.plan.batch {
                    self.acknowledge();
                }
            }
            Some((kind, answer)) => {
                // Only the first unacknowledged delivery can be refused.
                self.acknowledge();
                self.record(kind, &delivery);
                // Of a grant that is over it comes again, to whoever holds the next.
                let _ = delivery.answer(answer);
            }
        }
    }

    /// Records a delivery, and before it the grant, where that is still the delivery's.
    fn note(&mut self, subscription: &Subscription, delivery: &Delivery) {
        let (interface, destination) = (self.interface.clone(), self.destination.clone());
        let epoch = delivery.epoch();
        if self.epoch != epoch {
            self.epoch = epoch;
            if let GrantState::Granted {
                epoch: granted,
                checkpoint,
            } = subscription.state()
                && granted == epoch
            {
                self.scribe.record(What::Granted {
                    interface: interface.clone(),
                    destination: destination.clone(),
                    epoch,
                    checkpoint,
                    raw: false,
                });
            }
        }
        let content = match delivery.content() {
            Delivered::Message(message) => Content::Message {
                digest: Digest::of(&message.payload),
                redrive_of: message.redrive_of,
            },
            Delivered::Skip(skip) => Content::Skip {
                cause: skip.reason().into(),
                dead_letter: skip.dead_letter,
            },
        };
        self.scribe.record(What::Delivered {
            interface,
            destination,
            epoch,
            sequence: delivery.sequence(),
            message_id: delivery.message_id(),
            content,
            raw: false,
        });
    }

    /// What is answered instead of an acknowledgement.
    fn refusal(&mut self, delivery: &Delivery) -> Option<(AnswerKind, Answer)> {
        let payload = delivery.message().map(|message| &message.payload)?;
        let at = Script::of(payload).destinations.remove(&self.destination);
        let at = at.unwrap_or_default();
        let after = about(&mut self.random, AFTER_MAX / 2);
        let reason = "as the script says";
        if self.random.random_range(0..1000) < self.plan.unavailable {
            return Some((AnswerKind::Unavailable, Answer::unavailable(after, reason)));
        }
        if delivery.attempts() < at.retries {
            return Some((AnswerKind::Retry, Answer::retry(after, reason)));
        }
        at.reject
            .then(|| (AnswerKind::Reject, Answer::reject(reason)))
    }

    fn acknowledge(&mut self) {
        self.count = 0;
        if let Some(delivery) = self.unacknowledged.take() {
            self.record(AnswerKind::Ack, &delivery);
            if self.plan.keeps_position {
                let key = (self.interface.clone(), self.destination.clone());
                lock(&self.positions).insert(key, delivery.position());
            }
            delivery.ack();
        }
    }

    fn record(&self, kind: AnswerKind, delivery: &Delivery) {
        self.scribe.record(What::Answer {
            call: self.scribe.next_call(),
            interface: self.interface.clone(),
            destination: self.destination.clone(),
            epoch: delivery.epoch(),
            sequence: delivery.sequence(),
            kind,
        });
    }
}
