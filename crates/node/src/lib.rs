//! A node of an Ordo cluster: consensus, services and what the leader does between two entries.
//!
//! [`serve()`] runs a whole node; [`start()`] does the same with the seams (connections,
//! clock, randomness) given, for tests and simulations. By default everything but the log's writer and the state
//! machine, which have threads of their own, runs on the runtime it is called from: a `current_thread` one is best on
//! up to two cores.

pub mod admission;
mod behind;
pub mod config;
pub mod context;
pub mod error;
mod http;
pub mod identity;
mod inlet;
pub mod leader;
pub mod membership;
mod memory;
pub mod metrics;
pub mod net;
pub mod parts;
pub mod proposer;
pub mod raft;
mod room;
mod rooms;
pub mod serve;
pub mod services;

pub use config::{Config, ConfigErrors, Overrides};
pub use error::ServeError;
pub use parts::Parts;
pub use serve::{Seams, ServeHandle, SimulatedStorage, abort_on_panic, serve, start, start_with};
