//! The one table of refusals and what they are called outside.

use crate::v1::Reason;
use ordo_core::Refusal;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "ordo";
/// The metadata key of `google.rpc.ErrorInfo` under which the leader's public address stands, when it is known.
pub const LEADER: &str = "leader";

/// What a refusal of the state machine is called outside.
#[must_use]
pub const fn reason_of(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::UnknownInterface(_) => Reason::UnknownInterface,
        Refusal::InterfaceExists(_) => Reason::InterfaceExists,
        Refusal::UnknownSequence(..) | Refusal::Forgotten(_) => Reason::UnknownMessage,
        Refusal::UnknownDestination(_) => Reason::UnknownDestination,
        Refusal::UnknownStage(_) => Reason::UnknownStage,
        Refusal::ConflictingPayload(_) => Reason::ConflictingPayload,
        Refusal::ProducerGap { .. } => Reason::ProducerGap,
        Refusal::ProducerSequenceUsed { .. } => Reason::ProducerSequenceUsed,
        Refusal::ProducerRefused(_) => Reason::InvalidField,
        Refusal::ProducersFull(_)
        | Refusal::DeadLettersFull { .. }
        | Refusal::DerivedIdsKnown(_) => Reason::CapReached,
        Refusal::Quarantined { .. } => Reason::Quarantined,
        Refusal::Superseded => Reason::Superseded,
        Refusal::Stale { .. } | Refusal::StaleDecision { .. } => Reason::Stale,
        Refusal::NotAcknowledged { .. } => Reason::NotAcknowledged,
        Refusal::HeadersFull { .. } => Reason::TooLarge,
        Refusal::WrongEpoch { .. } => Reason::Epoch,
        Refusal::NotReleased { .. } => Reason::NotReleased,
        Refusal::NotHead { .. } => Reason::NotHead,
        Refusal::SkipMarker(_) => Reason::SkipMarker,
        Refusal::Position(_) => Reason::Position,
        Refusal::ConfigVersion { .. } => Reason::ConfigVersion,
        Refusal::NotDrained { .. } => Reason::NotDrained,
        Refusal::UnknownDeadLetter(_) => Reason::UnknownDeadLetter,
        Refusal::BeingRedriven(_) => Reason::BeingRedriven,
        Refusal::Released(_) => Reason::Released,
    }
}

/// The gRPC status code that a reason goes with when it fails a whole call.
#[must_use]
pub const fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::InvalidField | Reason::TooLarge => Code::InvalidArgument,
        Reason::UnknownInterface
        | Reason::UnknownStage
        | Reason::UnknownDestination
        | Reason::UnknownMessage
        | Reason::UnknownDeadLetter => Code::NotFound,
        Reason::InterfaceExists | Reason::ConflictingPayload | Reason::ProducerSequenceUsed => {
            Code::AlreadyExists
        }
        Reason::ProducerGap => Code::OutOfRange,
        Reason::WindowFull
        | Reason::BacklogFull
        | Reason::Paused
        | Reason::EarlierRefused
        | Reason::NodeFull
        | Reason::CapReached => Code::ResourceExhausted,
        Reason::ConfigVersion
        | Reason::NotDrained
        | Reason::Stale
        | Reason::Epoch
        | Reason::NotReleased
        | Reason::NotAcknowledged
        | Reason::NotHead
        | Reason::Position
        | Reason::SkipMarker
        | Reason::BeingRedriven
        | Reason::Released
        | Reason::NotInitialized
        | Reason::AlreadyInitialized
        | Reason::Membership
        | Reason::Quarantined => Code::FailedPrecondition,
        Reason::NotLeader | Reason::Superseded | Reason::OutcomeUnknown => Code::Unavailable,
        Reason::Replaced => Code::Aborted,
    }
}

/// A failed call, with what a program needs to know of it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// For people; never payload.
    pub text: String,
    /// The field that is wrong, as the protocol names it.
    pub field: Option<String>,
    /// When a new try makes sense.
    pub retry_after: Option<Duration>,
    /// The leader's public address.
    pub leader: Option<String>,
}

