//! What streams tell the loops, and what the loops push into streams.

use super::glance::Glance;
use crate::proposer::Proposed;
use ordo_core::{
    ConsumerId, DestinationNumber, Epoch, Incarnation, InterfaceId, MessageId, Sequence,
    StageNumber, Turn, WallTime,
};
use ordo_wire::v1::{Reason, SkipReason};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use uuid::Uuid;

/// One client stream; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The next one.
    #[must_use]
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A worker's identity, the same over its reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub Uuid);

/// A message's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its interface.
    pub interface: InterfaceId,
    /// Its sequence.
    pub sequence: Sequence,
}

/// An (interface, destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineKey {
    /// The interface.
    pub interface: InterfaceId,
    /// The destination.
    pub destination: DestinationNumber,
}

/// One subscription of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey {
    /// The stream.
    pub session: SessionId,
    /// The client's number for it.
    pub number: u32,
}

/// An assignment as a worker names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The message.
    pub place: Place,
    /// The stage's name.
    pub stage: String,
    /// The turn it was assigned in.
    pub turn: Turn,
}

/// An assignment that is no longer in its worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The message.
    pub place: Place,
    /// The turn it was assigned in.
    pub turn: Turn,
}

/// A worker that comes, or comes back.
#[derive(Debug)]
pub struct WorkerHello {
    /// Its stream.
    pub session: SessionId,
    /// Its identity.
    pub worker: WorkerId,
    /// For people.
    pub name: String,
    /// The stages it works on.
    pub stages: Vec<String>,
    /// Only interfaces whose names begin so.
    pub interface_prefix: String,
    /// What it still holds.
    pub holds: Vec<Hold>,
    /// How many assignments it wants to hold at once.
    pub credits: u32,
    /// Set when it loses a lease. Its stream clears it at the next word, with [`Event::WorkerSpoke`].
    pub silent: Arc<AtomicBool>,
    /// Into its stream.
    pub push: UnboundedSender<WorkPush>,
}

/// Into a worker's stream.
#[derive(Debug)]
pub enum WorkPush {
    /// Answers the hello: stages that no interface has.
    Welcome {
        /// Their names.
        unknown_stages: Vec<String>,
    },
    /// Work.
    Assignments(Vec<Assignment>),
    /// A newer stream of the same worker took this one's place.
    Replaced,
}

/// One message for one stage. Its payload and headers are read where it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The message.
    pub place: Place,
    /// The interface's name.
    pub interface: Arc<str>,
    /// The interface's incarnation.
    pub incarnation: Incarnation,
    /// The stage.
    pub stage: Arc<str>,
    /// Its number: a payload that this stage or a later one wrote is not the one of this turn.
    pub stage_number: StageNumber,
    /// The current turn.
    pub turn: Turn,
    /// Failed tries of this stage so far.
    pub attempts: u32,
    /// Its id.
    pub message_id: MessageId,
    /// Where payload and headers are stored.
    pub body_of: Sequence,
    /// Which header rows it has.
    pub header_rows: u64,
    /// How long the worker has.
    pub lease_ms: u32,
}

/// When a consumer was last heard of: written by its stream, read by the releaser.
#[derive(Debug)]
pub struct Heard {
    opened: Instant,
    /// Milliseconds after `opened`.
    ms: AtomicU64,
}

impl Heard {
    /// Just now.
    #[must_use]
    pub fn now() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            ms: AtomicU64::new(0),
        })
    }

    /// It was heard of just now.
    pub fn touch(&self) {
        let passed = self.opened.elapsed().as_millis();
        self.ms
            .store(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it was.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.opened + Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }
}

/// A consumer that wants an (interface, destination).
#[derive(Debug)]
pub struct SubscribeEvent {
    /// Which subscription of which stream.
    pub key: SubscriptionKey,
    /// The interface's name.
    pub interface: String,
    /// The destination's name.
    pub destination: String,
    /// The consumer's identity.
    pub consumer: ConsumerId,
    /// For people.
    pub name: String,
    /// Deliveries it wants unacknowledged at once; 0: as many as the destination allows.
    pub credits: u32,
    /// What its receiver has stored.
    pub position: Option<(InterfaceId, Incarnation, Sequence)>,
    /// Touched by its stream.
    pub heard: Arc<Heard>,
    /// Into its stream.
    pub push: UnboundedSender<DeliverPush>,
}

