//! The Delivery service: what is released goes out as the releaser gives it, answers come in, one proposal per frame.

mod answer;

use super::outstanding::Outstanding;
use super::{
    FRAME_BYTES, FRAME_ITEMS, FRAMES_WAITING, READ_WITHIN, RESULTS, Stream, body_bytes, broken,
    bytes_of, end, failed, others_turn, unread,
};
use crate::admission::SubscriptionRoom;
use crate::context::Context;
use crate::leader::{
    Content, DeliverPush, Delivery, Event, Heard, SubscribeEvent, SubscriptionKey,
};
use crate::proposer::Proposed;
use answer::{Answers, Granted};
use ordo_core::{Epoch, InterfaceId, Rules};
use ordo_storage::BodyPlace;
use ordo_wire::convert::headers_to_proto;
use ordo_wire::request::subscription_of;
use ordo_wire::status::Failure;
use ordo_wire::v1::delivery_service_server::DeliveryService;
use ordo_wire::v1::{self, Reason, delivery, subscription_state};
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Frames of answers of one stream that are on their way.
const ANSWER_FRAMES: usize = 64;
/// How long deliveries wait when the leader can't be sure that it leads, before it looks again.
const QUORUM_RECHECK: Duration = Duration::from_millis(20);

/// See [`DeliveryService`].
pub(super) struct Deliver<R> {
    context: Arc<Context>,
    rules: PhantomData<R>,
}

impl<R> Deliver<R> {
    pub(super) const fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            rules: PhantomData,
        }
    }
}

type Responses = mpsc::Sender<Result<v1::DeliverResponse, Status>>;

