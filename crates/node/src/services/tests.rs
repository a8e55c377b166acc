//! The services of a real node of one, through real connections.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod slow_reader;

use crate::config::{Config, PeerConfig};
use crate::context::Context;
use crate::net::Listening;
use crate::serve::{Seams, ServeHandle, start};
use ordo_wire::status::Failure;
use ordo_wire::v1::admin_service_client::AdminServiceClient;
use ordo_wire::v1::delivery_service_client::DeliveryServiceClient;
use ordo_wire::v1::ingest_service_client::IngestServiceClient;
use ordo_wire::v1::work_service_client::WorkServiceClient;
use ordo_wire::v1::{self, Reason, ingest_result, subscription_state};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

mod head;
mod quarantine;

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Node {
    handle: ServeHandle,
    channel: Channel,
    admin: AdminServiceClient<Channel>,
    folder: TempDir,
}

/// One stream, both ways.
struct Calls<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q, A> Calls<Q, A> {
    async fn send(&self, request: Q) {
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> A {
        let next = tokio::time::timeout(PATIENCE, self.answers.message());
        next.await.unwrap().unwrap().unwrap()
    }

    async fn failure(&mut self) -> Failure {
        let next = tokio::time::timeout(PATIENCE, self.answers.message());
        match next.await.unwrap() {
            Err(status) => Failure::from_status(&status),
            Ok(_) => panic!("the stream goes on"),
        }
    }
}

async fn bare_node() -> Node {
    start_in(tempfile::tempdir().unwrap(), true).await
}

async fn start_in(folder: TempDir, check_invariants: bool) -> Node {
    let (peer, public) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let mut config = Config::local(1, folder.path().to_owned());
    config.peers = vec![PeerConfig {
        node_id: 1,
        peer: peer.local_addr().unwrap().to_string(),
        public: public.local_addr().unwrap().to_string(),
    }];
    let listening = |listener| Some(Listening::on(listener).unwrap());
    let seams = Seams {
        peer: listening(peer),
        public: listening(public),
        check_invariants,
        ..Seams::default()
    };
    let handle = start(config, seams).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", handle.public)).unwrap();
    let channel = channel.connect().await.unwrap();
    let admin = AdminServiceClient::new(channel.clone());
    Node {
        handle,
        channel,
        admin,
        folder,
    }
}

pub(super) async fn node() -> Node {
    let mut node = bare_node().await;
    node.admin
        .init_cluster(v1::InitClusterRequest {})
        .await
        .unwrap();
    node
}

fn uuid(n: u8) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&[n; 16])
}

pub(super) fn message(n: u8, payload: &'static [u8]) -> v1::IngestMessage {
    v1::IngestMessage {
        message_id: uuid(n),
        payload: payload.into(),
        ..Default::default()
    }
}

pub(super) fn batch(interface: &str, messages: Vec<v1::IngestMessage>) -> v1::IngestRequest {
    let batch = v1::IngestBatch {
        interface: interface.to_owned(),
        messages,
        ..Default::default()
    };
    v1::IngestRequest {
        batches: vec![batch],
    }
}

impl Node {
    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.handle.context
    }

    pub(super) async fn create(
        &mut self,
        name: &str,
        config: v1::InterfaceConfig,
    ) -> v1::Interface {
        let request = v1::CreateInterfaceRequest {
            name: name.to_owned(),
            config: Some(config),
        };
        let created = self
            .admin
            .create_interface(request)
            .await
            .unwrap()
            .into_inner();
        created.interface.unwrap()
    }

    pub(super) async fn get(&mut self, name: &str) -> v1::Interface {
        let request = v1::GetInterfaceRequest {
            name: name.to_owned(),
        };
        self.admin
            .get_interface(request)
            .await
            .unwrap()
            .into_inner()
            .interface
            .unwrap()
    }

    async fn ingest(&self) -> Calls<v1::IngestRequest, v1::IngestResponse> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = IngestServiceClient::new(self.channel.clone());
        let answers = client
            .ingest(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Calls { requests, answers }
    }

    async fn work(
        &self,
        stages: &[&str],
        credits: u32,
    ) -> Calls<v1::WorkRequest, v1::WorkResponse> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = WorkServiceClient::new(self.channel.clone());
        let hello = v1::WorkHello {
            worker_id: uuid(200),
            name: "tester".to_owned(),
            stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
            credits,
            ..Default::default()
        };
        requests
            .send(v1::WorkRequest {
                hello: Some(hello),
                ..Default::default()
            })
            .await
            .unwrap();
        let answers = client
            .work(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Calls { requests, answers }
    }

    async fn deliver(&self, interface: &str) -> Calls<v1::DeliverRequest, v1::DeliverResponse> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = DeliveryServiceClient::new(self.channel.clone());
        let subscribe = v1::Subscribe {
            subscription: 7,
            interface: interface.to_owned(),
            consumer_id: uuid(100),
            name: "lab".to_owned(),
            ..Default::default()
        };
        let request = v1::DeliverRequest {
            subscribe: vec![subscribe],
            heartbeat: 1,
            ..Default::default()
        };
        requests.send(request).await.unwrap();
        let answers = client
            .deliver(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Calls { requests, answers }
    }

    pub(super) async fn stop(self) {
        self.handle.shutdown().await.unwrap();
    }

    /// Stops, and starts again from what is on the disk. Its addresses are new: it is the only node.
    async fn restart(self) -> Self {
        self.handle.shutdown().await.unwrap();
        start_in(self.folder, true).await
    }
}

