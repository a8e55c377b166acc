//! A snapshot on its way in, in chunks.

use crate::snapshot_manifest::{MANIFEST, MANIFEST_BYTES_MAX, Manifest, SnapshotFile};
use crate::snapshot_send::SnapshotChunk;
use crate::store::StateStore;
use crate::store_error::StoreError;
use crate::store_folder::{remove_folder, sync_file, sync_folder};
use crate::types::{Snapshot, SnapshotFolder};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes a snapshot's chunks into a folder of its own, and believes nothing that it has not checked: the checksum of
/// every chunk when it comes, length and checksum of every file against the manifest, which comes first.
///
/// Dropped before its end, it leaves nothing behind.
#[derive(Debug)]
pub struct SnapshotReceiver {
    store: StateStore,
    folder: Folder,
    manifest_bytes: Vec<u8>,
    manifest: Option<Manifest>,
    /// Those still to come, by name.
    missing: BTreeMap<String, SnapshotFile>,
    current: Option<Incoming>,
    files: u64,
    bytes: u64,
}

/// Removes itself unless it was handed on.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    handed_on: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.handed_on
            && let Err(error) = remove_folder(&self.path)
        {
            // The next start tries again.
            tracing::warn!(%error, "an unfinished snapshot stays for now");
        }
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

impl SnapshotReceiver {
    /// Makes room for a snapshot.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(store: &StateStore) -> Result<Self, StoreError> {
        let path = store.shelf().receiving()?;
        Ok(Self {
            store: store.clone(),
            folder: Folder {
                path,
                handed_on: false,
            },
            manifest_bytes: Vec::new(),
            manifest: None,
            missing: BTreeMap::new(),
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
        if file == MANIFEST {
            return self.manifest_chunk(*offset, data);
        }
        if self.manifest.is_none() {
            self.take_manifest()?;
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

    /// Checks that everything is there, and makes it durable.
    ///
    /// `files` and `bytes` are the sender's counts, the manifest included.
    ///
    /// # Errors
    /// When something is missing or different; when the disk refuses.
    pub async fn finish(mut self, files: u64, bytes: u64) -> Result<Snapshot, StoreError> {
        if self.manifest.is_none() {
            self.take_manifest()?;
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
            mut folder,
            manifest,
            ..
        } = self;
        let manifest = manifest.expect("it was taken above");
        let sync = move || {
            for file in &manifest.files {
                sync_file(&folder.path.join(&file.name))?;
            }
            manifest.write(&folder.path)?;
            sync_folder(&folder.path)?;
            folder.handed_on = true;
            Ok(Snapshot {
                meta: manifest.meta,
                snapshot: SnapshotFolder {
                    path: folder.path.clone(),
                },
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

    fn begin_file(&mut self, name: &str) -> Result<(), StoreError> {
        let expected = self.missing.remove(name);
        let expected = expected
            .ok_or_else(|| StoreError::Transfer(format!("{name:?} is not what comes next")))?;
        self.current = Some(Incoming::create(&self.folder.path, expected)?);
        self.files += 1;
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), StoreError> {
        self.current
            .take()
            .map_or(Ok(()), |current| current.check())
    }
}

impl Incoming {
    fn create(folder: &Path, expected: SnapshotFile) -> Result<Self, StoreError> {
        let path = folder.join(&expected.name);
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self {
            expected,
            path,
            file,
            bytes: 0,
            crc32c: 0,
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

    fn check(self) -> Result<(), StoreError> {
        let SnapshotFile {
            name,
            bytes,
            crc32c,
        } = self.expected;
        if self.bytes != bytes {
            return Err(StoreError::Transfer(format!(
                "{name} has {} bytes instead of {bytes}",
                self.bytes
            )));
        }
        match self.crc32c == crc32c {
            true => Ok(()),
            false => Err(StoreError::Transfer(format!(
                "the checksum of {name} is wrong"
            ))),
        }
    }
}
