//! What the leader does between two entries: the dispatcher hands work to workers, the releaser sends what is
//! released to consumers, and both turn time that passes into commands.
//!
//! All of it runs on the thread that applies entries, right after each lump, and only reads the state: nothing here
//! awaits, reads a database or decides what the log should. A new leader derives everything from the state at the
//! index of its term's first entry.

mod alone;
mod crews;
mod deadlines;
mod dispatcher;
mod events;
mod glance;
mod lanes;
mod line;
mod loops;
mod releaser;
mod retention;
mod roster;
mod set_aside;
#[cfg(test)]
mod tests;
mod turns;
mod workers;

pub use events::{
    Assignment, Content, DeliverPush, Delivery, Event, Freed, Heard, Hold, LineKey, Place,
    Question, SessionId, SubscribeEvent, SubscriptionKey, Tag, WorkPush, WorkerHello, WorkerId,
};
pub use glance::{Glance, InHand};
pub use loops::{Loops, Timers};
pub use retention::forget_old_records;

/// A map whose order is the same in every run: the hasher has fixed keys.
pub(crate) type FixedMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;
