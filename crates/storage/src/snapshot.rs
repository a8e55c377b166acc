//! Snapshots: RocksDB checkpoints in folders of their own, each with a manifest.
//!
//! ```text
//! snapshots/00000000000000001234-7     through log index 1234, of term 7
//! snapshots/building                   being made
//! snapshots/receiving                  coming from the leader, or what came of one before the transfer broke off
//! snapshots/copying                    being copied from elsewhere
//! ```
//! Installing one goes: verify every file; rename the received folder to its place here; put its table files, as hard
//! links, into a new folder under `state`, load the state from there and rename that to be the store in use (see
//! `store_folder.rs`). A crash before the first rename leaves the old state, and files that the next transfer need not
//! send again. Between the two it leaves the old state and a snapshot that is ahead of it, which openraft has
//! installed again at the next start. After the second the new state is there.
//!
//! What broke off stays until a transfer wants its files, or lets go of them, or the node makes a snapshot itself.

use crate::snapshot_manifest::Manifest;
use crate::store::{StateStore, lock};
use crate::store_error::StoreError;
use crate::store_folder::{
    link_or_copy, list, make_folder, remove_folder, rename, sync_file, sync_folder,
};
use crate::store_home::Home;
use crate::store_meta;
use crate::types::{Snapshot, SnapshotFolder, SnapshotMeta};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

const BUILDING: &str = "building";
const RECEIVING: &str = "receiving";
const COPYING: &str = "copying";

/// The `snapshots` folder.
pub(crate) struct SnapshotShelf {
    folder: PathBuf,
    kept_max: usize,
    home: Arc<Home>,
    newest: Mutex<Option<Kept>>,
    /// One is built at a time.
    building: Mutex<()>,
    /// One is received at a time, from its first byte until it is installed.
    receiving: Arc<AsyncMutex<()>>,
    progress: Progress,
}

/// What was done for snapshots that come in, in bytes and rows: it grows as long as something is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn made(&self, by: u64) {
        self.0.fetch_add(by, Ordering::AcqRel);
    }

    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) manifest: Manifest,
    pub(crate) path: PathBuf,
}

impl Kept {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            meta: self.manifest.meta.clone(),
            snapshot: SnapshotFolder {
                path: self.path.clone(),
            },
        }
    }
}

impl SnapshotShelf {
    /// Opens the folder, and removes what a crash left half done.
    pub(crate) fn open(
        folder: &Path,
        kept_max: usize,
        home: Arc<Home>,
    ) -> Result<Self, StoreError> {
        assert!(kept_max >= 1, "the newest snapshot is always kept");
        make_folder(folder)?;
        for name in list(folder)? {
            // What was received of a snapshot is worth keeping: it may be hours' worth of a slow line.
            if name == BUILDING || name == COPYING {
                remove_folder(&folder.join(name))?;
            }
        }
        let shelf = Self {
            folder: folder.to_owned(),
            kept_max,
            home,
            newest: Mutex::new(None),
            building: Mutex::new(()),
            receiving: Arc::default(),
            progress: Progress::default(),
        };
        if let Some(name) = shelf.names()?.pop() {
            let path = folder.join(name);
            let manifest = Manifest::read(&path)?;
            *lock(&shelf.newest) = Some(Kept { manifest, path });
        }
        Ok(shelf)
    }

    /// The newest snapshot.
    pub(crate) fn newest(&self) -> Option<Snapshot> {
        lock(&self.newest).as_ref().map(Kept::snapshot)
    }

    /// The last log index that the newest snapshot covers; 0 for none.
    pub(crate) fn newest_index(&self) -> u64 {
        lock(&self.newest)
            .as_ref()
            .map_or(0, |kept| kept.manifest.index())
    }

