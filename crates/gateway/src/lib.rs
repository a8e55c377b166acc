//! HL7 over MLLP, in and out of Ordo.
//!
//! Bytes first: a message is carried exactly as it was received. [`mllp`] finds its frame, [`msh`] reads its header in
//! place, by its [`charset`], and derives the message id, [`ack`] builds and reads acknowledgements, and nothing here renders a message
//! anew. [`hl7`] is a read-only view of segments and fields for the demonstration [`stages`]; [`orders`] invents orders
//! and [`lab`] is a simulated receiver that judges what reached it.
//!
//! [`gateway`] joins them to a cluster, as [`config`] says: a [`Gateway`](gateway::Gateway) is MLLP listeners that feed
//! interfaces and senders that deliver to receivers, and a client of the cluster like any other.
//!
//! No error, log line or `Debug` output of this crate holds message content: it is patients' data. Where a place must
//! be named, it is named by segment and field number or by byte offset.

pub mod ack;
mod backoff;
pub mod charset;
pub mod config;
mod connection;
pub mod gateway;
pub mod hl7;
mod http;
mod inbound;
pub mod lab;
mod metrics;
pub mod mllp;
pub mod msh;
pub mod orders;
mod outbound;
pub mod refusals;
pub mod stages;
mod template;
pub mod time;
mod watch;
