//! The table of what real peers send and answer: every file of `../shared/data/mllp-cases`, whose README says what is
//! right, with real gateways and a real cluster. `hl7_crossed.rs` has the whole cross product.

use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::{Admin, Message};
use ordo_gateway::gateway::Gateway;
use ordo_tests::load::{Arrivals, consume, staged};
use ordo_tests::mllp::{RawSender, field, framed, gateway, peer_cases};
use ordo_tests::scripted_lab::{ScriptedLab, Sight, Step};
use ordo_tests::{Nodes, within};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long what is right may take to show. What is wrong is often silence, and takes that long to be told.
const SOON: Duration = Duration::from_secs(10);
/// An order that nobody can find fault with. Its reply shows that a connection goes on, and that nothing was said
/// before it that should not have been.
const PLAIN: &str =
    "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101120000||ORM^O01|PLAIN|P|2.3\rPID|1||77^^^H^MR\r";
/// The same for laboratories.
const NEXT: &str =
    "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101120000||ORM^O01|CTRL-2|P|2.3\rPID|1||77^^^H^MR\r";

/// One row.
struct Case {
    /// How its file's name begins.
    file: &'static str,
    /// What its `[[listen]]` or `[[send]]` has beside what it needs.
    settings: &'static str,
    right: Right,
}

/// What is right.
enum Right {
    /// These replies, and the connection goes on; and what the interface has got then.
    Replies(&'static [Reply], Passed),
    /// This reply, the connection goes on, and the list of refusals has a row that says this, without the message.
    Listed(&'static [Reply], &'static str),
    /// For an answer: the order that is answered so, and what becomes of it.
    Becomes(Order, Fate),
}

struct Reply {
    code: &'static str,
    /// MSA-2, where it can be known.
    control_id: Option<&'static str>,
    /// Words of its text.
    says: &'static [&'static str],
}

enum Passed {
    /// The first so many frames, as they came.
    Frames(usize),
    /// Each message of the only frame.
    Pieces,
}

struct Order {
    control_id: &'static str,
    /// What follows MSH-12.
    acknowledgements: &'static str,
}

enum Fate {
    /// It reaches the laboratory once, and the next on the same connection.
    Delivered,
    /// It reaches the laboratory once.
    DeliveredOnce,
    /// It waits, and `why` has these words but not those.
    Waits(&'static [&'static str], &'static str),
    /// A dead letter with this in its reason; the next goes on.
    DeadLetter(&'static str),
}

const fn taken(control_id: &'static str) -> Reply {
    Reply {
        code: "AA",
        control_id: Some(control_id),
        says: &[],
    }
}

const fn refused(says: &'static [&'static str]) -> Reply {
    Reply {
        code: "AR",
        control_id: None,
        says,
    }
}

const ORIGINAL: Order = Order {
    control_id: "CTRL-1",
    acknowledgements: "",
};
const ENHANCED: Order = Order {
    control_id: "CTRL-1",
    acknowledgements: "|||AL|AL",
};
const LONG: Order = Order {
    control_id: "LONGER-CONTROL-ID-0001",
    acknowledgements: "",
};

const fn row(file: &'static str, settings: &'static str, right: Right) -> Case {
    Case {
        file,
        settings,
        right,
    }
}

const fn replies(file: &'static str, replies: &'static [Reply], passed: Passed) -> Case {
    row(file, "", Right::Replies(replies, passed))
}

const fn becomes(file: &'static str, order: Order, fate: Fate) -> Case {
    row(file, "", Right::Becomes(order, fate))
}

