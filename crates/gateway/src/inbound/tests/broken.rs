//! What is not MLLP, or not HL7.

use super::*;

fn limits() -> InboundConfig {
    InboundConfig {
        payload_bytes: 2_000,
        ..InboundConfig::default()
    }
}

#[tokio::test]
async fn what_is_framed_well_and_is_no_message_is_rejected_and_the_connection_goes_on() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    let cases = [
        (
            "hello",
            "",
            "not HL7: the message begins with 0x68, not with an MSH segment",
        ),
        ("", "", "not HL7: the message is empty"),
        (
            "MSH|^~\\&|A|B|C|D|||ORM^O01||P|2.5",
            "",
            "MSH-10 message control id is missing",
        ),
        (
            "MSH|^~\\&|A|B",
            "",
            "MSH-10 message control id is missing: the MSH segment ends at MSH-4",
        ),
        ("BHS|^~\\&|A|B", "", "the message is an HL7 batch"),
    ];
    for (sent, control_id, text) in cases {
        sender.send(sent).await.unwrap();
        let ack = reply(&mut sender).await.expect("a reply");
        assert_eq!(
            (ack.code, &ack.control_id[..]),
            (AckCode::ApplicationReject, control_id.as_bytes())
        );
        assert!(ack.text.starts_with(text), "{}", ack.text);
    }
    sender.send(message("RAD-1")).await.unwrap();
    bench.request().await.accept(1);
    assert_eq!(
        code(&mut sender).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
}

#[tokio::test]
async fn an_oversized_message_is_rejected_even_while_it_is_still_being_sent() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut huge = message("RAD-1").to_vec();
    huge.resize(4_000_000, b'x');
    let writing = tokio::spawn(async move {
        // The other side may close before all is written.
        let _ = writer.write_all(&framed(&huge)).await;
    });
    let mut replies = tokio_util::codec::FramedRead::new(reader, MllpCodec::default());
    let frame = timeout(LIMIT, replies.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let ack = ReceivedAck::read(&frame).unwrap();
    assert_eq!(
        (ack.code, &ack.control_id[..]),
        (AckCode::ApplicationReject, &b"RAD-1"[..])
    );
    assert_eq!(
        ack.text,
        "the MLLP frame begun at byte 0 is larger than the limit of 2000 bytes"
    );
    writing.await.unwrap();
    assert!(bench.is_quiet().await);
}

#[tokio::test]
async fn a_frame_that_breaks_is_answered_with_an_error_and_ends_the_connection() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let whole = framed(&message("RAD-1"));
    let half = &whole[..whole.len() / 2];
    let cases = [
        (half.to_vec(), "the connection ended"),
        ([half, &whole].concat(), "a new MLLP frame began (0x0b)"),
        (
            [&whole[..whole.len() - 1], b"x"].concat(),
            "the end of an MLLP frame (0x1c) must be followed by 0x0d",
        ),
    ];
    for (sent, text) in cases {
        let mut sender = connect(address).await;
        sender.get_mut().write_all(&sent).await.unwrap();
        sender.get_mut().shutdown().await.unwrap();
        let ack = reply(&mut sender).await.expect("a reply");
        assert_eq!(
            (ack.code, &ack.control_id[..]),
            (AckCode::ApplicationError, &b"RAD-1"[..])
        );
        assert!(ack.text.starts_with(text), "{}", ack.text);
        assert!(reply(&mut sender).await.is_none(), "the connection goes on");
    }
    assert!(bench.is_quiet().await);
}

#[tokio::test]
async fn a_frame_before_the_broken_one_is_not_affected() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let mut sender = connect(address).await;
    let sent = [&framed(&message("RAD-1"))[..], b"garbage"].concat();
    sender.get_mut().write_all(&sent).await.unwrap();
    bench.request().await.accept(1);
    assert_eq!(
        code(&mut sender).await,
        (AckCode::ApplicationAccept, "RAD-1".to_owned())
    );
    assert!(reply(&mut sender).await.is_none());
}

#[tokio::test]
async fn nobody_is_answered_where_no_header_says_whom() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let whole = framed(&message("RAD-12345"));
    // Cut within MSH-10: an answer would name another message.
    let within = whole.windows(4).position(|bytes| bytes == b"RAD-").unwrap() + 6;
    for sent in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x0bnot HL7\rat all\x0b",
        &whole[..within],
        b"\r\n",
    ] {
        let mut sender = connect(address).await;
        sender.get_mut().write_all(sent).await.unwrap();
        sender.get_mut().shutdown().await.unwrap();
        assert!(reply(&mut sender).await.is_none());
    }
    assert!(bench.is_quiet().await);
}
