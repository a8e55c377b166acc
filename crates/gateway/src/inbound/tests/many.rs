//! One address for many interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use ordo_client::CallError;

use super::super::route::{Directory, Found};
use super::*;
use crate::ack::Outcome;
use crate::template::Template;

/// In the place of a producer: accepts everything at once.
struct Accepts(Arc<AtomicUsize>);

impl Sink for Accepts {
    type Receipt = std::future::Ready<Answer>;

    async fn enqueue(&self, _: ordo_client::Message) -> Result<Self::Receipt, SendError> {
        let sequence = self.0.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        let duplicate = false;
        Ok(std::future::ready(Ok(Accepted {
            sequence,
            duplicate,
        })))
    }
}

/// In the place of the cluster: has some interfaces, and says who asked.
#[derive(Clone)]
struct Sites {
    there: Arc<dyn Fn(&str) -> Found + Send + Sync>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Directory for Sites {
    fn find(&self, name: String) -> BoxFuture<'_, Result<Found, CallError>> {
        let found = (self.there)(&name);
        self.asked.lock().unwrap().push(name);
        Box::pin(std::future::ready(Ok(found)))
    }
}

struct Many<K> {
    inbound: Inbound<K>,
    sites: Sites,
    opened: Arc<Mutex<BTreeSet<String>>>,
}

fn many(
    names: &[(&str, &str)],
    there: impl Fn(&str) -> Found + Send + Sync + 'static,
) -> Many<Accepts> {
    let counted = Arc::new(AtomicUsize::new(0));
    many_into(names, there, move || Accepts(Arc::clone(&counted)))
}

fn many_into<K: Sink>(
    names: &[(&str, &str)],
    there: impl Fn(&str) -> Found + Send + Sync + 'static,
    sink: impl Fn() -> K + Send + Sync + 'static,
) -> Many<K> {
    let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
    let sites = Sites {
        there: Arc::new(there),
        asked: Arc::default(),
    };
    let names: BTreeMap<_, _> = names
        .iter()
        .map(|(made, name)| ((*made).to_owned(), (*name).to_owned()))
        .collect();
    let route = Route::new(Template::parse("in/{MSH-4}.{MSH-6}").unwrap(), names);
    let opened: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let open = {
        let (tasks, abort, opened) = (tasks.clone(), abort.clone(), Arc::clone(&opened));
        move |interface: &str| {
            opened.lock().unwrap().insert(interface.to_owned());
            Intake::new(sink(), tasks.clone(), abort.clone())
        }
    };
    let inbound = Inbound {
        interface: "in/{MSH-4}.{MSH-6}".to_owned(),
        limits: InboundConfig::default(),
        messages: MessageConfig::default(),
        refusals: Refusals::in_memory(),
        lanes: Lanes::many(route, sites.clone(), open),
        crowd: Crowd::new(1),
        metrics: Metrics::new(),
        reply_ids: Arc::new(ReplyIds::new()),
        warnings: Warnings::default(),
        stop: CancellationToken::new(),
        abort,
        tasks,
    };
    Many {
        inbound,
        sites,
        opened,
    }
}

fn message_of(site: &str, lab: &str) -> Bytes {
    format!("MSH|^~\\&|HIS|{site}|LIS|{lab}|20240101||ORM^O01|1|P|2.5\rPID|1\r").into()
}

impl<K: Sink> Many<K> {
    /// The code of the reply, and its text.
    async fn send(&self, site: &str, lab: &str) -> (AckCode, String) {
        let message = message_of(site, lab);
        let (outcome, _) = self.inbound.hand_over(&message, &"a test").await;
        let reply = self.inbound.reply(&message, &outcome).unwrap();
        let ack = ReceivedAck::read(&reply).unwrap();
        (ack.code, ack.text)
    }
}

#[tokio::test]
async fn each_message_goes_to_the_interface_that_its_header_names() {
    let names = [("in/WARD 3.LAB", "in/ward-3"), ("in/OLD.LAB", "in/NEW.LAB")];
    let many = many(&names, |_| Found::There);
    for (site, lab) in [("A", "LAB"), ("B", "LAB"), ("WARD 3", "LAB"), ("A", "LAB")] {
        assert_eq!(many.send(site, lab).await.0, AckCode::ApplicationAccept);
    }
    let expected = ["in/A.LAB", "in/B.LAB", "in/ward-3"];
    assert_eq!(*many.sites.asked.lock().unwrap(), expected, "each once");
    assert_eq!(many.send("OLD", "LAB").await.0, AckCode::ApplicationAccept);
    assert!(many.opened.lock().unwrap().contains("in/NEW.LAB"));

    let (code, text) = many.send("NEW", "LAB").await;
    assert_eq!(
        code,
        AckCode::ApplicationReject,
        "that is OLD's by the table"
    );
    assert_eq!(
        text,
        "MSH-4 and MSH-6 name an interface that does not exist and is not created here"
    );
}

