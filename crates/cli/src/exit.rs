//! What the command says to scripts when it ends.

use ordo_client::{CallError, ConfigError, ConsumeError, Reason, Refusal, SendError, WorkError};
use ordo_node::ServeError;

/// Exit statuses other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// It did not work.
    Failure = 1,
    /// It was asked for wrongly.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// What is there stands against it.
    Conflict = 4,
    /// Nobody could do it now; it may work later.
    Unavailable = 5,
}

/// The command was asked for something wrongly, in a way that the argument parser can't see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// What was named is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);

/// The exit status for an error. A node that stopped has statuses of its own, which tell a supervisor whether starting it
/// again makes sense.
pub fn status(error: &anyhow::Error) -> u8 {
    let node = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ServeError>());
    node.map_or_else(|| Exit::of(error) as u8, ServeError::exit_status)
}

impl Exit {
    /// The status for an error: that of the first cause that says something about it.
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_cause)
            .unwrap_or(Self::Failure)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<UsageError>() || cause.is::<ConfigError>() {
            return Some(Self::Usage);
        }
        if cause.is::<NotFound>() {
            return Some(Self::NotFound);
        }
        if let Some(error) = cause.downcast_ref::<CallError>() {
            return Some(match error {
                CallError::Refused(refusal) => Self::of_refusal(refusal),
                _ => Self::Unavailable,
            });
        }
        if let Some(error) = cause.downcast_ref::<SendError>() {
            return Some(match error {
                SendError::Refused(refusal) => Self::of_refusal(refusal),
                SendError::Invalid { .. } => Self::Usage,
                SendError::Unsent(_) | SendError::OutcomeUnknown(_) => Self::Unavailable,
                _ => Self::Failure,
            });
        }
        if let Some(error) = cause.downcast_ref::<WorkError>() {
            return Some(match error {
                WorkError::Refused(refusal) => Self::of_refusal(refusal),
                WorkError::ReportsUnanswered { .. } => Self::Unavailable,
                _ => Self::Failure,
            });
        }
        match cause.downcast_ref::<ConsumeError>()? {
            ConsumeError::Ended(refusal) => Some(Self::of_refusal(refusal)),
            _ => Some(Self::Failure),
        }
    }

    /// The status for a node's refusal.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        match refusal.reason {
            Reason::InvalidField => Self::Usage,
            Reason::UnknownInterface
            | Reason::UnknownStage
            | Reason::UnknownDestination
            | Reason::UnknownMessage
            | Reason::UnknownDeadLetter => Self::NotFound,
            Reason::InterfaceExists
            | Reason::ConflictingPayload
            | Reason::ProducerGap
            | Reason::ProducerSequenceUsed
            | Reason::ConfigVersion
            | Reason::NotDrained
            | Reason::Stale
            | Reason::Epoch
            | Reason::NotReleased
            | Reason::NotHead
            | Reason::Position
            | Reason::SkipMarker
            | Reason::BeingRedriven
            | Reason::Released
            | Reason::AlreadyInitialized
            | Reason::Membership
            | Reason::Replaced
            | Reason::Quarantined => Self::Conflict,
            Reason::TooLarge | Reason::CapReached => Self::Failure,
            _ if refusal.is_transient() => Self::Unavailable,
            _ => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use anyhow::Context;

    use super::*;

    #[test]
    fn the_first_cause_that_says_something_decides() {
        let error = Err::<(), _>(UsageError("x".into()))
            .context("while y")
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let error = Err::<(), _>(NotFound("x".into()))
            .context("while y")
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
        assert_eq!(Exit::of(&anyhow::anyhow!("x")), Exit::Failure);
        let closed = anyhow::Error::from(SendError::Closed);
        assert_eq!(Exit::of(&closed), Exit::Failure);
        let invalid = SendError::Invalid {
            field: "payload",
            text: String::new(),
        };
        assert_eq!(Exit::of(&invalid.into()), Exit::Usage);
    }
}
