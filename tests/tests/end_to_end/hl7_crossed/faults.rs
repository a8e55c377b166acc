//! What comes in: faults among three orders.

use super::BYTE_ORDER_MARK;
use bytes::Bytes;
use ordo_tests::load::{consume, staged};
use ordo_tests::mllp::{RawSender, field, framed, gateway};
use ordo_tests::{Nodes, within};
use std::net::SocketAddr;
use std::time::Duration;

/// Where a fault is among three orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeFirst,
    Between,
    AfterLast,
    Inside,
}

const PLACES: [Place; 4] = [
    Place::BeforeFirst,
    Place::Between,
    Place::AfterLast,
    Place::Inside,
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Bytes between frames; inside, between two segments.
    Padding(&'static [u8]),
    /// Bytes between VT and MSH.
    Leading(&'static [u8]),
    /// An end of a frame that is not FS CR.
    End(&'static [u8]),
    /// Text that no VT begins.
    Text,
    /// A frame more, in UTF-16, that begins with this.
    Utf16(&'static [u8]),
    /// A byte in the text that is none of text, or looks so.
    Control(u8),
    /// A frame that begins before the one before it has ended.
    Nested,
    /// A second message in the frame.
    Two,
}

const FAULTS: &[Fault] = &[
    Fault::Padding(b"\n"),
    Fault::Padding(b"\r\n"),
    Fault::Padding(b" "),
    Fault::Padding(b"\0"),
    Fault::Padding(&[b' '; 64]),
    Fault::Padding(BYTE_ORDER_MARK),
    Fault::Leading(b"\n"),
    Fault::Leading(b"\r\n"),
    Fault::Leading(b"  "),
    Fault::Leading(BYTE_ORDER_MARK),
    Fault::End(b"\x1c"),
    Fault::End(b"\x1c\n"),
    Fault::End(b"\x1c\r\n"),
    Fault::Text,
    Fault::Utf16(b""),
    Fault::Utf16(b"\xff\xfe"),
    Fault::Control(0x00),
    Fault::Control(0x01),
    Fault::Control(0x0b),
    Fault::Control(0x0e),
    Fault::Control(0x0f),
    Fault::Control(0x1b),
    Fault::Control(0x1c),
    Fault::Nested,
    Fault::Two,
];

/// What is right.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// AA for this control id.
    Taken(String),
    /// AR, with this in its text.
    Refused(&'static str),
}

/// A fault in its place among three orders.
struct Stream {
    /// What is written, and what is right to hear of it, order by order.
    steps: Vec<(Vec<u8>, Vec<Reply>)>,
    /// The messages that the interface gets of it.
    passed: Vec<Bytes>,
    /// Text at the very end may be refused, or be nothing to anybody.
    may_refuse_last: bool,
}

impl Stream {
    fn plain(number: usize) -> (Self, [String; 3]) {
        let ids = [1, 2, 3].map(|order| format!("X{number}-{order}"));
        let orders = ids.each_ref().map(|id| Bytes::from(order(id)));
        let step = |(id, order): (&String, &Bytes)| (framed(order), vec![Reply::Taken(id.clone())]);
        let stream = Self {
            steps: ids.iter().zip(&orders).map(step).collect(),
            passed: orders.to_vec(),
            may_refuse_last: false,
        };
        (stream, ids)
    }

    /// The fault among three orders; `None` where it can't be there.
    fn new(fault: Fault, place: Place, number: usize) -> Option<Self> {
        let (mut stream, ids) = Self::plain(number);
        let hit = match place {
            Place::BeforeFirst => 0,
            Place::Between | Place::Inside => 1,
            Place::AfterLast => 2,
        };
        match (fault, place) {
            (Fault::Padding(BYTE_ORDER_MARK), Place::Inside) => return None,
            (Fault::Padding(b"\0"), Place::Inside) => {
                stream.refuse(hit, inside(&ids[1], b"\0"), "control byte")
            }
            (Fault::Padding(bytes), Place::Inside) => stream.take(hit, inside(&ids[1], bytes)),
            (Fault::Padding(bytes), Place::AfterLast) => stream.steps[2].0.extend_from_slice(bytes),
            (Fault::Padding(bytes), _) => stream.before(hit, bytes),
            (Fault::Leading(bytes), Place::BeforeFirst | Place::Between | Place::AfterLast) => {
                stream.take(hit, [bytes, order(&ids[hit]).as_bytes()].concat());
            }
            (Fault::End(bytes), Place::Between) => stream.end(0, bytes),
            (Fault::End(bytes), Place::AfterLast) => stream.end(2, bytes),
            (Fault::Text, Place::BeforeFirst | Place::Between) => {
                stream.before(hit, b"HELLO");
                stream.steps[hit].1 = vec![Reply::Refused("text before")];
                stream.passed.remove(hit);
            }
            (Fault::Text, Place::AfterLast) => {
                stream.steps[2].0.extend_from_slice(b"HELLO");
                stream.may_refuse_last = true;
            }
            (Fault::Utf16(mark), Place::BeforeFirst | Place::Between | Place::AfterLast) => {
                let wide = order("WIDE")
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect();
                let frame = framed(&[mark.to_vec(), wide].concat());
                let at = if place == Place::AfterLast { 3 } else { hit };
                stream
                    .steps
                    .insert(at, (frame, vec![Reply::Refused("UTF-16")]));
            }
            (Fault::Control(byte @ (0x0e | 0x0f | 0x1b)), Place::Inside) => {
                stream.take(hit, inside(&ids[1], &[byte]))
            }
            (Fault::Control(byte), Place::Inside) => {
                stream.refuse(hit, inside(&ids[1], &[byte]), "control byte")
            }
            (Fault::Nested, Place::Inside) => {
                let whole = framed(order(&ids[1]).as_bytes());
                let half = &whole[..whole.len() / 2];
                stream.steps[1].0 = [half, &whole].concat();
                stream.steps[1]
                    .1
                    .insert(0, Reply::Refused("frame within a frame"));
            }
            (Fault::Two, Place::BeforeFirst | Place::Between | Place::AfterLast) => {
                stream.refuse(
                    hit,
                    (order(&ids[hit]) + &order("SECOND")).into_bytes(),
                    "2 messages",
                );
            }
            _ => return None,
        }
        Some(stream)
    }

    fn before(&mut self, hit: usize, bytes: &[u8]) {
        self.steps[hit].0.splice(..0, bytes.iter().copied());
    }

    fn end(&mut self, hit: usize, bytes: &[u8]) {
        let step = &mut self.steps[hit].0;
        step.truncate(step.len() - 2);
        step.extend_from_slice(bytes);
    }

    /// This text in an order's place, which is passed on as it is.
    fn take(&mut self, hit: usize, text: Vec<u8>) {
        self.steps[hit].0 = framed(&text);
        self.passed[hit] = text.into();
    }

    /// This text in an order's place, which is refused.
    fn refuse(&mut self, hit: usize, text: Vec<u8>, says: &'static str) {
        self.steps[hit] = (framed(&text), vec![Reply::Refused(says)]);
        self.passed.remove(hit);
    }

    /// Writes all of it and hears the replies; what differs from what is right.
    async fn play(&self, to: SocketAddr, pipelined: bool) -> anyhow::Result<Result<(), String>> {
        let mut sender = RawSender::connect(to).await?;
        let mut heard = Vec::new();
        for (bytes, replies) in &self.steps {
            sender.write(bytes).await?;
            if pipelined {
                continue;
            }
            for _ in replies {
                heard.extend(sender.reply(REPLY_MAX).await?);
            }
        }
        sender.finish().await?;
        while let Some(reply) = sender.reply(REPLY_MAX).await? {
            heard.push(reply);
        }
        let mut right: Vec<_> = self.steps.iter().flat_map(|(_, replies)| replies).collect();
        if self.may_refuse_last && heard.len() == right.len() + 1 {
            right.push(&Reply::Refused(""));
        }
        let said: Vec<_> = heard.iter().map(|reply| said(reply)).collect();
        let agree = |((code, id, text), right): (&(String, String, String), &&Reply)| match right {
            Reply::Taken(expected) => code == "AA" && id == expected,
            Reply::Refused(says) => code == "AR" && text.contains(says),
        };
        Ok(
            match said.len() == right.len() && said.iter().zip(&right).all(agree) {
                true => Ok(()),
                false => Err(format!("{said:?}, where {right:?} is right")),
            },
        )
    }
}

/// How long a reply may take.
const REPLY_MAX: Duration = Duration::from_secs(10);

fn order(control_id: &str) -> String {
    format!(
        "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101120000||ORM^O01|{control_id}|P|2.3\rPID|1||{control_id}^^^H^MR\r"
    )
}

/// An order with bytes between its segments.
fn inside(control_id: &str, bytes: &[u8]) -> Vec<u8> {
    let order = order(control_id).into_bytes();
    let at = order.iter().position(|byte| *byte == b'\r').unwrap() + 1;
    [&order[..at], bytes, &order[at..]].concat()
}

fn said(reply: &[u8]) -> (String, String, String) {
    let text = [field(reply, "MSA", 3), field(reply, "ERR", 8)].join(" ");
    (field(reply, "MSA", 1), field(reply, "MSA", 2), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_framing_fault_in_every_place_pipelined_or_not() {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("IN", staged(&[]))
        .await
        .unwrap();
    let settings = "[[listen]]\naddress = \"127.0.0.1:0\"\ninterface = \"IN\"\n";
    let gateway = gateway(&nodes, settings).await.unwrap();
    let (_consumer, arrivals) = consume(&cluster, &["IN"]).unwrap();
    let (mut played, mut passed, mut differ) = (0, Vec::new(), Vec::new());
    for fault in FAULTS {
        for place in PLACES {
            for pipelined in [false, true] {
                let Some(stream) = Stream::new(*fault, place, played) else {
                    continue;
                };
                played += 1;
                let judged = match stream.play(gateway.listening()[0], pipelined).await {
                    Ok(judged) => judged,
                    Err(error) => Err(format!("{error:#}")),
                };
                if let Err(how) = judged {
                    differ.push(format!(
                        "{fault:?} {place:?}, pipelined: {pipelined}: {how}"
                    ));
                }
                passed.extend(stream.passed);
            }
        }
    }
    let arrived = || {
        let arrived = arrivals.of("IN").unwrap();
        arrived
            .into_iter()
            .map(|arrival| arrival.payload)
            .collect::<Vec<_>>()
    };
    within(REPLY_MAX, async || {
        (arrived().len() >= passed.len()).then_some(())
    })
    .await;
    let arrived = arrived();
    if let Some(at) =
        (0..arrived.len().max(passed.len())).find(|at| arrived.get(*at) != passed.get(*at))
    {
        differ.push(format!(
            "message {} is not the one that is right, byte for byte",
            at + 1
        ));
    }
    println!("{played} streams");
    assert!(
        differ.is_empty(),
        "{} of {played} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
    gateway.shutdown().await;
}
