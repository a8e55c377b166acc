//! A history as a file: a line that names the format, then one event a line, as JSON.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::History;

/// The version of the form in which histories are written.
pub const FORMAT_VERSION: u32 = 1;

/// A history can't be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The first line does not name a history of this version.
    #[error("not a history of version {FORMAT_VERSION}")]
    Format,
    /// A line is not an event.
    #[error("line {line}: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    ordo_history: u32,
}

impl History {
    /// Writes it: a line that names the format, then one event a line, as JSON.
    ///
    /// # Errors
    /// Writing fails.
    pub fn write(&self, mut to: impl Write) -> Result<(), HistoryError> {
        let head = Head {
            ordo_history: FORMAT_VERSION,
        };
        let failed = |error: serde_json::Error| HistoryError::Io(error.into());
        serde_json::to_writer(&mut to, &head).map_err(failed)?;
        writeln!(to)?;
        for event in &self.events {
            serde_json::to_writer(&mut to, event).map_err(failed)?;
            writeln!(to)?;
        }
        to.flush()?;
        Ok(())
    }

    /// Reads what [`History::write`] wrote.
    ///
    /// # Errors
    /// Reading fails, or what is read is not a history of this version.
    pub fn read(from: impl BufRead) -> Result<Self, HistoryError> {
        let mut lines = from.lines();
        let head = lines.next().ok_or(HistoryError::Format)??;
        match serde_json::from_str::<Head>(&head) {
            Ok(head) if head.ordo_history == FORMAT_VERSION => {}
            _ => return Err(HistoryError::Format),
        }
        let mut events = Vec::new();
        for (index, line) in lines.enumerate() {
            let event = serde_json::from_str(&line?).map_err(|error| HistoryError::Line {
                line: index + 2,
                error,
            })?;
            events.push(event);
        }
        Ok(Self { events })
    }
}
