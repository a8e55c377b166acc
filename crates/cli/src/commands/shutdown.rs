//! Being told to end.

use std::io::{self, Read};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// SIGINT and SIGTERM. They are caught from the moment this is made.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to catch them.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("catching signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Resolves with the first, and again with each further one.
    pub async fn arrived(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Resolves when standard input ends: whoever started this process is gone.
pub async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    // A thread of its own rather than the runtime's: a read that never returns must not hold up the end of the process.
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut byte = [0];
        while matches!(input.read(&mut byte), Ok(1)) {}
        // Nobody waits any more where the process ends for another reason.
        let _ = ended.send(());
    });
    // The sender is dropped only when the thread panics, and then there is nothing left to watch.
    let _ = wait.await;
}
