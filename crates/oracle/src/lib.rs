//! What happened in a run against a cluster, and whether it kept Ordo's promises.
//!
//! *Actors* (producers, workers, consumers, readers, an operator, rogues) drive a cluster through the real client
//! library or the bare protocol and write down what they ask and what they see: a [`History`]. *Checks* read a
//! history and know nothing else, so that simulations and tests with real processes are judged by the same rules.
//!
//! Nothing here looks at a wall clock, an unordered map or a generator of its own: under one seed an actor does the
//! same things, and one history always gets one verdict.

mod checks;
mod history;
mod lane;
mod name;
mod recorder;

pub use checks::{ALL, Check, Completeness, UNREADABLE, Violation, check};
pub use history::{
    AnswerKind, Content, DeadLetterCause, Deed, DestinationShape, DestinationStanding, Event,
    EventKind, FORMAT_VERSION, History, HistoryError, InterfaceShape, MessageEvent, MessageStatus,
    Numbered, OperateResult, ReportKind, SendResult, SkipCause, StageShape, Standing, Verdict,
    What,
};
pub use name::{Digest, Name};
pub use recorder::{Recorder, Scribe};
