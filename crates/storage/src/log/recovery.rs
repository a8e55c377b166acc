//! Opening the log: read everything, check everything, cut what is torn, refuse what is damaged.

use std::collections::VecDeque;
use std::sync::Arc;

use super::LogOptions;
use super::format::{
    BLOCK, BatchHeader, FLAG_JUMP, FLAG_RESET, Position, RawBatch, RecordKind, SegmentHeader,
    read_batch,
};
use super::meta::{META_NAME, MetaFile};
use super::rolling::place_segment;
use super::segment::{
    Segment, Spare, SpareJob, segment_name, segment_number, spare_name, spare_number,
};
use super::shared::{IndexEntry, Shared, State};
use super::writer::{LogWriter, Resume};
use crate::disk::Disk;
use crate::error::LogError;

pub(super) fn open(
    disk: Arc<dyn Disk>,
    mut options: LogOptions,
) -> Result<(Arc<Shared>, LogWriter), LogError> {
    let names = disk
        .list()
        .map_err(LogError::io("list the folder of", "segments"))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    let meta = MetaFile::open(&*disk, &names, !numbers.is_empty())?;
    let obsolete: Vec<u64> = numbers
        .iter()
        .copied()
        .filter(|number| *number < meta.meta.first_segment)
        .collect();
    numbers.drain(..obsolete.len());

    let mut found = Found::read(&*disk, &meta, &numbers, options.index_step_bytes)?;
    // Where the log's own bytes end, which a purge past the end does not change.
    let written_next = found.next_index;
    let jump_to = found.apply_purge(&meta)?;
    // No name is used twice: a crash could make a rename durable and not the creation before it, and so bring an
    // older file under the new name.
    let highest_spare = names
        .iter()
        .filter_map(|name| spare_number(name))
        .max()
        .unwrap_or(0);
    // What was read may be in the page cache only, names included.
    disk.sync_folder()
        .map_err(LogError::io("sync the folder of", "segments"))?;
    let resume = match found.segments.back() {
        Some(active) => {
            active
                .file
                .sync_data()
                .map_err(LogError::io("sync", &active.name))?;
            found.resume(active, written_next)
        }
        None => begin(
            &disk,
            &mut options,
            &mut found,
            meta.meta.first_segment,
            highest_spare + 1,
        )?,
    };
    let fresh = numbers.is_empty();

    let shared = Arc::new(Shared::new(found.into_state(&meta, &options, &resume)));
    let committed = shared.lock().committed;
    let mut writer = LogWriter::new(disk, options, Arc::clone(&shared), meta, resume);
    writer.committed = committed;
    writer.next_spare = highest_spare + 1;
    let last_segment = writer.active.number;
    if writer.meta.meta.last_segment < last_segment {
        writer
            .meta
            .update(|meta| meta.last_segment = last_segment)?;
    }
    if !fresh {
        // From here on nothing that lies behind this point, torn or whole, reads as valid.
        match jump_to {
            Some(next_index) => writer.jump(next_index)?,
            None => writer.reset(FLAG_RESET)?,
        }
        writer.write_out()?;
    }
    adopt_leftovers(&mut writer, &names, &obsolete)?;
    Ok((shared, writer))
}

/// Begins a new log's first segment.
fn begin(
    disk: &Arc<dyn Disk>,
    options: &mut LogOptions,
    found: &mut Found,
    number: u64,
    spare: u64,
) -> Result<Resume, LogError> {
    let job = SpareJob {
        disk: Arc::clone(disk),
        name: spare_name(spare),
        length: options.segment_bytes,
    };
    let header = SegmentHeader {
        number,
        salt: (options.salt)(),
        chain_seed: 0,
        previous_end: 0,
        length: options.segment_bytes,
        next_index: found.next_index,
    };
    let segment = place_segment(&**disk, job.make()?, &header)?;
    found.segments.push_back(Arc::clone(&segment));
    found.end = BLOCK;
    found.segment_salt = header.salt;
    found.salt = header.salt;
    Ok(found.resume(&segment, found.next_index))
}

/// Takes over unused files and segments that were purged before the crash.
fn adopt_leftovers(
    writer: &mut LogWriter,
    names: &[String],
    obsolete: &[u64],
) -> Result<(), LogError> {
    let disk = Arc::clone(&writer.disk);
    let mut removed = false;
    for name in names.iter().filter(|name| spare_number(name).is_some()) {
        let file = disk.open(name).map_err(LogError::io("open", name))?;
        let length = file
            .len()
            .map_err(LogError::io("read the length of", name))?;
        if length == writer.options.segment_bytes
            && writer.spares.len() < writer.options.spare_files_max
        {
            writer.spares.push(Spare {
                name: name.clone(),
                file,
                length,
            });
        } else {
            disk.remove(name).map_err(LogError::io("remove", name))?;
            removed = true;
        }
    }
    if removed {
        disk.sync_folder()
            .map_err(LogError::io("sync the folder of", "segments"))?;
    }
    for number in obsolete {
        let name = segment_name(*number);
        let file = disk.open(&name).map_err(LogError::io("open", &name))?;
        let length = file
            .len()
            .map_err(LogError::io("read the length of", &name))?;
        writer
            .retired
            .push(Arc::new(Segment::new(*number, file, length, length)));
    }
    writer.recycle()?;
    writer.count_bytes();
    Ok(())
}

