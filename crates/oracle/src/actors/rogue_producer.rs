//! A producer on the bare protocol: it cuts its streams in the middle, replays, repeats what was answered, and does
//! not always care about refusals.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ordo_client::proto::ingest_service_client::IngestServiceClient;
use ordo_client::proto::{
    IngestBatch, IngestMessage, IngestRequest, IngestResponse, IngestResult, Reason, ingest_result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::raw::{Frames, Raw};
use super::script::{Script, ScriptOdds};
use super::{about, paused, reason_name};
use crate::history::{InterfaceShape, SendResult, What};
use crate::name::Digest;
use crate::recorder::Scribe;

/// How long a stream may leave messages unanswered.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long it looks for results before it sends more.
const LOOK: Duration = Duration::from_millis(5);

/// What a rogue producer does.
#[derive(Clone, Debug)]
pub struct RogueProducerPlan {
    /// Draws all that follows.
    pub seed: u64,
    /// The interfaces it sends to.
    pub interfaces: Vec<InterfaceShape>,
    /// Messages it sends in all, repeats not counted.
    pub messages: u64,
    /// The mean pause between two frames.
    pub pace: Duration,
    /// Messages to a frame, at most.
    pub frame_max: usize,
    /// Messages unanswered at most.
    pub unanswered_max: usize,
    /// The longest payload, in bytes.
    pub payload_bytes_max: usize,
    /// What the payloads ask for.
    pub odds: ScriptOdds,
    /// Of a hundred frames, after how many it cuts the stream.
    pub cut_percent: u8,
    /// Of a hundred frames, how many hold a message again that was answered already.
    pub repeat_percent: u8,
    /// Of a hundred frames, how many name the latest refusal.
    pub heed_percent: u8,
}

impl RogueProducerPlan {
    /// A plan for these interfaces.
    pub fn draw(random: &mut StdRng, interfaces: &[InterfaceShape], messages: u64) -> Self {
        Self {
            seed: random.random(),
            interfaces: interfaces.to_vec(),
            messages,
            pace: Duration::from_millis(random.random_range(0..50)),
            frame_max: 1 << random.random_range(0..6),
            unanswered_max: 1 << random.random_range(0..9),
            payload_bytes_max: 1 << random.random_range(6..14),
            odds: ScriptOdds::draw(random),
            cut_percent: random.random_range(0..10),
            repeat_percent: random.random_range(0..50),
            heed_percent: random.random_range(20..=100),
        }
    }
}

/// A message without an answer.
#[derive(Clone)]
struct Unanswered {
    call: u64,
    interface: usize,
    message_id: Uuid,
    payload: Bytes,
    /// It went out on a stream that is over: whatever is said now, it may have been taken then.
    sent_before: bool,
}

struct Run<'a> {
    plan: &'a RogueProducerPlan,
    scribe: &'a Scribe,
    random: StdRng,
    orders: Vec<u64>,
    /// Messages begun.
    begun: u64,
    unanswered: VecDeque<Unanswered>,
    /// By interface: the latest transient refusal on this stream.
    refusals: Vec<u64>,
    answered: Option<Unanswered>,
}

/// Why a stream is left.
enum End {
    Done,
    Cut,
}