impl Calls<v1::IngestRequest, v1::IngestResponse> {
    /// The next `count` results.
    async fn results(&mut self, count: usize) -> Vec<ingest_result::Result> {
        let mut results = Vec::new();
        while results.len() < count {
            results.extend(
                self.next()
                    .await
                    .results
                    .into_iter()
                    .map(|result| result.result.unwrap()),
            );
        }
        results
    }
}

impl Calls<v1::DeliverRequest, v1::DeliverResponse> {
    /// Everything that comes until `enough` of it is there.
    async fn until(
        &mut self,
        enough: impl Fn(&v1::DeliverResponse) -> bool,
    ) -> v1::DeliverResponse {
        let mut all = v1::DeliverResponse::default();
        while !enough(&all) {
            let next = self.next().await;
            all.states.extend(next.states);
            all.deliveries.extend(next.deliveries);
            all.results.extend(next.results);
            all.heartbeat = all.heartbeat.max(next.heartbeat);
        }
        all
    }
}

fn deliveries(response: &v1::DeliverResponse) -> Vec<&v1::Delivery> {
    response
        .deliveries
        .iter()
        .flat_map(|some| &some.deliveries)
        .collect()
}

fn stages(names: &[&str]) -> v1::InterfaceConfig {
    let stage = |name: &&str| v1::StageConfig {
        name: (*name).to_owned(),
        backoff_ms: 1,
        ..Default::default()
    };
    v1::InterfaceConfig {
        stages: names.iter().map(stage).collect(),
        ..Default::default()
    }
}

fn accepted(result: &ingest_result::Result) -> (u64, bool) {
    match result {
        ingest_result::Result::Accepted(accepted) => (accepted.sequence, accepted.duplicate),
        ingest_result::Result::Refused(refused) => panic!("{refused:?}"),
    }
}

fn refused(result: &ingest_result::Result) -> &v1::IngestRefused {
    match result {
        ingest_result::Result::Refused(refused) => refused,
        ingest_result::Result::Accepted(accepted) => panic!("{accepted:?}"),
    }
}

#[tokio::test]
async fn a_node_without_a_cluster_says_so() {
    let mut node = bare_node().await;
    let request = v1::CreateInterfaceRequest {
        name: "a".into(),
        config: None,
    };
    let status = node.admin.create_interface(request).await.unwrap_err();
    assert_eq!(Failure::from_status(&status).reason, Reason::NotInitialized);
    node.stop().await;
}

