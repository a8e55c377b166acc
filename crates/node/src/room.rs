//! Watches the node's memory and disk, so that ingest is refused before they are used up (guarantee 13).

use crate::admission::Admission;
use crate::config::Config;
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
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let full = full(&config, memory_bytes(), disk_free_bytes(&config.data_dir));
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

/// The process's resident memory.
fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/self/statm has another form",
        )
    })?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn disk_free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{disk_free_bytes, full, memory_bytes};
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
    fn the_machine_tells_what_is_used() {
        assert!(memory_bytes().unwrap() > 100_000);
        assert!(disk_free_bytes(tempfile::tempdir().unwrap().path()).unwrap() > 0);
    }
}
