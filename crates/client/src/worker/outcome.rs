//! What a handler says of an assignment.

use std::fmt;

use bytes::Bytes;
use ordo_wire::v1::work_report::Outcome as Kind;
use ordo_wire::v1::{Header, WorkComplete, WorkFilter, WorkReject, WorkRetry};

use crate::bounded_reason;

/// What came of an assignment.
#[derive(Clone)]
#[must_use]
pub struct Outcome {
    kind: Kind,
}

impl Outcome {
    /// The stage is done, the payload stays.
    pub fn complete() -> Self {
        Self {
            kind: Kind::Complete(WorkComplete::default()),
        }
    }

    /// The stage is done; the message carries `payload` from now on.
    pub fn complete_with(payload: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Complete(WorkComplete {
                payload: Some(payload.into()),
                ..WorkComplete::default()
            }),
        }
    }

    /// It failed this time: an attempt is counted, and it is tried again after a back-off. `reason` is for people: no
    /// patient data; 1,024 bytes at most, longer ones are cut. So for the reasons below.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Retry(WorkRetry {
                reason: bounded_reason(reason),
            }),
        }
    }

    /// It will never succeed: the message fails at once.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Reject(WorkReject {
                reason: bounded_reason(reason),
            }),
        }
    }

    /// The message is not wanted downstream: it is skipped without a dead letter.
    pub fn filter(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Filter(WorkFilter {
                reason: bounded_reason(reason),
            }),
        }
    }

    /// Sets a header (an empty value removes it). Only of a completed stage; no effect on the other outcomes.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Kind::Complete(complete) = &mut self.kind {
            complete.headers.push(Header {
                name: name.into(),
                value: value.into(),
            });
        }
        self
    }

    /// Names the destinations the message is for. Only of a completed stage; no effect on the other outcomes.
    pub fn for_destinations<D: Into<String>>(
        mut self,
        destinations: impl IntoIterator<Item = D>,
    ) -> Self {
        if let Kind::Complete(complete) = &mut self.kind {
            complete
                .destinations
                .extend(destinations.into_iter().map(Into::into));
        }
        self
    }

    pub(super) fn panicked() -> Self {
        Self::retry("handler panicked")
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.kind, Kind::Complete(_))
    }

    pub(super) fn payload_bytes(&self) -> usize {
        match &self.kind {
            Kind::Complete(complete) => complete.payload.as_ref().map_or(0, Bytes::len),
            _ => 0,
        }
    }

    /// How many headers and destinations it has.
    pub(super) fn parts(&self) -> usize {
        match &self.kind {
            Kind::Complete(complete) => complete.headers.len() + complete.destinations.len(),
            _ => 0,
        }
    }

    pub(super) fn to_wire(&self) -> Kind {
        self.kind.clone()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Complete(complete) => f
                .debug_struct("Complete")
                .field("payload_bytes", &complete.payload.as_ref().map(Bytes::len))
                .field("headers", &complete.headers.len())
                .field("destinations", &complete.destinations)
                .finish(),
            Kind::Retry(retry) => f.debug_tuple("Retry").field(&retry.reason).finish(),
            Kind::Reject(reject) => f.debug_tuple("Reject").field(&reject.reason).finish(),
            Kind::Filter(filter) => f.debug_tuple("Filter").field(&filter.reason).finish(),
        }
    }
}
