//! What is remembered of an interface's finished messages, for deduplication: densely, since there are millions.
//!
//! An entry takes 33 bytes, and its place in the index some six more. The index is a table of buckets, each a cache
//! line of places in the ring beside some bits of the id's hash. Ids are chosen by clients, who know the hash: what
//! does not fit into its bucket stands in an ordered set, so that ids made to collide cost what they would cost there,
//! and other ids nothing.

use crate::ids::{Digest, MessageId, Sequence};
use crate::limits::{REMEMBERED_MAX, SESSIONS_MAX};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;

/// Places in a bucket: 64 bytes.
const BUCKET: usize = 16;
/// Places of a bucket that are taken on average when the table is as full as it gets.
const BUCKET_FILL: usize = 11;
/// Bits that say where in the ring; the others are of the id's hash, and never all 0.
const PLACE_BITS: u32 = 20;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;
/// Entries that there is room for at least.
const ROOM_MIN: usize = 16;

const _: () = assert!(
    REMEMBERED_MAX <= PLACE_MASK as usize,
    "a place says where in the ring"
);
const _: () = assert!(size_of::<Finished>() == 33, "there are millions of them");
const _: () = assert!(SESSIONS_MAX < DERIVED as usize, "a session's tag is a byte");

/// The tag of a message that names no session.
pub(crate) const NOBODY: u8 = 0;
/// The tag of a message that the system made: it does not count among the interface's `dedup_messages`.
pub(crate) const DERIVED: u8 = u8::MAX;

/// What is remembered of one finished message.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) message_id: MessageId,
    pub(crate) digest: Digest,
    /// [`NOBODY`], [`DERIVED`], or the number that its session had then.
    pub(crate) tag: u8,
}

/// The messages finished last, in sequence order without gaps.
#[derive(Clone, Default)]
pub(crate) struct Remembered {
    /// The sequence of the first.
    from: u64,
    ring: VecDeque<Finished>,
    /// How many of them clients sent.
    counted: usize,
    index: Index,
}

impl Remembered {
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// How many of them count among `dedup_messages`.
    pub(crate) fn counted(&self) -> usize {
        self.counted
    }

    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Finished> {
        let at = sequence.0.checked_sub(self.from)?;
        self.ring.get(usize::try_from(at).ok()?)
    }

    /// The sequence of the message with this id; the last one's where a bug gave the id to several.
    pub(crate) fn sequence_of(&self, message_id: MessageId) -> Option<Sequence> {
        if self.ring.is_empty() {
            return None;
        }
        let hash = hash(message_id);
        let bits = hash_bits(hash);
        let bucket = self.index.buckets[self.index.bucket_of(hash)];
        let here = bucket.iter().filter(|place| *place & !PLACE_MASK == bits);
        let here = here.filter_map(|place| {
            let from = self.from as u32 & PLACE_MASK;
            let at = (place & PLACE_MASK).wrapping_sub(from) & PLACE_MASK;
            let entry = self.ring.get(at as usize)?;
            (entry.message_id == message_id).then_some(self.from + u64::from(at))
        });
        let elsewhere = self
            .index
            .elsewhere
            .range((message_id, 0)..=(message_id, u64::MAX));
        let elsewhere = elsewhere.map(|(_, sequence)| *sequence);
        here.chain(elsewhere).max().map(Sequence)
    }

    /// Adds the message finished last, which comes after the one before. Room is made for `expected` in all, and not
    /// for more where that is enough.
    pub(crate) fn push(&mut self, sequence: Sequence, finished: Finished, expected: usize) {
        if self.ring.is_empty() {
            self.from = sequence.0;
        }
        let len = self.ring.len();
        debug_assert!(self.from + len as u64 == sequence.0 && len < REMEMBERED_MAX);
        if len == self.ring.capacity() {
            let room = room_for(len + 1, expected);
            self.ring.reserve_exact(room - len);
        }
        self.ring.push_back(finished);
        self.counted += usize::from(finished.tag != DERIVED);
        if self.ring.len() > self.index.room() {
            let room = room_for(self.ring.len(), expected);
            self.rebuild(room);
        } else {
            self.index.insert(finished.message_id, sequence.0);
        }
    }

    /// Removes the oldest.
    pub(crate) fn pop(&mut self) -> Option<(Sequence, Finished)> {
        let finished = self.ring.pop_front()?;
        let sequence = self.from;
        self.index.remove(finished.message_id, sequence);
        self.from += 1;
        self.counted -= usize::from(finished.tag != DERIVED);
        let len = self.ring.len();
        if len == 0 {
            *self = Self::default();
        } else if self.ring.capacity() > ROOM_MIN && len < self.ring.capacity() / 2 {
            let room = room_for(len, 0);
            self.ring.shrink_to(room);
            self.rebuild(room);
        }
        Some((Sequence(sequence), finished))
    }

    fn rebuild(&mut self, room: usize) {
        self.index = Index::with_room(room);
        for (sequence, finished) in (self.from..).zip(&self.ring) {
            self.index.insert(finished.message_id, sequence);
        }
    }
}

impl fmt::Debug for Remembered {
    // Replicas hold the same, and may have other room for it; a session's number is only its place in a list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = (self.from..).zip(&self.ring).map(|(sequence, finished)| {
            let derived = finished.tag == DERIVED;
            (sequence, finished.message_id, finished.digest, derived)
        });
        f.debug_list().entries(entries).finish()
    }
}

/// Room for `len` entries and a quarter more, or for no more than are expected.
fn room_for(len: usize, expected: usize) -> usize {
    let more = (len + len / 4).max(ROOM_MIN);
    match expected >= len {
        true => more.min(expected),
        false => more,
    }
}

