//! What a message will take once it is decoded: two bytes of protobuf can become a struct of a hundred.

use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;
use std::ops::Range;

/// What one frame may weigh. Enough for nearly 10,000 messages, reports or answers, which a node is busy with for some
/// milliseconds, or 160,000 leases that are extended at once. Our own clients put 4,096 messages into a frame.
pub(crate) const WEIGHT_MAX: u32 = 320_000;
const ITEM: u32 = 32;
const LEASE: u32 = 2;
const HEADER: u32 = 1;
/// So many of a message's headers are decoded: one more than it may have, so that it is refused, and alone.
const HEADERS_DECODED: u32 = ordo_wire::request::HEADERS_MAX as u32 + 1;
/// Headers beyond that in one frame, which are looked at and not decoded.
const EXCESS_MAX: u32 = WEIGHT_MAX;
/// The key of an `IngestMessage`'s headers, and one of a field that it has not, of the same kind: what is not to be
/// decoded is given it, so that it is skipped where it stands.
const HEADERS_KEY: u8 = 3 << 3 | 2;
const UNKNOWN_KEY: u8 = 15 << 3 | 2;

/// What repeats in a message, by field number: what one of it weighs, and what repeats in that.
pub(crate) struct Shape {
    parts: &'static [(u32, u32, &'static Shape)],
    /// It is a message, of whose headers only so many are decoded.
    caps_headers: bool,
}

impl Shape {
    const fn of(parts: &'static [(u32, u32, &'static Shape)]) -> Self {
        Self {
            parts,
            caps_headers: false,
        }
    }
}

/// Nothing repeats that is worth counting, since the message is small.
pub(crate) const FLAT: Shape = Shape::of(&[]);

/// `IngestRequest`: batches, of messages, of headers.
pub(crate) const INGEST: Shape = Shape::of(&[(1, ITEM, &BATCH)]);
const BATCH: Shape = Shape::of(&[(2, ITEM, &MESSAGE)]);
const MESSAGE: Shape = Shape {
    parts: &[(3, HEADER, &FLAT)],
    caps_headers: true,
};

/// `WorkRequest`: the hello's stages and holds, reports, extends.
pub(crate) const WORK: Shape = Shape::of(&[(1, 1, &HELLO), (3, ITEM, &REPORT), (4, LEASE, &FLAT)]);
const HELLO: Shape = Shape::of(&[(3, LEASE, &FLAT), (5, LEASE, &FLAT)]);
const REPORT: Shape = Shape::of(&[(5, 1, &COMPLETE)]);
const COMPLETE: Shape = Shape::of(&[(2, HEADER, &FLAT), (3, HEADER, &FLAT)]);

/// `DeliverRequest`: subscriptions and answers.
pub(crate) const DELIVER: Shape = Shape::of(&[(1, ITEM, &FLAT), (2, ITEM, &FLAT)]);

