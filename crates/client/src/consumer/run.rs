//! The consumer's task: keeps a stream to the leader, and moves deliveries and answers between it and the lanes.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ordo_wire::lease::{ABORT_WITHIN, BEGIN_WITHIN, HEARTBEAT_EVERY};
use ordo_wire::v1::delivery_service_client::DeliveryServiceClient;
use ordo_wire::v1::subscription_state::State;
use ordo_wire::v1::{AnswerResult, DeliverRequest, DeliverResponse, Reason, SubscriptionState};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::agenda::Agenda;
use super::lane::{Ended, Hurry, Lane};
use super::{ConsumerBuilder, Shared};
use crate::cluster::Cluster;
use crate::error::Refusal;
use crate::seek::{Seek, open, reason_of_end, stream_end};
use crate::{FRAME_BYTES_MAX, bytes_of};

/// Between heartbeats while no delivery may be begun for want of an answer: a leader that was just elected may not
/// answer the first ones.
const HEARTBEAT_ANXIOUS: Duration = Duration::from_millis(200);
/// A node that answers no heartbeat for so long is given up: in time to be heard by another one before what is in hand
/// has to be aborted.
const GIVE_UP_AFTER: Duration = Duration::from_secs(4);
/// How long whoever handles deliveries may take to let go of them once they are revoked.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);
/// How long acknowledgements gather while deliveries are at hand.
const ACK_PAUSE: Duration = Duration::from_millis(2);
/// Frames between this task and the connection: few, so that answers gather here while it is busy.
const FRAMES_AHEAD: usize = 2;

const _: () = assert!(BEGIN_WITHIN.as_millis() < GIVE_UP_AFTER.as_millis());
const _: () = assert!(GIVE_UP_AFTER.as_millis() < ABORT_WITHIN.as_millis());

pub(super) struct Run {
    cluster: Cluster,
    seek: Seek,
    shared: Arc<Shared>,
    close_max: Duration,
    lanes: BTreeMap<u32, Arc<Lane>>,
    /// Lanes that wait until an earlier one of this consumer to the same destination has let go.
    behind: Vec<Arc<Lane>>,
    agenda: Agenda,
}

/// An open stream.
struct Wire {
    address: String,
    outgoing: mpsc::Sender<DeliverRequest>,
    incoming: Streaming<DeliverResponse>,
}

/// Why a stream is over.
enum End {
    /// The consumer is closed.
    Closed,
    Failed(Refusal),
}

impl Shared {
    /// Tells the task of a lane's answers.
    pub(super) fn answers(&self, lane: &Arc<Lane>, hurry: Hurry) {
        if hurry == Hurry::default() {
            return;
        }
        let mut wanted = self.wanted();
        if hurry.list {
            wanted.answers.push(Arc::clone(lane));
        }
        let news = hurry.urgent && !wanted.urgent || hurry.list && wanted.answers.len() == 1;
        wanted.urgent |= hurry.urgent;
        drop(wanted);
        if news {
            self.arrived.notify_one();
        }
    }
}

impl Run {
    pub(super) fn new(settings: ConsumerBuilder, shared: Arc<Shared>) -> Self {
        let clock = settings.cluster.clock();
        let consumer_id = bytes_of(settings.cluster.random_uuid());
        Self {
            seek: Seek::new(settings.cluster.clone()),
            cluster: settings.cluster,
            shared,
            close_max: settings.close_max,
            lanes: BTreeMap::new(),
            behind: Vec::new(),
            agenda: Agenda::new(clock, consumer_id, settings.name),
        }
    }

