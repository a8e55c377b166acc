//! What the protocol says, as a history holds it.

use ordo_client::proto;

use super::{
    DeadLetterCause, DestinationShape, DestinationStanding, EventKind, InterfaceShape,
    MessageStatus, SkipCause, StageShape, Standing,
};

impl InterfaceShape {
    /// The shape of an interface as its creation answered it, defaults filled in.
    #[must_use]
    pub fn of(interface: &proto::Interface) -> Self {
        let config = interface.config.clone().unwrap_or_default();
        Self {
            name: interface.name.as_str().into(),
            stages: config.stages.iter().map(StageShape::of).collect(),
            destinations: config
                .destinations
                .iter()
                .map(|destination| DestinationShape {
                    name: destination.name.as_str().into(),
                    max_attempts: destination.max_attempts,
                })
                .collect(),
            dedup_messages: config.dedup_messages,
            window: config.window,
        }
    }
}

impl StageShape {
    fn of(stage: &proto::StageConfig) -> Self {
        Self {
            name: stage.name.as_str().into(),
            max_attempts: stage.max_attempts,
            max_losses: stage.max_losses,
        }
    }
}

impl Standing {
    /// Where an interface stands, as a read answered.
    #[must_use]
    pub fn of(interface: &proto::Interface) -> Self {
        let destinations = interface.destinations.iter().map(|destination| {
            let standing = DestinationStanding {
                checkpoint: destination.checkpoint,
                epoch: destination.epoch,
            };
            (destination.name.as_str().into(), standing)
        });
        Self {
            last_sequence: interface.last_sequence,
            watermark: interface.watermark,
            destinations: destinations.collect(),
            dead_letters: interface.dead_letters,
            failed: interface.failed,
            filtered: interface.filtered,
        }
    }
}

impl From<proto::SkipReason> for SkipCause {
    fn from(reason: proto::SkipReason) -> Self {
        match reason {
            proto::SkipReason::Rejected => Self::Rejected,
            proto::SkipReason::Attempts => Self::Attempts,
            proto::SkipReason::Losses => Self::Losses,
            proto::SkipReason::Filtered => Self::Filtered,
            proto::SkipReason::Unspecified => Self::Unknown,
        }
    }
}

impl From<proto::MessageStatus> for MessageStatus {
    fn from(status: proto::MessageStatus) -> Self {
        match status {
            proto::MessageStatus::Pending => Self::Pending,
            proto::MessageStatus::Ready => Self::Ready,
            proto::MessageStatus::Failed => Self::Failed,
            proto::MessageStatus::Filtered => Self::Filtered,
            proto::MessageStatus::Delivered => Self::Delivered,
            proto::MessageStatus::Skipped => Self::Skipped,
            proto::MessageStatus::Unspecified => Self::Unknown,
        }
    }
}

impl From<proto::MessageEventKind> for EventKind {
    fn from(kind: proto::MessageEventKind) -> Self {
        match kind {
            proto::MessageEventKind::Accepted => Self::Accepted,
            proto::MessageEventKind::Completed => Self::Completed,
            proto::MessageEventKind::Retried => Self::Retried,
            proto::MessageEventKind::Rejected => Self::Rejected,
            proto::MessageEventKind::Filtered => Self::Filtered,
            proto::MessageEventKind::Lost => Self::Lost,
            proto::MessageEventKind::Redriven => Self::Redriven,
            proto::MessageEventKind::DeliveryRetried => Self::DeliveryRetried,
            proto::MessageEventKind::DeliveryRejected => Self::DeliveryRejected,
            proto::MessageEventKind::Delivered => Self::Delivered,
            proto::MessageEventKind::Skipped => Self::Skipped,
            proto::MessageEventKind::Discarded => Self::Discarded,
            proto::MessageEventKind::Noted => Self::Noted,
            proto::MessageEventKind::DeliveryRepeated => Self::DeliveryRepeated,
            proto::MessageEventKind::Unspecified => Self::Unknown,
        }
    }
}

impl From<proto::DeadLetterCause> for DeadLetterCause {
    fn from(cause: proto::DeadLetterCause) -> Self {
        match cause {
            proto::DeadLetterCause::Rejected => Self::Rejected,
            proto::DeadLetterCause::Attempts => Self::Attempts,
            proto::DeadLetterCause::Losses => Self::Losses,
            proto::DeadLetterCause::DeliveryRejected => Self::DeliveryRejected,
            proto::DeadLetterCause::DeliveryAttempts => Self::DeliveryAttempts,
            proto::DeadLetterCause::Unspecified => Self::Unknown,
        }
    }
}
