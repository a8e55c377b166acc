#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ordo_wire::v1::{IngestAccepted, IngestRefused};
use proptest::prelude::*;

use super::*;

type Answer = oneshot::Receiver<Result<Accepted, SendError>>;

fn entry(id: u8, bytes: usize) -> (Entry, Answer) {
    let (reply, answer) = oneshot::channel();
    let message = IngestMessage {
        message_id: Bytes::copy_from_slice(&[id; 16]),
        payload: vec![0; bytes].into(),
        ..IngestMessage::default()
    };
    (
        Entry {
            message,
            cost: u32::try_from(bytes + 256).unwrap(),
            sent: false,
            in_doubt: false,
            reply,
        },
        answer,
    )
}

fn lanes(names: &[&str]) -> Lanes {
    let mut lanes = Lanes::new(String::new(), 1, OnRefusal::Retry);
    for (index, name) in names.iter().enumerate() {
        lanes.add_lane((*name).into());
        lanes.learned(u32::try_from(index).unwrap(), Some(1000));
    }
    lanes
}

fn push(lanes: &mut Lanes, lane: u32, ids: std::ops::RangeInclusive<u8>) -> Vec<Answer> {
    ids.map(|id| {
        let (entry, answer) = entry(id, 10);
        lanes.push(lane, entry);
        answer
    })
    .collect()
}

fn accepted(sequence: u64) -> IngestResult {
    IngestResult {
        result: Some(Item::Accepted(IngestAccepted {
            sequence,
            duplicate: false,
        })),
    }
}

fn refused(reason: Reason, refusal: u64, retry_after_ms: u64) -> IngestResult {
    let refused = IngestRefused {
        reason: reason.into(),
        refusal,
        retry_after_ms,
        ..IngestRefused::default()
    };
    IngestResult {
        result: Some(Item::Refused(refused)),
    }
}

/// Interface and ids of a frame's batches.
fn ids(frame: &IngestRequest) -> Vec<(&str, Vec<u8>, u64)> {
    let batches = frame.batches.iter();
    batches
        .map(|batch| {
            let ids = batch
                .messages
                .iter()
                .map(|message| message.message_id[0])
                .collect();
            (batch.interface.as_str(), ids, batch.after_refusal)
        })
        .collect()
}

#[test]
fn what_is_queued_goes_in_one_frame_a_batch_per_interface_in_order() {
    let mut lanes = lanes(&["a", "b"]);
    let _answers = (
        push(&mut lanes, 0, 1..=2),
        push(&mut lanes, 1, 3..=3),
        push(&mut lanes, 0, 4..=4),
    );
    let frame = lanes.next_frame().unwrap();
    assert_eq!(ids(&frame), [("a", vec![1, 2, 4], 0), ("b", vec![3], 0)]);
    assert!(lanes.next_frame().is_none());
}

#[test]
fn a_frame_is_bounded_in_bytes_and_one_larger_message_goes_alone() {
    let mut lanes = lanes(&["a"]);
    let mut answers = Vec::new();
    for (id, bytes) in [(1, 600_000), (2, 600_000), (3, 3_000_000), (4, 10)] {
        let (entry, answer) = entry(id, bytes);
        lanes.push(0, entry);
        answers.push(answer);
    }
    let frames: Vec<_> = std::iter::from_fn(|| lanes.next_frame()).collect();
    let sent: Vec<_> = frames.iter().flat_map(ids).map(|(_, ids, _)| ids).collect();
    assert_eq!(sent, [vec![1], vec![2], vec![3], vec![4]]);
}

#[test]
fn a_frame_is_bounded_in_headers_since_a_node_weighs_it() {
    let mut lanes = lanes(&["a"]);
    let mut answers = Vec::new();
    for id in 1..=3 {
        let (mut entry, answer) = entry(id, 10);
        entry.message.headers = vec![ordo_wire::v1::Header::default(); FRAME_HEADERS_MAX / 2];
        lanes.push(0, entry);
        answers.push(answer);
    }
    let frame = lanes.next_frame().unwrap();
    assert_eq!(frame.batches[0].messages.len(), 2);
    let frame = lanes.next_frame().unwrap();
    assert_eq!(frame.batches[0].messages.len(), 1);
}

#[test]
fn one_message_is_unanswered_until_the_limit_is_known_and_half_of_it_then() {
    let mut lanes = Lanes::new(String::new(), 1, OnRefusal::Retry);
    lanes.add_lane("a".into());
    let _answers = push(&mut lanes, 0, 1..=20);
    assert_eq!(lanes.unasked().unwrap().1.as_ref(), "a");
    assert!(lanes.unasked().is_none());
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("a", vec![1], 0)]);
    assert!(lanes.next_frame().is_none());
    lanes.learned(0, Some(10));
    assert_eq!(
        ids(&lanes.next_frame().unwrap()),
        [("a", vec![2, 3, 4, 5], 0)]
    );
    lanes.on_result(accepted(1), Instant::now()).unwrap();
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("a", vec![6], 0)]);
}