#[tokio::test]
async fn a_message_goes_all_the_way() {
    let mut node = node().await;
    let interface = node.create("lab/orders", stages(&["parse"])).await;
    assert_eq!((interface.config_version, interface.last_sequence), (1, 0));

    let mut ingest = node.ingest().await;
    ingest
        .send(batch(
            "lab/orders",
            vec![message(1, b"one"), message(2, b"two"), message(1, b"one")],
        ))
        .await;
    let results = ingest.results(3).await;
    let sequences: Vec<_> = results.iter().map(accepted).collect();
    assert_eq!(sequences, [(1, false), (2, false), (1, true)]);

    let mut work = node.work(&["parse", "prase"], 10).await;
    let (mut assignments, mut unknown) = (Vec::new(), Vec::new());
    while assignments.len() < 2 {
        let next = work.next().await;
        unknown.extend(
            next.welcome
                .into_iter()
                .flat_map(|welcome| welcome.unknown_stages),
        );
        assignments.extend(next.assignments);
    }
    assert_eq!(unknown, ["prase"]);
    assert_eq!(
        (&assignments[0].payload[..], assignments[0].sequence),
        (&b"one"[..], 1)
    );

    let mut deliver = node.deliver("lab/orders").await;
    let granted = deliver
        .until(|all| !all.states.is_empty() && all.heartbeat == 1)
        .await;
    let Some(subscription_state::State::Granted(granted)) = &granted.states[0].state else {
        panic!("{granted:?}")
    };
    assert_eq!((granted.epoch, granted.checkpoint), (1, 0));

    // The second first: it waits for the head.
    let report = |assignment: &v1::WorkAssignment, outcome| v1::WorkReport {
        interface_id: assignment.interface_id.clone(),
        sequence: assignment.sequence,
        stage: assignment.stage.clone(),
        turn: assignment.turn,
        outcome: Some(outcome),
    };
    let header = v1::Header {
        name: "parsed".into(),
        value: "yes".into(),
    };
    let done = v1::WorkComplete {
        payload: Some("TWO".into()),
        headers: vec![header.clone()],
        ..Default::default()
    };
    let mut wrong = report(
        &assignments[0],
        v1::work_report::Outcome::Filter(v1::WorkFilter::default()),
    );
    wrong.stage = "prase".into();
    let reports = vec![
        report(&assignments[1], v1::work_report::Outcome::Complete(done)),
        wrong,
    ];
    work.send(v1::WorkRequest {
        reports,
        heartbeat: 9,
        ..Default::default()
    })
    .await;
    let mut results = Vec::new();
    let mut heartbeat = 0;
    while results.len() < 2 || heartbeat == 0 {
        let next = work.next().await;
        heartbeat = heartbeat.max(next.heartbeat);
        results.extend(next.results.into_iter().map(|result| result.reason()));
    }
    assert_eq!(results, [Reason::Unspecified, Reason::UnknownStage]);

    let request = v1::ExplainInterfaceRequest {
        interface: "lab/orders".into(),
    };
    let explained = node
        .admin
        .explain_interface(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (explained.behind, explained.behind_ready, explained.workers),
        (1, 1, 1)
    );
    let sentence = &explained.sentences[0];
    assert!(
        sentence.contains("head is sequence 1, in stage parse"),
        "{sentence}"
    );
    assert!(
        sentence.contains("worker tester has it, attempt 1 of 3; 1 behind it, 1 of them done"),
        "{sentence}"
    );

    let reject = v1::WorkReject {
        reason: "no MSH segment".into(),
    };
    let reports = vec![report(
        &assignments[0],
        v1::work_report::Outcome::Reject(reject),
    )];
    work.send(v1::WorkRequest {
        reports,
        ..Default::default()
    })
    .await;
    let delivered = deliver.until(|all| deliveries(all).len() == 2).await;
    let delivered = deliveries(&delivered);
    let Some(v1::delivery::Content::Skip(skip)) = &delivered[0].content else {
        panic!("{delivered:?}")
    };
    assert_eq!(
        (skip.reason(), skip.dead_letter),
        (v1::SkipReason::Rejected, true)
    );
    let Some(v1::delivery::Content::Message(two)) = &delivered[1].content else {
        panic!("{delivered:?}")
    };
    assert_eq!(
        (&two.payload[..], &two.headers[..]),
        (&b"TWO"[..], &[header][..])
    );

    let ack = |sequence, epoch| v1::Answer {
        subscription: 7,
        epoch,
        sequence,
        answer: Some(v1::answer::Answer::Ack(v1::AnswerAck {})),
    };
    let answers = vec![ack(1, 1), ack(2, 1), ack(2, 5), ack(3, 1)];
    deliver
        .send(v1::DeliverRequest {
            answers,
            ..Default::default()
        })
        .await;
    let answered = deliver.until(|all| all.results.len() == 4).await.results;
    let reasons: Vec<Reason> = answered.iter().map(v1::AnswerResult::reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::Unspecified,
            Reason::Unspecified,
            Reason::Epoch,
            Reason::NotReleased
        ]
    );
    assert_eq!(answered[1].checkpoint, 2);

    let interface = node.get("lab/orders").await;
    let destination = &interface.destinations[0];
    assert_eq!(
        (
            destination.delivered,
            destination.skipped,
            destination.in_flight
        ),
        (1, 1, 0)
    );
    assert_eq!((interface.dead_letters, interface.failed), (1, 1));

    history_is_told(&mut node).await;
    dead_letter_is_redriven(&mut node, &mut work, &mut deliver).await;
    node.stop().await;
}