/// Where in the ring an id stands.
#[derive(Clone, Default)]
struct Index {
    buckets: Vec<[u32; BUCKET]>,
    /// Those that did not fit into their bucket.
    elsewhere: BTreeSet<(MessageId, u64)>,
}

impl Index {
    fn with_room(room: usize) -> Self {
        Self {
            buckets: vec![[0; BUCKET]; room.div_ceil(BUCKET_FILL)],
            elsewhere: BTreeSet::new(),
        }
    }

    fn room(&self) -> usize {
        self.buckets.len() * BUCKET_FILL
    }

    fn bucket_of(&self, hash: u64) -> usize {
        // The upper half of the hash, spread over the buckets; those there are fit into 32 bits.
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn insert(&mut self, message_id: MessageId, sequence: u64) {
        let hash = hash(message_id);
        let at = self.bucket_of(hash);
        match self.buckets[at].iter_mut().find(|place| **place == 0) {
            Some(place) => *place = place_of(hash, sequence),
            None => {
                self.elsewhere.insert((message_id, sequence));
            }
        }
    }

    fn remove(&mut self, message_id: MessageId, sequence: u64) {
        let hash = hash(message_id);
        let (at, there) = (self.bucket_of(hash), place_of(hash, sequence));
        // A place is one sequence's only.
        match self.buckets[at].iter_mut().find(|place| **place == there) {
            Some(place) => *place = 0,
            None => {
                self.elsewhere.remove(&(message_id, sequence));
            }
        }
    }
}

fn place_of(hash: u64, sequence: u64) -> u32 {
    hash_bits(hash) | (sequence as u32 & PLACE_MASK)
}

fn hash_bits(hash: u64) -> u32 {
    ((hash as u32) & !PLACE_MASK).max(1 << PLACE_BITS)
}

/// Spreads ids, whatever their version, over buckets. Two halves multiplied, as many hashes do it.
fn hash(message_id: MessageId) -> u64 {
    let (upper, lower) = message_id.0.as_u64_pair();
    let product = u128::from(upper ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from(lower.rotate_left(32) ^ 0xd6e8_feb8_6659_fd93);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn finished(id: u128, tag: u8) -> Finished {
        Finished {
            message_id: MessageId(Uuid::from_u128(id)),
            digest: Digest(id.to_be_bytes()),
            tag,
        }
    }

    /// Random enough, and the same every time.
    fn id_of(n: u64) -> u128 {
        u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64
            | u128::from((n ^ 0x55).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    fn sequence_of(there: &Remembered, id: u128) -> Option<u64> {
        there
            .sequence_of(MessageId(Uuid::from_u128(id)))
            .map(|sequence| sequence.0)
    }

    #[test]
    fn the_last_ones_are_found_and_the_others_are_not() {
        for kept in [1, 2, 15, 16, 17, 1_000, 5_000] {
            let mut there = Remembered::default();
            let first = (1 << PLACE_BITS) - 300;
            for n in first..first + 8_000u64 {
                while there.len() >= kept {
                    there.pop();
                }
                there.push(Sequence(n), finished(id_of(n), NOBODY), kept);
                if n % 777 == 0 || n + 1 == first + 8_000 {
                    for m in first..first + 8_000 {
                        let known = m <= n && m + kept as u64 > n;
                        assert_eq!(
                            sequence_of(&there, id_of(m)),
                            known.then_some(m),
                            "{m} of {n}"
                        );
                        assert_eq!(there.get(Sequence(m)).is_some(), known);
                    }
                }
            }
            while there.pop().is_some() {}
            assert_eq!((there.ring.capacity(), there.index.buckets.len()), (0, 0));
        }
    }

    #[test]
    fn what_the_system_made_does_not_count() {
        let mut there = Remembered::default();
        for (n, tag) in [(1, NOBODY), (2, DERIVED), (3, 1)] {
            there.push(Sequence(n), finished(id_of(n), tag), 3);
        }
        assert_eq!((there.len(), there.counted()), (3, 2));
        there.pop();
        assert_eq!((there.len(), there.counted()), (2, 1));
        there.pop();
        assert_eq!((there.len(), there.counted()), (1, 1));
    }

    #[test]
    fn ids_that_were_made_to_collide_are_found_all_the_same() {
        let room = room_for(1_000, 1_000).div_ceil(BUCKET_FILL) as u64;
        let bucket = |id: u128| {
            let hash = hash(MessageId(Uuid::from_u128(id)));
            (((hash >> 32) * room) >> 32, hash_bits(hash))
        };
        let collide = (0..).map(id_of).filter(|id| bucket(*id).0 == 7);
        let ids: Vec<u128> = collide.take(1_000).collect();
        let mut there = Remembered::default();
        for (n, id) in (1..).zip(&ids) {
            there.push(Sequence(n), finished(*id, NOBODY), 1_000);
        }
        assert!(there.index.elsewhere.len() > 900, "they do not collide");
        for (n, id) in (1..).zip(&ids) {
            assert_eq!(sequence_of(&there, *id), Some(n));
        }
        assert_eq!(sequence_of(&there, id_of(u64::MAX)), None);
    }

    #[test]
    fn a_remembered_message_costs_little_more_than_its_id_and_its_hash() {
        let mut there = Remembered::default();
        for n in 1..=3_000u64 {
            while there.len() >= 1_000 {
                there.pop();
            }
            there.push(Sequence(n), finished(id_of(n), NOBODY), 1_000);
        }
        // An element of an ordered set takes some 40 bytes of its nodes.
        let bytes = there.ring.capacity() * size_of::<Finished>()
            + there.index.buckets.capacity() * BUCKET * 4
            + there.index.elsewhere.len() * 40;
        assert!(bytes <= 42 * 1_000, "{bytes} bytes for 1,000");
    }
}
