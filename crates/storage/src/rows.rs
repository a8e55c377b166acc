//! Rows of the state store: permanent.
//!
//! A row is a version byte and its fields in postcard's encoding, which has exactly one form for a value, so that
//! replicas hold the same bytes. A row's kind stands in its key.
//!
//! A payload is stored as it was ingested. Behind one that a stage left stand that stage's number + 1 (one byte) and
//! [`MARK`]; a payload that happens to end so itself has 0 and the mark behind it.

use ordo_core::{ConfigRow, Key, PayloadRow, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this program writes of most kinds. A change of a row's fields takes the next number and goes on
/// reading this one.
const VERSION: u8 = 1;
/// The version of kinds that have more fields at their end than in the one before.
const GROWN: u8 = 2;
/// Those fields as they are in a row that was written without them: no producers' sessions, no session, not derived.
const LANE_GREW: &[u8] = &[0];
const SLOT_GREW: &[u8] = &[0];
const RECORD_GREW: &[u8] = &[0, 0];
/// Those fields as they are in a row that was written without them: no repeats, no turn, no tries.
const DESTINATION_GREW: &[u8] = &[0, 0, 0];
/// Those fields as they are in a row that was written without them: no stage bounds how long its work takes.
const CONFIG_GREW: &[u8] = &[0];
/// Tells that what stands before it is no payload's last byte. Drawn once.
const MARK: [u8; 16] = [
    0x9f, 0xb4, 0x52, 0xc5, 0x9f, 0xe6, 0xe5, 0x1c, 0x8c, 0xf2, 0x7a, 0xb7, 0xf1, 0x56, 0x60, 0xf7,
];

/// Bytes that are no row of their kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Written by a later version, or damaged.
    #[error("the row's version is {0}; this program reads those up to {GROWN}")]
    Version(u8),
    /// Damaged.
    #[error("the row of {0} bytes cannot be read")]
    Unreadable(usize),
}

/// Writes `row` over what `out` held. Most payloads need no encoding, and go to the store without this copy (see
/// [`is_plain`]).
pub fn encode(row: &Row, out: &mut Vec<u8>) {
    match row {
        Row::Clock(row) => encode_fields(row, out),
        Row::Config(row) => encode_grown(&(row, work_ms_max(row)), out),
        Row::Quarantine(row) => encode_fields(row, out),
        Row::Lane(row) => encode_grown(row, out),
        Row::Hours(row) => encode_fields(row, out),
        Row::Destination(row) => encode_grown(row, out),
        Row::Producer(row) => encode_fields(row, out),
        Row::DeadLetter(row) => encode_fields(row, out),
        Row::Slot(row) => encode_grown(row, out),
        Row::Unheard(row) => encode_fields(row, out),
        Row::Headers(row) => encode_fields(row, out),
        Row::Record(row) => encode_grown(row, out),
        Row::Event(row) => encode_fields(row, out),
        Row::Payload(payload) => {
            out.clear();
            out.extend_from_slice(&payload.payload);
            if !is_plain(payload) {
                out.push(payload.row);
                out.extend_from_slice(&MARK);
            }
        }
    }
}

/// Reads the row stored under `key`.
///
/// # Errors
/// When the bytes are none that [`encode`] writes for this kind.
pub fn decode(key: &Key, bytes: &[u8]) -> Result<Row, RowError> {
    Ok(match key {
        Key::Clock => Row::Clock(decode_fields(bytes)?),
        Key::Config(..) => Row::Config(decode_config(bytes)?),
        Key::Quarantine(..) => Row::Quarantine(decode_fields(bytes)?),
        Key::Lane(..) => Row::Lane(decode_grown(bytes, LANE_GREW)?),
        Key::Hours(..) => Row::Hours(decode_fields(bytes)?),
        Key::Destination(..) => Row::Destination(decode_grown(bytes, DESTINATION_GREW)?),
        Key::Producer(..) => Row::Producer(decode_fields(bytes)?),
        Key::DeadLetter(..) => Row::DeadLetter(decode_fields(bytes)?),
        Key::Slot(..) => Row::Slot(decode_grown(bytes, SLOT_GREW)?),
        Key::Unheard(..) => Row::Unheard(decode_fields(bytes)?),
        Key::Payload(..) => Row::Payload(payload_of(bytes.to_vec())),
        Key::Headers(..) => Row::Headers(decode_fields(bytes)?),
        Key::Record(..) => Row::Record(decode_grown(bytes, RECORD_GREW)?),
        Key::Event(..) => Row::Event(decode_fields(bytes)?),
    })
}

