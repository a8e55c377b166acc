//! A consumer that acknowledges too far, under old epochs and twice, refuses what is not its to refuse, and falls
//! silent. What it receives it takes down as it comes on the wire.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ordo_client::proto::delivery_service_client::DeliveryServiceClient;
use ordo_client::proto::{
    self, AnswerAck, AnswerResult, AnswerRetry, DeliverRequest, DeliverResponse, Deliveries,
    Subscribe, answer, delivery, subscription_state,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::finish::uuid_of;
use super::raw::{Frames, Raw};
use super::{Lives, about, paused, verdict};
use crate::history::{AnswerKind, Content, Verdict, What};
use crate::name::{Digest, Name};
use crate::recorder::Scribe;

/// Far beyond any sequence there is.
const FAR: u64 = 1_000_000;
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The one subscription of its stream.
const NUMBER: u32 = 1;

/// What a rogue consumer does.
#[derive(Clone, Debug)]
pub struct RogueConsumerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The interface it subscribes to.
    pub interface: Name,
    /// The destination.
    pub destination: Name,
    /// Deliveries unacknowledged at most.
    pub credits: u32,
    /// The mean pause before what came in one frame is acknowledged.
    pub pace: Duration,
    /// Of a hundred frames, after how many it does something wrong.
    pub wrong_percent: u8,
    /// Of a thousand frames, after how many it falls silent.
    pub silent: u16,
    /// For how long: longer than a grant lives without a heartbeat.
    pub silence: Duration,
    /// It comes and goes; most of the time it should be gone, so that others get the grant.
    pub lives: Lives,
}

impl RogueConsumerPlan {
    /// A plan for this destination.
    pub fn draw(random: &mut StdRng, interface: Name, destination: Name) -> Self {
        let mut lives = Lives::draw(random);
        lives.pause += Duration::from_secs(2);
        Self {
            seed: random.random(),
            interface,
            destination,
            credits: random.random_range(1..50),
            pace: Duration::from_millis(random.random_range(0..20)),
            wrong_percent: random.random_range(10..=100),
            silent: random.random_range(0..20),
            silence: Duration::from_secs(random.random_range(11..15)),
            lives,
        }
    }
}

/// An answer whose result is due.
enum Pending {
    /// An acknowledgement of what it has, by its call.
    Ack(u64),
    /// What must be refused, and the guarantee that says so.
    Wrong(u8, String),
}

struct Life<'a> {
    plan: &'a RogueConsumerPlan,
    scribe: &'a Scribe,
    random: &'a mut StdRng,
    epoch: u64,
    /// The last sequence received under the epoch, or the checkpoint.
    last: u64,
    pending: VecDeque<Pending>,
}

/// Consumes wrongly until `stop`.
pub async fn rogue_consume(
    raw: Raw,
    scribe: Scribe,
    plan: RogueConsumerPlan,
    stop: CancellationToken,
) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut consumer_id: [u8; 16] = random.random();
    while !stop.is_cancelled() {
        // At times it comes back as the same consumer.
        if random.random_bool(0.5) {
            consumer_id = random.random();
        }
        let subscribe = Subscribe {
            subscription: NUMBER,
            interface: plan.interface.to_string(),
            destination: plan.destination.to_string(),
            consumer_id: Bytes::copy_from_slice(&consumer_id),
            name: scribe.actor().to_string(),
            credits: plan.credits,
            position: None,
        };
        let first = DeliverRequest {
            subscribe: vec![subscribe],
            heartbeat: 1,
            ..DeliverRequest::default()
        };
        let length = Lives::length(Some(&plan.lives), &mut random);
        let mut life = Life {
            plan: &plan,
            scribe: &scribe,
            random: &mut random,
            epoch: 0,
            last: 0,
            pending: VecDeque::new(),
        };
        let living = async {
            let open = raw.open(Some(first), |channel, frames| async move {
                DeliveryServiceClient::new(channel).deliver(frames).await
            });
            life.live(open.await).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(length, living) => {}
        }
        paused(plan.lives.pause, &stop).await;
    }
}