/// Refuses what weighs too much, and what is no protobuf. True where a message has headers in excess: those don't weigh
/// anything and are not to be decoded, see [`void_excess`].
pub(crate) fn check(message: &[u8], shape: &Shape) -> Result<bool, Failure> {
    if shape.parts.is_empty() {
        return Ok(false);
    }
    let mut left = Left {
        weight: WEIGHT_MAX,
        excess: EXCESS_MAX,
    };
    match weigh(message, shape, &mut left) {
        Ok(()) => Ok(left.excess < EXCESS_MAX),
        Err(Wrong::TooHeavy) => {
            let text = format!(
                "a frame holds too much: its items weigh more than {WEIGHT_MAX} together, where a batch, a message, \
                 a report, an answer or a subscription weighs {ITEM}, a lease {LEASE} and a header {HEADER}; or there \
                 are more than {EXCESS_MAX} headers beyond those that messages may have"
            );
            Err(Failure::new(Reason::TooLarge, text))
        }
        Err(Wrong::Malformed) => Err(Failure::new(
            Reason::InvalidField,
            "a frame is not the protobuf message that it should be",
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    TooHeavy,
    Malformed,
}

/// What a frame may still hold.
struct Left {
    weight: u32,
    excess: u32,
}

/// Makes a frame's headers in excess a field that nobody knows. It was checked.
pub(crate) fn void_excess(frame: &mut [u8]) {
    each_field(frame, 1, &mut |batch| {
        each_field(batch, 2, &mut |message| {
            let mut headers = 0_u32;
            walk(message, &mut |message, at, _| {
                if message[at] == HEADERS_KEY {
                    headers += 1;
                    if headers > HEADERS_DECODED {
                        message[at] = UNKNOWN_KEY;
                    }
                }
            });
        });
    });
}

/// Every field of that number that has a length.
fn each_field(bytes: &mut [u8], number: u64, each: &mut dyn FnMut(&mut [u8])) {
    walk(bytes, &mut |bytes, at, content| {
        let mut from = &bytes[at..];
        if varint(&mut from) == Ok(number << 3 | 2) {
            each(&mut bytes[content]);
        }
    });
}

/// What is done with a field: its message's bytes, where its key stands, and its content.
type Each<'a> = dyn FnMut(&mut [u8], usize, Range<usize>) + 'a;

/// Every field. Ends at what is malformed.
fn walk(bytes: &mut [u8], each: &mut Each<'_>) {
    let mut at = 0;
    while at < bytes.len() {
        let mut rest = &bytes[at..];
        let Ok(length) = length_of(&mut rest) else {
            return;
        };
        let begin = bytes.len() - rest.len();
        let Some(end) = begin.checked_add(length).filter(|end| *end <= bytes.len()) else {
            return;
        };
        each(bytes, at, begin..end);
        at = end;
    }
}

/// Reads a field's key, and its length where it has one; gives the length of what follows.
fn length_of(bytes: &mut &[u8]) -> Result<usize, Wrong> {
    let length = match varint(bytes)? & 7 {
        0 => {
            varint(bytes)?;
            0
        }
        1 => 8,
        2 => varint(bytes)?,
        5 => 4,
        _ => return Err(Wrong::Malformed),
    };
    usize::try_from(length).map_err(|_| Wrong::Malformed)
}

fn weigh(mut bytes: &[u8], shape: &Shape, left: &mut Left) -> Result<(), Wrong> {
    let mut headers = 0_u32;
    while !bytes.is_empty() {
        let first = bytes[0];
        let key = varint(&mut bytes)?;
        let skip = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes)?,
            5 => 4,
            // Groups are no part of this protocol.
            _ => return Err(Wrong::Malformed),
        };
        let skip = usize::try_from(skip).map_err(|_| Wrong::Malformed)?;
        let (field, rest) = bytes.split_at_checked(skip).ok_or(Wrong::Malformed)?;
        bytes = rest;
        let known = shape
            .parts
            .iter()
            .find(|(number, ..)| u64::from(*number) == key >> 3);
        if let Some((_, weight, inner)) = known {
            // One whose key is written in another way than everybody's can't be made unknown in its place: it weighs.
            if shape.caps_headers && first == HEADERS_KEY {
                headers += 1;
                if headers > HEADERS_DECODED {
                    left.excess = left.excess.checked_sub(1).ok_or(Wrong::TooHeavy)?;
                    continue;
                }
            }
            left.weight = left.weight.checked_sub(*weight).ok_or(Wrong::TooHeavy)?;
            if !inner.parts.is_empty() {
                weigh(field, inner, left)?;
            }
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Wrong> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Wrong::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Wrong::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ordo_wire::v1;
    use prost::Message as _;

    fn ingest(messages: usize, headers: usize) -> Vec<u8> {
        let message = v1::IngestMessage {
            headers: vec![v1::Header::default(); headers],
            ..Default::default()
        };
        let batch = v1::IngestBatch {
            messages: vec![message; messages],
            ..Default::default()
        };
        v1::IngestRequest {
            batches: vec![batch],
        }
        .encode_to_vec()
    }

    fn reason(message: &[u8], shape: &Shape) -> Option<Reason> {
        check(message, shape).err().map(|failure| failure.reason)
    }

    #[test]
    fn a_small_frame_of_very_many_empty_messages_is_too_large() {
        assert_eq!(reason(&ingest(9_999, 0), &INGEST), None);
        let bomb = ingest(10_000, 0);
        assert!(bomb.len() < 30_000);
        assert_eq!(reason(&bomb, &INGEST), Some(Reason::TooLarge));
        assert_eq!(reason(&ingest(1, 330_000), &INGEST), Some(Reason::TooLarge));
    }

    #[test]
    fn a_message_with_very_many_headers_is_cut_to_what_gets_it_refused_alone() {
        for headers in [0, 64, 65] {
            assert_eq!(check(&ingest(3, headers), &INGEST).ok(), Some(false));
        }
        let wrong = v1::IngestMessage {
            message_id: vec![7; 16].into(),
            payload: vec![8; 300].into(),
            headers: vec![v1::Header::default(); 300_000],
            producer_sequence: 9,
            ..Default::default()
        };
        let good = v1::IngestMessage {
            headers: vec![v1::Header::default(); 64],
            ..wrong.clone()
        };
        let batch = v1::IngestBatch {
            interface: "lab".to_owned(),
            messages: vec![good.clone(), wrong.clone(), good.clone()],
            producer: "p".to_owned(),
            after_refusal: 3,
            session: 4,
            heard_sequence: 5,
        };
        let request = v1::IngestRequest {
            batches: vec![batch.clone(), batch],
        };
        let one = v1::IngestRequest {
            batches: request.batches[..1].to_vec(),
        };
        assert_eq!(
            reason(&request.encode_to_vec(), &INGEST),
            Some(Reason::TooLarge)
        );
        let mut frame = one.encode_to_vec();
        assert_eq!(check(&frame, &INGEST).ok(), Some(true));
        void_excess(&mut frame);
        assert_eq!(check(&frame, &INGEST).ok(), Some(false));
        let mut expected = one;
        expected.batches[0].messages[1].headers.truncate(65);
        assert_eq!(v1::IngestRequest::decode(&frame[..]), Ok(expected));
    }

    #[test]
    fn what_our_own_clients_send_at_most_is_taken() {
        assert_eq!(reason(&ingest(4_096, 32), &INGEST), None);
        let hello = v1::WorkHello {
            holds: vec![v1::WorkExtend::default(); 100_000],
            ..Default::default()
        };
        let request = v1::WorkRequest {
            hello: Some(hello),
            ..Default::default()
        };
        assert_eq!(reason(&request.encode_to_vec(), &WORK), None);
    }

    #[test]
    fn headers_and_destinations_of_reports_count() {
        let complete = v1::WorkComplete {
            headers: vec![v1::Header::default(); 170_000],
            destinations: vec![String::new(); 170_000],
            ..Default::default()
        };
        let report = v1::WorkReport {
            outcome: Some(v1::work_report::Outcome::Complete(complete)),
            ..Default::default()
        };
        let request = v1::WorkRequest {
            reports: vec![report],
            ..Default::default()
        };
        assert_eq!(
            reason(&request.encode_to_vec(), &WORK),
            Some(Reason::TooLarge)
        );
    }

    #[test]
    fn subscriptions_and_answers_count() {
        let subscribe = v1::DeliverRequest {
            subscribe: vec![v1::Subscribe::default(); 10_001],
            ..Default::default()
        };
        let answers = v1::DeliverRequest {
            answers: vec![v1::Answer::default(); 10_001],
            ..Default::default()
        };
        for request in [subscribe, answers] {
            assert_eq!(
                reason(&request.encode_to_vec(), &DELIVER),
                Some(Reason::TooLarge)
            );
        }
    }

    #[test]
    fn what_is_no_protobuf_is_refused_and_not_stepped_over() {
        for wrong in [
            &[0x0a][..],
            &[0x0a, 5, 1],
            &[0x0b],
            &[0x80; 11],
            &[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ] {
            assert_eq!(
                reason(wrong, &INGEST),
                Some(Reason::InvalidField),
                "{wrong:?}"
            );
        }
    }
}
