//! The bodies of recent messages: payloads and headers, so that handing out what was just accepted reads no disk.

use bytes::Bytes;
use ordo_core::{Header, InterfaceId, Key, Mutation, PayloadRow, Row, Sequence};
use std::collections::{HashMap, VecDeque};

/// A smaller payload is copied when it is kept: it is a slice of its whole log entry, and would keep that in memory.
/// An entry with a larger one is mostly that payload.
const COPIED_BELOW_BYTES: usize = 16 << 10;
/// What an entry of the cache costs beside its bytes.
const ENTRY_BYTES: usize = 128;

type BodyKey = (InterfaceId, Sequence);

/// Bodies, up to a number of bytes; the oldest go first.
///
/// The map is never iterated, so its order decides nothing.
pub(crate) struct BodyCache {
    bodies: HashMap<BodyKey, Cached>,
    /// In the order in which they came. A body that went leaves its place behind, until that is the oldest: `serial`
    /// tells it from a later body of the same key.
    order: VecDeque<(BodyKey, u64)>,
    serial: u64,
    bytes: usize,
    bytes_max: usize,
}

struct Cached {
    serial: u64,
    payload: PayloadRow,
    /// By row number.
    headers: Vec<(u8, Vec<Header>)>,
    bytes: usize,
}

/// What the cache has of a body.
pub(crate) struct Found {
    pub(crate) payload: PayloadRow,
    /// Those of the rows asked for that are there, in order.
    pub(crate) headers: Vec<(u8, Vec<Header>)>,
}

impl BodyCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bodies: HashMap::new(),
            order: VecDeque::new(),
            serial: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Takes over what a lump changed.
    pub(crate) fn take(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::Put(Key::Payload(id, at), Row::Payload(payload)) => {
                self.payload((id, at), payload)
            }
            Mutation::Put(Key::Headers(id, at, row), Row::Headers(headers)) => {
                self.headers((id, at), row, headers)
            }
            Mutation::Delete(Key::Payload(id, at)) => self.remove((id, at)),
            Mutation::Delete(Key::Headers(id, at, row)) => self.headers((id, at), row, Vec::new()),
            Mutation::Put(..) | Mutation::Delete(_) | Mutation::Forget { .. } => {}
        }
    }

    /// The body of a message, with those of its header rows (bit i: row i) that are there.
    pub(crate) fn get(&self, key: BodyKey, header_rows: u64) -> Option<Found> {
        let cached = self.bodies.get(&key)?;
        let wanted = cached
            .headers
            .iter()
            .filter(|(row, _)| header_rows & bit(*row) != 0);
        Some(Found {
            payload: cached.payload.clone(),
            headers: wanted.cloned().collect(),
        })
    }

    /// Whether a body is here with all of its header rows.
    pub(crate) fn has(&self, key: BodyKey, header_rows: u64) -> bool {
        self.bodies.get(&key).is_some_and(|cached| {
            let there = cached.headers.iter();
            let there = there.fold(0, |there, (row, _)| there | bit(*row));
            header_rows & !there == 0
        })
    }

    fn payload(&mut self, key: BodyKey, mut new: PayloadRow) {
        let length = new.payload.len();
        if length < COPIED_BELOW_BYTES {
            new.payload = Bytes::copy_from_slice(&new.payload);
        }
        // A replaced payload keeps its headers and its place in the order.
        if let Some(there) = self.bodies.get_mut(&key) {
            let bytes = there.bytes - there.payload.payload.len() + length;
            self.bytes = self.bytes - there.bytes + bytes;
            there.bytes = bytes;
            there.payload = new;
        } else {
            self.serial += 1;
            let bytes = ENTRY_BYTES + length;
            self.bytes += bytes;
            self.order.push_back((key, self.serial));
            self.bodies.insert(
                key,
                Cached {
                    serial: self.serial,
                    payload: new,
                    headers: Vec::new(),
                    bytes,
                },
            );
        }
        self.shrink();
    }

    /// Headers of a body that is not here are not kept.
    fn headers(&mut self, key: BodyKey, row: u8, headers: Vec<Header>) {
        let Some(there) = self.bodies.get_mut(&key) else {
            return;
        };
        let before = match there.headers.iter().position(|(number, _)| *number == row) {
            Some(place) => header_bytes(&there.headers.remove(place).1),
            None => 0,
        };
        let after = match headers.is_empty() {
            true => 0,
            false => header_bytes(&headers),
        };
        if !headers.is_empty() {
            let place = there.headers.partition_point(|(number, _)| *number < row);
            there.headers.insert(place, (row, headers));
        }
        there.bytes = there.bytes - before + after;
        self.bytes = self.bytes - before + after;
        self.shrink();
    }

    fn remove(&mut self, key: BodyKey) {
        if let Some(gone) = self.bodies.remove(&key) {
            self.bytes -= gone.bytes;
        }
        self.trim();
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max {
            let Some((key, serial)) = self.order.pop_front() else {
                return;
            };
            if self
                .bodies
                .get(&key)
                .is_some_and(|there| there.serial == serial)
                && let Some(gone) = self.bodies.remove(&key)
            {
                self.bytes -= gone.bytes;
            }
        }
    }

    /// Drops the places that bodies left behind. Where an old body stays and later ones go, the places between them
    /// would gather; once they are most of the list it is rebuilt.
    fn trim(&mut self) {
        while let Some((key, serial)) = self.order.front()
            && self
                .bodies
                .get(key)
                .is_none_or(|there| there.serial != *serial)
        {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.bodies.len() + 1_024 {
            let bodies = &self.bodies;
            self.order.retain(|(key, serial)| {
                bodies.get(key).is_some_and(|there| there.serial == *serial)
            });
        }
    }
}

