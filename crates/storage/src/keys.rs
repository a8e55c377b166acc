//! Keys of the state store: permanent.
//!
//! A key is a kind byte, then its parts in the order of [`Key`]'s fields, numbers big-endian, so that the bytes sort
//! as the keys do. The loader depends on it: an interface's configuration comes before its quarantine, that before its counters,
//! those before its slots, and slots and records come in sequence order. Kinds leave gaps for what comes later; a retired kind
//! byte is never used again.
//!
//! | kind | key | bytes after the kind |
//! | --- | --- | --- |
//! | `00` | (the last applied log id; no row of the state) | |
//! | `01` | (the last applied membership; no row of the state) | |
//! | `10` | clock | |
//! | `20` | config | interface 16 |
//! | `24` | quarantine | interface 16 |
//! | `28` | lane | interface 16 |
//! | `2c` | hours | interface 16 |
//! | `30` | destination | interface 16, destination 1 |
//! | `38` | producer | interface 16, name |
//! | `40` | dead letter | interface 16, sequence 8, then `00`, or `01` and destination 1 |
//! | `50` | slot | interface 16, sequence 8 |
//! | `58` | unheard | interface 16, sequence 8 |
//! | `60` | payload | interface 16, sequence 8 |
//! | `68` | headers | interface 16, sequence 8, row 1 |
//! | `70` | record | interface 16, sequence 8 |
//! | `78` | event | interface 16, sequence 8, log index 8, command 4 |

use ordo_core::{DeadLetterKey, DestinationNumber, InterfaceId, Key, Sequence};
use uuid::Uuid;

/// The last applied log id. It and the membership differ between replicas in nothing but when they are written, yet
/// they are Raft's and not the state's: the state hash leaves them out.
pub(crate) const APPLIED: &[u8] = &[0x00];
/// The last applied membership.
pub(crate) const MEMBERSHIP: &[u8] = &[0x01];
/// The first byte of the state's own rows.
pub(crate) const STATE_FROM: &[u8] = &[0x10];
/// Past the last row of the state.
pub(crate) const STATE_TO: &[u8] = &[0xff];

pub(crate) const CLOCK: u8 = 0x10;
pub(crate) const CONFIG: u8 = 0x20;
pub(crate) const QUARANTINE: u8 = 0x24;
pub(crate) const LANE: u8 = 0x28;
pub(crate) const HOURS: u8 = 0x2c;
pub(crate) const DESTINATION: u8 = 0x30;
pub(crate) const PRODUCER: u8 = 0x38;
pub(crate) const DEAD_LETTER: u8 = 0x40;
pub(crate) const SLOT: u8 = 0x50;
pub(crate) const UNHEARD: u8 = 0x58;
pub(crate) const PAYLOAD: u8 = 0x60;
pub(crate) const HEADERS: u8 = 0x68;
pub(crate) const RECORD: u8 = 0x70;
pub(crate) const EVENT: u8 = 0x78;

/// A dead letter that failed in a stage, for all destinations.
const NO_DESTINATION: u8 = 0x00;
/// A dead letter of one destination, whose number follows.
const ONE_DESTINATION: u8 = 0x01;

/// More bytes than any key has after its sequence; all ones, so that it sorts behind all of them.
const AFTER_SEQUENCE: [u8; 16] = [0xff; 16];

/// Bytes that are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key of kind {kind:#04x} with {length} bytes is none that this version writes")]
pub struct KeyError {
    /// The first byte; 0 when there is none.
    pub kind: u8,
    /// The key's length.
    pub length: usize,
}

/// Writes `key` over what `out` held.
pub fn encode(key: &Key, out: &mut Vec<u8>) {
    out.clear();
    match key {
        Key::Clock => out.push(CLOCK),
        Key::Config(id) => interface(out, CONFIG, *id),
        Key::Quarantine(id) => interface(out, QUARANTINE, *id),
        Key::Lane(id) => interface(out, LANE, *id),
        Key::Hours(id) => interface(out, HOURS, *id),
        Key::Destination(id, number) => {
            interface(out, DESTINATION, *id);
            out.push(number.0);
        }
        Key::Producer(id, name) => {
            interface(out, PRODUCER, *id);
            out.extend_from_slice(name.as_bytes());
        }
        Key::DeadLetter(id, key) => dead_letter(out, *id, *key),
        Key::Slot(id, at) => sequence(out, SLOT, *id, *at),
        Key::Unheard(id, at) => sequence(out, UNHEARD, *id, *at),
        Key::Payload(id, at) => sequence(out, PAYLOAD, *id, *at),
        Key::Headers(id, at, row) => {
            sequence(out, HEADERS, *id, *at);
            out.push(*row);
        }
        Key::Record(id, at) => sequence(out, RECORD, *id, *at),
        Key::Event(id, at, index, command) => {
            sequence(out, EVENT, *id, *at);
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&command.to_be_bytes());
        }
    }
}

