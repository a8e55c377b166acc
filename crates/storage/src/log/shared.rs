//! What handles, readers and the writer share: the queue, the tail, the index. One lock, held briefly, and never
//! across a disk operation.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::format::Position;
use super::reader::{ReadPlan, Region};
use super::segment::Segment;
use super::{Done, LogBounds, PurgePoint, RECORD_BYTES_MAX, Record, Vote};
use crate::error::LogError;

/// One piece of work for the writer, in the order it was asked for.
pub(crate) enum Op {
    Append {
        records: Vec<Record>,
        bytes: usize,
        committed: Option<u64>,
        done: Done,
    },
    Truncate {
        from: u64,
    },
    /// `jumps` when the point lies past the end, so that the log begins anew behind it.
    Purge {
        point: PurgePoint,
        jumps: bool,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    Flush {
        done: Done,
    },
}

impl Op {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append { bytes, .. } => *bytes,
            _ => 0,
        }
    }

    /// The one who waits for the operation, if somebody does.
    pub fn into_done(self) -> Option<Done> {
        match self {
            Self::Append { done, .. } | Self::Vote { done, .. } | Self::Flush { done } => {
                Some(done)
            }
            Self::Truncate { .. } | Self::Purge { .. } => None,
        }
    }
}

/// Says that the records from `first_index` on begin in the batch at `position`, and go on in file order until the
/// next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub first_index: u64,
    pub position: Position,
}

/// What the writer changed in the index, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IndexChange {
    Add(IndexEntry),
    TruncateFrom(u64),
    Clear,
}

/// What is behind the lock.
pub(crate) struct State {
    pub queue: VecDeque<Op>,
    /// The newest records, without gaps, the last of them `next_index - 1`.
    pub tail: VecDeque<Record>,
    pub tail_bytes: usize,
    pub tail_bytes_max: usize,
    pub first_index: u64,
    pub next_index: u64,
    /// Everything below is synced, as far as it is still part of the log.
    pub synced_next: u64,
    /// How many truncations and jumps are queued. While there are any, what the writer finishes may be records that
    /// are no longer part of the log, so its progress says nothing about those that took their indexes.
    pub cuts_queued: u32,
    pub vote: Option<Vote>,
    pub purge: Option<PurgePoint>,
    pub committed: Option<u64>,
    pub segments: VecDeque<Arc<Segment>>,
    pub index: VecDeque<IndexEntry>,
    /// Where the written part of the last segment ends.
    pub written_end: Position,
    pub failed: Option<LogError>,
    pub closed: bool,
}

impl State {
    pub fn bounds(&self) -> LogBounds {
        LogBounds {
            first: self.first_index,
            next: self.next_index,
            purge: self.purge,
        }
    }

    pub fn tail_first(&self) -> u64 {
        self.next_index - self.tail.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.first_index == self.next_index
    }

    pub fn last_synced_index(&self) -> Option<u64> {
        let synced = (self.synced_next > self.first_index).then(|| self.synced_next - 1);
        synced.max(self.purge.map(|purge| purge.index))
    }

    pub fn set_committed(&mut self, index: u64) {
        // An index the log does not hold must not be believed after a restart.
        if index < self.next_index && Some(index) > self.committed {
            self.committed = Some(index);
        }
    }

    fn check(&self) -> Result<(), LogError> {
        match (&self.failed, self.closed) {
            (Some(error), _) => Err(error.sticky()),
            (None, true) => Err(LogError::Closed),
            (None, false) => Ok(()),
        }
    }

    fn check_append(&self, records: &[Record]) -> Result<usize, LogError> {
        self.check()?;
        let Some(first) = records.first() else {
            return Ok(0);
        };
        let begins_anywhere = self.is_empty() && self.purge.is_none();
        let start = if begins_anywhere {
            first.index
        } else {
            self.next_index
        };
        let mut bytes = 0;
        for (record, expected) in records.iter().zip(start..) {
            if record.index != expected {
                return Err(LogError::OutOfOrder {
                    index: record.index,
                    expected,
                });
            }
            let length = record.len() as u64;
            if length > RECORD_BYTES_MAX {
                return Err(LogError::TooLarge {
                    index: record.index,
                    bytes: length,
                    limit: RECORD_BYTES_MAX,
                });
            }
            bytes += record.len();
        }
        Ok(bytes)
    }

