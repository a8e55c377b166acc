//! Attacks by calls and streams that gRPC lets pass.

use super::{DELIVER, INGEST, Target, WORK, kind};
use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::proto::admin_service_client::AdminServiceClient;
use ordo_client::proto::delivery_service_client::DeliveryServiceClient;
use ordo_client::proto::ingest_service_client::IngestServiceClient;
use ordo_client::proto::{self, Reason};
use ordo_tests::PATIENCE;
use ordo_tests::hostile::{DATA, HEADERS, HONEST, Raw, frame, framed, request};
use ordo_wire::internal::v1::VoteRequest;
use ordo_wire::internal::v1::peer_service_client::PeerServiceClient;
use prost::Message as _;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// More streams, over many connections, than the node serves.
pub(super) async fn calls(at: Target, stop: CancellationToken) -> String {
    let channels = join_all((0..12).map(|_| at.channel())).await;
    let open = channels.iter().flat_map(|channel| {
        (0..60).map(async |_| {
            let (requests, frames) = tokio::sync::mpsc::channel::<proto::IngestRequest>(1);
            let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
            let opened = IngestServiceClient::new(channel.clone())
                .ingest(frames)
                .await;
            opened.map(|answers| (requests, answers))
        })
    });
    let opened = join_all(open).await;
    let refused: Vec<_> = opened
        .iter()
        .filter_map(|open| open.as_ref().err())
        .collect();
    assert!(!refused.is_empty(), "720 streams were taken");
    for status in &refused {
        assert_eq!(kind(status), (Code::ResourceExhausted, Reason::NodeFull));
    }
    stop.cancelled().await;
    format!("{} of 720 RESOURCE_EXHAUSTED", refused.len())
}

/// Workers and consumers that send what is refused, and read nothing of it.
pub(super) async fn unread(at: Target, stop: CancellationToken) -> String {
    let report = proto::WorkReport {
        interface_id: vec![9; 16].into(),
        stage: "x".repeat(50),
        outcome: Some(proto::work_report::Outcome::Filter(
            proto::WorkFilter::default(),
        )),
        ..Default::default()
    };
    let hello = proto::WorkHello {
        worker_id: vec![1; 16].into(),
        stages: vec!["hostile".to_owned()],
        credits: 100_000,
        ..Default::default()
    };
    let hello = proto::WorkRequest {
        hello: Some(hello),
        ..Default::default()
    };
    let reports = proto::WorkRequest {
        reports: vec![report; 200],
        ..Default::default()
    };
    let answers = proto::DeliverRequest {
        answers: vec![proto::Answer::default(); 2_000],
        ..Default::default()
    };
    let attack = async |path: &str, first: Vec<u8>, again: Vec<u8>| {
        // A window of 0: not a byte may be sent on the stream.
        let mut raw = Raw::open(at.public, &[(4, 0)]).await.unwrap();
        raw.send(&request(1, path)).await.unwrap();
        raw.send(&frame(DATA, 0, 1, &framed(&first))).await.unwrap();
        let data = frame(DATA, 0, 1, &framed(&again));
        let end = raw.flood(|_| data.clone(), 1_000, &stop).await;
        usize::from(end.is_some())
    };
    let (first, again) = (hello.encode_to_vec(), reports.encode_to_vec());
    let workers = (0..8).map(|_| attack(WORK, first.clone(), again.clone()));
    let answers = answers.encode_to_vec();
    let consumers = (0..8).map(|_| attack(DELIVER, Vec::new(), answers.clone()));
    let (workers, consumers) = tokio::join!(join_all(workers), join_all(consumers));
    let ended: usize = workers.into_iter().chain(consumers).sum();
    format!("16 streams stalled, {ended} closed for more than their window")
}

/// Small frames that become large ones.
pub(super) async fn bombs(at: Target, stop: CancellationToken) -> String {
    let empty = vec![proto::IngestMessage::default(); 500_000];
    let bomb = batch(HONEST.to_owned(), empty);
    assert!(bomb.encoded_len() < 1 << 20);
    let attack = async || {
        let (channel, mut times) = (at.channel().await, 0);
        while times == 0 || !stop.is_cancelled() {
            let status = ingest(&channel, bomb.clone()).await;
            assert_eq!(kind(&status), (Code::InvalidArgument, Reason::TooLarge));
            times += 1;
        }
        times
    };
    let times: u32 = join_all((0..2).map(|_| attack())).await.iter().sum();
    format!("{times} INVALID_ARGUMENT")
}

/// A long name of which every one of many messages hears that it is unknown.
pub(super) async fn names(at: Target, stop: CancellationToken) -> String {
    let messages = vec![proto::IngestMessage::default(); 8_000];
    let request = batch("n".repeat(1 << 20), messages);
    let mut client = IngestServiceClient::new(at.channel().await);
    let frames = tokio_stream::iter(vec![request; 75]);
    let mut answers = client.ingest(frames).await.unwrap().into_inner();
    let mut results = 0;
    while let Some(response) = answers.message().await.unwrap() {
        results += response.results.len();
    }
    assert_eq!(results, 600_000);
    stop.cancelled().await;
    format!("{results} short refusals")
}

