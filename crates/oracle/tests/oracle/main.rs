//! The checks against histories that are right and histories that are not, and the actors against a real node.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::ptr_arg,
    reason = "all mutations have one type, and some add events"
)]

mod actors;
mod generated;
mod mutations;
mod sequential;
mod small;
mod story;