impl Life<'_> {
    /// Until the stream or the subscription ends.
    async fn live(&mut self, mut frames: Frames<DeliverRequest, DeliverResponse>) {
        let mut heartbeat_at = Instant::now() + HEARTBEAT;
        loop {
            let mut request = DeliverRequest::default();
            tokio::select! {
                biased;
                response = frames.responses.message() => match response {
                    Ok(Some(response)) => {
                        let Some(answers) = self.take(response).await else { return };
                        request.answers = answers;
                    }
                    _ => return,
                },
                () = sleep_until(heartbeat_at) => {
                    request.heartbeat = 1;
                    request.answers.extend(self.late_ack());
                    heartbeat_at = Instant::now() + HEARTBEAT;
                }
            }
            let says_something = request.heartbeat > 0 || !request.answers.is_empty();
            if says_something && frames.requests.send(request).await.is_err() {
                return;
            }
        }
    }

    /// What a frame is answered with; None when the subscription is over.
    async fn take(&mut self, response: DeliverResponse) -> Option<Vec<proto::Answer>> {
        for result in &response.results {
            self.judge(result);
        }
        for state in response.states {
            match state.state {
                Some(subscription_state::State::Granted(granted)) => {
                    (self.epoch, self.last) = (granted.epoch, granted.checkpoint);
                    self.scribe.record(What::Granted {
                        interface: self.plan.interface.clone(),
                        destination: self.plan.destination.clone(),
                        epoch: granted.epoch,
                        checkpoint: granted.checkpoint,
                        raw: true,
                    });
                }
                Some(subscription_state::State::Ended(_)) => return None,
                _ => {}
            }
        }
        if response.deliveries.is_empty() {
            return Some(Vec::new());
        }
        for deliveries in response.deliveries {
            self.note(deliveries);
        }
        let pause = about(self.random, self.plan.pace);
        if !pause.is_zero() {
            sleep(pause).await;
        }
        if self.random.random_range(0..1000) < self.plan.silent {
            sleep(self.plan.silence).await;
        }
        Some(self.answers())
    }

    fn note(&mut self, deliveries: Deliveries) {
        for delivery in deliveries.deliveries {
            let (message_id, content) = match delivery.content {
                Some(delivery::Content::Message(message)) => (
                    uuid_of(&message.message_id),
                    Content::Message {
                        digest: Digest::of(&message.payload),
                        redrive_of: message.redrive_of,
                    },
                ),
                Some(delivery::Content::Skip(skip)) => (
                    uuid_of(&skip.message_id),
                    Content::Skip {
                        cause: skip.reason().into(),
                        dead_letter: skip.dead_letter,
                    },
                ),
                None => continue,
            };
            self.scribe.record(What::Delivered {
                interface: self.plan.interface.clone(),
                destination: self.plan.destination.clone(),
                epoch: deliveries.epoch,
                sequence: delivery.sequence,
                message_id,
                content,
                raw: true,
            });
            if deliveries.epoch == self.epoch {
                self.last = delivery.sequence;
            }
        }
    }

    /// An acknowledgement of something that was acknowledged long before: it is recorded, and moves nothing.
    fn late_ack(&mut self) -> Option<proto::Answer> {
        let sequence = self.last.checked_sub(self.random.random_range(1..10))?;
        let is_of_epoch = self.epoch > 0 && sequence > 0 && self.random.random_bool(0.5);
        if !is_of_epoch {
            return None;
        }
        let (answer, pending) = self.ack(sequence);
        self.pending.push_back(pending);
        Some(answer)
    }

    /// An acknowledgement under its epoch, recorded before it goes out.
    fn ack(&self, sequence: u64) -> (proto::Answer, Pending) {
        let call = self.scribe.next_call();
        self.scribe.record(What::Answer {
            call,
            interface: self.plan.interface.clone(),
            destination: self.plan.destination.clone(),
            epoch: self.epoch,
            sequence,
            kind: AnswerKind::Ack,
        });
        (ack(self.epoch, sequence), Pending::Ack(call))
    }

    /// An acknowledgement of what came, with something wrong before or after it, as it may be.
    fn answers(&mut self) -> Vec<proto::Answer> {
        let (epoch, last) = (self.epoch, self.last);
        let mut answers = vec![self.ack(last)];
        if self.random.random_range(0..100) < self.plan.wrong_percent {
            let wrong = |guarantee, text: String| Pending::Wrong(guarantee, text);
            let (at, answer, pending) = match self.random.random_range(0..4) {
                0 => {
                    let text = format!(
                        "an ack of {} was recorded, and {last} was the last that was sent",
                        last + FAR
                    );
                    (0, ack(epoch, last + FAR), wrong(6, text))
                }
                1 => {
                    let text = format!(
                        "an ack under epoch {} was recorded, and the grant's is {epoch}",
                        epoch - 1
                    );
                    (0, ack(epoch - 1, last), wrong(6, text))
                }
                2 => {
                    let text = format!(
                        "an ack under epoch {} was recorded, and the grant's is {epoch}",
                        epoch + 1
                    );
                    (1, ack(epoch + 1, last), wrong(6, text))
                }
                _ => {
                    let text = format!("a retry of {last} was recorded after it was acknowledged");
                    (1, retry(epoch, last), wrong(5, text))
                }
            };
            answers.insert(at, (answer, pending));
        }
        let (answers, pending): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        self.pending.extend(pending);
        answers
    }

    /// The next result is there.
    fn judge(&mut self, result: &AnswerResult) {
        let verdict = verdict(result.reason, &result.text);
        let recorded = verdict == Verdict::Recorded;
        match self.pending.pop_front() {
            Some(Pending::Ack(call)) => self.scribe.record(What::Answered {
                call,
                verdict,
                checkpoint: recorded.then_some(result.checkpoint),
            }),
            Some(Pending::Wrong(guarantee, text)) if recorded => {
                self.scribe.record(What::Unlawful {
                    interface: self.plan.interface.clone(),
                    guarantee,
                    text,
                });
            }
            _ => {}
        }
    }
}

fn ack(epoch: u64, sequence: u64) -> proto::Answer {
    proto::Answer {
        subscription: NUMBER,
        epoch,
        sequence,
        answer: Some(answer::Answer::Ack(AnswerAck {})),
    }
}

fn retry(epoch: u64, sequence: u64) -> proto::Answer {
    let retry = AnswerRetry {
        after_ms: 1,
        reason: "of what is done".to_owned(),
    };
    proto::Answer {
        answer: Some(answer::Answer::Retry(retry)),
        ..ack(epoch, sequence)
    }
}
