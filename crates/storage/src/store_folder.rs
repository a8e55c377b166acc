//! The `state` folder: one subfolder with the table files, replaced as a whole when a snapshot is installed.
//!
//! ```text
//! state/00000007          the store in use: the highest number
//! state/making            being put together; means nothing after a crash
//! ```
//! A store is made in `making`, synced, and renamed to the next number; that rename, synced with its folder, is the
//! moment at which the old state becomes the new one. A crash before it leaves the old state and a `making` that the
//! next start removes; a crash after it leaves the new state and an old number that the next start removes.

use crate::store_engine::Engine;
use crate::store_error::StoreError;
use crate::store_rocks::{RocksEngine, RocksShared};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const MAKING: &str = "making";
const TABLE_FILE: &str = "sst";

/// The `state` folder.
pub(crate) struct StateFolder {
    path: PathBuf,
    shared: RocksShared,
}

impl StateFolder {
    /// Makes the folder and an empty store at the first start, and removes what crashes left behind.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        make_folder(path)?;
        let folder = Self {
            path: path.to_owned(),
            shared: RocksShared::new(),
        };
        remove_folder(&folder.path.join(MAKING))?;
        let mut numbers = folder.numbers()?;
        if numbers.pop().is_none() {
            let making = folder.path.join(MAKING);
            drop(RocksEngine::create(&folder.shared, &making)?);
            rename(&making, &folder.numbered(1))?;
        }
        for old in numbers {
            remove_folder(&folder.numbered(old))?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the store in use.
    pub(crate) fn open_current(&self) -> Result<RocksEngine, StoreError> {
        RocksEngine::open(&self.shared, &self.numbered(self.current()?))
    }

    /// Opens a checkpoint to look at it, and changes nothing there.
    pub(crate) fn open_to_read(&self, checkpoint: &Path) -> Result<RocksEngine, StoreError> {
        RocksEngine::open_to_read(&self.shared, checkpoint)
    }

    /// Makes the checkpoint whose files are `files` in `from` the store in use, and opens it, with what `load` read
    /// from it. The old one's files stay for those who still read it.
    pub(crate) fn install<T>(
        &self,
        from: &Path,
        files: &[String],
        load: impl FnOnce(&dyn Engine) -> Result<T, StoreError>,
    ) -> Result<(RocksEngine, T), StoreError> {
        let making = self.path.join(MAKING);
        remove_folder(&making)?;
        make_folder(&making)?;
        for file in files {
            link_or_copy(&from.join(file), &making.join(file))?;
        }
        sync_folder(&making)?;
        let number = self.current()? + 1;
        // What can't be opened and loaded must not become the state.
        let loaded = load(&RocksEngine::open_to_read(&self.shared, &making)?)?;
        rename(&making, &self.numbered(number))?;
        let engine = RocksEngine::open(&self.shared, &self.numbered(number))?;
        Ok((engine, loaded))
    }

    fn current(&self) -> Result<u64, StoreError> {
        self.numbers()?.pop().ok_or_else(|| StoreError::Damage {
            folder: self.path.display().to_string(),
            what: "the folder with the table files is missing".to_owned(),
        })
    }

    fn numbered(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:08}"))
    }

    /// Ascending.
    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> = list(&self.path)?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The names in a folder, sorted; those that are not UTF-8 are none of ours.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    };
    read().map_err(StoreError::io("list", folder))
}

/// Makes a folder that may be there, durably.
pub(crate) fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
    match folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// Removes a folder that may not be there.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a file that may not be there.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Renames a folder whose contents are synced, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    to.parent().map_or(Ok(()), sync_folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::io("sync", folder))
}

/// Makes a file's bytes durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::io("sync", path))
}

/// Table files never change, so they are shared; the others are small and RocksDB goes on writing to some of them, so
/// they are copied.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let is_table = from
        .extension()
        .is_some_and(|extension| extension == TABLE_FILE);
    if is_table && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map_err(StoreError::io("copy", from))?;
    sync_file(to)
}
