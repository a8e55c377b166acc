//! What the tests of the state machine share: a store made of a map, a naive model, a bench that runs them all in
//! lockstep, and a small language for scenarios.

#![allow(dead_code, reason = "each test file uses another part of it")]

pub mod bench;
pub mod compare;
pub mod driver;
pub mod model;
pub mod model_commands;
pub mod scenario;
pub mod store;
