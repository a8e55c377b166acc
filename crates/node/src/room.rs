//! Watches the node's memory and disk. What follows from that is decided with what the other nodes say: see `rooms.rs`.

use crate::admission::Admission;
use crate::config::Config;
use crate::memory::Memory;
use crate::raft::Raft;
use crate::rooms::Rooms;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it looks. Memory and disk fill by some hundred megabytes in that time at most.
const EVERY: Duration = Duration::from_millis(500);

/// Tells `rooms` what this node uses, and `admission` how near that is to its limits, until `stop` is cancelled.
pub(crate) async fn watch(
    config: Arc<Config>,
    admission: Arc<Admission>,
    rooms: Arc<Rooms>,
    raft: Raft,
    stop: CancellationToken,
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let used = memory.bytes(near(config.limits.memory_bytes)).await;
        let disk_free = disk_free_bytes(&config.data_dir);
        admission.set_scarce(left(&config, &used, &disk_free));
        rooms.measured(&raft, used.ok(), disk_free.ok());
    }
}

/// Near so much memory the interfaces that hold most are refused first.
const fn near(memory_bytes: u64) -> u64 {
    memory_bytes / 8 * 7
}

/// How much is left, of 1,000, of what lies between being near a limit and the limit; none where none is near.
fn left(config: &Config, memory: &io::Result<u64>, disk_free: &io::Result<u64>) -> Option<u64> {
    let limits = &config.limits;
    let part = |free: u64, of: u64| free.min(of) * 1_000 / of.max(1);
    let memory = memory.as_ref().map_or(1_000, |used| {
        let between = limits.memory_bytes - near(limits.memory_bytes);
        part(limits.memory_bytes.saturating_sub(*used), between)
    });
    let disk = disk_free.as_ref().map_or(1_000, |free| {
        part(
            free.saturating_sub(limits.disk_free_bytes),
            limits.disk_free_bytes / 8,
        )
    });
    Some(memory.min(disk)).filter(|left| *left < 1_000)
}

fn disk_free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{disk_free_bytes, left, near};
    use crate::config::Config;

    #[test]
    fn how_much_is_left_is_known_near_a_limit() {
        let config = Config::local(1, std::path::PathBuf::from("none"));
        let limits = &config.limits;
        let (most, floor) = (limits.memory_bytes, limits.disk_free_bytes);
        let left = |memory, free| left(&config, &Ok(memory), &Ok(free));
        assert_eq!(left(near(most), floor * 2), None);
        let middle = near(most) + (most - near(most)) / 2;
        assert_eq!(left(middle, floor * 2), Some(500));
        assert_eq!(left(middle, floor + floor / 32), Some(250));
        assert_eq!(left(most + 1, floor * 2), Some(0));
    }

    #[test]
    fn the_machine_tells_what_is_used() {
        assert!(disk_free_bytes(tempfile::tempdir().unwrap().path()).unwrap() > 0);
    }
}
