//! Handing messages to the producer, each once at a time.
//!
//! A sender whose reply is delayed gives up after a while, connects anew and sends the same message again. Were each
//! such try a message of its own in the producer's queue, a pause of some hours would fill it with copies. So a message
//! that is on its way already is not handed over again: its sender waits for the answer to the first try.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use ordo_client::{Accepted, Message, Producer, Receipt, SendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

type Answer = Result<Accepted, SendError>;

/// Where messages of one interface are handed over. A producer, but for tests.
pub(crate) trait Sink: Send + Sync + 'static {
    /// The answer to come.
    type Receipt: Future<Output = Answer> + Send + 'static;

    /// Queues a message, which has an id, when there is room. Dropped before, nothing was queued; afterwards it can't be
    /// taken back.
    fn enqueue(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<Self::Receipt, SendError>> + Send;
}

/// What one interface of many may have on its way through the producer that they share, in bytes.
pub(crate) const SHARE_BYTES: usize = 1 << 20;

/// A producer's lane for one interface.
pub(crate) struct Lane {
    pub(crate) producer: Producer,
    pub(crate) interface: String,
    /// [`SHARE_BYTES`], where others have the same producer.
    pub(crate) share: Option<Arc<Semaphore>>,
}

impl Lane {
    /// Waits until the interface's share of the queue has room for so much.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = Arc::clone(self.share.as_ref()?);
        // One message goes through, however large.
        let bytes = u32::try_from(bytes.min(SHARE_BYTES)).unwrap_or(u32::MAX);
        share.acquire_many_owned(bytes).await.ok()
    }
}

impl Sink for Lane {
    type Receipt = LaneReceipt;

    async fn enqueue(&self, message: Message) -> Result<LaneReceipt, SendError> {
        let room = self.room(message.payload.len()).await;
        let receipt = self.producer.enqueue(&self.interface, message).await?;
        Ok(LaneReceipt {
            receipt,
            _room: room,
        })
    }
}

/// A receipt, and the room that its message takes until it is answered.
pub(crate) struct LaneReceipt {
    receipt: Receipt,
    _room: Option<OwnedSemaphorePermit>,
}

impl Future for LaneReceipt {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.receipt).poll(context)
    }
}

/// Hands messages to a [`Sink`].
pub(crate) struct Intake<K> {
    sink: K,
    on_their_way: Arc<Mutex<OnTheirWay>>,
    tasks: TaskTracker,
    abort: CancellationToken,
}

type OnTheirWay = HashMap<Uuid, Underway>;

struct Underway {
    payload: Bytes,
    answer: watch::Receiver<Option<Answer>>,
}

impl<K: Sink> Intake<K> {
    /// `abort` ends the wait for answers that don't come.
    pub(crate) fn new(sink: K, tasks: TaskTracker, abort: CancellationToken) -> Self {
        Self {
            sink,
            on_their_way: Arc::default(),
            tasks,
            abort,
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.on_their_way).is_empty()
    }

    /// Hands a message over and waits for its answer, as long as that takes. Dropping the future does not take a
    /// message back that was queued.
    pub(super) async fn take(&self, id: Uuid, message: Message) -> Answer {
        let payload = &message.payload.clone();
        let underway = self.find(id, payload);
        let mut answer = match underway {
            Some(answer) => answer,
            None => {
                let receipt = self.sink.enqueue(message.with_id(id)).await?;
                self.follow(id, payload, receipt)
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().expect("it was waited for"),
            // The task that follows the message was aborted.
            Err(_) => Err(SendError::Closed),
        }
    }

    fn find(&self, id: Uuid, payload: &Bytes) -> Option<watch::Receiver<Option<Answer>>> {
        let all = lock(&self.on_their_way);
        let underway = all
            .get(&id)
            .filter(|underway| underway.payload == payload)?;
        Some(underway.answer.clone())
    }

    /// Follows a queued message to its answer, whether or not its sender still waits.
    fn follow(
        &self,
        id: Uuid,
        payload: &Bytes,
        receipt: K::Receipt,
    ) -> watch::Receiver<Option<Answer>> {
        let (sender, answer) = watch::channel(None);
        let registered = {
            let mut all = lock(&self.on_their_way);
            // Another with the same id is on its way: either its bytes are others, or both came at once. The cluster
            // tells the two apart.
            let vacant = !all.contains_key(&id);
            if vacant {
                let underway = Underway {
                    payload: payload.clone(),
                    answer: answer.clone(),
                };
                all.insert(id, underway);
            }
            vacant
        };
        let (all, abort) = (Arc::clone(&self.on_their_way), self.abort.clone());
        self.tasks.spawn(async move {
            let answered = tokio::select! {
                biased;
                answered = receipt => Some(answered),
                () = abort.cancelled() => None,
            };
            if registered {
                lock(&all).remove(&id);
            }
            sender.send_replace(answered);
        });
        answer
    }
}

fn lock(all: &Mutex<OnTheirWay>) -> MutexGuard<'_, OnTheirWay> {
    // Nothing in there can be left half changed by a panic.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
