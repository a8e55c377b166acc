//! What can go wrong, one narrow enum per operation.
//!
//! Two things are kept apart everywhere: a call that certainly changed nothing (`Unsent`, `Refused`), and one whose
//! outcome is unknown.

use std::fmt;
use std::time::Duration;

use ordo_wire::status::{DOMAIN, LEADER, code_of};
use ordo_wire::v1::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A field of a request with a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path in the request.
    pub field: String,
    /// The value, and what is allowed.
    pub text: String,
}

/// Why a node refused something, or why it could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`Reason::Unspecified`] where no node gave one: the connection failed.
    pub reason: Reason,
    /// For people; never payload.
    pub text: String,
    /// When a new try makes sense, where the node said so.
    pub retry_after: Option<Duration>,
    /// The leader's public address, where the node named it.
    pub leader: Option<String>,
    /// What is wrong with the request, field by field.
    pub fields: Box<[FieldViolation]>,
    /// [`Reason::ProducerGap`]: the number that is expected.
    pub expected_producer_sequence: Option<u64>,
    /// [`Reason::ConflictingPayload`]: the sequence of the message that is known by the same id.
    pub sequence: Option<u64>,
    /// The gRPC status that goes with it.
    pub code: Code,
    /// True when the request certainly never reached a node.
    pub(crate) unsent: bool,
}

impl Refusal {
    /// The refusal of one item in a frame.
    pub(crate) fn of_item(reason: i32, text: String, retry_after_ms: u64) -> Self {
        let reason = Reason::try_from(reason).unwrap_or(Reason::Unspecified);
        Self {
            reason,
            text,
            retry_after: (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms)),
            leader: None,
            fields: Box::default(),
            expected_producer_sequence: None,
            sequence: None,
            code: code_of(reason),
            unsent: false,
        }
    }

    /// A failure that this library found itself, on the way to a node.
    pub(crate) fn local(code: Code, text: impl Into<String>) -> Self {
        Self {
            reason: Reason::Unspecified,
            text: text.into(),
            retry_after: None,
            leader: None,
            fields: Box::default(),
            expected_producer_sequence: None,
            sequence: None,
            code,
            unsent: false,
        }
    }

    /// True when the same request may succeed later, unchanged.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.reason {
            Reason::WindowFull
            | Reason::BacklogFull
            | Reason::Paused
            | Reason::Quarantined
            | Reason::EarlierRefused
            | Reason::NodeFull
            | Reason::NotLeader
            | Reason::Superseded
            | Reason::OutcomeUnknown => true,
            // Another node may be a member, and this one may be made one at any moment.
            Reason::NotInitialized => true,
            Reason::Unspecified => matches!(
                self.code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::Internal
                    | Code::Aborted
                    | Code::ResourceExhausted
            ),
            _ => self.code == Code::Unavailable,
        }
    }

    /// True when the request was certainly not executed, so that even one that must not run twice can be repeated.
    pub(crate) fn is_certainly_unexecuted(&self) -> bool {
        self.unsent
            || matches!(
                self.reason,
                Reason::NotLeader | Reason::Superseded | Reason::NotInitialized
            )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Unspecified => write!(f, "{} ({:?})", self.text, self.code)?,
            reason => write!(f, "{} ({})", self.text, reason.as_str_name())?,
        }
        // A node's text is that of the first violation already.
        let others = self.fields.iter().filter(|v| v.text != self.text);
        for violation in others {
            write!(f, "; {}: {}", violation.field, violation.text)?;
        }
        Ok(())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let mut refusal = Self::local(status.code(), status.message());
        refusal.unsent = failed_to_connect(&status);
        let details = status.get_error_details();
        if let Some(info) = details.error_info()
            && info.domain == DOMAIN
        {
            refusal.reason = Reason::from_str_name(&info.reason).unwrap_or(Reason::Unspecified);
            refusal.leader = info
                .metadata
                .get(LEADER)
                .filter(|leader| !leader.is_empty())
                .cloned();
        }
        refusal.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(request) = details.bad_request() {
            let violations = request.field_violations.iter();
            refusal.fields = violations
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    text: violation.description.clone(),
                })
                .collect();
        }
        refusal
    }
}

