//! Where a state store lives: in a folder, or in memory.

use crate::store_engine::Engine;
use crate::store_error::StoreError;
use crate::store_folder::StateFolder;
use crate::store_memory::MemoryState;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tokio::sync::oneshot;

/// Where a state store lives.
pub(crate) enum Home {
    /// RocksDB, in a folder.
    Folder(StateFolder),
    /// A map that a simulation holds.
    Memory(MemoryState),
}

impl Home {
    /// Opens the store in use.
    pub(crate) fn open_current(&self) -> Result<Arc<dyn Engine>, StoreError> {
        Ok(match self {
            Self::Folder(folder) => Arc::new(folder.open_current()?),
            Self::Memory(memory) => Arc::new(memory.open_current()),
        })
    }

    /// Makes the checkpoint whose files are `files` in `from` the store in use, and opens it, with what `load` read
    /// from it.
    pub(crate) fn install<T>(
        &self,
        from: &Path,
        files: &[String],
        load: impl FnOnce(&dyn Engine) -> Result<T, StoreError>,
    ) -> Result<(Arc<dyn Engine>, T), StoreError> {
        Ok(match self {
            Self::Folder(folder) => {
                let (engine, loaded) = folder.install(from, files, load)?;
                (Arc::new(engine), loaded)
            }
            Self::Memory(memory) => {
                let engine = memory.install(from)?;
                let loaded = load(&engine)?;
                (Arc::new(engine), loaded)
            }
        })
    }

    /// Opens a checkpoint to look at it, and changes nothing there.
    pub(crate) fn open_to_read(&self, checkpoint: &Path) -> Result<Arc<dyn Engine>, StoreError> {
        Ok(match self {
            Self::Folder(folder) => Arc::new(folder.open_to_read(checkpoint)?),
            Self::Memory(_) => Arc::new(MemoryState::open_to_read(checkpoint)?),
        })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.path().display().to_string(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    pub(crate) fn damage(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damage {
            folder: self.name(),
            what: what.into(),
        }
    }

    /// Runs what takes long on a thread of its own; in a simulation here and now, since when a thread is done depends
    /// on no seed.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if matches!(self, Self::Memory(_)) {
            return run();
        }
        let (done, result) = oneshot::channel();
        let work = move || {
            let _ = done.send(run());
        };
        match thread::Builder::new().name(name.to_owned()).spawn(work) {
            Ok(_) => result.await.unwrap_or(Err(StoreError::Stopped)),
            Err(error) => Err(StoreError::io("start the thread", Path::new(name))(error)),
        }
    }
}
