use std::time::Duration;

use futures_util::FutureExt;
use ordo_client::{Accepted, Cluster, Message, OnRefusal, Producer, Reason, SendError, Uuid};
use ordo_wire::status::Failure;
use ordo_wire::v1::ingest_result::Result as Item;
use ordo_wire::v1::{IngestAccepted, IngestRefused, IngestRequest, IngestResponse, IngestResult};

use crate::support::{Node, until, within};

fn producer(node: &Node) -> Producer {
    node.cluster().producer().start().unwrap()
}

fn message(id: u128) -> Message {
    Message::new("payload").with_id(Uuid::from_u128(id))
}

fn accepted(sequence: u64, duplicate: bool) -> IngestResult {
    IngestResult {
        result: Some(Item::Accepted(IngestAccepted {
            sequence,
            duplicate,
        })),
    }
}

fn refused(reason: Reason, refusal: u64) -> IngestResult {
    let refused = IngestRefused {
        reason: reason.into(),
        text: "as the test says".to_owned(),
        refusal,
        retry_after_ms: 5,
        ..IngestRefused::default()
    };
    IngestResult {
        result: Some(Item::Refused(refused)),
    }
}

fn results(results: impl IntoIterator<Item = IngestResult>) -> IngestResponse {
    IngestResponse {
        results: results.into_iter().collect(),
    }
}

fn ids(frame: &IngestRequest) -> Vec<u128> {
    let messages = frame.batches.iter().flat_map(|batch| &batch.messages);
    messages
        .map(|message| Uuid::from_slice(&message.message_id).unwrap().as_u128())
        .collect()
}

#[tokio::test]
async fn messages_sent_together_are_answered_in_order() {
    let mut node = Node::start().await;
    let producer = producer(&node);
    // Where the limit is known, all go in one frame.
    let first = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    stream.send(results([accepted(1, false)]));
    assert_eq!(within(first).await.unwrap().sequence, 1);
    until(|| node.script(|script| script.calls) == 2).await;
    // The answer to the question for the limit is on its way; until then one message goes at a time.
    let sends: Vec<_> = (2..=4)
        .map(|id| producer.send("orders", message(id)))
        .collect();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let frame = ids(&stream.next().await);
        stream.send(results(
            frame
                .iter()
                .map(|id| accepted(u64::try_from(*id).unwrap(), *id == 3)),
        ));
        seen.extend(frame);
    }
    assert_eq!(seen, [2, 3, 4]);
    for (send, sequence) in sends.into_iter().zip(2..) {
        assert_eq!(
            within(send).await.unwrap(),
            Accepted {
                sequence,
                duplicate: sequence == 3
            }
        );
    }
}

#[tokio::test]
async fn no_more_than_half_of_what_an_interface_recognizes_is_unanswered() {
    let mut node = Node::start().await;
    node.script(|script| script.dedup_messages = 6);
    let producer = producer(&node);
    let sends: Vec<_> = (1..=10)
        .map(|id| producer.send("orders", message(id)))
        .collect();
    let mut stream = node.ingest().await;
    let mut unanswered = 0;
    while unanswered < 3 {
        unanswered += ids(&stream.next().await).len();
        assert!(unanswered <= 3);
    }
    // Three are out: each answer lets one more go, never two.
    let mut sequence = 0;
    for _ in 0..7 {
        sequence += 1;
        stream.send(results([accepted(sequence, false)]));
        assert_eq!(ids(&stream.next().await).len(), 1);
    }
    stream.send(results(
        (sequence + 1..=10).map(|sequence| accepted(sequence, false)),
    ));
    for (send, sequence) in sends.into_iter().zip(1..) {
        assert_eq!(within(send).await.unwrap().sequence, sequence);
    }
}

