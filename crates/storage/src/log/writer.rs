//! The one writer. It turns the queue into batches, syncs once for all of them, and tells those who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, FLAG_JUMP, FLAG_RESET, Position, RECORD_HEADER_BYTES,
    RecordKind, blocks, record_header,
};
use super::meta::MetaFile;
use super::segment::{Segment, Spare};
use super::shared::{IndexChange, IndexEntry, Op, Shared};
use super::{Done, LogOptions, PurgePoint, Record};
use crate::disk::Disk;
use crate::error::LogError;

/// What [`LogWriter::step`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Some of the queue was written; there may be more.
    Worked,
    /// Nothing was queued.
    Idle,
    /// The log was closed and everything queued is written. The writer is done.
    Closed,
    /// A write or sync failed, now or earlier. The writer is done.
    Failed,
}

/// A batch that is being put together in the buffer.
struct OpenBatch {
    /// Where it begins in the buffer.
    start: usize,
    header: BatchHeader,
    first_append: Option<u64>,
}

/// Writes the log. Owned by whoever drives it; everybody else has a [`super::Log`].
pub struct LogWriter {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: LogOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) meta: MetaFile,
    pub(super) spares: Vec<Spare>,
    /// Segments whose records are all purged, and which somebody may still read.
    pub(super) retired: Vec<Arc<Segment>>,
    pub(super) next_spare: u64,
    pub(super) active: Arc<Segment>,
    pub(super) active_salt: u64,
    /// The salt of the batches: the segment's, or that of the last reset in it.
    pub(super) salt: u64,
    /// Where the buffer will be written.
    pub(super) offset: u64,
    pub(super) chain: u32,
    /// The index the next record gets, in the order of the queue.
    pub(super) next_index: u64,
    pub(super) synced: Position,
    pub(super) committed: Option<u64>,
    /// Whether something was written that no marker covers yet.
    pub(super) marker_due: bool,
    pub(super) buffer: Vec<u8>,
    batch: Option<OpenBatch>,
    changes: Vec<IndexChange>,
    last_entry: Option<Position>,
    pub(super) force_entry: bool,
    group: VecDeque<Op>,
    waiting: Vec<Done>,
    pub(super) spare_asked: bool,
    pub(super) failed: bool,
}

/// Where a writer goes on: what recovery found, or the beginning of a new log.
pub(super) struct Resume {
    pub active: Arc<Segment>,
    pub active_salt: u64,
    pub salt: u64,
    pub offset: u64,
    pub chain: u32,
    pub next_index: u64,
}

