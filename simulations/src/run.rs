//! What one run notes down: its trace, its counts and what it found wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// The check's name.
    pub check: String,
    /// What was seen.
    pub what: String,
    /// Simulated milliseconds since the start.
    pub at_ms: u64,
}

/// Where a run notes things down. Cheap to clone; all of it is of one run.
#[derive(Clone)]
pub struct Notes(Arc<Mutex<Inner>>);

struct Inner {
    now_us: u64,
    lines: Vec<String>,
    /// Of every line, also those that were not kept.
    hasher: Xxh3,
    counts: BTreeMap<&'static str, u64>,
    violations: Vec<Violation>,
    echo: bool,
}

/// Lines that are kept for a failure's report; `--trace` prints all as they come.
const LINES_KEPT: usize = 4_000;
/// Violations that are kept: the first one matters.
const VIOLATIONS_KEPT: usize = 20;

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notes")
    }
}

impl Notes {
    /// Empty notes; `echo` prints every line as it comes.
    #[must_use]
    pub fn new(echo: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now_us: 0,
            lines: Vec::new(),
            hasher: Xxh3::new(),
            counts: BTreeMap::new(),
            violations: Vec::new(),
            echo,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in there can be left half changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time that lines get, in simulated microseconds.
    pub fn set_now(&self, us: u64) {
        self.lock().now_us = us;
    }

    /// Simulated microseconds since the start.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    /// Adds a line to the trace.
    pub fn line(&self, line: impl fmt::Display) {
        let mut inner = self.lock();
        let line = format!(
            "{:>6}.{:03} {line}",
            inner.now_us / 1_000_000,
            inner.now_us / 1_000 % 1_000
        );
        inner.hasher.update(line.as_bytes());
        inner.hasher.update(b"\n");
        if inner.echo {
            println!("{line}");
        }
        if inner.lines.len() >= 2 * LINES_KEPT {
            inner.lines.drain(..LINES_KEPT);
        }
        inner.lines.push(line);
    }

    /// Counts something that happened.
    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// Notes a promise that did not hold.
    pub fn violation(&self, check: &str, what: impl fmt::Display) {
        self.line(format_args!("VIOLATION {check}: {what}"));
        let mut inner = self.lock();
        let at_ms = inner.now_us / 1_000;
        if inner.violations.len() < VIOLATIONS_KEPT {
            inner.violations.push(Violation {
                check: check.to_owned(),
                what: what.to_string(),
                at_ms,
            });
        }
    }

    /// Whether a promise was broken already.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.lock().violations.is_empty()
    }

    /// The promises that did not hold.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let inner = self.lock();
        let counts = inner.counts.iter();
        counts.map(|(what, n)| ((*what).to_owned(), *n)).collect()
    }

    /// One number for the whole trace.
    #[must_use]
    pub fn trace_hash(&self) -> u128 {
        self.lock().hasher.digest128()
    }

    /// The last `count` lines.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let inner = self.lock();
        let from = inner.lines.len().saturating_sub(count);
        inner.lines[from..].to_vec()
    }
}
