//! Handing messages to interfaces: ordered, pipelined, replayed after a leader change.

mod lanes;
mod run;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use ordo_wire::v1::{Header, IngestMessage};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tonic::Code;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::bytes_of;
use crate::cluster::Cluster;
use crate::error::{ConfigError, Refusal, SendError};
use lanes::{Entry, FRAME_HEADERS_MAX};

/// What an unanswered message costs beside its payload and headers, in bytes.
const ENTRY_BYTES: usize = 256;
/// The largest message that is sent at all: a node reads frames of 32 MiB. It takes 1 MiB of payload unless
/// configured otherwise.
const MESSAGE_BYTES_MAX: usize = 30 << 20;

/// A message for an interface.
#[derive(Clone, Default)]
pub struct Message {
    /// Its identity on its interface. None: a random one, so that only this producer's own replays are recognized.
    pub message_id: Option<Uuid>,
    /// What it carries.
    pub payload: Bytes,
    /// Names and values that travel beside the payload.
    pub headers: Vec<Header>,
    /// Its number, dense from 1 on its interface, where the producer has a name and numbers its messages itself.
    pub producer_sequence: Option<u64>,
    /// By what a repetition under its id is known to be the same. None: payload and headers, to the byte.
    pub digest: Option<[u8; 16]>,
}

impl Message {
    /// A message with a random id and no headers.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// Gives it an identity: the same id with the same payload is accepted once, however often it is sent.
    #[must_use]
    pub fn with_id(mut self, message_id: Uuid) -> Self {
        self.message_id = Some(message_id);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Says that a repetition under its id is the same message where it is known by these bytes, whatever else differs;
    /// without headers, by the payload is as without this call.
    #[must_use]
    pub fn known_by(mut self, bytes: &[u8]) -> Self {
        self.digest = Some(ordo_wire::convert::digest(bytes, &[]).0);
        self
    }

    /// Numbers it.
    #[must_use]
    pub fn numbered(mut self, producer_sequence: u64) -> Self {
        self.producer_sequence = Some(producer_sequence);
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("message_id", &self.message_id)
            .field("payload_bytes", &self.payload.len())
            .field("headers", &self.headers.len())
            .field("producer_sequence", &self.producer_sequence)
            .finish()
    }
}

/// The cluster's answer: on disk on a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message's place on its interface.
    pub sequence: u64,
    /// The message was known already; this is its first answer again.
    pub duplicate: bool,
}

/// What becomes of a message that is refused for the moment (window full, paused, node full).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefusal {
    /// It is sent again until it is accepted, and everything behind it on its interface waits.
    #[default]
    Retry,
    /// Its send fails, and what is behind it goes on.
    GiveUp,
}

/// Settings of a [`Producer`].
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    cluster: Cluster,
    name: String,
    on_refusal: OnRefusal,
    give_up_after: Option<Duration>,
    queue_bytes_max: usize,
    stall_max: Duration,
}

impl ProducerBuilder {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            name: String::new(),
            on_refusal: OnRefusal::Retry,
            give_up_after: None,
            queue_bytes_max: 64 << 20,
            stall_max: Duration::from_secs(10),
        }
    }

    /// The name under which messages are numbered, where the producer numbers them itself
    /// ([`Message::numbered`]).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What becomes of messages that are refused for the moment. Default: they are sent again, in order.
    #[must_use]
    pub fn on_refusal(mut self, on_refusal: OnRefusal) -> Self {
        self.on_refusal = on_refusal;
        self
    }

    /// Fails what is unanswered when no leader was found for so long. Default: it waits as long as it takes.
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = Some(time);
        self
    }

    /// How much may be unanswered at once, in bytes, 256 more counted for every message. Default 64 MiB.
    #[must_use]
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.queue_bytes_max = bytes;
        self
    }

    /// How long a stream may leave messages unanswered before it is given up and everything replayed on another.
    /// Default 10 s.
    #[must_use]
    pub fn stall_max(mut self, time: Duration) -> Self {
        self.stall_max = time;
        self
    }

    /// The producer. It connects with its first message. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting has a value that is not allowed.
    pub fn start(self) -> Result<Producer, ConfigError> {
        let range = 1024..=(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        if !range.contains(&self.queue_bytes_max) {
            let text = format!(
                "{} is not within {} to {}",
                self.queue_bytes_max,
                range.start(),
                range.end()
            );
            return Err(ConfigError::Field {
                field: "queue_bytes_max",
                text,
            });
        }
        let (finished, watching) = watch::channel(());
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            arrived: Notify::new(),
            room: Semaphore::new(self.queue_bytes_max),
            outstanding: AtomicUsize::new(0),
            idle: Notify::new(),
            closed: AtomicBool::new(false),
        });
        tokio::spawn(run::Run::new(self.clone(), Arc::clone(&shared)).run(finished));
        let handle = Handle {
            shared,
            settings: self,
            finished: watching,
        };
        Ok(Producer {
            handle: Arc::new(handle),
        })
    }
}