/// Whether a payload is stored as it is.
pub(crate) fn is_plain(payload: &PayloadRow) -> bool {
    payload.row == 0 && !payload.payload.ends_with(&MARK)
}

/// Reads a payload, which needs no copy of its bytes.
pub(crate) fn payload_of(mut bytes: Vec<u8>) -> PayloadRow {
    let mut row = 0;
    if let Some([.., last]) = bytes.strip_suffix(&MARK) {
        row = *last;
        bytes.truncate(bytes.len() - MARK.len() - 1);
    }
    let payload = bytes.into();
    PayloadRow { row, payload }
}

/// How long work may take, by stage: it stands behind the configuration's other fields.
fn work_ms_max(row: &ConfigRow) -> Vec<u32> {
    let stages = row.config.stages.iter();
    stages.map(|stage| stage.work_ms_max).collect()
}

fn decode_config(bytes: &[u8]) -> Result<ConfigRow, RowError> {
    let (mut row, most): (ConfigRow, Vec<u32>) = decode_grown(bytes, CONFIG_GREW)?;
    for (stage, most) in row.config.stages.iter_mut().zip(most) {
        stage.work_ms_max = most;
    }
    Ok(row)
}

/// Writes a version byte and `fields` over what `out` held.
pub(crate) fn encode_fields<T: Serialize>(fields: &T, out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    postcard::to_io(fields, &mut *out).expect("a row is plain data and memory takes all of it");
}

/// Writes the later version and `fields` over what `out` held.
fn encode_grown<T: Serialize>(fields: &T, out: &mut Vec<u8>) {
    encode_fields(fields, out);
    out[0] = GROWN;
}

/// Reads what [`encode_grown`] wrote, or [`encode_fields`] when the kind did not have what it grew by.
fn decode_grown<T: DeserializeOwned>(bytes: &[u8], grew: &[u8]) -> Result<T, RowError> {
    match bytes.split_first() {
        Some((&GROWN, fields)) => read(fields, bytes.len()),
        Some((&VERSION, fields)) => read(&[fields, grew].concat(), bytes.len()),
        Some((version, _)) => Err(RowError::Version(*version)),
        None => Err(RowError::Unreadable(0)),
    }
}

/// Reads what [`encode_fields`] wrote, all of it.
pub(crate) fn decode_fields<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RowError> {
    let (version, fields) = bytes.split_first().ok_or(RowError::Unreadable(0))?;
    if *version != VERSION {
        return Err(RowError::Version(*version));
    }
    read(fields, bytes.len())
}

