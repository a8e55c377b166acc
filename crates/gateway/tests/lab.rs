//! The simulated laboratory over real sockets, with the codec as its client.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ordo_gateway::ack::{AckCode, ReceivedAck};
use ordo_gateway::lab::{Lab, LabAnswer, LabConfig, UNNUMBERED};
use ordo_gateway::mllp::MllpCodec;
use ordo_gateway::msh::Msh;
use ordo_gateway::orders::{Order, OrderGenerator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::Framed;

const LIMIT: Duration = Duration::from_secs(10);
/// How long silence is listened to before it counts as silence.
const SILENCE: Duration = Duration::from_millis(150);

type Connection = Framed<TcpStream, MllpCodec>;

async fn connect(lab: &Lab) -> Connection {
    Framed::new(
        TcpStream::connect(lab.address()).await.unwrap(),
        MllpCodec::default(),
    )
}

async fn send(connection: &mut Connection, payload: &Bytes) {
    connection.send(payload.clone()).await.unwrap();
}

/// `None` where the laboratory closed the connection.
async fn reply(connection: &mut Connection) -> Option<ReceivedAck> {
    let frame = timeout(LIMIT, connection.next())
        .await
        .expect("a reply in time")?;
    frame.ok().map(|frame| ReceivedAck::read(&frame).unwrap())
}

async fn exchange(connection: &mut Connection, order: &Order) -> ReceivedAck {
    send(connection, &order.payload).await;
    reply(connection).await.expect("a reply")
}

fn ids(orders: &[Order]) -> Vec<String> {
    orders
        .iter()
        .map(|order| order.control_id.clone())
        .collect()
}

fn orders(prefix: &str, count: usize) -> Vec<Order> {
    OrderGenerator::new(prefix, 1).take(count).collect()
}

#[tokio::test]
async fn orders_are_filed_in_order_and_acknowledged_by_control_id() {
    let lab = Lab::start(LabConfig {
        keep_messages: true,
        ..LabConfig::default()
    })
    .await
    .unwrap();
    let (rad, chem) = (orders("RAD", 20), orders("CHEM", 20));
    let mut connection = connect(&lab).await;
    for order in rad.iter().zip(&chem).flat_map(|(a, b)| [a, b]) {
        let ack = exchange(&mut connection, order).await;
        assert_eq!(ack.code, AckCode::ApplicationAccept);
        assert!(ack.answers(&Msh::scan(&order.payload).unwrap()));
    }
    for (name, sent) in [("RAD", &rad), ("CHEM", &chem)] {
        let judgement = lab.judge(name, &ids(sent));
        assert!(judgement.is_clean(), "{judgement:?}");
        assert_eq!(
            (judgement.expected, judgement.filed, judgement.repeats),
            (20, 20, 0)
        );
        let payloads: Vec<_> = sent.iter().map(|order| order.payload.clone()).collect();
        assert_eq!(lab.messages(name), payloads);
        let seen = lab.summary().interfaces[name];
        assert_eq!(
            (seen.received, seen.filed, seen.in_order, seen.missing),
            (20, 20, 20, 0)
        );
    }
    assert_eq!(lab.summary().filed(), 40);
}

#[tokio::test]
async fn repeats_are_acknowledged_again_and_have_no_effect() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let sent = orders("RAD", 3);
    let mut connection = connect(&lab).await;
    for order in [&sent[0], &sent[1], &sent[0], &sent[1], &sent[2]] {
        assert_eq!(
            exchange(&mut connection, order).await.code,
            AckCode::ApplicationAccept
        );
    }
    let judgement = lab.judge("RAD", &ids(&sent));
    assert!(judgement.is_clean(), "{judgement:?}");
    assert_eq!(judgement.repeats, 2);
    assert_eq!(lab.filed("RAD"), ids(&sent));
}

#[tokio::test]
async fn a_laboratory_that_keeps_repeats_counts_duplicated_effects() {
    let lab = Lab::start(LabConfig {
        discard_repeats: false,
        ..LabConfig::default()
    })
    .await
    .unwrap();
    let sent = orders("RAD", 2);
    let mut connection = connect(&lab).await;
    for order in [&sent[0], &sent[0], &sent[1]] {
        exchange(&mut connection, order).await;
    }
    let judgement = lab.judge("RAD", &ids(&sent));
    assert_eq!(judgement.duplicated_effects, 1);
    assert!(!judgement.is_clean());
}