#[tokio::test]
async fn a_cut_stream_is_replayed_in_order_from_the_first_unanswered_message_on_the_new_leader() {
    let (mut old, mut new) = (Node::start().await, Node::start().await);
    let cluster = Cluster::connect([old.address.clone()]).unwrap();
    let producer = cluster.producer().start().unwrap();
    let sends: Vec<_> = (1..=5)
        .map(|id| producer.send("orders", message(id)))
        .collect();
    let mut stream = old.ingest().await;
    let mut seen = ids(&stream.next().await);
    while seen.len() < 5 {
        seen.extend(ids(&stream.next().await));
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    stream.send(results([accepted(1, false), accepted(2, false)]));
    let failure = Failure::not_leader(Some(new.address.clone()));
    old.script(|script| script.refuses = Some(failure.clone()));
    stream.fail(failure);
    let mut stream = new.ingest().await;
    let mut replayed = Vec::new();
    while replayed.len() < 3 {
        replayed.extend(ids(&stream.next().await));
    }
    assert_eq!(replayed, [3, 4, 5]);
    stream.send(results([
        accepted(3, true),
        accepted(4, true),
        accepted(5, false),
    ]));
    for (send, sequence) in sends.into_iter().zip(1..) {
        let duplicate = matches!(sequence, 3 | 4);
        assert_eq!(
            within(send).await.unwrap(),
            Accepted {
                sequence,
                duplicate
            }
        );
    }
}

#[tokio::test]
async fn a_node_that_dies_without_a_word_is_replaced_by_another() {
    let (mut first, mut second) = (Node::start().await, Node::start().await);
    second.script(|script| script.refuses = Some(Failure::not_leader(Some(first.address.clone()))));
    let cluster = Cluster::connect([first.address.clone(), second.address.clone()]).unwrap();
    let producer = cluster.producer().start().unwrap();
    let send = producer.send("orders", message(1));
    let mut stream = first.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    second.script(|script| script.refuses = None);
    drop((stream, first));
    let mut stream = second.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    stream.send(results([accepted(1, true)]));
    assert_eq!(
        within(send).await.unwrap(),
        Accepted {
            sequence: 1,
            duplicate: true
        }
    );
}

#[tokio::test]
async fn a_refusal_for_the_moment_is_tried_again_and_other_interfaces_go_on() {
    let mut node = Node::start().await;
    let producer = producer(&node);
    let refused_first = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    let other = producer.send("results", message(9));
    assert_eq!(ids(&stream.next().await), [9]);
    stream.send(results([
        refused(Reason::WindowFull, 1),
        accepted(1, false),
    ]));
    assert_eq!(within(other).await.unwrap().sequence, 1);
    let again = stream.next().await;
    assert_eq!(ids(&again), [1]);
    assert_eq!(again.batches[0].after_refusal, 1);
    stream.send(results([accepted(1, false)]));
    assert_eq!(within(refused_first).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn refusals_reach_their_senders_with_reason_and_text() {
    let mut node = Node::start().await;
    let producer = node
        .cluster()
        .producer()
        .on_refusal(OnRefusal::GiveUp)
        .start()
        .unwrap();
    let send = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    stream.next().await;
    stream.send(results([refused(Reason::Paused, 1)]));
    let error = within(send).await.unwrap_err();
    let SendError::Refused(refusal) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (refusal.reason, refusal.text.as_str()),
        (Reason::Paused, "as the test says")
    );
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(5)));
    // What was given up does not hold up the next.
    let send = producer.send("orders", message(2));
    assert_eq!(stream.next().await.batches[0].after_refusal, 1);
    stream.send(results([refused(Reason::ConflictingPayload, 0)]));
    let error = within(send).await.unwrap_err();
    let SendError::Refused(refusal) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (refusal.reason, refusal.code),
        (Reason::ConflictingPayload, tonic::Code::AlreadyExists)
    );
}

#[tokio::test]
async fn a_message_that_an_earlier_stream_may_have_carried_is_not_called_refused_when_it_is_given_up()
 {
    let mut node = Node::start().await;
    let cluster = node.cluster();
    let producer = cluster.producer().on_refusal(OnRefusal::GiveUp);
    let producer = producer.start().unwrap();
    let send = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    stream.fail(Failure::not_leader(None));
    let mut stream = node.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    stream.send(results([refused(Reason::WindowFull, 1)]));
    let error = within(send).await.unwrap_err();
    assert!(matches!(error, SendError::OutcomeUnknown(_)), "{error}");
}

