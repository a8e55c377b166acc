//! Power losses and ends of the process at any point, torn sectors included, against a plain model.
//!
//! The log must come back as it was after some prefix of what was asked of it, no shorter than what it acknowledged.
//! That says it all at once: nothing acknowledged is lost, nothing truncated returns, votes and purge points hold.

use std::collections::BTreeMap;

use crate::log_support::{
    Outcome, Random, append, drain, flat, open, point, read_all, record, vote,
};
use ordo_storage::log::{Log, LogWriter, PurgePoint, Vote};
use ordo_storage::{LogError, MemDisk};

/// What a log holds: tag and length of each record.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    records: BTreeMap<u64, (u64, usize)>,
    purge: Option<PurgePoint>,
    vote: Option<Vote>,
}

impl Model {
    fn next(&self) -> u64 {
        let behind_purge = self.purge.map_or(0, |purge| purge.index + 1);
        self.records
            .keys()
            .next_back()
            .map_or(behind_purge, |last| last + 1)
    }

    fn first(&self) -> u64 {
        self.records
            .keys()
            .next()
            .copied()
            .unwrap_or_else(|| self.next())
    }

    fn purge(&mut self, point: PurgePoint) {
        self.purge = Some(point);
        self.records.retain(|index, _| *index > point.index);
    }

    fn read(log: &Log) -> Self {
        let mut records = BTreeMap::new();
        for (index, bytes) in read_all(log) {
            let tag = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            let length = bytes.len() - 16;
            assert_eq!(
                bytes,
                flat(&record(index, tag, length)).1,
                "record {index} is not what was written"
            );
            records.insert(index, (tag, length));
        }
        let bounds = log.bounds();
        let model = Self {
            records,
            purge: bounds.purge,
            vote: log.vote(),
        };
        if !model.records.is_empty() || model.purge.is_some() {
            assert_eq!((bounds.first, bounds.next), (model.first(), model.next()));
        }
        model
    }
}

/// One seed's run over several lives of the machine.
struct Run {
    random: Random,
    /// The states after each step, the first being the oldest that may come back.
    states: Vec<Model>,
    /// Outcomes not seen yet, with how many states there were when they were asked for.
    pending: Vec<(usize, Outcome)>,
    /// What was known to be committed, by index.
    committed: BTreeMap<u64, (u64, usize)>,
    tag: u64,
    term: u64,
}

impl Run {
    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn change(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = self.now().clone();
        change(&mut model);
        self.states.push(model);
    }

