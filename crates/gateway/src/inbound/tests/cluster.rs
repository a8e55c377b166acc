//! What the cluster says, and what the sender hears.

use super::*;

fn limits() -> InboundConfig {
    InboundConfig::default()
}

#[tokio::test]
async fn a_message_is_handed_over_unchanged_and_accepted_once_the_cluster_has_it() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    for (number, control_id) in ["RAD-1", "RAD-2"].into_iter().enumerate() {
        let sent = message(control_id);
        sender.send(sent.clone()).await.unwrap();
        let request = bench.request().await;
        assert_eq!(request.payload, sent);
        assert_eq!(request.id, Msh::scan(&sent).unwrap().message_id().unwrap());
        assert!(
            is_silent(&mut sender).await,
            "it was accepted before the cluster had it"
        );
        request.accept(number as u64 + 1);
        assert_eq!(
            code(&mut sender).await,
            (AckCode::ApplicationAccept, control_id.to_owned())
        );
    }
}

#[tokio::test]
async fn two_frames_in_one_packet_are_two_messages_one_after_the_other() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    let both = [framed(&message("RAD-1")), framed(&message("RAD-2"))].concat();
    sender.get_mut().write_all(&both).await.unwrap();
    let first = bench.request().await;
    assert_eq!(first.payload, message("RAD-1"));
    assert!(
        bench.is_quiet().await,
        "the second was taken up before the reply to the first"
    );
    first.accept(1);
    assert_eq!(code(&mut sender).await.1, "RAD-1");
    let second = bench.request().await;
    assert_eq!(second.payload, message("RAD-2"));
    second.accept(2);
    assert_eq!(code(&mut sender).await.1, "RAD-2");
}

#[tokio::test]
async fn a_frame_in_a_thousand_pieces_is_one_message() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    let frame = framed(&message("RAD-1"));
    assert!(frame.len() > 1_000);
    for byte in frame {
        sender.get_mut().write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let request = bench.request().await;
    assert_eq!(request.payload, message("RAD-1"));
    request.accept(1);
    assert_eq!(
        code(&mut sender).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
}

#[tokio::test]
async fn a_duplicate_is_accepted_again() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    for duplicate in [false, true] {
        sender.send(message("RAD-1")).await.unwrap();
        bench.request().await.answer(Ok(Accepted {
            sequence: 1,
            duplicate,
        }));
        assert_eq!(
            code(&mut sender).await,
            (AckCode::ApplicationAccept, "RAD-1".to_owned())
        );
    }
}

#[tokio::test]
async fn a_refusal_for_good_is_told_with_its_reason_and_whether_sending_again_helps() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    let unknown = SendError::OutcomeUnknown(Box::new(tonic::Status::unavailable("gone").into()));
    let cases: [(Answer, Verdict, &str); 7] = [
        (
            refused(Reason::ConflictingPayload, "x"),
            Verdict::Reject,
            "conflict: another message with the same MSH-3, MSH-4 and MSH-10",
        ),
        (
            refused(
                Reason::TooLarge,
                "payload has 9 bytes, past the 8 of interface RAD",
            ),
            Verdict::Reject,
            "payload has 9 bytes, past the 8",
        ),
        (refused(Reason::InvalidField, "no"), Verdict::Reject, "no"),
        (
            refused(Reason::UnknownInterface, "x"),
            Verdict::Error,
            "interface RAD does not exist",
        ),
        (
            refused(Reason::CapReached, "1,000 producers"),
            Verdict::Error,
            "1,000 producers",
        ),
        (
            Err(unknown),
            Verdict::Error,
            "it is not known whether the message was accepted",
        ),
        (
            Err(SendError::Closed),
            Verdict::Error,
            "the gateway is stopping",
        ),
    ];
    for (number, (answer, verdict, text)) in cases.into_iter().enumerate() {
        let (control_id, enhanced) = (format!("RAD-{number}"), number % 2 == 1);
        let mode = if enhanced { "AL" } else { "" };
        sender
            .send(message_in_mode(&control_id, mode))
            .await
            .unwrap();
        bench.request().await.answer(answer);
        let ack = reply(&mut sender).await.unwrap();
        assert_eq!(ack.control_id, control_id.as_bytes());
        assert!(ack.text.starts_with(text), "{}", ack.text);
        let expected = match (verdict, enhanced) {
            (Verdict::Reject, false) => AckCode::ApplicationReject,
            (Verdict::Reject, true) => AckCode::CommitReject,
            (_, false) => AckCode::ApplicationError,
            (_, true) => AckCode::CommitError,
        };
        assert_eq!(ack.code, expected);
    }
}

