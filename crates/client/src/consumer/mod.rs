//! Receiving each interface's messages in sequence order: under a grant, with cumulative acknowledgements.

mod agenda;
mod delivery;
mod lane;
mod lease;
mod run;
mod subscription;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ordo_wire::v1;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::admin::Admin;
use crate::bytes_of;
use crate::cluster::Cluster;
use crate::error::{CallError, ConfigError, ConsumeError};
use lane::Lane;
use lease::Lease;

pub use delivery::{Answer, Content, Delivery};
pub use subscription::Subscription;

/// Names one delivery for good, across restores: what a receiver stores with its own data to discard repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The interface's UUID.
    pub interface_id: Uuid,
    /// Raised by a restore from a backup.
    pub incarnation: u32,
    /// The delivery's sequence.
    pub sequence: u64,
}

impl Position {
    fn to_wire(self) -> v1::Position {
        let Self {
            interface_id,
            incarnation,
            sequence,
        } = self;
        v1::Position {
            interface_id: bytes_of(interface_id),
            incarnation,
            sequence,
        }
    }
}

/// What to subscribe to.
#[derive(Clone, Debug)]
pub struct SubscribeTo {
    interface: String,
    destination: String,
    credits: u32,
    position: Option<Position>,
}

impl SubscribeTo {
    /// The interface's destination called "default".
    #[must_use]
    pub fn interface(name: impl Into<String>) -> Self {
        Self {
            interface: name.into(),
            destination: String::new(),
            credits: 0,
            position: None,
        }
    }

    /// Another destination.
    #[must_use]
    pub fn destination(mut self, name: impl Into<String>) -> Self {
        self.destination = name.into();
        self
    }

    /// How many deliveries may be unacknowledged at once. Default: as many as the destination allows.
    #[must_use]
    pub fn credits(mut self, credits: u32) -> Self {
        self.credits = credits;
        self
    }

    /// The last delivery the receiver has stored with its own data: counts as an acknowledgement.
    #[must_use]
    pub fn position(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }
}

impl From<&str> for SubscribeTo {
    fn from(interface: &str) -> Self {
        Self::interface(interface)
    }
}

impl From<String> for SubscribeTo {
    fn from(interface: String) -> Self {
        Self::interface(interface)
    }
}

/// Where a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// No leader has answered yet.
    Connecting,
    /// Another consumer holds the grant; this one stands in line.
    Waiting {
        /// The holder's name.
        holder: String,
    },
    /// This consumer holds the grant.
    Granted {
        /// Its epoch: the fencing token.
        epoch: u64,
        /// Everything through this sequence is done.
        checkpoint: u64,
    },
    /// The cluster or the consumer ended it.
    Ended,
}

/// Settings of a [`Consumer`].
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    cluster: Cluster,
    name: String,
    close_max: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            name: "consumer".to_owned(),
            close_max: Duration::from_secs(10),
        }
    }

    /// What people see the consumer as.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long [`Consumer::close`] waits for deliveries in hand; then they are revoked. Default 10 s.
    #[must_use]
    pub fn close_max(mut self, time: Duration) -> Self {
        self.close_max = time;
        self
    }

    /// The consumer. It connects with its first subscription. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting has a value that is not allowed.
    pub fn start(self) -> Result<Consumer, ConfigError> {
        if self.name.len() > 255 {
            let text = format!("has {} bytes, past the 255", self.name.len());
            return Err(ConfigError::Field {
                field: "name",
                text,
            });
        }
        let (finished, watching) = watch::channel(());
        let shared = Arc::new(Shared {
            wanted: Mutex::new(Wanted::default()),
            arrived: Notify::new(),
            lease: Lease::new(self.cluster.clock()),
            closing: AtomicBool::new(false),
        });
        let admin = Admin::new(self.cluster.clone());
        tokio::spawn(run::Run::new(self, Arc::clone(&shared)).run(finished));
        Ok(Consumer {
            admin,
            shared,
            next_number: AtomicU32::new(1),
            finished: watching,
        })
    }
}