/// What the segments say, as far as they were read.
#[derive(Default)]
struct Found {
    segments: VecDeque<Arc<Segment>>,
    index: VecDeque<IndexEntry>,
    first_index: u64,
    next_index: u64,
    chain: u32,
    /// Where the last segment's last whole batch ends.
    end: u64,
    segment_salt: u64,
    salt: u64,
    committed: Option<u64>,
    meta_generation: u64,
    force_entry: bool,
}

impl Found {
    fn read(
        disk: &dyn Disk,
        meta: &MetaFile,
        numbers: &[u64],
        step: u64,
    ) -> Result<Self, LogError> {
        let mut found = Self {
            force_entry: true,
            ..Self::default()
        };
        let expected_last = meta
            .meta
            .last_segment
            .max(numbers.last().copied().unwrap_or(0));
        if expected_last > 0 {
            for (number, at) in (meta.meta.first_segment..=expected_last).zip(0..) {
                if numbers.get(at) != Some(&number) {
                    let file = segment_name(number);
                    return Err(LogError::Missing {
                        file,
                        what: "the log goes on behind it or ended in it",
                    });
                }
            }
        }
        let mut headers = Vec::new();
        for number in numbers {
            headers.push(open_segment(disk, *number)?);
        }
        for (at, (segment, header)) in headers.iter().enumerate() {
            let end = headers.get(at + 1).map(|(_, next)| next.previous_end);
            found.read_segment(segment, header, end, at == 0, step)?;
        }
        if found.meta_generation > meta.meta.generation {
            let what = format!(
                "it is at generation {}, but the log was written after generation {}: a vote may be lost",
                meta.meta.generation, found.meta_generation
            );
            return Err(LogError::damage(META_NAME, 0, what));
        }
        Ok(found)
    }

    /// Reads one segment, up to `end` where a later one says where it ended.
    fn read_segment(
        &mut self,
        segment: &Arc<Segment>,
        header: &SegmentHeader,
        end: Option<u64>,
        first: bool,
        step: u64,
    ) -> Result<(), LogError> {
        let name = &segment.name;
        if first {
            self.chain = header.chain_seed;
            self.first_index = header.next_index;
            self.next_index = header.next_index;
        } else if header.chain_seed != self.chain || header.next_index != self.next_index {
            return Err(LogError::damage(
                name,
                0,
                "the segment does not follow the one before",
            ));
        }
        self.segment_salt = header.salt;
        self.salt = header.salt;
        self.force_entry = true;
        let limit = end.unwrap_or(segment.length);
        if limit > segment.length || !limit.is_multiple_of(BLOCK) {
            return Err(LogError::damage(
                &segment_name(segment.number + 1),
                0,
                "it names an impossible end",
            ));
        }
        let mut data =
            vec![0u8; usize::try_from(segment.length).expect("a segment fits the address space")];
        segment
            .file
            .read_at(&mut data, 0)
            .map_err(LogError::io("read", name))?;
        let limit = limit as usize;
        let mut at = BLOCK as usize;
        while at < limit {
            let taken = read_batch(&data[..limit], at).and_then(|batch| {
                self.take(&batch, segment.number, at as u64, step)
                    .map(|()| batch.padded)
            });
            match taken {
                Ok(padded) => at += padded,
                Err(what) => {
                    let here = Position {
                        segment: segment.number,
                        offset: at as u64,
                    };
                    if end.is_some() || self.is_marked(&data, here) {
                        return Err(LogError::damage(name, here.offset, what));
                    }
                    break;
                }
            }
        }
        self.end = at as u64;
        segment.set_end(self.end);
        self.segments.push_back(Arc::clone(segment));
        Ok(())
    }

    /// Whether some batch behind `here` says that more than what lies before `here` was synced.
    ///
    /// Batches of a part that an earlier recovery cut may still lie there. Their markers are true as well, and no
    /// higher than that cut, so they do no harm.
    fn is_marked(&self, data: &[u8], here: Position) -> bool {
        let blocks = data[here.offset as usize..].chunks(BLOCK as usize).skip(1);
        blocks.filter_map(BatchHeader::decode).any(|(header, _)| {
            header.segment == here.segment
                && header.segment_salt == self.segment_salt
                && header.marker > here
        })
    }