#[tokio::test]
async fn a_sender_that_wants_no_reply_gets_none() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    sender.send(message_in_mode("RAD-1", "NE")).await.unwrap();
    bench.request().await.accept(1);
    sender.send(message_in_mode("RAD-2", "ER")).await.unwrap();
    bench.request().await.accept(2);
    sender.send(message_in_mode("RAD-3", "ER")).await.unwrap();
    bench
        .request()
        .await
        .answer(refused(Reason::InvalidField, "no"));
    assert_eq!(
        code(&mut sender).await,
        (AckCode::CommitReject, "RAD-3".to_owned())
    );
}

#[tokio::test]
async fn a_repeat_whose_first_try_is_delayed_joins_it() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let (mut first, mut second) = (connect(address).await, connect(address).await);
    first.send(message("RAD-1")).await.unwrap();
    let request = bench.request().await;
    second.send(message("RAD-1")).await.unwrap();
    assert!(bench.is_quiet().await, "it was handed over twice");
    // The same identity with other bytes is for the cluster to judge.
    let mut other = connect(address).await;
    let changed = Bytes::from([&message("RAD-1")[..], b"NTE|1\r"].concat());
    other.send(changed.clone()).await.unwrap();
    let conflict = bench.request().await;
    assert_eq!((conflict.id, &conflict.payload), (request.id, &changed));
    request.accept(1);
    conflict.answer(refused(Reason::ConflictingPayload, "x"));
    assert_eq!(code(&mut first).await.0, AckCode::ApplicationAccept);
    assert_eq!(code(&mut second).await.0, AckCode::ApplicationAccept);
    assert_eq!(code(&mut other).await.0, AckCode::ApplicationReject);
    // It is not on its way any more: the next repeat is the cluster's to recognize.
    second.send(message("RAD-1")).await.unwrap();
    bench.request().await.answer(Ok(Accepted {
        sequence: 1,
        duplicate: true,
    }));
    assert_eq!(code(&mut second).await.0, AckCode::ApplicationAccept);
}

#[tokio::test]
async fn a_message_goes_on_without_its_sender() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    sender.send(message("RAD-1")).await.unwrap();
    let request = bench.request().await;
    drop(sender);
    let mut sender = connect(address).await;
    sender.send(message("RAD-1")).await.unwrap();
    assert!(bench.is_quiet().await, "it was handed over twice");
    request.accept(1);
    assert_eq!(
        code(&mut sender).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_room_is_dropped_with_its_sender() {
    let mut bench = Bench::new(limits());
    bench.room.forget_permits(1_000);
    let mut sender = Framed::new(bench.connect(), MllpCodec::default());
    sender.send(message("RAD-1")).await.unwrap();
    assert!(is_silent(&mut sender).await);
    drop(sender);
    bench.inbound.tasks.close();
    timeout(Duration::from_secs(60), bench.inbound.tasks.wait())
        .await
        .expect("the connection to end");
    bench.room.add_permits(1);
    assert!(bench.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_ended_its_side_gets_its_reply_in_time_or_not_at_all() {
    let mut bench = Bench::new(limits());
    for patience in [Duration::from_secs(29), Duration::from_secs(31)] {
        let mut sender = Framed::new(bench.connect(), MllpCodec::default());
        sender.send(message("RAD-1")).await.unwrap();
        sender.get_mut().shutdown().await.unwrap();
        let request = bench.request().await;
        tokio::time::advance(patience).await;
        let in_time = patience < limits().frame;
        assert_eq!(timeout(SILENCE, sender.next()).await.is_err(), in_time);
        request.accept(1);
        if in_time {
            assert_eq!(code(&mut sender).await.0, AckCode::ApplicationAccept);
        }
        assert!(reply(&mut sender).await.is_none());
    }
}
