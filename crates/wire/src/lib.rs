//! Ordo's protocol: the generated code and its conversions to and from the state machine's types.

pub mod convert;
pub mod entry;
pub mod lease;
pub mod request;
pub mod status;

/// The public protocol, `ordo.v1`.
#[allow(missing_docs, clippy::all, reason = "generated; documented in proto/")]
pub mod v1 {
    tonic::include_proto!("ordo.v1");
}

/// What stands in the Raft log and goes between nodes, `ordo.internal.v1`.
#[allow(missing_docs, clippy::all, reason = "generated; documented in proto/")]
pub mod internal {
    #[allow(missing_docs, clippy::all, reason = "generated; documented in proto/")]
    pub mod v1 {
        tonic::include_proto!("ordo.internal.v1");
    }
}

/// The descriptors of every proto, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ordo.bin"));
