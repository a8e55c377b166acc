//! Keeps the log within its bytes: openraft counts entries, and those can be large.

use crate::raft::Raft;
use openraft::async_runtime::WatchReceiver;
use ordo_storage::log::Log;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Takes a snapshot when the log is longer than `log_bytes`, and cuts the log there, until `stop` is cancelled.
pub(super) async fn watch(raft: Raft, log: Log, log_bytes: u64, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut asked_at = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if log.bytes_on_disk() <= log_bytes {
            asked_at = None;
            continue;
        }
        let (snapshot, applied, purged) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            (
                metrics.snapshot.map(|id| id.index),
                metrics.last_applied.map(|id| id.index),
                metrics.purged.map(|id| id.index),
            )
        };
        let done = match next(snapshot, applied, purged, asked_at) {
            Step::Wait => Ok(()),
            Step::Snapshot => {
                asked_at = snapshot.or(Some(0));
                raft.trigger().snapshot().await
            }
            Step::Purge(upto) => {
                asked_at = None;
                raft.trigger().purge_log(upto).await
            }
        };
        // Consensus has stopped, and says so elsewhere.
        if done.is_err() {
            return;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Snapshot,
    Purge(u64),
}

/// What to do about a log that is too long; `asked_at` is where the last snapshot was when a new one was asked for.
fn next(
    snapshot: Option<u64>,
    applied: Option<u64>,
    purged: Option<u64>,
    asked_at: Option<u64>,
) -> Step {
    match (snapshot, asked_at) {
        (Some(snapshot), Some(asked_at)) if snapshot > asked_at && Some(snapshot) > purged => {
            Step::Purge(snapshot)
        }
        (_, Some(_)) => Step::Wait,
        _ if applied > snapshot => Step::Snapshot,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, next};

    #[test]
    fn a_long_log_is_cut_at_a_new_snapshot() {
        assert_eq!(next(None, None, None, None), Step::Wait);
        assert_eq!(
            next(Some(5), Some(5), None, None),
            Step::Wait,
            "there is nothing newer to take one of"
        );
        assert_eq!(next(None, Some(9), None, None), Step::Snapshot);
        assert_eq!(
            next(None, Some(9), None, Some(0)),
            Step::Wait,
            "it is being made"
        );
        assert_eq!(next(Some(9), Some(12), None, Some(0)), Step::Purge(9));
        assert_eq!(next(Some(9), Some(12), Some(9), None), Step::Snapshot);
    }
}
