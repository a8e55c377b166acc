//! What clients get wrong, said to a real cluster in the protocol itself: each gets its documented reason, and changes
//! nothing.

use bytes::Bytes;
use ordo_client::proto::admin_service_client::AdminServiceClient;
use ordo_client::proto::delivery_service_client::DeliveryServiceClient;
use ordo_client::proto::ingest_service_client::IngestServiceClient;
use ordo_client::proto::work_service_client::WorkServiceClient;
use ordo_client::proto::{
    self, Reason, answer::Answer as Kind, ingest_result, subscription_state, work_report,
};
use ordo_client::{Message, SendError};
use ordo_tests::load::{message, staged};
use ordo_tests::{Nodes, PATIENCE};
use ordo_wire::status::Failure;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use uuid::Uuid;

async fn channel(nodes: &Nodes, place: usize) -> Channel {
    let address = format!("http://{}", nodes.nodes[place].public);
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("an answer")
        .unwrap()
        .expect("the stream goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_asked_to_write_names_the_leader() {
    let mut nodes = Nodes::three().await.unwrap();
    let leader = nodes.leader().await;
    let follower = (leader + 1) % 3;
    let request = proto::CreateInterfaceRequest {
        name: "lab".to_owned(),
        config: None,
    };
    let mut admin = AdminServiceClient::new(channel(&nodes, follower).await);
    let status = admin.create_interface(request).await.unwrap_err();
    let failure = Failure::from_status(&status);
    assert_eq!(
        (status.code(), failure.reason),
        (Code::Unavailable, Reason::NotLeader)
    );
    assert_eq!(failure.leader, Some(nodes.nodes[leader].public.to_string()));

    let mut ingest = IngestServiceClient::new(channel(&nodes, follower).await);
    let frames = tokio_stream::iter([proto::IngestRequest::default()]);
    let status = match ingest.ingest(frames).await {
        Err(status) => status,
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(Failure::from_status(&status).reason, Reason::NotLeader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_names_the_field_the_value_and_what_is_allowed() {
    let mut nodes = Nodes::three().await.unwrap();
    let leader = nodes.leader().await;
    let mut admin = AdminServiceClient::new(channel(&nodes, leader).await);
    let stage = proto::StageConfig {
        name: "validate".to_owned(),
        lease_ms: 5,
        ..Default::default()
    };
    let config = proto::InterfaceConfig {
        stages: vec![stage],
        ..Default::default()
    };
    let request = proto::CreateInterfaceRequest {
        name: "lab".to_owned(),
        config: Some(config),
    };
    let status = admin.create_interface(request).await.unwrap_err();
    let failure = Failure::from_status(&status);
    assert_eq!(
        (status.code(), failure.field.as_deref()),
        (Code::InvalidArgument, Some("stages[0].lease_ms"))
    );
    assert!(
        failure.text.contains("is 5") && failure.text.contains("100 to"),
        "{}",
        failure.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_message_is_said_of_it_alone() {
    let mut nodes = Nodes::three().await.unwrap();
    nodes
        .cluster()
        .unwrap()
        .admin()
        .create_interface("lab", staged(&["validate"]))
        .await
        .unwrap();
    let leader = nodes.leader().await;
    let mut client = IngestServiceClient::new(channel(&nodes, leader).await);
    let id = |n: u128| Bytes::copy_from_slice(Uuid::from_u128(n).as_bytes());
    let message = |message_id: Bytes, payload: Bytes| proto::IngestMessage {
        message_id,
        payload,
        ..Default::default()
    };
    let batch = |interface: &str, message: proto::IngestMessage| proto::IngestBatch {
        interface: interface.to_owned(),
        messages: vec![message],
        ..Default::default()
    };
    let header = proto::Header {
        name: "n".to_owned(),
        value: "v".to_owned(),
    };
    // Of so many a node looks at as many as get the message refused.
    let many = proto::IngestMessage {
        headers: vec![header; 100_000],
        ..message(id(4), "headers".into())
    };
    let gap = proto::IngestBatch {
        producer: "p".to_owned(),
        ..batch(
            "lab",
            proto::IngestMessage {
                producer_sequence: 3,
                ..message(id(5), "gap".into())
            },
        )
    };
    let batches = vec![
        batch("lab", message(id(1), "one".into())),
        batch("nowhere", message(id(2), "lost".into())),
        batch("lab", message("abc".into(), "no id".into())),
        batch("lab", message(id(1), "another one".into())),
        batch("lab", message(id(3), vec![b'x'; 1_048_577].into())),
        batch("lab", many),
        gap,
        batch("lab", message(id(1), "one".into())),
        batch("lab", message(id(6), "two".into())),
    ];
    let mut stream = client
        .ingest(tokio_stream::iter([proto::IngestRequest { batches }]))
        .await
        .unwrap()
        .into_inner();
    let mut results = Vec::new();
    while results.len() < 9 {
        results.extend(
            next(&mut stream)
                .await
                .results
                .into_iter()
                .map(|result| result.result.unwrap()),
        );
    }
    let accepted = |n: usize| match &results[n] {
        ingest_result::Result::Accepted(accepted) => (accepted.sequence, accepted.duplicate),
        ingest_result::Result::Refused(refused) => panic!("result {n}: {}", refused.text),
    };
    let refused = |n: usize| match &results[n] {
        ingest_result::Result::Refused(refused) => {
            (refused.reason(), refused.text.as_str(), refused.refusal)
        }
        ingest_result::Result::Accepted(_) => panic!("result {n} was accepted"),
    };
    assert_eq!(
        (accepted(0), accepted(7), accepted(8)),
        ((1, false), (1, true), (2, false))
    );
    let expected = [
        (1, Reason::UnknownInterface, "nowhere"),
        (2, Reason::InvalidField, "message_id"),
        (3, Reason::ConflictingPayload, "sequence 1"),
        (4, Reason::TooLarge, "1048576"),
        (5, Reason::TooLarge, "64"),
        (6, Reason::ProducerGap, "1 is expected"),
    ];
    for (n, reason, part) in expected {
        let (said, text, refusal) = refused(n);
        assert_eq!((said, refusal), (reason, 0), "{text}");
        assert!(
            text.contains(part) && !text.contains("xxxx"),
            "{part}: {text}"
        );
    }
    very_many_headers_cost_their_message_only(&nodes).await;
}

/// A node ends the stream of a frame that is too heavy, and what ends a stream so fails everything on it.
async fn very_many_headers_cost_their_message_only(nodes: &Nodes) {
    let producer = nodes.cluster().unwrap().producer().start().unwrap();
    let with_headers = |count: usize| {
        let header = proto::Header {
            name: "n".to_owned(),
            value: "v".to_owned(),
        };
        Message {
            headers: vec![header; count],
            ..Message::new("many headers")
        }
    };
    let unsent = producer.send("lab", with_headers(400_000)).await;
    assert!(
        matches!(&unsent, Err(SendError::Invalid { field: "headers", text }) if text.contains("400000")),
        "{unsent:?}"
    );
    let mut answers = Vec::new();
    for count in [0, 40_000, 40_000, 0, 40_000, 64] {
        let queued = producer.enqueue("lab", with_headers(count)).await;
        answers.push((count, queued.unwrap()));
    }
    for (count, answer) in answers {
        let result = tokio::time::timeout(PATIENCE, answer)
            .await
            .expect("an answer");
        match result {
            Ok(_) => assert!(count <= 64, "{count} headers were accepted"),
            Err(SendError::Refused(refusal)) => {
                assert_eq!(
                    (count, refusal.reason),
                    (40_000, Reason::TooLarge),
                    "{refusal}"
                );
            }
            Err(error) => panic!("{count} headers: {error}"),
        }
    }
    producer.close().await;
}

struct WorkStream {
    requests: mpsc::UnboundedSender<proto::WorkRequest>,
    answers: Streaming<proto::WorkResponse>,
    assigned: Vec<proto::WorkAssignment>,
}

impl WorkStream {
    async fn open(nodes: &mut Nodes, stage: &str) -> Self {
        let leader = nodes.leader().await;
        let (requests, receiver) = mpsc::unbounded_channel();
        let hello = proto::WorkHello {
            worker_id: Bytes::copy_from_slice(Uuid::from_u128(77).as_bytes()),
            name: "by hand".to_owned(),
            stages: vec![stage.to_owned()],
            credits: 10,
            ..Default::default()
        };
        requests
            .send(proto::WorkRequest {
                hello: Some(hello),
                ..Default::default()
            })
            .unwrap();
        let mut client = WorkServiceClient::new(channel(nodes, leader).await);
        let answers = client
            .work(UnboundedReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            answers,
            assigned: Vec::new(),
        }
    }

    /// The next frame; assignments are kept, whatever else came with them.
    async fn step(&mut self) -> proto::WorkResponse {
        let mut response = next(&mut self.answers).await;
        self.assigned.append(&mut response.assignments);
        response
    }

    async fn assignment(&mut self) -> proto::WorkAssignment {
        while self.assigned.is_empty() {
            self.step().await;
        }
        self.assigned.remove(0)
    }

    async fn report(&mut self, report: proto::WorkReport) -> (Reason, String) {
        let reports = vec![report];
        let request = proto::WorkRequest {
            reports,
            ..Default::default()
        };
        self.requests.send(request).unwrap();
        loop {
            if let Some(result) = self.step().await.results.pop() {
                return (result.reason(), result.text);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_are_late_or_about_nothing_change_nothing() {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&["validate"]))
        .await
        .unwrap();
    cluster
        .producer()
        .start()
        .unwrap()
        .send("lab", message("lab", 1))
        .await
        .unwrap();
    let mut work = WorkStream::open(&mut nodes, "validate").await;
    let given = work.assignment().await;
    let report = |stage: &str, turn: u32, sequence: u64, outcome| proto::WorkReport {
        interface_id: given.interface_id.clone(),
        sequence,
        stage: stage.to_owned(),
        turn,
        outcome: Some(outcome),
    };
    let complete = || work_report::Outcome::Complete(proto::WorkComplete::default());
    let retry = || {
        work_report::Outcome::Retry(proto::WorkRetry {
            reason: "later".to_owned(),
        })
    };

    let (reason, text) = work
        .report(report("polish", given.turn, 1, complete()))
        .await;
    assert!(
        reason == Reason::UnknownStage && text.contains("polish"),
        "{text}"
    );
    let (reason, text) = work.report(report("validate", 1, 99, complete())).await;
    assert!(
        reason == Reason::UnknownMessage && text.contains("99"),
        "{text}"
    );
    let stranger = proto::WorkReport {
        interface_id: vec![9; 16].into(),
        ..report("validate", 1, 1, complete())
    };
    assert_eq!(work.report(stranger).await.0, Reason::UnknownInterface);
    let long = work_report::Outcome::Reject(proto::WorkReject {
        reason: "x".repeat(1_025),
    });
    let (reason, text) = work.report(report("validate", given.turn, 1, long)).await;
    assert!(
        reason == Reason::TooLarge && text.contains("1024"),
        "{reason:?} {text}"
    );

    assert_eq!(
        work.report(report("validate", given.turn, 1, retry()))
            .await
            .0,
        Reason::Unspecified
    );
    assert_eq!(
        work.report(report("validate", given.turn, 1, retry()))
            .await
            .0,
        Reason::Stale,
        "of an old turn"
    );
    let again = work.assignment().await;
    assert_eq!((again.turn, again.attempts), (given.turn + 1, 1));
    assert_eq!(
        work.report(report("validate", again.turn, 1, complete()))
            .await
            .0,
        Reason::Unspecified
    );
    assert_eq!(
        work.report(report("validate", again.turn, 1, complete()))
            .await
            .0,
        Reason::Stale,
        "it is done"
    );
    let reject = work_report::Outcome::Reject(proto::WorkReject {
        reason: "too late".to_owned(),
    });
    assert_eq!(
        work.report(report("validate", again.turn, 1, reject))
            .await
            .0,
        Reason::Stale
    );
    let interface = cluster.admin().get_interface("lab").await.unwrap();
    assert_eq!((interface.watermark, interface.dead_letters), (1, 0));
}

struct DeliverStream {
    requests: mpsc::UnboundedSender<proto::DeliverRequest>,
    answers: Streaming<proto::DeliverResponse>,
    epoch: u64,
    seen: Vec<u64>,
}

impl DeliverStream {
    async fn open(nodes: &mut Nodes, credits: u32) -> Self {
        let leader = nodes.leader().await;
        let (requests, receiver) = mpsc::unbounded_channel();
        let subscribe = proto::Subscribe {
            subscription: 1,
            interface: "lab".to_owned(),
            consumer_id: Bytes::copy_from_slice(Uuid::from_u128(78).as_bytes()),
            name: "by hand".to_owned(),
            credits,
            ..Default::default()
        };
        let subscribe = proto::DeliverRequest {
            subscribe: vec![subscribe],
            ..Default::default()
        };
        requests.send(subscribe).unwrap();
        let mut client = DeliveryServiceClient::new(channel(nodes, leader).await);
        let answers = client
            .deliver(UnboundedReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            answers,
            epoch: 0,
            seen: Vec::new(),
        }
    }

    async fn step(&mut self) -> proto::DeliverResponse {
        let response = next(&mut self.answers).await;
        for state in &response.states {
            if let Some(subscription_state::State::Granted(granted)) = &state.state {
                self.epoch = granted.epoch;
                self.seen.clear();
            }
        }
        for deliveries in response
            .deliveries
            .iter()
            .filter(|deliveries| deliveries.epoch == self.epoch)
        {
            self.seen.extend(
                deliveries
                    .deliveries
                    .iter()
                    .map(|delivery| delivery.sequence),
            );
        }
        response
    }

    async fn receive(&mut self, sequences: &[u64]) {
        while self.seen != sequences {
            assert!(sequences.starts_with(&self.seen), "{:?}", self.seen);
            self.step().await;
        }
    }

    async fn answer(&mut self, epoch: u64, sequence: u64, kind: Kind) -> (Reason, u64) {
        let answer = proto::Answer {
            subscription: 1,
            epoch,
            sequence,
            answer: Some(kind),
        };
        self.requests
            .send(proto::DeliverRequest {
                answers: vec![answer],
                ..Default::default()
            })
            .unwrap();
        loop {
            if let Some(result) = self.step().await.results.pop() {
                return (result.reason(), result.checkpoint);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_what_was_not_sent_or_under_an_old_epoch_move_no_checkpoint() {
    let mut nodes = Nodes::three().await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    let producer = cluster.producer().start().unwrap();
    for n in 1..=5 {
        producer.send("lab", message("lab", n)).await.unwrap();
    }
    let mut consumer = DeliverStream::open(&mut nodes, 2).await;
    consumer.receive(&[1, 2]).await;
    let epoch = consumer.epoch;
    let ack = || Kind::Ack(proto::AnswerAck {});
    let retry = || {
        Kind::Retry(proto::AnswerRetry {
            after_ms: 1,
            reason: "busy".to_owned(),
        })
    };

    assert_eq!(
        consumer.answer(epoch, 9, ack()).await.0,
        Reason::NotReleased,
        "beyond what was released"
    );
    assert_eq!(
        consumer.answer(epoch, 4, ack()).await.0,
        Reason::NotReleased,
        "released and never sent"
    );
    assert_eq!(consumer.answer(epoch + 1, 1, ack()).await.0, Reason::Epoch);
    assert_eq!(consumer.answer(epoch, 2, retry()).await.0, Reason::NotHead);
    assert_eq!(
        consumer.answer(epoch, 1, ack()).await,
        (Reason::Unspecified, 1)
    );
    consumer.receive(&[1, 2, 3]).await;
    assert_eq!(
        consumer.answer(epoch, 2, retry()).await.0,
        Reason::Unspecified
    );
    // The epoch rose, and delivery began anew at the checkpoint: with the head alone, as a probe.
    while consumer.epoch == epoch {
        consumer.step().await;
    }
    consumer.receive(&[2]).await;
    assert_eq!(
        consumer.answer(epoch, 2, ack()).await.0,
        Reason::Epoch,
        "an answer of the old epoch"
    );
    let epoch = consumer.epoch;
    let acked = consumer.answer(epoch, 2, ack()).await;
    assert_eq!(acked, (Reason::Unspecified, 2));
    consumer.receive(&[2, 3, 4]).await;
    let interface = cluster.admin().get_interface("lab").await.unwrap();
    let destination = &interface.destinations[0];
    assert_eq!((destination.checkpoint, destination.delivered), (2, 2));
}
