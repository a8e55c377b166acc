//! Attacks on every port of a real cluster, while honest clients go on: what is refused and how, and that memory,
//! descriptors and logs stay bounded. Prints a table of the honest clients' latencies:
//!
//!     cargo test --release -p ordo-tests --test hostile -- --nocapture
//!
//! `ORDO_TEST_ATTACK` names one attack that is to be run alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use futures_util::future::join_all;
use ordo_client::Cluster;
use ordo_client::proto::admin_service_client::AdminServiceClient;
use ordo_client::proto::delivery_service_client::DeliveryServiceClient;
use ordo_client::proto::ingest_service_client::IngestServiceClient;
use ordo_client::proto::work_service_client::WorkServiceClient;
use ordo_client::proto::{self, Reason};
use ordo_gateway::config::{GatewayConfig, InboundConfig, ListenConfig};
use ordo_gateway::gateway::Gateway;
use ordo_tests::hostile::{
    CONTINUATION, DATA, End, HEADERS, HONEST, Honest, PING, PREFACE, RST_STREAM, Raw, SETTINGS,
    Table, Watch, frame, framed, header, request,
};
use ordo_tests::load::{message, staged, worker};
use ordo_tests::mllp::Sender;
use ordo_tests::{Nodes, PATIENCE, eventually};
use ordo_wire::internal::v1::VoteRequest;
use ordo_wire::internal::v1::peer_service_client::PeerServiceClient;
use ordo_wire::status::Failure;
use prost::Message as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// Small, so that floods go beyond them.
const LIMITS: &str =
    "[limits]\nconnections = 300\nstreams_per_connection = 64\nmemory_bytes = 536870912\n";
/// What a node may use at most, whatever is done to it: its own 150 MiB or so, an eighth of its limit for beginnings of
/// frames (twice, for the growth of buffers), and what the streams and windows of 300 connections hold.
const MEMORY_BYTES_MAX: u64 = 768 << 20;
const DESCRIPTORS_MAX: usize = 300 + 256 + 64 + 1_024;
/// Lines that a node may write about all the attacks together.
const LINES_MAX: usize = 200;
/// How long each attack goes on.
const ATTACK: Duration = Duration::from_millis(1_500);

const INGEST: &str = "/ordo.v1.IngestService/Ingest";
const WORK: &str = "/ordo.v1.WorkService/Work";
const DELIVER: &str = "/ordo.v1.DeliveryService/Deliver";

/// The leader.
#[derive(Clone, Copy)]
struct Target {
    public: SocketAddr,
    peer: SocketAddr,
    http: SocketAddr,
}

impl Target {
    fn ports(self) -> [SocketAddr; 3] {
        [self.public, self.peer, self.http]
    }

    async fn channel(self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.public)).unwrap();
        endpoint.connect().await.unwrap()
    }
}

fn kind(status: &Status) -> (Code, Reason) {
    (status.code(), Failure::from_status(status).reason)
}

/// Connects again and again, says `bytes`, and waits for the end; as often as it goes.
async fn say(address: SocketAddr, bytes: &[u8], stop: &CancellationToken) -> u64 {
    let mut times = 0;
    while !stop.is_cancelled() {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            continue;
        };
        // The node may close it at any point.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        tokio::select! {
            () = stop.cancelled() => {}
            _ = stream.read_to_end(&mut answer) => times += 1,
        }
    }
    times
}

async fn garbage(at: Target, stop: CancellationToken) -> String {
    let noise: Vec<u8> = (0..4_096_u32).map(|n| ((n * 7_919) >> 3) as u8).collect();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let http1 = b"GET / HTTP/1.1\r\nHost: ordo\r\n\r\n".to_vec();
    let bad_frame = [PREFACE, &frame(SETTINGS, 0, 0, &[1, 2, 3])].concat();
    let mut all = Vec::new();
    for port in at.ports() {
        for bytes in [&noise, &tls_hello, &http1, &bad_frame] {
            all.push(say(port, bytes, &stop));
        }
    }
    let times: u64 = join_all(all).await.into_iter().sum();
    assert!(times > 0, "no garbage was answered by closing");
    format!("{times} connections closed")
}

async fn resets(at: Target, stop: CancellationToken) -> String {
    let attack = async || {
        let mut ends = Vec::new();
        while !stop.is_cancelled() {
            let Ok(raw) = Raw::open(at.public, &[]).await else {
                continue;
            };
            let pairs = |n: u32| -> Vec<u8> {
                let streams = (n * 100..(n + 1) * 100).map(|i| 2 * i + 1);
                streams
                    .flat_map(|i| [request(i, INGEST), frame(RST_STREAM, 0, i, &[0, 0, 0, 8])])
                    .flatten()
                    .collect()
            };
            ends.extend(raw.flood(pairs, 100, &stop).await);
        }
        ends
    };
    let ends: Vec<End> = join_all((0..4).map(|_| attack())).await.concat();
    assert!(ends.contains(&End::GoAway(11)), "{ends:?}");
    format!("{} connections: ENHANCE_YOUR_CALM", ends.len())
}