#[test]
fn after_a_refusal_everything_from_there_goes_again_in_order_naming_the_latest() {
    let mut lanes = lanes(&["a", "b"]);
    let now = Instant::now();
    let mut answers = push(&mut lanes, 0, 1..=4);
    lanes.next_frame().unwrap();
    lanes.on_result(accepted(1), now).unwrap();
    lanes
        .on_result(refused(Reason::WindowFull, 1, 50), now)
        .unwrap();
    answers.extend(push(&mut lanes, 0, 5..=5));
    // Closed, while the other interface goes on.
    let _others = push(&mut lanes, 1, 9..=9);
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("b", vec![9], 0)]);
    assert_eq!(lanes.next_opening(), None, "answers are still to come");
    lanes
        .on_result(refused(Reason::EarlierRefused, 2, 0), now)
        .unwrap();
    lanes
        .on_result(refused(Reason::EarlierRefused, 3, 0), now)
        .unwrap();
    assert_eq!(lanes.next_opening(), Some(now + Duration::from_millis(50)));
    lanes.open_due(now + Duration::from_millis(49));
    assert!(lanes.next_frame().is_none());
    lanes.open_due(now + Duration::from_millis(50));
    assert_eq!(
        ids(&lanes.next_frame().unwrap()),
        [("a", vec![2, 3, 4, 5], 3)]
    );
    assert_eq!(
        answers[0].try_recv().unwrap().unwrap(),
        Accepted {
            sequence: 1,
            duplicate: false
        }
    );
    assert!(answers[1].try_recv().is_err(), "it has no answer yet");
}

#[test]
fn giving_up_fails_the_refused_message_and_those_behind_it_go_on_at_once() {
    let mut lanes = Lanes::new(String::new(), 1, OnRefusal::GiveUp);
    lanes.add_lane("a".into());
    lanes.learned(0, Some(1000));
    let now = Instant::now();
    let mut answers = push(&mut lanes, 0, 1..=3);
    lanes.next_frame().unwrap();
    lanes
        .on_result(refused(Reason::Paused, 1, 500), now)
        .unwrap();
    lanes
        .on_result(refused(Reason::EarlierRefused, 2, 0), now)
        .unwrap();
    lanes
        .on_result(refused(Reason::EarlierRefused, 3, 0), now)
        .unwrap();
    let refusal = answers[0].try_recv().unwrap().unwrap_err();
    assert!(matches!(&refusal, SendError::Refused(refusal)
        if refusal.reason == Reason::Paused && refusal.retry_after == Some(Duration::from_millis(500))));
    lanes.open_due(now);
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("a", vec![2, 3], 3)]);
}

#[test]
fn a_permanent_refusal_fails_one_message_and_blocks_nothing() {
    let mut lanes = lanes(&["a"]);
    let mut answers = push(&mut lanes, 0, 1..=2);
    lanes.next_frame().unwrap();
    lanes
        .on_result(refused(Reason::TooLarge, 0, 0), Instant::now())
        .unwrap();
    lanes.on_result(accepted(1), Instant::now()).unwrap();
    assert!(matches!(
        answers[0].try_recv().unwrap(),
        Err(SendError::Refused(_))
    ));
    assert!(answers[1].try_recv().unwrap().is_ok());
    assert!(lanes.is_empty());
    assert_eq!(
        lanes.take_freed(),
        Freed {
            messages: 2,
            bytes: 2 * 266
        }
    );
}

#[test]
fn the_end_of_a_stream_puts_everything_unanswered_back_in_order() {
    let mut lanes = lanes(&["a", "b"]);
    let now = Instant::now();
    let _answers = (push(&mut lanes, 0, 1..=5), push(&mut lanes, 1, 11..=12));
    lanes.next_frame().unwrap();
    lanes.on_result(accepted(1), now).unwrap();
    lanes
        .on_result(refused(Reason::NodeFull, 1, 20), now)
        .unwrap();
    let _more = push(&mut lanes, 0, 6..=6);
    lanes.stream_ended();
    // The pause holds over the reconnect; refusal numbers do not.
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("b", vec![11, 12], 0)]);
    lanes.open_due(now + Duration::from_millis(20));
    assert_eq!(
        ids(&lanes.next_frame().unwrap()),
        [("a", vec![2, 3, 4, 5, 6], 0)]
    );
}

