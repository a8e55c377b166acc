//! The kinds of input of `mllp-cases`: its files where the folder is at hand, and their variants.

use std::path::Path;

use super::*;
use crate::config::{Batch, FieldName, Identity};

/// The bytes of an input; `None`, with a message, where the folder is missing.
fn case(name: &str) -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mllp-cases");
    if !folder.is_dir() {
        eprintln!("skipped: the inputs are not in ../shared/data/mllp-cases");
        return None;
    }
    Some(std::fs::read(folder.join(format!("{name}.bin"))).unwrap())
}

/// Sends an input and takes as many messages and replies as are expected, each message accepted.
struct Exchange {
    payloads: Vec<Bytes>,
    ids: Vec<Uuid>,
    digests: Vec<Option<[u8; 16]>>,
    replies: Vec<(AckCode, String, String)>,
    refusals: Vec<crate::refusals::Refused>,
}

impl Exchange {
    /// The sender keeps its side open; nothing may come beyond the replies.
    async fn of(bytes: &[u8], messages: MessageConfig, replies: usize) -> Self {
        let bench = Bench::reading(InboundConfig::default(), messages);
        let (mut bench, address) = bench.open().await;
        let mut sender = connect(address).await;
        sender.get_mut().write_all(bytes).await.unwrap();
        let mut exchange = Self {
            payloads: Vec::new(),
            ids: Vec::new(),
            digests: Vec::new(),
            replies: Vec::new(),
            refusals: Vec::new(),
        };
        while exchange.replies.len() < replies {
            tokio::select! {
                request = bench.request() => exchange.accept(request),
                ack = reply(&mut sender) => {
                    let ack = ack.expect("a reply");
                    let id = String::from_utf8_lossy(&ack.control_id).into_owned();
                    exchange.replies.push((ack.code, id, ack.text));
                }
            }
        }
        assert!(bench.is_quiet().await && is_silent(&mut sender).await);
        exchange.refusals = bench.inbound.refusals.list();
        exchange
    }

    fn accept(&mut self, request: Request) {
        self.payloads.push(request.payload.clone());
        self.ids.push(request.id);
        self.digests.push(request.digest);
        request.accept(self.payloads.len() as u64);
    }

    fn codes(&self) -> Vec<(AckCode, &str)> {
        let codes = self
            .replies
            .iter()
            .map(|(code, id, _)| (*code, id.as_str()));
        codes.collect()
    }
}

fn accepts<'a>(ids: &[&'a str]) -> Vec<(AckCode, &'a str)> {
    ids.iter()
        .map(|id| (AckCode::ApplicationAccept, *id))
        .collect()
}

async fn is_accepted(name: &str, ids: &[&str]) -> Option<Exchange> {
    let bytes = case(name)?;
    let exchange = Exchange::of(&bytes, MessageConfig::default(), ids.len()).await;
    assert_eq!(exchange.codes(), accepts(ids), "{name}");
    // Passed on as it came.
    for payload in &exchange.payloads {
        assert!(bytes.windows(payload.len()).any(|window| window == payload));
        assert!(payload.len() > 100, "{name}");
    }
    assert_eq!(exchange.refusals, []);
    Some(exchange)
}

#[tokio::test]
async fn framing_faults_that_are_understood_are_forgiven() {
    is_accepted("in-01-frames-ended-fs-cr-lf", &["A0", "A1", "A2"]).await;
    is_accepted("in-02-crlf-before-first-vt", &["D0"]).await;
    is_accepted("in-03-nul-between-frames", &["C0", "C1"]).await;
    is_accepted("in-04-fs-without-cr", &["F1", "F2"]).await;
}

#[tokio::test]
async fn a_mark_before_the_header_is_passed_on_and_not_read() {
    let Some(exchange) = is_accepted("in-05-bom-inside-frame", &["G0"]).await else {
        return;
    };
    assert!(exchange.payloads[0].starts_with(b"\xef\xbb\xbfMSH|"));
}

