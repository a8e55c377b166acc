//! End to end: real processes, real RocksDB. One program for all of it, since linking it takes longer than most of what
//! it does.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod cli;
mod corruption;
mod damage;
mod disk;
mod frozen_worker;
mod gateways;
mod hl7;
mod hl7_cases;
mod hl7_crossed;
mod hl7_peers;
mod kill;
mod membership;
mod network;
mod older_copy;
mod order;
mod pause;
mod power_loss;
mod room;
mod takeover;