static TABLE: &[Case] = &[
    replies(
        "in-01",
        &[taken("A0"), taken("A1"), taken("A2")],
        Passed::Frames(3),
    ),
    replies("in-02", &[taken("D0")], Passed::Frames(1)),
    replies("in-03", &[taken("C0"), taken("C1")], Passed::Frames(2)),
    replies("in-04", &[taken("F1"), taken("F2")], Passed::Frames(2)),
    replies("in-05", &[taken("G0")], Passed::Frames(1)),
    replies("in-07", &[refused(&["2"])], Passed::Frames(0)),
    row(
        "in-07",
        "batch = \"split\"\n",
        Right::Replies(&[taken("J0"), taken("J1")], Passed::Pieces),
    ),
    row(
        "in-08",
        "",
        Right::Listed(&[refused(&["MSH-10"])], "MSH-10"),
    ),
    replies("in-09", &[refused(&["UTF-16"])], Passed::Frames(0)),
    replies("in-10", &[taken("V1")], Passed::Frames(1)),
    replies(
        "in-11",
        &[taken("N0"), refused(&["sequence 1"])],
        Passed::Frames(1),
    ),
    row(
        "in-11",
        "ignored = [\"MSH-7\"]\n",
        Right::Replies(&[taken("N0"), taken("N0")], Passed::Frames(1)),
    ),
    row(
        "in-11",
        "identity = \"control_id_and_time\"\n",
        Right::Replies(&[taken("N0"), taken("N0")], Passed::Frames(2)),
    ),
    becomes("ack-01", ENHANCED, Fate::Delivered),
    becomes("ack-03", ORIGINAL, Fate::Delivered),
    becomes("ack-04", ORIGINAL, Fate::Delivered),
    becomes(
        "ack-05",
        ORIGINAL,
        Fate::Waits(&["frame"], "no acknowledgement"),
    ),
    becomes("ack-06", ORIGINAL, Fate::Delivered),
    becomes("ack-08", ORIGINAL, Fate::Delivered),
    becomes(
        "ack-09",
        LONG,
        Fate::Waits(&["MSA-2", "lenient"], "no acknowledgement"),
    ),
    row(
        "ack-09",
        "match = \"lenient\"\n",
        Right::Becomes(LONG, Fate::DeliveredOnce),
    ),
    becomes("ack-11", ORIGINAL, Fate::DeadLetter("Prüfung: Größe 検査")),
];

/// A row with what it runs on.
struct Run {
    case: &'static Case,
    interface: String,
    bytes: Bytes,
    /// The laboratory that answers with the file.
    lab: Option<ScriptedLab>,
}

impl Run {
    async fn new(number: usize, case: &'static Case, files: &BTreeMap<String, Bytes>) -> Self {
        let mut named = files.iter().filter(|(name, _)| name.starts_with(case.file));
        let (_, bytes) = named
            .next()
            .unwrap_or_else(|| panic!("{} is missing", case.file));
        let lab = match &case.right {
            Right::Replies(..) | Right::Listed(..) => None,
            Right::Becomes(order, _) => {
                let (odd, answer) = (order.control_id, bytes.to_vec());
                let script = move |sight: &Sight| {
                    let plain = format!(
                        "MSH|^~\\&|LIS|LAB|HIS|WARD|20240101120001||ACK|A|P|2.3\rMSA|AA|{}\r",
                        sight.control_id
                    );
                    vec![Step::Write(match sight.control_id == odd {
                        true => answer.clone(),
                        false => framed(plain.as_bytes()),
                    })]
                };
                Some(ScriptedLab::start(script).await.unwrap())
            }
        };
        Self {
            interface: format!("{}/{number}", case.file),
            bytes: bytes.clone(),
            case,
            lab,
        }
    }

    /// What a gateway's configuration has for it.
    fn section(&self) -> String {
        let (kind, address) = match &self.lab {
            None => ("listen", "127.0.0.1:0".to_owned()),
            Some(lab) => ("send", lab.address().to_string()),
        };
        let (interface, settings) = (&self.interface, self.case.settings);
        format!("[[{kind}]]\ninterface = \"{interface}\"\naddress = \"{address}\"\n{settings}")
    }

    /// Whether it has a gateway of its own.
    fn alone(&self) -> bool {
        !self.case.settings.is_empty() || matches!(self.case.right, Right::Listed(..))
    }

    fn name(&self) -> String {
        format!("{} {}", self.case.file, self.case.settings.trim_end())
    }
}

/// The gateways, and for each run where it is listened for, or why it has none.
struct Gateways {
    running: Vec<Gateway>,
    places: Vec<Result<Option<SocketAddr>, String>>,
}

impl Gateways {
    /// One gateway for all that are content with that, and one for each of the others.
    async fn start(nodes: &Nodes, runs: &[Run]) -> Self {
        let together = |run: &&Run| !run.alone();
        let all: String = runs.iter().filter(together).map(Run::section).collect();
        let shared = gateway(nodes, &(all + QUICK)).await.unwrap();
        let mut listening = shared.listening().to_vec().into_iter();
        let (mut running, mut places) = (vec![shared], Vec::new());
        for run in runs {
            if together(&run) {
                let listens = run.lab.is_none();
                places.push(Ok(listens.then(|| listening.next().unwrap())));
                continue;
            }
            let state = match run.case.right {
                Right::Listed(..) => format!("state = {:?}\n", state(nodes)),
                _ => String::new(),
            };
            places.push(
                match gateway(nodes, &(state + &run.section() + QUICK)).await {
                    Ok(gateway) => {
                        let place = gateway.listening().first().copied();
                        running.push(gateway);
                        Ok(place)
                    }
                    Err(error) => Err(format!("no gateway: {error:#}")),
                },
            );
        }
        Self { running, places }
    }
}

