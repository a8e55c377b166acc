//! The disk, as the log sees it: one flat folder of files.
//!
//! The log reaches its files only through these two traits, so that a simulation can put a disk under it that
//! tears writes and forgets what was not synced. They are synchronous on purpose: one thread owns the writing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One folder that holds files and no folders.
///
/// Names are plain file names. Nothing a folder operation did is durable before [`Disk::sync_folder`] returned, and
/// nothing written to a file before its [`DiskFile::sync_data`] did.
pub trait Disk: Send + Sync + 'static {
    /// Creates `name` for reading and writing, empty; what stood under that name is gone.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens `name` for reading and writing; `NotFound` where there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Renames a file; what stood under `to` is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Handles that are open still read it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
}

/// One open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills `buffer` from `offset` on; `UnexpectedEof` where the file ends before that.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`; the file grows where it must.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Writes zeros from `from` up to, not including, `to`.
    ///
    /// Writing, and not only reserving, is the point: overwriting blocks that were written before needs no change
    /// of the file's metadata, which doubles the number of syncs a second.
    fn preallocate(&self, from: u64, to: u64) -> io::Result<()> {
        const CHUNK: usize = 1 << 20;
        let zeros = vec![0u8; CHUNK];
        let mut offset = from;
        while offset < to {
            let chunk = usize::try_from(to - offset).map_or(CHUNK, |left| left.min(CHUNK));
            self.write_at(&zeros[..chunk], offset)?;
            offset += chunk as u64;
        }
        Ok(())
    }
}

/// A real folder.
#[derive(Debug)]
pub struct FileDisk {
    folder: PathBuf,
}

impl FileDisk {
    /// Opens `folder`, creating it (and what leads to it) where it is missing.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        if !folder.is_dir() {
            fs::create_dir_all(&folder)?;
            if let Some(parent) = folder
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                sync_folder_at(parent)?;
            }
        }
        Ok(Self { folder })
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn open_with(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(create)
            .open(self.folder.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }
}

fn sync_folder_at(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Disk for FileDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, true)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, false)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        sync_folder_at(&self.folder)
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