    /// Runs until the consumer is closed. Dropping `finished` says so.
    pub(super) async fn run(mut self, finished: watch::Sender<()>) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = self.keep_stream() => {}
            never = shared.lease.notice_suspensions() => match never {},
        }
        drop(finished);
    }

    async fn keep_stream(&mut self) {
        while self.subscribed().await {
            let address = self.seek.next().await;
            let end = match self.connect(&address).await {
                Ok(wire) => self.converse(wire).await,
                Err(refusal) => End::Failed(refusal),
            };
            for lane in self.lanes.values() {
                lane.stream_ended();
            }
            let End::Failed(refusal) = end else { break };
            self.seek.failed(&address, &refusal);
            if is_final(&refusal) {
                let lanes = mem::take(&mut self.lanes).into_values();
                for lane in lanes.chain(mem::take(&mut self.behind)) {
                    lane.failed(&refusal);
                }
            }
        }
        // Whatever is in hand has no grant that anybody keeps alive.
        self.shared.lease.end();
    }

    /// Waits for a subscription; false once the consumer is closing.
    async fn subscribed(&mut self) -> bool {
        loop {
            if self.shared.is_closing() {
                return false;
            }
            self.take_wanted(Instant::now());
            if !self.lanes.is_empty() {
                return true;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Opens a stream, its first frame asking for the first subscriptions.
    async fn connect(&mut self, address: &str) -> Result<Wire, Refusal> {
        let (outgoing, frames) = mpsc::channel(FRAMES_AHEAD);
        self.agenda.begin(self.lanes.values());
        let first = self.agenda.next_frame(Instant::now());
        outgoing.try_send(first).expect("a new channel has room");
        let opened = open(&self.cluster, address, move |channel| async move {
            let mut client = DeliveryServiceClient::new(channel)
                .max_decoding_message_size(FRAME_BYTES_MAX)
                .max_encoding_message_size(FRAME_BYTES_MAX);
            client.deliver(ReceiverStream::new(frames)).await
        });
        let incoming = opened.await?.into_inner();
        Ok(Wire {
            address: address.to_owned(),
            outgoing,
            incoming,
        })
    }

    async fn converse(&mut self, mut wire: Wire) -> End {
        // When closing: until when what is in hand is waited for, and until when it is let go of.
        let mut close_by: Option<(Instant, Instant)> = None;
        loop {
            let now = Instant::now();
            self.take_wanted(now);
            if self.shared.is_closing() {
                let revoked_at = now + self.close_max;
                let (revoked_at, by) =
                    *close_by.get_or_insert((revoked_at, revoked_at + LET_GO_WITHIN));
                if now >= revoked_at {
                    self.shared.lease.end();
                }
                if now >= by || self.lanes.values().all(|lane| lane.state().in_hand == 0) {
                    self.leave(wire, by).await;
                    return End::Closed;
                }
            }
            let beat_at = self.beat_at(now);
            let silent_at = self
                .agenda
                .silent_since()
                .map(|since| since + GIVE_UP_AFTER);
            let close_at =
                close_by.map(|(revoked_at, by)| if now < revoked_at { revoked_at } else { by });
            let wake_at = [self.agenda.answer_at(now), close_at]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                biased;
                () = self.shared.arrived.notified() => {}
                () = sleep_until(silent_at.unwrap_or(now)), if silent_at.is_some() => {
                    let text = format!("{} answered no heartbeat for {GIVE_UP_AFTER:?}", wire.address);
                    return End::Failed(Refusal::local(Code::DeadlineExceeded, text));
                }
                () = sleep_until(beat_at), if !self.agenda.heartbeat_is_due() => self.agenda.heartbeat(),
                room = wire.outgoing.reserve(), if self.agenda.is_due(now) => match room {
                    Ok(room) => room.send(self.agenda.next_frame(now)),
                    Err(_) => return End::Failed(reason_of_end(&mut wire.incoming).await),
                },
                response = wire.incoming.message() => match response {
                    Ok(Some(response)) => {
                        self.seek.succeeded(&wire.address);
                        if let Err(refusal) = self.on_response(response) {
                            return End::Failed(refusal);
                        }
                    }
                    Ok(None) => return End::Failed(stream_end()),
                    Err(status) => return End::Failed(status.into()),
                },
                () = sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => {}
            }
        }
    }

    fn beat_at(&self, now: Instant) -> Instant {
        let pause = if self.shared.lease.may_begin() {
            HEARTBEAT_EVERY
        } else {
            HEARTBEAT_ANXIOUS
        };
        self.agenda.beaten_at().map_or(now, |at| at + pause)
    }

    /// Takes over what the handles ask for.
    fn take_wanted(&mut self, now: Instant) {
        let wanted = mem::take(&mut *self.shared.wanted());
        for number in wanted.unsubscribe {
            // One that the cluster ended is not there any more.
            if self.lanes.remove(&number).is_some() {
                self.agenda.unsubscribe(number);
            }
            self.behind.retain(|lane| lane.number != number);
        }
        let mut asked = mem::take(&mut self.behind);
        asked.extend(wanted.subscribe);
        for lane in asked {
            // Under one consumer's name the second would be handed what the first has in hand.
            let lingers = |there: &Arc<Lane>| there.lingers() && there.is_to(&lane);
            if self.lanes.values().any(lingers) {
                self.behind.push(lane);
            } else {
                self.lanes.insert(lane.number, Arc::clone(&lane));
                self.agenda.subscribe(lane);
            }
        }
        if !wanted.answers.is_empty() || wanted.urgent {
            self.agenda.answer(
                wanted.answers,
                now + if wanted.urgent {
                    Duration::ZERO
                } else {
                    ACK_PAUSE
                },
            );
        }
    }

    fn on_response(&mut self, response: DeliverResponse) -> Result<(), Refusal> {
        if response.heartbeat > 0
            && let Some(sent_at) = self.agenda.heartbeat_answered(response.heartbeat)
        {
            self.shared.lease.answered(sent_at);
        }
        for state in response.states {
            self.on_state(state)?;
        }
        for deliveries in response.deliveries {
            let Some(lane) = self.lanes.get(&deliveries.subscription) else {
                continue;
            };
            if deliveries
                .deliveries
                .iter()
                .any(|delivery| delivery.content.is_none())
            {
                return Err(Refusal::local(Code::Internal, "a delivery without content"));
            }
            let hurry = lane.received(deliveries.epoch, deliveries.deliveries);
            self.shared.answers(lane, hurry);
        }
        for result in response.results {
            self.on_result(&result)?;
        }
        Ok(())
    }

    fn on_state(&mut self, state: SubscriptionState) -> Result<(), Refusal> {
        let Some(lane) = self.lanes.get(&state.subscription) else {
            return Ok(());
        };
        match state.state {
            Some(State::Waiting(waiting)) => lane.wait_in_line(waiting.holder),
            Some(State::Granted(granted)) => lane.granted(&granted),
            Some(State::Ended(ended)) => match lane.ended(ended.reason(), ended.text) {
                Ended::AskAgain => self.agenda.subscribe(Arc::clone(lane)),
                Ended::ForNow(refusal) => return Err(refusal),
                Ended::ForGood => {
                    self.lanes.remove(&state.subscription);
                }
            },
            None => {}
        }
        Ok(())
    }

    /// An answer that was not recorded leaves a lane in doubt: a new stream begins it anew, at what was handled.
    fn on_result(&mut self, result: &AnswerResult) -> Result<(), Refusal> {
        let Some((number, epoch)) = self.agenda.answered() else {
            return Err(Refusal::local(
                Code::Internal,
                "more results than answers given",
            ));
        };
        let reason = result.reason();
        let matters = self
            .lanes
            .get(&number)
            .is_some_and(|lane| lane.is_epoch(epoch));
        if reason == Reason::Unspecified || !matters {
            return Ok(());
        }
        tracing::warn!(
            subscription = number,
            epoch,
            reason = reason.as_str_name(),
            text = result.text,
            "answer refused"
        );
        Err(Refusal::of_item(
            result.reason,
            format!("answer refused: {}", result.text),
            0,
        ))
    }

    /// Gives the last answers and then the grants back, and waits for the results until `by`.
    async fn leave(&mut self, mut wire: Wire, by: Instant) {
        let by = by.max(Instant::now() + Duration::from_secs(1));
        self.agenda.leave(mem::take(&mut self.lanes).into_values());
        let said = async {
            while self.agenda.is_due(by) {
                let Ok(room) = wire.outgoing.reserve().await else {
                    return;
                };
                room.send(self.agenda.next_frame(by));
            }
            // Its answer says that the node has read all before.
            self.agenda.heartbeat();
            let Ok(room) = wire.outgoing.reserve().await else {
                return;
            };
            room.send(self.agenda.next_frame(by));
            while !self.agenda.is_answered()
                && let Ok(Some(response)) = wire.incoming.message().await
            {
                for _ in &response.results {
                    self.agenda.answered();
                }
                self.agenda.heartbeat_answered(response.heartbeat);
            }
        };
        if timeout_at(by, said).await.is_err() {
            tracing::debug!(
                address = wire.address,
                "left without the last answers' results"
            );
        }
    }
}

/// No node will ever take this consumer.
fn is_final(refusal: &Refusal) -> bool {
    let replaced = refusal.reason == Reason::Replaced;
    let code = matches!(
        refusal.code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    );
    replaced || code
}
