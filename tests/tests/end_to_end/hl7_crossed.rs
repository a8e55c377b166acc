//! The cross product behind `hl7_cases.rs`: every framing fault in every place, pipelined or not; every odd way to
//! acknowledge under every setting of a sender. The whole of the latter takes minutes, so it runs on demand:
//!
//!     cargo build --release --bin ordo
//!     cargo test --release -p ordo-tests --test end_to_end -- --ignored --nocapture hl7_crossed

use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::{Admin, Cluster, Message};
use ordo_tests::load::{consume, staged};
use ordo_tests::mllp::{RawSender, field, framed, gateway};
use ordo_tests::scripted_lab::{ScriptedLab, Sight, Step};
use ordo_tests::{Nodes, PATIENCE, within};
use std::net::SocketAddr;
use std::time::Duration;

// ---- What comes in

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

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

// ---- What laboratories answer

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Strict,
    Lenient,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    AsSent,
    Commit,
    Application,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    matching: Match,
    awaits: Await,
    per_message: bool,
}

impl Settings {
    /// The default is the first.
    fn all() -> impl Iterator<Item = Self> {
        let uses = [false, true].into_iter();
        uses.flat_map(|per_message| {
            let awaits = [Await::AsSent, Await::Commit, Await::Application].into_iter();
            awaits.flat_map(move |awaits| {
                [Match::Strict, Match::Lenient, Match::Any].map(|matching| Self {
                    matching,
                    awaits,
                    per_message,
                })
            })
        })
    }

    /// What a `[[send]]` says of it: nothing where it is the default.
    fn text(self) -> String {
        let matching = match self.matching {
            Match::Strict => "",
            Match::Lenient => "match = \"lenient\"\n",
            Match::Any => "match = \"any\"\n",
        };
        let awaits = match self.awaits {
            Await::AsSent => "",
            Await::Commit => "await = \"commit\"\n",
            Await::Application => "await = \"application\"\n",
        };
        let connection = match self.per_message {
            false => "",
            true => "connection = \"per_message\"\n",
        };
        [matching, awaits, connection].concat()
    }
}

/// How a laboratory answers each order the first time that it sees it; the second time it does as the standard says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Plain,
    Doubled,
    CommitThenAccept,
    CommitThenError,
    /// And the application never says anything.
    CommitOnly,
    EndedFsCrLf,
    EndedFs,
    Unframed,
    LineEndBefore,
    ByteOrderMark,
    Cut,
    /// Cut, of control ids whose first 20 characters are the same.
    CutAlike,
    Padded,
    LowerCase,
    WithoutId,
    AnothersId,
    Late,
    ClosedInstead,
    ClosedAfter,
    /// Twice, and the connection is closed with the next order unread.
    DoubledThenClosed,
    /// The same where all orders have one control id.
    DoubledThenClosedSameId,
    /// The second time when the next order is there, which is never read.
    DoubledLateThenClosed,
    /// The same where all orders have one control id.
    DoubledLateThenClosedSameId,
    /// The one before once more, and then this one.
    PreviousAgain,
    Error,
    Reject,
}

const MANNERS: [Manner; 26] = [
    Manner::Plain,
    Manner::Doubled,
    Manner::CommitThenAccept,
    Manner::CommitThenError,
    Manner::CommitOnly,
    Manner::EndedFsCrLf,
    Manner::EndedFs,
    Manner::Unframed,
    Manner::LineEndBefore,
    Manner::ByteOrderMark,
    Manner::Cut,
    Manner::CutAlike,
    Manner::Padded,
    Manner::LowerCase,
    Manner::WithoutId,
    Manner::AnothersId,
    Manner::Late,
    Manner::ClosedInstead,
    Manner::ClosedAfter,
    Manner::DoubledThenClosed,
    Manner::DoubledThenClosedSameId,
    Manner::DoubledLateThenClosed,
    Manner::DoubledLateThenClosedSameId,
    Manner::PreviousAgain,
    Manner::Error,
    Manner::Reject,
];

const ORDERS: usize = 6;
/// The first wait of a gateway for an acknowledgement, and the longest.
const ACK_MS: (u64, u64) = (500, 2_500);
/// What a slow laboratory takes: longer than the first.
const SLOW: Duration = Duration::from_millis(1_000);

/// How long a connection stays open behind a reply.
const LINGER: Duration = Duration::from_millis(100);
/// What is on its way when a gateway stops is no concern of these tests.
const SHUTDOWN: &str = "shutdown_ms = 100\n";

fn ack(code: &str, control_id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LIS|LAB|HIS|WARD|20240101120001||ACK|A|P|2.3\rMSA|{code}|{control_id}\r")
        .into_bytes()
}