async fn continuations(at: Target, stop: CancellationToken) -> String {
    let attack = async |port| {
        let mut ends = 0;
        while !stop.is_cancelled() {
            let Ok(raw) = Raw::open(port, &[]).await else {
                continue;
            };
            let more = header("x", &"y".repeat(120)).repeat(8);
            let bytes = |n: u32| match n {
                0 => frame(HEADERS, 0, 1, &more),
                _ => frame(CONTINUATION, 0, 1, &more),
            };
            ends += u32::from(raw.flood(bytes, 1_000, &stop).await.is_some());
        }
        ends
    };
    let ends: u32 = join_all([at.public, at.peer].map(attack))
        .await
        .iter()
        .sum();
    assert!(ends > 0, "nothing ended it");
    format!("{ends} connections closed")
}

/// Asks for answers and reads none.
async fn pings(at: Target, stop: CancellationToken) -> String {
    let attack = async |(port, bytes): (SocketAddr, Vec<u8>)| {
        let raw = Raw::open(port, &[]).await.unwrap();
        raw.flood(|_| bytes.repeat(50), 100, &stop).await.is_some()
    };
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let both = [ping, settings];
    let all = [at.public, at.peer]
        .into_iter()
        .flat_map(|port| both.clone().map(|bytes| (port, bytes)));
    let ended = join_all(all.map(attack)).await;
    format!(
        "20,000 a second taken, {} closed",
        ended.iter().filter(|end| **end).count()
    )
}