fn read<T: DeserializeOwned>(fields: &[u8], length: usize) -> Result<T, RowError> {
    match postcard::take_from_bytes(fields) {
        Ok((row, [])) => Ok(row),
        Ok(_) | Err(_) => Err(RowError::Unreadable(length)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use ordo_core::{
        ClockRow, ClusterTime, ConsumerId, DeadLetter, DeadLetterKey, Destination,
        DestinationNumber, DestinationSet, Digest, Epoch, EventKind, EventRow, FailCause,
        FinishedHour, Header, Holder, Incarnation, InterfaceConfig, InterfaceId, LaneRow,
        MessageId, Producer, ProducerSession, Quarantine, Record, RunPosition, Sequence,
        SessionRow, StageConfig, StageNumber, Status, Try, TryKind, Turn, Unheard, WallTime,
    };
    use proptest::prelude::*;
    use std::num::NonZeroU64;
    use uuid::Uuid;

    fn message() -> impl Strategy<Value = MessageId> {
        any::<u128>().prop_map(|n| MessageId(Uuid::from_u128(n)))
    }

    fn letter_key() -> impl Strategy<Value = DeadLetterKey> {
        (any::<u64>(), proptest::option::of(any::<u8>())).prop_map(|(sequence, destination)| {
            DeadLetterKey {
                sequence: Sequence(sequence),
                destination: destination.map(DestinationNumber),
            }
        })
    }

    fn clock() -> impl Strategy<Value = (Key, Row)> {
        (any::<[u64; 5]>()).prop_map(|[a, b, term, run, n]| {
            let position = RunPosition { term, run, n };
            (
                Key::Clock,
                Row::Clock(ClockRow {
                    cluster_time: ClusterTime(a),
                    wall_time: WallTime(b),
                    position,
                }),
            )
        })
    }

    fn config() -> impl Strategy<Value = (Key, Row)> {
        (
            ".{0,9}",
            any::<u32>(),
            any::<u64>(),
            "[a-z]{1,9}",
            any::<u32>(),
        )
            .prop_map(|(name, incarnation, config_version, stage, work_ms_max)| {
                let config = InterfaceConfig {
                    stages: vec![StageConfig {
                        work_ms_max,
                        ..StageConfig::named(&stage)
                    }],
                    ..InterfaceConfig::default()
                };
                let row = ConfigRow {
                    name,
                    incarnation: Incarnation(incarnation),
                    config_version,
                    config,
                };
                (Key::Config(InterfaceId(Uuid::nil())), Row::Config(row))
            })
    }

    fn session() -> impl Strategy<Value = ProducerSession> {
        any::<NonZeroU64>().prop_map(ProducerSession)
    }

    fn quarantine() -> impl Strategy<Value = (Key, Row)> {
        ("[a-z_]{0,9}", any::<u64>(), any::<u64>()).prop_map(|(invariant, log_index, at)| {
            let row = Quarantine {
                invariant,
                log_index,
                at: WallTime(at),
            };
            (
                Key::Quarantine(InterfaceId(Uuid::nil())),
                Row::Quarantine(row),
            )
        })
    }

    fn lane() -> impl Strategy<Value = (Key, Row)> {
        let row = (session(), any::<u64>(), any::<u64>()).prop_map(|(session, since, heard)| {
            SessionRow {
                session,
                since: Sequence(since),
                heard: Sequence(heard),
            }
        });
        let sessions = proptest::collection::vec(row, 0..4);
        (any::<[u64; 7]>(), sessions).prop_map(
            |([a, b, failed, filtered, c, d, redrives], sessions)| {
                let row = LaneRow {
                    last_sequence: Sequence(a),
                    watermark: Sequence(b),
                    failed,
                    filtered,
                    known_from: Sequence(c),
                    forgotten_through: Sequence(d),
                    redrives,
                    sessions,
                };
                (Key::Lane(InterfaceId(Uuid::nil())), Row::Lane(row))
            },
        )
    }

    fn hours() -> impl Strategy<Value = (Key, Row)> {
        let hour = (any::<u32>(), any::<u64>()).prop_map(|(hour, from)| FinishedHour {
            hour,
            from: Sequence(from),
        });
        proptest::collection::vec(hour, 0..4)
            .prop_map(|hours| (Key::Hours(InterfaceId(Uuid::nil())), Row::Hours(hours)))
    }

    fn unheard() -> impl Strategy<Value = (Key, Row)> {
        (session(), message(), any::<u32>()).prop_map(|(session, message_id, hour)| {
            let row = Unheard {
                session,
                message_id,
                digest: Digest([5; 16]),
                hour,
            };
            let key = Key::Unheard(InterfaceId(Uuid::nil()), Sequence(1));
            (key, Row::Unheard(row))
        })
    }

    fn one_try() -> impl Strategy<Value = Try> {
        let kinds = [TryKind::Retry, TryKind::Unavailable, TryKind::Sent];
        let kind = proptest::sample::select(kinds.to_vec());
        (kind, any::<u64>(), ".{0,9}").prop_map(|(kind, at, reason)| {
            let at = WallTime(at);
            Try { kind, at, reason }
        })
    }

    fn destination() -> impl Strategy<Value = (Key, Row)> {
        let holder = (any::<u128>(), ".{0,9}").prop_map(|(consumer, name)| Holder {
            consumer: ConsumerId(Uuid::from_u128(consumer)),
            name,
        });
        (
            any::<[u64; 5]>(),
            proptest::option::of(holder),
            any::<[u32; 3]>(),
            ".{0,9}",
            proptest::collection::vec(one_try(), 0..4),
        )
            .prop_map(
                |(
                    [checkpoint, epoch, until, delivered, skipped],
                    holder,
                    [attempts, repeats, turn],
                    reason,
                    tries,
                )| {
                    let row = Destination {
                        checkpoint: Sequence(checkpoint),
                        epoch: Epoch(epoch),
                        holder,
                        suspended_until: ClusterTime(until),
                        attempts,
                        reason,
                        delivered,
                        skipped,
                        repeats,
                        turn: Turn(turn),
                        tries,
                    };
                    (
                        Key::Destination(InterfaceId(Uuid::nil()), DestinationNumber(0)),
                        Row::Destination(row),
                    )
                },
            )
    }

    fn producer() -> impl Strategy<Value = (Key, Row)> {
        (any::<u64>(), message(), proptest::option::of(any::<u64>())).prop_map(
            |(last, message_id, sequence)| {
                let row = Producer {
                    last,
                    message_id,
                    sequence: sequence.map(Sequence),
                };
                (
                    Key::Producer(InterfaceId(Uuid::nil()), String::new()),
                    Row::Producer(row),
                )
            },
        )
    }

    fn dead_letter() -> impl Strategy<Value = (Key, Row)> {
        let times = proptest::collection::vec(any::<u32>(), 0..7);
        (
            message(),
            any::<[u64; 5]>(),
            ".{0,9}",
            times,
            proptest::option::of(letter_key()),
        )
            .prop_map(
                |(message_id, [accepted, failed, body, rows, again], reason, times, redrive_of)| {
                    let row = DeadLetter {
                        message_id,
                        digest: Digest([7; 16]),
                        stage: StageNumber(2),
                        cause: FailCause::Losses,
                        attempts: 3,
                        losses: 4,
                        reason,
                        accepted_at: WallTime(accepted),
                        failed_at: WallTime(failed),
                        destinations: DestinationSet::ALL,
                        body_of: Sequence(body),
                        payload_bytes: 5,
                        header_rows: rows,
                        header_bytes: 6,
                        header_count: 7,
                        stage_times: times.into(),
                        redriven_as: Some(Sequence(again)),
                        redrive_of,
                    };
                    let key = DeadLetterKey {
                        sequence: Sequence(1),
                        destination: None,
                    };
                    (
                        Key::DeadLetter(InterfaceId(Uuid::nil()), key),
                        Row::DeadLetter(row),
                    )
                },
            )
    }

    fn headers() -> impl Strategy<Value = (Key, Row)> {
        let header = (".{0,9}", ".{0,9}").prop_map(|(name, value)| Header { name, value });
        proptest::collection::vec(header, 0..4).prop_map(|headers| {
            (
                Key::Headers(InterfaceId(Uuid::nil()), Sequence(1), 0),
                Row::Headers(headers),
            )
        })
    }

    fn record() -> impl Strategy<Value = (Key, Row)> {
        let times = proptest::collection::vec(any::<u32>(), 0..7);
        (
            message(),
            any::<[u64; 4]>(),
            times,
            proptest::option::of(letter_key()),
            (proptest::option::of(session()), any::<bool>()),
        )
            .prop_map(
                |(
                    message_id,
                    [version, accepted, at, finished],
                    times,
                    redrive_of,
                    (session, derived),
                )| {
                    let row = Record {
                        message_id,
                        digest: Digest([9; 16]),
                        status: Status::Failed(FailCause::Attempts),
                        destinations: DestinationSet::NONE,
                        rejected: DestinationSet::ALL,
                        config_version: version,
                        accepted_at: WallTime(accepted),
                        stage_times: times.into(),
                        finished_at: WallTime(at),
                        finished: ClusterTime(finished),
                        redrive_of,
                        payload_bytes: 3,
                        session,
                        derived,
                    };
                    (
                        Key::Record(InterfaceId(Uuid::nil()), Sequence(1)),
                        Row::Record(row),
                    )
                },
            )
    }

    fn event() -> impl Strategy<Value = (Key, Row)> {
        (any::<u64>(), ".{0,9}", ".{0,9}").prop_map(|(at, place, reason)| {
            let row = EventRow {
                kind: EventKind::DeliveryRejected,
                at: WallTime(at),
                place,
                reason,
            };
            (
                Key::Event(InterfaceId(Uuid::nil()), Sequence(1), 2, 3),
                Row::Event(row),
            )
        })
    }

    fn payload() -> impl Strategy<Value = (Key, Row)> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        (0..3u8, bytes, any::<bool>()).prop_map(|(row, mut bytes, marked)| {
            bytes.extend(MARK.iter().filter(|_| marked));
            let payload = bytes.into();
            (
                Key::Payload(InterfaceId(Uuid::nil()), Sequence(1)),
                Row::Payload(PayloadRow { row, payload }),
            )
        })
    }

    fn every_kind() -> impl Strategy<Value = (Key, Row)> {
        prop_oneof![
            clock(),
            config(),
            quarantine(),
            lane(),
            hours(),
            unheard(),
            destination(),
            producer(),
            dead_letter(),
            payload(),
            headers(),
            record(),
            event(),
        ]
    }

    fn bytes_of(row: &Row) -> Vec<u8> {
        let mut out = vec![1; 5];
        encode(row, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was_written((key, row) in every_kind()) {
            let bytes = bytes_of(&row);
            let read = decode(&key, &bytes).unwrap();
            // Rows have no equality of their own. Headers print lengths only, so the bytes are compared too.
            prop_assert_eq!(format!("{:?}", read), format!("{:?}", row));
            prop_assert_eq!(bytes_of(&read), bytes);
        }

        #[test]
        fn a_row_cut_short_or_with_something_behind_it_is_refused((key, row) in every_kind()) {
            let mut bytes = bytes_of(&row);
            if !matches!(row, Row::Payload(_)) {
                prop_assert!(decode(&key, &bytes[..bytes.len() - 1]).is_err());
                bytes.push(0);
                prop_assert!(decode(&key, &bytes).is_err());
            }
        }
    }

    #[test]
    fn a_payload_and_a_configuration_of_before_are_read() {
        let before = payload_of(b"as it is".to_vec());
        assert_eq!((before.row, &before.payload[..]), (0, &b"as it is"[..]));
        let config = InterfaceConfig {
            stages: vec![StageConfig::named("parse")],
            ..InterfaceConfig::default()
        };
        let row = ConfigRow {
            name: "a".into(),
            incarnation: Incarnation(1),
            config_version: 1,
            config,
        };
        let mut bytes = Vec::new();
        encode_fields(&row, &mut bytes);
        let key = Key::Config(InterfaceId(Uuid::nil()));
        let Row::Config(read) = decode(&key, &bytes).unwrap() else {
            panic!("another kind");
        };
        assert_eq!(read.config, row.config);
    }

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        let bytes = [GROWN + 1, 0, 0, 0, 0, 0];
        let lane = Key::Lane(InterfaceId(Uuid::nil()));
        for key in [Key::Clock, lane] {
            let error = decode(&key, &bytes).unwrap_err();
            assert_eq!(error, RowError::Version(GROWN + 1));
        }
    }

    #[test]
    fn rows_from_before_they_grew_are_read() {
        let lane = Key::Lane(InterfaceId(Uuid::nil()));
        let Row::Lane(row) = decode(&lane, &[VERSION, 9, 8, 7, 6, 5, 4, 3]).unwrap() else {
            panic!("another kind of row");
        };
        assert_eq!((row.last_sequence, row.redrives), (Sequence(9), 3));
        assert!(row.sessions.is_empty());
        let first = [VERSION, 9, 8, 0, 7, 6, 0, 5, 4];
        let at = Key::Destination(InterfaceId(Uuid::nil()), DestinationNumber(0));
        let Row::Destination(row) = decode(&at, &first).unwrap() else {
            panic!("another kind of row");
        };
        assert_eq!(
            (row.checkpoint, row.attempts, row.skipped),
            (Sequence(9), 6, 4)
        );
        assert_eq!((row.repeats, row.turn, row.tries), (0, Turn(0), Vec::new()));
        let at = Key::Record(InterfaceId(Uuid::nil()), Sequence(1));
        let grown = bytes_of(&Row::Record(Record {
            message_id: MessageId(Uuid::nil()),
            digest: Digest([9; 16]),
            status: Status::Ready,
            destinations: DestinationSet::ALL,
            rejected: DestinationSet::NONE,
            config_version: 1,
            accepted_at: WallTime(2),
            stage_times: [3].into_iter().collect(),
            finished_at: WallTime(4),
            finished: ClusterTime(5),
            redrive_of: None,
            payload_bytes: 6,
            session: None,
            derived: false,
        }));
        let mut first = grown[..grown.len() - RECORD_GREW.len()].to_vec();
        first[0] = VERSION;
        let Row::Record(row) = decode(&at, &first).unwrap() else {
            panic!("another kind of row");
        };
        assert_eq!(
            (row.payload_bytes, row.session, row.derived),
            (6, None, false)
        );
        assert_eq!(bytes_of(&Row::Record(row)), grown);
    }
}
