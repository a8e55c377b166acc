//! What a message will take once it is decoded: two bytes of protobuf can become a struct of a hundred.

use ordo_wire::status::Failure;
use ordo_wire::v1::Reason;

/// What one frame may weigh. Enough for nearly 10,000 messages, reports or answers, which a node is busy with for some
/// milliseconds, or 160,000 leases that are extended at once. Our own clients put 4,096 messages into a frame.
pub(crate) const WEIGHT_MAX: u32 = 320_000;
const ITEM: u32 = 32;
const LEASE: u32 = 2;
const HEADER: u32 = 1;

/// What repeats in a message, by field number: what one of it weighs, and what repeats in that.
pub(crate) struct Shape(&'static [(u32, u32, &'static Shape)]);

/// Nothing repeats that is worth counting, since the message is small.
pub(crate) const FLAT: Shape = Shape(&[]);

/// `IngestRequest`: batches, of messages, of headers.
pub(crate) const INGEST: Shape = Shape(&[(1, ITEM, &BATCH)]);
const BATCH: Shape = Shape(&[(2, ITEM, &MESSAGE)]);
const MESSAGE: Shape = Shape(&[(3, HEADER, &FLAT)]);

/// `WorkRequest`: the hello's stages and holds, reports, extends.
pub(crate) const WORK: Shape = Shape(&[(1, 1, &HELLO), (3, ITEM, &REPORT), (4, LEASE, &FLAT)]);
const HELLO: Shape = Shape(&[(3, LEASE, &FLAT), (5, LEASE, &FLAT)]);
const REPORT: Shape = Shape(&[(5, 1, &COMPLETE)]);
const COMPLETE: Shape = Shape(&[(2, HEADER, &FLAT), (3, HEADER, &FLAT)]);

/// `DeliverRequest`: subscriptions and answers.
pub(crate) const DELIVER: Shape = Shape(&[(1, ITEM, &FLAT), (2, ITEM, &FLAT)]);

/// Refuses what weighs too much, and what is no protobuf.
pub(crate) fn check(message: &[u8], shape: &Shape) -> Result<(), Failure> {
    if shape.0.is_empty() {
        return Ok(());
    }
    let mut left = WEIGHT_MAX;
    match weigh(message, shape, &mut left) {
        Ok(()) => Ok(()),
        Err(Wrong::TooHeavy) => {
            let text = format!(
                "a frame holds too much: its items weigh more than {WEIGHT_MAX} together, where a batch, a message, \
                 a report, an answer or a subscription weighs {ITEM}, a lease {LEASE} and a header {HEADER}"
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

fn weigh(mut bytes: &[u8], shape: &Shape, left: &mut u32) -> Result<(), Wrong> {
    while !bytes.is_empty() {
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
            .0
            .iter()
            .find(|(number, ..)| u64::from(*number) == key >> 3);
        if let Some((_, weight, inner)) = known {
            *left = left.checked_sub(*weight).ok_or(Wrong::TooHeavy)?;
            if !inner.0.is_empty() {
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