/// Streams beyond what a connection may have.
async fn streams(at: Target, stop: CancellationToken) -> String {
    let mut refused = 0;
    while !stop.is_cancelled() {
        let mut raw = Raw::open(at.public, &[]).await.unwrap();
        let flood: Vec<u8> = (0..256).flat_map(|i| request(2 * i + 1, WORK)).collect();
        raw.send(&flood).await.unwrap();
        let mut resets = 0;
        while resets < 192 {
            let next = tokio::time::timeout(PATIENCE, raw.next()).await.unwrap();
            match next {
                Ok((RST_STREAM, _, code)) => {
                    assert_eq!(code, [0, 0, 0, 7], "REFUSED_STREAM");
                    resets += 1;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        assert!(resets > 0, "streams beyond the limit were taken");
        refused += resets;
    }
    format!("{refused} REFUSED_STREAM")
}

/// More streams, over many connections, than the node serves.
async fn calls(at: Target, stop: CancellationToken) -> String {
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
async fn unread(at: Target, stop: CancellationToken) -> String {
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

/// The beginnings of long frames, which don't end: some 1,900 MiB of them, until some are refused.
async fn beginnings(at: Target, stop: CancellationToken) -> String {
    let (refused, enough) = (AtomicUsize::new(0), CancellationToken::new());
    let attack = async || {
        let tcp = TcpStream::connect(at.public).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let stream = async || {
            if let Some(code) = half_a_frame(client.clone(), &enough).await {
                assert_eq!(code, Code::ResourceExhausted);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        };
        join_all((0..16).map(|_| stream())).await;
    };
    let end = async {
        stop.cancelled().await;
        eventually("the beginning of a frame to be refused", async || {
            (refused.load(Ordering::Relaxed) > 0).then_some(())
        })
        .await;
        enough.cancel();
    };
    tokio::join!(join_all((0..4).map(|_| attack())), end);
    format!(
        "{} of 64 streams RESOURCE_EXHAUSTED",
        refused.load(Ordering::Relaxed)
    )
}

/// With what the stream ended before `stop`.
async fn half_a_frame(
    client: h2::client::SendRequest<Bytes>,
    stop: &CancellationToken,
) -> Option<Code> {
    let head = http::Request::post(format!("http://ordo{INGEST}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut client = client.ready().await.ok()?;
    let (response, mut body) = client.send_request(head, false).ok()?;
    let mut prefix = framed(&[]);
    prefix[1..].copy_from_slice(&(31_u32 << 20).to_be_bytes());
    body.send_data(prefix.into(), false).ok()?;
    let send = async {
        // All but the end.
        for _ in 0..30 * 16 {
            body.reserve_capacity(64 << 10);
            let mut capacity = 0;
            while capacity < 64 << 10 {
                capacity = std::future::poll_fn(|cx| body.poll_capacity(cx))
                    .await?
                    .ok()?;
            }
            body.send_data(vec![0; 64 << 10].into(), false).ok()?;
        }
        std::future::pending::<Option<()>>().await
    };
    tokio::select! {
        () = stop.cancelled() => return None,
        _ = send => {}
    }
    let mut answer = response.await.ok()?.into_body();
    while answer.data().await.is_some() {}
    let trailers = answer.trailers().await.ok()??;
    Some(Status::from_header_map(&trailers)?.code())
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

/// Small frames that become large ones.
async fn bombs(at: Target, stop: CancellationToken) -> String {
    let empty = vec![proto::IngestMessage::default(); 500_000];
    let bomb = batch(HONEST.to_owned(), empty);
    assert!(bomb.encoded_len() < 1 << 20);
    let attack = async || {
        let (channel, mut times) = (at.channel().await, 0);
        while !stop.is_cancelled() {
            let status = ingest(&channel, bomb.clone()).await;
            assert_eq!(kind(&status), (Code::InvalidArgument, Reason::TooLarge));
            times += 1;
        }
        times
    };
    let times: u32 = join_all((0..2).map(|_| attack())).await.iter().sum();
    assert!(times > 0, "no bomb arrived");
    format!("{times} INVALID_ARGUMENT")
}

/// A long name of which every one of many messages hears that it is unknown.
async fn names(at: Target, stop: CancellationToken) -> String {
    let messages = vec![proto::IngestMessage::default(); 30_000];
    let request = batch("n".repeat(1 << 20), messages);
    let mut client = IngestServiceClient::new(at.channel().await);
    let frames = tokio_stream::iter(vec![request; 20]);
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
async fn limits(at: Target, stop: CancellationToken) -> String {
    let channel = at.channel().await;
    let mut times = 0;
    while !stop.is_cancelled() {
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
        let refused = AdminServiceClient::new(channel.clone())
            .get_interface(heads)
            .await;
        assert!(refused.is_err(), "20 KB of metadata were taken");
        times += 1;
    }
    format!("{times} times each INVALID_ARGUMENT")
}

/// Says that it is compressed, which nothing here is.
async fn compressed(at: Target, stop: CancellationToken) -> String {
    let mut times = 0;
    while !stop.is_cancelled() {
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
async fn strangers(at: Target, stop: CancellationToken) -> String {
    let endpoint = Endpoint::from_shared(format!("http://{}", at.peer)).unwrap();
    let mut client = PeerServiceClient::new(endpoint.connect().await.unwrap());
    let mut times = 0;
    while !stop.is_cancelled() {
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

/// Asks for pages and reads none.
async fn pages(at: Target, stop: CancellationToken) -> String {
    let attack = async || {
        let mut stream = TcpStream::connect(at.http).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nHost: ordo\r\n\r\n".repeat(100);
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { while stream.write_all(&ask).await.is_ok() {} } => {}
        }
    };
    join_all((0..8).map(|_| attack())).await;
    "8 connections stalled".to_owned()
}

/// Streams that are opened, greeted on, or not, and never used.
async fn idlers(at: Target, stop: CancellationToken) -> String {
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

/// Hellos that only begin.
async fn hellos(at: Target, stop: CancellationToken) -> String {
    let channel = at.channel().await;
    let frames = tokio_stream::iter([proto::WorkRequest::default()]);
    let opened = WorkServiceClient::new(channel).work(frames).await;
    let status = match opened {
        Err(status) => status,
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(kind(&status), (Code::InvalidArgument, Reason::InvalidField));
    let mut held = Vec::new();
    while !stop.is_cancelled() && held.len() < 200 {
        let mut stream = TcpStream::connect(at.public).await.unwrap();
        stream.write_all(&PREFACE[..12]).await.unwrap();
        held.push(stream);
    }
    stop.cancelled().await;
    format!("{} half greetings held", held.len())
}

const STALLED: &str = "stalled";

/// A worker that answers every ping, says that it is there, and reads not a byte of what it is given; it goes on while
/// what is returned lives.
async fn stalled_worker(at: Target, cluster: &Cluster) -> impl Sized {
    let mut config = staged(&[STALLED]);
    // Longer than this test: the lease is not what ends it.
    config.stages[0].lease_ms = 600_000;
    cluster
        .admin()
        .create_interface(STALLED, config)
        .await
        .unwrap();
    let tcp = TcpStream::connect(at.public).await.unwrap();
    let handshake = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(tcp)
        .await;
    let (client, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let head = http::Request::post(format!("http://ordo{WORK}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut client = client.ready().await.unwrap();
    let (response, mut body) = client.send_request(head, false).unwrap();
    let hello = proto::WorkHello {
        worker_id: vec![5; 16].into(),
        stages: vec![STALLED.to_owned()],
        credits: 10,
        ..Default::default()
    };
    let hello = proto::WorkRequest {
        hello: Some(hello),
        ..Default::default()
    };
    body.send_data(framed(&hello.encode_to_vec()).into(), false)
        .unwrap();
    let response = response.await.unwrap();
    let producer = cluster.producer().start().unwrap();
    producer.send(STALLED, message(STALLED, 1)).await.unwrap();
    let beats = tokio::spawn(async move {
        for heartbeat in 1.. {
            let beat = proto::WorkRequest {
                heartbeat,
                ..Default::default()
            };
            if body
                .send_data(framed(&beat.encode_to_vec()).into(), false)
                .is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    (client, response, beats)
}

macro_rules! attacks {
    ($($attack:ident),* $(,)?) => {
        [$((stringify!($attack), |at, stop| Box::pin($attack(at, stop)) as Attacking)),*]
    };
}
type Attacking = std::pin::Pin<Box<dyn Future<Output = String>>>;
type Attack = (&'static str, fn(Target, CancellationToken) -> Attacking);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_hostile_clients_do_honest_ones_go_on_and_every_bound_holds() {
    let mut nodes = Nodes::running(3, LIMITS).await.unwrap();
    let cluster = nodes.cluster().unwrap();
    let leader = nodes.leader().await;
    let node = &nodes.nodes[leader];
    let at = Target {
        public: node.public,
        peer: node.peer,
        http: node.http,
    };
    let lines = |nodes: &Nodes| -> usize {
        let lines = |node: &ordo_tests::Node| node.output().lines().count();
        nodes.nodes.iter().map(lines).sum()
    };
    let stalled = stalled_worker(at, &cluster).await;
    let honest = Honest::start(&cluster).await.unwrap();
    eventually("the honest ones to begin", async || {
        (honest.mark().1 > 100).then_some(())
    })
    .await;
    let watch = Watch::start(&nodes);
    let (lines_before, mut table) = (lines(&nodes), Table::new());
    let mark = honest.mark();
    tokio::time::sleep(2 * ATTACK).await;
    table.row("quiet", honest.since(mark), watch.take(), "");

    let attacks: [Attack; 17] = attacks![
        garbage,
        resets,
        continuations,
        pings,
        streams,
        calls,
        unread,
        beginnings,
        bombs,
        names,
        limits,
        compressed,
        strangers,
        pages,
        idlers,
        hellos,
        newcomers,
    ];
    let only = std::env::var("ORDO_TEST_ATTACK").ok();
    for (name, attack) in attacks {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let (mark, stop) = (honest.mark(), CancellationToken::new());
        let after = stop.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(ATTACK).await;
            after.cancel();
        });
        let outcome = attack(at, stop).await;
        timer.await.unwrap();
        // Whatever the attack did, honest messages arrive afterwards, if not during it.
        let arrived = honest.mark().1;
        eventually("an honest message to arrive", async || {
            (honest.mark().1 > arrived).then_some(())
        })
        .await;
        let usage = watch.take();
        table.row(name, honest.since(mark), usage, &outcome);
        assert!(
            usage.memory_bytes < MEMORY_BYTES_MAX,
            "{name}: {} MiB",
            usage.memory_bytes >> 20
        );
        assert!(usage.descriptors < DESCRIPTORS_MAX, "{name}");
    }
    let mark = honest.mark();
    tokio::time::sleep(ATTACK).await;
    table.row("quiet again", honest.since(mark), watch.take(), "");
    let lines = lines(&nodes) - lines_before;
    println!("{lines} lines logged by all nodes");
    assert!(lines < LINES_MAX, "{lines} lines");
    let _worker = worker(&cluster, &[STALLED]).unwrap();
    eventually(
        "what a worker does not read to be given to another",
        async || {
            let interface = cluster.admin().get_interface(STALLED).await.unwrap();
            (interface.watermark == 1).then_some(())
        },
    )
    .await;
    drop(stalled);
    let sent = honest.finish().await.unwrap();
    println!("{sent} honest messages accepted and delivered in order");
    for node in &mut nodes.nodes {
        assert!(node.runs(), "{}", node.output());
    }
    nodes.agree().await;
}

/// All connections that a port takes are taken, by such as say nothing, say it slowly, or greet and leave it at that:
/// a newcomer gets its turn all the same.
async fn newcomers(at: Target, _: CancellationToken) -> String {
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut held = Vec::new();
    let head = b"GET /healthz HTTP/1.1\r\nHost: ".to_vec();
    for (port, count, greeting) in [
        (at.public, 400, &greeting),
        (at.peer, 350, &greeting),
        (at.http, 100, &head),
    ] {
        for n in 0..count {
            let mut stream = TcpStream::connect(port).await.unwrap();
            let said = match n % 4 {
                0 => 0,
                1 => 5,
                2 => greeting.len() / 2,
                _ => greeting.len(),
            };
            let said = &greeting[..said];
            stream.write_all(said).await.unwrap();
            held.push(stream);
        }
    }
    let slowly = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for (n, stream) in held.iter_mut().enumerate() {
                if n % 4 == 1 {
                    let _ = stream.write_all(b"x").await;
                }
            }
        }
    });
    let begun = tokio::time::Instant::now();
    let call = async {
        // One of the many that are tried while there is no room.
        eventually("a newcomer's call", async || {
            let endpoint = Endpoint::from_shared(format!("http://{}", at.public)).unwrap();
            let channel = endpoint.timeout(PATIENCE).connect().await.ok()?;
            let ask = proto::GetClusterStatusRequest::default();
            let status = AdminServiceClient::new(channel)
                .get_cluster_status(ask)
                .await;
            status.ok()
        })
        .await;
    };
    let page = async {
        let mut stream = TcpStream::connect(at.http).await.unwrap();
        let ask = b"GET /healthz HTTP/1.1\r\nHost: ordo\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let peer = async {
        let mut raw = Raw::open(at.peer, &[]).await.unwrap();
        assert_eq!(raw.next().await.unwrap().0, SETTINGS);
    };
    let all = async { tokio::join!(call, page, peer) };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("newcomers get their turn");
    slowly.abort();
    format!("in after {:.0} s", begun.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_senders_do_not_keep_others_from_a_gateway() {
    let nodes = Nodes::running(1, "").await.unwrap();
    let cluster = nodes.cluster().unwrap();
    cluster
        .admin()
        .create_interface("RAD", staged(&[]))
        .await
        .unwrap();
    let listen = ListenConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        interface: "RAD".to_owned(),
    };
    let config = GatewayConfig {
        listen: vec![listen],
        inbound: InboundConfig {
            connections: 20,
            ..InboundConfig::default()
        },
        ..GatewayConfig::default()
    };
    let gateway = Gateway::start(config, &cluster).await.unwrap();
    let address = gateway.listening()[0];
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let message: Bytes = "MSH|^~\\&|HIS|WARD|LIS|LAB|20240101||ORM^O01|1|P|2.5\rPID|1\r".into();
    let (code, _) = eventually("a sender's turn", async || {
        let mut sender = Sender::connect(address).await.ok()?;
        sender.send(&message).await.ok()
    })
    .await;
    assert_eq!(code, "AA");
    // What is no MLLP is closed, whatever it is.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], PREFACE, &[0; 4_096]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Closed with bytes of ours unread, it is a reset.
        let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
        assert!(answer.is_empty());
    }
    let mut sender = Sender::connect(address).await.unwrap();
    assert_eq!(sender.send(&message).await.unwrap().0, "AA", "a duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_file_descriptors_for_the_disk() {
    let nodes = Nodes::configure(1, "").unwrap();
    let node = &nodes.nodes[0];
    let log = std::fs::File::create(&node.log).unwrap();
    let mut process = tokio::process::Command::from(Command::new("sh"))
        .args(["-c", "ulimit -n 400 && exec \"$0\" serve --config \"$1\""])
        .arg(ordo_tests::ordo())
        .arg(&node.config)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    nodes.wait_up(0).await;
    let cluster = nodes.cluster().unwrap();
    let address = node.public.to_string();
    cluster.admin().init_cluster(&address).await.unwrap();
    cluster
        .admin()
        .create_interface("lab", staged(&[]))
        .await
        .unwrap();
    let producer = cluster.producer().start().unwrap();
    producer.send("lab", message("lab", 1)).await.unwrap();
    let mut flood = Vec::new();
    for port in [node.public, node.peer, node.http] {
        for _ in 0..250 {
            flood.push(TcpStream::connect(port).await.unwrap());
        }
    }
    for n in 2..=200 {
        let accepted = producer.send("lab", message("lab", n)).await.unwrap();
        assert_eq!(accepted.sequence, n);
    }
    assert!(process.try_wait().unwrap().is_none(), "{}", node.output());
    let output = node.output();
    assert!(output.contains("ulimit -n"), "{output}");
    assert!(output.lines().count() < 50, "{output}");
    process.kill().await.unwrap();
}