#[tonic::async_trait]
impl<R: Rules> DeliveryService for Deliver<R> {
    type DeliverStream = ReceiverStream<Result<v1::DeliverResponse, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<v1::DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let stream = Stream::open(&self.context).await?;
        let (responses, receiver) = mpsc::channel(FRAMES_WAITING);
        let (push, pushes) = mpsc::unbounded_channel();
        let pump = Pump::<R> {
            rules: PhantomData,
            room: SubscriptionRoom::new(&self.context.admission),
            stream,
            push,
            heard: Heard::now(),
            subscriptions: BTreeMap::new(),
            out: VecDeque::new(),
            pending: Outstanding::new(ANSWER_FRAMES),
            next: v1::DeliverResponse::default(),
            waiting: false,
        };
        tokio::spawn(pump.run(request.into_inner(), pushes, responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream's task.
struct Pump<R> {
    rules: PhantomData<R>,
    stream: Stream,
    room: SubscriptionRoom,
    push: mpsc::UnboundedSender<DeliverPush>,
    heard: Arc<Heard>,
    /// What each subscription has been told and sent; `None` until it is granted.
    subscriptions: BTreeMap<u32, Option<Granted>>,
    /// Given by the releaser and not written.
    out: VecDeque<DeliverPush>,
    /// Answers that are proposed, oldest first.
    pending: Outstanding<Answers>,
    /// Results and heartbeats that go out next.
    next: v1::DeliverResponse,
    /// `next` holds something.
    waiting: bool,
}

impl<R: Rules> Pump<R> {
    async fn run(
        mut self,
        mut incoming: Streaming<v1::DeliverRequest>,
        mut pushes: mpsc::UnboundedReceiver<DeliverPush>,
        responses: Responses,
    ) {
        let context = Arc::clone(&self.stream.context);
        let _open = context.metrics.stream("delivery");
        let ended = self.serve(&mut incoming, &mut pushes, &responses).await;
        let numbers = self.subscriptions.keys().copied().collect();
        context.machine.send(Event::ConsumerLeft {
            session: self.stream.session,
            numbers,
        });
        if let Err(failure) = ended {
            end(&responses, &failure).await;
        }
    }

    /// Until the consumer leaves, or the stream has to end.
    async fn serve(
        &mut self,
        incoming: &mut Streaming<v1::DeliverRequest>,
        pushes: &mut mpsc::UnboundedReceiver<DeliverPush>,
        responses: &Responses,
    ) -> Result<(), Failure> {
        let context = Arc::clone(&self.stream.context);
        loop {
            // What the client does not read would have no bound if what it sends were.
            let waits = self.next.results.len() + self.next.states.len() + self.out.len();
            let reads = self.pending.has_room() && waits < RESULTS;
            let may_deliver = context.proposer.has_quorum();
            let delivers = self
                .out
                .front()
                .is_some_and(|push| may_deliver || !is_delivery(push));
            let held_back = !delivers && !self.out.is_empty();
            let writes = self.waiting || delivers;
            let read_by = self.stream.read_by(writes);
            tokio::select! {
                biased;
                failure = self.stream.lost() => return Err(failure),
                proposed = first(&mut self.pending), if !self.pending.is_empty() => self.answered(proposed)?,
                Some(push) = pushes.recv() => self.queue(push),
                permit = responses.reserve(), if writes => {
                    let Ok(permit) = permit else { return Ok(()) };
                    self.stream.unread_since = None;
                    self.read_ahead().await;
                    let response = self.response(context.proposer.has_quorum())?;
                    permit.send(Ok(response));
                }
                frame = incoming.message(), if reads => match frame {
                    Ok(Some(frame)) => {
                        self.frame(frame).await?;
                        others_turn().await;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        broken(responses, status).await;
                        return Ok(());
                    }
                },
                () = tokio::time::sleep(QUORUM_RECHECK), if held_back => {}
                () = tokio::time::sleep_until(read_by), if writes => return Err(unread(READ_WITHIN)),
            }
        }
    }

    /// What was sent under a lower epoch, and is not written yet, need not be written.
    fn queue(&mut self, push: DeliverPush) {
        if let DeliverPush::Granted { number, .. } | DeliverPush::Ended { number, .. } = push {
            let void = |there: &DeliverPush| matches!(there, DeliverPush::Deliveries { number: of, .. } if *of == number);
            self.out.retain(|there| !void(there));
        }
        self.out.push_back(push);
    }

    /// Does what a request says.
    async fn frame(&mut self, frame: v1::DeliverRequest) -> Result<(), Failure> {
        let bytes = frame.encoded_len();
        let session = self.stream.session;
        let context = Arc::clone(&self.stream.context);
        // Before anything else in the frame: whoever subscribes is there.
        if frame.heartbeat != 0 || !frame.subscribe.is_empty() {
            self.heard.touch();
        }
        for subscribe in frame.subscribe {
            self.subscribe(subscribe).await?;
        }
        if !frame.answers.is_empty() {
            let (mut answers, commands) = Answers::check::<R>(frame.answers, &self.subscriptions);
            if !commands.is_empty() {
                answers.proposed = Some(context.proposer.propose(commands));
            }
            self.pending.push(answers, bytes);
        }
        for number in frame.unsubscribe {
            let event = Event::Unsubscribe(SubscriptionKey { session, number });
            self.stream.tell(event, 1).await?;
        }
        // Only a leader with a valid quorum lease answers: a consumer that hears nothing starts no delivery.
        if frame.heartbeat != 0 && context.proposer.has_quorum() {
            self.next.heartbeat = frame.heartbeat;
            self.waiting = true;
        }
        Ok(())
    }

    async fn subscribe(&mut self, subscribe: v1::Subscribe) -> Result<(), Failure> {
        let number = subscribe.subscription;
        let key = SubscriptionKey {
            session: self.stream.session,
            number,
        };
        let event = check_subscribe(subscribe, key, &self.heard, &self.push);
        let refused = match event {
            Ok(_) if self.subscriptions.contains_key(&number) => Failure::field(
                "subscription",
                format!("subscription {number} is open already on this stream"),
            ),
            Ok(event) => match self.room.take() {
                Ok(()) => {
                    self.subscriptions.insert(number, None);
                    return self.stream.tell(Event::Subscribe(event), 1).await;
                }
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        // Not through the queue: a subscription of that number may be open.
        let ended = v1::SubscriptionEnded {
            reason: refused.reason.into(),
            text: refused.text,
        };
        self.next.states.push(v1::SubscriptionState {
            subscription: number,
            state: Some(subscription_state::State::Ended(ended)),
        });
        self.waiting = true;
        Ok(())
    }

    /// The oldest frame of answers is applied.
    fn answered(&mut self, proposed: Proposed) -> Result<(), Failure> {
        let Some(answers) = self.pending.pop() else {
            return Ok(());
        };
        let context = &self.stream.context;
        let replies = proposed.map_err(|error| failed(context, error))?;
        self.next
            .results
            .append(&mut answers.results(context, replies));
        self.waiting = true;
        Ok(())
    }

    /// Has the bodies of the next frame in memory.
    async fn read_ahead(&self) {
        let deliveries = self.out.iter().filter_map(|push| match push {
            DeliverPush::Deliveries {
                number, deliveries, ..
            } => Some((self.subscriptions.get(number)?.as_ref()?, deliveries)),
            _ => None,
        });
        let places = deliveries.flat_map(|(granted, deliveries)| {
            deliveries
                .iter()
                .filter_map(|delivery| match delivery.content {
                    Content::Message {
                        body_of,
                        header_rows,
                        ..
                    } => Some(BodyPlace {
                        interface: granted.interface,
                        body_of,
                        header_rows,
                    }),
                    Content::Skip { .. } => None,
                })
        });
        let places: Vec<_> = places.take(FRAME_ITEMS).collect();
        super::read_ahead(&self.stream.context, &places).await;
    }

    /// What there is to send, up to a frame's bytes; bodies are read here.
    fn response(&mut self, may_deliver: bool) -> Result<v1::DeliverResponse, Failure> {
        let mut response = std::mem::take(&mut self.next);
        self.waiting = false;
        let (mut bytes, mut items) = (0, 0);
        while bytes < FRAME_BYTES && items < FRAME_ITEMS {
            let Some(push) = self.out.front() else { break };
            // States stand before deliveries in a frame: one that came later belongs to the next frame.
            let fits = if is_delivery(push) {
                may_deliver
            } else {
                response.deliveries.is_empty()
            };
            if !fits {
                break;
            }
            let Some(push) = self.out.pop_front() else {
                break;
            };
            match push {
                DeliverPush::Deliveries {
                    number,
                    epoch,
                    deliveries,
                } => {
                    let (sent, rest, size) =
                        self.read(number, epoch, deliveries, FRAME_BYTES - bytes)?;
                    items += sent.len();
                    bytes += size;
                    if !sent.is_empty() {
                        response.deliveries.push(v1::Deliveries {
                            subscription: number,
                            epoch: epoch.0,
                            deliveries: sent,
                        });
                    }
                    if !rest.is_empty() {
                        self.out.push_front(DeliverPush::Deliveries {
                            number,
                            epoch,
                            deliveries: rest,
                        });
                    }
                }
                state => response.states.push(self.state_of(state)),
            }
        }
        self.stream.context.metrics.sent.inc_by(items as u64);
        Ok(response)
    }

    /// Reads bodies until `room` bytes are used up; what is left comes back.
    fn read(
        &mut self,
        number: u32,
        epoch: Epoch,
        deliveries: Vec<Delivery>,
        room: usize,
    ) -> Result<(Vec<v1::Delivery>, Vec<Delivery>, usize), Failure> {
        let mut sent = Vec::with_capacity(deliveries.len());
        let mut size = 0;
        let mut left = deliveries.into_iter();
        let granted = self.subscriptions.get_mut(&number).and_then(Option::as_mut);
        let Some(granted) = granted.filter(|granted| granted.epoch == epoch && !granted.broken)
        else {
            return Ok((sent, Vec::new(), 0));
        };
        while size < room {
            let Some(next) = left.next() else { break };
            let sequence = next.sequence;
            let Some(delivery) =
                delivery_of(&self.stream.context, granted.interface, next, &mut size)?
            else {
                // Acknowledged under another epoch in the meantime: nothing behind it may go out under this one.
                tracing::debug!(interface = %granted.interface, %sequence, %epoch, "a delivery was overtaken");
                granted.broken = true;
                return Ok((sent, Vec::new(), size));
            };
            granted.sent = sequence;
            sent.push(delivery);
        }
        Ok((sent, left.collect(), size))
    }

    fn state_of(&mut self, push: DeliverPush) -> v1::SubscriptionState {
        use subscription_state::State;
        let (subscription, state) = match push {
            DeliverPush::Waiting { number, holder } => {
                (number, State::Waiting(v1::SubscriptionWaiting { holder }))
            }
            DeliverPush::Granted {
                number,
                epoch,
                checkpoint,
                interface,
                destination,
                incarnation,
            } => {
                let granted = Granted {
                    interface,
                    destination,
                    epoch,
                    sent: checkpoint,
                    checkpoint,
                    broken: false,
                };
                self.subscriptions.insert(number, Some(granted));
                let granted = v1::SubscriptionGranted {
                    epoch: epoch.0,
                    checkpoint: checkpoint.0,
                    interface_id: bytes_of(interface.0),
                    incarnation: incarnation.0,
                };
                (number, State::Granted(granted))
            }
            DeliverPush::Ended {
                number,
                reason,
                text,
            } => {
                if self.subscriptions.remove(&number).is_some() {
                    self.room.give_back();
                }
                (
                    number,
                    State::Ended(v1::SubscriptionEnded {
                        reason: reason.into(),
                        text,
                    }),
                )
            }
            DeliverPush::Deliveries { .. } => unreachable!("deliveries are no state"),
        };
        v1::SubscriptionState {
            subscription,
            state: Some(state),
        }
    }
}

const fn is_delivery(push: &DeliverPush) -> bool {
    matches!(push, DeliverPush::Deliveries { .. })
}

/// The replies to the oldest frame of answers.
async fn first(pending: &mut Outstanding<Answers>) -> Proposed {
    match pending
        .first_mut()
        .and_then(|answers| answers.proposed.as_mut())
    {
        Some(proposed) => proposed.await,
        None => Ok(Vec::new()),
    }
}

fn delivery_of(
    context: &Context,
    interface: InterfaceId,
    delivery: Delivery,
    size: &mut usize,
) -> Result<Option<v1::Delivery>, Failure> {
    let message_id = bytes_of(delivery.message_id.0);
    let content = match delivery.content {
        Content::Skip {
            reason,
            dead_letter,
        } => delivery::Content::Skip(v1::SkipMarker {
            reason: reason.into(),
            message_id,
            dead_letter,
        }),
        Content::Message {
            body_of,
            header_rows,
            accepted_at,
            redrive_of,
        } => {
            let body = context.store.body(interface, body_of, header_rows);
            let body =
                body.map_err(|error| Failure::new(Reason::Unspecified, error.to_string()))?;
            let Some(body) = body else { return Ok(None) };
            *size += body_bytes(&body);
            delivery::Content::Message(v1::DeliveredMessage {
                message_id,
                headers: headers_to_proto(&body.headers),
                payload: body.payload,
                accepted_at_ms: accepted_at.0,
                redrive_of: redrive_of.0,
            })
        }
    };
    Ok(Some(v1::Delivery {
        sequence: delivery.sequence.0,
        attempts: delivery.attempts,
        repeats: delivery.repeats,
        content: Some(content),
    }))
}

fn check_subscribe(
    subscribe: v1::Subscribe,
    key: SubscriptionKey,
    heard: &Arc<Heard>,
    push: &mpsc::UnboundedSender<DeliverPush>,
) -> Result<SubscribeEvent, Failure> {
    let credits = subscribe.credits;
    let wanted = subscription_of(subscribe)?;
    Ok(SubscribeEvent {
        key,
        interface: wanted.interface,
        destination: wanted.destination,
        consumer: wanted.consumer,
        name: wanted.name,
        credits,
        position: wanted.position,
        heard: Arc::clone(heard),
        push: push.clone(),
    })
}