/// What is past a limit gets the documented code and reason.
pub(super) async fn limits(at: Target, stop: CancellationToken) -> String {
    let mut times = 0;
    while times == 0 || !stop.is_cancelled() {
        // What is on its way when its stream is refused counts as an error of the connection's, and a connection with
        // very many of them is closed.
        let channel = at.channel().await;
        let long = proto::IngestMessage {
            payload: vec![0; 33 << 20].into(),
            ..Default::default()
        };
        let status = ingest(&channel, batch(HONEST.to_owned(), vec![long])).await;
        assert_eq!(
            kind(&status),
            (Code::InvalidArgument, Reason::TooLarge),
            "{status}"
        );
        let admin = proto::GetInterfaceRequest {
            name: "n".repeat(300 << 10),
        };
        let status = AdminServiceClient::new(channel.clone())
            .get_interface(admin)
            .await
            .unwrap_err();
        assert_eq!(
            kind(&status),
            (Code::InvalidArgument, Reason::TooLarge),
            "{status}"
        );
        let mut heads = tonic::Request::new(proto::GetInterfaceRequest::default());
        for n in 0..20 {
            let key: tonic::metadata::MetadataKey<_> = format!("x-{n}").parse().unwrap();
            let value = "v".repeat(1_000).parse().unwrap();
            heads.metadata_mut().insert(key, value);
        }
        let refused = AdminServiceClient::new(channel).get_interface(heads).await;
        assert!(refused.is_err(), "20 KB of metadata were taken");
        times += 1;
    }
    format!("{times} times each INVALID_ARGUMENT")
}

/// Sends frames on an ingest stream of its own and gives the status that it ends with.
async fn ingest(channel: &Channel, frame: proto::IngestRequest) -> Status {
    let frames = tokio_stream::iter([frame]).chain(tokio_stream::pending());
    let opened = IngestServiceClient::new(channel.clone())
        .ingest(frames)
        .await;
    let mut answers: Streaming<_> = match opened {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match tokio::time::timeout(PATIENCE, answers.message())
            .await
            .unwrap()
        {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the stream ended"),
            Err(status) => return status,
        }
    }
}

fn batch(interface: String, messages: Vec<proto::IngestMessage>) -> proto::IngestRequest {
    let batch = proto::IngestBatch {
        interface,
        messages,
        ..Default::default()
    };
    proto::IngestRequest {
        batches: vec![batch],
    }
}

/// Says that it is compressed, which nothing here is.
pub(super) async fn compressed(at: Target, stop: CancellationToken) -> String {
    let mut times = 0;
    while times == 0 || !stop.is_cancelled() {
        let mut raw = Raw::open(at.public, &[]).await.unwrap();
        let mut message = framed(&[0x1f, 0x8b, 8, 0]);
        message[0] = 1;
        raw.send(&request(1, INGEST)).await.unwrap();
        raw.send(&frame(DATA, 0, 1, &message)).await.unwrap();
        // HEADERS with the end of the stream: its status.
        let mut heads = 0;
        while heads < 2 {
            let next = tokio::time::timeout(PATIENCE, raw.next()).await.unwrap();
            let (kind, ..) = next.unwrap();
            heads += u32::from(kind == HEADERS);
        }
        times += 1;
    }
    format!("{times} streams ended")
}

/// Calls of no node, each with another cluster's name.
pub(super) async fn strangers(at: Target, stop: CancellationToken) -> String {
    let endpoint = Endpoint::from_shared(format!("http://{}", at.peer)).unwrap();
    let mut client = PeerServiceClient::new(endpoint.connect().await.unwrap());
    let mut times = 0;
    while times == 0 || !stop.is_cancelled() {
        let mut vote = tonic::Request::new(VoteRequest::default());
        for (key, value) in [
            ("ordo-from", format!("{times}/{}", Uuid::new_v4())),
            ("ordo-to", format!("1/{}", Uuid::new_v4())),
            ("ordo-cluster", Uuid::new_v4().to_string()),
        ] {
            vote.metadata_mut().insert(key, value.parse().unwrap());
        }
        let status = client.vote(vote).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        times += 1;
    }
    format!("{times} FAILED_PRECONDITION")
}

/// Streams that are opened, greeted on, or not, and never used.
pub(super) async fn idlers(at: Target, stop: CancellationToken) -> String {
    let channels = join_all((0..8).map(|_| at.channel())).await;
    let mut held = Vec::new();
    for n in 0..400_u32 {
        let channel = channels[n as usize % channels.len()].clone();
        let (send, frames) = tokio::sync::mpsc::unbounded_channel::<proto::DeliverRequest>();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(frames);
        let subscribe = proto::Subscribe {
            subscription: 1,
            interface: HONEST.to_owned(),
            consumer_id: Bytes::copy_from_slice(&u128::from(n).to_be_bytes()),
            ..Default::default()
        };
        send.send(proto::DeliverRequest {
            subscribe: vec![subscribe],
            ..Default::default()
        })
        .unwrap();
        let opened = DeliveryServiceClient::new(channel).deliver(frames).await;
        held.push((send, opened.unwrap()));
    }
    stop.cancelled().await;
    format!("{} consumers stood in line", held.len())
}
