//! How much memory the node holds.

use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// How often freed memory is given back to the system at most: looking for it takes the allocator a while.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(20);

/// The process's memory.
#[derive(Default)]
pub(crate) struct Memory {
    given_back: Option<Instant>,
}

impl Memory {
    /// The resident memory. What is above `enough` is not counted where it is only the allocator that keeps it: that is
    /// given back to the system first.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) async fn bytes(&mut self, enough: u64) -> io::Result<u64> {
        let bytes = resident_bytes()?;
        let lately = |at: Instant| at.elapsed() < GIVE_BACK_EVERY;
        if bytes <= enough || self.given_back.is_some_and(lately) {
            return Ok(bytes);
        }
        self.given_back = Some(Instant::now());
        // It can't fail but by a panic, and then the next measurement shows it.
        let _ = tokio::task::spawn_blocking(give_back).await;
        resident_bytes()
    }
}

fn resident_bytes() -> io::Result<u64> {
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

/// glibc gives back by itself only what lies at the end of a heap, so that a node which had held much would count it
/// for ever.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "there is no safe way to ask the allocator")]
fn give_back() {
    // SAFETY: it may be called at any time from any thread, and only releases pages of free memory.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_freed_is_given_back_before_it_counts() {
        let before = resident_bytes().unwrap();
        let mut held: Vec<Vec<u8>> = (0..4_000).map(|_| vec![1; 20_000]).collect();
        let full = resident_bytes().unwrap();
        assert!(full > before + 60_000_000, "{before} to {full}");
        // Every other one: what stays keeps the end of the heap in use.
        let mut n = 0;
        held.retain(|_| {
            n += 1;
            n % 50 == 0
        });
        let used = Memory::default().bytes(0).await.unwrap();
        assert!(used < full - 40_000_000, "{full} to {used}");
        assert_eq!(held.len(), 80);
    }
}
