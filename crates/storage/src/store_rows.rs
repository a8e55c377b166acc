//! The rows that make up the state in memory, read back in key order.

use crate::keys;
use crate::store;
use crate::store_engine::Cursor;
use crate::store_error::StoreError;
use ordo_core::{InterfaceId, Key, Row, Sequence};
use std::collections::BTreeMap;

/// An iterator over them.
///
/// It steps over what stays in the store: payloads, headers, events, and the records that are too old to be known
/// for deduplication, which may be many more than the rest.
pub(crate) struct StateRows<'a> {
    cursor: Box<dyn Cursor + 'a>,
    folder: String,
    /// Where each interface's known records begin.
    known_from: BTreeMap<InterfaceId, Sequence>,
    damage: Option<String>,
    done: bool,
}

impl<'a> StateRows<'a> {
    pub(crate) fn new(mut cursor: Box<dyn Cursor + 'a>, folder: String) -> Self {
        cursor.seek(keys::STATE_FROM);
        Self {
            cursor,
            folder,
            known_from: BTreeMap::new(),
            damage: None,
            done: false,
        }
    }

    /// Whether the end was the end, and not damage.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        match self.damage {
            Some(what) => Err(StoreError::Damage {
                folder: self.folder,
                what,
            }),
            None => self.cursor.status(),
        }
    }

    /// Where to go on instead of reading the row at `key`; `None`: read it.
    fn beyond(&self, key: &[u8]) -> Option<Vec<u8>> {
        match *key.first()? {
            keys::PAYLOAD | keys::HEADERS => Some(vec![keys::RECORD]),
            keys::RECORD => {
                let (id, sequence) = keys::sequence_of(key)?;
                let known_from = *self.known_from.get(&id)?;
                (sequence < known_from)
                    .then(|| keys::sequence_range(keys::RECORD, id, known_from, known_from).0)
            }
            keys::EVENT => Some(keys::STATE_TO.to_vec()),
            _ => None,
        }
    }
}

impl Iterator for StateRows<'_> {
    type Item = (Key, Row);

    fn next(&mut self) -> Option<(Key, Row)> {
        while !self.done {
            let Some((key, value)) = self.cursor.item() else {
                break;
            };
            if let Some(to) = self.beyond(key) {
                self.cursor.seek(&to);
                continue;
            }
            match store::decode(key, value) {
                Ok((key, row)) => {
                    if let (Key::Lane(id), Row::Lane(lane)) = (&key, &row) {
                        self.known_from.insert(*id, lane.known_from);
                    }
                    self.cursor.next();
                    return Some((key, row));
                }
                Err(what) => self.damage = Some(what),
            }
            break;
        }
        self.done = true;
        None
    }
}
