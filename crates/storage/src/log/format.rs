//! The log's bytes. `FORMAT.md` beside this crate's sources says the same in tables; keep both in step.
//!
//! All integers are little endian. Every byte that was written is covered by a checksum or must be zero, so that no
//! flipped bit below the highest marker goes unseen.

use std::ops::Range;

/// Batches begin on multiples of this, and file headers fill one.
pub(crate) const BLOCK: u64 = 4096;
/// The version in segment headers and meta slots.
pub(crate) const VERSION: u32 = 1;
pub(crate) const BATCH_HEADER_BYTES: usize = 96;
pub(crate) const RECORD_HEADER_BYTES: usize = 20;
const SEGMENT_HEADER_BYTES: usize = 60;
const SEGMENT_MAGIC: [u8; 8] = *b"ORDOLOG1";
const BATCH_MAGIC: [u8; 4] = *b"BTCH";

/// `bytes` rounded up to whole blocks.
pub(crate) const fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// A place in the log: a segment's number and an offset in its file. Ordered as the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub segment: u64,
    pub offset: u64,
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes were sliced"))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        data[at..at + 8]
            .try_into()
            .expect("eight bytes were sliced"),
    )
}

pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

/// The first block of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u64,
    /// Random. A batch belongs to this life of the file only when it carries the same value.
    pub salt: u64,
    /// The chain's value where the segment before ended.
    pub chain_seed: u32,
    /// Where the segment before ended; everything before that is synced. 0 for the first segment.
    pub previous_end: u64,
    pub length: u64,
    /// The index the next record gets.
    pub next_index: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend_from_slice(&SEGMENT_MAGIC);
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&self.chain_seed.to_le_bytes());
        for field in [
            self.number,
            self.salt,
            self.previous_end,
            self.length,
            self.next_index,
        ] {
            block.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(block.len(), SEGMENT_HEADER_BYTES);
        block.resize(BLOCK as usize, 0);
        block
    }

    pub fn decode(block: &[u8]) -> Result<Self, &'static str> {
        if block.len() < BLOCK as usize {
            return Err("the segment header is cut short");
        }
        if block[..8] != SEGMENT_MAGIC {
            return Err("the segment header does not begin as one");
        }
        if u32_at(block, 56) != crc32c::crc32c(&block[..56])
            || !is_zero(&block[SEGMENT_HEADER_BYTES..BLOCK as usize])
        {
            return Err("the segment header's checksum does not match");
        }
        if u32_at(block, 8) != VERSION {
            return Err("the segment was written by a version this one does not know");
        }
        Ok(Self {
            chain_seed: u32_at(block, 12),
            number: u64_at(block, 16),
            salt: u64_at(block, 24),
            previous_end: u64_at(block, 32),
            length: u64_at(block, 40),
            next_index: u64_at(block, 48),
        })
    }
}

/// The batch starts a new salt: nothing written before it and lying behind it on the disk reads as valid any more.
pub(crate) const FLAG_RESET: u32 = 1;
/// Only with [`FLAG_RESET`]: everything before is dropped and the log goes on, empty, at the batch's `next_index`.
pub(crate) const FLAG_JUMP: u32 = 2;

/// What stands before the records of a batch. It fits one sector, so it is on the disk whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BatchHeader {
    /// Header and records, without the padding.
    pub length: u32,
    pub records: u32,
    /// Over the record headers, each of which holds its payload's checksum.
    pub records_crc: u32,
    /// The chain's value before this batch: the checksum of the batch before.
    pub previous_chain: u32,
    pub segment: u64,
    pub segment_salt: u64,
    pub salt: u64,
    /// The index the log had come to before this batch (after the jump, if it jumps).
    pub next_index: u64,
    /// Everything before this was synced when the batch was written.
    pub marker: Position,
    /// The last committed index + 1; 0 for none.
    pub committed: u64,
    /// The meta file's generation that was synced when the batch was written.
    pub meta_generation: u64,
    pub flags: u32,
}

