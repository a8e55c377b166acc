//! The bare protocol, for rogues: streams to the leader, without any of the client library's care.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ordo_client::{Connect, Refusal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

/// How long a stream may take to open.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// The pause before another node is tried.
const PAUSE: Duration = Duration::from_millis(50);
/// Frames that wait to be written.
const FRAMES_MAX: usize = 16;

/// Where rogues connect, and how.
#[derive(Clone)]
pub struct Raw {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Box<dyn Connect>,
    addresses: Vec<String>,
    leader: Mutex<Option<String>>,
    cursor: AtomicUsize,
}

/// A stream, both ways.
pub(super) struct Frames<Q, R> {
    pub(super) requests: mpsc::Sender<Q>,
    pub(super) responses: Streaming<R>,
}

impl Raw {
    /// The nodes at `addresses`, reached through `connector`.
    ///
    /// # Panics
    /// No address is given.
    #[must_use]
    pub fn new<A: Into<String>>(
        connector: impl Connect,
        addresses: impl IntoIterator<Item = A>,
    ) -> Self {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        assert!(!addresses.is_empty(), "a rogue needs a node to talk to");
        Self {
            shared: Arc::new(Shared {
                connector: Box::new(connector),
                addresses,
                leader: Mutex::default(),
                cursor: AtomicUsize::new(0),
            }),
        }
    }

    /// Opens a stream at the leader, with its first frame; tries until that succeeds.
    pub(super) async fn open<Q, R, F>(
        &self,
        first: Option<Q>,
        call: impl Fn(Channel, ReceiverStream<Q>) -> F,
    ) -> Frames<Q, R>
    where
        Q: Clone,
        F: Future<Output = Result<Response<Streaming<R>>, Status>>,
    {
        loop {
            let address = self.next_address();
            let (requests, frames) = mpsc::channel(FRAMES_MAX);
            if let Some(first) = first.clone() {
                // There is room, and the other end is here.
                let _ = requests.try_send(first);
            }
            let Ok(channel) = self.shared.connector.channel(&address) else {
                sleep(PAUSE).await;
                continue;
            };
            match timeout(OPEN_MAX, call(channel, ReceiverStream::new(frames))).await {
                Ok(Ok(response)) => {
                    *self.leader() = Some(address);
                    let responses = response.into_inner();
                    return Frames {
                        requests,
                        responses,
                    };
                }
                Ok(Err(status)) => *self.leader() = Refusal::from(status).leader,
                Err(_) => *self.leader() = None,
            }
            sleep(PAUSE).await;
        }
    }

    /// The leader, where one is known, once: it is forgotten until it has answered.
    fn next_address(&self) -> String {
        let shared = &self.shared;
        self.leader().take().unwrap_or_else(|| {
            let next = shared.cursor.fetch_add(1, Ordering::Relaxed);
            shared.addresses[next % shared.addresses.len()].clone()
        })
    }

    fn leader(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // One value that is replaced whole.
        let leader = self.shared.leader.lock();
        leader.unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw")
            .field("addresses", &self.shared.addresses)
            .finish_non_exhaustive()
    }
}
