//! Watches the node's memory and disk, so that ingest is refused before they are used up (guarantee 13).

use crate::admission::Admission;
use crate::config::Config;
use crate::memory::Memory;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it looks. Memory and disk fill by some hundred megabytes in that time at most.
const EVERY: Duration = Duration::from_millis(500);

/// Tells `admission` when there is no room, until `stop` is cancelled.
pub(crate) async fn watch(config: Arc<Config>, admission: Arc<Admission>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut was_full = false;
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
        let full = full(&config, used, disk_free);
        if full.is_some() != was_full {
            was_full = full.is_some();
            match &full {
                Some(why) => tracing::warn!("ingest is refused: {why}"),
                None => tracing::info!("there is room again for ingest"),
            }
        }
        admission.set_full(full);
    }
}

/// Why there is no room, when there is none. What can't be found out refuses nothing.
fn full(config: &Config, memory: io::Result<u64>, disk_free: io::Result<u64>) -> Option<String> {
    let limits = &config.limits;
    if let Ok(free) = disk_free
        && free < limits.disk_free_bytes
    {
        let folder = config.data_dir.display();
        return Some(format!(
            "the disk of {folder} has {free} bytes left, limits.disk_free_bytes is {}",
            limits.disk_free_bytes
        ));
    }
    let used = memory.ok().filter(|used| *used > limits.memory_bytes)?;
    Some(format!(
        "the node uses {used} bytes of memory, limits.memory_bytes is {}",
        limits.memory_bytes
    ))
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

    use super::{disk_free_bytes, full, left, near};
    use crate::config::Config;

    #[test]
    fn memory_and_disk_have_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::local(1, folder.path().to_owned());
        let limits = &config.limits;
        assert_eq!(
            full(&config, Ok(limits.memory_bytes), Ok(limits.disk_free_bytes)),
            None
        );
        let why = full(
            &config,
            Ok(limits.memory_bytes + 1),
            Ok(limits.disk_free_bytes),
        )
        .unwrap();
        assert!(why.contains("limits.memory_bytes"), "{why}");
        let why = full(&config, Ok(0), Ok(limits.disk_free_bytes - 1)).unwrap();
        assert!(why.contains("limits.disk_free_bytes"), "{why}");
        let unknown = || Err(std::io::Error::other("unknown"));
        assert_eq!(full(&config, unknown(), unknown()), None);
    }

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
