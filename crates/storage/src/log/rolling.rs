//! From one segment file to the next, and what becomes of the old ones.

use std::sync::Arc;

use super::format::{BLOCK, Position, SegmentHeader};
use super::meta::MetaFile;
use super::segment::{Segment, Spare, SpareJob, SpareMade, segment_name, spare_name};
use super::writer::LogWriter;
use crate::disk::Disk;
use crate::error::LogError;

impl LogWriter {
    /// A file to make ahead of its use, if one will be needed. Ask after each step; the answer comes once a segment.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        let due = !self.failed
            && self.spares.is_empty()
            && !self.spare_asked
            && self.offset > self.active.length / 4;
        due.then(|| {
            self.spare_asked = true;
            self.new_spare_job(self.options.segment_bytes)
        })
    }

    /// Takes what a [`SpareJob`] made. One that failed is only a warning: the writer creates a file itself when it
    /// needs one, and that failure counts.
    pub fn spare_made(&mut self, made: SpareMade) {
        match made.0 {
            Ok(spare) => {
                self.spares.push(spare);
                self.count_bytes();
            }
            Err(error) => {
                tracing::warn!(%error, "a log segment could not be made ahead of its use")
            }
        }
    }

    fn new_spare_job(&mut self, length: u64) -> SpareJob {
        self.next_spare += 1;
        SpareJob {
            disk: Arc::clone(&self.disk),
            name: spare_name(self.next_spare),
            length,
        }
    }

    /// Ends the segment and begins the next one, long enough for `needed` bytes.
    pub(super) fn roll(&mut self, needed: u64) -> Result<(), LogError> {
        self.write_out()?;
        self.recycle()?;
        let length = self.options.segment_bytes.max(needed);
        let at = self.spares.iter().position(|spare| spare.length == length);
        let spare = match at {
            Some(at) => self.spares.swap_remove(at),
            None => self.new_spare_job(length).make_unfilled()?,
        };
        let header = SegmentHeader {
            number: self.active.number + 1,
            salt: (self.options.salt)(),
            chain_seed: self.chain,
            previous_end: self.offset,
            length,
            next_index: self.next_index,
        };
        self.active.set_end(self.offset);
        let segment = place_segment(&*self.disk, spare, &header)?;
        self.meta.update(|meta| meta.last_segment = header.number)?;
        self.active = segment;
        self.active_salt = header.salt;
        self.salt = header.salt;
        self.offset = BLOCK;
        self.synced = Position {
            segment: header.number,
            offset: BLOCK,
        };
        self.force_entry = true;
        self.spare_asked = false;
        let mut state = self.shared.lock();
        state.segments.push_back(Arc::clone(&self.active));
        state.written_end = self.synced;
        drop(state);
        self.count_bytes();
        Ok(())
    }

    /// Takes the segments below `first` out of the log. Readers may still hold them.
    pub(super) fn retire_segments(&mut self, first: u64) {
        let mut state = self.shared.lock();
        while state
            .segments
            .front()
            .is_some_and(|segment| segment.number < first)
        {
            self.retired.extend(state.segments.pop_front());
        }
    }

    /// Makes spares of the retired segments that nobody reads any more, or removes them where there are enough.
    pub(super) fn recycle(&mut self) -> Result<(), LogError> {
        let mut changed = false;
        let mut kept = Vec::new();
        for segment in std::mem::take(&mut self.retired) {
            let segment = match Arc::try_unwrap(segment) {
                Ok(segment) => segment,
                Err(held) => {
                    kept.push(held);
                    continue;
                }
            };
            changed = true;
            if segment.length == self.options.segment_bytes
                && self.spares.len() < self.options.spare_files_max
            {
                self.next_spare += 1;
                let name = spare_name(self.next_spare);
                self.disk
                    .rename(&segment.name, &name)
                    .map_err(LogError::io("rename", &segment.name))?;
                self.spares.push(Spare {
                    name,
                    file: segment.file,
                    length: segment.length,
                });
            } else {
                self.disk
                    .remove(&segment.name)
                    .map_err(LogError::io("remove", &segment.name))?;
            }
        }
        self.retired = kept;
        if changed {
            // Before any of them is written to, so that no file's bytes contradict its durable name.
            self.disk
                .sync_folder()
                .map_err(LogError::io("sync the folder of", "segments"))?;
            self.count_bytes();
        }
        Ok(())
    }

    pub(super) fn count_bytes(&self) {
        let segments: u64 = self
            .shared
            .lock()
            .segments
            .iter()
            .map(|segment| segment.length)
            .sum();
        let spares: u64 = self.spares.iter().map(|spare| spare.length).sum();
        let retired: u64 = self.retired.iter().map(|segment| segment.length).sum();
        self.shared
            .set_bytes_on_disk(segments + spares + retired + MetaFile::BYTES);
    }
}

/// Makes `spare` the segment that `header` describes. Durable, name included, when this returns.
pub(super) fn place_segment(
    disk: &dyn Disk,
    spare: Spare,
    header: &SegmentHeader,
) -> Result<Arc<Segment>, LogError> {
    let name = segment_name(header.number);
    spare
        .file
        .write_at(&header.encode(), 0)
        .map_err(LogError::io("write", &spare.name))?;
    spare
        .file
        .sync_data()
        .map_err(LogError::io("sync", &spare.name))?;
    disk.rename(&spare.name, &name)
        .map_err(LogError::io("rename", &spare.name))?;
    disk.sync_folder()
        .map_err(LogError::io("sync the folder of", &name))?;
    Ok(Arc::new(Segment::new(
        header.number,
        spare.file,
        header.length,
        header.length,
    )))
}