#[tokio::test]
async fn every_way_to_end_and_begin_a_frame_is_understood_in_every_place() {
    let order = |n: usize| message(&format!("RAD-{n}"));
    for before in [&b""[..], b"\r\n", b"\0", b"\xef\xbb\xbf", b"\n \t\r"] {
        for end in [&b"\x1c\r"[..], b"\x1c\n", b"\x1c\r\n", b"\x1c", b"\x1c\0"] {
            let frame = |n: usize| [before, b"\x0b", &order(n), end].concat();
            let bytes: Vec<u8> = (0..3).flat_map(frame).collect();
            let exchange = Exchange::of(&bytes, MessageConfig::default(), 3).await;
            assert_eq!(exchange.codes(), accepts(&["RAD-0", "RAD-1", "RAD-2"]));
            assert_eq!(exchange.payloads, [order(0), order(1), order(2)]);
        }
    }
}

#[tokio::test]
async fn two_messages_in_a_frame_are_refused_or_split_and_never_one() {
    let Some(bytes) = case("in-07-two-msh-in-a-frame") else {
        return;
    };
    let refused = Exchange::of(&bytes, MessageConfig::default(), 1).await;
    assert_eq!(refused.codes(), [(AckCode::ApplicationReject, "J0")]);
    assert!(refused.replies[0].2.contains("holds 2 messages"));
    assert!(refused.payloads.is_empty());
    assert_eq!(refused.refusals[0].control_id, "J0");
    let split = Exchange::of(&bytes, splitting(), 2).await;
    assert_eq!(split.codes(), accepts(&["J0", "J1"]));
    assert_eq!(split.payloads.concat(), bytes[1..bytes.len() - 2]);
}

fn splitting() -> MessageConfig {
    MessageConfig {
        batch: Batch::Split,
        ..MessageConfig::default()
    }
}

