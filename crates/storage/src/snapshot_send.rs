//! A snapshot on its way out, in chunks.

use crate::snapshot_manifest::{MANIFEST, Manifest};
use crate::snapshot_receive::SnapshotHeld;
use crate::store_error::StoreError;
use crate::types::{SnapshotFolder, SnapshotMeta};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes read at once of what the receiver has.
const READ_BYTES: usize = 1 << 20;

/// Reads a snapshot's files in chunks, the manifest first.
///
/// All files are opened at the start: a snapshot that is deleted meanwhile is read to its end.
#[derive(Debug)]
pub struct SnapshotReader {
    folder: PathBuf,
    meta: SnapshotMeta,
    files: u64,
    bytes: u64,
    rest: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    name: String,
    path: PathBuf,
    file: File,
    bytes: u64,
    offset: u64,
    /// The checksum of what was read so far, and what it must be at the end; the manifest has one inside.
    crc32c: u32,
    expected_crc32c: Option<u32>,
    /// Bytes at the beginning that the receiver has.
    held: u64,
}

/// A part of a snapshot's file.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The file, in the snapshot's folder.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// The bytes. Empty in the only chunk of an empty file.
    pub data: Bytes,
    /// The CRC-32C of `data`.
    pub crc32c: u32,
}

impl fmt::Debug for SnapshotChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SnapshotChunk({} at {}, {} bytes)",
            self.file,
            self.offset,
            self.data.len()
        )
    }
}

impl SnapshotReader {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// When it is gone, or not what its manifest says.
    pub fn open(snapshot: &SnapshotFolder) -> Result<Self, StoreError> {
        let folder = &snapshot.path;
        let manifest = Manifest::read(folder)?;
        let mut rest = VecDeque::with_capacity(manifest.files.len() + 1);
        rest.push_back(Outgoing::open(folder, MANIFEST, None)?);
        for file in &manifest.files {
            let outgoing = Outgoing::open(folder, &file.name, Some(file.crc32c))?;
            if outgoing.bytes != file.bytes {
                let what = format!(
                    "{} has {} bytes instead of {}",
                    file.name, outgoing.bytes, file.bytes
                );
                return Err(StoreError::snapshot(folder, what));
            }
            rest.push_back(outgoing);
        }
        let bytes = rest.iter().map(|file| file.bytes).sum();
        Ok(Self {
            folder: folder.clone(),
            meta: manifest.meta,
            files: rest.len() as u64,
            bytes,
            rest,
        })
    }

    /// What the snapshot covers.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// How many files there are, the manifest included.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files
    }

    /// How many bytes they have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leaves out what the receiver has; to be said between the manifest's last chunk and the next one.
    ///
    /// # Errors
    /// When it claims to have more than there is.
    pub fn leave_out(&mut self, held: &[SnapshotHeld]) -> Result<(), StoreError> {
        for SnapshotHeld { file, bytes } in held {
            let place = self.rest.iter().position(|rest| rest.name == *file);
            let place = place.filter(|place| *bytes <= self.rest[*place].bytes);
            let place = place.ok_or_else(|| {
                StoreError::Transfer(format!("the receiver has {bytes} bytes of {file:?}"))
            })?;
            match *bytes == self.rest[place].bytes {
                true => drop(self.rest.remove(place)),
                false => self.rest[place].held = *bytes,
            }
        }
        Ok(())
    }

    /// Whether the manifest was read to its end, and nothing else yet.
    #[must_use]
    pub fn is_behind_manifest(&self) -> bool {
        self.rest.front().is_none_or(|file| file.name != MANIFEST)
    }

    /// The next chunk of at most `bytes_max` bytes (at least 1); `None` behind the last.
    ///
    /// # Errors
    /// When the disk refuses, or at the end of a file that is not what the manifest says: the receiver would see it
    /// too, but it is this node whose disk is damaged.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<SnapshotChunk>, StoreError> {
        let Some(current) = self.rest.front_mut() else {
            return Ok(None);
        };
        current.pass_over_held()?;
        let left = current.bytes - current.offset;
        let length = usize::try_from(left).map_or(bytes_max, |left| left.min(bytes_max.max(1)));
        let mut data = vec![0; length];
        current
            .file
            .read_exact(&mut data)
            .map_err(StoreError::io("read", &current.path))?;
        current.crc32c = crc32c::crc32c_append(current.crc32c, &data);
        let chunk = SnapshotChunk {
            file: current.name.clone(),
            offset: current.offset,
            crc32c: crc32c::crc32c(&data),
            data: data.into(),
        };
        current.offset += length as u64;
        if current.offset == current.bytes {
            current.check(&self.folder)?;
            self.rest.pop_front();
        }
        Ok(Some(chunk))
    }
}

impl Outgoing {
    /// Reads what the receiver has, for the checksum.
    fn pass_over_held(&mut self) -> Result<(), StoreError> {
        if self.offset >= self.held {
            return Ok(());
        }
        let mut buffer = vec![0; READ_BYTES];
        while self.offset < self.held {
            let left = usize::try_from(self.held - self.offset).unwrap_or(usize::MAX);
            let part = &mut buffer[..left.min(READ_BYTES)];
            self.file
                .read_exact(part)
                .map_err(StoreError::io("read", &self.path))?;
            self.crc32c = crc32c::crc32c_append(self.crc32c, part);
            self.offset += part.len() as u64;
        }
        Ok(())
    }

    fn check(&self, folder: &Path) -> Result<(), StoreError> {
        match self.expected_crc32c {
            Some(expected) if expected != self.crc32c => Err(StoreError::snapshot(
                folder,
                format!("the checksum of {} is wrong", self.name),
            )),
            _ => Ok(()),
        }
    }

    fn open(folder: &Path, name: &str, expected_crc32c: Option<u32>) -> Result<Self, StoreError> {
        let path = folder.join(name);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let bytes = file
            .metadata()
            .map_err(StoreError::io("open", &path))?
            .len();
        Ok(Self {
            name: name.to_owned(),
            path,
            file,
            bytes,
            offset: 0,
            crc32c: 0,
            expected_crc32c,
            held: 0,
        })
    }
}
