//! What drives long work: threads, or tasks in a simulation.

use std::future::Future;
use std::thread;

/// What drives long work. When a thread gets its turn depends on no seed, so a simulation has tasks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Threads of their own: long work holds up nobody.
    Threads,
    /// Tasks of the runtime at hand.
    Tasks,
}

impl Driver {
    /// Runs `work` to its end. What it awaits must need no timer and no socket: channels are fine.
    ///
    /// # Panics
    /// Outside of a tokio runtime; where the system gives no thread.
    pub fn spawn(self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        let runtime = tokio::runtime::Handle::current();
        match self {
            Self::Threads => {
                let run = move || runtime.block_on(work);
                let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
                thread.expect("the machine can start a thread");
            }
            Self::Tasks => drop(runtime.spawn(work)),
        }
    }
}