/// The folder of what survives a gateway's restart.
fn state(nodes: &Nodes) -> PathBuf {
    nodes.folder().join("gateway")
}

/// Short enough that what a gateway makes of a reply that it can't take shows in time.
const QUICK: &str = "[outbound]\nack_ms = 2000\npause_ms_min = 50\npause_ms_max = 500\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_real_peers_send_and_answer_is_taken_for_what_it_is() {
    let Some(files) = peer_cases().unwrap() else {
        return println!("skipped: the folder with what real peers send is not there");
    };
    let nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let admin = cluster.admin();
    let mut runs = Vec::new();
    for (number, case) in TABLE.iter().enumerate() {
        let run = Run::new(number, case, &files).await;
        admin
            .create_interface(&run.interface, staged(&[]))
            .await
            .unwrap();
        runs.push(run);
    }
    // Both orders are there when the first goes out, so that what follows its reply meets the second.
    let producer = cluster.producer().start().unwrap();
    for run in &runs {
        if let Right::Becomes(order, _) = &run.case.right {
            let Order {
                control_id,
                acknowledgements,
            } = order;
            let first = format!(
                "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101120000||ORM^O01|{control_id}|P|2.3{acknowledgements}\rPID|1\r"
            );
            producer
                .send(&run.interface, Message::new(first))
                .await
                .unwrap();
            producer
                .send(&run.interface, Message::new(NEXT))
                .await
                .unwrap();
        }
    }
    let gateways = Gateways::start(&nodes, &runs).await;
    let incoming: Vec<_> = runs
        .iter()
        .filter(|run| run.lab.is_none())
        .map(|run| run.interface.as_str())
        .collect();
    let (_consumer, arrivals) = consume(&cluster, &incoming).unwrap();

    let judged = runs.iter().zip(&gateways.places).map(async |(run, place)| {
        match (place, &run.case.right) {
            (Err(refused), _) => Err(refused.clone()),
            (Ok(place), Right::Replies(replies, passed)) => {
                replied(run, place.unwrap(), replies, passed, &arrivals).await
            }
            (Ok(place), Right::Listed(replies, reason)) => {
                let none = Passed::Frames(0);
                let replied = replied(run, place.unwrap(), replies, &none, &arrivals).await;
                match replied {
                    Ok(()) => listed(run, reason, &state(&nodes)).await,
                    Err(how) => Err(how),
                }
            }
            (Ok(_), Right::Becomes(order, fate)) => became(run, order, fate, &admin).await,
        }
    });
    let mut differ: Vec<_> = join_all(judged)
        .await
        .into_iter()
        .zip(&runs)
        .filter_map(|(judged, run)| judged.err().map(|how| format!("{}: {how}", run.name())))
        .collect();
    let rows: BTreeSet<_> = TABLE.iter().map(|case| case.file).collect();
    for file in files.keys() {
        if !rows.iter().any(|row| file.starts_with(row)) {
            differ.push(format!("{file} has no row in the table"));
        }
    }
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
    for gateway in gateways.running {
        gateway.shutdown().await;
    }
}

/// What is between VT and FS.
fn frames(file: &Bytes) -> Vec<Bytes> {
    let parts = file.split(|byte| *byte == 0x0b).skip(1);
    let texts = parts.filter_map(|part| part.split(|byte| *byte == 0x1c).next());
    texts.map(|text| file.slice_ref(text)).collect()
}

async fn replied(
    run: &Run,
    place: SocketAddr,
    replies: &[Reply],
    passed: &Passed,
    arrivals: &Arrivals,
) -> Result<(), String> {
    let mut sender = RawSender::connect(place)
        .await
        .map_err(|error| error.to_string())?;
    sender
        .write(&run.bytes)
        .await
        .map_err(|error| error.to_string())?;
    for (number, expected) in (1..).zip(replies) {
        heard(&mut sender, expected)
            .await
            .map_err(|how| format!("reply {number}: {how}"))?;
    }
    sender
        .write(&framed(PLAIN.as_bytes()))
        .await
        .map_err(|error| error.to_string())?;
    heard(&mut sender, &taken("PLAIN"))
        .await
        .map_err(|how| format!("the order behind it: {how}"))?;

    let mut expected = match passed {
        Passed::Frames(count) => frames(&run.bytes)[..*count].to_vec(),
        Passed::Pieces => {
            let frame = &frames(&run.bytes)[0];
            let second = 3 + frame[3..]
                .windows(4)
                .position(|bytes| bytes == b"MSH|")
                .unwrap();
            vec![frame.slice(..second), frame.slice(second..)]
        }
    };
    expected.push(PLAIN.into());
    let arrived = || {
        let arrived = arrivals.of(&run.interface).unwrap();
        arrived
            .into_iter()
            .map(|arrival| arrival.payload)
            .collect::<Vec<_>>()
    };
    within(SOON, async || {
        (arrived().len() >= expected.len()).then_some(())
    })
    .await;
    match arrived() == expected {
        true => Ok(()),
        false => Err(format!(
            "passed on are {} messages that are not the {} expected",
            arrived().len(),
            expected.len()
        )),
    }
}