    /// Drops the states that what was acknowledged rules out.
    fn see_outcomes(&mut self) {
        let acknowledged = self
            .pending
            .iter()
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(at, _)| *at)
            .max();
        let Some(acknowledged) = acknowledged else {
            return;
        };
        self.states.drain(..acknowledged);
        self.pending.retain(|(at, _)| *at > acknowledged);
        for (at, _) in &mut self.pending {
            *at -= acknowledged;
        }
    }

    fn wait_for(&mut self, outcome: Outcome) {
        self.pending.push((self.states.len() - 1, outcome));
    }

    fn operation(&mut self, log: &Log, writer: &mut LogWriter) {
        match self.random.below(20) {
            0..8 => self.append(log),
            8 => self.truncate(log),
            9 => self.purge(log),
            10 => {
                self.term += 1;
                let outcome = vote(log, self.term);
                let term = self.term;
                let saved = Vote {
                    term,
                    node_id: term % 3,
                    committed: term.is_multiple_of(2),
                };
                self.change(|model| model.vote = Some(saved));
                self.wait_for(outcome);
            }
            11 => {
                let outcome = Outcome::default();
                log.flush(outcome.done());
                self.wait_for(outcome);
            }
            12 => self.commit(log),
            13 => drop(writer.write_marker()),
            14 => {
                if let Some(job) = writer.spare_job() {
                    writer.spare_made(job.run());
                }
            }
            15 => {
                drain(writer);
            }
            _ => drop(writer.step()),
        }
        self.see_outcomes();
    }

    fn append(&mut self, log: &Log) {
        if log.failure().is_some() {
            return;
        }
        let mut next = self.now().next();
        if self.now().records.is_empty() && self.now().purge.is_none() {
            next = self.random.below(5);
        }
        let mut records = Vec::new();
        for index in next..=next + self.random.below(5) {
            let length = match self.random.below(12) {
                0 => 0,
                1 => self.random.below(90_000),
                2 | 3 => self.random.below(9_000),
                _ => self.random.below(700),
            } as usize;
            self.tag += 1;
            let tag = self.tag;
            records.push(record(index, tag, length));
            // A lump may be cut in the middle: each record is a state of its own.
            self.change(|model| model.records.extend([(index, (tag, length))]));
        }
        let outcome = append(log, records);
        self.wait_for(outcome);
    }

    fn truncate(&mut self, log: &Log) {
        let model = self.now();
        let kept = self
            .committed
            .keys()
            .next_back()
            .map_or(0, |committed| committed + 1);
        let (low, high) = (model.first().max(kept), model.next());
        if low < high {
            let from = low + self.random.below(high - low);
            // A log that failed refuses, and then no state may show it.
            if log.truncate(from).is_ok() {
                self.change(|model| drop(model.records.split_off(&from)));
            }
        }
    }

    fn purge(&mut self, log: &Log) {
        let model = self.now();
        if model.records.is_empty() && model.purge.is_none() {
            return;
        }
        let (first, next) = (model.first(), model.next());
        let index = if self.random.one_in(4) {
            next + self.random.below(20)
        } else {
            first + self.random.below(next - first + 1)
        };
        if log.purge(point(index)).is_ok() {
            self.change(|model| model.purge(point(index)));
        }
    }

    fn commit(&mut self, log: &Log) {
        let model = self.now().clone();
        if model.records.is_empty() || log.failure().is_some() {
            return;
        }
        let index = model.first() + self.random.below(model.next() - model.first());
        for (index, record) in model.records.range(..=index) {
            self.committed.insert(*index, *record);
        }
        log.set_committed(index);
    }

    /// Checks what came back, and goes on from there.
    fn recovered(&mut self, log: &Log) {
        let found = Model::read(log);
        let count = self.states.len();
        assert!(
            self.states.contains(&found),
            "came back as none of {count} states: {found:?}\noldest: {:?}\nnewest: {:?}",
            self.states[0],
            self.states[count - 1]
        );
        if let Some(committed) = log.committed() {
            assert!(
                committed < log.bounds().next,
                "what is committed is there, or was purged"
            );
            if let Some(record) = found.records.get(&committed) {
                assert_eq!(
                    self.committed.get(&committed),
                    Some(record),
                    "something else is called committed"
                );
            }
        }
        // What was committed and lost may come again as something else, from a quorum of others.
        self.committed
            .retain(|index, record| found.records.get(index) == Some(record));
        self.states = vec![found];
        self.pending.clear();
    }

    fn life(&mut self, disk: &MemDisk) -> Result<(), LogError> {
        let (log, mut writer) = open(disk, self.random.next())?;
        self.recovered(&log);
        for _ in 0..self.random.below(60) {
            self.operation(&log, &mut writer);
            if log.failure().is_some() {
                break;
            }
            self.see_outcomes();
            if self.random.one_in(8) {
                let read = Model::read(&log);
                let now = Model {
                    vote: read.vote,
                    ..self.now().clone()
                };
                assert_eq!(read, now, "what was asked for is readable at once");
            }
        }
        for _ in 0..self.random.below(4) {
            self.append(&log);
            self.truncate(&log);
        }
        self.see_outcomes();
        Ok(())
    }
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = MemDisk::new();
    let mut run = Run {
        random: random.clone(),
        states: vec![Model::default()],
        pending: Vec::new(),
        committed: BTreeMap::new(),
        tag: 0,
        term: 0,
    };
    for _ in 0..12 {
        if !random.one_in(3) {
            let most = if random.one_in(3) { 20 } else { 400 };
            disk.fail_after(random.below(most));
        }
        // The disk that is gone is the only error a life may end in.
        if let Err(error) = run.life(&disk) {
            assert!(
                matches!(&error, LogError::Io { error, .. } if error.to_string() == "the disk is gone"),
                "{error}"
            );
        }
        disk = if random.one_in(4) {
            disk.process_ends()
        } else {
            let persists_in_8 = [0, 1, 4, 7, 8][random.below(5) as usize];
            disk.crash(|| random.below(8) < persists_in_8)
        };
    }
    let (log, _writer) = open(&disk, seed).unwrap();
    run.recovered(&log);
}

#[test]
fn after_any_crash_the_log_is_what_some_prefix_of_its_history_left() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let seeds = match number("ORDO_LOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ORDO_LOG_SEEDS").unwrap_or(400),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = result {
            eprintln!(
                "replay with: ORDO_LOG_SEED={seed} cargo test --release -p ordo-storage --test log_crash"
            );
            std::panic::resume_unwind(panic);
        }
    }
}
