//! What a destination's head was answered, what a person decides about it, and what comes of it later.

use super::*;
use tonic::Code;

fn answer(sequence: u64, epoch: u64, answer: v1::answer::Answer) -> v1::DeliverRequest {
    let answer = v1::Answer {
        subscription: 7,
        epoch,
        sequence,
        answer: Some(answer),
    };
    v1::DeliverRequest {
        answers: vec![answer],
        ..Default::default()
    }
}

/// The receiver fell silent after it was sent the message; nothing is sent for an hour.
fn silent(sequence: u64, epoch: u64) -> v1::DeliverRequest {
    let silent = v1::AnswerUnavailable {
        after_ms: 3_600_000,
        reason: "no reply".into(),
        sent: true,
    };
    answer(sequence, epoch, v1::answer::Answer::Unavailable(silent))
}

fn ack(sequence: u64, epoch: u64) -> v1::DeliverRequest {
    let ack = v1::answer::Answer::Ack(v1::AnswerAck {});
    answer(sequence, epoch, ack)
}

async fn shown(node: &mut Node, sequence: u64) -> v1::Message {
    let request = v1::GetMessageRequest {
        interface: "a".into(),
        sequence,
        ..Default::default()
    };
    let answer = node.admin.get_message(request).await.unwrap();
    answer.into_inner().message.unwrap()
}

fn skip(sequence: u64, turn: u32) -> v1::SkipDeliveryRequest {
    v1::SkipDeliveryRequest {
        interface: "a".into(),
        destination: "default".into(),
        sequence,
        turn,
    }
}

/// Three messages, of which the first is with a consumer that may have passed it on.
async fn silent_lab() -> (Node, Calls<v1::DeliverRequest, v1::DeliverResponse>) {
    let mut node = node().await;
    node.create("a", v1::InterfaceConfig::default()).await;
    let mut ingest = node.ingest().await;
    let messages = (1..=3).map(|n| message(n, b"1")).collect();
    ingest.send(batch("a", messages)).await;
    ingest.results(3).await;
    let mut deliver = node.deliver("a").await;
    deliver.until(|all| deliveries(all).len() == 3).await;
    deliver.send(silent(1, 1)).await;
    deliver
        .until(|all| !all.states.is_empty() && !all.results.is_empty())
        .await;
    (node, deliver)
}

/// A person ends the pause: the first message comes again, under epoch 3.
async fn resumed(node: &mut Node, deliver: &mut Calls<v1::DeliverRequest, v1::DeliverResponse>) {
    let resume = v1::ResumeDeliveryRequest {
        interface: "a".into(),
        destination: "default".into(),
        turn: 1,
    };
    let resumed = node.admin.resume_delivery(resume).await.unwrap();
    assert_eq!(resumed.into_inner().turn, 2);
    let again = deliver.until(|all| !deliveries(all).is_empty()).await;
    let again = deliveries(&again)[0];
    assert_eq!((again.sequence, again.repeats), (1, 1));
}

#[tokio::test]
async fn the_tries_of_the_head_are_shown_and_a_person_tries_again_or_gives_it_up() {
    let (mut node, mut deliver) = silent_lab().await;
    let head = shown(&mut node, 1).await;
    let [at] = &head.waiting[..] else {
        panic!("{:?}", head.waiting)
    };
    assert_eq!((at.name.as_str(), at.repeats, at.turn), ("default", 1, 1));
    let tried = &at.tries[0];
    assert_eq!(
        (tried.kind(), tried.reason.as_str()),
        (v1::DeliveryTryKind::Sent, "no reply")
    );
    assert!(tried.at_ms > 0);
    assert!(shown(&mut node, 2).await.waiting.is_empty());

    resumed(&mut node, &mut deliver).await;
    deliver.send(silent(1, 3)).await;
    deliver
        .until(|all| !all.states.is_empty() && !all.results.is_empty())
        .await;

    let status = node.admin.skip_delivery(skip(1, 2)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(Failure::from_status(&status).reason, Reason::Stale);
    let skipped = node.admin.skip_delivery(skip(1, 3)).await.unwrap();
    assert_eq!(skipped.into_inner().turn, 4);
    let rest = deliver.until(|all| deliveries(all).len() == 2).await;
    let rest: Vec<_> = deliveries(&rest).iter().map(|d| d.sequence).collect();
    assert_eq!(rest, [2, 3]);
    let second = node.admin.skip_delivery(skip(2, 3)).await.unwrap_err();
    assert_eq!(Failure::from_status(&second).reason, Reason::Stale);
    let interface = node.get("a").await;
    let there = &interface.destinations[0];
    assert_eq!((interface.dead_letters, there.checkpoint), (1, 1));
    node.stop().await;
}

#[tokio::test]
async fn what_a_receiver_says_later_stands_in_the_history_eight_times_at_most() {
    let (mut node, mut deliver) = silent_lab().await;
    let note = |sequence: u64, text: &str| v1::NoteDeliveryRequest {
        interface: "a".into(),
        destination: String::new(),
        sequence,
        epoch: 2,
        code: "AE".into(),
        text: text.into(),
    };
    let early = node.admin.note_delivery(note(1, "no")).await.unwrap_err();
    let early = Failure::from_status(&early);
    assert_eq!(early.reason, Reason::NotAcknowledged);
    resumed(&mut node, &mut deliver).await;
    deliver.send(ack(1, 3)).await;
    let acked = deliver.until(|all| !all.results.is_empty()).await;
    assert_eq!(acked.results[0].checkpoint, 1);
    for text in ["no", "no", "1", "2", "3", "4", "5", "6", "7"] {
        node.admin.note_delivery(note(1, text)).await.unwrap();
    }
    let ninth = node.admin.note_delivery(note(1, "8")).await.unwrap_err();
    assert_eq!(Failure::from_status(&ninth).reason, Reason::CapReached);
    let long = node.admin.note_delivery(note(1, &"a".repeat(1_025))).await;
    let long = Failure::from_status(&long.unwrap_err());
    assert_eq!(long.reason, Reason::TooLarge);

    let told = shown(&mut node, 1).await;
    let kinds: Vec<_> = told.events.iter().map(v1::MessageEvent::kind).collect();
    use v1::MessageEventKind::{Accepted, Delivered, DeliveryRepeated, Noted};
    assert_eq!(kinds[..3], [Accepted, DeliveryRepeated, Delivered]);
    assert_eq!(kinds[3..], [Noted; 8]);
    let (repeated, noted) = (&told.events[1], &told.events[3]);
    assert_eq!(
        repeated.reason,
        "it may have arrived before: repeats 1; last: no reply"
    );
    assert_eq!(
        (noted.place.as_str(), noted.reason.as_str()),
        ("default", "AE: no")
    );
    node.stop().await;
}

#[tokio::test]
async fn a_conflict_names_the_sequence_it_conflicts_with() {
    let mut node = node().await;
    node.create("a", v1::InterfaceConfig::default()).await;
    let mut ingest = node.ingest().await;
    let messages = vec![message(1, b"1"), message(2, b"2"), message(2, b"another")];
    ingest.send(batch("a", messages)).await;
    let results = ingest.results(3).await;
    let conflict = refused(&results[2]);
    assert_eq!(
        (conflict.reason(), conflict.conflicting_sequence),
        (Reason::ConflictingPayload, 2)
    );
    node.stop().await;
}
