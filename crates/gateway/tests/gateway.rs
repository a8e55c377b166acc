//! A whole gateway between MLLP and a node whose streams are played by the test.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../../client/tests/client/support.rs"]
#[allow(dead_code, reason = "not every kind of stream is played here")]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ordo_client::{Reason, Uuid};
use ordo_gateway::ack::{AckCode, Outcome, ReceivedAck, acknowledge};
use ordo_gateway::config::{FieldName, GatewayConfig, ListenConfig, OutboundConfig, SendConfig};
use ordo_gateway::gateway::{Gateway, StartError};
use ordo_gateway::lab::{Lab, LabAnswer, LabConfig};
use ordo_gateway::mllp::MllpCodec;
use ordo_gateway::msh::Msh;
use ordo_gateway::orders::{Order, OrderGenerator};
use ordo_gateway::refusals;
use ordo_gateway::time::Hl7Time;
use ordo_wire::status::Failure;
use ordo_wire::v1::answer::Answer as Kind;
use ordo_wire::v1::delivery::Content;
use ordo_wire::v1::ingest_result::Result as Item;
use ordo_wire::v1::subscription_state::State;
use ordo_wire::v1::{
    AnswerResult, DeliverRequest, DeliverResponse, DeliveredMessage, Deliveries, Delivery,
    IngestAccepted, IngestMessage, IngestRefused, IngestResponse, IngestResult, SkipMarker,
    SkipReason, Subscribe, SubscriptionEnded, SubscriptionGranted, SubscriptionState,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;

use crate::support::{Deliver, Ingest, Node, within};

const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// How long silence is listened to before it counts as silence.
const SILENCE: Duration = Duration::from_millis(150);

fn orders(count: usize) -> Vec<Order> {
    OrderGenerator::new("RAD", 1).take(count).collect()
}

fn config() -> GatewayConfig {
    GatewayConfig {
        outbound: OutboundConfig {
            ack: Duration::from_secs(5),
            pause_min: Duration::from_millis(20),
            pause_max: Duration::from_millis(80),
            ..OutboundConfig::default()
        },
        ..GatewayConfig::default()
    }
}

fn listening() -> GatewayConfig {
    GatewayConfig {
        listen: vec![ListenConfig::new(FREE, "RAD")],
        ..config()
    }
}

fn sending(address: SocketAddr) -> GatewayConfig {
    let send = SendConfig {
        interface: "RAD".to_owned(),
        destination: "lab".to_owned(),
        address: address.to_string(),
        ..SendConfig::default()
    };
    GatewayConfig {
        send: vec![send],
        ..config()
    }
}

async fn start(config: GatewayConfig, node: &Node) -> Gateway {
    Gateway::start(config, &node.cluster()).await.unwrap()
}

async fn connect(gateway: &Gateway) -> Framed<TcpStream, MllpCodec> {
    let stream = TcpStream::connect(gateway.listening()[0]).await.unwrap();
    Framed::new(stream, MllpCodec::default())
}

async fn code(sender: &mut Framed<TcpStream, MllpCodec>) -> String {
    let reply = within(sender.next()).await.unwrap().unwrap();
    ReceivedAck::read(&reply).unwrap().code.to_string()
}

/// The next message on an ingest stream, its interface and the refusal its frame names.
async fn ingested(stream: &mut Ingest) -> (IngestMessage, String, u64) {
    let mut frame = stream.next().await;
    assert_eq!(frame.batches.len(), 1);
    let mut batch = frame.batches.remove(0);
    assert_eq!(batch.messages.len(), 1);
    (
        batch.messages.remove(0),
        batch.interface,
        batch.after_refusal,
    )
}

fn result(item: Item) -> IngestResponse {
    let result = IngestResult { result: Some(item) };
    IngestResponse {
        results: vec![result],
    }
}

fn accepted(sequence: u64) -> IngestResponse {
    let duplicate = false;
    result(Item::Accepted(IngestAccepted {
        sequence,
        duplicate,
    }))
}

fn refused(reason: Reason, refusal: u64) -> IngestResponse {
    result(Item::Refused(IngestRefused {
        reason: reason.into(),
        text: "as the test says".to_owned(),
        refusal,
        retry_after_ms: 5,
        ..IngestRefused::default()
    }))
}

#[tokio::test]
async fn an_order_reaches_the_cluster_and_its_reply_outlasts_refusals_and_leaders() {
    let mut node = Node::start().await;
    let gateway = start(listening(), &node).await;
    let mut sender = connect(&gateway).await;
    let order = orders(1).remove(0);
    sender.send(order.payload.clone()).await.unwrap();

    let mut stream = node.ingest().await;
    let (message, interface, _) = ingested(&mut stream).await;
    let id = Msh::scan(&order.payload).unwrap().message_id().unwrap();
    assert_eq!(interface, "RAD");
    assert_eq!(message.payload, order.payload);
    assert_eq!(Uuid::from_slice(&message.message_id).unwrap(), id);

    for refusal in 1..=3 {
        stream.send(refused(Reason::WindowFull, refusal));
        let (again, _, after_refusal) = ingested(&mut stream).await;
        assert_eq!((again, after_refusal), (message.clone(), refusal));
    }
    stream.fail(Failure::new(Reason::NotLeader, "the test is over with you"));
    let mut stream = node.ingest().await;
    assert_eq!(ingested(&mut stream).await.0, message);
    let silent = tokio::time::timeout(SILENCE, sender.next()).await.is_err();
    assert!(silent, "it was answered before the cluster had it");
    stream.send(accepted(1));
    assert_eq!(code(&mut sender).await, "AA");
    within(gateway.shutdown()).await;
}

#[tokio::test]
async fn a_refusal_for_good_reaches_the_sender() {
    let mut node = Node::start().await;
    let gateway = start(listening(), &node).await;
    let mut sender = connect(&gateway).await;
    let expected = [
        (Reason::ConflictingPayload, "AR"),
        (Reason::UnknownInterface, "AE"),
    ];
    let mut stream = None;
    for (order, (reason, expected)) in orders(2).into_iter().zip(expected) {
        sender.send(order.payload).await.unwrap();
        let stream = match &mut stream {
            Some(stream) => stream,
            none => none.insert(node.ingest().await),
        };
        ingested(stream).await;
        stream.send(refused(reason, 0));
        assert_eq!(code(&mut sender).await, expected);
    }
    within(gateway.shutdown()).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_reply_in_flight_but_not_for_ever() {
    for answered in [true, false] {
        let mut node = Node::start().await;
        let mut config = listening();
        if !answered {
            config.shutdown = Duration::from_millis(100);
        }
        let gateway = start(config, &node).await;
        let mut sender = connect(&gateway).await;
        sender.send(orders(1).remove(0).payload).await.unwrap();
        let mut stream = node.ingest().await;
        ingested(&mut stream).await;
        let shutdown = tokio::spawn(gateway.shutdown());
        if answered {
            stream.send(accepted(1));
            assert_eq!(code(&mut sender).await, "AA");
        }
        assert!(!matches!(within(sender.next()).await, Some(Ok(_))));
        within(shutdown).await.unwrap();
    }
}

#[tokio::test]
async fn a_repetition_that_may_differ_is_the_same_for_the_cluster() {
    let order = |time: &str, end: &str| {
        format!("MSH|^~\\&|HIS|WARD|LIS|LAB|{time}||ORM^O01|N0|P|2.3\rPID|1||77{end}")
    };
    let sent = [order("1", "\r"), order("22", "\r"), order("1", "")];
    for ignored in [&[][..], &["MSH-7"]] {
        let mut node = Node::start().await;
        let mut config = listening();
        config.listen[0].messages.ignored = ignored
            .iter()
            .map(|name| FieldName::parse(name).unwrap())
            .collect();
        let gateway = start(config, &node).await;
        let mut sender = connect(&gateway).await;
        let (mut stream, mut known_by) = (None, Vec::new());
        for order in &sent {
            sender.send(order.clone()).await.unwrap();
            let stream = match &mut stream {
                Some(stream) => stream,
                none => none.insert(node.ingest().await),
            };
            let message = ingested(stream).await.0;
            assert_eq!(
                message.payload,
                order.as_bytes(),
                "bytes go on as they came"
            );
            known_by.push((message.message_id, message.digest));
            stream.send(accepted(1));
            assert_eq!(code(&mut sender).await, "AA");
        }
        assert_eq!(known_by[0] == known_by[1], !ignored.is_empty());
        assert_eq!(known_by[0], known_by[2]);
        within(gateway.shutdown()).await;
    }
}

#[tokio::test]
async fn refusals_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start().await;
    let rows = async |expected: usize| {
        within(async {
            loop {
                let rows = refusals::read(folder.path()).unwrap();
                if rows.len() == expected {
                    return rows;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };
    for number in 1..=2 {
        let mut config = listening();
        config.state = Some(folder.path().to_owned());
        let gateway = start(config, &node).await;
        let mut sender = connect(&gateway).await;
        // Nobody waits for a reply.
        let order = format!("MSH|^~\\&|A|B|C|D|||ORM^O01|R{number}|P|2.5|||NE\rPID|\x07SECRET");
        sender.send(order).await.unwrap();
        let rows = rows(number).await;
        let last = rows.last().unwrap();
        assert_eq!(
            (&last.interface[..], last.control_id.clone()),
            ("RAD", format!("R{number}"))
        );
        assert!(
            last.reason.starts_with("a control byte inside the text"),
            "{}",
            last.reason
        );
        assert!(!format!("{rows:?}").contains("SECRET"));
        within(gateway.shutdown()).await;
    }
    // A folder that is a file is told by name.
    let mut config = listening();
    config.state = Some(folder.path().join(refusals::FILE_NAME));
    let error = Gateway::start(config, &node.cluster()).await.unwrap_err();
    assert!(
        error.to_string().starts_with("state: can't use "),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_listened_on_or_is_configured_wrongly_is_named() {
    let node = Node::start().await;
    let taken = TcpListener::bind(FREE).await.unwrap();
    let mut config = listening();
    config.listen[0].address = taken.local_addr().unwrap();
    let error = Gateway::start(config, &node.cluster()).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    let expected = format!(
        "interface RAD: can't listen on {}: ",
        taken.local_addr().unwrap()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");

    let mut config = listening();
    config.inbound.connections = 0;
    let error = Gateway::start(config, &node.cluster()).await.unwrap_err();
    let expected = "inbound.connections is 0; allowed: a number from 1 to 10000";
    assert_eq!(error.to_string(), expected);
}

/// The node's side of a delivery stream.
struct Side {
    stream: Deliver,
    subscription: u32,
    subscribed: Vec<Subscribe>,
    answers: Vec<(u64, u64, Kind)>,
    unsubscribed: Vec<u32>,
}

impl Side {
    async fn open(node: &mut Node) -> Self {
        let stream = node.deliver().await;
        let mut side = Self {
            stream,
            subscription: 0,
            subscribed: Vec::new(),
            answers: Vec::new(),
            unsubscribed: Vec::new(),
        };
        side.until_subscribed(1).await;
        side
    }

    async fn until_subscribed(&mut self, count: usize) {
        while self.subscribed.len() < count {
            let request = self.stream.next().await;
            self.take(request);
        }
        self.subscription = self.subscribed[count - 1].subscription;
    }

    fn take(&mut self, request: DeliverRequest) {
        let mut response = DeliverResponse {
            heartbeat: request.heartbeat,
            ..DeliverResponse::default()
        };
        for answer in request.answers {
            response.results.push(AnswerResult {
                subscription: answer.subscription,
                ..AnswerResult::default()
            });
            self.answers
                .push((answer.epoch, answer.sequence, answer.answer.unwrap()));
        }
        self.subscribed.extend(request.subscribe);
        self.unsubscribed.extend(request.unsubscribe);
        self.stream.send(response);
    }

    /// The answer to a sequence; what is acknowledged before it is passed over.
    async fn answer(&mut self, epoch: u64, sequence: u64) -> Kind {
        loop {
            let answers = std::mem::take(&mut self.answers);
            for (of, to, answer) in answers {
                assert_eq!(of, epoch);
                assert!(to <= sequence, "{to}");
                if to == sequence {
                    return answer;
                }
            }
            let request = self.stream.next().await;
            self.take(request);
        }
    }

    async fn until_end(&mut self) {
        while let Some(request) = self.stream.next_or_end().await {
            self.take(request);
        }
    }

    fn state(&self, state: State) {
        let state = SubscriptionState {
            subscription: self.subscription,
            state: Some(state),
        };
        self.stream.send(DeliverResponse {
            states: vec![state],
            ..DeliverResponse::default()
        });
    }

    /// Grants an epoch and delivers from the sequence after the checkpoint.
    fn deliver(&self, epoch: u64, checkpoint: u64, contents: Vec<Content>) {
        self.state(State::Granted(SubscriptionGranted {
            epoch,
            checkpoint,
            interface_id: vec![5; 16].into(),
            incarnation: 1,
        }));
        let delivery = |(content, sequence)| Delivery {
            sequence,
            content: Some(content),
            ..Delivery::default()
        };
        let deliveries = contents
            .into_iter()
            .zip(checkpoint + 1..)
            .map(delivery)
            .collect();
        let deliveries = Deliveries {
            subscription: self.subscription,
            epoch,
            deliveries,
        };
        self.stream.send(DeliverResponse {
            deliveries: vec![deliveries],
            ..DeliverResponse::default()
        });
    }
}

fn message(payload: impl Into<Bytes>) -> Content {
    Content::Message(DeliveredMessage {
        message_id: vec![1; 16].into(),
        payload: payload.into(),
        ..DeliveredMessage::default()
    })
}

fn messages(orders: &[Order]) -> Vec<Content> {
    orders
        .iter()
        .map(|order| message(order.payload.clone()))
        .collect()
}

fn skip() -> Content {
    Content::Skip(SkipMarker {
        reason: SkipReason::Rejected.into(),
        dead_letter: true,
        ..SkipMarker::default()
    })
}

async fn lab() -> Lab {
    let config = LabConfig {
        interface: Some("RAD".to_owned()),
        keep_messages: true,
        ..LabConfig::default()
    };
    Lab::start(config).await.unwrap()
}

fn ids(orders: &[Order]) -> Vec<String> {
    orders
        .iter()
        .map(|order| order.control_id.clone())
        .collect()
}

#[tokio::test]
async fn a_laboratory_gets_messages_in_order_and_hears_of_no_skip() {
    let mut node = Node::start().await;
    let lab = lab().await;
    let gateway = start(sending(lab.address()), &node).await;
    let mut side = Side::open(&mut node).await;
    let subscribe = &side.subscribed[0];
    assert_eq!(
        (subscribe.interface.as_str(), subscribe.destination.as_str()),
        ("RAD", "lab")
    );
    let sent = orders(4);
    let mut contents = messages(&sent);
    contents.insert(2, skip());
    contents.insert(0, skip());
    side.deliver(1, 7, contents);
    assert!(matches!(side.answer(1, 13).await, Kind::Ack(_)));
    assert_eq!(lab.filed("RAD"), ids(&sent));
    let payloads: Vec<_> = sent.iter().map(|order| order.payload.clone()).collect();
    assert_eq!(lab.messages("RAD"), payloads);
    assert_eq!(lab.summary().connections, 1);
    within(async { tokio::join!(gateway.shutdown(), side.until_end()) }).await;
    assert_eq!(side.unsubscribed, [side.subscription]);
}

/// Whatever else a laboratory says: each order arrives once, on one connection.
#[tokio::test]
async fn no_laboratory_that_answers_sees_an_order_twice() {
    let answers = [
        LabAnswer::AcceptTwice,
        LabAnswer::CommitThen(AckCode::ApplicationAccept),
        LabAnswer::CommitThen(AckCode::ApplicationError),
        LabAnswer::AcceptLate(Duration::from_millis(2)),
    ];
    for answer in answers {
        let mut node = Node::start().await;
        let lab = lab().await;
        let told = format!("{answer:?}");
        lab.answer_with(move |_| answer.clone());
        let gateway = start(sending(lab.address()), &node).await;
        let mut side = Side::open(&mut node).await;
        let ids: Vec<_> = (1..=16).map(|number| format!("RAD-{number}")).collect();
        let order = |id: &String| {
            message(format!(
                "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|{id}|P|2.5|||AL|AL\rPID|1||{id}\r"
            ))
        };
        side.deliver(1, 0, ids.iter().map(order).collect());
        assert!(matches!(side.answer(1, 16).await, Kind::Ack(_)), "{told}");
        assert_eq!(lab.filed("RAD"), ids, "{told}");
        let summary = lab.summary();
        assert_eq!(
            (summary.interfaces["RAD"].repeats, summary.connections),
            (0, 1),
            "{told}"
        );
        within(async { tokio::join!(gateway.shutdown(), side.until_end()) }).await;
    }
}

#[tokio::test]
async fn what_the_laboratory_answers_is_told_to_the_cluster() {
    let mut node = Node::start().await;
    let mut lab = lab().await;
    lab.answer_with(|message| match (message.control_id, message.earlier) {
        ("RAD-000002", 0) => LabAnswer::Error("busy".to_owned()),
        ("RAD-000002", _) => LabAnswer::Reject("no such patient".to_owned()),
        _ => LabAnswer::Accept,
    });
    let gateway = start(sending(lab.address()), &node).await;
    let mut side = Side::open(&mut node).await;
    let sent = orders(4);
    side.deliver(1, 0, messages(&sent));
    let Kind::Retry(retry) = side.answer(1, 2).await else {
        panic!("AE is a retry")
    };
    assert_eq!(
        (retry.after_ms, retry.reason.as_str()),
        (20, "the receiver answered AE: busy")
    );
    side.deliver(2, 1, messages(&sent[1..]));
    let Kind::Reject(reject) = side.answer(2, 2).await else {
        panic!("AR is a reject")
    };
    assert_eq!(reject.reason, "the receiver answered AR: no such patient");

    lab.down().await;
    for (epoch, after_ms) in [(3, 20), (4, 40), (5, 80), (6, 80)] {
        side.deliver(epoch, 2, messages(&sent[2..]));
        let Kind::Unavailable(unavailable) = side.answer(epoch, 3).await else {
            panic!("nobody answered")
        };
        assert_eq!(unavailable.after_ms, after_ms);
        assert!(
            unavailable.reason.contains(&lab.address().to_string())
                || unavailable.reason.contains("closed the connection"),
            "{}",
            unavailable.reason
        );
    }
    lab.up().await.unwrap();
    side.deliver(7, 2, messages(&sent[2..]));
    assert!(matches!(side.answer(7, 4).await, Kind::Ack(_)));
    assert_eq!(lab.filed("RAD"), ["RAD-000001", "RAD-000003", "RAD-000004"]);

    side.deliver(8, 4, vec![message("not HL7")]);
    let Kind::Reject(reject) = side.answer(8, 5).await else {
        panic!("it can't be sent")
    };
    assert!(reject.reason.contains("not HL7: the message begins with"));
    within(async { tokio::join!(gateway.shutdown(), side.until_end()) }).await;
}

#[tokio::test]
async fn a_subscription_that_the_cluster_ends_is_tried_again() {
    let mut node = Node::start().await;
    let lab = lab().await;
    let gateway = start(sending(lab.address()), &node).await;
    let mut side = Side::open(&mut node).await;
    side.state(State::Ended(SubscriptionEnded {
        reason: Reason::UnknownInterface.into(),
        text: "there is no interface RAD".to_owned(),
    }));
    side.until_subscribed(2).await;
    side.deliver(1, 0, messages(&orders(1)));
    assert!(matches!(side.answer(1, 1).await, Kind::Ack(_)));
    assert_eq!(lab.filed("RAD"), ["RAD-000001"]);
    within(async { tokio::join!(gateway.shutdown(), side.until_end()) }).await;
}

#[tokio::test]
async fn a_shutdown_finishes_the_delivery_in_flight_and_begins_no_other() {
    let mut node = Node::start().await;
    let receiver = TcpListener::bind(FREE).await.unwrap();
    let gateway = start(sending(receiver.local_addr().unwrap()), &node).await;
    let mut side = Side::open(&mut node).await;
    side.deliver(1, 0, messages(&orders(3)));
    let (stream, _) = within(receiver.accept()).await.unwrap();
    let mut receiver = Framed::new(stream, MllpCodec::default());
    let received = within(receiver.next()).await.unwrap().unwrap();
    let shutdown = tokio::spawn(gateway.shutdown());
    let msh = Msh::scan(&received).unwrap();
    let reply = acknowledge(&msh, &Outcome::Accepted, Hl7Time::from_unix_ms(0), "1").unwrap();
    let early = tokio::time::timeout(SILENCE, receiver.next()).await;
    assert!(
        early.is_err(),
        "it ended, or sent another, before the reply"
    );
    receiver.send(reply).await.unwrap();
    assert!(matches!(side.answer(1, 1).await, Kind::Ack(_)));
    assert!(within(receiver.next()).await.is_none(), "another was begun");
    within(async { tokio::join!(shutdown, side.until_end()) })
        .await
        .0
        .unwrap();
}