    /// Takes one batch in, if it is the next one.
    fn take(
        &mut self,
        batch: &RawBatch,
        segment: u64,
        offset: u64,
        step: u64,
    ) -> Result<(), &'static str> {
        let header = &batch.header;
        let reset = header.flags & FLAG_RESET != 0;
        let jump = header.flags & FLAG_JUMP != 0;
        if header.segment != segment || header.segment_salt != self.segment_salt {
            return Err("the batch is of another life of this file");
        }
        if header.salt != self.salt && !reset {
            return Err("the batch was written before the log was cut here");
        }
        if header.previous_chain != self.chain {
            return Err("the batch does not follow the one before it");
        }
        if header.next_index != self.next_index && !jump {
            return Err("the batch's index does not follow");
        }
        let (mut first, mut next) = (self.first_index, header.next_index);
        let mut first_append = None;
        let mut cut = None;
        for record in &batch.records {
            match record.kind {
                RecordKind::Append if record.index == next => {
                    first_append.get_or_insert(next);
                    next += 1;
                }
                RecordKind::Truncate if record.index <= next && first_append.is_none() => {
                    next = record.index;
                    first = first.min(next);
                    cut = Some(next);
                }
                RecordKind::Append | RecordKind::Truncate => {
                    return Err("a record's index does not follow");
                }
            }
        }
        if jump {
            self.index.clear();
            first = header.next_index;
        }
        self.force_entry |= jump || cut.is_some();
        while cut.is_some_and(|cut| {
            self.index
                .back()
                .is_some_and(|entry| entry.first_index >= cut)
        }) {
            self.index.pop_back();
        }
        if let Some(first_index) = first_append {
            let position = Position { segment, offset };
            let far = self.index.back().is_none_or(|last| {
                last.position.segment != segment || offset - last.position.offset >= step
            });
            if far || self.force_entry {
                self.index.push_back(IndexEntry {
                    first_index,
                    position,
                });
                self.force_entry = false;
            }
        }
        (self.first_index, self.next_index) = (first, next);
        self.salt = header.salt;
        self.chain = batch.chain;
        self.committed = header.committed.checked_sub(1);
        self.meta_generation = self.meta_generation.max(header.meta_generation);
        Ok(())
    }

    /// Drops what was purged. Where the purge went past the end, says at which index the log goes on.
    fn apply_purge(&mut self, meta: &MetaFile) -> Result<Option<u64>, LogError> {
        let Some(purge) = meta.meta.purge else {
            return Ok(None);
        };
        let needed = purge.index + 1;
        if needed > self.next_index {
            self.index.clear();
            self.first_index = needed;
            self.next_index = needed;
            return Ok(Some(needed));
        }
        if needed < self.first_index {
            let file = self
                .segments
                .front()
                .map_or_else(|| META_NAME.to_owned(), |segment| segment.name.clone());
            let what = format!(
                "the log is purged below {needed} but begins at {}",
                self.first_index
            );
            return Err(LogError::damage(&file, 0, what));
        }
        self.first_index = needed;
        while self
            .index
            .get(1)
            .is_some_and(|entry| entry.first_index <= needed)
        {
            self.index.pop_front();
        }
        Ok(None)
    }

    fn resume(&self, active: &Arc<Segment>, next_index: u64) -> Resume {
        Resume {
            active: Arc::clone(active),
            active_salt: self.segment_salt,
            salt: self.salt,
            offset: self.end,
            chain: self.chain,
            next_index,
        }
    }

    fn into_state(self, meta: &MetaFile, options: &LogOptions, resume: &Resume) -> State {
        State {
            queue: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max: options.tail_bytes,
            first_index: self.first_index,
            next_index: self.next_index,
            synced_next: self.next_index,
            cuts_queued: 0,
            vote: meta.meta.vote,
            purge: meta.meta.purge,
            committed: self
                .committed
                .filter(|committed| *committed < self.next_index),
            segments: self.segments,
            index: self.index,
            written_end: Position {
                segment: resume.active.number,
                offset: resume.offset,
            },
            failed: None,
            closed: false,
        }
    }
}

fn open_segment(disk: &dyn Disk, number: u64) -> Result<(Arc<Segment>, SegmentHeader), LogError> {
    let name = segment_name(number);
    let file = disk.open(&name).map_err(LogError::io("open", &name))?;
    let length = file
        .len()
        .map_err(LogError::io("read the length of", &name))?;
    let mut block = vec![0u8; length.min(BLOCK) as usize];
    file.read_at(&mut block, 0)
        .map_err(LogError::io("read", &name))?;
    let header = SegmentHeader::decode(&block).map_err(|what| LogError::damage(&name, 0, what))?;
    if header.number != number || header.length != length {
        return Err(LogError::damage(
            &name,
            0,
            "the header describes another file",
        ));
    }
    Ok((Arc::new(Segment::new(number, file, length, length)), header))
}