/// Sends messages in order, many at once. Cheap to clone; clones share one stream and one order.
///
/// What was sent and not answered when a stream ends is replayed in order on the next, and recognized by its
/// `message_id`: nothing is lost, doubled or reordered by a leader change. When the last clone is dropped, what is
/// queued is still sent, as long as the runtime lives; [`Producer::close`] waits for that.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    settings: ProducerBuilder,
    finished: watch::Receiver<()>,
}

/// Shared between the producer's handles and its task.
struct Shared {
    queue: Mutex<Queue>,
    /// Something arrived in the queue, or the producer was closed.
    arrived: Notify,
    /// Bytes that may still be queued.
    room: Semaphore,
    /// Messages not answered yet.
    outstanding: AtomicUsize,
    /// `outstanding` became 0.
    idle: Notify,
    closed: AtomicBool,
}

/// What waits to be taken over by the task.
#[derive(Default)]
struct Queue {
    /// Interfaces by name; the numbers are those of the task's lanes.
    lanes: HashMap<Arc<str>, u32, Xxh3DefaultBuilder>,
    /// Names of lanes that the task does not know yet, in the order of their numbers.
    new_lanes: Vec<Arc<str>>,
    entries: Vec<(u32, Entry)>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Producer {
    /// Sends a message. Its place in the order is that of this call, whenever the future is polled; dropping the
    /// future does not take the message back. Fails at once where the queue is full: [`Producer::enqueue`] waits.
    pub fn send(
        &self,
        interface: &str,
        message: Message,
    ) -> impl Future<Output = Result<Accepted, SendError>> + Send + 'static + use<> {
        let receipt = self.try_enqueue(interface, message);
        async move { receipt?.await }
    }

    /// Queues a message when there is room, and returns a receipt on which its answer can be awaited. Its place in
    /// the order is that in which these calls return.
    ///
    /// # Errors
    /// The message is not allowed, or the producer is closed; nothing was sent.
    pub async fn enqueue(&self, interface: &str, message: Message) -> Result<Receipt, SendError> {
        let (message, cost) = self.checked(interface, message)?;
        let room = self
            .handle
            .shared
            .room
            .acquire_many(cost)
            .await
            .map_err(|_| SendError::Closed)?;
        room.forget();
        self.push(interface, message, cost)
    }