    /// Makes a snapshot of the store as it is by now, while lumps go on being applied.
    pub(crate) fn build(&self, store: &StateStore) -> Result<Snapshot, StoreError> {
        let _one_at_a_time = lock(&self.building);
        let path = self.folder.join(BUILDING);
        remove_folder(&path)?;
        let applied_before = store.applied().index();
        store.checkpoint(&path)?;
        let names = list(&path)?;
        // What the checkpoint covers only it can tell: lumps were applied while it was made.
        let engine = self.home.open_to_read(&path)?;
        let applied = store_meta::read(&*engine, &path.display().to_string())?;
        drop(engine);
        assert!(
            applied.index() >= applied_before,
            "a checkpoint begins with a flush of everything applied"
        );
        let known = self.newest_kept();
        let known = known
            .as_ref()
            .map(|kept| (kept.path.as_path(), &kept.manifest));
        let manifest = Manifest::describe(&path, &names, &applied, known)?;
        for name in &names {
            sync_file(&path.join(name))?;
        }
        manifest.write(&path)?;
        sync_folder(&path)?;
        let kept = self.keep(path, manifest)?;
        // Its table files are the store's own, so that the store is durable as far as it.
        store.flushed_through(applied.index());
        // A node that has the entries needs nobody's snapshot.
        if let Ok(_free) = self.receiving.try_lock() {
            remove_folder(&self.folder.join(RECEIVING))?;
        }
        Ok(kept.snapshot())
    }

    /// Verifies a snapshot that came from elsewhere, and keeps it. Returns where it is now, and its files.
    pub(crate) fn adopt(
        &self,
        meta: &SnapshotMeta,
        from: &Path,
    ) -> Result<(PathBuf, Vec<String>), StoreError> {
        let manifest = Manifest::read(from)?;
        if manifest.meta != *meta {
            let what = format!("it covers {}, not {meta}", manifest.meta);
            return Err(StoreError::snapshot(from, what));
        }
        manifest.verify(from, &self.progress)?;
        // Already in its place: it is installed again after a crash.
        if let Some(there) = lock(&self.newest)
            .as_ref()
            .filter(|there| there.path == from)
        {
            return Ok((there.path.clone(), there.manifest.names()));
        }
        let path = match from.parent() == Some(&self.folder) {
            true => from.to_owned(),
            false => self.copy(from, &manifest)?,
        };
        let index = manifest.index();
        let kept = self.keep(path, manifest)?;
        match kept.manifest.index() == index {
            true => Ok((kept.path, kept.manifest.names())),
            false => Err(StoreError::Transfer(format!(
                "it ends at {index}, before this node's own snapshot"
            ))),
        }
    }

    /// The folder of the snapshot that comes in, with what an earlier transfer left there, for whoever holds the guard.
    /// `None` while another one has it.
    pub(crate) fn receiving(&self) -> Result<Option<(PathBuf, OwnedMutexGuard<()>)>, StoreError> {
        let Ok(alone) = Arc::clone(&self.receiving).try_lock_owned() else {
            return Ok(None);
        };
        let path = self.folder.join(RECEIVING);
        make_folder(&path)?;
        Ok(Some((path, alone)))
    }

    /// What is done for snapshots that come in.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The newest snapshot, with its files.
    pub(crate) fn newest_kept(&self) -> Option<Kept> {
        lock(&self.newest).clone()
    }

    /// Copies a snapshot that is not this node's own into this folder.
    fn copy(&self, from: &Path, manifest: &Manifest) -> Result<PathBuf, StoreError> {
        let path = self.folder.join(COPYING);
        remove_folder(&path)?;
        make_folder(&path)?;
        for file in &manifest.files {
            link_or_copy(&from.join(&file.name), &path.join(&file.name))?;
        }
        manifest.write(&path)?;
        sync_folder(&path)?;
        Ok(path)
    }

    /// Renames a finished folder to its place, unless there is one that covers as much, and drops the oldest.
    fn keep(&self, path: PathBuf, manifest: Manifest) -> Result<Kept, StoreError> {
        let mut newest = lock(&self.newest);
        if let Some(there) = newest
            .as_ref()
            .filter(|there| there.manifest.index() >= manifest.index())
        {
            remove_folder(&path)?;
            return Ok(there.clone());
        }
        let place = self.folder.join(name_of(&manifest));
        rename(&path, &place)?;
        let kept = Kept {
            manifest,
            path: place,
        };
        *newest = Some(kept.clone());
        let mut names = self.names()?;
        names.truncate(names.len().saturating_sub(self.kept_max));
        for old in names {
            remove_folder(&self.folder.join(old))?;
        }
        Ok(kept)
    }

    /// The folders of finished snapshots, oldest first.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = list(&self.folder)?;
        names.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
        Ok(names)
    }
}

/// Sorts by index.
fn name_of(manifest: &Manifest) -> String {
    let term = manifest
        .meta
        .last_log_id
        .map_or(0, |log_id| log_id.leader_id.term);
    format!("{:020}-{term}", manifest.index())
}