/// A channel connects when it is first used, so that a failed connection comes as the status of a call.
fn failed_to_connect(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A cluster can't be named so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address of any node was given.
    #[error("no address of a node was given")]
    NoAddress,
    /// An address can't be used.
    #[error("the address {address:?} can't be used: {text}")]
    Address {
        /// As given.
        address: String,
        /// Why.
        text: String,
    },
}

/// A producer, worker or consumer can't be started so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting has a value that is not allowed.
    #[error("{field}: {text}")]
    Field {
        /// The setting.
        field: &'static str,
        /// The value, and what is allowed.
        text: String,
    },
}

/// Why a message has no sequence, or may have none.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It was refused and changed nothing: for good, or for the moment where the producer gives up on such refusals.
    #[error("refused: {0}")]
    Refused(Box<Refusal>),
    /// It was not sent: something in it is not allowed.
    #[error("not sent: {field}: {text}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value, and what is allowed.
        text: String,
    },
    /// It was not sent: the producer's queue is full. `enqueue` waits for room.
    #[error("not sent: the producer's queue holds its {limit_bytes} bytes already")]
    QueueFull {
        /// The configured bound, in bytes.
        limit_bytes: usize,
    },
    /// It was not sent: the producer is closed.
    #[error("not sent: the producer is closed")]
    Closed,
    /// It was not sent: no leader was found in the time given.
    #[error("not sent: no leader was found in time; last: {0}")]
    Unsent(Box<Refusal>),
    /// It was sent, and no answer came. Sent again under the same `message_id`, it is answered as the first would
    /// have been.
    #[error("sent, outcome unknown: {0}")]
    OutcomeUnknown(Box<Refusal>),
}

/// Why an administrative call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It was refused and changed nothing.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// It was not executed: no node could do so in the time given.
    #[error("not executed: no leader answered in time; last: {0}")]
    Unsent(Box<Refusal>),
    /// It is not known whether it was executed.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(Box<Refusal>),
}

impl CallError {
    /// The node's last word.
    #[must_use]
    pub fn refusal(&self) -> &Refusal {
        match self {
            Self::Refused(refusal) | Self::Unsent(refusal) | Self::OutcomeUnknown(refusal) => {
                refusal
            }
        }
    }
}

/// Why a worker stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// It could not be started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster refuses this worker for good.
    #[error("refused: {0}")]
    Refused(Box<Refusal>),
    /// The drain ended with no node to take the last reports; those messages will be worked on again.
    #[error("drained, but {count} reports found no leader; last: {last}")]
    ReportsUnanswered {
        /// How many.
        count: usize,
        /// Why the last try failed.
        last: Box<Refusal>,
    },
    /// The worker's task was aborted.
    #[error("the worker's task was aborted")]
    Aborted,
}

/// Why a subscription ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The cluster ended it for good: unknown interface or destination, a position that does not fit, another
    /// consumer under the same id.
    #[error("subscription ended: {0}")]
    Ended(Box<Refusal>),
    /// The consumer is closed.
    #[error("the consumer is closed")]
    Closed,
}

/// Why an answer to a delivery was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Deliveries before this one are not acknowledged yet; only the first such can be answered by anything but an
    /// acknowledgement.
    #[error(
        "sequence {sequence} can only be acknowledged: deliveries before it are unacknowledged"
    )]
    NotHead {
        /// The delivery's sequence.
        sequence: u64,
    },
    /// A skip marker can be acknowledged, not retried or rejected.
    #[error("sequence {sequence} is a skip marker, which can only be acknowledged")]
    SkipMarker {
        /// The delivery's sequence.
        sequence: u64,
    },
    /// The grant under which it was delivered is over; it will be delivered again to whoever holds the next.
    #[error("epoch {epoch} is over: the delivery will be made again")]
    EpochOver {
        /// The delivery's epoch.
        epoch: u64,
    },
}
