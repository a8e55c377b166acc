//! What laboratories answer: manners of acknowledging.

use super::BYTE_ORDER_MARK;
use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::{Admin, Cluster, Message};
use ordo_tests::load::staged;
use ordo_tests::mllp::{framed, gateway};
use ordo_tests::scripted_lab::{ScriptedLab, Sight, Step};
use ordo_tests::{Nodes, PATIENCE, within};
use std::time::Duration;

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