fn interface(out: &mut Vec<u8>, kind: u8, id: InterfaceId) {
    out.push(kind);
    out.extend_from_slice(id.0.as_bytes());
}

fn sequence(out: &mut Vec<u8>, kind: u8, id: InterfaceId, at: Sequence) {
    interface(out, kind, id);
    out.extend_from_slice(&at.0.to_be_bytes());
}

fn dead_letter(out: &mut Vec<u8>, id: InterfaceId, key: DeadLetterKey) {
    sequence(out, DEAD_LETTER, id, key.sequence);
    match key.destination {
        None => out.push(NO_DESTINATION),
        Some(number) => out.extend_from_slice(&[ONE_DESTINATION, number.0]),
    }
}

/// Reads a key.
///
/// # Errors
/// When the bytes are none that [`encode`] writes: the store is damaged, or a later version wrote it.
pub fn decode(bytes: &[u8]) -> Result<Key, KeyError> {
    let error = KeyError {
        kind: bytes.first().copied().unwrap_or_default(),
        length: bytes.len(),
    };
    let mut rest = Parts(bytes);
    decode_parts(&mut rest)
        .filter(|_| rest.0.is_empty())
        .ok_or(error)
}

fn decode_parts(rest: &mut Parts<'_>) -> Option<Key> {
    let kind = rest.byte()?;
    if kind == CLOCK {
        return Some(Key::Clock);
    }
    let id = InterfaceId(Uuid::from_bytes(rest.array()?));
    Some(match kind {
        CONFIG => Key::Config(id),
        QUARANTINE => Key::Quarantine(id),
        LANE => Key::Lane(id),
        HOURS => Key::Hours(id),
        DESTINATION => Key::Destination(id, DestinationNumber(rest.byte()?)),
        PRODUCER => Key::Producer(id, rest.text()?),
        DEAD_LETTER => {
            let sequence = rest.sequence()?;
            let destination = match rest.byte()? {
                NO_DESTINATION => None,
                ONE_DESTINATION => Some(DestinationNumber(rest.byte()?)),
                _ => return None,
            };
            Key::DeadLetter(
                id,
                DeadLetterKey {
                    sequence,
                    destination,
                },
            )
        }
        SLOT => Key::Slot(id, rest.sequence()?),
        UNHEARD => Key::Unheard(id, rest.sequence()?),
        PAYLOAD => Key::Payload(id, rest.sequence()?),
        HEADERS => Key::Headers(id, rest.sequence()?, rest.byte()?),
        RECORD => Key::Record(id, rest.sequence()?),
        EVENT => {
            let at = rest.sequence()?;
            let index = u64::from_be_bytes(rest.array()?);
            Key::Event(id, at, index, u32::from_be_bytes(rest.array()?))
        }
        _ => return None,
    })
}

/// The bytes of a key that are not read yet.
struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn sequence(&mut self) -> Option<Sequence> {
        self.array()
            .map(|bytes| Sequence(u64::from_be_bytes(bytes)))
    }

    fn text(&mut self) -> Option<String> {
        let text = std::str::from_utf8(std::mem::take(&mut self.0)).ok()?;
        Some(text.to_owned())
    }
}

/// Writes where the keys of one kind, interface and sequence begin and end: from the first bytes up to, and without,
/// the second ones. With `through` above `from` the range covers all sequences between.
pub(crate) fn sequence_range(
    kind: u8,
    id: InterfaceId,
    from: Sequence,
    through: Sequence,
) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut end) = (Vec::with_capacity(48), Vec::with_capacity(48));
    sequence(&mut first, kind, id, from);
    sequence(&mut end, kind, id, through);
    end.extend_from_slice(&AFTER_SEQUENCE);
    (first, end)
}

