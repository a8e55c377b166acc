//! Writing a history while a run goes on.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::history::{Event, History, What};
use crate::name::Name;

type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Takes down what happens, in the order in which it is told. Cheap to clone; clones write one history.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    calls: AtomicU64,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    /// A recorder whose `clock` says how long the run has lasted.
    #[must_use]
    pub fn new(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock: Box::new(clock),
                calls: AtomicU64::new(0),
                events: Mutex::default(),
            }),
        }
    }

    /// A recorder on tokio's clock, which begins now.
    #[must_use]
    pub fn started_now() -> Self {
        let begin = tokio::time::Instant::now();
        Self::new(move || begin.elapsed())
    }

    /// Takes down one event.
    pub fn record(&self, actor: &Name, what: What) {
        let mut events = self.events();
        // Read under the lock, so that time never runs backwards in a history.
        let at_us = u64::try_from((self.shared.clock)().as_micros()).unwrap_or(u64::MAX);
        events.push(Event {
            at_us,
            actor: actor.clone(),
            what,
        });
    }

    /// Takes down a fault, for people.
    pub fn fault(&self, text: impl Into<String>) {
        self.record(&Name::from("faults"), What::Fault { text: text.into() });
    }

    /// A number for a call, unique in the history.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        self.shared.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The same recorder, for one actor.
    #[must_use]
    pub fn scribe(&self, actor: impl Into<Name>) -> Scribe {
        Scribe {
            recorder: self.clone(),
            actor: actor.into(),
        }
    }

    /// What was recorded so far; it begins anew, though call numbers go on.
    #[must_use]
    pub fn take(&self) -> History {
        History {
            events: std::mem::take(&mut self.events()),
        }
    }

    /// What was recorded so far.
    #[must_use]
    pub fn snapshot(&self) -> History {
        History {
            events: self.events().clone(),
        }
    }

    /// How many events were recorded so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events().len()
    }

    /// True while nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events().is_empty()
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // A push either happened or did not.
        let events = self.shared.events.lock();
        events.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("events", &self.len())
            .finish_non_exhaustive()
    }
}

/// One actor's pen: a recorder and the actor's name.
#[derive(Clone, Debug)]
pub struct Scribe {
    recorder: Recorder,
    actor: Name,
}

impl Scribe {
    /// Takes down one event of this actor's.
    pub fn record(&self, what: What) {
        self.recorder.record(&self.actor, what);
    }

    /// A number for a call, unique in the history.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        self.recorder.next_call()
    }

    /// The actor's name.
    #[must_use]
    pub fn actor(&self) -> &Name {
        &self.actor
    }
}