/// Into a consumer's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliverPush {
    /// Another consumer holds the grant.
    Waiting {
        /// Which subscription.
        number: u32,
        /// The holder's name.
        holder: String,
    },
    /// It holds the grant, under this epoch from now on.
    Granted {
        /// Which subscription.
        number: u32,
        /// The epoch.
        epoch: Epoch,
        /// Deliveries begin after it.
        checkpoint: Sequence,
        /// The interface.
        interface: InterfaceId,
        /// The destination.
        destination: DestinationNumber,
        /// The interface's incarnation.
        incarnation: Incarnation,
    },
    /// The subscription is over.
    Ended {
        /// Which subscription.
        number: u32,
        /// Why.
        reason: Reason,
        /// For people.
        text: String,
    },
    /// Released sequences, in order.
    Deliveries {
        /// Which subscription.
        number: u32,
        /// The grant's epoch.
        epoch: Epoch,
        /// The sequences.
        deliveries: Vec<Delivery>,
    },
}

/// One released sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which.
    pub sequence: Sequence,
    /// Failed tries of this delivery so far.
    pub attempts: u32,
    /// How often it may have reached the receiver before.
    pub repeats: u32,
    /// Its id.
    pub message_id: MessageId,
    /// What is sent.
    pub content: Content,
}

/// What is sent of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The message; its payload and headers are read where it is sent.
    Message {
        /// Where they are stored.
        body_of: Sequence,
        /// Which header rows it has.
        header_rows: u64,
        /// When it was accepted.
        accepted_at: WallTime,
        /// The sequence whose dead letter it redrives; 0 for none.
        redrive_of: Sequence,
    },
    /// A skip marker.
    Skip {
        /// Why.
        reason: SkipReason,
        /// It is kept as a dead letter.
        dead_letter: bool,
    },
}

/// Names a proposal of the loops' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Losses, in the order of the commands.
    Losses(Vec<(Place, StageNumber, Turn)>),
    /// A grant.
    Grant(LineKey, SubscriptionKey),
    /// The end of one.
    GrantEnd(LineKey),
}

/// What the loops are told.
pub enum Event {
    /// This node leads; the term's first entry is applied.
    Lead {
        /// The term.
        term: u64,
    },
    /// It no longer does.
    Follow,
    /// Something that was waited for may be due.
    Tick,
    /// What came of the loops' own proposal.
    Proposed {
        /// Which.
        tag: Tag,
        /// What.
        result: Proposed,
    },
    /// A worker opened a stream.
    WorkerJoined(WorkerHello),
    /// A worker wants to hold so many.
    WorkerCredits {
        /// Its stream.
        session: SessionId,
        /// How many.
        credits: u32,
    },
    /// Leases that begin anew.
    WorkerExtends {
        /// Its stream.
        session: SessionId,
        /// Which.
        holds: Vec<Hold>,
    },
    /// A worker that had lost a lease says something again.
    WorkerSpoke {
        /// Its stream.
        session: SessionId,
    },
    /// A worker is leaving.
    WorkerDrains {
        /// Its stream.
        session: SessionId,
    },
    /// Assignments that were reported, or could not be sent.
    WorkerFreed {
        /// Its stream.
        session: SessionId,
        /// Which.
        freed: Vec<Freed>,
    },
    /// A worker's stream ended.
    WorkerLeft {
        /// Its stream.
        session: SessionId,
    },
    /// A consumer subscribes.
    Subscribe(SubscribeEvent),
    /// A consumer gives a grant back, or its place in the line.
    Unsubscribe(SubscriptionKey),
    /// A consumer's stream ended.
    ConsumerLeft {
        /// Its stream.
        session: SessionId,
        /// Its subscriptions.
        numbers: Vec<u32>,
    },
    /// A question, answered at one applied index.
    Ask(Question),
}

/// A question about the state and what the leader has in hand.
pub type Question = Box<dyn FnOnce(Glance<'_>) + Send>;

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lead { .. } => "Lead",
            Self::Follow => "Follow",
            Self::Tick => "Tick",
            Self::Proposed { .. } => "Proposed",
            Self::WorkerJoined(_) => "WorkerJoined",
            Self::WorkerCredits { .. } => "WorkerCredits",
            Self::WorkerExtends { .. } => "WorkerExtends",
            Self::WorkerSpoke { .. } => "WorkerSpoke",
            Self::WorkerDrains { .. } => "WorkerDrains",
            Self::WorkerFreed { .. } => "WorkerFreed",
            Self::WorkerLeft { .. } => "WorkerLeft",
            Self::Subscribe(_) => "Subscribe",
            Self::Unsubscribe(_) => "Unsubscribe",
            Self::ConsumerLeft { .. } => "ConsumerLeft",
            Self::Ask(_) => "Ask",
        })
    }
}