#[tokio::test]
async fn the_same_order_under_another_control_id_is_a_duplicated_effect() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let order = orders("RAD", 1).remove(0);
    let text = String::from_utf8(order.payload.to_vec()).unwrap();
    let again = Order {
        payload: text.replace("RAD-000001", "RAD-000002").into(),
        ..order.clone()
    };
    let mut connection = connect(&lab).await;
    exchange(&mut connection, &order).await;
    exchange(&mut connection, &again).await;
    assert_eq!(lab.summary().interfaces["RAD"].duplicated_effects, 1);
}

#[tokio::test]
async fn disorder_loss_and_intruders_are_told_from_skips() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let sent = orders("RAD", 6);
    let mut connection = connect(&lab).await;
    // 1 3 2 6: 4 and 5 never come.
    for index in [0, 2, 1, 5] {
        exchange(&mut connection, &sent[index]).await;
    }
    let seen = lab.summary().interfaces["RAD"];
    assert_eq!((seen.in_order, seen.out_of_order, seen.missing), (3, 1, 2));
    // 4 was skipped, 5 should have come, 6 should have been skipped.
    let expected: Vec<_> = [0, 1, 2, 4]
        .map(|index| sent[index].control_id.clone())
        .into();
    let judgement = lab.judge("RAD", &expected);
    assert_eq!(judgement.lost, ["RAD-000005"]);
    assert_eq!(judgement.unexpected, ["RAD-000006"]);
    assert_eq!(judgement.out_of_order, 1);
    assert!(!judgement.is_clean());
    assert_eq!(lab.judge("CHEM", &expected).lost.len(), 4);
}

#[tokio::test]
async fn it_can_be_taken_down_and_up_again_on_its_port() {
    let mut lab = Lab::start(LabConfig::default()).await.unwrap();
    let sent = orders("RAD", 4);
    let address = lab.address();
    for round in 0..2 {
        let mut connection = connect(&lab).await;
        exchange(&mut connection, &sent[round * 2]).await;
        lab.down().await;
        assert!(!lab.is_up());
        assert!(reply(&mut connection).await.is_none());
        assert!(TcpStream::connect(address).await.is_err());
        lab.up().await.unwrap();
        assert_eq!(lab.address(), address);
        let mut connection = connect(&lab).await;
        exchange(&mut connection, &sent[round * 2 + 1]).await;
    }
    assert!(lab.judge("RAD", &ids(&sent)).is_clean());
}

#[tokio::test]
async fn it_answers_whatever_it_is_told_to() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let order = orders("RAD", 1).remove(0);
    let header = Msh::scan(&order.payload).unwrap();
    lab.answer_with(|message| {
        assert_eq!(
            (message.interface, message.control_id),
            ("RAD", "RAD-000001")
        );
        match message.earlier {
            0 => LabAnswer::Error("busy".into()),
            1 => LabAnswer::Reject("no such patient".into()),
            2 => LabAnswer::Mismatch,
            3 => LabAnswer::Silence,
            4 => LabAnswer::FileSilently,
            5 => LabAnswer::FileAndClose,
            _ => LabAnswer::Accept,
        }
    });
    let mut connection = connect(&lab).await;
    let ack = exchange(&mut connection, &order).await;
    assert_eq!(
        (ack.code, ack.text.as_str()),
        (AckCode::ApplicationError, "busy")
    );
    let ack = exchange(&mut connection, &order).await;
    assert_eq!(
        (ack.code, ack.text.as_str()),
        (AckCode::ApplicationReject, "no such patient")
    );
    let ack = exchange(&mut connection, &order).await;
    assert_eq!(
        (ack.code, ack.answers(&header)),
        (AckCode::ApplicationAccept, false)
    );
    for (received, filed) in [(4, 0), (5, 1)] {
        send(&mut connection, &order.payload).await;
        assert!(
            lab.wait_until(LIMIT, |summary| summary.interfaces["RAD"].received
                == received)
                .await
        );
        assert_eq!(lab.summary().filed(), filed);
        assert!(
            timeout(SILENCE, connection.next()).await.is_err(),
            "it spoke"
        );
    }
    send(&mut connection, &order.payload).await;
    assert!(
        reply(&mut connection).await.is_none(),
        "it should have closed"
    );
    let mut connection = connect(&lab).await;
    assert!(exchange(&mut connection, &order).await.answers(&header));
    let seen = lab.summary().interfaces["RAD"];
    assert_eq!(
        (
            seen.received,
            seen.filed,
            seen.repeats,
            seen.refused,
            seen.unanswered
        ),
        (7, 1, 6, 2, 4)
    );
    assert_eq!(seen.duplicated_effects, 0);
}

