//! What the tests of the log share: a small log on a disk in memory, driven by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ordo_storage::log::{Done, Head, Log, LogOptions, LogWriter, PurgePoint, Record, Step, Vote};
use ordo_storage::{Disk, LogError, MemDisk};

/// xorshift: enough for tests, and the same everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Options for tiny segments: 16 blocks each, little memory, a dense index.
pub fn tiny(seed: u64) -> LogOptions {
    let mut random = Random::new(seed ^ 0x5a17);
    LogOptions {
        segment_bytes: 16 * 4096,
        tail_bytes: 2000,
        group_bytes_max: 20_000,
        batch_bytes_max: 3000,
        spare_files_max: 2,
        index_step_bytes: 8192,
        idle_marker_after: Duration::from_millis(5),
        salt: Box::new(move || random.next()),
    }
}

pub fn open(disk: &MemDisk, seed: u64) -> Result<(Log, LogWriter), LogError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(disk, tiny(seed))
}

/// A record whose bytes follow from index and tag.
pub fn record(index: u64, tag: u64, length: usize) -> Record {
    let mut random = Random::new(index.wrapping_mul(31).wrapping_add(tag));
    let body: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    let mut head = [0; 16];
    head[..8].copy_from_slice(&index.to_le_bytes());
    head[8..].copy_from_slice(&tag.to_le_bytes());
    Record {
        index,
        head: Head::new(head),
        body: Bytes::from(body),
    }
}

/// Head and body in one, as a record reads back from the disk.
pub fn flat(record: &Record) -> (u64, Vec<u8>) {
    (
        record.index,
        [record.head.as_slice(), &record.body].concat(),
    )
}

pub fn read_all(log: &Log) -> Vec<(u64, Vec<u8>)> {
    log.read(0, u64::MAX, usize::MAX)
        .unwrap()
        .iter()
        .map(flat)
        .collect()
}

/// What became of an operation.
#[derive(Clone, Default)]
pub struct Outcome(Arc<Mutex<Option<Result<(), LogError>>>>);

impl Outcome {
    pub fn done(&self) -> Done {
        let slot = Arc::clone(&self.0);
        Box::new(move |result| {
            let before = slot.lock().unwrap().replace(result);
            assert!(before.is_none(), "an outcome is told once");
        })
    }

    pub fn get(&self) -> Option<Result<(), LogError>> {
        self.0.lock().unwrap().clone()
    }

    pub fn is_ok(&self) -> bool {
        matches!(self.get(), Some(Ok(())))
    }
}

pub fn append(log: &Log, records: Vec<Record>) -> Outcome {
    let outcome = Outcome::default();
    // The outcome says the same.
    let _ = log.append(records, outcome.done());
    outcome
}

pub fn vote(log: &Log, term: u64) -> Outcome {
    let outcome = Outcome::default();
    log.save_vote(
        Vote {
            term,
            node_id: term % 3,
            committed: term.is_multiple_of(2),
        },
        outcome.done(),
    );
    outcome
}

pub fn point(index: u64) -> PurgePoint {
    PurgePoint {
        term: index / 10,
        node_id: 1,
        index,
    }
}

/// Steps until there is nothing to do. False where the writer failed.
pub fn drain(writer: &mut LogWriter) -> bool {
    loop {
        match writer.step() {
            Step::Worked => {}
            Step::Idle | Step::Closed => return true,
            Step::Failed => return false,
        }
    }
}

/// Appends one record an index of `range`, each in a batch of its own, and writes them.
pub fn fill(log: &Log, writer: &mut LogWriter, range: std::ops::Range<u64>, length: usize) {
    for index in range {
        let outcome = append(log, vec![record(index, 0, length)]);
        assert!(drain(writer));
        assert!(outcome.is_ok());
    }
}

pub fn segments(disk: &MemDisk) -> Vec<String> {
    disk.list()
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".segment"))
        .collect()
}

pub fn spares(disk: &MemDisk) -> Vec<String> {
    disk.list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("spare-"))
        .collect()
}

/// Counts how often something was called.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
