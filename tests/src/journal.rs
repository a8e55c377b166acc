//! What `shim.c` noted of a node's writes and syncs, and the images that a power loss could have left.

use crate::power::Disk;
use anyhow::{Context, Result, ensure};
use rand::Rng;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;
const HEAD_BYTES: usize = 32;

/// One file's history since the node was started.
#[derive(Debug, Default)]
struct Noted {
    /// Writes that no sync covers, oldest first: where, and what stood there before.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// All writes so far.
    writes: u64,
    /// Its length when the last sync that succeeded began.
    synced_bytes: u64,
    /// The syncs that have begun: after how many writes, and at which length.
    begun: BTreeMap<u64, (u64, u64)>,
}

/// A node's folder when it was killed, and what of it was durable.
#[derive(Debug)]
pub struct Journal {
    noted: BTreeMap<u64, Noted>,
    files: Vec<Held>,
}

/// A file as it was when the node was killed.
#[derive(Debug)]
struct Held {
    /// Within the node's folder.
    path: PathBuf,
    inode: u64,
    /// Up to where there are only zeros.
    data: Vec<u8>,
    length: u64,
    /// How long it was when the node was started, with all of that durable; 0 for a new one.
    before: u64,
}

/// The lengths of all files below a folder, by inode: taken before the node is started.
///
/// # Errors
/// When the folder can't be read.
pub fn lengths(folder: &Path) -> Result<BTreeMap<u64, u64>> {
    let mut lengths = BTreeMap::new();
    if folder.exists() {
        for file in crate::harm::files(folder, |_| true)? {
            let is = fs::metadata(file)?;
            lengths.insert(is.ino(), is.len());
        }
    }
    Ok(lengths)
}

impl Journal {
    /// Reads the folder and the journal of a node that is no more; `before` is what [`lengths`] said before it was
    /// started.
    ///
    /// # Errors
    /// When they can't be read. A record cut off at the end is none: the node was killed while it wrote it, and so
    /// before what it would have noted.
    pub fn read(
        folder: &Path,
        journal: &Path,
        before: &BTreeMap<u64, u64>,
        disk: Disk,
    ) -> Result<Self> {
        let files = crate::harm::files(folder, |_| true)?;
        let files = files.iter().map(|file| Held::read(folder, file, before));
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            noted: Self::noted(journal, disk)?,
        })
    }

    fn noted(journal: &Path, disk: Disk) -> Result<BTreeMap<u64, Noted>> {
        let bytes = fs::read(journal).context("the node wrote no journal")?;
        let mut files: BTreeMap<u64, Noted> = BTreeMap::new();
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + HEAD_BYTES) {
            let number = |place: usize| {
                let word = head[place * 8..][..8]
                    .try_into()
                    .expect("eight bytes were cut");
                u64::from_ne_bytes(word)
            };
            at += HEAD_BYTES;
            let (inode, a, b) = (number(1), number(2), number(3));
            let file = files.entry(inode).or_default();
            match u8::try_from(number(0)) {
                Ok(b'W') => {
                    let Some(old) = bytes.get(at..at + usize::try_from(b)?) else {
                        break;
                    };
                    at += old.len();
                    file.writes += 1;
                    file.unsynced.push((a, old.to_vec()));
                }
                Ok(b'B') => {
                    file.begun.insert(a, (file.writes, b));
                }
                Ok(b'E') if disk == Disk::Lying => {}
                Ok(b'E') => {
                    let begun = file.begun.remove(&a);
                    let (writes, length) = begun.context("a sync ended that had not begun")?;
                    // Those that came while the sync was under way may not be in it.
                    let after = usize::try_from(file.writes - writes)?;
                    let covered = file.unsynced.len().saturating_sub(after);
                    file.unsynced.drain(..covered);
                    file.synced_bytes = file.synced_bytes.max(length);
                }
                _ => ensure!(false, "the journal has a record of kind {}", number(0)),
            }
        }
        Ok(files)
    }

    /// Makes an image of the folder in `to`, which must not exist. Returns how many sectors of the log were undone, and
    /// how many bytes of other files cut off.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn image(&self, to: &Path, rng: &mut impl Rng) -> Result<(u64, u64)> {
        let (mut sectors, mut bytes) = (0, 0);
        // Nothing of what was not synced, all of it, or any part.
        let lost = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for held in &self.files {
            let copy = to.join(&held.path);
            fs::create_dir_all(copy.parent().context("a file is in a folder")?)?;
            let noted = self.noted.get(&held.inode);
            let file = File::create(&copy)?;
            if held.path.starts_with("log") {
                file.write_all_at(&held.data, 0)?;
                file.set_len(held.length)?;
                sectors += noted.map_or(Ok(0), |noted| noted.tear(&file, lost, rng))?;
            } else {
                let synced = noted.map_or(0, |noted| noted.synced_bytes).max(held.before);
                let synced = synced.min(held.length);
                let kept = match rng.random_bool(0.5) {
                    true => synced,
                    false => rng.random_range(synced..=held.length),
                };
                file.write_all_at(&held.data, 0)?;
                file.set_len(kept)?;
                bytes += held.length - kept;
            }
        }
        Ok((sectors, bytes))
    }
}

impl Held {
    fn read(folder: &Path, file: &Path, before: &BTreeMap<u64, u64>) -> Result<Self> {
        let is = fs::metadata(file)?;
        let mut data = fs::read(file)?;
        // A log's segments are written ahead, and mostly empty.
        let used = data
            .chunks(SECTOR_BYTES)
            .rposition(|sector| sector.iter().any(|byte| *byte != 0));
        data.truncate(used.map_or(0, |last| (last + 1) * SECTOR_BYTES));
        Ok(Self {
            path: file.strip_prefix(folder)?.to_owned(),
            inode: is.ino(),
            data,
            length: is.len(),
            before: before.get(&is.ino()).copied().unwrap_or_default(),
        })
    }
}

impl Noted {
    /// Puts back what stood in some of the sectors that were written since the last sync.
    fn tear(&self, file: &File, lost: f64, rng: &mut impl Rng) -> Result<u64> {
        let mut before: BTreeMap<u64, &[u8]> = BTreeMap::new();
        for (offset, old) in &self.unsynced {
            for (number, sector) in old.chunks(SECTOR_BYTES).enumerate() {
                // Of several writes the first found there what was durable.
                before
                    .entry(offset + (number * SECTOR_BYTES) as u64)
                    .or_insert(sector);
            }
        }
        let mut undone = 0;
        for (offset, old) in before {
            if rng.random_bool(lost) {
                file.write_all_at(old, offset)?;
                undone += 1;
            }
        }
        Ok(undone)
    }
}
