//! What a sender is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ordo_client::{Reason, SendError};

use crate::ack::{ErrorCondition, Outcome, Refusal};
use crate::config::Identity;
use crate::connection::ReadError;
use crate::mllp::FrameError;

/// Control ids of replies: MSH-10 of our own, 18 characters, unlike those of an earlier start.
pub(crate) struct ReplyIds {
    started: u32,
    next: AtomicU64,
}

impl ReplyIds {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            // The low 32 bits: a label, not a time.
            started: since.as_secs() as u32,
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % 10_000_000_000;
        format!("{:08X}{number:010}", self.started)
    }
}

/// The outcome of a message that was not accepted. Rejected where the same bytes will never be taken, an error where
/// they may be.
pub(super) fn outcome(interface: &str, identity: Identity, error: &SendError) -> Outcome {
    let text = match error {
        SendError::Refused(refusal) => match refusal.reason {
            Reason::ConflictingPayload => {
                return Outcome::Rejected(Refusal {
                    condition: ErrorCondition::DuplicateKey,
                    msh_field: Some(10),
                    text: conflict(interface, identity, refusal.sequence),
                });
            }
            Reason::TooLarge | Reason::InvalidField => {
                return Outcome::Rejected(Refusal::new(
                    ErrorCondition::Internal,
                    refusal.text.clone(),
                ));
            }
            Reason::UnknownInterface => {
                format!(
                    "interface {interface} does not exist yet; it has to be created before it takes messages"
                )
            }
            _ => refusal.text.clone(),
        },
        SendError::Invalid { .. } => {
            return Outcome::Rejected(Refusal::new(ErrorCondition::Internal, error.to_string()));
        }
        SendError::OutcomeUnknown(_) if identity == Identity::None => {
            "it is not known whether the message was accepted; sent again it is a new one"
                .to_owned()
        }
        SendError::OutcomeUnknown(_) => {
            "it is not known whether the message was accepted: send it again, it is \
                                         recognized by its control id"
                .to_owned()
        }
        SendError::Closed => "the gateway is stopping; send the message again".to_owned(),
        _ => error.to_string(),
    };
    Outcome::Failed(Refusal::new(ErrorCondition::Internal, text))
}

fn conflict(interface: &str, identity: Identity, sequence: Option<u64>) -> String {
    let same = match identity {
        Identity::ControlIdAndTime => "MSH-3, MSH-4, MSH-7 and MSH-10",
        _ => "MSH-3, MSH-4 and MSH-10",
    };
    let accepted = match sequence {
        Some(sequence) => {
            format!("accepted before as sequence {sequence} of interface {interface}")
        }
        None => format!("accepted before on interface {interface}"),
    };
    format!(
        "conflict: another message with the same {same} but different content was {accepted}; a changed message needs a \
         new control id"
    )
}

/// The outcome of a frame that broke. Only where it was cut is sending the same bytes again of use.
pub(super) fn of_broken_frame(error: &ReadError) -> Outcome {
    let refusal = Refusal::new(ErrorCondition::SegmentSequence, error.to_string());
    match error {
        ReadError::Frame(FrameError::Oversized { .. }) => Outcome::Rejected(Refusal {
            condition: ErrorCondition::Internal,
            ..refusal
        }),
        ReadError::Frame(FrameError::Truncated { .. }) => Outcome::Failed(refusal),
        ReadError::Frame(
            FrameError::StartInsideText { .. } | FrameError::EndWithoutCarriageReturn { .. },
        ) => Outcome::Rejected(Refusal {
            condition: ErrorCondition::DataType,
            ..refusal
        }),
        ReadError::Frame(_) => Outcome::Rejected(refusal),
        ReadError::Idle | ReadError::Slow(_) | ReadError::Io(_) => Outcome::Failed(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_what_is_the_same_and_the_sequence_where_it_is_known() {
        let named = conflict("RAD", Identity::ControlIdAndTime, Some(7));
        assert!(
            named.starts_with("conflict: another message with the same MSH-3, MSH-4, MSH-7 and MSH-10 but different content was accepted before as sequence 7 of interface RAD;"),
            "{named}"
        );
        let unnamed = conflict("RAD", Identity::ControlId, None);
        assert!(
            unnamed.contains("MSH-3, MSH-4 and MSH-10") && !unnamed.contains("sequence"),
            "{unnamed}"
        );
    }
}
