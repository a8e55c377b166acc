//! The writer as a task, for simulations: their clock stands while a thread runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{LogWriter, Step};

impl LogWriter {
    /// Drives the writer until the log is closed or fails. `delay` is drawn before each group is written: until then
    /// what is queued is in memory only, as it is while a real disk is busy.
    pub async fn run_as_task(mut self, mut delay: impl FnMut() -> Duration + Send) {
        let work = Arc::new(Notify::new());
        let wake = Arc::clone(&work);
        self.shared.set_notify(Box::new(move || wake.notify_one()));
        loop {
            let pause = delay();
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let step = self.step();
            if let Some(job) = self.spare_job() {
                let made = job.run();
                self.spare_made(made);
            }
            match step {
                Step::Worked => {}
                Step::Idle => {
                    let waited = timeout(self.idle_marker_after(), work.notified()).await;
                    if waited.is_err() {
                        if self.write_marker() == Step::Failed {
                            return;
                        }
                        work.notified().await;
                    }
                }
                Step::Closed => {
                    // A failure was recorded; there is nobody left to tell.
                    let _ = self.write_marker();
                    return;
                }
                Step::Failed => return,
            }
        }
    }
}
