//! A snapshot on its way in, in chunks.

use crate::snapshot::{Kept, Progress};
use crate::snapshot_manifest::{MANIFEST, MANIFEST_BYTES_MAX, Manifest, SnapshotFile, checksum};
use crate::snapshot_send::SnapshotChunk;
use crate::store::StateStore;
use crate::store_error::StoreError;
use crate::store_folder::{link_or_copy, list, remove_file, remove_folder, sync_file, sync_folder};
use crate::types::{Snapshot, SnapshotFolder};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::OwnedMutexGuard;

/// Writes a snapshot's chunks into the one folder for that, and believes nothing that it has not checked: the checksum
/// of every chunk when it comes, length and checksum of every file against the manifest, which comes first.
///
/// Dropped before its end, it leaves what came, for the next one to go on with: see [`SnapshotReceiver::held`].
#[derive(Debug)]
pub struct SnapshotReceiver {
    store: StateStore,
    folder: PathBuf,
    alone: OwnedMutexGuard<()>,
    manifest_bytes: Vec<u8>,
    manifest: Option<Manifest>,
    /// Those still to come, by name.
    missing: BTreeMap<String, SnapshotFile>,
    /// How far those of them are that came in part.
    begun: BTreeMap<String, (u64, u32)>,
    current: Option<Incoming>,
    files: u64,
    bytes: u64,
}

/// What a receiver has of a snapshot's file already, from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeld {
    /// The file, in the snapshot's folder.
    pub file: String,
    /// How much; all of it where that is its length, and then its checksum is right.
    pub bytes: u64,
}

/// A snapshot with all its files on the disk. No other is received as long as it is there.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    /// What is to be installed.
    pub snapshot: Snapshot,
    _alone: OwnedMutexGuard<()>,
}

impl SnapshotReceiver {
    /// Makes room for a snapshot.
    ///
    /// # Errors
    /// When another one is being received; when the disk refuses.
    pub fn begin(store: &StateStore) -> Result<Self, StoreError> {
        let (folder, alone) = store
            .shelf()
            .receiving()?
            .ok_or_else(|| StoreError::Transfer("another snapshot is being received".to_owned()))?;
        Ok(Self {
            store: store.clone(),
            folder,
            alone,
            manifest_bytes: Vec::new(),
            manifest: None,
            missing: BTreeMap::new(),
            begun: BTreeMap::new(),
            current: None,
            files: 0,
            bytes: 0,
        })
    }

