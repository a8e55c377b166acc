#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use futures_util::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_util::codec::Framed;

use super::*;
use crate::ack::{ErrorCondition, Outcome, Refusal, acknowledge};
use crate::lab::{Lab, LabAnswer, LabConfig};
use crate::mllp::MllpCodec;
use crate::time::Hl7Time;

const LIMIT: Duration = Duration::from_secs(10);

/// Time enough for a laboratory in the same process, and short enough to wait for where it stays silent.
fn limits() -> OutboundConfig {
    OutboundConfig {
        ack: Duration::from_millis(500),
        ..OutboundConfig::default()
    }
}

fn message_in_mode(control_id: &str, mode: &str) -> Bytes {
    format!("MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|{control_id}|P|2.5|||{mode}\rPID|1||{control_id}\r")
        .into()
}

fn message(control_id: &str) -> Bytes {
    message_in_mode(control_id, "")
}

async fn lab(limits: OutboundConfig) -> (Lab, Link) {
    let lab = Lab::start(LabConfig {
        interface: Some("RAD".to_owned()),
        ..LabConfig::default()
    })
    .await
    .unwrap();
    let link = Link::new(lab.address().to_string(), limits);
    (lab, link)
}

async fn send(link: &mut Link, payload: &Bytes) -> Heard {
    link.deliver(payload, std::future::ready(())).await
}

