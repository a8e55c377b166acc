//! Ordo's state machine: sequence, stage and release of every interface, in one deterministic whole.
//!
//! Nothing here does IO, waits, reads a clock, draws a random number or iterates an unordered map. What happened
//! comes in as an [`Entry`] of the Raft log; [`State::apply`] answers each of its commands with a [`Reply`] and
//! tells the leader what follows from it as [`Effect`]s; [`State::take_mutations`] says what to store.

mod apply;
mod command;
mod config;
mod effect;
mod hours;
mod ids;
mod interface;
pub mod invariants;
pub mod limits;
mod load;
mod mutation;
mod release;
mod remembered;
mod reply;
mod rules;
mod session;
mod state;

pub use apply::note_text;
pub use command::{
    Answer, AnswerKind, Command, CreateInterface, DiscardDeadLetter, Entry, ForgetFinished, Grant,
    GrantEnd, Header, Ingest, Loss, NoteDelivery, Outcome, QuarantineInterface, RedriveDeadLetter,
    RefuseIngest, RepairInterface, Report, ResumeDelivery, RunPosition, SkipDelivery,
    UpdateInterface,
};
pub use config::{
    ConfigError, DestinationConfig, InterfaceConfig, StageConfig, validate_interface_name,
};
pub use effect::Effect;
pub use hours::FinishedHour;
pub use ids::{
    ClusterTime, ConsumerId, DeadLetterKey, DestinationNumber, DestinationSet, Digest, Epoch,
    Incarnation, InterfaceId, MessageId, ProducerSession, Sequence, StageNumber, Turn, WallTime,
};
pub use interface::{
    DeadLetter, Destination, FailCause, Holder, Interface, Producer, Quarantine, Slot, Status, Try,
    TryKind,
};
pub use load::LoadError;
pub use mutation::{
    ClockRow, ConfigRow, EventKind, EventRow, Key, LaneRow, Mutation, PayloadRow, Record, Row,
    SessionRow, merge_headers,
};
pub use reply::{Refusal, Reply};
pub use rules::{Rules, Sound};
pub use session::Unheard;
pub use state::State;