#[tokio::test]
async fn what_is_not_allowed_or_does_not_fit_is_not_sent() {
    let node = Node::start().await;
    let producer = node
        .cluster()
        .producer()
        .queue_bytes_max(1024)
        .start()
        .unwrap();
    node.script(|script| script.refuses = Some(Failure::not_leader(None)));
    let error = within(producer.send("", message(1))).await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Invalid {
                field: "interface",
                ..
            }
        ),
        "{error}"
    );
    let error = within(producer.send("orders", message(1).numbered(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Invalid {
                field: "producer_sequence",
                ..
            }
        ),
        "{error}"
    );
    let _first = producer.send("orders", Message::new(vec![0; 700]));
    let error = within(producer.send("orders", Message::new("more")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, SendError::QueueFull { limit_bytes: 1024 }),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_leader_a_producer_that_may_gives_up() {
    let cluster = Cluster::connect(["127.0.0.1:1"]).unwrap();
    let producer = cluster
        .producer()
        .give_up_after(Duration::from_millis(100))
        .start()
        .unwrap();
    let error = within(producer.send("orders", message(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, SendError::Unsent(_)), "{error}");
}

#[tokio::test]
async fn a_silent_node_is_left_and_everything_replayed() {
    let mut node = Node::start().await;
    let producer = node
        .cluster()
        .producer()
        .stall_max(Duration::from_millis(200))
        .start()
        .unwrap();
    let send = producer.send("orders", message(1));
    let mut silent = node.ingest().await;
    assert_eq!(ids(&silent.next().await), [1]);
    let mut stream = node.ingest().await;
    assert_eq!(ids(&stream.next().await), [1]);
    stream.send(results([accepted(1, true)]));
    assert!(within(send).await.unwrap().duplicate);
    assert!(silent.next_or_end().await.is_none());
}

#[tokio::test]
async fn closing_waits_for_every_answer_and_takes_no_more() {
    let mut node = Node::start().await;
    let producer = producer(&node);
    let send = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    stream.next().await;
    let mut closing = Box::pin(producer.close());
    assert!(closing.as_mut().now_or_never().is_none());
    assert!(matches!(
        producer.try_enqueue("orders", message(2)),
        Err(SendError::Closed)
    ));
    stream.send(results([accepted(1, false)]));
    within(closing).await;
    within(send).await.unwrap();
    within(producer.flush()).await;
}

#[tokio::test]
async fn a_named_producer_numbers_its_messages() {
    let mut node = Node::start().await;
    let producer = node.cluster().producer().name("lab").start().unwrap();
    let send = producer.send("orders", message(1).numbered(7));
    let mut stream = node.ingest().await;
    let frame = stream.next().await;
    assert_eq!(frame.batches[0].producer, "lab");
    assert_eq!(frame.batches[0].messages[0].producer_sequence, 7);
    let gap = IngestRefused {
        reason: Reason::ProducerGap.into(),
        expected_producer_sequence: 3,
        ..IngestRefused::default()
    };
    stream.send(results([IngestResult {
        result: Some(Item::Refused(gap)),
    }]));
    let error = within(send).await.unwrap_err();
    let SendError::Refused(refusal) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (refusal.reason, refusal.expected_producer_sequence),
        (Reason::ProducerGap, Some(3))
    );
    assert_eq!(refusal.sequence, None);
}

#[tokio::test]
async fn a_conflict_names_the_sequence_it_conflicts_with() {
    let mut node = Node::start().await;
    let producer = node.cluster().producer().start().unwrap();
    let send = producer.send("orders", message(1));
    let mut stream = node.ingest().await;
    stream.next().await;
    let conflict = IngestRefused {
        reason: Reason::ConflictingPayload.into(),
        conflicting_sequence: 5,
        ..IngestRefused::default()
    };
    stream.send(results([IngestResult {
        result: Some(Item::Refused(conflict)),
    }]));
    let error = within(send).await.unwrap_err();
    let SendError::Refused(refusal) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (refusal.reason, refusal.sequence),
        (Reason::ConflictingPayload, Some(5))
    );
}

#[test]
fn a_message_shows_its_size_and_not_its_payload() {
    let shown = format!("{:?}", Message::new("SECRET"));
    assert!(
        shown.contains("payload_bytes: 6") && !shown.contains("SECRET"),
        "{shown}"
    );
}