    /// As [`Producer::enqueue`], but fails where there is no room.
    ///
    /// # Errors
    /// The queue is full, the message is not allowed, or the producer is closed; nothing was sent.
    pub fn try_enqueue(&self, interface: &str, message: Message) -> Result<Receipt, SendError> {
        let (message, cost) = self.checked(interface, message)?;
        match self.handle.shared.room.try_acquire_many(cost) {
            Ok(room) => room.forget(),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(SendError::Closed),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                return Err(SendError::QueueFull {
                    limit_bytes: self.handle.settings.queue_bytes_max,
                });
            }
        }
        self.push(interface, message, cost)
    }

    /// Waits until nothing is unanswered.
    pub async fn flush(&self) {
        let shared = &self.handle.shared;
        let mut idle = pin!(shared.idle.notified());
        while shared.outstanding.load(Ordering::Acquire) > 0 {
            // Registered before the count is read again, so that no wake-up falls between.
            if !idle.as_mut().enable() && shared.outstanding.load(Ordering::Acquire) > 0 {
                idle.as_mut().await;
            }
            idle.set(shared.idle.notified());
        }
    }

    /// Takes no more messages, and waits until every one has its answer.
    pub async fn close(&self) {
        self.handle.close();
        let mut finished = self.handle.finished.clone();
        // The task never sends on it; it ends by dropping its side.
        let _ = finished.changed().await;
    }

    fn checked(
        &self,
        interface: &str,
        message: Message,
    ) -> Result<(IngestMessage, u32), SendError> {
        let invalid = |field, text: &str| {
            Err(SendError::Invalid {
                field,
                text: text.to_owned(),
            })
        };
        if interface.is_empty() || interface.len() > 255 {
            return invalid("interface", "a name has 1 to 255 bytes");
        }
        let numbered = message.producer_sequence.is_some();
        if numbered == self.handle.settings.name.is_empty() {
            let text = "messages are numbered when, and only when, the producer has a name";
            return invalid("producer_sequence", text);
        }
        if message.producer_sequence == Some(0) {
            return invalid("producer_sequence", "numbers begin at 1");
        }
        let count = message.headers.len();
        if count > FRAME_HEADERS_MAX {
            let text = format!("there are {count}, past the {FRAME_HEADERS_MAX} of a frame");
            return Err(SendError::Invalid {
                field: "headers",
                text,
            });
        }
        let headers: usize = message
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.len() + 8)
            .sum();
        let bytes = message.payload.len() + headers;
        if bytes > MESSAGE_BYTES_MAX {
            let text =
                format!("{bytes} bytes with its headers, past the {MESSAGE_BYTES_MAX} of a frame");
            return Err(SendError::Invalid {
                field: "payload",
                text,
            });
        }
        let cost = (bytes + ENTRY_BYTES).min(self.handle.settings.queue_bytes_max);
        let message_id = message
            .message_id
            .unwrap_or_else(|| self.handle.settings.cluster.random_uuid());
        let message = IngestMessage {
            message_id: bytes_of(message_id),
            payload: message.payload,
            headers: message.headers,
            producer_sequence: message.producer_sequence.unwrap_or(0),
            digest: message
                .digest
                .map(|digest| Bytes::copy_from_slice(&digest))
                .unwrap_or_default(),
        };
        Ok((message, u32::try_from(cost).unwrap_or(u32::MAX)))
    }

    fn push(
        &self,
        interface: &str,
        message: IngestMessage,
        cost: u32,
    ) -> Result<Receipt, SendError> {
        let (reply, answer) = oneshot::channel();
        let shared = &self.handle.shared;
        let mut queue = shared.queue();
        if shared.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed);
        }
        let lane = match queue.lanes.get(interface) {
            Some(lane) => *lane,
            None => {
                let name: Arc<str> = interface.into();
                let lane = u32::try_from(queue.lanes.len())
                    .expect("an interface takes memory: there are fewer");
                queue.lanes.insert(Arc::clone(&name), lane);
                queue.new_lanes.push(name);
                lane
            }
        };
        queue.entries.push((
            lane,
            Entry {
                message,
                cost,
                sent: false,
                in_doubt: false,
                reply,
            },
        ));
        let first = queue.entries.len() == 1;
        // Counted under the lock, so that the task can't subtract an answer first.
        shared.outstanding.fetch_add(1, Ordering::AcqRel);
        drop(queue);
        if first {
            shared.arrived.notify_one();
        }
        Ok(Receipt { answer })
    }
}

impl Handle {
    fn close(&self) {
        let queue = self.shared.queue();
        self.shared.closed.store(true, Ordering::Release);
        drop(queue);
        self.shared.room.close();
        self.shared.arrived.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outstanding = self.handle.shared.outstanding.load(Ordering::Acquire);
        f.debug_struct("Producer")
            .field("outstanding", &outstanding)
            .finish_non_exhaustive()
    }
}

/// The answer to one message, to be awaited. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "without its answer nothing is known of the message"]
pub struct Receipt {
    answer: oneshot::Receiver<Result<Accepted, SendError>>,
}

impl Future for Receipt {
    type Output = Result<Accepted, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.answer).poll(context)) {
            Ok(result) => result,
            Err(_) => {
                let text = "the producer's task ended";
                Err(SendError::OutcomeUnknown(Box::new(Refusal::local(
                    Code::Aborted,
                    text,
                ))))
            }
        })
    }
}