async fn history_is_told(node: &mut Node) {
    let mut kinds = Vec::new();
    for sequence in [1, 2] {
        let request = v1::GetMessageRequest {
            interface: "lab/orders".into(),
            sequence,
            ..Default::default()
        };
        let message = node
            .admin
            .get_message(request)
            .await
            .unwrap()
            .into_inner()
            .message
            .unwrap();
        kinds.push((
            message.status(),
            message
                .events
                .iter()
                .map(v1::MessageEvent::kind)
                .collect::<Vec<_>>(),
        ));
    }
    use v1::MessageEventKind::{Accepted, Completed, Delivered, Rejected, Skipped};
    assert_eq!(
        kinds[0],
        (
            v1::MessageStatus::Skipped,
            vec![Accepted, Rejected, Skipped]
        )
    );
    assert_eq!(
        kinds[1],
        (
            v1::MessageStatus::Delivered,
            vec![Accepted, Completed, Delivered]
        )
    );
    let request = v1::GetMessageRequest {
        interface: "lab/orders".into(),
        sequence: 3,
        ..Default::default()
    };
    let status = node.admin.get_message(request).await.unwrap_err();
    assert_eq!(Failure::from_status(&status).reason, Reason::UnknownMessage);
}

async fn dead_letter_is_redriven(
    node: &mut Node,
    work: &mut Calls<v1::WorkRequest, v1::WorkResponse>,
    deliver: &mut Calls<v1::DeliverRequest, v1::DeliverResponse>,
) {
    let name = || "lab/orders".to_owned();
    let list = v1::ListDeadLettersRequest {
        interface: name(),
        ..Default::default()
    };
    let letters = node
        .admin
        .list_dead_letters(list)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((letters.dead_letters.len(), letters.more), (1, false));
    assert_eq!(letters.dead_letters[0].reason, "no MSH segment");
    let behind_all = v1::ListDeadLettersRequest {
        interface: name(),
        after_sequence: u64::MAX,
        ..Default::default()
    };
    let none = node.admin.list_dead_letters(behind_all).await.unwrap();
    assert_eq!(none.into_inner().dead_letters, []);
    let get = v1::GetDeadLetterRequest {
        interface: name(),
        sequence: 1,
        ..Default::default()
    };
    let letter = node.admin.get_dead_letter(get).await.unwrap().into_inner();
    assert_eq!(&letter.payload[..], b"one");
    let in_place = v1::RedriveDeadLetterRequest {
        interface: name(),
        sequence: 1,
        in_place_only: true,
        ..Default::default()
    };
    let status = node
        .admin
        .redrive_dead_letter(in_place.clone())
        .await
        .unwrap_err();
    assert_eq!(Failure::from_status(&status).reason, Reason::Released);
    let redrive = v1::RedriveDeadLetterRequest {
        in_place_only: false,
        ..in_place
    };
    let redriven = node
        .admin
        .redrive_dead_letter(redrive)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((redriven.in_place, redriven.sequence), (false, 3));
    let mut again = Vec::new();
    while again.is_empty() {
        again = work.next().await.assignments;
    }
    let report = v1::WorkReport {
        interface_id: again[0].interface_id.clone(),
        sequence: 3,
        stage: "parse".into(),
        turn: again[0].turn,
        outcome: Some(v1::work_report::Outcome::Complete(
            v1::WorkComplete::default(),
        )),
    };
    work.send(v1::WorkRequest {
        reports: vec![report],
        ..Default::default()
    })
    .await;
    let delivered = deliver.until(|all| !deliveries(all).is_empty()).await;
    let delivered = deliveries(&delivered);
    let Some(v1::delivery::Content::Message(message)) = &delivered[0].content else {
        panic!("{delivered:?}")
    };
    assert_eq!((&message.payload[..], message.redrive_of), (&b"one"[..], 1));
}

