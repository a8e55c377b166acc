//! What was refused: a bounded list for people, with a file behind it where the gateway has a folder for its state.
//!
//! A sender that wants no reply, or does not read it, knows nothing of a refusal. So every one leaves a row here: when,
//! on which interface, from where, which control id, and why. Never the message.
//!
//! The file is for reading by `ordo gateway refusals`. It is written beside the gateway's work by a thread of its own and
//! not synced: what a crash of the machine takes with it are the last rows of a list, not messages. Rows that come faster
//! than the disk takes them are kept in memory alone.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Rows that are kept; the oldest go first.
pub const ROWS_MAX: usize = 1_000;
/// The file's name in the folder of the gateway's state: a JSON object a line.
pub const FILE_NAME: &str = "refusals.jsonl";
/// Lines the file may have before it is written anew.
const LINES_MAX: usize = 2 * ROWS_MAX;
/// Rows that may wait for the disk.
const QUEUED_MAX: usize = 256;

/// A message that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The interface it was for.
    pub interface: String,
    /// Where it came from.
    pub peer: String,
    /// Its MSH-10 as printable ASCII, cut; empty where it has none.
    pub control_id: String,
    /// Why.
    pub reason: String,
}

/// The list. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Refusals(Arc<Shared>);

struct Shared {
    rows: Mutex<VecDeque<Refused>>,
    file: Option<SyncSender<Refused>>,
}

impl Refusals {
    /// A list that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(Shared {
            rows: Mutex::default(),
            file: None,
        }))
    }

    /// The list of the gateway whose state is in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// The folder or the file can't be read or written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let rows: VecDeque<_> = read(folder)?.into();
        let mut store = Store {
            path: folder.join(FILE_NAME),
            lines: 0,
            rows: rows.clone(),
            failed: false,
        };
        store.write_anew()?;
        let (sender, receiver) = sync_channel(QUEUED_MAX);
        std::thread::Builder::new()
            .name("ordo-refusals".to_owned())
            .spawn(move || store.run(&receiver))?;
        Ok(Self(Arc::new(Shared {
            rows: Mutex::new(rows),
            file: Some(sender),
        })))
    }

    /// Adds a row; never waits.
    pub fn add(&self, refused: Refused) {
        if let Some(file) = &self.0.file {
            // Full: it stays in memory.
            let _ = file.try_send(refused.clone());
        }
        push(&mut self.rows(), refused);
    }

    /// All rows, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Refused> {
        self.rows().iter().cloned().collect()
    }

    fn rows(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        // Nothing in there can be left half changed by a panic.
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(rows: &mut VecDeque<Refused>, refused: Refused) {
    if rows.len() == ROWS_MAX {
        rows.pop_front();
    }
    rows.push_back(refused);
}

/// The rows in a folder, the oldest first; none where there is no file. A line that was not written to its end is passed
/// over.
///
/// # Errors
/// The file can't be read.
pub fn read(folder: &Path) -> io::Result<Vec<Refused>> {
    let text = match fs::read(folder.join(FILE_NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = text.split(|byte| *byte == b'\n');
    let mut rows: Vec<_> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    rows.drain(..rows.len().saturating_sub(ROWS_MAX));
    Ok(rows)
}

/// The file, owned by its thread.
struct Store {
    path: PathBuf,
    /// What the file holds, and how many lines that takes.
    rows: VecDeque<Refused>,
    lines: usize,
    /// It was said that the disk does not take it.
    failed: bool,
}

impl Store {
    fn run(mut self, rows: &Receiver<Refused>) {
        while let Ok(refused) = rows.recv() {
            push(&mut self.rows, refused.clone());
            let written = match self.lines < LINES_MAX {
                true => self.append(&refused),
                false => self.write_anew(),
            };
            match written {
                Ok(()) => self.failed = false,
                Err(error) if !self.failed => {
                    self.failed = true;
                    tracing::error!(file = %self.path.display(), %error, "the list of refusals could not be written");
                }
                Err(_) => {}
            }
        }
    }

    fn append(&mut self, refused: &Refused) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)?;
        self.lines += 1;
        file.write_all(&line(refused))
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let text: Vec<u8> = self.rows.iter().flat_map(line).collect();
        File::create(&beside)?.write_all(&text)?;
        fs::rename(&beside, &self.path)?;
        self.lines = self.rows.len();
        Ok(())
    }
}

fn line(refused: &Refused) -> Vec<u8> {
    let mut line = serde_json::to_vec(refused).expect("strings and a number are JSON");
    line.push(b'\n');
    line
}

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusals")
            .field("rows", &self.rows().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::time::{Duration, Instant};

    use super::*;

    fn refused(number: usize) -> Refused {
        Refused {
            unix_ms: number as u64,
            interface: "RAD".to_owned(),
            peer: "127.0.0.1:1".to_owned(),
            control_id: format!("R{number}"),
            reason: "no".to_owned(),
        }
    }

    /// Waits until the file ends with that row.
    fn written(folder: &Path, number: usize) -> Vec<Refused> {
        let begun = Instant::now();
        loop {
            let rows = read(folder).unwrap();
            if rows.last() == Some(&refused(number)) {
                return rows;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", rows.len());
            std::thread::yield_now();
        }
    }

    #[test]
    fn rows_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert_eq!(read(&state).unwrap(), []);
        let refusals = Refusals::open(&state).unwrap();
        refusals.add(refused(1));
        refusals.add(refused(2));
        written(&state, 2);
        // A line that the end of the machine cut.
        let mut file = OpenOptions::new()
            .append(true)
            .open(state.join(FILE_NAME))
            .unwrap();
        file.write_all(b"{\"unix_ms\":3,").unwrap();
        drop(refusals);
        let refusals = Refusals::open(&state).unwrap();
        assert_eq!(refusals.list(), [refused(1), refused(2)]);
        refusals.add(refused(4));
        assert_eq!(written(&state, 4).len(), 3);
    }

    #[test]
    fn the_list_and_its_file_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let refusals = Refusals::open(folder.path()).unwrap();
        let last = 3 * LINES_MAX;
        for number in 1..=last {
            refusals.add(refused(number));
            // So that none is left out of the file.
            if number % QUEUED_MAX == 0 || number == last {
                written(folder.path(), number);
            }
        }
        assert_eq!(refusals.list().len(), ROWS_MAX);
        let rows = read(folder.path()).unwrap();
        assert_eq!(rows, refusals.list());
        let text = fs::read(folder.path().join(FILE_NAME)).unwrap();
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= LINES_MAX, "{lines} lines");
    }

    #[test]
    fn without_a_folder_it_is_kept_in_memory() {
        let refusals = Refusals::in_memory();
        refusals.add(refused(1));
        assert_eq!(refusals.list(), [refused(1)]);
    }
}