impl BatchHeader {
    /// Writes the header into the first bytes of `out` and returns its checksum, the chain's new value.
    pub fn encode(&self, out: &mut [u8]) -> u32 {
        out[0..4].copy_from_slice(&BATCH_MAGIC);
        let mut at = 8;
        for field in [
            self.length,
            self.records,
            self.records_crc,
            self.previous_chain,
        ] {
            out[at..at + 4].copy_from_slice(&field.to_le_bytes());
            at += 4;
        }
        for field in [
            self.segment,
            self.segment_salt,
            self.salt,
            self.next_index,
            self.marker.segment,
            self.marker.offset,
            self.committed,
            self.meta_generation,
        ] {
            out[at..at + 8].copy_from_slice(&field.to_le_bytes());
            at += 8;
        }
        out[at..at + 4].copy_from_slice(&self.flags.to_le_bytes());
        out[at + 4..at + 8].fill(0);
        debug_assert_eq!(at + 8, BATCH_HEADER_BYTES);
        let crc = crc32c::crc32c(&out[8..BATCH_HEADER_BYTES]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a header, `None` where the bytes are none.
    pub fn decode(data: &[u8]) -> Option<(Self, u32)> {
        if data.len() < BATCH_HEADER_BYTES || data[0..4] != BATCH_MAGIC {
            return None;
        }
        let crc = u32_at(data, 4);
        if crc != crc32c::crc32c(&data[8..BATCH_HEADER_BYTES]) {
            return None;
        }
        let header = Self {
            length: u32_at(data, 8),
            records: u32_at(data, 12),
            records_crc: u32_at(data, 16),
            previous_chain: u32_at(data, 20),
            segment: u64_at(data, 24),
            segment_salt: u64_at(data, 32),
            salt: u64_at(data, 40),
            next_index: u64_at(data, 48),
            marker: Position {
                segment: u64_at(data, 56),
                offset: u64_at(data, 64),
            },
            committed: u64_at(data, 72),
            meta_generation: u64_at(data, 80),
            flags: u32_at(data, 88),
        };
        Some((header, crc))
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// The payload is the log's record at this index.
    Append,
    /// The records at this index and above are gone.
    Truncate,
}

impl RecordKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Append => 1,
            Self::Truncate => 2,
        }
    }
}

/// Encodes a record's header; `parts` are the payload, in order.
pub(crate) fn record_header(
    kind: RecordKind,
    index: u64,
    parts: [&[u8]; 2],
) -> [u8; RECORD_HEADER_BYTES] {
    let length = u32::try_from(parts[0].len() + parts[1].len())
        .expect("record sizes are checked when they are queued");
    let mut header = [0u8; RECORD_HEADER_BYTES];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&index.to_le_bytes());
    header[16] = kind.byte();
    let crc = record_crc(&header, parts);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header
}

fn record_crc(header: &[u8], parts: [&[u8]; 2]) -> u32 {
    let mut crc = crc32c::crc32c(&header[0..4]);
    crc = crc32c::crc32c_append(crc, &header[8..RECORD_HEADER_BYTES]);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc
}

/// A record inside a batch that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub kind: RecordKind,
    pub index: u64,
    /// Where the payload stands in the bytes that were parsed.
    pub payload: Range<usize>,
}

/// A whole batch that checks: header, every record, padding.
#[derive(Debug)]
pub(crate) struct RawBatch {
    pub header: BatchHeader,
    /// The header's checksum: the chain's value after this batch.
    pub chain: u32,
    pub records: Vec<RawRecord>,
    /// The bytes the batch takes, padding included.
    pub padded: usize,
}

/// Reads the batch that begins at `data[at]`. The error says what does not check.
pub(crate) fn read_batch(data: &[u8], at: usize) -> Result<RawBatch, &'static str> {
    let data_here = data.get(at..).unwrap_or_default();
    let (header, chain) = BatchHeader::decode(data_here).ok_or("no batch begins here")?;
    let length = header.length as usize;
    let padded = blocks(length as u64) as usize;
    if length < BATCH_HEADER_BYTES || padded > data_here.len() {
        return Err("the batch's length runs past the segment");
    }
    let mut records =
        Vec::with_capacity((header.records as usize).min(length / RECORD_HEADER_BYTES));
    let mut cursor = BATCH_HEADER_BYTES;
    let mut records_crc = 0;
    for _ in 0..header.records {
        if length - cursor < RECORD_HEADER_BYTES {
            return Err("a record runs past its batch");
        }
        let head = &data_here[cursor..cursor + RECORD_HEADER_BYTES];
        let payload_length = u32_at(head, 0) as usize;
        cursor += RECORD_HEADER_BYTES;
        if length - cursor < payload_length {
            return Err("a record runs past its batch");
        }
        let payload = &data_here[cursor..cursor + payload_length];
        if u32_at(head, 4) != record_crc(head, [payload, &[]]) {
            return Err("a record's checksum does not match");
        }
        let kind = match (head[16], is_zero(&head[17..])) {
            (1, true) => RecordKind::Append,
            (2, true) => RecordKind::Truncate,
            _ => return Err("a record is of an unknown kind"),
        };
        records_crc = crc32c::crc32c_append(records_crc, head);
        records.push(RawRecord {
            kind,
            index: u64_at(head, 8),
            payload: at + cursor..at + cursor + payload_length,
        });
        cursor += payload_length;
    }
    if cursor != length || records_crc != header.records_crc {
        return Err("the records are not those the batch's header names");
    }
    if !is_zero(&data_here[length..padded]) {
        return Err("the batch's padding is not zero");
    }
    Ok(RawBatch {
        header,
        chain,
        records,
        padded,
    })
}