#[tokio::test]
async fn a_batch_is_answered_by_a_batch_and_each_of_its_messages_by_itself() {
    let orders: Vec<_> = (0..120).map(|n| message(&format!("RAD-{n}"))).collect();
    let bare = orders.concat();
    let bytes = framed(&bare);
    let exchange = Exchange::of(&bytes, splitting(), 120).await;
    assert_eq!(exchange.payloads, orders);
    let batch = [
        b"BHS|^~\\&|HIS|WARD|LIS|LAB|||||B7\r",
        &bare[..],
        b"BTS|120\r",
    ]
    .concat();
    let exchange = Exchange::of(&framed(&batch), MessageConfig::default(), 1).await;
    assert_eq!(exchange.codes(), [(AckCode::ApplicationReject, "RAD-0")]);
    assert!(exchange.replies[0].2.contains("of 120 messages"));

    let (mut bench, address) = Bench::reading(InboundConfig::default(), splitting())
        .open()
        .await;
    let mut sender = connect(address).await;
    sender.send(Bytes::from(batch)).await.unwrap();
    for (n, order) in orders.iter().enumerate() {
        let request = bench.request().await;
        assert_eq!(request.payload, order);
        match n {
            7 => request.answer(refused(Reason::InvalidField, "no")),
            _ => request.accept(1),
        }
    }
    let reply = timeout(LIMIT, sender.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let text = String::from_utf8(reply.to_vec()).unwrap();
    let segments: Vec<_> = text.trim_end().split('\r').collect();
    assert!(segments[0].starts_with("BHS|^~\\&|LIS|LAB|HIS|WARD|") && segments[0].ends_with("|B7"));
    assert_eq!(segments.last(), Some(&"BTS|120"));
    let msas: Vec<_> = segments
        .iter()
        .filter(|segment| segment.starts_with("MSA"))
        .collect();
    assert_eq!(msas.len(), 120);
    assert_eq!((*msas[6], *msas[7]), ("MSA|AA|RAD-6", "MSA|AR|RAD-7|no"));
}

#[tokio::test]
async fn a_sender_that_asks_for_an_application_reply_alone_gets_it() {
    let Some(bytes) = case("in-08-ne-al-without-msh10") else {
        return;
    };
    let exchange = Exchange::of(&bytes, MessageConfig::default(), 1).await;
    assert_eq!(exchange.codes(), [(AckCode::ApplicationReject, "")]);
    assert_eq!(exchange.refusals.len(), 1);
    assert_eq!(
        exchange.refusals[0].reason,
        "MSH-10 message control id is missing"
    );
    assert_eq!(exchange.refusals[0].interface, "RAD");
    assert!(exchange.refusals[0].peer.starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_refusal_that_nobody_wants_to_hear_of_leaves_a_row() {
    let order = message_in_mode("", "NE");
    let (bench, address) = Bench::listen(InboundConfig::default()).await;
    let mut sender = connect(address).await;
    sender.send(order).await.unwrap();
    assert!(is_silent(&mut sender).await);
    let rows = bench.inbound.refusals.list();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].reason, "MSH-10 message control id is missing");
}

#[tokio::test]
async fn utf_16_is_refused_by_its_name() {
    let Some(bytes) = case("in-09-utf16le-without-bom") else {
        return;
    };
    let exchange = Exchange::of(&bytes, MessageConfig::default(), 1).await;
    assert_eq!(exchange.codes(), [(AckCode::ApplicationReject, "")]);
    assert!(exchange.replies[0].2.contains("UTF-16"));
}

#[tokio::test]
async fn a_name_in_a_set_of_two_bytes_shifts_no_field() {
    let Some(bytes) = case("in-10-msh4-iso2022jp") else {
        return;
    };
    is_accepted("in-10-msh4-iso2022jp", &["V1"]).await;
    // Where MSH-18 is silent the listener says it.
    let silent = String::from_utf8(bytes).unwrap().replace("~ISO IR87", "");
    let messages = MessageConfig {
        charset: crate::charset::Charset::named(b"ISO IR87"),
        ..MessageConfig::default()
    };
    let exchange = Exchange::of(silent.as_bytes(), messages, 1).await;
    assert_eq!(exchange.codes(), accepts(&["V1"]));
}

#[tokio::test]
async fn a_repetition_is_what_the_listener_says_it_is() {
    let Some(bytes) = case("in-11-same-msh10-new-msh7") else {
        return;
    };
    let reading = |identity, ignored: &[&str]| MessageConfig {
        identity,
        ignored: ignored
            .iter()
            .map(|name| FieldName::parse(name).unwrap())
            .collect(),
        ..MessageConfig::default()
    };
    let known_alike = async |messages| {
        let exchange = Exchange::of(&bytes, messages, 2).await;
        assert_ne!(exchange.payloads[0], exchange.payloads[1]);
        (
            exchange.ids[0] == exchange.ids[1],
            exchange.digests[0] == exchange.digests[1],
        )
    };
    // The same id with another digest is a conflict, which the cluster finds.
    assert_eq!(
        known_alike(reading(Identity::ControlId, &[])).await,
        (true, false)
    );
    assert_eq!(
        known_alike(reading(Identity::ControlId, &["MSH-7"])).await,
        (true, true)
    );
    let timed = known_alike(reading(Identity::ControlIdAndTime, &[])).await;
    assert!(!timed.0);
    assert!(!known_alike(reading(Identity::Content, &[])).await.0);
    assert_eq!(
        known_alike(reading(Identity::Content, &["MSH-7"])).await,
        (true, true)
    );
    assert!(!known_alike(reading(Identity::None, &["MSH-7"])).await.0);
}

#[tokio::test]
async fn an_incoming_acknowledgement_is_passed_on_and_not_acknowledged() {
    let (mut bench, address) = Bench::listen(InboundConfig::default()).await;
    let mut sender = connect(address).await;
    for text in [
        "MSH|^~\\&|A|B|C|D|||ACK^O01|7|P|2.5\rMSA|AA|1\r",
        "MSH|^~\\&|A|B|C|D|||ORR^O02|8|P|2.5\rMSA|AA|1\r",
    ] {
        sender.send(text).await.unwrap();
        bench.request().await.accept(1);
        assert!(is_silent(&mut sender).await);
    }
}