/// The list of refusals is the only thing in a gateway's folder.
async fn listed(run: &Run, reason: &str, state: &Path) -> Result<(), String> {
    let list = async || {
        let files = std::fs::read_dir(state).ok()?;
        let text = |file: std::fs::DirEntry| std::fs::read_to_string(file.path()).ok();
        Some(files.flatten().filter_map(text).collect::<String>())
    };
    let right = |list: &String| {
        let mut rows = list.lines();
        rows.any(|row| row.contains(&run.interface) && row.contains(reason))
    };
    match within(SOON, async || list().await.filter(right)).await {
        None => Err(format!("no row says {reason}")),
        Some(list) if list.contains("PATIENT") => Err("the list has the message".to_owned()),
        Some(_) => Ok(()),
    }
}

async fn heard(sender: &mut RawSender, expected: &Reply) -> Result<(), String> {
    let reply = sender
        .reply(SOON)
        .await
        .map_err(|error| error.to_string())?;
    let Some(reply) = reply else {
        return Err(format!("none, where {} is right", expected.code));
    };
    let (code, control_id) = (field(&reply, "MSA", 1), field(&reply, "MSA", 2));
    let text = [field(&reply, "MSA", 3), field(&reply, "ERR", 8)].join(" ");
    let named = expected
        .control_id
        .is_none_or(|expected| control_id == expected);
    if code != expected.code || !named || !expected.says.iter().all(|word| text.contains(word)) {
        let right = format!(
            "{} {} {:?}",
            expected.code,
            expected.control_id.unwrap_or_default(),
            expected.says
        );
        return Err(format!(
            "{code} {control_id} {text:?}, where {right} is right"
        ));
    }
    Ok(())
}

async fn became(run: &Run, order: &Order, fate: &Fate, admin: &Admin) -> Result<(), String> {
    let seen = || run.lab.as_ref().map(ScriptedLab::seen).unwrap_or_default();
    let why = async || {
        let explained = admin.explain_interface(&run.interface).await.ok()?;
        Some(explained.sentences.join(" "))
    };
    if let Fate::Waits(says, never) = fate {
        let right =
            |why: &String| says.iter().all(|word| why.contains(word)) && !why.contains(never);
        let found = within(SOON, async || why().await.filter(right)).await;
        return match found {
            Some(_) => Ok(()),
            None => Err(format!(
                "why says {:?}, where {says:?} without {never:?} is right",
                why().await
            )),
        };
    }
    let passed = within(SOON, async || {
        let interface = admin.get_interface(&run.interface).await.ok()?;
        (interface.destinations[0].checkpoint == 2).then_some(())
    });
    if passed.await.is_none() {
        return Err(format!(
            "waits after {} deliveries: {:?}",
            seen().len(),
            why().await
        ));
    }
    let seen = seen();
    let ids: Vec<_> = seen.iter().map(|sight| sight.control_id.as_str()).collect();
    let on_one = seen.iter().all(|sight| sight.connection == 1);
    let letters = admin
        .list_dead_letters(&run.interface, 0, 0)
        .await
        .map_err(|error| error.to_string())?;
    let reasons: Vec<_> = letters
        .dead_letters
        .iter()
        .map(|letter| letter.reason.as_str())
        .collect();
    let right = match fate {
        Fate::Delivered => on_one && reasons.is_empty(),
        Fate::DeadLetter(reason) => matches!(reasons[..], [only] if only.contains(reason)),
        Fate::DeliveredOnce | Fate::Waits(..) => reasons.is_empty(),
    };
    match right && ids == [order.control_id, "CTRL-2"] {
        true => Ok(()),
        false => Err(format!(
            "the laboratory saw {ids:?}, on one connection: {on_one}; dead letters: {reasons:?}"
        )),
    }
}