impl Manner {
    fn orders(self) -> Vec<Bytes> {
        let control_id = |order: usize| match self {
            Self::Cut => format!("{order}-LONGER-CONTROL-ID-0001"),
            Self::CutAlike => format!("LONGER-CONTROL-ID-0001-{order}"),
            Self::DoubledThenClosedSameId | Self::DoubledLateThenClosedSameId => "SAME".to_owned(),
            _ => format!("CTRL-{order}"),
        };
        let wanted = match self {
            Self::CommitThenAccept | Self::CommitThenError | Self::CommitOnly => "|||AL|AL",
            _ => "",
        };
        (1..=ORDERS)
            .map(|order| {
                let control_id = control_id(order);
                format!("MSH|^~\\&|HIS|WARD|LIS|LAB|20240101120000||ORM^O01|{control_id}|P|2.3{wanted}\rPID|1||{order}^^^H^MR\r").into()
            })
            .collect()
    }

    fn answer(self, sight: &Sight) -> Vec<Step> {
        let id = sight.control_id.as_str();
        let write = |code: &str, id: &str| Step::Write(framed(&ack(code, id)));
        // In one piece, so that the second is there when the next order is sent.
        let both = |first: &str, second: &str| {
            Step::Write([framed(&ack(first, id)), framed(&ack(second, id))].concat())
        };
        let plain = || write("AA", id);
        let ended = |end: &[u8]| {
            let whole = framed(&ack("AA", id));
            Step::Write([&whole[..whole.len() - 2], end].concat())
        };
        if sight.earlier > 0 {
            return vec![plain()];
        }
        match self {
            Self::Plain => vec![plain()],
            Self::Doubled => vec![both("AA", "AA")],
            Self::CommitThenAccept => vec![both("CA", "AA")],
            Self::CommitThenError => vec![both("CA", "AE")],
            Self::CommitOnly => vec![write("CA", id)],
            Self::EndedFsCrLf => vec![ended(b"\x1c\r\n")],
            Self::EndedFs => vec![ended(b"\x1c")],
            Self::Unframed => vec![Step::Write(ack("AA", id))],
            Self::LineEndBefore => vec![Step::Write([b"\n", &framed(&ack("AA", id))[..]].concat())],
            Self::ByteOrderMark => vec![Step::Write(framed(
                &[BYTE_ORDER_MARK, &ack("AA", id)].concat(),
            ))],
            Self::Cut | Self::CutAlike => vec![write("AA", &id[..20])],
            Self::Padded => vec![write("AA", &format!("{id}   "))],
            Self::LowerCase => vec![write("aa", id)],
            Self::WithoutId => vec![write("AA", "")],
            Self::AnothersId => vec![write("AA", "ANOTHER")],
            Self::Late => vec![Step::Wait(SLOW), plain()],
            Self::ClosedInstead => vec![Step::Close],
            Self::ClosedAfter => vec![plain(), Step::Close],
            Self::DoubledThenClosed | Self::DoubledThenClosedSameId => {
                vec![both("AA", "AA"), Step::AwaitNext, Step::Close]
            }
            // What is written last is read before the end of the connection is noticed.
            Self::DoubledLateThenClosed | Self::DoubledLateThenClosedSameId => vec![
                plain(),
                Step::AwaitNext,
                plain(),
                Step::Wait(LINGER),
                Step::Close,
            ],
            Self::PreviousAgain => {
                let number: usize = id.trim_start_matches("CTRL-").parse().unwrap();
                vec![write("AA", &format!("CTRL-{}", number - 1)), plain()]
            }
            Self::Error => vec![write("AE", id)],
            Self::Reject => vec![write("AR", id)],
        }
    }

    /// How often an order may come again: once where its first reply was lost, for the gateway as it is set up, or asked
    /// for that.
    fn repeats_max(self, settings: Settings) -> usize {
        let again = match self {
            Self::Unframed | Self::ClosedInstead | Self::Error => true,
            Self::Cut | Self::CutAlike | Self::Padded | Self::LowerCase | Self::WithoutId => {
                settings.matching == Match::Strict
            }
            Self::AnothersId => settings.matching != Match::Any,
            Self::CommitThenError => settings.awaits == Await::Application,
            _ => false,
        };
        usize::from(again)
    }
}

/// One manner under one setting, on an interface of its own.
struct Lane {
    manner: Manner,
    settings: Settings,
    interface: String,
    lab: ScriptedLab,
}

