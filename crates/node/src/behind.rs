//! Watches whether the state's disk keeps up, so that ingest is refused before RocksDB holds up what applies entries: a
//! refused message comes again, while reports, acknowledgements and everybody's questions would wait with it.

use crate::admission::Admission;
use ordo_storage::StateStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it looks: within that much less is written than a memtable holds.
const EVERY: Duration = Duration::from_millis(100);

/// Tells `admission` when the disk does not keep up, until `stop` is cancelled.
pub(crate) async fn watch(store: StateStore, admission: Arc<Admission>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut was_behind = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let behind = store.behind();
        if behind.is_some() != was_behind {
            was_behind = behind.is_some();
            match &behind {
                Some(why) => tracing::warn!("ingest is refused: {why}"),
                None => tracing::info!("the disk keeps up again"),
            }
        }
        admission.set_behind(behind);
    }
}