impl Failure {
    /// A failure with nothing but its reason and text.
    #[must_use]
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
            field: None,
            retry_after: None,
            leader: None,
        }
    }

    /// A field has a value that is not allowed.
    #[must_use]
    pub fn field(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(Reason::InvalidField, text)
        }
    }

    /// This node does not lead.
    #[must_use]
    pub fn not_leader(leader: Option<String>) -> Self {
        let text = match &leader {
            Some(leader) => format!("this node does not lead; {leader} does"),
            None => "this node does not lead, and it is not known which one does".to_owned(),
        };
        Self {
            leader,
            ..Self::new(Reason::NotLeader, text)
        }
    }

    /// The same, to be tried again after `delay`.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }

    /// The failure as a gRPC status with `google.rpc` details.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let mut metadata = HashMap::new();
        if let Some(leader) = &self.leader {
            metadata.insert(LEADER.to_owned(), leader.clone());
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.as_str_name(), DOMAIN, metadata);
        if let Some(field) = &self.field {
            details.add_bad_request_violation(field, &self.text);
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code_of(self.reason), &self.text, details)
    }

    /// Reads a gRPC status back. One that Ordo did not make has the reason `Unspecified`.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let violation = details
            .bad_request()
            .and_then(|bad| bad.field_violations.first());
        Self {
            reason: info
                .and_then(|info| Reason::from_str_name(&info.reason))
                .unwrap_or(Reason::Unspecified),
            text: status.message().to_owned(),
            field: violation.map(|violation| violation.field.clone()),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            leader: info.and_then(|info| info.metadata.get(LEADER).cloned()),
        }
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        Self::new(reason_of(refusal), refusal.to_string())
    }
}

impl From<ordo_core::ConfigError> for Failure {
    fn from(error: ordo_core::ConfigError) -> Self {
        Self::field(error.field.clone(), error.to_string())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_way_through_a_status() {
        let failure = Failure {
            field: Some("stages[0].name".into()),
            leader: Some("127.0.0.1:7400".into()),
            ..Failure::new(Reason::NotLeader, "elsewhere")
        }
        .retry_after(Duration::from_millis(250));
        let read = Failure::from_status(&failure.to_status());
        assert_eq!(read.reason, Reason::NotLeader);
        assert_eq!((read.field, read.leader), (failure.field, failure.leader));
        assert_eq!(read.retry_after, Some(Duration::from_millis(250)));
    }

    #[test]
    fn every_reason_has_the_code_that_the_contract_names() {
        // Guarantees 3, 4, 6 and 13.
        assert_eq!(code_of(Reason::ProducerGap), Code::OutOfRange);
        assert_eq!(code_of(Reason::ProducerSequenceUsed), Code::AlreadyExists);
        assert_eq!(code_of(Reason::ConflictingPayload), Code::AlreadyExists);
        assert_eq!(code_of(Reason::Epoch), Code::FailedPrecondition);
        assert_eq!(code_of(Reason::NotReleased), Code::FailedPrecondition);
        for transient in [
            Reason::WindowFull,
            Reason::BacklogFull,
            Reason::Paused,
            Reason::NodeFull,
        ] {
            assert_eq!(code_of(transient), Code::ResourceExhausted);
        }
    }

    #[test]
    fn a_quarantine_says_which_invariant_does_not_hold_and_what_helps() {
        let refusal = Refusal::Quarantined {
            invariant: "ids_are_known".to_owned(),
            log_index: 17,
        };
        let failure = Failure::from(&refusal);
        assert_eq!(failure.reason, Reason::Quarantined);
        assert_eq!(code_of(failure.reason), Code::FailedPrecondition);
        for part in [
            "log entry 17",
            "ids_are_known does not hold (the id of every unfinished message is known under its sequence)",
            "ordo interface repair",
            "docs/quarantine.md",
        ] {
            assert!(
                failure.text.contains(part),
                "{part:?} in {:?}",
                failure.text
            );
        }
        let full = Failure::from(&Refusal::DerivedIdsKnown(1_000));
        assert_eq!(code_of(full.reason), Code::ResourceExhausted);
    }
}