/// The sequence in a key whose kind has one, without decoding the rest.
pub(crate) fn sequence_of(bytes: &[u8]) -> Option<(InterfaceId, Sequence)> {
    let mut rest = Parts(bytes.get(1..)?);
    let id = InterfaceId(Uuid::from_bytes(rest.array()?));
    Some((id, rest.sequence()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = InterfaceId> {
        // Few distinct ones, so that the parts behind them get compared too.
        prop_oneof![Just(0u128), Just(1), Just(0x0100), any::<u128>()]
            .prop_map(|n| InterfaceId(Uuid::from_u128(n)))
    }

    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, Just(255), Just(256), Just(u64::MAX), any::<u64>()]
    }

    fn sequences() -> impl Strategy<Value = Sequence> {
        numbers().prop_map(Sequence)
    }

    fn every_kind() -> impl Strategy<Value = Key> {
        let destination = || any::<u8>().prop_map(DestinationNumber);
        let letter = (sequences(), proptest::option::of(destination())).prop_map(
            |(sequence, destination)| DeadLetterKey {
                sequence,
                destination,
            },
        );
        prop_oneof![
            Just(Key::Clock),
            ids().prop_map(Key::Config),
            ids().prop_map(Key::Quarantine),
            ids().prop_map(Key::Lane),
            ids().prop_map(Key::Hours),
            (ids(), destination()).prop_map(|(id, number)| Key::Destination(id, number)),
            (ids(), "[a-c\u{e9}\u{1f600}]{0,4}").prop_map(|(id, name)| Key::Producer(id, name)),
            (ids(), letter).prop_map(|(id, letter)| Key::DeadLetter(id, letter)),
            (ids(), sequences()).prop_map(|(id, at)| Key::Slot(id, at)),
            (ids(), sequences()).prop_map(|(id, at)| Key::Unheard(id, at)),
            (ids(), sequences()).prop_map(|(id, at)| Key::Payload(id, at)),
            (ids(), sequences(), any::<u8>()).prop_map(|(id, at, row)| Key::Headers(id, at, row)),
            (ids(), sequences()).prop_map(|(id, at)| Key::Record(id, at)),
            (ids(), sequences(), numbers(), any::<u32>())
                .prop_map(|(id, at, i, n)| Key::Event(id, at, i, n)),
        ]
    }

    fn bytes_of(key: &Key) -> Vec<u8> {
        let mut out = vec![7; 3];
        encode(key, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(key in every_kind()) {
            prop_assert_eq!(decode(&bytes_of(&key)), Ok(key));
        }

        #[test]
        fn bytes_sort_as_the_keys_do(a in every_kind(), b in every_kind()) {
            prop_assert_eq!(bytes_of(&a).cmp(&bytes_of(&b)), a.cmp(&b));
        }

        #[test]
        fn a_key_cut_short_is_none(key in every_kind()) {
            let bytes = bytes_of(&key);
            if !matches!(key, Key::Producer(..)) {
                prop_assert!(decode(&bytes[..bytes.len() - 1]).is_err());
            }
        }

        #[test]
        fn what_reads_as_a_key_is_how_it_is_written(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(key) = decode(&bytes) {
                prop_assert_eq!(bytes_of(&key), bytes);
            }
        }

        #[test]
        fn a_range_holds_its_sequences_and_no_other(
            id in ids(), from in sequences(), through in sequences(), at in sequences(), index in numbers(), n in any::<u32>(),
        ) {
            let (first, end) = sequence_range(EVENT, id, from, through);
            let event = bytes_of(&Key::Event(id, at, index, n));
            prop_assert_eq!(first <= event && event < end, from <= at && at <= through);
            prop_assert_eq!(sequence_of(&event), Some((id, at)));
            prop_assert!(!(first..end).contains(&bytes_of(&Key::Record(id, at))));
        }
    }

    #[test]
    fn the_layout_of_each_kind_is_permanent() {
        let id = InterfaceId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        let hex = |key: &Key| {
            bytes_of(key)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let (i, at) = ("0102030405060708090a0b0c0d0e0f10", "0000000000000007");
        let letter = |destination| {
            Key::DeadLetter(
                id,
                DeadLetterKey {
                    sequence: Sequence(7),
                    destination,
                },
            )
        };
        assert_eq!(hex(&Key::Clock), "10");
        assert_eq!(hex(&Key::Config(id)), format!("20{i}"));
        assert_eq!(hex(&Key::Quarantine(id)), format!("24{i}"));
        assert_eq!(hex(&Key::Lane(id)), format!("28{i}"));
        assert_eq!(hex(&Key::Hours(id)), format!("2c{i}"));
        assert_eq!(
            hex(&Key::Destination(id, DestinationNumber(3))),
            format!("30{i}03")
        );
        assert_eq!(
            hex(&Key::Producer(id, "pA".to_owned())),
            format!("38{i}7041")
        );
        assert_eq!(hex(&letter(None)), format!("40{i}{at}00"));
        assert_eq!(
            hex(&letter(Some(DestinationNumber(2)))),
            format!("40{i}{at}0102")
        );
        assert_eq!(hex(&Key::Slot(id, Sequence(7))), format!("50{i}{at}"));
        assert_eq!(hex(&Key::Unheard(id, Sequence(7))), format!("58{i}{at}"));
        assert_eq!(hex(&Key::Payload(id, Sequence(7))), format!("60{i}{at}"));
        assert_eq!(
            hex(&Key::Headers(id, Sequence(7), 1)),
            format!("68{i}{at}01")
        );
        assert_eq!(hex(&Key::Record(id, Sequence(7))), format!("70{i}{at}"));
        assert_eq!(
            hex(&Key::Event(id, Sequence(7), 9, 2)),
            format!("78{i}{at}000000000000000900000002")
        );
    }
}
