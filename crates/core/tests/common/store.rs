//! The simplest store there is: what `take_mutations` says, folded into an ordered map.

use bytes::Bytes;
use ordo_core::{
    EventKind, Header, InterfaceId, Key, Mutation, PayloadRow, Record, Row, Sequence, State,
    merge_headers,
};
use std::collections::BTreeMap;

/// Rows in key order.
#[derive(Clone, Default)]
pub struct Store {
    pub rows: BTreeMap<Key, Row>,
}

impl Store {
    /// Writes down what changed in `state` since the last time.
    pub fn take(&mut self, state: &mut State) {
        for mutation in state.take_mutations() {
            match mutation {
                Mutation::Put(key, row) => {
                    self.rows.insert(key, row);
                }
                Mutation::Delete(key) => {
                    self.rows.remove(&key);
                }
                Mutation::Forget {
                    interface,
                    from,
                    through,
                } => self.rows.retain(|key, _| match key {
                    Key::Record(id, at) | Key::Event(id, at, _, _) => {
                        *id != interface || *at < from || *at > through
                    }
                    _ => true,
                }),
            }
        }
    }

    /// What a restart makes of it.
    pub fn load(&self) -> State {
        State::load(self.rows.iter().map(|(k, v)| (k.clone(), v.clone())))
            .expect("what the state wrote is a state")
    }

    /// The payload and merged headers stored under a sequence, as far as a message has those header rows.
    pub fn body(&self, id: InterfaceId, of: Sequence, rows: u64) -> Option<(Bytes, Vec<Header>)> {
        let Row::Payload(PayloadRow { payload, .. }) = self.rows.get(&Key::Payload(id, of))? else {
            panic!("another row under a payload's key");
        };
        let mut headers = Vec::new();
        for row in (0u8..64).filter(|row| rows & (1 << row) != 0) {
            let Row::Headers(set) = self.rows.get(&Key::Headers(id, of, row))? else {
                panic!("another row under a header's key");
            };
            headers.push(set.clone());
        }
        Some((payload.clone(), merge_headers(headers)))
    }

    /// What wrote the payload stored under a sequence.
    pub fn payload_row(&self, id: InterfaceId, of: Sequence) -> Option<u8> {
        match self.rows.get(&Key::Payload(id, of))? {
            Row::Payload(payload) => Some(payload.row),
            _ => panic!("another row under a payload's key"),
        }
    }

    /// The record of a finished message.
    pub fn record(&self, id: InterfaceId, sequence: Sequence) -> Option<&Record> {
        match self.rows.get(&Key::Record(id, sequence))? {
            Row::Record(record) => Some(record),
            _ => panic!("another row under a record's key"),
        }
    }

    /// The kinds of the events of a message, in order.
    pub fn events(&self, id: InterfaceId, sequence: Sequence) -> Vec<EventKind> {
        let from = Key::Event(id, sequence, 0, 0);
        let to = Key::Event(id, sequence.next(), 0, 0);
        let rows = self.rows.range(from..to);
        rows.map(|(_, row)| match row {
            Row::Event(event) => event.kind,
            _ => panic!("another row under an event's key"),
        })
        .collect()
    }

    /// The keys of bodies: payloads, and header rows.
    pub fn body_keys(&self) -> impl Iterator<Item = &Key> {
        let of_body = |key: &&Key| matches!(key, Key::Payload(..) | Key::Headers(..));
        self.rows.keys().filter(of_body)
    }

    /// Every row as text, for comparing two stores. (Headers hide their values from `Debug`.)
    pub fn canonical(&self) -> Vec<String> {
        let text = |(key, row): (&Key, &Row)| match row {
            Row::Headers(headers) => {
                let pairs = headers.iter().map(|h| format!("{}={}", h.name, h.value));
                format!("{key:?} {:?}", pairs.collect::<Vec<_>>())
            }
            row => format!("{key:?} {row:?}"),
        };
        self.rows.iter().map(text).collect()
    }
}
