//! The vote, the purge point and the range of segments: a file of two slots.
//!
//! Both slots are written each time, one after the other, each synced. So a torn write leaves the other slot, and a
//! flipped bit does too: falling back on an *older* slot would forget a vote. Only between the two syncs do the slots
//! differ, by one generation.

use std::sync::Arc;

use super::format::{VERSION, is_zero, u32_at, u64_at};
use super::{PurgePoint, Vote};
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;

pub(crate) const META_NAME: &str = "META";
const META_TEMPORARY: &str = "META.tmp";
const SLOT_BYTES: usize = 4096;
const USED_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"ORDOMETA";
const HAS_VOTE: u32 = 1;
const HAS_PURGE: u32 = 2;
const VOTE_COMMITTED: u32 = 4;

/// What the meta file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Counts the writes.
    pub generation: u64,
    pub vote: Option<Vote>,
    pub purge: Option<PurgePoint>,
    /// Segments below this hold nothing that is needed.
    pub first_segment: u64,
    /// The highest segment known to exist; 0 before the first. One more may exist, after a crash.
    pub last_segment: u64,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        let vote = self.vote.map_or((0, 0), |vote| {
            flags |= HAS_VOTE | if vote.committed { VOTE_COMMITTED } else { 0 };
            (vote.term, vote.node_id)
        });
        let purge = self.purge.map_or((0, 0, 0), |purge| {
            flags |= HAS_PURGE;
            (purge.term, purge.node_id, purge.index)
        });
        let mut slot = vec![0u8; SLOT_BYTES];
        slot[0..8].copy_from_slice(&MAGIC);
        slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
        slot[24..28].copy_from_slice(&flags.to_le_bytes());
        let fields = [
            (16, self.generation),
            (32, vote.0),
            (40, vote.1),
            (48, purge.0),
            (56, purge.1),
            (64, purge.2),
            (72, self.first_segment),
            (80, self.last_segment),
        ];
        for (at, value) in fields {
            slot[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&slot[16..USED_BYTES]);
        slot[12..16].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let valid = slot[0..8] == MAGIC
            && u32_at(slot, 8) == VERSION
            && u32_at(slot, 12) == crc32c::crc32c(&slot[16..USED_BYTES])
            && is_zero(&slot[USED_BYTES..]);
        if !valid {
            return None;
        }
        let flags = u32_at(slot, 24);
        Some(Self {
            generation: u64_at(slot, 16),
            vote: (flags & HAS_VOTE != 0).then(|| Vote {
                term: u64_at(slot, 32),
                node_id: u64_at(slot, 40),
                committed: flags & VOTE_COMMITTED != 0,
            }),
            purge: (flags & HAS_PURGE != 0).then(|| PurgePoint {
                term: u64_at(slot, 48),
                node_id: u64_at(slot, 56),
                index: u64_at(slot, 64),
            }),
            first_segment: u64_at(slot, 72),
            last_segment: u64_at(slot, 80),
        })
    }
}

/// The open meta file.
pub(crate) struct MetaFile {
    file: Arc<dyn DiskFile>,
    pub meta: Meta,
}

impl MetaFile {
    pub const BYTES: u64 = 2 * SLOT_BYTES as u64;

    /// Opens the meta file, or makes the first one where the folder is new.
    pub fn open(disk: &dyn Disk, names: &[String], has_segments: bool) -> Result<Self, LogError> {
        if names.iter().any(|name| name == META_TEMPORARY) {
            disk.remove(META_TEMPORARY)
                .map_err(LogError::io("remove", META_TEMPORARY))?;
        }
        if names.iter().any(|name| name == META_NAME) {
            return Self::load(disk);
        }
        if has_segments {
            return Err(LogError::Missing {
                file: META_NAME.to_owned(),
                what: "there are segments, so votes were cast",
            });
        }
        let meta = Meta {
            generation: 1,
            vote: None,
            purge: None,
            first_segment: 1,
            last_segment: 0,
        };
        let file = disk
            .create(META_TEMPORARY)
            .map_err(LogError::io("create", META_TEMPORARY))?;
        let mut both = meta.encode();
        both.extend_from_within(..);
        file.write_at(&both, 0)
            .map_err(LogError::io("write", META_TEMPORARY))?;
        file.sync_data()
            .map_err(LogError::io("sync", META_TEMPORARY))?;
        disk.rename(META_TEMPORARY, META_NAME)
            .map_err(LogError::io("rename", META_TEMPORARY))?;
        disk.sync_folder()
            .map_err(LogError::io("sync the folder of", META_NAME))?;
        Ok(Self { file, meta })
    }

    fn load(disk: &dyn Disk) -> Result<Self, LogError> {
        let file = disk
            .open(META_NAME)
            .map_err(LogError::io("open", META_NAME))?;
        let length = file
            .len()
            .map_err(LogError::io("read the length of", META_NAME))?;
        if length != Self::BYTES {
            return Err(LogError::damage(
                META_NAME,
                length.min(Self::BYTES),
                "the file does not have its length",
            ));
        }
        let mut both = vec![0u8; 2 * SLOT_BYTES];
        file.read_at(&mut both, 0)
            .map_err(LogError::io("read", META_NAME))?;
        let slots = [
            Meta::decode(&both[..SLOT_BYTES]),
            Meta::decode(&both[SLOT_BYTES..]),
        ];
        let meta = match slots {
            [Some(first), Some(second)] => {
                let ahead = first.generation.checked_sub(second.generation);
                let plausible = ahead == Some(1) || (ahead == Some(0) && first == second);
                if !plausible {
                    return Err(LogError::damage(
                        META_NAME,
                        0,
                        "the two slots contradict each other",
                    ));
                }
                first
            }
            [Some(only), None] | [None, Some(only)] => {
                tracing::warn!(
                    file = META_NAME,
                    "one slot of the log's meta file was torn or bad; the other serves"
                );
                only
            }
            [None, None] => {
                return Err(LogError::damage(
                    META_NAME,
                    0,
                    "neither slot's checksum matches",
                ));
            }
        };
        let this = Self { file, meta };
        // What was read may be in the page cache only, and one slot may be old or torn.
        this.write_slots()?;
        Ok(this)
    }

    /// Makes `change` durable.
    pub fn update(&mut self, change: impl FnOnce(&mut Meta)) -> Result<(), LogError> {
        change(&mut self.meta);
        self.meta.generation += 1;
        self.write_slots()
    }

    fn write_slots(&self) -> Result<(), LogError> {
        let slot = self.meta.encode();
        for offset in [0, SLOT_BYTES as u64] {
            self.file
                .write_at(&slot, offset)
                .map_err(LogError::io("write", META_NAME))?;
            self.file
                .sync_data()
                .map_err(LogError::io("sync", META_NAME))?;
        }
        Ok(())
    }
}