const fn bit(row: u8) -> u64 {
    match row < 64 {
        true => 1 << row,
        false => 0,
    }
}

fn header_bytes(headers: &[Header]) -> usize {
    headers
        .iter()
        .map(|header| size_of::<Header>() + header.name.len() + header.value.len())
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use uuid::Uuid;

    const LANE: InterfaceId = InterfaceId(Uuid::nil());

    fn put(cache: &mut BodyCache, at: u64, payload: &'static [u8]) {
        cache.take(Mutation::Put(
            Key::Payload(LANE, Sequence(at)),
            Row::Payload(PayloadRow {
                row: 0,
                payload: Bytes::from_static(payload),
            }),
        ));
    }

    fn put_headers(cache: &mut BodyCache, at: u64, row: u8, value: &str) {
        let headers = vec![Header {
            name: "n".to_owned(),
            value: value.to_owned(),
        }];
        cache.take(Mutation::Put(
            Key::Headers(LANE, Sequence(at), row),
            Row::Headers(headers),
        ));
    }

    fn payload(cache: &BodyCache, at: u64) -> Option<Bytes> {
        cache
            .get((LANE, Sequence(at)), 0)
            .map(|found| found.payload.payload)
    }

    /// What the bookkeeping says, counted afresh.
    fn counted(cache: &BodyCache) -> usize {
        let one = |cached: &Cached| {
            ENTRY_BYTES
                + cached.payload.payload.len()
                + cached
                    .headers
                    .iter()
                    .map(|(_, h)| header_bytes(h))
                    .sum::<usize>()
        };
        cache.bodies.values().map(one).sum()
    }

    #[test]
    fn the_oldest_go_when_it_is_full() {
        let mut cache = BodyCache::new(3 * (ENTRY_BYTES + 10));
        for at in 1..=5 {
            put(&mut cache, at, b"0123456789");
        }
        let there: Vec<u64> = (1..=5)
            .filter(|at| payload(&cache, *at).is_some())
            .collect();
        assert_eq!(there, [3, 4, 5]);
        assert_eq!(cache.bytes(), counted(&cache));
    }

    #[test]
    fn headers_come_with_their_rows_and_only_those_asked_for() {
        let mut cache = BodyCache::new(1 << 20);
        put(&mut cache, 1, b"x");
        put_headers(&mut cache, 1, 2, "late");
        put_headers(&mut cache, 1, 0, "early");
        put_headers(&mut cache, 1, 0, "earlier");
        let found = cache.get((LANE, Sequence(1)), 0b101).unwrap();
        let rows: Vec<_> = found
            .headers
            .iter()
            .map(|(row, headers)| (*row, headers[0].value.as_str()))
            .collect();
        assert_eq!(rows, [(0, "earlier"), (2, "late")]);
        assert_eq!(
            cache.get((LANE, Sequence(1)), 0b100).unwrap().headers.len(),
            1
        );
        assert_eq!(cache.bytes(), counted(&cache));
    }

    #[test]
    fn what_is_deleted_is_gone_and_leaves_nothing_behind() {
        let mut cache = BodyCache::new(1 << 20);
        put(&mut cache, 1, b"stays");
        for at in 2..5_000 {
            put(&mut cache, at, b"goes");
            put_headers(&mut cache, at, 0, "v");
            cache.take(Mutation::Delete(Key::Payload(LANE, Sequence(at))));
        }
        assert_eq!(payload(&cache, 2), None);
        assert_eq!(payload(&cache, 1).unwrap(), "stays");
        assert!(
            cache.order.len() < 2_000,
            "{} places for one body",
            cache.order.len()
        );
        assert_eq!(cache.bytes(), counted(&cache));
    }

    #[test]
    fn a_payload_that_comes_again_is_the_new_one() {
        let mut cache = BodyCache::new(1 << 20);
        put(&mut cache, 1, b"first");
        put_headers(&mut cache, 1, 0, "v");
        put(&mut cache, 1, b"second one");
        assert_eq!(payload(&cache, 1).unwrap(), "second one");
        assert_eq!(cache.get((LANE, Sequence(1)), 1).unwrap().headers.len(), 1);
        assert_eq!(cache.bytes(), counted(&cache));
    }
}
