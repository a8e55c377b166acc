//! Reading records back, from the tail's copies and from the segment files.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{RecordKind, read_batch};
use super::segment::Segment;
use super::{Head, Record};
use crate::error::LogError;

/// A stretch of a segment file. Its batches hold ascending records without gaps; those at `index_end` and above are
/// no longer part of the log.
pub(crate) struct Region {
    pub segment: Arc<Segment>,
    pub offset: u64,
    pub file_end: u64,
    pub index_end: u64,
}

/// Everything a read needs, gathered under the lock and run without it. Holding the segments keeps their files from
/// being reused meanwhile.
pub(crate) struct ReadPlan {
    pub start: u64,
    pub bytes_max: usize,
    /// Records below this come from the files.
    pub disk_end: u64,
    pub regions: Vec<Region>,
    pub tail: Vec<Record>,
}

impl ReadPlan {
    pub fn new(start: u64, bytes_max: usize) -> Self {
        Self {
            start,
            bytes_max,
            disk_end: start,
            regions: Vec::new(),
            tail: Vec::new(),
        }
    }

    pub fn run(self) -> Result<Vec<Record>, LogError> {
        let Self {
            start,
            bytes_max,
            disk_end,
            regions,
            tail,
        } = self;
        if regions.is_empty() && start >= disk_end {
            return Ok(tail);
        }
        let mut reading = Reading {
            next: start,
            bytes: 0,
            bytes_max,
            records: Vec::new(),
        };
        for region in &regions {
            reading.region(region)?;
            if reading.is_full() {
                return Ok(reading.records);
            }
        }
        if reading.next == disk_end {
            for record in tail {
                if reading.is_full() {
                    break;
                }
                reading.take(record);
            }
        }
        if reading.records.is_empty() {
            return Err(LogError::Unreadable {
                index: start,
                what: "no segment holds it".to_owned(),
            });
        }
        Ok(reading.records)
    }
}

struct Reading {
    /// The index of the next record to take.
    next: u64,
    bytes: usize,
    bytes_max: usize,
    records: Vec<Record>,
}

impl Reading {
    fn is_full(&self) -> bool {
        !self.records.is_empty() && self.bytes >= self.bytes_max
    }

    fn take(&mut self, record: Record) {
        self.bytes += record.len();
        self.next += 1;
        self.records.push(record);
    }

    fn region(&mut self, region: &Region) -> Result<(), LogError> {
        let name = &region.segment.name;
        let length = usize::try_from(region.file_end - region.offset)
            .expect("a segment fits the address space");
        let mut data = vec![0u8; length];
        region
            .segment
            .file
            .read_at(&mut data, region.offset)
            .map_err(LogError::io("read", name))?;
        let data = Bytes::from(data);
        let mut at = 0;
        while at < data.len() && self.next < region.index_end && !self.is_full() {
            let offset = region.offset + at as u64;
            let batch =
                read_batch(&data, at).map_err(|what| LogError::damage(name, offset, what))?;
            if batch.header.segment != region.segment.number {
                return Err(LogError::damage(
                    name,
                    offset,
                    "the batch belongs to another segment",
                ));
            }
            for raw in batch.records {
                let wanted = raw.kind == RecordKind::Append
                    && (self.next..region.index_end).contains(&raw.index);
                if !wanted || self.is_full() {
                    continue;
                }
                if raw.index != self.next {
                    return Err(LogError::damage(
                        name,
                        offset,
                        format!("record {} is not there", self.next),
                    ));
                }
                self.take(Record {
                    index: raw.index,
                    head: Head::EMPTY,
                    body: data.slice(raw.payload),
                });
            }
            at += batch.padded;
        }
        if self.next < region.index_end && !self.is_full() {
            let what = format!("record {} is not there", self.next);
            return Err(LogError::damage(name, region.offset, what));
        }
        Ok(())
    }
}
