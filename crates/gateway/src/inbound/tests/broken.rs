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
async fn a_frame_that_is_cut_is_answered_with_an_error_and_ends_the_connection() {
    let (mut bench, address) = Bench::listen(limits()).await;
    let whole = framed(&message("RAD-1"));
    let half = &whole[..whole.len() / 2];
    let cases = [
        (half.to_vec(), "the connection ended"),
        (whole[..whole.len() - 2].to_vec(), "the connection ended"),
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
    let sent = [&framed(&message("RAD-1"))[..], &[0; 65]].concat();
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

/// What may be broken about an order, the words that name it, and whether the reply can name the order.
fn faults(control_id: &str) -> Vec<(Vec<u8>, &'static str, bool)> {
    let order = message(control_id);
    let with = |bytes: &[u8]| framed(&[&order[..], bytes].concat());
    let utf_16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>()
    };
    let text = String::from_utf8(order.to_vec()).unwrap();
    let begun = [b"\x0b", &order[..]].concat();
    vec![
        (
            [b"text", &framed(&order)[..]].concat(),
            "expected the start of an MLLP frame (0x0b)",
            true,
        ),
        (
            [&order[..], b"\x1c\r"].concat(),
            "expected the start of an MLLP frame (0x0b)",
            true,
        ),
        (framed(&utf_16(&text)), "the message is in UTF-16", false),
        (
            framed(&[b"\xff\xfe", &utf_16(&text)[..]].concat()),
            "the message is in UTF-16",
            false,
        ),
        (
            utf_16(&format!("\u{feff}\u{b}{text}\u{1c}\r")),
            "UTF-16",
            false,
        ),
        (
            utf_16(&format!("\u{b}{text}\u{1c}\r")),
            "the message is in UTF-16",
            false,
        ),
        (
            with(b"NTE|1||a\x07b\r"),
            "a control byte inside the text of the message: 0x07",
            true,
        ),
        (
            with(b"NTE|1||a\0b\r"),
            "a control byte inside the text of the message: 0x00",
            true,
        ),
        (
            with(b"NTE|1||a\x0bb\r"),
            "a control byte inside the text of an MLLP frame: 0x0b",
            true,
        ),
        (
            with(b"NTE|1||a\x1cb\r"),
            "a control byte inside the text of an MLLP frame",
            true,
        ),
        (begun, "a frame within a frame", true),
    ]
}

#[tokio::test]
async fn what_is_refused_is_named_and_the_orders_around_it_are_answered() {
    let mut sent = 0;
    for pipelined in [false, true] {
        for place in 0..3 {
            for fault in 0..faults("").len() {
                let (mut bench, address) = Bench::listen(InboundConfig::default()).await;
                let mut sender = connect(address).await;
                let (bytes, words, is_named) = faults("BAD").swap_remove(fault);
                let mut frames: Vec<_> = (0..2)
                    .map(|n| framed(&message(&format!("OK-{n}"))))
                    .collect();
                // A frame that another must follow to be broken is last in no place.
                if words == "a frame within a frame" && place == 2 {
                    continue;
                }
                frames.insert(place, bytes);
                if pipelined || words == "a frame within a frame" {
                    frames = vec![frames.concat()];
                }
                let mut replies = Vec::new();
                for frame in frames {
                    sender.get_mut().write_all(&frame).await.unwrap();
                    while replies.len() < 3 {
                        tokio::select! {
                            request = bench.request() => request.accept(1),
                            ack = reply(&mut sender) => {
                                replies.push(ack.expect("a reply"));
                                if !pipelined && words != "a frame within a frame" {
                                    break;
                                }
                            }
                        }
                    }
                }
                let case = format!("{words}, place {place}, pipelined {pipelined}");
                let refused = replies.remove(place);
                assert_eq!(refused.code, AckCode::ApplicationReject, "{case}");
                assert!(refused.text.starts_with(words), "{case}: {}", refused.text);
                assert_eq!(
                    refused.control_id,
                    if is_named { &b"BAD"[..] } else { b"" },
                    "{case}"
                );
                for (n, ack) in replies.iter().enumerate() {
                    assert_eq!(ack.code, AckCode::ApplicationAccept, "{case}");
                    assert_eq!(ack.control_id, format!("OK-{n}").as_bytes(), "{case}");
                }
                let rows = bench.inbound.refusals.list();
                assert_eq!(rows.len(), 1, "{case}");
                assert_eq!(
                    rows[0].control_id,
                    if is_named { "BAD" } else { "" },
                    "{case}"
                );
                assert!(rows[0].reason.starts_with(words), "{case}");
                sent += 1;
            }
        }
    }
    assert_eq!(sent, 2 * (3 * 11 - 1));
}

#[tokio::test(start_paused = true)]
async fn an_order_without_a_frame_is_refused_after_a_silence() {
    let mut bench = Bench::new(limits());
    let mut sender = Framed::new(bench.connect(), MllpCodec::default());
    sender.get_mut().write_all(&message("RAD-1")).await.unwrap();
    let ack = reply(&mut sender).await.expect("a reply");
    assert_eq!(
        (ack.code, &ack.control_id[..]),
        (AckCode::ApplicationReject, &b"RAD-1"[..])
    );
    assert!(ack.text.ends_with(": text before a frame"), "{}", ack.text);
    assert!(reply(&mut sender).await.is_none(), "the connection goes on");
    assert!(bench.is_quiet().await);
}