/// Receives messages. All its subscriptions share one stream; each is handled in order, different ones at once.
///
/// Dropping it ends its subscriptions as [`Consumer::close`] does, without waiting.
pub struct Consumer {
    admin: Admin,
    shared: Arc<Shared>,
    next_number: AtomicU32,
    finished: watch::Receiver<()>,
}

/// Shared between the consumer, its subscriptions, their deliveries and its task.
struct Shared {
    wanted: Mutex<Wanted>,
    /// Something arrived in `wanted`, or the consumer is closing.
    arrived: Notify,
    /// Until when deliveries may be started, and be in hand.
    lease: Lease,
    closing: AtomicBool,
}

/// What the task is to tell the node.
#[derive(Default)]
struct Wanted {
    subscribe: Vec<Arc<Lane>>,
    unsubscribe: Vec<u32>,
    /// Lanes with answers to give.
    answers: Vec<Arc<Lane>>,
    /// The answers are not to wait for more.
    urgent: bool,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// A subscription is over, and nothing of it in hand.
    fn give_back(&self, number: u32) {
        self.wanted().unsubscribe.push(number);
        self.arrived.notify_one();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.arrived.notify_one();
        // Subscriptions that wait for a delivery look again.
        self.lease.look_again();
    }
}

impl Consumer {
    /// Subscribes. Deliveries come once the grant is this consumer's; where another holds it, this one stands in
    /// line.
    #[must_use = "dropping it gives the grant back"]
    pub fn subscribe(&self, to: impl Into<SubscribeTo>) -> Subscription {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let lane = Arc::new(Lane::new(number, to.into()));
        self.shared.wanted().subscribe.push(Arc::clone(&lane));
        self.shared.arrived.notify_one();
        Subscription::new(lane, Arc::clone(&self.shared))
    }

    /// Handles several subscriptions with one handler: each in its order, different ones at once. Returns when the
    /// consumer is closed, or with the first subscription's error.
    /// Not for `tokio::spawn`: there each subscription has its own task, see [`Subscription::run`].
    ///
    /// # Errors
    /// A subscription was ended by the cluster.
    pub async fn run<S: Into<SubscribeTo>>(
        &self,
        subscriptions: impl IntoIterator<Item = S>,
        handler: impl AsyncFn(&Delivery) -> Answer,
    ) -> Result<(), ConsumeError> {
        let handler = &handler;
        let mut running = FuturesUnordered::new();
        for to in subscriptions {
            let mut subscription = self.subscribe(to);
            running.push(async move { subscription.run(handler).await });
        }
        while let Some(result) = running.next().await {
            result?;
        }
        Ok(())
    }

    /// Keeps what the receiver said of a message after its delivery was settled, with the message's history: see
    /// [`Admin::note_delivery`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn note(
        &self,
        interface: &str,
        destination: &str,
        sequence: u64,
        epoch: u64,
        code: &str,
        text: &str,
    ) -> Result<(), CallError> {
        let note = v1::NoteDeliveryRequest {
            interface: interface.to_owned(),
            destination: destination.to_owned(),
            sequence,
            epoch,
            code: code.to_owned(),
            text: text.to_owned(),
        };
        self.admin.note_delivery(note).await
    }

    /// Starts no more deliveries, waits for those in hand and their answers, and gives the grants back. What is in hand
    /// for too long is revoked, see [`Delivery::revoked`]; where it is not let go of then, its grant is not given back
    /// but left to end for want of heartbeats.
    pub async fn close(&self) {
        self.shared.close();
        let mut finished = self.finished.clone();
        // The task never sends on it; it ends by dropping its side.
        let _ = finished.changed().await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("lease", &self.shared.lease)
            .finish_non_exhaustive()
    }
}
