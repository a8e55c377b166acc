//! The real node, client and storage code on a simulated network, clock and disk, broken on purpose.
//!
//! Everything of a run comes from one seed; see `docs/testing.md` for the fault model and for what is checked.

#[cfg(not(tokio_unstable))]
compile_error!(
    "simulations need `--cfg tokio_unstable` (see .cargo/config.toml): turmoil seeds tokio's randomness then"
);

pub mod bugs;
mod disk;
pub mod faults;
pub mod fleet;
mod node;
mod operator;
mod parts;
pub mod place;
mod points;
mod rules;
mod run;
mod shape;
pub mod watch;
mod wire;
mod workload;
pub mod world;

pub use run::{Notes, Violation};
pub use world::{Outcome, run};