/// Sends the plan's messages, or what it can of them until `stop`.
pub async fn rogue_produce(
    raw: Raw,
    scribe: Scribe,
    plan: RogueProducerPlan,
    stop: CancellationToken,
) {
    let mut run = Run {
        plan: &plan,
        scribe: &scribe,
        random: StdRng::seed_from_u64(plan.seed),
        orders: vec![0; plan.interfaces.len()],
        begun: 0,
        unanswered: VecDeque::new(),
        refusals: Vec::new(),
        answered: None,
    };
    let producing = async {
        loop {
            run.refusals = vec![0; plan.interfaces.len()];
            let open = raw.open(None, |channel, frames| async move {
                IngestServiceClient::new(channel).ingest(frames).await
            });
            if let End::Done = run.stream(open.await, &stop).await {
                return;
            }
            for unanswered in &mut run.unanswered {
                unanswered.sent_before = true;
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = producing => {}
    }
}

impl Run<'_> {
    /// One stream: everything unanswered again, in order, and then what is new.
    async fn stream(
        &mut self,
        mut frames: Frames<IngestRequest, IngestResponse>,
        stop: &CancellationToken,
    ) -> End {
        let replay: Vec<_> = self.unanswered.iter().cloned().collect();
        if !replay.is_empty() && frames.requests.send(self.frame(&replay)).await.is_err() {
            return End::Cut;
        }
        loop {
            let fresh = match self.unanswered.len() < self.plan.unanswered_max {
                true => self.fresh(),
                false => Vec::new(),
            };
            let (sent, idle) = (!fresh.is_empty(), self.unanswered.is_empty());
            if sent {
                self.unanswered.extend(fresh.iter().cloned());
                if frames.requests.send(self.frame(&fresh)).await.is_err() {
                    return End::Cut;
                }
                if self.chance(self.plan.cut_percent) {
                    return End::Cut;
                }
                paused(about(&mut self.random, self.plan.pace), stop).await;
            } else if idle && self.begun >= self.plan.messages {
                return End::Done;
            }
            let patience = if sent { LOOK } else { SILENCE_MAX };
            match timeout(patience, frames.responses.message()).await {
                Ok(Ok(Some(response))) => {
                    for result in response.results {
                        self.take(result);
                    }
                }
                Err(_) if sent => {}
                _ => return End::Cut,
            }
        }
    }

    /// The next frame's messages, recorded; at times with one again that was answered.
    fn fresh(&mut self) -> Vec<Unanswered> {
        let left = (self.plan.messages - self.begun).min(self.plan.frame_max as u64);
        if left == 0 {
            return Vec::new();
        }
        let mut fresh = Vec::new();
        for _ in 0..self.random.random_range(1..=left) {
            let interface = self.random.random_range(0..self.plan.interfaces.len());
            let shape = &self.plan.interfaces[interface];
            let script = Script::draw(&mut self.random, shape, &self.plan.odds);
            let bytes = self.random.random_range(0..=self.plan.payload_bytes_max);
            let payload = script.payload(bytes, &mut self.random);
            let message_id = Uuid::from_u128(self.random.random());
            self.begun += 1;
            self.orders[interface] += 1;
            let order = Some(self.orders[interface]);
            fresh.push(self.begin(interface, message_id, payload, order));
        }
        let again = self.answered.clone();
        if self.chance(self.plan.repeat_percent)
            && let Some(again) = again
        {
            fresh.push(self.begin(again.interface, again.message_id, again.payload, None));
        }
        fresh
    }

    fn begin(
        &self,
        interface: usize,
        message_id: Uuid,
        payload: Bytes,
        order: Option<u64>,
    ) -> Unanswered {
        let call = self.scribe.next_call();
        self.scribe.record(What::Send {
            call,
            interface: self.plan.interfaces[interface].name.clone(),
            message_id,
            digest: Digest::of(&payload),
            order,
            numbered: None,
        });
        Unanswered {
            call,
            interface,
            message_id,
            payload,
            sent_before: false,
        }
    }

    fn frame(&mut self, messages: &[Unanswered]) -> IngestRequest {
        let heeds = self.chance(self.plan.heed_percent);
        let batches = messages.iter().map(|message| IngestBatch {
            interface: self.plan.interfaces[message.interface].name.to_string(),
            messages: vec![IngestMessage {
                message_id: Bytes::copy_from_slice(message.message_id.as_bytes()),
                payload: message.payload.clone(),
                ..IngestMessage::default()
            }],
            producer: String::new(),
            after_refusal: if heeds {
                self.refusals[message.interface]
            } else {
                0
            },
            ..IngestBatch::default()
        });
        IngestRequest {
            batches: batches.collect(),
        }
    }

    /// The answer of the first that has none.
    fn take(&mut self, result: IngestResult) {
        let Some(message) = self.unanswered.pop_front() else {
            return;
        };
        let result = match result.result {
            Some(ingest_result::Result::Accepted(accepted)) => SendResult::Accepted {
                sequence: accepted.sequence,
                duplicate: accepted.duplicate,
            },
            Some(ingest_result::Result::Refused(refused)) => {
                let refusal = &mut self.refusals[message.interface];
                *refusal = (*refusal).max(refused.refusal);
                match refused.reason() {
                    reason if message.sent_before || reason == Reason::OutcomeUnknown => {
                        SendResult::Unknown {
                            why: format!("{} after it was sent before", reason_name(reason)),
                        }
                    }
                    reason => SendResult::Refused {
                        reason: reason_name(reason),
                    },
                }
            }
            None => SendResult::Unknown {
                why: "a result without a kind".to_owned(),
            },
        };
        let call = message.call;
        self.scribe.record(What::Sent { call, result });
        self.answered = Some(message);
    }

    fn chance(&mut self, of_hundred: u8) -> bool {
        self.random.random_range(0..100) < of_hundred
    }
}