impl Lane {
    /// The laboratory, and its orders on the interface, all of them before anybody delivers.
    async fn new(manner: Manner, settings: Settings, number: usize, cluster: &Cluster) -> Self {
        let (admin, interface) = (cluster.admin(), format!("OUT-{number:03}"));
        let created = admin.create_interface(&interface, staged(&[])).await;
        created.unwrap();
        let producer = cluster.producer().start().unwrap();
        for order in manner.orders() {
            producer
                .send(&interface, Message::new(order))
                .await
                .unwrap();
        }
        Self {
            manner,
            settings,
            interface,
            lab: ScriptedLab::start(move |sight| manner.answer(sight))
                .await
                .unwrap(),
        }
    }

    fn section(&self) -> String {
        let (interface, address, settings) =
            (&self.interface, self.lab.address(), self.settings.text());
        format!("[[send]]\ninterface = \"{interface}\"\naddress = \"{address}\"\n{settings}")
    }

    /// Waits until the first order is told to be unanswered; it must have been sent once.
    async fn is_unanswered(&self, admin: &Admin) -> Result<(), String> {
        let told = within(PATIENCE, async || {
            let why = admin.explain_interface(&self.interface).await.ok()?;
            let why = why.sentences.join(" ");
            why.contains("committed, unanswered").then_some(())
        });
        match (told.await, self.lab.seen().len()) {
            (Some(()), 1) => Ok(()),
            (told, seen) => Err(format!("told: {}, seen {seen} times", told.is_some())),
        }
    }

    /// Waits until its orders have ended; what differs from what is right.
    async fn judged(&self, admin: &Admin) -> Result<(), String> {
        let orders = self.manner.orders();
        if self.manner == Manner::CommitOnly && self.settings.awaits == Await::Application {
            return self.is_unanswered(admin).await;
        }
        let ended = within(PATIENCE, async || {
            let interface = admin.get_interface(&self.interface).await.ok()?;
            (interface.destinations[0].checkpoint == ORDERS as u64).then_some(interface)
        });
        let Some(interface) = ended.await else {
            let why = admin.explain_interface(&self.interface).await;
            return Err(format!("waits: {:?}", why.map(|why| why.sentences)));
        };
        let seen = self.lab.seen();
        let times = |order: &Bytes| seen.iter().filter(|sight| sight.order == *order).count();
        let counted: Vec<_> = orders.iter().map(times).collect();
        let most = 1 + self.manner.repeats_max(self.settings);
        if counted.contains(&0) {
            return Err(format!("LOST: the orders were seen {counted:?} times"));
        }
        if counted.iter().any(|times| *times > most) {
            return Err(format!(
                "the orders were seen {counted:?} times, where {most} is the most"
            ));
        }
        let firsts: Vec<_> = seen
            .iter()
            .filter(|sight| sight.earlier == 0)
            .map(|sight| &sight.order)
            .collect();
        if !firsts.into_iter().eq(&orders) {
            return Err("out of order".to_owned());
        }
        let letters = if self.manner == Manner::Reject {
            ORDERS as u64
        } else {
            0
        };
        match interface.dead_letters == letters {
            true => Ok(()),
            false => Err(format!(
                "{} dead letters, where {letters} are right",
                interface.dead_letters
            )),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manner_of_acknowledging_under_the_default_settings() {
    acknowledge(Settings::all().take(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the whole cross product takes some minutes"]
async fn every_manner_of_acknowledging_under_every_setting() {
    acknowledge(Settings::all()).await;
}

/// Every manner under each of these settings.
async fn acknowledge(under: impl Iterator<Item = Settings>) {
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    let outbound = format!(
        "[outbound]\nack_ms = {}\nack_ms_max = {}\nsilence_ms = 200\npause_ms_min = 20\npause_ms_max = 200\n",
        ACK_MS.0, ACK_MS.1
    );
    let (mut played, mut differ) = (0, Vec::new());
    // Not all at once, so that nothing is late but what is meant to be.
    for settings in under {
        let mut lanes = Vec::new();
        for manner in MANNERS {
            lanes.push(Lane::new(manner, settings, played, &cluster).await);
            played += 1;
        }
        let sections: String = lanes.iter().map(Lane::section).collect();
        let gateway = match gateway(&nodes, &(SHUTDOWN.to_owned() + &sections + &outbound)).await {
            Ok(gateway) => gateway,
            Err(error) => {
                differ.push(format!("{settings:?}: no gateway: {error:#}"));
                continue;
            }
        };
        let judged = join_all(lanes.iter().map(|lane| lane.judged(&admin))).await;
        for (lane, judged) in lanes.iter().zip(judged) {
            if let Err(how) = judged {
                differ.push(format!("{:?} {settings:?}: {how}", lane.manner));
            }
        }
        gateway.shutdown().await;
    }
    println!("{played} laboratories");
    assert!(
        differ.is_empty(),
        "{} of {played} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}