fn nothing(heard: Heard) -> String {
    match heard {
        Heard::Nothing { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_answer_of_a_receiver_is_heard_on_one_connection() {
    let (lab, mut link) = lab(OutboundConfig::default()).await;
    lab.answer_with(|message| match message.control_id {
        "RAD-2" => LabAnswer::Error("busy".to_owned()),
        "RAD-3" => LabAnswer::Reject("no such patient".to_owned()),
        _ => LabAnswer::Accept,
    });
    let (error, rejected) = (AckCode::ApplicationError, AckCode::ApplicationReject);
    assert_eq!(send(&mut link, &message("RAD-1")).await, Heard::Accepted);
    let heard = send(&mut link, &message("RAD-2")).await;
    assert_eq!(
        heard,
        Heard::Error {
            code: error,
            text: "busy".to_owned()
        }
    );
    let heard = send(&mut link, &message("RAD-3")).await;
    assert_eq!(
        heard,
        Heard::Rejected {
            code: rejected,
            text: "no such patient".to_owned()
        }
    );
    for mode in ["AL", "SU"] {
        let sent = message_in_mode(&format!("RAD-{mode}"), mode);
        assert_eq!(send(&mut link, &sent).await, Heard::Accepted);
    }
    assert_eq!(lab.filed("RAD"), ["RAD-1", "RAD-AL", "RAD-SU"]);
    assert_eq!(lab.summary().connections, 1);
}

#[tokio::test]
async fn silence_a_mismatch_and_a_lost_acknowledgement_close_the_connection() {
    let (lab, mut link) = lab(limits()).await;
    lab.answer_with(|message| match (message.control_id, message.earlier) {
        ("RAD-1", 0) => LabAnswer::Silence,
        ("RAD-2", 0) => LabAnswer::Mismatch,
        ("RAD-3", 0) => LabAnswer::FileAndClose,
        _ => LabAnswer::Accept,
    });
    let reasons = [
        "no acknowledgement within 500ms",
        "the reply acknowledges another message (MSA-2 is not MSH-10)",
        "the receiver closed the connection without an acknowledgement",
    ];
    for (control_id, reason) in ["RAD-1", "RAD-2", "RAD-3"].into_iter().zip(reasons) {
        assert_eq!(nothing(send(&mut link, &message(control_id)).await), reason);
        assert_eq!(send(&mut link, &message(control_id)).await, Heard::Accepted);
    }
    let summary = lab.summary();
    assert_eq!(summary.connections, 4);
    let seen = summary.interfaces["RAD"];
    assert_eq!(
        (seen.filed, seen.duplicated_effects, seen.repeats),
        (3, 0, 3)
    );
}

#[tokio::test]
async fn a_receiver_that_is_down_is_found_again() {
    let (mut lab, mut link) = lab(OutboundConfig::default()).await;
    lab.down().await;
    let reason = nothing(send(&mut link, &message("RAD-1")).await);
    assert!(
        reason.starts_with(&format!("no connection to {}: ", lab.address())),
        "{reason}"
    );
    lab.up().await.unwrap();
    assert_eq!(send(&mut link, &message("RAD-1")).await, Heard::Accepted);
}

#[tokio::test]
async fn a_receiver_hears_nothing_of_what_may_not_be_begun_once_it_is_connected() {
    let (lab, mut link) = lab(OutboundConfig::default()).await;
    let (begin, begun) = tokio::sync::oneshot::channel::<()>();
    let sent = message("RAD-1");
    let sending = link.deliver(&sent, async {
        let _ = begun.await;
    });
    let mut sending = std::pin::pin!(sending);
    let connected = async {
        while lab.summary().connections == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        heard = &mut sending => panic!("{heard:?}"),
        connected = timeout(LIMIT, connected) => connected.unwrap(),
    }
    assert_eq!(lab.filed("RAD"), Vec::<String>::new());
    begin.send(()).unwrap();
    assert_eq!(sending.await, Heard::Accepted);
    assert_eq!(lab.filed("RAD"), ["RAD-1"]);
}

#[tokio::test]
async fn the_end_of_an_idle_connection_costs_no_message_a_try() {
    let (mut lab, mut link) = lab(OutboundConfig::default()).await;
    assert_eq!(send(&mut link, &message("RAD-1")).await, Heard::Accepted);
    lab.down().await;
    timeout(LIMIT, link.watch())
        .await
        .expect("the end to be noticed");
    lab.up().await.unwrap();
    assert_eq!(send(&mut link, &message("RAD-2")).await, Heard::Accepted);
    assert_eq!(lab.filed("RAD"), ["RAD-1", "RAD-2"]);
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_without_asking_the_receiver() {
    let (lab, mut link) = lab(OutboundConfig::default()).await;
    assert_eq!(send(&mut link, &message("RAD-1")).await, Heard::Accepted);
    let with_framing_byte = Bytes::from([&message("RAD-2")[..], b"\x1c"].concat());
    let cases: [(Bytes, &str); 4] = [
        (
            Bytes::from_static(b"{\"not\": \"HL7\"}"),
            "the message can't be sent over MLLP: not HL7: the message begins with 0x7b",
        ),
        (
            Bytes::new(),
            "the message can't be sent over MLLP: not HL7: the message is empty",
        ),
        (
            message(""),
            "the message can't be sent over MLLP: MSH-10 message control id is missing",
        ),
        (
            with_framing_byte,
            "the message can't be framed: it holds the framing byte 0x1c at byte ",
        ),
    ];
    for (payload, text) in cases {
        match send(&mut link, &payload).await {
            Heard::Unsendable { reason } => assert!(reason.starts_with(text), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(send(&mut link, &message("RAD-3")).await, Heard::Accepted);
    let summary = lab.summary();
    assert_eq!(
        (summary.connections, summary.filed(), summary.unreadable),
        (1, 2, 0)
    );
}

/// A receiver in memory, for tests in which time is simulated.
struct Receiver(Framed<DuplexStream, MllpCodec>);

impl Receiver {
    fn connected() -> (Self, Line<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        (
            Self(Framed::new(theirs, MllpCodec::default())),
            Line::new(ours),
        )
    }

    async fn received(&mut self) -> Bytes {
        self.0.next().await.unwrap().unwrap()
    }

    /// Replies as to a message that asks for a reply in any case.
    async fn reply(&mut self, control_id: &str, outcome: Outcome) {
        let message = message_in_mode(control_id, "AL");
        let reply = acknowledge(
            &Msh::scan(&message).unwrap(),
            &outcome,
            Hl7Time::from_unix_ms(0),
            "1",
        )
        .unwrap();
        self.0.send(reply).await.unwrap();
    }
}

async fn exchange(line: &mut Line<DuplexStream>, payload: &Bytes) -> (Heard, Duration) {
    let begin = Instant::now();
    let heard = line
        .exchange(
            payload,
            &Msh::scan(payload).unwrap(),
            &OutboundConfig::default(),
        )
        .await;
    (heard, begin.elapsed())
}

fn refusal() -> Refusal {
    Refusal::new(ErrorCondition::Internal, "no")
}

#[tokio::test(start_paused = true)]
async fn what_silence_means_is_for_msh_15_to_say() {
    let second = Duration::from_secs(1);
    for (mode, accepted, waited) in [
        ("", false, 30),
        ("AL", false, 30),
        ("SU", false, 30),
        ("ER", true, 1),
        ("NE", true, 1),
    ] {
        let (_receiver, mut line) = Receiver::connected();
        let (heard, elapsed) = exchange(&mut line, &message_in_mode("RAD-1", mode)).await;
        assert_eq!(heard == Heard::Accepted, accepted, "{mode}: {heard:?}");
        assert_eq!(elapsed.as_secs(), (second * waited).as_secs(), "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_counts_even_where_none_was_asked_for() {
    for mode in ["ER", "NE"] {
        let (mut receiver, mut line) = Receiver::connected();
        receiver.reply("RAD-1", Outcome::Rejected(refusal())).await;
        let (heard, elapsed) = exchange(&mut line, &message_in_mode("RAD-1", mode)).await;
        let rejected = Heard::Rejected {
            code: AckCode::CommitReject,
            text: "no".to_owned(),
        };
        assert_eq!((heard, elapsed), (rejected, Duration::ZERO));

        receiver.received().await;
        drop(receiver);
        let (heard, _) = exchange(&mut line, &message_in_mode("RAD-2", mode)).await;
        assert!(
            matches!(heard, Heard::Nothing { .. }),
            "{mode}: the connection has ended: {heard:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_was_not_asked_for_and_comes_late_is_not_taken_for_another() {
    let (mut receiver, mut line) = Receiver::connected();
    for control_id in ["RAD-1", "RAD-2"] {
        assert_eq!(
            exchange(&mut line, &message_in_mode(control_id, "NE"))
                .await
                .0,
            Heard::Accepted
        );
    }
    receiver.reply("RAD-1", Outcome::Accepted).await;
    assert!(
        timeout(LIMIT, line.idle()).await.is_err(),
        "a late reply ended the connection"
    );
    receiver.reply("RAD-2", Outcome::Failed(refusal())).await;
    receiver.reply("RAD-3", Outcome::Accepted).await;
    assert_eq!(
        exchange(&mut line, &message("RAD-3")).await,
        (Heard::Accepted, Duration::ZERO)
    );
    // A second reply to the same message is one too many.
    receiver.reply("RAD-1", Outcome::Accepted).await;
    assert_eq!(
        timeout(LIMIT, line.idle()).await,
        Ok("the receiver sent something it was not asked for")
    );
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_none_is_nothing() {
    let cases: [(&[u8], &str); 4] = [
        (
            b"\x0bhello\x1c\r",
            "the reply is not an acknowledgement: not HL7",
        ),
        (
            b"\x0bMSH|^~\\&|LIS|LAB\r\x1c\r",
            "the reply is not an acknowledgement: it has no MSA segment",
        ),
        (
            b"\x0bMSH|^~\\&|LIS|LAB\rMSA|OK|RAD-1\r\x1c\r",
            "the reply has an unknown acknowledgement code in MSA-1",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n",
            "no acknowledgement: expected the start of an MLLP frame",
        ),
    ];
    for (reply, text) in cases {
        let (receiver, mut line) = Receiver::connected();
        let mut receiver = receiver.0.into_inner();
        tokio::io::AsyncWriteExt::write_all(&mut receiver, reply)
            .await
            .unwrap();
        let reason = nothing(exchange(&mut line, &message("RAD-1")).await.0);
        assert!(reason.starts_with(text), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_is_given_up_in_time() {
    let (ours, _theirs) = tokio::io::duplex(16);
    let mut line = Line::new(ours);
    let (heard, elapsed) = exchange(&mut line, &message("RAD-1")).await;
    assert_eq!(
        nothing(heard),
        "the peer did not take the message within 30s"
    );
    assert_eq!(elapsed.as_secs(), 30);
}