#[tokio::test]
async fn it_answers_as_other_laboratories_do() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let order = orders("RAD", 1).remove(0);
    lab.answer_with(|message| match message.earlier {
        0 => LabAnswer::AcceptTwice,
        1 => LabAnswer::CommitThen(AckCode::ApplicationError),
        2 => LabAnswer::AcceptLate(Duration::from_millis(1)),
        3 => LabAnswer::Bytes(Bytes::from_static(b"\x0bMSH|^~\\&|LIS\rMSA|AR|X\r\x1c\r")),
        4 => LabAnswer::AcceptAndClose,
        _ => LabAnswer::Drop,
    });
    let mut connection = connect(&lab).await;
    let (accept, commit) = (AckCode::ApplicationAccept, AckCode::CommitAccept);
    let expected = [
        &[accept, accept][..],
        &[commit, AckCode::ApplicationError],
        &[accept],
        &[AckCode::ApplicationReject],
        &[accept],
    ];
    for codes in expected {
        send(&mut connection, &order.payload).await;
        for code in codes {
            assert_eq!(reply(&mut connection).await.unwrap().code, *code);
        }
    }
    assert!(reply(&mut connection).await.is_none());
    let mut connection = connect(&lab).await;
    send(&mut connection, &order.payload).await;
    assert!(reply(&mut connection).await.is_none());
    let seen = lab.summary().interfaces["RAD"];
    assert_eq!((seen.received, seen.filed, seen.unanswered), (6, 1, 1));
}

#[tokio::test]
async fn what_is_not_hl7_is_rejected_and_what_is_not_mllp_ends_the_connection() {
    let lab = Lab::start(LabConfig {
        payload_bytes_max: 2_000,
        ..LabConfig::default()
    })
    .await
    .unwrap();
    let mut connection = connect(&lab).await;
    send(&mut connection, &Bytes::from_static(b"hello")).await;
    let ack = reply(&mut connection).await.unwrap();
    assert_eq!(
        (ack.code, ack.control_id.is_empty()),
        (AckCode::ApplicationReject, true)
    );

    send(&mut connection, &Bytes::from(vec![b'x'; 4_000])).await;
    let ack = reply(&mut connection).await.unwrap();
    assert_eq!(
        ack.text,
        "the MLLP frame begun at byte 8 is larger than the limit of 2000 bytes"
    );

    let mut raw = TcpStream::connect(lab.address()).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    // While more may come, a frame may follow.
    raw.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, raw.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with(b"\x0bMSH|") && answer.ends_with(b"\x1c\r"));
    let summary = lab.summary();
    assert_eq!(
        (summary.unreadable, summary.framing_errors, summary.filed()),
        (1, 2, 0)
    );
}

#[tokio::test]
async fn conditions_are_waited_for_and_unnumbered_messages_have_a_place() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    assert!(
        !lab.wait_until(Duration::from_millis(20), |summary| summary.filed() == 1)
            .await
    );
    let mut connection = connect(&lab).await;
    let message = Bytes::from_static(b"MSH|^~\\&|A|B|C|D|||ORM^O01|Q7|P|2.3||||\rPID|1");
    send(&mut connection, &message).await;
    assert!(lab.wait_until(LIMIT, |summary| summary.filed() == 1).await);
    assert_eq!(lab.filed(UNNUMBERED), ["Q7"]);
}

#[tokio::test]
async fn enhanced_mode_is_answered_with_commit_codes() {
    let lab = Lab::start(LabConfig::default()).await.unwrap();
    let mut connection = connect(&lab).await;
    let sent: Vec<_> = OrderGenerator::new("RAD", 1).enhanced().take(2).collect();
    assert_eq!(
        exchange(&mut connection, &sent[0]).await.code,
        AckCode::ApplicationAccept
    );
    assert_eq!(
        exchange(&mut connection, &sent[1]).await.code,
        AckCode::CommitAccept
    );
}