    /// Takes the next chunk. Chunks of a file come in order and together, the manifest's first.
    ///
    /// # Errors
    /// When the chunk is not what it says or not the next one; when the disk refuses. The transfer is void then.
    pub fn chunk(&mut self, chunk: &SnapshotChunk) -> Result<(), StoreError> {
        let SnapshotChunk {
            file,
            offset,
            data,
            crc32c,
        } = chunk;
        if crc32c::crc32c(data) != *crc32c {
            return Err(StoreError::Transfer(format!(
                "the checksum of {file} at {offset} is wrong"
            )));
        }
        self.bytes += data.len() as u64;
        self.store.shelf().progress().made(data.len() as u64);
        if file == MANIFEST {
            return self.manifest_chunk(*offset, data);
        }
        if self.manifest.is_none() {
            self.take_manifest()?;
            self.empty()?;
        }
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.expected.name != *file)
        {
            self.end_file()?;
            self.begin_file(file)?;
        }
        let current = self
            .current
            .as_mut()
            .expect("a file was begun just now, or is the same");
        current.append(*offset, data)
    }

    /// What is here already of the files that the manifest names, which has come whole: from a transfer that broke off,
    /// or in this node's newest snapshot. It is read and checked here, and need not be sent; what no manifest names is
    /// dropped. To be asked once, before the first file.
    ///
    /// # Errors
    /// When the manifest is not one; when the disk refuses.
    pub fn held(&mut self) -> Result<Vec<SnapshotHeld>, StoreError> {
        if self.manifest.is_some() {
            let what = "what is held is asked before the first file, and once";
            return Err(StoreError::Transfer(what.to_owned()));
        }
        self.take_manifest()?;
        let manifest = self.manifest.clone().expect("it was taken just now");
        let left = Left {
            folder: &self.folder,
            // A leftover that has none, or a torn one, can still have whole files.
            earlier: Manifest::read(&self.folder).ok(),
            newest: self.store.shelf().newest_kept(),
            progress: self.store.shelf().progress(),
        };
        left.drop_others(&manifest)?;
        let mut held = Vec::new();
        for file in &manifest.files {
            let Some((bytes, crc32c)) = left.of(file)? else {
                continue;
            };
            if bytes == file.bytes {
                self.missing.remove(&file.name);
                self.files += 1;
            } else {
                self.begun.insert(file.name.clone(), (bytes, crc32c));
            }
            self.bytes += bytes;
            held.push(SnapshotHeld {
                file: file.name.clone(),
                bytes,
            });
        }
        // From here on parts of files that stay here are this manifest's.
        manifest.write(&self.folder)?;
        sync_folder(&self.folder)?;
        Ok(held)
    }

    /// Checks that everything is there, and makes it durable.
    ///
    /// `files` and `bytes` are the snapshot's, the manifest and what was held here included.
    ///
    /// # Errors
    /// When something is missing or different; when the disk refuses.
    pub async fn finish(mut self, files: u64, bytes: u64) -> Result<ReceivedSnapshot, StoreError> {
        if self.manifest.is_none() {
            self.take_manifest()?;
            self.empty()?;
        }
        self.end_file()?;
        if let Some(name) = self.missing.keys().next() {
            return Err(StoreError::Transfer(format!("{name} did not come")));
        }
        if (self.files, self.bytes) != (files, bytes) {
            let (came, had) = (self.files, self.bytes);
            let what =
                format!("{came} files with {had} bytes came, but {files} with {bytes} were sent");
            return Err(StoreError::Transfer(what));
        }
        let Self {
            store,
            folder,
            alone,
            manifest,
            ..
        } = self;
        let manifest = manifest.expect("it was taken above");
        let sync = move || {
            manifest.write(&folder)?;
            sync_folder(&folder)?;
            Ok(ReceivedSnapshot {
                snapshot: Snapshot {
                    meta: manifest.meta,
                    snapshot: SnapshotFolder { path: folder },
                },
                _alone: alone,
            })
        };
        store.home().aside("ordo-snapshot-sync", sync).await
    }

    fn manifest_chunk(&mut self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let expected = self.manifest_bytes.len() as u64;
        if self.manifest.is_some()
            || offset != expected
            || expected + data.len() as u64 > MANIFEST_BYTES_MAX
        {
            return Err(StoreError::Transfer(format!(
                "{MANIFEST} at {offset} is not what comes next"
            )));
        }
        self.manifest_bytes.extend_from_slice(data);
        Ok(())
    }

    fn take_manifest(&mut self) -> Result<(), StoreError> {
        let manifest = Manifest::decode(&self.manifest_bytes).map_err(StoreError::Transfer)?;
        self.missing = manifest
            .files
            .iter()
            .map(|file| (file.name.clone(), file.clone()))
            .collect();
        if self.missing.len() != manifest.files.len() {
            return Err(StoreError::Transfer(
                "the manifest names a file twice".to_owned(),
            ));
        }
        self.manifest = Some(manifest);
        self.files += 1;
        Ok(())
    }

    /// Whoever did not ask what is here sends everything.
    fn empty(&self) -> Result<(), StoreError> {
        for name in list(&self.folder)? {
            remove(&self.folder.join(name))?;
        }
        Ok(())
    }

    fn begin_file(&mut self, name: &str) -> Result<(), StoreError> {
        let expected = self.missing.remove(name);
        let expected = expected
            .ok_or_else(|| StoreError::Transfer(format!("{name:?} is not what comes next")))?;
        let begun = self.begun.remove(name).unwrap_or((0, 0));
        self.current = Some(Incoming::open(&self.folder, expected, begun)?);
        self.files += 1;
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), StoreError> {
        self.current
            .take()
            .map_or(Ok(()), |current| current.check())
    }
}

/// What a transfer finds here.
struct Left<'a> {
    folder: &'a Path,
    /// Of the transfer that broke off.
    earlier: Option<Manifest>,
    newest: Option<Kept>,
    progress: &'a Progress,
}