impl LogWriter {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        shared: Arc<Shared>,
        meta: MetaFile,
        resume: Resume,
    ) -> Self {
        let Resume {
            active,
            active_salt,
            salt,
            offset,
            chain,
            next_index,
        } = resume;
        Self {
            disk,
            options,
            shared,
            meta,
            spares: Vec::new(),
            retired: Vec::new(),
            next_spare: 0,
            synced: Position {
                segment: active.number,
                offset,
            },
            active,
            active_salt,
            salt,
            offset,
            chain,
            next_index,
            committed: None,
            marker_due: false,
            buffer: Vec::new(),
            batch: None,
            changes: Vec::new(),
            last_entry: None,
            force_entry: true,
            group: VecDeque::new(),
            waiting: Vec::new(),
            spare_asked: false,
            failed: false,
        }
    }

    /// How long to wait for work before [`LogWriter::write_marker`].
    pub fn idle_marker_after(&self) -> Duration {
        self.options.idle_marker_after
    }

    /// Writes what is queued, up to the group's bound, with one sync.
    pub fn step(&mut self) -> Step {
        if self.failed {
            return Step::Failed;
        }
        let closed = self.take_group();
        if self.group.is_empty() {
            return if closed { Step::Closed } else { Step::Idle };
        }
        match self.execute() {
            Ok(()) => Step::Worked,
            Err(error) => self.fail(error),
        }
    }

    /// Writes a marker behind what was synced, if none covers it yet. To be called when there was no work for a while,
    /// and before a clean end.
    pub fn write_marker(&mut self) -> Step {
        if self.failed {
            return Step::Failed;
        }
        if !self.marker_due {
            return Step::Idle;
        }
        {
            let state = self.shared.lock();
            if !state.queue.is_empty() {
                return Step::Idle;
            }
            self.committed = state.committed;
        }
        let written = self.begin_batch(0).and_then(|()| self.flush());
        self.marker_due = false;
        match written {
            Ok(()) => Step::Worked,
            Err(error) => self.fail(error),
        }
    }

    fn take_group(&mut self) -> bool {
        let mut state = self.shared.lock();
        let mut bytes = 0;
        while bytes < self.options.group_bytes_max
            && let Some(op) = state.queue.pop_front()
        {
            bytes += op.bytes();
            self.group.push_back(op);
        }
        state.closed
    }

    fn execute(&mut self) -> Result<(), LogError> {
        while let Some(op) = self.group.pop_front() {
            match op {
                Op::Append {
                    records,
                    committed,
                    done,
                    ..
                } => {
                    self.waiting.push(done);
                    self.committed = committed;
                    self.append(&records)?;
                }
                Op::Truncate { from } => self.truncate(from)?,
                Op::Purge { point, jumps } => self.purge(point, jumps)?,
                Op::Vote { vote, done } => {
                    self.waiting.push(done);
                    self.write_out()?;
                    self.meta.update(|meta| meta.vote = Some(vote))?;
                    self.marker_due = true;
                    self.shared.lock().vote = Some(vote);
                    self.tell_waiting();
                }
                Op::Flush { done } => self.waiting.push(done),
            }
        }
        self.flush()
    }

    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        let Some(first) = records.first() else {
            return Ok(());
        };
        if first.index != self.next_index {
            self.jump(first.index)?;
        }
        for record in records {
            assert_eq!(
                record.index, self.next_index,
                "the queue holds the records in order"
            );
            self.push_record(
                RecordKind::Append,
                record.index,
                [record.head.as_slice(), &record.body],
            )?;
            self.next_index += 1;
        }
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> Result<(), LogError> {
        // A truncation is the first record of its batch, so that a batch never holds an index twice.
        self.end_batch();
        self.push_record(RecordKind::Truncate, from, [&[], &[]])?;
        self.next_index = from;
        self.changes.push(IndexChange::TruncateFrom(from));
        self.force_entry = true;
        Ok(())
    }

    fn purge(&mut self, point: PurgePoint, jumps: bool) -> Result<(), LogError> {
        self.write_out()?;
        if jumps {
            // The point must be durable before the log goes on behind it, or recovery would see a hole.
            self.meta.update(|meta| meta.purge = Some(point))?;
            self.jump(point.index + 1)?;
            self.write_out()?;
        }
        let first_needed = point.index + 1;
        let first_segment =
            self.shared
                .lock()
                .trim_index(first_needed, self.next_index, self.active.number);
        self.force_entry |= first_needed >= self.next_index;
        self.meta.update(|meta| {
            meta.purge = Some(point);
            meta.first_segment = first_segment;
        })?;
        self.marker_due = true;
        self.retire_segments(first_segment);
        self.tell_waiting();
        self.recycle()
    }

    /// Drops everything and goes on at `next_index`, under a new salt.
    pub(super) fn jump(&mut self, next_index: u64) -> Result<(), LogError> {
        self.end_batch();
        self.make_room(0)?;
        self.next_index = next_index;
        self.reset(FLAG_RESET | FLAG_JUMP)?;
        self.changes.push(IndexChange::Clear);
        self.force_entry = true;
        Ok(())
    }

    /// Writes an empty batch that starts a new salt.
    pub(super) fn reset(&mut self, flags: u32) -> Result<(), LogError> {
        self.make_room(0)?;
        self.salt = (self.options.salt)();
        self.begin_batch(0)?;
        if let Some(batch) = &mut self.batch {
            batch.header.flags = flags;
        }
        self.end_batch();
        Ok(())
    }

    fn push_record(
        &mut self,
        kind: RecordKind,
        index: u64,
        parts: [&[u8]; 2],
    ) -> Result<(), LogError> {
        let bytes = RECORD_HEADER_BYTES + parts[0].len() + parts[1].len();
        let fits = self.batch.as_ref().is_some_and(|batch| {
            let grown = self.buffer.len() - batch.start + bytes;
            let end = self.offset + batch.start as u64 + blocks(grown as u64);
            grown <= self.options.batch_bytes_max && end <= self.active.length
        });
        if !fits {
            self.end_batch();
            self.begin_batch(bytes)?;
        }
        let header = record_header(kind, index, parts);
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(parts[0]);
        self.buffer.extend_from_slice(parts[1]);
        let batch = self.batch.as_mut().expect("a batch was begun above");
        batch.header.records += 1;
        batch.header.records_crc = crc32c::crc32c_append(batch.header.records_crc, &header);
        if kind == RecordKind::Append && batch.first_append.is_none() {
            batch.first_append = Some(index);
        }
        Ok(())
    }

    /// Makes sure that a batch with `bytes` of records fits the segment, if need be the next one.
    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        let needed = blocks((BATCH_HEADER_BYTES + bytes) as u64);
        if self.offset + self.buffer.len() as u64 + needed > self.active.length {
            self.roll(BLOCK + needed)?;
        }
        Ok(())
    }

    fn begin_batch(&mut self, bytes: usize) -> Result<(), LogError> {
        self.make_room(bytes)?;
        let start = self.buffer.len();
        self.buffer.resize(start + BATCH_HEADER_BYTES, 0);
        let header = BatchHeader {
            segment: self.active.number,
            segment_salt: self.active_salt,
            salt: self.salt,
            next_index: self.next_index,
            ..BatchHeader::default()
        };
        self.batch = Some(OpenBatch {
            start,
            header,
            first_append: None,
        });
        Ok(())
    }

    fn end_batch(&mut self) {
        let Some(mut batch) = self.batch.take() else {
            return;
        };
        let position = Position {
            segment: self.active.number,
            offset: self.offset + batch.start as u64,
        };
        let length = self.buffer.len() - batch.start;
        batch.header.length = u32::try_from(length).expect("a batch is bounded far below 4 GiB");
        batch.header.previous_chain = self.chain;
        batch.header.marker = self.synced;
        batch.header.committed = self.committed.map_or(0, |committed| committed + 1);
        batch.header.meta_generation = self.meta.meta.generation;
        let padded = blocks(length as u64) as usize;
        self.buffer.resize(batch.start + padded, 0);
        self.chain = batch.header.encode(&mut self.buffer[batch.start..]);
        let Some(first_index) = batch.first_append else {
            return;
        };
        let far = self.last_entry.is_none_or(|last| {
            last.segment != position.segment
                || position.offset - last.offset >= self.options.index_step_bytes
        });
        if far || self.force_entry {
            self.changes.push(IndexChange::Add(IndexEntry {
                first_index,
                position,
            }));
            self.last_entry = Some(position);
            self.force_entry = false;
        }
    }

    /// Writes and syncs the buffer, and makes it known; those who wait hear of it later.
    pub(super) fn write_out(&mut self) -> Result<(), LogError> {
        self.end_batch();
        if !self.buffer.is_empty() {
            let active = &self.active;
            active
                .file
                .write_at(&self.buffer, self.offset)
                .map_err(LogError::io("write", &active.name))?;
            active
                .file
                .sync_data()
                .map_err(LogError::io("sync", &active.name))?;
            self.offset += self.buffer.len() as u64;
            self.synced.offset = self.offset;
            self.buffer.clear();
            self.buffer.shrink_to(2 * self.options.group_bytes_max);
            self.marker_due = true;
        }
        let end = Position {
            segment: self.active.number,
            offset: self.offset,
        };
        self.shared
            .lock()
            .apply_written(&mut self.changes, self.next_index, end);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.write_out()?;
        self.tell_waiting();
        Ok(())
    }

    fn tell_waiting(&mut self) {
        for done in self.waiting.drain(..) {
            done(Ok(()));
        }
    }

    /// Tells everybody, once, and takes no more work.
    fn fail(&mut self, error: LogError) -> Step {
        tracing::error!(%error, "the log cannot be written any more; the node must stop");
        self.failed = true;
        let queue = {
            let mut state = self.shared.lock();
            state.failed = Some(error.clone());
            std::mem::take(&mut state.queue)
        };
        self.batch = None;
        self.buffer = Vec::new();
        for done in self.waiting.drain(..) {
            done(Err(error.clone()));
        }
        for done in self.group.drain(..).chain(queue).filter_map(Op::into_done) {
            done(Err(error.sticky()));
        }
        Step::Failed
    }
}
