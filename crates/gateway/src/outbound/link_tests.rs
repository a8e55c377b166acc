#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

use super::*;
use crate::ack::AckCode;
use crate::config::Await;
use crate::lab::{Lab, LabAnswer, LabConfig, reply};
use crate::mllp::MllpCodec;
use ordo_client::Uuid;

const LIMIT: Duration = Duration::from_secs(10);

/// Time enough for a laboratory in the same process, and short enough to wait for where it stays silent.
fn limits() -> OutboundConfig {
    OutboundConfig {
        ack: Duration::from_millis(500),
        ack_max: Duration::from_millis(500),
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
    let to = SendConfig {
        address: lab.address().to_string(),
        ..SendConfig::default()
    };
    (lab, Link::to(&to, limits))
}

fn at(sequence: u64) -> Position {
    Position {
        interface_id: Uuid::nil(),
        incarnation: 1,
        sequence,
    }
}

fn outgoing(sequence: u64) -> Message {
    Message {
        interface: "RAD".into(),
        position: at(sequence),
        epoch: 1,
    }
}

/// Delivers a message as another sequence than all others.
async fn send(link: &mut Link, payload: &Bytes) -> Heard {
    let digits = payload.iter().filter(|byte| byte.is_ascii_digit());
    let sequence = digits.fold(0_u64, |sum, byte| sum.wrapping_mul(10) + u64::from(*byte));
    deliver(link, sequence, payload).await
}

async fn deliver<D: Dial>(link: &mut Link<D>, sequence: u64, payload: &Bytes) -> Heard {
    link.deliver(outgoing(sequence), payload, std::future::ready(()))
        .await
}

const ACCEPTED: Heard = Heard::Said(Said::Accepted);

/// Why nothing settled a message that may have reached the receiver.
fn nothing(heard: Heard) -> String {
    match heard {
        Heard::Nothing { reason, sent: true } => reason,
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
    assert_eq!(send(&mut link, &message("RAD-1")).await, ACCEPTED);
    let heard = send(&mut link, &message("RAD-2")).await;
    assert_eq!(
        heard,
        Heard::Said(Said::Error {
            code: error,
            text: "busy".to_owned()
        })
    );
    let heard = send(&mut link, &message("RAD-3")).await;
    assert_eq!(
        heard,
        Heard::Said(Said::Rejected {
            code: rejected,
            text: "no such patient".to_owned()
        })
    );
    for mode in ["AL", "SU"] {
        let sent = message_in_mode(&format!("RAD-{mode}"), mode);
        assert_eq!(send(&mut link, &sent).await, ACCEPTED);
    }
    assert_eq!(lab.filed("RAD"), ["RAD-1", "RAD-AL", "RAD-SU"]);
    assert_eq!(lab.summary().connections, 1);
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_on_a_new_connection() {
    let (lab, mut link) = lab(limits()).await;
    lab.answer_with(|message| match (message.control_id, message.earlier) {
        ("RAD-1", 0) => LabAnswer::Silence,
        ("RAD-2", 0) => LabAnswer::Mismatch,
        ("RAD-3", 0) => LabAnswer::FileAndClose,
        _ => LabAnswer::Accept,
    });
    let reasons = [
        "no acknowledgement within 500ms",
        "the reply acknowledges another message (MSA-2 is not MSH-10); match = \"any\" would take it; nothing else came within 500ms",
        "the receiver closed the connection without an acknowledgement",
    ];
    for (control_id, reason) in ["RAD-1", "RAD-2", "RAD-3"].into_iter().zip(reasons) {
        assert_eq!(nothing(send(&mut link, &message(control_id)).await), reason);
        assert_eq!(send(&mut link, &message(control_id)).await, ACCEPTED);
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
    let Heard::Nothing {
        reason,
        sent: false,
    } = send(&mut link, &message("RAD-1")).await
    else {
        panic!("it was sent")
    };
    assert!(
        reason.starts_with(&format!("no connection to {}: ", lab.address())),
        "{reason}"
    );
    lab.up().await.unwrap();
    assert_eq!(send(&mut link, &message("RAD-1")).await, ACCEPTED);
}

#[tokio::test]
async fn a_receiver_hears_nothing_of_what_may_not_be_begun_once_it_is_connected() {
    let (lab, mut link) = lab(OutboundConfig::default()).await;
    let (begin, begun) = tokio::sync::oneshot::channel::<()>();
    let sent = message("RAD-1");
    let sending = link.deliver(outgoing(1), &sent, async {
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
    assert_eq!(sending.await, ACCEPTED);
    assert_eq!(lab.filed("RAD"), ["RAD-1"]);
}

#[tokio::test]
async fn the_end_of_an_idle_connection_costs_no_message_a_try() {
    let (mut lab, mut link) = lab(OutboundConfig::default()).await;
    assert_eq!(send(&mut link, &message("RAD-1")).await, ACCEPTED);
    lab.down().await;
    timeout(LIMIT, link.watch())
        .await
        .expect("the end to be noticed");
    lab.up().await.unwrap();
    assert_eq!(send(&mut link, &message("RAD-2")).await, ACCEPTED);
    assert_eq!(lab.filed("RAD"), ["RAD-1", "RAD-2"]);
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_without_asking_the_receiver() {
    let (lab, mut link) = lab(OutboundConfig::default()).await;
    assert_eq!(send(&mut link, &message("RAD-1")).await, ACCEPTED);
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
    assert_eq!(send(&mut link, &message("RAD-3")).await, ACCEPTED);
    let summary = lab.summary();
    assert_eq!(
        (summary.connections, summary.filed(), summary.unreadable),
        (1, 2, 0)
    );
}

/// Where receivers in memory are connected to, for tests in which time is simulated.
struct Rooms(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Rooms {
    type Stream = DuplexStream;

    async fn dial(&self) -> Result<DuplexStream, String> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let connected = self.0.send(theirs);
        connected
            .map(|()| ours)
            .map_err(|_| "no connection".to_owned())
    }
}

/// Says something on each connection before it has received anything.
struct Greets(Rooms);

impl Dial for Greets {
    type Stream = DuplexStream;

    async fn dial(&self) -> Result<DuplexStream, String> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs
            .write_all(b"\x0bMSH|^~\\&|LIS\rMSA|AA|1\r\x1c\r")
            .await
            .map_err(|error| error.to_string())?;
        self.0.0.send(theirs).map_err(|error| error.to_string())?;
        Ok(ours)
    }
}

/// A receiver in memory.
struct Receiver {
    rooms: mpsc::UnboundedReceiver<DuplexStream>,
    connection: Option<Framed<DuplexStream, MllpCodec>>,
    /// How many there were.
    connections: u64,
    /// The control ids of everything received.
    seen: Vec<String>,
}

fn receiver(to: SendConfig) -> (Receiver, Link<Rooms>) {
    let (sender, rooms) = mpsc::unbounded_channel();
    let receiver = Receiver {
        rooms,
        connection: None,
        connections: 0,
        seen: Vec::new(),
    };
    (
        receiver,
        Link::new(Rooms(sender), &to, OutboundConfig::default()),
    )
}

impl Receiver {
    /// The next message, on the connection that is there or a new one; its control id.
    async fn received(&mut self) -> String {
        loop {
            let connection = async {
                match &mut self.connection {
                    Some(connection) => connection.next().await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                frame = connection => frame,
                stream = self.rooms.recv() => {
                    self.connections += 1;
                    self.connection = Some(Framed::new(stream.unwrap(), MllpCodec::default()));
                    continue;
                }
            };
            match frame {
                Some(frame) => {
                    let frame = frame.unwrap();
                    let msh = Msh::scan(&frame).unwrap();
                    let id = String::from_utf8(msh.field(10).to_vec()).unwrap();
                    self.seen.push(id.clone());
                    return id;
                }
                None => self.connection = None,
            }
        }
    }

    /// What it says where the connection is gone is lost.
    async fn say(&mut self, code: AckCode, msa_2: &str) {
        if let Some(connection) = &mut self.connection {
            let _ = connection.send(reply(code, msa_2.as_bytes())).await;
        }
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        let stream = self.connection.as_mut().unwrap().get_mut();
        stream.write_all(bytes).await.unwrap();
    }

    async fn answers(&mut self, codes: &[AckCode]) -> String {
        let id = self.received().await;
        for code in codes {
            self.say(*code, &id).await;
        }
        id
    }

    fn closes(&mut self) {
        self.connection = None;
    }

    /// Whether the gateway has closed the connection, or does so soon.
    async fn is_closed(&mut self, limit: Duration) -> bool {
        let connection = self.connection.as_mut().unwrap();
        timeout(limit, connection.next())
            .await
            .is_ok_and(|end| end.is_none())
    }
}

/// Delivers while the receiver does something, and how long it took.
async fn exchange(
    link: &mut Link<Rooms>,
    sequence: u64,
    payload: &Bytes,
    receiver: impl Future,
) -> (Heard, u64) {
    let begin = Instant::now();
    let delivered = async {
        let heard = deliver(link, sequence, payload).await;
        (heard, begin.elapsed().as_secs())
    };
    tokio::join!(delivered, receiver).0
}

fn application(connection: ConnectionUse) -> SendConfig {
    SendConfig {
        awaits: Some(Await::Application),
        connection,
        ..SendConfig::default()
    }
}

fn note(code: AckCode) -> Note {
    Note {
        message: outgoing(1),
        code,
        text: String::new(),
    }
}

const CA: AckCode = AckCode::CommitAccept;
const AA: AckCode = AckCode::ApplicationAccept;
const AE: AckCode = AckCode::ApplicationError;
const AR: AckCode = AckCode::ApplicationReject;

#[tokio::test(start_paused = true)]
async fn what_silence_means_is_for_msh_15_to_say() {
    for (mode, accepted, waited) in [
        ("", false, 300),
        ("AL", false, 300),
        ("SU", false, 300),
        ("NE|AL", false, 300),
        ("ER", true, 1),
        ("NE", true, 1),
    ] {
        let (_receiver, mut link) = receiver(SendConfig::default());
        let sent = message_in_mode("RAD-1", mode);
        let (heard, elapsed) = exchange(&mut link, 1, &sent, async {}).await;
        match accepted {
            true => assert_eq!(heard, ACCEPTED, "{mode}"),
            false => assert_eq!(nothing(heard), "no acknowledgement within 300s", "{mode}"),
        }
        assert_eq!(elapsed, waited, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_counts_even_where_none_was_asked_for() {
    for mode in ["ER", "NE"] {
        let (mut receiver, mut link) = receiver(SendConfig::default());
        let sent = message_in_mode("RAD-1", mode);
        let refused = receiver.answers(&[AckCode::CommitReject]);
        let (heard, elapsed) = exchange(&mut link, 1, &sent, refused).await;
        let rejected = Said::Rejected {
            code: AckCode::CommitReject,
            text: String::new(),
        };
        assert_eq!((heard, elapsed), (Heard::Said(rejected), 0));

        let sent = message_in_mode("RAD-2", mode);
        let cut = async {
            receiver.received().await;
            receiver.closes();
        };
        let (heard, _) = exchange(&mut link, 2, &sent, cut).await;
        let reason = "the receiver closed the connection without an acknowledgement";
        assert_eq!(nothing(heard), reason, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_follows_silence_is_told_and_taken_for_no_other() {
    let (mut receiver, mut link) = receiver(SendConfig::default());
    for (sequence, id) in [(1, "RAD-1"), (2, "RAD-2")] {
        let sent = message_in_mode(id, "NE");
        let heard = exchange(&mut link, sequence, &sent, receiver.received()).await;
        assert_eq!(heard, (ACCEPTED, 1));
    }
    receiver.say(AE, "RAD-1").await;
    timeout(LIMIT, link.watch())
        .await
        .expect("a note to be there");
    assert_eq!(link.take_notes(), [note(AE)]);
    // One too many, and one to nothing that was sent: neither ends the connection.
    receiver.say(AE, "RAD-1").await;
    receiver.say(AA, "RAD-0").await;
    assert!(timeout(LIMIT, link.watch()).await.is_err(), "it ended");
    assert_eq!(link.take_surplus(), 2);
    let heard = exchange(&mut link, 3, &message("RAD-3"), receiver.answers(&[AA])).await;
    assert_eq!(heard, (ACCEPTED, 0));
    assert_eq!(receiver.connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_none_is_told_and_the_next_one_counts() {
    let cases: [(&[u8], &str, u64); 6] = [
        (
            b"\x0bhello\x1c\r",
            "the reply is not an acknowledgement: not HL7",
            30,
        ),
        (
            b"\x0bMSH|^~\\&|LIS|LAB\r\x1c\r",
            "the reply is not an acknowledgement: it has no MSA segment",
            30,
        ),
        (
            b"\x0bMSH|^~\\&|LIS|LAB\rMSA|OK|RAD-1\r\x1c\r",
            "the reply has an unknown acknowledgement code in MSA-1",
            30,
        ),
        (
            b"\x0bMSH|^~\\&|LIS|LAB\rMSA|AA|RAD-2\r\x1c\r",
            "the reply acknowledges another message (MSA-2 is not MSH-10); match = \"any\" would take it; nothing else came within 30s",
            30,
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n",
            "the receiver answered without an MLLP frame: ",
            0,
        ),
        (
            b"MSH|^~\\&|LIS|LAB\rMSA|AA|RAD-1\r",
            "the receiver answered without an MLLP frame: ",
            0,
        ),
    ];
    for (reply, text, waited) in cases {
        for then in [false, true] {
            let (mut receiver, mut link) = receiver(SendConfig::default());
            let answer = async {
                let id = receiver.received().await;
                receiver.say_bytes(reply).await;
                if then {
                    receiver.say(AA, &id).await;
                }
            };
            let (heard, elapsed) = exchange(&mut link, 1, &message("RAD-1"), answer).await;
            if then && waited > 0 {
                assert_eq!((heard, elapsed), (ACCEPTED, 0), "{text}");
            } else {
                let reason = nothing(heard);
                assert!(reason.starts_with(text), "{reason}");
                // Text and the frame behind it are one fault, after which others could follow.
                let waited = if then { 30 } else { waited };
                assert_eq!(elapsed, waited, "{text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_came_before_the_message_was_sent_settles_nothing() {
    let any = SendConfig {
        matching: Match::Any,
        ..SendConfig::default()
    };
    let (mut receiver, link) = receiver(any.clone());
    let mut link = Link::new(Greets(link.dial), &any, OutboundConfig::default());
    let sent = message("1");
    let cut = async {
        receiver.received().await;
        receiver.closes();
    };
    let (heard, ()) = tokio::join!(deliver(&mut link, 1, &sent), cut);
    nothing(heard);
    let (heard, _) = tokio::join!(deliver(&mut link, 1, &sent), receiver.answers(&[AA]));
    assert_eq!(heard, ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_is_given_up_in_time() {
    struct Narrow;
    impl Dial for Narrow {
        type Stream = DuplexStream;
        async fn dial(&self) -> Result<DuplexStream, String> {
            let (ours, theirs) = tokio::io::duplex(16);
            tokio::spawn(async move {
                let _open = theirs;
                std::future::pending::<()>().await;
            });
            Ok(ours)
        }
    }
    let mut link = Link::new(Narrow, &SendConfig::default(), OutboundConfig::default());
    let begin = Instant::now();
    let reason = "the peer did not take the message within 30s".to_owned();
    let sent = false;
    assert_eq!(
        deliver(&mut link, 1, &message("RAD-1")).await,
        Heard::Nothing { reason, sent }
    );
    assert_eq!(begin.elapsed().as_secs(), 30);
}

/// The replies of `mllp-cases`, and what became of the order `CTRL-1` and of the next one on the same connection.
#[tokio::test(start_paused = true)]
async fn replies_as_laboratories_send_them_settle_one_delivery() {
    let head = "MSH|^~\\&|LIS|LAB|HIS|WARD|20240101120001||ACK|ACTRL-1|P|2.3";
    let aa = format!("{head}\rMSA|AA|CTRL-1\r");
    let ca = format!("{head}\rMSA|CA|CTRL-1\r");
    let cases = [
        ("ack-01", format!("\x0b{ca}\x1c\r\x0b{aa}\x1c\r")),
        (
            "ack-01, twice",
            format!("\x0b{ca}\x1c\r\x0b{aa}\x1c\r").repeat(2),
        ),
        ("ack-03", format!("\x0b{aa}\x1c\r\n")),
        ("ack-03, FS LF", format!("\x0b{aa}\x1c\n")),
        ("ack-04", format!("\x0b{aa}\x1c")),
        ("ack-06", format!("\n\x0b{aa}\x1c\r")),
        ("ack-06, CR LF", format!("\r\n\x0b{aa}\x1c\r\r\n")),
        ("ack-08", format!("\x0b\u{feff}{aa}\x1c\r")),
        ("ack-08, before VT", format!("\u{feff}\x0b{aa}\x1c\r")),
        ("NUL", format!("\x0b{aa}\x1c\r\0\0")),
    ];
    for mode in ["", "AL|AL", "AL|NE"] {
        for (name, reply) in &cases {
            let (mut receiver, mut link) = receiver(SendConfig::default());
            for (sequence, connections) in [(1, 1), (2, 1)] {
                let id = format!("CTRL-{sequence}");
                let answer = async {
                    assert_eq!(receiver.received().await, id);
                    let reply = reply.replace("|CTRL-1", &format!("|{id}"));
                    receiver.say_bytes(reply.as_bytes()).await;
                };
                let sent = message_in_mode(&id, mode);
                let heard = exchange(&mut link, sequence, &sent, answer).await;
                let heard = (heard, receiver.connections);
                assert_eq!(heard, ((ACCEPTED, 0), connections), "{mode} {name}");
            }
        }
    }

    let (mut receiver, mut link) = self::receiver(SendConfig::default());
    let unframed = async {
        receiver.received().await;
        receiver.say_bytes(aa.as_bytes()).await;
    };
    let (heard, _) = exchange(&mut link, 1, &message("CTRL-1"), unframed).await;
    let reason = nothing(heard);
    assert!(
        reason.starts_with("the receiver answered without an MLLP frame: "),
        "ack-05: {reason}"
    );

    let id = "LONGER-CONTROL-ID-0001";
    let cut = "\x0bMSH|^~\\&|LIS\rMSA|AA|LONGER-CONTROL-ID-00\r\x1c\r";
    for matching in [Match::Strict, Match::Lenient, Match::Any] {
        let to = SendConfig {
            matching,
            ..SendConfig::default()
        };
        let (mut receiver, mut link) = self::receiver(to);
        let answer = async {
            receiver.received().await;
            receiver.say_bytes(cut.as_bytes()).await;
        };
        let (heard, elapsed) = exchange(&mut link, 1, &message(id), answer).await;
        match matching {
            Match::Strict => {
                let reason = "MSA-2 of the reply is MSH-10 cut to 20 characters; match = \"lenient\" would take it; nothing else came within 30s";
                assert_eq!((nothing(heard).as_str(), elapsed), (reason, 30), "ack-09");
            }
            Match::Lenient | Match::Any => assert_eq!((heard, elapsed), (ACCEPTED, 0), "ack-09"),
        }
    }

    let (mut receiver, mut link) = self::receiver(SendConfig::default());
    let reason = "Prüfung: Größe 検査";
    let reject = format!(
        "\x0bMSH|^~\\&|L|L|H|W|20240101||ACK|1|P|2.5||||||UNICODE UTF-8\rMSA|AR|CTRL-1|{reason}\r\x1c\r"
    );
    let answer = async {
        receiver.received().await;
        receiver.say_bytes(reject.as_bytes()).await;
    };
    let (heard, _) = exchange(&mut link, 1, &message("CTRL-1"), answer).await;
    let rejected = Said::Rejected {
        code: AR,
        text: reason.to_owned(),
    };
    assert_eq!(heard, Heard::Said(rejected), "ack-11");
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_is_waited_for_and_sees_nothing_twice() {
    for slow in [29, 31, 100, 299] {
        let (mut receiver, mut link) = receiver(SendConfig::default());
        let answer = async {
            let id = receiver.received().await;
            tokio::time::sleep(Duration::from_secs(slow)).await;
            receiver.say(AA, &id).await;
        };
        let heard = exchange(&mut link, 1, &message("RAD-1"), answer).await;
        assert_eq!(heard, (ACCEPTED, slow));
        let next = exchange(&mut link, 2, &message("RAD-2"), receiver.answers(&[AA])).await;
        assert_eq!((next, receiver.connections), ((ACCEPTED, 0), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_comes_after_the_time_out_settles_its_message_before_it_is_sent_again()
 {
    for (code, closes) in [(AA, false), (AA, true), (AR, false)] {
        let (mut receiver, mut link) = receiver(SendConfig::default());
        let sent = message("RAD-1");
        let (heard, _) = exchange(&mut link, 1, &sent, receiver.received()).await;
        nothing(heard);
        receiver.say(code, "RAD-1").await;
        if closes {
            receiver.closes();
            timeout(LIMIT, link.watch())
                .await
                .expect("the end to be noticed");
        }
        let (heard, elapsed) = exchange(&mut link, 1, &sent, async {}).await;
        match code {
            AA => assert_eq!(heard, ACCEPTED),
            _ => assert!(
                matches!(heard, Heard::Said(Said::Rejected { .. })),
                "{heard:?}"
            ),
        }
        assert_eq!((elapsed, receiver.connections), (0, 1));
        assert!(receiver.rooms.try_recv().is_err(), "it was sent again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_commit_settles_where_no_more_is_awaited() {
    for closes in [false, true] {
        let (mut receiver, mut link) = receiver(SendConfig::default());
        let sent = message("RAD-1");
        let (heard, _) = exchange(&mut link, 1, &sent, receiver.received()).await;
        nothing(heard);
        receiver.say(CA, "RAD-1").await;
        if closes {
            receiver.closes();
            timeout(LIMIT, link.watch())
                .await
                .expect("the end to be noticed");
        }
        let heard = exchange(&mut link, 1, &sent, async {}).await;
        assert_eq!(heard, (ACCEPTED, if closes { 0 } else { 1 }));
        assert_eq!(receiver.seen, ["RAD-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_acknowledgement_settles_nothing_but_what_was_sent() {
    let (mut receiver, mut link) = receiver(SendConfig::default());
    let (heard, _) = exchange(&mut link, 1, &message("RAD-1"), receiver.received()).await;
    nothing(heard);
    receiver.say(AA, "RAD-1").await;
    // A person has changed it meanwhile.
    let edited = Bytes::from([&message("RAD-1")[..], b"NTE|1\r"].concat());
    let heard = exchange(&mut link, 1, &edited, receiver.answers(&[AA])).await;
    assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), 2));
    // Another one stands in its place, since it was skipped: the connection is as good as before.
    let (heard, _) = exchange(&mut link, 2, &message("RAD-2"), receiver.received()).await;
    nothing(heard);
    let both = async {
        receiver.received().await;
        receiver.say(AA, "RAD-2").await;
        receiver.say(AA, "RAD-3").await;
    };
    let heard = exchange(&mut link, 3, &message("RAD-3"), both).await;
    assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_after_an_error_goes_out_on_a_new_connection() {
    let (mut receiver, mut link) = receiver(SendConfig::default());
    let sent = message("RAD-1");
    let (heard, _) = exchange(&mut link, 1, &sent, receiver.answers(&[AE])).await;
    assert!(
        matches!(heard, Heard::Said(Said::Error { .. })),
        "{heard:?}"
    );
    let again = async {
        // The error once more, on a connection that the gateway has left.
        receiver.say(AE, "RAD-1").await;
        receiver.answers(&[AA]).await
    };
    let heard = exchange(&mut link, 1, &sent, again).await;
    assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), 2));
}

#[tokio::test(start_paused = true)]
async fn a_commit_settles_where_it_is_asked_for_and_the_application_s_reply_is_told() {
    for (code, awaits) in [(AA, None), (AE, None), (AR, Some(Await::Commit))] {
        let to = SendConfig {
            awaits,
            ..SendConfig::default()
        };
        let (mut receiver, mut link) = receiver(to);
        let sent = message_in_mode("RAD-1", "AL|AL");
        let heard = exchange(&mut link, 1, &sent, receiver.answers(&[CA, code])).await;
        assert_eq!(heard, (ACCEPTED, 0));
        timeout(LIMIT, link.watch())
            .await
            .expect("a note to be there");
        assert_eq!(link.take_notes(), [note(code)]);
        let heard = exchange(&mut link, 2, &message("RAD-2"), receiver.answers(&[AA])).await;
        assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), 1));
    }
    // It may also come while the next is out.
    let (mut receiver, mut link) = receiver(SendConfig::default());
    for (sequence, id) in [(1, "RAD-1"), (2, "RAD-2")] {
        let answer = async {
            receiver.received().await;
            if sequence == 2 {
                receiver.say(AE, "RAD-1").await;
            }
            receiver.say(CA, id).await;
        };
        let heard = exchange(&mut link, sequence, &message_in_mode(id, "AL|AL"), answer).await;
        assert_eq!(heard, (ACCEPTED, 0));
    }
    assert_eq!(
        (link.take_notes(), receiver.connections),
        (vec![note(AE)], 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_application_decides_where_the_message_asks_for_it() {
    let error = || {
        Heard::Said(Said::Error {
            code: AE,
            text: String::new(),
        })
    };
    for (mode, awaits, codes, expected) in [
        ("", None, &[CA, AA][..], (ACCEPTED, 0)),
        ("", None, &[CA, AE], (error(), 0)),
        ("", None, &[CA], (ACCEPTED, 1)),
        ("NE|AL", None, &[AE], (error(), 0)),
        ("AL|AL", Some(Await::Application), &[CA, AE], (error(), 0)),
        ("AL|AL", Some(Await::Application), &[CA, AA], (ACCEPTED, 0)),
        ("AL|NE", Some(Await::Application), &[CA], (ACCEPTED, 1)),
        ("AL|AL", Some(Await::Commit), &[AE], (error(), 0)),
    ] {
        let to = SendConfig {
            awaits,
            ..SendConfig::default()
        };
        let (mut receiver, mut link) = receiver(to);
        let sent = message_in_mode("RAD-1", mode);
        let heard = exchange(&mut link, 1, &sent, receiver.answers(codes)).await;
        assert_eq!(heard, expected, "{mode} {awaits:?} {codes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_is_not_sent_again_and_its_reply_is_waited_for() {
    let unanswered = |heard: Heard| match heard {
        Heard::Unanswered { reason } => {
            assert!(reason.starts_with("committed, unanswered: "), "{reason}")
        }
        other => panic!("{other:?}"),
    };
    for connection in [ConnectionUse::Keep, ConnectionUse::PerMessage] {
        for closes in [false, true] {
            let (mut receiver, mut link) = receiver(application(connection));
            let sent = message_in_mode("RAD-1", "AL|AL");
            let commit = receiver.answers(&[CA, CA]);
            let (heard, elapsed) = exchange(&mut link, 1, &sent, commit).await;
            unanswered(heard);
            assert_eq!(elapsed, 30);
            if closes {
                receiver.closes();
            }
            for _ in 0..3 {
                let (heard, elapsed) = exchange(&mut link, 1, &sent, async {}).await;
                unanswered(heard);
                assert_eq!(elapsed, if closes { 0 } else { 300 });
            }
            assert!(receiver.rooms.try_recv().is_err(), "it was sent again");
            if !closes {
                let heard = exchange(&mut link, 1, &sent, receiver.say(AA, "RAD-1")).await;
                assert_eq!(heard, (ACCEPTED, 0));
            }
            // Whatever a person decided about it, the next one goes out.
            let answer = receiver.answers(&[CA, AA]);
            let heard = exchange(&mut link, 2, &message("RAD-2"), answer).await;
            assert_eq!(heard, (ACCEPTED, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_receiver_has_closed_is_noticed_before_the_next_message() {
    let (mut receiver, mut link) = receiver(SendConfig::default());
    for (sequence, connections) in [(1, 1), (2, 2), (3, 3)] {
        let sent = message(&format!("RAD-{sequence}"));
        let heard = exchange(&mut link, sequence, &sent, receiver.answers(&[AA])).await;
        assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), connections));
        receiver.closes();
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_closes_after_each_reply_leaves_one_message_unread_at_most() {
    let (mut receiver, mut link) = receiver(SendConfig::default());
    let first = exchange(&mut link, 1, &message("RAD-1"), receiver.answers(&[AA])).await;
    assert_eq!(first, (ACCEPTED, 0));
    // Its end crosses the second message on the wire.
    let crossing = async {
        receiver.received().await;
        receiver.closes();
    };
    let (heard, _) = exchange(&mut link, 2, &message("RAD-2"), crossing).await;
    nothing(heard);
    for sequence in 2..6 {
        let answers_and_closes = async {
            receiver.answers(&[AA]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            receiver.closes();
        };
        let sent = message(&format!("RAD-{sequence}"));
        let heard = exchange(&mut link, sequence, &sent, answers_and_closes).await;
        assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), sequence));
    }
    // Once it keeps them open, so does the gateway.
    for (sequence, waited) in [(6, 0), (7, 1), (8, 0)] {
        let sent = message(&format!("RAD-{sequence}"));
        let heard = exchange(&mut link, sequence, &sent, receiver.answers(&[AA])).await;
        assert_eq!((heard, receiver.connections), ((ACCEPTED, waited), 6));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_per_message_is_closed_once_nothing_more_comes() {
    let to = SendConfig {
        connection: ConnectionUse::PerMessage,
        ..SendConfig::default()
    };
    let (mut receiver, mut link) = receiver(to);
    let heard = exchange(&mut link, 1, &message("RAD-1"), receiver.answers(&[AA])).await;
    assert_eq!(heard, (ACCEPTED, 0));
    assert!(receiver.is_closed(LIMIT).await);
    // The application may still refuse it.
    let sent = message_in_mode("RAD-2", "AL|AL");
    let heard = exchange(&mut link, 1, &sent, receiver.answers(&[CA])).await;
    assert_eq!(heard, (ACCEPTED, 0));
    assert!(!receiver.is_closed(LIMIT).await);
    receiver.say(AE, "RAD-2").await;
    timeout(LIMIT, link.watch())
        .await
        .expect("a note to be there");
    assert_eq!(link.take_notes(), [note(AE)]);
    let watched = async {
        timeout(LIMIT * 10, link.watch()).await.unwrap();
    };
    assert!(tokio::join!(receiver.is_closed(LIMIT * 10), watched).0);
    let heard = exchange(&mut link, 3, &message("RAD-3"), receiver.answers(&[AA])).await;
    assert_eq!((heard, receiver.connections), ((ACCEPTED, 0), 3));
}

/// How a receiver names the message that it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Names {
    Exactly,
    Padded,
    /// Cut to 20 characters, in which all messages are alike.
    CutAlike,
    Empty,
    Other,
}

impl Names {
    fn taken_by(matching: Match) -> &'static [Self] {
        let all = &[
            Self::Exactly,
            Self::Padded,
            Self::CutAlike,
            Self::Empty,
            Self::Other,
        ];
        match matching {
            Match::Strict => &all[..1],
            Match::Lenient => &all[..4],
            Match::Any => all,
        }
    }

    fn id(self, number: u32) -> String {
        match self {
            Self::CutAlike => format!("ORDER-00000000000000-{number}"),
            _ => format!("{number}-ORDER-00000000000000"),
        }
    }

    fn msa_2(self, id: &str) -> String {
        match self {
            Self::Exactly => id.to_owned(),
            Self::Padded => format!("{id}  "),
            Self::CutAlike => id[..20].to_owned(),
            Self::Empty => String::new(),
            Self::Other => "0".to_owned(),
        }
    }
}

struct Case {
    to: SendConfig,
    mode: &'static str,
    names: Names,
    codes: &'static [AckCode],
    /// The second of two equal replies comes when the next message is on the wire.
    late: bool,
}

/// Two messages to a receiver that says everything twice and closes the connection before it reads the second: both are
/// delivered, and nothing arrives more often than once for each reply that was lost.
async fn doubled(case: &Case) {
    let (mut receiver, mut link) = receiver(case.to.clone());
    let ids = [1, 2].map(|number| case.names.id(number));
    let sent = ids.clone().map(|id| message_in_mode(&id, case.mode));
    let msa_2 = case.names.msa_2(&ids[0]);
    let first = async {
        assert_eq!(receiver.received().await, ids[0]);
        for code in case.codes {
            receiver.say(*code, &msa_2).await;
            if !case.late {
                receiver.say(*code, &msa_2).await;
            }
        }
    };
    assert_eq!(exchange(&mut link, 1, &sent[0], first).await.0, ACCEPTED);
    let second = async {
        assert_eq!(receiver.received().await, ids[1]);
        if case.late && receiver.connections == 1 {
            for code in case.codes {
                receiver.say(*code, &msa_2).await;
            }
        }
        receiver.closes();
    };
    nothing(exchange(&mut link, 2, &sent[1], second).await.0);
    let again = async {
        let id = receiver.received().await;
        for code in case.codes {
            receiver.say(*code, &case.names.msa_2(&id)).await;
        }
    };
    assert_eq!(exchange(&mut link, 2, &sent[1], again).await.0, ACCEPTED);
    let [first, second] = ids;
    assert_eq!(receiver.seen, [first, second.clone(), second]);
    assert!(receiver.rooms.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn no_reply_that_comes_twice_settles_the_next_message() {
    let mut cases = 0;
    for matching in [Match::Strict, Match::Lenient, Match::Any] {
        for awaits in [None, Some(Await::Commit), Some(Await::Application)] {
            for connection in [ConnectionUse::Keep, ConnectionUse::PerMessage] {
                for mode in ["", "AL|AL", "AL|NE", "SU|NE", "NE|AL", "ER|ER"] {
                    for names in Names::taken_by(matching) {
                        for codes in [&[AA][..], &[CA], &[CA, AA]] {
                            for late in [false, true] {
                                let expect = Expect::of(
                                    &Msh::scan(&message_in_mode("1", mode)).unwrap(),
                                    awaits,
                                );
                                if codes == [CA] && expect.commit == Commit::Waits {
                                    continue;
                                }
                                let to = SendConfig {
                                    matching,
                                    awaits,
                                    connection,
                                    ..SendConfig::default()
                                };
                                let case = Case {
                                    to,
                                    mode,
                                    names: *names,
                                    codes,
                                    late,
                                };
                                let told = format!(
                                    "{matching:?} {awaits:?} {connection:?} {mode} {names:?} {codes:?} late: {late}"
                                );
                                println!("{told}");
                                let hour = Duration::from_secs(3_600);
                                timeout(hour, doubled(&case)).await.unwrap();
                                cases += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2_040);
}
