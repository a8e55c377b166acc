//! The writer's thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::segment::{SpareJob, SpareMade};
use super::shared::Shared;
use super::{LogWriter, Step};

/// The running writer. Dropping it closes the log and waits until everything queued is written.
pub struct LogThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Drives the writer from a thread of its own.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn spawn(mut self) -> io::Result<LogThread> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name("ordo-log".to_owned())
            .spawn(move || self.run())?;
        let wake = thread.thread().clone();
        shared.set_notify(Box::new(move || wake.unpark()));
        // Work that was queued before the line above woke nobody.
        thread.thread().unpark();
        Ok(LogThread {
            shared,
            thread: Some(thread),
        })
    }

    fn run(&mut self) {
        let (made_in, made_out) = channel();
        loop {
            match self.step() {
                Step::Worked => self.look_after_spares(&made_in, &made_out),
                Step::Idle => {
                    let idle_since = Instant::now();
                    thread::park_timeout(self.idle_marker_after());
                    self.look_after_spares(&made_in, &made_out);
                    // A wake-up that came for work already done ends the wait early, and says nothing about idleness.
                    let long_idle = idle_since.elapsed() >= self.idle_marker_after();
                    if long_idle && self.is_idle() && self.write_marker() == Step::Failed {
                        return;
                    }
                }
                Step::Closed => {
                    // A failure was logged and recorded; there is nobody left to tell.
                    let _ = self.write_marker();
                    return;
                }
                Step::Failed => return,
            }
        }
    }

    fn is_idle(&self) -> bool {
        let state = self.shared.lock();
        state.queue.is_empty() && !state.closed
    }

    /// Filling a segment's file takes as long as many syncs, so a short-lived thread does it ahead of time.
    fn look_after_spares(&mut self, made_in: &Sender<SpareMade>, made_out: &Receiver<SpareMade>) {
        while let Ok(made) = made_out.try_recv() {
            self.spare_made(made);
        }
        if let Some(job) = self.spare_job() {
            let made_in = made_in.clone();
            let spawned = thread::Builder::new()
                .name("ordo-log-spare".to_owned())
                .spawn(move || make(job, &made_in));
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread to make a log segment ahead of its use");
            }
        }
    }
}

fn make(job: SpareJob, made: &Sender<SpareMade>) {
    // The writer may have ended meanwhile; the next start removes the file.
    let _ = made.send(job.run());
}

impl LogThread {
    /// Closes the log, and waits until everything queued is written and the thread has ended.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}