impl Left<'_> {
    /// Removes what the new manifest doesn't name.
    fn drop_others(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let names = manifest.names();
        for name in list(self.folder)? {
            if name != MANIFEST && !names.contains(&name) {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// How many of a file's bytes are here, and their checksum; what is of no use is removed.
    fn of(&self, file: &SnapshotFile) -> Result<Option<(u64, u32)>, StoreError> {
        let path = self.folder.join(&file.name);
        let length = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Some(found.len()),
            Ok(_) => {
                remove(&path)?;
                None
            }
            Err(_) => None,
        };
        let Some(length) = length else {
            return self.of_newest(file, &path);
        };
        if length == file.bytes {
            let found = checksum(&path, self.progress)?;
            if found == (file.bytes, file.crc32c) {
                sync_file(&path)?;
                return Ok(Some(found));
            }
        // A part is the beginning of a file with this checksum only if the transfer it came with said so.
        } else if length < file.bytes && self.earlier.as_ref().is_some_and(|it| it.has(file)) {
            return Ok(Some(checksum(&path, self.progress)?));
        }
        remove(&path)?;
        self.of_newest(file, &path)
    }

    /// Takes a file from this node's newest snapshot, which came from the same leader where they share one.
    fn of_newest(&self, file: &SnapshotFile, to: &Path) -> Result<Option<(u64, u32)>, StoreError> {
        let Some(newest) = self.newest.as_ref().filter(|it| it.manifest.has(file)) else {
            return Ok(None);
        };
        let from = newest.path.join(&file.name);
        // It may go at any time, when a newer one takes its place.
        if link_or_copy(&from, to).is_err() {
            remove(to)?;
            return Ok(None);
        }
        let found = checksum(to, self.progress)?;
        if found == (file.bytes, file.crc32c) {
            return Ok(Some(found));
        }
        remove(to)?;
        Ok(None)
    }
}

/// Removes whatever is at `path`.
fn remove(path: &Path) -> Result<(), StoreError> {
    match path.is_dir() {
        true => remove_folder(path),
        false => remove_file(path),
    }
}

#[derive(Debug)]
struct Incoming {
    expected: SnapshotFile,
    path: PathBuf,
    file: File,
    bytes: u64,
    crc32c: u32,
}

impl Incoming {
    /// Begins the file, or goes on where it was begun: at so many bytes, with that checksum.
    fn open(
        folder: &Path,
        expected: SnapshotFile,
        (bytes, crc32c): (u64, u32),
    ) -> Result<Self, StoreError> {
        let path = folder.join(&expected.name);
        let mut options = OpenOptions::new();
        match bytes {
            0 => options.write(true).create(true).truncate(true),
            _ => options.append(true),
        };
        let file = options.open(&path).map_err(StoreError::io("open", &path))?;
        Ok(Self {
            expected,
            path,
            file,
            bytes,
            crc32c,
        })
    }

    fn append(&mut self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let name = &self.expected.name;
        if offset != self.bytes {
            return Err(StoreError::Transfer(format!(
                "{name} at {offset} came where {} belongs",
                self.bytes
            )));
        }
        if offset + data.len() as u64 > self.expected.bytes {
            return Err(StoreError::Transfer(format!(
                "{name} is longer than its {} bytes",
                self.expected.bytes
            )));
        }
        self.file
            .write_all(data)
            .map_err(StoreError::io("write", &self.path))?;
        self.bytes += data.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, data);
        Ok(())
    }

    /// Compares the file with what it should be, and makes it durable. A wrong one goes.
    fn check(self) -> Result<(), StoreError> {
        let SnapshotFile {
            name,
            bytes,
            crc32c,
        } = &self.expected;
        if self.bytes != *bytes {
            return Err(StoreError::Transfer(format!(
                "{name} has {} bytes instead of {bytes}",
                self.bytes
            )));
        }
        if self.crc32c != *crc32c {
            remove_file(&self.path)?;
            return Err(StoreError::Transfer(format!(
                "the checksum of {name} is wrong"
            )));
        }
        self.file
            .sync_all()
            .map_err(StoreError::io("sync", &self.path))
    }
}
