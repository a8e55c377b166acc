//! Clients of Ordo, the clustered sequencer: what a user's program links.
//!
//! Everything starts with a [`Cluster`], made from the addresses of any of its nodes. It finds the leader, follows
//! it over leader changes, and never asks its user about either.
//!
//! | to | use |
//! | --- | --- |
//! | hand messages to interfaces | [`Producer`] |
//! | process messages in stages | [`Worker`] |
//! | receive an interface's messages in sequence order | [`Consumer`] |
//! | create interfaces, look at messages and dead letters, run the cluster | [`Admin`] |
//!
//! `examples/` holds a complete program of each kind.

mod admin;
mod cluster;
mod connector;
mod consumer;
mod error;
mod producer;
mod seek;
mod worker;

pub use admin::{Admin, MessageKey};
pub use bytes::Bytes;
pub use cluster::{Cluster, ClusterBuilder};
pub use connector::{Connect, TcpConnector, endpoint};
pub use consumer::{
    Answer, Consumer, ConsumerBuilder, Content, Delivery, GrantState, Position, SubscribeTo,
    Subscription,
};
pub use error::{
    AnswerError, CallError, ConfigError, ConnectError, ConsumeError, FieldViolation, Refusal,
    SendError, WorkError,
};
pub use ordo_wire::lease::BootClock;
pub use ordo_wire::v1 as proto;
pub use ordo_wire::v1::{Header, Reason, SkipReason};
pub use producer::{Accepted, Message, OnRefusal, Producer, ProducerBuilder, Receipt};
pub use uuid::Uuid;
pub use worker::{Assignment, Drainer, Extender, Outcome, Worker, WorkerBuilder, WorkerStats};

/// The largest frame that is accepted from a node, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

/// The largest reason a worker or a consumer may give, in bytes; longer ones are cut.
pub(crate) const REASON_BYTES_MAX: usize = 1024;

/// Cuts `reason` to what the protocol takes, at a character's boundary.
pub(crate) fn bounded_reason(reason: impl Into<String>) -> String {
    let mut reason = reason.into();
    if reason.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}

/// The UUID in `bytes`; nil where a node sent something else, which the protocol rules out.
pub(crate) fn uuid_of(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}

/// The 16 bytes of `id`, as the protocol carries them.
pub(crate) fn bytes_of(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = bounded_reason("é".repeat(600) + "x");
        assert_eq!(reason.len(), 1024);
        assert!(reason.chars().all(|c| c == 'é'));
        let odd = bounded_reason(String::from("a") + &"é".repeat(600));
        assert_eq!(odd.len(), 1023);
        assert_eq!(bounded_reason("short"), "short");
    }
}
