//! The log's disk: in memory, with crash points and faults.

use crate::bugs::{self, Bug};
use crate::place::{DiskFault, Place};
use crate::points::Point;
use ordo_storage::{Disk, DiskFile, MemDisk};
use std::io;
use std::sync::Arc;

/// The disk of one start of a node.
pub struct SimDisk {
    place: Arc<Place>,
    boot: u64,
    disk: MemDisk,
}

impl SimDisk {
    /// `disk` in `place`, for one start.
    #[must_use]
    pub fn new(place: Arc<Place>, boot: u64, disk: MemDisk) -> Self {
        Self { place, boot, disk }
    }

    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            place: Arc::clone(&self.place),
            boot: self.boot,
            // Votes and purge points live in META; all other files are segments.
            is_meta: name.starts_with("META"),
            file,
        })
    }

    fn alive(&self) -> io::Result<()> {
        alive(&self.place, self.boot)
    }

    fn changed(&self) -> io::Result<()> {
        match self.place.pass(Point::FolderChanged) {
            true => Err(gone()),
            false => Ok(()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the machine is gone")
}

fn alive(place: &Place, boot: u64) -> io::Result<()> {
    match place.is_dead(boot) {
        true => Err(gone()),
        false => Ok(()),
    }
}

fn room(place: &Place) -> io::Result<()> {
    match place.disk_fault() {
        Some(DiskFault::Full) => {
            place.hurt();
            place.notes.count("writes to a full disk");
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        _ => Ok(()),
    }
}

fn syncs(place: &Place) -> io::Result<()> {
    match place.disk_fault() {
        Some(DiskFault::SyncFails) => {
            place.hurt();
            place.notes.count("failed syncs");
            Err(io::Error::other("input/output error"))
        }
        _ => Ok(()),
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        room(&self.place)?;
        let file = self.disk.create(name)?;
        self.changed()?;
        Ok(self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.alive()?;
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.alive()?;
        self.disk.rename(from, to)?;
        self.changed()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.alive()?;
        self.disk.remove(name)?;
        self.changed()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.alive()?;
        syncs(&self.place)?;
        match bugs::has(Bug::FolderNeverSynced) {
            true => Ok(()),
            false => self.disk.sync_folder(),
        }
    }
}

struct SimFile {
    place: Arc<Place>,
    boot: u64,
    is_meta: bool,
    file: Arc<dyn DiskFile>,
}

impl SimFile {
    fn pass(&self, segment: Point, meta: Point) -> io::Result<()> {
        match self.place.pass(if self.is_meta { meta } else { segment }) {
            true => Err(gone()),
            false => Ok(()),
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        alive(&self.place, self.boot)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        alive(&self.place, self.boot)?;
        room(&self.place)?;
        self.file.write_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        alive(&self.place, self.boot)?;
        room(&self.place)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        alive(&self.place, self.boot)?;
        self.pass(Point::Written, Point::MetaWritten)?;
        syncs(&self.place)?;
        let lies = match self.is_meta {
            true => bugs::has(Bug::VoteNeverSynced),
            false => bugs::has(Bug::LogNeverSynced),
        };
        if !lies {
            self.file.sync_data()?;
        }
        self.pass(Point::Synced, Point::MetaSynced)
    }
}
