//! The cross product behind `hl7_cases.rs`: every framing fault in every place, pipelined or not; every odd way to
//! acknowledge under every setting of a sender. The whole of the latter takes minutes, so it runs on demand:
//!
//!     cargo build --release --bin ordo
//!     cargo test --release -p ordo-tests --test end_to_end -- --ignored --nocapture hl7_crossed

mod faults;
mod manners;

/// What some put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
