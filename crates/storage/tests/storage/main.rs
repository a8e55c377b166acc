//! The log and the state store, on real and on simulated disks. One program, so that what they stand on is built once.
#![allow(clippy::unwrap_used, reason = "tests")]

mod log_crash;
mod log_damage;
mod log_files;
mod log_suite;
mod log_support;
mod openraft_suite;
mod state_crash;
mod state_snapshot;
mod state_store;
mod state_support;