    /// Lets go of records that readers can have from the disk, oldest first.
    pub fn shrink_tail(&mut self) {
        while self.tail_bytes > self.tail_bytes_max && self.tail_first() < self.synced_next {
            let Some(record) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= record.len();
        }
    }

    fn cut_tail_from(&mut self, from: u64) {
        while self.tail.back().is_some_and(|record| record.index >= from) {
            if let Some(record) = self.tail.pop_back() {
                self.tail_bytes -= record.len();
            }
        }
        self.next_index = from;
        self.first_index = self.first_index.min(from);
        self.synced_next = self.synced_next.min(from);
        self.committed = self.committed.filter(|committed| *committed < from);
    }

    /// Applies what the writer wrote to the index, and moves what is synced.
    pub fn apply_written(
        &mut self,
        changes: &mut Vec<IndexChange>,
        written_next: u64,
        end: Position,
    ) {
        for change in changes.drain(..) {
            match change {
                IndexChange::Add(entry) => self.index.push_back(entry),
                IndexChange::TruncateFrom(from) => {
                    while self
                        .index
                        .back()
                        .is_some_and(|entry| entry.first_index >= from)
                    {
                        self.index.pop_back();
                    }
                    self.cuts_queued = self.cuts_queued.saturating_sub(1);
                }
                IndexChange::Clear => {
                    self.index.clear();
                    self.cuts_queued = self.cuts_queued.saturating_sub(1);
                }
            }
        }
        self.written_end = end;
        if self.cuts_queued == 0 {
            self.synced_next = written_next;
        }
        self.shrink_tail();
    }

    /// Drops index entries that only lead to records below `first_needed`, and says which segment is the first that
    /// is still needed. `written_next` is the index the log has come to on the disk.
    pub fn trim_index(&mut self, first_needed: u64, written_next: u64, active_segment: u64) -> u64 {
        if first_needed >= written_next {
            self.index.clear();
        }
        while self
            .index
            .get(1)
            .is_some_and(|entry| entry.first_index <= first_needed)
        {
            self.index.pop_front();
        }
        self.index
            .front()
            .map_or(active_segment, |entry| entry.position.segment)
    }

    /// Gathers what a read needs, so that it can run without the lock.
    pub fn plan_read(&self, start: u64, end: u64, bytes_max: usize) -> ReadPlan {
        let start = start.max(self.first_index);
        let end = end.min(self.next_index);
        let mut plan = ReadPlan::new(start, bytes_max);
        if start >= end {
            return plan;
        }
        let tail_first = self.tail_first();
        if start < tail_first {
            plan.disk_end = end.min(tail_first);
            if !self.plan_regions(&mut plan) {
                return plan;
            }
        }
        let from = start.max(tail_first);
        if from < end {
            let mut bytes = 0;
            for record in self
                .tail
                .range((from - tail_first) as usize..(end - tail_first) as usize)
            {
                plan.tail.push(record.clone());
                bytes += record.len();
                if bytes >= bytes_max {
                    break;
                }
            }
        }
        plan
    }

    /// Adds the regions of `plan.start..plan.disk_end`. False where they hold more than was asked for.
    fn plan_regions(&self, plan: &mut ReadPlan) -> bool {
        let mut at = self
            .index
            .partition_point(|entry| entry.first_index <= plan.start)
            .saturating_sub(1);
        let mut bytes = 0u64;
        while let Some(entry) = self.index.get(at).copied() {
            if entry.first_index >= plan.disk_end {
                break;
            }
            let next = self.index.get(at + 1);
            let Some(segment) = self.segment(entry.position.segment) else {
                break;
            };
            let file_end = match next.map(|next| next.position) {
                Some(next) if next.segment == entry.position.segment => next.offset,
                _ if self.written_end.segment == entry.position.segment => self.written_end.offset,
                _ => segment.end(),
            };
            let index_end = next.map_or(plan.disk_end, |next| next.first_index.min(plan.disk_end));
            plan.regions.push(Region {
                segment,
                offset: entry.position.offset,
                file_end,
                index_end,
            });
            // Only what lies behind the first region is surely asked for in full.
            bytes += if plan.regions.len() == 1 {
                0
            } else {
                file_end - entry.position.offset
            };
            if bytes >= plan.bytes_max as u64 {
                return false;
            }
            at += 1;
        }
        true
    }

    fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        let first = self.segments.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.segments.get(at).cloned()
    }
}

/// The state, and what goes around the lock.
pub(crate) struct Shared {
    state: Mutex<State>,
    notify: OnceLock<Box<dyn Fn() + Send + Sync>>,
    bytes_on_disk: AtomicU64,
}

impl Shared {
    pub fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            notify: OnceLock::new(),
            bytes_on_disk: AtomicU64::new(0),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half changed, short of a broken invariant, and then the
        // panic that poisoned the lock stops the node.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_notify(&self, notify: Box<dyn Fn() + Send + Sync>) {
        assert!(
            self.notify.set(notify).is_ok(),
            "the log's writer is driven by one driver"
        );
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.bytes_on_disk.load(Ordering::Relaxed)
    }

    pub fn set_bytes_on_disk(&self, bytes: u64) {
        self.bytes_on_disk.store(bytes, Ordering::Relaxed);
    }

    /// Puts an operation in the queue and wakes the writer where it may sleep.
    fn push(&self, mut state: MutexGuard<'_, State>, op: Op) {
        let was_idle = state.queue.is_empty();
        state.queue.push_back(op);
        drop(state);
        if was_idle {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(notify) = self.notify.get() {
            notify();
        }
    }

    pub fn append(&self, records: Vec<Record>, done: Done) -> Result<(), Box<(LogError, Done)>> {
        let mut state = self.lock();
        let bytes = match state.check_append(&records) {
            Ok(bytes) => bytes,
            Err(error) => return Err(Box::new((error, done))),
        };
        if let Some(first) = records.first() {
            if state.is_empty() && state.next_index != first.index {
                // The writer begins the log anew here, as after a purge past the end.
                state.cuts_queued += 1;
                state.first_index = first.index;
                state.next_index = first.index;
                state.synced_next = first.index;
            }
            state.next_index += records.len() as u64;
            state.tail_bytes += bytes;
            state.tail.extend(records.iter().cloned());
            state.shrink_tail();
        }
        let committed = state.committed;
        self.push(
            state,
            Op::Append {
                records,
                bytes,
                committed,
                done,
            },
        );
        Ok(())
    }

    pub fn truncate(&self, from: u64) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check()?;
        if from >= state.next_index {
            return Ok(());
        }
        let from = from.max(state.purge.map_or(0, |purge| purge.index + 1));
        state.cut_tail_from(from);
        state.cuts_queued += 1;
        self.push(state, Op::Truncate { from });
        Ok(())
    }

    pub fn purge(&self, point: PurgePoint) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check()?;
        if state.purge.is_some_and(|purge| purge.index >= point.index) {
            return Ok(());
        }
        let next = point.index + 1;
        let fresh = state.is_empty() && state.purge.is_none();
        if next < state.first_index && !fresh {
            return Err(LogError::OutOfOrder {
                index: point.index,
                expected: state.first_index.saturating_sub(1),
            });
        }
        // Past the end, or in front of where an empty log would have gone on: it begins anew behind the point.
        let jumps = next > state.next_index || next < state.first_index;
        state.purge = Some(point);
        while state.tail.front().is_some_and(|record| record.index < next) {
            if let Some(record) = state.tail.pop_front() {
                state.tail_bytes -= record.len();
            }
        }
        state.first_index = next;
        if jumps {
            state.next_index = next;
            state.synced_next = next;
            state.cuts_queued += 1;
        }
        self.push(state, Op::Purge { point, jumps });
        Ok(())
    }

    pub fn enqueue_or_fail(&self, op: Op) {
        let state = self.lock();
        match state.check() {
            Ok(()) => self.push(state, op),
            Err(error) => {
                drop(state);
                if let Some(done) = op.into_done() {
                    done(Err(error));
                }
            }
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }
}