#[tokio::test]
async fn what_can_not_be_taken_is_refused_by_name_and_blocks_nothing() {
    let mut node = node().await;
    node.create(
        "a",
        v1::InterfaceConfig {
            payload_bytes_max: 4,
            ..Default::default()
        },
    )
    .await;
    let mut ingest = node.ingest().await;
    let short_id = v1::IngestMessage {
        message_id: vec![1, 2].into(),
        ..Default::default()
    };
    let numbered = v1::IngestMessage {
        producer_sequence: 1,
        ..message(5, b"x")
    };
    let messages = vec![
        short_id,
        message(1, b"too long"),
        message(2, b"ok"),
        message(2, b"no"),
        numbered,
    ];
    ingest.send(batch("a", messages)).await;
    ingest.send(batch("nowhere", vec![message(3, b"x")])).await;
    let results = ingest.results(6).await;
    let reasons: Vec<Option<Reason>> = results
        .iter()
        .map(|result| match result {
            ingest_result::Result::Accepted(_) => None,
            ingest_result::Result::Refused(refused) => Some(refused.reason()),
        })
        .collect();
    let expected = [
        Some(Reason::InvalidField),
        Some(Reason::TooLarge),
        None,
        Some(Reason::ConflictingPayload),
        Some(Reason::InvalidField),
        Some(Reason::UnknownInterface),
    ];
    assert_eq!(reasons, expected);
    assert!(refused(&results[1]).text.contains("8 bytes"), "{results:?}");
    assert!(results.iter().all(
        |result| matches!(result, ingest_result::Result::Accepted(_))
            || refused(result).refusal == 0
    ));
    node.stop().await;
}

#[tokio::test]
async fn a_refusal_for_now_is_numbered_and_holds_back_what_follows_until_it_is_named() {
    let mut node = node().await;
    node.create(
        "narrow",
        v1::InterfaceConfig {
            window: 1,
            ..stages(&["parse"])
        },
    )
    .await;
    node.create("wide", v1::InterfaceConfig::default()).await;
    let mut ingest = node.ingest().await;
    ingest
        .send(batch(
            "narrow",
            vec![message(1, b"1"), message(2, b"2"), message(3, b"3")],
        ))
        .await;
    ingest.send(batch("wide", vec![message(1, b"1")])).await;
    let results = ingest.results(4).await;
    assert_eq!(accepted(&results[0]), (1, false));
    assert_eq!(
        (refused(&results[1]).reason(), refused(&results[1]).refusal),
        (Reason::WindowFull, 1)
    );
    assert_eq!(
        (refused(&results[2]).reason(), refused(&results[2]).refusal),
        (Reason::EarlierRefused, 2)
    );
    assert_eq!(accepted(&results[3]), (1, false), "other interfaces go on");

    let mut named = batch("narrow", vec![message(1, b"1"), message(2, b"2")]);
    ingest.send(named.clone()).await;
    assert_eq!(
        refused(&ingest.results(2).await[0]).reason(),
        Reason::EarlierRefused,
        "not named"
    );
    named.batches[0].after_refusal = 4;
    ingest.send(named).await;
    let results = ingest.results(2).await;
    assert_eq!(
        accepted(&results[0]),
        (1, true),
        "a known id gets its answer though the window is full"
    );
    assert_eq!(refused(&results[1]).reason(), Reason::WindowFull);
    node.stop().await;
}

#[tokio::test]
async fn a_numbered_message_refused_for_good_leaves_no_gap() {
    let mut node = node().await;
    node.create(
        "a",
        v1::InterfaceConfig {
            payload_bytes_max: 4,
            ..Default::default()
        },
    )
    .await;
    let mut ingest = node.ingest().await;
    let numbered = |n: u8, payload| v1::IngestMessage {
        producer_sequence: n.into(),
        ..message(n, payload)
    };
    let mut request = batch(
        "a",
        vec![
            numbered(1, b"1"),
            numbered(2, b"too long"),
            numbered(3, b"3"),
            numbered(5, b"5"),
        ],
    );
    request.batches[0].producer = "feed".into();
    ingest.send(request).await;
    let results = ingest.results(4).await;
    assert_eq!(
        (accepted(&results[0]), accepted(&results[2])),
        ((1, false), (2, false))
    );
    assert_eq!(refused(&results[1]).reason(), Reason::TooLarge);
    let gap = refused(&results[3]);
    assert_eq!(
        (gap.reason(), gap.expected_producer_sequence),
        (Reason::ProducerGap, 4)
    );
    node.stop().await;
}

