//! A snapshot's manifest: what it covers, and its files with their checksums.

use crate::rows::{decode_fields, encode_fields};
use crate::snapshot::Progress;
use crate::store_error::StoreError;
use crate::store_folder::sync_file;
use crate::store_meta::{Applied, LogIdRow, MembershipRow};
use crate::types::{LogId, SnapshotMeta};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The manifest's file name. RocksDB's own begins with `MANIFEST-`.
pub(crate) const MANIFEST: &str = "MANIFEST.ordo";
/// Bytes of a manifest at most: some 100,000 files.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 8 << 20;
const CHECKSUM_BYTES: usize = 4;
const READ_BYTES: usize = 1 << 20;

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its name in the snapshot's folder, which has no folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32C of all of it.
    pub crc32c: u32,
}

/// What a snapshot covers, and its files without the manifest itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) meta: SnapshotMeta,
    pub(crate) files: Vec<SnapshotFile>,
}

/// As stored and sent: permanent. A version byte, these fields, and the CRC-32C of both, little-endian.
#[derive(Serialize, Deserialize)]
struct ManifestRow {
    last_log_id: Option<LogIdRow>,
    membership: MembershipRow,
    files: Vec<SnapshotFile>,
}

impl Manifest {
    /// Describes the checkpoint in `folder`, which holds nothing but its files. Those that `known` shares with it, as
    /// hard links, are not read again: a table file never changes, and should its bytes have rotted since, the old
    /// checksum is the one that tells.
    pub(crate) fn describe(
        folder: &Path,
        names: &[String],
        applied: &Applied,
        known: Option<(&Path, &Self)>,
    ) -> Result<Self, StoreError> {
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = folder.join(name);
            let shared = known.and_then(|(there, manifest)| {
                let file = manifest.files.iter().find(|file| file.name == *name)?;
                same_file(&there.join(name), &path).then(|| file.clone())
            });
            files.push(match shared {
                Some(file) => file,
                None => {
                    let (bytes, crc32c) = checksum(&path, &Progress::default())?;
                    SnapshotFile {
                        name: name.clone(),
                        bytes,
                        crc32c,
                    }
                }
            });
        }
        Ok(Self {
            meta: applied.meta(),
            files,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let row = ManifestRow {
            last_log_id: self.meta.last_log_id.map(LogIdRow::from),
            membership: MembershipRow::from(&self.meta.last_membership),
            files: self.files.clone(),
        };
        let mut bytes = Vec::new();
        encode_fields(&row, &mut bytes);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let split = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or("the manifest is cut short")?;
        let (fields, checksum) = bytes.split_at(split);
        if crc32c::crc32c(fields).to_le_bytes() != checksum {
            return Err("the manifest's checksum is wrong".to_owned());
        }
        let row: ManifestRow =
            decode_fields(fields).map_err(|error| format!("the manifest: {error}"))?;
        if let Some(file) = row.files.iter().find(|file| !is_plain(&file.name)) {
            return Err(format!("the manifest names a file {:?}", file.name));
        }
        let meta = SnapshotMeta {
            last_log_id: row.last_log_id.map(LogId::from),
            last_membership: row
                .membership
                .membership()
                .map_err(|error| format!("the manifest: {error}"))?,
        };
        Ok(Self {
            meta,
            files: row.files,
        })
    }

    /// Writes the manifest into `folder`, durably.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(MANIFEST);
        fs::write(&path, self.encode()).map_err(StoreError::io("write", &path))?;
        sync_file(&path)
    }

    /// Reads the manifest in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                StoreError::snapshot(folder, format!("{MANIFEST} is missing"))
            }
            _ => StoreError::io("read", &path)(error),
        })?;
        Self::decode(&bytes).map_err(|what| StoreError::snapshot(folder, what))
    }

    /// Reads every file in `folder` and compares it.
    pub(crate) fn verify(&self, folder: &Path, progress: &Progress) -> Result<(), StoreError> {
        for file in &self.files {
            let path = folder.join(&file.name);
            if !path.is_file() {
                return Err(StoreError::snapshot(
                    folder,
                    format!("{} is missing", file.name),
                ));
            }
            let (bytes, crc32c) = checksum(&path, progress)?;
            if bytes != file.bytes {
                let what = format!("{} has {bytes} bytes instead of {}", file.name, file.bytes);
                return Err(StoreError::snapshot(folder, what));
            }
            if crc32c != file.crc32c {
                return Err(StoreError::snapshot(
                    folder,
                    format!("the checksum of {} is wrong", file.name),
                ));
            }
        }
        Ok(())
    }

    /// The last log index it covers; 0 for none.
    pub(crate) fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |log_id| log_id.index)
    }

    /// Whether it names that very file: the same name, length and checksum.
    pub(crate) fn has(&self, file: &SnapshotFile) -> bool {
        self.files.contains(file)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }
}

/// Whether `name` is a file directly in a folder, and not the manifest.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', '\0'])
        && name != MANIFEST
}

fn same_file(a: &Path, b: &Path) -> bool {
    let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) else {
        return false;
    };
    a.ino() == b.ino() && a.dev() == b.dev() && a.len() == b.len()
}

/// A file's length and CRC-32C.
pub(crate) fn checksum(path: &Path, progress: &Progress) -> Result<(u64, u32), StoreError> {
    let read = || -> io::Result<(u64, u32)> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; READ_BYTES];
        let (mut bytes, mut crc) = (0, 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((bytes, crc)),
                n => {
                    bytes += n as u64;
                    crc = crc32c::crc32c_append(crc, &buffer[..n]);
                    progress.made(n as u64);
                }
            }
        }
    };
    read().map_err(StoreError::io("read", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::types::{LeaderId, Member, Membership, StoredMembership};
    use std::collections::{BTreeMap, BTreeSet};

    fn manifest(name: &str) -> Manifest {
        let nodes = BTreeMap::from([(
            3,
            Member {
                peer: "a:1".to_owned(),
                ..Member::default()
            },
        )]);
        let membership = Membership::new(vec![BTreeSet::from([3])], nodes).unwrap();
        let log_id = LogId::new(
            LeaderId {
                term: 4,
                node_id: 3,
            },
            17,
        );
        let files = vec![SnapshotFile {
            name: name.to_owned(),
            bytes: 5,
            crc32c: 6,
        }];
        let last_membership = StoredMembership::new(Some(log_id), membership);
        Manifest {
            meta: SnapshotMeta {
                last_log_id: Some(log_id),
                last_membership,
            },
            files,
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let manifest = manifest("000007.sst");
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let bytes = manifest("000007.sst").encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/x", MANIFEST] {
            assert!(
                Manifest::decode(&manifest(name).encode()).is_err(),
                "{name:?}"
            );
        }
    }
}
