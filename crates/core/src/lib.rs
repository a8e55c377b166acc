//! Ordo's state machine: sequence, stage and release of every interface, in one deterministic whole.
//!
//! Nothing here does IO, waits, reads a clock, draws a random number or iterates an unordered map. What happened
//! comes in as an [`Entry`] of the Raft log; [`State::apply`] answers each of its commands with a [`Reply`] and
//! tells the leader what follows from it as [`Effect`]s; [`State::take_mutations`] says what to store.

mod apply;
mod command;
mod config;
mod effect;
mod ids;
mod interface;
pub mod invariants;
pub mod limits;
mod load;
mod mutation;
mod release;
mod reply;
mod rules;
mod state;

pub use command::{
    Answer, AnswerKind, Command, CreateInterface, DiscardDeadLetter, Entry, ForgetFinished, Grant,
    GrantEnd, Header, Ingest, Loss, Outcome, RedriveDeadLetter, RefuseIngest, Report, RunPosition,
    UpdateInterface,
};
pub use config::{
    ConfigError, DestinationConfig, InterfaceConfig, StageConfig, validate_interface_name,
};
pub use effect::Effect;
pub use ids::{
    ClusterTime, ConsumerId, DeadLetterKey, DestinationNumber, DestinationSet, Digest, Epoch,
    Incarnation, InterfaceId, MessageId, Sequence, StageNumber, Turn, WallTime,
};
pub use interface::{
    DeadLetter, Destination, FailCause, Finished, Holder, Interface, Producer, Slot, Status,
};
pub use load::LoadError;
pub use mutation::{
    ClockRow, ConfigRow, EventKind, EventRow, Key, LaneRow, Mutation, PayloadRow, Record, Row,
    merge_headers,
};
pub use reply::{Refusal, Reply};
pub use rules::{Rules, Sound};
pub use state::State;