#[test]
fn giving_everything_up_tells_what_was_sent_from_what_was_not() {
    let mut lanes = Lanes::new(String::new(), 1, OnRefusal::Retry);
    lanes.add_lane("a".into());
    let mut answers = push(&mut lanes, 0, 1..=2);
    lanes.next_frame().unwrap();
    lanes.fail_all(&Refusal::local(tonic::Code::Unavailable, "nobody there"));
    assert!(matches!(
        answers[0].try_recv().unwrap(),
        Err(SendError::OutcomeUnknown(_))
    ));
    assert!(matches!(
        answers[1].try_recv().unwrap(),
        Err(SendError::Unsent(_))
    ));
    assert!(lanes.is_empty());
    let _again = push(&mut lanes, 0, 3..=3);
    assert_eq!(ids(&lanes.next_frame().unwrap()), [("a", vec![3], 0)]);
}

#[test]
fn a_result_for_nothing_is_an_error() {
    assert_eq!(
        lanes(&["a"]).on_result(accepted(1), Instant::now()),
        Err(UnexpectedResult)
    );
}

/// An interface as a node keeps it: what it accepted, and this stream's refusals.
#[derive(Default)]
struct Kept {
    accepted: Vec<u8>,
    latest_refusal: u64,
    refusing: bool,
}

/// A node that keeps to the protocol, and refuses where the script says so.
#[derive(Default)]
struct Node {
    interfaces: BTreeMap<String, Kept>,
}

impl Node {
    fn take(
        &mut self,
        frame: IngestRequest,
        refuses: &mut impl FnMut() -> bool,
    ) -> Vec<IngestResult> {
        let mut results = Vec::new();
        for batch in frame.batches {
            let kept = self.interfaces.entry(batch.interface).or_default();
            kept.refusing &= batch.after_refusal != kept.latest_refusal;
            for message in batch.messages {
                let id = message.message_id[0];
                if let Some(index) = kept.accepted.iter().position(|known| *known == id) {
                    results.push(accepted(index as u64 + 1));
                } else if kept.refusing || refuses() {
                    let reason = if kept.refusing {
                        Reason::EarlierRefused
                    } else {
                        Reason::WindowFull
                    };
                    kept.refusing = true;
                    kept.latest_refusal += 1;
                    results.push(refused(reason, kept.latest_refusal, 5));
                } else {
                    kept.accepted.push(id);
                    results.push(accepted(kept.accepted.len() as u64));
                }
            }
        }
        results
    }

    fn end_stream(&mut self) {
        for kept in self.interfaces.values_mut() {
            kept.latest_refusal = 0;
            kept.refusing = false;
        }
    }
}

proptest! {
    /// Whatever is refused and wherever streams end, before or after the node read a frame: every message is
    /// accepted once, and in the order in which it was sent.
    #[test]
    fn order_survives_refusals_and_stream_ends(script in prop::collection::vec(0_u8..100, 1..400)) {
        const NAMES: [&str; 2] = ["a", "b"];
        let mut lanes = lanes(&NAMES);
        let mut node = Node::default();
        let mut on_the_way: VecDeque<IngestRequest> = VecDeque::new();
        let mut results: VecDeque<IngestResult> = VecDeque::new();
        let mut pushed = [0_u8; 2];
        let mut answers = Vec::new();
        let mut now = Instant::now();
        let mut dice = script.iter().copied().cycle();
        for step in script.iter().copied() {
            match step {
                0..30 => {
                    let lane = usize::from(step % 2);
                    if pushed[lane] < 200 {
                        pushed[lane] += 1;
                        let id = pushed[lane];
                        answers.extend(push(&mut lanes, u32::try_from(lane).unwrap(), id..=id));
                    }
                }
                30..55 => on_the_way.extend(lanes.next_frame()),
                55..75 => if let Some(frame) = on_the_way.pop_front() {
                    results.extend(node.take(frame, &mut || dice.next().unwrap() < 15));
                },
                75..92 => if let Some(result) = results.pop_front() {
                    lanes.on_result(result, now).unwrap();
                },
                92..97 => {
                    now += Duration::from_millis(3);
                    lanes.open_due(now);
                }
                _ => {
                    on_the_way.clear();
                    results.clear();
                    node.end_stream();
                    lanes.stream_ended();
                }
            }
        }
        // And without faults everything ends, in bounded time.
        for _ in 0..1000 {
            if lanes.is_empty() {
                break;
            }
            on_the_way.extend(lanes.next_frame());
            while let Some(frame) = on_the_way.pop_front() {
                results.extend(node.take(frame, &mut || false));
            }
            for result in results.drain(..) {
                lanes.on_result(result, now).unwrap();
            }
            now += Duration::from_millis(10);
            lanes.open_due(now);
        }
        prop_assert!(lanes.is_empty());
        for (lane, name) in NAMES.iter().enumerate() {
            let kept = node.interfaces.get(*name).map(|kept| kept.accepted.clone()).unwrap_or_default();
            prop_assert_eq!(kept, (1..=pushed[lane]).collect::<Vec<_>>());
        }
        for mut answer in answers {
            prop_assert!(answer.try_recv().unwrap().is_ok());
        }
    }
}