#[tokio::test]
async fn a_number_behind_a_refusal_for_now_is_not_used_up() {
    let mut node = node().await;
    let config = v1::InterfaceConfig {
        window: 1,
        payload_bytes_max: 4,
        ..stages(&["parse"])
    };
    node.create("narrow", config).await;
    let mut ingest = node.ingest().await;
    let numbered = |n: u8, payload| v1::IngestMessage {
        producer_sequence: n.into(),
        ..message(n, payload)
    };
    let messages = vec![
        numbered(1, b"1"),
        numbered(2, b"2"),
        numbered(3, b"too long"),
    ];
    let mut request = batch("narrow", messages);
    request.batches[0].producer = "feed".into();
    ingest.send(request).await;
    let results = ingest.results(3).await;
    assert_eq!(accepted(&results[0]), (1, false));
    let reasons = [&results[1], &results[2]].map(|result| refused(result).reason());
    assert_eq!(reasons, [Reason::WindowFull, Reason::EarlierRefused]);
    assert_eq!(refused(&results[2]).refusal, 2);
    node.stop().await;
}

#[tokio::test]
async fn a_lab_that_is_down_is_tried_again_with_the_head_alone() {
    let mut node = node().await;
    node.create("a", v1::InterfaceConfig::default()).await;
    let mut ingest = node.ingest().await;
    ingest
        .send(batch("a", vec![message(1, b"1"), message(2, b"2")]))
        .await;
    ingest.results(2).await;
    let mut deliver = node.deliver("a").await;
    deliver.until(|all| deliveries(all).len() == 2).await;
    let down = v1::AnswerUnavailable {
        after_ms: 300,
        reason: "connection refused".into(),
        sent: true,
    };
    let answer = v1::Answer {
        subscription: 7,
        epoch: 1,
        sequence: 1,
        answer: Some(v1::answer::Answer::Unavailable(down)),
    };
    deliver
        .send(v1::DeliverRequest {
            answers: vec![answer],
            ..Default::default()
        })
        .await;
    let suspended = deliver
        .until(|all| !all.states.is_empty() && !all.results.is_empty())
        .await;
    assert_eq!(deliveries(&suspended).len(), 0);
    let request = v1::ExplainInterfaceRequest {
        interface: "a".into(),
    };
    let explained = node
        .admin
        .explain_interface(request)
        .await
        .unwrap()
        .into_inner();
    let sentence = explained.sentences.last().unwrap();
    assert!(
        sentence.contains("suspended for 0.")
            && sentence.contains("sequence 1 may have reached its receiver 1 time")
            && sentence.contains("connection refused; 2 wait"),
        "{sentence}"
    );
    let probe = deliver.until(|all| !deliveries(all).is_empty()).await;
    assert_eq!(
        (deliveries(&probe).len(), probe.deliveries[0].epoch),
        (1, 2)
    );
    node.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_by_prefix() {
    let mut node = node().await;
    for name in ["lab", "lab/a", "lab/b", "pharmacy"] {
        node.create(name, v1::InterfaceConfig::default()).await;
    }
    let list = |after: &str| v1::ListInterfacesRequest {
        prefix: "lab".into(),
        after: after.into(),
        limit: 2,
        stale_ok: true,
    };
    let names = |response: &v1::ListInterfacesResponse| {
        response
            .interfaces
            .iter()
            .map(|interface| interface.name.clone())
            .collect::<Vec<_>>()
    };
    let first = node
        .admin
        .list_interfaces(list(""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (names(&first), first.more),
        (vec!["lab".to_owned(), "lab/a".to_owned()], true)
    );
    let second = node
        .admin
        .list_interfaces(list("lab/a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (names(&second), second.more),
        (vec!["lab/b".to_owned()], false)
    );
    node.stop().await;
}

#[tokio::test]
async fn a_work_stream_begins_with_hello() {
    let node = node().await;
    let (requests, receiver) = mpsc::channel(1);
    requests
        .send(v1::WorkRequest {
            credits: 5,
            ..Default::default()
        })
        .await
        .unwrap();
    let answers = WorkServiceClient::new(node.channel.clone())
        .work(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let mut calls = Calls {
        requests,
        answers: answers.into_inner(),
    };
    let failure = calls.failure().await;
    assert_eq!(
        (failure.reason, failure.field.as_deref()),
        (Reason::InvalidField, Some("hello"))
    );
    node.stop().await;
}

#[tokio::test]
async fn streams_end_with_a_reason_when_the_node_stops() {
    let mut node = node().await;
    node.create("a", v1::InterfaceConfig::default()).await;
    let (mut ingest, mut deliver) = (node.ingest().await, node.deliver("a").await);
    deliver.until(|all| !all.states.is_empty()).await;
    let stopping = node.stop();
    let (ingest, deliver, ()) = tokio::join!(ingest.failure(), deliver.failure(), stopping);
    assert_eq!(
        (ingest.reason, deliver.reason),
        (Reason::NotLeader, Reason::NotLeader)
    );
}