#[tokio::test]
async fn what_names_no_interface_is_rejected_and_nobody_is_asked() {
    let many = many(&[], |_| Found::There);
    for (site, lab, field) in [
        ("A.B", "LAB", "MSH-4"),
        ("A", "", "MSH-6"),
        ("A", "B C", "MSH-6"),
        ("A^B", "LAB", "MSH-4"),
    ] {
        let (code, text) = many.send(site, lab).await;
        assert_eq!(code, AckCode::ApplicationReject);
        assert!(text.starts_with(field), "{text}");
    }
    assert!(many.sites.asked.lock().unwrap().is_empty());
    assert!(many.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_interface_that_does_not_exist_is_rejected_and_opened_once_it_does() {
    let there = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&there);
    let many = many(&[], move |_| match told.load(Ordering::Relaxed) {
        0 => Found::Missing,
        1 => Found::Full { cap: 7 },
        2 => Found::NoTemplate,
        _ => Found::There,
    });
    let fields = "MSH-4 and MSH-6 name an interface that does not exist";
    let expected = [
        (
            AckCode::ApplicationReject,
            format!("{fields} and is not created here"),
        ),
        (
            AckCode::ApplicationReject,
            format!("{fields}, and no more are created: there are 7 already"),
        ),
        (
            AckCode::ApplicationError,
            "the interface that new ones are made like does not exist".to_owned(),
        ),
    ];
    for reply in expected {
        assert_eq!(many.send("A", "LAB").await, reply);
        assert!(many.opened.lock().unwrap().is_empty());
        there.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(many.send("A", "LAB").await.0, AckCode::ApplicationAccept);
}

#[tokio::test]
async fn twenty_five_thousand_interfaces_leave_no_task_behind() {
    let many = many(&[], |_| Found::There);
    for n in 0..25_000 {
        let message = message_of(&format!("SITE-{n}"), "LAB");
        let (outcome, _) = many.inbound.hand_over(&message, &"a test").await;
        assert_eq!(outcome, Outcome::Accepted);
    }
    assert_eq!(many.opened.lock().unwrap().len(), 25_000);
    many.inbound.tasks.close();
    timeout(LIMIT, many.inbound.tasks.wait()).await.unwrap();
    let each = size_of::<Target<Lane>>();
    assert!(each <= 256, "{each} bytes for an interface");
}

#[tokio::test]
async fn an_interface_that_is_gone_is_looked_for_once_more() {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let sink = move || TestSink {
        requests: sender.clone(),
        room: Arc::new(Semaphore::new(10)),
    };
    let many = many_into(&[], |_| Found::There, sink);
    let gone = || refused(Reason::UnknownInterface, "there is no such interface");
    let play = async {
        for answer in [gone(), gone()] {
            let request: Request = requests.recv().await.unwrap();
            request.answer(answer);
        }
    };
    let ((code, _), ()) = tokio::join!(many.send("A", "LAB"), play);
    assert_eq!(code, AckCode::ApplicationError, "it comes and goes");
    assert_eq!(many.sites.asked.lock().unwrap().len(), 2);
    let play = async {
        requests.recv().await.unwrap().answer(gone());
        requests.recv().await.unwrap().accept(1);
    };
    let ((code, _), ()) = tokio::join!(many.send("A", "LAB"), play);
    assert_eq!(code, AckCode::ApplicationAccept, "it was created again");
}

#[tokio::test]
async fn an_interface_that_takes_nothing_leaves_room_for_the_others() {
    // Nobody is there: whatever is queued stays.
    let cluster = ordo_client::Cluster::connect(["127.0.0.1:1"]).unwrap();
    let producer = cluster.producer().start().unwrap();
    let lane = |interface: &str| Lane {
        producer: producer.clone(),
        interface: interface.to_owned(),
        share: Some(Arc::new(Semaphore::new(SHARE_BYTES))),
    };
    let enqueue = async |lane: &Lane, bytes: usize| {
        let queued = lane.enqueue(ordo_client::Message::new(vec![0; bytes]));
        timeout(SILENCE, queued).await
    };
    let (stuck, other) = (lane("A"), lane("B"));
    let half = enqueue(&stuck, SHARE_BYTES / 2).await.unwrap().unwrap();
    let _rest = enqueue(&stuck, SHARE_BYTES / 2).await.unwrap().unwrap();
    assert!(enqueue(&stuck, 100).await.is_err());
    let _large = enqueue(&other, 2 * SHARE_BYTES).await.unwrap().unwrap();
    drop(half);
    assert!(enqueue(&stuck, 100).await.is_ok());
}
