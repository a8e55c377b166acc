//! Reading ahead of a stream that is about to send bodies, on threads that may wait for a disk.

use crate::driver::Driver;
use crate::store::{StateStore, lock};
use crate::store_cache::BodyCache;
use ordo_core::{InterfaceId, Key, Sequence};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Streams for which bodies are read at once at most. The disk is the log's, too.
pub(crate) const READERS_MAX: usize = 4;

/// Where a message's body is: see [`StateStore::body`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPlace {
    /// The message's interface.
    pub interface: InterfaceId,
    /// The sequence it was ingested as.
    pub body_of: Sequence,
    /// Its header rows: bit i is row i.
    pub header_rows: u64,
}

impl StateStore {
    /// Reads what of `wanted` is not among the recent bodies, up to `bytes_max` and one more, on a thread that may wait
    /// for the disk: [`StateStore::body`], which an async thread calls after this, finds it in memory then. Nothing is
    /// kept of it but by RocksDB and the system, so that no body can be an older one.
    ///
    /// Returns how long that took; `None` when nothing was to be read. A disk that refuses tells whoever reads next.
    pub async fn warm(&self, wanted: &[BodyPlace], bytes_max: usize) -> Option<Duration> {
        if self.driver() == Driver::Tasks {
            return None;
        }
        let wanted = missing(&lock(self.cache()), wanted);
        if wanted.is_empty() {
            return None;
        }
        let began = Instant::now();
        let permit = self.readers().acquire().await;
        let store = self.clone();
        let read = move || {
            let mut bytes = 0;
            for place in wanted {
                let BodyPlace {
                    interface,
                    body_of,
                    header_rows,
                } = place;
                bytes += store.stored_bytes(&Key::Payload(interface, body_of));
                for row in (0..64u8).filter(|row| header_rows & (1 << row) != 0) {
                    bytes += store.stored_bytes(&Key::Headers(interface, body_of, row));
                }
                if bytes >= bytes_max {
                    return;
                }
            }
        };
        // Should it panic, the reader behind it does, too.
        let _ = tokio::task::spawn_blocking(read).await;
        drop(permit);
        Some(began.elapsed())
    }
}

fn missing(cache: &BodyCache, wanted: &[BodyPlace]) -> Vec<BodyPlace> {
    let wanted = wanted.iter().filter(|place| {
        let key = (place.interface, place.body_of);
        !cache.has(key, place.header_rows)
    });
    wanted.copied().collect()
}

/// See [`READERS_MAX`].
pub(crate) fn readers() -> Semaphore {
    Semaphore::new(READERS_MAX)
}
